//! The 8254 programmable interval timer and the speaker port 61h beside it.
//!
//! Source: Intel 8254 data sheet (order number 231164); port 61h from the ICH9 data sheet, section 13.7.
//! Ports: counters 40h-42h, control word 43h, NMI status and control 61h. Counter 0 drives IRQ 0, counter 2 the
//! speaker; counters 0 and 1 have their gates tied high, counter 2's gate is port 61h bit 0.

use crate::{NS, scale, scale_up};
use parking_lot::Mutex;
use rhea_device::{
    IrqLine, LoadError, Reset, ResetKind, SavedRecord, StateUnit, Timer, VirtualClock, load_record,
    save_record,
};
use rhea_memory::{AccessSizes, MmioHandler};
use std::sync::{Arc, Weak};

/// Input clock of the counters in Hz.
pub const FREQUENCY: u64 = 1_193_182;

/// How the two bytes of a count are accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Low,
    High,
    /// Low byte, then high byte.
    Word,
}

#[derive(Clone, Debug)]
struct Counter {
    mode: u8,
    access: Access,
    bcd: bool,
    /// Count register (0 stands for 65536, or 10000 in BCD).
    reload: u32,
    /// Virtual time at which counting from `reload` began; `None` until a count is written (or, in modes 1
    /// and 5, until the gate rises).
    start: Option<u64>,
    gate: bool,
    /// Low byte of a two-byte write that waits for its high byte.
    write_low: Option<u8>,
    /// The next read gives the high byte.
    read_high: bool,
    /// Latched count, and how many of its bytes are unread.
    latched: Option<(u16, u8)>,
    latched_status: Option<u8>,
    /// Ticks counted when the gate fell (modes 0 and 4 pause).
    paused_at: Option<u64>,
}

impl Counter {
    fn new(gate: bool) -> Self {
        Self {
            mode: 3,
            access: Access::Word,
            bcd: false,
            reload: 0x10000,
            start: None,
            gate,
            write_low: None,
            read_high: false,
            latched: None,
            latched_status: None,
            paused_at: None,
        }
    }

    /// Ticks since counting began.
    fn elapsed(&self, now: u64) -> Option<u64> {
        let start = self.start?;
        Some(self.paused_at.unwrap_or_else(|| scale(now.saturating_sub(start), NS, FREQUENCY)))
    }

    fn modulus(&self) -> u64 {
        if self.bcd { 10_000 } else { 0x10000 }
    }

    /// Counting element as the guest reads it.
    fn count(&self, now: u64) -> u16 {
        let reload = u64::from(self.reload);
        let Some(elapsed) = self.elapsed(now) else { return self.encode(reload) };
        let value = match self.mode {
            2 => reload - elapsed % reload,
            // Mode 3 counts by two, twice through for one period.
            3 => {
                let twice = (elapsed % reload * 2) % reload;
                (reload - twice) & !1
            }
            // The others count on past zero.
            _ => {
                let modulus = self.modulus();
                (reload + modulus - elapsed % modulus) % modulus
            }
        };
        self.encode(value)
    }

    fn encode(&self, value: u64) -> u16 {
        if !self.bcd {
            return value as u16;
        }
        let v = value % 10_000;
        ((v / 1000) << 12 | (v / 100 % 10) << 8 | (v / 10 % 10) << 4 | (v % 10)) as u16
    }

    fn decode(&self, raw: u16) -> u32 {
        let value = if self.bcd {
            let digit = |shift: u16| u32::from(raw >> shift & 0xf).min(9);
            digit(12) * 1000 + digit(8) * 100 + digit(4) * 10 + digit(0)
        } else {
            u32::from(raw)
        };
        if value == 0 { self.modulus() as u32 } else { value }
    }

    /// Level of the output pin.
    fn output(&self, now: u64) -> bool {
        let reload = u64::from(self.reload);
        let Some(elapsed) = self.elapsed(now) else { return self.mode != 0 };
        match self.mode {
            0 | 1 => elapsed >= reload,
            // Low for the last tick of each period.
            2 => elapsed % reload != reload - 1,
            3 => elapsed % reload < reload.div_ceil(2),
            // A strobe of one tick at zero.
            _ => elapsed != reload,
        }
    }

    /// Virtual time of the next change of the output after `now`.
    fn next_change(&self, now: u64) -> Option<u64> {
        let start = self.start.filter(|_| self.paused_at.is_none())?;
        let (elapsed, reload) = (self.elapsed(now)?, u64::from(self.reload));
        let period = elapsed - elapsed % reload;
        let ticks = match self.mode {
            0 | 1 => Some(reload).filter(|at| *at > elapsed)?,
            2 if elapsed % reload == reload - 1 => period + reload,
            2 => period + reload - 1,
            3 if elapsed % reload < reload.div_ceil(2) => period + reload.div_ceil(2),
            3 => period + reload,
            _ => [reload, reload + 1].into_iter().find(|at| *at > elapsed)?,
        };
        Some(start.saturating_add(scale_up(ticks, FREQUENCY, NS)))
    }

    fn set_mode(&mut self, control: u8) {
        self.access = match control >> 4 & 3 {
            1 => Access::Low,
            2 => Access::High,
            _ => Access::Word,
        };
        self.mode = match control >> 1 & 7 {
            6 => 2,
            7 => 3,
            mode => mode,
        };
        self.bcd = control & 1 != 0;
        self.reload = self.modulus() as u32;
        self.start = None;
        self.paused_at = None;
        self.write_low = None;
        self.read_high = false;
        self.latched = None;
        self.latched_status = None;
    }

    fn latch_count(&mut self, now: u64) {
        if self.latched.is_none() {
            let bytes = if self.access == Access::Word { 2 } else { 1 };
            self.latched = Some((self.count(now), bytes));
        }
    }

    fn latch_status(&mut self, now: u64) {
        let access = match self.access {
            Access::Low => 1,
            Access::High => 2,
            Access::Word => 3,
        };
        let null_count = self.start.is_none();
        let status = u8::from(self.output(now)) << 7
            | u8::from(null_count) << 6
            | access << 4
            | self.mode << 1
            | u8::from(self.bcd);
        self.latched_status.get_or_insert(status);
    }

    fn write(&mut self, value: u8, now: u64) {
        let raw = match (self.access, self.write_low) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::Word, None) => {
                self.write_low = Some(value);
                // Mode 0 stops counting between the two bytes.
                if self.mode == 0 {
                    self.start = None;
                }
                return;
            }
            (Access::Word, Some(low)) => u16::from_le_bytes([low, value]),
        };
        self.write_low = None;
        // A count of one is illegal in modes 2 and 3; it is taken as two.
        let least = if matches!(self.mode, 2 | 3) { 2 } else { 1 };
        self.reload = self.decode(raw).max(least);
        match self.mode {
            1 | 5 => {}
            _ => {
                self.start = Some(now);
                self.paused_at = (!self.gate).then_some(0);
            }
        }
    }

    fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let latched = self.latched;
        let value = latched.map_or_else(|| self.count(now), |(value, _)| value);
        if let Some((value, left)) = latched {
            self.latched = (left > 1).then_some((value, 1));
        }
        let [low, high] = value.to_le_bytes();
        match self.access {
            Access::Low => low,
            Access::High => high,
            Access::Word => {
                self.read_high = !self.read_high;
                if self.read_high { low } else { high }
            }
        }
    }

    fn set_gate(&mut self, gate: bool, now: u64) {
        let (rising, falling) = (gate && !self.gate, !gate && self.gate);
        self.gate = gate;
        match self.mode {
            1 | 5 if rising => self.start = Some(now),
            2 | 3 if rising => {
                self.start = self.start.map(|_| now);
                self.paused_at = None;
            }
            2 | 3 if falling => self.paused_at = self.start.map(|_| 0),
            0 | 4 if falling => self.paused_at = self.elapsed(now),
            0 | 4 if rising => {
                if let Some(ticks) = self.paused_at.take() {
                    self.start = Some(now.saturating_sub(scale(ticks, FREQUENCY, NS)));
                }
            }
            _ => {}
        }
    }
}

#[derive(Clone, Debug)]
struct State {
    counters: [Counter; 3],
    /// Port 61h bits software can write (3:0).
    control: u8,
}

impl State {
    fn new() -> Self {
        Self { counters: [Counter::new(true), Counter::new(true), Counter::new(false)], control: 0 }
    }
}

/// The interval timer.
pub struct Pit {
    clock: Arc<VirtualClock>,
    timer: Timer,
    irq0: IrqLine,
    state: Mutex<State>,
}

impl Pit {
    /// A timer whose counter 0 drives `irq0`.
    pub fn new(clock: &Arc<VirtualClock>, irq0: IrqLine) -> Arc<Self> {
        Arc::new_cyclic(|weak: &Weak<Self>| {
            let weak = weak.clone();
            let timer = clock.timer("PIT", move || {
                if let Some(pit) = weak.upgrade() {
                    pit.sync(&pit.state.lock());
                }
            });
            Self { clock: clock.clone(), timer, irq0, state: Mutex::new(State::new()) }
        })
    }

    /// Counters and control word, four ports.
    pub fn ports(self: &Arc<Self>) -> Arc<dyn MmioHandler> {
        Arc::new(CounterPorts(self.clone()))
    }

    /// Port 61h.
    pub fn control_port(self: &Arc<Self>) -> Arc<dyn MmioHandler> {
        Arc::new(ControlPort(self.clone()))
    }

    /// Drives IRQ 0 from counter 0's output and arms the timer for its next change.
    fn sync(&self, state: &State) {
        let now = self.clock.now();
        let counter = &state.counters[0];
        let level = counter.output(now);
        if level
            && counter.mode == 2
            && counter.elapsed(now).is_some_and(|ticks| ticks >= u64::from(counter.reload))
        {
            // The low strobe of mode 2 lasts one tick (838 ns): a host timer may wake past it, so it is
            // played back here, on the first look after it.
            self.irq0.lower();
        }
        self.irq0.set(level);
        let next = counter.next_change(now).map(|at| match counter.mode {
            // One wake-up a period is enough: see above.
            2 if level => at.saturating_add(scale_up(1, FREQUENCY, NS)),
            _ => at,
        });
        match next {
            Some(at) => self.timer.arm(at),
            None => self.timer.cancel(),
        }
    }
}

struct CounterPorts(Arc<Pit>);

impl MmioHandler for CounterPorts {
    fn read(&self, offset: u64, _: usize) -> u64 {
        let now = self.0.clock.now();
        match self.0.state.lock().counters.get_mut(offset as usize) {
            Some(counter) => u64::from(counter.read(now)),
            None => 0xff, // the control word cannot be read
        }
    }

    fn write(&self, offset: u64, _: usize, value: u64) {
        let (pit, value) = (&self.0, value as u8);
        let now = pit.clock.now();
        let mut state = pit.state.lock();
        if let Some(counter) = state.counters.get_mut(offset as usize) {
            counter.write(value, now);
        } else if value >> 6 == 3 {
            // Read-back command.
            for (i, counter) in state.counters.iter_mut().enumerate() {
                if value & 2 << i == 0 {
                    continue;
                }
                if value & 0x20 == 0 {
                    counter.latch_count(now);
                }
                if value & 0x10 == 0 {
                    counter.latch_status(now);
                }
            }
            return;
        } else {
            let counter = &mut state.counters[usize::from(value >> 6)];
            if value & 0x30 == 0 {
                counter.latch_count(now);
                return;
            }
            counter.set_mode(value);
        }
        if offset == 0 || offset == 3 {
            pit.sync(&state);
        }
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::BYTE
    }
}

struct ControlPort(Arc<Pit>);

impl MmioHandler for ControlPort {
    fn read(&self, _: u64, _: usize) -> u64 {
        let now = self.0.clock.now();
        let state = self.0.state.lock();
        // Bit 4 toggles with each refresh request, every 15 microseconds.
        let refresh = (now / 15_085) & 1;
        u64::from(state.control) | refresh << 4 | u64::from(state.counters[2].output(now)) << 5
    }

    fn write(&self, _: u64, _: usize, value: u64) {
        let now = self.0.clock.now();
        let mut state = self.0.state.lock();
        state.control = value as u8 & 0x0f;
        state.counters[2].set_gate(value & 1 != 0, now);
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::BYTE
    }
}

impl Reset for Pit {
    fn reset(&self, _: ResetKind) {
        let mut state = self.state.lock();
        *state = State::new();
        self.sync(&state);
    }
}

rhea_device::saved_record! { "i8254-counter", 1,
    /// One counter. Times are ages in nanoseconds at the moment of saving.
    pub struct CounterSavedV1 {
        /// Mode.
        mode: u8,
        /// Bytes accessed: 1 low, 2 high, 3 both.
        access: u8,
        /// Count register.
        reload: u32,
        /// BCD, gate, next read is the high byte.
        flags: [bool; 3],
        /// Age of the count.
        age: Option<u64>,
        /// Half-written count.
        write_low: Option<u8>,
        /// Latched count.
        latched: Option<u16>,
        /// Its unread bytes.
        latched_left: u8,
        /// Latched status.
        latched_status: Option<u8>,
        /// Ticks counted when the gate fell.
        paused_at: Option<u64>,
    }
}

rhea_device::saved_record! { "i8254", 1,
    /// Saved state of the interval timer.
    pub struct PitSavedV1 {
        /// The counters.
        counters: [CounterSavedV1; 3],
        /// Port 61h.
        control: u8,
    }
}

impl StateUnit for Pit {
    fn save(&self) -> SavedRecord {
        let state = self.state.lock();
        let now = self.clock.now();
        let counters = state.counters.clone().map(|c| CounterSavedV1 {
            mode: c.mode,
            access: match c.access {
                Access::Low => 1,
                Access::High => 2,
                Access::Word => 3,
            },
            reload: c.reload,
            flags: [c.bcd, c.gate, c.read_high],
            age: c.start.map(|start| now.saturating_sub(start)),
            write_low: c.write_low,
            latched: c.latched.map(|(value, _)| value),
            latched_left: c.latched.map_or(0, |(_, left)| left),
            latched_status: c.latched_status,
            paused_at: c.paused_at,
        });
        save_record(&PitSavedV1 { counters, control: state.control })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let saved: PitSavedV1 = load_record(record)?;
        let now = self.clock.now();
        let mut state = State::new();
        state.control = saved.control & 0x0f;
        for (counter, saved) in state.counters.iter_mut().zip(saved.counters) {
            if saved.mode > 5 || !(1..=0x10000).contains(&saved.reload) {
                return Err(LoadError::BadValue { device: "i8254", field: "mode or reload" });
            }
            let least = if matches!(saved.mode, 2 | 3) { 2 } else { 1 };
            *counter = Counter {
                mode: saved.mode,
                access: match saved.access {
                    1 => Access::Low,
                    2 => Access::High,
                    _ => Access::Word,
                },
                bcd: saved.flags[0],
                reload: saved.reload.max(least),
                start: saved.age.map(|age| now.saturating_sub(age)),
                gate: saved.flags[1],
                write_low: saved.write_low,
                read_high: saved.flags[2],
                latched: saved.latched.map(|value| (value, saved.latched_left)),
                latched_status: saved.latched_status,
                paused_at: saved.paused_at,
            };
        }
        let mut current = self.state.lock();
        *current = state;
        self.sync(&current);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{EdgeCount, Rig};

    fn program(pit: &Arc<Pit>, control: u8, counter: u64, count: u16) {
        let ports = pit.ports();
        ports.write(3, 1, u64::from(control));
        ports.write(counter, 1, u64::from(count & 0xff));
        ports.write(counter, 1, u64::from(count >> 8));
    }

    #[test]
    fn rate_generator_and_square_wave_interrupt_once_a_period() {
        for control in [0x34, 0x36] {
            let rig = Rig::new();
            let edges = EdgeCount::new();
            let pit = Pit::new(&rig.clock, edges.line());
            program(&pit, control, 0, 11932); // 100 Hz
            let before = edges.count();
            rig.run_for(1_000_000_000);
            assert!(
                (99..=100).contains(&(edges.count() - before)),
                "{control:#x}: {}",
                edges.count() - before
            );
        }
    }

    #[test]
    fn counting_down_in_mode_0_ends_with_a_high_output() {
        let rig = Rig::new();
        let pit = Pit::new(&rig.clock, IrqLine::unconnected());
        let (ports, port61) = (pit.ports(), pit.control_port());
        port61.write(0, 1, 1);
        program(&pit, 0xb0, 2, 1193); // 1 ms
        rig.run_for(500_000);
        assert_eq!(port61.read(0, 1) & 0x20, 0);
        ports.write(3, 1, 0x80);
        let latched = ports.read(2, 1) | ports.read(2, 1) << 8;
        assert!((595..=598).contains(&latched), "{latched}");
        // Gate low: the count stands still.
        port61.write(0, 1, 0);
        rig.run_for(10_000_000);
        assert_eq!(port61.read(0, 1) & 0x20, 0);
        port61.write(0, 1, 1);
        rig.run_for(600_000);
        assert_eq!(port61.read(0, 1) & 0x21, 0x21);
    }

    #[test]
    fn read_back_gives_status_then_count() {
        let rig = Rig::new();
        let pit = Pit::new(&rig.clock, IrqLine::unconnected());
        program(&pit, 0x34, 0, 0x1000);
        let ports = pit.ports();
        ports.write(3, 1, 0xc2);
        assert_eq!(ports.read(0, 1), 0xb4);
        assert_eq!(ports.read(0, 1) | ports.read(0, 1) << 8, 0x1000);
    }

    #[test]
    fn bcd_counts_in_decimal() {
        let rig = Rig::new();
        let pit = Pit::new(&rig.clock, IrqLine::unconnected());
        program(&pit, 0x31, 0, 0x1234);
        rig.run_for(scale_up(4, FREQUENCY, NS));
        pit.ports().write(3, 1, 0);
        assert_eq!(pit.ports().read(0, 1), 0x30);
        assert_eq!(pit.ports().read(0, 1), 0x12);
    }

    #[test]
    fn any_bytes_leave_it_standing_and_savable() {
        let rig = Rig::new();
        let pit = Pit::new(&rig.clock, IrqLine::unconnected());
        let mut seed = 1u32;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (offset, value) = (u64::from(seed >> 28 & 3), u64::from(seed >> 12 & 0xff));
            match seed >> 30 {
                0 => _ = pit.ports().read(offset, 1),
                1 => pit.control_port().write(0, 1, value),
                _ => pit.ports().write(offset, 1, value),
            }
            rig.run_for(u64::from(seed & 0xfff));
        }
        let record = pit.save();
        let other = Pit::new(&rig.clock, IrqLine::unconnected());
        other.load(&record).unwrap();
        assert_eq!(other.save(), record);
    }
}

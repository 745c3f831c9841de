//! The high precision event timer: three comparators, legacy replacement, FSB (MSI) delivery.
//!
//! Source: IA-PC HPET specification 1.0a, section 2.3; routing capabilities from the ICH9 data sheet, section 20.1.

use parking_lot::Mutex;
use rhea_device::{
    IrqLine, IrqSink, LoadError, MsiSink, Reset, ResetKind, SavedRecord, StateUnit, Timer, VirtualClock,
    load_record, save_record,
};
use rhea_memory::{AccessSizes, MmioHandler};
use std::sync::{Arc, Weak};

/// Comparators.
const TIMERS: usize = 3;
/// Nanoseconds a tick of the main counter takes: 100 MHz.
const TICK_NS: u64 = 10;
/// Shortest period a periodic timer is run at, in ticks, so that a guest cannot keep the host busy.
const SHORTEST_PERIOD: u64 = 20_000 / TICK_NS;

mod spec {
    pub const CAPABILITIES: u64 = 0x000;
    pub const CONFIGURATION: u64 = 0x010;
    pub const INTERRUPT_STATUS: u64 = 0x020;
    pub const COUNTER: u64 = 0x0f0;
    pub const TIMER_FIRST: u64 = 0x100;

    /// Revision 1, three timers, 64-bit counter, legacy replacement, vendor 8086h; period in femtoseconds.
    pub const CAPABILITIES_VALUE: u64 =
        (super::TICK_NS * 1_000_000) << 32 | 0x8086 << 16 | 1 << 15 | 1 << 13 | 2 << 8 | 1;

    pub const ENABLE: u64 = 1 << 0;
    pub const LEGACY: u64 = 1 << 1;

    pub const T_LEVEL: u64 = 1 << 1;
    pub const T_ENABLE: u64 = 1 << 2;
    pub const T_PERIODIC: u64 = 1 << 3;
    pub const T_PERIODIC_CAPABLE: u64 = 1 << 4;
    pub const T_64_CAPABLE: u64 = 1 << 5;
    pub const T_VALUE_SET: u64 = 1 << 6;
    pub const T_32BIT: u64 = 1 << 8;
    pub const T_ROUTE_SHIFT: u64 = 9;
    pub const T_FSB: u64 = 1 << 14;
    pub const T_FSB_CAPABLE: u64 = 1 << 15;
    pub const T_WRITABLE: u64 = 0x7f4e;
    /// I/O APIC inputs each timer can be routed to: 20 to 23, and 11 for the last.
    pub const T_ROUTES: [u64; super::TIMERS] = [0x00f0_0000, 0x00f0_0000, 0x00f0_0800];
}

/// Size of the register block in bytes.
pub const MMIO_SIZE: u64 = 0x400;
/// Capabilities and ID, low half: event timer block ID of the ACPI HPET table.
pub const BLOCK_ID: u32 = spec::CAPABILITIES_VALUE as u32;

/// Where the timers' interrupts go.
pub struct HpetLines {
    /// I/O APIC inputs by number, 24 of them.
    pub gsi: Vec<IrqLine>,
    /// In legacy replacement mode: timer 0 (IRQ 0) and timer 1 (IRQ 8).
    pub legacy: [IrqLine; 2],
    /// Takes FSB interrupts.
    pub msi: Arc<dyn MsiSink>,
    /// Told when legacy replacement is switched on or off.
    pub route: Arc<LegacyRoute>,
}

#[derive(Clone, Debug)]
struct Comparator {
    config: u64,
    value: u64,
    /// Added at each match in periodic mode.
    period: u64,
    fsb: u64,
}

#[derive(Clone, Debug)]
struct State {
    config: u64,
    status: u64,
    /// Main counter while halted; while it runs, its value at virtual time zero (wrapping).
    base: u64,
    timers: [Comparator; TIMERS],
}

impl State {
    fn new() -> Self {
        let timer = |i: usize| Comparator {
            config: spec::T_ROUTES[i] << 32
                | spec::T_PERIODIC_CAPABLE
                | spec::T_64_CAPABLE
                | spec::T_FSB_CAPABLE,
            value: u64::MAX,
            period: 0,
            fsb: 0,
        };
        Self { config: 0, status: 0, base: 0, timers: [timer(0), timer(1), timer(2)] }
    }

    fn running(&self) -> bool {
        self.config & spec::ENABLE != 0
    }

    fn counter(&self, now: u64) -> u64 {
        if self.running() { self.base.wrapping_add(now / TICK_NS) } else { self.base }
    }
}

impl Comparator {
    fn mask(&self) -> u64 {
        if self.config & spec::T_32BIT != 0 { 0xffff_ffff } else { u64::MAX }
    }

    fn periodic(&self) -> bool {
        self.config & spec::T_PERIODIC != 0
    }

    /// Ticks until the counter, now at `counter`, equals the comparator (at least one).
    fn distance(&self, counter: u64) -> u64 {
        match self.value.wrapping_sub(counter) & self.mask() {
            0 => self.mask(),
            ticks => ticks,
        }
    }

    /// Moves a periodic comparator past `counter`.
    fn advance(&mut self, counter: u64) {
        let period = (self.period & self.mask()).max(SHORTEST_PERIOD);
        let behind = counter.wrapping_sub(self.value) & self.mask();
        let steps = behind / period + 1;
        self.value = self.value.wrapping_add(steps.wrapping_mul(period)) & self.mask();
    }
}

/// The event timer block.
pub struct Hpet {
    clock: Arc<VirtualClock>,
    host_timers: [Timer; TIMERS],
    lines: HpetLines,
    state: Mutex<State>,
}

impl Hpet {
    /// A block with all timers off.
    pub fn new(clock: &Arc<VirtualClock>, lines: HpetLines) -> Arc<Self> {
        Arc::new_cyclic(|weak: &Weak<Self>| {
            let timer = |index: usize| {
                let weak = weak.clone();
                clock.timer("HPET", move || {
                    if let Some(hpet) = weak.upgrade() {
                        hpet.fired(index);
                    }
                })
            };
            Self {
                clock: clock.clone(),
                host_timers: [timer(0), timer(1), timer(2)],
                lines,
                state: Mutex::new(State::new()),
            }
        })
    }

    fn line(&self, state: &State, index: usize) -> Option<&IrqLine> {
        if state.config & spec::LEGACY != 0 && index < 2 {
            return Some(&self.lines.legacy[index]);
        }
        let route = state.timers[index].config >> spec::T_ROUTE_SHIFT & 0x1f;
        let allowed = spec::T_ROUTES[index] >> route & 1 != 0;
        self.lines.gsi.get(route as usize).filter(|_| allowed)
    }

    /// Arms the host timer of comparator `index`, or stops it.
    fn arm(&self, state: &State, index: usize, now: u64) {
        let timer = &state.timers[index];
        if !state.running() || timer.config & spec::T_ENABLE == 0 {
            self.host_timers[index].cancel();
            return;
        }
        let ticks = timer.distance(state.counter(now));
        let start = now - now % TICK_NS;
        self.host_timers[index].arm(start.saturating_add(ticks.saturating_mul(TICK_NS)));
    }

    fn arm_all(&self, state: &State) {
        let now = self.clock.now();
        (0..TIMERS).for_each(|index| self.arm(state, index, now));
    }

    fn fired(&self, index: usize) {
        let mut state = self.state.lock();
        let now = self.clock.now();
        let counter = state.counter(now);
        let timer = &mut state.timers[index];
        // Reprogrammed since the host timer fired: not this match.
        if timer.config & spec::T_ENABLE == 0 || self.host_timers[index].deadline().is_some() {
            return;
        }
        if timer.periodic() {
            timer.advance(counter);
        }
        let config = timer.config;
        let fsb = timer.fsb;
        if config & spec::T_FSB != 0 {
            self.lines.msi.send(fsb >> 32, fsb as u32);
        } else if config & spec::T_LEVEL != 0 {
            state.status |= 1 << index;
            if let Some(line) = self.line(&state, index) {
                line.raise();
            }
        } else if let Some(line) = self.line(&state, index) {
            line.pulse();
        }
        if state.running() {
            self.arm(&state, index, now);
        }
    }

    fn read_register(&self, state: &State, offset: u64) -> u64 {
        match offset {
            spec::CAPABILITIES => spec::CAPABILITIES_VALUE,
            spec::CONFIGURATION => state.config,
            spec::INTERRUPT_STATUS => state.status,
            spec::COUNTER => state.counter(self.clock.now()),
            _ => {
                let Some((timer, register)) = timer_register(offset) else { return 0 };
                let timer = &state.timers[timer];
                match register {
                    0x00 => timer.config,
                    0x08 => timer.value & timer.mask(),
                    0x10 => timer.fsb,
                    _ => 0,
                }
            }
        }
    }

    /// Writes the bits of `mask` in the 64-bit register at `offset`.
    fn write_register(&self, state: &mut State, offset: u64, value: u64, mask: u64) {
        match offset {
            spec::CONFIGURATION => {
                let new = (state.config & !mask | value & mask) & (spec::ENABLE | spec::LEGACY);
                self.configure(state, new);
            }
            spec::INTERRUPT_STATUS => {
                for index in 0..TIMERS {
                    if value & mask & state.status & 1 << index != 0 {
                        state.status &= !(1 << index);
                        if let Some(line) = self.line(state, index) {
                            line.lower();
                        }
                    }
                }
            }
            spec::COUNTER => {
                let now = self.clock.now();
                let counter = state.counter(now) & !mask | value & mask;
                state.base = if state.running() { counter.wrapping_sub(now / TICK_NS) } else { counter };
                self.arm_all(state);
            }
            _ => {
                if let Some((timer, register)) = timer_register(offset) {
                    self.write_timer(state, timer, register, value, mask);
                }
            }
        }
    }

    fn configure(&self, state: &mut State, new: u64) {
        let now = self.clock.now();
        let changed = state.config ^ new;
        if changed & spec::LEGACY != 0 {
            for index in 0..2 {
                if let Some(line) = self.line(state, index) {
                    line.lower();
                }
            }
            self.lines.route.set_legacy(new & spec::LEGACY != 0);
        }
        if changed & spec::ENABLE != 0 {
            let counter = state.counter(now);
            let runs = new & spec::ENABLE != 0;
            state.base = if runs { counter.wrapping_sub(now / TICK_NS) } else { counter };
        }
        state.config = new;
        self.arm_all(state);
    }

    fn write_timer(&self, state: &mut State, index: usize, register: u64, value: u64, mask: u64) {
        let timer = &mut state.timers[index];
        match register {
            0x00 => {
                let mask = mask & spec::T_WRITABLE;
                let old = timer.config;
                let new = old & !mask | value & mask;
                // A level left asserted by the old routing or mode is taken back first.
                if (old ^ new) & (0x1f << spec::T_ROUTE_SHIFT | spec::T_LEVEL | spec::T_ENABLE | spec::T_FSB)
                    != 0
                {
                    state.status &= !(1 << index);
                    if let Some(line) = self.line(state, index) {
                        line.lower();
                    }
                }
                let timer = &mut state.timers[index];
                timer.config = new;
                timer.value &= timer.mask();
            }
            0x08 => {
                // In periodic mode a write sets the period; with VALUE_SET it sets the comparator as well.
                if !timer.periodic() || timer.config & spec::T_VALUE_SET != 0 {
                    timer.value = (timer.value & !mask | value & mask) & timer.mask();
                }
                if timer.periodic() {
                    timer.period = timer.period & !mask | value & mask;
                }
                // Two 32-bit writes make one 64-bit value: the bit clears with the one that completes it.
                if mask >> 63 != 0 || timer.config & spec::T_32BIT != 0 {
                    timer.config &= !spec::T_VALUE_SET;
                }
            }
            0x10 => timer.fsb = timer.fsb & !mask | value & mask,
            _ => return,
        }
        self.arm(state, index, self.clock.now());
    }
}

/// Timer number and register within it.
fn timer_register(offset: u64) -> Option<(usize, u64)> {
    let offset = offset.checked_sub(spec::TIMER_FIRST)?;
    let timer = (offset / 0x20) as usize;
    (timer < TIMERS).then_some((timer, offset % 0x20))
}

impl MmioHandler for Hpet {
    fn read(&self, offset: u64, size: usize) -> u64 {
        let value = self.read_register(&self.state.lock(), offset & !7);
        if size == 8 { value } else { value >> (8 * (offset & 4)) & 0xffff_ffff }
    }

    fn write(&self, offset: u64, size: usize, value: u64) {
        let (shift, mask) =
            if size == 8 { (0, u64::MAX) } else { (8 * (offset & 4), 0xffff_ffff << (8 * (offset & 4))) };
        self.write_register(&mut self.state.lock(), offset & !7, value << shift, mask);
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes { min: 4, max: 8 }
    }
}

impl Reset for Hpet {
    fn reset(&self, _: ResetKind) {
        let mut state = self.state.lock();
        for index in 0..TIMERS {
            if let Some(line) = self.line(&state, index) {
                line.lower();
            }
        }
        *state = State::new();
        self.lines.route.set_legacy(false);
        self.arm_all(&state);
    }
}

rhea_device::saved_record! { "hpet", 1,
    /// Saved state of the event timer block.
    pub struct HpetSavedV1 {
        /// General configuration.
        config: u64,
        /// Interrupt status.
        status: u64,
        /// Main counter.
        counter: u64,
        /// For each timer: configuration, comparator, period, FSB route.
        timers: [[u64; 4]; TIMERS],
    }
}

impl StateUnit for Hpet {
    fn save(&self) -> SavedRecord {
        let s = self.state.lock();
        save_record(&HpetSavedV1 {
            config: s.config,
            status: s.status,
            counter: s.counter(self.clock.now()),
            timers: [0, 1, 2]
                .map(|i| [s.timers[i].config, s.timers[i].value, s.timers[i].period, s.timers[i].fsb]),
        })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let saved: HpetSavedV1 = load_record(record)?;
        let mut state = self.state.lock();
        let mut new = State::new();
        for (timer, [config, value, period, fsb]) in new.timers.iter_mut().zip(saved.timers) {
            let config = timer.config & !spec::T_WRITABLE | config & spec::T_WRITABLE;
            *timer = Comparator { config, value, period, fsb };
        }
        new.base = saved.counter;
        new.status = saved.status & 7;
        *state = new;
        self.configure(&mut state, saved.config & (spec::ENABLE | spec::LEGACY));
        for index in 0..TIMERS {
            if state.status & 1 << index != 0
                && let Some(line) = self.line(&state, index)
            {
                line.raise();
            }
        }
        Ok(())
    }
}

/// Chooses who drives IRQ 0 and IRQ 8: the 8254 and the RTC, or the HPET in legacy replacement mode.
pub struct LegacyRoute {
    out: [IrqLine; 2],
    /// Levels of the 8254, the RTC and the HPET's two timers; and the mode.
    state: Mutex<([bool; 4], bool)>,
}

impl LegacyRoute {
    /// A route to `irq0` and `irq8`.
    pub fn new(irq0: IrqLine, irq8: IrqLine) -> Arc<Self> {
        Arc::new(Self { out: [irq0, irq8], state: Mutex::default() })
    }

    /// Lines for the 8254 and the RTC.
    pub fn isa_lines(self: &Arc<Self>) -> [IrqLine; 2] {
        [IrqLine::new(self.clone(), 0), IrqLine::new(self.clone(), 1)]
    }

    /// Lines for the HPET's timers 0 and 1.
    pub fn hpet_lines(self: &Arc<Self>) -> [IrqLine; 2] {
        [IrqLine::new(self.clone(), 2), IrqLine::new(self.clone(), 3)]
    }

    fn drive(&self, (levels, legacy): &([bool; 4], bool)) {
        let first = if *legacy { 2 } else { 0 };
        self.out[0].set(levels[first]);
        self.out[1].set(levels[first + 1]);
    }

    fn set_legacy(&self, legacy: bool) {
        let mut state = self.state.lock();
        state.1 = legacy;
        self.drive(&state);
    }
}

impl IrqSink for LegacyRoute {
    fn set_level(&self, pin: u32, level: bool) {
        let mut state = self.state.lock();
        state.0[(pin & 3) as usize] = level;
        self.drive(&state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{EdgeCount, Rig};

    #[derive(Default)]
    struct Messages(Mutex<Vec<(u64, u32)>>);

    impl MsiSink for Messages {
        fn send(&self, address: u64, data: u32) {
            self.0.lock().push((address, data));
        }
    }

    struct Board {
        rig: Rig,
        hpet: Arc<Hpet>,
        irq0: Arc<EdgeCount>,
        gsi20: Arc<EdgeCount>,
        line20: IrqLine,
        messages: Arc<Messages>,
        pit: IrqLine,
    }

    fn board() -> Board {
        let rig = Rig::new();
        let (irq0, gsi20, messages) = (EdgeCount::new(), EdgeCount::new(), Arc::new(Messages::default()));
        let route = LegacyRoute::new(irq0.line(), IrqLine::unconnected());
        let line20 = gsi20.line();
        let gsi = (0..24).map(|i| if i == 20 { line20.clone() } else { IrqLine::unconnected() }).collect();
        let [pit, _] = route.isa_lines();
        let lines = HpetLines { gsi, legacy: route.hpet_lines(), msi: messages.clone(), route };
        let hpet = Hpet::new(&rig.clock, lines);
        Board { rig, hpet, irq0, gsi20, line20, messages, pit }
    }

    #[test]
    fn capabilities_and_counter() {
        let b = board();
        assert_eq!(b.hpet.read(4, 4), 10_000_000, "period in femtoseconds");
        assert_eq!(b.hpet.read(0, 8) & 0xffff_a707, 0x8086_a201);
        b.hpet.write(0xf0, 8, 0xffff_ff00);
        b.rig.run_for(1000);
        assert_eq!(b.hpet.read(0xf0, 8), 0xffff_ff00, "halted");
        b.hpet.write(0x10, 4, 1);
        b.rig.run_for(10_000);
        assert_eq!((b.hpet.read(0xf0, 4), b.hpet.read(0xf4, 4)), (0x2e8, 1));
    }

    #[test]
    fn periodic_legacy_replacement_as_linux_sets_it_up() {
        let b = board();
        b.hpet.write(0x10, 4, 3);
        b.hpet.write(0x100, 4, 0x14c); // enable, periodic, value set, 32 bits
        b.hpet.write(0x108, 4, b.hpet.read(0xf0, 4) + 1_000_000);
        b.hpet.write(0x108, 4, 1_000_000); // 10 ms
        b.rig.run_for(1_000_000_000);
        assert_eq!(b.irq0.count(), 100);
        b.pit.pulse();
        assert_eq!(b.irq0.count(), 100, "the 8254 is cut off");
        b.hpet.write(0x10, 4, 0);
        b.pit.pulse();
        assert_eq!(b.irq0.count(), 101);
        assert_eq!(b.rig.clock.next_deadline(), None);
    }

    #[test]
    fn one_shot_level_and_fsb() {
        let b = board();
        b.hpet.write(0x10, 4, 1);
        b.hpet.write(0x120, 8, 20 << 9 | 6);
        b.hpet.write(0x128, 8, 1000);
        b.rig.run_for(20_000);
        assert_eq!((b.gsi20.count(), b.line20.level(), b.hpet.read(0x20, 8)), (1, true, 2));
        b.hpet.write(0x20, 4, 2);
        assert!(!b.line20.level());
        b.hpet.write(0x120, 4, 0);
        b.hpet.write(0x150, 8, 0xfee0_0000_0000_0041);
        b.hpet.write(0x140, 4, 1 << 14 | 4);
        b.hpet.write(0x148, 8, 3000);
        b.rig.run_for(20_000);
        assert_eq!(b.messages.0.lock()[..], [(0xfee0_0000, 0x41)]);
    }

    #[test]
    fn saved_state_comes_back() {
        let b = board();
        b.hpet.write(0x10, 4, 1);
        b.hpet.write(0x120, 8, 20 << 9 | 6);
        b.hpet.write(0x128, 8, 1000);
        b.rig.run_for(5_000);
        let (record, other) = (b.hpet.save(), board());
        other.hpet.load(&record).unwrap();
        assert_eq!(other.hpet.save(), record);
        other.rig.run_for(5_000);
        assert_eq!(other.gsi20.count(), 1);
    }
}

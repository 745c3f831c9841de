//! ACPI power management of the ICH9: PM1 event and control, PM timer, GPE0, SMI command port.
//!
//! Source: ICH9 data sheet, section 13.8.3 (power management I/O registers, 128 ports at PMBASE); ACPI
//! specification 6.5, chapter 4 (fixed hardware). Sleep states S1 to S4 are not offered: the DSDT has no packages
//! for them, and a write that asks for them does nothing.

use parking_lot::Mutex;
use rhea_device::{
    IrqLine, LoadError, PowerControl, PowerRequest, Reset, ResetKind, SavedRecord, StateUnit, Timer,
    VirtualClock, load_record, save_record,
};
use rhea_memory::{AccessSizes, MmioHandler};
use std::sync::{Arc, Weak};

/// Offsets from PMBASE and register bits.
mod spec {
    pub const PM1_STS: u64 = 0x00;
    pub const PM1_EN: u64 = 0x02;
    pub const PM1_CNT: u64 = 0x04;
    pub const PM_TMR: u64 = 0x08;
    pub const GPE0_STS: u64 = 0x20;
    pub const GPE0_EN: u64 = 0x28;
    pub const SMI_EN: u64 = 0x30;
    pub const SMI_STS: u64 = 0x34;

    pub const TMR: u16 = 1 << 0;
    pub const GBL: u16 = 1 << 5;
    pub const PWRBTN: u16 = 1 << 8;
    pub const RTC: u16 = 1 << 10;

    pub const SCI_EN: u16 = 1 << 0;
    pub const BM_RLD: u16 = 1 << 1;
    pub const SLP_TYP: u16 = 7 << 10;
    pub const SLP_EN: u16 = 1 << 13;

    pub const SMI_GLOBAL: u32 = 1 << 0;
    pub const SMI_APMC: u32 = 1 << 5;

    /// Sleep type that the DSDT's \_S5 gives.
    pub const S5: u16 = 0;
    /// PM timer frequency in Hz; 24 bits wide.
    pub const TIMER_HZ: u64 = 3_579_545;
    pub const TIMER_BITS: u32 = 24;
}

/// Value written to the SMI command port to hand power management to the operating system (FADT ACPI_ENABLE).
pub const ACPI_ENABLE: u8 = 0x02;
/// Value that takes it back (FADT ACPI_DISABLE).
pub const ACPI_DISABLE: u8 = 0x03;
/// SLP_TYP of S5, for the DSDT.
pub const S5_SLEEP_TYPE: u8 = spec::S5 as u8;
/// Ports the block takes.
pub const PM_IO_SIZE: u64 = 128;

/// Raises a system management interrupt at all processors.
pub trait SmiSink: Send + Sync {
    /// Raises it.
    fn smi(&self);
}

#[derive(Clone, Debug, Default)]
struct State {
    status: u16,
    enable: u16,
    control: u16,
    gpe_status: u64,
    gpe_enable: u64,
    smi_enable: u32,
    smi_status: u32,
    apm: [u8; 2],
    /// Half periods of the PM timer counted so far: its top bit changed this often.
    timer_halves: u64,
}

/// The power management block.
pub struct PowerManagement {
    clock: Arc<VirtualClock>,
    overflow: Timer,
    sci: IrqLine,
    power: Arc<PowerControl>,
    smi: Option<Arc<dyn SmiSink>>,
    state: Mutex<State>,
}

impl PowerManagement {
    /// A block that drives `sci`. Without `smi` (no firmware that handles it) the SMI command port switches
    /// ACPI mode by itself.
    pub fn new(
        clock: &Arc<VirtualClock>,
        sci: IrqLine,
        power: Arc<PowerControl>,
        smi: Option<Arc<dyn SmiSink>>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|weak: &Weak<Self>| {
            let weak = weak.clone();
            let overflow = clock.timer("PM timer", move || {
                if let Some(pm) = weak.upgrade() {
                    pm.sync(&mut pm.state.lock());
                }
            });
            Self { clock: clock.clone(), overflow, sci, power, smi, state: Mutex::default() }
        })
    }

    /// The SMI command and status ports, B2h and B3h.
    pub fn apm_ports(self: &Arc<Self>) -> Arc<dyn MmioHandler> {
        Arc::new(ApmPorts(self.clone()))
    }

    /// The power button was pressed. True if the guest listens to it.
    pub fn power_button(&self) -> bool {
        let mut state = self.state.lock();
        state.status |= spec::PWRBTN;
        self.sync(&mut state);
        state.control & spec::SCI_EN != 0 && state.enable & spec::PWRBTN != 0
    }

    /// Sets a general purpose event's status bit (0 to 63).
    pub fn general_event(&self, event: u32) {
        let mut state = self.state.lock();
        state.gpe_status |= 1 << (event & 63);
        self.sync(&mut state);
    }

    fn ticks(&self) -> u64 {
        (u128::from(self.clock.now()) * u128::from(spec::TIMER_HZ) / 1_000_000_000) as u64
    }

    /// Brings the timer's status up to now, drives the SCI, and arms the timer for its next carry if enabled.
    fn sync(&self, state: &mut State) {
        let halves = self.ticks() >> (spec::TIMER_BITS - 1);
        if halves != state.timer_halves {
            state.timer_halves = halves;
            state.status |= spec::TMR;
        }
        let fixed = state.status & state.enable & (spec::TMR | spec::GBL | spec::PWRBTN | spec::RTC);
        let general = state.gpe_status & state.gpe_enable;
        let enabled = state.control & spec::SCI_EN != 0;
        self.sci.set(enabled && (fixed != 0 || general != 0));
        if enabled && state.enable & spec::TMR != 0 && state.status & spec::TMR == 0 {
            let carry = u128::from(halves + 1) << (spec::TIMER_BITS - 1);
            let ns = (carry * 1_000_000_000).div_ceil(u128::from(spec::TIMER_HZ));
            self.overflow.arm(u64::try_from(ns).unwrap_or(u64::MAX));
        } else {
            self.overflow.cancel();
        }
    }

    fn write_control(&self, state: &mut State, value: u16) {
        state.control = value & (spec::SCI_EN | spec::BM_RLD | spec::SLP_TYP);
        if value & spec::SLP_EN != 0 && (value & spec::SLP_TYP) >> 10 == spec::S5 {
            self.power.request(PowerRequest::Shutdown);
        }
    }

    fn read_byte(state: &State, offset: u64, ticks: u64) -> u8 {
        let byte = |value: u64, base: u64| (value >> (8 * (offset - base))) as u8;
        match offset {
            0x00..=0x01 => byte(state.status.into(), spec::PM1_STS),
            0x02..=0x03 => byte(state.enable.into(), spec::PM1_EN),
            0x04..=0x07 => byte(state.control.into(), spec::PM1_CNT),
            0x08..=0x0b => byte(ticks & ((1 << spec::TIMER_BITS) - 1), spec::PM_TMR),
            0x20..=0x27 => byte(state.gpe_status, spec::GPE0_STS),
            0x28..=0x2f => byte(state.gpe_enable, spec::GPE0_EN),
            0x30..=0x33 => byte(state.smi_enable.into(), spec::SMI_EN),
            0x34..=0x37 => byte(state.smi_status.into(), spec::SMI_STS),
            _ => 0,
        }
    }

    /// Writes `mask`'s bits of `value`, both as of the whole register, in the register at `base`.
    fn write_field(&self, state: &mut State, base: u64, value: u64, mask: u64) {
        let merge = |old: u64| old & !mask | value & mask;
        match base {
            spec::PM1_STS => state.status &= !((value & mask) as u16),
            spec::PM1_EN => {
                state.enable =
                    merge(state.enable.into()) as u16 & (spec::TMR | spec::GBL | spec::PWRBTN | spec::RTC)
            }
            spec::PM1_CNT => {
                let value = merge(state.control.into()) as u16;
                self.write_control(state, value);
            }
            spec::GPE0_STS => state.gpe_status &= !(value & mask),
            spec::GPE0_EN => state.gpe_enable = merge(state.gpe_enable),
            spec::SMI_EN => state.smi_enable = merge(state.smi_enable.into()) as u32,
            spec::SMI_STS => state.smi_status &= !((value & mask) as u32),
            _ => {}
        }
    }

    /// The SMI command port was written.
    fn command(&self, value: u8) {
        let mut state = self.state.lock();
        state.apm[0] = value;
        let smi = self.smi.as_ref().filter(|_| {
            state.smi_enable & (spec::SMI_GLOBAL | spec::SMI_APMC) == spec::SMI_GLOBAL | spec::SMI_APMC
        });
        if let Some(smi) = smi {
            state.smi_status |= spec::SMI_APMC;
            smi.smi();
            return;
        }
        match value {
            ACPI_ENABLE => state.control |= spec::SCI_EN,
            ACPI_DISABLE => state.control &= !spec::SCI_EN,
            _ => {}
        }
        self.sync(&mut state);
    }
}

/// First offset and size of the register that holds `offset`.
fn register(offset: u64) -> (u64, u64) {
    match offset {
        0x00..=0x01 => (spec::PM1_STS, 2),
        0x02..=0x03 => (spec::PM1_EN, 2),
        0x04..=0x07 => (spec::PM1_CNT, 4),
        0x08..=0x0b => (spec::PM_TMR, 4),
        0x20..=0x27 => (spec::GPE0_STS, 8),
        0x28..=0x2f => (spec::GPE0_EN, 8),
        0x30..=0x33 => (spec::SMI_EN, 4),
        0x34..=0x37 => (spec::SMI_STS, 4),
        other => (other, 1),
    }
}

impl MmioHandler for PowerManagement {
    fn read(&self, offset: u64, size: usize) -> u64 {
        let mut state = self.state.lock();
        if offset < spec::PM1_EN {
            self.sync(&mut state);
        }
        let ticks = self.ticks();
        (0..size as u64).rev().fold(0, |v, i| v << 8 | u64::from(Self::read_byte(&state, offset + i, ticks)))
    }

    fn write(&self, offset: u64, size: usize, value: u64) {
        let mut state = self.state.lock();
        self.sync(&mut state);
        let (mut at, end) = (offset, offset + size as u64);
        while at < end {
            let (base, len) = register(at);
            let stop = end.min(base + len);
            let mask = (u64::MAX >> (64 - 8 * (stop - at))) << (8 * (at - base));
            let part = (value >> (8 * (at - offset))) << (8 * (at - base));
            self.write_field(&mut state, base, part, mask);
            at = stop;
        }
        self.sync(&mut state);
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 4 }
    }
}

struct ApmPorts(Arc<PowerManagement>);

impl MmioHandler for ApmPorts {
    fn read(&self, offset: u64, _: usize) -> u64 {
        u64::from(self.0.state.lock().apm[(offset & 1) as usize])
    }

    fn write(&self, offset: u64, _: usize, value: u64) {
        if offset == 0 { self.0.command(value as u8) } else { self.0.state.lock().apm[1] = value as u8 }
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::BYTE
    }
}

impl Reset for PowerManagement {
    fn reset(&self, _: ResetKind) {
        let mut state = self.state.lock();
        *state = State { timer_halves: self.ticks() >> (spec::TIMER_BITS - 1), ..State::default() };
        self.sync(&mut state);
    }
}

rhea_device::saved_record! { "ich9-pm", 1,
    /// Saved state of the power management block.
    pub struct PmSavedV1 {
        /// PM1 status, enable, control.
        pm1: [u16; 3],
        /// GPE0 status, enable.
        gpe: [u64; 2],
        /// SMI enable, status.
        smi: [u32; 2],
        /// SMI command and status ports.
        apm: [u8; 2],
    }
}

impl StateUnit for PowerManagement {
    fn save(&self) -> SavedRecord {
        let s = self.state.lock();
        save_record(&PmSavedV1 {
            pm1: [s.status, s.enable, s.control],
            gpe: [s.gpe_status, s.gpe_enable],
            smi: [s.smi_enable, s.smi_status],
            apm: s.apm,
        })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let saved: PmSavedV1 = load_record(record)?;
        let mut state = self.state.lock();
        *state = State {
            status: saved.pm1[0],
            enable: saved.pm1[1],
            control: saved.pm1[2],
            gpe_status: saved.gpe[0],
            gpe_enable: saved.gpe[1],
            smi_enable: saved.smi[0],
            smi_status: saved.smi[1],
            apm: saved.apm,
            timer_halves: self.ticks() >> (spec::TIMER_BITS - 1),
        };
        self.sync(&mut state);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhea_device::ClockSource;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Default)]
    struct Counter(AtomicU64);

    impl ClockSource for Counter {
        fn now_ns(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
        fn deadline_changed(&self, _: Option<u64>) {}
    }

    fn pm() -> (Arc<Counter>, Arc<VirtualClock>, IrqLine, Arc<PowerControl>, Arc<PowerManagement>) {
        let source = Arc::new(Counter::default());
        let clock = VirtualClock::driven(source.clone());
        let (sci, power) = (IrqLine::unconnected(), Arc::new(PowerControl::new()));
        let pm = PowerManagement::new(&clock, sci.clone(), power.clone(), None);
        (source, clock, sci, power, pm)
    }

    #[test]
    fn power_button_through_acpi_mode() {
        let (_, _, sci, _, pm) = pm();
        assert!(!pm.power_button());
        pm.write(0, 2, 0x100);
        pm.apm_ports().write(0, 1, ACPI_ENABLE.into());
        assert_eq!(pm.read(4, 2), 1);
        pm.write(2, 2, 0x100);
        assert!(pm.power_button());
        assert!(sci.level());
        pm.write(0, 2, 0x100);
        assert!(!sci.level());
    }

    #[test]
    fn soft_off_powers_off() {
        let (_, _, _, power, pm) = pm();
        pm.write(4, 2, 0x2001);
        assert_eq!(power.take(), Some(PowerRequest::Shutdown));
        pm.write(4, 2, 0x3401);
        assert_eq!(power.take(), None, "other sleep types are not offered");
        assert_eq!(pm.read(4, 2) & 0x2000, 0, "SLP_EN reads 0");
    }

    #[test]
    fn the_timer_counts_and_its_carry_interrupts() {
        let (source, clock, sci, _, pm) = pm();
        source.0.store(1_000_000_000, Ordering::Relaxed);
        assert_eq!(pm.read(8, 4), 3_579_545);
        assert_eq!(clock.next_deadline(), None);
        pm.write(4, 2, 1);
        pm.write(2, 2, 1);
        let carry = clock.next_deadline().unwrap();
        assert!((2_343_000_000..2_344_000_000).contains(&carry));
        source.0.store(carry, Ordering::Relaxed);
        clock.run_due();
        assert!(sci.level());
        pm.write(0, 1, 1);
        assert!(!sci.level());
    }

    #[test]
    fn byte_accesses_and_general_events() {
        let (_, _, sci, _, pm) = pm();
        pm.write(4, 1, 1);
        pm.write(0x29, 1, 2);
        assert_eq!(pm.read(0x28, 4), 0x200);
        pm.general_event(9);
        assert!(sci.level());
        pm.write(0x21, 1, 2);
        assert!(!sci.level());
        let record = pm.save();
        pm.load(&record).unwrap();
        assert_eq!(pm.save(), record);
    }
}

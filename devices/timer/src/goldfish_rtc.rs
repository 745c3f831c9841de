//! The real-time clock of Android's Goldfish platform: nanoseconds since 1970, and one alarm.
//!
//! Source: Goldfish virtual hardware documentation ("Goldfish Timer"); Linux binding "google,goldfish-rtc".
//!
//! The time of day is an offset to a clock. Reading TIME_LOW latches the high half, which TIME_HIGH then gives; writing
//! TIME_LOW sets the time with the high half written before. The alarm is set by ALARM_LOW after ALARM_HIGH.

use crate::rtc::RtcConfig;
use crate::wall_clock::WallClock;
use parking_lot::Mutex;
use rhea_device::{
    IrqLine, LoadError, Reset, ResetKind, SavedRecord, StateUnit, Timer, VirtualClock, load_record,
    save_record,
};
use rhea_memory::{AccessSizes, MmioHandler};
use std::sync::{Arc, Weak};

/// Register offsets.
mod spec {
    pub const TIME_LOW: u64 = 0x00;
    pub const TIME_HIGH: u64 = 0x04;
    pub const ALARM_LOW: u64 = 0x08;
    pub const ALARM_HIGH: u64 = 0x0c;
    pub const IRQ_ENABLED: u64 = 0x10;
    pub const CLEAR_ALARM: u64 = 0x14;
    pub const ALARM_STATUS: u64 = 0x18;
    pub const CLEAR_INTERRUPT: u64 = 0x1c;
}

/// Bytes of the register window.
pub const GOLDFISH_RTC_SIZE: u64 = 0x24;

#[derive(Clone, Default)]
struct State {
    /// Nanoseconds to add to the clock's to get the time of day.
    offset: i128,
    /// High half latched by the last read of TIME_LOW.
    latched: u32,
    /// High half written, for the next write of TIME_LOW.
    time_high: u32,
    alarm: u64,
    alarm_running: bool,
    pending: bool,
    enabled: bool,
}

/// The clock.
pub struct GoldfishRtc {
    clock: Arc<VirtualClock>,
    wall: WallClock,
    timer: Timer,
    irq: IrqLine,
    state: Mutex<State>,
}

impl GoldfishRtc {
    /// A clock that drives `irq`. `config.cmos` does not apply.
    pub fn new(config: &RtcConfig, clock: &Arc<VirtualClock>, irq: IrqLine) -> Arc<Self> {
        Arc::new_cyclic(|weak: &Weak<Self>| {
            let weak = weak.clone();
            let timer = clock.timer("Goldfish RTC", move || {
                if let Some(rtc) = weak.upgrade() {
                    rtc.sync(&mut rtc.state.lock());
                }
            });
            let wall = WallClock::new(config.clock, clock);
            let state = Mutex::new(State { offset: wall.offset(config.base), ..State::default() });
            Self { clock: clock.clone(), wall, timer, irq, state }
        })
    }

    /// Nanoseconds since 1970 that the clock shows.
    fn time(&self, state: &State) -> u64 {
        u64::try_from(self.wall.now_ns().saturating_add(state.offset).max(0)).unwrap_or(u64::MAX)
    }

    /// Lets an alarm that is due go off, drives the line, and arms the host timer for an alarm ahead.
    fn sync(&self, state: &mut State) {
        let now = self.time(state);
        if state.alarm_running && state.alarm <= now {
            state.alarm_running = false;
            state.pending = true;
        }
        self.irq.set(state.pending && state.enabled);
        if state.alarm_running {
            self.timer.arm(self.clock.now().saturating_add(state.alarm - now));
        } else {
            self.timer.cancel();
        }
    }
}

impl MmioHandler for GoldfishRtc {
    fn read(&self, offset: u64, _: usize) -> u64 {
        let mut state = self.state.lock();
        let value = match offset {
            spec::TIME_LOW => {
                let time = self.time(&state);
                state.latched = (time >> 32) as u32;
                time as u32
            }
            spec::TIME_HIGH => state.latched,
            spec::ALARM_LOW => state.alarm as u32,
            spec::ALARM_HIGH => (state.alarm >> 32) as u32,
            spec::IRQ_ENABLED => state.enabled.into(),
            spec::ALARM_STATUS => {
                self.sync(&mut state);
                state.alarm_running.into()
            }
            _ => 0,
        };
        value.into()
    }

    fn write(&self, offset: u64, _: usize, value: u64) {
        let mut state = self.state.lock();
        let low = value & 0xffff_ffff;
        match offset {
            spec::TIME_LOW => {
                let time = u64::from(state.time_high) << 32 | low;
                state.offset = i128::from(time) - self.wall.now_ns();
            }
            spec::TIME_HIGH => state.time_high = value as u32,
            spec::ALARM_LOW => {
                state.alarm = state.alarm & !0xffff_ffff | low;
                state.alarm_running = true;
            }
            spec::ALARM_HIGH => state.alarm = state.alarm & 0xffff_ffff | low << 32,
            spec::IRQ_ENABLED => state.enabled = value & 1 != 0,
            spec::CLEAR_ALARM => state.alarm_running = false,
            spec::CLEAR_INTERRUPT => state.pending = false,
            _ => {}
        }
        self.sync(&mut state);
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::DWORD
    }
}

impl Reset for GoldfishRtc {
    /// The time of day goes on: a battery keeps it.
    fn reset(&self, _: ResetKind) {
        let mut state = self.state.lock();
        *state = State { offset: state.offset, ..State::default() };
        self.sync(&mut state);
    }
}

rhea_device::saved_record! { "goldfish-rtc", 1,
    /// Saved state of the clock.
    pub struct GoldfishRtcSavedV1 {
        /// Time of day, in nanoseconds since 1970.
        time: u64,
        /// The two latched high halves: read, written.
        halves: [u32; 2],
        /// Time of the alarm.
        alarm: u64,
        /// Alarm running, interrupt pending, interrupt enabled.
        flags: [bool; 3],
    }
}

impl StateUnit for GoldfishRtc {
    fn save(&self) -> SavedRecord {
        let state = self.state.lock();
        save_record(&GoldfishRtcSavedV1 {
            time: self.time(&state),
            halves: [state.latched, state.time_high],
            alarm: state.alarm,
            flags: [state.alarm_running, state.pending, state.enabled],
        })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let saved: GoldfishRtcSavedV1 = load_record(record)?;
        let [latched, time_high] = saved.halves;
        let [alarm_running, pending, enabled] = saved.flags;
        let mut state = self.state.lock();
        let offset = i128::from(saved.time) - self.wall.now_ns();
        *state = State { offset, latched, time_high, alarm: saved.alarm, alarm_running, pending, enabled };
        self.sync(&mut state);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtc::{RtcBase, RtcClock};
    use crate::tests::Rig;
    use proptest::prelude::*;

    fn rtc(rig: &Rig, irq: &IrqLine) -> Arc<GoldfishRtc> {
        let config = RtcConfig { base: RtcBase::Fixed(1000), clock: RtcClock::Virtual, cmos: Vec::new() };
        GoldfishRtc::new(&config, &rig.clock, irq.clone())
    }

    fn time(rtc: &GoldfishRtc) -> u64 {
        rtc.read(spec::TIME_LOW, 4) | rtc.read(spec::TIME_HIGH, 4) << 32
    }

    #[test]
    fn time_is_read_and_set_in_halves() {
        let (rig, irq) = (Rig::new(), IrqLine::unconnected());
        let rtc = rtc(&rig, &irq);
        rig.run_for(7);
        assert_eq!(time(&rtc), 1_000_000_000_007);
        rtc.write(spec::TIME_HIGH, 4, 5);
        assert_eq!(time(&rtc), 1_000_000_000_007, "not yet");
        rtc.write(spec::TIME_LOW, 4, 6);
        rig.run_for(1);
        assert_eq!(time(&rtc), (5 << 32) + 7);
        rtc.reset(ResetKind::Warm);
        assert_eq!(time(&rtc), (5 << 32) + 7);
    }

    #[test]
    fn an_alarm_goes_off_once() {
        let (rig, irq) = (Rig::new(), IrqLine::unconnected());
        let rtc = rtc(&rig, &irq);
        let at = time(&rtc) + 500;
        rtc.write(spec::ALARM_HIGH, 4, at >> 32);
        rtc.write(spec::ALARM_LOW, 4, at & 0xffff_ffff);
        rtc.write(spec::IRQ_ENABLED, 4, 1);
        assert_eq!(rtc.read(spec::ALARM_STATUS, 4), 1);
        rig.run_for(499);
        assert!(!irq.level());
        let record = rtc.save();
        rig.run_for(1);
        assert!(irq.level());
        rtc.write(spec::CLEAR_INTERRUPT, 4, 1);
        rig.run_for(1000);
        assert_eq!((irq.level(), rtc.read(spec::ALARM_STATUS, 4)), (false, 0));
        rtc.load(&record).unwrap();
        assert_eq!(rtc.read(spec::ALARM_STATUS, 4), 1);
        rig.run_for(1);
        assert!(irq.level());
        rtc.reset(ResetKind::Warm);
        assert!(!irq.level());
    }

    proptest! {
        #[test]
        fn any_access_is_survived(accesses in proptest::collection::vec((0u64..9, any::<u32>()), 0..64)) {
            let (rig, irq) = (Rig::new(), IrqLine::unconnected());
            let rtc = rtc(&rig, &irq);
            for (register, value) in accesses {
                rtc.write(4 * register, 4, value.into());
                rtc.read(4 * register, 4);
                rig.run_for(u64::from(value >> 20));
            }
            let record = rtc.save();
            rtc.load(&record).unwrap();
        }
    }
}

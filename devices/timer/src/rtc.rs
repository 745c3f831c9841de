//! The MC146818 real-time clock with its CMOS memory, as the ICH9 has it: two banks of 128 bytes.
//!
//! Source: Motorola MC146818A data sheet; ICH9 data sheet, section 13.6 (RTC registers, ports 70h-73h).
//!
//! The time of day is an offset to a clock; the flags of register C are computed when they are read, and the
//! host timer is armed only for an interrupt that is enabled and whose flag is not set yet.

use crate::NS;
use crate::wall_clock::WallClock;
use parking_lot::Mutex;
use rhea_device::{
    IrqLine, LoadError, Reset, ResetKind, SavedRecord, StateUnit, Timer, VirtualClock, load_record,
    save_record,
};
use rhea_memory::{AccessSizes, MmioHandler};
use std::sync::{Arc, Weak};

mod spec {
    pub const SECONDS: usize = 0;
    pub const SECONDS_ALARM: usize = 1;
    pub const MINUTES: usize = 2;
    pub const MINUTES_ALARM: usize = 3;
    pub const HOURS: usize = 4;
    pub const HOURS_ALARM: usize = 5;
    pub const DAY_OF_WEEK: usize = 6;
    pub const DAY_OF_MONTH: usize = 7;
    pub const MONTH: usize = 8;
    pub const YEAR: usize = 9;
    pub const A: usize = 0x0a;
    pub const B: usize = 0x0b;
    pub const C: usize = 0x0c;
    pub const D: usize = 0x0d;
    /// Century, where the ACPI FADT says it is.
    pub const CENTURY: usize = 0x32;

    pub const A_UIP: u8 = 0x80;
    pub const B_SET: u8 = 0x80;
    pub const B_PIE: u8 = 0x40;
    pub const B_AIE: u8 = 0x20;
    pub const B_UIE: u8 = 0x10;
    pub const B_BINARY: u8 = 0x04;
    pub const B_24H: u8 = 0x02;
    pub const C_IRQF: u8 = 0x80;
    pub const C_PF: u8 = 0x40;
    pub const C_AF: u8 = 0x20;
    pub const C_UF: u8 = 0x10;
    /// Valid RAM and time.
    pub const D_VRT: u8 = 0x80;

    /// How long before an update the UIP bit is set.
    pub const UIP_NS: u64 = 244_000;
}

/// CMOS index at which the century is kept (for the ACPI FADT).
pub const CENTURY_INDEX: u8 = spec::CENTURY as u8;

/// What time the clock shows at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RtcBase {
    /// The host's time in UTC.
    Utc,
    /// The host's local time: its offset from UTC in seconds.
    LocalTime(i64),
    /// This time, in seconds since 1970-01-01T00:00:00.
    Fixed(i64),
}

/// What makes the clock go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RtcClock {
    /// The host's wall clock: steps of the host's clock are seen by the guest.
    Host,
    /// The host's monotonic clock: goes on while the machine is stopped.
    Monotonic,
    /// Virtual time: stands still while the machine is stopped.
    Virtual,
}

/// Settings of the clock.
#[derive(Clone, Debug)]
pub struct RtcConfig {
    /// Time at start.
    pub base: RtcBase,
    /// What makes it go on.
    pub clock: RtcClock,
    /// CMOS bytes to set at reset: index and value.
    pub cmos: Vec<(u8, u8)>,
}

impl Default for RtcConfig {
    fn default() -> Self {
        Self { base: RtcBase::Utc, clock: RtcClock::Host, cmos: Vec::new() }
    }
}

struct State {
    index: [u8; 2],
    cmos: [[u8; 128]; 2],
    /// Nanoseconds to add to the clock's to get the time of day since 1970.
    offset: i128,
    /// Clock time up to which the flags of register C are computed.
    seen: i128,
}

/// A date and time in the proleptic Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Civil {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

impl Civil {
    /// From seconds since 1970-01-01T00:00:00.
    fn from_seconds(seconds: i64) -> Self {
        let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Count days from 1 March of year 0, so that the leap day is the last of its year.
        let days = days + 719_468;
        let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * of_year + 2) / 153;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month,
            day: of_year - (153 * shifted + 2) / 5 + 1,
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
        }
    }

    fn to_seconds(self) -> i64 {
        let month = self.month.clamp(1, 12);
        let year = if month <= 2 { self.year - 1 } else { self.year };
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let shifted = if month > 2 { month - 3 } else { month + 9 };
        let of_year = (153 * shifted + 2) / 5 + self.day - 1;
        let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
        (era * 146_097 + of_era - 719_468) * 86_400 + self.hour * 3600 + self.minute * 60 + self.second
    }
}

/// The real-time clock.
pub struct Rtc {
    config: RtcConfig,
    clock: Arc<VirtualClock>,
    wall: WallClock,
    timer: Timer,
    irq: IrqLine,
    state: Mutex<State>,
}

impl Rtc {
    /// A clock that drives `irq` (IRQ 8).
    pub fn new(config: RtcConfig, clock: &Arc<VirtualClock>, irq: IrqLine) -> Arc<Self> {
        let rtc = Arc::new_cyclic(|weak: &Weak<Self>| {
            let weak = weak.clone();
            let timer = clock.timer("RTC", move || {
                if let Some(rtc) = weak.upgrade() {
                    rtc.sync(&mut rtc.state.lock());
                }
            });
            Self {
                clock: clock.clone(),
                wall: WallClock::new(config.clock, clock),
                timer,
                irq,
                state: Mutex::new(State { index: [0; 2], cmos: [[0; 128]; 2], offset: 0, seen: 0 }),
                config,
            }
        });
        {
            let mut state = rtc.state.lock();
            let now = rtc.clock_ns();
            state.offset = rtc.wall.offset(rtc.config.base);
            state.seen = now;
            rtc.power_up(&mut state);
        }
        rtc
    }

    /// Ports of bank 0 (70h, 71h) or of the extended bank 1 (72h, 73h).
    pub fn ports(self: &Arc<Self>, extended: bool) -> Arc<dyn MmioHandler> {
        Arc::new(BankPorts { rtc: self.clone(), bank: usize::from(extended) })
    }

    fn power_up(&self, state: &mut State) {
        let cmos = &mut state.cmos[0];
        cmos[spec::A] = 0x26;
        cmos[spec::B] = spec::B_24H;
        cmos[spec::C] = 0;
        for &(index, value) in &self.config.cmos {
            cmos[usize::from(index & 0x7f)] = value;
        }
    }

    /// Nanoseconds of the clock the time of day follows.
    fn clock_ns(&self) -> i128 {
        self.wall.now_ns()
    }

    /// Brings the flags up to now, drives the interrupt line, and arms the timer for the next enabled event.
    fn sync(&self, state: &mut State) {
        let now = self.clock_ns();
        let flags = state.flags_since(now);
        let enabled = state.cmos[0][spec::B] & (spec::B_PIE | spec::B_AIE | spec::B_UIE);
        let c = &mut state.cmos[0][spec::C];
        *c |= flags;
        let raised = *c & enabled != 0;
        *c = *c & !spec::C_IRQF | if raised { spec::C_IRQF } else { 0 };
        self.irq.set(raised);
        state.seen = now;
        let waiting = enabled & !state.cmos[0][spec::C];
        match state.next_event(now, waiting).filter(|_| !raised) {
            Some(at) => self.timer.arm(self.clock.now().saturating_add((at - now).max(0) as u64)),
            None => self.timer.cancel(),
        }
    }

    fn read(&self, bank: usize) -> u8 {
        let mut state = self.state.lock();
        let index = usize::from(state.index[bank] & 0x7f);
        if bank != 0 {
            return state.cmos[bank][index];
        }
        let now = self.clock_ns();
        match index {
            spec::A => {
                state.cmos[0][spec::A] & !spec::A_UIP | if state.updating(now) { spec::A_UIP } else { 0 }
            }
            spec::C => {
                self.sync(&mut state);
                let value = std::mem::take(&mut state.cmos[0][spec::C]);
                self.sync(&mut state);
                value
            }
            spec::D => spec::D_VRT,
            _ if is_time(index) && state.cmos[0][spec::B] & spec::B_SET == 0 => {
                state.time_register(now, index)
            }
            _ => state.cmos[0][index],
        }
    }

    fn write(&self, bank: usize, value: u8) {
        let mut state = self.state.lock();
        let index = usize::from(state.index[bank] & 0x7f);
        if bank != 0 {
            state.cmos[bank][index] = value;
            return;
        }
        let now = self.clock_ns();
        match index {
            spec::A => {
                self.sync(&mut state);
                state.cmos[0][spec::A] = value & !spec::A_UIP;
            }
            spec::B => {
                self.sync(&mut state);
                state.write_b(now, value);
            }
            spec::C | spec::D => return,
            _ if is_time(index) && state.cmos[0][spec::B] & spec::B_SET == 0 => {
                state.freeze(now);
                state.cmos[0][index] = value;
                state.thaw(now);
            }
            _ => state.cmos[0][index] = value,
        }
        self.sync(&mut state);
    }
}

fn is_time(index: usize) -> bool {
    matches!(
        index,
        spec::SECONDS | spec::MINUTES | spec::HOURS | spec::DAY_OF_WEEK..=spec::YEAR | spec::CENTURY
    )
}

impl State {
    /// Seconds since 1970 that the clock shows at `now`.
    fn seconds(&self, now: i128) -> i64 {
        (now + self.offset).div_euclid(i128::from(NS)) as i64
    }

    /// Nanoseconds into the second shown.
    fn of_second(&self, now: i128) -> u64 {
        (now + self.offset).rem_euclid(i128::from(NS)) as u64
    }

    fn updating(&self, now: i128) -> bool {
        self.cmos[0][spec::B] & spec::B_SET == 0 && self.of_second(now) >= NS - spec::UIP_NS
    }

    /// In the guest's format: BCD or binary.
    fn encode(&self, value: i64) -> u8 {
        let value = value.rem_euclid(100) as u8;
        if self.cmos[0][spec::B] & spec::B_BINARY != 0 { value } else { (value / 10) << 4 | (value % 10) }
    }

    fn decode(&self, raw: u8) -> i64 {
        let raw = i64::from(raw);
        if self.cmos[0][spec::B] & spec::B_BINARY != 0 { raw } else { (raw >> 4) * 10 + (raw & 0xf) }
    }

    fn encode_hour(&self, hour: i64) -> u8 {
        if self.cmos[0][spec::B] & spec::B_24H != 0 {
            return self.encode(hour);
        }
        let half = if hour % 12 == 0 { 12 } else { hour % 12 };
        self.encode(half) | if hour >= 12 { 0x80 } else { 0 }
    }

    fn decode_hour(&self, raw: u8) -> i64 {
        if self.cmos[0][spec::B] & spec::B_24H != 0 {
            return self.decode(raw);
        }
        self.decode(raw & 0x7f) % 12 + if raw & 0x80 != 0 { 12 } else { 0 }
    }

    fn time_register(&self, now: i128, index: usize) -> u8 {
        let seconds = self.seconds(now);
        let time = Civil::from_seconds(seconds);
        match index {
            spec::SECONDS => self.encode(time.second),
            spec::MINUTES => self.encode(time.minute),
            spec::HOURS => self.encode_hour(time.hour),
            // 1970-01-01 was a Thursday; Sunday is 1.
            spec::DAY_OF_WEEK => self.encode((seconds.div_euclid(86_400) + 4).rem_euclid(7) + 1),
            spec::DAY_OF_MONTH => self.encode(time.day),
            spec::MONTH => self.encode(time.month),
            spec::YEAR => self.encode(time.year),
            _ => self.encode(time.year.div_euclid(100)),
        }
    }

    /// Copies the running time into the registers.
    fn freeze(&mut self, now: i128) {
        for index in (0..128).filter(|index| is_time(*index)) {
            self.cmos[0][index] = self.time_register(now, index);
        }
    }

    /// Starts the clock from what the registers hold.
    fn thaw(&mut self, now: i128) {
        let cmos = &self.cmos[0];
        let time = Civil {
            year: self.decode(cmos[spec::CENTURY]) * 100 + self.decode(cmos[spec::YEAR]),
            month: self.decode(cmos[spec::MONTH]),
            day: self.decode(cmos[spec::DAY_OF_MONTH]),
            hour: self.decode_hour(cmos[spec::HOURS]),
            minute: self.decode(cmos[spec::MINUTES]),
            second: self.decode(cmos[spec::SECONDS]),
        };
        let fraction = i128::from(self.of_second(now));
        self.offset = i128::from(time.to_seconds()) * i128::from(NS) + fraction - now;
    }

    fn write_b(&mut self, now: i128, value: u8) {
        let was_set = self.cmos[0][spec::B] & spec::B_SET != 0;
        let set = value & spec::B_SET != 0;
        if set && !was_set {
            self.freeze(now);
        }
        self.cmos[0][spec::B] = if set { value & !spec::B_UIE } else { value };
        if was_set && !set {
            self.thaw(now);
            // The divider starts anew: the next update is half a second away (data sheet, "SET").
            let fraction = i128::from(self.of_second(now));
            self.offset += i128::from(NS / 2) - fraction;
        }
    }

    /// Period of the periodic interrupt in nanoseconds, if the rate selects one.
    fn period_ns(&self) -> Option<u128> {
        let a = self.cmos[0][spec::A];
        let rate = match a & 0x0f {
            0 => return None,
            // The first two codes repeat the rates of 8 and 9 (256 Hz and 128 Hz).
            rate @ (1 | 2) => rate + 7,
            rate => rate,
        };
        // Kept as 2^(rate-1) ticks of 32768 Hz.
        Some((1u128 << (rate - 1)) * u128::from(NS) / 32_768)
    }

    /// Seconds since 1970 of the first alarm after second `after`, within a day.
    fn next_alarm(&self, after: i64) -> Option<i64> {
        let cmos = &self.cmos[0];
        let field = |index: usize, decode: &dyn Fn(u8) -> i64| {
            // Codes C0h to FFh match every value.
            (cmos[index] & 0xc0 != 0xc0).then(|| decode(cmos[index]))
        };
        let second = field(spec::SECONDS_ALARM, &|raw| self.decode(raw));
        let minute = field(spec::MINUTES_ALARM, &|raw| self.decode(raw));
        let hour = field(spec::HOURS_ALARM, &|raw| self.decode_hour(raw));
        let day = after.div_euclid(86_400) * 86_400;
        let from = after - day + 1;
        let hits = |value: Option<i64>, at: i64| value.is_none_or(|value| value == at);
        // Hours, then minutes, then seconds: at most 48 + 120 + 120 steps.
        (from / 3600..48).filter(|h| hits(hour, h % 24)).find_map(|h| {
            let first = (from - h * 3600).max(0);
            (first / 60..60).filter(|m| hits(minute, *m)).find_map(|m| {
                let first = (from - h * 3600 - m * 60).max(0);
                (first..60).find(|s| hits(second, *s)).map(|s| day + h * 3600 + m * 60 + s)
            })
        })
    }

    /// Flags of register C for events after `self.seen`, up to `now`.
    fn flags_since(&self, now: i128) -> u8 {
        let mut flags = 0;
        if let Some(period) = self.period_ns() {
            let tick = |at: i128| (at + self.offset).div_euclid(period as i128);
            flags |= if tick(now) > tick(self.seen) { spec::C_PF } else { 0 };
        }
        let (from, to) = (self.seconds(self.seen), self.seconds(now));
        if self.cmos[0][spec::B] & spec::B_SET == 0 && to > from {
            flags |= spec::C_UF;
            flags |= if self.next_alarm(from).is_some_and(|at| at <= to) { spec::C_AF } else { 0 };
        }
        flags
    }

    /// Clock time of the next event whose flag is in `waiting`.
    fn next_event(&self, now: i128, waiting: u8) -> Option<i128> {
        let shown = now + self.offset;
        let set = self.cmos[0][spec::B] & spec::B_SET != 0;
        let ns = i128::from(NS);
        let periodic = self.period_ns().filter(|_| waiting & spec::C_PF != 0).map(|period| {
            let period = period as i128;
            (shown.div_euclid(period) + 1) * period
        });
        let update = (waiting & spec::C_UF != 0 && !set).then(|| (shown.div_euclid(ns) + 1) * ns);
        let alarm = self
            .next_alarm(self.seconds(now))
            .filter(|_| waiting & spec::C_AF != 0 && !set)
            .map(|seconds| i128::from(seconds) * ns);
        [periodic, update, alarm].into_iter().flatten().min().map(|shown| shown - self.offset)
    }
}

struct BankPorts {
    rtc: Arc<Rtc>,
    bank: usize,
}

impl MmioHandler for BankPorts {
    fn read(&self, offset: u64, _: usize) -> u64 {
        // The index port cannot be read.
        if offset == 0 { 0xff } else { u64::from(self.rtc.read(self.bank)) }
    }

    fn write(&self, offset: u64, _: usize, value: u64) {
        if offset == 0 {
            self.rtc.state.lock().index[self.bank] = value as u8;
        } else {
            self.rtc.write(self.bank, value as u8);
        }
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::BYTE
    }
}

impl Reset for Rtc {
    /// The battery keeps time and memory; interrupts are switched off.
    fn reset(&self, _: ResetKind) {
        let mut state = self.state.lock();
        state.cmos[0][spec::B] &= !(spec::B_PIE | spec::B_AIE | spec::B_UIE);
        state.cmos[0][spec::C] = 0;
        state.index = [0; 2];
        for &(index, value) in &self.config.cmos {
            state.cmos[0][usize::from(index & 0x7f)] = value;
        }
        self.sync(&mut state);
    }
}

rhea_device::saved_record! { "mc146818", 1,
    /// Saved state of the real-time clock.
    pub struct RtcSavedV1 {
        /// Index registers.
        index: [u8; 2],
        /// Both banks.
        cmos: [[u8; 128]; 2],
        /// Time shown at the moment of saving: seconds since 1970.
        seconds: i64,
        /// Nanoseconds into that second.
        nanoseconds: u32,
    }
}

impl StateUnit for Rtc {
    fn save(&self) -> SavedRecord {
        let mut state = self.state.lock();
        self.sync(&mut state);
        let now = state.seen;
        save_record(&RtcSavedV1 {
            index: state.index,
            cmos: state.cmos,
            seconds: state.seconds(now),
            nanoseconds: state.of_second(now) as u32,
        })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let saved: RtcSavedV1 = load_record(record)?;
        let mut state = self.state.lock();
        let now = self.clock_ns();
        let shown = i128::from(saved.seconds) * i128::from(NS) + i128::from(saved.nanoseconds);
        *state = State { index: saved.index, cmos: saved.cmos, offset: shown - now, seen: now };
        self.sync(&mut state);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{EdgeCount, Rig};

    /// 2024-02-29 23:59:58
    const START: i64 = 1_709_251_198;

    fn rtc(rig: &Rig, irq: IrqLine) -> (Arc<Rtc>, impl Fn(u8) -> u8, impl Fn(u8, u8)) {
        let config =
            RtcConfig { base: RtcBase::Fixed(START), clock: RtcClock::Virtual, cmos: vec![(0x0f, 0x42)] };
        let rtc = Rtc::new(config, &rig.clock, irq);
        let (r, w) = (rtc.ports(false), rtc.ports(false));
        let read = move |index: u8| {
            r.write(0, 1, u64::from(index));
            r.read(1, 1) as u8
        };
        let write = move |index: u8, value: u8| {
            w.write(0, 1, u64::from(index));
            w.write(1, 1, u64::from(value));
        };
        (rtc, read, write)
    }

    #[test]
    fn civil_time_round_trips() {
        for seconds in [0, START, -1, 4_102_444_799, 951_782_400, 1_234_567_890] {
            assert_eq!(Civil::from_seconds(seconds).to_seconds(), seconds);
        }
        let t = Civil::from_seconds(START);
        assert_eq!((t.year, t.month, t.day, t.hour, t.minute, t.second), (2024, 2, 29, 23, 59, 58));
    }

    #[test]
    fn the_time_runs_in_bcd_and_binary_across_a_leap_day() {
        let rig = Rig::new();
        let (_rtc, read, write) = rtc(&rig, IrqLine::unconnected());
        let date = || [0x32, 9, 8, 7, 6, 4, 2, 0].map(&read);
        assert_eq!(date(), [0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x59, 0x58]);
        rig.run_for(2 * NS);
        assert_eq!(date(), [0x20, 0x24, 0x03, 0x01, 6, 0, 0, 0]);
        write(0x0b, 0x06);
        assert_eq!(date(), [20, 24, 3, 1, 6, 0, 0, 0]);
        write(0x0b, 0x00);
        assert_eq!(read(4), 0x12, "12-hour clock: midnight");
        assert_eq!(read(0x0f), 0x42);
        assert_eq!(read(0x0d), 0x80);
    }

    #[test]
    fn the_time_can_be_set() {
        let rig = Rig::new();
        let (_rtc, read, write) = rtc(&rig, IrqLine::unconnected());
        write(0x0b, 0x82);
        for (index, value) in [(0x32, 0x19), (9, 0x99), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x59), (0, 0x59)]
        {
            write(index, value);
        }
        rig.run_for(5 * NS);
        assert_eq!(read(0), 0x59, "held by SET");
        write(0x0b, 0x02);
        rig.run_for(NS / 2 - 100_000);
        assert_eq!((read(0), read(0x0a) & 0x80), (0x59, 0x80), "update in progress");
        rig.run_for(200_000);
        assert_eq!([0x32, 9, 8, 7, 4, 2, 0].map(&read), [0x20, 0, 1, 1, 0, 0, 0]);
    }

    #[test]
    fn periodic_update_and_alarm_interrupts() {
        let rig = Rig::new();
        let edges = EdgeCount::new();
        let (_rtc, read, write) = rtc(&rig, edges.line());
        assert_eq!(rig.clock.next_deadline(), None, "nothing enabled: no wake-ups");
        write(0x0b, 0x42);
        rig.run_for(NS);
        assert_eq!(edges.count(), 1, "no second edge before register C is read");
        assert_eq!(read(0x0c) & 0xc0, 0xc0);
        rig.run_for(976_563);
        assert_eq!(edges.count(), 2);
        write(0x0b, 0x12);
        read(0x0c);
        rig.run_for(NS);
        assert_eq!((edges.count(), read(0x0c) & 0x90), (3, 0x90));
        for (index, value) in [(1, 0x30), (3, 0xff), (5, 0xff), (0x0b, 0x22)] {
            write(index, value);
        }
        let before = edges.count();
        rig.run_for(40 * NS);
        assert_eq!((edges.count() - before, read(0x0c) & 0xa0), (1, 0xa0));
    }

    #[test]
    fn any_bytes_leave_it_standing_and_savable() {
        let rig = Rig::new();
        let (rtc, read, write) = rtc(&rig, IrqLine::unconnected());
        let mut seed = 7u32;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (index, value) = ((seed >> 24) as u8 & 0x3f, (seed >> 8) as u8);
            if seed >> 31 == 0 {
                read(index);
            } else {
                write(index, value);
            }
            rig.run_for(u64::from(seed >> 12));
        }
        let record = rtc.save();
        rtc.load(&record).unwrap();
        assert_eq!(rtc.save(), record);
    }
}

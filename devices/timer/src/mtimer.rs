//! The machine timer of RISC-V boards: the counter mtime, and a compare register mtimecmp for each hart.
//!
//! Source: RISC-V ACLINT specification 1.0-rc4, chapter 2 (MTIMER); privileged specification, "Machine Timer (mtime and
//! mtimecmp) Registers". The layout is that of a SiFive CLINT from its offset 4000h on.
//!
//! mtime follows virtual time at a fixed frequency. A host timer is armed only while a compare value lies ahead.

use crate::{NS, scale, scale_up};
use parking_lot::Mutex;
use rhea_device::{
    IrqLine, LoadError, Reset, ResetKind, SavedRecord, StateUnit, Timer, VirtualClock, load_record,
    save_record,
};
use rhea_memory::{AccessSizes, MmioHandler};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// Bytes of the register window.
pub const MTIMER_SIZE: u64 = 0x8000;
/// Offset of mtime; mtimecmp of hart n is at 8 n.
pub const MTIME: u64 = 0x7ff8;
/// Most harts that the window has registers for.
pub const MTIMER_HARTS: usize = 4095;

struct Hart {
    irq: IrqLine,
    timer: Timer,
}

/// The machine timer of all harts.
pub struct Mtimer {
    clock: Arc<VirtualClock>,
    frequency: u64,
    /// Added (wrapping) to the ticks of virtual time to give mtime.
    offset: AtomicU64,
    harts: Vec<Hart>,
    /// mtimecmp of each hart.
    compare: Mutex<Vec<u64>>,
    followers: Mutex<Vec<Weak<MtimeAlarm>>>,
}

/// Calls back when mtime reaches a value that can be changed at any time: what stands behind a hart's stimecmp (Sstc).
pub struct MtimeAlarm {
    mtimer: Weak<Mtimer>,
    timer: Timer,
    at: Mutex<Option<u64>>,
}

impl MtimeAlarm {
    /// Sets the value of mtime to wait for; `None` waits for nothing. A value that has passed calls back at once, from
    /// the clock's thread.
    pub fn set(&self, at: Option<u64>) {
        *self.at.lock() = at;
        self.sync();
    }

    fn sync(&self) {
        let at = self.at.lock();
        match self.mtimer.upgrade().zip(*at).and_then(|(mtimer, at)| mtimer.deadline(at)) {
            Some(deadline) => self.timer.arm(deadline),
            None => self.timer.cancel(),
        }
    }
}

impl Mtimer {
    /// A timer counting at `frequency` Hz (at least 1) that drives one line for each hart.
    ///
    /// # Panics
    /// With more than [`MTIMER_HARTS`] harts: boards are built by us.
    pub fn new(clock: &Arc<VirtualClock>, frequency: u64, lines: Vec<IrqLine>) -> Arc<Self> {
        assert!(lines.len() <= MTIMER_HARTS, "more harts than the window has registers for");
        Arc::new_cyclic(|weak: &Weak<Self>| {
            let hart = |(index, irq): (usize, IrqLine)| {
                let weak = weak.clone();
                let timer = clock.timer("mtimer", move || {
                    if let Some(mtimer) = weak.upgrade() {
                        let compare = mtimer.compare.lock();
                        mtimer.sync(&compare, index);
                    }
                });
                Hart { irq, timer }
            };
            Self {
                clock: clock.clone(),
                frequency: frequency.max(1),
                offset: AtomicU64::new(0),
                compare: Mutex::new(vec![u64::MAX; lines.len()]),
                harts: lines.into_iter().enumerate().map(hart).collect(),
                followers: Mutex::default(),
            }
        })
    }

    /// Ticks a second.
    pub fn frequency(&self) -> u64 {
        self.frequency
    }

    /// mtime now.
    pub fn mtime(&self) -> u64 {
        self.ticks().wrapping_add(self.offset.load(Ordering::Acquire))
    }

    /// An alarm that waits for nothing yet. `wake` runs on the clock's thread with no lock held; it may come early when
    /// mtime is written, so whoever is woken looks at [`Mtimer::mtime`].
    pub fn alarm(self: &Arc<Self>, wake: impl Fn() + Send + Sync + 'static) -> Arc<MtimeAlarm> {
        let timer = self.clock.timer("mtime alarm", wake);
        let alarm = Arc::new(MtimeAlarm { mtimer: Arc::downgrade(self), timer, at: Mutex::new(None) });
        let mut followers = self.followers.lock();
        followers.retain(|follower| follower.strong_count() > 0);
        followers.push(Arc::downgrade(&alarm));
        alarm
    }

    fn ticks(&self) -> u64 {
        let now = self.clock.now();
        if NS.is_multiple_of(self.frequency) {
            now / (NS / self.frequency)
        } else {
            scale(now, NS, self.frequency)
        }
    }

    /// Virtual time at which mtime reaches `at`, or now if it has; `None` if that is beyond the end of virtual time.
    fn deadline(&self, at: u64) -> Option<u64> {
        let ahead = at.saturating_sub(self.mtime());
        let deadline = scale_up(self.ticks().checked_add(ahead)?, self.frequency, NS);
        (deadline < u64::MAX).then_some(deadline)
    }

    /// Drives a hart's line, and arms its timer if that is to change by itself.
    fn sync(&self, compare: &[u64], index: usize) {
        let (Some(hart), Some(at)) = (self.harts.get(index), compare.get(index)) else { return };
        let due = self.mtime() >= *at;
        hart.irq.set(due);
        match self.deadline(*at).filter(|_| !due) {
            Some(deadline) => hart.timer.arm(deadline),
            None => hart.timer.cancel(),
        }
    }

    fn sync_all(&self, compare: &[u64]) {
        (0..self.harts.len()).for_each(|index| self.sync(compare, index));
        let followers = self.followers.lock().clone();
        followers.iter().filter_map(Weak::upgrade).for_each(|alarm| alarm.sync());
    }

    fn set_mtime(&self, value: u64) {
        self.offset.store(value.wrapping_sub(self.ticks()), Ordering::Release);
    }
}

/// The `size` bytes of a 64-bit register at the low bits of `offset`.
fn part(register: u64, offset: u64, size: usize) -> u64 {
    if size == 4 { register >> (8 * (offset & 4)) & 0xffff_ffff } else { register }
}

/// As [`part`], for a write.
fn merge(register: u64, offset: u64, size: usize, value: u64) -> u64 {
    if size != 4 {
        return value;
    }
    let shift = 8 * (offset & 4);
    register & !(0xffff_ffff << shift) | (value & 0xffff_ffff) << shift
}

impl MmioHandler for Mtimer {
    fn read(&self, offset: u64, size: usize) -> u64 {
        let register = if offset & !7 == MTIME {
            self.mtime()
        } else {
            self.compare.lock().get((offset / 8) as usize).copied().unwrap_or(0)
        };
        part(register, offset, size)
    }

    fn write(&self, offset: u64, size: usize, value: u64) {
        let mut compare = self.compare.lock();
        if offset & !7 == MTIME {
            self.set_mtime(merge(self.mtime(), offset, size, value));
            self.sync_all(&compare);
            return;
        }
        let index = (offset / 8) as usize;
        if let Some(register) = compare.get_mut(index) {
            *register = merge(*register, offset, size, value);
            self.sync(&compare, index);
        }
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes { min: 4, max: 8 }
    }
}

impl Reset for Mtimer {
    /// mtime shows virtual time again, as the harts' `time` always does; mtimecmp, which the specification leaves open,
    /// starts at its highest value, so that nothing is due.
    fn reset(&self, _: ResetKind) {
        let mut compare = self.compare.lock();
        self.offset.store(0, Ordering::Release);
        compare.fill(u64::MAX);
        self.sync_all(&compare);
    }
}

rhea_device::saved_record! { "riscv-mtimer", 1,
    /// Saved state of the machine timer.
    pub struct MtimerSavedV1 {
        /// Difference of mtime and the ticks of virtual time.
        offset: u64,
        /// mtimecmp of each hart.
        compare: Vec<u64>,
    }
}

impl StateUnit for Mtimer {
    fn save(&self) -> SavedRecord {
        let compare = self.compare.lock();
        save_record(&MtimerSavedV1 { offset: self.offset.load(Ordering::Acquire), compare: compare.clone() })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let saved: MtimerSavedV1 = load_record(record)?;
        let mut compare = self.compare.lock();
        if saved.compare.len() != compare.len() {
            return Err(LoadError::BadValue { device: "riscv-mtimer", field: "number of harts" });
        }
        *compare = saved.compare;
        self.offset.store(saved.offset, Ordering::Release);
        self.sync_all(&compare);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{EdgeCount, Rig};
    use proptest::prelude::*;

    const HZ: u64 = 10_000_000;

    #[test]
    fn the_line_follows_the_comparison() {
        let rig = Rig::new();
        let lines = [IrqLine::unconnected(), IrqLine::unconnected()];
        let mtimer = Mtimer::new(&rig.clock, HZ, lines.to_vec());
        mtimer.reset(ResetKind::Cold);
        rig.run_for(1000);
        assert_eq!(mtimer.read(MTIME, 8), 10);
        mtimer.write(8, 8, 25);
        rig.run_for(1499);
        assert!(!lines[1].level(), "2499 ns are 24 ticks");
        rig.run_for(1);
        assert_eq!((lines[0].level(), lines[1].level()), (false, true));
        mtimer.write(8, 8, 26);
        assert!(!lines[1].level());
        mtimer.write(MTIME + 4, 4, 1);
        assert_eq!(mtimer.read(MTIME, 8), 1 << 32 | 25);
        assert!(lines[1].level(), "mtime jumped over it");
        assert!(!lines[0].level());
    }

    #[test]
    fn an_alarm_follows_mtime_when_it_is_written() {
        let rig = Rig::new();
        let mtimer = Mtimer::new(&rig.clock, HZ, vec![]);
        let edges = EdgeCount::new();
        let line = edges.line();
        let alarm = mtimer.alarm(move || line.pulse());
        alarm.set(Some(1000));
        rig.run_for(90_000);
        assert_eq!(edges.count(), 0);
        mtimer.write(MTIME, 8, 999);
        rig.run_for(100);
        assert_eq!(edges.count(), 1);
        alarm.set(Some(2000));
        alarm.set(None);
        rig.run_for(1_000_000);
        assert_eq!(edges.count(), 1);
    }

    #[test]
    fn state_comes_back_and_a_wrong_number_of_harts_is_refused() {
        let rig = Rig::new();
        let line = IrqLine::unconnected();
        let mtimer = Mtimer::new(&rig.clock, HZ, vec![line.clone()]);
        mtimer.write(0, 8, 5);
        let record = mtimer.save();
        mtimer.reset(ResetKind::Cold);
        rig.run_for(500);
        assert!(!line.level());
        mtimer.load(&record).unwrap();
        assert!(line.level());
        assert!(Mtimer::new(&rig.clock, HZ, vec![]).load(&record).is_err());
    }

    proptest! {
        #[test]
        fn any_access_is_survived_and_the_line_is_the_comparison(
            accesses in proptest::collection::vec((0u64..0x1000, any::<bool>(), any::<u64>()), 0..40),
        ) {
            let rig = Rig::new();
            let lines: Vec<_> = (0..3).map(|_| IrqLine::unconnected()).collect();
            let mtimer = Mtimer::new(&rig.clock, HZ, lines.clone());
            for (offset, wide, value) in accesses {
                let size = if wide { 8 } else { 4 };
                let offset = (if offset & 1 == 0 { offset & 0x1f } else { MTIME | offset & 7 }) & !(size as u64 - 1);
                mtimer.write(offset, size, value);
                rig.run_for(value % 5000);
                for (hart, line) in lines.iter().enumerate() {
                    let due = mtimer.read(8 * hart as u64, 8) <= mtimer.mtime();
                    prop_assert_eq!(line.level(), due);
                }
            }
        }
    }
}

//! Virtual time by counting instructions (`-icount`): deterministic where the guest's input is.
//!
//! One instruction takes 2^shift nanoseconds. The vCPU executes in slices that end at the earliest timer deadline;
//! then due timers run on its thread. While it waits for an event, time jumps to the next deadline, either at once or
//! at the host's pace (`sleep`).
//!
//! Units count as a whole when they are entered: an instruction reads the time of its unit's end, and a unit left in
//! its middle has counted what it did not execute. Both are the same in each run.

use crate::vcpu::VcpuHandle;
use parking_lot::Mutex;
use rhea_device::{ClockSource, VirtualClock};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

/// No deadline.
const NEVER: u64 = u64::MAX;
/// Most instructions between two looks at the time.
const LONGEST_SLICE: u64 = 1 << 24;
/// Greatest shift that still lets an instruction be shorter than a second.
const GREATEST_SHIFT: u32 = 20;

/// Turns executed instructions into virtual time.
pub struct InstructionCounter {
    shift: u32,
    sleep: bool,
    executed: AtomicU64,
    /// Nanoseconds added by waiting.
    idle_ns: AtomicU64,
    deadline: AtomicU64,
    moved: AtomicBool,
    clock: Mutex<Weak<VirtualClock>>,
    /// The vCPU sleeps by the deadline that stood when this was set.
    waiting: AtomicBool,
    vcpu: OnceLock<VcpuHandle>,
}

impl fmt::Debug for InstructionCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstructionCounter(shift {}, {} ns)", self.shift, self.now_ns())
    }
}

impl InstructionCounter {
    /// A counter at which one instruction takes `2^shift` ns (`shift` is at most 20), and the clock it drives. With
    /// `sleep`, a waiting vCPU lets as much host time pass as virtual time does; without, time jumps.
    pub fn new(shift: u32, sleep: bool) -> (Arc<Self>, Arc<VirtualClock>) {
        let counter = Arc::new(InstructionCounter {
            shift: shift.min(GREATEST_SHIFT),
            sleep,
            executed: AtomicU64::new(0),
            idle_ns: AtomicU64::new(0),
            deadline: AtomicU64::new(NEVER),
            moved: AtomicBool::new(false),
            clock: Mutex::new(Weak::new()),
            waiting: AtomicBool::new(false),
            vcpu: OnceLock::new(),
        });
        let clock = VirtualClock::driven(counter.clone());
        *counter.clock.lock() = Arc::downgrade(&clock);
        (counter, clock)
    }

    /// Names the vCPU whose instructions are counted: while it waits, it is woken when another thread (a terminal's)
    /// moves the deadline. The first call counts.
    pub fn wake_by(&self, vcpu: VcpuHandle) {
        // A second vCPU would be a second source of the same time.
        let _ = self.vcpu.set(vcpu);
    }

    /// The vCPU begins (true) or has ended (false) a wait: it reads the deadline after the begin.
    pub(crate) fn set_waiting(&self, waiting: bool) {
        self.waiting.store(waiting, Ordering::SeqCst);
    }

    /// Instructions executed so far.
    pub fn executed(&self) -> u64 {
        self.executed.load(Ordering::Relaxed)
    }

    pub(crate) fn set_executed(&self, executed: u64) {
        self.executed.store(executed, Ordering::Relaxed);
    }

    /// Whether the earliest deadline changed since the last call.
    pub(crate) fn deadline_moved(&self) -> bool {
        self.moved.load(Ordering::Acquire) && self.moved.swap(false, Ordering::AcqRel)
    }

    fn until_deadline(&self) -> u64 {
        self.deadline.load(Ordering::Acquire).saturating_sub(self.now_ns())
    }

    /// Instructions to the next deadline; at least one unless it is due.
    pub(crate) fn allowance(&self) -> u64 {
        self.until_deadline().div_ceil(1 << self.shift).min(LONGEST_SLICE)
    }

    /// Runs the timers that are due.
    pub(crate) fn run_due(&self) {
        let clock = self.clock.lock().upgrade();
        if let Some(clock) = clock {
            clock.run_due();
        }
    }

    /// How long a waiting vCPU has to sleep on the host before [`InstructionCounter::skip`]; `None` without a
    /// deadline.
    pub(crate) fn idle_time(&self) -> Option<Duration> {
        let armed = self.deadline.load(Ordering::SeqCst) != NEVER;
        let left = self.until_deadline();
        armed.then(|| if self.sleep { Duration::from_nanos(left) } else { Duration::ZERO })
    }

    /// Lets time pass while the vCPU waits: to the next deadline, or `slept` if that is less.
    pub(crate) fn skip(&self, slept: Option<Duration>) {
        let slept = slept.map_or(u64::MAX, |d| d.as_nanos() as u64);
        let left = self.until_deadline();
        if self.deadline.load(Ordering::Acquire) != NEVER {
            self.idle_ns.fetch_add(left.min(slept), Ordering::AcqRel);
        }
    }
}

impl ClockSource for InstructionCounter {
    fn now_ns(&self) -> u64 {
        (self.executed.load(Ordering::Relaxed) << self.shift)
            .saturating_add(self.idle_ns.load(Ordering::Acquire))
    }

    fn deadline_changed(&self, deadline: Option<u64>) {
        // Stored before `waiting` is looked at, as the vCPU sets `waiting` before it looks at the deadline: one of the
        // two sees the other.
        self.deadline.store(deadline.unwrap_or(NEVER), Ordering::SeqCst);
        self.moved.store(true, Ordering::Release);
        if self.waiting.load(Ordering::SeqCst)
            && let Some(vcpu) = self.vcpu.get()
        {
            vcpu.kick();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_pass_time_up_to_the_deadline() {
        let (counter, clock) = InstructionCounter::new(3, false);
        let timer = clock.timer("test", || {});
        timer.arm(100);
        assert!(counter.deadline_moved());
        assert_eq!(counter.allowance(), 13);
        counter.set_executed(13);
        assert_eq!((clock.now(), counter.allowance()), (104, 0));
        counter.run_due();
        assert_eq!(timer.deadline(), None);
    }

    #[test]
    fn waiting_jumps_to_the_deadline() {
        let (counter, clock) = InstructionCounter::new(0, false);
        let timer = clock.timer("test", || {});
        timer.arm(5_000);
        assert_eq!(counter.idle_time(), Some(Duration::ZERO));
        counter.skip(None);
        assert_eq!(clock.now(), 5_000);
    }
}

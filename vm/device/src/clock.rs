//! Virtual time: a nanosecond clock that stands still while the machine is stopped, and its timers.
//!
//! Time comes either from the host's monotonic clock or from a [`ClockSource`] (an instruction counter). In the
//! first case one thread sleeps until the earliest deadline and runs the callbacks; with no timer armed it
//! sleeps without end, so an idle machine causes no wake-ups. In the second case whoever advances the source
//! calls [`VirtualClock::run_due`], and time is as deterministic as the source.
//!
//! Locking: the clock's lock is a leaf. [`Timer::arm`] and [`Timer::cancel`] may be called under any device's
//! lock; callbacks run with no lock held. A callback that had begun may still run after `cancel` returned, so a
//! callback looks at its device's state, under the device's lock, before it acts.

use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Where virtual time comes from when it is not the host's clock.
pub trait ClockSource: Send + Sync {
    /// Nanoseconds since the machine was built; never decreases.
    fn now_ns(&self) -> u64;
    /// The earliest timer deadline changed. Called under device locks: do little, call nothing back.
    fn deadline_changed(&self, deadline: Option<u64>);
}

type Callback = Box<dyn Fn() + Send + Sync>;

/// Longest single sleep; the thread looks again afterwards.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
/// `paused_at` while the clock runs.
const RUNNING: u64 = u64::MAX;

#[derive(Default)]
struct Queue {
    /// Armed timers by deadline, then by order of arming.
    armed: BTreeMap<(u64, u64), Arc<TimerInner>>,
    sequence: u64,
    /// Deadline the thread sleeps until; `None` if it sleeps without end or does not sleep.
    sleeps_until: Option<u64>,
    stop: bool,
}

struct Inner {
    source: Option<Arc<dyn ClockSource>>,
    origin: Instant,
    /// Added to host nanoseconds to give virtual ones.
    offset: AtomicI64,
    /// Virtual time at which the clock was paused, or [`RUNNING`].
    paused_at: AtomicU64,
    queue: Mutex<Queue>,
    wake: Condvar,
}

struct TimerInner {
    name: &'static str,
    /// Key in the queue while armed. Changed under the queue's lock only.
    key: Mutex<Option<(u64, u64)>>,
    callback: Callback,
}

/// The clock of one machine.
pub struct VirtualClock {
    inner: Arc<Inner>,
}

/// A one-shot timer on a [`VirtualClock`]. Dropping it disarms it.
pub struct Timer {
    clock: Weak<Inner>,
    timer: Arc<TimerInner>,
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timer({}, {:?})", self.timer.name, self.deadline())
    }
}

impl VirtualClock {
    /// A clock that follows the host's monotonic clock, paused at zero until [`VirtualClock::resume`].
    pub fn realtime() -> Arc<Self> {
        let clock = Self::build(None);
        let inner = clock.inner.clone();
        let spawned = std::thread::Builder::new().name("timers".into()).spawn(move || inner.run());
        // Without its thread no timer would ever fire; nothing sensible could run on such a host.
        spawned.expect("the host refuses a thread for the timers");
        clock
    }

    /// A clock driven by `source`; it has no thread and needs [`VirtualClock::run_due`].
    pub fn driven(source: Arc<dyn ClockSource>) -> Arc<Self> {
        Self::build(Some(source))
    }

    fn build(source: Option<Arc<dyn ClockSource>>) -> Arc<Self> {
        let paused_at = AtomicU64::new(if source.is_some() { RUNNING } else { 0 });
        Arc::new(Self {
            inner: Arc::new(Inner {
                source,
                origin: Instant::now(),
                offset: AtomicI64::new(0),
                paused_at,
                queue: Mutex::default(),
                wake: Condvar::new(),
            }),
        })
    }

    /// Virtual nanoseconds now.
    pub fn now(&self) -> u64 {
        self.inner.now()
    }

    /// True when time comes from a [`ClockSource`].
    pub fn is_driven(&self) -> bool {
        self.inner.source.is_some()
    }

    /// Stops time (the machine is stopped). A driven clock stands still by itself.
    pub fn pause(&self) {
        let inner = &self.inner;
        let _queue = inner.queue.lock();
        if inner.source.is_none() && inner.paused_at.load(Ordering::Acquire) == RUNNING {
            inner.paused_at.store(inner.now(), Ordering::Release);
        }
    }

    /// Lets time go on from where it stopped.
    pub fn resume(&self) {
        let inner = &self.inner;
        let _queue = inner.queue.lock();
        let paused_at = inner.paused_at.load(Ordering::Acquire);
        if paused_at != RUNNING {
            inner.offset.store(paused_at as i64 - inner.host_ns() as i64, Ordering::Release);
            inner.paused_at.store(RUNNING, Ordering::Release);
            inner.wake.notify_all();
        }
    }

    /// Makes a disarmed timer that calls `callback` when it fires. The callback must not own the device that
    /// owns the timer (use a `Weak`).
    pub fn timer(&self, name: &'static str, callback: impl Fn() + Send + Sync + 'static) -> Timer {
        let timer = Arc::new(TimerInner { name, key: Mutex::new(None), callback: Box::new(callback) });
        Timer { clock: Arc::downgrade(&self.inner), timer }
    }

    /// Earliest deadline of an armed timer, in virtual nanoseconds.
    pub fn next_deadline(&self) -> Option<u64> {
        self.inner.queue.lock().armed.keys().next().map(|key| key.0)
    }

    /// Runs the callbacks of all timers that are due; true if any ran.
    pub fn run_due(&self) -> bool {
        let mut ran = false;
        while let Some(timer) = self.inner.take_due() {
            (timer.callback)();
            ran = true;
        }
        ran
    }
}

impl Drop for VirtualClock {
    fn drop(&mut self) {
        self.inner.queue.lock().stop = true;
        self.inner.wake.notify_all();
    }
}

impl Inner {
    fn host_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    fn now(&self) -> u64 {
        if let Some(source) = &self.source {
            return source.now_ns();
        }
        match self.paused_at.load(Ordering::Acquire) {
            RUNNING => self.host_ns().wrapping_add_signed(self.offset.load(Ordering::Acquire)),
            paused => paused,
        }
    }

    /// Disarms and returns the earliest timer that is due.
    fn take_due(&self) -> Option<Arc<TimerInner>> {
        let mut queue = self.queue.lock();
        let key = *queue.armed.keys().next()?;
        if key.0 > self.now() {
            return None;
        }
        let timer = queue.armed.remove(&key)?;
        *timer.key.lock() = None;
        self.deadline_changed(&queue);
        Some(timer)
    }

    fn deadline_changed(&self, queue: &Queue) {
        if let Some(source) = &self.source {
            source.deadline_changed(queue.armed.keys().next().map(|key| key.0));
        }
    }

    /// The timer thread of a real-time clock.
    fn run(&self) {
        let mut queue = self.queue.lock();
        while !queue.stop {
            let first = queue.armed.keys().next().copied();
            let running = self.paused_at.load(Ordering::Acquire) == RUNNING;
            let Some(key) = first.filter(|_| running) else {
                queue.sleeps_until = None;
                self.wake.wait(&mut queue);
                continue;
            };
            let now = self.now();
            if key.0 <= now {
                let timer = queue.armed.remove(&key);
                if let Some(timer) = timer {
                    *timer.key.lock() = None;
                    drop(queue);
                    (timer.callback)();
                    drop(timer);
                    queue = self.queue.lock();
                }
                continue;
            }
            queue.sleeps_until = Some(key.0);
            let sleep = Duration::from_nanos(key.0 - now).min(LONGEST_SLEEP);
            self.wake.wait_for(&mut queue, sleep);
            queue.sleeps_until = None;
        }
    }
}

impl Timer {
    /// Arms the timer to fire at virtual time `deadline` (ns), or at once if that has passed. An armed timer is
    /// moved.
    pub fn arm(&self, deadline: u64) {
        let Some(clock) = self.clock.upgrade() else { return };
        let mut queue = clock.queue.lock();
        let mut key = self.timer.key.lock();
        if let Some(old) = key.take() {
            queue.armed.remove(&old);
        }
        queue.sequence += 1;
        let new = (deadline, queue.sequence);
        queue.armed.insert(new, self.timer.clone());
        *key = Some(new);
        drop(key);
        clock.deadline_changed(&queue);
        if clock.source.is_none() && queue.sleeps_until.is_none_or(|until| deadline < until) {
            clock.wake.notify_all();
        }
    }

    /// Disarms the timer.
    pub fn cancel(&self) {
        let Some(clock) = self.clock.upgrade() else { return };
        let mut queue = clock.queue.lock();
        if let Some(old) = self.timer.key.lock().take() {
            queue.armed.remove(&old);
            clock.deadline_changed(&queue);
        }
    }

    /// Deadline in virtual nanoseconds while armed.
    pub fn deadline(&self) -> Option<u64> {
        self.timer.key.lock().map(|key| key.0)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[derive(Default)]
    struct Counter(AtomicU64);

    impl ClockSource for Counter {
        fn now_ns(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
        fn deadline_changed(&self, _: Option<u64>) {}
    }

    #[test]
    fn a_driven_clock_fires_in_order_of_deadlines() {
        let source = Arc::new(Counter::default());
        let clock = VirtualClock::driven(source.clone());
        let (tx, rx) = mpsc::channel();
        let timers: Vec<Timer> = [30, 10, 20]
            .map(|at| {
                let tx = tx.clone();
                let timer = clock.timer("test", move || tx.send(at).unwrap());
                timer.arm(at);
                timer
            })
            .into();
        assert_eq!(clock.next_deadline(), Some(10));
        timers[2].cancel();
        source.0.store(40, Ordering::Relaxed);
        assert!(clock.run_due());
        assert_eq!(rx.try_iter().collect::<Vec<u64>>(), [10, 30]);
        assert_eq!(timers[0].deadline(), None);
        assert!(!clock.run_due());
    }

    #[test]
    fn a_realtime_clock_fires_and_stands_still_while_paused() {
        let clock = VirtualClock::realtime();
        assert_eq!(clock.now(), 0);
        let (tx, rx) = mpsc::channel();
        let timer = clock.timer("test", move || tx.send(()).unwrap());
        timer.arm(1_000_000);
        assert!(rx.recv_timeout(Duration::from_millis(20)).is_err(), "paused: nothing fires");
        clock.resume();
        rx.recv_timeout(Duration::from_secs(120)).unwrap();
        assert!(clock.now() >= 1_000_000);
        clock.pause();
        let now = clock.now();
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(clock.now(), now);
    }

    #[test]
    fn an_earlier_deadline_wakes_the_sleeping_thread() {
        let clock = VirtualClock::realtime();
        clock.resume();
        let (tx, rx) = mpsc::channel();
        let late = clock.timer("late", || {});
        late.arm(clock.now() + 60_000_000_000);
        std::thread::sleep(Duration::from_millis(10));
        let early = clock.timer("early", move || tx.send(()).unwrap());
        early.arm(clock.now() + 1_000_000);
        rx.recv_timeout(Duration::from_secs(120)).unwrap();
    }
}

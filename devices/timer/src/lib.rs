//! Timers. Of a PC: the 8254 interval timer with port 61h, the real-time clock with its CMOS memory, and the HPET. Of a
//! RISC-V board: the machine timer and the Goldfish real-time clock.
//!
//! None of them ticks: counters follow from virtual time, and a host timer is armed only for the next event that
//! a guest can notice as an interrupt. An idle machine causes no wake-ups.

pub mod goldfish_rtc;
pub mod hpet;
pub mod mtimer;
pub mod pit;
pub mod rtc;
mod wall_clock;

pub use goldfish_rtc::GoldfishRtc;
pub use hpet::{Hpet, HpetLines, LegacyRoute};
pub use mtimer::{MtimeAlarm, Mtimer};
pub use pit::Pit;
pub use rtc::{Rtc, RtcBase, RtcClock, RtcConfig};

/// `value` units at `from` per second, in units at `to` per second, rounded down.
fn scale(value: u64, from: u64, to: u64) -> u64 {
    u64::try_from(u128::from(value) * u128::from(to) / u128::from(from)).unwrap_or(u64::MAX)
}

/// As [`scale`], rounded up: the time at which the count is reached.
fn scale_up(value: u64, from: u64, to: u64) -> u64 {
    u64::try_from((u128::from(value) * u128::from(to)).div_ceil(u128::from(from))).unwrap_or(u64::MAX)
}

/// Nanoseconds a second.
const NS: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use rhea_device::{ClockSource, IrqLine, IrqSink, VirtualClock};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Default)]
    pub(crate) struct Counter(AtomicU64);

    impl ClockSource for Counter {
        fn now_ns(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
        fn deadline_changed(&self, _: Option<u64>) {}
    }

    /// A clock that steps from deadline to deadline.
    pub(crate) struct Rig {
        source: Arc<Counter>,
        pub clock: Arc<VirtualClock>,
    }

    impl Rig {
        pub(crate) fn new() -> Self {
            let source = Arc::new(Counter::default());
            Self { clock: VirtualClock::driven(source.clone()), source }
        }

        pub(crate) fn run_for(&self, ns: u64) {
            let end = self.source.now_ns() + ns;
            while let Some(deadline) = self.clock.next_deadline().filter(|at| *at <= end) {
                self.source.0.fetch_max(deadline, Ordering::Relaxed);
                self.clock.run_due();
            }
            self.source.0.store(end, Ordering::Relaxed);
        }
    }

    /// Counts rising edges.
    pub(crate) struct EdgeCount(AtomicU64);

    impl EdgeCount {
        pub(crate) fn new() -> Arc<Self> {
            Arc::new(Self(AtomicU64::new(0)))
        }
        pub(crate) fn line(self: &Arc<Self>) -> IrqLine {
            IrqLine::new(self.clone(), 0)
        }
        pub(crate) fn count(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    impl IrqSink for EdgeCount {
        fn set_level(&self, _: u32, level: bool) {
            self.0.fetch_add(u64::from(level), Ordering::Relaxed);
        }
    }
}

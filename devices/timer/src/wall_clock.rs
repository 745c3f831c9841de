//! The time of day that a real-time clock shows: where it starts, and what makes it go on.

use crate::NS;
use crate::rtc::{RtcBase, RtcClock};
use rhea_device::VirtualClock;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The clock that a real-time clock counts.
pub(crate) struct WallClock {
    kind: RtcClock,
    clock: Arc<VirtualClock>,
    origin: Instant,
}

/// The host's time of day, in nanoseconds since 1970.
fn host_ns() -> i128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i128)
}

impl WallClock {
    pub(crate) fn new(kind: RtcClock, clock: &Arc<VirtualClock>) -> Self {
        Self { kind, clock: clock.clone(), origin: Instant::now() }
    }

    /// Nanoseconds of the clock now, from some moment on.
    pub(crate) fn now_ns(&self) -> i128 {
        match self.kind {
            RtcClock::Virtual => i128::from(self.clock.now()),
            RtcClock::Monotonic => self.origin.elapsed().as_nanos() as i128,
            RtcClock::Host => host_ns(),
        }
    }

    /// What is to be added to [`WallClock::now_ns`] for a time of day that starts now at `base`.
    pub(crate) fn offset(&self, base: RtcBase) -> i128 {
        let start = match base {
            RtcBase::Utc => host_ns(),
            RtcBase::LocalTime(offset) => host_ns() + i128::from(offset) * i128::from(NS),
            RtcBase::Fixed(seconds) => i128::from(seconds) * i128::from(NS),
        };
        start - self.now_ns()
    }
}

//! Limits on bandwidth and operations a second, shared by the members of a group.
//!
//! Each limit is a bucket that leaks at the average rate: a request pours its bytes (or itself) in, and waits while the
//! bucket overflows. A burst is a higher rate for a bounded time, kept by a second bucket that leaks at that rate.
//! Names and meanings follow QAPI's ThrottleLimits.

use std::time::{Duration, Instant};

use async_lock::Mutex as AsyncMutex;
use parking_lot::Mutex;
use rhea_async_io::Timer;
use rhea_options::Options;

use crate::{BlockError, Result};

/// One limit. Rates are in units (bytes, or operations) a second; 0: none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limit {
    /// The rate over long times.
    pub average: u64,
    /// The rate in a burst.
    pub max: u64,
    /// Seconds a burst may last.
    pub max_length: u64,
}

/// All limits of a group.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ThrottleLimits {
    /// Bytes a second: total, read, write; then operations a second: total, read, write.
    pub limits: [Limit; 6],
    /// Bytes that count as one operation; 0: every request is one.
    pub iops_size: u64,
}

const NAMES: [&str; 6] = ["bps-total", "bps-read", "bps-write", "iops-total", "iops-read", "iops-write"];

/// Rates beyond this are refused, as in QEMU.
const MAX_RATE: u64 = 1_000_000_000_000_000;

impl ThrottleLimits {
    /// Takes the limits out of the options: `bps-total`, `iops-read-max`, `bps-write-max-length`… with a prefix before
    /// each (`x-` or `limits.`).
    pub fn take(options: &mut Options, prefix: &str) -> Result<Self> {
        let mut this = Self::default();
        for (limit, name) in this.limits.iter_mut().zip(NAMES) {
            let mut number = |suffix: &str| -> Result<Option<u64>> {
                Ok(options.take::<rhea_options::Size>(&format!("{prefix}{name}{suffix}"))?.map(|s| s.0))
            };
            limit.average = number("")?.unwrap_or(0);
            limit.max = number("-max")?.unwrap_or(0);
            limit.max_length = number("-max-length")?.unwrap_or(1);
        }
        this.iops_size =
            options.take::<rhea_options::Size>(&format!("{prefix}iops-size"))?.map_or(0, |s| s.0);
        this.check()?;
        Ok(this)
    }

    fn check(&self) -> Result<()> {
        for kind in [&self.limits[0..3], &self.limits[3..6]] {
            let (total, parts) = (kind[0], &kind[1..]);
            if total.average != 0 && parts.iter().any(|p| p.average != 0) {
                return Err(BlockError::invalid(
                    "bps/iops/max total values and read/write values cannot be used at the same time",
                ));
            }
        }
        if self.iops_size != 0 && self.limits[3..6].iter().all(|l| l.average == 0) {
            return Err(BlockError::invalid("iops size requires an iops value to be set"));
        }
        for limit in &self.limits {
            if limit.average > MAX_RATE || limit.max > MAX_RATE {
                return Err(BlockError::invalid(format!(
                    "bps/iops/max values must be within [0, {MAX_RATE}]"
                )));
            }
            if limit.max_length == 0 {
                return Err(BlockError::invalid("the burst length cannot be 0"));
            }
            if limit.max_length > 1 && limit.max == 0 {
                return Err(BlockError::invalid("burst length set without burst rate"));
            }
            if limit.max != 0 && limit.average == 0 {
                return Err(BlockError::invalid("bps_max/iops_max require corresponding bps/iops values"));
            }
            if limit.max != 0 && limit.max < limit.average {
                return Err(BlockError::invalid("bps_max/iops_max cannot be lower than bps/iops"));
            }
        }
        Ok(())
    }
}

/// A limit and how full it is.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    limit: Limit,
    level: f64,
    burst_level: f64,
}

impl Bucket {
    fn leak(&mut self, seconds: f64) {
        self.level = (self.level - self.limit.average as f64 * seconds).max(0.0);
        self.burst_level = (self.burst_level - self.limit.max as f64 * seconds).max(0.0);
    }

    fn pour(&mut self, units: f64) {
        self.level += units;
        if self.limit.max_length > 1 {
            self.burst_level += units;
        }
    }

    /// Seconds until a request may go.
    fn wait(&self) -> f64 {
        let Limit { average, max, max_length } = self.limit;
        if average == 0 {
            return 0.0;
        }
        let (average, max) = (average as f64, max as f64);
        // Without a burst, a tenth of a second's worth may go at once.
        let capacity = if max > 0.0 { max * max_length as f64 } else { average / 10.0 };
        let full = (self.level - capacity) / average;
        let burst = if max_length > 1 { (self.burst_level - max / 10.0) / max } else { 0.0 };
        full.max(burst).max(0.0)
    }
}

#[derive(Debug)]
struct State {
    limits: ThrottleLimits,
    buckets: [Bucket; 6],
    leaked: Instant,
}

impl State {
    fn leak(&mut self) {
        let now = Instant::now();
        let seconds = now.duration_since(self.leaked).as_secs_f64();
        self.leaked = now;
        self.buckets.iter_mut().for_each(|b| b.leak(seconds));
    }
}

/// A throttle group: its members share the limits, and take turns.
#[derive(Debug)]
pub struct ThrottleGroup {
    name: String,
    state: Mutex<State>,
    /// Reads wait for reads, writes for writes, first come first served.
    turns: [AsyncMutex<()>; 2],
}

impl ThrottleGroup {
    /// A group with these limits.
    pub fn new(name: &str, limits: ThrottleLimits) -> Self {
        let state = State { buckets: buckets(&limits), limits, leaked: Instant::now() };
        Self { name: name.into(), state: Mutex::new(state), turns: Default::default() }
    }

    /// A group from the options of `--object throttle-group` (without `id`): `x-bps-total=…` or `limits.bps-total=…`.
    pub fn from_options(name: &str, options: &mut Options) -> Result<Self> {
        let new = ThrottleLimits::take(options, "limits.")?;
        let old = ThrottleLimits::take(options, "x-")?;
        let empty = |l: &ThrottleLimits| l.limits.iter().all(|l| l.average == 0) && l.iops_size == 0;
        Ok(Self::new(name, if empty(&new) { old } else { new }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The limits in force.
    pub fn limits(&self) -> ThrottleLimits {
        self.state.lock().limits.clone()
    }

    /// Changes the limits; buckets begin empty.
    pub fn set_limits(&self, limits: ThrottleLimits) {
        let mut state = self.state.lock();
        state.buckets = buckets(&limits);
        state.limits = limits;
    }

    /// Waits until a request of so many bytes may go.
    pub async fn wait(&self, len: u64, write: bool) {
        let _turn = self.turns[usize::from(write)].lock().await;
        // Bytes total, of this direction; operations total, of this direction.
        let direction = usize::from(write) + 1;
        let mine = [0, direction, 3, 3 + direction];
        loop {
            let seconds = {
                let mut state = self.state.lock();
                state.leak();
                let seconds = mine.iter().map(|i| state.buckets[*i].wait()).fold(0.0, f64::max);
                if seconds <= 0.0 {
                    let operations = match state.limits.iops_size {
                        0 => 1.0,
                        size => (len as f64 / size as f64).max(1.0),
                    };
                    for index in mine {
                        state.buckets[index].pour(if index < 3 { len as f64 } else { operations });
                    }
                    return;
                }
                seconds
            };
            // Bounded, so that limits changed meanwhile take effect.
            Timer::after(Duration::from_secs_f64(seconds.clamp(0.000_1, 1.0))).await;
        }
    }
}

fn buckets(limits: &ThrottleLimits) -> [Bucket; 6] {
    limits.limits.map(|limit| Bucket { limit, ..Bucket::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_bucket_waits_until_it_has_leaked() {
        let mut bucket =
            Bucket { limit: Limit { average: 1000, max: 0, max_length: 1 }, ..Bucket::default() };
        assert_eq!(bucket.wait(), 0.0);
        bucket.pour(600.0);
        assert!((bucket.wait() - 0.5).abs() < 1e-9);
        bucket.leak(0.5);
        assert_eq!(bucket.wait(), 0.0);
    }

    #[test]
    fn a_burst_is_bounded_in_rate_and_time() {
        let limit = Limit { average: 100, max: 1000, max_length: 10 };
        let mut bucket = Bucket { limit, ..Bucket::default() };
        bucket.pour(1100.0);
        // A second's worth of the burst, over the tenth that may go at once.
        assert!((bucket.wait() - 1.0).abs() < 1e-9);
        bucket.leak(1.0);
        assert_eq!(bucket.wait(), 0.0);
        bucket.pour(9900.0);
        assert!(bucket.wait() > 8.0);
    }

    #[test]
    fn impossible_limits_are_refused() {
        let parse = |text: &str| ThrottleLimits::take(&mut Options::parse(text, None).unwrap(), "x-");
        assert!(parse("x-bps-total=5,x-bps-read=5").is_err());
        assert!(parse("x-bps-total-max=5").is_err());
        assert!(parse("x-iops-total=10,x-iops-total-max=5").is_err());
        assert!(parse("x-iops-size=5").is_err());
        assert_eq!(parse("x-bps-total=5k").unwrap().limits[0].average, 5120);
    }
}

//! `throttle-group`: limits that several disks share.

use std::any::Any;
use std::sync::Arc;

use parking_lot::Mutex;
use rhea_block::{BlockError, Result};
use rhea_options::Options;

use crate::refuse_others;

/// The properties that help lists.
pub(crate) const PROPERTIES: &[&str] = &[
    "limits=<ThrottleLimits>",
    "x-bps-read-max-length=<int>",
    "x-bps-read-max=<int>",
    "x-bps-read=<int>",
    "x-bps-total-max-length=<int>",
    "x-bps-total-max=<int>",
    "x-bps-total=<int>",
    "x-bps-write-max-length=<int>",
    "x-bps-write-max=<int>",
    "x-bps-write=<int>",
    "x-iops-read-max-length=<int>",
    "x-iops-read-max=<int>",
    "x-iops-read=<int>",
    "x-iops-size=<int>",
    "x-iops-total-max-length=<int>",
    "x-iops-total-max=<int>",
    "x-iops-total=<int>",
    "x-iops-write-max-length=<int>",
    "x-iops-write-max=<int>",
    "x-iops-write=<int>",
];

/// The largest limit.
const MAX: u64 = 1_000_000_000_000_000;

/// One limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// Bytes or requests a second; 0: no limit.
    pub average: u64,
    /// Bytes or requests a second in bursts; 0: a tenth of a second's worth of the average may come at once.
    pub maximum: u64,
    /// Seconds a burst may last.
    pub burst_length: u64,
}

impl Default for Bucket {
    fn default() -> Self {
        Self { average: 0, maximum: 0, burst_length: 1 }
    }
}

/// What a group lets through (QAPI's ThrottleLimits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ThrottleLimits {
    /// Bytes, reads and writes together.
    pub bps_total: Bucket,
    /// Bytes read.
    pub bps_read: Bucket,
    /// Bytes written.
    pub bps_write: Bucket,
    /// Requests, reads and writes together.
    pub iops_total: Bucket,
    /// Reads.
    pub iops_read: Bucket,
    /// Writes.
    pub iops_write: Bucket,
    /// A request counts as one for each so many bytes begun; 0: as one.
    pub iops_size: u64,
}

impl ThrottleLimits {
    /// Takes `bps-total`, `bps-total-max`, `bps-total-max-length`… and `iops-size`, each with `prefix` before it, and
    /// changes the limits they name.
    pub fn take(&mut self, options: &mut Options, prefix: &str) -> Result<()> {
        let buckets = [
            ("bps-total", &mut self.bps_total),
            ("bps-read", &mut self.bps_read),
            ("bps-write", &mut self.bps_write),
            ("iops-total", &mut self.iops_total),
            ("iops-read", &mut self.iops_read),
            ("iops-write", &mut self.iops_write),
        ];
        for (name, bucket) in buckets {
            let mut take = |suffix: &str, to: &mut u64| -> Result<()> {
                if let Some(value) = options.take::<u64>(&format!("{prefix}{name}{suffix}"))? {
                    *to = value;
                }
                Ok(())
            };
            take("", &mut bucket.average)?;
            take("-max", &mut bucket.maximum)?;
            take("-max-length", &mut bucket.burst_length)?;
        }
        if let Some(size) = options.take::<u64>(&format!("{prefix}iops-size"))? {
            self.iops_size = size;
        }
        Ok(())
    }

    /// All buckets.
    pub fn buckets(&self) -> [Bucket; 6] {
        [self.bps_total, self.bps_read, self.bps_write, self.iops_total, self.iops_read, self.iops_write]
    }

    /// Refuses limits that contradict each other.
    pub fn check(&self) -> Result<()> {
        let both = |total: Bucket, read: Bucket, write: Bucket| {
            (total.average > 0 && (read.average > 0 || write.average > 0))
                || (total.maximum > 0 && (read.maximum > 0 || write.maximum > 0))
        };
        if both(self.bps_total, self.bps_read, self.bps_write)
            || both(self.iops_total, self.iops_read, self.iops_write)
        {
            return Err(BlockError::invalid(
                "bps/iops/max total values and read/write values cannot be used at the same time",
            ));
        }
        let any_iops = [self.iops_total, self.iops_read, self.iops_write].iter().any(|b| b.average > 0);
        if self.iops_size > 0 && !any_iops {
            return Err(BlockError::invalid("iops size requires an iops value to be set"));
        }
        self.buckets().iter().try_for_each(Bucket::check)
    }
}

impl Bucket {
    fn check(&self) -> Result<()> {
        if self.average > MAX || self.maximum > MAX {
            return Err(BlockError::invalid(format!("bps/iops/max values must be within [0, {MAX}]")));
        }
        if self.burst_length == 0 {
            return Err(BlockError::invalid("the burst length cannot be 0"));
        }
        if self.burst_length > 1 && self.maximum == 0 {
            return Err(BlockError::invalid("burst length set without burst rate"));
        }
        if self.maximum > 0 && self.burst_length > MAX / self.maximum {
            return Err(BlockError::invalid("burst length too high for this burst rate"));
        }
        if self.maximum > 0 && self.average == 0 {
            return Err(BlockError::invalid("bps_max/iops_max require corresponding bps/iops values"));
        }
        if self.maximum > 0 && self.maximum < self.average {
            return Err(BlockError::invalid("bps_max/iops_max cannot be lower than bps/iops"));
        }
        Ok(())
    }
}

/// A group, and (once a disk has joined it) what the throttle filter keeps for it.
pub struct ThrottleGroup {
    limits: Mutex<ThrottleLimits>,
    state: Mutex<Option<Arc<dyn Any + Send + Sync>>>,
}

impl std::fmt::Debug for ThrottleGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ThrottleGroup({:?})", self.limits())
    }
}

impl ThrottleGroup {
    /// A group with these limits, which must have passed [`ThrottleLimits::check`].
    pub fn new(limits: ThrottleLimits) -> Self {
        Self { limits: Mutex::new(limits), state: Mutex::new(None) }
    }

    pub(crate) fn take(options: &mut Options) -> Result<Self> {
        let mut limits = ThrottleLimits::default();
        limits.take(options, "x-")?;
        limits.take(options, "limits.")?;
        refuse_others(options)?;
        limits.check()?;
        Ok(Self::new(limits))
    }

    /// What it lets through.
    pub fn limits(&self) -> ThrottleLimits {
        *self.limits.lock()
    }

    /// Sets other limits, which must have passed [`ThrottleLimits::check`].
    pub fn set_limits(&self, limits: ThrottleLimits) {
        *self.limits.lock() = limits;
    }

    /// The state that all members share, made by whoever asks first.
    ///
    /// # Panics
    /// If it was made with another type.
    pub fn state<T: Any + Send + Sync>(&self, make: impl FnOnce(ThrottleLimits) -> T) -> Arc<T> {
        let limits = self.limits();
        let mut state = self.state.lock();
        let state = state.get_or_insert_with(|| Arc::new(make(limits)));
        state.clone().downcast().expect("one type of state")
    }
}

#[cfg(test)]
mod tests {
    use rhea_block::Objects;

    use crate::{add_object, throttle_group};

    #[test]
    fn limits_come_in_two_spellings() {
        let objects = Objects::default();
        add_object(
            &objects,
            "throttle-group,id=a,x-bps-total=1000,x-bps-total-max=2000,x-bps-total-max-length=3",
        )
        .unwrap();
        add_object(
            &objects,
            r#"{"qom-type":"throttle-group","id":"b","limits":{"iops-read":10,"iops-size":4096}}"#,
        )
        .unwrap();
        let a = throttle_group(&objects, "a").unwrap().limits().bps_total;
        assert_eq!((a.average, a.maximum, a.burst_length), (1000, 2000, 3));
        let b = throttle_group(&objects, "b").unwrap().limits();
        assert_eq!((b.iops_read.average, b.iops_size), (10, 4096));
    }

    #[test]
    fn contradictions_are_refused() {
        for (limits, message) in [
            ("x-bps-total=1,x-bps-read=1", "total values and read/write values"),
            ("x-bps-total-max=1", "require corresponding"),
            ("x-bps-total=2,x-bps-total-max=1", "cannot be lower"),
            ("x-bps-total=1,x-bps-total-max-length=0", "burst length cannot be 0"),
            ("x-bps-total=1,x-bps-total-max-length=2", "without burst rate"),
            ("x-bps-total=1000000000000001", "must be within"),
            ("x-iops-size=1", "requires an iops value"),
        ] {
            let error =
                add_object(&Objects::default(), &format!("throttle-group,id=a,{limits}")).unwrap_err();
            assert!(error.to_string().contains(message), "{limits}: {error}");
        }
    }
}

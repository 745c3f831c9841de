//! How far a long operation has come.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Shared by an operation and whoever shows its progress or wants it to stop.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
    cancelled: AtomicBool,
}

impl Progress {
    /// Nothing done of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Work done, in the operation's own unit (bytes, mostly).
    pub fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }

    /// All work, as far as it is known by now.
    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// Some more is done.
    pub fn advance(&self, by: u64) {
        self.done.fetch_add(by, Relaxed);
    }

    /// So much is done.
    pub fn set_done(&self, done: u64) {
        self.done.store(done, Relaxed);
    }

    /// So much is to be done in all.
    pub fn set_total(&self, total: u64) {
        self.total.store(total, Relaxed);
    }

    /// 0 to 1; 0 when nothing is known.
    pub fn fraction(&self) -> f64 {
        match self.total() {
            0 => 0.0,
            total => (self.done() as f64 / total as f64).min(1.0),
        }
    }

    /// Asks the operation to stop at the next good moment.
    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    /// Whether it was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }
}

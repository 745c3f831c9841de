//! References that are given up: taken away late, and reused later still.
//!
//! A cluster may be reused only when two things are certain: that no table on disk names it any more (else a crash would
//! bring the old table back, naming somebody else's data), and that no request which looked it up before is still reading
//! or writing there. So a release goes through three stages:
//!
//! 1. *queued*: the table that named it was changed in memory;
//! 2. *settled*: that table was written and flushed ([`Releases::settle`]);
//! 3. *due*: all requests that had begun before it was settled have ended ([`Releases::due`]).
//!
//! Then its refcount is lowered. Requests count themselves in one of two counters; when the counter of the older
//! generation has come to zero, the generations change places. Nobody waits: what is not due stays for the next time.
//!
//! A write that its caller gave up may still be on its way to the disk; the clusters it goes to are never reused
//! while the image is open ([`Releases::abandon`]). They are leaks at worst.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use parking_lot::Mutex;

use crate::image::Release;

/// More ranges than this wait for nothing better: the tables are written out.
const MANY: usize = 1 << 16;

/// Ranges of abandoned writes that are remembered one by one.
const MAX_ABANDONED: usize = 1024;

/// A range of the file, and why it was given up. Each cluster it touches loses one reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Released {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) why: Release,
}

#[derive(Default)]
struct Stages {
    queued: Vec<Released>,
    settled: Vec<Released>,
    /// Settled before the generations last changed places.
    waiting: Vec<Released>,
    abandoned: Vec<Range<u64>>,
}

/// All releases of an image.
#[derive(Default)]
pub(crate) struct Releases {
    stages: Mutex<Stages>,
    generation: AtomicUsize,
    running: [AtomicUsize; 2],
    many: AtomicBool,
}

/// A request under way.
pub(crate) struct Running<'a> {
    counter: &'a AtomicUsize,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, SeqCst);
    }
}

impl Releases {
    /// Counts a request in, before it looks anything up.
    pub(crate) fn begin_request(&self) -> Running<'_> {
        // Read and counted in two steps: should the generations change places between, the request counts as an older
        // one, which only holds releases up for longer.
        let counter = &self.running[self.generation.load(SeqCst)];
        counter.fetch_add(1, SeqCst);
        Running { counter }
    }

    /// Queues a release. Neighbours become one if both are whole clusters (`cluster_size`).
    pub(crate) fn queue(&self, release: Released, cluster_size: u64) {
        let mut stages = self.stages.lock();
        let whole = |r: &Released| (r.offset | r.len) & (cluster_size - 1) == 0;
        match stages.queued.last_mut() {
            Some(last)
                if last.offset + last.len == release.offset
                    && last.why == release.why
                    && whole(last)
                    && whole(&release) =>
            {
                last.len += release.len;
            }
            _ => stages.queued.push(release),
        }
        if stages.queued.len() >= MANY {
            self.many.store(true, SeqCst);
        }
    }

    /// Whether so much is queued that the tables should be written out.
    pub(crate) fn is_pressing(&self) -> bool {
        self.many.load(SeqCst)
    }

    /// Takes what is queued, before the tables are looked through for what to write.
    pub(crate) fn take_queued(&self) -> Vec<Released> {
        self.many.store(false, SeqCst);
        std::mem::take(&mut self.stages.lock().queued)
    }

    /// The tables could not be written: queued again.
    pub(crate) fn put_back(&self, mut releases: Vec<Released>) {
        let mut stages = self.stages.lock();
        releases.append(&mut stages.queued);
        stages.queued = releases;
    }

    /// The tables are on disk.
    pub(crate) fn settle(&self, releases: Vec<Released>) {
        self.stages.lock().settled.extend(releases);
    }

    /// What may be carried out now.
    pub(crate) fn due(&self) -> Vec<Released> {
        let mut stages = self.stages.lock();
        let mut due = Vec::new();
        // Twice: what is settled becomes `waiting`, and is due at once if no request is under way.
        for _ in 0..2 {
            let current = self.generation.load(SeqCst);
            if self.running[1 - current].load(SeqCst) != 0 {
                break;
            }
            due.append(&mut stages.waiting);
            stages.waiting = std::mem::take(&mut stages.settled);
            self.generation.store(1 - current, SeqCst);
        }
        due.sort_by_key(|r| (r.offset, r.len));
        if !stages.abandoned.is_empty() {
            due.retain(|r| !stages.abandoned.iter().any(|a| a.start < r.offset + r.len && r.offset < a.end));
        }
        due
    }

    /// Whether nothing is queued, settled or waiting.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        let stages = self.stages.lock();
        stages.queued.is_empty() && stages.settled.is_empty() && stages.waiting.is_empty()
    }

    /// A write to this range was given up while under way.
    fn abandon(&self, range: Range<u64>) {
        let mut stages = self.stages.lock();
        if stages.abandoned.len() < MAX_ABANDONED {
            stages.abandoned.push(range);
        } else if let Some(last) = stages.abandoned.last_mut() {
            *last = last.start.min(range.start)..last.end.max(range.end);
        }
    }

    /// Guards a write to a range of the data file: if it is dropped before [`HostWrite::ended`], the range is never
    /// reused.
    pub(crate) fn host_write(&self, range: Range<u64>) -> HostWrite<'_> {
        HostWrite { releases: self, range }
    }
}

/// A write on its way. See [`Releases::host_write`].
pub(crate) struct HostWrite<'a> {
    releases: &'a Releases,
    range: Range<u64>,
}

impl HostWrite<'_> {
    /// The disk has answered, well or not.
    pub(crate) fn ended(mut self) {
        self.range = 0..0;
    }
}

impl Drop for HostWrite<'_> {
    fn drop(&mut self) {
        if !self.range.is_empty() {
            self.releases.abandon(self.range.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(offset: u64) -> Released {
        Released { offset, len: 512, why: Release::Other }
    }

    #[test]
    fn nothing_is_due_while_an_older_request_runs() {
        let releases = Releases::default();
        let old = releases.begin_request();
        releases.queue(release(512), 512);
        assert!(releases.due().is_empty(), "only queued");
        let queued = releases.take_queued();
        releases.settle(queued);
        assert!(releases.due().is_empty());
        let young = releases.begin_request();
        assert!(releases.due().is_empty());
        drop(old);
        // The young one began before the generations changed places, and counts as old as well.
        assert!(releases.due().is_empty());
        drop(young);
        let late = releases.begin_request();
        assert_eq!(releases.due(), [release(512)]);
        drop(late);
        assert!(releases.is_empty());
    }

    #[test]
    fn ranges_of_abandoned_writes_are_never_due() {
        let releases = Releases::default();
        drop(releases.host_write(1000..1100));
        releases.host_write(0..512).ended();
        releases.settle(vec![release(0), release(512), release(1024)]);
        assert_eq!(releases.due(), [release(0)]);
    }
}

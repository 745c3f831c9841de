//! Requests that must not overlap: read-modify-write cycles and copies on read.
//!
//! Most requests need nothing of this; a request that reads, changes and writes back the edge of a block would lose
//! another's write to the same block. Such requests are serializing: they wait for every tracked request they overlap,
//! and every later one that overlaps waits for them.

use std::sync::Arc;

use async_lock::futures::Lock;
use async_lock::{Mutex as AsyncMutex, MutexGuardArc};
use parking_lot::Mutex;

struct Entry {
    id: u64,
    start: u64,
    end: u64,
    serializing: bool,
    ended: Arc<AsyncMutex<()>>,
}

#[derive(Default)]
struct State {
    next: u64,
    entries: Vec<Entry>,
    serializing: usize,
}

/// The writes under way on a node.
#[derive(Default)]
pub(crate) struct TrackedRequests {
    state: Mutex<State>,
}

/// A request under way; dropped when it has ended.
pub(crate) struct Tracked<'a> {
    requests: &'a TrackedRequests,
    id: u64,
    _running: MutexGuardArc<()>,
}

impl Drop for Tracked<'_> {
    fn drop(&mut self) {
        let mut state = self.requests.state.lock();
        if let Some(at) = state.entries.iter().position(|e| e.id == self.id) {
            let entry = state.entries.swap_remove(at);
            state.serializing -= usize::from(entry.serializing);
        }
    }
}

impl TrackedRequests {
    /// Enters a request of `start..end`, after the earlier ones it must not overlap.
    pub(crate) async fn begin(&self, start: u64, end: u64, serializing: bool) -> Tracked<'_> {
        let ended = Arc::new(AsyncMutex::new(()));
        let running = ended.try_lock_arc().expect("nobody else has seen it");
        let (id, wait) = {
            let mut state = self.state.lock();
            let id = state.next;
            state.next += 1;
            let mut wait = Vec::new();
            if serializing || state.serializing > 0 {
                let conflicts = |e: &&Entry| (serializing || e.serializing) && e.start < end && start < e.end;
                wait = state.entries.iter().filter(conflicts).map(|e| e.ended.clone()).collect();
            }
            state.serializing += usize::from(serializing);
            state.entries.push(Entry { id, start, end, serializing, ended });
            (id, wait)
        };
        // Entered before waiting: those who come later wait for us, and we only for those who came before, so there is
        // no circle.
        let tracked = Tracked { requests: self, id, _running: running };
        for earlier in wait {
            let lock: Lock<'_, ()> = earlier.lock();
            drop(lock.await);
        }
        tracked
    }
}

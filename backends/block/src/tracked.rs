//! Requests that must not overlap: read-modify-write cycles and copies on read.
//!
//! Most requests need nothing of this; a request that reads, changes and writes back the edge of a block would lose
//! another's write to the same block. Such requests are serializing: they wait for every tracked request they overlap,
//! and every later one that overlaps waits for them.

use std::task::{Poll, Waker};

use parking_lot::Mutex;
use smallvec::SmallVec;

struct Entry {
    id: u64,
    start: u64,
    end: u64,
    serializing: bool,
    /// Later requests that wait for this one to end.
    waiting: Vec<Waker>,
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
}

impl Drop for Tracked<'_> {
    fn drop(&mut self) {
        let mut state = self.requests.state.lock();
        let Some(at) = state.entries.iter().position(|e| e.id == self.id) else { return };
        let entry = state.entries.swap_remove(at);
        state.serializing -= usize::from(entry.serializing);
        drop(state);
        entry.waiting.into_iter().for_each(Waker::wake);
    }
}

impl TrackedRequests {
    /// Enters a request of `start..end`, after the earlier ones it must not overlap.
    pub(crate) async fn begin(&self, start: u64, end: u64, serializing: bool) -> Tracked<'_> {
        let mut earlier = SmallVec::<[u64; 4]>::new();
        let id = {
            let mut state = self.state.lock();
            let id = state.next;
            state.next += 1;
            if serializing || state.serializing > 0 {
                let conflicts = |e: &&Entry| (serializing || e.serializing) && e.start < end && start < e.end;
                earlier.extend(state.entries.iter().filter(conflicts).map(|e| e.id));
            }
            state.serializing += usize::from(serializing);
            state.entries.push(Entry { id, start, end, serializing, waiting: Vec::new() });
            id
        };
        // Entered before waiting: those who come later wait for us, and we only for those who came before, so there is
        // no circle.
        let tracked = Tracked { requests: self, id };
        if !earlier.is_empty() {
            std::future::poll_fn(|cx| {
                let mut state = self.state.lock();
                while let Some(&first) = earlier.last() {
                    if let Some(entry) = state.entries.iter_mut().find(|e| e.id == first) {
                        if !entry.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                            entry.waiting.push(cx.waker().clone());
                        }
                        return Poll::Pending;
                    }
                    earlier.pop();
                }
                Poll::Ready(())
            })
            .await;
        }
        tracked
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    use rhea_async_io::{block_on, spawn};

    use super::*;

    #[test]
    fn overlapping_requests_wait_for_serializing_ones_and_for_nobody_else() {
        let requests: &'static TrackedRequests = Box::leak(Box::default());
        block_on(async {
            let plain = requests.begin(0, 10, false).await;
            let other = requests.begin(5, 15, false).await;
            let entered = Arc::new(AtomicBool::new(false));
            let flag = entered.clone();
            let task = spawn(async move {
                let _serializing = requests.begin(8, 12, true).await;
                flag.store(true, SeqCst);
            });
            spawn(async {}).await;
            assert!(!entered.load(SeqCst));
            // Elsewhere nothing waits.
            drop(requests.begin(12, 20, false).await);
            let flag = entered.clone();
            let later = spawn(async move {
                let _later = requests.begin(11, 12, false).await;
                assert!(flag.load(SeqCst));
            });
            drop(plain);
            spawn(async {}).await;
            assert!(!entered.load(SeqCst));
            drop(other);
            task.await;
            later.await;
            // One that gives up while it waits holds nobody up.
            let first = requests.begin(0, 10, true).await;
            let waiting = spawn(async { drop(requests.begin(0, 10, true).await) });
            spawn(async {}).await;
            waiting.cancel().await;
            drop(first);
            drop(requests.begin(0, 10, true).await);
            assert!(requests.state.lock().entries.is_empty());
        });
    }
}

//! Locks on ranges of clusters: two writes must not give storage to the same cluster.

use std::ops::Range;
use std::task::{Poll, Waker};

use parking_lot::Mutex;

#[derive(Default)]
pub(crate) struct RangeLocks {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: Vec<(u64, Range<u64>)>,
    next: u64,
    waiting: Vec<Waker>,
}

/// A range that nobody else holds any part of.
pub(crate) struct RangeGuard<'a> {
    locks: &'a RangeLocks,
    id: u64,
}

impl RangeLocks {
    /// Waits until no part of the range is held, and holds it.
    pub(crate) async fn lock(&self, range: Range<u64>) -> RangeGuard<'_> {
        std::future::poll_fn(|context| {
            let mut state = self.state.lock();
            if state.held.iter().any(|(_, held)| held.start < range.end && range.start < held.end) {
                state.waiting.push(context.waker().clone());
                return Poll::Pending;
            }
            let id = state.next;
            state.next += 1;
            state.held.push((id, range.clone()));
            Poll::Ready(RangeGuard { locks: self, id })
        })
        .await
    }
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.locks.state.lock();
            state.held.retain(|(id, _)| *id != self.id);
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

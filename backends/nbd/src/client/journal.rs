//! Writes that the server has acknowledged but not flushed.
//!
//! A server that comes back after a crash may have lost them, although nobody was told of an error. Where the user asked
//! for reconnection, they are kept, and sent again before anything else on the new connection. Their memory is bounded:
//! beyond the limit the server is asked to flush.

use std::collections::VecDeque;

use parking_lot::Mutex;
use rhea_async_io::{IoVector, IoView};

/// Bytes kept; then a flush is due.
const LIMIT: usize = 32 << 20;
/// What an entry without data counts for.
const ENTRY: usize = 64;

pub(crate) enum Change {
    Data(IoVector),
    Zeroes { length: u64, may_unmap: bool },
}

pub(crate) struct Entry {
    sequence: u64,
    pub(crate) offset: u64,
    pub(crate) change: Change,
}

#[derive(Default)]
struct State {
    next: u64,
    bytes: usize,
    entries: VecDeque<std::sync::Arc<Entry>>,
}

/// Acknowledged writes in the order of their acknowledgement.
#[derive(Default)]
pub(crate) struct Journal {
    state: Mutex<State>,
}

fn size(change: &Change) -> usize {
    match change {
        Change::Data(data) => data.len() + ENTRY,
        Change::Zeroes { .. } => ENTRY,
    }
}

impl Journal {
    /// Enters a write; true if a flush is due.
    pub(crate) fn enter(&self, offset: u64, change: Change) -> bool {
        let mut state = self.state.lock();
        let sequence = state.next;
        state.next += 1;
        state.bytes += size(&change);
        state.entries.push_back(std::sync::Arc::new(Entry { sequence, offset, change }));
        state.bytes > LIMIT
    }

    /// Enters written data.
    pub(crate) fn enter_data(&self, offset: u64, data: &IoView<'_>) -> bool {
        self.enter(offset, Change::Data(IoVector::from_slice(&data.contiguous())))
    }

    /// The next write's number: what comes before it has been acknowledged.
    pub(crate) fn mark(&self) -> u64 {
        self.state.lock().next
    }

    /// A flush that began at `mark` has ended well.
    pub(crate) fn flushed(&self, mark: u64) {
        let mut state = self.state.lock();
        while state.entries.front().is_some_and(|e| e.sequence < mark) {
            if let Some(entry) = state.entries.pop_front() {
                state.bytes -= size(&entry.change);
            }
        }
    }

    /// All entries, oldest first.
    pub(crate) fn entries(&self) -> Vec<std::sync::Arc<Entry>> {
        self.state.lock().entries.iter().cloned().collect()
    }
}

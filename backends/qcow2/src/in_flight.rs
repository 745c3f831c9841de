//! Guest clusters whose L2 entries are being changed.
//!
//! Whoever changes L2 entries (an allocating write, a discard…) enters the clusters first and holds them until the change
//! is made. What it finds in the table after it has entered stays true until then. Reads, and writes in place, need not
//! enter: the entry they found stays good enough for them (see [`crate::release`]).

use std::sync::Arc;

use async_lock::{Mutex as AsyncMutex, MutexGuardArc};
use parking_lot::Mutex;

struct Entry {
    first: u64,
    end: u64,
    ended: Arc<AsyncMutex<()>>,
}

/// The changes under way in an image.
#[derive(Default)]
pub(crate) struct InFlight {
    entries: Mutex<Vec<Entry>>,
}

/// A change under way.
pub(crate) struct Changing<'a> {
    all: &'a InFlight,
    first: u64,
    end: u64,
    _running: MutexGuardArc<()>,
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        let mut entries = self.all.entries.lock();
        // Ranges held at one time do not overlap, so that this is ours.
        if let Some(at) = entries.iter().position(|e| e.first == self.first && e.end == self.end) {
            entries.swap_remove(at);
        }
    }
}

impl InFlight {
    /// Enters the clusters `first..end` (not empty) of the disk, when nobody else holds any of them.
    pub(crate) async fn enter(&self, first: u64, end: u64) -> Changing<'_> {
        loop {
            let other = {
                let mut entries = self.entries.lock();
                match entries.iter().find(|e| e.first < end && first < e.end) {
                    Some(other) => other.ended.clone(),
                    None => {
                        let ended = Arc::new(AsyncMutex::new(()));
                        let running = ended.try_lock_arc().expect("nobody else has seen it");
                        entries.push(Entry { first, end, ended });
                        return Changing { all: self, first, end, _running: running };
                    }
                }
            };
            drop(other.lock().await);
        }
    }
}

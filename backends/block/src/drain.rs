//! Draining: hold new requests at the gate and wait until those under way have ended.

use async_lock::{RwLock, RwLockReadGuard, RwLockWriteGuardArc};
use std::sync::Arc;

use crate::graph::BlockNode;

/// Requests pass with a share of the gate; a drain takes it whole.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    lock: Arc<RwLock<()>>,
}

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Passage<'a> {
    _share: RwLockReadGuard<'a, ()>,
}

/// While it is held, the node's requests wait.
#[derive(Debug)]
#[must_use = "requests go on as soon as it is dropped"]
pub struct Drained {
    _all: RwLockWriteGuardArc<()>,
}

impl Gate {
    pub(crate) async fn enter(&self) -> Passage<'_> {
        let share = match self.lock.try_read() {
            Some(share) => share,
            // On the heap, as it is rare: every request's future would be so much larger.
            None => Box::pin(self.lock.read()).await,
        };
        Passage { _share: share }
    }
}

impl BlockNode {
    /// Waits for the requests under way and holds new ones until the answer is dropped. Requests that the node's own
    /// driver makes on its children go on, so that those under way can end.
    pub async fn drain(&self) -> Drained {
        Drained { _all: self.gate.lock.write_arc().await }
    }
}

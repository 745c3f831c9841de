//! Draining: hold new requests at the gate and wait until those under way have ended.

use std::sync::{Arc, Weak};

use async_lock::{RwLock, RwLockReadGuard, RwLockWriteGuardArc};
use parking_lot::Mutex;

use crate::graph::BlockNode;

/// Requests pass with a share of the gate; a drain takes it whole.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    lock: Arc<RwLock<()>>,
    /// Where requests that wait go instead of on: another node took this one's place while they waited.
    instead: Mutex<Weak<BlockNode>>,
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
    /// Lets a request through; an error is the node it is to go to instead.
    pub(crate) async fn enter(&self) -> Result<Passage<'_>, Arc<BlockNode>> {
        if let Some(share) = self.lock.try_read() {
            return Ok(Passage { _share: share });
        }
        // On the heap, as it is rare: every request's future would be so much larger.
        let share = Box::pin(self.lock.read()).await;
        match self.instead.lock().upgrade() {
            Some(other) => Err(other),
            None => Ok(Passage { _share: share }),
        }
    }

    /// Sends the requests that wait to another node, once the drain ends.
    pub(crate) fn send_waiting(&self, _: &Drained, other: &Arc<BlockNode>) {
        *self.instead.lock() = Arc::downgrade(other);
    }
}

impl BlockNode {
    /// Waits for the requests under way and holds new ones until the answer is dropped. Requests that the node's own
    /// driver makes on its children go on, so that those under way can end.
    pub async fn drain(&self) -> Drained {
        let all = self.gate.lock.write_arc().await;
        // All who waited for an earlier drain are through.
        *self.gate.instead.lock() = Weak::new();
        Drained { _all: all }
    }
}

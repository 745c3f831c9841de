//! Draining: hold new requests at the gate and wait until those under way have ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use async_lock::{RwLock, RwLockReadGuardArc, RwLockWriteGuardArc};

use crate::graph::BlockNode;

/// Requests pass with a share of the gate; a drain takes it whole.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    lock: Arc<RwLock<()>>,
    waiting: AtomicUsize,
}

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Passage {
    _share: RwLockReadGuardArc<()>,
}

/// While it is held, the node's requests wait.
#[derive(Debug)]
#[must_use = "requests go on as soon as it is dropped"]
pub struct Drained {
    _all: RwLockWriteGuardArc<()>,
}

impl Gate {
    pub(crate) async fn enter(&self) -> Passage {
        let share = match self.lock.try_read_arc() {
            Some(share) => share,
            None => self.lock.read_arc().await,
        };
        Passage { _share: share }
    }
}

impl BlockNode {
    /// Waits for the requests under way and holds new ones until the answer is dropped. Requests that the node's own
    /// driver makes on its children go on, so that those under way can end.
    pub async fn drain(&self) -> Drained {
        self.gate.waiting.fetch_add(1, SeqCst);
        let all = self.gate.lock.write_arc().await;
        self.gate.waiting.fetch_sub(1, SeqCst);
        Drained { _all: all }
    }
}

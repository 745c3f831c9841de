//! What one client may have under way.

use std::sync::Arc;

use event_listener::Event;
use parking_lot::Mutex;

/// Requests of one client at a time; more wait in its socket.
const MAX_REQUESTS: usize = 128;
/// Bytes of payload of one client's requests at a time (a single request may reach the protocol's limit in any case).
const MAX_BYTES: u64 = 64 << 20;

/// The requests of one client and the bytes they hold.
#[derive(Default)]
pub(super) struct Budget {
    used: Mutex<(usize, u64)>,
    freed: Event,
}

/// A request's share, given back when it is dropped.
pub(super) struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        {
            let mut used = self.budget.used.lock();
            used.0 -= 1;
            used.1 -= self.bytes;
        }
        self.budget.freed.notify(usize::MAX);
    }
}

impl Budget {
    /// Waits until a request that holds so many bytes may start.
    pub(super) async fn take(self: &Arc<Self>, bytes: u64) -> Share {
        loop {
            if let Some(share) = self.try_take(bytes) {
                return share;
            }
            let listener = self.freed.listen();
            if let Some(share) = self.try_take(bytes) {
                return share;
            }
            listener.await;
        }
    }

    fn try_take(self: &Arc<Self>, bytes: u64) -> Option<Share> {
        let mut used = self.used.lock();
        let fits = used.0 < MAX_REQUESTS && (used.1 == 0 || used.1 + bytes <= MAX_BYTES);
        fits.then(|| {
            used.0 += 1;
            used.1 += bytes;
            Share { budget: self.clone(), bytes }
        })
    }

    /// Waits until no request is under way.
    pub(super) async fn idle(&self) {
        loop {
            let listener = self.freed.listen();
            if self.used.lock().0 == 0 {
                return;
            }
            listener.await;
        }
    }
}

//! What one client may have under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use event_listener::Event;
use parking_lot::Mutex;

/// Requests of one client at a time; more wait in its socket.
const MAX_REQUESTS: usize = 128;
/// Bytes of payload of one client's requests at a time: enough to keep any link and any disk busy.
const MAX_BYTES: u64 = 4 << 20;
/// So few requests may hold more in all, as large ones should be under way several at a time too ...
const FEW: usize = 8;
/// ... but not more than this (a single request may reach the protocol's limit in any case).
const MAX_BYTES_OF_FEW: u64 = 6 << 20;
/// Bytes of data that wait to be sent before no more is read.
const MAX_UNSENT: u64 = 1 << 20;

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
        let limit = if used.0 < FEW { MAX_BYTES_OF_FEW } else { MAX_BYTES };
        let fits = used.0 < MAX_REQUESTS && (used.1 == 0 || bytes == 0 || used.1 + bytes <= limit);
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

/// Data that was read and waits until the client takes it.
#[derive(Default)]
pub(super) struct Outbox {
    bytes: AtomicU64,
    taken: Event,
}

/// Data in the outbox.
pub(super) struct Unsent<'a> {
    outbox: &'a Outbox,
    bytes: u64,
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        self.outbox.bytes.fetch_sub(self.bytes, SeqCst);
        self.outbox.taken.notify(1);
    }
}

impl Outbox {
    /// Waits until more data is worth reading. Where the disk is quicker than the client, this keeps the memory that
    /// replies wait in small (and in the processor's caches); where it is not, nobody waits here.
    pub(super) async fn room(&self) {
        let has_room = || self.bytes.load(SeqCst) < MAX_UNSENT;
        while !has_room() {
            let listener = self.taken.listen();
            if has_room() {
                break;
            }
            listener.await;
        }
        // Who waits beside us may find room too, when we have had our turn.
        self.taken.notify(1);
    }

    /// Puts data in.
    pub(super) fn put(&self, bytes: u64) -> Unsent<'_> {
        self.bytes.fetch_add(bytes, SeqCst);
        Unsent { outbox: self, bytes }
    }
}

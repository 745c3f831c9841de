//! Changes of a file that go on although whoever asked for them has given up.
//!
//! A request may be given up at any time, but the kernel, or a thread, may still carry it out. If a later request to the
//! same place ended before that, the old data would in the end replace the new. So later operations on the file wait:
//! this is rare enough for a single count to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Poll, Waker};

use parking_lot::Mutex;

use super::OpenFile;

/// How many such changes there are, and who waits for their end.
#[derive(Debug, Default)]
pub(crate) struct Unattended {
    count: AtomicUsize,
    waiting: Mutex<Vec<Waker>>,
}

impl Unattended {
    /// A change goes on with nobody waiting for it.
    pub(crate) fn left(&self) {
        self.count.fetch_add(1, SeqCst);
    }

    /// Such a change has ended.
    pub(crate) fn ended(&self) {
        if self.count.fetch_sub(1, SeqCst) == 1 {
            let waiting = std::mem::take(&mut *self.waiting.lock());
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    pub(crate) fn is_none(&self) -> bool {
        self.count.load(SeqCst) == 0
    }

    /// Waits until there are none.
    pub(crate) async fn none(&self) {
        std::future::poll_fn(|cx| {
            let mut waiting = self.waiting.lock();
            // Looked at under the lock: whoever ends the last one takes the wakers out after that.
            if self.is_none() {
                return Poll::Ready(());
            }
            waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    Attended,
    Unattended,
    Ended,
}

/// Held by whoever waits for work on a file.
pub(super) struct Attended {
    file: Arc<OpenFile>,
    stage: Arc<Mutex<Stage>>,
}

/// Held by the work.
pub(super) struct Worker {
    file: Arc<OpenFile>,
    stage: Arc<Mutex<Stage>>,
}

/// The two sides of work on a file.
pub(super) fn attend(file: Arc<OpenFile>) -> (Attended, Worker) {
    let stage = Arc::new(Mutex::new(Stage::Attended));
    (Attended { file: file.clone(), stage: stage.clone() }, Worker { file, stage })
}

impl Drop for Attended {
    fn drop(&mut self) {
        let mut stage = self.stage.lock();
        if *stage == Stage::Attended {
            *stage = Stage::Unattended;
            self.file.unattended.left();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let before = std::mem::replace(&mut *self.stage.lock(), Stage::Ended);
        if before == Stage::Unattended {
            self.file.unattended.ended();
        }
    }
}

//! Work on all cores: several threads, each with an executor of its own, take pieces of one job in turn.
//!
//! The tool's first thread goes on meanwhile: it shows progress, looks out for signals, and runs what the block layer has
//! given it to run.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use rhea_async_io::{DedicatedThread, Timer, block_on};

use crate::failure::{Failure, Outcome};
use crate::progress::Meter;

/// More threads than this contend for memory rather than help.
const MAX_THREADS: usize = 4;
/// Jobs of fewer bytes are done on the first thread.
const WORTH_A_THREAD: u64 = 8 << 20;
/// How often progress is looked at.
const TICK: Duration = Duration::from_millis(50);

/// What the workers and the first thread tell each other.
pub(crate) struct Board {
    done: AtomicU64,
    /// What is beyond does not count as done.
    limit: AtomicU64,
    stop: AtomicBool,
    failure: Mutex<Option<Failure>>,
    working: AtomicUsize,
    waker: AtomicWaker,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            done: AtomicU64::new(0),
            limit: AtomicU64::new(u64::MAX),
            stop: AtomicBool::new(false),
            failure: Mutex::new(None),
            working: AtomicUsize::new(0),
            waker: AtomicWaker::new(),
        }
    }
}

impl Board {
    /// The work ends there, however much of what follows was done as well.
    pub fn limit(&self, bytes: u64) {
        self.limit.fetch_min(bytes, Relaxed);
    }

    fn done(&self) -> u64 {
        self.done.load(Relaxed).min(self.limit.load(Relaxed))
    }

    /// So many more bytes are done.
    pub fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Relaxed);
    }

    /// Whether the workers are to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    fn fail(&self, failure: Failure) {
        self.stop.store(true, Relaxed);
        // The first failure is the one to tell.
        self.failure.lock().get_or_insert(failure);
    }

    /// The work of one thread has ended.
    fn leave(&self) {
        if self.working.fetch_sub(1, SeqCst) == 1 {
            self.waker.wake();
        }
    }
}

/// How many threads are worth it for a job of so many bytes with at most `most` pieces at a time.
pub(crate) fn threads(bytes: u64, most: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if bytes < WORTH_A_THREAD { 1 } else { cores.min(MAX_THREADS).min(most).max(1) }
}

/// Ends the count of a worker whatever becomes of it.
struct Leaving(Arc<Board>);

impl Drop for Leaving {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Failure::new("a thread of the tool has panicked"));
        }
        self.0.leave();
    }
}

/// Runs `work` on `threads` threads and shows how much of `total` bytes is done, until all have ended.
pub(crate) async fn run<F: Future<Output = Outcome<()>>>(
    threads: usize,
    board: &Arc<Board>,
    meter: &Meter,
    total: u64,
    work: impl Fn() -> F + Clone + Send + 'static,
) -> Outcome<()> {
    board.working.store(threads, SeqCst);
    for _ in 1..threads {
        let leaving = Leaving(board.clone());
        let work = work.clone();
        let started = std::thread::Builder::new().name("worker".into()).spawn(move || {
            let _dedicated = DedicatedThread::enter();
            if let Err(failure) = block_on(work()) {
                leaving.0.fail(failure);
            }
            drop(leaving);
        });
        // One thread less: the others do its work. The count was ended by dropping the closure.
        drop(started);
    }
    let _dedicated = DedicatedThread::enter();
    let own = async {
        let leaving = Leaving(board.clone());
        if let Err(failure) = work().await {
            leaving.0.fail(failure);
        }
    };
    let all = poll_fn(|cx| {
        board.waker.register(cx.waker());
        match board.working.load(SeqCst) {
            0 => Poll::Ready(()),
            _ => Poll::Pending,
        }
    });
    let mut all = std::pin::pin!(futures_util::future::join(own, all));
    loop {
        match select(all.as_mut(), Timer::after(TICK)).await {
            Either::Left(_) => break,
            Either::Right(_) => {
                if let Err(failure) = meter.advance(board.done(), total) {
                    board.fail(failure);
                }
            }
        }
    }
    if let Some(failure) = board.failure.lock().take() {
        return Err(failure);
    }
    meter.advance(board.done(), total)
}

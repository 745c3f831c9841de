//! Threads for what would block: one pool as large as the machine has cores, for computing; one for system calls that wait.
//!
//! The two are apart so that slow files do not hold up compression, nor compression a flush. Threads start as they are
//! needed and end when they were idle for a while. A job must not wait for another job of the same pool.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

type Job = Box<dyn FnOnce() + Send>;

/// How long a thread without work stays.
const IDLE: Duration = Duration::from_secs(5);

/// System calls that may wait at the same time.
const FILE_THREADS: usize = 64;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

pub(crate) struct Pool {
    name: &'static str,
    max: usize,
    state: Mutex<State>,
    work: Condvar,
}

static COMPUTE: LazyLock<Pool> = LazyLock::new(|| {
    Pool::new("compute", std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
});

static FILES: LazyLock<Pool> = LazyLock::new(|| Pool::new("files", FILE_THREADS));

/// The pool for system calls on files.
pub(crate) fn files() -> &'static Pool {
    &FILES
}

impl Pool {
    fn new(name: &'static str, max: usize) -> Self {
        Self { name, max, state: Mutex::default(), work: Condvar::new() }
    }

    /// Has a job done on one of the threads. Jobs do not panic.
    pub(crate) fn submit(&'static self, job: Job) {
        let mut state = self.state.lock();
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() {
            self.work.notify_one();
            return;
        }
        if state.threads == self.max {
            return;
        }
        state.threads += 1;
        drop(state);
        let started = std::thread::Builder::new().name(self.name.into()).spawn(|| self.work());
        if started.is_err() {
            let mut state = self.state.lock();
            state.threads -= 1;
            // No other thread would ever do it: it is done here.
            if state.threads == 0
                && let Some(job) = state.jobs.pop_front()
            {
                drop(state);
                job();
            }
        }
    }

    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.state.lock();
                continue;
            }
            state.idle += 1;
            let timeout = self.work.wait_for(&mut state, IDLE).timed_out();
            state.idle -= 1;
            if timeout && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

enum Answer<T> {
    Awaited(Option<Waker>),
    Here(std::thread::Result<T>),
    Taken,
}

/// Waits for a job's answer.
struct Waiting<T>(Arc<Mutex<Answer<T>>>);

impl<T> Future for Waiting<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut answer = self.0.lock();
        match &mut *answer {
            Answer::Awaited(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => match std::mem::replace(&mut *answer, Answer::Taken) {
                Answer::Here(Ok(value)) => Poll::Ready(value),
                Answer::Here(Err(panic)) => {
                    drop(answer);
                    resume_unwind(panic)
                }
                _ => panic!("polled after its end"),
            },
        }
    }
}

fn run<T: Send + 'static>(pool: &'static Pool, work: impl FnOnce() -> T + Send + 'static) -> Waiting<T> {
    let answer = Arc::new(Mutex::new(Answer::Awaited(None)));
    let slot = answer.clone();
    pool.submit(Box::new(move || {
        let result = catch_unwind(AssertUnwindSafe(work));
        let before = std::mem::replace(&mut *slot.lock(), Answer::Here(result));
        if let Answer::Awaited(Some(waker)) = before {
            waker.wake();
        }
    }));
    Waiting(answer)
}

/// Computes something on a thread of the pool, which has as many as the machine has cores. A panic of `work` goes on in
/// the caller. Work once asked for is done even if nobody waits for it any more.
pub async fn unblock<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    run(&COMPUTE, work).await
}

/// Like [`unblock`], for work that waits for the system rather than computes: it neither takes a core's thread nor
/// queues behind those that compute.
pub async fn unblock_io<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    run(&FILES, work).await
}

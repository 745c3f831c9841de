//! Deadlines.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::executor::{self, Shared};

/// A deadline, and a number that tells equal ones apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TimerKey(Instant, u64);

impl TimerKey {
    pub(crate) fn deadline(&self) -> Instant {
        self.0
    }
}

/// Whom a timer wakes.
#[derive(Debug, Default)]
pub(crate) struct TimerWaker(Mutex<Option<Waker>>);

impl TimerWaker {
    pub(crate) fn take(&self) -> Option<Waker> {
        self.0.lock().take()
    }
}

/// A future that ends at a moment (or never), and then is that moment.
#[derive(Debug)]
pub struct Timer {
    key: Option<TimerKey>,
    waker: Arc<TimerWaker>,
    /// The executor that has it.
    place: Option<Arc<Shared>>,
}

static NEXT: AtomicU64 = AtomicU64::new(0);

impl Timer {
    /// Ends after a time. A time too long to be told from "never" is never.
    pub fn after(time: Duration) -> Self {
        Self::new(Instant::now().checked_add(time))
    }

    /// Ends at a moment.
    pub fn at(moment: Instant) -> Self {
        Self::new(Some(moment))
    }

    /// Does not end.
    pub fn never() -> Self {
        Self::new(None)
    }

    fn new(deadline: Option<Instant>) -> Self {
        let key = deadline.map(|deadline| TimerKey(deadline, NEXT.fetch_add(1, Relaxed)));
        Self { key, waker: Arc::default(), place: None }
    }

    fn leave(&mut self) {
        if let (Some(place), Some(key)) = (self.place.take(), self.key) {
            executor::remove_timer(&place, key);
        }
    }
}

impl Future for Timer {
    type Output = Instant;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Instant> {
        let Some(key) = self.key else { return Poll::Pending };
        if Instant::now() >= key.0 {
            self.leave();
            return Poll::Ready(key.0);
        }
        *self.waker.0.lock() = Some(cx.waker().clone());
        // A timer that has moved to another thread is that thread's from now on.
        if !self.place.as_ref().is_some_and(executor::is_here) {
            self.leave();
            self.place = Some(executor::add_timer(key, self.waker.clone()));
        }
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.leave();
    }
}

//! Where futures run.

use std::future::Future;

use async_executor::Executor;

thread_local! {
    static CURRENT: &'static Executor<'static> = Box::leak(Box::new(Executor::new()));
}

/// A future that was set going with [`spawn`]. Dropping it cancels the future; [`Task::detach`] lets it go on.
#[derive(Debug)]
#[must_use = "a task that is dropped is cancelled"]
pub struct Task<T>(async_executor::Task<T>);

impl<T> Task<T> {
    /// Lets the future go on without anybody waiting for it.
    pub fn detach(self) {
        self.0.detach();
    }

    /// Stops the future where it stands and waits until it is gone; its value, if it had ended already.
    pub async fn cancel(self) -> Option<T> {
        self.0.cancel().await
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<T> {
        std::pin::Pin::new(&mut self.0).poll(cx)
    }
}

/// Runs the thread's executor until the future has ended, and with it whatever was spawned on this thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    CURRENT.with(|executor| async_io::block_on(executor.run(future)))
}

/// Sets a future going on the executor of the calling thread.
pub fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Task<T> {
    CURRENT.with(|executor| Task(executor.spawn(future)))
}

/// Runs a closure on a thread of the pool.
pub async fn unblock<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    blocking::unblock(work).await
}

//! Work that must not stop half-way.
//!
//! A request's future may be dropped at any time. Where that would leave a table's write under way while a newer one
//! could overtake it, the work is wrapped by [`finish`]: if the caller gives up, a thread of its own ends it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

struct Finish<T: Send + 'static>(Option<Work<T>>);

impl<T: Send + 'static> Future for Finish<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let work = self.0.as_mut().expect("polled after its end");
        let answer = std::task::ready!(work.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(answer)
    }
}

impl<T: Send + 'static> Drop for Finish<T> {
    fn drop(&mut self) {
        if let Some(work) = self.0.take() {
            let run = move || {
                rhea_async_io::block_on(work);
            };
            // Without a thread the work is lost, and with it at worst what was not flushed yet.
            let _ = std::thread::Builder::new().name("qcow2-finish".into()).spawn(run);
        }
    }
}

/// Runs `work` to its end, whether or not the returned future is.
pub(crate) fn finish<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = T> + Send {
    Finish(Some(Box::pin(work)))
}

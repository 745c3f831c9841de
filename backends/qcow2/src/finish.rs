//! Work that must not stop half-way.
//!
//! A request's future may be dropped at any time. Where that would leave a table's write under way while a newer one
//! could overtake it, the work is wrapped by [`finish`]: if the caller gives up, a thread of its own ends it.
//!
//! Work that relies on what its caller holds (a share of the requests, or the image alone) is wrapped by
//! [`Image::finish`](crate::image::Image::finish) instead: what the caller held is free once it has given up, so nobody
//! gets it again before the work has ended ([`Orphans`]).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Work whose callers have given up.
#[derive(Default)]
pub(crate) struct Orphans {
    count: AtomicUsize,
    waiting: Mutex<Vec<Waker>>,
}

/// One that is still under way.
struct Orphan(Arc<Orphans>);

impl Drop for Orphan {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.lock();
        if self.0.count.fetch_sub(1, SeqCst) == 1 {
            waiting.drain(..).for_each(Waker::wake);
        }
    }
}

impl Orphans {
    /// Waits until there are none.
    pub(crate) async fn none(&self) {
        std::future::poll_fn(|cx| {
            if self.count.load(SeqCst) == 0 {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.lock();
            match self.count.load(SeqCst) {
                0 => Poll::Ready(()),
                _ => {
                    waiting.push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await;
    }
}

struct Finish<T: Send + 'static> {
    work: Option<Work<T>>,
    orphans: Option<Arc<Orphans>>,
}

impl<T: Send + 'static> Future for Finish<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let work = self.work.as_mut().expect("polled after its end");
        let answer = std::task::ready!(work.as_mut().poll(cx));
        self.work = None;
        Poll::Ready(answer)
    }
}

impl<T: Send + 'static> Drop for Finish<T> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            let orphan = self.orphans.take().map(|orphans| {
                orphans.count.fetch_add(1, SeqCst);
                Orphan(orphans)
            });
            let run = move || {
                let _orphan = orphan;
                rhea_async_io::block_on(work);
            };
            // Without a thread the work is lost, and with it at worst what was not flushed yet.
            let _ = std::thread::Builder::new().name("qcow2-finish".into()).spawn(run);
        }
    }
}

/// Runs `work`, which itself gets hold of what it needs, to its end, whether or not the returned future is.
pub(crate) fn finish<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = T> + Send {
    Finish { work: Some(Box::pin(work)), orphans: None }
}

/// The same for work that relies on what its caller holds, and must not itself wait for `orphans` to end.
pub(crate) fn finish_held<T: Send + 'static>(
    orphans: &Arc<Orphans>,
    work: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = T> + Send {
    Finish { work: Some(Box::pin(work)), orphans: Some(orphans.clone()) }
}

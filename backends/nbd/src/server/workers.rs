//! The threads that serve clients.
//!
//! A client stays on one thread. The first is that of whoever listens; others are started when several clients are there
//! at the same time, so that a server for one client has no more threads than it needs.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use parking_lot::Mutex;
use rhea_async_io::{Executor, spawn};

/// Executors beside that of the listener.
pub(super) struct Workers {
    /// Clients served on the listener's thread.
    here: Arc<AtomicUsize>,
    others: Mutex<Vec<Worker>>,
    /// How many of the others there may be.
    limit: usize,
}

struct Worker {
    executor: Executor,
    clients: Arc<AtomicUsize>,
}

/// Counts a client of a worker for as long as it is there.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(clients: &Arc<AtomicUsize>) -> Self {
        clients.fetch_add(1, SeqCst);
        Self(clients.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Workers {
    /// Up to so many threads, the listener's among them.
    pub(super) fn new(threads: usize) -> Self {
        Self { here: Arc::default(), others: Mutex::default(), limit: threads.saturating_sub(1) }
    }

    /// Serves a client on the thread that has the fewest.
    pub(super) fn serve(&self, client: impl Future<Output = ()> + Send + 'static) {
        let mut others = self.others.lock();
        let here = self.here.load(SeqCst);
        let least = others.iter().map(|w| w.clients.load(SeqCst)).min().unwrap_or(usize::MAX);
        if here > 0 && least > 0 && others.len() < self.limit {
            // Where no thread can be had, those that are there do the work.
            if let Ok(executor) = Executor::start("nbd") {
                others.push(Worker { executor, clients: Arc::default() });
            }
        }
        let quietest = others.iter().min_by_key(|w| w.clients.load(SeqCst));
        match quietest.filter(|w| w.clients.load(SeqCst) < here) {
            Some(worker) => {
                let counted = Counted::new(&worker.clients);
                worker.executor.spawn(counting(client, counted)).detach();
            }
            None => spawn(counting(client, Counted::new(&self.here))).detach(),
        }
    }
}

async fn counting(client: impl Future<Output = ()>, _counted: Counted) {
    client.await;
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::mpsc;
    use std::thread::{self, ThreadId};
    use std::time::Duration;

    use event_listener::Event;
    use rhea_async_io::{Timer, block_on};

    use super::*;

    /// How many of so many clients that are there at the same time each thread serves.
    fn shares(workers: &Workers, clients: usize) -> Vec<usize> {
        let served: Vec<ThreadId> = block_on(async {
            let leave = Arc::new(Event::new());
            let (sender, receiver) = mpsc::channel();
            for _ in 0..clients {
                let (sender, left) = (sender.clone(), leave.listen());
                workers.serve(async move {
                    left.await;
                    sender.send(thread::current().id()).unwrap();
                });
            }
            leave.notify(usize::MAX);
            let mut served = Vec::new();
            while served.len() < clients {
                served.extend(receiver.try_iter());
                Timer::after(Duration::from_millis(1)).await;
            }
            served
        });
        let mut by_thread: HashMap<ThreadId, usize> = HashMap::new();
        served.into_iter().for_each(|thread| *by_thread.entry(thread).or_default() += 1);
        let mut shares: Vec<usize> = by_thread.into_values().collect();
        shares.sort_unstable();
        shares
    }

    #[test]
    fn clients_are_spread_over_the_threads() {
        let workers = Workers::new(3);
        assert_eq!(shares(&workers, 1), [1]);
        assert_eq!(workers.others.lock().len(), 0, "one client needs no other thread");
        assert_eq!(shares(&workers, 2), [1, 1]);
        assert_eq!(shares(&workers, 7), [2, 2, 3]);
        assert_eq!(workers.others.lock().len(), 2);
        assert_eq!(shares(&Workers::new(1), 4), [4]);
    }
}

//! Serves the queues of a device on a thread of its own, so that vCPUs wait for nothing.
//!
//! Each queue has a task that takes chains; each chain is a task of its own, and they may end in any order.

use crate::device::Activation;
use crate::queue::{Chain, Queue};
use event_listener::Event;
use parking_lot::{Condvar, Mutex};
use rhea_async_io::{Executor, spawn, take_turns};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a device does with a chain.
pub(crate) trait ChainHandler: Send + Sync + 'static {
    /// Does what `chain` of queue `queue` asks for; the bytes that the driver will find written.
    fn handle(&self, queue: &Queue, chain: &Chain) -> Pin<Box<dyn Future<Output = u32> + Send>>;
}

#[derive(Default)]
struct Counts {
    /// Chains that are being served.
    chains: usize,
    /// Queues that have a task.
    queues: usize,
    paused: bool,
}

/// What is under way.
#[derive(Default)]
struct Work {
    counts: Mutex<Counts>,
    fewer: Condvar,
}

/// A chain that is being served, or is about to be.
struct Flight(Arc<Work>);

impl Work {
    fn start(self: &Arc<Self>) -> Option<Flight> {
        let mut counts = self.counts.lock();
        if counts.paused {
            return None;
        }
        counts.chains += 1;
        Some(Flight(self.clone()))
    }

    fn wait(&self, done: impl Fn(&Counts) -> bool) {
        let mut counts = self.counts.lock();
        while !done(&counts) {
            self.fewer.wait(&mut counts);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.counts.lock().chains -= 1;
        self.0.fewer.notify_all();
    }
}

/// Counts a queue's task.
struct Serving(Arc<Work>);

impl Serving {
    fn new(work: &Arc<Work>) -> Self {
        work.counts.lock().queues += 1;
        Self(work.clone())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.counts.lock().queues -= 1;
        self.0.fewer.notify_all();
    }
}

/// What the tasks of one activation share.
struct Lane {
    queue: Arc<Queue>,
    kick: Event,
    ended: AtomicBool,
}

/// The thread, and the queues it serves.
pub(crate) struct Server<H> {
    handler: Arc<H>,
    executor: Executor,
    lanes: Mutex<Vec<Option<Arc<Lane>>>>,
    work: Arc<Work>,
}

impl<H: ChainHandler> Server<H> {
    /// Starts the thread.
    pub(crate) fn start(name: &str, handler: Arc<H>) -> io::Result<Self> {
        let executor = Executor::start(name)?;
        Ok(Self { handler, executor, lanes: Mutex::default(), work: Arc::default() })
    }

    /// Serves the queues of `activation` from now on.
    pub(crate) fn activate(&self, activation: &Activation) {
        let mut lanes = self.lanes.lock();
        *lanes = activation
            .queues
            .iter()
            .map(|queue| {
                let queue = queue.clone()?;
                let lane = Arc::new(Lane { queue, kick: Event::new(), ended: AtomicBool::new(false) });
                let serving = Serving::new(&self.work);
                let (handler, work) = (self.handler.clone(), self.work.clone());
                let task = lane.clone();
                self.executor
                    .spawn(async move {
                        serve(&task, &handler, &work).await;
                        drop(serving);
                    })
                    .detach();
                Some(lane)
            })
            .collect();
    }

    /// There is something in queue `index`.
    pub(crate) fn notify(&self, index: u16) {
        if let Some(Some(lane)) = self.lanes.lock().get(usize::from(index)) {
            lane.kick.notify(1);
        }
    }

    /// Lets go of the queues; waits for the chains that are out.
    pub(crate) fn reset(&self) {
        for lane in std::mem::take(&mut *self.lanes.lock()).into_iter().flatten() {
            lane.ended.store(true, Ordering::SeqCst);
            lane.kick.notify(usize::MAX);
        }
        self.work.wait(|counts| counts.chains == 0 && counts.queues == 0);
    }

    /// Takes no more chains; waits for those that are out.
    pub(crate) fn pause(&self) {
        self.work.counts.lock().paused = true;
        self.work.wait(|counts| counts.chains == 0);
    }

    /// Takes chains again.
    pub(crate) fn resume(&self) {
        self.work.counts.lock().paused = false;
        for lane in self.lanes.lock().iter().flatten() {
            lane.kick.notify(usize::MAX);
        }
    }
}

async fn serve<H: ChainHandler>(lane: &Arc<Lane>, handler: &Arc<H>, work: &Arc<Work>) {
    loop {
        // From here on a kick ends the wait below.
        let kicked = lane.kick.listen();
        if lane.ended.load(Ordering::SeqCst) {
            return;
        }
        lane.queue.disable_notifications();
        while !lane.ended.load(Ordering::SeqCst) {
            let Some(flight) = work.start() else { break };
            let Some(chain) = lane.queue.take() else { break };
            let (queue, handler) = (lane.queue.clone(), handler.clone());
            spawn(async move {
                let written = handler.handle(&queue, &chain).await;
                queue.give_back(chain.id(), written);
                drop(flight);
            })
            .detach();
            take_turns(0).await;
        }
        let more = lane.queue.enable_notifications();
        let paused = work.counts.lock().paused;
        if !more || paused {
            kicked.await;
        }
    }
}

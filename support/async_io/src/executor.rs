//! Where futures run: an executor on each thread that needs one.
//!
//! A task stays on the executor it was spawned on. Wakers work from any thread: what wakes on the executor's own thread
//! goes straight into its queue; others leave a message, and write to its event descriptor if it sleeps.
//!
//! A round of the executor runs what is ready, then enters the kernel once: everything the tasks have begun meanwhile is
//! submitted by the call that waits for completions.
//!
//! That no wake-up is lost: the executor says that it sleeps (`sleeping`), then looks at its messages once more, then
//! waits; who leaves a message does so first, then looks at `sleeping`. In the one order of all these (sequentially
//! consistent) steps, either the executor sees the message or the other sees that it sleeps.
//!
//! Operations begun on a thread that is not in [`block_on`] have nobody to wait for them there: files' go to the pool,
//! and readiness and timers to an executor that runs for this alone.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::JoinHandle;

use async_task::Runnable;
use parking_lot::Mutex;

use crate::operation::Operation;
use crate::reactor::{Reactor, event_descriptor};
use crate::timer::{TimerKey, TimerWaker};

enum Message {
    Run(Runnable),
    Readiness(Arc<Operation>),
    CallOff(Arc<Operation>),
    AddTimer(TimerKey, Arc<TimerWaker>),
    RemoveTimer(TimerKey),
}

/// Tasks that have not ended, by the wakers that bring them back for their end.
#[derive(Default)]
struct Tasks {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

/// The part of an executor that other threads reach.
#[derive(Default)]
pub(crate) struct Shared {
    messages: Mutex<VecDeque<Message>>,
    /// There may be messages.
    has_messages: AtomicBool,
    sleeping: AtomicBool,
    /// The thread is gone; what is sent is dropped. Changed under the lock of `messages`.
    closed: AtomicBool,
    event: OnceLock<Arc<OwnedFd>>,
    tasks: Mutex<Tasks>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl Shared {
    fn event(&self) -> &Arc<OwnedFd> {
        self.event.get_or_init(|| match event_descriptor() {
            Ok(event) => Arc::new(event),
            // As fatal as a thread that cannot be started.
            Err(error) => panic!("no descriptor to wake a thread by: {error}"),
        })
    }

    fn wake_up(&self) {
        if self.sleeping.load(SeqCst) && self.sleeping.swap(false, SeqCst) {
            let one = 1_u64;
            // SAFETY: eight bytes from a u64. The counter is far from full, so that this does not wait.
            unsafe { libc::write(self.event().as_raw_fd(), std::ptr::from_ref(&one).cast(), 8) };
        }
    }

    fn send(&self, message: Message) {
        let mut messages = self.messages.lock();
        if self.closed.load(Relaxed) {
            drop(messages);
            // Dropping a task that is ready to run cancels it.
            drop(message);
            return;
        }
        messages.push_back(message);
        self.has_messages.store(true, SeqCst);
        drop(messages);
        self.wake_up();
    }

    fn schedule(self: &Arc<Self>, runnable: Runnable) {
        let mut runnable = Some(runnable);
        let _ = LOCAL.try_with(|local| {
            if Arc::ptr_eq(&local.shared, self)
                && let Some(runnable) = runnable.take()
            {
                local.queue.borrow_mut().push_back(runnable);
            }
        });
        if let Some(runnable) = runnable {
            self.send(Message::Run(runnable));
        }
    }

    fn spawn<T: Send + 'static>(
        self: &Arc<Self>,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        let index = {
            let mut tasks = self.tasks.lock();
            tasks.free.pop().unwrap_or_else(|| {
                tasks.wakers.push(None);
                tasks.wakers.len() - 1
            })
        };
        let entry = TaskEntry { shared: self.clone(), index };
        let future = async move {
            let _entry = entry;
            future.await
        };
        let shared = self.clone();
        // A panic ends the task, not the executor with all the others; it goes on in whoever waits for the task.
        let (runnable, task) = async_task::Builder::new()
            .propagate_panic(true)
            .spawn(move |()| future, move |runnable| shared.schedule(runnable));
        self.tasks.lock().wakers[index] = Some(runnable.waker());
        runnable.schedule();
        Task(task)
    }

    /// Ends all tasks and takes no more.
    fn close(&self) {
        let messages = {
            let mut messages = self.messages.lock();
            self.closed.store(true, Relaxed);
            std::mem::take(&mut *messages)
        };
        drop(messages);
        let wakers: Vec<Waker> = self.tasks.lock().wakers.iter_mut().filter_map(Option::take).collect();
        // Each comes back as a message that is dropped.
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A task's place among the executor's, given up as its future is dropped.
struct TaskEntry {
    shared: Arc<Shared>,
    index: usize,
}

impl Drop for TaskEntry {
    fn drop(&mut self) {
        let mut tasks = self.shared.tasks.lock();
        let waker = tasks.wakers[self.index].take();
        tasks.free.push(self.index);
        drop(tasks);
        drop(waker);
    }
}

/// The part of an executor that only its thread touches.
struct Local {
    shared: Arc<Shared>,
    queue: RefCell<VecDeque<Runnable>>,
    reactor: RefCell<Reactor>,
    /// Calls of [`block_on`] on the stack.
    depth: Cell<usize>,
    /// What the present task may still do before it lets others run.
    budget: Cell<usize>,
    rounds: Cell<u32>,
    /// [`DedicatedThread`]s in scope.
    dedicated: Cell<usize>,
    /// The last round did not enter the kernel, although it may have had something for it.
    held_back: Cell<bool>,
    wakers: RefCell<Vec<Waker>>,
}

/// Bytes that a task may read and write without ever waiting (each request counting [`REQUEST_COST`] more) before others
/// get their turn.
const BUDGET: usize = 1 << 20;
const REQUEST_COST: usize = 16 << 10;

thread_local! {
    static LOCAL: Local = Local {
        shared: Arc::default(),
        queue: RefCell::default(),
        reactor: RefCell::new(Reactor::new()),
        depth: Cell::new(0),
        budget: Cell::new(BUDGET),
        rounds: Cell::new(0),
        dedicated: Cell::new(0),
        held_back: Cell::new(false),
        wakers: RefCell::default(),
    };
}

impl Drop for Local {
    fn drop(&mut self) {
        let queue = std::mem::take(&mut *self.queue.borrow_mut());
        drop(queue);
        self.shared.close();
        // The ring goes with the reactor, and waits for what it has under way.
    }
}

impl Local {
    fn wake_ready(&self) {
        // Not borrowed while others' code runs.
        let mut wakers = self.wakers.take();
        wakers.drain(..).for_each(Waker::wake);
        self.wakers.replace(wakers);
    }

    fn finish_files(&self) {
        let mut wakers = self.wakers.take();
        let result = self.reactor.borrow_mut().finish_files(&mut wakers);
        self.wakers.replace(wakers);
        if let Err(error) = result {
            panic!("the kernel takes no more requests: {error}");
        }
        self.wake_ready();
    }

    fn take_messages(&self) {
        if !self.shared.has_messages.load(SeqCst) {
            return;
        }
        let messages = {
            let mut messages = self.shared.messages.lock();
            self.shared.has_messages.store(false, SeqCst);
            std::mem::take(&mut *messages)
        };
        for message in messages {
            match message {
                Message::Run(runnable) => self.queue.borrow_mut().push_back(runnable),
                Message::Readiness(operation) => self.submit_readiness(&operation),
                Message::CallOff(operation) => self.reactor.borrow_mut().call_off(&operation),
                Message::AddTimer(key, waker) => {
                    self.reactor.borrow_mut().timers.insert(key, waker);
                }
                Message::RemoveTimer(key) => self.remove_timer(key),
            }
        }
    }

    fn remove_timer(&self, key: TimerKey) {
        let removed = self.reactor.borrow_mut().timers.remove(&key);
        // Only now, as what a waker wakes may be dropped with it, and have timers of its own.
        drop(removed);
    }

    fn submit_readiness(&self, operation: &Arc<Operation>) {
        let submitted = self.reactor.borrow_mut().submit_readiness(operation, self.shared.event());
        if let Err(error) = submitted
            && let Some(waker) = operation.complete(-error.raw_os_error().unwrap_or(libc::EIO))
        {
            waker.wake();
        }
    }

    /// Runs what is ready now; what becomes ready by that waits for the next round.
    fn run_ready(&self) {
        let ready = self.queue.borrow().len();
        for _ in 0..ready {
            let Some(runnable) = self.queue.borrow_mut().pop_front() else { return };
            self.budget.set(BUDGET);
            runnable.run();
        }
    }

    /// Looks at the kernel's answers, or, if nothing is ready to run, waits for them.
    fn turn(&self, woken: &AtomicBool) {
        let shared = &*self.shared;
        let busy =
            || woken.load(SeqCst) || !self.queue.borrow().is_empty() || shared.has_messages.load(SeqCst);
        let rounds = self.rounds.get().wrapping_add(1);
        self.rounds.set(rounds);
        let mut wakers = self.wakers.take();
        let result = if busy() {
            // What was begun goes to the kernel with the next call: in the next round, which may be the one that waits.
            let enter = self.held_back.replace(!self.held_back.get());
            self.reactor.borrow_mut().look(&mut wakers, enter, rounds.is_multiple_of(16))
        } else {
            let event = shared.event();
            shared.sleeping.store(true, SeqCst);
            let result = match busy() {
                true => Ok(()),
                false => self.reactor.borrow_mut().wait(event, &mut wakers),
            };
            shared.sleeping.store(false, SeqCst);
            self.held_back.set(false);
            result
        };
        self.wakers.replace(wakers);
        if let Err(error) = result {
            panic!("the kernel takes no more requests: {error}");
        }
        self.wake_ready();
    }
}

/// The waker of the future in a [`block_on`].
struct Main {
    shared: Arc<Shared>,
    woken: AtomicBool,
}

impl Wake for Main {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, SeqCst);
        self.shared.wake_up();
    }
}

/// A call of [`block_on`] on the stack.
struct Depth<'a>(&'a Cell<usize>);

impl Drop for Depth<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Runs the thread's executor until the future has ended, and with it whatever was spawned on this thread.
///
/// What the kernel has under way in files then is waited for, as others may wait for it to end, and sockets that were
/// closed are closed for the kernel too.
///
/// # Panics
/// If the kernel refuses to work with the thread's ring any more, as after a `fork`: a process must not fork between its
/// first `block_on` and a later one.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    LOCAL.with(|local| {
        local.depth.set(local.depth.get() + 1);
        let _depth = Depth(&local.depth);
        let main = Arc::new(Main { shared: local.shared.clone(), woken: AtomicBool::new(true) });
        let waker = Waker::from(main.clone());
        let mut cx = Context::from_waker(&waker);
        loop {
            local.budget.set(BUDGET);
            if main.woken.swap(false, SeqCst)
                && let Poll::Ready(value) = future.as_mut().poll(&mut cx)
            {
                if local.depth.get() == 1 {
                    local.finish_files();
                }
                return value;
            }
            local.take_messages();
            local.run_ready();
            local.turn(&main.woken);
        }
    })
}

/// A future that was set going with [`spawn`]. Dropping it cancels the future; [`Task::detach`] lets it go on.
///
/// # Panics
/// Waiting for a task whose future has panicked, or whose executor has ended before it, panics.
#[derive(Debug)]
#[must_use = "a task that is dropped is cancelled"]
pub struct Task<T>(async_task::Task<T>);

impl<T> Task<T> {
    /// Lets the future go on without anybody waiting for it.
    pub fn detach(self) {
        self.0.detach();
    }

    /// Stops the future where it stands and waits until it is gone; its value, if it had ended already.
    pub async fn cancel(self) -> Option<T> {
        self.0.cancel().await
    }

    /// Whether the future has ended, by itself or cancelled.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// Sets a future going on the executor of the calling thread. It goes on whenever the thread is in [`block_on`], and is
/// dropped when the thread ends.
pub fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Task<T> {
    LOCAL.with(|local| local.shared.spawn(future))
}

/// An executor on a thread of its own.
#[derive(Debug)]
pub struct Executor {
    shared: Arc<Shared>,
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

/// Tells an executor's thread to end.
#[derive(Debug, Default)]
struct Stop {
    asked: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Stop {
    fn ask(&self) {
        self.asked.store(true, SeqCst);
        if let Some(waker) = self.waker.lock().take() {
            waker.wake();
        }
    }

    async fn asked(&self) {
        std::future::poll_fn(|cx| {
            *self.waker.lock() = Some(cx.waker().clone());
            match self.asked.load(SeqCst) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }
}

impl Executor {
    /// Starts a thread with an executor.
    pub fn start(name: &str) -> io::Result<Self> {
        let stop = Arc::new(Stop::default());
        let until = stop.clone();
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            let shared = LOCAL.with(|local| local.shared.clone());
            if sender.send(shared).is_ok() {
                block_on(until.asked());
            }
        })?;
        let shared = receiver.recv().map_err(|_| io::Error::from_raw_os_error(libc::EAGAIN))?;
        Ok(Self { shared, stop, thread: Some(thread) })
    }

    /// Sets a future going there. If the executor has stopped, the future is dropped.
    pub fn spawn<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Task<T> {
        self.shared.spawn(future)
    }

    /// Ends the thread. Tasks that have not ended are dropped; what the kernel has under way for them is waited for.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.ask();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic there was printed there.
            let _ = thread.join();
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.end();
    }
}

/// The executor for threads that have none running.
fn service() -> &'static Arc<Shared> {
    static SERVICE: OnceLock<Executor> = OnceLock::new();
    &SERVICE
        .get_or_init(|| {
            Executor::start("io").unwrap_or_else(|error| panic!("cannot start a thread: {error}"))
        })
        .shared
}

/// Calls `act` with the thread's executor if it is running.
fn with_running<T>(act: impl FnOnce(&Local) -> T) -> Option<T> {
    LOCAL.try_with(|local| (local.depth.get() > 0).then(|| act(local))).ok().flatten()
}

/// Whether this is the executor running on this thread.
pub(crate) fn is_here(shared: &Arc<Shared>) -> bool {
    with_running(|local| Arc::ptr_eq(&local.shared, shared)).unwrap_or(false)
}

/// While it lives, the thread has nothing better to do than to copy: its executor reads and writes what the page cache
/// takes by itself, however much it is, where it would otherwise have the kernel's threads do it. That saves the way
/// of the data from one processor's cache to another's. For threads that move data and serve nobody meanwhile.
#[derive(Debug)]
pub struct DedicatedThread {
    /// It counts for the thread that made it.
    _here: std::marker::PhantomData<*const ()>,
}

impl DedicatedThread {
    /// Dedicates the calling thread.
    pub fn enter() -> Self {
        LOCAL.with(|local| local.dedicated.set(local.dedicated.get() + 1));
        Self { _here: std::marker::PhantomData }
    }
}

impl Drop for DedicatedThread {
    fn drop(&mut self) {
        let _ = LOCAL.try_with(|local| local.dedicated.set(local.dedicated.get() - 1));
    }
}

/// Whether the thread may take its time to copy.
pub(crate) fn is_dedicated() -> bool {
    LOCAL.try_with(|local| local.dedicated.get() > 0).unwrap_or(false)
}

/// Lets other tasks run, and the executor look around, if this one has done a lot without waiting. `bytes` is what it has
/// handled since the last call; the operations of this crate count theirs themselves.
pub async fn take_turns(bytes: usize) {
    let exhausted = with_running(|local| {
        let left = local.budget.get();
        local.budget.set(left.saturating_sub(bytes.saturating_add(REQUEST_COST)));
        left == 0
    });
    if exhausted == Some(true) {
        futures_lite::future::yield_now().await;
    }
}

/// Puts a file's operation into this thread's ring, if it has one and is running.
pub(crate) fn submit_to_ring(operation: &Arc<Operation>) -> Option<Arc<Shared>> {
    with_running(|local| {
        let submitted = local.reactor.borrow_mut().submit_to_ring(operation, local.shared.event());
        submitted.then(|| local.shared.clone())
    })
    .flatten()
}

/// Begins to wait for readiness.
pub(crate) fn submit_readiness(operation: &Arc<Operation>) -> Arc<Shared> {
    let here = with_running(|local| {
        local.submit_readiness(operation);
        local.shared.clone()
    });
    here.unwrap_or_else(|| {
        service().send(Message::Readiness(operation.clone()));
        service().clone()
    })
}

/// Stops waiting for readiness.
pub(crate) fn call_off(shared: &Arc<Shared>, operation: &Arc<Operation>) {
    let here = LOCAL.try_with(|local| {
        let here = Arc::ptr_eq(&local.shared, shared);
        if here {
            local.reactor.borrow_mut().call_off(operation);
        }
        here
    });
    if !here.unwrap_or(false) {
        shared.send(Message::CallOff(operation.clone()));
    }
}

pub(crate) fn add_timer(key: TimerKey, waker: Arc<TimerWaker>) -> Arc<Shared> {
    let here = with_running(|local| {
        local.reactor.borrow_mut().timers.insert(key, waker.clone());
        local.shared.clone()
    });
    here.unwrap_or_else(|| {
        service().send(Message::AddTimer(key, waker));
        service().clone()
    })
}

pub(crate) fn remove_timer(shared: &Arc<Shared>, key: TimerKey) {
    let here = LOCAL.try_with(|local| {
        let here = Arc::ptr_eq(&local.shared, shared);
        if here {
            local.remove_timer(key);
        }
        here
    });
    if !here.unwrap_or(false) {
        shared.send(Message::RemoveTimer(key));
    }
}

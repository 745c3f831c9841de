//! A bounded queue of bytes on their way to a device.
//!
//! Delivery always happens on the queue's own thread: a device may call [`InputQueue::accept_input`] with its lock
//! held, and its receiver may take that lock.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};

use crate::CharReceiver;

/// Bytes that wait for the guest at most; beyond that the host source is not read.
const CAPACITY: usize = 64 * 1024;

/// One step of input: the line carries bytes and breaks in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    Byte(u8),
    Break,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Item>,
    receiver: Option<Arc<dyn CharReceiver>>,
    /// Set by `accept_input`: the receiver's answer to `can_receive` may have changed.
    recheck: bool,
    deliverer_running: bool,
    closing: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// The delivery thread waits here.
    work: Condvar,
    /// Readers of host sources wait here.
    room: Condvar,
}

/// The queue. See the module's text.
#[derive(Default)]
pub struct InputQueue {
    shared: Arc<Shared>,
}

impl InputQueue {
    /// An empty queue with no receiver.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the receiver and starts delivery.
    pub fn attach(&self, receiver: Arc<dyn CharReceiver>) {
        let mut state = self.shared.state.lock();
        state.receiver = Some(receiver);
        state.recheck = true;
        if !state.deliverer_running {
            let shared = self.shared.clone();
            let spawned =
                std::thread::Builder::new().name("chardev-in".into()).spawn(move || shared.deliver());
            state.deliverer_running = spawned.is_ok();
        }
        drop(state);
        self.shared.work.notify_one();
    }

    /// The receiver may have room again.
    pub fn accept_input(&self) {
        let mut state = self.shared.state.lock();
        if state.queue.is_empty() {
            return;
        }
        state.recheck = true;
        drop(state);
        self.shared.work.notify_one();
    }

    /// How many bytes fit now.
    pub fn room(&self) -> usize {
        CAPACITY - self.shared.state.lock().queue.len()
    }

    /// Queues bytes for the receiver; returns how many fit.
    pub fn push(&self, bytes: &[u8]) -> usize {
        self.shared.push(bytes)
    }

    /// Queues a break behind the bytes that wait. Returns false when the queue is full.
    pub fn push_break(&self) -> bool {
        let mut state = self.shared.state.lock();
        if state.queue.len() >= CAPACITY {
            return false;
        }
        state.queue.push_back(Item::Break);
        state.recheck = true;
        drop(state);
        self.shared.work.notify_one();
        true
    }

    /// Reads `source` on a thread of its own until its end, or until the queue is dropped.
    pub fn spawn_reader(&self, source: impl Read + Send + 'static, thread: &str) -> std::io::Result<()> {
        let shared = Arc::downgrade(&self.shared);
        std::thread::Builder::new().name(thread.into()).spawn(move || read_into(source, &shared))?;
        Ok(())
    }
}

impl Drop for InputQueue {
    fn drop(&mut self) {
        self.shared.state.lock().closing = true;
        self.shared.work.notify_all();
        self.shared.room.notify_all();
    }
}

fn read_into(mut source: impl Read, queue: &Weak<Shared>) {
    let mut buffer = [0; 4096];
    loop {
        let count = match source.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => count,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let Some(shared) = queue.upgrade() else { return };
            rest = &rest[shared.push(rest)..];
            if !rest.is_empty() {
                let mut state = shared.state.lock();
                while state.queue.len() >= CAPACITY {
                    if state.closing {
                        return;
                    }
                    shared.room.wait(&mut state);
                }
            }
        }
    }
}

impl Shared {
    fn push(&self, bytes: &[u8]) -> usize {
        let mut state = self.state.lock();
        let count = bytes.len().min(CAPACITY - state.queue.len());
        state.queue.extend(bytes[..count].iter().map(|&b| Item::Byte(b)));
        state.recheck = true;
        drop(state);
        self.work.notify_one();
        count
    }

    /// The delivery thread: takes what the receiver has room for, with no lock held while calling it.
    fn deliver(&self) {
        let mut bytes = Vec::new();
        loop {
            let receiver = {
                let mut state = self.state.lock();
                loop {
                    if state.closing {
                        return;
                    }
                    if state.recheck && !state.queue.is_empty() {
                        break;
                    }
                    self.work.wait(&mut state);
                }
                state.recheck = false;
                state.receiver.clone()
            };
            let Some(receiver) = receiver else { continue };
            let can_receive = receiver.can_receive();
            let is_break = self.take(can_receive, &mut bytes);
            if is_break {
                receiver.receive_break();
            } else if !bytes.is_empty() {
                receiver.receive(&bytes);
            }
        }
    }

    /// Moves the next run of bytes (at most `limit`) into `bytes`, or takes a break (answer true).
    fn take(&self, limit: usize, bytes: &mut Vec<u8>) -> bool {
        bytes.clear();
        let mut state = self.state.lock();
        let is_break = state.queue.front() == Some(&Item::Break);
        if is_break {
            state.queue.pop_front();
        }
        while !is_break && bytes.len() < limit {
            let Some(&Item::Byte(byte)) = state.queue.front() else { break };
            state.queue.pop_front();
            bytes.push(byte);
        }
        // Something moved: there may be more that the receiver can take.
        state.recheck |= is_break || !bytes.is_empty();
        drop(state);
        self.room.notify_all();
        is_break
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// A device with a 3-byte FIFO that the test drains by hand.
    #[derive(Default)]
    struct Fifo {
        fifo: Mutex<Vec<u8>>,
        breaks: Mutex<usize>,
    }

    impl CharReceiver for Fifo {
        fn can_receive(&self) -> usize {
            3 - self.fifo.lock().len()
        }

        fn receive(&self, bytes: &[u8]) {
            let mut fifo = self.fifo.lock();
            fifo.extend(bytes);
            assert!(fifo.len() <= 3, "delivered more than there was room for");
        }

        fn receive_break(&self) {
            *self.breaks.lock() += 1;
        }
    }

    fn drain(queue: &InputQueue, fifo: &Fifo, want: usize) -> Vec<u8> {
        let deadline = Instant::now() + Duration::from_secs(120);
        let mut got = Vec::new();
        while got.len() < want && Instant::now() < deadline {
            let part = std::mem::take(&mut *fifo.fifo.lock());
            if part.is_empty() {
                std::thread::sleep(Duration::from_micros(50));
            }
            got.extend(part);
            queue.accept_input();
        }
        got
    }

    #[test]
    fn a_slow_device_loses_nothing() {
        let queue = InputQueue::new();
        let data: Vec<u8> = (0..5000).map(|i| (i % 251) as u8).collect();
        queue.spawn_reader(std::io::Cursor::new(data.clone()), "test").unwrap();
        let fifo = Arc::new(Fifo::default());
        queue.attach(fifo.clone());
        assert_eq!(drain(&queue, &fifo, data.len()), data);
    }

    #[test]
    fn the_queue_is_bounded() {
        let queue = InputQueue::new();
        assert_eq!(queue.push(&vec![0; CAPACITY + 5]), CAPACITY);
        assert_eq!(queue.room(), 0);
        assert!(!queue.push_break());
    }

    #[test]
    fn a_break_keeps_its_place() {
        let queue = InputQueue::new();
        queue.push(b"ab");
        queue.push_break();
        queue.push(b"c");
        let fifo = Arc::new(Fifo::default());
        queue.attach(fifo.clone());
        assert_eq!(drain(&queue, &fifo, 3), b"abc");
        assert_eq!(*fifo.breaks.lock(), 1);
    }
}

//! A bounded queue between a device and a host descriptor, drained by a thread, so that a vCPU that prints does not pay
//! for one system call a byte.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Bytes that wait for the host at most.
const CAPACITY: usize = 64 * 1024;
/// A writer that finds the queue full waits as long as the host takes something at least this often.
const STALL_LIMIT: Duration = Duration::from_secs(5);

struct State {
    queue: VecDeque<u8>,
    /// Bytes taken off the queue and not yet through `write(2)`.
    in_flight: usize,
    /// Total drained, to tell progress from a stall.
    drained: u64,
    open: bool,
    closing: bool,
}

struct Shared {
    state: Mutex<State>,
    /// The drain thread waits here for bytes.
    filled: Condvar,
    /// Writers and flushers wait here for room.
    emptied: Condvar,
}

/// The queue. Dropping it drains what is queued in the background.
pub(crate) struct OutputQueue {
    shared: Arc<Shared>,
}

impl OutputQueue {
    /// Starts the drain thread.
    pub(crate) fn spawn(host: impl Write + Send + 'static, thread: &str) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                queue: VecDeque::with_capacity(CAPACITY),
                in_flight: 0,
                drained: 0,
                open: true,
                closing: false,
            }),
            filled: Condvar::new(),
            emptied: Condvar::new(),
        });
        let drain = shared.clone();
        std::thread::Builder::new().name(thread.into()).spawn(move || drain.drain(host))?;
        Ok(Self { shared })
    }

    /// Queues bytes, waiting for room while the host keeps draining. Short only when the host stalls or closes.
    pub(crate) fn write(&self, bytes: &[u8]) -> usize {
        let mut state = self.shared.state.lock();
        let mut accepted = 0;
        while state.open && accepted < bytes.len() {
            let room = CAPACITY - state.queue.len();
            if room == 0 {
                let before = state.drained;
                let timed_out = self.shared.emptied.wait_for(&mut state, STALL_LIMIT).timed_out();
                if timed_out && state.drained == before {
                    break;
                }
                continue;
            }
            let take = room.min(bytes.len() - accepted);
            state.queue.extend(&bytes[accepted..accepted + take]);
            accepted += take;
            self.shared.filled.notify_one();
        }
        accepted
    }

    /// False once the host refused a write.
    pub(crate) fn is_open(&self) -> bool {
        self.shared.state.lock().open
    }

    /// Waits until everything accepted is written, at most for the stall limit.
    pub(crate) fn flush(&self) {
        let deadline = Instant::now() + STALL_LIMIT;
        let mut state = self.shared.state.lock();
        while state.open && (!state.queue.is_empty() || state.in_flight != 0) {
            if self.shared.emptied.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
    }
}

impl Drop for OutputQueue {
    fn drop(&mut self) {
        self.shared.state.lock().closing = true;
        self.shared.filled.notify_one();
    }
}

impl Shared {
    fn drain(&self, mut host: impl Write) {
        let mut batch = Vec::with_capacity(CAPACITY);
        loop {
            let mut state = self.state.lock();
            while state.queue.is_empty() {
                if state.closing {
                    return;
                }
                self.filled.wait(&mut state);
            }
            batch.clear();
            batch.extend(state.queue.drain(..));
            state.in_flight = batch.len();
            drop(state);
            self.emptied.notify_all();
            let result = host.write_all(&batch).and_then(|()| host.flush());
            let mut state = self.state.lock();
            state.in_flight = 0;
            state.drained += batch.len() as u64;
            state.open = result.is_ok();
            let open = state.open;
            drop(state);
            self.emptied.notify_all();
            if !open {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn everything_arrives_in_order() {
        let log = Log::default();
        let queue = OutputQueue::spawn(log.clone(), "test").unwrap();
        let data: Vec<u8> = (0..3 * CAPACITY).map(|i| (i % 251) as u8).collect();
        assert_eq!(queue.write(&data), data.len());
        queue.flush();
        assert_eq!(*log.0.lock(), data);
    }

    #[test]
    fn a_host_that_is_gone_closes_the_queue() {
        let queue = OutputQueue::spawn(Closed, "test").unwrap();
        queue.write(b"x");
        queue.flush();
        assert!(!queue.is_open());
        assert_eq!(queue.write(b"y"), 0);
    }
}

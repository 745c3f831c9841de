//! What the guest asks of whoever runs it: power off, reset, leave with a status.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A request that only the owner of the whole machine can carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PowerRequest {
    /// The guest powered the machine off (ACPI S5).
    Shutdown,
    /// The guest asked for a system reset (reset register, keyboard controller, port 92h).
    Reset,
    /// A processor shut down on a triple fault; a PC resets on it.
    TripleFault,
    /// The guest wrote the debug-exit port; the value is the process exit status.
    DebugExit(u32),
    /// Someone outside the guest asks the run loop to end.
    Quit,
}

/// Queue of power requests with a waiter. A request that already waits is not queued twice, so that a guest
/// cannot grow the queue without bound.
#[derive(Default)]
pub struct PowerControl {
    queue: Mutex<VecDeque<PowerRequest>>,
    arrived: Condvar,
}

/// Distinct requests held at most (debug exits with different statuses count each).
const QUEUE_LIMIT: usize = 16;

impl PowerControl {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a request and wakes the waiter. May be called from any thread, under any device's lock.
    pub fn request(&self, request: PowerRequest) {
        let mut queue = self.queue.lock();
        if !queue.contains(&request) && queue.len() < QUEUE_LIMIT {
            queue.push_back(request);
        }
        self.arrived.notify_all();
    }

    /// Takes the oldest request, waiting for one at most `timeout` (for ever if `None`).
    pub fn wait(&self, timeout: Option<Duration>) -> Option<PowerRequest> {
        let deadline = timeout.map(|t| Instant::now() + t);
        let mut queue = self.queue.lock();
        loop {
            if let Some(request) = queue.pop_front() {
                return Some(request);
            }
            match deadline {
                None => self.arrived.wait(&mut queue),
                Some(deadline) if self.arrived.wait_until(&mut queue, deadline).timed_out() => {
                    return queue.pop_front();
                }
                Some(_) => {}
            }
        }
    }

    /// Takes the oldest request if there is one.
    pub fn take(&self) -> Option<PowerRequest> {
        self.queue.lock().pop_front()
    }

    /// Forgets all requests (after a machine reset).
    pub fn clear(&self) {
        self.queue.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_in_order_and_once() {
        let power = PowerControl::new();
        power.request(PowerRequest::Reset);
        power.request(PowerRequest::Shutdown);
        power.request(PowerRequest::Reset);
        assert_eq!(power.wait(None), Some(PowerRequest::Reset));
        assert_eq!(power.take(), Some(PowerRequest::Shutdown));
        assert_eq!(power.wait(Some(Duration::from_millis(1))), None);
    }

    #[test]
    fn a_guest_cannot_grow_the_queue() {
        let power = PowerControl::new();
        (0..1000).for_each(|status| power.request(PowerRequest::DebugExit(status)));
        assert_eq!(power.queue.lock().len(), QUEUE_LIMIT);
    }
}

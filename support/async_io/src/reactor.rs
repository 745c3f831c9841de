//! What a thread waits for: operations in its ring, or, where there is no io_uring, `poll` for readiness while threads of
//! the pool see to files.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, LazyLock};
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::operation::Operation;
use crate::ring::Ring;
use crate::timer::{TimerKey, TimerWaker};

/// Set (to anything but `on`) to do without io_uring, as if the kernel had none.
pub(crate) const ENVIRONMENT: &str = "RHEA_IO_URING";

static WANTED: LazyLock<bool> =
    LazyLock::new(|| std::env::var_os(ENVIRONMENT).is_none_or(|value| value == "on"));

enum Backend {
    /// Nothing was asked for yet: a ring costs time to set up, which many short commands need not spend.
    Unknown,
    Ring(Box<Ring>),
    /// Operations waiting for readiness.
    Poll(Vec<Arc<Operation>>),
}

pub(crate) struct Reactor {
    backend: Backend,
    event: Option<Arc<OwnedFd>>,
    pub(crate) timers: BTreeMap<TimerKey, Arc<TimerWaker>>,
}

/// A descriptor that others write to when this thread is to wake up.
pub(crate) fn event_descriptor() -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Reactor {
    pub(crate) fn new() -> Self {
        Self { backend: Backend::Unknown, event: None, timers: BTreeMap::new() }
    }

    fn ready_backend(&mut self, event: &Arc<OwnedFd>) -> &mut Backend {
        if matches!(self.backend, Backend::Unknown) {
            self.event = Some(event.clone());
            self.backend = match WANTED.then(|| Ring::new(event.clone())) {
                Some(Ok(ring)) => Backend::Ring(Box::new(ring)),
                _ => Backend::Poll(Vec::new()),
            };
        }
        &mut self.backend
    }

    /// Puts a file's operation into the ring; `false` if there is none.
    pub(crate) fn submit_to_ring(&mut self, operation: &Arc<Operation>, event: &Arc<OwnedFd>) -> bool {
        match self.ready_backend(event) {
            Backend::Ring(ring) => ring.submit(operation).is_ok(),
            _ => false,
        }
    }

    /// Begins to wait for readiness.
    pub(crate) fn submit_readiness(
        &mut self,
        operation: &Arc<Operation>,
        event: &Arc<OwnedFd>,
    ) -> io::Result<()> {
        match self.ready_backend(event) {
            Backend::Ring(ring) => ring.submit(operation),
            Backend::Poll(waiting) => {
                waiting.push(operation.clone());
                Ok(())
            }
            Backend::Unknown => unreachable!("decided above"),
        }
    }

    /// Stops waiting for readiness.
    pub(crate) fn call_off(&mut self, operation: &Arc<Operation>) {
        match &mut self.backend {
            Backend::Ring(ring) => ring.cancel(operation),
            Backend::Poll(waiting) => waiting.retain(|o| !Arc::ptr_eq(o, operation)),
            Backend::Unknown => {}
        }
    }

    /// Looks for what has ended, without waiting. A ring's kernel is only entered for it if `enter`, and descriptors are
    /// only polled for it if `poll_too`.
    pub(crate) fn look(&mut self, wakers: &mut Vec<Waker>, enter: bool, poll_too: bool) -> io::Result<()> {
        match &mut self.backend {
            Backend::Ring(ring) => {
                if enter && ring.wants_to_enter() {
                    ring.turn(false, None)?;
                }
                ring.completed(wakers);
            }
            Backend::Poll(waiting) if poll_too && !waiting.is_empty() => {
                poll(waiting, self.event.as_ref(), Some(Duration::ZERO), wakers)?;
            }
            _ => {}
        }
        self.expire(wakers);
        Ok(())
    }

    /// Waits until something has ended, a timer is due, or the event is written to.
    pub(crate) fn wait(&mut self, event: &Arc<OwnedFd>, wakers: &mut Vec<Waker>) -> io::Result<()> {
        let now = Instant::now();
        let limit =
            self.timers.first_key_value().map(|(key, _)| key.deadline().saturating_duration_since(now));
        match &mut self.backend {
            Backend::Ring(ring) => {
                ring.turn(true, limit)?;
                ring.completed(wakers);
            }
            Backend::Poll(waiting) => poll(waiting, Some(event), limit, wakers)?,
            Backend::Unknown => poll(&mut Vec::new(), Some(event), limit, wakers)?,
        }
        self.expire(wakers);
        Ok(())
    }

    /// Waits for what is under way in files.
    pub(crate) fn finish_files(&mut self, wakers: &mut Vec<Waker>) -> io::Result<()> {
        if let Backend::Ring(ring) = &mut self.backend {
            ring.finish_files()?;
            ring.completed(wakers);
        }
        Ok(())
    }

    fn expire(&mut self, wakers: &mut Vec<Waker>) {
        if self.timers.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().deadline() > now {
                return;
            }
            wakers.extend(entry.remove().take());
        }
    }
}

/// Waits by `poll`, and ends the operations that are ready.
fn poll(
    waiting: &mut Vec<Arc<Operation>>,
    event: Option<&Arc<OwnedFd>>,
    limit: Option<Duration>,
    wakers: &mut Vec<Waker>,
) -> io::Result<()> {
    let wanted = waiting.iter().map(|o| o.readiness().unwrap_or((-1, 0)));
    let mut fds: Vec<libc::pollfd> =
        wanted.map(|(fd, events)| libc::pollfd { fd, events, revents: 0 }).collect();
    fds.push(libc::pollfd { fd: event.map_or(-1, |e| e.as_raw_fd()), events: libc::POLLIN, revents: 0 });
    let limit = limit.map(|limit| libc::timespec {
        tv_sec: limit.as_secs().min(libc::time_t::MAX as u64) as libc::time_t,
        tv_nsec: limit.subsec_nanos().into(),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the list and the limit live through the call; no signal mask is given.
    let ready = unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, limit, std::ptr::null()) };
    if ready < 0 {
        return match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EINTR) => Ok(()),
            error => Err(error),
        };
    }
    if let (Some(event), Some(last)) = (event, fds.pop())
        && last.revents != 0
    {
        let mut count = 0_u64;
        // SAFETY: eight bytes to a u64. The event is written to, so that this does not wait.
        unsafe { libc::read(event.as_raw_fd(), std::ptr::from_mut(&mut count).cast(), 8) };
    }
    let mut results = fds.iter().map(|fd| fd.revents);
    waiting.retain(|operation| {
        let revents = results.next().unwrap_or(0);
        if revents != 0 {
            wakers.extend(operation.complete(revents.into()));
        }
        revents == 0
    });
    Ok(())
}

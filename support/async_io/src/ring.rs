//! A thread's io_uring.
//!
//! Entries are queued as operations begin and go to the kernel all at once, in the same system call that waits for
//! completions. Operations are kept in slots until their completion is there: the memory the kernel works in lives as
//! long as it does. The ring is used by the thread that made it only (`SINGLE_ISSUER`), which also runs the kernel's
//! deferred work when it enters (`DEFER_TASKRUN`).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};

use crate::operation::Operation;

/// Entries of the submission queue: more go in portions.
const ENTRIES: u32 = 128;

/// Completions that need no handling.
const IGNORED: u64 = u64::MAX;
/// The completion of the read that others wake us by.
const EVENT: u64 = u64::MAX - 1;

pub(crate) struct Ring {
    uring: IoUring,
    slots: Vec<Option<Arc<Operation>>>,
    free: Vec<u32>,
    /// Operations the kernel (or the submission queue) has.
    running: usize,
    /// Those of them that wait for readiness, and so need not end.
    waiting: usize,
    event: Arc<OwnedFd>,
    /// Where the event's count is read to. On the heap, as the ring moves while the kernel has its address.
    event_count: Box<u64>,
    event_armed: bool,
    /// Whom completions have made ready.
    ready: Vec<Waker>,
}

impl Ring {
    /// A ring that writes to `event` wake up; an error where the kernel has none, or not for us.
    pub(crate) fn new(event: Arc<OwnedFd>) -> io::Result<Self> {
        let modern = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(8 * ENTRIES)
            .build(ENTRIES);
        let uring = match modern {
            Ok(uring) => uring,
            // Linux before 6.1.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                IoUring::builder().setup_cqsize(8 * ENTRIES).build(ENTRIES)?
            }
            Err(error) => return Err(error),
        };
        let features = uring.params();
        // Linux before 5.11: completions could be lost, and waiting takes no time limit.
        if !features.is_feature_nodrop() || !features.is_feature_ext_arg() {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        Ok(Self {
            uring,
            slots: Vec::new(),
            free: Vec::new(),
            running: 0,
            waiting: 0,
            event,
            event_count: Box::new(0),
            event_armed: false,
            ready: Vec::new(),
        })
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: operations are kept in their slots (and the event's count in the ring) until they complete, and
            // with them the memory the entry speaks of.
            if unsafe { self.uring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            // Full: to the kernel with them, whose answers must find room too.
            self.enter(0, None)?;
            self.reap();
        }
    }

    /// Queues an operation.
    pub(crate) fn submit(&mut self, operation: &Arc<Operation>) -> io::Result<()> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        let entry = operation.entry(slot);
        if let Err(error) = self.push(&entry) {
            self.free.push(slot);
            return Err(error);
        }
        self.slots[slot as usize] = Some(operation.clone());
        self.running += 1;
        self.waiting += usize::from(operation.readiness().is_some());
        Ok(())
    }

    /// Calls an operation off, if it has not ended yet. It completes all the same.
    pub(crate) fn cancel(&mut self, operation: &Arc<Operation>) {
        let slot = operation.slot();
        let kept = self.slots.get(slot as usize).and_then(Option::as_ref);
        if kept.is_some_and(|kept| Arc::ptr_eq(kept, operation)) {
            // If there is no room the operation stays until its time comes; nobody waits for it.
            let _ = self.push(&opcode::AsyncCancel::new(u64::from(slot)).build().user_data(IGNORED));
        }
    }

    /// Whether the kernel has something to be told, or to do in our name.
    pub(crate) fn wants_to_enter(&mut self) -> bool {
        let submission = self.uring.submission();
        !submission.is_empty() || submission.taskrun() || submission.cq_overflow()
    }

    /// Gives the kernel what is queued, and waits for a completion if `wait`, at most for a time.
    pub(crate) fn turn(&mut self, wait: bool, limit: Option<Duration>) -> io::Result<()> {
        if wait && !self.event_armed {
            let count: *mut u64 = &mut *self.event_count;
            let read = opcode::Read::new(Fd(self.event.as_raw_fd()), count.cast(), 8);
            self.push(&read.build().user_data(EVENT))?;
            self.event_armed = true;
        }
        self.enter(usize::from(wait), limit)
    }

    fn enter(&mut self, want: usize, limit: Option<Duration>) -> io::Result<()> {
        let submitter = self.uring.submitter();
        let result = match limit {
            None => submitter.submit_and_wait(want),
            Some(limit) => {
                let timespec = Timespec::from(limit);
                submitter.submit_with_args(want, &SubmitArgs::new().timespec(&timespec))
            }
        };
        match result {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // The time is over, or a signal came: the executor looks around. EBUSY: completions must be taken first.
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Takes the completions that are there.
    fn reap(&mut self) {
        loop {
            let Some(completion) = self.uring.completion().next() else { return };
            match completion.user_data() {
                IGNORED => {}
                EVENT => self.event_armed = false,
                slot => {
                    let slot = slot as u32;
                    let Some(operation) = self.slots.get_mut(slot as usize).and_then(Option::take) else {
                        continue;
                    };
                    self.free.push(slot);
                    self.running -= 1;
                    self.waiting -= usize::from(operation.readiness().is_some());
                    self.ready.extend(operation.complete(completion.result()));
                }
            }
        }
    }

    /// Takes the completions that are there, and hands over whom to wake.
    pub(crate) fn completed(&mut self, wakers: &mut Vec<Waker>) {
        self.reap();
        wakers.append(&mut self.ready);
    }

    /// Waits until no file has an operation under way here, and what was called off is gone.
    pub(crate) fn finish_files(&mut self) -> io::Result<()> {
        while self.running > self.waiting {
            self.enter(1, None)?;
            self.reap();
        }
        // So many times at most: the kernel may leave its mark that it has work to do when there is none any more (it is set
        // after the work was queued, and perhaps done already by then).
        for _ in 0..4 {
            if !self.wants_to_enter() {
                break;
            }
            self.enter(0, None)?;
            self.reap();
        }
        Ok(())
    }

    /// Waits until the kernel has nothing of ours any more. Waiting for readiness is called off.
    fn drain(&mut self) -> io::Result<()> {
        let waiting = self.slots.iter().flatten().filter(|o| o.readiness().is_some());
        for operation in waiting.cloned().collect::<Vec<_>>() {
            self.cancel(&operation);
        }
        if self.event_armed {
            self.push(&opcode::AsyncCancel::new(EVENT).build().user_data(IGNORED))?;
        }
        while self.running > 0 || self.event_armed {
            self.enter(1, None)?;
            self.reap();
        }
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.drain().is_err() {
            // What the kernel may still use must stay where it is.
            std::mem::forget(std::mem::take(&mut self.slots));
            std::mem::forget(std::mem::take(&mut self.event_count));
        }
        self.ready.drain(..).for_each(Waker::wake);
    }
}

//! Operations: what the kernel is asked to do, with the memory it does it in.
//!
//! An operation is shared by the future that waits for it and by whoever carries it out (a ring, or a thread of the
//! pool). Dropping the future leaves the operation and its memory with the other side, which drops them when the kernel is
//! done. Only waiting for readiness is called off, as it might otherwise never end.
//!
//! A change of a file that nobody waits for any more must not take effect after a later one: the file is told of it
//! ([`Unattended`](crate::file::Unattended)), and its next operation begins when it has ended.

use std::future::Future;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::IoVector;
use crate::buffer::Segments;
use crate::executor::{self, Shared};
use crate::file::OpenFile;
use crate::pool;

/// Bytes of a request that another thread should copy.
pub(crate) const LARGE: usize = 512 << 10;

/// What is to be done.
pub(crate) enum Request {
    Read {
        file: Arc<OpenFile>,
        data: IoVector,
        offset: u64,
    },
    Write {
        file: Arc<OpenFile>,
        data: Segments,
        offset: u64,
    },
    SyncData {
        file: Arc<OpenFile>,
    },
    Allocate {
        file: Arc<OpenFile>,
        mode: i32,
        offset: u64,
        len: u64,
    },
    /// `poll` once.
    Readiness {
        fd: RawFd,
        events: i16,
    },
}

impl Request {
    fn file(&self) -> Option<&Arc<OpenFile>> {
        match self {
            Self::Read { file, .. }
            | Self::Write { file, .. }
            | Self::SyncData { file }
            | Self::Allocate { file, .. } => Some(file),
            Self::Readiness { .. } => None,
        }
    }

    /// Whether copying from or to the page cache takes so long that the kernel's threads should do it, while the
    /// executor does something else; and not the executor's own thread, in the course of submitting it.
    fn is_better_done_aside(&self) -> bool {
        let (file, len) = match self {
            Self::Read { file, data, .. } => (file, data.len()),
            Self::Write { file, data, .. } => (file, data.iter().map(crate::buffer::Segment::len).sum()),
            _ => return false,
        };
        file.is_cached() && len >= LARGE
    }

    /// The file that it changes, if it does.
    fn changes(&self) -> Option<&Arc<OpenFile>> {
        match self {
            Self::Write { file, .. } | Self::Allocate { file, .. } => Some(file),
            Self::Read { .. } | Self::SyncData { .. } | Self::Readiness { .. } => None,
        }
    }
}

enum State {
    Running(Option<Waker>),
    /// The system call's result, or the error number negated.
    Done(i32),
}

pub(crate) struct Inner {
    state: State,
    request: Option<Request>,
    /// What the kernel is shown of the request's memory. Stays where it is for as long as the operation runs.
    iovecs: SmallVec<[libc::iovec; 2]>,
    /// Where the ring keeps the operation.
    pub(crate) slot: u32,
    /// A file that changes although nobody waits for it.
    unattended: Option<Arc<OpenFile>>,
}

/// See the [module](self).
pub(crate) struct Operation {
    inner: Mutex<Inner>,
}

// SAFETY: what keeps this from being automatic is the addresses in `iovecs`; they are those of memory that `request`
// holds, and are only given to the kernel.
unsafe impl Send for Operation {}
// SAFETY: as above; all access goes through the mutex.
unsafe impl Sync for Operation {}

impl Operation {
    fn new(request: Request) -> Arc<Self> {
        let mut iovecs = match &request {
            Request::Read { data, .. } => data.iovecs(),
            Request::Write { data, .. } => crate::buffer::iovecs(data),
            _ => SmallVec::new(),
        };
        // More than that is not taken at once; the caller goes on behind what was done.
        iovecs.truncate(libc::UIO_MAXIOV as usize);
        let state = State::Running(None);
        Arc::new(Self {
            inner: Mutex::new(Inner { state, request: Some(request), iovecs, slot: 0, unattended: None }),
        })
    }

    /// The entry of a submission queue for it.
    ///
    /// The caller keeps the operation alive until the completion is there.
    pub(crate) fn entry(&self, slot: u32) -> io_uring::squeue::Entry {
        use io_uring::{opcode, types::Fd};
        let mut inner = self.inner.lock();
        inner.slot = slot;
        let (iovecs, count) = (inner.iovecs.as_ptr(), inner.iovecs.len() as u32);
        let request = inner.request.as_ref().expect("only taken when done");
        let entry = match *request {
            Request::Read { ref file, offset, .. } => {
                opcode::Readv::new(Fd(file.as_raw_fd()), iovecs, count).offset(offset).build()
            }
            Request::Write { ref file, offset, .. } => {
                opcode::Writev::new(Fd(file.as_raw_fd()), iovecs, count).offset(offset).build()
            }
            Request::SyncData { ref file } => {
                opcode::Fsync::new(Fd(file.as_raw_fd())).flags(io_uring::types::FsyncFlags::DATASYNC).build()
            }
            Request::Allocate { ref file, mode, offset, len } => {
                opcode::Fallocate::new(Fd(file.as_raw_fd()), len).offset(offset).mode(mode).build()
            }
            Request::Readiness { fd, events } => opcode::PollAdd::new(Fd(fd), events as u32).build(),
        };
        let entry = match request.is_better_done_aside() {
            true => entry.flags(io_uring::squeue::Flags::ASYNC),
            false => entry,
        };
        entry.user_data(u64::from(slot))
    }

    /// Where the ring keeps it.
    pub(crate) fn slot(&self) -> u32 {
        self.inner.lock().slot
    }

    /// What to `poll` for; `None` if it is not about readiness.
    pub(crate) fn readiness(&self) -> Option<(RawFd, i16)> {
        match self.inner.lock().request {
            Some(Request::Readiness { fd, events }) => Some((fd, events)),
            _ => None,
        }
    }

    /// Tells the result; whoever waits is to be woken by the caller.
    #[must_use]
    pub(crate) fn complete(&self, result: i32) -> Option<Waker> {
        let (before, unattended) = {
            let mut inner = self.inner.lock();
            (std::mem::replace(&mut inner.state, State::Done(result)), inner.unattended.take())
        };
        if let Some(file) = unattended {
            file.unattended().ended();
        }
        match before {
            State::Running(waker) => waker,
            State::Done(_) => None,
        }
    }

    /// Does it here and now.
    fn run(&self) -> i32 {
        let (file, iovecs, count, request) = {
            let inner = self.inner.lock();
            let request = inner.request.as_ref().expect("only taken when done");
            let Some(file) = request.file() else { return -libc::EINVAL };
            let what = match *request {
                Request::Read { offset, .. } => Call::Read(offset),
                Request::Write { offset, .. } => Call::Write(offset),
                Request::Allocate { mode, offset, len, .. } => Call::Allocate(mode, offset, len),
                Request::SyncData { .. } | Request::Readiness { .. } => Call::SyncData,
            };
            (file.clone(), inner.iovecs.as_ptr(), inner.iovecs.len() as libc::c_int, what)
        };
        let fd = file.as_raw_fd();
        loop {
            // SAFETY: `iovecs` lies in this operation, which is alive, and nobody changes it or takes the request (whose
            // memory it describes) before `complete`.
            let result = unsafe {
                match request {
                    Call::Read(offset) => libc::preadv(fd, iovecs, count, offset as libc::off_t),
                    Call::Write(offset) => libc::pwritev(fd, iovecs, count, offset as libc::off_t),
                    Call::SyncData => libc::fdatasync(fd) as isize,
                    Call::Allocate(mode, offset, len) => {
                        libc::fallocate(fd, mode, offset as libc::off_t, len as libc::off_t) as isize
                    }
                }
            };
            if result >= 0 {
                // A read or write is never longer than this: Linux ends it before.
                return result.min(i32::MAX as isize) as i32;
            }
            match std::io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => {}
                errno => return -errno.unwrap_or(libc::EIO),
            }
        }
    }
}

enum Call {
    Read(u64),
    Write(u64),
    SyncData,
    Allocate(i32, u64, u64),
}

/// Waits for an operation, which begins with the first poll.
pub(crate) struct Submission {
    operation: Arc<Operation>,
    place: Place,
    in_pool: bool,
}

enum Place {
    Nowhere,
    /// With the executor of a thread.
    Executor(Arc<Shared>),
    Pool,
    Done,
}

impl Submission {
    pub(crate) fn new(request: Request) -> Self {
        Self { operation: Operation::new(request), place: Place::Nowhere, in_pool: false }
    }

    /// To be done by a thread of the pool, whatever else there is. For files only.
    pub(crate) fn in_pool(request: Request) -> Self {
        let mut this = Self::new(request);
        this.in_pool = true;
        this
    }

    fn start(&mut self, waker: Waker) {
        self.operation.inner.lock().state = State::Running(Some(waker));
        let operation = &self.operation;
        let file = operation.inner.lock().request.as_ref().and_then(Request::file).cloned();
        match file {
            None => self.place = Place::Executor(executor::submit_readiness(operation)),
            Some(file) => {
                if !file.only_threads()
                    && !self.in_pool
                    && let Some(shared) = executor::submit_to_ring(operation)
                {
                    self.place = Place::Executor(shared);
                    return;
                }
                self.place = Place::Pool;
                let operation = operation.clone();
                pool::files().submit(Box::new(move || {
                    let result = operation.run();
                    if let Some(waker) = operation.complete(result) {
                        waker.wake();
                    }
                }));
            }
        }
    }
}

impl Future for Submission {
    type Output = (i32, Request);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if matches!(self.place, Place::Nowhere) {
            self.start(cx.waker().clone());
            return Poll::Pending;
        }
        let mut inner = self.operation.inner.lock();
        match &mut inner.state {
            State::Running(Some(waker)) if waker.will_wake(cx.waker()) => Poll::Pending,
            State::Running(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Done(result) => {
                let result = *result;
                let request = inner.request.take().expect("polled after its end");
                drop(inner);
                self.place = Place::Done;
                Poll::Ready((result, request))
            }
        }
    }
}

impl Drop for Submission {
    fn drop(&mut self) {
        if matches!(self.place, Place::Nowhere | Place::Done) {
            return;
        }
        let waker;
        {
            let mut inner = self.operation.inner.lock();
            let State::Running(waiting) = &mut inner.state else { return };
            // Dropped below: it may be the last of its task.
            waker = waiting.take();
            let changes = inner.request.as_ref().and_then(Request::changes).cloned();
            if let Some(file) = changes {
                file.unattended().left();
                inner.unattended = Some(file);
            }
        }
        drop(waker);
        if let Place::Executor(shared) = &self.place
            && self.operation.readiness().is_some()
        {
            executor::call_off(shared, &self.operation);
        }
    }
}

//! The part of a vCPU that other threads may touch: waking it, and asking it to do things between units.

use crate::frame::FrameMemory;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Requests to a vCPU, handled between units.
pub mod request {
    /// Return from `run`.
    pub const STOP: u32 = 1 << 0;
    /// Forget every translation (the memory map changed).
    pub const FLUSH_TLB: u32 = 1 << 1;
    /// Park: another thread needs all vCPUs outside translated code.
    pub const PARK: u32 = 1 << 2;
    /// Let another vCPU have its turn.
    pub const YIELD: u32 = 1 << 3;
}

/// Shared state of one vCPU.
#[derive(Debug)]
pub struct VcpuShared {
    pub(crate) index: u32,
    pub(crate) memory: Arc<FrameMemory>,
    requests: AtomicU32,
    /// The vCPU executes (translated or Rust code on behalf of the guest) as opposed to parked, waiting or stopped.
    pub(crate) running: AtomicBool,
    event: Mutex<bool>,
    wake: Condvar,
}

impl VcpuShared {
    pub(crate) fn new(index: u32, memory: Arc<FrameMemory>) -> Self {
        VcpuShared {
            index,
            memory,
            requests: AtomicU32::new(0),
            running: AtomicBool::new(false),
            event: Mutex::new(false),
            wake: Condvar::new(),
        }
    }

    /// Asks for `bits` of [`request`] and gets the vCPU out of translated code or sleep soon.
    pub fn request(&self, bits: u32) {
        self.requests.fetch_or(bits, Ordering::SeqCst);
        self.kick();
    }

    /// Withdraws requests.
    pub fn withdraw(&self, bits: u32) {
        self.requests.fetch_and(!bits, Ordering::SeqCst);
    }

    /// Gets the vCPU out of translated code or sleep soon, to look for events.
    pub fn kick(&self) {
        self.memory.frame().poll.store(1, Ordering::SeqCst);
        let mut event = self.event.lock();
        *event = true;
        self.wake.notify_all();
    }

    pub(crate) fn pending(&self) -> u32 {
        self.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn wants_flush(&self) -> bool {
        self.requests.load(Ordering::Relaxed) & request::FLUSH_TLB != 0
            && self.requests.fetch_and(!request::FLUSH_TLB, Ordering::SeqCst) & request::FLUSH_TLB != 0
    }

    /// Sleeps until kicked since the last look, at most for `time`; whether it was kicked.
    pub(crate) fn sleep_for(&self, time: Duration) -> bool {
        let end = Instant::now() + time.min(Duration::from_secs(3600));
        let mut event = self.event.lock();
        while !*event && !self.wake.wait_until(&mut event, end).timed_out() {}
        std::mem::take(&mut *event)
    }

    /// Sleeps until kicked since the last look.
    pub(crate) fn sleep(&self) {
        let mut event = self.event.lock();
        while !*event {
            self.wake.wait(&mut event);
        }
        *event = false;
    }
}

/// A handle for other threads.
#[derive(Clone, Debug)]
pub struct VcpuHandle(pub(crate) Arc<VcpuShared>);

impl VcpuHandle {
    /// See [`VcpuShared::kick`]. Async-signal-unsafe, otherwise callable from any thread.
    pub fn kick(&self) {
        self.0.kick();
    }

    /// Asks for bits of [`request`].
    pub fn request(&self, bits: u32) {
        self.0.request(bits);
    }

    /// Withdraws bits of [`request`].
    pub fn withdraw(&self, bits: u32) {
        self.0.withdraw(bits);
    }
}

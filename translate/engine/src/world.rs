//! Stopping the world: running a piece of work while no other vCPU executes.

use crate::code::Engine;
use crate::vcpu::{VcpuShared, request};
use std::sync::atomic::Ordering;

/// Who has the world for itself.
#[derive(Default)]
pub(crate) struct World {
    held: bool,
}

impl Engine {
    /// This vCPU starts executing; waits while another holds the world.
    pub(crate) fn enter_running(&self, vcpu: &VcpuShared) {
        let mut world = self.world.lock();
        while world.held {
            self.world_changed.wait(&mut world);
        }
        vcpu.running.store(true, Ordering::SeqCst);
    }

    /// This vCPU is not executing any more.
    pub(crate) fn leave_running(&self, vcpu: &VcpuShared) {
        let _world = self.world.lock();
        vcpu.running.store(false, Ordering::SeqCst);
        self.world_changed.notify_all();
    }

    /// Runs `f` while no other vCPU executes. Must be called from the dispatcher (not from inside translated code),
    /// with no lock held.
    pub(crate) fn exclusive<R>(&self, vcpu: &VcpuShared, f: impl FnOnce() -> R) -> R {
        let mut world = self.world.lock();
        vcpu.running.store(false, Ordering::SeqCst);
        self.world_changed.notify_all();
        while world.held {
            self.world_changed.wait(&mut world);
        }
        world.held = true;
        let others: Vec<_> = self.vcpus.lock().iter().filter(|v| v.index != vcpu.index).cloned().collect();
        for v in &others {
            v.request(request::PARK);
        }
        while others.iter().any(|v| v.running.load(Ordering::SeqCst)) {
            self.world_changed.wait(&mut world);
        }
        drop(world);
        let result = f();
        let mut world = self.world.lock();
        for v in &others {
            v.withdraw(request::PARK);
        }
        world.held = false;
        vcpu.running.store(true, Ordering::SeqCst);
        self.world_changed.notify_all();
        result
    }
}

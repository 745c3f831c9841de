//! Stopping the world: running a piece of work while no other vCPU executes.

use crate::code::Engine;
use crate::vcpu::{VcpuShared, request};
use std::collections::VecDeque;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Who executes, and who has the world for itself.
#[derive(Default)]
pub(crate) struct World {
    held: bool,
    /// With [`crate::EngineConfig::take_turns`]: the vCPU whose turn it is, and those that wait for theirs, in order.
    turn: Option<u32>,
    waiting: VecDeque<u32>,
}

/// Longest turn while another vCPU waits for its own.
const TURN: Duration = Duration::from_millis(2);

impl Engine {
    /// This vCPU starts executing; waits while another holds the world, or has its turn.
    pub(crate) fn enter_running(&self, vcpu: &VcpuShared) {
        let mut world = self.world.lock();
        if self.config().take_turns {
            world.waiting.push_back(vcpu.index);
            self.world_changed.notify_all();
            while world.held || world.turn.is_some() || world.waiting.front() != Some(&vcpu.index) {
                self.world_changed.wait(&mut world);
            }
            world.waiting.pop_front();
            world.turn = Some(vcpu.index);
        } else {
            while world.held {
                self.world_changed.wait(&mut world);
            }
        }
        vcpu.running.store(true, Ordering::SeqCst);
    }

    /// This vCPU is not executing any more.
    pub(crate) fn leave_running(&self, vcpu: &VcpuShared) {
        let mut world = self.world.lock();
        vcpu.running.store(false, Ordering::SeqCst);
        world.turn = None;
        self.world_changed.notify_all();
    }

    /// Ends turns that have lasted long enough, for as long as the engine lives. Sleeps while nobody waits for a turn.
    pub(crate) fn time_turns(engine: Weak<Engine>) {
        while let Some(engine) = engine.upgrade() {
            let mut world = engine.world.lock();
            if world.waiting.is_empty() {
                // Bounded, so that an engine that is dropped meanwhile is noticed.
                engine.world_changed.wait_for(&mut world, Duration::from_secs(1));
                continue;
            }
            drop(world);
            std::thread::sleep(TURN);
            let world = engine.world.lock();
            if let (Some(turn), false) = (world.turn, world.waiting.is_empty())
                && let Some(vcpu) = engine.vcpus.lock().iter().find(|v| v.index == turn)
            {
                vcpu.request(request::YIELD);
            }
        }
    }

    /// Runs `f` while no other vCPU executes. Must be called from the dispatcher (not from inside translated code),
    /// with no lock held.
    pub(crate) fn exclusive<R>(&self, vcpu: &VcpuShared, f: impl FnOnce() -> R) -> R {
        let mut world = self.world.lock();
        vcpu.running.store(false, Ordering::SeqCst);
        world.turn = None;
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
        world.turn = self.config().take_turns.then_some(vcpu.index);
        vcpu.running.store(true, Ordering::SeqCst);
        self.world_changed.notify_all();
        result
    }
}

//! Making vCPUs, whatever their guest.

use std::any::Any;
use std::sync::Arc;

use rhea_engine::context::{GuestState, VcpuParts};
use rhea_engine::{Engine, EngineConfig, EngineError, Guest, VcpuContext, VcpuHandle};
use rhea_memory::AddressSpace;
use thiserror::Error;

use crate::group::{Reset, TranslatedVcpus};

/// What the vCPUs of a machine have in common.
pub struct Settings {
    /// The guest. Units and helpers refer to it for as long as the process lives, which makes very few.
    pub guest: &'static dyn Guest,
    /// Engine settings.
    pub engine: EngineConfig,
    /// Virtual time in nanoseconds.
    pub clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Puts a vCPU in its reset state.
    pub reset: Reset,
}

/// One vCPU.
pub struct Seed<S> {
    /// Its registers; [`Settings::reset`] is applied before it first runs.
    pub state: S,
    /// The guest's own data of it.
    pub data: Box<dyn Any + Send>,
    /// Physical memory as it sees it.
    pub memory: Arc<AddressSpace>,
    /// I/O ports, for guests that have some.
    pub io: Arc<AddressSpace>,
}

/// Translated vCPUs.
pub struct Vcpus {
    /// Their threads and control.
    pub group: Arc<TranslatedVcpus>,
    /// Handles for waking each of them.
    pub handles: Vec<VcpuHandle>,
    /// The engine.
    pub engine: Arc<Engine>,
}

/// The vCPUs could not be made.
#[derive(Debug, Error)]
pub enum CreateError {
    /// The engine could not be made.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The host refused memory or a thread.
    #[error("cannot make vCPU threads")]
    Host(#[from] std::io::Error),
}

/// Makes the (paused) vCPUs, in their reset state. With an instruction counter, its clock wakes the only vCPU.
///
/// # Errors
/// The host has no memory or threads for them.
pub fn create<S: GuestState>(settings: Settings, seeds: Vec<Seed<S>>) -> Result<Vcpus, CreateError> {
    let counter = settings.engine.icount.clone();
    let engine = Engine::new(settings.guest, settings.engine)?;
    let mut contexts = Vec::with_capacity(seeds.len());
    let mut handles = Vec::with_capacity(seeds.len());
    for (index, seed) in (0u32..).zip(seeds) {
        seed.memory.set_write_observer(engine.clone());
        let parts = VcpuParts {
            index,
            memory: seed.memory,
            io: seed.io,
            clock: settings.clock.clone(),
            data: seed.data,
        };
        let mut cx = VcpuContext::new(&engine, parts, seed.state)?;
        (settings.reset)(&mut cx);
        handles.push(cx.handle());
        contexts.push(cx);
    }
    if let (Some(counter), [handle]) = (counter, handles.as_slice()) {
        counter.wake_by(handle.clone());
    }
    let group = Arc::new(TranslatedVcpus::new(contexts, settings.reset)?);
    Ok(Vcpus { group, handles, engine })
}

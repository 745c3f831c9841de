//! x86 vCPUs: the guest, its CPU model, and what each vCPU is wired to.

use crate::group::TranslatedVcpus;
use rhea_engine::context::VcpuParts;
use rhea_engine::{Engine, EngineConfig, EngineError, VcpuContext, VcpuHandle};
use rhea_memory::AddressSpace;
use rhea_x86_state::model::CpuModel;
use rhea_x86_state::platform::LocalApicPort;
use rhea_x86_translate::cpu::{Board, X86Cpu, X86CpuConfig};
use rhea_x86_translate::guest::X86Guest;
use std::hash::BuildHasher;
use std::sync::Arc;
use thiserror::Error;

/// What one vCPU is connected to.
pub struct X86Wiring {
    /// Physical memory as it sees it.
    pub memory: Arc<AddressSpace>,
    /// I/O ports.
    pub io: Arc<AddressSpace>,
    /// Its local APIC.
    pub apic: Arc<dyn LocalApicPort>,
}

/// What the vCPUs of a machine have in common.
pub struct X86Settings {
    /// `x86_64` or `i386`.
    pub name: &'static str,
    /// What CPUID says.
    pub model: Arc<CpuModel>,
    /// Engine settings.
    pub engine: EngineConfig,
    /// The board.
    pub board: Arc<dyn Board>,
    /// Virtual time in nanoseconds.
    pub clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Frequency of the time-stamp counter in Hz.
    pub tsc_hz: u64,
}

/// Translated x86 vCPUs.
pub struct X86Vcpus {
    /// Their threads and control.
    pub group: Arc<TranslatedVcpus>,
    /// Handles for waking each of them.
    pub handles: Vec<VcpuHandle>,
    /// The engine.
    pub engine: Arc<Engine>,
}

/// The vCPUs could not be made.
#[derive(Debug, Error)]
pub enum X86Error {
    /// The engine could not be made.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The host refused memory or a thread.
    #[error("cannot make vCPU threads")]
    Host(#[from] std::io::Error),
}

/// Makes the (paused) vCPUs, in their reset state.
///
/// # Errors
/// The host has no memory or threads for them.
pub fn create(settings: X86Settings, wiring: Vec<X86Wiring>) -> Result<X86Vcpus, X86Error> {
    // Units and helpers refer to the guest for as long as the process lives; a process makes very few.
    let guest: &'static X86Guest = Box::leak(Box::new(X86Guest::new(settings.name, &settings.model)));
    let engine = Engine::new(guest, settings.engine)?;
    let seed = std::collections::hash_map::RandomState::new();
    let mut contexts = Vec::with_capacity(wiring.len());
    let mut handles = Vec::with_capacity(wiring.len());
    for (index, w) in (0u32..).zip(wiring) {
        w.memory.set_write_observer(engine.clone());
        let state = settings.model.reset_state(w.apic.is_bsp());
        let data = X86Cpu::new(X86CpuConfig {
            model: settings.model.clone(),
            apic: w.apic,
            board: settings.board.clone(),
            tsc_hz: settings.tsc_hz,
            random_seed: seed.hash_one(index),
        });
        let parts = VcpuParts {
            index,
            memory: w.memory,
            io: w.io,
            clock: settings.clock.clone(),
            data: Box::new(data),
        };
        let mut cx = VcpuContext::new(&engine, parts, state)?;
        X86Guest::reset(&mut cx);
        handles.push(cx.handle());
        contexts.push(cx);
    }
    let group = Arc::new(TranslatedVcpus::new(contexts, Arc::new(X86Guest::reset))?);
    Ok(X86Vcpus { group, handles, engine })
}

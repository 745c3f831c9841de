//! x86 vCPUs: the guest, its CPU model, and what each vCPU is wired to.

use std::hash::BuildHasher;
use std::sync::Arc;

use rhea_engine::EngineConfig;
use rhea_memory::AddressSpace;
use rhea_x86_state::model::CpuModel;
use rhea_x86_state::platform::LocalApicPort;
use rhea_x86_translate::cpu::{Board, X86Cpu, X86CpuConfig};
use rhea_x86_translate::guest::X86Guest;

use crate::create::{CreateError, Seed, Settings, Vcpus, create as create_vcpus};

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

/// Makes the (paused) vCPUs, in their reset state.
///
/// # Errors
/// The host has no memory or threads for them.
pub fn create(settings: X86Settings, wiring: Vec<X86Wiring>) -> Result<Vcpus, CreateError> {
    let guest: &'static X86Guest = Box::leak(Box::new(X86Guest::new(settings.name, &settings.model)));
    let seed = std::collections::hash_map::RandomState::new();
    let seeds = (0u32..).zip(wiring).map(|(index, w)| {
        let state = settings.model.reset_state(w.apic.is_bsp());
        let data = X86Cpu::new(X86CpuConfig {
            model: settings.model.clone(),
            apic: w.apic,
            board: settings.board.clone(),
            tsc_hz: settings.tsc_hz,
            random_seed: seed.hash_one(index),
        });
        Seed { state, data: Box::new(data), memory: w.memory, io: w.io }
    });
    let seeds = seeds.collect();
    let (engine, clock) = (settings.engine, settings.clock);
    create_vcpus(Settings { guest, engine, clock, reset: Arc::new(X86Guest::reset) }, seeds)
}

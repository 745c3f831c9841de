//! RISC-V harts: the guest, its CPU model, and what each hart is wired to.

use std::hash::BuildHasher;
use std::sync::Arc;

use rhea_engine::EngineConfig;
use rhea_memory::{AddressSpace, Region, Topology};
use rhea_riscv_state::platform::HartTimer;
use rhea_riscv_state::{CpuModel, InterruptLines};
use rhea_riscv_translate::{RiscvCpu, RiscvCpuConfig, RiscvGuest};

use crate::create::{CreateError, Seed, Settings, Vcpus, create as create_vcpus};

/// What one hart is connected to.
pub struct RiscvWiring {
    /// mhartid.
    pub hart_id: u64,
    /// Physical memory as it sees it.
    pub memory: Arc<AddressSpace>,
    /// Its interrupt lines; raising one wakes it from now on.
    pub lines: Arc<InterruptLines>,
    /// mtime, and its supervisor timer.
    pub timer: Arc<dyn HartTimer>,
}

/// What the harts of a machine have in common.
pub struct RiscvSettings {
    /// `riscv64` or `riscv32`.
    pub name: &'static str,
    /// The model.
    pub model: Arc<CpuModel>,
    /// Engine settings.
    pub engine: EngineConfig,
    /// Virtual time in nanoseconds.
    pub clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Where harts start after a reset.
    pub reset_vector: u64,
}

/// Makes the (paused) harts, in their reset state.
///
/// # Errors
/// The host has no memory or threads for them.
pub fn create(settings: RiscvSettings, wiring: Vec<RiscvWiring>) -> Result<Vcpus, CreateError> {
    let guest: &'static RiscvGuest = Box::leak(Box::new(RiscvGuest::new(settings.name, &settings.model)));
    let seed = std::collections::hash_map::RandomState::new();
    // RISC-V has no I/O ports.
    let io = AddressSpace::new("io", Region::container(&Topology::new(), "io", 1));
    let lines: Vec<_> = wiring.iter().map(|w| w.lines.clone()).collect();
    let seeds = wiring.into_iter().map(|w| {
        let data = RiscvCpu::new(RiscvCpuConfig {
            model: settings.model.clone(),
            hart_id: w.hart_id,
            reset_vector: settings.reset_vector,
            lines: w.lines,
            timer: w.timer,
            random_seed: seed.hash_one(w.hart_id),
        });
        let state = settings.model.reset_state(w.hart_id, settings.reset_vector);
        Seed { state, data: Box::new(data), memory: w.memory, io: io.clone() }
    });
    let seeds = seeds.collect();
    let (engine, clock) = (settings.engine, settings.clock);
    let vcpus = create_vcpus(Settings { guest, engine, clock, reset: Arc::new(RiscvGuest::reset) }, seeds)?;
    for (lines, handle) in lines.iter().zip(&vcpus.handles) {
        let handle = handle.clone();
        lines.connect(Box::new(move || handle.kick()));
    }
    Ok(vcpus)
}

//! A machine with one hart: memory, and a word that stops it.

use std::sync::{Arc, Mutex};

use rhea_engine::context::VcpuParts;
use rhea_engine::{Engine, EngineConfig, FloatEnv, Tier, VcpuContext, VcpuHandle, request};
use rhea_memory::{AddressSpace, MmioHandler, RamBlock, Region, Topology};
use rhea_riscv_state::platform::HartTimer;
use rhea_riscv_state::state::mstatus;
use rhea_riscv_state::{CpuModel, InterruptLines, RiscvState};
use rhea_riscv_translate::{RiscvCpu, RiscvCpuConfig, RiscvGuest};

/// Where memory begins.
pub const RAM: u64 = 0x8000_0000;
/// Its length.
pub const RAM_LEN: u64 = 0x10_0000;
/// A store here stops the hart.
pub const STOP: u64 = 0x1000;

#[derive(Default)]
struct Stop(Mutex<Option<VcpuHandle>>);

impl MmioHandler for Stop {
    fn read(&self, _: u64, _: usize) -> u64 {
        0
    }

    fn write(&self, _: u64, _: usize, _: u64) {
        if let Some(handle) = &*self.0.lock().unwrap() {
            handle.request(request::STOP);
        }
    }
}

struct NoTimer;

impl HartTimer for NoTimer {
    fn time(&self) -> u64 {
        0
    }

    fn arm(&self, _: Option<u64>) {}
}

/// A hart in machine mode with floating point and vectors on.
pub struct Machine {
    cx: Box<VcpuContext>,
    ram: Arc<RamBlock>,
    memory: Arc<AddressSpace>,
}

impl Machine {
    pub fn new(cpu: &str, tier: Tier, lockstep: bool) -> Machine {
        let model = Arc::new(CpuModel::parse(cpu).unwrap());
        let guest: &'static RiscvGuest = Box::leak(Box::new(RiscvGuest::new(
            if cpu.starts_with("rv32") { "riscv32" } else { "riscv64" },
            &model,
        )));
        let config = EngineConfig { tier, lockstep, ..EngineConfig::default() };
        let engine = Engine::new(guest, config).unwrap();
        let topology = Topology::new();
        let root = Region::container(&topology, "memory", u64::MAX);
        let ram = Arc::new(RamBlock::new("ram", RAM_LEN).unwrap());
        root.add(RAM, &Region::ram(&topology, ram.clone()));
        let stop = Arc::new(Stop::default());
        root.add(STOP, &Region::mmio(&topology, "stop", 8, stop.clone()));
        let memory = AddressSpace::new("memory", root);
        memory.set_write_observer(engine.clone());
        let io = AddressSpace::new("io", Region::container(&topology, "io", 1));
        let clock: Arc<dyn Fn() -> u64 + Send + Sync> = Arc::new(|| 0);
        let data = RiscvCpu::new(RiscvCpuConfig {
            model: model.clone(),
            hart_id: 0,
            reset_vector: RAM,
            lines: Arc::new(InterruptLines::default()),
            timer: Arc::new(NoTimer),
            random_seed: 1,
        });
        let mut st = model.reset_state(0, RAM);
        st.m.mstatus |= mstatus::FS | mstatus::VS;
        st.mode = st.compute_mode();
        let parts = VcpuParts { index: 0, memory: memory.clone(), io, clock, data: Box::new(data) };
        let cx = VcpuContext::new(&engine, parts, st).unwrap();
        *stop.0.lock().unwrap() = Some(cx.handle());
        Machine { cx, ram, memory }
    }

    /// The hart's registers.
    pub fn state(&mut self) -> &mut RiscvState {
        self.cx.state()
    }

    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.memory.write_bytes(address, bytes).unwrap();
    }

    pub fn read(&self, address: u64, len: usize) -> Vec<u8> {
        (0..len as u64).map(|i| self.ram.read(address - RAM + i, 1) as u8).collect()
    }

    /// Runs from `pc` until the hart stores to [`STOP`].
    pub fn run(&mut self, pc: u64) {
        let st = self.state();
        st.pc = pc;
        st.mode = st.compute_mode();
        self.cx.run();
    }

    /// Makes the host round as frm says, which setting it by an instruction would do.
    pub fn load_rounding(&mut self) {
        let frm = self.state().frm;
        let rounding = match frm {
            1 => 3,
            2 => 1,
            3 => 2,
            _ => 0,
        };
        self.cx.env().set_float_env(FloatEnv { rounding, ..FloatEnv::default() });
    }

    /// Sticky flags that the host's registers have gathered are in `fflags` after this.
    pub fn gather_flags(&mut self) -> u32 {
        let flags = self.cx.env().take_float_flags();
        let pairs = [(0, 4), (2, 3), (3, 2), (4, 1), (5, 0)];
        let gathered = pairs
            .into_iter()
            .filter(|(host, _)| flags >> host & 1 != 0)
            .fold(0, |all, (_, bit)| all | 1 << bit);
        let st = self.state();
        st.fflags |= gathered;
        st.fflags
    }
}

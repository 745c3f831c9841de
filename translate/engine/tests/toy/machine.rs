//! A machine around toy processors: RAM at 0, one device, and an assembler.

use crate::guest::{Cpu, End, Entry, INSN, LINK, State, Toy, op};
use parking_lot::Mutex;
use rhea_engine::context::VcpuParts;
use rhea_engine::{Engine, EngineConfig, Tier, VcpuContext};
use rhea_memory::{AddressSpace, RamBlock, Region, Topology};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

pub const RAM: u64 = 16 << 20;
pub const TIERS: [Tier; 2] = [Tier::Interpreter, Tier::Baseline];
static TOY: Toy = Toy;

pub fn config(tier: Tier) -> EngineConfig {
    EngineConfig { tier, code_bytes: 1 << 20, ..EngineConfig::default() }
}

pub struct Machine {
    pub engine: Arc<Engine>,
    pub space: Arc<AddressSpace>,
    pub root: Arc<Region>,
    pub topology: Arc<Topology>,
    pub tables: Arc<Mutex<HashMap<u64, Entry>>>,
    pub clock: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl Machine {
    pub fn new(config: EngineConfig) -> Self {
        let topology = Topology::new();
        let root = Region::container(&topology, "root", 1 << 40);
        let ram = Arc::new(RamBlock::new("ram", RAM).unwrap());
        root.add(0, &Region::ram(&topology, ram));
        let space = AddressSpace::new("test", root.clone());
        let engine = Engine::new(&TOY, config).unwrap();
        space.set_write_observer(engine.clone());
        let (tables, clock) = (Arc::default(), Arc::new(|| 0));
        Machine { engine, space, root, topology, tables, clock }
    }

    pub fn vcpu(&self, index: u32, pc: u64) -> Box<VcpuContext> {
        let io = AddressSpace::new("io", Region::container(&self.topology, "io", 1 << 16));
        let cpu = Cpu {
            tables: self.tables.clone(),
            irq: Arc::new(AtomicBool::new(false)),
            taken: Arc::new(AtomicU64::new(0)),
            end: None,
        };
        let parts = VcpuParts {
            index,
            memory: self.space.clone(),
            io,
            clock: self.clock.clone(),
            data: Box::new(cpu),
        };
        VcpuContext::new(&self.engine, parts, State { pc, ..State::default() }).unwrap()
    }

    pub fn load(&self, at: u64, code: &Asm) {
        self.space.write_bytes(at, &code.bytes).unwrap();
    }

    pub fn map(&self, vaddr: u64, entry: Entry) {
        self.tables.lock().insert(vaddr >> 12, entry);
    }
}

/// Runs a vCPU to its end. A vCPU that does not come to it within two minutes fails the test.
pub fn run(cx: &mut VcpuContext) -> End {
    let handle = cx.handle();
    let late = Arc::new(AtomicBool::new(false));
    let (done, watch) = std::sync::mpsc::channel::<()>();
    let flag = late.clone();
    let dog = std::thread::spawn(move || {
        if watch.recv_timeout(Duration::from_secs(120)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            flag.store(true, std::sync::atomic::Ordering::SeqCst);
            handle.request(rhea_engine::request::STOP);
        }
    });
    cx.data::<Cpu>().end = None;
    cx.run();
    drop(done);
    dog.join().unwrap();
    assert!(!late.load(std::sync::atomic::Ordering::SeqCst), "vCPU hangs: {}", cx.dump());
    cx.data::<Cpu>().end.expect("stopped without an end")
}

/// Runs from `pc` and expects `EXIT`; gives the registers.
pub fn run_from(cx: &mut VcpuContext, pc: u64) -> [u64; 8] {
    cx.state::<State>().pc = pc;
    assert_eq!(run(cx), End::Exit, "{}", cx.dump());
    cx.state::<State>().r
}

/// An assembler.
#[derive(Clone, Default)]
pub struct Asm {
    pub bytes: Vec<u8>,
}

impl Asm {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn insn(mut self, o: u8, d: u8, a: u8, s: u8, imm: i32) -> Self {
        self.bytes.extend([o, d, a, s]);
        self.bytes.extend(imm.to_le_bytes());
        self
    }
    /// Offset of the next instruction.
    pub fn here(&self) -> i32 {
        self.bytes.len() as i32
    }
    pub fn li(self, d: u8, imm: i32) -> Self {
        self.insn(op::LI, d, 0, 0, imm)
    }
    pub fn addi(self, d: u8, a: u8, imm: i32) -> Self {
        self.insn(op::ADDI, d, a, 0, imm)
    }
    pub fn add(self, d: u8, a: u8, s: u8) -> Self {
        self.insn(op::ADD, d, a, s, 0)
    }
    /// Loads 2^`size` bytes.
    pub fn ld(self, size: u8, d: u8, a: u8, imm: i32) -> Self {
        self.insn(op::LD, d, a, size, imm)
    }
    /// Stores 2^`size` bytes.
    pub fn st(self, size: u8, d: u8, a: u8, imm: i32) -> Self {
        self.insn(op::ST, d, a, size, imm)
    }
    /// Branches to offset `to` of this program if `a` and `s` differ.
    pub fn bne(self, a: u8, s: u8, to: i32) -> Self {
        let imm = to - self.here();
        self.insn(op::BNE, 0, a, s, imm)
    }
    /// Jumps by `imm` bytes from this instruction.
    pub fn j(self, imm: i32) -> Self {
        self.insn(op::J, 0, 0, 0, imm)
    }
    pub fn call(self, imm: i32) -> Self {
        self.insn(op::CALL, LINK, 0, 0, imm)
    }
    pub fn ret(self) -> Self {
        self.insn(op::RET, 0, 0, 0, 0)
    }
    pub fn exit(self) -> Self {
        self.insn(op::EXIT, 0, 0, 0, 0)
    }
    /// The first instruction as a number, for stores of code.
    pub fn word(&self) -> u64 {
        u64::from_le_bytes(self.bytes[..INSN as usize].try_into().unwrap())
    }
}

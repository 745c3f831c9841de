//! A small vCPU in memory: guest state, engine frame, guest pages, helpers; run by host code and by the interpreter.

use rhea_backend_x64::layout::descriptor::{self, Kind};
use rhea_backend_x64::{
    Compiler, Features, Frame, HelperTarget, Layout, MemoryModel, ReturnKind, ThunkAddresses, Unsupported,
    emit_thunks,
};
use rhea_backend_x64::{PatchSite, jump_cache_index};
use rhea_host::mapping::DualMapping;
use rhea_interpreter::{FloatUnit, Interpreter, Machine, Outcome};
use rhea_ir::{Exit, HelperInfo, MemFlags, Rmw, Slot, SlotAccess, Type, Unit};
use rhea_softfloat::{Env, Flags};

pub const STATE_BYTES: usize = 2048;
pub const PC_SLOT: u32 = 2040;
/// Guest pages: the first two are in the TLB, the third is reached by the slow path only, the fourth faults.
pub const FIRST_PAGE: u64 = 0x1_0000;
pub const MEMORY_BYTES: usize = 3 * 4096;
const BELOW: usize = 48 * 1024;
const SPACE: usize = BELOW + STATE_BYTES + 64;

const TLB_BITS: u8 = 4;
const TLB_READ: i32 = -16 * 1024;
const TLB_WRITE: i32 = -12 * 1024;
const TLB_STRIDE: i32 = 256;
const JUMP_CACHE: i32 = -8 * 1024;
const RAS: i32 = -2048;
const MEM_VALUE: i32 = -512;
const MEM_ADDR: i32 = -448;
const MEM_VALUE2: i32 = -440;
const MEM_DESC: i32 = -432;
pub const POLL: i32 = -428;
pub const LEAVE_REASON: i32 = -424;
const RAS_TOP: i32 = -420;
const LOOKUP_KEY: i32 = -416;
const CONTEXT: i32 = -408;
pub const ICOUNT: i32 = -400;

const FAULT_REASON: u32 = 5000;
const HELPER_REASON: u32 = 6000;

pub const HELPERS: [HelperInfo; 4] = [
    HelperInfo {
        name: "add",
        params: &[Type::I64, Type::I8],
        result: Type::I16,
        reads: SlotAccess::None,
        writes: SlotAccess::None,
        may_exit: false,
        pure: true,
    },
    HelperInfo {
        name: "some",
        params: &[Type::I32, Type::I64, Type::I16],
        result: Type::I32,
        reads: SlotAccess::Ranges(&[(0, 12), (96, 32), (256, 48)]),
        writes: SlotAccess::Ranges(&[(8, 8), (40, 8), (104, 16), (272, 32)]),
        may_exit: true,
        pure: false,
    },
    HelperInfo {
        name: "all",
        params: &[Type::I64, Type::I64, Type::I64, Type::I64],
        result: Type::I64,
        reads: SlotAccess::All,
        writes: SlotAccess::All,
        may_exit: false,
        pure: false,
    },
    HelperInfo {
        name: "reader",
        params: &[],
        result: Type::I8,
        reads: SlotAccess::Ranges(&[(128, 64)]),
        writes: SlotAccess::None,
        may_exit: false,
        pure: false,
    },
];

/// What the helpers do, on any copy of the state. Returns the result and whether to leave.
fn help(id: u32, state: &mut [u8], a: [u64; 4]) -> (u64, bool) {
    let sum = |s: &[u8]| s.iter().fold(7u64, |h, &b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
    match id {
        0 => (a[0].wrapping_add(a[1] & 0xff) & 0xffff | 0xdead_0000, false),
        1 => {
            let x = (a[0] & 0xffff_ffff) ^ a[1] ^ (a[2] & 0xffff);
            let h = sum(&state[0..12]) ^ sum(&state[96..128]) ^ sum(&state[256..304]) ^ x;
            for (n, at) in [8, 40, 104, 112, 272, 280, 288, 296].into_iter().enumerate() {
                state[at..at + 8].copy_from_slice(&h.rotate_left(n as u32 * 5).to_le_bytes());
            }
            (h, h & 7 == 0)
        }
        2 => {
            let h =
                sum(&state[..1024]) ^ a[0] ^ a[1].rotate_left(1) ^ a[2].rotate_left(2) ^ a[3].rotate_left(3);
            for at in (0..512).step_by(24) {
                state[at..at + 8].copy_from_slice(&h.rotate_left(at as u32).to_le_bytes());
            }
            (h, false)
        }
        _ => (sum(&state[128..192]), false),
    }
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum End {
    Jump(u64),
    Leave(u32, Option<u64>),
    Fault(u64),
    Helper(u64),
}

#[derive(Clone, PartialEq)]
pub struct Image {
    pub state: Vec<u8>,
    pub memory: Vec<u8>,
}

/// One of the copies, with the interpreter on it.
pub struct Oracle {
    pub image: Image,
    pub vector: Env,
    pub x87: Env,
}

#[derive(Debug, PartialEq)]
pub enum Stop {
    Fault,
    Helper,
}

fn range(address: u64, size: usize, flags: MemFlags) -> Result<std::ops::Range<usize>, Stop> {
    let at = address.wrapping_sub(FIRST_PAGE);
    if at > (MEMORY_BYTES - size) as u64
        || flags.has(MemFlags::ALIGNED) && !address.is_multiple_of(size as u64)
    {
        return Err(Stop::Fault);
    }
    Ok(at as usize..at as usize + size)
}

impl Machine for Oracle {
    type Stop = Stop;
    fn state(&mut self) -> &mut [u8] {
        &mut self.image.state
    }
    fn set_pc(&mut self, pc: u64) {
        let at = PC_SLOT as usize;
        self.image.state[at..at + 8].copy_from_slice(&pc.to_le_bytes());
    }
    fn load(&mut self, address: u64, flags: MemFlags, buffer: &mut [u8]) -> Result<(), Stop> {
        buffer.copy_from_slice(&self.image.memory[range(address, buffer.len(), flags)?]);
        Ok(())
    }
    fn store(&mut self, address: u64, flags: MemFlags, bytes: &[u8]) -> Result<(), Stop> {
        let r = range(address, bytes.len(), flags)?;
        self.image.memory[r].copy_from_slice(bytes);
        Ok(())
    }
    fn atomic_update(
        &mut self,
        address: u64,
        size: u32,
        flags: MemFlags,
        update: &mut dyn FnMut(u64) -> Option<u64>,
    ) -> Result<u64, Stop> {
        let r = range(address, size as usize, flags)?;
        let mut old = [0; 8];
        old[..size as usize].copy_from_slice(&self.image.memory[r.clone()]);
        let old = u64::from_le_bytes(old);
        if let Some(new) = update(old) {
            self.image.memory[r].copy_from_slice(&new.to_le_bytes()[..size as usize]);
        }
        Ok(old)
    }
    fn fence(&mut self) {}
    fn call(&mut self, id: u32, arguments: [u64; 4]) -> Result<u64, Stop> {
        let (r, leave) = help(id, &mut self.image.state, arguments);
        if leave { Err(Stop::Helper) } else { Ok(r) }
    }
    fn float_environment(&mut self, unit: FloatUnit) -> Env {
        if unit == FloatUnit::X87 { self.x87 } else { self.vector }
    }
    fn raise(&mut self, unit: FloatUnit, flags: Flags) {
        let env = if unit == FloatUnit::X87 { &mut self.x87 } else { &mut self.vector };
        env.flags |= flags;
    }
}

/// Runs `unit` in the interpreter.
pub fn interpret(unit: &Unit, oracle: &mut Oracle) -> End {
    match Interpreter::new().run(unit, &HELPERS, oracle) {
        Outcome::Exit { number, pc } => match unit.exits[number as usize] {
            Exit::Leave { reason, pc } => End::Leave(reason, pc),
            _ => End::Jump(pc.unwrap()),
        },
        Outcome::Stop { pc, stop: Stop::Fault } => End::Fault(pc),
        Outcome::Stop { pc, stop: Stop::Helper } => End::Helper(pc),
    }
}

/// The host side: memory that translated code runs on, never moved.
pub struct World {
    space: Vec<u64>,
    pages: Vec<u64>,
    code: DualMapping,
    pub compiler: Compiler,
    thunks: ThunkAddresses,
    unit_at: usize,
    /// Target PCs of direct jumps, by exit identifier.
    jumps: Vec<u64>,
    /// MXCSR and x87 exception flags of the last run.
    pub float_flags: (u8, u8),
}

extern "sysv64" fn memory_function(context: u64) -> u32 {
    // SAFETY: `context` is the address of the World that is running translated code on this thread.
    let world = unsafe { &mut *(context as *mut World) };
    match world.slow_access() {
        Ok(()) => 0,
        Err(_) => {
            world.set_u32(LEAVE_REASON, FAULT_REASON + 1);
            1
        }
    }
}

fn host_help(id: u32, context: u64, a: [u64; 4]) -> u64 {
    // SAFETY: as above.
    let world = unsafe { &mut *(context as *mut World) };
    let (r, leave) = help(id, world.state(), a);
    if leave {
        world.set_u32(LEAVE_REASON, HELPER_REASON + 1);
    }
    r
}

extern "sysv64" fn help0(c: u64, a: u64, b: u64, d: u64, e: u64) -> u64 {
    host_help(0, c, [a, b, d, e])
}
extern "sysv64" fn help1(c: u64, a: u64, b: u64, d: u64, e: u64) -> u64 {
    host_help(1, c, [a, b, d, e])
}
extern "sysv64" fn help2(c: u64, a: u64, b: u64, d: u64, e: u64) -> u64 {
    host_help(2, c, [a, b, d, e])
}
extern "sysv64" fn help3(c: u64, a: u64, b: u64, d: u64, e: u64) -> u64 {
    host_help(3, c, [a, b, d, e])
}

pub fn layout(features: Features, hot: usize) -> Layout {
    Layout {
        features,
        memory: MemoryModel::SoftTlb { read: TLB_READ, write: TLB_WRITE, stride: TLB_STRIDE, bits: TLB_BITS },
        pc: Slot::new(PC_SLOT as usize, Type::I64),
        hot: (0..hot as u32).map(|n| n * 8).collect(),
        frame: Frame {
            mem_addr: MEM_ADDR,
            mem_value: MEM_VALUE,
            mem_value2: MEM_VALUE2,
            mem_desc: MEM_DESC,
            poll: POLL,
            leave_reason: LEAVE_REASON,
            lookup_key: LOOKUP_KEY,
            context: CONTEXT,
            jump_cache: JUMP_CACHE,
            jump_cache_bits: 6,
            ras: RAS,
            ras_top: RAS_TOP,
            ras_bytes: 256,
            icount: None,
        },
        bias: 48,
        thunks: ThunkAddresses::default(),
        memory_function: memory_function as *const () as u64,
        longest_insn: 15,
        spill_bytes: 4096,
        no_chain: false,
    }
}

impl World {
    pub fn new(features: Features, hot: usize) -> Box<World> {
        Self::with_layout(layout(features, hot))
    }

    pub fn with_layout(mut layout: Layout) -> Box<World> {
        let code = DualMapping::new(c"test code", 1 << 20).unwrap();
        let thunks = emit_thunks(&layout, code.executable() as u64);
        // SAFETY: the mapping is larger than the thunks.
        unsafe { std::ptr::copy_nonoverlapping(thunks.code.as_ptr(), code.writable(), thunks.code.len()) };
        layout.thunks = thunks.addresses;
        let functions: [extern "sysv64" fn(u64, u64, u64, u64, u64) -> u64; 4] = [help0, help1, help2, help3];
        let targets = HELPERS
            .iter()
            .zip(functions)
            .map(|(&info, f)| HelperTarget { info, address: f as *const () as u64 })
            .collect();
        Box::new(World {
            space: vec![0; SPACE / 8],
            pages: vec![0; (MEMORY_BYTES + 4096) / 8],
            code,
            compiler: Compiler::new(layout, targets),
            thunks: thunks.addresses,
            unit_at: 4096,
            jumps: Vec::new(),
            float_flags: (0, 0),
        })
    }

    fn base(&mut self) -> *mut u8 {
        // SAFETY: within the allocation.
        unsafe { self.space.as_mut_ptr().cast::<u8>().add(BELOW) }
    }

    pub fn state(&mut self) -> &mut [u8] {
        // SAFETY: the state lies within the space; the borrow of self keeps it exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.base(), STATE_BYTES) }
    }

    pub fn memory(&mut self) -> &mut [u8] {
        // SAFETY: plain bytes of a live vector.
        unsafe { std::slice::from_raw_parts_mut(self.pages.as_mut_ptr().cast(), MEMORY_BYTES) }
    }

    pub fn set_u32(&mut self, disp: i32, v: u32) {
        // SAFETY: the field is within the space.
        unsafe { self.base().offset(disp as isize).cast::<u32>().write_unaligned(v) }
    }

    pub fn set_u64(&mut self, disp: i32, v: u64) {
        // SAFETY: as above.
        unsafe { self.base().offset(disp as isize).cast::<u64>().write_unaligned(v) }
    }

    pub fn get_u64(&mut self, disp: i32) -> u64 {
        // SAFETY: as above.
        unsafe { self.base().offset(disp as isize).cast::<u64>().read_unaligned() }
    }

    fn get_u32(&mut self, disp: i32) -> u32 {
        self.get_u64(disp) as u32
    }

    fn slow_access(&mut self) -> Result<(), Stop> {
        let address = self.get_u64(MEM_ADDR);
        let desc = self.get_u32(MEM_DESC);
        let (flags, ty, kind, rmw) = descriptor::decode(desc).expect("a descriptor");
        let size = ty.bytes() as usize;
        let r = range(address, size, flags)?;
        let mut value = [0u8; 32];
        for (n, b) in value.chunks_mut(8).enumerate() {
            b.copy_from_slice(&self.get_u64(MEM_VALUE + 8 * n as i32).to_le_bytes());
        }
        let big = flags.has(MemFlags::BIG_ENDIAN);
        match kind {
            Kind::Load => {
                value = [0xaa; 32];
                value[..size].copy_from_slice(&self.memory()[r]);
                if big {
                    value[..size].reverse();
                }
            }
            Kind::Store => {
                if big {
                    value[..size].reverse();
                }
                self.memory()[r].copy_from_slice(&value[..size]);
                return Ok(());
            }
            Kind::Rmw | Kind::Cas => {
                let mask = if size == 8 { u64::MAX } else { (1 << (8 * size)) - 1 };
                let mut old = [0; 8];
                old[..size].copy_from_slice(&self.memory()[r.clone()]);
                let old = u64::from_le_bytes(old);
                let operand = u64::from_le_bytes(value[..8].try_into().unwrap()) & mask;
                let new = if kind == Kind::Cas {
                    if old == operand { self.get_u64(MEM_VALUE2) } else { old }
                } else {
                    modify(rmw, size as u32 * 8, old, operand)
                };
                self.memory()[r].copy_from_slice(&new.to_le_bytes()[..size]);
                value[..8].copy_from_slice(&old.to_le_bytes());
            }
        }
        for (n, b) in value.chunks(8).enumerate() {
            self.set_u64(MEM_VALUE + 8 * n as i32, u64::from_le_bytes(b.try_into().unwrap()));
        }
        Ok(())
    }

    pub fn load_image(&mut self, image: &Image) {
        self.state().copy_from_slice(&image.state);
        self.memory().copy_from_slice(&image.memory);
        let host = self.pages.as_ptr() as u64;
        for n in 0..8 * 16 {
            for table in [TLB_READ, TLB_WRITE] {
                self.set_u64(table + n * 16, u64::MAX);
            }
        }
        for page in 0..2u64 {
            let guest = FIRST_PAGE + page * 4096;
            let at = ((guest >> 12) & 15) as i32 * 16;
            for (index, table) in [(1, TLB_READ), (1, TLB_WRITE), (2, TLB_READ)] {
                let entry = table + index * TLB_STRIDE + at;
                self.set_u64(entry, guest);
                self.set_u64(entry + 8, host.wrapping_sub(FIRST_PAGE));
            }
        }
        self.set_u32(LEAVE_REASON, 0);
        self.set_u32(POLL, 0);
        self.set_u64(LOOKUP_KEY, 0x5555_0000_1234_0001);
        for n in 0..64 {
            self.set_u64(JUMP_CACHE + n * 16, 0);
        }
        let context = std::ptr::from_mut(self) as u64;
        self.set_u64(CONTEXT, context);
    }

    pub fn image(&mut self) -> Image {
        Image { state: self.state().to_vec(), memory: self.memory().to_vec() }
    }

    pub fn code_base(&self) -> u64 {
        self.code.executable() as u64 + self.unit_at as u64
    }

    /// Compiles `unit` and puts it in place.
    pub fn compile(&mut self, unit: &Unit) -> Result<Vec<u8>, Unsupported> {
        let base = self.code_base();
        let compiled = self.compiler.compile(unit, base, self.jumps.len() as u32)?;
        assert!(compiled.code.len() < (1 << 20) - 8192);
        let code = compiled.code.to_vec();
        for site in compiled.sites {
            assert_eq!(site.exit_id as usize, self.jumps.len());
            self.jumps.push(site.pc);
            assert!((base + u64::from(site.displacement)).is_multiple_of(4));
        }
        // SAFETY: the code fits in the mapping after `unit_at` (asserted).
        unsafe {
            std::ptr::copy_nonoverlapping(code.as_ptr(), self.code.writable().add(self.unit_at), code.len());
        }
        Ok(code)
    }

    /// Compiles `unit` and keeps it; the next one goes behind it. Returns its address and its patch sites.
    pub fn place(&mut self, unit: &Unit) -> (u64, Vec<PatchSite>) {
        let address = self.code_base();
        let first_exit = self.jumps.len() as u32;
        let len = self.compile(unit).expect("host code").len();
        // Compile again for the sites: they borrow the compiler.
        let sites = self.compiler.compile(unit, address, first_exit).expect("host code").sites.to_vec();
        self.unit_at = (self.unit_at + len).next_multiple_of(16);
        (address, sites)
    }

    /// Makes the jump at `site` of the unit at `unit` go to `target`.
    pub fn link(&mut self, unit: u64, site: &PatchSite, target: u64) {
        let at = unit + u64::from(site.displacement);
        let displacement = target.wrapping_sub(at + 4) as i32;
        let offset = (at - self.code.executable() as u64) as usize;
        // SAFETY: inside the mapping; nothing executes meanwhile.
        unsafe { self.code.writable().add(offset).cast::<i32>().write_unaligned(displacement) };
    }

    /// Enters placed code.
    pub fn enter_at(&mut self, address: u64) -> (ReturnKind, u32) {
        let offset = (address - self.code.executable() as u64) as usize;
        let kept = std::mem::replace(&mut self.unit_at, offset);
        let returned = self.enter();
        self.unit_at = kept;
        ReturnKind::decode(returned)
    }

    /// Fills the jump cache's entry for `pc`.
    pub fn cache_jump(&mut self, pc: u64, address: u64) {
        let key = self.get_u64(LOOKUP_KEY) ^ pc;
        let entry = JUMP_CACHE + 16 * jump_cache_index(pc, 6) as i32;
        self.set_u64(entry, key);
        self.set_u64(entry + 8, address);
    }

    /// Enters the compiled code; returns what the enter thunk returned. Sticky flags are in `float_flags` after.
    pub fn enter(&mut self) -> u64 {
        let code = self.code_base();
        let state = self.base() as u64;
        // SAFETY: the enter thunk has this signature.
        let enter: extern "sysv64" fn(u64, u64) -> u64 =
            unsafe { std::mem::transmute(self.thunks.enter as *const ()) };
        let mut mxcsr = 0x1f80u32;
        // SAFETY: loads a valid MXCSR with everything masked, and the power-on x87 environment.
        unsafe { std::arch::asm!("ldmxcsr [{0}]", "fninit", in(reg) &mxcsr) };
        let returned = enter(code, state);
        let mut status = 0u16;
        // SAFETY: stores MXCSR and the x87 status word; the default environments are put back.
        unsafe {
            std::arch::asm!("stmxcsr [{0}]", "fnstsw [{1}]", "fninit", in(reg) &mut mxcsr, in(reg) &mut status);
        }
        self.float_flags = (mxcsr as u8 & 0x3f, status as u8 & 0x3f);
        mxcsr = 0x1f80;
        // SAFETY: as above.
        unsafe { std::arch::asm!("ldmxcsr [{0}]", in(reg) &mxcsr) };
        assert_eq!(status >> 11 & 7, 0, "the x87 stack is empty");
        if let (ReturnKind::Chain, exit) = ReturnKind::decode(returned) {
            let pc = self.jumps[exit as usize];
            self.set_u64(PC_SLOT as i32, pc);
        }
        returned
    }

    pub fn pc(&mut self) -> u64 {
        self.get_u64(PC_SLOT as i32)
    }

    /// Runs the compiled unit.
    pub fn run(&mut self) -> End {
        let (kind, _) = ReturnKind::decode(self.enter());
        let pc = self.pc();
        match kind {
            ReturnKind::Leave => match self.get_u32(LEAVE_REASON) - 1 {
                FAULT_REASON => End::Fault(pc),
                HELPER_REASON => End::Helper(pc),
                reason => End::Leave(reason, Some(pc)),
            },
            _ => End::Jump(pc),
        }
    }
}

fn modify(op: Rmw, bits: u32, old: u64, operand: u64) -> u64 {
    let shift = 64 - bits;
    let (a, b) = ((old << shift) as i64, (operand << shift) as i64);
    match op {
        Rmw::Xchg => operand,
        Rmw::Add => old.wrapping_add(operand),
        Rmw::Sub => old.wrapping_sub(operand),
        Rmw::And => old & operand,
        Rmw::Or => old | operand,
        Rmw::Xor => old ^ operand,
        Rmw::MinS => {
            if a < b {
                old
            } else {
                operand
            }
        }
        Rmw::MaxS => {
            if a > b {
                old
            } else {
                operand
            }
        }
        Rmw::MinU => {
            if old < operand {
                old
            } else {
                operand
            }
        }
        Rmw::MaxU => {
            if old > operand {
                old
            } else {
                operand
            }
        }
    }
}

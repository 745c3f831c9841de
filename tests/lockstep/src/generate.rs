//! Random instructions of user code, of every encoding that host and guest share, and start states in which they do
//! something worth comparing.

use std::sync::OnceLock;

use iced_x86::{
    Code, CpuidFeature, Decoder, DecoderOptions, Encoder, EncodingKind, FlowControl, Instruction,
    InstructionInfoFactory, Mnemonic, OpAccess, OpCodeOperandKind as Kind, OpKind, Register,
};

use crate::place;
use crate::random::Random;
use crate::state::{AC, FLAGS, Mode, State};

/// A family of instructions, tested together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// Integer instructions of the 8086 to the Pentium Pro on registers and memory.
    Integer,
    /// BMI1, BMI2, ADX, MOVBE, CRC32, POPCNT, LZCNT, CMPXCHG8B/16B.
    Bits,
    /// String instructions, with and without repeat prefixes.
    String,
    /// Jumps, calls and returns.
    Branch,
    /// x87.
    X87,
    /// MMX, its SSE additions included.
    Mmx,
    /// SSE to SSE4.2, legacy encodings.
    Sse,
    /// AVX, AVX2, FMA, F16C.
    Avx,
    /// AES, PCLMULQDQ, SHA in all encodings.
    Crypto,
    /// FXSAVE, FNSAVE, FNSTENV and what loads their images.
    Save,
    /// What user code may not do.
    Privileged,
}

impl Group {
    /// Every group.
    pub const ALL: [Group; 11] = [
        Group::Integer,
        Group::Bits,
        Group::String,
        Group::Branch,
        Group::X87,
        Group::Mmx,
        Group::Sse,
        Group::Avx,
        Group::Crypto,
        Group::Save,
        Group::Privileged,
    ];
}

/// Instructions, and what to run them on.
#[derive(Clone, Debug)]
pub struct Case {
    /// Mode they run in.
    pub mode: Mode,
    /// Their bytes.
    pub code: Vec<u8>,
    /// The same, decoded.
    pub instructions: Vec<Instruction>,
    /// Registers at the start.
    pub state: State,
    /// The writable data at the start.
    pub data: Vec<u8>,
    /// Instructions may run more than once, or not at all.
    pub loops: bool,
}

/// Whether the processor that runs the tests has `feature`, and Rhea has it too.
fn has(feature: CpuidFeature) -> bool {
    use CpuidFeature as F;
    macro_rules! host {
        ($name:tt) => {{
            #[cfg(target_arch = "x86_64")]
            let r = std::arch::is_x86_feature_detected!($name);
            #[cfg(not(target_arch = "x86_64"))]
            let r = true;
            r
        }};
    }
    match feature {
        F::INTEL8086 | F::INTEL186 | F::INTEL286 | F::INTEL386 | F::INTEL486 | F::X64 => true,
        F::CMOV | F::CX8 | F::FPU | F::FPU287 | F::FPU387 | F::MMX | F::SSE | F::SSE2 => true,
        F::MULTIBYTENOP | F::PAUSE | F::CLFSH | F::FXSR | F::MSR | F::SYSCALL | F::XSAVE => true,
        F::SSE3 => host!("sse3"),
        F::SSSE3 => host!("ssse3"),
        F::SSE4_1 => host!("sse4.1"),
        F::SSE4_2 => host!("sse4.2"),
        F::CMPXCHG16B => host!("cmpxchg16b"),
        F::POPCNT => host!("popcnt"),
        F::LZCNT => host!("lzcnt"),
        F::MOVBE => host!("movbe"),
        F::BMI1 => host!("bmi1"),
        F::BMI2 => host!("bmi2"),
        F::ADX => host!("adx"),
        F::AES => host!("aes"),
        F::PCLMULQDQ => host!("pclmulqdq"),
        F::SHA => host!("sha"),
        F::AVX => host!("avx"),
        F::AVX2 => host!("avx2"),
        F::FMA => host!("fma"),
        F::F16C => host!("f16c"),
        _ => false,
    }
}

/// Instructions that enter the kernel, depend on what the system has set up, or whose result is not defined.
fn left_out(code: Code, mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    let by_name = matches!(
        mnemonic,
        // The kernel's: system calls, interrupts, and what it virtualizes.
        M::Int | M::Int1 | M::Syscall | M::Sysenter | M::Iret | M::Iretd | M::Iretq | M::Sgdt | M::Sidt | M::Sldt
            | M::Str | M::Smsw | M::Lar | M::Lsl | M::Verr | M::Verw | M::Cpuid
            // Depends on what the host has of extended state.
            | M::Xgetbv | M::Xsave | M::Xsave64 | M::Xrstor | M::Xrstor64
            // Segment registers.
            | M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss | M::Arpl
            // Old processors' instructions on x87 and MMX that newer ones ignore.
            | M::Fndisi | M::Fneni | M::Fnsetpm | M::Fdisi | M::Feni | M::Fsetpm | M::Frstpm
            | M::Ud0 | M::Ud1 | M::Reservednop | M::Zero_bytes
    );
    let segment = matches!(mnemonic, M::Mov | M::Push | M::Pop)
        && code.op_code().op_kinds().iter().any(|k| {
            matches!(k, Kind::seg_reg | Kind::es | Kind::cs | Kind::ss | Kind::ds | Kind::fs | Kind::gs)
        });
    // Undocumented x87 aliases that AMD and Intel treat alike today but document nowhere.
    by_name || segment || format!("{code:?}").contains("_D") && is_undocumented_x87(code)
}

fn is_undocumented_x87(code: Code) -> bool {
    matches!(
        code,
        Code::Fstp_sti_DFD0
            | Code::Fstp_sti_DFD8
            | Code::Fxch_st0_sti_DDC8
            | Code::Fxch_st0_sti_DFC8
            | Code::Fcom_st0_sti_DCD0
            | Code::Fcomp_st0_sti_DCD8
            | Code::Fcomp_st0_sti_DED0
            | Code::Fstpnce_sti
            | Code::Ffreep_sti
    )
}

/// Instructions that fault in user mode.
fn is_privileged(code: Code) -> bool {
    use Mnemonic as M;
    let control = |k: &Kind| matches!(k, Kind::cr_reg | Kind::dr_reg);
    matches!(
        code.mnemonic(),
        M::Hlt
            | M::In
            | M::Out
            | M::Insb
            | M::Insw
            | M::Insd
            | M::Outsb
            | M::Outsw
            | M::Outsd
            | M::Rdmsr
            | M::Wrmsr
            | M::Lgdt
            | M::Lidt
            | M::Lldt
            | M::Ltr
            | M::Lmsw
            | M::Clts
            | M::Invd
            | M::Wbinvd
            | M::Invlpg
            | M::Swapgs
            | M::Sysret
            | M::Sysretq
            | M::Xsetbv
    ) || code.mnemonic() == M::Mov && code.op_code().op_kinds().iter().any(control)
}

/// Instructions that store the x87 and SSE state in memory or load it from there.
fn is_save(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Fxsave
            | M::Fxsave64
            | M::Fxrstor
            | M::Fxrstor64
            | M::Fnsave
            | M::Fsave
            | M::Frstor
            | M::Fnstenv
            | M::Fstenv
            | M::Fldenv
    )
}

/// The group `code` is tested with, if it is tested.
pub fn group(code: Code) -> Option<Group> {
    use CpuidFeature as F;
    let info = code.op_code();
    if !info.is_instruction() || !matches!(info.encoding(), EncodingKind::Legacy | EncodingKind::VEX) {
        return None;
    }
    let features = code.cpuid_features();
    if !features.iter().all(|&f| has(f)) || left_out(code, code.mnemonic()) {
        return None;
    }
    if is_privileged(code) {
        return Some(Group::Privileged);
    }
    if info.must_be_cpl0() {
        return None;
    }
    if is_save(code.mnemonic()) {
        return Some(Group::Save);
    }
    let any = |list: &[F]| features.iter().any(|f| list.contains(f));
    let uses = |f: fn(Kind) -> bool| info.op_kinds().iter().any(|&k| f(k));
    Some(if any(&[F::AES, F::PCLMULQDQ, F::SHA]) {
        Group::Crypto
    } else if any(&[F::AVX, F::AVX2, F::FMA, F::F16C]) {
        Group::Avx
    } else if any(&[F::FPU, F::FPU287, F::FPU387]) {
        Group::X87
    } else if any(&[F::MMX])
        || any(&[F::SSE, F::SSE2, F::SSSE3])
            && uses(|k| matches!(k, Kind::mm_reg | Kind::mm_rm | Kind::mm_or_mem))
    {
        Group::Mmx
    } else if any(&[F::SSE4_2]) && code.mnemonic() == Mnemonic::Crc32 {
        Group::Bits
    } else if any(&[F::SSE, F::SSE2, F::SSE3, F::SSSE3, F::SSE4_1, F::SSE4_2]) {
        if code.mnemonic() == Mnemonic::Fisttp { Group::X87 } else { Group::Sse }
    } else if any(&[F::BMI1, F::BMI2, F::ADX, F::MOVBE, F::POPCNT, F::LZCNT, F::CMPXCHG16B, F::CX8]) {
        Group::Bits
    } else if uses(|k| matches!(k, Kind::seg_rSI | Kind::es_rDI)) {
        Group::String
    } else if !matches!(
        code.flow_control(),
        FlowControl::Next | FlowControl::Interrupt | FlowControl::Exception
    ) {
        if matches!(
            code.flow_control(),
            FlowControl::ConditionalBranch
                | FlowControl::UnconditionalBranch
                | FlowControl::IndirectBranch
                | FlowControl::Call
                | FlowControl::IndirectCall
                | FlowControl::Return
        ) && !is_far(code)
        {
            Group::Branch
        } else {
            return None;
        }
    } else {
        Group::Integer
    })
}

fn is_far(code: Code) -> bool {
    code.is_jmp_far()
        || code.is_call_far()
        || code.is_jmp_far_indirect()
        || code.is_call_far_indirect()
        || code.mnemonic() == Mnemonic::Retf
}

/// The instructions of `group` that exist in `mode`.
pub fn codes(group_wanted: Group, mode: Mode) -> &'static [Code] {
    static LISTS: OnceLock<Vec<Vec<Code>>> = OnceLock::new();
    let lists = LISTS.get_or_init(|| {
        let mut lists = vec![Vec::new(); Group::ALL.len() * 2];
        for code in Code::values() {
            if let Some(g) = group(code) {
                let info = code.op_code();
                if info.mode64() {
                    lists[g as usize * 2].push(code);
                }
                if info.mode32() {
                    lists[g as usize * 2 + 1].push(code);
                }
            }
        }
        lists
    });
    &lists[group_wanted as usize * 2 + usize::from(mode == Mode::Compat)]
}

fn gpr_of_width(random: &mut Random, mode: Mode, width: u32) -> Register {
    let n = if mode == Mode::Long { 16 } else { 8 };
    let base = match width {
        8 => {
            return if mode == Mode::Long {
                Register::AL + random.below(20) as u32
            } else {
                Register::AL + random.below(8) as u32
            };
        }
        16 => Register::AX,
        32 => Register::EAX,
        _ => Register::RAX,
    };
    base + random.below(n) as u32
}

fn vector(random: &mut Random, mode: Mode, base: Register) -> Register {
    base + random.below(if mode == Mode::Long { 16 } else { 8 }) as u32
}

/// An address in the data (or just outside) for an access of `size` bytes.
pub fn data_address(random: &mut Random, size: u64) -> u64 {
    let middle = place::DATA + 0x800 + random.below(0x1000);
    match random.below(40) {
        0 => place::READ_ONLY - random.below(size.max(2)),
        1 => place::READ_ONLY + random.below(0xf00),
        2 => place::READ_ONLY + 0x1000 - random.below(size.max(2)),
        3 => place::DATA + random.below(size.max(1)) - size / 2,
        4 => place::DATA + 0x1000 - random.below(size.max(2)),
        5 => place::CODE + 0x800 + random.below(0x40),
        6..=9 => middle,
        _ => middle & !31,
    }
}

fn memory_operand(random: &mut Random, insn: &mut Instruction, mode: Mode, vsib: Option<Register>) {
    let long = mode == Mode::Long;
    let wide = long && !random.one_in(6);
    let (first, count) = if wide { (Register::RAX, 16) } else { (Register::EAX, if long { 16 } else { 8 }) };
    let reg = |random: &mut Random| first + random.below(count) as u32;
    let displacement = |random: &mut Random| match random.below(3) {
        0 => (0i64, 0),
        1 => (random.below(256) as i64 - 128, 1),
        _ => (random.below(0x4000) as i64 - 0x2000, if wide { 8 } else { 4 }),
    };
    if let Some(index) = vsib {
        insn.set_memory_base(reg(random));
        insn.set_memory_index(vector(random, mode, index));
        insn.set_memory_index_scale(1 << random.below(4));
        let (d, size) = displacement(random);
        insn.set_memory_displacement64(d as u64);
        insn.set_memory_displ_size(size);
        return;
    }
    match random.below(8) {
        0 if long => {
            insn.set_memory_base(Register::RIP);
            insn.set_memory_displacement64(data_address(random, 16));
            insn.set_memory_displ_size(8);
        }
        0 | 1 => {
            insn.set_memory_displacement64(data_address(random, 16));
            insn.set_memory_displ_size(if wide { 8 } else { 4 });
        }
        2..=4 => {
            insn.set_memory_base(reg(random));
            let (d, size) = displacement(random);
            insn.set_memory_displacement64(d as u64);
            insn.set_memory_displ_size(size);
        }
        _ => {
            let index = loop {
                let r = reg(random);
                if r != first + 4 {
                    break r;
                }
            };
            insn.set_memory_index(index);
            insn.set_memory_index_scale(1 << random.below(4));
            let mut with_base = false;
            if !random.one_in(5) {
                let base = reg(random);
                if base != index {
                    insn.set_memory_base(base);
                    with_base = true;
                }
            }
            let (d, size) = displacement(random);
            insn.set_memory_displacement64(d as u64);
            insn.set_memory_displ_size(if with_base {
                size
            } else if wide {
                8
            } else {
                4
            });
        }
    }
    if insn.memory_displ_size() == 4 || !wide {
        let d = insn.memory_displacement64() as u32;
        insn.set_memory_displacement64(u64::from(d));
    }
}

/// Builds an instruction of `code` with random operands; `None` when the operands drawn cannot be encoded.
fn build(random: &mut Random, code: Code, mode: Mode) -> Option<Vec<u8>> {
    let info = code.op_code();
    let mut insn = Instruction::default();
    insn.set_code(code);
    let ip = place::START;
    for (i, &kind) in info.op_kinds().iter().enumerate() {
        let i = i as u32;
        let mut register = |r: Register| {
            insn.set_op_kind(i, OpKind::Register);
            insn.set_op_register(i, r);
        };
        let memory = !random.one_in(3);
        match kind {
            Kind::r8_or_mem
            | Kind::r16_or_mem
            | Kind::r32_or_mem
            | Kind::r64_or_mem
            | Kind::mm_or_mem
            | Kind::xmm_or_mem
            | Kind::ymm_or_mem
                if memory =>
            {
                insn.set_op_kind(i, OpKind::Memory);
                memory_operand(random, &mut insn, mode, None);
            }
            Kind::mem => {
                insn.set_op_kind(i, OpKind::Memory);
                memory_operand(random, &mut insn, mode, None);
            }
            Kind::mem_vsib32x | Kind::mem_vsib64x => {
                insn.set_op_kind(i, OpKind::Memory);
                memory_operand(random, &mut insn, mode, Some(Register::XMM0));
            }
            Kind::mem_vsib32y | Kind::mem_vsib64y => {
                insn.set_op_kind(i, OpKind::Memory);
                memory_operand(random, &mut insn, mode, Some(Register::YMM0));
            }
            Kind::mem_offs => {
                insn.set_op_kind(i, OpKind::Memory);
                insn.set_memory_displacement64(data_address(random, 8));
                insn.set_memory_displ_size(if mode == Mode::Long && !random.one_in(4) { 8 } else { 4 });
            }
            Kind::r8_or_mem | Kind::r8_reg | Kind::r8_opcode => register(gpr_of_width(random, mode, 8)),
            Kind::r16_or_mem | Kind::r16_reg | Kind::r16_rm | Kind::r16_opcode => {
                register(gpr_of_width(random, mode, 16));
            }
            Kind::r32_or_mem | Kind::r32_reg | Kind::r32_rm | Kind::r32_opcode | Kind::r32_vvvv => {
                register(gpr_of_width(random, mode, 32));
            }
            Kind::r64_or_mem | Kind::r64_reg | Kind::r64_rm | Kind::r64_opcode | Kind::r64_vvvv => {
                register(gpr_of_width(random, mode, 64));
            }
            Kind::mm_or_mem | Kind::mm_reg | Kind::mm_rm => register(Register::MM0 + random.below(8) as u32),
            Kind::xmm_or_mem | Kind::xmm_reg | Kind::xmm_rm | Kind::xmm_vvvv | Kind::xmm_is4 => {
                register(vector(random, mode, Register::XMM0));
            }
            Kind::ymm_or_mem | Kind::ymm_reg | Kind::ymm_rm | Kind::ymm_vvvv | Kind::ymm_is4 => {
                register(vector(random, mode, Register::YMM0));
            }
            Kind::cr_reg => register(Register::CR0 + random.pick(&[0, 2, 3, 4])),
            Kind::dr_reg => register(Register::DR0 + random.below(8) as u32),
            Kind::al => register(Register::AL),
            Kind::cl => register(Register::CL),
            Kind::ax => register(Register::AX),
            Kind::dx => register(Register::DX),
            Kind::eax => register(Register::EAX),
            Kind::rax => register(Register::RAX),
            Kind::st0 => register(Register::ST0),
            Kind::sti_opcode => register(Register::ST0 + random.below(8) as u32),
            Kind::seg_rDI => insn
                .set_op_kind(i, if mode == Mode::Long { OpKind::MemorySegRDI } else { OpKind::MemorySegEDI }),
            Kind::seg_rBX_al => {
                insn.set_op_kind(i, OpKind::Memory);
                insn.set_memory_base(if mode == Mode::Long { Register::RBX } else { Register::EBX });
                insn.set_memory_index(Register::AL);
            }
            _ => immediate(random, &mut insn, i, kind, ip)?,
        }
    }
    if info.can_use_lock_prefix() && insn.op0_kind() == OpKind::Memory && random.one_in(2) {
        insn.set_has_lock_prefix(true);
    }
    let mut encoder = Encoder::new(mode.bitness());
    encoder.encode(&insn, ip).ok()?;
    let bytes = encoder.take_buffer();
    let branch = group(code) == Some(Group::Branch);
    // In 64-bit mode an operand-size prefix cuts RIP to 16 bits on AMD's processors and is ignored on Intel's.
    if branch && (mode == Mode::Long && bytes.contains(&0x66) || !branch_lands_well(&bytes, mode)) {
        return None;
    }
    Some(bytes)
}

/// A direct branch goes to one of the UD2 around the code: never to itself, which would not end.
fn branch_lands_well(bytes: &[u8], mode: Mode) -> bool {
    let insn = decode(bytes, place::START, mode);
    if !matches!(insn.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64) {
        return true;
    }
    let target = insn.near_branch_target();
    // With a 16-bit operand the target is cut to 16 bits, where nothing is mapped.
    target < place::CODE
        || target < place::START && target.is_multiple_of(2)
        || target >= insn.next_ip() && (target - insn.next_ip()).is_multiple_of(2)
}

fn immediate(random: &mut Random, insn: &mut Instruction, i: u32, kind: Kind, ip: u64) -> Option<()> {
    let value = random.integer();
    let small = if random.one_in(2) { value } else { random.below(70) };
    let op_kind = match kind {
        // Where there are two, the second one: ENTER.
        Kind::imm8 if i > 0 && insn.op_kind(i - 1) == OpKind::Immediate16 => {
            insn.set_op_kind(i, OpKind::Immediate8_2nd);
            insn.set_immediate8_2nd((small & 0xff) as u8);
            return Some(());
        }
        Kind::imm8 | Kind::imm4_m2z => OpKind::Immediate8,
        Kind::imm8_const_1 => {
            insn.set_op_kind(i, OpKind::Immediate8);
            insn.set_immediate8(1);
            return Some(());
        }
        Kind::imm8sex16 => OpKind::Immediate8to16,
        Kind::imm8sex32 => OpKind::Immediate8to32,
        Kind::imm8sex64 => OpKind::Immediate8to64,
        Kind::imm16 => OpKind::Immediate16,
        Kind::imm32 => OpKind::Immediate32,
        Kind::imm32sex64 => OpKind::Immediate32to64,
        Kind::imm64 => OpKind::Immediate64,
        Kind::br16_1 | Kind::br16_2 => {
            insn.set_op_kind(i, OpKind::NearBranch16);
            insn.set_near_branch16((ip as u16).wrapping_add(random.below(60) as u16));
            return Some(());
        }
        Kind::br32_1 | Kind::br32_4 => {
            insn.set_op_kind(i, OpKind::NearBranch32);
            insn.set_near_branch32((ip as u32).wrapping_add(random.below(110) as u32).wrapping_sub(50));
            return Some(());
        }
        Kind::br64_1 | Kind::br64_4 => {
            insn.set_op_kind(i, OpKind::NearBranch64);
            insn.set_near_branch64(ip.wrapping_add(random.below(110)).wrapping_sub(50));
            return Some(());
        }
        _ => return None,
    };
    insn.set_op_kind(i, op_kind);
    match op_kind {
        OpKind::Immediate8 => insn.set_immediate8(small as u8),
        OpKind::Immediate8to16 => insn.set_immediate8to16(i16::from(value as i8)),
        OpKind::Immediate8to32 => insn.set_immediate8to32(i32::from(value as i8)),
        OpKind::Immediate8to64 => insn.set_immediate8to64(i64::from(value as i8)),
        // ENTER's frame, RET's stack adjustment.
        OpKind::Immediate16 => {
            insn.set_immediate16(if random.one_in(2) { value as u16 } else { small as u16 })
        }
        OpKind::Immediate32 => insn.set_immediate32(value as u32),
        OpKind::Immediate32to64 => insn.set_immediate32to64(i64::from(value as i32)),
        _ => insn.set_immediate64(value),
    }
    Some(())
}

/// A string instruction with random prefixes.
fn string(random: &mut Random, mode: Mode) -> Vec<u8> {
    let mut code = Vec::new();
    if random.one_in(8) {
        code.push(0x67);
    }
    if random.one_in(4) {
        code.push(0x66);
    }
    match random.below(5) {
        0 => {}
        1 | 2 => code.push(0xf2),
        _ => code.push(0xf3),
    }
    if mode == Mode::Long && random.one_in(3) {
        code.push(0x48);
    }
    code.push(random.pick(&[0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf]));
    code
}

/// Decodes one instruction at `ip`.
pub fn decode(code: &[u8], ip: u64, mode: Mode) -> Instruction {
    Decoder::with_ip(mode.bitness(), code, ip, DecoderOptions::NONE).decode()
}

/// The bytes of a random instruction of `group`.
pub fn instruction(random: &mut Random, group: Group, mode: Mode) -> Vec<u8> {
    if group == Group::String {
        return string(random, mode);
    }
    let list = codes(group, mode);
    for _ in 0..10_000 {
        let code = random.pick(list);
        if let Some(bytes) = build(random, code, mode) {
            return bytes;
        }
    }
    panic!("no instruction of {group:?} can be encoded");
}

/// A case of one instruction with prefixes that it may not need, or not bear.
pub fn prefixed(random: &mut Random, mode: Mode) -> Case {
    const PREFIXES: [u8; 12] = [0x66, 0x66, 0x67, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0xf0, 0x48, 0x41];
    loop {
        let group_drawn = random.pick(&Group::ALL);
        let mut code = instruction(random, group_drawn, mode);
        for _ in 0..1 + random.below(3) {
            let prefix = random.pick(&PREFIXES);
            if mode == Mode::Long || prefix & 0xf0 != 0x40 {
                code.insert(0, if prefix & 0xf0 == 0x40 { 0x40 | random.below(16) as u8 } else { prefix });
            }
        }
        let insn = decode(&code, place::START, mode);
        let tested = match insn.code() {
            // Longer ones would not be told from instructions of more than 15 bytes.
            Code::INVALID => code.len() < 15,
            other => group(other).is_some_and(|g| g != Group::Branch && g != Group::Privileged),
        };
        if tested
            && (insn.len() == code.len() || insn.code() == Code::INVALID)
            && branch_lands_well(&code, mode)
        {
            return case_for(random, code, mode);
        }
    }
}

/// The bytes of an instruction of `code`, if its operands can be drawn.
pub fn instruction_of(random: &mut Random, code: Code, mode: Mode) -> Option<Vec<u8>> {
    if codes(Group::String, mode).contains(&code) {
        return (0..2000)
            .map(|_| string(random, mode))
            .find(|b| decode(b, place::START, mode).code() == code);
    }
    (0..200).find_map(|_| build(random, code, mode))
}

fn random_state(random: &mut Random, mode: Mode) -> State {
    let mut s = State { rflags: random.bits() & (FLAGS & !0x400) | 2, ..State::default() };
    if random.one_in(8) {
        s.rflags |= 0x400;
    }
    for r in &mut s.gpr {
        *r = random.integer();
    }
    for v in s.vec.iter_mut().flatten() {
        *v = random.lane64();
    }
    let x = &mut s.x87;
    x.in_use = match random.below(4) {
        0 => random.bits() as u8,
        1 => 0xff,
        _ => 0,
    };
    let top = random.below(8) as u16;
    if x.in_use == 0 {
        // A stack of some depth.
        let depth = random.below(8) as u16;
        for i in 0..depth {
            x.in_use |= 1 << ((top + i) & 7);
        }
    }
    x.status = top << 11 | random.bits() as u16 & 0x473f;
    x.control = 0x7f | random.pick(&[0u16, 0x200, 0x300, 0x300, 0x300]) | (random.below(4) as u16) << 10;
    if random.one_in(2) {
        x.control &= !0xc00;
    }
    for st in &mut x.st {
        *st = random.extended();
    }
    s.mxcsr = 0x1f80 | random.bits() as u32 & 0x3f;
    if random.one_in(2) {
        s.mxcsr |= random.bits() as u32 & 0xe040;
    }
    if random.one_in(12) {
        // Overflow and underflow stay masked: unmasked, they are raised without the precision exception, and
        // underflow by exact results too, which Rhea does not model.
        s.mxcsr &= !(random.bits() as u32 & 0x1380);
    }
    if random.one_in(12) {
        x.control &= !(random.bits() as u16 & 0x27);
    }
    if x.status & !x.control & 0x3f != 0 {
        if random.one_in(2) {
            x.status &= !0x3f;
        } else {
            x.status |= 0x8080;
        }
    }
    if mode == Mode::Compat {
        for r in &mut s.gpr {
            *r = u64::from(*r as u32);
        }
        s.gpr[8..].fill(0);
        s.vec[8..].fill([0; 4]);
    }
    s
}

fn number(r: Register) -> Option<usize> {
    (r.is_gpr()).then(|| r.full_register().number())
}

/// Builds a case out of instructions that need no state of each other's making.
struct Shaper<'a> {
    random: &'a mut Random,
    mode: Mode,
    state: State,
    data: Vec<u8>,
    /// Registers whose start value some instruction relies on.
    fixed: u16,
    /// Registers that an instruction so far wrote.
    written: u16,
    info: InstructionInfoFactory,
}

impl Shaper<'_> {
    fn set(&mut self, n: usize, value: u64) {
        if (self.fixed | self.written) >> n & 1 == 0 {
            self.state.gpr[n] = if self.mode == Mode::Compat { u64::from(value as u32) } else { value };
        }
    }

    fn free(&self, n: usize) -> bool {
        (self.fixed | self.written) >> n & 1 == 0
    }

    /// Gives registers that address memory values by which the access lands in the data. False if that cannot be.
    fn point(&mut self, insn: &Instruction) -> bool {
        let used: Vec<_> = self.info.info(insn).used_memory().to_vec();
        let mut all = true;
        for m in used {
            if m.base() == Register::RIP || m.base() == Register::EIP {
                continue;
            }
            let size = (m.memory_size().size() as u64).max(1);
            let target = data_address(self.random, size);
            let index = m.index();
            if index.is_vector_register() {
                let n = index.number();
                for lane in &mut self.state.vec[n] {
                    let small = |r: &mut Random| r.below(0x200) as i64 - 0x100;
                    *lane = if insn.mnemonic_is_dword_vsib() {
                        u64::from(small(self.random) as u32) << 32 | u64::from(small(self.random) as u32)
                    } else {
                        small(self.random) as u64
                    };
                }
                if let Some(b) = number(m.base()) {
                    if !self.free(b) {
                        all = false;
                        continue;
                    }
                    self.set(b, target.wrapping_sub(m.displacement()));
                    self.fixed |= 1 << b;
                }
                continue;
            }
            let index_number = number(index).filter(|_| index.is_gpr32() || index.is_gpr64());
            if let Some(b) = number(m.base()) {
                let mut value = target.wrapping_sub(m.displacement());
                if index == Register::AL {
                    value = target.wrapping_sub(self.state.gpr[0] & 0xff);
                } else if let Some(i) = index_number {
                    let v = self.state.gpr[i];
                    value = value.wrapping_sub(v.wrapping_mul(m.scale() as u64));
                    self.fixed |= 1 << i;
                }
                if !self.free(b) {
                    all = false;
                    continue;
                }
                if m.base().is_gpr32() && self.mode == Mode::Long {
                    value = value & 0xffff_ffff | self.random.bits() << 32;
                }
                self.set(b, value);
                self.fixed |= 1 << b;
            } else if let Some(i) = index_number {
                let value = target.wrapping_sub(m.displacement()) / m.scale() as u64;
                if !self.free(i) {
                    all = false;
                    continue;
                }
                self.set(i, value);
                self.fixed |= 1 << i;
            }
        }
        all
    }

    /// Values that make particular instructions do more than fault.
    fn suit(&mut self, insn: &Instruction) {
        use Mnemonic as M;
        match insn.mnemonic() {
            M::Div | M::Idiv if !self.random.one_in(4) => {
                let v = if self.random.one_in(2) { 0 } else { self.random.below(300) };
                let negative = insn.mnemonic() == M::Idiv && self.random.one_in(2);
                self.set(2, if negative { u64::MAX } else { v });
                if insn.op0_kind() != OpKind::Memory && insn.op0_register().size() == 1 {
                    let low = self.state.gpr[0] & !0xff00 | v << 8 & 0xff00;
                    self.set(0, low);
                }
            }
            M::Shl | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd
                if self.random.one_in(2) =>
            {
                let v = self.state.gpr[1] & !0xff | self.random.below(70);
                self.set(1, v);
            }
            M::Bt | M::Bts | M::Btr | M::Btc if insn.op0_kind() == OpKind::Memory => {
                if let Some(n) =
                    (insn.op1_kind() == OpKind::Register).then(|| number(insn.op1_register())).flatten()
                {
                    let v = (self.random.below(0x4000) as i64 - 0x2000) as u64;
                    self.set(n, v);
                    self.fixed |= 1 << n;
                }
            }
            M::Cmpxchg if self.random.one_in(2) && insn.op0_kind() == OpKind::Register => {
                if let Some(n) = number(insn.op0_register()) {
                    let v = self.state.gpr[n];
                    self.set(0, v);
                }
            }
            M::Bextr | M::Bzhi | M::Rorx | M::Sarx | M::Shlx | M::Shrx => {
                if insn.op_count() > 2
                    && let Some(n) =
                        (insn.op2_kind() == OpKind::Register).then(|| number(insn.op2_register())).flatten()
                    && self.random.one_in(2)
                {
                    let v = self.random.below(70) | self.random.below(70) << 8;
                    self.set(n, v);
                }
            }
            _ => {}
        }
        if insn.is_string_instruction() {
            let n = self.random.below(20);
            self.set(1, n);
            self.fixed |= 1 << 1;
        }
        if matches!(insn.mnemonic(), M::Loop | M::Loope | M::Loopne | M::Jcxz | M::Jecxz | M::Jrcxz) {
            let n = self.random.below(3);
            self.set(1, n);
        }
        self.suit_memory(insn);
    }

    /// Memory contents for compare-and-exchange, indirect jumps, returns and conversions.
    fn suit_memory(&mut self, insn: &Instruction) {
        use Mnemonic as M;
        let target = place::START + 2 * self.random.below(40) + insn.len() as u64;
        match insn.flow_control() {
            FlowControl::IndirectBranch | FlowControl::IndirectCall if self.random.one_in(8) => {}
            FlowControl::IndirectBranch | FlowControl::IndirectCall => {
                if insn.op0_kind() == OpKind::Register {
                    if let Some(n) = number(insn.op0_register()) {
                        self.set(n, target);
                    }
                } else {
                    self.write_operand(insn, target);
                }
            }
            FlowControl::Return if !self.random.one_in(8) => {
                let rsp = self.state.gpr[4];
                self.write(rsp, &target.to_le_bytes()[..if self.mode == Mode::Long { 8 } else { 4 }]);
            }
            _ => {}
        }
        match insn.mnemonic() {
            M::Cmpxchg if insn.op0_kind() == OpKind::Memory && self.random.one_in(2) => {
                let v = self.state.gpr[0];
                self.write_operand(insn, v);
            }
            M::Cmpxchg8b | M::Cmpxchg16b if self.random.one_in(2) => {
                let (a, d) = (self.state.gpr[0], self.state.gpr[2]);
                if insn.mnemonic() == M::Cmpxchg8b {
                    self.write_operand(insn, a & 0xffff_ffff | d << 32);
                } else if let Some(at) = self.address_of(insn) {
                    self.write(at, &a.to_le_bytes());
                    self.write(at.wrapping_add(8), &d.to_le_bytes());
                }
            }
            _ => {}
        }
        let extended =
            matches!(insn.memory_size(), iced_x86::MemorySize::Float80 | iced_x86::MemorySize::Bcd);
        if extended && let Some(at) = self.address_of(insn) {
            let (m, e) = self.random.extended();
            let mut bytes = m.to_le_bytes().to_vec();
            bytes.extend(e.to_le_bytes());
            if insn.mnemonic() == M::Fbld {
                for b in &mut bytes {
                    *b = (self.random.below(10) * 16 + self.random.below(10)) as u8;
                }
            }
            self.write(at, &bytes);
        }
    }

    fn address_of(&self, insn: &Instruction) -> Option<u64> {
        insn.virtual_address(0, 0, |r, _, _| {
            if r.is_segment_register() {
                return Some(0);
            }
            let n = number(r)?;
            let v = self.state.gpr[n];
            Some(if r.is_gpr32() { u64::from(v as u32) } else { v })
        })
    }

    fn write_operand(&mut self, insn: &Instruction, value: u64) {
        if let Some(at) = self.address_of(insn) {
            self.write(at, &value.to_le_bytes());
        }
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        if let Some(offset) = at.checked_sub(place::DATA)
            && let Some(to) = self.data.get_mut(offset as usize..).and_then(|d| d.get_mut(..bytes.len()))
        {
            to.copy_from_slice(bytes);
        }
    }
}

trait DwordVsib {
    fn mnemonic_is_dword_vsib(&self) -> bool;
}

impl DwordVsib for Instruction {
    fn mnemonic_is_dword_vsib(&self) -> bool {
        use Mnemonic as M;
        matches!(self.mnemonic(), M::Vgatherdps | M::Vgatherdpd | M::Vpgatherdd | M::Vpgatherdq)
    }
}

fn shaper<'a>(random: &'a mut Random, mode: Mode) -> Shaper<'a> {
    let state = random_state(random, mode);
    let mut data = vec![0u8; place::DATA_LEN];
    for c in data.chunks_exact_mut(8) {
        c.copy_from_slice(&random.lane64().to_le_bytes());
    }
    Shaper { random, mode, state, data, fixed: 0, written: 0, info: InstructionInfoFactory::new() }
}

/// A start state for the one instruction `code`.
pub fn case_for(random: &mut Random, code: Vec<u8>, mode: Mode) -> Case {
    // FSTCW and the like are FWAIT and another instruction.
    let instructions: Vec<_> =
        Decoder::with_ip(mode.bitness(), &code, place::START, DecoderOptions::NONE).iter().collect();
    let insn = instructions[instructions.len() - 1];
    let mut s = shaper(random, mode);
    s.suit(&insn);
    s.point(&insn);
    s.suit_memory(&insn);
    if s.random.one_in(64) {
        s.state.rflags |= AC;
    }
    let (state, data) = (s.state, s.data);
    Case { mode, code, instructions, state, data, loops: false }
}

/// A case of one instruction of `group`.
pub fn single(random: &mut Random, group: Group, mode: Mode) -> Case {
    let code = instruction(random, group, mode);
    case_for(random, code, mode)
}

/// Instructions that follow each other, as they are chosen.
struct Body {
    code: Vec<u8>,
    instructions: Vec<Instruction>,
    /// Flags that may be undefined at the end (iced's bits).
    undefined: u32,
    /// Registers that nothing may write.
    kept: u16,
    /// Flags that were undefined stay so: what follows may be skipped.
    conditional: bool,
}

impl Body {
    fn end(&self) -> u64 {
        place::START + self.code.len() as u64
    }

    /// Adds an instruction of `groups`, if the one drawn fits.
    fn add(&mut self, s: &mut Shaper<'_>, draw: &mut Random, groups: &[Group]) -> bool {
        let group = draw.pick(groups);
        let bytes = instruction(draw, group, s.mode);
        let insn = decode(&bytes, self.end(), s.mode);
        // FWAIT and another instruction are two.
        if insn.len() != bytes.len()
            || insn.rflags_read() & self.undefined != 0
            || insn.is_ip_rel_memory_operand()
            || insn.flow_control() != FlowControl::Next
            || insn.is_string_instruction()
            || crate::undefined::only_alone(&insn)
            || written_by(&mut s.info, &insn) & self.kept != 0
        {
            return false;
        }
        let before = s.fixed;
        s.suit(&insn);
        if !s.point(&insn) {
            s.fixed |= before;
            return false;
        }
        s.written |= written_by(&mut s.info, &insn);
        let certain = !self.conditional && !crate::undefined::is_shift(&insn);
        let modified = if certain { insn.rflags_modified() } else { 0 };
        self.undefined = self.undefined & !modified | insn.rflags_undefined();
        self.push(&bytes, s.mode);
        true
    }

    /// Adds bytes as they are.
    fn push(&mut self, bytes: &[u8], mode: Mode) {
        let ip = self.end();
        self.code.extend(bytes);
        self.instructions.extend(Decoder::with_ip(mode.bitness(), bytes, ip, DecoderOptions::NONE));
    }

    fn case(self, s: Shaper<'_>, loops: bool) -> Case {
        let Shaper { mode, state, data, .. } = s;
        Case { mode, code: self.code, instructions: self.instructions, state, data, loops }
    }
}

fn body(kept: u16) -> Body {
    Body { code: Vec::new(), instructions: Vec::new(), undefined: 0, kept, conditional: false }
}

/// General registers that `insn` may write, by number.
fn written_by(info: &mut InstructionInfoFactory, insn: &Instruction) -> u16 {
    let writes = [OpAccess::Write, OpAccess::CondWrite, OpAccess::ReadWrite, OpAccess::ReadCondWrite];
    let used = info.info(insn).used_registers();
    used.iter()
        .filter(|u| writes.contains(&u.access()))
        .filter_map(|u| number(u.register()))
        .fold(0, |all, n| all | 1 << n)
}

/// A case of up to `length` instructions of `groups`, one after the other. None reads a flag that an earlier one left
/// undefined.
pub fn stream(random: &mut Random, groups: &[Group], mode: Mode, length: usize) -> Case {
    let mut draw = Random::new(random.bits());
    let mut s = shaper(random, mode);
    let mut b = body(0);
    for _ in 0..20 * length {
        if b.instructions.len() < length {
            b.add(&mut s, &mut draw, groups);
        }
    }
    b.case(s, false)
}

/// A loop of a few rounds over instructions of `groups`, with branches over some of them and calls between: what
/// leads from unit to unit.
pub fn looped(random: &mut Random, groups: &[Group], mode: Mode, length: usize) -> Case {
    const RCX: u16 = 1 << 1;
    const RSP: u16 = 1 << 4;
    let mut draw = Random::new(random.bits());
    let mut s = shaper(random, mode);
    let rounds = 2 + draw.below(6);
    s.set(1, rounds);
    s.set(4, place::DATA + 0x1800);
    s.fixed |= RCX | RSP;
    let mut b = body(RCX | RSP);
    // CMP EAX, EAX: every flag is defined at the start of each round.
    const DEFINE: [u8; 2] = [0x39, 0xc0];
    b.push(&DEFINE, mode);
    for _ in 0..length {
        match draw.below(6) {
            0 if b.undefined == 0 => {
                // A branch over the next few instructions.
                let at = b.code.len();
                b.push(&[0x70 | draw.below(16) as u8, 0], mode);
                b.conditional = true;
                let mut any = false;
                for _ in 0..20 {
                    if b.code.len() < at + 30 && (!any || draw.one_in(3)) {
                        any |= b.add(&mut s, &mut draw, groups);
                    }
                }
                b.conditional = false;
                b.code[at + 1] = (b.code.len() - at - 2) as u8;
            }
            1 => {
                // CALL over a jump to a RET, which comes back to that jump, over the RET.
                b.push(&[0xe8, 2, 0, 0, 0, 0xeb, 1, 0xc3], mode);
            }
            _ => {
                for _ in 0..20 {
                    if b.add(&mut s, &mut draw, groups) {
                        break;
                    }
                }
            }
        }
    }
    b.push(&DEFINE, mode);
    // DEC ECX; JNZ to the start.
    let back = -(b.code.len() as i32 + 8);
    b.push(&[0xff, 0xc9], mode);
    let mut jump = vec![0x0f, 0x85];
    jump.extend(back.to_le_bytes());
    b.push(&jump, mode);
    // Displacements were filled in after decoding.
    b.instructions =
        Decoder::with_ip(mode.bitness(), &b.code, place::START, DecoderOptions::NONE).iter().collect();
    b.case(s, true)
}

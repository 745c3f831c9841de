//! Random instructions: an encoding with random operands.

use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, Instruction, OpCodeOperandKind as Kind, OpKind, Register,
};

use crate::catalogue::{Group, codes, group};
use crate::place;
use crate::random::Random;
use crate::state::Mode;

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
pub fn branch_lands_well(bytes: &[u8], mode: Mode) -> bool {
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

/// The bytes of an instruction of `code`, if its operands can be drawn.
pub fn instruction_of(random: &mut Random, code: Code, mode: Mode) -> Option<Vec<u8>> {
    if codes(Group::String, mode).contains(&code) {
        return (0..2000)
            .map(|_| string(random, mode))
            .find(|b| decode(b, place::START, mode).code() == code);
    }
    (0..200).find_map(|_| build(random, code, mode))
}

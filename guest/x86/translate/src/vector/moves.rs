//! Moves between vector registers, general registers and memory.

use rhea_ir::{Inst, Lane, Op, Type, Val};

use crate::slots;
use crate::translator::Translator;

fn whole(t: &mut Translator<'_>, aligned: bool) {
    if t.is_memory(1) {
        let bytes = t.insn.memory_size().size() as u32;
        let v = t.load_vector(bytes, aligned && bytes >= 16);
        t.write_vector(0, v);
        return;
    }
    let v = t.read_vector(1);
    if t.is_memory(0) {
        let bytes = t.insn.memory_size().size() as u32;
        t.store_vector(v, bytes, aligned && bytes >= 16);
    } else {
        t.write_vector(0, v);
    }
}

/// MOVAPS, MOVDQA, MOVNT* and relatives: memory must be aligned.
pub(super) fn aligned(t: &mut Translator<'_>) {
    whole(t, true);
}

/// MOVUPS, MOVDQU, LDDQU and relatives (and MOVNTQ, which has no alignment rule).
pub(super) fn unaligned(t: &mut Translator<'_>) {
    whole(t, false);
}

/// MOVSS/MOVSD: a load zeroes the rest, a register move merges lane 0.
fn scalar(t: &mut Translator<'_>, lane: Lane) {
    if t.is_memory(0) || t.is_memory(1) {
        let v = t.read_vector(1);
        return t.write_vector(0, v);
    }
    let (a, b) = t.sources();
    let v = t.b.vbin_imm(Op::VBlendImm, lane, a, b, 1);
    t.write_vector(0, v);
}

/// MOVSS.
pub(super) fn scalar_single(t: &mut Translator<'_>) {
    scalar(t, Lane::I32);
}

/// MOVSD.
pub(super) fn scalar_double(t: &mut Translator<'_>) {
    scalar(t, Lane::I64);
}

/// MOVLPS, MOVLPD: the low quadword from or to memory.
pub(super) fn low_half(t: &mut Translator<'_>) {
    if t.is_memory(0) {
        let v = t.read_vector(1);
        return t.write_vector(0, v);
    }
    let (a, b) = t.sources();
    let v = t.b.vbin_imm(Op::VBlendImm, Lane::I64, a, b, 1);
    t.write_vector(0, v);
}

/// MOVHPS, MOVHPD: the high quadword from or to memory.
pub(super) fn high_half(t: &mut Translator<'_>) {
    if t.is_memory(0) {
        let v = t.read_vector(1);
        let high = t.b.vextract(Lane::I64, v, 1);
        return t.write_operand(0, high);
    }
    let (a, b) = t.sources();
    let v = t.b.vbin(Op::VUnpackLo, Lane::I64, a, b);
    t.write_vector(0, v);
}

/// MOVLHPS.
pub(super) fn low_to_high(t: &mut Translator<'_>) {
    let (a, b) = t.sources();
    let v = t.b.vbin(Op::VUnpackLo, Lane::I64, a, b);
    t.write_vector(0, v);
}

/// MOVHLPS.
pub(super) fn high_to_low(t: &mut Translator<'_>) {
    let (a, b) = t.sources();
    let v = t.b.vbin(Op::VUnpackHi, Lane::I64, b, a);
    t.write_vector(0, v);
}

/// MOVD: 32 bits (64 with REX.W) between a general register or memory and a vector register.
pub(super) fn doubleword(t: &mut Translator<'_>) {
    let destination = t.insn.op0_register();
    if destination.is_xmm() || destination.is_mm() {
        let v = t.read_operand(1);
        let v = t.widen_to_vector(v);
        return t.write_vector(0, v);
    }
    let lane = if t.operand_type(0) == Type::I64 { Lane::I64 } else { Lane::I32 };
    let v = t.read_vector(1);
    let v = t.b.vextract(lane, v, 0);
    t.write_operand(0, v);
}

/// MOVQ: 64 bits among vector registers, general registers and memory.
pub(super) fn quadword(t: &mut Translator<'_>) {
    let (destination, source) = (t.insn.op0_register(), t.insn.op1_register());
    if source.is_gpr() || destination.is_gpr() {
        return doubleword(t);
    }
    if destination.is_xmm() && source.is_xmm() {
        let v = t.read_vector(1);
        let zero = t.zero_vector(Type::V128);
        let v = t.b.vbin(Op::VUnpackLo, Lane::I64, v, zero);
        return t.write_vector(0, v);
    }
    let v = t.read_vector(1);
    t.write_vector(0, v);
}

/// MOVQ2DQ.
pub(super) fn mmx_to_xmm(t: &mut Translator<'_>) {
    let v = t.read_vector(1);
    t.write_vector(0, v);
}

/// MOVDQ2Q.
pub(super) fn xmm_to_mmx(t: &mut Translator<'_>) {
    let v = t.read_vector(1);
    t.write_vector(0, v);
}

fn mask(t: &mut Translator<'_>, lane: Lane) {
    let a = t.read_vector(1);
    let v = t.b.push(Inst { a, lane, ..Inst::new(Op::VMoveMask, Type::I32) });
    let v = t.widen(v);
    t.write_reg64(v);
}

/// MOVMSKPS.
pub(super) fn mask_single(t: &mut Translator<'_>) {
    mask(t, Lane::I32);
}

/// MOVMSKPD.
pub(super) fn mask_double(t: &mut Translator<'_>) {
    mask(t, Lane::I64);
}

/// PMOVMSKB.
pub(super) fn mask_byte(t: &mut Translator<'_>) {
    mask(t, Lane::I8);
}

/// PEXTR*, EXTRACTPS: a lane to memory, or zero-extended to a general register.
fn extract(t: &mut Translator<'_>, lane: Lane) {
    let v = t.read_vector(1);
    let bytes = if t.insn.op1_register().is_mm() { 8 } else { 16 };
    let index = u32::from(t.insn.immediate8()) % (bytes / lane.bytes());
    let v = t.b.vextract(lane, v, index);
    if t.is_memory(0) {
        return t.write_operand(0, v);
    }
    let v = t.widen(v);
    t.write_reg64(v);
}

/// PEXTRB.
pub(super) fn extract_byte(t: &mut Translator<'_>) {
    extract(t, Lane::I8);
}

/// PEXTRW.
pub(super) fn extract_word(t: &mut Translator<'_>) {
    extract(t, Lane::I16);
}

/// PEXTRD, EXTRACTPS.
pub(super) fn extract_doubleword(t: &mut Translator<'_>) {
    extract(t, Lane::I32);
}

/// PEXTRQ.
pub(super) fn extract_quadword(t: &mut Translator<'_>) {
    extract(t, Lane::I64);
}

/// PINSR*: a lane from a general register or memory.
fn insert(t: &mut Translator<'_>, lane: Lane) {
    let first = u32::from(t.vector.vex);
    let v = t.read_operand(first + 1);
    let v = t.b.zext(Type::int(lane.bytes()), v);
    let a = t.read_vector(first);
    let bytes = if t.insn.op0_register().is_mm() { 8 } else { 16 };
    let index = u32::from(t.insn.immediate8()) % (bytes / lane.bytes());
    let v = t.b.vinsert(lane, a, v, index);
    t.write_vector(0, v);
}

/// PINSRB.
pub(super) fn insert_byte(t: &mut Translator<'_>) {
    insert(t, Lane::I8);
}

/// PINSRW.
pub(super) fn insert_word(t: &mut Translator<'_>) {
    insert(t, Lane::I16);
}

/// PINSRD.
pub(super) fn insert_doubleword(t: &mut Translator<'_>) {
    insert(t, Lane::I32);
}

/// PINSRQ.
pub(super) fn insert_quadword(t: &mut Translator<'_>) {
    insert(t, Lane::I64);
}

impl Translator<'_> {
    /// Writes I64 `v`, whose upper half is zero where the destination is 32 bits wide, to general register operand 0.
    pub(super) fn write_reg64(&mut self, v: Val) {
        let part = crate::operand::gpr_part(self.insn.op0_register());
        debug_assert!(part.is_some(), "the destination is a general register");
        if let Some(part) = part {
            self.b.put(slots::gpr(part.index), v);
        }
    }
}

//! AVX and AVX2: broadcasts, halves, permutations within lanes, clearing of upper halves.

use rhea_ir::{Lane, Op, Type};

use crate::slots;
use crate::translator::Translator;

fn broadcast(t: &mut Translator<'_>, lane: Lane) {
    let v = t.read_vector(1);
    let ty = t.vector_type();
    let v = t.b.convert(Op::VSplat, ty, lane, 0, v);
    t.write_vector(0, v);
}

/// VPBROADCASTB.
pub(super) fn broadcast_byte(t: &mut Translator<'_>) {
    broadcast(t, Lane::I8);
}

/// VPBROADCASTW.
pub(super) fn broadcast_word(t: &mut Translator<'_>) {
    broadcast(t, Lane::I16);
}

/// VBROADCASTSS, VPBROADCASTD.
pub(super) fn broadcast_doubleword(t: &mut Translator<'_>) {
    broadcast(t, Lane::I32);
}

/// VBROADCASTSD, VPBROADCASTQ.
pub(super) fn broadcast_quadword(t: &mut Translator<'_>) {
    broadcast(t, Lane::I64);
}

/// VBROADCASTF128, VBROADCASTI128.
pub(super) fn broadcast_half(t: &mut Translator<'_>) {
    let half = t.read_vector(1);
    let low = t.resize_vector(Type::V256, half);
    let v = t.b.vbin_imm(Op::VInsertHalf, Lane::None, low, half, 1);
    t.write_vector(0, v);
}

/// VEXTRACTF128, VEXTRACTI128.
pub(super) fn extract_half(t: &mut Translator<'_>) {
    let v = t.read_vector(1);
    let imm = u64::from(t.insn.immediate8() & 1);
    let half = if imm == 0 {
        t.resize_vector(Type::V128, v)
    } else {
        t.b.push(rhea_ir::Inst { a: v, imm, ..rhea_ir::Inst::new(Op::VExtractHalf, Type::V128) })
    };
    t.write_vector(0, half);
}

/// VINSERTF128, VINSERTI128.
pub(super) fn insert_half(t: &mut Translator<'_>) {
    let (a, b) = t.sources();
    let imm = u64::from(t.insn.immediate8() & 1);
    let v = t.b.vbin_imm(Op::VInsertHalf, Lane::None, a, b, imm);
    t.write_vector(0, v);
}

/// VPERMILPS by immediate or by a vector of selectors.
pub(super) fn permute_in_single(t: &mut Translator<'_>) {
    let v = if t.insn.op2_kind() == iced_x86::OpKind::Immediate8 {
        let v = t.read_vector(1);
        t.b.vun_imm(Op::VShuffle32, Lane::I32, v, u64::from(t.insn.immediate8()))
    } else {
        let (a, b) = t.sources();
        t.b.vbin(Op::VPermuteIn, Lane::I32, a, b)
    };
    t.write_vector(0, v);
}

/// VPERMILPD by immediate or by a vector of selectors.
pub(super) fn permute_in_double(t: &mut Translator<'_>) {
    let v = if t.insn.op2_kind() == iced_x86::OpKind::Immediate8 {
        let v = t.read_vector(1);
        let imm = t.useful_imm(Op::VShuffle2, Lane::I64, t.b.ty(v));
        t.b.vbin_imm(Op::VShuffle2, Lane::I64, v, v, imm)
    } else {
        let (a, b) = t.sources();
        t.b.vbin(Op::VPermuteIn, Lane::I64, a, b)
    };
    t.write_vector(0, v);
}

/// Vector registers that exist in the current mode.
fn register_count(t: &Translator<'_>) -> usize {
    if t.is64() { 16 } else { 8 }
}

/// VZEROUPPER.
pub(super) fn zero_upper(t: &mut Translator<'_>) {
    let zero = t.zero_vector(Type::V128);
    for i in 0..register_count(t) {
        let (wide, low) = t.vector.wide[i];
        // A register that the unit has just written through a 128-bit VEX form has a zero upper half.
        if wide.is_some() && low.is_some() && t.b.get(slots::ymm(i)) == wide && t.is_widened(wide) {
            continue;
        }
        t.b.put(slots::ymm_high(i), zero);
        t.vector.wide[i] = (rhea_ir::Val::NONE, rhea_ir::Val::NONE);
    }
}

/// VZEROALL.
pub(super) fn zero_all(t: &mut Translator<'_>) {
    let zero = t.zero_vector(Type::V256);
    for i in 0..register_count(t) {
        t.write_ymm(i, zero);
    }
}

impl Translator<'_> {
    /// Whether `v` is the zero extension of a V128.
    fn is_widened(&self, v: rhea_ir::Val) -> bool {
        let inst = self.b.unit.inst(v);
        inst.op == Op::VResize && self.b.ty(inst.a) == Type::V128
    }
}

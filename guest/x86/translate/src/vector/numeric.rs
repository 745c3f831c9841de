//! Rounding, reciprocal estimates, string comparison, MXCSR.

use iced_x86::Mnemonic;
use rhea_ir::{Inst, Lane, Op, Type, Val};
use rhea_x86_state::flags;
use rhea_x86_state::state::gpr;

use super::convert::rounding_of;
use crate::slots;
use crate::translator::Translator;
use crate::vector_helpers as vh;

fn round(t: &mut Translator<'_>, lane: Lane) {
    let (a, b) = if lane.is_scalar() {
        t.sources()
    } else {
        let v = t.read_vector(1);
        (v, v)
    };
    let imm = t.insn.immediate8();
    let aux = rounding_of(imm) as u8 | imm & 8;
    let ty = t.b.ty(a);
    let v = t.vector_op(Inst { a, b, lane, aux, ..Inst::new(Op::FRound, ty) });
    t.write_vector(0, v);
}

/// ROUNDPS.
pub(super) fn round_packed_single(t: &mut Translator<'_>) {
    round(t, Lane::F32);
}

/// ROUNDPD.
pub(super) fn round_packed_double(t: &mut Translator<'_>) {
    round(t, Lane::F64);
}

/// ROUNDSS.
pub(super) fn round_scalar_single(t: &mut Translator<'_>) {
    round(t, Lane::S32);
}

/// ROUNDSD.
pub(super) fn round_scalar_double(t: &mut Translator<'_>) {
    round(t, Lane::S64);
}

/// Applies a helper on pairs of binary32 to every quadword of a vector.
fn by_quadwords(t: &mut Translator<'_>, helper: u32) {
    let source = t.read_vector(1);
    let ty = t.b.ty(source);
    let mut halves = [Val::NONE; 2];
    for (i, half) in halves.iter_mut().enumerate().take(if ty == Type::V256 { 2 } else { 1 }) {
        let part = if ty == Type::V256 {
            t.b.push(Inst { a: source, imm: i as u64, ..Inst::new(Op::VExtractHalf, Type::V128) })
        } else {
            source
        };
        let low = t.b.vextract(Lane::I64, part, 0);
        let high = t.b.vextract(Lane::I64, part, 1);
        let low = t.helper(helper, &[low]);
        let high = t.helper(helper, &[high]);
        let low = t.widen_to_vector(low);
        let high = t.widen_to_vector(high);
        *half = t.b.vbin(Op::VUnpackLo, Lane::I64, low, high);
    }
    let mut v = halves[0];
    if ty == Type::V256 {
        v = t.resize_vector(Type::V256, v);
        v = t.b.vbin_imm(Op::VInsertHalf, Lane::None, v, halves[1], 1);
    }
    t.write_vector(0, v);
}

/// Applies a helper on pairs of binary32 to lane 0 of the source.
fn by_lane(t: &mut Translator<'_>, helper: u32) {
    let (a, b) = t.sources();
    let lane = t.b.vextract(Lane::I32, b, 0);
    let lane = t.b.zext(Type::I64, lane);
    let result = t.helper(helper, &[lane]);
    let result = t.b.zext(Type::I32, result);
    let v = t.b.vinsert(Lane::I32, a, result, 0);
    t.write_vector(0, v);
}

/// RCPPS.
pub(super) fn reciprocal_packed(t: &mut Translator<'_>) {
    by_quadwords(t, vh::RECIPROCAL);
}

/// RCPSS.
pub(super) fn reciprocal_scalar(t: &mut Translator<'_>) {
    by_lane(t, vh::RECIPROCAL);
}

/// RSQRTPS.
pub(super) fn reciprocal_root_packed(t: &mut Translator<'_>) {
    by_quadwords(t, vh::RECIPROCAL_ROOT);
}

/// RSQRTSS.
pub(super) fn reciprocal_root_scalar(t: &mut Translator<'_>) {
    by_lane(t, vh::RECIPROCAL_ROOT);
}

/// LDMXCSR: goes on in the same unit unless the helper finds the mode changed.
pub(super) fn load_mxcsr(t: &mut Translator<'_>) {
    let v = t.read_operand(0);
    let next = t.c64(t.next_pc);
    t.helper(vh::LOAD_MXCSR, &[v, next]);
}

/// STMXCSR.
pub(super) fn store_mxcsr(t: &mut Translator<'_>) {
    let v = t.helper(vh::READ_MXCSR, &[]);
    t.write_operand(0, v);
}

/// PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM.
pub(super) fn compare_strings(t: &mut Translator<'_>) {
    use Mnemonic as M;
    let mnemonic = t.insn.mnemonic();
    let explicit = !matches!(mnemonic, M::Pcmpistri | M::Vpcmpistri | M::Pcmpistrm | M::Vpcmpistrm);
    let wide = matches!(mnemonic, M::Pcmpestri64 | M::Vpcmpestri64 | M::Pcmpestrm64 | M::Vpcmpestrm64);
    let index = matches!(
        mnemonic,
        M::Pcmpestri | M::Pcmpestri64 | M::Vpcmpestri | M::Vpcmpestri64 | M::Pcmpistri | M::Vpcmpistri
    );
    let b = if t.is_memory(1) { t.load_vector(16, false) } else { t.read_vector(1) };
    let a = t.read_vector(0);
    for (i, v) in [a, a, b, b].into_iter().enumerate() {
        let q = t.b.vextract(Lane::I64, v, (i & 1) as u32);
        t.b.put(slots::scratch(i), q);
    }
    let control = u64::from(t.insn.immediate8()) | u64::from(explicit) << 8 | u64::from(wide) << 9;
    let control = t.c64(control);
    let result = t.helper(vh::COMPARE_STRINGS, &[control]);
    if index {
        let found = t.b.extract(result, 32, 8);
        t.b.put(slots::gpr(gpr::RCX), found);
    } else {
        // The helper has left the mask in the first two scratch words.
        let low = t.b.get(slots::scratch(0));
        let high = t.b.get(slots::scratch(1));
        let low = t.widen_to_vector(low);
        let high = t.widen_to_vector(high);
        let v = t.b.vbin(Op::VUnpackLo, Lane::I64, low, high);
        t.write_xmm(0, v);
    }
    let value = t.b.and_imm(result, flags::ARITHMETIC);
    t.set_flags_value(value);
}

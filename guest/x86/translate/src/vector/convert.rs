//! Conversions between floating point and integers in general or MMX registers, and to half precision.

use rhea_ir::{Convert, Inst, Lane, Op, Rounding, Type};

use crate::translator::Translator;

/// CVTSI2SS, CVTSI2SD.
fn from_integer(t: &mut Translator<'_>, lane: Lane) {
    let first = u32::from(t.vector.vex);
    let b = t.read_operand(first + 1);
    let a = t.read_vector(first);
    let v = t.vector_op(Inst { a, b, lane, ..Inst::new(Op::FFromInt, Type::V128) });
    t.write_vector(0, v);
}

/// CVTSI2SS.
pub(super) fn integer_to_single(t: &mut Translator<'_>) {
    from_integer(t, Lane::S32);
}

/// CVTSI2SD.
pub(super) fn integer_to_double(t: &mut Translator<'_>) {
    from_integer(t, Lane::S64);
}

fn to_integer(t: &mut Translator<'_>, lane: Lane, rounding: Rounding) {
    let a = t.read_vector(1);
    let ty = t.operand_type(0);
    let v = t.vector_op(Inst { a, lane, aux: rounding as u8, ..Inst::new(Op::FToInt, ty) });
    t.float_end();
    t.write_operand(0, v);
}

/// CVTSS2SI.
pub(super) fn single_to_integer(t: &mut Translator<'_>) {
    to_integer(t, Lane::S32, Rounding::Current);
}

/// CVTSD2SI.
pub(super) fn double_to_integer(t: &mut Translator<'_>) {
    to_integer(t, Lane::S64, Rounding::Current);
}

/// CVTTSS2SI.
pub(super) fn single_to_integer_truncated(t: &mut Translator<'_>) {
    to_integer(t, Lane::S32, Rounding::Zero);
}

/// CVTTSD2SI.
pub(super) fn double_to_integer_truncated(t: &mut Translator<'_>) {
    to_integer(t, Lane::S64, Rounding::Zero);
}

/// CVTPI2PS: two lanes converted, the upper two kept.
pub(super) fn mmx_to_single(t: &mut Translator<'_>) {
    let source = t.read_vector(1);
    t.float_begin();
    let converted = t.b.vconvert(Type::V128, Convert::I32ToF32, source, Rounding::Current);
    let old = t.read_vector(0);
    let v = t.b.vbin_imm(Op::VBlendImm, Lane::I64, old, converted, 1);
    t.write_vector(0, v);
}

fn low_to_mmx(t: &mut Translator<'_>, kind: Convert) {
    let source = t.read_vector(1);
    let source = if t.is_memory(1) {
        source
    } else {
        // The upper lanes take no part, so they must not raise anything.
        let zero = t.zero_vector(Type::V128);
        t.b.vbin(Op::VUnpackLo, Lane::I64, source, zero)
    };
    t.float_begin();
    let v = t.b.vconvert(Type::V128, kind, source, Rounding::Current);
    t.write_vector(0, v);
}

/// CVTPS2PI.
pub(super) fn single_to_mmx(t: &mut Translator<'_>) {
    low_to_mmx(t, Convert::F32ToI32);
}

/// CVTTPS2PI.
pub(super) fn single_to_mmx_truncated(t: &mut Translator<'_>) {
    low_to_mmx(t, Convert::F32ToI32Trunc);
}

/// The rounding that an immediate of ROUND* or VCVTPS2PH names: bits 0..=1, or the current one with bit 2.
pub(super) fn rounding_of(imm: u8) -> Rounding {
    match imm & 7 {
        0 => Rounding::Nearest,
        1 => Rounding::Down,
        2 => Rounding::Up,
        3 => Rounding::Zero,
        _ => Rounding::Current,
    }
}

/// VCVTPS2PH.
pub(super) fn single_to_half(t: &mut Translator<'_>) {
    let source = t.read_vector(1);
    if t.is_memory(0) {
        // A store that faults must find the sticky flags as they were.
        let bytes = t.insn.memory_size().size() as u32;
        let addr = t.effective_address(bytes, true);
        let ty = if bytes == 16 { Type::V128 } else { Type::F64 };
        t.load_for_write(ty, addr);
    }
    t.float_begin();
    let v = t.b.vconvert(Type::V128, Convert::F32ToF16, source, rounding_of(t.insn.immediate8()));
    t.write_vector(0, v);
}

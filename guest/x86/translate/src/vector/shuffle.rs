//! Rearrangements that are more than one line of the table.

use rhea_ir::{Inst, Lane, Op, Type};

use crate::translator::Translator;

/// INSERTPS: one lane of the source into one of the destination, then lanes zeroed by a mask.
pub(super) fn insert_single(t: &mut Translator<'_>) {
    let imm = u32::from(t.insn.immediate8());
    let (from, to, zeroed) = (imm >> 6 & 3, imm >> 4 & 3, imm & 0xf);
    let from = if t.is_memory(u32::from(t.vector.vex) + 1) { 0 } else { from };
    let (a, b) = t.sources();
    let v = if zeroed & 1 << to != 0 {
        a
    } else if from == to {
        t.b.vbin_imm(Op::VBlendImm, Lane::I32, a, b, 1 << to)
    } else {
        let lane = t.b.vextract(Lane::I32, b, from);
        t.b.vinsert(Lane::I32, a, lane, to)
    };
    let v = if zeroed == 0 {
        v
    } else {
        let zero = t.zero_vector(Type::V128);
        t.b.vbin_imm(Op::VBlendImm, Lane::I32, v, zero, u64::from(zeroed))
    };
    t.write_vector(0, v);
}

/// MOVDDUP: even quadwords doubled.
pub(super) fn duplicate_double(t: &mut Translator<'_>) {
    let v = t.read_vector(1);
    let v = t.b.vbin(Op::VUnpackLo, Lane::I64, v, v);
    t.write_vector(0, v);
}

fn shuffle32(t: &mut Translator<'_>, selectors: u64) {
    let v = t.read_vector(1);
    let v = t.b.vun_imm(Op::VShuffle32, Lane::I32, v, selectors);
    t.write_vector(0, v);
}

/// MOVSHDUP: odd doublewords doubled.
pub(super) fn duplicate_odd(t: &mut Translator<'_>) {
    shuffle32(t, 0b11_11_01_01);
}

/// MOVSLDUP: even doublewords doubled.
pub(super) fn duplicate_even(t: &mut Translator<'_>) {
    shuffle32(t, 0b10_10_00_00);
}

fn shift_bytes(t: &mut Translator<'_>, op: Op) {
    let a = t.read_vector(u32::from(t.vector.vex));
    let count = u64::from(t.insn.immediate8());
    let v = if count > 15 {
        let ty = t.b.ty(a);
        t.zero_vector(ty)
    } else {
        t.b.vun_imm(op, Lane::I8, a, count)
    };
    t.write_vector(0, v);
}

/// PSLLDQ.
pub(super) fn shift_bytes_left(t: &mut Translator<'_>) {
    shift_bytes(t, Op::VShlBytes);
}

/// PSRLDQ.
pub(super) fn shift_bytes_right(t: &mut Translator<'_>) {
    shift_bytes(t, Op::VShrBytes);
}

/// SHA256RNDS2, with XMM0 implied.
pub(super) fn sha256_rounds(t: &mut Translator<'_>) {
    let (a, b) = t.sources();
    let c = t.read_xmm(0);
    let v = t.b.push(Inst { a, b, c, ..Inst::new(Op::Sha256Rounds, Type::V128) });
    t.write_vector(0, v);
}

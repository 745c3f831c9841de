//! Vector operations that move lanes or look across them.

use rhea_ir::{Inst, Lane, Op, Type};

use crate::lanes::saturate;
use crate::value::{Operands, Value, lane_bits, lanes, mask, signed};

/// Evaluates an operation from [`Op::VShlBytes`] to [`Op::VMultiSad`].
pub(crate) fn evaluate(inst: &Inst, x: &Operands) -> Value {
    let bits = lane_bits(inst.lane);
    let (a, b, imm) = (&x.a, &x.b, inst.imm);
    let by_lane = |f: &dyn Fn(u32) -> u64| Value::from_lanes(inst.ty, bits, f);
    let bit = |i: u32| imm >> (i & 63) & 1 != 0;
    match inst.op {
        Op::VBlendImm => {
            let wrap = if bits == 16 { 8 } else { 64 };
            by_lane(&|i| if bit(i % wrap) { b.lane(bits, i) } else { a.lane(bits, i) })
        }
        Op::VBlendVar => by_lane(&|i| {
            let top = x.c.lane(bits, i) >> (bits - 1) != 0;
            if top { b.lane(bits, i) } else { a.lane(bits, i) }
        }),
        Op::VSplat => by_lane(&|_| a.lane(bits, 0)),
        Op::VExtract => Value::int(a.lane(bits, wrap(imm, x.a_type, bits))).cut(inst.ty),
        Op::VInsert => {
            let mut value = *a;
            value.set_lane(bits, wrap(imm, inst.ty, bits), b.low());
            value
        }
        Op::VFromInt | Op::VResize => a.cut(x.a_type).cut(inst.ty),
        Op::VExtractHalf => Value::from_halves(Type::V128, |_| a.half(imm as u32 & 1)),
        Op::VInsertHalf => {
            let mut value = *a;
            value.set_half(imm as u32 & 1, b.half(0));
            value
        }
        Op::VMoveMask => {
            let top = |i| a.lane(bits, i) >> (bits - 1);
            Value::int((0..lanes(x.a_type, bits)).fold(0, |sum, i| sum | top(i) << i))
        }
        Op::VExtendS => {
            let wide = 8 * u32::from(inst.aux);
            Value::from_lanes(inst.ty, wide, |i| signed(a.lane(bits, i), bits) as u64)
        }
        Op::VExtendU => Value::from_lanes(inst.ty, 8 * u32::from(inst.aux), |i| a.lane(bits, i)),
        Op::VTestZero => test(inst, x, |a, b| a & b),
        Op::VTestCarry => test(inst, x, |a, b| b & !a),
        Op::VMinPos => minimum_position(a),
        Op::VMultiSad => multiple_sums(inst, a, b),
        Op::VPackSS | Op::VPackUS => pack(inst, a, b),
        Op::VUnpackLo | Op::VUnpackHi => unpack(inst, a, b),
        Op::VShlBytes | Op::VShrBytes | Op::VAlign => bytes(inst, a, b),
        _ => permute(inst, a, b),
    }
}

/// A lane number cut to those of `ty`.
fn wrap(imm: u64, ty: Type, bits: u32) -> u32 {
    imm as u32 & (lanes(ty, bits).max(1) - 1)
}

/// Shifts of whole 128-bit halves by bytes.
fn bytes(inst: &Inst, a: &Value, b: &Value) -> Value {
    let count = inst.imm.min(32) as u32 * 8;
    Value::from_halves(inst.ty, |h| {
        let (a, b) = (a.half(h), b.half(h));
        match inst.op {
            Op::VShlBytes => a.checked_shl(count).unwrap_or(0),
            Op::VShrBytes => a.checked_shr(count).unwrap_or(0),
            _ if count == 0 => b,
            _ if count < 128 => b >> count | a << (128 - count),
            _ => a.checked_shr(count - 128).unwrap_or(0),
        }
    })
}

fn unpack(inst: &Inst, a: &Value, b: &Value) -> Value {
    let bits = lane_bits(inst.lane);
    let per_half = 128 / bits;
    let start = if inst.op == Op::VUnpackHi { per_half / 2 } else { 0 };
    Value::from_lanes(inst.ty, bits, |i| {
        let (half, within) = (i / per_half, i % per_half);
        let source = if within % 2 == 0 { a } else { b };
        source.lane(bits, half * per_half + start + within / 2)
    })
}

fn pack(inst: &Inst, a: &Value, b: &Value) -> Value {
    let wide = lane_bits(inst.lane);
    let narrow = wide / 2;
    let per_half = 128 / narrow;
    Value::from_lanes(inst.ty, narrow, |i| {
        let (half, within) = (i / per_half, i % per_half);
        let source = if within < per_half / 2 { a } else { b };
        let lane = half * (per_half / 2) + within % (per_half / 2);
        let value = signed(source.lane(wide, lane), wide);
        if inst.op == Op::VPackSS {
            saturate(value, narrow) as u64
        } else {
            value.clamp(0, mask(narrow) as i64) as u64
        }
    })
}

/// Shuffles and permutations: which lane of which operand each result lane comes from.
fn permute(inst: &Inst, a: &Value, b: &Value) -> Value {
    let imm = inst.imm;
    let field = |i: u32| (imm >> (2 * (i & 31)) & 3) as u32;
    match inst.op {
        Op::VShuffleBytes => Value::from_lanes(inst.ty, 8, |i| {
            let select = b.lane(8, i);
            if select & 0x80 != 0 { 0 } else { a.lane(8, (i & 16) + (select as u32 & 15)) }
        }),
        Op::VShuffle32 => Value::from_lanes(inst.ty, 32, |i| a.lane(32, (i & 4) + field(i & 3))),
        Op::VShuffleLo16 => Value::from_lanes(inst.ty, 16, |i| {
            a.lane(16, if i & 4 == 0 { (i & 8) + field(i & 3) } else { i })
        }),
        Op::VShuffleHi16 => Value::from_lanes(inst.ty, 16, |i| {
            a.lane(16, if i & 4 != 0 { (i & 8) + 4 + field(i & 3) } else { i })
        }),
        Op::VShuffle2 if lane_bits(inst.lane) == 32 => Value::from_lanes(inst.ty, 32, |i| {
            let source = if i & 2 == 0 { a } else { b };
            source.lane(32, (i & 4) + field(i & 3))
        }),
        Op::VShuffle2 => Value::from_lanes(inst.ty, 64, |i| {
            let source = if i & 1 == 0 { a } else { b };
            source.lane(64, (i & 2) + (imm >> i & 1) as u32)
        }),
        Op::VPermute64 => Value::from_lanes(inst.ty, 64, |i| a.lane(64, field(i))),
        Op::VPermute32 => Value::from_lanes(inst.ty, 32, |i| a.lane(32, b.lane(32, i) as u32 & 7)),
        Op::VPermuteHalves => Value::from_halves(inst.ty, |h| {
            let select = imm as u32 >> (4 * h);
            match select & 0xb {
                0 | 1 => a.half(select & 1),
                2 | 3 => b.half(select & 1),
                _ => 0,
            }
        }),
        Op::VPermuteIn if lane_bits(inst.lane) == 32 => {
            Value::from_lanes(inst.ty, 32, |i| a.lane(32, (i & 4) + (b.lane(32, i) as u32 & 3)))
        }
        Op::VPermuteIn => {
            Value::from_lanes(inst.ty, 64, |i| a.lane(64, (i & 2) + (b.lane(64, i) as u32 >> 1 & 1)))
        }
        op => unreachable!("{op:?} is not a shuffle"),
    }
}

/// Whether the combination of the operands is zero in the bits that count.
fn test(inst: &Inst, x: &Operands, combine: impl Fn(u64, u64) -> u64) -> Value {
    let bits = lane_bits(inst.lane);
    let counted = if inst.lane == Lane::None { u64::MAX } else { 1 << (bits - 1) };
    let zero =
        (0..lanes(x.a_type, bits)).all(|i| combine(x.a.lane(bits, i), x.b.lane(bits, i)) & counted == 0);
    Value::int(u64::from(zero))
}

fn minimum_position(a: &Value) -> Value {
    // The first of equal lanes wins: compare lane before index.
    let (lane, index) = (0..8).map(|i| (a.lane(16, i), u64::from(i))).min().unwrap_or_default();
    Value::int(lane | index << 16)
}

/// MPSADBW (Intel SDM vol. 2).
fn multiple_sums(inst: &Inst, a: &Value, b: &Value) -> Value {
    Value::from_lanes(inst.ty, 16, |i| {
        let (half, within) = (i / 8, i % 8);
        let control = inst.imm as u32 >> (3 * half) & 7;
        let (in_a, in_b) = (16 * half + (control & 4) + within, 16 * half + 4 * (control & 3));
        (0..4).map(|j| a.lane(8, in_a + j).abs_diff(b.lane(8, in_b + j))).sum()
    })
}

//! Vector operations that work lane by lane: arithmetic, comparison, shifts.

use rhea_ir::{Inst, Lane, Op, Type};

use crate::value::{Operands, Value, lane_bits, mask, signed};

/// Evaluates an operation from [`Op::VAnd`] to [`Op::VSarVar`].
pub(crate) fn evaluate(inst: &Inst, x: &Operands) -> Value {
    let bits = lane_bits(inst.lane);
    let (a, b) = (&x.a, &x.b);
    let zip = |f: &dyn Fn(u64, u64) -> u64| zip(inst.ty, bits, a, b, f);
    match inst.op {
        Op::VAnd => words(inst.ty, a, b, |a, b| a & b),
        Op::VOr => words(inst.ty, a, b, |a, b| a | b),
        Op::VXor => words(inst.ty, a, b, |a, b| a ^ b),
        Op::VAndNot => words(inst.ty, a, b, |a, b| a & !b),
        Op::VAdd => zip(&|a, b| a.wrapping_add(b)),
        Op::VSub => zip(&|a, b| a.wrapping_sub(b)),
        Op::VAddSatU => zip(&|a, b| (a + b).min(mask(bits))),
        Op::VSubSatU => zip(&|a, b| a.saturating_sub(b)),
        Op::VAvgU => zip(&|a, b| (a + b + 1) >> 1),
        Op::VMinU => zip(&u64::min),
        Op::VMaxU => zip(&u64::max),
        Op::VCmpEq => zip(&|a, b| all_ones(a == b)),
        Op::VMulHiU => zip(&|a, b| (a * b) >> bits),
        Op::VMulEvenU => Value::from_lanes(inst.ty, 64, |i| a.lane(32, 2 * i) * b.lane(32, 2 * i)),
        Op::VMulEvenS => Value::from_lanes(inst.ty, 64, |i| {
            signed(a.lane(32, 2 * i), 32).wrapping_mul(signed(b.lane(32, 2 * i), 32)) as u64
        }),
        Op::VMulAddPairs => mul_add_pairs(inst.ty, a, b),
        Op::VMulAddPairsUS => mul_add_pairs_mixed(inst.ty, a, b),
        Op::VSad => sum_absolute_differences(inst.ty, a, b),
        Op::VHAdd | Op::VHSub | Op::VHAddSat | Op::VHSubSat => horizontal(inst, a, b),
        Op::VShlImm | Op::VShrImm | Op::VSarImm => {
            Value::from_lanes(inst.ty, bits, |i| shift(inst.op, bits, a.lane(bits, i), inst.imm))
        }
        Op::VShl | Op::VShr | Op::VSar => {
            Value::from_lanes(inst.ty, bits, |i| shift(inst.op, bits, a.lane(bits, i), b.low()))
        }
        Op::VShlVar | Op::VShrVar | Op::VSarVar => zip(&|a, b| shift(inst.op, bits, a, b)),
        _ => zip(&|a, b| signed_lane(inst.op, bits, signed(a, bits), signed(b, bits)) as u64),
    }
}

/// Operations on lanes taken as signed.
fn signed_lane(op: Op, bits: u32, a: i64, b: i64) -> i64 {
    match op {
        Op::VAddSatS => saturate(a + b, bits),
        Op::VSubSatS => saturate(a - b, bits),
        Op::VMul => a.wrapping_mul(b),
        Op::VMulHiS => (a * b) >> bits,
        Op::VMulHiRoundS => (a * b + 0x4000) >> 15,
        Op::VMinS => a.min(b),
        Op::VMaxS => a.max(b),
        Op::VAbs => a.wrapping_abs(),
        Op::VSign if b < 0 => a.wrapping_neg(),
        Op::VSign if b == 0 => 0,
        Op::VSign => a,
        Op::VCmpGtS => all_ones(a > b) as i64,
        op => unreachable!("{op:?} is not a lane operation"),
    }
}

fn zip(ty: Type, bits: u32, a: &Value, b: &Value, f: &dyn Fn(u64, u64) -> u64) -> Value {
    Value::from_lanes(ty, bits, |i| f(a.lane(bits, i), b.lane(bits, i)))
}

fn words(ty: Type, a: &Value, b: &Value, f: impl Fn(u64, u64) -> u64) -> Value {
    let mut value = Value::ZERO;
    for (word, (a, b)) in value.0.iter_mut().zip(a.0.into_iter().zip(b.0)) {
        *word = f(a, b);
    }
    value.cut(ty)
}

pub(crate) const fn all_ones(condition: bool) -> u64 {
    if condition { u64::MAX } else { 0 }
}

/// Clamps to a signed integer of `bits` bits.
pub(crate) fn saturate(value: i64, bits: u32) -> i64 {
    let largest = mask(bits - 1) as i64;
    value.clamp(-largest - 1, largest)
}

fn shift(op: Op, bits: u32, lane: u64, count: u64) -> u64 {
    let over = count >= u64::from(bits);
    match op {
        Op::VSarImm | Op::VSar | Op::VSarVar => {
            (signed(lane, bits) >> if over { bits - 1 } else { count as u32 }) as u64
        }
        _ if over => 0,
        Op::VShlImm | Op::VShl | Op::VShlVar => lane << count,
        _ => lane >> count,
    }
}

fn mul_add_pairs(ty: Type, a: &Value, b: &Value) -> Value {
    let product = |i| signed(a.lane(16, i), 16) * signed(b.lane(16, i), 16);
    Value::from_lanes(ty, 32, |i| (product(2 * i) + product(2 * i + 1)) as u64)
}

fn mul_add_pairs_mixed(ty: Type, a: &Value, b: &Value) -> Value {
    let product = |i| a.lane(8, i) as i64 * signed(b.lane(8, i), 8);
    Value::from_lanes(ty, 16, |i| saturate(product(2 * i) + product(2 * i + 1), 16) as u64)
}

fn sum_absolute_differences(ty: Type, a: &Value, b: &Value) -> Value {
    Value::from_lanes(ty, 64, |i| (8 * i..8 * i + 8).map(|j| a.lane(8, j).abs_diff(b.lane(8, j))).sum())
}

fn horizontal(inst: &Inst, a: &Value, b: &Value) -> Value {
    debug_assert!(matches!(inst.lane, Lane::I16 | Lane::I32));
    let bits = lane_bits(inst.lane);
    let per_half = 128 / bits;
    Value::from_lanes(inst.ty, bits, |i| {
        let (half, within) = (i / per_half, i % per_half);
        let source = if within < per_half / 2 { a } else { b };
        let even = half * per_half + 2 * (within % (per_half / 2));
        let (x, y) = (signed(source.lane(bits, even), bits), signed(source.lane(bits, even + 1), bits));
        let result = match inst.op {
            Op::VHAdd => x.wrapping_add(y),
            Op::VHSub => x.wrapping_sub(y),
            Op::VHAddSat => saturate(x + y, bits),
            _ => saturate(x - y, bits),
        };
        result as u64
    })
}

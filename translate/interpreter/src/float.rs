//! Floating point in vector registers and scalars of type F32 and F64.

use rhea_ir::{Convert, FloatCond, Inst, Op, Rounding, Type};
use rhea_softfloat::{
    self as soft, Env, F16, F32, F64, Float, MinMaxRule, Negate, Relation, compare_quiet, compare_signaling,
};

use crate::lanes::all_ones;
use crate::value::{Operands, Value, lane_bits, lanes, signed};

/// A format that fills a lane.
trait LaneFloat: Float {
    const BITS: u32;
    fn from_lane(lane: u64) -> Self;
    fn to_lane(self) -> u64;
}

impl LaneFloat for F16 {
    const BITS: u32 = 16;
    fn from_lane(lane: u64) -> Self {
        F16(lane as u16)
    }
    fn to_lane(self) -> u64 {
        u64::from(self.0)
    }
}

impl LaneFloat for F32 {
    const BITS: u32 = 32;
    fn from_lane(lane: u64) -> Self {
        F32(lane as u32)
    }
    fn to_lane(self) -> u64 {
        u64::from(self.0)
    }
}

impl LaneFloat for F64 {
    const BITS: u32 = 64;
    fn from_lane(lane: u64) -> Self {
        F64(lane)
    }
    fn to_lane(self) -> u64 {
        self.0
    }
}

fn lane<F: LaneFloat>(value: &Value, index: u32) -> F {
    F::from_lane(value.lane(F::BITS, index))
}

/// Evaluates an operation from [`Op::FAdd`] to [`Op::VConvert`], with the environment's flags as they accumulate.
pub(crate) fn evaluate(inst: &Inst, x: &Operands, env: &mut Env) -> Value {
    match (inst.op, lane_bits(inst.lane)) {
        (Op::VConvert, _) => packed_conversion(inst, x, env),
        (Op::FConvert, 32) => replace_lane_0::<F32>(&x.a, soft::convert(lane::<F64>(&x.b, 0), env)),
        (Op::FConvert, _) => replace_lane_0::<F64>(&x.a, soft::convert(lane::<F32>(&x.b, 0), env)),
        (_, 32) => in_format::<F32>(inst, x, env),
        _ => in_format::<F64>(inst, x, env),
    }
}

fn replace_lane_0<F: LaneFloat>(rest: &Value, result: F) -> Value {
    let mut value = *rest;
    value.set_lane(F::BITS, 0, result.to_lane());
    value
}

/// Applies `f` to every lane that the operation works on; the others are those of `a`.
fn each_lane<F: LaneFloat>(inst: &Inst, a: &Value, mut f: impl FnMut(u32) -> u64) -> Value {
    let (mut value, count) =
        if inst.lane.is_scalar() { (*a, 1) } else { (Value::ZERO, lanes(inst.ty, F::BITS)) };
    for index in 0..count {
        value.set_lane(F::BITS, index, f(index));
    }
    value
}

fn in_format<F: LaneFloat>(inst: &Inst, x: &Operands, env: &mut Env) -> Value {
    let binary: fn(F, F, &mut Env) -> F = match inst.op {
        Op::FAdd => soft::add,
        Op::FSub => soft::sub,
        Op::FMul => soft::mul,
        Op::FDiv => soft::div,
        Op::FMin => |a, b, env| soft::min(a, b, MinMaxRule::SecondOperand, env),
        Op::FMax => |a, b, env| soft::max(a, b, MinMaxRule::SecondOperand, env),
        Op::FSqrt => |_, b, env| soft::sqrt(b, env),
        _ => return special::<F>(inst, x, env),
    };
    each_lane::<F>(inst, &x.a, |i| binary(lane(&x.a, i), lane(&x.b, i), env).to_lane())
}

fn special<F: LaneFloat>(inst: &Inst, x: &Operands, env: &mut Env) -> Value {
    match inst.op {
        Op::FCmp => {
            let condition = FloatCond::ALL[usize::from(inst.aux & 15)];
            let flip = inst.aux & FloatCond::FLIP_SIGNALLING != 0;
            let signaling = condition.signals_on_quiet_nan() != flip;
            each_lane::<F>(inst, &x.a, |i| {
                let relation = relation::<F>(lane(&x.a, i), lane(&x.b, i), signaling, env);
                all_ones(condition.holds(relation))
            })
        }
        Op::FRel => Value::int(relation::<F>(lane(&x.a, 0), lane(&x.b, 0), inst.aux & 1 != 0, env).into()),
        Op::FTest => {
            let relation = relation::<F>(lane(&x.a, 0), lane(&x.b, 0), inst.aux >> 4 & 1 != 0, env);
            Value::int(FloatCond::ALL[usize::from(inst.aux & 15)].holds(relation).into())
        }
        Op::FMulAdd => each_lane::<F>(inst, &x.a, |i| {
            let alternate = inst.aux & 4 != 0 && i & 1 == 0;
            let negate = Negate { product: inst.aux & 1 != 0, addend: (inst.aux & 2 != 0) != alternate };
            soft::fma::<F>(lane(&x.a, i), lane(&x.b, i), lane(&x.c, i), negate, env).to_lane()
        }),
        Op::FAddSub => each_lane::<F>(inst, &x.a, |i| {
            let operation = if i & 1 == 0 { soft::sub } else { soft::add };
            operation(lane::<F>(&x.a, i), lane(&x.b, i), env).to_lane()
        }),
        Op::FHAdd | Op::FHSub => {
            let operation = if inst.op == Op::FHAdd { soft::add } else { soft::sub };
            let per_half = 128 / F::BITS;
            each_lane::<F>(inst, &x.a, |i| {
                let (half, within) = (i / per_half, i % per_half);
                let source = if within < per_half / 2 { &x.a } else { &x.b };
                let even = half * per_half + 2 * (within % (per_half / 2));
                operation(lane::<F>(source, even), lane(source, even + 1), env).to_lane()
            })
        }
        Op::FDot => dot_product::<F>(inst, x, env),
        Op::FRound => {
            let rounding = rounding(inst.aux & 7, env);
            let signal = inst.aux & 8 == 0;
            each_lane::<F>(inst, &x.a, |i| {
                soft::round_to_integral::<F>(lane(&x.b, i), rounding, signal, env).to_lane()
            })
        }
        Op::FToInt => {
            let rounding = rounding(inst.aux, env);
            let value = soft::to_signed::<F>(lane(&x.a, 0), inst.ty.bits(), rounding, env);
            Value::int(value as u64).cut(inst.ty)
        }
        Op::FFromInt => replace_lane_0::<F>(&x.a, soft::from_i64(signed(x.b.low(), x.b_type.bits()), env)),
        op => unreachable!("{op:?} is not a floating-point operation"),
    }
}

/// The rounding an attribute names.
pub(crate) fn rounding(aux: u8, env: &Env) -> soft::Rounding {
    const DOWN: u8 = Rounding::Down as u8;
    const UP: u8 = Rounding::Up as u8;
    const ZERO: u8 = Rounding::Zero as u8;
    const NEAREST: u8 = Rounding::Nearest as u8;
    match aux {
        NEAREST => soft::Rounding::NearestEven,
        DOWN => soft::Rounding::Down,
        UP => soft::Rounding::Up,
        ZERO => soft::Rounding::TowardZero,
        _ => env.rounding,
    }
}

/// The relation code of [`Op::FRel`].
pub(crate) fn relation<F: Float>(a: F, b: F, signaling: bool, env: &mut Env) -> u8 {
    let relation = if signaling { compare_signaling(a, b, env) } else { compare_quiet(a, b, env) };
    match relation {
        Relation::Greater => 0,
        Relation::Less => 1,
        Relation::Equal => 2,
        Relation::Unordered => 3,
    }
}

/// DPPS and DPPD (Intel SDM vol. 2): products of the selected lanes, added in pairs, spread to the selected lanes.
fn dot_product<F: LaneFloat>(inst: &Inst, x: &Operands, env: &mut Env) -> Value {
    let per_half = 128 / F::BITS;
    let zero = F::from_lane(0);
    let mut result = Value::ZERO;
    for half in 0..lanes(inst.ty, 128) {
        let mut products = [zero; 4];
        for (i, product) in (0..per_half).zip(&mut products) {
            let at = half * per_half + i;
            if inst.imm >> (4 + i) & 1 != 0 {
                *product = soft::mul(lane(&x.a, at), lane(&x.b, at), env);
            }
        }
        let [p0, p1, p2, p3] = products;
        let mut total = soft::add(p0, p1, env);
        if per_half == 4 {
            let upper = soft::add(p2, p3, env);
            total = soft::add(total, upper, env);
        }
        for i in 0..per_half {
            let selected = inst.imm >> i & 1 != 0;
            result.set_lane(F::BITS, half * per_half + i, if selected { total.to_lane() } else { 0 });
        }
    }
    result
}

/// [`Op::VConvert`]. As on x86, binary16 sources are never taken as zero when denormal, and binary16 results never
/// flushed to zero (Intel SDM vol. 2, VCVTPH2PS and VCVTPS2PH).
fn packed_conversion(inst: &Inst, x: &Operands, env: &mut Env) -> Value {
    let a = &x.a;
    let by = |count, from: u32, to: u32, f: &mut dyn FnMut(u64) -> u64| {
        let mut value = Value::ZERO;
        for index in 0..count {
            value.set_lane(to, index, f(a.lane(from, index)));
        }
        value
    };
    // The wider side of the conversion gives the count.
    let wide = |ty: Type, bits| lanes(ty, bits).max(1);
    let to_i32 = |truncate: bool, env: &Env| if truncate { soft::Rounding::TowardZero } else { env.rounding };
    match Convert::ALL[usize::from(inst.aux)] {
        Convert::I32ToF32 => {
            by(wide(inst.ty, 32), 32, 32, &mut |v| soft::from_i64::<F32>(signed(v, 32), env).to_lane())
        }
        Convert::I32ToF64 => {
            by(wide(inst.ty, 64), 32, 64, &mut |v| soft::from_i64::<F64>(signed(v, 32), env).to_lane())
        }
        kind @ (Convert::F32ToI32 | Convert::F32ToI32Trunc) => {
            let rounding = to_i32(kind == Convert::F32ToI32Trunc, env);
            let mut convert = |v| soft::to_signed(F32::from_lane(v), 32, rounding, env) as u64;
            by(wide(inst.ty, 32), 32, 32, &mut convert)
        }
        kind @ (Convert::F64ToI32 | Convert::F64ToI32Trunc) => {
            let rounding = to_i32(kind == Convert::F64ToI32Trunc, env);
            let mut convert = |v| soft::to_signed(F64::from_lane(v), 32, rounding, env) as u64;
            by(wide(x.a_type, 64), 64, 32, &mut convert)
        }
        Convert::F32ToF64 => {
            let mut convert = |v| soft::convert::<F32, F64>(F32::from_lane(v), env).to_lane();
            by(wide(inst.ty, 64), 32, 64, &mut convert)
        }
        Convert::F64ToF32 => {
            let mut convert = |v| soft::convert::<F64, F32>(F64::from_lane(v), env).to_lane();
            by(wide(x.a_type, 64), 64, 32, &mut convert)
        }
        Convert::F16ToF32 => {
            let mut exact = Env { denormals_are_zero: false, ..*env };
            let mut convert = |v| soft::convert::<F16, F32>(F16::from_lane(v), &mut exact).to_lane();
            let value = by(wide(inst.ty, 32), 16, 32, &mut convert);
            env.flags = exact.flags;
            value
        }
        Convert::F32ToF16 => {
            let mut exact = Env { flush_to_zero: false, rounding: rounding(inst.imm as u8, env), ..*env };
            let mut convert = |v| soft::convert::<F32, F16>(F32::from_lane(v), &mut exact).to_lane();
            let value = by(wide(x.a_type, 32), 32, 16, &mut convert);
            env.flags = exact.flags;
            value
        }
    }
}

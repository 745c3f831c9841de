//! Operations on the x87 double extended format.

use rhea_ir::{Inst, Op, Type};
use rhea_softfloat::{self as soft, Env, F32, F64, F80};

use crate::float::{relation, rounding};
use crate::value::{Operands, Value, mask, signed};

fn unpack(value: &Value) -> F80 {
    F80 { significand: value.0[0], sign_exponent: value.0[1] as u16 }
}

fn pack(value: F80) -> Value {
    Value([value.significand, u64::from(value.sign_exponent), 0, 0])
}

/// Evaluates an operation from [`Op::XFromParts`] to [`Op::XRel`], with the environment's flags as they accumulate.
pub(crate) fn evaluate(inst: &Inst, x: &Operands, env: &mut Env) -> Value {
    const SIGN: u16 = 0x8000;
    let (a, b) = (unpack(&x.a), unpack(&x.b));
    let int = x.a.low();
    let result = match inst.op {
        Op::XSignificand => return Value::int(a.significand),
        Op::XSignExponent => return Value::int(a.sign_exponent.into()),
        Op::XToF32 => return Value::int(soft::convert::<F80, F32>(a, env).0.into()),
        Op::XToF64 => return Value::int(soft::convert::<F80, F64>(a, env).0),
        Op::XToInt => {
            let bits = inst.ty.bits();
            let value = soft::to_signed(a, bits, rounding(inst.aux, env), env);
            return Value::int(value as u64 & mask(bits));
        }
        Op::XRel => return Value::int(relation(a, b, inst.aux & 1 != 0, env).into()),
        Op::XFromParts => F80 { significand: int, sign_exponent: x.b.low() as u16 },
        Op::XFromF32 => soft::convert(F32(int as u32), env),
        Op::XFromF64 => soft::convert(F64(int), env),
        Op::XFromInt => soft::from_i64(signed(int, Type::I64.bits()), env),
        Op::XAdd => soft::add(a, b, env),
        Op::XSub => soft::sub(a, b, env),
        Op::XMul => soft::mul(a, b, env),
        Op::XDiv => soft::div(a, b, env),
        Op::XSqrt => soft::sqrt(a, env),
        Op::XAbs => F80 { sign_exponent: a.sign_exponent & !SIGN, ..a },
        Op::XNeg => F80 { sign_exponent: a.sign_exponent ^ SIGN, ..a },
        Op::XRound => soft::round_to_integral(a, env.rounding, true, env),
        Op::XScale => soft::x87::scale(a, b, env),
        op => unreachable!("{op:?} is not an x87 operation"),
    };
    pack(result)
}

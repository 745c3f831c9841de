//! The x87 operations that are not IEEE 754's (Intel SDM vol. 2): partial remainders, FSCALE and FXTRACT here, the
//! transcendental functions in their own module.

mod extended_precision;
mod transcendental;

pub use transcendental::{Ranged, arctan_of_ratio, cos, exp2_minus_1, sin, tan, y_log2_x, y_log2_x_plus_1};

use crate::env::{Env, Flags, Rounding};
use crate::format::{F80, Kind, infinity, note_denormals, operand, zero};
use crate::integer::{from_i64, round_magnitude};
use crate::nan::{invalid, propagate};
use crate::remainder::{Checked, check, finish, reduce};
use crate::round::{Wide, round_to};

/// What FPREM and FPREM1 deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialRemainder {
    /// The new top of stack.
    pub value: F80,
    /// The low three bits of the quotient (status word bits C0, C3, C1 from the highest), zero if incomplete.
    pub quotient: u8,
    /// Whether another round is needed (C2).
    pub incomplete: bool,
}

/// FPREM: partial remainder with a truncated quotient.
pub fn partial_remainder(dividend: F80, divisor: F80, env: &mut Env) -> PartialRemainder {
    partial(dividend, divisor, false, env)
}

/// FPREM1: partial remainder with the quotient rounded to nearest even.
pub fn partial_remainder_nearest(dividend: F80, divisor: F80, env: &mut Env) -> PartialRemainder {
    partial(dividend, divisor, true, env)
}

fn partial(dividend: F80, divisor: F80, nearest: bool, env: &mut Env) -> PartialRemainder {
    let (x, y) = (operand(dividend, env), operand(divisor, env));
    let complete = |value, quotient| PartialRemainder { value, quotient, incomplete: false };
    match check(&x, &y, env) {
        Checked::Done(value) => complete(value, 0),
        Checked::Dividend => complete(finish(env, Wide::new(x.sign, x.exp, x.sig)), 0),
        Checked::Divide => {
            let distance = i64::from(x.exp) - i64::from(y.exp);
            if distance < 64 {
                let reduced = reduce(&x, &y, distance, nearest);
                return complete(finish(env, reduced.value), (reduced.quotient & 7) as u8);
            }
            // The manual leaves the size of a partial step open between 32 and 63 exponent steps. Taking
            // 32 + distance mod 32 leaves a multiple of 32 for the rounds that follow.
            let steps = 32 + distance % 32;
            let reduced = reduce(&x, &y, steps, false);
            PartialRemainder { value: finish(env, reduced.value), quotient: 0, incomplete: true }
        }
    }
}

/// FSCALE: `value × 2^trunc(power)`.
pub fn scale(value: F80, power: F80, env: &mut Env) -> F80 {
    let (x, y) = (operand(value, env), operand(power, env));
    if x.is_nan() || y.is_nan() {
        return propagate(env, &[x, y]);
    }
    if y.is_infinite() && (if y.sign { x.is_infinite() } else { x.is_zero() }) {
        return invalid(env);
    }
    note_denormals(env, &[x, y]);
    if y.is_infinite() {
        return if y.sign { zero(x.sign) } else { infinity(x.sign) };
    }
    match x.kind {
        Kind::Zero => return zero(x.sign),
        Kind::Infinity => return infinity(x.sign),
        _ => {}
    }
    // Beyond ±2^17 every value has overflowed or underflowed.
    let limit = 1 << 17;
    let magnitude = match y.kind {
        Kind::Zero => 0,
        _ if y.exp >= 17 => limit,
        _ => round_magnitude(&y, Rounding::TowardZero).magnitude as i32,
    };
    let exp = x.exp + if y.sign { -magnitude } else { magnitude };
    round_to(env, 64, Wide::new(x.sign, exp, x.sig))
}

/// FXTRACT: `(exponent, significand)` as values, the significand in ±[1, 2). A zero gives −∞ and divide-by-zero.
pub fn extract(value: F80, env: &mut Env) -> (F80, F80) {
    let x = operand(value, env);
    match x.kind {
        Kind::QuietNan | Kind::SignalingNan | Kind::Unsupported => {
            let nan = propagate(env, &[x]);
            (nan, nan)
        }
        Kind::Infinity => (infinity(false), value),
        Kind::Zero => {
            env.raise(Flags::DIVIDE_BY_ZERO);
            (infinity(true), value)
        }
        Kind::Finite => {
            note_denormals(env, &[x]);
            let significand = F80 { sign_exponent: u16::from(x.sign) << 15 | 0x3fff, significand: x.sig };
            (from_i64(i64::from(x.exp), env), significand)
        }
    }
}

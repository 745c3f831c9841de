//! Remainders, which are always exact.

use crate::env::Env;
use crate::format::{Float, Unpacked, note_denormals, operand, zero};
use crate::nan::{invalid, propagate};
use crate::round::{Wide, round_to};

/// `a − b × n` with `n` the integer nearest to `a ÷ b`, ties to even (IEEE 754-2019, 5.3.1).
pub fn remainder<F: Float>(a: F, b: F, env: &mut Env) -> F {
    full_remainder(a, b, true, env)
}

/// `a − b × n` with `n` the quotient `a ÷ b` truncated: C's `fmod`.
pub fn truncated_remainder<F: Float>(a: F, b: F, env: &mut Env) -> F {
    full_remainder(a, b, false, env)
}

fn full_remainder<F: Float>(a: F, b: F, nearest: bool, env: &mut Env) -> F {
    let (x, y) = (operand(a, env), operand(b, env));
    match check(&x, &y, env) {
        Checked::Done(result) => result,
        Checked::Dividend => finish(env, Wide::new(x.sign, x.exp, x.sig)),
        Checked::Divide => {
            let reduced = reduce(&x, &y, i64::from(x.exp) - i64::from(y.exp), nearest);
            finish(env, reduced.value)
        }
    }
}

pub(crate) enum Checked<F> {
    /// A special case.
    Done(F),
    /// The dividend itself (the divisor is infinite).
    Dividend,
    /// Both operands are finite and nonzero.
    Divide,
}

/// Deals with special operands.
pub(crate) fn check<F: Float>(x: &Unpacked, y: &Unpacked, env: &mut Env) -> Checked<F> {
    if x.is_nan() || y.is_nan() {
        return Checked::Done(propagate(env, &[*x, *y]));
    }
    if x.is_infinite() || y.is_zero() {
        return Checked::Done(invalid(env));
    }
    note_denormals(env, &[*x, *y]);
    if x.is_zero() {
        return Checked::Done(zero(x.sign));
    }
    if y.is_infinite() { Checked::Dividend } else { Checked::Divide }
}

/// A remainder and the low bits of its quotient.
pub(crate) struct Reduced {
    pub value: Wide,
    pub quotient: u64,
}

/// Divides the significand of `x` times `2^steps` by that of `y`; the remainder has the exponent `x.exp − steps`.
/// With `nearest` the quotient is rounded to nearest even, else truncated. `steps` may be negative.
pub(crate) fn reduce(x: &Unpacked, y: &Unpacked, steps: i64, nearest: bool) -> Reduced {
    let divisor = u128::from(y.sig);
    let unit_exp = (i64::from(x.exp) - steps) as i32;
    // Below half of the divisor nothing is ever subtracted.
    if steps < -1 || (steps < 0 && !nearest) {
        return Reduced { value: Wide::new(x.sign, x.exp, x.sig), quotient: 0 };
    }
    let (mut rest, mut quotient, unit) = if steps < 0 {
        // x lies in [y/4, y): count in units of half the divisor's last place.
        (u128::from(x.sig), 0, 1)
    } else {
        let mut rest = u128::from(x.sig);
        let mut quotient = (rest / divisor) as u64;
        rest %= divisor;
        let mut left = steps;
        while left > 0 {
            let count = left.min(63) as u32;
            rest <<= count;
            quotient = (quotient << count).wrapping_add((rest / divisor) as u64);
            rest %= divisor;
            left -= i64::from(count);
        }
        (rest, quotient, 0)
    };
    let mut sign = x.sign;
    let whole = divisor << unit;
    if nearest && (2 * rest > whole || (2 * rest == whole && quotient & 1 != 0)) {
        rest = whole - rest;
        sign = !sign;
        quotient = quotient.wrapping_add(1);
    }
    // `rest` counts units of 2^(unit_exp − unit − 63).
    let value = Wide { sign, exp: unit_exp - unit + 64, sig: rest };
    Reduced { value: if rest == 0 { Wide { sign: x.sign, ..value } } else { value }, quotient }
}

/// Packs an exact remainder; a zero has the sign it carries, the dividend's.
pub(crate) fn finish<F: Float>(env: &mut Env, value: Wide) -> F {
    if value.sig == 0 {
        return zero(value.sign);
    }
    round_to(env, F::PRECISION, value.normalized())
}

//! Conversions between formats, rounding to integral values, and scaling by a power of two.

use crate::env::Flags;
use crate::env::{Env, Rounding};
use crate::format::{Float, infinity, note_denormals, operand, zero};
use crate::integer::{Integral, round_magnitude};
use crate::nan::propagate;
use crate::round::{Wide, round_to};

/// Converts between formats, rounding where the target is narrower. A NaN keeps the leading bits of its payload and
/// is quieted.
pub fn convert<F: Float, G: Float>(value: F, env: &mut Env) -> G {
    let x = operand(value, env);
    if x.is_nan() {
        return propagate(env, &[x]);
    }
    if F::CONVERSION_RAISES_DENORMAL {
        note_denormals(env, &[x]);
    }
    if x.is_infinite() {
        return infinity(x.sign);
    }
    if x.is_zero() {
        return zero(x.sign);
    }
    round_to(env, G::PRECISION, Wide::new(x.sign, x.exp, x.sig))
}

/// Rounds to an integral value in the same format. `signal_inexact` says whether a change raises
/// [`Flags::INEXACT`] (FRNDINT and RISC-V FROUNDNX do; ROUNDSD with its bit 3 set does not).
///
/// The denormal flag is raised only in the extended format, as FRNDINT does and ROUNDSS does not.
pub fn round_to_integral<F: Float>(value: F, rounding: Rounding, signal_inexact: bool, env: &mut Env) -> F {
    let x = operand(value, env);
    if x.is_nan() {
        return propagate(env, &[x]);
    }
    if F::IS_EXTENDED {
        note_denormals(env, &[x]);
    }
    if x.is_zero() {
        return zero(x.sign);
    }
    // From 2^63 on every value is integral, since no format here has more than 64 bits of precision.
    if x.is_infinite() || x.exp >= 63 {
        return value;
    }
    let Integral { magnitude, inexact, up } = round_magnitude(&x, rounding);
    if inexact && signal_inexact {
        env.raise(Flags::INEXACT);
    }
    env.rounded_up = up;
    if magnitude == 0 {
        return zero(x.sign);
    }
    // The rounded value has at most the precision of the operand: assembling it is exact.
    let shift = magnitude.leading_zeros() - 64;
    let sig = (magnitude as u64) << shift;
    F::assemble(x.sign, (63 - shift as i32 + F::EMAX) as u32, sig)
}

/// `value × 2^power` with one rounding.
pub fn scale<F: Float>(value: F, power: i32, env: &mut Env) -> F {
    let x = operand(value, env);
    if x.is_nan() {
        return propagate(env, &[x]);
    }
    note_denormals(env, &[x]);
    if x.is_infinite() {
        return infinity(x.sign);
    }
    if x.is_zero() {
        return zero(x.sign);
    }
    // Beyond ±2^17 every value of every format has overflowed or underflowed.
    let power = power.clamp(-(1 << 17), 1 << 17);
    round_to(env, F::PRECISION, Wide::new(x.sign, x.exp + power, x.sig))
}

//! The one place where results are rounded, overflow, underflow and are flushed.

use crate::env::{Env, Flags, Rounding, Tininess};
use crate::format::{Float, emin, infinity, special_exp, zero};

/// An exact or sticky intermediate result: the value is `sig / 2^127 * 2^exp`. Bit 127 of `sig` is set unless the
/// value is zero; bit 0 is the OR of all bits below it. Exponents stay far within an `i32`: operands and scale factors
/// bound them by 2^18.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wide {
    pub sign: bool,
    pub exp: i32,
    pub sig: u128,
}

impl Wide {
    /// From a 64-bit significand with the value `sig / 2^63 * 2^exp`.
    pub fn new(sign: bool, exp: i32, sig: u64) -> Wide {
        Wide { sign, exp, sig: u128::from(sig) << 64 }
    }

    /// Shifts the top bit of a nonzero significand to bit 127.
    pub fn normalized(self) -> Wide {
        let shift = self.sig.leading_zeros();
        if shift == 128 {
            return self;
        }
        Wide { exp: self.exp - shift as i32, sig: self.sig << shift, ..self }
    }
}

/// `value >> shift`, with everything shifted out kept as a sticky lowest bit.
pub(crate) fn shift_right_sticky(value: u128, shift: u32) -> u128 {
    match shift {
        0 => value,
        1..=127 => (value >> shift) | u128::from(value << (128 - shift) != 0),
        _ => u128::from(value != 0),
    }
}

/// A significand cut to `kept` top bits.
struct Rounded {
    /// The kept bits in place; the lower bits are zero. Zero with `carry` set means 2^128.
    sig: u128,
    carry: bool,
    inexact: bool,
    up: bool,
}

fn round_bits(sig: u128, kept: u32, sign: bool, rounding: Rounding) -> Rounded {
    let unit = 1u128 << (128 - kept);
    let rest = sig & (unit - 1);
    let truncated = sig - rest;
    let half = unit >> 1;
    let up = rest != 0
        && match rounding {
            Rounding::NearestEven => rest > half || (rest == half && truncated & unit != 0),
            Rounding::NearestAway => rest >= half,
            Rounding::TowardZero => false,
            Rounding::Down => sign,
            Rounding::Up => !sign,
        };
    let (sig, carry) = if up { truncated.overflowing_add(unit) } else { (truncated, false) };
    Rounded { sig, carry, inexact: rest != 0, up }
}

/// How far an unmasked x87 overflow or underflow moves the exponent (Intel SDM vol. 1, 8.5.4).
const X87_EXPONENT_WRAP: i32 = 24576;

/// Rounds a nonzero `value` to `precision` bits in the format `F`, in the direction of the environment.
pub(crate) fn round_to<F: Float>(env: &mut Env, precision: u32, value: Wide) -> F {
    debug_assert!(value.sig >> 127 == 1, "significand not normalized");
    if value.exp < emin::<F>() {
        return round_subnormal(env, precision, value);
    }
    let rounded = round_bits(value.sig, precision, value.sign, env.rounding);
    let exp = value.exp + i32::from(rounded.carry);
    let sig = if rounded.carry { 1 << 127 } else { rounded.sig };
    if exp > F::EMAX {
        return overflow(env, precision, Wide { exp, sig, ..value }, &rounded);
    }
    finish(env, value.sign, (exp + F::EMAX) as u32, sig, &rounded)
}

/// Rounds to the precision of `F`, or for the extended format to that of x87 precision control.
pub(crate) fn round_arithmetic<F: Float>(env: &mut Env, value: Wide) -> F {
    let precision = if F::IS_EXTENDED { env.precision.bits() } else { F::PRECISION };
    round_to(env, precision, value)
}

fn finish<F: Float>(env: &mut Env, sign: bool, biased_exp: u32, sig: u128, rounded: &Rounded) -> F {
    if rounded.inexact {
        env.raise(Flags::INEXACT);
    }
    env.rounded_up = rounded.up;
    F::assemble(sign, biased_exp, (sig >> 64) as u64)
}

fn overflow<F: Float>(env: &mut Env, precision: u32, value: Wide, rounded: &Rounded) -> F {
    env.raise(Flags::OVERFLOW);
    if F::IS_EXTENDED && !env.masked(Flags::OVERFLOW) {
        let wrapped = value.exp - X87_EXPONENT_WRAP;
        if wrapped <= F::EMAX {
            return finish(env, value.sign, (wrapped + F::EMAX) as u32, value.sig, rounded);
        }
        // FSCALE by a huge amount: beyond even the wrapped range, an infinity is delivered.
        env.raise(Flags::INEXACT);
        env.rounded_up = true;
        return infinity(value.sign);
    }
    env.raise(Flags::INEXACT);
    let to_infinity = match env.rounding {
        Rounding::NearestEven | Rounding::NearestAway => true,
        Rounding::TowardZero => false,
        Rounding::Down => value.sign,
        Rounding::Up => !value.sign,
    };
    env.rounded_up = to_infinity;
    if to_infinity {
        infinity(value.sign)
    } else {
        F::assemble(value.sign, special_exp::<F>() - 1, u64::MAX << (64 - precision))
    }
}

/// Rounds a value below the smallest normal number of `F`.
fn round_subnormal<F: Float>(env: &mut Env, precision: u32, value: Wide) -> F {
    let unbounded = round_bits(value.sig, precision, value.sign, env.rounding);
    let tiny = match env.tininess {
        Tininess::BeforeRounding => true,
        Tininess::AfterRounding => value.exp + i32::from(unbounded.carry) < emin::<F>(),
    };
    if tiny && env.masked(Flags::UNDERFLOW) && env.flush_to_zero && !F::IS_EXTENDED {
        env.raise(Flags::UNDERFLOW);
        if env.flush_is_inexact {
            env.raise(Flags::INEXACT);
        }
        return zero(value.sign);
    }
    if tiny && !env.masked(Flags::UNDERFLOW) {
        env.raise(Flags::UNDERFLOW);
        if F::IS_EXTENDED {
            let wrapped = value.exp + X87_EXPONENT_WRAP + i32::from(unbounded.carry);
            if wrapped < emin::<F>() {
                // FSCALE by a huge amount: below even the wrapped range, a zero is delivered.
                env.raise(Flags::INEXACT);
                env.rounded_up = false;
                return zero(value.sign);
            }
            let sig = if unbounded.carry { 1 << 127 } else { unbounded.sig };
            return finish(env, value.sign, (wrapped + F::EMAX) as u32, sig, &unbounded);
        }
    }
    let shift = (emin::<F>() - value.exp) as u32;
    let rounded = round_bits(shift_right_sticky(value.sig, shift), precision, value.sign, env.rounding);
    if tiny && rounded.inexact {
        env.raise(Flags::UNDERFLOW);
    }
    // The shifted significand has a clear top bit; rounding may carry into it, which is the smallest normal number.
    let biased_exp = (rounded.sig >> 127) as u32;
    finish(env, value.sign, biased_exp, rounded.sig, &rounded)
}

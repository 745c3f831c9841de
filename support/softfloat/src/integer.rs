//! Conversions to and from integers.

use crate::env::{Env, Flags, OutOfRange, Rounding};
use crate::format::{Float, Unpacked, operand, zero};
use crate::round::{Wide, round_to};

/// A finite magnitude rounded to an integer.
pub(crate) struct Integral {
    /// At most 2^64, which only a value below 2^64 rounded up reaches.
    pub magnitude: u128,
    pub inexact: bool,
    pub up: bool,
}

/// Rounds a finite nonzero value below 2^64 in magnitude.
pub(crate) fn round_magnitude(value: &Unpacked, rounding: Rounding) -> Integral {
    debug_assert!(value.exp < 64);
    // Fixed point with 64 fraction bits; what lies below is sticky.
    let shift = (63 - value.exp) as u32;
    let fixed = crate::round::shift_right_sticky(u128::from(value.sig) << 64, shift);
    let (whole, fraction) = (fixed >> 64, fixed as u64);
    let half = 1u64 << 63;
    let up = fraction != 0
        && match rounding {
            Rounding::NearestEven => fraction > half || (fraction == half && whole & 1 != 0),
            Rounding::NearestAway => fraction >= half,
            Rounding::TowardZero => false,
            Rounding::Down => value.sign,
            Rounding::Up => !value.sign,
        };
    Integral { magnitude: whole + u128::from(up), inexact: fraction != 0, up }
}

/// Converts to a signed integer of `bits` (1 to 64) bits. Out of range, NaN included, raises [`Flags::INVALID`] alone
/// and delivers what [`Env::out_of_range`] says.
pub fn to_signed<F: Float>(value: F, bits: u32, rounding: Rounding, env: &mut Env) -> i64 {
    let largest = (1u64 << (bits - 1)) - 1;
    let smallest = -(largest as i64) - 1;
    match integer(value, rounding, u128::from(largest), u128::from(largest) + 1, env) {
        Ok((false, magnitude)) => magnitude as i64,
        Ok((true, magnitude)) => (magnitude as i64).wrapping_neg(),
        Err(Outside::Nan) => match env.out_of_range {
            OutOfRange::Indefinite => smallest,
            OutOfRange::SaturateNanMax => largest as i64,
            OutOfRange::SaturateNanZero => 0,
        },
        Err(Outside::Below) => smallest,
        Err(Outside::Above) if env.out_of_range == OutOfRange::Indefinite => smallest,
        Err(Outside::Above) => largest as i64,
    }
}

/// Converts to an unsigned integer of `bits` (1 to 64) bits. Out of range as for [`to_signed`]; a negative value that
/// rounds to zero is in range.
pub fn to_unsigned<F: Float>(value: F, bits: u32, rounding: Rounding, env: &mut Env) -> u64 {
    let largest = u64::MAX >> (64 - bits);
    match integer(value, rounding, u128::from(largest), 0, env) {
        Ok((_, magnitude)) => magnitude as u64,
        Err(Outside::Nan) if env.out_of_range == OutOfRange::SaturateNanZero => 0,
        Err(Outside::Below) if env.out_of_range != OutOfRange::Indefinite => 0,
        Err(_) => largest,
    }
}

enum Outside {
    Nan,
    Below,
    Above,
}

/// Rounds to an integer and checks its range: `Ok((sign, magnitude))` with the magnitude at most `largest` if
/// positive and at most `smallest` if negative.
fn integer<F: Float>(
    value: F,
    rounding: Rounding,
    largest: u128,
    smallest: u128,
    env: &mut Env,
) -> Result<(bool, u128), Outside> {
    let x = operand(value, env);
    if x.is_nan() {
        env.raise(Flags::INVALID);
        return Err(Outside::Nan);
    }
    if x.is_zero() {
        return Ok((false, 0));
    }
    let limit = if x.sign { smallest } else { largest };
    let rounded = (!x.is_infinite() && x.exp < 64).then(|| round_magnitude(&x, rounding));
    match rounded {
        Some(Integral { magnitude, inexact, up }) if magnitude <= limit => {
            if inexact {
                env.raise(Flags::INEXACT);
            }
            env.rounded_up = up;
            Ok((x.sign, magnitude))
        }
        _ => {
            env.raise(Flags::INVALID);
            Err(if x.sign { Outside::Below } else { Outside::Above })
        }
    }
}

/// Converts a signed integer.
pub fn from_i64<F: Float>(value: i64, env: &mut Env) -> F {
    from_magnitude(value < 0, value.unsigned_abs(), env)
}

/// Converts an unsigned integer.
pub fn from_u64<F: Float>(value: u64, env: &mut Env) -> F {
    from_magnitude(false, value, env)
}

fn from_magnitude<F: Float>(sign: bool, magnitude: u64, env: &mut Env) -> F {
    if magnitude == 0 {
        return zero(false);
    }
    round_to(env, F::PRECISION, Wide::new(sign, 63, magnitude).normalized())
}

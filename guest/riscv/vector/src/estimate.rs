//! Classes, and the estimates of reciprocals to seven bits (vector specification, "Vector Floating-Point Reciprocal
//! Square-Root Estimate Instruction" and "Vector Floating-Point Reciprocal Estimate Instruction").

use rhea_softfloat::{Env, Flags, Rounding};

use crate::float::FloatElement;

/// Significands of 1/√x by the lowest bit of the exponent and the leading six bits of the fraction.
const ROOTS: [u8; 128] = [
    52, 51, 50, 48, 47, 46, 44, 43, 42, 41, 40, 39, 38, 36, 35, 34, 33, 32, 31, 30, 30, 29, 28, 27, 26, 25,
    24, 23, 23, 22, 21, 20, 19, 19, 18, 17, 16, 16, 15, 14, 14, 13, 12, 12, 11, 10, 10, 9, 9, 8, 7, 7, 6, 6,
    5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 127, 125, 123, 121, 119, 118, 116, 114, 113, 111, 109, 108, 106, 105, 103,
    102, 100, 99, 97, 96, 95, 93, 92, 91, 90, 88, 87, 86, 85, 84, 83, 82, 80, 79, 78, 77, 76, 75, 74, 73, 72,
    71, 70, 70, 69, 68, 67, 66, 65, 64, 63, 63, 62, 61, 60, 59, 59, 58, 57, 56, 56, 55, 54, 53,
];

/// Significands of 1/x by the leading seven bits of the fraction.
const RECIPROCALS: [u8; 128] = [
    127, 125, 123, 121, 119, 117, 116, 114, 112, 110, 109, 107, 105, 104, 102, 100, 99, 97, 96, 94, 93, 91,
    90, 88, 87, 85, 84, 83, 81, 80, 79, 77, 76, 75, 74, 72, 71, 70, 69, 68, 66, 65, 64, 63, 62, 61, 60, 59,
    58, 57, 56, 55, 54, 53, 52, 51, 50, 49, 48, 47, 46, 45, 44, 43, 42, 41, 40, 40, 39, 38, 37, 36, 35, 35,
    34, 33, 32, 31, 31, 30, 29, 28, 28, 27, 26, 25, 25, 24, 23, 23, 22, 21, 21, 20, 19, 19, 18, 17, 17, 16,
    15, 15, 14, 14, 13, 12, 12, 11, 11, 10, 9, 9, 8, 8, 7, 7, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0,
];

/// A number's fields.
struct Fields {
    sign: bool,
    exponent: u64,
    fraction: u64,
}

fn fields<E: FloatElement>(x: u64) -> Fields {
    Fields {
        sign: x >> (E::BITS - 1) & 1 != 0,
        exponent: x >> E::FRACTION & special::<E>(),
        fraction: x & ((1 << E::FRACTION) - 1),
    }
}

/// The exponent field of infinities and NaNs.
const fn special<E: FloatElement>() -> u64 {
    (1 << (E::BITS - 1 - E::FRACTION)) - 1
}

fn pack<E: FloatElement>(sign: bool, exponent: u64, fraction: u64) -> u64 {
    u64::from(sign) << (E::BITS - 1) | exponent << E::FRACTION | fraction
}

fn canonical_nan<E: FloatElement>() -> u64 {
    pack::<E>(false, special::<E>(), 1 << (E::FRACTION - 1))
}

/// The class as one of ten bits (unprivileged specification, "Single-Precision Floating-Point Classify Instruction").
pub(crate) fn class<E: FloatElement>(x: u64) -> u64 {
    let Fields { sign, exponent, fraction } = fields::<E>(x);
    let magnitude = match (exponent, fraction) {
        (0, 0) => 0,
        (0, _) => 1,
        (e, _) if e != special::<E>() => 2,
        (_, 0) => 3,
        (_, f) => return if f >> (E::FRACTION - 1) == 0 { 1 << 8 } else { 1 << 9 },
    };
    1 << if sign { 3 - magnitude } else { 4 + magnitude }
}

/// NaN operands: quiet or not, the canonical NaN.
fn nan<E: FloatElement>(fraction: u64, env: &mut Env) -> u64 {
    if fraction >> (E::FRACTION - 1) == 0 {
        env.flags |= Flags::INVALID;
    }
    canonical_nan::<E>()
}

/// A subnormal number with its fraction shifted until the leading bit is the implicit one: exponent (zero or
/// negative) and fraction.
fn normalized<E: FloatElement>(exponent: u64, fraction: u64) -> (i64, u64) {
    if exponent != 0 {
        return (exponent as i64, fraction);
    }
    let zeros = fraction.leading_zeros() - (64 - E::FRACTION);
    (-i64::from(zeros), fraction << (zeros + 1) & ((1 << E::FRACTION) - 1))
}

/// 1/√x to seven bits.
pub(crate) fn reciprocal_root<E: FloatElement>(x: u64, env: &mut Env) -> u64 {
    let Fields { sign, exponent, fraction } = fields::<E>(x);
    if exponent == special::<E>() && fraction != 0 {
        return nan::<E>(fraction, env);
    }
    if exponent == 0 && fraction == 0 {
        env.flags |= Flags::DIVIDE_BY_ZERO;
        return pack::<E>(sign, special::<E>(), 0);
    }
    if sign {
        env.flags |= Flags::INVALID;
        return canonical_nan::<E>();
    }
    if exponent == special::<E>() {
        return 0;
    }
    let (exponent, fraction) = normalized::<E>(exponent, fraction);
    let index = (exponent & 1) << 6 | (fraction >> (E::FRACTION - 6)) as i64;
    let significand = ROOTS.get(index as usize).copied().unwrap_or_default();
    let bias = special::<E>() as i64 / 2;
    let result = (3 * bias - 1 - exponent) >> 1;
    pack::<E>(false, result as u64, u64::from(significand) << (E::FRACTION - 7))
}

/// 1/x to seven bits.
pub(crate) fn reciprocal<E: FloatElement>(x: u64, env: &mut Env) -> u64 {
    let Fields { sign, exponent, fraction } = fields::<E>(x);
    if exponent == special::<E>() && fraction != 0 {
        return nan::<E>(fraction, env);
    }
    if exponent == special::<E>() {
        return pack::<E>(sign, 0, 0);
    }
    if exponent == 0 && fraction == 0 {
        env.flags |= Flags::DIVIDE_BY_ZERO;
        return pack::<E>(sign, special::<E>(), 0);
    }
    let (exponent, fraction) = normalized::<E>(exponent, fraction);
    if exponent < -1 {
        // Too small a number: its reciprocal overflows.
        env.flags |= Flags::OVERFLOW | Flags::INEXACT;
        let infinite = match env.rounding {
            Rounding::NearestEven | Rounding::NearestAway => true,
            Rounding::Up => !sign,
            Rounding::Down => sign,
            Rounding::TowardZero => false,
        };
        let infinity = pack::<E>(sign, special::<E>(), 0);
        return if infinite { infinity } else { infinity - 1 };
    }
    let index = (fraction >> (E::FRACTION - 7)) as usize;
    let significand = u64::from(RECIPROCALS.get(index).copied().unwrap_or_default()) << (E::FRACTION - 7);
    let bias = special::<E>() as i64 / 2;
    // From -1 to 2 × bias.
    let result = 2 * bias - 1 - exponent;
    if result > 0 {
        return pack::<E>(sign, result as u64, significand);
    }
    // Subnormal: the implicit bit becomes one of the fraction.
    let shifted = (significand >> 1 | 1 << (E::FRACTION - 1)) >> -result;
    pack::<E>(sign, 0, shifted)
}

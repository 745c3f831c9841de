//! Floating point with 128-bit significands, for the inner steps of the transcendental functions.
//!
//! Results are truncated, not rounded: each step errs by less than 2^-125 of its value, far below the 2^-64 of the
//! extended format even after the sixty or so steps of a series. What is lost is kept as a sticky lowest bit, so that
//! an inexact value is never mistaken for an exact one.

use crate::round::{Wide, shift_right_sticky};

pub(super) const ONE: Wide = Wide { sign: false, exp: 0, sig: 1 << 127 };

/// A positive constant `sig / 2^127 × 2^exp`.
pub(super) const fn constant(exp: i32, sig: u128) -> Wide {
    Wide { sign: false, exp, sig }
}

pub(super) fn negate(x: Wide) -> Wide {
    Wide { sign: !x.sign, ..x }
}

/// `x × 2^power`.
pub(super) fn scaled(x: Wide, power: i32) -> Wide {
    if x.sig == 0 { x } else { Wide { exp: x.exp + power, ..x } }
}

pub(super) fn small(value: u64) -> Wide {
    Wide::new(false, 63, value).normalized()
}

pub(super) fn multiply(x: Wide, y: Wide) -> Wide {
    let sign = x.sign ^ y.sign;
    if x.sig == 0 || y.sig == 0 {
        return Wide { sign, exp: 0, sig: 0 };
    }
    let split = |sig: u128| (sig >> 64, sig & u128::from(u64::MAX));
    let ((a, b), (c, d)) = (split(x.sig), split(y.sig));
    let (ad, bc, bd) = (a * d, b * c, b * d);
    let middle = (ad & u128::from(u64::MAX)) + (bc & u128::from(u64::MAX)) + (bd >> 64);
    let sig = a * c + (ad >> 64) + (bc >> 64) + (middle >> 64);
    let rest = middle as u64 | bd as u64;
    Wide { sign, exp: x.exp + y.exp + 1, sig: sig | u128::from(rest != 0) }.normalized()
}

pub(super) fn sum(x: Wide, y: Wide) -> Wide {
    if x.sig == 0 {
        return y;
    }
    if y.sig == 0 {
        return x;
    }
    let (big, little) = if (x.exp, x.sig) >= (y.exp, y.sig) { (x, y) } else { (y, x) };
    let distance = big.exp.abs_diff(little.exp);
    let high = shift_right_sticky(big.sig, 1);
    let low = shift_right_sticky(little.sig, distance.saturating_add(1));
    let sig = if big.sign == little.sign { high + low } else { high - low };
    Wide { sign: big.sign, exp: big.exp + 1, sig }.normalized()
}

pub(super) fn difference(x: Wide, y: Wide) -> Wide {
    sum(x, negate(y))
}

/// `x ÷ y` for nonzero `y`.
pub(super) fn divide(x: Wide, y: Wide) -> Wide {
    let sign = x.sign ^ y.sign;
    if x.sig == 0 {
        return Wide { sign, exp: 0, sig: 0 };
    }
    let divisor = y.sig >> 1;
    let mut rest = x.sig >> 1;
    let mut sig = 0u128;
    for _ in 0..128 {
        sig <<= 1;
        if rest >= divisor {
            rest -= divisor;
            sig |= 1;
        }
        rest <<= 1;
    }
    Wide { sign, exp: x.exp - y.exp, sig: sig | u128::from(rest != 0) }.normalized()
}

/// `x ÷ divisor` for a small nonzero divisor.
pub(super) fn divide_small(x: Wide, divisor: u64) -> Wide {
    Wide { sig: x.sig / u128::from(divisor), ..x }.normalized()
}

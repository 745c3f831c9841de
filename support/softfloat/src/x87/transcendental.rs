//! F2XM1, FYL2X, FYL2XP1, FPATAN, FSIN, FCOS and FPTAN (Intel SDM vol. 1, 8.3.6 to 8.3.10, and vol. 2).
//!
//! Each is computed from its series with 128-bit significands and rounded once in the direction of the environment,
//! so that results are within 0.501 units in the last place. Processors promise one unit, and differ among
//! themselves. As on them, the trigonometric functions reduce their operand by a π of 66 bits, precision control has
//! no effect, and every result that is not a special case counts as inexact, even where it happens to be exact.

use super::extended_precision::{
    ONE, constant, difference, divide, divide_small, multiply, negate, scaled, small, sum,
};
use crate::env::{Env, Flags};
use crate::format::{F80, Kind, Unpacked, infinity, note_denormals, operand, zero};
use crate::nan::{invalid, propagate};
use crate::round::{Wide, round_to};

const LN_2: Wide = constant(-1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af);
const LOG2_E: Wide = constant(0, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e89);
const PI: Wide = constant(1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1);
/// √2 to the precision of a significand: where FYL2X splits the range of its logarithm.
const SQRT_2: u64 = 0xb504_f333_f9de_6484;
/// arctan(k/8).
const ARCTAN_EIGHTHS: [Wide; 9] = [
    constant(0, 0),
    constant(-4, 0xfead_d4d5_617b_6e32_c897_989f_3e88_8ef8),
    constant(-3, 0xfadb_afc9_6406_eb15_6dc7_9ef5_f7a2_17e6),
    constant(-2, 0xb7b0_ca0f_26f7_8473_8aa3_2122_dcfe_4483),
    constant(-2, 0xed63_382b_0dda_7b45_6fe4_45ec_bc3a_8d03),
    constant(-1, 0x8f00_5d5e_f7f5_9f9b_5c83_5e16_65c4_3748),
    constant(-1, 0xa4bc_7d19_34f7_0924_19a8_7f2a_457d_ac9f),
    constant(-1, 0xb805_3e2b_c231_9e73_cb2d_a552_10a4_443d),
    constant(-1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1),
];

fn widen(x: &Unpacked) -> Wide {
    Wide::new(x.sign, x.exp, x.sig)
}

/// Rounds a nonzero result that is never regarded as exact.
fn deliver(value: Wide, env: &mut Env) -> F80 {
    let result = round_to(env, 64, value);
    env.raise(Flags::INEXACT);
    result
}

/// As [`deliver`], for a value known to be irrational: what the truncated steps left as zeros is not.
fn deliver_irrational(value: Wide, env: &mut Env) -> F80 {
    deliver(Wide { sig: value.sig | 1, ..value }, env)
}

/// F2XM1: `2^x − 1` for `x` from −1 to 1. Beyond, where the manual leaves the result open, the operand comes back.
pub fn exp2_minus_1(value: F80, env: &mut Env) -> F80 {
    let x = operand(value, env);
    match x.kind {
        Kind::QuietNan | Kind::SignalingNan | Kind::Unsupported => return propagate(env, &[x]),
        Kind::Zero => return value,
        Kind::Infinity if x.sign => return F80 { sign_exponent: 0xbfff, significand: 1 << 63 },
        Kind::Infinity => return value,
        Kind::Finite => note_denormals(env, &[x]),
    }
    if x.exp >= 0 {
        // ±1 is exact, and what lies beyond is out of range.
        let half = x.sign && x.exp == 0 && x.sig == 1 << 63;
        env.raise(Flags::INEXACT);
        return if half { F80 { sign_exponent: 0xbffe, significand: 1 << 63 } } else { value };
    }
    // e^t − 1 = t (1 + t/2 (1 + t/3 (1 + …))) with t = x ln 2, |t| < 0.7: 0.7^32/32! < 2^-130.
    let t = multiply(widen(&x), LN_2);
    let series = (2..=32).rev().fold(ONE, |inner, n| sum(ONE, multiply(divide_small(t, n), inner)));
    deliver_irrational(multiply(t, series), env)
}

/// `2 artanh(z) / ln 2` for |z| ≤ 1/3.
fn log2_of_ratio(z: Wide) -> Wide {
    // artanh z = z (1 + z²/3 + z⁴/5 + …), by Horner from the term that is below 2^-128.
    let square = multiply(z, z);
    let series = (0..40u64)
        .rev()
        .fold(constant(0, 0), |inner, n| sum(divide_small(ONE, 2 * n + 1), multiply(square, inner)));
    scaled(multiply(multiply(z, series), LOG2_E), 1)
}

/// FYL2X: `y × log2(x)`.
pub fn y_log2_x(x: F80, y: F80, env: &mut Env) -> F80 {
    let (x, y) = (operand(x, env), operand(y, env));
    if x.is_nan() || y.is_nan() {
        return propagate(env, &[x, y]);
    }
    let one = x.kind == Kind::Finite && !x.sign && x.exp == 0 && x.sig == 1 << 63;
    if (x.sign && !x.is_zero())
        || (x.is_zero() && y.is_zero())
        || (x.is_infinite() && y.is_zero())
        || (one && y.is_infinite())
    {
        return invalid(env);
    }
    if x.is_zero() {
        if !y.is_infinite() {
            env.raise(Flags::DIVIDE_BY_ZERO);
        }
        return infinity(!y.sign);
    }
    note_denormals(env, &[x, y]);
    let below_one = x.kind == Kind::Finite && x.exp < 0;
    if x.is_infinite() || y.is_infinite() {
        return infinity(y.sign ^ below_one);
    }
    if one || y.is_zero() {
        return zero(y.sign ^ below_one);
    }
    // x = m × 2^e with m between √½ and √2; log2 m = 2 artanh((m − 1)/(m + 1)) / ln 2.
    let e = x.exp + i32::from(x.sig > SQRT_2);
    let m = Wide::new(false, x.exp - e, x.sig);
    let whole = Wide { sign: e < 0, ..small(u64::from(e.unsigned_abs())) };
    if x.sig == 1 << 63 {
        return deliver(multiply(whole, widen(&y)), env);
    }
    let fraction = log2_of_ratio(divide(difference(m, ONE), sum(m, ONE)));
    let log = if e == 0 { fraction } else { sum(whole, fraction) };
    deliver_irrational(multiply(log, widen(&y)), env)
}

/// FYL2XP1: `y × log2(x + 1)`. From −1 down, where the manual leaves the result open, `x` comes back.
pub fn y_log2_x_plus_1(x: F80, y: F80, env: &mut Env) -> F80 {
    let value = x;
    let (x, y) = (operand(x, env), operand(y, env));
    if x.is_nan() || y.is_nan() {
        return propagate(env, &[x, y]);
    }
    if (x.is_infinite() && (x.sign || y.is_zero())) || (x.is_zero() && y.is_infinite()) {
        return invalid(env);
    }
    note_denormals(env, &[x, y]);
    let sign = x.sign ^ y.sign;
    if x.is_infinite() || y.is_infinite() {
        return infinity(sign);
    }
    if x.is_zero() || y.is_zero() {
        return zero(sign);
    }
    if x.sign && x.exp >= 0 {
        env.raise(Flags::INEXACT);
        return value;
    }
    let x = widen(&x);
    let log = if x.exp < -1 {
        // log2(1 + x) = 2 artanh(x/(2 + x)) / ln 2; |x| < 1/2 keeps |x/(2 + x)| within 1/3.
        log2_of_ratio(divide(x, sum(x, scaled(ONE, 1))))
    } else {
        let above = sum(x, ONE);
        let e = above.exp;
        let m = Wide { exp: 0, ..above };
        // m lies in [1, 2): (m − 1)/(m + 1) is at most 1/3.
        let fraction = log2_of_ratio(divide(difference(m, ONE), sum(m, ONE)));
        let whole = Wide { sign: e < 0, ..small(u64::from(e.unsigned_abs())) };
        sum(whole, fraction)
    };
    deliver(multiply(log, widen(&y)), env)
}

/// arctan(r) for 0 < r ≤ 1.
fn arctan(r: Wide) -> Wide {
    // arctan r = arctan(k/8) + arctan((r − k/8)/(1 + r k/8)) with k/8 nearest to r: the rest is at most 1/16.
    let eighths = if r.exp < -4 { 0 } else { ((r.sig >> (123 - r.exp)) + 1) >> 1 } as usize;
    let (rest, start) = if eighths == 0 {
        (r, ARCTAN_EIGHTHS[0])
    } else {
        let node = scaled(small(eighths as u64), -3);
        let rest = divide(difference(r, node), sum(ONE, multiply(r, node)));
        (rest, ARCTAN_EIGHTHS[eighths])
    };
    let square = negate(multiply(rest, rest));
    let series = (0..18u64)
        .rev()
        .fold(constant(0, 0), |inner, n| sum(divide_small(ONE, 2 * n + 1), multiply(square, inner)));
    sum(start, multiply(rest, series))
}

/// FPATAN: the angle of the point `(x, y)`, from −π to π.
pub fn arctan_of_ratio(x: F80, y: F80, env: &mut Env) -> F80 {
    let (x, y) = (operand(x, env), operand(y, env));
    if x.is_nan() || y.is_nan() {
        return propagate(env, &[x, y]);
    }
    note_denormals(env, &[x, y]);
    let signed = |value: Wide| Wide { sign: y.sign, ..value };
    let no_angle = y.is_zero() || (x.is_infinite() && !y.is_infinite());
    if no_angle {
        return if x.sign { deliver_irrational(signed(PI), env) } else { zero(y.sign) };
    }
    if x.is_zero() || (y.is_infinite() && !x.is_infinite()) {
        return deliver_irrational(signed(scaled(PI, -1)), env);
    }
    if x.is_infinite() {
        let quarter = scaled(PI, -2);
        let angle = if x.sign { multiply(quarter, small(3)) } else { quarter };
        return deliver_irrational(signed(angle), env);
    }
    let magnitude = |value: &Unpacked| Wide { sign: false, ..widen(value) };
    let (over, under) = (magnitude(&y), magnitude(&x));
    let steep = (over.exp, over.sig) > (under.exp, under.sig);
    let ratio = if steep { divide(under, over) } else { divide(over, under) };
    if !steep && !x.sign && ratio.exp < -16_400 {
        // So small that the angle is the ratio, exact or not.
        return deliver(signed(ratio), env);
    }
    let acute = arctan(ratio);
    let angle = match (steep, x.sign) {
        (false, false) => acute,
        (false, true) => difference(PI, acute),
        (true, false) => difference(scaled(PI, -1), acute),
        (true, true) => sum(scaled(PI, -1), acute),
    };
    deliver_irrational(signed(angle), env)
}

/// π × 2^64 cut to 66 bits, the value x87 reduces by.
const PI_66: u128 = 0x3_243f_6a88_85a3_08d3;

/// An angle reduced to at most π/4 around a multiple of π/2.
struct Angle {
    /// The distance from the multiple.
    rest: Wide,
    /// The multiple, modulo 4.
    quadrant: u8,
}

/// Reduces a finite nonzero value below 2^63.
fn reduce_angle(x: &Unpacked) -> Angle {
    if x.exp < -1 {
        return Angle { rest: widen(x), quadrant: 0 };
    }
    // Fixed point with 65 fraction bits makes π/2 the integer PI_66. The operand is sig × 2^(exp − 63), so that it
    // counts sig × 2^(exp + 2) units.
    let mut rest = u128::from(x.sig);
    let mut quadrant = 0u128;
    let mut left = (x.exp + 2) as u32;
    loop {
        quadrant += rest / PI_66;
        rest %= PI_66;
        if left == 0 {
            break;
        }
        // The rest is below 2^66: 60 more bits fit. Shifting the quotient by two bits or more clears it modulo 4.
        let count = left.min(60);
        quadrant = if count >= 2 { 0 } else { quadrant << count };
        rest <<= count;
        left -= count;
    }
    let over = 2 * rest > PI_66;
    if over {
        rest = PI_66 - rest;
        quadrant += 1;
    }
    let quadrant = (quadrant & 3) as u8;
    let rest = Wide { sign: x.sign ^ over, exp: 127 - 65, sig: rest }.normalized();
    Angle { rest, quadrant: if x.sign { (4 - quadrant) & 3 } else { quadrant } }
}

/// sin(r) for |r| ≤ π/4.
fn sine(r: Wide) -> Wide {
    multiply(r, alternating(r, 1))
}

/// cos(r) for |r| ≤ π/4.
fn cosine(r: Wide) -> Wide {
    alternating(r, 0)
}

/// `1 − r²/((f+1)(f+2)) (1 − r²/((f+3)(f+4)) (…))` with `f` = `first`.
fn alternating(r: Wide, first: u64) -> Wide {
    let square = negate(multiply(r, r));
    (0..16u64).rev().fold(ONE, |inner, n| {
        let divisor = (first + 2 * n + 1) * (first + 2 * n + 2);
        sum(ONE, multiply(divide_small(square, divisor), inner))
    })
}

/// A trigonometric result: `None` if the operand is out of range, ±2^63 or beyond (C2 is set and the stack left).
pub type Ranged<T> = Option<T>;

enum Trigonometric {
    Special(Ranged<F80>),
    Zero,
    Angle(Angle),
}

fn trigonometric(x: &Unpacked, env: &mut Env) -> Trigonometric {
    match x.kind {
        Kind::QuietNan | Kind::SignalingNan | Kind::Unsupported => {
            Trigonometric::Special(Some(propagate(env, &[*x])))
        }
        Kind::Infinity => Trigonometric::Special(Some(invalid(env))),
        Kind::Zero => Trigonometric::Zero,
        Kind::Finite if x.exp >= 63 => Trigonometric::Special(None),
        Kind::Finite => {
            note_denormals(env, &[*x]);
            Trigonometric::Angle(reduce_angle(x))
        }
    }
}

/// The sine of an angle plus `quarters` right angles.
fn turned_sine(angle: &Angle, quarters: u8, env: &mut Env) -> F80 {
    let quadrant = (angle.quadrant + quarters) & 3;
    let value = if quadrant & 1 == 0 { sine(angle.rest) } else { cosine(angle.rest) };
    if value.sig == 0 {
        return zero(false);
    }
    let value = if quadrant & 2 != 0 { negate(value) } else { value };
    deliver_irrational(value, env)
}

const ONE_F80: F80 = F80 { sign_exponent: 0x3fff, significand: 1 << 63 };

/// FSIN.
pub fn sin(value: F80, env: &mut Env) -> Ranged<F80> {
    let x = operand(value, env);
    match trigonometric(&x, env) {
        Trigonometric::Special(result) => result,
        Trigonometric::Zero => Some(value),
        Trigonometric::Angle(angle) => Some(turned_sine(&angle, 0, env)),
    }
}

/// FCOS.
pub fn cos(value: F80, env: &mut Env) -> Ranged<F80> {
    let x = operand(value, env);
    match trigonometric(&x, env) {
        Trigonometric::Special(result) => result,
        Trigonometric::Zero => Some(ONE_F80),
        Trigonometric::Angle(angle) => Some(turned_sine(&angle, 1, env)),
    }
}

/// FPTAN, without the 1.0 it pushes. FSINCOS is [`sin`] and [`cos`].
pub fn tan(value: F80, env: &mut Env) -> Ranged<F80> {
    let x = operand(value, env);
    match trigonometric(&x, env) {
        Trigonometric::Special(result) => result,
        Trigonometric::Zero => Some(value),
        Trigonometric::Angle(angle) => {
            let (sine, cosine) = (sine(angle.rest), cosine(angle.rest));
            let odd = angle.quadrant & 1 != 0;
            let value = match (odd, sine.sig == 0) {
                (false, true) => return Some(zero(x.sign)),
                (true, true) => return Some(infinity(x.sign)),
                (false, false) => divide(sine, cosine),
                (true, false) => negate(divide(cosine, sine)),
            };
            Some(deliver_irrational(value, env))
        }
    }
}

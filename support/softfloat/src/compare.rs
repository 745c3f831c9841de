//! Comparison, minimum and maximum.

use std::cmp::Ordering;

use crate::env::{Env, Flags};
use crate::format::{Float, Kind, Unpacked, note_denormals, operand};
use crate::nan::propagate;

/// How two values compare (IEEE 754-2019, 5.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relation {
    /// `a < b`.
    Less,
    /// `a = b`; zeros of either sign are equal.
    Equal,
    /// `a > b`.
    Greater,
    /// One of them is a NaN or an unsupported encoding.
    Unordered,
}

/// Compares; only a signaling NaN or an unsupported encoding is invalid (UCOMISD, FUCOM, RISC-V FEQ).
pub fn compare_quiet<F: Float>(a: F, b: F, env: &mut Env) -> Relation {
    compare(a, b, false, env)
}

/// Compares; any NaN is invalid (COMISD, FCOM, RISC-V FLT and FLE).
pub fn compare_signaling<F: Float>(a: F, b: F, env: &mut Env) -> Relation {
    compare(a, b, true, env)
}

fn compare<F: Float>(a: F, b: F, signaling: bool, env: &mut Env) -> Relation {
    let (x, y) = (operand(a, env), operand(b, env));
    if x.is_nan() || y.is_nan() {
        if signaling || x.kind != Kind::QuietNan && x.is_nan() || y.kind != Kind::QuietNan && y.is_nan() {
            env.raise(Flags::INVALID);
        }
        return Relation::Unordered;
    }
    note_denormals(env, &[x, y]);
    match order(&x, &y) {
        Ordering::Less => Relation::Less,
        Ordering::Equal => Relation::Equal,
        Ordering::Greater => Relation::Greater,
    }
}

/// Orders two values that are not NaN.
fn order(x: &Unpacked, y: &Unpacked) -> Ordering {
    if x.is_zero() && y.is_zero() {
        return Ordering::Equal;
    }
    let key = |value: &Unpacked| match value.kind {
        Kind::Zero => (i32::MIN, 0),
        Kind::Infinity => (i32::MAX, 0),
        _ => (value.exp, value.sig),
    };
    match (x.sign, y.sign) {
        (false, true) => Ordering::Greater,
        (true, false) => Ordering::Less,
        (false, false) => key(x).cmp(&key(y)),
        (true, true) => key(y).cmp(&key(x)),
    }
}

/// What minimum and maximum do with NaNs and with zeros of different sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MinMaxRule {
    /// x86 MINPS and MAXPS: the second operand if either is a NaN (any NaN is invalid) or if both are zero.
    SecondOperand,
    /// IEEE 754-2019 minimumNumber (RISC-V FMIN): the number where one operand is a NaN; −0 below +0.
    Number,
    /// IEEE 754-2008 minNum (Arm FMINNM): as `Number` for quiet NaNs, but a signaling NaN gives a NaN.
    Number2008,
    /// IEEE 754-2019 minimum (Arm FMIN): NaN if either is; −0 below +0.
    Propagate,
}

/// The smaller of `a` and `b`. Operands come out as they went in, but under denormals-are-zero as zeros.
pub fn min<F: Float>(a: F, b: F, rule: MinMaxRule, env: &mut Env) -> F {
    select(a, b, rule, true, env)
}

/// The larger of `a` and `b`. Operands come out as they went in, but under denormals-are-zero as zeros.
pub fn max<F: Float>(a: F, b: F, rule: MinMaxRule, env: &mut Env) -> F {
    select(a, b, rule, false, env)
}

fn select<F: Float>(a: F, b: F, rule: MinMaxRule, want_less: bool, env: &mut Env) -> F {
    let (x, y) = (operand(a, env), operand(b, env));
    let flushed =
        |value: F, seen: &Unpacked| if seen.is_zero() { crate::format::zero(seen.sign) } else { value };
    let (from_a, from_b) = (flushed(a, &x), flushed(b, &y));
    if x.is_nan() || y.is_nan() {
        let signaling = [x, y].iter().any(|v| matches!(v.kind, Kind::SignalingNan | Kind::Unsupported));
        if signaling || rule == MinMaxRule::SecondOperand {
            env.raise(Flags::INVALID);
        }
        let both = x.is_nan() && y.is_nan();
        return match rule {
            MinMaxRule::SecondOperand => from_b,
            MinMaxRule::Propagate => propagate(env, &[x, y]),
            MinMaxRule::Number2008 if signaling => propagate(env, &[x, y]),
            _ if both => propagate(env, &[x, y]),
            _ if x.is_nan() => from_b,
            _ => from_a,
        };
    }
    note_denormals(env, &[x, y]);
    let zeros = x.is_zero() && y.is_zero();
    let take_a = if zeros {
        rule != MinMaxRule::SecondOperand && x.sign == want_less
    } else {
        order(&x, &y) == if want_less { Ordering::Less } else { Ordering::Greater }
    };
    if take_a { from_a } else { from_b }
}

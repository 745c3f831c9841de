//! Add, subtract, multiply, divide, square root and fused multiply-add.

use crate::env::{Env, Flags, NanRule, Rounding};
use crate::format::{Float, Kind, Unpacked, infinity, note_denormals, operand, zero};
use crate::nan::{invalid, propagate};
use crate::round::{Wide, round_arithmetic, shift_right_sticky};

/// `a + b`.
pub fn add<F: Float>(a: F, b: F, env: &mut Env) -> F {
    add_signed(a, b, false, env)
}

/// `a - b`.
pub fn sub<F: Float>(a: F, b: F, env: &mut Env) -> F {
    add_signed(a, b, true, env)
}

fn add_signed<F: Float>(a: F, b: F, negate_b: bool, env: &mut Env) -> F {
    let x = operand(a, env);
    let mut y = operand(b, env);
    if x.is_nan() || y.is_nan() {
        return propagate(env, &[x, y]);
    }
    y.sign ^= negate_b;
    if x.is_infinite() && y.is_infinite() && x.sign != y.sign {
        return invalid(env);
    }
    note_denormals(env, &[x, y]);
    if x.is_infinite() || y.is_infinite() {
        return infinity(if x.is_infinite() { x.sign } else { y.sign });
    }
    sum(env, widen(&x), widen(&y))
}

fn widen(value: &Unpacked) -> Wide {
    Wide::new(value.sign, value.exp, value.sig)
}

/// Adds two finite values, each exact to 126 significant bits, and rounds.
fn sum<F: Float>(env: &mut Env, x: Wide, y: Wide) -> F {
    let total = match (x.sig, y.sig) {
        (_, 0) if x.sig != 0 => x,
        (0, _) if y.sig != 0 => y,
        (0, 0) if x.sign == y.sign => return zero(x.sign),
        (0, 0) => return zero(env.rounding == Rounding::Down),
        _ => add_finite(x, y),
    };
    if total.sig == 0 {
        // Exact cancellation (IEEE 754-2019, 6.3).
        return zero(env.rounding == Rounding::Down);
    }
    round_arithmetic(env, total.normalized())
}

/// Adds two finite nonzero values. Both are shifted right by one for the carry; the smaller is shifted further with a
/// sticky bit. Cancellation by more than one bit happens only where the exponents differ by at most one, and then
/// nothing has been shifted out, since the operands leave their two lowest bits clear.
fn add_finite(x: Wide, y: Wide) -> Wide {
    let (big, small) = if (x.exp, x.sig) >= (y.exp, y.sig) { (x, y) } else { (y, x) };
    let distance = big.exp.abs_diff(small.exp);
    let high = big.sig >> 1;
    let low = shift_right_sticky(small.sig, distance.saturating_add(1));
    let sig = if big.sign == small.sign { high + low } else { high - low };
    Wide { sign: big.sign, exp: big.exp + 1, sig }
}

/// The exact product of two finite nonzero values.
fn product(x: &Unpacked, y: &Unpacked) -> Wide {
    let sig = u128::from(x.sig) * u128::from(y.sig);
    Wide { sign: x.sign ^ y.sign, exp: x.exp + y.exp + 1, sig }.normalized()
}

/// `a × b`.
pub fn mul<F: Float>(a: F, b: F, env: &mut Env) -> F {
    let (x, y) = (operand(a, env), operand(b, env));
    if x.is_nan() || y.is_nan() {
        return propagate(env, &[x, y]);
    }
    if (x.is_infinite() && y.is_zero()) || (x.is_zero() && y.is_infinite()) {
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
    round_arithmetic(env, product(&x, &y))
}

/// `a ÷ b`.
pub fn div<F: Float>(a: F, b: F, env: &mut Env) -> F {
    let (x, y) = (operand(a, env), operand(b, env));
    if x.is_nan() || y.is_nan() {
        return propagate(env, &[x, y]);
    }
    if (x.is_infinite() && y.is_infinite()) || (x.is_zero() && y.is_zero()) {
        return invalid(env);
    }
    let sign = x.sign ^ y.sign;
    if y.is_zero() && x.kind == Kind::Finite {
        env.raise(Flags::DIVIDE_BY_ZERO);
        return infinity(sign);
    }
    note_denormals(env, &[x, y]);
    if x.is_infinite() || y.is_zero() {
        return infinity(sign);
    }
    if x.is_zero() || y.is_infinite() {
        return zero(sign);
    }
    // The ratio of the significands lies between 1/2 and 2: two steps of 63 quotient bits each, then sticky.
    let divisor = u128::from(y.sig);
    let first = u128::from(x.sig) << 63;
    let second = (first % divisor) << 63;
    let quotient = ((first / divisor) << 63) | (second / divisor);
    let sig = quotient << 1 | u128::from(second % divisor != 0);
    round_arithmetic(env, Wide { sign, exp: x.exp - y.exp, sig }.normalized())
}

/// Square root.
pub fn sqrt<F: Float>(a: F, env: &mut Env) -> F {
    let x = operand(a, env);
    if x.is_nan() {
        return propagate(env, &[x]);
    }
    if x.is_zero() {
        return zero(x.sign);
    }
    if x.sign {
        return invalid(env);
    }
    note_denormals(env, &[x]);
    if x.is_infinite() {
        return infinity(false);
    }
    // value = sig × 2^(exp − 63); make the exponent even and take a 64-bit integer root.
    let odd = x.exp & 1;
    let radicand = u128::from(x.sig) << (63 + odd);
    let root = radicand.isqrt();
    let rest = radicand - root * root;
    // The next bit is set if (root + 1/2)² = root² + root + 1/4 is not above the radicand; equality cannot happen.
    let sig = root << 64 | u128::from(rest > root) << 63 | u128::from(rest != 0);
    round_arithmetic(env, Wide { sign: false, exp: (x.exp - odd) / 2, sig })
}

/// What a fused multiply-add negates before it adds. A NaN operand that comes out is never negated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Negate {
    /// The product.
    pub product: bool,
    /// The addend.
    pub addend: bool,
}

/// `±(a × b) ± c` with one rounding. For formats up to [`F64`](crate::F64).
///
/// NaN operands are preferred in the order `a`, `b`, `c` under [`NanRule::Sse`] and `c`, `a`, `b` under
/// [`NanRule::Arm`].
///
/// # Panics
/// In debug builds if `F` is [`F80`](crate::F80), for which no architecture has the operation.
pub fn fma<F: Float>(a: F, b: F, c: F, negate: Negate, env: &mut Env) -> F {
    debug_assert!(!F::IS_EXTENDED, "no fused multiply-add in the extended format");
    let (x, y) = (operand(a, env), operand(b, env));
    let mut z = operand(c, env);
    let undefined_product = (x.is_infinite() && y.is_zero()) || (x.is_zero() && y.is_infinite());
    if x.is_nan() || y.is_nan() || z.is_nan() {
        // IEEE 754-2019, 7.2 leaves ∞ × 0 + quiet NaN to the implementation: x86 delivers the NaN silently.
        if undefined_product && env.nan_rule != NanRule::Sse {
            env.raise(Flags::INVALID);
            if env.nan_rule == NanRule::Arm && z.kind == Kind::QuietNan {
                return invalid(env);
            }
        }
        return match env.nan_rule {
            NanRule::Arm => propagate(env, &[z, x, y]),
            _ => propagate(env, &[x, y, z]),
        };
    }
    z.sign ^= negate.addend;
    let sign = x.sign ^ y.sign ^ negate.product;
    let infinite_product = x.is_infinite() || y.is_infinite();
    if undefined_product || (infinite_product && z.is_infinite() && sign != z.sign) {
        return invalid(env);
    }
    note_denormals(env, &[x, y, z]);
    if infinite_product || z.is_infinite() {
        return infinity(if infinite_product { sign } else { z.sign });
    }
    let multiplied = if x.is_zero() || y.is_zero() {
        Wide { sign, exp: 0, sig: 0 }
    } else {
        Wide { sign, ..product(&x, &y) }
    };
    sum(env, multiplied, widen(&z))
}

//! Floating-point arithmetic (vector specification, "Vector Floating-Point Instructions") through `rhea-softfloat`.

use rhea_softfloat::{
    Env, F16, F32, F64, Flags, Float, MinMaxRule, Negate, Relation, Rounding, add, compare_quiet,
    compare_signaling, convert, div, fma, max, min, mul, sqrt, sub,
};

use crate::elements::{Body, Element};
use crate::estimate;
use crate::operation::{Op, Shape};

/// An element width that holds floating-point numbers.
pub(crate) trait FloatElement: Element {
    type F: Float;
    /// Bits of the fraction.
    const FRACTION: u32;
    fn number(bits: u64) -> Self::F;
    fn bits(number: Self::F) -> u64;
    /// By the host's arithmetic, rounded to nearest, where operands and result are such that no flag but inexact can
    /// be raised; nothing elsewhere.
    fn by_host(operation: Arithmetic, x: u64, y: u64) -> Option<u64>;
}

/// What the host is asked to do.
#[derive(Clone, Copy)]
pub(crate) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Root,
}

macro_rules! float_elements {
    ($($element:ident $format:ident $fraction:literal ($($host:ident)?))*) => {$(
        impl FloatElement for $element {
            type F = $format;
            const FRACTION: u32 = $fraction;
            #[inline(always)]
            fn number(bits: u64) -> $format {
                $format(bits as $element)
            }
            #[inline(always)]
            fn bits(number: $format) -> u64 {
                u64::from(number.0)
            }
            #[inline(always)]
            fn by_host(operation: Arithmetic, x: u64, y: u64) -> Option<u64> {
                float_elements!(@ $element $($host)?, operation, x, y)
            }
        }
    )*};
    (@ $element:ident, $operation:ident, $x:ident, $y:ident) => {{
        let _ = ($operation, $x, $y);
        None
    }};
    (@ $element:ident $host:ident, $operation:ident, $x:ident, $y:ident) => {{
        let (x, y) = ($host::from_bits($x as $element), $host::from_bits($y as $element));
        let plain = |v: $host| v.is_normal() || v == 0.0;
        if !plain(x) || !plain(y) {
            return None;
        }
        let result = match $operation {
            Arithmetic::Add => x + y,
            Arithmetic::Subtract => x - y,
            Arithmetic::Multiply => x * y,
            Arithmetic::Divide if y != 0.0 => x / y,
            Arithmetic::Root if x > 0.0 => x.sqrt(),
            _ => return None,
        };
        // The smallest normal number may be a tiny one rounded up. A sum that is zero is exact.
        let large = result.is_finite() && result.abs() > $host::MIN_POSITIVE;
        let exact = result == 0.0 && matches!($operation, Arithmetic::Add | Arithmetic::Subtract);
        (large || exact).then(|| u64::from(result.to_bits()))
    }};
}

float_elements! { u16 F16 10 () u32 F32 23 (f32) u64 F64 52 (f64) }

/// x op y: by the host while inexact is raised already and rounding is to nearest, else in software.
#[inline(always)]
fn arithmetic<E: FloatElement>(operation: Arithmetic, x: u64, y: u64, env: &mut Env) -> u64 {
    if env.rounding == Rounding::NearestEven
        && env.flags.contains(Flags::INEXACT)
        && let Some(result) = E::by_host(operation, x, y)
    {
        return result;
    }
    let (x, y) = (E::number(x), E::number(y));
    E::bits(match operation {
        Arithmetic::Add => add(x, y, env),
        Arithmetic::Subtract => sub(x, y, env),
        Arithmetic::Multiply => mul(x, y, env),
        Arithmetic::Divide => div(x, y, env),
        Arithmetic::Root => sqrt(x, env),
    })
}

/// Calls a block with `$E` as the element type of SEW, where that can hold floating-point numbers.
macro_rules! by_float_sew {
    ($sew:expr, $E:ident => $body:expr) => {
        match $sew {
            1 => {
                type $E = u16;
                $body
            }
            2 => {
                type $E = u32;
                $body
            }
            _ => {
                type $E = u64;
                $body
            }
        }
    };
}

/// As `by_float_sew`, with `$W` as the type of twice SEW.
macro_rules! by_wide_float_sew {
    ($sew:expr, $E:ident, $W:ident => $body:expr) => {
        if $sew == 1 {
            type $E = u16;
            type $W = u32;
            $body
        } else {
            type $E = u32;
            type $W = u64;
            $body
        }
    };
}

pub(crate) use {by_float_sew, by_wide_float_sew};

/// The environment under frm, which is legal; inexact is raised if fflags has it, for what that spares.
pub(crate) fn environment(frm: u32, fflags: u32) -> Env {
    let rounding = match frm {
        1 => Rounding::TowardZero,
        2 => Rounding::Down,
        3 => Rounding::Up,
        4 => Rounding::NearestAway,
        _ => Rounding::NearestEven,
    };
    let flags = if fflags & 1 != 0 { Flags::INEXACT } else { Flags::empty() };
    Env { rounding, flags, ..Env::RISCV }
}

/// The flags as fflags has them.
pub(crate) fn fflags(env: &Env) -> u32 {
    let order = [Flags::INEXACT, Flags::UNDERFLOW, Flags::OVERFLOW, Flags::DIVIDE_BY_ZERO, Flags::INVALID];
    order
        .iter()
        .enumerate()
        .filter(|(_, flag)| env.flags.contains(**flag))
        .fold(0, |bits, (i, _)| bits | 1 << i)
}

/// The number of SEW that a floating-point register holds: the canonical NaN if it is not boxed (unprivileged
/// specification, "NaN Boxing of Narrower Values").
pub(crate) fn unboxed(register: u64, sew: u8) -> u64 {
    match sew {
        1 if register >> 16 != u64::MAX >> 16 => 0x7e00,
        2 if register >> 32 != u64::MAX >> 32 => 0x7fc0_0000,
        _ => register,
    }
}

/// Does the operation if it is no conversion.
pub(crate) fn float(b: &mut Body<'_>, op: Op, sew: u8, env: &mut Env) -> bool {
    match op.shape() {
        Shape::Same => by_float_sew!(sew, E => same::<E>(b, op, env)),
        Shape::Carry => {
            by_float_sew!(sew, E => merge::<E>(b));
            true
        }
        Shape::MaskResult => {
            by_float_sew!(sew, E => compare::<E>(b, op, env));
            true
        }
        Shape::Widen => by_wide_float_sew!(sew, E, W => widen::<E, W>(b, op, env)),
        Shape::WidenWide => {
            by_wide_float_sew!(sew, E, W => b.map::<W, W, E>(|x, y, _| {
                let y = widened::<E, W>(y, env);
                let x = W::number(x);
                W::bits(if op == Op::VfwaddW { add(x, y, env) } else { sub(x, y, env) })
            }));
            true
        }
        Shape::Reduce => {
            by_float_sew!(sew, E => b.fold::<E, E>(|acc, x| match op {
                Op::Vfredmin => E::bits(min(E::number(acc), E::number(x), MinMaxRule::Number, env)),
                Op::Vfredmax => E::bits(max(E::number(acc), E::number(x), MinMaxRule::Number, env)),
                // Any order is allowed for the unordered sum: this one is.
                _ => arithmetic::<E>(Arithmetic::Add, acc, x, env),
            }));
            true
        }
        Shape::WidenReduce => {
            by_wide_float_sew!(sew, E, W => b.fold::<W, E>(|acc, x| {
                let x = widened::<E, W>(x, env);
                arithmetic::<W>(Arithmetic::Add, acc, W::bits(x), env)
            }));
            true
        }
        _ => false,
    }
}

fn widened<E: FloatElement, W: FloatElement>(bits: u64, env: &mut Env) -> W::F {
    convert::<E::F, W::F>(E::number(bits), env)
}

/// ±(x × y) ± z.
fn multiply_add<E: FloatElement>(x: u64, y: u64, z: u64, negate: (bool, bool), env: &mut Env) -> u64 {
    let negate = Negate { product: negate.0, addend: negate.1 };
    E::bits(fma(E::number(x), E::number(y), E::number(z), negate, env))
}

/// What a multiply-add negates: the product, the addend.
const fn negations(op: Op) -> (bool, bool) {
    use Op::*;
    match op {
        Vfnmacc | Vfnmadd | Vfwnmacc => (true, true),
        Vfmsac | Vfmsub | Vfwmsac => (false, true),
        Vfnmsac | Vfnmsub | Vfwnmsac => (true, false),
        _ => (false, false),
    }
}

fn same<E: FloatElement>(b: &mut Body<'_>, op: Op, env: &mut Env) -> bool {
    use Op::*;
    let n = E::number;
    let sign = 1u64 << (E::BITS - 1);
    match op {
        Vfadd => b.map::<E, E, E>(|x, y, _| arithmetic::<E>(Arithmetic::Add, x, y, env)),
        Vfsub => b.map::<E, E, E>(|x, y, _| arithmetic::<E>(Arithmetic::Subtract, x, y, env)),
        Vfrsub => b.map::<E, E, E>(|x, y, _| arithmetic::<E>(Arithmetic::Subtract, y, x, env)),
        Vfmul => b.map::<E, E, E>(|x, y, _| arithmetic::<E>(Arithmetic::Multiply, x, y, env)),
        Vfdiv => b.map::<E, E, E>(|x, y, _| arithmetic::<E>(Arithmetic::Divide, x, y, env)),
        Vfrdiv => b.map::<E, E, E>(|x, y, _| arithmetic::<E>(Arithmetic::Divide, y, x, env)),
        Vfmin => b.map::<E, E, E>(|x, y, _| E::bits(min(n(x), n(y), MinMaxRule::Number, env))),
        Vfmax => b.map::<E, E, E>(|x, y, _| E::bits(max(n(x), n(y), MinMaxRule::Number, env))),
        Vfsgnj => b.map::<E, E, E>(|x, y, _| x & !sign | y & sign),
        Vfsgnjn => b.map::<E, E, E>(|x, y, _| x & !sign | !y & sign),
        Vfsgnjx => b.map::<E, E, E>(|x, y, _| x ^ y & sign),
        Vfmacc | Vfnmacc | Vfmsac | Vfnmsac => {
            b.map::<E, E, E>(|x, y, d| multiply_add::<E>(y, x, d, negations(op), env));
        }
        Vfmadd | Vfnmadd | Vfmsub | Vfnmsub => {
            b.map::<E, E, E>(|x, y, d| multiply_add::<E>(y, d, x, negations(op), env));
        }
        Vfsqrt => b.map::<E, E, E>(|x, _, _| arithmetic::<E>(Arithmetic::Root, x, x, env)),
        Vfrsqrt7 => b.map::<E, E, E>(|x, _, _| estimate::reciprocal_root::<E>(x, env)),
        Vfrec7 => b.map::<E, E, E>(|x, _, _| estimate::reciprocal::<E>(x, env)),
        Vfclass => b.map::<E, E, E>(|x, _, _| estimate::class::<E>(x)),
        Vfmv => b.map::<E, E, E>(|_, y, _| y),
        _ => return false,
    }
    true
}

fn merge<E: Element>(b: &mut Body<'_>) {
    let (d, a, y) = (b.d, b.a, b.scalar.unwrap_or_default());
    b.each(|v, i| {
        let at = i * E::BYTES;
        let x = if crate::elements::bit(v, 0, i) { y } else { E::load(v, a + at) };
        E::store(v, d + at, x);
    });
}

fn compare<E: FloatElement>(b: &mut Body<'_>, op: Op, env: &mut Env) {
    use Op::*;
    let n = E::number;
    match op {
        Vmfeq => b.test::<E>(|x, y| compare_quiet(n(x), n(y), env) == Relation::Equal),
        Vmfne => b.test::<E>(|x, y| compare_quiet(n(x), n(y), env) != Relation::Equal),
        Vmflt => b.test::<E>(|x, y| compare_signaling(n(x), n(y), env) == Relation::Less),
        Vmfgt => b.test::<E>(|x, y| compare_signaling(n(x), n(y), env) == Relation::Greater),
        Vmfle => {
            b.test::<E>(|x, y| matches!(compare_signaling(n(x), n(y), env), Relation::Less | Relation::Equal))
        }
        _ => b.test::<E>(|x, y| {
            matches!(compare_signaling(n(x), n(y), env), Relation::Greater | Relation::Equal)
        }),
    }
}

fn widen<E: FloatElement, W: FloatElement>(b: &mut Body<'_>, op: Op, env: &mut Env) -> bool {
    use Op::*;
    let multiplies_and_adds = matches!(op, Vfwmacc | Vfwnmacc | Vfwmsac | Vfwnmsac);
    if !multiplies_and_adds && !matches!(op, Vfwadd | Vfwsub | Vfwmul) {
        return false;
    }
    b.map::<W, E, E>(|x, y, d| {
        let (x, y) = (widened::<E, W>(x, env), widened::<E, W>(y, env));
        match op {
            Vfwadd => W::bits(add(x, y, env)),
            Vfwsub => W::bits(sub(x, y, env)),
            Vfwmul => W::bits(mul(x, y, env)),
            _ => multiply_add::<W>(W::bits(y), W::bits(x), d, negations(op), env),
        }
    });
    true
}

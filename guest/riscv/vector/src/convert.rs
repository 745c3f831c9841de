//! Conversions (vector specification, "Vector Floating-Point/Integer Type-Convert Instructions" and their widening and
//! narrowing forms).

use rhea_softfloat::{
    Env, Flags, Rounding, convert as convert_format, from_i64, from_u64, to_signed, to_unsigned,
};

use crate::elements::{Body, Element};
use crate::float::{FloatElement, by_float_sew, by_wide_float_sew};
use crate::operation::Op;

pub(crate) fn convert(b: &mut Body<'_>, op: Op, sew: u8, env: &mut Env) {
    use Op::*;
    match op {
        VfcvtXuF | VfcvtXF | VfcvtRtzXuF | VfcvtRtzXF => {
            by_float_sew!(sew, E => to_integer::<E, E>(b, op, env));
        }
        VfcvtFXu | VfcvtFX => by_float_sew!(sew, E => to_float::<E, E>(b, op, env)),
        VfwcvtXuF | VfwcvtXF | VfwcvtRtzXuF | VfwcvtRtzXF => {
            by_wide_float_sew!(sew, E, W => to_integer::<W, E>(b, op, env));
        }
        VfncvtFXu | VfncvtFX => by_wide_float_sew!(sew, E, W => to_float::<E, W>(b, op, env)),
        VfwcvtFF => by_wide_float_sew!(sew, E, W => b.map::<W, E, E>(|x, _, _| change::<E, W>(x, env))),
        VfncvtFF => by_wide_float_sew!(sew, E, W => b.map::<E, W, W>(|x, _, _| change::<W, E>(x, env))),
        VfncvtRodFF => {
            by_wide_float_sew!(sew, E, W => b.map::<E, W, W>(|x, _, _| change_to_odd::<W, E>(x, env)))
        }
        VfwcvtFXu | VfwcvtFX => wide_from_integer(b, op, sew, env),
        _ => narrow_from_float(b, op, sew, env),
    }
}

/// The wide side is the floating-point one: SEW is 8 to 32.
fn wide_from_integer(b: &mut Body<'_>, op: Op, sew: u8, env: &mut Env) {
    match sew {
        0 => to_float::<u16, u8>(b, op, env),
        1 => to_float::<u32, u16>(b, op, env),
        _ => to_float::<u64, u32>(b, op, env),
    }
}

fn narrow_from_float(b: &mut Body<'_>, op: Op, sew: u8, env: &mut Env) {
    match sew {
        0 => to_integer::<u8, u16>(b, op, env),
        1 => to_integer::<u16, u32>(b, op, env),
        _ => to_integer::<u32, u64>(b, op, env),
    }
}

/// From numbers of type `S` to integers of type `D`.
fn to_integer<D: Element, S: FloatElement>(b: &mut Body<'_>, op: Op, env: &mut Env) {
    use Op::*;
    let truncates =
        matches!(op, VfcvtRtzXuF | VfcvtRtzXF | VfwcvtRtzXuF | VfwcvtRtzXF | VfncvtRtzXuF | VfncvtRtzXF);
    let rounding = if truncates { Rounding::TowardZero } else { env.rounding };
    let signed = matches!(op, VfcvtXF | VfcvtRtzXF | VfwcvtXF | VfwcvtRtzXF | VfncvtXF | VfncvtRtzXF);
    if signed {
        b.map::<D, S, S>(|x, _, _| to_signed(S::number(x), D::BITS, rounding, env) as u64);
    } else {
        b.map::<D, S, S>(|x, _, _| to_unsigned(S::number(x), D::BITS, rounding, env));
    }
}

/// From integers of type `S` to numbers of type `D`.
fn to_float<D: FloatElement, S: Element>(b: &mut Body<'_>, op: Op, env: &mut Env) {
    if matches!(op, Op::VfcvtFX | Op::VfwcvtFX | Op::VfncvtFX) {
        b.map::<D, S, S>(|x, _, _| D::bits(from_i64(S::signed(x), env)));
    } else {
        b.map::<D, S, S>(|x, _, _| D::bits(from_u64(x, env)));
    }
}

fn change<S: FloatElement, D: FloatElement>(x: u64, env: &mut Env) -> u64 {
    D::bits(convert_format::<S::F, D::F>(S::number(x), env))
}

/// Rounds to odd: truncates, and what was not exact gets an odd significand. The largest finite number, which stands
/// for what is too large, is odd.
fn change_to_odd<S: FloatElement, D: FloatElement>(x: u64, env: &mut Env) -> u64 {
    let mut own = Env { rounding: Rounding::TowardZero, flags: Flags::empty(), ..*env };
    let result = change::<S, D>(x, &mut own);
    env.flags |= own.flags;
    result | u64::from(own.flags.contains(Flags::INEXACT))
}

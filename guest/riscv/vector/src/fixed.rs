//! Fixed-point arithmetic (vector specification, "Vector Fixed-Point Arithmetic Instructions"): saturation with vxsat,
//! rounding as vxrm says.

use crate::elements::{Body, Element, by_sew, by_wide_sew};
use crate::operation::Op;

/// `value / 2^by`, rounded (the specification's roundoff). `by` is below 128.
fn round_off(value: i128, by: u32, vxrm: u32) -> i128 {
    if by == 0 {
        return value;
    }
    let quotient = value >> by;
    let half = value >> (by - 1) & 1 != 0;
    let below_half = value & ((1 << (by - 1)) - 1) != 0;
    let odd = quotient & 1 != 0;
    let up = match vxrm & 3 {
        0 => half,
        1 => half && (below_half || odd),
        2 => false,
        _ => !odd && (half || below_half),
    };
    quotient + i128::from(up)
}

/// Does the operation if it is one of these.
pub(crate) fn fixed(b: &mut Body<'_>, op: Op, sew: u8, vxrm: u32, saturated: &mut bool) -> bool {
    use Op::*;
    match op {
        Vsaddu | Vsadd | Vssubu | Vssub => by_sew!(sew, E => saturate::<E>(b, op, saturated)),
        Vaaddu | Vaadd | Vasubu | Vasub => by_sew!(sew, E => average::<E>(b, op, vxrm)),
        Vsmul | Vssrl | Vssra => by_sew!(sew, E => scale::<E>(b, op, vxrm, saturated)),
        Vnclipu | Vnclip => by_wide_sew!(sew, E, W => clip::<E, W>(b, op, vxrm, saturated)),
        _ => return false,
    }
    true
}

/// The nearest signed number of the element's width.
fn clamp_signed<E: Element>(value: i128, saturated: &mut bool) -> u64 {
    let max = (1i128 << (E::BITS - 1)) - 1;
    let clamped = value.clamp(-max - 1, max);
    *saturated |= clamped != value;
    clamped as u64
}

fn clamp_unsigned<E: Element>(value: i128, saturated: &mut bool) -> u64 {
    let clamped = value.clamp(0, (1i128 << E::BITS) - 1);
    *saturated |= clamped != value;
    clamped as u64
}

fn saturate<E: Element>(b: &mut Body<'_>, op: Op, sat: &mut bool) {
    let s = |x| i128::from(E::signed(x));
    match op {
        Op::Vsaddu => b.map::<E, E, E>(|x, y, _| clamp_unsigned::<E>(i128::from(x) + i128::from(y), sat)),
        Op::Vssubu => b.map::<E, E, E>(|x, y, _| clamp_unsigned::<E>(i128::from(x) - i128::from(y), sat)),
        Op::Vsadd => b.map::<E, E, E>(|x, y, _| clamp_signed::<E>(s(x) + s(y), sat)),
        _ => b.map::<E, E, E>(|x, y, _| clamp_signed::<E>(s(x) - s(y), sat)),
    }
}

fn average<E: Element>(b: &mut Body<'_>, op: Op, vxrm: u32) {
    let s = |x| i128::from(E::signed(x));
    let half = |x| round_off(x, 1, vxrm) as u64;
    match op {
        Op::Vaaddu => b.map::<E, E, E>(|x, y, _| half(i128::from(x) + i128::from(y))),
        Op::Vasubu => b.map::<E, E, E>(|x, y, _| half(i128::from(x) - i128::from(y))),
        Op::Vaadd => b.map::<E, E, E>(|x, y, _| half(s(x) + s(y))),
        _ => b.map::<E, E, E>(|x, y, _| half(s(x) - s(y))),
    }
}

fn scale<E: Element>(b: &mut Body<'_>, op: Op, vxrm: u32, sat: &mut bool) {
    let s = |x| i128::from(E::signed(x));
    let count = |y: u64| (y & u64::from(E::BITS - 1)) as u32;
    match op {
        Op::Vsmul => {
            b.map::<E, E, E>(|x, y, _| clamp_signed::<E>(round_off(s(x) * s(y), E::BITS - 1, vxrm), sat));
        }
        Op::Vssrl => b.map::<E, E, E>(|x, y, _| round_off(i128::from(x), count(y), vxrm) as u64),
        _ => b.map::<E, E, E>(|x, y, _| round_off(s(x), count(y), vxrm) as u64),
    }
}

fn clip<E: Element, W: Element>(b: &mut Body<'_>, op: Op, vxrm: u32, sat: &mut bool) {
    let count = |y: u64| (y & u64::from(W::BITS - 1)) as u32;
    if op == Op::Vnclipu {
        b.map::<E, W, E>(|x, y, _| clamp_unsigned::<E>(round_off(i128::from(x), count(y), vxrm), sat));
    } else {
        let s = |x| i128::from(W::signed(x));
        b.map::<E, W, E>(|x, y, _| clamp_signed::<E>(round_off(s(x), count(y), vxrm), sat));
    }
}

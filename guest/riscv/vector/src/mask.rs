//! Mask instructions (vector specification, "Vector Mask Instructions").

use crate::elements::{Body, Element, bit, by_sew, set_bit};
use crate::operation::Op;

pub(crate) fn logical(b: &mut Body<'_>, op: Op) {
    use Op::*;
    let (d, a, vs1) = (b.d, b.a, b.b);
    let f = |x: bool, y: bool| match op {
        Vmandn => x && !y,
        Vmand => x && y,
        Vmor => x || y,
        Vmxor => x != y,
        Vmorn => x || !y,
        Vmnand => !(x && y),
        Vmnor => !(x || y),
        _ => x == y,
    };
    b.each(|v, i| {
        let r = f(bit(v, a, i), bit(v, vs1, i));
        set_bit(v, d, i, r);
    });
}

/// vcpop.m and vfirst.m.
pub(crate) fn count(b: &mut Body<'_>, op: Op) -> u64 {
    let a = b.a;
    let (mut ones, mut first) = (0, None);
    b.each(|v, i| {
        if bit(v, a, i) {
            ones += 1;
            first = first.or(Some(i));
        }
    });
    if op == Op::VcpopM { ones } else { first.map_or(u64::MAX, |i| i as u64) }
}

/// vmsbf.m, vmsof.m, vmsif.m.
pub(crate) fn before_first(b: &mut Body<'_>, op: Op) {
    let (d, a) = (b.d, b.a);
    let mut seen = false;
    b.each(|v, i| {
        let is_first = !seen && bit(v, a, i);
        let r = match op {
            Op::Vmsbf => !seen && !is_first,
            Op::Vmsof => is_first,
            _ => !seen,
        };
        seen |= is_first;
        set_bit(v, d, i, r);
    });
}

pub(crate) fn iota(b: &mut Body<'_>, sew: u8) {
    let (d, a) = (b.d, b.a);
    let mut ones = 0;
    by_sew!(sew, E => b.each(|v, i| {
        E::store(v, d + i * E::BYTES, ones);
        ones += u64::from(bit(v, a, i));
    }));
}

pub(crate) fn index(b: &mut Body<'_>, sew: u8) {
    let d = b.d;
    by_sew!(sew, E => b.each(|v, i| E::store(v, d + i * E::BYTES, i as u64)));
}

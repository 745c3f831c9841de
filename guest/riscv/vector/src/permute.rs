//! Moves of elements between places (vector specification, "Vector Permutation Instructions").

use crate::elements::{Body, Element, bit, by_sew};
use crate::operation::Op;

/// Slides that may overlap their source; the others have shapes of their own.
pub(crate) const fn is_slide(op: Op) -> bool {
    matches!(op, Op::Vslidedown | Op::Vslide1down | Op::Vfslide1down)
}

/// Moves of element 0 from and to a scalar register. One that would begin behind the last element writes nothing.
pub(crate) fn scalar(b: &mut Body<'_>, op: Op, sew: u8, start: usize) -> u64 {
    by_sew!(sew, E => match op {
        Op::VmvXS => E::signed(E::load(b.v, b.a)) as u64,
        Op::VfmvFS if E::BITS == 64 => E::load(b.v, b.a),
        Op::VfmvFS => E::load(b.v, b.a) | u64::MAX << (E::BITS % 64),
        _ => {
            if start < b.vl {
                E::store(b.v, b.d, b.scalar.unwrap_or_default());
            }
            0
        }
    })
}

/// Moves `len` bytes of whole registers, from byte `from` on.
pub(crate) fn whole(b: &mut Body<'_>, len: usize, from: usize) {
    if from < len && b.a + len <= b.v.len() && b.d + len <= b.v.len() {
        b.v.copy_within(b.a + from..b.a + len, b.d + from);
    }
}

pub(crate) fn permute(b: &mut Body<'_>, op: Op, sew: u8) {
    use Op::*;
    by_sew!(sew, E => match op {
        Vslideup => slide_up::<E>(b),
        Vslidedown => slide_down::<E>(b),
        Vslide1up | Vfslide1up => slide_one_up::<E>(b),
        Vslide1down | Vfslide1down => slide_one_down::<E>(b),
        Vrgather => gather::<E, E>(b),
        Vrgatherei16 => gather::<E, u16>(b),
        _ => compress::<E>(b),
    });
}

/// The scalar as a number of elements.
fn offset(b: &Body<'_>) -> usize {
    b.scalar.and_then(|x| usize::try_from(x).ok()).unwrap_or(usize::MAX)
}

fn slide_up<E: Element>(b: &mut Body<'_>) {
    let (d, a, by) = (b.d, b.a, offset(b));
    b.start = b.start.max(by);
    b.each(|v, i| {
        let x = E::load(v, a + (i - by) * E::BYTES);
        E::store(v, d + i * E::BYTES, x);
    });
}

fn slide_down<E: Element>(b: &mut Body<'_>) {
    let (d, a, by, vlmax) = (b.d, b.a, offset(b), b.vlmax);
    b.each(|v, i| {
        let from = i.saturating_add(by);
        let x = if from < vlmax { E::load(v, a + from * E::BYTES) } else { 0 };
        E::store(v, d + i * E::BYTES, x);
    });
}

fn slide_one_up<E: Element>(b: &mut Body<'_>) {
    let (d, a, x) = (b.d, b.a, b.scalar.unwrap_or_default());
    b.each(|v, i| {
        let x = if i == 0 { x } else { E::load(v, a + (i - 1) * E::BYTES) };
        E::store(v, d + i * E::BYTES, x);
    });
}

fn slide_one_down<E: Element>(b: &mut Body<'_>) {
    let (d, a, x, vl) = (b.d, b.a, b.scalar.unwrap_or_default(), b.vl);
    b.each(|v, i| {
        let x = if i + 1 == vl { x } else { E::load(v, a + (i + 1) * E::BYTES) };
        E::store(v, d + i * E::BYTES, x);
    });
}

/// Indices are elements of vs1 of type `I`, or the scalar.
fn gather<E: Element, I: Element>(b: &mut Body<'_>) {
    let (d, a, vs1, vlmax, scalar) = (b.d, b.a, b.b, b.vlmax as u64, b.scalar);
    b.each(|v, i| {
        let from = scalar.unwrap_or_else(|| I::load(v, vs1 + i * I::BYTES));
        let x = if from < vlmax { E::load(v, a + from as usize * E::BYTES) } else { 0 };
        E::store(v, d + i * E::BYTES, x);
    });
}

fn compress<E: Element>(b: &mut Body<'_>) {
    let (d, a, vs1) = (b.d, b.a, b.b);
    let mut to = 0;
    b.each(|v, i| {
        if bit(v, vs1, i) {
            let x = E::load(v, a + i * E::BYTES);
            E::store(v, d + to * E::BYTES, x);
            to += 1;
        }
    });
}

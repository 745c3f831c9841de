//! Integer arithmetic (vector specification, "Vector Integer Arithmetic Instructions", and Zvbb, Zvbc).

use crate::elements::{Body, Element, bit, by_sew, by_wide_sew, set_bit};
use crate::operation::{Op, Shape};

pub(crate) fn integer(b: &mut Body<'_>, op: Op, sew: u8) {
    match op.shape() {
        Shape::Same => by_sew!(sew, E => same::<E>(b, op)),
        Shape::Carry => by_sew!(sew, E => carry::<E>(b, op)),
        Shape::MaskResult => by_sew!(sew, E => compare::<E>(b, op)),
        Shape::Widen => by_wide_sew!(sew, E, W => widen::<E, W>(b, op)),
        Shape::WidenWide => by_wide_sew!(sew, E, W => widen_wide::<E, W>(b, op)),
        Shape::Narrow => by_wide_sew!(sew, E, W => narrow::<E, W>(b, op)),
        Shape::Extend(by) => by_sew!(sew, E => extend::<E>(b, op, by)),
        Shape::Reduce => by_sew!(sew, E => reduce::<E>(b, op)),
        Shape::WidenReduce => by_wide_sew!(sew, E, W => {
            if op == Op::Vwredsumu {
                b.fold::<W, E>(|acc, x| acc.wrapping_add(x));
            } else {
                b.fold::<W, E>(|acc, x| acc.wrapping_add(E::signed(x) as u64));
            }
        }),
        _ => debug_assert!(false, "{op:?} is done elsewhere"),
    }
}

/// vd[i] = f(vs2[i], vs1[i], vd[i]) where all have SEW.
fn same<E: Element>(b: &mut Body<'_>, op: Op) {
    use Op::*;
    let s = E::signed;
    let count = |x: u64| (x & u64::from(E::BITS - 1)) as u32;
    match op {
        Vadd => b.map::<E, E, E>(|x, y, _| x.wrapping_add(y)),
        Vsub => b.map::<E, E, E>(|x, y, _| x.wrapping_sub(y)),
        Vrsub => b.map::<E, E, E>(|x, y, _| y.wrapping_sub(x)),
        Vminu => b.map::<E, E, E>(|x, y, _| x.min(y)),
        Vmin => b.map::<E, E, E>(|x, y, _| s(x).min(s(y)) as u64),
        Vmaxu => b.map::<E, E, E>(|x, y, _| x.max(y)),
        Vmax => b.map::<E, E, E>(|x, y, _| s(x).max(s(y)) as u64),
        Vand => b.map::<E, E, E>(|x, y, _| x & y),
        Vandn => b.map::<E, E, E>(|x, y, _| x & !y),
        Vor => b.map::<E, E, E>(|x, y, _| x | y),
        Vxor => b.map::<E, E, E>(|x, y, _| x ^ y),
        Vsll => b.map::<E, E, E>(|x, y, _| x << count(y)),
        Vsrl => b.map::<E, E, E>(|x, y, _| x >> count(y)),
        Vsra => b.map::<E, E, E>(|x, y, _| (s(x) >> count(y)) as u64),
        Vrol => b.map::<E, E, E>(|x, y, _| rotate_left::<E>(x, count(y))),
        Vror => b.map::<E, E, E>(|x, y, _| rotate_left::<E>(x, E::BITS - count(y))),
        Vmul => b.map::<E, E, E>(|x, y, _| x.wrapping_mul(y)),
        Vmulh => b.map::<E, E, E>(|x, y, _| high::<E>(i128::from(s(x)) * i128::from(s(y)))),
        Vmulhu => b.map::<E, E, E>(|x, y, _| high::<E>((u128::from(x) * u128::from(y)) as i128)),
        Vmulhsu => b.map::<E, E, E>(|x, y, _| high::<E>(i128::from(s(x)).wrapping_mul(i128::from(y)))),
        Vdivu => b.map::<E, E, E>(|x, y, _| x.checked_div(y).unwrap_or(u64::MAX)),
        Vremu => b.map::<E, E, E>(|x, y, _| x.checked_rem(y).unwrap_or(x)),
        Vdiv => b.map::<E, E, E>(|x, y, _| if y == 0 { u64::MAX } else { s(x).wrapping_div(s(y)) as u64 }),
        Vrem => b.map::<E, E, E>(|x, y, _| if y == 0 { x } else { s(x).wrapping_rem(s(y)) as u64 }),
        Vmacc => b.map::<E, E, E>(|x, y, d| d.wrapping_add(x.wrapping_mul(y))),
        Vnmsac => b.map::<E, E, E>(|x, y, d| d.wrapping_sub(x.wrapping_mul(y))),
        Vmadd => b.map::<E, E, E>(|x, y, d| x.wrapping_add(d.wrapping_mul(y))),
        Vnmsub => b.map::<E, E, E>(|x, y, d| x.wrapping_sub(d.wrapping_mul(y))),
        Vmv => b.map::<E, E, E>(|_, y, _| y),
        Vclmul => b.map::<E, E, E>(|x, y, _| carryless(x, y) as u64),
        Vclmulh => b.map::<E, E, E>(|x, y, _| (carryless(x, y) >> 64) as u64),
        Vbrev8 => b.map::<E, E, E>(|x, _, _| x.swap_bytes().reverse_bits()),
        Vrev8 => b.map::<E, E, E>(|x, _, _| x.swap_bytes() >> (64 - E::BITS)),
        Vbrev => b.map::<E, E, E>(|x, _, _| x.reverse_bits() >> (64 - E::BITS)),
        Vclz => b.map::<E, E, E>(|x, _, _| u64::from(x.leading_zeros() - (64 - E::BITS))),
        Vctz => b.map::<E, E, E>(|x, _, _| u64::from(x.trailing_zeros().min(E::BITS))),
        VcpopV => b.map::<E, E, E>(|x, _, _| u64::from(x.count_ones())),
        _ => debug_assert!(false, "{op:?} is done elsewhere"),
    }
}

/// By 0 to the element's width.
fn rotate_left<E: Element>(x: u64, by: u32) -> u64 {
    match by % E::BITS {
        0 => x,
        by => x << by | x >> (E::BITS - by),
    }
}

/// The upper half of a product of two elements.
fn high<E: Element>(product: i128) -> u64 {
    (product >> E::BITS) as u64
}

fn carryless(x: u64, y: u64) -> u128 {
    (0..64).filter(|i| y >> i & 1 != 0).fold(0, |sum, i| sum ^ u128::from(x) << i)
}

fn carry<E: Element>(b: &mut Body<'_>, op: Op) {
    let (d, a, vs1) = (b.d, b.a, b.b);
    let scalar = b.scalar.map(E::unsigned);
    b.each(|v, i| {
        let (x, c) = (E::load(v, a + i * E::BYTES), bit(v, 0, i));
        let y = scalar.unwrap_or_else(|| E::load(v, vs1 + i * E::BYTES));
        let r = match op {
            Op::Vadc => x.wrapping_add(y).wrapping_add(c.into()),
            Op::Vsbc => x.wrapping_sub(y).wrapping_sub(c.into()),
            _ if c => y,
            _ => x,
        };
        E::store(v, d + i * E::BYTES, r);
    });
}

fn compare<E: Element>(b: &mut Body<'_>, op: Op) {
    use Op::*;
    let s = E::signed;
    match op {
        Vmseq => b.test::<E>(|x, y| x == y),
        Vmsne => b.test::<E>(|x, y| x != y),
        Vmsltu => b.test::<E>(|x, y| x < y),
        Vmslt => b.test::<E>(|x, y| s(x) < s(y)),
        Vmsleu => b.test::<E>(|x, y| x <= y),
        Vmsle => b.test::<E>(|x, y| s(x) <= s(y)),
        Vmsgtu => b.test::<E>(|x, y| x > y),
        Vmsgt => b.test::<E>(|x, y| s(x) > s(y)),
        _ => carry_out::<E>(b, op),
    }
}

fn carry_out<E: Element>(b: &mut Body<'_>, op: Op) {
    let (d, a, vs1) = (b.d, b.a, b.b);
    let scalar = b.scalar.map(E::unsigned);
    let with_carry = matches!(op, Op::VmadcM | Op::VmsbcM);
    let adds = matches!(op, Op::VmadcM | Op::Vmadc);
    b.each(|v, i| {
        let x = i128::from(E::load(v, a + i * E::BYTES));
        let y = i128::from(scalar.unwrap_or_else(|| E::load(v, vs1 + i * E::BYTES)));
        let c = i128::from(with_carry && bit(v, 0, i));
        let exact = if adds { x + y + c } else { x - y - c };
        set_bit(v, d, i, exact >> E::BITS & 1 != 0);
    });
}

fn widen<E: Element, W: Element>(b: &mut Body<'_>, op: Op) {
    use Op::*;
    let s = |x| E::signed(x) as u64;
    match op {
        Vwaddu => b.map::<W, E, E>(|x, y, _| x.wrapping_add(y)),
        Vwsubu => b.map::<W, E, E>(|x, y, _| x.wrapping_sub(y)),
        Vwadd => b.map::<W, E, E>(|x, y, _| s(x).wrapping_add(s(y))),
        Vwsub => b.map::<W, E, E>(|x, y, _| s(x).wrapping_sub(s(y))),
        Vwmulu => b.map::<W, E, E>(|x, y, _| x.wrapping_mul(y)),
        Vwmulsu => b.map::<W, E, E>(|x, y, _| s(x).wrapping_mul(y)),
        Vwmul => b.map::<W, E, E>(|x, y, _| s(x).wrapping_mul(s(y))),
        Vwmaccu => b.map::<W, E, E>(|x, y, d| d.wrapping_add(x.wrapping_mul(y))),
        Vwmacc => b.map::<W, E, E>(|x, y, d| d.wrapping_add(s(x).wrapping_mul(s(y)))),
        // vs1 is the signed one, and vs2 here.
        Vwmaccsu => b.map::<W, E, E>(|x, y, d| d.wrapping_add(x.wrapping_mul(s(y)))),
        Vwmaccus => b.map::<W, E, E>(|x, y, d| d.wrapping_add(s(x).wrapping_mul(y))),
        Vwsll => b.map::<W, E, E>(|x, y, _| x << (y & u64::from(W::BITS - 1))),
        _ => debug_assert!(false, "{op:?} is done elsewhere"),
    }
}

fn widen_wide<E: Element, W: Element>(b: &mut Body<'_>, op: Op) {
    use Op::*;
    let s = |x| E::signed(x) as u64;
    match op {
        VwadduW => b.map::<W, W, E>(|x, y, _| x.wrapping_add(y)),
        VwsubuW => b.map::<W, W, E>(|x, y, _| x.wrapping_sub(y)),
        VwaddW => b.map::<W, W, E>(|x, y, _| x.wrapping_add(s(y))),
        _ => b.map::<W, W, E>(|x, y, _| x.wrapping_sub(s(y))),
    }
}

fn narrow<E: Element, W: Element>(b: &mut Body<'_>, op: Op) {
    let count = |y: u64| y & u64::from(W::BITS - 1);
    if op == Op::Vnsrl {
        b.map::<E, W, E>(|x, y, _| x >> count(y));
    } else {
        b.map::<E, W, E>(|x, y, _| (W::signed(x) >> count(y)) as u64);
    }
}

/// The source's elements are `2^by` times narrower.
fn extend<E: Element>(b: &mut Body<'_>, op: Op, by: u8) {
    let signed = matches!(op, Op::Vsext2 | Op::Vsext4 | Op::Vsext8);
    let narrow = E::BITS.ilog2() as u8 - 3 - by;
    by_sew!(narrow, N => {
        if signed {
            b.map::<E, N, E>(|x, _, _| N::signed(x) as u64);
        } else {
            b.map::<E, N, E>(|x, _, _| x);
        }
    });
}

fn reduce<E: Element>(b: &mut Body<'_>, op: Op) {
    use Op::*;
    let s = E::signed;
    match op {
        Vredsum => b.fold::<E, E>(|x, y| x.wrapping_add(y)),
        Vredand => b.fold::<E, E>(|x, y| x & y),
        Vredor => b.fold::<E, E>(|x, y| x | y),
        Vredxor => b.fold::<E, E>(|x, y| x ^ y),
        Vredminu => b.fold::<E, E>(|x, y| x.min(E::unsigned(y))),
        Vredmaxu => b.fold::<E, E>(|x, y| x.max(E::unsigned(y))),
        Vredmin => b.fold::<E, E>(|x, y| E::unsigned(s(x).min(s(y)) as u64)),
        _ => b.fold::<E, E>(|x, y| E::unsigned(s(x).max(s(y)) as u64)),
    }
}

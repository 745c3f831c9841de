//! FMA3.

use std::arch::asm;

use rhea_softfloat::{Env, F32, F64, Negate, fma};

use crate::values::{Random, f32_edges, f64_edges};

const DEFAULT_MXCSR: u32 = 0x1f80;

/// VFMADD213-like instructions: `(a, b, c) → ±(b × a) ± c`.
macro_rules! native_fma {
    ($name:ident, $op:literal, $float:ident, $repr:ty) => {
        fn $name(a: $repr, b: $repr, c: $repr, mxcsr: u32) -> ($repr, u32) {
            let mut after = mxcsr;
            let mut x = $float::from_bits(a);
            // SAFETY: MXCSR masks all exceptions and is restored; the memory operands are locals. The caller has
            // checked that the processor has FMA.
            unsafe {
                asm!(
                    "ldmxcsr [{after}]",
                    concat!($op, " {x}, {y}, {z}"),
                    "stmxcsr [{after}]",
                    "ldmxcsr [{default}]",
                    after = in(reg) &mut after,
                    default = in(reg) &DEFAULT_MXCSR,
                    x = inout(xmm_reg) x,
                    y = in(xmm_reg) $float::from_bits(b),
                    z = in(xmm_reg) $float::from_bits(c),
                );
            }
            (x.to_bits(), after & 0x3f)
        }
    };
}

native_fma!(vfmadd213ss, "vfmadd213ss", f32, u32);
native_fma!(vfmadd213sd, "vfmadd213sd", f64, u64);
native_fma!(vfmsub213sd, "vfmsub213sd", f64, u64);
native_fma!(vfnmadd213sd, "vfnmadd213sd", f64, u64);

native_fma!(vfmadd132ss, "vfmadd132ss", f32, u32);
native_fma!(vfmadd231ss, "vfmadd231ss", f32, u32);

/// Which NaN comes out follows the order in which the manual writes the operands of the product and the sum:
/// `132` is `op1 × op3 + op2`, `213` is `op2 × op1 + op3`, `231` is `op2 × op3 + op1`.
#[test]
fn nan_preference_of_the_operand_orders() {
    if !is_x86_feature_detected!("fma") {
        return;
    }
    let values = [0x3f80_0000, 0x7fc0_0001, 0xffc0_0002, 0x7f80_0003, 0x7f80_0000, 0];
    for a in values {
        for b in values {
            for c in values.map(|value| if value & 0x40_0000 != 0 { value + 8 } else { value }) {
                let soft = |x, y, z| {
                    let mut env = Env::SSE;
                    (fma(F32(x), F32(y), F32(z), Negate::default(), &mut env).0, u32::from(env.flags.bits()))
                };
                assert_eq!(vfmadd132ss(a, b, c, DEFAULT_MXCSR), soft(a, c, b), "132 {a:#x} {b:#x} {c:#x}");
                assert_eq!(vfmadd213ss(a, b, c, DEFAULT_MXCSR), soft(b, a, c), "213 {a:#x} {b:#x} {c:#x}");
                assert_eq!(vfmadd231ss(a, b, c, DEFAULT_MXCSR), soft(b, c, a), "231 {a:#x} {b:#x} {c:#x}");
            }
        }
    }
}

/// A third operand that nearly cancels the product now and then.
fn cancelling(random: &mut Random, a: u64, b: u64) -> u64 {
    let product = f64::from_bits(a) * f64::from_bits(b);
    match random.next() & 3 {
        0 => (-product).to_bits(),
        1 => (-product).to_bits() ^ 1,
        2 => (-product).to_bits().wrapping_sub((random.next() & 3) << 52),
        _ => random.f64(),
    }
}

#[test]
fn f32_fused() {
    if !is_x86_feature_detected!("fma") {
        return;
    }
    let check = |a, b, c, control| {
        let mut env = Env::from_mxcsr(control);
        let soft = fma(F32(b), F32(a), F32(c), Negate::default(), &mut env).0;
        let (got, native) = ((soft, u32::from(env.flags.bits())), vfmadd213ss(a, b, c, control));
        assert!(
            got == native,
            "vfmadd213ss {a:#x} {b:#x} {c:#x} mxcsr {control:#x}: {got:x?}, not {native:x?}"
        );
    };
    for rounding in 0..4 {
        for flush in [0, 1 << 15 | 1 << 6] {
            let control = DEFAULT_MXCSR | rounding << 13 | flush;
            for a in f32_edges() {
                for b in f32_edges() {
                    for c in f32_edges().into_iter().step_by(3) {
                        check(a, b, c, control);
                    }
                }
            }
            let mut random = Random::new(21);
            for _ in 0..100_000 {
                check(random.f32(), random.f32(), random.f32(), control);
            }
        }
    }
}

#[test]
fn f64_fused() {
    if !is_x86_feature_detected!("fma") {
        return;
    }
    let check = |a, b, c, control| {
        let forms: [(fn(u64, u64, u64, u32) -> (u64, u32), Negate); 3] = [
            (vfmadd213sd, Negate::default()),
            (vfmsub213sd, Negate { product: false, addend: true }),
            (vfnmadd213sd, Negate { product: true, addend: false }),
        ];
        for (native, negate) in forms {
            let mut env = Env::from_mxcsr(control);
            let soft = fma(F64(b), F64(a), F64(c), negate, &mut env).0;
            let (got, native) = ((soft, u32::from(env.flags.bits())), native(a, b, c, control));
            assert!(
                got == native,
                "{negate:?} {a:#x} {b:#x} {c:#x} mxcsr {control:#x}: {got:x?}, not {native:x?}"
            );
        }
    };
    for rounding in 0..4 {
        for flush in [0, 1 << 15 | 1 << 6] {
            let control = DEFAULT_MXCSR | rounding << 13 | flush;
            for a in f64_edges() {
                for b in f64_edges() {
                    for c in f64_edges().into_iter().step_by(5) {
                        check(a, b, c, control);
                    }
                }
            }
            let mut random = Random::new(23);
            for _ in 0..100_000 {
                let (a, b) = (random.f64(), random.f64());
                let c = cancelling(&mut random, a, b);
                check(a, b, c, control);
            }
        }
    }
}

//! SSE, SSE2, SSE4.1 and F16C.

use std::arch::asm;

use rhea_softfloat::{
    Env, F16, F32, F64, MinMaxRule, Relation, Rounding, add, compare_quiet, compare_signaling, convert, div,
    from_i64, max, min, mul, round_to_integral, sqrt, sub, to_signed,
};

use crate::values::{Random, f16_all, f32_edges, f64_edges};

const DEFAULT_MXCSR: u32 = 0x1f80;

/// Every rounding mode with every combination of FTZ and DAZ, and underflow unmasked is left to the x87 test, since an
/// unmasked SSE exception traps.
fn controls() -> Vec<u32> {
    let mut all = vec![];
    for rounding in 0..4 {
        for flush in [0, 1 << 15, 1 << 6, 1 << 15 | 1 << 6] {
            all.push(DEFAULT_MXCSR | rounding << 13 | flush);
        }
    }
    all
}

/// A native instruction `op destination, source` on bit patterns: `(destination, source, MXCSR) → (result, MXCSR)`.
macro_rules! native {
    ($name:ident, $op:literal, $result:ident : $result_repr:ty, $source:ident : $source_repr:ty) => {
        fn $name(a: $result_repr, b: $source_repr, mxcsr: u32) -> ($result_repr, u32) {
            let mut after = mxcsr;
            let mut x = $result::from_bits(a);
            // SAFETY: MXCSR masks all exceptions and is restored; the memory operands are locals.
            unsafe {
                asm!(
                    "ldmxcsr [{after}]",
                    concat!($op, " {x}, {y}"),
                    "stmxcsr [{after}]",
                    "ldmxcsr [{default}]",
                    after = in(reg) &mut after,
                    default = in(reg) &DEFAULT_MXCSR,
                    x = inout(xmm_reg) x,
                    y = in(xmm_reg) $source::from_bits(b),
                );
            }
            (x.to_bits(), after & 0x3f)
        }
    };
}

/// A native instruction whose operands are general registers or a mixture.
macro_rules! native_mixed {
    ($name:ident, $op:literal, $class:ident $from:ty, $to_class:ident $to:ty) => {
        fn $name(a: $from, mxcsr: u32) -> ($to, u32) {
            let mut after = mxcsr;
            let x: $to;
            // SAFETY: MXCSR masks all exceptions and is restored; the memory operands are locals.
            unsafe {
                asm!(
                    "ldmxcsr [{after}]",
                    $op,
                    "stmxcsr [{after}]",
                    "ldmxcsr [{default}]",
                    after = in(reg) &mut after,
                    default = in(reg) &DEFAULT_MXCSR,
                    x = out($to_class) x,
                    y = in($class) a,
                );
            }
            (x, after & 0x3f)
        }
    };
}

native!(addss, "addss", f32: u32, f32: u32);
native!(subss, "subss", f32: u32, f32: u32);
native!(mulss, "mulss", f32: u32, f32: u32);
native!(divss, "divss", f32: u32, f32: u32);
native!(minss, "minss", f32: u32, f32: u32);
native!(maxss, "maxss", f32: u32, f32: u32);
native!(sqrtss, "sqrtss", f32: u32, f32: u32);
native!(addsd, "addsd", f64: u64, f64: u64);
native!(subsd, "subsd", f64: u64, f64: u64);
native!(mulsd, "mulsd", f64: u64, f64: u64);
native!(divsd, "divsd", f64: u64, f64: u64);
native!(minsd, "minsd", f64: u64, f64: u64);
native!(maxsd, "maxsd", f64: u64, f64: u64);
native!(sqrtsd, "sqrtsd", f64: u64, f64: u64);
native!(cvtss2sd, "cvtss2sd", f64: u64, f32: u32);
native!(cvtsd2ss, "cvtsd2ss", f32: u32, f64: u64);
native_mixed!(cvtss2si, "cvtss2si {x:e}, {y}", xmm_reg f32, reg i32);
native_mixed!(cvtss2si64, "cvtss2si {x:r}, {y}", xmm_reg f32, reg i64);
native_mixed!(cvttss2si, "cvttss2si {x:e}, {y}", xmm_reg f32, reg i32);
native_mixed!(cvtsd2si, "cvtsd2si {x:e}, {y}", xmm_reg f64, reg i32);
native_mixed!(cvtsd2si64, "cvtsd2si {x:r}, {y}", xmm_reg f64, reg i64);
native_mixed!(cvttsd2si64, "cvttsd2si {x:r}, {y}", xmm_reg f64, reg i64);
native_mixed!(cvtsi2ss, "cvtsi2ss {x}, {y:r}", reg i64, xmm_reg f32);
native_mixed!(cvtsi2sd, "cvtsi2sd {x}, {y:r}", reg i64, xmm_reg f64);
native_mixed!(roundss, "roundss {x}, {y}, 4", xmm_reg f32, xmm_reg f32);
native_mixed!(roundsd, "roundsd {x}, {y}, 4", xmm_reg f64, xmm_reg f64);
native_mixed!(roundsd_quiet, "roundsd {x}, {y}, 9", xmm_reg f64, xmm_reg f64);

fn check_f32(name: &str, native: fn(u32, u32, u32) -> (u32, u32), soft: fn(F32, F32, &mut Env) -> F32) {
    let check = |a: u32, b: u32, control: u32| {
        let mut env = Env::from_mxcsr(control);
        let result = soft(F32(a), F32(b), &mut env).0;
        let got = (result, u32::from(env.flags.bits()));
        let expected = native(a, b, control);
        assert!(got == expected, "{name} {a:#x}, {b:#x} mxcsr {control:#x}: {got:x?}, not {expected:x?}");
    };
    for control in controls() {
        for a in f32_edges() {
            for b in f32_edges() {
                check(a, b, control);
            }
        }
        let mut random = Random::new(u64::from(control));
        for _ in 0..20_000 {
            check(random.f32(), random.f32(), control);
        }
    }
}

fn check_f64(name: &str, native: fn(u64, u64, u32) -> (u64, u32), soft: fn(F64, F64, &mut Env) -> F64) {
    let check = |a: u64, b: u64, control: u32| {
        let mut env = Env::from_mxcsr(control);
        let result = soft(F64(a), F64(b), &mut env).0;
        let got = (result, u32::from(env.flags.bits()));
        let expected = native(a, b, control);
        assert!(got == expected, "{name} {a:#x}, {b:#x} mxcsr {control:#x}: {got:x?}, not {expected:x?}");
    };
    for control in controls() {
        for a in f64_edges() {
            for b in f64_edges() {
                check(a, b, control);
            }
        }
        let mut random = Random::new(u64::from(control));
        for _ in 0..20_000 {
            check(random.f64(), random.f64(), control);
        }
    }
}

#[test]
fn f32_arithmetic() {
    check_f32("addss", addss, add);
    check_f32("subss", subss, sub);
    check_f32("mulss", mulss, mul);
    check_f32("divss", divss, div);
    check_f32("sqrtss", sqrtss, |_, b, env| sqrt(b, env));
}

#[test]
fn f64_arithmetic() {
    check_f64("addsd", addsd, add);
    check_f64("subsd", subsd, sub);
    check_f64("mulsd", mulsd, mul);
    check_f64("divsd", divsd, div);
    check_f64("sqrtsd", sqrtsd, |_, b, env| sqrt(b, env));
}

#[test]
fn min_and_max() {
    check_f32("minss", minss, |a, b, env| min(a, b, MinMaxRule::SecondOperand, env));
    check_f32("maxss", maxss, |a, b, env| max(a, b, MinMaxRule::SecondOperand, env));
    check_f64("minsd", minsd, |a, b, env| min(a, b, MinMaxRule::SecondOperand, env));
    check_f64("maxsd", maxsd, |a, b, env| max(a, b, MinMaxRule::SecondOperand, env));
}

/// ZF, PF, CF and the MXCSR flags of a comparison.
macro_rules! native_compare {
    ($name:ident, $op:literal, $float:ident, $repr:ty) => {
        fn $name(a: $repr, b: $repr, mxcsr: u32) -> (u64, u32) {
            let mut after = mxcsr;
            let flags: u64;
            // SAFETY: MXCSR masks all exceptions and is restored; the memory operands are locals.
            unsafe {
                asm!(
                    "ldmxcsr [{after}]",
                    concat!($op, " {x}, {y}"),
                    "pushfq",
                    "pop {flags}",
                    "stmxcsr [{after}]",
                    "ldmxcsr [{default}]",
                    after = in(reg) &mut after,
                    default = in(reg) &DEFAULT_MXCSR,
                    flags = out(reg) flags,
                    x = in(xmm_reg) $float::from_bits(a),
                    y = in(xmm_reg) $float::from_bits(b),
                );
            }
            (flags & 0x45, after & 0x3f)
        }
    };
}

native_compare!(comiss, "comiss", f32, u32);
native_compare!(ucomisd, "ucomisd", f64, u64);

fn relation_flags(relation: Relation) -> u64 {
    match relation {
        Relation::Greater => 0,
        Relation::Less => 1,
        Relation::Equal => 0x40,
        Relation::Unordered => 0x45,
    }
}

#[test]
fn comparisons() {
    for control in controls() {
        for a in f32_edges() {
            for b in f32_edges() {
                let mut env = Env::from_mxcsr(control);
                let relation = compare_signaling(F32(a), F32(b), &mut env);
                let got = (relation_flags(relation), u32::from(env.flags.bits()));
                assert_eq!(got, comiss(a, b, control), "comiss {a:#x}, {b:#x} mxcsr {control:#x}");
            }
        }
        for a in f64_edges() {
            for b in f64_edges() {
                let mut env = Env::from_mxcsr(control);
                let relation = compare_quiet(F64(a), F64(b), &mut env);
                let got = (relation_flags(relation), u32::from(env.flags.bits()));
                assert_eq!(got, ucomisd(a, b, control), "ucomisd {a:#x}, {b:#x} mxcsr {control:#x}");
            }
        }
    }
}

#[test]
fn format_conversions() {
    for control in controls() {
        let mut random = Random::new(3);
        for a in f32_edges().into_iter().chain((0..20_000).map(|_| random.f32())) {
            let mut env = Env::from_mxcsr(control);
            let wide: F64 = convert(F32(a), &mut env);
            let got = (wide.0, u32::from(env.flags.bits()));
            assert_eq!(got, cvtss2sd(0, a, control), "cvtss2sd {a:#x} mxcsr {control:#x}");
        }
        let mut random = Random::new(5);
        let near_f32 = |random: &mut Random| {
            // Exponents about the range of f32.
            let bits = random.f64();
            bits & !(0x7ff << 52) | ((0x3ff - 160 + bits % 320) << 52)
        };
        let random = (0..40_000).map(|n| if n & 1 == 0 { random.f64() } else { near_f32(&mut random) });
        for a in f64_edges().into_iter().chain(random) {
            let mut env = Env::from_mxcsr(control);
            let narrow: F32 = convert(F64(a), &mut env);
            let got = (narrow.0, u32::from(env.flags.bits()));
            assert_eq!(got, cvtsd2ss(0, a, control), "cvtsd2ss {a:#x} mxcsr {control:#x}");
        }
    }
}

#[test]
fn integer_conversions() {
    for control in controls() {
        let mut random = Random::new(7);
        for a in f32_edges().into_iter().chain((0..10_000).map(|_| random.f32())) {
            let case = |bits, rounding: Option<Rounding>| {
                let mut env = Env::from_mxcsr(control);
                let rounding = rounding.unwrap_or(env.rounding);
                let value = to_signed(F32(a), bits, rounding, &mut env);
                (value, u32::from(env.flags.bits()))
            };
            let a = f32::from_bits(a);
            let wide = |(value, flags): (i32, u32)| (i64::from(value), flags);
            assert_eq!(case(32, None), wide(cvtss2si(a, control)), "cvtss2si {a:e} {control:#x}");
            assert_eq!(case(64, None), cvtss2si64(a, control), "cvtss2si r64 {a:e} {control:#x}");
            assert_eq!(case(32, Some(Rounding::TowardZero)), wide(cvttss2si(a, control)), "cvttss2si {a:e}");
        }
        let mut random = Random::new(9);
        for a in f64_edges().into_iter().chain((0..10_000).map(|_| random.f64())) {
            let case = |bits, rounding: Option<Rounding>| {
                let mut env = Env::from_mxcsr(control);
                let rounding = rounding.unwrap_or(env.rounding);
                let value = to_signed(F64(a), bits, rounding, &mut env);
                (value, u32::from(env.flags.bits()))
            };
            let a = f64::from_bits(a);
            let wide = |(value, flags): (i32, u32)| (i64::from(value), flags);
            assert_eq!(case(32, None), wide(cvtsd2si(a, control)), "cvtsd2si {a:e} {control:#x}");
            assert_eq!(case(64, None), cvtsd2si64(a, control), "cvtsd2si r64 {a:e} {control:#x}");
            assert_eq!(case(64, Some(Rounding::TowardZero)), cvttsd2si64(a, control), "cvttsd2si {a:e}");
        }
        let mut random = Random::new(11);
        for n in 0..20_000 {
            let a = if n < 128 { (1u64 << (n / 2)).wrapping_sub(n & 1) } else { random.next() >> (n % 64) }
                as i64;
            let mut env = Env::from_mxcsr(control);
            let soft = from_i64::<F32>(a, &mut env).0;
            let (native, flags) = cvtsi2ss(a, control);
            assert_eq!((soft, u32::from(env.flags.bits())), (native.to_bits(), flags), "cvtsi2ss {a:#x}");
            let mut env = Env::from_mxcsr(control);
            let soft = from_i64::<F64>(a, &mut env).0;
            let (native, flags) = cvtsi2sd(a, control);
            assert_eq!((soft, u32::from(env.flags.bits())), (native.to_bits(), flags), "cvtsi2sd {a:#x}");
        }
    }
}

#[test]
fn round_to_integral_values() {
    if !is_x86_feature_detected!("sse4.1") {
        return;
    }
    for control in controls() {
        let mut random = Random::new(13);
        for a in f32_edges().into_iter().chain((0..10_000).map(|_| random.f32())) {
            let mut env = Env::from_mxcsr(control);
            let soft = round_to_integral(F32(a), env.rounding, true, &mut env).0;
            let (native, flags) = roundss(f32::from_bits(a), control);
            assert_eq!(
                (soft, u32::from(env.flags.bits())),
                (native.to_bits(), flags),
                "roundss {a:#x} {control:#x}"
            );
        }
        for a in f64_edges().into_iter().chain((0..10_000).map(|_| random.f64())) {
            let mut env = Env::from_mxcsr(control);
            let soft = round_to_integral(F64(a), env.rounding, true, &mut env).0;
            let (native, flags) = roundsd(f64::from_bits(a), control);
            assert_eq!(
                (soft, u32::from(env.flags.bits())),
                (native.to_bits(), flags),
                "roundsd {a:#x} {control:#x}"
            );
            let mut env = Env::from_mxcsr(control);
            let soft = round_to_integral(F64(a), Rounding::Down, false, &mut env).0;
            let (native, flags) = roundsd_quiet(f64::from_bits(a), control);
            assert_eq!(
                (soft, u32::from(env.flags.bits())),
                (native.to_bits(), flags),
                "floor {a:#x} {control:#x}"
            );
        }
    }
}

native_mixed!(vcvtph2ps, "vmovd {x}, {y:e}\nvcvtph2ps {x}, {x}", reg u32, xmm_reg f32);
native_mixed!(vcvtps2ph, "vcvtps2ph {y}, {y}, 4\nvmovd {x:e}, {y}", xmm_reg f32, reg u32);

/// VCVTPH2PS ignores DAZ, and VCVTPS2PH ignores FTZ (Intel SDM vol. 2): the caller says so in the environment.
#[test]
fn half_precision() {
    if !is_x86_feature_detected!("f16c") {
        return;
    }
    for control in controls() {
        for a in f16_all() {
            let mut env = Env { denormals_are_zero: false, ..Env::from_mxcsr(control) };
            let soft: F32 = convert(F16(a), &mut env);
            let (native, flags) = vcvtph2ps(u32::from(a), control);
            assert_eq!((soft.0, u32::from(env.flags.bits())), (native.to_bits(), flags), "vcvtph2ps {a:#x}");
        }
        let mut random = Random::new(15);
        let near_f16 = |random: &mut Random| {
            let bits = random.f32();
            bits & !(0xff << 23) | ((100 + bits % 48) << 23)
        };
        let random = (0..40_000).map(|n| if n & 1 == 0 { random.f32() } else { near_f16(&mut random) });
        for a in f32_edges().into_iter().chain(random) {
            let mut env = Env { flush_to_zero: false, ..Env::from_mxcsr(control) };
            let soft: F16 = convert(F32(a), &mut env);
            let (native, flags) = vcvtps2ph(f32::from_bits(a), control);
            let got = (u32::from(soft.0), u32::from(env.flags.bits()));
            assert_eq!(got, (native & 0xffff, flags), "vcvtps2ph {a:#x} {control:#x}");
        }
    }
}

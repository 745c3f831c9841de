//! Floating-point lanes: results and sticky flags.

use std::arch::x86_64::*;

use rhea_ir::{Convert, Lane, Op, Rounding, Type};

use crate::bench::{Case, floats, integers};

fn ps(a: __m256i) -> __m256 {
    // SAFETY: both are 32 bytes of plain data.
    unsafe { std::mem::transmute(a) }
}

fn pd(a: __m256i) -> __m256d {
    // SAFETY: both are 32 bytes of plain data.
    unsafe { std::mem::transmute(a) }
}

/// The low 128 bits, as whatever vector the instruction takes.
fn low<T>(a: __m256i) -> T {
    assert!(size_of::<T>() <= 32);
    // SAFETY: reads at most the 32 bytes of `a`; T is a vector or an integer.
    unsafe { std::mem::transmute_copy(&a) }
}

/// A vector or an integer in the low bits.
fn wide<T>(a: T) -> __m256i {
    let mut bytes = [0u8; 32];
    let size = size_of::<T>();
    // SAFETY: copies the bytes of `a`, at most 32, which are plain data.
    unsafe {
        std::ptr::copy_nonoverlapping((&raw const a).cast::<u8>(), bytes.as_mut_ptr(), size.min(32));
        std::mem::transmute(bytes)
    }
}

#[test]
fn floating_point() {
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
    {
        // SAFETY: the processor has the features.
        unsafe {
            packed();
            scalar();
            comparisons();
            fused();
            rounding();
            conversions();
        }
    }
}

macro_rules! packed {
    ($($op:ident $single:ident $double:ident),* $(,)?) => {
        $(
            floats(stringify!($single), Case::new(Op::$op, Type::V256, Lane::F32, 2), 4,
                &|a, b, _| wide($single(ps(a), ps(b))));
            floats(stringify!($double), Case::new(Op::$op, Type::V256, Lane::F64, 2), 8,
                &|a, b, _| wide($double(pd(a), pd(b))));
        )*
    };
}

#[target_feature(enable = "avx2")]
fn packed() {
    packed! {
        FAdd _mm256_add_ps _mm256_add_pd, FSub _mm256_sub_ps _mm256_sub_pd, FMul _mm256_mul_ps _mm256_mul_pd,
        FDiv _mm256_div_ps _mm256_div_pd, FMin _mm256_min_ps _mm256_min_pd, FMax _mm256_max_ps _mm256_max_pd,
        FAddSub _mm256_addsub_ps _mm256_addsub_pd, FHAdd _mm256_hadd_ps _mm256_hadd_pd,
        FHSub _mm256_hsub_ps _mm256_hsub_pd,
    }
    floats("sqrtps", Case::new(Op::FSqrt, Type::V256, Lane::F32, 2), 4, &|_, b, _| {
        wide(_mm256_sqrt_ps(ps(b)))
    });
    floats("sqrtpd", Case::new(Op::FSqrt, Type::V256, Lane::F64, 2), 8, &|_, b, _| {
        wide(_mm256_sqrt_pd(pd(b)))
    });
    floats("dpps", Case::new(Op::FDot, Type::V256, Lane::F32, 2).imm(0xf5), 4, &|a, b, _| {
        wide(_mm256_dp_ps::<0xf5>(ps(a), ps(b)))
    });
    floats("dpps", Case::new(Op::FDot, Type::V256, Lane::F32, 2).imm(0x6a), 4, &|a, b, _| {
        wide(_mm256_dp_ps::<0x6a>(ps(a), ps(b)))
    });
    floats("dppd", Case::new(Op::FDot, Type::V128, Lane::F64, 2).imm(0x31), 8, &|a, b, _| {
        wide(_mm_dp_pd::<0x31>(low(a), low(b)))
    });
}

macro_rules! scalar {
    ($($op:ident $single:ident $double:ident),* $(,)?) => {
        $(
            floats(stringify!($single), Case::new(Op::$op, Type::V128, Lane::S32, 2), 4,
                &|a, b, _| wide($single(low(a), low(b))));
            floats(stringify!($double), Case::new(Op::$op, Type::V128, Lane::S64, 2), 8,
                &|a, b, _| wide($double(low(a), low(b))));
        )*
    };
}

#[target_feature(enable = "avx2")]
fn scalar() {
    scalar! {
        FAdd _mm_add_ss _mm_add_sd, FSub _mm_sub_ss _mm_sub_sd, FMul _mm_mul_ss _mm_mul_sd,
        FDiv _mm_div_ss _mm_div_sd, FMin _mm_min_ss _mm_min_sd, FMax _mm_max_ss _mm_max_sd,
    }
    floats("sqrtsd", Case::new(Op::FSqrt, Type::V128, Lane::S64, 2), 8, &|a, b, _| {
        wide(_mm_sqrt_sd(low(a), low(b)))
    });
    floats("addss of type f32", Case::new(Op::FAdd, Type::F32, Lane::F32, 2), 4, &|a, b, _| {
        wide(_mm_add_ss(low(a), low(b)))
    });
    floats("mulsd of type f64", Case::new(Op::FMul, Type::F64, Lane::F64, 2), 8, &|a, b, _| {
        wide(_mm_mul_sd(low(a), low(b)))
    });
}

#[target_feature(enable = "avx2")]
fn comparisons() {
    // The processor's predicates 0 to 15, and with bit 4 flipped, are numbered as the IR's.
    macro_rules! predicates {
        ($($predicate:literal)*) => {
            $(
                floats(concat!("cmpps ", $predicate), Case::new(Op::FCmp, Type::V256, Lane::F32, 2).aux($predicate), 4,
                    &|a, b, _| wide(_mm256_cmp_ps::<$predicate>(ps(a), ps(b))));
                floats(concat!("cmpsd ", $predicate), Case::new(Op::FCmp, Type::V128, Lane::S64, 2).aux($predicate), 8,
                    &|a, b, _| wide(_mm_cmp_sd::<$predicate>(low(a), low(b))));
            )*
        };
    }
    predicates! { 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 }
    let test = |condition, signaling: u8| {
        Case::new(Op::FTest, Type::I8, Lane::S32, 2).source(Type::V128).aux(condition | signaling << 4)
    };
    floats("comieq", test(0, 1), 4, &|a, b, _| wide(_mm_comieq_ss(low(a), low(b))));
    floats("ucomilt", test(1, 0), 4, &|a, b, _| wide(_mm_ucomilt_ss(low(a), low(b))));
    floats("comige", test(13, 1), 4, &|a, b, _| wide(_mm_comige_ss(low(a), low(b))));
    let relation = Case::new(Op::FRel, Type::I32, Lane::S64, 2).source(Type::V128);
    floats("ucomisd", relation, 8, &|a, b, _| {
        let (less, greater) = (_mm_ucomilt_sd(low(a), low(b)), _mm_ucomigt_sd(low(a), low(b)));
        let equal = _mm_ucomieq_sd(low(a), low(b));
        wide(if greater != 0 {
            0
        } else if less != 0 {
            1
        } else if equal != 0 {
            2
        } else {
            3
        })
    });
}

#[target_feature(enable = "avx2,fma")]
fn fused() {
    let case = |lane, aux| Case::new(Op::FMulAdd, Type::V256, lane, 3).aux(aux);
    floats("vfmadd ps", case(Lane::F32, 0), 4, &|a, b, c| wide(_mm256_fmadd_ps(ps(a), ps(b), ps(c))));
    floats("vfmsub pd", case(Lane::F64, 2), 8, &|a, b, c| wide(_mm256_fmsub_pd(pd(a), pd(b), pd(c))));
    floats("vfnmadd pd", case(Lane::F64, 1), 8, &|a, b, c| wide(_mm256_fnmadd_pd(pd(a), pd(b), pd(c))));
    floats("vfnmsub ps", case(Lane::F32, 3), 4, &|a, b, c| wide(_mm256_fnmsub_ps(ps(a), ps(b), ps(c))));
    floats("vfmaddsub ps", case(Lane::F32, 4), 4, &|a, b, c| wide(_mm256_fmaddsub_ps(ps(a), ps(b), ps(c))));
    floats("vfmsubadd pd", case(Lane::F64, 6), 8, &|a, b, c| wide(_mm256_fmsubadd_pd(pd(a), pd(b), pd(c))));
    let scalar = Case::new(Op::FMulAdd, Type::V128, Lane::S64, 3);
    floats("vfmadd sd", scalar, 8, &|a, b, c| wide(_mm_fmadd_sd(low(a), low(b), low(c))));
}

#[target_feature(enable = "avx2")]
fn rounding() {
    let case = |lane, aux: u8| Case::new(Op::FRound, Type::V256, lane, 2).aux(aux);
    floats("roundps current", case(Lane::F32, 4), 4, &|_, b, _| wide(_mm256_round_ps::<4>(ps(b))));
    floats("roundpd nearest", case(Lane::F64, 0), 8, &|_, b, _| wide(_mm256_round_pd::<0>(pd(b))));
    floats("roundpd up quiet", case(Lane::F64, 8 + 2), 8, &|_, b, _| wide(_mm256_round_pd::<10>(pd(b))));
    floats("roundps zero", case(Lane::F32, 3), 4, &|_, b, _| wide(_mm256_round_ps::<3>(ps(b))));
    let scalar = Case::new(Op::FRound, Type::V128, Lane::S32, 2).aux(1);
    floats("roundss down", scalar, 4, &|a, b, _| wide(_mm_round_ss::<1>(low(a), low(b))));
}

#[target_feature(enable = "avx2,f16c")]
fn conversions() {
    let to_int =
        |ty, lane, rounding| Case::new(Op::FToInt, ty, lane, 1).source(Type::V128).aux(rounding as u8);
    let (current, zero) = (Rounding::Current, Rounding::Zero);
    floats("cvtss2si", to_int(Type::I32, Lane::S32, current), 4, &|a, _, _| wide(_mm_cvtss_si32(low(a))));
    floats("cvttss2si", to_int(Type::I64, Lane::S32, zero), 4, &|a, _, _| wide(_mm_cvttss_si64(low(a))));
    floats("cvtsd2si", to_int(Type::I64, Lane::S64, current), 8, &|a, _, _| wide(_mm_cvtsd_si64(low(a))));
    floats("cvttsd2si", to_int(Type::I32, Lane::S64, zero), 8, &|a, _, _| wide(_mm_cvttsd_si32(low(a))));
    let from_int = |lane, ty| Case::new(Op::FFromInt, Type::V128, lane, 2).second(ty);
    integers("cvtsi2ss", from_int(Lane::S32, Type::I64), &|a, b, _| wide(_mm_cvtsi64_ss(low(a), low(b))));
    integers("cvtsi2sd", from_int(Lane::S64, Type::I32), &|a, b, _| wide(_mm_cvtsi32_sd(low(a), low(b))));
    let convert = |lane| Case::new(Op::FConvert, Type::V128, lane, 2);
    floats("cvtsd2ss", convert(Lane::S32), 8, &|a, b, _| wide(_mm_cvtsd_ss(low(a), low(b))));
    floats("cvtss2sd", convert(Lane::S64), 4, &|a, b, _| wide(_mm_cvtss_sd(low(a), low(b))));
    let packed = |kind: Convert, ty, source| {
        Case::new(Op::VConvert, ty, Lane::None, 1)
            .source(source)
            .aux(kind as u8)
            .imm(Rounding::Current as u64)
    };
    let (v128, v256) = (Type::V128, Type::V256);
    integers("cvtdq2ps", packed(Convert::I32ToF32, v256, v256), &|a, _, _| wide(_mm256_cvtepi32_ps(a)));
    integers("cvtdq2pd", packed(Convert::I32ToF64, v256, v128), &|a, _, _| wide(_mm256_cvtepi32_pd(low(a))));
    floats("cvtps2dq", packed(Convert::F32ToI32, v256, v256), 4, &|a, _, _| wide(_mm256_cvtps_epi32(ps(a))));
    floats("cvttps2dq", packed(Convert::F32ToI32Trunc, v256, v256), 4, &|a, _, _| {
        wide(_mm256_cvttps_epi32(ps(a)))
    });
    floats("cvtpd2dq", packed(Convert::F64ToI32, v128, v256), 8, &|a, _, _| wide(_mm256_cvtpd_epi32(pd(a))));
    floats("cvttpd2dq", packed(Convert::F64ToI32Trunc, v128, v128), 8, &|a, _, _| {
        wide(_mm_cvttpd_epi32(low(a)))
    });
    floats("cvtps2pd", packed(Convert::F32ToF64, v256, v128), 4, &|a, _, _| wide(_mm256_cvtps_pd(low(a))));
    floats("cvtps2pd", packed(Convert::F32ToF64, v128, v128), 4, &|a, _, _| wide(_mm_cvtps_pd(low(a))));
    floats("cvtpd2ps", packed(Convert::F64ToF32, v128, v256), 8, &|a, _, _| wide(_mm256_cvtpd_ps(pd(a))));
    floats("cvtpd2ps", packed(Convert::F64ToF32, v128, v128), 8, &|a, _, _| wide(_mm_cvtpd_ps(low(a))));
    integers("vcvtph2ps", packed(Convert::F16ToF32, v256, v128), &|a, _, _| wide(_mm256_cvtph_ps(low(a))));
    floats("vcvtps2ph", packed(Convert::F32ToF16, v128, v256), 4, &|a, _, _| {
        wide(_mm256_cvtps_ph::<4>(ps(a)))
    });
}

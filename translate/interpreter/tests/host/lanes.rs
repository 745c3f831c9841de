//! Integer lanes.

use std::arch::x86_64::*;

use rhea_ir::{Lane, Op, Type};

use crate::bench::{Case, integers};

macro_rules! pairs {
    ($($op:ident $lane:ident $intrinsic:ident),* $(,)?) => {
        $(integers(
            stringify!($intrinsic),
            Case::new(Op::$op, Type::V256, Lane::$lane, 2),
            &|a, b, _| $intrinsic(a, b),
        );)*
    };
}

macro_rules! singles {
    ($($op:ident $lane:ident $intrinsic:ident),* $(,)?) => {
        $(integers(
            stringify!($intrinsic),
            Case::new(Op::$op, Type::V256, Lane::$lane, 1),
            &|a, _, _| $intrinsic(a),
        );)*
    };
}

macro_rules! immediates {
    ($($op:ident $lane:ident $intrinsic:ident [$($imm:literal)*]),* $(,)?) => {
        $($(integers(
            concat!(stringify!($intrinsic), " ", $imm),
            Case::new(Op::$op, Type::V256, Lane::$lane, 1).imm($imm),
            &|a, _, _| $intrinsic::<$imm>(a),
        );)*)*
    };
}

#[test]
fn integer_lanes() {
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        unsafe {
            arithmetic();
            shifts();
        }
    }
}

#[target_feature(enable = "avx2")]
fn arithmetic() {
    pairs! {
        VAnd None _mm256_and_si256, VOr None _mm256_or_si256, VXor None _mm256_xor_si256,
        VAdd I8 _mm256_add_epi8, VAdd I16 _mm256_add_epi16, VAdd I32 _mm256_add_epi32, VAdd I64 _mm256_add_epi64,
        VSub I8 _mm256_sub_epi8, VSub I16 _mm256_sub_epi16, VSub I32 _mm256_sub_epi32, VSub I64 _mm256_sub_epi64,
        VAddSatS I8 _mm256_adds_epi8, VAddSatS I16 _mm256_adds_epi16,
        VAddSatU I8 _mm256_adds_epu8, VAddSatU I16 _mm256_adds_epu16,
        VSubSatS I8 _mm256_subs_epi8, VSubSatS I16 _mm256_subs_epi16,
        VSubSatU I8 _mm256_subs_epu8, VSubSatU I16 _mm256_subs_epu16,
        VMul I16 _mm256_mullo_epi16, VMul I32 _mm256_mullo_epi32,
        VMulHiS I16 _mm256_mulhi_epi16, VMulHiU I16 _mm256_mulhi_epu16, VMulHiRoundS I16 _mm256_mulhrs_epi16,
        VMulEvenU I32 _mm256_mul_epu32, VMulEvenS I32 _mm256_mul_epi32,
        VMulAddPairs I16 _mm256_madd_epi16, VMulAddPairsUS I8 _mm256_maddubs_epi16,
        VSad I8 _mm256_sad_epu8, VAvgU I8 _mm256_avg_epu8, VAvgU I16 _mm256_avg_epu16,
        VMinS I8 _mm256_min_epi8, VMinS I16 _mm256_min_epi16, VMinS I32 _mm256_min_epi32,
        VMinU I8 _mm256_min_epu8, VMinU I16 _mm256_min_epu16, VMinU I32 _mm256_min_epu32,
        VMaxS I8 _mm256_max_epi8, VMaxS I16 _mm256_max_epi16, VMaxS I32 _mm256_max_epi32,
        VMaxU I8 _mm256_max_epu8, VMaxU I16 _mm256_max_epu16, VMaxU I32 _mm256_max_epu32,
        VSign I8 _mm256_sign_epi8, VSign I16 _mm256_sign_epi16, VSign I32 _mm256_sign_epi32,
        VHAdd I16 _mm256_hadd_epi16, VHAdd I32 _mm256_hadd_epi32, VHAddSat I16 _mm256_hadds_epi16,
        VHSub I16 _mm256_hsub_epi16, VHSub I32 _mm256_hsub_epi32, VHSubSat I16 _mm256_hsubs_epi16,
        VCmpEq I8 _mm256_cmpeq_epi8, VCmpEq I16 _mm256_cmpeq_epi16,
        VCmpEq I32 _mm256_cmpeq_epi32, VCmpEq I64 _mm256_cmpeq_epi64,
        VCmpGtS I8 _mm256_cmpgt_epi8, VCmpGtS I16 _mm256_cmpgt_epi16,
        VCmpGtS I32 _mm256_cmpgt_epi32, VCmpGtS I64 _mm256_cmpgt_epi64,
    }
    singles! { VAbs I8 _mm256_abs_epi8, VAbs I16 _mm256_abs_epi16, VAbs I32 _mm256_abs_epi32 }
    let and_not = Case::new(Op::VAndNot, Type::V256, Lane::None, 2);
    integers("andnot", and_not, &|a, b, _| _mm256_andnot_si256(b, a));
}

#[target_feature(enable = "avx2")]
fn shifts() {
    immediates! {
        VShlImm I16 _mm256_slli_epi16 [0 3 15 16 200], VShlImm I32 _mm256_slli_epi32 [0 31 32],
        VShlImm I64 _mm256_slli_epi64 [1 63 64],
        VShrImm I16 _mm256_srli_epi16 [0 3 15 16 200], VShrImm I32 _mm256_srli_epi32 [0 31 32],
        VShrImm I64 _mm256_srli_epi64 [1 63 64],
        VSarImm I16 _mm256_srai_epi16 [0 3 15 16 200], VSarImm I32 _mm256_srai_epi32 [0 31 32],
    }
    pairs! {
        VShlVar I32 _mm256_sllv_epi32, VShlVar I64 _mm256_sllv_epi64, VShrVar I32 _mm256_srlv_epi32,
        VShrVar I64 _mm256_srlv_epi64, VSarVar I32 _mm256_srav_epi32,
    }
    type Shift = unsafe fn(__m256i, __m128i) -> __m256i;
    let forms: [(Op, Lane, Shift); 8] = [
        (Op::VShl, Lane::I16, _mm256_sll_epi16),
        (Op::VShl, Lane::I32, _mm256_sll_epi32),
        (Op::VShl, Lane::I64, _mm256_sll_epi64),
        (Op::VShr, Lane::I16, _mm256_srl_epi16),
        (Op::VShr, Lane::I32, _mm256_srl_epi32),
        (Op::VShr, Lane::I64, _mm256_srl_epi64),
        (Op::VSar, Lane::I16, _mm256_sra_epi16),
        (Op::VSar, Lane::I32, _mm256_sra_epi32),
    ];
    for (op, lane, native) in forms {
        // The count's low 64 bits, mostly far too large.
        let case = Case::new(op, Type::V256, lane, 2);
        // SAFETY: the processor has AVX2.
        integers("shift", case, &|a, b, _| unsafe { native(a, _mm256_castsi256_si128(b)) });
    }
}

//! Shuffles, packs, extracts and tests.

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

macro_rules! immediates {
    ($($op:ident $lane:ident $intrinsic:ident [$($imm:literal)*]),* $(,)?) => {
        $($(integers(
            concat!(stringify!($intrinsic), " ", $imm),
            Case::new(Op::$op, Type::V256, Lane::$lane, 1).imm($imm),
            &|a, _, _| $intrinsic::<$imm>(a),
        );)*)*
    };
}

macro_rules! pair_immediates {
    ($($op:ident $lane:ident $intrinsic:ident [$($imm:literal)*]),* $(,)?) => {
        $($(integers(
            concat!(stringify!($intrinsic), " ", $imm),
            Case::new(Op::$op, Type::V256, Lane::$lane, 2).imm($imm),
            &|a, b, _| $intrinsic::<$imm>(a, b),
        );)*)*
    };
}

#[test]
fn shuffles() {
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        unsafe {
            packs_and_permutations();
            float_shuffles();
            narrow_results();
        }
    }
}

#[target_feature(enable = "avx2")]
fn packs_and_permutations() {
    pairs! {
        VUnpackLo I8 _mm256_unpacklo_epi8, VUnpackLo I16 _mm256_unpacklo_epi16,
        VUnpackLo I32 _mm256_unpacklo_epi32, VUnpackLo I64 _mm256_unpacklo_epi64,
        VUnpackHi I8 _mm256_unpackhi_epi8, VUnpackHi I16 _mm256_unpackhi_epi16,
        VUnpackHi I32 _mm256_unpackhi_epi32, VUnpackHi I64 _mm256_unpackhi_epi64,
        VPackSS I16 _mm256_packs_epi16, VPackSS I32 _mm256_packs_epi32,
        VPackUS I16 _mm256_packus_epi16, VPackUS I32 _mm256_packus_epi32,
        VShuffleBytes I8 _mm256_shuffle_epi8, VPermute32 I32 _mm256_permutevar8x32_epi32,
    }
    immediates! {
        VShlBytes None _mm256_bslli_epi128 [0 1 7 15 16 255], VShrBytes None _mm256_bsrli_epi128 [0 1 7 15 16 255],
        VShuffle32 I32 _mm256_shuffle_epi32 [0x1b 0xe4 0x72],
        VShuffleLo16 I16 _mm256_shufflelo_epi16 [0x1b 0x72], VShuffleHi16 I16 _mm256_shufflehi_epi16 [0x1b 0x72],
        VPermute64 I64 _mm256_permute4x64_epi64 [0x1b 0x72 0xff],
    }
    pair_immediates! {
        VAlign None _mm256_alignr_epi8 [0 1 15 16 17 31 32 255],
        VPermuteHalves None _mm256_permute2x128_si256 [0x20 0x31 0x02 0x13 0x81 0x28],
        VBlendImm I16 _mm256_blend_epi16 [0x00 0xff 0x5a], VBlendImm I32 _mm256_blend_epi32 [0x00 0xff 0x5a],
        VMultiSad I8 _mm256_mpsadbw_epu8 [0 5 0x2a 0x3f 0x17],
    }
    let blend = Case::new(Op::VBlendVar, Type::V256, Lane::I8, 3);
    integers("blendv", blend, &|a, b, c| _mm256_blendv_epi8(a, b, c));
}

fn ps(a: __m256i) -> __m256 {
    // SAFETY: both are 32 bytes of plain data.
    unsafe { std::mem::transmute(a) }
}

fn pd(a: __m256i) -> __m256d {
    // SAFETY: both are 32 bytes of plain data.
    unsafe { std::mem::transmute(a) }
}

#[target_feature(enable = "avx2")]
fn float_shuffles() {
    let case = |op, lane, imm| Case::new(op, Type::V256, lane, 2).imm(imm);
    integers("shufps", case(Op::VShuffle2, Lane::I32, 0x72), &|a, b, _| {
        _mm256_castps_si256(_mm256_shuffle_ps::<0x72>(ps(a), ps(b)))
    });
    integers("shufpd", case(Op::VShuffle2, Lane::I64, 0x6), &|a, b, _| {
        _mm256_castpd_si256(_mm256_shuffle_pd::<0x6>(pd(a), pd(b)))
    });
    integers("permilps", case(Op::VPermuteIn, Lane::I32, 0), &|a, b, _| {
        _mm256_castps_si256(_mm256_permutevar_ps(ps(a), b))
    });
    integers("permilpd", case(Op::VPermuteIn, Lane::I64, 0), &|a, b, _| {
        _mm256_castpd_si256(_mm256_permutevar_pd(pd(a), b))
    });
    integers("blendpd", case(Op::VBlendImm, Lane::I64, 0xa), &|a, b, _| {
        _mm256_castpd_si256(_mm256_blend_pd::<0xa>(pd(a), pd(b)))
    });
    let variable = |lane| Case::new(Op::VBlendVar, Type::V256, lane, 3);
    integers("blendvps", variable(Lane::I32), &|a, b, c| {
        _mm256_castps_si256(_mm256_blendv_ps(ps(a), ps(b), ps(c)))
    });
    integers("blendvpd", variable(Lane::I64), &|a, b, c| {
        _mm256_castpd_si256(_mm256_blendv_pd(pd(a), pd(b), pd(c)))
    });
}

/// A small integer in lane 0, the rest zero.
#[target_feature(enable = "avx2")]
fn int(value: i32) -> __m256i {
    _mm256_zextsi128_si256(_mm_cvtsi32_si128(value))
}

#[target_feature(enable = "avx2")]
fn low(a: __m256i) -> __m128i {
    _mm256_castsi256_si128(a)
}

#[target_feature(enable = "avx2")]
fn wide(a: __m128i) -> __m256i {
    _mm256_zextsi128_si256(a)
}

#[target_feature(enable = "avx2")]
fn narrow_results() {
    let from = |op, ty, lane, source, operands| Case::new(op, ty, lane, operands).source(source);
    let (i8, i16, i32, i64) = (Lane::I8, Lane::I16, Lane::I32, Lane::I64);
    integers("pmovmskb", from(Op::VMoveMask, Type::I32, i8, Type::V256, 1), &|a, _, _| {
        int(_mm256_movemask_epi8(a))
    });
    integers("movmskps", from(Op::VMoveMask, Type::I32, i32, Type::V256, 1), &|a, _, _| {
        int(_mm256_movemask_ps(ps(a)))
    });
    integers("movmskpd", from(Op::VMoveMask, Type::I32, i64, Type::V256, 1), &|a, _, _| {
        int(_mm256_movemask_pd(pd(a)))
    });
    integers("ptest zf", from(Op::VTestZero, Type::I8, Lane::None, Type::V256, 2), &|a, b, _| {
        int(_mm256_testz_si256(a, b))
    });
    integers("ptest cf", from(Op::VTestCarry, Type::I8, Lane::None, Type::V256, 2), &|a, b, _| {
        int(_mm256_testc_si256(a, b))
    });
    integers("testps zf", from(Op::VTestZero, Type::I8, i32, Type::V256, 2), &|a, b, _| {
        int(_mm256_testz_ps(ps(a), ps(b)))
    });
    integers("testpd cf", from(Op::VTestCarry, Type::I8, i64, Type::V256, 2), &|a, b, _| {
        int(_mm256_testc_pd(pd(a), pd(b)))
    });
    integers("phminposuw", Case::new(Op::VMinPos, Type::V128, i16, 1), &|a, _, _| {
        wide(_mm_minpos_epu16(low(a)))
    });
    integers(
        "extract half",
        from(Op::VExtractHalf, Type::V128, Lane::None, Type::V256, 1).imm(1),
        &|a, _, _| wide(_mm256_extracti128_si256::<1>(a)),
    );
    let insert = Case::new(Op::VInsertHalf, Type::V256, Lane::None, 2).second(Type::V128).imm(1);
    integers("insert half", insert, &|a, b, _| _mm256_inserti128_si256::<1>(a, low(b)));
    integers("extract", from(Op::VExtract, Type::I16, i16, Type::V128, 1).imm(5), &|a, _, _| {
        int(_mm_extract_epi16::<5>(low(a)))
    });
    let insert = Case::new(Op::VInsert, Type::V128, i32, 2).second(Type::I32).imm(2);
    integers("insert", insert, &|a, b, _| wide(_mm_insert_epi32::<2>(low(a), _mm_cvtsi128_si32(low(b)))));
    integers("broadcast", from(Op::VSplat, Type::V256, i16, Type::V128, 1), &|a, _, _| {
        _mm256_broadcastw_epi16(low(a))
    });
    integers("movd", from(Op::VFromInt, Type::V128, Lane::None, Type::I32, 1), &|a, _, _| {
        wide(_mm_cvtsi32_si128(_mm_cvtsi128_si32(low(a))))
    });
    integers("zero-extend", from(Op::VResize, Type::V256, Lane::None, Type::V128, 1), &|a, _, _| {
        wide(low(a))
    });
    extensions();
}

#[target_feature(enable = "avx2")]
fn extensions() {
    macro_rules! extensions {
        ($($op:ident $lane:ident $to:literal $intrinsic:ident),* $(,)?) => {
            $(integers(
                stringify!($intrinsic),
                Case::new(Op::$op, Type::V256, Lane::$lane, 1).source(Type::V128).aux($to),
                &|a, _, _| $intrinsic(low(a)),
            );)*
        };
    }
    extensions! {
        VExtendS I8 2 _mm256_cvtepi8_epi16, VExtendS I8 4 _mm256_cvtepi8_epi32, VExtendS I8 8 _mm256_cvtepi8_epi64,
        VExtendS I16 4 _mm256_cvtepi16_epi32, VExtendS I16 8 _mm256_cvtepi16_epi64,
        VExtendS I32 8 _mm256_cvtepi32_epi64,
        VExtendU I8 2 _mm256_cvtepu8_epi16, VExtendU I8 4 _mm256_cvtepu8_epi32, VExtendU I8 8 _mm256_cvtepu8_epi64,
        VExtendU I16 4 _mm256_cvtepu16_epi32, VExtendU I16 8 _mm256_cvtepu16_epi64,
        VExtendU I32 8 _mm256_cvtepu32_epi64,
    }
}

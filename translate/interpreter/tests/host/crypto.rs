//! AES, CLMUL and SHA.

use std::arch::x86_64::*;

use rhea_ir::{Lane, Op, Type};

use crate::bench::{Case, integers};

macro_rules! pairs {
    ($($op:ident $intrinsic:ident),* $(,)?) => {
        $(integers(
            stringify!($intrinsic),
            Case::new(Op::$op, Type::V128, Lane::None, 2),
            &|a, b, _| wide($intrinsic(low(a), low(b))),
        );)*
    };
}

macro_rules! pair_immediates {
    ($($op:ident $intrinsic:ident [$($imm:literal)*]),* $(,)?) => {
        $($(integers(
            concat!(stringify!($intrinsic), " ", $imm),
            Case::new(Op::$op, Type::V128, Lane::None, 2).imm($imm),
            &|a, b, _| wide($intrinsic::<$imm>(low(a), low(b))),
        );)*)*
    };
}

fn low(a: __m256i) -> __m128i {
    // SAFETY: reads the first 16 of 32 bytes.
    unsafe { std::mem::transmute_copy(&a) }
}

fn wide(a: __m128i) -> __m256i {
    // SAFETY: both are 32 bytes of plain data.
    unsafe { std::mem::transmute([a, a]) }
}

#[test]
fn aes() {
    if is_x86_feature_detected!("aes") && is_x86_feature_detected!("pclmulqdq") {
        // SAFETY: the processor has the features.
        unsafe { aes_and_clmul() }
    }
}

#[target_feature(enable = "avx,aes,pclmulqdq")]
fn aes_and_clmul() {
    pairs! {
        AesEnc _mm_aesenc_si128, AesEncLast _mm_aesenclast_si128,
        AesDec _mm_aesdec_si128, AesDecLast _mm_aesdeclast_si128,
    }
    let single = Case::new(Op::AesImc, Type::V128, Lane::None, 1);
    integers("aesimc", single, &|a, _, _| wide(_mm_aesimc_si128(low(a))));
    let keygen = Case::new(Op::AesKeygen, Type::V128, Lane::None, 1).imm(0x36);
    integers("aeskeygenassist", keygen, &|a, _, _| wide(_mm_aeskeygenassist_si128::<0x36>(low(a))));
    pair_immediates! { Clmul _mm_clmulepi64_si128 [0x00 0x01 0x10 0x11 0xff] }
}

#[test]
fn sha() {
    if is_x86_feature_detected!("sha") {
        // SAFETY: the processor has the feature.
        unsafe { sha_steps() }
    }
}

#[target_feature(enable = "avx,sha")]
fn sha_steps() {
    pairs! {
        Sha1NextE _mm_sha1nexte_epu32, Sha1Msg1 _mm_sha1msg1_epu32, Sha1Msg2 _mm_sha1msg2_epu32,
        Sha256Msg1 _mm_sha256msg1_epu32, Sha256Msg2 _mm_sha256msg2_epu32,
    }
    pair_immediates! { Sha1Rounds _mm_sha1rnds4_epu32 [0 1 2 3] }
    let rounds = Case::new(Op::Sha256Rounds, Type::V128, Lane::None, 3);
    integers("sha256rnds2", rounds, &|a, b, c| wide(_mm_sha256rnds2_epu32(low(a), low(b), low(c))));
}

//! The rules of architectures other than the host's, and formats the host may lack, by worked examples.

use rhea_softfloat::{
    Bf16, Env, F16, F32, F64, Flags, MinMaxRule, Negate, Rounding, Tininess, add, convert, div, fma, max,
    min, mul, remainder, round_to_integral, scale, sub, to_signed, to_unsigned, truncated_remainder,
};

const QUIET: F32 = F32(0x7fc0_1234);
const SIGNALING: F32 = F32(0xff80_0042);
const ONE: F32 = F32(0x3f80_0000);
const INFINITY: F32 = F32(0x7f80_0000);
const ZERO: F32 = F32(0);

fn f64(value: f64) -> F64 {
    F64(value.to_bits())
}

#[test]
fn riscv_delivers_the_canonical_nan() {
    let mut env = Env::RISCV;
    assert_eq!(add(QUIET, ONE, &mut env), F32(0x7fc0_0000));
    assert_eq!(env.flags, Flags::empty());
    assert_eq!(sub(INFINITY, INFINITY, &mut env), F32(0x7fc0_0000));
    assert_eq!(env.flags, Flags::INVALID);
}

#[test]
fn riscv_infinity_times_zero_is_invalid_even_with_a_quiet_nan_addend() {
    let mut env = Env::RISCV;
    assert_eq!(fma(INFINITY, ZERO, QUIET, Negate::default(), &mut env), F32(0x7fc0_0000));
    assert_eq!(env.flags, Flags::INVALID);
}

#[test]
fn arm_prefers_signaling_nans() {
    let mut env = Env::ARM;
    assert_eq!(add(QUIET, SIGNALING, &mut env), F32(0xffc0_0042));
    assert_eq!(add(QUIET, F32(0x7fc0_0001), &mut env), QUIET);
    assert_eq!(div(ZERO, ZERO, &mut env), F32(0x7fc0_0000));
}

#[test]
fn conversions_out_of_range() {
    let case = |env: Env, value: f64| {
        let mut env = env;
        let signed = to_signed(f64(value), 32, Rounding::TowardZero, &mut env);
        let unsigned = to_unsigned(f64(value), 32, Rounding::TowardZero, &mut env);
        (signed, unsigned)
    };
    assert_eq!(case(Env::SSE, 1e10), (-0x8000_0000, 0xffff_ffff));
    assert_eq!(case(Env::SSE, -1e10), (-0x8000_0000, 0xffff_ffff));
    assert_eq!(case(Env::SSE, f64::NAN), (-0x8000_0000, 0xffff_ffff));
    assert_eq!(case(Env::RISCV, 1e10), (0x7fff_ffff, 0xffff_ffff));
    assert_eq!(case(Env::RISCV, -1e10), (-0x8000_0000, 0));
    assert_eq!(case(Env::RISCV, f64::NAN), (0x7fff_ffff, 0xffff_ffff));
    assert_eq!(case(Env::ARM, f64::NAN), (0, 0));
    assert_eq!(case(Env::ARM, -0.75), (0, 0));
    let mut env = Env::RISCV;
    assert_eq!(
        to_unsigned(f64(18_446_744_073_709_549_568.0), 64, Rounding::Up, &mut env),
        0xffff_ffff_ffff_f800
    );
    assert_eq!(to_signed(f64(-9_223_372_036_854_775_808.0), 64, Rounding::Up, &mut env), i64::MIN);
    assert_eq!(env.flags, Flags::empty());
}

#[test]
fn ties_away_from_zero() {
    let mut env = Env { rounding: Rounding::NearestAway, ..Env::RISCV };
    assert_eq!(to_signed(f64(2.5), 32, Rounding::NearestAway, &mut env), 3);
    assert_eq!(to_signed(f64(-2.5), 32, Rounding::NearestAway, &mut env), -3);
    assert_eq!(round_to_integral(f64(0.5), Rounding::NearestAway, true, &mut env), f64(1.0));
    // 1 + 2^-53 lies halfway between 1 and its successor.
    assert_eq!(add(f64(1.0), f64(f64::EPSILON / 2.0), &mut env), f64(1.0 + f64::EPSILON));
}

#[test]
fn tininess_before_and_after_rounding_differ_where_rounding_reaches_the_smallest_normal() {
    // (1 - 2^-23) × 2^-126 (1 + 2^-23) = 2^-126 (1 - 2^-46), a hair below the smallest normal. Rounded to 24 bits with unbounded exponent it is 2^-126.
    let (a, b) = (F32(0x3f7f_fffe), F32(0x0080_0001));
    let mut after = Env { tininess: Tininess::AfterRounding, ..Env::RISCV };
    let mut before = Env { tininess: Tininess::BeforeRounding, ..Env::RISCV };
    assert_eq!(mul(a, b, &mut after), F32(0x0080_0000));
    assert_eq!(mul(a, b, &mut before), F32(0x0080_0000));
    assert_eq!(before.flags, Flags::UNDERFLOW | Flags::INEXACT);
    assert_eq!(after.flags, Flags::INEXACT);
}

#[test]
fn arm_flushes_without_inexact() {
    let mut env = Env { flush_to_zero: true, denormals_are_zero: true, ..Env::ARM };
    assert_eq!(mul(F32(0x0080_0000), F32(0xbf00_0000), &mut env), F32(0x8000_0000));
    assert_eq!(env.flags, Flags::UNDERFLOW);
    env.flags = Flags::empty();
    assert_eq!(add(F32(1), ONE, &mut env), ONE);
    assert_eq!(env.flags, Flags::DENORMAL);
}

#[test]
fn minimum_rules_differ_on_nans_and_zeros() {
    let negative_zero = F32(0x8000_0000);
    let mut env = Env::RISCV;
    assert_eq!(min(ZERO, negative_zero, MinMaxRule::Number, &mut env), negative_zero);
    assert_eq!(min(negative_zero, ZERO, MinMaxRule::Number, &mut env), negative_zero);
    assert_eq!(max(negative_zero, ZERO, MinMaxRule::Number, &mut env), ZERO);
    assert_eq!(min(QUIET, ONE, MinMaxRule::Number, &mut env), ONE);
    assert_eq!(env.flags, Flags::empty());
    assert_eq!(min(ONE, SIGNALING, MinMaxRule::Number, &mut env), ONE);
    assert_eq!(env.flags, Flags::INVALID);
    assert_eq!(min(QUIET, SIGNALING, MinMaxRule::Number, &mut env), F32(0x7fc0_0000));
    let mut env = Env::ARM;
    assert_eq!(min(QUIET, ONE, MinMaxRule::Number2008, &mut env), ONE);
    assert_eq!(min(ONE, SIGNALING, MinMaxRule::Number2008, &mut env), F32(0xffc0_0042));
    assert_eq!(max(ONE, QUIET, MinMaxRule::Propagate, &mut env), QUIET);
}

#[test]
fn narrow_formats_round_and_overflow() {
    let mut env = Env::SSE;
    assert_eq!(convert::<F32, Bf16>(F32(0x3f80_8000), &mut env), Bf16(0x3f80));
    assert_eq!(convert::<F32, Bf16>(F32(0x3f81_8000), &mut env), Bf16(0x3f82));
    assert_eq!(convert::<Bf16, F32>(Bf16(0xc2f7), &mut env), F32(0xc2f7_0000));
    assert_eq!(convert::<F64, F16>(f64(65_504.0), &mut env), F16(0x7bff));
    assert_eq!(convert::<F64, F16>(f64(65_520.0), &mut env), F16(0x7c00));
    assert!(env.flags.contains(Flags::OVERFLOW));
    assert_eq!(add(F16(0x3c00), F16(0x3c00), &mut env), F16(0x4000));
}

#[test]
fn remainders_match_their_definition() {
    let mut env = Env::SSE;
    for (a, b) in
        [(7.5, 2.0), (-7.5, 2.0), (5.0, 3.0), (1e300, 3.7), (3.0, 1e-300), (1.5, 2.0), (0.9, 2.0), (1.1, 2.0)]
    {
        let truncated = truncated_remainder(f64(a), f64(b), &mut env);
        assert_eq!(truncated, f64(a % b), "{a} {b}");
        let nearest = f64::from_bits(remainder(f64(a), f64(b), &mut env).0);
        assert!(nearest.abs() <= b.abs() / 2.0, "{a} {b}: {nearest}");
    }
    assert_eq!(remainder(f64(5.0), f64(2.0), &mut env), f64(1.0));
    assert_eq!(remainder(f64(7.0), f64(2.0), &mut env), f64(-1.0));
    assert_eq!(remainder(f64(1.0), f64(2.0), &mut env), f64(1.0));
    assert_eq!(remainder(f64(1.5), f64(2.0), &mut env), f64(-0.5));
    assert_eq!(env.flags, Flags::empty());
}

#[test]
fn scaling_by_any_amount_is_bounded() {
    let mut env = Env::SSE;
    assert_eq!(scale(f64(1.5), 4, &mut env), f64(24.0));
    assert_eq!(scale(f64(1.5), i32::MAX, &mut env), f64(f64::INFINITY));
    assert_eq!(scale(f64(-1.5), i32::MIN, &mut env), f64(-0.0));
}

//! The x87 unit.

use std::arch::asm;

use rhea_softfloat::{
    Env, F32, F64, F80, Flags, Relation, add, compare_quiet, compare_signaling, convert, div, mul,
    round_to_integral, sqrt, sub, to_signed, x87,
};

use crate::values::{Random, f32_edges, f64_edges, f80_edges};

/// Status word bits: the six exceptions, C1, and C0, C2, C3.
const EXCEPTIONS: u16 = 0x3f;
const C1: u16 = 1 << 9;
const CONDITIONS: u16 = 1 << 8 | 1 << 10 | 1 << 14;

fn bytes(value: F80) -> [u8; 16] {
    value.to_bits().to_le_bytes()
}

/// Runs one instruction with `a` on top of the stack and `b` below; gives the new top, what lies below it, and the
/// status word.
macro_rules! native {
    ($name:ident, $op:literal) => {
        fn $name(a: F80, b: F80, control: u16) -> (F80, F80, u16) {
            let (mut a, mut b, mut status) = (bytes(a), bytes(b), 0u16);
            // SAFETY: the x87 unit is initialized before and after; pending exceptions are cleared before the next
            // waiting instruction; the memory operands are locals.
            unsafe {
                asm!(
                    "fninit",
                    "fld tbyte ptr [{b}]",
                    "fld tbyte ptr [{a}]",
                    "fldcw [{control}]",
                    $op,
                    "fnstsw [{status}]",
                    "fnclex",
                    "fstp tbyte ptr [{a}]",
                    "fstp tbyte ptr [{b}]",
                    "fninit",
                    a = in(reg) &mut a,
                    b = in(reg) &mut b,
                    control = in(reg) &control,
                    status = in(reg) &mut status,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                );
            }
            let value = |bytes| F80::from_bits(u128::from_le_bytes(bytes) & (u128::MAX >> 48));
            (value(a), value(b), status)
        }
    };
}

native!(fadd, "fadd st(0), st(1)");
native!(fsub, "fsub st(0), st(1)");
native!(fmul, "fmul st(0), st(1)");
native!(fdiv, "fdiv st(0), st(1)");
native!(fsqrt, "fsqrt");
native!(frndint, "frndint");
native!(fscale, "fscale");
native!(fprem, "fprem");
native!(fprem1, "fprem1");
native!(fcom, "fcom st(1)");
native!(fucom, "fucom st(1)");
native!(fxtract_pop, "fxtract\nfxch\nfstp st(2)");

/// Control words: every rounding and precision mode; masked, and with overflow and underflow unmasked.
fn controls(masks: &[u16]) -> Vec<u16> {
    let mut all = vec![];
    for &mask in masks {
        for rounding in 0..4 {
            for precision in [0, 2, 3] {
                all.push(mask | rounding << 10 | precision << 8);
            }
        }
    }
    all
}

const MASKED: u16 = 0x3f;
const RANGE_UNMASKED: u16 = 0x27;

fn pairs(mut check: impl FnMut(F80, F80)) {
    for a in f80_edges() {
        for b in f80_edges() {
            check(a, b);
        }
    }
    let mut random = Random::new(31);
    for _ in 0..50_000 {
        check(random.f80(), random.f80());
    }
}

fn check_arithmetic(
    name: &str,
    native: fn(F80, F80, u16) -> (F80, F80, u16),
    soft: fn(F80, F80, &mut Env) -> F80,
) {
    for control in controls(&[MASKED, RANGE_UNMASKED]) {
        pairs(|a, b| {
            let mut env = Env::from_x87_control(control);
            let result = soft(a, b, &mut env);
            let flags = u16::from(env.flags.bits()) | if env.rounded_up { C1 } else { 0 };
            let (expected, _, status) = native(a, b, control);
            let (got, expected) = ((result, flags), (expected, status & (EXCEPTIONS | C1)));
            assert!(
                got == expected,
                "{name} {a:x?}, {b:x?} control {control:#x}: {got:x?}, not {expected:x?}"
            );
        });
    }
}

#[test]
fn arithmetic() {
    check_arithmetic("fadd", fadd, add);
    check_arithmetic("fsub", fsub, sub);
    check_arithmetic("fmul", fmul, mul);
    check_arithmetic("fdiv", fdiv, div);
    check_arithmetic("fsqrt", fsqrt, |a, _, env| sqrt(a, env));
    check_arithmetic("frndint", frndint, |a, _, env| round_to_integral(a, env.rounding, true, env));
}

#[test]
fn scale() {
    check_arithmetic("fscale", fscale, x87::scale);
}

#[test]
fn partial_remainders() {
    let forms: [(fn(F80, F80, u16) -> (F80, F80, u16), fn(F80, F80, &mut Env) -> x87::PartialRemainder); 2] =
        [(fprem, x87::partial_remainder), (fprem1, x87::partial_remainder_nearest)];
    for (native, soft) in forms {
        pairs(|a, b| {
            let mut env = Env::X87;
            let got = soft(a, b, &mut env);
            let (value, _, status) = native(a, b, 0x37f);
            // C2 incomplete; C0, C3, C1 the quotient from its third bit down.
            let quotient = (status >> 8 & 1) << 2 | (status >> 14 & 1) << 1 | (status >> 9 & 1);
            let incomplete = status >> 10 & 1 != 0;
            assert_eq!(got.incomplete, incomplete, "{a:x?} {b:x?}");
            if incomplete {
                // The size of a partial step is the processor's choice: the outcome of the whole is not.
                let mut ours = got;
                while ours.incomplete {
                    ours = soft(ours.value, b, &mut env);
                }
                let mut theirs = (value, status);
                while theirs.1 >> 10 & 1 != 0 {
                    let (value, _, status) = native(theirs.0, b, 0x37f);
                    theirs = (value, status);
                }
                assert_eq!(ours.value, theirs.0, "{a:x?} {b:x?}");
                return;
            }
            assert_eq!((got.value, u16::from(got.quotient)), (value, quotient), "{a:x?} {b:x?}");
            assert_eq!(u16::from(env.flags.bits()), status & EXCEPTIONS, "{a:x?} {b:x?}");
        });
    }
}

#[test]
fn comparisons() {
    pairs(|a, b| {
        for signaling in [false, true] {
            let mut env = Env::X87;
            let relation =
                if signaling { compare_signaling(a, b, &mut env) } else { compare_quiet(a, b, &mut env) };
            let (_, _, status) = if signaling { fcom(a, b, 0x37f) } else { fucom(a, b, 0x37f) };
            let conditions = match relation {
                Relation::Greater => 0,
                Relation::Less => 1 << 8,
                Relation::Equal => 1 << 14,
                Relation::Unordered => CONDITIONS,
            };
            let got = conditions | u16::from(env.flags.bits());
            assert_eq!(got, status & (CONDITIONS | EXCEPTIONS), "{a:x?} {b:x?}");
        }
    });
}

#[test]
fn extract() {
    let mut random = Random::new(33);
    for a in f80_edges().into_iter().chain((0..10_000).map(|_| random.f80())) {
        let mut env = Env::X87;
        let (exponent, significand) = x87::extract(a, &mut env);
        let (top, below, status) = fxtract_pop(a, F80::default(), 0x37f);
        let got = (significand, exponent, u16::from(env.flags.bits()));
        assert_eq!(got, (top, below, status & EXCEPTIONS), "fxtract {a:x?}");
    }
}

/// Stores `a` by `op` and gives the eight bytes written over a pattern, and the status word.
macro_rules! native_store {
    ($name:ident, $op:literal) => {
        fn $name(a: F80, control: u16) -> (u64, u16) {
            let (a, mut stored, mut status) = (bytes(a), 0u64, 0u16);
            // SAFETY: the x87 unit is initialized before and after, with all exceptions masked; the memory operands
            // are locals.
            unsafe {
                asm!(
                    "fninit",
                    "fld tbyte ptr [{a}]",
                    "fldcw [{control}]",
                    $op,
                    "fnstsw [{status}]",
                    "fninit",
                    a = in(reg) &a,
                    stored = in(reg) &mut stored,
                    control = in(reg) &control,
                    status = in(reg) &mut status,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                );
            }
            (stored, status)
        }
    };
}

native_store!(fst32, "fstp dword ptr [{stored}]");
native_store!(fst64, "fstp qword ptr [{stored}]");
native_store!(fist16, "fistp word ptr [{stored}]");
native_store!(fist32, "fistp dword ptr [{stored}]");
native_store!(fist64, "fistp qword ptr [{stored}]");

#[test]
fn stores() {
    type Store = (fn(F80, u16) -> (u64, u16), fn(F80, &mut Env) -> u64);
    let forms: [Store; 5] = [
        (fst32, |a, env| u64::from(convert::<F80, F32>(a, env).0)),
        (fst64, |a, env| convert::<F80, F64>(a, env).0),
        (fist16, |a, env| to_signed(a, 16, env.rounding, env) as u64 & 0xffff),
        (fist32, |a, env| to_signed(a, 32, env.rounding, env) as u64 & 0xffff_ffff),
        (fist64, |a, env| to_signed(a, 64, env.rounding, env) as u64),
    ];
    for control in controls(&[MASKED]) {
        for (index, (native, soft)) in forms.into_iter().enumerate() {
            let mut random = Random::new(35);
            let narrow = |random: &mut Random| {
                let value = random.f80();
                let exponent = 0x3fff - 1100 + (random.next() % 2200) as u16;
                F80 { sign_exponent: value.sign_exponent & 0x8000 | exponent, ..value }
            };
            let random = (0..20_000).map(|n| if n & 1 == 0 { random.f80() } else { narrow(&mut random) });
            for a in f80_edges().into_iter().chain(random) {
                let mut env = Env::from_x87_control(control);
                let stored = soft(a, &mut env);
                let got = (stored, u16::from(env.flags.bits()) | if env.rounded_up { C1 } else { 0 });
                let (expected, status) = native(a, control);
                let expected = (expected, status & (EXCEPTIONS | C1));
                assert!(got == expected, "form {index} {a:x?} {control:#x}: {got:x?}, not {expected:x?}");
            }
        }
    }
}

macro_rules! native_load {
    ($name:ident, $op:literal, $repr:ty) => {
        fn $name(a: $repr) -> (F80, u16) {
            let (mut loaded, mut status) = ([0u8; 16], 0u16);
            // SAFETY: as above.
            unsafe {
                asm!(
                    "fninit",
                    $op,
                    "fnstsw [{status}]",
                    "fstp tbyte ptr [{loaded}]",
                    "fninit",
                    a = in(reg) &a,
                    loaded = in(reg) &mut loaded,
                    status = in(reg) &mut status,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                );
            }
            (F80::from_bits(u128::from_le_bytes(loaded)), status & EXCEPTIONS)
        }
    };
}

native_load!(fld32, "fld dword ptr [{a}]", u32);
native_load!(fld64, "fld qword ptr [{a}]", u64);

#[test]
fn loads() {
    let mut random = Random::new(37);
    for a in f32_edges().into_iter().chain((0..10_000).map(|_| random.f32())) {
        let mut env = Env::X87;
        let value: F80 = convert(F32(a), &mut env);
        assert_eq!((value, u16::from(env.flags.bits())), fld32(a), "fld m32 {a:#x}");
    }
    for a in f64_edges().into_iter().chain((0..10_000).map(|_| random.f64())) {
        let mut env = Env::X87;
        let value: F80 = convert(F64(a), &mut env);
        assert_eq!((value, u16::from(env.flags.bits())), fld64(a), "fld m64 {a:#x}");
    }
}

native!(f2xm1, "f2xm1");
native!(fyl2x, "fyl2x");
native!(fyl2xp1, "fyl2xp1");
native!(fpatan, "fpatan");
native!(fsin, "fsin");
native!(fcos, "fcos");
native!(fptan, "fptan\nfstp st(0)");

/// Whether two results are the same but for one unit in the last place, which is all a processor promises.
fn close(a: F80, b: F80) -> bool {
    let ordinal = |value: F80| {
        let magnitude =
            i128::from(value.sign_exponent & 0x7fff) << 63 | i128::from(value.significand & !(1 << 63));
        if value.sign_exponent >> 15 != 0 { -magnitude } else { magnitude }
    };
    a == b || (a.sign_exponent >> 15 == b.sign_exponent >> 15 && (ordinal(a) - ordinal(b)).abs() <= 1)
}

/// Flags that all processors agree on: not underflow and precision, which depend on the last place.
const FIRM: u16 = EXCEPTIONS & !(3 << 4);

/// Whether the manual leaves the result of F2XM1 or FYL2XP1 for the operand open.
fn is_undefined(name: &str, a: F80) -> bool {
    let exponent = a.sign_exponent & 0x7fff;
    let finite = exponent != 0x7fff && a.significand >> 63 != 0;
    match name {
        "f2xm1" => exponent == 0x7fff || finite && exponent >= 0x3fff,
        // Beyond 1/4 is nearly beyond 1 - √2/2, the limit.
        "fyl2xp1" => exponent == 0x7fff || finite && exponent >= 0x3ffd,
        _ => false,
    }
}

#[test]
fn transcendental_functions_of_one_operand() {
    type Function = (&'static str, fn(F80, F80, u16) -> (F80, F80, u16), fn(F80, &mut Env) -> Option<F80>);
    let forms: [Function; 4] = [
        ("f2xm1", f2xm1, |x, env| Some(x87::exp2_minus_1(x, env))),
        ("fsin", fsin, x87::sin),
        ("fcos", fcos, x87::cos),
        ("fptan", fptan, x87::tan),
    ];
    for (name, native, soft) in forms {
        let mut random = Random::new(41);
        let mut compared = 0;
        for a in f80_edges().into_iter().chain((0..20_000).map(|_| random.f80())) {
            if is_undefined(name, a) {
                continue;
            }
            let mut env = Env::X87;
            let result = soft(a, &mut env);
            let (expected, _, status) = native(a, F80::default(), 0x37f);
            assert_eq!(result.is_none(), status >> 10 & 1 != 0, "{name} {a:x?}: range");
            let Some(result) = result else { continue };
            assert!(close(result, expected), "{name} {a:x?}: {result:x?}, not {expected:x?}");
            assert_eq!(u16::from(env.flags.bits()) & FIRM, status & FIRM, "{name} {a:x?}: flags");
            compared += 1;
        }
        assert!(compared > 5000, "{name}: only {compared} operands in range");
    }
}

#[test]
fn transcendental_functions_of_two_operands() {
    type Function = (&'static str, fn(F80, F80, u16) -> (F80, F80, u16), fn(F80, F80, &mut Env) -> F80);
    let forms: [Function; 3] = [
        ("fyl2x", fyl2x, x87::y_log2_x),
        ("fyl2xp1", fyl2xp1, x87::y_log2_x_plus_1),
        ("fpatan", fpatan, x87::arctan_of_ratio),
    ];
    for (name, native, soft) in forms {
        pairs(|a, b| {
            if is_undefined(name, a) {
                return;
            }
            let mut env = Env::X87;
            let result = soft(a, b, &mut env);
            let (expected, _, status) = native(a, b, 0x37f);
            assert!(close(result, expected), "{name} {a:x?} {b:x?}: {result:x?}, not {expected:x?}");
            assert_eq!(u16::from(env.flags.bits()) & FIRM, status & FIRM, "{name} {a:x?} {b:x?}: flags");
        });
    }
}

/// A flag that no operation above may lose.
#[test]
fn flags_are_sticky() {
    let mut env = Env { flags: Flags::DIVIDE_BY_ZERO, ..Env::X87 };
    add(F80::default(), F80::default(), &mut env);
    assert_eq!(env.flags, Flags::DIVIDE_BY_ZERO);
}

//! RCPPS and RSQRTPS.
//!
//! The manual bounds the relative error by 1.5 × 2^-12 and leaves the rest to the processor. These are much closer:
//! the reciprocal is rounded to nearest, the reciprocal of the root is within one unit of the last place and exact
//! for powers of four. Denormal operands count as zeros, denormal results become zeros, and no flag is raised, as the
//! manual says. Integer arithmetic, because the host's floating-point flags are the guest's.

const SIGN: u32 = 1 << 31;
const INFINITY: u32 = 0xff << 23;
const QUIET: u32 = 1 << 22;
const FRACTION: u32 = (1 << 23) - 1;
const DEFAULT_NAN: u32 = 0xffc0_0000;

fn pair(values: u64, f: impl Fn(u32) -> u32) -> u64 {
    u64::from(f(values as u32)) | u64::from(f((values >> 32) as u32)) << 32
}

/// 1/x of two packed binary32 values.
pub fn reciprocal(values: u64) -> u64 {
    pair(values, reciprocal_of)
}

/// 1/√x of two packed binary32 values.
pub fn reciprocal_root(values: u64) -> u64 {
    pair(values, reciprocal_root_of)
}

/// A binary32 from its parts; an exponent below that of normal numbers gives zero.
fn assemble(sign: u32, exponent: i32, significand: u64) -> u32 {
    if exponent <= 0 { sign } else { sign | (exponent as u32) << 23 | significand as u32 & FRACTION }
}

fn reciprocal_of(x: u32) -> u32 {
    let (sign, exponent, fraction) = (x & SIGN, x >> 23 & 0xff, x & FRACTION);
    let significand = u64::from(fraction | 1 << 23);
    match (exponent, fraction) {
        (0xff, 0) => sign,
        (0xff, _) => x | QUIET,
        (0, _) => sign | INFINITY,
        (e, 0) => assemble(sign, 254 - e as i32, 0),
        // 2/v for v between 1 and 2, as 24 bits.
        (e, _) => assemble(sign, 253 - e as i32, ((1 << 47) + significand / 2) / significand),
    }
}

fn reciprocal_root_of(x: u32) -> u32 {
    let (sign, exponent, fraction) = (x & SIGN, x >> 23 & 0xff, x & FRACTION);
    match (exponent, fraction) {
        (0xff, f) if f != 0 => return x | QUIET,
        (0, _) => return sign | INFINITY,
        _ if sign != 0 => return DEFAULT_NAN,
        (0xff, _) => return 0,
        _ => {}
    }
    // x = v × 4^half with v from 1 up to 4.
    let power = exponent as i32 - 127;
    let half = power >> 1;
    let v = u64::from(fraction | 1 << 23) << (power & 1);
    if v == 1 << 23 {
        return assemble(0, 127 - half, 0);
    }
    // 2/√v between 1 and 2, with seven bits more than are kept.
    let root = (((1 << 63) / v) << 22).isqrt();
    let significand = ((root + 64) >> 7).min((1 << 24) - 1);
    assemble(0, 126 - half, significand)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhea_softfloat as sf;
    use rhea_softfloat::{Env, F32};

    const ENV: Env = Env { denormals_are_zero: true, flush_to_zero: true, ..Env::SSE };
    const ONE: F32 = F32(0x3f80_0000);

    #[test]
    fn estimates_are_those_of_exact_arithmetic() {
        let mut x = 0x9e37_79b9u32;
        for _ in 0..200_000 {
            x = x.wrapping_mul(0x915f_77f5).wrapping_add(0x1234_567b);
            let value = x.rotate_left(x & 31);
            let exact = sf::div(ONE, F32(value), &mut ENV.clone()).0;
            assert_eq!(reciprocal_of(value), exact, "1/{value:08x}");
            let mut env = ENV;
            let root = sf::sqrt(F32(value), &mut env);
            let exact = sf::div(ONE, root, &mut env).0;
            let got = reciprocal_root_of(value);
            assert!(got.abs_diff(exact) <= 1, "1/sqrt {value:08x}: {got:08x} {exact:08x}");
        }
    }

    #[test]
    fn zeros_and_denormals_give_infinities_of_their_sign() {
        assert_eq!(reciprocal(0x8000_0001_0000_0000), 0xff80_0000_7f80_0000);
        assert_eq!(reciprocal_root(0x8000_0000_0000_0001), 0xff80_0000_7f80_0000);
    }

    #[test]
    fn exact_powers_stay_exact() {
        assert_eq!(reciprocal(0x4080_0000_4000_0000), 0x3e80_0000_3f00_0000);
        assert_eq!(reciprocal_root(0x4080_0000_3f80_0000), 0x3f00_0000_3f80_0000);
    }

    #[test]
    fn the_root_of_a_negative_is_the_default_nan() {
        assert_eq!(reciprocal_root(0xbf80_0000) as u32, 0xffc0_0000);
    }
}

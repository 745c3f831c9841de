//! RCPPS and RSQRTPS.
//!
//! The manual bounds the relative error by 1.5 × 2^-12 and leaves the rest to the processor; these give the result
//! rounded to nearest. Denormal operands count as zeros, denormal results become zeros, and no flag is raised, as the
//! manual says.

use rhea_softfloat as sf;
use rhea_softfloat::{Env, F32};

const ENV: Env = Env { denormals_are_zero: true, flush_to_zero: true, ..Env::SSE };
const ONE: F32 = F32(0x3f80_0000);

fn pair(values: u64, f: impl Fn(F32) -> F32) -> u64 {
    u64::from(f(F32(values as u32)).0) | u64::from(f(F32((values >> 32) as u32)).0) << 32
}

/// 1/x of two packed binary32 values.
pub fn reciprocal(values: u64) -> u64 {
    pair(values, |x| sf::div(ONE, x, &mut ENV.clone()))
}

/// 1/√x of two packed binary32 values.
pub fn reciprocal_root(values: u64) -> u64 {
    pair(values, |x| {
        let mut env = ENV;
        let root = sf::sqrt(x, &mut env);
        sf::div(ONE, root, &mut env)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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

//! The encodings: how each format's bits become sign, exponent and significand, and back.

use std::fmt::Debug;

use crate::env::{Env, Flags};

/// What an encoding stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Zero,
    /// Finite and not zero: the value is `sig / 2^63 * 2^exp`, with bit 63 of `sig` set.
    Finite,
    Infinity,
    /// `sig` holds the payload left-aligned as x87 stores it: bit 63 set, bit 62 the quiet bit.
    QuietNan,
    SignalingNan,
    /// An x87 encoding without meaning: unnormal, pseudo-infinity or pseudo-NaN (Intel SDM vol. 1, table 8-3).
    Unsupported,
}

/// An operand taken apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unpacked {
    pub kind: Kind,
    pub sign: bool,
    pub exp: i32,
    pub sig: u64,
    /// The encoding is denormal (or x87 pseudo-denormal).
    pub denormal: bool,
}

impl Unpacked {
    /// NaN or unsupported: what precedes every other consideration.
    pub fn is_nan(&self) -> bool {
        matches!(self.kind, Kind::QuietNan | Kind::SignalingNan | Kind::Unsupported)
    }

    pub fn is_zero(&self) -> bool {
        self.kind == Kind::Zero
    }

    pub fn is_infinite(&self) -> bool {
        self.kind == Kind::Infinity
    }
}

pub(crate) const INTEGER_BIT: u64 = 1 << 63;
pub(crate) const QUIET_BIT: u64 = 1 << 62;

pub(crate) mod sealed {
    use super::Unpacked;

    /// The part of [`Float`](super::Float) that only this crate may call or implement.
    pub trait Encoding: Copy {
        /// Significand bits, the integer bit included.
        const PRECISION: u32;
        /// Largest exponent of a finite number; also the exponent bias.
        const EMAX: i32;
        /// Whether a conversion from this format raises the denormal flag for a denormal operand. On x86, FLD m32/m64
        /// and CVTSS2SD do; FST from the extended format and VCVTPH2PS do not.
        const CONVERSION_RAISES_DENORMAL: bool;
        /// Whether x87 precision control and exponent wrapping apply.
        const IS_EXTENDED: bool;

        #[expect(private_interfaces, reason = "sealed: only this crate sees Unpacked")]
        fn unpack(self) -> Unpacked;

        /// Puts an encoding together. `sig` has the integer bit at bit 63, clear for denormals; bits below the
        /// format's precision are dropped.
        fn assemble(sign: bool, biased_exp: u32, sig: u64) -> Self;
    }
}

use sealed::Encoding;

/// A floating-point format. Implemented by the formats of this crate only.
pub trait Float: Encoding + PartialEq + Eq + Debug {}

/// Exponent of the smallest normal number.
pub(crate) const fn emin<F: Float>() -> i32 {
    1 - F::EMAX
}

/// The biased exponent of infinities and NaNs.
pub(crate) const fn special_exp<F: Float>() -> u32 {
    2 * F::EMAX as u32 + 1
}

pub(crate) fn zero<F: Float>(sign: bool) -> F {
    F::assemble(sign, 0, 0)
}

pub(crate) fn infinity<F: Float>(sign: bool) -> F {
    F::assemble(sign, special_exp::<F>(), INTEGER_BIT)
}

/// A NaN with this payload, quieted.
pub(crate) fn quiet_nan<F: Float>(sign: bool, sig: u64) -> F {
    F::assemble(sign, special_exp::<F>(), sig | INTEGER_BIT | QUIET_BIT)
}

/// Unpacks an operand as the environment sees it: a denormal may count as zero.
pub(crate) fn operand<F: Float>(value: F, env: &mut Env) -> Unpacked {
    let mut unpacked = value.unpack();
    if unpacked.denormal && env.denormals_are_zero && !F::IS_EXTENDED {
        unpacked = Unpacked { kind: Kind::Zero, sig: 0, exp: 0, denormal: false, ..unpacked };
        if env.daz_raises_denormal {
            env.raise(Flags::DENORMAL);
        }
    }
    unpacked
}

/// Raises the denormal-operand flag if one of the operands is denormal. Called after NaNs, invalid operations and
/// divisions by zero have been dealt with, since these take precedence (Intel SDM vol. 1, 4.9.2).
pub(crate) fn note_denormals(env: &mut Env, operands: &[Unpacked]) {
    if operands.iter().any(|operand| operand.denormal) {
        env.raise(Flags::DENORMAL);
    }
}

/// Unpacks an interchange encoding (IEEE 754-2019, 3.4) held in the low bits of `bits`.
fn unpack_interchange(bits: u64, precision: u32, emax: i32) -> Unpacked {
    let fraction_bits = precision - 1;
    let special = 2 * emax as u64 + 1;
    let fraction = bits & ((1 << fraction_bits) - 1);
    let field = (bits >> fraction_bits) & special;
    let sign = (bits >> fraction_bits) & !special != 0;
    let aligned = fraction << (63 - fraction_bits);
    let (kind, exp, sig, denormal) = if field == special {
        let kind = match fraction {
            0 => Kind::Infinity,
            _ if aligned & QUIET_BIT != 0 => Kind::QuietNan,
            _ => Kind::SignalingNan,
        };
        (kind, 0, aligned | INTEGER_BIT, false)
    } else if field != 0 {
        (Kind::Finite, field as i32 - emax, aligned | INTEGER_BIT, false)
    } else if fraction == 0 {
        (Kind::Zero, 0, 0, false)
    } else {
        let shift = aligned.leading_zeros();
        (Kind::Finite, 1 - emax - shift as i32, aligned << shift, true)
    };
    Unpacked { kind, sign, exp, sig, denormal }
}

macro_rules! interchange_format {
    ($(#[$doc:meta])* $name:ident($repr:ty), precision $precision:literal, emax $emax:literal,
     conversion_raises_denormal $denormal:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub $repr);

        impl Encoding for $name {
            const PRECISION: u32 = $precision;
            const EMAX: i32 = $emax;
            const CONVERSION_RAISES_DENORMAL: bool = $denormal;
            const IS_EXTENDED: bool = false;

            #[expect(private_interfaces, reason = "sealed: only this crate sees Unpacked")]
            fn unpack(self) -> Unpacked {
                unpack_interchange(u64::from(self.0), Self::PRECISION, Self::EMAX)
            }

            fn assemble(sign: bool, biased_exp: u32, sig: u64) -> Self {
                let fraction_bits = Self::PRECISION - 1;
                let fraction = (sig & !INTEGER_BIT) >> (63 - fraction_bits);
                let sign = <$repr>::from(sign) << (<$repr>::BITS - 1);
                $name(sign | ((biased_exp as $repr) << fraction_bits) | fraction as $repr)
            }
        }

        impl Float for $name {}
    };
}

interchange_format! {
    /// binary16, by its bits.
    F16(u16), precision 11, emax 15, conversion_raises_denormal false
}
interchange_format! {
    /// bfloat16, by its bits: binary32 with its significand cut to 8 bits.
    Bf16(u16), precision 8, emax 127, conversion_raises_denormal true
}
interchange_format! {
    /// binary32, by its bits.
    F32(u32), precision 24, emax 127, conversion_raises_denormal true
}
interchange_format! {
    /// binary64, by its bits.
    F64(u64), precision 53, emax 1023, conversion_raises_denormal true
}

/// The x87 double extended format, by its fields (Intel SDM vol. 1, 4.2.2 and table 8-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct F80 {
    /// Bit 15 the sign, bits 14..0 the exponent biased by 16383.
    pub sign_exponent: u16,
    /// The significand; bit 63 is the explicit integer bit.
    pub significand: u64,
}

impl F80 {
    /// From the low 80 bits, as memory holds them little-endian.
    pub const fn from_bits(bits: u128) -> F80 {
        F80 { sign_exponent: (bits >> 64) as u16, significand: bits as u64 }
    }

    /// The 80 bits, as memory holds them little-endian; the upper 48 bits are zero.
    pub const fn to_bits(self) -> u128 {
        (self.sign_exponent as u128) << 64 | self.significand as u128
    }
}

impl Encoding for F80 {
    const PRECISION: u32 = 64;
    const EMAX: i32 = 16383;
    const CONVERSION_RAISES_DENORMAL: bool = false;
    const IS_EXTENDED: bool = true;

    #[expect(private_interfaces, reason = "sealed: only this crate sees Unpacked")]
    fn unpack(self) -> Unpacked {
        let sig = self.significand;
        let sign = self.sign_exponent >> 15 != 0;
        let field = i32::from(self.sign_exponent & 0x7fff);
        let integer = sig & INTEGER_BIT != 0;
        let (kind, exp, sig, denormal) = match field {
            0 if sig == 0 => (Kind::Zero, 0, 0, false),
            // A pseudo-denormal (integer bit set) has the value its bits say: nothing to normalize.
            0 => {
                let shift = sig.leading_zeros();
                (Kind::Finite, 1 - Self::EMAX - shift as i32, sig << shift, true)
            }
            _ if !integer => (Kind::Unsupported, 0, sig, false),
            0x7fff if sig == INTEGER_BIT => (Kind::Infinity, 0, sig, false),
            0x7fff if sig & QUIET_BIT != 0 => (Kind::QuietNan, 0, sig, false),
            0x7fff => (Kind::SignalingNan, 0, sig, false),
            _ => (Kind::Finite, field - Self::EMAX, sig, false),
        };
        Unpacked { kind, sign, exp, sig, denormal }
    }

    fn assemble(sign: bool, biased_exp: u32, sig: u64) -> Self {
        F80 { sign_exponent: u16::from(sign) << 15 | biased_exp as u16, significand: sig }
    }
}

impl Float for F80 {}

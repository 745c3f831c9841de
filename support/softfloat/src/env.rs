//! The floating-point environment: what an architecture's control register selects, and the flags it accumulates.

use bitflags::bitflags;

bitflags! {
    /// Exception flags. The bit positions are those of x86's MXCSR and x87 status word (Intel SDM vol. 1, 8.1.3
    /// and 10.2.3), so that an x86 guest merges them with one OR; other guests translate.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
    pub struct Flags: u8 {
        /// Invalid operation (IE).
        const INVALID = 1 << 0;
        /// A denormal operand was used (DE); on Arm, an input denormal was flushed (IDC).
        const DENORMAL = 1 << 1;
        /// Division of a finite number by zero, or another exact infinity from finite operands (ZE).
        const DIVIDE_BY_ZERO = 1 << 2;
        /// The rounded result is too large for the format (OE).
        const OVERFLOW = 1 << 3;
        /// The result is tiny and inexact, or merely tiny when the exception is unmasked (UE).
        const UNDERFLOW = 1 << 4;
        /// The result is not exact (PE).
        const INEXACT = 1 << 5;
    }
}

/// Rounding direction (IEEE 754-2019, 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Rounding {
    /// To nearest, ties to even.
    #[default]
    NearestEven,
    /// Toward negative infinity.
    Down,
    /// Toward positive infinity.
    Up,
    /// Toward zero.
    TowardZero,
    /// To nearest, ties away from zero (RISC-V RMM, Arm FCVTA*).
    NearestAway,
}

/// When a result counts as tiny (IEEE 754-2019, 7.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Tininess {
    /// Tiny when the infinitely precise result is below the smallest normal number (Arm, PowerPC).
    BeforeRounding,
    /// Tiny when the result rounded with unbounded exponent is (x86, RISC-V, MIPS).
    #[default]
    AfterRounding,
}

/// Which NaN an operation with NaN operands delivers, and which NaN an invalid operation creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum NanRule {
    /// x86 SSE and AVX (Intel SDM vol. 1, table 4-7): the first operand that is a NaN, quieted. Default NaN negative.
    #[default]
    Sse,
    /// x87 (same table): a quiet NaN before a signaling one, else the larger significand; if those are equal, the
    /// positive one. Default NaN negative.
    X87,
    /// Always the positive default NaN (RISC-V unprivileged ISA, 11.3; Arm with FPCR.DN).
    Canonical,
    /// Arm (ARM ARM, FPProcessNaNs): the first signaling NaN, else the first quiet one; default NaN positive.
    Arm,
}

/// What a conversion to an integer delivers when the rounded value does not fit. All raise [`Flags::INVALID`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OutOfRange {
    /// x86's "integer indefinite": only the sign bit set for signed results, all ones for unsigned ones.
    #[default]
    Indefinite,
    /// Nearest representable integer; NaN gives the largest one (RISC-V).
    SaturateNanMax,
    /// Nearest representable integer; NaN gives zero (Arm).
    SaturateNanZero,
}

/// Significand precision of x87 add, subtract, multiply, divide and square root (Intel SDM vol. 1, 8.1.5.2).
/// The exponent range stays that of [`F80`](crate::F80). Other formats ignore it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// 24 bits.
    Single,
    /// 53 bits.
    Double,
    /// 64 bits.
    #[default]
    Extended,
}

impl Precision {
    /// Significand bits, the integer bit included.
    pub const fn bits(self) -> u32 {
        match self {
            Precision::Single => 24,
            Precision::Double => 53,
            Precision::Extended => 64,
        }
    }
}

/// Control and status of floating-point arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Env {
    /// Rounding direction of every operation that does not name its own.
    pub rounding: Rounding,
    /// x87 precision control.
    pub precision: Precision,
    /// Deliver a zero of the result's sign where the result is tiny. As MXCSR.FTZ, this is without effect while
    /// underflow is unmasked.
    pub flush_to_zero: bool,
    /// Whether a flushed result also raises [`Flags::INEXACT`] (x86 does, Arm does not).
    pub flush_is_inexact: bool,
    /// Treat denormal operands as zeros of their sign (MXCSR.DAZ, Arm FPCR.FZ).
    pub denormals_are_zero: bool,
    /// Whether a denormal operand replaced by zero raises [`Flags::DENORMAL`] (Arm does, x86 does not).
    pub daz_raises_denormal: bool,
    /// When a result is tiny.
    pub tininess: Tininess,
    /// NaN selection.
    pub nan_rule: NanRule,
    /// Conversion to integers out of range.
    pub out_of_range: OutOfRange,
    /// Exceptions that the guest handles by a trap. Only two things depend on it: unmasked underflow is raised by an
    /// exact tiny result too, and an [`F80`](crate::F80) result that overflows or underflows unmasked is delivered
    /// with its exponent wrapped by 24576 (Intel SDM vol. 1, 8.5.4 and 8.5.5). Whether to trap, and whether to write
    /// the destination then, is the caller's business.
    pub unmasked: Flags,
    /// Sticky exception flags.
    pub flags: Flags,
    /// Whether the last rounding increased the magnitude (x87's C1). Operations that do not round leave it; a caller
    /// that wants it clears it first.
    pub rounded_up: bool,
}

impl Env {
    /// x86 SSE and AVX with all exceptions masked and rounding to nearest even (MXCSR = 0x1f80).
    pub const SSE: Env = Env {
        rounding: Rounding::NearestEven,
        precision: Precision::Extended,
        flush_to_zero: false,
        flush_is_inexact: true,
        denormals_are_zero: false,
        daz_raises_denormal: false,
        tininess: Tininess::AfterRounding,
        nan_rule: NanRule::Sse,
        out_of_range: OutOfRange::Indefinite,
        unmasked: Flags::empty(),
        flags: Flags::empty(),
        rounded_up: false,
    };

    /// x87 as FNINIT leaves it (control word 0x037f).
    pub const X87: Env = Env { nan_rule: NanRule::X87, ..Env::SSE };

    /// RISC-V with rounding to nearest even.
    pub const RISCV: Env =
        Env { nan_rule: NanRule::Canonical, out_of_range: OutOfRange::SaturateNanMax, ..Env::SSE };

    /// Arm with FPCR = 0.
    pub const ARM: Env = Env {
        flush_is_inexact: false,
        daz_raises_denormal: true,
        tininess: Tininess::BeforeRounding,
        nan_rule: NanRule::Arm,
        out_of_range: OutOfRange::SaturateNanZero,
        ..Env::SSE
    };

    /// The environment an MXCSR value selects, flags included (Intel SDM vol. 1, 10.2.3).
    pub const fn from_mxcsr(mxcsr: u32) -> Env {
        Env {
            rounding: x86_rounding((mxcsr >> 13) as u8),
            flush_to_zero: mxcsr & (1 << 15) != 0,
            denormals_are_zero: mxcsr & (1 << 6) != 0,
            unmasked: Flags::from_bits_truncate(!(mxcsr >> 7) as u8),
            flags: Flags::from_bits_truncate(mxcsr as u8),
            ..Env::SSE
        }
    }

    /// The environment an x87 control word selects, with no flag set (Intel SDM vol. 1, 8.1.5). The reserved
    /// precision encoding 1 acts as extended.
    pub const fn from_x87_control(control: u16) -> Env {
        Env {
            rounding: x86_rounding((control >> 10) as u8),
            precision: match (control >> 8) & 3 {
                0 => Precision::Single,
                2 => Precision::Double,
                _ => Precision::Extended,
            },
            unmasked: Flags::from_bits_truncate(!control as u8),
            ..Env::X87
        }
    }

    pub(crate) fn raise(&mut self, flags: Flags) {
        self.flags |= flags;
    }

    pub(crate) fn masked(&self, flag: Flags) -> bool {
        !self.unmasked.contains(flag)
    }
}

/// The two-bit rounding field of MXCSR and the x87 control word; higher bits are ignored.
const fn x86_rounding(field: u8) -> Rounding {
    match field & 3 {
        0 => Rounding::NearestEven,
        1 => Rounding::Down,
        2 => Rounding::Up,
        _ => Rounding::TowardZero,
    }
}

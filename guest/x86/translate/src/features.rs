//! Which instructions a CPU model has.

use iced_x86::{Code, CpuidFeature};
use rhea_x86_state::features::{Feature, FeatureSet};

/// One bit per [`Code`]: set when the CPU model has the instruction.
#[derive(Clone)]
pub struct InstructionSet {
    bits: Vec<u64>,
}

impl InstructionSet {
    /// The instructions whose every required feature satisfies `has`.
    pub fn new(has: impl Fn(CpuidFeature) -> bool) -> Self {
        let mut bits = vec![0u64; Code::values().len().div_ceil(64)];
        for code in Code::values() {
            if code != Code::INVALID && code.cpuid_features().iter().all(|&f| has(f)) {
                bits[code as usize / 64] |= 1 << (code as usize % 64);
            }
        }
        Self { bits }
    }

    /// The instructions of a model with `features`.
    pub fn of(features: &FeatureSet) -> Self {
        Self::new(|f| match required(f) {
            Required::Always => true,
            Required::Never => false,
            Required::Feature(f) => features.has(f),
        })
    }

    /// Every instruction.
    pub fn all() -> Self {
        Self::new(|_| true)
    }

    /// Whether the model has `code`.
    #[inline]
    pub fn has(&self, code: Code) -> bool {
        let n = code as usize;
        self.bits[n / 64] >> (n % 64) & 1 != 0
    }
}

/// What a processor must have for an instruction of a decoder's feature class.
enum Required {
    /// Nothing: every processor here has it.
    Always,
    /// No model has it.
    Never,
    /// A CPUID feature.
    Feature(Feature),
}

/// The CPUID feature behind the decoder's feature class. Classes of instructions that are hints (and execute as NOP on
/// processors without the feature) need nothing.
fn required(f: CpuidFeature) -> Required {
    use CpuidFeature as C;
    Required::Feature(match f {
        C::INTEL8086
        | C::INTEL186
        | C::INTEL286
        | C::INTEL386
        | C::INTEL486
        | C::CPUID
        | C::MULTIBYTENOP
        | C::PAUSE
        | C::RDPMC
        | C::SMM
        | C::CET_IBT
        | C::CET_SS
        | C::CLDEMOTE
        | C::PREFETCHW
        | C::PREFETCHWT1
        | C::PREFETCHITI => return Required::Always,
        C::X64 => Feature::LM,
        C::FPU | C::FPU287 | C::FPU387 => Feature::FPU,
        C::ADX => Feature::ADX,
        C::AES => Feature::AES,
        C::AVX => Feature::AVX,
        C::AVX2 => Feature::AVX2,
        C::BMI1 => Feature::BMI1,
        C::BMI2 => Feature::BMI2,
        C::CLFLUSHOPT => Feature::CLFLUSHOPT,
        C::CLFSH => Feature::CLFLUSH,
        C::CLWB => Feature::CLWB,
        C::CMOV => Feature::CMOV,
        C::CMPXCHG16B => Feature::CX16,
        C::CX8 => Feature::CX8,
        C::F16C => Feature::F16C,
        C::FMA => Feature::FMA,
        C::FSGSBASE => Feature::FSGSBASE,
        C::FXSR => Feature::FXSR,
        C::INVPCID => Feature::INVPCID,
        C::LZCNT => Feature::ABM,
        C::MMX => Feature::MMX,
        C::MONITOR => Feature::MONITOR,
        C::MOVBE => Feature::MOVBE,
        C::MSR => Feature::MSR,
        C::PCLMULQDQ => Feature::PCLMULQDQ,
        C::POPCNT => Feature::POPCNT,
        C::RDPID => Feature::RDPID,
        C::RDRAND => Feature::RDRAND,
        C::RDSEED => Feature::RDSEED,
        C::RDTSCP => Feature::RDTSCP,
        C::SEP => Feature::SEP,
        C::SHA => Feature::SHA,
        C::SMAP => Feature::SMAP,
        C::SSE => Feature::SSE,
        C::SSE2 => Feature::SSE2,
        C::SSE3 => Feature::SSE3,
        C::SSE4_1 => Feature::SSE4_1,
        C::SSE4_2 => Feature::SSE4_2,
        C::SSSE3 => Feature::SSSE3,
        C::SYSCALL => Feature::SYSCALL,
        C::TSC => Feature::TSC,
        C::XSAVE => Feature::XSAVE,
        C::XSAVEC => Feature::XSAVEC,
        C::XSAVEOPT => Feature::XSAVEOPT,
        _ => return Required::Never,
    })
}

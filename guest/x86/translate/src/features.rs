//! Which instructions a CPU model has.

use iced_x86::{Code, CpuidFeature};

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

//! Exceptions as values: what an instruction raises instead of completing.

/// Exception vectors (SDM vol. 3, table 7-1).
pub mod vector {
    #![allow(missing_docs, reason = "the names are the architecture's own")]
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const MC: u8 = 18;
    pub const XM: u8 = 19;
}

/// Page-fault error code bits (SDM vol. 3, figure 5-12).
pub mod pf {
    #![allow(missing_docs, reason = "the names are the architecture's own")]
    pub const P: u32 = 1 << 0;
    pub const W: u32 = 1 << 1;
    pub const U: u32 = 1 << 2;
    pub const RSVD: u32 = 1 << 3;
    pub const ID: u32 = 1 << 4;
}

/// An exception that waits to be delivered by [`crate::interrupt::raise`].
///
/// RIP at that time is what is to be pushed: the instruction itself for faults, the next one for traps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Vector, see [`vector`].
    pub vector: u8,
    /// Error code, for the vectors that have one (SDM vol. 3, table 7-1).
    pub error_code: Option<u32>,
    /// Trap rather than fault: the instruction has completed, RF is not set in the pushed flags.
    pub trap: bool,
    /// #PF: the linear address, for CR2. #DB: the bits to be set in DR6. Otherwise zero.
    pub address: u64,
}

impl Exception {
    /// A fault without an error code.
    pub const fn fault(vector: u8) -> Self {
        Self { vector, error_code: None, trap: false, address: 0 }
    }

    /// A fault with an error code.
    pub const fn with_code(vector: u8, code: u32) -> Self {
        Self { vector, error_code: Some(code), trap: false, address: 0 }
    }

    /// #UD.
    pub const fn ud() -> Self {
        Self::fault(vector::UD)
    }

    /// #NM.
    pub const fn nm() -> Self {
        Self::fault(vector::NM)
    }

    /// #DE.
    pub const fn de() -> Self {
        Self::fault(vector::DE)
    }

    /// #GP with an error code: 0, or a selector with its RPL bits cleared.
    pub const fn gp(code: u32) -> Self {
        Self::with_code(vector::GP, code)
    }

    /// #SS with an error code.
    pub const fn ss(code: u32) -> Self {
        Self::with_code(vector::SS, code)
    }

    /// #NP with a selector error code.
    pub const fn np(code: u32) -> Self {
        Self::with_code(vector::NP, code)
    }

    /// #TS with a selector error code.
    pub const fn ts(code: u32) -> Self {
        Self::with_code(vector::TS, code)
    }

    /// #AC with its zero error code.
    pub const fn ac() -> Self {
        Self::with_code(vector::AC, 0)
    }

    /// #PF at a linear address; `code` is made of the bits in [`pf`].
    pub const fn pf(address: u64, code: u32) -> Self {
        Self { vector: vector::PF, error_code: Some(code), trap: false, address }
    }

    /// A #DB trap that sets `dr6` in DR6 (single step, data and I/O breakpoints, task switch).
    pub const fn debug_trap(dr6: u64) -> Self {
        Self { vector: vector::DB, error_code: None, trap: true, address: dr6 }
    }

    /// A #DB fault that sets `dr6` in DR6 (instruction breakpoints, general detect).
    pub const fn debug_fault(dr6: u64) -> Self {
        Self { vector: vector::DB, error_code: None, trap: false, address: dr6 }
    }
}

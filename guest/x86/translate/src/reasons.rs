//! Why translated code leaves to the dispatcher: the numbers of `Exit::Leave`, of a helper's request to leave and of
//! [`Leave`](rhea_engine) errors.

/// Go on; the mode word may have changed, and interrupts are looked at.
pub const RESUME: u32 = 0;
/// HLT: wait for an interrupt. The PC is that of the next instruction.
pub const HALT: u32 = 1;
/// An exception is recorded in the vCPU data and is to be delivered at the PC of the instruction at hand.
pub const EXCEPTION: u32 = 2;
/// An instruction finished in an interrupt shadow or with breakpoints armed. The PC is that of the next instruction.
pub const STEP: u32 = 3;
/// As [`STEP`], and RFLAGS.TF was set when the instruction began: a single-step trap.
pub const TRAP: u32 = 4;
/// An IRET finished, which loaded RF, with breakpoints armed; as [`STEP`] otherwise.
pub const STEP_RF: u32 = 5;
/// As [`STEP_RF`], with a single-step trap.
pub const TRAP_RF: u32 = 6;
/// An access to an address that is not canonical, at the PC of the instruction: #GP(0), or #SS(0) by way of SS.
pub const NOT_CANONICAL: u32 = 7;
/// An x87 stack fault: execute the one instruction at hand with mode bit `X87_UNMASKED` added.
pub const X87_FAULT: u32 = 16;
/// An x87 error waits and CR0.NE is clear: FERR# is signalled and the instruction at hand begun again.
pub const FERR: u32 = 17;
/// `FAULT + vector`: a fault without operands: its error code is zero where the vector has one.
pub const FAULT: u32 = 0x100;

/// Reason that raises exception `vector`, with error code 0 where the vector pushes one.
pub const fn fault(vector: u8) -> u32 {
    FAULT + vector as u32
}

/// Vector of a [`fault`] reason.
pub const fn fault_vector(reason: u32) -> Option<u8> {
    if reason >= FAULT && reason < FAULT + 32 { Some((reason - FAULT) as u8) } else { None }
}

/// Exception vectors (SDM vol. 3, table 6-1).
pub mod vector {
    #![allow(missing_docs, reason = "the names are the architecture's own")]
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const XM: u8 = 19;
}

//! Exceptions by cause (privileged specification, "Machine Cause (mcause) Register").

/// Why an instruction trapped, by its code in mcause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
#[allow(missing_docs, reason = "the names are the architecture's own")]
pub enum Cause {
    InstructionMisaligned = 0,
    InstructionAccess = 1,
    IllegalInstruction = 2,
    Breakpoint = 3,
    LoadMisaligned = 4,
    LoadAccess = 5,
    StoreMisaligned = 6,
    StoreAccess = 7,
    EcallUser = 8,
    EcallSupervisor = 9,
    EcallMachine = 11,
    InstructionPageFault = 12,
    LoadPageFault = 13,
    StorePageFault = 15,
}

/// An exception to raise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Why.
    pub cause: Cause,
    /// What mtval or stval holds: the faulting address, the bits of an illegal instruction, or zero.
    pub value: u64,
}

impl Exception {
    /// An illegal instruction; `bits` are those of the instruction, 16 bits of a compressed one.
    pub const fn illegal(bits: u32) -> Self {
        Self { cause: Cause::IllegalInstruction, value: bits as u64 }
    }

    /// An exception of an access to `address`.
    pub const fn at(cause: Cause, address: u64) -> Self {
        Self { cause, value: address }
    }
}

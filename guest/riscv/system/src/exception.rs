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
    EcallVirtualSupervisor = 10,
    EcallMachine = 11,
    InstructionPageFault = 12,
    LoadPageFault = 13,
    StorePageFault = 15,
    InstructionGuestPageFault = 20,
    LoadGuestPageFault = 21,
    VirtualInstruction = 22,
    StoreGuestPageFault = 23,
}

impl Cause {
    /// Whether a load or a store, and not a fetch, was at fault.
    pub const fn is_data_access(self) -> bool {
        matches!(
            self,
            Self::LoadMisaligned
                | Self::LoadAccess
                | Self::StoreMisaligned
                | Self::StoreAccess
                | Self::LoadPageFault
                | Self::StorePageFault
                | Self::LoadGuestPageFault
                | Self::StoreGuestPageFault
        )
    }
}

/// An exception to raise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Why.
    pub cause: Cause,
    /// What mtval or stval holds: the faulting address, the bits of an illegal instruction, or zero.
    pub value: u64,
    /// `value` is a guest virtual address (hypervisor extension: GVA).
    pub guest_virtual: bool,
    /// The guest physical address of a guest page fault; mtval2 and htval hold it without its lowest two bits.
    pub guest_physical: u64,
    /// What mtinst or htinst holds: a transformed instruction, a pseudoinstruction, or zero.
    pub instruction: u64,
}

impl Exception {
    /// An exception with a trap value that is no guest's address.
    pub const fn new(cause: Cause, value: u64) -> Self {
        Self { cause, value, guest_virtual: false, guest_physical: 0, instruction: 0 }
    }

    /// An illegal instruction; `bits` are those of the instruction, 16 bits of a compressed one.
    pub const fn illegal(bits: u32) -> Self {
        Self::new(Cause::IllegalInstruction, bits as u64)
    }

    /// A virtual instruction: what the hypervisor has to do for its guest; `bits` as for an illegal one.
    pub const fn virtual_instruction(bits: u32) -> Self {
        Self::new(Cause::VirtualInstruction, bits as u64)
    }

    /// An exception of an access to `address`.
    pub const fn at(cause: Cause, address: u64) -> Self {
        Self::new(cause, address)
    }

    /// The same, of an address that is a guest virtual one if `guest`.
    #[must_use]
    pub const fn of_guest(self, guest: bool) -> Self {
        Self { guest_virtual: guest, ..self }
    }

    /// Illegal, or virtual if `virtual_mode`.
    pub(crate) const fn refused(bits: u32, virtual_mode: bool) -> Self {
        if virtual_mode { Self::virtual_instruction(bits) } else { Self::illegal(bits) }
    }
}

//! What a processor asks of the machine around it: its local APIC.
//!
//! The machine implements [`LocalApicPort`] over its interrupt controller model; the accelerator calls it. All
//! methods may be called from the vCPU's own thread at any time; `pending` is called often and must be one or two
//! atomic loads.

use bitflags::bitflags;

bitflags! {
    /// Events that wait for the processor.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Pending: u32 {
        /// A maskable interrupt that the TPR lets through, or an ExtINT from the 8259.
        const INTERRUPT = 1 << 0;
        /// A non-maskable interrupt.
        const NMI = 1 << 1;
        /// A system management interrupt.
        const SMI = 1 << 2;
        /// INIT (assert): the processor goes to wait-for-SIPI (or, on the BSP, to the reset vector).
        const INIT = 1 << 3;
        /// A start-up IPI.
        const SIPI = 1 << 4;
    }
}

/// The access was refused: the instruction takes #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApicFault;

/// The local APIC as its own processor sees it (SDM vol. 3, chapter 11), apart from its memory-mapped page, which
/// is part of the vCPU's address space.
pub trait LocalApicPort: Send + Sync {
    /// What waits, considering TPR and in-service priorities.
    fn pending(&self) -> Pending;
    /// INTA: takes the highest-priority deliverable interrupt and puts it in service (or asks the 8259 for ExtINT).
    /// `None` if it went away meanwhile.
    fn acknowledge_interrupt(&self) -> Option<u8>;
    /// Takes a pending NMI.
    fn take_nmi(&self) -> bool;
    /// Takes a pending SMI.
    fn take_smi(&self) -> bool;
    /// Takes a pending INIT.
    fn take_init(&self) -> bool;
    /// Takes a pending start-up IPI: its vector (start address is vector << 12).
    fn take_sipi(&self) -> Option<u8>;
    /// Task priority register, all 8 bits (CR8 is `tpr >> 4`).
    fn tpr(&self) -> u8;
    /// Sets the task priority register.
    fn set_tpr(&self, value: u8);
    /// IA32_APIC_BASE (MSR 1Bh).
    fn apic_base(&self) -> u64;
    /// Writes IA32_APIC_BASE.
    fn set_apic_base(&self, value: u64) -> Result<(), ApicFault>;
    /// Reads an x2APIC register, MSR index 800h..=8FFh.
    fn read_x2apic(&self, index: u32) -> Result<u64, ApicFault>;
    /// Writes an x2APIC register, MSR index 800h..=8FFh.
    fn write_x2apic(&self, index: u32, value: u64) -> Result<(), ApicFault>;
    /// IA32_TSC_DEADLINE (MSR 6E0h); zero when disarmed.
    fn tsc_deadline(&self) -> u64;
    /// Arms the deadline timer: `deadline` in TSC ticks of this processor, whose TSC now reads `tsc_now` and runs at
    /// `tsc_hz`. Zero disarms.
    fn set_tsc_deadline(&self, deadline: u64, tsc_now: u64, tsc_hz: u64);
    /// INIT was taken: resets the APIC as INIT does (keeps APIC ID and base).
    fn init_reset(&self);
    /// The initial APIC ID (CPUID leaf 1 EBX[31:24], leaf Bh EDX).
    fn apic_id(&self) -> u32;
    /// Number of logical processors in the package and the like are CPU-model configuration, not asked here; this
    /// tells whether the processor is the bootstrap processor.
    fn is_bsp(&self) -> bool;
}

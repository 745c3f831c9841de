//! What the privileged semantics ask of the machine that runs them.

use rhea_x86_state::X86State;
use rhea_x86_state::model::CpuModel;
use rhea_x86_state::platform::LocalApicPort;

use crate::exception::Exception;

/// With whose rights a linear access is made. [`crate::paging::Access::new`] turns it into what the walk needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// An explicit access at the current privilege level.
    Current,
    /// An implicit supervisor access (GDT, LDT, IDT, TSS): supervisor rights whatever CPL is; RFLAGS.AC does not
    /// lift SMAP (SDM vol. 3, 5.6.1).
    Supervisor,
    /// An explicit access as if made at this level: the pushes onto a new stack during a change of level.
    Ring(u8),
}

/// Which cached translations are to be forgotten (SDM vol. 3, 5.10.4). Forgetting more is always right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlbScope {
    /// Everything, global pages too, in every PCID.
    All,
    /// Everything but global pages, in every PCID.
    NonGlobal,
    /// The page that holds a linear address, in the current PCID, and global pages that hold it.
    Page(u64),
    /// The page that holds a linear address, in the named PCID, not global (INVPCID type 0).
    PageOfPcid {
        /// Linear address.
        linear: u64,
        /// Process-context identifier, 0..=4095.
        pcid: u16,
    },
    /// Everything but global pages in one PCID (INVPCID type 1).
    Pcid(u16),
    /// CR3 was loaded: the current PCID becomes `pcid` (0 while CR4.PCIDE is clear). Its non-global translations are
    /// to be forgotten unless `preserve` (bit 63 of the source was set). A cache without PCID tags treats this
    /// as [`TlbScope::NonGlobal`].
    AddressSpace {
        /// Process-context identifier, 0..=4095.
        pcid: u16,
        /// Translations of `pcid` may be kept.
        preserve: bool,
    },
}

/// An interrupt or exception on its way to its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Vector.
    pub vector: u8,
    /// Error code, for the vectors that have one.
    pub error_code: Option<u32>,
    /// Caused by INT n, INT3 or INTO.
    pub software: bool,
}

/// One processor's view of memory, ports, time and its interrupt controller.
///
/// Linear accesses apply paging but not segmentation; they may cross pages, and then fault before any byte is
/// written. `size` is 1, 2, 4 or 8 bytes; values are zero-extended, little endian. Addresses wrap at 64 bits; callers
/// truncate them to 32 bits outside 64-bit mode and check that they are canonical within it.
pub trait SystemBus {
    /// Reads at a linear address.
    fn read_linear(
        &mut self,
        st: &mut X86State,
        linear: u64,
        size: u8,
        privilege: Privilege,
    ) -> Result<u64, Exception>;

    /// Writes at a linear address.
    fn write_linear(
        &mut self,
        st: &mut X86State,
        linear: u64,
        size: u8,
        value: u64,
        privilege: Privilege,
    ) -> Result<(), Exception>;

    /// Raises what [`SystemBus::write_linear`] would raise, without writing.
    fn probe_write(
        &mut self,
        st: &mut X86State,
        linear: u64,
        size: u8,
        privilege: Privilege,
    ) -> Result<(), Exception>;

    /// Reads physical memory; `addr` is aligned to `size`. Nothing there reads as all ones.
    fn read_phys(&mut self, addr: u64, size: u8) -> u64;

    /// Writes physical memory; `addr` is aligned to `size`.
    fn write_phys(&mut self, addr: u64, size: u8, value: u64);

    /// Compares and swaps aligned physical memory atomically, `size` 4 or 8. False: the memory did not hold `old`.
    /// Where memory cannot be written (ROM, nothing there) the answer is true.
    fn cas_phys(&mut self, addr: u64, size: u8, old: u64, new: u64) -> bool;

    /// Reads an I/O port, `size` 1, 2 or 4. Permission has been checked.
    fn io_read(&mut self, port: u16, size: u8) -> u32;

    /// Writes an I/O port, `size` 1, 2 or 4. Permission has been checked.
    fn io_write(&mut self, port: u16, size: u8, value: u32);

    /// Forgets cached translations of this processor.
    fn flush_tlb(&mut self, scope: TlbScope);

    /// The local APIC of this processor.
    fn apic(&self) -> &dyn LocalApicPort;

    /// What CPUID tells and which MSRs exist.
    fn cpu_model(&self) -> &CpuModel;

    /// The machine's time-stamp counter before the guest's adjustment (`X86State::tsc_offset`).
    fn tsc(&mut self) -> u64;

    /// Ticks of [`SystemBus::tsc`] a second.
    fn tsc_hz(&self) -> u64;

    /// A random number for RDRAND and RDSEED.
    fn random(&mut self) -> u64;

    /// An interrupt or exception is about to be delivered; the state is still that of the interrupted program, CR2 is
    /// set. For traces; a delivery that faults is followed by that of its fault.
    fn delivering(&mut self, st: &X86State, delivery: &Delivery) {
        let _ = (st, delivery);
    }

    /// A triple fault: the processor is in shutdown, `X86State::shutdown` is set; the board usually resets.
    fn shutdown(&mut self);

    /// SMM was entered (true) or left (false): system management memory becomes visible or hidden.
    fn smm_changed(&mut self, in_smm: bool);

    /// FERR#: an unmasked x87 exception waits and CR0.NE is clear (IRQ 13 on a PC).
    fn signal_ferr(&mut self);
}

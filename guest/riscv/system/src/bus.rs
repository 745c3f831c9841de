//! What the privileged semantics ask of the machine that runs them.

use rhea_riscv_state::InterruptLines;

/// Which cached translations are to be forgotten (privileged specification, "Supervisor Memory-Management Fence
/// Instruction"). Forgetting more is always right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlbScope {
    /// Everything.
    All,
    /// Everything of one address space but global mappings.
    AddressSpace(u16),
    /// The page that holds an address, in every address space, and global mappings of it.
    Page(u64),
    /// The page that holds an address, in one address space, but not global mappings of it.
    PageOf {
        /// Virtual address.
        vaddr: u64,
        /// Address-space identifier.
        asid: u16,
    },
}

/// One hart's view of memory, time and its interrupt lines.
pub trait SystemBus {
    /// Reads physical memory for a page walk; `addr` is aligned to `size`, 4 or 8. `None`: no memory there that could
    /// hold page tables.
    fn read_phys(&mut self, addr: u64, size: u8) -> Option<u64>;

    /// Compares and swaps aligned physical memory atomically, `size` 4 or 8. `Some(false)`: the memory did not hold
    /// `old`. `None`: it cannot be written.
    fn cas_phys(&mut self, addr: u64, size: u8, old: u64, new: u64) -> Option<bool>;

    /// The lines that come into this hart.
    fn lines(&self) -> &InterruptLines;

    /// The machine's real-time counter, mtime.
    fn time(&mut self) -> u64;

    /// Cycles since some moment; wraps.
    fn cycles(&mut self) -> u64;

    /// Instructions that this hart has retired since some moment; wraps.
    fn instructions(&mut self) -> u64;

    /// Sixteen bits for the entropy source of Zkr; `None` while there are none.
    fn entropy(&mut self) -> Option<u16>;
}

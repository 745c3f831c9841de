//! What a guest architecture supplies to the engine, and what the engine offers it.

use crate::context::VcpuContext;
use rhea_ir::{Builder, HelperInfo, Slot};

/// A Rust function that translated code calls. Arguments beyond the helper's own are undefined; results narrower than
/// 64 bits may carry garbage above.
pub type HelperFn = extern "C" fn(&mut VcpuContext, u64, u64, u64, u64) -> u64;

/// A helper: its description and its function.
#[derive(Clone, Copy)]
pub struct Helper {
    /// What the translator must know.
    pub info: HelperInfo,
    /// The function.
    pub function: HelperFn,
}

/// Where translated code finds guest state.
#[derive(Clone, Copy, Debug)]
pub struct GuestLayout {
    /// Name of the guest, as in `qemu-system-NAME`.
    pub name: &'static str,
    /// The slot that holds the PC between units.
    pub pc: Slot,
    /// I64 slots in order of heat: a back end keeps as many as it can in host registers across units.
    pub hot: &'static [Slot],
    /// Length in bytes of the longest instruction.
    pub longest_insn: u32,
    /// Number of MMU indices in use (1..=8).
    pub mmu_indices: u8,
}

/// Kind of a memory access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Fetch,
}

/// A translated page, as the guest's MMU walk returns it.
#[derive(Clone, Copy, Debug)]
pub struct Translation {
    /// Guest-physical address of the accessed byte.
    pub phys: u64,
    /// Reads are permitted.
    pub read: bool,
    /// Writes are permitted without another walk (for example: the page is already marked dirty).
    pub write: bool,
    /// Instruction fetches are permitted.
    pub fetch: bool,
    /// Survives a flush of non-global entries.
    pub global: bool,
    /// Log2 of the page size the translation comes from (12 or more; more matters to `flush_page`). A smaller value
    /// than 12 makes the entry good for this one access only.
    pub page_bits: u8,
}

/// The access left the unit: the guest has recorded why (an exception to deliver) in its own vCPU data and the
/// dispatcher shall call [`Guest::handle_leave`] with this reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leave(pub u32);

/// What the dispatcher does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Go on executing.
    Run,
    /// The vCPU waits for an event (HLT, wait-for-SIPI): block until [`Guest::has_events`].
    Wait,
    /// Execute exactly one instruction in its own unit next (used after self-modifying stores), then go on.
    RunOne,
}

/// A guest architecture. One object serves all its vCPUs; per-vCPU data is in the context.
pub trait Guest: Send + Sync {
    /// Layout of the state.
    fn layout(&self) -> &GuestLayout;

    /// The helper table; `Builder::call` uses indices into it.
    fn helpers(&self) -> &[Helper];

    /// The current PC slot value.
    fn pc(&self, cx: &mut VcpuContext) -> u64;

    /// The mode word that translations are specialized on, from the state.
    fn mode(&self, cx: &mut VcpuContext) -> u64;

    /// Virtual address of the instruction at `pc` under `mode`.
    fn fetch_address(&self, pc: u64, mode: u64) -> u64;

    /// MMU index of instruction fetches under `mode`.
    fn fetch_index(&self, mode: u64) -> u8;

    /// Translates from `pc` under `mode` into `builder` (already started): at least one instruction, at most
    /// `max_insns`, ending before the page ends unless the first instruction itself crosses it. Code bytes come from
    /// [`VcpuContext::fetch`]. A fetch fault at the first instruction returns `Err`; a fault at a later one ends the
    /// unit before it. Sets `builder.unit.len`.
    fn translate(
        &self,
        cx: &mut VcpuContext,
        builder: &mut Builder,
        pc: u64,
        mode: u64,
        max_insns: u32,
    ) -> Result<(), Leave>;

    /// Walks the guest's page tables for a TLB miss by an access of `len` bytes at `vaddr` that stays in one page (of
    /// an access over two pages, each part is one). On a fault records the exception and returns `Err`.
    fn tlb_fill(
        &self,
        cx: &mut VcpuContext,
        vaddr: u64,
        len: u32,
        access: Access,
        mmu_index: u8,
    ) -> Result<Translation, Leave>;

    /// An access marked `ALIGNED` was not: records the guest's exception.
    fn unaligned(&self, cx: &mut VcpuContext, vaddr: u64, access: Access, mmu_index: u8) -> Leave;

    /// A unit left with `reason` (an `Exit::Leave`, a helper's request, or an [`Leave`] error): deliver the exception,
    /// or whatever the reason means. PC and state are those of the instruction at hand.
    fn handle_leave(&self, cx: &mut VcpuContext, reason: u32) -> Next;

    /// Takes pending interrupts that can be delivered now, and says whether the vCPU runs. Asked between units when
    /// there are events, and, events or not, when a vCPU starts to run or was woken: one that waits (halted, not
    /// started) by its own state answers [`Next::Wait`] as long as nothing ends that.
    fn poll_events(&self, cx: &mut VcpuContext) -> Next;

    /// Guest code as text for `-d in_asm`, one line an instruction, each with its line end.
    fn disassemble(&self, pc: u64, mode: u64, code: &[u8]) -> String {
        let _ = mode;
        let hex: String = code.iter().map(|b| format!("{b:02x}")).collect();
        format!("{pc:#018x}:  {hex}\n")
    }

    /// The registers as text, for traces.
    fn dump(&self, cx: &mut VcpuContext) -> String;

    /// Whether `poll_events` would have something to do for a waiting vCPU. Cheap; may be called from another thread.
    fn has_events(&self, cx: &VcpuContext) -> bool;
}

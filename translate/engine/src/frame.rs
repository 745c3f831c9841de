//! The vCPU frame: the memory block that translated code works on.
//!
//! One host mapping per vCPU: engine fields ([`Frame`]) first, the guest's register state right behind. Translated
//! code addresses both from [`BIAS`] bytes into the guest state. The hottest fields stand last in `Frame`, so that
//! their displacements from there fit a signed byte, as do those of the guest's first slots.
//!
//! Only the vCPU's own thread writes a frame, with three exceptions, which are atomics: `poll` (any thread may ask the
//! vCPU to leave translated code), TLB tags of write tables and jump-cache keys (another thread may invalidate an
//! entry by storing a value that never matches).

use rhea_host::mapping::AnonymousMapping;
use std::io;
use std::mem::{offset_of, size_of};
use std::sync::atomic::{AtomicU32, AtomicU64};

/// Log2 of the entries of one soft-TLB table.
pub const TLB_BITS: u32 = 10;
/// Entries of one soft-TLB table.
pub const TLB_ENTRIES: usize = 1 << TLB_BITS;
/// MMU indices a frame has tables for.
pub const MMU_INDICES: usize = 8;
/// Log2 of the entries of the jump cache.
pub const JUMP_CACHE_BITS: u32 = 12;
/// Entries of the shadow return stack.
pub const RETURN_STACK_ENTRIES: usize = 32;
/// A TLB tag that no access matches: accesses compare page addresses, at most with low bits below the access size.
pub const NO_TAG: u64 = u64::MAX;

/// One soft-TLB entry: hit when `tag` equals the page address of the access; data is at address + `addend`.
#[repr(C)]
#[derive(Debug)]
pub struct TlbEntry {
    /// Virtual page address, or [`NO_TAG`].
    pub tag: AtomicU64,
    /// Host address minus guest virtual address.
    pub addend: AtomicU64,
}

/// The two tables of one MMU index.
#[repr(C)]
#[derive(Debug)]
pub struct TlbTables {
    /// For loads.
    pub read: [TlbEntry; TLB_ENTRIES],
    /// For stores and read-modify-writes.
    pub write: [TlbEntry; TLB_ENTRIES],
}

/// One entry of the jump cache or of the shadow return stack.
#[repr(C)]
#[derive(Debug)]
pub struct JumpEntry {
    /// PC xor the lookup key it is valid under.
    pub key: AtomicU64,
    /// Host address of the unit's code (jump cache) or of a landing stub (return stack).
    pub code: AtomicU64,
}

/// Engine fields of a vCPU.
#[repr(C, align(4096))]
pub struct Frame {
    /// Soft TLB.
    pub tlb: [TlbTables; MMU_INDICES],
    /// Jump cache, indexed by `rhea_backend_x64::jump_cache_index`.
    pub jump_cache: [JumpEntry; 1 << JUMP_CACHE_BITS],
    /// Shadow return stack, a ring.
    pub return_stack: [JumpEntry; RETURN_STACK_ENTRIES],
    /// Keeps the hot fields at the end of the structure's last page.
    pub padding: [u64; PADDING],
    /// Second value of a slow-path compare-and-swap (the new value).
    pub mem_value2: u64,
    /// The `VcpuContext`, as helpers' first argument.
    pub context: u64,
    /// Value of a slow-path memory access, in and out.
    pub mem_value: [u64; 4],
    /// Address of a slow-path memory access.
    pub mem_addr: u64,
    /// Remaining instructions in counting mode.
    pub icount: i64,
    /// Xored with a PC gives the key under which the jump cache and return stack know it. Changes with the mode word
    /// and with every TLB flush.
    pub lookup_key: u64,
    /// Descriptor of a slow-path memory access (see `rhea_backend_x64::layout`).
    pub mem_desc: u32,
    /// Byte offset of the return stack's newest entry.
    pub return_top: u32,
    /// Reason for leaving the unit plus one; zero for none.
    pub leave_reason: u32,
    /// Nonzero asks translated code to leave at the next back edge or indirect jump.
    pub poll: AtomicU32,
}

/// Words before the hot fields: the return stack starts a page, the hot fields end one.
const PADDING: usize = (4096 - RETURN_STACK_ENTRIES * size_of::<JumpEntry>() - HOT_BYTES) / 8;
/// Bytes of the fields behind the padding.
const HOT_BYTES: usize = 88;

/// What RBP lies above the guest state's first byte in translated code: as far as leaves the fields from `context` on
/// within a signed byte.
pub const BIAS: u32 = 48;

const _: () = {
    assert!(size_of::<Frame>().is_multiple_of(4096));
    // The alignment adds nothing behind the last field.
    assert!(offset_of!(Frame, poll) + size_of::<AtomicU32>() == size_of::<Frame>());
    assert!(Frame::displacement(offset_of!(Frame, context)) - BIAS as i32 >= i8::MIN as i32);
};

impl Frame {
    /// Displacement of the field at `offset` of `Frame` from the guest state's first byte.
    pub const fn displacement(offset: usize) -> i32 {
        offset as i32 - size_of::<Frame>() as i32
    }
}

/// Displacement from the guest state of a field of [`Frame`], for back ends.
#[macro_export]
macro_rules! frame_displacement {
    ($field:ident) => {
        $crate::frame::Frame::displacement(std::mem::offset_of!($crate::frame::Frame, $field))
    };
}

/// Displacement of the read table of MMU index 0, that of the write table, and the stride between indices.
pub const fn tlb_displacements() -> (i32, i32, i32) {
    let base = Frame::displacement(offset_of!(Frame, tlb));
    (
        base + offset_of!(TlbTables, read) as i32,
        base + offset_of!(TlbTables, write) as i32,
        size_of::<TlbTables>() as i32,
    )
}

/// Where the back end finds the engine's fields; `counted`: instructions are counted.
pub fn backend_frame(counted: bool) -> rhea_backend_x64::Frame {
    let at = Frame::displacement;
    rhea_backend_x64::Frame {
        mem_addr: at(offset_of!(Frame, mem_addr)),
        mem_value: at(offset_of!(Frame, mem_value)),
        mem_value2: at(offset_of!(Frame, mem_value2)),
        mem_desc: at(offset_of!(Frame, mem_desc)),
        poll: at(offset_of!(Frame, poll)),
        leave_reason: at(offset_of!(Frame, leave_reason)),
        lookup_key: at(offset_of!(Frame, lookup_key)),
        context: at(offset_of!(Frame, context)),
        jump_cache: at(offset_of!(Frame, jump_cache)),
        jump_cache_bits: JUMP_CACHE_BITS as u8,
        ras: at(offset_of!(Frame, return_stack)),
        ras_top: at(offset_of!(Frame, return_top)),
        ras_bytes: (RETURN_STACK_ENTRIES * 16) as u32,
        icount: counted.then(|| at(offset_of!(Frame, icount))),
    }
}

/// The mapping that holds a frame and the guest state behind it.
#[derive(Debug)]
pub struct FrameMemory {
    mapping: AnonymousMapping,
    state_len: usize,
}

impl FrameMemory {
    /// A frame with empty TLB and caches, and `state_len` zero bytes of guest state.
    pub fn new(state_len: usize) -> io::Result<Self> {
        let mapping = AnonymousMapping::new(size_of::<Frame>() + state_len.next_multiple_of(4096))?;
        let memory = FrameMemory { mapping, state_len };
        for tables in &memory.frame().tlb {
            clear_tables(tables);
        }
        Ok(memory)
    }

    /// The engine fields. Fields that translated code writes are read by Rust only on the vCPU's own thread while it
    /// is not in translated code.
    pub fn frame(&self) -> &Frame {
        // SAFETY: the mapping starts with a Frame (all-zero bytes are valid for its integers and atomics), is page
        // aligned and lives as long as self.
        unsafe { &*self.mapping.as_ptr().cast::<Frame>() }
    }

    /// The engine fields by raw pointer, for writes by the owning thread.
    pub fn frame_ptr(&self) -> *mut Frame {
        self.mapping.as_ptr().cast()
    }

    /// First byte of the guest state.
    pub fn state_ptr(&self) -> *mut u8 {
        // SAFETY: the mapping is longer than a Frame.
        unsafe { self.mapping.as_ptr().add(size_of::<Frame>()) }
    }

    /// Bytes of guest state.
    pub fn state_len(&self) -> usize {
        self.state_len
    }
}

/// Empties both tables of an MMU index.
pub fn clear_tables(tables: &TlbTables) {
    use std::sync::atomic::Ordering::Relaxed;
    for e in tables.read.iter().chain(&tables.write) {
        e.tag.store(NO_TAG, Relaxed);
    }
}

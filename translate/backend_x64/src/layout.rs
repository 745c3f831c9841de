//! What translated code and the engine agree on: where fields are, which thunks there are, what exits report.
//!
//! Guest slots lie at their offsets in the guest state; the engine's per-vCPU frame lies below it, and every `i32`
//! field of [`Frame`] is a (negative) displacement from the guest state's first byte. Translated code runs with RBP
//! [`Layout::bias`] bytes into the guest state, which brings more of both within a signed byte of RBP.

use crate::asm::{Gpr, Mem};
use crate::emitter::BASE;
use rhea_ir::{HelperInfo, Slot};

/// Most guest slots that can be pinned to host registers.
pub const MAX_HOT: usize = 8;

/// Host processor features that the compiler may use. The engine detects them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "CPUID feature names")]
pub struct Features {
    pub ssse3: bool,
    pub sse41: bool,
    pub sse42: bool,
    pub avx: bool,
    pub avx2: bool,
    pub fma: bool,
    pub f16c: bool,
    pub bmi1: bool,
    pub bmi2: bool,
    pub lzcnt: bool,
    pub popcnt: bool,
    pub movbe: bool,
    pub aes: bool,
    pub pclmul: bool,
    pub sha: bool,
}

impl Features {
    /// Features of the processor this runs on (with the operating system's support for AVX state).
    #[cfg(target_arch = "x86_64")]
    pub fn detect() -> Self {
        Features {
            ssse3: is_x86_feature_detected!("ssse3"),
            sse41: is_x86_feature_detected!("sse4.1"),
            sse42: is_x86_feature_detected!("sse4.2"),
            avx: is_x86_feature_detected!("avx"),
            avx2: is_x86_feature_detected!("avx2"),
            fma: is_x86_feature_detected!("fma"),
            f16c: is_x86_feature_detected!("f16c"),
            bmi1: is_x86_feature_detected!("bmi1"),
            bmi2: is_x86_feature_detected!("bmi2"),
            lzcnt: is_x86_feature_detected!("lzcnt"),
            popcnt: is_x86_feature_detected!("popcnt"),
            movbe: is_x86_feature_detected!("movbe"),
            aes: is_x86_feature_detected!("aes"),
            pclmul: is_x86_feature_detected!("pclmulqdq"),
            sha: is_x86_feature_detected!("sha"),
        }
    }
}

/// How guest addresses become host addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryModel {
    /// A software TLB per MMU index, probed inline.
    ///
    /// An entry is 16 bytes: `tag` (u64, the guest page address, or a value with any of bits 5 to 11 set, which never
    /// matches: probes that check alignment compare the low bits too) and `addend` (u64, host address minus guest address, modulo 2^64). Tables have `2^bits` entries, indexed by
    /// guest address bits from 12 up; those of MMU index `i` are at `read + i*stride` (loads) and
    /// `write + i*stride` (stores, atomics, loads marked for write).
    SoftTlb {
        /// Displacement of the read table of MMU index 0.
        read: i32,
        /// Displacement of the write table of MMU index 0.
        write: i32,
        /// Bytes from one MMU index's table to the next.
        stride: i32,
        /// Log2 of the number of entries.
        bits: u8,
    },
}

/// Displacements from the guest state's first byte of the engine's per-vCPU fields.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// u64: guest address of the access handed to the memory thunk.
    pub mem_addr: i32,
    /// 32 bytes: value stored, RMW operand or CAS expectation; on return the value loaded.
    pub mem_value: i32,
    /// u64: new value of a compare and swap.
    pub mem_value2: i32,
    /// u32: what access it is, see [`descriptor`].
    pub mem_desc: i32,
    /// u32: non-zero asks translated code to leave at the next poll point.
    pub poll: i32,
    /// u32: zero, or the reason to leave plus one.
    pub leave_reason: i32,
    /// u64: exclusive-ored with a PC to get its key in the jump cache and the return stack.
    pub lookup_key: i32,
    /// u64: first argument of helpers and of the memory function.
    pub context: i32,
    /// `2^jump_cache_bits` entries of 16 bytes: key (u64) and host code address (u64). An empty entry needs a code
    /// address that can be jumped to whenever its key could match.
    pub jump_cache: i32,
    /// Log2 of the number of jump-cache entries.
    pub jump_cache_bits: u8,
    /// Ring of 16-byte entries, key and host code address, of the shadow return stack.
    pub ras: i32,
    /// u32: byte offset into the ring of the newest entry (a multiple of 16 below `ras_bytes`).
    pub ras_top: i32,
    /// Bytes of the ring, a power of two.
    pub ras_bytes: u32,
    /// i64: guest instructions left, when instructions are counted.
    pub icount: Option<i32>,
}

/// Addresses of the thunks ([`crate::thunks::emit_thunks`]), within ±2 GiB of any unit's code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "see emit_thunks")]
pub struct ThunkAddresses {
    pub enter: u64,
    pub memory: u64,
    pub leave: u64,
    pub poll: u64,
    pub lookup: u64,
    pub chain: u64,
}

/// Everything the compiler must know about its surroundings.
#[derive(Clone, Debug)]
pub struct Layout {
    /// What the host can do.
    pub features: Features,
    /// How memory is reached.
    pub memory: MemoryModel,
    /// The slot that holds the PC between units (I32 or I64).
    pub pc: Slot,
    /// Offsets of the I64 slots pinned to host registers, hottest first, at most [`MAX_HOT`].
    pub hot: Vec<u32>,
    /// The engine's fields.
    pub frame: Frame,
    /// Distance in bytes of RBP from the guest state's first byte, in translated code.
    pub bias: u32,
    /// The thunks.
    pub thunks: ThunkAddresses,
    /// Address of `extern "sysv64" fn(context: u64, return_address: u64) -> u32`, which does the access described by the `mem_*` fields
    /// and returns 0 when done, non-zero when it faulted (then `leave_reason` is set).
    pub memory_function: u64,
    /// Length in bytes of the guest's longest instruction.
    pub longest_insn: u32,
    /// Bytes available for spills at RSP inside translated code.
    pub spill_bytes: u32,
    /// Every exit returns to the dispatcher: no chaining, no jump cache, no return stack.
    pub no_chain: bool,
}

impl Layout {
    /// The memory operand `disp` bytes from the guest state's first byte (slots and frame fields alike).
    pub(crate) fn at(&self, disp: i32) -> Mem {
        Mem::new(BASE, disp - self.bias as i32)
    }

    /// [`Layout::at`] with an index register added.
    pub(crate) fn indexed(&self, index: Gpr, disp: i32) -> Mem {
        Mem::indexed(BASE, index, 0, disp - self.bias as i32)
    }
}

/// Why translated code returned to the dispatcher; in the low byte of what [`ThunkAddresses::enter`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ReturnKind {
    /// A request to leave: the reason is in the frame (`leave_reason` minus one), the PC slot is set.
    Leave = 0,
    /// The poll field was set or the instruction budget ran out; the PC slot is set.
    Poll = 1,
    /// The PC slot's target was not in the jump cache.
    Lookup = 2,
    /// An unpatched direct jump was taken: its exit identifier is in the bits from 8 up. The PC slot is stale: whoever
    /// entered sets it to the site's PC ([`PatchSite::pc`]).
    Chain = 3,
}

impl ReturnKind {
    /// Takes apart what the enter thunk returned: kind and exit identifier.
    pub const fn decode(returned: u64) -> (ReturnKind, u32) {
        let kind = match returned & 0xff {
            0 => ReturnKind::Leave,
            1 => ReturnKind::Poll,
            2 => ReturnKind::Lookup,
            _ => ReturnKind::Chain,
        };
        (kind, (returned >> 8) as u32)
    }
}

/// A direct jump that may be patched to go straight to the unit of `pc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchSite {
    /// Offset in the unit's code of the jump's rel32 displacement, 4-byte aligned in the address space; relative to
    /// the byte after it.
    pub displacement: u32,
    /// Offset of the stub that the jump goes to while unpatched.
    pub stub: u32,
    /// Target PC.
    pub pc: u64,
    /// Identifier that the stub reports with [`ReturnKind::Chain`].
    pub exit_id: u32,
}

/// A helper as the compiler sees it.
#[derive(Clone, Copy, Debug)]
pub struct HelperTarget {
    /// What it reads, writes and may do.
    pub info: HelperInfo,
    /// Address of `extern "sysv64" fn(context, u64, u64, u64, u64) -> u64`.
    pub address: u64,
}

/// Index in a jump cache of `2^bits` entries for `pc`.
pub const fn jump_cache_index(pc: u64, bits: u8) -> usize {
    ((pc ^ pc >> 12) & ((1 << bits) - 1)) as usize
}

/// The access descriptor in [`Frame::mem_desc`].
pub mod descriptor {
    use rhea_ir::{MemFlags, Rmw, Type};

    /// Kind of access.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(u8)]
    pub enum Kind {
        /// Plain load.
        Load = 0,
        /// Plain store.
        Store = 1,
        /// Atomic read-modify-write.
        Rmw = 2,
        /// Atomic compare and swap.
        Cas = 3,
    }

    /// Bits 0-7 memory flags, 8-15 type, 16-19 kind, 20-27 read-modify-write operation.
    pub const fn encode(flags: MemFlags, ty: Type, kind: Kind, rmw: u8) -> u32 {
        flags.0 as u32 | (ty as u32) << 8 | (kind as u32) << 16 | (rmw as u32) << 20
    }

    /// Takes a descriptor apart. `None` if it was not made by [`encode`].
    pub fn decode(d: u32) -> Option<(MemFlags, Type, Kind, Rmw)> {
        let kind = match d >> 16 & 15 {
            0 => Kind::Load,
            1 => Kind::Store,
            2 => Kind::Rmw,
            3 => Kind::Cas,
            _ => return None,
        };
        let ty = *Type::ALL.get((d >> 8 & 0xff) as usize)?;
        let rmw = *Rmw::ALL.get((d >> 20 & 0xff) as usize)?;
        Some((MemFlags(d as u8), ty, kind, rmw))
    }
}

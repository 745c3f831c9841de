//! The helpers of x87, MMX, SSE and AVX: what the translator must know of each. Their numbers follow those of
//! [`crate::helpers`]. What they do is in [`crate::vector_calls`].

use rhea_ir::{HelperInfo, SlotAccess, Type};
use rhea_x86_state::X86State;
use std::mem::offset_of;

macro_rules! helper_infos {
    ($( $(#[doc = $doc:expr])* $id:ident = $name:literal ( $($param:ident),* ) -> $result:ident,
        reads $reads:expr, writes $writes:expr, exits $exits:literal, pure $pure:literal; )*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "numbers only")]
        enum Number { $( $id, )* COUNT_ }
        $( $(#[doc = $doc])* pub const $id: u32 = crate::helpers::COUNT + Number::$id as u32; )*
        /// Number of helpers of this table.
        pub const COUNT: u32 = Number::COUNT_ as u32;
        /// Descriptions, by number minus [`crate::helpers::COUNT`].
        pub static INFOS: [HelperInfo; COUNT as usize] = [ $( HelperInfo {
            name: $name, params: &[$(Type::$param),*], result: Type::$result,
            reads: $reads, writes: $writes, may_exit: $exits, pure: $pure,
        }, )* ];
    };
}

const fn field(offset: usize, len: usize) -> (u32, u32) {
    (offset as u32, len as u32)
}

const SCRATCH: (u32, u32) = field(offset_of!(X86State, scratch), 64);
/// TOP, tags, control and status word.
const X87_CONTROL: (u32, u32) = field(offset_of!(X86State, x87_top), 16);
const X87_STATUS: (u32, u32) = field(offset_of!(X86State, x87_sw), 4);
const X87_CONTROL_STATUS: (u32, u32) = field(offset_of!(X86State, x87_cw), 8);
const X87_ARRAY: (u32, u32) = field(offset_of!(X86State, x87), 128);
const MXCSR: (u32, u32) = field(offset_of!(X86State, mxcsr), 4);
const VECTORS: (u32, u32) = field(offset_of!(X86State, vec), 512);
const GPRS: (u32, u32) = field(offset_of!(X86State, gpr), 128);
const RIP: (u32, u32) = field(offset_of!(X86State, rip), 8);

const NONE: SlotAccess = SlotAccess::None;
const ALL: SlotAccess = SlotAccess::All;
const X87_STATE: SlotAccess = SlotAccess::Ranges(&[X87_CONTROL, X87_ARRAY]);
const MXCSR_ONLY: SlotAccess = SlotAccess::Ranges(&[MXCSR]);
const VECTOR_STATE: SlotAccess = SlotAccess::Ranges(&[VECTORS]);
const VECTORS_AND_RIP: SlotAccess = SlotAccess::Ranges(&[VECTORS, RIP]);
const SCRATCH_ONLY: SlotAccess = SlotAccess::Ranges(&[SCRATCH]);
const STRING_OPERANDS: SlotAccess = SlotAccess::Ranges(&[SCRATCH, GPRS]);
const MXCSR_AND_RIP: SlotAccess = SlotAccess::Ranges(&[MXCSR, RIP]);
const CONTROL_AND_RIP: SlotAccess = SlotAccess::Ranges(&[X87_CONTROL_STATUS, RIP]);
const STATUS_ONLY: SlotAccess = SlotAccess::Ranges(&[X87_STATUS]);
const EXTENDED_STATE: SlotAccess = SlotAccess::Ranges(&[X87_CONTROL, X87_ARRAY, MXCSR, VECTORS, RIP, GPRS]);

helper_infos! {
    /// An SSE instruction under unmasked exceptions begins: sticky flags so far are put away.
    SSE_BEGIN = "sse_begin"() -> Void, reads MXCSR_ONLY, writes MXCSR_ONLY, exits false, pure false;
    /// It has computed: #XM if it raised an unmasked exception.
    SSE_CHECK = "sse_check"() -> Void, reads ALL, writes MXCSR_ONLY, exits true, pure false;
    /// LDMXCSR (value, next PC): #GP for reserved bits; leaves if the mode word changes.
    LOAD_MXCSR = "ldmxcsr"(I32, I64) -> Void, reads ALL, writes MXCSR_AND_RIP, exits true, pure false;
    /// MXCSR with its sticky flags up to date.
    READ_MXCSR = "stmxcsr"() -> I32, reads MXCSR_ONLY, writes MXCSR_ONLY, exits false, pure false;
    /// 1/x of two binary32.
    RECIPROCAL = "reciprocal"(I64) -> I64, reads NONE, writes NONE, exits false, pure true;
    /// 1/√x of two binary32.
    RECIPROCAL_ROOT = "reciprocal_root"(I64) -> I64, reads NONE, writes NONE, exits false, pure true;
    /// PCMPxSTRx on scratch words 0..=3 (control): flags in their RFLAGS positions, index in bits 32..=39; the mask
    /// goes to scratch words 0 and 1.
    COMPARE_STRINGS = "compare_strings"(I64) -> I64, reads STRING_OPERANDS, writes SCRATCH_ONLY,
        exits false, pure false;
    /// VMASKMOV, VPMASKMOV (control, linear address).
    MASKED_MOVE = "masked_move"(I64, I64) -> Void, reads ALL, writes VECTOR_STATE, exits true, pure false;
    /// MASKMOVQ, MASKMOVDQU (bytes and MMU index, linear address), operands in scratch words 0..=3.
    MASKED_BYTES = "masked_bytes"(I64, I64) -> Void, reads ALL, writes NONE, exits true, pure false;
    /// VGATHER, VPGATHER (control, base offset, segment base, segment number).
    GATHER = "gather"(I64, I64, I64, I32) -> Void, reads ALL, writes VECTORS_AND_RIP, exits true, pure false;
    /// #MF if an unmasked x87 exception is pending.
    X87_CHECK_PENDING = "x87_check_pending"() -> Void, reads ALL, writes NONE, exits true, pure false;
    /// Executes any x87 instruction in full (control, linear address of the memory operand, its offset, next PC).
    X87_EXECUTE = "x87_execute"(I64, I64, I64, I64) -> Void, reads ALL, writes ALL, exits true, pure false;
    /// The x87 operations that touch neither memory nor the condition flags and raise only masked exceptions (control).
    X87_FUNCTION = "x87_function"(I64) -> Void, reads X87_STATE, writes X87_STATE, exits false, pure false;
    /// The x87 status word with TOP and sticky flags (I32).
    X87_STATUS_WORD = "x87_status_word"() -> I32, reads X87_STATE, writes STATUS_ONLY, exits false, pure false;
    /// FLDCW (value, next PC): leaves if the mode word changes.
    X87_LOAD_CONTROL = "x87_load_control"(I32, I64) -> Void, reads ALL, writes CONTROL_AND_RIP, exits true, pure false;
    /// FXSAVE, XSAVE, XSAVEOPT, XSAVEC (control, linear address).
    SAVE_STATE = "save_state"(I64, I64) -> Void, reads ALL, writes ALL, exits true, pure false;
    /// FXRSTOR, XRSTOR (control, linear address, next PC): leaves if the mode word changes.
    RESTORE_STATE = "restore_state"(I64, I64, I64) -> Void, reads ALL, writes EXTENDED_STATE, exits true, pure false;
}

/// Control word of [`MASKED_MOVE`]: register numbers, bytes of data and of a lane, direction. The MMU index goes to
/// bits 56 up.
pub fn pack_masked(data: usize, mask: usize, bytes: u64, lane_bytes: u64, store: bool) -> u64 {
    data as u64 | (mask as u64) << 8 | bytes << 16 | lane_bytes << 24 | u64::from(store) << 32
}

/// Parameters of [`GATHER`].
pub struct Gather {
    /// Register numbers.
    pub data: usize,
    /// Mask register, cleared lane by lane.
    pub mask: usize,
    /// Index register.
    pub index: usize,
    /// Bytes of an element, 4 or 8.
    pub lane_bytes: u64,
    /// Bytes of an index, 4 or 8.
    pub index_bytes: u64,
    /// Bytes of the data register.
    pub data_bytes: u64,
    /// Bytes of the index register.
    pub index_register_bytes: u64,
    /// Log2 of the scale.
    pub scale: u32,
    /// 16, 32 or 64.
    pub address_bits: u32,
}

/// Control word of [`GATHER`]; the MMU index goes to bits 56 up.
pub fn pack_gather(g: Gather) -> u64 {
    g.data as u64
        | (g.mask as u64) << 4
        | (g.index as u64) << 8
        | g.lane_bytes << 12
        | g.index_bytes << 16
        | g.data_bytes << 20
        | g.index_register_bytes << 28
        | u64::from(g.scale) << 36
        | u64::from(g.address_bits) << 40
}

impl Gather {
    /// The inverse of [`pack_gather`].
    pub fn unpack(control: u64) -> Gather {
        let bits = |pos: u32, len: u32| control >> pos & ((1 << len) - 1);
        Gather {
            data: bits(0, 4) as usize,
            mask: bits(4, 4) as usize,
            index: bits(8, 4) as usize,
            lane_bytes: bits(12, 4),
            index_bytes: bits(16, 4),
            data_bytes: bits(20, 8),
            index_register_bytes: bits(28, 8),
            scale: bits(36, 4) as u32,
            address_bits: bits(40, 8) as u32,
        }
    }
}

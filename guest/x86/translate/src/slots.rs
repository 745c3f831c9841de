//! Where translated code finds the fields of [`X86State`].

use rhea_ir::{Slot, Type};
use rhea_x86_state::X86State;
use rhea_x86_state::state::{Segment, X87Register};
use std::mem::{offset_of, size_of};

/// General register `index` (0..=15), all 64 bits.
pub const fn gpr(index: usize) -> Slot {
    Slot::new(offset_of!(X86State, gpr) + 8 * index, Type::I64)
}

/// The instruction pointer.
pub const RIP: Slot = Slot::new(offset_of!(X86State, rip), Type::I64);
/// Result operand of the flag record.
pub const CC_DST: Slot = Slot::new(offset_of!(X86State, cc_dst), Type::I64);
/// Source operand of the flag record.
pub const CC_SRC: Slot = Slot::new(offset_of!(X86State, cc_src), Type::I64);
/// Third operand of the flag record.
pub const CC_SRC2: Slot = Slot::new(offset_of!(X86State, cc_src2), Type::I64);
/// Result of an INC or DEC since the flag record.
pub const CC_INC: Slot = Slot::new(offset_of!(X86State, cc_inc), Type::I64);
/// Kind of the flag record.
pub const CC_OP: Slot = Slot::new(offset_of!(X86State, cc_op), Type::I32);
/// Direction flag, 0 or 1.
pub const DF: Slot = Slot::new(offset_of!(X86State, df), Type::I32);
/// RFLAGS without the arithmetic flags and DF.
pub const RFLAGS: Slot = Slot::new(offset_of!(X86State, rflags), Type::I64);
/// Interrupt shadow.
pub const INTERRUPT_SHADOW: Slot = Slot::new(offset_of!(X86State, interrupt_shadow), Type::I32);
/// Whether an event waits that could not be taken.
pub const EVENTS_WAIT: Slot = Slot::new(offset_of!(X86State, events_wait), Type::I32);
/// TOP of the x87 stack.
pub const X87_TOP: Slot = Slot::new(offset_of!(X86State, x87_top), Type::I32);
/// Empty bits of the physical x87 registers.
pub const X87_EMPTY: Slot = Slot::new(offset_of!(X86State, x87_empty), Type::I32);
/// x87 control word.
pub const X87_CW: Slot = Slot::new(offset_of!(X86State, x87_cw), Type::I32);
/// x87 status word without TOP.
pub const X87_SW: Slot = Slot::new(offset_of!(X86State, x87_sw), Type::I32);
/// MXCSR.
pub const MXCSR: Slot = Slot::new(offset_of!(X86State, mxcsr), Type::I32);

/// IA32_KERNEL_GS_BASE.
pub const KERNEL_GS_BASE: Slot = Slot::new(offset_of!(X86State, msr.kernel_gs_base), Type::I64);
/// IA32_TSC_AUX.
pub const TSC_AUX: Slot = Slot::new(offset_of!(X86State, msr.tsc_aux), Type::I64);

/// Scratch word `index` (0..=7).
pub const fn scratch(index: usize) -> Slot {
    Slot::new(offset_of!(X86State, scratch) + 8 * index, Type::I64)
}

/// Linear base of segment register `index`.
pub const fn segment_base(index: usize) -> Slot {
    Slot::new(offset_of!(X86State, seg) + size_of::<Segment>() * index + offset_of!(Segment, base), Type::I64)
}

/// Attributes of segment register `index`.
pub const fn segment_attr(index: usize) -> Slot {
    Slot::new(offset_of!(X86State, seg) + size_of::<Segment>() * index + offset_of!(Segment, attr), Type::I32)
}

/// Limit of segment register `index`.
pub const fn segment_limit(index: usize) -> Slot {
    Slot::new(
        offset_of!(X86State, seg) + size_of::<Segment>() * index + offset_of!(Segment, limit),
        Type::I32,
    )
}

/// Word that holds the selector of segment register `index` in its low 16 bits (the rest is zero).
pub const fn segment_selector(index: usize) -> Slot {
    Slot::new(
        offset_of!(X86State, seg) + size_of::<Segment>() * index + offset_of!(Segment, selector),
        Type::I32,
    )
}

/// Control register `index` (0, 2, 3, 4).
pub const fn cr(index: usize) -> Slot {
    Slot::new(offset_of!(X86State, cr) + 8 * index, Type::I64)
}

/// XMM register `index`, the low half of the vector register.
pub const fn xmm(index: usize) -> Slot {
    Slot::new(offset_of!(X86State, vec) + 32 * index, Type::V128)
}

/// Upper half of YMM register `index`.
pub const fn ymm_high(index: usize) -> Slot {
    Slot::new(offset_of!(X86State, vec) + 32 * index + 16, Type::V128)
}

/// YMM register `index`.
pub const fn ymm(index: usize) -> Slot {
    Slot::new(offset_of!(X86State, vec) + 32 * index, Type::V256)
}

/// Byte offset of the physical x87 registers, for indexed access.
pub const X87_ARRAY: u32 = offset_of!(X86State, x87) as u32;
/// Bytes of the physical x87 registers.
pub const X87_ARRAY_BYTES: u32 = (8 * size_of::<X87Register>()) as u32;

/// Significand of physical x87 register `index`, which is MMX register `index`.
pub const fn mmx(index: usize) -> Slot {
    Slot::new(
        offset_of!(X86State, x87) + size_of::<X87Register>() * index + offset_of!(X87Register, significand),
        Type::I64,
    )
}

/// Sign, exponent and padding of physical x87 register `index`.
pub const fn x87_sign_exponent(index: usize) -> Slot {
    Slot::new(
        offset_of!(X86State, x87) + size_of::<X87Register>() * index + offset_of!(X87Register, sign_exponent),
        Type::I64,
    )
}

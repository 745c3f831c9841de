//! Where translated code finds the fields of [`RiscvState`].

use rhea_ir::{Slot, Type};
use rhea_riscv_state::RiscvState;
use std::mem::offset_of;

/// Integer register `index` (1..=31).
pub const fn x(index: usize) -> Slot {
    Slot::new(offset_of!(RiscvState, x) + 8 * index, Type::I64)
}

/// Floating-point register `index` as its 64 bits.
pub const fn f_bits(index: usize) -> Slot {
    Slot::new(offset_of!(RiscvState, f) + 8 * index, Type::I64)
}

/// Floating-point register `index` as a double.
pub const fn f_double(index: usize) -> Slot {
    Slot::new(offset_of!(RiscvState, f) + 8 * index, Type::F64)
}

/// The program counter.
pub const PC: Slot = Slot::new(offset_of!(RiscvState, pc), Type::I64);
/// Address of the reservation.
pub const RESERVATION: Slot = Slot::new(offset_of!(RiscvState, reservation), Type::I64);
/// What LR read.
pub const RESERVED_VALUE: Slot = Slot::new(offset_of!(RiscvState, reserved_value), Type::I64);
/// The mode word.
pub const MODE: Slot = Slot::new(offset_of!(RiscvState, mode), Type::I64);
/// mstatus.
pub const MSTATUS: Slot = Slot::new(offset_of!(RiscvState, m.mstatus), Type::I64);

/// vsstatus.
pub const VSSTATUS: Slot = Slot::new(offset_of!(RiscvState, vs.vsstatus), Type::I64);

/// Scratch word `index` (0..=7).
pub const fn scratch(index: usize) -> Slot {
    Slot::new(offset_of!(RiscvState, scratch) + 8 * index, Type::I64)
}

/// Low half of floating-point register `index` as a single.
pub const fn f_single(index: usize) -> Slot {
    Slot::new(offset_of!(RiscvState, f) + 8 * index, Type::F32)
}

/// Low half of floating-point register `index` as its 32 bits.
pub const fn f_low(index: usize) -> Slot {
    Slot::new(offset_of!(RiscvState, f) + 8 * index, Type::I32)
}

/// High half of floating-point register `index`: all ones where the low half is a single.
pub const fn f_high(index: usize) -> Slot {
    Slot::new(offset_of!(RiscvState, f) + 8 * index + 4, Type::I32)
}

/// The canonical NaN of double precision.
pub const CANONICAL_DOUBLE: Slot = Slot::new(offset_of!(RiscvState, canonical_nan), Type::F64);
/// The canonical NaN of single precision.
pub const CANONICAL_SINGLE: Slot = Slot::new(offset_of!(RiscvState, canonical_nan) + 8, Type::F32);

//! The helpers that vector instructions call, and what the translator must know of them.

use rhea_ir::{HelperInfo, SlotAccess, Type};
use rhea_riscv_state::RiscvState;
use rhea_riscv_state::state::VECTOR_BYTES;
use std::mem::offset_of;

/// Executes an [`Operation`](rhea_riscv_vector::Operation) with a scalar; the result is a scalar's.
pub(crate) const EXECUTE: u32 = 0;
/// As `EXECUTE`, for one that cannot be illegal.
pub(crate) const EXECUTE_LEGAL: u32 = 1;
/// Does a load by its [`Transfer`](rhea_riscv_vector::memory::Transfer), base, stride and MMU index.
pub(crate) const LOAD: u32 = 2;
/// Does a store.
pub(crate) const STORE: u32 = 3;
/// Sets vl by AVL, vtype, and one of the kinds below; the result is vl.
pub(crate) const SET_VL: u32 = 4;

/// vl stays as far as it can.
pub(crate) const KEEP: u64 = 0;
/// AVL is VLMAX.
pub(crate) const MAX: u64 = 1;
/// AVL is given.
pub(crate) const GIVEN: u64 = 2;

/// fflags, frm, vl, vtype, vstart, vxsat and vxrm, which stand together.
const CONTROL: (u32, u32) = (
    offset_of!(RiscvState, fflags) as u32,
    (offset_of!(RiscvState, vxrm) + 4 - offset_of!(RiscvState, fflags)) as u32,
);
const REGISTERS: (u32, u32) = (offset_of!(RiscvState, v) as u32, VECTOR_BYTES as u32);
const SCRATCH: (u32, u32) = (offset_of!(RiscvState, scratch) as u32, 8);
const READS: SlotAccess = SlotAccess::Ranges(&[CONTROL, REGISTERS]);
const WRITES: SlotAccess = SlotAccess::Ranges(&[CONTROL, SCRATCH, REGISTERS]);

const fn helper(name: &'static str, params: &'static [Type], result: Type, may_exit: bool) -> HelperInfo {
    HelperInfo { name, params, result, reads: READS, writes: WRITES, may_exit, pure: false }
}

static INFO: [HelperInfo; 5] = [
    helper("vector_execute", &[Type::I64, Type::I64], Type::I64, true),
    helper("vector_execute_legal", &[Type::I64, Type::I64], Type::I64, false),
    helper("vector_load", &[Type::I64, Type::I64, Type::I64, Type::I64], Type::Void, true),
    helper("vector_store", &[Type::I64, Type::I64, Type::I64, Type::I64], Type::Void, true),
    helper("vector_set_vl", &[Type::I64, Type::I64, Type::I64], Type::I64, false),
];

/// What is to be known of helper `id`.
pub(crate) fn info(id: u32) -> &'static HelperInfo {
    &INFO[id as usize % INFO.len()]
}

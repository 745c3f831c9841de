//! The helper table: Rust functions that translated code calls, and what the translator must know of each.
//!
//! A helper that raises an exception records it in the hart's data and asks to leave; its state is then unchanged.

use std::mem::{offset_of, size_of};

use rhea_engine::Helper;
use rhea_ir::{HelperInfo, SlotAccess, Type};
use rhea_riscv_state::RiscvState;
use rhea_riscv_state::state::VECTOR_BYTES;

use crate::vector::runtime as vectors;
use crate::{ciphers, runtime};

/// What kind of a function a helper is.
#[derive(Clone, Copy)]
struct Effects {
    reads: SlotAccess,
    writes: SlotAccess,
    may_exit: bool,
    pure: bool,
}

/// A function of its arguments.
const PURE: Effects =
    Effects { reads: SlotAccess::None, writes: SlotAccess::None, may_exit: false, pure: true };
/// May raise an exception, changes no slot that translated code names.
const CHECKS: Effects =
    Effects { reads: SlotAccess::All, writes: SlotAccess::None, may_exit: true, pure: false };
/// Reads and writes anything, may raise an exception.
const SYSTEM: Effects =
    Effects { reads: SlotAccess::All, writes: SlotAccess::All, may_exit: true, pure: false };
/// Reads and writes integer registers, may raise an exception.
const REGISTERS: Effects = Effects {
    reads: SlotAccess::All,
    writes: SlotAccess::Ranges(&[X_REGISTERS]),
    may_exit: true,
    pure: false,
};
/// Reads and writes integer and floating-point registers.
const FLOATING: Effects = Effects {
    reads: SlotAccess::Ranges(&[X_REGISTERS, F_REGISTERS]),
    writes: SlotAccess::Ranges(&[X_REGISTERS, F_REGISTERS]),
    may_exit: false,
    pure: false,
};

const X_REGISTERS: (u32, u32) = (offset_of!(RiscvState, x) as u32, size_of::<[u64; 32]>() as u32);
const F_REGISTERS: (u32, u32) = (offset_of!(RiscvState, f) as u32, size_of::<[u64; 32]>() as u32);

/// fflags, frm, vl, vtype, vstart, vxsat and vxrm, which stand together.
const VECTOR_CONTROL: (u32, u32) = (
    offset_of!(RiscvState, fflags) as u32,
    (offset_of!(RiscvState, vxrm) + 4 - offset_of!(RiscvState, fflags)) as u32,
);
const VECTOR_REGISTERS: (u32, u32) = (offset_of!(RiscvState, v) as u32, VECTOR_BYTES as u32);
/// Reads and writes vector registers and what controls them.
const VECTOR: Effects = Effects {
    reads: SlotAccess::Ranges(&[VECTOR_CONTROL, VECTOR_REGISTERS]),
    writes: SlotAccess::Ranges(&[VECTOR_CONTROL, VECTOR_REGISTERS]),
    may_exit: false,
    pure: false,
};
/// The same, and may raise an exception.
const VECTOR_CHECKED: Effects = Effects { may_exit: true, ..VECTOR };

/// Operations of `CACHE_BLOCK`.
pub const BLOCK_INVAL: u64 = 0;
/// CBO.CLEAN and CBO.FLUSH.
pub const BLOCK_CLEAN: u64 = 1;
/// CBO.ZERO.
pub const BLOCK_ZERO: u64 = 2;

/// Of `HYPERVISOR_LOAD`: the value is sign-extended.
pub const LOAD_SIGNED: u64 = 1 << 4;
/// Of `HYPERVISOR_LOAD`: HLVX.
pub const LOAD_EXECUTABLE: u64 = 1 << 5;

macro_rules! helpers {
    ($( $(#[doc = $doc:expr])* $id:ident = $module:ident :: $function:ident ( $($param:ident),* ) -> $result:ident, $effects:ident; )*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "numbers only")]
        enum Number { $( $id, )* COUNT_ }
        $( $(#[doc = $doc])* pub const $id: u32 = Number::$id as u32; )*
        const COUNT: usize = Number::COUNT_ as usize;
        /// The table, by number.
        pub static HELPERS: [Helper; COUNT] = [ $( Helper {
            info: HelperInfo {
                name: stringify!($function), params: &[$(Type::$param),*], result: Type::$result,
                reads: $effects.reads, writes: $effects.writes,
                may_exit: $effects.may_exit, pure: $effects.pure,
            },
            function: $module::$function,
        }, )* ];
    };
}

helpers! {
    /// A vector instruction (operation, scalar): the scalar result.
    VECTOR_EXECUTE = vectors::execute(I64, I64) -> I64, VECTOR_CHECKED;
    /// The same for one that cannot be illegal.
    VECTOR_EXECUTE_LEGAL = vectors::execute_legal(I64, I64) -> I64, VECTOR;
    /// A vector load (transfer, base, stride, MMU index).
    VECTOR_LOAD = vectors::load(I64, I64, I64, I64) -> Void, VECTOR_CHECKED;
    /// A vector store.
    VECTOR_STORE = vectors::store(I64, I64, I64, I64) -> Void, VECTOR_CHECKED;
    /// vsetvl (AVL, vtype, kind of AVL): the new vl.
    VECTOR_SET_VL = vectors::set_vl(I64, I64, I64) -> I64, VECTOR;
    /// A CSR instruction (operand, number | operation << 12 | writes << 14 | instruction << 32, rd), which writes rd.
    CSR = runtime::csr(I64, I64, I64) -> Void, SYSTEM;
    /// SFENCE.VMA and SINVAL.VMA (vaddr, asid, has vaddr | has asid << 1 | SINVAL << 2 | instruction << 32).
    SFENCE = runtime::sfence(I64, I64, I64) -> Void, CHECKS;
    /// SFENCE.W.INVAL and SFENCE.INVAL.IR (instruction).
    SFENCE_INVAL = runtime::sfence_inval(I64) -> Void, CHECKS;
    /// HFENCE.VVMA, HFENCE.GVMA and HINVAL (address, ASID or VMID, has address | has ASID << 1 | GVMA << 2 |
    /// instruction << 32).
    HFENCE = runtime::hfence(I64, I64, I64) -> Void, CHECKS;
    /// HLV and HLVX (address, bytes | `LOAD_SIGNED` | `LOAD_EXECUTABLE` | instruction << 32, rd); writes rd.
    HYPERVISOR_LOAD = runtime::hypervisor_load(I64, I64, I64) -> Void, REGISTERS;
    /// HSV (address, value, bytes | instruction << 32).
    HYPERVISOR_STORE = runtime::hypervisor_store(I64, I64, I64) -> Void, CHECKS;
    /// A cache-block instruction (address, operation | instruction << 32).
    CACHE_BLOCK = runtime::cache_block(I64, I64) -> Void, CHECKS;
    /// A store-side misaligned exception unless address & mask is zero.
    CHECK_STORE_ALIGNMENT = runtime::check_store_alignment(I64, I64) -> Void, CHECKS;
    /// AMOCAS.Q (address, rd | rs2 << 8); writes the pair of rd.
    AMOCAS_Q = runtime::amocas_q(I64, I64) -> Void, REGISTERS;
    /// A floating-point instruction, in software (instruction).
    FLOAT = runtime::float(I64) -> Void, FLOATING;
    /// Low half of a carry-less product (a, b, XLEN).
    CLMUL = runtime::clmul(I64, I64, I64) -> I64, PURE;
    /// High half.
    CLMULH = runtime::clmulh(I64, I64, I64) -> I64, PURE;
    /// Bits XLEN - 1 and up of it.
    CLMULR = runtime::clmulr(I64, I64, I64) -> I64, PURE;
    /// Nibbles of a by the nibbles of b (a, b, XLEN).
    XPERM4 = runtime::xperm4(I64, I64, I64) -> I64, PURE;
    /// Bytes of a by the bytes of b (a, b, XLEN).
    XPERM8 = runtime::xperm8(I64, I64, I64) -> I64, PURE;
    /// AES on a hart of 32 bits (rs1, rs2, byte): final round of decryption.
    AES32DSI = ciphers::aes32dsi(I64, I64, I64) -> I64, PURE;
    /// Middle round of decryption.
    AES32DSMI = ciphers::aes32dsmi(I64, I64, I64) -> I64, PURE;
    /// Final round of encryption.
    AES32ESI = ciphers::aes32esi(I64, I64, I64) -> I64, PURE;
    /// Middle round of encryption.
    AES32ESMI = ciphers::aes32esmi(I64, I64, I64) -> I64, PURE;
    /// SM4 (rs1, rs2, byte): a round of the cipher.
    SM4ED = ciphers::sm4ed(I64, I64, I64) -> I64, PURE;
    /// A round of its key schedule.
    SM4KS = ciphers::sm4ks(I64, I64, I64) -> I64, PURE;
    /// AES on a hart of 64 bits (rs1, rs2): final round of decryption.
    AES64DS = ciphers::aes64ds(I64, I64) -> I64, PURE;
    /// Middle round of decryption.
    AES64DSM = ciphers::aes64dsm(I64, I64) -> I64, PURE;
    /// Final round of encryption.
    AES64ES = ciphers::aes64es(I64, I64) -> I64, PURE;
    /// Middle round of encryption.
    AES64ESM = ciphers::aes64esm(I64, I64) -> I64, PURE;
    /// Inverse MixColumns (rs1, unused).
    AES64IM = ciphers::aes64im(I64, I64) -> I64, PURE;
    /// Key schedule, first part (rs1, round).
    AES64KS1I = ciphers::aes64ks1i(I64, I64) -> I64, PURE;
    /// Key schedule, second part (rs1, rs2).
    AES64KS2 = ciphers::aes64ks2(I64, I64) -> I64, PURE;
}

/// What the translator must know of a helper.
pub fn info(id: u32) -> &'static HelperInfo {
    &HELPERS[id as usize].info
}

/// The table for the engine.
pub fn table() -> &'static [Helper] {
    &HELPERS
}

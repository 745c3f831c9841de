//! The helper table: Rust functions that translated code calls, and what the translator must know of each.
//!
//! A system helper that raises an exception records it in the vCPU's data and asks to leave; its state is then
//! unchanged. The functions are in `runtime`; the vector instructions have a table of their own, whose numbers follow.

use rhea_engine::Helper;
use rhea_ir::{HelperInfo, SlotAccess, Type};
use rhea_x86_state::X86State;
use std::mem::{offset_of, size_of};

use crate::runtime;

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
/// Reads anything, may raise an exception, changes no slot that translated code names.
const READS: Effects =
    Effects { reads: SlotAccess::All, writes: SlotAccess::None, may_exit: true, pure: false };
/// Reads and writes anything, may raise an exception.
const SYSTEM: Effects =
    Effects { reads: SlotAccess::All, writes: SlotAccess::All, may_exit: true, pure: false };
/// As `READS`, and writes general registers.
const REGISTERS: Effects = Effects {
    reads: SlotAccess::All,
    writes: SlotAccess::Ranges(&[(offset_of!(X86State, gpr) as u32, 16 * 8)]),
    may_exit: true,
    pure: false,
};
/// As `READS`, and leaves a second result in a scratch word.
const SCRATCH: Effects = Effects {
    reads: SlotAccess::All,
    writes: SlotAccess::Ranges(&[(offset_of!(X86State, scratch) as u32, 8 * 8)]),
    may_exit: true,
    pure: false,
};
/// As `READS`, and writes segment registers and MSRs that translated code names.
const SEGMENTS: Effects = Effects {
    reads: SlotAccess::All,
    writes: SlotAccess::Ranges(&[
        (offset_of!(X86State, seg) as u32, size_of::<[rhea_x86_state::state::Segment; 6]>() as u32),
        (crate::slots::KERNEL_GS_BASE.offset, 8),
        (crate::slots::TSC_AUX.offset, 8),
    ]),
    may_exit: true,
    pure: false,
};

/// Reads the flag record only.
const FLAG_RECORD: Effects = Effects {
    reads: SlotAccess::Ranges(&[(
        crate::slots::CC_DST.offset,
        crate::slots::CC_OP.offset + 4 - crate::slots::CC_DST.offset,
    )]),
    writes: SlotAccess::None,
    may_exit: false,
    pure: true,
};

macro_rules! helpers {
    ($( $(#[doc = $doc:expr])* $id:ident = $function:ident ( $($param:ident),* ) -> $result:ident, $effects:ident; )*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "numbers only")]
        enum Number { $( $id, )* COUNT_ }
        $( $(#[doc = $doc])* pub const $id: u32 = Number::$id as u32; )*
        /// Number of helpers of this table; those of the vector instructions follow.
        pub const COUNT: u32 = Number::COUNT_ as u32;
        /// The table, by number.
        pub static HELPERS: [Helper; COUNT as usize] = [ $( Helper {
            info: HelperInfo {
                name: stringify!($function), params: &[$(Type::$param),*], result: Type::$result,
                reads: $effects.reads, writes: $effects.writes,
                may_exit: $effects.may_exit, pure: $effects.pure,
            },
            function: runtime::$function,
        }, )* ];
    };
}

helpers! {
    /// The six arithmetic flags that the flag record in the state stands for.
    COMPUTE_FLAGS = compute_flags() -> I64, FLAG_RECORD;
    /// Result of RCL and RCR (value, count, flags, bytes | left << 8).
    RCX_VALUE = rotate_carry_value(I64, I32, I64, I32) -> I64, PURE;
    /// Flags after RCL and RCR; as `RCX_VALUE`.
    RCX_FLAGS = rotate_carry_flags(I64, I32, I64, I32) -> I64, PURE;
    /// AAA: AX, flags to AX | flags << 16.
    AAA = aaa(I64, I64) -> I64, PURE;
    /// AAS.
    AAS = aas(I64, I64) -> I64, PURE;
    /// DAA.
    DAA = daa(I64, I64) -> I64, PURE;
    /// DAS.
    DAS = das(I64, I64) -> I64, PURE;
    /// IDIV of 128 by 64 bits (high, low, divisor): quotient, and the remainder in scratch word 0. #DE.
    IDIV64 = idiv64(I64, I64, I64) -> I64, SCRATCH;
    /// CMPXCHG16B at a linear address; writes RDX:RAX, answers ZF.
    CMPXCHG16B = cmpxchg16b(I64) -> I32, REGISTERS;
    /// Checks an access to a segment outside 64-bit mode (segment | bytes << 8 | write << 24, offset); #GP or #SS.
    CHECK_SEGMENT = check_segment(I32, I64) -> Void, READS;
    /// Instruction breakpoint at a linear address: #DB.
    CHECK_BREAKPOINT = check_breakpoint(I64) -> Void, READS;

    /// REP MOVS within a page (element bytes | address bits << 8 | MMU index << 16): moves RSI, RDI, RCX.
    REP_MOVS = rep_movs(I32) -> Void, REGISTERS;
    /// REP STOS within a page; as `REP_MOVS`.
    REP_STOS = rep_stos(I32) -> Void, REGISTERS;

    /// Loads a segment register (number, selector): whether the mode word changed.
    LOAD_SEGMENT = load_segment(I32, I32) -> I32, SEGMENTS;
    /// PUSHF's value in virtual-8086 mode (bytes).
    PUSHF = pushf(I32) -> I64, READS;
    /// POPF (value, bytes): whether the mode word changed or interrupts are to be looked at.
    POPF = popf(I64, I32) -> I32, SYSTEM;
    /// CLI where IOPL does not allow it outright.
    CLI = cli() -> Void, SYSTEM;
    /// STI where IOPL does not allow it outright.
    STI = sti() -> Void, SYSTEM;

    /// INT n (100h + n), INT3 (3), INTO (4), INT1 (1); next PC.
    SOFTWARE_INTERRUPT = software_interrupt(I32, I64) -> Void, SYSTEM;
    /// IRET (bytes, next PC).
    IRET = iret(I32, I64) -> Void, SYSTEM;
    /// Far JMP (selector, offset, bytes, next PC).
    FAR_JUMP = far_jump(I32, I64, I32, I64) -> Void, SYSTEM;
    /// Far CALL; as `FAR_JUMP`.
    FAR_CALL = far_call(I32, I64, I32, I64) -> Void, SYSTEM;
    /// Far RET (bytes, bytes of parameters).
    FAR_RETURN = far_return(I32, I64) -> Void, SYSTEM;
    /// SYSCALL (-, next PC).
    SYSCALL = syscall(I32, I64) -> Void, SYSTEM;
    /// SYSRET (bytes, -).
    SYSRET = sysret(I32, I64) -> Void, SYSTEM;
    /// SYSENTER.
    SYSENTER = sysenter(I32, I64) -> Void, SYSTEM;
    /// SYSEXIT (bytes, -).
    SYSEXIT = sysexit(I32, I64) -> Void, SYSTEM;
    /// RSM.
    RSM = rsm(I32, I64) -> Void, SYSTEM;

    /// LGDT (limit, base, bytes).
    LGDT = lgdt(I32, I64, I32) -> Void, READS;
    /// LIDT.
    LIDT = lidt(I32, I64, I32) -> Void, READS;
    /// SGDT: limit; base in scratch word 0.
    SGDT = sgdt() -> I32, SCRATCH;
    /// SIDT: limit; base in scratch word 0.
    SIDT = sidt() -> I32, SCRATCH;
    /// LLDT (selector).
    LLDT = lldt(I32) -> Void, READS;
    /// LTR (selector).
    LTR = ltr(I32) -> Void, READS;
    /// SLDT.
    SLDT = sldt() -> I64, READS;
    /// STR.
    STR = str_insn() -> I64, READS;
    /// SMSW.
    SMSW = smsw() -> I64, READS;
    /// LMSW (value).
    LMSW = lmsw(I32) -> Void, SYSTEM;
    /// CLTS.
    CLTS = clts() -> Void, SYSTEM;
    /// Checks of INVD and WBINVD.
    WBINVD = wbinvd() -> Void, READS;
    /// INVLPG (linear address).
    INVLPG = invlpg(I64) -> Void, READS;
    /// INVPCID (type, PCID, linear address).
    INVPCID = invpcid(I64, I64, I64) -> Void, READS;
    /// LAR (selector): bit 32 found, value below.
    LAR = lar(I32) -> I64, READS;
    /// LSL (selector): bit 32 found, value below.
    LSL = lsl(I32) -> I64, READS;
    /// VERR (selector): ZF.
    VERR = verr(I32) -> I32, READS;
    /// VERW (selector): ZF.
    VERW = verw(I32) -> I32, READS;
    /// MOV to CRn (n, value).
    WRITE_CR = write_cr(I32, I64) -> Void, SYSTEM;
    /// MOV from CR8.
    READ_CR8 = read_cr8() -> I64, READS;
    /// MOV from DRn (n).
    READ_DR = read_dr(I32) -> I64, READS;
    /// MOV to DRn (n, value).
    WRITE_DR = write_dr(I32, I64) -> Void, SYSTEM;

    /// CPUID, on the general registers.
    CPUID = cpuid() -> Void, REGISTERS;
    /// RDTSC.
    RDTSC = rdtsc() -> I64, READS;
    /// RDPMC (index).
    RDPMC = rdpmc(I32) -> I64, READS;
    /// RDMSR (index).
    RDMSR = rdmsr(I32) -> I64, READS;
    /// WRMSR (index, value): whether the mode word changed or interrupts are to be looked at.
    WRMSR = wrmsr(I32, I64) -> I32, SEGMENTS;
    /// XGETBV (index).
    XGETBV = xgetbv(I32) -> I64, READS;
    /// XSETBV (index, value).
    XSETBV = xsetbv(I32, I64) -> Void, SYSTEM;
    /// RDRAND and RDSEED (bytes).
    RANDOM = random(I32) -> I64, READS;
    /// Checks of MONITOR (ECX).
    MONITOR = monitor(I32) -> Void, READS;
    /// MWAIT (ECX).
    MWAIT = mwait(I32) -> Void, READS;

    /// Whether a port may be accessed (port, bytes); #GP.
    CHECK_IO = check_io(I32, I32) -> Void, READS;
    /// IN (port, bytes).
    PORT_IN = port_in(I32, I32) -> I32, READS;
    /// OUT (port, bytes, value).
    PORT_OUT = port_out(I32, I32, I32) -> Void, READS;
}

/// Description of helper `id`.
pub fn info(id: u32) -> &'static HelperInfo {
    match HELPERS.get(id as usize) {
        Some(helper) => &helper.info,
        None => &crate::vector_helpers::INFOS[(id - COUNT) as usize],
    }
}

/// The whole table: these helpers, then those of [`crate::vector_helpers`].
pub fn table() -> &'static [Helper] {
    static TABLE: std::sync::LazyLock<Vec<Helper>> = std::sync::LazyLock::new(|| {
        let vector = crate::vector_helpers::INFOS.iter().zip(&crate::vector_calls::FUNCTIONS);
        HELPERS.iter().copied().chain(vector.map(|(&info, &function)| Helper { info, function })).collect()
    });
    &TABLE
}

/// Descriptions of the whole table, for the verifier and the printer.
pub fn infos() -> Vec<HelperInfo> {
    table().iter().map(|h| h.info).collect()
}

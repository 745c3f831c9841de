//! Instructions with privileged effects other than CSR accesses and trap returns.

use rhea_riscv_state::RiscvState;
use rhea_riscv_state::extension::Extension;
use rhea_riscv_state::state::{Privilege, mstatus};

use crate::bus::TlbScope;
use crate::exception::{Cause, Exception};

/// ECALL: always an exception.
pub fn ecall(st: &RiscvState) -> Exception {
    let cause = match st.privilege() {
        Privilege::User => Cause::EcallUser,
        Privilege::Supervisor => Cause::EcallSupervisor,
        Privilege::Machine => Cause::EcallMachine,
    };
    Exception { cause, value: 0 }
}

/// EBREAK: always an exception, whose value is the instruction's address.
pub fn ebreak(st: &RiscvState) -> Exception {
    Exception::at(Cause::Breakpoint, st.pc)
}

/// WFI: the hart waits (`RiscvState::waiting`) until [`crate::interrupt::ends_wait`].
///
/// # Errors
/// Illegal in lower modes while mstatus.TW is set, and in user mode if there is a supervisor mode ("Wait for
/// Interrupt"): the bounded time that is allowed is none here.
pub fn wfi(st: &mut RiscvState, bits: u32) -> Result<(), Exception> {
    let privilege = st.privilege();
    let trapped = privilege != Privilege::Machine && st.m.mstatus & mstatus::TW != 0;
    if trapped || privilege == Privilege::User && st.has(Extension::S) {
        return Err(Exception::illegal(bits));
    }
    st.waiting = 1;
    Ok(())
}

/// WRS.NTO: may it stall? Stalling in a lower mode while mstatus.TW is set is illegal once the reservation does not
/// end it in time (Zawrs).
///
/// # Errors
/// Illegal without Zawrs, and in lower modes while TW is set.
pub fn wrs_nto(st: &RiscvState, bits: u32) -> Result<(), Exception> {
    let trapped = st.privilege() != Privilege::Machine && st.m.mstatus & mstatus::TW != 0;
    if trapped || !st.has(Extension::Zawrs) { Err(Exception::illegal(bits)) } else { Ok(()) }
}

/// SFENCE.VMA and SINVAL.VMA: what is to be forgotten. `vaddr` and `asid` are the registers' values, `None` for x0.
///
/// # Errors
/// Illegal in user mode, without supervisor mode, and in supervisor mode while mstatus.TVM is set.
pub fn sfence_vma(
    st: &RiscvState,
    vaddr: Option<u64>,
    asid: Option<u64>,
    bits: u32,
) -> Result<TlbScope, Exception> {
    let trapped = st.privilege() == Privilege::Supervisor && st.m.mstatus & mstatus::TVM != 0;
    if !st.has(Extension::S) || st.privilege() == Privilege::User || trapped {
        return Err(Exception::illegal(bits));
    }
    let width = if st.config.xlen == 32 { 0x1ff } else { 0xffff };
    let vaddr = vaddr.map(|v| v & st.config.mask());
    let asid = asid.map(|a| (a & width) as u16);
    Ok(match (vaddr, asid) {
        (None, None) => TlbScope::All,
        (None, Some(asid)) => TlbScope::AddressSpace(asid),
        (Some(vaddr), None) => TlbScope::Page(vaddr),
        (Some(vaddr), Some(asid)) => TlbScope::PageOf { vaddr, asid },
    })
}

/// SINVAL.VMA (Svinval): as SFENCE.VMA, which its fences surround.
///
/// # Errors
/// As SFENCE.VMA, and illegal without Svinval.
pub fn sinval_vma(
    st: &RiscvState,
    vaddr: Option<u64>,
    asid: Option<u64>,
    bits: u32,
) -> Result<TlbScope, Exception> {
    if !st.has(Extension::Svinval) {
        return Err(Exception::illegal(bits));
    }
    sfence_vma(st, vaddr, asid, bits)
}

/// SFENCE.W.INVAL and SFENCE.INVAL.IR (Svinval): nothing is left to order here. TVM does not concern them.
///
/// # Errors
/// Illegal in user mode and without Svinval.
pub fn sfence_inval(st: &RiscvState, bits: u32) -> Result<(), Exception> {
    let absent = !st.has(Extension::Svinval) || st.privilege() == Privilege::User;
    if absent { Err(Exception::illegal(bits)) } else { Ok(()) }
}

/// A cache-block instruction (CMO extensions, "Control and Status Register State").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheBlock {
    /// CBO.INVAL.
    Inval,
    /// CBO.CLEAN and CBO.FLUSH.
    Clean,
    /// CBO.ZERO.
    Zero,
}

/// Whether the present mode may execute a cache-block instruction; for CBO.INVAL, whether it has to flush instead.
///
/// # Errors
/// Illegal without the extension, or where menvcfg or senvcfg does not allow it.
pub fn cache_block(st: &RiscvState, kind: CacheBlock, bits: u32) -> Result<bool, Exception> {
    let (extension, shift, width) = match kind {
        CacheBlock::Inval => (Extension::Zicbom, 4, 3),
        CacheBlock::Clean => (Extension::Zicbom, 6, 1),
        CacheBlock::Zero => (Extension::Zicboz, 7, 1),
    };
    let machine = st.m.menvcfg >> shift & width;
    let supervisor = st.s.senvcfg >> shift & width;
    let privilege = st.privilege();
    let by_machine = privilege != Privilege::Machine;
    let by_supervisor = privilege == Privilege::User && st.has(Extension::S);
    if !st.has(extension) || by_machine && machine == 0 || by_supervisor && supervisor == 0 {
        return Err(Exception::illegal(bits));
    }
    // 01 asks for a flush, 11 allows the invalidation.
    Ok(kind == CacheBlock::Inval && (by_machine && machine == 1 || by_supervisor && supervisor == 1))
}

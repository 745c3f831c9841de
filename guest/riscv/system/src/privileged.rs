//! Instructions with privileged effects other than CSR accesses and trap returns.

use rhea_riscv_state::RiscvState;
use rhea_riscv_state::extension::Extension;
use rhea_riscv_state::state::{Privilege, hstatus, mstatus};

use crate::bus::TlbScope;
use crate::exception::{Cause, Exception};

/// ECALL: always an exception.
pub fn ecall(st: &RiscvState) -> Exception {
    let cause = match (st.privilege(), st.is_virtual()) {
        (Privilege::User, _) => Cause::EcallUser,
        (Privilege::Supervisor, false) => Cause::EcallSupervisor,
        (Privilege::Supervisor, true) => Cause::EcallVirtualSupervisor,
        (Privilege::Machine, _) => Cause::EcallMachine,
    };
    Exception::new(cause, 0)
}

/// EBREAK: always an exception, whose value is the instruction's address.
pub fn ebreak(st: &RiscvState) -> Exception {
    Exception::at(Cause::Breakpoint, st.pc).of_guest(st.is_virtual())
}

/// Whether the present mode may wait: mstatus.TW forbids it to all but machine mode, hstatus.VTW to virtual modes.
fn may_wait(st: &RiscvState, bits: u32) -> Result<(), Exception> {
    if st.privilege() != Privilege::Machine && st.m.mstatus & mstatus::TW != 0 {
        return Err(Exception::illegal(bits));
    }
    if st.is_virtual() && st.h.hstatus & hstatus::VTW != 0 {
        return Err(Exception::virtual_instruction(bits));
    }
    Ok(())
}

/// WFI: the hart waits (`RiscvState::waiting`) until [`crate::interrupt::ends_wait`].
///
/// # Errors
/// Illegal in lower modes while mstatus.TW is set, and in user mode if there is a supervisor mode ("Wait for
/// Interrupt"): the bounded time that is allowed is none here. With TW clear, virtual in virtual user mode, and in virtual
/// supervisor mode while hstatus.VTW is set.
pub fn wfi(st: &mut RiscvState, bits: u32) -> Result<(), Exception> {
    may_wait(st, bits)?;
    if st.privilege() == Privilege::User && st.has(Extension::S) {
        return Err(Exception::refused(bits, st.is_virtual()));
    }
    st.waiting = 1;
    Ok(())
}

/// WRS.NTO: may it stall? Stalling in a lower mode while mstatus.TW is set is illegal once the reservation does not
/// end it in time (Zawrs).
///
/// # Errors
/// Illegal without Zawrs, and in lower modes while TW is set; virtual in virtual modes while hstatus.VTW is set.
pub fn wrs_nto(st: &RiscvState, bits: u32) -> Result<(), Exception> {
    if !st.has(Extension::Zawrs) {
        return Err(Exception::illegal(bits));
    }
    may_wait(st, bits)
}

/// SFENCE.VMA and SINVAL.VMA: what is to be forgotten. `vaddr` and `asid` are the registers' values, `None` for x0.
///
/// # Errors
/// Illegal in user mode, without supervisor mode, and in supervisor mode while mstatus.TVM is set; virtual in virtual user
/// mode, and in virtual supervisor mode while hstatus.VTVM is set.
pub fn sfence_vma(
    st: &RiscvState,
    vaddr: Option<u64>,
    asid: Option<u64>,
    bits: u32,
) -> Result<TlbScope, Exception> {
    let trapped = match (st.privilege(), st.is_virtual()) {
        (Privilege::User, _) => true,
        (Privilege::Supervisor, true) => st.h.hstatus & hstatus::VTVM != 0,
        (Privilege::Supervisor, false) => st.m.mstatus & mstatus::TVM != 0,
        (Privilege::Machine, _) => false,
    };
    if !st.has(Extension::S) || trapped {
        return Err(Exception::refused(bits, st.is_virtual()));
    }
    Ok(scope(st, vaddr, asid))
}

/// What a fence for an address and an address space covers.
fn scope(st: &RiscvState, vaddr: Option<u64>, asid: Option<u64>) -> TlbScope {
    let width = if st.config.xlen == 32 { 0x1ff } else { 0xffff };
    let vaddr = vaddr.map(|v| v & st.config.mask());
    let asid = asid.map(|a| (a & width) as u16);
    match (vaddr, asid) {
        (None, None) => TlbScope::All,
        (None, Some(asid)) => TlbScope::AddressSpace(asid),
        (Some(vaddr), None) => TlbScope::Page(vaddr),
        (Some(vaddr), Some(asid)) => TlbScope::PageOf { vaddr, asid },
    }
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

/// SFENCE.W.INVAL and SFENCE.INVAL.IR (Svinval): nothing is left to order here. TVM and VTVM do not concern them.
///
/// # Errors
/// Illegal in user mode and without Svinval, virtual in virtual user mode.
pub fn sfence_inval(st: &RiscvState, bits: u32) -> Result<(), Exception> {
    if !st.has(Extension::Svinval) {
        return Err(Exception::illegal(bits));
    }
    if st.privilege() == Privilege::User { Err(Exception::refused(bits, st.is_virtual())) } else { Ok(()) }
}

/// Which of the hypervisor's fences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HypervisorFence {
    /// HFENCE.VVMA and HINVAL.VVMA: guest virtual addresses.
    Virtual,
    /// HFENCE.GVMA and HINVAL.GVMA: guest physical addresses.
    Physical,
}

/// HFENCE.VVMA and HFENCE.GVMA, and their halves of Svinval: what is to be forgotten. Translations are kept for both
/// stages together, by guest virtual addresses: a fence for guest physical ones forgets all.
///
/// # Errors
/// Illegal without the hypervisor extension and in user mode, and HFENCE.GVMA in supervisor mode while mstatus.TVM is
/// set; virtual in virtual modes.
pub fn hfence(
    st: &RiscvState,
    which: HypervisorFence,
    vaddr: Option<u64>,
    asid: Option<u64>,
    bits: u32,
) -> Result<TlbScope, Exception> {
    if !st.has(Extension::H) {
        return Err(Exception::illegal(bits));
    }
    let supervisor = st.privilege() == Privilege::Supervisor;
    let trapped = which == HypervisorFence::Physical && supervisor && st.m.mstatus & mstatus::TVM != 0;
    if st.is_virtual() || st.privilege() == Privilege::User || trapped {
        return Err(Exception::refused(bits, st.is_virtual()));
    }
    Ok(if which == HypervisorFence::Physical { TlbScope::All } else { scope(st, vaddr, asid) })
}

/// HLV, HLVX and HSV: whether the present mode may execute them.
///
/// # Errors
/// Illegal without the hypervisor extension, and in user mode while hstatus.HU is clear; virtual in virtual modes.
pub fn hypervisor_access(st: &RiscvState, bits: u32) -> Result<(), Exception> {
    if !st.has(Extension::H) {
        return Err(Exception::illegal(bits));
    }
    let barred = st.privilege() == Privilege::User && st.h.hstatus & hstatus::HU == 0;
    if st.is_virtual() || barred { Err(Exception::refused(bits, st.is_virtual())) } else { Ok(()) }
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
/// Illegal without the extension, or where menvcfg or senvcfg does not allow it; virtual where, with V=1, henvcfg or
/// senvcfg does not.
pub fn cache_block(st: &RiscvState, kind: CacheBlock, bits: u32) -> Result<bool, Exception> {
    let (extension, shift, width) = match kind {
        CacheBlock::Inval => (Extension::Zicbom, 4, 3),
        CacheBlock::Clean => (Extension::Zicbom, 6, 1),
        CacheBlock::Zero => (Extension::Zicboz, 7, 1),
    };
    let field = |register: u64| register >> shift & width;
    let privilege = st.privilege();
    // Those that have a say: machine mode, the hypervisor, and the supervisor of the user's.
    let by_machine = privilege != Privilege::Machine;
    let by_supervisor = privilege == Privilege::User && st.has(Extension::S);
    let barred = |says: bool, register: u64| says && field(register) == 0;
    if !st.has(extension)
        || barred(by_machine, st.m.menvcfg)
        || !st.is_virtual() && barred(by_supervisor, st.s.senvcfg)
    {
        return Err(Exception::illegal(bits));
    }
    if st.is_virtual() && (barred(true, st.h.henvcfg) || barred(by_supervisor, st.s.senvcfg)) {
        return Err(Exception::virtual_instruction(bits));
    }
    // 01 asks for a flush, 11 allows the invalidation.
    let flushes = |says: bool, register: u64| says && field(register) == 1;
    Ok(kind == CacheBlock::Inval
        && (flushes(by_machine, st.m.menvcfg)
            || flushes(st.is_virtual(), st.h.henvcfg)
            || flushes(by_supervisor, st.s.senvcfg)))
}

//! Taking traps and returning from them (privileged specification, "Machine Trap Delegation Registers", "Machine
//! Trap-Vector Base-Address Register", "Trap-Return Instructions"; of the hypervisor extension "Traps").

use rhea_riscv_state::RiscvState;
use rhea_riscv_state::extension::Extension;
use rhea_riscv_state::state::{Privilege, hstatus, mstatus};

use crate::bus::SystemBus;
use crate::counters;
use crate::exception::{Cause, Exception};

/// The mode that takes a trap of `code` raised in the present mode, and whether V is 1 there: supervisor mode where it is
/// delegated and machine mode is not what it interrupts, virtual supervisor mode where it is delegated on and V=1.
fn target(st: &RiscvState, code: u64, interrupt: bool) -> (Privilege, bool) {
    let (first, second) = if interrupt { (st.m.mideleg, st.h.hideleg) } else { (st.m.medeleg, st.h.hedeleg) };
    let in_set = |set: u64| code < 64 && set >> code & 1 != 0;
    if !in_set(first) || st.privilege() == Privilege::Machine || !st.has(Extension::S) {
        return (Privilege::Machine, false);
    }
    (Privilege::Supervisor, st.is_virtual() && in_set(second))
}

/// Raises an exception: `pc` becomes the handler's.
pub fn raise(st: &mut RiscvState, bus: &mut dyn SystemBus, exception: Exception) {
    let code = exception.cause as u64;
    let to = target(st, code, false);
    enter(st, bus, to, code, Some(exception));
}

/// Takes an interrupt, by its number in mip.
pub fn interrupt(st: &mut RiscvState, bus: &mut dyn SystemBus, number: u32) {
    let (to, to_virtual) = target(st, number.into(), true);
    // Virtual supervisor mode knows its interrupts by the numbers of supervisor mode's.
    let code = u64::from(number) - u64::from(to_virtual);
    enter(st, bus, (to, to_virtual), code, None);
}

/// Takes an interrupt in virtual supervisor mode that hvictl injects, by its number there.
pub(crate) fn injected(st: &mut RiscvState, bus: &mut dyn SystemBus, number: u64) {
    enter(st, bus, (Privilege::Supervisor, true), number, None);
}

/// A status register after a trap into supervisor mode.
const fn supervisor_entry(status: u64, from: Privilege) -> u64 {
    let previous = if matches!(from, Privilege::User) { 0 } else { mstatus::SPP };
    let enabled = if status & mstatus::SIE != 0 { mstatus::SPIE } else { 0 };
    status & !(mstatus::SPP | mstatus::SPIE | mstatus::SIE) | previous | enabled
}

fn enter(
    st: &mut RiscvState,
    bus: &mut dyn SystemBus,
    (to, to_virtual): (Privilege, bool),
    code: u64,
    exception: Option<Exception>,
) {
    counters::before_mode_change(st, bus);
    let interrupt = exception.is_none();
    let trap = exception.unwrap_or(Exception::new(Cause::InstructionMisaligned, 0));
    let vector = match (to, to_virtual) {
        (Privilege::Machine, _) => enter_machine(st, code, interrupt, trap),
        (_, false) => enter_supervisor(st, code, interrupt, trap),
        _ => enter_virtual_supervisor(st, code, interrupt, trap.value),
    };
    let offset = if vector & 3 == 1 && interrupt { 4 * code } else { 0 };
    st.pc = (vector & !3).wrapping_add(offset) & st.config.mask();
    st.waiting = 0;
    st.privilege_bits = to as u32;
    st.virtualization = to_virtual.into();
    st.mode = st.compute_mode();
}

fn cause(st: &RiscvState, code: u64, interrupt: bool) -> u64 {
    if interrupt { code | 1 << (st.config.xlen - 1) } else { code }
}

/// What mtval2 and htval hold of a guest physical address; 34 bits of it fit into 32.
fn guest_address(st: &RiscvState, trap: Exception) -> u64 {
    trap.guest_physical >> 2 & st.config.mask()
}

fn enter_machine(st: &mut RiscvState, code: u64, interrupt: bool, trap: Exception) -> u64 {
    let mask = st.config.mask();
    let mut status = st.m.mstatus & !(mstatus::MPP | mstatus::MPIE | mstatus::MIE);
    status |= (st.privilege() as u64) << mstatus::MPP_SHIFT;
    if st.m.mstatus & mstatus::MIE != 0 {
        status |= mstatus::MPIE;
    }
    if st.has(Extension::H) {
        status &= !(mstatus::MPV | mstatus::GVA);
        status |= if st.is_virtual() { mstatus::MPV } else { 0 };
        status |= if trap.guest_virtual { mstatus::GVA } else { 0 };
        st.m.mtval2 = guest_address(st, trap);
        st.m.mtinst = trap.instruction & mask;
    }
    st.m.mstatus = status;
    st.m.mcause = cause(st, code, interrupt);
    (st.m.mepc, st.m.mtval) = (st.pc & mask, trap.value & mask);
    st.m.mtvec
}

fn enter_supervisor(st: &mut RiscvState, code: u64, interrupt: bool, trap: Exception) -> u64 {
    let mask = st.config.mask();
    let from = st.privilege();
    if st.has(Extension::H) {
        let mut status = st.h.hstatus & !(hstatus::SPV | hstatus::GVA);
        if st.is_virtual() {
            // Without V, SPVP stays as it was.
            status = status & !hstatus::SPVP | hstatus::SPV;
            status |= if from == Privilege::Supervisor { hstatus::SPVP } else { 0 };
        }
        status |= if trap.guest_virtual { hstatus::GVA } else { 0 };
        st.h.hstatus = status;
        st.h.htval = guest_address(st, trap);
        st.h.htinst = trap.instruction & mask;
    }
    st.m.mstatus = supervisor_entry(st.m.mstatus, from);
    st.s.scause = cause(st, code, interrupt);
    (st.s.sepc, st.s.stval) = (st.pc & mask, trap.value & mask);
    st.s.stvec
}

fn enter_virtual_supervisor(st: &mut RiscvState, code: u64, interrupt: bool, value: u64) -> u64 {
    let mask = st.config.mask();
    st.vs.vsstatus = supervisor_entry(st.vs.vsstatus, st.privilege());
    st.vs.vscause = cause(st, code, interrupt);
    (st.vs.vsepc, st.vs.vstval) = (st.pc & mask, value & mask);
    st.vs.vstvec
}

/// MRET.
///
/// # Errors
/// Illegal below machine mode.
pub fn mret(st: &mut RiscvState, bus: &mut dyn SystemBus, bits: u32) -> Result<(), Exception> {
    if st.privilege() != Privilege::Machine {
        return Err(Exception::illegal(bits));
    }
    counters::before_mode_change(st, bus);
    let to = st.previous_privilege();
    let least = if st.has(Extension::U) { Privilege::User } else { Privilege::Machine };
    let enabled = if st.m.mstatus & mstatus::MPIE != 0 { mstatus::MIE } else { 0 };
    let to_virtual = st.m.mstatus & mstatus::MPV != 0 && to != Privilege::Machine;
    let status = st.m.mstatus & !(mstatus::MPP | mstatus::MIE | mstatus::MPV) | enabled | mstatus::MPIE;
    st.m.mstatus = status | (least as u64) << mstatus::MPP_SHIFT;
    return_to(st, to, to_virtual, st.m.mepc);
    Ok(())
}

/// SRET.
///
/// # Errors
/// Illegal in user mode, without supervisor mode, and in supervisor mode while mstatus.TSR is set; virtual in virtual user
/// mode, and in virtual supervisor mode while hstatus.VTSR is set.
pub fn sret(st: &mut RiscvState, bus: &mut dyn SystemBus, bits: u32) -> Result<(), Exception> {
    let trapped = match (st.privilege(), st.is_virtual()) {
        (Privilege::User, _) => true,
        (Privilege::Supervisor, true) => st.h.hstatus & hstatus::VTSR != 0,
        (Privilege::Supervisor, _) => st.m.mstatus & mstatus::TSR != 0,
        (Privilege::Machine, _) => false,
    };
    if !st.has(Extension::S) || trapped {
        return Err(Exception::refused(bits, st.is_virtual()));
    }
    counters::before_mode_change(st, bus);
    if st.is_virtual() {
        let (status, to) = supervisor_exit(st.vs.vsstatus);
        st.vs.vsstatus = status;
        return_to(st, to, true, st.vs.vsepc);
    } else {
        let (status, to) = supervisor_exit(st.m.mstatus);
        st.m.mstatus = status;
        let to_virtual = st.h.hstatus & hstatus::SPV != 0;
        st.h.hstatus &= !hstatus::SPV;
        return_to(st, to, to_virtual, st.s.sepc);
    }
    Ok(())
}

/// A status register after SRET, and the mode that it returns to.
const fn supervisor_exit(status: u64) -> (u64, Privilege) {
    let to = if status & mstatus::SPP != 0 { Privilege::Supervisor } else { Privilege::User };
    let enabled = if status & mstatus::SPIE != 0 { mstatus::SIE } else { 0 };
    (status & !(mstatus::SPP | mstatus::SIE) | enabled | mstatus::SPIE, to)
}

fn return_to(st: &mut RiscvState, to: Privilege, to_virtual: bool, pc: u64) {
    if to != Privilege::Machine {
        st.m.mstatus &= !mstatus::MPRV;
    }
    st.pc = pc & legal_pc(st);
    st.privilege_bits = to as u32;
    st.virtualization = to_virtual.into();
    st.mode = st.compute_mode();
}

/// The bits an instruction's address can have.
pub(crate) fn legal_pc(st: &RiscvState) -> u64 {
    st.config.mask() & if st.config.has_compressed() { !1 } else { !3 }
}

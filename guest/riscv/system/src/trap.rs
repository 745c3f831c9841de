//! Taking traps and returning from them (privileged specification, "Machine Trap Delegation Registers", "Machine
//! Trap-Vector Base-Address Register", "Trap-Return Instructions").

use rhea_riscv_state::RiscvState;
use rhea_riscv_state::extension::Extension;
use rhea_riscv_state::state::{Privilege, mstatus};

use crate::bus::SystemBus;
use crate::counters;
use crate::exception::Exception;

/// The mode that takes a trap of `code` raised in the present mode: supervisor mode where it is delegated and machine
/// mode is not what it interrupts.
fn target(st: &RiscvState, code: u64, interrupt: bool) -> Privilege {
    let delegation = if interrupt { st.m.mideleg } else { st.m.medeleg };
    let delegated = code < 64 && delegation >> code & 1 != 0;
    let lower = st.privilege() != Privilege::Machine;
    if delegated && lower && st.has(Extension::S) { Privilege::Supervisor } else { Privilege::Machine }
}

/// Raises an exception: `pc` becomes the handler's.
pub fn raise(st: &mut RiscvState, bus: &mut dyn SystemBus, exception: Exception) {
    enter(st, bus, exception.cause as u64, false, exception.value);
}

/// Takes an interrupt, by its number in mip.
pub fn interrupt(st: &mut RiscvState, bus: &mut dyn SystemBus, number: u32) {
    enter(st, bus, number.into(), true, 0);
}

fn enter(st: &mut RiscvState, bus: &mut dyn SystemBus, code: u64, interrupt: bool, value: u64) {
    counters::before_mode_change(st, bus);
    let mask = st.config.mask();
    let cause = if interrupt { code | 1 << (st.config.xlen - 1) } else { code };
    let from = st.privilege();
    let to = target(st, code, interrupt);
    let status = &mut st.m.mstatus;
    let vector;
    if to == Privilege::Supervisor {
        let previous = if from == Privilege::Supervisor { mstatus::SPP } else { 0 };
        let enabled = if *status & mstatus::SIE != 0 { mstatus::SPIE } else { 0 };
        *status = *status & !(mstatus::SPP | mstatus::SPIE | mstatus::SIE) | previous | enabled;
        (st.s.sepc, st.s.scause, st.s.stval) = (st.pc & mask, cause, value & mask);
        vector = st.s.stvec;
    } else {
        let previous = (from as u64) << mstatus::MPP_SHIFT;
        let enabled = if *status & mstatus::MIE != 0 { mstatus::MPIE } else { 0 };
        *status = *status & !(mstatus::MPP | mstatus::MPIE | mstatus::MIE) | previous | enabled;
        (st.m.mepc, st.m.mcause, st.m.mtval) = (st.pc & mask, cause, value & mask);
        vector = st.m.mtvec;
    }
    let offset = if vector & 3 == 1 && interrupt { 4 * code } else { 0 };
    st.pc = (vector & !3).wrapping_add(offset) & mask;
    st.waiting = 0;
    st.privilege_bits = to as u32;
    st.mode = st.compute_mode();
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
    let status = st.m.mstatus & !(mstatus::MPP | mstatus::MIE) | enabled | mstatus::MPIE;
    st.m.mstatus = status | (least as u64) << mstatus::MPP_SHIFT;
    return_to(st, to, st.m.mepc);
    Ok(())
}

/// SRET.
///
/// # Errors
/// Illegal in user mode, without supervisor mode, and in supervisor mode while mstatus.TSR is set.
pub fn sret(st: &mut RiscvState, bus: &mut dyn SystemBus, bits: u32) -> Result<(), Exception> {
    let trapped = st.privilege() == Privilege::Supervisor && st.m.mstatus & mstatus::TSR != 0;
    if !st.has(Extension::S) || st.privilege() == Privilege::User || trapped {
        return Err(Exception::illegal(bits));
    }
    counters::before_mode_change(st, bus);
    let to = if st.m.mstatus & mstatus::SPP != 0 { Privilege::Supervisor } else { Privilege::User };
    let enabled = if st.m.mstatus & mstatus::SPIE != 0 { mstatus::SIE } else { 0 };
    st.m.mstatus = st.m.mstatus & !(mstatus::SPP | mstatus::SIE) | enabled | mstatus::SPIE;
    return_to(st, to, st.s.sepc);
    Ok(())
}

fn return_to(st: &mut RiscvState, to: Privilege, pc: u64) {
    if to != Privilege::Machine {
        st.m.mstatus &= !mstatus::MPRV;
    }
    st.pc = pc & legal_pc(st);
    st.privilege_bits = to as u32;
    st.mode = st.compute_mode();
}

/// The bits an instruction's address can have.
pub(crate) fn legal_pc(st: &RiscvState) -> u64 {
    st.config.mask() & if st.config.has_compressed() { !1 } else { !3 }
}

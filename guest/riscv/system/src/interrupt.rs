//! Which interrupt waits and which is taken (privileged specification, "Machine Interrupt (mip and mie) Registers";
//! Sstc; Sscofpmf).

use rhea_riscv_state::RiscvState;
use rhea_riscv_state::extension::Extension;
use rhea_riscv_state::state::{Privilege, mstatus};

use crate::bus::SystemBus;
use crate::trap;

/// Bits of mip and mie.
pub mod bit {
    #![allow(missing_docs, reason = "the names are the architecture's own")]
    pub const SSI: u64 = 1 << 1;
    pub const MSI: u64 = 1 << 3;
    pub const STI: u64 = 1 << 5;
    pub const MTI: u64 = 1 << 7;
    pub const SEI: u64 = 1 << 9;
    pub const MEI: u64 = 1 << 11;
    pub const LCOFI: u64 = 1 << 13;
}

/// Menvcfg.STCE: stimecmp is in force.
pub const STCE: u64 = 1 << 63;

/// Numbers in falling priority: MEI, MSI, MTI, SEI, SSI, STI, LCOFI.
const PRIORITY: [u32; 7] = [11, 3, 7, 9, 1, 5, 13];

/// Whether stimecmp is compared with the time: the hart has Sstc, and machine mode has enabled it.
pub const fn timer_compare(st: &RiscvState) -> bool {
    st.has(Extension::Sstc) && st.m.menvcfg & STCE != 0
}

/// Takes over the edges that came from outside: from now on they are software's to clear.
pub(crate) fn take_edges(st: &mut RiscvState, bus: &mut dyn SystemBus) {
    st.m.mip |= bus.lines().take_edges();
}

/// Mip: what software wrote, edges and lines, and the supervisor timer.
pub fn pending(st: &RiscvState, bus: &mut dyn SystemBus) -> u64 {
    pending_of(st, bus, u64::MAX)
}

/// The bits of mip that are in `wanted`. Time is looked at only where it matters: reading the clock is the dear part.
fn pending_of(st: &RiscvState, bus: &mut dyn SystemBus, wanted: u64) -> u64 {
    let mut mip = st.m.mip | bus.lines().levels().bits() | bus.lines().edges();
    if !st.has(Extension::S) {
        mip &= !(bit::SSI | bit::STI | bit::SEI | bit::LCOFI);
    } else if timer_compare(st) {
        mip &= !bit::STI;
        if wanted & bit::STI != 0 && bus.time() >= st.s.stimecmp {
            mip |= bit::STI;
        }
    }
    mip & wanted
}

/// The interrupts that would be taken now if they were pending: those that mie enables, and the privilege with its
/// global enable. First those for machine mode, then those for supervisor mode.
pub fn enabled(st: &RiscvState) -> (u64, u64) {
    let privilege = st.privilege();
    let machine = privilege != Privilege::Machine || st.m.mstatus & mstatus::MIE != 0;
    let supervisor = match privilege {
        Privilege::Machine => false,
        Privilege::Supervisor => st.m.mstatus & mstatus::SIE != 0,
        Privilege::User => true,
    };
    let for_machine = if machine { st.m.mie & !st.m.mideleg } else { 0 };
    let for_supervisor = if supervisor { st.m.mie & st.m.mideleg } else { 0 };
    (for_machine, for_supervisor)
}

/// The interrupt that would be taken now, by number.
pub fn deliverable(st: &RiscvState, bus: &mut dyn SystemBus) -> Option<u32> {
    let (for_machine, for_supervisor) = enabled(st);
    let wanted = for_machine | for_supervisor;
    if wanted == 0 {
        return None;
    }
    let waiting = pending_of(st, bus, wanted);
    // Those for the higher mode come first, whatever their own order.
    [waiting & for_machine, waiting & for_supervisor]
        .into_iter()
        .find_map(|set| PRIORITY.into_iter().find(|number| set >> number & 1 != 0))
}

/// Takes the interrupt that is due, if any. True: `pc` is its handler's.
pub fn poll(st: &mut RiscvState, bus: &mut dyn SystemBus) -> bool {
    take_edges(st, bus);
    crate::counters::poll_overflow(st, bus);
    let due = deliverable(st, bus);
    if let Some(number) = due {
        trap::interrupt(st, bus, number);
    }
    due.is_some()
}

/// Whether a hart in WFI goes on: an enabled interrupt waits, whether it can be taken or not ("Wait for Interrupt").
pub fn ends_wait(st: &RiscvState, bus: &mut dyn SystemBus) -> bool {
    pending_of(st, bus, st.m.mie) != 0
}

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
    pub const VSSI: u64 = 1 << 2;
    pub const MSI: u64 = 1 << 3;
    pub const STI: u64 = 1 << 5;
    pub const VSTI: u64 = 1 << 6;
    pub const MTI: u64 = 1 << 7;
    pub const SEI: u64 = 1 << 9;
    pub const VSEI: u64 = 1 << 10;
    pub const MEI: u64 = 1 << 11;
    pub const SGEI: u64 = 1 << 12;
    pub const LCOFI: u64 = 1 << 13;
    /// Those of virtual supervisor mode.
    pub const VIRTUAL: u64 = VSSI | VSTI | VSEI;
}

/// Menvcfg.STCE: stimecmp is in force.
pub const STCE: u64 = 1 << 63;

/// Hvictl.VTI: virtual supervisor mode is interrupted by what hvictl names.
pub const VTI: u64 = 1 << 30;
/// Hvictl.DPR: by default the interrupt named comes after the external one.
pub(crate) const DPR: u64 = 1 << 9;
/// Hvictl.IPRIOM: vstopi shows priorities.
pub(crate) const IPRIOM: u64 = 1 << 8;

/// Numbers in falling priority: MEI, MSI, MTI, SEI, SSI, STI, SGEI, VSEI, VSSI, VSTI, LCOFI.
const PRIORITY: [u32; 11] = [11, 3, 7, 9, 1, 5, 12, 10, 2, 6, 13];

/// Whether stimecmp is compared with the time: the hart has Sstc, and machine mode has enabled it.
pub const fn timer_compare(st: &RiscvState) -> bool {
    st.has(Extension::Sstc) && st.m.menvcfg & STCE != 0
}

/// Whether vstimecmp is compared with the guest's time: the hypervisor has enabled it too.
pub const fn virtual_timer_compare(st: &RiscvState) -> bool {
    st.has(Extension::H) && timer_compare(st) && st.h.henvcfg & STCE != 0
}

/// The guest's time.
pub(crate) fn guest_time(st: &RiscvState, bus: &mut dyn SystemBus) -> u64 {
    bus.time().wrapping_add(st.h.htimedelta)
}

/// The real time from which on vstimecmp is reached, as far as can be told at real time `now`.
pub fn virtual_deadline(st: &RiscvState, now: u64) -> u64 {
    let guest = now.wrapping_add(st.h.htimedelta);
    now.saturating_add(st.vs.vstimecmp.saturating_sub(guest))
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
        if wanted & !mip & bit::VSTI != 0
            && virtual_timer_compare(st)
            && guest_time(st, bus) >= st.vs.vstimecmp
        {
            mip |= bit::VSTI;
        }
    }
    mip & wanted
}

/// The interrupts of mie by the mode that would take them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enabled {
    /// By machine mode.
    pub machine: u64,
    /// By supervisor mode.
    pub supervisor: u64,
    /// By virtual supervisor mode, with their numbers in mie.
    pub virtual_supervisor: u64,
}

impl Enabled {
    /// All of them.
    pub const fn all(self) -> u64 {
        self.machine | self.supervisor | self.virtual_supervisor
    }
}

/// Interrupts that mie enables, sorted by delegation alone.
fn delegated(st: &RiscvState) -> Enabled {
    let down = st.m.mie & st.m.mideleg;
    Enabled {
        machine: st.m.mie & !st.m.mideleg,
        supervisor: down & !st.h.hideleg,
        virtual_supervisor: down & st.h.hideleg,
    }
}

/// The interrupts that would be taken now if they were pending: those that mie enables, and the privilege with its
/// global enable.
pub fn enabled(st: &RiscvState) -> Enabled {
    let (privilege, is_virtual) = (st.privilege(), st.is_virtual());
    let mut sets = delegated(st);
    if privilege == Privilege::Machine {
        let on = st.m.mstatus & mstatus::MIE != 0;
        return Enabled { machine: if on { sets.machine } else { 0 }, ..Enabled::default() };
    }
    if privilege == Privilege::Supervisor && !is_virtual && st.m.mstatus & mstatus::SIE == 0 {
        sets.supervisor = 0;
    }
    if !is_virtual || privilege == Privilege::Supervisor && st.vs.vsstatus & mstatus::SIE == 0 {
        sets.virtual_supervisor = 0;
    }
    sets
}

fn first(set: u64) -> Option<u32> {
    PRIORITY.into_iter().find(|number| set >> number & 1 != 0)
}

/// An interrupt that would be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// By its number in mip.
    Number(u32),
    /// By virtual supervisor mode, as hvictl says, by the number there.
    Injected(u64),
}

fn due(st: &RiscvState, bus: &mut dyn SystemBus) -> Option<Due> {
    let sets = enabled(st);
    let injects = st.h.hvictl & VTI != 0;
    if sets.all() == 0 && !injects {
        return None;
    }
    let waiting = pending_of(st, bus, sets.all());
    // Those for the higher mode come first, whatever their own order.
    let of_mip = if injects { 0 } else { sets.virtual_supervisor };
    let mut in_order = [sets.machine, sets.supervisor, of_mip].into_iter();
    if let Some(number) = in_order.find_map(|set| first(waiting & set)) {
        return Some(Due::Number(number));
    }
    let open = st.is_virtual() && (st.privilege() == Privilege::User || st.vs.vsstatus & mstatus::SIE != 0);
    if injects && open { virtual_top(st, bus).map(|top| Due::Injected(top.number)) } else { None }
}

/// Whether an interrupt would be taken now.
pub fn is_due(st: &RiscvState, bus: &mut dyn SystemBus) -> bool {
    due(st, bus).is_some()
}

/// The first of the interrupts of virtual supervisor mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VirtualTop {
    /// As virtual supervisor mode knows it.
    pub number: u64,
    /// As vstopi shows it.
    pub priority: u64,
}

/// What vstopi shows (advanced interrupt architecture, "Virtual supervisor top interrupt"): the external interrupt, or
/// the first of the others, which hvictl names while VTI is set. hviprio1 and hviprio2 are zero: the order of the others
/// is the default one, in which the external interrupt comes first.
pub(crate) fn virtual_top(st: &RiscvState, bus: &mut dyn SystemBus) -> Option<VirtualTop> {
    const EXTERNAL: u64 = 9;
    const LOWEST: u64 = 255;
    let control = st.h.hvictl;
    let (named, named_priority) = (control >> 16 & 0xfff, control & 0xff);
    let waiting = pending_of(st, bus, st.m.mie & st.h.hideleg & bit::VIRTUAL);
    let external = (waiting & bit::VSEI != 0).then(|| {
        let own = named == EXTERNAL && named_priority != 0;
        VirtualTop { number: EXTERNAL, priority: if own { named_priority } else { LOWEST + 1 } }
    });
    let injected = control & VTI != 0;
    let other = if injected {
        // Priority 0 is before or after the external interrupt, as DPR says.
        let before = control & DPR == 0;
        let priority = if named_priority == 0 && !before { LOWEST + 2 } else { named_priority };
        (named != EXTERNAL).then_some((VirtualTop { number: named, priority }, before))
    } else {
        let number = first(waiting & !bit::VSEI);
        number.map(|n| (VirtualTop { number: u64::from(n) - 1, priority: LOWEST + 2 }, false))
    };
    let top = match (external, other) {
        (Some(external), Some((other, before))) => {
            let wins = other.priority < external.priority || other.priority == external.priority && before;
            Some(if wins { other } else { external })
        }
        (external, other) => external.or(other.map(|(other, _)| other)),
    };
    let shown = |top: VirtualTop| {
        let priority = if control & IPRIOM == 0 { 1 } else { top.priority.min(LOWEST) };
        VirtualTop { priority, ..top }
    };
    top.map(shown)
}

/// The interrupt that waits for a mode and is first in priority, whether it can be taken or not (advanced interrupt
/// architecture, mtopi, stopi and vstopi).
pub(crate) fn top(st: &RiscvState, bus: &mut dyn SystemBus, of: fn(&Enabled) -> u64) -> Option<u32> {
    let wanted = of(&delegated(st));
    first(pending_of(st, bus, wanted))
}

/// Takes the interrupt that is due, if any. True: `pc` is its handler's.
pub fn poll(st: &mut RiscvState, bus: &mut dyn SystemBus) -> bool {
    take_edges(st, bus);
    crate::counters::poll_overflow(st, bus);
    let due = due(st, bus);
    match due {
        Some(Due::Number(number)) => trap::interrupt(st, bus, number),
        Some(Due::Injected(number)) => trap::injected(st, bus, number),
        None => {}
    }
    due.is_some()
}

/// Whether a hart in WFI goes on: an enabled interrupt waits, whether it can be taken or not ("Wait for Interrupt").
pub fn ends_wait(st: &RiscvState, bus: &mut dyn SystemBus) -> bool {
    pending_of(st, bus, st.m.mie) != 0 || st.h.hvictl & VTI != 0 && virtual_top(st, bus).is_some()
}

/// The interrupt of mip that would be taken now, by number.
#[cfg(test)]
pub(crate) fn deliverable(st: &RiscvState, bus: &mut dyn SystemBus) -> Option<u32> {
    match due(st, bus) {
        Some(Due::Number(number)) => Some(number),
        _ => None,
    }
}

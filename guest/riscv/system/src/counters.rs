//! Performance counters: what they count, when, and what happens when they overflow (privileged specification,
//! "Hardware Performance Monitor"; Sscofpmf).
//!
//! Counters are brought up to date when they are looked at, and before anything changes whether they count: their
//! own registers, and the privilege mode while a filter is set.

use rhea_riscv_state::RiscvState;
use rhea_riscv_state::extension::Extension;
use rhea_riscv_state::state::Privilege;

use crate::bus::SystemBus;
use crate::csr::Gate;
use crate::interrupt::bit;

/// Bits and values of mhpmevent.
pub mod event {
    #![allow(missing_docs, reason = "the names are the architecture's own")]
    pub const OF: u64 = 1 << 63;
    pub const MINH: u64 = 1 << 62;
    pub const SINH: u64 = 1 << 61;
    pub const UINH: u64 = 1 << 60;
    pub const VSINH: u64 = 1 << 59;
    pub const VUINH: u64 = 1 << 58;
    /// The part that selects what is counted.
    pub const SELECTOR: u64 = 3;
    /// Counts cycles.
    pub const CYCLES: u64 = 1;
    /// Counts retired instructions.
    pub const INSTRUCTIONS: u64 = 2;
}

const FILTERS: u64 = event::MINH | event::SINH | event::UINH | event::VSINH | event::VUINH;

/// Counters that exist, by bit: cycle, instret and the programmable ones.
pub const fn implemented(st: &RiscvState) -> u64 {
    let programmable = if st.has(Extension::Zihpm) { st.config.pmu_mask as u64 & !7 } else { 0 };
    5 | programmable
}

/// Bits of mhpmevent that can be set.
pub fn legal_event(st: &RiscvState) -> u64 {
    let mut legal = event::SELECTOR;
    if st.has(Extension::Sscofpmf) {
        legal |= event::OF | event::MINH | event::SINH | event::UINH;
        if st.has(Extension::H) {
            legal |= event::VSINH | event::VUINH;
        }
    }
    legal
}

/// The bit that stops a counter in the present mode.
fn filter(st: &RiscvState) -> u64 {
    match (st.privilege(), st.is_virtual()) {
        (Privilege::Machine, _) => event::MINH,
        (Privilege::Supervisor, false) => event::SINH,
        (Privilege::User, false) => event::UINH,
        (Privilege::Supervisor, true) => event::VSINH,
        (Privilege::User, true) => event::VUINH,
    }
}

/// Brings all counters up to date.
pub fn sync(st: &mut RiscvState, bus: &mut dyn SystemBus) {
    let (cycles, instructions) = (bus.cycles(), bus.instructions());
    let new_cycles = cycles.wrapping_sub(st.counters.cycle_seen);
    let new_instructions = instructions.wrapping_sub(st.counters.instret_seen);
    (st.counters.cycle_seen, st.counters.instret_seen) = (cycles, instructions);
    let filter = filter(st);
    let mut counting = implemented(st) & !st.m.mcountinhibit;
    while counting != 0 {
        let i = counting.trailing_zeros() as usize;
        counting &= counting - 1;
        let setting = st.counters.event[i];
        let step = match (i, setting & event::SELECTOR) {
            (0, _) | (3.., event::CYCLES) => new_cycles,
            (2, _) | (3.., event::INSTRUCTIONS) => new_instructions,
            _ => continue,
        };
        if setting & filter != 0 {
            continue;
        }
        let (value, overflow) = st.counters.value[i].overflowing_add(step);
        st.counters.value[i] = value;
        if overflow && i >= 3 && st.has(Extension::Sscofpmf) && setting & event::OF == 0 {
            st.counters.event[i] |= event::OF;
            st.m.mip |= bit::LCOFI;
        }
    }
}

/// To be called before the privilege mode changes.
pub fn before_mode_change(st: &mut RiscvState, bus: &mut dyn SystemBus) {
    if st.has(Extension::Sscofpmf) && st.counters.event.iter().any(|e| e & FILTERS != 0) {
        sync(st, bus);
    }
}

/// Notices overflows that nobody looked for, where a counter could raise an interrupt.
pub fn poll_overflow(st: &mut RiscvState, bus: &mut dyn SystemBus) {
    let armed = |e: &u64| *e & event::SELECTOR != 0 && *e & event::OF == 0;
    if st.has(Extension::Sscofpmf) && st.m.mie & bit::LCOFI != 0 && st.counters.event.iter().any(armed) {
        sync(st, bus);
    }
}

/// Whether the present mode may read counter `number` through its user-level register.
pub(crate) fn readable(st: &RiscvState, number: u32) -> Gate {
    let in_set = |set: u64| set >> number & 1 != 0;
    let by_supervisor = in_set(st.s.scounteren) || !st.has(Extension::S);
    match (st.privilege(), st.is_virtual()) {
        (Privilege::Machine, _) => Gate::Open,
        (Privilege::Supervisor, _) => Gate::of(st, in_set(st.m.mcounteren), in_set(st.h.hcounteren)),
        (Privilege::User, true) => {
            Gate::of(st, in_set(st.m.mcounteren), in_set(st.h.hcounteren) && by_supervisor)
        }
        (Privilege::User, false) => Gate::of(st, in_set(st.m.mcounteren) && by_supervisor, true),
    }
}

//! Reads and writes of floating-point, vector and counter registers.

use rhea_riscv_state::RiscvState;
use rhea_riscv_state::state::{Privilege, VILL, mstatus};

use crate::bus::SystemBus;
use crate::counters::{self, event};
use crate::csr::{Effects, NOTHING};
use crate::interrupt;

type Bus<'a> = &'a mut dyn SystemBus;

/// The value written to one half of a 64-bit register of a 32-bit hart.
pub(crate) const fn with_low(st: &RiscvState, old: u64, value: u64) -> u64 {
    if st.config.xlen == 32 { old & !0xffff_ffff | value } else { value }
}

pub(crate) const fn with_high(old: u64, value: u64) -> u64 {
    old & 0xffff_ffff | value << 32
}

// ---- floating point and vector: writing makes the state dirty ----

fn fp_dirty(st: &mut RiscvState) -> Effects {
    st.set_unit_dirty(mstatus::FS);
    NOTHING
}

fn vector_dirty(st: &mut RiscvState) -> Effects {
    st.set_unit_dirty(mstatus::VS);
    NOTHING
}

pub(crate) fn write_fflags(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    st.fflags = value as u32;
    fp_dirty(st)
}

pub(crate) fn write_frm(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    st.frm = value as u32;
    fp_dirty(st)
}

pub(crate) fn read_fcsr(st: &mut RiscvState, _: Bus<'_>, _: u16) -> u64 {
    u64::from(st.frm << 5 | st.fflags)
}

pub(crate) fn write_fcsr(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    (st.frm, st.fflags) = (value as u32 >> 5, value as u32 & 0x1f);
    fp_dirty(st)
}

pub(crate) fn write_vstart(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    st.vstart = value;
    vector_dirty(st)
}

pub(crate) fn write_vxsat(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    st.vxsat = value as u32;
    vector_dirty(st)
}

pub(crate) fn write_vxrm(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    st.vxrm = value as u32;
    vector_dirty(st)
}

pub(crate) fn read_vcsr(st: &mut RiscvState, _: Bus<'_>, _: u16) -> u64 {
    u64::from(st.vxrm << 1 | st.vxsat)
}

pub(crate) fn write_vcsr(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    (st.vxrm, st.vxsat) = (value as u32 >> 1, value as u32 & 1);
    vector_dirty(st)
}

/// Vill stands at the highest bit of XLEN.
pub(crate) fn read_vtype(st: &mut RiscvState, _: Bus<'_>, _: u16) -> u64 {
    let vill = if st.vtype & VILL != 0 { 1 << (st.config.xlen - 1) } else { 0 };
    st.vtype & !VILL | vill
}

/// Zkr: ES16 with sixteen bits, or WAIT.
pub(crate) fn read_seed(_: &mut RiscvState, bus: Bus<'_>, _: u16) -> u64 {
    bus.entropy().map_or(1 << 30, |bits| 2 << 30 | u64::from(bits))
}

/// The guest's time while V=1.
pub(crate) fn read_time(st: &mut RiscvState, bus: Bus<'_>, _: u16) -> u64 {
    if st.is_virtual() { interrupt::guest_time(st, bus) } else { bus.time() }
}

// ---- counters; one that does not exist reads as zero ----

fn exists(st: &RiscvState, counter: u16) -> bool {
    counters::implemented(st) >> counter & 1 != 0
}

pub(crate) fn read_counter(st: &mut RiscvState, bus: Bus<'_>, counter: u16) -> u64 {
    if !exists(st, counter) {
        return 0;
    }
    counters::sync(st, bus);
    st.counters.value[usize::from(counter)]
}

pub(crate) fn write_counter(st: &mut RiscvState, bus: Bus<'_>, counter: u16, value: u64) -> Effects {
    if exists(st, counter) {
        counters::sync(st, bus);
        let old = st.counters.value[usize::from(counter)];
        st.counters.value[usize::from(counter)] = with_low(st, old, value);
    }
    NOTHING
}

pub(crate) fn write_counterh(st: &mut RiscvState, bus: Bus<'_>, counter: u16, value: u64) -> Effects {
    if exists(st, counter) {
        counters::sync(st, bus);
        let old = st.counters.value[usize::from(counter)];
        st.counters.value[usize::from(counter)] = with_high(old, value);
    }
    NOTHING
}

pub(crate) fn write_inhibit(st: &mut RiscvState, bus: Bus<'_>, _: u16, value: u64) -> Effects {
    counters::sync(st, bus);
    st.m.mcountinhibit = value;
    NOTHING
}

pub(crate) fn read_event(st: &mut RiscvState, bus: Bus<'_>, index: u16) -> u64 {
    // OF is set by an overflow that may not have been noticed yet.
    counters::sync(st, bus);
    st.counters.event[usize::from(index) + 3]
}

fn set_event(st: &mut RiscvState, bus: Bus<'_>, index: u16, value: u64) -> Effects {
    if exists(st, index + 3) {
        counters::sync(st, bus);
        let selector = value & event::SELECTOR;
        let known = selector <= event::INSTRUCTIONS;
        st.counters.event[usize::from(index) + 3] =
            value & !event::SELECTOR | if known { selector } else { 0 };
    }
    NOTHING
}

pub(crate) fn write_event(st: &mut RiscvState, bus: Bus<'_>, index: u16, value: u64) -> Effects {
    let new = with_low(st, st.counters.event[usize::from(index) + 3], value);
    set_event(st, bus, index, new)
}

pub(crate) fn write_eventh(st: &mut RiscvState, bus: Bus<'_>, index: u16, value: u64) -> Effects {
    counters::sync(st, bus);
    let new = with_high(st.counters.event[usize::from(index) + 3], value);
    set_event(st, bus, index, new)
}

/// OF of each counter; to supervisor mode only of those that it may read.
pub(crate) fn read_scountovf(st: &mut RiscvState, bus: Bus<'_>, _: u16) -> u64 {
    counters::sync(st, bus);
    let bits = (3..32).filter(|i| st.counters.event[*i] & event::OF != 0).fold(0, |bits, i| bits | 1 << i);
    let by_hypervisor = if st.is_virtual() { st.h.hcounteren } else { u64::MAX };
    if st.privilege() == Privilege::Machine { bits } else { bits & st.m.mcounteren & by_hypervisor }
}

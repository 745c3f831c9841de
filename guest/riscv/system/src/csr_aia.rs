//! CSRs of the advanced interrupt architecture (version 1.0, chapter 2; chapter 3 for interrupt files).
//!
//! Priorities of major interrupts are fixed: the iprio array reads as zeros, and mtopi and stopi give priority 1. There are no
//! virtual interrupts: mvien is zero, so mvip is a view of mip.
//!
//! With the hypervisor extension there are no guest interrupt files (GEILEN is 0), and hvien, hviprio1 and hviprio2 are
//! zero; what a guest's siselect names is the hypervisor's to provide. hvictl is there in full.

use rhea_riscv_state::RiscvState;
use rhea_riscv_state::extension::Extension as X;
use rhea_riscv_state::state::Privilege;

use crate::bus::SystemBus;
use crate::csr::{Effects, Gate};
use crate::csr_machine::INTERRUPTS;
use crate::interrupt::{self, Enabled, bit};

type Bus<'a> = &'a mut dyn SystemBus;

/// Selectors of the iprio array.
const IPRIO: std::ops::Range<u64> = 0x30..0x40;
/// Selectors of an interrupt file's registers.
const FILE: std::ops::Range<u64> = 0x70..0x100;
/// Among them those of bit maps, which on RV64 have even numbers only.
const FILE_MAPS: u64 = 0x80;
/// Bits that miselect and siselect keep.
pub(crate) const SELECT: u64 = 0xfff;

/// Bits of mstateen0: IMSIC, AIA, CSRIND.
const STATEEN_IMSIC: u64 = 1 << 58;
const STATEEN_AIA: u64 = 1 << 59;
const STATEEN_CSRIND: u64 = 1 << 60;
pub(crate) const STATEEN: u64 = STATEEN_IMSIC | STATEEN_AIA | STATEEN_CSRIND;

/// All of hvictl: VTI, IID, DPR, IPRIOM, IPRIO.
pub(crate) const HVICTL: u64 = interrupt::VTI | 0xfff << 16 | interrupt::DPR | interrupt::IPRIOM | 0xff;

/// Places in `aia_read`.
const MTOPEI: usize = 0;
const STOPEI: usize = 1;
const MIREG: usize = 2;
const SIREG: usize = 3;

/// Whether mstateen0, and while V=1 hstateen0, allows what needs all of `bits`.
pub(crate) fn state_gate(st: &RiscvState, bits: u64) -> Gate {
    let guarded = st.has(X::Smstateen) && st.privilege() != Privilege::Machine;
    let has = |set: u64| !guarded || set & bits == bits;
    Gate::of(st, has(st.m.mstateen[0]), has(st.h.hstateen[0]))
}

/// Whether a selector names a register.
fn selects(st: &RiscvState, select: u64) -> bool {
    let odd = st.config.xlen == 64 && select & 1 != 0;
    if IPRIO.contains(&select) { !odd } else { FILE.contains(&select) && !(odd && select >= FILE_MAPS) }
}

pub(crate) fn machine_register(st: &RiscvState, _: u16) -> Gate {
    if selects(st, st.m.miselect) { Gate::Open } else { Gate::Illegal }
}

pub(crate) fn supervisor_register(st: &RiscvState, index: u16) -> Gate {
    let select = if st.is_virtual() { st.vs.vsiselect } else { st.s.siselect };
    let more = if FILE.contains(&select) { STATEEN_IMSIC } else { STATEEN_AIA };
    match state_gate(st, STATEEN_CSRIND | more) {
        Gate::Open if st.is_virtual() => virtual_register(st, index),
        Gate::Open if !selects(st, select) => Gate::Illegal,
        gate => gate,
    }
}

/// A guest has neither priorities of its own nor, with VGEIN fixed to 0, an interrupt file: what the selector names is the
/// hypervisor's to provide ("VS CSRs for interrupts").
pub(crate) fn virtual_register(st: &RiscvState, _: u16) -> Gate {
    if st.is_virtual() { Gate::Virtual } else { Gate::Illegal }
}

pub(crate) fn select_enabled(st: &RiscvState, _: u16) -> Gate {
    state_gate(st, STATEEN_CSRIND)
}

pub(crate) fn file_enabled(st: &RiscvState, index: u16) -> Gate {
    match state_gate(st, STATEEN_IMSIC) {
        Gate::Open if st.is_virtual() => virtual_register(st, index),
        gate => gate,
    }
}

pub(crate) fn top_enabled(st: &RiscvState, _: u16) -> Gate {
    state_gate(st, STATEEN_AIA)
}

fn read_register(st: &mut RiscvState, bus: Bus<'_>, machine: bool) -> u64 {
    let (select, place) = if machine { (st.m.miselect, MIREG) } else { (st.s.siselect, SIREG) };
    let mut value = 0;
    if let Some(file) = bus.lines().file(machine).filter(|_| FILE.contains(&select)) {
        value = file.read(select as u32).into();
        if st.config.xlen == 64 && select >= FILE_MAPS {
            value |= u64::from(file.read(select as u32 + 1)) << 32;
        }
    }
    st.m.aia_read[place] = value;
    value
}

fn write_register(st: &mut RiscvState, bus: Bus<'_>, machine: bool, value: u64) -> Effects {
    let (select, place) = if machine { (st.m.miselect, MIREG) } else { (st.s.siselect, SIREG) };
    let old = st.m.aia_read[place];
    if let Some(file) = bus.lines().file(machine).filter(|_| FILE.contains(&select)) {
        file.write(select as u32, old as u32, value as u32);
        if st.config.xlen == 64 && select >= FILE_MAPS {
            file.write(select as u32 + 1, (old >> 32) as u32, (value >> 32) as u32);
        }
    }
    INTERRUPTS
}

pub(crate) fn read_mireg(st: &mut RiscvState, bus: Bus<'_>, _: u16) -> u64 {
    read_register(st, bus, true)
}

pub(crate) fn write_mireg(st: &mut RiscvState, bus: Bus<'_>, _: u16, value: u64) -> Effects {
    write_register(st, bus, true, value)
}

pub(crate) fn read_sireg(st: &mut RiscvState, bus: Bus<'_>, _: u16) -> u64 {
    read_register(st, bus, false)
}

pub(crate) fn write_sireg(st: &mut RiscvState, bus: Bus<'_>, _: u16, value: u64) -> Effects {
    write_register(st, bus, false, value)
}

fn read_top_external(st: &mut RiscvState, bus: Bus<'_>, machine: bool) -> u64 {
    let identity = bus.lines().file(machine).map_or(0, |file| file.top());
    st.m.aia_read[if machine { MTOPEI } else { STOPEI }] = identity.into();
    u64::from(identity) << 16 | u64::from(identity)
}

/// A write claims what the same instruction read, whatever the value.
fn claim(st: &mut RiscvState, bus: Bus<'_>, machine: bool) -> Effects {
    let identity = st.m.aia_read[if machine { MTOPEI } else { STOPEI }];
    if let Some(file) = bus.lines().file(machine).filter(|_| identity != 0) {
        file.claim(identity as u32);
    }
    INTERRUPTS
}

pub(crate) fn read_mtopei(st: &mut RiscvState, bus: Bus<'_>, _: u16) -> u64 {
    read_top_external(st, bus, true)
}

pub(crate) fn write_mtopei(st: &mut RiscvState, bus: Bus<'_>, _: u16, _: u64) -> Effects {
    claim(st, bus, true)
}

pub(crate) fn read_stopei(st: &mut RiscvState, bus: Bus<'_>, _: u16) -> u64 {
    read_top_external(st, bus, false)
}

pub(crate) fn write_stopei(st: &mut RiscvState, bus: Bus<'_>, _: u16, _: u64) -> Effects {
    claim(st, bus, false)
}

pub(crate) fn read_topi(st: &mut RiscvState, bus: Bus<'_>, machine: bool) -> u64 {
    let of: fn(&Enabled) -> u64 = if machine { |e| e.machine } else { |e| e.supervisor };
    interrupt::top(st, bus, of).map_or(0, |number| u64::from(number) << 16 | 1)
}

pub(crate) fn write_hvictl(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    st.h.hvictl = value;
    INTERRUPTS
}

pub(crate) fn read_vstopi(st: &mut RiscvState, bus: Bus<'_>) -> u64 {
    interrupt::virtual_top(st, bus).map_or(0, |top| top.number << 16 | top.priority)
}

/// Bits of mip that mvip shows: SSIP, STIP where software writes it, SEIP as software wrote it.
pub(crate) fn legal_mvip(st: &RiscvState) -> u64 {
    let timer = if interrupt::timer_compare(st) { 0 } else { bit::STI };
    if st.has(X::S) { bit::SSI | bit::SEI | timer } else { 0 }
}

pub(crate) fn read_mvip(st: &mut RiscvState, bus: Bus<'_>, _: u16) -> u64 {
    interrupt::take_edges(st, bus);
    st.m.mip & legal_mvip(st)
}

pub(crate) fn write_mvip(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    st.m.mip = st.m.mip & !legal_mvip(st) | value;
    INTERRUPTS
}

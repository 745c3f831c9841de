//! Reads, writes and legal bits of the registers of the hypervisor extension (privileged specification, "Hypervisor and
//! Virtual Supervisor CSRs").
//!
//! hvip is kept in mip and hie in mie, whose views they are. There are no guest external interrupts: GEILEN is 0, so
//! hgeip, hgeie and hstatus.VGEIN are zero. VSXL is fixed to 64 on a 64-bit hart, and guests are little-endian.

use rhea_riscv_state::RiscvState;
use rhea_riscv_state::extension::Extension;
use rhea_riscv_state::state::{hstatus, mstatus, satp};

use crate::bus::{SystemBus, TlbScope};
use crate::csr::{Effects, NOTHING};
use crate::csr_machine::{self as m, FLUSH, TIMER, changed_satp, has_translation, invalidation, vector};
use crate::csr_user::{with_high, with_low};
use crate::interrupt::{self, STCE, bit};
use crate::paging::{ADUE, PBMTE, mode_of};

type Bus<'a> = &'a mut dyn SystemBus;

/// Interrupts that hie and hip show.
pub(crate) const INTERRUPTS: u64 = bit::VIRTUAL | bit::SGEI;
/// Exceptions that hedeleg can hand on: those that a guest can deal with.
pub(crate) const DELEGABLE: u64 = 0xb1ff;

// ---- status ----

pub(crate) fn legal_hstatus(st: &RiscvState) -> u64 {
    let masking = if st.has(Extension::Ssnpm) { hstatus::HUPMM } else { 0 };
    masking
        | hstatus::GVA
        | hstatus::SPV
        | hstatus::SPVP
        | hstatus::HU
        | hstatus::VTVM
        | hstatus::VTW
        | hstatus::VTSR
}

pub(crate) fn read_hstatus(st: &mut RiscvState, _: Bus<'_>, _: u16) -> u64 {
    st.h.hstatus | if st.config.xlen == 64 { hstatus::VSXL_64 } else { 0 }
}

pub(crate) fn write_hstatus(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    // The reserved value of HUPMM leaves the field as it is.
    let reserved = value & hstatus::HUPMM == 1 << hstatus::HUPMM_SHIFT;
    let kept = if reserved { hstatus::HUPMM } else { 0 };
    st.h.hstatus = with_low(st, st.h.hstatus, value & !kept | st.h.hstatus & kept);
    NOTHING
}

pub(crate) fn read_vsstatus(st: &mut RiscvState, _: Bus<'_>, _: u16) -> u64 {
    m::view(st, st.vs.vsstatus)
}

/// As for sstatus: MXR is not part of the MMU index, so translations are forgotten.
pub(crate) fn write_vsstatus(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    let changed = st.vs.vsstatus ^ value;
    st.vs.vsstatus = value;
    let flush = (changed & mstatus::MXR != 0).then_some(TlbScope::All);
    Effects { flush, ..m::INTERRUPTS }
}

pub(crate) fn write_vstvec(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    st.vs.vstvec = vector(st.vs.vstvec, value);
    NOTHING
}

// ---- interrupts ----

pub(crate) fn write_hideleg(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    st.h.hideleg = value;
    m::INTERRUPTS
}

fn set_mie(st: &mut RiscvState, mask: u64, value: u64) -> Effects {
    st.m.mie = st.m.mie & !mask | value & mask;
    m::INTERRUPTS
}

fn set_mip(st: &mut RiscvState, mask: u64, value: u64) -> Effects {
    st.m.mip = st.m.mip & !mask | value & mask;
    m::INTERRUPTS
}

pub(crate) fn write_hie(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    set_mie(st, INTERRUPTS, value)
}

pub(crate) fn read_hip(st: &mut RiscvState, bus: Bus<'_>, _: u16) -> u64 {
    interrupt::pending(st, bus) & INTERRUPTS
}

pub(crate) fn write_hip(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    set_mip(st, bit::VSSI, value)
}

pub(crate) fn write_hvip(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    set_mip(st, bit::VIRTUAL, value)
}

/// Those handed on, by the numbers that virtual supervisor mode knows them by.
pub(crate) fn legal_vsie(st: &RiscvState) -> u64 {
    (st.h.hideleg & bit::VIRTUAL) >> 1
}

pub(crate) fn read_vsie(st: &mut RiscvState, _: Bus<'_>, _: u16) -> u64 {
    st.m.mie >> 1 & legal_vsie(st)
}

pub(crate) fn write_vsie(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    set_mie(st, legal_vsie(st) << 1, value << 1)
}

pub(crate) fn legal_vsip(st: &RiscvState) -> u64 {
    legal_vsie(st) & bit::SSI
}

pub(crate) fn read_vsip(st: &mut RiscvState, bus: Bus<'_>, _: u16) -> u64 {
    interrupt::pending(st, bus) >> 1 & legal_vsie(st)
}

pub(crate) fn write_vsip(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    set_mip(st, legal_vsip(st) << 1, value << 1)
}

// ---- time ----

pub(crate) fn write_htimedelta(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    st.h.htimedelta = with_low(st, st.h.htimedelta, value);
    TIMER
}

pub(crate) fn write_htimedeltah(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    st.h.htimedelta = with_high(st.h.htimedelta, value);
    TIMER
}

pub(crate) fn write_vstimecmp(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    st.vs.vstimecmp = with_low(st, st.vs.vstimecmp, value);
    TIMER
}

pub(crate) fn write_vstimecmph(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    st.vs.vstimecmp = with_high(st.vs.vstimecmp, value);
    TIMER
}

// ---- environment configuration and state enable ----

/// What menvcfg has clear of these is read-only zero in henvcfg.
const BY_MACHINE: u64 = ADUE | PBMTE | STCE;

pub(crate) fn legal_henvcfg(st: &RiscvState) -> u64 {
    m::legal_senvcfg(st) | m::legal_menvcfg(st) & st.m.menvcfg & BY_MACHINE
}

pub(crate) fn read_henvcfg(st: &mut RiscvState, _: Bus<'_>, _: u16) -> u64 {
    st.h.henvcfg & legal_henvcfg(st)
}

fn set_henvcfg(st: &mut RiscvState, new: u64) -> Effects {
    let changed = st.h.henvcfg ^ new;
    st.h.henvcfg = new;
    let flush = (changed & (ADUE | PBMTE) != 0).then_some(TlbScope::All);
    let timer = changed & STCE != 0;
    Effects { flush, timer, interrupts: timer }
}

pub(crate) fn write_henvcfg(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    let new = with_low(st, st.h.henvcfg, invalidation(st.h.henvcfg, value));
    set_henvcfg(st, new)
}

pub(crate) fn write_henvcfgh(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    let new = with_high(st.h.henvcfg, value);
    set_henvcfg(st, new)
}

/// What mstateen has clear is read-only zero in hstateen.
pub(crate) fn read_hstateen(st: &mut RiscvState, _: Bus<'_>, index: u16) -> u64 {
    let i = usize::from(index) & 3;
    st.h.hstateen[i] & st.m.mstateen[i]
}

pub(crate) fn write_hstateen(st: &mut RiscvState, _: Bus<'_>, index: u16, value: u64) -> Effects {
    let i = usize::from(index) & 3;
    st.h.hstateen[i] = with_low(st, st.h.hstateen[i], value) & st.m.mstateen[i];
    NOTHING
}

pub(crate) fn write_hstateenh(st: &mut RiscvState, _: Bus<'_>, index: u16, value: u64) -> Effects {
    let i = usize::from(index) & 3;
    st.h.hstateen[i] = with_high(st.h.hstateen[i], value) & st.m.mstateen[i];
    NOTHING
}

// ---- address translation ----

pub(crate) fn write_vsatp(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    let (new, effects) = changed_satp(st, st.vs.vsatp, value);
    st.vs.vsatp = new;
    effects
}

/// MODE, VMID of 7 or 14 bits, and the root's number without its lowest two bits.
pub(crate) const fn legal_hgatp(st: &RiscvState) -> u64 {
    match (st.config.satp_max, st.config.xlen) {
        (satp::BARE, _) => 0,
        (_, 32) => 0x9fff_fffc,
        _ => 0xf3ff_ffff_ffff_fffc,
    }
}

/// A mode that the hart has not leaves the mode as it is.
pub(crate) fn write_hgatp(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    let shift = if st.config.xlen == 32 { 31 } else { 60 };
    let low = (1 << shift) - 1;
    let known = has_translation(st, mode_of(&st.config, value));
    let new = if known { value } else { value & low | st.h.hgatp & !low };
    let changed = st.h.hgatp != new;
    st.h.hgatp = new;
    if changed { FLUSH } else { NOTHING }
}

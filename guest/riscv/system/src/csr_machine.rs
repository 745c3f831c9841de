//! Reads, writes and legal bits of machine and supervisor registers.

use rhea_riscv_state::RiscvState;
use rhea_riscv_state::extension::{Extension, Extension as X};
use rhea_riscv_state::masking::PMM;
use rhea_riscv_state::state::{Privilege, mstatus, satp};

use crate::bus::{SystemBus, TlbScope};
use crate::counters;
use crate::csr::{Effects, NOTHING};
use crate::csr_user::{with_high, with_low};
use crate::interrupt::{self, STCE, bit};
use crate::paging::{ADUE, PBMTE, mode_of};
use crate::pmp::{self, seccfg};

type Bus<'a> = &'a mut dyn SystemBus;

pub(crate) const INTERRUPTS: Effects = Effects { interrupts: true, ..NOTHING };
pub(crate) const FLUSH: Effects = Effects { flush: Some(TlbScope::All), ..NOTHING };

/// Mseccfg.USEED and SSEED (Zkr).
pub(crate) const USEED: u64 = 1 << 8;
pub(crate) const SSEED: u64 = 1 << 9;
/// Mstateen0.ENVCFG and the SE bit of every mstateen (Smstateen).
pub(crate) const STATEEN_ENVCFG: u64 = 1 << 62;
pub(crate) const STATEEN_SE: u64 = 1 << 63;

/// Exceptions that medeleg can hand down: all of this hart's but ECALL from machine mode.
const DELEGABLE: u64 = 0xb3ff;
/// Among them those of the hypervisor extension: ECALL from virtual supervisor mode, guest page faults, virtual
/// instructions.
const DELEGABLE_VIRTUAL: u64 = 0xf0_0400;

pub(crate) fn legal_medeleg(st: &RiscvState) -> u64 {
    DELEGABLE | if st.has(X::H) { DELEGABLE_VIRTUAL } else { 0 }
}

// ---- mstatus and its view ----

/// What sstatus shows.
pub(crate) const SSTATUS: u64 = mstatus::SIE
    | mstatus::SPIE
    | mstatus::SPP
    | mstatus::VS
    | mstatus::FS
    | mstatus::XS
    | mstatus::SUM
    | mstatus::MXR;

pub(crate) fn legal_mstatus(st: &RiscvState) -> u64 {
    let mut legal = mstatus::MIE | mstatus::MPIE;
    if st.has(X::U) {
        legal |= mstatus::MPP | mstatus::MPRV | mstatus::TW;
    }
    if st.has(X::S) {
        legal |= mstatus::SIE | mstatus::SPIE | mstatus::SPP | mstatus::MXR | mstatus::TVM | mstatus::TSR;
        if st.config.satp_max != satp::BARE {
            legal |= mstatus::SUM;
        }
    }
    if st.has(X::F) {
        legal |= mstatus::FS;
    }
    if st.has(X::Zve32x) {
        legal |= mstatus::VS;
    }
    if st.has(X::H) {
        legal |= mstatus::MPV | mstatus::GVA;
    }
    legal
}

pub(crate) fn legal_sstatus(st: &RiscvState) -> u64 {
    legal_mstatus(st) & SSTATUS
}

/// The highest bit of XLEN, set while `status` says that some state is dirty.
pub(crate) fn dirty(st: &RiscvState, status: u64) -> u64 {
    let any = [mstatus::FS, mstatus::VS].iter().any(|field| status & field == *field);
    if any { 1 << (st.config.xlen - 1) } else { 0 }
}

pub(crate) fn read_mstatus(st: &mut RiscvState, _: Bus<'_>, _: u16) -> u64 {
    let mut value = st.m.mstatus | dirty(st, st.m.mstatus);
    if st.config.xlen == 64 {
        if st.has(X::U) {
            value |= mstatus::UXL_64;
        }
        if st.has(X::S) {
            value |= mstatus::SXL_64;
        }
    }
    value
}

pub(crate) fn read_sstatus(st: &mut RiscvState, _: Bus<'_>, _: u16) -> u64 {
    view(st, st.m.mstatus)
}

/// A status register as supervisor mode sees it.
pub(crate) fn view(st: &RiscvState, status: u64) -> u64 {
    let width = if st.config.xlen == 64 { mstatus::UXL_64 } else { 0 };
    status & SSTATUS | dirty(st, status) | width
}

/// MPP keeps its value where the new one is no mode of this hart.
pub(crate) fn write_mstatus(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    let old = st.m.mstatus;
    let mut new = with_low(st, old, value);
    let exists = match Privilege::from_bits(value >> mstatus::MPP_SHIFT & 3) {
        Some(Privilege::User) => st.has(X::U),
        Some(Privilege::Supervisor) => st.has(X::S),
        Some(Privilege::Machine) => true,
        None => false,
    };
    if !exists {
        new = new & !mstatus::MPP | old & mstatus::MPP;
    }
    set_mstatus(st, new)
}

/// The half of mstatus that a 32-bit hart has in a register of its own.
pub(crate) fn write_mstatush(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    let new = with_high(st.m.mstatus, value);
    set_mstatus(st, new)
}

pub(crate) fn write_sstatus(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    let new = st.m.mstatus & !SSTATUS | value;
    set_mstatus(st, new)
}

/// SUM, MPRV and MPP are part of the MMU index; MXR is not, so translations are forgotten.
fn set_mstatus(st: &mut RiscvState, new: u64) -> Effects {
    let changed = st.m.mstatus ^ new;
    st.m.mstatus = new;
    let flush = (changed & mstatus::MXR != 0).then_some(TlbScope::All);
    Effects { flush, ..INTERRUPTS }
}

/// Misa tells what is there and cannot be written.
pub(crate) fn read_misa(st: &mut RiscvState, _: Bus<'_>, _: u16) -> u64 {
    let letters = [X::A, X::B, X::C, X::D, X::F, X::H, X::I, X::M, X::S, X::U, X::V];
    let bit = |x: Extension| 1 << (x.name().as_bytes()[0] - b'a');
    let width = if st.config.xlen == 32 { 1 << 30 } else { 2 << 62 };
    letters.into_iter().filter(|x| st.has(*x)).fold(width, |bits, x| bits | bit(x))
}

// ---- interrupts ----

pub(crate) fn supervisor_interrupts(st: &RiscvState) -> u64 {
    let overflow = if st.has(X::Sscofpmf) { bit::LCOFI } else { 0 };
    if st.has(X::S) { bit::SSI | bit::STI | bit::SEI | overflow } else { 0 }
}

/// Interrupts of the hypervisor extension; machine mode always hands them down.
pub(crate) fn hypervisor_interrupts(st: &RiscvState) -> u64 {
    if st.has(X::H) { bit::VIRTUAL | bit::SGEI } else { 0 }
}

pub(crate) fn legal_mie(st: &RiscvState) -> u64 {
    bit::MSI | bit::MTI | bit::MEI | supervisor_interrupts(st) | hypervisor_interrupts(st)
}

pub(crate) fn legal_sie(st: &RiscvState) -> u64 {
    supervisor_interrupts(st) & st.m.mideleg
}

/// STIP belongs to the timer while stimecmp is in force.
pub(crate) fn legal_mip(st: &RiscvState) -> u64 {
    let timer = if interrupt::timer_compare(st) { bit::STI } else { 0 };
    supervisor_interrupts(st) & !timer | hypervisor_interrupts(st) & bit::VSSI
}

pub(crate) fn legal_sip(st: &RiscvState) -> u64 {
    supervisor_interrupts(st) & st.m.mideleg & (bit::SSI | bit::LCOFI)
}

pub(crate) fn write_mie(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    st.m.mie = value;
    INTERRUPTS
}

pub(crate) fn write_sie(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    st.m.mie = st.m.mie & !legal_sie(st) | value;
    INTERRUPTS
}

pub(crate) fn write_mideleg(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    st.m.mideleg = value | hypervisor_interrupts(st);
    INTERRUPTS
}

pub(crate) fn read_mip(st: &mut RiscvState, bus: Bus<'_>, _: u16) -> u64 {
    // Software that reads an edge can clear it.
    interrupt::take_edges(st, bus);
    interrupt::pending(st, bus)
}

pub(crate) fn write_mip(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    st.m.mip = st.m.mip & !legal_mip(st) | value;
    INTERRUPTS
}

pub(crate) fn read_sip(st: &mut RiscvState, bus: Bus<'_>, _: u16) -> u64 {
    interrupt::take_edges(st, bus);
    interrupt::pending(st, bus) & legal_sie(st)
}

pub(crate) fn write_sip(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    st.m.mip = st.m.mip & !legal_sip(st) | value;
    INTERRUPTS
}

// ---- trap vectors ----

/// Modes 2 and 3 are reserved: the mode stays.
pub(crate) const fn vector(old: u64, value: u64) -> u64 {
    if value & 2 != 0 { value & !3 | old & 3 } else { value }
}

pub(crate) fn write_mtvec(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    st.m.mtvec = vector(st.m.mtvec, value);
    NOTHING
}

pub(crate) fn write_stvec(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    st.s.stvec = vector(st.s.stvec, value);
    NOTHING
}

pub(crate) fn legal_counteren(st: &RiscvState) -> u64 {
    counters::implemented(st) | 2
}

// ---- environment configuration and state enable ----

const CBIE: u64 = 3 << 4;

/// CBIE=10 and PMM=01 are reserved: the field stays.
pub(crate) const fn invalidation(old: u64, value: u64) -> u64 {
    let value = if value & CBIE == 2 << 4 { value & !CBIE | old & CBIE } else { value };
    masking(old, value)
}

/// PMM=01 is reserved: the field stays.
const fn masking(old: u64, value: u64) -> u64 {
    if value & PMM == PMM & (PMM >> 1) { value & !PMM | old & PMM } else { value }
}

/// PMM where an extension has it.
fn legal_masking(st: &RiscvState, extension: Extension) -> u64 {
    if st.has(extension) { PMM } else { 0 }
}

pub(crate) fn legal_senvcfg(st: &RiscvState) -> u64 {
    legal_envcfg(st) | legal_masking(st, X::Ssnpm)
}

/// What every envcfg has.
fn legal_envcfg(st: &RiscvState) -> u64 {
    let mut legal = 1;
    if st.has(X::Zicbom) {
        legal |= CBIE | 1 << 6;
    }
    if st.has(X::Zicboz) {
        legal |= 1 << 7;
    }
    legal
}

pub(crate) fn legal_menvcfg(st: &RiscvState) -> u64 {
    let mut legal = legal_envcfg(st) | legal_masking(st, X::Smnpm);
    for (extension, bit) in [(X::Svadu, ADUE), (X::Svpbmt, PBMTE), (X::Sstc, STCE)] {
        if st.has(extension) {
            legal |= bit;
        }
    }
    legal
}

pub(crate) fn legal_menvcfgh(st: &RiscvState) -> u64 {
    legal_menvcfg(st) >> 32
}

pub(crate) fn write_senvcfg(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    st.s.senvcfg = invalidation(st.s.senvcfg, value);
    NOTHING
}

pub(crate) fn write_menvcfg(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    let new = with_low(st, st.m.menvcfg, invalidation(st.m.menvcfg, value));
    set_menvcfg(st, new)
}

pub(crate) fn write_menvcfgh(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    let new = with_high(st.m.menvcfg, value);
    set_menvcfg(st, new)
}

fn set_menvcfg(st: &mut RiscvState, new: u64) -> Effects {
    let changed = st.m.menvcfg ^ new;
    st.m.menvcfg = new;
    let timer = changed & STCE != 0;
    let flush = (changed & (ADUE | PBMTE) != 0).then_some(TlbScope::All);
    Effects { flush, timer, interrupts: timer }
}

pub(crate) fn legal_mseccfg(st: &RiscvState) -> u64 {
    let seed = |x: Extension, bit: u64| if st.has(X::Zkr) && st.has(x) { bit } else { 0 };
    let protection = if st.has(X::Smepmp) { seccfg::MML | seccfg::MMWP | seccfg::RLB } else { 0 };
    seed(X::S, SSEED) | seed(X::U, USEED) | legal_masking(st, X::Smmpm) | protection
}

pub(crate) fn write_mseccfg(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    let new = masking(st.m.mseccfg, with_low(st, st.m.mseccfg, value));
    st.m.mseccfg = pmp::written_security(st, new);
    FLUSH
}

/// The bits of mstateen0; the others have SE alone, which their write sees to.
pub(crate) fn legal_mstateen(st: &RiscvState) -> u64 {
    let aia = if st.has(X::Ssaia) { crate::csr_aia::STATEEN } else { 0 };
    if st.has(X::S) { STATEEN_SE | STATEEN_ENVCFG | aia } else { 0 }
}

pub(crate) fn read_mstateen(st: &mut RiscvState, _: Bus<'_>, index: u16) -> u64 {
    st.m.mstateen[usize::from(index) & 3]
}

fn set_mstateen(st: &mut RiscvState, index: u16, value: u64) -> Effects {
    let legal = if index == 0 { u64::MAX } else { STATEEN_SE };
    st.m.mstateen[usize::from(index) & 3] = value & legal;
    NOTHING
}

pub(crate) fn write_mstateen(st: &mut RiscvState, _: Bus<'_>, index: u16, value: u64) -> Effects {
    let new = with_low(st, st.m.mstateen[usize::from(index) & 3], value);
    set_mstateen(st, index, new)
}

pub(crate) fn write_mstateenh(st: &mut RiscvState, _: Bus<'_>, index: u16, value: u64) -> Effects {
    let new = with_high(st.m.mstateen[usize::from(index) & 3], value);
    set_mstateen(st, index, new)
}

// ---- supervisor timer and address translation ----

pub(crate) const TIMER: Effects = Effects { timer: true, ..INTERRUPTS };

pub(crate) fn write_stimecmp(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    st.s.stimecmp = with_low(st, st.s.stimecmp, value);
    TIMER
}

pub(crate) fn write_stimecmph(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    st.s.stimecmp = with_high(st.s.stimecmp, value);
    TIMER
}

/// Whether a hart has a mode of satp.
pub(crate) const fn has_translation(st: &RiscvState, mode: u32) -> bool {
    match mode {
        satp::BARE => true,
        satp::SV32 => st.config.xlen == 32 && st.config.satp_max == satp::SV32,
        satp::SV39..=satp::SV57 => st.config.xlen == 64 && mode <= st.config.satp_max,
        _ => false,
    }
}

pub(crate) fn write_satp(st: &mut RiscvState, _: Bus<'_>, _: u16, value: u64) -> Effects {
    let (new, effects) = changed_satp(st, st.s.satp, value);
    st.s.satp = new;
    effects
}

/// What satp or vsatp becomes. A mode that the hart has not makes the whole write have no effect. Leaving an address
/// space forgets its translations, as the vCPU's cache has no ASIDs; a change of mode forgets all.
pub(crate) fn changed_satp(st: &RiscvState, old: u64, value: u64) -> (u64, Effects) {
    let mode = mode_of(&st.config, value);
    if old == value || !has_translation(st, mode) {
        return (old, NOTHING);
    }
    let asid = if st.config.xlen == 32 { old >> 22 & 0x1ff } else { old >> 44 & 0xffff };
    if mode == mode_of(&st.config, old) {
        return (value, Effects { flush: Some(TlbScope::AddressSpace(asid as u16)), ..NOTHING });
    }
    (value, FLUSH)
}

// ---- physical memory protection ----

/// The entries whose bytes a configuration register holds: `4 * index` on, as many as XLEN has bytes.
fn entries(st: &RiscvState, index: u16) -> std::ops::Range<usize> {
    let first = usize::from(index) * 4;
    first..(first + st.config.xlen as usize / 8).min(st.config.pmp_regions as usize).min(64)
}

pub(crate) fn read_pmpcfg(st: &mut RiscvState, _: Bus<'_>, index: u16) -> u64 {
    entries(st, index).rev().fold(0, |word, entry| word << 8 | u64::from(st.pmp.cfg[entry]))
}

pub(crate) fn write_pmpcfg(st: &mut RiscvState, _: Bus<'_>, index: u16, value: u64) -> Effects {
    for (byte, entry) in value.to_le_bytes().into_iter().zip(entries(st, index)) {
        pmp::write_config(st, entry, byte);
    }
    FLUSH
}

pub(crate) fn read_pmpaddr(st: &mut RiscvState, _: Bus<'_>, index: u16) -> u64 {
    st.pmp.addr[usize::from(index) & 63]
}

pub(crate) fn write_pmpaddr(st: &mut RiscvState, _: Bus<'_>, index: u16, value: u64) -> Effects {
    let entry = usize::from(index) & 63;
    if pmp::address_locked(st, entry) {
        return NOTHING;
    }
    st.pmp.addr[entry] = value;
    FLUSH
}

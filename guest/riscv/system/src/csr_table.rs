//! The table of CSRs (privileged specification, "CSR Listing").

use rhea_riscv_state::RiscvState;
use rhea_riscv_state::csr as n;
use rhea_riscv_state::extension::Extension as X;
use rhea_riscv_state::state::{HartConfig, Privilege, hstatus, mstatus};

use crate::csr::{Allowed, Gate, Row, Store};
use crate::csr_aia as a;
use crate::csr_hypervisor as h;
use crate::csr_machine as m;
use crate::csr_user as u;
use crate::interrupt::bit;
use crate::{counters, interrupt};

// ---- which harts have a register ----

type Exists = fn(&HartConfig, u16) -> bool;

const fn always(_: &HartConfig, _: u16) -> bool {
    true
}
const fn rv32(c: &HartConfig, _: u16) -> bool {
    c.xlen == 32
}
fn has_u(c: &HartConfig, _: u16) -> bool {
    c.has(X::U)
}
fn has_u32(c: &HartConfig, _: u16) -> bool {
    c.has(X::U) && c.xlen == 32
}
fn has_s(c: &HartConfig, _: u16) -> bool {
    c.has(X::S)
}
fn fp(c: &HartConfig, _: u16) -> bool {
    c.has(X::F)
}
fn vector(c: &HartConfig, _: u16) -> bool {
    c.has(X::Zve32x)
}
fn zkr(c: &HartConfig, _: u16) -> bool {
    c.has(X::Zkr)
}
/// Extensions that have a part of mseccfg.
fn security(c: &HartConfig, _: u16) -> bool {
    c.has(X::Zkr) || c.has(X::Smmpm) || c.has(X::Smepmp)
}
fn security32(c: &HartConfig, index: u16) -> bool {
    security(c, index) && c.xlen == 32
}
fn stateen(c: &HartConfig, _: u16) -> bool {
    c.has(X::Smstateen)
}
fn stateen32(c: &HartConfig, _: u16) -> bool {
    c.has(X::Smstateen) && c.xlen == 32
}
fn sstateen(c: &HartConfig, _: u16) -> bool {
    c.has(X::Smstateen) && c.has(X::S)
}
fn sstc(c: &HartConfig, _: u16) -> bool {
    c.has(X::Sstc)
}
fn sstc32(c: &HartConfig, _: u16) -> bool {
    c.has(X::Sstc) && c.xlen == 32
}
fn sscofpmf(c: &HartConfig, _: u16) -> bool {
    c.has(X::Sscofpmf)
}
fn sscofpmf32(c: &HartConfig, _: u16) -> bool {
    c.has(X::Sscofpmf) && c.xlen == 32
}
fn smaia(c: &HartConfig, _: u16) -> bool {
    c.has(X::Smaia)
}
fn smaia32(c: &HartConfig, _: u16) -> bool {
    c.has(X::Smaia) && c.xlen == 32
}
fn ssaia(c: &HartConfig, _: u16) -> bool {
    c.has(X::Ssaia)
}
fn ssaia32(c: &HartConfig, _: u16) -> bool {
    c.has(X::Ssaia) && c.xlen == 32
}
fn zicntr(c: &HartConfig, _: u16) -> bool {
    c.has(X::Zicntr)
}
fn zicntr32(c: &HartConfig, _: u16) -> bool {
    c.has(X::Zicntr) && c.xlen == 32
}
fn zihpm(c: &HartConfig, _: u16) -> bool {
    c.has(X::Zihpm)
}
fn zihpm32(c: &HartConfig, _: u16) -> bool {
    c.has(X::Zihpm) && c.xlen == 32
}
/// A configuration register holds the bytes of four entries on RV32; on RV64 the even ones hold those of eight.
fn pmpcfg(c: &HartConfig, index: u16) -> bool {
    u32::from(index) * 4 < c.pmp_regions && (c.xlen == 32 || index.is_multiple_of(2))
}
fn pmpaddr(c: &HartConfig, index: u16) -> bool {
    u32::from(index) < c.pmp_regions
}

fn hypervisor(c: &HartConfig, _: u16) -> bool {
    c.has(X::H)
}
fn hypervisor32(c: &HartConfig, _: u16) -> bool {
    c.has(X::H) && c.xlen == 32
}
fn hstateen(c: &HartConfig, _: u16) -> bool {
    c.has(X::H) && c.has(X::Smstateen)
}
fn hstateen32(c: &HartConfig, index: u16) -> bool {
    hstateen(c, index) && c.xlen == 32
}
fn vstimecmp(c: &HartConfig, _: u16) -> bool {
    c.has(X::H) && c.has(X::Sstc)
}
fn vstimecmp32(c: &HartConfig, index: u16) -> bool {
    vstimecmp(c, index) && c.xlen == 32
}
fn haia(c: &HartConfig, _: u16) -> bool {
    c.has(X::H) && c.has(X::Ssaia)
}
fn haia32(c: &HartConfig, index: u16) -> bool {
    haia(c, index) && c.xlen == 32
}

// ---- when a register may be accessed, beyond its privilege ----

fn when(allowed: bool) -> Gate {
    if allowed { Gate::Open } else { Gate::Illegal }
}
fn free(_: &RiscvState, _: u16) -> Gate {
    Gate::Open
}
fn fp_on(st: &RiscvState, _: u16) -> Gate {
    when(st.unit_on(mstatus::FS))
}
fn vector_on(st: &RiscvState, _: u16) -> Gate {
    when(st.unit_on(mstatus::VS))
}
fn counter(st: &RiscvState, index: u16) -> Gate {
    counters::readable(st, index.into())
}
fn time(st: &RiscvState, _: u16) -> Gate {
    counters::readable(st, 1)
}
fn instret(st: &RiscvState, _: u16) -> Gate {
    counters::readable(st, 2)
}
fn hpm_counter(st: &RiscvState, index: u16) -> Gate {
    counters::readable(st, u32::from(index) + 3)
}
/// Satp: mstatus.TVM stands in supervisor mode's way, hstatus.VTVM in that of virtual supervisor mode.
fn translation(st: &RiscvState, _: u16) -> Gate {
    let machine = st.privilege() == Privilege::Machine || st.is_virtual() || st.m.mstatus & mstatus::TVM == 0;
    Gate::of(st, machine, st.h.hstatus & hstatus::VTVM == 0)
}
fn timer_enabled(st: &RiscvState, _: u16) -> Gate {
    let machine = interrupt::timer_compare(st) && st.m.mcounteren & 2 != 0;
    let hypervisor = interrupt::virtual_timer_compare(st) && st.h.hcounteren & 2 != 0;
    Gate::of(st, st.privilege() == Privilege::Machine || machine, hypervisor)
}
fn state_enabled(st: &RiscvState, index: u16) -> Gate {
    let i = usize::from(index) & 3;
    let machine = st.privilege() == Privilege::Machine || st.m.mstateen[i] & m::STATEEN_SE != 0;
    Gate::of(st, machine, st.h.hstateen[i] & m::STATEEN_SE != 0)
}
fn envcfg_enabled(st: &RiscvState, _: u16) -> Gate {
    a::state_gate(st, m::STATEEN_ENVCFG)
}
fn interrupt_view(st: &RiscvState, _: u16) -> Gate {
    Gate::of(st, true, st.h.hvictl & interrupt::VTI == 0)
}
/// Zkr, "Access Control to the Entropy Source".
fn seed_enabled(st: &RiscvState, _: u16) -> Gate {
    let supervisor = st.m.mseccfg & m::SSEED != 0;
    match st.privilege() {
        Privilege::Machine => Gate::Open,
        _ if st.is_virtual() => Gate::of(st, supervisor, false),
        Privilege::Supervisor => when(supervisor),
        Privilege::User => when(st.m.mseccfg & m::USEED != 0),
    }
}

// ---- which bits can be set ----

type Legal = fn(&RiscvState) -> u64;

const fn all(_: &RiscvState) -> u64 {
    u64::MAX
}
const fn none(_: &RiscvState) -> u64 {
    0
}
const fn bits<const N: u64>(_: &RiscvState) -> u64 {
    N
}
/// Vstart holds element numbers below VLEN.
const fn vstart(st: &RiscvState) -> u64 {
    st.config.vlen as u64 - 1
}
const fn pmp_address(st: &RiscvState) -> u64 {
    if st.config.xlen == 32 { 0xffff_ffff } else { (1 << 54) - 1 }
}

const fn run(
    first: u16,
    count: u16,
    name: &'static str,
    base: u16,
    exists: Exists,
    allowed: Allowed,
    store: Store,
    legal: Legal,
) -> Row {
    Row { first, count, name, base, exists, allowed, store, legal }
}

const fn row(
    first: u16,
    name: &'static str,
    exists: Exists,
    allowed: Allowed,
    store: Store,
    legal: Legal,
) -> Row {
    run(first, 1, name, 0, exists, allowed, store, legal)
}

use Store::{Fixed, Plain, Special};

/// Every CSR.
#[rustfmt::skip]
pub(crate) static TABLE: &[Row] = &[
    row(n::FFLAGS, "fflags", fp, fp_on, Special(|st, _, _| st.fflags.into(), u::write_fflags), bits::<0x1f>),
    row(n::FRM, "frm", fp, fp_on, Special(|st, _, _| st.frm.into(), u::write_frm), bits::<7>),
    row(n::FCSR, "fcsr", fp, fp_on, Special(u::read_fcsr, u::write_fcsr), bits::<0xff>),
    row(n::VSTART, "vstart", vector, vector_on, Special(|st, _, _| st.vstart, u::write_vstart), vstart),
    row(n::VXSAT, "vxsat", vector, vector_on, Special(|st, _, _| st.vxsat.into(), u::write_vxsat), bits::<1>),
    row(n::VXRM, "vxrm", vector, vector_on, Special(|st, _, _| st.vxrm.into(), u::write_vxrm), bits::<3>),
    row(n::VCSR, "vcsr", vector, vector_on, Special(u::read_vcsr, u::write_vcsr), bits::<7>),
    row(n::SEED, "seed", zkr, seed_enabled, Fixed(u::read_seed), none),
    row(n::VL, "vl", vector, vector_on, Fixed(|st, _, _| st.vl), none),
    row(n::VTYPE, "vtype", vector, vector_on, Fixed(u::read_vtype), none),
    row(n::VLENB, "vlenb", vector, vector_on, Fixed(|st, _, _| u64::from(st.config.vlen / 8)), none),
    row(n::CYCLE, "cycle", zicntr, counter, Fixed(|st, bus, _| u::read_counter(st, bus, 0)), none),
    row(n::TIME, "time", zicntr, time, Fixed(u::read_time), none),
    row(n::INSTRET, "instret", zicntr, instret, Fixed(|st, bus, _| u::read_counter(st, bus, 2)), none),
    run(n::HPMCOUNTER3, 29, "hpmcounter#", 3, zihpm, hpm_counter, Fixed(|st, bus, i| u::read_counter(st, bus, i + 3)), none),
    row(n::CYCLEH, "cycleh", zicntr32, counter, Fixed(|st, bus, _| u::read_counter(st, bus, 0) >> 32), none),
    row(n::TIMEH, "timeh", zicntr32, time, Fixed(|st, bus, i| u::read_time(st, bus, i) >> 32), none),
    row(n::INSTRETH, "instreth", zicntr32, instret, Fixed(|st, bus, _| u::read_counter(st, bus, 2) >> 32), none),
    run(n::HPMCOUNTER3H, 29, "hpmcounter#h", 3, zihpm32, hpm_counter, Fixed(|st, bus, i| u::read_counter(st, bus, i + 3) >> 32), none),

    row(n::SSTATUS, "sstatus", has_s, free, Special(m::read_sstatus, m::write_sstatus), m::legal_sstatus),
    row(n::SIE, "sie", has_s, interrupt_view, Special(|st, _, _| st.m.mie & m::legal_sie(st), m::write_sie), m::legal_sie),
    row(n::STVEC, "stvec", has_s, free, Special(|st, _, _| st.s.stvec, m::write_stvec), all),
    row(n::SCOUNTEREN, "scounteren", has_s, free, Plain(|st| &mut st.s.scounteren), m::legal_counteren),
    row(n::SENVCFG, "senvcfg", has_s, envcfg_enabled, Special(|st, _, _| st.s.senvcfg, m::write_senvcfg), m::legal_senvcfg),
    run(n::SSTATEEN0, 4, "sstateen#", 0, sstateen, state_enabled, Fixed(|_, _, _| 0), none),
    row(n::SSCRATCH, "sscratch", has_s, free, Plain(|st| &mut st.s.sscratch), all),
    row(n::SEPC, "sepc", has_s, free, Plain(|st| &mut st.s.sepc), crate::trap::legal_pc),
    row(n::SCAUSE, "scause", has_s, free, Plain(|st| &mut st.s.scause), all),
    row(n::STVAL, "stval", has_s, free, Plain(|st| &mut st.s.stval), all),
    row(n::SIP, "sip", has_s, interrupt_view, Special(m::read_sip, m::write_sip), m::legal_sip),
    row(n::SISELECT, "siselect", ssaia, a::select_enabled, Plain(|st| &mut st.s.siselect), bits::<{ a::SELECT }>),
    row(n::SIREG, "sireg", ssaia, a::supervisor_register, Special(a::read_sireg, a::write_sireg), all),
    row(n::STOPEI, "stopei", ssaia, a::file_enabled, Special(a::read_stopei, a::write_stopei), all),
    row(n::STOPI, "stopi", ssaia, a::top_enabled, Fixed(|st, bus, _| a::read_topi(st, bus, false)), none),
    row(n::SIEH, "sieh", ssaia32, interrupt_view, Fixed(|_, _, _| 0), none),
    row(n::SIPH, "siph", ssaia32, interrupt_view, Fixed(|_, _, _| 0), none),
    row(n::STIMECMP, "stimecmp", sstc, timer_enabled, Special(|st, _, _| st.s.stimecmp, m::write_stimecmp), all),
    row(n::STIMECMPH, "stimecmph", sstc32, timer_enabled, Special(|st, _, _| st.s.stimecmp >> 32, m::write_stimecmph), all),
    row(n::SATP, "satp", has_s, translation, Special(|st, _, _| st.s.satp, m::write_satp), all),
    row(n::SCOUNTOVF, "scountovf", sscofpmf, free, Fixed(u::read_scountovf), none),

    row(n::HSTATUS, "hstatus", hypervisor, free, Special(h::read_hstatus, h::write_hstatus), h::legal_hstatus),
    row(n::HEDELEG, "hedeleg", hypervisor, free, Plain(|st| &mut st.h.hedeleg), bits::<{ h::DELEGABLE }>),
    row(n::HIDELEG, "hideleg", hypervisor, free, Special(|st, _, _| st.h.hideleg, h::write_hideleg), bits::<{ bit::VIRTUAL }>),
    row(n::HIE, "hie", hypervisor, free, Special(|st, _, _| st.m.mie & h::INTERRUPTS, h::write_hie), bits::<{ h::INTERRUPTS }>),
    row(n::HTIMEDELTA, "htimedelta", hypervisor, free, Special(|st, _, _| st.h.htimedelta, h::write_htimedelta), all),
    row(n::HCOUNTEREN, "hcounteren", hypervisor, free, Plain(|st| &mut st.h.hcounteren), m::legal_counteren),
    row(n::HGEIE, "hgeie", hypervisor, free, Fixed(|_, _, _| 0), none),
    row(n::HVIEN, "hvien", haia, a::top_enabled, Fixed(|_, _, _| 0), none),
    row(n::HVICTL, "hvictl", haia, a::top_enabled, Special(|st, _, _| st.h.hvictl, a::write_hvictl), bits::<{ a::HVICTL }>),
    row(n::HENVCFG, "henvcfg", hypervisor, envcfg_enabled, Special(h::read_henvcfg, h::write_henvcfg), h::legal_henvcfg),
    run(n::HSTATEEN0, 4, "hstateen#", 0, hstateen, state_enabled, Special(h::read_hstateen, h::write_hstateen), all),
    row(n::HEDELEGH, "hedelegh", hypervisor32, free, Fixed(|_, _, _| 0), none),
    row(n::HIDELEGH, "hidelegh", haia32, free, Fixed(|_, _, _| 0), none),
    row(n::HTIMEDELTAH, "htimedeltah", hypervisor32, free, Special(|st, _, _| st.h.htimedelta >> 32, h::write_htimedeltah), all),
    row(n::HVIENH, "hvienh", haia32, a::top_enabled, Fixed(|_, _, _| 0), none),
    row(n::HENVCFGH, "henvcfgh", hypervisor32, envcfg_enabled, Special(|st, bus, i| h::read_henvcfg(st, bus, i) >> 32, h::write_henvcfgh), |st| h::legal_henvcfg(st) >> 32),
    run(n::HSTATEEN0H, 4, "hstateen#h", 0, hstateen32, state_enabled, Special(|st, bus, i| h::read_hstateen(st, bus, i) >> 32, h::write_hstateenh), all),
    row(n::HTVAL, "htval", hypervisor, free, Plain(|st| &mut st.h.htval), all),
    row(n::HIP, "hip", hypervisor, free, Special(h::read_hip, h::write_hip), bits::<{ bit::VSSI }>),
    row(n::HVIP, "hvip", hypervisor, free, Special(|st, _, _| st.m.mip & bit::VIRTUAL, h::write_hvip), bits::<{ bit::VIRTUAL }>),
    run(n::HVIPRIO1, 2, "hviprio#", 1, haia, a::top_enabled, Fixed(|_, _, _| 0), none),
    row(n::HTINST, "htinst", hypervisor, free, Plain(|st| &mut st.h.htinst), all),
    row(n::HVIPH, "hviph", haia32, free, Fixed(|_, _, _| 0), none),
    run(n::HVIPRIO1H, 2, "hviprio#h", 1, haia32, a::top_enabled, Fixed(|_, _, _| 0), none),
    row(n::HGATP, "hgatp", hypervisor, translation, Special(|st, _, _| st.h.hgatp, h::write_hgatp), h::legal_hgatp),
    row(n::HGEIP, "hgeip", hypervisor, free, Fixed(|_, _, _| 0), none),
    row(n::VSSTATUS, "vsstatus", hypervisor, free, Special(h::read_vsstatus, h::write_vsstatus), m::legal_sstatus),
    row(n::VSIE, "vsie", hypervisor, free, Special(h::read_vsie, h::write_vsie), h::legal_vsie),
    row(n::VSTVEC, "vstvec", hypervisor, free, Special(|st, _, _| st.vs.vstvec, h::write_vstvec), all),
    row(n::VSIEH, "vsieh", haia32, free, Fixed(|_, _, _| 0), none),
    row(n::VSSCRATCH, "vsscratch", hypervisor, free, Plain(|st| &mut st.vs.vsscratch), all),
    row(n::VSEPC, "vsepc", hypervisor, free, Plain(|st| &mut st.vs.vsepc), crate::trap::legal_pc),
    row(n::VSCAUSE, "vscause", hypervisor, free, Plain(|st| &mut st.vs.vscause), all),
    row(n::VSTVAL, "vstval", hypervisor, free, Plain(|st| &mut st.vs.vstval), all),
    row(n::VSIP, "vsip", hypervisor, free, Special(h::read_vsip, h::write_vsip), h::legal_vsip),
    row(n::VSTIMECMP, "vstimecmp", vstimecmp, timer_enabled, Special(|st, _, _| st.vs.vstimecmp, h::write_vstimecmp), all),
    row(n::VSISELECT, "vsiselect", haia, a::select_enabled, Plain(|st| &mut st.vs.vsiselect), bits::<{ a::SELECT }>),
    row(n::VSIREG, "vsireg", haia, a::virtual_register, Fixed(|_, _, _| 0), none),
    row(n::VSIPH, "vsiph", haia32, free, Fixed(|_, _, _| 0), none),
    row(n::VSTOPEI, "vstopei", haia, a::virtual_register, Fixed(|_, _, _| 0), none),
    row(n::VSTIMECMPH, "vstimecmph", vstimecmp32, timer_enabled, Special(|st, _, _| st.vs.vstimecmp >> 32, h::write_vstimecmph), all),
    row(n::VSATP, "vsatp", hypervisor, free, Special(|st, _, _| st.vs.vsatp, h::write_vsatp), all),
    row(n::VSTOPI, "vstopi", haia, a::top_enabled, Fixed(|st, bus, _| a::read_vstopi(st, bus)), none),

    row(n::MVENDORID, "mvendorid", always, free, Fixed(|st, _, _| st.config.vendor_id), none),
    row(n::MARCHID, "marchid", always, free, Fixed(|st, _, _| st.config.arch_id), none),
    row(n::MIMPID, "mimpid", always, free, Fixed(|st, _, _| st.config.imp_id), none),
    row(n::MHARTID, "mhartid", always, free, Fixed(|st, _, _| st.config.hart_id), none),
    row(n::MCONFIGPTR, "mconfigptr", always, free, Fixed(|_, _, _| 0), none),
    row(n::MSTATUS, "mstatus", always, free, Special(m::read_mstatus, m::write_mstatus), m::legal_mstatus),
    row(n::MISA, "misa", always, free, Fixed(m::read_misa), none),
    row(n::MEDELEG, "medeleg", has_s, free, Plain(|st| &mut st.m.medeleg), m::legal_medeleg),
    row(n::MIDELEG, "mideleg", has_s, free, Special(|st, _, _| st.m.mideleg, m::write_mideleg), m::supervisor_interrupts),
    row(n::MIE, "mie", always, free, Special(|st, _, _| st.m.mie, m::write_mie), m::legal_mie),
    row(n::MTVEC, "mtvec", always, free, Special(|st, _, _| st.m.mtvec, m::write_mtvec), all),
    row(n::MCOUNTEREN, "mcounteren", has_u, free, Plain(|st| &mut st.m.mcounteren), m::legal_counteren),
    row(n::MENVCFG, "menvcfg", has_u, free, Special(|st, _, _| st.m.menvcfg, m::write_menvcfg), m::legal_menvcfg),
    run(n::MSTATEEN0, 4, "mstateen#", 0, stateen, free, Special(m::read_mstateen, m::write_mstateen), m::legal_mstateen),
    row(n::MSTATUSH, "mstatush", rv32, free, Special(|st, _, _| st.m.mstatus >> 32, m::write_mstatush), |st| m::legal_mstatus(st) >> 32),
    row(n::MEDELEGH, "medelegh", |c, _| c.xlen == 32 && c.has(X::S), free, Fixed(|_, _, _| 0), none),
    row(n::MENVCFGH, "menvcfgh", has_u32, free, Special(|st, _, _| st.m.menvcfg >> 32, m::write_menvcfgh), m::legal_menvcfgh),
    run(n::MSTATEEN0H, 4, "mstateen#h", 0, stateen32, free, Special(|st, bus, i| m::read_mstateen(st, bus, i) >> 32, m::write_mstateenh), |st| m::legal_mstateen(st) >> 32),
    row(n::MCOUNTINHIBIT, "mcountinhibit", always, free, Special(|st, _, _| st.m.mcountinhibit, u::write_inhibit), counters::implemented),
    run(n::MHPMEVENT3, 29, "mhpmevent#", 3, zihpm, free, Special(u::read_event, u::write_event), counters::legal_event),
    row(n::MSCRATCH, "mscratch", always, free, Plain(|st| &mut st.m.mscratch), all),
    row(n::MEPC, "mepc", always, free, Plain(|st| &mut st.m.mepc), crate::trap::legal_pc),
    row(n::MCAUSE, "mcause", always, free, Plain(|st| &mut st.m.mcause), all),
    row(n::MTVAL, "mtval", always, free, Plain(|st| &mut st.m.mtval), all),
    row(n::MTINST, "mtinst", hypervisor, free, Plain(|st| &mut st.m.mtinst), all),
    row(n::MTVAL2, "mtval2", hypervisor, free, Plain(|st| &mut st.m.mtval2), all),
    row(n::MIP, "mip", always, free, Special(m::read_mip, m::write_mip), m::legal_mip),
    row(n::MVIEN, "mvien", smaia, free, Fixed(|_, _, _| 0), none),
    row(n::MVIP, "mvip", smaia, free, Special(a::read_mvip, a::write_mvip), a::legal_mvip),
    row(n::MISELECT, "miselect", smaia, free, Plain(|st| &mut st.m.miselect), bits::<{ a::SELECT }>),
    row(n::MIREG, "mireg", smaia, a::machine_register, Special(a::read_mireg, a::write_mireg), all),
    row(n::MTOPEI, "mtopei", smaia, free, Special(a::read_mtopei, a::write_mtopei), all),
    row(n::MTOPI, "mtopi", smaia, free, Fixed(|st, bus, _| a::read_topi(st, bus, true)), none),
    row(n::MIDELEGH, "midelegh", smaia32, free, Fixed(|_, _, _| 0), none),
    row(n::MIEH, "mieh", smaia32, free, Fixed(|_, _, _| 0), none),
    row(n::MVIENH, "mvienh", smaia32, free, Fixed(|_, _, _| 0), none),
    row(n::MVIPH, "mviph", smaia32, free, Fixed(|_, _, _| 0), none),
    row(n::MIPH, "miph", smaia32, free, Fixed(|_, _, _| 0), none),
    run(n::PMPCFG0, 16, "pmpcfg#", 0, pmpcfg, free, Special(m::read_pmpcfg, m::write_pmpcfg), all),
    run(n::PMPADDR0, 64, "pmpaddr#", 0, pmpaddr, free, Special(m::read_pmpaddr, m::write_pmpaddr), pmp_address),
    run(n::MHPMEVENT3H, 29, "mhpmevent#h", 3, sscofpmf32, free, Special(|st, bus, i| u::read_event(st, bus, i) >> 32, u::write_eventh), |st| counters::legal_event(st) >> 32),
    row(n::MSECCFG, "mseccfg", security, free, Special(|st, _, _| st.m.mseccfg, m::write_mseccfg), m::legal_mseccfg),
    row(n::MSECCFGH, "mseccfgh", security32, free, Fixed(|_, _, _| 0), none),
    row(n::MCYCLE, "mcycle", always, free, Special(|st, bus, _| u::read_counter(st, bus, 0), |st, bus, _, v| u::write_counter(st, bus, 0, v)), all),
    row(n::MINSTRET, "minstret", always, free, Special(|st, bus, _| u::read_counter(st, bus, 2), |st, bus, _, v| u::write_counter(st, bus, 2, v)), all),
    run(n::MHPMCOUNTER3, 29, "mhpmcounter#", 3, zihpm, free, Special(|st, bus, i| u::read_counter(st, bus, i + 3), |st, bus, i, v| u::write_counter(st, bus, i + 3, v)), all),
    row(n::MCYCLEH, "mcycleh", rv32, free, Special(|st, bus, _| u::read_counter(st, bus, 0) >> 32, |st, bus, _, v| u::write_counterh(st, bus, 0, v)), all),
    row(n::MINSTRETH, "minstreth", rv32, free, Special(|st, bus, _| u::read_counter(st, bus, 2) >> 32, |st, bus, _, v| u::write_counterh(st, bus, 2, v)), all),
    run(n::MHPMCOUNTER3H, 29, "mhpmcounter#h", 3, zihpm32, free, Special(|st, bus, i| u::read_counter(st, bus, i + 3) >> 32, |st, bus, i, v| u::write_counterh(st, bus, i + 3, v)), all),
];

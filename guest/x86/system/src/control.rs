//! Control registers, XCR0 and the rules by which modes are entered and left (SDM vol. 3, 2.5, 5.1.2, 10.8.5).

use rhea_x86_state::X86State;
use rhea_x86_state::control::{cr0, cr4, efer};
use rhea_x86_state::features::{Feature, FeatureSet};
use rhea_x86_state::state::{attr, seg};

use crate::bus::{SystemBus, TlbScope};
use crate::descriptor::{is_code64, is_long};
use crate::exception::Exception;
use crate::paging;

const CR0_DEFINED: u64 = cr0::PE
    | cr0::MP
    | cr0::EM
    | cr0::TS
    | cr0::ET
    | cr0::NE
    | cr0::WP
    | cr0::AM
    | cr0::NW
    | cr0::CD
    | cr0::PG;

/// CR3 source bit that keeps the PCID's translations.
const CR3_NO_FLUSH: u64 = 1 << 63;

/// #GP(0) unless CPL is 0.
#[inline]
pub(crate) fn require_cpl0(st: &X86State) -> Result<(), Exception> {
    if st.cpl() == 0 { Ok(()) } else { Err(Exception::gp(0)) }
}

/// The CR4 bits that a processor with these features has.
pub(crate) fn cr4_defined(features: &FeatureSet) -> u64 {
    const BY_FEATURE: &[(Feature, u64)] = &[
        (Feature::VME, cr4::VME | cr4::PVI),
        (Feature::TSC, cr4::TSD),
        (Feature::DE, cr4::DE),
        (Feature::PSE, cr4::PSE),
        (Feature::PAE, cr4::PAE),
        (Feature::MCE, cr4::MCE),
        (Feature::PGE, cr4::PGE),
        (Feature::MMX, cr4::PCE),
        (Feature::FXSR, cr4::OSFXSR),
        (Feature::SSE, cr4::OSXMMEXCPT),
        (Feature::UMIP, cr4::UMIP),
        (Feature::FSGSBASE, cr4::FSGSBASE),
        (Feature::PCID, cr4::PCIDE),
        (Feature::XSAVE, cr4::OSXSAVE),
        (Feature::SMEP, cr4::SMEP),
        (Feature::SMAP, cr4::SMAP),
    ];
    BY_FEATURE.iter().filter(|(f, _)| features.has(*f)).fold(0, |bits, (_, bit)| bits | bit)
}

/// MOV from CRn, n = 0, 2, 3, 4 or 8. #UD for any other.
pub fn read_cr(st: &X86State, bus: &dyn SystemBus, n: u8) -> Result<u64, Exception> {
    match n {
        0 | 2 | 3 | 4 => {
            require_cpl0(st)?;
            Ok(st.cr[usize::from(n)])
        }
        8 if is_long(st) => {
            require_cpl0(st)?;
            Ok(u64::from(bus.apic().tpr() >> 4))
        }
        _ => Err(Exception::ud()),
    }
}

/// MOV to CRn. Outside 64-bit mode `value` is zero-extended.
pub fn write_cr(st: &mut X86State, bus: &mut dyn SystemBus, n: u8, value: u64) -> Result<(), Exception> {
    match n {
        0 | 2 | 3 | 4 => {}
        8 if is_long(st) => {}
        _ => return Err(Exception::ud()),
    }
    require_cpl0(st)?;
    match n {
        0 => write_cr0(st, bus, value),
        2 => {
            st.cr[2] = value;
            Ok(())
        }
        3 => write_cr3(st, bus, value),
        4 => write_cr4(st, bus, value),
        _ if value > 15 => Err(Exception::gp(0)),
        _ => {
            bus.apic().set_tpr((value as u8) << 4);
            Ok(())
        }
    }
}

/// Writes CR0: enters and leaves protected mode, paging and long mode.
pub fn write_cr0(st: &mut X86State, bus: &mut dyn SystemBus, value: u64) -> Result<(), Exception> {
    let gp = Err(Exception::gp(0));
    let old = st.cr[0];
    if value >> 32 != 0 {
        return gp;
    }
    let new = value & CR0_DEFINED | cr0::ET;
    if new & cr0::PG != 0 && new & cr0::PE == 0 || new & cr0::NW != 0 && new & cr0::CD == 0 {
        return gp;
    }
    let pg_on = new & !old & cr0::PG != 0;
    let pg_off = old & !new & cr0::PG != 0;
    let pae = st.cr[4] & cr4::PAE != 0;
    let mut new_efer = st.efer;
    if pg_on && st.efer & efer::LME != 0 {
        let tss16 = st.tr.attr >> attr::TYPE_SHIFT & 8 == 0;
        if !pae || st.seg[seg::CS].attr & attr::L != 0 || tss16 {
            return gp;
        }
        new_efer |= efer::LMA;
    }
    if pg_off {
        if is_code64(st) || st.cr[4] & cr4::PCIDE != 0 {
            return gp;
        }
        new_efer &= !efer::LMA;
    }
    let reloads = pg_on || (new ^ old) & (cr0::CD | cr0::NW) != 0;
    if reloads && new & cr0::PG != 0 && pae && new_efer & efer::LMA == 0 {
        st.pdpte = paging::load_pdptes(st, bus, st.cr[3])?;
    }
    st.efer = new_efer;
    st.cr[0] = new;
    if (new ^ old) & (cr0::PG | cr0::PE | cr0::WP) != 0 {
        bus.flush_tlb(TlbScope::All);
    }
    st.mode = st.compute_mode();
    Ok(())
}

/// Writes CR3: a new address space.
pub fn write_cr3(st: &mut X86State, bus: &mut dyn SystemBus, value: u64) -> Result<(), Exception> {
    let pcide = st.cr[4] & cr4::PCIDE != 0;
    let mut new = value;
    let mut preserve = false;
    if is_long(st) {
        if pcide {
            preserve = new & CR3_NO_FLUSH != 0;
            new &= !CR3_NO_FLUSH;
        }
        if new >> st.physical_bits != 0 {
            return Err(Exception::gp(0));
        }
    } else if st.cr[0] & cr0::PG != 0 && st.cr[4] & cr4::PAE != 0 {
        st.pdpte = paging::load_pdptes(st, bus, new)?;
    }
    st.cr[3] = new;
    let pcid = if pcide { (new & 0xfff) as u16 } else { 0 };
    bus.flush_tlb(TlbScope::AddressSpace { pcid, preserve });
    Ok(())
}

/// Writes CR4.
pub fn write_cr4(st: &mut X86State, bus: &mut dyn SystemBus, new: u64) -> Result<(), Exception> {
    let gp = Err(Exception::gp(0));
    let old = st.cr[4];
    let changed = new ^ old;
    if new & !cr4_defined(&st.features) != 0 || is_long(st) && new & cr4::PAE == 0 {
        return gp;
    }
    if changed & new & cr4::PCIDE != 0 && (!is_long(st) || st.cr[3] & 0xfff != 0) {
        return gp;
    }
    let paging_bits = cr4::PSE | cr4::PAE | cr4::PGE | cr4::SMEP;
    let pae_paging = new & cr4::PAE != 0 && st.cr[0] & cr0::PG != 0 && !is_long(st);
    if pae_paging && changed & paging_bits != 0 {
        st.pdpte = paging::load_pdptes(st, bus, st.cr[3])?;
    }
    st.cr[4] = new;
    // SMAP too: cached translations may hold its verdict.
    if changed & (paging_bits | cr4::PCIDE | cr4::SMAP) != 0 {
        bus.flush_tlb(TlbScope::All);
    }
    st.mode = st.compute_mode();
    Ok(())
}

/// Writes IA32_EFER. #GP(0) on bits the processor lacks, and on a change of LME under paging.
pub fn write_efer(st: &mut X86State, bus: &mut dyn SystemBus, value: u64) -> Result<(), Exception> {
    let mut defined = efer::LMA;
    for (feature, bit) in [(Feature::SYSCALL, efer::SCE), (Feature::LM, efer::LME), (Feature::NX, efer::NXE)]
    {
        if st.features.has(feature) {
            defined |= bit;
        }
    }
    let changed = value ^ st.efer;
    if value & !defined != 0 || (changed & efer::LME != 0 && st.cr[0] & cr0::PG != 0) {
        return Err(Exception::gp(0));
    }
    st.efer = value & !efer::LMA | st.efer & efer::LMA;
    if changed & efer::NXE != 0 {
        bus.flush_tlb(TlbScope::All);
    }
    st.mode = st.compute_mode();
    Ok(())
}

/// LMSW: PE can be set but not cleared.
pub fn lmsw(st: &mut X86State, bus: &mut dyn SystemBus, value: u16) -> Result<(), Exception> {
    require_cpl0(st)?;
    let low = u64::from(value) & 0xf;
    let new = st.cr[0] & !(cr0::MP | cr0::EM | cr0::TS) | low;
    write_cr0(st, bus, new)
}

/// SMSW: CR0, of which the destination takes its width. #GP(0) under UMIP at CPL 3.
pub fn smsw(st: &X86State) -> Result<u64, Exception> {
    check_umip(st)?;
    Ok(st.cr[0])
}

/// SGDT, SIDT, SLDT, STR and SMSW are refused outside CPL 0 with CR4.UMIP.
pub fn check_umip(st: &X86State) -> Result<(), Exception> {
    if st.cr[4] & cr4::UMIP != 0 && st.cpl() != 0 { Err(Exception::gp(0)) } else { Ok(()) }
}

/// CLTS.
pub fn clts(st: &mut X86State) -> Result<(), Exception> {
    require_cpl0(st)?;
    st.cr[0] &= !cr0::TS;
    st.mode = st.compute_mode();
    Ok(())
}

/// XCR0 bits the processor has: x87 and SSE with XSAVE, AVX with AVX.
pub fn xcr0_defined(features: &FeatureSet) -> u64 {
    let mut bits = 1;
    if features.has(Feature::SSE) {
        bits |= 2;
    }
    if features.has(Feature::AVX) {
        bits |= 4;
    }
    bits
}

/// XGETBV: XCR0 for index 0; for index 1 (with XGETBV1) the components of it that may be in use.
pub fn xgetbv(st: &X86State, index: u32) -> Result<u64, Exception> {
    if st.cr[4] & cr4::OSXSAVE == 0 {
        return Err(Exception::ud());
    }
    match index {
        0 => Ok(st.xcr0),
        // Reporting a component in its initial state as in use is allowed (SDM vol. 1, 13.6).
        1 if st.features.has(Feature::XGETBV1) => Ok(st.xcr0),
        _ => Err(Exception::gp(0)),
    }
}

/// XSETBV.
pub fn xsetbv(st: &mut X86State, index: u32, value: u64) -> Result<(), Exception> {
    if st.cr[4] & cr4::OSXSAVE == 0 {
        return Err(Exception::ud());
    }
    require_cpl0(st)?;
    let avx_without_sse = value & 6 == 4;
    if index != 0 || value & 1 == 0 || avx_without_sse || value & !xcr0_defined(&st.features) != 0 {
        return Err(Exception::gp(0));
    }
    st.xcr0 = value;
    st.mode = st.compute_mode();
    Ok(())
}

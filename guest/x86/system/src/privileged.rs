//! The other privileged instructions: descriptor-table registers, TLB and cache control, HLT, MONITOR, RDTSC, RDPMC.

use rhea_x86_state::X86State;
use rhea_x86_state::control::cr4;
use rhea_x86_state::cpuid::CpuidResult;
use rhea_x86_state::features::Feature;
use rhea_x86_state::state::DescriptorTable;

use crate::bus::{SystemBus, TlbScope};
use crate::control::{check_umip, require_cpl0};
use crate::descriptor::{is_long, is_protected};
use crate::exception::Exception;
use crate::paging::is_canonical;

fn table(st: &X86State, limit: u16, base: u64, operand_size: u8) -> Result<DescriptorTable, Exception> {
    require_cpl0(st)?;
    let base = match operand_size {
        2 => base & 0x00ff_ffff,
        4 => base & 0xffff_ffff,
        _ => base,
    };
    if is_long(st) && !is_canonical(base) {
        return Err(Exception::gp(0));
    }
    Ok(DescriptorTable { base, limit: u32::from(limit), reserved: 0 })
}

/// LGDT: `limit` and `base` as read from memory. A 16-bit operand size uses 24 bits of the base.
pub fn lgdt(st: &mut X86State, limit: u16, base: u64, operand_size: u8) -> Result<(), Exception> {
    st.gdtr = table(st, limit, base, operand_size)?;
    Ok(())
}

/// LIDT.
pub fn lidt(st: &mut X86State, limit: u16, base: u64, operand_size: u8) -> Result<(), Exception> {
    st.idtr = table(st, limit, base, operand_size)?;
    Ok(())
}

/// SGDT: limit and base to be stored.
pub fn sgdt(st: &X86State) -> Result<(u16, u64), Exception> {
    check_umip(st)?;
    Ok((st.gdtr.limit as u16, st.gdtr.base))
}

/// SIDT: limit and base to be stored.
pub fn sidt(st: &X86State) -> Result<(u16, u64), Exception> {
    check_umip(st)?;
    Ok((st.idtr.limit as u16, st.idtr.base))
}

/// SLDT. #UD in real and virtual-8086 mode.
pub fn sldt(st: &X86State) -> Result<u16, Exception> {
    if !is_protected(st) {
        return Err(Exception::ud());
    }
    check_umip(st)?;
    Ok(st.ldtr.selector)
}

/// STR. #UD in real and virtual-8086 mode.
pub fn str(st: &X86State) -> Result<u16, Exception> {
    if !is_protected(st) {
        return Err(Exception::ud());
    }
    check_umip(st)?;
    Ok(st.tr.selector)
}

/// INVLPG of a linear address (segment base added). Not canonical: nothing happens.
pub fn invlpg(st: &X86State, bus: &mut dyn SystemBus, linear: u64) -> Result<(), Exception> {
    require_cpl0(st)?;
    if is_canonical(linear) {
        bus.flush_tlb(TlbScope::Page(linear));
    }
    Ok(())
}

/// INVPCID with the two quadwords of its descriptor (SDM vol. 2).
pub fn invpcid(
    st: &X86State,
    bus: &mut dyn SystemBus,
    kind: u64,
    low: u64,
    linear: u64,
) -> Result<(), Exception> {
    if !st.features.has(Feature::INVPCID) || st.cr[0] & 1 == 0 {
        return Err(Exception::ud());
    }
    require_cpl0(st)?;
    let pcid = (low & 0xfff) as u16;
    let foreign = pcid != 0 && st.cr[4] & cr4::PCIDE == 0;
    if kind > 3 || low >> 12 != 0 || (kind < 2 && foreign) || (kind == 0 && !is_canonical(linear)) {
        return Err(Exception::gp(0));
    }
    bus.flush_tlb(match kind {
        0 => TlbScope::PageOfPcid { linear, pcid },
        1 => TlbScope::Pcid(pcid),
        2 => TlbScope::All,
        _ => TlbScope::NonGlobal,
    });
    Ok(())
}

/// HLT: the processor waits; RIP is to be after the instruction.
pub fn hlt(st: &mut X86State) -> Result<(), Exception> {
    require_cpl0(st)?;
    st.halted = 1;
    Ok(())
}

/// INVD and WBINVD. Caches are coherent here, so nothing is left to do once CPL is checked.
pub fn wbinvd(st: &X86State) -> Result<(), Exception> {
    require_cpl0(st)
}

/// MONITOR with its extensions (ECX); the caller makes the one-byte read at the address. Nothing is remembered: MWAIT
/// may return at any time (SDM vol. 2, MWAIT), and here it returns at once.
pub fn monitor(st: &X86State, extensions: u32) -> Result<(), Exception> {
    if !st.features.has(Feature::MONITOR) || st.cpl() != 0 {
        return Err(Exception::ud());
    }
    if extensions != 0 { Err(Exception::gp(0)) } else { Ok(()) }
}

/// MWAIT with its extensions (ECX). It returns at once; the caller should yield its host thread.
pub fn mwait(st: &X86State, extensions: u32) -> Result<(), Exception> {
    monitor(st, extensions & !1)
}

/// CPUID for `leaf` (EAX) and `subleaf` (ECX).
pub fn cpuid(st: &X86State, bus: &dyn SystemBus, leaf: u32, subleaf: u32) -> CpuidResult {
    let apic = bus.apic();
    let enabled = apic.apic_base() & 1 << 11 != 0;
    bus.cpu_model().cpuid(st, leaf, subleaf, apic.apic_id(), enabled)
}

/// The guest's time-stamp counter.
#[inline]
pub fn tsc(st: &X86State, bus: &mut dyn SystemBus) -> u64 {
    bus.tsc().wrapping_add(st.tsc_offset)
}

/// RDTSC; RDTSCP reads IA32_TSC_AUX too (`X86State::msr.tsc_aux`).
#[inline]
pub fn rdtsc(st: &X86State, bus: &mut dyn SystemBus) -> Result<u64, Exception> {
    if st.cr[4] & cr4::TSD != 0 && st.cpl() != 0 {
        return Err(Exception::gp(0));
    }
    Ok(tsc(st, bus))
}

/// RDPMC: there are no counters, so every index is #GP(0); so is a read without CR4.PCE outside CPL 0.
pub fn rdpmc(_st: &X86State, _index: u32) -> Result<u64, Exception> {
    Err(Exception::gp(0))
}

/// RDRAND and RDSEED of `size` bytes: always succeeds (CF=1).
pub fn random(bus: &mut dyn SystemBus, size: u8) -> u64 {
    bus.random() & crate::far::width_mask(size)
}

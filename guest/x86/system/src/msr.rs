//! RDMSR and WRMSR (SDM vol. 4; AMD APM vol. 2, appendix A).
//!
//! Which registers exist follows from the processor's features and vendor. One that does not exist is #GP(0), as is a
//! reserved bit: nothing is swallowed.

use rhea_x86_state::X86State;
use rhea_x86_state::features::Feature;
use rhea_x86_state::model::Vendor;
use rhea_x86_state::msr::{MC_BANKS, VARIABLE_MTRRS, index};
use rhea_x86_state::state::seg;

use crate::bus::SystemBus;
use crate::control::{require_cpl0, write_efer};
use crate::exception::Exception;
use crate::paging::is_canonical;
use crate::privileged::tsc;
use crate::smm::is_valid_smbase;

/// IA32_MTRRCAP: fixed ranges and write combining.
const MTRR_CAP: u64 = VARIABLE_MTRRS as u64 | 1 << 8 | 1 << 10;
/// IA32_MCG_CAP: banks, and MCG_CTL present.
const MCG_CAP: u64 = MC_BANKS as u64 | 1 << 8;
const MC_LAST: u32 = index::MC0_CTL + 4 * MC_BANKS as u32 - 1;
/// Microcode revision: in the upper half on Intel.
const MICROCODE: u64 = 1;
/// IA32_MISC_ENABLE: fast strings.
const FAST_STRINGS: u64 = 1;
/// IA32_MISC_ENABLE: MONITOR enabled.
const MISC_MONITOR: u64 = 1 << 18;
/// IA32_MISC_ENABLE: no branch trace storage, no precise event sampling (read-only).
const MISC_FIXED: u64 = 1 << 11 | 1 << 12;
/// AMD SYSCFG bits that can be set: MTRR and TOP_MEM2 controls.
const SYSCFG_DEFINED: u64 = 0x007f_0000;

const GP: Exception = Exception::gp(0);

fn require(ok: bool) -> Result<(), Exception> {
    if ok { Ok(()) } else { Err(GP) }
}

fn feature(st: &X86State, f: Feature) -> Result<(), Exception> {
    require(st.features.has(f))
}

fn vendor(bus: &dyn SystemBus, v: Vendor) -> Result<(), Exception> {
    require(bus.cpu_model().vendor() == v)
}

/// RDMSR.
pub fn rdmsr(st: &mut X86State, bus: &mut dyn SystemBus, msr: u32) -> Result<u64, Exception> {
    require_cpl0(st)?;
    if !st.features.has(Feature::MSR) {
        return Err(Exception::ud());
    }
    Ok(match msr {
        index::FS_BASE
        | index::GS_BASE
        | index::KERNEL_GS_BASE
        | index::LSTAR
        | index::CSTAR
        | index::FMASK => {
            feature(st, Feature::LM)?;
            match msr {
                index::FS_BASE => st.seg[seg::FS].base,
                index::GS_BASE => st.seg[seg::GS].base,
                index::KERNEL_GS_BASE => st.msr.kernel_gs_base,
                index::LSTAR => st.msr.lstar,
                index::CSTAR => st.msr.cstar,
                _ => st.msr.fmask,
            }
        }
        index::EFER => {
            require(st.features.has(Feature::NX) || st.features.has(Feature::SYSCALL))?;
            st.efer
        }
        index::STAR => {
            feature(st, Feature::SYSCALL)?;
            st.msr.star
        }
        index::SYSENTER_CS | index::SYSENTER_ESP | index::SYSENTER_EIP => {
            feature(st, Feature::SEP)?;
            match msr {
                index::SYSENTER_CS => st.msr.sysenter_cs,
                index::SYSENTER_ESP => st.msr.sysenter_esp,
                _ => st.msr.sysenter_eip,
            }
        }
        index::TSC => tsc(st, bus),
        index::TSC_ADJUST => {
            feature(st, Feature::TSC_ADJUST)?;
            st.msr.tsc_adjust
        }
        index::TSC_AUX => {
            require(st.features.has(Feature::RDTSCP) || st.features.has(Feature::RDPID))?;
            st.msr.tsc_aux
        }
        index::TSC_DEADLINE => {
            feature(st, Feature::TSC_DEADLINE)?;
            bus.apic().tsc_deadline()
        }
        index::APIC_BASE => {
            feature(st, Feature::APIC)?;
            bus.apic().apic_base()
        }
        index::X2APIC_FIRST..=index::X2APIC_LAST => {
            feature(st, Feature::X2APIC)?;
            bus.apic().read_x2apic(msr).map_err(|_| GP)?
        }
        index::PAT => {
            feature(st, Feature::PAT)?;
            st.msr.pat
        }
        index::MTRR_CAP
        | index::MTRR_DEF_TYPE
        | index::MTRR_PHYS_BASE0..=index::MTRR_PHYS_LAST
        | index::MTRR_FIX_64K_00000..=index::MTRR_FIX_4K_F8000 => read_mtrr(st, msr)?,
        index::P5_MC_ADDR
        | index::P5_MC_TYPE
        | index::MCG_CAP
        | index::MCG_STATUS
        | index::MCG_CTL
        | index::MC0_CTL..=MC_LAST => read_machine_check(st, msr)?,
        _ => read_vendor(st, bus, msr)?,
    })
}

/// Registers that only one vendor has, or that differ.
fn read_vendor(st: &X86State, bus: &mut dyn SystemBus, msr: u32) -> Result<u64, Exception> {
    let intel = bus.cpu_model().vendor() == Vendor::Intel;
    match msr {
        index::BIOS_SIGN_ID => return Ok(if intel { MICROCODE << 32 } else { MICROCODE }),
        index::DEBUGCTL => return Ok(st.msr.debugctl),
        index::LAST_BRANCH_FROM..=index::LAST_INTERRUPT_TO => return Ok(0),
        _ => {}
    }
    if intel {
        match msr {
            index::PLATFORM_ID | index::EBL_CR_POWERON => Ok(0),
            index::MISC_ENABLE => Ok(st.msr.misc_enable | MISC_FIXED),
            // Maximum non-turbo ratio, in units of 100 MHz.
            index::PLATFORM_INFO => Ok(((bus.tsc_hz() / 100_000_000) & 0xff) << 8),
            _ => Err(GP),
        }
    } else {
        match msr {
            index::AMD_SYSCFG => Ok(st.msr.syscfg),
            index::AMD_HWCR => Ok(st.msr.hwcr),
            index::AMD_TOP_MEM => Ok(st.msr.top_mem[0]),
            index::AMD_TOP_MEM2 => Ok(st.msr.top_mem[1]),
            index::AMD_INT_PENDING => Ok(st.msr.int_pending),
            index::AMD_SMBASE => Ok(st.smbase),
            _ => Err(GP),
        }
    }
}

/// WRMSR.
pub fn wrmsr(st: &mut X86State, bus: &mut dyn SystemBus, msr: u32, value: u64) -> Result<(), Exception> {
    require_cpl0(st)?;
    if !st.features.has(Feature::MSR) {
        return Err(Exception::ud());
    }
    match msr {
        index::FS_BASE | index::GS_BASE | index::KERNEL_GS_BASE | index::LSTAR | index::CSTAR => {
            feature(st, Feature::LM)?;
            require(is_canonical(value))?;
            match msr {
                index::FS_BASE => st.seg[seg::FS].base = value,
                index::GS_BASE => st.seg[seg::GS].base = value,
                index::KERNEL_GS_BASE => st.msr.kernel_gs_base = value,
                index::LSTAR => st.msr.lstar = value,
                _ => st.msr.cstar = value,
            }
        }
        index::FMASK => {
            feature(st, Feature::LM)?;
            require(value >> 32 == 0)?;
            st.msr.fmask = value;
        }
        index::EFER => {
            require(st.features.has(Feature::NX) || st.features.has(Feature::SYSCALL))?;
            write_efer(st, bus, value)?;
        }
        index::STAR => {
            feature(st, Feature::SYSCALL)?;
            st.msr.star = value;
        }
        index::SYSENTER_CS | index::SYSENTER_ESP | index::SYSENTER_EIP => {
            feature(st, Feature::SEP)?;
            require(is_canonical(value))?;
            match msr {
                index::SYSENTER_CS => st.msr.sysenter_cs = value & 0xffff,
                index::SYSENTER_ESP => st.msr.sysenter_esp = value,
                _ => st.msr.sysenter_eip = value,
            }
        }
        index::TSC | index::TSC_ADJUST | index::TSC_AUX | index::TSC_DEADLINE => {
            write_tsc(st, bus, msr, value)?;
        }
        index::APIC_BASE => {
            feature(st, Feature::APIC)?;
            require(value >> st.physical_bits == 0)?;
            let x2apic = value & 1 << 10 != 0;
            require(!x2apic || st.features.has(Feature::X2APIC))?;
            bus.apic().set_apic_base(value).map_err(|_| GP)?;
        }
        index::X2APIC_FIRST..=index::X2APIC_LAST => {
            feature(st, Feature::X2APIC)?;
            bus.apic().write_x2apic(msr, value).map_err(|_| GP)?;
        }
        index::PAT => {
            feature(st, Feature::PAT)?;
            require(value.to_le_bytes().iter().all(|t| matches!(t, 0 | 1 | 4..=7)))?;
            st.msr.pat = value;
        }
        index::MTRR_DEF_TYPE
        | index::MTRR_PHYS_BASE0..=index::MTRR_PHYS_LAST
        | index::MTRR_FIX_64K_00000..=index::MTRR_FIX_4K_F8000 => write_mtrr(st, msr, value)?,
        index::P5_MC_ADDR
        | index::P5_MC_TYPE
        | index::MCG_STATUS
        | index::MCG_CTL
        | index::MC0_CTL..=MC_LAST => write_machine_check(st, msr, value)?,
        _ => write_vendor(st, bus, msr, value)?,
    }
    Ok(())
}

fn write_vendor(st: &mut X86State, bus: &dyn SystemBus, msr: u32, value: u64) -> Result<(), Exception> {
    match msr {
        // Software clears the signature before it asks CPUID to sign in the revision.
        index::BIOS_SIGN_ID => {
            vendor(bus, Vendor::Intel)?;
            require(value == 0)
        }
        // No branch recording, no branch stepping: only the reset value.
        index::DEBUGCTL => require(value == 0),
        index::MISC_ENABLE => {
            vendor(bus, Vendor::Intel)?;
            let mut defined = FAST_STRINGS | MISC_FIXED;
            if st.features.has(Feature::MONITOR) {
                defined |= MISC_MONITOR;
            }
            require(value & !defined == 0)?;
            st.msr.misc_enable = value & !MISC_FIXED;
            Ok(())
        }
        _ => {
            vendor(bus, Vendor::Amd)?;
            write_amd(st, msr, value)
        }
    }
}

fn write_amd(st: &mut X86State, msr: u32, value: u64) -> Result<(), Exception> {
    // Addresses in TOP_MEM registers are multiples of 8 MiB.
    let top_mem = value & 0x7f_ffff == 0 && value >> st.physical_bits == 0;
    match msr {
        index::AMD_SYSCFG => {
            require(value & !SYSCFG_DEFINED == 0)?;
            st.msr.syscfg = value;
        }
        index::AMD_HWCR => {
            require(value >> 32 == 0)?;
            // SMMLOCK stays set until reset.
            st.msr.hwcr = value | st.msr.hwcr & 1;
        }
        index::AMD_TOP_MEM => {
            require(top_mem)?;
            st.msr.top_mem[0] = value;
        }
        index::AMD_TOP_MEM2 => {
            require(top_mem)?;
            st.msr.top_mem[1] = value;
        }
        index::AMD_INT_PENDING => {
            require(value >> 32 == 0)?;
            st.msr.int_pending = value;
        }
        index::AMD_SMBASE => {
            require(is_valid_smbase(value) && st.msr.hwcr & 1 == 0)?;
            st.smbase = value;
        }
        _ => return Err(GP),
    }
    Ok(())
}

fn write_tsc(st: &mut X86State, bus: &mut dyn SystemBus, msr: u32, value: u64) -> Result<(), Exception> {
    match msr {
        index::TSC => {
            let delta = value.wrapping_sub(tsc(st, bus));
            st.tsc_offset = st.tsc_offset.wrapping_add(delta);
            st.msr.tsc_adjust = st.msr.tsc_adjust.wrapping_add(delta);
            rearm_deadline(st, bus);
        }
        index::TSC_ADJUST => {
            feature(st, Feature::TSC_ADJUST)?;
            let delta = value.wrapping_sub(st.msr.tsc_adjust);
            st.tsc_offset = st.tsc_offset.wrapping_add(delta);
            st.msr.tsc_adjust = value;
            rearm_deadline(st, bus);
        }
        index::TSC_AUX => {
            require(st.features.has(Feature::RDTSCP) || st.features.has(Feature::RDPID))?;
            require(value >> 32 == 0)?;
            st.msr.tsc_aux = value;
        }
        _ => {
            feature(st, Feature::TSC_DEADLINE)?;
            let (now, hz) = (tsc(st, bus), bus.tsc_hz());
            bus.apic().set_tsc_deadline(value, now, hz);
        }
    }
    Ok(())
}

/// The counter has jumped: an armed deadline is now nearer or farther.
fn rearm_deadline(st: &X86State, bus: &mut dyn SystemBus) {
    let deadline = bus.apic().tsc_deadline();
    if deadline != 0 {
        let (now, hz) = (tsc(st, bus), bus.tsc_hz());
        bus.apic().set_tsc_deadline(deadline, now, hz);
    }
}

/// Index into `Msrs::mtrr_fixed` of a fixed-range MTRR.
fn fixed_mtrr(msr: u32) -> Option<usize> {
    Some(match msr {
        index::MTRR_FIX_64K_00000 => 0,
        index::MTRR_FIX_16K_80000 => 1,
        index::MTRR_FIX_16K_A0000 => 2,
        index::MTRR_FIX_4K_C0000..=index::MTRR_FIX_4K_F8000 => 3 + (msr - index::MTRR_FIX_4K_C0000) as usize,
        _ => return None,
    })
}

fn is_mtrr_type(t: u8) -> bool {
    matches!(t, 0 | 1 | 4 | 5 | 6)
}

fn read_mtrr(st: &X86State, msr: u32) -> Result<u64, Exception> {
    feature(st, Feature::MTRR)?;
    match msr {
        index::MTRR_CAP => Ok(MTRR_CAP),
        index::MTRR_DEF_TYPE => Ok(st.msr.mtrr_def_type),
        index::MTRR_PHYS_BASE0..=index::MTRR_PHYS_LAST => {
            Ok(st.msr.mtrr_variable[(msr - index::MTRR_PHYS_BASE0) as usize])
        }
        _ => fixed_mtrr(msr).map(|i| st.msr.mtrr_fixed[i]).ok_or(GP),
    }
}

/// MTRRs are kept and checked; memory here is coherent whatever its type, so they have no further effect.
fn write_mtrr(st: &mut X86State, msr: u32, value: u64) -> Result<(), Exception> {
    feature(st, Feature::MTRR)?;
    match msr {
        index::MTRR_DEF_TYPE => {
            require(value & !0xcff == 0 && is_mtrr_type(value as u8))?;
            st.msr.mtrr_def_type = value;
        }
        index::MTRR_PHYS_BASE0..=index::MTRR_PHYS_LAST => {
            let is_mask = msr & 1 != 0;
            require(value >> st.physical_bits == 0)?;
            if is_mask {
                require(value & 0x7ff == 0)?;
            } else {
                require(value & 0xf00 == 0 && is_mtrr_type(value as u8))?;
            }
            st.msr.mtrr_variable[(msr - index::MTRR_PHYS_BASE0) as usize] = value;
        }
        _ => {
            let i = fixed_mtrr(msr).ok_or(GP)?;
            // With SYSCFG.MtrrFixDramModEn, AMD keeps RdMem and WrMem in bits 4:3 of each byte.
            let extra = if st.msr.syscfg & 1 << 19 != 0 { 0x18 } else { 0 };
            require(value.to_le_bytes().iter().all(|t| is_mtrr_type(t & !extra)))?;
            st.msr.mtrr_fixed[i] = value;
        }
    }
    Ok(())
}

fn read_machine_check(st: &X86State, msr: u32) -> Result<u64, Exception> {
    if matches!(msr, index::P5_MC_ADDR | index::P5_MC_TYPE) {
        feature(st, Feature::MCE)?;
        return Ok(0);
    }
    feature(st, Feature::MCA)?;
    Ok(match msr {
        index::MCG_CAP => MCG_CAP,
        index::MCG_STATUS => st.msr.mcg_status,
        index::MCG_CTL => st.msr.mcg_ctl,
        _ => {
            let i = (msr - index::MC0_CTL) as usize;
            st.msr.mc_banks[i / 4][i % 4]
        }
    })
}

fn write_machine_check(st: &mut X86State, msr: u32, value: u64) -> Result<(), Exception> {
    if matches!(msr, index::P5_MC_ADDR | index::P5_MC_TYPE) {
        feature(st, Feature::MCE)?;
        return require(value == 0);
    }
    feature(st, Feature::MCA)?;
    match msr {
        index::MCG_STATUS => {
            require(value & !7 == 0)?;
            st.msr.mcg_status = value;
        }
        index::MCG_CTL => st.msr.mcg_ctl = value,
        _ => {
            let i = (msr - index::MC0_CTL) as usize;
            // Software writes anything to CTL, and only zero to STATUS, ADDR and MISC (SDM vol. 3, 16.3.2).
            require(i.is_multiple_of(4) || value == 0)?;
            st.msr.mc_banks[i / 4][i % 4] = value;
        }
    }
    Ok(())
}

//! SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS (SDM vol. 2 and AMD APM vol. 3). No memory is touched.
//!
//! The vendors differ: on Intel, SYSCALL and SYSRET exist in 64-bit mode only; on AMD they exist in every protected
//! mode, and SYSENTER and SYSEXIT do not exist in long mode.

use rhea_x86_state::X86State;
use rhea_x86_state::control::{cr0, efer};
use rhea_x86_state::flags;
use rhea_x86_state::state::{Segment, attr, gpr, seg};

use crate::bus::SystemBus;
use crate::control::require_cpl0;
use crate::descriptor::{is_code64, is_long};
use crate::exception::Exception;
use crate::paging::is_canonical;

const R11: usize = 11;

/// A flat code segment: 64-bit (`long`) or 32-bit.
#[inline]
fn flat_code(selector: u16, ring: u8, long: bool) -> Segment {
    let width = if long { attr::L } else { attr::DB };
    Segment {
        base: 0,
        limit: u32::MAX,
        attr: attr::P
            | attr::S
            | attr::CODE
            | attr::RW
            | attr::A
            | attr::G
            | width
            | u32::from(ring) << attr::DPL_SHIFT,
        selector: selector & !3 | u16::from(ring),
        reserved: [0; 3],
    }
}

/// A flat stack segment.
#[inline]
fn flat_stack(selector: u16, ring: u8) -> Segment {
    Segment {
        base: 0,
        limit: u32::MAX,
        attr: attr::P
            | attr::S
            | attr::RW
            | attr::A
            | attr::G
            | attr::DB
            | u32::from(ring) << attr::DPL_SHIFT,
        selector: selector & !3 | u16::from(ring),
        reserved: [0; 3],
    }
}

fn check_syscall(st: &X86State, bus: &dyn SystemBus) -> Result<(), Exception> {
    let elsewhere = !is_code64(st) && !bus.cpu_model().vendor().has_legacy_syscall();
    if st.efer & efer::SCE == 0 || st.cr[0] & cr0::PE == 0 || elsewhere {
        return Err(Exception::ud());
    }
    Ok(())
}

/// SYSCALL; `next_rip` is the return address.
pub fn syscall(st: &mut X86State, bus: &dyn SystemBus, next_rip: u64) -> Result<(), Exception> {
    check_syscall(st, bus)?;
    let selector = (st.msr.star >> 32) as u16;
    st.gpr[gpr::RCX] = next_rip;
    let long = is_long(st);
    if long {
        let f = st.rflags() & !flags::RF;
        st.gpr[R11] = f;
        st.rip = if is_code64(st) { st.msr.lstar } else { st.msr.cstar };
        st.set_rflags(f & !st.msr.fmask);
    } else {
        st.rip = st.msr.star & 0xffff_ffff;
        st.rflags &= !(flags::IF | flags::VM | flags::RF);
    }
    st.seg[seg::CS] = flat_code(selector, 0, long);
    st.seg[seg::SS] = flat_stack((selector & !3).wrapping_add(8), 0);
    st.mode = st.compute_mode();
    Ok(())
}

/// SYSRET with an operand size of 4 (to compatibility or legacy mode) or 8 bytes (to 64-bit mode).
pub fn sysret(st: &mut X86State, bus: &dyn SystemBus, size: u8) -> Result<(), Exception> {
    check_syscall(st, bus)?;
    require_cpl0(st)?;
    let to_long = size == 8;
    let target = if to_long { st.gpr[gpr::RCX] } else { st.gpr[gpr::RCX] & 0xffff_ffff };
    let faults_after = bus.cpu_model().vendor().has_legacy_syscall();
    if !is_canonical(target) && !faults_after {
        return Err(Exception::gp(0));
    }
    let base = (st.msr.star >> 48) as u16;
    let cs = if to_long { base.wrapping_add(16) } else { base };
    if is_long(st) {
        // CF PF AF ZF SF TF IF DF OF IOPL NT AC VIF VIP ID; RF and VM become 0.
        let f = st.gpr[R11] & 0x003c_7fd7 | 2;
        st.set_rflags(f);
    } else {
        st.rflags |= flags::IF;
    }
    st.seg[seg::CS] = flat_code(cs, 3, to_long);
    st.seg[seg::SS] = flat_stack(base.wrapping_add(8), 3);
    st.rip = target;
    st.mode = st.compute_mode();
    // On AMD the return completes, and the fetch at CPL 3 faults.
    if is_canonical(target) { Ok(()) } else { Err(Exception::gp(0)) }
}

/// SYSENTER.
pub fn sysenter(st: &mut X86State, bus: &dyn SystemBus) -> Result<(), Exception> {
    let long = is_long(st);
    if long && !bus.cpu_model().vendor().has_long_sysenter() {
        return Err(Exception::ud());
    }
    let selector = st.msr.sysenter_cs as u16;
    if st.cr[0] & cr0::PE == 0 || selector & 0xfffc == 0 {
        return Err(Exception::gp(0));
    }
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    st.rflags &= !(flags::VM | flags::IF | flags::RF);
    st.seg[seg::CS] = flat_code(selector, 0, long);
    st.seg[seg::SS] = flat_stack((selector & !3).wrapping_add(8), 0);
    st.gpr[gpr::RSP] = st.msr.sysenter_esp & mask;
    st.rip = st.msr.sysenter_eip & mask;
    st.mode = st.compute_mode();
    Ok(())
}

/// SYSEXIT with an operand size of 4 or 8 bytes.
pub fn sysexit(st: &mut X86State, bus: &dyn SystemBus, size: u8) -> Result<(), Exception> {
    if is_long(st) && !bus.cpu_model().vendor().has_long_sysenter() {
        return Err(Exception::ud());
    }
    let selector = st.msr.sysenter_cs as u16;
    if st.cr[0] & cr0::PE == 0 || selector & 0xfffc == 0 {
        return Err(Exception::gp(0));
    }
    require_cpl0(st)?;
    let to_long = size == 8;
    let (cs, ss) = if to_long { (32, 40) } else { (16, 24) };
    let mask = if to_long { u64::MAX } else { 0xffff_ffff };
    let (rip, rsp) = (st.gpr[gpr::RDX] & mask, st.gpr[gpr::RCX] & mask);
    if !is_canonical(rip) || !is_canonical(rsp) {
        return Err(Exception::gp(0));
    }
    st.seg[seg::CS] = flat_code(selector.wrapping_add(cs), 3, to_long);
    st.seg[seg::SS] = flat_stack(selector.wrapping_add(ss), 3);
    st.rip = rip;
    st.gpr[gpr::RSP] = rsp;
    st.mode = st.compute_mode();
    Ok(())
}

/// SWAPGS. #UD outside 64-bit mode.
#[inline]
pub fn swapgs(st: &mut X86State) -> Result<(), Exception> {
    if !is_code64(st) {
        return Err(Exception::ud());
    }
    require_cpl0(st)?;
    std::mem::swap(&mut st.seg[seg::GS].base, &mut st.msr.kernel_gs_base);
    Ok(())
}

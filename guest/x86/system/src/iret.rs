//! IRET in every mode (SDM vol. 2, IRET/IRETD/IRETQ).

use rhea_x86_state::X86State;
use rhea_x86_state::flags;
use rhea_x86_state::state::{attr, gpr, seg};

use crate::bus::{Privilege, SystemBus};
use crate::descriptor::{is_code64, is_long, is_protected, is_vm86, rpl};
use crate::exception::Exception;
use crate::far::{check_ip, new_stack_mask, return_code_segment, return_stack_segment};
use crate::segment::{drop_inaccessible, iopl, load_real, vm86_segment};
use crate::stack::{Stack, store_sp};
use crate::task::{self, TaskSwitch};
use crate::vme;

/// IRET with an operand size of 2, 4 or 8 bytes. `next_rip` is the address after it: a return from a nested task saves
/// it in the task that ends.
///
/// NMIs are unblocked. A pending single step or an open interrupt window is seen by the caller through
/// `X86State::mode` and RFLAGS.
pub fn iret(st: &mut X86State, bus: &mut dyn SystemBus, size: u8, next_rip: u64) -> Result<(), Exception> {
    if is_vm86(st) {
        virtual_8086(st, bus, size)?;
    } else if !is_protected(st) {
        real(st, bus, size)?;
    } else if st.rflags & flags::NT != 0 {
        if is_long(st) {
            return Err(Exception::gp(0));
        }
        let backlink = bus.read_linear(st, st.tr.base, 2, Privilege::Supervisor)? as u16;
        let switched = task::switch(st, bus, backlink, TaskSwitch::Iret, next_rip, 0);
        st.nmi_blocked = 0;
        return switched;
    } else {
        protected(st, bus, size)?;
    }
    st.nmi_blocked = 0;
    st.mode = st.compute_mode();
    Ok(())
}

/// Replaces the bits of RFLAGS in `mask` by those of `value`.
#[inline]
fn merge_flags(st: &mut X86State, value: u64, mask: u64) {
    let merged = st.rflags() & !mask | value & mask;
    st.set_rflags(merged);
}

/// The flag bits an image of `size` bytes can replace, before IF, IOPL, VM, VIF and VIP are considered.
#[inline]
const fn plain_mask(size: u8) -> u64 {
    let low = flags::ARITHMETIC | flags::TF | flags::DF | flags::NT;
    if size == 2 { low } else { low | flags::RF | flags::AC | flags::ID }
}

fn real(st: &mut X86State, bus: &mut dyn SystemBus, size: u8) -> Result<(), Exception> {
    let mut stack = Stack::current(st);
    let rip = stack.pop(st, bus, size)?;
    let selector = stack.pop(st, bus, size)? as u16;
    let value = stack.pop(st, bus, size)?;
    if rip > u64::from(st.seg[seg::CS].limit) {
        return Err(Exception::gp(0));
    }
    stack.commit(st);
    load_real(&mut st.seg[seg::CS], selector, attr::CODE);
    st.rip = rip;
    merge_flags(st, value, plain_mask(size) | flags::IF | flags::IOPL);
    Ok(())
}

fn virtual_8086(st: &mut X86State, bus: &mut dyn SystemBus, size: u8) -> Result<(), Exception> {
    let virtual_interrupts = iopl(st) < 3;
    if virtual_interrupts && !(vme::enabled(st) && size == 2) {
        return Err(Exception::gp(0));
    }
    let mut stack = Stack::current(st);
    let rip = stack.pop(st, bus, size)?;
    let selector = stack.pop(st, bus, size)? as u16;
    let value = stack.pop(st, bus, size)?;
    if rip > 0xffff {
        return Err(Exception::gp(0));
    }
    if virtual_interrupts {
        let pending = st.rflags & flags::VIP != 0 && value & flags::IF != 0;
        if pending || value & flags::TF != 0 {
            return Err(Exception::gp(0));
        }
        merge_flags(st, value, plain_mask(2));
        vme::set_vif(st, value & flags::IF != 0);
    } else {
        merge_flags(st, value, plain_mask(size) | flags::IF);
    }
    stack.commit(st);
    st.seg[seg::CS] = vm86_segment(selector);
    st.rip = rip;
    Ok(())
}

fn protected(st: &mut X86State, bus: &mut dyn SystemBus, size: u8) -> Result<(), Exception> {
    let mut stack = Stack::current(st);
    let rip = stack.pop(st, bus, size)?;
    let selector = stack.pop(st, bus, size)? as u16;
    let value = stack.pop(st, bus, size)?;
    let cpl = st.cpl();
    let long = is_long(st);
    if size != 2 && value & flags::VM != 0 && cpl == 0 && !long {
        return to_virtual_8086(st, bus, stack, rip, selector, value);
    }
    let cs = return_code_segment(st, bus, selector)?;
    let level = rpl(selector);
    let mut mask = plain_mask(size);
    if cpl <= iopl(st) {
        mask |= flags::IF;
    }
    if cpl == 0 {
        mask |= flags::IOPL;
        if size != 2 {
            mask |= flags::VIF | flags::VIP;
        }
    }
    // In 64-bit mode SS:RSP is always popped (SDM vol. 3, 7.14.3).
    if level == cpl && !is_code64(st) {
        check_ip(st, &cs, rip)?;
        stack.commit(st);
        st.seg[seg::CS] = cs;
        st.rip = rip;
        merge_flags(st, value, mask);
        return Ok(());
    }
    let rsp = stack.pop(st, bus, size)?;
    let ss_selector = stack.pop(st, bus, size)? as u16;
    let ss = return_stack_segment(st, bus, ss_selector, &cs, level)?;
    check_ip(st, &cs, rip)?;
    let sp_mask = new_stack_mask(st, &cs, &ss);
    st.seg[seg::CS] = cs;
    st.seg[seg::SS] = ss;
    store_sp(st, rsp, sp_mask);
    st.rip = rip;
    merge_flags(st, value, mask);
    if level > cpl {
        drop_inaccessible(st, level);
    }
    Ok(())
}

/// From CPL 0 of protected mode into virtual-8086 mode (SDM vol. 3, 21.2.5).
fn to_virtual_8086(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    mut stack: Stack,
    rip: u64,
    cs: u16,
    value: u64,
) -> Result<(), Exception> {
    let esp = stack.pop(st, bus, 4)?;
    let mut selectors = [0u16; 6];
    selectors[seg::CS] = cs;
    for register in [seg::SS, seg::ES, seg::DS, seg::FS, seg::GS] {
        selectors[register] = stack.pop(st, bus, 4)? as u16;
    }
    if rip > 0xffff {
        return Err(Exception::gp(0));
    }
    for (register, selector) in st.seg.iter_mut().zip(selectors) {
        *register = vm86_segment(selector);
    }
    st.gpr[gpr::RSP] = esp;
    st.rip = rip;
    let mask = plain_mask(4) | flags::IF | flags::IOPL | flags::VM | flags::VIF | flags::VIP;
    merge_flags(st, value, mask);
    debug_assert!(st.seg[seg::SS].attr & attr::DPL_MASK == attr::DPL_MASK);
    Ok(())
}

//! Virtual-8086 mode extensions and protected-mode virtual interrupts: VIF and VIP in place of IF
//! (SDM vol. 3, 21.3 and 21.4).

use rhea_x86_state::X86State;
use rhea_x86_state::control::cr4;
use rhea_x86_state::flags;
use rhea_x86_state::state::{attr, seg};

use crate::bus::{Privilege, SystemBus};
use crate::descriptor::{is_vm86, truncate};
use crate::exception::Exception;
use crate::segment::{iopl, vm86_segment};
use crate::stack::Stack;

/// CR4.VME in virtual-8086 mode.
pub(crate) fn enabled(st: &X86State) -> bool {
    is_vm86(st) && st.cr[4] & cr4::VME != 0
}

/// Whether CLI, STI, PUSHF and POPF work on VIF instead of IF: VME in virtual-8086 mode, PVI at CPL 3 of protected
/// mode, both with IOPL < 3.
pub(crate) fn virtualizes_if(st: &X86State) -> bool {
    if iopl(st) == 3 {
        return false;
    }
    if is_vm86(st) { st.cr[4] & cr4::VME != 0 } else { st.cpl() == 3 && st.cr[4] & cr4::PVI != 0 }
}

/// Sets or clears VIF.
pub(crate) fn set_vif(st: &mut X86State, on: bool) {
    st.rflags = if on { st.rflags | flags::VIF } else { st.rflags & !flags::VIF };
}

/// Whether INT n in virtual-8086 mode goes to the 8086 program's own handler: VME is on and the bit in the software
/// interrupt redirection bitmap, the 32 bytes below the I/O map, is clear.
pub(crate) fn redirects(st: &mut X86State, bus: &mut dyn SystemBus, n: u8) -> Result<bool, Exception> {
    if !enabled(st) {
        return Ok(false);
    }
    let tss32 = st.tr.attr >> attr::TYPE_SHIFT & 8 != 0;
    if st.tr.attr & attr::P == 0 || !tss32 || st.tr.limit < 0x67 {
        return Err(Exception::gp(0));
    }
    let field = truncate(st, st.tr.base.wrapping_add(0x66));
    let map = bus.read_linear(st, field, 2, Privilege::Supervisor)? as u32;
    let Some(at) = (map + u32::from(n >> 3)).checked_sub(32) else { return Err(Exception::gp(0)) };
    if at > st.tr.limit {
        return Err(Exception::gp(0));
    }
    let linear = truncate(st, st.tr.base.wrapping_add(u64::from(at)));
    let byte = bus.read_linear(st, linear, 1, Privilege::Supervisor)?;
    Ok(byte >> (n & 7) & 1 == 0)
}

/// Delivers INT n to the 8086 program through the vector table at linear address 0.
pub(crate) fn interrupt(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    n: u8,
    next_rip: u64,
) -> Result<(), Exception> {
    let entry = bus.read_linear(st, u64::from(n) * 4, 4, Privilege::Current)?;
    let image = pushed_flags(st);
    let mut stack = Stack::current(st);
    stack.push(st, bus, 2, image & 0xffff)?;
    stack.push(st, bus, 2, u64::from(st.seg[seg::CS].selector))?;
    stack.push(st, bus, 2, next_rip & 0xffff)?;
    stack.commit(st);
    if iopl(st) == 3 {
        st.rflags &= !flags::IF;
    } else {
        st.rflags &= !flags::VIF;
    }
    st.rflags &= !(flags::TF | flags::RF);
    st.seg[seg::CS] = vm86_segment((entry >> 16) as u16);
    st.rip = entry & 0xffff;
    st.interrupt_shadow = 0;
    st.mode = st.compute_mode();
    Ok(())
}

/// RFLAGS as PUSHF and INT n show them under VME: with IOPL < 3, IF shows VIF and IOPL shows 3.
pub(crate) fn pushed_flags(st: &X86State) -> u64 {
    let f = st.rflags();
    if iopl(st) == 3 {
        return f;
    }
    let virtual_if = if f & flags::VIF != 0 { flags::IF } else { 0 };
    f & !flags::IF | flags::IOPL | virtual_if
}

//! PUSHF, POPF, CLI and STI where privilege matters, and the interrupt shadow.

use rhea_x86_state::X86State;
use rhea_x86_state::control::cr4;
use rhea_x86_state::flags;

use crate::descriptor::{is_protected, is_vm86};
use crate::exception::Exception;
use crate::segment::iopl;
use crate::vme;

/// What PUSHF of `size` bytes pushes: RF and VM read as zero.
pub fn pushf_value(st: &X86State, size: u8) -> Result<u64, Exception> {
    let visible = !(flags::RF | flags::VM);
    if is_vm86(st) && iopl(st) < 3 {
        if size != 2 || st.cr[4] & cr4::VME == 0 {
            return Err(Exception::gp(0));
        }
        return Ok(vme::pushed_flags(st) & visible & 0xffff);
    }
    let f = st.rflags() & visible;
    Ok(if size == 2 { f & 0xffff } else { f })
}

/// POPF of `size` bytes: sets the flags that this privilege level may change.
pub fn popf_value(st: &mut X86State, value: u64, size: u8) -> Result<(), Exception> {
    let mut mask = flags::ARITHMETIC | flags::TF | flags::DF | flags::NT;
    if size != 2 {
        mask |= flags::AC | flags::ID;
    }
    if is_vm86(st) {
        if iopl(st) == 3 {
            mask |= flags::IF;
        } else {
            let pending = value & flags::IF != 0 && st.rflags & flags::VIP != 0;
            if size != 2 || st.cr[4] & cr4::VME == 0 || pending || value & flags::TF != 0 {
                return Err(Exception::gp(0));
            }
            vme::set_vif(st, value & flags::IF != 0);
        }
    } else {
        let cpl = st.cpl();
        if cpl <= iopl(st) {
            mask |= flags::IF;
        }
        if cpl == 0 {
            mask |= flags::IOPL;
        }
    }
    let mut merged = st.rflags() & !mask | value & mask;
    // RF is cleared by POPF in every mode.
    merged &= !flags::RF;
    st.set_rflags(merged);
    st.mode = st.compute_mode();
    Ok(())
}

fn may_change_if(st: &X86State) -> bool {
    if is_vm86(st) { iopl(st) == 3 } else { !is_protected(st) || st.cpl() <= iopl(st) }
}

/// CLI.
pub fn cli(st: &mut X86State) -> Result<(), Exception> {
    if may_change_if(st) {
        st.rflags &= !flags::IF;
    } else if vme::virtualizes_if(st) {
        vme::set_vif(st, false);
    } else {
        return Err(Exception::gp(0));
    }
    Ok(())
}

/// STI: IF is set, and interrupts stay blocked for one instruction if it was clear.
pub fn sti(st: &mut X86State) -> Result<(), Exception> {
    if may_change_if(st) {
        if st.rflags & flags::IF == 0 {
            st.rflags |= flags::IF;
            set_interrupt_shadow(st);
        }
    } else if vme::virtualizes_if(st) && st.rflags & flags::VIP == 0 {
        vme::set_vif(st, true);
    } else {
        return Err(Exception::gp(0));
    }
    Ok(())
}

/// After STI, MOV SS and POP SS: interrupts and debug traps wait until the next instruction has completed.
pub fn set_interrupt_shadow(st: &mut X86State) {
    st.interrupt_shadow = 1;
    st.mode = st.compute_mode();
}

/// The instruction in the shadow has completed.
pub fn clear_interrupt_shadow(st: &mut X86State) {
    st.interrupt_shadow = 0;
    st.mode = st.compute_mode();
}

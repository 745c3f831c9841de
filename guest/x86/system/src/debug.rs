//! Debug registers, breakpoints and single step (SDM vol. 3, chapter 18).

use rhea_x86_state::X86State;
use rhea_x86_state::control::{cr4, dr6, dr7};
use rhea_x86_state::flags;

use crate::control::require_cpl0;
use crate::exception::Exception;

/// What a breakpoint watches, DR7.R/Wn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Instruction fetch (0).
    Execute,
    /// Data write (1).
    Write,
    /// I/O (2), with CR4.DE.
    Io,
    /// Data read or write (3).
    Access,
}

/// The register that MOV DRn means: DR4 and DR5 are DR6 and DR7 unless CR4.DE is set, then #UD.
fn register(st: &X86State, n: u8) -> Result<usize, Exception> {
    match n {
        0..=3 | 6 | 7 => Ok(usize::from(n)),
        4 | 5 if st.cr[4] & cr4::DE == 0 => Ok(usize::from(n) + 2),
        _ => Err(Exception::ud()),
    }
}

fn check_access(st: &X86State, n: u8) -> Result<usize, Exception> {
    let register = register(st, n)?;
    require_cpl0(st)?;
    if st.dr[7] & dr7::GD != 0 {
        return Err(Exception::debug_fault(dr6::BD));
    }
    Ok(register)
}

/// MOV from DRn.
pub fn read_dr(st: &X86State, n: u8) -> Result<u64, Exception> {
    Ok(st.dr[check_access(st, n)?])
}

/// MOV to DRn. Outside 64-bit mode `value` is zero-extended.
pub fn write_dr(st: &mut X86State, n: u8, value: u64) -> Result<(), Exception> {
    let register = check_access(st, n)?;
    if register >= 6 && value >> 32 != 0 {
        return Err(Exception::gp(0));
    }
    st.dr[register] = match register {
        6 => value & 0xe00f | dr6::FIXED_ONES,
        7 => value & !0xd800 | dr7::FIXED_ONES,
        _ => value,
    };
    // This instruction completes, so RF is clear; nobody has tracked that while no breakpoint was armed.
    st.rflags &= !flags::RF;
    st.mode = st.compute_mode();
    Ok(())
}

/// Length in bytes that DR7.LENn means.
fn length(len: u64) -> u64 {
    match len & 3 {
        0 => 1,
        1 => 2,
        2 => 8,
        _ => 4,
    }
}

/// The DR6 bits (B0 to B3) of the enabled breakpoints that an access of `size` bytes at `address` meets; `address` is
/// linear, or a port for [`Watch::Io`]. `Access` is for reads: it meets R/W=3; `Write` meets R/W=1 and 3.
pub fn matching(st: &X86State, watch: Watch, address: u64, size: u64) -> u64 {
    let dr7v = st.dr[7];
    let mut hits = 0;
    for i in 0..4 {
        if dr7v >> (2 * i) & 3 == 0 {
            continue;
        }
        let kind = dr7v >> (16 + 4 * i) & 3;
        let meets = match watch {
            Watch::Execute => kind == 0,
            Watch::Write => kind == 1 || kind == 3,
            Watch::Io => kind == 2 && st.cr[4] & cr4::DE != 0,
            Watch::Access => kind == 3,
        };
        let width = length(dr7v >> (18 + 4 * i));
        let start = st.dr[i] & !(width - 1);
        // Distances instead of ends: neither range may wrap into a false match.
        if meets && (address.wrapping_sub(start) < width || start.wrapping_sub(address) < size) {
            hits |= 1 << i;
        }
    }
    hits
}

/// Before an instruction at linear address `linear` while instruction breakpoints are armed: the fault to raise.
pub fn check_execute(st: &X86State, linear: u64) -> Result<(), Exception> {
    if st.rflags & flags::RF != 0 || st.interrupt_shadow != 0 {
        return Ok(());
    }
    match matching(st, Watch::Execute, linear, 1) {
        0 => Ok(()),
        hits => Err(Exception::debug_fault(hits)),
    }
}

/// After an instruction has completed: clears RF (unless the instruction was an IRET or task switch that loaded it)
/// and gives the trap for what it met (`data_hits`, from [`matching`]) and for single step (`stepped`: RFLAGS.TF was
/// set when the instruction began; INT n, INT3, INTO and SYSCALL count as not stepped when they cleared TF).
pub fn after_instruction(
    st: &mut X86State,
    data_hits: u64,
    stepped: bool,
    loaded_rf: bool,
) -> Option<Exception> {
    if !loaded_rf {
        st.rflags &= !flags::RF;
    }
    let bits = data_hits | if stepped { dr6::BS } else { 0 };
    (bits != 0).then(|| Exception::debug_trap(bits))
}

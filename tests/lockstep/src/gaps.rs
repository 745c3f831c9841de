//! Known defects: differences from the host that are not reported again. Each has its own condition, as narrow as it
//! can be, so that it goes when the defect does. With the environment variable `RHEA_LOCKSTEP_GAPS` set they are
//! reported all the same.
//!
//! Not generated at all, and so not listed below: unmasked overflow and underflow exceptions of SSE and x87 (Rhea looks
//! at the flags of the masked operation, which do not show an exact tiny result, and show an inexact one in addition),
//! bytes that are no instruction and 15 or more (#UD and #GP), and C1 of the x87 status word after rounding up.

use iced_x86::{FlowControl, Instruction, MemorySize};

use crate::generate::Case;
use crate::place;
use crate::state::{Ended, Mode, State};

/// The known defect that explains a difference in `case`, if one does.
pub fn known(case: &Case, insn: &Instruction, left: &Ended, right: &Ended) -> Option<&'static str> {
    if std::env::var_os("RHEA_LOCKSTEP_GAPS").is_some() {
        // To see what is left of them.
        return None;
    }
    if is_canonical_gap(insn, left, right) {
        return Some("a branch to a non-canonical address faults at its target instead of at the branch");
    }
    if converts_first(case, insn) {
        return Some("x87 arithmetic on m32/m64 converts the operand first: DE and the SNaN rule are off");
    }
    if case.state.rflags & crate::state::AC != 0 && left.trap.vector == 13 && right.trap.vector == 17 {
        return Some("#AC comes before #GP for an address that is neither aligned nor canonical");
    }
    if case.mode == Mode::Compat && left.trap.vector == 16 && matches!(right.trap.vector, 12 | 13) {
        return Some("a segment check comes before the pending x87 exception");
    }
    if starts_wide(case, insn, left) {
        return Some(
            "REP with 32-bit addresses in 64-bit mode clears upper halves before the first iteration",
        );
    }
    None
}

fn is_canonical_gap(insn: &Instruction, left: &Ended, right: &Ended) -> bool {
    matches!(
        insn.flow_control(),
        FlowControl::IndirectBranch | FlowControl::IndirectCall | FlowControl::Return
    ) && left.trap.vector == 13
        && right.trap.vector == 13
        && left.state.rip == insn.ip()
}

/// The m32 or m64 operand of `insn` in the start data is a denormal or a signalling NaN.
fn converts_first(case: &Case, insn: &Instruction) -> bool {
    if !crate::undefined::is_x87(insn) {
        return false;
    }
    let single = insn.memory_size() == MemorySize::Float32;
    if !single && insn.memory_size() != MemorySize::Float64 {
        return false;
    }
    let Some(at) = address(insn, &case.state) else { return false };
    let mut bytes = [0u8; 8];
    for (i, b) in bytes.iter_mut().enumerate() {
        let at = at.wrapping_add(i as u64);
        *b = match at.checked_sub(place::DATA) {
            Some(o) if o < place::DATA_LEN as u64 => case.data[o as usize],
            Some(o) if o < (place::DATA_LEN + place::READ_ONLY_LEN) as u64 => {
                place::read_only_byte(o as usize - place::DATA_LEN)
            }
            // Code, or nothing at all.
            _ => return true,
        };
    }
    let v = u64::from_le_bytes(bytes);
    let (exponent, fraction, quiet) = if single {
        (v >> 23 & 0xff, v & 0x7f_ffff, v & 0x40_0000 != 0)
    } else {
        (v >> 52 & 0x7ff, v & 0xf_ffff_ffff_ffff, v & 0x8_0000_0000_0000 != 0)
    };
    let all_ones = if single { 0xff } else { 0x7ff };
    fraction != 0 && (exponent == 0 || exponent == all_ones && !quiet)
}

/// The address of the memory operand of `insn` in the state `state`.
pub fn address(insn: &Instruction, state: &State) -> Option<u64> {
    insn.virtual_address(0, 0, |r, _, _| {
        if r.is_segment_register() {
            return Some(0);
        }
        let v = *state.gpr.get(r.full_register().number())?;
        Some(if r.is_gpr32() { u64::from(v as u32) } else { v })
    })
}

fn starts_wide(case: &Case, insn: &Instruction, left: &Ended) -> bool {
    insn.is_string_instruction()
        && case.mode == Mode::Long
        && (insn.has_rep_prefix() || insn.has_repne_prefix())
        && left.state.rip == insn.ip()
        && left.trap.vector != 6
        && case.code.contains(&0x67)
}

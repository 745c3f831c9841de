//! What the manuals leave undefined, and is therefore not compared.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, RflagsBits};

use crate::generate::Case;
use crate::state::{Ended, FLAGS, Mode, State};

/// RFLAGS positions of iced's flag bits.
fn in_rflags(bits: u32) -> u64 {
    [
        (RflagsBits::OF, 11),
        (RflagsBits::SF, 7),
        (RflagsBits::ZF, 6),
        (RflagsBits::AF, 4),
        (RflagsBits::CF, 0),
        (RflagsBits::PF, 2),
        (RflagsBits::DF, 10),
    ]
    .iter()
    .filter(|(b, _)| bits & b != 0)
    .map(|(_, at)| 1 << at)
    .sum()
}

/// Width in bits of the first operand.
fn width(insn: &Instruction) -> u64 {
    match insn.op0_kind() {
        OpKind::Register => insn.op0_register().size() as u64 * 8,
        _ => insn.memory_size().size() as u64 * 8,
    }
}

/// The count of a shift or rotation of `insn`, masked as the processor does.
fn count(insn: &Instruction, start: &State) -> u64 {
    let last = insn.op_count() - 1;
    let raw = if insn.op_kind(last) == OpKind::Register { start.gpr[1] & 0xff } else { insn.immediate(last) };
    raw & if width(insn) == 64 { 63 } else { 31 }
}

/// RFLAGS bits that `insn` leaves undefined when it starts from `start`.
pub fn flags(insn: &Instruction, start: &State) -> u64 {
    use Mnemonic as M;
    let mut mask = in_rflags(insn.rflags_undefined());
    match insn.mnemonic() {
        M::Shl | M::Shr | M::Sal | M::Shld | M::Shrd if count(insn, start) >= width(insn) => {
            mask |= FLAGS & !0x400
        }
        M::Sar if count(insn, start) > width(insn) => mask |= 1,
        M::Rcl | M::Rcr | M::Rol | M::Ror | M::Sar if count(insn, start) > 1 => mask |= 1 << 11,
        _ => {}
    }
    mask
}

/// The destination may be undefined (depending on operands), so nothing may depend on it.
pub fn result_is_undefined(insn: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        insn.mnemonic(),
        M::Bsf | M::Bsr | M::Shld | M::Shrd | M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss
    ) || is_approximate(insn)
        || insn.mnemonic() == M::Bswap && width(insn) == 16
}

/// Instructions whose outcome may depend on the maker, or meets a known defect, and which are only compared alone.
pub fn only_alone(insn: &Instruction) -> bool {
    use Mnemonic as M;
    use iced_x86::MemorySize as Size;
    result_is_undefined(insn)
        || stores_status(insn)
        || is_x87(insn) && matches!(insn.memory_size(), Size::Float32 | Size::Float64)
        || matches!(
            insn.mnemonic(),
            M::Sha1msg1
                | M::Sha1msg2
                | M::Sha1nexte
                | M::Sha1rnds4
                | M::Sha256msg1
                | M::Sha256msg2
                | M::Sha256rnds2
                | M::Maskmovq
                | M::Maskmovdqu
                | M::Vmaskmovdqu
                | M::Ldmxcsr
                | M::Vldmxcsr
                | M::Movsxd
                | M::Popf
                | M::Popfd
                | M::Popfq
                | M::Enter
                | M::Dpps
                | M::Dppd
                | M::Vdpps
                | M::Vdppd
                | M::Cmpxchg
        )
}

/// The result is an approximation within a bound that the manual gives.
pub fn is_approximate(insn: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        insn.mnemonic(),
        M::Rcpps
            | M::Rcpss
            | M::Rsqrtps
            | M::Rsqrtss
            | M::Vrcpps
            | M::Vrcpss
            | M::Vrsqrtps
            | M::Vrsqrtss
            | M::F2xm1
            | M::Fyl2x
            | M::Fyl2xp1
            | M::Fptan
            | M::Fpatan
            | M::Fsin
            | M::Fcos
            | M::Fsincos
    )
}

/// Whether `insn` is one of the x87's (MMX is not).
pub fn is_x87(insn: &Instruction) -> bool {
    use iced_x86::CpuidFeature as F;
    insn.cpuid_features().iter().any(|f| matches!(f, F::FPU | F::FPU287 | F::FPU387))
        || insn.mnemonic() == Mnemonic::Fisttp
}

/// x87 condition codes (status word bits) that `insn` defines; the others are undefined after it.
///
/// C1 also tells whether an inexact result was rounded up, which Rhea does not keep: it is not compared there.
fn x87_defined(insn: &Instruction) -> u16 {
    use Mnemonic as M;
    const C0: u16 = 0x100;
    const C1: u16 = 0x200;
    const C2: u16 = 0x400;
    const C3: u16 = 0x4000;
    match insn.mnemonic() {
        M::Fcom
        | M::Fcomp
        | M::Fcompp
        | M::Fucom
        | M::Fucomp
        | M::Fucompp
        | M::Ficom
        | M::Ficomp
        | M::Ftst => C0 | C2 | C3,
        M::Fxam | M::Fprem | M::Fprem1 => C0 | C1 | C2 | C3,
        M::Fsin | M::Fcos | M::Fsincos | M::Fptan => C2,
        _ if leaves_status(insn) => C0 | C1 | C2 | C3,
        _ => 0,
    }
}

/// Whether an x87 instruction does not touch the condition codes.
fn leaves_status(insn: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(insn.mnemonic(), M::Fldcw | M::Fnstcw | M::Fnstsw | M::Fstsw | M::Fstcw | M::Fnop | M::Wait)
}

/// Whether `insn` stores the status word, undefined condition codes included.
pub fn stores_status(insn: &Instruction) -> bool {
    matches!(insn.mnemonic(), Mnemonic::Fnstsw | Mnemonic::Fstsw)
}

/// Which pages above 4 GiB are present, perhaps for the kernel only, is the host's affair.
fn mask_present_above(left: &Ended, right: &mut Ended) {
    if left.trap.vector == 14 && left.trap.address >> 32 != 0 && right.trap.vector == 14 {
        right.trap.error_code = right.trap.error_code & !1 | left.trap.error_code & 1;
    }
}

/// Whether processors of different makers do different things in the case of `insn` that ended as `left`.
pub fn depends_on_maker(insn: &Instruction, start: &State, left: &Ended) -> bool {
    use Mnemonic as M;
    if insn.code() == Code::INVALID {
        // No instruction here; but perhaps one of the host's.
        return left.trap.vector != 6 || left.state.rip != start.rip;
    }
    match insn.mnemonic() {
        // Whether unaligned memory operands are faults.
        M::Sha1msg1
        | M::Sha1msg2
        | M::Sha1nexte
        | M::Sha1rnds4
        | M::Sha256msg1
        | M::Sha256msg2
        | M::Sha256rnds2 => insn.memory_size() != iced_x86::MemorySize::Unknown,
        // Whether bytes that are masked out can fault, and whether MMX state is entered before the fault.
        M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu => matches!(left.trap.vector, 12..=14 | 17),
        // With REX.B, F3 90 is an exchange with R8 on some.
        M::Pause => left.state.gpr != start.gpr,
        // MXCSR.MM (misaligned SSE mode), bit 17.
        M::Ldmxcsr | M::Vldmxcsr => left.state.mxcsr & 1 << 17 != 0,
        // The 16-bit form reads 16 or 32 bits.
        M::Movsxd => width(insn) == 16 && left.trap.vector != 6,
        // Some of the accesses of these are not subject to alignment checks.
        M::Enter => start.rflags & crate::state::AC != 0,
        _ => false,
    }
}

/// Whether an access beyond the last byte of a 4 GiB segment is a fault of the segment or wraps is the processor's
/// choice (SDM vol. 3, 5.3).
pub fn wraps(case: &Case, left: &Ended, right: &Ended) -> bool {
    case.mode == Mode::Compat
        && matches!(left.trap.vector, 12 | 13)
        && right.trap.vector == 14
        && right.trap.address >= 0xffff_ffe0
        && left.state.rip == right.state.rip
}

/// Makes the parts of `right` that the manual leaves undefined after `insn` (started from `start`) those of `left`.
pub fn mask(insn: &Instruction, start: &State, left: &Ended, right: &mut Ended) {
    use Mnemonic as M;
    mask_present_above(left, right);
    mask_image(insn, start, left, right);
    if matches!(insn.mnemonic(), Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq)
        && matches!(left.trap.vector, 12..=14 | 17)
        && matches!(right.trap.vector, 12..=14 | 17)
    {
        // Which of the two operands is read first is the processor's choice.
        right.trap = left.trap;
    }
    let ended_after = left.trap.vector == 6 || left.state.rip != start.rip;
    if !ended_after {
        return;
    }
    let take = flags(insn, start);
    right.state.rflags = right.state.rflags & !take | left.state.rflags & take;
    let x87 = is_x87(insn);
    if x87 {
        let keep = x87_defined(insn);
        let take = 0x4700 & !keep;
        right.state.x87.status = right.state.x87.status & !take | left.state.x87.status & take;
    }
    match insn.mnemonic() {
        M::Shld | M::Shrd if count(insn, start) > width(insn) => {
            take_destination(insn, left, right);
        }
        // When the comparison fails, a 32-bit register destination is written with itself (and so loses its upper
        // half) on some processors, and not written on others.
        M::Cmpxchg if width(insn) == 32 && insn.op0_kind() == OpKind::Register => {
            let n = insn.op0_register().full_register().number();
            let (l, r) = (left.state.gpr[n], right.state.gpr[n]);
            if l as u32 == r as u32 && left.state.rflags & 0x40 == 0 {
                right.state.gpr[n] = l;
            }
        }
        // Which of the internal steps still set flags when one of them faults.
        M::Dpps | M::Dppd | M::Vdpps | M::Vdppd if left.trap.vector == 19 => {
            right.state.mxcsr = left.state.mxcsr;
        }
        M::Bsf | M::Bsr => take_zero_source(insn, left, right),
        M::Bswap if width(insn) == 16 => take_destination(insn, left, right),
        _ if is_approximate(insn) => take_approximation(left, right),
        _ => {}
    }
}

/// As [`mask`] for a case of several instructions.
pub fn mask_stream(case: &Case, left: &Ended, right: &mut Ended) {
    mask_present_above(left, right);
    if let [_, insn] = &case.instructions[..] {
        // FWAIT and the instruction it belongs to.
        mask_image(insn, &case.state, left, right);
    }
    let mut open = 0;
    let mut x87_open = 0;
    for insn in &case.instructions {
        if insn.ip() >= left.state.rip && !case.loops {
            break;
        }
        // Counts and operands inside a stream are not known here: every flag that may be undefined is left out.
        let worst = in_rflags(insn.rflags_undefined()) | if is_shift(insn) { FLAGS & !0x400 } else { 0 };
        let modified = if case.loops { 0 } else { insn.rflags_modified() };
        open = open & !in_rflags(modified) | worst;
        if is_x87(insn) && !leaves_status(insn) {
            x87_open = if case.loops { 0x4700 } else { 0x4700 & !x87_defined(insn) };
        }
    }
    if left.trap.vector == 6 && case.loops {
        // The loop ends with instructions that define every flag.
        open = 0;
    }
    right.state.rflags = right.state.rflags & !open | left.state.rflags & open;
    right.state.x87.status = right.state.x87.status & !x87_open | left.state.x87.status & x87_open;
}

/// Shifts and rotations, which leave the flags alone when the count is zero.
pub fn is_shift(insn: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        insn.mnemonic(),
        M::Shl | M::Shr | M::Sal | M::Sar | M::Shld | M::Shrd | M::Rcl | M::Rcr | M::Rol | M::Ror
    )
}

/// Fields of an x87 or SSE image that processors fill differently: the last instruction's opcode, its address and its
/// operand's, and MXCSR_MASK.
fn mask_image(insn: &Instruction, start: &State, left: &Ended, right: &mut Ended) {
    use Mnemonic as M;
    let fields: &[(u64, u64)] = match insn.mnemonic() {
        M::Fxsave | M::Fxsave64 => &[(6, 24), (28, 32)],
        M::Fnstenv | M::Fnsave
            if insn.memory_size().size().is_multiple_of(14)
                && !insn.memory_size().size().is_multiple_of(4) =>
        {
            &[(6, 14)]
        }
        M::Fnstenv => &[(12, 28)],
        M::Fnsave if insn.memory_size().size() == 94 => &[(6, 14)],
        M::Fnsave => &[(12, 28)],
        M::Fldenv | M::Frstor | M::Fxrstor | M::Fxrstor64 => &[],
        _ => return,
    };
    if left.trap.vector == 14 && right.trap.vector == 14 {
        // Which part is accessed first, and how much is done before the fault, is the processor's choice.
        right.trap = left.trap;
        right.data.clone_from(&left.data);
        return;
    }
    if left.trap.vector == 17 && right.trap.vector == 13 {
        // With alignment checking, #AC may come in place of #GP.
        right.trap = left.trap;
    }
    let Some(at) = crate::gaps::address(insn, start) else { return };
    for &(from, to) in fields {
        for i in from..to {
            let offset = at.wrapping_add(i).wrapping_sub(crate::place::DATA) as usize;
            if let (Some(l), Some(r)) = (left.data.get(offset), right.data.get_mut(offset)) {
                *r = *l;
            }
        }
    }
}

fn take_destination(insn: &Instruction, left: &Ended, right: &mut Ended) {
    if insn.op0_kind() == OpKind::Register {
        let n = insn.op0_register().full_register().number();
        right.state.gpr[n] = left.state.gpr[n];
    } else {
        right.data.clone_from(&left.data);
    }
}

/// A zero source leaves the destination of BSF and BSR undefined.
fn take_zero_source(insn: &Instruction, left: &Ended, right: &mut Ended) {
    if left.state.rflags & 0x40 != 0 {
        take_destination(insn, left, right);
    }
}

fn close32(a: u32, b: u32) -> bool {
    let (x, y) = (f32::from_bits(a), f32::from_bits(b));
    if x.is_nan() || y.is_nan() || x.is_infinite() || y.is_infinite() || x == 0.0 || y == 0.0 {
        // Results near the edge of the range may or may not be flushed.
        return a == b
            || x == y
            || x.abs().min(y.abs()) < 2.0 * f32::MIN_POSITIVE && x.abs().max(y.abs()) < 1e-37;
    }
    // Relative error at most 1.5 * 2^-12 on each side.
    (f64::from(x) / f64::from(y) - 1.0).abs() <= 2.0 * 1.5 / 4096.0
}

fn close80(a: (u64, u16), b: (u64, u16)) -> bool {
    let distance = (i128::from(a.0) - i128::from(b.0)).abs();
    a.1 == b.1 && distance <= 2 || a.1.abs_diff(b.1) == 1 && a.0.wrapping_sub(b.0).wrapping_add(4) <= 8
}

/// Approximations agree when both are within the documented error of each other.
fn take_approximation(left: &Ended, right: &mut Ended) {
    for (l, r) in left.state.vec.iter().flatten().zip(right.state.vec.iter_mut().flatten()) {
        if close32(*l as u32, *r as u32) && close32((*l >> 32) as u32, (*r >> 32) as u32) {
            *r = *l;
        }
    }
    for (l, r) in left.state.x87.st.iter().zip(&mut right.state.x87.st) {
        if close80(*l, *r) {
            *r = *l;
        }
    }
    // Whether an approximation was inexact is up to it.
    right.state.x87.status = right.state.x87.status & !0x30 | left.state.x87.status & 0x30;
}

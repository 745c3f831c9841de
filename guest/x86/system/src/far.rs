//! Far JMP, CALL and RET, with call gates and tasks (SDM vol. 2, CALL, JMP, RET; vol. 3, 6.8).

use rhea_x86_state::X86State;
use rhea_x86_state::state::{Segment, attr, gpr, seg};

use crate::bus::{Privilege, SystemBus};
use crate::descriptor::{
    Descriptor, fetch, fetch_or_gp, fetch_upper, is_long, is_null, is_protected, is_vm86, mark_accessed, rpl,
    selector_code, system_type, truncate,
};
use crate::exception::Exception;
use crate::paging::is_canonical;
use crate::segment::{drop_inaccessible, load_real, null_stack_segment, vm86_segment};
use crate::stack::{Stack, stack_mask, store_sp};
use crate::task::{self, TaskSwitch};

/// The mask of an instruction pointer or stack slot of `size` bytes.
#[inline]
pub(crate) const fn width_mask(size: u8) -> u64 {
    u64::MAX >> (64 - 8 * size as u32)
}

/// Checks a new instruction pointer against its code segment: canonical in 64-bit mode, else inside the limit.
#[inline]
pub(crate) fn check_ip(st: &X86State, cs: &Segment, rip: u64) -> Result<(), Exception> {
    let inside =
        if is_long(st) && cs.attr & attr::L != 0 { is_canonical(rip) } else { rip <= u64::from(cs.limit) };
    if inside { Ok(()) } else { Err(Exception::gp(0)) }
}

/// A code segment descriptor in long mode cannot have L and D both set.
#[inline]
fn bad_long_code(st: &X86State, d: &Descriptor) -> bool {
    is_long(st) && d.high() & (attr::L | attr::DB) == attr::L | attr::DB
}

/// Loads CS and RIP outside protected mode.
fn load_real_cs(st: &mut X86State, selector: u16, rip: u64) {
    if is_vm86(st) {
        st.seg[seg::CS] = vm86_segment(selector);
    } else {
        load_real(&mut st.seg[seg::CS], selector, attr::CODE);
    }
    st.rip = rip;
    st.mode = st.compute_mode();
}

/// Makes `cs` (already checked) the code segment; SS keeps the privilege level.
#[inline]
fn enter(st: &mut X86State, cs: Segment, rip: u64) {
    st.seg[seg::CS] = cs;
    st.rip = rip;
    st.mode = st.compute_mode();
}

/// Far JMP to `selector:offset` with an operand size of 2, 4 or 8 bytes. `next_rip` is the address of the instruction
/// after it (a task switch saves it).
pub fn jump(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    selector: u16,
    offset: u64,
    size: u8,
    next_rip: u64,
) -> Result<(), Exception> {
    let offset = offset & width_mask(size);
    if !is_protected(st) {
        if offset > u64::from(st.seg[seg::CS].limit) && !is_vm86(st) || is_vm86(st) && offset > 0xffff {
            return Err(Exception::gp(0));
        }
        load_real_cs(st, selector, offset);
        return Ok(());
    }
    if is_null(selector) {
        return Err(Exception::gp(0));
    }
    let mut d = fetch_or_gp(st, bus, selector, 0)?;
    if d.is_system() {
        return through_system(st, bus, selector, &d, Transfer::Jump, next_rip);
    }
    let cs = check_direct(st, &d, selector)?;
    let offset = if cs.attr & attr::L != 0 && is_long(st) { offset } else { offset & 0xffff_ffff };
    check_ip(st, &cs, offset)?;
    mark_accessed(st, bus, &mut d)?;
    enter(st, Segment { attr: cs.attr | attr::A, ..cs }, offset);
    Ok(())
}

/// Far CALL to `selector:offset`; pushes CS and `next_rip`.
pub fn call(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    selector: u16,
    offset: u64,
    size: u8,
    next_rip: u64,
) -> Result<(), Exception> {
    let offset = offset & width_mask(size);
    let old_cs = u64::from(st.seg[seg::CS].selector);
    if !is_protected(st) {
        let mut stack = Stack::current(st);
        stack.push(st, bus, size, old_cs)?;
        stack.push(st, bus, size, next_rip & width_mask(size))?;
        if offset > u64::from(st.seg[seg::CS].limit) {
            return Err(Exception::gp(0));
        }
        stack.commit(st);
        load_real_cs(st, selector, offset);
        return Ok(());
    }
    if is_null(selector) {
        return Err(Exception::gp(0));
    }
    let mut d = fetch_or_gp(st, bus, selector, 0)?;
    if d.is_system() {
        return through_system(st, bus, selector, &d, Transfer::Call, next_rip);
    }
    let cs = check_direct(st, &d, selector)?;
    let offset = if cs.attr & attr::L != 0 && is_long(st) { offset } else { offset & 0xffff_ffff };
    // The pushes are made with the old stack width, before CS changes.
    let mut stack = Stack::current(st);
    stack.push(st, bus, size, old_cs)?;
    stack.push(st, bus, size, next_rip & width_mask(size))?;
    check_ip(st, &cs, offset)?;
    mark_accessed(st, bus, &mut d)?;
    stack.commit(st);
    enter(st, Segment { attr: cs.attr | attr::A, ..cs }, offset);
    Ok(())
}

/// Checks a code segment that is the direct target of a far JMP or CALL; CS.RPL becomes CPL.
fn check_direct(st: &X86State, d: &Descriptor, selector: u16) -> Result<Segment, Exception> {
    let code = selector_code(selector);
    let cpl = st.cpl();
    let allowed = if d.is_conforming() { d.dpl() <= cpl } else { rpl(selector) <= cpl && d.dpl() == cpl };
    if !d.is_code() || !allowed || bad_long_code(st, d) {
        return Err(Exception::gp(code));
    }
    if !d.present() {
        return Err(Exception::np(code));
    }
    Ok(d.segment(selector & !3 | u16::from(cpl)))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transfer {
    Jump,
    Call,
}

/// Far JMP or CALL to a system descriptor: call gate, task gate or TSS.
fn through_system(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    selector: u16,
    d: &Descriptor,
    transfer: Transfer,
    next_rip: u64,
) -> Result<(), Exception> {
    use system_type::*;
    let code = selector_code(selector);
    let long = is_long(st);
    let legacy_only = matches!(d.kind(), TSS16_AVAILABLE | TSS32_AVAILABLE | TASK_GATE | CALL_GATE16);
    if !legacy_only && d.kind() != CALL_GATE32 || legacy_only && long {
        return Err(Exception::gp(code));
    }
    if d.dpl() < st.cpl() || d.dpl() < rpl(selector) {
        return Err(Exception::gp(code));
    }
    if !d.present() {
        return Err(Exception::np(code));
    }
    let kind = if transfer == Transfer::Call { TaskSwitch::Call } else { TaskSwitch::Jump };
    match d.kind() {
        TSS16_AVAILABLE | TSS32_AVAILABLE => task::switch(st, bus, selector, kind, next_rip, 0),
        TASK_GATE => task::switch(st, bus, d.gate_selector(), kind, next_rip, 0),
        _ => through_call_gate(st, bus, selector, d, transfer, next_rip),
    }
}

/// A call gate with its target judged.
struct CallGate {
    /// Code segment with RPL = the new privilege level.
    cs: Segment,
    offset: u64,
    /// Bytes a push takes: 2, 4 or 8.
    size: u8,
    /// Parameters to copy (not in long mode).
    parameters: u8,
    /// The new privilege level.
    level: u8,
}

fn through_call_gate(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    gate_selector: u16,
    gate: &Descriptor,
    transfer: Transfer,
    next_rip: u64,
) -> Result<(), Exception> {
    let long = is_long(st);
    let selector = gate.gate_selector();
    let mut offset = gate.gate_offset();
    if long {
        let gate_code = selector_code(gate_selector);
        let upper = fetch_upper(st, bus, gate_selector, gate)?.ok_or(Exception::gp(gate_code))?;
        if upper >> 40 & 0x1f != 0 {
            return Err(Exception::gp(gate_code));
        }
        offset |= upper << 32;
    } else if gate.kind() == system_type::CALL_GATE16 {
        offset &= 0xffff;
    }
    if is_null(selector) {
        return Err(Exception::gp(0));
    }
    let code = selector_code(selector);
    let mut d = fetch_or_gp(st, bus, selector, 0)?;
    let cpl = st.cpl();
    let inner = transfer == Transfer::Call && !d.is_conforming() && d.dpl() < cpl;
    let allowed =
        if d.is_conforming() || transfer == Transfer::Call { d.dpl() <= cpl } else { d.dpl() == cpl };
    let wrong_width = long && d.high() & (attr::L | attr::DB) != attr::L;
    if !d.is_code() || !allowed || wrong_width {
        return Err(Exception::gp(code));
    }
    if !d.present() {
        return Err(Exception::np(code));
    }
    let level = if inner { d.dpl() } else { cpl };
    let size = match gate.kind() {
        _ if long => 8,
        system_type::CALL_GATE16 => 2,
        _ => 4,
    };
    let mut g = CallGate {
        cs: d.segment(selector & !3 | u16::from(level)),
        offset,
        size,
        parameters: if long { 0 } else { (gate.high() & 0x1f) as u8 },
        level,
    };
    g.cs.attr |= attr::A;
    if transfer == Transfer::Jump {
        check_ip(st, &g.cs, g.offset)?;
        mark_accessed(st, bus, &mut d)?;
        enter(st, g.cs, g.offset);
        return Ok(());
    }
    if inner {
        call_inner(st, bus, &g, &mut d, next_rip)
    } else {
        let mut stack = Stack::current(st);
        stack.push(st, bus, g.size, u64::from(st.seg[seg::CS].selector))?;
        stack.push(st, bus, g.size, next_rip & width_mask(g.size))?;
        check_ip(st, &g.cs, g.offset)?;
        mark_accessed(st, bus, &mut d)?;
        stack.commit(st);
        enter(st, g.cs, g.offset);
        Ok(())
    }
}

/// A call gate to a more privileged level: new stack from the TSS, old stack pointer and parameters pushed.
fn call_inner(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    g: &CallGate,
    d: &mut Descriptor,
    next_rip: u64,
) -> Result<(), Exception> {
    let old = Stack::current(st);
    let old_rsp = st.gpr[gpr::RSP];
    let old_ss = st.seg[seg::SS].selector;
    let (mut stack, ss) = if is_long(st) {
        let rsp = rsp_from_tss(st, bus, 4 + 8 * u32::from(g.level), 0)?;
        (Stack::new64(rsp, g.level, 0), null_stack_segment(g.level))
    } else {
        let (segment, sp) = inner_stack(st, bus, g.level, 0)?;
        (Stack::new(segment, sp, g.level, selector_code(segment.selector)), segment)
    };
    stack.push(st, bus, g.size, u64::from(old_ss))?;
    stack.push(st, bus, g.size, old_rsp & width_mask(g.size))?;
    for i in (0..u64::from(g.parameters)).rev() {
        let parameter = old.peek(st, bus, g.size, i * u64::from(g.size))?;
        stack.push(st, bus, g.size, parameter)?;
    }
    stack.push(st, bus, g.size, u64::from(st.seg[seg::CS].selector))?;
    stack.push(st, bus, g.size, next_rip & width_mask(g.size))?;
    check_ip(st, &g.cs, g.offset)?;
    mark_accessed(st, bus, d)?;
    st.seg[seg::SS] = ss;
    stack.commit(st);
    enter(st, g.cs, g.offset);
    Ok(())
}

/// RSPn or ISTn at `offset` of the 64-bit TSS. #TS(TR) if the TSS is too short.
#[inline]
pub(crate) fn rsp_from_tss(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    offset: u32,
    ext: u32,
) -> Result<u64, Exception> {
    if offset + 7 > st.tr.limit {
        return Err(Exception::ts(selector_code(st.tr.selector) | ext));
    }
    bus.read_linear(st, st.tr.base.wrapping_add(u64::from(offset)), 8, Privilege::Supervisor)
}

/// The stack for `level` from the 16- or 32-bit TSS, checked: segment and stack pointer.
pub(crate) fn inner_stack(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    level: u8,
    ext: u32,
) -> Result<(Segment, u64), Exception> {
    let tss32 = st.tr.attr >> attr::TYPE_SHIFT & 8 != 0;
    let (offset, last) = if tss32 {
        (4 + 8 * u32::from(level), 8 * u32::from(level) + 4 + 5)
    } else {
        (2 + 4 * u32::from(level), 4 * u32::from(level) + 2 + 3)
    };
    if st.tr.attr & attr::P == 0 || last > st.tr.limit {
        return Err(Exception::ts(selector_code(st.tr.selector) | ext));
    }
    let at = st.tr.base.wrapping_add(u64::from(offset));
    let width = if tss32 { 4 } else { 2 };
    let sp = bus.read_linear(st, truncate(st, at), width, Privilege::Supervisor)?;
    let ss_at = truncate(st, at.wrapping_add(u64::from(width)));
    let ss = bus.read_linear(st, ss_at, 2, Privilege::Supervisor)? as u16;
    let code = selector_code(ss) | ext;
    if is_null(ss) {
        return Err(Exception::ts(ext));
    }
    let mut d = fetch(st, bus, ss)?.ok_or(Exception::ts(code))?;
    if rpl(ss) != level || d.dpl() != level || !d.is_writable_data() {
        return Err(Exception::ts(code));
    }
    if !d.present() {
        return Err(Exception::ss(code));
    }
    mark_accessed(st, bus, &mut d)?;
    Ok((d.segment(ss), sp))
}

/// Checks the code segment that a far RET or IRET returns to. CS.RPL is the level returned to.
#[inline]
pub(crate) fn return_code_segment(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    selector: u16,
) -> Result<Segment, Exception> {
    if is_null(selector) {
        return Err(Exception::gp(0));
    }
    let code = selector_code(selector);
    let mut d = fetch_or_gp(st, bus, selector, 0)?;
    let level = rpl(selector);
    let allowed = if d.is_conforming() { d.dpl() <= level } else { d.dpl() == level };
    if !d.is_code() || level < st.cpl() || !allowed || bad_long_code(st, &d) {
        return Err(Exception::gp(code));
    }
    if !d.present() {
        return Err(Exception::np(code));
    }
    mark_accessed(st, bus, &mut d)?;
    Ok(d.segment(selector))
}

/// Checks the stack segment that a return to `level` (with code segment `cs`) loads.
#[inline]
pub(crate) fn return_stack_segment(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    selector: u16,
    cs: &Segment,
    level: u8,
) -> Result<Segment, Exception> {
    if is_null(selector) {
        let to_code64 = is_long(st) && cs.attr & attr::L != 0;
        return if to_code64 && level != 3 && rpl(selector) == level {
            Ok(null_stack_segment(level))
        } else {
            Err(Exception::gp(0))
        };
    }
    let code = selector_code(selector);
    let mut d = fetch_or_gp(st, bus, selector, 0)?;
    if rpl(selector) != level || d.dpl() != level || !d.is_writable_data() {
        return Err(Exception::gp(code));
    }
    if !d.present() {
        return Err(Exception::ss(code));
    }
    mark_accessed(st, bus, &mut d)?;
    Ok(d.segment(selector))
}

/// The width of the stack pointer once `cs` and `ss` are loaded.
#[inline]
pub(crate) fn new_stack_mask(st: &X86State, cs: &Segment, ss: &Segment) -> u64 {
    if is_long(st) && cs.attr & attr::L != 0 { u64::MAX } else { stack_mask(ss) }
}

/// Far RET with an operand size of 2, 4 or 8 bytes, releasing `release` bytes of parameters.
pub fn ret(st: &mut X86State, bus: &mut dyn SystemBus, size: u8, release: u16) -> Result<(), Exception> {
    let mut stack = Stack::current(st);
    let rip = stack.pop(st, bus, size)?;
    let selector = stack.pop(st, bus, size)? as u16;
    if !is_protected(st) {
        if rip > u64::from(st.seg[seg::CS].limit) {
            return Err(Exception::gp(0));
        }
        stack.release(u64::from(release));
        stack.commit(st);
        load_real_cs(st, selector, rip);
        return Ok(());
    }
    let cs = return_code_segment(st, bus, selector)?;
    let level = rpl(selector);
    stack.release(u64::from(release));
    if level == st.cpl() {
        check_ip(st, &cs, rip)?;
        stack.commit(st);
        enter(st, cs, rip);
        return Ok(());
    }
    let rsp = stack.pop(st, bus, size)?;
    let ss_selector = stack.pop(st, bus, size)? as u16;
    let ss = return_stack_segment(st, bus, ss_selector, &cs, level)?;
    check_ip(st, &cs, rip)?;
    let mask = new_stack_mask(st, &cs, &ss);
    st.seg[seg::SS] = ss;
    store_sp(st, rsp.wrapping_add(u64::from(release)), mask);
    drop_inaccessible(st, level);
    enter(st, cs, rip);
    Ok(())
}

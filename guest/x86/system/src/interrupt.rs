//! Delivery of exceptions and interrupts (SDM vol. 3, chapter 7; vol. 2, INT n).
//!
//! These run at every system call of old, page fault and timer tick: straight-line, nothing allocated.

use rhea_x86_state::X86State;
use rhea_x86_state::control::{dr6, dr7};
use rhea_x86_state::flags;
use rhea_x86_state::mode;
use rhea_x86_state::state::{Segment, attr, gpr, seg};

use crate::bus::{Delivery, Privilege, SystemBus};
use crate::descriptor::{
    Descriptor, fetch, is_long, is_null, is_protected, is_vm86, mark_accessed, selector_code, system_type,
    truncate,
};
use crate::exception::{Exception, vector};
use crate::far::{check_ip, inner_stack, rsp_from_tss};
use crate::segment::{iopl, load_real, null_segment, null_stack_segment};
use crate::stack::Stack;
use crate::task::{self, TaskSwitch};
use crate::vme;

/// The instructions that call an interrupt handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoftwareInterrupt {
    /// INT n: checked against IOPL in virtual-8086 mode.
    IntN(u8),
    /// INT3 (CCh).
    Int3,
    /// INTO with OF set.
    Into,
    /// INT1, ICEBP (F1h): delivered like a hardware #DB, without DPL check.
    Icebp,
}

/// One delivery.
struct Event {
    vector: u8,
    error_code: Option<u32>,
    /// 1 when the cause is not a software interrupt instruction: the EXT bit of error codes.
    ext: u32,
    /// The gate's DPL is checked against CPL.
    checks_dpl: bool,
    /// What is pushed as RIP.
    rip: u64,
    /// What is pushed as RFLAGS.
    rflags: u64,
}

impl Event {
    /// Error code of a fault found in the IDT entry.
    fn idt_code(&self) -> u32 {
        u32::from(self.vector) << 3 | 2 | self.ext
    }
}

/// Classes for the double-fault rules (SDM vol. 3, table 7-4).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

fn class(v: u8) -> Class {
    match v {
        vector::DE | vector::TS | vector::NP | vector::SS | vector::GP => Class::Contributory,
        vector::PF => Class::PageFault,
        vector::DF => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// What is delivered when `second` arises during the delivery of an event of class `first` (SDM vol. 3, table 7-5).
/// `None` is a triple fault.
fn combine(first: Class, second: Exception) -> Option<Exception> {
    let double = match (first, class(second.vector)) {
        (Class::DoubleFault, Class::Benign) => false,
        (Class::DoubleFault, _) => return None,
        (Class::Contributory, Class::Contributory) => true,
        (Class::PageFault, Class::Contributory | Class::PageFault) => true,
        _ => false,
    };
    Some(if double { Exception::with_code(vector::DF, 0) } else { second })
}

/// Sets CR2 for #PF, DR6 and DR7.GD for #DB.
fn record(st: &mut X86State, e: &Exception) {
    match e.vector {
        vector::PF => st.cr[2] = e.address,
        vector::DB => {
            st.dr[6] = st.dr[6] & !0xf | dr6::FIXED_ONES | e.address;
            st.dr[7] &= !dr7::GD;
        }
        _ => {}
    }
}

/// RFLAGS with RF as a fault pushes it: set, except by an instruction breakpoint (SDM vol. 3, 18.3.1.1).
fn flags_for(st: &X86State, e: &Exception) -> u64 {
    let breakpoint = e.vector == vector::DB && e.address & 0xf != 0;
    let sets_rf = !e.trap && !breakpoint && e.vector != vector::DF;
    flags_without_stale_rf(st) | if sets_rf { flags::RF } else { 0 }
}

/// RFLAGS. RF is cleared by every instruction that completes, but translated code tracks that only while instruction
/// breakpoints are armed: otherwise it is stale.
fn flags_without_stale_rf(st: &X86State) -> u64 {
    let f = st.rflags();
    if st.mode & mode::CODE_BREAKPOINTS != 0 { f } else { f & !flags::RF }
}

/// Delivers an exception; RIP is what is pushed (see [`Exception::trap`]). Faults on the way become double and triple
/// faults by the architecture's rules.
pub fn raise(st: &mut X86State, bus: &mut dyn SystemBus, exception: Exception) {
    let mut current = exception;
    // Each round either ends, or raises the class towards a triple fault, or is a benign event with another cause.
    for _ in 0..8 {
        record(st, &current);
        let event = Event {
            vector: current.vector,
            error_code: current.error_code,
            ext: 1,
            checks_dpl: false,
            rip: st.rip,
            rflags: flags_for(st, &current),
        };
        let Err(second) = deliver(st, bus, &event) else { return };
        if second.vector == vector::PF {
            st.cr[2] = second.address;
        }
        match combine(class(current.vector), second) {
            Some(next) => current = next,
            None => break,
        }
    }
    st.shutdown = 1;
    bus.shutdown();
}

fn deliver_asynchronous(st: &mut X86State, bus: &mut dyn SystemBus, vector: u8) {
    st.halted = 0;
    let event = Event {
        vector,
        error_code: None,
        ext: 1,
        checks_dpl: false,
        rip: st.rip,
        rflags: flags_without_stale_rf(st),
    };
    if let Err(e) = deliver(st, bus, &event) {
        raise(st, bus, e);
    }
}

/// Delivers an external interrupt that the APIC has acknowledged.
pub fn external(st: &mut X86State, bus: &mut dyn SystemBus, vector: u8) {
    deliver_asynchronous(st, bus, vector);
}

/// Delivers an NMI, and blocks further ones until IRET.
pub fn nmi(st: &mut X86State, bus: &mut dyn SystemBus) {
    st.nmi_blocked = 1;
    deliver_asynchronous(st, bus, vector::NMI);
}

/// INT n, INT3, INTO (taken), INT1. RIP is at the instruction; `next_rip` is after it.
pub fn software(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    kind: SoftwareInterrupt,
    next_rip: u64,
) -> Result<(), Exception> {
    let number = match kind {
        SoftwareInterrupt::IntN(n) => n,
        SoftwareInterrupt::Int3 => vector::BP,
        SoftwareInterrupt::Into => vector::OF,
        SoftwareInterrupt::Icebp => vector::DB,
    };
    if let SoftwareInterrupt::IntN(n) = kind
        && is_vm86(st)
    {
        if vme::redirects(st, bus, n)? {
            return vme::interrupt(st, bus, n, next_rip);
        }
        if iopl(st) < 3 {
            return Err(Exception::gp(0));
        }
    }
    let icebp = kind == SoftwareInterrupt::Icebp;
    let event = Event {
        vector: number,
        error_code: None,
        ext: u32::from(icebp),
        checks_dpl: !icebp,
        rip: next_rip,
        rflags: flags_without_stale_rf(st),
    };
    deliver(st, bus, &event)
}

/// Delivers through the IVT or IDT. On error nothing has changed (except memory below the stack pointer).
fn deliver(st: &mut X86State, bus: &mut dyn SystemBus, event: &Event) -> Result<(), Exception> {
    let software = event.ext == 0;
    bus.delivering(st, &Delivery { vector: event.vector, error_code: event.error_code, software });
    if is_long(st) {
        long_mode(st, bus, event)
    } else if is_protected(st) || is_vm86(st) {
        protected(st, bus, event)
    } else {
        real(st, bus, event)
    }
}

/// Real-address mode: the interrupt vector table (SDM vol. 3, 21.1.4).
fn real(st: &mut X86State, bus: &mut dyn SystemBus, event: &Event) -> Result<(), Exception> {
    let at = u32::from(event.vector) * 4;
    if at + 3 > st.idtr.limit {
        return Err(Exception::gp(event.idt_code()));
    }
    let linear = truncate(st, st.idtr.base.wrapping_add(u64::from(at)));
    let entry = bus.read_linear(st, linear, 4, Privilege::Supervisor)?;
    let mut stack = Stack::current(st);
    stack.push(st, bus, 2, event.rflags & 0xffff)?;
    stack.push(st, bus, 2, u64::from(st.seg[seg::CS].selector))?;
    stack.push(st, bus, 2, event.rip & 0xffff)?;
    stack.commit(st);
    st.rflags &= !(flags::IF | flags::TF | flags::AC | flags::RF);
    load_real(&mut st.seg[seg::CS], (entry >> 16) as u16, attr::CODE);
    st.rip = entry & 0xffff;
    finish(st);
    Ok(())
}

#[inline]
fn finish(st: &mut X86State) {
    st.interrupt_shadow = 0;
    st.mode = st.compute_mode();
}

/// Clears the flags that a handler starts without.
#[inline]
fn handler_flags(st: &mut X86State, interrupt_gate: bool) {
    st.rflags &= !(flags::TF | flags::NT | flags::RF | flags::VM);
    if interrupt_gate {
        st.rflags &= !flags::IF;
    }
}

/// The handler's code segment, checked: descriptor and the level it runs at.
#[inline]
fn handler_code(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    selector: u16,
    ext: u32,
) -> Result<(Descriptor, u8), Exception> {
    if is_null(selector) {
        return Err(Exception::gp(ext));
    }
    let code = selector_code(selector) | ext;
    let d = fetch(st, bus, selector)?.ok_or(Exception::gp(code))?;
    let cpl = st.cpl();
    let wrong_width = is_long(st) && d.high() & (attr::L | attr::DB) != attr::L;
    if !d.is_code() || d.dpl() > cpl || wrong_width {
        return Err(Exception::gp(code));
    }
    if !d.present() {
        return Err(Exception::np(code));
    }
    Ok((d, if d.is_conforming() { cpl } else { d.dpl() }))
}

/// Long mode: 16-byte gates, interrupt stack table, 64-bit frames (SDM vol. 3, 7.14).
fn long_mode(st: &mut X86State, bus: &mut dyn SystemBus, event: &Event) -> Result<(), Exception> {
    let at = u32::from(event.vector) * 16;
    if at + 15 > st.idtr.limit {
        return Err(Exception::gp(event.idt_code()));
    }
    let linear = st.idtr.base.wrapping_add(u64::from(at));
    let low = bus.read_linear(st, linear, 8, Privilege::Supervisor)?;
    let high = bus.read_linear(st, linear.wrapping_add(8), 8, Privilege::Supervisor)?;
    let gate = Descriptor { raw: low, linear };
    let kind = gate.kind();
    let is_gate = kind == system_type::INTERRUPT_GATE32 || kind == system_type::TRAP_GATE32;
    if !gate.is_system() || !is_gate || (event.checks_dpl && gate.dpl() < st.cpl()) {
        return Err(Exception::gp(event.idt_code()));
    }
    if !gate.present() {
        return Err(Exception::np(event.idt_code()));
    }
    let selector = gate.gate_selector();
    let (mut d, level) = handler_code(st, bus, selector, event.ext)?;
    let rip = gate.gate_offset() | high << 32;
    let ist = gate.high() & 7;
    let inner = level < st.cpl();
    let rsp = if ist != 0 {
        rsp_from_tss(st, bus, 0x24 + 8 * (ist - 1), event.ext)?
    } else if inner {
        rsp_from_tss(st, bus, 4 + 8 * u32::from(level), event.ext)?
    } else {
        st.gpr[gpr::RSP]
    };
    let mut stack = Stack::new64(rsp, level, event.ext);
    stack.align16();
    stack.push(st, bus, 8, u64::from(st.seg[seg::SS].selector))?;
    stack.push(st, bus, 8, st.gpr[gpr::RSP])?;
    stack.push(st, bus, 8, event.rflags)?;
    stack.push(st, bus, 8, u64::from(st.seg[seg::CS].selector))?;
    stack.push(st, bus, 8, event.rip)?;
    if let Some(code) = event.error_code {
        stack.push(st, bus, 8, u64::from(code))?;
    }
    let cs = Segment { attr: d.segment(0).attr | attr::A, ..d.segment(selector & !3 | u16::from(level)) };
    check_ip(st, &cs, rip).map_err(|_| Exception::gp(event.ext))?;
    mark_accessed(st, bus, &mut d)?;
    if inner {
        st.seg[seg::SS] = null_stack_segment(level);
    }
    stack.commit(st);
    st.seg[seg::CS] = cs;
    st.rip = rip;
    handler_flags(st, kind == system_type::INTERRUPT_GATE32);
    finish(st);
    Ok(())
}

/// Protected and virtual-8086 mode: 8-byte gates.
fn protected(st: &mut X86State, bus: &mut dyn SystemBus, event: &Event) -> Result<(), Exception> {
    use system_type::*;
    let at = u32::from(event.vector) * 8;
    if at + 7 > st.idtr.limit {
        return Err(Exception::gp(event.idt_code()));
    }
    let linear = truncate(st, st.idtr.base.wrapping_add(u64::from(at)));
    let raw = bus.read_linear(st, linear, 8, Privilege::Supervisor)?;
    let gate = Descriptor { raw, linear };
    let kind = gate.kind();
    let is_gate = matches!(kind, TASK_GATE | INTERRUPT_GATE16 | TRAP_GATE16 | INTERRUPT_GATE32 | TRAP_GATE32);
    if !gate.is_system() || !is_gate || (event.checks_dpl && gate.dpl() < st.cpl()) {
        return Err(Exception::gp(event.idt_code()));
    }
    if !gate.present() {
        return Err(Exception::np(event.idt_code()));
    }
    if kind == TASK_GATE {
        return through_task_gate(st, bus, event, gate.gate_selector());
    }
    let size: u8 = if kind & 8 != 0 { 4 } else { 2 };
    let rip = if size == 4 { gate.gate_offset() } else { gate.gate_offset() & 0xffff };
    let selector = gate.gate_selector();
    let (mut d, level) = handler_code(st, bus, selector, event.ext)?;
    let vm86 = is_vm86(st);
    if vm86 && level != 0 {
        return Err(Exception::gp(selector_code(selector) | event.ext));
    }
    let inner = level < st.cpl();
    let (mut stack, ss) = if inner {
        let (ss, sp) = inner_stack(st, bus, level, event.ext)?;
        (Stack::new(ss, sp, level, selector_code(ss.selector) | event.ext), Some(ss))
    } else {
        (Stack::current(st), None)
    };
    if vm86 {
        for register in [seg::GS, seg::FS, seg::DS, seg::ES] {
            let selector = u64::from(st.seg[register].selector);
            stack.push(st, bus, size, selector)?;
        }
    }
    if inner {
        stack.push(st, bus, size, u64::from(st.seg[seg::SS].selector))?;
        stack.push(st, bus, size, st.gpr[gpr::RSP])?;
    }
    stack.push(st, bus, size, event.rflags)?;
    stack.push(st, bus, size, u64::from(st.seg[seg::CS].selector))?;
    stack.push(st, bus, size, event.rip)?;
    if let Some(code) = event.error_code {
        stack.push(st, bus, size, u64::from(code))?;
    }
    let cs = Segment { attr: d.segment(0).attr | attr::A, ..d.segment(selector & !3 | u16::from(level)) };
    check_ip(st, &cs, rip).map_err(|_| Exception::gp(event.ext))?;
    mark_accessed(st, bus, &mut d)?;
    if vm86 {
        for register in [seg::GS, seg::FS, seg::DS, seg::ES] {
            st.seg[register] = null_segment(0);
        }
    }
    if let Some(ss) = ss {
        st.seg[seg::SS] = ss;
    }
    stack.commit(st);
    st.seg[seg::CS] = cs;
    st.rip = rip;
    handler_flags(st, matches!(kind, INTERRUPT_GATE16 | INTERRUPT_GATE32));
    finish(st);
    Ok(())
}

/// An interrupt through a task gate; the error code goes onto the new task's stack.
fn through_task_gate(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    event: &Event,
    selector: u16,
) -> Result<(), Exception> {
    let switched =
        task::switch_saving(st, bus, selector, TaskSwitch::Gate, event.rip, event.rflags, event.ext);
    // The T-flag trap of the new task comes after the error code has been pushed.
    let trap = match switched {
        Ok(()) => None,
        Err(e) if e.vector == vector::DB => Some(e),
        Err(e) => return Err(e),
    };
    if let Some(code) = event.error_code {
        let mut stack = Stack::current(st);
        let width = task::error_code_width(st);
        stack.push(st, bus, width, u64::from(code))?;
        stack.commit(st);
    }
    trap.map_or(Ok(()), Err)
}

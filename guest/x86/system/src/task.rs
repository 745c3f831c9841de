//! Hardware task switching with 16- and 32-bit task-state segments (SDM vol. 3, chapter 9), and the I/O permission
//! bitmap that lives in the TSS (SDM vol. 1, 19.5.2).

use rhea_x86_state::X86State;
use rhea_x86_state::control::{cr0, cr4, dr6, dr7};
use rhea_x86_state::flags;
use rhea_x86_state::state::{Segment, attr, gpr, seg};

use crate::bus::{Privilege, SystemBus, TlbScope};
use crate::descriptor::{
    Descriptor, fetch, is_null, is_protected, is_vm86, mark_accessed, rpl, selector_code, system_type,
    truncate,
};
use crate::exception::Exception;
use crate::far::check_ip;
use crate::paging;
use crate::segment::{iopl, null_segment, set_tss_busy, vm86_segment};

/// What causes a task switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskSwitch {
    /// Far JMP.
    Jump,
    /// Far CALL.
    Call,
    /// IRET with NT set.
    Iret,
    /// An interrupt or exception through a task gate.
    Gate,
}

/// Where a TSS of either width keeps its fields (SDM vol. 3, figures 9-2 and 9-10).
struct Layout {
    /// Bytes a register slot takes.
    width: u8,
    cr3: Option<u32>,
    ip: u32,
    flags: u32,
    gpr: u32,
    /// ES, CS, SS, DS and, in the 32-bit form, FS and GS.
    segments: u32,
    segment_count: usize,
    ldt: u32,
    trap: Option<u32>,
    /// Smallest limit.
    limit: u32,
}

const TSS32: Layout = Layout {
    width: 4,
    cr3: Some(0x1c),
    ip: 0x20,
    flags: 0x24,
    gpr: 0x28,
    segments: 0x48,
    segment_count: 6,
    ldt: 0x60,
    trap: Some(0x64),
    limit: 0x67,
};

const TSS16: Layout = Layout {
    width: 2,
    cr3: None,
    ip: 0x0e,
    flags: 0x10,
    gpr: 0x12,
    segments: 0x22,
    segment_count: 4,
    ldt: 0x2a,
    trap: None,
    limit: 0x2b,
};

/// The incoming task as its TSS has it.
struct Incoming {
    cr3: Option<u64>,
    ip: u64,
    flags: u64,
    gpr: [u64; 8],
    segments: [u16; 6],
    ldt: u16,
    trap: bool,
}

fn read_tss(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    base: u64,
    offset: u32,
    size: u8,
) -> Result<u64, Exception> {
    let linear = truncate(st, base.wrapping_add(u64::from(offset)));
    bus.read_linear(st, linear, size, Privilege::Supervisor)
}

fn write_tss(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    base: u64,
    offset: u32,
    size: u8,
    value: u64,
) -> Result<(), Exception> {
    let linear = truncate(st, base.wrapping_add(u64::from(offset)));
    bus.write_linear(st, linear, size, value, Privilege::Supervisor)
}

fn read_incoming(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    base: u64,
    l: &Layout,
) -> Result<Incoming, Exception> {
    let w = l.width;
    let mut task = Incoming {
        cr3: match l.cr3 {
            Some(offset) => Some(read_tss(st, bus, base, offset, 4)?),
            None => None,
        },
        ip: read_tss(st, bus, base, l.ip, w)?,
        flags: read_tss(st, bus, base, l.flags, w)?,
        gpr: [0; 8],
        segments: [0; 6],
        ldt: read_tss(st, bus, base, l.ldt, 2)? as u16,
        trap: match l.trap {
            Some(offset) => read_tss(st, bus, base, offset, 2)? & 1 != 0,
            None => false,
        },
    };
    for i in 0..8 {
        task.gpr[i] = read_tss(st, bus, base, l.gpr + u32::from(w) * i as u32, w)?;
    }
    for i in 0..l.segment_count {
        task.segments[i] = read_tss(st, bus, base, l.segments + u32::from(w) * i as u32, 2)? as u16;
    }
    Ok(task)
}

fn layout(kind: u32) -> &'static Layout {
    if kind & 8 != 0 { &TSS32 } else { &TSS16 }
}

/// Saves the outgoing task in its TSS.
fn save_outgoing(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    next_rip: u64,
    rflags: u64,
) -> Result<(), Exception> {
    let base = st.tr.base;
    let l = layout(st.tr.attr >> attr::TYPE_SHIFT);
    let w = l.width;
    // All or nothing: check both ends before the first byte changes.
    for offset in [l.ip, l.ldt - 1] {
        let linear = truncate(st, base.wrapping_add(u64::from(offset)));
        bus.probe_write(st, linear, 1, Privilege::Supervisor)?;
    }
    write_tss(st, bus, base, l.ip, w, next_rip)?;
    write_tss(st, bus, base, l.flags, w, rflags)?;
    for i in 0..8 {
        let value = st.gpr[i];
        write_tss(st, bus, base, l.gpr + u32::from(w) * i as u32, w, value)?;
    }
    for i in 0..l.segment_count {
        let selector = u64::from(st.seg[i].selector);
        write_tss(st, bus, base, l.segments + u32::from(w) * i as u32, 2, selector)?;
    }
    Ok(())
}

/// Switches to the task of `selector`. `next_rip` is what the outgoing task resumes at; `ext` is 1 when an external
/// event caused the switch (it goes into error codes).
///
/// Faults up to the loading of TR leave the outgoing task as it was. Later ones (segment loads) are raised in the
/// incoming task, as the architecture has it: then the state is the incoming task's, RIP its first instruction.
/// A #DB trap is returned when the incoming task's T flag is set.
pub fn switch(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    selector: u16,
    cause: TaskSwitch,
    next_rip: u64,
    ext: u32,
) -> Result<(), Exception> {
    let mut rflags = st.rflags();
    if cause == TaskSwitch::Iret {
        rflags &= !flags::NT;
    }
    switch_saving(st, bus, selector, cause, next_rip, rflags, ext)
}

/// [`switch`] with the flags that go into the outgoing task's TSS.
pub(crate) fn switch_saving(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    selector: u16,
    cause: TaskSwitch,
    next_rip: u64,
    rflags: u64,
    ext: u32,
) -> Result<(), Exception> {
    let code = selector_code(selector) | ext;
    let bad = if cause == TaskSwitch::Iret { Exception::ts(code) } else { Exception::gp(code) };
    if is_null(selector) || selector & 4 != 0 {
        return Err(bad);
    }
    let mut d = fetch(st, bus, selector)?.ok_or(bad)?;
    let expected = if cause == TaskSwitch::Iret {
        [system_type::TSS16_BUSY, system_type::TSS32_BUSY]
    } else {
        [system_type::TSS16_AVAILABLE, system_type::TSS32_AVAILABLE]
    };
    if !d.is_system() || !expected.contains(&d.kind()) {
        return Err(bad);
    }
    if !d.present() {
        return Err(Exception::np(code));
    }
    let l = layout(d.kind());
    if d.limit() < l.limit {
        return Err(Exception::ts(code));
    }
    let task = read_incoming(st, bus, d.base(), l)?;

    save_outgoing(st, bus, next_rip, rflags)?;
    let old_selector = st.tr.selector;
    if matches!(cause, TaskSwitch::Jump | TaskSwitch::Iret)
        && let Some(mut old) = fetch(st, bus, old_selector)?
    {
        set_tss_busy(st, bus, &mut old, false)?;
    }
    let nests = matches!(cause, TaskSwitch::Call | TaskSwitch::Gate);
    if nests {
        write_tss(st, bus, d.base(), 0, 2, u64::from(old_selector))?;
    }
    if cause != TaskSwitch::Iret {
        set_tss_busy(st, bus, &mut d, true)?;
    }
    let mut tr = d.segment(selector);
    tr.attr |= 2 << attr::TYPE_SHIFT;
    st.tr = tr;
    st.cr[0] |= cr0::TS;
    // Breakpoints that are local to a task are disarmed (SDM vol. 3, 18.2.4).
    st.dr[7] &= !dr7::LOCAL_ENABLES;
    load_incoming(st, bus, &task, nests, l, ext)
}

/// Loads the incoming task's registers, then its segments.
fn load_incoming(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    task: &Incoming,
    nests: bool,
    l: &Layout,
    ext: u32,
) -> Result<(), Exception> {
    let mut pdpte_fault = Ok(());
    if let Some(cr3) = task.cr3
        && st.cr[0] & cr0::PG != 0
    {
        if st.cr[4] & cr4::PAE != 0 {
            match paging::load_pdptes(st, bus, cr3) {
                Ok(entries) => st.pdpte = entries,
                Err(e) => pdpte_fault = Err(e),
            }
        }
        st.cr[3] = cr3;
        bus.flush_tlb(TlbScope::NonGlobal);
    }
    for i in 0..8 {
        st.gpr[i] = if l.width == 4 { task.gpr[i] } else { st.gpr[i] & 0xffff_0000 | task.gpr[i] };
    }
    st.rip = task.ip;
    let mut new_flags = task.flags & if l.width == 4 { 0x003f_7fd5 } else { 0x7fd5 };
    if nests {
        new_flags |= flags::NT;
    }
    st.set_rflags(new_flags);
    st.interrupt_shadow = 0;
    // Until they are checked, all segments are unusable; CPL is the RPL of the new CS (3 in virtual-8086 mode).
    let vm86 = new_flags & flags::VM != 0;
    let cpl = if vm86 { 3 } else { rpl(task.segments[seg::CS]) };
    for (register, &selector) in st.seg.iter_mut().zip(&task.segments) {
        *register = null_segment(selector);
    }
    st.seg[seg::SS].attr = u32::from(cpl) << attr::DPL_SHIFT;
    st.ldtr = null_segment(task.ldt);
    st.mode = st.compute_mode();
    pdpte_fault?;
    let loaded = load_incoming_segments(st, bus, task, vm86, cpl, ext);
    st.mode = st.compute_mode();
    loaded?;
    if task.trap {
        return Err(Exception::debug_trap(dr6::BT));
    }
    Ok(())
}

fn load_incoming_segments(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    task: &Incoming,
    vm86: bool,
    cpl: u8,
    ext: u32,
) -> Result<(), Exception> {
    if !is_null(task.ldt) {
        let code = selector_code(task.ldt) | ext;
        let d = if task.ldt & 4 == 0 { fetch(st, bus, task.ldt)? } else { None };
        let d = d.filter(|d| d.is_system() && d.kind() == system_type::LDT && d.present());
        st.ldtr = d.ok_or(Exception::ts(code))?.segment(task.ldt);
    }
    if vm86 {
        for (register, &selector) in st.seg.iter_mut().zip(&task.segments) {
            *register = vm86_segment(selector);
        }
        return Ok(());
    }
    st.seg[seg::SS] = incoming_stack(st, bus, task.segments[seg::SS], cpl, ext)?;
    st.seg[seg::CS] = incoming_code(st, bus, task.segments[seg::CS], ext)?;
    for register in [seg::ES, seg::DS, seg::FS, seg::GS] {
        let selector = task.segments[register];
        if is_null(selector) {
            continue;
        }
        let code = selector_code(selector) | ext;
        let mut d = fetch(st, bus, selector)?.ok_or(Exception::ts(code))?;
        if !d.is_readable() || (!d.is_conforming() && cpl.max(rpl(selector)) > d.dpl()) {
            return Err(Exception::ts(code));
        }
        if !d.present() {
            return Err(Exception::np(code));
        }
        mark_accessed(st, bus, &mut d)?;
        st.seg[register] = d.segment(selector);
    }
    let cs = st.seg[seg::CS];
    check_ip(st, &cs, st.rip)
}

fn incoming_stack(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    selector: u16,
    cpl: u8,
    ext: u32,
) -> Result<Segment, Exception> {
    let code = selector_code(selector) | ext;
    let found = if is_null(selector) { None } else { fetch(st, bus, selector)? };
    let mut d = found.ok_or(Exception::ts(code))?;
    if !d.is_writable_data() || d.dpl() != cpl || rpl(selector) != cpl {
        return Err(Exception::ts(code));
    }
    if !d.present() {
        return Err(Exception::ss(code));
    }
    mark_accessed(st, bus, &mut d)?;
    Ok(d.segment(selector))
}

fn incoming_code(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    selector: u16,
    ext: u32,
) -> Result<Segment, Exception> {
    let code = selector_code(selector) | ext;
    let found = if is_null(selector) { None } else { fetch(st, bus, selector)? };
    let mut d: Descriptor = found.ok_or(Exception::ts(code))?;
    let level = rpl(selector);
    let allowed = if d.is_conforming() { d.dpl() <= level } else { d.dpl() == level };
    if !d.is_code() || !allowed {
        return Err(Exception::ts(code));
    }
    if !d.present() {
        return Err(Exception::np(code));
    }
    mark_accessed(st, bus, &mut d)?;
    Ok(d.segment(selector))
}

/// Whether IN, OUT, INS or OUTS may touch `size` ports from `port` on; #GP(0) if not. In protected mode with
/// CPL <= IOPL, and in real mode, always.
pub fn check_io(st: &mut X86State, bus: &mut dyn SystemBus, port: u16, size: u8) -> Result<(), Exception> {
    let needs_bitmap = is_vm86(st) || (is_protected(st) && st.cpl() > iopl(st));
    if !needs_bitmap {
        return Ok(());
    }
    let denied = Err(Exception::gp(0));
    let tss32 = st.tr.attr >> attr::TYPE_SHIFT & 8 != 0;
    if st.tr.attr & attr::P == 0 || !tss32 || st.tr.limit < 0x67 {
        return denied;
    }
    let base = st.tr.base;
    let map = read_tss(st, bus, base, 0x66, 2)? as u32;
    let at = map + u32::from(port >> 3);
    // Two bytes are always read: the ports may straddle a byte.
    if at + 1 > st.tr.limit {
        return denied;
    }
    let bits = read_tss(st, bus, base, at, 2)? >> (port & 7);
    if bits & ((1 << size) - 1) != 0 { denied } else { Ok(()) }
}

/// IN: checks permission and reads.
pub fn port_in(st: &mut X86State, bus: &mut dyn SystemBus, port: u16, size: u8) -> Result<u32, Exception> {
    check_io(st, bus, port, size)?;
    Ok(bus.io_read(port, size))
}

/// OUT: checks permission and writes.
pub fn port_out(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    port: u16,
    size: u8,
    value: u32,
) -> Result<(), Exception> {
    check_io(st, bus, port, size)?;
    bus.io_write(port, size, value);
    Ok(())
}

/// Used by gates: the width of an error code pushed onto the new task's stack.
pub(crate) fn error_code_width(st: &X86State) -> u8 {
    if st.tr.attr >> attr::TYPE_SHIFT & 8 != 0 { 4 } else { 2 }
}

const _: () = assert!(gpr::RDI == 7);

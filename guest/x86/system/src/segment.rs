//! Loading segment registers, LDTR and TR, and the instructions that ask about selectors (SDM vol. 3, chapter 6).

use rhea_x86_state::X86State;
use rhea_x86_state::flags;
use rhea_x86_state::state::{Segment, attr, seg};

use crate::bus::{Privilege, SystemBus};
use crate::descriptor::{
    self, Descriptor, fetch, fetch_or_gp, fetch_upper, is_code64, is_long, is_null, is_protected, is_vm86,
    mark_accessed, rpl, selector_code, system_type,
};
use crate::exception::Exception;
use crate::paging::is_canonical;

/// Attributes of every segment in virtual-8086 mode (SDM vol. 3, 21.2): present, writable, accessed, DPL 3.
pub const VM86_ATTR: u32 = attr::P | attr::S | attr::RW | attr::A | attr::DPL_MASK;

/// A segment as virtual-8086 mode has it.
pub fn vm86_segment(selector: u16) -> Segment {
    Segment { base: u64::from(selector) << 4, limit: 0xffff, attr: VM86_ATTR, selector, reserved: [0; 3] }
}

/// Loads a segment register in real-address mode: it becomes present and writable, and keeps limit, granularity and
/// default size, which protected mode may have left large. `kind` is [`attr::CODE`] for CS, else 0.
pub(crate) fn load_real(segment: &mut Segment, selector: u16, kind: u32) {
    let kept = segment.attr & (attr::G | attr::DB | attr::AVL);
    segment.selector = selector;
    segment.base = u64::from(selector) << 4;
    segment.attr = kept | attr::P | attr::S | attr::RW | attr::A | kind;
}

/// What a register holds after a null selector was loaded.
pub fn null_segment(selector: u16) -> Segment {
    Segment { selector, ..Segment::default() }
}

/// A null SS in 64-bit mode: unusable, but its DPL field is still the current privilege level.
pub fn null_stack_segment(ring: u8) -> Segment {
    Segment {
        base: 0,
        limit: 0xffff_ffff,
        attr: u32::from(ring) << attr::DPL_SHIFT | attr::S | attr::RW | attr::A | attr::DB,
        selector: u16::from(ring),
        reserved: [0; 3],
    }
}

/// MOV Sreg, POP Sreg, LDS and its kin: loads ES, SS, DS, FS or GS ([`seg`] index, not CS).
///
/// The interrupt shadow after MOV SS and POP SS is [`crate::flag_instructions::set_interrupt_shadow`].
pub fn load(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    register: usize,
    selector: u16,
) -> Result<(), Exception> {
    debug_assert!(register != seg::CS && register < 6);
    if is_protected(st) {
        let segment = if register == seg::SS {
            stack_segment(st, bus, selector)?
        } else {
            data_segment(st, bus, selector)?
        };
        st.seg[register] = segment;
    } else if is_vm86(st) {
        st.seg[register] = vm86_segment(selector);
    } else {
        load_real(&mut st.seg[register], selector, 0);
    }
    st.mode = st.compute_mode();
    Ok(())
}

/// Checks for DS, ES, FS and GS.
pub(crate) fn data_segment(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    selector: u16,
) -> Result<Segment, Exception> {
    if is_null(selector) {
        return Ok(null_segment(selector));
    }
    let mut d = fetch_or_gp(st, bus, selector, 0)?;
    let code = selector_code(selector);
    let level = st.cpl().max(rpl(selector));
    if !d.is_readable() || (!d.is_conforming() && level > d.dpl()) {
        return Err(Exception::gp(code));
    }
    if !d.present() {
        return Err(Exception::np(code));
    }
    mark_accessed(st, bus, &mut d)?;
    Ok(d.segment(selector))
}

/// Checks for SS at the current privilege level.
fn stack_segment(st: &mut X86State, bus: &mut dyn SystemBus, selector: u16) -> Result<Segment, Exception> {
    let cpl = st.cpl();
    if is_null(selector) {
        return if is_code64(st) && cpl != 3 && rpl(selector) == cpl {
            Ok(null_stack_segment(cpl))
        } else {
            Err(Exception::gp(0))
        };
    }
    let mut d = fetch_or_gp(st, bus, selector, 0)?;
    let code = selector_code(selector);
    if rpl(selector) != cpl || d.dpl() != cpl || !d.is_writable_data() {
        return Err(Exception::gp(code));
    }
    if !d.present() {
        return Err(Exception::ss(code));
    }
    mark_accessed(st, bus, &mut d)?;
    Ok(d.segment(selector))
}

/// After a return to an outer level: a data segment that the new level may not use becomes null (SDM vol. 3, 6.8.6).
pub(crate) fn drop_inaccessible(st: &mut X86State, cpl: u8) {
    for register in [seg::ES, seg::DS, seg::FS, seg::GS] {
        let a = st.seg[register].attr;
        let conforming = a & (attr::CODE | attr::EC) == attr::CODE | attr::EC;
        let dpl = (a >> attr::DPL_SHIFT & 3) as u8;
        if a & attr::P != 0 && !conforming && dpl < cpl {
            st.seg[register] = null_segment(0);
        }
    }
}

fn require_protected(st: &X86State) -> Result<(), Exception> {
    if is_protected(st) { Ok(()) } else { Err(Exception::ud()) }
}

fn require_cpl0(st: &X86State) -> Result<(), Exception> {
    if st.cpl() == 0 { Ok(()) } else { Err(Exception::gp(0)) }
}

/// The base of a system segment, 64 bits wide in long mode. #GP(selector) if the upper half is malformed.
fn system_base(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    selector: u16,
    d: &Descriptor,
) -> Result<u64, Exception> {
    if !is_long(st) {
        return Ok(d.base());
    }
    let code = selector_code(selector);
    let upper = fetch_upper(st, bus, selector, d)?.ok_or(Exception::gp(code))?;
    let base = d.base() | upper << 32;
    if upper >> 40 & 0x1f != 0 || !is_canonical(base) {
        return Err(Exception::gp(code));
    }
    Ok(base)
}

/// LLDT.
pub fn lldt(st: &mut X86State, bus: &mut dyn SystemBus, selector: u16) -> Result<(), Exception> {
    require_protected(st)?;
    require_cpl0(st)?;
    if is_null(selector) {
        st.ldtr = null_segment(selector);
        return Ok(());
    }
    let code = selector_code(selector);
    if selector & 4 != 0 {
        return Err(Exception::gp(code));
    }
    let d = fetch_or_gp(st, bus, selector, 0)?;
    if !d.is_system() || d.kind() != system_type::LDT {
        return Err(Exception::gp(code));
    }
    if !d.present() {
        return Err(Exception::np(code));
    }
    let base = system_base(st, bus, selector, &d)?;
    st.ldtr = Segment { base, ..d.segment(selector) };
    Ok(())
}

/// LTR: marks the TSS busy.
pub fn ltr(st: &mut X86State, bus: &mut dyn SystemBus, selector: u16) -> Result<(), Exception> {
    require_protected(st)?;
    require_cpl0(st)?;
    if is_null(selector) {
        return Err(Exception::gp(0));
    }
    let code = selector_code(selector);
    if selector & 4 != 0 {
        return Err(Exception::gp(code));
    }
    let mut d = fetch_or_gp(st, bus, selector, 0)?;
    let valid = d.kind() == system_type::TSS32_AVAILABLE
        || (d.kind() == system_type::TSS16_AVAILABLE && !is_long(st));
    if !d.is_system() || !valid {
        return Err(Exception::gp(code));
    }
    if !d.present() {
        return Err(Exception::np(code));
    }
    let base = system_base(st, bus, selector, &d)?;
    set_tss_busy(st, bus, &mut d, true)?;
    st.tr = Segment { base, ..d.segment(selector) };
    Ok(())
}

/// Writes the busy bit of a TSS descriptor in memory.
pub(crate) fn set_tss_busy(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    d: &mut Descriptor,
    busy: bool,
) -> Result<(), Exception> {
    const BUSY: u64 = 1 << 41;
    d.raw = if busy { d.raw | BUSY } else { d.raw & !BUSY };
    let linear = descriptor::truncate(st, d.linear.wrapping_add(5));
    bus.write_linear(st, linear, 1, d.raw >> 40 & 0xff, Privilege::Supervisor)
}

/// The descriptor of a selector that LAR, LSL, VERR or VERW may look at: `None` clears ZF.
fn visible(
    st: &mut X86State,
    bus: &mut dyn SystemBus,
    selector: u16,
) -> Result<Option<Descriptor>, Exception> {
    require_protected(st)?;
    if is_null(selector) {
        return Ok(None);
    }
    let level = st.cpl().max(rpl(selector));
    Ok(fetch(st, bus, selector)?.filter(|d| d.is_conforming() || level <= d.dpl()))
}

/// LAR: the access rights, or `None` (ZF=0). The result is for a 32-bit destination; a 16-bit one takes its low half.
pub fn lar(st: &mut X86State, bus: &mut dyn SystemBus, selector: u16) -> Result<Option<u32>, Exception> {
    use system_type::*;
    let long = is_long(st);
    Ok(visible(st, bus, selector)?.and_then(|d| {
        let valid = !d.is_system()
            || match d.kind() {
                TSS32_AVAILABLE | TSS32_BUSY | LDT | CALL_GATE32 => true,
                TSS16_AVAILABLE | TSS16_BUSY | CALL_GATE16 | TASK_GATE => !long,
                _ => false,
            };
        valid.then(|| d.high() & 0x00f0_ff00)
    }))
}

/// LSL: the scaled limit, or `None` (ZF=0).
pub fn lsl(st: &mut X86State, bus: &mut dyn SystemBus, selector: u16) -> Result<Option<u32>, Exception> {
    use system_type::*;
    let long = is_long(st);
    Ok(visible(st, bus, selector)?.and_then(|d| {
        let valid = !d.is_system()
            || match d.kind() {
                TSS32_AVAILABLE | TSS32_BUSY | LDT => true,
                TSS16_AVAILABLE | TSS16_BUSY => !long,
                _ => false,
            };
        valid.then(|| d.limit())
    }))
}

/// VERR: whether the segment can be read (ZF).
pub fn verr(st: &mut X86State, bus: &mut dyn SystemBus, selector: u16) -> Result<bool, Exception> {
    Ok(visible(st, bus, selector)?.is_some_and(|d| d.is_readable()))
}

/// VERW: whether the segment can be written (ZF).
pub fn verw(st: &mut X86State, bus: &mut dyn SystemBus, selector: u16) -> Result<bool, Exception> {
    Ok(visible(st, bus, selector)?.is_some_and(|d| d.is_writable_data()))
}

/// ARPL: the destination selector with its RPL raised to the source's, if it was lower (`Some`: ZF=1). #UD in real and
/// virtual-8086 mode.
pub fn arpl(st: &X86State, destination: u16, source: u16) -> Result<Option<u16>, Exception> {
    require_protected(st)?;
    Ok((rpl(destination) < rpl(source)).then_some(destination & !3 | source & 3))
}

/// IOPL, 0..=3.
#[inline]
pub fn iopl(st: &X86State) -> u8 {
    ((st.rflags & flags::IOPL) >> 12) as u8
}

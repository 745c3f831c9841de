//! The functions behind the helper table: what translated code calls.

use rhea_engine::{Leave, VcpuContext};
use rhea_x86_state::X86State;
use rhea_x86_state::flags::{self, AF, CF, OF};
use rhea_x86_state::state::{attr, gpr, seg};
use rhea_x86_system::bus::SystemBus;
use rhea_x86_system::exception::Exception;
use rhea_x86_system::interrupt::{self, SoftwareInterrupt};
use rhea_x86_system::{
    control, debug, far, flag_instructions, iret as iret_semantics, msr, privileged, segment, smm, stack,
    syscall as fast, task,
};

use crate::cpu::{Bus, X86Cpu};
use crate::reasons;
use crate::trace;
use crate::translator::data_index;

type Cx = VcpuContext;

/// Runs privileged semantics on the vCPU; an exception is recorded and leaves the unit.
#[inline]
fn run(cx: &mut Cx, f: impl FnOnce(&mut X86State, &mut Bus<'_>) -> Result<u64, Exception>) -> u64 {
    let (st, cpu, env) = cx.parts::<X86State, X86Cpu>();
    match f(st, &mut Bus { env, cpu }) {
        Ok(v) => v,
        Err(e) => {
            cpu.pending = Some(e);
            cx.leave(reasons::EXCEPTION);
            0
        }
    }
}

/// As [`run`] for functions that answer nothing.
#[inline]
fn act(cx: &mut Cx, f: impl FnOnce(&mut X86State, &mut Bus<'_>) -> Result<(), Exception>) -> u64 {
    run(cx, |st, bus| f(st, bus).map(|()| 0))
}

/// After an instruction that may have changed the mode word or made an interrupt deliverable: 1 if the unit shall end.
fn changed(st: &mut X86State, bus: &Bus<'_>, before: u64) -> u64 {
    st.mode = st.compute_mode();
    let interrupts = st.rflags & flags::IF != 0 && !bus.apic().pending().is_empty();
    u64::from(st.mode != before || interrupts)
}

// ---- arithmetic ----

pub(crate) extern "C" fn compute_flags(cx: &mut Cx, _: u64, _: u64, _: u64, _: u64) -> u64 {
    cx.state::<X86State>().arithmetic_flags()
}

/// RCL or RCR of `bytes` (low byte of `what`; bit 8: left) by `count`, already masked to 5 or 6 bits: value and CF.
fn rotate_carry(value: u64, count: u64, f: u64, what: u64) -> (u64, u64) {
    let bits = 8 * (what as u32 & 0xff);
    let left = what & 0x100 != 0;
    let n = count as u32 & 0x3f;
    let n = n % (bits + 1);
    let mask = (1u128 << (bits + 1)) - 1;
    let all = (u128::from(value) & (mask >> 1)) | u128::from(f & CF) << bits;
    let n = if left { n } else { bits + 1 - n } % (bits + 1);
    let r = (all << n | all >> (bits + 1 - n)) & mask;
    (r as u64 & (mask >> 1) as u64, (r >> bits) as u64)
}

pub(crate) extern "C" fn rotate_carry_value(_: &mut Cx, value: u64, count: u64, f: u64, what: u64) -> u64 {
    rotate_carry(value, count, f, what).0
}

pub(crate) extern "C" fn rotate_carry_flags(_: &mut Cx, value: u64, count: u64, f: u64, what: u64) -> u64 {
    if count as u32 & 0x3f == 0 {
        return f;
    }
    let bits = 8 * (what as u32 & 0xff);
    let (r, carry) = rotate_carry(value, count, f, what);
    let top = r >> (bits - 1) & 1;
    // OF is right for a count of 1: CF xor the top bit after RCL, the difference of the two top bits after RCR.
    let overflow = if what & 0x100 != 0 { top ^ carry } else { top ^ r >> (bits - 2) & 1 };
    f & !(CF | OF) | carry | overflow << OF.trailing_zeros()
}

/// SF, ZF and PF of a byte, by the flag record of a bitwise operation.
fn byte_flags(al: u64) -> u64 {
    flags::compute(flags::CcOp::LogicB as u32, al, 0, 0)
}

/// AAA (`sign` 1) and AAS (`sign` -1), SDM vol. 2.
fn ascii_adjust(ax: u64, f: u64, add: bool) -> u64 {
    let (mut ax, al) = (ax as u16, ax as u8);
    let adjust = al & 0xf > 9 || f & AF != 0;
    if adjust {
        ax = if add { ax.wrapping_add(0x106) } else { ax.wrapping_sub(6).wrapping_sub(0x100) };
    }
    ax &= 0xff0f;
    let f = byte_flags(u64::from(ax as u8)) | if adjust { AF | CF } else { 0 };
    u64::from(ax) | f << 16
}

pub(crate) extern "C" fn aaa(_: &mut Cx, ax: u64, f: u64, _: u64, _: u64) -> u64 {
    ascii_adjust(ax, f, true)
}

pub(crate) extern "C" fn aas(_: &mut Cx, ax: u64, f: u64, _: u64, _: u64) -> u64 {
    ascii_adjust(ax, f, false)
}

/// DAA and DAS, SDM vol. 2.
fn decimal_adjust(ax: u64, f: u64, add: bool) -> u64 {
    let old = ax as u8;
    let mut al = old;
    let mut out = 0;
    let step = |al: u8, by: u8| if add { al.wrapping_add(by) } else { al.wrapping_sub(by) };
    if old & 0xf > 9 || f & AF != 0 {
        al = step(al, 6);
        out |= AF;
        let wrapped = if add { old > 0xf9 } else { old < 6 };
        if wrapped || f & CF != 0 {
            out |= CF;
        }
    }
    if old > 0x99 || f & CF != 0 {
        al = step(al, 0x60);
        out |= CF;
    }
    ax & 0xff00 | u64::from(al) | (byte_flags(u64::from(al)) | out) << 16
}

pub(crate) extern "C" fn daa(_: &mut Cx, ax: u64, f: u64, _: u64, _: u64) -> u64 {
    decimal_adjust(ax, f, true)
}

pub(crate) extern "C" fn das(_: &mut Cx, ax: u64, f: u64, _: u64, _: u64) -> u64 {
    decimal_adjust(ax, f, false)
}

pub(crate) extern "C" fn idiv64(cx: &mut Cx, high: u64, low: u64, divisor: u64, _: u64) -> u64 {
    run(cx, |st, _| {
        let dividend = (u128::from(high) << 64 | u128::from(low)) as i128;
        let divisor = i128::from(divisor as i64);
        let q = dividend.checked_div(divisor).ok_or(Exception::de())?;
        let quotient = i64::try_from(q).map_err(|_| Exception::de())?;
        st.scratch[0] = (dividend % divisor) as u64;
        Ok(quotient as u64)
    })
}

pub(crate) extern "C" fn cmpxchg16b(cx: &mut Cx, linear: u64, _: u64, _: u64, _: u64) -> u64 {
    let st = cx.state::<X86State>();
    if !linear.is_multiple_of(16) {
        return act(cx, |_, _| Err(Exception::gp(0)));
    }
    let index = data_index(st.compute_mode());
    let pair = |high: usize, low: usize| u128::from(st.gpr[high]) << 64 | u128::from(st.gpr[low]);
    let (expected, new) = (pair(gpr::RDX, gpr::RAX), pair(gpr::RCX, gpr::RBX));
    match cx.atomic_cas128(linear, index, expected, new) {
        Ok(old) if old == expected => 1,
        Ok(old) => {
            let st = cx.state::<X86State>();
            st.gpr[gpr::RAX] = old as u64;
            st.gpr[gpr::RDX] = (old >> 64) as u64;
            0
        }
        Err(Leave(reason)) => {
            cx.leave(reason);
            0
        }
    }
}

// ---- segments and breakpoints ----

pub(crate) extern "C" fn check_segment(cx: &mut Cx, what: u64, offset: u64, _: u64, _: u64) -> u64 {
    let index = (what & 0xff) as usize;
    let bytes = what >> 8 & 0xffff;
    let write = what >> 24 & 1 != 0;
    act(cx, |st, _| {
        let Some(s) = st.seg.get(index) else { return Ok(()) };
        let code = s.attr & attr::CODE != 0;
        // In real mode a segment is readable and writable whatever was last loaded.
        let protected = rhea_x86_system::descriptor::is_protected(st);
        let usable = s.attr & attr::P != 0;
        let allowed = if write { !code && s.attr & attr::RW != 0 } else { !code || s.attr & attr::RW != 0 };
        let fits = stack::within_limit(s, offset, bytes);
        if usable && (allowed || !protected) && fits {
            return Ok(());
        }
        Err(if index == seg::SS { Exception::ss(0) } else { Exception::gp(0) })
    })
}

pub(crate) extern "C" fn check_breakpoint(cx: &mut Cx, linear: u64, _: u64, _: u64, _: u64) -> u64 {
    act(cx, |st, _| debug::check_execute(st, linear))
}

pub(crate) extern "C" fn load_segment(cx: &mut Cx, index: u64, selector: u64, _: u64, _: u64) -> u64 {
    run(cx, |st, bus| {
        let before = st.mode;
        segment::load(st, bus, index as usize & 7, selector as u16)?;
        st.mode = st.compute_mode();
        Ok(u64::from(st.mode != before))
    })
}

// ---- flags ----

pub(crate) extern "C" fn pushf(cx: &mut Cx, size: u64, _: u64, _: u64, _: u64) -> u64 {
    run(cx, |st, _| flag_instructions::pushf_value(st, size as u8))
}

pub(crate) extern "C" fn popf(cx: &mut Cx, value: u64, size: u64, _: u64, _: u64) -> u64 {
    run(cx, |st, bus| {
        let before = st.mode;
        flag_instructions::popf_value(st, value, size as u8)?;
        Ok(changed(st, bus, before))
    })
}

pub(crate) extern "C" fn cli(cx: &mut Cx, _: u64, _: u64, _: u64, _: u64) -> u64 {
    act(cx, |st, _| flag_instructions::cli(st))
}

pub(crate) extern "C" fn sti(cx: &mut Cx, _: u64, _: u64, _: u64, _: u64) -> u64 {
    act(cx, |st, _| flag_instructions::sti(st))
}

// ---- control transfers ----

pub(crate) extern "C" fn software_interrupt(cx: &mut Cx, kind: u64, next: u64, _: u64, _: u64) -> u64 {
    let kind = match kind as u32 {
        1 => SoftwareInterrupt::Icebp,
        3 => SoftwareInterrupt::Int3,
        4 => SoftwareInterrupt::Into,
        n => SoftwareInterrupt::IntN(n as u8),
    };
    act(cx, |st, bus| interrupt::software(st, bus, kind, next))
}

pub(crate) extern "C" fn iret(cx: &mut Cx, size: u64, next: u64, _: u64, _: u64) -> u64 {
    act(cx, |st, bus| iret_semantics::iret(st, bus, size as u8, next))
}

pub(crate) extern "C" fn far_jump(cx: &mut Cx, selector: u64, offset: u64, size: u64, next: u64) -> u64 {
    act(cx, |st, bus| far::jump(st, bus, selector as u16, offset, size as u8, next))
}

pub(crate) extern "C" fn far_call(cx: &mut Cx, selector: u64, offset: u64, size: u64, next: u64) -> u64 {
    act(cx, |st, bus| far::call(st, bus, selector as u16, offset, size as u8, next))
}

pub(crate) extern "C" fn far_return(cx: &mut Cx, size: u64, release: u64, _: u64, _: u64) -> u64 {
    act(cx, |st, bus| far::ret(st, bus, size as u8, release as u16))
}

pub(crate) extern "C" fn syscall(cx: &mut Cx, _: u64, next: u64, _: u64, _: u64) -> u64 {
    act(cx, |st, bus| fast::syscall(st, bus, next))
}

pub(crate) extern "C" fn sysret(cx: &mut Cx, size: u64, _: u64, _: u64, _: u64) -> u64 {
    act(cx, |st, bus| fast::sysret(st, bus, size as u8))
}

pub(crate) extern "C" fn sysenter(cx: &mut Cx, _: u64, _: u64, _: u64, _: u64) -> u64 {
    act(cx, |st, bus| fast::sysenter(st, bus))
}

pub(crate) extern "C" fn sysexit(cx: &mut Cx, size: u64, _: u64, _: u64, _: u64) -> u64 {
    act(cx, |st, bus| fast::sysexit(st, bus, size as u8))
}

pub(crate) extern "C" fn rsm(cx: &mut Cx, _: u64, _: u64, _: u64, _: u64) -> u64 {
    act(cx, |st, bus| smm::rsm(st, bus))
}

// ---- tables and control registers ----

pub(crate) extern "C" fn lgdt(cx: &mut Cx, limit: u64, base: u64, size: u64, _: u64) -> u64 {
    act(cx, |st, _| privileged::lgdt(st, limit as u16, base, size as u8))
}

pub(crate) extern "C" fn lidt(cx: &mut Cx, limit: u64, base: u64, size: u64, _: u64) -> u64 {
    act(cx, |st, _| privileged::lidt(st, limit as u16, base, size as u8))
}

pub(crate) extern "C" fn sgdt(cx: &mut Cx, _: u64, _: u64, _: u64, _: u64) -> u64 {
    run(cx, |st, _| {
        let (limit, base) = privileged::sgdt(st)?;
        st.scratch[0] = base;
        Ok(u64::from(limit))
    })
}

pub(crate) extern "C" fn sidt(cx: &mut Cx, _: u64, _: u64, _: u64, _: u64) -> u64 {
    run(cx, |st, _| {
        let (limit, base) = privileged::sidt(st)?;
        st.scratch[0] = base;
        Ok(u64::from(limit))
    })
}

pub(crate) extern "C" fn lldt(cx: &mut Cx, selector: u64, _: u64, _: u64, _: u64) -> u64 {
    act(cx, |st, bus| segment::lldt(st, bus, selector as u16))
}

pub(crate) extern "C" fn ltr(cx: &mut Cx, selector: u64, _: u64, _: u64, _: u64) -> u64 {
    act(cx, |st, bus| segment::ltr(st, bus, selector as u16))
}

pub(crate) extern "C" fn sldt(cx: &mut Cx, _: u64, _: u64, _: u64, _: u64) -> u64 {
    run(cx, |st, _| privileged::sldt(st).map(u64::from))
}

pub(crate) extern "C" fn str_insn(cx: &mut Cx, _: u64, _: u64, _: u64, _: u64) -> u64 {
    run(cx, |st, _| privileged::str(st).map(u64::from))
}

pub(crate) extern "C" fn smsw(cx: &mut Cx, _: u64, _: u64, _: u64, _: u64) -> u64 {
    run(cx, |st, _| control::smsw(st))
}

pub(crate) extern "C" fn lmsw(cx: &mut Cx, value: u64, _: u64, _: u64, _: u64) -> u64 {
    act(cx, |st, bus| control::lmsw(st, bus, value as u16))
}

pub(crate) extern "C" fn clts(cx: &mut Cx, _: u64, _: u64, _: u64, _: u64) -> u64 {
    act(cx, |st, _| control::clts(st))
}

pub(crate) extern "C" fn wbinvd(cx: &mut Cx, _: u64, _: u64, _: u64, _: u64) -> u64 {
    act(cx, |st, _| privileged::wbinvd(st))
}

pub(crate) extern "C" fn invlpg(cx: &mut Cx, linear: u64, _: u64, _: u64, _: u64) -> u64 {
    act(cx, |st, bus| privileged::invlpg(st, bus, linear))
}

pub(crate) extern "C" fn invpcid(cx: &mut Cx, kind: u64, low: u64, linear: u64, _: u64) -> u64 {
    act(cx, |st, bus| privileged::invpcid(st, bus, kind, low, linear))
}

/// LAR's and LSL's answer: bit 32 says that there is one.
fn optional(v: Option<u32>) -> u64 {
    v.map_or(0, |v| 1 << 32 | u64::from(v))
}

pub(crate) extern "C" fn lar(cx: &mut Cx, selector: u64, _: u64, _: u64, _: u64) -> u64 {
    run(cx, |st, bus| segment::lar(st, bus, selector as u16).map(optional))
}

pub(crate) extern "C" fn lsl(cx: &mut Cx, selector: u64, _: u64, _: u64, _: u64) -> u64 {
    run(cx, |st, bus| segment::lsl(st, bus, selector as u16).map(optional))
}

pub(crate) extern "C" fn verr(cx: &mut Cx, selector: u64, _: u64, _: u64, _: u64) -> u64 {
    run(cx, |st, bus| segment::verr(st, bus, selector as u16).map(u64::from))
}

pub(crate) extern "C" fn verw(cx: &mut Cx, selector: u64, _: u64, _: u64, _: u64) -> u64 {
    run(cx, |st, bus| segment::verw(st, bus, selector as u16).map(u64::from))
}

pub(crate) extern "C" fn write_cr(cx: &mut Cx, n: u64, value: u64, _: u64, _: u64) -> u64 {
    act(cx, |st, bus| {
        control::write_cr(st, bus, n as u8, value)
            .inspect_err(|e| trace::refused(bus.env, st, e, format_args!("write of {value:#x} to CR{n}")))
    })
}

pub(crate) extern "C" fn read_cr8(cx: &mut Cx, _: u64, _: u64, _: u64, _: u64) -> u64 {
    run(cx, |st, bus| control::read_cr(st, bus, 8))
}

pub(crate) extern "C" fn read_dr(cx: &mut Cx, n: u64, _: u64, _: u64, _: u64) -> u64 {
    run(cx, |st, _| debug::read_dr(st, n as u8))
}

pub(crate) extern "C" fn write_dr(cx: &mut Cx, n: u64, value: u64, _: u64, _: u64) -> u64 {
    act(cx, |st, bus| {
        debug::write_dr(st, n as u8, value)?;
        // Pages with data breakpoints are never kept in the TLB, so those that are may have to go.
        bus.flush_tlb(rhea_x86_system::bus::TlbScope::All);
        Ok(())
    })
}

// ---- the processor ----

pub(crate) extern "C" fn cpuid(cx: &mut Cx, _: u64, _: u64, _: u64, _: u64) -> u64 {
    act(cx, |st, bus| {
        bus.cpuid(st);
        Ok(())
    })
}

pub(crate) extern "C" fn rdtsc(cx: &mut Cx, _: u64, _: u64, _: u64, _: u64) -> u64 {
    run(cx, |st, bus| privileged::rdtsc(st, bus))
}

pub(crate) extern "C" fn rdpmc(cx: &mut Cx, index: u64, _: u64, _: u64, _: u64) -> u64 {
    run(cx, |st, _| privileged::rdpmc(st, index as u32))
}

pub(crate) extern "C" fn rdmsr(cx: &mut Cx, index: u64, _: u64, _: u64, _: u64) -> u64 {
    run(cx, |st, bus| {
        msr::rdmsr(st, bus, index as u32)
            .inspect_err(|e| trace::refused(bus.env, st, e, format_args!("RDMSR of {index:#x}")))
    })
}

pub(crate) extern "C" fn wrmsr(cx: &mut Cx, index: u64, value: u64, _: u64, _: u64) -> u64 {
    run(cx, |st, bus| {
        let before = st.mode;
        msr::wrmsr(st, bus, index as u32, value).inspect_err(|e| {
            trace::refused(bus.env, st, e, format_args!("WRMSR of {value:#x} to {index:#x}"));
        })?;
        Ok(changed(st, bus, before))
    })
}

pub(crate) extern "C" fn xgetbv(cx: &mut Cx, index: u64, _: u64, _: u64, _: u64) -> u64 {
    run(cx, |st, _| control::xgetbv(st, index as u32))
}

pub(crate) extern "C" fn xsetbv(cx: &mut Cx, index: u64, value: u64, _: u64, _: u64) -> u64 {
    act(cx, |st, bus| {
        control::xsetbv(st, index as u32, value).inspect_err(|e| {
            trace::refused(bus.env, st, e, format_args!("XSETBV of {value:#x} to XCR{index}"));
        })
    })
}

pub(crate) extern "C" fn random(cx: &mut Cx, size: u64, _: u64, _: u64, _: u64) -> u64 {
    run(cx, |_, bus| Ok(privileged::random(bus, size as u8)))
}

pub(crate) extern "C" fn monitor(cx: &mut Cx, extensions: u64, _: u64, _: u64, _: u64) -> u64 {
    act(cx, |st, _| privileged::monitor(st, extensions as u32))
}

pub(crate) extern "C" fn mwait(cx: &mut Cx, extensions: u64, _: u64, _: u64, _: u64) -> u64 {
    act(cx, |st, _| privileged::mwait(st, extensions as u32))
}

// ---- ports ----

pub(crate) extern "C" fn check_io(cx: &mut Cx, port: u64, size: u64, _: u64, _: u64) -> u64 {
    act(cx, |st, bus| task::check_io(st, bus, port as u16, size as u8))
}

pub(crate) extern "C" fn port_in(cx: &mut Cx, port: u64, size: u64, _: u64, _: u64) -> u64 {
    run(cx, |st, bus| {
        bus.watch_io(st, port as u16, size as u8);
        task::port_in(st, bus, port as u16, size as u8).map(u64::from)
    })
}

pub(crate) extern "C" fn port_out(cx: &mut Cx, port: u64, size: u64, value: u64, _: u64) -> u64 {
    act(cx, |st, bus| {
        bus.watch_io(st, port as u16, size as u8);
        task::port_out(st, bus, port as u16, size as u8, value as u32)
    })
}

// ---- repeated string instructions ----

/// What a repeated string instruction works on, from the state.
struct Block {
    /// Bytes of an element.
    bytes: u64,
    /// Address mask.
    mask: u64,
    index: u8,
    count: u64,
    backward: bool,
}

impl Block {
    fn new(st: &X86State, what: u64) -> Self {
        let bits = what >> 8 & 0xff;
        let mask = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
        Block {
            bytes: what & 0xff,
            mask,
            index: (what >> 16 & 0xff) as u8,
            count: st.gpr[gpr::RCX] & mask,
            backward: st.df != 0,
        }
    }

    /// Elements from `address` upward that lie in its page and before the address wraps; 0 when the first crosses.
    fn in_page(&self, address: u64) -> u64 {
        (4096 - address % 4096) / self.bytes
    }

    /// Writes a counter or index register as its address width does.
    fn set(&self, st: &mut X86State, register: usize, value: u64) {
        let keep = if self.mask == 0xffff { st.gpr[register] & !0xffff } else { 0 };
        st.gpr[register] = keep | value & self.mask;
    }
}

/// Longest run of one helper call, in bytes.
const RUN: usize = 4096;
/// A run that gets along with a small buffer.
const SHORT: usize = 256;

pub(crate) extern "C" fn rep_movs(cx: &mut Cx, what: u64, _: u64, _: u64, _: u64) -> u64 {
    if let Err(Leave(reason)) = move_block(cx, what) {
        cx.leave(reason);
    }
    0
}

fn copy(cx: &mut Cx, from: u64, to: u64, buffer: &mut [u8], index: u8) -> Result<(), Leave> {
    cx.load_bytes(from, buffer, index)?;
    cx.store_bytes(to, buffer, index)
}

fn move_block(cx: &mut Cx, what: u64) -> Result<(), Leave> {
    let st = cx.state::<X86State>();
    let b = Block::new(st, what);
    let (from, to) = (st.gpr[gpr::RSI] & b.mask, st.gpr[gpr::RDI] & b.mask);
    let n = b.count.min(b.in_page(from)).min(b.in_page(to));
    let bytes = n * b.bytes;
    // Upward, a destination just above the source reads what was written: element by element then.
    let overlaps = to.wrapping_sub(from) < bytes;
    if b.backward || n < 2 || overlaps {
        let step = if b.backward { b.bytes.wrapping_neg() } else { b.bytes };
        let (mut from, mut to, mut done) = (from, to, 0);
        let limit = b.count.min(RUN as u64 / b.bytes);
        while done < limit {
            let moved =
                cx.load(from, b.bytes as u32, b.index).and_then(|v| cx.store(to, b.bytes as u32, v, b.index));
            if moved.is_ok() {
                from = from.wrapping_add(step) & b.mask;
                to = to.wrapping_add(step) & b.mask;
                done += 1;
            }
            let st = cx.state::<X86State>();
            b.set(st, gpr::RSI, from);
            b.set(st, gpr::RDI, to);
            b.set(st, gpr::RCX, b.count - done);
            moved?;
        }
        return Ok(());
    }
    // Most moves are short, and clearing a page-sized buffer costs as much as they do.
    if bytes <= SHORT as u64 {
        copy(cx, from, to, &mut [0; SHORT][..bytes as usize], b.index)?;
    } else {
        copy(cx, from, to, &mut [0; RUN][..bytes as usize], b.index)?;
    }
    let st = cx.state::<X86State>();
    b.set(st, gpr::RSI, from.wrapping_add(bytes));
    b.set(st, gpr::RDI, to.wrapping_add(bytes));
    b.set(st, gpr::RCX, b.count - n);
    Ok(())
}

pub(crate) extern "C" fn rep_stos(cx: &mut Cx, what: u64, _: u64, _: u64, _: u64) -> u64 {
    if let Err(Leave(reason)) = store_block(cx, what) {
        cx.leave(reason);
    }
    0
}

fn fill(cx: &mut Cx, to: u64, buffer: &mut [u8], value: u64, b: &Block) -> Result<(), Leave> {
    let element = &value.to_le_bytes()[..b.bytes as usize];
    if value != 0 {
        for c in buffer.chunks_exact_mut(element.len()) {
            c.copy_from_slice(element);
        }
    }
    cx.store_bytes(to, buffer, b.index)
}

fn store_block(cx: &mut Cx, what: u64) -> Result<(), Leave> {
    let st = cx.state::<X86State>();
    let b = Block::new(st, what);
    let to = st.gpr[gpr::RDI] & b.mask;
    let value = st.gpr[gpr::RAX];
    let n = b.count.min(b.in_page(to));
    if b.backward || n < 2 {
        let step = if b.backward { b.bytes.wrapping_neg() } else { b.bytes };
        let (mut to, mut done) = (to, 0);
        let limit = b.count.min(RUN as u64 / b.bytes);
        while done < limit {
            let stored = cx.store(to, b.bytes as u32, value, b.index);
            if stored.is_ok() {
                to = to.wrapping_add(step) & b.mask;
                done += 1;
            }
            let st = cx.state::<X86State>();
            b.set(st, gpr::RDI, to);
            b.set(st, gpr::RCX, b.count - done);
            stored?;
        }
        return Ok(());
    }
    let bytes = (n * b.bytes) as usize;
    if bytes <= SHORT {
        fill(cx, to, &mut [0; SHORT][..bytes], value, &b)?;
    } else {
        fill(cx, to, &mut [0; RUN][..bytes], value, &b)?;
    }
    let st = cx.state::<X86State>();
    b.set(st, gpr::RDI, to.wrapping_add(bytes as u64));
    b.set(st, gpr::RCX, b.count - n);
    Ok(())
}

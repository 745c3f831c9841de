//! What the helpers of [`crate::vector_helpers`] do.
//!
//! A helper that faults leaves the state as it was and asks to leave with the fault's reason. One that may change the
//! mode word (unmasking exceptions does) goes on in the unit when it did not, and otherwise leaves after the
//! instruction: it sets the PC itself.

pub mod area;
pub mod estimate;
pub mod strings;

use rhea_engine::{Env, FloatEnv, HelperFn, Leave, VcpuContext};
use rhea_x86_state::state::{gpr, seg};
use rhea_x86_state::{X86State, mode};

use crate::reasons::{self, vector};
use crate::save::SaveKind;
use crate::vector_helpers::{COUNT, Gather};
use crate::x87::decode::{Decoded, Operation};
use crate::x87::execute::{self, Memory, Pointers};
use area::Area;

/// MXCSR bit 6 and 15.
const DAZ: u32 = 1 << 6;
const FTZ: u32 = 1 << 15;
const EXCEPTIONS: u32 = 0x3f;
/// Invalid, denormal and divide-by-zero.
const OF_OPERANDS: u32 = 7;
const CR0_NE: u64 = 1 << 5;
const CR4_OSXMMEXCPT: u64 = 1 << 10;

/// The functions, in the order of [`crate::vector_helpers::INFOS`].
pub static FUNCTIONS: [HelperFn; COUNT as usize] = [
    sse_begin,
    sse_check,
    load_mxcsr,
    read_mxcsr,
    reciprocal,
    reciprocal_root,
    compare_strings,
    masked_move,
    masked_bytes,
    gather,
    x87_check_pending,
    x87_execute,
    x87_function,
    x87_status_word,
    x87_load_control,
    save_state,
    restore_state,
];

// ---- shared ----

fn st(cx: &mut VcpuContext) -> &mut X86State {
    cx.state::<X86State>()
}

fn env(cx: &mut VcpuContext) -> &mut Env {
    cx.env()
}

/// MMU index in a control word.
fn index(control: u64) -> u8 {
    (control >> 56 & 7) as u8
}

/// Hands the floating-point modes of the state to the engine: after a reset, a state load, or a change of MXCSR or the
/// x87 control word by other means than instructions.
pub fn load_float_environment(cx: &mut VcpuContext) {
    load_sse_environment(cx);
    let cw = st(cx).x87_cw;
    env(cx).float.set_x87_control(cw);
}

fn load_sse_environment(cx: &mut VcpuContext) {
    let mxcsr = st(cx).mxcsr;
    env(cx).float.set_env(FloatEnv {
        rounding: (mxcsr >> 13 & 3) as u8,
        flush_to_zero: mxcsr & FTZ != 0,
        denormals_are_zero: mxcsr & DAZ != 0,
    });
}

/// Brings the sticky flags in MXCSR and the x87 status word up to date: before the state is looked at from outside.
pub fn merge_float_flags(cx: &mut VcpuContext) {
    merge_sse_flags(cx);
    merge_x87_flags(cx);
}

fn merge_sse_flags(cx: &mut VcpuContext) {
    let flags = env(cx).float.take_flags();
    st(cx).mxcsr |= flags;
}

fn merge_x87_flags(cx: &mut VcpuContext) {
    let flags = env(cx).float.take_x87_flags();
    st(cx).x87_sw |= flags;
}

/// Leaves after the instruction if the mode word is not what the unit was translated for.
fn finish_mode(cx: &mut VcpuContext, next_pc: u64) {
    const ONE_BY_ONE: u64 = mode::TF | mode::SHADOW | mode::DATA_BREAKPOINTS | mode::CODE_BREAKPOINTS;
    let st = st(cx);
    let (old, new) = (st.mode, st.compute_mode());
    if old == new {
        return;
    }
    st.mode = new;
    // In the modes that execute one instruction at a time the unit ends by itself, and knows what is to follow.
    if old & ONE_BY_ONE == 0 {
        st.rip = next_pc;
        cx.leave(reasons::RESUME);
    }
}

fn leave_with(cx: &mut VcpuContext, result: Result<(), Leave>) -> u64 {
    if let Err(Leave(reason)) = result {
        cx.leave(reason);
    }
    0
}

fn raise(vector: u8) -> Leave {
    Leave(reasons::fault(vector))
}

// ---- SSE environment ----

extern "C" fn sse_begin(cx: &mut VcpuContext, _: u64, _: u64, _: u64, _: u64) -> u64 {
    merge_sse_flags(cx);
    0
}

extern "C" fn sse_check(cx: &mut VcpuContext, _: u64, _: u64, _: u64, _: u64) -> u64 {
    let flags = env(cx).float.take_flags();
    let st = st(cx);
    let unmasked = flags & !(st.mxcsr >> 7) & EXCEPTIONS;
    // An unmasked exception of the operands comes before any of a result (SDM vol. 1, 11.5.2.3).
    st.mxcsr |= if unmasked & OF_OPERANDS != 0 { flags & OF_OPERANDS } else { flags };
    if unmasked != 0 {
        let vector = if st.cr[4] & CR4_OSXMMEXCPT != 0 { vector::XM } else { vector::UD };
        cx.leave(reasons::fault(vector));
    }
    0
}

extern "C" fn load_mxcsr(cx: &mut VcpuContext, value: u64, next: u64, _: u64, _: u64) -> u64 {
    let value = value as u32;
    if value & !area::MXCSR_MASK != 0 {
        cx.leave(reasons::fault(vector::GP));
        return 0;
    }
    env(cx).float.take_flags();
    let old = std::mem::replace(&mut st(cx).mxcsr, value);
    if (old ^ value) & !(EXCEPTIONS | EXCEPTIONS << 7) != 0 {
        load_sse_environment(cx);
    }
    if (old ^ value) & EXCEPTIONS << 7 != 0 {
        finish_mode(cx, next);
    }
    0
}

extern "C" fn read_mxcsr(cx: &mut VcpuContext, _: u64, _: u64, _: u64, _: u64) -> u64 {
    merge_sse_flags(cx);
    u64::from(st(cx).mxcsr)
}

extern "C" fn reciprocal(_: &mut VcpuContext, values: u64, _: u64, _: u64, _: u64) -> u64 {
    estimate::reciprocal(values)
}

extern "C" fn reciprocal_root(_: &mut VcpuContext, values: u64, _: u64, _: u64, _: u64) -> u64 {
    estimate::reciprocal_root(values)
}

// ---- strings ----

extern "C" fn compare_strings(cx: &mut VcpuContext, control: u64, _: u64, _: u64, _: u64) -> u64 {
    let st = st(cx);
    let length = |register: u64| {
        if control >> 9 & 1 != 0 {
            (register as i64).unsigned_abs()
        } else {
            u64::from((register as i32).unsigned_abs())
        }
    };
    let explicit = control >> 8 & 1 != 0;
    let lengths = explicit.then(|| (length(st.gpr[gpr::RAX]), length(st.gpr[gpr::RDX])));
    let [a0, a1, b0, b1, ..] = st.scratch;
    let c = strings::compare([a0, a1], [b0, b1], control as u8, lengths);
    st.scratch[..2].copy_from_slice(&c.mask);
    c.flags | u64::from(c.index) << 32
}

// ---- memory by lanes ----

extern "C" fn masked_move(cx: &mut VcpuContext, control: u64, addr: u64, _: u64, _: u64) -> u64 {
    let r = do_masked_move(cx, control, addr);
    leave_with(cx, r)
}

/// Lane `i` of a vector register.
fn lane(register: &[u64; 4], i: u64, bytes: u64) -> u64 {
    let bit = i * bytes * 8;
    let v = register[(bit / 64) as usize] >> (bit % 64);
    if bytes == 4 { v & 0xffff_ffff } else { v }
}

fn set_lane(register: &mut [u64; 4], i: u64, bytes: u64, value: u64) {
    let bit = i * bytes * 8;
    let word = &mut register[(bit / 64) as usize];
    let mask = if bytes == 4 { 0xffff_ffff << (bit % 64) } else { u64::MAX };
    *word = *word & !mask | value << (bit % 64) & mask;
}

fn sign(register: &[u64; 4], i: u64, bytes: u64) -> bool {
    lane(register, i, bytes) >> (bytes * 8 - 1) & 1 != 0
}

/// Linear addresses wrap at 32 bits outside 64-bit mode.
fn wrap_linear(cx: &mut VcpuContext, addr: u64) -> u64 {
    if st(cx).mode & mode::CS64 != 0 { addr } else { addr & 0xffff_ffff }
}

/// Checks that `bytes` bytes could be stored; a fault in a second page reports that page's start.
fn probe(cx: &mut VcpuContext, at: u64, bytes: u64, index: u8) -> Result<(), Leave> {
    cx.probe_write(at, 1, index)?;
    let last = at.wrapping_add(bytes - 1);
    if (at ^ last) >> 12 != 0 {
        let page = wrap_linear(cx, last & !0xfff);
        cx.probe_write(page, 1, index)?;
    }
    Ok(())
}

fn do_masked_move(cx: &mut VcpuContext, control: u64, addr: u64) -> Result<(), Leave> {
    let byte = |pos: u32| control >> pos & 0xff;
    let (data, mask) = ((byte(0) & 15) as usize, (byte(8) & 15) as usize);
    let (bytes, lane_bytes, store) = (byte(16), byte(24), control >> 32 & 1 != 0);
    let index = index(control);
    let mask = st(cx).vec[mask];
    let lanes = bytes / lane_bytes;
    let active = |i: &u64| sign(&mask, *i, lane_bytes);
    if store {
        let value = st(cx).vec[data];
        for i in (0..lanes).filter(active) {
            let at = wrap_linear(cx, addr.wrapping_add(i * lane_bytes));
            probe(cx, at, lane_bytes, index)?;
        }
        for i in (0..lanes).filter(active) {
            let at = wrap_linear(cx, addr.wrapping_add(i * lane_bytes));
            cx.store(at, lane_bytes as u32, lane(&value, i, lane_bytes), index)?;
        }
        return Ok(());
    }
    let mut value = [0; 4];
    for i in (0..lanes).filter(active) {
        let at = wrap_linear(cx, addr.wrapping_add(i * lane_bytes));
        let v = cx.load(at, lane_bytes as u32, index)?;
        set_lane(&mut value, i, lane_bytes, v);
    }
    st(cx).vec[data] = value;
    Ok(())
}

extern "C" fn masked_bytes(cx: &mut VcpuContext, control: u64, addr: u64, _: u64, _: u64) -> u64 {
    let r = do_masked_bytes(cx, control, addr);
    leave_with(cx, r)
}

fn do_masked_bytes(cx: &mut VcpuContext, control: u64, addr: u64) -> Result<(), Leave> {
    let index = index(control);
    let bytes = control & 0xff;
    if bytes == 8 && st(cx).mode & mode::ALIGNMENT_CHECK != 0 && !addr.is_multiple_of(8) {
        return Err(raise(vector::AC));
    }
    let [d0, d1, m0, m1, ..] = st(cx).scratch;
    let byte = |q: [u64; 2], i: u64| (q[(i / 8) as usize] >> (8 * (i % 8))) as u8;
    let active = |i: &u64| byte([m0, m1], *i) & 0x80 != 0;
    // A fault reports the start of the operand, or of the page that faults.
    for i in (0..bytes).filter(active) {
        let byte = wrap_linear(cx, addr.wrapping_add(i));
        let start = wrap_linear(cx, addr).max(byte & !0xfff);
        cx.probe_write(if start > byte { byte } else { start }, 1, index)?;
    }
    for i in (0..bytes).filter(active) {
        let at = wrap_linear(cx, addr.wrapping_add(i));
        cx.store(at, 1, u64::from(byte([d0, d1], i)), index)?;
    }
    Ok(())
}

extern "C" fn gather(cx: &mut VcpuContext, control: u64, base: u64, segment_base: u64, segment: u64) -> u64 {
    let r = do_gather(cx, control, base, segment_base, segment as u32 as usize);
    leave_with(cx, r)
}

/// Elements are loaded in order; a fault leaves those before it loaded and their mask bits clear (SDM vol. 2,
/// VGATHERDPS).
fn do_gather(
    cx: &mut VcpuContext,
    control: u64,
    base: u64,
    segment_base: u64,
    segment: usize,
) -> Result<(), Leave> {
    let g = Gather::unpack(control);
    let mmu = index(control);
    let lanes = (g.data_bytes / g.lane_bytes).min(g.index_register_bytes / g.index_bytes);
    let indices = st(cx).vec[g.index];
    let address_mask = u64::MAX >> (64 - g.address_bits.clamp(16, 64));
    for i in 0..lanes {
        if sign(&st(cx).vec[g.mask], i, g.lane_bytes) {
            let raw = lane(&indices, i, g.index_bytes);
            let index = if g.index_bytes == 4 { raw as i32 as i64 as u64 } else { raw };
            let offset = base.wrapping_add(index << g.scale) & address_mask;
            check_limit(cx, segment, offset, g.lane_bytes)?;
            let at = wrap_linear(cx, segment_base.wrapping_add(offset));
            let v = cx.load(at, g.lane_bytes as u32, mmu)?;
            set_lane(&mut st(cx).vec[g.data], i, g.lane_bytes, v);
        }
        set_lane(&mut st(cx).vec[g.mask], i, g.lane_bytes, 0);
    }
    let st = st(cx);
    st.vec[g.mask] = [0; 4];
    for word in &mut st.vec[g.data][(lanes * g.lane_bytes / 8) as usize..] {
        *word = 0;
    }
    Ok(())
}

/// Expand-up data segments outside 64-bit mode: the access must end within the limit.
fn check_limit(cx: &mut VcpuContext, segment: usize, offset: u64, bytes: u64) -> Result<(), Leave> {
    let st = st(cx);
    if st.mode & mode::CS64 != 0 {
        return Ok(());
    }
    let s = &st.seg[segment % st.seg.len()];
    let expand_down = s.attr & (rhea_x86_state::state::attr::CODE | rhea_x86_state::state::attr::EC)
        == rhea_x86_state::state::attr::EC;
    let last = offset.wrapping_add(bytes - 1);
    let inside = if expand_down {
        let top = if s.attr & rhea_x86_state::state::attr::DB != 0 { 0xffff_ffff } else { 0xffff };
        offset > u64::from(s.limit) && last <= top
    } else {
        last <= u64::from(s.limit)
    };
    if s.attr & rhea_x86_state::state::attr::P != 0 && inside {
        Ok(())
    } else {
        Err(raise(if segment == seg::SS { vector::SS } else { vector::GP }))
    }
}

// ---- x87 ----

/// An unmasked exception is pending: #MF, or the FERR# pin where CR0.NE is clear.
fn pending(cx: &mut VcpuContext) {
    let native = st(cx).cr[0] & CR0_NE != 0;
    cx.leave(if native { reasons::fault(vector::MF) } else { reasons::FERR });
}

extern "C" fn x87_check_pending(cx: &mut VcpuContext, _: u64, _: u64, _: u64, _: u64) -> u64 {
    if st(cx).x87_sw & 0x80 != 0 {
        pending(cx);
    }
    0
}

extern "C" fn x87_execute(cx: &mut VcpuContext, control: u64, addr: u64, offset: u64, next: u64) -> u64 {
    let r = do_x87_execute(cx, control, addr, offset, next);
    leave_with(cx, r)
}

fn do_x87_execute(
    cx: &mut VcpuContext,
    control: u64,
    addr: u64,
    offset: u64,
    next: u64,
) -> Result<(), Leave> {
    let d = Decoded::unpack(control);
    let mmu = index(control);
    let mut memory = Memory::default();
    merge_x87_flags(cx);
    if !d.no_wait && st(cx).x87_sw & 0x80 != 0 {
        pending(cx);
        return Ok(());
    }
    let bytes = d.memory_bytes() as usize;
    if bytes != 0 && st(cx).mode & mode::ALIGNMENT_CHECK != 0 && !addr.is_multiple_of(d.alignment()) {
        return Err(raise(vector::AC));
    }
    if d.stores() {
        // Memory is checked even if the instruction then stores nothing.
        probe(cx, addr, bytes as u64, mmu)?;
    } else if bytes != 0 {
        cx.load_bytes(addr, &mut memory.bytes[..bytes], mmu)?;
    }
    let state = st(cx);
    let data_segment = &state.seg[(control >> 44 & 7) as usize % state.seg.len()];
    let at =
        Pointers { ip: state.rip, cs: state.seg[seg::CS].selector, dp: offset, ds: data_segment.selector };
    let before = X87Part::of(state);
    // The pending check was made above, so this always executes.
    let _ = execute::execute(state, d, at, &mut memory);
    if memory.stored != 0
        && let Err(e) = cx.store_bytes(addr, &memory.bytes[..memory.stored], mmu)
    {
        before.put_back(st(cx));
        return Err(e);
    }
    if matches!(
        d.operation,
        Operation::LoadControl
            | Operation::LoadEnvironment
            | Operation::StoreEnvironment
            | Operation::Restore
            | Operation::Save
            | Operation::Initialize
    ) {
        let cw = st(cx).x87_cw;
        env(cx).float.set_x87_control(cw);
    }
    finish_mode(cx, next);
    Ok(())
}

/// The x87 part of the state, to undo an instruction whose store faults.
struct X87Part {
    registers: [rhea_x86_state::state::X87Register; 8],
    words: [u32; 4],
    pointers: (u64, u64, [u32; 4]),
}

impl X87Part {
    fn of(st: &X86State) -> Self {
        X87Part {
            registers: st.x87,
            words: [st.x87_top, st.x87_empty, st.x87_cw, st.x87_sw],
            pointers: (st.x87_ip, st.x87_dp, st.x87_cs_ds_op),
        }
    }

    fn put_back(self, st: &mut X86State) {
        st.x87 = self.registers;
        [st.x87_top, st.x87_empty, st.x87_cw, st.x87_sw] = self.words;
        (st.x87_ip, st.x87_dp, st.x87_cs_ds_op) = self.pointers;
    }
}

extern "C" fn x87_function(cx: &mut VcpuContext, control: u64, _: u64, _: u64, _: u64) -> u64 {
    let d = Decoded::unpack(control);
    // With every exception masked none can be pending, and the pointers are not recorded.
    let state = st(cx);
    let pointers = (state.x87_ip, state.x87_dp, state.x87_cs_ds_op);
    let _ = execute::execute(state, d, Pointers::default(), &mut Memory::default());
    (state.x87_ip, state.x87_dp, state.x87_cs_ds_op) = pointers;
    0
}

extern "C" fn x87_status_word(cx: &mut VcpuContext, _: u64, _: u64, _: u64, _: u64) -> u64 {
    merge_x87_flags(cx);
    u64::from(execute::status_word(st(cx)))
}

extern "C" fn x87_load_control(cx: &mut VcpuContext, value: u64, next: u64, _: u64, _: u64) -> u64 {
    let value = value as u16;
    let old = st(cx).x87_cw;
    let new = u32::from(value) & 0x1f3f | 0x40;
    let changed = old ^ new;
    if changed & EXCEPTIONS != 0 {
        // Unmasking what has been raised makes it pending.
        merge_x87_flags(cx);
    }
    execute::set_control_word(st(cx), value);
    if changed & 0xf00 != 0 {
        env(cx).float.set_x87_control(new);
    }
    if changed & EXCEPTIONS != 0 {
        finish_mode(cx, next);
    }
    0
}

// ---- areas ----

extern "C" fn save_state(cx: &mut VcpuContext, control: u64, addr: u64, _: u64, _: u64) -> u64 {
    let r = do_save_state(cx, control, addr);
    leave_with(cx, r)
}

fn check_aligned(addr: u64, kind: SaveKind) -> Result<(), Leave> {
    let bytes = if kind == SaveKind::Legacy { 16 } else { 64 };
    if addr.is_multiple_of(bytes) { Ok(()) } else { Err(raise(vector::GP)) }
}

fn requested(st: &X86State) -> u64 {
    st.gpr[gpr::RDX] << 32 | st.gpr[gpr::RAX] & 0xffff_ffff
}

fn do_save_state(cx: &mut VcpuContext, control: u64, addr: u64) -> Result<(), Leave> {
    let kind = SaveKind::from_control(control);
    let mmu = index(control);
    check_aligned(addr, kind)?;
    merge_float_flags(cx);
    let mut area = Area([0; area::WHOLE]);
    if kind == SaveKind::Legacy {
        cx.probe_write(addr, area::LEGACY as u32, mmu)?;
        cx.load_bytes(addr, &mut area.0[..area::LEGACY], mmu)?;
        area::fxsave(st(cx), control, &mut area);
        return cx.store_bytes(addr, &area.0[..area::LEGACY], mmu);
    }
    cx.load_bytes(addr, &mut area.0[..area::EXTENDED], mmu)?;
    let wanted = requested(st(cx));
    let changed = area::xsave(st(cx), control, wanted, &mut area);
    cx.store_bytes(addr, &area.0[..changed], mmu)
}

extern "C" fn restore_state(cx: &mut VcpuContext, control: u64, addr: u64, next: u64, _: u64) -> u64 {
    let r = do_restore_state(cx, control, addr, next);
    leave_with(cx, r)
}

fn do_restore_state(cx: &mut VcpuContext, control: u64, addr: u64, next: u64) -> Result<(), Leave> {
    let kind = SaveKind::from_control(control);
    let mmu = index(control);
    check_aligned(addr, kind)?;
    let mut area = Area([0; area::WHOLE]);
    let result = if kind == SaveKind::Legacy {
        cx.load_bytes(addr, &mut area.0[..area::LEGACY], mmu)?;
        merge_float_flags(cx);
        area::fxrstor(st(cx), control, &area)
    } else {
        cx.load_bytes(addr, &mut area.0[..area::EXTENDED], mmu)?;
        let wanted = requested(st(cx));
        let more = area::extended_bytes(st(cx), control, wanted, &area);
        let at = wrap_linear(cx, addr.wrapping_add(area::EXTENDED as u64));
        cx.load_bytes(at, &mut area.0[area::EXTENDED..area::EXTENDED + more], mmu)?;
        merge_float_flags(cx);
        area::xrstor(st(cx), control, wanted, &area)
    };
    result.map_err(|_| raise(vector::GP))?;
    load_float_environment(cx);
    finish_mode(cx, next);
    Ok(())
}

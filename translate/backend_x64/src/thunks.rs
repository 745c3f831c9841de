//! The few pieces of code that all units share: entering, leaving, and the slow path of memory accesses.

use crate::asm::{Asm, Gpr, Map, Mem, Pp, VOpcode, reg};
use crate::emitter::{BASE, PINNED};
use crate::layout::{Layout, ReturnKind, ThunkAddresses};

const CALLEE_SAVED: [Gpr; 6] = [reg::RBX, reg::RBP, reg::R12, reg::R13, reg::R14, reg::R15];
const CALLER_SAVED: [Gpr; 9] =
    [reg::RAX, reg::RCX, reg::RDX, reg::RSI, reg::RDI, reg::R8, reg::R9, reg::R10, reg::R11];
const MOVUPS_LOAD: VOpcode = VOpcode::new(Pp::None, Map::M0F, 0x10);
const MOVUPS_STORE: VOpcode = VOpcode::new(Pp::None, Map::M0F, 0x11);

/// The thunks' code and where each of them will be.
#[derive(Clone, Debug)]
pub struct Thunks {
    /// Code, to be placed at the address it was emitted for.
    pub code: Vec<u8>,
    /// Addresses, for [`Layout::thunks`].
    pub addresses: ThunkAddresses,
}

/// Emits the thunks, to be placed at `base` (a multiple of 16). Does not look at [`Layout::thunks`].
///
/// - *enter* is `extern "sysv64" fn(code: u64, state: u64) -> u64`: runs translated code on the guest state until it
///   returns; see [`ReturnKind::decode`].
/// - *leave*, *poll*, *lookup*, *chain* are jumped to by units: pinned registers are stored to their slots.
/// - *memory* is called by units: it calls [`Layout::memory_function`] with every register preserved, and returns with
///   ZF set unless the access faulted.
pub fn emit_thunks(layout: &Layout, base: u64) -> Thunks {
    let mut a = Asm::default();
    let at = |a: &mut Asm| {
        while !a.here().is_multiple_of(16) {
            a.byte(0xcc);
        }
        base + a.here() as u64
    };
    let enter = at(&mut a);
    emit_enter(&mut a, layout);
    let leave = at(&mut a);
    emit_return(&mut a, layout, ReturnKind::Leave);
    let poll = at(&mut a);
    emit_return(&mut a, layout, ReturnKind::Poll);
    let lookup = at(&mut a);
    emit_return(&mut a, layout, ReturnKind::Lookup);
    let chain = at(&mut a);
    emit_return(&mut a, layout, ReturnKind::Chain);
    let memory = at(&mut a);
    emit_memory(&mut a, layout);
    Thunks { code: a.code, addresses: ThunkAddresses { enter, memory, leave, poll, lookup, chain } }
}

/// Six registers pushed after the return address leave RSP 8 off a multiple of 16.
fn frame_size(layout: &Layout) -> i32 {
    layout.spill_bytes as i32 + 8
}

fn pinned(layout: &Layout) -> impl Iterator<Item = (Gpr, Mem)> {
    PINNED.iter().zip(&layout.hot).map(|(&r, &slot)| (Gpr(r), layout.at(slot as i32)))
}

fn emit_enter(a: &mut Asm, layout: &Layout) {
    for r in CALLEE_SAVED {
        a.push(r);
    }
    a.lea(64, reg::RSP, Mem::new(reg::RSP, -frame_size(layout)));
    a.lea(64, BASE, Mem::new(reg::RSI, layout.bias as i32));
    for (r, mem) in pinned(layout) {
        a.mov(64, r, mem);
    }
    a.jmp_rm(reg::RDI);
}

fn emit_return(a: &mut Asm, layout: &Layout, kind: ReturnKind) {
    for (r, mem) in pinned(layout) {
        a.store(64, mem, r);
    }
    if layout.features.avx {
        a.vzeroupper();
    }
    if kind == ReturnKind::Chain {
        a.shift_imm(64, crate::asm::Shift::Shl, reg::RAX, 8);
        a.alu_imm(32, crate::asm::Alu::Or, reg::RAX, kind as i32);
    } else {
        a.mov_imm(reg::RAX, kind as u64);
    }
    a.lea(64, reg::RSP, Mem::new(reg::RSP, frame_size(layout)));
    for r in CALLEE_SAVED.iter().rev() {
        a.pop(*r);
    }
    a.ret();
}

fn emit_memory(a: &mut Asm, layout: &Layout) {
    let wide = layout.features.avx;
    let size = if wide { 32 } else { 16 };
    // Called with RSP 8 off a multiple of 16: nine pushes align it.
    for r in CALLER_SAVED {
        a.push(r);
    }
    a.lea(64, reg::RSP, Mem::new(reg::RSP, -16 * size));
    for x in 0..16 {
        let mem = Mem::new(reg::RSP, i32::from(x) * size);
        if wide { a.vex(MOVUPS_STORE, true, x, 0, mem) } else { a.sse(MOVUPS_STORE, x, mem) }
    }
    if wide {
        a.vzeroupper();
    }
    a.mov(64, reg::RDI, layout.at(layout.frame.context));
    // The return address tells the engine which unit this is.
    a.mov(64, reg::RSI, Mem::new(reg::RSP, 16 * size + 8 * CALLER_SAVED.len() as i32));
    a.mov_imm(reg::RAX, layout.memory_function);
    a.call_rm(reg::RAX);
    a.test(32, reg::RAX, reg::RAX);
    // Nothing from here on touches the flags.
    for x in 0..16 {
        let mem = Mem::new(reg::RSP, i32::from(x) * size);
        if wide { a.vex(MOVUPS_LOAD, true, x, 0, mem) } else { a.sse(MOVUPS_LOAD, x, mem) }
    }
    a.lea(64, reg::RSP, Mem::new(reg::RSP, 16 * size));
    for r in CALLER_SAVED.iter().rev() {
        a.pop(*r);
    }
    a.ret();
}

//! What the helpers of [`crate::helpers`] do.

use rhea_engine::{Access, Leave, VcpuContext};
use rhea_riscv_state::RiscvState;
use rhea_riscv_state::csr as number;
use rhea_riscv_state::state::mmu;
use rhea_riscv_system::csr::{self, Operation, Request};
use rhea_riscv_system::exception::Cause;
use rhea_riscv_system::privileged::{self, CacheBlock, HypervisorFence};
use rhea_riscv_system::{Exception, interrupt};

use crate::cpu::{Bus, RiscvCpu};
use crate::{float, helpers, reasons};

/// Records an exception and asks to leave.
fn raise(cx: &mut VcpuContext, exception: Exception) {
    cx.data::<RiscvCpu>().pending = Some(exception);
    cx.leave(reasons::EXCEPTION);
}

fn data_index(cx: &mut VcpuContext) -> u8 {
    cx.state::<RiscvState>().data_index()
}

/// What [`helpers::CSR`] packs.
fn request(operand: u64, packed: u64) -> Request {
    let operation = match packed >> 12 & 3 {
        0 => Operation::Write,
        1 => Operation::Set,
        _ => Operation::Clear,
    };
    Request {
        operation,
        number: (packed & 0xfff) as u16,
        operand,
        writes: packed >> 14 & 1 != 0,
        bits: (packed >> 32) as u32,
    }
}

/// CSRs that only floating point knows, whose writing changes no more than flags and rounding.
fn is_float(csr: u16) -> bool {
    matches!(csr, number::FFLAGS | number::FRM | number::FCSR)
}

/// A CSR instruction. The unit goes on after it unless what it was translated under has changed, or an interrupt is to be
/// taken: then the hart is put behind the instruction, and the unit is left.
pub extern "C" fn csr(cx: &mut VcpuContext, operand: u64, packed: u64, rd: u64, _: u64) -> u64 {
    let request = request(operand, packed);
    let (st, cpu, env) = cx.parts::<RiscvState, RiscvCpu>();
    let floats = is_float(request.number);
    if floats {
        float::gather_flags(st, env);
    }
    let mode = st.mode;
    let mut bus = Bus { env, cpu };
    let (old, effects) = match csr::execute(st, &mut bus, request) {
        Ok(done) => done,
        Err(exception) => {
            raise(cx, exception);
            return 0;
        }
    };
    st.set_x(rd as usize, old);
    if !request.writes {
        return 0;
    }
    if let Some(scope) = effects.flush {
        bus.flush(scope);
    }
    if floats {
        float::load_rounding(st, bus.env);
    }
    if effects.timer {
        bus.cpu.arm_timer(st);
    }
    let interrupted = effects.interrupts && {
        bus.cpu.watch(st);
        interrupt::is_due(st, &mut bus)
    };
    if interrupted || effects.flush.is_some() || st.mode != mode {
        st.pc = st.pc.wrapping_add(4) & st.config.mask();
        cx.leave(reasons::RESUME);
    }
    0
}

pub extern "C" fn sfence(cx: &mut VcpuContext, vaddr: u64, asid: u64, packed: u64, _: u64) -> u64 {
    let (st, cpu, env) = cx.parts::<RiscvState, RiscvCpu>();
    let vaddr = (packed & 1 != 0).then_some(vaddr);
    let asid = (packed & 2 != 0).then_some(asid);
    let bits = (packed >> 32) as u32;
    let fence = if packed & 4 != 0 { privileged::sinval_vma } else { privileged::sfence_vma };
    match fence(st, vaddr, asid, bits) {
        Ok(scope) => Bus { env, cpu }.flush(scope),
        Err(exception) => raise(cx, exception),
    }
    0
}

pub extern "C" fn hfence(cx: &mut VcpuContext, vaddr: u64, asid: u64, packed: u64, _: u64) -> u64 {
    let (st, cpu, env) = cx.parts::<RiscvState, RiscvCpu>();
    let vaddr = (packed & 1 != 0).then_some(vaddr);
    let asid = (packed & 2 != 0).then_some(asid);
    let which = if packed & 4 != 0 { HypervisorFence::Physical } else { HypervisorFence::Virtual };
    match privileged::hfence(st, which, vaddr, asid, (packed >> 32) as u32) {
        Ok(scope) => Bus { env, cpu }.flush(scope),
        Err(exception) => raise(cx, exception),
    }
    0
}

pub extern "C" fn hypervisor_load(cx: &mut VcpuContext, address: u64, packed: u64, rd: u64, _: u64) -> u64 {
    let st = cx.state::<RiscvState>();
    if let Err(exception) = privileged::hypervisor_access(st, (packed >> 32) as u32) {
        raise(cx, exception);
        return 0;
    }
    let (address, index) = if packed & helpers::LOAD_EXECUTABLE != 0 {
        (address, mmu::HYPERVISOR_EXECUTE)
    } else {
        (st.hypervisor_masking().apply(address), st.hypervisor_index())
    };
    let size = (packed & 15) as u32;
    match cx.load(address, size, index) {
        Ok(value) => {
            let unused = 64 - 8 * size;
            let signed = packed & helpers::LOAD_SIGNED != 0;
            let value = value << unused;
            let value = if signed { (value as i64 >> unused) as u64 } else { value >> unused };
            cx.state::<RiscvState>().set_x(rd as usize, value);
        }
        Err(Leave(reason)) => cx.leave(reason),
    }
    0
}

pub extern "C" fn hypervisor_store(
    cx: &mut VcpuContext,
    address: u64,
    value: u64,
    packed: u64,
    _: u64,
) -> u64 {
    let st = cx.state::<RiscvState>();
    if let Err(exception) = privileged::hypervisor_access(st, (packed >> 32) as u32) {
        raise(cx, exception);
        return 0;
    }
    let (address, index) = (st.hypervisor_masking().apply(address), st.hypervisor_index());
    if let Err(Leave(reason)) = cx.store(address, (packed & 15) as u32, value, index) {
        cx.leave(reason);
    }
    0
}

pub extern "C" fn sfence_inval(cx: &mut VcpuContext, bits: u64, _: u64, _: u64, _: u64) -> u64 {
    if let Err(exception) = privileged::sfence_inval(cx.state::<RiscvState>(), bits as u32) {
        raise(cx, exception);
    }
    0
}

pub extern "C" fn cache_block(cx: &mut VcpuContext, address: u64, packed: u64, _: u64, _: u64) -> u64 {
    let st = cx.state::<RiscvState>();
    let (kind, size) = match packed & 3 {
        helpers::BLOCK_INVAL => (CacheBlock::Inval, st.config.cbom_block),
        helpers::BLOCK_CLEAN => (CacheBlock::Clean, st.config.cbom_block),
        _ => (CacheBlock::Zero, st.config.cboz_block),
    };
    if let Err(exception) = privileged::cache_block(st, kind, (packed >> 32) as u32) {
        raise(cx, exception);
        return 0;
    }
    if let Err(Leave(reason)) = touch_block(cx, address, kind, size) {
        cx.leave(reason);
    }
    0
}

/// There are no caches: what is left is whether the block may be accessed, and zeroing it.
fn touch_block(cx: &mut VcpuContext, address: u64, kind: CacheBlock, size: u32) -> Result<(), Leave> {
    const ZEROS: [u8; 64] = [0; 64];
    let index = data_index(cx);
    let start = address & !(u64::from(size.max(1)) - 1);
    if kind == CacheBlock::Zero {
        // No block is larger than a page, so the first store tells whether all of it can be written.
        for at in (0..u64::from(size)).step_by(ZEROS.len()) {
            let part = ZEROS.len().min((u64::from(size) - at) as usize);
            cx.store_bytes(start.wrapping_add(at), &ZEROS[..part], index)?;
        }
        return Ok(());
    }
    // Either permission will do; what is missing is told as a store's fault (Zicbom, "Memory Access").
    if cx.page(address, Access::Read, index).is_ok() {
        return Ok(());
    }
    cx.page(address, Access::Write, index).map(|_| ())
}

pub extern "C" fn check_store_alignment(
    cx: &mut VcpuContext,
    address: u64,
    mask: u64,
    _: u64,
    _: u64,
) -> u64 {
    if address & mask != 0 {
        misaligned_store(cx, address);
    }
    0
}

fn misaligned_store(cx: &mut VcpuContext, address: u64) {
    let guest = data_index(cx) >= mmu::VIRTUAL_USER;
    raise(cx, Exception::at(Cause::StoreMisaligned, address).of_guest(guest));
}

pub extern "C" fn amocas_q(cx: &mut VcpuContext, address: u64, registers: u64, _: u64, _: u64) -> u64 {
    if address & 15 != 0 {
        misaligned_store(cx, address);
        return 0;
    }
    let (rd, rs2) = ((registers & 31) as usize, (registers >> 8 & 31) as usize);
    let st = cx.state::<RiscvState>();
    let pair = |st: &RiscvState, r: usize| {
        if r == 0 { 0 } else { u128::from(st.x[r]) | u128::from(st.x[r | 1]) << 64 }
    };
    let (expected, new) = (pair(st, rd), pair(st, rs2));
    let index = data_index(cx);
    match cx.atomic_cas128(address, index, expected, new) {
        Ok(old) if rd != 0 => {
            let st = cx.state::<RiscvState>();
            st.set_x(rd, old as u64);
            st.set_x(rd | 1, (old >> 64) as u64);
        }
        Ok(_) => {}
        Err(Leave(reason)) => cx.leave(reason),
    }
    0
}

pub extern "C" fn float(cx: &mut VcpuContext, bits: u64, _: u64, _: u64, _: u64) -> u64 {
    float::execute(cx.state::<RiscvState>(), bits as u32);
    0
}

/// A carry-less product of 128 bits (Zbc).
fn carryless(a: u64, b: u64) -> u128 {
    (0..64).filter(|bit| b >> bit & 1 != 0).fold(0, |sum, bit| sum ^ u128::from(a) << bit)
}

pub extern "C" fn clmul(_: &mut VcpuContext, a: u64, b: u64, _: u64, _: u64) -> u64 {
    carryless(a, b) as u64
}

pub extern "C" fn clmulh(_: &mut VcpuContext, a: u64, b: u64, xlen: u64, _: u64) -> u64 {
    (carryless(a, b) >> (xlen & 127)) as u64
}

pub extern "C" fn clmulr(_: &mut VcpuContext, a: u64, b: u64, xlen: u64, _: u64) -> u64 {
    (carryless(a, b) >> (xlen.wrapping_sub(1) & 127)) as u64
}

/// Elements of `width` bits of `a`, chosen by those of `b`; zero where there is no such element (Zbkx).
fn crossbar(a: u64, b: u64, xlen: u64, width: u32) -> u64 {
    let mask = (1 << width) - 1;
    let count = xlen as u32 / width;
    (0..count).fold(0, |result, i| {
        let index = b >> (i * width) & mask;
        let element = if index < u64::from(count) { a >> (index as u32 * width) & mask } else { 0 };
        result | element << (i * width)
    })
}

pub extern "C" fn xperm4(_: &mut VcpuContext, a: u64, b: u64, xlen: u64, _: u64) -> u64 {
    crossbar(a, b, xlen, 4)
}

pub extern "C" fn xperm8(_: &mut VcpuContext, a: u64, b: u64, xlen: u64, _: u64) -> u64 {
    crossbar(a, b, xlen, 8)
}

//! The helpers that vector instructions call.

use std::mem::offset_of;

use rhea_engine::{Access, Leave, VcpuContext};
use rhea_riscv_state::RiscvState;
use rhea_riscv_state::masking::Masking;
use rhea_riscv_vector::memory::{self, Legality, Memory, Stop, Transfer};
use rhea_riscv_vector::{Avl, Illegal, Numbers, Operation, set_vl as set_length};

use crate::cpu::RiscvCpu;
use crate::{float, reasons};

/// Kind of AVL of [`set_vl`]: vl stays as far as it can.
pub(crate) const KEEP: u64 = 0;
/// AVL is VLMAX.
pub(crate) const MAX: u64 = 1;
/// AVL is given.
pub(crate) const GIVEN: u64 = 2;

/// A hart's memory at one MMU index.
struct GuestMemory<'a> {
    cx: &'a mut VcpuContext,
    index: u8,
    masking: Masking,
}

impl<'a> GuestMemory<'a> {
    fn new(cx: &'a mut VcpuContext, index: u64) -> Self {
        let masking = cx.state::<RiscvState>().masking();
        Self { cx, index: index as u8, masking }
    }

    /// Whether what is behind the address is memory, and not a device, so that bytes can be moved together.
    fn is_ram(&mut self, address: u64, access: Access) -> bool {
        self.cx.page(address, access, self.index).is_ok_and(|page| page.host != 0)
    }
}

impl Memory for GuestMemory<'_> {
    type Fault = Leave;

    fn state(&mut self) -> &mut RiscvState {
        self.cx.state()
    }

    fn load(&mut self, address: u64, size: u32) -> Result<u64, Leave> {
        self.cx.load(self.masking.apply(address), size, self.index)
    }

    fn store(&mut self, address: u64, size: u32, value: u64) -> Result<(), Leave> {
        self.cx.store(self.masking.apply(address), size, value, self.index)
    }

    fn can_load(&mut self, address: u64, size: u32) -> bool {
        let last = address.wrapping_add(u64::from(size) - 1);
        let masking = self.masking;
        [address, last].iter().all(|a| self.cx.page(masking.apply(*a), Access::Read, self.index).is_ok())
    }

    fn load_elements(
        &mut self,
        size: u32,
        next: &mut impl FnMut(&RiscvState) -> Option<(u64, usize)>,
    ) -> bool {
        let masking = self.masking;
        self.cx.load_elements(size, self.index, |st: &RiscvState| next(st).map(|to| in_state(masking, to)))
    }

    fn store_elements(
        &mut self,
        size: u32,
        next: &mut impl FnMut(&RiscvState) -> Option<(u64, usize)>,
    ) -> bool {
        let masking = self.masking;
        self.cx.store_elements(size, self.index, |st: &RiscvState| next(st).map(|to| in_state(masking, to)))
    }

    fn load_registers(&mut self, address: u64, _: u32, at: usize, len: usize) -> bool {
        self.cx.load_to_state(self.masking.apply(address), len, offset_of!(RiscvState, v) + at, self.index)
    }

    fn store_registers(&mut self, address: u64, _: u32, at: usize, len: usize) -> bool {
        self.cx.store_from_state(self.masking.apply(address), len, offset_of!(RiscvState, v) + at, self.index)
    }

    fn load_run(&mut self, address: u64, _: u32, out: &mut [u8]) -> bool {
        self.cx.load_ram(self.masking.apply(address), out, self.index)
    }

    fn store_run(&mut self, address: u64, _: u32, bytes: &[u8]) -> bool {
        let address = self.masking.apply(address);
        self.is_ram(address, Access::Write) && self.cx.store_bytes(address, bytes, self.index).is_ok()
    }
}

/// The address that a hart means by one, and a byte of the vector registers as one of the state.
fn in_state(masking: Masking, (address, at): (u64, usize)) -> (u64, usize) {
    (masking.apply(address), offset_of!(RiscvState, v) + at)
}

fn stop(cx: &mut VcpuContext, stop: Stop<Leave>) {
    match stop {
        Stop::Illegal => cx.leave(reasons::ILLEGAL),
        Stop::Fault(Leave(reason)) => cx.leave(reason),
    }
}

/// Brings fflags up to date before an operation that may spare work if inexact is raised already.
fn gather_flags(cx: &mut VcpuContext, bits: u64) -> Option<Operation> {
    let operation = Operation::from_bits(bits)?;
    if operation.op.numbers() != Numbers::Integer {
        let (st, _, env) = cx.parts::<RiscvState, RiscvCpu>();
        float::gather_flags(st, env);
    }
    Some(operation)
}

/// An [`Operation`] with a scalar.
pub(crate) extern "C" fn execute(cx: &mut VcpuContext, bits: u64, scalar: u64, _: u64, _: u64) -> u64 {
    let done = gather_flags(cx, bits)
        .ok_or(Illegal)
        .and_then(|o| rhea_riscv_vector::execute(cx.state::<RiscvState>(), o, scalar));
    done.unwrap_or_else(|Illegal| {
        cx.leave(reasons::ILLEGAL);
        0
    })
}

/// One that cannot be illegal.
pub(crate) extern "C" fn execute_legal(cx: &mut VcpuContext, bits: u64, scalar: u64, _: u64, _: u64) -> u64 {
    let operation = gather_flags(cx, bits);
    let st = cx.state::<RiscvState>();
    operation.map_or(0, |o| rhea_riscv_vector::execute_legal(st, o, scalar))
}

/// Whether translated code has seen to it that a transfer is legal.
fn legality(bits: u64) -> Legality {
    if bits & Transfer::LEGAL != 0 { Legality::Known } else { Legality::Unknown }
}

/// A load by its [`Transfer`], base, stride and MMU index.
pub(crate) extern "C" fn load(cx: &mut VcpuContext, bits: u64, base: u64, stride: u64, index: u64) -> u64 {
    let mut memory = GuestMemory::new(cx, index);
    let done = memory::load(&mut memory, Transfer::from_bits(bits), base, stride, legality(bits));
    if let Err(why) = done {
        stop(cx, why);
    }
    0
}

/// A store.
pub(crate) extern "C" fn store(cx: &mut VcpuContext, bits: u64, base: u64, stride: u64, index: u64) -> u64 {
    let mut memory = GuestMemory::new(cx, index);
    let done = memory::store(&mut memory, Transfer::from_bits(bits), base, stride, legality(bits));
    if let Err(why) = done {
        stop(cx, why);
    }
    0
}

/// vl by AVL, vtype, and the kind of AVL.
pub(crate) extern "C" fn set_vl(cx: &mut VcpuContext, avl: u64, vtype: u64, kind: u64, _: u64) -> u64 {
    let avl = match kind {
        KEEP => Avl::Keep,
        MAX => Avl::Max,
        _ => Avl::Elements(avl),
    };
    set_length(cx.state::<RiscvState>(), avl, vtype)
}

//! Running units in the interpreter: the vCPU as its [`Machine`].

use crate::context::{REASON_RESTART, VcpuContext, rmw_result};
use crate::env::PAGE;
use crate::guest::{Access, Leave};
use rhea_interpreter::{FloatUnit, Machine, Outcome};
use rhea_ir::{Exit, MemFlags, Type, Unit};
use rhea_softfloat::{Env as SoftEnv, Flags};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A unit for the interpreter.
pub(crate) struct Interpreted {
    pub unit: Unit,
    /// Cleared when the unit's code was written.
    pub valid: AtomicBool,
    /// Host address of its first byte; 0 for code in device memory.
    pub host: usize,
    /// Host address of the second page its bytes reach into, or 0.
    pub page2: usize,
}

impl Interpreted {
    /// `kept` units may be used until they are cleared, others once.
    pub fn new(unit: Unit, host: usize, page2: usize, kept: bool) -> Self {
        Interpreted { unit, valid: AtomicBool::new(kept), host, page2 }
    }

    /// Whether the unit was made from some byte of `host..host + len`.
    pub fn covers(&self, host: usize, len: usize) -> bool {
        let bytes = self.unit.len as usize;
        let first = bytes.min(PAGE as usize - self.host % PAGE as usize);
        let overlaps = |start: usize, n: usize| start < host + len && host < start + n;
        self.host != 0 && overlaps(self.host, first) || self.page2 != 0 && overlaps(self.page2, bytes - first)
    }
}

/// A unit the interpreter tier knows, valid while its key matches and its code stands.
pub(crate) struct Cached {
    pub key: u64,
    pub unit: Arc<Interpreted>,
}

/// How a unit ended.
pub(crate) enum Ended {
    /// The PC slot says where to go on.
    Next,
    /// It did not run: it has more instructions than may be executed now.
    Short,
    /// The guest or the engine must see to something.
    Leave(u32),
}

struct Host<'a> {
    cx: &'a mut VcpuContext,
    current: &'a Interpreted,
}

impl VcpuContext {
    /// Runs `unit` to its end; not at all if it has more instructions than may be executed now.
    pub(crate) fn interpret(&mut self, unit: &Interpreted) -> Ended {
        if !self.env.charge(unit.unit.insn_count) {
            return Ended::Short;
        }
        let mut interpreter = std::mem::take(&mut self.interpreter);
        let helpers = std::mem::take(&mut self.helpers);
        let mut host = Host { cx: self, current: unit };
        let outcome = interpreter.run(&unit.unit, &helpers, &mut host);
        self.interpreter = interpreter;
        self.helpers = helpers;
        match outcome {
            Outcome::Exit { number, pc } => match unit.unit.exits[number as usize] {
                Exit::Leave { reason, pc } => {
                    if let Some(pc) = pc {
                        self.put_pc(pc);
                    }
                    Ended::Leave(reason)
                }
                _ => {
                    if let Some(pc) = pc {
                        self.put_pc(pc);
                    }
                    Ended::Next
                }
            },
            Outcome::Stop { stop: Leave(reason), .. } => Ended::Leave(reason),
        }
    }

    /// Sets the PC slot.
    pub(crate) fn put_pc(&mut self, pc: u64) {
        let slot = self.guest.layout().pc;
        let size = slot.ty.bytes() as usize;
        let at = slot.offset as usize;
        self.state_bytes()[at..at + size].copy_from_slice(&pc.to_le_bytes()[..size]);
    }

    /// The register state as bytes.
    pub(crate) fn state_bytes(&mut self) -> &mut [u8] {
        let memory = &self.env.memory_block;
        // SAFETY: the block is `state_len` bytes long, lives with the frame, and is exclusively ours for the borrow.
        unsafe { std::slice::from_raw_parts_mut(memory.state_ptr(), memory.state_len()) }
    }

    /// Stops before a store into the running unit's own code.
    pub(crate) fn check_self_modification(
        &mut self,
        vaddr: u64,
        len: u64,
        index: u8,
        return_address: u64,
        current: Option<&Interpreted>,
    ) -> Result<(), Leave> {
        let first = (PAGE - vaddr % PAGE).min(len);
        for (at, len) in [(vaddr, first), (vaddr.wrapping_add(first), len - first)] {
            if len == 0 {
                continue;
            }
            let page = self.page(at, Access::Write, index)?;
            if page.has_code() && page.is_writable_ram() {
                let host = page.host + (at % PAGE) as usize;
                if self.engine.hits_running_unit(host, len as usize, return_address, current) {
                    return Err(Leave(REASON_RESTART));
                }
            }
        }
        Ok(())
    }
}

impl VcpuContext {
    /// The floating-point environment as the interpreter takes it.
    pub(crate) fn soft_environment(&self, unit: FloatUnit) -> SoftEnv {
        let float = &self.env.float;
        match unit {
            FloatUnit::Vector => {
                let env = float.env();
                SoftEnv {
                    rounding: rounding(env.rounding),
                    flush_to_zero: env.flush_to_zero,
                    denormals_are_zero: env.denormals_are_zero,
                    ..SoftEnv::SSE
                }
            }
            FloatUnit::X87 => SoftEnv::from_x87_control(0x3f | float.x87_control() as u16),
        }
    }
}

fn rounding(code: u8) -> rhea_softfloat::Rounding {
    use rhea_softfloat::Rounding;
    match code & 3 {
        0 => Rounding::NearestEven,
        1 => Rounding::Down,
        2 => Rounding::Up,
        _ => Rounding::TowardZero,
    }
}

impl Machine for Host<'_> {
    type Stop = Leave;

    fn state(&mut self) -> &mut [u8] {
        self.cx.state_bytes()
    }

    fn set_pc(&mut self, pc: u64) {
        self.cx.put_pc(pc);
    }

    fn load(&mut self, address: u64, flags: MemFlags, buffer: &mut [u8]) -> Result<(), Leave> {
        let write = flags.has(MemFlags::FOR_WRITE);
        let access = if write { Access::Write } else { Access::Read };
        self.cx.check_alignment(address, buffer.len() as u32, flags, access)?;
        if write {
            self.cx.load_for_write(address, buffer, flags.index())
        } else if let size @ (1 | 2 | 4 | 8) = buffer.len() {
            let v = self.cx.load(address, size as u32, flags.index())?;
            buffer.copy_from_slice(&v.to_le_bytes()[..size]);
            Ok(())
        } else {
            self.cx.load_bytes(address, buffer, flags.index())
        }
    }

    fn store(&mut self, address: u64, flags: MemFlags, bytes: &[u8]) -> Result<(), Leave> {
        self.cx.check_alignment(address, bytes.len() as u32, flags, Access::Write)?;
        let index = flags.index();
        self.cx.check_self_modification(address, bytes.len() as u64, index, 0, Some(self.current))?;
        if let size @ (1 | 2 | 4 | 8) = bytes.len() {
            let mut value = [0; 8];
            value[..size].copy_from_slice(bytes);
            self.cx.store(address, size as u32, u64::from_le_bytes(value), index)
        } else {
            self.cx.store_bytes(address, bytes, index)
        }
    }

    fn atomic_update(
        &mut self,
        address: u64,
        size: u32,
        flags: MemFlags,
        update: &mut dyn FnMut(u64) -> Option<u64>,
    ) -> Result<u64, Leave> {
        self.cx.check_alignment(address, size, flags, Access::Write)?;
        let index = flags.index();
        self.cx.check_self_modification(address, u64::from(size), index, 0, Some(self.current))?;
        self.cx.atomic_update(address, size, index, update)
    }

    fn fence(&mut self) {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }

    fn call(&mut self, id: u32, a: [u64; 4]) -> Result<u64, Leave> {
        let function = self.cx.guest.helpers()[id as usize].function;
        let result = function(self.cx, a[0], a[1], a[2], a[3]);
        match self.cx.take_leave() {
            Some(reason) => Err(Leave(reason)),
            None => Ok(result),
        }
    }

    fn float_environment(&mut self, unit: FloatUnit) -> SoftEnv {
        self.cx.soft_environment(unit)
    }

    fn raise(&mut self, unit: FloatUnit, flags: Flags) {
        match unit {
            FloatUnit::Vector => self.cx.env.float.raise(u32::from(flags.bits())),
            FloatUnit::X87 => self.cx.env.float.raise_x87(u32::from(flags.bits())),
        }
    }
}

/// A slow-path atomic operation of translated code.
pub(crate) fn update_for(
    kind_is_cas: bool,
    op: rhea_ir::Rmw,
    ty: Type,
    operand: u64,
    new: u64,
) -> impl FnMut(u64) -> Option<u64> {
    let size = ty.bytes();
    let mask = u64::MAX >> (64 - 8 * size);
    move |old| {
        if kind_is_cas {
            (old == operand & mask).then_some(new & mask)
        } else {
            Some(rmw_result(op, old, operand & mask, size) & mask)
        }
    }
}

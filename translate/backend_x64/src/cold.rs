//! What runs seldom, emitted after the unit's straight path: TLB misses, faults, side exits, poll and lookup stubs.

use crate::asm::{Cc, Gpr, reg};
use crate::emitter::{Emitter, NO_REG};
use crate::layout::PatchSite;
use rhea_ir::Type;

/// A pending put at some point of the unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SnapEntry {
    pub offset: u32,
    pub ty: Type,
    /// Register with the value, or NO_REG for the constant `imm`.
    pub reg: u8,
    pub imm: u64,
}

/// The pending puts at some point: a range of the snapshot entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Snapshot {
    pub start: u32,
    pub end: u32,
    /// Offset of code that stores them and leaves, once emitted.
    pub fault_tail: Option<usize>,
}

/// A PC to go to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PcSource {
    Known(u64),
    Register(u8),
}

/// A value handed to the memory thunk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MemoryOperand {
    None,
    Register(u8, Type),
    Immediate(i32),
}

/// The slow path of a memory access.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryStub {
    pub jump: usize,
    pub resume: usize,
    pub addr: u8,
    pub value: MemoryOperand,
    /// New value of a compare and swap.
    pub value2: u8,
    pub descriptor: u32,
    /// Register for the result.
    pub dst: u8,
    pub dst_ty: Type,
    pub snapshot: u32,
    pub pc: u64,
}

/// Out-of-line code to be emitted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cold {
    /// A TLB miss.
    Memory(MemoryStub),
    /// A side exit taken.
    Exit { jump: usize, exit: u32, snapshot: u32, target: u8, pc: u64 },
    /// The poll field is set.
    Poll { jump: usize, pc: PcSource },
    /// Not in the jump cache.
    Lookup { jump: usize, pc: PcSource },
    /// A direct jump not patched yet.
    Chain { jump: usize, pc: u64 },
    /// The instruction budget ran out at the unit's entry.
    Budget { jump: usize },
    /// Where the return stack sends a return.
    Landing { lea: usize, return_pc: u64 },
    /// Pops nothing, tries the jump cache for the PC in the register.
    Dynamic { jump: usize, target: u8 },
}

impl Emitter<'_> {
    /// Emits all cold code; stubs may add further stubs.
    pub fn emit_cold(&mut self) {
        let mut n = 0;
        while n < self.cold.len() {
            let stub = self.cold[n];
            n += 1;
            let here = self.asm.here();
            match stub {
                Cold::Memory(m) => self.emit_memory_stub(&m),
                Cold::Exit { jump, exit, snapshot, target, pc } => {
                    self.asm.patch(jump, here);
                    let exit = self.unit.exits[exit as usize];
                    self.emit_exit_body(&exit, snapshot, target, pc);
                }
                Cold::Poll { jump, pc } => {
                    self.asm.patch(jump, here);
                    self.store_pc(pc);
                    self.jump_to_thunk(self.layout.thunks.poll);
                }
                Cold::Lookup { jump, pc } => {
                    self.asm.patch(jump, here);
                    self.store_pc(pc);
                    self.jump_to_thunk(self.layout.thunks.lookup);
                }
                Cold::Chain { jump, pc } => {
                    self.asm.patch(jump, here);
                    let exit_id = self.first_exit_id + self.sites.len() as u32;
                    self.sites.push(PatchSite { displacement: jump as u32, stub: here as u32, pc, exit_id });
                    // The engine knows the PC by the identifier.
                    self.asm.mov_imm(reg::RAX, u64::from(exit_id));
                    self.jump_to_thunk(self.layout.thunks.chain);
                }
                Cold::Budget { jump } => self.emit_budget_stub(jump),
                Cold::Landing { lea, return_pc } => {
                    self.asm.patch(lea, here);
                    self.jump_forward(return_pc);
                }
                Cold::Dynamic { jump, target } => {
                    self.asm.patch(jump, here);
                    self.jump_cached(target);
                }
            }
        }
    }

    fn emit_budget_stub(&mut self, jump: usize) {
        let here = self.asm.here();
        self.asm.patch(jump, here);
        if let Some(disp) = self.layout.frame.icount {
            let mem = self.frame(disp);
            self.asm.alu_imm(64, crate::asm::Alu::Add, mem, self.unit.insn_count as i32);
        }
        self.store_pc(PcSource::Known(self.unit.pc));
        self.jump_to_thunk(self.layout.thunks.poll);
    }

    fn emit_memory_stub(&mut self, m: &MemoryStub) {
        let here = self.asm.here();
        self.asm.patch(m.jump, here);
        let f = &self.layout.frame;
        let (addr, value, value2, desc) = (f.mem_addr, f.mem_value, f.mem_value2, f.mem_desc);
        let mem = self.frame(addr);
        self.asm.store(64, mem, Gpr(m.addr));
        let value = self.frame(value);
        match m.value {
            MemoryOperand::None => {}
            MemoryOperand::Immediate(imm) => self.asm.store_imm(64, value, imm),
            MemoryOperand::Register(r, ty) => {
                self.store_reg(value, if ty.is_int() { Type::I64 } else { ty }, r)
            }
        }
        if m.value2 != NO_REG {
            let mem = self.frame(value2);
            self.asm.store(64, mem, Gpr(m.value2));
        }
        let mem = self.frame(desc);
        self.asm.store_imm(32, mem, m.descriptor as i32);
        let at = self.asm.call();
        self.patch_absolute(at, self.layout.thunks.memory);
        let fault = self.asm.jcc(Cc::Ne);
        if m.dst != NO_REG {
            self.load_reg(m.dst, m.dst_ty, value);
        }
        let resume = self.asm.jmp();
        self.asm.patch(resume, m.resume);
        let here = self.asm.here();
        self.asm.patch(fault, here);
        self.emit_fault(m.snapshot, m.pc);
    }

    /// Leaves at a fault: the PC of the instruction, the pending puts, and out. Accesses with the same pending puts
    /// share the stores.
    fn emit_fault(&mut self, snapshot: u32, pc: u64) {
        let tail = self.snapshots[snapshot as usize].fault_tail;
        let pc_slot = self.layout.pc;
        let s = self.snapshots[snapshot as usize];
        let puts_pc = self.snaps[s.start as usize..s.end as usize].iter().any(|e| {
            e.offset < pc_slot.offset + pc_slot.ty.bytes() && pc_slot.offset < e.offset + e.ty.bytes()
        });
        if puts_pc {
            // The instruction's PC wins over one put earlier.
            self.emit_snapshot(snapshot);
            self.store_pc(PcSource::Known(pc));
            self.jump_to_thunk(self.layout.thunks.leave);
            return;
        }
        self.store_pc(PcSource::Known(pc));
        match tail {
            Some(tail) => {
                let at = self.asm.jmp();
                self.asm.patch(at, tail);
            }
            None => {
                self.snapshots[snapshot as usize].fault_tail = Some(self.asm.here());
                self.emit_snapshot(snapshot);
                self.jump_to_thunk(self.layout.thunks.leave);
            }
        }
    }

    /// Stores the pending puts of a snapshot. Uses no register.
    pub fn emit_snapshot(&mut self, snapshot: u32) {
        let s = self.snapshots[snapshot as usize];
        for n in s.start..s.end {
            let e = self.snaps[n as usize];
            if e.reg == NO_REG {
                self.store_const(e.offset, e.ty, e.imm);
            } else {
                let mem = self.slot(e.offset);
                self.store_reg(mem, e.ty, e.reg);
            }
        }
    }

    /// Sets the PC slot. Uses no register.
    pub fn store_pc(&mut self, pc: PcSource) {
        let slot = self.layout.pc;
        match pc {
            PcSource::Known(pc) => self.store_const(slot.offset, slot.ty, pc),
            PcSource::Register(r) => {
                let mem = self.slot(slot.offset);
                self.asm.store(slot.ty.bits(), mem, Gpr(r));
            }
        }
    }

    /// Makes the rel32 at `at` refer to an absolute address.
    pub fn patch_absolute(&mut self, at: usize, address: u64) {
        let next = self.base.wrapping_add(at as u64 + 4);
        let d = address.wrapping_sub(next) as i64;
        debug_assert!(i32::try_from(d).is_ok(), "thunks are within reach of the code");
        self.asm.code[at..at + 4].copy_from_slice(&(d as i32).to_le_bytes());
    }

    pub fn jump_to_thunk(&mut self, address: u64) {
        let at = self.asm.jmp();
        self.patch_absolute(at, address);
    }
}

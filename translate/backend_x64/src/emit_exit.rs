//! Leaving a unit: direct jumps that can be chained, the jump cache, the shadow return stack.

use crate::asm::{Alu, Cc, Gpr, Mem, Shift, reg};
use crate::cold::{Cold, PcSource};
use crate::emitter::{Emitter, NO_REG, Unsupported};
use crate::layout::jump_cache_index;
use rhea_ir::{Exit, Inst, Op, Target};

const PAGE_BITS: u32 = 12;

impl Emitter<'_> {
    /// Counts the unit's instructions, if they are counted.
    pub fn emit_entry(&mut self) {
        if let Some(disp) = self.layout.frame.icount {
            let mem = self.frame(disp);
            self.asm.alu_imm(64, Alu::Sub, mem, self.unit.insn_count as i32);
            let jump = self.asm.jcc(Cc::S);
            self.cold.push(Cold::Budget { jump });
        }
    }

    pub fn emit_exit_if(&mut self, i: &Inst) -> Result<(), Unsupported> {
        self.flush_x87();
        let exit = self.unit.exits[i.imm as usize];
        let target = self.exit_target(&exit);
        let cc = self.emit_condition(i.a);
        let snapshot = self.snapshot();
        if let Some(last) = self.loop_bottom(&exit) {
            // The way back goes straight on, the way out is cold.
            let jump = self.asm.jcc(cc.invert());
            self.cold.push(Cold::Exit { jump, exit: last, snapshot, target: NO_REG, pc: self.pc });
            self.emit_exit_body(&exit, snapshot, NO_REG, self.pc);
            self.ended = true;
            return Ok(());
        }
        let jump = self.asm.jcc(cc);
        self.cold.push(Cold::Exit { jump, exit: i.imm as u32, snapshot, target, pc: self.pc });
        self.release_target(&exit);
        Ok(())
    }

    /// If the operation at hand is a conditional back edge and only an unconditional exit to a known PC follows: that
    /// exit's number.
    fn loop_bottom(&self, exit: &Exit) -> Option<u32> {
        let back = matches!(*exit, Exit::Jump(Target::Static(to)) if to <= self.pc);
        let next = self.unit.insts.get(self.at + 1)?;
        let out = next.op == Op::Exit
            && matches!(self.unit.exits[next.imm as usize], Exit::Jump(Target::Static(to)) if to > self.pc);
        (back && out).then_some(next.imm as u32)
    }

    pub fn emit_exit(&mut self, i: &Inst) {
        if self.ended {
            return;
        }
        self.flush_x87();
        let exit = self.unit.exits[i.imm as usize];
        let target = self.exit_target(&exit);
        let snapshot = self.snapshot();
        self.emit_exit_body(&exit, snapshot, target, self.pc);
    }

    fn exit_value(exit: &Exit) -> Option<rhea_ir::Val> {
        match *exit {
            Exit::Jump(Target::Dynamic(v))
            | Exit::Call { target: Target::Dynamic(v), .. }
            | Exit::Return(v) => Some(v),
            _ => None,
        }
    }

    /// Loads the computed target of an exit, if it has one, before the pending puts are recorded.
    fn exit_target(&mut self, exit: &Exit) -> u8 {
        Self::exit_value(exit).map_or(NO_REG, |v| self.use_gpr(v).0)
    }

    fn release_target(&mut self, exit: &Exit) {
        if let Some(v) = Self::exit_value(exit) {
            self.done(v);
        }
    }

    /// The exit itself. Nothing but the snapshot, the target and the pinned registers is live.
    pub fn emit_exit_body(&mut self, exit: &Exit, snapshot: u32, target: u8, pc: u64) {
        self.emit_snapshot(snapshot);
        match *exit {
            Exit::Leave { reason, pc } => {
                if let Some(pc) = pc {
                    self.store_pc(PcSource::Known(pc));
                }
                let mem = self.frame(self.layout.frame.leave_reason);
                self.asm.store_imm(32, mem, (reason + 1) as i32);
                self.jump_to_thunk(self.layout.thunks.leave);
            }
            _ if self.layout.no_chain => {
                let to = match *exit {
                    Exit::Jump(Target::Static(to)) | Exit::Call { target: Target::Static(to), .. } => {
                        PcSource::Known(to)
                    }
                    _ => PcSource::Register(target),
                };
                self.store_pc(to);
                self.jump_to_thunk(self.layout.thunks.lookup);
            }
            Exit::Jump(Target::Static(to)) => self.jump_static(to, pc),
            Exit::Jump(Target::Dynamic(_)) => {
                self.poll(PcSource::Register(target));
                self.jump_cached(target);
            }
            Exit::Call { target: Target::Static(to), return_pc } => {
                self.push_return(return_pc, NO_REG);
                self.jump_static(to, pc);
            }
            Exit::Call { target: Target::Dynamic(_), return_pc } => {
                self.poll(PcSource::Register(target));
                self.push_return(return_pc, target);
                self.jump_cached(target);
            }
            Exit::Return(_) => {
                self.poll(PcSource::Register(target));
                self.jump_return(target);
            }
        }
    }

    fn poll(&mut self, pc: PcSource) {
        let mem = self.frame(self.layout.frame.poll);
        self.asm.alu_imm(32, Alu::Cmp, mem, 0);
        let jump = self.asm.jcc(Cc::Ne);
        self.cold.push(Cold::Poll { jump, pc });
    }

    fn jump_static(&mut self, to: u64, pc: u64) {
        if to <= pc {
            self.poll(PcSource::Known(to));
        }
        self.jump_forward(to);
    }

    /// Jump to a known PC, without polling.
    pub fn jump_forward(&mut self, to: u64) {
        let page = self.unit.pc >> PAGE_BITS;
        let last = self.unit.pc.wrapping_add(u64::from(self.unit.len.max(1) - 1)) >> PAGE_BITS;
        // A unit whose first instruction may reach into the next page cannot be linked: its bytes' second mapping may
        // change. It is found by the jump cache, which forgets it when either mapping is flushed.
        let may_cross = (to & ((1 << PAGE_BITS) - 1)) + u64::from(self.layout.longest_insn) > 1 << PAGE_BITS;
        if to >> PAGE_BITS == page && last == page && !may_cross {
            // Aligned, so that it can be patched with one store while others execute it.
            let off = (self.base as usize + self.asm.here() + 1) % 4;
            if off != 0 {
                self.asm.nop(4 - off);
            }
            let jump = self.asm.jmp();
            self.cold.push(Cold::Chain { jump, pc: to });
            return;
        }
        let f = &self.layout.frame;
        let entry = f.jump_cache + 16 * jump_cache_index(to, f.jump_cache_bits) as i32;
        let key = self.frame(f.lookup_key);
        self.asm.mov_imm(reg::RAX, to);
        self.asm.alu(64, Alu::Xor, reg::RAX, key);
        let mem = self.frame(entry);
        self.asm.alu(64, Alu::Cmp, reg::RAX, mem);
        let jump = self.asm.jcc(Cc::Ne);
        self.cold.push(Cold::Lookup { jump, pc: PcSource::Known(to) });
        let mem = self.frame(entry + 8);
        self.asm.jmp_rm(mem);
    }

    /// Two general registers other than `target`, free at an exit.
    fn exit_scratch(target: u8) -> (Gpr, Gpr) {
        match target {
            0 => (reg::RCX, reg::RDX),
            1 => (reg::RAX, reg::RDX),
            _ => (reg::RAX, reg::RCX),
        }
    }

    /// Jump through the jump cache to the PC in register `target`.
    pub fn jump_cached(&mut self, target: u8) {
        let (key, index) = Self::exit_scratch(target);
        let f = &self.layout.frame;
        let (cache, bits, lookup_key) = (f.jump_cache, f.jump_cache_bits, f.lookup_key);
        self.asm.mov(64, index, Gpr(target));
        self.asm.mov(64, key, Gpr(target));
        self.asm.shift_imm(64, Shift::Shr, index, 12);
        self.asm.alu(32, Alu::Xor, index, Gpr(target));
        self.asm.alu_imm(32, Alu::And, index, (1 << bits) - 1);
        self.asm.shift_imm(32, Shift::Shl, index, 4);
        let mem = self.frame(lookup_key);
        self.asm.alu(64, Alu::Xor, key, mem);
        self.asm.alu(64, Alu::Cmp, key, self.layout.indexed(index, cache));
        let jump = self.asm.jcc(Cc::Ne);
        self.cold.push(Cold::Lookup { jump, pc: PcSource::Register(target) });
        self.asm.jmp_rm(self.layout.indexed(index, cache + 8));
    }

    fn push_return(&mut self, return_pc: u64, target: u8) {
        let (value, top) = Self::exit_scratch(target);
        let f = &self.layout.frame;
        let (ras, ras_top, bytes, lookup_key) = (f.ras, f.ras_top, f.ras_bytes, f.lookup_key);
        let mem = self.frame(ras_top);
        self.asm.mov(32, top, mem);
        self.asm.alu_imm(32, Alu::Add, top, 16);
        self.asm.alu_imm(32, Alu::And, top, bytes as i32 - 1);
        self.asm.store(32, mem, top);
        self.asm.mov_imm(value, return_pc);
        let key = self.frame(lookup_key);
        self.asm.alu(64, Alu::Xor, value, key);
        self.asm.store(64, self.layout.indexed(top, ras), value);
        let lea = self.asm.lea_rip(value);
        self.asm.store(64, self.layout.indexed(top, ras + 8), value);
        self.cold.push(Cold::Landing { lea, return_pc });
    }

    /// Return to the PC in register `target`: the newest entry of the return stack is popped, and taken if it is the
    /// one.
    fn jump_return(&mut self, target: u8) {
        let (key, top) = Self::exit_scratch(target);
        let f = &self.layout.frame;
        let (ras, ras_top, bytes, lookup_key) = (f.ras, f.ras_top, f.ras_bytes, f.lookup_key);
        let top_mem = self.frame(ras_top);
        let next = if target == reg::RDX.0 { reg::RSI } else { reg::RDX };
        let next = if next.0 == top.0 { reg::RSI } else { next };
        self.asm.mov(32, top, top_mem);
        self.asm.mov(64, key, Gpr(target));
        let mem = self.frame(lookup_key);
        self.asm.alu(64, Alu::Xor, key, mem);
        self.asm.lea(32, next, Mem::new(top, -16));
        self.asm.alu_imm(32, Alu::And, next, bytes as i32 - 1);
        self.asm.store(32, top_mem, next);
        self.asm.alu(64, Alu::Cmp, key, self.layout.indexed(top, ras));
        let jump = self.asm.jcc(Cc::Ne);
        self.cold.push(Cold::Dynamic { jump, target });
        self.asm.jmp_rm(self.layout.indexed(top, ras + 8));
    }
}

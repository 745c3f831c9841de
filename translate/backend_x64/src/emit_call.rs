//! Helper calls: everything a helper may look at is stored, everything it may change is forgotten.

use crate::asm::{Alu, Cc, Gpr, Rm, reg};
use crate::cold::PcSource;
use crate::emitter::{Emitter, Home, NO_REG, NONE, XMM0};
use rhea_ir::{Inst, SlotAccess, Type};

/// Registers of the second and later arguments; the first is the context in RDI.
const ARGUMENTS: [Gpr; 4] = [reg::RSI, reg::RDX, reg::RCX, reg::R8];

/// Registers a called function may change, among those we use.
const CALLER_SAVED: u32 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 6 | 1 << 7 | 0b1111 << 8;

/// Where an argument comes from.
#[derive(Clone, Copy)]
enum Source {
    Done,
    Register(Gpr),
    Root(u32),
}

impl Emitter<'_> {
    pub fn emit_call(&mut self, i: &Inst) {
        self.flush_x87();
        let helper = self.helpers[i.imm as usize];
        let info = helper.info;
        let count = usize::from(i.aux);
        let start = i.a.index();
        self.make_visible(info.reads, info.may_exit);
        self.rescue_written(info.writes);
        let pc = self.layout.pc;
        if info.may_exit || info.reads.touches(pc.offset, pc.ty.bytes()) {
            self.store_pc(PcSource::Known(self.pc));
        }
        // Registers keep their contents until the arguments have been moved.
        let mut sources = [Source::Done; 4];
        for (n, source) in sources.iter_mut().enumerate().take(count) {
            let root = self.root(self.unit.pool[start + n]);
            let r = self.v[root as usize].reg;
            *source = if r == NO_REG { Source::Root(root) } else { Source::Register(Gpr(r)) };
        }
        self.save_live(start, count);
        self.spill_pinned(info.reads, info.writes);
        self.move_arguments(&mut sources);
        for n in 0..count {
            self.done(self.unit.pool[start + n]);
        }
        self.drop_caller_saved();
        let context = self.frame(self.layout.frame.context);
        self.asm.mov(64, reg::RDI, context);
        if self.layout.features.avx {
            // Upper halves that are not zero make each SSE instruction of the helper slow. This unit or one before it may
            // have left some.
            self.asm.vzeroupper();
        }
        self.asm.mov_imm(reg::RAX, helper.address);
        self.asm.call_rm(reg::RAX);
        self.reload_after_call(info.writes);
        if info.may_exit {
            let mem = self.frame(self.layout.frame.leave_reason);
            self.asm.alu_imm(32, Alu::Cmp, mem, 0);
            let jump = self.asm.jcc(Cc::Ne);
            self.patch_absolute(jump, self.layout.thunks.leave);
        }
        if i.ty != Type::Void {
            self.bind(reg::RAX.0);
        }
    }

    /// Stores the pending puts that the helper may see.
    fn make_visible(&mut self, reads: SlotAccess, may_exit: bool) {
        if may_exit || reads == SlotAccess::All {
            return self.flush_all();
        }
        if let SlotAccess::Ranges(ranges) = reads {
            for &(offset, len) in ranges {
                self.flush_overlapping(offset, len);
            }
        }
    }

    /// Pending puts and values that live in slots the helper may write get out of its way.
    fn rescue_written(&mut self, writes: SlotAccess) {
        match writes {
            SlotAccess::None => {}
            SlotAccess::All => {
                self.flush_all();
                self.rescue_homes(0, u32::MAX / 2);
            }
            SlotAccess::Ranges(ranges) => {
                for &(offset, len) in ranges {
                    self.flush_overlapping(offset, len);
                    self.rescue_homes(offset, len);
                }
            }
        }
        for p in 0..self.layout.hot.len() {
            if writes.touches(self.layout.hot[p], 8) {
                self.vacate_pinned(p);
                self.pin_val[p] = NONE;
            }
        }
    }

    /// Gives every value in a register that the call clobbers a home, unless these arguments are its last uses.
    fn save_live(&mut self, start: usize, count: usize) {
        let clobbered = self.temps & !(!CALLER_SAVED & 0xffff);
        // Pending puts first: storing one may take another value's home away.
        for reg in 0..32u8 {
            let root = self.occ[usize::from(reg)];
            if clobbered >> reg & 1 != 0 && root != NONE && self.v[root as usize].dirty > 0 {
                self.flush_root(root);
            }
        }
        for reg in 0..32u8 {
            let root = self.occ[usize::from(reg)];
            if clobbered >> reg & 1 == 0 || root == NONE {
                continue;
            }
            let uses = (0..count).filter(|n| self.root(self.unit.pool[start + n]) == root).count() as u32;
            if self.v[root as usize].refs > uses {
                self.save_root(root);
            }
        }
    }

    fn spill_pinned(&mut self, reads: SlotAccess, writes: SlotAccess) {
        for p in 0..self.layout.hot.len() {
            let (reg, slot) = self.pin(p);
            let clobbered = CALLER_SAVED >> reg & 1 != 0;
            if clobbered || reads.touches(slot, 8) || writes.touches(slot, 8) {
                let mem = self.slot(slot);
                self.asm.store(64, mem, Gpr(reg));
            }
        }
    }

    /// Parallel move into the argument registers.
    fn move_arguments(&mut self, sources: &mut [Source; 4]) {
        loop {
            let mut progress = false;
            let mut pending = None;
            for n in 0..4 {
                let Source::Register(from) = sources[n] else { continue };
                let to = ARGUMENTS[n];
                let blocked = (0..4).any(|m| m != n && matches!(sources[m], Source::Register(r) if r == to));
                if blocked {
                    pending = Some(n);
                    continue;
                }
                if from != to {
                    self.asm.mov(64, to, from);
                }
                sources[n] = Source::Done;
                progress = true;
            }
            let Some(n) = pending else { break };
            if !progress {
                // A cycle: exchange, and redirect whoever wanted either register.
                let (Source::Register(from), to) = (sources[n], ARGUMENTS[n]) else { break };
                self.asm.xchg(from, to);
                sources[n] = Source::Done;
                for s in sources.iter_mut() {
                    if let Source::Register(r) = s {
                        if *r == to {
                            *r = from;
                        } else if *r == from {
                            *r = to;
                        }
                    }
                }
            }
        }
        for n in 0..4 {
            if let Source::Root(root) = sources[n] {
                self.load_root(root, ARGUMENTS[n].0);
            }
        }
    }

    /// After the call nothing is left in the registers it clobbers.
    fn drop_caller_saved(&mut self) {
        for reg in 0..32u8 {
            if self.temps >> reg & 1 == 0 || reg < XMM0 && CALLER_SAVED >> reg & 1 == 0 {
                continue;
            }
            let root = self.occ[usize::from(reg)];
            if root != NONE {
                debug_assert!(
                    self.v[root as usize].home != Home::None || self.is_const_root(root),
                    "%{root} survives the call"
                );
                self.v[root as usize].reg = NO_REG;
                self.occ[usize::from(reg)] = NONE;
                self.free |= 1 << reg;
            }
        }
    }

    fn reload_after_call(&mut self, writes: SlotAccess) {
        for p in 0..self.layout.hot.len() {
            let (reg, slot) = self.pin(p);
            if CALLER_SAVED >> reg & 1 != 0 || writes.touches(slot, 8) {
                let mem = self.slot(slot);
                self.asm.mov(64, Gpr(reg), Rm::from(mem));
            }
        }
    }
}

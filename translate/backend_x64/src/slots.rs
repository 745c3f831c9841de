//! Guest slots: lazily loaded gets, pinned registers, pending puts and their snapshots. The invariants are stated in
//! [`crate::emitter`].

use crate::asm::{Gpr, Mem};
use crate::cold::{SnapEntry, Snapshot};
use crate::emitter::{Dirty, Emitter, Home, NO_REG, NONE, PINNED, SCRATCH, XMM0};
use rhea_ir::{Inst, Type, Val};

/// More pending puts than this are stored, so that exit paths stay short.
const MAX_DIRTY: usize = 28;

impl Emitter<'_> {
    // ---- slots ----

    pub fn emit_get(&mut self, i: &Inst) {
        let offset = i.imm as u32;
        let root = self.here();
        if let Some(p) = self.pin_of_slot(offset, i.ty) {
            let occupant = self.pin_val[p];
            let reg = PINNED[p];
            if occupant != NONE && self.v[occupant as usize].refs > 0 && self.v[occupant as usize].reg == reg
            {
                let to = self.alloc_gpr();
                self.asm.mov(64, to, Gpr(reg));
                self.bind(to.0);
            } else {
                self.bind(reg);
            }
            return;
        }
        self.flush_overlapping(offset, i.ty.bytes());
        self.sync_pinned(offset, i.ty.bytes());
        if i.ty == Type::F80 {
            // Loads need the x87 stack; F80 values live in memory anyway.
            self.v[root as usize].home = Home::Slot(offset, i.ty);
            self.slot_homes.push(root);
            return;
        }
        self.v[root as usize].home = Home::Slot(offset, i.ty);
        self.slot_homes.push(root);
        if !self.pinned_overlap(offset, i.ty.bytes()) {
            return;
        }
        // Part of a pinned slot: memory is right only now.
        self.root_in_reg(root);
        self.v[root as usize].home = Home::None;
    }

    /// Host register and slot of pinned register `p`.
    pub fn pin(&self, p: usize) -> (u8, u32) {
        (PINNED[p], self.layout.hot[p])
    }

    fn pinned_overlap(&self, offset: u32, len: u32) -> bool {
        self.layout.hot.iter().any(|&h| h < offset + len && offset < h + 8)
    }

    /// Stores pinned registers whose slots overlap the range.
    pub fn sync_pinned(&mut self, offset: u32, len: u32) {
        for p in 0..self.layout.hot.len() {
            let (reg, h) = self.pin(p);
            if h < offset + len && offset < h + 8 {
                let mem = self.slot(h);
                self.asm.store(64, mem, Gpr(reg));
            }
        }
    }

    /// Loads pinned registers whose slots overlap the range, after memory was written.
    pub fn reload_pinned(&mut self, offset: u32, len: u32) {
        for p in 0..self.layout.hot.len() {
            let (reg, h) = self.pin(p);
            if h < offset + len && offset < h + 8 {
                self.vacate_pinned(p);
                let mem = self.slot(h);
                self.asm.mov(64, Gpr(reg), mem);
                self.pin_val[p] = NONE;
            }
        }
    }

    /// Moves a live value out of pinned register `p`, which is about to change.
    pub fn vacate_pinned(&mut self, p: usize) {
        let root = self.pin_val[p];
        if root == NONE {
            return;
        }
        let value = self.v[root as usize];
        if value.refs == 0 || value.reg != PINNED[p] {
            return;
        }
        self.drop_unneeded(root);
        let value = self.v[root as usize];
        if value.refs == 0 || self.move_to_pinned_copy(root) {
            return;
        }
        if value.dirty > 0
            && (value.dirty == value.refs || value.home == Home::None && self.can_be_home(root))
        {
            self.flush_root(root);
        }
        let value = self.v[root as usize];
        if value.refs == 0 {
            return;
        }
        if value.dirty == 0 && value.home != Home::None {
            self.v[root as usize].reg = NO_REG;
            return;
        }
        let to = self.alloc_gpr();
        self.asm.mov(64, to, Gpr(PINNED[p]));
        self.set_reg(root, to.0);
    }

    /// Whether a pending put of `root` would, once stored, hold all of it.
    fn can_be_home(&self, root: u32) -> bool {
        self.dirty.iter().any(|d| d.root == root && self.holds_all(root, d.ty))
    }

    fn holds_all(&self, root: u32, slot: Type) -> bool {
        let ty = self.unit.insts[root as usize].ty;
        if ty.is_int() {
            slot.is_int() && slot.bits() >= ty.bits().min(u32::from(self.v[root as usize].clean))
        } else {
            slot == ty
        }
    }

    pub fn emit_put(&mut self, i: &Inst) {
        let offset = i.imm as u32;
        if i.ty == Type::F80 {
            return self.emit_put_x87(i);
        }
        if let Some(p) = self.pin_of_slot(offset, i.ty) {
            return self.put_pinned(i.a, p);
        }
        if self.pinned_overlap(offset, i.ty.bytes()) {
            return self.put_part_of_pinned(i);
        }
        self.drop_or_flush_overlapping(offset, i.ty.bytes());
        let root = self.root(i.a);
        if !self.is_int_const(root) {
            self.root_in_reg(root);
        }
        self.v[root as usize].dirty += 1;
        let needed_until = self.overwritten.needed_until(self.at);
        self.dirty.push(Dirty { offset, ty: i.ty, root, needed_until });
        self.snapshot_valid = false;
        if self.dirty.len() > MAX_DIRTY {
            self.flush_entry(0);
        }
    }

    fn put_pinned(&mut self, v: Val, p: usize) {
        let root = self.root(v);
        let reg = PINNED[p];
        if self.pin_val[p] == root {
            return self.done(v);
        }
        let from = self.v[root as usize].reg;
        if from != NO_REG {
            self.lock(from);
        }
        self.vacate_pinned(p);
        // The value may have been moved or stored by that.
        let from = self.v[root as usize].reg;
        if from != NO_REG {
            let bits = if self.v[root as usize].clean <= 32 { 32 } else { 64 };
            self.asm.mov(bits, Gpr(reg), Gpr(from));
        } else {
            self.load_root(root, reg);
        }
        self.done(v);
        self.pin_val[p] = root;
        let value = self.v[root as usize];
        if value.refs > 0 && (value.reg == NO_REG || self.temps >> value.reg & 1 != 0) {
            if value.reg != NO_REG {
                self.occ[usize::from(value.reg)] = NONE;
                self.free |= 1 << value.reg;
            }
            self.set_reg(root, reg);
        } else if value.refs == 0 {
            // Keep the association: the builder has no more uses of it, so only the occupant rule matters.
            self.pin_val[p] = NONE;
        }
    }

    fn put_part_of_pinned(&mut self, i: &Inst) {
        let (offset, len) = (i.imm as u32, i.ty.bytes());
        let root = self.root(i.a);
        let reg = self.root_in_reg(root);
        self.drop_or_flush_overlapping(offset, len);
        self.sync_pinned(offset, len);
        let mem = self.slot(offset);
        self.store_reg(mem, i.ty, reg);
        self.reload_pinned(offset, len);
        self.done(i.a);
    }

    // ---- pending puts ----

    /// Stores pending puts that overlap the range.
    pub fn flush_overlapping(&mut self, offset: u32, len: u32) {
        let mut n = 0;
        while n < self.dirty.len() {
            let d = self.dirty[n];
            if d.offset < offset + len && offset < d.offset + d.ty.bytes() {
                self.flush_entry(n);
                // Storing may have rearranged the list.
                n = 0;
            } else {
                n += 1;
            }
        }
    }

    fn drop_or_flush_overlapping(&mut self, offset: u32, len: u32) {
        let mut n = 0;
        while n < self.dirty.len() {
            let d = self.dirty[n];
            let end = d.offset + d.ty.bytes();
            if d.offset >= offset + len || offset >= end {
                n += 1;
            } else if offset <= d.offset && end <= offset + len {
                self.remove_dirty(n);
                self.release(d.root);
            } else {
                self.flush_entry(n);
                n = 0;
            }
        }
    }

    fn remove_dirty(&mut self, n: usize) {
        let d = self.dirty.remove(n);
        self.v[d.root as usize].dirty -= 1;
        self.snapshot_valid = false;
    }

    pub fn flush_all(&mut self) {
        while let Some(n) = self.dirty.len().checked_sub(1) {
            self.flush_entry(n);
        }
    }

    /// Stores the pending puts of one root.
    pub fn flush_root(&mut self, root: u32) {
        let mut n = 0;
        while n < self.dirty.len() {
            if self.dirty[n].root == root {
                self.flush_entry(n);
                n = 0;
            } else {
                n += 1;
            }
        }
    }

    /// Drops the pending puts of `root` that nothing can observe any more.
    pub fn drop_unneeded(&mut self, root: u32) {
        if self.v[root as usize].dirty == 0 {
            return;
        }
        for n in (0..self.dirty.len()).rev() {
            let d = self.dirty[n];
            if d.root == root && self.is_unneeded(&d) {
                self.remove_dirty(n);
                self.release(root);
            }
        }
    }

    fn is_unneeded(&self, d: &Dirty) -> bool {
        d.needed_until != NONE && self.at > d.needed_until as usize
    }

    /// Stores one pending put, if it can still be observed; the slot becomes the root's home if it has none.
    fn flush_entry(&mut self, n: usize) {
        let d = self.dirty[n];
        self.remove_dirty(n);
        if self.is_unneeded(&d) {
            return self.release(d.root);
        }
        self.rescue_homes(d.offset, d.ty.bytes());
        let value = self.v[d.root as usize];
        if value.reg != NO_REG {
            let mem = self.slot(d.offset);
            self.store_reg(mem, d.ty, value.reg);
        } else {
            let imm = self.unit.insts[d.root as usize].imm;
            self.store_const(d.offset, d.ty, imm);
        }
        self.release(d.root);
        let value = self.v[d.root as usize];
        if value.refs > 0
            && value.home == Home::None
            && self.holds_all(d.root, d.ty)
            && !self.is_int_const(d.root)
        {
            self.v[d.root as usize].home = Home::Slot(d.offset, d.ty);
            self.slot_homes.push(d.root);
        }
    }

    pub fn store_const(&mut self, offset: u32, ty: Type, imm: u64) {
        let mem = self.slot(offset);
        if ty != Type::I64 || i32::try_from(imm as i64).is_ok() {
            self.asm.store_imm(ty.bits(), mem, imm as i32);
        } else {
            self.asm.store_imm(32, mem, imm as i32);
            let high = self.slot(offset + 4);
            self.asm.store_imm(32, high, (imm >> 32) as i32);
        }
    }

    /// Before slot memory in the range is written: values that live there get another place.
    pub fn rescue_homes(&mut self, offset: u32, len: u32) {
        let mut n = 0;
        while n < self.slot_homes.len() {
            let root = self.slot_homes[n];
            let value = self.v[root as usize];
            let Home::Slot(at, ty) = value.home else {
                self.slot_homes.swap_remove(n);
                continue;
            };
            if at < offset + len && offset < at + ty.bytes() {
                self.v[root as usize].home = if value.refs > 0 && value.reg == NO_REG {
                    self.copy_to_spill(at, ty)
                } else {
                    Home::None
                };
                self.slot_homes.swap_remove(n);
            } else {
                n += 1;
            }
        }
    }

    /// Copies a slot to a spill through the scratch vector register (narrow integers with what follows them: they
    /// are read back at their own width).
    fn copy_to_spill(&mut self, offset: u32, ty: Type) -> Home {
        let at = self.alloc_spill(ty);
        let via = match ty {
            Type::I8 | Type::I16 | Type::I32 => Type::F32,
            Type::I64 => Type::F64,
            Type::F80 => Type::V128,
            other => other,
        };
        let reg = SCRATCH.0 + XMM0;
        let from = self.slot(offset);
        self.load_reg(reg, via, from);
        self.store_reg(Mem::new(crate::asm::reg::RSP, at as i32), via, reg);
        Home::Spill(at, ty)
    }

    // ---- snapshots ----

    /// Records the pending puts as they are now; returns the snapshot's number.
    pub fn snapshot(&mut self) -> u32 {
        if !self.snapshot_valid {
            let start = self.snaps.len() as u32;
            for n in 0..self.dirty.len() {
                let d = self.dirty[n];
                let reg = self.v[d.root as usize].reg;
                let imm = self.unit.insts[d.root as usize].imm;
                self.snaps.push(SnapEntry { offset: d.offset, ty: d.ty, reg, imm });
            }
            self.snapshots.push(Snapshot { start, end: self.snaps.len() as u32, fault_tail: None });
            self.snapshot_valid = true;
        }
        self.snapshots.len() as u32 - 1
    }

    // ---- arrays of slots ----

    /// Memory operand of an indexed slot, after the caller prepared the array's range.
    pub fn indexed_slot(&mut self, i: &Inst) -> Mem {
        let offset = i.imm as u32;
        match self.const_of(i.a) {
            Some(c) => self.slot(offset.wrapping_add(c as u32)),
            None => {
                let index = self.use_gpr(i.a);
                self.layout.indexed(index, offset as i32)
            }
        }
    }
}

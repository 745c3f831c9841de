//! Registers, homes and pending puts. The invariants are stated in [`crate::emitter`].

use crate::asm::{Alu, Gpr, Map, Mem, Pp, Rm, VOpcode, Xmm};
use crate::cold::{SnapEntry, Snapshot};
use crate::emitter::{Dirty, Emitter, Home, NO_PIN, NO_REG, NONE, PINNED, SCRATCH, XMM0};
use crate::prepass::mask;
use rhea_ir::{Inst, Type, Val};

const GPRS: u32 = 0xffff;
const XMMS: u32 = 0xffff << XMM0;
/// More pending puts than this are stored, so that exit paths stay short.
const MAX_DIRTY: usize = 28;

/// MOVUPS xmm, xmm/m and its store form.
const MOVUPS: VOpcode = VOpcode::new(Pp::None, Map::M0F, 0x10);
const MOVUPS_STORE: VOpcode = VOpcode::new(Pp::None, Map::M0F, 0x11);

impl Emitter<'_> {
    // ---- references ----

    /// Takes away one reference to `v`.
    pub fn done(&mut self, v: Val) {
        let root = self.root(v);
        self.release(root);
    }

    pub fn release(&mut self, root: u32) {
        let value = &mut self.v[root as usize];
        debug_assert!(value.refs > 0, "reference count of %{root}");
        value.refs -= 1;
        if value.refs == 0 {
            self.forget_places(root);
        }
    }

    fn forget_places(&mut self, root: u32) {
        let value = &mut self.v[root as usize];
        let reg = value.reg;
        let home = value.home;
        value.home = Home::None;
        if reg != NO_REG && self.temps >> reg & 1 != 0 {
            value.reg = NO_REG;
            self.occ[usize::from(reg)] = NONE;
            self.free |= 1 << reg;
        }
        if let Home::Spill(at, ty) = home {
            self.free_spills[spill_class(ty)].push(at);
        }
    }

    // ---- registers ----

    pub fn lock(&mut self, reg: u8) {
        self.locked |= 1 << reg;
    }

    /// Makes `reg` the primary register of `root`.
    pub fn set_reg(&mut self, root: u32, reg: u8) {
        if self.v[root as usize].dirty > 0 {
            self.snapshot_valid = false;
        }
        self.v[root as usize].reg = reg;
        if self.temps >> reg & 1 != 0 {
            self.occ[usize::from(reg)] = root;
            self.free &= !(1 << reg);
        } else {
            self.pin_val[usize::from(self.reg_pin[usize::from(reg)])] = root;
        }
    }

    /// Binds the result of the operation at hand, unless nobody wants it.
    pub fn bind(&mut self, reg: u8) {
        let root = self.here();
        if self.v[root as usize].refs > 0 {
            self.set_reg(root, reg);
        }
    }

    /// A free general register, locked.
    pub fn alloc_gpr(&mut self) -> Gpr {
        let free = self.free & !self.locked & GPRS;
        // Prefer registers that no instruction needs by name, then those without a REX prefix.
        let reg = match (free & 0b1100_0000, free & 0b111) {
            (0, 0) if free != 0 => free.trailing_zeros() as u8,
            (0, 0) => self.evict_one(GPRS),
            (0, low) => 31 - low.leading_zeros() as u8,
            (mid, _) => mid.trailing_zeros() as u8,
        };
        self.lock(reg);
        Gpr(reg)
    }

    /// A free vector register, locked.
    pub fn alloc_xmm(&mut self) -> Xmm {
        let free = self.free & !self.locked & XMMS;
        let reg = if free != 0 { free.trailing_zeros() as u8 } else { self.evict_one(XMMS) };
        self.lock(reg);
        Xmm(reg - XMM0)
    }

    fn evict_one(&mut self, class: u32) -> u8 {
        let mut candidates = self.temps & class & !self.locked;
        debug_assert!(candidates != 0, "all registers are locked");
        let mut best = (u32::MAX, 0);
        while candidates != 0 {
            let reg = candidates.trailing_zeros() as u8;
            candidates &= candidates - 1;
            let root = self.occ[usize::from(reg)];
            let value = &self.v[root as usize];
            let only_dirty = value.dirty == value.refs;
            let cheap = value.home != Home::None || self.is_const_root(root);
            let class = match (value.dirty > 0, cheap) {
                (false, true) => 0,
                _ if only_dirty => 1,
                (true, _) => 2,
                (false, false) => 3,
            };
            // Older values first within a class: they are the likelier to be done soon, and never the operands of
            // the operation at hand, which are locked.
            let score = class << 24 | root.min(0xff_ffff);
            if score < best.0 {
                best = (score, reg);
            }
        }
        self.evict(best.1);
        best.1
    }

    /// Frees temporary `reg`, keeping its root reachable.
    pub fn evict(&mut self, reg: u8) {
        let root = self.occ[usize::from(reg)];
        if root == NONE {
            return;
        }
        if !self.move_to_pinned_copy(root) {
            self.save_root(root);
            if self.v[root as usize].reg == reg {
                self.v[root as usize].reg = NO_REG;
            }
        }
        self.occ[usize::from(reg)] = NONE;
        self.free |= 1 << reg;
    }

    /// If a pinned register has the same value as `root`, makes it the primary copy.
    fn move_to_pinned_copy(&mut self, root: u32) -> bool {
        let current = self.v[root as usize].reg;
        for p in 0..self.layout.hot.len() {
            if self.pin_val[p] == root && PINNED[p] != current {
                self.v[root as usize].reg = PINNED[p];
                self.snapshot_valid = false;
                return true;
            }
        }
        false
    }

    /// Makes sure that `root`, in a register, has a home (or no references left).
    pub fn save_root(&mut self, root: u32) {
        if self.v[root as usize].dirty > 0 {
            self.flush_root(root);
        }
        let value = self.v[root as usize];
        if value.refs == 0 || value.home != Home::None || self.is_const_root(root) {
            return;
        }
        let ty = self.storage_type(root);
        let at = self.alloc_spill(ty);
        self.store_reg(Mem::new(crate::asm::reg::RSP, at as i32), ty, value.reg);
        self.v[root as usize].home = Home::Spill(at, ty);
    }

    fn is_int_const(&self, root: u32) -> bool {
        let i = &self.unit.insts[root as usize];
        i.op == rhea_ir::Op::Const && i.ty.is_int()
    }

    /// Type to spill `root` as: integers in full.
    fn storage_type(&self, root: u32) -> Type {
        let ty = self.unit.insts[root as usize].ty;
        if ty.is_int() { Type::I64 } else { ty }
    }

    pub fn alloc_spill(&mut self, ty: Type) -> u32 {
        if let Some(at) = self.free_spills[spill_class(ty)].pop() {
            return at;
        }
        let size = 8 << spill_class(ty);
        let at = self.spill_top.next_multiple_of(size);
        if at + size > self.layout.spill_bytes {
            self.spill_overflow = true;
            return 0;
        }
        self.spill_top = at + size;
        at
    }

    /// Makes register `reg` (a temporary) free and locks it, moving its value elsewhere.
    pub fn claim(&mut self, reg: u8) {
        debug_assert!(self.temps >> reg & 1 != 0);
        self.lock(reg);
        let root = self.occ[usize::from(reg)];
        if root == NONE {
            return;
        }
        let free = self.free & !self.locked & if reg < XMM0 { GPRS } else { XMMS };
        if free != 0 && reg < XMM0 && !self.is_int_const(root) {
            let to = 31 - free.leading_zeros() as u8;
            self.asm.mov(64, Gpr(to), Gpr(reg));
            self.occ[usize::from(reg)] = NONE;
            self.free |= 1 << reg;
            self.set_reg(root, to);
        } else {
            self.evict(reg);
        }
    }

    /// The register of `v`, loaded if need be, locked.
    pub fn use_gpr(&mut self, v: Val) -> Gpr {
        let root = self.root(v);
        Gpr(self.root_in_reg(root))
    }

    /// The vector register of `v`, loaded if need be, locked.
    pub fn use_xmm(&mut self, v: Val) -> Xmm {
        let root = self.root(v);
        Xmm(self.root_in_reg(root) - XMM0)
    }

    pub fn root_in_reg(&mut self, root: u32) -> u8 {
        let reg = self.v[root as usize].reg;
        if reg != NO_REG {
            self.lock(reg);
            return reg;
        }
        let reg = if self.unit.insts[root as usize].ty.is_int() {
            self.alloc_gpr().0
        } else {
            self.alloc_xmm().0 + XMM0
        };
        self.load_root(root, reg);
        self.set_reg(root, reg);
        reg
    }

    /// Copies `root` into `reg` without making that its primary register. Leaves flags alone.
    pub fn load_root(&mut self, root: u32, reg: u8) {
        let value = self.v[root as usize];
        if value.reg != NO_REG {
            if value.reg != reg {
                if reg < XMM0 {
                    self.asm.mov(64, Gpr(reg), Gpr(value.reg));
                } else {
                    let ty = self.unit.insts[root as usize].ty;
                    self.move_xmm(ty, Xmm(reg - XMM0), Xmm(value.reg - XMM0));
                }
            }
            return;
        }
        let i = &self.unit.insts[root as usize];
        if i.op == rhea_ir::Op::Const {
            let (ty, imm) = (i.ty, i.imm);
            if ty.is_int() {
                self.asm.mov_imm(Gpr(reg), imm & mask(ty.bits()));
            } else {
                self.load_vector_const(ty, imm, Xmm(reg - XMM0));
            }
            return;
        }
        let (mem, ty) = self.home_mem(root);
        self.load_reg(reg, ty, mem);
    }

    fn home_mem(&self, root: u32) -> (Mem, Type) {
        match self.v[root as usize].home {
            Home::Slot(offset, ty) => (self.slot(offset), ty),
            Home::Spill(at, ty) => (Mem::new(crate::asm::reg::RSP, at as i32), ty),
            Home::None => unreachable!("%{root} is nowhere"),
        }
    }

    /// Loads `ty` from memory, integers zero-extended.
    pub fn load_reg(&mut self, reg: u8, ty: Type, mem: Mem) {
        if reg < XMM0 {
            self.asm.movzx(ty.bits(), Gpr(reg), mem);
        } else {
            let (op, wide) = vector_load_op(ty);
            self.vmov(op, wide, Xmm(reg - XMM0), mem);
        }
    }

    /// Stores the low part of a register as `ty`.
    pub fn store_reg(&mut self, mem: Mem, ty: Type, reg: u8) {
        if reg < XMM0 {
            self.asm.store(ty.bits(), mem, Gpr(reg));
        } else {
            let (op, wide) = match ty {
                Type::F32 => (VOpcode::new(Pp::F3, Map::M0F, 0x11), false),
                Type::F64 => (VOpcode::new(Pp::F2, Map::M0F, 0x11), false),
                Type::V256 => (MOVUPS_STORE, true),
                _ => (MOVUPS_STORE, false),
            };
            self.vmov(op, wide, Xmm(reg - XMM0), mem);
        }
    }

    /// A two-operand vector move.
    pub fn vmov(&mut self, op: VOpcode, wide: bool, reg: Xmm, rm: impl Into<Rm>) {
        if self.layout.features.avx {
            self.asm.vex(op, wide, reg.0, 0, rm);
        } else {
            self.asm.sse(op, reg.0, rm);
        }
    }

    pub fn move_xmm(&mut self, ty: Type, to: Xmm, from: Xmm) {
        if to != from {
            self.vmov(VOpcode::new(Pp::None, Map::M0F, 0x28), ty == Type::V256, to, from);
        }
    }

    /// Decides where the operation at hand will find `v`: in memory if this is the last use of a value that is only
    /// there and wide enough, else in a register. [`Emitter::rm`] then names the place.
    pub fn prepare(&mut self, v: Val, bits: u32) {
        let root = self.root(v);
        let value = self.v[root as usize];
        if value.reg != NO_REG {
            self.lock(value.reg);
            return;
        }
        let wide_enough = match value.home {
            Home::Slot(_, ty) | Home::Spill(_, ty) => ty.bytes() * 8 >= bits,
            Home::None => false,
        };
        if value.refs > 1 || !wide_enough {
            self.root_in_reg(root);
        }
    }

    /// Where `v`, prepared, is now.
    pub fn rm(&self, v: Val) -> Rm {
        let root = self.root(v);
        let reg = self.v[root as usize].reg;
        if reg == NO_REG { Rm::Mem(self.home_mem(root).0) } else { Rm::Reg(reg & 15) }
    }

    /// Register for the integer result of the operation at hand: the pinned register it will be put to if that is
    /// free by now, else the register of a dead operand (`reuse`), else any.
    pub fn dst_gpr(&mut self, reuse: Option<(u32, Gpr)>) -> Gpr {
        let hint = self.v[self.at].hint;
        if hint != NO_PIN {
            let reg = PINNED[usize::from(hint)];
            let occupant = self.pin_val[usize::from(hint)];
            let free = occupant == NONE
                || self.v[occupant as usize].refs == 0
                || self.v[occupant as usize].reg != reg;
            let mine = reuse.is_some_and(|(_, r)| r.0 == reg);
            if free && (mine || self.locked >> reg & 1 == 0) {
                self.lock(reg);
                return Gpr(reg);
            }
        }
        if let Some((root, reg)) = reuse
            && self.v[root as usize].refs == 0
            && self.temps >> reg.0 & 1 != 0
        {
            self.lock(reg.0);
            return reg;
        }
        self.alloc_gpr()
    }

    /// Vector counterpart of [`Emitter::dst_gpr`].
    pub fn dst_xmm(&mut self, reuse: &[(u32, Xmm)]) -> Xmm {
        for &(root, reg) in reuse {
            if self.v[root as usize].refs == 0 {
                self.lock(reg.0 + XMM0);
                return reg;
            }
        }
        self.alloc_xmm()
    }

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

    fn pinned_overlap(&self, offset: u32, len: u32) -> bool {
        self.layout.hot.iter().any(|&h| h < offset + len && offset < h + 8)
    }

    /// Stores pinned registers whose slots overlap the range.
    pub fn sync_pinned(&mut self, offset: u32, len: u32) {
        for p in 0..self.layout.hot.len() {
            let h = self.layout.hot[p];
            if h < offset + len && offset < h + 8 {
                let mem = self.slot(h);
                self.asm.store(64, mem, Gpr(PINNED[p]));
            }
        }
    }

    /// Loads pinned registers whose slots overlap the range, after memory was written.
    pub fn reload_pinned(&mut self, offset: u32, len: u32) {
        for p in 0..self.layout.hot.len() {
            let h = self.layout.hot[p];
            if h < offset + len && offset < h + 8 {
                self.vacate_pinned(p);
                let mem = self.slot(h);
                self.asm.mov(64, Gpr(PINNED[p]), mem);
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
        if self.move_to_pinned_copy(root) {
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
        self.dirty.push(Dirty { offset, ty: i.ty, root });
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

    /// Stores one pending put; the slot becomes the root's home if it has none.
    fn flush_entry(&mut self, n: usize) {
        let d = self.dirty[n];
        self.remove_dirty(n);
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
                Mem::indexed(crate::emitter::BASE, index, 0, offset as i32)
            }
        }
    }

    /// Compares register with zero (sets ZF, SF).
    pub fn test_reg(&mut self, bits: u32, r: Gpr) {
        if bits == 16 {
            self.asm.alu_imm(16, Alu::Cmp, r, 0);
        } else {
            self.asm.test(bits, r, r);
        }
    }
}

fn vector_load_op(ty: Type) -> (VOpcode, bool) {
    match ty {
        Type::F32 => (VOpcode::new(Pp::F3, Map::M0F, 0x10), false),
        Type::F64 => (VOpcode::new(Pp::F2, Map::M0F, 0x10), false),
        Type::V256 => (MOVUPS, true),
        _ => (MOVUPS, false),
    }
}

/// Spill sizes: 8, 16, 32 bytes.
fn spill_class(ty: Type) -> usize {
    match ty.bytes() {
        0..=8 => 0,
        16 => 1,
        _ => 2,
    }
}

//! Registers, homes and pending puts. The invariants are stated in [`crate::emitter`].

use crate::asm::{Alu, Gpr, Map, Mem, Pp, Rm, VOpcode, Xmm};
use crate::emitter::{Emitter, Home, NO_PIN, NO_REG, NONE, PINNED, XMM0};
use crate::prepass::mask;
use rhea_ir::{Type, Val};

const GPRS: u32 = 0xffff;
const XMMS: u32 = 0xffff << XMM0;

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
    fn evict(&mut self, reg: u8) {
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
    pub fn move_to_pinned_copy(&mut self, root: u32) -> bool {
        let current = self.v[root as usize].reg;
        for p in 0..self.layout.hot.len() {
            let reg = self.pin(p).0;
            if self.pin_val[p] == root && reg != current {
                self.v[root as usize].reg = reg;
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

    pub fn is_int_const(&self, root: u32) -> bool {
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
            if occupant != NONE {
                self.drop_unneeded(occupant);
            }
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

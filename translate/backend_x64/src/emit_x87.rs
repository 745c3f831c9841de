//! x87 operations on the host's x87 unit.
//!
//! At most one value is on the host's register stack between operations: the result of the last one, *pending* in
//! ST(0) (`x87_top`). Its consumer takes it from there; anything else that needs the stack, and everything that may
//! leave translated code, first stores it to a 16-byte spill. Loading and storing the 80-bit format neither rounds nor
//! raises anything, so values can move freely.

use crate::asm::{Gpr, Map, Mem, Pp, VOpcode, reg};
use crate::emitter::{Emitter, Home, NONE, Unsupported, XMM0};
use rhea_ir::{Inst, Op, Rounding, Type, Val};

const _: (Map, Pp) = (Map::M0F, Pp::None);
const _: VOpcode = VOpcode::new(Pp::None, Map::M0F, 0);

impl Emitter<'_> {
    /// Stores the pending value, if any, to its spill.
    pub fn flush_x87(&mut self) {
        let root = self.x87_top;
        if root == NONE {
            return;
        }
        self.x87_top = NONE;
        if self.v[root as usize].refs == 0 {
            // FSTP ST(0)
            self.asm.byte(0xdd);
            self.asm.byte(0xd8);
            return;
        }
        let at = self.alloc_spill(Type::F80);
        self.asm.x87_mem(3, 7, Mem::new(reg::RSP, at as i32));
        self.v[root as usize].home = Home::Spill(at, Type::F80);
    }

    /// FLD m80: the operation at hand is now pending.
    pub fn push_x87(&mut self, mem: Mem) {
        self.asm.x87_mem(3, 5, mem);
        self.x87_top = self.here();
    }

    fn x87_home(&self, root: u32) -> Mem {
        match self.v[root as usize].home {
            Home::Slot(offset, _) => self.slot(offset),
            Home::Spill(at, _) => Mem::new(reg::RSP, at as i32),
            Home::None => unreachable!("%{root} is nowhere"),
        }
    }

    /// Makes `root` the only value on the stack. It may be pending already.
    pub fn x87_into_top(&mut self, root: u32) {
        if self.x87_top == root {
            return;
        }
        self.flush_x87();
        let mem = self.x87_home(root);
        self.asm.x87_mem(3, 5, mem);
        self.x87_top = root;
    }

    /// FSTP m80 of the value on top, which is `v`; other uses find it in a spill.
    pub fn pop_x87_to(&mut self, mem: Mem, v: Val) {
        let root = self.root(v);
        debug_assert_eq!(self.x87_top, root);
        self.x87_top = NONE;
        self.done(v);
        if self.v[root as usize].refs > 0 && self.v[root as usize].home == Home::None {
            let at = self.alloc_spill(Type::F80);
            // FLD ST(0)
            self.asm.byte(0xd9);
            self.asm.byte(0xc0);
            self.asm.x87_mem(3, 7, Mem::new(reg::RSP, at as i32));
            self.v[root as usize].home = Home::Spill(at, Type::F80);
        }
        self.asm.x87_mem(3, 7, mem);
    }

    pub fn emit_put_x87(&mut self, i: &Inst) {
        let offset = i.imm as u32;
        let root = self.root(i.a);
        self.x87_into_top(root);
        self.flush_overlapping(offset, 16);
        self.rescue_homes(offset, 16);
        let mem = self.slot(offset);
        self.pop_x87_to(mem, i.a);
    }

    pub fn emit_x87(&mut self, i: &Inst) -> Result<(), Unsupported> {
        let _ = (Rounding::Zero, Op::XAdd, XMM0, Gpr(0));
        Err(self.unsupported(i))
    }
}

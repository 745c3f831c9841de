//! Arrays of guest slots.

use crate::emitter::{Emitter, Unsupported};
use rhea_ir::{Inst, Type};

impl Emitter<'_> {
    pub fn emit_get_indexed(&mut self, i: &Inst) -> Result<(), Unsupported> {
        let (offset, len) = (i.imm as u32, (i.imm >> 32) as u32);
        if i.ty == Type::F80 {
            self.flush_x87();
        }
        self.flush_overlapping(offset, len);
        self.sync_pinned(offset, len);
        let mem = self.indexed_slot(i);
        let reg = match i.ty {
            Type::F80 => {
                self.push_x87(mem);
                self.done(i.a);
                return Ok(());
            }
            ty if ty.is_int() => self.alloc_gpr().0,
            _ => self.alloc_xmm().0 + crate::emitter::XMM0,
        };
        self.load_reg(reg, i.ty, mem);
        self.done(i.a);
        self.bind(reg);
        Ok(())
    }

    pub fn emit_put_indexed(&mut self, i: &Inst) -> Result<(), Unsupported> {
        let (offset, len) = (i.imm as u32, (i.imm >> 32) as u32);
        if i.ty == Type::F80 {
            let root = self.root(i.b);
            self.x87_into_top(root);
        }
        self.flush_overlapping(offset, len);
        self.rescue_homes(offset, len);
        self.sync_pinned(offset, len);
        let mem = self.indexed_slot(i);
        if i.ty == Type::F80 {
            self.pop_x87_to(mem, i.b);
        } else {
            let root = self.root(i.b);
            let reg = self.root_in_reg(root);
            self.store_reg(mem, i.ty, reg);
            self.done(i.b);
        }
        self.done(i.a);
        self.reload_pinned(offset, len);
        Ok(())
    }
}

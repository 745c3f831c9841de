//! x87 operations on the host's x87 unit.
//!
//! At most one value is on the host's register stack between operations: the result of the last one, *pending* in
//! ST(0) (`x87_top`). Its consumer takes it from there; anything else that needs the stack, and everything that may
//! leave translated code, first stores it to a 16-byte spill. Loading and storing the 80-bit format neither rounds nor
//! raises anything, so values can move freely.

use crate::asm::{Cc, Gpr, Mem, reg};
use crate::emitter::{Emitter, Flags, Home, NO_REG, NONE, Unsupported};
use rhea_ir::{Inst, Op, Rounding, Type, Val};

/// Register-stack instructions, two bytes each.
mod x87 {
    pub const FLD_ST0: [u8; 2] = [0xd9, 0xc0];
    pub const FXCH: [u8; 2] = [0xd9, 0xc9];
    pub const FSTP_ST0: [u8; 2] = [0xdd, 0xd8];
    pub const FSTP_ST1: [u8; 2] = [0xdd, 0xd9];
    pub const FCHS: [u8; 2] = [0xd9, 0xe0];
    pub const FABS: [u8; 2] = [0xd9, 0xe1];
    pub const FSQRT: [u8; 2] = [0xd9, 0xfa];
    pub const FRNDINT: [u8; 2] = [0xd9, 0xfc];
    pub const FSCALE: [u8; 2] = [0xd9, 0xfd];
    pub const FUCOMI_ST0: [u8; 2] = [0xdb, 0xe8];
    pub const FCOMI_ST0: [u8; 2] = [0xdb, 0xf0];
    pub const FUCOMIP: [u8; 2] = [0xdf, 0xe9];
    pub const FCOMIP: [u8; 2] = [0xdf, 0xf1];
}

/// How a binary operation finds its operands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operands {
    /// ST(1) is a, ST(0) is b.
    InOrder,
    /// ST(0) is a, ST(1) is b.
    Reversed,
    /// Both are ST(0).
    Same,
}

impl Emitter<'_> {
    /// Stores the pending value, if any, to its spill.
    pub fn flush_x87(&mut self) {
        let root = self.x87_top;
        if root == NONE {
            return;
        }
        self.x87_top = NONE;
        if self.v[root as usize].refs == 0 {
            return self.x87_op(x87::FSTP_ST0);
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
            self.x87_op(x87::FLD_ST0);
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

    fn x87_op(&mut self, bytes: [u8; 2]) {
        self.asm.code.extend_from_slice(&bytes);
    }

    /// The operation at hand's result is in ST(0).
    fn result_on_top(&mut self) {
        self.x87_top = self.here();
        if self.v[self.at].refs == 0 {
            self.flush_x87();
        }
    }

    /// Before the pending value is used up `uses` times: if that is not all, it gets a spill.
    fn keep_top(&mut self, root: u32, uses: u32) {
        if self.v[root as usize].refs > uses && self.v[root as usize].home == Home::None {
            let at = self.alloc_spill(Type::F80);
            self.x87_op(x87::FLD_ST0);
            self.asm.x87_mem(3, 7, Mem::new(reg::RSP, at as i32));
            self.v[root as usize].home = Home::Spill(at, Type::F80);
        }
    }

    /// Puts `v` alone on the stack, to be used up by the instruction that follows.
    fn take_x87(&mut self, v: Val) {
        let root = self.root(v);
        if self.x87_top == root {
            self.keep_top(root, 1);
        } else {
            self.flush_x87();
            let mem = self.x87_home(root);
            self.asm.x87_mem(3, 5, mem);
        }
        self.x87_top = NONE;
        self.done(v);
    }

    /// Puts both operands on the stack, to be used up.
    fn take_x87_pair(&mut self, a: Val, b: Val) -> Operands {
        let (ra, rb) = (self.root(a), self.root(b));
        let top = self.x87_top;
        if top != ra && top != rb {
            self.flush_x87();
        } else if top != NONE {
            self.keep_top(top, if ra == rb { 2 } else { 1 });
        }
        let order = if ra == rb {
            if top != ra {
                let mem = self.x87_home(ra);
                self.asm.x87_mem(3, 5, mem);
            }
            Operands::Same
        } else {
            // Homes are released only after both loads.
            for (root, wanted) in [(ra, top != ra), (rb, top != rb)] {
                if wanted {
                    let mem = self.x87_home(root);
                    self.asm.x87_mem(3, 5, mem);
                }
            }
            if top == rb { Operands::Reversed } else { Operands::InOrder }
        };
        self.x87_top = NONE;
        self.done(a);
        self.done(b);
        order
    }

    pub fn emit_x87(&mut self, i: &Inst) -> Result<(), Unsupported> {
        match i.op {
            Op::XFromParts => self.emit_from_parts(i),
            Op::XSignificand | Op::XSignExponent => self.emit_part(i),
            Op::XFromF32 => self.emit_from_memory(i, 1, 0),
            Op::XFromF64 => self.emit_from_memory(i, 5, 0),
            Op::XFromInt => self.emit_from_memory(i, 7, 5),
            Op::XToF32 => self.emit_to_memory(i, 1, 3),
            Op::XToF64 => self.emit_to_memory(i, 5, 3),
            Op::XToInt => {
                let truncate = match i.aux {
                    x if x == Rounding::Zero as u8 => true,
                    x if x == Rounding::Current as u8 => false,
                    _ => return Err(self.unsupported(i)),
                };
                // FISTP and FISTTP.
                let (esc, digit) = match (i.ty, truncate) {
                    (Type::I16, false) => (7, 3),
                    (Type::I32, false) => (3, 3),
                    (Type::I64, false) => (7, 7),
                    (Type::I16, true) => (7, 1),
                    (Type::I32, true) => (3, 1),
                    (Type::I64, true) => (5, 1),
                    _ => return Err(self.unsupported(i)),
                };
                self.emit_to_memory(i, esc, digit);
            }
            Op::XAdd => self.emit_x87_binary(i, 0xc0, 0xc0, 0xc0),
            Op::XMul => self.emit_x87_binary(i, 0xc8, 0xc8, 0xc8),
            // Opcodes of ST(1) - ST(0), ST(0) - ST(1) into ST(1) with pop, and of ST(0) - ST(0).
            Op::XSub => self.emit_x87_binary(i, 0xe8, 0xe0, 0xe0),
            Op::XDiv => self.emit_x87_binary(i, 0xf8, 0xf0, 0xf0),
            Op::XSqrt => self.emit_x87_unary(i, x87::FSQRT),
            Op::XAbs => self.emit_x87_unary(i, x87::FABS),
            Op::XNeg => self.emit_x87_unary(i, x87::FCHS),
            Op::XRound => self.emit_x87_unary(i, x87::FRNDINT),
            Op::XScale => self.emit_scale(i),
            Op::XRel => self.emit_x87_relation(i),
            _ => return Err(self.unsupported(i)),
        }
        Ok(())
    }

    fn emit_x87_unary(&mut self, i: &Inst, op: [u8; 2]) {
        self.take_x87(i.a);
        self.x87_op(op);
        self.result_on_top();
    }

    fn emit_x87_binary(&mut self, i: &Inst, in_order: u8, reversed: u8, same: u8) {
        match self.take_x87_pair(i.a, i.b) {
            Operands::InOrder => self.x87_op([0xde, in_order | 1]),
            Operands::Reversed => self.x87_op([0xde, reversed | 1]),
            Operands::Same => self.x87_op([0xd8, same]),
        }
        self.result_on_top();
    }

    fn emit_scale(&mut self, i: &Inst) {
        match self.take_x87_pair(i.a, i.b) {
            Operands::InOrder => self.x87_op(x87::FXCH),
            Operands::Reversed => {}
            Operands::Same => self.x87_op(x87::FLD_ST0),
        }
        self.x87_op(x87::FSCALE);
        self.x87_op(x87::FSTP_ST1);
        self.result_on_top();
    }

    fn emit_x87_relation(&mut self, i: &Inst) {
        let signalling = i.aux & 1 != 0;
        match self.take_x87_pair(i.a, i.b) {
            Operands::Same => self.x87_op(if signalling { x87::FCOMI_ST0 } else { x87::FUCOMI_ST0 }),
            order => {
                if order == Operands::InOrder {
                    self.x87_op(x87::FXCH);
                }
                self.x87_op(if signalling { x87::FCOMIP } else { x87::FUCOMIP });
            }
        }
        self.x87_op(x87::FSTP_ST0);
        self.flags = Flags::Unknown;
        self.bind_relation();
    }

    /// Binds the relation code of the flags that a floating-point comparison left: less is CF, equal ZF, unordered
    /// both.
    pub fn bind_relation(&mut self) {
        self.locked = 0;
        let (dst, t) = (self.dst_gpr(None), self.alloc_gpr());
        self.asm.mov_imm(dst, 0);
        self.asm.mov_imm(t, 0);
        self.asm.setcc(Cc::B, dst);
        self.asm.setcc(Cc::E, t);
        self.asm.lea(32, dst, Mem::indexed(dst, t, 1, 0));
        self.bind(dst.0);
    }

    /// FLD or FILD of an integer value's bits, through memory.
    fn emit_from_memory(&mut self, i: &Inst, esc: u8, digit: u8) {
        self.flush_x87();
        let bits = self.ty(i.a).bits();
        self.prepare(i.a, bits);
        match self.rm(i.a) {
            crate::asm::Rm::Mem(mem) => self.asm.x87_mem(esc, digit, mem),
            crate::asm::Rm::Reg(r) => {
                let ty = Type::int(bits / 8);
                let at = self.alloc_spill(ty);
                let mem = Mem::new(reg::RSP, at as i32);
                self.asm.store(bits, mem, Gpr(r));
                self.asm.x87_mem(esc, digit, mem);
                self.free_spills[0].push(at);
            }
        }
        self.done(i.a);
        self.result_on_top();
    }

    /// A store with pop that converts; the result is read back from memory when needed.
    fn emit_to_memory(&mut self, i: &Inst, esc: u8, digit: u8) {
        self.take_x87(i.a);
        let at = self.alloc_spill(i.ty);
        self.asm.x87_mem(esc, digit, Mem::new(reg::RSP, at as i32));
        if self.v[self.at].refs > 0 {
            self.v[self.at].home = Home::Spill(at, i.ty);
        } else {
            self.free_spills[0].push(at);
        }
    }

    fn emit_from_parts(&mut self, i: &Inst) {
        let at = self.alloc_spill(Type::F80);
        let significand = self.use_gpr(i.a);
        let sign_exponent = self.use_gpr(i.b);
        self.asm.store(64, Mem::new(reg::RSP, at as i32), significand);
        self.asm.store(16, Mem::new(reg::RSP, at as i32 + 8), sign_exponent);
        self.v[self.at].home = Home::Spill(at, Type::F80);
        self.done(i.a);
        self.done(i.b);
    }

    fn emit_part(&mut self, i: &Inst) {
        let root = self.root(i.a);
        if self.x87_top == root {
            self.flush_x87();
        }
        debug_assert_eq!(self.v[root as usize].reg, NO_REG);
        let dst = self.dst_gpr(None);
        let mut mem = self.x87_home(root);
        if i.op == Op::XSignificand {
            self.asm.mov(64, dst, mem);
        } else {
            mem.disp += 8;
            self.asm.movzx(16, dst, mem);
        }
        self.done(i.a);
        self.bind(dst.0);
    }
}

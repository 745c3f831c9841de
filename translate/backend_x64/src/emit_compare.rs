//! Integer comparison, fused with its consumer where there is one, and selection.

use crate::asm::{Alu, Cc, Gpr, Rm};
use crate::emitter::{Emitter, Flags, NONE, cc_of};
use rhea_ir::{Cond, Inst, Val};

impl Emitter<'_> {
    /// Sets the host flags for an integer comparison, unless they are right already; releases its operands.
    pub fn emit_compare(&mut self, i: &Inst) -> Cc {
        let bits = self.ty(i.a).bits();
        let cond = Cond::ALL[usize::from(i.aux)];
        let (a, b, cond) = if self.const_of(i.a).is_some() && self.const_of(i.b).is_none() {
            (i.b, i.a, cond.swap())
        } else {
            (i.a, i.b, cond)
        };
        if let Some(cc) = self.known_condition(a, b, cond, bits) {
            self.done(a);
            self.done(b);
            return cc;
        }
        match self.imm_of(b, bits) {
            Some(imm) => {
                self.prepare(a, bits);
                match self.rm(a) {
                    Rm::Reg(r) if imm == 0 => self.test_reg(bits, Gpr(r)),
                    rm => self.asm.alu_imm(bits, Alu::Cmp, rm, imm),
                }
            }
            None => {
                let ra = self.use_gpr(a);
                self.prepare(b, bits);
                let rm = self.rm(b);
                self.asm.alu(bits, Alu::Cmp, ra, rm);
            }
        }
        self.flags = Flags::Sub { result: NONE, a, b, bits };
        self.done(a);
        self.done(b);
        cc_of(cond)
    }

    /// The condition code under which the current flags say that `a` cond `b`.
    fn known_condition(&self, a: Val, b: Val, cond: Cond, bits: u32) -> Option<Cc> {
        let with_zero = self.const_of(b) == Some(0);
        let by_sign = |result: u32, width: u32| {
            if !with_zero || result != self.root(a) || width != bits {
                return None;
            }
            match cond {
                Cond::Eq => Some(Cc::E),
                Cond::Ne => Some(Cc::Ne),
                Cond::LtS => Some(Cc::S),
                Cond::GeS => Some(Cc::Ns),
                _ => None,
            }
        };
        match self.flags {
            Flags::Unknown => None,
            Flags::Sub { result, a: x, b: y, bits: width } => {
                if width == bits && self.same(a, x) && self.same(b, y) {
                    Some(cc_of(cond))
                } else if width == bits && self.same(a, y) && self.same(b, x) {
                    Some(cc_of(cond.swap()))
                } else {
                    by_sign(result, width)
                }
            }
            Flags::Add { result, a: x, b: y, bits: width } => {
                let carry = width == bits && result == self.root(a) && (self.same(b, x) || self.same(b, y));
                match cond {
                    Cond::LtU if carry => Some(Cc::B),
                    Cond::GeU if carry => Some(Cc::Ae),
                    _ => by_sign(result, width),
                }
            }
            Flags::Sign { result, bits: width } => by_sign(result, width),
            Flags::Logic { result, bits: width } => {
                (with_zero && result == self.root(a) && width == bits).then(|| cc_of(cond))
            }
        }
    }

    pub fn emit_select(&mut self, i: &Inst) {
        let bits = i.ty.bits().max(32);
        let cc = self.emit_condition(i.a);
        self.locked = 0;
        let (b, c, cc) = if self.const_of(i.b).is_some() && self.const_of(i.c).is_none()
            || self.dies_in_temporary(i.b) && !self.dies_in_temporary(i.c)
            || self.is_in_hinted(i.b)
        {
            (i.c, i.b, cc.invert())
        } else {
            (i.b, i.c, cc)
        };
        if self.root(b) == self.root(c) {
            let dst = self.in_place(b);
            self.done(c);
            if bits == 32 {
                self.asm.mov(32, dst, dst);
            }
            return self.bind(dst.0);
        }
        self.prepare(b, bits);
        let dst = self.in_place(c);
        let src = self.rm(b);
        self.asm.cmov(bits, cc, dst, src);
        self.done(b);
        self.bind(dst.0);
    }
}

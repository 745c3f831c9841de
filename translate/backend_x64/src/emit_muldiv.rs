//! Multiplication and division. Halves of one product, and quotient and remainder of one division, come from one
//! instruction when both are wanted.

use crate::asm::{Alu, Cc, Gpr, Mem, Rm, Shift, reg};
use crate::emitter::{Emitter, LIVE, Unsupported};
use rhea_ir::{Inst, Op, Type};

impl Emitter<'_> {
    pub fn emit_mul(&mut self, i: &Inst) {
        if i.ty == Type::I64
            && let Some(twin) = self.find_twin(i, &[Op::MulHiU, Op::MulHiS])
        {
            return self.emit_wide_mul(i, twin);
        }
        let bits = i.ty.bits().max(32);
        let (a, b) = self.commute(i.a, i.b);
        if let Some(imm) = self.imm_of(b, i.ty.bits()) {
            let (dst, src) = self.unary(a, bits);
            self.asm.imul_imm(bits, dst, src, imm);
            self.done(b);
            return self.bind(dst.0);
        }
        self.two_operand(bits, a, b, |s, dst, src| s.asm.imul(bits, dst, src));
    }

    /// A following live operation, one of `ops`, on the same operands, that this one can produce along the way.
    fn find_twin(&self, i: &Inst, ops: &[Op]) -> Option<usize> {
        let end = (self.at + 8).min(self.unit.insts.len());
        (self.at + 1..end).find(|&n| {
            let j = &self.unit.insts[n];
            ops.contains(&j.op)
                && self.v[n].state == LIVE
                && j.ty == i.ty
                && self.same(i.a, j.a)
                && self.same(i.b, j.b)
                && (i.c == j.c || i.c.is_some() && j.c.is_some() && self.same(i.c, j.c))
        })
    }

    /// Releases the operands of a twin and marks it emitted.
    fn finish_twin(&mut self, twin: usize, reg: Gpr) {
        let j = self.unit.insts[twin];
        for v in [j.a, j.b, j.c] {
            if v.is_some() {
                self.done(v);
            }
        }
        self.v[twin].state |= crate::emitter::DONE;
        self.set_reg(twin as u32, reg.0);
    }

    /// One multiplication for a low and a high half (I64).
    fn emit_wide_mul(&mut self, i: &Inst, twin: usize) {
        let signed = i.op == Op::MulHiS || self.unit.insts[twin].op == Op::MulHiS;
        self.widening_multiply(i, signed);
        let here_is_high = i.op != Op::Mul;
        let (mine, other) = if here_is_high { (reg::RDX, reg::RAX) } else { (reg::RAX, reg::RDX) };
        self.bind(mine.0);
        self.finish_twin(twin, other);
    }

    /// RDX:RAX = a * b (64 bits each); releases the operands.
    fn widening_multiply(&mut self, i: &Inst, signed: bool) {
        self.claim(reg::RAX.0);
        self.claim(reg::RDX.0);
        let (a, b) = self.commute(i.a, i.b);
        let factor = self.use_gpr(b);
        let root = self.root(a);
        self.load_root(root, reg::RAX.0);
        self.asm.group3(64, if signed { 5 } else { 4 }, factor);
        self.done(i.a);
        self.done(i.b);
    }

    pub fn emit_mul_high(&mut self, i: &Inst) {
        let bits = i.ty.bits();
        let signed = i.op == Op::MulHiS;
        if bits == 64 {
            if let Some(twin) = self.find_twin(i, &[Op::Mul]) {
                return self.emit_wide_mul(i, twin);
            }
            self.widening_multiply(i, signed);
            return self.bind(reg::RDX.0);
        }
        // The product fits in twice the width; work at 32 or 64 bits.
        let wide = if bits == 32 { 64 } else { 32 };
        self.prepare(i.b, bits);
        let t = self.alloc_gpr();
        let src = self.rm(i.b);
        self.extend(signed, bits, wide, t, src);
        self.prepare(i.a, bits);
        let dst = self.alloc_gpr();
        let src = self.rm(i.a);
        self.extend(signed, bits, wide, dst, src);
        self.asm.imul(wide, dst, t);
        self.asm.shift_imm(wide, Shift::Shr, dst, bits as u8);
        self.done(i.a);
        self.done(i.b);
        self.bind(dst.0);
    }

    fn extend(&mut self, signed: bool, from: u32, to: u32, dst: Gpr, src: Rm) {
        if signed {
            self.asm.movsx(from, to, dst, src);
        } else {
            self.asm.movzx(from, dst, src);
        }
    }

    // ---- division ----

    /// RDX:RAX divided by a register, unsigned, without ever trapping: the quotient is skipped unless high < divisor.
    pub fn emit_div_unsigned(&mut self, i: &Inst) -> Result<(), Unsupported> {
        let bits = i.ty.bits();
        if bits < 32 {
            return Err(self.unsupported(i));
        }
        let twin = self.find_twin(i, &[if i.op == Op::DivWideU { Op::RemWideU } else { Op::DivWideU }]);
        let divisor = self.division_operands(i);
        self.asm.alu(bits, Alu::Cmp, reg::RDX, divisor);
        let skip = self.asm.jcc_short(Cc::Ae);
        self.asm.group3(bits, 6, divisor);
        self.asm.patch_short(skip);
        self.finish_division(i, twin);
        Ok(())
    }

    /// Dividend into RDX:RAX, divisor into a register of its own.
    fn division_operands(&mut self, i: &Inst) -> Gpr {
        self.claim(reg::RAX.0);
        self.claim(reg::RDX.0);
        let divisor = self.use_gpr(i.c);
        let (high, low) = (self.root(i.a), self.root(i.b));
        self.load_root(high, reg::RDX.0);
        self.load_root(low, reg::RAX.0);
        if i.ty == Type::I32 {
            // Results are promised to be zero-extended even where the division is skipped.
            self.asm.mov(32, reg::RAX, reg::RAX);
            self.asm.mov(32, reg::RDX, reg::RDX);
        }
        divisor
    }

    fn finish_division(&mut self, i: &Inst, twin: Option<usize>) {
        self.done(i.a);
        self.done(i.b);
        self.done(i.c);
        let is_quotient = matches!(i.op, Op::DivWideU | Op::DivWideS);
        let (mine, other) = if is_quotient { (reg::RAX, reg::RDX) } else { (reg::RDX, reg::RAX) };
        self.bind(mine.0);
        if let Some(twin) = twin {
            self.finish_twin(twin, other);
        }
    }

    pub fn emit_div_signed(&mut self, i: &Inst) -> Result<(), Unsupported> {
        let twin = self.find_twin(i, &[if i.op == Op::DivWideS { Op::RemWideS } else { Op::DivWideS }]);
        match i.ty {
            Type::I32 => self.divide_signed_32(i),
            Type::I64 => self.divide_signed_64(i),
            _ => return Err(self.unsupported(i)),
        }
        self.finish_division(i, twin);
        Ok(())
    }

    /// The 64-bit dividend by the sign-extended divisor: only zero and -1 could trap.
    fn divide_signed_32(&mut self, i: &Inst) {
        let divisor = self.division_operands(i);
        let t = self.alloc_gpr();
        self.asm.shift_imm(64, Shift::Shl, reg::RDX, 32);
        self.asm.alu(64, Alu::Or, reg::RAX, reg::RDX);
        self.asm.movsx(32, 64, t, divisor);
        self.divide_by(t);
        self.asm.mov(32, reg::RAX, reg::RAX);
        self.asm.mov(32, reg::RDX, reg::RDX);
    }

    /// RAX and RDX become quotient and remainder of the 64-bit RAX by `divisor`.
    fn divide_by(&mut self, divisor: Gpr) {
        // divisor + 1 is 0 or 1 for -1 and 0.
        self.asm.lea(64, reg::RDX, Mem::new(divisor, 1));
        self.asm.alu_imm(64, Alu::Cmp, reg::RDX, 1);
        let special = self.asm.jcc_short(Cc::Be);
        self.asm.sign_extend_rax(64);
        self.asm.group3(64, 7, divisor);
        let end = self.asm.jmp_short();
        self.asm.patch_short(special);
        self.asm.group3(64, 3, reg::RAX);
        self.asm.mov_imm(reg::RDX, 0);
        self.asm.patch_short(end);
    }

    /// A 128-bit dividend. The common one is a sign-extended 64-bit number; the others are divided by magnitude.
    fn divide_signed_64(&mut self, i: &Inst) {
        let divisor = self.division_operands(i);
        // Allocation may emit spills, so it must not happen inside a branch.
        let t = self.alloc_gpr();
        let sign = self.alloc_gpr();
        self.asm.mov(64, t, reg::RAX);
        self.asm.shift_imm(64, Shift::Sar, t, 63);
        self.asm.alu(64, Alu::Cmp, t, reg::RDX);
        let wide = self.asm.jcc(Cc::Ne);
        self.divide_by(divisor);
        let end = self.asm.jmp();
        let here = self.asm.here();
        self.asm.patch(wide, here);
        self.divide_magnitudes(divisor, t, sign);
        let here = self.asm.here();
        self.asm.patch(end, here);
    }

    /// |RDX:RAX| / |divisor|, signs put back; nothing meaningful if the quotient does not fit.
    fn divide_magnitudes(&mut self, divisor: Gpr, t: Gpr, sign: Gpr) {
        // sign = dividend < 0 ? -1 : 0; magnitude = (x ^ sign) - sign, in 128 bits.
        self.asm.mov(64, sign, reg::RDX);
        self.asm.shift_imm(64, Shift::Sar, sign, 63);
        self.asm.alu(64, Alu::Xor, reg::RAX, sign);
        self.asm.alu(64, Alu::Xor, reg::RDX, sign);
        self.asm.alu(64, Alu::Sub, reg::RAX, sign);
        self.asm.alu(64, Alu::Sbb, reg::RDX, sign);
        self.asm.mov(64, t, divisor);
        self.asm.group3(64, 3, t);
        self.asm.cmov(64, Cc::S, t, divisor);
        self.asm.alu(64, Alu::Cmp, reg::RDX, t);
        let skip = self.asm.jcc_short(Cc::Ae);
        self.asm.group3(64, 6, t);
        self.asm.alu(64, Alu::Xor, reg::RDX, sign);
        self.asm.alu(64, Alu::Sub, reg::RDX, sign);
        self.asm.mov(64, t, divisor);
        self.asm.shift_imm(64, Shift::Sar, t, 63);
        self.asm.alu(64, Alu::Xor, t, sign);
        self.asm.alu(64, Alu::Xor, reg::RAX, t);
        self.asm.alu(64, Alu::Sub, reg::RAX, t);
        self.asm.patch_short(skip);
    }
}

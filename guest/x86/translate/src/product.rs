//! Multiplication and division.

use iced_x86::Mnemonic;
use rhea_ir::{Cond, Op, Type, Val};
use rhea_x86_state::flags::kind;
use rhea_x86_state::state::gpr;

use crate::reasons::vector;
use crate::translator::Translator;

impl Translator<'_> {
    /// Multiplications and divisions; false if the instruction is none.
    pub(crate) fn products(&mut self) -> bool {
        match self.insn.mnemonic() {
            Mnemonic::Mul => self.multiply_accumulator(false),
            Mnemonic::Imul if self.insn.op_count() == 1 => self.multiply_accumulator(true),
            Mnemonic::Imul => self.imul(),
            Mnemonic::Mulx => self.mulx(),
            Mnemonic::Div => self.divide(false),
            Mnemonic::Idiv => self.divide(true),
            _ => return false,
        }
        true
    }

    /// `v` extended to `ty` by the signedness of the operation.
    fn extend(&mut self, signed: bool, ty: Type, v: Val) -> Val {
        if signed { self.b.sext(ty, v) } else { self.b.zext(ty, v) }
    }

    /// MUL and one-operand IMUL: accumulator times operand, double width.
    fn multiply_accumulator(&mut self, signed: bool) {
        let ty = self.operand_type(0);
        let b = self.read_operand(0);
        let a = self.gpr_low(gpr::RAX, ty);
        let (low, high);
        if ty == Type::I64 {
            low = self.b.bin(Op::Mul, a, b);
            high = self.b.bin(if signed { Op::MulHiS } else { Op::MulHiU }, a, b);
        } else {
            let wide = Type::int(ty.bytes() * 2);
            let (wa, wb) = (self.extend(signed, wide, a), self.extend(signed, wide, b));
            let p = self.b.bin(Op::Mul, wa, wb);
            if ty == Type::I8 {
                self.set_gpr(gpr::RAX, p);
            }
            low = self.b.zext(ty, p);
            let h = self.b.bin_imm(Op::Shr, p, u64::from(ty.bits()));
            high = self.b.zext(ty, h);
        }
        if ty != Type::I8 {
            self.set_gpr(gpr::RAX, low);
            self.set_gpr(gpr::RDX, high);
        }
        // CF = OF = 1 when the high half is more than the extension of the low half.
        let src = if signed {
            let s = self.b.bin_imm(Op::Sar, low, u64::from(ty.bits() - 1));
            self.b.xor(high, s)
        } else {
            high
        };
        self.set_flags_record(kind::MUL, low, src);
    }

    /// Two- and three-operand IMUL.
    fn imul(&mut self) {
        let ty = self.operand_type(0);
        let (x, y) = if self.insn.op_count() == 3 { (1, 2) } else { (0, 1) };
        let b = self.read_operand_as(y, ty);
        let a = self.read_operand(x);
        let r = self.b.bin(Op::Mul, a, b);
        let src = if ty == Type::I64 {
            let h = self.b.bin(Op::MulHiS, a, b);
            let s = self.b.bin_imm(Op::Sar, r, 63);
            self.b.xor(h, s)
        } else {
            let (wa, wb) = (self.b.sext(Type::I64, a), self.b.sext(Type::I64, b));
            let p = self.b.bin(Op::Mul, wa, wb);
            let s = self.b.sext(Type::I64, r);
            self.b.xor(p, s)
        };
        self.set_flags_record(kind::MUL, r, src);
        self.write_operand(0, r);
    }

    fn mulx(&mut self) {
        let ty = self.operand_type(0);
        let b = self.read_operand(2);
        let a = self.gpr_low(gpr::RDX, ty);
        let low = self.b.bin(Op::Mul, a, b);
        let high = self.b.bin(Op::MulHiU, a, b);
        // When both destinations are one register it gets the high half.
        self.write_operand(1, low);
        self.write_operand(0, high);
    }

    fn divide(&mut self, signed: bool) {
        let ty = self.operand_type(0);
        let d = self.read_operand(0);
        match ty {
            Type::I64 if signed => self.divide_signed64(d),
            Type::I64 | Type::I32 if !signed => {
                // The quotient fits when the high half is below the divisor; that includes a divisor that is not 0.
                let high = self.gpr_low(gpr::RDX, ty);
                let low = self.gpr_low(gpr::RAX, ty);
                let bad = self.b.icmp(Cond::GeU, high, d);
                self.raise_if(bad, vector::DE);
                let q = self.b.tri(Op::DivWideU, ty, high, low, d);
                let r = self.b.tri(Op::RemWideU, ty, high, low, d);
                self.set_gpr(gpr::RAX, q);
                self.set_gpr(gpr::RDX, r);
            }
            _ => self.divide_narrow(signed, ty, d),
        }
    }

    /// 8- and 16-bit divisions, and signed 32-bit ones: in 64 bits.
    fn divide_narrow(&mut self, signed: bool, ty: Type, d: Val) {
        let rax = self.gpr(gpr::RAX);
        let dividend = if ty == Type::I8 {
            let ax = self.b.zext(Type::I16, rax);
            self.extend(signed, Type::I64, ax)
        } else {
            let rdx = self.gpr(gpr::RDX);
            let bits = ty.bits();
            let low = self.wrap(rax, bits);
            let both = self.b.deposit(low, rdx, bits, bits);
            let both = self.b.zext(Type::int(2 * ty.bytes()), both);
            self.extend(signed, Type::I64, both)
        };
        let zero = self.b.icmp_imm(Cond::Eq, d, 0);
        self.raise_if(zero, vector::DE);
        let d = self.extend(signed, Type::I64, d);
        let high = if signed { self.b.bin_imm(Op::Sar, dividend, 63) } else { self.c64(0) };
        if signed && ty == Type::I32 {
            // The most negative dividend by -1 does not fit 64 bits either: its negation is far out of range.
            let min = self.b.icmp_imm(Cond::Eq, dividend, 1 << 63);
            let minus_one = self.b.icmp_imm(Cond::Eq, d, u64::MAX);
            let both = self.b.and(min, minus_one);
            self.raise_if(both, vector::DE);
        }
        let (div, rem) = if signed { (Op::DivWideS, Op::RemWideS) } else { (Op::DivWideU, Op::RemWideU) };
        let q = self.b.tri(div, Type::I64, high, dividend, d);
        let narrow = self.b.zext(ty, q);
        let back = self.extend(signed, Type::I64, narrow);
        let overflow = self.b.icmp(Cond::Ne, back, q);
        self.raise_if(overflow, vector::DE);
        let r = self.b.tri(rem, Type::I64, high, dividend, d);
        let r = self.b.zext(ty, r);
        if ty == Type::I8 {
            let (wq, wr) = (self.widen(narrow), self.any64(r));
            let ax = self.b.deposit(wq, wr, 8, 8);
            let new = self.b.deposit(rax, ax, 0, 16);
            return self.set_gpr(gpr::RAX, new);
        }
        self.set_gpr(gpr::RAX, narrow);
        self.set_gpr(gpr::RDX, r);
    }

    /// 128 by 64 bits, signed. The dividend almost always is a sign-extended 64-bit number: that case is inline. Any
    /// other goes to a helper, which answers the quotient and leaves the remainder in a scratch word.
    fn divide_signed64(&mut self, d: Val) {
        let high = self.gpr(gpr::RDX);
        let low = self.gpr(gpr::RAX);
        let sign = self.b.bin_imm(Op::Sar, low, 63);
        if sign == high || self.sign_extended(high, low) {
            let zero = self.b.icmp_imm(Cond::Eq, d, 0);
            self.raise_if(zero, vector::DE);
            let min = self.b.icmp_imm(Cond::Eq, low, 1 << 63);
            let minus_one = self.b.icmp_imm(Cond::Eq, d, u64::MAX);
            let both = self.b.and(min, minus_one);
            self.raise_if(both, vector::DE);
            let q = self.b.tri(Op::DivWideS, Type::I64, high, low, d);
            let r = self.b.tri(Op::RemWideS, Type::I64, high, low, d);
            self.set_gpr(gpr::RAX, q);
            self.set_gpr(gpr::RDX, r);
            return;
        }
        let q = self.helper(crate::helpers::IDIV64, &[high, low, d]);
        let r = self.b.get(crate::slots::scratch(0));
        self.set_gpr(gpr::RAX, q);
        self.set_gpr(gpr::RDX, r);
    }

    /// Whether `high` is visibly the sign of `low` (CQO came before in the unit).
    fn sign_extended(&self, high: Val, low: Val) -> bool {
        let h = self.b.unit.inst(high);
        h.op == Op::Sar && h.a == low && self.b.as_const(h.b) == Some(63)
    }
}

//! `tables/m.isa`: multiplication and division.

use rhea_ir::{Cond, Op, Val};

use crate::translator::UnitTranslator;
use crate::{R, TranslateM};

impl UnitTranslator<'_> {
    /// Quotient and remainder never trap: those of zero and of the overflowing division have values of their own
    /// (unprivileged specification, "Division Operations").
    fn signed_quotient(&mut self, x: Val, y: Val) -> Val {
        let ty = self.b.ty(x);
        let high = self.b.bin_imm(Op::Sar, x, u64::from(ty.bits()) - 1);
        let quotient = self.b.tri(Op::DivWideS, ty, high, x, y);
        // Dividing by -1 negates, the most negative number to itself.
        let negated = self.b.un(Op::Neg, x);
        let by_minus_one = self.b.icmp_imm(Cond::Eq, y, u64::MAX);
        let quotient = self.choose(by_minus_one, negated, quotient);
        let ones = self.b.iconst(ty, u64::MAX);
        let by_zero = self.is_zero(y);
        self.choose(by_zero, ones, quotient)
    }

    fn signed_remainder(&mut self, x: Val, y: Val) -> Val {
        let ty = self.b.ty(x);
        let high = self.b.bin_imm(Op::Sar, x, u64::from(ty.bits()) - 1);
        let remainder = self.b.tri(Op::RemWideS, ty, high, x, y);
        let zero = self.b.iconst(ty, 0);
        let by_minus_one = self.b.icmp_imm(Cond::Eq, y, u64::MAX);
        let remainder = self.choose(by_minus_one, zero, remainder);
        let by_zero = self.is_zero(y);
        self.choose(by_zero, x, remainder)
    }

    fn unsigned_quotient(&mut self, x: Val, y: Val) -> Val {
        let ty = self.b.ty(x);
        let zero = self.b.iconst(ty, 0);
        let quotient = self.b.tri(Op::DivWideU, ty, zero, x, y);
        let ones = self.b.iconst(ty, u64::MAX);
        let by_zero = self.is_zero(y);
        self.choose(by_zero, ones, quotient)
    }

    fn unsigned_remainder(&mut self, x: Val, y: Val) -> Val {
        let ty = self.b.ty(x);
        let zero = self.b.iconst(ty, 0);
        let remainder = self.b.tri(Op::RemWideU, ty, zero, x, y);
        let by_zero = self.is_zero(y);
        self.choose(by_zero, x, remainder)
    }

    fn mixed_high(&mut self, x: Val, y: Val) -> Val {
        let high = self.op(Op::MulHiU, x, y);
        let zero = self.b.iconst(self.b.ty(x), 0);
        let negative = self.b.icmp(Cond::LtS, x, zero);
        let correction = self.choose(negative, y, zero);
        self.op(Op::Sub, high, correction)
    }
}

macro_rules! each {
    ($($name:ident = $operand:ident, |$t:ident, $x:ident, $y:ident| $value:expr;)*) => {$(
        fn $name(&mut self, a: R) {
            let ($x, $y) = (self.$operand(a.rs1), self.$operand(a.rs2));
            let $t = &mut *self;
            let value = $value;
            self.set_x(a.rd, value);
        }
    )*};
}

impl TranslateM for UnitTranslator<'_> {
    each! {
        mul = x, |t, x, y| t.op(Op::Mul, x, y);
        mulh = x, |t, x, y| t.op(Op::MulHiS, x, y);
        mulhu = x, |t, x, y| t.op(Op::MulHiU, x, y);
        mulhsu = x, |t, x, y| t.mixed_high(x, y);
        mulw = x32, |t, x, y| t.op(Op::Mul, x, y);
        div = x, |t, x, y| t.signed_quotient(x, y);
        divu = x, |t, x, y| t.unsigned_quotient(x, y);
        rem = x, |t, x, y| t.signed_remainder(x, y);
        remu = x, |t, x, y| t.unsigned_remainder(x, y);
        divw = x32, |t, x, y| t.signed_quotient(x, y);
        divuw = x32, |t, x, y| t.unsigned_quotient(x, y);
        remw = x32, |t, x, y| t.signed_remainder(x, y);
        remuw = x32, |t, x, y| t.unsigned_remainder(x, y);
    }
}

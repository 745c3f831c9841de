//! `tables/b.isa`: bit manipulation.

use rhea_ir::{Cond, Op, Type, Val};

use crate::translator::UnitTranslator;
use crate::{R, Shift, Shift5, TranslateB, Unary, helpers};

impl UnitTranslator<'_> {
    fn shifted_add(&mut self, a: R, shift: u8, word: bool) {
        let (index, base) = (self.x64(a.rs1), self.x64(a.rs2));
        let index = if word { self.low_word(index) } else { index };
        let sum = self.b.lea(base, index, shift, 0);
        let sum = if self.is_rv32() { self.b.zext(Type::I32, sum) } else { sum };
        self.set_x(a.rd, sum);
    }

    /// The low 32 bits, zero-extended.
    fn low_word(&mut self, value: Val) -> Val {
        let low = self.b.zext(Type::I32, value);
        self.b.zext(Type::I64, low)
    }

    fn count(&mut self, op: Op, a: Unary) {
        let x = self.x(a.rs1);
        let value = self.b.un(op, x);
        self.set_x(a.rd, value);
    }

    fn count_word(&mut self, op: Op, a: Unary) {
        let x = self.x32(a.rs1);
        let value = self.b.un(op, x);
        self.set_x(a.rd, value);
    }

    fn extend(&mut self, a: Unary, ty: Type) {
        let x = self.x64(a.rs1);
        let value = self.b.zext(ty, x);
        self.set_x(a.rd, value);
    }

    fn better(&mut self, cond: Cond, a: R) {
        let (x, y) = (self.x64(a.rs1), self.x64(a.rs2));
        let first = self.b.icmp(cond, x, y);
        let value = self.choose(first, x, y);
        self.set_x(a.rd, value);
    }

    fn rotate_imm(&mut self, x: Val, count: u8) -> Val {
        let count = self.b.iconst(Type::I8, count.into());
        self.op(Op::Rotr, x, count)
    }

    /// One bit at the position that the low bits of rs2 give.
    fn bit(&mut self, a: R) -> (Val, Val) {
        let (x, count) = (self.x(a.rs1), self.x(a.rs2));
        let one = self.b.iconst(self.b.ty(x), 1);
        (x, self.op(Op::Shl, one, count))
    }

    fn bit_imm(&mut self, a: Shift) -> (Val, Val) {
        let x = self.x(a.rs1);
        let ty = self.b.ty(x);
        let at = u32::from(a.shamt) % ty.bits();
        (x, self.b.iconst(ty, 1 << at))
    }

    /// A function of 64-bit operands, in a helper; operands are cut to XLEN.
    fn by_helper(&mut self, id: u32, a: R) {
        let (x, y) = (self.x64(a.rs1), self.x64(a.rs2));
        let (x, y) = (self.wrap(x), self.wrap(y));
        let xlen = self.c64(self.config.xlen.into());
        let value = self.helper(id, &[x, y, xlen]);
        let value = if self.is_rv32() { self.b.zext(Type::I32, value) } else { value };
        self.set_x(a.rd, value);
    }
}

macro_rules! registers {
    ($($name:ident = $operand:ident, |$t:ident, $x:ident, $y:ident| $value:expr;)*) => {$(
        fn $name(&mut self, a: R) {
            let ($x, $y) = (self.$operand(a.rs1), self.$operand(a.rs2));
            let $t = &mut *self;
            let value = $value;
            self.set_x(a.rd, value);
        }
    )*};
}

macro_rules! bits {
    ($($name:ident, $name_imm:ident = |$t:ident, $x:ident, $bit:ident| $value:expr;)*) => {$(
        fn $name(&mut self, a: R) {
            let ($x, $bit) = self.bit(a);
            let $t = &mut *self;
            let value = $value;
            self.set_x(a.rd, value);
        }

        fn $name_imm(&mut self, a: Shift) {
            let ($x, $bit) = self.bit_imm(a);
            let $t = &mut *self;
            let value = $value;
            self.set_x(a.rd, value);
        }
    )*};
}

impl TranslateB for UnitTranslator<'_> {
    fn sh1add(&mut self, a: R) {
        self.shifted_add(a, 1, false);
    }
    fn sh2add(&mut self, a: R) {
        self.shifted_add(a, 2, false);
    }
    fn sh3add(&mut self, a: R) {
        self.shifted_add(a, 3, false);
    }
    fn sh1add_uw(&mut self, a: R) {
        self.shifted_add(a, 1, true);
    }
    fn sh2add_uw(&mut self, a: R) {
        self.shifted_add(a, 2, true);
    }
    fn sh3add_uw(&mut self, a: R) {
        self.shifted_add(a, 3, true);
    }
    fn add_uw(&mut self, a: R) {
        self.shifted_add(a, 0, true);
    }

    fn slli_uw(&mut self, a: Shift) {
        let x = self.x64(a.rs1);
        let low = self.low_word(x);
        let value = self.b.bin_imm(Op::Shl, low, a.shamt.into());
        self.set_x(a.rd, value);
    }

    registers! {
        andn = x64, |t, x, y| t.op(Op::AndNot, x, y);
        orn = x64, |t, x, y| { let y = t.b.un(Op::Not, y); t.op(Op::Or, x, y) };
        xnor = x64, |t, x, y| { let y = t.b.un(Op::Not, y); t.op(Op::Xor, x, y) };
        rol = x, |t, x, y| t.op(Op::Rotl, x, y);
        ror = x, |t, x, y| t.op(Op::Rotr, x, y);
        rolw = x32, |t, x, y| t.op(Op::Rotl, x, y);
        rorw = x32, |t, x, y| t.op(Op::Rotr, x, y);
        pack = x, |t, x, y| { let half = t.xlen().bits() / 2; t.b.deposit(x, y, half, half) };
        packw = x32, |t, x, y| t.b.deposit(x, y, 16, 16);
        packh = x64, |t, x, y| {
            let (x, y) = (t.b.and_imm(x, 0xff), t.b.and_imm(y, 0xff));
            t.b.deposit(x, y, 8, 8)
        };
    }

    fn rori(&mut self, a: Shift) {
        let x = self.x(a.rs1);
        let value = self.rotate_imm(x, a.shamt);
        self.set_x(a.rd, value);
    }

    fn roriw(&mut self, a: Shift5) {
        let x = self.x32(a.rs1);
        let value = self.rotate_imm(x, a.shamt5);
        self.set_x(a.rd, value);
    }

    fn rev8(&mut self, a: Unary) {
        self.count(Op::Bswap, a);
    }
    fn clz(&mut self, a: Unary) {
        self.count(Op::Clz, a);
    }
    fn ctz(&mut self, a: Unary) {
        self.count(Op::Ctz, a);
    }
    fn cpop(&mut self, a: Unary) {
        self.count(Op::Popcnt, a);
    }
    fn clzw(&mut self, a: Unary) {
        self.count_word(Op::Clz, a);
    }
    fn ctzw(&mut self, a: Unary) {
        self.count_word(Op::Ctz, a);
    }
    fn cpopw(&mut self, a: Unary) {
        self.count_word(Op::Popcnt, a);
    }
    fn sext_b(&mut self, a: Unary) {
        self.extend(a, Type::I8);
    }
    fn sext_h(&mut self, a: Unary) {
        self.extend(a, Type::I16);
    }

    fn zext_h(&mut self, a: Unary) {
        let x = self.x64(a.rs1);
        let value = self.b.and_imm(x, 0xffff);
        self.set_x(a.rd, value);
    }

    /// A byte that is not zero becomes ones: bit 7 gathers the byte's bits, then fills it.
    fn orc_b(&mut self, a: Unary) {
        let x = self.x64(a.rs1);
        let low = self.b.and_imm(x, 0x7f7f_7f7f_7f7f_7f7f);
        let carried = self.b.add_imm(low, 0x7f7f_7f7f_7f7f_7f7f);
        let any = self.op(Op::Or, carried, x);
        let ones = self.b.bin_imm(Op::Shr, any, 7);
        let ones = self.b.and_imm(ones, 0x0101_0101_0101_0101);
        let value = self.b.bin_imm(Op::Mul, ones, 0xff);
        let value = if self.is_rv32() { self.b.zext(Type::I32, value) } else { value };
        self.set_x(a.rd, value);
    }

    fn min(&mut self, a: R) {
        self.better(Cond::LtS, a);
    }
    fn minu(&mut self, a: R) {
        self.better(Cond::LtU, a);
    }
    fn max(&mut self, a: R) {
        self.better(Cond::GtS, a);
    }
    fn maxu(&mut self, a: R) {
        self.better(Cond::GtU, a);
    }

    fn clmul(&mut self, a: R) {
        self.by_helper(helpers::CLMUL, a);
    }
    fn clmulh(&mut self, a: R) {
        self.by_helper(helpers::CLMULH, a);
    }
    fn clmulr(&mut self, a: R) {
        self.by_helper(helpers::CLMULR, a);
    }

    bits! {
        bclr, bclri = |t, x, bit| t.op(Op::AndNot, x, bit);
        binv, binvi = |t, x, bit| t.op(Op::Xor, x, bit);
        bset, bseti = |t, x, bit| t.op(Op::Or, x, bit);
    }

    fn bext(&mut self, a: R) {
        let (x, count) = (self.x(a.rs1), self.x(a.rs2));
        let shifted = self.op(Op::Shr, x, count);
        let value = self.b.and_imm(shifted, 1);
        self.set_x(a.rd, value);
    }

    fn bexti(&mut self, a: Shift) {
        let x = self.x64(a.rs1);
        let value = self.b.extract(x, a.shamt.into(), 1);
        self.set_x(a.rd, value);
    }

    /// Three steps of swapping neighbours within each byte.
    fn brev8(&mut self, a: Unary) {
        let mut x = self.x64(a.rs1);
        for (shift, mask) in [(1, 0x55), (2, 0x33), (4, 0x0f)] {
            let mask = mask * 0x0101_0101_0101_0101u64;
            let up = self.b.and_imm(x, mask);
            let up = self.b.bin_imm(Op::Shl, up, shift);
            let down = self.b.bin_imm(Op::Shr, x, shift);
            let down = self.b.and_imm(down, mask);
            x = self.op(Op::Or, up, down);
        }
        // Bytes stay where they are, so that sign-extended values become sign-extended ones only by cutting.
        let x = if self.is_rv32() { self.b.zext(Type::I32, x) } else { x };
        self.set_x(a.rd, x);
    }

    fn zip(&mut self, a: Unary) {
        let x = self.x32(a.rs1);
        let low_bits = self.b.bin_imm(Op::Pdep, x, 0x5555_5555);
        let high = self.b.bin_imm(Op::Shr, x, 16);
        let high_bits = self.b.bin_imm(Op::Pdep, high, 0xaaaa_aaaa);
        let value = self.op(Op::Or, low_bits, high_bits);
        self.set_x(a.rd, value);
    }

    fn unzip(&mut self, a: Unary) {
        let x = self.x32(a.rs1);
        let low = self.b.bin_imm(Op::Pext, x, 0x5555_5555);
        let high = self.b.bin_imm(Op::Pext, x, 0xaaaa_aaaa);
        let high = self.b.bin_imm(Op::Shl, high, 16);
        let value = self.op(Op::Or, low, high);
        self.set_x(a.rd, value);
    }

    fn xperm4(&mut self, a: R) {
        self.by_helper(helpers::XPERM4, a);
    }
    fn xperm8(&mut self, a: R) {
        self.by_helper(helpers::XPERM8, a);
    }
}

//! Instructions on the flags themselves, and decimal arithmetic.

use rhea_ir::{Op, Type, Val};
use rhea_x86_state::flags;
use rhea_x86_state::state::gpr;

use crate::reasons;
use crate::translator::Translator;

impl Translator<'_> {
    pub(crate) fn lahf(&mut self) {
        let f = self.flags_value();
        let f = self.b.and_imm(f, flags::SF | flags::ZF | flags::AF | flags::PF | flags::CF);
        let two = self.b.iconst(Type::I64, 2);
        let f = self.b.or(f, two);
        let old = self.gpr(gpr::RAX);
        let new = self.b.deposit(old, f, 8, 8);
        self.set_gpr(gpr::RAX, new);
    }

    pub(crate) fn sahf(&mut self) {
        let of = self.flags_value();
        let of = self.b.and_imm(of, flags::OF);
        let rax = self.gpr(gpr::RAX);
        let ah = self.b.extract(rax, 8, 8);
        let ah = self.b.and_imm(ah, flags::SF | flags::ZF | flags::AF | flags::PF | flags::CF);
        let f = self.b.or(of, ah);
        self.set_flags_value(f);
    }

    pub(crate) fn set_carry(&mut self, to: Option<bool>) {
        let f = self.flags_value();
        let one = self.c64(flags::CF);
        let f = match to {
            Some(true) => self.b.or(f, one),
            Some(false) => self.b.bin(Op::AndNot, f, one),
            None => self.b.xor(f, one),
        };
        self.set_flags_value(f);
    }

    pub(crate) fn set_direction(&mut self, df: u64) {
        let v = self.b.iconst(Type::I32, df);
        self.b.put(crate::slots::DF, v);
    }

    // ---- decimal ----

    /// AAA, AAS, DAA, DAS: the helper takes AX and the flags, and answers AX with the new flags above bit 16.
    pub(crate) fn bcd(&mut self, helper: u32) {
        let f = self.flags_value();
        let ax = self.gpr(gpr::RAX);
        let r = self.helper(helper, &[ax, f]);
        self.ax_and_flags(r);
    }

    fn ax_and_flags(&mut self, r: Val) {
        let old = self.gpr(gpr::RAX);
        let new = self.b.deposit(old, r, 0, 16);
        self.set_gpr(gpr::RAX, new);
        let f = self.b.bin_imm(Op::Shr, r, 16);
        self.set_flags_value(f);
    }

    pub(crate) fn aad(&mut self) {
        let base = self.insn.immediate(0) & 0xff;
        let ax = self.gpr(gpr::RAX);
        let ah = self.b.extract(ax, 8, 8);
        let tens = self.b.bin_imm(Op::Mul, ah, base);
        let sum = self.b.add(ax, tens);
        let al = self.b.zext(Type::I8, sum);
        let wide = self.b.extract(sum, 0, 8);
        let new = self.b.deposit(ax, wide, 0, 16);
        self.set_gpr(gpr::RAX, new);
        self.set_flags_logic(al);
    }

    pub(crate) fn aam(&mut self) {
        let base = self.insn.immediate(0) & 0xff;
        if base == 0 {
            return self.raise(reasons::vector::DE);
        }
        let ax = self.gpr(gpr::RAX);
        let al = self.b.extract(ax, 0, 8);
        let zero = self.c64(0);
        let base = self.c64(base);
        let q = self.b.tri(Op::DivWideU, Type::I64, zero, al, base);
        let r = self.b.tri(Op::RemWideU, Type::I64, zero, al, base);
        let v = self.b.deposit(r, q, 8, 8);
        let new = self.b.deposit(ax, v, 0, 16);
        self.set_gpr(gpr::RAX, new);
        let low = self.b.zext(Type::I8, r);
        self.set_flags_logic(low);
    }

    pub(crate) fn salc(&mut self) {
        let c = self.carry();
        let v = self.b.un(Op::Neg, c);
        self.set_gpr(gpr::RAX, v);
    }
}

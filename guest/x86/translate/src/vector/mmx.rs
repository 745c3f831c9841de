//! MMX: its registers are the significands of the physical x87 registers.
//!
//! Every MMX instruction but EMMS sets TOP to zero and all but EMMS mark all registers valid; a write fills the register's sign
//! and exponent with ones (SDM vol. 1, 9.5).

use rhea_ir::{Inst, Lane, Op, Type, Val};

use crate::slots;
use crate::translator::Translator;

impl Translator<'_> {
    /// Turns the x87 stack to MMX use.
    pub(super) fn enter_mmx(&mut self) {
        if !self.vector.mmx_entered {
            let zero = self.b.iconst(Type::I32, 0);
            self.b.put(slots::X87_TOP, zero);
            self.b.put(slots::X87_EMPTY, zero);
            self.forget_x87();
            self.vector.mmx_entered = true;
        }
    }

    /// Writes MMX register `index`.
    pub(super) fn write_mmx(&mut self, index: usize, v: Val) {
        self.enter_mmx();
        self.b.put(slots::mmx(index), v);
        if self.vector.mmx_exponents & 1 << index == 0 {
            let ones = self.c64(0xffff);
            self.b.put(slots::x87_sign_exponent(index), ones);
            self.vector.mmx_exponents |= 1 << index;
        }
    }

    /// A two-operand operation on MMX registers. Operations that read or fill the upper half of a 128-bit vector are
    /// given both operands in one.
    pub(super) fn combine_mmx(&mut self, op: Op, lane: Lane, a: Val, b: Val, imm: u64) -> Val {
        match op {
            Op::VUnpackHi => {
                let v = self.b.vbin(Op::VUnpackLo, lane, a, b);
                self.b.vun_imm(Op::VShrBytes, Lane::I8, v, 8)
            }
            Op::VPackSS | Op::VPackUS | Op::VHAdd | Op::VHSub | Op::VHAddSat | Op::VHSubSat => {
                let both = self.b.vbin(Op::VUnpackLo, Lane::I64, a, b);
                self.b.vbin(op, lane, both, both)
            }
            Op::VShuffleBytes => {
                // Bit 3 of a selector is ignored: there are eight bytes.
                let mask = self.b.iconst(Type::V128, 0x8787_8787_8787_8787);
                let selectors = self.b.vbin(Op::VAnd, Lane::None, b, mask);
                self.b.vbin(op, lane, a, selectors)
            }
            Op::VAlign if imm >= 16 => self.zero_vector(Type::V128),
            Op::VAlign => {
                let both = self.b.vbin(Op::VUnpackLo, Lane::I64, b, a);
                self.b.vun_imm(Op::VShrBytes, Lane::I8, both, imm)
            }
            _ => {
                let ty = self.b.ty(a);
                self.vector_op(Inst { a, b, lane, imm, ..Inst::new(op, ty) })
            }
        }
    }
}

/// EMMS: all registers empty, TOP zero.
pub(super) fn empty_state(t: &mut Translator<'_>) {
    let top = t.b.iconst(Type::I32, 0);
    t.b.put(slots::X87_TOP, top);
    let empty = t.b.iconst(Type::I32, 0xff);
    t.b.put(slots::X87_EMPTY, empty);
    t.forget_x87();
    t.vector.leave_mmx();
}

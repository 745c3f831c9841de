//! Counting and reversing the bits of elements: by halves of bytes, each looked up in a table of 16.

use rhea_ir::{Lane, Op, Type, Val};
use rhea_riscv_vector::Op as V;

use crate::vector::emit::{Emitter, lane};

/// The lowest four bits, backwards.
const fn reversed(nibble: u8) -> u8 {
    nibble.reverse_bits() >> 4
}

impl Emitter<'_> {
    pub(crate) fn bit_operation(&mut self, op: V, sew: u8, x: Val) -> Val {
        match op {
            V::Vrev8 => self.bytes_reversed(sew, x),
            V::Vbrev8 => self.bits_reversed(x),
            V::Vbrev => {
                let bytes = self.bytes_reversed(sew, x);
                self.bits_reversed(bytes)
            }
            V::VcpopV => self.population(sew, x),
            V::Vctz => {
                // The zeros below the lowest one are the ones of x - 1 that x has not.
                let ty = self.b.ty(x);
                let ones = self.constant(ty, sew, u64::MAX);
                let less = self.op(Op::VAdd, lane(sew), x, ones);
                let below = self.op(Op::VAndNot, Lane::None, less, x);
                self.population(sew, below)
            }
            _ => {
                // Ones from the highest one down; the others are counted.
                let ty = self.b.ty(x);
                let mut filled = x;
                for log in 0..3 + sew {
                    let moved = self.shift_by_constant(V::Vsrl, sew, filled, 1 << log);
                    filled = self.op(Op::VOr, Lane::None, filled, moved);
                }
                let ones = self.constant(ty, sew, u64::MAX);
                let above = self.op(Op::VAndNot, Lane::None, ones, filled);
                self.population(sew, above)
            }
        }
    }

    /// 16 bytes, for each 128 bits of `ty`.
    fn table(&mut self, ty: Type, byte: impl Fn(u8) -> u8) -> Val {
        let one = self.selector(byte);
        if ty == Type::V256 { self.joined(one, one) } else { one }
    }

    fn bytes_reversed(&mut self, sew: u8, x: Val) -> Val {
        let width = 1u8 << sew;
        let ty = self.b.ty(x);
        let selector = self.table(ty, |i| i ^ (width - 1));
        self.shuffled(x, selector)
    }

    /// What two tables say of the halves of each byte: of the lower one, and of the upper one.
    fn halves_looked_up(&mut self, x: Val, lower: impl Fn(u8) -> u8, upper: impl Fn(u8) -> u8) -> (Val, Val) {
        let ty = self.b.ty(x);
        let low_bits = self.constant(ty, 0, 15);
        let low = self.op(Op::VAnd, Lane::None, x, low_bits);
        let high = self.b.vun_imm(Op::VShrImm, Lane::I16, x, 4);
        let high = self.op(Op::VAnd, Lane::None, high, low_bits);
        let (lower, upper) = (self.table(ty, lower), self.table(ty, upper));
        (self.shuffled(lower, low), self.shuffled(upper, high))
    }

    fn bits_reversed(&mut self, x: Val) -> Val {
        let (a, b) = self.halves_looked_up(x, |i| reversed(i) << 4, reversed);
        self.op(Op::VOr, Lane::None, a, b)
    }

    fn population(&mut self, sew: u8, x: Val) -> Val {
        let ones = |i: u8| i.count_ones() as u8;
        let (a, b) = self.halves_looked_up(x, ones, ones);
        let mut counts = self.op(Op::VAdd, Lane::I8, a, b);
        let ty = self.b.ty(x);
        for log in 0..sew {
            // Both halves of lanes twice as wide are added.
            let bits = 8u64 << log;
            let upper = self.b.vun_imm(Op::VShrImm, lane(log + 1), counts, bits);
            let sum = self.op(Op::VAdd, lane(log + 1), counts, upper);
            let low = self.constant(ty, log + 1, (1 << bits) - 1);
            counts = self.op(Op::VAnd, Lane::None, sum, low);
        }
        counts
    }
}

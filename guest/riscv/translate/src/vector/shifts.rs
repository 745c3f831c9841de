//! Shifts and rotations of elements.

use rhea_ir::{Lane, Op, Type, Val};
use rhea_riscv_vector::Op as V;

use crate::vector::emit::{Emitter, lane};

impl Emitter<'_> {
    /// Shifts by the lanes of `y`, or by a scalar.
    pub(crate) fn shift(&mut self, op: V, sew: u8, x: Val, y: Val, scalar: Option<Val>) -> Val {
        let bits = 8u64 << sew;
        match scalar {
            None => {
                let ty = self.b.ty(x);
                let most = self.constant(ty, sew, bits - 1);
                let count = self.op(Op::VAnd, Lane::None, y, most);
                self.shift_each(op, sew, x, count)
            }
            Some(count) => match self.b.as_const(count) {
                Some(count) => self.shift_by_constant(op, sew, x, count & (bits - 1)),
                None => self.shift_by_scalar(op, sew, x, count),
            },
        }
    }

    /// Rotations, as [`Emitter::shift`].
    pub(crate) fn rotate(&mut self, op: V, sew: u8, x: Val, y: Val, scalar: Option<Val>) -> Val {
        let (there, back) = if op == V::Vrol { (V::Vsll, V::Vsrl) } else { (V::Vsrl, V::Vsll) };
        // What comes in at the other end is shifted by the rest of the width, modulo the width.
        let rest = scalar.map(|count| {
            let zero = self.b.iconst(Type::I64, 0);
            match self.b.as_const(count) {
                Some(count) => self.b.iconst(Type::I64, count.wrapping_neg()),
                None => self.b.sub(zero, count),
            }
        });
        let ty = self.b.ty(x);
        let zero = self.b.iconst(ty, 0);
        let rests = self.op(Op::VSub, lane(sew), zero, y);
        let (moved, wrapped) = (self.shift(there, sew, x, y, scalar), self.shift(back, sew, x, rests, rest));
        self.op(Op::VOr, Lane::None, moved, wrapped)
    }

    /// Shifts each lane by its own count, which is below its width.
    fn shift_each(&mut self, op: V, sew: u8, x: Val, count: Val) -> Val {
        let l = lane(sew);
        match (op, sew) {
            (_, 0 | 1) => self.shift_halves(op, sew, x, count),
            (V::Vsll, _) => self.op(Op::VShlVar, l, x, count),
            (V::Vsrl, _) => self.op(Op::VShrVar, l, x, count),
            (_, 2) => self.op(Op::VSarVar, l, x, count),
            _ => {
                // Negative numbers are shifted as their complements.
                let ty = self.b.ty(x);
                let zero = self.b.iconst(ty, 0);
                let sign = self.op(Op::VCmpGtS, l, zero, x);
                let positive = self.op(Op::VXor, Lane::None, x, sign);
                let moved = self.op(Op::VShrVar, l, positive, count);
                self.op(Op::VXor, Lane::None, moved, sign)
            }
        }
    }

    /// The host has no such shifts of bytes and words: both halves of lanes twice as wide are shifted apart.
    fn shift_halves(&mut self, op: V, sew: u8, x: Val, count: Val) -> Val {
        let (ty, wide, bits) = (self.b.ty(x), lane(sew + 1), 8u64 << sew);
        let low = self.constant(ty, sew + 1, (1 << bits) - 1);
        let high = self.constant(ty, sew + 1, ((1 << bits) - 1) << bits);
        let low_count = self.op(Op::VAnd, Lane::None, count, low);
        let high_count = self.b.vun_imm(Op::VShrImm, wide, count, bits);
        let (low_lanes, high_lanes) = match op {
            V::Vsll => (x, self.op(Op::VAnd, Lane::None, x, high)),
            V::Vsrl => (self.op(Op::VAnd, Lane::None, x, low), x),
            _ => (self.b.vun_imm(Op::VShlImm, wide, x, bits), x),
        };
        let moved = self.shift_each(op, sew + 1, low_lanes, low_count);
        let lower = match op {
            V::Vsll => self.op(Op::VAnd, Lane::None, moved, low),
            V::Vsrl => moved,
            _ => self.b.vun_imm(Op::VShrImm, wide, moved, bits),
        };
        let moved = self.shift_each(op, sew + 1, high_lanes, high_count);
        let upper = if op == V::Vsll { moved } else { self.op(Op::VAnd, Lane::None, moved, high) };
        self.op(Op::VOr, Lane::None, lower, upper)
    }

    pub(crate) fn shift_by_constant(&mut self, op: V, sew: u8, x: Val, count: u64) -> Val {
        let ty = self.b.ty(x);
        let l = lane(sew);
        match (op, sew) {
            (V::Vsra, 3) => {
                let zero = self.b.iconst(ty, 0);
                let sign = self.op(Op::VCmpGtS, Lane::I64, zero, x);
                let low = self.b.vun_imm(Op::VShrImm, Lane::I64, x, count);
                let high = self.b.vun_imm(Op::VShlImm, Lane::I64, sign, 64 - count);
                self.op(Op::VOr, Lane::None, low, high)
            }
            (V::Vsra, 0) => {
                // As words: odd bytes keep their own sign, even ones are moved up for it.
                let odd = self.b.vun_imm(Op::VSarImm, Lane::I16, x, count);
                let even = self.b.vun_imm(Op::VShlImm, Lane::I16, x, 8);
                let even = self.b.vun_imm(Op::VSarImm, Lane::I16, even, count);
                let even = self.b.vun_imm(Op::VShrImm, Lane::I16, even, 8);
                let high = self.constant(ty, 1, 0xff00);
                let odd = self.op(Op::VAnd, Lane::None, odd, high);
                self.op(Op::VOr, Lane::None, even, odd)
            }
            (V::Vsra, _) => self.b.vun_imm(Op::VSarImm, l, x, count),
            (_, 0) => {
                let (op, kept) =
                    if op == V::Vsll { (Op::VShlImm, 0xff << count) } else { (Op::VShrImm, 0xff >> count) };
                let moved = self.b.vun_imm(op, Lane::I16, x, count);
                let kept = self.constant(ty, 0, kept);
                self.op(Op::VAnd, Lane::None, moved, kept)
            }
            (V::Vsll, _) => self.b.vun_imm(Op::VShlImm, l, x, count),
            _ => self.b.vun_imm(Op::VShrImm, l, x, count),
        }
    }

    fn shift_by_scalar(&mut self, op: V, sew: u8, x: Val, count: Val) -> Val {
        let bits = 8u64 << sew;
        let count = self.b.and_imm(count, bits - 1);
        let vector = |e: &mut Self, v| e.b.convert(Op::VFromInt, Type::V128, Lane::None, 0, v);
        let by = vector(self, count);
        let l = lane(sew);
        match (op, sew) {
            (_, 0) => self.shift_bytes(op, x, by, count),
            (V::Vsll, _) => self.op(Op::VShl, l, x, by),
            (V::Vsrl, _) => self.op(Op::VShr, l, x, by),
            (_, 3) => {
                let ty = self.b.ty(x);
                let zero = self.b.iconst(ty, 0);
                let sign = self.op(Op::VCmpGtS, Lane::I64, zero, x);
                let low = self.op(Op::VShr, l, x, by);
                let width = self.b.iconst(Type::I64, 64);
                let rest = self.b.sub(width, count);
                let rest = vector(self, rest);
                let high = self.op(Op::VShl, l, sign, rest);
                self.op(Op::VOr, Lane::None, low, high)
            }
            _ => self.op(Op::VSar, l, x, by),
        }
    }

    /// As words. `by` is the count as a vector.
    fn shift_bytes(&mut self, op: V, x: Val, by: Val, count: Val) -> Val {
        let ty = self.b.ty(x);
        if op == V::Vsra {
            // Odd bytes keep their own sign, even ones are moved up for it.
            let odd = self.op(Op::VSar, Lane::I16, x, by);
            let even = self.b.vun_imm(Op::VShlImm, Lane::I16, x, 8);
            let even = self.op(Op::VSar, Lane::I16, even, by);
            let even = self.b.vun_imm(Op::VShrImm, Lane::I16, even, 8);
            let high = self.constant(ty, 1, 0xff00);
            let odd = self.op(Op::VAnd, Lane::None, odd, high);
            return self.op(Op::VOr, Lane::None, even, odd);
        }
        let (of_words, of_bits) = if op == V::Vsll { (Op::VShl, Op::Shl) } else { (Op::VShr, Op::Shr) };
        let moved = self.op(of_words, Lane::I16, x, by);
        let all = self.b.iconst(Type::I64, 0xff);
        let kept = self.b.bin(of_bits, all, count);
        let kept = self.splat(ty, 0, kept);
        self.op(Op::VAnd, Lane::None, moved, kept)
    }
}

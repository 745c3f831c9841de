//! Reductions: element 0 of vs1 and all elements of a group become element 0 of vd.

use rhea_ir::{Cond, FloatCond, Lane, Op, Slot, Type, Val};
use rhea_riscv_vector::{Op as V, Operation, Shape};

use crate::slots;
use crate::vector::emit::{Emitter, Pieces, Rounding, lane};

/// Most terms of a sum of floating-point numbers that are worth their code: each is an addition of its own.
const MOST_TERMS: u64 = 32;

impl Emitter<'_> {
    /// Sums and the like over all elements, then over the lanes of one vector.
    pub(crate) fn inline_reduction(&mut self, o: Operation, sew: u8, n: u64) -> bool {
        let Some(pieces) = Pieces::of(n << sew) else { return false };
        if o.masked || pieces.bytes < 16 {
            return false;
        }
        let op = match o.op {
            V::Vredsum => V::Vadd,
            V::Vredand => V::Vand,
            V::Vredor => V::Vor,
            V::Vredxor => V::Vxor,
            V::Vredminu => V::Vminu,
            V::Vredmin => V::Vmin,
            V::Vredmaxu => V::Vmaxu,
            _ => V::Vmax,
        };
        let all: Vec<Val> = (0..pieces.count).map(|i| self.piece(o.vs2, pieces, i)).collect();
        self.reduce_integers(o, op, sew, &all);
        true
    }

    /// Sums of elements that are extended to twice their width.
    pub(crate) fn inline_widening_sum(&mut self, o: Operation, sew: u8, n: u64) -> bool {
        let Some(wide) = Pieces::of(n << (sew + 1)).filter(|p| p.bytes >= 16) else { return false };
        if o.masked {
            return false;
        }
        let is_signed = o.op == V::Vwredsum;
        let all: Option<Vec<Val>> =
            (0..wide.count).map(|i| self.extended(o.vs2, sew, 1, is_signed, wide, i)).collect();
        let Some(all) = all else { return false };
        self.reduce_integers(o, V::Vadd, sew + 1, &all);
        true
    }

    fn reduce_integers(&mut self, o: Operation, op: V, sew: u8, all: &[Val]) {
        let mut acc = all[0];
        for x in &all[1..] {
            acc = self.lane_operation(op, sew, acc, *x);
        }
        if self.b.ty(acc) == Type::V256 {
            let (low, high) = (self.half(acc, 0), self.half(acc, 1));
            acc = self.lane_operation(op, sew, low, high);
        }
        for bytes in [8, 4, 2, 1].into_iter().filter(|bytes| *bytes >= 1u64 << sew) {
            let upper = self.b.vun_imm(Op::VShrBytes, Lane::None, acc, bytes);
            acc = self.lane_operation(op, sew, acc, upper);
        }
        let ty = Type::int(1 << sew);
        let first = Slot { offset: self.register(o.vs1), ty };
        let first = self.b.get(first);
        let sum = self.b.vextract(lane(sew), acc, 0);
        let result = match op {
            V::Vadd => self.b.add(first, sum),
            V::Vand => self.b.and(first, sum),
            V::Vor => self.b.or(first, sum),
            V::Vxor => self.b.xor(first, sum),
            _ => {
                let cond = match op {
                    V::Vminu => Cond::LtU,
                    V::Vmin => Cond::LtS,
                    V::Vmaxu => Cond::GtU,
                    _ => Cond::GtS,
                };
                let first_wins = self.b.icmp(cond, first, sum);
                self.b.select(first_wins, first, sum)
            }
        };
        let slot = Slot { offset: self.register(o.vd), ty };
        self.b.put(slot, result);
    }

    /// Sums, and the smallest or largest number.
    pub(crate) fn inline_float_reduction(&mut self, o: Operation, sew: u8, n: u64) -> bool {
        let is_float = matches!(
            o.op,
            V::Vfredusum | V::Vfredosum | V::Vfredmin | V::Vfredmax | V::Vfwredusum | V::Vfwredosum
        );
        if !is_float || o.masked || sew < 2 {
            return false;
        }
        match o.op {
            V::Vfredmin => self.float_extreme(o, V::Vfmin, sew, n),
            V::Vfredmax => self.float_extreme(o, V::Vfmax, sew, n),
            _ => self.float_sum(o, sew, n),
        }
    }

    /// In the elements' order, which the unordered sums may have as well. A NaN among the terms stays one to the end, where it
    /// becomes the canonical one.
    fn float_sum(&mut self, o: Operation, sew: u8, n: u64) -> bool {
        if n > MOST_TERMS || self.rounding == Rounding::Software {
            return false;
        }
        let widens = o.op.shape() == Shape::WidenReduce;
        let term = if sew == 2 { Type::F32 } else { Type::F64 };
        let (ty, l, canonical) = if sew == 2 && !widens {
            (Type::F32, Lane::F32, slots::CANONICAL_SINGLE)
        } else {
            (Type::F64, Lane::F64, slots::CANONICAL_DOUBLE)
        };
        let canonical = self.b.get(canonical);
        let mut sum = self.b.get(Slot { offset: self.register(o.vs1), ty });
        for i in 0..n as u32 {
            let mut x = self.b.get(Slot { offset: self.register(o.vs2) + (i << sew), ty: term });
            if widens {
                x = self.b.op2(Op::FConvert, ty, l, 0, canonical, x, 0);
            }
            sum = self.b.vbin(Op::FAdd, l, sum, x);
        }
        let is_nan = self.b.ftest(l, FloatCond::Unordered, false, sum, sum);
        let sum = self.b.select(is_nan, canonical, sum);
        self.b.put(Slot { offset: self.register(o.vd), ty }, sum);
        true
    }

    /// Numbers win over NaNs and -0 is below +0, so that the order does not matter: halves are compared with each other.
    fn float_extreme(&mut self, o: Operation, op: V, sew: u8, n: u64) -> bool {
        let Some(pieces) = Pieces::of(n << sew) else { return false };
        let mut acc = self.piece(o.vs2, pieces, 0);
        for i in 1..pieces.count {
            let x = self.piece(o.vs2, pieces, i);
            acc = self.float_min_max(op, sew, acc, x);
        }
        if pieces.bytes == 32 {
            let (low, high) = (self.half(acc, 0), self.half(acc, 1));
            acc = self.float_min_max(op, sew, low, high);
        }
        let width = 1 << sew;
        for bytes in [8, 4].into_iter().filter(|bytes| *bytes >= width && *bytes < pieces.bytes) {
            let upper = self.b.vun_imm(Op::VShrBytes, Lane::None, acc, bytes.into());
            acc = self.float_min_max(op, sew, acc, upper);
        }
        let ty = Type::int(width);
        let first = self.b.get(Slot { offset: self.register(o.vs1), ty });
        let first = self.b.convert(Op::VFromInt, Type::V128, Lane::None, 0, first);
        acc = self.float_min_max(op, sew, first, acc);
        let result = self.b.vextract(lane(sew), acc, 0);
        self.b.put(Slot { offset: self.register(o.vd), ty }, result);
        true
    }
}

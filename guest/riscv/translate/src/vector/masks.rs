//! Masks: comparisons that make them, lanes made of them, and their logic.

use rhea_ir::{Cond, FloatCond, Inst, Lane, Op, Slot, Type, Val};
use rhea_riscv_vector::{Numbers, Op as V, Operation};

use crate::vector::call::{Destination, Source};
use crate::vector::emit::{Emitter, Pieces, lane};

/// A bit for each byte of eight.
const BITS: u64 = 0x8040_2010_0804_0201;

impl Emitter<'_> {
    /// The slot of mask bits from `first` on, as many as `count` says: 8 at least, 64 at most.
    fn mask_slot(&self, register: u8, first: u64, count: u64) -> Slot {
        let ty = match count {
            0..=8 => Type::I8,
            9..=16 => Type::I16,
            17..=32 => Type::I32,
            _ => Type::I64,
        };
        Slot { offset: self.register(register) + (first / 8) as u32, ty }
    }

    /// Bits of a mask register in words of 64; those behind `n` are zero.
    fn mask_words(&mut self, register: u8, n: u64) -> Vec<Val> {
        (0..n.div_ceil(64))
            .map(|i| {
                let count = (n - 64 * i).min(64);
                let slot = self.mask_slot(register, 64 * i, count);
                let value = self.b.get(slot);
                let value = self.b.zext(Type::I64, value);
                if count < 64 { self.b.and_imm(value, (1 << count) - 1) } else { value }
            })
            .collect()
    }

    /// Writes `n` bits; those behind keep their values.
    fn put_mask_words(&mut self, register: u8, n: u64, words: &[Val]) {
        for (i, word) in words.iter().enumerate() {
            let first = 64 * i as u64;
            let count = (n - first).min(64);
            let slot = self.mask_slot(register, first, count);
            let mut value = self.b.zext(slot.ty, *word);
            if u64::from(slot.ty.bits()) != count {
                let old = self.b.get(slot);
                let (old, new) = (self.b.zext(Type::I32, old), self.b.zext(Type::I32, value));
                let both = self.b.deposit(old, new, 0, count as u32);
                value = self.b.zext(slot.ty, both);
            }
            self.b.put(slot, value);
        }
    }

    /// v0 as all ones or zeros in the lanes of each piece. Pieces are at least eight bytes.
    pub(crate) fn lane_mask(&mut self, pieces: Pieces, sew: u8) -> Option<Vec<Val>> {
        let per_piece = u64::from(pieces.bytes) >> sew;
        let n = per_piece * u64::from(pieces.count);
        let words = self.mask_words(0, n);
        let lanes = (0..u64::from(pieces.count))
            .map(|i| {
                let first = i * per_piece;
                let word = words[(first / 64) as usize];
                let bits = self.b.bin_imm(Op::Shr, word, first % 64);
                self.expand(bits, pieces.ty(), sew)
            })
            .collect();
        Some(lanes)
    }

    /// The lowest bits of an I64 as lanes of `ty`.
    fn expand(&mut self, bits: Val, ty: Type, sew: u8) -> Val {
        let bytes = self.expand_bytes(bits);
        if sew != 0 {
            return self.b.push(Inst {
                a: bytes,
                lane: Lane::I8,
                aux: 1 << sew,
                ..Inst::new(Op::VExtendS, ty)
            });
        }
        if ty == Type::V128 {
            return bytes;
        }
        let upper = self.b.bin_imm(Op::Shr, bits, 16);
        let upper = self.expand_bytes(upper);
        self.joined(bytes, upper)
    }

    /// The lowest 16 bits as bytes of a V128.
    fn expand_bytes(&mut self, bits: Val) -> Val {
        let v = self.b.convert(Op::VFromInt, Type::V128, Lane::None, 0, bits);
        // Byte 0 in the lower eight, byte 1 in the upper.
        let v = self.op(Op::VUnpackLo, Lane::I8, v, v);
        let v = self.b.vun_imm(Op::VShuffleLo16, Lane::None, v, 0b01_01_00_00);
        let v = self.b.vun_imm(Op::VShuffle32, Lane::None, v, 0b01_01_00_00);
        let each = self.b.iconst(Type::V128, BITS);
        let v = self.op(Op::VAnd, Lane::None, v, each);
        self.op(Op::VCmpEq, Lane::I8, v, each)
    }

    /// The lanes of pieces, all ones or zeros each, as words of 64 bits.
    fn gather(&mut self, pieces: Pieces, sew: u8, lanes: &[Val]) -> Vec<Val> {
        let per_piece = u64::from(pieces.bytes) >> sew;
        let mut words: Vec<Val> = Vec::new();
        for (i, v) in lanes.iter().enumerate() {
            let bits = self.lane_bits(*v, sew);
            let bits = self.b.zext(Type::I64, bits);
            let bits = if per_piece < u64::from(self.b.ty(*v).bytes()) >> sew {
                self.b.and_imm(bits, (1 << per_piece) - 1)
            } else {
                bits
            };
            let first = i as u64 * per_piece;
            let bits = self.b.bin_imm(Op::Shl, bits, first % 64);
            match words.get_mut((first / 64) as usize) {
                Some(word) => *word = self.b.or(*word, bits),
                None => words.push(bits),
            }
        }
        words
    }

    /// Top bits of the lanes as an I32.
    fn lane_bits(&mut self, v: Val, sew: u8) -> Val {
        let wide = self.b.ty(v) == Type::V256;
        let (v, from) = if sew == 1 {
            // There are none of words: they are made bytes.
            let (low, high) =
                if wide { (self.half(v, 0), self.half(v, 1)) } else { (v, self.b.iconst(Type::V128, 0)) };
            (self.op(Op::VPackSS, Lane::I16, low, high), Lane::I8)
        } else {
            (v, lane(sew))
        };
        self.b.convert(Op::VMoveMask, Type::I32, from, 0, v)
    }

    pub(crate) fn inline_compare(&mut self, o: Operation, source: Source, sew: u8, n: u64) -> bool {
        let floats = o.op.numbers() == Numbers::Float;
        if floats && (sew < 2 || o.masked) {
            return false;
        }
        let Some(pieces) = Pieces::of(n << sew) else { return false };
        let ty = pieces.ty();
        let carries = if matches!(o.op, V::VmadcM | V::VmsbcM) { self.lane_mask(pieces, sew) } else { None };
        let uniform = self.scalar(source, sew).map(|x| self.splat(ty, sew, x));
        let lanes: Vec<Val> = (0..pieces.count)
            .map(|i| {
                let y = match uniform {
                    Some(y) => y,
                    None => self.piece(o.vs1, pieces, i),
                };
                let x = self.piece(o.vs2, pieces, i);
                let carry = carries.as_ref().and_then(|all| all.get(i as usize)).copied();
                match o.op {
                    _ if floats => self.compare_floats(o.op, sew, x, y),
                    V::Vmadc | V::VmadcM => self.carry_out(sew, x, y, carry),
                    V::Vmsbc | V::VmsbcM => self.borrow_out(sew, x, y, carry),
                    _ => self.compare_integers(o.op, sew, x, y),
                }
            })
            .collect();
        let negated = matches!(o.op, V::Vmsne | V::Vmsleu | V::Vmsle);
        let mut words = self.gather(pieces, sew, &lanes);
        for (i, word) in words.iter_mut().enumerate() {
            if negated {
                let count = (n - 64 * i as u64).min(64);
                *word = self.b.bin_imm(Op::Xor, *word, u64::MAX >> (64 - count));
            }
        }
        if o.masked {
            let active = self.mask_words(0, n);
            let old = self.mask_words(o.vd, n);
            for (i, word) in words.iter_mut().enumerate() {
                let new = self.b.and(*word, active[i]);
                let kept = self.b.bin(Op::AndNot, old[i], active[i]);
                *word = self.b.or(new, kept);
            }
        }
        self.put_mask_words(o.vd, n, &words);
        true
    }

    /// The comparison, or its opposite for ne and le.
    fn compare_integers(&mut self, op: V, sew: u8, x: Val, y: Val) -> Val {
        let l = lane(sew);
        let (greater, less) = match op {
            V::Vmseq | V::Vmsne => return self.op(Op::VCmpEq, l, x, y),
            V::Vmsgt | V::Vmsle => return self.op(Op::VCmpGtS, l, x, y),
            V::Vmslt => return self.op(Op::VCmpGtS, l, y, x),
            V::Vmsltu => (y, x),
            _ => (x, y),
        };
        self.greater_unsigned(sew, greater, less)
    }

    /// Lanes where a sum is too large: it is below x then. One more is too much for a sum of all ones as well.
    fn carry_out(&mut self, sew: u8, x: Val, y: Val, carry: Option<Val>) -> Val {
        let sum = self.op(Op::VAdd, lane(sew), x, y);
        let over = self.greater_unsigned(sew, x, sum);
        let Some(carry) = carry else { return over };
        let ty = self.b.ty(x);
        let ones = self.constant(ty, sew, u64::MAX);
        let full = self.op(Op::VCmpEq, lane(sew), sum, ones);
        let by_carry = self.op(Op::VAnd, Lane::None, full, carry);
        self.op(Op::VOr, Lane::None, over, by_carry)
    }

    /// Lanes where a difference is below zero.
    fn borrow_out(&mut self, sew: u8, x: Val, y: Val, borrow: Option<Val>) -> Val {
        let under = self.greater_unsigned(sew, y, x);
        let Some(borrow) = borrow else { return under };
        let equal = self.op(Op::VCmpEq, lane(sew), x, y);
        let by_borrow = self.op(Op::VAnd, Lane::None, equal, borrow);
        self.op(Op::VOr, Lane::None, under, by_borrow)
    }

    /// greater > less, unsigned.
    pub(crate) fn greater_unsigned(&mut self, sew: u8, greater: Val, less: Val) -> Val {
        if sew == 3 {
            return self.greater_unsigned_64(greater, less);
        }
        let l = lane(sew);
        // Greater, where the sign bit is flipped and numbers are compared as signed ones.
        let ty = self.b.ty(greater);
        let sign = self.constant(ty, sew, 1 << ((8 << sew) - 1));
        let (a, b) =
            (self.op(Op::VXor, Lane::None, greater, sign), self.op(Op::VXor, Lane::None, less, sign));
        self.op(Op::VCmpGtS, l, a, b)
    }

    fn compare_floats(&mut self, op: V, sew: u8, x: Val, y: Val) -> Val {
        let predicate = match op {
            V::Vmfeq => FloatCond::Eq,
            V::Vmfne => FloatCond::Ne,
            V::Vmflt => FloatCond::Lt,
            V::Vmfle => FloatCond::Le,
            V::Vmfgt => FloatCond::Gt,
            _ => FloatCond::Ge,
        };
        self.b.fcmp(if sew == 2 { Lane::F32 } else { Lane::F64 }, predicate as u8, x, y)
    }

    pub(crate) fn inline_mask_logical(&mut self, o: Operation, n: u64) -> bool {
        let (x, y) = (self.mask_words(o.vs2, n), self.mask_words(o.vs1, n));
        let words: Vec<Val> = x
            .iter()
            .zip(&y)
            .enumerate()
            .map(|(i, (x, y))| {
                let (op, negated) = match o.op {
                    V::Vmandn => (Op::AndNot, false),
                    V::Vmand => (Op::And, false),
                    V::Vmor => (Op::Or, false),
                    V::Vmxor => (Op::Xor, false),
                    // x | !y is !(y & !x).
                    V::Vmorn => (Op::AndNot, true),
                    V::Vmnand => (Op::And, true),
                    V::Vmnor => (Op::Or, true),
                    _ => (Op::Xor, true),
                };
                let (a, b) = if o.op == V::Vmorn { (*y, *x) } else { (*x, *y) };
                let word = self.b.bin(op, a, b);
                if !negated {
                    return word;
                }
                let count = (n - 64 * i as u64).min(64);
                self.b.bin_imm(Op::Xor, word, u64::MAX >> (64 - count))
            })
            .collect();
        self.put_mask_words(o.vd, n, &words);
        true
    }

    /// vmsbf.m, vmsif.m and vmsof.m of at most 64 elements.
    pub(crate) fn inline_mask_to_mask(&mut self, o: Operation, n: u64) -> bool {
        if n > 64 {
            return false;
        }
        let all = u64::MAX >> (64 - n);
        let mut word = self.mask_words(o.vs2, n)[0];
        let active = o.masked.then(|| self.mask_words(0, n)[0]);
        if let Some(active) = active {
            word = self.b.and(word, active);
        }
        let zero = self.b.iconst(Type::I64, 0);
        let negated = self.b.sub(zero, word);
        let first = self.b.and(word, negated);
        // Without a first one everything is before it.
        let before = self.b.add_imm(first, u64::MAX);
        let mut result = match o.op {
            V::Vmsof => first,
            V::Vmsbf => before,
            _ => self.b.or(before, first),
        };
        result = self.b.and_imm(result, all);
        if let Some(active) = active {
            let old = self.mask_words(o.vd, n)[0];
            let new = self.b.and(result, active);
            let kept = self.b.bin(Op::AndNot, old, active);
            result = self.b.or(new, kept);
        }
        self.put_mask_words(o.vd, n, &[result]);
        true
    }

    /// vcpop.m and vfirst.m.
    pub(crate) fn inline_mask_scalar(&mut self, o: Operation, destination: Destination, n: u64) -> bool {
        let Destination::X(rd) = destination else { return false };
        let mut words = self.mask_words(o.vs2, n);
        if o.masked {
            let active = self.mask_words(0, n);
            for (word, active) in words.iter_mut().zip(active) {
                *word = self.b.and(*word, active);
            }
        }
        let result = if o.op == V::VcpopM {
            let counts: Vec<Val> = words.iter().map(|w| self.b.un(Op::Popcnt, *w)).collect();
            let zero = self.b.iconst(Type::I64, 0);
            counts.into_iter().fold(zero, |sum, count| self.b.add(sum, count))
        } else {
            let none = self.b.iconst(Type::I64, u64::MAX);
            // From the last word to the first.
            words.iter().enumerate().rev().fold(none, |later, (i, word)| {
                let at = self.b.un(Op::Ctz, *word);
                let at = self.b.add_imm(at, 64 * i as u64);
                let empty = self.b.icmp_imm(Cond::Eq, *word, 0);
                self.b.select(empty, later, at)
            })
        };
        self.set_x(rd, result);
        true
    }
}

//! Floating point on whole registers. The host computes as IEEE 754 says and gathers the flags; where the guest's NaN
//! rule differs, results that are NaNs are replaced by the canonical one, or the instruction is done without
//! assumptions where even flags may differ.

use rhea_ir::{Convert, FloatCond, Inst, Lane, Op, Rounding as HostRounding, Type, Val};
use rhea_riscv_vector::{Op as V, Operation};

use crate::vector::call::Source;
use crate::vector::emit::{Emitter, Pieces, Rounding};

const fn float_lane(sew: u8) -> Lane {
    if sew == 2 { Lane::F32 } else { Lane::F64 }
}

const fn sign_bit(sew: u8) -> u64 {
    1 << ((8 << sew) - 1)
}

const fn canonical(sew: u8) -> u64 {
    if sew == 2 { 0x7fc0_0000 } else { 0x7ff8_0000_0000_0000 }
}

impl Emitter<'_> {
    /// All ones where a lane is a NaN; a signaling one raises invalid.
    fn is_nan(&mut self, sew: u8, x: Val) -> Val {
        self.b.fcmp(float_lane(sew), FloatCond::Unordered as u8, x, x)
    }

    fn with_canonical_nans(&mut self, sew: u8, x: Val) -> Val {
        let nans = self.is_nan(sew, x);
        let ty = self.b.ty(x);
        let canonical = self.constant(ty, sew, canonical(sew));
        self.b.vtri(Op::VBlendVar, Lane::I8, x, canonical, nans)
    }

    /// Does the instruction without assumptions if a lane of a result is a NaN.
    fn unassume_if_any_nan(&mut self, sew: u8, results: &[Val]) {
        let mut all: Option<Val> = None;
        for r in results {
            let nans = self.is_nan(sew, *r);
            all = Some(match all {
                None => nans,
                Some(before) => self.op(Op::VOr, Lane::None, before, nans),
            });
        }
        if let Some(all) = all {
            let none = self.b.op2(Op::VTestZero, Type::I8, Lane::None, 0, all, all, 0);
            let any = self.b.bin_imm(Op::Xor, none, 1);
            self.unassume_if(any);
        }
    }

    /// The same if a lane is what the host delivers for a number that is too large for 32 bits, or for no number.
    fn unassume_if_any_out_of_range(&mut self, results: &[Val]) {
        let ty = results.first().map_or(Type::V128, |r| self.b.ty(*r));
        let indefinite = self.constant(ty, 2, 0x8000_0000);
        let mut all = self.b.iconst(ty, 0);
        for r in results {
            let equal = self.op(Op::VCmpEq, Lane::I32, *r, indefinite);
            all = self.op(Op::VOr, Lane::None, all, equal);
        }
        let none = self.b.op2(Op::VTestZero, Type::I8, Lane::None, 0, all, all, 0);
        let any = self.b.bin_imm(Op::Xor, none, 1);
        self.unassume_if(any);
    }

    /// One in each lane that takes no part, so that it raises no flag.
    fn made_harmless(&mut self, sew: u8, x: Val, mask: Option<Val>) -> Val {
        let Some(mask) = mask else { return x };
        let ty = self.b.ty(x);
        let one = if sew == 2 { 0x3f80_0000 } else { 0x3ff0_0000_0000_0000 };
        let one = self.constant(ty, sew, one);
        self.b.vtri(Op::VBlendVar, Lane::I8, one, x, mask)
    }

    pub(crate) fn inline_float(&mut self, o: Operation, source: Source, sew: u8, n: u64) -> bool {
        use V::*;
        let moves = matches!(o.op, Vfmv | Vfmerge | Vfsgnj | Vfsgnjn | Vfsgnjx);
        let computes =
            matches!(o.op, Vfadd | Vfsub | Vfrsub | Vfmul | Vfdiv | Vfrdiv | Vfsqrt | Vfmin | Vfmax);
        let to_integers = matches!(o.op, VfcvtXF | VfcvtRtzXF) && sew == 2;
        let converts = matches!(o.op, VfcvtFX) && sew == 2 || to_integers;
        let rounds = computes || converts || o.op.reads_vd();
        if !(moves || rounds) || (rounds && self.rounding == Rounding::Software) || sew < 2 {
            return false;
        }
        let Some((pieces, mask)) = self.pieces_and_mask(o, sew, n) else { return false };
        if pieces.bytes < 16 && !moves {
            // Lanes above the piece are zeros, and zero by zero is invalid.
            return false;
        }
        let ty = pieces.ty();
        let uniform = self.scalar(source, sew).map(|x| self.splat(ty, sew, x));
        let choice = if o.op == Vfmerge { self.lane_mask(pieces, sew) } else { None };
        let results: Vec<Val> = (0..pieces.count)
            .map(|i| {
                let active = mask.as_ref().map(|m| m[i as usize]);
                let y = match uniform {
                    Some(y) => y,
                    None if o.op.is_unary() => self.b.iconst(ty, 0),
                    None => self.piece(o.vs1, pieces, i),
                };
                if o.op == Vfmv {
                    return y;
                }
                let x = self.piece(o.vs2, pieces, i);
                if let Some(choice) = choice.as_ref().and_then(|c| c.get(i as usize)) {
                    return self.b.vtri(Op::VBlendVar, Lane::I8, x, y, *choice);
                }
                if moves {
                    return self.sign_injection(o.op, sew, x, y);
                }
                let x = self.made_harmless(sew, x, active);
                let y = self.made_harmless(sew, y, active);
                if o.op.reads_vd() {
                    let d = self.piece(o.vd, pieces, i);
                    let d = self.made_harmless(sew, d, active);
                    return self.fused(o.op, sew, x, y, d);
                }
                self.float_operation(o.op, sew, x, y)
            })
            .collect();
        if o.op.reads_vd() {
            self.unassume_if_any_nan(sew, &results);
        }
        if to_integers {
            self.unassume_if_any_out_of_range(&results);
        }
        self.put_results(o.vd, pieces, mask.as_deref(), &results);
        true
    }

    fn sign_injection(&mut self, op: V, sew: u8, x: Val, y: Val) -> Val {
        let ty = self.b.ty(x);
        let sign = self.constant(ty, sew, sign_bit(sew));
        let signs = match op {
            V::Vfsgnjn => self.op(Op::VAndNot, Lane::None, sign, y),
            _ => self.op(Op::VAnd, Lane::None, y, sign),
        };
        if op == V::Vfsgnjx {
            return self.op(Op::VXor, Lane::None, x, signs);
        }
        let magnitude = self.op(Op::VAndNot, Lane::None, x, sign);
        self.op(Op::VOr, Lane::None, magnitude, signs)
    }

    fn float_operation(&mut self, op: V, sew: u8, x: Val, y: Val) -> Val {
        let l = float_lane(sew);
        let result = match op {
            V::Vfadd => self.op(Op::FAdd, l, x, y),
            V::Vfsub => self.op(Op::FSub, l, x, y),
            V::Vfrsub => self.op(Op::FSub, l, y, x),
            V::Vfmul => self.op(Op::FMul, l, x, y),
            V::Vfdiv => self.op(Op::FDiv, l, x, y),
            V::Vfrdiv => self.op(Op::FDiv, l, y, x),
            V::Vfsqrt => self.op(Op::FSqrt, l, x, x),
            V::VfcvtFX => {
                let ty = self.b.ty(x);
                return self.b.vconvert(ty, Convert::I32ToF32, x, HostRounding::Current);
            }
            V::VfcvtXF | V::VfcvtRtzXF => {
                let ty = self.b.ty(x);
                let kind = if op == V::VfcvtXF { Convert::F32ToI32 } else { Convert::F32ToI32Trunc };
                return self.b.vconvert(ty, kind, x, HostRounding::Current);
            }
            _ => return self.float_min_max(op, sew, x, y),
        };
        self.with_canonical_nans(sew, result)
    }

    /// Compares as integers: negative numbers have their other bits flipped. The other operand where one is a NaN.
    pub(crate) fn float_min_max(&mut self, op: V, sew: u8, x: Val, y: Val) -> Val {
        let (x_nan, y_nan) = (self.is_nan(sew, x), self.is_nan(sew, y));
        let (a, b) = (self.integer_order(sew, x), self.integer_order(sew, y));
        let lesser = self.min_max(if op == V::Vfmin { V::Vmin } else { V::Vmax }, sew, a, b);
        let result = self.integer_order(sew, lesser);
        let result = self.b.vtri(Op::VBlendVar, Lane::I8, result, y, x_nan);
        let result = self.b.vtri(Op::VBlendVar, Lane::I8, result, x, y_nan);
        // Both: one of them has come out, and is made canonical.
        let both = self.op(Op::VAnd, Lane::None, x_nan, y_nan);
        let ty = self.b.ty(x);
        let canonical = self.constant(ty, sew, canonical(sew));
        self.b.vtri(Op::VBlendVar, Lane::I8, result, canonical, both)
    }

    /// Maps numbers to integers of the same order, and back.
    fn integer_order(&mut self, sew: u8, x: Val) -> Val {
        let ty = self.b.ty(x);
        let l = if sew == 2 { Lane::I32 } else { Lane::I64 };
        let zero = self.b.iconst(ty, 0);
        let negative = self.op(Op::VCmpGtS, l, zero, x);
        let flipped = self.b.vun_imm(Op::VShrImm, l, negative, 1);
        self.op(Op::VXor, Lane::None, x, flipped)
    }

    /// x: vs2, y: the other source, d: vd.
    fn fused(&mut self, op: V, sew: u8, x: Val, y: Val, d: Val) -> Val {
        use V::*;
        let (factor, addend) = match op {
            Vfmadd | Vfnmadd | Vfmsub | Vfnmsub => (d, x),
            _ => (x, d),
        };
        let negations = match op {
            Vfnmacc | Vfnmadd | Vfwnmacc => 3,
            Vfmsac | Vfmsub | Vfwmsac => 2,
            Vfnmsac | Vfnmsub | Vfwnmsac => 1,
            _ => 0,
        };
        let ty = self.b.ty(x);
        self.b.push(Inst {
            a: y,
            b: factor,
            c: addend,
            lane: float_lane(sew),
            aux: negations,
            ..Inst::new(Op::FMulAdd, ty)
        })
    }

    /// From 32 to 64 bits.
    pub(crate) fn inline_float_widening(&mut self, o: Operation, source: Source, sew: u8, n: u64) -> bool {
        use V::*;
        let known = matches!(o.op, Vfwadd | Vfwsub | VfwaddW | VfwsubW | Vfwmul | VfwcvtFF | VfwcvtFX)
            || o.op.reads_vd();
        if !known || sew != 2 || o.masked || self.rounding == Rounding::Software {
            return false;
        }
        let Some(pieces) = Pieces::of(n << 3).filter(|p| p.bytes >= 16) else { return false };
        let ty = pieces.ty();
        let uniform = self.scalar(source, sew).map(|x| {
            let narrow = self.splat(Type::V128, sew, x);
            self.b.vconvert(ty, Convert::F32ToF64, narrow, HostRounding::Current)
        });
        let results: Option<Vec<Val>> = (0..pieces.count)
            .map(|i| {
                if o.op == VfwcvtFX {
                    return self.float_extended(o.vs2, pieces, i, Convert::I32ToF64);
                }
                let x = match o.op {
                    VfwaddW | VfwsubW => self.piece(o.vs2, pieces, i),
                    _ => self.float_extended(o.vs2, pieces, i, Convert::F32ToF64)?,
                };
                if o.op == VfwcvtFF {
                    return Some(self.with_canonical_nans(3, x));
                }
                let y = match uniform {
                    Some(y) => y,
                    None => self.float_extended(o.vs1, pieces, i, Convert::F32ToF64)?,
                };
                if o.op.reads_vd() {
                    let d = self.piece(o.vd, pieces, i);
                    return Some(self.fused(o.op, 3, x, y, d));
                }
                let op = match o.op {
                    Vfwadd | VfwaddW => Vfadd,
                    Vfwsub | VfwsubW => Vfsub,
                    _ => Vfmul,
                };
                Some(self.float_operation(op, 3, x, y))
            })
            .collect();
        let Some(results) = results else { return false };
        if o.op.reads_vd() {
            self.unassume_if_any_nan(3, &results);
        }
        self.put_pieces(o.vd, pieces, &results);
        true
    }

    /// From 64 to 32 bits.
    pub(crate) fn inline_float_narrowing(&mut self, o: Operation, sew: u8, n: u64) -> bool {
        let kind = match o.op {
            V::VfncvtFF => Convert::F64ToF32,
            V::VfncvtXF => Convert::F64ToI32,
            V::VfncvtRtzXF => Convert::F64ToI32Trunc,
            _ => return false,
        };
        if sew != 2 || o.masked || self.rounding == Rounding::Software {
            return false;
        }
        let Some(wide) = Pieces::of(n << 3).filter(|p| p.bytes >= 16) else { return false };
        let mut results: Vec<Val> = (0..wide.count)
            .map(|i| {
                let x = self.piece(o.vs2, wide, i);
                self.b.vconvert(Type::V128, kind, x, HostRounding::Current)
            })
            .collect();
        if o.op == V::VfncvtFF {
            results = results.into_iter().map(|r| self.with_canonical_nans(sew, r)).collect();
        } else {
            self.unassume_if_any_out_of_range(&results);
        }
        self.put_pieces(o.vd, Pieces { bytes: wide.bytes / 2, count: wide.count }, &results);
        true
    }

    /// The 32-bit lanes that become piece `i` of a group of 64-bit lanes.
    fn float_extended(&mut self, register: u8, wide: Pieces, i: u32, kind: Convert) -> Option<Val> {
        let ty = wide.ty();
        let source = if wide.bytes == 32 {
            let pieces = Pieces::of(u64::from(wide.bytes * wide.count) / 2)?;
            self.half_piece(register, pieces, i)
        } else {
            // Two lanes of a register's lower half.
            let slot = rhea_ir::Slot { offset: self.register(register) + 8 * i, ty: Type::I64 };
            let value = self.b.get(slot);
            self.b.convert(Op::VFromInt, Type::V128, Lane::None, 0, value)
        };
        Some(self.b.vconvert(ty, kind, source, HostRounding::Current))
    }
}

//! Integers of two widths: widening, narrowing, extension.

use rhea_ir::{Inst, Lane, Op, Type, Val};
use rhea_riscv_vector::{Op as V, Operation, Shape};

use crate::vector::call::Source;
use crate::vector::emit::{Emitter, Pieces, lane};

impl Emitter<'_> {
    /// The lanes of `register` that extend to piece `i` of the wider group, which has `to` bytes for each of theirs.
    pub(crate) fn extended(
        &mut self,
        register: u8,
        sew: u8,
        log: u8,
        signed: bool,
        wide: Pieces,
        i: u32,
    ) -> Option<Val> {
        // Bytes of the source for a piece of the result: 16, 8, 4 or fewer.
        let bytes = wide.bytes >> log;
        let at = i * bytes;
        let source = match bytes {
            16 => {
                let total = u64::from(wide.bytes * wide.count) >> log;
                let pieces = Pieces::of(total)?;
                self.half_piece(register, pieces, i)
            }
            8 | 4 => {
                let ty = Type::int(bytes);
                let slot = rhea_ir::Slot { offset: self.register(register) + at, ty };
                let value = self.b.get(slot);
                self.b.convert(Op::VFromInt, Type::V128, Lane::None, 0, value)
            }
            _ => return None,
        };
        Some(self.extend(source, sew, log, signed, wide.ty()))
    }

    fn extend(&mut self, source: Val, sew: u8, log: u8, signed: bool, ty: Type) -> Val {
        let op = if signed { Op::VExtendS } else { Op::VExtendU };
        self.b.push(Inst { a: source, lane: lane(sew), aux: 1 << (sew + log), ..Inst::new(op, ty) })
    }

    pub(crate) fn inline_extension(&mut self, o: Operation, sew: u8, by: u8, n: u64) -> bool {
        let Some((pieces, mask)) = self.pieces_and_mask(o, sew, n) else { return false };
        let signed = matches!(o.op, V::Vsext2 | V::Vsext4 | V::Vsext8);
        let results: Option<Vec<Val>> =
            (0..pieces.count).map(|i| self.extended(o.vs2, sew - by, by, signed, pieces, i)).collect();
        let Some(results) = results else { return false };
        self.put_results(o.vd, pieces, mask.as_deref(), &results);
        true
    }

    pub(crate) fn inline_widening(&mut self, o: Operation, source: Source, sew: u8, n: u64) -> bool {
        use V::*;
        // Which sources are signed: vs2, vs1.
        let (signed_x, signed_y) = match o.op {
            Vwaddu | Vwsubu | Vwmulu | Vwmaccu | VwadduW | VwsubuW | Vwsll => (false, false),
            Vwadd | Vwsub | Vwmul | Vwmacc | VwaddW | VwsubW => (true, true),
            Vwmulsu | Vwmaccus => (true, false),
            Vwmaccsu => (false, true),
            _ => return false,
        };
        let wide_sew = sew + 1;
        let Some((pieces, mask)) = self.pieces_and_mask(o, wide_sew, n) else { return false };
        if pieces.bytes < 8 {
            return false;
        }
        let ty = pieces.ty();
        let scalar = self.scalar(source, sew);
        let uniform = scalar.map(|x| {
            let narrow = self.b.zext(Type::int(1 << sew), x);
            let whole =
                if signed_y { self.b.sext(Type::I64, narrow) } else { self.b.zext(Type::I64, narrow) };
            self.splat(ty, wide_sew, whole)
        });
        let x_is_wide = o.op.shape() == Shape::WidenWide;
        let results: Option<Vec<Val>> = (0..pieces.count)
            .map(|i| {
                let y = match uniform {
                    Some(y) => y,
                    None => self.extended(o.vs1, sew, 1, signed_y, pieces, i)?,
                };
                let x = if x_is_wide {
                    self.piece(o.vs2, pieces, i)
                } else {
                    self.extended(o.vs2, sew, 1, signed_x, pieces, i)?
                };
                Some(self.widened_operation(o, wide_sew, x, y, (pieces, i), (signed_x && signed_y, scalar)))
            })
            .collect();
        let Some(results) = results else { return false };
        self.put_results(o.vd, pieces, mask.as_deref(), &results);
        true
    }

    fn widened_operation(
        &mut self,
        o: Operation,
        wide_sew: u8,
        x: Val,
        y: Val,
        (pieces, i): (Pieces, u32),
        (both_signed, scalar): (bool, Option<Val>),
    ) -> Val {
        use V::*;
        let l = lane(wide_sew);
        match o.op {
            Vwadd | Vwaddu | VwaddW | VwadduW => self.op(Op::VAdd, l, x, y),
            Vwsub | Vwsubu | VwsubW | VwsubuW => self.op(Op::VSub, l, x, y),
            Vwsll => {
                // The count has one bit more than the narrow width's.
                self.shift(Vsll, wide_sew, x, y, scalar)
            }
            _ => {
                // Extended numbers of 32 bits are multiplied by their lower halves; of two kinds, as a whole.
                let product = match (wide_sew, both_signed) {
                    (3, true) => self.op(Op::VMulEvenS, Lane::None, x, y),
                    (3, false) if matches!(o.op, Vwmulu | Vwmaccu) => {
                        self.op(Op::VMulEvenU, Lane::None, x, y)
                    }
                    _ => self.multiply(wide_sew, x, y),
                };
                if matches!(o.op, Vwmul | Vwmulu | Vwmulsu) {
                    return product;
                }
                let d = self.piece(o.vd, pieces, i);
                self.op(Op::VAdd, l, d, product)
            }
        }
    }

    /// vnsrl and vnsra.
    pub(crate) fn inline_narrowing(&mut self, o: Operation, source: Source, sew: u8, n: u64) -> bool {
        let op = match o.op {
            V::Vnsrl => V::Vsrl,
            V::Vnsra => V::Vsra,
            _ => return false,
        };
        let Some((pieces, mask)) = self.pieces_and_mask(o, sew, n) else { return false };
        let scalar = self.scalar(source, sew);
        if pieces.bytes < 8 {
            return false;
        }
        let Some(wide) = Pieces::of(n << (sew + 1)) else { return false };
        let results: Option<Vec<Val>> = (0..pieces.count)
            .map(|i| {
                let part = |e: &mut Self, j: u32| {
                    let x = e.piece(o.vs2, wide, j);
                    let counts = match scalar {
                        Some(_) => x,
                        None => e.extended(o.vs1, sew, 1, false, wide, j)?,
                    };
                    Some(e.shift(op, sew + 1, x, counts, scalar))
                };
                if pieces.bytes == 32 {
                    let (low, high) = (part(self, 2 * i)?, part(self, 2 * i + 1)?);
                    return Some(self.narrowed(sew, low, high));
                }
                let whole = part(self, i)?;
                Some(if self.b.ty(whole) == Type::V256 {
                    let (low, high) = (self.half(whole, 0), self.half(whole, 1));
                    self.narrowed(sew, low, high)
                } else {
                    let zero = self.b.iconst(Type::V128, 0);
                    self.narrowed(sew, whole, zero)
                })
            })
            .collect();
        let Some(results) = results else { return false };
        self.put_results(o.vd, pieces, mask.as_deref(), &results);
        true
    }

    /// The low halves of the lanes of two vectors, one after the other.
    fn narrowed(&mut self, sew: u8, low: Val, high: Val) -> Val {
        let ty = self.b.ty(low);
        let packed = if sew == 2 {
            self.b.vbin_imm(Op::VShuffle2, Lane::I32, low, high, 0b10_00_10_00)
        } else {
            let kept = self.constant(ty, sew + 1, u64::MAX >> (64 - (8 << sew)));
            let (low, high) =
                (self.op(Op::VAnd, Lane::None, low, kept), self.op(Op::VAnd, Lane::None, high, kept));
            self.op(Op::VPackUS, lane(sew + 1), low, high)
        };
        // Packed within halves: the quarters are put in order.
        if ty == Type::V256 {
            self.b.vun_imm(Op::VPermute64, Lane::None, packed, 0b11_01_10_00)
        } else {
            packed
        }
    }
}

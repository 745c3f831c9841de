//! Sums and differences that saturate.

use rhea_ir::{Lane, Op, Type, Val};
use rhea_riscv_vector::{Op as V, Operation};

use crate::vector::emit::{Emitter, Pieces, VXSAT, lane};

/// Whether an operation is one of these.
pub(crate) const fn is_saturating(op: V) -> bool {
    matches!(op, V::Vsaddu | V::Vsadd | V::Vssubu | V::Vssub)
}

/// What an operation does where nothing saturates.
const fn wrapping(op: V) -> Op {
    if matches!(op, V::Vsaddu | V::Vsadd) { Op::VAdd } else { Op::VSub }
}

impl Emitter<'_> {
    /// Sums and differences that saturate where they are not what they are without; vxsat is set then.
    pub(crate) fn inline_saturating(
        &mut self,
        o: Operation,
        sew: u8,
        (pieces, mask): (Pieces, Option<&[Val]>),
        uniform: Option<Val>,
    ) -> bool {
        let mut all = None;
        let results: Vec<Val> = (0..pieces.count)
            .map(|i| {
                let y = match uniform {
                    Some(y) => y,
                    None => self.piece(o.vs1, pieces, i),
                };
                let x = self.piece(o.vs2, pieces, i);
                let plain = self.op(wrapping(o.op), lane(sew), x, y);
                let result = self.saturated(o.op, sew, x, y, plain);
                let mut differs = self.op(Op::VXor, Lane::None, result, plain);
                if let Some(mask) = mask.and_then(|m| m.get(i as usize)) {
                    differs = self.op(Op::VAnd, Lane::None, differs, *mask);
                }
                all = Some(match all {
                    None => differs,
                    Some(before) => self.op(Op::VOr, Lane::None, before, differs),
                });
                result
            })
            .collect();
        if let Some(all) = all.filter(|_| pieces.bytes >= 16) {
            let none = self.b.op2(Op::VTestZero, Type::I8, Lane::None, 0, all, all, 0);
            let any = self.b.bin_imm(Op::Xor, none, 1);
            let any = self.b.zext(Type::I32, any);
            let old = self.b.get(VXSAT);
            let new = self.b.or(old, any);
            self.b.put(VXSAT, new);
            self.put_results(o.vd, pieces, mask, &results);
            return true;
        }
        false
    }

    /// The result, by that without saturation.
    fn saturated(&mut self, op: V, sew: u8, x: Val, y: Val, plain: Val) -> Val {
        if sew < 2 {
            let direct = match op {
                V::Vsaddu => Op::VAddSatU,
                V::Vsadd => Op::VAddSatS,
                V::Vssubu => Op::VSubSatU,
                _ => Op::VSubSatS,
            };
            return self.op(direct, lane(sew), x, y);
        }
        match op {
            V::Vsaddu => {
                let over = self.greater_unsigned(sew, x, plain);
                self.op(Op::VOr, Lane::None, plain, over)
            }
            V::Vssubu => {
                let under = self.greater_unsigned(sew, y, x);
                self.op(Op::VAndNot, Lane::None, plain, under)
            }
            _ => self.saturated_signed(op, sew, x, y, plain),
        }
    }

    /// Out of range if the result's sign is not that of x, and that of y (of -y in a difference) is.
    fn saturated_signed(&mut self, op: V, sew: u8, x: Val, y: Val, plain: Val) -> Val {
        let l = lane(sew);
        let ty = self.b.ty(x);
        let of_result = self.op(Op::VXor, Lane::None, x, plain);
        let other = if op == V::Vsadd { plain } else { x };
        let of_operand = self.op(Op::VXor, Lane::None, y, other);
        let signs = self.op(Op::VAnd, Lane::None, of_result, of_operand);
        let zero = self.b.iconst(ty, 0);
        let outside = self.op(Op::VCmpGtS, l, zero, signs);
        let negative = self.op(Op::VCmpGtS, l, zero, x);
        let largest = self.constant(ty, sew, (1 << ((8u64 << sew) - 1)) - 1);
        let limit = self.op(Op::VXor, Lane::None, negative, largest);
        self.b.vtri(Op::VBlendVar, Lane::I8, plain, limit, outside)
    }
}

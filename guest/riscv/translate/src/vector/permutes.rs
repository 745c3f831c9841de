//! Slides and gathers within 128 bits, as shuffles of bytes.
//!
//! What selects the bytes has an index in its low four bits, and bit 7 set where the result is zero (or stays).

use rhea_ir::{Cond, Lane, Op, Type, Val};
use rhea_riscv_vector::{Op as V, Operation, Vtype};

use crate::vector::call::Source;
use crate::vector::emit::{Emitter, Pieces, lane};

/// Bytes that are shuffled at once.
pub(crate) const BYTES: u64 = 16;
/// Added to an index up to 31, this sets bit 7 of those from 16 on and keeps the low four bits.
const BEYOND: u8 = 0x70;
/// Selects zero.
pub(crate) const NONE: u8 = 0x80;

/// Whether an instruction may be one of these.
pub(crate) const fn is_permutation(op: V) -> bool {
    use V::{Vfslide1down, Vfslide1up, Vrgather, Vslide1down, Vslide1up, Vslidedown, Vslideup};
    matches!(op, Vslideup | Vslidedown | Vslide1up | Vslide1down | Vfslide1up | Vfslide1down | Vrgather)
}

impl Emitter<'_> {
    /// Translates a slide or gather of `n` elements; false if they are not all that a group of at most 128 bits has.
    pub(crate) fn inline_permutation(&mut self, o: Operation, source: Source, vtype: Vtype, n: u64) -> bool {
        let sew = vtype.sew;
        let Some((pieces, mask)) = self.pieces_and_mask(o, sew, n) else { return false };
        if pieces.count != 1 || u64::from(pieces.bytes) > BYTES || n != vtype.vlmax(self.config) {
            return false;
        }
        let from = self.piece(o.vs2, pieces, 0);
        let result = match o.op {
            V::Vslideup => self.slide_up(o, source, (from, pieces), sew, n),
            V::Vslidedown => self.slide_down(source, from, sew, n),
            V::Vslide1up | V::Vfslide1up => {
                self.slide_one(source, from, sew, 0, |i| i.wrapping_sub(1 << sew))
            }
            V::Vslide1down | V::Vfslide1down => {
                self.slide_one(source, from, sew, n as u32 - 1, |i| i + (1 << sew))
            }
            _ => self.gathered(o, source, (from, pieces), sew, n),
        };
        let Some(result) = result else { return false };
        self.put_results(o.vd, pieces, mask.as_deref(), &[result]);
        true
    }

    /// A constant of 16 bytes, each by its index.
    pub(crate) fn selector(&mut self, byte: impl Fn(u8) -> u8) -> Val {
        let half = |from: u8| u64::from_le_bytes(std::array::from_fn(|i| byte(from + i as u8)));
        let (low, high) = (half(0), half(8));
        let first = self.b.iconst(Type::V128, low);
        if low == high {
            return first;
        }
        let second = self.b.iconst(Type::V128, high);
        self.b.vbin(Op::VUnpackLo, Lane::I64, first, second)
    }

    pub(crate) fn shuffled(&mut self, from: Val, selector: Val) -> Val {
        self.b.vbin(Op::VShuffleBytes, Lane::I8, from, selector)
    }

    /// An unsigned number of elements as a number of bytes in every byte; [`BYTES`] if it is `n` or more.
    fn in_bytes(&mut self, source: Source, sew: u8, n: u64) -> Option<Val> {
        let elements = self.scalar(source, 3)?;
        let bytes = match self.b.as_const(elements) {
            Some(known) => self.b.iconst(Type::I64, if known < n { known << sew } else { BYTES }),
            None => {
                let count = self.b.iconst(Type::I8, sew.into());
                let bytes = self.b.bin(Op::Shl, elements, count);
                let limit = self.b.iconst(Type::I64, n);
                let is_inside = self.b.icmp(Cond::LtU, elements, limit);
                let all = self.b.iconst(Type::I64, BYTES);
                self.b.select(is_inside, bytes, all)
            }
        };
        Some(self.splat(Type::V128, 0, bytes))
    }

    fn slide_up(
        &mut self,
        o: Operation,
        source: Source,
        (from, pieces): (Val, Pieces),
        sew: u8,
        n: u64,
    ) -> Option<Val> {
        let by = self.in_bytes(source, sew, n)?;
        let places = self.selector(|i| i);
        let selector = self.op(Op::VSub, Lane::I8, places, by);
        let moved = self.shuffled(from, selector);
        // Elements below the offset stay.
        let old = self.piece(o.vd, pieces, 0);
        Some(self.b.vtri(Op::VBlendVar, Lane::I8, moved, old, selector))
    }

    fn slide_down(&mut self, source: Source, from: Val, sew: u8, n: u64) -> Option<Val> {
        let by = self.in_bytes(source, sew, n)?;
        let places = self.selector(|i| i + BEYOND);
        let selector = self.op(Op::VAdd, Lane::I8, places, by);
        Some(self.shuffled(from, selector))
    }

    /// A slide by one element, with the scalar in element `free`.
    fn slide_one(
        &mut self,
        source: Source,
        from: Val,
        sew: u8,
        free: u32,
        place: impl Fn(u8) -> u8,
    ) -> Option<Val> {
        let scalar = self.scalar(source, sew)?;
        let scalar = self.b.zext(Type::int(1 << sew), scalar);
        let selector = self.selector(|i| if place(i) < BYTES as u8 { place(i) } else { NONE });
        let moved = self.shuffled(from, selector);
        Some(self.b.vinsert(lane(sew), moved, scalar, free))
    }

    fn gathered(
        &mut self,
        o: Operation,
        source: Source,
        (from, pieces): (Val, Pieces),
        sew: u8,
        n: u64,
    ) -> Option<Val> {
        let width = 1u8 << sew;
        let first = if source == Source::Vector {
            let indices = self.piece(o.vs1, pieces, 0);
            if sew == 0 {
                let beyond = self.constant(Type::V128, 0, BEYOND.into());
                let selector = self.op(Op::VAddSatU, Lane::I8, indices, beyond);
                return Some(self.shuffled(from, selector));
            }
            if sew == 3 {
                return None;
            }
            let most = self.constant(Type::V128, sew, BYTES >> sew);
            let indices = self.op(Op::VMinU, lane(sew), indices, most);
            let bytes = self.b.vun_imm(Op::VShlImm, lane(sew), indices, sew.into());
            let lowest = self.selector(|i| i & !(width - 1));
            self.shuffled(bytes, lowest)
        } else {
            self.in_bytes(source, sew, n)?
        };
        let within = self.selector(|i| (i & (width - 1)) + BEYOND);
        let selector = self.op(Op::VAdd, Lane::I8, first, within);
        Some(self.shuffled(from, selector))
    }
}

//! Operations on whole registers: which instructions have them, and the ones that go lane by lane.

use rhea_ir::{Inst, Lane, Op, Type, Val};
use rhea_riscv_vector::{Numbers, Op as V, Operation, Shape, Vtype};

use crate::vector::call::{Destination, Source};
use crate::vector::emit::{Emitter, Pieces, lane};
use crate::vector::permutes::is_permutation;
use crate::vector::saturation::is_saturating;

impl Emitter<'_> {
    /// Translates `o` for `n` elements with vstart 0, if there is a way; false, with nothing emitted that matters, if
    /// there is none.
    pub(crate) fn inline(
        &mut self,
        o: Operation,
        source: Source,
        destination: Destination,
        vtype: Vtype,
        n: u64,
    ) -> bool {
        let sew = vtype.sew;
        if is_permutation(o.op) {
            return self.inline_permutation(o, source, vtype, n);
        }
        match o.op.shape() {
            Shape::Scalar => self.inline_scalar_move(o, source, destination, sew),
            Shape::Whole => self.inline_whole_move(o),
            Shape::MaskLogical => self.inline_mask_logical(o, n),
            Shape::MaskToMask => self.inline_mask_to_mask(o, n),
            Shape::MaskScalar => self.inline_mask_scalar(o, destination, n),
            Shape::Reduce if o.op.numbers() == Numbers::Integer => self.inline_reduction(o, sew, n),
            Shape::WidenReduce if o.op.numbers() == Numbers::Integer => self.inline_widening_sum(o, sew, n),
            Shape::Reduce | Shape::WidenReduce => self.inline_float_reduction(o, sew, n),
            Shape::Index => self.inline_index(o, sew, n),
            Shape::MaskResult => self.inline_compare(o, source, sew, n),
            Shape::Same | Shape::Carry if o.op.numbers() == Numbers::Integer => {
                self.inline_same(o, source, sew, n)
            }
            Shape::Same | Shape::Carry => self.inline_float(o, source, sew, n),
            Shape::Widen | Shape::WidenWide if o.op.numbers() == Numbers::Integer => {
                self.inline_widening(o, source, sew, n)
            }
            Shape::Widen | Shape::WidenWide => self.inline_float_widening(o, source, sew, n),
            Shape::Narrow if o.op.numbers() == Numbers::Integer => self.inline_narrowing(o, source, sew, n),
            Shape::Narrow => self.inline_float_narrowing(o, sew, n),
            Shape::Extend(by) => self.inline_extension(o, sew, by, n),
            _ => false,
        }
    }

    /// A group's pieces and, if it is masked, the lanes that are active.
    pub(crate) fn pieces_and_mask(
        &mut self,
        o: Operation,
        sew: u8,
        n: u64,
    ) -> Option<(Pieces, Option<Vec<Val>>)> {
        let pieces = Pieces::of(n << sew)?;
        let mask = if o.masked { Some(self.lane_mask(pieces, sew)?) } else { None };
        Some((pieces, mask))
    }

    /// Writes results to vd, inactive elements excepted.
    pub(crate) fn put_results(&mut self, vd: u8, pieces: Pieces, mask: Option<&[Val]>, results: &[Val]) {
        for (i, result) in results.iter().enumerate() {
            let value = match mask.and_then(|m| m.get(i)) {
                None => *result,
                Some(mask) => {
                    let old = self.piece(vd, pieces, i as u32);
                    self.b.vtri(Op::VBlendVar, Lane::I8, old, *result, *mask)
                }
            };
            self.put_piece(vd, pieces, i as u32, value);
        }
    }

    /// vmv.x.s, vmv.s.x and their kin.
    fn inline_scalar_move(
        &mut self,
        o: Operation,
        source: Source,
        destination: Destination,
        sew: u8,
    ) -> bool {
        let ty = Type::int(1 << sew);
        let slot = |e: &Self, r| rhea_ir::Slot { offset: e.register(r), ty };
        match (o.op, destination) {
            (V::VmvXS, Destination::X(rd)) => {
                let slot = slot(self, o.vs2);
                let value = self.b.get(slot);
                let value = self.b.sext(Type::I64, value);
                self.set_x(rd, value);
                true
            }
            (V::VfmvFS, Destination::F(fd)) => {
                let slot = slot(self, o.vs2);
                let value = self.b.get(slot);
                let value = self.b.zext(Type::I64, value);
                // Narrower numbers are boxed.
                let boxed =
                    if sew == 3 { value } else { self.b.bin_imm(Op::Or, value, u64::MAX << (8 << sew)) };
                self.set_f(fd, boxed);
                true
            }
            (V::VmvSX | V::VfmvSF, _) => {
                let Some(value) = self.scalar(source, sew) else { return false };
                let value = self.b.zext(ty, value);
                let slot = slot(self, o.vd);
                self.b.put(slot, value);
                true
            }
            _ => false,
        }
    }

    /// vmv1r.v and its kin, with vstart 0.
    fn inline_whole_move(&mut self, o: Operation) -> bool {
        let Some(pieces) = Pieces::of(u64::from(o.vs1) * u64::from(self.config.vlen / 8)) else {
            return false;
        };
        let values: Vec<Val> = (0..pieces.count).map(|i| self.piece(o.vs2, pieces, i)).collect();
        self.put_pieces(o.vd, pieces, &values);
        true
    }

    fn inline_same(&mut self, o: Operation, source: Source, sew: u8, n: u64) -> bool {
        if !self.has_lane_operation(o.op, sew) {
            return false;
        }
        let Some((pieces, mask)) = self.pieces_and_mask(o, sew, n) else { return false };
        let choice = if matches!(o.op, V::Vmerge | V::Vadc | V::Vsbc) {
            match self.lane_mask(pieces, sew) {
                Some(choice) => choice,
                None => return false,
            }
        } else {
            Vec::new()
        };
        let ty = pieces.ty();
        let scalar = self.scalar(source, sew);
        let uniform = scalar.map(|x| self.splat(ty, sew, x));
        if is_saturating(o.op) {
            return self.inline_saturating(o, sew, (pieces, mask.as_deref()), uniform);
        }
        let results: Vec<Val> = (0..pieces.count)
            .map(|i| {
                let y = match uniform {
                    Some(y) => y,
                    None if o.op.is_unary() && o.op != V::Vmv => self.b.iconst(ty, 0),
                    None => self.piece(o.vs1, pieces, i),
                };
                if o.op == V::Vmv {
                    return y;
                }
                let x = self.piece(o.vs2, pieces, i);
                match o.op {
                    V::Vmerge => {
                        let mask = choice[i as usize];
                        self.b.vtri(Op::VBlendVar, Lane::I8, x, y, mask)
                    }
                    // A carry is -1.
                    V::Vadc | V::Vsbc => {
                        let (first, second) =
                            if o.op == V::Vadc { (Op::VAdd, Op::VSub) } else { (Op::VSub, Op::VAdd) };
                        let plain = self.op(first, lane(sew), x, y);
                        self.op(second, lane(sew), plain, choice[i as usize])
                    }
                    V::Vmacc | V::Vnmsac | V::Vmadd | V::Vnmsub => {
                        let d = self.piece(o.vd, pieces, i);
                        self.multiply_add(o.op, sew, x, y, d)
                    }
                    V::Vsll | V::Vsrl | V::Vsra => self.shift(o.op, sew, x, y, scalar),
                    V::Vrol | V::Vror => self.rotate(o.op, sew, x, y, scalar),
                    _ => self.lane_operation(o.op, sew, x, y),
                }
            })
            .collect();
        self.put_results(o.vd, pieces, mask.as_deref(), &results);
        true
    }

    /// Whether the host's vectors can do it lane by lane.
    fn has_lane_operation(&self, op: V, sew: u8) -> bool {
        match op {
            V::Vadd | V::Vsub | V::Vrsub | V::Vand | V::Vor | V::Vxor | V::Vandn => true,
            V::Vminu | V::Vmin | V::Vmaxu | V::Vmax => true,
            V::Vmul | V::Vmacc | V::Vnmsac | V::Vmadd | V::Vnmsub => true,
            V::Vsaddu | V::Vsadd | V::Vssubu | V::Vssub => true,
            V::Vmulh | V::Vmulhu => sew == 1 || sew == 2,
            V::Vmv | V::Vmerge | V::Vadc | V::Vsbc => true,
            V::Vsll | V::Vsrl | V::Vsra | V::Vrol | V::Vror => true,
            V::Vbrev8 | V::Vrev8 | V::Vbrev | V::Vclz | V::Vctz | V::VcpopV => true,
            _ => false,
        }
    }

    pub(crate) fn lane_operation(&mut self, op: V, sew: u8, x: Val, y: Val) -> Val {
        let l = lane(sew);
        match op {
            V::Vadd => self.op(Op::VAdd, l, x, y),
            V::Vsub => self.op(Op::VSub, l, x, y),
            V::Vrsub => self.op(Op::VSub, l, y, x),
            V::Vand => self.op(Op::VAnd, Lane::None, x, y),
            V::Vandn => self.op(Op::VAndNot, Lane::None, x, y),
            V::Vor => self.op(Op::VOr, Lane::None, x, y),
            V::Vxor => self.op(Op::VXor, Lane::None, x, y),
            V::Vmul => self.multiply(sew, x, y),
            V::Vmulh => self.multiply_high(sew, true, x, y),
            V::Vmulhu => self.multiply_high(sew, false, x, y),
            V::Vbrev8 | V::Vrev8 | V::Vbrev | V::Vclz | V::Vctz | V::VcpopV => self.bit_operation(op, sew, x),
            _ => self.min_max(op, sew, x, y),
        }
    }

    /// x > y, unsigned, as a mask of 64-bit lanes.
    pub(crate) fn greater_unsigned_64(&mut self, x: Val, y: Val) -> Val {
        let ty = self.b.ty(x);
        let sign = self.constant(ty, 3, 1 << 63);
        let (x, y) = (self.op(Op::VXor, Lane::None, x, sign), self.op(Op::VXor, Lane::None, y, sign));
        self.op(Op::VCmpGtS, Lane::I64, x, y)
    }

    pub(crate) fn min_max(&mut self, op: V, sew: u8, x: Val, y: Val) -> Val {
        let direct = match op {
            V::Vmin => Op::VMinS,
            V::Vminu => Op::VMinU,
            V::Vmax => Op::VMaxS,
            _ => Op::VMaxU,
        };
        if sew != 3 {
            return self.op(direct, lane(sew), x, y);
        }
        let greater = if matches!(op, V::Vmin | V::Vmax) {
            self.op(Op::VCmpGtS, Lane::I64, x, y)
        } else {
            self.greater_unsigned_64(x, y)
        };
        let (low, high) = if matches!(op, V::Vmin | V::Vminu) { (x, y) } else { (y, x) };
        self.b.vtri(Op::VBlendVar, Lane::I64, low, high, greater)
    }

    /// The low halves of products.
    pub(crate) fn multiply(&mut self, sew: u8, x: Val, y: Val) -> Val {
        match sew {
            0 => {
                // Odd bytes are the upper halves of words.
                let ty = self.b.ty(x);
                let even = self.op(Op::VMul, Lane::I16, x, y);
                let low = self.constant(ty, 1, 0xff);
                let even = self.op(Op::VAnd, Lane::None, even, low);
                let upper = |e: &mut Self, v| e.b.vun_imm(Op::VShrImm, Lane::I16, v, 8);
                let (a, b) = (upper(self, x), upper(self, y));
                let odd = self.op(Op::VMul, Lane::I16, a, b);
                let odd = self.b.vun_imm(Op::VShlImm, Lane::I16, odd, 8);
                self.op(Op::VOr, Lane::None, even, odd)
            }
            1 | 2 => self.op(Op::VMul, lane(sew), x, y),
            _ => {
                let upper = |e: &mut Self, v| e.b.vun_imm(Op::VShrImm, Lane::I64, v, 32);
                let low = self.op(Op::VMulEvenU, Lane::None, x, y);
                let (a, b) = (upper(self, x), upper(self, y));
                let (c, d) =
                    (self.op(Op::VMulEvenU, Lane::None, a, y), self.op(Op::VMulEvenU, Lane::None, x, b));
                let crossed = self.op(Op::VAdd, Lane::I64, c, d);
                let crossed = self.b.vun_imm(Op::VShlImm, Lane::I64, crossed, 32);
                self.op(Op::VAdd, Lane::I64, low, crossed)
            }
        }
    }

    /// The high halves of products of 16 or 32 bits.
    fn multiply_high(&mut self, sew: u8, signed: bool, x: Val, y: Val) -> Val {
        if sew == 1 {
            return self.op(if signed { Op::VMulHiS } else { Op::VMulHiU }, Lane::I16, x, y);
        }
        let op = if signed { Op::VMulEvenS } else { Op::VMulEvenU };
        let even = self.op(op, Lane::None, x, y);
        let upper = |e: &mut Self, v| e.b.vun_imm(Op::VShrImm, Lane::I64, v, 32);
        let (a, b) = (upper(self, x), upper(self, y));
        let odd = self.op(op, Lane::None, a, b);
        let even = upper(self, even);
        let ty = self.b.ty(x);
        let high = self.b.iconst(ty, 0xffff_ffff_0000_0000);
        let odd = self.op(Op::VAnd, Lane::None, odd, high);
        self.op(Op::VOr, Lane::None, even, odd)
    }

    /// x: vs2, y: the other source, d: vd.
    fn multiply_add(&mut self, op: V, sew: u8, x: Val, y: Val, d: Val) -> Val {
        let (factor, addend) = if matches!(op, V::Vmacc | V::Vnmsac) { (x, d) } else { (d, x) };
        let product = self.multiply(sew, factor, y);
        let combine = if matches!(op, V::Vmacc | V::Vmadd) { Op::VAdd } else { Op::VSub };
        self.op(combine, lane(sew), addend, product)
    }

    /// vid.v: bytes counting up, extended to the element's width, and what goes before each piece added.
    fn inline_index(&mut self, o: Operation, sew: u8, n: u64) -> bool {
        let Some((pieces, mask)) = self.pieces_and_mask(o, sew, n) else { return false };
        if sew == 0 && pieces.bytes == 32 {
            return false;
        }
        let ty = pieces.ty();
        let low = self.b.iconst(Type::V128, 0x0706_0504_0302_0100);
        let eights = self.b.iconst(Type::V128, 0x0808_0808_0808_0808);
        let upper = self.b.vun_imm(Op::VShlBytes, Lane::None, eights, 8);
        let bytes = self.op(Op::VAdd, Lane::I8, low, upper);
        let first = if sew == 0 {
            bytes
        } else {
            self.b.push(Inst { a: bytes, lane: Lane::I8, aux: 1 << sew, ..Inst::new(Op::VExtendU, ty) })
        };
        let per_piece = u64::from(pieces.bytes) >> sew;
        let results: Vec<Val> = (0..pieces.count)
            .map(|i| {
                let before = self.constant(ty, sew, u64::from(i) * per_piece);
                if i == 0 { first } else { self.op(Op::VAdd, lane(sew), first, before) }
            })
            .collect();
        self.put_results(o.vd, pieces, mask.as_deref(), &results);
        true
    }
}

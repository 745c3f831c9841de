//! Random vector, floating-point and x87 operations.

use crate::generate::Gen;
use rhea_ir::{Convert, Inst, Lane, Op, Rounding, Type, Val};

const NONE: &[Lane] = &[Lane::None];
const I: &[Lane] = &[Lane::I8, Lane::I16, Lane::I32, Lane::I64];
const I816: &[Lane] = &[Lane::I8, Lane::I16];
const I81632: &[Lane] = &[Lane::I8, Lane::I16, Lane::I32];
const I1632: &[Lane] = &[Lane::I16, Lane::I32];
const I163264: &[Lane] = &[Lane::I16, Lane::I32, Lane::I64];
const I3264: &[Lane] = &[Lane::I32, Lane::I64];
const I16: &[Lane] = &[Lane::I16];
const I32: &[Lane] = &[Lane::I32];
const I8: &[Lane] = &[Lane::I8];
const F: &[Lane] = &[Lane::F32, Lane::F64, Lane::S32, Lane::S64];
const FP: &[Lane] = &[Lane::F32, Lane::F64];

/// Two vectors to one.
const BINARY: &[(Op, &[Lane])] = &[
    (Op::VAnd, NONE),
    (Op::VOr, NONE),
    (Op::VXor, NONE),
    (Op::VAndNot, NONE),
    (Op::VAdd, I),
    (Op::VSub, I),
    (Op::VAddSatS, I816),
    (Op::VAddSatU, I816),
    (Op::VSubSatS, I816),
    (Op::VSubSatU, I816),
    (Op::VMul, I1632),
    (Op::VMulHiS, I16),
    (Op::VMulHiU, I16),
    (Op::VMulHiRoundS, I16),
    (Op::VMulEvenU, I32),
    (Op::VMulEvenS, I32),
    (Op::VMulAddPairs, I16),
    (Op::VMulAddPairsUS, I8),
    (Op::VSad, I8),
    (Op::VAvgU, I816),
    (Op::VMinS, I81632),
    (Op::VMinU, I81632),
    (Op::VMaxS, I81632),
    (Op::VMaxU, I81632),
    (Op::VSign, I81632),
    (Op::VHAdd, I1632),
    (Op::VHSub, I1632),
    (Op::VHAddSat, I16),
    (Op::VHSubSat, I16),
    (Op::VCmpEq, I),
    (Op::VCmpGtS, I),
    (Op::VUnpackLo, I),
    (Op::VUnpackHi, I),
    (Op::VPackSS, I1632),
    (Op::VPackUS, I1632),
    (Op::VShuffleBytes, I8),
];

/// A vector and an immediate.
const UNARY_IMM: &[(Op, &[Lane], u64)] = &[
    (Op::VAbs, I81632, 1),
    (Op::VShlImm, I163264, 70),
    (Op::VShrImm, I163264, 70),
    (Op::VSarImm, I1632, 40),
    (Op::VShlBytes, NONE, 18),
    (Op::VShrBytes, NONE, 18),
    (Op::VShuffle32, I32, 256),
    (Op::VShuffleLo16, I16, 256),
    (Op::VShuffleHi16, I16, 256),
];

const BINARY_IMM: &[(Op, &[Lane], u64)] =
    &[(Op::VAlign, NONE, 34), (Op::VShuffle2, I3264, 256), (Op::VMultiSad, I8, 64)];

const FLOAT: &[(Op, &[Lane])] = &[
    (Op::FAdd, F),
    (Op::FSub, F),
    (Op::FMul, F),
    (Op::FDiv, F),
    (Op::FMin, F),
    (Op::FMax, F),
    (Op::FSqrt, F),
    (Op::FAddSub, FP),
    (Op::FHAdd, FP),
    (Op::FHSub, FP),
];

const VECTORS: [Type; 2] = [Type::V128, Type::V256];

impl Gen<'_> {
    fn vector_type(&mut self) -> Type {
        if self.features.avx2 && self.rng.chance(40) { Type::V256 } else { Type::V128 }
    }

    fn vbinary(&mut self, op: Op, lane: Lane, ty: Type, imm: u64) -> Val {
        let (a, b) = (self.value(ty), self.value(ty));
        self.push(Inst { a, b, lane, imm, ..Inst::new(op, ty) })
    }

    fn vunary(&mut self, op: Op, lane: Lane, ty: Type, imm: u64) -> Val {
        let a = self.value(ty);
        self.push(Inst { a, lane, imm, ..Inst::new(op, ty) })
    }

    /// One vector operation on integers.
    pub fn vector(&mut self) {
        let ty = self.vector_type();
        let full = self.features.avx;
        match self.rng.below(24) {
            0..=9 => {
                let (op, lanes) = self.rng.pick(BINARY);
                let lane = self.rng.pick(lanes);
                self.vbinary(op, lane, ty, 0);
            }
            10..=11 => {
                let (op, lanes, n) = self.rng.pick(UNARY_IMM);
                let (lane, imm) = (self.rng.pick(lanes), self.rng.below(n));
                self.vunary(op, lane, ty, imm);
            }
            12 => {
                let (op, lanes, n) = self.rng.pick(BINARY_IMM);
                let (lane, imm) = (self.rng.pick(lanes), self.rng.below(n));
                self.vbinary(op, lane, ty, imm);
            }
            13 => {
                let op = self.rng.pick(&[Op::VShl, Op::VShr, Op::VSar]);
                let lane = self.rng.pick(if op == Op::VSar { I1632 } else { I163264 });
                let (a, mut b) = (self.value(ty), self.value(Type::V128));
                if self.rng.chance(70) {
                    let c = self.rng.below(70);
                    b = self.b.iconst(Type::V128, c);
                }
                self.push(Inst { a, b, lane, ..Inst::new(op, ty) });
            }
            14 if self.features.avx2 => self.avx2_only(ty),
            15 => {
                let lane = self.rng.pick(&[Lane::I16, Lane::I32, Lane::I64]);
                let imm = self.rng.below(256);
                let lanes = if lane == Lane::I16 { 8 } else { ty.bytes() / lane.bytes() };
                self.vbinary(Op::VBlendImm, lane, ty, imm & ((1 << lanes) - 1));
            }
            16 => {
                let lane = self.rng.pick(&[Lane::I8, Lane::I32, Lane::I64]);
                let (a, b, c) = (self.value(ty), self.value(ty), self.value(ty));
                self.push(Inst { a, b, c, lane, ..Inst::new(Op::VBlendVar, ty) });
            }
            17 => {
                let from = if self.features.avx2 { self.rng.pick(&VECTORS) } else { Type::V128 };
                let a = self.value(from);
                let lane = self.rng.pick(I);
                self.push(Inst { a, lane, ..Inst::new(Op::VSplat, ty) });
            }
            18 => {
                let lane = self.rng.pick(I);
                let a = self.value(ty);
                let imm = self.rng.below(u64::from(ty.bytes() / lane.bytes()));
                let out = Type::int(lane.bytes());
                if self.rng.chance(50) {
                    self.push(Inst { a, lane, imm, ..Inst::new(Op::VExtract, out) });
                } else {
                    let b = self.value(out);
                    self.push(Inst { a, b, lane, imm, ..Inst::new(Op::VInsert, ty) });
                }
            }
            19 => {
                let from = self.rng.pick(&[Type::I32, Type::I64]);
                let a = self.value(from);
                self.push(Inst { a, ..Inst::new(Op::VFromInt, ty) });
            }
            20 => {
                let lane = self.rng.pick(&[Lane::I8, Lane::I32, Lane::I64]);
                let a = self.value(ty);
                self.push(Inst { a, lane, ..Inst::new(Op::VMoveMask, Type::I32) });
            }
            21 => {
                let (lane, aux) = self.rng.pick(&[
                    (Lane::I8, 2),
                    (Lane::I8, 4),
                    (Lane::I8, 8),
                    (Lane::I16, 4),
                    (Lane::I16, 8),
                    (Lane::I32, 8),
                ]);
                let a = self.value(Type::V128);
                let op = self.rng.pick(&[Op::VExtendS, Op::VExtendU]);
                self.push(Inst { a, lane, aux, ..Inst::new(op, ty) });
            }
            22 => {
                let lane =
                    self.rng.pick(if full { &[Lane::None, Lane::I32, Lane::I64] } else { &[Lane::None] });
                let (a, b) = (self.value(ty), self.value(ty));
                let op = self.rng.pick(&[Op::VTestZero, Op::VTestCarry]);
                self.push(Inst { a, b, lane, ..Inst::new(op, Type::I8) });
            }
            _ => self.resizes(),
        }
    }

    fn avx2_only(&mut self, ty: Type) {
        match self.rng.below(6) {
            0 => {
                let (op, lane) = self.rng.pick(&[
                    (Op::VShlVar, Lane::I32),
                    (Op::VShlVar, Lane::I64),
                    (Op::VShrVar, Lane::I32),
                    (Op::VShrVar, Lane::I64),
                    (Op::VSarVar, Lane::I32),
                ]);
                self.vbinary(op, lane, ty, 0);
            }
            1 => {
                let imm = self.rng.below(256);
                self.vunary(Op::VPermute64, Lane::I64, Type::V256, imm);
            }
            2 => {
                self.vbinary(Op::VPermute32, Lane::I32, Type::V256, 0);
            }
            3 => {
                let imm = self.rng.below(256);
                self.vbinary(Op::VPermuteHalves, Lane::None, Type::V256, imm);
            }
            4 => {
                let lane = self.rng.pick(I3264);
                self.vbinary(Op::VPermuteIn, lane, ty, 0);
            }
            _ => {
                let a = self.value(Type::V256);
                let imm = self.rng.below(2);
                if self.rng.chance(50) {
                    self.push(Inst { a, imm, ..Inst::new(Op::VExtractHalf, Type::V128) });
                } else {
                    let b = self.value(Type::V128);
                    self.push(Inst { a, b, imm, ..Inst::new(Op::VInsertHalf, Type::V256) });
                }
            }
        }
    }

    fn resizes(&mut self) {
        match self.rng.below(4) {
            0 => {
                let from = self.rng.pick(&[Type::F32, Type::F64]);
                let a = self.value(from);
                self.push(Inst { a, ..Inst::new(Op::VResize, Type::V128) });
            }
            1 => {
                let to = self.rng.pick(&[Type::F32, Type::F64]);
                let a = self.value(Type::V128);
                self.push(Inst { a, ..Inst::new(Op::VResize, to) });
            }
            n if self.features.avx2 => {
                let (from, to) = if n == 2 { (Type::V128, Type::V256) } else { (Type::V256, Type::V128) };
                let a = self.value(from);
                self.push(Inst { a, ..Inst::new(Op::VResize, to) });
            }
            _ => {
                let op = self.rng.pick(&[Op::VMinPos]);
                self.vunary(op, Lane::I16, Type::V128, 0);
            }
        }
    }

    /// Vectors moved between slots, memory and selections.
    pub fn vector_control(&mut self) {
        let ty =
            if self.rng.chance(15) { self.rng.pick(&[Type::F32, Type::F64]) } else { self.vector_type() };
        match self.rng.below(12) {
            0..=3 => {
                let v = self.value(ty);
                self.put(v);
            }
            4..=5 => {
                self.load(ty);
            }
            6..=7 => self.store(ty),
            8 => {
                let c = self.rng.interesting();
                if matches!(ty, Type::V128 | Type::V256) {
                    let v = self.b.iconst(ty, c);
                    self.pool.push(v);
                }
            }
            9 => {
                let (b, c) = (self.value(ty), self.value(ty));
                let a = self.truth();
                self.push(Inst { a, b, c, ..Inst::new(Op::Select, ty) });
            }
            10 if ty == Type::V128 => self.indexed(ty),
            _ => {
                self.get(ty);
            }
        }
    }

    fn scalar_or_vector(&mut self, lane: Lane) -> (Type, Lane) {
        match self.rng.below(10) {
            0 => (Type::F32, Lane::F32),
            1 => (Type::F64, Lane::F64),
            _ if lane.is_scalar() => (Type::V128, lane),
            _ => (self.vector_type(), lane),
        }
    }

    /// One floating-point operation.
    pub fn float(&mut self) {
        let lane = self.rng.pick(F);
        match self.rng.below(16) {
            0..=5 => {
                let (op, lanes) = self.rng.pick(FLOAT);
                let lane = self.rng.pick(lanes);
                let (mut ty, mut lane) = self.scalar_or_vector(lane);
                if matches!(op, Op::FAddSub | Op::FHAdd | Op::FHSub) && ty < Type::V128 {
                    (ty, lane) = (Type::V128, Lane::F64);
                }
                let v = self.vbinary(op, lane, ty, 0);
                if op == Op::FSqrt && !lane.is_scalar() {
                    self.b.unit.insts[v.index()].a = self.b.unit.insts[v.index()].b;
                }
            }
            6 => {
                let (ty, lane) =
                    if lane.is_scalar() { (Type::V128, lane) } else { (self.vector_type(), lane) };
                let aux = if self.features.avx { self.rng.below(32) } else { self.rng.below(8) } as u8;
                let (a, b) = (self.value(ty), self.value(ty));
                self.push(Inst { a, b, lane, aux, ..Inst::new(Op::FCmp, ty) });
            }
            7 => {
                let (ty, lane) = self.lane0();
                let (a, b) = (self.value(ty), self.value(ty));
                let aux = self.rng.below(2) as u8;
                self.push(Inst { a, b, lane, aux, ..Inst::new(Op::FRel, Type::I32) });
            }
            8..=9 => {
                let (ty, lane) = self.lane0();
                let (a, b) = (self.value(ty), self.value(ty));
                let aux = self.rng.below(32) as u8;
                let a = self.push(Inst { a, b, lane, aux, ..Inst::new(Op::FTest, Type::I8) });
                if self.rng.chance(40) {
                    let ty = self.rng.pick(&[Type::I64, Type::V128]);
                    let (b, c) = (self.value(ty), self.value(ty));
                    self.push(Inst { a, b, c, ..Inst::new(Op::Select, ty) });
                }
            }
            10 if self.features.fma => {
                let (ty, lane) = self.scalar_or_vector(lane);
                let alternate = !lane.is_scalar() && ty >= Type::V128 && self.rng.chance(30);
                let aux = if alternate { self.rng.pick(&[4, 6]) } else { self.rng.below(4) as u8 };
                let (a, b, c) = (self.value(ty), self.value(ty), self.value(ty));
                self.push(Inst { a, b, c, lane, aux, ..Inst::new(Op::FMulAdd, ty) });
            }
            11 => {
                let (ty, lane) =
                    if lane.is_scalar() { (Type::V128, lane) } else { (self.vector_type(), lane) };
                let aux = self.rng.below(5) as u8 | if self.rng.chance(30) { 8 } else { 0 };
                let (a, b) = (self.value(ty), self.value(ty));
                self.push(Inst { a, b, lane, aux, ..Inst::new(Op::FRound, ty) });
            }
            12 => {
                let (ty, lane) = self.lane0();
                let a = self.value(ty);
                let aux = self.rng.pick(&[Rounding::Zero, Rounding::Current]) as u8;
                let to = self.rng.pick(&[Type::I32, Type::I64]);
                self.push(Inst { a, lane, aux, ..Inst::new(Op::FToInt, to) });
            }
            13 => {
                let lane = self.rng.pick(&[Lane::S32, Lane::S64]);
                let from = self.rng.pick(&[Type::I32, Type::I64]);
                let (a, b) = (self.value(Type::V128), self.value(from));
                self.push(Inst { a, b, lane, ..Inst::new(Op::FFromInt, Type::V128) });
            }
            14 => {
                let lane = self.rng.pick(&[Lane::S32, Lane::S64]);
                self.vbinary(Op::FConvert, lane, Type::V128, 0);
            }
            _ => self.conversion(),
        }
    }

    fn lane0(&mut self) -> (Type, Lane) {
        self.rng.pick(&[
            (Type::V128, Lane::S32),
            (Type::V128, Lane::S64),
            (Type::F32, Lane::F32),
            (Type::F64, Lane::F64),
        ])
    }

    fn conversion(&mut self) {
        let kind = self.rng.pick(&Convert::ALL);
        let wide = self.vector_type();
        let (from, to) = match kind {
            Convert::I32ToF32 | Convert::F32ToI32 | Convert::F32ToI32Trunc => (wide, wide),
            Convert::I32ToF64 | Convert::F32ToF64 | Convert::F16ToF32 => (Type::V128, wide),
            _ => (wide, Type::V128),
        };
        if matches!(kind, Convert::F16ToF32 | Convert::F32ToF16) && !self.features.f16c {
            return;
        }
        let a = self.value(from);
        let imm = if kind == Convert::F32ToF16 { self.rng.below(5) } else { 0 };
        self.push(Inst { a, aux: kind as u8, imm, ..Inst::new(Op::VConvert, to) });
    }

    /// Cryptography.
    pub fn crypto(&mut self) {
        let ty = Type::V128;
        let (a, b, c) = (self.value(ty), self.value(ty), self.value(ty));
        let imm = self.rng.below(256);
        let two = [Op::AesEnc, Op::AesEncLast, Op::AesDec, Op::AesDecLast];
        let sha = [Op::Sha1NextE, Op::Sha1Msg1, Op::Sha1Msg2, Op::Sha256Msg1, Op::Sha256Msg2];
        match self.rng.below(8) {
            0..=1 => {
                let op = self.rng.pick(&two);
                self.op2(op, ty, a, b);
            }
            2 => {
                self.push(Inst { a, ..Inst::new(Op::AesImc, ty) });
            }
            3 => {
                self.push(Inst { a, imm, ..Inst::new(Op::AesKeygen, ty) });
            }
            4 => {
                self.push(Inst { a, b, imm: imm & 0x11, ..Inst::new(Op::Clmul, ty) });
            }
            5 => {
                let op = self.rng.pick(&sha);
                self.op2(op, ty, a, b);
            }
            6 => {
                self.push(Inst { a, b, imm: imm & 3, ..Inst::new(Op::Sha1Rounds, ty) });
            }
            _ => {
                self.push(Inst { a, b, c, ..Inst::new(Op::Sha256Rounds, ty) });
            }
        }
    }

    /// One x87 operation.
    pub fn x87(&mut self) {
        let ty = Type::F80;
        let two = [Op::XAdd, Op::XSub, Op::XMul, Op::XDiv, Op::XScale];
        let one = [Op::XSqrt, Op::XAbs, Op::XNeg, Op::XRound];
        match self.rng.below(14) {
            0..=3 => {
                let op = self.rng.pick(&two);
                self.binary(op, ty);
            }
            4 => {
                let op = self.rng.pick(&one);
                self.vunary(op, Lane::None, ty, 0);
            }
            5 => {
                let (op, from) = self.rng.pick(&[
                    (Op::XFromF32, Type::I32),
                    (Op::XFromF64, Type::I64),
                    (Op::XFromInt, Type::I64),
                ]);
                let a = self.value(from);
                self.push(Inst { a, ..Inst::new(op, ty) });
            }
            6 => {
                let (a, b) = (self.value(Type::I64), self.value(Type::I16));
                self.push(Inst { a, b, ..Inst::new(Op::XFromParts, ty) });
            }
            7 => {
                let (op, to) = self.rng.pick(&[
                    (Op::XToF32, Type::I32),
                    (Op::XToF64, Type::I64),
                    (Op::XSignificand, Type::I64),
                    (Op::XSignExponent, Type::I16),
                ]);
                let a = self.value(ty);
                self.push(Inst { a, ..Inst::new(op, to) });
            }
            8 => {
                let to = self.rng.pick(&[Type::I16, Type::I32, Type::I64]);
                let aux = self.rng.pick(&[Rounding::Zero, Rounding::Current]) as u8;
                let a = self.value(ty);
                self.push(Inst { a, aux, ..Inst::new(Op::XToInt, to) });
            }
            9 => {
                let aux = self.rng.below(2) as u8;
                let (a, b) = (self.value(ty), self.value(ty));
                self.push(Inst { a, b, aux, ..Inst::new(Op::XRel, Type::I32) });
            }
            10..=11 => {
                let v = self.value(ty);
                self.put(v);
            }
            12 => self.indexed(ty),
            _ => {
                self.get(ty);
            }
        }
    }
}

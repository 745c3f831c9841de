//! Floating-point operations on vector registers: plain instructions under the host's MXCSR, which holds the guest's
//! environment while translated code runs.

use crate::asm::{Alu, Cc, Map, Pp, Rm, VOpcode};
use crate::emitter::{Emitter, Unsupported, XMM0};
use crate::vector_opcodes::{p66_3a, p66_38};
use rhea_ir::{Convert, Inst, Lane, Op, Rounding, Type, Val};

/// What kind of floating-point instruction a type and lane ask for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    PackedSingle,
    PackedDouble,
    ScalarSingle,
    ScalarDouble,
}

impl Form {
    fn of(ty: Type, lane: Lane) -> Option<Form> {
        Some(match (ty, lane) {
            (Type::F32, _) => Form::ScalarSingle,
            (Type::F64, _) => Form::ScalarDouble,
            (_, Lane::F32) => Form::PackedSingle,
            (_, Lane::F64) => Form::PackedDouble,
            (Type::V128, Lane::S32) => Form::ScalarSingle,
            (Type::V128, Lane::S64) => Form::ScalarDouble,
            _ => return None,
        })
    }

    fn prefix(self) -> Pp {
        match self {
            Form::PackedSingle => Pp::None,
            Form::PackedDouble => Pp::P66,
            Form::ScalarSingle => Pp::F3,
            Form::ScalarDouble => Pp::F2,
        }
    }

    fn is_scalar(self) -> bool {
        matches!(self, Form::ScalarSingle | Form::ScalarDouble)
    }

    fn is_double(self) -> bool {
        matches!(self, Form::PackedDouble | Form::ScalarDouble)
    }

    /// Bits that the instruction reads of its last operand.
    fn bits(self, ty: Type) -> u32 {
        match self {
            Form::ScalarSingle => 32,
            Form::ScalarDouble => 64,
            _ => ty.bytes() * 8,
        }
    }
}

impl Emitter<'_> {
    pub fn emit_float(&mut self, i: &Inst) -> Result<(), Unsupported> {
        match i.op {
            Op::FRel => return self.emit_relation(i),
            Op::FTest => return self.emit_float_truth(i),
            Op::FToInt => return self.emit_to_int(i),
            Op::VConvert => return self.emit_vconvert(i),
            _ => {}
        }
        let form = Form::of(i.ty, i.lane).ok_or(self.unsupported(i))?;
        let plain = |op| VOpcode::new(form.prefix(), Map::M0F, op);
        let bits = form.bits(i.ty);
        match i.op {
            Op::FAdd => self.vector_binary(i, plain(0x58), i.a, i.b, None, bits),
            Op::FSub => self.vector_binary(i, plain(0x5c), i.a, i.b, None, bits),
            Op::FMul => self.vector_binary(i, plain(0x59), i.a, i.b, None, bits),
            Op::FDiv => self.vector_binary(i, plain(0x5e), i.a, i.b, None, bits),
            Op::FMin => self.vector_binary(i, plain(0x5d), i.a, i.b, None, bits),
            Op::FMax => self.vector_binary(i, plain(0x5f), i.a, i.b, None, bits),
            Op::FSqrt if form.is_scalar() => self.vector_binary(i, plain(0x51), i.a, i.b, None, bits),
            Op::FSqrt => self.packed_of_b(i, plain(0x51), None),
            Op::FCmp => self.emit_float_compare(i, plain(0xc2), bits),
            Op::FMulAdd => self.emit_fma(i, form),
            Op::FAddSub | Op::FHAdd | Op::FHSub if !form.is_scalar() => {
                let pp = if form.is_double() { Pp::P66 } else { Pp::F2 };
                let op = match i.op {
                    Op::FAddSub => 0xd0,
                    Op::FHAdd => 0x7c,
                    _ => 0x7d,
                };
                self.vector_binary(i, VOpcode::new(pp, Map::M0F, op), i.a, i.b, None, bits)
            }
            Op::FDot if !form.is_scalar() => {
                let op = p66_3a(if form.is_double() { 0x41 } else { 0x40 });
                self.vector_binary(i, op, i.a, i.b, Some(i.imm as u8), bits)
            }
            Op::FRound => {
                let aux = i.aux & 15;
                match form {
                    Form::PackedSingle => self.packed_of_b(i, p66_3a(0x08), Some(aux)),
                    Form::PackedDouble => self.packed_of_b(i, p66_3a(0x09), Some(aux)),
                    Form::ScalarSingle => self.vector_binary(i, p66_3a(0x0a), i.a, i.b, Some(aux), bits),
                    Form::ScalarDouble => self.vector_binary(i, p66_3a(0x0b), i.a, i.b, Some(aux), bits),
                }
            }
            Op::FFromInt if form.is_scalar() => self.emit_from_int(i, form),
            // The destination's width chooses; the source has the other.
            Op::FConvert if form.is_scalar() => {
                let pp = if form.is_double() { Pp::F3 } else { Pp::F2 };
                let source = if form.is_double() { 32 } else { 64 };
                self.vector_binary(i, VOpcode::new(pp, Map::M0F, 0x5a), i.a, i.b, None, source)
            }
            _ => Err(self.unsupported(i)),
        }
    }

    /// A packed operation on `b` alone.
    fn packed_of_b(&mut self, i: &Inst, op: VOpcode, imm: Option<u8>) -> Result<(), Unsupported> {
        if self.root(i.a) == self.root(i.b) {
            // Both references are to one value: give one back first, so that it can die in place.
            let root = self.root(i.a);
            self.v[root as usize].refs -= 1;
            return self.vector_unary(i, op, i.b, imm, i.ty.bytes() * 8);
        }
        self.vector_unary(i, op, i.b, imm, i.ty.bytes() * 8)?;
        self.done(i.a);
        Ok(())
    }

    fn emit_float_compare(&mut self, i: &Inst, op: VOpcode, bits: u32) -> Result<(), Unsupported> {
        // AVX numbers its 32 predicates as FloatCond does, bit 4 flipping signalling; legacy SSE has the first 8.
        if self.layout.features.avx {
            return self.vector_binary(i, op, i.a, i.b, Some(i.aux & 31), bits);
        }
        match i.aux & 31 {
            p @ 0..=7 => self.vector_binary(i, op, i.a, i.b, Some(p), bits),
            // Greater is less the other way round; lanes that stay are those of a, so only packed.
            p @ (9 | 10 | 13 | 14) if !i.lane.is_scalar() => {
                let swapped = match p {
                    9 => 6,
                    10 => 5,
                    13 => 2,
                    _ => 1,
                };
                self.vector_binary(i, op, i.b, i.a, Some(swapped), bits)
            }
            _ => Err(self.unsupported(i)),
        }
    }

    /// Fused multiply-add in the 132 form: dst = dst * rm + vvvv, which has the NaN order a, b, c and keeps a's lanes.
    fn emit_fma(&mut self, i: &Inst, form: Form) -> Result<(), Unsupported> {
        let alternate = i.aux & 4 != 0;
        if !self.layout.features.fma || alternate && form.is_scalar() {
            return Err(self.unsupported(i));
        }
        let op = match (alternate, i.aux & 3) {
            (true, 0) => 0x96,
            (true, 2) => 0x97,
            (false, 0) => 0x98,
            (false, 2) => 0x9a,
            (false, 1) => 0x9c,
            (false, 3) => 0x9e,
            _ => return Err(self.unsupported(i)),
        } + u8::from(form.is_scalar());
        let op = if form.is_double() { p66_38(op).w() } else { p66_38(op) };
        let (rb, rc) = (self.use_xmm(i.b), self.use_xmm(i.c));
        let dst = self.vector_in_place(i, i.a);
        self.asm.vex(op, i.ty == Type::V256, dst.0, rc.0, rb);
        self.done(i.b);
        self.done(i.c);
        self.bind(dst.0 + XMM0);
        Ok(())
    }

    fn emit_from_int(&mut self, i: &Inst, form: Form) -> Result<(), Unsupported> {
        let bits = self.ty(i.b).bits();
        if bits < 32 {
            return Err(self.unsupported(i));
        }
        let op = VOpcode::new(form.prefix(), Map::M0F, 0x2a);
        let op = if bits == 64 { op.w() } else { op };
        self.prepare(i.b, bits);
        if self.layout.features.avx {
            let root = self.root(i.a);
            let ra = self.use_xmm(i.a);
            self.done(i.a);
            let dst = self.dst_xmm(&[(root, ra)]);
            let src = self.rm(i.b);
            self.asm.vex(op, false, dst.0, ra.0, src);
            self.bind(dst.0 + XMM0);
        } else {
            let dst = self.vector_in_place(i, i.a);
            let src = self.rm(i.b);
            self.asm.sse(op, dst.0, src);
            self.bind(dst.0 + XMM0);
        }
        self.done(i.b);
        Ok(())
    }

    /// Whether lane 0 of `v`, under `lane`, is binary64; `None` if it is no float.
    fn lane0_is_double(&self, v: Val, lane: Lane) -> Option<bool> {
        match (self.ty(v), lane) {
            (Type::F32, _) | (Type::V128 | Type::V256, Lane::S32 | Lane::F32) => Some(false),
            (Type::F64, _) | (Type::V128 | Type::V256, Lane::S64 | Lane::F64) => Some(true),
            _ => None,
        }
    }

    fn emit_to_int(&mut self, i: &Inst) -> Result<(), Unsupported> {
        let double = self.lane0_is_double(i.a, i.lane).ok_or(self.unsupported(i))?;
        let opcode = match i.aux {
            a if a == Rounding::Zero as u8 => 0x2c,
            a if a == Rounding::Current as u8 => 0x2d,
            _ => return Err(self.unsupported(i)),
        };
        if i.ty.bits() < 32 {
            return Err(self.unsupported(i));
        }
        let op = VOpcode::new(if double { Pp::F2 } else { Pp::F3 }, Map::M0F, opcode);
        let op = if i.ty == Type::I64 { op.w() } else { op };
        self.prepare(i.a, if double { 64 } else { 32 });
        let dst = self.dst_gpr(None);
        let src = self.rm(i.a);
        self.vmov(op, false, crate::asm::Xmm(dst.0), src);
        self.done(i.a);
        self.bind(dst.0);
        Ok(())
    }

    // ---- relations ----

    /// (U)COMIS on lane 0: CF below, ZF equal, all of ZF, PF, CF unordered. Releases the operands.
    fn compare_lane0(&mut self, a: Val, b: Val, double: bool, signalling: bool) {
        let pp = if double { Pp::P66 } else { Pp::None };
        let op = VOpcode::new(pp, Map::M0F, if signalling { 0x2f } else { 0x2e });
        self.prepare(b, if double { 64 } else { 32 });
        let ra = self.use_xmm(a);
        let rb = self.rm(b);
        self.vmov(op, false, ra, rb);
        self.done(a);
        self.done(b);
        self.flags = crate::emitter::Flags::Unknown;
    }

    fn emit_relation(&mut self, i: &Inst) -> Result<(), Unsupported> {
        let double = self.lane0_is_double(i.a, i.lane).ok_or(self.unsupported(i))?;
        self.compare_lane0(i.a, i.b, double, i.aux & 1 != 0);
        self.bind_relation();
        Ok(())
    }

    /// Compares for a predicate that one condition decides; see [`crate::prepass::needs_two_conditions`].
    pub fn emit_float_test(&mut self, i: &Inst) -> Cc {
        let double = self.lane0_is_double(i.a, i.lane).unwrap_or(false);
        let (swap, cc) = match i.aux & 15 {
            1 => (true, Cc::A),
            2 => (true, Cc::Ae),
            3 => (false, Cc::P),
            5 => (true, Cc::Be),
            6 => (true, Cc::B),
            7 => (false, Cc::Np),
            8 => (false, Cc::E),
            9 => (false, Cc::B),
            10 => (false, Cc::Be),
            12 => (false, Cc::Ne),
            13 => (false, Cc::Ae),
            _ => (false, Cc::A),
        };
        let (a, b) = if swap { (i.b, i.a) } else { (i.a, i.b) };
        self.compare_lane0(a, b, double, i.aux & 16 != 0);
        cc
    }

    fn emit_float_truth(&mut self, i: &Inst) -> Result<(), Unsupported> {
        let double = self.lane0_is_double(i.a, i.lane).ok_or(self.unsupported(i))?;
        let predicate = i.aux & 15;
        if !crate::prepass::needs_two_conditions(i) {
            let cc = self.emit_float_test(i);
            self.materialize(cc);
            return Ok(());
        }
        self.compare_lane0(i.a, i.b, double, i.aux & 16 != 0);
        self.locked = 0;
        let dst = self.dst_gpr(None);
        match predicate {
            11 | 15 => self.asm.mov_imm(dst, u64::from(predicate == 15)),
            _ => {
                let t = self.alloc_gpr();
                let equal = predicate == 0;
                self.asm.mov_imm(dst, 0);
                self.asm.mov_imm(t, 0);
                self.asm.setcc(if equal { Cc::E } else { Cc::Ne }, dst);
                self.asm.setcc(if equal { Cc::Np } else { Cc::P }, t);
                self.asm.alu(32, if equal { Alu::And } else { Alu::Or }, dst, t);
            }
        }
        self.bind(dst.0);
        Ok(())
    }

    // ---- packed conversions ----

    fn emit_vconvert(&mut self, i: &Inst) -> Result<(), Unsupported> {
        let kind = *Convert::ALL.get(usize::from(i.aux)).ok_or(self.unsupported(i))?;
        let source = self.ty(i.a);
        let np = |op| VOpcode::new(Pp::None, Map::M0F, op);
        let p66 = |op| VOpcode::new(Pp::P66, Map::M0F, op);
        let f3 = |op| VOpcode::new(Pp::F3, Map::M0F, op);
        let f2 = |op| VOpcode::new(Pp::F2, Map::M0F, op);
        let result_wide = i.ty == Type::V256;
        let source_wide = source == Type::V256;
        if source_wide && !self.layout.features.avx2 {
            return Err(self.unsupported(i));
        }
        let full = i.ty.bytes() * 8;
        let (op, bits, wide) = match kind {
            Convert::I32ToF32 => (np(0x5b), full, result_wide),
            Convert::F32ToI32 => (p66(0x5b), full, result_wide),
            Convert::F32ToI32Trunc => (f3(0x5b), full, result_wide),
            Convert::I32ToF64 => (f3(0xe6), full / 2, result_wide),
            Convert::F64ToI32 => (f2(0xe6), source.bytes() * 8, source_wide),
            Convert::F64ToI32Trunc => (p66(0xe6), source.bytes() * 8, source_wide),
            Convert::F32ToF64 => (np(0x5a), full / 2, result_wide),
            Convert::F64ToF32 => (p66(0x5a), source.bytes() * 8, source_wide),
            Convert::F16ToF32 if self.layout.features.f16c => (p66_38(0x13), full / 2, result_wide),
            Convert::F32ToF16 if self.layout.features.f16c => return self.emit_to_half(i, source_wide),
            _ => return Err(self.unsupported(i)),
        };
        self.vector_unary_wide(i, op, i.a, None, bits, wide)
    }

    /// VCVTPS2PH has source and destination the other way round.
    fn emit_to_half(&mut self, i: &Inst, wide: bool) -> Result<(), Unsupported> {
        let root = self.root(i.a);
        let ra = self.use_xmm(i.a);
        self.done(i.a);
        let dst = self.dst_xmm(&[(root, ra)]);
        self.asm.vex_imm(p66_3a(0x1d), wide, ra.0, 0, Rm::from(dst), i.imm as u8 & 7);
        self.bind(dst.0 + XMM0);
        Ok(())
    }
}

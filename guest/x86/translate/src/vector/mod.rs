//! MMX, SSE and AVX: decode to vector operations.
//!
//! [`table`] maps each mnemonic to a [`Form`](table::Form): an IR operation, its lanes and the way operands are
//! arranged. One line serves the MMX, SSE, VEX.128 and VEX.256 forms, because the register operands tell them apart.
//! MMX values are 128-bit vectors with a zero upper half here; the few operations that mix halves are adapted in
//! [`mmx`].
//!
//! Rules: a legacy SSE instruction keeps the upper half of the YMM register, a VEX.128 one zeroes it; a 16-byte
//! memory operand of a legacy instruction must be aligned unless the instruction exists to be the exception.
//! While MXCSR unmasks an exception (mode bit `SSE_UNMASKED`), each floating-point instruction is bracketed by two
//! helpers, the second of which raises #XM before anything is written. The flags are those of masked execution: an
//! exact tiny result with underflow unmasked raises nothing, and an unmasked overflow or underflow also sets PE.

mod avx;
mod convert;
mod memory;
mod mmx;
mod moves;
mod numeric;
mod operands;
mod shuffle;
mod table;
#[cfg(test)]
mod tests;

use iced_x86::{EncodingKind, Mnemonic};
use rhea_ir::{Inst, Lane, Op, Rounding, Type, Val};
use rhea_x86_state::mode;

use crate::reasons::vector as vectors;
use crate::translator::Translator;
use crate::vector_helpers as vh;
use table::{Form, Order};

/// What the vector part of a translation remembers from instruction to instruction within a unit.
pub struct VectorState {
    /// The instruction at hand is VEX-encoded.
    vex: bool,
    /// A floating-point instruction under `SSE_UNMASKED` has begun and not yet been checked.
    unchecked: bool,
    /// Vector registers last written as a V256: that value, and its low half if it was widened from a V128.
    wide: [(Val, Val); 16],
    /// The x87 stack has been turned to MMX use (TOP zero, all valid) in this unit.
    pub(crate) mmx_entered: bool,
    /// MMX registers whose sign and exponent are known to be all ones.
    mmx_exponents: u8,
}

impl Default for VectorState {
    fn default() -> Self {
        VectorState {
            vex: false,
            unchecked: false,
            wide: [(Val::NONE, Val::NONE); 16],
            mmx_entered: false,
            mmx_exponents: 0,
        }
    }
}

impl VectorState {
    /// The x87 registers changed under MMX.
    pub(crate) fn leave_mmx(&mut self) {
        self.mmx_entered = false;
        self.mmx_exponents = 0;
    }
}

impl Translator<'_> {
    /// Translates the instruction at hand if it is one of these; false if it is not known here.
    pub(crate) fn vector(&mut self) -> bool {
        let mnemonic = self.insn.mnemonic();
        if self.insn.is_string_instruction() {
            return false;
        }
        if self.x87() || self.state_save() {
            return true;
        }
        if mnemonic == Mnemonic::Movnti {
            // A store of a general register: none of the checks below apply.
            let v = self.read_operand(1);
            self.write_operand(0, v);
            return true;
        }
        let Some(form) = table::form(mnemonic) else { return false };
        self.vector.vex = match self.insn.encoding() {
            EncodingKind::Legacy => false,
            EncodingKind::VEX => true,
            _ => return false,
        };
        if self.begin_vector() {
            self.vector_form(form);
            if !self.is_ended() && self.uses_mmx() && !matches!(self.insn.mnemonic(), Mnemonic::Emms) {
                self.enter_mmx();
            }
        }
        true
    }

    /// Whether a register operand is an MMX register, or the instruction is EMMS.
    fn uses_mmx(&self) -> bool {
        self.insn.op0_register().is_mm()
            || self.insn.op1_register().is_mm()
            || self.insn.mnemonic() == Mnemonic::Emms
    }

    /// Emits the #UD, #NM and #MF checks of the instruction's class; false if one of them ended the unit.
    fn begin_vector(&mut self) -> bool {
        if self.vector.vex {
            return self.ensure_avx();
        }
        if self.uses_mmx() {
            if !self.ensure_mmx() {
                return false;
            }
            let mixed = [self.insn.op0_register(), self.insn.op1_register()].iter().any(|r| r.is_xmm());
            return !mixed || self.ensure_sse();
        }
        self.ensure_sse()
    }

    /// Checks of legacy SSE instructions (SDM vol. 2, 2.4): false if the unit was ended by #UD or #NM.
    pub(crate) fn ensure_sse(&mut self) -> bool {
        let undefined = self.mode & mode::EM != 0 || self.mode & mode::OSFXSR == 0;
        self.ensure(undefined)
    }

    /// Checks of VEX-encoded instructions: false if the unit was ended.
    pub(crate) fn ensure_avx(&mut self) -> bool {
        let undefined = self.mode & mode::AVX == 0 || self.is_real_like();
        self.ensure(undefined)
    }

    fn ensure_mmx(&mut self) -> bool {
        let undefined = self.mode & mode::EM != 0;
        if !self.ensure(undefined) {
            return false;
        }
        if self.mode & mode::X87_UNMASKED != 0 {
            self.helper(vh::X87_CHECK_PENDING, &[]);
        }
        true
    }

    fn ensure(&mut self, undefined: bool) -> bool {
        if undefined {
            self.undefined();
        } else if self.mode & mode::TS != 0 {
            self.raise(vectors::NM);
        }
        !self.is_ended()
    }

    /// Called before the first floating-point operation of an instruction.
    fn float_begin(&mut self) {
        if self.mode & mode::SSE_UNMASKED != 0 && !self.vector.unchecked {
            self.helper(vh::SSE_BEGIN, &[]);
            self.vector.unchecked = true;
        }
    }

    /// Called after the last one, before anything is written.
    fn float_end(&mut self) {
        if std::mem::take(&mut self.vector.unchecked) {
            if self.uses_mmx() {
                // The x87 stack is turned over before #XM.
                self.enter_mmx();
            }
            self.helper(vh::SSE_CHECK, &[]);
        }
    }

    /// Pushes an operation, after [`Translator::float_begin`] if it can set flags.
    fn vector_op(&mut self, inst: Inst) -> Val {
        if inst.op.sets_float_flags() {
            self.float_begin();
        }
        self.b.push(inst)
    }

    fn vector_form(&mut self, form: Form) {
        match form {
            Form::Binary(op, lane) => {
                let (a, b) = self.sources();
                let v = self.combine(op, lane, a, b, 0);
                self.write_vector(0, v);
            }
            Form::Swapped(op, lane) => {
                let (a, b) = self.sources();
                let v = self.combine(op, lane, b, a, 0);
                self.write_vector(0, v);
            }
            Form::BinaryImm(op, lane) => {
                let (a, b) = self.sources();
                let imm = self.useful_imm(op, lane, self.b.ty(a));
                let v = self.combine(op, lane, a, b, imm);
                self.write_vector(0, v);
            }
            Form::Unary(op, lane) => {
                let a = self.read_vector(1);
                let v = self.vector_op(Inst { a, lane, ..Inst::new(op, self.b.ty(a)) });
                self.write_vector(0, v);
            }
            Form::UnaryImm(op, lane) => {
                let a = self.read_vector(1);
                let imm = u64::from(self.insn.immediate8());
                let v = self.vector_op(Inst { a, lane, imm, ..Inst::new(op, self.b.ty(a)) });
                self.write_vector(0, v);
            }
            Form::Shift(by_imm, by_count, lane) => self.vector_shift(by_imm, by_count, lane),
            Form::Doubled(op, lane) => {
                let a = self.read_vector(1);
                let v = self.vector_op(Inst { a, b: a, lane, ..Inst::new(op, self.b.ty(a)) });
                self.write_vector(0, v);
            }
            Form::Extend(op, lane, bytes) => {
                let a = self.read_vector(1);
                let ty = self.vector_type();
                let v = self.b.push(Inst { a, lane, aux: bytes, ..Inst::new(op, ty) });
                self.write_vector(0, v);
            }
            Form::Convert(kind) => {
                let a = self.read_vector(1);
                let ty = self.vector_type();
                self.float_begin();
                let v = self.b.vconvert(ty, kind, a, Rounding::Current);
                self.write_vector(0, v);
            }
            Form::BlendVar(lane) => {
                let mask = if self.vector.vex { self.read_vector(3) } else { self.read_xmm(0) };
                let (a, b) = self.sources();
                let v = self.b.vtri(Op::VBlendVar, lane, a, b, mask);
                self.write_vector(0, v);
            }
            Form::Compare(lane) => {
                let predicates = if self.vector.vex { 0x1f } else { 7 };
                let predicate = self.insn.immediate8() & predicates;
                let (a, b) = self.sources();
                self.float_begin();
                let v = self.b.fcmp(lane, predicate, a, b);
                self.write_vector(0, v);
            }
            Form::Relation(lane, signalling) => {
                let a = self.read_vector(0);
                let b = self.read_vector(1);
                self.float_begin();
                let relation = self.b.frel(lane, signalling, a, b);
                self.float_end();
                self.set_flags_relation(relation);
            }
            Form::Test(lane) => self.vector_test(lane),
            Form::Fma(order, lane, bits) => self.fused(order, lane, bits),
            Form::Special(f) => f(self),
        }
    }

    /// A two-operand operation, adapted where it mixes the halves of an MMX register.
    fn combine(&mut self, op: Op, lane: Lane, a: Val, b: Val, imm: u64) -> Val {
        if self.insn.op0_register().is_mm() {
            return self.combine_mmx(op, lane, a, b, imm);
        }
        let ty = self.b.ty(a);
        if a == b {
            // Ways to write zero, all ones or nothing without depending on the register.
            match op {
                Op::VXor | Op::VSub | Op::VCmpGtS => return self.b.iconst(ty, 0),
                Op::VCmpEq => return self.b.iconst(ty, u64::MAX),
                Op::VAnd | Op::VOr => return a,
                _ => {}
            }
        }
        self.vector_op(Inst { a, b, lane, imm, ..Inst::new(op, ty) })
    }

    /// The bits of the immediate that the operation looks at.
    fn useful_imm(&self, op: Op, lane: Lane, ty: Type) -> u64 {
        let imm = u64::from(self.insn.immediate8());
        let lanes = u64::from(ty.bytes() / lane.bytes().max(1));
        match op {
            Op::VBlendImm if lane != Lane::I16 => imm & ((1 << lanes) - 1),
            Op::VShuffle2 if lane == Lane::I64 => imm & ((1 << lanes) - 1),
            Op::Clmul => imm & 0x11,
            Op::Sha1Rounds => imm & 3,
            Op::VMultiSad => imm & if ty == Type::V256 { 0x3f } else { 7 },
            Op::VPermuteHalves => imm & 0xbb,
            _ => imm,
        }
    }

    fn vector_shift(&mut self, by_imm: Op, by_count: Op, lane: Lane) {
        let vex = self.vector.vex;
        let count_operand = if vex { 2 } else { 1 };
        let value_operand = u32::from(vex);
        let v = if self.insn.op_kind(count_operand) == iced_x86::OpKind::Immediate8 {
            let a = self.read_vector(value_operand);
            self.b.vun_imm(by_imm, lane, a, u64::from(self.insn.immediate8()))
        } else {
            let count = self.read_vector(count_operand);
            let a = self.read_vector(value_operand);
            self.b.vbin(by_count, lane, a, count)
        };
        self.write_vector(0, v);
    }

    /// PTEST and VTESTPS/PD: ZF and CF from two bit tests, the other flags zero.
    fn vector_test(&mut self, lane: Lane) {
        let a = self.read_vector(0);
        let b = self.read_vector(1);
        let zero = self.b.op2(Op::VTestZero, Type::I8, lane, 0, a, b, 0);
        let carry = self.b.op2(Op::VTestCarry, Type::I8, lane, 0, a, b, 0);
        let zero = self.b.zext(Type::I64, zero);
        let zero = self.b.bin_imm(Op::Shl, zero, 6);
        let carry = self.b.zext(Type::I64, carry);
        let value = self.b.or(zero, carry);
        self.set_flags_value(value);
    }

    /// Fused multiply-add. The operands go to the operation in the order in which the processor looks for NaNs.
    fn fused(&mut self, order: Order, lane: Lane, bits: u8) {
        let third = self.read_vector(2);
        let first = self.read_vector(0);
        let second = self.read_vector(1);
        let (a, b, c) = match order {
            Order::O132 => (first, third, second),
            Order::O213 => (second, first, third),
            Order::O231 => (second, third, first),
        };
        let ty = self.b.ty(first);
        let mut v = self.vector_op(Inst { a, b, c, lane, aux: bits, ..Inst::new(Op::FMulAdd, ty) });
        if lane.is_scalar() && order != Order::O132 {
            // The untouched lanes are the destination's, not those of the first multiplicand.
            let whole = if lane == Lane::S32 { Lane::I32 } else { Lane::I64 };
            v = self.b.vbin_imm(Op::VBlendImm, whole, first, v, 1);
        }
        self.write_vector(0, v);
    }
}

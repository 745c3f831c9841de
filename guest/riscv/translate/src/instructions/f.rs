//! `tables/f.isa`: floating point, inline on the host's.
//!
//! The host's arithmetic differs in what a NaN result is: where a result can be a NaN it is replaced by the canonical one.
//! Flags gather in the host's register; its rounding mode is that of frm, which the mode word holds, so that a unit knows it.
//! Instructions in another rounding mode, and those of half precision, are executed in software ([`crate::float`]). Some
//! leave the unit for that when they meet operands for which the host's flags would be others.

use rhea_ir::{Cond, Exit, FloatCond, Lane, Op, Rounding as HostRounding, Slot, Type, Val};
use rhea_riscv_state::state::{mode, mstatus};

use crate::translator::UnitTranslator;
use crate::{
    Compare, Exact, FExact, FLoad, FRounded, FStore, Fli, Fr, FrRounded, Freg, FromX, FromXExact, FromXPair,
    FromXRounded, Fused, Rounding, ToX, ToXRounded, TranslateF, Xreg, float, helpers, reasons, slots,
};

/// A precision that the host computes in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum P {
    Single,
    Double,
}
use P::{Double, Single};

impl P {
    fn ty(self) -> Type {
        if self == Single { Type::F32 } else { Type::F64 }
    }

    fn lane(self) -> Lane {
        if self == Single { Lane::F32 } else { Lane::F64 }
    }

    fn canonical(self) -> Slot {
        if self == Single { slots::CANONICAL_SINGLE } else { slots::CANONICAL_DOUBLE }
    }

    fn sign(self) -> u64 {
        if self == Single { 0x8000_0000_8000_0000 } else { 1 << 63 }
    }

    /// The number 2^`power` as the host's constant, in every lane.
    fn power_of_two(self, power: u64) -> u64 {
        if self == Single {
            let bits = (127 + power) << 23;
            bits | bits << 32
        } else {
            (1023 + power) << 52
        }
    }
}

/// An instruction's rounding mode, as far as translation is concerned.
enum Mode {
    /// The host is in it.
    Host,
    /// Toward zero, where the host is in another.
    TowardZero,
    Other,
}

impl UnitTranslator<'_> {
    // ---- registers ----

    /// False, and the unit is ended, if the unit is off.
    fn float_on(&mut self) -> bool {
        let on = self.mode & mode::FP != 0;
        if !on {
            self.illegal();
        }
        on
    }

    /// A register as a value.
    fn f(&mut self, p: P, r: Freg) -> Val {
        let r = usize::from(r.0 & 31);
        if p == Double {
            return self.b.get(slots::f_double(r));
        }
        let high = self.b.get(slots::f_high(r));
        let value = self.b.get(slots::f_single(r));
        let boxed = self.b.icmp_imm(Cond::Eq, high, u64::MAX);
        if self.b.as_const(boxed) == Some(1) {
            return value;
        }
        let canonical = self.b.get(slots::CANONICAL_SINGLE);
        self.choose(boxed, value, canonical)
    }

    /// Writes a register: the last thing that an instruction does.
    fn set_f(&mut self, p: P, r: Freg, value: Val) {
        let r = usize::from(r.0 & 31);
        if p == Double {
            self.b.put(slots::f_double(r), value);
        } else {
            self.b.put(slots::f_single(r), value);
            self.set_high(r);
        }
        self.float_dirty();
    }

    /// Ones above a single.
    fn set_high(&mut self, r: usize) {
        let ones = self.b.iconst(Type::I32, u64::MAX);
        self.b.put(slots::f_high(r), ones);
    }

    /// All bits of a register.
    fn set_f_bits(&mut self, r: Freg, bits: Val) {
        self.b.put(slots::f_bits(usize::from(r.0 & 31)), bits);
        self.float_dirty();
    }

    /// After a change of floating-point state: FS becomes Dirty, which is another mode.
    fn float_dirty(&mut self) {
        if self.mode & mode::FP_DIRTY != 0 || self.is_ended() {
            return;
        }
        self.mark_dirty(mstatus::FS, mode::FP_DIRTY);
        self.leave_after();
    }

    /// The canonical NaN in place of any NaN.
    fn canonical(&mut self, p: P, value: Val) -> Val {
        let nan = self.b.ftest(p.lane(), FloatCond::Unordered, false, value, value);
        let canonical = self.b.get(p.canonical());
        self.choose(nan, canonical, value)
    }

    /// As a vector, for operations on bits.
    fn vector(&mut self, value: Val) -> Val {
        self.b.convert(Op::VResize, Type::V128, Lane::None, 0, value)
    }

    fn scalar(&mut self, p: P, vector: Val) -> Val {
        self.b.convert(Op::VResize, p.ty(), Lane::None, 0, vector)
    }

    /// A constant, by its bits in every lane.
    fn constant(&mut self, p: P, bits: u64) -> Val {
        let vector = self.b.iconst(Type::V128, bits);
        self.scalar(p, vector)
    }

    // ---- modes and software ----

    /// None, and the unit is ended, if the mode is reserved.
    fn rounding(&mut self, rm: Rounding) -> Option<Mode> {
        let frm = (self.mode & mode::FRM) >> mode::FRM_SHIFT;
        let wanted = if rm == Rounding::DYNAMIC { frm as u8 } else { rm.0 };
        if wanted > float::RMM {
            self.illegal();
            return None;
        }
        let is_host = wanted != float::RMM && float::host_rounding(wanted) == float::host_rounding(frm as u8);
        Some(match wanted {
            _ if is_host => Mode::Host,
            1 => Mode::TowardZero,
            _ => Mode::Other,
        })
    }

    /// Executes the instruction at hand in software.
    fn in_software(&mut self) {
        let bits = self.c64(self.bits.into());
        self.helper(helpers::FLOAT, &[bits]);
        self.float_dirty();
    }

    /// The same for an instruction that may have a reserved rounding mode.
    fn rounded_in_software(&mut self, rm: Rounding) {
        if self.float_on() && self.rounding(rm).is_some() {
            self.in_software();
        }
    }

    /// True if floating point is on and the mode of an instruction that never rounds is not a reserved one, at which it
    /// must be illegal all the same (unprivileged specification, "Floating-Point Control and Status Register").
    fn exact_on(&mut self, rm: Exact) -> bool {
        self.float_on() && self.rounding(Rounding(rm.0)).is_some()
    }

    fn exactly_in_software(&mut self, rm: Exact) {
        if self.exact_on(rm) {
            self.in_software();
        }
    }

    fn simply_in_software(&mut self) {
        if self.float_on() {
            self.in_software();
        }
    }

    /// Leaves for software if `condition` is 1.
    fn in_software_if(&mut self, condition: Val) {
        let bits = self.c64(self.bits.into());
        self.b.put(slots::scratch(0), bits);
        self.b.exit_if(condition, Exit::Leave { reason: reasons::FLOAT, pc: Some(self.pc) });
    }

    /// True if the instruction is to be translated inline.
    fn inline(&mut self, rm: Rounding) -> bool {
        if !self.float_on() {
            return false;
        }
        match self.rounding(rm) {
            Some(Mode::Host) => true,
            Some(_) => {
                self.in_software();
                false
            }
            None => false,
        }
    }

    // ---- families ----

    fn two(&mut self, p: P, op: Op, a: FrRounded) {
        if self.inline(a.rm) {
            let (x, y) = (self.f(p, a.fs1), self.f(p, a.fs2));
            let value = self.b.vbin(op, p.lane(), x, y);
            let value = self.canonical(p, value);
            self.set_f(p, a.fd, value);
        }
    }

    fn root(&mut self, p: P, a: FRounded) {
        if self.inline(a.rm) {
            let x = self.f(p, a.fs1);
            let value = self.b.vbin(Op::FSqrt, p.lane(), x, x);
            let value = self.canonical(p, value);
            self.set_f(p, a.fd, value);
        }
    }

    /// `negate` bit 0: the product, bit 1: the addend.
    fn fused(&mut self, p: P, negate: u8, a: Fused) {
        if self.inline(a.rm) {
            let (x, y, z) = (self.f(p, a.fs1), self.f(p, a.fs2), self.f(p, a.fs3));
            let mut inst = rhea_ir::Inst::new(Op::FMulAdd, p.ty());
            (inst.a, inst.b, inst.c, inst.lane, inst.aux) = (x, y, z, p.lane(), negate);
            let value = self.b.push(inst);
            // The host does not tell that infinity times zero is invalid beside a quiet NaN.
            let nan = self.b.ftest(p.lane(), FloatCond::Unordered, false, value, value);
            self.in_software_if(nan);
            self.set_f(p, a.fd, value);
        }
    }

    fn sign(&mut self, p: P, a: Fr, sign: Sign) {
        if !self.float_on() {
            return;
        }
        let x = self.f(p, a.fs1);
        if a.fs1 == a.fs2 && sign == Sign::Copied {
            return self.set_f(p, a.fd, x);
        }
        let y = self.f(p, a.fs2);
        let (x, y) = (self.vector(x), self.vector(y));
        let mask = self.b.iconst(Type::V128, p.sign());
        let sign = match sign {
            Sign::Copied => self.b.vbin(Op::VAnd, Lane::None, y, mask),
            Sign::Negated => self.b.vbin(Op::VAndNot, Lane::None, mask, y),
            Sign::Product => {
                let both = self.b.vbin(Op::VXor, Lane::None, x, y);
                self.b.vbin(Op::VAnd, Lane::None, both, mask)
            }
        };
        let magnitude = self.b.vbin(Op::VAndNot, Lane::None, x, mask);
        let value = self.b.vbin(Op::VOr, Lane::None, magnitude, sign);
        let value = self.scalar(p, value);
        self.set_f(p, a.fd, value);
    }

    fn extreme(&mut self, p: P, a: Fr, largest: bool) {
        if !self.float_on() {
            return;
        }
        let (x, y) = (self.f(p, a.fs1), self.f(p, a.fs2));
        let nan = self.b.ftest(p.lane(), FloatCond::Unordered, false, x, y);
        self.in_software_if(nan);
        // Equal numbers have the same bits, but zeros may differ in sign: -0 is below +0.
        let (vx, vy) = (self.vector(x), self.vector(y));
        let both = self.b.vbin(if largest { Op::VAnd } else { Op::VOr }, Lane::None, vx, vy);
        let both = self.scalar(p, both);
        let equal = self.b.ftest(p.lane(), FloatCond::Eq, false, x, y);
        let other = self.choose(equal, both, y);
        let better = if largest { FloatCond::Gt } else { FloatCond::Lt };
        let better = self.b.ftest(p.lane(), better, false, x, y);
        let value = self.choose(better, x, other);
        self.set_f(p, a.fd, value);
    }

    fn compare(&mut self, p: P, a: Compare, condition: FloatCond, signalling: bool) {
        if self.float_on() {
            let (x, y) = (self.f(p, a.fs1), self.f(p, a.fs2));
            let truth = self.b.ftest(p.lane(), condition, signalling, x, y);
            self.set_x_truth(a.rd, truth);
            self.float_dirty();
        }
    }

    /// To an integer: None if it is done in software, else how the host rounds.
    fn integer_rounding(&mut self, rm: Rounding) -> Option<HostRounding> {
        if !self.float_on() {
            return None;
        }
        match self.rounding(rm)? {
            Mode::Host => Some(HostRounding::Current),
            Mode::TowardZero => Some(HostRounding::Zero),
            Mode::Other => {
                self.in_software();
                None
            }
        }
    }

    fn convert_to_signed(&mut self, p: P, a: ToXRounded, ty: Type) {
        let Some(rounding) = self.integer_rounding(a.rm) else { return };
        let x = self.f(p, a.fs1);
        let value = self.b.convert(Op::FToInt, ty, p.lane(), rounding as u8, x);
        // What does not fit becomes the most negative integer, which may also be the right one.
        let doubtful = self.b.icmp_imm(Cond::Eq, value, 1 << (ty.bits() - 1));
        self.in_software_if(doubtful);
        self.set_x(a.rd, value);
        self.float_dirty();
    }

    /// Numbers from 0 to below 2^63 (2^32 - 1 for results of 32 bits) are converted as signed ones of 64 bits.
    fn convert_to_unsigned(&mut self, p: P, a: ToXRounded, ty: Type) {
        let Some(rounding) = self.integer_rounding(a.rm) else { return };
        let x = self.f(p, a.fs1);
        let zero = self.constant(p, 0);
        let limit = match (ty, p) {
            // 2^32 - 1 itself: what is above may round to 2^32.
            (Type::I32, Double) => self.constant(p, 0x41ef_ffff_ffe0_0000),
            // The largest below 2^32.
            (Type::I32, Single) => self.constant(p, 0x4f7f_ffff_4f7f_ffff),
            _ => self.constant(p, p.power_of_two(62)),
        };
        let low = self.b.ftest(p.lane(), FloatCond::Ge, false, x, zero);
        let high = self.b.ftest(p.lane(), FloatCond::Le, false, x, limit);
        let fits = self.op(Op::And, low, high);
        let doubtful = self.is_zero(fits);
        self.in_software_if(doubtful);
        let value = self.b.convert(Op::FToInt, Type::I64, p.lane(), rounding as u8, x);
        let value = self.b.zext(ty, value);
        self.set_x(a.rd, value);
        self.float_dirty();
    }

    /// From a signed integer of type `I32` or `I64`.
    fn integer_into_float(&mut self, p: P, fd: Freg, value: Val) {
        let other = self.b.get(p.canonical());
        let value = self.b.op2(Op::FFromInt, p.ty(), p.lane(), 0, other, value, 0);
        self.set_f(p, fd, value);
    }

    fn signed_into_float(&mut self, p: P, (fd, rs1, rm): (Freg, Xreg, Rounding), ty: Type) {
        if self.inline(rm) {
            let x = self.x64(rs1);
            let x = self.b.zext(ty, x);
            self.integer_into_float(p, fd, x);
        }
    }

    fn unsigned_into_float(&mut self, p: P, (fd, rs1, rm): (Freg, Xreg, Rounding), ty: Type) {
        if !self.inline(rm) {
            return;
        }
        let x = self.x64(rs1);
        if ty == Type::I32 {
            let low = self.b.zext(Type::I32, x);
            let wide = self.b.zext(Type::I64, low);
            return self.integer_into_float(p, fd, wide);
        }
        let large = self.b.icmp_imm(Cond::LtS, x, 0);
        self.in_software_if(large);
        self.integer_into_float(p, fd, x);
    }

    fn convert(&mut self, from: P, to: P, fd: Freg, fs1: Freg) {
        let x = self.f(from, fs1);
        let other = self.b.get(to.canonical());
        let value = self.b.op2(Op::FConvert, to.ty(), to.lane(), 0, other, x, 0);
        let value = self.canonical(to, value);
        self.set_f(to, fd, value);
    }
}

/// The sign that an FSGNJ instruction gives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// That of the second operand.
    Copied,
    /// Its inverse.
    Negated,
    /// That of the product.
    Product,
}

macro_rules! each {
    ($($s:ident $d:ident ($args:ident) = |$t:ident, $p:ident, $a:ident| $body:expr;)*) => {$(
        fn $s(&mut self, $a: $args) { let ($t, $p) = (self, Single); $body }
        fn $d(&mut self, $a: $args) { let ($t, $p) = (self, Double); $body }
    )*};
}

macro_rules! rounded_in_software {
    ($($name:ident($args:ident))*) => {$(
        fn $name(&mut self, a: $args) {
            self.rounded_in_software(a.rm);
        }
    )*};
}

macro_rules! in_software {
    ($($name:ident($args:ident))*) => {$(
        fn $name(&mut self, _: $args) {
            self.simply_in_software();
        }
    )*};
}

impl TranslateF for UnitTranslator<'_> {
    fn flw(&mut self, a: FLoad) {
        if self.float_on() {
            let address = self.address(a.rs1, a.imm);
            let value = self.b.load(Type::F32, address, self.mem);
            self.set_f(Single, a.fd, value);
        }
    }

    fn fld(&mut self, a: FLoad) {
        if self.float_on() {
            let address = self.address(a.rs1, a.imm);
            let value = self.b.load(Type::F64, address, self.mem);
            self.set_f(Double, a.fd, value);
        }
    }

    fn flh(&mut self, a: FLoad) {
        if self.float_on() {
            let address = self.address(a.rs1, a.imm);
            let value = self.b.load(Type::I16, address, self.mem);
            let value = self.b.zext(Type::I64, value);
            let value = self.b.bin_imm(Op::Or, value, !0xffff);
            self.set_f_bits(a.fd, value);
        }
    }

    fn fsw(&mut self, a: FStore) {
        if self.float_on() {
            let address = self.address(a.rs1, a.imm_s);
            let value = self.b.get(slots::f_single(usize::from(a.fs2.0 & 31)));
            self.b.store(address, value, self.mem);
        }
    }

    fn fsd(&mut self, a: FStore) {
        if self.float_on() {
            let address = self.address(a.rs1, a.imm_s);
            let value = self.b.get(slots::f_double(usize::from(a.fs2.0 & 31)));
            self.b.store(address, value, self.mem);
        }
    }

    fn fsh(&mut self, a: FStore) {
        if self.float_on() {
            let address = self.address(a.rs1, a.imm_s);
            let value = self.b.get(slots::f_low(usize::from(a.fs2.0 & 31)));
            let value = self.b.zext(Type::I16, value);
            self.b.store(address, value, self.mem);
        }
    }

    each! {
        fmadd_s fmadd_d (Fused) = |t, p, a| t.fused(p, 0, a);
        fmsub_s fmsub_d (Fused) = |t, p, a| t.fused(p, 2, a);
        fnmsub_s fnmsub_d (Fused) = |t, p, a| t.fused(p, 1, a);
        fnmadd_s fnmadd_d (Fused) = |t, p, a| t.fused(p, 3, a);
        fadd_s fadd_d (FrRounded) = |t, p, a| t.two(p, Op::FAdd, a);
        fsub_s fsub_d (FrRounded) = |t, p, a| t.two(p, Op::FSub, a);
        fmul_s fmul_d (FrRounded) = |t, p, a| t.two(p, Op::FMul, a);
        fdiv_s fdiv_d (FrRounded) = |t, p, a| t.two(p, Op::FDiv, a);
        fsqrt_s fsqrt_d (FRounded) = |t, p, a| t.root(p, a);
        fsgnj_s fsgnj_d (Fr) = |t, p, a| t.sign(p, a, Sign::Copied);
        fsgnjn_s fsgnjn_d (Fr) = |t, p, a| t.sign(p, a, Sign::Negated);
        fsgnjx_s fsgnjx_d (Fr) = |t, p, a| t.sign(p, a, Sign::Product);
        fmin_s fmin_d (Fr) = |t, p, a| t.extreme(p, a, false);
        fmax_s fmax_d (Fr) = |t, p, a| t.extreme(p, a, true);
        fminm_s fminm_d (Fr) = |t, p, a| t.extreme(p, a, false);
        fmaxm_s fmaxm_d (Fr) = |t, p, a| t.extreme(p, a, true);
        feq_s feq_d (Compare) = |t, p, a| t.compare(p, a, FloatCond::Eq, false);
        flt_s flt_d (Compare) = |t, p, a| t.compare(p, a, FloatCond::Lt, true);
        fle_s fle_d (Compare) = |t, p, a| t.compare(p, a, FloatCond::Le, true);
        fltq_s fltq_d (Compare) = |t, p, a| t.compare(p, a, FloatCond::Lt, false);
        fleq_s fleq_d (Compare) = |t, p, a| t.compare(p, a, FloatCond::Le, false);
        fcvt_w_s fcvt_w_d (ToXRounded) = |t, p, a| t.convert_to_signed(p, a, Type::I32);
        fcvt_l_s fcvt_l_d (ToXRounded) = |t, p, a| t.convert_to_signed(p, a, Type::I64);
        fcvt_wu_s fcvt_wu_d (ToXRounded) = |t, p, a| t.convert_to_unsigned(p, a, Type::I32);
        fcvt_lu_s fcvt_lu_d (ToXRounded) = |t, p, a| t.convert_to_unsigned(p, a, Type::I64);
        fcvt_s_l fcvt_d_l (FromXRounded) = |t, p, a| t.signed_into_float(p, (a.fd, a.rs1, a.rm), Type::I64);
        fcvt_s_lu fcvt_d_lu (FromXRounded) = |t, p, a| t.unsigned_into_float(p, (a.fd, a.rs1, a.rm), Type::I64);
    }

    fn fcvt_s_w(&mut self, a: FromXRounded) {
        self.signed_into_float(Single, (a.fd, a.rs1, a.rm), Type::I32);
    }

    fn fcvt_s_wu(&mut self, a: FromXRounded) {
        self.unsigned_into_float(Single, (a.fd, a.rs1, a.rm), Type::I32);
    }

    fn fcvt_d_w(&mut self, a: FromXExact) {
        if self.exact_on(a.rm_exact) {
            let x = self.x32(a.rs1);
            self.integer_into_float(Double, a.fd, x);
        }
    }

    fn fcvt_d_wu(&mut self, a: FromXExact) {
        if self.exact_on(a.rm_exact) {
            let x = self.x32(a.rs1);
            let x = self.b.zext(Type::I64, x);
            self.integer_into_float(Double, a.fd, x);
        }
    }

    fn fcvt_s_d(&mut self, a: FRounded) {
        if self.inline(a.rm) {
            self.convert(Double, Single, a.fd, a.fs1);
        }
    }

    fn fcvt_d_s(&mut self, a: FExact) {
        if self.exact_on(a.rm_exact) {
            self.convert(Single, Double, a.fd, a.fs1);
        }
    }

    fn fmv_x_w(&mut self, a: ToX) {
        if self.float_on() {
            let value = self.b.get(slots::f_low(usize::from(a.fs1.0 & 31)));
            self.set_x(a.rd, value);
        }
    }

    fn fmv_x_d(&mut self, a: ToX) {
        if self.float_on() {
            let value = self.b.get(slots::f_bits(usize::from(a.fs1.0 & 31)));
            self.set_x(a.rd, value);
        }
    }

    fn fmv_w_x(&mut self, a: FromX) {
        if self.float_on() {
            let value = self.x32(a.rs1);
            let r = usize::from(a.fd.0 & 31);
            self.b.put(slots::f_low(r), value);
            self.set_high(r);
            self.float_dirty();
        }
    }

    fn fmv_d_x(&mut self, a: FromX) {
        if self.float_on() {
            let value = self.x64(a.rs1);
            self.set_f_bits(a.fd, value);
        }
    }

    rounded_in_software! {
        fmadd_h(Fused) fmsub_h(Fused) fnmsub_h(Fused) fnmadd_h(Fused)
        fadd_h(FrRounded) fsub_h(FrRounded) fmul_h(FrRounded) fdiv_h(FrRounded) fsqrt_h(FRounded)
        fcvt_w_h(ToXRounded) fcvt_wu_h(ToXRounded) fcvt_l_h(ToXRounded) fcvt_lu_h(ToXRounded)
        fcvt_h_w(FromXRounded) fcvt_h_wu(FromXRounded) fcvt_h_l(FromXRounded) fcvt_h_lu(FromXRounded)
        fcvt_h_s(FRounded) fcvt_h_d(FRounded)
        fround_s(FRounded) fround_d(FRounded) fround_h(FRounded)
        froundnx_s(FRounded) froundnx_d(FRounded) froundnx_h(FRounded)
    }

    fn fcvt_s_h(&mut self, a: FExact) {
        self.exactly_in_software(a.rm_exact);
    }

    fn fcvt_d_h(&mut self, a: FExact) {
        self.exactly_in_software(a.rm_exact);
    }

    in_software! {
        fsgnj_h(Fr) fsgnjn_h(Fr) fsgnjx_h(Fr) fmin_h(Fr) fmax_h(Fr) fminm_h(Fr) fmaxm_h(Fr)
        feq_h(Compare) flt_h(Compare) fle_h(Compare) fltq_h(Compare) fleq_h(Compare)
        fclass_s(ToX) fclass_d(ToX) fclass_h(ToX) fmv_x_h(ToX) fmv_h_x(FromX)
        fli_s(Fli) fli_d(Fli) fli_h(Fli)
        fcvtmod_w_d(ToX) fmvh_x_d(ToX) fmvp_d_x(FromXPair)
    }
}

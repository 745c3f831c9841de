//! Floating-point instructions on `rhea-softfloat` (unprivileged specification, chapters "F", "D", "Zfh", "Zfa").
//!
//! The generated traits that the translator implements serve a second time: here an instruction's method executes it.

use rhea_riscv_state::RiscvState;
use rhea_riscv_state::state::mstatus;
use rhea_softfloat::{
    self as sf, Env, F16, F32, F64, Flags, Float, MinMaxRule, Negate, Relation, Rounding as Direction,
};

use crate::{
    Compare, FExact, FLoad, FRounded, FStore, Feature, Features, Fli, Fr, FrRounded, Freg, FromX, FromXExact,
    FromXPair, FromXRounded, Fused, Instruction, Rounding, ToX, ToXRounded, TranslateF, Translator, Xlen,
    decode32,
};

/// Executes a floating-point instruction other than a load or a store, by its bits. The rounding mode has been checked: one
/// that is reserved changes nothing.
pub fn execute(st: &mut RiscvState, bits: u32) {
    let xlen = if st.config.xlen == 32 { Xlen::Rv32 } else { Xlen::Rv64 };
    let all = [Feature::F, Feature::D, Feature::Zfh, Feature::Zfhmin, Feature::Zfa];
    let features = all.into_iter().fold(Features::base(xlen), Features::with);
    let mut soft = Soft { env: Env::RISCV, st };
    if let Some(instruction) = decode32(bits, &features)
        && soft.run(instruction)
    {
        st.fflags |= flags(soft.env.flags);
        st.set_unit_dirty(mstatus::FS);
        st.mode = st.compute_mode();
    }
}

/// Accrued flags for those of the software arithmetic.
fn flags(f: Flags) -> u32 {
    let pairs = [
        (Flags::INEXACT, 0),
        (Flags::UNDERFLOW, 1),
        (Flags::OVERFLOW, 2),
        (Flags::DIVIDE_BY_ZERO, 3),
        (Flags::INVALID, 4),
    ];
    pairs.into_iter().filter(|(flag, _)| f.contains(*flag)).fold(0, |all, (_, bit)| all | 1 << bit)
}

/// A precision and how registers hold it.
trait Precision: Float {
    /// Bits of a value.
    const BITS: u32;
    /// Significand bits below the leading one.
    const FRACTION: u32;
    fn from_raw(raw: u64) -> Self;
    fn raw(self) -> u64;

    /// Everything but the sign and fraction, set.
    const EXPONENT: u64 = ((1 << (Self::BITS - 1)) - 1) & !((1 << Self::FRACTION) - 1);
    const SIGN: u64 = 1 << (Self::BITS - 1);
    const CANONICAL_NAN: u64 = Self::EXPONENT | 1 << (Self::FRACTION - 1);
    /// The ones above a boxed value.
    const BOX: u64 = if Self::BITS == 64 { 0 } else { u64::MAX << (Self::BITS % 64) };
}

macro_rules! precisions {
    ($($type:ident $raw:ident $bits:literal $fraction:literal;)*) => {$(
        impl Precision for $type {
            const BITS: u32 = $bits;
            const FRACTION: u32 = $fraction;
            fn from_raw(raw: u64) -> Self {
                $type(raw as $raw)
            }
            fn raw(self) -> u64 {
                self.0.into()
            }
        }
    )*};
}

precisions! {
    F16 u16 16 10;
    F32 u32 32 23;
    F64 u64 64 52;
}

struct Soft<'a> {
    st: &'a mut RiscvState,
    env: Env,
}

impl Soft<'_> {
    fn run(&mut self, instruction: Instruction) -> bool {
        instruction.translate_f(self).unwrap_or(false)
    }

    /// Takes a rounding mode; false if it is reserved.
    fn round(&mut self, rm: u8) -> bool {
        let mode = if rm == Rounding::DYNAMIC.0 { self.st.frm as u8 } else { rm };
        self.env.rounding = match mode {
            0 => Direction::NearestEven,
            1 => Direction::TowardZero,
            2 => Direction::Down,
            3 => Direction::Up,
            4 => Direction::NearestAway,
            _ => return false,
        };
        true
    }

    /// A register as a value; one that is not boxed is the canonical NaN.
    fn f<P: Precision>(&self, r: Freg) -> P {
        let bits = self.st.f[usize::from(r.0 & 31)];
        P::from_raw(if bits & P::BOX == P::BOX { bits & !P::BOX } else { P::CANONICAL_NAN })
    }

    fn set_f<P: Precision>(&mut self, r: Freg, value: P) {
        self.set_raw::<P>(r, value.raw());
    }

    fn set_raw<P: Precision>(&mut self, r: Freg, raw: u64) {
        self.st.f[usize::from(r.0 & 31)] = raw | P::BOX;
    }

    fn set_x(&mut self, r: crate::Xreg, value: u64) {
        self.st.set_x(usize::from(r.0), value);
    }

    fn x(&self, r: crate::Xreg) -> u64 {
        self.st.x[usize::from(r.0 & 31)]
    }

    // ---- families ----

    fn two<P: Precision>(&mut self, a: FrRounded, of: fn(P, P, &mut Env) -> P) -> bool {
        if !self.round(a.rm.0) {
            return false;
        }
        let value = of(self.f(a.fs1), self.f(a.fs2), &mut self.env);
        self.set_f(a.fd, value);
        true
    }

    fn root<P: Precision>(&mut self, a: FRounded) -> bool {
        if !self.round(a.rm.0) {
            return false;
        }
        let value = sf::sqrt(self.f::<P>(a.fs1), &mut self.env);
        self.set_f(a.fd, value);
        true
    }

    fn fused<P: Precision>(&mut self, a: Fused, product: bool, addend: bool) -> bool {
        if !self.round(a.rm.0) {
            return false;
        }
        let (x, y, z) = (self.f::<P>(a.fs1), self.f::<P>(a.fs2), self.f::<P>(a.fs3));
        let value = sf::fma(x, y, z, Negate { product, addend }, &mut self.env);
        // The product of infinity and zero is invalid even if the addend is a quiet NaN.
        let is = |v: P, raw: u64| v.raw() & !P::SIGN == raw;
        if is(x, P::EXPONENT) && is(y, 0) || is(x, 0) && is(y, P::EXPONENT) {
            self.env.flags |= Flags::INVALID;
        }
        self.set_f(a.fd, value);
        true
    }

    fn sign<P: Precision>(&mut self, a: Fr, of: fn(u64, u64) -> u64) -> bool {
        let (x, y) = (self.f::<P>(a.fs1).raw(), self.f::<P>(a.fs2).raw());
        let sign = of(x, y) & P::SIGN;
        self.set_raw::<P>(a.fd, x & !P::SIGN | sign);
        true
    }

    fn extreme<P: Precision>(&mut self, a: Fr, rule: MinMaxRule, largest: bool) -> bool {
        let (x, y) = (self.f::<P>(a.fs1), self.f::<P>(a.fs2));
        let of = if largest { sf::max } else { sf::min };
        let value = of(x, y, rule, &mut self.env);
        self.set_f(a.fd, value);
        true
    }

    fn compare<P: Precision>(&mut self, a: Compare, signaling: bool, holds: &[Relation]) -> bool {
        let (x, y) = (self.f::<P>(a.fs1), self.f::<P>(a.fs2));
        let of = if signaling { sf::compare_signaling } else { sf::compare_quiet };
        let relation = of(x, y, &mut self.env);
        self.set_x(a.rd, holds.contains(&relation).into());
        true
    }

    fn class<P: Precision>(&mut self, a: ToX) -> bool {
        let raw = self.f::<P>(a.fs1).raw();
        let negative = raw & P::SIGN != 0;
        let (exponent, fraction) = (raw & P::EXPONENT, raw & ((1 << P::FRACTION) - 1));
        let bit = match (exponent, fraction) {
            (0, 0) => {
                if negative {
                    3
                } else {
                    4
                }
            }
            (0, _) => {
                if negative {
                    2
                } else {
                    5
                }
            }
            (e, 0) if e == P::EXPONENT => {
                if negative {
                    0
                } else {
                    7
                }
            }
            (e, f) if e == P::EXPONENT => {
                if f >> (P::FRACTION - 1) != 0 {
                    9
                } else {
                    8
                }
            }
            _ => {
                if negative {
                    1
                } else {
                    6
                }
            }
        };
        self.set_x(a.rd, 1 << bit);
        true
    }

    fn convert_to_signed<P: Precision>(&mut self, a: ToXRounded, bits: u32) -> bool {
        if !self.round(a.rm.0) {
            return false;
        }
        let direction = self.env.rounding;
        let value = sf::to_signed(self.f::<P>(a.fs1), bits, direction, &mut self.env);
        self.set_x(a.rd, value as u64);
        true
    }

    fn convert_to_unsigned<P: Precision>(&mut self, a: ToXRounded, bits: u32) -> bool {
        if !self.round(a.rm.0) {
            return false;
        }
        let direction = self.env.rounding;
        let value = sf::to_unsigned(self.f::<P>(a.fs1), bits, direction, &mut self.env);
        // Results of 32 bits are sign-extended, unsigned ones too.
        self.set_x(a.rd, if bits == 32 { value as i32 as u64 } else { value });
        true
    }

    fn signed_into_float<P: Precision>(&mut self, (fd, rs1, rm): (Freg, crate::Xreg, u8), bits: u32) -> bool {
        if !self.round(rm) {
            return false;
        }
        let x = self.x(rs1);
        let value = if bits == 32 { i64::from(x as i32) } else { x as i64 };
        let value = sf::from_i64::<P>(value, &mut self.env);
        self.set_f(fd, value);
        true
    }

    fn unsigned_into_float<P: Precision>(
        &mut self,
        (fd, rs1, rm): (Freg, crate::Xreg, u8),
        bits: u32,
    ) -> bool {
        if !self.round(rm) {
            return false;
        }
        let x = self.x(rs1);
        let value = if bits == 32 { u64::from(x as u32) } else { x };
        let value = sf::from_u64::<P>(value, &mut self.env);
        self.set_f(fd, value);
        true
    }

    fn converted<P: Precision, Q: Precision>(&mut self, fd: Freg, fs1: Freg, rm: u8) -> bool {
        if !self.round(rm) {
            return false;
        }
        let value: Q = sf::convert(self.f::<P>(fs1), &mut self.env);
        self.set_f(fd, value);
        true
    }

    fn integral<P: Precision>(&mut self, a: FRounded, signal_inexact: bool) -> bool {
        if !self.round(a.rm.0) {
            return false;
        }
        let direction = self.env.rounding;
        let value = sf::round_to_integral(self.f::<P>(a.fs1), direction, signal_inexact, &mut self.env);
        self.set_f(a.fd, value);
        true
    }

    fn move_to_x<P: Precision>(&mut self, a: ToX) -> bool {
        let raw = self.st.f[usize::from(a.fs1.0 & 31)];
        let shift = 64 - P::BITS;
        self.set_x(a.rd, ((raw << shift) as i64 >> shift) as u64);
        true
    }

    fn move_from_x<P: Precision>(&mut self, a: FromX) -> bool {
        let raw = self.x(a.rs1) & !P::BOX;
        self.set_raw::<P>(a.fd, raw);
        true
    }

    fn immediate<P: Precision>(&mut self, a: Fli) -> bool {
        let value = constant(a.constant.0);
        let raw = match a.constant.0 & 31 {
            1 => 1 << P::FRACTION,
            _ => sf::convert::<F64, P>(F64(value), &mut self.env).raw(),
        };
        // 2^-16 and 2^-15 are subnormal in half precision, 2^16 is infinite: no flags either way.
        self.env.flags = Flags::empty();
        self.set_raw::<P>(a.fd, raw);
        true
    }
}

/// The constants of FLI as doubles; number 1 is the smallest normal number of the precision itself (Zfa, "Load-Immediate
/// Instructions").
pub fn constant(number: u8) -> u64 {
    const VALUES: [f64; 32] = [
        -1.0,
        0.0,
        0.0000152587890625,
        0.000030517578125,
        0.00390625,
        0.0078125,
        0.0625,
        0.125,
        0.25,
        0.3125,
        0.375,
        0.4375,
        0.5,
        0.625,
        0.75,
        0.875,
        1.0,
        1.25,
        1.5,
        1.75,
        2.0,
        2.5,
        3.0,
        4.0,
        8.0,
        16.0,
        128.0,
        256.0,
        32768.0,
        65536.0,
        f64::INFINITY,
        0.0,
    ];
    match number & 31 {
        31 => 0x7ff8_0000_0000_0000,
        n => VALUES[usize::from(n)].to_bits(),
    }
}

const LESS: &[Relation] = &[Relation::Less];
const EQUAL: &[Relation] = &[Relation::Equal];
const LESS_OR_EQUAL: &[Relation] = &[Relation::Less, Relation::Equal];

macro_rules! each_precision {
    ($($h:ident $s:ident $d:ident ($args:ident) = |$t:ident, $a:ident| $method:ident($($extra:expr),*);)*) => {$(
        fn $h(&mut self, $a: $args) -> bool { let $t = self; $t.$method::<F16>($($extra),*) }
        fn $s(&mut self, $a: $args) -> bool { let $t = self; $t.$method::<F32>($($extra),*) }
        fn $d(&mut self, $a: $args) -> bool { let $t = self; $t.$method::<F64>($($extra),*) }
    )*};
}

macro_rules! never {
    ($($name:ident($args:ident))*) => {$(
        /// Accesses to memory are always translated.
        fn $name(&mut self, _: $args) -> bool {
            false
        }
    )*};
}

impl Translator for Soft<'_> {
    /// Whether it was executed.
    type Output = bool;
}

impl TranslateF for Soft<'_> {
    never! { flw(FLoad) fld(FLoad) flh(FLoad) fsw(FStore) fsd(FStore) fsh(FStore) }

    each_precision! {
        fmadd_h fmadd_s fmadd_d (Fused) = |t, a| fused(a, false, false);
        fmsub_h fmsub_s fmsub_d (Fused) = |t, a| fused(a, false, true);
        fnmsub_h fnmsub_s fnmsub_d (Fused) = |t, a| fused(a, true, false);
        fnmadd_h fnmadd_s fnmadd_d (Fused) = |t, a| fused(a, true, true);
        fadd_h fadd_s fadd_d (FrRounded) = |t, a| two(a, sf::add);
        fsub_h fsub_s fsub_d (FrRounded) = |t, a| two(a, sf::sub);
        fmul_h fmul_s fmul_d (FrRounded) = |t, a| two(a, sf::mul);
        fdiv_h fdiv_s fdiv_d (FrRounded) = |t, a| two(a, sf::div);
        fsqrt_h fsqrt_s fsqrt_d (FRounded) = |t, a| root(a);
        fsgnj_h fsgnj_s fsgnj_d (Fr) = |t, a| sign(a, |_, y| y);
        fsgnjn_h fsgnjn_s fsgnjn_d (Fr) = |t, a| sign(a, |_, y| !y);
        fsgnjx_h fsgnjx_s fsgnjx_d (Fr) = |t, a| sign(a, |x, y| x ^ y);
        fmin_h fmin_s fmin_d (Fr) = |t, a| extreme(a, MinMaxRule::Number, false);
        fmax_h fmax_s fmax_d (Fr) = |t, a| extreme(a, MinMaxRule::Number, true);
        fminm_h fminm_s fminm_d (Fr) = |t, a| extreme(a, MinMaxRule::Propagate, false);
        fmaxm_h fmaxm_s fmaxm_d (Fr) = |t, a| extreme(a, MinMaxRule::Propagate, true);
        feq_h feq_s feq_d (Compare) = |t, a| compare(a, false, EQUAL);
        flt_h flt_s flt_d (Compare) = |t, a| compare(a, true, LESS);
        fle_h fle_s fle_d (Compare) = |t, a| compare(a, true, LESS_OR_EQUAL);
        fltq_h fltq_s fltq_d (Compare) = |t, a| compare(a, false, LESS);
        fleq_h fleq_s fleq_d (Compare) = |t, a| compare(a, false, LESS_OR_EQUAL);
        fclass_h fclass_s fclass_d (ToX) = |t, a| class(a);
        fcvt_w_h fcvt_w_s fcvt_w_d (ToXRounded) = |t, a| convert_to_signed(a, 32);
        fcvt_l_h fcvt_l_s fcvt_l_d (ToXRounded) = |t, a| convert_to_signed(a, 64);
        fcvt_wu_h fcvt_wu_s fcvt_wu_d (ToXRounded) = |t, a| convert_to_unsigned(a, 32);
        fcvt_lu_h fcvt_lu_s fcvt_lu_d (ToXRounded) = |t, a| convert_to_unsigned(a, 64);
        fcvt_h_l fcvt_s_l fcvt_d_l (FromXRounded) = |t, a| signed_into_float((a.fd, a.rs1, a.rm.0), 64);
        fcvt_h_lu fcvt_s_lu fcvt_d_lu (FromXRounded) = |t, a| unsigned_into_float((a.fd, a.rs1, a.rm.0), 64);
        fround_h fround_s fround_d (FRounded) = |t, a| integral(a, false);
        froundnx_h froundnx_s froundnx_d (FRounded) = |t, a| integral(a, true);
        fmv_x_h fmv_x_w fmv_x_d (ToX) = |t, a| move_to_x(a);
        fmv_h_x fmv_w_x fmv_d_x (FromX) = |t, a| move_from_x(a);
        fli_h fli_s fli_d (Fli) = |t, a| immediate(a);
    }

    fn fcvt_h_w(&mut self, a: FromXRounded) -> bool {
        self.signed_into_float::<F16>((a.fd, a.rs1, a.rm.0), 32)
    }

    fn fcvt_s_w(&mut self, a: FromXRounded) -> bool {
        self.signed_into_float::<F32>((a.fd, a.rs1, a.rm.0), 32)
    }

    fn fcvt_d_w(&mut self, a: FromXExact) -> bool {
        self.signed_into_float::<F64>((a.fd, a.rs1, a.rm_exact.0), 32)
    }

    fn fcvt_h_wu(&mut self, a: FromXRounded) -> bool {
        self.unsigned_into_float::<F16>((a.fd, a.rs1, a.rm.0), 32)
    }

    fn fcvt_s_wu(&mut self, a: FromXRounded) -> bool {
        self.unsigned_into_float::<F32>((a.fd, a.rs1, a.rm.0), 32)
    }

    fn fcvt_d_wu(&mut self, a: FromXExact) -> bool {
        self.unsigned_into_float::<F64>((a.fd, a.rs1, a.rm_exact.0), 32)
    }

    fn fcvt_s_d(&mut self, a: FRounded) -> bool {
        self.converted::<F64, F32>(a.fd, a.fs1, a.rm.0)
    }

    fn fcvt_d_s(&mut self, a: FExact) -> bool {
        self.converted::<F32, F64>(a.fd, a.fs1, a.rm_exact.0)
    }

    fn fcvt_s_h(&mut self, a: FExact) -> bool {
        self.converted::<F16, F32>(a.fd, a.fs1, a.rm_exact.0)
    }

    fn fcvt_h_s(&mut self, a: FRounded) -> bool {
        self.converted::<F32, F16>(a.fd, a.fs1, a.rm.0)
    }

    fn fcvt_d_h(&mut self, a: FExact) -> bool {
        self.converted::<F16, F64>(a.fd, a.fs1, a.rm_exact.0)
    }

    fn fcvt_h_d(&mut self, a: FRounded) -> bool {
        self.converted::<F64, F16>(a.fd, a.fs1, a.rm.0)
    }

    /// The low 32 bits of the integer that truncation gives (Zfa, "Modular Convert-to-Integer Instruction").
    fn fcvtmod_w_d(&mut self, a: ToX) -> bool {
        let raw = self.f::<F64>(a.fs1).raw();
        let exponent = (raw >> 52 & 0x7ff) as i32 - 1023;
        let significand = raw & ((1 << 52) - 1) | 1 << 52;
        let mut wide: Env = Env::RISCV;
        // Flags are those of the saturating conversion to 32 bits.
        sf::to_signed(F64(raw), 32, Direction::TowardZero, &mut wide);
        let magnitude = match exponent {
            ..0 | 84.. => 0,
            0..52 => significand >> (52 - exponent),
            _ => significand << (exponent - 52),
        };
        let value = if raw >> 63 != 0 { magnitude.wrapping_neg() } else { magnitude };
        self.env.flags |= wide.flags;
        self.set_x(a.rd, value as i32 as u64);
        true
    }

    fn fmvh_x_d(&mut self, a: ToX) -> bool {
        let raw = self.st.f[usize::from(a.fs1.0 & 31)];
        self.set_x(a.rd, (raw >> 32) as i32 as u64);
        true
    }

    fn fmvp_d_x(&mut self, a: FromXPair) -> bool {
        let raw = u64::from(self.x(a.rs1) as u32) | self.x(a.rs2) << 32;
        self.set_raw::<F64>(a.fd, raw);
        true
    }
}

//! Condition flags as the operands of the operation that last set them.
//!
//! CF, PF, AF, ZF, SF and OF are not stored; `cc_op` says how to compute them from `cc_dst`, `cc_src` and
//! `cc_src2`. Translated code keeps these as values and usually never computes a flag; Rust code asks
//! [`X86State::arithmetic_flags`].
//!
//! Operands are kept zero-extended or with garbage above the operation's width: the computation masks them.
//!
//! | operation | `cc_dst` | `cc_src` | `cc_src2` |
//! |---|---|---|---|
//! | Flags | – | the six flags in RFLAGS positions | – |
//! | Add | result | second addend | – |
//! | Adc | result | second addend | carry in (0/1) |
//! | Sub (also CMP, NEG as 0-x) | result | subtrahend | – |
//! | Sbb | result | subtrahend | borrow in (0/1) |
//! | Logic (AND, OR, XOR, TEST) | result | – | – |
//! | Shl | result | operand shifted left by count-1 (its top bit is CF) | – |
//! | Shr (also SAR) | result | operand shifted right by count-1 (its bit 0 is CF) | – |
//! | Mul (MUL, IMUL) | low result | nonzero when CF=OF=1 | – |
//! | Bmi (ANDN, BEXTR, BLSI, BLSR, BLSMSK, BZHI) | result | CF (0/1) | – |
//!
//! INC and DEC keep CF, so they leave the record as it is: bits 8..=15 of `cc_op` name them (zero for none) and
//! `cc_inc` has their result. CF then is that of the record, the other five flags are those of the INC or DEC.
//!
//! Undefined flags: AF after Logic is 0, shifts leave AF 0; OF after Shl is CF xor sign(result), after Shr
//! sign(result) xor sign(cc_src), which is right for count 1; AF after Bmi and Mul is 0, PF/ZF/SF after Mul are of
//! the low result.

use crate::X86State;

/// Carry flag, RFLAGS bit 0.
pub const CF: u64 = 1 << 0;
/// Parity flag, bit 2.
pub const PF: u64 = 1 << 2;
/// Auxiliary carry flag, bit 4.
pub const AF: u64 = 1 << 4;
/// Zero flag, bit 6.
pub const ZF: u64 = 1 << 6;
/// Sign flag, bit 7.
pub const SF: u64 = 1 << 7;
/// Trap flag, bit 8.
pub const TF: u64 = 1 << 8;
/// Interrupt enable flag, bit 9.
pub const IF: u64 = 1 << 9;
/// Direction flag, bit 10.
pub const DF: u64 = 1 << 10;
/// Overflow flag, bit 11.
pub const OF: u64 = 1 << 11;
/// I/O privilege level, bits 12..=13.
pub const IOPL: u64 = 3 << 12;
/// Nested task, bit 14.
pub const NT: u64 = 1 << 14;
/// Resume flag, bit 16.
pub const RF: u64 = 1 << 16;
/// Virtual-8086 mode, bit 17.
pub const VM: u64 = 1 << 17;
/// Alignment check / SMAP override, bit 18.
pub const AC: u64 = 1 << 18;
/// Virtual interrupt flag, bit 19.
pub const VIF: u64 = 1 << 19;
/// Virtual interrupt pending, bit 20.
pub const VIP: u64 = 1 << 20;
/// ID flag, bit 21.
pub const ID: u64 = 1 << 21;
/// The six flags that [`CcOp`] encodes.
pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;

/// Kind of the operation that last set the flags, with operand width where it matters.
///
/// The numeric value is `kind * 4 + log2(bytes)`, so the width of any sized kind is `1 << (op & 3)` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "the table in the module documentation describes them")]
pub enum CcOp {
    Flags = 0,
    AddB = 4,
    AddW,
    AddL,
    AddQ,
    AdcB,
    AdcW,
    AdcL,
    AdcQ,
    SubB,
    SubW,
    SubL,
    SubQ,
    SbbB,
    SbbW,
    SbbL,
    SbbQ,
    LogicB,
    LogicW,
    LogicL,
    LogicQ,
    IncB,
    IncW,
    IncL,
    IncQ,
    DecB,
    DecW,
    DecL,
    DecQ,
    ShlB,
    ShlW,
    ShlL,
    ShlQ,
    ShrB,
    ShrW,
    ShrL,
    ShrQ,
    MulB,
    MulW,
    MulL,
    MulQ,
    BmiB,
    BmiW,
    BmiL,
    BmiQ,
}

/// Position in `cc_op` of the operation number of an INC or DEC after the record.
pub const INC_SHIFT: u32 = 8;

/// `kind` part of a [`CcOp`] value: `op >> 2`.
pub mod kind {
    #![allow(missing_docs, reason = "see CcOp")]
    pub const FLAGS: u32 = 0;
    pub const ADD: u32 = 1;
    pub const ADC: u32 = 2;
    pub const SUB: u32 = 3;
    pub const SBB: u32 = 4;
    pub const LOGIC: u32 = 5;
    pub const INC: u32 = 6;
    pub const DEC: u32 = 7;
    pub const SHL: u32 = 8;
    pub const SHR: u32 = 9;
    pub const MUL: u32 = 10;
    pub const BMI: u32 = 11;
}

/// Computes CF, PF, AF, ZF, SF, OF (in RFLAGS positions) from a flag record without INC or DEC. For [`kind::INC`] and
/// [`kind::DEC`] `src` is CF from before. An unknown `op` gives no flags.
pub fn compute(op: u32, dst: u64, src: u64, src2: u64) -> u64 {
    if op >> 2 == kind::FLAGS {
        return src & ARITHMETIC;
    }
    let bits = 8u32 << (op & 3);
    let mask = u64::MAX >> (64 - bits);
    let sign = 1u64 << (bits - 1);
    let (dst, src_w) = (dst & mask, src & mask);
    let set = |c: bool, f: u64| if c { f } else { 0 };
    let mut f =
        set(dst == 0, ZF) | set(dst & sign != 0, SF) | set((dst as u8).count_ones().is_multiple_of(2), PF);
    match op >> 2 {
        kind::ADD | kind::ADC => {
            let carry_in = if op >> 2 == kind::ADC { src2 & 1 } else { 0 };
            let a = dst.wrapping_sub(src_w).wrapping_sub(carry_in) & mask;
            f |= set(dst < a || (carry_in == 1 && dst == a), CF);
            f |= (a ^ src_w ^ dst) & AF;
            f |= set((a ^ dst) & (src_w ^ dst) & sign != 0, OF);
        }
        kind::SUB | kind::SBB => {
            let borrow = if op >> 2 == kind::SBB { src2 & 1 } else { 0 };
            let a = dst.wrapping_add(src_w).wrapping_add(borrow) & mask;
            f |= set(a < src_w || (borrow == 1 && a == src_w), CF);
            f |= (a ^ src_w ^ dst) & AF;
            f |= set((a ^ src_w) & (a ^ dst) & sign != 0, OF);
        }
        kind::INC => f |= (src & CF) | set(dst & 0xf == 0, AF) | set(dst == sign, OF),
        kind::DEC => f |= (src & CF) | set(dst & 0xf == 0xf, AF) | set(dst == sign - 1, OF),
        kind::SHL => {
            let carry = src_w & sign != 0;
            f |= set(carry, CF) | set(carry != (dst & sign != 0), OF);
        }
        kind::SHR => f |= (src & CF) | set((src_w ^ dst) & sign != 0, OF),
        kind::MUL => f |= set(src != 0, CF | OF),
        kind::BMI => f |= src & CF,
        _ => {}
    }
    f
}

impl X86State {
    /// CF, PF, AF, ZF, SF and OF in their RFLAGS positions.
    pub fn arithmetic_flags(&self) -> u64 {
        let f = compute(self.cc_op & 0xff, self.cc_dst, self.cc_src, self.cc_src2);
        match self.cc_op >> INC_SHIFT {
            0 => f,
            inc => compute(inc, self.cc_inc, f & CF, 0),
        }
    }

    /// The whole RFLAGS register.
    pub fn rflags(&self) -> u64 {
        let df = if self.df != 0 { DF } else { 0 };
        self.rflags & !(ARITHMETIC | DF) | self.arithmetic_flags() | df | 2
    }

    /// Sets the whole RFLAGS register. The caller has checked which bits may change and recomputes the mode.
    pub fn set_rflags(&mut self, value: u64) {
        self.rflags = value & !(ARITHMETIC | DF) | 2;
        self.df = u32::from(value & DF != 0);
        self.set_arithmetic_flags(value);
    }

    /// Sets only the six arithmetic flags from their RFLAGS positions.
    pub fn set_arithmetic_flags(&mut self, value: u64) {
        self.cc_op = CcOp::Flags as u32;
        self.cc_src = value & ARITHMETIC;
        self.cc_dst = 0;
        self.cc_src2 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtraction_of_a_larger_number_borrows() {
        let f = compute(CcOp::SubL as u32, 1u32.wrapping_sub(2) as u64, 2, 0);
        assert_eq!(f, CF | SF | AF | PF);
    }

    #[test]
    fn addition_overflows_into_the_sign() {
        let f = compute(CcOp::AddB as u32, 0x80, 1, 0);
        assert_eq!(f, SF | OF | AF);
    }

    #[test]
    fn an_increment_keeps_the_carry_of_the_record() {
        let mut st = X86State::reset();
        (st.cc_op, st.cc_dst, st.cc_src) = (CcOp::AddB as u32, 0x00, 0x01);
        assert_eq!(st.arithmetic_flags() & (CF | ZF), CF | ZF);
        st.cc_op |= (CcOp::IncL as u32) << INC_SHIFT;
        st.cc_inc = 5;
        assert_eq!(st.arithmetic_flags(), CF | PF);
    }

    #[test]
    fn adc_with_carry_and_all_ones_carries() {
        // 5 + 0xff + 1 = 0x105: result 5 equals the first addend, and still there is a carry.
        assert_eq!(compute(CcOp::AdcB as u32, 5, 0xff, 1) & CF, CF);
    }
}

//! Condition flags while translating: what is known of the last flag-setting operation, the flag record that it
//! leaves in the state, and the conditions that follow from it.
//!
//! Setting flags puts the record of `rhea_x86_state::flags` (the back end drops puts that the next flag-setting
//! instruction overwrites) and remembers the operands, so that a condition becomes one comparison of them.

use iced_x86::ConditionCode;
use rhea_ir::{Cond, FloatCond, Lane, Op, Type, Val};
use rhea_x86_state::flags::{self, kind};

use crate::helpers;
use crate::slots;
use crate::translator::Translator;

/// The last operation that set the condition flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flags {
    /// Whatever the flag record in the state says.
    Unknown,
    /// The six flags in RFLAGS positions (I64).
    Value(Val),
    /// `r = a + b`.
    Add {
        /// First addend.
        a: Val,
        /// Second addend.
        b: Val,
        /// Result.
        r: Val,
    },
    /// `r = a + b + carry`.
    Adc {
        /// Second addend.
        b: Val,
        /// Carry in, I8 0/1.
        carry: Val,
        /// Result.
        r: Val,
    },
    /// `r = a - b`.
    Sub {
        /// Minuend.
        a: Val,
        /// Subtrahend.
        b: Val,
        /// Result.
        r: Val,
    },
    /// `r = a - b - borrow`.
    Sbb {
        /// Minuend.
        a: Val,
        /// Subtrahend.
        b: Val,
        /// Borrow in, I8 0/1.
        borrow: Val,
        /// Result.
        r: Val,
    },
    /// Bitwise operation with result `r`.
    Logic {
        /// Result.
        r: Val,
    },
    /// `r = a + 1`; CF is kept (`Translator::carry_source`).
    Inc {
        /// Operand.
        a: Val,
        /// Result.
        r: Val,
    },
    /// `r = a - 1`; CF is kept.
    Dec {
        /// Operand.
        a: Val,
        /// Result.
        r: Val,
    },
    /// Another kind of the flag record with the type of the result: `r` and the record's source operand (the type of
    /// `r` or I64).
    Record {
        /// A kind of `rhea_x86_state::flags::kind`: SHL, SHR, MUL or BMI.
        kind: u32,
        /// Result.
        r: Val,
        /// Source operand.
        src: Val,
    },
    /// Floating-point comparison of lane 0 of `a` with `b` (UCOMISS and relatives).
    FloatCompare {
        /// S32 or S64.
        lane: Lane,
        /// First operand.
        a: Val,
        /// Second operand.
        b: Val,
        /// Whether quiet NaNs signal (COMISS).
        signalling: bool,
        /// Relation code (I32) as `Op::FRel` gives it.
        relation: Val,
    },
    /// Only CF is known: bit 0 of this I64. The flag record in the state has the rest.
    Carry(Val),
    /// Comparison whose relation code (I32, as `Op::FRel`) is known: FCOMI and relatives.
    Relation(Val),
}

impl Flags {
    /// Nothing known.
    pub const fn unknown() -> Self {
        Flags::Unknown
    }
}

/// `CcOp` number of `kind` at the width of integer type `ty`.
fn cc_op(kind: u32, ty: Type) -> u32 {
    kind * 4 + ty.bytes().trailing_zeros()
}

impl Translator<'_> {
    // ---- setting ----

    fn put_record(&mut self, kind: u32, ty: Type, dst: Val, src: Option<Val>) {
        let op = self.b.iconst(Type::I32, u64::from(cc_op(kind, ty)));
        self.b.put(slots::CC_OP, op);
        if let Some(src) = src {
            let src = if kind == kind::MUL { self.widen(src) } else { self.any64(src) };
            self.b.put(slots::CC_SRC, src);
        }
        // Last, so that the widened result is at hand when it is written to a register.
        let dst = self.widen(dst);
        self.b.put(slots::CC_DST, dst);
    }

    /// Flags of `r = a + b`.
    pub fn set_flags_add(&mut self, a: Val, b: Val, r: Val) {
        self.put_record(kind::ADD, self.b.ty(r), r, Some(b));
        self.flags = Flags::Add { a, b, r };
    }

    /// Flags of `r = a + b + carry` (I8 0/1).
    pub fn set_flags_adc(&mut self, b: Val, carry: Val, r: Val) {
        self.put_record(kind::ADC, self.b.ty(r), r, Some(b));
        let c = self.b.zext(Type::I64, carry);
        self.b.put(slots::CC_SRC2, c);
        self.flags = Flags::Adc { b, carry, r };
    }

    /// Flags of `r = a - b`.
    pub fn set_flags_sub(&mut self, a: Val, b: Val, r: Val) {
        self.put_record(kind::SUB, self.b.ty(r), r, Some(b));
        self.flags = Flags::Sub { a, b, r };
    }

    /// Flags of `r = a - b - borrow` (I8 0/1).
    pub fn set_flags_sbb(&mut self, a: Val, b: Val, borrow: Val, r: Val) {
        self.put_record(kind::SBB, self.b.ty(r), r, Some(b));
        let c = self.b.zext(Type::I64, borrow);
        self.b.put(slots::CC_SRC2, c);
        self.flags = Flags::Sbb { a, b, borrow, r };
    }

    /// Flags of a bitwise operation with result `r`.
    pub fn set_flags_logic(&mut self, r: Val) {
        self.put_record(kind::LOGIC, self.b.ty(r), r, None);
        self.flags = Flags::Logic { r };
    }

    /// Flags of `r = a + 1` (`up`) or `r = a - 1`; CF is kept, and so is the record it comes from.
    pub fn set_flags_inc_dec(&mut self, up: bool, a: Val, r: Val) {
        let op = cc_op(if up { kind::INC } else { kind::DEC }, self.b.ty(r));
        let record = self.b.get(slots::CC_OP);
        let record = self.b.and_imm(record, (1 << flags::INC_SHIFT) - 1);
        let inc = self.b.iconst(Type::I32, u64::from(op) << flags::INC_SHIFT);
        let record = self.b.or(record, inc);
        self.b.put(slots::CC_OP, record);
        if !matches!(self.flags, Flags::Inc { .. } | Flags::Dec { .. }) {
            self.carry_source = self.flags;
        }
        self.flags = if up { Flags::Inc { a, r } } else { Flags::Dec { a, r } };
        let r = self.widen(r);
        self.b.put(slots::CC_INC, r);
    }

    /// Flags by a kind of record that has no form of its own: SHL, SHR, MUL, BMI (`flags::kind`).
    pub fn set_flags_record(&mut self, kind: u32, r: Val, src: Val) {
        self.put_record(kind, self.b.ty(r), r, Some(src));
        self.flags = Flags::Record { kind, r, src };
    }

    /// CF is bit 0 of `bit` (I64), ZF stays; AF, SF, PF and OF are of no interest (bit tests). Stays clear of computing
    /// the flags: SHR's record keeps CF beside a result that gives ZF.
    pub fn set_carry_keep_zero(&mut self, bit: Val) {
        let result = match self.flags {
            Flags::Add { r, .. }
            | Flags::Adc { r, .. }
            | Flags::Sub { r, .. }
            | Flags::Sbb { r, .. }
            | Flags::Logic { r }
            | Flags::Inc { r, .. }
            | Flags::Dec { r, .. }
            | Flags::Record { r, .. } => Some(r),
            _ => None,
        };
        if let Some(r) = result {
            return self.set_flags_record(kind::SHR, r, bit);
        }
        let op = self.b.get(slots::CC_OP);
        if let Some(0) = self.b.as_const(op) {
            let value = self.flags_value();
            let value = self.b.deposit(value, bit, 0, 1);
            return self.set_flags_value(value);
        }
        // The operation whose result gives ZF: an INC or DEC since the record, or the record's own.
        let inc = self.b.bin_imm(Op::Shr, op, u64::from(flags::INC_SHIFT));
        let after_inc = self.b.icmp_imm(Cond::Ne, inc, 0);
        let op = self.b.select(after_inc, inc, op);
        let inc_result = self.b.get(slots::CC_INC);
        let dst = self.b.get(slots::CC_DST);
        let dst = self.b.select(after_inc, inc_result, dst);
        self.b.put(slots::CC_DST, dst);
        // A record of unknown kind: a value gets the bit deposited, any other becomes SHR's with the same width.
        let is_value = self.b.icmp_imm(Cond::LtU, op, 4);
        let width = self.b.and_imm(op, 3);
        let shr = self.b.add_imm(width, u64::from(kind::SHR * 4));
        let new_op = self.b.select(is_value, op, shr);
        let src = self.b.get(slots::CC_SRC);
        let value = self.b.deposit(src, bit, 0, 1);
        let new_src = self.b.select(is_value, value, bit);
        self.b.put(slots::CC_OP, new_op);
        self.b.put(slots::CC_SRC, new_src);
        self.flags = Flags::Carry(bit);
    }

    /// The six flags from their RFLAGS positions in `value` (I64; other bits are ignored).
    pub fn set_flags_value(&mut self, value: Val) {
        let op = self.b.iconst(Type::I32, 0);
        self.b.put(slots::CC_OP, op);
        self.b.put(slots::CC_SRC, value);
        self.flags = Flags::Value(value);
    }

    /// The six flags as constants.
    pub fn set_flags_const(&mut self, value: u64) {
        let v = self.c64(value);
        self.set_flags_value(v);
    }

    fn put_relation(&mut self, relation: Val) {
        // Relation codes: 0 greater, 1 less, 2 equal, 3 unordered. CF = bit 0, ZF = bit 1, PF = both.
        let r = self.b.zext(Type::I64, relation);
        let table = self.c64(relation_table());
        let scaled = self.b.bin_imm(Op::Shl, r, 3);
        let v = self.b.bin(Op::Shr, table, scaled);
        let v = self.b.and_imm(v, 0xff);
        let op = self.b.iconst(Type::I32, 0);
        self.b.put(slots::CC_OP, op);
        self.b.put(slots::CC_SRC, v);
    }

    /// Flags of a floating-point comparison: ZF, PF, CF from its relation, OF, SF, AF zero. Emits the `FRel`.
    pub fn set_flags_float_compare(&mut self, lane: Lane, a: Val, b: Val, signalling: bool) {
        let relation = self.b.frel(lane, signalling, a, b);
        self.put_relation(relation);
        self.flags = Flags::FloatCompare { lane, a, b, signalling, relation };
    }

    /// Flags of a comparison with known relation code (I32).
    pub fn set_flags_relation(&mut self, relation: Val) {
        self.put_relation(relation);
        self.flags = Flags::Relation(relation);
    }

    // ---- asking ----

    /// CF, PF, AF, ZF, SF, OF in RFLAGS positions (I64), other bits undefined unless the caller masks them.
    pub fn flags_value(&mut self) -> Val {
        if let Flags::Value(v) = self.flags {
            return v;
        }
        if matches!(self.flags, Flags::FloatCompare { .. } | Flags::Relation(_)) {
            return self.b.get(slots::CC_SRC);
        }
        let v = self.b.call(helpers::COMPUTE_FLAGS, helpers::info(helpers::COMPUTE_FLAGS), &[]);
        if self.flags == Flags::Unknown {
            self.flags = Flags::Value(v);
        }
        v
    }

    fn flag(&mut self, value: Val, flag: u64) -> Val {
        let bit = self.b.extract(value, flag.trailing_zeros(), 1);
        self.b.zext(Type::I8, bit)
    }

    fn not(&mut self, v: Val) -> Val {
        self.b.bin_imm(Op::Xor, v, 1)
    }

    /// CF as I8 0/1.
    pub fn carry(&mut self) -> Val {
        self.condition(ConditionCode::b)
    }

    /// Truth of condition code `cc`, I8 0/1.
    pub fn condition(&mut self, cc: ConditionCode) -> Val {
        let (base, inverted) = split(cc);
        match self.direct(base, inverted) {
            Some(v) => v,
            None => {
                let value = self.flags_value();
                let v = self.condition_of_value(value, base);
                if inverted { self.not(v) } else { v }
            }
        }
    }

    /// The condition as one comparison of operands, where the last operation allows.
    fn direct(&mut self, base: ConditionCode, inverted: bool) -> Option<Val> {
        use ConditionCode as C;
        let turn = |c: Cond| if inverted { c.invert() } else { c };
        match self.flags {
            Flags::Unknown | Flags::Value(_) => None,
            Flags::Carry(v) => (base == C::b).then(|| {
                let c = self.b.extract(v, 0, 1);
                let c = self.b.zext(Type::I8, c);
                if inverted { self.not(c) } else { c }
            }),
            Flags::Sub { a, b, r } => Some(self.of_difference(base, inverted, a, b, r)),
            Flags::Logic { r } => match base {
                C::b | C::o => Some(self.b.iconst(Type::I8, u64::from(inverted))),
                C::be | C::e => Some(self.b.icmp_imm(turn(Cond::Eq), r, 0)),
                C::l | C::s => Some(self.b.icmp_imm(turn(Cond::LtS), r, 0)),
                C::le => Some(self.b.icmp_imm(turn(Cond::LeS), r, 0)),
                _ => Some(self.parity(r, inverted)),
            },
            Flags::Add { a, b, r } => Some(self.of_sum(base, inverted, a, b, r)),
            Flags::Inc { a, r } | Flags::Dec { a, r } => {
                self.inc_dec(base, inverted, matches!(self.flags, Flags::Inc { .. }), a, r)
            }
            Flags::Adc { b, carry, r } => match base {
                C::b => {
                    let with = self.b.icmp(turn(Cond::LeU), r, b);
                    let without = self.b.icmp(turn(Cond::LtU), r, b);
                    Some(self.b.select(carry, with, without))
                }
                _ => self.of_result(base, inverted, r),
            },
            Flags::Sbb { a, b, borrow, r } => match base {
                C::b => {
                    let with = self.b.icmp(turn(Cond::LeU), a, b);
                    let without = self.b.icmp(turn(Cond::LtU), a, b);
                    Some(self.b.select(borrow, with, without))
                }
                _ => self.of_result(base, inverted, r),
            },
            Flags::Record { kind, r, src } => match (base, kind) {
                (C::b, kind::SHL) => {
                    let src = self.narrow(src, self.b.ty(r));
                    Some(self.b.icmp_imm(turn(Cond::LtS), src, 0))
                }
                (C::b, kind::MUL) | (C::o, kind::MUL) => Some(self.b.icmp_imm(turn(Cond::Ne), src, 0)),
                (C::b, _) => {
                    let c = self.b.and_imm(src, 1);
                    let c = self.b.zext(Type::I8, c);
                    Some(if inverted { self.not(c) } else { c })
                }
                (C::o, kind::BMI) => Some(self.b.iconst(Type::I8, u64::from(inverted))),
                _ => self.of_result(base, inverted, r),
            },
            Flags::FloatCompare { lane, a, b, signalling, .. } => {
                let pred = float_predicate(base, inverted);
                Some(match pred {
                    FloatCond::False => self.b.iconst(Type::I8, 0),
                    FloatCond::True => self.b.iconst(Type::I8, 1),
                    _ => self.b.ftest(lane, pred, signalling, a, b),
                })
            }
            Flags::Relation(v) => Some(match base {
                C::b => self.bit_test(v, 1, inverted),
                C::e | C::le => self.bit_test(v, 2, inverted),
                C::be => self.b.icmp_imm(turn(Cond::Ne), v, 0),
                C::p => self.b.icmp_imm(turn(Cond::Eq), v, 3),
                _ => self.b.iconst(Type::I8, u64::from(inverted)),
            }),
        }
    }

    /// CF after INC and DEC: that of the operation before them, whose record still stands.
    fn kept_carry(&mut self) -> Val {
        let now = std::mem::replace(&mut self.flags, self.carry_source);
        let carry = self.carry();
        self.carry_source = std::mem::replace(&mut self.flags, now);
        carry
    }

    /// Conditions after `r = a - b`.
    fn of_difference(&mut self, base: ConditionCode, inverted: bool, a: Val, b: Val, r: Val) -> Val {
        use ConditionCode as C;
        let turn = |c: Cond| if inverted { c.invert() } else { c };
        match base {
            C::b => self.b.icmp(turn(Cond::LtU), a, b),
            C::be => self.b.icmp(turn(Cond::LeU), a, b),
            C::e => self.b.icmp(turn(Cond::Eq), a, b),
            C::l => self.b.icmp(turn(Cond::LtS), a, b),
            C::le => self.b.icmp(turn(Cond::LeS), a, b),
            C::s => self.b.icmp_imm(turn(Cond::LtS), r, 0),
            C::p => self.parity(r, inverted),
            _ => {
                let x = self.b.xor(a, b);
                let y = self.b.xor(a, r);
                let z = self.b.and(x, y);
                self.b.icmp_imm(turn(Cond::LtS), z, 0)
            }
        }
    }

    /// Conditions after `r = a + b`.
    fn of_sum(&mut self, base: ConditionCode, inverted: bool, a: Val, b: Val, r: Val) -> Val {
        use ConditionCode as C;
        let turn = |c: Cond| if inverted { c.invert() } else { c };
        match base {
            C::b => self.b.icmp(turn(Cond::LtU), r, b),
            C::e => self.b.icmp_imm(turn(Cond::Eq), r, 0),
            C::s => self.b.icmp_imm(turn(Cond::LtS), r, 0),
            C::p => self.parity(r, inverted),
            C::be => {
                let c = self.b.icmp(Cond::LtU, r, b);
                self.or_zero(c, r, inverted)
            }
            _ => {
                // The sign of (a ^ r) & (b ^ r) is OF; with the sign of r it gives the true sign of the sum.
                let x = self.b.xor(a, r);
                let y = self.b.xor(b, r);
                let z = self.b.and(x, y);
                if base == C::o {
                    return self.b.icmp_imm(turn(Cond::LtS), z, 0);
                }
                let s = self.b.xor(z, r);
                if base == C::l {
                    return self.b.icmp_imm(turn(Cond::LtS), s, 0);
                }
                let less = self.b.icmp_imm(Cond::LtS, s, 0);
                self.or_zero(less, r, inverted)
            }
        }
    }

    /// Conditions after INC and DEC: the operand's distance from the edge gives the signed ones.
    fn inc_dec(&mut self, base: ConditionCode, inverted: bool, up: bool, a: Val, r: Val) -> Option<Val> {
        use ConditionCode as C;
        let turn = |c: Cond| if inverted { c.invert() } else { c };
        let sign = 1u64 << (self.b.ty(r).bits() - 1);
        Some(match base {
            C::b => {
                let carry = self.kept_carry();
                if inverted { self.not(carry) } else { carry }
            }
            C::be => {
                let carry = self.kept_carry();
                self.or_zero(carry, r, inverted)
            }
            C::o => self.b.icmp_imm(turn(Cond::Eq), r, if up { sign } else { sign - 1 }),
            // a + 1 < 0, a - 1 < 0 without overflow.
            C::l => self.b.icmp_imm(turn(Cond::LtS), a, if up { u64::MAX } else { 1 }),
            C::le => self.b.icmp_imm(turn(Cond::LtS), a, if up { 0 } else { 2 }),
            _ => return self.of_result(base, inverted, r),
        })
    }

    /// Conditions that depend on the result alone.
    fn of_result(&mut self, base: ConditionCode, inverted: bool, r: Val) -> Option<Val> {
        use ConditionCode as C;
        let turn = |c: Cond| if inverted { c.invert() } else { c };
        match base {
            C::e => Some(self.b.icmp_imm(turn(Cond::Eq), r, 0)),
            C::s => Some(self.b.icmp_imm(turn(Cond::LtS), r, 0)),
            C::p => Some(self.parity(r, inverted)),
            _ => None,
        }
    }

    /// `c` or `r = 0`, possibly inverted.
    fn or_zero(&mut self, c: Val, r: Val, inverted: bool) -> Val {
        let z = self.b.icmp_imm(Cond::Eq, r, 0);
        let v = self.b.or(c, z);
        if inverted { self.not(v) } else { v }
    }

    fn bit_test(&mut self, v: Val, bit: u64, inverted: bool) -> Val {
        let x = self.b.and_imm(v, bit);
        self.b.icmp_imm(if inverted { Cond::Eq } else { Cond::Ne }, x, 0)
    }

    /// PF of a result: even number of ones in its low byte.
    fn parity(&mut self, r: Val, inverted: bool) -> Val {
        let byte = self.b.zext(Type::I8, r);
        let byte = self.b.zext(Type::I32, byte);
        let ones = self.b.un(Op::Popcnt, byte);
        self.bit_test(ones, 1, !inverted)
    }

    /// A base condition from the six flags in RFLAGS positions.
    fn condition_of_value(&mut self, value: Val, base: ConditionCode) -> Val {
        use ConditionCode as C;
        match base {
            C::o => self.flag(value, flags::OF),
            C::b => self.flag(value, flags::CF),
            C::e => self.flag(value, flags::ZF),
            C::s => self.flag(value, flags::SF),
            C::p => self.flag(value, flags::PF),
            C::be => {
                let x = self.b.and_imm(value, flags::CF | flags::ZF);
                self.b.icmp_imm(Cond::Ne, x, 0)
            }
            _ => {
                // SF is bit 7 and OF bit 11: their difference comes to bit 7.
                let o = self.b.bin_imm(Op::Shr, value, 4);
                let x = self.b.xor(value, o);
                if base == C::l {
                    return self.flag(x, flags::SF);
                }
                let x = self.b.and_imm(x, flags::SF);
                let z = self.b.and_imm(value, flags::ZF);
                let x = self.b.or(x, z);
                self.b.icmp_imm(Cond::Ne, x, 0)
            }
        }
    }

    /// `v` truncated to `ty` if it is wider.
    pub fn narrow(&mut self, v: Val, ty: Type) -> Val {
        self.b.zext(ty, v)
    }
}

/// Flags (CF, PF, ZF) for each relation code, a byte each.
const fn relation_table() -> u64 {
    (flags::CF << 8) | (flags::ZF << 16) | ((flags::CF | flags::ZF | flags::PF) << 24)
}

/// The condition without its negation, and whether it was negated.
fn split(cc: ConditionCode) -> (ConditionCode, bool) {
    use ConditionCode as C;
    match cc {
        C::no => (C::o, true),
        C::ae => (C::b, true),
        C::ne => (C::e, true),
        C::a => (C::be, true),
        C::ns => (C::s, true),
        C::np => (C::p, true),
        C::ge => (C::l, true),
        C::g => (C::le, true),
        _ => (cc, false),
    }
}

/// The predicate on the compared operands for a condition after UCOMISS (CF: less or unordered, ZF: equal or
/// unordered, PF: unordered; OF and SF are zero).
fn float_predicate(base: ConditionCode, inverted: bool) -> FloatCond {
    use ConditionCode as C;
    match (base, inverted) {
        (C::b, false) => FloatCond::Nge,
        (C::b, true) => FloatCond::Ge,
        (C::e | C::le, false) => FloatCond::EqUnordered,
        (C::e | C::le, true) => FloatCond::NeOrdered,
        (C::be, false) => FloatCond::Ngt,
        (C::be, true) => FloatCond::Gt,
        (C::p, false) => FloatCond::Unordered,
        (C::p, true) => FloatCond::Ordered,
        (_, false) => FloatCond::False,
        (_, true) => FloatCond::True,
    }
}

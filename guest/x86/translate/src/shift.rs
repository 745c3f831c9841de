//! Shifts and rotates.

use iced_x86::{Mnemonic, OpKind};
use rhea_ir::{Cond, Op, Type, Val};
use rhea_x86_state::flags::{self, kind};

use crate::cc::Flags;
use crate::slots;
use crate::translator::Translator;

/// What a shift leaves for its flag record.
struct Shifted {
    kind: u32,
    r: Val,
    src: Val,
}

impl Translator<'_> {
    /// Shifts and rotates; false if the instruction is none.
    pub(crate) fn shifts(&mut self) -> bool {
        use Mnemonic as M;
        match self.insn.mnemonic() {
            M::Shl | M::Sal => self.shift(Op::Shl),
            M::Shr => self.shift(Op::Shr),
            M::Sar => self.shift(Op::Sar),
            M::Rol => self.rotate(Op::Rotl),
            M::Ror => self.rotate(Op::Rotr),
            M::Rcl => self.rotate_through_carry(true),
            M::Rcr => self.rotate_through_carry(false),
            M::Shld => self.double_shift(true),
            M::Shrd => self.double_shift(false),
            M::Shlx => self.shift_without_flags(Op::Shl),
            M::Shrx => self.shift_without_flags(Op::Shr),
            M::Sarx => self.shift_without_flags(Op::Sar),
            M::Rorx => self.rorx(),
            _ => return false,
        }
        true
    }

    /// The destination's value, and its address if it is in memory (checked for writing).
    pub(crate) fn read_destination(&mut self) -> (Val, Option<Val>) {
        if !self.is_memory(0) {
            return (self.read_operand(0), None);
        }
        let ty = self.operand_type(0);
        let addr = self.effective_address(ty.bytes(), true);
        (self.load_for_write(ty, addr), Some(addr))
    }

    /// Writes what [`Translator::read_destination`] read.
    pub(crate) fn write_destination(&mut self, addr: Option<Val>, v: Val) {
        match addr {
            Some(addr) => self.store(addr, v),
            None => self.write_operand(0, v),
        }
    }

    /// The shift count of operand `i`, masked to 5 bits (6 for 64-bit operands): a constant, or CL as I8.
    fn count(&mut self, i: u32, ty: Type) -> Result<u32, Val> {
        let mask = if ty == Type::I64 { 0x3f } else { 0x1f };
        if self.insn.op_kind(i) != OpKind::Register {
            return Ok(self.insn.immediate(i) as u32 & mask);
        }
        let v = self.read_operand(i);
        match self.b.as_const(v) {
            Some(c) => Ok(c as u32 & mask),
            None => Err(self.b.and_imm(v, u64::from(mask))),
        }
    }

    /// `v` shifted by 0..=31 (63) in its type; for I8 and I16, whose width such a count may exceed, by way of I32.
    fn shift_wide(&mut self, op: Op, v: Val, count: Val) -> Val {
        let ty = self.b.ty(v);
        if ty.bits() >= 32 {
            return self.b.bin(op, v, count);
        }
        let wide = if op == Op::Sar { self.b.sext(Type::I32, v) } else { self.b.zext(Type::I32, v) };
        let count = self.b.zext(Type::I32, count);
        let r = self.b.bin(op, wide, count);
        self.b.zext(ty, r)
    }

    fn shift_const(&mut self, op: Op, v: Val, count: u32) -> Val {
        let ty = self.b.ty(v);
        if count >= ty.bits() {
            if op != Op::Sar {
                return self.b.iconst(ty, 0);
            }
            return self.b.bin_imm(op, v, u64::from(ty.bits() - 1));
        }
        self.b.bin_imm(op, v, u64::from(count))
    }

    fn shift(&mut self, op: Op) {
        let ty = self.operand_type(0);
        let count = self.count(1, ty);
        if count == Ok(0) {
            // Memory is still touched, as a read-modify-write; registers of 32 bits are still zero-extended.
            let (a, addr) = self.read_destination();
            return self.write_destination(addr, a);
        }
        let kind = if op == Op::Shl { kind::SHL } else { kind::SHR };
        match count {
            Ok(n) => {
                let (a, addr) = self.read_destination();
                let src = self.shift_const(op, a, n - 1);
                let r = self.shift_const(op, a, n);
                self.write_destination(addr, r);
                self.set_flags_record(kind, r, src);
            }
            Err(n) => {
                let (a, addr) = self.read_destination();
                let r = self.shift_wide(op, a, n);
                // With count 0 this shifts by -1 modulo the width: nobody looks at it then.
                let less = self.b.add_imm(n, u64::MAX);
                let src = self.shift_wide(op, a, less);
                self.write_destination(addr, r);
                self.set_flags_unless_zero(n, Shifted { kind, r, src });
            }
        }
    }

    /// The flag record of a shift by a variable count: as it was when `count` is 0.
    fn set_flags_unless_zero(&mut self, count: Val, s: Shifted) {
        let zero = self.b.icmp_imm(Cond::Eq, count, 0);
        let width = self.b.ty(s.r).bytes().trailing_zeros();
        let op = self.b.iconst(Type::I32, u64::from(s.kind * 4 + width));
        let dst = self.widen(s.r);
        let src = self.any64(s.src);
        for (slot, new) in [(slots::CC_OP, op), (slots::CC_DST, dst), (slots::CC_SRC, src)] {
            let old = self.b.get(slot);
            let v = self.b.select(zero, old, new);
            self.b.put(slot, v);
        }
        self.flags = Flags::Unknown;
    }

    fn shift_without_flags(&mut self, op: Op) {
        let v = self.read_operand(1);
        let n = self.read_operand(2);
        let r = self.b.bin(op, v, n);
        self.write_operand(0, r);
    }

    fn rorx(&mut self) {
        let v = self.read_operand(1);
        let n = self.insn.immediate(2) & u64::from(self.b.ty(v).bits() - 1);
        let r = if n == 0 { v } else { self.b.bin_imm(Op::Rotr, v, n) };
        self.write_operand(0, r);
    }

    // ---- rotates ----

    fn rotate(&mut self, op: Op) {
        let ty = self.operand_type(0);
        let count = self.count(1, ty);
        let (a, addr) = self.read_destination();
        let (r, zero) = match count {
            Ok(0) => return self.write_destination(addr, a),
            Ok(n) => {
                let n = n & (ty.bits() - 1);
                let r = if n == 0 { a } else { self.b.bin_imm(op, a, u64::from(n)) };
                (r, None)
            }
            Err(n) => {
                let r = self.b.bin(op, a, n);
                (r, Some(self.b.icmp_imm(Cond::Eq, n, 0)))
            }
        };
        let before = self.flags_value();
        self.write_destination(addr, r);
        // CF is the bit that came round: the lowest after ROL, the highest after ROR. OF is CF xor the top bit, or
        // the difference of the two top bits.
        let w = self.any64(r);
        let top = ty.bits() - 1;
        let carry = self.b.extract(w, if op == Op::Rotl { 0 } else { top }, 1);
        let other = self.b.extract(w, if op == Op::Rotl { top } else { top - 1 }, 1);
        let overflow = self.b.xor(carry, other);
        let f = self.b.deposit(before, carry, 0, 1);
        let f = self.b.deposit(f, overflow, flags::OF.trailing_zeros(), 1);
        let f = match zero {
            Some(z) => self.b.select(z, before, f),
            None => f,
        };
        self.set_flags_value(f);
    }

    /// RCL and RCR: the register and CF as one value of width + 1 bits.
    fn rotate_through_carry(&mut self, left: bool) {
        let ty = self.operand_type(0);
        let count = self.count(1, ty);
        let before = self.flags_value();
        let (a, addr) = self.read_destination();
        if count == Ok(0) {
            return self.write_destination(addr, a);
        }
        let n = match count {
            Ok(n) => self.b.iconst(Type::I32, u64::from(n)),
            Err(n) => self.b.zext(Type::I32, n),
        };
        let what = u64::from(ty.bytes()) | u64::from(left) << 8;
        let what = self.b.iconst(Type::I32, what);
        let w = self.widen(a);
        // One helper gives the value, the other the flags; both are pure.
        let r = self.helper(crate::helpers::RCX_VALUE, &[w, n, before, what]);
        let f = self.helper(crate::helpers::RCX_FLAGS, &[w, n, before, what]);
        let r = self.b.zext(ty, r);
        self.write_destination(addr, r);
        self.set_flags_value(f);
    }

    // ---- double shifts ----

    fn double_shift(&mut self, left: bool) {
        let ty = self.operand_type(0);
        let count = self.count(2, ty);
        let b = self.read_operand(1);
        let (a, addr) = self.read_destination();
        if count == Ok(0) {
            return self.write_destination(addr, a);
        }
        let n = match count {
            Ok(n) => self.b.iconst(Type::I8, u64::from(n)),
            Err(n) => n,
        };
        let less = self.b.add_imm(n, u64::MAX);
        let r = self.double_shifted(left, a, b, n);
        let src = self.double_shifted(left, a, b, less);
        let kind = if left { kind::SHL } else { kind::SHR };
        match count {
            Ok(_) => {
                self.write_destination(addr, r);
                self.set_flags_record(kind, r, src);
            }
            Err(n) => {
                // Count 0 leaves the destination: the shifts below give `a` or undefined bits, so choose.
                let zero = self.b.icmp_imm(Cond::Eq, n, 0);
                let r = self.b.select(zero, a, r);
                self.write_destination(addr, r);
                self.set_flags_unless_zero(n, Shifted { kind, r, src });
            }
        }
    }

    /// Upper (left) or lower (right) half of a:b or b:a shifted by `n` (I8; 1..=31 or 63, and 0 for 16 bits).
    fn double_shifted(&mut self, left: bool, a: Val, b: Val, n: Val) -> Val {
        let ty = self.b.ty(a);
        match ty {
            Type::I16 => {
                // a:b:a (left) or a:b:a upward (right) in 64 bits: counts above 16 bring the destination round again,
                // which the architecture leaves undefined.
                let (wa, wb) = (self.any64(a), self.any64(b));
                let n = self.b.zext(Type::I64, n);
                if left {
                    let low = self.b.extract(wa, 0, 16);
                    let mid = self.b.deposit(low, wb, 16, 16);
                    let all = self.b.deposit(mid, wa, 32, 16);
                    let s = self.b.bin(Op::Shl, all, n);
                    let s = self.b.bin_imm(Op::Shr, s, 32);
                    self.b.zext(ty, s)
                } else {
                    let low = self.b.extract(wa, 0, 16);
                    let mid = self.b.deposit(low, wb, 16, 16);
                    let all = self.b.deposit(mid, wa, 32, 16);
                    let s = self.b.bin(Op::Shr, all, n);
                    self.b.zext(ty, s)
                }
            }
            Type::I32 => {
                let (wa, wb) = (self.any64(a), self.any64(b));
                let n = self.b.zext(Type::I64, n);
                if left {
                    let low = self.b.extract(wb, 0, 32);
                    let all = self.b.deposit(low, wa, 32, 32);
                    let s = self.b.bin(Op::Shl, all, n);
                    let s = self.b.bin_imm(Op::Shr, s, 32);
                    self.b.zext(ty, s)
                } else {
                    let low = self.b.extract(wa, 0, 32);
                    let all = self.b.deposit(low, wb, 32, 32);
                    let s = self.b.bin(Op::Shr, all, n);
                    self.b.zext(ty, s)
                }
            }
            _ => {
                // (b >> 1) >> (63 - n) is b >> (64 - n) and right for n = 0 too.
                let (near, far) = if left { (Op::Shl, Op::Shr) } else { (Op::Shr, Op::Shl) };
                let n = self.b.zext(Type::I64, n);
                let x = self.b.bin(near, a, n);
                let half = self.b.bin_imm(far, b, 1);
                let rest = self.b.bin_imm(Op::Xor, n, 63);
                let y = self.b.bin(far, half, rest);
                self.b.or(x, y)
            }
        }
    }
}

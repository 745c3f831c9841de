//! Bit instructions: tests, scans, counts, and the BMI, ADX and CRC32 extensions.

use iced_x86::{Mnemonic, OpKind};
use rhea_ir::{Cond, Op, Rmw, Type, Val};
use rhea_x86_state::flags::{self, kind};
use rhea_x86_state::state::gpr;

use crate::slots;
use crate::translator::Translator;

/// What a bit test does to the bit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum BitAction {
    Test,
    Set,
    Reset,
    Complement,
}

impl Translator<'_> {
    /// Bit instructions; false if the instruction is none.
    pub(crate) fn bits(&mut self) -> bool {
        use Mnemonic as M;
        match self.insn.mnemonic() {
            M::Bt => self.bit_test_insn(BitAction::Test),
            M::Bts => self.bit_test_insn(BitAction::Set),
            M::Btr => self.bit_test_insn(BitAction::Reset),
            M::Btc => self.bit_test_insn(BitAction::Complement),
            M::Bsf => self.bit_scan(Op::Ctz),
            M::Bsr => self.bit_scan(Op::Clz),
            M::Tzcnt => self.count_zeros(Op::Ctz),
            M::Lzcnt => self.count_zeros(Op::Clz),
            M::Popcnt => self.popcnt(),
            M::Andn => self.andn(),
            M::Bextr => self.bextr(),
            M::Blsi | M::Blsr | M::Blsmsk => self.lowest_bit(),
            M::Bzhi => self.bzhi(),
            M::Pdep => self.deposit_extract(Op::Pdep),
            M::Pext => self.deposit_extract(Op::Pext),
            M::Crc32 => self.crc32(),
            M::Adcx => self.add_with(flags::CF),
            M::Adox => self.add_with(flags::OF),
            _ => return false,
        }
        true
    }

    fn bit_test_insn(&mut self, action: BitAction) {
        let ty = self.operand_type(0);
        let bits = u64::from(ty.bits());
        let immediate = self.insn.op_kind(1) != OpKind::Register;
        let index = self.read_operand(1);
        if !self.is_memory(0) {
            let index = self.b.zext(ty, index);
            let index = self.b.and_imm(index, bits - 1);
            let a = self.read_operand(0);
            self.bit_flags(a, index);
            if action != BitAction::Test {
                let r = self.bit_change(action, a, index);
                self.write_operand(0, r);
            }
            return;
        }
        // A register index reaches any bit of the bit string: its upper part moves the address.
        let mut place = self.place();
        let within = if immediate {
            self.b.iconst(ty, self.insn.immediate(1) & (bits - 1))
        } else {
            let wide = self.b.sext(Type::I64, index);
            let step = self.b.bin_imm(Op::Sar, wide, u64::from(bits.trailing_zeros()));
            let bytes = self.b.bin_imm(Op::Shl, step, u64::from(ty.bytes().trailing_zeros()));
            let sum = self.b.add(place.offset, bytes);
            let width = self.address_bits();
            place.offset = self.wrap(sum, width);
            self.b.and_imm(index, bits - 1)
        };
        let addr = self.linear(place, ty.bytes(), action != BitAction::Test);
        if action == BitAction::Test {
            let a = self.load(ty, addr);
            return self.bit_flags(a, within);
        }
        if !self.insn.has_lock_prefix() {
            let a = self.load_for_write(ty, addr);
            let r = self.bit_change(action, a, within);
            self.store(addr, r);
            return self.bit_flags(a, within);
        }
        let one = self.b.iconst(ty, 1);
        let mask = self.b.bin(Op::Shl, one, within);
        let (rmw, operand) = match action {
            BitAction::Set | BitAction::Test => (Rmw::Or, mask),
            BitAction::Reset => (Rmw::And, self.b.un(Op::Not, mask)),
            BitAction::Complement => (Rmw::Xor, mask),
        };
        let mem = self.mem;
        let a = self.b.atomic_rmw(rmw, addr, operand, mem);
        self.bit_flags(a, within);
    }

    fn bit_change(&mut self, action: BitAction, a: Val, index: Val) -> Val {
        let one = self.b.iconst(self.b.ty(a), 1);
        let mask = self.b.bin(Op::Shl, one, index);
        match action {
            BitAction::Test => a,
            BitAction::Set => self.b.or(a, mask),
            BitAction::Reset => self.b.bin(Op::AndNot, a, mask),
            BitAction::Complement => self.b.xor(a, mask),
        }
    }

    /// CF is bit `index` of `a`; ZF is unchanged and the others are undefined.
    fn bit_flags(&mut self, a: Val, index: Val) {
        let shifted = self.b.bin(Op::Shr, a, index);
        let bit = self.any64(shifted);
        self.set_carry_keep_zero(bit);
    }

    /// BSF and BSR: of zero, ZF is set and the destination stays as it was.
    fn bit_scan(&mut self, op: Op) {
        let ty = self.operand_type(0);
        let v = self.read_operand(1);
        let zero = self.b.icmp_imm(Cond::Eq, v, 0);
        let n = self.b.un(op, v);
        let n = if op == Op::Clz { self.b.bin_imm(Op::Xor, n, u64::from(ty.bits() - 1)) } else { n };
        let part = crate::operand::gpr_part(self.register(0));
        let index = part.map_or(0, |p| p.index);
        let before = self.gpr(index);
        // A 32-bit destination that stays keeps its upper half.
        let after = match ty {
            Type::I64 => n,
            Type::I32 => self.widen(n),
            _ => {
                let w = self.any64(n);
                self.b.deposit(before, w, 0, 16)
            }
        };
        let r = self.b.select(zero, before, after);
        self.set_gpr(index, r);
        // ZF by the source; the rest, undefined, as after a bitwise operation.
        self.set_flags_logic(v);
    }

    /// TZCNT and LZCNT on a processor without them: BSF and BSR.
    pub(crate) fn scan_for_count(&mut self) {
        let op = if self.insn.mnemonic() == Mnemonic::Tzcnt { Op::Ctz } else { Op::Clz };
        self.bit_scan(op);
    }

    /// TZCNT and LZCNT: CF for a zero source, ZF for a zero result.
    fn count_zeros(&mut self, op: Op) {
        let v = self.read_operand(1);
        let n = self.b.un(op, v);
        let carry = self.b.icmp_imm(Cond::Eq, v, 0);
        let carry = self.b.zext(Type::I64, carry);
        self.set_flags_record(kind::BMI, n, carry);
        self.write_operand(0, n);
    }

    fn popcnt(&mut self) {
        let v = self.read_operand(1);
        let n = self.b.un(Op::Popcnt, v);
        let zero = self.b.icmp_imm(Cond::Eq, v, 0);
        let zero = self.b.zext(Type::I64, zero);
        let f = self.b.bin_imm(Op::Shl, zero, u64::from(flags::ZF.trailing_zeros()));
        self.set_flags_value(f);
        self.write_operand(0, n);
    }

    fn andn(&mut self) {
        let a = self.read_operand(1);
        let b = self.read_operand(2);
        let r = self.b.bin(Op::AndNot, b, a);
        self.set_flags_logic(r);
        self.write_operand(0, r);
    }

    fn bextr(&mut self) {
        let ty = self.operand_type(0);
        let bits = u64::from(ty.bits());
        let v = self.read_operand(1);
        let control = self.read_operand(2);
        let control = self.any64(control);
        let start = self.b.extract(control, 0, 8);
        let len = self.b.extract(control, 8, 8);
        // Starts and lengths beyond the width give zero and everything.
        let wide = self.widen(v);
        let shifted = self.b.bin(Op::Shr, wide, start);
        let beyond = self.b.icmp_imm(Cond::GeU, start, bits);
        let zero = self.c64(0);
        let shifted = self.b.select(beyond, zero, shifted);
        let ones = self.c64(u64::MAX);
        let mask = self.b.bin(Op::Shl, ones, len);
        let cut = self.b.bin(Op::AndNot, shifted, mask);
        let all = self.b.icmp_imm(Cond::GeU, len, 64);
        let r = self.b.select(all, shifted, cut);
        let r = self.b.zext(ty, r);
        let no_carry = self.c64(0);
        self.set_flags_record(kind::BMI, r, no_carry);
        self.write_operand(0, r);
    }

    fn lowest_bit(&mut self) {
        let v = self.read_operand(1);
        let less = self.b.add_imm(v, u64::MAX);
        let zero = self.b.icmp_imm(Cond::Eq, v, 0);
        let (r, carry) = match self.insn.mnemonic() {
            Mnemonic::Blsi => {
                let neg = self.b.un(Op::Neg, v);
                let carry = self.b.bin_imm(Op::Xor, zero, 1);
                (self.b.and(v, neg), carry)
            }
            Mnemonic::Blsr => (self.b.and(v, less), zero),
            _ => (self.b.xor(v, less), zero),
        };
        let carry = self.b.zext(Type::I64, carry);
        self.set_flags_record(kind::BMI, r, carry);
        self.write_operand(0, r);
    }

    fn bzhi(&mut self) {
        let ty = self.operand_type(0);
        let bits = u64::from(ty.bits());
        let v = self.read_operand(1);
        let index = self.read_operand(2);
        let index = self.any64(index);
        let n = self.b.extract(index, 0, 8);
        let over = self.b.icmp_imm(Cond::GeU, n, bits);
        let ones = self.c64(u64::MAX);
        let mask = self.b.bin(Op::Shl, ones, n);
        let mask = self.b.zext(ty, mask);
        let cut = self.b.bin(Op::AndNot, v, mask);
        let r = self.b.select(over, v, cut);
        // CF: the index is beyond the last bit.
        let carry = self.b.icmp_imm(Cond::GtU, n, bits - 1);
        let carry = self.b.zext(Type::I64, carry);
        self.set_flags_record(kind::BMI, r, carry);
        self.write_operand(0, r);
    }

    fn deposit_extract(&mut self, op: Op) {
        let v = self.read_operand(1);
        let mask = self.read_operand(2);
        let r = self.b.bin(op, v, mask);
        self.write_operand(0, r);
    }

    fn crc32(&mut self) {
        let data = self.read_operand(1);
        let acc = self.read_operand(0);
        let acc = self.b.zext(Type::I32, acc);
        let r = self.b.op2(Op::Crc32c, Type::I32, rhea_ir::Lane::None, 0, acc, data, 0);
        // A 64-bit destination is zero-extended all the same.
        if let Some(part) = crate::operand::gpr_part(self.register(0)) {
            self.set_gpr(part.index, r);
        }
    }

    /// ADCX and ADOX: addition with and into one flag only.
    fn add_with(&mut self, flag: u64) {
        let position = flag.trailing_zeros();
        let b = self.read_operand(1);
        let a = self.read_operand(0);
        let before = self.flags_value();
        let ty = self.b.ty(a);
        let c = self.b.extract(before, position, 1);
        let c = self.b.zext(ty, c);
        let s = self.b.add(a, b);
        let r = self.b.add(s, c);
        let first = self.b.icmp(Cond::LtU, s, a);
        let second = self.b.icmp(Cond::LtU, r, s);
        let carry = self.b.or(first, second);
        let carry = self.b.zext(Type::I64, carry);
        let f = self.b.deposit(before, carry, position, 1);
        self.set_flags_value(f);
        self.write_operand(0, r);
    }

    /// RCX, ECX or CX by the instruction's address width, as I64.
    pub(crate) fn counter(&mut self, bits: u32) -> Val {
        let rcx = self.gpr(gpr::RCX);
        self.wrap(rcx, bits)
    }

    /// Writes RCX, ECX or CX from an I64.
    pub(crate) fn set_counter(&mut self, bits: u32, v: Val) {
        self.set_index_register(gpr::RCX, bits, v);
    }

    /// Writes the low `bits` of general register `index` as an address-size write does.
    pub(crate) fn set_index_register(&mut self, index: usize, bits: u32, v: Val) {
        match bits {
            64 => self.b.put(slots::gpr(index), v),
            32 => {
                let v = self.wrap(v, 32);
                self.b.put(slots::gpr(index), v);
            }
            _ => {
                let old = self.gpr(index);
                let new = self.b.deposit(old, v, 0, 16);
                self.b.put(slots::gpr(index), new);
            }
        }
    }
}

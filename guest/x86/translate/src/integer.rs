//! Integer instructions: the dispatcher, moves and arithmetic.

use iced_x86::{Mnemonic, OpKind, Register};
use rhea_ir::{Cond, Exit, Op, Rmw, Target, Type, Val};
use rhea_x86_state::flags;
use rhea_x86_state::state::gpr;

use crate::helpers;
use crate::operand::{GprPart, gpr_part};
use crate::reasons;
use crate::translator::Translator;

/// Two-operand arithmetic that reads and writes its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alu {
    Add,
    Adc,
    Sub,
    Sbb,
    And,
    Or,
    Xor,
}

impl Translator<'_> {
    /// Translates the instruction at hand if it is one of these; false if it is not known here.
    pub(crate) fn integer(&mut self) -> bool {
        use Mnemonic as M;
        match self.insn.mnemonic() {
            M::Mov => self.mov(),
            M::Movzx => self.mov_extended(false),
            M::Movsx | M::Movsxd => self.mov_extended(true),
            M::Lea => self.lea(),
            M::Add => self.alu(Alu::Add),
            M::Adc => self.alu(Alu::Adc),
            M::Sub => self.alu(Alu::Sub),
            M::Sbb => self.alu(Alu::Sbb),
            M::And => self.alu(Alu::And),
            M::Or => self.alu(Alu::Or),
            M::Xor => self.alu(Alu::Xor),
            M::Cmp => self.cmp(),
            M::Test => self.test(),
            M::Inc => self.inc_dec_insn(true),
            M::Dec => self.inc_dec_insn(false),
            M::Neg => self.neg(),
            M::Not => self.not_insn(),
            M::Xchg => self.xchg(),
            M::Xadd => self.xadd(),
            M::Cmpxchg => self.cmpxchg(),
            M::Cmpxchg8b => self.cmpxchg8b(),
            M::Cmpxchg16b => self.cmpxchg16b(),
            M::Bswap => self.bswap(),
            M::Movbe => self.movbe(),
            M::Cbw | M::Cwde | M::Cdqe => self.sign_extend_accumulator(),
            M::Cwd | M::Cdq | M::Cqo => self.sign_to_rdx(),
            M::Lahf => self.lahf(),
            M::Sahf => self.sahf(),
            M::Clc => self.set_carry(Some(false)),
            M::Stc => self.set_carry(Some(true)),
            M::Cmc => self.set_carry(None),
            M::Cld => self.set_direction(0),
            M::Std => self.set_direction(1),
            M::Aaa => self.bcd(helpers::AAA),
            M::Aas => self.bcd(helpers::AAS),
            M::Daa => self.bcd(helpers::DAA),
            M::Das => self.bcd(helpers::DAS),
            M::Aad => self.aad(),
            M::Aam => self.aam(),
            M::Salc => self.salc(),
            M::Xlatb => self.xlat(),
            M::Bound => self.bound(),
            M::Nop
            | M::Reservednop
            | M::Pause
            | M::Endbr32
            | M::Endbr64
            | M::Rdsspd
            | M::Rdsspq
            | M::Cldemote => {}
            M::Prefetchnta
            | M::Prefetcht0
            | M::Prefetcht1
            | M::Prefetcht2
            | M::Prefetch
            | M::Prefetchw
            | M::Prefetchwt1 => {}
            M::Lfence | M::Sfence => {}
            M::Mfence => self.b.fence(),
            _ => return self.setcc_cmov() || self.more_integer(),
        }
        true
    }

    /// The families that live in other modules.
    fn more_integer(&mut self) -> bool {
        self.branches()
            || self.shifts()
            || self.products()
            || self.bits()
            || self.stack()
            || self.strings()
            || self.system()
    }

    /// Retries the instruction at hand: another processor changed memory between a load and its compare-and-swap.
    pub(crate) fn retry_if(&mut self, cond: Val) {
        let exit = if self.single() {
            Exit::Leave { reason: reasons::RESUME, pc: Some(self.pc) }
        } else {
            Exit::Jump(Target::Static(self.pc))
        };
        self.b.exit_if(cond, exit);
    }

    // ---- moves ----

    fn mov(&mut self) {
        let (to, from) = (self.insn.op0_register(), self.insn.op1_register());
        if self.insn.op0_kind() == OpKind::Register && !to.is_gpr()
            || from != Register::None && !from.is_gpr()
        {
            return self.mov_special();
        }
        let v = self.read_operand(1);
        let v = self.narrow(v, self.operand_type(0));
        self.write_operand(0, v);
    }

    fn mov_extended(&mut self, signed: bool) {
        let ty = self.operand_type(0);
        let v = self.read_operand(1);
        let v = if signed { self.b.sext(ty, v) } else { self.b.zext(ty, v) };
        self.write_operand(0, v);
    }

    fn lea(&mut self) {
        let v = self.memory_offset();
        let ty = self.operand_type(0);
        let v = self.b.zext(ty, v);
        self.write_operand(0, v);
    }

    fn setcc_cmov(&mut self) -> bool {
        let insn = self.insn;
        let cc = insn.condition_code();
        if cc == iced_x86::ConditionCode::None {
            return false;
        }
        if insn.code().is_jcc_short_or_near() {
            return false;
        }
        use Mnemonic as M;
        match insn.mnemonic() {
            M::Seta
            | M::Setae
            | M::Setb
            | M::Setbe
            | M::Sete
            | M::Setg
            | M::Setge
            | M::Setl
            | M::Setle
            | M::Setne
            | M::Setno
            | M::Setnp
            | M::Setns
            | M::Seto
            | M::Setp
            | M::Sets => {
                let v = self.condition(cc);
                self.write_operand(0, v);
                true
            }
            M::Cmova
            | M::Cmovae
            | M::Cmovb
            | M::Cmovbe
            | M::Cmove
            | M::Cmovg
            | M::Cmovge
            | M::Cmovl
            | M::Cmovle
            | M::Cmovne
            | M::Cmovno
            | M::Cmovnp
            | M::Cmovns
            | M::Cmovo
            | M::Cmovp
            | M::Cmovs => {
                // The source is read whatever the condition.
                let new = self.read_operand(1);
                let old = self.read_operand(0);
                let c = self.condition(cc);
                let v = self.b.select(c, new, old);
                self.write_operand(0, v);
                true
            }
            _ => false,
        }
    }

    fn bswap(&mut self) {
        let v = self.read_operand(0);
        // On a 16-bit register the result is undefined; zero is what processors give.
        let r = if self.b.ty(v) == Type::I16 { self.b.iconst(Type::I16, 0) } else { self.b.un(Op::Bswap, v) };
        self.write_operand(0, r);
    }

    fn movbe(&mut self) {
        let v = self.read_operand(1);
        let v = self.b.un(Op::Bswap, v);
        self.write_operand(0, v);
    }

    fn sign_extend_accumulator(&mut self) {
        let (from, to) = match self.insn.mnemonic() {
            Mnemonic::Cbw => (Type::I8, Type::I16),
            Mnemonic::Cwde => (Type::I16, Type::I32),
            _ => (Type::I32, Type::I64),
        };
        let v = self.gpr_low(gpr::RAX, from);
        let v = self.b.sext(to, v);
        self.set_gpr(gpr::RAX, v);
    }

    fn sign_to_rdx(&mut self) {
        let ty = match self.insn.mnemonic() {
            Mnemonic::Cwd => Type::I16,
            Mnemonic::Cdq => Type::I32,
            _ => Type::I64,
        };
        let v = self.gpr_low(gpr::RAX, ty);
        let s = self.b.bin_imm(Op::Sar, v, u64::from(ty.bits() - 1));
        self.set_gpr(gpr::RDX, s);
    }

    // ---- arithmetic ----

    /// Result and flags of `a op b`; `carry` is CF before, for ADC and SBB.
    fn compute(&mut self, op: Alu, a: Val, b: Val, carry: Option<Val>) -> Val {
        match op {
            Alu::Add => self.b.add(a, b),
            Alu::Sub => self.b.sub(a, b),
            Alu::And => self.b.and(a, b),
            Alu::Or => self.b.or(a, b),
            Alu::Xor => self.b.xor(a, b),
            Alu::Adc | Alu::Sbb => {
                let c = carry.unwrap_or_else(|| self.b.iconst(Type::I8, 0));
                let c = self.b.zext(self.b.ty(a), c);
                if op == Alu::Adc {
                    let s = self.b.add(a, b);
                    self.b.add(s, c)
                } else {
                    let s = self.b.sub(a, b);
                    self.b.sub(s, c)
                }
            }
        }
    }

    fn set_alu_flags(&mut self, op: Alu, a: Val, b: Val, r: Val, carry: Option<Val>) {
        match (op, carry) {
            (Alu::Add, _) => self.set_flags_add(a, b, r),
            (Alu::Sub, _) => self.set_flags_sub(a, b, r),
            (Alu::Adc, Some(c)) => self.set_flags_adc(b, c, r),
            (Alu::Sbb, Some(c)) => self.set_flags_sbb(a, b, c, r),
            _ => self.set_flags_logic(r),
        }
    }

    fn same_registers(&self) -> bool {
        self.insn.op0_kind() == OpKind::Register
            && self.insn.op1_kind() == OpKind::Register
            && self.insn.op0_register() == self.insn.op1_register()
    }

    fn alu(&mut self, op: Alu) {
        let carry = matches!(op, Alu::Adc | Alu::Sbb).then(|| self.carry());
        if self.is_memory(0) {
            return self.alu_memory(op, carry);
        }
        let ty = self.operand_type(0);
        if self.same_registers() && matches!(op, Alu::Xor | Alu::Sub | Alu::Sbb) {
            let zero = self.b.iconst(ty, 0);
            let r = self.compute(op, zero, zero, carry);
            self.set_alu_flags(if op == Alu::Sbb { op } else { Alu::Xor }, zero, zero, r, carry);
            return self.write_operand(0, r);
        }
        let b = self.read_operand_as(1, ty);
        let a = self.read_operand(0);
        let r = if self.same_registers() && matches!(op, Alu::And | Alu::Or) {
            a
        } else {
            self.compute(op, a, b, carry)
        };
        self.set_alu_flags(op, a, b, r, carry);
        self.write_operand(0, r);
    }

    fn alu_memory(&mut self, op: Alu, carry: Option<Val>) {
        let ty = self.operand_type(0);
        let b = self.read_operand_as(1, ty);
        let addr = self.effective_address(ty.bytes(), true);
        if !self.insn.has_lock_prefix() {
            let a = self.load_for_write(ty, addr);
            let r = self.compute(op, a, b, carry);
            self.store(addr, r);
            return self.set_alu_flags(op, a, b, r, carry);
        }
        let rmw = match op {
            Alu::Add => Some(Rmw::Add),
            Alu::Sub => Some(Rmw::Sub),
            Alu::And => Some(Rmw::And),
            Alu::Or => Some(Rmw::Or),
            Alu::Xor => Some(Rmw::Xor),
            Alu::Adc | Alu::Sbb => None,
        };
        let mem = self.mem;
        let (a, r) = match rmw {
            Some(rmw) => {
                let a = self.b.atomic_rmw(rmw, addr, b, mem);
                let r = self.compute(op, a, b, carry);
                (a, r)
            }
            None => {
                let a = self.load_for_write(ty, addr);
                let r = self.compute(op, a, b, carry);
                self.swap_or_retry(addr, a, r);
                (a, r)
            }
        };
        self.set_alu_flags(op, a, b, r, carry);
    }

    /// Stores `new` if memory still holds `old`, else starts the instruction again.
    fn swap_or_retry(&mut self, addr: Val, old: Val, new: Val) {
        let mem = self.mem;
        let seen = self.b.atomic_cas(addr, old, new, mem);
        let lost = self.b.icmp(Cond::Ne, seen, old);
        self.retry_if(lost);
    }

    fn cmp(&mut self) {
        let ty = self.operand_type(0);
        let a = self.read_operand(0);
        let b = self.read_operand_as(1, ty);
        let r = self.b.sub(a, b);
        self.set_flags_sub(a, b, r);
    }

    fn test(&mut self) {
        let ty = self.operand_type(0);
        let a = self.read_operand(0);
        let r = if self.same_registers() {
            a
        } else {
            let b = self.read_operand_as(1, ty);
            self.b.and(a, b)
        };
        self.set_flags_logic(r);
    }

    fn inc_dec_insn(&mut self, up: bool) {
        let ty = self.operand_type(0);
        let step = if up { 1 } else { u64::MAX };
        if !self.is_memory(0) {
            let a = self.read_operand(0);
            let r = self.b.add_imm(a, step);
            self.set_flags_inc_dec(up, a, r);
            return self.write_operand(0, r);
        }
        let addr = self.effective_address(ty.bytes(), true);
        let mem = self.mem;
        let (a, r) = if self.insn.has_lock_prefix() {
            let one = self.b.iconst(ty, step);
            let a = self.b.atomic_rmw(Rmw::Add, addr, one, mem);
            (a, self.b.add(a, one))
        } else {
            let a = self.load_for_write(ty, addr);
            let r = self.b.add_imm(a, step);
            self.store(addr, r);
            (a, r)
        };
        self.set_flags_inc_dec(up, a, r);
    }

    fn neg(&mut self) {
        let ty = self.operand_type(0);
        let zero = self.b.iconst(ty, 0);
        if !self.is_memory(0) {
            let a = self.read_operand(0);
            let r = self.b.un(Op::Neg, a);
            self.set_flags_sub(zero, a, r);
            return self.write_operand(0, r);
        }
        let addr = self.effective_address(ty.bytes(), true);
        let a = self.load_for_write(ty, addr);
        let r = self.b.un(Op::Neg, a);
        if self.insn.has_lock_prefix() {
            self.swap_or_retry(addr, a, r);
        } else {
            self.store(addr, r);
        }
        self.set_flags_sub(zero, a, r);
    }

    fn not_insn(&mut self) {
        let ty = self.operand_type(0);
        if !self.is_memory(0) {
            let a = self.read_operand(0);
            let r = self.b.un(Op::Not, a);
            return self.write_operand(0, r);
        }
        let addr = self.effective_address(ty.bytes(), true);
        if self.insn.has_lock_prefix() {
            let ones = self.b.iconst(ty, u64::MAX);
            let mem = self.mem;
            self.b.atomic_rmw(Rmw::Xor, addr, ones, mem);
        } else {
            let a = self.load_for_write(ty, addr);
            let r = self.b.un(Op::Not, a);
            self.store(addr, r);
        }
    }

    fn xchg(&mut self) {
        if self.is_memory(0) || self.is_memory(1) {
            let reg = u32::from(self.is_memory(0));
            let v = self.read_operand(reg);
            let addr = self.effective_address(self.b.ty(v).bytes(), true);
            let mem = self.mem;
            let old = self.b.atomic_rmw(Rmw::Xchg, addr, v, mem);
            return self.write_operand(reg, old);
        }
        let a = self.read_operand(0);
        let b = self.read_operand(1);
        self.write_operand(0, b);
        self.write_operand(1, a);
    }

    fn xadd(&mut self) {
        let ty = self.operand_type(0);
        let b = self.read_operand(1);
        let (a, r);
        if self.is_memory(0) {
            let addr = self.effective_address(ty.bytes(), true);
            if self.insn.has_lock_prefix() {
                let mem = self.mem;
                a = self.b.atomic_rmw(Rmw::Add, addr, b, mem);
                r = self.b.add(a, b);
            } else {
                a = self.load_for_write(ty, addr);
                r = self.b.add(a, b);
                self.store(addr, r);
            }
            self.write_operand(1, a);
        } else {
            a = self.read_operand(0);
            r = self.b.add(a, b);
            self.write_operand(1, a);
            self.write_operand(0, r);
        }
        self.set_flags_add(a, b, r);
    }

    fn cmpxchg(&mut self) {
        let ty = self.operand_type(0);
        let new = self.read_operand(1);
        let expected = self.gpr_low(gpr::RAX, ty);
        let (old, same);
        if self.is_memory(0) {
            let addr = self.effective_address(ty.bytes(), true);
            if self.insn.has_lock_prefix() {
                let mem = self.mem;
                old = self.b.atomic_cas(addr, expected, new, mem);
                same = self.b.icmp(Cond::Eq, old, expected);
            } else {
                old = self.load_for_write(ty, addr);
                same = self.b.icmp(Cond::Eq, old, expected);
                let stored = self.b.select(same, new, old);
                self.store(addr, stored);
            }
        } else {
            old = self.read_operand(0);
            same = self.b.icmp(Cond::Eq, old, expected);
            if let Some(part) = gpr_part(self.register(0)) {
                self.write_part_if(same, part, new);
            }
        }
        let differs = self.b.bin_imm(Op::Xor, same, 1);
        self.write_part_if(differs, GprPart { index: gpr::RAX, ty, high: false }, old);
        let r = self.b.sub(expected, old);
        self.set_flags_sub(expected, old, r);
    }

    /// The part of a register becomes `v` if `cond`, else the whole register stays as it is, upper half and all.
    fn write_part_if(&mut self, cond: Val, part: GprPart, v: Val) {
        let before = self.gpr(part.index);
        let after = match self.b.ty(v) {
            Type::I64 => v,
            Type::I32 => self.widen(v),
            ty => {
                let w = self.any64(v);
                self.b.deposit(before, w, if part.high { 8 } else { 0 }, ty.bits())
            }
        };
        let r = self.b.select(cond, after, before);
        self.set_gpr(part.index, r);
    }

    /// EDX:EAX or ECX:EBX as I64.
    fn pair(&mut self, high: usize, low: usize) -> Val {
        let h = self.gpr(high);
        let l = self.gpr(low);
        self.b.deposit(l, h, 32, 32)
    }

    fn cmpxchg8b(&mut self) {
        let expected = self.pair(gpr::RDX, gpr::RAX);
        let new = self.pair(gpr::RCX, gpr::RBX);
        let addr = self.effective_address(8, true);
        let old;
        if self.insn.has_lock_prefix() {
            let mem = self.mem;
            old = self.b.atomic_cas(addr, expected, new, mem);
        } else {
            old = self.load_for_write(Type::I64, addr);
            let same = self.b.icmp(Cond::Eq, old, expected);
            let stored = self.b.select(same, new, old);
            self.store(addr, stored);
        }
        let same = self.b.icmp(Cond::Eq, old, expected);
        self.set_zero_flag(same);
        let low = self.b.extract(old, 0, 32);
        let high = self.b.bin_imm(Op::Shr, old, 32);
        for (index, v) in [(gpr::RAX, low), (gpr::RDX, high)] {
            let before = self.gpr(index);
            let after = self.b.select(same, before, v);
            self.set_gpr(index, after);
        }
    }

    /// ZF = `v` (I8 0/1), the other flags stay.
    pub(crate) fn set_zero_flag(&mut self, v: Val) {
        let value = self.flags_value();
        let z = self.b.zext(Type::I64, v);
        let new = self.b.deposit(value, z, flags::ZF.trailing_zeros(), 1);
        self.set_flags_value(new);
    }

    fn cmpxchg16b(&mut self) {
        // The helper does it all: comparison, exchange and RDX:RAX; it answers ZF.
        let value = self.flags_value();
        let addr = self.effective_address(16, true);
        let z = self.helper(helpers::CMPXCHG16B, &[addr]);
        let z = self.b.zext(Type::I64, z);
        let new = self.b.deposit(value, z, flags::ZF.trailing_zeros(), 1);
        self.set_flags_value(new);
    }

    // ---- others ----

    fn xlat(&mut self) {
        // The memory operand is [rBX + AL].
        let bits = match self.insn.memory_base() {
            Register::RBX => 64,
            Register::EBX => 32,
            _ => 16,
        };
        let rbx = self.gpr(gpr::RBX);
        let rax = self.gpr(gpr::RAX);
        let al = self.b.extract(rax, 0, 8);
        let sum = self.b.add(rbx, al);
        let offset = self.wrap(sum, bits);
        let segment = crate::operand::segment_index(self.insn.memory_segment()).unwrap_or(3);
        let addr = self.linear(crate::operand::Place { segment, offset }, 1, false);
        let v = self.load(Type::I8, addr);
        self.set_gpr(gpr::RAX, v);
    }

    fn bound(&mut self) {
        let ty = self.operand_type(0);
        let place = self.place();
        let addr = self.linear(place, 2 * ty.bytes(), false);
        let low = self.load(ty, addr);
        let above = self.b.lea(addr, Val::NONE, 0, u64::from(ty.bytes()));
        let above = self.wrap(above, 32);
        let high = self.load(ty, above);
        let v = self.read_operand(0);
        let under = self.b.icmp(Cond::LtS, v, low);
        let over = self.b.icmp(Cond::GtS, v, high);
        let out = self.b.or(under, over);
        self.raise_if(out, reasons::vector::BR);
    }
}

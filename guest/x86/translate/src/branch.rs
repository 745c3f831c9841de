//! Near branches: jumps, calls, returns, loops. Far ones are in `system`.

use iced_x86::{Code, ConditionCode, Mnemonic, OpKind, Register};
use rhea_ir::{Cond, Exit, Target, Type, Val};
use rhea_x86_state::mode;
use rhea_x86_state::state::{gpr, seg};

use crate::helpers;
use crate::slots;
use crate::translator::Translator;

impl Translator<'_> {
    /// Near branches; false if the instruction is none.
    pub(crate) fn branches(&mut self) -> bool {
        use Mnemonic as M;
        if self.insn.code().is_jcc_short_or_near() {
            self.jcc();
            return true;
        }
        match self.insn.mnemonic() {
            M::Jmp => self.jmp(),
            M::Call => self.call(),
            M::Ret => self.ret(),
            M::Loop | M::Loope | M::Loopne => self.loop_insn(),
            M::Jcxz | M::Jecxz | M::Jrcxz => self.jump_if_counter_zero(),
            _ => return false,
        }
        true
    }

    /// Width of near branch operands: 64 in 64-bit mode, else by operand size.
    fn branch_type(&self) -> Type {
        match self.insn.code() {
            Code::Jmp_rel16
            | Code::Jmp_rel8_16
            | Code::Call_rel16
            | Code::Retnw
            | Code::Retnw_imm16
            | Code::Jmp_rm16
            | Code::Call_rm16 => Type::I16,
            Code::Jmp_rel32_64
            | Code::Jmp_rel8_64
            | Code::Call_rel32_64
            | Code::Retnq
            | Code::Retnq_imm16
            | Code::Jmp_rm64
            | Code::Call_rm64 => Type::I64,
            _ => Type::I32,
        }
    }

    /// Raises #GP(0) where a near branch to `target` leaves the code segment, in modes with segment limits.
    fn check_target(&mut self, target: Target) {
        match target {
            Target::Static(pc) if self.is64() => {
                // A relative branch can leave the canonical half by at most 2 GiB; the fetch would fault, but the
                // fault belongs to the branch.
                if (pc as i64) << 16 >> 16 != pc as i64 {
                    let always = self.b.iconst(Type::I8, 1);
                    self.raise_if(always, crate::reasons::vector::GP);
                }
            }
            Target::Dynamic(_) if self.is64() => {}
            _ if self.mode & mode::CHECK_SEGMENTS == 0 => {}
            Target::Static(pc) => {
                let pc = self.b.iconst(Type::I32, pc);
                self.check_limit(pc);
            }
            Target::Dynamic(v) => {
                let pc = self.b.zext(Type::I32, v);
                self.check_limit(pc);
            }
        }
    }

    fn check_limit(&mut self, pc: Val) {
        let limit = self.b.get(slots::segment_limit(seg::CS));
        let out = self.b.icmp(Cond::GtU, pc, limit);
        self.raise_if(out, crate::reasons::vector::GP);
    }

    fn jcc(&mut self) {
        let target = self.insn.near_branch_target();
        let cc = self.insn.condition_code();
        let c = self.condition(cc);
        self.branch_if(c, target);
    }

    /// Ends the unit: to `target` if `cond`, else to the next instruction.
    fn branch_if(&mut self, cond: Val, target: u64) {
        let checked = !self.is64() && self.mode & mode::CHECK_SEGMENTS != 0;
        if checked {
            // The limit only matters when the branch is taken.
            let limit = self.b.get(slots::segment_limit(seg::CS));
            let pc = self.b.iconst(Type::I32, target);
            let out = self.b.icmp(Cond::GtU, pc, limit);
            let bad = self.b.and(out, cond);
            self.raise_if(bad, crate::reasons::vector::GP);
        }
        let taken = self.exit_to(Target::Static(target));
        if self.b.as_const(cond) == Some(1) {
            return self.b.exit(taken);
        }
        self.b.exit_if(cond, taken);
        self.end_after();
    }

    fn loop_insn(&mut self) {
        let bits = self.counter_bits();
        let n = self.counter(bits);
        let less = self.b.add_imm(n, u64::MAX);
        let less = self.wrap(less, bits);
        let mut go = self.b.icmp_imm(Cond::Ne, less, 0);
        let wanted = match self.insn.mnemonic() {
            Mnemonic::Loope => Some(ConditionCode::e),
            Mnemonic::Loopne => Some(ConditionCode::ne),
            _ => None,
        };
        if let Some(cc) = wanted {
            let z = self.condition(cc);
            go = self.b.and(go, z);
        }
        // A branch out of the segment faults with the counter unchanged, so the check comes first.
        let target = self.insn.near_branch_target();
        if !self.is64() && self.mode & mode::CHECK_SEGMENTS != 0 {
            let limit = self.b.get(slots::segment_limit(seg::CS));
            let pc = self.b.iconst(Type::I32, target);
            let out = self.b.icmp(Cond::GtU, pc, limit);
            let bad = self.b.and(out, go);
            self.raise_if(bad, crate::reasons::vector::GP);
        }
        self.set_counter(bits, less);
        let taken = self.exit_to(Target::Static(target));
        self.b.exit_if(go, taken);
        self.end_after();
    }

    fn counter_bits(&self) -> u32 {
        use Code as C;
        match self.insn.code() {
            C::Loop_rel8_16_CX
            | C::Loop_rel8_32_CX
            | C::Loope_rel8_16_CX
            | C::Loope_rel8_32_CX
            | C::Loopne_rel8_16_CX
            | C::Loopne_rel8_32_CX
            | C::Jcxz_rel8_16
            | C::Jcxz_rel8_32 => 16,
            C::Loop_rel8_16_RCX
            | C::Loop_rel8_64_RCX
            | C::Loope_rel8_16_RCX
            | C::Loope_rel8_64_RCX
            | C::Loopne_rel8_16_RCX
            | C::Loopne_rel8_64_RCX
            | C::Jrcxz_rel8_16
            | C::Jrcxz_rel8_64 => 64,
            _ => 32,
        }
    }

    fn jump_if_counter_zero(&mut self) {
        let bits = self.counter_bits();
        let n = self.counter(bits);
        let zero = self.b.icmp_imm(Cond::Eq, n, 0);
        let target = self.insn.near_branch_target();
        self.branch_if(zero, target);
    }

    fn is_relative(&self) -> bool {
        matches!(self.insn.op_kind(0), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64)
    }

    fn is_far(&self) -> bool {
        let kind = self.insn.op_kind(0);
        matches!(kind, OpKind::FarBranch16 | OpKind::FarBranch32)
            || kind == OpKind::Memory && (self.insn.is_jmp_far_indirect() || self.insn.is_call_far_indirect())
    }

    fn jmp(&mut self) {
        if self.is_far() {
            return self.far_branch(helpers::FAR_JUMP);
        }
        let target = self.near_target();
        self.check_target(target);
        self.jump(target);
    }

    fn near_target(&mut self) -> Target {
        if self.is_relative() {
            return Target::Static(self.insn.near_branch_target());
        }
        let v = self.read_operand(0);
        Target::Dynamic(self.widen(v))
    }

    fn call(&mut self) {
        if self.is_far() {
            return self.far_branch(helpers::FAR_CALL);
        }
        let target = self.near_target();
        let ty = self.branch_type();
        self.check_target(target);
        let ret = self.b.iconst(ty, self.next_pc);
        self.push(ret);
        match self.exit_to(target) {
            Exit::Jump(target) => {
                let return_pc = self.next_pc;
                self.b.exit(Exit::Call { target, return_pc });
            }
            exit => self.b.exit(exit),
        }
    }

    fn ret(&mut self) {
        let ty = self.branch_type();
        let (target, sp) = self.peek(ty);
        let target = self.widen(target);
        self.check_target(Target::Dynamic(target));
        let release = if self.insn.op_count() > 0 { self.insn.immediate(0) & 0xffff } else { 0 };
        let sp = self.b.lea(sp, Val::NONE, 0, release);
        self.set_stack_pointer(sp);
        match self.exit_to(Target::Dynamic(target)) {
            Exit::Jump(_) => self.b.exit(Exit::Return(target)),
            exit => self.b.exit(exit),
        }
    }

    /// Far JMP and CALL: selector and offset from the instruction or from memory.
    fn far_branch(&mut self, helper: u32) {
        let code = self.insn.code();
        let size: u64 = match code {
            Code::Jmp_ptr1616 | Code::Call_ptr1616 | Code::Jmp_m1616 | Code::Call_m1616 => 2,
            Code::Jmp_m1664 | Code::Call_m1664 => 8,
            _ => 4,
        };
        let (selector, offset);
        if self.insn.op_kind(0) == OpKind::Memory {
            (offset, selector) = self.load_far_pointer(size as u32);
        } else {
            selector = self.b.iconst(Type::I32, u64::from(self.insn.far_branch_selector()));
            let value = if size == 2 {
                u64::from(self.insn.far_branch16())
            } else {
                u64::from(self.insn.far_branch32())
            };
            offset = self.c64(value);
        }
        let size = self.b.iconst(Type::I32, size);
        let next = self.c64(self.next_pc);
        self.helper(helper, &[selector, offset, size, next]);
        self.leave_at_slot();
    }

    /// An offset of `size` bytes (as I64) and the selector (as I32) that follows it, from the memory operand.
    pub(crate) fn load_far_pointer(&mut self, size: u32) -> (Val, Val) {
        let place = self.place();
        let addr = self.linear(place, size + 2, false);
        let offset = self.load(Type::int(size), addr);
        let offset = self.widen(offset);
        let above = self.b.lea(addr, Val::NONE, 0, u64::from(size));
        let above = if self.is64() { above } else { self.wrap(above, 32) };
        let selector = self.load(Type::I16, above);
        (offset, self.b.zext(Type::I32, selector))
    }

    /// General register by name in the address width `bits`.
    pub(crate) fn index_register(&mut self, index: usize, bits: u32) -> Val {
        let v = self.gpr(index);
        self.wrap(v, bits)
    }

    /// Whether `reg` is RSP or a part of it.
    pub(crate) fn is_stack_pointer(reg: Register) -> bool {
        crate::operand::gpr_part(reg).is_some_and(|p| p.index == gpr::RSP && !p.high)
    }
}

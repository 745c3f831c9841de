//! Stack instructions: PUSH, POP, PUSHA, POPA, PUSHF, POPF, ENTER, LEAVE.

use iced_x86::{Code, Mnemonic, OpKind, Register};
use rhea_ir::{Op, Type, Val};
use rhea_x86_state::state::{gpr, seg};
use rhea_x86_state::{flags, mode};

use crate::helpers;
use crate::operand::segment_index;
use crate::slots;
use crate::translator::Translator;

impl Translator<'_> {
    /// Stack instructions; false if the instruction is none.
    pub(crate) fn stack(&mut self) -> bool {
        use Mnemonic as M;
        match self.insn.mnemonic() {
            M::Push => self.push_insn(),
            M::Pop => self.pop_insn(),
            M::Pusha => self.push_all(Type::I16),
            M::Pushad => self.push_all(Type::I32),
            M::Popa => self.pop_all(Type::I16),
            M::Popad => self.pop_all(Type::I32),
            M::Pushf => self.pushf(Type::I16),
            M::Pushfd => self.pushf(Type::I32),
            M::Pushfq => self.pushf(Type::I64),
            M::Popf => self.popf(Type::I16),
            M::Popfd => self.popf(Type::I32),
            M::Popfq => self.popf(Type::I64),
            M::Enter => self.enter(),
            M::Leave => self.leave_insn(),
            _ => return false,
        }
        true
    }

    /// Bytes that PUSH or POP moves the stack by.
    fn stack_operand_type(&self) -> Type {
        // The stack pointer increment is what the decoder derived from operand size and mode.
        match self.insn.stack_pointer_increment().unsigned_abs() {
            2 => Type::I16,
            4 => Type::I32,
            _ => Type::I64,
        }
    }

    fn push_insn(&mut self) {
        let ty = self.stack_operand_type();
        let v = match self.insn.op0_kind() {
            OpKind::Register if self.insn.op0_register().is_segment_register() => {
                let index = segment_index(self.insn.op0_register()).unwrap_or(seg::ES);
                let v = self.b.get(slots::segment_selector(index));
                self.b.zext(ty, v)
            }
            _ => {
                let v = self.read_operand(0);
                self.b.sext(ty, v)
            }
        };
        self.push(v);
    }

    fn pop_insn(&mut self) {
        let ty = self.stack_operand_type();
        if self.insn.op0_kind() == OpKind::Register && self.insn.op0_register().is_segment_register() {
            return self.pop_segment(ty);
        }
        let (v, sp) = self.peek(ty);
        if self.is_memory(0) {
            // An address that is based on the stack pointer uses its new value.
            if Self::is_stack_pointer(self.insn.memory_base()) {
                let disp = self.insn.memory_displacement64().wrapping_add(u64::from(ty.bytes()));
                self.insn.set_memory_displacement64(disp);
            }
            self.write_operand(0, v);
            self.set_stack_pointer(sp);
        } else {
            // POP SP keeps the popped value.
            self.set_stack_pointer(sp);
            self.write_operand(0, v);
        }
    }

    fn pop_segment(&mut self, ty: Type) {
        let index = segment_index(self.insn.op0_register()).unwrap_or(seg::ES);
        let (v, sp) = self.peek(ty);
        let selector = self.b.zext(Type::I32, v);
        let selector = self.b.and_imm(selector, 0xffff);
        let changed = self.load_segment(index, selector);
        self.set_stack_pointer(sp);
        self.after_segment_load(index, changed);
    }

    fn push_all(&mut self, ty: Type) {
        // Eight stores in ascending register order; the pointer moves at the end. SP's old value is pushed.
        let sp = self.stack_pointer();
        let mut at = sp;
        for index in 0..8 {
            at = self.b.lea(at, Val::NONE, 0, u64::from(ty.bytes()).wrapping_neg());
            let addr = self.stack_address(at, ty.bytes(), true);
            let v = self.gpr_low(index, ty);
            self.store(addr, v);
        }
        self.set_stack_pointer(at);
    }

    fn pop_all(&mut self, ty: Type) {
        let sp = self.stack_pointer();
        let mut at = sp;
        let mut values = [Val::NONE; 8];
        for index in (0..8).rev() {
            let addr = self.stack_address(at, ty.bytes(), false);
            values[index] = self.load(ty, addr);
            at = self.b.lea(at, Val::NONE, 0, u64::from(ty.bytes()));
        }
        self.set_stack_pointer(at);
        for (index, v) in values.into_iter().enumerate() {
            if index != gpr::RSP {
                self.set_gpr(index, v);
            }
        }
    }

    fn pushf(&mut self, ty: Type) {
        let v = if self.mode & mode::VM86 != 0 {
            let size = self.b.iconst(Type::I32, u64::from(ty.bytes()));
            self.helper(helpers::PUSHF, &[size])
        } else {
            let arithmetic = self.flags_value();
            let arithmetic = self.b.and_imm(arithmetic, flags::ARITHMETIC);
            let system = self.b.get(slots::RFLAGS);
            let system = self.b.and_imm(system, !(flags::RF | flags::VM));
            let df = self.b.get(slots::DF);
            let df = self.b.zext(Type::I64, df);
            let df = self.b.bin_imm(Op::Shl, df, u64::from(flags::DF.trailing_zeros()));
            let v = self.b.or(arithmetic, system);
            self.b.or(v, df)
        };
        let v = self.b.zext(ty, v);
        self.push(v);
    }

    fn popf(&mut self, ty: Type) {
        let (v, sp) = self.peek(ty);
        let v = self.widen(v);
        let size = self.b.iconst(Type::I32, u64::from(ty.bytes()));
        let changed = self.helper(helpers::POPF, &[v, size]);
        self.set_stack_pointer(sp);
        self.leave_if_changed(changed);
    }

    fn leave_insn(&mut self) {
        let ty = match self.insn.code() {
            Code::Leavew => Type::I16,
            Code::Leaved => Type::I32,
            _ => Type::I64,
        };
        let rbp = self.gpr(gpr::RBP);
        let bits = self.stack_bits();
        let frame = self.wrap(rbp, bits);
        let addr = self.stack_address(frame, ty.bytes(), false);
        let v = self.load(ty, addr);
        let sp = self.b.lea(frame, Val::NONE, 0, u64::from(ty.bytes()));
        self.set_stack_pointer(sp);
        self.set_gpr(gpr::RBP, v);
    }

    fn enter(&mut self) {
        let ty = match self.insn.code() {
            Code::Enterw_imm16_imm8 => Type::I16,
            Code::Enterd_imm16_imm8 => Type::I32,
            _ => Type::I64,
        };
        let bytes = u64::from(ty.bytes());
        let allocated = self.insn.immediate(0) & 0xffff;
        let level = self.insn.immediate(1) & 31;
        let sp = self.stack_pointer();
        let rbp = self.gpr(gpr::RBP);
        let mut at = self.b.lea(sp, Val::NONE, 0, bytes.wrapping_neg());
        let frame = at;
        let addr = self.stack_address(at, ty.bytes(), true);
        let v = self.b.zext(ty, rbp);
        self.store(addr, v);
        if level > 0 {
            let mut link = rbp;
            for _ in 1..level {
                link = self.b.lea(link, Val::NONE, 0, bytes.wrapping_neg());
                let from = self.stack_address(link, ty.bytes(), false);
                let v = self.load(ty, from);
                at = self.b.lea(at, Val::NONE, 0, bytes.wrapping_neg());
                let to = self.stack_address(at, ty.bytes(), true);
                self.store(to, v);
            }
            at = self.b.lea(at, Val::NONE, 0, bytes.wrapping_neg());
            let to = self.stack_address(at, ty.bytes(), true);
            let v = self.b.zext(ty, frame);
            self.store(to, v);
        }
        at = self.b.lea(at, Val::NONE, 0, allocated.wrapping_neg());
        // A write at the new top must be possible.
        let top = self.stack_address(at, 1, true);
        self.load_for_write(Type::I8, top);
        let frame = self.b.zext(ty, frame);
        self.set_gpr(gpr::RBP, frame);
        self.set_stack_pointer(at);
    }

    // ---- segment registers ----

    /// Loads segment register `index` with `selector` (I32); the answer is 1 if the mode word changed (I32).
    pub(crate) fn load_segment(&mut self, index: usize, selector: Val) -> Val {
        let index = self.b.iconst(Type::I32, index as u64);
        self.helper(helpers::LOAD_SEGMENT, &[index, selector])
    }

    /// Ends the unit where a segment load asks for it; the instruction is complete.
    pub(crate) fn after_segment_load(&mut self, index: usize, changed: Val) {
        if index == seg::SS {
            // Interrupts and debug traps wait for the next instruction.
            let one = self.b.iconst(Type::I32, 1);
            self.b.put(slots::INTERRUPT_SHADOW, one);
            return self.leave_after();
        }
        if !self.is64() {
            self.leave_if_changed(changed);
        }
    }

    /// Ends the unit after this instruction if a helper's answer (I32) is not zero: the mode word changed, or
    /// interrupts are to be looked at.
    pub(crate) fn leave_if_changed(&mut self, changed: Val) {
        if self.single() {
            return;
        }
        if self.mode != self.start_mode {
            return self.leave_after();
        }
        let c = self.b.icmp_imm(rhea_ir::Cond::Ne, changed, 0);
        let next = self.next_pc;
        let exit = rhea_ir::Exit::Leave { reason: crate::reasons::RESUME, pc: Some(next) };
        self.b.exit_if(c, exit);
    }

    /// Whether the operand register is a segment register.
    pub(crate) fn is_segment(reg: Register) -> bool {
        reg.is_segment_register()
    }
}

//! `tables/i.isa`: base integer instructions, Zifencei, Zicsr, hints.

use rhea_ir::{Cond, Exit, Op, Target, Type, Val};
use rhea_riscv_system::csr::Operation;

use crate::translator::UnitTranslator;
use crate::{
    B, Csr, CsrImm, CsrRegister, Fence, I, J, Load, R, S, Shift, Shift5, TranslateI, U, Xreg, helpers,
    reasons, slots,
};

/// Bits of a fence's sets: device input, device output, reads, writes (from bit 3 down).
const READS: u8 = 0b1010;
const WRITES: u8 = 0b0101;

impl UnitTranslator<'_> {
    fn branch(&mut self, cond: Cond, a: B) {
        let target = self.pc.wrapping_add(i64::from(a.imm_b) as u64);
        // Sign extension keeps the order of 32-bit values, signed and unsigned.
        let (x, y) = (self.x64(a.rs1), self.x64(a.rs2));
        let taken = self.b.icmp(cond, x, y);
        let exit = self.exit_to(target);
        self.b.exit_if(taken, exit);
        self.jump(self.next_pc);
    }

    /// Address of the next instruction, as a register holds it.
    fn link(&mut self) -> Val {
        let next = if self.is_rv32() { self.next_pc as i32 as u64 } else { self.next_pc };
        self.c64(next)
    }

    fn load_as(&mut self, a: Load, ty: Type, signed: bool) {
        let address = self.address(a.rs1, a.imm);
        let value = self.b.load(ty, address, self.mem);
        let value = if signed { value } else { self.b.zext(Type::I64, value) };
        self.set_x(a.rd, value);
    }

    fn store_as(&mut self, a: S, ty: Type) {
        let address = self.address(a.rs1, a.imm_s);
        let value = self.x64(a.rs2);
        let value = self.b.zext(ty, value);
        self.b.store(address, value, self.mem);
    }

    fn with_imm(&mut self, op: Op, a: I) {
        let x = self.x(a.rs1);
        let imm = self.imm(a.imm);
        let value = self.op(op, x, imm);
        self.set_x(a.rd, value);
    }

    fn with_register(&mut self, op: Op, a: R) {
        let (x, y) = (self.x(a.rs1), self.x(a.rs2));
        let value = self.op(op, x, y);
        self.set_x(a.rd, value);
    }

    fn less(&mut self, rd: Xreg, cond: Cond, x: Val, y: Val) {
        let truth = self.b.icmp(cond, x, y);
        self.set_x_truth(rd, truth);
    }

    fn shift_imm(&mut self, op: Op, a: Shift) {
        let x = self.x(a.rs1);
        let count = self.b.iconst(Type::I8, a.shamt.into());
        let value = self.op(op, x, count);
        self.set_x(a.rd, value);
    }

    fn shift_word_imm(&mut self, op: Op, a: Shift5) {
        let x = self.x32(a.rs1);
        let count = self.b.iconst(Type::I8, a.shamt5.into());
        let value = self.op(op, x, count);
        self.set_x(a.rd, value);
    }

    /// An operation on the low 32 bits.
    pub(crate) fn word(&mut self, op: Op, a: R) {
        let (x, y) = (self.x32(a.rs1), self.x32(a.rs2));
        let value = self.op(op, x, y);
        self.set_x(a.rd, value);
    }

    fn csr(&mut self, rd: Xreg, csr: Csr, operand: Val, operation: Operation, writes: bool) {
        if !writes && self.read_vector_csr(rd, csr) {
            return;
        }
        let request = u64::from(csr.0) | (operation as u64) << 12 | u64::from(writes) << 14;
        let request = self.c64(request | u64::from(self.bits) << 32);
        let rd = self.c64(rd.0.into());
        self.helper(helpers::CSR, &[operand, request, rd]);
    }

    fn csr_register(&mut self, a: CsrRegister, operation: Operation) {
        let operand = self.x64(a.rs1);
        let writes = operation == Operation::Write || a.rs1.0 != 0;
        self.csr(a.rd, a.csr, operand, operation, writes);
    }

    fn csr_imm(&mut self, a: CsrImm, operation: Operation) {
        let operand = self.c64(a.zimm.into());
        let writes = operation == Operation::Write || a.zimm != 0;
        self.csr(a.rd, a.csr, operand, operation, writes);
    }
}

/// A register that calls keep their return address in (unprivileged specification, "Unconditional Jumps").
fn is_link(r: Xreg) -> bool {
    matches!(r.0, 1 | 5)
}

macro_rules! each {
    ($($name:ident($args:ident) = $method:ident($($extra:expr),*);)*) => {$(
        fn $name(&mut self, a: $args) {
            each!(@call self $method a $args ($($extra),*));
        }
    )*};
    (@call $self:ident $method:ident $a:ident B ($($extra:expr),*)) => { $self.$method($($extra,)* $a) };
    (@call $self:ident $method:ident $a:ident I ($($extra:expr),*)) => { $self.$method($($extra,)* $a) };
    (@call $self:ident $method:ident $a:ident R ($($extra:expr),*)) => { $self.$method($($extra,)* $a) };
    (@call $self:ident $method:ident $a:ident Shift ($($extra:expr),*)) => { $self.$method($($extra,)* $a) };
    (@call $self:ident $method:ident $a:ident Shift5 ($($extra:expr),*)) => { $self.$method($($extra,)* $a) };
    (@call $self:ident $method:ident $a:ident $args:ident ($($extra:expr),*)) => { $self.$method($a $(, $extra)*) };
}

impl TranslateI for UnitTranslator<'_> {
    fn lui(&mut self, a: U) {
        let value = self.c64(i64::from(a.imm_u.0) as u64);
        self.set_x(a.rd, value);
    }

    fn auipc(&mut self, a: U) {
        let sum = self.pc.wrapping_add(i64::from(a.imm_u.0) as u64);
        let value = self.c64(if self.is_rv32() { sum as i32 as u64 } else { sum });
        self.set_x(a.rd, value);
    }

    fn jal(&mut self, a: J) {
        let exit = self.exit_to(self.pc.wrapping_add(i64::from(a.imm_j) as u64));
        let Exit::Jump(target) = exit else { return self.b.exit(exit) };
        let link = self.link();
        self.set_x(a.rd, link);
        let return_pc = self.next_pc;
        self.b.exit(if is_link(a.rd) { Exit::Call { target, return_pc } } else { exit });
    }

    fn jalr(&mut self, a: Load) {
        let target = self.target(a.rs1, a.imm);
        let target = self.b.and_imm(target, !1);
        if !self.is_aligned(2) {
            self.b.put(slots::scratch(0), target);
            let off = self.b.and_imm(target, 2);
            let off = self.b.icmp_imm(Cond::Ne, off, 0);
            self.b.exit_if(off, Exit::Leave { reason: reasons::MISALIGNED_TARGET, pc: Some(self.pc) });
        }
        let link = self.link();
        self.set_x(a.rd, link);
        let return_pc = self.next_pc;
        self.b.exit(if is_link(a.rd) {
            Exit::Call { target: Target::Dynamic(target), return_pc }
        } else if is_link(a.rs1) {
            Exit::Return(target)
        } else {
            Exit::Jump(Target::Dynamic(target))
        });
    }

    each! {
        beq(B) = branch(Cond::Eq);
        bne(B) = branch(Cond::Ne);
        blt(B) = branch(Cond::LtS);
        bge(B) = branch(Cond::GeS);
        bltu(B) = branch(Cond::LtU);
        bgeu(B) = branch(Cond::GeU);
        lb(Load) = load_as(Type::I8, true);
        lh(Load) = load_as(Type::I16, true);
        lw(Load) = load_as(Type::I32, true);
        ld(Load) = load_as(Type::I64, true);
        lbu(Load) = load_as(Type::I8, false);
        lhu(Load) = load_as(Type::I16, false);
        lwu(Load) = load_as(Type::I32, false);
        sb(S) = store_as(Type::I8);
        sh(S) = store_as(Type::I16);
        sw(S) = store_as(Type::I32);
        sd(S) = store_as(Type::I64);
        addi(I) = with_imm(Op::Add);
        xori(I) = with_imm(Op::Xor);
        ori(I) = with_imm(Op::Or);
        andi(I) = with_imm(Op::And);
        add(R) = with_register(Op::Add);
        sub(R) = with_register(Op::Sub);
        sll(R) = with_register(Op::Shl);
        srl(R) = with_register(Op::Shr);
        sra(R) = with_register(Op::Sar);
        xor(R) = with_register(Op::Xor);
        or(R) = with_register(Op::Or);
        and(R) = with_register(Op::And);
        slli(Shift) = shift_imm(Op::Shl);
        srli(Shift) = shift_imm(Op::Shr);
        srai(Shift) = shift_imm(Op::Sar);
        slliw(Shift5) = shift_word_imm(Op::Shl);
        srliw(Shift5) = shift_word_imm(Op::Shr);
        sraiw(Shift5) = shift_word_imm(Op::Sar);
        addw(R) = word(Op::Add);
        subw(R) = word(Op::Sub);
        sllw(R) = word(Op::Shl);
        srlw(R) = word(Op::Shr);
        sraw(R) = word(Op::Sar);
        csrrw(CsrRegister) = csr_register(Operation::Write);
        csrrs(CsrRegister) = csr_register(Operation::Set);
        csrrc(CsrRegister) = csr_register(Operation::Clear);
        csrrwi(CsrImm) = csr_imm(Operation::Write);
        csrrsi(CsrImm) = csr_imm(Operation::Set);
        csrrci(CsrImm) = csr_imm(Operation::Clear);
    }

    fn slti(&mut self, a: I) {
        let x = self.x64(a.rs1);
        let y = self.c64(i64::from(a.imm) as u64);
        self.less(a.rd, Cond::LtS, x, y);
    }

    fn sltiu(&mut self, a: I) {
        let x = self.x64(a.rs1);
        let y = self.c64(i64::from(a.imm) as u64);
        self.less(a.rd, Cond::LtU, x, y);
    }

    fn slt(&mut self, a: R) {
        let (x, y) = (self.x64(a.rs1), self.x64(a.rs2));
        self.less(a.rd, Cond::LtS, x, y);
    }

    fn sltu(&mut self, a: R) {
        let (x, y) = (self.x64(a.rs1), self.x64(a.rs2));
        self.less(a.rd, Cond::LtU, x, y);
    }

    fn addiw(&mut self, a: I) {
        let x = self.x32(a.rs1);
        let value = self.b.add_imm(x, i64::from(a.imm) as u64);
        self.set_x(a.rd, value);
    }

    /// The host's accesses are ordered but for a write before a later read.
    fn fence(&mut self, a: Fence) {
        if a.pred.0 & WRITES != 0 && a.succ.0 & READS != 0 {
            self.b.fence();
        }
    }

    fn fence_tso(&mut self) {}

    /// Stores are seen by the next unit as it is.
    fn fence_i(&mut self) {
        self.jump(self.next_pc);
    }

    fn ecall(&mut self) {
        self.leave(reasons::ECALL);
    }

    fn ebreak(&mut self) {
        self.leave(reasons::EBREAK);
    }

    fn pause(&mut self) {}
    fn ntl_p1(&mut self) {}
    fn ntl_pall(&mut self) {}
    fn ntl_s1(&mut self) {}
    fn ntl_all(&mut self) {}
}

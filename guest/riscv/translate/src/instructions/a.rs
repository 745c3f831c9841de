//! `tables/a.isa`: atomic memory operations and reservations.
//!
//! A reservation is an address and the value that was read there; a store conditional is a compare-and-swap with that
//! value. It can succeed although the memory changed and changed back, which software cannot tell from a hart that was
//! slow. Every access is at least as ordered as `aq` and `rl` ask: the host's atomic operations are full fences.

use rhea_ir::{Cond, Exit, MemFlags, Rmw, Type, Val};
use rhea_riscv_state::state::NO_RESERVATION;

use crate::translator::UnitTranslator;
use crate::{Amo, Lr, TranslateA, Xreg, helpers, reasons, slots};

impl UnitTranslator<'_> {
    fn aligned(&self) -> MemFlags {
        self.mem.with(MemFlags::ALIGNED)
    }

    /// A register's value as an operand of `ty`.
    fn operand(&mut self, r: Xreg, ty: Type) -> Val {
        let value = self.x64(r);
        self.b.zext(ty, value)
    }

    fn load_reserved(&mut self, a: Lr, ty: Type) {
        let address = self.address(a.rs1, 0);
        let value = self.b.load(ty, address, self.aligned());
        let wide = self.b.sext(Type::I64, value);
        self.b.put(slots::RESERVATION, address);
        self.b.put(slots::RESERVED_VALUE, wide);
        self.set_x(a.rd, wide);
    }

    fn store_conditional(&mut self, a: Amo, ty: Type) {
        let address = self.address(a.rs1, 0);
        let value = self.operand(a.rs2, ty);
        // A misaligned address faults whether or not it is reserved.
        let alignment = self.c64(u64::from(ty.bytes()) - 1);
        self.helper(helpers::CHECK_STORE_ALIGNMENT, &[address, alignment]);
        let reserved = self.b.get(slots::RESERVATION);
        let differs = self.b.icmp(Cond::Ne, address, reserved);
        let reason = reasons::SC_FAILED + u32::from(a.rd.0);
        self.b.exit_if(differs, Exit::Leave { reason, pc: Some(self.pc) });
        let expected = self.b.get(slots::RESERVED_VALUE);
        let expected = self.b.zext(ty, expected);
        let old = self.b.atomic_cas(address, expected, value, self.aligned());
        let none = self.c64(NO_RESERVATION);
        self.b.put(slots::RESERVATION, none);
        let failed = self.b.icmp(Cond::Ne, old, expected);
        self.set_x_truth(a.rd, failed);
    }

    fn amo(&mut self, a: Amo, ty: Type, operation: Rmw) {
        let address = self.address(a.rs1, 0);
        let value = self.operand(a.rs2, ty);
        let old = self.b.atomic_rmw(operation, address, value, self.aligned());
        self.set_x(a.rd, old);
    }

    fn compare_and_swap(&mut self, a: Amo, ty: Type) {
        let address = self.address(a.rs1, 0);
        let (expected, new) = (self.operand(a.rd, ty), self.operand(a.rs2, ty));
        let old = self.b.atomic_cas(address, expected, new, self.aligned());
        self.set_x(a.rd, old);
    }

    /// The second register of a pair; that of x0 is x0 too.
    fn partner(r: Xreg) -> Xreg {
        if r.0 == 0 { r } else { Xreg(r.0 | 1) }
    }

    /// 64 bits out of a pair of 32-bit registers.
    fn pair(&mut self, r: Xreg) -> Val {
        let (low, high) = (self.x64(r), self.x64(Self::partner(r)));
        self.b.deposit(low, high, 32, 32)
    }

    fn wait_for_reservation(&mut self) {
        let bits = self.c64(self.bits.into());
        self.b.put(slots::scratch(0), bits);
        self.leave(reasons::WAIT_RESERVATION);
    }
}

macro_rules! amos {
    ($($name:ident = $ty:ident $operation:ident;)*) => {$(
        fn $name(&mut self, a: Amo) {
            self.amo(a, Type::$ty, Rmw::$operation);
        }
    )*};
}

impl TranslateA for UnitTranslator<'_> {
    fn lr_w(&mut self, a: Lr) {
        self.load_reserved(a, Type::I32);
    }

    fn lr_d(&mut self, a: Lr) {
        self.load_reserved(a, Type::I64);
    }

    fn sc_w(&mut self, a: Amo) {
        self.store_conditional(a, Type::I32);
    }

    fn sc_d(&mut self, a: Amo) {
        self.store_conditional(a, Type::I64);
    }

    amos! {
        amoswap_b = I8 Xchg;
        amoadd_b = I8 Add;
        amoxor_b = I8 Xor;
        amoand_b = I8 And;
        amoor_b = I8 Or;
        amomin_b = I8 MinS;
        amomax_b = I8 MaxS;
        amominu_b = I8 MinU;
        amomaxu_b = I8 MaxU;
        amoswap_h = I16 Xchg;
        amoadd_h = I16 Add;
        amoxor_h = I16 Xor;
        amoand_h = I16 And;
        amoor_h = I16 Or;
        amomin_h = I16 MinS;
        amomax_h = I16 MaxS;
        amominu_h = I16 MinU;
        amomaxu_h = I16 MaxU;
        amoswap_w = I32 Xchg;
        amoadd_w = I32 Add;
        amoxor_w = I32 Xor;
        amoand_w = I32 And;
        amoor_w = I32 Or;
        amomin_w = I32 MinS;
        amomax_w = I32 MaxS;
        amominu_w = I32 MinU;
        amomaxu_w = I32 MaxU;
        amoswap_d = I64 Xchg;
        amoadd_d = I64 Add;
        amoxor_d = I64 Xor;
        amoand_d = I64 And;
        amoor_d = I64 Or;
        amomin_d = I64 MinS;
        amomax_d = I64 MaxS;
        amominu_d = I64 MinU;
        amomaxu_d = I64 MaxU;
    }

    fn amocas_b(&mut self, a: Amo) {
        self.compare_and_swap(a, Type::I8);
    }

    fn amocas_h(&mut self, a: Amo) {
        self.compare_and_swap(a, Type::I16);
    }

    fn amocas_w(&mut self, a: Amo) {
        self.compare_and_swap(a, Type::I32);
    }

    fn amocas_d(&mut self, a: Amo) {
        self.compare_and_swap(a, Type::I64);
    }

    fn amocas_d_rv32(&mut self, a: Amo) {
        let address = self.address(a.rs1, 0);
        let (expected, new) = (self.pair(a.rd), self.pair(a.rs2));
        let old = self.b.atomic_cas(address, expected, new, self.aligned());
        let high = self.b.bin_imm(rhea_ir::Op::Shr, old, 32);
        if a.rd.0 != 0 {
            let (low, high) = (self.b.zext(Type::I32, old), self.b.zext(Type::I32, high));
            self.set_x(a.rd, low);
            self.set_x(Self::partner(a.rd), high);
        }
    }

    /// The helper writes the pair of rd.
    fn amocas_q(&mut self, a: Amo) {
        let address = self.address(a.rs1, 0);
        let registers = self.c64(u64::from(a.rd.0) | u64::from(a.rs2.0) << 8);
        self.helper(helpers::AMOCAS_Q, &[address, registers]);
    }

    fn wrs_nto(&mut self) {
        self.wait_for_reservation();
    }

    fn wrs_sto(&mut self) {
        self.wait_for_reservation();
    }
}

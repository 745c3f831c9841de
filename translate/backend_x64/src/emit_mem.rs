//! Guest memory accesses: the inline TLB probe and the access; misses go to [`crate::cold`].

use crate::asm::{Alu, Cc, Gpr, Mem, Shift, reg};
use crate::cold::{Cold, MemoryOperand, MemoryStub};
use crate::emitter::{Emitter, FUSED, NO_PIN, NO_REG, PINNED, Unsupported, XMM0};
use crate::layout::MemoryModel;
use crate::layout::descriptor::{self, Kind};
use rhea_ir::{Inst, MemFlags, Op, Rmw, Type, Val};

/// An address in a register, and the value to release when the access is done.
struct Address {
    reg: Gpr,
    release: Option<Val>,
}

impl Emitter<'_> {
    pub fn emit_memory(&mut self, i: &Inst) -> Result<(), Unsupported> {
        let flags = MemFlags(i.aux);
        if flags.has(MemFlags::BIG_ENDIAN)
            && i.ty != Type::I8
            && (!i.ty.is_int() || i.op != Op::Load && i.op != Op::Store)
        {
            return Err(self.unsupported(i));
        }
        self.flush_x87();
        match i.op {
            Op::Load => self.emit_load(i, flags),
            Op::Store => self.emit_store(i, flags),
            Op::AtomicRmw if i.ty.is_int() => self.emit_rmw(i, flags),
            Op::AtomicCas if i.ty.is_int() => self.emit_cas(i, flags),
            _ => return Err(self.unsupported(i)),
        }
        Ok(())
    }

    /// The address `v` in a register, a single-use `Lea` computed on the spot.
    fn address(&mut self, v: Val) -> Address {
        let root = self.root(v);
        if self.v[root as usize].state & FUSED == 0 {
            return Address { reg: self.use_gpr(v), release: Some(v) };
        }
        let lea = self.unit.insts[root as usize];
        let reg = self.lea_into_temporary(&lea);
        self.v[root as usize].refs -= 1;
        Address { reg, release: None }
    }

    fn release_address(&mut self, a: &Address) {
        if let Some(v) = a.release {
            self.done(v);
        }
    }

    /// The TLB probe. Leaves the addend in the first scratch register; returns the jump taken on a miss.
    fn probe(
        &mut self,
        addr: Gpr,
        ty: Type,
        flags: MemFlags,
        write: bool,
        aligned: bool,
        t: (Gpr, Gpr),
    ) -> usize {
        let MemoryModel::SoftTlb { read, write: write_table, stride, bits } = self.layout.memory;
        let table = if write { write_table } else { read } + i32::from(flags.index()) * stride;
        let size = ty.bytes() as i32;
        let width = if 12 + u32::from(bits) <= 32 { 32 } else { 64 };
        self.asm.mov(width, t.0, addr);
        self.asm.shift_imm(width, Shift::Shr, t.0, 8);
        self.asm.alu_imm(32, Alu::And, t.0, ((1 << bits) - 1) << 4);
        let aligned = aligned || flags.has(MemFlags::ALIGNED);
        if size == 1 || aligned {
            self.asm.mov(64, t.1, addr);
        } else {
            self.asm.lea(64, t.1, Mem::new(addr, size - 1));
        }
        self.asm.alu_imm(64, Alu::And, t.1, if aligned { -4096 | (size - 1) } else { -4096 });
        self.asm.alu(64, Alu::Cmp, t.1, self.layout.indexed(t.0, table));
        let miss = self.asm.jcc(Cc::Ne);
        self.asm.mov(64, t.0, self.layout.indexed(t.0, table + 8));
        miss
    }

    fn emit_load(&mut self, i: &Inst, flags: MemFlags) {
        let addr = self.address(i.a);
        let t = (self.alloc_gpr(), self.alloc_gpr());
        let vector = if i.ty.is_int() { None } else { Some(self.alloc_xmm()) };
        let snapshot = self.snapshot();
        let jump = self.probe(addr.reg, i.ty, flags, flags.has(MemFlags::FOR_WRITE), false, t);
        self.release_address(&addr);
        let data = Mem::indexed(addr.reg, t.0, 0, 0);
        let dst = match vector {
            Some(x) => x.0 + XMM0,
            None => self.load_destination(t.1),
        };
        self.load_reg(dst, i.ty, data);
        if flags.has(MemFlags::BIG_ENDIAN) {
            self.swap_bytes(i.ty, Gpr(dst));
        }
        let stub = MemoryStub {
            jump,
            resume: self.asm.here(),
            addr: addr.reg.0,
            value: MemoryOperand::None,
            value2: NO_REG,
            descriptor: descriptor::encode(flags, i.ty, Kind::Load, 0),
            dst,
            dst_ty: i.ty,
            snapshot,
            pc: self.pc,
        };
        self.cold.push(Cold::Memory(stub));
        self.bind(dst);
    }

    /// The pinned register the loaded value will be put to, if free, else `other`.
    fn load_destination(&mut self, other: Gpr) -> u8 {
        let hint = self.v[self.at].hint;
        if hint == NO_PIN {
            return other.0;
        }
        let reg = PINNED[usize::from(hint)];
        let occupant = self.pin_val[usize::from(hint)];
        let free = occupant == crate::emitter::NONE
            || self.v[occupant as usize].refs == 0
            || self.v[occupant as usize].reg != reg;
        if free { reg } else { other.0 }
    }

    fn swap_bytes(&mut self, ty: Type, r: Gpr) {
        match ty {
            Type::I16 => self.asm.shift_imm(16, Shift::Rol, r, 8),
            Type::I32 | Type::I64 => self.asm.bswap(ty.bits(), r),
            _ => {}
        }
    }

    fn emit_store(&mut self, i: &Inst, flags: MemFlags) {
        let addr = self.address(i.a);
        let swap = flags.has(MemFlags::BIG_ENDIAN) && i.ty != Type::I8;
        let imm = if i.ty.is_int() && !swap { self.imm_of(i.b, i.ty.bits()) } else { None };
        let value = match imm {
            Some(imm) => MemoryOperand::Immediate(imm),
            None if i.ty.is_int() => MemoryOperand::Register(self.use_gpr(i.b).0, i.ty),
            None => MemoryOperand::Register(self.use_xmm(i.b).0 + XMM0, i.ty),
        };
        let t = (self.alloc_gpr(), self.alloc_gpr());
        let snapshot = self.snapshot();
        let jump = self.probe(addr.reg, i.ty, flags, true, false, t);
        let data = Mem::indexed(addr.reg, t.0, 0, 0);
        match value {
            MemoryOperand::Immediate(imm) => self.asm.store_imm(i.ty.bits(), data, imm),
            MemoryOperand::Register(r, _) if swap => {
                self.asm.mov(64, t.1, Gpr(r));
                self.swap_bytes(i.ty, t.1);
                self.store_reg(data, i.ty, t.1.0);
            }
            MemoryOperand::Register(r, _) => self.store_reg(data, i.ty, r),
            MemoryOperand::None => {}
        }
        self.push_memory_stub(i, flags, jump, addr.reg, value, NO_REG, NO_REG, snapshot);
        self.release_address(&addr);
        self.done(i.b);
    }

    fn push_memory_stub(
        &mut self,
        i: &Inst,
        flags: MemFlags,
        jump: usize,
        addr: Gpr,
        value: MemoryOperand,
        value2: u8,
        dst: u8,
        snapshot: u32,
    ) {
        let (kind, rmw) = match i.op {
            Op::Load => (Kind::Load, 0),
            Op::Store => (Kind::Store, 0),
            Op::AtomicRmw => (Kind::Rmw, i.imm as u8),
            _ => (Kind::Cas, 0),
        };
        self.cold.push(Cold::Memory(MemoryStub {
            jump,
            resume: self.asm.here(),
            addr: addr.0,
            value,
            value2,
            descriptor: descriptor::encode(flags, i.ty, kind, rmw),
            dst,
            dst_ty: i.ty,
            snapshot,
            pc: self.pc,
        }));
    }

    fn emit_rmw(&mut self, i: &Inst, flags: MemFlags) {
        let Some(&op) = Rmw::ALL.get(i.imm as usize) else { unreachable!("verified") };
        let bits = i.ty.bits();
        self.claim(reg::RAX.0);
        let addr = self.address(i.a);
        let operand = self.use_gpr(i.b);
        let t = (self.alloc_gpr(), self.alloc_gpr());
        let snapshot = self.snapshot();
        let jump = self.probe(addr.reg, i.ty, flags, true, true, t);
        let data = Mem::indexed(addr.reg, t.0, 0, 0);
        match op {
            Rmw::Xchg => {
                self.asm.mov(bits, reg::RAX, operand);
                self.asm.xchg_mem(bits, data, reg::RAX);
            }
            Rmw::Add | Rmw::Sub => {
                self.asm.mov(bits, reg::RAX, operand);
                if op == Rmw::Sub {
                    self.asm.group3(bits, 3, reg::RAX);
                }
                self.asm.lock_xadd(bits, data, reg::RAX);
            }
            Rmw::And | Rmw::Or | Rmw::Xor if self.v[self.at].refs == 0 => {
                let alu = match op {
                    Rmw::And => Alu::And,
                    Rmw::Or => Alu::Or,
                    _ => Alu::Xor,
                };
                self.asm.byte(0xf0);
                self.asm.alu_mem(bits, alu, data, operand);
            }
            _ => self.rmw_loop(bits, op, data, operand, t.1),
        }
        if bits < 32 {
            self.asm.movzx(bits, reg::RAX, reg::RAX);
        }
        let value = MemoryOperand::Register(operand.0, i.ty);
        self.push_memory_stub(i, flags, jump, addr.reg, value, NO_REG, reg::RAX.0, snapshot);
        self.release_address(&addr);
        self.done(i.b);
        self.bind(reg::RAX.0);
    }

    fn rmw_loop(&mut self, bits: u32, op: Rmw, data: Mem, operand: Gpr, new: Gpr) {
        self.asm.movzx(bits, reg::RAX, data);
        let again = self.asm.here();
        match op {
            Rmw::MinS | Rmw::MaxS | Rmw::MinU | Rmw::MaxU => {
                let cc = match op {
                    Rmw::MinS => Cc::L,
                    Rmw::MaxS => Cc::G,
                    Rmw::MinU => Cc::B,
                    _ => Cc::A,
                };
                self.asm.mov(64, new, operand);
                self.asm.alu(bits, Alu::Cmp, reg::RAX, operand);
                self.asm.cmov(64, cc, new, reg::RAX);
            }
            _ => {
                let alu = match op {
                    Rmw::And => Alu::And,
                    Rmw::Or => Alu::Or,
                    _ => Alu::Xor,
                };
                self.asm.mov(64, new, reg::RAX);
                self.asm.alu(32.max(bits), alu, new, operand);
            }
        }
        self.asm.lock_cmpxchg(bits, data, new);
        let retry = self.asm.jcc(Cc::Ne);
        self.asm.patch(retry, again);
    }

    fn emit_cas(&mut self, i: &Inst, flags: MemFlags) {
        let bits = i.ty.bits();
        self.claim(reg::RAX.0);
        let addr = self.address(i.a);
        let new = self.use_gpr(i.c);
        let expected = self.root(i.b);
        self.load_root(expected, reg::RAX.0);
        if bits == 32 {
            // A successful compare must leave a zero-extended value.
            self.asm.mov(32, reg::RAX, reg::RAX);
        }
        let t = (self.alloc_gpr(), self.alloc_gpr());
        let snapshot = self.snapshot();
        let jump = self.probe(addr.reg, i.ty, flags, true, true, t);
        self.asm.lock_cmpxchg(bits, Mem::indexed(addr.reg, t.0, 0, 0), new);
        if bits < 32 {
            self.asm.movzx(bits, reg::RAX, reg::RAX);
        }
        let value = MemoryOperand::Register(reg::RAX.0, i.ty);
        self.push_memory_stub(i, flags, jump, addr.reg, value, new.0, reg::RAX.0, snapshot);
        self.release_address(&addr);
        self.done(i.b);
        self.done(i.c);
        self.bind(reg::RAX.0);
    }
}

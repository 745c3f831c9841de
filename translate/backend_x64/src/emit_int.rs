//! Integer operations.
//!
//! Operations on I8 and I16 mostly run at their own width (so that flags and memory operands fit) and leave the upper
//! bits of the destination register as they were; [`crate::prepass`] accounts for that.

use crate::asm::{Alu, Cc, Gpr, Map, Mem, Pp, Rm, Shift, VOpcode, reg};
use crate::emitter::{Emitter, Flags, NO_REG, Unsupported};
use crate::prepass::mask;
use rhea_ir::{Inst, Op, Type, Val};

const ANDN: VOpcode = VOpcode::new(Pp::None, Map::M0F38, 0xf2);
const SHLX: VOpcode = VOpcode::new(Pp::P66, Map::M0F38, 0xf7);
const SARX: VOpcode = VOpcode::new(Pp::F3, Map::M0F38, 0xf7);
const SHRX: VOpcode = VOpcode::new(Pp::F2, Map::M0F38, 0xf7);
const PDEP: VOpcode = VOpcode::new(Pp::F2, Map::M0F38, 0xf5);
const PEXT: VOpcode = VOpcode::new(Pp::F3, Map::M0F38, 0xf5);

impl Emitter<'_> {
    pub fn emit_int(&mut self, i: &Inst) -> Result<(), Unsupported> {
        let features = self.layout.features;
        match i.op {
            Op::Add => self.emit_add(i),
            Op::Sub => self.emit_sub(i),
            Op::And => self.emit_logic(i, Alu::And),
            Op::Or => self.emit_logic(i, Alu::Or),
            Op::Xor => self.emit_logic(i, Alu::Xor),
            Op::AndNot => self.emit_and_not(i),
            Op::Mul => self.emit_mul(i),
            Op::MulHiU | Op::MulHiS => self.emit_mul_high(i),
            Op::Shl => self.emit_shift(i, Shift::Shl, Some(SHLX)),
            Op::Shr => self.emit_shift(i, Shift::Shr, Some(SHRX)),
            Op::Sar => self.emit_shift(i, Shift::Sar, Some(SARX)),
            Op::Rotl => self.emit_shift(i, Shift::Rol, None),
            Op::Rotr => self.emit_shift(i, Shift::Ror, None),
            Op::Neg | Op::Not => {
                let dst = self.in_place(i.a);
                self.asm.group3(i.ty.bits(), if i.op == Op::Neg { 3 } else { 2 }, dst);
                if i.op == Op::Neg {
                    self.flags = Flags::Sign { result: self.here(), bits: i.ty.bits() };
                }
                self.bind(dst.0);
            }
            Op::Bswap => {
                let dst = self.in_place(i.a);
                match i.ty {
                    Type::I8 => {}
                    Type::I16 => self.asm.shift_imm(16, Shift::Rol, dst, 8),
                    _ => self.asm.bswap(i.ty.bits(), dst),
                }
                self.bind(dst.0);
            }
            Op::Clz => self.emit_clz(i),
            Op::Ctz => self.emit_ctz(i),
            Op::Popcnt if features.popcnt => self.emit_popcnt(i),
            Op::DivWideU | Op::RemWideU => self.emit_div_unsigned(i)?,
            Op::DivWideS | Op::RemWideS => self.emit_div_signed(i)?,
            Op::Pdep | Op::Pext if features.bmi2 && i.ty.bits() >= 32 => {
                let op = if i.op == Op::Pdep { PDEP } else { PEXT };
                self.emit_vex_gpr(i, op, i.a, i.b);
            }
            Op::Crc32c if features.sse42 => self.emit_crc32(i),
            Op::Zext => {
                let from = self.ty(i.a).bits();
                let (dst, src) = self.unary(i.a, from);
                self.asm.movzx(from, dst, src);
                self.bind(dst.0);
            }
            Op::Sext => {
                let from = self.ty(i.a).bits();
                let (dst, src) = self.unary(i.a, from);
                self.asm.movsx(from, i.ty.bits().max(32), dst, src);
                self.bind(dst.0);
            }
            Op::Lea => self.emit_lea(i),
            Op::Deposit => self.emit_deposit(i),
            Op::Extract => self.emit_extract(i),
            Op::Icmp => {
                let cc = self.emit_compare(i);
                self.materialize(cc);
            }
            Op::Select => self.emit_select(i),
            _ => return Err(self.unsupported(i)),
        }
        Ok(())
    }

    /// Binds the result of the operation at hand to 1 or 0 as the condition holds or not.
    pub fn materialize(&mut self, cc: Cc) {
        self.locked = 0;
        let dst = self.dst_gpr(None);
        self.asm.mov_imm(dst, 0);
        self.asm.setcc(cc, dst);
        self.bind(dst.0);
    }

    pub fn emit_const(&mut self, _: &Inst) {}

    // ---- operand patterns ----

    /// For an instruction that reads one operand and then writes its destination: destination and source.
    pub fn unary(&mut self, a: Val, bits: u32) -> (Gpr, Rm) {
        self.prepare(a, bits);
        let root = self.root(a);
        let reg = self.v[root as usize].reg;
        if reg == NO_REG {
            let dst = self.dst_gpr(None);
            let src = self.rm(a);
            self.done(a);
            return (dst, src);
        }
        self.done(a);
        self.locked &= !(1 << reg);
        (self.dst_gpr(Some((root, Gpr(reg)))), Rm::Reg(reg))
    }

    /// A destination register that holds the value of `a`, to be modified.
    pub fn in_place(&mut self, a: Val) -> Gpr {
        let root = self.root(a);
        let value = self.v[root as usize];
        if value.reg == NO_REG && (value.refs == 1 || self.is_const_root(root)) {
            let dst = self.dst_gpr(None);
            self.load_root(root, dst.0);
            self.done(a);
            return dst;
        }
        let from = self.use_gpr(a);
        self.done(a);
        let dst = self.dst_gpr(Some((root, from)));
        self.copy(dst, from, root);
        dst
    }

    pub fn copy(&mut self, dst: Gpr, from: Gpr, root: u32) {
        if dst != from {
            let bits = if self.v[root as usize].clean <= 32 { 32 } else { 64 };
            self.asm.mov(bits, dst, from);
        }
    }

    /// Whether the register of `v` can be overwritten by an operation that uses `v` once.
    pub fn dies_in_temporary(&self, v: Val) -> bool {
        let value = &self.v[self.root(v) as usize];
        value.refs == 1 && value.reg != NO_REG && self.temps >> value.reg & 1 != 0
    }

    /// Whether `v` is in the pinned register that the result is wanted in.
    pub fn is_in_hinted(&self, v: Val) -> bool {
        let hint = self.v[self.at].hint;
        hint != crate::emitter::NO_PIN
            && self.v[self.root(v) as usize].reg == crate::emitter::PINNED[usize::from(hint)]
    }

    /// Orders the operands of a commutative operation: constants second, and first the one to be overwritten.
    pub fn commute(&self, a: Val, b: Val) -> (Val, Val) {
        if self.const_of(b).is_some() {
            return (a, b);
        }
        let swap = self.const_of(a).is_some()
            || self.is_in_hinted(b) && !self.is_in_hinted(a)
            || self.dies_in_temporary(b) && !self.dies_in_temporary(a) && !self.is_in_hinted(a);
        if swap { (b, a) } else { (a, b) }
    }

    /// dst = a OP b in the two-operand form.
    pub fn two_operand(&mut self, bits: u32, a: Val, b: Val, emit: impl FnOnce(&mut Self, Gpr, Rm)) {
        if self.root(a) == self.root(b) {
            let root = self.root(a);
            let from = self.use_gpr(a);
            self.done(a);
            self.done(b);
            let dst = self.dst_gpr(Some((root, from)));
            self.copy(dst, from, root);
            emit(self, dst, Rm::from(from));
            return self.bind(dst.0);
        }
        self.prepare(b, bits);
        let dst = self.in_place(a);
        let src = self.rm(b);
        emit(self, dst, src);
        self.done(b);
        self.bind(dst.0);
    }

    fn with_immediate(&mut self, bits: u32, op: Alu, a: Val, b: Val, imm: i32) {
        let dst = self.in_place(a);
        self.asm.alu_imm(bits, op, dst, imm);
        self.done(b);
        self.bind(dst.0);
    }

    // ---- arithmetic ----

    fn emit_add(&mut self, i: &Inst) {
        let bits = i.ty.bits();
        let (a, b) = self.commute(i.a, i.b);
        if let Some(imm) = self.imm_of(b, bits) {
            if bits >= 32 && self.v[self.root(a) as usize].reg != NO_REG {
                let (dst, src) = self.unary(a, bits);
                self.done(b);
                self.bind(dst.0);
                if let Rm::Reg(r) = src
                    && r != dst.0
                {
                    return self.asm.lea(bits, dst, Mem::new(Gpr(r), imm));
                }
                self.asm.alu_imm(bits, Alu::Add, dst, imm);
            } else {
                self.with_immediate(bits, Alu::Add, a, b, imm);
            }
            self.flags = Flags::Add { result: self.here(), a: i.a, b: i.b, bits };
            return;
        }
        let in_registers =
            self.v[self.root(a) as usize].reg != NO_REG && self.v[self.root(b) as usize].reg != NO_REG;
        if bits >= 32 && in_registers && self.add_registers(bits, a, b) {
            return;
        }
        self.two_operand(bits, a, b, |s, dst, src| s.asm.alu(bits, Alu::Add, dst, src));
        self.flags = Flags::Add { result: self.here(), a: i.a, b: i.b, bits };
    }

    /// Add of two registers, by LEA if the destination is neither.
    fn add_registers(&mut self, bits: u32, a: Val, b: Val) -> bool {
        let (root, ra, rb) = (self.root(a), self.use_gpr(a), self.use_gpr(b));
        self.done(a);
        self.done(b);
        self.locked &= !(1 << ra.0 | 1 << rb.0);
        let dst = self.dst_gpr(Some((root, ra)));
        if dst == ra {
            self.asm.alu(bits, Alu::Add, dst, rb);
        } else if dst == rb {
            self.asm.alu(bits, Alu::Add, dst, ra);
        } else {
            self.asm.lea(bits, dst, Mem::indexed(ra, rb, 0, 0));
            self.bind(dst.0);
            return true;
        }
        self.flags = Flags::Add { result: self.here(), a, b, bits };
        self.bind(dst.0);
        true
    }

    fn emit_sub(&mut self, i: &Inst) {
        let bits = i.ty.bits();
        match self.imm_of(i.b, bits) {
            Some(imm) => self.with_immediate(bits, Alu::Sub, i.a, i.b, imm),
            None => self.two_operand(bits, i.a, i.b, |s, dst, src| s.asm.alu(bits, Alu::Sub, dst, src)),
        }
        self.flags = Flags::Sub { result: self.here(), a: i.a, b: i.b, bits };
    }

    fn emit_logic(&mut self, i: &Inst, op: Alu) {
        let bits = i.ty.bits();
        let (a, b) = self.commute(i.a, i.b);
        match self.imm_of(b, bits) {
            Some(imm) => self.with_immediate(bits, op, a, b, imm),
            None => self.two_operand(bits, a, b, |s, dst, src| s.asm.alu(bits, op, dst, src)),
        }
        self.flags = Flags::Logic { result: self.here(), bits };
    }

    fn emit_and_not(&mut self, i: &Inst) {
        let bits = i.ty.bits().max(32);
        if let Some(c) = self.const_of(i.b) {
            let keep = !c & mask(i.ty.bits());
            let imm = if bits == 32 { Some(keep as i32) } else { i32::try_from(keep as i64).ok() };
            if let Some(imm) = imm {
                return self.with_immediate(bits, Alu::And, i.a, i.b, imm);
            }
        }
        if self.layout.features.bmi1 {
            return self.emit_vex_gpr(&Inst { ty: Type::int(bits / 8), ..*i }, ANDN, i.b, i.a);
        }
        self.prepare(i.a, bits);
        let t = self.alloc_gpr();
        let root = self.root(i.b);
        self.load_root(root, t.0);
        self.asm.group3(bits, 2, t);
        let src = self.rm(i.a);
        self.asm.alu(bits, Alu::And, t, src);
        self.done(i.a);
        self.done(i.b);
        self.bind(t.0);
    }

    /// dst = OP(vvvv, rm) for the three-operand VEX instructions on general registers.
    fn emit_vex_gpr(&mut self, i: &Inst, op: VOpcode, vvvv: Val, rm: Val) {
        let op = if i.ty == Type::I64 { op.w() } else { op };
        self.prepare(rm, i.ty.bits());
        let v = self.use_gpr(vvvv);
        let root = self.root(vvvv);
        let in_memory = matches!(self.rm(rm), Rm::Mem(_));
        self.done(vvvv);
        self.locked &= !(1 << v.0);
        if let (false, Rm::Reg(r)) = (in_memory, self.rm(rm)) {
            let rm_root = self.root(rm);
            self.done(rm);
            self.locked &= !(1 << r);
            let reuse = if self.v[root as usize].refs == 0 { (root, v) } else { (rm_root, Gpr(r)) };
            let dst = self.dst_gpr(Some(reuse));
            self.asm.vex(op, false, dst.0, v.0, Rm::Reg(r));
            return self.bind(dst.0);
        }
        self.lock(v.0);
        let dst = self.dst_gpr(Some((root, v)));
        let src = self.rm(rm);
        self.asm.vex(op, false, dst.0, v.0, src);
        self.done(rm);
        self.bind(dst.0);
    }

    // ---- shifts ----

    fn emit_shift(&mut self, i: &Inst, op: Shift, vex: Option<VOpcode>) {
        let bits = i.ty.bits();
        if let Some(c) = self.const_of(i.b) {
            let count = c as u8 & (bits - 1) as u8;
            let dst = self.in_place(i.a);
            if count != 0 {
                self.asm.shift_imm(bits, op, dst, count);
                if matches!(op, Shift::Shl | Shift::Shr | Shift::Sar) {
                    self.flags = Flags::Sign { result: self.here(), bits };
                }
            }
            if count == 0 && bits == 32 {
                self.asm.mov(32, dst, dst);
            }
            self.done(i.b);
            return self.bind(dst.0);
        }
        if let Some(vex) = vex
            && bits >= 32
            && self.layout.features.bmi2
        {
            return self.emit_vex_gpr(i, vex, i.b, i.a);
        }
        self.shift_by_cl(i, op, bits);
    }

    fn shift_by_cl(&mut self, i: &Inst, op: Shift, bits: u32) {
        let count = self.root(i.b);
        let must_mask = bits < 32;
        let in_cl = self.v[count as usize].reg == reg::RCX.0 && !must_mask && count != self.root(i.a);
        if in_cl {
            self.lock(reg::RCX.0);
        } else {
            self.claim(reg::RCX.0);
        }
        let root = self.root(i.a);
        let from = self.use_gpr(i.a);
        if !in_cl {
            self.load_root(count, reg::RCX.0);
            if must_mask {
                self.asm.alu_imm(32, Alu::And, reg::RCX, bits as i32 - 1);
            }
        }
        self.done(i.a);
        let dst = self.dst_gpr(Some((root, from)));
        self.copy(dst, from, root);
        self.asm.shift_cl(bits, op, dst);
        if bits == 32 {
            // A count of zero leaves the register as it was, upper half included.
            self.asm.mov(32, dst, dst);
        }
        self.done(i.b);
        self.bind(dst.0);
    }

    // ---- bit counts ----

    fn emit_clz(&mut self, i: &Inst) {
        let bits = i.ty.bits();
        let wide = bits.max(32);
        if self.layout.features.lzcnt {
            let (dst, src) = self.unary(i.a, bits);
            let src = self.widen(bits, dst, src);
            self.asm.bit_count(wide, 0xbd, dst, src);
            if bits < 32 {
                self.asm.alu_imm(32, Alu::Sub, dst, 32 - bits as i32);
            }
            self.bind(dst.0);
        } else {
            // Scratch first: allocation may store over a spill that `unary` has just released.
            let t = self.alloc_gpr();
            let (dst, src) = self.unary(i.a, bits);
            let src = self.widen(bits, t, src);
            self.scan_reverse(wide, bits, dst, t, src);
            self.bind(dst.0);
        }
    }

    /// Leading zeros by BSR.
    fn scan_reverse(&mut self, wide: u32, bits: u32, dst: Gpr, t: Gpr, src: Rm) {
        self.asm.bit_scan(wide, 0xbd, t, src);
        self.asm.mov_imm(dst, u64::from(2 * bits - 1));
        // 2*bits - 1 exclusive-ored with bits - 1 is bits.
        self.asm.cmov(32, Cc::E, t, dst);
        self.asm.mov(32, dst, t);
        self.asm.alu_imm(32, Alu::Xor, dst, bits as i32 - 1);
    }

    /// Zero-extends a narrow source to 32 bits in `dst`.
    fn widen(&mut self, bits: u32, dst: Gpr, src: Rm) -> Rm {
        if bits >= 32 {
            return src;
        }
        self.asm.movzx(bits, dst, src);
        Rm::from(dst)
    }

    fn emit_ctz(&mut self, i: &Inst) {
        let bits = i.ty.bits();
        let wide = bits.max(32);
        let scratch = (!self.layout.features.bmi1).then(|| self.alloc_gpr());
        let (dst, mut src) = self.unary(i.a, bits);
        if bits < 32 {
            src = self.widen(bits, dst, src);
            self.asm.alu_imm(32, Alu::Or, dst, 1 << bits);
        }
        let Some(t) = scratch else {
            self.asm.bit_count(wide, 0xbc, dst, src);
            return self.bind(dst.0);
        };
        self.asm.bit_scan(wide, 0xbc, t, src);
        self.asm.mov_imm(dst, u64::from(bits));
        self.asm.cmov(32, Cc::Ne, dst, t);
        self.bind(dst.0);
    }

    fn emit_popcnt(&mut self, i: &Inst) {
        let bits = i.ty.bits();
        let (dst, src) = self.unary(i.a, bits);
        let src = self.widen(bits, dst, src);
        self.asm.bit_count(bits.max(32), 0xb8, dst, src);
        self.bind(dst.0);
    }

    fn emit_crc32(&mut self, i: &Inst) {
        let from = self.ty(i.b).bits();
        self.two_operand(from, i.a, i.b, |s, dst, src| s.asm.crc32(from, dst, src));
    }

    // ---- addresses and bit fields ----

    fn emit_lea(&mut self, i: &Inst) {
        let dst = self.lea(i, None);
        self.bind(dst.0);
    }

    /// A fused address in a temporary that belongs to nobody.
    pub fn lea_into_temporary(&mut self, i: &Inst) -> Gpr {
        let locked = self.locked;
        let dst = self.lea(i, Some(()));
        self.locked = locked;
        self.lock(dst.0);
        dst
    }

    pub fn lea(&mut self, i: &Inst, temporary: Option<()>) -> Gpr {
        let bits = i.ty.bits().max(32);
        if let Some(disp) = self.constant_base(i, bits) {
            let index_root = self.root(i.b);
            let index = self.use_gpr(i.b);
            self.done(i.a);
            self.done(i.b);
            self.locked &= !(1 << index.0);
            let dst = match temporary {
                Some(()) => self.alloc_gpr(),
                None => self.dst_gpr(Some((index_root, index))),
            };
            self.asm.lea(bits, dst, Mem::unbased(index, i.aux & 3, disp));
            return dst;
        }
        let base = self.use_gpr(i.a);
        let base_root = self.root(i.a);
        let index = i.b.is_some().then(|| self.use_gpr(i.b));
        self.done(i.a);
        if index.is_some() {
            self.done(i.b);
        }
        let small = i32::try_from(if bits == 32 { i64::from(i.imm as i32) } else { i.imm as i64 });
        let keep = self.locked;
        if small.is_ok() {
            // One instruction: operands that die may be overwritten.
            self.locked &= !(1 << base.0 | index.map_or(0, |r| 1 << r.0));
        }
        let dst = match temporary {
            Some(()) => self.alloc_gpr(),
            None if small.is_ok() => self.dst_gpr(Some((base_root, base))),
            None => {
                self.locked = keep;
                self.alloc_gpr()
            }
        };
        let (disp, big) = match small {
            Ok(d) => (d, false),
            Err(_) => (0, true),
        };
        let scale = i.aux & 3;
        if big {
            self.asm.mov_imm(dst, i.imm);
            self.asm.alu(bits, Alu::Add, dst, base);
            if let Some(index) = index {
                self.asm.lea(bits, dst, Mem::indexed(dst, index, scale, 0));
            }
            self.flags = Flags::Unknown;
        } else {
            match index {
                Some(index) => self.asm.lea(bits, dst, Mem::indexed(base, index, scale, disp)),
                None if dst == base && disp != 0 => {
                    self.asm.alu_imm(bits, Alu::Add, dst, disp);
                    self.flags = Flags::Unknown;
                }
                None => self.asm.lea(bits, dst, Mem::new(base, disp)),
            }
        }
        dst
    }

    /// For an address with an index: base plus displacement, if that is a constant that an instruction can hold.
    fn constant_base(&self, i: &Inst, bits: u32) -> Option<i32> {
        let index = i.b.is_some() && self.const_of(i.b).is_none();
        let sum = self.const_of(i.a).filter(|_| index)?.wrapping_add(i.imm);
        i32::try_from(if bits == 32 { i64::from(sum as i32) } else { sum as i64 }).ok()
    }

    fn emit_deposit(&mut self, i: &Inst) {
        let bits = i.ty.bits();
        let pos = (i.imm & 0xff) as u8;
        let len = (i.imm >> 8 & 0xff) as u32;
        let root_b = self.root(i.b);
        if (len == 8 || len == 16) && self.root(i.a) != root_b {
            let src = self.use_gpr(i.b);
            let dst = self.in_place(i.a);
            let wide = bits.max(32);
            if pos == 0 {
                self.asm.mov_low(len, dst, src);
            } else {
                self.asm.shift_imm(wide, Shift::Ror, dst, pos);
                self.asm.mov_low(len, dst, src);
                self.asm.shift_imm(wide, Shift::Rol, dst, pos);
            }
            self.done(i.b);
            return self.bind(dst.0);
        }
        let wide = bits.max(32);
        let field = mask(len) << pos;
        let t = self.alloc_gpr();
        self.load_root(root_b, t.0);
        if len < wide {
            self.asm.shift_imm(wide, Shift::Shl, t, (wide - len) as u8);
            if wide - len > u32::from(pos) {
                self.asm.shift_imm(wide, Shift::Shr, t, (wide - len - u32::from(pos)) as u8);
            }
        }
        self.done(i.b);
        let dst = self.in_place(i.a);
        let keep = !field;
        match i32::try_from(keep as i64) {
            Ok(imm) => self.asm.alu_imm(64, Alu::And, dst, imm),
            Err(_) if wide == 32 => self.asm.alu_imm(32, Alu::And, dst, keep as i32),
            Err(_) => {
                let m = self.alloc_gpr();
                self.asm.mov_imm(m, keep);
                self.asm.alu(64, Alu::And, dst, m);
            }
        }
        self.asm.alu(64, Alu::Or, dst, t);
        self.bind(dst.0);
    }

    fn emit_extract(&mut self, i: &Inst) {
        let bits = i.ty.bits();
        let wide = bits.max(32);
        let pos = (i.imm & 0xff) as u8;
        let len = (i.imm >> 8 & 0xff) as u32;
        if pos == 0 && matches!(len, 8 | 16 | 32) {
            let (dst, src) = self.unary(i.a, len);
            self.asm.movzx(len, dst, src);
            return self.bind(dst.0);
        }
        let dst = self.in_place(i.a);
        if pos != 0 {
            self.asm.shift_imm(wide, Shift::Shr, dst, pos);
        }
        if u32::from(pos) + len < wide || pos == 0 {
            match len {
                8 | 16 | 32 => self.asm.movzx(len, dst, dst),
                0..=31 => self.asm.alu_imm(32, Alu::And, dst, mask(len) as i32),
                64 => {}
                _ => {
                    self.asm.shift_imm(64, Shift::Shl, dst, (64 - len) as u8);
                    self.asm.shift_imm(64, Shift::Shr, dst, (64 - len) as u8);
                }
            }
        }
        self.bind(dst.0);
    }
}

//! Random verified units.

use crate::world::{FIRST_PAGE, HELPERS};
use rhea_backend_x64::Features;
use rhea_ir::{Builder, Exit, Inst, MemFlags, Op, Slot, Target, Type, Val};

/// Xorshift: reproducible from the seed.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
    /// A value with a liking for edges.
    pub fn interesting(&mut self) -> u64 {
        match self.below(10) {
            0 => 0,
            1 => u64::MAX,
            2 => 1,
            3 => 1 << self.below(64),
            4 => (1u64 << self.below(64)).wrapping_sub(1),
            5 => self.below(256),
            6 => self.next() as i32 as i64 as u64,
            _ => self.next(),
        }
    }
}

pub const INTS: [Type; 4] = [Type::I8, Type::I16, Type::I32, Type::I64];
pub const PC: u64 = 0x40_1000;

pub struct Gen<'a> {
    pub b: Builder,
    pub rng: &'a mut Rng,
    pub pc: u64,
    /// Values that may be used, with a liking for recent ones.
    pub pool: Vec<Val>,
    /// Operations beyond these are left out.
    pub features: Features,
}

impl<'a> Gen<'a> {
    pub fn new(rng: &'a mut Rng) -> Self {
        let mut b = Builder::new();
        b.start(PC);
        b.insn(PC, 1);
        Gen { b, rng, pc: PC, pool: Vec::new(), features: Features::default() }
    }

    pub fn push(&mut self, inst: Inst) -> Val {
        let v = self.b.push(inst);
        if inst.ty != Type::Void && !matches!(inst.op, Op::PutSlot | Op::PutIndexed | Op::Store) {
            self.pool.push(v);
        }
        v
    }

    pub fn insn(&mut self) {
        self.pc += 1;
        self.b.insn(self.pc, 1);
    }

    pub fn constant(&mut self, ty: Type) -> Val {
        let c = self.rng.interesting();
        let v = self.b.iconst(ty, c);
        self.pool.push(v);
        v
    }

    /// A slot of the type: hot ones, plain ones, and some that overlap others.
    pub fn slot(&mut self, ty: Type) -> u32 {
        match ty {
            Type::I64 => match self.rng.below(10) {
                0..=5 => self.rng.below(8) as u32 * 8,
                _ => 64 + self.rng.below(10) as u32 * 8,
            },
            Type::I32 if self.rng.chance(5) => self.rng.below(8) as u32 * 8,
            Type::I8 | Type::I16 if self.rng.chance(5) => self.rng.below(8) as u32 * 8,
            ty if ty.is_int() => 96 + self.rng.below(20) as u32 * 4,
            Type::F80 => 768 + self.rng.below(8) as u32 * 16,
            _ => 256 + self.rng.below(8) as u32 * 32 + if self.rng.chance(20) { 16 } else { 0 },
        }
    }

    pub fn get(&mut self, ty: Type) -> Val {
        let offset = self.slot(ty);
        if self.rng.chance(60) {
            let v = self.b.get(Slot::new(offset as usize, ty));
            self.pool.push(v);
            return v;
        }
        self.push(Inst { imm: u64::from(offset), ..Inst::new(Op::GetSlot, ty) })
    }

    pub fn put(&mut self, v: Val) {
        let ty = self.b.ty(v);
        let offset = self.slot(ty);
        if self.rng.chance(60) {
            self.b.put(Slot::new(offset as usize, ty), v);
        } else {
            self.push(Inst { imm: u64::from(offset), a: v, ..Inst::new(Op::PutSlot, ty) });
            // Keep the builder's knowledge right.
            self.b.put(Slot::new(offset as usize, ty), v);
        }
    }

    pub fn value(&mut self, ty: Type) -> Val {
        for _ in 0..4 {
            if self.pool.is_empty() {
                break;
            }
            let n = self.pool.len() as u64;
            let back = self.rng.below(n).min(self.rng.below(n));
            let v = self.pool[(n - 1 - back) as usize];
            if self.b.ty(v) == ty {
                return v;
            }
        }
        if ty.is_int() && self.rng.chance(25) { self.constant(ty) } else { self.get(ty) }
    }

    pub fn binary(&mut self, op: Op, ty: Type) -> Val {
        let (a, b) = (self.value(ty), self.value(ty));
        self.push(Inst { a, b, ..Inst::new(op, ty) })
    }

    pub fn op2(&mut self, op: Op, ty: Type, a: Val, b: Val) -> Val {
        self.push(Inst { a, b, ..Inst::new(op, ty) })
    }

    /// A guest address, mostly valid.
    pub fn address(&mut self) -> Val {
        let v = self.value(Type::I64);
        if self.rng.chance(3) {
            return v;
        }
        let mask = self.b.iconst(Type::I64, if self.rng.chance(70) { 0xff8 } else { 0x1fff });
        let low = self.b.push(Inst { a: v, b: mask, ..Inst::new(Op::And, Type::I64) });
        let page = FIRST_PAGE + 4096 * self.rng.pick(&[0, 0, 0, 1, 1, 2]);
        if self.rng.chance(50) {
            let imm = page.wrapping_sub(self.rng.below(64));
            let index = if self.rng.chance(50) {
                let c = self.b.iconst(Type::I64, 15);
                let v = self.value(Type::I64);
                self.b.push(Inst { a: v, b: c, ..Inst::new(Op::And, Type::I64) })
            } else {
                Val::NONE
            };
            let aux = if index.is_some() { self.rng.below(4) as u8 } else { 0 };
            let v = self.b.push(Inst { a: low, b: index, aux, imm, ..Inst::new(Op::Lea, Type::I64) });
            if self.rng.chance(30) {
                self.pool.push(v);
            }
            return v;
        }
        let page = self.b.iconst(Type::I64, page);
        self.b.push(Inst { a: low, b: page, ..Inst::new(Op::Add, Type::I64) })
    }

    pub fn mem_flags(&mut self, ty: Type) -> MemFlags {
        let mut f = MemFlags::new(if self.rng.chance(85) { 1 } else { 2 });
        if self.rng.chance(10) && ty.is_int() {
            f = f.with(MemFlags::BIG_ENDIAN);
        }
        if self.rng.chance(10) {
            f = f.with(MemFlags::ALIGNED);
        }
        f
    }

    pub fn load(&mut self, ty: Type) -> Val {
        let a = self.address();
        let mut f = self.mem_flags(ty);
        if self.rng.chance(10) {
            f = f.with(MemFlags::FOR_WRITE);
        }
        self.push(Inst { a, aux: f.0, ..Inst::new(Op::Load, ty) })
    }

    pub fn store(&mut self, ty: Type) {
        let a = self.address();
        let b = self.value(ty);
        let f = self.mem_flags(ty);
        self.push(Inst { a, b, aux: f.0, ..Inst::new(Op::Store, ty) });
    }

    pub fn atomic(&mut self, ty: Type) {
        let a = self.address();
        let b = self.value(ty);
        let f = MemFlags(self.mem_flags(ty).0 & !MemFlags::BIG_ENDIAN);
        if self.rng.chance(70) {
            let imm = self.rng.below(10);
            self.push(Inst { a, b, aux: f.0, imm, ..Inst::new(Op::AtomicRmw, ty) });
        } else {
            let c = self.value(ty);
            self.push(Inst { a, b, c, aux: f.0, ..Inst::new(Op::AtomicCas, ty) });
        }
    }

    pub fn icmp(&mut self) -> Val {
        let ty = self.rng.pick(&INTS);
        let (a, mut b) = (self.value(ty), self.value(ty));
        if self.rng.chance(30) {
            b = self.b.iconst(ty, 0);
        }
        let aux = self.rng.below(10) as u8;
        self.push(Inst { a, b, aux, ..Inst::new(Op::Icmp, Type::I8) })
    }

    pub fn truth(&mut self) -> Val {
        if self.rng.chance(90) {
            return self.icmp();
        }
        let v = self.value(Type::I8);
        let one = self.b.iconst(Type::I8, 1);
        self.op2(Op::And, Type::I8, v, one)
    }

    pub fn exit(&mut self) -> Exit {
        let pc = match self.rng.below(5) {
            0 => PC - 16,
            1 => PC + 0x80 + self.rng.below(16),
            2 => 0x1234_5678_9abc_d000 + self.rng.below(256),
            3 => PC - 0x2000,
            _ => PC + 0x5000 + self.rng.below(99),
        };
        let target =
            if self.rng.chance(60) { Target::Static(pc) } else { Target::Dynamic(self.value(Type::I64)) };
        match self.rng.below(6) {
            0 => Exit::Leave { reason: self.rng.below(100) as u32, pc: Some(pc) },
            1 => Exit::Call { target, return_pc: PC + 0x44 + self.rng.below(0x3000) },
            2 => Exit::Return(self.value(Type::I64)),
            _ => Exit::Jump(target),
        }
    }

    pub fn exit_if(&mut self) {
        let exit = self.exit();
        // Seldom taken, so that units run on: equality with something unlikely.
        let c = if self.rng.chance(70) {
            let v = self.value(Type::I64);
            let k = self.b.iconst(Type::I64, 0x1357_9bdf);
            self.push(Inst { a: v, b: k, aux: 0, ..Inst::new(Op::Icmp, Type::I8) })
        } else {
            self.truth()
        };
        self.b.unit.exits.push(exit);
        let imm = self.b.unit.exits.len() as u64 - 1;
        self.push(Inst { a: c, imm, ..Inst::new(Op::ExitIf, Type::Void) });
    }

    pub fn call(&mut self) {
        let id = self.rng.below(HELPERS.len() as u64) as u32;
        let info = &HELPERS[id as usize];
        let args: Vec<Val> = info.params.iter().map(|&t| self.value(t)).collect();
        let v = self.b.call(id, info, &args);
        self.pool.push(v);
    }

    pub fn indexed(&mut self, ty: Type) {
        // Sixteen elements over plain slots (and, for I64, now and then the hot ones).
        let size = u64::from(ty.bytes());
        let base = if ty == Type::I64 && self.rng.chance(20) {
            0
        } else if ty == Type::F80 {
            768
        } else {
            128
        };
        let v = self.value(Type::I64);
        let c = self.b.iconst(Type::I64, 7 * size);
        let a = self.b.push(Inst { a: v, b: c, ..Inst::new(Op::And, Type::I64) });
        let aligned = self.b.iconst(Type::I64, !(size - 1));
        let a = self.b.push(Inst { a, b: aligned, ..Inst::new(Op::And, Type::I64) });
        if self.rng.chance(50) {
            let v = self.b.get_indexed(ty, base, 8 * size as u32, a);
            self.pool.push(v);
        } else {
            let v = self.value(ty);
            self.b.put_indexed(base, 8 * size as u32, a, v);
        }
    }

    pub fn integer(&mut self) {
        const SAME: [Op; 9] =
            [Op::Add, Op::Sub, Op::Mul, Op::MulHiU, Op::MulHiS, Op::And, Op::Or, Op::Xor, Op::AndNot];
        let ty = self.rng.pick(&[Type::I8, Type::I16, Type::I32, Type::I32, Type::I64, Type::I64, Type::I64]);
        match self.rng.below(24) {
            0..=6 => {
                let op = self.rng.pick(&SAME);
                self.binary(op, ty);
            }
            7..=8 => {
                let op = self.rng.pick(&[Op::Shl, Op::Shr, Op::Sar, Op::Rotl, Op::Rotr]);
                let a = self.value(ty);
                let count_ty = if self.rng.chance(50) { ty } else { Type::I8 };
                let b = if self.rng.chance(50) { self.constant(count_ty) } else { self.value(count_ty) };
                self.op2(op, ty, a, b);
            }
            9..=10 => {
                let ops = [Op::Neg, Op::Not, Op::Bswap, Op::Clz, Op::Ctz, Op::Popcnt];
                let op = self.rng.pick(if ty == Type::I8 { &ops[..2] } else { &ops });
                let a = self.value(ty);
                self.push(Inst { a, ..Inst::new(op, ty) });
            }
            11 => self.division(),
            12 if self.features.bmi2 => {
                let ty = self.rng.pick(&[Type::I32, Type::I64]);
                let op = self.rng.pick(&[Op::Pdep, Op::Pext]);
                self.binary(op, ty);
            }
            13 => {
                let a = self.value(Type::I32);
                let b = self.value(ty);
                self.op2(Op::Crc32c, Type::I32, a, b);
            }
            14..=16 => {
                let from = self.rng.pick(&INTS);
                if from == ty {
                    return;
                }
                let a = self.value(from);
                let op = if ty < from { Op::Trunc } else { self.rng.pick(&[Op::Zext, Op::Zext, Op::Sext]) };
                self.push(Inst { a, ..Inst::new(op, ty) });
            }
            17 => {
                let ty = self.rng.pick(&[Type::I32, Type::I64]);
                let a = self.value(ty);
                let b = if self.rng.chance(60) { self.value(ty) } else { Val::NONE };
                let imm = if self.rng.chance(80) { self.rng.next() as i16 as u64 } else { self.rng.next() };
                let aux = if b.is_some() { self.rng.below(4) as u8 } else { 0 };
                self.push(Inst { a, b, aux, imm, ..Inst::new(Op::Lea, ty) });
            }
            18..=19 => {
                let bits = u64::from(ty.bits());
                let (pos, len) = if self.rng.chance(60) {
                    let len = self.rng.pick(&[8, 16, 32]).min(bits);
                    (if len == 8 && bits > 8 && self.rng.chance(40) { 8 } else { 0 }, len)
                } else {
                    let pos = self.rng.below(bits);
                    (pos, 1 + self.rng.below(bits - pos))
                };
                let imm = pos | len << 8;
                let a = self.value(ty);
                if self.rng.chance(50) {
                    let b = self.value(ty);
                    self.push(Inst { a, b, imm, ..Inst::new(Op::Deposit, ty) });
                } else {
                    self.push(Inst { a, imm, ..Inst::new(Op::Extract, ty) });
                }
            }
            20..=21 => {
                self.icmp();
            }
            _ => {
                let (b, c) = (self.value(ty), self.value(ty));
                let a = self.truth();
                self.push(Inst { a, b, c, ..Inst::new(Op::Select, ty) });
            }
        }
    }

    /// A division whose quotient fits.
    fn division(&mut self) {
        let ty = self.rng.pick(&[Type::I32, Type::I64]);
        let bits = ty.bits();
        let (mut a, b, mut c) = (self.value(ty), self.value(ty), self.value(ty));
        let one = self.b.iconst(ty, 1);
        let (ops, c2) = if self.rng.chance(50) {
            let top = self.b.iconst(ty, 1 << (bits - 1));
            a = self.op2(Op::Shr, ty, a, one);
            c = self.op2(Op::Or, ty, c, top);
            ([Op::DivWideU, Op::RemWideU], c)
        } else {
            let sign = self.b.iconst(ty, u64::from(bits - 1));
            a = self.op2(Op::Sar, ty, b, sign);
            if self.rng.chance(30) {
                // A wider dividend, below the divisor's magnitude.
                let three = self.b.iconst(ty, 3);
                let v = self.value(ty);
                a = self.op2(Op::Sar, ty, v, three);
                let quarter = self.b.iconst(ty, 3 << (bits - 3));
                c = self.op2(Op::Or, ty, c, quarter);
            }
            c = self.op2(Op::Shr, ty, c, one);
            ([Op::DivWideS, Op::RemWideS], self.op2(Op::Or, ty, c, one))
        };
        for op in ops {
            if self.rng.chance(70) {
                self.push(Inst { a, b, c: c2, ..Inst::new(op, ty) });
            }
        }
    }

    /// Puts what is in the pool somewhere visible and ends the unit.
    pub fn finish(&mut self) {
        for _ in 0..6 {
            if self.pool.is_empty() {
                break;
            }
            let v = self.rng.pick(&self.pool.clone());
            self.put(v);
        }
        if self.rng.chance(30) {
            self.exit_if();
        }
        let exit = self.exit();
        self.b.exit(exit);
        self.b.unit.len = (self.pc - PC + 1) as u32;
    }

    /// One step of a program that exercises allocation, memory and control.
    pub fn control(&mut self) {
        let ty = self.rng.pick(&INTS);
        match self.rng.below(20) {
            0..=5 => {
                let v = if self.pool.is_empty() { self.get(ty) } else { self.rng.pick(&self.pool.clone()) };
                self.put(v);
            }
            6 => {
                self.get(ty);
            }
            7..=9 => {
                self.load(ty);
            }
            10..=11 => self.store(ty),
            12 => self.atomic(ty),
            13 => self.exit_if(),
            14 if self.rng.chance(20) => {
                self.b.fence();
            }
            14 => self.exit_if(),
            15 => self.call(),
            16 => self.indexed(ty),
            _ => self.insn(),
        }
    }
}

//! Operands: registers, immediates, effective addresses, memory.

use iced_x86::{OpKind, Register};
use rhea_ir::{MemFlags, Op, Type, Val};
use rhea_x86_state::mode;
use rhea_x86_state::state::{gpr, seg};

use crate::helpers;
use crate::slots;
use crate::translator::Translator;

/// A general register operand: its number and which part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GprPart {
    /// 0..=15.
    pub index: usize,
    /// Type of the part.
    pub ty: Type,
    /// AH, CH, DH or BH.
    pub high: bool,
}

/// The general register that `reg` names, if it is one.
pub fn gpr_part(reg: Register) -> Option<GprPart> {
    let n = reg as usize;
    let within = |first: Register, last: Register| n >= first as usize && n <= last as usize;
    if within(Register::RAX, Register::R15) {
        return Some(GprPart { index: n - Register::RAX as usize, ty: Type::I64, high: false });
    }
    if within(Register::EAX, Register::R15D) {
        return Some(GprPart { index: n - Register::EAX as usize, ty: Type::I32, high: false });
    }
    if within(Register::AX, Register::R15W) {
        return Some(GprPart { index: n - Register::AX as usize, ty: Type::I16, high: false });
    }
    if within(Register::AL, Register::BL) {
        return Some(GprPart { index: n - Register::AL as usize, ty: Type::I8, high: false });
    }
    if within(Register::AH, Register::BH) {
        return Some(GprPart { index: n - Register::AH as usize, ty: Type::I8, high: true });
    }
    if within(Register::SPL, Register::R15L) {
        return Some(GprPart { index: n - Register::SPL as usize + 4, ty: Type::I8, high: false });
    }
    None
}

/// Number (0..=5) of a segment register.
pub fn segment_index(reg: Register) -> Option<usize> {
    let n = (reg as usize).checked_sub(Register::ES as usize)?;
    (n < 6).then_some(n)
}

/// A memory operand's place: segment and offset.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Segment register number.
    pub segment: usize,
    /// Offset in the segment, I64, already wrapped at the address size.
    pub offset: Val,
}

impl Translator<'_> {
    // ---- general registers ----

    /// All 64 bits of general register `index`.
    pub fn gpr(&mut self, index: usize) -> Val {
        self.b.get(slots::gpr(index))
    }

    /// Low part of general register `index` of integer type `ty` (not a high byte).
    pub fn gpr_low(&mut self, index: usize, ty: Type) -> Val {
        let g = self.gpr(index);
        self.b.zext(ty, g)
    }

    /// Writes the low part of general register `index` as an instruction of `v`'s width does: 32-bit writes clear the
    /// upper half, narrower ones keep the rest.
    pub fn set_gpr(&mut self, index: usize, v: Val) {
        match self.b.ty(v) {
            Type::I64 => self.b.put(slots::gpr(index), v),
            Type::I32 => {
                let w = self.widen(v);
                self.b.put(slots::gpr(index), w);
            }
            ty => {
                let old = self.gpr(index);
                let v = self.any64(v);
                let new = self.b.deposit(old, v, 0, ty.bits());
                self.b.put(slots::gpr(index), new);
            }
        }
    }

    /// Value of a general register or part of one.
    pub fn read_part(&mut self, part: GprPart) -> Val {
        let g = self.gpr(part.index);
        if part.high {
            let h = self.b.extract(g, 8, 8);
            return self.b.zext(Type::I8, h);
        }
        self.b.zext(part.ty, g)
    }

    /// Writes a general register or part of one.
    pub fn write_part(&mut self, part: GprPart, v: Val) {
        if !part.high {
            return self.set_gpr(part.index, v);
        }
        let old = self.gpr(part.index);
        let v = self.any64(v);
        let new = self.b.deposit(old, v, 8, 8);
        self.b.put(slots::gpr(part.index), new);
    }

    /// Value of general register `reg` in the type its name says. Other registers give zero: the decoder's operand
    /// kinds keep them away.
    pub fn read_reg(&mut self, reg: Register) -> Val {
        match gpr_part(reg) {
            Some(part) => self.read_part(part),
            None => {
                debug_assert!(false, "{reg:?} is no general register");
                self.c64(0)
            }
        }
    }

    /// Writes general register `reg`.
    pub fn write_reg(&mut self, reg: Register, v: Val) {
        match gpr_part(reg) {
            Some(part) => self.write_part(part, v),
            None => debug_assert!(false, "{reg:?} is no general register"),
        }
    }

    // ---- operands ----

    /// Integer type of operand `i`: the register's, the memory operand's or the immediate's own.
    pub fn operand_type(&self, i: u32) -> Type {
        match self.insn.op_kind(i) {
            OpKind::Register => Type::int(self.insn.op_register(i).size() as u32),
            OpKind::Immediate8 | OpKind::Immediate8_2nd => Type::I8,
            OpKind::Immediate16 | OpKind::Immediate8to16 => Type::I16,
            OpKind::Immediate32 | OpKind::Immediate8to32 => Type::I32,
            OpKind::Immediate64 | OpKind::Immediate8to64 | OpKind::Immediate32to64 => Type::I64,
            _ => Type::int(self.insn.memory_size().size() as u32),
        }
    }

    /// Value of integer operand `i`: general register, immediate or memory (loaded at the operand's size). Call once.
    pub fn read_operand(&mut self, i: u32) -> Val {
        match self.insn.op_kind(i) {
            OpKind::Register => {
                let r = self.insn.op_register(i);
                self.read_reg(r)
            }
            OpKind::Memory => {
                let ty = self.operand_type(i);
                let addr = self.effective_address(ty.bytes(), false);
                self.load(ty, addr)
            }
            _ => {
                let ty = self.operand_type(i);
                let imm = self.insn.immediate(i);
                self.b.iconst(ty, imm)
            }
        }
    }

    /// Value of integer operand `i`, extended or truncated to `ty` (zero extension).
    pub fn read_operand_as(&mut self, i: u32, ty: Type) -> Val {
        let v = self.read_operand(i);
        self.b.zext(ty, v)
    }

    /// Writes integer operand `i` (general register or memory).
    pub fn write_operand(&mut self, i: u32, v: Val) {
        if self.is_memory(i) {
            let addr = self.effective_address(self.b.ty(v).bytes(), true);
            self.store(addr, v);
        } else {
            let r = self.insn.op_register(i);
            self.write_reg(r, v);
        }
    }

    // ---- addresses ----

    /// Width in bits of the addresses of this instruction's memory operand.
    pub fn address_bits(&self) -> u32 {
        let base = self.insn.memory_base();
        let reg = if base != Register::None { base } else { self.insn.memory_index() };
        match reg {
            Register::RIP => 64,
            Register::EIP => 32,
            Register::None => match self.insn.memory_displ_size() {
                2 => 16,
                8 => 64,
                _ if self.is64() && self.insn.memory_displ_size() != 4 => 64,
                _ => 32,
            },
            r => r.size() as u32 * 8,
        }
    }

    /// Offset of the memory operand in its segment (what LEA computes), I64, wrapped at the address size.
    pub fn memory_offset(&mut self) -> Val {
        let bits = self.address_bits();
        let (base, index) = (self.insn.memory_base(), self.insn.memory_index());
        let disp = self.insn.memory_displacement64();
        let part = |r: Register| gpr_part(r).map(|p| p.index);
        let base = match base {
            Register::None | Register::RIP | Register::EIP => None,
            r => part(r),
        };
        let index = part(index);
        let shift = self.insn.memory_index_scale().trailing_zeros() as u8;
        let v = match (base, index) {
            (None, None) => {
                let disp = if bits == 64 { disp } else { disp & ((1 << bits) - 1) };
                return self.c64(disp);
            }
            (Some(b), None) => {
                let b = self.gpr(b);
                self.b.lea(b, Val::NONE, 0, disp)
            }
            (None, Some(i)) => {
                let i = self.gpr(i);
                if shift == 0 {
                    self.b.lea(i, Val::NONE, 0, disp)
                } else if self.b.as_const(i).is_some() {
                    let s = self.b.bin_imm(Op::Shl, i, u64::from(shift));
                    self.b.lea(s, Val::NONE, 0, disp)
                } else {
                    let fixed = self.c64(disp);
                    self.b.lea(fixed, i, shift, 0)
                }
            }
            (Some(b), Some(i)) => {
                let b = self.gpr(b);
                let i = self.gpr(i);
                self.b.lea(b, i, shift, disp)
            }
        };
        self.wrap(v, bits)
    }

    /// I64 `v` wrapped at `bits` (16, 32, 64).
    pub fn wrap(&mut self, v: Val, bits: u32) -> Val {
        let inst = *self.b.unit.inst(v);
        let narrow = match inst.op {
            Op::Zext => self.b.ty(inst.a).bits() <= bits,
            Op::Extract => (inst.imm >> 8) as u32 <= bits,
            _ => false,
        };
        if bits >= 64 || narrow { v } else { self.b.extract(v, 0, bits) }
    }

    /// Place of the memory operand.
    pub fn place(&mut self) -> Place {
        let segment = segment_index(self.insn.memory_segment()).unwrap_or(seg::DS);
        let offset = self.memory_offset();
        Place { segment, offset }
    }

    /// Linear address of `bytes` bytes at `place`, with the segment checks the mode asks for.
    pub fn linear(&mut self, place: Place, bytes: u32, write: bool) -> Val {
        let Place { segment, offset } = place;
        let special = segment == seg::FS || segment == seg::GS;
        if self.is64() {
            if !special {
                return offset;
            }
            let base = self.b.get(slots::segment_base(segment));
            return self.b.add(base, offset);
        }
        let checked = match segment {
            // CS can never be written, and the mode word does not say whether it can be read.
            seg::CS => self.is_protected() || self.mode & mode::CHECK_SEGMENTS != 0,
            seg::FS => self.mode & mode::CHECK_FS != 0,
            seg::GS => self.mode & mode::CHECK_GS != 0,
            _ => self.mode & mode::CHECK_SEGMENTS != 0,
        };
        if checked {
            let what = segment as u64 | u64::from(bytes) << 8 | u64::from(write) << 24;
            let what = self.b.iconst(Type::I32, what);
            self.helper(helpers::CHECK_SEGMENT, &[what, offset]);
        }
        let base = if segment == seg::CS {
            self.c64(self.mode >> mode::CS_BASE_SHIFT)
        } else if self.mode & mode::ADD_SEGMENT == 0 && !special {
            return offset;
        } else {
            self.b.get(slots::segment_base(segment))
        };
        let sum = self.b.add(base, offset);
        self.wrap(sum, 32)
    }

    /// Linear address of the memory operand for an access of `bytes` bytes.
    pub fn effective_address(&mut self, bytes: u32, write: bool) -> Val {
        let place = self.place();
        self.linear(place, bytes, write)
    }

    // ---- memory ----

    /// Loads from linear address `addr` at the current privilege.
    pub fn load(&mut self, ty: Type, addr: Val) -> Val {
        let mem = self.mem;
        self.b.load(ty, addr, mem)
    }

    /// Loads what will be stored to next: faults as a store does.
    pub fn load_for_write(&mut self, ty: Type, addr: Val) -> Val {
        let mem = self.mem.with(MemFlags::FOR_WRITE);
        self.b.load(ty, addr, mem)
    }

    /// Stores `v` to linear address `addr` at the current privilege.
    pub fn store(&mut self, addr: Val, v: Val) {
        let mem = self.mem;
        self.b.store(addr, v, mem);
    }

    /// Loads or stores a vector (or anything) with more attributes, such as [`MemFlags::ALIGNED`].
    pub fn mem_with(&self, flags: u8) -> MemFlags {
        self.mem.with(flags)
    }

    // ---- stack ----

    /// Bits of the stack pointer in use: 16, 32 or 64.
    pub fn stack_bits(&self) -> u32 {
        if self.is64() {
            64
        } else if self.mode & mode::SS32 != 0 {
            32
        } else {
            16
        }
    }

    /// RSP, ESP or SP as I64 offset in SS.
    pub fn stack_pointer(&mut self) -> Val {
        let rsp = self.gpr(gpr::RSP);
        let bits = self.stack_bits();
        self.wrap(rsp, bits)
    }

    /// Writes an I64 offset to RSP, ESP or SP.
    pub fn set_stack_pointer(&mut self, v: Val) {
        match self.stack_bits() {
            64 => self.b.put(slots::gpr(gpr::RSP), v),
            32 => {
                let v = self.wrap(v, 32);
                self.b.put(slots::gpr(gpr::RSP), v);
            }
            _ => {
                let old = self.gpr(gpr::RSP);
                let new = self.b.deposit(old, v, 0, 16);
                self.b.put(slots::gpr(gpr::RSP), new);
            }
        }
    }

    /// Linear address of `bytes` bytes at stack offset `offset` (wrapped here).
    pub fn stack_address(&mut self, offset: Val, bytes: u32, write: bool) -> Val {
        let bits = self.stack_bits();
        let offset = self.wrap(offset, bits);
        self.linear(Place { segment: seg::SS, offset }, bytes, write)
    }

    /// Pushes `v` (I16, I32 or I64): stores first, then moves the stack pointer.
    pub fn push(&mut self, v: Val) {
        let bytes = self.b.ty(v).bytes();
        let sp = self.stack_pointer();
        let new = self.b.lea(sp, Val::NONE, 0, u64::from(bytes).wrapping_neg());
        let addr = self.stack_address(new, bytes, true);
        self.store(addr, v);
        self.set_stack_pointer(new);
    }

    /// Loads the top of the stack without popping: the value, and the stack pointer after a pop.
    pub fn peek(&mut self, ty: Type) -> (Val, Val) {
        let sp = self.stack_pointer();
        let addr = self.stack_address(sp, ty.bytes(), false);
        let v = self.load(ty, addr);
        let new = self.b.lea(sp, Val::NONE, 0, u64::from(ty.bytes()));
        (v, new)
    }
}

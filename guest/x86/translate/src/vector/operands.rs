//! Vector operands: registers with their upper-half rules, and memory.

use iced_x86::Register;
use rhea_ir::{Cond, Lane, MemFlags, Op, Type, Val};
use rhea_x86_state::mode;

use crate::reasons::vector;
use crate::slots;
use crate::translator::Translator;

impl Translator<'_> {
    /// Working type of the instruction: V256 if its first vector operand is a YMM register.
    pub(super) fn vector_type(&self) -> Type {
        let first = self.insn.op0_register();
        let register =
            if first == Register::None || first.is_gpr() { self.insn.op1_register() } else { first };
        if register.is_ymm() { Type::V256 } else { Type::V128 }
    }

    /// XMM register `index` as a V128.
    pub(super) fn read_xmm(&mut self, index: usize) -> Val {
        let (wide, low) = self.vector.wide[index];
        if !wide.is_some() {
            return self.b.get(slots::xmm(index));
        }
        // Still the value that was put as a whole, unless a helper has written the register since.
        let now = self.b.get(slots::ymm(index));
        if now == wide && low.is_some() {
            return low;
        }
        let low = self.resize_vector(Type::V128, now);
        self.vector.wide[index] = (now, low);
        low
    }

    /// Writes XMM register `index`: a legacy instruction keeps the rest of the YMM register, a VEX one zeroes it.
    pub(super) fn write_xmm(&mut self, index: usize, v: Val) {
        if self.vector.vex {
            let wide = self.resize_vector(Type::V256, v);
            self.b.put(slots::ymm(index), wide);
            self.vector.wide[index] = (wide, v);
        } else {
            self.b.put(slots::xmm(index), v);
            self.vector.wide[index] = (Val::NONE, Val::NONE);
        }
    }

    /// Writes YMM register `index`.
    pub(super) fn write_ymm(&mut self, index: usize, v: Val) {
        self.b.put(slots::ymm(index), v);
        self.vector.wide[index] = (v, Val::NONE);
    }

    /// Forgets which form vector registers were last written in: they changed by parts.
    pub(super) fn forget_wide(&mut self) {
        self.vector.wide = [(Val::NONE, Val::NONE); 16];
    }

    /// Value of a vector register; an MMX register is zero-extended to a V128.
    pub(super) fn read_vector_register(&mut self, register: Register) -> Val {
        let index = register.number();
        if register.is_mm() {
            let v = self.b.get(slots::mmx(index & 7));
            self.widen_to_vector(v)
        } else if register.is_ymm() {
            self.b.get(slots::ymm(index & 15))
        } else {
            self.read_xmm(index & 15)
        }
    }

    /// Value of vector operand `i`: a register, or memory loaded at the operand's size and zero-extended to a V128.
    pub(super) fn read_vector(&mut self, i: u32) -> Val {
        if !self.is_memory(i) {
            return self.read_vector_register(self.insn.op_register(i));
        }
        let bytes = self.insn.memory_size().size() as u32;
        let aligned = bytes == 16 && !self.vector.vex;
        self.load_vector(bytes, aligned)
    }

    /// Loads `bytes` (1, 2, 4, 8, 16, 32) from the memory operand, zero-extended to a V128 at least.
    pub(super) fn load_vector(&mut self, bytes: u32, aligned: bool) -> Val {
        let addr = self.effective_address(bytes, false);
        let mem = self.vector_mem(addr, bytes, aligned);
        match bytes {
            1 | 2 => {
                let v = self.b.load(Type::int(bytes), addr, mem);
                let v = self.b.zext(Type::I32, v);
                self.widen_to_vector(v)
            }
            4 | 8 => {
                let ty = if bytes == 4 { Type::F32 } else { Type::F64 };
                let v = self.b.load(ty, addr, mem);
                self.resize_vector(Type::V128, v)
            }
            16 => self.b.load(Type::V128, addr, mem),
            _ => self.b.load(Type::V256, addr, mem),
        }
    }

    /// Writes vector operand `i`: a register, or memory of the value's size.
    pub(super) fn write_vector(&mut self, i: u32, v: Val) {
        self.float_end();
        if self.is_memory(i) {
            let bytes = self.insn.memory_size().size() as u32;
            let aligned = bytes == 16 && !self.vector.vex;
            return self.store_vector(v, bytes, aligned);
        }
        let register = self.insn.op_register(i);
        let index = register.number();
        if register.is_mm() {
            let low = self.b.vextract(Lane::I64, v, 0);
            self.write_mmx(index & 7, low);
        } else if self.b.ty(v) == Type::V256 {
            self.write_ymm(index & 15, v);
        } else {
            self.write_xmm(index & 15, v);
        }
    }

    /// Stores the low `bytes` (4, 8, 16, 32) of `v` to the memory operand.
    pub(super) fn store_vector(&mut self, v: Val, bytes: u32, aligned: bool) {
        let v = match bytes {
            4 => self.resize_vector(Type::F32, v),
            8 => self.resize_vector(Type::F64, v),
            _ => v,
        };
        let addr = self.effective_address(bytes, true);
        let mem = self.vector_mem(addr, bytes, aligned);
        self.b.store(addr, v, mem);
    }

    /// Attributes of a vector access; `aligned` ones raise #GP where others may raise #AC.
    fn vector_mem(&mut self, addr: Val, bytes: u32, aligned: bool) -> MemFlags {
        let checked = self.mode & mode::ALIGNMENT_CHECK != 0;
        if bytes < 16 || (!aligned && !checked) {
            return self.mem;
        }
        if !checked {
            return self.mem_with(MemFlags::ALIGNED);
        }
        // Under alignment checking a mark means #AC; and #AC only asks for 16 bytes of vectors of 32.
        let multiple = if aligned { bytes } else { 16 };
        let low = self.b.and_imm(addr, u64::from(multiple - 1));
        let wrong = self.b.icmp_imm(Cond::Ne, low, 0);
        self.raise_if(wrong, if aligned { vector::GP } else { vector::AC });
        MemFlags(self.mem.0 & !MemFlags::ALIGNED)
    }

    /// First and second source of a two-source instruction.
    pub(super) fn sources(&mut self) -> (Val, Val) {
        let first = u32::from(self.vector.vex);
        let b = self.read_vector(first + 1);
        let a = self.read_vector(first);
        (a, b)
    }

    /// Changes the width of a vector, or moves between a scalar and lane 0.
    pub(super) fn resize_vector(&mut self, ty: Type, v: Val) -> Val {
        self.b.convert(Op::VResize, ty, Lane::None, 0, v)
    }

    /// An I32 or I64 zero-extended to a V128.
    pub(super) fn widen_to_vector(&mut self, v: Val) -> Val {
        self.b.convert(Op::VFromInt, Type::V128, Lane::None, 0, v)
    }

    /// A vector of zeros.
    pub(super) fn zero_vector(&mut self, ty: Type) -> Val {
        self.b.iconst(ty, 0)
    }
}

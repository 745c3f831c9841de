//! x87: common instructions become operations on the extended format, the rest calls of [`execute`].
//!
//! TOP is dynamic, so registers are named relative to TOP at the point where the unit first used the stack ("relative
//! register" k is physical register (TOP₀ + k) mod 8). What the unit learns about them is kept in [`Stack`]: byte
//! indices into the register array, values, and which are empty. An instruction that needs a register full or empty
//! checks it once a unit; when the check fails (a stack fault, which programs do not want) the unit leaves with
//! [`reasons::X87_FAULT`] and the instruction is executed in full by [`execute`].
//!
//! While the control word unmasks an exception or one is pending (mode bit `X87_UNMASKED`), every instruction is
//! executed by [`execute`]. The common path therefore has all exceptions masked: results are what the IR operations
//! give, sticky flags gather in the host and are merged where the status word is read.
//!
//! Limits of the common path: an operand from memory is widened by an operation of its own, so beside a NaN in the
//! stack it may still raise the denormal flag, and a signaling NaN from memory counts as quiet in the choice of the
//! result's payload. The instruction and data pointers and the last opcode are recorded in the slow path only, as AMD
//! processors report them only with an exception pending (APM vol. 2, 11.4.4); FOP is not recorded. C1 is cleared by
//! the common path, so there it does not tell the direction of rounding.

pub mod decode;
pub mod execute;

use iced_x86::ConditionCode;
use rhea_ir::{Exit, Inst, Op, Rounding, Type, Val};
use rhea_x86_state::mode;

use crate::reasons;
use crate::slots;
use crate::translator::Translator;
use crate::vector_helpers as vh;
use decode::{Decoded, Operand, Operation};

/// C1 in the status word.
const C1: u64 = 1 << 9;
/// C0, C1, C2 and C3.
const CONDITIONS: u64 = 0x4700;

/// What a unit knows of the x87 stack.
#[derive(Clone)]
pub struct Stack {
    /// TOP as it was when the stack was first used (I32), and the same times 16 (I64). `NONE`: not used yet.
    base: Val,
    scaled: Val,
    /// Empty bits as they were then: as stored (I32), and rotated to relative registers (I8).
    empty_base: Val,
    empty_rotated: Val,
    /// TOP now, relative; TOP and tags as last put.
    top: u8,
    put_top: u8,
    put_changed: u8,
    /// Relative registers whose tag is known; those of them that are empty; those that differ from the base.
    known: u8,
    empty: u8,
    changed: u8,
    /// Byte index (I64), TOP value (I32) and contents (F80) of relative registers, where computed.
    index: [Val; 8],
    tops: [Val; 8],
    value: [Val; 8],
    /// Tag words computed: the difference from the base, and the value.
    tag_words: [(u8, Val); 4],
    next_tag_word: usize,
    /// C1 is known to be clear.
    c1_clear: bool,
}

impl Default for Stack {
    fn default() -> Self {
        Stack {
            base: Val::NONE,
            scaled: Val::NONE,
            empty_base: Val::NONE,
            empty_rotated: Val::NONE,
            top: 0,
            put_top: 0,
            put_changed: 0,
            known: 0,
            empty: 0,
            changed: 0,
            index: [Val::NONE; 8],
            tops: [Val::NONE; 8],
            value: [Val::NONE; 8],
            tag_words: [(0, Val::NONE); 4],
            next_tag_word: 0,
            c1_clear: false,
        }
    }
}

impl Stack {
    /// Relative register of ST(i).
    fn relative(&self, i: u8) -> usize {
        usize::from((self.top + i) & 7)
    }
}

impl Translator<'_> {
    /// Translates an x87 instruction; false if it is none.
    pub(crate) fn x87(&mut self) -> bool {
        let Some(d) = decode::decode(&self.insn) else { return false };
        let unavailable = if d.operation == Operation::Wait {
            self.mode & mode::TS != 0 && self.mode & mode::MP != 0
        } else {
            self.mode & (mode::TS | mode::EM) != 0
        };
        if unavailable {
            self.raise(reasons::vector::NM);
            return true;
        }
        if self.mode & mode::X87_UNMASKED != 0 {
            self.x87_in_full(d);
        } else {
            self.x87_fast(d);
        }
        true
    }

    /// Forgets what is known of the x87 stack: something else changed it.
    pub(crate) fn forget_x87(&mut self) {
        if self.stack.base.is_some() {
            self.stack = Stack::default();
        }
        self.vector.leave_mmx();
    }

    /// Calls the helper that executes any instruction.
    fn x87_in_full(&mut self, d: Decoded) {
        let mut control = d.pack() | u64::from(self.mem.index()) << 56;
        let (addr, offset) = if d.is_memory() {
            let place = self.place();
            control |= (place.segment as u64) << 44;
            (self.linear(place, d.memory_bytes(), d.stores()), place.offset)
        } else {
            let zero = self.c64(0);
            (zero, zero)
        };
        let control = self.c64(control);
        let next = self.c64(self.next_pc);
        self.helper(vh::X87_EXECUTE, &[control, addr, offset, next]);
    }

    /// Calls the helper for operations on the stack only.
    fn x87_function(&mut self, d: Decoded) {
        let control = self.c64(d.pack());
        self.helper(vh::X87_FUNCTION, &[control]);
    }

    // ---- the stack ----

    fn use_stack(&mut self) {
        if self.stack.base.is_some() {
            return;
        }
        self.vector.leave_mmx();
        let base = self.b.get(slots::X87_TOP);
        let wide = self.b.zext(Type::I64, base);
        let scaled = self.b.bin_imm(Op::Shl, wide, 4);
        let empty = self.b.get(slots::X87_EMPTY);
        let bits = self.b.zext(Type::I8, empty);
        let count = self.b.zext(Type::I8, base);
        let rotated = self.b.push(Inst { a: bits, b: count, ..Inst::new(Op::Rotr, Type::I8) });
        let s = &mut self.stack;
        s.base = base;
        s.scaled = scaled;
        s.empty_base = empty;
        s.empty_rotated = rotated;
        s.index[0] = scaled;
        s.tops[0] = base;
    }

    /// Requires ST(i) to be full for each bit i of `full` and empty for each of `empty` (7: the register below TOP).
    /// False if the unit knows otherwise: the instruction was then executed in full.
    fn require(&mut self, d: Decoded, full: u8, empty: u8) -> bool {
        self.use_stack();
        let top = u32::from(self.stack.top);
        let (full, empty) = (full.rotate_left(top), empty.rotate_left(top));
        let s = &self.stack;
        if s.known & full & s.empty != 0 || s.known & empty & !s.empty != 0 || full & empty != 0 {
            self.x87_in_full(d);
            return false;
        }
        let unknown = (full | empty) & !s.known;
        if unknown != 0 {
            let bits = self.b.and_imm(self.stack.empty_rotated, u64::from(unknown));
            let wrong = self.b.icmp_imm(rhea_ir::Cond::Ne, bits, u64::from(unknown & empty));
            self.b.exit_if(wrong, Exit::Leave { reason: reasons::X87_FAULT, pc: Some(self.pc) });
            self.stack.known |= unknown;
            self.stack.empty = self.stack.empty & !unknown | unknown & empty;
        }
        true
    }

    fn byte_index(&mut self, k: usize) -> Val {
        if !self.stack.index[k].is_some() {
            let sum = self.b.lea(self.stack.scaled, Val::NONE, 0, 16 * k as u64);
            self.stack.index[k] = self.b.and_imm(sum, 0x70);
        }
        self.stack.index[k]
    }

    /// Contents of ST(i).
    fn read_st(&mut self, i: u8) -> Val {
        let k = self.stack.relative(i);
        if !self.stack.value[k].is_some() {
            let index = self.byte_index(k);
            self.stack.value[k] =
                self.b.get_indexed(Type::F80, slots::X87_ARRAY, slots::X87_ARRAY_BYTES, index);
        }
        self.stack.value[k]
    }

    /// Sets the contents of ST(i).
    fn write_st(&mut self, i: u8, v: Val) {
        let k = self.stack.relative(i);
        let index = self.byte_index(k);
        self.b.put_indexed(slots::X87_ARRAY, slots::X87_ARRAY_BYTES, index, v);
        self.stack.value[k] = v;
    }

    fn mark(&mut self, k: usize, empty: bool) {
        let bit = 1u8 << k;
        if (self.stack.empty & bit != 0) != empty {
            self.stack.empty ^= bit;
            self.stack.changed ^= bit;
        }
    }

    /// Pushes `v`; [`Translator::require`] has seen that there is room.
    fn push_st(&mut self, v: Val) {
        self.stack.top = (self.stack.top + 7) & 7;
        let k = self.stack.relative(0);
        self.mark(k, false);
        self.write_st(0, v);
    }

    fn pop_st(&mut self, pops: u8) {
        for _ in 0..pops {
            let k = self.stack.relative(0);
            self.mark(k, true);
            self.stack.top = (self.stack.top + 1) & 7;
        }
    }

    /// Puts TOP and the tags where they changed, and clears C1.
    fn finish_x87(&mut self) {
        if self.stack.top != self.stack.put_top {
            let k = usize::from(self.stack.top);
            if !self.stack.tops[k].is_some() {
                let sum = self.b.add_imm(self.stack.base, k as u64);
                self.stack.tops[k] = self.b.and_imm(sum, 7);
            }
            self.b.put(slots::X87_TOP, self.stack.tops[k]);
            self.stack.put_top = self.stack.top;
        }
        if self.stack.changed != self.stack.put_changed {
            let word = self.tag_word(self.stack.changed);
            self.b.put(slots::X87_EMPTY, word);
            self.stack.put_changed = self.stack.changed;
        }
        if !self.stack.c1_clear {
            let status = self.b.get(slots::X87_SW);
            let status = self.b.and_imm(status, !C1);
            self.b.put(slots::X87_SW, status);
            self.stack.c1_clear = true;
        }
    }

    /// The empty bits with `changed` relative registers inverted.
    fn tag_word(&mut self, changed: u8) -> Val {
        if changed == 0 {
            return self.stack.empty_base;
        }
        if let Some(&(_, v)) = self.stack.tag_words.iter().find(|w| w.0 == changed) {
            return v;
        }
        let bits = self.b.iconst(Type::I8, u64::from(changed));
        let count = self.b.zext(Type::I8, self.stack.base);
        let bits = self.b.push(Inst { a: bits, b: count, ..Inst::new(Op::Rotl, Type::I8) });
        let bits = self.b.zext(Type::I32, bits);
        let word = self.b.xor(self.stack.empty_base, bits);
        let n = self.stack.next_tag_word;
        self.stack.tag_words[n] = (changed, word);
        self.stack.next_tag_word = (n + 1) % self.stack.tag_words.len();
        word
    }

    // ---- instructions ----

    fn x87_fast(&mut self, d: Decoded) {
        use Operation as O;
        match d.operation {
            O::Add | O::Mul | O::Sub | O::SubR | O::Div | O::DivR => self.x87_arithmetic(d),
            O::Compare | O::CompareQuiet | O::CompareFlags | O::CompareFlagsQuiet | O::Test => {
                self.x87_compare(d)
            }
            O::Load if d.operand == Operand::Bcd => self.x87_in_full(d),
            O::Load | O::LoadOne | O::LoadZero => self.x87_load(d),
            O::Store if d.operand == Operand::Bcd => self.x87_in_full(d),
            O::Store | O::StoreTruncated => self.x87_store(d),
            O::Exchange => {
                if self.require(d, 1 | 1 << d.register, 0) {
                    let (a, b) = (self.read_st(0), self.read_st(d.register));
                    self.write_st(0, b);
                    self.write_st(d.register, a);
                    self.finish_x87();
                }
            }
            O::Absolute => self.x87_unary(d, Op::XAbs),
            O::ChangeSign => self.x87_unary(d, Op::XNeg),
            O::SquareRoot => self.x87_unary(d, Op::XSqrt),
            O::RoundToInteger => self.x87_unary(d, Op::XRound),
            O::Scale => {
                if self.require(d, 3, 0) {
                    let (a, b) = (self.read_st(0), self.read_st(1));
                    let v = self.b.push(Inst { a, b, ..Inst::new(Op::XScale, Type::F80) });
                    self.write_st(0, v);
                    self.finish_x87();
                }
            }
            O::Move => self.x87_move(d),
            O::DecrementTop | O::IncrementTop => {
                self.use_stack();
                let step = if d.operation == O::DecrementTop { 7 } else { 1 };
                self.stack.top = (self.stack.top + step) & 7;
                self.finish_x87();
            }
            O::Free => {
                if self.require(d, 1 << d.register | u8::from(d.pops != 0), 0) {
                    let k = self.stack.relative(d.register);
                    self.mark(k, true);
                    self.pop_st(d.pops);
                    self.finish_tags_only();
                }
            }
            O::Nothing | O::Wait => {}
            O::LoadControl => {
                let v = self.read_operand_as(0, Type::I32);
                let next = self.c64(self.next_pc);
                self.helper(vh::X87_LOAD_CONTROL, &[v, next]);
            }
            O::StoreControl => {
                let v = self.b.get(slots::X87_CW);
                let v = self.b.zext(Type::I16, v);
                self.write_operand(0, v);
            }
            O::StoreStatus => {
                let v = self.helper(vh::X87_STATUS_WORD, &[]);
                let v = self.b.zext(Type::I16, v);
                self.write_operand(0, v);
            }
            O::ClearExceptions
            | O::Initialize
            | O::LoadEnvironment
            | O::StoreEnvironment
            | O::Save
            | O::Restore => self.x87_in_full(d),
            _ => self.x87_function(d),
        }
    }

    /// As [`Translator::finish_x87`] for an instruction that leaves C1 alone.
    fn finish_tags_only(&mut self) {
        let c1 = std::mem::replace(&mut self.stack.c1_clear, true);
        self.finish_x87();
        self.stack.c1_clear = c1;
    }

    /// Loads the memory operand and widens it.
    fn x87_memory(&mut self, d: Decoded) -> Val {
        let addr = self.effective_address(d.memory_bytes(), false);
        let (ty, op) = match d.operand {
            Operand::F32 => (Type::I32, Op::XFromF32),
            Operand::F64 => (Type::I64, Op::XFromF64),
            Operand::I16 => (Type::I16, Op::XFromInt),
            Operand::I32 => (Type::I32, Op::XFromInt),
            Operand::I64 => (Type::I64, Op::XFromInt),
            _ => {
                let significand = self.load(Type::I64, addr);
                let high = self.b.lea(addr, Val::NONE, 0, 8);
                let sign_exponent = self.load(Type::I16, high);
                return self.x87_parts(significand, sign_exponent);
            }
        };
        let v = self.load(ty, addr);
        let a = if op == Op::XFromInt { self.b.sext(Type::I64, v) } else { v };
        self.b.push(Inst { a, ..Inst::new(op, Type::F80) })
    }

    fn x87_parts(&mut self, significand: Val, sign_exponent: Val) -> Val {
        self.b.push(Inst { a: significand, b: sign_exponent, ..Inst::new(Op::XFromParts, Type::F80) })
    }

    fn x87_constant(&mut self, significand: u64, sign_exponent: u64) -> Val {
        let a = self.c64(significand);
        let b = self.b.iconst(Type::I16, sign_exponent);
        self.x87_parts(a, b)
    }

    fn x87_arithmetic(&mut self, d: Decoded) {
        let full = 1 << d.destination | if d.is_memory() { 0 } else { 1 << d.register };
        if !self.require(d, full | u8::from(d.pops != 0), 0) {
            return;
        }
        let source = if d.is_memory() { self.x87_memory(d) } else { self.read_st(d.register) };
        let destination = self.read_st(d.destination);
        let (op, a, b) = match d.operation {
            Operation::Add => (Op::XAdd, destination, source),
            Operation::Mul => (Op::XMul, destination, source),
            Operation::Sub => (Op::XSub, destination, source),
            Operation::SubR => (Op::XSub, source, destination),
            Operation::Div => (Op::XDiv, destination, source),
            _ => (Op::XDiv, source, destination),
        };
        let v = self.b.push(Inst { a, b, ..Inst::new(op, Type::F80) });
        self.write_st(d.destination, v);
        self.pop_st(d.pops);
        self.finish_x87();
    }

    fn x87_unary(&mut self, d: Decoded, op: Op) {
        if self.require(d, 1, 0) {
            let a = self.read_st(0);
            let v = self.b.push(Inst { a, ..Inst::new(op, Type::F80) });
            self.write_st(0, v);
            self.finish_x87();
        }
    }

    fn x87_compare(&mut self, d: Decoded) {
        let in_stack = d.operand == Operand::Stack;
        let full = 1 | if in_stack { 1 << d.register } else { 0 };
        if !self.require(d, full, 0) {
            return;
        }
        let b = match d.operation {
            Operation::Test => self.x87_constant(0, 0),
            _ if in_stack => self.read_st(d.register),
            _ => self.x87_memory(d),
        };
        let a = self.read_st(0);
        let quiet = matches!(d.operation, Operation::CompareQuiet | Operation::CompareFlagsQuiet);
        let relation = self.b.push(Inst { a, b, aux: u8::from(!quiet), ..Inst::new(Op::XRel, Type::I32) });
        if matches!(d.operation, Operation::CompareFlags | Operation::CompareFlagsQuiet) {
            self.set_flags_relation(relation);
        } else {
            self.put_conditions(relation);
        }
        self.pop_st(d.pops);
        self.finish_x87();
    }

    /// C0, C2, C3 from a relation code; C1 cleared.
    fn put_conditions(&mut self, relation: Val) {
        // One word for each code: greater, less (C0), equal (C3), unordered (all).
        let table = self.c64(0x4500_4000_0100_0000);
        let shift = self.b.zext(Type::I64, relation);
        let shift = self.b.bin_imm(Op::Shl, shift, 4);
        let bits = self.b.bin(Op::Shr, table, shift);
        let bits = self.b.zext(Type::I32, bits);
        let bits = self.b.and_imm(bits, CONDITIONS);
        let status = self.b.get(slots::X87_SW);
        let status = self.b.and_imm(status, !CONDITIONS);
        let status = self.b.or(status, bits);
        self.b.put(slots::X87_SW, status);
        self.stack.c1_clear = true;
    }

    fn x87_load(&mut self, d: Decoded) {
        let full = if d.operand == Operand::Stack { 1 << d.register } else { 0 };
        if !self.require(d, full, 1 << 7) {
            return;
        }
        let v = match (d.operation, d.operand) {
            (Operation::LoadOne, _) => self.x87_constant(1 << 63, 0x3fff),
            (Operation::LoadZero, _) => self.x87_constant(0, 0),
            (_, Operand::Stack) => self.read_st(d.register),
            _ => self.x87_memory(d),
        };
        self.push_st(v);
        self.finish_x87();
    }

    fn x87_store(&mut self, d: Decoded) {
        let in_stack = d.operand == Operand::Stack;
        // A store to an empty register fills it; that is rare enough for the slow path.
        let full = 1 | if in_stack { 1 << d.register } else { 0 };
        if !self.require(d, full, 0) {
            return;
        }
        let v = self.read_st(0);
        if in_stack {
            if d.register != 0 {
                self.write_st(d.register, v);
            }
        } else {
            self.x87_store_memory(d, v);
        }
        self.pop_st(d.pops);
        self.finish_x87();
    }

    fn x87_store_memory(&mut self, d: Decoded, v: Val) {
        let rounding =
            if d.operation == Operation::StoreTruncated { Rounding::Zero } else { Rounding::Current };
        let (op, ty) = match d.operand {
            Operand::F32 => (Op::XToF32, Type::I32),
            Operand::F64 => (Op::XToF64, Type::I64),
            Operand::I16 => (Op::XToInt, Type::I16),
            Operand::I32 => (Op::XToInt, Type::I32),
            Operand::I64 => (Op::XToInt, Type::I64),
            _ => {
                let addr = self.effective_address(10, true);
                let significand = self.b.push(Inst { a: v, ..Inst::new(Op::XSignificand, Type::I64) });
                let sign_exponent = self.b.push(Inst { a: v, ..Inst::new(Op::XSignExponent, Type::I16) });
                // The two stores must both succeed or both fail: within a page they do, the rest goes the slow way.
                let in_page = self.b.and_imm(addr, 0xfff);
                let crosses = self.b.icmp_imm(rhea_ir::Cond::GtU, in_page, 0xff6);
                self.b.exit_if(crosses, Exit::Leave { reason: reasons::X87_FAULT, pc: Some(self.pc) });
                let high = self.b.lea(addr, Val::NONE, 0, 8);
                self.store(addr, significand);
                return self.store(high, sign_exponent);
            }
        };
        let addr = self.effective_address(d.memory_bytes(), true);
        // A store that faults must find the sticky flags as they were.
        self.load_for_write(ty, addr);
        let aux = if op == Op::XToInt { rounding as u8 } else { 0 };
        let bits = self.b.push(Inst { a: v, aux, ..Inst::new(op, ty) });
        self.store(addr, bits);
    }

    fn x87_move(&mut self, d: Decoded) {
        if !self.require(d, 1 | 1 << d.register, 0) {
            return;
        }
        let condition = match d.destination {
            0 => ConditionCode::b,
            1 => ConditionCode::e,
            2 => ConditionCode::be,
            3 => ConditionCode::p,
            4 => ConditionCode::ae,
            5 => ConditionCode::ne,
            6 => ConditionCode::a,
            _ => ConditionCode::np,
        };
        let condition = self.condition(condition);
        let source = self.stack.relative(d.register);
        let source = self.byte_index(source);
        let own = self.stack.relative(0);
        let own = self.byte_index(own);
        let index = self.b.select(condition, source, own);
        let v = self.b.get_indexed(Type::F80, slots::X87_ARRAY, slots::X87_ARRAY_BYTES, index);
        self.write_st(0, v);
        self.finish_x87();
    }
}

//! Every x87 instruction in full, on the register state: stack faults, unmasked exceptions, condition codes, the
//! transcendental functions, environment images (SDM vol. 1, chapter 8, and vol. 2).
//!
//! Arithmetic is `rhea_softfloat`'s. An unmasked invalid, denormal or divide-by-zero exception stops an instruction
//! before it changes anything but the status word; the others let it deliver its result, except stores to memory.
//! The exception itself is taken by the next waiting instruction.

use rhea_softfloat as sf;
use rhea_softfloat::{Env, F32, F64, F80, Relation, Rounding, x87};
use rhea_x86_state::X86State;
use rhea_x86_state::flags;
use rhea_x86_state::state::X87Register;

use super::decode::{Decoded, Operand, Operation, is_control};

mod environment;
#[cfg(test)]
mod tests;

/// Invalid operation.
const IE: u32 = 1;
const DE: u32 = 2;
const ZE: u32 = 4;
const OE: u32 = 8;
const UE: u32 = 16;
const PE: u32 = 32;
const EXCEPTIONS: u32 = 0x3f;
/// Stack fault.
const SF: u32 = 1 << 6;
/// Error summary, and the busy bit that mirrors it.
const ES: u32 = 1 << 7 | 1 << 15;
const C0: u32 = 1 << 8;
const C1: u32 = 1 << 9;
const C2: u32 = 1 << 10;
const C3: u32 = 1 << 14;
/// The largest environment image: FNSAVE with 32-bit format.
pub const MEMORY_BYTES: usize = 108;

/// What an invalid operation delivers when masked.
const INDEFINITE: F80 = F80 { sign_exponent: 0xffff, significand: 3 << 62 };

/// An unmasked exception is pending: the instruction was not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending;

/// Bytes of the memory operand: filled before for loads, by the instruction for stores.
pub struct Memory {
    /// The bytes.
    pub bytes: [u8; MEMORY_BYTES],
    /// How many the instruction wants stored.
    pub stored: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Memory { bytes: [0; MEMORY_BYTES], stored: 0 }
    }
}

impl Memory {
    fn int(&self, at: usize, size: usize) -> u64 {
        let mut b = [0; 8];
        b[..size].copy_from_slice(&self.bytes[at..at + size]);
        u64::from_le_bytes(b)
    }

    fn set_int(&mut self, at: usize, size: usize, value: u64) {
        self.bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }

    fn store(&mut self, size: usize, value: u64) {
        self.set_int(0, size, value);
        self.stored = size;
    }
}

/// Pointers to the instruction at hand and its operand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pointers {
    /// Offset of the instruction and its code segment's selector.
    pub ip: u64,
    /// CS.
    pub cs: u16,
    /// Offset of the memory operand.
    pub dp: u64,
    /// Its segment's selector.
    pub ds: u16,
}

/// Executes `d`. Sticky flags that gathered elsewhere must have been merged into the status word.
///
/// # Errors
/// [`Pending`] if the instruction waits and an exception is pending; then nothing was done.
pub fn execute(st: &mut X86State, d: Decoded, at: Pointers, memory: &mut Memory) -> Result<(), Pending> {
    if !d.no_wait && st.x87_sw & ES & 0xff != 0 {
        return Err(Pending);
    }
    if !is_control(d.operation) {
        st.x87_ip = at.ip;
        st.x87_cs_ds_op[0] = u32::from(at.cs);
        if d.is_memory() {
            st.x87_dp = at.dp;
            st.x87_cs_ds_op[1] = u32::from(at.ds);
        }
    }
    let env = Env::from_x87_control(st.x87_cw as u16);
    Machine { st, env }.execute(d, memory);
    st_summary(st);
    Ok(())
}

/// Recomputes the error summary from flags and masks.
pub fn st_summary(st: &mut X86State) {
    if st.x87_sw & !st.x87_cw & EXCEPTIONS != 0 {
        st.x87_sw |= ES;
    } else {
        st.x87_sw &= !ES;
    }
}

/// The status word with TOP.
pub fn status_word(st: &X86State) -> u16 {
    (st.x87_sw & 0xc7ff | (st.x87_top & 7) << 11) as u16
}

/// Loads the status word with TOP.
pub fn set_status_word(st: &mut X86State, value: u16) {
    st.x87_sw = u32::from(value) & 0xc7ff;
    st.x87_top = u32::from(value >> 11) & 7;
}

/// Loads the control word: bit 6 always reads one, the undefined bits zero.
pub fn set_control_word(st: &mut X86State, value: u16) {
    st.x87_cw = u32::from(value) & 0x1f3f | 0x40;
    st_summary(st);
}

/// FNINIT.
pub fn initialize(st: &mut X86State) {
    st.x87_cw = 0x37f;
    st.x87_sw = 0;
    st.x87_top = 0;
    st.x87_empty = 0xff;
    st.x87_ip = 0;
    st.x87_dp = 0;
    st.x87_cs_ds_op = [0; 4];
}

/// The full tag word: two bits for each physical register.
pub fn tag_word(st: &X86State) -> u16 {
    (0..8).fold(0, |word, i| {
        let r = &st.x87[i];
        let exponent = r.sign_exponent & 0x7fff;
        let tag = if st.x87_empty >> i & 1 != 0 {
            3
        } else if exponent == 0 && r.significand == 0 {
            1
        } else if exponent == 0 || exponent == 0x7fff || r.significand >> 63 == 0 {
            2
        } else {
            0
        };
        word | tag << (2 * i)
    })
}

fn set_tag_word(st: &mut X86State, word: u16) {
    st.x87_empty = (0..8).fold(0, |e, i| e | u32::from(word >> (2 * i) & 3 == 3) << i);
}

struct Machine<'a> {
    st: &'a mut X86State,
    env: Env,
}

impl Machine<'_> {
    fn physical(&self, i: u8) -> usize {
        (self.st.x87_top as usize + usize::from(i)) & 7
    }

    fn is_empty(&self, i: u8) -> bool {
        self.st.x87_empty >> self.physical(i) & 1 != 0
    }

    fn get(&self, i: u8) -> F80 {
        let r = &self.st.x87[self.physical(i)];
        F80 { sign_exponent: r.sign_exponent, significand: r.significand }
    }

    fn set(&mut self, i: u8, v: F80) {
        let p = self.physical(i);
        self.st.x87[p] = X87Register {
            significand: v.significand,
            sign_exponent: v.sign_exponent,
            ..X87Register::default()
        };
        self.st.x87_empty &= !(1 << p);
    }

    fn push(&mut self, v: F80) {
        self.st.x87_top = self.st.x87_top.wrapping_sub(1) & 7;
        self.set(0, v);
    }

    fn pop(&mut self, pops: u8) {
        for _ in 0..pops {
            self.st.x87_empty |= 1 << self.physical(0);
            self.st.x87_top = (self.st.x87_top + 1) & 7;
        }
    }

    fn unmasked(&self) -> u32 {
        !self.st.x87_cw & EXCEPTIONS
    }

    fn conditions(&mut self, mask: u32, value: u32) {
        self.st.x87_sw = self.st.x87_sw & !mask | value;
    }

    /// Records a stack fault; true if it is masked. `overflow` tells it from an underflow by C1.
    fn stack_fault(&mut self, overflow: bool) -> bool {
        self.st.x87_sw |= IE | SF;
        self.conditions(C1, if overflow { C1 } else { 0 });
        self.unmasked() & IE == 0
    }

    /// Records what the arithmetic raised; true if the result is to be delivered to a register.
    fn accept(&mut self) -> bool {
        self.accept_unless(IE | DE | ZE)
    }

    /// As [`Machine::accept`] where only `stopping` of the exceptions of operands prevent the result.
    fn accept_unless(&mut self, stopping: u32) -> bool {
        let raised = u32::from(self.env.flags.bits());
        if raised & self.unmasked() & stopping != 0 {
            self.st.x87_sw |= raised & (IE | DE | ZE);
            self.conditions(C1, 0);
            return false;
        }
        self.st.x87_sw |= raised;
        let up = raised & PE != 0 && self.env.rounded_up;
        self.conditions(C1, if up { C1 } else { 0 });
        true
    }

    /// As [`Machine::accept`] for a result that goes to memory.
    fn accept_store(&mut self) -> bool {
        let raised = u32::from(self.env.flags.bits());
        self.accept() && raised & self.unmasked() & (OE | UE) == 0
    }

    fn execute(&mut self, d: Decoded, memory: &mut Memory) {
        use Operation as O;
        match d.operation {
            O::Add | O::Mul | O::Sub | O::SubR | O::Div | O::DivR => self.arithmetic(d, memory),
            O::Compare | O::CompareQuiet | O::CompareFlags | O::CompareFlagsQuiet | O::Test => {
                self.compare(d, memory)
            }
            O::Examine => self.examine(),
            O::Load => self.load(d, memory),
            O::LoadOne
            | O::LoadLog2Ten
            | O::LoadLog2E
            | O::LoadPi
            | O::LoadLog10Two
            | O::LoadLnTwo
            | O::LoadZero => {
                let v = self.constant(d.operation);
                self.push_checked(v);
            }
            O::Store | O::StoreTruncated => self.store(d, memory),
            O::Exchange => self.exchange(d.register),
            O::Absolute
            | O::ChangeSign
            | O::SquareRoot
            | O::RoundToInteger
            | O::Exp2Minus1
            | O::Sine
            | O::Cosine => self.unary(d.operation),
            O::Scale | O::Remainder | O::RemainderNearest | O::YLog2X | O::YLog2XPlus1 | O::ArcTangent => {
                self.binary(d.operation)
            }
            O::Tangent | O::SineCosine | O::Extract => self.unary_and_push(d.operation),
            O::Move => self.conditional_move(d),
            O::DecrementTop => {
                self.st.x87_top = self.st.x87_top.wrapping_sub(1) & 7;
                self.conditions(C1, 0);
            }
            O::IncrementTop => {
                self.st.x87_top = (self.st.x87_top + 1) & 7;
                self.conditions(C1, 0);
            }
            O::Free => {
                self.st.x87_empty |= 1 << self.physical(d.register);
                self.pop(d.pops);
            }
            O::Nothing | O::Wait => {}
            _ => self.control(d, memory),
        }
    }

    fn control(&mut self, d: Decoded, memory: &mut Memory) {
        use Operation as O;
        match d.operation {
            O::LoadControl => set_control_word(self.st, memory.int(0, 2) as u16),
            O::StoreControl => memory.store(2, u64::from(self.st.x87_cw)),
            O::StoreStatus if d.is_memory() => memory.store(2, u64::from(status_word(self.st))),
            O::StoreStatus => {
                let ax = u64::from(status_word(self.st));
                self.st.gpr[0] = self.st.gpr[0] & !0xffff | ax;
            }
            O::ClearExceptions => self.st.x87_sw &= C0 | C1 | C2 | C3,
            O::Initialize => initialize(self.st),
            O::LoadEnvironment => {
                self.load_environment(d, memory);
            }
            O::Restore => {
                let at = self.load_environment(d, memory);
                for i in 0..8u8 {
                    let p = self.physical(i);
                    let from = at + 10 * usize::from(i);
                    self.st.x87[p] = X87Register {
                        significand: memory.int(from, 8),
                        sign_exponent: memory.int(from + 8, 2) as u16,
                        ..X87Register::default()
                    };
                }
            }
            O::StoreEnvironment => {
                memory.stored = self.store_environment(d, memory);
                self.st.x87_cw |= EXCEPTIONS;
            }
            O::Save => {
                let at = self.store_environment(d, memory);
                for i in 0..8u8 {
                    let v = self.get(i);
                    let to = at + 10 * usize::from(i);
                    memory.set_int(to, 8, v.significand);
                    memory.set_int(to + 8, 2, u64::from(v.sign_exponent));
                }
                memory.stored = at + 80;
                initialize(self.st);
            }
            _ => {}
        }
    }

    /// Value of an operand in memory, converted; flags go to the environment.
    fn load_operand(&mut self, operand: Operand, memory: &Memory) -> F80 {
        match operand {
            Operand::F32 => sf::convert(F32(memory.int(0, 4) as u32), &mut self.env),
            Operand::F64 => sf::convert(F64(memory.int(0, 8)), &mut self.env),
            Operand::I16 => sf::from_i64(memory.int(0, 2) as i16 as i64, &mut self.env),
            Operand::I32 => sf::from_i64(memory.int(0, 4) as i32 as i64, &mut self.env),
            Operand::I64 => sf::from_i64(memory.int(0, 8) as i64, &mut self.env),
            Operand::Bcd => self.load_decimal(memory),
            _ => F80 { significand: memory.int(0, 8), sign_exponent: memory.int(8, 2) as u16 },
        }
    }

    fn load_decimal(&mut self, memory: &Memory) -> F80 {
        let magnitude = (0..9).rev().fold(0i64, |v, i| {
            let b = i64::from(memory.bytes[i]);
            v.wrapping_mul(100).wrapping_add((b >> 4) * 10 + (b & 0xf))
        });
        let mut v: F80 = sf::from_i64(magnitude, &mut self.env);
        v.sign_exponent |= u16::from(memory.bytes[9] & 0x80) << 8;
        v
    }

    fn arithmetic(&mut self, d: Decoded, memory: &Memory) {
        let in_stack = d.operand == Operand::Stack;
        if self.is_empty(d.destination) || (in_stack && self.is_empty(d.register)) {
            if self.stack_fault(false) {
                self.set(d.destination, INDEFINITE);
                self.pop(d.pops);
            }
            return;
        }
        let source = if in_stack { self.get(d.register) } else { self.load_operand(d.operand, memory) };
        let destination = self.get(d.destination);
        self.forgive_denormal(destination);
        // A signaling NaN in memory is quiet once converted, but still gives way to a quiet one.
        let was_signaling = self.env.flags.contains(sf::Flags::INVALID);
        let env = &mut self.env;
        let v = match d.operation {
            _ if was_signaling && is_nan(destination) && destination.significand >> 62 & 1 != 0 => {
                destination
            }
            Operation::Add => sf::add(destination, source, env),
            Operation::Mul => sf::mul(destination, source, env),
            Operation::Sub => sf::sub(destination, source, env),
            Operation::SubR => sf::sub(source, destination, env),
            Operation::Div => sf::div(destination, source, env),
            _ => sf::div(source, destination, env),
        };
        if self.accept() {
            self.set(d.destination, v);
            self.pop(d.pops);
        }
    }

    /// An operand from memory that is denormal goes unnoticed beside a NaN.
    fn forgive_denormal(&mut self, other: F80) {
        if is_nan(other) {
            self.env.flags.remove(sf::Flags::DENORMAL);
        }
    }

    fn compare(&mut self, d: Decoded, memory: &Memory) {
        let in_stack = d.operand == Operand::Stack;
        let to_flags = matches!(d.operation, Operation::CompareFlags | Operation::CompareFlagsQuiet);
        // An unmasked exception keeps the registers from being popped; the relation is delivered all the same.
        let (relation, accepted) = if self.is_empty(0) || (in_stack && self.is_empty(d.register)) {
            (Relation::Unordered, self.stack_fault(false))
        } else {
            let b = match d.operation {
                Operation::Test => F80 { sign_exponent: 0, significand: 0 },
                _ if in_stack => self.get(d.register),
                _ => self.load_operand(d.operand, memory),
            };
            let a = self.get(0);
            self.forgive_denormal(a);
            let quiet = matches!(d.operation, Operation::CompareQuiet | Operation::CompareFlagsQuiet);
            let relation = if quiet {
                sf::compare_quiet(a, b, &mut self.env)
            } else {
                sf::compare_signaling(a, b, &mut self.env)
            };
            (relation, self.accept())
        };
        if to_flags {
            self.st.set_arithmetic_flags(match relation {
                Relation::Greater => 0,
                Relation::Less => flags::CF,
                Relation::Equal => flags::ZF,
                Relation::Unordered => flags::CF | flags::ZF | flags::PF,
            });
        } else {
            let bits = match relation {
                Relation::Greater => 0,
                Relation::Less => C0,
                Relation::Equal => C3,
                Relation::Unordered => C0 | C2 | C3,
            };
            self.conditions(C0 | C2 | C3, bits);
        }
        if accepted {
            self.pop(d.pops);
        }
    }

    fn examine(&mut self) {
        let v = self.get(0);
        let exponent = v.sign_exponent & 0x7fff;
        let integer_bit = v.significand >> 63 != 0;
        let class = if self.is_empty(0) {
            C3 | C0
        } else if exponent == 0 {
            if v.significand == 0 { C3 } else { C3 | C2 }
        } else if !integer_bit {
            0
        } else if exponent != 0x7fff {
            C2
        } else if v.significand << 1 == 0 {
            C2 | C0
        } else {
            C0
        };
        let sign = if v.sign_exponent >> 15 != 0 { C1 } else { 0 };
        self.conditions(C0 | C1 | C2 | C3, class | sign);
    }

    fn push_checked(&mut self, v: F80) {
        if !self.is_empty(7) {
            if self.stack_fault(true) {
                self.push(INDEFINITE);
            }
            return;
        }
        // A denormal is loaded even if that exception is unmasked.
        if self.accept_unless(IE | ZE) {
            self.push(v);
        }
    }

    fn load(&mut self, d: Decoded, memory: &Memory) {
        let v = if d.operand != Operand::Stack {
            self.load_operand(d.operand, memory)
        } else if self.is_empty(d.register) {
            if self.stack_fault(false) {
                self.push(INDEFINITE);
            }
            return;
        } else {
            self.get(d.register)
        };
        self.push_checked(v);
    }

    /// A constant rounded as the control word says. The table has the truncated significands; all the rests but that
    /// of log2(10) are above one half.
    fn constant(&self, operation: Operation) -> F80 {
        let (sign_exponent, significand, rest_is_large) = match operation {
            Operation::LoadOne => return F80 { sign_exponent: 0x3fff, significand: 1 << 63 },
            Operation::LoadLog2Ten => (0x4000, 0xd49a_784b_cd1b_8afe, false),
            Operation::LoadLog2E => (0x3fff, 0xb8aa_3b29_5c17_f0bb, true),
            Operation::LoadPi => (0x4000, 0xc90f_daa2_2168_c234, true),
            Operation::LoadLog10Two => (0x3ffd, 0x9a20_9a84_fbcf_f798, true),
            Operation::LoadLnTwo => (0x3ffe, 0xb172_17f7_d1cf_79ab, true),
            _ => return F80 { sign_exponent: 0, significand: 0 },
        };
        let up = match self.env.rounding {
            Rounding::Up => true,
            Rounding::Down | Rounding::TowardZero => false,
            _ => rest_is_large,
        };
        F80 { sign_exponent, significand: significand + u64::from(up) }
    }

    fn store(&mut self, d: Decoded, memory: &mut Memory) {
        let empty = self.is_empty(0);
        if empty && d.destination != 0 {
            // FSTPNCE.
            self.conditions(C1, 0);
            return self.pop(d.pops);
        }
        if empty && !self.stack_fault(false) {
            return;
        }
        let v = if empty { INDEFINITE } else { self.get(0) };
        if d.operand == Operand::Stack {
            self.set(d.register, v);
            if !empty {
                self.conditions(C1, 0);
            }
            return self.pop(d.pops);
        }
        let truncated = d.operation == Operation::StoreTruncated;
        let rounding = if truncated { Rounding::TowardZero } else { self.env.rounding };
        let env = &mut self.env;
        match d.operand {
            Operand::F32 => memory.store(4, u64::from(sf::convert::<F80, F32>(v, env).0)),
            Operand::F64 => memory.store(8, sf::convert::<F80, F64>(v, env).0),
            Operand::I16 => memory.store(2, sf::to_signed(v, 16, rounding, env) as u64),
            Operand::I32 => memory.store(4, sf::to_signed(v, 32, rounding, env) as u64),
            Operand::I64 => memory.store(8, sf::to_signed(v, 64, rounding, env) as u64),
            Operand::Bcd => self.store_decimal(v, memory),
            _ => {
                memory.set_int(0, 8, v.significand);
                memory.store_high(v.sign_exponent);
            }
        }
        if empty {
            // The indefinite value converts to every format's own; what that raised is the stack fault.
            self.env.flags = sf::Flags::empty();
            return self.pop(d.pops);
        }
        if self.accept_store() {
            self.pop(d.pops);
        } else {
            memory.stored = 0;
        }
    }

    fn store_decimal(&mut self, v: F80, memory: &mut Memory) {
        const LIMIT: u64 = 1_000_000_000_000_000_000;
        let before = self.env.flags;
        let i = sf::to_signed(v, 64, self.env.rounding, &mut self.env);
        let mut magnitude = i.unsigned_abs();
        let invalid = self.env.flags.contains(sf::Flags::INVALID);
        if magnitude >= LIMIT || invalid {
            self.env.flags = before | sf::Flags::INVALID;
            memory.set_int(0, 8, 0xc000_0000_0000_0000);
            return memory.store_high(0xffff);
        }
        for b in &mut memory.bytes[..9] {
            *b = (magnitude % 10) as u8 | ((magnitude / 10 % 10) as u8) << 4;
            magnitude /= 100;
        }
        memory.bytes[9] = (v.sign_exponent >> 8) as u8 & 0x80;
        memory.stored = 10;
    }

    fn exchange(&mut self, i: u8) {
        if self.is_empty(0) || self.is_empty(i) {
            if !self.stack_fault(false) {
                return;
            }
            for r in [0, i] {
                if self.is_empty(r) {
                    self.set(r, INDEFINITE);
                }
            }
        } else {
            self.conditions(C1, 0);
        }
        let (a, b) = (self.get(0), self.get(i));
        self.set(0, b);
        self.set(i, a);
    }

    fn unary(&mut self, operation: Operation) {
        use Operation as O;
        let reduces = matches!(operation, O::Sine | O::Cosine);
        if reduces {
            self.conditions(C2, 0);
        }
        if self.is_empty(0) {
            if self.stack_fault(false) {
                self.set(0, INDEFINITE);
            }
            return;
        }
        let v = self.get(0);
        let env = &mut self.env;
        let result = match operation {
            O::Absolute => Some(F80 { sign_exponent: v.sign_exponent & 0x7fff, ..v }),
            O::ChangeSign => Some(F80 { sign_exponent: v.sign_exponent ^ 0x8000, ..v }),
            O::SquareRoot => Some(sf::sqrt(v, env)),
            O::RoundToInteger => Some(sf::round_to_integral(v, env.rounding, true, env)),
            O::Exp2Minus1 => Some(x87::exp2_minus_1(v, env)),
            O::Sine => x87::sin(v, env),
            _ => x87::cos(v, env),
        };
        let in_range = result.is_some();
        if self.accept() {
            if let Some(r) = result {
                self.set(0, r);
            }
            if reduces && !in_range {
                self.conditions(C2, C2);
            }
        }
    }

    /// Operations on ST(0) and ST(1).
    fn binary(&mut self, operation: Operation) {
        use Operation as O;
        let pops = matches!(operation, O::YLog2X | O::YLog2XPlus1 | O::ArcTangent);
        let to = u8::from(pops);
        if matches!(operation, O::Remainder | O::RemainderNearest) {
            self.conditions(C2, 0);
        }
        if self.is_empty(0) || self.is_empty(1) {
            if self.stack_fault(false) {
                self.set(to, INDEFINITE);
                self.pop(u8::from(pops));
            }
            return;
        }
        let (x, y) = (self.get(0), self.get(1));
        let env = &mut self.env;
        let mut remainder = None;
        let v = match operation {
            O::Scale => x87::scale(x, y, env),
            O::YLog2X => x87::y_log2_x(x, y, env),
            O::YLog2XPlus1 => x87::y_log2_x_plus_1(x, y, env),
            O::ArcTangent => x87::arctan_of_ratio(x, y, env),
            O::Remainder => remainder.insert(x87::partial_remainder(x, y, env)).value,
            _ => remainder.insert(x87::partial_remainder_nearest(x, y, env)).value,
        };
        if !self.accept() {
            return;
        }
        if let Some(r) = remainder
            && !is_nan(v)
        {
            let bit = |n: u8, c: u32| if r.quotient >> n & 1 != 0 { c } else { 0 };
            let incomplete = if r.incomplete { C2 } else { 0 };
            self.conditions(C0 | C1 | C2 | C3, bit(2, C0) | bit(1, C3) | bit(0, C1) | incomplete);
        }
        self.set(to, v);
        self.pop(u8::from(pops));
    }

    /// FPTAN, FSINCOS, FXTRACT: ST(0) replaced by one result, another pushed.
    fn unary_and_push(&mut self, operation: Operation) {
        use Operation as O;
        if operation != O::Extract {
            self.conditions(C2, 0);
        }
        if self.is_empty(0) || !self.is_empty(7) {
            let overflow = !self.is_empty(0);
            if self.stack_fault(overflow) {
                self.set(0, INDEFINITE);
                self.push(INDEFINITE);
            }
            return;
        }
        let v = self.get(0);
        let env = &mut self.env;
        let one = F80 { sign_exponent: 0x3fff, significand: 1 << 63 };
        let results = match operation {
            O::Tangent => x87::tan(v, env).map(|t| (t, if is_nan(t) { t } else { one })),
            O::SineCosine => x87::sin(v, env).zip(x87::cos(v, env)),
            _ => Some(x87::extract(v, env)),
        };
        let in_range = results.is_some();
        if !self.accept() {
            return;
        }
        if !in_range {
            self.conditions(C2, C2);
        }
        if let Some((first, second)) = results {
            self.set(0, first);
            self.push(second);
        }
    }

    fn conditional_move(&mut self, d: Decoded) {
        if self.is_empty(0) || self.is_empty(d.register) {
            if self.stack_fault(false) {
                self.set(0, INDEFINITE);
            }
            return;
        }
        let f = self.st.arithmetic_flags();
        let holds = match d.destination & 3 {
            0 => f & flags::CF != 0,
            1 => f & flags::ZF != 0,
            2 => f & (flags::CF | flags::ZF) != 0,
            _ => f & flags::PF != 0,
        };
        self.conditions(C1, 0);
        if holds != (d.destination & 4 != 0) {
            let v = self.get(d.register);
            self.set(0, v);
        }
    }
}

impl Memory {
    /// Completes a ten-byte store.
    fn store_high(&mut self, high: u16) {
        self.set_int(8, 2, u64::from(high));
        self.stored = 10;
    }
}

fn is_nan(v: F80) -> bool {
    v.sign_exponent & 0x7fff == 0x7fff && v.significand << 1 != 0
}

//! The test bench: runs one operation on a minimal machine and on the processor.

use std::arch::asm;
use std::arch::x86_64::__m256i;

use rhea_interpreter::{FloatUnit, Interpreter, Machine, Outcome};
use rhea_ir::{Builder, Inst, Lane, MemFlags, Op, Slot, Type, Val, verify};
use rhea_softfloat::{Env, Flags};

pub const DEFAULT_MXCSR: u32 = 0x1f80;

/// Slots for operands and results, and an MXCSR.
pub struct State {
    bytes: [u8; 160],
    pub mxcsr: u32,
}

impl Machine for State {
    type Stop = ();

    fn state(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn set_pc(&mut self, _pc: u64) {}

    fn load(&mut self, _: u64, _: MemFlags, _: &mut [u8]) -> Result<(), ()> {
        Err(())
    }

    fn store(&mut self, _: u64, _: MemFlags, _: &[u8]) -> Result<(), ()> {
        Err(())
    }

    fn atomic_update(
        &mut self,
        _: u64,
        _: u32,
        _: MemFlags,
        _: &mut dyn FnMut(u64) -> Option<u64>,
    ) -> Result<u64, ()> {
        Err(())
    }

    fn fence(&mut self) {}

    fn call(&mut self, _: u32, _: [u64; 4]) -> Result<u64, ()> {
        Err(())
    }

    fn float_environment(&mut self, _: FloatUnit) -> Env {
        Env::from_mxcsr(self.mxcsr)
    }

    fn raise(&mut self, _: FloatUnit, flags: Flags) {
        self.mxcsr |= u32::from(flags.bits());
    }
}

/// An operation to try; operands it does not take are ignored.
#[derive(Clone, Copy)]
pub struct Case {
    pub op: Op,
    pub ty: Type,
    pub source: Type,
    pub second: Type,
    pub lane: Lane,
    pub aux: u8,
    pub imm: u64,
    pub operands: usize,
}

impl Case {
    pub const fn new(op: Op, ty: Type, lane: Lane, operands: usize) -> Case {
        Case { op, ty, source: ty, second: ty, lane, aux: 0, imm: 0, operands }
    }

    pub const fn aux(self, aux: u8) -> Case {
        Case { aux, ..self }
    }

    pub const fn imm(self, imm: u64) -> Case {
        Case { imm, ..self }
    }

    /// Gives the first operand a type of its own, and the second too if it follows the first.
    pub const fn source(self, source: Type) -> Case {
        Case { source, second: source, ..self }
    }

    pub const fn second(self, second: Type) -> Case {
        Case { second, ..self }
    }

    /// Runs the operation; gives the result and the MXCSR flags.
    pub fn run(&self, operands: [[u8; 32]; 3], mxcsr: u32) -> ([u8; 32], u32) {
        let mut state = State { bytes: [0; 160], mxcsr };
        for (index, operand) in operands.iter().enumerate() {
            state.bytes[32 * index..][..32].copy_from_slice(operand);
        }
        let mut b = Builder::new();
        b.start(0);
        b.insn(0, 1);
        let types = [self.source, self.second, self.ty];
        let mut vals = [Val::NONE; 3];
        for index in 0..self.operands {
            vals[index] = b.get(Slot::new(32 * index, types[index]));
        }
        let [x, y, z] = vals;
        let inst = Inst {
            a: x,
            b: y,
            c: z,
            lane: self.lane,
            aux: self.aux,
            imm: self.imm,
            ..Inst::new(self.op, self.ty)
        };
        let result = b.push(inst);
        b.put(Slot::new(96, self.ty), result);
        b.jump(1);
        verify(&b.unit, &[]).unwrap();
        let outcome = Interpreter::new().run(&b.unit, &[], &mut state);
        assert_eq!(outcome, Outcome::Exit { number: 0, pc: Some(1) });
        let mut bytes = [0; 32];
        bytes.copy_from_slice(&state.bytes[96..128]);
        (bytes, state.mxcsr & 0x3f)
    }
}

/// A xorshift generator: the same sequence on every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Integer lanes, extreme ones often.
    pub fn integers(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        let mode = self.next() & 7;
        for byte in &mut bytes {
            let word = self.next();
            *byte = match (mode, word >> 8 & 7) {
                (0..4, _) => word as u8,
                (_, 0) => 0,
                (_, 1) => 0xff,
                (_, 2) => 0x7f,
                (_, 3) => 0x80,
                _ => (word & 0xf) as u8,
            };
        }
        bytes
    }

    /// Floating-point lanes of `size` bytes, special values often.
    pub fn floats(&mut self, size: usize) -> [u8; 32] {
        let (exponent_bits, fraction_bits) = if size == 4 { (8, 23) } else { (11, 52) };
        let bias = (1u64 << (exponent_bits - 1)) - 1;
        let mut bytes = [0; 32];
        for lane in bytes.chunks_mut(size) {
            let word = self.next();
            let small = word >> 8 & 31;
            let exponent = match word & 15 {
                0 => 0,
                1 => 2 * bias + 1,
                2 => small,
                3 => 2 * bias - small,
                4..9 => bias + small - 4,
                _ => bias - 8 + small % 16,
            };
            let fraction = match word >> 16 & 3 {
                0 => 0,
                1 => (word >> 20) & 0xff,
                _ => self.next() & ((1 << fraction_bits) - 1),
            };
            let value =
                (word >> 60 & 1) << (exponent_bits + fraction_bits) | exponent << fraction_bits | fraction;
            lane.copy_from_slice(&value.to_le_bytes()[..size]);
        }
        bytes
    }
}

fn to_vector(bytes: [u8; 32]) -> __m256i {
    // SAFETY: both are 32 bytes of plain data.
    unsafe { std::mem::transmute(bytes) }
}

fn to_bytes(vector: __m256i) -> [u8; 32] {
    // SAFETY: both are 32 bytes of plain data.
    unsafe { std::mem::transmute(vector) }
}

/// What the processor makes of three operands. Results narrower than 256 bits have the rest ignored.
pub type Native<'a> = &'a dyn Fn(__m256i, __m256i, __m256i) -> __m256i;

/// Runs `native` under `mxcsr`; gives the result and the flags.
#[inline(never)]
fn run_native(native: Native<'_>, operands: [[u8; 32]; 3], mxcsr: u32) -> ([u8; 32], u32) {
    let [a, b, c] = operands.map(to_vector);
    let mut after = mxcsr;
    // SAFETY: all exceptions are masked, and MXCSR is restored below.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &after) };
    let result = std::hint::black_box(native(a, b, c));
    // SAFETY: writes a local; restores the default.
    unsafe { asm!("stmxcsr [{}]", "ldmxcsr [{}]", in(reg) &mut after, in(reg) &DEFAULT_MXCSR) };
    (to_bytes(result), after & 0x3f)
}

fn compare(name: &str, case: &Case, operands: [[u8; 32]; 3], mxcsr: u32, native: Native<'_>) {
    let width = case.ty.bytes() as usize;
    let (got, flags) = case.run(operands, mxcsr);
    let (expected, native_flags) = run_native(native, operands, mxcsr);
    assert!(
        got[..width] == expected[..width],
        "{name} of {operands:02x?}: {:02x?}, not {:02x?}",
        &got[..width],
        &expected[..width]
    );
    assert!(flags == native_flags, "{name} of {operands:02x?}: flags {flags:#x}, not {native_flags:#x}");
}

/// Compares on integer operands.
pub fn integers(name: &str, case: Case, native: Native<'_>) {
    let mut random = Random(0x1234_5678_9abc_def1);
    for _ in 0..400 {
        let operands = [random.integers(), random.integers(), random.integers()];
        compare(name, &case, operands, DEFAULT_MXCSR, native);
    }
}

/// Compares on floating-point operands of `size` bytes, in all rounding and flushing modes.
pub fn floats(name: &str, case: Case, size: usize, native: Native<'_>) {
    let mut random = Random(0x1234_5678_9abc_def1);
    for round in 0..1200 {
        let operands = [random.floats(size), random.floats(size), random.floats(size)];
        let flush = [0, 1 << 15, 1 << 6, 1 << 15 | 1 << 6][round / 4 % 4];
        compare(name, &case, operands, DEFAULT_MXCSR | (round as u32 & 3) << 13 | flush, native);
    }
}

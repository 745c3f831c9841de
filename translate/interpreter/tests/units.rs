//! Scalar operations, memory, calls, exits and x87, through whole units on a small machine.

use rhea_interpreter::{FloatUnit, Interpreter, Machine, Outcome};
use rhea_ir::{
    Builder, Cond, Exit, HelperInfo, Inst, Lane, MemFlags, Op, Rmw, Rounding, Shape, Slot, SlotAccess,
    Target, Type, Val, verify,
};
use rhea_softfloat::{Env, Flags};

const INDEX: MemFlags = MemFlags(1);
const ADD_HELPER: u32 = 0;
const LEAVE_HELPER: u32 = 1;
const HELPERS: [HelperInfo; 2] = [
    HelperInfo {
        name: "add",
        params: &[Type::I64, Type::I8],
        result: Type::I16,
        reads: SlotAccess::None,
        writes: SlotAccess::None,
        may_exit: false,
        pure: true,
    },
    HelperInfo {
        name: "leave",
        params: &[],
        result: Type::Void,
        reads: SlotAccess::None,
        writes: SlotAccess::All,
        may_exit: true,
        pure: false,
    },
];

#[derive(Debug, PartialEq)]
enum Stop {
    Fault(u64),
    Asked,
}

/// 128 bytes of state, 64 bytes of memory at address 0x1000, one environment for each floating-point unit.
struct Small {
    state: [u8; 128],
    memory: [u8; 64],
    pc: u64,
    fences: u32,
    vector: Env,
    x87: Env,
}

impl Small {
    fn new() -> Small {
        Small { state: [0; 128], memory: [0; 64], pc: 0, fences: 0, vector: Env::SSE, x87: Env::X87 }
    }

    fn memory_at(&mut self, address: u64, size: usize) -> Result<&mut [u8], Stop> {
        let start = address.wrapping_sub(0x1000) as usize;
        self.memory.get_mut(start..start.saturating_add(size)).ok_or(Stop::Fault(address))
    }

    fn slot(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.state[offset..offset + 8].try_into().unwrap())
    }
}

impl Machine for Small {
    type Stop = Stop;

    fn state(&mut self) -> &mut [u8] {
        &mut self.state
    }

    fn set_pc(&mut self, pc: u64) {
        self.pc = pc;
    }

    fn load(&mut self, address: u64, flags: MemFlags, buffer: &mut [u8]) -> Result<(), Stop> {
        assert_eq!(flags.index(), 1);
        buffer.copy_from_slice(self.memory_at(address, buffer.len())?);
        Ok(())
    }

    fn store(&mut self, address: u64, flags: MemFlags, bytes: &[u8]) -> Result<(), Stop> {
        assert_eq!(flags.index(), 1);
        self.memory_at(address, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    fn atomic_update(
        &mut self,
        address: u64,
        size: u32,
        _: MemFlags,
        update: &mut dyn FnMut(u64) -> Option<u64>,
    ) -> Result<u64, Stop> {
        let bytes = self.memory_at(address, size as usize)?;
        let mut old = [0; 8];
        old[..bytes.len()].copy_from_slice(bytes);
        let old = u64::from_le_bytes(old);
        if let Some(new) = update(old) {
            bytes.copy_from_slice(&new.to_le_bytes()[..size as usize]);
        }
        Ok(old)
    }

    fn fence(&mut self) {
        self.fences += 1;
    }

    fn call(&mut self, id: u32, arguments: [u64; 4]) -> Result<u64, Stop> {
        // Garbage above the result's type is allowed.
        if id == ADD_HELPER { Ok((arguments[0] + arguments[1]) | 0xdead << 48) } else { Err(Stop::Asked) }
    }

    fn float_environment(&mut self, unit: FloatUnit) -> Env {
        if unit == FloatUnit::X87 { self.x87 } else { self.vector }
    }

    fn raise(&mut self, unit: FloatUnit, flags: Flags) {
        let env = if unit == FloatUnit::X87 { &mut self.x87 } else { &mut self.vector };
        env.flags |= flags;
    }
}

const PC: u64 = 0x40_0000;

/// Builds a unit of one instruction with `body`, ends it with a jump if `body` has not, and runs it.
fn run(machine: &mut Small, body: impl FnOnce(&mut Builder)) -> Outcome<Stop> {
    let mut b = Builder::new();
    b.start(PC);
    b.insn(PC, 4);
    body(&mut b);
    if !b.is_ended() {
        b.jump(PC + 4);
    }
    verify(&b.unit, &HELPERS).unwrap();
    Interpreter::new().run(&b.unit, &HELPERS, machine)
}

/// The value of an integer operation on constants that the builder does not fold.
fn integer(op: Op, ty: Type, operands: &[(Type, u64)], aux: u8, imm: u64) -> u64 {
    let mut machine = Small::new();
    run(&mut machine, |b| {
        let mut vals = [Val::NONE; 3];
        for (val, &(ty, value)) in vals.iter_mut().zip(operands) {
            *val = b.iconst(ty, value);
        }
        let [x, y, z] = vals;
        let result = b.push(Inst { a: x, b: y, c: z, aux, imm, ..Inst::new(op, ty) });
        b.put(Slot::new(0, ty), result);
    });
    machine.slot(0)
}

fn binary(op: Op, ty: Type, a: u64, b: u64) -> u64 {
    integer(op, ty, &[(ty, a), (ty, b)], 0, 0)
}

fn unary(op: Op, ty: Type, a: u64) -> u64 {
    integer(op, ty, &[(ty, a)], 0, 0)
}

#[test]
fn arithmetic_is_cut_to_its_width() {
    assert_eq!(binary(Op::Add, Type::I8, 0xff, 2), 1);
    assert_eq!(binary(Op::Sub, Type::I16, 1, 2), 0xffff);
    assert_eq!(binary(Op::Mul, Type::I32, 0x1_0001, 0x1_0001), 0x2_0001);
    assert_eq!(binary(Op::MulHiU, Type::I8, 0xff, 0xff), 0xfe);
    assert_eq!(binary(Op::MulHiS, Type::I8, 0xff, 0x02), 0xff);
    assert_eq!(binary(Op::MulHiU, Type::I64, u64::MAX, u64::MAX), u64::MAX - 1);
    assert_eq!(binary(Op::MulHiS, Type::I64, u64::MAX, u64::MAX), 0);
    assert_eq!(unary(Op::Neg, Type::I32, 1), 0xffff_ffff);
    assert_eq!(unary(Op::Not, Type::I16, 1), 0xfffe);
    assert_eq!(binary(Op::AndNot, Type::I8, 0xff, 0x0f), 0xf0);
}

#[test]
fn shift_counts_wrap_at_the_width() {
    assert_eq!(binary(Op::Shl, Type::I8, 0x81, 9), 0x02);
    assert_eq!(binary(Op::Shr, Type::I32, 0x8000_0000, 31), 1);
    assert_eq!(binary(Op::Sar, Type::I16, 0x8000, 15), 0xffff);
    assert_eq!(binary(Op::Rotl, Type::I8, 0x81, 1), 0x03);
    assert_eq!(binary(Op::Rotr, Type::I16, 0x0001, 1), 0x8000);
    assert_eq!(binary(Op::Rotl, Type::I64, 0x8000_0000_0000_0001, 64), 0x8000_0000_0000_0001);
}

#[test]
fn bit_counts_know_the_width() {
    assert_eq!(unary(Op::Clz, Type::I16, 0), 16);
    assert_eq!(unary(Op::Clz, Type::I32, 1), 31);
    assert_eq!(unary(Op::Ctz, Type::I8, 0), 8);
    assert_eq!(unary(Op::Ctz, Type::I64, 1 << 40), 40);
    assert_eq!(unary(Op::Popcnt, Type::I8, 0xf1), 5);
    assert_eq!(unary(Op::Bswap, Type::I32, 0x1234_5678), 0x7856_3412);
    assert_eq!(unary(Op::Bswap, Type::I16, 0x1234), 0x3412);
}

#[test]
fn wide_division() {
    let divide = |op, ty, high, low, by| integer(op, ty, &[(ty, high), (ty, low), (ty, by)], 0, 0);
    assert_eq!(divide(Op::DivWideU, Type::I64, 1, 0, 3), 0x5555_5555_5555_5555);
    assert_eq!(divide(Op::RemWideU, Type::I64, 1, 0, 3), 1);
    assert_eq!(divide(Op::DivWideS, Type::I32, 0xffff_ffff, 0xffff_fff9, 2), 0xffff_fffd);
    assert_eq!(divide(Op::RemWideS, Type::I32, 0xffff_ffff, 0xffff_fff9, 2), 0xffff_ffff);
    // Undefined, but no trap.
    divide(Op::DivWideU, Type::I64, 1, 0, 0);
    divide(Op::RemWideS, Type::I64, 1 << 63, 0, u64::MAX);
    divide(Op::DivWideS, Type::I64, 1 << 63, 0, u64::MAX);
}

#[test]
fn bit_manipulation() {
    assert_eq!(binary(Op::Pdep, Type::I32, 0b101, 0xf0f0), 0x50);
    assert_eq!(binary(Op::Pext, Type::I64, 0x1234_5678, 0xff00_0f00), 0x126);
    let whole = [(Type::I32, 0xffff_0000), (Type::I32, 0x1ab)];
    assert_eq!(integer(Op::Deposit, Type::I32, &whole, 0, 4 | 8 << 8), 0xffff_0ab0);
    assert_eq!(integer(Op::Extract, Type::I64, &[(Type::I64, 0x1234_5678)], 0, 8 | 12 << 8), 0x456);
    assert_eq!(integer(Op::Lea, Type::I32, &[(Type::I32, 0xffff_fff0), (Type::I32, 8)], 3, 1), 0x31);
    // CRC-32C of "123456789" (RFC 3720): the register starts and ends inverted.
    let crc =
        integer(Op::Crc32c, Type::I32, &[(Type::I32, 0xffff_ffff), (Type::I64, 0x3837_3635_3433_3231)], 0, 0);
    let crc = integer(Op::Crc32c, Type::I32, &[(Type::I32, crc), (Type::I8, 0x39)], 0, 0);
    assert_eq!(crc ^ 0xffff_ffff, 0xe306_9283);
}

#[test]
fn conversions_between_widths() {
    assert_eq!(integer(Op::Sext, Type::I32, &[(Type::I8, 0x80)], 0, 0), 0xffff_ff80);
    assert_eq!(integer(Op::Zext, Type::I64, &[(Type::I16, 0x8000)], 0, 0), 0x8000);
    assert_eq!(integer(Op::Trunc, Type::I8, &[(Type::I64, 0x1234)], 0, 0), 0x34);
    let less = Cond::LtS as u8;
    assert_eq!(integer(Op::Icmp, Type::I8, &[(Type::I8, 0x80), (Type::I8, 0)], less, 0), 1);
    assert_eq!(integer(Op::Icmp, Type::I8, &[(Type::I16, 0x80), (Type::I16, 0)], less, 0), 0);
}

#[test]
fn memory_keeps_byte_order() {
    let mut machine = Small::new();
    machine.memory[..4].copy_from_slice(&[1, 2, 3, 4]);
    run(&mut machine, |b| {
        let address = b.iconst(Type::I64, 0x1000);
        let big = INDEX.with(MemFlags::BIG_ENDIAN);
        let value = b.load(Type::I32, address, big);
        b.put(Slot::new(0, Type::I32), value);
        let to = b.iconst(Type::I64, 0x1010);
        b.store(to, value, big);
        let old = b.atomic_rmw(Rmw::Add, address, value, big);
        b.put(Slot::new(8, Type::I32), old);
        b.fence();
    });
    assert_eq!(machine.slot(0), 0x0102_0304);
    assert_eq!(machine.slot(8), 0x0102_0304);
    assert_eq!(machine.memory[16..20], [1, 2, 3, 4]);
    assert_eq!(machine.memory[..4], [2, 4, 6, 8]);
    assert_eq!(machine.fences, 1);
}

#[test]
fn compare_and_swap_stores_only_on_a_match() {
    let mut machine = Small::new();
    machine.memory[0] = 5;
    run(&mut machine, |b| {
        let address = b.iconst(Type::I64, 0x1000);
        let (five, six, seven) = (b.iconst(Type::I16, 5), b.iconst(Type::I16, 6), b.iconst(Type::I16, 7));
        let first = b.atomic_cas(address, six, seven, INDEX);
        let second = b.atomic_cas(address, five, seven, INDEX);
        b.put(Slot::new(0, Type::I16), first);
        b.put(Slot::new(8, Type::I16), second);
    });
    assert_eq!((machine.slot(0), machine.slot(8), machine.memory[0]), (5, 5, 7));
}

#[test]
fn read_modify_write_operations() {
    let cases = [
        (Rmw::Xchg, 0x03),
        (Rmw::Add, 0x83),
        (Rmw::Sub, 0x7d),
        (Rmw::And, 0x00),
        (Rmw::Or, 0x83),
        (Rmw::Xor, 0x83),
        (Rmw::MinS, 0x80),
        (Rmw::MaxS, 0x03),
        (Rmw::MinU, 0x03),
        (Rmw::MaxU, 0x80),
    ];
    for (op, expected) in cases {
        let mut machine = Small::new();
        machine.memory[0] = 0x80;
        run(&mut machine, |b| {
            let address = b.iconst(Type::I64, 0x1000);
            let value = b.iconst(Type::I8, 3);
            b.atomic_rmw(op, address, value, INDEX);
        });
        assert_eq!(machine.memory[0], expected, "{op:?}");
    }
}

#[test]
fn a_fault_leaves_earlier_puts_and_no_later_ones() {
    let mut machine = Small::new();
    let outcome = run(&mut machine, |b| {
        let one = b.iconst(Type::I64, 1);
        b.put(Slot::new(0, Type::I64), one);
        b.insn(PC + 4, 2);
        let address = b.iconst(Type::I64, 0x2000);
        let value = b.load(Type::I64, address, INDEX);
        b.put(Slot::new(8, Type::I64), value);
        b.put(Slot::new(16, Type::I64), one);
    });
    assert_eq!(outcome, Outcome::Stop { pc: PC + 4, stop: Stop::Fault(0x2000) });
    assert_eq!(machine.pc, PC + 4);
    assert_eq!((machine.slot(0), machine.slot(16)), (1, 0));
}

#[test]
fn helpers_give_results_and_may_leave() {
    let mut machine = Small::new();
    let outcome = run(&mut machine, |b| {
        let (x, y) = (b.iconst(Type::I64, 0x1_ffff), b.iconst(Type::I8, 2));
        let sum = b.call(ADD_HELPER, &HELPERS[ADD_HELPER as usize], &[x, y]);
        b.put(Slot::new(0, Type::I16), sum);
        b.call(LEAVE_HELPER, &HELPERS[LEAVE_HELPER as usize], &[]);
        b.put(Slot::new(8, Type::I64), x);
    });
    assert_eq!(outcome, Outcome::Stop { pc: PC, stop: Stop::Asked });
    assert_eq!((machine.slot(0), machine.slot(8), machine.pc), (1, 0, PC));
}

#[test]
fn exits_say_where_to_go() {
    let mut machine = Small::new();
    let taken = |machine: &mut Small, condition: u64| {
        run(machine, |b| {
            // Through memory, so that nothing folds.
            let address = b.iconst(Type::I64, 0x1000 + condition);
            let condition = b.load(Type::I8, address, INDEX);
            let target = b.iconst(Type::I64, 0x77);
            b.exit_if(condition, Exit::Call { target: Target::Dynamic(target), return_pc: 5 });
            b.exit(Exit::Leave { reason: 3, pc: None });
        })
    };
    machine.memory[1] = 1;
    assert_eq!(taken(&mut machine, 1), Outcome::Exit { number: 0, pc: Some(0x77) });
    assert_eq!(taken(&mut machine, 0), Outcome::Exit { number: 1, pc: None });
}

#[test]
fn indexed_slots() {
    let mut machine = Small::new();
    run(&mut machine, |b| {
        let index = b.iconst(Type::I64, 24);
        let value = b.iconst(Type::I64, 0x55);
        b.put_indexed(32, 64, index, value);
        let read = b.get_indexed(Type::I64, 32, 64, index);
        b.put(Slot::new(0, Type::I64), read);
    });
    assert_eq!((machine.slot(56), machine.slot(0)), (0x55, 0x55));
}

#[test]
fn x87_values_keep_the_slot_bytes_above_them() {
    let mut machine = Small::new();
    machine.state[32..48].fill(0xaa);
    run(&mut machine, |b| {
        let three = b.iconst(Type::I64, 3);
        let three = b.convert(Op::XFromInt, Type::F80, Lane::None, 0, three);
        let one = b.iconst(Type::I32, 1.0f32.to_bits().into());
        let one = b.convert(Op::XFromF32, Type::F80, Lane::None, 0, one);
        let third = b.op2(Op::XDiv, Type::F80, Lane::None, 0, one, three, 0);
        b.put(Slot::new(32, Type::F80), third);
        let double = b.convert(Op::XToF64, Type::I64, Lane::None, 0, third);
        b.put(Slot::new(0, Type::I64), double);
        let int = b.convert(Op::XToInt, Type::I16, Lane::None, Rounding::Current as u8, three);
        b.put(Slot::new(8, Type::I16), int);
        let relation = b.op2(Op::XRel, Type::I32, Lane::None, 0, one, three, 0);
        b.put(Slot::new(16, Type::I32), relation);
    });
    assert_eq!(machine.slot(32), 0xaaaa_aaaa_aaaa_aaab);
    assert_eq!(machine.slot(40), 0xaaaa_aaaa_aaaa_3ffd);
    assert_eq!(f64::from_bits(machine.slot(0)), 1.0 / 3.0);
    assert_eq!((machine.slot(8), machine.slot(16)), (3, 1));
    assert_eq!((machine.x87.flags, machine.vector.flags), (Flags::INEXACT, Flags::empty()));
}

/// Every operation that computes, in every lane, on zeros and on ones: none is missing from the interpreter.
#[test]
fn every_operation_evaluates() {
    for &op in Op::ALL {
        let computes = op >= Op::Add && op <= Op::Select || op >= Op::VAnd;
        if !computes || matches!(op, Op::Zext | Op::Sext | Op::Trunc | Op::Icmp | Op::Select) {
            continue;
        }
        let types: &[Type] = match op {
            _ if op < Op::VAnd => &[Type::I32, Type::I64],
            _ if op >= Op::XFromParts => &[Type::I64],
            _ => &[Type::V128, Type::V256],
        };
        for &ty in types {
            for lane in lanes_of(op) {
                for fill in [0, u64::MAX] {
                    evaluate(op, ty, lane, fill);
                }
            }
        }
    }
}

/// Lanes that the operation may name.
fn lanes_of(op: Op) -> Vec<Lane> {
    use Lane::{F32, F64, I8, I16, I32, I64, S32, S64};
    match op {
        Op::VHAdd | Op::VHSub | Op::VPackSS | Op::VPackUS | Op::VExtendS | Op::VExtendU => vec![I16, I32],
        Op::VAddSatS | Op::VAddSatU | Op::VSubSatS | Op::VSubSatU | Op::VAvgU => vec![I8, I16],
        Op::VMulHiS | Op::VMulHiU | Op::VMulHiRoundS | Op::VHAddSat | Op::VHSubSat => vec![I16],
        Op::VShuffle2 | Op::VPermuteIn => vec![I32, I64],
        _ if op >= Op::VAnd && op < Op::FAdd => vec![I8, I16, I32, I64],
        _ if op >= Op::FAdd && op < Op::VConvert => vec![F32, F64, S32, S64],
        _ => vec![Lane::None],
    }
}

/// Runs `op` on operands of type `ty`, all of them the same bits.
fn evaluate(op: Op, ty: Type, lane: Lane, fill: u64) {
    let aux = if matches!(op, Op::VExtendS | Op::VExtendU) { 8 } else { 3 };
    let outcome = run(&mut Small::new(), |b| {
        let x = b.iconst(ty, fill);
        let int = b.iconst(Type::I64, fill);
        let [second, third] = match op.shape() {
            Shape::A | Shape::AImm => [Val::NONE; 2],
            Shape::ABC => [x, x],
            _ if op == Op::FFromInt => [int, Val::NONE],
            _ => [x, Val::NONE],
        };
        let result = if op == Op::FToInt { Type::I64 } else { ty };
        b.push(Inst { a: x, b: second, c: third, lane, aux, imm: 0x0811, ..Inst::new(op, result) });
    });
    assert_eq!(outcome, Outcome::Exit { number: 0, pc: Some(PC + 4) }, "{op:?}");
}

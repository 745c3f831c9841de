//! Tier 0: executes units of the IR one operation at a time, in portable Rust.
//!
//! The interpreter is the oracle: front ends and back ends are tested against it, so it favours the evident over the
//! fast. What an operation means is said in [`rhea_ir::op`]; each group has a module here that follows it. Floating
//! point goes through [`rhea_softfloat`], never through the host's.
//!
//! # Shape
//! [`Interpreter::run`] walks a unit from its first operation to the exit it takes, keeping a value for each
//! operation. Everything outside the unit is behind the [`Machine`] trait: guest state as bytes, memory, helpers, the
//! floating-point environments. The interpreter neither chains units nor counts instructions.
//!
//! # Invariants
//! - Only units that [`rhea_ir::verify`] accepts are run; others may panic.
//! - A value has no bit set above its type's width ([`Value`]), so operations may use whole words.
//! - State is touched only in program order: at a fault or a call every earlier put is visible and no later one.

mod crypto;
mod float;
mod integer;
mod lanes;
mod shuffle;
mod value;
mod x87;

use rhea_ir::{Exit, HelperInfo, Inst, MemFlags, Op, Rmw, SlotAccess, Target, Type, Unit, Val};
use rhea_softfloat::{Env, Flags};

pub use value::Value;
use value::{Operands, mask};

/// Which of the two floating-point environments an operation runs under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FloatUnit {
    /// That of vectors and scalars.
    Vector,
    /// That of the x87 extended format.
    X87,
}

/// What a unit runs on: one vCPU with its memory and helpers.
pub trait Machine {
    /// Why execution left a unit other than by an exit.
    type Stop;

    /// The guest state that slots are offsets into, little-endian.
    fn state(&mut self) -> &mut [u8];

    /// Stores the PC of the instruction at hand in the PC slot. Called before a memory access and before a helper that
    /// may look at the PC or leave the unit.
    fn set_pc(&mut self, pc: u64);

    /// Reads `buffer.len()` (1 to 32) bytes of guest memory at `address`, lowest address first. `flags` gives the MMU
    /// index and asks for alignment and write checks; byte order is the interpreter's business.
    fn load(&mut self, address: u64, flags: MemFlags, buffer: &mut [u8]) -> Result<(), Self::Stop>;

    /// Writes `bytes` to guest memory at `address`.
    fn store(&mut self, address: u64, flags: MemFlags, bytes: &[u8]) -> Result<(), Self::Stop>;

    /// Atomically replaces the integer of `size` (1, 2, 4 or 8) bytes at `address`, read little-endian, by what
    /// `update` makes of it, or leaves it if `update` gives `None`; returns the old value. The access is checked as a
    /// store in either case. `update` may be called more than once.
    fn atomic_update(
        &mut self,
        address: u64,
        size: u32,
        flags: MemFlags,
        update: &mut dyn FnMut(u64) -> Option<u64>,
    ) -> Result<u64, Self::Stop>;

    /// A full memory fence.
    fn fence(&mut self);

    /// Calls helper `id`. Arguments are zero-extended; bits of the result above its type are ignored. A request of the
    /// helper to leave the unit comes back as `Err`.
    fn call(&mut self, id: u32, arguments: [u64; 4]) -> Result<u64, Self::Stop>;

    /// The floating-point environment as it is now. Its flags are ignored.
    fn float_environment(&mut self, unit: FloatUnit) -> Env;

    /// Adds sticky floating-point flags.
    fn raise(&mut self, unit: FloatUnit, flags: Flags);
}

/// How a run of a unit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<S> {
    /// Through one of the unit's exits. The PC slot has not been set for it.
    Exit {
        /// Index in [`Unit::exits`].
        number: u32,
        /// Where execution continues, for exits that say so.
        pc: Option<u64>,
    },
    /// By a fault of a memory access or at a helper's request, in the instruction at `pc`.
    Stop {
        /// PC of the instruction, also in the PC slot.
        pc: u64,
        /// The machine's reason.
        stop: S,
    },
}

/// Executes units; keeps its buffers from one to the next.
#[derive(Debug, Default)]
pub struct Interpreter {
    values: Vec<Value>,
}

/// What an operation did.
enum Step {
    Value(Value),
    Exit(u64),
}

impl Interpreter {
    /// An interpreter with empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a verified `unit`. `helpers` is the guest's helper table, for what the contract says of each.
    ///
    /// # Panics
    /// If the unit is not well formed.
    pub fn run<M: Machine>(
        &mut self,
        unit: &Unit,
        helpers: &[HelperInfo],
        machine: &mut M,
    ) -> Outcome<M::Stop> {
        self.values.clear();
        let mut pc = unit.pc;
        for inst in &unit.insts {
            if inst.op == Op::InsnStart {
                pc = inst.imm;
            }
            match self.step(unit, inst, pc, helpers, machine) {
                Ok(Step::Value(value)) => self.values.push(value),
                Ok(Step::Exit(number)) => {
                    let pc = self.exit_pc(&unit.exits[number as usize]);
                    return Outcome::Exit { number: number as u32, pc };
                }
                Err(stop) => return Outcome::Stop { pc, stop },
            }
        }
        panic!("the unit at {:#x} has no final exit", unit.pc);
    }

    /// The value of an operation of the unit last run, for traces and tests. `None` if it was not reached.
    pub fn value(&self, val: Val) -> Option<Value> {
        self.values.get(val.index()).copied()
    }

    fn at(&self, val: Val) -> Value {
        if val.is_some() { self.values[val.index()] } else { Value::ZERO }
    }

    fn exit_pc(&self, exit: &Exit) -> Option<u64> {
        let target = |target| match target {
            Target::Static(pc) => pc,
            Target::Dynamic(val) => self.at(val).low(),
        };
        match *exit {
            Exit::Jump(to) | Exit::Call { target: to, .. } => Some(target(to)),
            Exit::Return(val) => Some(self.at(val).low()),
            Exit::Leave { pc, .. } => pc,
        }
    }

    fn step<M: Machine>(
        &self,
        unit: &Unit,
        inst: &Inst,
        pc: u64,
        helpers: &[HelperInfo],
        machine: &mut M,
    ) -> Result<Step, M::Stop> {
        let op = inst.op;
        let value = if op <= Op::PutIndexed {
            self.structure(inst, machine)
        } else if op <= Op::Select {
            integer::evaluate(inst, &self.operands(unit, inst))
        } else if op <= Op::Fence {
            machine.set_pc(pc);
            self.memory(inst, machine)?
        } else if op == Op::Call {
            self.call(unit, inst, pc, helpers, machine)?
        } else if op == Op::Exit || (op == Op::ExitIf && self.at(inst.a).low() & 1 != 0) {
            return Ok(Step::Exit(inst.imm));
        } else if op == Op::ExitIf {
            Value::ZERO
        } else {
            self.compute(unit, inst, machine)
        };
        Ok(Step::Value(value))
    }

    /// Vector, floating-point and cryptographic operations.
    fn compute<M: Machine>(&self, unit: &Unit, inst: &Inst, machine: &mut M) -> Value {
        let op = inst.op;
        let operands = self.operands(unit, inst);
        let (evaluate, float_unit): (fn(&Inst, &Operands, &mut Env) -> Value, _) = if op <= Op::VSarVar {
            return lanes::evaluate(inst, &operands);
        } else if op <= Op::VMultiSad {
            return shuffle::evaluate(inst, &operands);
        } else if op <= Op::VConvert {
            (float::evaluate, FloatUnit::Vector)
        } else if op <= Op::Sha256Msg2 {
            return crypto::evaluate(inst, &operands);
        } else {
            (x87::evaluate, FloatUnit::X87)
        };
        let mut env = machine.float_environment(float_unit);
        env.flags = Flags::empty();
        let value = evaluate(inst, &operands, &mut env);
        if !env.flags.is_empty() {
            machine.raise(float_unit, env.flags);
        }
        value
    }

    fn operands(&self, unit: &Unit, inst: &Inst) -> Operands {
        let ty = |val: Val| if val.is_some() { unit.inst(val).ty } else { Type::Void };
        Operands {
            a: self.at(inst.a),
            b: self.at(inst.b),
            c: self.at(inst.c),
            a_type: ty(inst.a),
            b_type: ty(inst.b),
        }
    }

    /// Constants and slots.
    fn structure<M: Machine>(&self, inst: &Inst, machine: &mut M) -> Value {
        match inst.op {
            Op::Const => return Value([inst.imm; 4]).cut(inst.ty),
            Op::InsnStart => return Value::ZERO,
            _ => {}
        }
        let (mut offset, mut stored) = (inst.imm as u32 as u64, inst.a);
        if matches!(inst.op, Op::GetIndexed | Op::PutIndexed) {
            let (index, array) = (self.at(inst.a).low(), inst.imm >> 32);
            assert!(index < array, "slot index {index:#x} beyond an array of {array:#x} bytes");
            (offset, stored) = (offset + index, inst.b);
        }
        // The six bytes above an F80 in its slot belong to nobody.
        let size = if inst.ty == Type::F80 { 10 } else { inst.ty.bytes() as usize };
        let slot = &mut machine.state()[offset as usize..][..size];
        if matches!(inst.op, Op::GetSlot | Op::GetIndexed) {
            return Value::from_bytes(slot);
        }
        slot.copy_from_slice(&self.at(stored).to_bytes()[..size]);
        Value::ZERO
    }

    fn memory<M: Machine>(&self, inst: &Inst, machine: &mut M) -> Result<Value, M::Stop> {
        let flags = MemFlags(inst.aux);
        let address = self.at(inst.a).low();
        let size = inst.ty.bytes();
        let swap = flags.has(MemFlags::BIG_ENDIAN);
        let mut buffer = [0; 32];
        match inst.op {
            Op::Load => {
                let bytes = &mut buffer[..size as usize];
                machine.load(address, flags, bytes)?;
                if swap {
                    bytes.reverse();
                }
                Ok(Value::from_bytes(bytes))
            }
            Op::Store => {
                buffer = self.at(inst.b).to_bytes();
                let bytes = &mut buffer[..size as usize];
                if swap {
                    bytes.reverse();
                }
                machine.store(address, flags, bytes)?;
                Ok(Value::ZERO)
            }
            Op::Fence => {
                machine.fence();
                Ok(Value::ZERO)
            }
            _ => self.atomic(inst, address, flags, machine),
        }
    }

    fn atomic<M: Machine>(
        &self,
        inst: &Inst,
        address: u64,
        flags: MemFlags,
        machine: &mut M,
    ) -> Result<Value, M::Stop> {
        let bits = inst.ty.bits();
        let ordered = |value: u64| {
            if flags.has(MemFlags::BIG_ENDIAN) {
                value.swap_bytes() >> (64 - bits)
            } else {
                value & mask(bits)
            }
        };
        let (operand, new) = (self.at(inst.b).low(), self.at(inst.c).low());
        let old = if inst.op == Op::AtomicCas {
            let update = &mut |old| (ordered(old) == operand).then(|| ordered(new));
            machine.atomic_update(address, inst.ty.bytes(), flags, update)?
        } else {
            let rmw = Rmw::ALL[inst.imm as usize];
            let update =
                &mut |old| Some(ordered(integer::read_modify_write(rmw, bits, ordered(old), operand)));
            machine.atomic_update(address, inst.ty.bytes(), flags, update)?
        };
        Ok(Value::int(ordered(old)))
    }

    fn call<M: Machine>(
        &self,
        unit: &Unit,
        inst: &Inst,
        pc: u64,
        helpers: &[HelperInfo],
        machine: &mut M,
    ) -> Result<Value, M::Stop> {
        let info = &helpers[inst.imm as usize];
        if info.may_exit || info.reads != SlotAccess::None {
            machine.set_pc(pc);
        }
        let mut arguments = [0; 4];
        let start = inst.a.index();
        for (argument, &val) in arguments.iter_mut().zip(&unit.pool[start..start + usize::from(inst.aux)]) {
            *argument = self.at(val).low();
        }
        let result = machine.call(inst.imm as u32, arguments)?;
        Ok(Value::int(result & mask(inst.ty.bits())))
    }
}

//! The walk through a unit: control, slots, memory and calls. What merely computes is in the other modules.
//!
//! Operations on integers, most of any unit, take a path of their own on single words; the others move 256-bit values.

use rhea_ir::{Exit, HelperInfo, Inst, MemFlags, Op, Rmw, SlotAccess, Target, Type, Unit, Val};
use rhea_softfloat::{Env, Flags};

use crate::value::{Operands, Value, mask};
use crate::{FloatUnit, Machine, Outcome, crypto, float, integer, lanes, shuffle, x87};

/// Executes units; keeps its buffers from one to the next.
#[derive(Debug, Default)]
pub struct Interpreter {
    /// Values by number of the defining operation; at least as many as the unit has operations. Those from `reached`
    /// on are left from earlier units.
    values: Vec<Value>,
    /// Operations of the current unit that have been executed.
    reached: usize,
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
        if self.values.len() < unit.insts.len() {
            self.values.resize(unit.insts.len(), Value::ZERO);
        }
        let mut pc = unit.pc;
        for (number, inst) in unit.insts.iter().enumerate() {
            self.reached = number;
            let op = inst.op;
            let done = if op == Op::InsnStart {
                pc = inst.imm;
                Ok(())
            } else if op == Op::Exit || op == Op::ExitIf {
                if op == Op::Exit || self.low(inst.a) & 1 != 0 {
                    let pc = self.exit_pc(&unit.exits[inst.imm as usize]);
                    return Outcome::Exit { number: inst.imm as u32, pc };
                }
                Ok(())
            } else if op < Op::VAnd && (inst.ty.is_int() || inst.ty == Type::Void) {
                self.scalar(unit, inst, pc, helpers, machine)
                    .map(|word| self.values[number] = Value::int(word))
            } else {
                self.wide(unit, inst, pc, machine).map(|value| self.values[number] = value)
            };
            if let Err(stop) = done {
                return Outcome::Stop { pc, stop };
            }
        }
        panic!("the unit at {:#x} has no final exit", unit.pc);
    }

    /// The value of an operation of the unit last run, for traces and tests. `None` if it was not reached.
    pub fn value(&self, val: Val) -> Option<Value> {
        self.values[..self.reached].get(val.index()).copied()
    }

    fn at(&self, val: Val) -> Value {
        if val.is_some() { self.values[val.index()] } else { Value::ZERO }
    }

    /// An operand as integer; 0 where there is none.
    fn low(&self, val: Val) -> u64 {
        self.values.get(val.index()).map_or(0, |value| value.low())
    }

    fn exit_pc(&self, exit: &Exit) -> Option<u64> {
        let target = |target| match target {
            Target::Static(pc) => pc,
            Target::Dynamic(val) => self.low(val),
        };
        match *exit {
            Exit::Jump(to) | Exit::Call { target: to, .. } => Some(target(to)),
            Exit::Return(val) => Some(self.low(val)),
            Exit::Leave { pc, .. } => pc,
        }
    }

    /// Executes an operation, neither vector nor exit, whose result or stored value is an integer or nothing.
    fn scalar<M: Machine>(
        &self,
        unit: &Unit,
        inst: &Inst,
        pc: u64,
        helpers: &[HelperInfo],
        machine: &mut M,
    ) -> Result<u64, M::Stop> {
        let size = inst.ty.bytes() as usize;
        let result = match inst.op {
            Op::Const => inst.imm & mask(inst.ty.bits()),
            Op::GetSlot | Op::GetIndexed => word(self.slot(inst, size, machine)),
            Op::PutSlot => {
                set_word(self.slot(inst, size, machine), self.low(inst.a));
                0
            }
            Op::PutIndexed => {
                set_word(self.slot(inst, size, machine), self.low(inst.b));
                0
            }
            Op::Select => self.low(if self.low(inst.a) & 1 != 0 { inst.b } else { inst.c }),
            Op::Load => {
                machine.set_pc(pc);
                let mut bytes = [0; 8];
                let flags = MemFlags(inst.aux);
                machine.load(self.low(inst.a), flags, &mut bytes[..size])?;
                ordered(u64::from_le_bytes(bytes), inst)
            }
            Op::Store => {
                machine.set_pc(pc);
                let bytes = ordered(self.low(inst.b), inst).to_le_bytes();
                machine.store(self.low(inst.a), MemFlags(inst.aux), &bytes[..size])?;
                0
            }
            Op::AtomicRmw | Op::AtomicCas => {
                machine.set_pc(pc);
                self.atomic(inst, machine)?
            }
            Op::Fence => {
                machine.fence();
                0
            }
            Op::Call => self.call(unit, inst, pc, helpers, machine)?,
            _ => {
                let operands = [self.low(inst.a), self.low(inst.b), self.low(inst.c)];
                integer::evaluate(inst, operands, |val| unit.inst(val).ty.bits())
            }
        };
        Ok(result)
    }

    /// Executes any other operation but exits.
    fn wide<M: Machine>(&self, unit: &Unit, inst: &Inst, pc: u64, machine: &mut M) -> Result<Value, M::Stop> {
        // The six bytes above an F80 in its slot belong to nobody.
        let size = if inst.ty == Type::F80 { 10 } else { inst.ty.bytes() as usize };
        let flags = MemFlags(inst.aux);
        let value = match inst.op {
            Op::Const => Value([inst.imm; 4]).cut(inst.ty),
            Op::GetSlot | Op::GetIndexed => Value::from_bytes(self.slot(inst, size, machine)),
            Op::PutSlot | Op::PutIndexed => {
                let value = self.at(if inst.op == Op::PutSlot { inst.a } else { inst.b });
                self.slot(inst, size, machine).copy_from_slice(&value.to_bytes()[..size]);
                Value::ZERO
            }
            Op::Select => self.at(if self.low(inst.a) & 1 != 0 { inst.b } else { inst.c }),
            Op::Load => {
                machine.set_pc(pc);
                let mut buffer = [0; 32];
                let bytes = &mut buffer[..size];
                machine.load(self.low(inst.a), flags, bytes)?;
                if flags.has(MemFlags::BIG_ENDIAN) {
                    bytes.reverse();
                }
                Value::from_bytes(bytes)
            }
            Op::Store => {
                machine.set_pc(pc);
                let mut buffer = self.at(inst.b).to_bytes();
                let bytes = &mut buffer[..size];
                if flags.has(MemFlags::BIG_ENDIAN) {
                    bytes.reverse();
                }
                machine.store(self.low(inst.a), flags, bytes)?;
                Value::ZERO
            }
            _ => self.compute(unit, inst, machine),
        };
        Ok(value)
    }

    /// The bytes of the slot that an operation gets or puts.
    fn slot<'m, M: Machine>(&self, inst: &Inst, size: usize, machine: &'m mut M) -> &'m mut [u8] {
        let mut offset = inst.imm as u32 as usize;
        if matches!(inst.op, Op::GetIndexed | Op::PutIndexed) {
            let (index, array) = (self.low(inst.a), inst.imm >> 32);
            assert!(index < array, "slot index {index:#x} beyond an array of {array:#x} bytes");
            offset += index as usize;
        }
        &mut machine.state()[offset..][..size]
    }

    fn atomic<M: Machine>(&self, inst: &Inst, machine: &mut M) -> Result<u64, M::Stop> {
        let (address, flags) = (self.low(inst.a), MemFlags(inst.aux));
        let (size, bits) = (inst.ty.bytes(), inst.ty.bits());
        let (operand, new) = (self.low(inst.b), self.low(inst.c));
        let old = if inst.op == Op::AtomicCas {
            let update = &mut |old| (ordered(old, inst) == operand).then(|| ordered(new, inst));
            machine.atomic_update(address, size, flags, update)?
        } else {
            let rmw = Rmw::ALL[inst.imm as usize];
            let update = &mut |old| {
                Some(ordered(integer::read_modify_write(rmw, bits, ordered(old, inst), operand), inst))
            };
            machine.atomic_update(address, size, flags, update)?
        };
        Ok(ordered(old, inst))
    }

    fn call<M: Machine>(
        &self,
        unit: &Unit,
        inst: &Inst,
        pc: u64,
        helpers: &[HelperInfo],
        machine: &mut M,
    ) -> Result<u64, M::Stop> {
        let info = &helpers[inst.imm as usize];
        if info.may_exit || info.reads != SlotAccess::None {
            machine.set_pc(pc);
        }
        let mut arguments = [0; 4];
        let start = inst.a.index();
        for (argument, &val) in arguments.iter_mut().zip(&unit.pool[start..start + usize::from(inst.aux)]) {
            *argument = self.low(val);
        }
        let result = machine.call(inst.imm as u32, arguments)?;
        Ok(if inst.ty == Type::Void { 0 } else { result & mask(inst.ty.bits()) })
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
}

/// An integer from or to memory in the byte order of the access: its own inverse.
fn ordered(value: u64, inst: &Inst) -> u64 {
    let bits = inst.ty.bits();
    if MemFlags(inst.aux).has(MemFlags::BIG_ENDIAN) {
        value.swap_bytes() >> (64 - bits)
    } else {
        value & mask(bits)
    }
}

/// A slot of 1, 2, 4 or 8 bytes.
fn word(slot: &[u8]) -> u64 {
    match *slot {
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]).into(),
        [a, b] => u16::from_le_bytes([a, b]).into(),
        [a] => a.into(),
        _ => unreachable!("no integer has {} bytes", slot.len()),
    }
}

fn set_word(slot: &mut [u8], value: u64) {
    let bytes = value.to_le_bytes();
    match slot.len() {
        8 => slot.copy_from_slice(&bytes),
        4 => slot.copy_from_slice(&bytes[..4]),
        size => slot.copy_from_slice(&bytes[..size]),
    }
}

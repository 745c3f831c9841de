//! Checks a unit against the invariants of [`crate::unit`] and the operand types of [`crate::op`].

use crate::op::{Op, Shape};
use crate::types::{Cond, Type};
use crate::unit::{Exit, HelperInfo, Inst, Target, Unit, Val};
use thiserror::Error;

/// A broken invariant, at operation `at`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("operation {at}: {what}")]
pub struct VerifyError {
    /// Index of the operation.
    pub at: usize,
    /// What is wrong.
    pub what: &'static str,
}

/// Verifies `unit`; `helpers` is the guest's helper table.
pub fn verify(unit: &Unit, helpers: &[HelperInfo]) -> Result<(), VerifyError> {
    let fail = |at, what| Err(VerifyError { at, what });
    match unit.insts.first() {
        Some(i) if i.op == Op::InsnStart => {}
        _ => return fail(0, "a unit starts with insn"),
    }
    let last = unit.insts.len() - 1;
    if unit.insts[last].op != Op::Exit {
        return fail(last, "a unit ends with exit");
    }
    for (at, inst) in unit.insts.iter().enumerate() {
        if inst.op == Op::Exit && at != last {
            return fail(at, "exit before the end");
        }
        if let Err(what) = check_inst(unit, helpers, at, inst) {
            return fail(at, what);
        }
    }
    Ok(())
}

fn check_inst(unit: &Unit, helpers: &[HelperInfo], at: usize, i: &Inst) -> Result<(), &'static str> {
    if i.op == Op::Call {
        return check_call(unit, helpers, at, i);
    }
    check_presence(i)?;
    let mut error = None;
    i.for_each_operand(&[], |v| {
        if v.index() >= at {
            error = Some("operand used before its definition");
        } else if unit.inst(v).ty == Type::Void {
            error = Some("operand has no value");
        }
    });
    if let Some(e) = error {
        return Err(e);
    }
    check_types(unit, i)?;
    check_exit(unit, at, i)
}

fn check_presence(i: &Inst) -> Result<(), &'static str> {
    let (a, b, c) = match i.op.shape() {
        Shape::Imm | Shape::Exit => (false, false, false),
        Shape::A | Shape::AImm | Shape::MemLoad | Shape::CondExit => (true, false, false),
        Shape::AB | Shape::ABImm | Shape::MemStore => (true, true, false),
        Shape::Lea => (true, i.b.is_some(), false),
        Shape::ABC => (true, true, true),
        Shape::MemAtomic => (true, true, i.op == Op::AtomicCas),
        Shape::Call => return Ok(()),
    };
    if (i.a.is_some(), i.b.is_some(), i.c.is_some()) == (a, b, c) {
        Ok(())
    } else {
        Err("wrong operands for the operation")
    }
}

fn check_types(unit: &Unit, i: &Inst) -> Result<(), &'static str> {
    let ty = |v: Val| unit.inst(v).ty;
    let want = |ok: bool, what| if ok { Ok(()) } else { Err(what) };
    match i.op {
        Op::Add | Op::Sub | Op::Mul | Op::And | Op::Or | Op::Xor | Op::AndNot | Op::MulHiU | Op::MulHiS => {
            want(
                i.ty.is_int() && ty(i.a) == i.ty && ty(i.b) == i.ty,
                "integer operands must have the result's type",
            )
        }
        Op::Shl | Op::Shr | Op::Sar | Op::Rotl | Op::Rotr => want(
            i.ty.is_int() && ty(i.a) == i.ty && (ty(i.b) == i.ty || ty(i.b) == Type::I8),
            "shift operand types",
        ),
        Op::Neg | Op::Not | Op::Bswap | Op::Clz | Op::Ctz | Op::Popcnt | Op::Extract => {
            want(i.ty.is_int() && ty(i.a) == i.ty, "integer operand must have the result's type")
        }
        Op::Zext | Op::Sext => {
            want(i.ty.is_int() && ty(i.a).is_int() && ty(i.a) < i.ty, "extension must widen an integer")
        }
        Op::Trunc => {
            want(i.ty.is_int() && ty(i.a).is_int() && ty(i.a) > i.ty, "truncation must narrow an integer")
        }
        Op::Icmp => want(
            i.ty == Type::I8
                && ty(i.a).is_int()
                && ty(i.a) == ty(i.b)
                && usize::from(i.aux) < Cond::ALL.len(),
            "comparison types",
        ),
        Op::Select => want(
            ty(i.a) == Type::I8 && ty(i.b) == i.ty && ty(i.c) == i.ty && i.ty != Type::F80,
            "select types",
        ),
        Op::Load | Op::Store | Op::AtomicRmw | Op::AtomicCas => {
            want(ty(i.a) == Type::I64, "addresses are i64")?;
            want(i.ty != Type::F80 && i.ty != Type::Void, "type cannot be in memory")?;
            let same = |v: Val| !v.is_some() || ty(v) == i.ty;
            want(same(i.b) && same(i.c), "stored value must have the access's type")
        }
        Op::PutSlot => want(ty(i.a) == i.ty, "put value must have the slot's type"),
        Op::ExitIf => want(ty(i.a) == Type::I8, "conditions are i8"),
        _ => Ok(()),
    }
}

fn check_exit(unit: &Unit, at: usize, i: &Inst) -> Result<(), &'static str> {
    if !matches!(i.op, Op::Exit | Op::ExitIf) {
        return Ok(());
    }
    let exit = unit.exits.get(i.imm as usize).ok_or("exit number out of range")?;
    let target = match *exit {
        Exit::Jump(t) | Exit::Call { target: t, .. } => t,
        Exit::Return(v) => Target::Dynamic(v),
        Exit::Leave { reason, .. } if reason >= 1 << 31 => return Err("reserved leave reason"),
        Exit::Leave { .. } => return Ok(()),
    };
    match target {
        Target::Dynamic(v) if v.index() >= at || unit.inst(v).ty != Type::I64 => {
            Err("exit target must be an i64 defined before")
        }
        _ => Ok(()),
    }
}

fn check_call(unit: &Unit, helpers: &[HelperInfo], at: usize, i: &Inst) -> Result<(), &'static str> {
    let info = helpers.get(i.imm as usize).ok_or("unknown helper")?;
    if info.params.len() != usize::from(i.aux) || info.params.len() > 4 {
        return Err("wrong number of helper arguments");
    }
    if info.result != i.ty {
        return Err("wrong helper result type");
    }
    let start = i.a.index();
    let args = unit.pool.get(start..start + info.params.len()).ok_or("argument pool out of range")?;
    for (&v, &ty) in args.iter().zip(info.params) {
        if v.index() >= at || unit.inst(v).ty != ty {
            return Err("helper argument type");
        }
    }
    Ok(())
}

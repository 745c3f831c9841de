//! The text form of units.

use crate::op::{Op, Shape};
use crate::types::{Cond, Lane, Rmw, Type};
use crate::unit::{Exit, HelperInfo, Inst, Target, Unit, Val};
use std::fmt::{self, Write};

/// Prints `unit`, one operation a line; helper names come from `helpers`.
pub fn print(unit: &Unit, helpers: &[HelperInfo]) -> String {
    let mut out = String::new();
    for (n, inst) in unit.insts.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = print_inst(&mut out, unit, helpers, n, inst);
        out.push('\n');
    }
    out
}

fn val(v: Val) -> String {
    format!("%{}", v.0)
}

fn target(t: Target) -> String {
    match t {
        Target::Static(pc) => format!("{pc:#x}"),
        Target::Dynamic(v) => val(v),
    }
}

fn exit(e: &Exit) -> String {
    match *e {
        Exit::Jump(t) => format!("jump {}", target(t)),
        Exit::Call { target: t, return_pc } => format!("call {} return {return_pc:#x}", target(t)),
        Exit::Return(v) => format!("return {}", val(v)),
        Exit::Leave { reason, pc: Some(pc) } => format!("leave {reason} at {pc:#x}"),
        Exit::Leave { reason, pc: None } => format!("leave {reason}"),
    }
}

fn print_inst(out: &mut String, unit: &Unit, helpers: &[HelperInfo], n: usize, i: &Inst) -> fmt::Result {
    if i.op == Op::InsnStart {
        return write!(out, "insn {:#x} {}", i.imm, i.aux);
    }
    out.push_str("  ");
    let has_result = i.ty != Type::Void && !matches!(i.op, Op::PutSlot | Op::PutIndexed | Op::Store);
    if has_result {
        write!(out, "%{n} = ")?;
    }
    out.push_str(i.op.name());
    if i.ty != Type::Void {
        write!(out, ".{}", i.ty.name())?;
    }
    if i.lane != Lane::None {
        write!(out, ".{}", i.lane.name())?;
    }
    match i.op.shape() {
        Shape::Exit => return write!(out, " {}", exit(&unit.exits[i.imm as usize])),
        Shape::CondExit => {
            return write!(out, " {}, {}", val(i.a), exit(&unit.exits[i.imm as usize]));
        }
        Shape::Call => {
            let name = helpers.get(i.imm as usize).map_or("?", |h| h.name);
            let start = i.a.index();
            let args: Vec<String> =
                unit.pool[start..start + usize::from(i.aux)].iter().map(|&v| val(v)).collect();
            return write!(out, " {name}({})", args.join(", "));
        }
        _ => {}
    }
    if i.op == Op::Icmp {
        write!(out, " {}", Cond::ALL.get(usize::from(i.aux)).map_or("?", |c| c.name()))?;
    } else if i.op == Op::AtomicRmw {
        write!(out, " {}", Rmw::ALL.get(i.imm as usize).map_or("?", |r| r.name()))?;
    }
    let operands: Vec<String> = [i.a, i.b, i.c].into_iter().filter(|v| v.is_some()).map(val).collect();
    if !operands.is_empty() {
        write!(out, " {}", operands.join(", "))?;
    }
    if i.imm != 0 && i.op != Op::AtomicRmw || matches!(i.op, Op::Const | Op::GetSlot | Op::PutSlot) {
        write!(out, " #{:#x}", i.imm)?;
    }
    if i.aux != 0 && i.op != Op::Icmp {
        write!(out, " aux={}", i.aux)?;
    }
    Ok(())
}

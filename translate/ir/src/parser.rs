//! Reads the text form of units, the inverse of [`crate::text::print`].
//!
//! One operation a line:
//!
//! ```text
//! insn 0x1000 3                     ; PC and length of a guest instruction
//!   %1 = get.i64 #0x8               ; result, operation and type, immediate
//!   %2 = vadd.v128.i16 %a, %b       ; lane type after the result type
//!   %3 = icmp.i8 ltu %1, %1         ; conditions and atomic operations by name
//!   %4 = load.i32 %1 aux=1          ; other attributes by number
//!   %5 = call.i64 helper(%1, %4)
//!   exit_if %3, jump 0x1003         ; jump, call … return …, return, leave … [at …]
//!   exit leave 7 at 0x1003
//! ```
//!
//! Names of values are free: any word after `%`, defined before it is used. `;` starts a comment. What the text does
//! not carry follows from it: the unit's PC, length and instruction count from its `insn` lines, exit numbers from
//! the order of the exits. The parser does not check types: [`crate::verify`] does.

use crate::op::{Op, Shape};
use crate::types::{Cond, Lane, Rmw, Type};
use crate::unit::{Exit, HelperInfo, Inst, Target, Unit, Val};
use std::collections::HashMap;
use thiserror::Error;

/// Text that is not a unit.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {what}")]
pub struct ParseError {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

/// Parses one unit; helper names are looked up in `helpers`.
pub fn parse(text: &str, helpers: &[HelperInfo]) -> Result<Unit, ParseError> {
    let mut parser = Parser { unit: Unit::default(), names: HashMap::new(), helpers };
    for (number, line) in text.lines().enumerate() {
        let line = line.split(';').next().unwrap_or_default().trim();
        if !line.is_empty() {
            parser.line(line).map_err(|what| ParseError { line: number + 1, what })?;
        }
    }
    parser.finish()
}

/// What went wrong on the line at hand.
type Result1<T> = Result<T, String>;

struct Parser<'a> {
    unit: Unit,
    names: HashMap<&'a str, Val>,
    helpers: &'a [HelperInfo],
}

/// Splits at the first whitespace.
fn word(text: &str) -> (&str, &str) {
    match text.split_once(char::is_whitespace) {
        Some((first, rest)) => (first, rest.trim_start()),
        None => (text, ""),
    }
}

fn number(text: &str) -> Result1<u64> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("`{text}` is not a number"))
}

fn small(text: &str) -> Result1<u8> {
    u8::try_from(number(text)?).map_err(|_| format!("{text} does not fit in 8 bits"))
}

/// Finds the element of `all` called `name`.
fn named<T: Copy>(all: &[T], name_of: impl Fn(T) -> &'static str, name: &str, kind: &str) -> Result1<T> {
    all.iter().copied().find(|&item| name_of(item) == name).ok_or_else(|| format!("`{name}` is not {kind}"))
}

impl<'a> Parser<'a> {
    fn line(&mut self, line: &'a str) -> Result1<()> {
        if let Some(rest) = line.strip_prefix("insn ") {
            let (pc, length) = word(rest.trim_start());
            let inst = Inst { imm: number(pc)?, aux: small(length)?, ..Inst::new(Op::InsnStart, Type::Void) };
            self.unit.insn_count += 1;
            self.unit.insts.push(inst);
            return Ok(());
        }
        let (name, body) = match line.split_once('=') {
            Some((left, right)) if left.starts_with('%') => (Some(left[1..].trim()), right.trim_start()),
            _ => (None, line),
        };
        let inst = self.operation(body)?;
        let has_result =
            inst.ty != Type::Void && !matches!(inst.op, Op::PutSlot | Op::PutIndexed | Op::Store);
        if name.is_some() != has_result {
            return Err(format!(
                "{} {} a result",
                inst.op.name(),
                if has_result { "has" } else { "has not" }
            ));
        }
        let val = Val(u32::try_from(self.unit.insts.len()).map_err(|_| "too many operations")?);
        self.unit.insts.push(inst);
        if let Some(name) = name
            && self.names.insert(name, val).is_some()
        {
            return Err(format!("%{name} is defined twice"));
        }
        Ok(())
    }

    /// An operation with its type suffixes and operands.
    fn operation(&mut self, text: &'a str) -> Result1<Inst> {
        let (head, rest) = word(text);
        let mut parts = head.split('.');
        let op = named(Op::ALL, Op::name, parts.next().unwrap_or_default(), "an operation")?;
        let ty = match parts.next() {
            Some(name) => named(&Type::ALL, Type::name, name, "a type")?,
            None => Type::Void,
        };
        let lane = match parts.next() {
            Some(name) => named(&Lane::ALL, Lane::name, name, "a lane type")?,
            None => Lane::None,
        };
        if parts.next().is_some() {
            return Err(format!("`{head}` has too many suffixes"));
        }
        let inst = Inst { lane, ..Inst::new(op, ty) };
        match op.shape() {
            Shape::Exit => Ok(Inst { imm: self.exit(rest)?, ..inst }),
            Shape::CondExit => {
                let (condition, exit) =
                    rest.split_once(',').ok_or("a conditional exit names a condition and an exit")?;
                let a = self.val(condition.trim())?;
                Ok(Inst { a, imm: self.exit(exit.trim())?, ..inst })
            }
            Shape::Call => self.call(inst, rest),
            _ => self.plain(inst, rest),
        }
    }

    /// Operands, immediate and attribute of an operation that is neither call nor exit.
    fn plain(&mut self, mut inst: Inst, text: &'a str) -> Result1<Inst> {
        let mut rest = text;
        if inst.op == Op::Icmp {
            let (name, after) = word(rest);
            inst.aux = named(&Cond::ALL, Cond::name, name, "a condition")? as u8;
            rest = after;
        } else if inst.op == Op::AtomicRmw {
            let (name, after) = word(rest);
            inst.imm = named(&Rmw::ALL, Rmw::name, name, "an atomic operation")? as u64;
            rest = after;
        }
        let mut operands = [Val::NONE; 3];
        let mut count = 0;
        for token in rest.split([',', ' ', '\t']).filter(|token| !token.is_empty()) {
            if token.starts_with('%') {
                *operands.get_mut(count).ok_or("more than three operands")? = self.val(token)?;
                count += 1;
            } else if let Some(value) = token.strip_prefix('#') {
                inst.imm = number(value)?;
            } else if let Some(value) = token.strip_prefix("aux=") {
                inst.aux = small(value)?;
            } else {
                return Err(format!("`{token}` is not an operand"));
            }
        }
        [inst.a, inst.b, inst.c] = operands;
        Ok(inst)
    }

    fn call(&mut self, inst: Inst, text: &'a str) -> Result1<Inst> {
        let (name, rest) = text.split_once('(').ok_or("a call names a helper and its arguments")?;
        let arguments = rest.strip_suffix(')').ok_or("a call ends with `)`")?;
        let name = name.trim();
        let id = self.helpers.iter().position(|helper| helper.name == name);
        let id = id.ok_or_else(|| format!("`{name}` is not a helper"))?;
        let start = self.unit.pool.len();
        for argument in arguments.split(',').map(str::trim).filter(|argument| !argument.is_empty()) {
            let val = self.val(argument)?;
            self.unit.pool.push(val);
        }
        let aux = u8::try_from(self.unit.pool.len() - start).map_err(|_| "too many arguments")?;
        let start = u32::try_from(start).map_err(|_| "too many arguments")?;
        Ok(Inst { a: Val(start), aux, imm: id as u64, ..inst })
    }

    fn val(&self, text: &str) -> Result1<Val> {
        let name = text.strip_prefix('%').ok_or_else(|| format!("`{text}` is not a value"))?;
        self.names.get(name).copied().ok_or_else(|| format!("%{name} is used before it is defined"))
    }

    fn target(&self, text: &str) -> Result1<Target> {
        if text.starts_with('%') {
            Ok(Target::Dynamic(self.val(text)?))
        } else {
            Ok(Target::Static(number(text)?))
        }
    }

    /// Adds an exit; gives its number.
    fn exit(&mut self, text: &str) -> Result1<u64> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let reason =
            |text| number(text).and_then(|n| u32::try_from(n).map_err(|_| "reason too large".to_owned()));
        let exit = match words[..] {
            ["jump", to] => Exit::Jump(self.target(to)?),
            ["call", to, "return", pc] => Exit::Call { target: self.target(to)?, return_pc: number(pc)? },
            ["return", to] => Exit::Return(self.val(to)?),
            ["leave", why] => Exit::Leave { reason: reason(why)?, pc: None },
            ["leave", why, "at", pc] => Exit::Leave { reason: reason(why)?, pc: Some(number(pc)?) },
            _ => return Err(format!("`{text}` is not an exit")),
        };
        self.unit.exits.push(exit);
        Ok(self.unit.exits.len() as u64 - 1)
    }

    /// Fills in what follows from the `insn` lines.
    fn finish(mut self) -> Result<Unit, ParseError> {
        let mut instructions = self.unit.insts.iter().filter(|inst| inst.op == Op::InsnStart);
        if let Some(first) = instructions.next() {
            let last = instructions.next_back().unwrap_or(first);
            let end = last.imm.wrapping_add(u64::from(last.aux));
            self.unit.pc = first.imm;
            self.unit.len = u32::try_from(end.wrapping_sub(first.imm)).map_err(|_| ParseError {
                line: 1,
                what: "the instructions of a unit follow one another".to_owned(),
            })?;
        }
        Ok(self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::print;
    use crate::types::{FloatCond, MemFlags};
    use crate::unit::SlotAccess;
    use crate::{Builder, Convert, Rounding, Slot, verify};

    const HELPERS: [HelperInfo; 1] = [HelperInfo {
        name: "cpuid",
        params: &[Type::I32, Type::I32],
        result: Type::I64,
        reads: SlotAccess::None,
        writes: SlotAccess::None,
        may_exit: false,
        pure: false,
    }];

    /// A unit with an operation of every shape and every kind of exit.
    fn sample() -> Unit {
        let mut b = Builder::new();
        b.start(0x1000);
        b.insn(0x1000, 3);
        let x = b.get(Slot::new(0, Type::I64));
        let y = b.load(Type::I64, x, MemFlags::new(2).with(MemFlags::ALIGNED));
        let less = b.icmp(Cond::LtU, x, y);
        b.exit_if(less, Exit::Jump(Target::Static(0x1003)));
        let old = b.atomic_rmw(Rmw::MaxS, x, y, MemFlags::new(1));
        b.atomic_cas(x, old, y, MemFlags::new(1));
        let base = b.lea(x, Val::NONE, 0, 8);
        let at = b.lea(base, y, 3, 8);
        b.store(at, y, MemFlags::default());
        b.exit_if(less, Exit::Call { target: Target::Dynamic(at), return_pc: 0x1003 });
        b.insn(0x1003, 5);
        let narrow = b.zext(Type::I32, y);
        let result = b.call(0, &HELPERS[0], &[narrow, narrow]);
        b.put(Slot::new(8, Type::I64), result);
        b.put_indexed(16, 64, x, result);
        b.exit_if(less, Exit::Return(result));
        let v = b.get(Slot::new(128, Type::V256));
        let mask = b.fcmp(Lane::F64, FloatCond::Nlt as u8 | FloatCond::FLIP_SIGNALLING, v, v);
        let half = b.vconvert(Type::V128, Convert::F32ToF16, mask, Rounding::Up);
        b.vbin_imm(Op::VBlendImm, Lane::I16, half, half, 0x5a);
        b.exit_if(less, Exit::Leave { reason: 4, pc: None });
        b.fence();
        b.exit(Exit::Leave { reason: 5, pc: Some(0x1008) });
        b.unit.len = 8;
        b.unit.clone()
    }

    #[test]
    fn what_is_printed_parses_to_the_same_unit() {
        let unit = sample();
        verify(&unit, &HELPERS).unwrap();
        let parsed = parse(&print(&unit, &HELPERS), &HELPERS).unwrap();
        assert_eq!(parsed.insts, unit.insts);
        assert_eq!(parsed.exits, unit.exits);
        assert_eq!(parsed.pool, unit.pool);
        assert_eq!((parsed.pc, parsed.len, parsed.insn_count), (unit.pc, unit.len, unit.insn_count));
    }

    #[test]
    fn every_operation_is_found_by_its_name() {
        for &op in Op::ALL {
            assert_eq!(named(Op::ALL, Op::name, op.name(), "an operation"), Ok(op));
        }
    }

    #[test]
    fn free_names_and_comments() {
        let text = "insn 0x10 1 ; nop\n\n%pc = const.i64 #0x20\nexit jump %pc";
        let unit = parse(text, &[]).unwrap();
        assert_eq!(unit.exits, [Exit::Jump(Target::Dynamic(Val(1)))]);
        assert_eq!((unit.pc, unit.len), (0x10, 1));
    }

    #[test]
    fn errors_name_the_line() {
        let cases = [
            ("insn 0 1\nfrob.i8 %1", "line 2: `frob` is not an operation"),
            ("%1 = const.i9", "line 1: `i9` is not a type"),
            ("%1 = neg.i8 %0", "line 1: %0 is used before it is defined"),
            ("%1 = const.i8 #1\n%1 = const.i8 #2", "line 2: %1 is defined twice"),
            ("const.i8 #1", "line 1: const has a result"),
            ("%1 = fence", "line 1: fence has not a result"),
            ("%1 = const.i8 #zz", "line 1: `zz` is not a number"),
            ("exit hence 5", "line 1: `hence 5` is not an exit"),
            ("call nothing()", "line 1: `nothing` is not a helper"),
            ("insn 0 300", "line 1: 300 does not fit in 8 bits"),
            ("%", "line 1: `%` is not an operation"),
            ("=", "line 1: `=` is not an operation"),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text, &[]).unwrap_err().to_string(), expected);
        }
    }
}

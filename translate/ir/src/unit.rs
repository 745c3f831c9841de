//! A unit: the linear SSA program that one run of guest instructions becomes.
//!
//! Invariants (checked by [`crate::verify`]): operands are defined before use; the last operation, and no other, is
//! [`Op::Exit`]; exit numbers index [`Unit::exits`]; the first operation is [`Op::InsnStart`]. A unit has one entry
//! and leaves only through its exits (or a fault of a memory access or a helper): there are no branches inside.

use crate::op::{Op, Shape};
use crate::types::{Lane, Type};

/// A value: the number of the operation that defines it within its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Val(pub u32);

impl Val {
    /// No value.
    pub const NONE: Val = Val(u32::MAX);

    /// The operation's index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// False for [`Val::NONE`].
    pub const fn is_some(self) -> bool {
        self.0 != u32::MAX
    }
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inst {
    /// What it does.
    pub op: Op,
    /// Result type; for stores and puts the stored type.
    pub ty: Type,
    /// Lane type of vector and floating-point operations.
    pub lane: Lane,
    /// Attribute (condition, memory flags, rounding…), see [`Op`].
    pub aux: u8,
    /// First operand.
    pub a: Val,
    /// Second operand.
    pub b: Val,
    /// Third operand.
    pub c: Val,
    /// Immediate.
    pub imm: u64,
}

impl Inst {
    /// An operation with no operands and zero attributes.
    pub const fn new(op: Op, ty: Type) -> Self {
        Inst { op, ty, lane: Lane::None, aux: 0, a: Val::NONE, b: Val::NONE, c: Val::NONE, imm: 0 }
    }

    /// Calls `f` for each operand, call arguments from `pool` included.
    pub fn for_each_operand(&self, pool: &[Val], mut f: impl FnMut(Val)) {
        if self.op.shape() == Shape::Call {
            let start = self.a.index();
            for &v in &pool[start..start + usize::from(self.aux)] {
                f(v);
            }
            return;
        }
        for v in [self.a, self.b, self.c] {
            if v.is_some() {
                f(v);
            }
        }
    }
}

/// Where an exit goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A PC known at translation time.
    Static(u64),
    /// A PC computed (I64).
    Dynamic(Val),
}

/// How control leaves a unit. In all but `Leave` the mode word is unchanged and the successor may be chained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Continue at the target.
    Jump(Target),
    /// Continue at the target, which is a procedure that is expected to return to `return_pc`.
    Call {
        /// Where to continue.
        target: Target,
        /// Address after the call instruction.
        return_pc: u64,
    },
    /// Return from a procedure: continue at the computed PC, probably the return address of the last call.
    Return(Val),
    /// Back to the dispatcher with a guest-defined reason. The PC slot is set to `pc` if there is one, else the unit
    /// has put it. The dispatcher recomputes the mode word.
    Leave {
        /// Handed to `Guest::handle_leave`; below 2^31.
        reason: u32,
        /// PC to store, if known at translation time.
        pc: Option<u64>,
    },
}

/// The IR of one run of guest instructions.
#[derive(Clone, Debug, Default)]
pub struct Unit {
    /// Operations in order.
    pub insts: Vec<Inst>,
    /// Argument pool of calls.
    pub pool: Vec<Val>,
    /// Exits, by number.
    pub exits: Vec<Exit>,
    /// PC of the first instruction.
    pub pc: u64,
    /// Bytes of guest code covered, from `pc`.
    pub len: u32,
    /// Guest instructions.
    pub insn_count: u32,
}

impl Unit {
    /// Empties the unit, keeping its buffers.
    pub fn clear(&mut self) {
        self.insts.clear();
        self.pool.clear();
        self.exits.clear();
        self.pc = 0;
        self.len = 0;
        self.insn_count = 0;
    }

    /// The operation that defines `v`.
    pub fn inst(&self, v: Val) -> &Inst {
        &self.insts[v.index()]
    }

    /// The constant value of `v`, if it is an integer constant (unmasked `imm`).
    pub fn as_const(&self, v: Val) -> Option<u64> {
        let i = self.inst(v);
        (i.op == Op::Const && i.ty.is_int()).then_some(i.imm)
    }
}

/// Which guest state a helper reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotAccess {
    /// None of it.
    None,
    /// Possibly all.
    All,
    /// Byte ranges (offset, length).
    Ranges(&'static [(u32, u32)]),
}

impl SlotAccess {
    /// Whether `offset..offset + len` may be touched.
    pub fn touches(self, offset: u32, len: u32) -> bool {
        match self {
            SlotAccess::None => false,
            SlotAccess::All => true,
            SlotAccess::Ranges(r) => r.iter().any(|&(o, l)| o < offset + len && offset < o + l),
        }
    }
}

/// What the translator must know about a helper (a Rust function called from translated code).
///
/// A helper takes the vCPU context and up to four integer arguments, each passed zero-extended or with garbage above
/// its type's width, and returns an integer or nothing.
#[derive(Clone, Copy, Debug)]
pub struct HelperInfo {
    /// Name in the text form.
    pub name: &'static str,
    /// Parameter types (integers, at most four).
    pub params: &'static [Type],
    /// Result type: an integer type or `Void`.
    pub result: Type,
    /// Guest state it reads; puts to it are made visible before the call. The PC slot counts: when it may be read
    /// (or when `may_exit`), the PC of the instruction at hand is stored before the call.
    pub reads: SlotAccess,
    /// Guest state it writes; cached values are dropped after the call.
    pub writes: SlotAccess,
    /// May request leaving the unit (exception, mode change): every put is made visible before the call, and a
    /// request is honoured right after it.
    pub may_exit: bool,
    /// No effect besides the result: may be removed when the result is unused.
    pub pure: bool,
}

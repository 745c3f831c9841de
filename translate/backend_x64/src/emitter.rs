//! State of one compilation, and the loop over the operations.
//!
//! # Invariants of allocation
//!
//! 1. A root with references left can be reached in at least one place: its register, its home in memory (a slot or a
//!    spill), or its definition if it is a constant.
//! 2. A register holds at most one root's *primary* copy. A pinned register always holds the guest's current value of
//!    its slot at every point where the unit can leave (the prepass keeps early results, see [`crate::prepass`], off
//!    such points); `pin_val` names a root with that same value, if one is known.
//! 3. A pending put (`dirty`) refers to a root that is in a register or is an integer constant, never only in memory.
//!    So exit paths store registers and immediates, in any order, and need no scratch register. A register whose root
//!    has pending puts is freed by storing them: the store is the spill.
//! 4. Before slot memory is written, roots whose home it is lose that home; those with no other place are copied to a
//!    spill first.
//! 5. A pending put past its last possible observer, which a later put of the unit overwrites in full, is dropped when
//!    it would have to be stored.
//! 6. Registers named by the operation at hand are locked, and neither chosen nor evicted until its end.

use crate::asm::{Asm, Cc, Gpr, Mem, Xmm};
use crate::cold::{Cold, SnapEntry, Snapshot};
use crate::layout::{HelperTarget, Layout, MAX_HOT, PatchSite};
use crate::prepass::{Overwritten, mask};
use rhea_ir::{Cond, Inst, Op, Type, Unit, Val};
use thiserror::Error;

/// No value.
pub(crate) const NONE: u32 = u32::MAX;
/// No register.
pub(crate) const NO_REG: u8 = 0xff;
/// No pinned register.
pub(crate) const NO_PIN: u8 = 0xff;
/// Emitted (not removed by the prepass).
pub(crate) const LIVE: u8 = 1;
/// Emitted by its only consumer.
pub(crate) const FUSED: u8 = 2;
/// Already emitted together with an earlier operation.
pub(crate) const DONE: u8 = 4;
/// Vector register numbers start here in register sets.
pub(crate) const XMM0: u8 = 16;
/// Vector scratch register, never allocated.
pub(crate) const SCRATCH: Xmm = Xmm(15);
/// Frame base.
pub(crate) const BASE: Gpr = Gpr(5);

/// Host registers of the hot slots, in order.
pub(crate) const PINNED: [u8; MAX_HOT] = [3, 12, 13, 14, 15, 8, 9, 10];
/// General registers for temporaries: RAX, RCX, RDX, RSI, RDI, R11.
const TEMPORARIES: u32 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 6 | 1 << 7 | 1 << 11;
/// XMM0 to XMM14.
const VECTORS: u32 = 0x7fff << XMM0;

/// The operation cannot be compiled (for this host): the unit has to be interpreted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no host code for {}.{}.{}", .0.name(), .1.name(), .2.name())]
pub struct Unsupported(pub Op, pub Type, pub rhea_ir::Lane);

/// Where a value is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    None,
    /// Guest slot at this offset, of this type.
    Slot(u32, Type),
    /// Spill area at this offset, stored as this type.
    Spill(u32, Type),
}

/// What is known of a value. Aliases only use `root`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    /// The value this one aliases, or itself.
    pub root: u32,
    /// References left: operands not yet emitted, and pending puts.
    pub refs: u32,
    /// Pending puts among them.
    pub dirty: u32,
    /// Register with the primary copy.
    pub reg: u8,
    /// Bits from here up are zero in the register.
    pub clean: u8,
    /// Pinned register the result should go to.
    pub hint: u8,
    /// LIVE, FUSED, DONE.
    pub state: u8,
    /// Where it is in memory.
    pub home: Home,
}

/// A put not yet stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dirty {
    pub offset: u32,
    pub ty: Type,
    pub root: u32,
    /// Last operation that may observe it: past that, it need not be stored. NONE for never.
    pub needed_until: u32,
}

/// What the host flags are known to reflect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flags {
    /// Nothing.
    Unknown,
    /// `result = a - b` (or just the comparison, result NONE) at this width.
    Sub { result: u32, a: Val, b: Val, bits: u32 },
    /// `result = a + b`.
    Add { result: u32, a: Val, b: Val, bits: u32 },
    /// ZF and SF of the result.
    Sign { result: u32, bits: u32 },
    /// ZF and SF of the result; CF and OF are clear.
    Logic { result: u32, bits: u32 },
}

/// Buffers kept from unit to unit.
#[derive(Default)]
pub(crate) struct Buffers {
    pub asm: Asm,
    pub v: Vec<Value>,
    pub dirty: Vec<Dirty>,
    pub slot_homes: Vec<u32>,
    pub snaps: Vec<SnapEntry>,
    pub snapshots: Vec<Snapshot>,
    pub cold: Vec<Cold>,
    pub sites: Vec<PatchSite>,
    pub overwritten: Overwritten,
    pub free_spills: [Vec<u32>; 3],
    pub constants: Vec<(usize, u64)>,
}

/// One compilation.
pub(crate) struct Emitter<'a> {
    pub unit: &'a Unit,
    pub layout: &'a Layout,
    pub helpers: &'a [HelperTarget],
    /// Address at which the code will run.
    pub base: u64,
    pub first_exit_id: u32,
    pub asm: Asm,
    pub v: Vec<Value>,
    pub dirty: Vec<Dirty>,
    /// Roots that have (or had) a slot as home.
    pub slot_homes: Vec<u32>,
    pub snaps: Vec<SnapEntry>,
    pub snapshots: Vec<Snapshot>,
    /// The last snapshot still describes the pending puts.
    pub snapshot_valid: bool,
    pub cold: Vec<Cold>,
    pub sites: Vec<PatchSite>,
    pub overwritten: Overwritten,
    pub free_spills: [Vec<u32>; 3],
    pub spill_top: u32,
    /// Vector constants to be placed after the code: where the displacement is, and the value.
    pub constants: Vec<(usize, u64)>,
    /// The spill area overflowed: the unit cannot be compiled.
    pub spill_overflow: bool,
    /// Allocatable registers: bits 0..16 general, 16..32 vector.
    pub temps: u32,
    pub free: u32,
    pub locked: u32,
    /// Root in each temporary.
    pub occ: [u32; 32],
    /// Pinned index of each general register.
    pub reg_pin: [u8; 16],
    /// A root with the same value as the pinned register.
    pub pin_val: [u32; MAX_HOT],
    pub flags: Flags,
    /// Operation being emitted.
    pub at: usize,
    /// PC of the guest instruction being emitted.
    pub pc: u64,
    /// The final exit has been emitted along with the operation before it.
    pub ended: bool,
    /// Value pending in x87 ST(0).
    pub x87_top: u32,
}

impl<'a> Emitter<'a> {
    pub fn new(
        unit: &'a Unit,
        layout: &'a Layout,
        helpers: &'a [HelperTarget],
        base: u64,
        first_exit_id: u32,
        b: Buffers,
    ) -> Self {
        let mut e = Emitter {
            unit,
            layout,
            helpers,
            base,
            first_exit_id,
            asm: b.asm,
            v: b.v,
            dirty: b.dirty,
            slot_homes: b.slot_homes,
            snaps: b.snaps,
            snapshots: b.snapshots,
            snapshot_valid: false,
            cold: b.cold,
            sites: b.sites,
            overwritten: b.overwritten,
            free_spills: b.free_spills,
            spill_top: 0,
            constants: b.constants,
            spill_overflow: false,
            temps: TEMPORARIES | VECTORS,
            free: 0,
            locked: 0,
            occ: [NONE; 32],
            reg_pin: [NO_PIN; 16],
            pin_val: [NONE; MAX_HOT],
            flags: Flags::Unknown,
            at: 0,
            pc: unit.pc,
            ended: false,
            x87_top: NONE,
        };
        e.asm.code.clear();
        e.dirty.clear();
        e.slot_homes.clear();
        e.snaps.clear();
        e.snapshots.clear();
        e.cold.clear();
        e.sites.clear();
        e.constants.clear();
        e.free_spills.iter_mut().for_each(Vec::clear);
        for (p, &r) in PINNED.iter().enumerate() {
            if p < layout.hot.len() {
                e.reg_pin[usize::from(r)] = p as u8;
            } else {
                e.temps |= 1 << r;
            }
        }
        e.free = e.temps;
        e
    }

    pub fn into_buffers(self) -> Buffers {
        Buffers {
            asm: self.asm,
            v: self.v,
            dirty: self.dirty,
            slot_homes: self.slot_homes,
            snaps: self.snaps,
            snapshots: self.snapshots,
            cold: self.cold,
            sites: self.sites,
            overwritten: self.overwritten,
            free_spills: self.free_spills,
            constants: self.constants,
        }
    }

    /// Compiles the unit.
    pub fn run(&mut self) -> Result<(), Unsupported> {
        self.prepass();
        self.emit_entry();
        for at in 0..self.unit.insts.len() {
            let value = &self.v[at];
            if value.state != LIVE || value.root != at as u32 {
                continue;
            }
            self.at = at;
            self.locked = 0;
            let inst = self.unit.insts[at];
            if !keeps_flags(inst.op) {
                self.flags = Flags::Unknown;
            }
            self.emit(&inst)?;
        }
        self.emit_cold();
        self.emit_constants();
        if self.spill_overflow { Err(self.unsupported(&self.unit.insts[self.at])) } else { Ok(()) }
    }

    pub fn unsupported(&self, i: &Inst) -> Unsupported {
        Unsupported(i.op, i.ty, i.lane)
    }

    fn emit(&mut self, i: &Inst) -> Result<(), Unsupported> {
        if i.ty == Type::V256 && !self.layout.features.avx2 {
            return Err(self.unsupported(i));
        }
        match i.op {
            Op::InsnStart => self.pc = i.imm,
            Op::Const => self.emit_const(i),
            Op::GetSlot => self.emit_get(i),
            Op::PutSlot => self.emit_put(i),
            Op::GetIndexed => self.emit_get_indexed(i)?,
            Op::PutIndexed => self.emit_put_indexed(i)?,
            Op::Load | Op::Store | Op::AtomicRmw | Op::AtomicCas => self.emit_memory(i)?,
            Op::Fence => self.asm.full_fence(),
            Op::Call => self.emit_call(i),
            Op::ExitIf => self.emit_exit_if(i)?,
            Op::Exit => self.emit_exit(i),
            Op::Select if !i.ty.is_int() => self.emit_vector_select(i)?,
            op if (Op::Add as u8..=Op::Select as u8).contains(&(op as u8)) => self.emit_int(i)?,
            op if op as u8 >= Op::XFromParts as u8 => self.emit_x87(i)?,
            _ => self.emit_vector(i)?,
        }
        Ok(())
    }

    // ---- values ----

    pub fn root(&self, v: Val) -> u32 {
        self.v[v.index()].root
    }

    pub fn ty(&self, v: Val) -> Type {
        self.unit.inst(v).ty
    }

    /// Number of the result of the operation at hand.
    pub fn here(&self) -> u32 {
        self.at as u32
    }

    /// The integer constant behind `v`, masked to the type of `v`.
    pub fn const_of(&self, v: Val) -> Option<u64> {
        let root = self.root(v);
        let i = &self.unit.insts[root as usize];
        (i.op == Op::Const && i.ty.is_int()).then(|| i.imm & mask(i.ty.bits()) & mask(self.ty(v).bits()))
    }

    pub fn is_const_root(&self, root: u32) -> bool {
        let i = &self.unit.insts[root as usize];
        i.op == Op::Const
    }

    /// The constant `v` as an immediate for an operation of `bits` bits.
    pub fn imm_of(&self, v: Val, bits: u32) -> Option<i32> {
        let c = self.const_of(v)?;
        let extended = (c << (64 - bits)) as i64 >> (64 - bits);
        i32::try_from(extended).ok()
    }

    /// Same value at the width of `a` (which is the width of `b`).
    pub fn same(&self, a: Val, b: Val) -> bool {
        if self.root(a) == self.root(b) {
            return true;
        }
        match (self.const_of(a), self.const_of(b)) {
            (Some(x), Some(y)) => x == y,
            _ => false,
        }
    }

    pub fn slot(&self, offset: u32) -> Mem {
        self.layout.at(offset as i32)
    }

    pub fn frame(&self, disp: i32) -> Mem {
        self.layout.at(disp)
    }

    pub fn pin_of_slot(&self, offset: u32, ty: Type) -> Option<usize> {
        if ty != Type::I64 {
            return None;
        }
        self.layout.hot.iter().position(|&h| h == offset)
    }

    /// Condition under which the fused or materialized truth value `c` holds; its references are released.
    pub fn emit_condition(&mut self, c: Val) -> Cc {
        let root = self.root(c);
        let inst = self.unit.insts[root as usize];
        if self.v[root as usize].state & FUSED != 0 {
            let cc = match inst.op {
                Op::Icmp => self.emit_compare(&inst),
                _ => self.emit_float_test(&inst),
            };
            self.v[root as usize].refs -= 1;
            return cc;
        }
        self.prepare(c, 8);
        match self.rm(c) {
            crate::asm::Rm::Reg(r) => self.asm.test(8, Gpr(r), Gpr(r)),
            m => self.asm.alu_imm(8, crate::asm::Alu::Cmp, m, 0),
        }
        self.flags = Flags::Unknown;
        self.done(c);
        Cc::Ne
    }
}

/// Whether emitting this operation leaves the host flags alone (or maintains [`Emitter::flags`] itself).
fn keeps_flags(op: Op) -> bool {
    matches!(
        op,
        Op::InsnStart
            | Op::Const
            | Op::GetSlot
            | Op::PutSlot
            | Op::Zext
            | Op::Sext
            | Op::Trunc
            | Op::ExitIf
            | Op::Exit
            | Op::Select
            | Op::Icmp
            | Op::Lea
            | Op::Not
    )
}

/// The x86 condition of an integer comparison.
pub(crate) fn cc_of(cond: Cond) -> Cc {
    match cond {
        Cond::Eq => Cc::E,
        Cond::Ne => Cc::Ne,
        Cond::LtU => Cc::B,
        Cond::GeU => Cc::Ae,
        Cond::LeU => Cc::Be,
        Cond::GtU => Cc::A,
        Cond::LtS => Cc::L,
        Cond::GeS => Cc::Ge,
        Cond::LeS => Cc::Le,
        Cond::GtS => Cc::G,
    }
}

//! Building units: one method per operation, light folding, and slot values forwarded within the unit.
//!
//! The builder keeps the value last put to or got from each slot, so that front ends can name guest registers freely
//! and the back ends see each load of a slot at most once. Constants fold; nothing else is reordered or removed.

use crate::op::{Convert, Op};
use crate::types::{Cond, FloatCond, Lane, MemFlags, Rmw, Rounding, Type};
use crate::unit::{Exit, HelperInfo, Inst, SlotAccess, Target, Unit, Val};

/// A typed location in the guest state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Byte offset in the guest state structure, a multiple of 4.
    pub offset: u32,
    /// Type of its contents.
    pub ty: Type,
}

impl Slot {
    /// A slot at `offset` holding a `ty`.
    pub const fn new(offset: usize, ty: Type) -> Self {
        Slot { offset: offset as u32, ty }
    }
}

/// Slots below this offset are forwarded.
const FORWARD_BYTES: usize = 4096;
const GRAIN: usize = 4;
const WIDEST: usize = 32;

#[derive(Clone, Copy)]
struct Known {
    epoch: u32,
    ty: Type,
    val: Val,
}

/// Builds one [`Unit`] after another in the same buffers.
pub struct Builder {
    /// The unit being built.
    pub unit: Unit,
    known: Vec<Known>,
    epoch: u32,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

fn mask(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

fn sign_extend(v: u64, bits: u32) -> u64 {
    ((v << (64 - bits)) as i64 >> (64 - bits)) as u64
}

impl Builder {
    /// A builder with an empty unit. Allocates nothing until [`Builder::start`].
    pub fn new() -> Self {
        Builder { unit: Unit::default(), known: Vec::new(), epoch: 1 }
    }

    /// Starts a new unit at `pc`.
    pub fn start(&mut self, pc: u64) {
        self.unit.clear();
        self.unit.pc = pc;
        let nothing = Known { epoch: 0, ty: Type::Void, val: Val::NONE };
        self.known.resize(FORWARD_BYTES / GRAIN, nothing);
        self.forget_slots();
    }

    fn forget_slots(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            self.known.fill(Known { epoch: 0, ty: Type::Void, val: Val::NONE });
            self.epoch = 1;
        }
    }

    /// Appends an operation as it is.
    pub fn push(&mut self, inst: Inst) -> Val {
        self.unit.insts.push(inst);
        Val(self.unit.insts.len() as u32 - 1)
    }

    /// Type of a value.
    pub fn ty(&self, v: Val) -> Type {
        self.unit.inst(v).ty
    }

    /// The constant behind `v`, masked to its type.
    pub fn as_const(&self, v: Val) -> Option<u64> {
        self.unit.as_const(v).map(|c| c & mask(self.ty(v).bits()))
    }

    /// Marks the start of a guest instruction of `len` bytes at `pc`.
    pub fn insn(&mut self, pc: u64, len: u32) {
        self.unit.insn_count += 1;
        self.push(Inst { imm: pc, aux: len as u8, ..Inst::new(Op::InsnStart, Type::Void) });
    }

    /// An integer constant (kept masked to the type), or a vector of repeated 64-bit `value`s.
    pub fn iconst(&mut self, ty: Type, value: u64) -> Val {
        let imm = if ty.is_int() { value & mask(ty.bits()) } else { value };
        self.push(Inst { imm, ..Inst::new(Op::Const, ty) })
    }

    // ---- slots ----

    fn forget_range(&mut self, offset: usize, len: usize) {
        let first = offset.saturating_sub(WIDEST - GRAIN) / GRAIN;
        let last = (offset + len).div_ceil(GRAIN).min(self.known.len());
        for (i, k) in self.known.iter_mut().enumerate().take(last).skip(first) {
            if k.epoch == self.epoch && i * GRAIN + k.ty.bytes() as usize > offset {
                k.epoch = 0;
            }
        }
    }

    /// Value of a slot.
    pub fn get(&mut self, slot: Slot) -> Val {
        let i = slot.offset as usize / GRAIN;
        if let Some(k) = self.known.get(i)
            && k.epoch == self.epoch
            && k.ty == slot.ty
        {
            return k.val;
        }
        let v = self.push(Inst { imm: u64::from(slot.offset), ..Inst::new(Op::GetSlot, slot.ty) });
        self.learn(slot, v);
        v
    }

    fn learn(&mut self, slot: Slot, val: Val) {
        let epoch = self.epoch;
        if let Some(k) = self.known.get_mut(slot.offset as usize / GRAIN) {
            *k = Known { epoch, ty: slot.ty, val };
        }
    }

    /// Sets a slot; `v` must have the slot's type.
    pub fn put(&mut self, slot: Slot, v: Val) {
        debug_assert_eq!(self.ty(v), slot.ty);
        self.forget_range(slot.offset as usize, slot.ty.bytes() as usize);
        self.push(Inst { imm: u64::from(slot.offset), a: v, ..Inst::new(Op::PutSlot, slot.ty) });
        self.learn(slot, v);
    }

    /// Element of an array of slots: `index` (I64) is a byte offset below `array_bytes`, a multiple of the type's size.
    pub fn get_indexed(&mut self, ty: Type, offset: u32, array_bytes: u32, index: Val) -> Val {
        let imm = u64::from(offset) | u64::from(array_bytes) << 32;
        self.push(Inst { imm, a: index, ..Inst::new(Op::GetIndexed, ty) })
    }

    /// Sets an element of an array of slots; see [`Builder::get_indexed`].
    pub fn put_indexed(&mut self, offset: u32, array_bytes: u32, index: Val, v: Val) {
        let imm = u64::from(offset) | u64::from(array_bytes) << 32;
        let ty = self.ty(v);
        self.forget_range(offset as usize, array_bytes as usize);
        self.push(Inst { imm, a: index, b: v, ..Inst::new(Op::PutIndexed, ty) });
    }

    // ---- integers ----

    fn fold(&self, op: Op, ty: Type, a: u64, b: u64) -> Option<u64> {
        let bits = ty.bits();
        let count = (b & u64::from(bits - 1)) as u32;
        Some(match op {
            Op::Add => a.wrapping_add(b),
            Op::Sub => a.wrapping_sub(b),
            Op::Mul => a.wrapping_mul(b),
            Op::And => a & b,
            Op::Or => a | b,
            Op::Xor => a ^ b,
            Op::AndNot => a & !b,
            Op::Shl => a << count,
            Op::Shr => (a & mask(bits)) >> count,
            Op::Sar => (sign_extend(a, bits) as i64 >> count) as u64,
            _ => return None,
        })
    }

    /// A two-operand operation of type `ty` with constants folded and identities removed.
    pub fn bin(&mut self, op: Op, a: Val, b: Val) -> Val {
        let ty = self.ty(a);
        if ty.is_int() {
            let (ca, cb) = (self.as_const(a), self.as_const(b));
            if let (Some(x), Some(y)) = (ca, cb)
                && let Some(r) = self.fold(op, ty, x, y)
            {
                return self.iconst(ty, r);
            }
            match (op, cb) {
                (
                    Op::Add | Op::Sub | Op::Or | Op::Xor | Op::Shl | Op::Shr | Op::Sar | Op::AndNot,
                    Some(0),
                ) => {
                    return a;
                }
                (Op::And, Some(0)) => return self.iconst(ty, 0),
                (Op::And, Some(m)) if m == mask(ty.bits()) => return a,
                _ => {}
            }
            if ca == Some(0) && matches!(op, Op::Add | Op::Or | Op::Xor) {
                return b;
            }
        }
        self.push(Inst { a, b, ..Inst::new(op, ty) })
    }

    /// a + b.
    pub fn add(&mut self, a: Val, b: Val) -> Val {
        self.bin(Op::Add, a, b)
    }
    /// a - b.
    pub fn sub(&mut self, a: Val, b: Val) -> Val {
        self.bin(Op::Sub, a, b)
    }
    /// a & b.
    pub fn and(&mut self, a: Val, b: Val) -> Val {
        self.bin(Op::And, a, b)
    }
    /// a | b.
    pub fn or(&mut self, a: Val, b: Val) -> Val {
        self.bin(Op::Or, a, b)
    }
    /// a ^ b.
    pub fn xor(&mut self, a: Val, b: Val) -> Val {
        self.bin(Op::Xor, a, b)
    }
    /// a + constant.
    pub fn add_imm(&mut self, a: Val, imm: u64) -> Val {
        let c = self.iconst(self.ty(a), imm);
        self.bin(Op::Add, a, c)
    }
    /// a & constant.
    pub fn and_imm(&mut self, a: Val, imm: u64) -> Val {
        let c = self.iconst(self.ty(a), imm);
        self.bin(Op::And, a, c)
    }
    /// A two-operand operation with a constant second operand of the same type.
    pub fn bin_imm(&mut self, op: Op, a: Val, imm: u64) -> Val {
        let c = self.iconst(self.ty(a), imm);
        self.bin(op, a, c)
    }

    /// A one-operand operation of the operand's type (Neg, Not, Bswap, Clz, Ctz, Popcnt, VAbs…).
    pub fn un(&mut self, op: Op, a: Val) -> Val {
        let ty = self.ty(a);
        self.push(Inst { a, ..Inst::new(op, ty) })
    }

    /// A three-operand operation of type `ty` (DivWideU…).
    pub fn tri(&mut self, op: Op, ty: Type, a: Val, b: Val, c: Val) -> Val {
        self.push(Inst { a, b, c, ..Inst::new(op, ty) })
    }

    /// Zero-extends or truncates to `ty`.
    pub fn zext(&mut self, ty: Type, v: Val) -> Val {
        self.resize(ty, v, false)
    }

    /// Sign-extends or truncates to `ty`.
    pub fn sext(&mut self, ty: Type, v: Val) -> Val {
        self.resize(ty, v, true)
    }

    fn resize(&mut self, ty: Type, v: Val, signed: bool) -> Val {
        let from = self.ty(v);
        if from == ty {
            return v;
        }
        if let Some(c) = self.as_const(v) {
            let c = if signed { sign_extend(c, from.bits()) } else { c };
            return self.iconst(ty, c);
        }
        if ty < from {
            let src = *self.unit.inst(v);
            if matches!(src.op, Op::Zext | Op::Sext | Op::Trunc) {
                let inner = self.ty(src.a);
                if inner == ty {
                    return src.a;
                }
                if inner > ty {
                    return self.push(Inst { a: src.a, ..Inst::new(Op::Trunc, ty) });
                }
            }
            return self.push(Inst { a: v, ..Inst::new(Op::Trunc, ty) });
        }
        self.push(Inst { a: v, ..Inst::new(if signed { Op::Sext } else { Op::Zext }, ty) })
    }

    /// base + (index << shift) + disp; `index` may be [`Val::NONE`].
    pub fn lea(&mut self, base: Val, index: Val, shift: u8, disp: u64) -> Val {
        let ty = self.ty(base);
        if !index.is_some() && disp == 0 {
            return base;
        }
        if !index.is_some()
            && let Some(c) = self.as_const(base)
        {
            return self.iconst(ty, c.wrapping_add(disp));
        }
        self.push(Inst { a: base, b: index, aux: shift, imm: disp, ..Inst::new(Op::Lea, ty) })
    }

    /// `a` with `len` bits from `pos` replaced by the low bits of `b` (same type).
    pub fn deposit(&mut self, a: Val, b: Val, pos: u32, len: u32) -> Val {
        let ty = self.ty(a);
        self.push(Inst { a, b, imm: u64::from(pos | len << 8), ..Inst::new(Op::Deposit, ty) })
    }

    /// `len` bits of `a` from `pos`, zero-extended.
    pub fn extract(&mut self, a: Val, pos: u32, len: u32) -> Val {
        let ty = self.ty(a);
        if let Some(c) = self.as_const(a) {
            return self.iconst(ty, c >> pos & mask(len));
        }
        self.push(Inst { a, imm: u64::from(pos | len << 8), ..Inst::new(Op::Extract, ty) })
    }

    /// Integer comparison, I8 0/1.
    pub fn icmp(&mut self, cond: Cond, a: Val, b: Val) -> Val {
        if let (Some(x), Some(y)) = (self.as_const(a), self.as_const(b)) {
            let r = cond.eval(self.ty(a).bits(), x, y);
            return self.iconst(Type::I8, u64::from(r));
        }
        self.push(Inst { a, b, aux: cond as u8, ..Inst::new(Op::Icmp, Type::I8) })
    }

    /// Comparison with a constant.
    pub fn icmp_imm(&mut self, cond: Cond, a: Val, imm: u64) -> Val {
        let c = self.iconst(self.ty(a), imm);
        self.icmp(cond, a, c)
    }

    /// `b` if `cond` is 1, else `c`.
    pub fn select(&mut self, cond: Val, b: Val, c: Val) -> Val {
        match self.as_const(cond) {
            Some(0) => c,
            Some(_) => b,
            None => {
                let ty = self.ty(b);
                self.push(Inst { a: cond, b, c, ..Inst::new(Op::Select, ty) })
            }
        }
    }

    // ---- memory ----

    /// Load.
    pub fn load(&mut self, ty: Type, addr: Val, flags: MemFlags) -> Val {
        self.push(Inst { a: addr, aux: flags.0, ..Inst::new(Op::Load, ty) })
    }

    /// Store of `v` in its own type.
    pub fn store(&mut self, addr: Val, v: Val, flags: MemFlags) {
        let ty = self.ty(v);
        self.push(Inst { a: addr, b: v, aux: flags.0, ..Inst::new(Op::Store, ty) });
    }

    /// Atomic read-modify-write; returns the old value.
    pub fn atomic_rmw(&mut self, op: Rmw, addr: Val, v: Val, flags: MemFlags) -> Val {
        let ty = self.ty(v);
        self.push(Inst { a: addr, b: v, aux: flags.0, imm: op as u64, ..Inst::new(Op::AtomicRmw, ty) })
    }

    /// Atomic compare and swap; returns the old value.
    pub fn atomic_cas(&mut self, addr: Val, expected: Val, new: Val, flags: MemFlags) -> Val {
        let ty = self.ty(new);
        self.push(Inst { a: addr, b: expected, c: new, aux: flags.0, ..Inst::new(Op::AtomicCas, ty) })
    }

    /// Full fence.
    pub fn fence(&mut self) {
        self.push(Inst::new(Op::Fence, Type::Void));
    }

    // ---- calls and exits ----

    /// Calls helper `id`, described by `info`.
    pub fn call(&mut self, id: u32, info: &HelperInfo, args: &[Val]) -> Val {
        debug_assert_eq!(args.len(), info.params.len(), "{}", info.name);
        let start = self.unit.pool.len() as u32;
        self.unit.pool.extend_from_slice(args);
        match info.writes {
            SlotAccess::None => {}
            SlotAccess::All => self.forget_slots(),
            SlotAccess::Ranges(ranges) => {
                for &(offset, len) in ranges {
                    self.forget_range(offset as usize, len as usize);
                }
            }
        }
        self.push(Inst {
            a: Val(start),
            aux: args.len() as u8,
            imm: u64::from(id),
            ..Inst::new(Op::Call, info.result)
        })
    }

    fn exit_number(&mut self, exit: Exit) -> u64 {
        self.unit.exits.push(exit);
        self.unit.exits.len() as u64 - 1
    }

    /// Leaves through `exit` if `cond` (I8) is 1. A constant 0 emits nothing.
    pub fn exit_if(&mut self, cond: Val, exit: Exit) {
        if self.as_const(cond) == Some(0) {
            return;
        }
        let imm = self.exit_number(exit);
        self.push(Inst { a: cond, imm, ..Inst::new(Op::ExitIf, Type::Void) });
    }

    /// Ends the unit through `exit`.
    pub fn exit(&mut self, exit: Exit) {
        let imm = self.exit_number(exit);
        self.push(Inst { imm, ..Inst::new(Op::Exit, Type::Void) });
    }

    /// Ends the unit with a jump to a known PC.
    pub fn jump(&mut self, pc: u64) {
        self.exit(Exit::Jump(Target::Static(pc)));
    }

    /// Whether the unit has been ended.
    pub fn is_ended(&self) -> bool {
        self.unit.insts.last().is_some_and(|i| i.op == Op::Exit)
    }

    // ---- vectors and floating point ----

    /// A lane-wise operation on two operands of the type of `a`.
    pub fn vbin(&mut self, op: Op, lane: Lane, a: Val, b: Val) -> Val {
        let ty = self.ty(a);
        self.push(Inst { a, b, lane, ..Inst::new(op, ty) })
    }

    /// As [`Builder::vbin`] with an immediate.
    pub fn vbin_imm(&mut self, op: Op, lane: Lane, a: Val, b: Val, imm: u64) -> Val {
        let ty = self.ty(a);
        self.push(Inst { a, b, lane, imm, ..Inst::new(op, ty) })
    }

    /// A lane-wise operation on one operand with an immediate.
    pub fn vun_imm(&mut self, op: Op, lane: Lane, a: Val, imm: u64) -> Val {
        let ty = self.ty(a);
        self.push(Inst { a, lane, imm, ..Inst::new(op, ty) })
    }

    /// A lane-wise operation on one operand.
    pub fn vun(&mut self, op: Op, lane: Lane, a: Val) -> Val {
        self.vun_imm(op, lane, a, 0)
    }

    /// A lane-wise operation on three operands.
    pub fn vtri(&mut self, op: Op, lane: Lane, a: Val, b: Val, c: Val) -> Val {
        let ty = self.ty(a);
        self.push(Inst { a, b, c, lane, ..Inst::new(op, ty) })
    }

    /// Lane-mask comparison; `predicate` is a [`FloatCond`] number, possibly plus the flip bit.
    pub fn fcmp(&mut self, lane: Lane, predicate: u8, a: Val, b: Val) -> Val {
        let ty = self.ty(a);
        self.push(Inst { a, b, lane, aux: predicate, ..Inst::new(Op::FCmp, ty) })
    }

    /// Relation code of lane 0 (I32).
    pub fn frel(&mut self, lane: Lane, signalling: bool, a: Val, b: Val) -> Val {
        self.push(Inst { a, b, lane, aux: u8::from(signalling), ..Inst::new(Op::FRel, Type::I32) })
    }

    /// Truth of a predicate on lane 0 (I8).
    pub fn ftest(&mut self, lane: Lane, cond: FloatCond, signalling: bool, a: Val, b: Val) -> Val {
        let aux = cond as u8 | u8::from(signalling) << 4;
        self.push(Inst { a, b, lane, aux, ..Inst::new(Op::FTest, Type::I8) })
    }

    /// Packed conversion to type `ty`.
    pub fn vconvert(&mut self, ty: Type, kind: Convert, a: Val, rounding: Rounding) -> Val {
        self.push(Inst { a, aux: kind as u8, imm: rounding as u64, ..Inst::new(Op::VConvert, ty) })
    }

    /// Lane `index` of `a` as an integer.
    pub fn vextract(&mut self, lane: Lane, a: Val, index: u32) -> Val {
        let ty = Type::int(lane.bytes());
        self.push(Inst { a, lane, imm: u64::from(index), ..Inst::new(Op::VExtract, ty) })
    }

    /// `a` with lane `index` replaced by integer `b`.
    pub fn vinsert(&mut self, lane: Lane, a: Val, b: Val, index: u32) -> Val {
        self.vbin_imm(Op::VInsert, lane, a, b, u64::from(index))
    }

    /// Any operation that takes one value and gives another type.
    pub fn convert(&mut self, op: Op, ty: Type, lane: Lane, aux: u8, a: Val) -> Val {
        self.push(Inst { a, lane, aux, ..Inst::new(op, ty) })
    }

    /// Any operation on two values with a given result type, `aux` and `imm`.
    pub fn op2(&mut self, op: Op, ty: Type, lane: Lane, aux: u8, a: Val, b: Val, imm: u64) -> Val {
        self.push(Inst { a, b, lane, aux, imm, ..Inst::new(op, ty) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const R0: Slot = Slot::new(0, Type::I64);

    #[test]
    fn a_slot_put_is_forwarded_to_the_next_get() {
        let mut b = Builder::new();
        b.start(0);
        let c = b.iconst(Type::I64, 5);
        b.put(R0, c);
        assert_eq!(b.get(R0), c);
    }

    #[test]
    fn an_overlapping_put_is_not_forwarded_over() {
        let mut b = Builder::new();
        b.start(0);
        let wide = b.iconst(Type::V256, 5);
        b.put(Slot::new(64, Type::V256), wide);
        let part = b.iconst(Type::I32, 1);
        b.put(Slot::new(80, Type::I32), part);
        assert_ne!(b.get(Slot::new(64, Type::V256)), wide);
    }

    #[test]
    fn constants_fold_at_their_width() {
        let mut b = Builder::new();
        b.start(0);
        let x = b.iconst(Type::I8, 0xff);
        let r = b.add_imm(x, 2);
        assert_eq!(b.as_const(r), Some(1));
    }
}

//! Two passes over a unit before emission: what aliases what, what is dead, and where results should go.
//!
//! Forward: `Trunc`, and `Zext` of a value whose upper bits are known to be zero, produce no code: they alias their
//! source, the *root*. For each root the pass bounds its `clean` bits: bits from `clean` up are zero in its register.
//! The emission of every operation must keep that promise; [`clean_bits`] is the one place that states it.
//!
//! Backward: removes stores to slots that are overwritten before anything can see them, then everything whose result
//! is unused; counts references; marks comparisons and address computations that their only consumer absorbs; and
//! finds results that can be computed straight in the pinned register they are put to.

use crate::emitter::{Emitter, FUSED, Home, LIVE, NO_PIN, NO_REG, NONE, Value};
use rhea_ir::{Exit, Inst, Op, SlotAccess, Target, Type, Val};

/// Granularity of the dead-store table: slots start at multiples of 4.
const GRAIN: u32 = 4;

/// The next store to a granule, and who looks at the granule before it.
#[derive(Clone, Copy, Default)]
struct Later {
    /// The unit this is about, by [`Overwritten::unit`].
    unit: u32,
    /// Bytes stored from the granule's start.
    bytes: u32,
    /// How many of [`Overwritten::observers`] come after the store.
    after: u32,
    /// Last operation before the store that reads just some slots, this one among them; or NONE.
    reader: u32,
}

/// What will be overwritten before it can be observed, per 4-byte granule, walking backward.
#[derive(Default)]
pub(crate) struct Overwritten {
    /// `epoch << 4 | bytes` covered from the granule's start.
    granules: Vec<u32>,
    epoch: u32,
    /// By granule, as long as `granules`.
    later: Vec<Later>,
    unit: u32,
    /// Operations that may observe every slot, last first.
    observers: Vec<u32>,
    /// For each put that is kept: the last operation that may observe it, NONE if it may outlive the unit. Stale for
    /// other operations.
    needed_until: Vec<u32>,
}

impl Overwritten {
    /// Starts on a unit of `len` operations.
    fn begin(&mut self, len: usize) {
        self.forget_all();
        self.unit = self.unit.wrapping_add(1);
        if self.unit == 0 {
            self.later.fill(Later::default());
            self.unit = 1;
        }
        self.observers.clear();
        self.needed_until.resize(len.max(self.needed_until.len()), NONE);
    }

    /// The last operation that may observe what the put at `at` stores; NONE if that may outlive the unit.
    pub fn needed_until(&self, at: usize) -> u32 {
        self.needed_until[at]
    }

    /// Operation `at` may observe every slot.
    fn observe_all(&mut self, at: usize) {
        self.forget_all();
        self.observers.push(at as u32);
    }

    fn forget_all(&mut self) {
        self.epoch += 1;
        if self.epoch >= 1 << 27 {
            self.granules.fill(0);
            self.epoch = 1;
        }
    }

    /// Operation `at` reads the range.
    fn observe(&mut self, at: usize, offset: u32, len: u32) {
        let first = (offset / GRAIN) as usize;
        let last = ((offset + len).div_ceil(GRAIN) as usize).min(self.granules.len());
        if first < last {
            self.granules[first..last].fill(0);
            for later in &mut self.later[first..last] {
                if later.reader == NONE {
                    later.reader = at as u32;
                }
            }
        }
    }

    /// Records the store that operation `at` makes; true if it is dead.
    fn store(&mut self, at: usize, offset: u32, len: u32) -> bool {
        self.needed_until[at] = NONE;
        let first = (offset / GRAIN) as usize;
        let count = len.div_ceil(GRAIN) as usize;
        if !offset.is_multiple_of(GRAIN) {
            return false;
        }
        if self.granules.len() < first + count {
            self.granules.resize(first + count, 0);
            self.later.resize(first + count, Later::default());
        }
        let need = len.min(GRAIN);
        let mut dead = true;
        for g in &mut self.granules[first..first + count] {
            if *g >> 4 != self.epoch || *g & 15 < need {
                dead = false;
                *g = self.epoch << 4 | need;
            }
        }
        if !dead {
            self.note_later(at, first, count, need);
        }
        dead
    }

    /// Notes until when the store by `at` is needed, and that it is now the next one to its granules.
    fn note_later(&mut self, at: usize, first: usize, count: usize, need: u32) {
        let mut until = 0;
        let after = self.observers.len() as u32;
        for later in &mut self.later[first..first + count] {
            if later.unit == self.unit && later.bytes >= need {
                // The lists run backward: the first entry is the last operation.
                let observer = self.observers.get(later.after as usize).copied().unwrap_or(0);
                let reader = if later.reader == NONE { 0 } else { later.reader };
                until = until.max(observer).max(reader);
            } else {
                until = NONE;
            }
            *later = Later { unit: self.unit, bytes: need, after, reader: NONE };
        }
        self.needed_until[at] = until;
    }
}

impl Emitter<'_> {
    /// Runs both passes.
    pub(crate) fn prepass(&mut self) {
        self.forward();
        self.backward();
    }

    fn forward(&mut self) {
        self.v.clear();
        self.v.reserve(self.unit.insts.len());
        for (i, inst) in self.unit.insts.iter().enumerate() {
            let mut value = Value {
                root: i as u32,
                refs: 0,
                dirty: 0,
                reg: NO_REG,
                clean: 64,
                hint: NO_PIN,
                state: 0,
                home: Home::None,
            };
            match inst.op {
                Op::Trunc => value.root = self.v[inst.a.index()].root,
                Op::Zext => {
                    let source = self.v[inst.a.index()].root;
                    let from = self.unit.inst(inst.a).ty.bits() as u8;
                    if self.v[source as usize].clean <= from {
                        value.root = source;
                    } else {
                        value.clean = from;
                    }
                }
                _ if inst.ty.is_int() => value.clean = self.clean_bits(inst),
                _ => {}
            }
            self.v.push(value);
        }
    }

    fn clean_of(&self, v: Val) -> u8 {
        self.v[self.v[v.index()].root as usize].clean
    }

    /// How many low bits of the result's register can be non-zero.
    fn clean_bits(&self, i: &Inst) -> u8 {
        let bits = i.ty.bits() as u8;
        let a = |s: &Self| s.clean_of(i.a);
        let b = |s: &Self| s.clean_of(i.b);
        let narrow = bits < 32;
        match i.op {
            Op::Const => (64 - (i.imm & mask(u32::from(bits))).leading_zeros()) as u8,
            Op::GetSlot | Op::GetIndexed | Op::Load | Op::AtomicRmw | Op::AtomicCas | Op::VExtract => bits,
            Op::Icmp | Op::FTest | Op::VTestZero | Op::VTestCarry => 1,
            // Narrow operations work at their own width and leave the upper bits of a register operand.
            Op::Add | Op::And | Op::Or | Op::Xor if narrow => bits.max(a(self)).max(b(self)),
            Op::Sub | Op::Shl | Op::Shr | Op::Sar | Op::Rotl | Op::Rotr | Op::Neg | Op::Not | Op::Bswap
                if narrow =>
            {
                bits.max(a(self))
            }
            Op::And => a(self).min(b(self)).min(bits),
            Op::Or | Op::Xor => a(self).max(b(self)).min(bits),
            Op::AndNot if !narrow => a(self).min(bits),
            Op::AndNot | Op::Mul => bits.max(32),
            Op::Shr => match self.unit.as_const(i.b) {
                Some(c) => a(self).min(bits) - (c as u8 & (bits - 1)).min(a(self).min(bits)),
                None => bits,
            },
            Op::MulHiU => bits,
            Op::MulHiS | Op::Sext => bits.max(32),
            Op::Deposit => bits.max(a(self)),
            Op::Extract => ((i.imm >> 8 & 0xff) as u8).min(bits),
            Op::Select => self.clean_of(i.b).max(self.clean_of(i.c)).min(bits.max(32)),
            Op::Clz | Op::Ctz | Op::Popcnt => 7,
            // Helpers may return garbage above the type's width.
            Op::Call => 64,
            Op::FRel | Op::XRel => 2,
            Op::XSignExponent | Op::XToInt | Op::VMoveMask => bits,
            _ => bits.max(32),
        }
    }

    fn add_ref(&mut self, v: Val) {
        let root = self.v[v.index()].root;
        self.v[root as usize].refs += 1;
    }

    fn backward(&mut self) {
        let mut over = std::mem::take(&mut self.overwritten);
        let mut next_put = [NONE; crate::MAX_HOT];
        // Bumped by everything that a deferred floating-point comparison must not cross. Its consumer notes the
        // count in the comparison's `dirty` field, unused until emission.
        let mut barrier = 0u32;
        over.begin(self.unit.insts.len());
        for at in (0..self.unit.insts.len()).rev() {
            let i = self.unit.insts[at];
            let value = self.v[at];
            if value.root != at as u32 {
                continue;
            }
            let pure_call = i.op == Op::Call && self.helpers.get(i.imm as usize).is_some_and(|h| h.info.pure);
            if value.refs == 0 && (!i.op.has_effect() || pure_call) {
                continue;
            }
            if i.op == Op::PutSlot && over.store(at, i.imm as u32, i.ty.bytes()) {
                continue;
            }
            let mut state = LIVE;
            if value.state & FUSED != 0
                && value.refs == 1
                && (i.op != Op::FTest || value.dirty == barrier && !needs_two_conditions(&i))
            {
                state |= FUSED;
            }
            self.v[at].state = state;
            self.v[at].dirty = 0;
            if value.hint != NO_PIN && next_put[usize::from(value.hint)] != at as u32 {
                self.v[at].hint = NO_PIN;
            }
            self.count_operands(&i);
            self.note_effects(at, &mut over, &mut next_put, &mut barrier);
            match i.op {
                Op::ExitIf | Op::Select => {
                    let c = self.v[i.a.index()].root;
                    let op = self.unit.insts[c as usize].op;
                    if matches!(op, Op::Icmp | Op::FTest) {
                        self.v[c as usize].state |= FUSED;
                        self.v[c as usize].dirty = barrier;
                    }
                }
                Op::Load | Op::Store | Op::AtomicRmw | Op::AtomicCas => {
                    let a = self.v[i.a.index()].root;
                    let address = &self.unit.insts[a as usize];
                    if address.op == Op::Lea && address.ty == Type::I64 {
                        self.v[a as usize].state |= FUSED;
                    }
                }
                _ => {}
            }
        }
        self.overwritten = over;
    }

    fn count_operands(&mut self, i: &Inst) {
        if i.op == Op::Call {
            let start = i.a.index();
            for n in start..start + usize::from(i.aux) {
                self.add_ref(self.unit.pool[n]);
            }
            return;
        }
        for v in [i.a, i.b, i.c] {
            if v.is_some() {
                self.add_ref(v);
            }
        }
        if matches!(i.op, Op::Exit | Op::ExitIf) {
            match self.unit.exits[i.imm as usize] {
                Exit::Jump(Target::Dynamic(v))
                | Exit::Call { target: Target::Dynamic(v), .. }
                | Exit::Return(v) => self.add_ref(v),
                _ => {}
            }
        }
    }

    fn note_effects(
        &mut self,
        at: usize,
        over: &mut Overwritten,
        next_put: &mut [u32; crate::MAX_HOT],
        barrier: &mut u32,
    ) {
        let i = self.unit.insts[at];
        let offset = i.imm as u32;
        match i.op {
            Op::GetSlot => {
                over.observe(at, offset, i.ty.bytes());
                self.forget_put(next_put, offset, i.ty.bytes());
            }
            Op::PutSlot => {
                self.forget_put(next_put, offset, i.ty.bytes());
                if let Some(p) = self.pin_of_slot(offset, i.ty) {
                    let root = self.v[i.a.index()].root;
                    next_put[p] = root;
                    self.v[root as usize].hint = p as u8;
                }
            }
            Op::GetIndexed | Op::PutIndexed => {
                if i.op == Op::GetIndexed {
                    over.observe(at, offset, (i.imm >> 32) as u32);
                }
                next_put.fill(NONE);
            }
            Op::Call => {
                let info = &self.helpers[i.imm as usize].info;
                match info.reads {
                    _ if info.may_exit => over.observe_all(at),
                    SlotAccess::All => over.observe_all(at),
                    SlotAccess::Ranges(r) => r.iter().for_each(|&(o, l)| over.observe(at, o, l)),
                    SlotAccess::None => {}
                }
                next_put.fill(NONE);
                *barrier += 1;
            }
            _ if i.op.may_exit() => {
                over.observe_all(at);
                next_put.fill(NONE);
                *barrier += 1;
            }
            _ => {}
        }
    }

    fn forget_put(&self, next_put: &mut [u32; crate::MAX_HOT], offset: u32, len: u32) {
        for (p, &slot) in self.layout.hot.iter().enumerate() {
            if slot < offset + len && offset < slot + 8 {
                next_put[p] = NONE;
            }
        }
    }
}

/// Whether a float test needs both ZF and PF.
pub(crate) fn needs_two_conditions(i: &Inst) -> bool {
    matches!(i.aux & 15, 0 | 4 | 11 | 15)
}

/// The low `bits` bits set.
pub(crate) const fn mask(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

//! From a vector instruction to its operations: on whole registers where what is known allows it, else by a helper.

use rhea_ir::{Cond, Exit, Lane, Op, Slot, Target, Type, Val};
use rhea_riscv_state::RiscvState;
use rhea_riscv_vector::memory::{self, Addressing, Transfer};
use rhea_riscv_vector::{Operation, Shape, Vtype, is_legal};
use std::mem::offset_of;

use crate::vector::call::{Destination, Source, VectorCall};
use crate::vector::emit::{Emitter, Length, Pieces, VL, VSTART, VTYPE};

use crate::helpers;
use crate::vector::runtime;

/// What becomes of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is translated; the unit goes on, or has been ended.
    Done,
    /// It is illegal under the vtype that is known.
    Illegal,
}

impl Emitter<'_> {
    /// Translates an instruction that mstatus.VS (and FS) allow.
    pub(crate) fn call(&mut self, call: VectorCall) -> Outcome {
        match call {
            VectorCall::SetVl { rd, rs1, vtype } => self.set_vl(rd, rs1, vtype),
            VectorCall::SetVlImmediate { rd, avl, vtype } => self.set_vl_immediate(rd, avl, vtype),
            VectorCall::SetVlRegister { rd, rs1, rs2 } => {
                let vtype = self.x(rs2);
                self.set_vl_by_helper(rd, rs1, vtype);
            }
            VectorCall::Compute { operation, source, destination } => {
                return self.compute(operation, source, destination);
            }
            VectorCall::Load { transfer, rs1, rs2 } => return self.transfer(transfer, rs1, rs2, true),
            VectorCall::Store { transfer, rs1, rs2 } => return self.transfer(transfer, rs1, rs2, false),
        }
        Outcome::Done
    }

    /// Integer register `r`, as it is kept.
    pub(crate) fn x(&mut self, r: u8) -> Val {
        let r = usize::from(r & 31);
        if r == 0 {
            return self.b.iconst(Type::I64, 0);
        }
        self.b.get(Slot::new(offset_of!(RiscvState, x) + 8 * r, Type::I64))
    }

    /// Writes an I64 to integer register `r`.
    pub(crate) fn set_x(&mut self, r: u8, value: Val) {
        let r = usize::from(r & 31);
        if r != 0 {
            // A 32-bit hart keeps its registers sign-extended.
            let value = if self.config.xlen == 32 {
                let low = self.b.zext(Type::I32, value);
                self.b.sext(Type::I64, low)
            } else {
                value
            };
            self.b.put(Slot::new(offset_of!(RiscvState, x) + 8 * r, Type::I64), value);
        }
    }

    /// Writes all bits of floating-point register `r`.
    pub(crate) fn set_f(&mut self, r: u8, value: Val) {
        let slot = self.f(r);
        self.b.put(slot, value);
    }

    fn f(&mut self, r: u8) -> Slot {
        Slot::new(offset_of!(RiscvState, f) + 8 * usize::from(r & 31), Type::I64)
    }

    // ---- setting vl ----

    /// Ends the unit; its successor knows nothing, or compares.
    fn end(&mut self) {
        self.b.exit(Exit::Jump(Target::Static(self.next_pc)));
    }

    fn put_length(&mut self, vtype: u64, vl: Val) {
        self.b.put(VL, vl);
        let vtype = self.b.iconst(Type::I64, vtype);
        self.b.put(VTYPE, vtype);
        let zero = self.b.iconst(Type::I64, 0);
        self.b.put(VSTART, zero);
    }

    fn set_vl(&mut self, rd: u8, rs1: u8, raw: u64) {
        let Some(vtype) = Vtype::parse(self.config, raw) else {
            let raw = self.b.iconst(Type::I64, raw);
            return self.set_vl_by_helper(rd, rs1, raw);
        };
        let max = vtype.vlmax(self.config);
        if rs1 == 0 && rd == 0 {
            return self.keep_vl(raw, vtype);
        }
        let all = self.b.iconst(Type::I64, max);
        if rs1 == 0 {
            self.put_length(raw, all);
            self.set_x(rd, all);
            return self.assume(raw, vtype, max);
        }
        let avl = self.x(rs1);
        let avl = if self.config.xlen == 32 {
            let low = self.b.zext(Type::I32, avl);
            self.b.zext(Type::I64, low)
        } else {
            avl
        };
        let few = self.b.icmp(Cond::LtU, avl, all);
        let vl = self.b.select(few, avl, all);
        self.put_length(raw, vl);
        self.set_x(rd, vl);
        self.b.exit_if(few, Exit::Jump(Target::Static(self.next_pc | 1)));
        // From here on the number is known.
        self.b.put(VL, all);
        self.set_x(rd, all);
        self.assume(raw, vtype, max);
    }

    /// vl stays as far as there are as many elements.
    fn keep_vl(&mut self, raw: u64, vtype: Vtype) {
        if self.know()
            && let (Some(vl), Some((_, old))) = (self.elements(), self.known.vtype)
        {
            let same_count = old.vlmax(self.config) == vtype.vlmax(self.config);
            if same_count {
                let value = self.b.iconst(Type::I64, vl);
                self.put_length(raw, value);
                return self.assume(raw, vtype, vl);
            }
        }
        let raw = self.b.iconst(Type::I64, raw);
        self.set_vl_by_helper(0, 0, raw);
    }

    fn set_vl_immediate(&mut self, rd: u8, avl: u64, raw: u64) {
        let parsed = Vtype::parse(self.config, raw);
        let max = parsed.map_or(0, |v| v.vlmax(self.config));
        let vl = avl.min(max);
        let raw = if parsed.is_some() { raw } else { rhea_riscv_state::state::VILL };
        let value = self.b.iconst(Type::I64, vl);
        self.put_length(raw, value);
        self.set_x(rd, value);
        match parsed {
            Some(vtype) => self.assume(raw, vtype, vl),
            None => self.end(),
        }
    }

    fn set_vl_by_helper(&mut self, rd: u8, rs1: u8, vtype: Val) {
        let avl = self.x(rs1);
        let kind = match (rd, rs1) {
            (0, 0) => runtime::KEEP,
            (_, 0) => runtime::MAX,
            _ => runtime::GIVEN,
        };
        let kind = self.b.iconst(Type::I64, kind);
        let vl = self.helper(helpers::VECTOR_SET_VL, &[avl, vtype, kind]);
        self.set_x(rd, vl);
        self.end();
    }

    pub(crate) fn helper(&mut self, id: u32, arguments: &[Val]) -> Val {
        self.b.call(id, helpers::info(id), arguments)
    }

    // ---- between registers ----

    fn compute(&mut self, o: Operation, source: Source, destination: Destination) -> Outcome {
        let known = self.known.inline && self.know();
        if let Some((raw, _)) = self.known.vtype
            && !is_legal(self.config, raw, &o)
        {
            return Outcome::Illegal;
        }
        if known
            && let Some(n) = self.elements()
            && n != 0
            && let Some((_, vtype)) = self.known.vtype
            && self.inline(o, source, destination, vtype, n)
        {
            return Outcome::Done;
        }
        let scalar = match source {
            Source::Vector => self.b.iconst(Type::I64, 0),
            Source::X(r) => self.x(r),
            Source::F(r) => {
                let slot = self.f(r);
                self.b.get(slot)
            }
            Source::Immediate(value) => self.b.iconst(Type::I64, value),
        };
        let bits = self.b.iconst(Type::I64, o.to_bits());
        let id = if known && !self.may_be_illegal(o) {
            helpers::VECTOR_EXECUTE_LEGAL
        } else {
            helpers::VECTOR_EXECUTE
        };
        if id == helpers::VECTOR_EXECUTE {
            self.note_bits();
        }
        let result = self.helper(id, &[bits, scalar]);
        match destination {
            Destination::Vector => {}
            Destination::X(r) => self.set_x(r, result),
            Destination::F(r) => self.set_f(r, result),
        }
        Outcome::Done
    }

    /// Whether an instruction that vtype allows, with vstart 0, may be reserved all the same.
    fn may_be_illegal(&self, o: Operation) -> bool {
        let groups_are_whole = match (o.op.shape(), self.elements()) {
            (Shape::ElementGroup(_), Some(n)) => n.is_multiple_of(8),
            (Shape::ElementGroup(_), None) => false,
            _ => true,
        };
        !groups_are_whole
    }

    // ---- memory ----

    fn transfer(&mut self, t: Transfer, rs1: u8, rs2: u8, is_load: bool) -> Outcome {
        let known = self.known.inline && self.know();
        let whole = t.addressing == Addressing::Whole;
        if let Some((raw, _)) = self.known.vtype.filter(|_| !whole)
            && !memory::is_legal(self.config, raw, &t, is_load)
        {
            return Outcome::Illegal;
        }
        if self.inline_transfer(t, rs1, is_load, known)
            || known && (self.segments(t, rs1, is_load) || self.scattered(t, rs1, rs2, is_load))
        {
            return Outcome::Done;
        }
        let legal = if known && !whole { Transfer::LEGAL } else { 0 };
        let bits = self.b.iconst(Type::I64, t.to_bits() | legal);
        let base = self.x(rs1);
        let stride = self.x(rs2);
        let index = self.b.iconst(Type::I64, self.mem.index().into());
        self.note_bits();
        let id = if is_load { helpers::VECTOR_LOAD } else { helpers::VECTOR_STORE };
        self.helper(id, &[bits, base, stride, index]);
        if t.addressing == Addressing::FaultOnlyFirst {
            // vl may have been cut.
            match self.known.length {
                Length::Elements(_) => self.end(),
                Length::Unknown => {}
            }
        }
        Outcome::Done
    }

    /// Whole pieces at consecutive addresses; false if it is not such a transfer.
    fn inline_transfer(&mut self, t: Transfer, rs1: u8, is_load: bool, known: bool) -> bool {
        if !self.known.inline || t.masked || (t.fields != 1 && t.addressing != Addressing::Whole) {
            return false;
        }
        let total = match t.addressing {
            // vstart must be known to be 0.
            Addressing::Whole if self.known.length != Length::Unknown => {
                u64::from(t.fields) * u64::from(self.config.vlen / 8)
            }
            Addressing::Mask if known => match self.elements() {
                Some(n) => n.div_ceil(8),
                None => return false,
            },
            Addressing::UnitStride | Addressing::FaultOnlyFirst if known => match self.elements() {
                Some(n) => n << t.width,
                None => return false,
            },
            _ => return false,
        };
        let pieces = match total {
            1 | 2 => Some(Pieces { bytes: total as u32, count: 1 }),
            _ => Pieces::of(total),
        };
        let Some(pieces) = pieces else { return false };
        let base = self.x(rs1);
        if t.addressing == Addressing::FaultOnlyFirst {
            if self.config.xlen == 32 {
                return false;
            }
            // Within a page all of it faults with element 0, or nothing.
            let offset = self.b.and_imm(base, 4095);
            let crosses = self.b.icmp_imm(Cond::GtU, offset, 4096 - total);
            self.unassume_if(crosses);
        }
        let ty = match pieces.bytes {
            32 => Type::V256,
            16 => Type::V128,
            8 => Type::I64,
            4 => Type::I32,
            2 => Type::I16,
            _ => Type::I8,
        };
        let address = |e: &mut Self, i: u32| {
            let sum = e.b.lea(base, Val::NONE, 0, u64::from(i * pieces.bytes));
            e.wrapped(sum)
        };
        let mem = self.mem;
        if is_load {
            // All of it, before a register changes: a fault begins the instruction anew.
            let values: Vec<Val> = (0..pieces.count)
                .map(|i| {
                    let at = address(self, i);
                    self.b.load(ty, at, mem)
                })
                .collect();
            for (i, value) in values.into_iter().enumerate() {
                let offset = self.register(t.vd) + i as u32 * pieces.bytes;
                self.b.put(Slot { offset, ty }, value);
            }
        } else {
            for i in 0..pieces.count {
                let offset = self.register(t.vd) + i * pieces.bytes;
                let value = self.b.get(Slot { offset, ty });
                let at = address(self, i);
                self.b.store(at, value, mem);
            }
        }
        true
    }

    // ---- scalars ----

    /// The first source as an I64 whose low bits are the element; nothing for vectors. Floats narrower than their
    /// register are checked to be boxed.
    pub(crate) fn scalar(&mut self, source: Source, sew: u8) -> Option<Val> {
        match source {
            Source::Vector => None,
            Source::X(r) => Some(self.x(r)),
            Source::Immediate(value) => Some(self.b.iconst(Type::I64, value)),
            Source::F(r) => {
                let slot = self.f(r);
                let bits = self.b.get(slot);
                if sew == 3 {
                    return Some(bits);
                }
                let (width, nan) = if sew == 2 { (32, 0x7fc0_0000) } else { (16, 0x7e00) };
                let least = self.b.iconst(Type::I64, u64::MAX << width);
                let boxed = self.b.icmp(Cond::GeU, bits, least);
                let nan = self.b.iconst(Type::I64, nan);
                Some(self.b.select(boxed, bits, nan))
            }
        }
    }

    /// Lane-wise operation.
    pub(crate) fn op(&mut self, op: Op, lane: Lane, a: Val, b: Val) -> Val {
        self.b.vbin(op, lane, a, b)
    }
}

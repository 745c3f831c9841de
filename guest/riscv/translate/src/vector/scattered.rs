//! Strided, indexed and segment loads and stores of a few elements: one access of memory each, where vtype and vl are known.

use rhea_ir::{Op, Slot, Type, Val};
use rhea_riscv_vector::memory::{Addressing, Transfer};

use crate::translator::masked;
use crate::vector::emit::{Emitter, VSTART};

/// Most accesses that are worth their code; more go to the helper.
const MOST: u64 = 8;

/// Where the elements of a transfer are.
struct Scattered {
    /// Elements of each field.
    count: u32,
    fields: u32,
    /// Binary logarithm of an element's bytes.
    width: u8,
    /// Byte of the state where the first field's data begins, and from one field to the next.
    data: u32,
    field_step: u32,
}

impl Scattered {
    fn field(&self, field: u32) -> u32 {
        self.data + field * self.field_step
    }
}

/// The type of 1 << `width` bytes.
fn element(width: u8) -> Type {
    [Type::I8, Type::I16, Type::I32, Type::I64][usize::from(width & 3)]
}

/// The slot that holds element `i` of the group at byte `group` of the state, and the element's first bit in it. Slots begin
/// at multiples of four bytes.
fn element_slot(group: u32, width: u8, i: u32) -> (Slot, u32) {
    let offset = group + (i << width);
    let ty = if width < 2 { Type::I32 } else { element(width) };
    (Slot { offset: offset & !3, ty }, offset % 4 * 8)
}

impl Emitter<'_> {
    /// Translates a transfer that is legal, not masked, begins with element 0, and moves few elements; false if this is not
    /// such a one.
    ///
    /// Elements are done one after the other, with vstart counting them, so that a fault finds those before it done. (Puts
    /// are written only where somebody looks: nothing of this costs anything where no access faults.)
    pub(crate) fn scattered(&mut self, t: Transfer, rs1: u8, rs2: u8, is_load: bool) -> bool {
        let Some(places) = self.places(t) else { return false };
        let (ty, mem) = (element(places.width), self.mem);
        let base = self.x(rs1);
        let stride = (t.addressing == Addressing::Strided).then(|| self.x(rs2));
        let mut first = base;
        for i in 0..places.count {
            if i > 0 {
                let done = self.b.iconst(Type::I64, i.into());
                self.b.put(VSTART, done);
            }
            first = self.segment(t, &places, (base, first, stride), i);
            for field in 0..places.fields {
                let at = self.b.lea(first, Val::NONE, 0, u64::from(field) << places.width);
                let at = self.wrapped(at);
                if is_load {
                    let value = self.b.load(ty, at, mem);
                    self.put_element(places.field(field), places.width, i, value);
                } else {
                    let value = self.get_element(places.field(field), places.width, i);
                    self.b.store(at, value, mem);
                }
            }
        }
        if places.count > 1 {
            let zero = self.b.iconst(Type::I64, 0);
            self.b.put(VSTART, zero);
        }
        true
    }

    /// The address of segment `i`, by rs1, the address of the segment before, and the stride.
    fn segment(&mut self, t: Transfer, places: &Scattered, by: (Val, Val, Option<Val>), i: u32) -> Val {
        let (base, before, stride) = by;
        if t.addressing == Addressing::Indexed {
            let index = self.get_element(self.register(t.vs2), t.width, i);
            let index = self.b.zext(Type::I64, index);
            return self.b.lea(base, index, 0, 0);
        }
        match stride {
            Some(stride) if i > 0 => self.b.lea(before, stride, 0, 0),
            Some(_) => base,
            None => {
                let segment = u64::from(places.fields) << places.width;
                self.b.lea(base, Val::NONE, 0, u64::from(i) * segment)
            }
        }
    }

    fn get_element(&mut self, group: u32, width: u8, i: u32) -> Val {
        let (slot, bit) = element_slot(group, width, i);
        let value = self.b.get(slot);
        let count = self.b.iconst(Type::I8, bit.into());
        let value = self.b.bin(Op::Shr, value, count);
        self.b.zext(element(width), value)
    }

    fn put_element(&mut self, group: u32, width: u8, i: u32, value: Val) {
        let (slot, bit) = element_slot(group, width, i);
        if width >= 2 {
            return self.b.put(slot, value);
        }
        let ones = (1u32 << (8 << width)) - 1;
        let others = self.b.get(slot);
        let others = self.b.and_imm(others, u64::from(!(ones << bit)));
        let value = self.b.zext(Type::I32, value);
        let count = self.b.iconst(Type::I8, bit.into());
        let value = self.b.bin(Op::Shl, value, count);
        let all = self.b.or(others, value);
        self.b.put(slot, all);
    }

    fn places(&self, t: Transfer) -> Option<Scattered> {
        let (_, vtype) = self.known.vtype?;
        let is_indexed = t.addressing == Addressing::Indexed;
        let in_question = matches!(t.addressing, Addressing::Strided | Addressing::UnitStride) || is_indexed;
        let count = self.elements()?;
        if t.masked || !in_question || count == 0 || count * u64::from(t.fields) > MOST {
            return None;
        }
        let width = if is_indexed { vtype.sew } else { t.width };
        let emul = width as i8 - vtype.sew as i8 + vtype.lmul;
        // The data of a field takes a whole register at least.
        let field_step = (self.config.vlen / 8) << emul.max(0);
        let data = self.register(t.vd);
        Some(Scattered { count: count as u32, fields: t.fields.into(), width, data, field_step })
    }

    /// An address as wide as those of the hart.
    pub(crate) fn wrapped(&mut self, address: Val) -> Val {
        if self.config.xlen != 32 {
            return masked(self.b, self.masking, address);
        }
        let low = self.b.zext(Type::I32, address);
        self.b.zext(Type::I64, low)
    }
}

//! What is reserved, and so an illegal instruction (vector specification, "Vector Operands", "Vector Masking" and the
//! chapters of each group). All of it but what depends on vl, vstart and frm is fixed by the instruction and vtype.

use rhea_riscv_state::RiscvState;
use rhea_riscv_state::extension::Extension as X;
use rhea_riscv_state::state::HartConfig;

use crate::operation::{Group, Numbers, Op, Operation, Shape};
use crate::vtype::Vtype;

/// A register group: its first register, the binary logarithms of its EMUL and of its EEW in bytes; EEW of a mask is
/// -3, one bit.
#[derive(Clone, Copy)]
pub(crate) struct Registers {
    pub first: u8,
    pub emul: i8,
    pub eew: i8,
}

pub(crate) const MASK_EEW: i8 = -3;

impl Registers {
    pub const fn mask(first: u8) -> Registers {
        Registers { first, emul: 0, eew: MASK_EEW }
    }

    /// Registers that the group touches.
    pub const fn count(self) -> u8 {
        if self.emul > 0 { 1 << self.emul } else { 1 }
    }

    /// EMUL is in range and the first register a multiple of it.
    pub const fn is_aligned(self) -> bool {
        self.emul >= -3 && self.emul <= 3 && self.first.is_multiple_of(self.count())
    }

    pub const fn overlaps(self, other: Registers) -> bool {
        self.first < other.first + other.count() && other.first < self.first + self.count()
    }

    /// As a destination, it may stand where `source` does (or elsewhere).
    pub const fn may_overlap(self, source: Registers) -> bool {
        if !self.overlaps(source) || self.eew == source.eew {
            return true;
        }
        if self.eew < source.eew {
            return self.first == source.first;
        }
        source.emul >= 0 && self.first + self.count() == source.first + source.count()
    }
}

/// Whether the instruction is legal under vtype, whatever vl, vstart and frm are. `vtype` is the raw register.
pub fn is_legal(config: &HartConfig, vtype: u64, o: &Operation) -> bool {
    let Some(vt) = Vtype::parse(config, vtype) else { return false };
    registers_are_legal(vt, o) && sources_agree(&sources(vt, o)) && widths_are_supported(config, vt, o)
}

/// No register is a source with two widths.
pub(crate) fn sources_agree(sources: &[Option<Registers>]) -> bool {
    let agree = |a: Registers, b: Registers| a.eew == b.eew || !a.overlaps(b);
    sources
        .iter()
        .enumerate()
        .all(|(i, a)| sources[i + 1..].iter().flatten().all(|b| a.is_none_or(|a| agree(a, *b))))
}

/// The register groups that an instruction with legal registers reads.
fn sources(vt: Vtype, o: &Operation) -> [Option<Registers>; 4] {
    let group = |first, more: i8| Registers { first, emul: vt.lmul + more, eew: vt.sew as i8 + more };
    let one = |first, more: i8| Registers { first, emul: 0, eew: vt.sew as i8 + more };
    let (a, b) = match o.op.shape() {
        Shape::WidenWide | Shape::Narrow => (group(o.vs2, 1), group(o.vs1, 0)),
        Shape::Extend(by) => (group(o.vs2, -(by as i8)), group(o.vs1, 0)),
        Shape::Reduce => (group(o.vs2, 0), one(o.vs1, 0)),
        Shape::WidenReduce => (group(o.vs2, 0), one(o.vs1, 1)),
        Shape::MaskScalar | Shape::MaskToMask | Shape::Iota => (Registers::mask(o.vs2), group(o.vs1, 0)),
        Shape::Gather16 => {
            let indices = Registers { first: o.vs1, emul: vt.lmul + 1 - vt.sew as i8, eew: 1 };
            (group(o.vs2, 0), indices)
        }
        Shape::Compress => (group(o.vs2, 0), Registers::mask(o.vs1)),
        Shape::MaskLogical | Shape::Whole | Shape::Scalar | Shape::ElementGroup(_) | Shape::Index => {
            return [None; 4];
        }
        _ => (group(o.vs2, 0), group(o.vs1, 0)),
    };
    let only_vs2 = o.op.is_unary()
        || matches!(o.op.shape(), Shape::Extend(_) | Shape::MaskScalar | Shape::MaskToMask | Shape::Iota);
    let takes_mask =
        o.masked || matches!(o.op.shape(), Shape::Carry) || matches!(o.op, Op::VmadcM | Op::VmsbcM);
    let wider = i8::from(o.op.shape() == Shape::Widen);
    [
        (!o.op.ignores_vs2()).then_some(a),
        (!o.scalar && !only_vs2).then_some(b),
        takes_mask.then_some(Registers::mask(0)),
        o.op.reads_vd().then_some(group(o.vd, wider)),
    ]
}

fn registers_are_legal(vt: Vtype, o: &Operation) -> bool {
    let (lmul, sew) = (vt.lmul, vt.sew as i8);
    let group = |first, more: i8| Registers { first, emul: lmul + more, eew: sew + more };
    let (d, a, b) = (o.vd, o.vs2, o.vs1);
    let not_mask = !o.masked || d != 0;
    match o.op.shape() {
        Shape::Same => not_mask && plain(o, group(d, 0), group(a, 0), group(b, 0)),
        Shape::Carry => d != 0 && plain(o, group(d, 0), group(a, 0), group(b, 0)),
        Shape::MaskResult => plain(o, Registers::mask(d), group(a, 0), group(b, 0)),
        Shape::Widen => not_mask && sew < 3 && plain(o, group(d, 1), group(a, 0), group(b, 0)),
        Shape::WidenWide => not_mask && sew < 3 && plain(o, group(d, 1), group(a, 1), group(b, 0)),
        Shape::Narrow => not_mask && sew < 3 && plain(o, group(d, 0), group(a, 1), group(b, 0)),
        Shape::Extend(by) => {
            let (d, a) = (group(d, 0), group(a, -(by as i8)));
            not_mask && sew >= by as i8 && d.is_aligned() && a.is_aligned() && d.may_overlap(a)
        }
        Shape::Reduce => group(a, 0).is_aligned(),
        Shape::WidenReduce => sew < 3 && group(a, 0).is_aligned(),
        Shape::MaskLogical | Shape::MaskScalar => true,
        Shape::MaskToMask => not_mask && d != a,
        Shape::Iota => not_mask && group(d, 0).is_aligned() && !group(d, 0).overlaps(Registers::mask(a)),
        Shape::Index => not_mask && group(d, 0).is_aligned(),
        Shape::Up => not_mask && apart(group(d, 0), group(a, 0)),
        Shape::Gather => {
            not_mask && apart(group(d, 0), group(a, 0)) && (o.scalar || apart(group(d, 0), group(b, 0)))
        }
        Shape::Gather16 => {
            let indices = Registers { first: b, emul: lmul + 1 - sew, eew: 1 };
            not_mask && apart(group(d, 0), group(a, 0)) && apart(group(d, 0), indices)
        }
        Shape::Compress => apart(group(d, 0), group(a, 0)) && apart(group(d, 0), Registers::mask(b)),
        Shape::Whole => matches!(b, 1 | 2 | 4 | 8) && d.is_multiple_of(b) && a.is_multiple_of(b),
        Shape::Scalar => true,
        Shape::ElementGroup(kind) => group_is_legal(vt, o, kind),
    }
}

/// Sources and destination are aligned, and the destination overlaps sources only where it may.
fn plain(o: &Operation, d: Registers, a: Registers, b: Registers) -> bool {
    let one = |s: Registers| s.is_aligned() && d.may_overlap(s);
    d.is_aligned() && (o.op.ignores_vs2() || one(a)) && (o.scalar || o.op.is_unary() || one(b))
}

fn apart(d: Registers, source: Registers) -> bool {
    d.is_aligned() && source.is_aligned() && !d.overlaps(source)
}

fn group_is_legal(vt: Vtype, o: &Operation, kind: Group) -> bool {
    let group = |first| Registers { first, emul: vt.lmul, eew: vt.sew as i8 };
    let (d, a, b) = (group(o.vd), group(o.vs2), group(o.vs1));
    let one_register = Registers { first: o.vs2, emul: 0, eew: vt.sew as i8 };
    if o.masked || !d.is_aligned() {
        return false;
    }
    match kind {
        Group::Words => a.is_aligned(),
        Group::WordsScalar => !d.overlaps(one_register),
        Group::ThreeWords => a.is_aligned() && b.is_aligned(),
        Group::Sha2 => apart(d, a) && apart(d, b),
        Group::Sm3 if o.op == Op::Vsm3c => apart(d, a),
        Group::Sm3 => apart(d, a) && b.is_aligned(),
    }
}

/// Binary logarithm of the number of elements in an element group, and the width that they must have.
pub(crate) fn group_elements(op: Op) -> Option<u32> {
    match op.shape() {
        Shape::ElementGroup(Group::Sm3) => Some(3),
        Shape::ElementGroup(_) => Some(2),
        _ => None,
    }
}

fn widths_are_supported(config: &HartConfig, vt: Vtype, o: &Operation) -> bool {
    use Op::*;
    let wide = match o.op.shape() {
        Shape::Widen | Shape::WidenWide | Shape::Narrow | Shape::WidenReduce => true,
        Shape::ElementGroup(kind) => return group_width_is_supported(config, vt, kind),
        _ => false,
    };
    if wide && vt.sew_bits() * 2 > config.elen {
        return false;
    }
    if matches!(o.op, Vmulh | Vmulhu | Vmulhsu | Vsmul) && vt.sew == 3 && !config.has(X::V) {
        return false;
    }
    if matches!(o.op, Vclmul | Vclmulh) {
        return vt.sew == 3;
    }
    let float = |sew: u8| float_width_is_supported(config, sew);
    match o.op.numbers() {
        Numbers::Integer => true,
        Numbers::Float => float(vt.sew) && (!wide || float(vt.sew + 1)),
        Numbers::FloatHalfConversion => {
            let half = vt.sew == 1 && (config.has(X::Zvfhmin) || config.has(X::Zvfh));
            (half || float(vt.sew)) && float(vt.sew + 1)
        }
        Numbers::WideFloat => float(vt.sew + 1),
        Numbers::NarrowFloat => float(vt.sew),
    }
}

fn float_width_is_supported(config: &HartConfig, sew: u8) -> bool {
    match sew {
        1 => config.has(X::Zvfh),
        2 => config.has(X::Zve32f),
        3 => config.has(X::Zve64d),
        _ => false,
    }
}

/// The group's elements have the width that the algorithm works in, and a group of registers holds one of them.
fn group_width_is_supported(config: &HartConfig, vt: Vtype, kind: Group) -> bool {
    let (width, elements) = match kind {
        Group::Sm3 => (vt.sew == 2, 8),
        Group::Sha2 => (vt.sew == 2 || (vt.sew == 3 && config.has(X::Zvknhb)), 4),
        _ => (vt.sew == 2, 4),
    };
    width && vt.vlmax(config) >= elements
}

/// What is illegal for a reason that translations do not know: vl, vstart and frm.
pub(crate) fn is_legal_now(st: &RiscvState, o: &Operation) -> bool {
    let from_first = matches!(
        o.op.shape(),
        Shape::Reduce
            | Shape::WidenReduce
            | Shape::MaskScalar
            | Shape::MaskToMask
            | Shape::Iota
            | Shape::Compress
    );
    if from_first && st.vstart != 0 {
        return false;
    }
    if let Some(log) = group_elements(o.op) {
        let mask = (1u64 << log) - 1;
        if (st.vl | st.vstart) & mask != 0 {
            return false;
        }
    }
    // Moves of single elements and whole vectors of numbers are no arithmetic, but the rule is for all.
    o.op.numbers() == Numbers::Integer || st.frm < 5
}

//! A table whose names are resolved and whose parts fit together.

use crate::condition::{Condition, Exclusions};
use crate::cube::Cube;
use crate::declaration::{Slice, Step};
use crate::error::Place;

/// Everything an architecture's files say.
pub(crate) struct Table {
    pub(crate) features: Vec<Feature>,
    pub(crate) exclusions: Exclusions,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) fields: Vec<Field>,
    pub(crate) formats: Vec<Format>,
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) areas: Vec<Area>,
}

impl Table {
    /// True if a format or a condition reads the field.
    pub(crate) fn uses(&self, index: usize) -> bool {
        let compared = |test: &Compared| match test {
            Compared::In(field, _) | Compared::NotIn(field, _) => *field == index,
            Compared::Same(a, b) | Compared::Differs(a, b) => *a == index || *b == index,
        };
        self.formats.iter().any(|format| format.fields.contains(&index))
            || self.patterns.iter().any(|p| p.limits.iter().any(|limit| limit.tests.iter().any(compared)))
    }
}

pub(crate) struct Feature {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) about: Option<String>,
}

/// A type of operands.
pub(crate) struct Kind {
    pub(crate) name: String,
    pub(crate) place: Place,
    /// None: the guest prints it.
    pub(crate) names: Option<Vec<String>>,
    /// The smallest that holds every field of this kind.
    pub(crate) number: Number,
}

/// What a field is to the reader of a disassembly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KindOf {
    Decimal,
    Hexadecimal,
    /// Counted from the instruction's address.
    Target,
    Flag,
    Named(usize),
}

/// A Rust type of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Number {
    U8,
    U16,
    U32,
    U64,
    I32,
    I64,
}

impl Number {
    /// The smallest type for a range; signed numbers are at least 32 bits, because they are offsets and operands.
    pub(crate) fn for_range(low: i128, high: i128) -> Number {
        let unsigned = [(Number::U8, 8), (Number::U16, 16), (Number::U32, 32)];
        if low >= 0 {
            return unsigned.iter().find(|(_, bits)| high < 1 << bits).map_or(Number::U64, |(n, _)| *n);
        }
        if low >= i128::from(i32::MIN) && high <= i128::from(i32::MAX) { Number::I32 } else { Number::I64 }
    }

    pub(crate) fn rust(self) -> &'static str {
        match self {
            Number::U8 => "u8",
            Number::U16 => "u16",
            Number::U32 => "u32",
            Number::U64 => "u64",
            Number::I32 => "i32",
            Number::I64 => "i64",
        }
    }

    /// True if the type holds the range.
    pub(crate) fn holds(self, (low, high): (i128, i128)) -> bool {
        let (least, most): (i128, i128) = match self {
            Number::U8 => (0, u8::MAX.into()),
            Number::U16 => (0, u16::MAX.into()),
            Number::U32 => (0, u32::MAX.into()),
            Number::U64 => (0, u64::MAX.into()),
            Number::I32 => (i32::MIN.into(), i32::MAX.into()),
            Number::I64 => (i64::MIN.into(), i64::MAX.into()),
        };
        least <= low && high <= most
    }
}

/// Bits of the word that make a number.
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) width: u32,
    pub(crate) kind: KindOf,
    pub(crate) signed: bool,
    pub(crate) slices: Vec<Slice>,
    pub(crate) steps: Vec<Step>,
    /// Smallest and largest value.
    pub(crate) range: (i128, i128),
    pub(crate) number: Number,
    /// The word's bits it reads.
    pub(crate) mask: u64,
    pub(crate) limits: Vec<Limit>,
}

impl Field {
    /// Bits of the value before the steps.
    pub(crate) fn bits(&self) -> u32 {
        bits_of(&self.slices)
    }

    /// The word's bits, from the one that makes the value's highest.
    pub(crate) fn positions(&self) -> Vec<u32> {
        let bits = |slice: &Slice| match *slice {
            Slice::Bits { high, low } => (low..=high).rev().collect(),
            Slice::Fixed { .. } => Vec::new(),
        };
        self.slices.iter().flat_map(bits).collect()
    }

    /// The value in a word: what the generated code computes.
    pub(crate) fn value(&self, word: u64) -> i128 {
        let mut raw: u64 = 0;
        for slice in &self.slices {
            let (bits, value) = match *slice {
                Slice::Bits { high, low } => (high - low + 1, word >> low & ones(high - low + 1)),
                Slice::Fixed { bits, value } => (bits, value),
            };
            raw = if bits >= 64 { value } else { raw << bits | value };
        }
        let mut value = i128::from(raw);
        if self.signed && self.bits() > 0 && raw >> (self.bits() - 1) & 1 == 1 {
            value -= 1 << self.bits();
        }
        for step in &self.steps {
            value = match step {
                Step::ShiftLeft(count) => value << count,
                Step::Add(number) => value + i128::from(*number),
                Step::From(number) => i128::from(*number) - value,
                Step::Map(list) => {
                    usize::try_from(value).ok().and_then(|at| list.get(at)).copied().unwrap_or(0).into()
                }
            };
        }
        value
    }
}

pub(crate) fn bits_of(slices: &[Slice]) -> u32 {
    let bits = slices.iter().map(|slice| match slice {
        Slice::Bits { high, low } => (high - low).saturating_add(1),
        Slice::Fixed { bits, .. } => *bits,
    });
    bits.fold(0, u32::saturating_add)
}

/// The lowest `bits` bits.
pub(crate) fn ones(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// A set of operands that many instructions share.
pub(crate) struct Format {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) width: u32,
    pub(crate) fields: Vec<usize>,
    pub(crate) text: Vec<Piece>,
    pub(crate) limits: Vec<Limit>,
}

/// A part of an instruction's assembly text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Literal(String),
    Mnemonic,
    Field(usize),
}

/// Comparisons of which one must hold, with the words where it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) tests: Vec<Compared>,
    pub(crate) cubes: Vec<Cube>,
    /// The word's bits that are looked at.
    pub(crate) mask: u64,
}

/// One comparison, with fields resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    In(usize, Vec<i64>),
    NotIn(usize, Vec<i64>),
    Same(usize, usize),
    Differs(usize, usize),
}

/// An instruction.
pub(crate) struct Pattern {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) width: u32,
    /// The fixed bits.
    pub(crate) fixed: Cube,
    pub(crate) format: usize,
    pub(crate) text: Option<Vec<Piece>>,
    /// The field's, the format's and its own.
    pub(crate) limits: Vec<Limit>,
    pub(crate) condition: Condition,
    pub(crate) over: Vec<usize>,
    pub(crate) group: Option<(usize, usize)>,
    pub(crate) expansion: Option<Expansion>,
    /// The words it takes.
    pub(crate) cubes: Vec<Cube>,
}

/// The instruction that one stands for.
pub(crate) struct Expansion {
    pub(crate) pattern: usize,
    /// In the order of that instruction's format.
    pub(crate) arguments: Vec<Source>,
}

/// Where an argument comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Field(usize),
    Constant(i64),
}

/// An area that must be covered, or must stay free.
pub(crate) struct Area {
    pub(crate) place: Place,
    pub(crate) width: u32,
    pub(crate) cube: Cube,
    pub(crate) covered: bool,
}

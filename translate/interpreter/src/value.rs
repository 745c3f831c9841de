//! Values of the IR at run time.

use rhea_ir::{Lane, Type};

/// The low `bits` bits set; 64 or more gives all ones.
pub(crate) const fn mask(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// Sign-extends the low `bits` (1 to 64) bits.
pub(crate) const fn signed(value: u64, bits: u32) -> i64 {
    (value << (64 - bits)) as i64 >> (64 - bits)
}

/// A value of any type: 256 bits, little-endian by words. What lies above the type's width is zero.
///
/// Integers and scalar floating point take the low bits of word 0. F80 has its significand in word 0, sign and
/// exponent in word 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Value(pub [u64; 4]);

impl Value {
    /// All bits zero.
    pub const ZERO: Value = Value([0; 4]);

    /// An integer or scalar; the caller has masked it to its type.
    pub const fn int(value: u64) -> Value {
        Value([value, 0, 0, 0])
    }

    /// From bytes in memory order, at most 32; missing ones are zero.
    pub fn from_bytes(bytes: &[u8]) -> Value {
        let mut all = [0; 32];
        all[..bytes.len()].copy_from_slice(bytes);
        let mut value = Value::ZERO;
        for (word, bytes) in value.0.iter_mut().zip(all.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        value
    }

    /// All 32 bytes in memory order.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, word) in bytes.as_chunks_mut().0.iter_mut().zip(self.0) {
            *chunk = word.to_le_bytes();
        }
        bytes
    }

    /// Word 0.
    pub const fn low(self) -> u64 {
        self.0[0]
    }

    /// Lane `index` of lanes of `bits` (8, 16, 32 or 64) bits.
    pub const fn lane(&self, bits: u32, index: u32) -> u64 {
        let at = bits * index;
        (self.0[(at / 64) as usize] >> (at % 64)) & mask(bits)
    }

    /// Replaces lane `index` by the low bits of `value`.
    pub const fn set_lane(&mut self, bits: u32, index: u32, value: u64) {
        let at = bits * index;
        let word = &mut self.0[(at / 64) as usize];
        let shift = at % 64;
        *word = (*word & !(mask(bits) << shift)) | ((value & mask(bits)) << shift);
    }

    /// 128-bit half `index`.
    pub const fn half(&self, index: u32) -> u128 {
        let at = 2 * index as usize;
        self.0[at] as u128 | (self.0[at + 1] as u128) << 64
    }

    /// Replaces half `index`.
    pub const fn set_half(&mut self, index: u32, value: u128) {
        let at = 2 * index as usize;
        self.0[at] = value as u64;
        self.0[at + 1] = (value >> 64) as u64;
    }

    /// Cut to the width of `ty`.
    pub fn cut(mut self, ty: Type) -> Value {
        let bits = if ty == Type::F80 { 80 } else { ty.bytes() * 8 };
        for (index, word) in self.0.iter_mut().enumerate() {
            *word &= mask(bits.saturating_sub(64 * index as u32));
        }
        self
    }

    /// Builds a vector lane by lane.
    pub(crate) fn from_lanes(ty: Type, bits: u32, mut lane: impl FnMut(u32) -> u64) -> Value {
        let mut value = Value::ZERO;
        for index in 0..lanes(ty, bits) {
            value.set_lane(bits, index, lane(index));
        }
        value
    }

    /// Builds a vector from its 128-bit halves, one or two.
    pub(crate) fn from_halves(ty: Type, mut half: impl FnMut(u32) -> u128) -> Value {
        let mut value = Value::ZERO;
        for index in 0..halves(ty) {
            value.set_half(index, half(index));
        }
        value
    }
}

/// Number of lanes of `bits` bits in `ty`.
pub(crate) const fn lanes(ty: Type, bits: u32) -> u32 {
    ty.bytes() * 8 / bits
}

/// Number of 128-bit halves in a vector type.
pub(crate) const fn halves(ty: Type) -> u32 {
    ty.bytes() / 16
}

/// Bits of a lane; 64 for operations on all bits.
pub(crate) const fn lane_bits(lane: Lane) -> u32 {
    match lane {
        Lane::None => 64,
        _ => lane.bytes() * 8,
    }
}

/// The operands of an operation, with the types that the operation may depend on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operands {
    pub a: Value,
    pub b: Value,
    pub c: Value,
    pub a_type: Type,
    pub b_type: Type,
}

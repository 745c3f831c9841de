//! PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM (SDM vol. 2, 4.1).

use rhea_x86_state::flags;

/// What a comparison gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// ECX: index of the first or last match, or the number of elements.
    pub index: u32,
    /// XMM0: bit, byte or word mask.
    pub mask: [u64; 2],
    /// CF, ZF, SF and OF in their RFLAGS positions.
    pub flags: u64,
}

/// Elements of one operand.
struct Elements {
    value: [i32; 16],
    valid: usize,
}

impl Elements {
    /// `length`: the explicit length, or `None` to end at the first zero.
    fn new(bits: [u64; 2], imm: u8, length: Option<u64>) -> Elements {
        let words = imm & 1 != 0;
        let signed = imm & 2 != 0;
        let count = if words { 8 } else { 16 };
        let mut value = [0; 16];
        for (i, v) in value.iter_mut().enumerate().take(count) {
            let raw = if words { bits[i / 4] >> (16 * (i % 4)) } else { bits[i / 8] >> (8 * (i % 8)) };
            *v = match (words, signed) {
                (false, false) => i32::from(raw as u8),
                (false, true) => i32::from(raw as i8),
                (true, false) => i32::from(raw as u16),
                (true, true) => i32::from(raw as i16),
            };
        }
        let valid = match length {
            Some(n) => n.min(count as u64) as usize,
            None => value[..count].iter().position(|&v| v == 0).unwrap_or(count),
        };
        Elements { value, valid }
    }
}

/// Compares operands `a` (the first, in a register) and `b` under the control byte; explicit lengths are magnitudes.
pub fn compare(a: [u64; 2], b: [u64; 2], imm: u8, lengths: Option<(u64, u64)>) -> Comparison {
    let count = if imm & 1 != 0 { 8 } else { 16 };
    let a = Elements::new(a, imm, lengths.map(|l| l.0));
    let b = Elements::new(b, imm, lengths.map(|l| l.1));
    let aggregate = |j: usize| match imm >> 2 & 3 {
        0 => j < b.valid && a.value[..a.valid].contains(&b.value[j]),
        1 => {
            j < b.valid
                && a.value[..a.valid].chunks_exact(2).any(|r| r[0] <= b.value[j] && b.value[j] <= r[1])
        }
        2 => match (j < a.valid, j < b.valid) {
            (true, true) => a.value[j] == b.value[j],
            (x, y) => x == y,
        },
        _ => (0..(count - j).min(a.valid)).all(|i| i + j < b.valid && a.value[i] == b.value[i + j]),
    };
    let mut result = 0u32;
    for j in 0..count {
        let negate = match imm >> 4 & 3 {
            1 => true,
            3 => j < b.valid,
            _ => false,
        };
        result |= u32::from(aggregate(j) != negate) << j;
    }
    let index = match (result, imm & 0x40 != 0) {
        (0, _) => count as u32,
        (r, true) => 31 - r.leading_zeros(),
        (r, false) => r.trailing_zeros(),
    };
    let set = |c: bool, f: u64| if c { f } else { 0 };
    Comparison {
        index,
        mask: mask(result, count, imm & 0x40 != 0),
        flags: set(result != 0, flags::CF)
            | set(b.valid < count, flags::ZF)
            | set(a.valid < count, flags::SF)
            | set(result & 1 != 0, flags::OF),
    }
}

fn mask(result: u32, count: usize, expanded: bool) -> [u64; 2] {
    if !expanded {
        return [u64::from(result), 0];
    }
    let bits = 128 / count;
    let mut mask = [0; 2];
    for j in (0..count).filter(|j| result >> j & 1 != 0) {
        mask[j * bits / 64] |= ((1u64 << bits) - 1) << (j * bits % 64);
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(s: &[u8]) -> [u64; 2] {
        let mut b = [0; 16];
        b[..s.len()].copy_from_slice(s);
        [u64::from_le_bytes(b[..8].try_into().unwrap()), u64::from_le_bytes(b[8..].try_into().unwrap())]
    }

    #[test]
    fn equal_any_finds_the_first_of_a_set() {
        let c = compare(text(b"xyz"), text(b"hello, zebra"), 0, None);
        assert_eq!(c.index, 7);
        assert_eq!(c.flags, flags::CF | flags::ZF | flags::SF);
    }

    #[test]
    fn equal_ordered_finds_a_substring_at_the_end() {
        let c = compare(text(b"lo"), text(b"0123456789abchel"), 0b1100, None);
        assert_eq!(c.index, 15, "a match that may go on beyond the operand counts");
        let c = compare(text(b"el"), text(b"0123456789abchel"), 0b1100, None);
        assert_eq!(c.index, 14);
    }

    #[test]
    fn ranges_and_the_last_match() {
        let c = compare(text(b"az"), text(b"AbCdE"), 0b0100_0100, Some((2, 5)));
        assert_eq!((c.index, c.mask), (3, [0xff00_ff00, 0]));
    }

    #[test]
    fn equal_each_negated_finds_the_first_difference() {
        let c = compare(text(b"same"), text(b"sane"), 0b0001_1000, None);
        assert_eq!(c.index, 2);
        let c = compare(text(b"same"), text(b"same"), 0b0001_1000, None);
        assert_eq!(c.index, 16);
        assert_eq!(c.flags & flags::CF, 0);
    }
}

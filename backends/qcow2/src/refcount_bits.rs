//! Refcounts as they lie in refcount blocks: 1 to 64 bits wide.
//!
//! Source: the qcow2 specification, "Refcount block entry": widths below a byte count from the least significant bit,
//! wider ones are big-endian.

/// The refcount at an index. `order`: the width is `1 << order` bits.
pub fn get(bytes: &[u8], order: u32, index: usize) -> u64 {
    match order {
        0..=2 => {
            let width = 1 << order;
            let bit = index * width;
            u64::from(bytes[bit / 8] >> (bit % 8)) & ((1 << width) - 1)
        }
        3 => u64::from(bytes[index]),
        4 => u64::from(u16::from_be_bytes([bytes[2 * index], bytes[2 * index + 1]])),
        5 => u64::from(u32::from_be_bytes(bytes[4 * index..4 * index + 4].try_into().expect("four bytes"))),
        _ => u64::from_be_bytes(bytes[8 * index..8 * index + 8].try_into().expect("eight bytes")),
    }
}

/// Sets the refcount at an index; it must fit the width.
pub fn set(bytes: &mut [u8], order: u32, index: usize, value: u64) {
    match order {
        0..=2 => {
            let width = 1 << order;
            let bit = index * width;
            let mask = ((1u16 << width) - 1) as u8;
            let byte = &mut bytes[bit / 8];
            *byte = (*byte & !(mask << (bit % 8))) | ((value as u8 & mask) << (bit % 8));
        }
        3 => bytes[index] = value as u8,
        4 => bytes[2 * index..2 * index + 2].copy_from_slice(&(value as u16).to_be_bytes()),
        5 => bytes[4 * index..4 * index + 4].copy_from_slice(&(value as u32).to_be_bytes()),
        _ => bytes[8 * index..8 * index + 8].copy_from_slice(&value.to_be_bytes()),
    }
}

/// The bytes that hold the refcounts of a range of indices.
pub fn bytes_of(order: u32, indices: std::ops::Range<usize>) -> std::ops::Range<usize> {
    (indices.start << order) / 8..(indices.end << order).div_ceil(8)
}

/// The first index of the range, from `from` on, whose refcount is 0.
pub fn find_free(bytes: &[u8], order: u32, from: usize, end: usize) -> Option<usize> {
    let mut at = from;
    // Whole words first: used clusters come in long runs.
    let per_word = 64usize >> order;
    while at < end {
        if at.is_multiple_of(per_word) && at + per_word <= end {
            let start = (at << order) / 8;
            let word = u64::from_le_bytes(bytes[start..start + 8].try_into().expect("eight bytes"));
            if !may_have_zero(word, order) {
                at += per_word;
                continue;
            }
        }
        if get(bytes, order, at) == 0 {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// Whether any refcount in a word of them may be 0: never wrong about "no".
fn may_have_zero(word: u64, order: u32) -> bool {
    match order {
        0 => word != u64::MAX,
        3 => has_zero_lane(word, 0x0101_0101_0101_0101),
        4 => has_zero_lane(word, 0x0001_0001_0001_0001),
        5 => has_zero_lane(word, 0x0000_0001_0000_0001),
        6 => word == 0,
        _ => true,
    }
}

/// The carry trick: a lane that is 0 borrows into its top bit.
fn has_zero_lane(word: u64, ones: u64) -> bool {
    let width = 64 / ones.count_ones();
    word.wrapping_sub(ones) & !word & (ones << (width - 1)) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_width_keeps_its_neighbours() {
        for order in 0..=6 {
            let max = if order == 6 { u64::MAX } else { (1 << (1u32 << order)) - 1 };
            let count = (512 * 8) >> order;
            let mut bytes = vec![0xff; 512];
            for index in [0, 1, count / 2, count - 1] {
                set(&mut bytes, order, index, 0);
                assert_eq!(get(&bytes, order, index), 0);
                assert_eq!(find_free(&bytes, order, 0, count), Some(index), "order {order}");
                set(&mut bytes, order, index, max);
                assert!(bytes.iter().all(|&b| b == 0xff), "order {order}");
            }
            assert_eq!(find_free(&bytes, order, 0, count), None);
        }
    }

    #[test]
    fn narrow_refcounts_count_from_the_low_bit() {
        let mut bytes = vec![0; 8];
        set(&mut bytes, 1, 5, 2);
        assert_eq!(bytes[1], 0b1000);
        assert_eq!(bytes_of(1, 4..6), 1..2);
        assert_eq!(bytes_of(0, 7..9), 0..2);
    }
}

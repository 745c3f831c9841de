//! Dirty bitmaps: which parts of a disk were written since some moment.

use crate::{BlockError, Result};

/// A bit for each `granularity` bytes of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirtyBitmap {
    name: String,
    granularity: u64,
    length: u64,
    words: Vec<u64>,
    /// Writes are recorded.
    pub enabled: bool,
    /// Was not saved properly; its bits mean nothing.
    pub inconsistent: bool,
    /// Saved with the image.
    pub persistent: bool,
}

impl DirtyBitmap {
    /// The bitmap is bounded: a disk and a granularity that would need more bits than this are refused.
    pub const MAX_BITS: u64 = 1 << 32;

    /// A clean bitmap of a disk of `length` bytes. The granularity is a power of two of at least 512.
    pub fn new(name: &str, granularity: u64, length: u64) -> Result<Self> {
        if !granularity.is_power_of_two() || granularity < 512 {
            return Err(BlockError::invalid(format!(
                "bitmap '{name}': the granularity must be a power of two of at least 512"
            )));
        }
        let bits = length.div_ceil(granularity);
        if bits > Self::MAX_BITS {
            return Err(BlockError::new(libc::EFBIG, format!("bitmap '{name}' would be too large")));
        }
        let words = vec![0; bits.div_ceil(64) as usize];
        Ok(Self {
            name: name.into(),
            granularity,
            length,
            words,
            enabled: true,
            inconsistent: false,
            persistent: false,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives it another name.
    pub fn set_name(&mut self, name: &str) {
        self.name = name.into();
    }

    /// Bytes of the disk a bit stands for.
    pub fn granularity(&self) -> u64 {
        self.granularity
    }

    /// Bytes of the disk.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bits in all.
    pub fn bits(&self) -> u64 {
        self.length.div_ceil(self.granularity)
    }

    /// The bits, 64 in a word, the lowest first.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The bits, to be changed whole; bits beyond the disk's end must stay 0.
    pub fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }

    /// Marks every part that a range of bytes touches.
    pub fn set(&mut self, offset: u64, len: u64) {
        self.apply(offset, len, true);
    }

    /// Unmarks every part that a range of bytes touches.
    pub fn reset(&mut self, offset: u64, len: u64) {
        self.apply(offset, len, false);
    }

    /// Unmarks everything.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    fn apply(&mut self, offset: u64, len: u64, set: bool) {
        let end = offset.saturating_add(len).min(self.length);
        if offset >= end {
            return;
        }
        let (first, last) = (offset / self.granularity, (end - 1) / self.granularity);
        for word in first / 64..=last / 64 {
            let low = first.max(word * 64) % 64;
            let high = last.min(word * 64 + 63) % 64;
            let mask = (u64::MAX >> (63 - high)) & (u64::MAX << low);
            let slot = &mut self.words[word as usize];
            *slot = if set { *slot | mask } else { *slot & !mask };
        }
    }

    /// Whether the byte at `offset` is marked.
    pub fn get(&self, offset: u64) -> bool {
        let bit = offset / self.granularity;
        self.words.get((bit / 64) as usize).is_some_and(|w| w >> (bit % 64) & 1 == 1)
    }

    /// Bytes marked, counted in whole parts (the last may reach beyond the disk's end).
    pub fn count(&self) -> u64 {
        self.words.iter().map(|w| u64::from(w.count_ones())).sum::<u64>() * self.granularity
    }

    /// The first marked range at or after `offset`: its start and length, within the disk.
    pub fn next_dirty(&self, offset: u64) -> Option<(u64, u64)> {
        let start = self.find(offset / self.granularity, true)?;
        let end = self.find(start, false).unwrap_or(self.bits());
        let from = (start * self.granularity).max(offset);
        Some((from, (end * self.granularity).min(self.length) - from))
    }

    /// The first bit at or after `bit` that is as asked.
    fn find(&self, bit: u64, set: bool) -> Option<u64> {
        let bits = self.bits();
        if bit >= bits {
            return None;
        }
        let flip = if set { 0 } else { u64::MAX };
        let mut word = bit / 64;
        let mut value = (self.words[word as usize] ^ flip) & (u64::MAX << (bit % 64));
        while value == 0 {
            word += 1;
            value = *self.words.get(word as usize)? ^ flip;
        }
        let found = word * 64 + u64::from(value.trailing_zeros());
        (found < bits).then_some(found)
    }

    /// Adds another bitmap's marks; the granularities may differ.
    pub fn merge(&mut self, other: &Self) {
        if self.granularity == other.granularity && self.length == other.length {
            self.words.iter_mut().zip(&other.words).for_each(|(a, b)| *a |= b);
            return;
        }
        let mut at = 0;
        while let Some((offset, len)) = other.next_dirty(at) {
            self.set(offset, len);
            at = offset + len;
        }
    }

    /// Follows a change of the disk's length; new parts are clean.
    pub fn resize(&mut self, length: u64) {
        self.length = length;
        let bits = self.bits();
        self.words.resize(bits.div_ceil(64) as usize, 0);
        if !bits.is_multiple_of(64)
            && let Some(last) = self.words.last_mut()
        {
            *last &= u64::MAX >> (64 - bits % 64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_mark_every_part_they_touch() {
        let mut b = DirtyBitmap::new("b", 512, 512 * 200 + 1).unwrap();
        b.set(511, 2);
        b.set(512 * 63, 512 * 70);
        b.set(512 * 200, 1 << 40);
        assert_eq!(b.next_dirty(0), Some((0, 1024)));
        assert_eq!(b.next_dirty(1024), Some((512 * 63, 512 * 70)));
        assert_eq!(b.next_dirty(512 * 133), Some((512 * 200, 1)));
        assert_eq!(b.count(), 512 * 73);
        b.reset(512 * 64, 512 * 64);
        assert_eq!(b.next_dirty(512 * 64), Some((512 * 128, 512 * 5)));
        b.resize(512);
        assert_eq!((b.count(), b.get(0), b.get(512)), (512, true, false));
    }

    #[test]
    fn merging_keeps_every_mark() {
        let mut fine = DirtyBitmap::new("f", 512, 1 << 20).unwrap();
        fine.set(70_000, 1);
        let mut coarse = DirtyBitmap::new("c", 65536, 1 << 20).unwrap();
        coarse.merge(&fine);
        assert_eq!(coarse.next_dirty(0), Some((65536, 65536)));
        fine.merge(&coarse);
        assert_eq!(fine.count(), 65536);
    }
}

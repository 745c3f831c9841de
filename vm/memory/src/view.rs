//! The flat view: what a graph of regions comes to for one address space.

use crate::block::RamBlock;
use crate::bus::{self, MmioHandler};
use std::sync::Arc;

/// A device region as one flat range reaches it.
#[derive(Clone, Debug)]
pub struct MmioTarget {
    /// Registers.
    pub handler: Arc<dyn MmioHandler>,
    /// Offset within the region of the flat range's first byte.
    pub offset: u64,
    /// Size of the region in bytes. An access that starts in a range goes to its region as a whole if it fits
    /// the region, even where the range ends sooner: a device decodes its start address only.
    pub region_size: u64,
}

/// What answers in a flat range.
#[derive(Clone, Debug)]
pub enum Target {
    /// Memory that may be read (and executed) directly at `offset` in `block`.
    Ram {
        /// Host memory.
        block: Arc<RamBlock>,
        /// Offset in the block of the flat range's first byte.
        offset: u64,
        /// Writes go straight to the memory. If not, send them through [`crate::AddressSpace::write`]: ROM
        /// drops them, a ROM device's handler takes them.
        writable: bool,
        /// ROM device: takes the writes.
        on_write: Option<MmioTarget>,
    },
    /// Device registers.
    Mmio(MmioTarget),
}

/// A range of addresses with one target.
#[derive(Clone, Debug)]
pub struct FlatRange {
    /// First address.
    pub start: u64,
    /// Length in bytes, never zero.
    pub len: u64,
    /// What answers.
    pub target: Target,
}

impl MmioTarget {
    fn same(&self, other: &Self, distance: u64) -> bool {
        Arc::ptr_eq(&self.handler, &other.handler)
            && self.region_size == other.region_size
            && self.offset.wrapping_add(distance) == other.offset
    }

    /// Reads `size` bytes, `delta` bytes into the flat range; `None` if the access leaves the region.
    pub(crate) fn read(&self, delta: u64, size: usize) -> Option<u64> {
        let offset = self.fit(delta, size)?;
        Some(bus::read(&*self.handler, offset, size))
    }

    /// Writes `size` bytes, `delta` bytes into the flat range; `None` if the access leaves the region.
    pub(crate) fn write(&self, delta: u64, size: usize, value: u64) -> Option<()> {
        let offset = self.fit(delta, size)?;
        bus::write(&*self.handler, offset, size, value);
        Some(())
    }

    fn fit(&self, delta: u64, size: usize) -> Option<u64> {
        let offset = self.offset.wrapping_add(delta);
        let end = offset.checked_add(size as u64)?;
        (end <= self.region_size).then_some(offset)
    }
}

impl Target {
    /// True when `other` is this target `distance` bytes further on.
    fn continues(&self, other: &Self, distance: u64) -> bool {
        match (self, other) {
            (
                Self::Ram { block: a, offset: x, writable: v, on_write: h },
                Self::Ram { block: b, offset: y, writable: w, on_write: i },
            ) => {
                let handlers = match (h, i) {
                    (None, None) => true,
                    (Some(h), Some(i)) => h.same(i, distance),
                    _ => false,
                };
                Arc::ptr_eq(a, b) && v == w && handlers && x.wrapping_add(distance) == *y
            }
            (Self::Mmio(a), Self::Mmio(b)) => a.same(b, distance),
            _ => false,
        }
    }
}

impl FlatRange {
    /// Address of the last byte.
    pub fn last(&self) -> u64 {
        self.start + (self.len - 1)
    }
}

/// An immutable map of one address space: sorted ranges that do not overlap.
#[derive(Clone, Debug, Default)]
pub struct FlatView {
    ranges: Vec<FlatRange>,
}

impl FlatView {
    /// Makes a view of ranges that are sorted and do not overlap; adjacent ranges that continue each other
    /// become one.
    pub(crate) fn new(sorted: Vec<FlatRange>) -> Self {
        let mut ranges: Vec<FlatRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            if let Some(prev) = ranges.last_mut() {
                debug_assert!(prev.last() < range.start);
                if prev.last() + 1 == range.start && prev.target.continues(&range.target, prev.len) {
                    prev.len += range.len;
                    continue;
                }
            }
            ranges.push(range);
        }
        Self { ranges }
    }

    /// The range that holds `addr`, if anything answers there.
    pub fn lookup(&self, addr: u64) -> Option<&FlatRange> {
        let after = self.ranges.partition_point(|range| range.start <= addr);
        let range = self.ranges.get(after.checked_sub(1)?)?;
        (addr <= range.last()).then_some(range)
    }

    /// First address above `addr` at which a range starts.
    pub(crate) fn next_start(&self, addr: u64) -> Option<u64> {
        let after = self.ranges.partition_point(|range| range.start <= addr);
        self.ranges.get(after).map(|range| range.start)
    }

    /// All ranges in address order.
    pub fn ranges(&self) -> &[FlatRange] {
        &self.ranges
    }

    /// True when both views send every address to the same place.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.ranges.len() == other.ranges.len()
            && self
                .ranges
                .iter()
                .zip(&other.ranges)
                .all(|(a, b)| a.start == b.start && a.len == b.len && a.target.continues(&b.target, 0))
    }
}

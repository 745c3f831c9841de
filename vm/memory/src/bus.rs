//! How an access reaches a device: the bus fits its size and alignment to what the device declares.

use std::fmt;

/// Access sizes a device decodes. The bus turns other accesses into these.
///
/// An access wider than `max` is split into several; one narrower than `min` is widened: a read reads the
/// whole unit and takes its bytes, a write writes the unit with the other bytes zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessSizes {
    /// Narrowest access in bytes (1, 2, 4 or 8).
    pub min: u8,
    /// Widest access in bytes (1, 2, 4 or 8), at least `min`.
    pub max: u8,
}

impl AccessSizes {
    /// Any size from one to eight bytes.
    pub const ANY: Self = Self { min: 1, max: 8 };
    /// Single bytes: an ISA device with byte registers.
    pub const BYTE: Self = Self { min: 1, max: 1 };
    /// Aligned 32-bit registers only.
    pub const DWORD: Self = Self { min: 4, max: 4 };
}

impl Default for AccessSizes {
    fn default() -> Self {
        Self::ANY
    }
}

/// A device's registers as the bus sees them.
///
/// Offsets are relative to the region. The bus calls with a size of 1, 2, 4 or 8 within
/// [`MmioHandler::access_sizes`], and an offset that is a multiple of the size. Reads are little-endian in the
/// low bytes of the result. Handlers run on any thread and must not panic whatever the guest does.
pub trait MmioHandler: Send + Sync {
    /// Reads `size` bytes at `offset`.
    fn read(&self, offset: u64, size: usize) -> u64;
    /// Writes the low `size` bytes of `value` at `offset`.
    fn write(&self, offset: u64, size: usize, value: u64);
    /// Sizes this handler decodes.
    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::ANY
    }
}

impl fmt::Debug for dyn MmioHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MmioHandler")
    }
}

/// All ones in the low `size` bytes: what a read nobody answers gives.
pub(crate) fn all_ones(size: usize) -> u64 {
    if size >= 8 { u64::MAX } else { (1 << (8 * size)) - 1 }
}

/// The widest unit the access may use at `offset`: a power of two, no wider than what is left, aligned, and
/// within what the device decodes. Below the device's minimum the unit is that minimum, aligned down.
fn unit(sizes: AccessSizes, offset: u64, left: usize) -> usize {
    let mut unit = usize::from(sizes.max.clamp(1, 8));
    while unit > 1 && (unit > left || !offset.is_multiple_of(unit as u64)) {
        unit /= 2;
    }
    unit.max(usize::from(sizes.min.clamp(1, 8)))
}

/// Reads `size` (1 to 8) bytes through `handler`, split or widened to the sizes it decodes.
pub(crate) fn read(handler: &dyn MmioHandler, offset: u64, size: usize) -> u64 {
    let sizes = handler.access_sizes();
    let (mut value, mut done) = (0u64, 0usize);
    while done < size {
        let at = offset.wrapping_add(done as u64);
        let unit = unit(sizes, at, size - done);
        let skip = (at % unit as u64) as usize;
        let take = (unit - skip).min(size - done);
        let data = handler.read(at - skip as u64, unit) >> (8 * skip);
        value |= (data & all_ones(take)) << (8 * done);
        done += take;
    }
    value
}

/// Writes the low `size` (1 to 8) bytes of `value` through `handler`, split or widened.
pub(crate) fn write(handler: &dyn MmioHandler, offset: u64, size: usize, value: u64) {
    let sizes = handler.access_sizes();
    let mut done = 0usize;
    while done < size {
        let at = offset.wrapping_add(done as u64);
        let unit = unit(sizes, at, size - done);
        let skip = (at % unit as u64) as usize;
        let take = (unit - skip).min(size - done);
        let data = (value >> (8 * done)) & all_ones(take);
        handler.write(at - skip as u64, unit, data << (8 * skip));
        done += take;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use parking_lot::Mutex;

    /// Sixteen bytes that log every access.
    pub(crate) struct Probe {
        pub sizes: AccessSizes,
        pub log: Mutex<Vec<(char, u64, usize, u64)>>,
    }

    impl Probe {
        pub(crate) fn new(min: u8, max: u8) -> Self {
            Self { sizes: AccessSizes { min, max }, log: Mutex::default() }
        }
    }

    impl MmioHandler for Probe {
        fn read(&self, offset: u64, size: usize) -> u64 {
            let value = (0..size as u64).rev().fold(0, |v, i| v << 8 | (0x10 + offset + i) & 0xff);
            self.log.lock().push(('r', offset, size, value));
            value
        }
        fn write(&self, offset: u64, size: usize, value: u64) {
            self.log.lock().push(('w', offset, size, value));
        }
        fn access_sizes(&self) -> AccessSizes {
            self.sizes
        }
    }

    #[test]
    fn wide_access_is_split_low_part_first() {
        let probe = Probe::new(1, 2);
        assert_eq!(read(&probe, 4, 4), 0x1716_1514);
        write(&probe, 4, 4, 0xaabb_ccdd);
        let log = probe.log.lock();
        assert_eq!(log[0], ('r', 4, 2, 0x1514));
        assert_eq!(log[2..], [('w', 4, 2, 0xccdd), ('w', 6, 2, 0xaabb)]);
    }

    #[test]
    fn narrow_access_is_widened() {
        let probe = Probe::new(4, 4);
        assert_eq!(read(&probe, 5, 2), 0x1615);
        write(&probe, 5, 1, 0xee);
        let log = probe.log.lock();
        assert_eq!(log[0], ('r', 4, 4, 0x1716_1514));
        assert_eq!(log[1], ('w', 4, 4, 0xee00));
    }

    #[test]
    fn unaligned_access_is_taken_apart() {
        let probe = Probe::new(1, 8);
        assert_eq!(read(&probe, 3, 4), 0x1615_1413);
        let sizes: Vec<usize> = probe.log.lock().iter().map(|entry| entry.2).collect();
        assert_eq!(sizes, [1, 2, 1]);
    }
}

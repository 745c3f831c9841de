//! Host memory behind guest RAM.
//!
//! vCPUs, devices and the loader touch guest RAM at the same time, so every access here is a relaxed atomic
//! access of at most eight bytes (aligned accesses are single-copy atomic, as the guest's processor promises)
//! and no Rust reference to the bytes is ever made.

use rhea_host::mapping::AnonymousMapping;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Granule of the page flags, in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// Page flag: the translator holds code translated from this page; writes must be reported to it.
pub const PAGE_HAS_CODE: u8 = 1;

/// A block of guest RAM (or ROM contents): zero-filled host memory with a flag byte for each 4 KiB page.
#[derive(Debug)]
pub struct RamBlock {
    name: String,
    size: u64,
    memory: AnonymousMapping,
    flags: AnonymousMapping,
}

impl RamBlock {
    /// Reserves `size` bytes (rounded up to whole pages; at least one). Memory is committed when touched.
    ///
    /// # Errors
    /// The host refuses the mapping (out of address space or over a limit), or the size does not fit it.
    pub fn new(name: impl Into<String>, size: u64) -> io::Result<Self> {
        let size = size.max(1).checked_next_multiple_of(PAGE_SIZE);
        let bytes = size.and_then(|s| isize::try_from(s).ok()).map(|s| s as usize);
        let Some(bytes) = bytes else { return Err(io::Error::from(io::ErrorKind::OutOfMemory)) };
        let memory = AnonymousMapping::new(bytes)?;
        if bytes >= 2 << 20 {
            memory.advise_huge_pages();
        }
        let flags = AnonymousMapping::new(bytes / PAGE_SIZE as usize)?;
        Ok(Self { name: name.into(), size: bytes as u64, memory, flags })
    }

    /// Name given at creation, for maps and messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Size in bytes, a multiple of [`PAGE_SIZE`].
    pub fn size(&self) -> u64 {
        self.size
    }

    /// First byte in host memory. Valid for [`RamBlock::size`] bytes while the block lives; other threads
    /// read and write it at any time.
    pub fn host_ptr(&self) -> *mut u8 {
        self.memory.as_ptr()
    }

    /// Flag byte of page `page_index` (offset / 4096).
    ///
    /// # Panics
    /// If the page lies outside the block: callers take the index from a range of a flat view.
    pub fn page_flags(&self, page_index: u64) -> &AtomicU8 {
        assert!(page_index < self.size / PAGE_SIZE, "page outside RAM block");
        // SAFETY: the flag mapping holds size / PAGE_SIZE bytes, lives as long as self, and is only ever
        // accessed as AtomicU8 (which any byte pattern is valid for).
        unsafe { AtomicU8::from_ptr(self.flags.as_ptr().add(page_index as usize)) }
    }

    /// First page flag byte in host memory; one byte per page, accessed atomically.
    pub fn page_flags_ptr(&self) -> *mut u8 {
        self.flags.as_ptr()
    }

    /// True when any page in `offset..offset + len` has a bit of `flag` set.
    pub fn any_page_flag(&self, offset: u64, len: u64, flag: u8) -> bool {
        if len == 0 {
            return false;
        }
        let last = (offset.saturating_add(len - 1)).min(self.size - 1) / PAGE_SIZE;
        (offset / PAGE_SIZE..=last).any(|page| self.page_flags(page).load(Relaxed) & flag != 0)
    }

    fn at(&self, offset: u64, len: usize) -> *mut u8 {
        let end = offset.checked_add(len as u64);
        assert!(end.is_some_and(|end| end <= self.size), "access outside RAM block {}", self.name);
        // SAFETY: offset is inside the mapping, as asserted.
        unsafe { self.memory.as_ptr().add(offset as usize) }
    }

    /// Reads `size` (1 to 8) bytes, little-endian. Aligned power-of-two sizes are single-copy atomic.
    ///
    /// # Panics
    /// If the bytes do not lie inside the block (also for the accessors below): ranges are checked by callers.
    pub fn read(&self, offset: u64, size: usize) -> u64 {
        let p = self.at(offset, size);
        let aligned = offset.is_multiple_of(size as u64);
        // SAFETY: `at` checked that size bytes from p are inside the live mapping; the mapping is page
        // aligned, so an offset multiple of the size is aligned for the atomic type; guest RAM is only
        // accessed atomically or by translated code outside the Rust memory model.
        unsafe {
            match size {
                1 => u64::from(AtomicU8::from_ptr(p).load(Relaxed)),
                2 if aligned => u64::from(u16::from_le(AtomicU16::from_ptr(p.cast()).load(Relaxed))),
                4 if aligned => u64::from(u32::from_le(AtomicU32::from_ptr(p.cast()).load(Relaxed))),
                8 if aligned => u64::from_le(AtomicU64::from_ptr(p.cast()).load(Relaxed)),
                _ => (0..size.min(8))
                    .rev()
                    .fold(0, |value, i| value << 8 | u64::from(AtomicU8::from_ptr(p.add(i)).load(Relaxed))),
            }
        }
    }

    /// Writes the low `size` (1 to 8) bytes of `value`, little-endian.
    pub fn write(&self, offset: u64, size: usize, value: u64) {
        let p = self.at(offset, size);
        let aligned = offset.is_multiple_of(size as u64);
        // SAFETY: as in `read`.
        unsafe {
            match size {
                1 => AtomicU8::from_ptr(p).store(value as u8, Relaxed),
                2 if aligned => AtomicU16::from_ptr(p.cast()).store((value as u16).to_le(), Relaxed),
                4 if aligned => AtomicU32::from_ptr(p.cast()).store((value as u32).to_le(), Relaxed),
                8 if aligned => AtomicU64::from_ptr(p.cast()).store(value.to_le(), Relaxed),
                _ => {
                    for i in 0..size.min(8) {
                        AtomicU8::from_ptr(p.add(i)).store((value >> (8 * i)) as u8, Relaxed);
                    }
                }
            }
        }
    }

    /// Copies guest bytes out, in relaxed atomic accesses of eight bytes where alignment allows.
    pub fn read_bytes(&self, offset: u64, out: &mut [u8]) {
        self.at(offset, out.len());
        let (head, rest) = out.split_at_mut(head_len(offset, out.len()));
        let mut at = offset;
        for byte in head {
            *byte = self.read(at, 1) as u8;
            at += 1;
        }
        let mut words = rest.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.read(at, 8).to_le_bytes());
            at += 8;
        }
        for byte in words.into_remainder() {
            *byte = self.read(at, 1) as u8;
            at += 1;
        }
    }

    /// Copies bytes into guest memory, in relaxed atomic accesses of eight bytes where alignment allows.
    /// Page flags are the caller's business ([`crate::AddressSpace::write_bytes`] honours them).
    pub fn write_bytes(&self, offset: u64, data: &[u8]) {
        self.at(offset, data.len());
        let (head, rest) = data.split_at(head_len(offset, data.len()));
        let mut at = offset;
        for byte in head {
            self.write(at, 1, u64::from(*byte));
            at += 1;
        }
        let mut words = rest.chunks_exact(8);
        for word in &mut words {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            self.write(at, 8, u64::from_le_bytes(bytes));
            at += 8;
        }
        for byte in words.remainder() {
            self.write(at, 1, u64::from(*byte));
            at += 1;
        }
    }
}

/// Bytes before the first eight-byte boundary at or after `offset`, at most `len`.
fn head_len(offset: u64, len: usize) -> usize {
    ((8 - offset % 8) as usize % 8).min(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_of_every_size_and_alignment_agree_with_bytes() {
        let block = RamBlock::new("ram", 4096).unwrap();
        let data: Vec<u8> = (0..64).map(|i| (i * 7 + 3) as u8).collect();
        block.write_bytes(5, &data);
        for size in 1..=8 {
            for at in 5..40u64 {
                let mut bytes = [0; 8];
                block.read_bytes(at, &mut bytes[..size]);
                assert_eq!(&bytes[..size], &data[at as usize - 5..][..size]);
                assert_eq!(block.read(at, size), u64::from_le_bytes(bytes));
            }
        }
        block.write(0x101, 4, 0x1122_3344_5566);
        assert_eq!(block.read(0x100, 8), 0x0033_4455_6600);
    }

    #[test]
    fn page_flags_are_found_by_range() {
        let block = RamBlock::new("ram", 16384).unwrap();
        block.page_flags(2).store(PAGE_HAS_CODE, Relaxed);
        assert!(!block.any_page_flag(0, 8192, PAGE_HAS_CODE));
        assert!(block.any_page_flag(8191, 2, PAGE_HAS_CODE));
        assert!(!block.any_page_flag(8191, 0, PAGE_HAS_CODE));
    }

    #[test]
    #[should_panic(expected = "outside RAM block")]
    fn an_access_past_the_end_is_an_internal_error() {
        RamBlock::new("ram", 4096).unwrap().read(4093, 4);
    }
}

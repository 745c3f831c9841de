//! A virtio-mmio transport with no device behind it.
//!
//! Source: Virtual I/O Device specification 1.2, section 4.2.2: a device ID of zero is a placeholder that drivers pass over.

use rhea_memory::{AccessSizes, MmioHandler};

const MAGIC: u64 = u32::from_le_bytes(*b"virt") as u64;
const VERSION: u64 = 2;

/// The registers of an empty transport.
pub(crate) struct EmptySlot;

impl MmioHandler for EmptySlot {
    fn read(&self, offset: u64, _: usize) -> u64 {
        match offset {
            0 => MAGIC,
            4 => VERSION,
            _ => 0,
        }
    }

    fn write(&self, _: u64, _: usize, _: u64) {}

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::DWORD
    }
}

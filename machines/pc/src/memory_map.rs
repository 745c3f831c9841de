//! Where things lie in a PC's physical address space.

use crate::config::PcKind;
use rhea_loader::{MemoryEntry, MemoryType};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// End of conventional memory; the last KiB of it is the extended BIOS data area.
pub const CONVENTIONAL_END: u64 = 640 * KIB;
pub const EBDA: u64 = CONVENTIONAL_END - KIB;
/// Legacy video memory, 128 KiB.
pub const VIDEO: u64 = 0xa_0000;
pub const VIDEO_SIZE: u64 = 128 * KIB;
/// The last 128 KiB of the ROM as seen below 1 MiB.
pub const LOW_ROM: u64 = 0xe_0000;
pub const LOW_ROM_SIZE: u64 = 128 * KIB;

/// PCI Express configuration space: 256 buses.
pub const ECAM: u64 = 0xb000_0000;
pub const ECAM_SIZE: u64 = 256 * MIB;
/// Window for PCI memory below 4 GiB.
pub const PCI_MMIO: u64 = 0xc000_0000;
pub const PCI_MMIO_END: u64 = 0xfec0_0000;
/// Virtio devices in memory, on the board without PCI: slots of 512 bytes, where QEMU's are.
pub const VIRTIO_MMIO: u64 = 0xfeb0_0000;
/// Slots there.
pub const VIRTIO_MMIO_SLOTS: usize = 8;
pub const IOAPIC: u64 = 0xfec0_0000;
pub const HPET: u64 = 0xfed0_0000;
/// Message-signalled interrupts, and in a processor's own view its local APIC.
pub const MSI: u64 = 0xfee0_0000;
pub const MSI_SIZE: u64 = MIB;
/// Largest ROM image.
pub const ROM_MAX: u64 = 16 * MIB;

/// RAM at the end of low memory that holds what ACPI keeps in RAM (the FACS).
pub const ACPI_NVS_SIZE: u64 = 64 * KIB;

/// Least and most RAM.
pub const RAM_LEAST: u64 = MIB;
pub const RAM_MOST: u64 = 512 * GIB;

/// How guest RAM is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamSplit {
    /// Bytes from address 0 on.
    pub low: u64,
    /// Bytes from 4 GiB on.
    pub high: u64,
}

impl RamSplit {
    /// Splits `size` bytes around the hole below 4 GiB.
    pub fn new(kind: PcKind, size: u64) -> Self {
        let hole = match kind {
            PcKind::Q35 => ECAM,
            PcKind::Microvm => 0xc000_0000,
        };
        let low = size.min(hole);
        Self { low, high: size - low }
    }

    /// End of the low RAM that a kernel and its files may use.
    pub fn usable_low(&self) -> u64 {
        self.low.saturating_sub(ACPI_NVS_SIZE)
    }

    /// The map a kernel is given.
    pub fn memory_map(&self, kind: PcKind) -> Vec<MemoryEntry> {
        let mut map = Vec::new();
        let mut add = |start: u64, end: u64, kind: MemoryType| {
            if end > start {
                map.push(MemoryEntry { start, len: end - start, kind });
            }
        };
        add(0, EBDA, MemoryType::Ram);
        add(EBDA, CONVENTIONAL_END, MemoryType::Reserved);
        add(LOW_ROM, MIB, MemoryType::Reserved);
        add(MIB, self.usable_low(), MemoryType::Ram);
        add(self.usable_low().max(MIB), self.low, MemoryType::AcpiNvs);
        if kind == PcKind::Q35 {
            add(ECAM, ECAM + ECAM_SIZE, MemoryType::Reserved);
        }
        add(4 * GIB - LOW_ROM_SIZE, 4 * GIB, MemoryType::Reserved);
        add(4 * GIB, 4 * GIB + self.high, MemoryType::Ram);
        map
    }
}

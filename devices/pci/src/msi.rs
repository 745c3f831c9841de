//! Message-signalled interrupts: the MSI and MSI-X capabilities (PCI 3.0, sections 6.8.1 and 6.8.2).

use parking_lot::Mutex;
use rhea_device::MsiSink;
use rhea_memory::{AccessSizes, MmioHandler};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// MSI capability registers, offsets from the capability: 64-bit address, per-vector masking.
pub(crate) mod msi_spec {
    pub const SIZE: usize = 24;
    pub const CONTROL: usize = 2;
    pub const ADDRESS: usize = 4;
    pub const DATA: usize = 12;
    pub const MASK: usize = 16;
    pub const PENDING: usize = 20;

    pub const ENABLE: u16 = 1;
    pub const MULTIPLE_ENABLED: u16 = 7 << 4;
    /// 64-bit address and per-vector masking offered.
    pub const CAPABLE: u16 = 1 << 7 | 1 << 8;
}

/// MSI-X capability registers, offsets from the capability.
pub(crate) mod msix_spec {
    pub const SIZE: usize = 12;
    pub const CONTROL: usize = 2;
    pub const TABLE: usize = 4;
    pub const PENDING: usize = 8;

    pub const ENABLE: u16 = 1 << 15;
    pub const FUNCTION_MASK: u16 = 1 << 14;
    /// Most vectors the architecture allows.
    pub const MAX_VECTORS: u16 = 2048;
}

/// Bytes of a table entry.
const ENTRY_SIZE: usize = 16;

#[derive(Clone, Copy)]
struct Entry {
    address: u64,
    data: u32,
    masked: bool,
}

struct Table {
    entries: Vec<Entry>,
    pending: Vec<u64>,
}

/// MSI-X table and pending bits of a function: what its BAR shows.
pub struct MsixTable {
    sink: Arc<dyn MsiSink>,
    enabled: AtomicBool,
    function_masked: AtomicBool,
    table: Mutex<Table>,
}

impl MsixTable {
    /// A table of `vectors` entries (1 to 2048), all masked.
    ///
    /// # Panics
    /// If the number is out of range: devices are built by us.
    pub fn new(vectors: u16, sink: Arc<dyn MsiSink>) -> Arc<Self> {
        assert!((1..=msix_spec::MAX_VECTORS).contains(&vectors));
        let entry = Entry { address: 0, data: 0, masked: true };
        let table = Table {
            entries: vec![entry; vectors.into()],
            pending: vec![0; usize::from(vectors).div_ceil(64)],
        };
        Arc::new(Self {
            sink,
            enabled: AtomicBool::new(false),
            function_masked: AtomicBool::new(false),
            table: Mutex::new(table),
        })
    }

    /// Number of vectors.
    pub fn vectors(&self) -> u16 {
        self.table.lock().entries.len() as u16
    }

    /// Bytes of the table; the pending bits follow at the next multiple of 8.
    pub fn table_size(&self) -> u64 {
        (self.table.lock().entries.len() * ENTRY_SIZE) as u64
    }

    /// Bytes of table and pending bits together.
    pub fn size(&self) -> u64 {
        let table = self.table.lock();
        (table.entries.len() * ENTRY_SIZE + table.pending.len() * 8) as u64
    }

    /// Follows the capability's control register.
    pub(crate) fn set_control(&self, enabled: bool, function_masked: bool) {
        self.enabled.store(enabled, Ordering::Release);
        self.function_masked.store(function_masked, Ordering::Release);
        let mut table = self.table.lock();
        for vector in 0..table.entries.len() {
            self.deliver_pending(&mut table, vector);
        }
    }

    /// True while MSI-X is enabled.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// Signals `vector`: sent now, or kept pending while masked. Vectors beyond the table are dropped.
    pub fn notify(&self, vector: u16) {
        if !self.is_enabled() {
            return;
        }
        let mut table = self.table.lock();
        let index = usize::from(vector);
        if index < table.entries.len() {
            table.pending[index / 64] |= 1 << (index % 64);
            self.deliver_pending(&mut table, index);
        }
    }

    /// Sends a pending vector that nothing masks.
    fn deliver_pending(&self, table: &mut Table, vector: usize) {
        let (word, bit) = (vector / 64, 1 << (vector % 64));
        let open = self.is_enabled() && !self.function_masked.load(Ordering::Acquire);
        let entry = table.entries[vector];
        if open && !entry.masked && table.pending[word] & bit != 0 {
            table.pending[word] &= !bit;
            self.sink.send(entry.address, entry.data);
        }
    }

    /// Returns to the reset state.
    pub fn reset(&self) {
        self.enabled.store(false, Ordering::Release);
        self.function_masked.store(false, Ordering::Release);
        let mut table = self.table.lock();
        table.entries.iter_mut().for_each(|entry| *entry = Entry { address: 0, data: 0, masked: true });
        table.pending.iter_mut().for_each(|word| *word = 0);
    }

    fn read_dword(table: &Table, offset: u64) -> u32 {
        let size = (table.entries.len() * ENTRY_SIZE) as u64;
        if offset >= size {
            let pending = offset - size;
            let word = table.pending.get((pending / 8) as usize).copied().unwrap_or(0);
            return (word >> (8 * (pending % 8))) as u32;
        }
        let entry = &table.entries[(offset / 16) as usize];
        match offset % 16 {
            0 => entry.address as u32,
            4 => (entry.address >> 32) as u32,
            8 => entry.data,
            _ => u32::from(entry.masked),
        }
    }
}

impl MmioHandler for MsixTable {
    fn read(&self, offset: u64, size: usize) -> u64 {
        let table = self.table.lock();
        let low = u64::from(Self::read_dword(&table, offset));
        if size == 8 { low | u64::from(Self::read_dword(&table, offset + 4)) << 32 } else { low }
    }

    fn write(&self, offset: u64, size: usize, value: u64) {
        let mut table = self.table.lock();
        for half in 0..size as u64 / 4 {
            let at = offset + 4 * half;
            let vector = (at / 16) as usize;
            let value = (value >> (32 * half)) as u32;
            // Pending bits are read-only.
            let Some(entry) = table.entries.get_mut(vector) else { return };
            match at % 16 {
                0 => entry.address = entry.address & !0xffff_ffff | u64::from(value & !3),
                4 => entry.address = entry.address & 0xffff_ffff | u64::from(value) << 32,
                8 => entry.data = value,
                _ => {
                    entry.masked = value & 1 != 0;
                    self.deliver_pending(&mut table, vector);
                }
            }
        }
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes { min: 4, max: 8 }
    }
}

rhea_device::saved_record! { "msix-table", 1,
    /// Saved state of an MSI-X table.
    pub struct MsixSavedV1 {
        /// For each vector: address, data, mask bit.
        entries: Vec<MsixEntrySavedV1>,
        /// Pending bits.
        pending: Vec<u64>,
    }
}

rhea_device::saved_record! { "msix-entry", 1,
    /// One table entry.
    pub struct MsixEntrySavedV1 {
        /// Message address.
        address: u64,
        /// Message data.
        data: u32,
        /// Masked.
        masked: bool,
    }
}

impl MsixTable {
    /// State of the table, to stand in the owner's record.
    pub fn saved(&self) -> MsixSavedV1 {
        let table = self.table.lock();
        let entry = |e: &Entry| MsixEntrySavedV1 { address: e.address, data: e.data, masked: e.masked };
        MsixSavedV1 { entries: table.entries.iter().map(entry).collect(), pending: table.pending.clone() }
    }

    /// Takes on a saved state; false if it is of another number of vectors.
    pub fn restore(&self, saved: &MsixSavedV1) -> bool {
        let mut table = self.table.lock();
        if saved.entries.len() != table.entries.len() || saved.pending.len() != table.pending.len() {
            return false;
        }
        let entry = |e: &MsixEntrySavedV1| Entry { address: e.address, data: e.data, masked: e.masked };
        table.entries = saved.entries.iter().map(entry).collect();
        table.pending.clone_from(&saved.pending);
        true
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[derive(Default)]
    pub(crate) struct Messages(pub Mutex<Vec<(u64, u32)>>);

    impl MsiSink for Messages {
        fn send(&self, address: u64, data: u32) {
            self.0.lock().push((address, data));
        }
    }

    #[test]
    fn a_masked_vector_waits_and_is_sent_when_unmasked() {
        let messages = Arc::new(Messages::default());
        let table = MsixTable::new(3, messages.clone());
        table.notify(1);
        assert!(messages.0.lock().is_empty(), "not enabled: nothing is kept");
        table.write(16, 8, 0xfee0_1000);
        table.write(24, 4, 0x41);
        table.set_control(true, false);
        table.notify(1);
        table.notify(9);
        assert!(messages.0.lock().is_empty());
        assert_eq!(table.read(48, 8), 2, "pending");
        table.write(28, 4, 0);
        assert_eq!(messages.0.lock()[..], [(0xfee0_1000, 0x41)]);
        assert_eq!(table.read(48, 8), 0);
        table.set_control(true, true);
        table.notify(1);
        assert_eq!(messages.0.lock().len(), 1);
        table.set_control(true, false);
        assert_eq!(messages.0.lock().len(), 2);
        assert!(table.restore(&table.saved()));
        assert!(!MsixTable::new(2, messages).restore(&table.saved()));
    }
}

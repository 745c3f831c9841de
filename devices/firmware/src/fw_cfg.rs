//! The firmware configuration device: numbered items and named files that the machine has for its firmware.
//!
//! Source: QEMU documentation, docs/specs/fw_cfg.rst: the register layout for memory-mapped boards, the DMA interface and
//! the file directory. Items are read-only here; a DMA write is answered with the error bit.

use parking_lot::Mutex;
use rhea_device::{LoadError, Reset, ResetKind, SavedRecord, StateUnit, load_record, save_record};
use rhea_memory::{AccessSizes, AddressSpace, MmioHandler, Target};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Size of the register block in bytes.
pub const MMIO_SIZE: u64 = 0x18;

mod spec {
    pub const DATA: u64 = 0x00;
    pub const DATA_END: u64 = 0x08;
    pub const SELECTOR: u64 = 0x08;
    pub const DMA: u64 = 0x10;
    pub const DMA_LOW: u64 = 0x14;

    /// What the DMA register reads as: "QEMU CFG".
    pub const DMA_SIGNATURE: u64 = u64::from_be_bytes(*b"QEMU CFG");

    pub const CONTROL_ERROR: u32 = 1 << 0;
    pub const CONTROL_READ: u32 = 1 << 1;
    pub const CONTROL_SKIP: u32 = 1 << 2;
    pub const CONTROL_SELECT: u32 = 1 << 3;
    pub const CONTROL_WRITE: u32 = 1 << 4;
    /// Control, length, address: 16 bytes, big-endian.
    pub const DMA_STRUCT: usize = 16;
}

/// Numbers of items.
pub mod key {
    #![allow(missing_docs, reason = "the names are the specification's own")]
    pub const SIGNATURE: u16 = 0x00;
    pub const ID: u16 = 0x01;
    pub const RAM_SIZE: u16 = 0x03;
    pub const NB_CPUS: u16 = 0x05;
    pub const KERNEL_SIZE: u16 = 0x08;
    pub const INITRD_SIZE: u16 = 0x0b;
    pub const MAX_CPUS: u16 = 0x0f;
    pub const KERNEL_DATA: u16 = 0x11;
    pub const INITRD_DATA: u16 = 0x12;
    pub const CMDLINE_SIZE: u16 = 0x14;
    pub const CMDLINE_DATA: u16 = 0x15;
    pub const FILE_DIR: u16 = 0x19;
    /// First number of a named file.
    pub const FILE_FIRST: u16 = 0x20;
}

/// Longest name of a file, without the zero byte that ends it.
pub const NAME_MAX: usize = 55;
/// Most files.
pub const FILES_MAX: usize = 0x400;
/// Bytes copied at a time.
const CHUNK: usize = 64 << 10;

/// What an item holds.
#[derive(Clone, Debug)]
pub enum FwCfgItem {
    /// These bytes.
    Bytes(Vec<u8>),
    /// The first `len` bytes of a file.
    File {
        /// The file.
        file: Arc<File>,
        /// Bytes.
        len: u64,
    },
}

impl FwCfgItem {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
        }
    }

    /// Copies bytes at `offset` out; zeros beyond the end, and where the file cannot be read.
    fn read(&self, offset: u64, out: &mut [u8]) {
        out.fill(0);
        let left = self.len().saturating_sub(offset).min(out.len() as u64) as usize;
        let Some(out) = out.get_mut(..left) else { return };
        match self {
            Self::Bytes(bytes) => {
                if let Some(from) = bytes.get(offset as usize..offset as usize + left) {
                    out.copy_from_slice(from);
                }
            }
            Self::File { file, .. } => {
                if file.read_exact_at(out, offset).is_err() {
                    out.fill(0);
                }
            }
        }
    }
}

/// An item that cannot be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FwCfgError {
    /// Empty, too long, not ASCII, or there already.
    BadName(String),
    /// More files than the directory has room for.
    TooManyFiles,
}

impl std::fmt::Display for FwCfgError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BadName(name) => write!(f, "'{name}' cannot be the name of a firmware configuration file"),
            Self::TooManyFiles => write!(f, "there are too many firmware configuration files"),
        }
    }
}

impl std::error::Error for FwCfgError {}

/// Everything the device has to tell, fixed when the machine is built.
#[derive(Clone, Debug, Default)]
pub struct FwCfgContents {
    items: BTreeMap<u16, FwCfgItem>,
    files: BTreeMap<String, FwCfgItem>,
}

impl FwCfgContents {
    /// Sets a numbered item to bytes.
    pub fn bytes(&mut self, key: u16, bytes: impl Into<Vec<u8>>) -> &mut Self {
        self.item(key, FwCfgItem::Bytes(bytes.into()))
    }

    /// Sets a numbered item.
    pub fn item(&mut self, key: u16, item: FwCfgItem) -> &mut Self {
        self.items.insert(key, item);
        self
    }

    /// Adds a named file.
    ///
    /// # Errors
    /// The name cannot be, or there is no room.
    pub fn file(&mut self, name: &str, item: FwCfgItem) -> Result<&mut Self, FwCfgError> {
        let legal = !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(|b| b.is_ascii_graphic());
        if !legal || self.files.contains_key(name) {
            return Err(FwCfgError::BadName(name.into()));
        }
        if self.files.len() >= FILES_MAX {
            return Err(FwCfgError::TooManyFiles);
        }
        self.files.insert(name.into(), item);
        Ok(self)
    }

    /// All items by number, with signature, features and directory.
    fn finish(self) -> BTreeMap<u16, FwCfgItem> {
        let mut items = self.items;
        let mut directory = (self.files.len() as u32).to_be_bytes().to_vec();
        for (number, (name, item)) in (key::FILE_FIRST..).zip(self.files) {
            let size = u32::try_from(item.len()).unwrap_or(u32::MAX);
            directory.extend(size.to_be_bytes());
            directory.extend(number.to_be_bytes());
            directory.extend([0; 2]);
            let mut field = [0; NAME_MAX + 1];
            field.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
            directory.extend(field);
            items.insert(number, item);
        }
        items.insert(key::SIGNATURE, FwCfgItem::Bytes(b"QEMU".to_vec()));
        // The plain interface, and DMA.
        items.insert(key::ID, FwCfgItem::Bytes(3u32.to_le_bytes().to_vec()));
        items.insert(key::FILE_DIR, FwCfgItem::Bytes(directory));
        items
    }
}

#[derive(Clone, Debug, Default)]
struct State {
    selected: u16,
    offset: u64,
    /// High half of the DMA address, until the low half is written.
    dma_high: u32,
}

/// The device.
pub struct FwCfg {
    items: BTreeMap<u16, FwCfgItem>,
    memory: Arc<AddressSpace>,
    state: Mutex<State>,
}

/// One DMA request as it stands in guest memory.
struct Request {
    control: u32,
    length: u32,
    address: u64,
}

impl FwCfg {
    /// A device that tells `contents` and reaches guest RAM through `memory`.
    pub fn new(contents: FwCfgContents, memory: Arc<AddressSpace>) -> Arc<Self> {
        Arc::new(Self { items: contents.finish(), memory, state: Mutex::default() })
    }

    fn take(&self, state: &mut State, out: &mut [u8]) {
        match self.items.get(&state.selected) {
            Some(item) => item.read(state.offset, out),
            None => out.fill(0),
        }
        state.offset = state.offset.saturating_add(out.len() as u64);
    }

    fn request(&self, address: u64) -> Option<Request> {
        let mut bytes = [0u8; spec::DMA_STRUCT];
        if !is_ram(&self.memory, address, bytes.len() as u64, false) {
            return None;
        }
        self.memory.read_bytes(address, &mut bytes).ok()?;
        let word = |at: usize| bytes.get(at..)?.first_chunk().copied().map(u32::from_be_bytes);
        let (high, low) = (word(8)?, word(12)?);
        Some(Request { control: word(0)?, length: word(4)?, address: u64::from(high) << 32 | u64::from(low) })
    }

    fn dma(&self, state: &mut State, at: u64) {
        let Some(request) = self.request(at) else { return };
        if request.control & spec::CONTROL_SELECT != 0 {
            (state.selected, state.offset) = ((request.control >> 16) as u16, 0);
        }
        let done = if request.control & spec::CONTROL_READ != 0 {
            self.dma_read(state, &request)
        } else if request.control & spec::CONTROL_WRITE != 0 {
            false
        } else {
            if request.control & spec::CONTROL_SKIP != 0 {
                state.offset = state.offset.saturating_add(request.length.into());
            }
            true
        };
        let control = if done { 0 } else { spec::CONTROL_ERROR };
        if is_ram(&self.memory, at, 4, true) {
            let _ = self.memory.write_bytes(at, &control.to_be_bytes());
        }
    }

    /// Copies to guest RAM, and nowhere else. False if there is none.
    fn dma_read(&self, state: &mut State, request: &Request) -> bool {
        let length = u64::from(request.length);
        if !is_ram(&self.memory, request.address, length, true) {
            return false;
        }
        let mut buffer = vec![0; CHUNK.min(request.length as usize)];
        let mut done = 0;
        while done < length {
            let n = (buffer.len() as u64).min(length - done) as usize;
            let Some(part) = buffer.get_mut(..n) else { return false };
            self.take(state, part);
            if self.memory.write_bytes(request.address.wrapping_add(done), part).is_err() {
                return false;
            }
            done += n as u64;
        }
        true
    }
}

/// Whether `len` bytes from `start` on are memory, of the kind that can be written if `write`.
fn is_ram(memory: &AddressSpace, start: u64, len: u64, write: bool) -> bool {
    let Some(end) = start.checked_add(len) else { return false };
    let (mut at, view) = (start, memory.view());
    while at < end {
        match view.lookup(at) {
            Some(range) if matches!(range.target, Target::Ram { writable, .. } if writable || !write) => {
                match range.last().checked_add(1) {
                    Some(next) => at = next,
                    None => return true,
                }
            }
            _ => return false,
        }
    }
    true
}

/// The big-endian register value of which `size` bytes were written as a little-endian one.
fn big_endian(value: u64, size: usize) -> u64 {
    value.swap_bytes() >> (64 - 8 * size.clamp(1, 8))
}

impl MmioHandler for FwCfg {
    fn read(&self, offset: u64, size: usize) -> u64 {
        match offset {
            spec::DATA..spec::DATA_END => {
                let mut bytes = [0; 8];
                if let Some(part) = bytes.get_mut(..size) {
                    self.take(&mut self.state.lock(), part);
                }
                u64::from_le_bytes(bytes)
            }
            spec::DMA.. => {
                let at = (offset - spec::DMA).min(7);
                spec::DMA_SIGNATURE.swap_bytes() >> (8 * at)
            }
            _ => 0,
        }
    }

    fn write(&self, offset: u64, size: usize, value: u64) {
        let mut state = self.state.lock();
        match (offset, size) {
            (spec::SELECTOR, 2) => {
                (state.selected, state.offset) = (big_endian(value, 2) as u16, 0);
            }
            (spec::DMA, 8) => {
                state.dma_high = 0;
                self.dma(&mut state, big_endian(value, 8));
            }
            (spec::DMA, 4) => state.dma_high = big_endian(value, 4) as u32,
            (spec::DMA_LOW, 4) => {
                let high = std::mem::take(&mut state.dma_high);
                self.dma(&mut state, u64::from(high) << 32 | big_endian(value, 4));
            }
            // Items cannot be written through the data register.
            _ => {}
        }
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::ANY
    }
}

impl Reset for FwCfg {
    fn reset(&self, _: ResetKind) {
        *self.state.lock() = State::default();
    }
}

rhea_device::saved_record! { "fw-cfg", 1,
    /// Saved state of the device. The items are the machine's.
    pub struct FwCfgSavedV1 {
        /// Selected item.
        selected: u16,
        /// Next byte of it.
        offset: u64,
        /// High half of the DMA address.
        dma_high: u32,
    }
}

impl StateUnit for FwCfg {
    fn save(&self) -> SavedRecord {
        let s = self.state.lock();
        save_record(&FwCfgSavedV1 { selected: s.selected, offset: s.offset, dma_high: s.dma_high })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let FwCfgSavedV1 { selected, offset, dma_high } = load_record(record)?;
        *self.state.lock() = State { selected, offset, dma_high };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rhea_memory::{RamBlock, Region, Topology};

    struct Rig {
        device: Arc<FwCfg>,
        memory: Arc<AddressSpace>,
    }

    /// A page of RAM at zero, and the device itself behind it.
    fn rig() -> Rig {
        let topology = Topology::new();
        let root = Region::container(&topology, "root", 1 << 20);
        let ram = Arc::new(RamBlock::new("ram", 0x1000).unwrap());
        root.add(0, &Region::ram(&topology, ram));
        let memory = AddressSpace::new("test", root.clone());
        let mut contents = FwCfgContents::default();
        contents.bytes(key::NB_CPUS, 4u16.to_le_bytes());
        contents.file("etc/b", FwCfgItem::Bytes(b"second".to_vec())).unwrap();
        contents.file("etc/a", FwCfgItem::Bytes(b"first".to_vec())).unwrap();
        let device = FwCfg::new(contents, memory.clone());
        root.add(0x1000, &Region::mmio(&topology, "fw-cfg", MMIO_SIZE, device.clone()));
        Rig { device, memory }
    }

    impl Rig {
        fn select(&self, key: u16) {
            self.memory.write(0x1008, 2, u64::from(key.swap_bytes()));
        }

        fn bytes(&self, n: usize) -> Vec<u8> {
            (0..n).map(|_| self.memory.read(0x1000, 1) as u8).collect()
        }

        fn dma(&self, control: u32, length: u32, address: u64) -> u32 {
            let mut request = control.to_be_bytes().to_vec();
            request.extend(length.to_be_bytes());
            request.extend(address.to_be_bytes());
            self.memory.write_bytes(0x100, &request).unwrap();
            self.memory.write(0x1010, 8, 0x100u64.swap_bytes());
            (self.memory.read(0x100, 4) as u32).swap_bytes()
        }
    }

    #[test]
    fn items_are_read_through_the_data_register() {
        let rig = rig();
        rig.select(key::SIGNATURE);
        assert_eq!(rig.bytes(5), b"QEMU\0");
        rig.select(key::SIGNATURE);
        assert_eq!(rig.memory.read(0x1000, 4), u64::from(u32::from_le_bytes(*b"QEMU")));
        rig.select(key::NB_CPUS);
        assert_eq!(rig.memory.read(0x1000, 2), 4);
        rig.select(0x7777);
        assert_eq!(rig.bytes(2), [0, 0]);
    }

    #[test]
    fn the_directory_is_sorted_and_its_numbers_select_the_files() {
        let rig = rig();
        rig.select(key::FILE_DIR);
        assert_eq!(rig.bytes(4), [0, 0, 0, 2]);
        let entry = rig.bytes(64);
        assert_eq!(entry[..14], *b"\0\0\0\x05\0\x20\0\0etc/a\0");
        let second = rig.bytes(64);
        rig.select(u16::from_be_bytes([second[4], second[5]]));
        assert_eq!(rig.bytes(6), b"second");
    }

    #[test]
    fn dma_reads_skips_and_fills_up_with_zeros() {
        let rig = rig();
        assert_eq!(rig.device.read(0x10, 8), u64::from_le_bytes(*b"QEMU CFG"));
        let select = u32::from(key::FILE_FIRST) << 16 | spec::CONTROL_SELECT;
        assert_eq!(rig.dma(select | spec::CONTROL_READ, 7, 0x200), 0);
        let mut out = [0xff; 8];
        rig.memory.read_bytes(0x200, &mut out).unwrap();
        assert_eq!(&out, b"first\0\0\0");
        assert_eq!(rig.dma(select | spec::CONTROL_SKIP, 2, 0), 0);
        assert_eq!(rig.dma(spec::CONTROL_READ, 3, 0x300), 0);
        assert_eq!(rig.memory.read(0x300, 4), u64::from(u32::from_le_bytes(*b"rst\0")));
        rig.memory.write(0x1010, 4, 0);
        rig.memory.write(0x1014, 4, u64::from(0x100u32.swap_bytes()));
        assert_eq!(rig.memory.read(0x100, 4), 0, "by halves too");
    }

    #[test]
    fn dma_outside_ram_and_writes_are_errors() {
        let rig = rig();
        for address in [0xffe, 0x1000, 0x5000, u64::MAX - 1] {
            assert_eq!(rig.dma(spec::CONTROL_READ, 16, address), spec::CONTROL_ERROR, "{address:#x}");
        }
        assert_eq!(rig.dma(spec::CONTROL_READ, u32::MAX, 0), spec::CONTROL_ERROR);
        assert_eq!(rig.dma(spec::CONTROL_WRITE, 1, 0x200), spec::CONTROL_ERROR);
        // A request that lies in the device itself is no request.
        rig.memory.write(0x1010, 8, 0x1000u64.swap_bytes());
    }

    #[test]
    fn names_are_checked() {
        let mut contents = FwCfgContents::default();
        let item = || FwCfgItem::Bytes(Vec::new());
        assert!(contents.file("a", item()).is_ok());
        for name in ["a", "", "with space", &"x".repeat(56)] {
            assert!(contents.file(name, item()).is_err(), "{name}");
        }
    }

    #[test]
    fn the_position_is_saved() {
        let rig = rig();
        rig.select(key::SIGNATURE);
        rig.bytes(1);
        let record = rig.device.save();
        rig.device.reset(ResetKind::Warm);
        rig.device.load(&record).unwrap();
        assert_eq!(rig.bytes(1), b"E");
    }

    proptest! {
        #[test]
        fn hostile_requests_do_no_harm(steps in prop::collection::vec(
            (any::<u32>(), any::<u32>(), prop_oneof![0u64..0x3000, any::<u64>()], 0u64..0x18, any::<u64>()), 1..40))
        {
            let rig = rig();
            for (control, length, address, offset, value) in steps {
                rig.dma(control, length % 0x2000, address);
                let size = 1 << (value & 3);
                rig.memory.write(0x1000 + (offset & !(size - 1)), size as usize, value);
                rig.memory.read(0x1000 + offset, 1);
            }
        }
    }
}

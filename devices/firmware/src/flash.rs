//! Parallel NOR flash: two 16-bit chips side by side, with the Intel command set.
//!
//! Source: JEDEC JESD68.01 (Common Flash Interface) and JEP137 (command set 0001h); Intel StrataFlash P30 data sheet for
//! commands and status bits. Blocks are never locked: lock and unlock commands are taken and change nothing.
//!
//! While the chips show their array, reads go straight to the memory behind them, and code runs from it. In the other
//! modes a layer of registers lies over it. Cells are written through an address space of the device's own, so that
//! whoever has translated code from them learns of it.

use parking_lot::Mutex;
use rhea_device::{LoadError, Reset, ResetKind, SavedRecord, StateUnit, load_record, save_record};
use rhea_memory::{AccessSizes, AddressSpace, MmioHandler, RamBlock, Region, Topology};
use std::io;
use std::sync::{Arc, Weak};

/// Bytes of an erase block, over both chips.
pub const BLOCK_SIZE: u64 = 256 << 10;
/// Bytes of the write buffer, over both chips (64 words of 16 bits each).
const BUFFER_SIZE: usize = 256;
/// Bytes the bank is wide.
const WIDTH: u64 = 4;

mod spec {
    pub const PROGRAM: u8 = 0x40;
    pub const PROGRAM_OLD: u8 = 0x10;
    pub const ERASE: u8 = 0x20;
    pub const CLEAR_STATUS: u8 = 0x50;
    pub const LOCK: u8 = 0x60;
    pub const READ_STATUS: u8 = 0x70;
    pub const READ_ID: u8 = 0x90;
    pub const READ_CFI: u8 = 0x98;
    pub const CONFIRM: u8 = 0xd0;
    pub const BUFFERED_PROGRAM: u8 = 0xe8;
    pub const READ_ARRAY: u8 = 0xff;

    pub const STATUS_READY: u8 = 0x80;
    pub const STATUS_ERASE_ERROR: u8 = 0x20;
    pub const STATUS_PROGRAM_ERROR: u8 = 0x10;
    /// What an improper sequence sets.
    pub const STATUS_SEQUENCE: u8 = STATUS_ERASE_ERROR | STATUS_PROGRAM_ERROR;

    pub const MANUFACTURER: u8 = 0x89;
    pub const DEVICE: u8 = 0x18;
}

/// Where changes go so that they last.
pub trait FlashStore: Send + Sync {
    /// Writes bytes at an offset of the flash.
    ///
    /// # Errors
    /// The bytes cannot be kept.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
}

/// What reads show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Show {
    #[default]
    Array,
    Status,
    Id,
    Cfi,
}

/// What the next write is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Expect {
    #[default]
    Command,
    /// The word to program.
    Word,
    /// Confirmation of an erase.
    Erase,
    /// What to lock or unlock.
    Lock,
    /// Number of words, less one, for a buffered program in the block that holds the address.
    Count(u64),
    /// Data for the buffer: the block's start, bytes that are still to come, what came.
    Data(u64, u32, Vec<(u64, u8, u32)>),
    /// Confirmation of a buffered program.
    Confirm(Vec<(u64, u8, u32)>),
}

#[derive(Debug, Default)]
struct State {
    show: Show,
    expect: Expect,
    status: u8,
}

/// A bank of flash memory.
pub struct Flash {
    block: Arc<RamBlock>,
    cells: Arc<AddressSpace>,
    store: Option<Arc<dyn FlashStore>>,
    read_only: bool,
    root: Arc<Region>,
    layer: Arc<Region>,
    query: Vec<u8>,
    state: Mutex<State>,
}

impl Flash {
    /// A bank that starts as `block`, whose size must be a power of two of at least a block. Changes go to `store` too, if
    /// there is one. A bank that is `read_only` fails every change.
    pub fn new(
        topology: &Arc<Topology>,
        block: Arc<RamBlock>,
        store: Option<Arc<dyn FlashStore>>,
        read_only: bool,
    ) -> Arc<Self> {
        let size = block.size();
        let private = Region::container(topology, "flash-cells", size);
        private.add(0, &Region::ram(topology, block.clone()));
        let cells = AddressSpace::new("flash-cells", private);
        Arc::new_cyclic(|weak: &Weak<Self>| {
            let root = Region::container(topology, block.name(), size);
            let registers = || Arc::new(Registers(weak.clone()));
            root.add(0, &Region::rom_device(topology, block.clone(), registers()));
            let layer = Region::mmio(topology, "flash-registers", size, registers());
            layer.set_enabled(false);
            root.add_with_priority(0, &layer, 1);
            let query = query_table(size);
            let state = Mutex::new(State { status: spec::STATUS_READY, ..State::default() });
            Self { block, cells, store, read_only, root, layer, query, state }
        })
    }

    /// The region to map.
    pub fn region(&self) -> &Arc<Region> {
        &self.root
    }

    fn show(&self, state: &mut State, show: Show) {
        if state.show != show {
            state.show = show;
            self.layer.set_enabled(show != Show::Array);
        }
    }

    fn fail(&self, state: &mut State, bits: u8) {
        state.status |= bits;
        state.expect = Expect::Command;
        self.show(state, Show::Status);
    }

    /// Writes cells, and to the store. False if that cannot be.
    fn put(&self, offset: u64, bytes: &[u8]) -> bool {
        if self.read_only || self.cells.write_bytes(offset, bytes).is_err() {
            return false;
        }
        self.store.as_ref().is_none_or(|store| store.write(offset, bytes).is_ok())
    }

    /// Programming only ever clears bits.
    fn program(&self, state: &mut State, offset: u64, size: u8, value: u32) {
        let old = self.block.read(offset, size.into()) as u32;
        let bytes = (old & value).to_le_bytes();
        if !self.put(offset, bytes.get(..size.into()).unwrap_or(&bytes)) {
            state.status |= spec::STATUS_PROGRAM_ERROR;
        }
    }

    fn erase(&self, state: &mut State, offset: u64) {
        let start = offset / BLOCK_SIZE * BLOCK_SIZE;
        if !self.put(start, &vec![0xff; BLOCK_SIZE as usize]) {
            state.status |= spec::STATUS_ERASE_ERROR;
        }
    }

    fn command(&self, state: &mut State, offset: u64, command: u8) {
        let (show, expect) = match command {
            spec::READ_ARRAY | 0 => (Show::Array, Expect::Command),
            spec::PROGRAM | spec::PROGRAM_OLD => (Show::Status, Expect::Word),
            spec::ERASE => (Show::Status, Expect::Erase),
            spec::LOCK => (Show::Status, Expect::Lock),
            spec::BUFFERED_PROGRAM => (Show::Status, Expect::Count(offset / BLOCK_SIZE * BLOCK_SIZE)),
            spec::READ_STATUS => (Show::Status, Expect::Command),
            spec::READ_ID => (Show::Id, Expect::Command),
            spec::READ_CFI => (Show::Cfi, Expect::Command),
            spec::CLEAR_STATUS => {
                state.status = spec::STATUS_READY;
                (state.show, Expect::Command)
            }
            _ => return self.fail(state, spec::STATUS_SEQUENCE),
        };
        state.expect = expect;
        self.show(state, show);
    }

    fn write(&self, offset: u64, size: usize, value: u64) {
        let mut state = self.state.lock();
        let (value, size) = (value as u32, size as u8);
        let command = value as u8;
        match std::mem::take(&mut state.expect) {
            Expect::Command => self.command(&mut state, offset, command),
            Expect::Word => self.program(&mut state, offset, size, value),
            Expect::Erase if command == spec::CONFIRM => self.erase(&mut state, offset),
            // Lock, unlock, lock down.
            Expect::Lock if matches!(command, 0x01 | 0x2f | spec::CONFIRM) => {}
            Expect::Count(block) => {
                let bytes = (u64::from(value & 0xffff) + 1) * WIDTH;
                if bytes > BUFFER_SIZE as u64 {
                    self.fail(&mut state, spec::STATUS_SEQUENCE);
                } else {
                    state.expect = Expect::Data(block, bytes as u32, Vec::new());
                }
            }
            Expect::Data(block, left, mut words) => {
                if offset / BLOCK_SIZE * BLOCK_SIZE != block || u32::from(size) > left {
                    return self.fail(&mut state, spec::STATUS_SEQUENCE);
                }
                words.push((offset, size, value));
                let left = left - u32::from(size);
                state.expect =
                    if left == 0 { Expect::Confirm(words) } else { Expect::Data(block, left, words) };
            }
            Expect::Confirm(words) if command == spec::CONFIRM => {
                for (offset, size, value) in words {
                    self.program(&mut state, offset, size, value);
                }
            }
            Expect::Erase | Expect::Lock | Expect::Confirm(_) => self.fail(&mut state, spec::STATUS_SEQUENCE),
        }
    }

    fn read(&self, offset: u64, size: usize) -> u64 {
        let state = self.state.lock();
        let word = offset / WIDTH;
        let lane = match state.show {
            // The map changed while the access was under way.
            Show::Array => return self.block.read(offset, size),
            Show::Status => state.status,
            Show::Id => match word & 0xff {
                0 => spec::MANUFACTURER,
                1 => spec::DEVICE,
                // Block lock status and all else: not locked.
                _ => 0,
            },
            Show::Cfi => {
                usize::try_from(word).ok().and_then(|word| self.query.get(word)).copied().unwrap_or(0)
            }
        };
        // Both chips answer alike, each in the low byte of its half.
        let both = u64::from(lane) | u64::from(lane) << 16;
        both >> (8 * (offset % WIDTH))
    }
}

/// The query table of one chip of a bank of `size` bytes, by word address.
fn query_table(size: u64) -> Vec<u8> {
    let chip = size / 2;
    let blocks = (size / BLOCK_SIZE).max(1) - 1;
    let unit = BLOCK_SIZE / 2 / 256;
    let mut table = vec![0; 0x40];
    let mut put = |at: usize, bytes: &[u8]| {
        table.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
    };
    put(0x10, b"QRY");
    // Command set 0001h, its table at 31h.
    put(0x13, &[0x01, 0x00, 0x31, 0x00]);
    // Supply 2.7 to 3.6 V; typical and longest times.
    put(0x1b, &[0x27, 0x36, 0x00, 0x00, 0x07, 0x07, 0x0a, 0x00, 0x04, 0x04, 0x04, 0x00]);
    // Size, 16-bit interface, write buffer of a chip, one erase region.
    let buffer = (BUFFER_SIZE as u64 / 2).trailing_zeros() as u8;
    put(0x27, &[chip.trailing_zeros() as u8, 0x01, 0x00, buffer, 0x00, 0x01]);
    put(0x2d, &[blocks as u8, (blocks >> 8) as u8, unit as u8, (unit >> 8) as u8]);
    // Table of the command set: "PRI" 1.0, no optional features.
    put(0x31, b"PRI10");
    table
}

/// The device as the bus sees it; it holds the regions that hold this.
struct Registers(Weak<Flash>);

impl MmioHandler for Registers {
    fn read(&self, offset: u64, size: usize) -> u64 {
        self.0.upgrade().map_or(0, |flash| flash.read(offset, size))
    }

    fn write(&self, offset: u64, size: usize, value: u64) {
        if let Some(flash) = self.0.upgrade() {
            flash.write(offset, size, value);
        }
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 4 }
    }
}

impl Reset for Flash {
    fn reset(&self, _: ResetKind) {
        let mut state = self.state.lock();
        (state.expect, state.status) = (Expect::Command, spec::STATUS_READY);
        self.show(&mut state, Show::Array);
    }
}

rhea_device::saved_record! { "cfi-flash", 1,
    /// Saved state of a bank. The cells are saved as memory is; a command that is half given is not.
    pub struct FlashSavedV1 {
        /// Array, status, identifier or query.
        show: u8,
        /// Status register.
        status: u8,
    }
}

impl StateUnit for Flash {
    fn save(&self) -> SavedRecord {
        let state = self.state.lock();
        // A half-given command comes back as an improper sequence: software tries again.
        let cut = if state.expect == Expect::Command { 0 } else { spec::STATUS_SEQUENCE };
        let show = match state.show {
            Show::Array => 0,
            Show::Status => 1,
            Show::Id => 2,
            Show::Cfi => 3,
        };
        save_record(&FlashSavedV1 { show, status: state.status | cut })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let saved: FlashSavedV1 = load_record(record)?;
        let show = match saved.show {
            0 => Show::Array,
            1 => Show::Status,
            2 => Show::Id,
            3 => Show::Cfi,
            _ => return Err(LoadError::BadValue { device: "cfi-flash", field: "mode" }),
        };
        let mut state = self.state.lock();
        (state.expect, state.status) = (Expect::Command, saved.status);
        self.show(&mut state, show);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<(u64, usize)>>);

    impl FlashStore for Kept {
        fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            self.0.lock().push((offset, bytes.len()));
            Ok(())
        }
    }

    struct Rig {
        flash: Arc<Flash>,
        memory: Arc<AddressSpace>,
        kept: Arc<Kept>,
    }

    fn rig(read_only: bool) -> Rig {
        let topology = Topology::new();
        let block = Arc::new(RamBlock::new("flash", 1 << 20).unwrap());
        block.write_bytes(0, b"contents");
        let kept = Arc::new(Kept::default());
        let flash = Flash::new(&topology, block, Some(kept.clone()), read_only);
        Rig { memory: AddressSpace::new("test", flash.region().clone()), flash, kept }
    }

    impl Rig {
        fn command(&self, offset: u64, command: u64) {
            self.memory.write(offset, 4, command | command << 16);
        }
        fn status(&self) -> u64 {
            self.command(0, 0x70);
            self.memory.read(0, 4)
        }
        fn array(&self, offset: u64) -> u64 {
            self.command(0, 0xff);
            self.memory.read(offset, 4)
        }
    }

    const READY: u64 = 0x80_0080;

    #[test]
    fn a_block_is_erased_and_programmed() {
        let rig = rig(false);
        assert_eq!(rig.array(0), u64::from(u32::from_le_bytes(*b"cont")));
        rig.command(0x10, 0x20);
        rig.command(0x10, 0xd0);
        assert_eq!(rig.status(), READY);
        assert_eq!((rig.array(0), rig.array(BLOCK_SIZE)), (0xffff_ffff, 0), "one block");
        rig.command(8, 0x40);
        rig.memory.write(8, 4, 0x1234_5678);
        assert_eq!(rig.status(), READY);
        rig.command(8, 0x40);
        rig.memory.write(8, 4, 0xffff_0000);
        assert_eq!(rig.array(8), 0x1234_0000, "bits are only cleared");
        assert_eq!(rig.kept.0.lock()[..], [(0, BLOCK_SIZE as usize), (8, 4), (8, 4)]);
    }

    #[test]
    fn a_buffer_is_programmed_at_once() {
        let rig = rig(false);
        rig.command(0, 0x20);
        rig.command(0, 0xd0);
        rig.command(0x100, 0xe8);
        assert_eq!(rig.memory.read(0x100, 4), READY);
        rig.command(0x100, 2);
        for i in 0..3 {
            rig.memory.write(0x100 + 4 * i, 4, 0x1111_1111 * (i + 1));
        }
        assert_eq!(rig.flash.block.read(0x100, 4), 0xffff_ffff, "not yet");
        rig.command(0x100, 0xd0);
        assert_eq!(rig.status(), READY);
        assert_eq!(
            [rig.array(0x100), rig.array(0x108), rig.array(0x10c)],
            [0x1111_1111, 0x3333_3333, 0xffff_ffff]
        );
    }

    #[test]
    fn improper_sequences_set_the_error_bits_until_they_are_cleared() {
        let rig = rig(false);
        for (first, second) in [(0x20, 0xff), (0x60, 0x33), (0xe8, 0xfff)] {
            rig.command(0, first);
            rig.command(0, second);
            assert_eq!(rig.status(), READY | 0x30_0030, "{first:#x}");
            rig.command(0, 0x50);
            assert_eq!(rig.status(), READY);
        }
        assert_eq!(rig.array(0), u64::from(u32::from_le_bytes(*b"cont")));
    }

    #[test]
    fn a_read_only_bank_fails_every_change() {
        let rig = rig(true);
        rig.command(0, 0x20);
        rig.command(0, 0xd0);
        assert_eq!(rig.status(), READY | 0x20_0020);
        assert_eq!(rig.array(0), u64::from(u32::from_le_bytes(*b"cont")));
    }

    #[test]
    fn identifier_and_query_tell_the_geometry() {
        let rig = rig(false);
        rig.command(0, 0x90);
        assert_eq!(
            [rig.memory.read(0, 4), rig.memory.read(4, 4), rig.memory.read(8, 4)],
            [0x89_0089, 0x18_0018, 0]
        );
        rig.command(0x55 * 4, 0x98);
        let query = |at: u64| rig.memory.read(4 * at, 4) & 0xff;
        assert_eq!([query(0x10), query(0x11), query(0x12)], [0x51, 0x52, 0x59]);
        assert_eq!(query(0x27), 19, "512 KiB a chip");
        assert_eq!([query(0x2d), query(0x2e), query(0x2f), query(0x30)], [3, 0, 0, 2], "4 blocks of 128 KiB");
        assert_eq!(rig.memory.read(4 * 0x10 + 2, 2), 0x51, "the second chip");
    }

    #[test]
    fn reset_and_saved_state() {
        let rig = rig(false);
        rig.command(0, 0x90);
        let record = rig.flash.save();
        rig.flash.reset(ResetKind::Warm);
        assert_eq!(rig.memory.read(0, 4), u64::from(u32::from_le_bytes(*b"cont")));
        rig.flash.load(&record).unwrap();
        assert_eq!(rig.memory.read(0, 4), 0x89_0089);
        rig.command(0, 0x20);
        rig.flash.load(&rig.flash.save()).unwrap();
        assert_eq!(rig.status(), READY | 0x30_0030);
    }

    proptest! {
        #[test]
        fn hostile_writes_do_no_harm(steps in prop::collection::vec(
            (0u64..(1 << 20), prop_oneof![Just(0xe8u64), Just(0x40), Just(0x20), Just(0xd0), Just(0xff), any::<u64>()], 0u32..4), 1..60))
        {
            let rig = rig(false);
            for (offset, value, log) in steps {
                let size = 1usize << log;
                rig.memory.write(offset, size, value);
                rig.memory.read(offset, size);
                rig.flash.load(&rig.flash.save()).unwrap();
            }
            rig.flash.reset(ResetKind::Warm);
            prop_assert_eq!(rig.memory.read(0x1000, 4), rig.flash.block.read(0x1000, 4));
        }
    }
}

//! A driver of the MMIO transport, with a disk behind it.

use super::*;
use crate::blk::{BlkConfig, VirtioBlk};
use crate::queue::tests::{Driver, Offer, ram};
use crate::spec::{feature, status};
use parking_lot::Condvar;
use rhea_async_io::block_on;
use rhea_block::{BlockNode, MemoryNode, OpenFlags};
use rhea_device::IrqSink;
use rhea_virtio_disk::spec::{feature as blk_feature, request};

/// The processor's end of the line.
#[derive(Default)]
struct Processor {
    level: Mutex<bool>,
    changed: Condvar,
}

impl IrqSink for Processor {
    fn set_level(&self, _: u32, level: bool) {
        *self.level.lock() = level;
        self.changed.notify_all();
    }
}

/// A machine with a disk.
struct Rig {
    slot: Arc<VirtioMmio>,
    processor: Arc<Processor>,
    memory: Arc<AddressSpace>,
    node: Arc<BlockNode>,
    driver: Driver,
}

const DISK: usize = 64 << 10;
const QUEUE: u64 = 0x1_0000;
const HEADER: u64 = 0x100;
const STATUS: u64 = 0x200;
const DATA: u64 = 0x4_0000;

fn disk() -> Arc<BlockNode> {
    let bytes = (0..DISK).map(|i| (i / 512) as u8).collect();
    BlockNode::anonymous("memory", Box::new(MemoryNode::new(bytes)), OpenFlags::empty())
}

impl Rig {
    fn new(version: MmioVersion, config: BlkConfig) -> Self {
        let (memory, node, processor) = (ram(), disk(), Arc::new(Processor::default()));
        let device = block_on(VirtioBlk::new(node.clone(), config)).unwrap();
        let irq = IrqLine::new(processor.clone(), 0);
        let slot = VirtioMmio::new(device, version, memory.clone(), irq);
        let driver = Driver::new(&memory, QUEUE, 16, false);
        Self { slot, processor, memory, node, driver }
    }

    fn read(&self, register: u64) -> u32 {
        self.slot.read(register, 4) as u32
    }

    fn write(&self, register: u64, value: u32) {
        self.slot.write(register, 4, value.into());
    }

    fn offered(&self) -> u64 {
        let half = |select| {
            self.write(register::DEVICE_FEATURES_SELECT, select);
            u64::from(self.read(register::DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    /// Sets up the standard's way, accepting `features` of those offered.
    fn start(&mut self, features: u64) {
        self.write(register::STATUS, 0);
        self.write(register::STATUS, u32::from(status::ACKNOWLEDGE));
        self.write(register::STATUS, u32::from(status::ACKNOWLEDGE | status::DRIVER));
        let features = features & self.offered();
        for select in 0..2 {
            self.write(register::DRIVER_FEATURES_SELECT, select);
            self.write(register::DRIVER_FEATURES, (features >> (32 * select)) as u32);
        }
        let agreed = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        self.write(register::STATUS, agreed.into());
        assert_eq!(self.read(register::STATUS), u32::from(agreed));
        let packed = features & feature::RING_PACKED != 0;
        self.driver = Driver::new(&self.memory, QUEUE, 16, packed);
        self.memory.dma_write(QUEUE, &[0; 0x8000]).unwrap();
        self.write(register::QUEUE_SELECT, 0);
        assert_eq!(self.read(register::QUEUE_SIZE_MAX), 256);
        self.write(register::QUEUE_SIZE, 16);
        let at = self.driver.at;
        for (register, address) in [
            (register::QUEUE_DESCRIPTORS, at.descriptors),
            (register::QUEUE_DRIVER, at.driver),
            (register::QUEUE_DEVICE, at.device),
        ] {
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        self.write(register::QUEUE_READY, 1);
        assert_eq!(self.read(register::QUEUE_READY), 1);
        self.write(register::STATUS, (agreed | status::DRIVER_OK).into());
    }

    /// Waits for the next used chain, as a driver does: by interrupts.
    fn wait(&mut self) -> (u16, u32) {
        loop {
            self.driver.ask();
            if let Some(used) = self.driver.used() {
                return used;
            }
            let mut level = self.processor.level.lock();
            while !*level {
                self.processor.changed.wait(&mut level);
            }
            drop(level);
            let status = self.read(register::INTERRUPT_STATUS);
            assert_ne!(status, 0);
            self.write(register::INTERRUPT_ACK, status);
        }
    }

    /// Does a request; its status and the bytes that were written.
    fn request(&mut self, kind: u32, sector: u64, data: &[Offer]) -> (u8, u32) {
        let header = u128::from(kind) | u128::from(sector) << 64;
        self.memory.dma_write(HEADER, &header.to_le_bytes()).unwrap();
        self.memory.dma_write(STATUS, &[0xff]).unwrap();
        let mut chain = vec![(HEADER, 16, false)];
        chain.extend_from_slice(data);
        chain.push((STATUS, 1, true));
        let id = self.driver.offer(&chain);
        self.write(register::QUEUE_NOTIFY, 0);
        let (used, written) = self.wait();
        assert_eq!(used, id);
        let mut answer = [0];
        self.memory.dma_read(STATUS, &mut answer).unwrap();
        (answer[0], written)
    }

    fn data(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.dma_read(DATA, &mut bytes).unwrap();
        bytes
    }

    fn contents(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        block_on(self.node.read_bytes(offset, &mut bytes)).unwrap();
        bytes
    }
}

#[test]
fn a_driver_reads_and_writes_by_every_kind_of_ring() {
    for features in [0, feature::EVENT_IDX, feature::RING_PACKED, feature::RING_PACKED | feature::EVENT_IDX] {
        let mut rig = Rig::new(MmioVersion::Modern, BlkConfig::default());
        assert_eq!((rig.read(0), rig.read(4), rig.read(8)), (MAGIC, 2, 2));
        rig.start(features | feature::VERSION_1 | blk_feature::FLUSH);
        for round in 0..20u8 {
            let read = [(DATA, 700, true), (DATA + 700, 324, true)];
            assert_eq!(rig.request(request::IN, u64::from(round), &read), (0, 1025));
            assert_eq!(rig.data(1024), [vec![round; 512], vec![round + 1; 512]].concat());
        }
        rig.memory.dma_write(DATA, &[0x5a; 512]).unwrap();
        assert_eq!(rig.request(request::OUT, 9, &[(DATA, 512, false)]), (0, 1));
        assert_eq!(rig.contents(8 * 512, 1536), [vec![8; 512], vec![0x5a; 512], vec![10; 512]].concat());
        assert_eq!(rig.request(request::FLUSH, 0, &[]), (0, 1));
    }
}

#[test]
fn requests_that_cannot_be_done_are_answered() {
    let config = BlkConfig { serial: "disk-0".into(), ..BlkConfig::default() };
    let mut rig = Rig::new(MmioVersion::Modern, config);
    rig.start(!feature::RING_PACKED);
    let last = (DISK / 512) as u64;
    assert_eq!(rig.request(request::IN, last, &[(DATA, 512, true)]), (1, 1), "beyond the end");
    assert_eq!(rig.request(request::OUT, u64::MAX, &[(DATA, 512, false)]), (1, 1));
    assert_eq!(rig.request(request::IN, 0, &[(DATA, 100, true)]), (1, 1), "no whole sector");
    assert_eq!(rig.request(77, 0, &[]), (2, 1), "no such request");
    assert_eq!(rig.request(request::GET_ID, 0, &[(DATA, 20, true)]), (0, 21));
    assert_eq!(rig.data(8), b"disk-0\0\0");
    // A range of one sector: discarded, then as zeroes.
    let range = 3u128 | 1 << 64;
    rig.memory.dma_write(DATA, &range.to_le_bytes()).unwrap();
    assert_eq!(rig.request(request::WRITE_ZEROES, 0, &[(DATA, 16, false)]), (0, 1));
    assert_eq!(rig.contents(3 * 512, 512), [0; 512]);
    assert_eq!(rig.request(request::DISCARD, 0, &[(DATA, 16, false)]), (0, 1));
    assert_eq!(rig.request(request::DISCARD, 0, &[(DATA, 32, false)]), (2, 1), "two ranges");
    // Buffers that are not in memory.
    rig.driver.offer(&[(HEADER, 16, false), (1 << 30, 512, true), (STATUS, 1, true)]);
    rig.write(register::QUEUE_NOTIFY, 0);
    assert_eq!(rig.wait().1, 0);
    assert_eq!(rig.read(register::STATUS) & u32::from(status::NEEDS_RESET), 0);
}

#[test]
fn a_read_only_disk_is_not_written() {
    let mut rig = Rig::new(MmioVersion::Modern, BlkConfig { read_only: true, ..BlkConfig::default() });
    assert_ne!(rig.offered() & blk_feature::RO, 0);
    assert_eq!(rig.offered() & (blk_feature::DISCARD | blk_feature::WRITE_ZEROES), 0);
    rig.start(feature::VERSION_1 | blk_feature::RO);
    assert_eq!(rig.request(request::OUT, 0, &[(DATA, 512, false)]), (1, 1));
    assert_eq!(rig.contents(0, 512), [0; 512]);
}

#[test]
fn a_legacy_driver_has_its_pages() {
    let mut rig = Rig::new(MmioVersion::Legacy, BlkConfig::default());
    assert_eq!(rig.read(register::VERSION), 1);
    assert_eq!(rig.offered() >> 32, 0);
    // In the order of Linux: the page size comes before the reset.
    rig.write(register::GUEST_PAGE_SIZE, 4096);
    rig.write(register::STATUS, 0);
    rig.write(register::STATUS, 3);
    rig.write(register::DRIVER_FEATURES_SELECT, 0);
    rig.write(register::DRIVER_FEATURES, blk_feature::FLUSH as u32);
    rig.write(register::QUEUE_SELECT, 0);
    assert_eq!(rig.read(register::QUEUE_PAGE), 0);
    rig.write(register::QUEUE_SIZE, 16);
    rig.write(register::QUEUE_ALIGN, 4096);
    rig.write(register::QUEUE_PAGE, (QUEUE >> 12) as u32);
    assert_eq!(rig.read(register::QUEUE_PAGE), (QUEUE >> 12) as u32);
    rig.write(register::STATUS, 7);
    rig.driver.at = RingAddresses { descriptors: QUEUE, driver: QUEUE + 256, device: QUEUE + 4096 };
    assert_eq!(rig.request(request::IN, 5, &[(DATA, 512, true)]), (0, 513));
    assert_eq!(rig.data(512), [5; 512]);
    rig.write(register::STATUS, 0);
    assert_eq!(rig.read(register::QUEUE_PAGE), 0);
}

#[test]
fn the_configuration_says_what_the_disk_is() {
    let config = BlkConfig { queues: 3, physical_block_size: 4096, ..BlkConfig::default() };
    let rig = Rig::new(MmioVersion::Modern, config);
    let config = |offset: u64, size| rig.slot.read(register::CONFIG + offset, size);
    assert_eq!(config(0, 4) | config(4, 4) << 32, DISK as u64 / 512);
    assert_eq!((config(12, 4), config(20, 4), config(24, 1)), (254, 512, 3));
    assert_eq!((config(32, 1), config(34, 2)), (1, 3));
    assert_eq!(config(0xfc, 4), 0, "beyond the end");
    rig.slot.write(register::CONFIG + 32, 1, 0);
    assert_eq!(config(32, 1), 0, "write-through");
    rig.slot.write(register::CONFIG, 4, 77);
    assert_eq!(config(0, 4), DISK as u64 / 512, "the capacity is not the driver's");
}

#[test]
fn features_must_be_of_those_offered() {
    let rig = Rig::new(MmioVersion::Modern, BlkConfig::default());
    for bad in [0, feature::VERSION_1 | 1 << 50] {
        rig.write(register::STATUS, 0);
        rig.write(register::STATUS, 3);
        for select in 0..2 {
            rig.write(register::DRIVER_FEATURES_SELECT, select);
            rig.write(register::DRIVER_FEATURES, (bad >> (32 * select)) as u32);
        }
        rig.write(register::STATUS, 11);
        assert_eq!(rig.read(register::STATUS), 3);
        rig.write(register::STATUS, 15);
        assert_eq!(rig.read(register::STATUS), 3, "not live either");
    }
}

#[test]
fn a_broken_queue_asks_for_a_reset() {
    let mut rig = Rig::new(MmioVersion::Modern, BlkConfig::default());
    rig.start(feature::VERSION_1);
    rig.driver.publish(99);
    rig.write(register::QUEUE_NOTIFY, 0);
    let mut level = rig.processor.level.lock();
    while !*level {
        rig.processor.changed.wait(&mut level);
    }
    drop(level);
    assert_eq!(rig.read(register::INTERRUPT_STATUS), CONFIG_CHANGE);
    assert_ne!(rig.read(register::STATUS) & u32::from(status::NEEDS_RESET), 0);
    rig.start(feature::VERSION_1);
    assert_eq!(rig.read(register::INTERRUPT_STATUS), 0);
    assert_eq!(rig.request(request::IN, 1, &[(DATA, 512, true)]), (0, 513));
}

#[test]
fn a_saved_slot_goes_on() {
    for features in [feature::VERSION_1, feature::VERSION_1 | feature::RING_PACKED] {
        let mut rig = Rig::new(MmioVersion::Modern, BlkConfig::default());
        rig.start(features);
        assert_eq!(rig.request(request::IN, 1, &[(DATA, 512, true)]), (0, 513));
        rig.slot.write(register::CONFIG + 32, 1, 0);
        let saved = rig.slot.save();
        // The machine goes on, and so does its copy.
        let mut other = Rig::new(MmioVersion::Modern, BlkConfig::default());
        let mut rings = vec![0; 0x8000];
        rig.memory.dma_read(QUEUE, &mut rings).unwrap();
        other.memory.dma_write(QUEUE, &rings).unwrap();
        other.driver = rig.driver.clone();
        other.driver.memory = other.memory.clone();
        other.slot.load(&saved).unwrap();
        for rig in [&mut rig, &mut other] {
            assert_eq!(rig.request(request::IN, 2, &[(DATA, 512, true)]), (0, 513));
            assert_eq!(rig.data(512), [2; 512]);
        }
        assert_eq!(other.slot.read(register::CONFIG + 32, 1), 0, "write-through");
        assert_eq!(other.read(register::STATUS), 15);
    }
    let rig = Rig::new(MmioVersion::Modern, BlkConfig::default());
    let legacy = Rig::new(MmioVersion::Legacy, BlkConfig::default());
    assert!(rig.slot.load(&legacy.slot.save()).is_err());
    assert!(rig.slot.load(&VirtioMmio::empty(MmioVersion::Modern).save()).is_err());
}

#[test]
fn an_empty_slot_is_device_0() {
    let slot = VirtioMmio::empty(MmioVersion::Legacy);
    assert_eq!((slot.read(0, 4), slot.read(8, 4)), (MAGIC.into(), 0));
    slot.write(register::STATUS, 4, 7);
    assert_eq!((slot.read(register::STATUS, 4), slot.read(0x100, 4)), (0, 0));
}

#[test]
fn any_register_takes_anything() {
    let rig = Rig::new(MmioVersion::Modern, BlkConfig::default());
    let legacy = Rig::new(MmioVersion::Legacy, BlkConfig::default());
    for slot in [&rig.slot, &legacy.slot] {
        for value in [0, 1, 7, 15, 0x80, u64::MAX] {
            for offset in 0..MMIO_SIZE {
                for size in [1, 2, 4] {
                    slot.write(offset, size, value);
                    slot.read(offset, size);
                }
            }
        }
    }
}

/// Descriptors, headers and indices of a driver that has lost its mind; afterwards a good one gets on as if nothing had been.
#[test]
fn a_mad_driver_hurts_only_itself() {
    let mut rig = Rig::new(MmioVersion::Modern, BlkConfig::default());
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..300u64 {
        let packed = if round & 1 != 0 { feature::RING_PACKED } else { 0 };
        let all = feature::VERSION_1 | feature::INDIRECT_DESC | feature::EVENT_IDX | blk_feature::FLUSH;
        rig.start(all | packed);
        let at = rig.driver.at;
        for index in 0..16 {
            // Mostly small addresses and lengths, now and then anything.
            let address = if random() & 15 == 0 { random() } else { random() & 0xf_ffff };
            let len = if random() & 15 == 0 { random() as u32 } else { random() as u32 & 0x1fff };
            let (flags, next) = (random() as u16 & 0x8087, random() as u16 & 15);
            let (a, b) = if packed != 0 { (next, flags) } else { (flags & 7, next) };
            rig.driver.descriptor(index, address, len, a, b);
            rig.memory.dma_write(address & 0xffff, &[random() as u8 & 15, 0, 0, 0]).unwrap();
            if packed == 0 {
                rig.memory.dma_write_u16(at.driver + 4 + 2 * u64::from(index), random() as u16 & 17).unwrap();
            }
        }
        if packed == 0 {
            rig.memory.dma_write_u16(at.driver + 2, random() as u16 & 31).unwrap();
        }
        rig.write(register::QUEUE_NOTIFY, 0);
        if round & 2 != 0 {
            std::thread::yield_now();
        }
    }
    rig.start(feature::VERSION_1);
    let (status, written) = rig.request(request::IN, 1, &[(DATA, 512, true)]);
    assert_eq!((status, written), (0, 513));
}

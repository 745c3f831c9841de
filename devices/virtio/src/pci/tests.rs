//! A driver of the PCI transport.

use super::common::field;
use super::*;
use crate::blk::{BlkConfig, VirtioBlk};
use crate::queue::tests::Driver;
use crate::spec::{feature, status};
use parking_lot::Condvar;
use rhea_async_io::block_on;
use rhea_block::{BlockNode, MemoryNode, OpenFlags};
use rhea_device::IrqLine;
use rhea_memory::RamBlock;
use rhea_pci::{PciAddress, PciBus, PirqRouter, spec};

const BAR: u64 = 0x8000_0000;
const TABLE: u64 = 0x9000_0000;
const QUEUE: u64 = 0x1_0000;

#[derive(Default)]
struct Messages {
    sent: Mutex<Vec<(u64, u32)>>,
    more: Condvar,
}

impl MsiSink for Messages {
    fn send(&self, address: u64, data: u32) {
        self.sent.lock().push((address, data));
        self.more.notify_all();
    }
}

struct Rig {
    bus: Arc<PciBus>,
    function: Arc<VirtioPci>,
    system: Arc<AddressSpace>,
    messages: Arc<Messages>,
    driver: Driver,
}

impl Rig {
    fn new() -> Self {
        let topology = Topology::new();
        let root = Region::container(&topology, "system", 1 << 40);
        root.add(0, &Region::ram(&topology, Arc::new(RamBlock::new("ram", 1 << 20).unwrap())));
        let system = AddressSpace::new("system", root.clone());
        let messages = Arc::new(Messages::default());
        let bytes = (0..64 << 10).map(|i| (i / 512) as u8).collect();
        let node = BlockNode::anonymous("memory", Box::new(MemoryNode::new(bytes)), OpenFlags::empty());
        let config = BlkConfig { queues: 2, ..BlkConfig::default() };
        let device = block_on(VirtioBlk::new(node, config)).unwrap();
        let function = VirtioPci::new(device, &topology, system.clone(), messages.clone());
        let lines = std::array::from_fn(|_| IrqLine::unconnected());
        let pirq = PirqRouter::new(lines, vec![IrqLine::unconnected(); 16]);
        let io = Region::container(&topology, "io", 1 << 16);
        let bus = PciBus::new(root, io, pirq, messages.clone());
        bus.plug(PciAddress { device: 1, function: 0 }, function.clone()).unwrap();
        let driver = Driver::new(&system, QUEUE, 16, false);
        let rig = Self { bus, function, system, messages, driver };
        rig.config_write(spec::BAR0 + 4, 4, TABLE as u32);
        rig.config_write(spec::BAR0 + 16, 4, BAR as u32);
        rig.config_write(spec::COMMAND, 2, u32::from(spec::COMMAND_MEMORY | spec::COMMAND_MASTER));
        rig
    }

    fn config(&self, offset: usize, size: usize) -> u32 {
        self.bus.config_read(0, 8, offset, size)
    }

    fn config_write(&self, offset: usize, size: usize, value: u32) {
        self.bus.config_write(0, 8, offset, size, value);
    }

    fn read(&self, at: u64, size: usize) -> u32 {
        self.system.read(BAR + at, size) as u32
    }

    fn write(&self, at: u64, size: usize, value: u32) {
        self.system.write(BAR + at, size, value.into());
    }

    /// Offsets of the capabilities with an ID.
    fn capabilities(&self, id: u8) -> Vec<usize> {
        let (mut at, mut found) = (self.config(spec::CAPABILITIES, 1) as usize, Vec::new());
        while at != 0 {
            if self.config(at, 1) == u32::from(id) {
                found.push(at);
            }
            at = self.config(at + 1, 1) as usize;
        }
        found
    }

    fn start(&mut self) {
        let agreed = status::ACKNOWLEDGE | status::DRIVER;
        self.write(field::STATUS, 1, agreed.into());
        self.write(field::DRIVER_FEATURE_SELECT, 4, 1);
        self.write(field::DRIVER_FEATURE, 4, (feature::VERSION_1 >> 32) as u32);
        self.write(field::STATUS, 1, u32::from(agreed | status::FEATURES_OK));
        self.write(field::QUEUE_SELECT, 2, 1);
        self.write(field::QUEUE_SIZE, 2, 16);
        self.write(field::QUEUE_VECTOR, 2, 2);
        let at = self.driver.at;
        self.system.write(BAR + field::QUEUE_DESCRIPTORS, 8, at.descriptors);
        self.system.write(BAR + field::QUEUE_DRIVER, 8, at.driver);
        self.system.write(BAR + field::QUEUE_DEVICE, 8, at.device);
        self.write(field::QUEUE_ENABLE, 2, 1);
        self.write(field::STATUS, 1, u32::from(agreed | status::FEATURES_OK | status::DRIVER_OK));
    }

    fn offer_read(&mut self) {
        let header = 3u128 << 64;
        self.system.dma_write(0x100, &header.to_le_bytes()).unwrap();
        self.driver.offer(&[(0x100, 16, false), (0x1000, 512, true), (0x200, 1, true)]);
        self.write(part::NOTIFY + 4, 2, 1);
    }
}

#[test]
fn a_driver_finds_its_way_by_capabilities() {
    let rig = Rig::new();
    assert_eq!((rig.config(0, 4), rig.config(8, 1)), (0x1042_1af4, 1));
    assert_eq!(rig.config(0x2c, 4), 0x1100_1af4);
    let found: Vec<_> = rig
        .capabilities(CAP_VENDOR)
        .into_iter()
        .map(|at| {
            (rig.config(at + 2, 1), rig.config(at + 3, 1), rig.config(at + 4, 1), rig.config(at + 8, 4))
        })
        .collect();
    assert_eq!(
        found,
        [(16, 1, 4, 0), (16, 3, 4, 0x1000), (16, 4, 4, 0x2000), (20, 2, 4, 0x3000), (20, 5, 0, 0)]
    );
    assert_eq!(rig.capabilities(spec::CAP_MSIX).len(), 1);
    assert_eq!(rig.read(field::QUEUES, 2), 2);
    assert_eq!(rig.system.read(BAR + part::CONFIG, 8), 128);
}

#[test]
fn a_queue_interrupts_by_its_vector() {
    let mut rig = Rig::new();
    let msix = rig.capabilities(spec::CAP_MSIX)[0];
    rig.config_write(msix + 2, 2, 1 << 15);
    rig.system.write(TABLE + 32, 8, 0xfee0_0000);
    rig.system.write(TABLE + 40, 8, 0x41);
    rig.start();
    assert_eq!((rig.read(field::QUEUE_VECTOR, 2), rig.read(field::CONFIG_VECTOR, 2)), (2, 0xffff));
    rig.offer_read();
    let mut sent = rig.messages.sent.lock();
    while sent.is_empty() {
        rig.messages.more.wait(&mut sent);
    }
    assert_eq!(sent[..], [(0xfee0_0000, 0x41)]);
    drop(sent);
    assert_eq!(rig.driver.used(), Some((0, 513)));
    assert_eq!(rig.system.read(0x1000, 2), 0x303);
    assert_eq!(rig.read(part::ISR, 1), 0);
    rig.write(field::STATUS, 1, 0);
    assert_eq!((rig.read(field::STATUS, 1), rig.read(field::QUEUE_VECTOR, 2)), (0, 0xffff));
}

#[test]
fn without_messages_the_isr_tells() {
    let mut rig = Rig::new();
    rig.start();
    rig.offer_read();
    let intx = || rig.config(spec::STATUS, 2) & u32::from(spec::STATUS_INTERRUPT) != 0;
    while !intx() {
        std::thread::yield_now();
    }
    assert_eq!((rig.read(part::ISR, 1), rig.read(part::ISR, 1)), (1, 0));
    assert!(!intx());
    assert_eq!(rig.driver.used(), Some((0, 513)));
}

#[test]
fn a_function_that_is_no_bus_master_does_not_look() {
    let mut rig = Rig::new();
    rig.start();
    rig.config_write(spec::COMMAND, 2, spec::COMMAND_MEMORY.into());
    rig.offer_read();
    rig.config_write(spec::COMMAND, 2, u32::from(spec::COMMAND_MEMORY | spec::COMMAND_MASTER));
    while rig.driver.used().is_none() {
        std::thread::yield_now();
    }
}

#[test]
fn configuration_accesses_reach_the_registers() {
    let rig = Rig::new();
    let window = *rig.capabilities(CAP_VENDOR).last().unwrap();
    let aim = |bar, offset: u64, length| {
        rig.config_write(window + 4, 1, bar);
        rig.config_write(window + 8, 4, offset as u32);
        rig.config_write(window + 12, 4, length);
    };
    aim(4, field::QUEUES, 2);
    assert_eq!(rig.config(window + 16, 4), 2);
    aim(4, field::STATUS, 1);
    rig.config_write(window + 16, 4, 3);
    assert_eq!(rig.read(field::STATUS, 1), 3);
    for (bar, offset, length) in [(1, 0, 4), (4, 2, 4), (4, 0, 3), (4, 1 << 31, 4), (4, u64::MAX, 1)] {
        aim(bar, offset, length);
        rig.config_write(window + 16, 4, 0x1234);
        rig.config(window + 16, 4);
    }
    assert_eq!(rig.read(field::STATUS, 1), 3);
}

#[test]
fn a_saved_function_goes_on() {
    let mut rig = Rig::new();
    rig.start();
    rig.offer_read();
    while rig.driver.used().is_none() {
        std::thread::yield_now();
    }
    let saved = rig.function.save();
    let mut other = Rig::new();
    other.function.reset(ResetKind::Cold);
    assert_eq!(other.config(spec::COMMAND, 2), 0);
    let mut rings = vec![0; 0x8000];
    rig.system.dma_read(QUEUE, &mut rings).unwrap();
    other.system.dma_write(QUEUE, &rings).unwrap();
    other.function.load(&saved).unwrap();
    other.driver = rig.driver.clone();
    other.driver.memory = other.system.clone();
    assert_eq!(other.function.save().data, saved.data);
    other.offer_read();
    while other.driver.used().is_none() {
        std::thread::yield_now();
    }
    let mut cut = saved.clone();
    cut.data.truncate(100);
    assert!(other.function.load(&cut).is_err());
}

#[test]
fn any_register_takes_anything() {
    let rig = Rig::new();
    for value in [0, 1, 7, 15, 0x80, u32::MAX] {
        for offset in 0..part::BAR_SIZE {
            for size in [1, 2, 4] {
                rig.write(offset, size, value);
                rig.read(offset, size);
            }
        }
    }
    for value in [0, 1, 0xff, 0xffff_ffff] {
        for offset in (0x40..256).step_by(4) {
            rig.config_write(offset, 4, value);
            rig.config(offset, 4);
        }
    }
}

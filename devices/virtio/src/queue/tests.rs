//! A driver for queues, and what queues do with good and bad drivers.

use super::chain::flag;
use super::*;
use proptest::prelude::*;
use rhea_memory::{RamBlock, Region, Topology};

/// 1 MiB of guest RAM.
pub(crate) fn ram() -> Arc<AddressSpace> {
    let topology = Topology::new();
    let root = Region::container(&topology, "root", 1 << 40);
    root.add(0, &Region::ram(&topology, Arc::new(RamBlock::new("ram", 1 << 20).unwrap())));
    AddressSpace::new("dma", root)
}

/// A buffer to offer: address, length, whether the device writes it.
pub(crate) type Offer = (u64, u32, bool);

/// The driver's side of a queue, split or packed. Descriptors are used once each, in turn.
#[derive(Clone)]
pub(crate) struct Driver {
    pub(crate) memory: Arc<AddressSpace>,
    pub(crate) at: RingAddresses,
    pub(crate) size: u16,
    packed: bool,
    next: u16,
    wrap: bool,
    available: u16,
    seen: u16,
    seen_wrap: bool,
    /// Packed: descriptors of each buffer ID.
    slots: Vec<u16>,
}

impl Driver {
    pub(crate) fn new(memory: &Arc<AddressSpace>, base: u64, size: u16, packed: bool) -> Self {
        let at = RingAddresses { descriptors: base, driver: base + 0x4000, device: base + 0x6000 };
        let (wrap, slots) = (true, vec![0; size.into()]);
        let memory = memory.clone();
        Self { memory, at, size, packed, next: 0, wrap, available: 0, seen: 0, seen_wrap: true, slots }
    }

    pub(crate) fn descriptor(&self, index: u16, address: u64, len: u32, a: u16, b: u16) {
        let value = u128::from(address) | u128::from(len) << 64 | u128::from(a) << 96 | u128::from(b) << 112;
        self.memory.dma_write(self.at.descriptors + 16 * u64::from(index), &value.to_le_bytes()).unwrap();
    }

    /// Makes a chain available; its ID.
    pub(crate) fn offer(&mut self, chain: &[Offer]) -> u16 {
        let head = self.next;
        if self.packed {
            self.slots[usize::from(head)] = chain.len() as u16;
        }
        for (i, (address, len, writes)) in chain.iter().enumerate() {
            let more = i + 1 < chain.len();
            let flags = if *writes { flag::WRITE } else { 0 } | if more { flag::NEXT } else { 0 };
            let index = self.next;
            self.next = (index + 1) % self.size;
            if self.packed {
                let owner = if self.wrap { 1 << 7 } else { 1 << 15 };
                self.descriptor(index, *address, *len, head, flags | owner);
                self.wrap ^= self.next == 0;
            } else {
                self.descriptor(index, *address, *len, flags, self.next);
            }
        }
        if !self.packed {
            self.publish(head);
        }
        head
    }

    /// Puts a head into the available ring.
    pub(crate) fn publish(&mut self, head: u16) {
        let place = 4 + 2 * u64::from(self.available % self.size);
        self.memory.dma_write_u16(self.at.driver + place, head).unwrap();
        self.available = self.available.wrapping_add(1);
        self.memory.dma_write_u16(self.at.driver + 2, self.available).unwrap();
    }

    /// Asks to be told of the next used chain (which a device without event indices does in any case).
    pub(crate) fn ask(&self) {
        if !self.packed {
            let event = self.at.driver + 4 + 2 * u64::from(self.size);
            self.memory.dma_write_u16(event, self.seen).unwrap();
        }
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }

    /// The next used chain: its ID and the bytes written.
    pub(crate) fn used(&mut self) -> Option<(u16, u32)> {
        let mut bytes = [0; 16];
        if self.packed {
            self.memory.dma_read(self.at.descriptors + 16 * u64::from(self.seen), &mut bytes).unwrap();
            let value = u128::from_le_bytes(bytes);
            let (len, id, flags) = ((value >> 64) as u32, (value >> 96) as u16, (value >> 112) as u16);
            let both = if self.seen_wrap { 1 << 7 | 1 << 15 } else { 0 };
            if flags & (1 << 7 | 1 << 15) != both {
                return None;
            }
            let next = self.seen + self.slots[usize::from(id)];
            self.seen_wrap ^= next >= self.size;
            self.seen = next % self.size;
            return Some((id, len));
        }
        if self.memory.dma_read_u16(self.at.device + 2).unwrap() == self.seen {
            return None;
        }
        let place = self.at.device + 4 + 8 * u64::from(self.seen % self.size);
        self.memory.dma_read(place, &mut bytes[..8]).unwrap();
        self.seen = self.seen.wrapping_add(1);
        let value = u128::from_le_bytes(bytes);
        Some((value as u16, (value >> 32) as u32))
    }
}

#[derive(Default)]
pub(crate) struct Log(Mutex<(u32, Option<QueueError>)>);

impl QueueEvents for Log {
    fn used(&self, _: u16) {
        self.0.lock().0 += 1;
    }

    fn broken(&self, _: u16, error: QueueError) {
        let before = self.0.lock().1.replace(error);
        assert_eq!(before, None, "told twice");
    }
}

fn pair(size: u16, features: u64) -> (Driver, Arc<Queue>, Arc<Log>) {
    let memory = ram();
    let packed = features & feature::RING_PACKED != 0;
    let driver = Driver::new(&memory, 0x1_0000, size, packed);
    let log = Arc::new(Log::default());
    let config = QueueConfig { index: 3, size, addresses: driver.at, features, progress: None };
    (driver, Queue::new(&config, memory, log.clone()), log)
}

const BOTH: [u64; 2] = [0, feature::RING_PACKED];

#[test]
fn chains_come_in_order_and_go_back_in_any() {
    for features in BOTH {
        let (mut driver, queue, log) = pair(8, features);
        // Several laps of the ring.
        for lap in 0..9u32 {
            let a = driver.offer(&[(0x100, 16, false), (0x200, 512, true), (0x300, 1, true)]);
            let b = driver.offer(&[(0x400, 7, false)]);
            let first = queue.take().unwrap();
            let second = queue.take().unwrap();
            assert_eq!(queue.take(), None);
            assert_eq!(first.readable(), [Range { address: 0x100, len: 16 }]);
            assert_eq!((first.readable_len(), first.writable_len()), (16, 513));
            assert_eq!((second.readable_len(), second.writable_len()), (7, 0));
            assert_eq!(driver.used(), None);
            queue.give_back(second.id(), 0);
            queue.give_back(first.id(), 513);
            assert_eq!(driver.used(), Some((b, 0)));
            assert_eq!(driver.used(), Some((a, 513)));
            assert_eq!(driver.used(), None);
            assert_eq!(*log.0.lock(), (2 * lap + 2, None));
        }
    }
}

#[test]
fn a_table_is_one_descriptor() {
    for ring in BOTH {
        let (mut driver, queue, log) = pair(4, ring | feature::INDIRECT_DESC);
        let packed = ring != 0;
        for i in 0..6u16 {
            let flags = if i >= 2 { flag::WRITE } else { 0 } | if i < 5 { flag::NEXT } else { 0 };
            let (a, b) = if packed { (0, flags) } else { (flags, i + 1) };
            let value = (0x100 * u128::from(i)) | 8 << 64 | u128::from(a) << 96 | u128::from(b) << 112;
            driver.memory.dma_write(0x8000 + 16 * u64::from(i), &value.to_le_bytes()).unwrap();
        }
        if packed {
            driver.slots[0] = 1;
            driver.descriptor(0, 0x8000, 96, 0, flag::INDIRECT | 1 << 7);
        } else {
            driver.descriptor(0, 0x8000, 96, flag::INDIRECT, 0);
            driver.publish(0);
        }
        let chain = queue.take().unwrap();
        assert_eq!((chain.readable().len(), chain.writable().len()), (2, 4));
        queue.give_back(chain.id(), 32);
        assert_eq!(driver.used(), Some((0, 32)));
        assert_eq!(*log.0.lock(), (1, None));
    }
}

/// Breaks a queue and returns how.
fn broken(features: u64, wrong: impl FnOnce(&mut Driver)) -> QueueError {
    let (mut driver, queue, log) = pair(4, features);
    wrong(&mut driver);
    assert_eq!(queue.take(), None);
    driver.offer(&[(0, 1, false)]);
    assert_eq!(queue.take(), None, "once broken, always broken");
    assert!(!queue.enable_notifications());
    let error = log.0.lock().1;
    error.unwrap()
}

#[test]
fn bad_split_rings_break_the_queue() {
    let indirect = feature::INDIRECT_DESC;
    let index = broken(0, |d| d.memory.dma_write_u16(d.at.driver + 2, 5).unwrap());
    assert_eq!(index, QueueError::Index(5));
    assert_eq!(broken(0, |d| d.publish(4)), QueueError::Descriptor(4));
    let endless = broken(0, |d| {
        d.descriptor(0, 0, 1, flag::NEXT, 1);
        d.descriptor(1, 0, 1, flag::NEXT, 0);
        d.publish(0);
    });
    assert_eq!(endless, QueueError::Endless);
    let next = broken(0, |d| {
        d.descriptor(0, 0, 1, flag::NEXT, 9);
        d.publish(0);
    });
    assert_eq!(next, QueueError::Descriptor(9));
    let order = broken(0, |d| _ = d.offer(&[(0, 1, true), (0, 1, false)]));
    assert_eq!(order, QueueError::Order);
    let long = broken(0, |d| _ = d.offer(&[(0, u32::MAX, false), (0, 2, false)]));
    assert_eq!(long, QueueError::TooLong);
    let table = |len, flags| {
        move |d: &mut Driver| {
            d.descriptor(0, 0x8000, len, flags, 0);
            d.publish(0);
        }
    };
    assert_eq!(broken(0, table(16, flag::INDIRECT)), QueueError::Indirect, "not agreed upon");
    assert_eq!(broken(indirect, table(8, flag::INDIRECT)), QueueError::Indirect);
    assert_eq!(broken(indirect, table(0, flag::INDIRECT)), QueueError::Indirect);
    assert_eq!(broken(indirect, table(16, flag::INDIRECT | flag::NEXT)), QueueError::Indirect);
    let nested = broken(indirect, |d| {
        let value = u128::from(flag::INDIRECT) << 96;
        d.memory.dma_write(0x8000, &value.to_le_bytes()).unwrap();
        table(16, flag::INDIRECT)(d);
    });
    assert_eq!(nested, QueueError::Indirect);
    let looping = broken(indirect, |d| {
        let value = 1u128 << 64 | u128::from(flag::NEXT) << 96;
        d.memory.dma_write(0x8000, &value.to_le_bytes()).unwrap();
        table(16, flag::INDIRECT)(d);
    });
    assert_eq!(looping, QueueError::Endless);
    let outside = broken(0, |d| {
        d.descriptor(0, 0, 1, 0, 0);
        d.at.driver = 0x1_0000 + 0x4000;
        d.publish(0);
        d.memory.dma_write_u16(d.at.driver + 4, 0).unwrap();
        d.descriptor(0, 0, 1, flag::INDIRECT, 0);
    });
    assert_eq!(outside, QueueError::Indirect);
}

#[test]
fn bad_packed_rings_break_the_queue() {
    let packed = feature::RING_PACKED;
    let endless = broken(packed, |d| {
        (0..4).for_each(|i| d.descriptor(i, 0, 1, 0, flag::NEXT | 1 << 7));
    });
    assert_eq!(endless, QueueError::Endless);
    let late = broken(packed | feature::INDIRECT_DESC, |d| {
        d.descriptor(0, 0, 1, 0, flag::NEXT | 1 << 7);
        d.descriptor(1, 0x8000, 16, 0, flag::INDIRECT | 1 << 7);
    });
    assert_eq!(late, QueueError::Indirect);
    let huge = broken(packed | feature::INDIRECT_DESC, |d| {
        d.descriptor(0, 0x8000, 16 * 2000, 0, flag::INDIRECT | 1 << 7);
    });
    assert_eq!(huge, QueueError::Endless);
}

#[test]
fn a_ring_outside_memory_breaks_the_queue() {
    let memory = ram();
    for features in BOTH {
        let addresses = RingAddresses { descriptors: 1 << 30, driver: 1 << 31, device: 1 << 30 };
        let log = Arc::new(Log::default());
        let config = QueueConfig { index: 0, size: 8, addresses, features, progress: None };
        let queue = Queue::new(&config, memory.clone(), log.clone());
        assert_eq!(queue.take(), None);
        assert!(matches!(log.0.lock().1, Some(QueueError::Access(_))));
    }
}

#[test]
fn one_head_again_and_again_breaks_the_queue() {
    let (mut driver, queue, log) = pair(4, 0);
    driver.descriptor(0, 0, 1, 0, 0);
    for _ in 0..4 {
        driver.publish(0);
        assert!(queue.take().is_some());
    }
    driver.publish(0);
    assert_eq!(queue.take(), None);
    assert_eq!(log.0.lock().1, Some(QueueError::TooMany));
}

#[test]
fn a_driver_is_told_only_of_what_it_wants_to_know() {
    // Flags.
    let (mut driver, queue, log) = pair(8, 0);
    driver.memory.dma_write_u16(driver.at.driver, 1).unwrap();
    driver.offer(&[(0, 1, true)]);
    queue.give_back(queue.take().unwrap().id(), 1);
    assert_eq!(log.0.lock().0, 0);
    // Event index: after the third.
    let (mut driver, queue, log) = pair(8, feature::EVENT_IDX);
    let told: Vec<u32> = (0..5)
        .map(|_| {
            driver.memory.dma_write_u16(driver.at.driver + 4 + 16, 2).unwrap();
            driver.offer(&[(0, 1, true)]);
            queue.give_back(queue.take().unwrap().id(), 1);
            log.0.lock().0
        })
        .collect();
    // The first is always told: the driver may have set its event before the device looked.
    assert_eq!(told, [1, 1, 2, 2, 2]);
    // Packed: none, then from the fifth descriptor.
    let (mut driver, queue, log) = pair(8, feature::EVENT_IDX | feature::RING_PACKED);
    driver.memory.dma_write_u16(driver.at.driver + 2, 1).unwrap();
    let serve = |driver: &mut Driver| {
        driver.offer(&[(0, 1, true), (0, 1, true)]);
        queue.give_back(queue.take().unwrap().id(), 1);
        log.0.lock().0
    };
    assert_eq!(serve(&mut driver), 0);
    driver.memory.dma_write_u16(driver.at.driver, 1 << 15 | 5).unwrap();
    driver.memory.dma_write_u16(driver.at.driver + 2, 2).unwrap();
    assert_eq!([0; 3].map(|_| serve(&mut driver)), [0, 1, 1]);
}

#[test]
fn a_device_says_when_it_wants_to_be_notified() {
    for ring in BOTH {
        for events in [0, feature::EVENT_IDX] {
            let (mut driver, queue, _) = pair(8, ring | events);
            queue.disable_notifications();
            assert!(!queue.enable_notifications(), "nothing there");
            driver.offer(&[(0, 1, true)]);
            assert!(queue.enable_notifications(), "it came before the flag was seen");
            queue.take().unwrap();
            assert!(!queue.enable_notifications());
            let read = |at: u64| driver.memory.dma_read_u16(driver.at.device + at).unwrap();
            match (ring != 0, events != 0) {
                (false, false) => assert_eq!(read(0), 0),
                (false, true) => assert_eq!(read(4 + 8 * 8), 1),
                (true, false) => assert_eq!(read(2), 0),
                (true, true) => assert_eq!((read(0), read(2)), (1 << 15 | 1, 2)),
            }
        }
    }
}

#[test]
fn a_queue_goes_on_where_it_was_saved() {
    for features in BOTH {
        let (mut driver, queue, log) = pair(4, features);
        for _ in 0..5 {
            driver.offer(&[(0, 1, true)]);
            queue.give_back(queue.take().unwrap().id(), 1);
            driver.used().unwrap();
        }
        let progress = Some(queue.progress());
        let config = QueueConfig { index: 3, size: 4, addresses: driver.at, features, progress };
        let queue = Queue::new(&config, driver.memory.clone(), log.clone());
        assert_eq!(queue.take(), None);
        let id = driver.offer(&[(0, 1, true)]);
        queue.give_back(queue.take().unwrap().id(), 1);
        assert_eq!(driver.used(), Some((id, 1)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_rings_hurt_nobody(data in proptest::collection::vec(any::<u8>(), 0..8192)) {
        crate::fuzz::queue(&data);
    }

    /// Mostly zeroes, with numbers as rings have them: that gets further than noise does.
    #[test]
    fn nearly_good_rings_hurt_nobody(
        head in any::<[u8; 4]>(),
        marks in proptest::collection::vec((0usize..4096, prop_oneof![0u16..16, Just(0x80), Just(0x8080), any::<u16>()]), 0..200),
    ) {
        let mut data = vec![0; 4 + 3 * 4096];
        data[..4].copy_from_slice(&head);
        for (at, value) in marks {
            data[4 + (at & !1)..][..2].copy_from_slice(&value.to_le_bytes());
        }
        crate::fuzz::queue(&data);
    }

    #[test]
    fn passing_an_event_is_what_the_specification_says(old in any::<u16>(), count in 0u16..100, event in any::<u16>()) {
        let new = old.wrapping_add(count);
        let passed = (0..count).any(|i| old.wrapping_add(i) == event);
        prop_assert_eq!(split::is_passed(event, new, old), passed);
    }
}

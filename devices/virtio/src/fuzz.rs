//! Entry point of the fuzz target, also fed by property tests: rings and tables of arbitrary bytes.

use crate::queue::{MAX_CHAIN, Queue, QueueConfig, QueueError, QueueEvents, RingAddresses};
use crate::spec::feature;
use rhea_memory::{AddressSpace, RamBlock, Region, Topology};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Guest memory: one page for the rings, and two for tables and buffers.
const RAM: u64 = 3 * 4096;

#[derive(Default)]
struct Counted(AtomicU32);

impl QueueEvents for Counted {
    fn used(&self, _: u16) {}

    fn broken(&self, _: u16, _: QueueError) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Serves queues whose memory holds `data`: the first four bytes choose the ring, the rest are the memory.
///
/// # Panics
/// If a bound of the queue's documentation does not hold.
pub fn queue(data: &[u8]) {
    let Some(([kind, size, place, step], bytes)) = data.split_first_chunk() else { return };
    let Ok(ram) = RamBlock::new("ram", RAM) else { return };
    let ram = Arc::new(ram);
    let topology = Topology::new();
    let root = Region::container(&topology, "root", 1 << 40);
    root.add(0, &Region::ram(&topology, ram.clone()));
    let memory = AddressSpace::new("fuzz", root);
    let mut features = 0;
    let bits = [feature::INDIRECT_DESC, feature::EVENT_IDX, feature::RING_PACKED];
    for (index, bit) in bits.into_iter().enumerate() {
        features |= if kind >> index & 1 != 0 { bit } else { 0 };
    }
    let size = 1u16 << (size % 7);
    let (ring, unit) = (u64::from(*place) * 16, u64::from(size) * 16);
    let addresses =
        RingAddresses { descriptors: ring, driver: ring + unit, device: (ring + 2 * unit).wrapping_sub(8) };
    let config = QueueConfig { index: 0, size, addresses, features, progress: None };
    let events = Arc::new(Counted::default());
    let queue = Queue::new(&config, memory.clone(), events.clone());
    let mut out = Vec::new();
    for part in bytes.chunks(RAM as usize).take(16) {
        ram.write_bytes(0, part);
        queue.disable_notifications();
        // Of all that a device does, only this could go on for ever.
        for _ in 0..2 * size {
            let Some(chain) = queue.take() else { break };
            let count = chain.readable().len() + chain.writable().len();
            assert!(count <= MAX_CHAIN);
            assert!(chain.readable_len() + chain.writable_len() <= 1 << 32);
            if let Ok((output, input)) = chain.memory(&memory) {
                assert_eq!(output.io_vector().len() as u64, chain.readable_len());
                assert_eq!(input.len(), chain.writable_len());
            }
            let _ = chain.read(&memory, &mut [0; 32]);
            let _ = chain.write(&memory, &[0xaa; 32]);
            out.push(chain.id());
            assert!(out.len() <= size.into(), "more chains out than descriptors");
            if step & 1 == 0 && !out.is_empty() {
                queue.give_back(out.swap_remove(usize::from(*step) % out.len()), u32::from(*step));
            }
        }
        queue.enable_notifications();
        for id in out.drain(..) {
            queue.give_back(id, 1);
        }
    }
    assert!(events.0.load(Ordering::Relaxed) <= 1, "a queue breaks once");
}

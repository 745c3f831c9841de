//! The split ring (section 2.7): a table of descriptors, a ring of what the driver makes available, and a ring of what
//! the device has used.

use super::chain::{Chain, ChainId, Collector, DESCRIPTOR_SIZE, flag, read_descriptor};
use super::{MAX_CHAIN, Progress, QueueConfig, QueueError, RingAddresses};
use crate::spec::feature;
use rhea_memory::AddressSpace;
use std::sync::atomic::{Ordering, fence};

/// Offsets in both rings: flags, index, elements.
const FLAGS: u64 = 0;
const INDEX: u64 = 2;
const RING: u64 = 4;
/// Available ring flag: the driver wants no interrupts.
const NO_INTERRUPT: u16 = 1;
/// Used ring flag: the device wants no notifications.
const NO_NOTIFY: u16 = 1;

pub(super) struct SplitRing {
    size: u16,
    at: RingAddresses,
    indirect: bool,
    event_idx: bool,
    next_available: u16,
    next_used: u16,
    /// Used index up to which it was considered whether to tell the driver; `None` if it is to be told in any case.
    considered: Option<u16>,
}

impl SplitRing {
    pub(super) fn new(config: &QueueConfig) -> Self {
        let progress = config.progress.unwrap_or_default();
        Self {
            size: config.size.max(1),
            at: config.addresses,
            indirect: config.features & feature::INDIRECT_DESC != 0,
            event_idx: config.features & feature::EVENT_IDX != 0,
            next_available: progress.available,
            next_used: progress.used,
            considered: None,
        }
    }

    pub(super) fn progress(&self) -> Progress {
        Progress { available: self.next_available, used: self.next_used }
    }

    /// Chains that wait.
    fn waiting(&self, memory: &AddressSpace) -> Result<u16, QueueError> {
        let index = memory.dma_read_u16(self.at.driver.wrapping_add(INDEX))?;
        let ahead = index.wrapping_sub(self.next_available);
        if ahead > self.size { Err(QueueError::Index(ahead)) } else { Ok(ahead) }
    }

    fn place(&self, index: u16) -> u64 {
        u64::from(index % self.size)
    }

    pub(super) fn take(&mut self, memory: &AddressSpace) -> Result<Option<Chain>, QueueError> {
        if self.waiting(memory)? == 0 {
            return Ok(None);
        }
        // What the index promises is read after it.
        fence(Ordering::Acquire);
        let entry = self.at.driver.wrapping_add(RING + 2 * self.place(self.next_available));
        let head = memory.dma_read_u16(entry)?;
        let chain = self.walk(memory, head)?;
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(chain))
    }

    fn walk(&self, memory: &AddressSpace, head: u16) -> Result<Chain, QueueError> {
        let mut chain = Collector::default();
        let mut index = head;
        loop {
            if index >= self.size {
                return Err(QueueError::Descriptor(index));
            }
            let at = self.at.descriptors.wrapping_add(DESCRIPTOR_SIZE * u64::from(index));
            let (address, len, flags, next) = read_descriptor(memory, at)?;
            if flags & flag::INDIRECT != 0 {
                if !self.indirect || flags & flag::NEXT != 0 {
                    return Err(QueueError::Indirect);
                }
                walk_table(memory, &mut chain, address, len)?;
                break;
            }
            chain.add(address, len, flags)?;
            if flags & flag::NEXT == 0 {
                break;
            }
            if chain.count() >= usize::from(self.size) {
                return Err(QueueError::Endless);
            }
            index = next;
        }
        Ok(chain.finish(head, 1))
    }

    /// True if the driver wants to be told.
    pub(super) fn give_back(
        &mut self,
        memory: &AddressSpace,
        chain: ChainId,
        written: u32,
    ) -> Result<bool, QueueError> {
        let entry = self.at.device.wrapping_add(RING + 8 * self.place(self.next_used));
        let element = u64::from(chain.id) | u64::from(written) << 32;
        memory.dma_write(entry, &element.to_le_bytes())?;
        self.next_used = self.next_used.wrapping_add(1);
        // The element, and what was written into the buffers, is seen before the index.
        fence(Ordering::Release);
        memory.dma_write_u16(self.at.device.wrapping_add(INDEX), self.next_used)?;
        // The driver asks for the interrupt and then looks at the index; one of us sees the other.
        fence(Ordering::SeqCst);
        if !self.event_idx {
            return Ok(memory.dma_read_u16(self.at.driver.wrapping_add(FLAGS))? & NO_INTERRUPT == 0);
        }
        let event = self.at.driver.wrapping_add(RING + 2 * u64::from(self.size));
        let event = memory.dma_read_u16(event)?;
        let before = self.considered.replace(self.next_used);
        Ok(before.is_none_or(|before| is_passed(event, self.next_used, before)))
    }

    pub(super) fn disable_notifications(&mut self, memory: &AddressSpace) -> Result<(), QueueError> {
        // With event indices the driver is silent until the index that was asked for.
        if !self.event_idx {
            memory.dma_write_u16(self.at.device.wrapping_add(FLAGS), NO_NOTIFY)?;
        }
        Ok(())
    }

    pub(super) fn enable_notifications(&mut self, memory: &AddressSpace) -> Result<bool, QueueError> {
        if self.event_idx {
            let event = self.at.device.wrapping_add(RING + 8 * u64::from(self.size));
            memory.dma_write_u16(event, self.next_available)?;
        } else {
            memory.dma_write_u16(self.at.device.wrapping_add(FLAGS), 0)?;
        }
        // The driver writes its index and then looks at what we want; one of us sees the other.
        fence(Ordering::SeqCst);
        Ok(self.waiting(memory)? != 0)
    }
}

/// A table of descriptors outside the ring (section 2.7.5.3).
fn walk_table(memory: &AddressSpace, chain: &mut Collector, at: u64, len: u32) -> Result<(), QueueError> {
    let count = u64::from(len) / DESCRIPTOR_SIZE;
    if count == 0 || !u64::from(len).is_multiple_of(DESCRIPTOR_SIZE) {
        return Err(QueueError::Indirect);
    }
    let (mut index, mut steps) = (0, 0);
    loop {
        let entry = at.wrapping_add(DESCRIPTOR_SIZE * index);
        let (address, len, flags, next) = read_descriptor(memory, entry)?;
        if flags & flag::INDIRECT != 0 {
            return Err(QueueError::Indirect);
        }
        chain.add(address, len, flags)?;
        steps += 1;
        if flags & flag::NEXT == 0 {
            return Ok(());
        }
        if steps >= count || steps >= MAX_CHAIN as u64 {
            return Err(QueueError::Endless);
        }
        index = u64::from(next);
        if index >= count {
            return Err(QueueError::Descriptor(next));
        }
    }
}

/// Whether an index that went from `old` to `new` has passed `event` (section 2.7.10).
pub(super) fn is_passed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

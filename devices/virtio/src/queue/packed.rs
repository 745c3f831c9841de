//! The packed ring (section 2.8): one ring of descriptors, which driver and device write in turn, and for each side an
//! area that says which events it wants.

use super::chain::{Chain, ChainId, Collector, DESCRIPTOR_SIZE, flag, read_descriptor};
use super::{MAX_CHAIN, Progress, QueueConfig, QueueError, RingAddresses};
use crate::spec::feature;
use rhea_memory::AddressSpace;
use std::sync::atomic::{Ordering, fence};

/// Descriptor flag: available, if it differs from `USED` and is the driver's wrap counter.
const AVAILABLE: u16 = 1 << 7;
/// Descriptor flag: used, if both are the device's wrap counter.
const USED: u16 = 1 << 15;
/// Event flags: all, none, or at a descriptor.
const EVENTS_ENABLE: u16 = 0;
const EVENTS_DISABLE: u16 = 1;
const EVENTS_AT: u16 = 2;
/// Bit 15 of saved positions and of event offsets.
const WRAP: u16 = 1 << 15;

/// A place in the ring, and the wrap counter there.
#[derive(Clone, Copy)]
struct Position {
    index: u16,
    wrap: bool,
}

impl Position {
    fn encode(self) -> u16 {
        self.index | if self.wrap { WRAP } else { 0 }
    }

    /// What was encoded; the start if it is beyond the ring.
    fn decode(value: u16, size: u16) -> Self {
        let index = value & !WRAP;
        if index < size { Self { index, wrap: value & WRAP != 0 } } else { Self { index: 0, wrap: true } }
    }

    fn advance(&mut self, by: u16, size: u16) {
        let at = u32::from(self.index) + u32::from(by.min(size));
        let size = u32::from(size);
        self.index = (at % size) as u16;
        self.wrap ^= at >= size;
    }
}

pub(super) struct PackedRing {
    size: u16,
    at: RingAddresses,
    indirect: bool,
    event_idx: bool,
    available: Position,
    used: Position,
}

impl PackedRing {
    pub(super) fn new(config: &QueueConfig) -> Self {
        let size = config.size.max(1);
        let progress = config.progress.unwrap_or(Progress { available: WRAP, used: WRAP });
        Self {
            size,
            at: config.addresses,
            indirect: config.features & feature::INDIRECT_DESC != 0,
            event_idx: config.features & feature::EVENT_IDX != 0,
            available: Position::decode(progress.available, size),
            used: Position::decode(progress.used, size),
        }
    }

    pub(super) fn progress(&self) -> Progress {
        Progress { available: self.available.encode(), used: self.used.encode() }
    }

    fn descriptor(&self, index: u16) -> u64 {
        self.at.descriptors.wrapping_add(DESCRIPTOR_SIZE * u64::from(index))
    }

    fn is_available(&self, memory: &AddressSpace) -> Result<bool, QueueError> {
        let flags = memory.dma_read_u16(self.descriptor(self.available.index).wrapping_add(14))?;
        let (available, used) = (flags & AVAILABLE != 0, flags & USED != 0);
        Ok(available != used && available == self.available.wrap)
    }

    pub(super) fn take(&mut self, memory: &AddressSpace) -> Result<Option<Chain>, QueueError> {
        if !self.is_available(memory)? {
            return Ok(None);
        }
        // The rest of the descriptor is read after its flags.
        fence(Ordering::Acquire);
        let mut chain = Collector::default();
        let (mut at, mut slots) = (self.available, 0);
        let id = loop {
            let (address, len, id, flags) = read_descriptor(memory, self.descriptor(at.index))?;
            slots += 1;
            at.advance(1, self.size);
            if flags & flag::INDIRECT != 0 {
                if !self.indirect || flags & flag::NEXT != 0 || slots > 1 {
                    return Err(QueueError::Indirect);
                }
                walk_table(memory, &mut chain, address, len)?;
                break id;
            }
            chain.add(address, len, flags)?;
            if flags & flag::NEXT == 0 {
                // The buffer ID is that of the last descriptor.
                break id;
            }
            if slots >= self.size {
                return Err(QueueError::Endless);
            }
        };
        self.available = at;
        Ok(Some(chain.finish(id, slots)))
    }

    /// True if the driver wants to be told.
    pub(super) fn give_back(
        &mut self,
        memory: &AddressSpace,
        chain: ChainId,
        written: u32,
    ) -> Result<bool, QueueError> {
        let at = self.descriptor(self.used.index);
        let mut bytes = [0; 6];
        bytes[..4].copy_from_slice(&written.to_le_bytes());
        bytes[4..].copy_from_slice(&chain.id.to_le_bytes());
        memory.dma_write(at.wrapping_add(8), &bytes)?;
        let flags = if self.used.wrap { AVAILABLE | USED } else { 0 };
        let flags = flags | if written > 0 { flag::WRITE } else { 0 };
        // Length and ID are seen before the flags, which make the descriptor used.
        fence(Ordering::Release);
        memory.dma_write_u16(at.wrapping_add(14), flags)?;
        let old = self.used;
        self.used.advance(chain.slots, self.size);
        fence(Ordering::SeqCst);
        self.wants_interrupt(memory, old)
    }

    /// Whether the driver wants to know that the position went on from `old` (section 2.8.10).
    fn wants_interrupt(&self, memory: &AddressSpace, old: Position) -> Result<bool, QueueError> {
        match memory.dma_read_u16(self.at.driver.wrapping_add(2))? & 3 {
            EVENTS_DISABLE => Ok(false),
            EVENTS_AT if self.event_idx => {
                fence(Ordering::Acquire);
                let event = memory.dma_read_u16(self.at.driver)?;
                let event = Position { index: event & !WRAP, wrap: event & WRAP != 0 };
                // Places are counted from the start of the lap that the new position is in.
                let place = |position: Position| {
                    let lap = if position.wrap == self.used.wrap { 0 } else { i32::from(self.size) };
                    i32::from(position.index) - lap
                };
                Ok((place(old)..place(self.used)).contains(&place(event)))
            }
            _ => Ok(true),
        }
    }

    pub(super) fn disable_notifications(&mut self, memory: &AddressSpace) -> Result<(), QueueError> {
        memory.dma_write_u16(self.at.device.wrapping_add(2), EVENTS_DISABLE)?;
        Ok(())
    }

    pub(super) fn enable_notifications(&mut self, memory: &AddressSpace) -> Result<bool, QueueError> {
        if self.event_idx {
            memory.dma_write_u16(self.at.device, self.available.encode())?;
            fence(Ordering::Release);
            memory.dma_write_u16(self.at.device.wrapping_add(2), EVENTS_AT)?;
        } else {
            memory.dma_write_u16(self.at.device.wrapping_add(2), EVENTS_ENABLE)?;
        }
        fence(Ordering::SeqCst);
        self.is_available(memory)
    }
}

/// A table of descriptors outside the ring (section 2.8.8): all of it is the chain, and only `WRITE` has a meaning.
fn walk_table(memory: &AddressSpace, chain: &mut Collector, at: u64, len: u32) -> Result<(), QueueError> {
    let count = u64::from(len) / DESCRIPTOR_SIZE;
    if count == 0 || !u64::from(len).is_multiple_of(DESCRIPTOR_SIZE) {
        return Err(QueueError::Indirect);
    }
    if count > MAX_CHAIN as u64 {
        return Err(QueueError::Endless);
    }
    for index in 0..count {
        let entry = at.wrapping_add(DESCRIPTOR_SIZE * index);
        let (address, len, _, flags) = read_descriptor(memory, entry)?;
        chain.add(address, len, flags & flag::WRITE)?;
    }
    Ok(())
}

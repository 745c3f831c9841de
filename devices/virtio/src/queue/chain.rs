//! Chains of descriptors: what a driver hands over as one.

use super::{MAX_CHAIN, MAX_CHAIN_BYTES, QueueError};
use rhea_memory::{AccessError, AddressSpace, DmaAccess, DmaBuffer};
use smallvec::SmallVec;

/// Descriptor flags (sections 2.7.5 and 2.8).
pub(super) mod flag {
    /// Another descriptor follows.
    pub const NEXT: u16 = 1;
    /// The device writes the buffer.
    pub const WRITE: u16 = 2;
    /// The buffer is a table of descriptors.
    pub const INDIRECT: u16 = 4;
}

/// Bytes of a descriptor.
pub(super) const DESCRIPTOR_SIZE: u64 = 16;

/// A buffer of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Guest address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
}

/// Names a chain when it is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainId {
    /// Split: the head's index. Packed: the buffer ID.
    pub(super) id: u16,
    /// Packed: descriptors that the chain took in the ring.
    pub(super) slots: u16,
}

type Ranges = SmallVec<[Range; 4]>;

/// Buffers that the driver handed over as one: what the device may read, and behind it what it may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub(super) id: ChainId,
    readable: Ranges,
    writable: Ranges,
}

/// Collects a chain's descriptors.
#[derive(Default)]
pub(super) struct Collector {
    readable: Ranges,
    writable: Ranges,
    count: usize,
    bytes: u64,
}

impl Collector {
    /// Adds a descriptor's buffer.
    pub(super) fn add(&mut self, address: u64, len: u32, flags: u16) -> Result<(), QueueError> {
        self.count += 1;
        if self.count > MAX_CHAIN {
            return Err(QueueError::Endless);
        }
        self.bytes += u64::from(len);
        if self.bytes > MAX_CHAIN_BYTES {
            return Err(QueueError::TooLong);
        }
        let range = Range { address, len };
        if flags & flag::WRITE != 0 {
            self.writable.push(range);
        } else if self.writable.is_empty() {
            self.readable.push(range);
        } else {
            return Err(QueueError::Order);
        }
        Ok(())
    }

    /// Descriptors so far.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn finish(self, id: u16, slots: u16) -> Chain {
        Chain { id: ChainId { id, slots }, readable: self.readable, writable: self.writable }
    }
}

/// A descriptor's 16 bytes: address, length, and two fields of 16 bits.
pub(super) fn read_descriptor(
    memory: &AddressSpace,
    address: u64,
) -> Result<(u64, u32, u16, u16), AccessError> {
    let mut bytes = [0; DESCRIPTOR_SIZE as usize];
    memory.dma_read(address, &mut bytes)?;
    let value = u128::from_le_bytes(bytes);
    Ok((value as u64, (value >> 64) as u32, (value >> 96) as u16, (value >> 112) as u16))
}

impl Chain {
    /// Names it when it is given back.
    pub fn id(&self) -> ChainId {
        self.id
    }

    /// Buffers for the device to read.
    pub fn readable(&self) -> &[Range] {
        &self.readable
    }

    /// Buffers for the device to write.
    pub fn writable(&self) -> &[Range] {
        &self.writable
    }

    /// Bytes to read.
    pub fn readable_len(&self) -> u64 {
        self.readable.iter().map(|range| u64::from(range.len)).sum()
    }

    /// Bytes to write.
    pub fn writable_len(&self) -> u64 {
        self.writable.iter().map(|range| u64::from(range.len)).sum()
    }

    /// The memory of the buffers: to read, and to write.
    ///
    /// # Errors
    /// A buffer is not in memory, or one to write not in RAM.
    pub fn memory(&self, memory: &AddressSpace) -> Result<(DmaBuffer, DmaBuffer), AccessError> {
        let gather = |ranges: &[Range], access| {
            let mut buffer = DmaBuffer::default();
            for range in ranges {
                memory.dma_append(&mut buffer, range.address, range.len.into(), access)?;
            }
            Ok(buffer)
        };
        Ok((gather(&self.readable, DmaAccess::Read)?, gather(&self.writable, DmaAccess::Write)?))
    }

    /// Copies the first bytes to read, as many as there are and fit.
    ///
    /// # Errors
    /// A buffer is not in memory.
    pub fn read(&self, memory: &AddressSpace, out: &mut [u8]) -> Result<usize, AccessError> {
        let mut done = 0;
        for range in &self.readable {
            let rest = out.get_mut(done..).unwrap_or_default();
            let take = rest.len().min(range.len as usize);
            memory.dma_read(range.address, rest.get_mut(..take).unwrap_or_default())?;
            done += take;
        }
        Ok(done)
    }

    /// Copies bytes to the first place to write, as many as fit.
    ///
    /// # Errors
    /// A buffer is not in RAM.
    pub fn write(&self, memory: &AddressSpace, data: &[u8]) -> Result<usize, AccessError> {
        let mut rest = data;
        for range in &self.writable {
            let (now, later) = rest.split_at(rest.len().min(range.len as usize));
            memory.dma_write(range.address, now)?;
            rest = later;
        }
        Ok(data.len() - rest.len())
    }
}

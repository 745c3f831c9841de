//! Memory as a bus master sees it: RAM and ROM, never a device's registers.
//!
//! A device that follows addresses the guest gave it must not be led into registers, its own or another's: a read
//! there has side effects and takes locks. What is here finds memory and nothing else. Long transfers go without a
//! copy: a [`DmaBuffer`] becomes an [`IoVector`], which the kernel reads from or writes into.

use crate::block::RamBlock;
use crate::space::{AccessError, AddressSpace};
use crate::view::Target;
use rhea_async_io::{IoVector, MemoryOwner};
use std::ptr::NonNull;
use std::sync::Arc;

// SAFETY: a block's memory stays mapped, readable and writable for as long as the block lives. Nobody ever makes a
// Rust reference to it.
unsafe impl MemoryOwner for RamBlock {}

/// What a device is going to do with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DmaAccess {
    /// Read it: RAM or ROM.
    Read,
    /// Write it: RAM.
    Write,
}

struct Part {
    block: Arc<RamBlock>,
    offset: u64,
    len: u64,
}

/// Guest memory that a device transfers to or from: pieces of RAM, in order, as one stretch of bytes. It keeps the
/// RAM, not its place in the map.
#[derive(Default)]
pub struct DmaBuffer {
    parts: Vec<Part>,
    len: u64,
}

impl std::fmt::Debug for DmaBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DmaBuffer({} bytes in {} parts)", self.len, self.parts.len())
    }
}

impl DmaBuffer {
    /// Bytes in all.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The memory itself, for requests. The guest may change it at any time.
    ///
    /// Whoever has the vector written to calls [`AddressSpace::dma_written`] afterwards.
    pub fn io_vector(&self) -> IoVector {
        let mut vector = IoVector::default();
        for part in &self.parts {
            // SAFETY: `append` (below) only takes ranges that lie in the block.
            let start = unsafe { part.block.host_ptr().add(part.offset as usize) };
            let Some(start) = NonNull::new(start) else { continue };
            let owner: Arc<dyn MemoryOwner> = part.block.clone();
            // SAFETY: the range lies in the block, which `owner` keeps mapped; nobody makes references to its bytes.
            vector.append(unsafe { IoVector::foreign(owner, start, part.len as usize) });
        }
        vector
    }
}

impl AddressSpace {
    /// Appends `len` bytes at `addr` to `buffer`.
    ///
    /// # Errors
    /// Some of it is not memory, or not memory that can be written; what lay before it has been appended.
    pub fn dma_append(
        &self,
        buffer: &mut DmaBuffer,
        addr: u64,
        len: u64,
        access: DmaAccess,
    ) -> Result<(), AccessError> {
        self.for_each_part(addr, len, access, |block, offset, len| {
            match buffer.parts.last_mut() {
                Some(last) if Arc::ptr_eq(&last.block, block) && last.offset + last.len == offset => {
                    last.len += len;
                }
                _ => buffer.parts.push(Part { block: block.clone(), offset, len }),
            }
            // Guest addresses are 64 bits wide: callers bound what they add up, and this does not wrap.
            buffer.len = buffer.len.saturating_add(len);
        })
    }

    /// Says that the first `len` bytes of `buffer` were written through [`DmaBuffer::io_vector`], so that code which
    /// was translated from them is dropped.
    pub fn dma_written(&self, buffer: &DmaBuffer, len: u64) {
        let mut left = len;
        for part in &buffer.parts {
            let written = part.len.min(left);
            if written == 0 {
                return;
            }
            self.report(&part.block, part.offset, written);
            left -= written;
        }
    }

    /// Copies memory out.
    ///
    /// # Errors
    /// Some of it is not memory; bytes before it have been copied.
    pub fn dma_read(&self, addr: u64, out: &mut [u8]) -> Result<(), AccessError> {
        let mut done = 0;
        self.for_each_part(addr, out.len() as u64, DmaAccess::Read, |block, offset, len| {
            if let Some(part) = out.get_mut(done..done + len as usize) {
                block.read_bytes(offset, part);
            }
            done += len as usize;
        })
    }

    /// Copies bytes into memory.
    ///
    /// # Errors
    /// Some of it is not RAM; bytes before it have been written.
    pub fn dma_write(&self, addr: u64, data: &[u8]) -> Result<(), AccessError> {
        let mut done = 0;
        self.for_each_part(addr, data.len() as u64, DmaAccess::Write, |block, offset, len| {
            if let Some(part) = data.get(done..done + len as usize) {
                block.write_bytes(offset, part);
                self.report(block, offset, len);
            }
            done += len as usize;
        })
    }

    /// Reads a little-endian 16-bit number; in one piece if it is aligned.
    ///
    /// # Errors
    /// It is not in memory.
    pub fn dma_read_u16(&self, addr: u64) -> Result<u16, AccessError> {
        let mut value = None;
        if addr.is_multiple_of(2) {
            self.for_each_part(addr, 2, DmaAccess::Read, |block, offset, len| {
                if len == 2 {
                    value = Some(block.read(offset, 2) as u16);
                }
            })?;
        }
        if let Some(value) = value {
            return Ok(value);
        }
        let mut bytes = [0; 2];
        self.dma_read(addr, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    /// Writes a little-endian 16-bit number; in one piece if it is aligned.
    ///
    /// # Errors
    /// It is not in RAM.
    pub fn dma_write_u16(&self, addr: u64, value: u16) -> Result<(), AccessError> {
        let mut done = false;
        if addr.is_multiple_of(2) {
            self.for_each_part(addr, 2, DmaAccess::Write, |block, offset, len| {
                if len == 2 {
                    block.write(offset, 2, value.into());
                    self.report(block, offset, 2);
                    done = true;
                }
            })?;
        }
        if done { Ok(()) } else { self.dma_write(addr, &value.to_le_bytes()) }
    }

    /// Calls `act` with the pieces of memory behind a range of addresses: block, offset in it, and length.
    fn for_each_part(
        &self,
        addr: u64,
        len: u64,
        access: DmaAccess,
        mut act: impl FnMut(&Arc<RamBlock>, u64, u64),
    ) -> Result<(), AccessError> {
        let view = self.view();
        let (mut at, mut left) = (addr, len);
        while left > 0 {
            let nothing = AccessError { address: at };
            let range = view.lookup(at).ok_or(nothing)?;
            let delta = at - range.start;
            let len = (range.len - delta).min(left);
            match &range.target {
                Target::Ram { block, offset, writable, .. } if *writable || access == DmaAccess::Read => {
                    act(block, offset + delta, len);
                }
                _ => return Err(nothing),
            }
            left -= len;
            match at.checked_add(len) {
                Some(next) => at = next,
                None if left == 0 => {}
                None => return Err(nothing),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::tests::Probe;
    use crate::region::{Region, Topology};
    use crate::space::WriteObserver;
    use crate::{PAGE_HAS_CODE, PAGE_SIZE};
    use parking_lot::Mutex;
    use std::sync::atomic::Ordering::Relaxed;

    /// 8 KiB of RAM at 0 and at 0x4000, ROM at 0x2000, registers at 0x3000.
    fn space() -> (Arc<RamBlock>, Arc<AddressSpace>, Arc<Probe>) {
        let topology = Topology::new();
        let root = Region::container(&topology, "root", 1 << 20);
        let ram = Arc::new(RamBlock::new("ram", 0x4000).unwrap());
        let whole = Region::ram(&topology, ram.clone());
        root.add(0, &Region::alias(&topology, "low", &whole, 0, 0x2000));
        root.add(0x4000, &Region::alias(&topology, "high", &whole, 0x2000, 0x2000));
        root.add(0x2000, &Region::rom(&topology, Arc::new(RamBlock::new("rom", 0x1000).unwrap())));
        let probe = Arc::new(Probe::new(1, 8));
        root.add(0x3000, &Region::mmio(&topology, "dev", 0x1000, probe.clone()));
        (ram, AddressSpace::new("dma", root), probe)
    }

    #[test]
    fn registers_are_out_of_reach() {
        let (_, space, probe) = space();
        let mut bytes = [0; 16];
        assert_eq!(space.dma_read(0x2ff8, &mut bytes), Err(AccessError { address: 0x3000 }));
        assert_eq!(space.dma_write(0x3000, &bytes), Err(AccessError { address: 0x3000 }));
        assert_eq!(
            space.dma_write(0x2000, &bytes),
            Err(AccessError { address: 0x2000 }),
            "ROM is not written"
        );
        assert!(space.dma_read_u16(0x3000).is_err() && space.dma_write_u16(0x2fff, 1).is_err());
        assert!(space.dma_append(&mut DmaBuffer::default(), 0x1000, u64::MAX, DmaAccess::Read).is_err());
        assert!(space.dma_read(u64::MAX, &mut bytes).is_err());
        assert!(probe.log.lock().is_empty(), "the device was not asked");
    }

    #[test]
    fn a_buffer_is_the_memory_itself() {
        let (ram, space, _) = space();
        let mut buffer = DmaBuffer::default();
        space.dma_append(&mut buffer, 0x1ffe, 2, DmaAccess::Write).unwrap();
        space.dma_append(&mut buffer, 0x4000, 3, DmaAccess::Write).unwrap();
        assert_eq!((buffer.len(), buffer.parts.len()), (5, 1), "the two aliases are one piece of RAM");
        buffer.io_vector().write(0, &[1, 2, 3, 4, 5]);
        assert_eq!(ram.read(0x1ffe, 5), 0x05_0403_0201);
        space.dma_write_u16(0x4002, 0x0807).unwrap();
        assert_eq!(buffer.io_vector().to_vec(), [1, 2, 3, 4, 7]);
        assert_eq!(space.dma_read_u16(0x4003).unwrap(), 8);
    }

    #[derive(Default)]
    struct Writes(Mutex<Vec<(u64, u64)>>);

    impl WriteObserver for Writes {
        fn ram_written(&self, _: &RamBlock, offset: u64, len: u64) {
            self.0.lock().push((offset, len));
        }
    }

    #[test]
    fn a_write_over_code_is_told() {
        let (ram, space, _) = space();
        let writes = Arc::new(Writes::default());
        space.set_write_observer(writes.clone());
        ram.page_flags(1).store(PAGE_HAS_CODE, Relaxed);
        let mut buffer = DmaBuffer::default();
        space.dma_append(&mut buffer, PAGE_SIZE - 4, 8, DmaAccess::Write).unwrap();
        space.dma_written(&buffer, 4);
        assert!(writes.0.lock().is_empty(), "the code's page was not reached");
        space.dma_written(&buffer, 5);
        assert_eq!(writes.0.lock()[..], [(PAGE_SIZE - 4, 5)]);
    }
}

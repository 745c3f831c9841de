//! Requests of a virtio block device on a disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rhea_async_io::IoVector;
use rhea_block::{BlockError, BlockNode, Edge, Result, WriteFlags};

use crate::spec::{Effect, Header, ID_LENGTH, MAX_EFFECT_SECTORS, SECTOR, Status, request};

/// Longer transfers are done in pieces of as many bytes. Formats that compress or encrypt have a copy of a piece, and a
/// guest may have as many requests under way as its queues have places.
const PIECE: usize = 2 << 20;

/// What a [`Disk`] is made of.
#[derive(Debug)]
pub struct DiskOptions {
    /// The hold of the node, with the permission to read, and to write if `writable`.
    pub edge: Arc<Edge>,
    /// The guest may write.
    pub writable: bool,
    /// Every write is on stable storage before it is acknowledged, whatever the guest chooses.
    pub writethrough: bool,
    /// Bytes of a logical block: a power of two from 512 on.
    pub block_size: u32,
    /// What `GET_ID` answers; 20 bytes of it.
    pub id: String,
}

/// The disk behind a virtio block device.
#[derive(Debug)]
pub struct Disk {
    options: DiskOptions,
    /// Writes need not be on stable storage before a flush.
    writeback: AtomicBool,
}

impl Disk {
    /// A disk, in write-back mode.
    pub fn new(options: DiskOptions) -> Self {
        Self { options, writeback: AtomicBool::new(true) }
    }

    /// What it was made of.
    pub fn options(&self) -> &DiskOptions {
        &self.options
    }

    /// The node behind it.
    pub fn node(&self) -> Arc<BlockNode> {
        self.options.edge.node()
    }

    /// Whether writes are safe only after a flush, as far as the guest has a choice.
    pub fn writeback(&self) -> bool {
        self.writeback.load(Relaxed)
    }

    /// Chooses between write-back and write-through.
    pub fn set_writeback(&self, writeback: bool) {
        self.writeback.store(writeback, Relaxed);
    }

    /// Bytes that can be reached: whole sectors.
    pub fn capacity(&self) -> u64 {
        self.node().length() / SECTOR * SECTOR
    }

    /// Does a request and writes its status; returns the bytes of `input` that the driver will find written. `output` is
    /// what the driver has for the device; `input`, where the answer goes, ends with the status byte.
    pub async fn perform(&self, output: IoVector, mut input: IoVector) -> u32 {
        let Some(space) = input.len().checked_sub(1) else { return 0 };
        let mut status = input.split_off(space);
        let (result, written) = self.execute(output, &mut input).await;
        status.write(0, &[result as u8]);
        match result {
            Status::Ok => written.saturating_add(1),
            _ => 1,
        }
    }

    /// Whether a range of sectors lies within the disk, in whole blocks; its first byte and its length.
    fn range(&self, sector: u64, length: u64) -> Option<(u64, u64)> {
        let block = u64::from(self.options.block_size);
        let offset = sector.checked_mul(SECTOR)?;
        let end = offset.checked_add(length)?;
        let whole = offset.is_multiple_of(block) && length.is_multiple_of(block);
        (whole && end <= self.capacity()).then_some((offset, length))
    }

    /// Does a request: `output` is what the machine has for the device (with the header), `input` is memory for what the
    /// device has for the machine (without the status). Returns the status and the bytes written into `input`.
    async fn execute(&self, mut output: IoVector, input: &mut IoVector) -> (Status, u32) {
        if output.len() < Header::LENGTH {
            return (Status::IoError, 0);
        }
        let payload = output.split_off(Header::LENGTH);
        let header = Header::decode(&output);
        let space = input.len() as u32;
        let result = match header.kind {
            request::IN => self.read(header.sector, input).await.map(|()| space),
            request::OUT => self.write(header.sector, &payload).await.map(|()| 0),
            request::FLUSH => self.node().flush().await.map(|()| 0),
            request::GET_ID => Ok(self.identify(input)),
            request::DISCARD => self.discard(&payload).await.map(|()| 0),
            request::WRITE_ZEROES => self.write_zeroes(&payload).await.map(|()| 0),
            _ => Err(BlockError::os(libc::ENOTSUP)),
        };
        match result {
            Ok(count) => (Status::Ok, count),
            Err(error) if error.is_unsupported() => (Status::Unsupported, 0),
            Err(_) => (Status::IoError, 0),
        }
    }

    fn beyond() -> BlockError {
        BlockError::os(libc::EIO)
    }

    fn check_writable(&self) -> Result<()> {
        match self.options.writable {
            true => Ok(()),
            false => Err(BlockError::os(libc::EPERM)),
        }
    }

    fn write_flags(&self) -> WriteFlags {
        let through = self.options.writethrough || !self.writeback();
        if through { WriteFlags::FUA } else { WriteFlags::empty() }
    }

    async fn read(&self, sector: u64, data: &mut IoVector) -> Result<()> {
        let (mut offset, _) = self.range(sector, data.len() as u64).ok_or_else(Self::beyond)?;
        let (node, mut rest) = (self.node(), data.take());
        while !rest.is_empty() {
            let after = rest.split_off(rest.len().min(PIECE));
            node.read(offset, &mut rest).await?;
            offset += rest.len() as u64;
            data.append(rest);
            rest = after;
        }
        Ok(())
    }

    async fn write(&self, sector: u64, data: &IoVector) -> Result<()> {
        self.check_writable()?;
        let (offset, length) = self.range(sector, data.len() as u64).ok_or_else(Self::beyond)?;
        let (node, flags) = (self.node(), self.write_flags());
        for start in (0..length as usize).step_by(PIECE) {
            let end = data.len().min(start + PIECE);
            node.write(offset + start as u64, data.view().slice(start..end), flags).await?;
        }
        Ok(())
    }

    fn identify(&self, input: &mut IoVector) -> u32 {
        let mut id = [0; ID_LENGTH];
        let length = self.options.id.len().min(ID_LENGTH);
        id[..length].copy_from_slice(&self.options.id.as_bytes()[..length]);
        let space = input.len().min(ID_LENGTH);
        input.write(0, &id[..space]);
        space as u32
    }

    /// The one range of a discard or a write of zeroes.
    fn effect(&self, payload: &IoVector, may_unmap: bool) -> Result<(u64, u64, bool)> {
        self.check_writable()?;
        if payload.len() != Effect::LENGTH {
            // More ranges than the configuration allows, or not even one.
            return Err(BlockError::os(libc::ENOTSUP));
        }
        let effect = Effect::decode(payload);
        if effect.unknown_flags || (effect.unmap && !may_unmap) {
            return Err(BlockError::os(libc::ENOTSUP));
        }
        if effect.sectors > MAX_EFFECT_SECTORS {
            return Err(Self::beyond());
        }
        let length = u64::from(effect.sectors) * SECTOR;
        let (offset, length) = self.range(effect.sector, length).ok_or_else(Self::beyond)?;
        Ok((offset, length, effect.unmap))
    }

    async fn discard(&self, payload: &IoVector) -> Result<()> {
        let (offset, length, _) = self.effect(payload, false)?;
        self.node().discard(offset, length).await
    }

    async fn write_zeroes(&self, payload: &IoVector) -> Result<()> {
        let (offset, length, unmap) = self.effect(payload, true)?;
        let mut flags = self.write_flags();
        flags.set(WriteFlags::MAY_UNMAP, unmap);
        self.node().write_zeroes(offset, length, flags).await
    }
}

//! Requests of a virtio block device on a disk.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rhea_async_io::IoVector;
use rhea_block::{BlockError, Result, WriteFlags};

use super::spec::{Effect, Header, ID_LENGTH, MAX_EFFECT_SECTORS, SECTOR, Status, request};
use crate::hold::Hold;

/// The disk behind the device.
pub(super) struct Disk {
    pub(super) hold: Hold,
    pub(super) block_size: u32,
    /// What `GET_ID` answers.
    pub(super) id: String,
    /// Writes need not be on stable storage before a flush.
    pub(super) writeback: AtomicBool,
}

impl Disk {
    /// Whether a range of sectors lies within the disk, in whole blocks; its first byte and its length.
    fn range(&self, sector: u64, length: u64) -> Option<(u64, u64)> {
        let block = u64::from(self.block_size);
        let offset = sector.checked_mul(SECTOR)?;
        let end = offset.checked_add(length)?;
        let whole = offset.is_multiple_of(block) && length.is_multiple_of(block);
        // A disk may end within a sector; what lies there cannot be reached.
        let reach = self.hold.node().length() / SECTOR * SECTOR;
        (whole && end <= reach).then_some((offset, length))
    }

    /// Does a request: `output` is what the machine has for the device (with the header), `input` is memory for what the
    /// device has for the machine (without the status). Returns the status and the bytes written into `input`.
    pub(super) async fn execute(&self, mut output: IoVector, input: &mut IoVector) -> (Status, u32) {
        if output.len() < Header::LENGTH {
            return (Status::IoError, 0);
        }
        let payload = output.split_off(Header::LENGTH);
        let header = Header::decode(&output);
        let space = input.len() as u32;
        let result = match header.kind {
            request::IN => self.read(header.sector, input).await.map(|()| space),
            request::OUT => self.write(header.sector, &payload).await.map(|()| 0),
            request::FLUSH => self.hold.node().flush().await.map(|()| 0),
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
        match self.hold.writable {
            true => Ok(()),
            false => Err(BlockError::os(libc::EPERM)),
        }
    }

    fn write_flags(&self) -> WriteFlags {
        let through = !self.writeback.load(Relaxed);
        self.hold.write_flags() | if through { WriteFlags::FUA } else { WriteFlags::empty() }
    }

    async fn read(&self, sector: u64, data: &mut IoVector) -> Result<()> {
        let (offset, _) = self.range(sector, data.len() as u64).ok_or_else(Self::beyond)?;
        self.hold.node().read(offset, data).await
    }

    async fn write(&self, sector: u64, data: &IoVector) -> Result<()> {
        self.check_writable()?;
        let (offset, _) = self.range(sector, data.len() as u64).ok_or_else(Self::beyond)?;
        self.hold.node().write(offset, data, self.write_flags()).await
    }

    fn identify(&self, input: &mut IoVector) -> u32 {
        let mut id = [0; ID_LENGTH];
        let length = self.id.len().min(ID_LENGTH);
        id[..length].copy_from_slice(&self.id.as_bytes()[..length]);
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
        self.hold.node().discard(offset, length).await
    }

    async fn write_zeroes(&self, payload: &IoVector) -> Result<()> {
        let (offset, length, unmap) = self.effect(payload, true)?;
        let mut flags = self.write_flags();
        flags.set(WriteFlags::MAY_UNMAP, unmap);
        self.hold.node().write_zeroes(offset, length, flags).await
    }
}

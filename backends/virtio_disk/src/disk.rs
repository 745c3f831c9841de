//! Requests of a virtio block device on a disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rhea_async_io::IoVector;
use rhea_block::{BlockError, BlockNode, Edge, Result, WriteFlags};

use crate::spec::{Effect, Header, ID_LENGTH, MAX_EFFECT_SECTORS, SECTOR, Status, request};

/// Longer transfers are done in pieces of as many bytes. Formats that compress or encrypt have a copy of a piece, and a
/// guest may have as many requests under way as its queues have places.
const PIECE: usize = 2 << 20;
/// The same for zeroes, which may have to be written.
const ZERO_PIECE: u64 = 64 << 20;

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
    /// Requests are given up at their next piece.
    giving_up: AtomicBool,
}

impl Disk {
    /// A disk, in write-back mode.
    pub fn new(options: DiskOptions) -> Self {
        Self { options, writeback: AtomicBool::new(true), giving_up: AtomicBool::new(false) }
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

    /// While set, requests fail at their next piece: nobody waits for them any more, but for their end.
    pub fn give_up(&self, give_up: bool) {
        self.giving_up.store(give_up, Relaxed);
    }

    fn check_wanted(&self) -> Result<()> {
        if self.giving_up.load(Relaxed) { Err(BlockError::os(libc::ECANCELED)) } else { Ok(()) }
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
            self.check_wanted()?;
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
            self.check_wanted()?;
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
        let node = self.node();
        for start in (0..length).step_by(ZERO_PIECE as usize) {
            self.check_wanted()?;
            node.write_zeroes(offset + start, ZERO_PIECE.min(length - start), flags).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use rhea_async_io::{IoView, block_on};
    use rhea_block::{MemoryNode, Node, OpenFlags, Permissions, Role};

    /// What a disk's node was asked to do.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Asked {
        Read(u64, usize),
        Write(u64, usize, WriteFlags),
        Flush,
    }

    /// A disk in memory that notes what it is asked, and fails beyond 8 MiB.
    struct Recorder {
        memory: MemoryNode,
        asked: Arc<Mutex<Vec<Asked>>>,
    }

    const BAD: u64 = 8 << 20;

    #[async_trait::async_trait]
    impl Node for Recorder {
        fn limits(&self) -> rhea_block::Limits {
            rhea_block::Limits { native_write: WriteFlags::FUA, ..self.memory.limits() }
        }

        fn length(&self) -> u64 {
            self.memory.length()
        }

        async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
            self.asked.lock().push(Asked::Read(offset, data.len()));
            if offset >= BAD { Err(BlockError::os(libc::EIO)) } else { self.memory.read(offset, data).await }
        }

        async fn write(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
            self.asked.lock().push(Asked::Write(offset, data.len(), flags));
            if offset >= BAD {
                Err(BlockError::os(libc::ENOSPC))
            } else {
                self.memory.write(offset, data, flags).await
            }
        }

        async fn flush(&self) -> Result<()> {
            self.asked.lock().push(Asked::Flush);
            Ok(())
        }

        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }

    fn disk(block_size: u32) -> (Disk, Arc<Mutex<Vec<Asked>>>) {
        let asked = Arc::new(Mutex::default());
        let recorder = Recorder { memory: MemoryNode::new(vec![0; 10 << 20]), asked: asked.clone() };
        let node = BlockNode::anonymous("memory", Box::new(recorder), OpenFlags::empty());
        let edge = Edge::new("test", Role::File, node);
        let (needed, shared) = (Permissions::CONSISTENT_READ | Permissions::WRITE, Permissions::all());
        block_on(edge.set_permissions(needed, shared)).unwrap();
        let id = "a serial number of more than twenty bytes".into();
        (Disk::new(DiskOptions { edge, writable: true, writethrough: false, block_size, id }), asked)
    }

    /// Does a request with `payload` bytes out and room for `space` bytes in; what came in, unless it failed.
    fn perform(disk: &Disk, kind: u32, sector: u64, payload: &[u8], space: usize) -> Result<Vec<u8>, Status> {
        let mut output = (u128::from(kind) | u128::from(sector) << 64).to_le_bytes().to_vec();
        output.extend_from_slice(payload);
        let mut input = IoVector::zeroed(space);
        let (status, written) = block_on(disk.execute(IoVector::from_slice(&output), &mut input));
        match status {
            Status::Ok => Ok(input.to_vec()[..written as usize].to_vec()),
            status => Err(status),
        }
    }

    #[test]
    fn long_transfers_go_in_pieces() {
        let (disk, asked) = disk(512);
        let data: Vec<u8> = (0..5 << 20).map(|i: u32| (i >> 9) as u8).collect();
        perform(&disk, request::OUT, 4, &data, 0).unwrap();
        assert!(perform(&disk, request::IN, 4, &[], data.len()).unwrap() == data);
        let none = WriteFlags::empty();
        let pieces = [(2048, PIECE), (2048 + PIECE as u64, PIECE), (2048 + 2 * PIECE as u64, 1 << 20)];
        let writes = pieces.map(|(offset, length)| Asked::Write(offset, length, none));
        let reads = pieces.map(|(offset, length)| Asked::Read(offset, length));
        assert_eq!(asked.lock()[..], [writes, reads].concat());
    }

    #[test]
    fn what_nobody_wants_any_more_is_given_up() {
        let (disk, asked) = disk(512);
        disk.give_up(true);
        let failed = Err(Status::IoError);
        assert_eq!(perform(&disk, request::IN, 0, &[], 512), failed);
        assert_eq!(perform(&disk, request::OUT, 0, &[0; 512], 0), failed);
        assert!(asked.lock().is_empty());
        disk.give_up(false);
        perform(&disk, request::IN, 0, &[], 512).unwrap();
    }

    #[test]
    fn write_through_mode_makes_every_write_safe() {
        let (disk, asked) = disk(512);
        disk.set_writeback(false);
        perform(&disk, request::OUT, 1, &[1; 512], 0).unwrap();
        disk.set_writeback(true);
        perform(&disk, request::OUT, 2, &[1; 512], 0).unwrap();
        perform(&disk, request::FLUSH, 0, &[], 0).unwrap();
        let none = WriteFlags::empty();
        let expected = [Asked::Write(512, 512, WriteFlags::FUA), Asked::Write(1024, 512, none), Asked::Flush];
        assert_eq!(asked.lock()[..], expected);
    }

    #[test]
    fn errors_are_the_drivers_to_know() {
        let (disk, _) = disk(4096);
        let bad = BAD / SECTOR;
        let failed = Err(Status::IoError);
        assert_eq!(perform(&disk, request::IN, bad, &[], 4096), failed);
        assert_eq!(perform(&disk, request::OUT, bad, &[0; 4096], 0), failed, "no space");
        assert_eq!(perform(&disk, request::IN, 8, &[], 512), failed, "part of a block");
        assert_eq!(perform(&disk, request::IN, 1, &[], 4096), failed, "not at a block");
        assert_eq!(perform(&disk, request::IN, u64::MAX, &[], 4096), failed);
        assert_eq!(perform(&disk, 99, 0, &[], 0), Err(Status::Unsupported));
        assert_eq!(perform(&disk, request::GET_ID, 0, &[], 30).unwrap(), b"a serial number of m");
        assert_eq!(block_on(disk.perform(IoVector::default(), IoVector::zeroed(1))), 1, "no header");
        assert_eq!(block_on(disk.perform(IoVector::default(), IoVector::default())), 0, "no status");
    }
}

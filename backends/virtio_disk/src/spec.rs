//! The virtio block device as the specification has it (Virtual I/O Device 1.2, section 5.2).

use rhea_async_io::IoVector;

/// Bytes that sector numbers count.
pub const SECTOR: u64 = 512;

/// Feature bits (section 5.2.3).
pub mod feature {
    /// The most segments in a request are in `seg_max`.
    pub const SEG_MAX: u64 = 1 << 2;
    /// The disk cannot be written.
    pub const RO: u64 = 1 << 5;
    /// The block size is in `blk_size`.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// Flushes are taken.
    pub const FLUSH: u64 = 1 << 9;
    /// The best way to lay out I/O is in `topology`.
    pub const TOPOLOGY: u64 = 1 << 10;
    /// The driver may choose between write-back and write-through.
    pub const CONFIG_WCE: u64 = 1 << 11;
    /// There are several request queues.
    pub const MQ: u64 = 1 << 12;
    /// Discards are taken.
    pub const DISCARD: u64 = 1 << 13;
    /// Writes of zeroes are taken.
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// Request types (section 5.2.6).
pub mod request {
    /// Read.
    pub const IN: u32 = 0;
    /// Write.
    pub const OUT: u32 = 1;
    /// Make what was written safe.
    pub const FLUSH: u32 = 4;
    /// Say the serial number.
    pub const GET_ID: u32 = 8;
    /// The contents of a range are not needed any more.
    pub const DISCARD: u32 = 11;
    /// Write zeroes over a range.
    pub const WRITE_ZEROES: u32 = 13;
}

/// The last byte of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// It failed.
    IoError = 1,
    /// There is no such request here.
    Unsupported = 2,
}

/// Bytes of the answer to `GET_ID`.
pub const ID_LENGTH: usize = 20;

/// Sectors of the longest discard or write of zeroes, as Linux likes it: less than 2 GiB.
pub const MAX_EFFECT_SECTORS: u32 = (1 << 22) - 1;

/// Where `writeback` lies in the configuration.
pub const WRITEBACK_OFFSET: u32 = 32;

/// What the configuration space says (section 5.2.4).
#[derive(Debug, Clone, Copy)]
pub struct Configuration {
    /// Bytes of the disk.
    pub capacity: u64,
    /// Segments of data in a request at most.
    pub seg_max: u32,
    /// Bytes of a logical block.
    pub block_size: u32,
    /// Bytes of a physical block: `block_size` times a power of two.
    pub physical_block_size: u32,
    /// Bytes of the least I/O that is not slow; 0 if not known.
    pub min_io_size: u32,
    /// Bytes of the best I/O; 0 if not known.
    pub opt_io_size: u32,
    /// Request queues.
    pub queues: u16,
    /// Writes are safe only after a flush.
    pub writeback: bool,
}

impl Configuration {
    /// Bytes of [`Configuration::encode`].
    pub const LENGTH: usize = 60;

    /// `struct virtio_blk_config`, up to `write_zeroes_may_unmap` and its padding.
    pub fn encode(&self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        let block = self.block_size.max(1);
        put(0, &(self.capacity / SECTOR).to_le_bytes());
        put(12, &self.seg_max.to_le_bytes());
        put(20, &self.block_size.to_le_bytes());
        // Topology: the exponent of logical blocks in a physical one, none of which is set off; sizes in logical blocks.
        let exponent = (self.physical_block_size / block).max(1).ilog2();
        let least = (self.min_io_size / block).clamp(1, u32::from(u16::MAX));
        put(24, &[exponent as u8, 0]);
        put(26, &(least as u16).to_le_bytes());
        put(28, &(self.opt_io_size / block).to_le_bytes());
        put(WRITEBACK_OFFSET as usize, &[u8::from(self.writeback)]);
        put(34, &self.queues.to_le_bytes());
        put(36, &MAX_EFFECT_SECTORS.to_le_bytes());
        // max_discard_seg, discard_sector_alignment
        put(40, &1_u32.to_le_bytes());
        put(44, &((u64::from(self.block_size) / SECTOR) as u32).to_le_bytes());
        put(48, &MAX_EFFECT_SECTORS.to_le_bytes());
        put(52, &1_u32.to_le_bytes());
        put(56, &[1]);
        bytes
    }
}

/// A request's first 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Request type.
    pub kind: u32,
    /// First sector.
    pub sector: u64,
}

impl Header {
    /// Bytes of a header.
    pub const LENGTH: usize = 16;

    /// Reads the first [`Header::LENGTH`] bytes of `data`, which has as many.
    pub fn decode(data: &IoVector) -> Self {
        let (mut kind, mut sector) = ([0; 4], [0; 8]);
        data.read(0, &mut kind);
        data.read(8, &mut sector);
        Self { kind: u32::from_le_bytes(kind), sector: u64::from_le_bytes(sector) }
    }
}

/// The payload of a discard or a write of zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect {
    /// First sector.
    pub sector: u64,
    /// Sectors.
    pub sectors: u32,
    /// Storage may be given back.
    pub unmap: bool,
    /// Flags beside `unmap`, which must be 0.
    pub unknown_flags: bool,
}

impl Effect {
    /// Bytes of a payload.
    pub const LENGTH: usize = 16;

    /// Reads the first [`Effect::LENGTH`] bytes of `data`, which has as many.
    pub fn decode(data: &IoVector) -> Self {
        let (mut sector, mut sectors, mut flags) = ([0; 8], [0; 4], [0; 4]);
        data.read(0, &mut sector);
        data.read(8, &mut sectors);
        data.read(12, &mut flags);
        let flags = u32::from_le_bytes(flags);
        Self {
            sector: u64::from_le_bytes(sector),
            sectors: u32::from_le_bytes(sectors),
            unmap: flags & 1 != 0,
            unknown_flags: flags & !1 != 0,
        }
    }
}

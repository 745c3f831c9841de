//! The virtio block device as the specification has it (Virtual I/O Device 1.2, section 5.2).

use rhea_async_io::IoVector;

/// Bytes that sector numbers count.
pub(super) const SECTOR: u64 = 512;

/// Feature bits.
pub(super) mod feature {
    pub(crate) const SEG_MAX: u64 = 1 << 2;
    pub(crate) const RO: u64 = 1 << 5;
    pub(crate) const BLK_SIZE: u64 = 1 << 6;
    pub(crate) const FLUSH: u64 = 1 << 9;
    pub(crate) const TOPOLOGY: u64 = 1 << 10;
    pub(crate) const CONFIG_WCE: u64 = 1 << 11;
    pub(crate) const MQ: u64 = 1 << 12;
    pub(crate) const DISCARD: u64 = 1 << 13;
    pub(crate) const WRITE_ZEROES: u64 = 1 << 14;
    /// VIRTIO_RING_F_INDIRECT_DESC
    pub(crate) const INDIRECT_DESC: u64 = 1 << 28;
    /// VIRTIO_RING_F_EVENT_IDX
    pub(crate) const EVENT_IDX: u64 = 1 << 29;
    /// VIRTIO_F_VERSION_1
    pub(crate) const VERSION_1: u64 = 1 << 32;
}

/// Request types.
pub(super) mod request {
    pub(crate) const IN: u32 = 0;
    pub(crate) const OUT: u32 = 1;
    pub(crate) const FLUSH: u32 = 4;
    pub(crate) const GET_ID: u32 = 8;
    pub(crate) const DISCARD: u32 = 11;
    pub(crate) const WRITE_ZEROES: u32 = 13;
}

/// The last byte of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// Bytes of the answer to `GET_ID`.
pub(super) const ID_LENGTH: usize = 20;

/// Sectors of the longest discard or write of zeroes, as Linux likes it: less than 2 GiB.
pub(super) const MAX_EFFECT_SECTORS: u32 = (1 << 22) - 1;

/// Where `writeback` lies in the configuration.
pub(super) const WRITEBACK_OFFSET: u32 = 32;

/// What the configuration space says.
pub(super) struct Configuration {
    pub(super) capacity: u64,
    pub(super) seg_max: u32,
    pub(super) block_size: u32,
    pub(super) queues: u16,
    pub(super) writeback: bool,
}

impl Configuration {
    /// `struct virtio_blk_config`, up to `write_zeroes_may_unmap` and its padding.
    pub(super) fn encode(&self) -> [u8; 60] {
        let mut bytes = [0; 60];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &(self.capacity / SECTOR).to_le_bytes());
        put(12, &self.seg_max.to_le_bytes());
        put(20, &self.block_size.to_le_bytes());
        // topology: one logical block per physical one, aligned; min_io_size 1 block
        put(26, &1_u16.to_le_bytes());
        put(WRITEBACK_OFFSET as usize, &[u8::from(self.writeback)]);
        put(34, &self.queues.to_le_bytes());
        put(36, &MAX_EFFECT_SECTORS.to_le_bytes());
        // max_discard_seg, discard_sector_alignment
        put(40, &1_u32.to_le_bytes());
        put(44, &((self.block_size as u64 / SECTOR) as u32).to_le_bytes());
        put(48, &MAX_EFFECT_SECTORS.to_le_bytes());
        put(52, &1_u32.to_le_bytes());
        put(56, &[1]);
        bytes
    }
}

/// A request's first 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: u32,
    pub(super) sector: u64,
}

impl Header {
    pub(super) const LENGTH: usize = 16;

    pub(super) fn decode(data: &IoVector) -> Self {
        let mut bytes = [0; Self::LENGTH];
        data.read(0, &mut bytes);
        Self {
            kind: u32::from_le_bytes(bytes[0..4].try_into().expect("four bytes")),
            sector: u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes")),
        }
    }
}

/// The payload of a discard or a write of zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) sector: u64,
    pub(super) sectors: u32,
    pub(super) unmap: bool,
    /// Flags beside `unmap`, which must be 0.
    pub(super) unknown_flags: bool,
}

impl Effect {
    pub(super) const LENGTH: usize = 16;

    pub(super) fn decode(data: &IoVector) -> Self {
        let mut bytes = [0; Self::LENGTH];
        data.read(0, &mut bytes);
        let flags = u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes"));
        Self {
            sector: u64::from_le_bytes(bytes[0..8].try_into().expect("eight bytes")),
            sectors: u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes")),
            unmap: flags & 1 != 0,
            unknown_flags: flags & !1 != 0,
        }
    }
}

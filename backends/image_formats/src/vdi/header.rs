//! The header.

use rhea_block::{BlockError, Result};

use crate::fields::{le32, le64, put_le32, put_le64};

/// Bytes of the header in the file.
pub(super) const LEN: usize = 512;
/// Bytes in a block; the only size there is in practice.
pub(super) const BLOCK: u64 = 1 << 20;
/// The map's entry for a block without data.
pub(super) const UNALLOCATED: u32 = 0xffff_ffff;
/// The map's entry for a block that was discarded: it reads as zeroes.
pub(super) const DISCARDED: u32 = 0xffff_fffe;
/// The most blocks an image may have.
pub(super) const MAX_BLOCKS: u32 = 0x1fff_ff80;
/// The longest disk.
pub(super) const MAX_DISK: u64 = MAX_BLOCKS as u64 * BLOCK;

/// Where the fields are.
mod at {
    pub(super) const SIGNATURE: usize = 0x40;
    pub(super) const VERSION: usize = 0x44;
    pub(super) const HEADER_SIZE: usize = 0x48;
    pub(super) const IMAGE_TYPE: usize = 0x4c;
    pub(super) const OFFSET_BMAP: usize = 0x154;
    pub(super) const OFFSET_DATA: usize = 0x158;
    pub(super) const SECTOR_SIZE: usize = 0x168;
    pub(super) const DISK_SIZE: usize = 0x170;
    pub(super) const BLOCK_SIZE: usize = 0x178;
    pub(super) const BLOCKS_IN_IMAGE: usize = 0x180;
    pub(super) const BLOCKS_ALLOCATED: usize = 0x184;
    pub(super) const UUID_IMAGE: usize = 0x188;
    pub(super) const UUID_LAST_SNAP: usize = 0x198;
    pub(super) const UUID_LINK: usize = 0x1a8;
    pub(super) const UUID_PARENT: usize = 0x1b8;
}

/// Where `blocks_allocated` is in the file.
pub(super) const BLOCKS_ALLOCATED_AT: u64 = at::BLOCKS_ALLOCATED as u64;

const SIGNATURE: u32 = 0xbeda_107f;
const VERSION_1_1: u32 = 0x0001_0001;
const TYPE_DYNAMIC: u32 = 1;
const TYPE_STATIC: u32 = 2;

/// What the header says.
#[derive(Debug, Clone)]
pub(super) struct Header {
    /// All blocks have their place in the file.
    pub(super) is_static: bool,
    /// Where the map is in the file.
    pub(super) offset_bmap: u32,
    /// Where the blocks start in the file.
    pub(super) offset_data: u32,
    /// Bytes of the disk.
    pub(super) disk_size: u64,
    /// Entries of the map.
    pub(super) blocks_in_image: u32,
    /// Blocks in the file.
    pub(super) blocks_allocated: u32,
}

pub(super) fn is_vdi(start: &[u8]) -> bool {
    start.len() >= LEN && le32(start, at::SIGNATURE) == SIGNATURE
}

fn refuse(what: String) -> BlockError {
    BlockError::unsupported(format!("unsupported VDI image ({what})"))
}

impl Header {
    pub(super) fn parse(bytes: &[u8; LEN]) -> Result<Self> {
        let disk_size = le64(bytes, at::DISK_SIZE);
        if disk_size > MAX_DISK {
            return Err(too_large(disk_size));
        }
        let disk_size = disk_size.next_multiple_of(512);
        let signature = le32(bytes, at::SIGNATURE);
        if signature != SIGNATURE {
            return Err(BlockError::malformed(format!(
                "Image not in VDI format (bad signature {signature:08x})"
            )));
        }
        let version = le32(bytes, at::VERSION);
        if version != VERSION_1_1 {
            return Err(refuse(format!("version {}.{}", version >> 16, version & 0xffff)));
        }
        let header = Self {
            is_static: le32(bytes, at::IMAGE_TYPE) == TYPE_STATIC,
            offset_bmap: le32(bytes, at::OFFSET_BMAP),
            offset_data: le32(bytes, at::OFFSET_DATA),
            disk_size,
            blocks_in_image: le32(bytes, at::BLOCKS_IN_IMAGE),
            blocks_allocated: le32(bytes, at::BLOCKS_ALLOCATED),
        };
        header.validate(bytes)?;
        Ok(header)
    }

    fn validate(&self, bytes: &[u8; LEN]) -> Result<()> {
        if !self.offset_bmap.is_multiple_of(512) {
            return Err(refuse(format!("unaligned block map offset 0x{:x}", self.offset_bmap)));
        }
        if !self.offset_data.is_multiple_of(512) {
            return Err(refuse(format!("unaligned data offset 0x{:x}", self.offset_data)));
        }
        let sector_size = le32(bytes, at::SECTOR_SIZE);
        if sector_size != 512 {
            return Err(refuse(format!("sector size {sector_size} is not 512")));
        }
        let block_size = le32(bytes, at::BLOCK_SIZE);
        if u64::from(block_size) != BLOCK {
            return Err(refuse(format!("block size {block_size} is not {BLOCK}")));
        }
        let room = u64::from(self.blocks_in_image) * BLOCK;
        if self.disk_size > room {
            return Err(refuse(format!("disk size {}, image bitmap has room for {room}", self.disk_size)));
        }
        for (name, at) in [("link", at::UUID_LINK), ("parent", at::UUID_PARENT)] {
            if bytes[at..at + 16].iter().any(|&b| b != 0) {
                return Err(refuse(format!("non-NULL {name} UUID")));
            }
        }
        if self.blocks_in_image > MAX_BLOCKS {
            return Err(refuse(format!("too many blocks {}, max is {MAX_BLOCKS}", self.blocks_in_image)));
        }
        Ok(())
    }

    /// The header of a new image.
    pub(super) fn build(&self, uuids: [[u8; 16]; 2]) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let text = b"<<< QEMU VM Virtual Disk Image >>>\n";
        bytes[..text.len()].copy_from_slice(text);
        put_le32(&mut bytes, at::SIGNATURE, SIGNATURE);
        put_le32(&mut bytes, at::VERSION, VERSION_1_1);
        put_le32(&mut bytes, at::HEADER_SIZE, 0x180);
        put_le32(&mut bytes, at::IMAGE_TYPE, if self.is_static { TYPE_STATIC } else { TYPE_DYNAMIC });
        put_le32(&mut bytes, at::OFFSET_BMAP, self.offset_bmap);
        put_le32(&mut bytes, at::OFFSET_DATA, self.offset_data);
        put_le32(&mut bytes, at::SECTOR_SIZE, 512);
        put_le64(&mut bytes, at::DISK_SIZE, self.disk_size);
        put_le32(&mut bytes, at::BLOCK_SIZE, BLOCK as u32);
        put_le32(&mut bytes, at::BLOCKS_IN_IMAGE, self.blocks_in_image);
        put_le32(&mut bytes, at::BLOCKS_ALLOCATED, self.blocks_allocated);
        bytes[at::UUID_IMAGE..at::UUID_IMAGE + 16].copy_from_slice(&uuids[0]);
        bytes[at::UUID_LAST_SNAP..at::UUID_LAST_SNAP + 16].copy_from_slice(&uuids[1]);
        bytes
    }
}

pub(super) fn too_large(size: u64) -> BlockError {
    BlockError::unsupported(format!(
        "Unsupported VDI image size (size is 0x{size:x}, max supported is 0x{MAX_DISK:x})"
    ))
}

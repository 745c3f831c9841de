//! The footer, and the dynamic disk header.

use rhea_block::{BlockError, BlockNode, Result, ResultExt};

use super::geometry::Geometry;
use crate::fields::{be16, be32, be64, put_be16, put_be32, put_be64};
use crate::uuid;

/// Bytes of the footer.
pub(super) const LEN: usize = 512;
/// Bytes of the dynamic disk header.
pub(super) const DYNAMIC_LEN: usize = 1024;
/// What footers start with.
pub(super) const COOKIE: &[u8; 8] = b"conectix";
const DYNAMIC_COOKIE: &[u8; 8] = b"cxsparse";
/// The longest disk: 2040 GiB.
pub(super) const MAX_SECTORS: u64 = 0xff00_0000;

/// Fields of the footer.
mod at {
    pub(super) const FEATURES: usize = 8;
    pub(super) const VERSION: usize = 12;
    pub(super) const DATA_OFFSET: usize = 16;
    pub(super) const TIMESTAMP: usize = 24;
    pub(super) const CREATOR_APP: usize = 28;
    pub(super) const CREATOR_VERSION: usize = 32;
    pub(super) const CREATOR_OS: usize = 36;
    pub(super) const ORIGINAL_SIZE: usize = 40;
    pub(super) const CURRENT_SIZE: usize = 48;
    pub(super) const CYLINDERS: usize = 56;
    pub(super) const HEADS: usize = 58;
    pub(super) const SECTORS: usize = 59;
    pub(super) const TYPE: usize = 60;
    pub(super) const CHECKSUM: usize = 64;
    pub(super) const UUID: usize = 68;
}

/// Fields of the dynamic disk header.
mod dynamic {
    pub(super) const DATA_OFFSET: usize = 8;
    pub(super) const TABLE_OFFSET: usize = 16;
    pub(super) const VERSION: usize = 24;
    pub(super) const MAX_TABLE_ENTRIES: usize = 28;
    pub(super) const BLOCK_SIZE: usize = 32;
    pub(super) const CHECKSUM: usize = 36;
}

pub(super) const TYPE_FIXED: u32 = 2;
pub(super) const TYPE_DYNAMIC: u32 = 3;
const TYPE_DIFFERENCING: u32 = 4;

/// 1 January 2000, in seconds since 1970.
const EPOCH: u64 = 946_684_800;

/// Creators whose `current size` is the disk's size, whatever the geometry says.
const BY_CURRENT_SIZE: [&[u8; 4]; 8] =
    [b"win ", b"vs  ", b"d2v ", b"tap\0", b"CTXS", b"qem2", b"wa\0\0", b"wa\0\x06"];

/// Where the disk's size comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SizeFrom {
    /// As the program that created the image means it.
    Creator,
    /// The geometry.
    Geometry,
    /// The field `current size`.
    CurrentSize,
}

/// A footer that was found in a file.
#[derive(Debug)]
pub(super) struct Footer {
    pub(super) bytes: [u8; LEN],
    /// It is the copy at a dynamic image's start.
    pub(super) at_start: bool,
    /// Bytes of the disk.
    pub(super) length: u64,
}

/// The ones' complement of the sum of all bytes, without the checksum itself.
fn checksum(bytes: &[u8], field: usize) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|&b| u32::from(b)).sum::<u32>();
    !(sum(bytes) - sum(&bytes[field..field + 4]))
}

pub(super) fn seal(bytes: &mut [u8; LEN]) {
    let sum = checksum(bytes, at::CHECKSUM);
    put_be32(bytes, at::CHECKSUM, sum);
}

/// Finds the footer's copy at the file's start, or the footer of a fixed image at its end.
pub(super) async fn find(file: &BlockNode, size_from: SizeFrom) -> Result<Footer> {
    let mut bytes = [0; LEN];
    file.read_bytes(0, &mut bytes).await.context("Could not read the VPC header")?;
    let at_start = bytes.starts_with(COOKIE);
    if !at_start {
        let invalid = || BlockError::malformed("invalid VPC image");
        let end = file.length().checked_sub(LEN as u64).ok_or_else(invalid)?;
        file.read_bytes(end, &mut bytes).await.context("Could not read the VPC footer")?;
        if !bytes.starts_with(COOKIE) || be32(&bytes, at::TYPE) != TYPE_FIXED {
            return Err(invalid());
        }
    }
    if checksum(&bytes, at::CHECKSUM) != be32(&bytes, at::CHECKSUM) {
        return Err(BlockError::malformed("Incorrect header checksum"));
    }
    if be32(&bytes, at::TYPE) == TYPE_DIFFERENCING {
        return Err(BlockError::unsupported("differencing VPC images (disk type 4) are not supported"));
    }
    let geometry = Geometry {
        cylinders: be16(&bytes, at::CYLINDERS),
        heads: bytes[at::HEADS],
        sectors: bytes[at::SECTORS],
    };
    let creator = &bytes[at::CREATOR_APP..at::CREATOR_APP + 4];
    let by_size = match size_from {
        SizeFrom::Creator => geometry == Geometry::MAX || BY_CURRENT_SIZE.iter().any(|c| creator == *c),
        SizeFrom::Geometry => false,
        SizeFrom::CurrentSize => true,
    };
    let length = if by_size { be64(&bytes, at::CURRENT_SIZE) / 512 * 512 } else { geometry.total() * 512 };
    if length > MAX_SECTORS * 512 {
        return Err(BlockError::new(
            libc::EFBIG,
            format!("current size {length} is too large for a VPC image"),
        ));
    }
    Ok(Footer { bytes, at_start, length })
}

impl Footer {
    /// Where the dynamic disk header is.
    pub(super) fn data_offset(&self) -> u64 {
        be64(&self.bytes, at::DATA_OFFSET)
    }
}

/// What a new image's footer says.
pub(super) struct NewFooter {
    pub(super) length: u64,
    pub(super) geometry: Geometry,
    pub(super) force_size: bool,
    pub(super) kind: u32,
}

impl NewFooter {
    pub(super) fn build(&self) -> Result<[u8; LEN]> {
        let mut bytes = [0; LEN];
        bytes[..8].copy_from_slice(COOKIE);
        put_be32(&mut bytes, at::FEATURES, 2);
        put_be32(&mut bytes, at::VERSION, 0x0001_0000);
        let dynamic = self.kind == TYPE_DYNAMIC;
        put_be64(&mut bytes, at::DATA_OFFSET, if dynamic { LEN as u64 } else { u64::MAX });
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        put_be32(&mut bytes, at::TIMESTAMP, now.saturating_sub(EPOCH) as u32);
        let creator = if self.force_size { b"qem2" } else { b"qemu" };
        bytes[at::CREATOR_APP..at::CREATOR_APP + 4].copy_from_slice(creator);
        put_be32(&mut bytes, at::CREATOR_VERSION, 0x0005_0003);
        bytes[at::CREATOR_OS..at::CREATOR_OS + 4].copy_from_slice(b"Wi2k");
        put_be64(&mut bytes, at::ORIGINAL_SIZE, self.length);
        put_be64(&mut bytes, at::CURRENT_SIZE, self.length);
        put_be16(&mut bytes, at::CYLINDERS, self.geometry.cylinders);
        bytes[at::HEADS] = self.geometry.heads;
        bytes[at::SECTORS] = self.geometry.sectors;
        put_be32(&mut bytes, at::TYPE, self.kind);
        bytes[at::UUID..at::UUID + 16].copy_from_slice(&uuid::random()?);
        seal(&mut bytes);
        Ok(bytes)
    }
}

/// What the dynamic disk header says.
#[derive(Debug, Clone, Copy)]
pub(super) struct DynamicHeader {
    pub(super) table_offset: u64,
    pub(super) max_table_entries: u32,
    pub(super) block_size: u32,
}

impl DynamicHeader {
    pub(super) fn parse(bytes: &[u8; DYNAMIC_LEN], disk_length: u64) -> Result<Self> {
        if !bytes.starts_with(DYNAMIC_COOKIE) {
            return Err(BlockError::malformed("Invalid header magic"));
        }
        let header = Self {
            table_offset: be64(bytes, dynamic::TABLE_OFFSET),
            max_table_entries: be32(bytes, dynamic::MAX_TABLE_ENTRIES),
            block_size: be32(bytes, dynamic::BLOCK_SIZE),
        };
        if !header.block_size.is_power_of_two() || header.block_size < 512 {
            return Err(BlockError::malformed(format!("Invalid block size {}", header.block_size)));
        }
        let entries = header.max_table_entries;
        if entries > i32::MAX as u32 / 4 {
            return Err(BlockError::malformed(format!("Max Table Entries too large ({})", entries as i32)));
        }
        if u64::from(entries) * u64::from(header.block_size) < disk_length {
            return Err(BlockError::malformed("Page table too small"));
        }
        Ok(header)
    }

    pub(super) fn build(&self) -> [u8; DYNAMIC_LEN] {
        let mut bytes = [0; DYNAMIC_LEN];
        bytes[..8].copy_from_slice(DYNAMIC_COOKIE);
        put_be64(&mut bytes, dynamic::DATA_OFFSET, u64::MAX);
        put_be64(&mut bytes, dynamic::TABLE_OFFSET, self.table_offset);
        put_be32(&mut bytes, dynamic::VERSION, 0x0001_0000);
        put_be32(&mut bytes, dynamic::MAX_TABLE_ENTRIES, self.max_table_entries);
        put_be32(&mut bytes, dynamic::BLOCK_SIZE, self.block_size);
        let sum = checksum(&bytes, dynamic::CHECKSUM);
        put_be32(&mut bytes, dynamic::CHECKSUM, sum);
        bytes
    }

    /// Bytes of a block's bitmap, in whole sectors.
    pub(super) fn bitmap_len(&self) -> u64 {
        u64::from(self.block_size).div_ceil(512 * 8).next_multiple_of(512)
    }
}

//! The header.

use rhea_block::{BlockError, Result};

use crate::fields::{le32, le64, put_le32, put_le64};

/// Bytes of the header.
pub(super) const LEN: usize = 64;
const MAGIC_SECTORS: &[u8; 16] = b"WithoutFreeSpace";
const MAGIC_CLUSTERS: &[u8; 16] = b"WithouFreSpacExt";
const VERSION: u32 = 2;
/// The image is open for writing, or was not closed.
pub(super) const IN_USE: u32 = 0x746f_6e59;

/// Where fields are that are changed in place.
pub(super) mod at {
    pub(in super::super) const IN_USE: usize = 44;
    pub(in super::super) const DATA_OFF: usize = 48;
    pub(in super::super) const EXT_OFF: usize = 56;
}

/// What the header says.
#[derive(Debug, Clone)]
pub(super) struct Header {
    /// Sectors that an entry of the BAT counts in.
    pub(super) entry_unit: u64,
    /// Bytes in a cluster.
    pub(super) cluster_size: u64,
    pub(super) bat_entries: u32,
    /// Bytes of the disk.
    pub(super) length: u64,
    pub(super) in_use: bool,
    /// Where the field says that data starts, in bytes; 0: behind the BAT.
    pub(super) data_off: u64,
    /// Where the format extension is, in bytes; 0: nowhere.
    pub(super) ext_off: u64,
}

pub(super) fn is_parallels(start: &[u8]) -> bool {
    start.len() >= LEN
        && (start.starts_with(MAGIC_SECTORS) || start.starts_with(MAGIC_CLUSTERS))
        && le32(start, 16) == VERSION
}

impl Header {
    pub(super) fn parse(bytes: &[u8; LEN]) -> Result<Self> {
        if !is_parallels(bytes) {
            return Err(BlockError::malformed("Image not in Parallels format"));
        }
        let tracks = le32(bytes, 28);
        if tracks == 0 {
            return Err(BlockError::malformed("Invalid image: Zero sectors per track"));
        }
        if tracks > i32::MAX as u32 / 513 {
            return Err(BlockError::malformed("Invalid image: Too big cluster"));
        }
        let bat_entries = le32(bytes, 32);
        if bat_entries > i32::MAX as u32 / 4 {
            return Err(BlockError::new(libc::EFBIG, "Catalog too large"));
        }
        let newer = bytes.starts_with(MAGIC_CLUSTERS);
        let sectors = if newer { le64(bytes, 36) } else { le32(bytes, 36).into() };
        let length = sectors
            .checked_mul(512)
            .filter(|&length| length <= rhea_block::MAX_LENGTH)
            .ok_or_else(|| BlockError::new(libc::EFBIG, "nb_sectors is too large"))?;
        let ext_off = le64(bytes, at::EXT_OFF)
            .checked_mul(512)
            .ok_or_else(|| BlockError::malformed("ext_off is too large"))?;
        Ok(Self {
            entry_unit: if newer { tracks.into() } else { 1 },
            cluster_size: u64::from(tracks) * 512,
            bat_entries,
            length,
            in_use: le32(bytes, at::IN_USE) == IN_USE,
            data_off: u64::from(le32(bytes, at::DATA_OFF)) * 512,
            ext_off,
        })
    }

    /// The end of the BAT.
    pub(super) fn bat_end(&self) -> u64 {
        LEN as u64 + u64::from(self.bat_entries) * 4
    }

    /// Where data starts.
    pub(super) fn data_start(&self) -> u64 {
        match self.data_off_is_right() && self.data_off != 0 {
            true => self.data_off,
            false => self.least_data_start(),
        }
    }

    /// Where data starts if the field does not say so.
    pub(super) fn least_data_start(&self) -> u64 {
        let unit = if self.entry_unit == 1 { 512 } else { self.cluster_size };
        self.bat_end().next_multiple_of(unit)
    }

    /// Whether the field `data_off` can be. Zero stands for the end of the BAT in older images.
    pub(super) fn data_off_is_right(&self) -> bool {
        if self.data_off == 0 {
            return self.entry_unit == 1;
        }
        let unit = if self.entry_unit == 1 { 512 } else { self.cluster_size };
        self.data_off >= self.bat_end() && self.data_off.is_multiple_of(unit)
    }

    /// Where an entry of the BAT refers to, in bytes.
    pub(super) fn offset_of(&self, entry: u32) -> u64 {
        u64::from(entry) * self.entry_unit * 512
    }

    /// The entry that refers to an offset; `None`: it cannot.
    pub(super) fn entry_of(&self, offset: u64) -> Option<u32> {
        u32::try_from(offset / (self.entry_unit * 512)).ok()
    }
}

/// The header of a new image.
pub(super) fn build(length: u64, cluster_size: u64, bat_entries: u32, data_off: u64) -> [u8; LEN] {
    /// Heads and sectors of the geometry that new images tell.
    const HEADS: u32 = 16;
    const SECTORS: u32 = 32;
    let sectors = length / 512;
    let mut bytes = [0; LEN];
    bytes[..16].copy_from_slice(MAGIC_CLUSTERS);
    put_le32(&mut bytes, 16, VERSION);
    put_le32(&mut bytes, 20, HEADS);
    let cylinders = sectors / u64::from(HEADS * SECTORS);
    put_le32(&mut bytes, 24, u32::try_from(cylinders).unwrap_or(u32::MAX));
    put_le32(&mut bytes, 28, (cluster_size / 512) as u32);
    put_le32(&mut bytes, 32, bat_entries);
    put_le64(&mut bytes, 36, sectors);
    put_le32(&mut bytes, at::DATA_OFF, (data_off / 512) as u32);
    bytes
}

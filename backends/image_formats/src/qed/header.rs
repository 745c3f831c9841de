//! The header.

use rhea_block::{BlockError, Result};

use crate::fields::{le32, le64, put_le32, put_le64};

/// Bytes of the header's fields.
pub(super) const LEN: usize = 64;
pub(super) const MAGIC: &[u8; 4] = b"QED\0";

/// There is a backing file.
pub(super) const BACKING_FILE: u64 = 1 << 0;
/// The image must be checked before it is used.
pub(super) const NEED_CHECK: u64 = 1 << 1;
/// The backing file is raw, not to be probed.
pub(super) const BACKING_RAW: u64 = 1 << 2;
const KNOWN_FEATURES: u64 = BACKING_FILE | NEED_CHECK | BACKING_RAW;

pub(super) const MIN_CLUSTER: u32 = 4096;
pub(super) const MAX_CLUSTER: u32 = 64 << 20;
pub(super) const MIN_TABLE: u32 = 1;
pub(super) const MAX_TABLE: u32 = 16;

/// What the header says, in the file's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes in a cluster.
    pub(super) cluster_size: u32,
    /// Clusters in a table.
    pub(super) table_size: u32,
    /// Clusters in the header.
    pub(super) header_size: u32,
    pub(super) features: u64,
    pub(super) compat_features: u64,
    pub(super) autoclear_features: u64,
    pub(super) l1_table_offset: u64,
    /// Bytes of the disk.
    pub(super) image_size: u64,
    pub(super) backing_filename_offset: u32,
    pub(super) backing_filename_size: u32,
}

impl Header {
    pub(super) fn parse(bytes: &[u8; LEN], file_length: u64) -> Result<Self> {
        if !bytes.starts_with(MAGIC) {
            return Err(BlockError::malformed("Image not in QED format"));
        }
        let header = Self {
            cluster_size: le32(bytes, 4),
            table_size: le32(bytes, 8),
            header_size: le32(bytes, 12),
            features: le64(bytes, 16),
            compat_features: le64(bytes, 24),
            autoclear_features: le64(bytes, 32),
            l1_table_offset: le64(bytes, 40),
            image_size: le64(bytes, 48),
            backing_filename_offset: le32(bytes, 56),
            backing_filename_size: le32(bytes, 60),
        };
        let unknown = header.features & !KNOWN_FEATURES;
        if unknown != 0 {
            return Err(BlockError::unsupported(format!("Unsupported QED features: {unknown:x}")));
        }
        if !is_cluster_size(header.cluster_size) {
            return Err(BlockError::malformed("QED cluster size is invalid"));
        }
        if !is_table_size(header.table_size) {
            return Err(BlockError::malformed("QED table size is invalid"));
        }
        if header.image_size > max_image_size(header.cluster_size, header.table_size)
            || !header.image_size.is_multiple_of(512)
        {
            return Err(BlockError::malformed("QED image size is invalid"));
        }
        // A table whose last cluster is cut short is not whole.
        let whole = file_length - file_length % u64::from(header.cluster_size);
        if !header.is_table_offset(header.l1_table_offset, whole) {
            return Err(BlockError::malformed("QED table offset is invalid"));
        }
        if header.features & BACKING_FILE != 0 {
            let end = u64::from(header.backing_filename_offset) + u64::from(header.backing_filename_size);
            let header_len = u64::from(header.header_size) * u64::from(header.cluster_size);
            if end > header_len {
                return Err(BlockError::malformed("QED backing filename offset is invalid"));
            }
        }
        Ok(header)
    }

    pub(super) fn build(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..4].copy_from_slice(MAGIC);
        put_le32(&mut bytes, 4, self.cluster_size);
        put_le32(&mut bytes, 8, self.table_size);
        put_le32(&mut bytes, 12, self.header_size);
        put_le64(&mut bytes, 16, self.features);
        put_le64(&mut bytes, 24, self.compat_features);
        put_le64(&mut bytes, 32, self.autoclear_features);
        put_le64(&mut bytes, 40, self.l1_table_offset);
        put_le64(&mut bytes, 48, self.image_size);
        put_le32(&mut bytes, 56, self.backing_filename_offset);
        put_le32(&mut bytes, 60, self.backing_filename_size);
        bytes
    }

    /// Bytes in a table.
    pub(super) fn table_len(&self) -> u64 {
        u64::from(self.cluster_size) * u64::from(self.table_size)
    }

    /// Whether a cluster of data may lie here.
    pub(super) fn is_cluster_offset(&self, offset: u64, file_length: u64) -> bool {
        let header_len = u64::from(self.header_size).saturating_mul(self.cluster_size.into());
        offset.is_multiple_of(self.cluster_size.into())
            && offset >= header_len
            && offset < file_length
            && offset != 0
    }

    /// Whether a table may lie here.
    pub(super) fn is_table_offset(&self, offset: u64, file_length: u64) -> bool {
        let last = offset.checked_add(self.table_len() - u64::from(self.cluster_size));
        self.is_cluster_offset(offset, file_length)
            && last.is_some_and(|last| self.is_cluster_offset(last, file_length))
    }
}

pub(super) fn is_cluster_size(size: u32) -> bool {
    (MIN_CLUSTER..=MAX_CLUSTER).contains(&size) && size.is_power_of_two()
}

pub(super) fn is_table_size(size: u32) -> bool {
    (MIN_TABLE..=MAX_TABLE).contains(&size) && size.is_power_of_two()
}

/// The longest disk that two levels of tables can describe.
pub(super) fn max_image_size(cluster_size: u32, table_size: u32) -> u64 {
    let entries = u128::from(cluster_size) * u128::from(table_size) / 8;
    let bytes = entries * entries * u128::from(cluster_size);
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

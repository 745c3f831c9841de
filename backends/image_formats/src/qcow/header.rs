//! The header.

use rhea_block::{BlockError, BlockNode, MAX_LENGTH, Result, ResultExt};

use crate::fields::{be32, be64, put_be32, put_be64};

/// Bytes of the header.
pub(super) const LEN: usize = 48;
const MAGIC: u32 = u32::from_be_bytes(*b"QFI\xfb");
const VERSION: u32 = 1;
const CRYPT_AES: u32 = 1;

/// What the header says.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) length: u64,
    pub(super) cluster_bits: u32,
    pub(super) l2_bits: u32,
    pub(super) encrypted: bool,
    pub(super) l1_offset: u64,
    pub(super) backing_file: Option<String>,
}

pub(super) fn is_qcow(start: &[u8]) -> bool {
    start.len() >= LEN && be32(start, 0) == MAGIC && be32(start, 4) == VERSION
}

impl Header {
    pub(super) async fn read(file: &BlockNode) -> Result<Self> {
        let mut bytes = [0; LEN];
        file.read_bytes(0, &mut bytes).await.context("Could not read the qcow header")?;
        let mut header = Self::parse(&bytes)?;
        let (offset, len) = (be64(&bytes, 8), be32(&bytes, 16));
        if offset != 0 {
            if len > 1023 {
                return Err(BlockError::malformed("Backing file name too long"));
            }
            if offset > MAX_LENGTH {
                return Err(BlockError::malformed("backing_file_offset is too large"));
            }
            let mut name = vec![0; len as usize];
            file.read_bytes(offset, &mut name).await.context("Could not read the backing file's name")?;
            let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
            name.truncate(end);
            let name = String::from_utf8(name)
                .map_err(|_| BlockError::malformed("the backing file's name is not UTF-8"))?;
            header.backing_file = Some(name).filter(|name| !name.is_empty());
        }
        Ok(header)
    }

    fn parse(bytes: &[u8; LEN]) -> Result<Self> {
        if be32(bytes, 0) != MAGIC {
            return Err(BlockError::malformed("Image not in qcow format"));
        }
        let version = be32(bytes, 4);
        if version != VERSION {
            let error = BlockError::unsupported(format!("qcow (v1) does not support qcow version {version}"));
            return Err(match version {
                2 | 3 => error.with_hint("Try the 'qcow2' driver instead."),
                _ => error,
            });
        }
        let length = be64(bytes, 24);
        if length <= 1 {
            return Err(BlockError::malformed("Image size is too small (must be at least 2 bytes)"));
        }
        let (cluster_bits, l2_bits) = (u32::from(bytes[32]), u32::from(bytes[33]));
        if !(9..=16).contains(&cluster_bits) {
            return Err(BlockError::malformed("Cluster size must be between 512 and 64k"));
        }
        if !(9 - 3..=16 - 3).contains(&l2_bits) {
            return Err(BlockError::malformed("L2 table size must be between 512 and 64k"));
        }
        let crypt_method = be32(bytes, 36);
        if crypt_method > CRYPT_AES {
            return Err(BlockError::malformed("invalid encryption method in qcow header"));
        }
        let l1_offset = be64(bytes, 40);
        let header = Self {
            length,
            cluster_bits,
            l2_bits,
            encrypted: crypt_method == CRYPT_AES,
            l1_offset,
            backing_file: None,
        };
        if length > MAX_LENGTH || header.l1_entries() > i32::MAX as u64 / 8 {
            return Err(BlockError::malformed("Image too large"));
        }
        if l1_offset.checked_add(header.l1_entries() * 8).is_none_or(|end| end > MAX_LENGTH) {
            return Err(BlockError::malformed("l1_table_offset is too large"));
        }
        Ok(Self { length: length / 512 * 512, ..header })
    }

    /// Entries of the L1 table.
    pub(super) fn l1_entries(&self) -> u64 {
        self.length.div_ceil(1 << (self.cluster_bits + self.l2_bits))
    }

    /// The header of a new image, with the backing file's name behind it.
    pub(super) fn build(&self) -> Vec<u8> {
        let mut bytes = vec![0; LEN];
        put_be32(&mut bytes, 0, MAGIC);
        put_be32(&mut bytes, 4, VERSION);
        if let Some(name) = &self.backing_file {
            put_be64(&mut bytes, 8, LEN as u64);
            put_be32(&mut bytes, 16, name.len() as u32);
            bytes.extend_from_slice(name.as_bytes());
        }
        put_be64(&mut bytes, 24, self.length);
        bytes[32] = self.cluster_bits as u8;
        bytes[33] = self.l2_bits as u8;
        put_be32(&mut bytes, 36, if self.encrypted { CRYPT_AES } else { 0 });
        put_be64(&mut bytes, 40, self.l1_offset);
        bytes
    }
}

//! The format extension: dirty bitmaps, read only.
//!
//! ```text
//! one cluster: magic u64 | MD5 of the rest (16) | features…
//! feature: magic u64 | flags u64 | data_size u32 | unused u32 | data, padded to 8
//! dirty bitmap: size u64 (sectors) | id (16) | granularity u32 (sectors) | l1_size u32 | l1_size × u64
//! ```
//! An entry of a bitmap's L1 table is 0 (all clear), 1 (all set), or the sector of a cluster with the bits.

use std::sync::Arc;

use async_trait::async_trait;
use md5::{Digest, Md5};
use rhea_block::{BitmapInfo, BlockError, BlockNode, DirtyBitmap, PersistentBitmaps, Result};

use super::header::Header;
use crate::fields::{le32, le64};

const MAGIC: u64 = 0xab23_4cef_23dc_ea87;
const FEATURE_END: u64 = 0;
const FEATURE_DIRTY_BITMAP: u64 = 0x2038_5fae_252c_b34a;
/// The feature must be understood by whoever opens the image.
const NECESSARY: u64 = 1;

/// Bitmaps an extension may have in all (64 bits for each entry of a cluster would be more than anybody makes).
const MAX_BITMAPS: usize = 1024;
/// An extension is one cluster; a larger one than this is not read.
const MAX_LEN: u64 = 16 << 20;

struct Stored {
    name: String,
    granularity: u64,
    l1: Vec<u64>,
}

pub(super) struct Extension {
    file: Arc<BlockNode>,
    cluster_size: u64,
    length: u64,
    bitmaps: Vec<Stored>,
}

impl Extension {
    /// An image without format extension has no bitmaps.
    pub(super) fn none(file: &Arc<BlockNode>, header: &Header) -> Self {
        let (cluster_size, length) = (header.cluster_size, header.length);
        Self { file: file.clone(), cluster_size, length, bitmaps: vec![] }
    }

    pub(super) async fn read(file: &Arc<BlockNode>, header: &Header) -> Result<Self> {
        if header.cluster_size > MAX_LEN {
            return Err(BlockError::unsupported(format!(
                "a format extension of {} bytes is too long",
                header.cluster_size
            )));
        }
        let mut bytes = vec![0; header.cluster_size as usize];
        file.read_bytes(header.ext_off, &mut bytes).await?;
        let magic = le64(&bytes, 0);
        if magic != MAGIC {
            return Err(BlockError::malformed(format!(
                "Wrong parallels Format Extension magic: 0x{magic:x}, expected: 0x{MAGIC:x}"
            )));
        }
        if Md5::digest(&bytes[24..]).as_slice() != &bytes[8..24] {
            return Err(BlockError::malformed("Wrong checksum in Format Extension header"));
        }
        let mut this = Self::none(file, header);
        this.parse(&bytes[24..])?;
        Ok(this)
    }

    fn parse(&mut self, mut rest: &[u8]) -> Result<()> {
        loop {
            if rest.len() < 24 {
                return Err(BlockError::malformed("the format extension does not end"));
            }
            let (magic, flags, len) = (le64(rest, 0), le64(rest, 8), le32(rest, 16) as usize);
            rest = &rest[24..];
            if magic == FEATURE_END {
                return Ok(());
            }
            let data = rest.get(..len).ok_or_else(|| {
                BlockError::malformed(format!("data_size {len} of a feature is beyond the format extension"))
            })?;
            if magic == FEATURE_DIRTY_BITMAP {
                let bitmap = self.parse_bitmap(data)?;
                self.bitmaps.push(bitmap);
            } else if flags & NECESSARY != 0 {
                return Err(BlockError::unsupported(format!("unknown necessary feature {magic:#x}")));
            }
            if self.bitmaps.len() > MAX_BITMAPS {
                return Err(BlockError::malformed("the format extension has too many bitmaps"));
            }
            rest = rest.get(len.next_multiple_of(8)..).unwrap_or_default();
        }
    }

    fn parse_bitmap(&self, data: &[u8]) -> Result<Stored> {
        if data.len() < 32 {
            return Err(BlockError::malformed("data_size of a dirty bitmap is too small"));
        }
        let size = le64(data, 0);
        if size != self.length / 512 {
            return Err(BlockError::malformed(format!(
                "a dirty bitmap's size of {size} sectors is not the disk's"
            )));
        }
        let granularity = u64::from(le32(data, 24)) * 512;
        let l1_size = le32(data, 28) as usize;
        let l1 = data[32..].chunks_exact(8).take(l1_size).map(|e| le64(e, 0)).collect::<Vec<_>>();
        if l1.len() != l1_size {
            return Err(BlockError::malformed(format!("l1_size {l1_size} of a dirty bitmap is too large")));
        }
        if !granularity.is_power_of_two() {
            return Err(BlockError::malformed("granularity of a dirty bitmap is no power of two"));
        }
        let bits = self.length.div_ceil(granularity);
        let needed = bits.div_ceil(8).div_ceil(self.cluster_size);
        if needed != l1_size as u64 {
            return Err(BlockError::malformed(format!(
                "l1_size {l1_size} of a dirty bitmap, which needs {needed}"
            )));
        }
        let hex = |range: std::ops::Range<usize>| {
            data[range].iter().map(|b| format!("{b:02x}")).collect::<String>()
        };
        let name = [hex(8..12), hex(12..14), hex(14..16), hex(16..18), hex(18..24)].join("-");
        Ok(Stored { name, granularity, l1 })
    }
}

#[async_trait]
impl PersistentBitmaps for Extension {
    async fn list(&self) -> Result<Vec<BitmapInfo>> {
        let info = |bitmap: &Stored| BitmapInfo {
            name: bitmap.name.clone(),
            granularity: bitmap.granularity,
            enabled: false,
            inconsistent: false,
        };
        Ok(self.bitmaps.iter().map(info).collect())
    }

    async fn load(&self, name: &str) -> Result<DirtyBitmap> {
        let stored = self
            .bitmaps
            .iter()
            .find(|bitmap| bitmap.name == name)
            .ok_or_else(|| BlockError::invalid(format!("Dirty bitmap '{name}' not found")))?;
        let mut bitmap = DirtyBitmap::new(name, stored.granularity, self.length)?;
        bitmap.persistent = true;
        bitmap.enabled = false;
        let covered = self.cluster_size * 8 * stored.granularity;
        for (index, &entry) in stored.l1.iter().enumerate() {
            let start = index as u64 * covered;
            match entry {
                0 => {}
                1 => bitmap.set(start, covered),
                sector => {
                    let at = sector
                        .checked_mul(512)
                        .filter(|at| *at < self.file.length())
                        .ok_or_else(|| BlockError::malformed("a dirty bitmap lies beyond the file's end"))?;
                    let mut bits = vec![0; self.cluster_size as usize];
                    self.file.read_bytes(at, &mut bits).await?;
                    for (bit, byte) in bits.iter().enumerate().filter(|(_, byte)| **byte != 0) {
                        for n in (0..8).filter(|n| byte >> n & 1 == 1) {
                            bitmap.set(start + (bit as u64 * 8 + n) * stored.granularity, stored.granularity);
                        }
                    }
                }
            }
        }
        Ok(bitmap)
    }

    async fn store(&self, _: &DirtyBitmap) -> Result<()> {
        Err(BlockError::unsupported("dirty bitmaps in Parallels images are read-only"))
    }

    async fn remove(&self, _: &str) -> Result<()> {
        Err(BlockError::unsupported("dirty bitmaps in Parallels images are read-only"))
    }

    fn can_store(&self, _: &str, _: u64) -> Result<()> {
        Err(BlockError::unsupported("dirty bitmaps in Parallels images are read-only"))
    }
}

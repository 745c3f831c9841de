//! bochs: the growing hard disk images of the Bochs emulator, read-only. After "Internals of the growing hard disk
//! images" in the Bochs user manual.
//!
//! ```text
//! header | catalog: a u32 for each extent of the disk | (bitmap | extent)…
//! ```
//! A bitmap says which sectors of its extent were written.

use std::sync::Arc;

use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView};
use rhea_block::{
    BlockError, BlockStatus, Driver, DriverKind, Edge, FormatInfo, MAX_LENGTH, Node, OpenContext, Result,
    ResultExt, Role, StatusFlags, WriteFlags,
};
use rhea_options::Options;

use crate::fields::{le32, le64};
use crate::read_only::{check_read_only, refuse_write};
use crate::tables::{Table, TableCache};

const HEADER_LEN: usize = 512;
const MAGIC: &[u8] = b"Bochs Virtual HD Image";
const TYPE: &[u8] = b"Redolog";
const SUBTYPE: &[u8] = b"Growing";
const VERSION_1: u32 = 0x0001_0000;
const VERSION_2: u32 = 0x0002_0000;
/// The catalog's entry of an extent that was never written.
const UNALLOCATED: u32 = 0xffff_ffff;
const MAX_CATALOG: u32 = 0x10_0000;
const MAX_EXTENT: u32 = 0x80_0000;

/// The driver of `bochs`.
pub struct Bochs;

#[async_trait]
impl Driver for Bochs {
    fn name(&self) -> &'static str {
        "bochs"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, start: &[u8], _: &str) -> u32 {
        if start.len() >= HEADER_LEN && is_bochs(start) { 100 } else { 0 }
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        check_read_only(context)?;
        let file = context.open_child(options, "file", Role::File).await?;
        Ok(Box::new(BochsImage::open(file).await?))
    }
}

/// Whether a field of text is this text.
fn is_text(field: &[u8], text: &[u8]) -> bool {
    field.starts_with(text) && field[text.len()..].first().is_none_or(|&end| end == 0)
}

fn is_bochs(header: &[u8]) -> bool {
    is_text(&header[..32], MAGIC)
        && is_text(&header[32..48], TYPE)
        && is_text(&header[48..64], SUBTYPE)
        && [VERSION_1, VERSION_2].contains(&le32(header, 64))
}

struct BochsImage {
    file: Arc<Edge>,
    tables: TableCache,
    catalog: Table,
    /// Where the first bitmap is.
    data_offset: u64,
    /// Bytes of a bitmap, in whole sectors.
    bitmap_len: u64,
    extent_len: u64,
    length: u64,
}

impl BochsImage {
    async fn open(file: Arc<Edge>) -> Result<Self> {
        let mut bytes = [0; HEADER_LEN];
        file.node().read_bytes(0, &mut bytes).await.context("Could not read the Bochs header")?;
        if !is_bochs(&bytes) {
            return Err(BlockError::malformed("Image not in Bochs format"));
        }
        let disk_at = if le32(&bytes, 64) == VERSION_1 { 84 } else { 88 };
        let (header_len, entries) = (le32(&bytes, 68), le32(&bytes, 72));
        let (bitmap, extent) = (le32(&bytes, 76), le32(&bytes, 80));
        let length = le64(&bytes, disk_at) / 512 * 512;
        if entries > MAX_CATALOG {
            return Err(BlockError::new(libc::EFBIG, "Catalog size is too large"));
        }
        if extent < 512 {
            return Err(BlockError::malformed("Extent size must be at least 512"));
        }
        if !extent.is_power_of_two() {
            return Err(BlockError::malformed(format!("Extent size {extent} is not a power of two")));
        }
        if extent > MAX_EXTENT {
            return Err(BlockError::malformed(format!("Extent size {extent} is too large")));
        }
        if u64::from(entries) < length.div_ceil(extent.into()) {
            return Err(BlockError::malformed("Catalog size is too small for this disk size"));
        }
        if u64::from(bitmap) * 8 * 512 < u64::from(extent) {
            return Err(BlockError::malformed(format!(
                "Bitmap size {bitmap} is too small for the extent size"
            )));
        }
        let catalog = Table { offset: header_len.into(), len: u64::from(entries) * 4 };
        Ok(Self {
            tables: TableCache::new(file.clone()),
            file,
            catalog,
            data_offset: catalog.offset + catalog.len,
            bitmap_len: u64::from(bitmap).next_multiple_of(512),
            extent_len: extent.into(),
            length,
        })
    }

    /// Where the bytes at `offset` lie, `None`: nowhere; and how many of `len` bytes are alike.
    async fn find(&self, offset: u64, len: u64) -> Result<(Option<u64>, u64)> {
        let (index, within) = (offset / self.extent_len, offset % self.extent_len);
        let len = len.min(self.extent_len - within);
        let entry = self.tables.get(self.catalog, index * 4, |bytes| le32(bytes, 0)).await?;
        if entry == UNALLOCATED {
            return Ok((None, len));
        }
        let start = u64::from(entry)
            .checked_mul(self.bitmap_len + self.extent_len)
            .and_then(|at| at.checked_add(self.data_offset))
            .filter(|&at| at <= MAX_LENGTH)
            .ok_or_else(|| {
                BlockError::malformed(format!("catalog entry {index} ({entry:#x}) is too large"))
            })?;
        let bitmap = Table { offset: start, len: self.bitmap_len };
        let first = within / 512;
        let wanted = (within % 512 + len).div_ceil(512);
        let (set, run) = self
            .tables
            .get(bitmap, first / 8, |bytes| {
                let bit = |i: u64| {
                    let at = first % 8 + i;
                    bytes.get((at / 8) as usize).map(|byte| byte >> (at % 8) & 1 == 1)
                };
                let set = bit(0).unwrap_or(false);
                let run = (1..wanted).take_while(|&i| bit(i) == Some(set)).count();
                (set, 1 + run as u64)
            })
            .await?;
        let len = len.min(run * 512 - within % 512);
        Ok((set.then_some(start + self.bitmap_len + within), len))
    }
}

#[async_trait]
impl Node for BochsImage {
    fn length(&self) -> u64 {
        self.length
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        vec![self.file.clone()]
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        let mut rest = data.take();
        let mut at = offset;
        while !rest.is_empty() {
            let (place, len) = self.find(at, rest.len() as u64).await?;
            let tail = rest.split_off(len as usize);
            match place {
                Some(place) => self.file.node().read(place, &mut rest).await?,
                None => rest.fill(0..rest.len(), 0),
            }
            data.append(rest);
            rest = tail;
            at += len;
        }
        Ok(())
    }

    async fn write(&self, _: u64, _: IoView<'_>, _: WriteFlags) -> Result<()> {
        refuse_write()
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn block_status(&self, _: u64, len: u64, _: bool) -> Result<BlockStatus> {
        // As QEMU has it: all of it is data.
        Ok(BlockStatus { len, flags: StatusFlags::DATA | StatusFlags::ALLOCATED, map: None })
    }

    async fn format_info(&self) -> Result<FormatInfo> {
        Ok(FormatInfo::default())
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

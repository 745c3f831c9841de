//! cloop: compressed loop devices as live CDs had them, version 2, read-only. After the cloop package's `compressed_loop.h`
//! as described in "cloop - the compressed loopback block device".
//!
//! ```text
//! a shell script (128) | block size u32 | number of blocks u32 | offsets u64 × (blocks + 1) | zlib streams
//! ```
//! All numbers are big-endian.

use std::sync::Arc;

use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView};
use rhea_block::{
    BlockError, BlockStatus, Driver, DriverKind, Edge, FormatInfo, Node, OpenContext, Result, ResultExt,
    Role, StatusFlags, WriteFlags,
};
use rhea_options::Options;

use crate::fields::{be32, be64};
use crate::inflate::{Decoder, inflate};
use crate::read_only::{LastPart, check_read_only, refuse_write};
use crate::tables::{Table, TableCache};

const MAGIC: &[u8] =
    b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";
const BLOCK_SIZE_AT: usize = 128;
const OFFSETS_AT: u64 = 136;
const MAX_BLOCK: u32 = 64 << 20;
const MAX_OFFSETS: u64 = 512 << 20;

/// The driver of `cloop`.
pub struct Cloop;

#[async_trait]
impl Driver for Cloop {
    fn name(&self) -> &'static str {
        "cloop"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, start: &[u8], _: &str) -> u32 {
        if start.starts_with(MAGIC) { 2 } else { 0 }
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        check_read_only(context)?;
        let file = context.open_child(options, "file", Role::File).await?;
        Ok(Box::new(CloopImage::open(file).await?))
    }
}

struct CloopImage {
    file: Arc<Edge>,
    tables: TableCache,
    offsets: Table,
    block_size: u64,
    blocks: u64,
    last: LastPart,
}

impl CloopImage {
    async fn open(file: Arc<Edge>) -> Result<Self> {
        let mut bytes = [0; OFFSETS_AT as usize];
        file.node().read_bytes(0, &mut bytes).await.context("Could not read the cloop header")?;
        let (block_size, blocks) = (be32(&bytes, BLOCK_SIZE_AT), be32(&bytes, BLOCK_SIZE_AT + 4));
        if !block_size.is_multiple_of(512) {
            return Err(BlockError::malformed(format!("block_size {block_size} must be a multiple of 512")));
        }
        if block_size == 0 {
            return Err(BlockError::malformed("block_size cannot be zero"));
        }
        if block_size > MAX_BLOCK {
            return Err(BlockError::malformed(format!("block_size {block_size} must be 64 MB or less")));
        }
        let offsets = Table { offset: OFFSETS_AT, len: (u64::from(blocks) + 1) * 8 };
        if offsets.len > MAX_OFFSETS {
            return Err(BlockError::malformed("image requires too many offsets, try increasing block size"));
        }
        Ok(Self {
            tables: TableCache::new(file.clone()),
            file,
            offsets,
            block_size: block_size.into(),
            blocks: blocks.into(),
            last: LastPart::default(),
        })
    }

    async fn offset(&self, index: u64) -> Result<u64> {
        self.tables.get(self.offsets, index * 8, |bytes| be64(bytes, 0)).await
    }

    async fn block(&self, number: u64) -> Result<Arc<Vec<u8>>> {
        let _working = self.last.working.lock().await;
        if let Some(block) = self.last.get(number) {
            return Ok(block);
        }
        let (start, end) = (self.offset(number).await?, self.offset(number + 1).await?);
        let index = number + 1;
        let len = end.checked_sub(start).ok_or_else(|| {
            BlockError::malformed(format!(
                "offsets not monotonically increasing at index {index}, image file is corrupt"
            ))
        })?;
        // Zlib never needs twice the room; a file has no more than it has.
        if len > 2 * self.block_size + 512 || end > self.file.node().length() {
            return Err(BlockError::malformed(format!(
                "invalid compressed block size at index {index}, image file is corrupt"
            )));
        }
        self.last.forget();
        let (file, size) = (self.file.node(), self.block_size as usize);
        let block = inflate(&file, start, len, Decoder::zlib(), size)
            .await
            .context(format!("Could not read block {number}"))?;
        let block = Arc::new(block);
        self.last.put(number, block.clone());
        Ok(block)
    }
}

#[async_trait]
impl Node for CloopImage {
    fn length(&self) -> u64 {
        self.blocks * self.block_size
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        vec![self.file.clone()]
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let block = self.block(at / self.block_size).await?;
            let within = (at % self.block_size) as usize;
            let len = (block.len() - within).min(data.len() - done);
            data.write(done, &block[within..within + len]);
            done += len;
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
        Ok(BlockStatus { len, flags: StatusFlags::DATA | StatusFlags::ALLOCATED, map: None })
    }

    async fn format_info(&self) -> Result<FormatInfo> {
        Ok(FormatInfo { compressed: true, ..FormatInfo::default() })
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

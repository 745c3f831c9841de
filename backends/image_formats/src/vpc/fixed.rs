//! Fixed images: the disk's bytes, then the footer, which never changes.

use std::sync::Arc;

use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView};
use rhea_block::{
    BlockError, BlockStatus, Edge, FormatInfo, Limits, Node, OpenFlags, Result, StatusFlags, Truncate,
    WriteFlags,
};
use rhea_options::Options;

use super::footer::Footer;

pub(super) struct FixedImage {
    file: Arc<Edge>,
    length: u64,
}

impl FixedImage {
    pub(super) fn new(file: Arc<Edge>, footer: Footer) -> Self {
        // The disk is as long as the footer says; what the file does not hold cannot be written.
        Self { file, length: footer.length }
    }

    /// Where the disk's bytes end in the file.
    fn end(&self) -> u64 {
        self.file.node().length().saturating_sub(super::footer::LEN as u64)
    }

    /// Refuses changes of the footer.
    fn check_end(&self, end: u64) -> Result<()> {
        match end <= self.end() {
            true => Ok(()),
            false => Err(BlockError::new(libc::EIO, "the footer's current size is more than the file holds")),
        }
    }
}

#[async_trait]
impl Node for FixedImage {
    fn limits(&self) -> Limits {
        Limits { native_write_zeroes: WriteFlags::MAY_UNMAP, ..Limits::default() }
    }

    fn length(&self) -> u64 {
        self.length
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        vec![self.file.clone()]
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        self.file.node().read(offset, data).await
    }

    async fn write(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
        self.check_end(offset + data.len() as u64)?;
        self.file.node().write(offset, data, flags).await
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        self.check_end(offset + len)?;
        self.file.node().write_zeroes(offset, len, flags).await
    }

    async fn flush(&self) -> Result<()> {
        self.file.node().flush().await
    }

    async fn block_status(&self, offset: u64, len: u64, _: bool) -> Result<BlockStatus> {
        let flags =
            StatusFlags::DATA | StatusFlags::ALLOCATED | StatusFlags::OFFSET_VALID | StatusFlags::RECURSE;
        Ok(BlockStatus { len, flags, map: Some((self.file.node(), offset)) })
    }

    async fn truncate(&self, _: u64, _: Truncate) -> Result<()> {
        Err(BlockError::unsupported("Image format driver does not support resize"))
    }

    async fn format_info(&self) -> Result<FormatInfo> {
        Ok(FormatInfo::default())
    }

    async fn reopen(&self, _: OpenFlags, options: Options) -> Result<()> {
        match options.entries().first() {
            Some(entry) => {
                Err(BlockError::unsupported(format!("the option '{}' cannot be changed", entry.key)))
            }
            None => Ok(()),
        }
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

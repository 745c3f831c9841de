//! The format `raw`: the disk is the file, or a part of it.
//!
//! Where nobody said that an image is raw, but its start told nothing else, whoever writes to the disk could make it look
//! like another format, and with it name any file of the host as a backing file. So the first sector of such a disk takes
//! no header of any format.

use std::sync::Arc;

use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView};
use rhea_options::{Options, Size};

use crate::driver::{CreateContext, CreateOption, Driver, DriverKind, Measure, OpenContext};
use crate::graph::{BlockNode, Edge, Role};
use crate::node::{BlockStatus, FormatInfo, Limits, Node, Truncate, WriteFlags};
use crate::options::OpenFlags;
use crate::permission::Permissions;
use crate::{BlockError, Result};

/// Disks without a header.
#[derive(Debug, Clone, Copy)]
pub struct RawDriver;

/// Sizes are whole sectors of this many bytes.
const SECTOR: u64 = 512;

#[async_trait]
impl Driver for RawDriver {
    fn name(&self) -> &'static str {
        "raw"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Format
    }

    fn probe(&self, _: &[u8], _: &str) -> u32 {
        // Anything can be raw.
        1
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        let offset = options.take::<Size>("offset")?.map_or(0, |size| size.0);
        let size = options.take::<Size>("size")?.map(|size| size.0);
        let file = context.open_sharing_child(options, "file", Role::File).await?;
        let available = file.node().exact_length();
        if offset > available {
            return Err(BlockError::invalid(format!(
                "Offset ({offset}) cannot be greater than size of the containing file ({available})"
            )));
        }
        if let Some(size) = size {
            if size > available - offset {
                return Err(BlockError::invalid(format!(
                    "The sum of offset ({offset}) and size ({size}) has to be smaller or equal to the  actual size of the containing file ({available})"
                )));
            }
            if !size.is_multiple_of(SECTOR) {
                return Err(BlockError::invalid("Specified size is not multiple of 512"));
            }
        }
        let guard = (context.probed && context.writable()).then(|| context.registry.drivers().to_vec());
        Ok(Box::new(RawNode { file, offset, size, guard }))
    }

    fn create_options(&self) -> &'static [CreateOption] {
        crate::file::create::OPTIONS
    }

    async fn create(&self, context: &CreateContext<'_>, filename: &str, options: Options) -> Result<()> {
        let filename = filename.strip_prefix("raw:").unwrap_or(filename);
        let protocol = context.registry.protocol_options(filename)?;
        let driver = protocol.get("driver").unwrap_or("file").to_owned();
        context.registry.create(&driver, filename, options, context.progress).await
    }

    async fn measure(&self, mut options: Options, source: Option<&Arc<BlockNode>>) -> Result<Measure> {
        let size = options.take::<Size>("size")?.map_or(0, |size| size.0);
        let bytes = source.map_or(size, |source| source.length());
        let bytes = bytes
            .checked_next_multiple_of(SECTOR)
            .ok_or_else(|| BlockError::new(libc::EFBIG, "The image size is too large"))?;
        Ok(Measure { required: bytes, fully_allocated: bytes, bitmaps: None })
    }
}

struct RawNode {
    file: Arc<Edge>,
    /// Where the disk begins in the file.
    offset: u64,
    /// Its length, if the options fix it; else the disk ends with the file.
    size: Option<u64>,
    /// The drivers that must not know the disk's start as theirs.
    guard: Option<Vec<Arc<dyn Driver>>>,
}

impl RawNode {
    fn below(&self, offset: u64) -> Result<u64> {
        self.offset.checked_add(offset).ok_or_else(|| BlockError::os(libc::EIO))
    }
}

#[async_trait]
impl Node for RawNode {
    fn limits(&self) -> Limits {
        let file = self.file.node().limits();
        // The file's node shapes what does not fit; a disk that begins within a block has no use for the file's sizes.
        let fits = |unit: u32| if self.offset.is_multiple_of(u64::from(unit.max(1))) { unit } else { 1 };
        // A header is seen at once only if a sector is written as a whole.
        let least = if self.guard.is_some() { SECTOR as u32 } else { 1 };
        Limits {
            request_alignment: fits(file.request_alignment).max(least),
            memory_alignment: file.memory_alignment,
            write_zeroes_alignment: fits(file.write_zeroes_alignment),
            discard_alignment: fits(file.discard_alignment),
            optimal_transfer: file.optimal_transfer,
            growable: file.growable && self.size.is_none(),
            native_write: WriteFlags::all(),
            native_write_zeroes: WriteFlags::all(),
            ..Limits::default()
        }
    }

    fn length(&self) -> u64 {
        match self.size {
            Some(size) => size,
            None => self.file.node().exact_length().saturating_sub(self.offset),
        }
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        vec![self.file.clone()]
    }

    fn child_permissions(
        &self,
        _: &Edge,
        needed: Permissions,
        shared: Permissions,
    ) -> (Permissions, Permissions) {
        // There is no metadata that others could change behind our back.
        (needed, shared)
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        let file = self.file.node();
        file.debug_event("read_aio").await;
        file.read(self.below(offset)?, data).await
    }

    async fn write(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
        if let Some(drivers) = &self.guard
            && offset == 0
        {
            let mut start = [0; SECTOR as usize];
            let len = start.len().min(data.len());
            data.read(0, &mut start[..len]);
            if crate::driver::probe_among(drivers, &start, "") != "raw" {
                return Err(BlockError::os(libc::EPERM));
            }
        }
        let file = self.file.node();
        file.debug_event("write_aio").await;
        file.write(self.below(offset)?, data, flags).await
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        self.file.node().write_zeroes(self.below(offset)?, len, flags).await
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.file.node().discard(self.below(offset)?, len).await
    }

    async fn flush(&self) -> Result<()> {
        let file = self.file.node();
        file.debug_event("flush_to_os").await;
        file.debug_event("flush_to_disk").await;
        file.flush().await
    }

    async fn block_status(&self, offset: u64, len: u64, want_zero: bool) -> Result<BlockStatus> {
        // The file's answer is the disk's, also what is data and what is a hole.
        let below = self.below(offset)?;
        let node = self.file.node();
        let mut status = node.block_status(below, len, want_zero).await?;
        if status.len == 0 {
            // The file has become shorter than the disk was said to be.
            status = BlockStatus {
                len,
                flags: crate::StatusFlags::ZERO | crate::StatusFlags::ALLOCATED,
                map: None,
            };
        }
        Ok(status)
    }

    async fn truncate(&self, length: u64, how: Truncate) -> Result<()> {
        if self.size.is_some() {
            return Err(BlockError::unsupported("Cannot resize fixed-size raw disks"));
        }
        let below = self.below(length)?;
        self.file.node().truncate(below, how).await
    }

    async fn copy_range_from(
        &self,
        offset: u64,
        to: &Arc<BlockNode>,
        to_offset: u64,
        len: u64,
        flags: WriteFlags,
    ) -> Result<()> {
        self.file.node().copy_range(self.below(offset)?, to, to_offset, len, flags).await
    }

    async fn copy_range_to(
        &self,
        from: &Arc<BlockNode>,
        from_offset: u64,
        offset: u64,
        len: u64,
        flags: WriteFlags,
    ) -> Result<()> {
        if self.guard.is_some() && offset < SECTOR {
            // To be looked at.
            return Err(BlockError::os(libc::ENOTSUP));
        }
        self.file.node().copy_range_to(from, from_offset, self.below(offset)?, len, flags).await
    }

    async fn format_info(&self) -> Result<FormatInfo> {
        Ok(FormatInfo { unallocated_is_zero: true, ..FormatInfo::default() })
    }

    fn wants_debug_events(&self) -> bool {
        self.file.node().driver().wants_debug_events()
    }

    async fn debug_event(&self, event: &'static str) {
        self.file.node().debug_event(event).await;
    }

    async fn reopen(&self, _: OpenFlags, options: Options) -> Result<()> {
        // Nothing here depends on the flags.
        crate::refuse_changes(&options)
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

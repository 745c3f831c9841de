//! An open file or device.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use async_trait::async_trait;
use libc::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE};
use rhea_async_io::{Extent, File, IoVector, IoView, unblock_io};

use super::{Kind, create};
use crate::node::{BlockStatus, Limits, Node, StatusFlags, Truncate, WriteFlags};
use crate::options::OpenFlags;
use crate::{BlockError, Result, ResultExt};

/// A file, and what was found out about it.
///
/// The length is kept here rather than asked for with each request: nobody else may change it while the image is locked.
pub(super) struct FileNode {
    kind: Kind,
    file: File,
    flags: OpenFlags,
    length: AtomicU64,
    /// Calls that the file system turned out not to have.
    no_punch_hole: AtomicBool,
    no_zero_range: AtomicBool,
    /// The error of a failed flush. The kernel forgets the pages it could not write, so that a later flush would succeed
    /// although data is lost: the error stays.
    flush_error: AtomicI32,
}

/// Whether an error says that the system cannot do this here (rather than that it failed).
fn is_missing(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV | libc::ENOTTY | libc::EINVAL)
    )
}

impl FileNode {
    pub(super) fn new(kind: Kind, file: File, flags: OpenFlags) -> Result<Self> {
        let length = file.seek_end().or_else(|error| match kind {
            // Character devices have no end.
            Kind::Device => Ok(0),
            Kind::Regular => Err(error),
        });
        let length = length.context("Could not get the file's length")?;
        Ok(Self {
            kind,
            file,
            flags,
            length: AtomicU64::new(length),
            no_punch_hole: AtomicBool::new(false),
            no_zero_range: AtomicBool::new(false),
            flush_error: AtomicI32::new(0),
        })
    }

    /// A write may have moved the end.
    fn reached(&self, end: u64) {
        if self.kind == Kind::Regular {
            self.length.fetch_max(end, SeqCst);
        }
    }

    /// Calls `fallocate`; `false` if this file system cannot do that, which is remembered.
    async fn try_fallocate(&self, missing: &AtomicBool, mode: i32, offset: u64, len: u64) -> Result<bool> {
        if missing.load(Relaxed) {
            return Ok(false);
        }
        match self.file.fallocate(mode, offset, len).await {
            Ok(()) => Ok(true),
            Err(error) if is_missing(&error) => {
                // EINVAL may be about this one range.
                missing.store(error.raw_os_error() != Some(libc::EINVAL), Relaxed);
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn punch_hole(&self, offset: u64, len: u64) -> Result<bool> {
        self.try_fallocate(&self.no_punch_hole, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, len).await
    }

    /// Zeroes for file systems that can only make holes (tmpfs): holes where there was data, then storage for the range.
    async fn zero_by_holes(&self, offset: u64, len: u64) -> Result<bool> {
        let inside = self.length().saturating_sub(offset).min(len);
        if inside > 0 && !self.punch_hole(offset, inside).await? {
            return Ok(false);
        }
        match self.file.fallocate(0, offset, len).await {
            Ok(()) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[async_trait]
impl Node for FileNode {
    fn limits(&self) -> Limits {
        Limits {
            request_alignment: if self.kind == Kind::Device { 512 } else { 1 },
            growable: self.kind == Kind::Regular,
            native_write_zeroes: WriteFlags::MAY_UNMAP | WriteFlags::NO_FALLBACK,
            ..Limits::default()
        }
    }

    fn length(&self) -> u64 {
        self.length.load(SeqCst)
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        self.file.read_vectored_at(data, offset).await?;
        Ok(())
    }

    async fn write(&self, offset: u64, data: IoView<'_>, _: WriteFlags) -> Result<()> {
        self.file.write_vectored_at(&data, offset).await?;
        self.reached(offset + data.len() as u64);
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        let end = offset + len;
        if flags.contains(WriteFlags::MAY_UNMAP)
            && end <= self.length()
            && self.kind == Kind::Regular
            && self.punch_hole(offset, len).await?
        {
            return Ok(());
        }
        let done = self.try_fallocate(&self.no_zero_range, FALLOC_FL_ZERO_RANGE, offset, len).await?
            || (self.kind == Kind::Regular && self.zero_by_holes(offset, len).await?);
        if !done {
            return Err(BlockError::os(libc::ENOTSUP));
        }
        self.reached(end);
        Ok(())
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        match self.punch_hole(offset, len).await? {
            true => Ok(()),
            false => Err(BlockError::os(libc::ENOTSUP)),
        }
    }

    async fn flush(&self) -> Result<()> {
        if self.flags.contains(OpenFlags::NO_FLUSH) {
            return Ok(());
        }
        match self.flush_error.load(SeqCst) {
            0 => {}
            errno => return Err(BlockError::os(errno)),
        }
        let result: Result<()> = self.file.sync_data().await.map_err(Into::into);
        if let Err(error) = &result
            && !self.flags.contains(OpenFlags::DIRECT)
        {
            self.flush_error.store(error.errno(), SeqCst);
        }
        result
    }

    async fn block_status(&self, offset: u64, len: u64, want_zero: bool) -> Result<BlockStatus> {
        let here = StatusFlags::OFFSET_VALID | StatusFlags::ALLOCATED;
        let data = BlockStatus { len, flags: here | StatusFlags::DATA, map: None };
        if !want_zero || self.kind == Kind::Device {
            return Ok(data);
        }
        let file = self.file.clone();
        let (end, flags) = match unblock_io(move || file.extent(offset)).await {
            Ok(Extent::Data(end)) => (end, here | StatusFlags::DATA),
            Ok(Extent::Hole(end)) => (end, here | StatusFlags::ZERO),
            Ok(Extent::HoleToEnd) => (offset + len, here | StatusFlags::ZERO),
            // A file system that cannot tell.
            Err(_) => return Ok(data),
        };
        Ok(BlockStatus { len: (end - offset).min(len), flags, map: None })
    }

    async fn truncate(&self, length: u64, how: Truncate) -> Result<()> {
        if self.kind == Kind::Device {
            if how.preallocation != crate::Preallocation::Off {
                return Err(BlockError::unsupported(format!(
                    "Preallocation mode '{}' unsupported for this non-regular file",
                    how.preallocation.word()
                )));
            }
            return match self.length() {
                now if how.exact && now != length => {
                    Err(BlockError::unsupported("Cannot resize device files"))
                }
                now if length > now => Err(BlockError::invalid("Cannot grow device files")),
                _ => Ok(()),
            };
        }
        create::grow(self.file.clone(), self.length(), length, how.preallocation).await?;
        self.length.store(length, SeqCst);
        Ok(())
    }

    async fn allocated_size(&self) -> Option<u64> {
        self.file.status().ok().map(|status| status.allocated)
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

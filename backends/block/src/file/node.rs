//! An open file or device.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use libc::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE};
use parking_lot::Mutex;
use rhea_async_io::{DirectAlignment, Extent, File, IoVector, IoView, OpenOptions};
use rhea_options::Options;

use super::lock::Locks;
use super::{Kind, create};
use crate::graph::BlockNode;
use crate::node::{BlockStatus, Limits, Node, StatusFlags, Truncate, WriteFlags};
use crate::options::OpenFlags;
use crate::permission::Permissions;
use crate::{BlockError, Result, ResultExt};

/// How a file is open at present; exchanged as a whole when it is reopened.
pub(super) struct Opened {
    file: File,
    flags: OpenFlags,
    alignment: DirectAlignment,
}

impl Opened {
    pub(super) fn new(file: File, flags: OpenFlags) -> Self {
        let alignment = match flags.contains(OpenFlags::DIRECT) {
            true => file.direct_alignment(),
            false => DirectAlignment { request: 1, memory: 1 },
        };
        Self { file, flags, alignment }
    }
}

/// A file, and what was found out about it.
///
/// The length is kept here rather than asked for with each request: nobody else may change it while the image is locked.
pub(super) struct FileNode {
    kind: Kind,
    filename: String,
    opened: ArcSwap<Opened>,
    block_device: bool,
    length: AtomicU64,
    /// The locks held; `None`: no locks are wanted, or the system has none.
    locks: Option<Mutex<Locks>>,
    /// Calls that the file system turned out not to have.
    missing: Missing,
    /// The error of a failed flush. The kernel forgets the pages it could not write, so that a later flush would succeed
    /// although data is lost: the error stays.
    flush_error: AtomicI32,
}

#[derive(Default)]
struct Missing {
    punch_hole: AtomicBool,
    zero_range: AtomicBool,
    discard: AtomicBool,
    copy_range: AtomicBool,
}

/// Whether an error says that the system cannot do this here (rather than that it failed).
fn is_missing(errno: Option<i32>) -> bool {
    matches!(
        errno,
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV | libc::ENOTTY | libc::EINVAL | libc::EXDEV)
    )
}

/// The outcome of a call that not all file systems have; `false` if this one does not, which is remembered.
fn attempted(missing: &AtomicBool, result: std::io::Result<()>) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if is_missing(error.raw_os_error()) => {
            // EINVAL may be about this one range.
            missing.store(error.raw_os_error() != Some(libc::EINVAL), Relaxed);
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// How a file is to be opened for these flags.
pub(super) fn open_options(kind: Kind, flags: OpenFlags) -> OpenOptions {
    OpenOptions {
        write: !flags.contains(OpenFlags::READ_ONLY),
        create: false,
        direct: flags.contains(OpenFlags::DIRECT),
        nonblocking: kind == Kind::Device,
        only_threads: flags.contains(OpenFlags::AIO_THREADS),
    }
}

impl FileNode {
    pub(super) fn new(kind: Kind, filename: String, opened: Opened, locking: bool) -> Result<Self> {
        let file = &opened.file;
        let length = file.seek_end().or_else(|error| match kind {
            // Character devices have no end.
            Kind::Device => Ok(0),
            Kind::Regular => Err(error),
        });
        let length = length.context("Could not get the file's length")?;
        let block_device = kind == Kind::Device && file.status()?.is_block_device();
        Ok(Self {
            kind,
            filename,
            block_device,
            length: AtomicU64::new(length),
            locks: locking.then(Mutex::default),
            missing: Missing::default(),
            flush_error: AtomicI32::new(0),
            opened: ArcSwap::from_pointee(opened),
        })
    }

    fn file(&self) -> File {
        self.opened.load().file.clone()
    }

    fn is_regular(&self) -> bool {
        self.kind == Kind::Regular
    }

    /// A write to `end` is on its way. If it is given up, it must be taken for done: what lies behind the end reads as
    /// zeroes, and is relied on to.
    fn reaching(&self, end: u64) -> Reaching<'_> {
        Reaching { node: self, end }
    }

    /// After a write that failed: how far it came, only the file system knows.
    fn ask_for_end(&self) {
        if let Ok(status) = self.opened.load().file.status() {
            self.reached(status.size);
        }
    }

    /// A write may have moved the end.
    fn reached(&self, end: u64) {
        if self.is_regular() && end > self.length.load(Relaxed) {
            self.length.fetch_max(end, SeqCst);
        }
    }

    async fn try_fallocate(&self, missing: &AtomicBool, mode: i32, offset: u64, len: u64) -> Result<bool> {
        if missing.load(Relaxed) {
            return Ok(false);
        }
        attempted(missing, self.file().fallocate(mode, offset, len).await)
    }

    async fn punch_hole(&self, offset: u64, len: u64) -> Result<bool> {
        let mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
        self.try_fallocate(&self.missing.punch_hole, mode, offset, len).await
    }

    async fn discard_blocks(&self, offset: u64, len: u64) -> Result<bool> {
        if self.missing.discard.load(Relaxed) {
            return Ok(false);
        }
        let file = self.file();
        attempted(&self.missing.discard, file.work_on(move |file| file.discard_blocks(offset, len)).await)
    }

    /// Zeroes for file systems that can only make holes (tmpfs): holes where there was data, then storage for the range.
    async fn zero_by_holes(&self, offset: u64, len: u64) -> Result<bool> {
        let inside = self.length().saturating_sub(offset).min(len);
        if inside > 0 && !self.punch_hole(offset, inside).await? {
            return Ok(false);
        }
        match self.file().fallocate(0, offset, len).await {
            Ok(()) => Ok(true),
            Err(error) if is_missing(error.raw_os_error()) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Copies within the host's file system, if it can.
    async fn copy_from(&self, from: &File, at: u64, to: u64, len: u64) -> Result<()> {
        let file = self.file();
        let reaching = self.reaching(to + len);
        let result = self.copy_pieces(from, &file, at, to, len).await;
        reaching.end(result)
    }

    async fn copy_pieces(
        &self,
        from: &File,
        file: &File,
        mut at: u64,
        mut to: u64,
        mut len: u64,
    ) -> Result<()> {
        while len > 0 {
            match from.copy_range(at, file, to, len).await {
                // The source is shorter than was said.
                Ok(0) => return Err(BlockError::os(libc::ENOTSUP)),
                Ok(copied) => {
                    at += copied;
                    to += copied;
                    len -= copied;
                }
                Err(error) if is_missing(error.raw_os_error()) => {
                    self.missing.copy_range.store(error.raw_os_error() != Some(libc::EINVAL), Relaxed);
                    return Err(BlockError::os(libc::ENOTSUP));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// A device's end is where it is.
    fn truncate_device(&self, length: u64, how: Truncate) -> Result<()> {
        if how.preallocation != crate::Preallocation::Off {
            return Err(BlockError::unsupported(format!(
                "Preallocation mode '{}' unsupported for this non-regular file",
                how.preallocation.word()
            )));
        }
        // It may have become larger since it was opened.
        let now = self.file().seek_end().unwrap_or(0);
        self.length.store(now, SeqCst);
        match now {
            now if how.exact && now != length => Err(BlockError::unsupported("Cannot resize device files")),
            now if length > now => Err(BlockError::invalid("Cannot grow device files")),
            _ => Ok(()),
        }
    }
}

/// A write that may move the file's end; see [`FileNode::reaching`].
struct Reaching<'a> {
    node: &'a FileNode,
    end: u64,
}

impl Reaching<'_> {
    /// The write has ended.
    fn end<T>(mut self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.end = 0;
            self.node.ask_for_end();
        }
        result
    }
}

impl Drop for Reaching<'_> {
    fn drop(&mut self) {
        self.node.reached(self.end);
    }
}

impl Drop for FileNode {
    fn drop(&mut self) {
        // Closing the descriptor would do it, but not at once if the kernel has not let go of the last request yet.
        let opened = self.opened.load();
        if let Some(locks) = &mut self.locks
            && opened.file.is_settled()
        {
            locks.get_mut().give_back(&opened.file);
        }
    }
}

#[async_trait]
impl Node for FileNode {
    fn limits(&self) -> Limits {
        let alignment = self.opened.load().alignment;
        Limits {
            // Memory that is aligned more strictly than to sectors comes in pieces of that size only.
            request_alignment: if alignment.memory > 512 {
                alignment.request.max(alignment.memory)
            } else {
                alignment.request
            },
            memory_alignment: alignment.memory,
            growable: self.is_regular(),
            native_write_zeroes: WriteFlags::MAY_UNMAP | WriteFlags::NO_FALLBACK,
            ..Limits::default()
        }
    }

    fn length(&self) -> u64 {
        self.length.load(SeqCst)
    }

    fn is_read_only(&self) -> bool {
        self.opened.load().flags.contains(OpenFlags::READ_ONLY)
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        self.opened.load().file.clone().read_vectored_at(data, offset).await?;
        Ok(())
    }

    async fn write(&self, offset: u64, data: IoView<'_>, _: WriteFlags) -> Result<()> {
        let reaching = self.reaching(offset + data.len() as u64);
        reaching.end(self.file().write_vectored_at(&data, offset).await.map_err(BlockError::from))
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        let end = offset + len;
        if flags.contains(WriteFlags::MAY_UNMAP)
            && end <= self.length()
            && self.punch_hole(offset, len).await?
        {
            return Ok(());
        }
        let reaching = self.reaching(end);
        let mut done = self.try_fallocate(&self.missing.zero_range, FALLOC_FL_ZERO_RANGE, offset, len).await;
        if matches!(done, Ok(false)) && self.is_regular() {
            done = self.zero_by_holes(offset, len).await;
        }
        let done = done.and_then(|done| match done {
            true => Ok(()),
            false => Err(BlockError::os(libc::ENOTSUP)),
        });
        reaching.end(done)
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let done = match self.block_device {
            true => self.discard_blocks(offset, len).await?,
            false => self.punch_hole(offset, len).await?,
        };
        match done {
            true => Ok(()),
            false => Err(BlockError::os(libc::ENOTSUP)),
        }
    }

    async fn flush(&self) -> Result<()> {
        let (file, flags) = {
            let opened = self.opened.load();
            (opened.file.clone(), opened.flags)
        };
        if flags.contains(OpenFlags::NO_FLUSH) {
            return Ok(());
        }
        match self.flush_error.load(SeqCst) {
            0 => {}
            errno => return Err(BlockError::os(errno)),
        }
        let result: Result<()> = file.sync_data().await.map_err(Into::into);
        if let Err(error) = &result
            && !flags.contains(OpenFlags::DIRECT)
        {
            self.flush_error.store(error.errno(), SeqCst);
        }
        result
    }

    async fn block_status(&self, offset: u64, len: u64, want_zero: bool) -> Result<BlockStatus> {
        let here = StatusFlags::OFFSET_VALID | StatusFlags::ALLOCATED;
        let data = BlockStatus { len, flags: here | StatusFlags::DATA, map: None };
        if !want_zero || !self.is_regular() {
            return Ok(data);
        }
        // Quick enough (the file system has its extents in memory, mostly) not to be worth another thread.
        let (end, flags) = match self.file().extent(offset) {
            Ok(Extent::Data(end)) => (end, here | StatusFlags::DATA),
            Ok(Extent::Hole(end)) => (end, here | StatusFlags::ZERO),
            Ok(Extent::HoleToEnd) => (offset + len, here | StatusFlags::ZERO),
            // A file system that cannot tell.
            Err(_) => return Ok(data),
        };
        Ok(BlockStatus { len: (end - offset).min(len), flags, map: None })
    }

    async fn truncate(&self, length: u64, how: Truncate) -> Result<()> {
        if !self.is_regular() {
            return self.truncate_device(length, how);
        }
        create::grow(&self.file(), self.length(), length, how.preallocation).await?;
        self.length.store(length, SeqCst);
        Ok(())
    }

    async fn copy_range_to(
        &self,
        from: &Arc<BlockNode>,
        from_offset: u64,
        offset: u64,
        len: u64,
        _: WriteFlags,
    ) -> Result<()> {
        match from.downcast::<Self>() {
            Some(source)
                if source.is_regular()
                    && self.is_regular()
                    && !self.missing.copy_range.load(Relaxed)
                    && from_offset.checked_add(len).is_some_and(|end| end <= source.length()) =>
            {
                self.copy_from(&source.file(), from_offset, offset, len).await
            }
            _ => Err(BlockError::os(libc::ENOTSUP)),
        }
    }

    async fn allocated_size(&self) -> Option<u64> {
        self.file().status().ok().map(|status| status.allocated)
    }

    async fn set_permissions(&self, needed: Permissions, shared: Permissions) -> Result<()> {
        let Some(locks) = &self.locks else { return Ok(()) };
        let opened = self.opened.load_full();
        // What is still to be written is written under the old locks.
        opened.file.settled().await;
        let shared = match opened.flags.contains(OpenFlags::FORCE_SHARE) {
            true => Permissions::all(),
            false => shared,
        };
        let wanted = Locks::new(needed, shared);
        let mut held = locks.lock();
        if *held != wanted {
            held.change(wanted, &opened.file, &self.filename)?;
            *held = wanted;
        }
        Ok(())
    }

    async fn reopen(&self, flags: OpenFlags, mut options: Options) -> Result<()> {
        let now = self.opened.load_full();
        now.file.settled().await;
        let mut flags = flags;
        super::take_aio(&mut options, &mut flags)?;
        if options.take::<String>("filename")?.is_some_and(|filename| filename != self.filename) {
            return Err(BlockError::invalid("Cannot change the option 'filename'"));
        }
        options.finish(["aio", "filename"])?;
        let wanted = open_options(self.kind, flags);
        let file = match wanted == open_options(self.kind, now.flags) {
            true => now.file.clone(),
            false => now.file.reopen(wanted).context(format!("Could not reopen '{}'", self.filename))?,
        };
        let opened = Opened::new(file, flags);
        let held = self.locks.as_ref().map(|locks| locks.lock());
        if let Some(held) = &held
            && opened.file.as_raw_fd() != now.file.as_raw_fd()
        {
            // The old locks keep out who would be in the way: nobody need be asked.
            held.take(&opened.file, &self.filename)?;
            held.give_back(&now.file);
        }
        self.opened.store(Arc::new(opened));
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.file().settled().await;
        Ok(())
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

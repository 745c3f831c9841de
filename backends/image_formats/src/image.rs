//! The node of a format that maps clusters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView};
use rhea_block::{
    BackingFile, BlockError, BlockNode, BlockStatus, CheckResult, Edge, FormatInfo, Limits, Node,
    OpenContext, OpenFlags, PersistentBitmaps, Repair, Result, StatusFlags, Truncate, WriteFlags,
};
use rhea_options::Options;

use crate::clusters::{self, ClusterMap};

/// What a format offers beside its map.
#[async_trait]
pub(crate) trait ImageFormat: ClusterMap + 'static {
    /// What is told of clusters that have no storage and nothing behind them.
    const UNALLOCATED: StatusFlags = StatusFlags::empty();
    /// Data is told of cluster by cluster, as QEMU's driver does: whether a stretch ends where the disk does is a
    /// difference to a strict comparison of images. Only for large clusters, where it costs nothing.
    const DATA_BY_CLUSTER: bool = false;

    /// What the format knows of the image.
    fn info(&self) -> FormatInfo;
    /// The smallest unit of requests, in bytes.
    fn request_alignment(&self) -> u32 {
        1
    }
    /// What is told of clusters with data, beside that.
    fn data_status(&self) -> StatusFlags {
        StatusFlags::empty()
    }
    /// The longest write, in bytes; 0: any.
    fn max_transfer(&self) -> u64 {
        0
    }
    /// The backing file the header names.
    fn backing_file(&self) -> Option<BackingFile> {
        None
    }
    /// Names another one.
    async fn change_backing_file(&self, _backing: Option<BackingFile>) -> Result<()> {
        Err(BlockError::os(libc::ENOTSUP))
    }
    /// Checks and repairs.
    async fn check(&self, _repair: Repair) -> Result<CheckResult> {
        Err(BlockError::os(libc::ENOTSUP))
    }
    /// Moves the disk's end.
    async fn truncate(&self, _length: u64, _how: Truncate) -> Result<()> {
        Err(BlockError::unsupported("Image format driver does not support resize"))
    }
    /// Writes one cluster compressed.
    async fn write_compressed(&self, _cluster: u64, _data: Vec<u8>) -> Result<()> {
        Err(BlockError::os(libc::ENOTSUP))
    }
    /// Gives storage back.
    async fn discard(&self, _offset: u64, _len: u64) -> Result<()> {
        Err(BlockError::os(libc::ENOTSUP))
    }
    /// Drops all data of this layer.
    async fn make_empty(&self) -> Result<()> {
        Err(BlockError::os(libc::ENOTSUP))
    }
    /// Persistent bitmaps.
    fn bitmaps(&self) -> Option<&dyn PersistentBitmaps> {
        None
    }
    /// Everything is written: leave the image clean.
    async fn leave_clean(&self) -> Result<()> {
        Ok(())
    }
    /// Held by requests that use the map; those that free storage wait for them.
    fn users(&self) -> &async_lock::RwLock<()>;
    /// Comes before the first write: repairs what was left unclean, refuses what would do harm.
    async fn prepare_writing(&self) -> Result<()> {
        Ok(())
    }
}

/// An image of a format that maps clusters.
pub(crate) struct ImageNode<F>(F, AtomicBool);

impl<F: ImageFormat> ImageNode<F> {
    /// The node of an image that is open as the context says.
    pub(crate) async fn new(format: F, context: &OpenContext<'_>) -> Result<Self> {
        let looks_only = context.flags.intersects(OpenFlags::CHECK | OpenFlags::NO_IO);
        if context.writable() && !looks_only {
            format.prepare_writing().await?;
        }
        Ok(Self(format, AtomicBool::new(!context.writable())))
    }

    fn is_read_only(&self) -> bool {
        self.1.load(Relaxed)
    }
}

#[async_trait]
impl<F: ImageFormat> Node for ImageNode<F> {
    fn limits(&self) -> Limits {
        let alignment = self.0.request_alignment();
        let cluster = u32::try_from(self.0.cluster_size()).unwrap_or(1 << 30);
        Limits {
            request_alignment: alignment,
            write_zeroes_alignment: cluster.max(alignment),
            discard_alignment: cluster.max(alignment),
            max_transfer: self.0.max_transfer(),
            native_write_zeroes: WriteFlags::MAY_UNMAP,
            ..Limits::default()
        }
    }

    fn length(&self) -> u64 {
        self.0.disk_length()
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        vec![self.0.file().clone()]
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        let _using = self.0.users().read().await;
        clusters::read(&self.0, offset, data).await
    }

    async fn write(&self, offset: u64, data: IoView<'_>, _: WriteFlags) -> Result<()> {
        let _using = self.0.users().read().await;
        clusters::write(&self.0, offset, data).await
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        let _using = self.0.users().read().await;
        clusters::write_zeroes(&self.0, offset, len, flags).await
    }

    async fn write_compressed(&self, offset: u64, data: IoView<'_>) -> Result<()> {
        let size = self.0.cluster_size();
        if !offset.is_multiple_of(size) {
            return Err(BlockError::invalid("a compressed write must start with a cluster"));
        }
        let mut done = 0;
        while done < data.len() {
            let len = (data.len() - done).min(size as usize);
            let mut cluster = vec![0; size as usize];
            data.slice(done..done + len).read(0, &mut cluster[..len]);
            let at = offset + done as u64;
            if (len as u64) < size && at + len as u64 != self.0.disk_length() {
                return Err(BlockError::invalid("a compressed write must be of whole clusters"));
            }
            self.0.write_compressed(at / size, cluster).await?;
            done += len;
        }
        Ok(())
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.0.discard(offset, len).await
    }

    async fn flush(&self) -> Result<()> {
        clusters::flush(&self.0).await
    }

    async fn block_status(&self, offset: u64, len: u64, _: bool) -> Result<BlockStatus> {
        let _using = self.0.users().read().await;
        let (size, data) = (self.0.cluster_size(), self.0.data_status());
        let mut status = clusters::block_status(&self.0, offset, len, F::UNALLOCATED, data).await?;
        if F::DATA_BY_CLUSTER && status.flags.contains(StatusFlags::DATA) {
            status.len = status.len.min(size - offset % size);
        }
        Ok(status)
    }

    async fn truncate(&self, length: u64, how: Truncate) -> Result<()> {
        self.0.truncate(length, how).await
    }

    async fn format_info(&self) -> Result<FormatInfo> {
        Ok(self.0.info())
    }

    fn backing_file(&self) -> Option<BackingFile> {
        self.0.backing_file()
    }

    async fn change_backing_file(&self, backing: Option<BackingFile>) -> Result<()> {
        self.0.change_backing_file(backing).await
    }

    async fn check(&self, repair: Repair) -> Result<CheckResult> {
        if self.is_read_only() && repair != Repair::default() {
            return Err(BlockError::os(libc::EPERM));
        }
        // The file is what is checked.
        clusters::write_back(&self.0).await?;
        let _alone = self.0.users().write().await;
        let result = self.0.check(repair).await;
        self.0.tables().forget();
        result
    }

    async fn make_empty(&self) -> Result<()> {
        self.0.make_empty().await
    }

    fn bitmaps(&self) -> Option<&dyn PersistentBitmaps> {
        self.0.bitmaps()
    }

    async fn reopen(&self, flags: OpenFlags, options: Options) -> Result<()> {
        rhea_block::refuse_changes(&options)?;
        let read_only = flags.contains(OpenFlags::READ_ONLY);
        match (self.is_read_only(), read_only) {
            (true, false) => self.0.prepare_writing().await?,
            (false, true) => {
                clusters::flush(&self.0).await?;
                self.0.leave_clean().await?;
            }
            _ => {}
        }
        self.1.store(read_only, Relaxed);
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        clusters::flush(&self.0).await?;
        self.0.leave_clean().await
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// Creates the file of an image.
pub(crate) async fn create_file(
    context: &rhea_block::CreateContext<'_>,
    filename: &str,
) -> Result<Arc<BlockNode>> {
    context.registry.create_file(filename, 0).await
}

/// Makes a new image's file stable and closes it.
pub(crate) async fn finish_file(file: Arc<BlockNode>) -> Result<()> {
    file.flush().await?;
    file.close().await
}

/// The `size` option, in bytes, rounded up to whole sectors.
pub(crate) fn take_size(options: &mut Options) -> Result<u64> {
    let size = options.take::<rhea_options::Size>("size")?.map_or(0, |size| size.0);
    size.checked_next_multiple_of(512)
        .ok_or_else(|| BlockError::new(libc::EFBIG, "the image size is too large"))
}

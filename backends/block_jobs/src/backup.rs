//! `backup`: a copy of a disk as it was at one moment, while it goes on changing.
//!
//! A filter before the source holds a write back until what it would overwrite has been copied. Incremental backups copy
//! only what a bitmap marks.

use std::sync::Arc;

use async_lock::Mutex as AsyncMutex;
use async_trait::async_trait;
use parking_lot::Mutex;
use rhea_async_io::{IoVector, IoView};
use rhea_block::{
    BlockError, BlockNode, BlockStatus, DirtyBitmap, Edge, FormatInfo, Limits, Node, OpenFlags, Permissions,
    Result, Role, Truncate, WriteFlags,
};

use crate::copy::{How, copy_range};
use crate::job::{Control, run};

/// What a backup copies, named as in QAPI's MirrorSyncMode.
#[derive(Clone)]
pub enum Scope {
    /// Everything.
    Full,
    /// What the topmost layer holds.
    Top,
    /// What is marked in the bitmap. It is emptied as the backup begins; if the backup fails, the marks come back.
    Incremental(Arc<Mutex<DirtyBitmap>>),
    /// Only what is about to be overwritten.
    None,
}

/// What to back up, and where to.
pub struct Backup {
    /// The disk.
    pub source: Arc<BlockNode>,
    /// Where the copy goes; of the same length.
    pub target: Arc<BlockNode>,
    /// What is copied.
    pub scope: Scope,
    /// Write the copy compressed.
    pub compress: bool,
}

/// Bytes that are copied together at least.
const CLUSTER: u64 = 64 << 10;

/// What is still to be copied; shared by the job and the filter.
struct Pending {
    source: Arc<BlockNode>,
    target: Arc<BlockNode>,
    how: How,
    cluster: u64,
    left: Mutex<DirtyBitmap>,
    /// One copy at a time: the job's next cluster, or the one a write waits for.
    copying: AsyncMutex<()>,
    failed: Mutex<Option<BlockError>>,
}

impl Pending {
    /// Copies what is left of a range.
    async fn copy(&self, offset: u64, len: u64) -> Result<()> {
        let _one = self.copying.lock().await;
        let end =
            (offset + len).div_ceil(self.cluster).saturating_mul(self.cluster).min(self.source.length());
        let mut at = offset / self.cluster * self.cluster;
        loop {
            let next = self.left.lock().next_dirty(at);
            let Some((from, len)) = next.filter(|(from, _)| *from < end) else { return Ok(()) };
            let len = len.min(end - from).min(crate::copy::CHUNK.max(self.cluster));
            copy_range(&self.source, &self.target, from, len, self.how).await?;
            self.left.lock().reset(from, len);
            at = from + len;
        }
    }
}

impl Backup {
    /// Runs the job.
    pub async fn run(self, control: &Arc<Control>) -> Result<()> {
        run(control, self.work(control)).await
    }

    async fn work(&self, control: &Arc<Control>) -> Result<()> {
        let length = self.source.length();
        if self.target.length() != length {
            return Err(BlockError::invalid("Source and target image have different sizes"));
        }
        let target_cluster = self.target.driver().format_info().await?.cluster_size;
        let cluster = target_cluster.max(CLUSTER).next_power_of_two();
        let mut left = DirtyBitmap::new("#backup", cluster, length)?;
        let pending = Arc::new(Pending {
            source: self.source.clone(),
            target: self.target.clone(),
            how: if self.compress { How::Compressed } else { How::Plain },
            cluster,
            left: Mutex::new(DirtyBitmap::new("#backup", cluster, length)?),
            copying: AsyncMutex::new(()),
            failed: Mutex::new(None),
        });
        let filter = CopyBeforeWrite {
            child: Edge::new("file", Role::Filtered, self.source.clone()),
            pending: pending.clone(),
        };
        let filter = BlockNode::anonymous("copy-before-write", Box::new(filter), self.source.flags());
        // The moment that is copied: nothing is being written, the marks are taken, and from here on writes wait.
        let drained = self.source.drain().await;
        let taken = match &self.scope {
            Scope::Incremental(bitmap) => {
                let taken = bitmap.lock().clone();
                left.merge(&taken);
                bitmap.lock().clear();
                Some(taken)
            }
            Scope::Full | Scope::None => {
                left.set(0, length);
                None
            }
            Scope::Top => {
                self.mark_top(&mut left).await?;
                None
            }
        };
        *pending.left.lock() = left;
        self.source.replace_with(&drained, &filter).await?;
        drop(drained);
        let result = self.copy_all(control, &pending).await;
        let drained = filter.drain().await;
        let removed = filter.replace_with(&drained, &self.source).await;
        drop(drained);
        let result = match (result, pending.failed.lock().take()) {
            (Ok(()), Some(error)) => Err(error),
            (result, _) => result,
        };
        if let (Err(_), Scope::Incremental(bitmap), Some(taken)) = (&result, &self.scope, taken) {
            bitmap.lock().merge(&taken);
        }
        result?;
        removed?;
        self.target.flush().await
    }

    async fn copy_all(&self, control: &Arc<Control>, pending: &Pending) -> Result<()> {
        if let Scope::None = self.scope {
            control.set_ready();
            while !control.is_completing() {
                control.pause_point().await?;
                control.wait_change(std::time::Duration::from_millis(200)).await;
            }
            return Ok(());
        }
        let total = pending.left.lock().count();
        control.progress().set_total(total);
        loop {
            let next = pending.left.lock().next_dirty(0);
            let Some((offset, len)) = next else { return Ok(()) };
            let len = len.min(pending.cluster.max(crate::copy::CHUNK));
            control.before_copying(len).await?;
            if let Some(error) = pending.failed.lock().clone() {
                return Err(error);
            }
            pending.copy(offset, len).await?;
            control.progress().set_done(total.saturating_sub(pending.left.lock().count()));
        }
    }

    async fn mark_top(&self, left: &mut DirtyBitmap) -> Result<()> {
        let length = self.source.length();
        let base = self.source.skip_filters().backing();
        let mut at = 0;
        while at < length {
            let (status, decided) = self.source.block_status_above(base.as_ref(), at, length - at).await?;
            if status.len == 0 {
                break;
            }
            if decided.is_some() {
                left.set(at, status.len);
            }
            at += status.len;
        }
        Ok(())
    }
}

/// The filter before the source: writes wait for the copy of what they overwrite.
struct CopyBeforeWrite {
    child: Arc<Edge>,
    pending: Arc<Pending>,
}

impl CopyBeforeWrite {
    /// A failed copy fails the backup, never the machine's write.
    async fn before(&self, offset: u64, len: u64) {
        if self.pending.failed.lock().is_some() {
            return;
        }
        if let Err(error) = self.pending.copy(offset, len).await {
            *self.pending.failed.lock() = Some(error);
        }
    }
}

#[async_trait]
impl Node for CopyBeforeWrite {
    fn limits(&self) -> Limits {
        Limits {
            native_write: WriteFlags::all(),
            native_write_zeroes: WriteFlags::all(),
            max_transfer: 0,
            ..self.child.node().limits()
        }
    }

    fn length(&self) -> u64 {
        self.child.node().exact_length()
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        vec![self.child.clone()]
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        self.child.node().read(offset, data).await
    }

    async fn write(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
        self.before(offset, data.len() as u64).await;
        self.child.node().write(offset, data, flags).await
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        self.before(offset, len).await;
        self.child.node().write_zeroes(offset, len, flags).await
    }

    async fn write_compressed(&self, offset: u64, data: IoView<'_>) -> Result<()> {
        self.before(offset, data.len() as u64).await;
        self.child.node().write_compressed(offset, data).await
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.before(offset, len).await;
        self.child.node().discard(offset, len).await
    }

    async fn flush(&self) -> Result<()> {
        self.child.node().flush().await
    }

    async fn block_status(&self, offset: u64, len: u64, want_zero: bool) -> Result<BlockStatus> {
        self.child.node().block_status(offset, len, want_zero).await
    }

    async fn truncate(&self, _: u64, _: Truncate) -> Result<()> {
        Err(BlockError::new(libc::EBUSY, "a disk cannot be resized while it is backed up"))
    }

    async fn format_info(&self) -> Result<FormatInfo> {
        self.child.node().driver().format_info().await
    }

    fn child_permissions(
        &self,
        child: &Edge,
        needed: Permissions,
        shared: Permissions,
    ) -> (Permissions, Permissions) {
        rhea_block::for_child(child.role(), needed, shared)
    }

    async fn reopen(&self, _: OpenFlags, _: rhea_options::Options) -> Result<()> {
        Ok(())
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

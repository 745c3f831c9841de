//! `preallocate`: a file that grows, grows in large steps.
//!
//! Where growing a file is slow, a write beyond its end first reserves storage well beyond, and the file is cut back
//! when the node closes. Above it the file looks as if it ended where the data ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use async_lock::Mutex;
use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView};
use rhea_block::{
    BlockError, BlockStatus, Driver, DriverKind, Edge, Limits, Node, OpenContext, Permissions, Preallocation,
    Result, Role, Truncate, WriteFlags,
};
use rhea_options::{Options, Size};

use crate::filter::{Filter, FilterNode};

/// The driver `preallocate`: options `file`, `prealloc-size` (128 MiB) and `prealloc-align` (1 MiB).
pub struct PreallocateDriver;

struct Preallocate {
    child: Arc<Edge>,
    size: u64,
    align: u64,
    /// Where the data ends.
    end: AtomicU64,
    growing: Mutex<()>,
}

#[async_trait]
impl Driver for PreallocateDriver {
    fn name(&self) -> &'static str {
        "preallocate"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Filter
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        let align = options.take::<Size>("prealloc-align")?.map_or(1 << 20, |s| s.0);
        let size = options.take::<Size>("prealloc-size")?.map_or(128 << 20, |s| s.0);
        if align == 0 || !align.is_multiple_of(512) {
            return Err(BlockError::invalid(
                "prealloc-align parameter of preallocate filter is not aligned to 512",
            ));
        }
        let child = context.open_child(options, "file", Role::Filtered).await?;
        let end = AtomicU64::new(child.node().exact_length());
        Ok(Box::new(FilterNode(Preallocate { child, size, align, end, growing: Mutex::new(()) })))
    }
}

impl Preallocate {
    /// Makes room for data up to `end`.
    async fn reserve(&self, end: u64) -> Result<()> {
        if end <= self.end.load(SeqCst) {
            return Ok(());
        }
        let _one = self.growing.lock().await;
        let node = self.child.node();
        if end > node.exact_length() {
            let wanted = end.saturating_add(self.size).div_ceil(self.align).saturating_mul(self.align);
            let how = Truncate { preallocation: Preallocation::Falloc, ..Truncate::default() };
            match node.truncate(wanted, how).await {
                // Without room to spare, the write itself will tell whether there is enough.
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Filter for Preallocate {
    fn child(&self) -> &Arc<Edge> {
        &self.child
    }

    fn limits(&self) -> Limits {
        Limits { growable: true, max_transfer: 0, ..self.child.node().limits() }
    }

    fn length(&self) -> u64 {
        self.end.load(SeqCst)
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        self.child.node().read(offset, data).await
    }

    async fn write(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
        let end = offset + data.len() as u64;
        self.reserve(end).await?;
        self.child.node().write(offset, data, flags).await?;
        self.end.fetch_max(end, SeqCst);
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        let end = offset + len;
        self.reserve(end).await?;
        self.child.node().write_zeroes(offset, len, flags).await?;
        self.end.fetch_max(end, SeqCst);
        Ok(())
    }

    async fn block_status(&self, offset: u64, len: u64, want_zero: bool) -> Result<BlockStatus> {
        self.child.node().block_status(offset, len, want_zero).await
    }

    async fn truncate(&self, length: u64, how: Truncate) -> Result<()> {
        let _one = self.growing.lock().await;
        self.child.node().truncate(length, how).await?;
        self.end.store(length, SeqCst);
        Ok(())
    }

    fn child_permissions(
        &self,
        child: &Edge,
        needed: Permissions,
        shared: Permissions,
    ) -> (Permissions, Permissions) {
        let (needed, shared) = rhea_block::for_child(child.role(), needed, shared);
        let resize = needed.contains(Permissions::WRITE);
        // Nobody else may move the end that only we know.
        (
            if resize { needed | Permissions::RESIZE } else { needed },
            if resize { shared - Permissions::RESIZE } else { shared },
        )
    }

    async fn close(&self) -> Result<()> {
        let (node, end) = (self.child.node(), self.end.load(SeqCst));
        if !node.is_read_only() && node.exact_length() > end {
            node.truncate(end, Truncate { exact: true, ..Truncate::default() }).await?;
        }
        Ok(())
    }
}

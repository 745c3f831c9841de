//! `copy-on-read`: what is read from a backing file is kept in the image.

use std::sync::Arc;

use async_lock::RwLock;
use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView};
use rhea_block::{
    BlockError, BlockNode, Driver, DriverKind, Edge, Node, OpenContext, Permissions, Result, Role,
    StatusFlags, WriteFlags,
};
use rhea_options::Options;

use crate::filter::{Filter, FilterNode};

/// The driver `copy-on-read`: options `file` and `bottom` (the last node of the chain that is not copied from is the one
/// below `bottom`).
pub struct CopyOnReadDriver;

struct CopyOnRead {
    child: Arc<Edge>,
    /// Copies stop below this node.
    bottom: Option<Arc<BlockNode>>,
    cluster_size: u64,
    /// A copy takes it whole, a write a share: old data must never land on a newer write.
    copying: RwLock<()>,
}

#[async_trait]
impl Driver for CopyOnReadDriver {
    fn name(&self) -> &'static str {
        "copy-on-read"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Filter
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        let bottom = match options.take::<String>("bottom")? {
            None => None,
            Some(name) => Some(
                context
                    .registry
                    .find(&name)
                    .ok_or_else(|| BlockError::invalid(format!("Bottom node '{name}' not found")))?,
            ),
        };
        if !context.writable() {
            return Err(BlockError::new(libc::EPERM, "Block node is read-only"));
        }
        let child = context.open_child(options, "file", Role::Filtered).await?;
        if let Some(bottom) = &bottom
            && !child.node().reaches(bottom)
        {
            return Err(BlockError::invalid(format!(
                "'{}' is not below the node to be copied to",
                bottom.name()
            )));
        }
        let cluster_size = child.node().driver().format_info().await?.cluster_size.max(512);
        Ok(Box::new(FilterNode(CopyOnRead { child, bottom, cluster_size, copying: RwLock::new(()) })))
    }
}

impl CopyOnRead {
    /// The node behind which nothing is copied from.
    fn base(&self) -> Option<Arc<BlockNode>> {
        self.bottom.as_ref().and_then(|bottom| bottom.backing())
    }

    /// Copies what the range's clusters do not hold yet.
    async fn populate(&self, offset: u64, len: u64) -> Result<()> {
        let node = self.child.node().skip_filters();
        let start = offset / self.cluster_size * self.cluster_size;
        let end =
            (offset + len).div_ceil(self.cluster_size).saturating_mul(self.cluster_size).min(node.length());
        let base = self.base();
        let mut at = start;
        while at < end {
            let status = node.block_status(at, end - at, false).await?;
            if status.len == 0 {
                break;
            }
            at += match status.flags.contains(StatusFlags::ALLOCATED) {
                true => status.len,
                false => self.copy(&node, base.as_ref(), at, status.len.min(1 << 20)).await?,
            };
        }
        Ok(())
    }

    /// Copies from the start of a range that is not allocated; returns how many bytes are dealt with.
    async fn copy(
        &self,
        node: &Arc<BlockNode>,
        base: Option<&Arc<BlockNode>>,
        at: u64,
        len: u64,
    ) -> Result<u64> {
        let _alone = self.copying.write().await;
        let (above, decided) = node.block_status_above(base, at, len).await?;
        let len = above.len.min(len);
        // Written while we waited, or behind what is copied from.
        if decided == Some(0) || (base.is_some() && decided.is_none()) {
            return Ok(len);
        }
        let mut data = IoVector::zeroed(len as usize);
        node.read(at, &mut data).await?;
        node.debug_event("cor_write").await;
        match data.view().is_zero() {
            true => node.write_zeroes(at, len, WriteFlags::WRITE_UNCHANGED).await?,
            false => node.write(at, &data, WriteFlags::WRITE_UNCHANGED).await?,
        }
        Ok(len)
    }
}

/// Puts a `copy-on-read` filter before a node.
pub async fn copy_on_read(node: Arc<BlockNode>) -> Result<Arc<BlockNode>> {
    let cluster_size = node.driver().format_info().await?.cluster_size.max(512);
    let flags = node.flags();
    let child = Edge::new("file", Role::Filtered, node);
    let filter = CopyOnRead { child, bottom: None, cluster_size, copying: RwLock::new(()) };
    Ok(BlockNode::anonymous("copy-on-read", Box::new(FilterNode(filter)), flags))
}

#[async_trait]
impl Filter for CopyOnRead {
    fn child(&self) -> &Arc<Edge> {
        &self.child
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        self.populate(offset, data.len() as u64).await?;
        self.child.node().read(offset, data).await
    }

    async fn write(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
        let _share = self.copying.read().await;
        self.child.node().write(offset, data, flags).await
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        let _share = self.copying.read().await;
        self.child.node().write_zeroes(offset, len, flags).await
    }

    async fn write_compressed(&self, offset: u64, data: IoView<'_>) -> Result<()> {
        let _share = self.copying.read().await;
        self.child.node().write_compressed(offset, data).await
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let _share = self.copying.read().await;
        self.child.node().discard(offset, len).await
    }

    fn child_permissions(
        &self,
        child: &Edge,
        needed: Permissions,
        shared: Permissions,
    ) -> (Permissions, Permissions) {
        let (needed, shared) = rhea_block::for_child(child.role(), needed, shared);
        (needed | Permissions::WRITE_UNCHANGED, shared)
    }
}

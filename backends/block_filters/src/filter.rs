//! What all filters have in common: a request they have nothing to say about goes on to the child.

use std::sync::Arc;

use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView};
use rhea_block::{
    BlockNode, BlockStatus, Edge, FormatInfo, Limits, Node, OpenFlags, Permissions, Result, Truncate,
    WriteFlags,
};
use rhea_options::Options;

/// A filter: each method's default hands the request on to the child.
#[async_trait]
pub trait Filter: Send + Sync + 'static {
    /// The child whose disk is shown.
    fn child(&self) -> &Arc<Edge>;

    /// All children.
    fn children(&self) -> Vec<Arc<Edge>> {
        vec![self.child().clone()]
    }

    /// See [`Node::limits`]. A filter passes on requests of any length: its child's block layer splits them.
    fn limits(&self) -> Limits {
        Limits { max_transfer: 0, ..self.child().node().limits() }
    }

    /// See [`Node::length`].
    fn length(&self) -> u64 {
        self.child().node().exact_length()
    }

    /// See [`Node::read`].
    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        self.child().node().read(offset, data).await
    }

    /// See [`Node::write`].
    async fn write(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
        self.child().node().write(offset, data, flags).await
    }

    /// See [`Node::write_zeroes`].
    async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        self.child().node().write_zeroes(offset, len, flags).await
    }

    /// See [`Node::write_compressed`].
    async fn write_compressed(&self, offset: u64, data: IoView<'_>) -> Result<()> {
        self.child().node().write_compressed(offset, data).await
    }

    /// See [`Node::discard`].
    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.child().node().discard(offset, len).await
    }

    /// See [`Node::flush`].
    async fn flush(&self) -> Result<()> {
        self.child().node().flush().await
    }

    /// See [`Node::block_status`].
    async fn block_status(&self, offset: u64, len: u64, want_zero: bool) -> Result<BlockStatus> {
        self.child().node().block_status(offset, len, want_zero).await
    }

    /// See [`Node::truncate`].
    async fn truncate(&self, length: u64, how: Truncate) -> Result<()> {
        self.child().node().truncate(length, how).await
    }

    /// See [`Node::child_permissions`].
    fn child_permissions(
        &self,
        child: &Edge,
        needed: Permissions,
        shared: Permissions,
    ) -> (Permissions, Permissions) {
        rhea_block::for_child(child.role(), needed, shared)
    }

    /// See [`Node::wants_debug_events`].
    fn wants_debug_events(&self) -> bool {
        self.child().node().driver().wants_debug_events()
    }

    /// See [`Node::debug_event`].
    async fn debug_event(&self, event: &'static str) {
        self.child().node().debug_event(event).await;
    }

    /// See [`Node::reopen`]. The default takes no options.
    async fn reopen(&self, _: OpenFlags, options: Options) -> Result<()> {
        match options.entries().first() {
            None => Ok(()),
            Some(entry) => {
                Err(rhea_block::BlockError::unsupported(format!("Cannot change the option '{}'", entry.key)))
            }
        }
    }

    /// See [`Node::close`].
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// A filter as a node.
pub struct FilterNode<F>(pub F);

#[async_trait]
impl<F: Filter> Node for FilterNode<F> {
    fn limits(&self) -> Limits {
        let limits = self.0.limits();
        // What the child does not heed itself, its own block layer makes up for.
        Limits { native_write: WriteFlags::all(), native_write_zeroes: WriteFlags::all(), ..limits }
    }

    fn length(&self) -> u64 {
        self.0.length()
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        self.0.children()
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        self.0.read(offset, data).await
    }

    async fn write(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
        self.0.write(offset, data, flags).await
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        self.0.write_zeroes(offset, len, flags).await
    }

    async fn write_compressed(&self, offset: u64, data: IoView<'_>) -> Result<()> {
        self.0.write_compressed(offset, data).await
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.0.discard(offset, len).await
    }

    async fn flush(&self) -> Result<()> {
        self.0.flush().await
    }

    async fn block_status(&self, offset: u64, len: u64, want_zero: bool) -> Result<BlockStatus> {
        self.0.block_status(offset, len, want_zero).await
    }

    async fn truncate(&self, length: u64, how: Truncate) -> Result<()> {
        self.0.truncate(length, how).await
    }

    async fn copy_range_from(
        &self,
        offset: u64,
        to: &Arc<BlockNode>,
        to_offset: u64,
        len: u64,
        flags: WriteFlags,
    ) -> Result<()> {
        // Filters want to see the data.
        let _ = (offset, to, to_offset, len, flags);
        Err(rhea_block::BlockError::os(libc::ENOTSUP))
    }

    async fn format_info(&self) -> Result<FormatInfo> {
        let below = self.0.child().node().driver().format_info().await?;
        Ok(FormatInfo {
            cluster_size: below.cluster_size,
            unallocated_is_zero: below.unallocated_is_zero,
            ..FormatInfo::default()
        })
    }

    fn child_permissions(
        &self,
        child: &Edge,
        needed: Permissions,
        shared: Permissions,
    ) -> (Permissions, Permissions) {
        self.0.child_permissions(child, needed, shared)
    }

    fn wants_debug_events(&self) -> bool {
        self.0.wants_debug_events()
    }

    async fn debug_event(&self, event: &'static str) {
        self.0.debug_event(event).await;
    }

    async fn reopen(&self, flags: OpenFlags, options: Options) -> Result<()> {
        self.0.reopen(flags, options).await
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }

    fn as_any(&self) -> &dyn std::any::Any {
        &self.0
    }
}

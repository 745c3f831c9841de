//! An export's hold of its disk.

use std::sync::Arc;

use rhea_block::{BlockError, BlockNode, Edge, Permissions, Result, Role, WriteFlags};

/// A disk in use by an export.
#[derive(Debug)]
pub(crate) struct Hold {
    edge: Arc<Edge>,
    pub(crate) writable: bool,
    /// Every write is on stable storage before it is acknowledged.
    writethrough: bool,
}

impl Hold {
    /// Takes the disk, with the permission to read, to write if asked for, and to change its length if asked for.
    pub(crate) async fn take(
        node: Arc<BlockNode>,
        name: &str,
        writable: bool,
        resizes: bool,
        writethrough: bool,
    ) -> Result<Self> {
        if writable && node.is_read_only() {
            return Err(BlockError::new(libc::EPERM, "Cannot export read-only node as writable"));
        }
        let edge = Edge::new(name, Role::File, node);
        let mut needed = Permissions::CONSISTENT_READ;
        needed.set(Permissions::WRITE, writable);
        needed.set(Permissions::RESIZE, resizes);
        let shared = if resizes { Permissions::all() } else { Permissions::all() - Permissions::RESIZE };
        edge.set_permissions(needed, shared).await?;
        Ok(Self { edge, writable, writethrough })
    }

    pub(crate) fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }

    pub(crate) fn node(&self) -> Arc<BlockNode> {
        self.edge.node()
    }

    /// The flags of a write.
    pub(crate) fn write_flags(&self) -> WriteFlags {
        if self.writethrough { WriteFlags::FUA } else { WriteFlags::empty() }
    }

    /// Does something that changes the length with the permission to do so, if nobody minds.
    pub(crate) async fn resizing<T>(&self, act: impl Future<Output = Result<T>>) -> Result<T> {
        let (needed, shared) = self.edge.permissions();
        self.edge.set_permissions(needed | Permissions::RESIZE, shared).await?;
        let result = act.await;
        // Giving up a permission does not fail for a conflict.
        let _ = self.edge.set_permissions(needed, shared).await;
        result
    }

    /// Gives the disk back.
    pub(crate) async fn release(&self) -> Result<()> {
        self.edge.set_permissions(Permissions::empty(), Permissions::all()).await
    }
}

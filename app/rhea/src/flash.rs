//! Banks of flash memory on nodes of the block layer.

use std::io;
use std::sync::Arc;

use rhea_async_io::{IoVector, block_on};
use rhea_block::{BlockError, BlockNode, Edge, Permissions, Result, Role, WriteFlags};
use rhea_firmware_devices::FlashStore;

/// The largest bank that a board has: more is not read.
const BANK_MOST: u64 = 64 << 20;

/// What a bank starts with.
pub struct FlashPart {
    /// Its bytes.
    pub contents: Vec<u8>,
    /// Where changes go; `None` if it cannot be changed.
    pub store: Option<Arc<dyn FlashStore>>,
}

/// A node that a bank of flash memory is on.
pub struct FlashDisk {
    edge: Arc<Edge>,
}

/// Changes go to the node at once, and are safe when it is closed, as a chip's are when its power is cut in order.
struct NodeStore(Arc<Edge>);

impl FlashStore for NodeStore {
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let data = IoVector::from_slice(bytes);
        block_on(self.0.node().write(offset, &data, WriteFlags::empty())).map_err(io::Error::other)
    }
}

impl FlashDisk {
    /// Takes the node: nobody else may write it.
    ///
    /// # Errors
    /// The node is in use, or too large for any bank.
    pub async fn new(name: &str, node: Arc<BlockNode>) -> Result<Self> {
        if node.length() > BANK_MOST {
            return Err(BlockError::invalid(format!(
                "its {} bytes are more than flash memory has",
                node.length()
            )));
        }
        let writable = !node.is_read_only();
        let edge = Edge::new(name, Role::File, node);
        let mut needed = Permissions::CONSISTENT_READ;
        needed.set(Permissions::WRITE, writable);
        edge.set_permissions(needed, Permissions::CONSISTENT_READ | Permissions::WRITE_UNCHANGED).await?;
        Ok(Self { edge })
    }

    /// The drive's or node's name.
    pub fn name(&self) -> &str {
        self.edge.name()
    }

    /// What is on it.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn part(&self) -> Result<FlashPart> {
        let node = self.edge.node();
        let mut data = IoVector::zeroed(node.length() as usize);
        node.read(0, &mut data).await?;
        let store: Option<Arc<dyn FlashStore>> =
            if node.is_read_only() { None } else { Some(Arc::new(NodeStore(self.edge.clone()))) };
        Ok(FlashPart { contents: data.to_vec(), store })
    }

    /// Makes everything safe that was written, at the machine's end.
    ///
    /// # Errors
    /// The flush failed.
    pub async fn finish(&self) -> Result<()> {
        let node = self.edge.node();
        let flushed = if node.is_read_only() { Ok(()) } else { node.flush().await };
        flushed.and(self.edge.set_permissions(Permissions::empty(), Permissions::all()).await)
    }
}

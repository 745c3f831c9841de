//! A disk in memory, for tests: no file, no format.

use async_trait::async_trait;
use parking_lot::RwLock;
use rhea_async_io::{IoVector, IoView};

use crate::Result;
use crate::node::{BlockStatus, Limits, Node, StatusFlags, Truncate, WriteFlags};

/// Bytes in memory, growing with writes like a file.
#[derive(Debug, Default)]
pub struct MemoryNode {
    bytes: RwLock<Vec<u8>>,
}

impl MemoryNode {
    /// A disk with these contents.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: RwLock::new(bytes) }
    }

    /// A copy of the contents.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.read().clone()
    }
}

#[async_trait]
impl Node for MemoryNode {
    fn limits(&self) -> Limits {
        Limits {
            growable: true,
            native_write: WriteFlags::FUA,
            native_write_zeroes: WriteFlags::all(),
            ..Limits::default()
        }
    }

    fn length(&self) -> u64 {
        self.bytes.read().len() as u64
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        let at = offset as usize;
        data.write(0, &self.bytes.read()[at..at + data.len()]);
        Ok(())
    }

    async fn write(&self, offset: u64, data: IoView<'_>, _: WriteFlags) -> Result<()> {
        let end = offset as usize + data.len();
        let mut bytes = self.bytes.write();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        data.read(0, &mut bytes[offset as usize..end]);
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, len: u64, _: WriteFlags) -> Result<()> {
        let end = (offset + len) as usize;
        let mut bytes = self.bytes.write();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].fill(0);
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn block_status(&self, _: u64, len: u64, _: bool) -> Result<BlockStatus> {
        Ok(BlockStatus { len, flags: StatusFlags::DATA | StatusFlags::ALLOCATED, map: None })
    }

    async fn truncate(&self, length: u64, _: Truncate) -> Result<()> {
        self.bytes.write().resize(length as usize, 0);
        Ok(())
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

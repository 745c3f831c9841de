//! What fuzzing does with arbitrary bytes as images: open, look, read, check, and (where the format can) write.
//!
//! Nothing here may panic, hang, or take much memory; whether it succeeds does not matter.

use std::sync::Arc;

use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView, block_on};
use rhea_block::{
    BlockError, BlockNode, BlockStatus, Limits, MemoryNode, Node, OpenFlags, Registry, Repair, Result,
    Truncate, WriteFlags,
};
use rhea_options::Options;

/// A file longer than this has no space left.
const MAX_FILE: u64 = 16 << 20;

/// A file in memory that does not grow for ever.
struct SmallFile(MemoryNode);

fn full<T>() -> Result<T> {
    Err(BlockError::os(libc::ENOSPC))
}

#[async_trait]
impl Node for SmallFile {
    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn length(&self) -> u64 {
        self.0.length()
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        self.0.read(offset, data).await
    }

    async fn write(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
        match offset + data.len() as u64 <= MAX_FILE {
            true => self.0.write(offset, data, flags).await,
            false => full(),
        }
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        match offset + len <= MAX_FILE {
            true => self.0.write_zeroes(offset, len, flags).await,
            false => full(),
        }
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn block_status(&self, offset: u64, len: u64, want_zero: bool) -> Result<BlockStatus> {
        self.0.block_status(offset, len, want_zero).await
    }

    async fn truncate(&self, length: u64, how: Truncate) -> Result<()> {
        match length <= MAX_FILE {
            true => self.0.truncate(length, how).await,
            false => full(),
        }
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// The names of the formats that [`image`] knows.
pub const FORMATS: [&str; 8] = ["vdi", "vpc", "qed", "parallels", "qcow", "bochs", "cloop", "dmg"];

/// Takes the bytes for an image of a format. Says whether they could be opened, for reading and for writing.
pub fn image(format: &str, bytes: &[u8]) -> (bool, bool) {
    if bytes.len() as u64 > MAX_FILE {
        return (false, false);
    }
    block_on(async { (look(format, bytes).await, change(format, bytes).await) })
}

async fn open(format: &str, bytes: &[u8], flags: OpenFlags) -> Option<Arc<BlockNode>> {
    let mut registry = Registry::new();
    crate::register(&mut registry);
    let file = BlockNode::new(rhea_block::NodeParts {
        name: "file".into(),
        driver_name: "memory",
        filename: String::new(),
        flags: flags & OpenFlags::READ_ONLY,
        node: Box::new(SmallFile(MemoryNode::new(bytes.to_vec()))),
        backing: Arc::default(),
    });
    registry.remember(&file).ok()?;
    let mut options = Options::default();
    options.set("driver", format);
    options.set("file", "file");
    // A backing file's name would be somebody's file.
    registry.open_node(options, flags | OpenFlags::NO_BACKING | OpenFlags::UNMAP, false).await.ok()
}

/// Some places of a disk: its start, its end, and in between.
fn places(length: u64) -> impl Iterator<Item = u64> {
    let step = length / 7;
    (0..7).map(move |i| i * step).chain([length.saturating_sub(3000)])
}

async fn look(format: &str, bytes: &[u8]) -> bool {
    let Some(node) = open(format, bytes, OpenFlags::READ_ONLY).await else { return false };
    let length = node.length();
    for at in places(length) {
        let mut data = vec![0; 3000.min(length.saturating_sub(at)) as usize];
        let _ = node.read_bytes(at, &mut data).await;
        let _ = node.block_status(at, length.saturating_sub(at), true).await;
    }
    let _ = node.driver().format_info().await;
    let _ = node.driver().check(Repair::default()).await;
    if let Some(bitmaps) = node.driver().bitmaps()
        && length < 1 << 30
    {
        for bitmap in bitmaps.list().await.unwrap_or_default() {
            let _ = bitmaps.load(&bitmap.name).await;
        }
    }
    let _ = node.close().await;
    true
}

async fn change(format: &str, bytes: &[u8]) -> bool {
    let Some(node) = open(format, bytes, OpenFlags::empty()).await else { return false };
    let length = node.length();
    for at in places(length) {
        let len = 3000.min(length.saturating_sub(at));
        let _ = node.write_bytes(at, &vec![1; len as usize]).await;
        let _ = node.write_zeroes(at, len, WriteFlags::MAY_UNMAP).await;
        let _ = node.discard(at, len).await;
    }
    let _ = node.flush().await;
    let _ = node.driver().check(Repair { leaks: true, errors: true }).await;
    let _ = node.driver().change_backing_file(None).await;
    let _ = node.close().await;
    true
}

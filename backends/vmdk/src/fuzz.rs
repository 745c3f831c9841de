//! What a fuzzer feeds: an image out of any bytes, opened, read, written and checked.

use std::sync::Arc;

use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView, block_on};
use rhea_block::{
    BlockError, BlockNode, MemoryNode, Node, NodeParts, OpenFlags, Registry, Repair, Result, Truncate,
    WriteFlags,
};
use rhea_options::Options;

use crate::VmdkDriver;
use crate::descriptor::ExtentType;
use crate::sparse::COWD_MAGIC;

/// A file in memory that cannot grow without end, as a real one cannot on a full disk.
struct BoundedFile(MemoryNode);

const LONGEST: u64 = 24 << 20;

fn within(end: u64) -> Result<()> {
    if end > LONGEST { Err(BlockError::os(libc::ENOSPC)) } else { Ok(()) }
}

#[async_trait]
impl Node for BoundedFile {
    fn limits(&self) -> rhea_block::Limits {
        self.0.limits()
    }

    fn length(&self) -> u64 {
        self.0.length()
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        self.0.read(offset, data).await
    }

    async fn write(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
        within(offset + data.len() as u64)?;
        self.0.write(offset, data, flags).await
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        within(offset + len)?;
        self.0.write_zeroes(offset, len, flags).await
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn truncate(&self, length: u64, how: Truncate) -> Result<()> {
        within(length)?;
        self.0.truncate(length, how).await
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// A small valid disk with a few grains, compressed or not.
fn template(options: &'static str) -> Vec<u8> {
    block_on(async {
        let memory: Box<dyn Node> = Box::new(MemoryNode::new(vec![]));
        let file = BlockNode::anonymous("memory", memory, OpenFlags::UNMAP);
        crate::create::format(&file, options).await.expect("a valid disk");
        let registry = registry(&file);
        let disk = open(&registry, &file, OpenFlags::UNMAP).await.expect("a valid disk");
        disk.write_bytes(0, &[1; 65536]).await.expect("memory");
        disk.write_bytes(5 << 16, &[2; 65536]).await.expect("memory");
        disk.flush().await.expect("memory");
        file.downcast::<MemoryNode>().expect("made above").bytes()
    })
}

fn templates() -> &'static [Vec<u8>; 3] {
    static TEMPLATES: std::sync::OnceLock<[Vec<u8>; 3]> = std::sync::OnceLock::new();
    TEMPLATES.get_or_init(|| {
        ["size=70M", "size=8M,zeroed_grain=on", "size=8M,subformat=streamOptimized"].map(template)
    })
}

fn registry(file: &Arc<BlockNode>) -> Registry {
    let mut registry = Registry::new();
    registry.add(VmdkDriver);
    registry.remember(file).expect("the only node");
    registry
}

async fn open(registry: &Registry, file: &Arc<BlockNode>, flags: OpenFlags) -> Result<Arc<BlockNode>> {
    let mut options = Options::default();
    options.set("driver", "vmdk");
    options.set("file", file.name());
    registry.open_node(options, flags, false).await
}

/// A small valid extent of a kind that only a descriptor names, with a grain or two.
fn extent_template(kind: ExtentType) -> Vec<u8> {
    let mut extent = vec![0; 64 << 10];
    match kind {
        ExtentType::VmfsSparse => {
            extent[..4].copy_from_slice(COWD_MAGIC);
            // Version, sectors, grain size, directory and its entries; the directory, and the table's first entry.
            for (number, field) in [(1, 1_u32), (3, 8192), (4, 1), (5, 4), (6, 2), (512, 8), (1024, 60)] {
                extent[number * 4..][..4].copy_from_slice(&field.to_le_bytes());
            }
        }
        _ => {
            for (number, field) in [
                (0, 0xcafe_babe_u64),
                (1, 0x2_0000_0001),
                (2, 8192),
                (3, 8),
                (4, 64),
                (10, 1),
                (16, 2),
                (17, 1),
                (18, 4),
                (24, 70),
                (64, 0xcafe_cafe),
                (128, 0x1000_0000_0000_0000),
                (256, 0x3000_0000_0000_0000),
            ] {
                extent[number * 8..][..8].copy_from_slice(&field.to_le_bytes());
            }
        }
    }
    extent
}

/// The bytes as an extent of a descriptor's: each 8 of them change four bytes of a valid one.
fn extent_of(kind: ExtentType, changes: &[u8]) -> Vec<u8> {
    let mut extent = extent_template(kind);
    for change in changes.chunks_exact(8) {
        // Headers, directories, tables.
        let base = [0, 512, 1024, 2048, 4096][usize::from(change[0]) % 5];
        let at = base + usize::from(u16::from_le_bytes([change[2], change[3]])) % 512;
        extent[at..at + 4].copy_from_slice(&change[4..8]);
    }
    extent
}

async fn look_at_extent(kind: ExtentType, changes: &[u8]) -> bool {
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"vmfsSparse\"\nRW 8192 {} \"x\"\n",
        kind.word()
    );
    let mut registry = Registry::new();
    registry.add(VmdkDriver);
    let mut options = Options::default();
    options.set("driver", "vmdk");
    for (option, name, bytes) in
        [("file", "descriptor", text.into_bytes()), ("extents.0", "extent", extent_of(kind, changes))]
    {
        let file = BlockNode::new(NodeParts {
            name: name.into(),
            driver_name: "memory",
            filename: String::new(),
            flags: OpenFlags::READ_ONLY,
            node: Box::new(MemoryNode::new(bytes)),
            backing: Arc::default(),
        });
        registry.remember(&file).expect("another name");
        options.set(option, name);
    }
    let Ok(disk) = registry.open_node(options, OpenFlags::READ_ONLY, false).await else { return false };
    let mut data = vec![0; 8192];
    for offset in [0, 2 << 20, disk.length() / 2, disk.length().saturating_sub(4096)] {
        let _ = disk.read_bytes(offset, &mut data).await;
        let _ = disk.block_status(offset, 1 << 30, true).await;
    }
    let _ = disk.driver().check(Repair::default()).await;
    let _ = disk.driver().format_info().await;
    let _ = disk.close().await;
    true
}

/// The bytes as an image: as they are if the first is odd; else each 8 of them change four bytes of a valid disk.
fn image_of(bytes: &[u8]) -> Vec<u8> {
    let Some((&first, rest)) = bytes.split_first() else { return vec![] };
    if first & 1 == 1 {
        return rest.to_vec();
    }
    let mut image = templates()[usize::from(first >> 1) % 3].clone();
    for change in rest.chunks_exact(8) {
        // The header, the descriptor, directories and tables, and the first grains.
        let base = [0, 512, 21 << 9, 22 << 9, 26 << 9, 34 << 9, 1 << 16][usize::from(change[0]) % 7];
        let at = base + usize::from(u16::from_le_bytes([change[2], change[3]])) % 1024;
        // Some of the templates are short.
        if let Some(place) = image.get_mut(at..at + 4) {
            place.copy_from_slice(&change[4..8]);
        }
    }
    image
}

/// Takes any bytes for an image and opens, reads, writes and checks it: whatever they are, the outcome is an error or a
/// disk, never a panic, a hang or memory without bound.
pub fn fuzz_image(bytes: &[u8]) {
    // Extents that only a descriptor names.
    if let Some((&first, changes)) = bytes.split_first()
        && first >= 0xe0
    {
        let kind = if first & 1 == 0 { ExtentType::VmfsSparse } else { ExtentType::SeSparse };
        block_on(look_at_extent(kind, changes));
        return;
    }
    let image = image_of(bytes);
    block_on(async {
        for flags in [OpenFlags::READ_ONLY, OpenFlags::UNMAP, OpenFlags::UNMAP | OpenFlags::CHECK] {
            let node: Box<dyn Node> = Box::new(BoundedFile(MemoryNode::new(image.clone())));
            let file = BlockNode::anonymous("memory", node, flags - OpenFlags::CHECK);
            let registry = registry(&file);
            let Ok(disk) = open(&registry, &file, flags).await else { continue };
            let mut data = vec![0; 8192];
            for offset in [0, 5 << 16, disk.length() / 2, disk.length().saturating_sub(4096)] {
                let _ = disk.read_bytes(offset, &mut data).await;
                let _ = disk.block_status(offset, 1 << 30, true).await;
            }
            let _ = disk.driver().check(Repair { leaks: true, errors: true }).await;
            let _ = disk.write_bytes(3 << 20, &[3; 65536]).await;
            let _ = disk.write_zeroes(1 << 20, 1 << 20, WriteFlags::MAY_UNMAP).await;
            let _ = disk.flush().await;
            let _ = disk.driver().format_info().await;
            let _ = disk.close().await;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_of_a_descriptor_open_and_their_changes_arrive() {
        for kind in [ExtentType::VmfsSparse, ExtentType::SeSparse] {
            assert!(block_on(look_at_extent(kind, &[])), "{kind:?}");
            assert!(!block_on(look_at_extent(kind, &[0, 0, 0, 0, 1, 1, 1, 1])), "{kind:?}");
        }
    }

    #[test]
    fn the_templates_open() {
        for first in [0, 2, 4] {
            let node: Box<dyn Node> = Box::new(BoundedFile(MemoryNode::new(image_of(&[first]))));
            let file = BlockNode::anonymous("memory", node, OpenFlags::UNMAP);
            let disk = block_on(open(&registry(&file), &file, OpenFlags::UNMAP)).unwrap();
            let mut data = [0; 4];
            block_on(disk.read_bytes(5 << 16, &mut data)).unwrap();
            assert_eq!(data, [2; 4]);
            let check = block_on(disk.driver().check(Repair::default())).unwrap();
            assert_eq!((check.corruptions, check.leaks), (0, 0), "{:?}", check.messages);
        }
    }
}

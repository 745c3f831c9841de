//! What a fuzzer feeds: an image out of any bytes, opened, read, written and checked.

use std::sync::Arc;

use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView, block_on};
use rhea_block::{
    BlockError, BlockNode, MemoryNode, Node, OpenFlags, Registry, Repair, Result, Truncate, WriteFlags,
};
use rhea_options::Options;

use crate::VhdxDriver;
use crate::crc32c::checksum_without;
use crate::layout::{HEADER_LEN, HEADER_OFFSETS, MIB, REGION_TABLE_LEN, REGION_TABLE_OFFSETS, le32};

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

/// A small valid image whose log holds an entry, as a crash leaves it.
fn template() -> &'static [u8] {
    static TEMPLATE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    TEMPLATE.get_or_init(|| {
        block_on(async {
            let memory: Box<dyn Node> = Box::new(MemoryNode::new(vec![]));
            let file = BlockNode::anonymous("memory", memory, OpenFlags::UNMAP);
            crate::create::format(&file, "size=8M,block_size=1M").await.expect("a valid image");
            let registry = registry(&file);
            let disk = open(&registry, &file, OpenFlags::UNMAP).await.expect("a valid image");
            disk.write_bytes(0, &[1; 4096]).await.expect("memory");
            disk.write_bytes(5 << 20, &[2; 4096]).await.expect("memory");
            disk.flush().await.expect("memory");
            file.downcast::<MemoryNode>().expect("made above").bytes()
        })
    })
}

fn registry(file: &Arc<BlockNode>) -> Registry {
    let mut registry = Registry::new();
    registry.add(VhdxDriver);
    registry.remember(file).expect("the only node");
    registry
}

async fn open(registry: &Registry, file: &Arc<BlockNode>, flags: OpenFlags) -> Result<Arc<BlockNode>> {
    let mut options = Options::default();
    options.set("driver", "vhdx");
    options.set("file", file.name());
    registry.open_node(options, flags, false).await
}

/// The bytes as an image: as they are if the first is odd; else each 8 of them change four bytes of a valid image, in one
/// of the places that matter, and the checksums are made right again (or not, by the first byte).
fn image_of(bytes: &[u8]) -> Vec<u8> {
    let Some((&first, rest)) = bytes.split_first() else { return vec![] };
    if first & 1 == 1 {
        return rest.to_vec();
    }
    let mut image = template().to_vec();
    for change in rest.chunks_exact(8) {
        let areas =
            [0, HEADER_OFFSETS[0], HEADER_OFFSETS[1], REGION_TABLE_OFFSETS[0], REGION_TABLE_OFFSETS[1]];
        let areas = areas.into_iter().chain([MIB, 2 * MIB, 3 * MIB, 3 * MIB + (64 << 10), MIB + 4096]);
        let base = areas.into_iter().nth(usize::from(change[0]) % 10).unwrap_or(0) as usize;
        let at = base + usize::from(u16::from_le_bytes([change[2], change[3]]) % 8192);
        // Most fields are small; a shifted byte reaches the high parts of large ones.
        let value = &change[4..8];
        image[at..at + 4].copy_from_slice(value);
    }
    if first & 2 == 0 {
        for offset in HEADER_OFFSETS {
            fix_checksum(&mut image[offset as usize..][..HEADER_LEN]);
        }
        for offset in REGION_TABLE_OFFSETS {
            fix_checksum(&mut image[offset as usize..][..REGION_TABLE_LEN]);
        }
        let len = le32(&image, MIB as usize + 8) as usize;
        if (64..=MIB as usize).contains(&len) {
            fix_checksum(&mut image[MIB as usize..][..len]);
        }
    }
    image
}

fn fix_checksum(bytes: &mut [u8]) {
    let checksum = checksum_without(bytes, 4);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
}

/// Takes any bytes for an image and opens, reads, writes and checks it: whatever they are, the outcome is an error or a
/// disk, never a panic, a hang or memory without bound.
pub fn fuzz_image(bytes: &[u8]) {
    let image = image_of(bytes);
    block_on(async {
        for flags in [OpenFlags::READ_ONLY, OpenFlags::UNMAP, OpenFlags::UNMAP | OpenFlags::CHECK] {
            let node: Box<dyn Node> = Box::new(BoundedFile(MemoryNode::new(image.clone())));
            let file = BlockNode::anonymous("memory", node, flags - OpenFlags::CHECK);
            let registry = registry(&file);
            let Ok(disk) = open(&registry, &file, flags).await else { continue };
            let mut data = vec![0; 8192];
            for offset in [0, 5 << 20, disk.length() / 2, disk.length().saturating_sub(4096)] {
                let _ = disk.read_bytes(offset, &mut data).await;
                let _ = disk.block_status(offset, 1 << 30, true).await;
            }
            // Entries beyond what is read above; a table of a hostile size takes its time, as one of a real image does.
            if disk.length() <= 1 << 36 {
                let _ = disk.driver().check(Repair::default()).await;
            }
            let _ = disk.write_bytes(3 << 20, &data).await;
            let _ = disk.write_zeroes(1 << 20, 3 << 20, WriteFlags::MAY_UNMAP).await;
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
    fn the_template_needs_its_log_and_opens() {
        let node: Box<dyn Node> = Box::new(BoundedFile(MemoryNode::new(image_of(&[0]))));
        let file = BlockNode::anonymous("memory", node, OpenFlags::UNMAP);
        let error = block_on(open(&registry(&file), &file, OpenFlags::READ_ONLY)).unwrap_err();
        assert!(error.to_string().contains("needs to be replayed"), "{error}");
        let disk = block_on(open(&registry(&file), &file, OpenFlags::UNMAP)).unwrap();
        let mut data = [0; 4];
        block_on(disk.read_bytes(5 << 20, &mut data)).unwrap();
        assert_eq!(data, [2; 4]);
    }
}

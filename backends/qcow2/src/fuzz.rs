//! What a fuzzer feeds: an image out of any bytes, opened, read, written, checked and repaired.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView, block_on};
use rhea_block::{
    BlockError, BlockNode, CreateContext, DirtyBitmap, Driver, DriverKind, Limits, MemoryNode, Node,
    OpenContext, OpenFlags, Progress, Registry, Repair, Result, SnapshotInfo, Truncate, WriteFlags,
};
use rhea_options::Options;

use crate::Qcow2Driver;

/// Bytes that a file may grow to.
const LONGEST: u64 = 16 << 20;
/// Where tables are in the valid image: the header's fields by their offsets, then what they lead to.
const AREAS: usize = 8;

/// A file in memory that cannot grow without end, as a real one cannot on a full disk. Shared, so that it can be opened
/// again.
#[derive(Clone)]
struct BoundedFile(Arc<MemoryNode>);

fn within(end: u64) -> Result<()> {
    if end > LONGEST { Err(BlockError::os(libc::ENOSPC)) } else { Ok(()) }
}

#[async_trait]
impl Node for BoundedFile {
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
        within(offset.saturating_add(data.len() as u64))?;
        self.0.write(offset, data, flags).await
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        within(offset.saturating_add(len))?;
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

/// The protocol that images are opened by: one file, whatever its name.
struct OneFile(BoundedFile);

#[async_trait]
impl Driver for OneFile {
    fn name(&self) -> &'static str {
        "file"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Protocol
    }

    async fn open(&self, _: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        options.take::<String>("filename")?;
        Ok(Box::new(self.0.clone()))
    }

    async fn create(&self, _: &CreateContext<'_>, _: &str, _: Options) -> Result<()> {
        Ok(())
    }
}

fn registry(file: &BoundedFile) -> Registry {
    let mut registry = Registry::new();
    registry.add(Qcow2Driver);
    registry.add(OneFile(file.clone()));
    registry
}

fn file_of(bytes: Vec<u8>) -> BoundedFile {
    BoundedFile(Arc::new(MemoryNode::new(bytes)))
}

/// A small valid image with a snapshot, a bitmap, zeroes and compressed data, and where its tables are.
fn template() -> &'static (Vec<u8>, [usize; AREAS]) {
    static TEMPLATE: OnceLock<(Vec<u8>, [usize; AREAS])> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let bytes = block_on(async {
            let file = file_of(vec![]);
            let registry = registry(&file);
            let options = Options::parse("size=4M,cluster_size=4k", None).expect("well-formed");
            registry.create("qcow2", "image", options, &Progress::new()).await.expect("a valid image");
            let disk = registry.open("image", Some("qcow2"), OpenFlags::UNMAP).await.expect("a valid image");
            disk.write_bytes(0, &[1; 40_000]).await.expect("memory");
            disk.driver().snapshots().expect("qcow2").create(&SnapshotInfo::default()).await.expect("memory");
            disk.write_bytes(8192, &[2; 8192]).await.expect("memory");
            disk.write_zeroes(65536, 8192, WriteFlags::empty()).await.expect("memory");
            disk.write_compressed(1 << 20, &IoVector::from_slice(&[3; 8192])).await.expect("memory");
            let mut bitmap = DirtyBitmap::new("b", 512, 4 << 20).expect("well-formed");
            bitmap.set(5000, 1);
            disk.driver().bitmaps().expect("qcow2").store(&bitmap).await.expect("memory");
            disk.close().await.expect("memory");
            file.0.bytes()
        });
        let word = |at: usize| {
            let offset = u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
            (offset & crate::geometry::OFFSET_MASK) as usize
        };
        let header = crate::Header::parse(&bytes).expect("a valid image");
        let directory = header.bitmaps.expect("stored above").directory_offset as usize;
        let areas =
            [0, word(40), word(word(40)), word(48), word(word(48)), word(64), directory, word(directory)];
        (bytes, areas)
    })
}

/// The bytes as an image: as they are if the first is odd; else each 8 of them change four bytes of a valid image, in one
/// of the places that matter.
fn image_of(bytes: &[u8]) -> Vec<u8> {
    let Some((&first, rest)) = bytes.split_first() else { return vec![] };
    if first & 1 == 1 {
        return rest.to_vec();
    }
    let (image, areas) = template();
    let mut image = image.clone();
    for change in rest.chunks_exact(8) {
        // Tables begin with what matters most, and the header has it all in its first bytes.
        let reach = if change[1] & 1 == 0 { 160 } else { 4096 };
        let at = areas[usize::from(change[0]) % AREAS]
            + usize::from(u16::from_le_bytes([change[2], change[3]])) % reach;
        if let Some(slot) = image.get_mut(at..at + 4) {
            slot.copy_from_slice(&change[4..8]);
        }
    }
    image
}

/// Takes any bytes for an image and opens, reads, writes, checks and repairs it: whatever they are, the outcome is an error
/// or a disk, never a panic, a hang or memory without bound.
pub fn fuzz_image(bytes: &[u8]) {
    let image = image_of(bytes);
    let check = OpenFlags::UNMAP | OpenFlags::CHECK;
    block_on(async {
        for flags in [OpenFlags::READ_ONLY, OpenFlags::UNMAP, check] {
            let file = file_of(image.clone());
            let opened = registry(&file).open("image", Some("qcow2"), flags | OpenFlags::NO_BACKING).await;
            let Ok(disk) = opened else { continue };
            if flags == check {
                for repair in [Repair::default(), Repair { leaks: true, errors: true }] {
                    let _ = disk.driver().check(repair).await;
                }
            } else {
                use_disk(&disk).await;
            }
            let _ = disk.close().await;
        }
    });
}

async fn use_disk(disk: &BlockNode) {
    let mut data = vec![0; 8192];
    for offset in [0, 65536, 1 << 20, disk.length() / 2, disk.length().saturating_sub(4096)] {
        let _ = disk.read_bytes(offset, &mut data).await;
        let _ = disk.block_status(offset, 1 << 30, true).await;
    }
    let _ = disk.driver().format_info().await;
    let _ = disk.driver().check(Repair::default()).await;
    if let Some(bitmaps) = disk.driver().bitmaps() {
        for bitmap in bitmaps.list().await.unwrap_or_default() {
            let _ = bitmaps.load(&bitmap.name).await;
        }
    }
    let _ = disk.write_bytes(4096, &data).await;
    let _ = disk.write_zeroes(16384, 100_000, WriteFlags::MAY_UNMAP).await;
    let _ = disk.discard(32768, 65536).await;
    let _ = disk.flush().await;
    if let Some(snapshots) = disk.driver().snapshots() {
        let made = snapshots.create(&SnapshotInfo::default()).await;
        for snapshot in snapshots.list().await.unwrap_or_default().into_iter().take(3) {
            let _ = snapshots.apply(&snapshot.id).await;
        }
        if let Ok(id) = made {
            let _ = snapshots.delete(&id).await;
        }
    }
    let _ = disk.truncate(disk.length().min(2 << 20), Truncate::default()).await;
    let _ = disk.write_bytes(0, &data).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_sound() {
        let file = file_of(image_of(&[0]));
        let disk = block_on(registry(&file).open("image", Some("qcow2"), OpenFlags::READ_ONLY)).unwrap();
        let found = block_on(disk.driver().check(Repair::default())).unwrap();
        assert_eq!((found.corruptions, found.leaks, found.check_errors), (0, 0, 0), "{:?}", found.messages);
        assert_eq!(found.compressed_clusters, 2);
        assert!(template().1[1..].iter().all(|&area| area != 0));
    }
}

//! The raw format in files: what is written is read, holes are told, the length follows.

mod support;

use rhea_async_io::{IoVector, block_on};
use rhea_block::{OpenFlags, Preallocation, Progress, Registry, StatusFlags, Truncate, WriteFlags};
use rhea_options::Options;
use support::{Folder, registry};

fn create(registry: &Registry, path: &str, options: &str) -> rhea_block::Result<()> {
    let options = Options::parse(options, None).expect("options");
    block_on(registry.create("raw", path, options, &Progress::new()))
}

#[test]
fn what_is_written_is_read_and_holes_are_told() {
    let folder = Folder::new("holes");
    let registry = registry();
    let path = folder.path("a.raw");
    create(&registry, &path, "size=1M").unwrap();
    block_on(async {
        let disk = registry.open(&path, Some("raw"), OpenFlags::UNMAP).await.unwrap();
        assert_eq!(disk.length(), 1 << 20);
        disk.write(65536, &IoVector::from_slice(&[7; 65536]), WriteFlags::empty()).await.unwrap();
        let status = disk.block_status(0, 1 << 20, true).await.unwrap();
        let zero = StatusFlags::ZERO | StatusFlags::ALLOCATED | StatusFlags::OFFSET_VALID;
        assert_eq!((status.len, status.flags), (65536, zero));
        let status = disk.block_status(65536 + 512, 1 << 20, true).await.unwrap();
        let data = StatusFlags::DATA | StatusFlags::ALLOCATED | StatusFlags::OFFSET_VALID;
        assert_eq!((status.len, status.flags), (65536 - 512, data));
        let (file, at) = status.map.unwrap();
        assert_eq!((file.driver_name(), at), ("file", 65536 + 512));
        disk.write_zeroes(65536, 32768, WriteFlags::MAY_UNMAP).await.unwrap();
        disk.write_zeroes(65536 + 32768 + 5, 10, WriteFlags::empty()).await.unwrap();
        let mut data = IoVector::zeroed(65536 + 100);
        disk.read(65536 + 32768, &mut data).await.unwrap();
        let mut expected = vec![7; 32768];
        expected[5..15].fill(0);
        expected.resize(65536 + 100, 0);
        assert!(data.to_vec() == expected);
        disk.flush().await.unwrap();
        // Beyond the end: the file grows.
        disk.write_bytes((1 << 20) + 100, b"end").await.unwrap();
        assert_eq!(disk.exact_length(), (1 << 20) + 103);
        disk.write_zeroes((1 << 20) + 50, 1000, WriteFlags::empty()).await.unwrap();
        assert_eq!(disk.exact_length(), (1 << 20) + 1050);
        let how = Truncate { preallocation: Preallocation::Full, ..Truncate::default() };
        disk.truncate(2 << 20, how).await.unwrap();
        assert_eq!(disk.length(), 2 << 20);
        disk.close().await.unwrap();
    });
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 2 << 20);
}

#[test]
fn a_part_of_a_file_is_a_disk() {
    let folder = Folder::new("part");
    let registry = registry();
    let path = folder.path("a.raw");
    std::fs::write(&path, [[1; 512], [2; 512], [3; 512]].concat()).unwrap();
    let open = |text: &str| {
        let options =
            Options::parse(&format!("driver=raw,file.driver=file,file.filename={path},{text}"), None);
        block_on(registry.open_node(options.unwrap(), OpenFlags::UNMAP, false))
    };
    let disk = open("offset=512,size=512").unwrap();
    let mut bytes = [9; 600];
    block_on(disk.read_bytes(0, &mut bytes)).unwrap();
    assert_eq!((bytes[0], bytes[511], bytes[512]), (2, 2, 0));
    assert!(block_on(disk.write_bytes(500, &[0; 13])).is_err());
    drop(disk);
    assert_eq!(
        open("offset=512,size=2k").unwrap_err().to_string(),
        "The sum of offset (512) and size (2048) has to be smaller or equal to the  actual size of the containing file (1536)"
    );
    assert_eq!(
        open("nonsense=1").unwrap_err().to_string(),
        "Block format 'raw' does not support the option 'nonsense'"
    );
}

/// A format known by its first two bytes.
struct Magic;

#[async_trait::async_trait]
impl rhea_block::Driver for Magic {
    fn name(&self) -> &'static str {
        "magic"
    }

    fn kind(&self) -> rhea_block::DriverKind {
        rhea_block::DriverKind::Format
    }

    fn probe(&self, start: &[u8], _: &str) -> u32 {
        if start.starts_with(b"MZ") { 100 } else { 0 }
    }

    async fn open(
        &self,
        _: &rhea_block::OpenContext<'_>,
        _: &mut Options,
    ) -> rhea_block::Result<Box<dyn rhea_block::Node>> {
        Err(rhea_block::BlockError::unsupported("only to be recognized"))
    }
}

#[test]
fn a_disk_thought_to_be_raw_takes_no_other_formats_header() {
    let folder = Folder::new("guard");
    let mut registry = registry();
    registry.add(Magic);
    let path = folder.path("a");
    std::fs::write(&path, [0; 4096]).unwrap();
    block_on(async {
        let disk = registry.open(&path, None, OpenFlags::empty()).await.unwrap();
        disk.write_bytes(1, b"Z").await.unwrap();
        assert_eq!(disk.write_bytes(0, b"M").await.unwrap_err().errno(), libc::EPERM);
        assert_eq!(disk.write_bytes(0, &[b'M', b'Z'].repeat(512)).await.unwrap_err().errno(), libc::EPERM);
        disk.write_bytes(512, b"MZ").await.unwrap();
        disk.write_bytes(0, b"MB").await.unwrap();
        drop(disk);
        let disk = registry.open(&path, Some("raw"), OpenFlags::empty()).await.unwrap();
        disk.write_bytes(0, b"MZ").await.unwrap();
    });
    assert_eq!(std::fs::read(&path).unwrap()[..2], *b"MZ");
}

#[test]
fn storage_is_reserved_when_asked_for() {
    use std::os::unix::fs::MetadataExt;
    let folder = Folder::new("storage");
    let registry = registry();
    for (mode, least) in [("off", 0), ("falloc", 1 << 20), ("full", 1 << 20)] {
        let path = folder.path(mode);
        create(&registry, &path, &format!("size=1M,preallocation={mode}")).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), 1 << 20);
        assert!(metadata.blocks() * 512 >= least, "{mode}");
    }
    let error = create(&registry, &folder.path("m"), "size=1M,preallocation=metadata").unwrap_err();
    assert!(error.to_string().ends_with("Unsupported preallocation mode: metadata"), "{error}");
}

#[test]
fn the_null_disk_swallows_everything() {
    let registry = registry();
    block_on(async {
        let disk = registry.open("null-co://", Some("raw"), OpenFlags::UNMAP).await.unwrap();
        assert_eq!(disk.length(), 1 << 30);
        disk.write_bytes(5, b"x").await.unwrap();
        assert!(disk.write_bytes(1 << 30, b"x").await.is_err());
    });
}

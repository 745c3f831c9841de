//! Disks with one field wrong each, and the error that names it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rhea_async_io::block_on;
use rhea_block::{FileDriver, OpenFlags, Progress, RawDriver, Registry, Repair};
use rhea_options::Options;
use rhea_vmdk::VmdkDriver;

const SECTOR: usize = 512;

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Relaxed);
        let path = std::env::temp_dir().join(format!("rhea-vmdk-fields-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.add(VmdkDriver);
    registry.add(FileDriver);
    registry.add(RawDriver);
    registry
}

/// A disk of 64 MiB with a grain of data at its start.
fn disk(options: &str) -> Vec<u8> {
    let folder = Folder::new();
    let name = folder.file("disk");
    let options = Options::parse(&format!("size=64M,{options}"), None).unwrap();
    block_on(async {
        registry().create("vmdk", &name, options, &Progress::new()).await.unwrap();
        let disk = registry().open(&name, Some("vmdk"), OpenFlags::empty()).await.unwrap();
        disk.write_bytes(0, &[7; 65536]).await.unwrap();
        disk.close().await.unwrap();
    });
    std::fs::read(&name).unwrap()
}

/// What is said of the file `disk` in a folder: by opening it, by reading its start, or (all of them) by checking it.
fn said(folder: &Folder) -> Result<(), String> {
    block_on(async {
        let name = folder.file("disk");
        let opened = registry().open(&name, Some("vmdk"), OpenFlags::READ_ONLY).await;
        let disk = opened.map_err(|error| error.to_string())?;
        let read = disk.read_bytes(0, &mut [0; 65536]).await.map_err(|error| error.to_string());
        let checked = disk.driver().check(Repair::default()).await.map_err(|error| error.to_string());
        let _ = disk.close().await;
        read?;
        let checked = checked?;
        match checked.messages.is_empty() {
            true => Ok(()),
            false => Err(checked.messages.join("; ")),
        }
    })
}

fn said_of(image: &[u8]) -> Result<(), String> {
    let folder = Folder::new();
    std::fs::write(folder.file("disk"), image).unwrap();
    said(&folder)
}

fn le32(image: &[u8], at: usize) -> usize {
    u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize
}

/// Sets bytes at places, and compares what is said.
fn each_names_its_field(image: &[u8], cases: &[(usize, &[u8], &str)]) {
    assert_eq!(said_of(image), Ok(()), "as it is, nothing is wrong");
    for (at, bytes, expected) in cases {
        let mut damaged = image.to_vec();
        damaged[*at..at + bytes.len()].copy_from_slice(bytes);
        let said = said_of(&damaged).expect_err(expected);
        assert!(said.contains(expected), "at {at:#x}: {said}, instead of {expected}");
    }
}

#[test]
fn of_the_sparse_header() {
    let image = disk("");
    each_names_its_field(
        &image,
        &[
            (0, b"KDMX", "invalid VMDK image descriptor"),
            (4, &[0], "Unsupported VMDK version 0"),
            (4, &[4], "Unsupported VMDK version 4"),
            (12, &[0xff; 8], "vmdk header: capacity 18446744073709551615 is out of range"),
            (20, &[0; 8], "vmdk header: grain size 0 is out of range"),
            (20, &[3], "vmdk header: grain size 3 is out of range"),
            (20, &[0, 0x20], "vmdk header: grain size 8192 is out of range"),
            (28, &[0; 8], "vmdk header: no descriptor is embedded"),
            (28, &[0xff; 8], "vmdk header: the descriptor at 0xffffffffffffffff"),
            (36, &[0; 8], "vmdk header: no descriptor is embedded"),
            (36, &[0, 0, 0, 1], "with 8589934592 bytes is out of range"),
            (44, &[0; 4], "vmdk header: number of grain table entries 0 is out of range"),
            (44, &[1, 2], "vmdk header: number of grain table entries 513 is out of range"),
            (48, &[0, 0, 0, 0, 1], "vmdk header: the grain directory at sector 4294967296 with 2 entries"),
            (56, &[0; 8], "vmdk header: the grain directory at sector 0 with 2 entries"),
            (56, &[0xff; 7], "vmdk header: the grain directory at sector 72057594037927935"),
            (64, &[0xff; 8], "File truncated, expecting at least 18446744073709551615 bytes"),
            (73, b" ", "vmdk header: the newline detection bytes are wrong"),
            (76, b" ", "vmdk header: the newline detection bytes are wrong"),
            (77, &[2, 0], "vmdk header: compression algorithm 2"),
        ],
    );
    // A capacity that fits, but needs a directory that does not.
    let mut large = image;
    large[12..20].copy_from_slice(&(1_u64 << 50).to_le_bytes());
    let said = said_of(&large).unwrap_err();
    assert!(said.contains("a grain directory of 17179869184 entries is too large"), "{said}");
}

#[test]
fn of_grain_directories_and_tables() {
    let image = disk("");
    let (redundant, directory) = (le32(&image, 48) * SECTOR, le32(&image, 56) * SECTOR);
    let (redundant_table, table) = (le32(&image, redundant) * SECTOR, le32(&image, directory) * SECTOR);
    each_names_its_field(
        &image,
        &[
            (directory, &[0xff; 4], "vmdk grain directory: entry 0 is 4294967295"),
            (directory + 4, &[0xff; 4], "vmdk grain directory: entry 1 is 4294967295"),
            (redundant, &[0xff; 4], "extent 0: redundant vmdk grain directory: entry 0 is 4294967295"),
            (
                table + 4,
                &[0xff; 4],
                "the grain of disk offset 0x10000 is at 0x1fffffffe00, beyond the file's end",
            ),
            (table + 4, &image[table..table + 4], "the grain of disk offset 0x10000 shares its place"),
            (redundant_table, &[0; 4], "Leaked: extent 0: redundant grain table 0 at sector"),
        ],
    );
}

#[test]
fn of_compressed_grains() {
    let image = disk("subformat=streamOptimized");
    let directory = le32(&image, 56) * SECTOR;
    let table = le32(&image, directory) * SECTOR;
    let grain = le32(&image, table) * SECTOR;
    each_names_its_field(
        &image,
        &[
            (table, &[0xff; 4], "compressed grain 0 at 0x1fffffffe00: beyond the file's end"),
            (grain, &[1], "its marker is that of another grain"),
            (grain + 7, &[1], "its marker is that of another grain"),
            (grain + 8, &[0; 4], "its marker's size is out of range"),
            (grain + 8, &[0xff; 4], "its marker's size is out of range"),
            (grain + 12, &[0xff; 8], "its data cannot be decompressed"),
            // The directory is said to be at the end, where there is no footer.
            (56, &[0xff; 8], "Image not in VMDK format"),
        ],
    );
    // With a footer: the header again, then the end-of-stream marker.
    let mut with_footer = image.clone();
    let end = with_footer.len().next_multiple_of(SECTOR);
    with_footer.resize(end, 0);
    with_footer.extend_from_slice(&image[..SECTOR]);
    with_footer.resize(end + 2 * SECTOR, 0);
    with_footer[56..64].fill(0xff);
    each_names_its_field(
        &with_footer,
        &[
            (end, b"x", "Image not in VMDK format"),
            (end + 12, &[1], "vmdk footer: it does not fit the header"),
            (end + 20, &[64], "vmdk footer: it does not fit the header"),
            (end + 44, &[0, 1], "vmdk footer: it does not fit the header"),
            (end + 56, &[0xff; 8], "vmdk footer: it does not fit the header"),
            (end + 56, &[0xff; 4], "vmdk header: the grain directory at sector 4294967295"),
        ],
    );
    let mut short = image[..SECTOR].to_vec();
    short[56..64].fill(0xff);
    short[64..72].fill(0);
    assert!(said_of(&short).unwrap_err().contains("vmdk footer: the file is too short"));
}

const START: &str = "# Disk DescriptorFile\nversion=1\nCID=0a1b2c3d\nparentCID=ffffffff\n";

#[test]
fn of_the_descriptor() {
    let kind = "createType=\"monolithicFlat\"\n";
    let cases = [
        ("createType=\"monolithicFlat\"\n", "", "invalid VMDK image descriptor"),
        ("0a1b2c3d", "zz", "vmdk descriptor: CID is not a number: zz"),
        ("0a1b2c3d", "1a1b2c3d0", "vmdk descriptor: CID is not a number: 1a1b2c3d0"),
        ("CID=0a1b2c3d\n", "", "vmdk descriptor: no CID"),
        ("ffffffff", "-1", "vmdk descriptor: parentCID is not a number: -1"),
        ("monolithicFlat", "custom", "Unsupported image type 'custom'"),
        ("monolithicFlat", "fullDevice", "Unsupported image type 'fullDevice'"),
        ("RW 128", "NOACCESS 128", "Extents that may not be accessed: NOACCESS 128"),
        ("RW 128", "RW 0", "Invalid extent line: RW 0"),
        ("RW 128", "RW -1", "Invalid extent line: RW -1"),
        ("RW 128", "RW 18446744073709551615", "Invalid extent line: RW 18446744073709551615"),
        ("RW 128", "RW 128 128", "Invalid extent line: RW 128 128"),
        ("FLAT", "LOOSE", "Invalid extent line: RW 128 LOOSE"),
        ("\"data\" 0", "\"data\"", "Invalid extent line: RW 128 FLAT \"data\""),
        ("\"data\" 0", "\"data 0", "Invalid extent line: RW 128 FLAT \"data 0"),
        ("\"data\" 0", "\"data\" -1", "Invalid extent line: RW 128 FLAT \"data\" -1"),
        ("\"data\" 0", "\"data\" 18446744073709551615", "Invalid extent line: RW 128 FLAT"),
        ("\"data\" 0", "\"\" 0", "Invalid extent line: RW 128 FLAT \"\" 0"),
        ("\"data\" 0", "\"nothing\" 0", "Could not open"),
        ("FLAT \"data\" 0", "SPARSE \"data\"", "Image not in VMDK format"),
        ("FLAT \"data\" 0", "VMFSSPARSE \"data\"", "Image not in VMDK format"),
        ("FLAT \"data\" 0", "SESPARSE \"data\"", "seSparse header: magic"),
        (
            "RW 128 FLAT",
            "RW 18014398509481983 ZERO\nRW 18014398509481983 ZERO\nRW 128 FLAT",
            "Invalid extent line: RW 18014398509481983 ZERO",
        ),
        (
            "RW 128 FLAT",
            "RW 18014398507384832 ZERO\nRW 18014398507384832 ZERO\nRW 128 FLAT",
            "vmdk descriptor: the extents are too large",
        ),
    ];
    let text = format!("{START}{kind}RW 128 FLAT \"data\" 0\n");
    let folder = Folder::new();
    std::fs::write(folder.file("data"), vec![0; 65536]).unwrap();
    std::fs::write(folder.file("disk"), &text).unwrap();
    assert_eq!(said(&folder), Ok(()));
    for (old, new, expected) in cases {
        assert!(text.contains(old), "{old}");
        std::fs::write(folder.file("disk"), text.replacen(old, new, 1)).unwrap();
        let said = said(&folder).expect_err(expected);
        assert!(said.contains(expected), "{old} -> {new}: {said}");
    }
    let lines = "RW 1 ZERO\n".repeat(4097);
    std::fs::write(folder.file("disk"), format!("{START}{kind}{lines}")).unwrap();
    assert!(said(&folder).unwrap_err().contains("vmdk descriptor: too many extents"));
    std::fs::write(folder.file("disk"), format!("{START}{kind}{}", "#\n".repeat(1 << 19))).unwrap();
    assert!(said(&folder).unwrap_err().contains("invalid VMDK image descriptor"));
}

/// An extent of a kind, as the only one of a disk, with 32-bit or 64-bit fields set.
fn said_of_extent(kind: &str, create_type: &str, extent: &[u8]) -> Result<(), String> {
    let folder = Folder::new();
    let text = format!("{START}createType=\"{create_type}\"\nRW 8192 {kind} \"data\"\n");
    std::fs::write(folder.file("disk"), text).unwrap();
    std::fs::write(folder.file("data"), extent).unwrap();
    said(&folder)
}

#[test]
fn of_cowd_extents() {
    let mut extent = vec![0; 16384];
    extent[..4].copy_from_slice(b"COWD");
    for (number, field) in [(1, 1_u32), (3, 8192), (4, 1), (5, 4), (6, 2), (7, 32)] {
        extent[number * 4..][..4].copy_from_slice(&field.to_le_bytes());
    }
    assert_eq!(said_of_extent("VMFSSPARSE", "vmfsSparse", &extent), Ok(()));
    let cases: [(usize, u32, &str); 7] = [
        (0, 0, "Image not in VMDK format"),
        (1, 2, "vmdk COWD header: version 2"),
        (4, 0, "vmdk COWD header: grain size 0"),
        (4, 3, "vmdk COWD header: grain size 3"),
        (5, u32::MAX, "the grain directory at sector 4294967295 with 2 entries is beyond the file's end"),
        (6, 1, "vmdk COWD header: 1 grain directory entries, the disk needs 2"),
        (3, u32::MAX, "vmdk COWD header: 2 grain directory entries, the disk needs 1048576"),
    ];
    for (number, value, expected) in cases {
        let mut damaged = extent.clone();
        damaged[number * 4..][..4].copy_from_slice(&value.to_le_bytes());
        let said = said_of_extent("VMFSSPARSE", "vmfsSparse", &damaged).expect_err(expected);
        assert!(said.contains(expected), "{number}: {said}");
    }
}

#[test]
fn of_sesparse_extents() {
    let mut extent = vec![0; 65536];
    let fields = [
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
        // The directory's first entry, and that table's.
        (128, 0x1000_0000_0000_0000),
        (256, 0x3000_0000_0000_0000),
    ];
    for (number, field) in fields {
        extent[number * 8..][..8].copy_from_slice(&field.to_le_bytes());
    }
    assert_eq!(said_of_extent("SESPARSE", "seSparse", &extent), Ok(()));
    let cases: [(usize, u64, &str); 16] = [
        (0, 1, "seSparse header: magic 0x1"),
        (1, 1, "seSparse header: version 0x1"),
        (2, u64::MAX, "seSparse header: capacity 18446744073709551615"),
        (2, 1 << 22, "seSparse header: grain directory size 1"),
        (3, 16, "seSparse header: grain size 0x10"),
        (4, 1, "seSparse header: grain table size 0x1"),
        (5, 1, "seSparse header: flags 0x1"),
        (10, 0, "seSparse header: volatile header at sector 0"),
        (10, u64::MAX, "seSparse header: volatile header at sector 18446744073709551615"),
        (16, 200, "seSparse header: grain directory at sector 200"),
        (17, 0, "seSparse header: grain directory size 0"),
        (18, u64::MAX, "seSparse grain directory: entry 0x1000000000000000"),
        (24, 1 << 60, "seSparse header: grains at sector"),
        (64, 1, "seSparse volatile header: wrong magic"),
        (67, 1, "seSparse: the journal needs to be replayed"),
        (256, 0x4000_0000_0000_0000, "seSparse grain table: entry 0x4000000000000000"),
    ];
    for (number, value, expected) in cases {
        let mut damaged = extent.clone();
        damaged[number * 8..][..8].copy_from_slice(&value.to_le_bytes());
        let said = said_of_extent("SESPARSE", "seSparse", &damaged).expect_err(expected);
        assert!(said.contains(expected), "{number}: {said}");
    }
}

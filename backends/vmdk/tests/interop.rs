//! Images go back and forth between this driver and Debian's qemu-img and qemu-io.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use proptest::prelude::*;
use rhea_async_io::block_on;
use rhea_block::{
    BlockError, BlockNode, FileDriver, OpenFlags, Progress, RawDriver, Registry, Repair, Result, StatusFlags,
    WriteFlags,
};
use rhea_options::Options;
use rhea_vmdk::VmdkDriver;

fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.add(VmdkDriver);
    registry.add(FileDriver);
    registry.add(RawDriver);
    registry
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rhea-vmdk-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
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

/// Whether Debian's tools are there; says so if not.
fn tools() -> bool {
    let there = Path::new("/usr/bin/qemu-img").exists() && Path::new("/usr/bin/qemu-io").exists();
    if !there {
        println!("skipped: qemu-img and qemu-io (package qemu-utils) are not installed");
    }
    there
}

fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn must(program: &str, arguments: &[&str]) -> String {
    let (success, text) = run(program, arguments);
    assert!(success, "{program} {arguments:?}: {text}");
    text
}

fn create(name: &str, options: &str) {
    let options = Options::parse(options, None).unwrap();
    block_on(registry().create("vmdk", name, options, &Progress::new())).unwrap();
}

fn open(name: &str, flags: OpenFlags) -> Result<Arc<BlockNode>> {
    block_on(registry().open(name, Some("vmdk"), flags))
}

/// Compares an image with what it should hold, by both.
fn compare(folder: &Folder, image: &str, model: &[u8]) {
    let raw = folder.file("model.raw");
    std::fs::write(&raw, model).unwrap();
    must("qemu-img", &["check", "-q", image]);
    let text = must("qemu-img", &["compare", "-f", "vmdk", "-F", "raw", image, &raw]);
    assert!(text.contains("Images are identical"), "{text}");
    let disk = open(image, OpenFlags::READ_ONLY).unwrap();
    assert_eq!(disk.length(), model.len() as u64);
    let mut data = vec![0; model.len()];
    block_on(disk.read_bytes(0, &mut data)).unwrap();
    assert!(data == model, "our own reading differs");
    let check = block_on(disk.driver().check(Repair::default())).unwrap();
    assert_eq!((check.corruptions, check.leaks, check.messages), (0, 0, vec![]));
    if disk.driver().backing_file().is_none() {
        compare_map(image, &disk);
    }
}

/// Our block status says what `qemu-img map` says.
fn compare_map(image: &str, disk: &Arc<BlockNode>) {
    let map = must("qemu-img", &["map", "-f", "vmdk", "--output=json", image]);
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    for entry in map.as_array().unwrap() {
        let (mut at, mut left) = (entry["start"].as_u64().unwrap(), entry["length"].as_u64().unwrap());
        let mut offset = entry["offset"].as_u64();
        while left > 0 {
            let status = block_on(disk.block_status(at, left, true)).unwrap();
            let has = |flag| status.flags.contains(flag);
            assert_eq!(has(StatusFlags::ZERO), entry["zero"], "{at}: {entry}");
            assert_eq!(has(StatusFlags::DATA), entry["data"], "{at}: {entry}");
            assert_eq!(has(StatusFlags::ALLOCATED), entry["present"], "{at}: {entry}");
            assert_eq!(status.map.as_ref().map(|(_, at)| *at), offset, "{at}: {entry}");
            at += status.len;
            left -= status.len;
            offset = offset.map(|offset| offset + status.len);
        }
    }
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, u64, u8),
    Zero(u64, u64),
    Discard(u64, u64),
}

fn changes(disk: u64) -> impl Strategy<Value = Vec<Change>> {
    let place = move || {
        (0..disk / 512, prop_oneof![1..16_u64, 1..6000_u64])
            .prop_map(move |(at, len)| (at * 512, (len * 512).min(disk - at * 512)))
    };
    let change = prop_oneof![
        5 => (place(), 1..=255_u8).prop_map(|((at, len), fill)| Change::Write(at, len, fill)),
        2 => place().prop_map(|(at, len)| Change::Zero(at, len)),
        1 => place().prop_map(|(at, len)| Change::Discard(at, len)),
    ];
    proptest::collection::vec(change, 1..8)
}

fn change_model(model: &mut [u8], change: &Change) {
    match *change {
        Change::Write(at, len, fill) => model[at as usize..(at + len) as usize].fill(fill),
        Change::Zero(at, len) => model[at as usize..(at + len) as usize].fill(0),
        Change::Discard(..) => {}
    }
}

fn change_by_us(image: &str, model: &mut [u8], changes: &[Change]) {
    let disk = open(image, OpenFlags::UNMAP).unwrap();
    block_on(async {
        for change in changes {
            match *change {
                Change::Write(at, len, fill) => {
                    disk.write_bytes(at, &vec![fill; len as usize]).await.unwrap()
                }
                Change::Zero(at, len) => disk.write_zeroes(at, len, WriteFlags::MAY_UNMAP).await.unwrap(),
                Change::Discard(at, len) => {
                    disk.discard(at, len).await.unwrap();
                    // Whatever a discard leaves is right.
                    let mut now = vec![0; len as usize];
                    disk.read_bytes(at, &mut now).await.unwrap();
                    model[at as usize..(at + len) as usize].copy_from_slice(&now);
                }
            }
            change_model(model, change);
        }
        disk.close().await.unwrap();
    });
}

fn change_by_qemu(image: &str, model: &mut [u8], changes: &[Change]) {
    let mut arguments = vec!["-f".to_owned(), "vmdk".to_owned()];
    for change in changes {
        let command = match *change {
            Change::Write(at, len, fill) => format!("write -P {fill} {at} {len}"),
            Change::Zero(at, len) => format!("write -z {at} {len}"),
            Change::Discard(..) => continue,
        };
        arguments.extend(["-c".to_owned(), command]);
        change_model(model, change);
    }
    arguments.push(image.to_owned());
    must("qemu-io", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
}

const DISK: u64 = 20 << 20;
const OPTIONS: [&str; 8] = [
    "",
    "zeroed_grain=on",
    "compat6=on,adapter_type=lsilogic",
    "subformat=monolithicFlat",
    "subformat=twoGbMaxExtentSparse",
    "subformat=twoGbMaxExtentSparse,zeroed_grain=on",
    "subformat=twoGbMaxExtentFlat,adapter_type=buslogic",
    "hwversion=9,toolsversion=123",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn images_go_back_and_forth(
        options in 0..OPTIONS.len(),
        ours_first: bool,
        rounds in proptest::collection::vec((any::<bool>(), changes(DISK)), 1..4),
    ) {
        if tools() {
            let folder = Folder::new("back-and-forth");
            let image = folder.file("a.vmdk");
            let text = format!("size={DISK},{}", OPTIONS[options]);
            match ours_first {
                true => create(&image, text.trim_end_matches(',')),
                false => {
                    let text = text.trim_end_matches(',');
                    must("qemu-img", &["create", "-q", "-f", "vmdk", "-o", text, &image]);
                }
            }
            let mut model = vec![0; DISK as usize];
            compare(&folder, &image, &model);
            for (ours, changes) in &rounds {
                match ours {
                    true => change_by_us(&image, &mut model, changes),
                    false => change_by_qemu(&image, &mut model, changes),
                }
                compare(&folder, &image, &model);
            }
        }
    }
}

fn info_of(image: &str) -> serde_json::Value {
    serde_json::from_str(&must("qemu-img", &["info", "--output=json", image])).unwrap()
}

/// What `qemu-img info` prints, but for the content ID and the files' sizes.
fn info(image: &str) -> serde_json::Value {
    let mut value = info_of(image);
    value["format-specific"]["data"]["cid"].take();
    value["actual-size"].take();
    value["children"].take();
    value
}

#[test]
fn every_option_set_makes_the_same_image() {
    if !tools() {
        return;
    }
    let (ours, theirs) = (Folder::new("ours"), Folder::new("theirs"));
    let stream = ["subformat=streamOptimized", "subformat=streamOptimized,zeroed_grain=on"];
    for options in OPTIONS.iter().chain(&stream) {
        for size in ["1000", "65K", "5G"] {
            let text = format!("size={size},{options}");
            let text = text.trim_end_matches(',');
            let (a, b) = (ours.file("a.vmdk"), theirs.file("a.vmdk"));
            create(&a, text);
            // It writes the content ID without leading zeroes.
            loop {
                must("qemu-img", &["create", "-q", "-f", "vmdk", "-o", text, &b]);
                if info_of(&b)["format-specific"]["data"]["cid"].as_u64() >= Some(1 << 28) {
                    break;
                }
            }
            let (of_ours, of_theirs) = (info(&a).to_string(), info(&b).to_string());
            assert_eq!(of_ours.replace("ours-", "theirs-"), of_theirs, "{text}");
            must("qemu-img", &["check", "-q", &a]);
            // The same bytes, but for the content ID.
            for entry in std::fs::read_dir(&theirs.0).unwrap() {
                let name = entry.unwrap().file_name();
                if std::fs::metadata(theirs.0.join(&name)).unwrap().len() > 1 << 20 {
                    continue;
                }
                let read = |folder: &Folder| {
                    let mut bytes = std::fs::read(folder.0.join(&name)).unwrap();
                    let at = bytes.windows(5).position(|w| w == b"\nCID=");
                    at.inspect(|at| bytes[at + 5..at + 13].fill(b'0'));
                    bytes
                };
                let (a, b) = (read(&ours), read(&theirs));
                let at = a.iter().zip(&b).position(|(a, b)| a != b);
                assert!(a == b, "{text}: {name:?}: {} and {} bytes, from {at:?}", a.len(), b.len());
            }
            let disk = open(&b, OpenFlags::READ_ONLY).unwrap();
            let specific = block_on(disk.driver().format_info()).unwrap().specific.unwrap();
            let mut wanted = info(&b)["format-specific"].clone();
            wanted["data"]["cid"] = specific["data"]["cid"].clone();
            assert_eq!(specific, wanted);
            for folder in [&ours, &theirs] {
                for entry in std::fs::read_dir(&folder.0).unwrap() {
                    std::fs::remove_file(entry.unwrap().path()).unwrap();
                }
            }
        }
    }
}

#[test]
fn compressed_disks_go_both_ways() {
    if !tools() {
        return;
    }
    let folder = Folder::new("stream");
    let (raw, ours, theirs) = (folder.file("a.raw"), folder.file("ours.vmdk"), folder.file("theirs.vmdk"));
    let length = (3 << 20) + 512 * 9;
    let mut model: Vec<u8> = (0..length as u32).map(|i| (i.wrapping_mul(i >> 7) >> 3) as u8).collect();
    model[1 << 20..2 << 20].fill(0);
    std::fs::write(&raw, &model).unwrap();
    must(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", &raw, &theirs],
    );
    compare(&folder, &theirs, &model);
    create(&ours, &format!("size={length},subformat=streamOptimized"));
    let disk = open(&ours, OpenFlags::UNMAP).unwrap();
    block_on(async {
        let facts = disk.driver().format_info().await.unwrap();
        assert!(facts.needs_compressed_writes);
        for (number, grain) in model.chunks(65536).enumerate().rev() {
            if grain.iter().any(|b| *b != 0) {
                let data = rhea_async_io::IoVector::from_slice(grain);
                disk.write_compressed(number as u64 * 65536, &data).await.unwrap();
            }
        }
        let error = disk.write_bytes(0, &model[..65536]).await.unwrap_err();
        assert_eq!(error.to_string(), "Could not write to allocated cluster for streamOptimized");
        assert_eq!(disk.write_bytes(1 << 20, &[1; 512]).await.unwrap_err().errno(), libc_einval());
        disk.close().await.unwrap();
    });
    compare(&folder, &ours, &model);
}

fn libc_einval() -> i32 {
    BlockError::invalid("").errno()
}

#[test]
fn overlays_read_their_parent_until_it_changes() {
    if !tools() {
        return;
    }
    for (ours, subformat) in
        [(true, "monolithicSparse"), (false, "monolithicSparse"), (true, "twoGbMaxExtentSparse")]
    {
        let folder = Folder::new("overlay");
        let (base, top) = (folder.file("base.vmdk"), folder.file("top.vmdk"));
        create(&base, &format!("size={DISK}"));
        let mut model = vec![0; DISK as usize];
        change_by_us(&base, &mut model, &[Change::Write(0, 5 << 20, 7)]);
        let options =
            format!("backing_file=base.vmdk,backing_fmt=vmdk,subformat={subformat},zeroed_grain=on");
        match ours {
            true => create(&top, &options),
            false => drop(must("qemu-img", &["create", "-q", "-f", "vmdk", "-o", &options, &top])),
        }
        let changes = [
            Change::Write((1 << 20) + 512, 1024, 9),
            Change::Write((4 << 20) + 66_560, 1 << 20, 3),
            Change::Zero(2 << 20, 200 << 10),
            Change::Zero((3 << 20) + 512, 512),
        ];
        change_by_us(&top, &mut model, &changes);
        compare(&folder, &top, &model);
        change_by_qemu(&top, &mut model, &[Change::Write(512, 512, 1), Change::Zero(128 << 10, 64 << 10)]);
        compare(&folder, &top, &model);
        change_by_us(&base, &mut vec![0; DISK as usize], &[Change::Write(0, 512, 1)]);
        let disk = open(&top, OpenFlags::READ_ONLY).unwrap();
        let error = block_on(disk.read_bytes(19 << 20, &mut [0; 512])).unwrap_err();
        assert!(error.to_string().contains("content ID"), "{error}");
    }
}

#[test]
fn extents_of_all_kinds_make_a_disk() {
    let folder = Folder::new("extents");
    let image = folder.file("d.vmdk");
    std::fs::write(folder.file("f.bin"), [5; 4096]).unwrap();
    std::fs::write(folder.file("g.bin"), [5; 4096]).unwrap();
    create(&folder.file("s.vmdk"), "size=1M");
    let lines = "RW 4 FLAT \"f.bin\" 2\nRW 8 ZERO\nRDONLY 2 VMFS \"g.bin\"\nRW 2048 SPARSE \"s.vmdk\"\n";
    let head = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n";
    std::fs::write(&image, format!("{head}createType=\"twoGbMaxExtentSparse\"\n{lines}")).unwrap();
    let disk = open(&image, OpenFlags::UNMAP).unwrap();
    assert_eq!(disk.length(), 14 * 512 + (1 << 20));
    block_on(async {
        let mut data = vec![1; 20 * 512];
        disk.read_bytes(0, &mut data).await.unwrap();
        assert!(data[..2048].iter().all(|b| *b == 5) && data[2048..12 * 512].iter().all(|b| *b == 0));
        assert!(data[12 * 512..14 * 512].iter().all(|b| *b == 5) && data[14 * 512..].iter().all(|b| *b == 0));
        assert!(disk.write_bytes(2048, &[1; 512]).await.is_err(), "ZERO cannot be written");
        assert!(disk.write_bytes(12 * 512, &[1; 512]).await.is_err(), "RDONLY cannot be written");
        disk.write_bytes(14 * 512, &[6; 512]).await.unwrap();
        disk.write_bytes(0, &[7; 512]).await.unwrap();
        disk.close().await.unwrap();
    });
    assert_eq!(std::fs::read(folder.file("f.bin")).unwrap()[1024..1536], [7; 512]);
    for (kind, line, message) in [
        ("fullDevice", "RW 4 FLAT \"f.bin\" 0", "Unsupported image type 'fullDevice'"),
        ("monolithicFlat", "RW 4 FLAT \"f.bin\"", "Invalid extent line: RW 4 FLAT \"f.bin\""),
        ("monolithicFlat", "RW 4 FLAT \"nbd://localhost/x\" 0", "No such file or directory"),
        ("monolithicFlat", "RW 4 FLAT \"missing\" 0", "missing': No such file or directory"),
        ("seSparse", "RW 4 SESPARSE \"f.bin\"", "seSparse header: magic"),
    ] {
        std::fs::write(&image, format!("{head}createType=\"{kind}\"\n{line}\n")).unwrap();
        let error = open(&image, OpenFlags::READ_ONLY).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
}

/// A disk as other writers of the stream-optimized format make it: no tables until the end, where a footer has their
/// places ("Virtual Disk Format 5.0", figure 9).
#[test]
fn a_footer_is_found() {
    let folder = Folder::new("footer");
    let (ours, stream) = (folder.file("ours.vmdk"), folder.file("stream.vmdk"));
    create(&ours, "size=1M,subformat=streamOptimized");
    let disk = open(&ours, OpenFlags::UNMAP).unwrap();
    block_on(async {
        disk.write_bytes(65536, &[9; 65536]).await.unwrap();
        disk.close().await.unwrap();
    });
    let mut bytes = std::fs::read(&ours).unwrap();
    let header = bytes[..512].to_vec();
    bytes[56..64].fill(0xff);
    // A marker (one sector, of type 3) and the footer; then the end of the stream.
    let mut marker = [0; 512];
    (marker[0], marker[12]) = (1, 3);
    bytes.extend(marker);
    bytes.extend(&header);
    bytes.extend([0; 512]);
    std::fs::write(&stream, &bytes).unwrap();
    let mut model = vec![0; 1 << 20];
    model[65536..131_072].fill(9);
    if tools() {
        compare(&folder, &stream, &model);
    }
    let footer = bytes.len() - 1024;
    bytes[footer + 12] ^= 1;
    std::fs::write(&stream, &bytes).unwrap();
    let error = open(&stream, OpenFlags::READ_ONLY).unwrap_err();
    assert!(error.to_string().contains("footer"), "{error}");
}

#[test]
fn a_cowd_extent_is_read() {
    let folder = Folder::new("cowd");
    let (image, delta) = (folder.file("a.vmdk"), folder.file("a-delta.vmdk"));
    let mut bytes = vec![0; 64 << 10];
    bytes[..4].copy_from_slice(b"COWD");
    // Version, flags, sectors, grain size, directory, its entries, the next free sector.
    for (field, value) in [1_u32, 3, 2048, 1, 4, 1, 42].iter().enumerate() {
        bytes[4 + field * 4..][..4].copy_from_slice(&value.to_le_bytes());
    }
    bytes[4 * 512] = 5;
    // Sector 3 of the disk is sector 41 of the file.
    bytes[5 * 512 + 3 * 4] = 41;
    bytes[41 * 512..42 * 512].fill(7);
    std::fs::write(&delta, &bytes).unwrap();
    let text = "# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\ncreateType=\"vmfsSparse\"\n\n\
                RW 2048 VMFSSPARSE \"a-delta.vmdk\"\n";
    std::fs::write(&image, text).unwrap();
    let mut model = vec![0; 1 << 20];
    model[3 * 512..4 * 512].fill(7);
    let disk = open(&image, OpenFlags::READ_ONLY).unwrap();
    let mut data = vec![1; model.len()];
    block_on(disk.read_bytes(0, &mut data)).unwrap();
    assert!(data == model);
    block_on(disk.close()).unwrap();
    let error = open(&image, OpenFlags::UNMAP).unwrap_err();
    assert!(error.to_string().contains("read-only"), "{error}");
    // QEMU 10.0 is no oracle here: it takes the extent for two, one behind the other.
}

#[test]
fn a_space_efficient_extent_is_read() {
    let folder = Folder::new("sesparse");
    let (image, delta) = (folder.file("a.vmdk"), folder.file("a-sesparse.vmdk"));
    let mut bytes = vec![0; 2 << 20];
    let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    let mut header = [0; 26];
    header[..5].copy_from_slice(&[0xcafe_babe, 0x2_0000_0001, 131_072, 8, 64]);
    // Places and sizes: volatile header, directory, tables, grains.
    (header[10], header[11], header[16], header[17]) = (1, 1, 128, 64);
    (header[18], header[19], header[24], header[25]) = (256, 1024, 2048, 1024);
    header.iter().enumerate().for_each(|(number, value)| put(number * 8, *value));
    put(512, 0xcafe_cafe);
    put(128 * 512, 0x1000_0000_0000_0000);
    put(128 * 512 + 8, 0x1000_0000_0000_0003);
    let table = 256 * 512;
    for (number, entry) in [3 << 60, 1 << 60, 2 << 60, 0, 3 << 60 | 5 << 48].iter().enumerate() {
        put(table + number * 8, *entry);
    }
    put(table + 3 * 64 * 512, 3 << 60 | 7 << 48);
    for (grain, fill) in [(0, 1), (5, 2), (7, 3)] {
        bytes[(1 << 20) + grain * 4096..][..4096].fill(fill);
    }
    std::fs::write(&delta, &bytes).unwrap();
    let text = "# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\ncreateType=\"seSparse\"\n\n\
                RW 131072 SESPARSE \"a-sesparse.vmdk\"\n";
    std::fs::write(&image, text).unwrap();
    let mut model = vec![0; 64 << 20];
    for (grain, fill) in [(0, 1), (4, 2), (4096, 3)] {
        model[grain * 4096..][..4096].fill(fill);
    }
    let disk = open(&image, OpenFlags::READ_ONLY).unwrap();
    let mut data = vec![1; model.len()];
    block_on(disk.read_bytes(0, &mut data)).unwrap();
    assert!(data == model);
    let check = block_on(disk.driver().check(Repair::default())).unwrap();
    assert_eq!((check.corruptions, check.messages), (0, vec![]));
    block_on(disk.close()).unwrap();
    assert!(open(&image, OpenFlags::UNMAP).is_err());
    if tools() {
        // QEMU 10.0 takes the extent for two, one behind the other.
        let twice = [&model[..], &model[..]].concat();
        let raw = folder.file("twice.raw");
        std::fs::write(&raw, &twice).unwrap();
        must("qemu-img", &["compare", "-q", "-f", "vmdk", "-F", "raw", &image, &raw]);
    }
}

//! Images with the largest tables that their formats allow, nearly all of them holes: none makes the tool hold more than
//! 64 MiB beyond what it needs anyway.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What an image may cost, in KiB.
const BOUND: u64 = 64 << 10;

/// What an operation may take. None needs a tenth of it on a machine that has nothing else to do.
const LONGEST: Duration = Duration::from_secs(300);

/// Reads the disk's start.
const READ: &str = "dd -U -O raw bs=65536 count=1 if=image of=out";

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rhea-memory-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs our tool: what it said, and its most memory in KiB.
fn run(folder: &Path, arguments: &str) -> (String, u64) {
    let output = Command::new(env!("CARGO_BIN_EXE_qemu-img-high-water"))
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    let high = err.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    let high =
        high.unwrap_or_else(|| panic!("{arguments}: no panic, and an end: {err}")).trim().parse().unwrap();
    (format!("{}{err}", String::from_utf8_lossy(&output.stdout)), high)
}

/// An image of our tool's making, that is changed.
struct Image<'a> {
    folder: &'a Folder,
    format: &'static str,
    /// What the tool needs for it as it is.
    before: u64,
    file: File,
}

impl<'a> Image<'a> {
    fn create(folder: &'a Folder, format: &'static str, options: &str, size: &str) -> Self {
        let path = folder.0.join("image");
        let _ = fs::remove_file(&path);
        run(&folder.0, &format!("create -q -f {format} {options} image {size}"));
        Self::there(folder, format)
    }

    /// Of these bytes.
    fn of(folder: &'a Folder, format: &'static str, bytes: &[u8]) -> Self {
        fs::write(folder.0.join("image"), bytes).unwrap();
        Self::there(folder, format)
    }

    /// The file that is there.
    fn there(folder: &'a Folder, format: &'static str) -> Self {
        let before = run(&folder.0, "info nothing").1;
        let file = File::options().read(true).write(true).open(folder.0.join("image")).unwrap();
        Self { folder, format, before, file }
    }

    fn put(&self, at: u64, bytes: &[u8]) -> &Self {
        self.file.write_all_at(bytes, at).unwrap();
        self
    }

    fn len(&self, len: u64) -> &Self {
        self.file.set_len(len).unwrap();
        self
    }

    /// Looks at it, checks it, maps it and reads from it; `says` must be part of what `info` says.
    fn is_bounded(&self, what: &str, says: &str) {
        self.is_bounded_for(&["info -U", "check -U", "map -U", READ], what, says);
    }

    fn is_bounded_for(&self, lines: &[&str], what: &str, says: &str) {
        for line in lines {
            let (text, cost, took) = self.cost(line);
            let shown: String = text.chars().take(1000).collect();
            assert!(cost <= BOUND, "{what}: {line} takes {cost} KiB: {shown}");
            assert!(took <= LONGEST, "{what}: {line} takes {took:?}: {shown}");
            assert!(!line.starts_with("info") || text.contains(says), "{what}: {line}: {shown}");
        }
    }

    /// What the tool says, what it takes beyond what it needs anyway in KiB, and how long.
    fn cost(&self, line: &str) -> (String, u64, Duration) {
        let (verb, rest) = line.split_once(' ').unwrap();
        let started = Instant::now();
        let (text, high) = match verb == "dd" {
            true => run(&self.folder.0, &format!("dd -f {} {rest}", self.format)),
            false => run(&self.folder.0, &format!("{line} -f {} image", self.format)),
        };
        (text, high.saturating_sub(self.before), started.elapsed())
    }
}

/// Big-endian words of a table.
fn words(entries: impl Iterator<Item = u64>) -> Vec<u8> {
    entries.flat_map(u64::to_be_bytes).collect()
}

#[test]
fn qcow2_tables_in_holes() {
    let folder = Folder::new("qcow2");
    let l1 = Image::create(&folder, "qcow2", "-o cluster_size=512", "128G");
    l1.is_bounded("L1 table", "virtual size: 128 GiB");
    l1.put(48, &(1_u64 << 40).to_be_bytes()).put(56, &(16384_u32).to_be_bytes()).len((1 << 40) + (16 << 20));
    let lines = ["info -U", "check -U", "map -U", READ, "check -r all"];
    l1.is_bounded_for(&lines, "L1 table and refcount table", "virtual size: 128 GiB");
}

/// Tables with something in each entry.
#[test]
fn qcow2_tables_that_are_full() {
    const TABLES: u64 = 4 << 20;
    let folder = Folder::new("qcow2full");
    let l1 = Image::create(&folder, "qcow2", "-o cluster_size=512", "128G");
    let mut at = [0; 8];
    l1.file.read_exact_at(&mut at, 40).unwrap();
    let at = u64::from_be_bytes(at);
    l1.len((1 << 30) + TABLES * 512);
    l1.put(at, &words((0..TABLES).map(|n| (1 << 30) + n * 512)));
    l1.is_bounded("an L1 table with each L2 table", "virtual size: 128 GiB");
    l1.put(at, &words((0..TABLES).map(|n| (1 << 30) + n / 2 * 1024)));
    l1.is_bounded_for(&["info -U", "check -U"], "an L1 table with L2 tables twice", "virtual size");
    drop(l1);

    const BLOCKS: u64 = 1 << 20;
    let refcounts = Image::create(&folder, "qcow2", "-o cluster_size=512", "1G");
    refcounts.put(48, &(1_u64 << 32).to_be_bytes()).put(56, &(16384_u32).to_be_bytes());
    refcounts.put(1 << 32, &words((0..BLOCKS).map(|n| (1 << 33) + n * 512))).len((1 << 33) + BLOCKS * 512);
    let lines = ["info -U", "check -U", "map -U", READ, "check -r all"];
    refcounts.is_bounded_for(&lines, "a refcount table with each block", "virtual size: 1 GiB");
}

#[test]
fn qcow2_snapshot_table() {
    let folder = Folder::new("snapshots");
    // A snapshot's entry of version 2: no more than names.
    let snapshots = Image::create(&folder, "qcow2", "-o compat=0.10", "1M");
    let mut table = vec![];
    for number in 0..16384_u32 {
        let name = format!("{number:0>460}");
        let mut entry = vec![0; 40];
        entry[12..16].copy_from_slice(&[0, 5, 1, 204]);
        entry.extend(format!("{number:05}").bytes().chain(name.bytes()));
        entry.resize(entry.len().next_multiple_of(8), 0);
        table.extend(entry);
    }
    snapshots.put(60, &16384_u32.to_be_bytes()).put(64, &(1_u64 << 30).to_be_bytes()).put(1 << 30, &table);
    snapshots.is_bounded("snapshot table", "Snapshot list:");
    snapshots.put((1 << 30) + 12, &[0xff; 4]).len(1 << 40);
    snapshots.is_bounded("snapshot names", "snapshot table entry 1");
    snapshots.put(60, &16385_u32.to_be_bytes());
    snapshots.is_bounded("too many snapshots", "Snapshot table too large");
}

#[test]
fn qcow2_bitmap_directory() {
    let folder = Folder::new("bitmaps");
    let image = Image::create(&folder, "qcow2", "", "1M");
    run(&folder.0, "bitmap --add image some");
    let mut header = vec![0; 1024];
    image.file.read_exact_at(&mut header, 0).unwrap();
    let at = header.windows(4).position(|w| w == 0x2385_2875_u32.to_be_bytes()).unwrap() as u64 + 8;
    let directory = 1_u64 << 30;
    let bitmap = |table_size: u32, name: u16, extra: u32| {
        let mut entry = vec![0; 24];
        entry[..8].copy_from_slice(&(4_u64 << 16).to_be_bytes());
        entry[8..12].copy_from_slice(&table_size.to_be_bytes());
        entry[16..18].copy_from_slice(&[1, 16]);
        entry[18..20].copy_from_slice(&name.to_be_bytes());
        entry[20..24].copy_from_slice(&extra.to_be_bytes());
        entry
    };
    // One bitmap, whose extra data fills the directory.
    for (len, says) in [(8_u64 << 20, "virtual size"), (16 << 20, "invalid bitmap directory size")] {
        image
            .put(at, &1_u32.to_be_bytes())
            .put(at + 8, &len.to_be_bytes())
            .put(at + 16, &directory.to_be_bytes());
        image.put(directory, &bitmap(1, 8, len as u32 - 32));
        image.put(directory + len - 8, b"somename").len(directory + len);
        image.is_bounded("a long entry of the bitmap directory", says);
    }
    // As many as there can be, each with the longest table.
    for table_size in [1, 1 << 20] {
        let mut entries = vec![];
        for number in 0..16384 {
            entries.extend(bitmap(table_size, 488, 0));
            entries.extend(format!("{number:0488}").bytes());
        }
        image.put(at, &16384_u32.to_be_bytes()).put(at + 8, &(entries.len() as u64).to_be_bytes());
        image.put(directory, &entries);
        if table_size != 1 {
            // The table is a hole, all of whose clusters are zeroes.
            let table = 2_u64 << 30;
            for number in 0..16384 {
                image.put(directory + number * 512, &table.to_be_bytes());
            }
            image.len(table + (8 << 20));
        }
        image.is_bounded("many bitmaps", "granularity");
    }
}

#[test]
fn vmdk_grain_directories() {
    let folder = Folder::new("vmdk");
    let image = Image::create(&folder, "vmdk", "", "1G");
    // 4 Mi entries of 32 MiB each, twice.
    image.put(12, &(((4_u64 << 20) * (32 << 20)) / 512).to_le_bytes());
    image
        .put(48, &(1_u64 << 31).to_le_bytes())
        .put(56, &(1_u64 << 32).to_le_bytes())
        .len((1 << 41) + (16 << 20));
    image.is_bounded("grain directories", "");
    // Grains of a sector: half a billion places in a file, looked at in pieces.
    image.put(12, &(((4_u64 << 20) * (256 << 10)) / 512).to_le_bytes()).put(20, &1_u64.to_le_bytes());
    image.put(48, &(1_u64 << 27).to_le_bytes()).put(56, &(1_u64 << 28).to_le_bytes()).len((1 << 38) - 512);
    image.is_bounded_for(&["info -U", "check -U"], "grains of a sector", "virtual size: 1 TiB");
}

#[test]
fn vhdx_block_allocation_table() {
    let folder = Folder::new("vhdx");
    let image = Image::create(&folder, "vhdx", "-o block_size=1M", "64T");
    image.is_bounded("block allocation table", "virtual size: 64 TiB");
}

#[test]
fn vdi_block_map() {
    let folder = Folder::new("vdi");
    let vdi = Image::create(&folder, "vdi", "", "1M");
    let (blocks, map) = (0x1fff_ff80_u64, 512_u64);
    vdi.put(0x170, &(blocks << 20).to_le_bytes()).put(0x180, &(blocks as u32).to_le_bytes());
    vdi.put(0x158, &((map + blocks * 4) as u32 & !511).to_le_bytes()).len(1 << 40);
    // (A map has a line for each block.)
    vdi.is_bounded_for(&["info -U", "check -U", READ], "block map in a hole", "virtual size: 512 TiB");
    vdi.put(map, &vec![0xff; 16 << 20]);
    vdi.is_bounded_for(&["info -U", "check -U", READ], "block map", "virtual size: 512 TiB");
}

#[test]
fn parallels_block_allocation_table() {
    let folder = Folder::new("parallels");
    let parallels = Image::create(&folder, "parallels", "", "1M");
    let entries = i32::MAX as u64 / 4;
    parallels.put(32, &(entries as u32).to_le_bytes()).put(36, &(entries * 2048).to_le_bytes()).len(1 << 42);
    parallels.is_bounded("BAT in a hole", "virtual size: 512 TiB");
    // All clusters are one.
    parallels.put(64, &0x20_0000_u32.to_le_bytes().repeat(1 << 20));
    parallels.is_bounded_for(&["info -U", "check -U", READ], "BAT", "virtual size: 512 TiB");
}

#[test]
fn qed_tables() {
    let folder = Folder::new("qed");
    let qed = Image::create(&folder, "qed", "-o cluster_size=64M,table_size=16", "1P");
    qed.len(1 << 42);
    // L2 tables of a GiB each, in a hole.
    let mut at = [0; 8];
    qed.file.read_exact_at(&mut at, 40).unwrap();
    let tables = (2..3000_u64).flat_map(|n| (n << 30).to_le_bytes()).collect::<Vec<u8>>();
    qed.is_bounded("L1 table", "virtual size: 1 PiB");
    qed.put(u64::from_le_bytes(at), &tables);
    qed.is_bounded_for(&["info -U", "check -U", READ], "L2 tables", "virtual size: 1 PiB");
    drop(qed);
    let long = Image::create(&folder, "qed", "-o cluster_size=4096,table_size=16", "64G");
    long.len(1500 << 30);
    long.is_bounded("a long file", "virtual size: 64 GiB");
}

#[test]
fn vpc_block_allocation_table() {
    let folder = Folder::new("vpc");
    let vpc = Image::create(&folder, "vpc", "-o force_size=on", "2040G");
    let entries = i32::MAX as u32 / 4;
    vpc.put(512 + 28, &entries.to_be_bytes()).len(1 << 42);
    vpc.is_bounded("BAT", "virtual size: 1.99 TiB");
    // Blocks of a sector, each with a bitmap.
    vpc.put(512 + 32, &4096_u32.to_be_bytes());
    vpc.is_bounded_for(&["info -U", "check -U", READ], "BAT of small blocks", "virtual size: 1.99 TiB");
}

#[test]
fn qcow_l1_table() {
    let folder = Folder::new("qcow");
    let qcow = Image::create(&folder, "qcow", "", "1G");
    // L2 tables of 64 clusters of 512 bytes.
    let entries = i32::MAX as u64 / 8;
    qcow.put(32, &[9, 6]).put(24, &(entries << 15).to_be_bytes()).len(1 << 42);
    qcow.is_bounded("L1 table", "virtual size: 8 TiB");
}

#[test]
fn bochs_catalog() {
    let folder = Folder::new("bochs");
    let mut header = vec![0; 512];
    header[..22].copy_from_slice(b"Bochs Virtual HD Image");
    header[32..39].copy_from_slice(b"Redolog");
    header[48..55].copy_from_slice(b"Growing");
    let fields = [0x0002_0000_u32, 512, 0x10_0000, u32::MAX, 0x80_0000];
    for (place, field) in header[64..].chunks_exact_mut(4).zip(fields) {
        place.copy_from_slice(&field.to_le_bytes());
    }
    header[88..96].copy_from_slice(&(1_u64 << 43).to_le_bytes());
    let bochs = Image::of(&folder, "bochs", &header);
    // The longest catalog and the longest bitmaps.
    bochs.len(1 << 43);
    bochs.is_bounded("catalog", "virtual size: 8 TiB");
}

/// The offsets are read as they are needed; of the payload the largest block is in memory.
#[test]
fn cloop_offsets_and_blocks() {
    const BLOCK: u32 = 64 << 20;
    let folder = Folder::new("cloop");
    let offsets = (512_u64 << 20) / 8;
    let start = 136 + offsets * 8;
    let magic = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";
    let mut header = vec![0; 136];
    header[..magic.len()].copy_from_slice(magic);
    header[128..132].copy_from_slice(&BLOCK.to_be_bytes());
    header[132..136].copy_from_slice(&(offsets as u32 - 1).to_be_bytes());
    let cloop = Image::of(&folder, "cloop", &header);
    let stored = stored_zlib(BLOCK as usize);
    // What is stored may be twice as long as the block, whatever the stream needs.
    cloop.put(136, &words([start, start + 2 * u64::from(BLOCK)].into_iter())).put(start, &stored);
    cloop.len(start + 2 * u64::from(BLOCK));
    cloop.is_bounded_for(&["info -U", "map -U"], "offsets", "virtual size: 4 PiB");
    let (text, cost, _) = cloop.cost(READ);
    assert!(!text.contains("error"), "{text}");
    assert!(cost <= BOUND + PAYLOAD, "{cost} KiB");
}

/// What the largest block of a compressed format may cost while it is read, in KiB, beyond the bound: what is stored is
/// read piece by piece.
const PAYLOAD: u64 = 8 << 10;

/// A zlib stream of zeroes that compresses nothing (RFC 1950, RFC 1951: stored blocks).
fn stored_zlib(len: usize) -> Vec<u8> {
    let mut stream = vec![0x78, 0x01];
    let mut rest = len;
    while rest > 0 {
        let part = rest.min(65535);
        rest -= part;
        stream.push(u8::from(rest == 0));
        stream.extend((part as u16).to_le_bytes());
        stream.extend((!part as u16).to_le_bytes());
        stream.resize(stream.len() + part, 0);
    }
    // Adler-32 of zeroes: the sums are 1 and the length.
    let sum = ((len % 65521) as u32) << 16 | 1;
    stream.extend(sum.to_be_bytes());
    stream
}

/// The largest chunk, followed by another: there are never two in memory.
#[test]
fn dmg_chunks() {
    let folder = Folder::new("chunks");
    let len = (64_usize << 20) - (1 << 20);
    let mut image = stored_zlib(len);
    let stored = image.len() as u64;
    let mut table = vec![0; 204 + 2 * 40];
    table[..4].copy_from_slice(b"mish");
    table[200..204].copy_from_slice(&2_u32.to_be_bytes());
    let sectors = len as u64 / 512;
    for (number, entry) in (0_u64..).zip(table[204..].chunks_exact_mut(40)) {
        entry[..4].copy_from_slice(&0x8000_0005_u32.to_be_bytes());
        entry[8..].copy_from_slice(&words([number * sectors, sectors, 0, stored].into_iter()));
    }
    let mut fork = vec![0; 256];
    fork[0..4].copy_from_slice(&256_u32.to_be_bytes());
    fork[8..12].copy_from_slice(&(table.len() as u32 + 4).to_be_bytes());
    fork.extend((table.len() as u32).to_be_bytes());
    fork.extend(table);
    let mut koly = vec![0; 512];
    koly[..4].copy_from_slice(b"koly");
    koly[0x28..0x38].copy_from_slice(&words([stored, fork.len() as u64].into_iter()));
    koly[0x1ec..0x1f4].copy_from_slice(&(2 * sectors).to_be_bytes());
    image.extend(fork);
    image.extend(koly);
    let dmg = Image::of(&folder, "dmg", &image);
    let (text, cost, _) = dmg.cost(&format!("dd -U -O raw bs={} count=2 if=image of=out", 1 << 20));
    assert!(!text.contains("error"), "{text}");
    assert!(cost <= BOUND + PAYLOAD, "{cost} KiB");
    let (text, cost, _) = dmg.cost(&format!("dd -U -O raw bs={} skip=62 count=2 if=image of=out", 1 << 20));
    assert!(!text.contains("error"), "{text}");
    assert!(cost <= BOUND + PAYLOAD, "{cost} KiB");
}

/// A header says nothing that memory would depend on; key material is as long as the cipher's key makes it.
#[test]
fn luks_header() {
    let folder = Folder::new("luks");
    let secret = "--object secret,id=s,data=password";
    let create = format!("create -q {secret} -f luks -o key-secret=s,iter-time=10 image 1M");
    let made = run(&folder.0, &create).0;
    let luks = Image::there(&folder, "luks");
    luks.is_bounded("as it is", "payload offset");
    for (at, field, says) in [
        (104, u32::MAX, "payload-offset"),
        (108, u32::MAX, "key size"),
        (208 + 40, u32::MAX, "overlapping"),
        (208 + 44, u32::MAX, "stripes"),
        (208 + 4, u32::MAX, "iteration count"),
    ] {
        let mut before = [0; 4];
        luks.file.read_exact_at(&mut before, at).unwrap_or_else(|_| panic!("{made}"));
        luks.put(at, &field.to_be_bytes());
        luks.is_bounded(&format!("field at {at}"), says);
        luks.put(at, &before);
    }
}

/// Property lists and resource forks full of chunks.
#[test]
fn dmg_block_tables() {
    let folder = Folder::new("dmg");
    let len = 16_usize << 20;
    let before = run(&folder.0, "info nothing").1;
    let count = (len - 260 - 4 - 204) / 40;
    let mut fork = vec![0; len];
    fork[0..4].copy_from_slice(&256_u32.to_be_bytes());
    fork[8..12].copy_from_slice(&(len as u32 - 256).to_be_bytes());
    fork[256..260].copy_from_slice(&(len as u32 - 260).to_be_bytes());
    let table = &mut fork[260..];
    table[..4].copy_from_slice(b"mish");
    table[200..204].copy_from_slice(&(count as u32).to_be_bytes());
    for (number, entry) in (0_u64..).zip(table[204..].chunks_exact_mut(40).take(count)) {
        entry[8..16].copy_from_slice(&number.to_be_bytes());
        entry[16..24].copy_from_slice(&1_u64.to_be_bytes());
    }
    let mut koly = vec![0; 512];
    koly[..4].copy_from_slice(b"koly");
    koly[0x30..0x38].copy_from_slice(&(len as u64).to_be_bytes());
    koly[0x1ec..0x1f4].copy_from_slice(&(count as u64).to_be_bytes());
    fork.extend(koly);
    fs::write(folder.0.join("image"), fork).unwrap();
    let (text, high) = run(&folder.0, "info -U -f dmg image");
    assert!(text.contains("virtual size"), "{text}");
    assert!(high.saturating_sub(before) <= BOUND, "{} KiB", high - before);
}

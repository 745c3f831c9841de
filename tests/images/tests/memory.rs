//! Images with the largest tables that their formats allow, nearly all of them holes: none makes the tool hold more than
//! 64 MiB beyond what it needs anyway.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What an image may cost, in KiB.
const BOUND: u64 = 64 << 10;

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
        run(&folder.0, &format!("create -q -f {format} small 1M"));
        let before = run(&folder.0, &format!("info -U -f {format} small")).1;
        let file = File::options().read(true).write(true).open(path).unwrap();
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

    /// Looks at it and checks it; `says` must be part of what `info` says.
    fn is_bounded(&self, what: &str, says: &str) {
        self.is_bounded_for(&["info -U", "check -U"], what, says);
    }

    fn is_bounded_for(&self, lines: &[&str], what: &str, says: &str) {
        for line in lines {
            let (text, high) = run(&self.folder.0, &format!("{line} -f {} image", self.format));
            let cost = high.saturating_sub(self.before);
            assert!(cost <= BOUND, "{what}: {line} takes {cost} KiB: {}", &text[..text.len().min(1000)]);
            assert!(
                !line.starts_with("info") || text.contains(says),
                "{what}: {line}: {}",
                &text[..text.len().min(1000)]
            );
        }
    }
}

#[test]
fn qcow2_tables() {
    let folder = Folder::new("qcow2");
    let l1 = Image::create(&folder, "qcow2", "-o cluster_size=512", "128G");
    l1.is_bounded("L1 table", "virtual size: 128 GiB");
    l1.put(48, &(1_u64 << 40).to_be_bytes()).put(56, &(16384_u32).to_be_bytes()).len((1 << 40) + (16 << 20));
    // A check of this one counts beside the tables, and takes 74 MiB: not yet within the bound.
    l1.is_bounded_for(&["info -U"], "L1 table and refcount table", "virtual size: 128 GiB");
}

#[test]
fn qcow2_bitmap_directory() {
    let folder = Folder::new("bitmaps");
    let image = Image::create(&folder, "qcow2", "", "1M");
    run(&folder.0, "bitmap --add image some");
    let mut header = vec![0; 1024];
    image.file.read_exact_at(&mut header, 0).unwrap();
    let at = header.windows(4).position(|w| w == 0x2385_2875_u32.to_be_bytes()).unwrap() as u64 + 8;
    // One bitmap, whose extra data fills the directory.
    let len = 16_u64 << 20;
    let directory = 1_u64 << 30;
    image
        .put(at, &1_u32.to_be_bytes())
        .put(at + 8, &len.to_be_bytes())
        .put(at + 16, &directory.to_be_bytes());
    let mut entry = vec![0; 24];
    entry[..8].copy_from_slice(&(4_u64 << 16).to_be_bytes());
    entry[8..12].copy_from_slice(&1_u32.to_be_bytes());
    entry[16..20].copy_from_slice(&[1, 16, 0, 8]);
    entry[20..24].copy_from_slice(&(len as u32 - 32).to_be_bytes());
    image.put(directory, &entry).put(directory + len - 8, b"somename").len(directory + len);
    image.is_bounded("bitmap directory", "virtual size");
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
}

#[test]
fn vhdx_block_allocation_table() {
    let folder = Folder::new("vhdx");
    let image = Image::create(&folder, "vhdx", "-o block_size=1M", "64T");
    image.is_bounded("block allocation table", "virtual size: 64 TiB");
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

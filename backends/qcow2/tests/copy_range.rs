//! Copies from image to image that do not pass through our memory: whatever lies on either side, the target holds the
//! source's bytes afterwards, or the copy says that it cannot be done so (`ENOTSUP`) and reading and writing does it.

mod side_by_side;

use std::sync::Arc;

use rhea_async_io::{IoVector, block_on};
use rhea_block::{
    BlockNode, FileDriver, OpenFlags, Progress, RawDriver, Registry, Repair, SnapshotInfo, WriteFlags,
};
use rhea_options::Options;
use rhea_qcow2::Qcow2Driver;
use side_by_side::Folder;

const SIZE: u64 = 4 << 20;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.add(RawDriver);
    registry.add(Qcow2Driver);
    registry.add(FileDriver);
    registry.secrets().add("s", b"secret".to_vec()).unwrap();
    registry
}

/// An image, what it holds, and the bytes that were written to it since it was opened.
struct Disk {
    node: Arc<BlockNode>,
    path: String,
    model: Vec<u8>,
}

/// A disk with something of everything that its options allow.
fn disk(registry: &Registry, folder: &Folder, name: &str, options: &str, random: &mut Random) -> Disk {
    let (path, base) = (folder.path(name), folder.path(&format!("{name}.base")));
    let mut model: Vec<u8> = (0..SIZE).map(|i| (i / 4096) as u8 ^ 0x33).collect();
    // Shorter than the disk.
    model.truncate(3 << 20);
    std::fs::write(&base, &model).unwrap();
    model.resize(SIZE as usize, 0);
    let mut all = format!("size={SIZE}");
    match options.contains("data_file_raw") {
        true => model.fill(0),
        false => all += &format!(",backing_file={base},backing_fmt=raw"),
    }
    if !options.is_empty() {
        all += &format!(",{}", options.replace("NAME", &path));
    }
    let parsed = Options::parse(&all, None).unwrap();
    block_on(registry.create("qcow2", &path, parsed, &Progress::new())).unwrap();
    let mut open = Options::default();
    open.set("driver", "qcow2");
    open.set("file.driver", "file");
    open.set("file.filename", &path);
    if options.contains("encrypt") {
        open.set("encrypt.key-secret", "s");
    }
    let node = block_on(registry.open_node(open, OpenFlags::UNMAP, false)).unwrap();
    for _ in 0..30 {
        let at = random.below(SIZE / 512) * 512;
        let len = ((random.below(300) + 1) * 512).min(SIZE - at);
        let fill = random.below(255) as u8 + 1;
        let range = at as usize..(at + len) as usize;
        if random.below(3) == 0 {
            block_on(node.write_zeroes(at, len, WriteFlags::MAY_UNMAP)).unwrap();
            model[range].fill(0);
        } else {
            block_on(node.write_bytes(at, &vec![fill; len as usize])).unwrap();
            model[range].fill(fill);
        }
    }
    Disk { node, path, model }
}

/// Copies between places at random; how many were done as asked.
fn copy(from: &Disk, to: &mut Disk, random: &mut Random, what: &str) -> u32 {
    let mut done = 0;
    for number in 0..12 {
        let unit = [1, 512, 65536][random.below(3) as usize];
        let len = (random.below(600_000) / unit + 1) * unit;
        let at = random.below((SIZE - len) / unit + 1) * unit;
        let target = random.below((SIZE - len) / unit + 1) * unit;
        let what = format!("{what}, copy {number}: {len} bytes from {at} to {target}");
        match block_on(from.node.copy_range(at, &to.node, target, len, WriteFlags::empty())) {
            Ok(()) => done += 1,
            Err(error) => {
                assert_eq!(error.errno(), libc::ENOTSUP, "{what}: {error}");
                let mut data = IoVector::zeroed(len as usize);
                block_on(from.node.read(at, &mut data)).unwrap();
                block_on(to.node.write(target, &data, WriteFlags::empty())).unwrap();
            }
        }
        let source = &from.model[at as usize..(at + len) as usize];
        to.model[target as usize..(target + len) as usize].copy_from_slice(source);
        if number == 6 {
            // From now on clusters are shared.
            block_on(to.node.driver().snapshots().unwrap().create(&SnapshotInfo::default())).ok();
        }
        let found = contents(&to.node);
        let first = found.iter().zip(&to.model).position(|(a, b)| a != b);
        assert!(first.is_none(), "{what}: differs at {first:?}");
    }
    done
}

fn contents(node: &BlockNode) -> Vec<u8> {
    let mut data = vec![0; node.length() as usize];
    block_on(node.read_bytes(0, &mut data)).unwrap();
    data
}

const KINDS: &[&str] = &[
    "",
    "cluster_size=512",
    "cluster_size=2M",
    "extended_l2=on,cluster_size=64k",
    "data_file=NAME.data",
    "data_file=NAME.raw,data_file_raw=on",
    "lazy_refcounts=on",
    "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
];

#[test]
fn every_kind_of_image_is_copied_to_every_other() {
    let Some(folder) = Folder::new() else { return };
    let mut random = Random(11);
    for (a, source) in KINDS.iter().enumerate() {
        for (b, target) in KINDS.iter().enumerate() {
            let what = format!("'{source}' to '{target}'");
            let registry = registry();
            let from = disk(&registry, &folder, &format!("a{a}-{b}"), source, &mut random);
            let mut to = disk(&registry, &folder, &format!("b{a}-{b}"), target, &mut random);
            let before = std::fs::read(&from.path).unwrap();
            let done = copy(&from, &mut to, &mut random, &what);
            let encrypted = source.contains("encrypt") || target.contains("encrypt");
            // With encryption, holes at most.
            assert!(done > 0 || encrypted, "{what}: none was copied");
            assert!(contents(&from.node) == from.model, "{what}: the source changed");
            block_on(from.node.close()).unwrap();
            assert!(std::fs::read(&from.path).unwrap().len() >= before.len());
            let check = block_on(to.node.driver().check(Repair::default())).unwrap();
            assert_eq!((check.corruptions, check.leaks), (0, 0), "{what}: {:?}", check.messages);
            block_on(to.node.close()).unwrap();
            if !target.contains("encrypt") {
                let out = folder.theirs("qemu-img", &["check", "-f", "qcow2", &to.path]);
                assert!(out.starts_with("No errors"), "{what}: {out}");
                assert!(folder.contents(&to.path, None) == to.model, "{what}: as they read it");
            }
        }
    }
}

#[test]
fn compressed_clusters_are_left_to_the_caller() {
    let Some(folder) = Folder::new() else { return };
    let registry = registry();
    let mut random = Random(12);
    let from = disk(&registry, &folder, "a", "", &mut random);
    let mut to = disk(&registry, &folder, "b", "", &mut random);
    block_on(from.node.write_compressed(1 << 20, &IoVector::from_slice(&[7; 65536]))).unwrap();
    let copied = |len| block_on(from.node.copy_range(1 << 20, &to.node, 0, len, WriteFlags::empty()));
    assert_eq!(copied(65536).unwrap_err().errno(), libc::ENOTSUP);
    assert_eq!(copied(100).unwrap_err().errno(), libc::ENOTSUP);
    // Over compressed clusters, whole and in part.
    block_on(to.node.write_compressed(2 << 20, &IoVector::from_slice(&[8; 131_072]))).unwrap();
    to.model[2 << 20..(2 << 20) + 131_072].fill(8);
    for (at, len) in [(2 << 20, 65536u64), ((2 << 20) + 65536 + 1000, 3000)] {
        if let Err(error) = block_on(from.node.copy_range(0, &to.node, at, len, WriteFlags::empty())) {
            assert_eq!(error.errno(), libc::ENOTSUP, "{error}");
            block_on(to.node.write_bytes(at, &from.model[..len as usize])).unwrap();
        }
        to.model[at as usize..(at + len) as usize].copy_from_slice(&from.model[..len as usize]);
    }
    assert!(contents(&to.node) == to.model);
    block_on(to.node.close()).unwrap();
    let out = folder.theirs("qemu-img", &["check", "-f", "qcow2", &to.path]);
    assert!(out.starts_with("No errors"), "{out}");
    assert!(folder.contents(&to.path, None) == to.model);
}

#[test]
fn within_one_image_data_goes_through_memory() {
    let Some(folder) = Folder::new() else { return };
    let registry = registry();
    let mut random = Random(13);
    for kind in ["", "data_file=NAME.data", "extended_l2=on"] {
        let name = format!("i{}", kind.len());
        let image = disk(&registry, &folder, &name, kind, &mut random);
        for (at, target, len) in [(0, 1 << 20, 65536), (0, 1000, 65536), (3 << 20, 0, 1 << 20), (0, 0, 4096)]
        {
            let copied = block_on(image.node.copy_range(at, &image.node, target, len, WriteFlags::empty()));
            assert_eq!(copied.unwrap_err().errno(), libc::ENOTSUP, "{kind}");
        }
        assert!(contents(&image.node) == image.model, "{kind}");
        block_on(image.node.close()).unwrap();
    }
}

#[test]
fn what_is_out_of_reach_is_refused() {
    let Some(folder) = Folder::new() else { return };
    let registry = registry();
    let mut random = Random(14);
    let from = disk(&registry, &folder, "a", "", &mut random);
    let to = disk(&registry, &folder, "b", "", &mut random);
    for (at, target, len) in [
        (SIZE, 0, 1),
        (0, SIZE, 1),
        (SIZE - 511, 0, 512),
        (0, SIZE - 511, 512),
        (u64::MAX, 0, 1),
        (0, u64::MAX, 2),
    ] {
        assert!(block_on(from.node.copy_range(at, &to.node, target, len, WriteFlags::empty())).is_err());
    }
    block_on(to.node.reopen(OpenFlags::READ_ONLY, Options::default())).unwrap();
    let copied = block_on(from.node.copy_range(0, &to.node, 0, 65536, WriteFlags::empty()));
    assert_eq!(copied.unwrap_err().errno(), libc::EPERM);
    assert!(contents(&to.node) == to.model);
}

#[test]
fn bitmaps_of_the_target_follow() {
    let Some(folder) = Folder::new() else { return };
    let registry = registry();
    let mut random = Random(15);
    let from = disk(&registry, &folder, "a", "", &mut random);
    let path = folder.image("b", "", "4M", &["write -P 1 0 4M"]);
    folder.theirs("qemu-img", &["bitmap", "--add", "-g", "64k", &path, "on"]);
    let to = block_on(registry.open(&path, Some("qcow2"), OpenFlags::UNMAP)).unwrap();
    block_on(from.node.copy_range(0, &to, 1 << 20, 1 << 20, WriteFlags::empty())).unwrap();
    let bitmap = block_on(to.driver().bitmaps().unwrap().load("on")).unwrap();
    assert_eq!(bitmap.next_dirty(0), Some((1 << 20, 1 << 20)));
    block_on(to.close()).unwrap();
}

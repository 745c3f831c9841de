//! Encrypted images, beside Debian's tools: what one writes the other reads, in the middle of sectors and clusters, over a
//! backing file, after zeroes, discards, snapshots and a new length.

mod side_by_side;

use std::sync::Arc;

use rhea_async_io::{IoVector, block_on};
use rhea_block::{
    BlockNode, FileDriver, OpenFlags, Progress, RawDriver, Registry, Repair, SnapshotInfo, Truncate,
    WriteFlags,
};
use rhea_options::Options;
use rhea_qcow2::Qcow2Driver;
use side_by_side::Folder;

const SIZE: usize = 1 << 20;

fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.add(RawDriver);
    registry.add(Qcow2Driver);
    registry.add(FileDriver);
    registry.secrets().add("s", b"secret".to_vec()).unwrap();
    registry
}

fn open(registry: &Registry, path: &str) -> Arc<BlockNode> {
    let mut options = Options::default();
    for (key, value) in
        [("driver", "qcow2"), ("file.driver", "file"), ("file.filename", path), ("encrypt.key-secret", "s")]
    {
        options.set(key, value);
    }
    block_on(registry.open_node(options, OpenFlags::UNMAP, false)).unwrap()
}

fn contents(node: &BlockNode) -> Vec<u8> {
    let mut data = vec![0; node.length() as usize];
    block_on(node.read_bytes(0, &mut data)).unwrap();
    data
}

/// What Debian's tools read.
fn theirs(folder: &Folder, path: &str) -> Vec<u8> {
    let raw = folder.path("theirs.raw");
    let image = format!("driver=qcow2,file.driver=file,file.filename={path},encrypt.key-secret=s");
    let secret = "secret,id=s,data=secret";
    folder.theirs("qemu-img", &["convert", "--object", secret, "--image-opts", "-O", "raw", &image, &raw]);
    folder.theirs("qemu-img", &["check", "--object", secret, "--image-opts", &image]);
    std::fs::read(raw).unwrap()
}

fn their_io(folder: &Folder, path: &str, commands: &[&str]) {
    let image = format!("driver=qcow2,file.driver=file,file.filename={path},encrypt.key-secret=s");
    let mut args = vec!["--object", "secret,id=s,data=secret", "--image-opts"];
    commands.iter().for_each(|command| args.extend(["-c", command]));
    args.push(&image);
    let out = folder.theirs("qemu-io", &args);
    assert!(!out.contains("ailed"), "{commands:?}: {out}");
}

/// Works on an image over a backing file; what it holds then.
fn work(node: &BlockNode, model: &mut Vec<u8>, format: &str) {
    let mut put = |at: usize, len: usize, fill: u8| {
        block_on(node.write_bytes(at as u64, &vec![fill; len])).unwrap();
        model[at..at + len].fill(fill);
    };
    put(0, 65_536, 1);
    // Parts of sectors, in a cluster that is there and in one that must be copied from behind.
    put(1000, 7, 2);
    put(200_001, 3000, 3);
    put(300_000, 200_000, 4);
    // Larger than what is encrypted in place.
    put(524_288, 400_001, 5);
    block_on(node.write_zeroes(4096, 100, WriteFlags::empty())).unwrap();
    model[4096..4196].fill(0);
    block_on(node.write_zeroes(393_216, 65_536, WriteFlags::MAY_UNMAP)).unwrap();
    block_on(node.discard(589_824, 65_536)).unwrap();
    model[393_216..458_752].fill(0);
    model[589_824..655_360].fill(0);
    let snapshots = node.driver().snapshots().unwrap();
    let id = block_on(snapshots.create(&SnapshotInfo::default())).unwrap();
    let saved = model.clone();
    block_on(node.write_bytes(500, &[6; 70_000])).unwrap();
    assert_eq!(contents(node)[500..70_500], [6; 70_000]);
    block_on(snapshots.apply(&id)).unwrap();
    assert!(contents(node) == saved, "{format}: the snapshot's contents");
    block_on(node.truncate(2 << 20, Truncate { exact: true, ..Truncate::default() })).unwrap();
    model.resize(2 << 20, 0);
    block_on(node.write_bytes((2 << 20) - 700, &[7; 700])).unwrap();
    let end = model.len();
    model[end - 700..].fill(7);
    // Only what is not encrypted can be compressed.
    let refused = block_on(node.write_compressed(0, &IoVector::zeroed(65_536))).unwrap_err();
    assert!(refused.is_unsupported(), "{refused}");
}

#[test]
fn what_one_encrypts_the_other_reads() {
    let Some(folder) = Folder::new() else { return };
    let base = folder.path("base.raw");
    let pattern: Vec<u8> = (0..SIZE).map(|i| (i / 512 % 251) as u8 ^ 0x80).collect();
    std::fs::write(&base, &pattern).unwrap();
    for format in ["luks", "aes"] {
        for made_by_us in [false, true] {
            let path = folder.path(&format!("{format}-{made_by_us}.qcow2"));
            let options = format!("encrypt.format={format},encrypt.key-secret=s");
            // A quick key derivation.
            let options = if format == "luks" { options + ",encrypt.iter-time=10" } else { options };
            let registry = registry();
            if made_by_us {
                let all = format!("size={SIZE},backing_file={base},backing_fmt=raw,{options}");
                let options = Options::parse(&all, None).unwrap();
                block_on(registry.create("qcow2", &path, options, &Progress::new())).unwrap();
            } else {
                let secret = "secret,id=s,data=secret";
                folder.theirs(
                    "qemu-img",
                    &[
                        "create", "-q", "--object", secret, "-f", "qcow2", "-b", &base, "-F", "raw", "-o",
                        &options, &path,
                    ],
                );
            }
            let mut model = pattern.clone();
            let node = open(&registry, &path);
            assert!(contents(&node) == model, "{format}: the backing file's contents");
            work(&node, &mut model, format);
            assert!(contents(&node) == model, "{format}: what we wrote");
            block_on(node.close()).unwrap();
            assert!(theirs(&folder, &path) == model, "{format}: what we wrote, as they read it");
            // The ciphertext has nothing of it.
            let raw = std::fs::read(&path).unwrap();
            assert!(!raw.chunks_exact(512).any(|sector| sector == [5; 512]), "{format}: not encrypted");
            their_io(
                &folder,
                &path,
                &["write -P 9 100 5000", "write -P 10 700000 300000", "write -z 262144 65536"],
            );
            model[100..5100].fill(9);
            model[700_000..1_000_000].fill(10);
            model[262_144..327_680].fill(0);
            let node = open(&registry, &path);
            assert!(contents(&node) == model, "{format}: what they wrote");
            let check = block_on(node.driver().check(Repair::default())).unwrap();
            assert_eq!((check.corruptions, check.leaks), (0, 0), "{format}");
            block_on(node.close()).unwrap();
        }
    }
}

/// Clusters that were encrypted and given up are used again, for other places: the key does not change, the tweaks do.
#[test]
fn encrypted_images_shrink_and_lose_snapshots() {
    let Some(folder) = Folder::new() else { return };
    for format in ["luks", "aes"] {
        let path = folder.path(&format!("shrunk-{format}.qcow2"));
        let options = format!("encrypt.format={format},encrypt.key-secret=s,cluster_size=4k");
        let options = if format == "luks" { options + ",encrypt.iter-time=10" } else { options };
        let registry = registry();
        let all = Options::parse(&format!("size={SIZE},{options}"), None).unwrap();
        block_on(registry.create("qcow2", &path, all, &Progress::new())).unwrap();
        let node = open(&registry, &path);
        let mut model = vec![0; SIZE];
        let put = |node: &BlockNode, model: &mut Vec<u8>, at: usize, len: usize, fill: u8| {
            block_on(node.write_bytes(at as u64, &vec![fill; len])).unwrap();
            model[at..at + len].fill(fill);
        };
        let resize = |node: &BlockNode, length: u64| {
            block_on(node.truncate(length, Truncate { exact: true, ..Truncate::default() })).unwrap();
        };
        put(&node, &mut model, 0, SIZE, 1);
        let snapshots = |node: &BlockNode| block_on(node.driver().snapshots().unwrap().list()).unwrap().len();
        let make = |node: &BlockNode| {
            block_on(node.driver().snapshots().unwrap().create(&SnapshotInfo::default())).unwrap()
        };
        let first = make(&node);
        let kept = model.clone();
        put(&node, &mut model, 100_000, 300_000, 2);
        let second = make(&node);
        put(&node, &mut model, 50_001, 5000, 3);
        // In the middle of a cluster, and of a sector's cluster.
        resize(&node, 600_064);
        model.truncate(600_064);
        assert!(contents(&node) == model, "{format}: shrunk");
        resize(&node, SIZE as u64);
        model.resize(SIZE, 0);
        assert!(contents(&node) == model, "{format}: grown again, with nothing of before");
        block_on(node.driver().snapshots().unwrap().delete(&second)).unwrap();
        assert!(contents(&node) == model, "{format}: without the second snapshot");
        // Into what became free.
        put(&node, &mut model, 700_000, 300_000, 4);
        block_on(node.driver().snapshots().unwrap().apply(&first)).unwrap();
        model.clone_from(&kept);
        assert!(contents(&node) == model, "{format}: the first snapshot");
        block_on(node.driver().snapshots().unwrap().delete(&first)).unwrap();
        assert_eq!(snapshots(&node), 0);
        resize(&node, 300_032);
        model.truncate(300_032);
        put(&node, &mut model, 299_000, 1032, 5);
        let check = block_on(node.driver().check(Repair::default())).unwrap();
        assert_eq!((check.corruptions, check.leaks), (0, 0), "{format}: {:?}", check.messages);
        block_on(node.close()).unwrap();
        assert!(theirs(&folder, &path) == model, "{format}: as they read it");
        // And they do the same: make, write, shrink, delete.
        let image = format!("driver=qcow2,file.driver=file,file.filename={path},encrypt.key-secret=s");
        let secret = ["--object", "secret,id=s,data=secret", "--image-opts"];
        let img = |command: &str, before: &[&str], after: &[&str]| {
            let args: Vec<&str> = [command]
                .iter()
                .chain(&secret)
                .chain(before)
                .chain(&[image.as_str()])
                .chain(after)
                .copied()
                .collect();
            folder.theirs("qemu-img", &args);
        };
        img("snapshot", &["-c", "theirs"], &[]);
        their_io(&folder, &path, &["write -P 6 4096 200000"]);
        img("resize", &["--shrink"], &["204800"]);
        img("snapshot", &["-d", "theirs"], &[]);
        model.truncate(204_800);
        model[4096..204_096].fill(6);
        let node = open(&registry, &path);
        assert!(contents(&node) == model, "{format}: what they left");
        block_on(node.close()).unwrap();
    }
}

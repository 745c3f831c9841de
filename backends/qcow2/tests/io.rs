//! Random operations on images of all shapes, against a flat model; then Debian's tools look at the image.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rhea_async_io::{IoVector, block_on};
use rhea_block::{
    BlockNode, OpenFlags, Preallocation, Progress, Registry, Repair, SnapshotInfo, Truncate, WriteFlags,
};
use rhea_options::Options;
use rhea_qcow2::Qcow2Driver;

fn registry() -> Registry {
    let mut registry = Registry::new();
    registry.add(rhea_block::FileDriver);
    registry.add(rhea_block::RawDriver);
    registry.add(Qcow2Driver);
    registry
}

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("rhea-qcow2-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tool(name: &str) -> bool {
    let there = Path::new("/usr/bin").join(name).exists();
    if !there {
        println!("skipped: {name} is not installed");
    }
    there
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

fn create(registry: &Registry, filename: &str, options: &str) {
    let options = Options::parse(options, None).unwrap();
    block_on(registry.create("qcow2", filename, options, &Progress::new())).unwrap();
}

fn open(registry: &Registry, filename: &str) -> Arc<BlockNode> {
    block_on(registry.open(filename, Some("qcow2"), OpenFlags::UNMAP)).unwrap()
}

fn read(node: &Arc<BlockNode>, offset: u64, len: usize) -> Vec<u8> {
    let mut data = IoVector::zeroed(len);
    block_on(node.read(offset, &mut data)).unwrap();
    data.to_vec()
}

#[derive(Debug, Clone)]
enum Op {
    Write(u64, u64, u8),
    Zero(u64, u64, bool),
    Discard(u64, u64),
    Compressed(u64, u8),
    Flush,
    Reopen,
    Truncate(u64),
    Snapshot,
    Apply,
    Delete,
}

#[derive(Debug, Clone)]
struct Shape {
    options: String,
    cluster: u64,
    size: u64,
    backing: bool,
    /// Open with small caches, lazy refcounts…
    open: &'static str,
    external: bool,
    snapshots: bool,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let kind = prop_oneof![
        5 => Just(""),
        2 => Just("compat=0.10"),
        2 => Just("extended_l2=on"),
        1 => Just("lazy_refcounts=on"),
        1 => Just("data_file"),
        1 => Just("data_file_raw"),
        1 => Just("compression_type=zstd"),
    ];
    (kind, 9u32..=17, 0u32..=6, any::<bool>(), 0usize..4, 1u64..=40).prop_map(
        |(kind, bits, order, backing, open, clusters)| {
            let extended = kind == "extended_l2=on";
            let bits = if extended { bits.max(14) } else { bits };
            let order = if kind == "compat=0.10" { 4 } else { order };
            let external = kind.starts_with("data_file");
            let backing = backing && kind != "data_file_raw";
            let cluster = 1u64 << bits;
            let size = (clusters * cluster.max(8192) + 512 * (clusters % 5)).min(3 << 20);
            let open =
                ["", "l2-cache-size=1k,refcount-cache-size=1k", "discard-no-unref=on", "lazy-refcounts=on"]
                    [open];
            let open = if kind == "compat=0.10" && open.contains("on") { "" } else { open };
            let mut options = format!("cluster_size={cluster},refcount_bits={},size={size}", 1 << order);
            if !kind.is_empty() && !external {
                options = format!("{options},{kind}");
            }
            Shape { options, cluster, size, backing, open, external, snapshots: order > 0 && !external }
                .with_raw(kind == "data_file_raw")
        },
    )
}

impl Shape {
    fn with_raw(mut self, raw: bool) -> Self {
        if raw {
            self.options.push_str(",data_file_raw=on");
        }
        self
    }
}

fn ops() -> impl Strategy<Value = Vec<(u8, u32, u32, u8)>> {
    prop::collection::vec((0u8..40, any::<u32>(), any::<u32>(), 1u8..=255), 1..40)
}

fn op_of(raw: (u8, u32, u32, u8), size: u64, cluster: u64) -> Op {
    let (kind, a, b, byte) = raw;
    let offset = u64::from(a) % size;
    let offset = if byte % 3 == 0 { offset / 512 * 512 } else { offset };
    let offset = if byte % 7 == 0 { offset / cluster * cluster } else { offset };
    let max = if b % 3 == 0 { 5 * cluster } else { 5000 };
    let len = (u64::from(b) % max + 1).min(size - offset);
    match kind {
        0..=15 => Op::Write(offset, len, byte),
        16..=20 => Op::Zero(offset, len, b % 2 == 0),
        21..=24 => Op::Discard(offset, (len * 4).min(size - offset)),
        25..=28 => Op::Compressed(offset / cluster * cluster, byte),
        29..=31 => Op::Flush,
        32 | 33 => Op::Reopen,
        34 | 35 => Op::Truncate(
            (size + u64::from(b) % (4 * cluster)).saturating_sub(2 * cluster).max(512) / 512 * 512,
        ),
        36 | 37 => Op::Snapshot,
        38 => Op::Apply,
        _ => Op::Delete,
    }
}

struct Bench {
    registry: Registry,
    image: String,
    open: &'static str,
    node: Option<Arc<BlockNode>>,
    model: Vec<u8>,
    saved: Vec<(String, Vec<u8>)>,
}

impl Bench {
    fn open(&mut self) {
        let more = Options::parse(self.open, None).unwrap();
        let node =
            block_on(self.registry.open_with(&self.image, Some("qcow2"), more, OpenFlags::UNMAP)).unwrap();
        self.node = Some(node);
    }

    fn close(&mut self) {
        block_on(self.node.take().unwrap().close()).unwrap();
    }

    fn node(&self) -> &Arc<BlockNode> {
        self.node.as_ref().unwrap()
    }

    fn apply(&mut self, op: &Op, shape: &Shape) {
        let node = self.node().clone();
        match *op {
            Op::Write(offset, len, byte) => {
                let data: Vec<u8> = (0..len).map(|i| byte.wrapping_add((i / 7) as u8)).collect();
                block_on(node.write(offset, &IoVector::from_slice(&data), WriteFlags::empty())).unwrap();
                self.model[offset as usize..(offset + len) as usize].copy_from_slice(&data);
            }
            Op::Zero(offset, len, unmap) => {
                let flags = if unmap { WriteFlags::MAY_UNMAP } else { WriteFlags::empty() };
                block_on(node.write_zeroes(offset, len, flags)).unwrap();
                self.model[offset as usize..(offset + len) as usize].fill(0);
            }
            Op::Discard(offset, len) => {
                block_on(node.discard(offset, len)).unwrap();
                // What a discarded byte reads as is the image's choice: the old byte, zero, or (version 2) what is behind.
                let now = read(&node, offset, len as usize);
                let range = offset as usize..(offset + len) as usize;
                for (new, old) in now.iter().zip(&self.model[range.clone()]) {
                    assert!(new == old || *new == 0 || shape.backing, "a discarded byte became {new}");
                }
                self.model[range].copy_from_slice(&now);
            }
            Op::Compressed(offset, byte) => {
                if shape.external {
                    return;
                }
                let len = shape.cluster.min(self.model.len() as u64 - offset);
                let data: Vec<u8> = (0..len).map(|i| byte.wrapping_add((i / 50) as u8)).collect();
                block_on(node.write_compressed(offset, &IoVector::from_slice(&data))).unwrap();
                self.model[offset as usize..(offset + len) as usize].copy_from_slice(&data);
            }
            Op::Flush => block_on(node.flush()).unwrap(),
            Op::Reopen => {
                drop(node);
                self.close();
                self.open();
            }
            Op::Truncate(size) => {
                if shape.options.contains("0.10") && !self.saved.is_empty() {
                    return;
                }
                let how = Truncate { exact: true, preallocation: Preallocation::Off, zero: false };
                block_on(node.truncate(size, how)).unwrap();
                self.model.resize(size as usize, 0);
            }
            Op::Snapshot => {
                if shape.snapshots && self.saved.len() < 3 && !shape.options.contains("refcount_bits=2,") {
                    let wanted = SnapshotInfo { name: "s".into(), ..SnapshotInfo::default() };
                    let id = block_on(node.driver().snapshots().unwrap().create(&wanted)).unwrap();
                    self.saved.push((id, self.model.clone()));
                }
            }
            Op::Apply => {
                if let Some((id, model)) = self.saved.last().cloned() {
                    block_on(node.driver().snapshots().unwrap().apply(&id)).unwrap();
                    self.model = model;
                }
            }
            Op::Delete => {
                if !self.saved.is_empty() {
                    let (id, _) = self.saved.remove(0);
                    block_on(node.driver().snapshots().unwrap().delete(&id)).unwrap();
                }
            }
        }
    }

    fn verify(&self) {
        assert_eq!(self.node().length(), self.model.len() as u64);
        let data = read(self.node(), 0, self.model.len());
        if let Some(at) = data.iter().zip(&self.model).position(|(a, b)| a != b) {
            panic!("byte {at:#x} is {:#x}, should be {:#x}", data[at], self.model[at]);
        }
    }
}

fn check(node: &Arc<BlockNode>) {
    let result = block_on(node.driver().check(Repair::default())).unwrap();
    assert_eq!((result.corruptions, result.leaks, result.check_errors), (0, 0, 0), "{:#?}", result.messages);
}

fn go(shape: Shape, raw: Vec<(u8, u32, u32, u8)>) {
    let scratch = Scratch::new();
    let registry = registry();
    let image = scratch.file("a.qcow2");
    let mut options = shape.options.clone();
    if shape.external {
        options = format!("{options},data_file={}", scratch.file("data"));
    }
    let mut model = vec![0; shape.size as usize];
    if shape.backing {
        // Longer or shorter than the image.
        let len = if shape.size.is_multiple_of(1024) { shape.size / 2 } else { shape.size + 8192 };
        let bytes: Vec<u8> = (0..len).map(|i| (i / 600 % 200) as u8).collect();
        std::fs::write(scratch.0.join("base.raw"), &bytes).unwrap();
        let n = bytes.len().min(model.len());
        model[..n].copy_from_slice(&bytes[..n]);
        options = format!("{options},backing_file=base.raw,backing_fmt=raw");
    }
    create(&registry, &image, &options);
    let mut bench =
        Bench { registry, image: image.clone(), open: shape.open, node: None, model, saved: vec![] };
    bench.open();
    for raw in raw {
        let op = op_of(raw, bench.model.len() as u64, shape.cluster);
        bench.apply(&op, &shape);
    }
    bench.verify();
    bench.close();
    bench.open = "";
    bench.open();
    bench.verify();
    check(bench.node());
    bench.close();
    if !Path::new("/usr/bin/qemu-img").exists() {
        return;
    }
    let text = run(Command::new("qemu-img").args(["check", "-f", "qcow2", &image]));
    assert!(text.contains("No errors were found"), "{text}");
    let flat = scratch.file("flat");
    std::fs::write(&flat, &bench.model).unwrap();
    let text = run(Command::new("qemu-img").args(["compare", "-f", "qcow2", "-F", "raw", &image, &flat]));
    assert!(text.contains("Images are identical"), "{text}");
    for (id, model) in &bench.saved {
        if model.len() != bench.model.len() {
            // Debian's tool shows a snapshot with the present length.
            continue;
        }
        std::fs::write(&flat, model).unwrap();
        let (of, out) = (format!("snapshot.id={id}"), scratch.file("out"));
        run(Command::new("qemu-img").args(["convert", "-l", &of, "-O", "raw", "-f", "qcow2", &image, &out]));
        assert!(std::fs::read(&out).unwrap() == *model, "snapshot {id}");
    }
}

#[test]
fn random_operations_leave_sound_images_with_the_right_contents() {
    tool("qemu-img");
    let cases = std::env::var("QCOW2_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&(shapes(), ops()), |(shape, raw)| {
        go(shape, raw);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn concurrent_writes_to_one_cluster_all_arrive() {
    let scratch = Scratch::new();
    let registry = registry();
    let image = scratch.file("a.qcow2");
    create(&registry, &image, "size=4M,cluster_size=64k");
    let node = open(&registry, &image);
    let data: Vec<IoVector> =
        (0..256u32).map(|i| IoVector::from_slice(&vec![(i % 255) as u8 + 1; 512])).collect();
    block_on(async {
        let writes = (0..256usize).map(|i| {
            let (node, data) = (node.clone(), &data[i]);
            // Neighbours of one cluster, in a wild order.
            let at = (i * 37 % 256) as u64;
            async move { node.write(at * 512, data, WriteFlags::empty()).await.unwrap() }
        });
        futures_util::future::join_all(writes).await;
    });
    for i in 0..256usize {
        let at = (i * 37 % 256) as u64;
        assert_eq!(read(&node, at * 512, 512), vec![(i % 255) as u8 + 1; 512], "sector {at}");
    }
    block_on(node.flush()).unwrap();
    check(&node);
    block_on(node.close()).unwrap();
}

#[test]
fn images_that_others_made_are_read() {
    if !tool("qemu-img") || !tool("qemu-io") {
        return;
    }
    for options in [
        "cluster_size=512",
        "compat=0.10",
        "extended_l2=on",
        "compression_type=zstd",
        "refcount_bits=1",
        "preallocation=metadata",
        "lazy_refcounts=on,cluster_size=2M",
    ] {
        let scratch = Scratch::new();
        let (image, raw) = (scratch.file("a.qcow2"), scratch.file("a.raw"));
        run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-o", options, &image, "5M"]));
        let mut io = Command::new("qemu-io");
        for command in [
            "write -P 1 0 100k",
            "write -P 2 1M 3k",
            "write -c -P 3 2M 128k",
            "write -c -P 4 2304k 64k",
            "write -z 20k 40k",
            "discard 0 16k",
        ] {
            let awkward = ["512", "2M", "preallocation"].iter().any(|o| options.contains(o));
            if command.contains("-c") && awkward {
                continue;
            }
            io.args(["-c", command]);
        }
        run(io.arg(&image));
        run(Command::new("qemu-img").args(["convert", "-O", "raw", &image, &raw]));
        let node = open(&registry(), &image);
        let flat = std::fs::read(&raw).unwrap();
        assert!(read(&node, 0, flat.len()) == flat, "{options}");
        check(&node);
        block_on(node.close()).unwrap();
        run(Command::new("qemu-img").args(["check", &image]));
    }
}

#[test]
fn every_preallocation_gives_a_disk_of_zeroes() {
    for mode in ["off", "metadata", "falloc", "full"] {
        for more in ["", ",extended_l2=on", ",cluster_size=4k,refcount_bits=64"] {
            let scratch = Scratch::new();
            let image = scratch.file("a.qcow2");
            let registry = registry();
            create(&registry, &image, &format!("size=3M,preallocation={mode}{more}"));
            let node = open(&registry, &image);
            assert!(read(&node, 0, 3 << 20).iter().all(|&b| b == 0));
            check(&node);
            let how =
                Truncate { exact: true, preallocation: Preallocation::from_word(mode).unwrap(), zero: false };
            block_on(node.truncate(5 << 20, how)).unwrap();
            assert!(read(&node, 0, 5 << 20).iter().all(|&b| b == 0));
            check(&node);
            block_on(node.close()).unwrap();
            if tool("qemu-img") {
                run(Command::new("qemu-img").args(["check", &image]));
            }
        }
    }
}

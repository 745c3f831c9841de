//! What a crash leaves of a repair, and of the way down to version 2: the file's writes are cut at every step, and of
//! those since the last flush any may be missing. The disk holds what it held before; an image that was sound still is,
//! and one that was not is no worse than before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use async_trait::async_trait;
use parking_lot::Mutex;
use rhea_async_io::{IoVector, IoView, block_on};
use rhea_block::{
    BlockNode, FileDriver, Limits, MemoryNode, Node, NodeParts, OpenFlags, Progress, RawDriver, Registry,
    Repair, Result, Truncate, WriteFlags,
};
use rhea_options::Options;
use rhea_qcow2::Qcow2Driver;

const CLUSTER: u64 = 4096;
const DISK: u64 = 64 * CLUSTER;

#[derive(Clone)]
enum Step {
    Write(u64, Vec<u8>),
    Length(u64),
    Flush,
    /// The flush that follows has this name.
    Barrier(&'static str),
}

fn apply(bytes: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Write(offset, data) => {
            let end = *offset as usize + data.len();
            bytes.resize(bytes.len().max(end), 0);
            bytes[*offset as usize..end].copy_from_slice(data);
        }
        Step::Length(length) => bytes.resize(*length as usize, 0),
        Step::Flush | Step::Barrier(_) => {}
    }
}

/// A file in memory that keeps a record.
#[derive(Clone, Default)]
struct Recorder {
    bytes: Arc<Mutex<Vec<u8>>>,
    steps: Arc<Mutex<Vec<Step>>>,
}

impl Recorder {
    fn note(&self, step: Step) {
        apply(&mut self.bytes.lock(), &step);
        self.steps.lock().push(step);
    }
}

#[async_trait]
impl Node for Recorder {
    fn limits(&self) -> Limits {
        Limits { native_write: WriteFlags::empty(), ..MemoryNode::default().limits() }
    }

    fn length(&self) -> u64 {
        self.bytes.lock().len() as u64
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        data.write(0, &self.bytes.lock()[offset as usize..][..data.len()]);
        Ok(())
    }

    async fn write(&self, offset: u64, data: IoView<'_>, _: WriteFlags) -> Result<()> {
        self.note(Step::Write(offset, data.to_vec()));
        Ok(())
    }

    async fn truncate(&self, length: u64, _: Truncate) -> Result<()> {
        self.note(Step::Length(length));
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        self.note(Step::Flush);
        Ok(())
    }

    fn wants_debug_events(&self) -> bool {
        true
    }

    async fn debug_event(&self, event: &'static str) {
        if event.starts_with("qcow2_") {
            self.note(Step::Barrier(event));
        }
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Opens the image, over a backing file of fives if it has one.
fn open(file: &Recorder, backed: bool, flags: OpenFlags) -> Result<(Registry, Arc<BlockNode>)> {
    let mut registry = Registry::new();
    registry.add(Qcow2Driver);
    registry.add(RawDriver);
    let place = |name: &str, node: Box<dyn Node>, flags| {
        let (driver_name, filename, backing) = ("memory", String::new(), Arc::default());
        let parts = NodeParts { name: name.into(), driver_name, filename, flags, node, backing };
        registry.remember(&BlockNode::new(parts)).unwrap();
    };
    place("image-file", Box::new(file.clone()), OpenFlags::UNMAP);
    let mut options = Options::parse("driver=qcow2,file=image-file", None).unwrap();
    if backed {
        place("base", Box::new(MemoryNode::new(vec![5; DISK as usize])), OpenFlags::READ_ONLY);
        options.set("backing", "base");
    }
    let node = block_on(registry.open_node(options, flags | OpenFlags::UNMAP, false))?;
    Ok((registry, node))
}

/// A new image, in which some clusters have data and some are zeroes, with and without storage.
fn image(backed: bool) -> Recorder {
    image_with(backed, true)
}

/// The same; `all`: not only zeroes that keep their storage.
fn image_with(backed: bool, all: bool) -> Recorder {
    let number = NEXT.fetch_add(1, Relaxed);
    let path = std::env::temp_dir().join(format!("rhea-crash-repair-{}-{number}", std::process::id()));
    let mut registry = Registry::new();
    registry.add(FileDriver);
    registry.add(Qcow2Driver);
    let more = if backed { ",backing_file=base,backing_fmt=raw" } else { "" };
    let options = Options::parse(&format!("size={DISK},cluster_size={CLUSTER}{more}"), None).unwrap();
    block_on(registry.create("qcow2", path.to_str().unwrap(), options, &Progress::new())).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let file = Recorder { bytes: Arc::new(Mutex::new(bytes)), ..Recorder::default() };
    let (_registry, disk) = open(&file, backed, OpenFlags::empty()).unwrap();
    block_on(async {
        disk.write_bytes(0, &[7; 20 * CLUSTER as usize]).await.unwrap();
        // These keep their storage, and these have none.
        disk.write_zeroes(4 * CLUSTER, 5 * CLUSTER, WriteFlags::empty()).await.unwrap();
        if !all {
            return disk.close().await.unwrap();
        }
        disk.write_zeroes(30 * CLUSTER, 3 * CLUSTER, WriteFlags::empty()).await.unwrap();
        // And free space that is full of sevens.
        disk.flush().await.unwrap();
        disk.discard(10 * CLUSTER, 10 * CLUSTER).await.unwrap();
        disk.close().await.unwrap();
    });
    file.steps.lock().clear();
    file
}

fn contents(disk: &BlockNode) -> Vec<u8> {
    let mut bytes = vec![0; DISK as usize];
    block_on(disk.read_bytes(0, &mut bytes)).unwrap();
    bytes
}

/// Errors that a check finds, and what the disk holds.
fn look(bytes: Vec<u8>, backed: bool) -> (u64, Vec<u8>) {
    let file = Recorder { bytes: Arc::new(Mutex::new(bytes)), ..Recorder::default() };
    let flags = OpenFlags::READ_ONLY | OpenFlags::CHECK;
    let (_registry, disk) = open(&file, backed, flags).expect("a crash leaves an image that opens");
    let check = block_on(disk.driver().check(Repair::default())).unwrap();
    (check.corruptions + check.check_errors, contents(&disk))
}

struct Random(u64);

impl Random {
    fn flip(&mut self) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11 & 1 == 1
    }
}

/// Crashes everywhere. `without`: the flushes of this name do nothing.
fn crash_everywhere(file: &Recorder, backed: bool, act: fn(&BlockNode), seed: u64, without: &[&str]) {
    let mut stable = file.bytes.lock().clone();
    let (errors, before) = look(stable.clone(), backed);
    {
        let (_registry, disk) = open(file, backed, OpenFlags::CHECK).unwrap();
        act(&disk);
        block_on(disk.close()).unwrap();
    }
    let steps = file.steps.lock().clone();
    assert!(steps.iter().any(|step| matches!(step, Step::Write(..))), "something is done");
    let (end, after) = look(file.bytes.lock().clone(), backed);
    assert_eq!(end, 0, "in the end all is right");
    assert!(after == before);
    let mut random = Random(seed);
    let mut pending: Vec<&Step> = vec![];
    for (at, step) in steps.iter().enumerate() {
        match step {
            Step::Flush
                if at > 0 && matches!(steps[at - 1], Step::Barrier(name) if without.contains(&name)) => {}
            Step::Flush => pending.drain(..).for_each(|step| apply(&mut stable, step)),
            Step::Barrier(_) => {}
            _ => pending.push(step),
        }
        // The last ones alone, and any.
        for variant in 0..4 {
            let mut left = stable.clone();
            for (number, step) in pending.iter().enumerate() {
                let last = number + 1 == pending.len();
                if if variant == 0 { last } else { random.flip() } {
                    apply(&mut left, step);
                }
            }
            let (found, now) = look(left, backed);
            assert!(found <= errors, "{found} errors at step {at}");
            assert!(now == before, "the disk differs at step {at}");
        }
    }
}

fn downgrade(disk: &BlockNode) {
    let options = Options::parse("compat=0.10", None).unwrap();
    block_on(disk.driver().amend(options, false, &Progress::new())).unwrap();
}

fn repair(disk: &BlockNode) {
    block_on(disk.driver().check(Repair { leaks: true, errors: true })).unwrap();
}

/// Where the first refcount block is.
fn refcount_block(bytes: &[u8]) -> usize {
    let at = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    at(at(48))
}

/// Refcounts of used clusters are zero: all are made anew.
fn without_refcounts() -> Recorder {
    let file = image(false);
    {
        let mut bytes = file.bytes.lock();
        let block = refcount_block(&bytes);
        bytes[block + 8..block + 40].fill(0);
    }
    file
}

/// Refcounts are too high and too low, in place: leaks, and a cluster that two entries share.
fn with_wrong_refcounts() -> Recorder {
    let file = image(false);
    {
        let mut bytes = file.bytes.lock();
        let block = refcount_block(&bytes);
        // Clusters in use that count twice: their entries must no longer say that they are theirs alone, or be so again.
        for cluster in 5..12 {
            bytes[block + 2 * cluster + 1] = 2;
        }
    }
    file
}

#[test]
fn a_crash_spoils_nothing() {
    for seed in 1..4 {
        crash_everywhere(&image(false), false, downgrade, seed, &[]);
        crash_everywhere(&image(true), true, downgrade, seed, &[]);
        crash_everywhere(&without_refcounts(), false, repair, seed, &[]);
        crash_everywhere(&with_wrong_refcounts(), false, repair, seed, &[]);
    }
}

#[test]
fn without_any_of_the_flushes_a_crash_spoils_an_image() {
    type Case = (&'static str, fn() -> Recorder, bool, fn(&BlockNode), &'static [&'static str]);
    const BEFORE: &str = "qcow2_before_entries";
    const AFTER: &str = "qcow2_after_entries";
    let cases: [Case; 3] = [
        // Zeroes in place, so that nothing else has to come after anything. Either flush would do: the tables in memory
        // are written, and flushed, in between.
        ("downgrade", || image_with(true, false), true, downgrade, &[BEFORE, AFTER]),
        ("downgrade", || image(false), false, downgrade, &[AFTER]),
        ("repair", without_refcounts, false, repair, &["qcow2_before_header"]),
    ];
    let mut missed = vec![];
    for (what, make, backed, act, barrier) in cases {
        let spoils = |seed| {
            std::panic::catch_unwind(|| crash_everywhere(&make(), backed, act, seed, barrier)).is_err()
        };
        if !(1..=20).any(spoils) {
            missed.push((what, barrier));
        }
    }
    assert!(missed.is_empty(), "nobody notices the lack of {missed:?}");
}

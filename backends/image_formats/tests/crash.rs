//! Crashes: the writes of a workload are cut off at every point, and those since the last flush happen or not, as they
//! like. What was flushed must be there, and the metadata whole.

mod support;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView, block_on};
use rhea_block::{
    BlockNode, BlockStatus, Limits, MemoryNode, Node, NodeParts, OpenFlags, Result, Truncate, WriteFlags,
};
use support::*;

#[derive(Debug, Clone)]
enum Op {
    Write(u64, Vec<u8>),
    Length(u64),
    Flush,
    /// The flush that follows has this name.
    Barrier(&'static str),
}

/// A file in memory that tells what was done to it.
struct Recorder {
    file: MemoryNode,
    log: Arc<Mutex<Vec<Op>>>,
}

#[async_trait]
impl Node for Recorder {
    fn limits(&self) -> Limits {
        self.file.limits()
    }

    fn length(&self) -> u64 {
        self.file.length()
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        self.file.read(offset, data).await
    }

    async fn write(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
        self.log.lock().unwrap().push(Op::Write(offset, data.to_vec()));
        self.file.write(offset, data, flags).await
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        self.log.lock().unwrap().push(Op::Write(offset, vec![0; len as usize]));
        self.file.write_zeroes(offset, len, flags).await
    }

    async fn flush(&self) -> Result<()> {
        self.log.lock().unwrap().push(Op::Flush);
        Ok(())
    }

    async fn block_status(&self, offset: u64, len: u64, want_zero: bool) -> Result<BlockStatus> {
        self.file.block_status(offset, len, want_zero).await
    }

    async fn truncate(&self, length: u64, how: Truncate) -> Result<()> {
        self.log.lock().unwrap().push(Op::Length(length));
        self.file.truncate(length, how).await
    }

    fn wants_debug_events(&self) -> bool {
        true
    }

    async fn debug_event(&self, event: &'static str) {
        self.log.lock().unwrap().push(Op::Barrier(event));
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

async fn open_in_memory(format: &str, bytes: Vec<u8>, flags: OpenFlags) -> (Opened, Arc<Mutex<Vec<Op>>>) {
    let registry = registry();
    let log = Arc::new(Mutex::new(vec![]));
    let file = BlockNode::new(NodeParts {
        name: "file".into(),
        driver_name: "memory",
        filename: String::new(),
        flags: flags & OpenFlags::READ_ONLY,
        node: Box::new(Recorder { file: MemoryNode::new(bytes), log: log.clone() }),
        backing: Arc::default(),
    });
    registry.remember(&file).expect("remembered");
    let options = options(&format!("driver={format},file=file"));
    let node = registry.open_node(options, flags | OpenFlags::UNMAP, false).await.expect("opened");
    (Opened::new(node).await, log)
}

fn apply(file: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write(offset, bytes) => {
            let (at, end) = (*offset as usize, *offset as usize + bytes.len());
            if file.len() < end {
                file.resize(end, 0);
            }
            file[at..end].copy_from_slice(bytes);
        }
        Op::Length(length) => file.resize(*length as usize, 0),
        Op::Flush | Op::Barrier(_) => {}
    }
}

/// What may be read at each byte: the value flushed last, and those written since.
struct Expected {
    flushed: Vec<u8>,
    since: Vec<(usize, usize, u8)>,
}

impl Expected {
    fn check(&self, data: &[u8], what: &str) {
        for (at, (&byte, &flushed)) in data.iter().zip(&self.flushed).enumerate() {
            let written =
                |&&(from, to, value): &&(usize, usize, u8)| (from..to).contains(&at) && value == byte;
            assert!(
                byte == flushed || self.since.iter().find(written).is_some(),
                "{what}: {at:#x} reads {byte:#x}"
            );
        }
    }
}

async fn check_after_crash(format: &str, file: Vec<u8>, expected: &Expected, what: &str) {
    let (opened, _) = open_in_memory(format, file, OpenFlags::READ_ONLY | OpenFlags::CHECK).await;
    let mut data = vec![0; opened.node.length() as usize];
    opened.node.read_bytes(0, &mut data).await.expect(what);
    expected.check(&data, what);
    if let Ok(result) = opened.node.driver().check(Default::default()).await {
        // Not closed: of course. And vdi's counter may be ahead of its map: nothing is lost by that but storage.
        let harmless = |message: &&String| {
            let counts = message.strip_prefix("ERROR: allocated blocks mismatch, is ");
            let ahead = counts.and_then(|counts| {
                let (is, should) = counts.split_once(", should be ")?;
                // The map has fewer blocks than the header counts.
                Some(is.parse::<u64>().ok()? < should.parse::<u64>().ok()?)
            });
            ahead == Some(true) || *message == "ERROR image was not closed correctly"
        };
        let harmless = result.messages.iter().filter(harmless).count() as u64;
        assert_eq!(result.corruptions - harmless, 0, "{what}: {result:?}");
        assert_eq!(result.check_errors, 0, "{what}: {result:?}");
    }
    opened.close().await;
}

/// Crashes at every point of a random workload. `without`: the flushes of this name do nothing.
async fn crash(format: &str, set: &str, seed: u64, without: &str) {
    let folder = Folder::new();
    let file = folder.file("image");
    let size = 2u64 << 20;
    create(&registry(), format, &file, set, size).await;
    let start = std::fs::read(&file).expect("image");
    let (opened, log) = open_in_memory(format, start.clone(), OpenFlags::empty()).await;
    let length = opened.node.length();
    let mut random = Random(seed);
    let mut expected = Expected { flushed: vec![0; length as usize], since: vec![] };
    // What may be expected from each operation of the file on.
    let mut now = vec![0; length as usize];
    let mut stages = vec![(0, expected.flushed.clone(), vec![])];
    for _ in 0..16 {
        let at = random.below(length - 1);
        let len = random.below(100_000).min(length - at);
        let range = at as usize..(at + len) as usize;
        let value = match random.below(5) {
            0 => 0,
            other => other as u8 * 16 + random.below(16) as u8,
        };
        expected.since.push((range.start, range.end, value));
        stages.push((log.lock().unwrap().len(), expected.flushed.clone(), expected.since.clone()));
        match value {
            0 => opened.node.write_zeroes(at, len, WriteFlags::MAY_UNMAP).await.expect("zeroed"),
            _ => opened.node.write_bytes(at, &vec![value; len as usize]).await.expect("written"),
        }
        now[range].fill(value);
        if random.below(4) == 0 {
            opened.node.flush().await.expect("flushed");
            expected = Expected { flushed: now.clone(), since: vec![] };
            stages.push((log.lock().unwrap().len(), now.clone(), vec![]));
        }
    }
    opened.close().await;
    let log = log.lock().unwrap().clone();
    let mut durable = start;
    let mut pending: Vec<&Op> = vec![];
    for (count, op) in log.iter().enumerate() {
        let stage = stages.iter().rev().find(|stage| stage.0 <= count).expect("the first is 0");
        let expected = Expected { flushed: stage.1.clone(), since: stage.2.clone() };
        for (variant, odds) in [(0, 0), (1, 2), (2, 100)] {
            let mut file = durable.clone();
            // None of what was not flushed happened, half of it, all of it.
            pending.iter().filter(|_| random.below(100) < odds * 25).for_each(|op| apply(&mut file, op));
            let what =
                format!("{format} {set} seed {seed}, crash before operation {count}, variant {variant}");
            check_after_crash(format, file, &expected, &what).await;
        }
        match op {
            Op::Flush if count > 0 && matches!(log[count - 1], Op::Barrier(name) if name == without) => {}
            Op::Flush => pending.drain(..).for_each(|op| apply(&mut durable, op)),
            _ => pending.push(op),
        }
    }
}

#[test]
fn a_crash_loses_nothing_that_was_flushed() {
    for (format, sets) in WRITABLE {
        for set in sets.iter().filter(|set| !set.contains("fixed")) {
            block_on(crash(format, set, 1, ""));
        }
    }
}

/// Each flush that these formats share is needed. Not among them are those whose lack spoils nothing that is looked at
/// here: `image_before_root_tables` of qed and qcow, as a new table that is lost reads as zeroes in a file that grew, like
/// the disk before; for the same reason what comes before the tables of qcow, which has no check; those of parallels
/// around its mark of being in use; and those behind a header that was changed by `check` or for another backing
/// file.
#[test]
fn without_any_of_the_flushes_a_crash_spoils_an_image() {
    const BEFORE_LEAF: &str = "image_before_leaf_tables";
    const AFTER: &str = "image_after_tables";
    let small = "cluster_size=4096,table_size=2";
    let cases = [
        ("vdi", "", BEFORE_LEAF),
        ("vdi", "", AFTER),
        ("vpc", "force_size=on", BEFORE_LEAF),
        ("vpc", "force_size=on", AFTER),
        ("qed", small, BEFORE_LEAF),
        ("qed", small, AFTER),
        ("parallels", "cluster_size=4096", BEFORE_LEAF),
        ("parallels", "cluster_size=4096", AFTER),
        ("qcow", "", AFTER),
    ];
    let mut missed = vec![];
    for (format, set, barrier) in cases {
        let spoils = |seed| std::panic::catch_unwind(|| block_on(crash(format, set, seed, barrier))).is_err();
        if !(1..=20).any(spoils) {
            missed.push((format, barrier));
        }
    }
    assert!(missed.is_empty(), "nobody notices the lack of {missed:?}");
}

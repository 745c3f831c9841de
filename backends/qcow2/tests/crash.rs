//! Crashes at every moment: a storage records what is written and flushed, and every state that a crash could leave is
//! opened, checked and read.
//!
//! What a crash leaves: everything before the last flush that had ended, and of what was written since any part, sector
//! by sector. Such an image must have no corruption (leaks are allowed), and each sector of the disk must hold what was
//! flushed last or something that was written since.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use async_trait::async_trait;
use parking_lot::Mutex;
use rhea_async_io::{IoVector, IoView, block_on};
use rhea_block::{
    BackingSlot, BlockNode, BlockStatus, Limits, MemoryNode, Node, NodeParts, OpenFlags, Preallocation,
    Progress, Registry, Repair, Result, SnapshotInfo, StatusFlags, Truncate, WriteFlags,
};
use rhea_options::Options;
use rhea_qcow2::Qcow2Driver;

const SECTOR: usize = 512;

/// What happened to the storage.
#[derive(Clone)]
enum Event {
    Write(usize, Vec<u8>),
    Zero(usize, usize),
    Truncate(usize),
    Flush,
    /// The flush that follows has this name (the crate's `Barrier`).
    Barrier(&'static str),
}

#[derive(Default)]
struct Log {
    bytes: Vec<u8>,
    events: Vec<Event>,
}

impl Log {
    fn add(&mut self, event: Event) {
        apply(&mut self.bytes, &event, &mut |_| true);
        self.events.push(event);
    }
}

/// Applies an event, of writes only the sectors that `keep` wants.
fn apply(bytes: &mut Vec<u8>, event: &Event, keep: &mut dyn FnMut(usize) -> bool) {
    let mut put = |bytes: &mut Vec<u8>, offset: usize, len: usize, data: Option<&[u8]>| {
        let mut at = offset;
        while at < offset + len {
            let end = ((at / SECTOR + 1) * SECTOR).min(offset + len);
            if keep(at / SECTOR) {
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                match data {
                    Some(data) => bytes[at..end].copy_from_slice(&data[at - offset..end - offset]),
                    None => bytes[at..end].fill(0),
                }
            }
            at = end;
        }
    };
    match event {
        Event::Write(offset, data) => put(bytes, *offset, data.len(), Some(data)),
        Event::Zero(offset, len) => put(bytes, *offset, *len, None),
        Event::Truncate(len) => {
            if keep(usize::MAX) {
                bytes.resize(*len, 0);
            }
        }
        Event::Flush | Event::Barrier(_) => {}
    }
}

struct Recorder(Arc<Mutex<Log>>);

#[async_trait]
impl Node for Recorder {
    fn limits(&self) -> Limits {
        Limits {
            growable: true,
            native_write_zeroes: WriteFlags::MAY_UNMAP | WriteFlags::NO_FALLBACK,
            ..Limits::default()
        }
    }

    fn length(&self) -> u64 {
        self.0.lock().bytes.len() as u64
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        let at = offset as usize;
        data.write(0, &self.0.lock().bytes[at..at + data.len()]);
        Ok(())
    }

    async fn write(&self, offset: u64, data: IoView<'_>, _: WriteFlags) -> Result<()> {
        self.0.lock().add(Event::Write(offset as usize, data.to_vec()));
        // Others get their turn between a write and what follows it.
        futures_lite::future::yield_now().await;
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, len: u64, _: WriteFlags) -> Result<()> {
        self.0.lock().add(Event::Zero(offset as usize, len as usize));
        Ok(())
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        // As bad as a discard may be: the bytes are gone.
        let mut log = self.0.lock();
        let end = (offset + len).min(log.bytes.len() as u64);
        if offset < end {
            log.add(Event::Write(offset as usize, vec![0xdd; (end - offset) as usize]));
        }
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        self.0.lock().add(Event::Flush);
        Ok(())
    }

    fn wants_debug_events(&self) -> bool {
        true
    }

    async fn debug_event(&self, event: &'static str) {
        if event.starts_with("qcow2_") {
            self.0.lock().add(Event::Barrier(event));
        }
    }

    async fn block_status(&self, _: u64, len: u64, _: bool) -> Result<BlockStatus> {
        Ok(BlockStatus { len, flags: StatusFlags::DATA | StatusFlags::ALLOCATED, map: None })
    }

    async fn truncate(&self, length: u64, _: Truncate) -> Result<()> {
        self.0.lock().add(Event::Truncate(length as usize));
        Ok(())
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A registry that has a node for the image's file and, below a name, one for its backing file.
fn open(
    file: Box<dyn Node>,
    base: Option<&[u8]>,
    more: &str,
    flags: OpenFlags,
) -> Result<(Registry, Arc<BlockNode>)> {
    let mut registry = Registry::new();
    registry.add(Qcow2Driver);
    registry.add(rhea_block::RawDriver);
    let name = format!("f{}", NEXT.fetch_add(1, Relaxed));
    let place = |name: &str, node: Box<dyn Node>, flags| {
        let parts = NodeParts {
            name: name.into(),
            driver_name: "memory",
            filename: String::new(),
            flags,
            node,
            backing: Arc::<BackingSlot>::default(),
        };
        registry.remember(&BlockNode::new(parts)).unwrap();
    };
    place(&name, file, OpenFlags::UNMAP);
    let mut options = Options::parse(more, None).unwrap();
    options.set("driver", "qcow2");
    options.set("file", &name);
    if let Some(base) = base {
        place(&format!("{name}b"), Box::new(MemoryNode::new(base.to_vec())), OpenFlags::READ_ONLY);
        options.set("backing", &format!("{name}b"));
    }
    let node = block_on(registry.open_node(options, flags, false))?;
    Ok((registry, node))
}

/// An empty image, made in a file of the system's.
fn fresh(options: &str) -> Vec<u8> {
    let path = std::env::temp_dir().join(format!(
        "rhea-crash-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Relaxed)
    ));
    let mut registry = Registry::new();
    registry.add(rhea_block::FileDriver);
    registry.add(Qcow2Driver);
    let name = path.to_str().unwrap();
    let options = Options::parse(options, None).unwrap();
    block_on(registry.create("qcow2", name, options, &Progress::new())).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    bytes
}

/// A sector's contents are told by a number.
fn sector(tag: u32) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    bytes.chunks_exact_mut(4).for_each(|chunk| chunk.copy_from_slice(&tag.to_le_bytes()));
    bytes
}

fn tags(bytes: &[u8]) -> Vec<Option<u32>> {
    bytes
        .chunks_exact(SECTOR)
        .map(|sector| {
            let tag = u32::from_le_bytes(sector[..4].try_into().unwrap());
            sector.chunks_exact(4).all(|c| c == tag.to_le_bytes()).then_some(tag)
        })
        .collect()
}

fn contents(node: &Arc<BlockNode>) -> Vec<u8> {
    let mut data = IoVector::zeroed(node.length() as usize);
    block_on(node.read(0, &mut data)).unwrap();
    data.to_vec()
}

/// A generator of the same numbers each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// What the user of the disk knows, by position in the log.
struct History {
    /// At a position: every sector's contents, flushed.
    flushed: Vec<(usize, Vec<u32>)>,
    /// From a position on, a sector may hold this as well.
    maybe: Vec<(usize, usize, u32)>,
}

/// Sectors at the end of a large disk that are worked on.
const TAIL: u64 = 400;

struct Case {
    create: &'static str,
    open: &'static str,
    base: bool,
    snapshots: bool,
    compressed: bool,
}

struct Workload {
    random: Random,
    node: Option<(Registry, Arc<BlockNode>)>,
    log: Arc<Mutex<Log>>,
    base: Option<Vec<u8>>,
    history: History,
    tag: u32,
    snapshots: Vec<(String, Vec<u32>)>,
}

impl Workload {
    fn node(&self) -> Arc<BlockNode> {
        self.node.as_ref().unwrap().1.clone()
    }

    fn at(&self) -> usize {
        self.log.lock().events.len()
    }

    fn maybe(&mut self, sectors: std::ops::Range<usize>, tag: u32) {
        let at = self.at();
        self.history.maybe.extend(sectors.map(|s| (at, s, tag)));
    }

    fn range(&mut self) -> (u64, u64) {
        let sectors = self.node().length() / SECTOR as u64;
        // Of a disk that is full already, the part behind.
        let first = if sectors > 2 * TAIL { sectors - TAIL } else { 0 };
        let start = first + self.random.below(sectors - first);
        let max = if self.random.below(3) == 0 { 64 } else { 8 };
        (start, (self.random.below(max) + 1).min(sectors - start))
    }

    /// A few requests at a time, then perhaps a flush.
    fn round(&mut self, case: &Case) {
        let count = self.random.below(4) + 1;
        let mut requests = Vec::new();
        let cluster = block_on(self.node().driver().format_info()).unwrap().cluster_size;
        for _ in 0..count {
            let (start, len) = self.range();
            self.tag += 1;
            let tag = self.tag;
            let kind = self.random.below(10);
            let (start, len) = match kind {
                9 if case.compressed => {
                    let length = self.node().length() / SECTOR as u64;
                    let first = start * SECTOR as u64 / cluster * cluster / SECTOR as u64;
                    (first, (cluster / SECTOR as u64).max(1).min(length - first))
                }
                _ => (start, len),
            };
            let tag = if (6..=8).contains(&kind) { 0 } else { tag };
            self.maybe(start as usize..(start + len) as usize, tag);
            requests.push((kind, start * SECTOR as u64, len * SECTOR as u64, tag));
        }
        let node = self.node();
        block_on(async {
            let running = requests.into_iter().map(|(kind, offset, len, tag)| {
                let node = node.clone();
                async move {
                    let data = IoVector::from_slice(&sector(tag).repeat((len as usize) / SECTOR));
                    match kind {
                        6 => node.write_zeroes(offset, len, WriteFlags::empty()).await.unwrap(),
                        7 => node.write_zeroes(offset, len, WriteFlags::MAY_UNMAP).await.unwrap(),
                        8 => node.discard(offset, len).await.unwrap(),
                        9 if case.compressed => node.write_compressed(offset, &data).await.unwrap(),
                        _ => node.write(offset, &data, WriteFlags::empty()).await.unwrap(),
                    }
                }
            });
            futures_util::future::join_all(running).await;
        });
        match self.random.below(12) {
            0..=4 => self.flush(),
            5 => self.reopen(case),
            6 if case.snapshots => self.snapshot(),
            7 if case.snapshots => self.apply(),
            8 if case.snapshots => self.delete(),
            9 => self.resize(),
            _ => {}
        }
    }

    fn now(&self) -> Vec<u32> {
        tags(&contents(&self.node())).into_iter().map(|t| t.expect("whole sectors")).collect()
    }

    fn flush(&mut self) {
        block_on(self.node().flush()).unwrap();
        let now = self.now();
        let at = self.at();
        self.history.flushed.push((at, now));
    }

    fn reopen(&mut self, case: &Case) {
        let (registry, node) = self.node.take().unwrap();
        block_on(node.close()).unwrap();
        drop(registry);
        self.open(case);
        let now = self.now();
        let at = self.at();
        self.history.flushed.push((at, now));
    }

    fn open(&mut self, case: &Case) {
        let storage = Box::new(Recorder(self.log.clone()));
        let opened = open(storage, self.base.as_deref(), case.open, OpenFlags::UNMAP).unwrap();
        self.node = Some(opened);
    }

    fn snapshot(&mut self) {
        if self.snapshots.len() < 2 {
            let now = self.now();
            let node = self.node();
            let wanted = SnapshotInfo::default();
            let id = block_on(node.driver().snapshots().unwrap().create(&wanted)).unwrap();
            self.snapshots.push((id, now));
        }
    }

    fn apply(&mut self) {
        let Some((id, state)) = self.snapshots.last().cloned() else { return };
        let at = self.at();
        self.history.maybe.extend(state.iter().enumerate().map(|(s, tag)| (at, s, *tag)));
        block_on(self.node().driver().snapshots().unwrap().apply(&id)).unwrap();
        self.flush();
    }

    fn delete(&mut self) {
        if let Some((id, _)) = self.snapshots.pop() {
            block_on(self.node().driver().snapshots().unwrap().delete(&id)).unwrap();
        }
    }

    fn resize(&mut self) {
        let length = self.node().length();
        let new =
            (length + self.random.below(40) * 512).saturating_sub(self.random.below(40) * 512).max(8192);
        let (from, to) = (length.min(new), length.max(new).max(1 << 20));
        self.maybe((from / 512) as usize..(to / 512) as usize, 0);
        let how = Truncate { exact: true, preallocation: Preallocation::Off, zero: false };
        block_on(self.node().truncate(new, how)).unwrap();
        self.flush();
    }
}

/// Opens what a crash left, and looks.
fn inspect(bytes: Vec<u8>, at: usize, workload: &Workload, case: &Case) -> std::result::Result<(), String> {
    let history = &workload.history;
    let (since, flushed) =
        history.flushed.iter().rev().find(|(position, _)| *position <= at).expect("flushed at the start");
    let base = workload.base.as_deref();
    let storage = Box::new(MemoryNode::new(bytes));
    let (_registry, node) = open(storage, base, "", OpenFlags::UNMAP | OpenFlags::CHECK)
        .map_err(|e| format!("cannot be opened: {e}"))?;
    let look = |repair| block_on(node.driver().check(repair)).map_err(|e| format!("cannot be checked: {e}"));
    let mut result = look(Repair::default())?;
    let dirty = block_on(node.driver().format_info()).unwrap().dirty;
    if dirty && case.create.contains("lazy") {
        look(Repair { leaks: true, errors: true })?;
        result = look(Repair::default())?;
        if result.leaks != 0 {
            return Err(format!("leaks after a repair: {:?}", result.messages));
        }
    }
    if result.corruptions != 0 || result.check_errors != 0 {
        return Err(format!("corrupt: {:#?}", result.messages));
    }
    let mut allowed: Vec<BTreeSet<u32>> = flushed.iter().map(|tag| BTreeSet::from([*tag])).collect();
    for (position, sector, tag) in &history.maybe {
        if position >= since && *position <= at {
            if allowed.len() <= *sector {
                allowed.resize(*sector + 1, BTreeSet::from([0]));
            }
            allowed[*sector].insert(*tag);
        }
    }
    for (number, tag) in tags(&contents(&node)).iter().enumerate() {
        let fine = match (tag, allowed.get(number)) {
            (Some(tag), Some(allowed)) => allowed.contains(tag),
            (Some(0), None) => true,
            _ => false,
        };
        if !fine {
            return Err(format!("sector {number} holds {tag:?}, allowed are {:?}", allowed.get(number)));
        }
    }
    Ok(())
}

/// What a crash leaves of the writes since the last flush, in several ways: some of them, some of their sectors, only
/// the last ones, all but one.
fn survivors(stable: &[u8], pending: &[Event], random: &mut Random) -> Vec<Vec<u8>> {
    let count = pending.len() as u64;
    let (cut, lost) = (random.below(count), random.below(count));
    (0..4)
        .map(|variant| {
            let mut torn = stable.to_vec();
            for (number, event) in (0..).zip(pending) {
                let lucky = random.below(2) == 0;
                apply(&mut torn, event, &mut |_| match variant {
                    0 => lucky,
                    1 => random.below(2) == 0,
                    2 => number >= cut,
                    _ => number != lost,
                });
            }
            torn
        })
        .collect()
}

/// Works, crashes everywhere, and looks. `without`: the flushes of this name do nothing. How often the refcount table
/// grew.
fn run(case: &Case, seed: u64, rounds: usize, without: &str) -> std::result::Result<usize, String> {
    let size = if case.create.contains("size=1978k") { "" } else { "size=96k," };
    let bytes = fresh(&format!("{size}{}", case.create));
    let log = Arc::new(Mutex::new(Log { bytes: bytes.clone(), events: Vec::new() }));
    let base = case.base.then(|| (0..128u32).flat_map(|i| sector(0x1000_0000 + i)).collect::<Vec<u8>>());
    let history = History { flushed: Vec::new(), maybe: Vec::new() };
    let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut workload = Workload { random, node: None, log, base, history, tag: 0, snapshots: vec![] };
    workload.open(case);
    if size.is_empty() {
        let longer = workload.node().length() + TAIL * SECTOR as u64;
        block_on(workload.node().truncate(longer, Truncate::default())).unwrap();
    }
    workload.flush();
    for _ in 0..rounds {
        workload.round(case);
    }
    let events = workload.log.lock().events.clone();
    let mut random = Random(seed + 77);
    let first = workload.history.flushed[0].0;
    let mut stable = bytes;
    let mut flushed_at = 0;
    let mut state = stable.clone();
    for (at, event) in events.iter().enumerate() {
        apply(&mut state, event, &mut |_| true);
        let left_out = at > 0 && matches!(events[at - 1], Event::Barrier(name) if name == without);
        if matches!(event, Event::Flush) && !left_out {
            stable = state.clone();
            flushed_at = at + 1;
        }
        if at + 1 < first {
            continue;
        }
        let position = at + 1;
        let what = format!("{} {} seed {seed}", case.create, case.open);
        inspect(state.clone(), position, &workload, case)
            .map_err(|problem| format!("{what}: crash after event {position}: {problem}"))?;
        // Something of what was written since the flush, and not all of it.
        if flushed_at == position || matches!(event, Event::Barrier(_)) {
            continue;
        }
        for torn in survivors(&stable, &events[flushed_at..position], &mut random) {
            inspect(torn, position, &workload, case)
                .map_err(|problem| format!("{what}: part of events {flushed_at}..{position}: {problem}"))?;
        }
    }
    let grew = |event: &&Event| matches!(event, Event::Barrier("qcow2_before_refcount_switch"));
    Ok(events.iter().filter(grew).count())
}

const CASES: [Case; 8] = [
    Case { create: "cluster_size=4k", open: "", base: true, snapshots: true, compressed: true },
    Case {
        create: "cluster_size=512",
        open: "pass-discard-other=on",
        base: false,
        snapshots: true,
        compressed: true,
    },
    Case {
        create: "cluster_size=512,refcount_bits=64",
        open: "",
        base: true,
        snapshots: false,
        compressed: false,
    },
    Case {
        create: "cluster_size=1k,refcount_bits=1",
        open: "",
        base: true,
        snapshots: false,
        compressed: true,
    },
    Case {
        create: "cluster_size=16k,extended_l2=on",
        open: "",
        base: true,
        snapshots: true,
        compressed: true,
    },
    Case {
        create: "cluster_size=4k,lazy_refcounts=on",
        open: "",
        base: true,
        snapshots: false,
        compressed: true,
    },
    Case { create: "cluster_size=2k,compat=0.10", open: "", base: false, snapshots: false, compressed: true },
    Case {
        create: "cluster_size=512",
        open: "l2-cache-size=1k,refcount-cache-size=1k",
        base: true,
        snapshots: false,
        compressed: true,
    },
];

#[test]
fn no_crash_corrupts_an_image_or_loses_what_was_flushed() {
    let seeds = std::env::var("QCOW2_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    for seed in 1..=seeds {
        for case in &CASES {
            run(case, seed, 12, "").unwrap();
        }
    }
}

/// The flushes that keep an order, each of which a crash can show to be needed.
const BARRIERS: [&str; 6] = [
    "qcow2_before_entries",
    "qcow2_after_entries",
    "qcow2_before_refcount_table",
    "qcow2_before_l1_switch",
    "qcow2_before_header",
    "qcow2_after_header",
];

#[test]
fn without_any_of_the_flushes_a_crash_corrupts_an_image() {
    let mut missed = vec![];
    for barrier in BARRIERS {
        let found =
            (1..=40).find_map(|seed| CASES.iter().find_map(|case| run(case, seed, 12, barrier).err()));
        match found {
            Some(problem) => println!("without {barrier}: {problem}"),
            None => missed.push(barrier),
        }
    }
    assert!(missed.is_empty(), "nobody notices the lack of {missed:?}");
}

/// An image whose refcount table is all but full: one cluster of 64 entries, for blocks of 64 clusters of 512 bytes.
const FULL: Case = Case {
    create: "size=1978k,cluster_size=512,refcount_bits=64,preallocation=metadata",
    open: "discard-no-unref=off",
    base: false,
    snapshots: false,
    compressed: true,
};

#[test]
fn no_crash_corrupts_an_image_whose_refcount_table_grows() {
    let mut grown = 0;
    for seed in 1..=2 {
        grown += run(&FULL, seed, 8, "").unwrap();
    }
    assert!(grown > 0, "the workload is too small");
}

#[test]
fn without_the_flush_before_the_refcount_table_grows_a_crash_corrupts_an_image() {
    let problem = (1..=10).find_map(|seed| run(&FULL, seed, 8, "qcow2_before_refcount_switch").err());
    println!("{}", problem.expect("nobody notices"));
}

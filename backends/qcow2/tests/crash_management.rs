//! What a crash leaves of changes of the image as a whole: snapshots, bitmaps, refcount widths, repairs.
//!
//! A file that records writes and flushes is cut at every step; of what was written after the last flush any sectors
//! may be missing. Whatever is left opens, checks without an error, and its disk, snapshots and bitmaps are those of
//! before the change under way or after it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rhea_async_io::{IoVector, IoView, block_on};
use rhea_block::{
    BlockNode, CreateContext, DirtyBitmap, Driver, DriverKind, Limits, MemoryNode, Node, OpenContext,
    OpenFlags, Progress, Registry, Repair, Result, SnapshotInfo, Truncate, WriteFlags,
};
use rhea_options::Options;
use rhea_qcow2::Qcow2Driver;

const SECTOR: usize = 512;
const UNIT: u64 = 4096;
const DISK: u64 = 128 << 10;

#[derive(Debug, Clone)]
enum Step {
    Write(u64, Vec<u8>),
    Length(u64),
    Flush,
    /// Request number so-and-so has begun.
    Begun(usize),
    /// It has ended, and what it did is safe.
    Safe(usize),
}

/// A file in memory that keeps a record.
#[derive(Clone, Default)]
struct Recorder {
    bytes: Arc<Mutex<Vec<u8>>>,
    steps: Arc<Mutex<Vec<Step>>>,
}

impl Recorder {
    fn note(&self, step: Step) {
        apply(&mut self.bytes.lock().unwrap(), &step);
        self.steps.lock().unwrap().push(step);
    }
}

#[async_trait]
impl Node for Recorder {
    fn limits(&self) -> Limits {
        Limits { native_write: WriteFlags::empty(), ..MemoryNode::default().limits() }
    }

    fn length(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        data.write(0, &self.bytes.lock().unwrap()[offset as usize..][..data.len()]);
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

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

fn apply(bytes: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Write(offset, data) => {
            let end = *offset as usize + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*offset as usize..end].copy_from_slice(data);
        }
        Step::Length(length) => bytes.resize(*length as usize, 0),
        Step::Flush | Step::Begun(_) | Step::Safe(_) => {}
    }
}

/// The protocol that images are created in: one file, whatever its name.
struct RecorderDriver(Recorder);

#[async_trait]
impl Driver for RecorderDriver {
    fn name(&self) -> &'static str {
        "file"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Protocol
    }

    async fn open(&self, _: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        options.take::<String>("filename")?;
        Ok(Box::new(self.0.clone()))
    }

    async fn create(&self, _: &CreateContext<'_>, _: &str, _: Options) -> Result<()> {
        Ok(())
    }
}

fn registry(file: &Recorder) -> Registry {
    let mut registry = Registry::new();
    registry.add(Qcow2Driver);
    registry.add(RecorderDriver(file.clone()));
    registry
}

fn open(file: &Recorder, flags: OpenFlags) -> Result<Arc<BlockNode>> {
    block_on(registry(file).open("image", Some("qcow2"), flags))
}

/// Positions and lengths are in units of 4 KiB.
#[derive(Debug, Clone)]
enum Request {
    Write(u64, u64, u8),
    Zero(u64, u64),
    Discard(u64, u64),
    Flush,
    Make,
    Apply(usize),
    Remove(usize),
    Store(u8, u64),
    Drop(u8),
    Width(u32),
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    let place = || (0..DISK / UNIT, 1..6_u64).prop_map(|(at, len)| (at, len.min(DISK / UNIT - at)));
    let request = prop_oneof![
        4 => (place(), 1..=255_u8).prop_map(|((at, len), fill)| Request::Write(at, len, fill)),
        1 => place().prop_map(|(at, len)| Request::Zero(at, len)),
        // Whole clusters: of others a discard leaves what it likes.
        1 => place().prop_map(|(at, len)| Request::Discard(at / 4 * 4, len.next_multiple_of(4))),
        1 => Just(Request::Flush),
        3 => Just(Request::Make),
        2 => (0..5usize).prop_map(Request::Apply),
        2 => (0..5usize).prop_map(Request::Remove),
        2 => (0..2u8, 0..DISK / UNIT).prop_map(|(name, bit)| Request::Store(name, bit)),
        1 => (0..2u8).prop_map(Request::Drop),
        1 => (3..=6u32).prop_map(Request::Width),
    ];
    proptest::collection::vec(request, 1..10)
}

type Units = BTreeMap<u64, u8>;

/// What an image holds.
#[derive(Debug, Clone, Default, PartialEq)]
struct State {
    disk: Units,
    snapshots: BTreeMap<String, Units>,
    bitmaps: BTreeMap<String, Vec<u64>>,
}

/// The states that may be found once a request has begun: those since the last one that was safe.
type History = Vec<Vec<State>>;

/// Carries a request out; whether what it and its predecessors did is safe then.
async fn carry_out_one(disk: &BlockNode, request: &Request, state: &mut State) -> bool {
    let (snapshots, bitmaps) = (disk.driver().snapshots().unwrap(), disk.driver().bitmaps().unwrap());
    let chosen = |which: &usize| state.snapshots.keys().nth(which % state.snapshots.len().max(1)).cloned();
    match request {
        Request::Write(at, len, fill) => {
            disk.write_bytes(at * UNIT, &vec![*fill; (len * UNIT) as usize]).await.unwrap();
            state.disk.extend((*at..at + len).map(|unit| (unit, *fill)));
            return false;
        }
        Request::Zero(at, len) => {
            disk.write_zeroes(at * UNIT, len * UNIT, WriteFlags::MAY_UNMAP).await.unwrap();
            state.disk.extend((*at..at + len).map(|unit| (unit, 0)));
            return false;
        }
        Request::Discard(at, len) => {
            disk.discard(at * UNIT, len * UNIT).await.unwrap();
            state.disk.extend((*at..at + len).map(|unit| (unit, 0)));
            return false;
        }
        Request::Flush => disk.flush().await.unwrap(),
        Request::Make => {
            let id = snapshots.create(&SnapshotInfo::default()).await.unwrap();
            state.snapshots.insert(id, state.disk.clone());
        }
        Request::Apply(which) => {
            let Some(id) = chosen(which).filter(|_| state.bitmaps.is_empty()) else { return false };
            snapshots.apply(&id).await.unwrap();
            state.disk = state.snapshots[&id].clone();
        }
        Request::Remove(which) => {
            let Some(id) = chosen(which) else { return false };
            snapshots.delete(&id).await.unwrap();
            state.snapshots.remove(&id);
        }
        Request::Store(name, bit) => {
            let mut bitmap = DirtyBitmap::new(&format!("bitmap{name}"), UNIT, DISK).unwrap();
            bitmap.enabled = false;
            bitmap.set(bit * UNIT, 1);
            bitmaps.store(&bitmap).await.unwrap();
            state.bitmaps.insert(bitmap.name().to_owned(), bitmap.words().to_vec());
        }
        Request::Drop(name) => {
            let name = format!("bitmap{name}");
            if state.bitmaps.remove(&name).is_none() {
                return false;
            }
            bitmaps.remove(&name).await.unwrap();
        }
        Request::Width(order) => {
            let options = Options::parse(&format!("refcount_bits={}", 1 << order), None).unwrap();
            disk.driver().amend(options, false, &Progress::new()).await.unwrap();
        }
    }
    true
}

fn carry_out(file: &Recorder, requests: &[Request]) -> History {
    let mut disk = open(file, OpenFlags::UNMAP).unwrap();
    let mut state = State::default();
    let mut possible = vec![state.clone()];
    let mut history = vec![];
    for (number, request) in requests.iter().enumerate() {
        file.note(Step::Begun(number));
        let safe = block_on(carry_out_one(&disk, request, &mut state));
        possible.push(state.clone());
        history.push(possible.clone());
        if matches!(request, Request::Width(_)) {
            block_on(disk.close()).unwrap();
            disk = open(file, OpenFlags::UNMAP).unwrap();
        }
        if safe {
            file.note(Step::Safe(number));
            possible = vec![state.clone()];
        }
    }
    block_on(disk.close()).unwrap();
    history
}

async fn look(disk: &BlockNode) -> Units {
    let mut bytes = vec![0; DISK as usize];
    disk.read_bytes(0, &mut bytes).await.unwrap();
    let units = bytes.chunks(UNIT as usize).enumerate();
    units
        .map(|(unit, bytes)| {
            // A unit that was half written holds sectors of either kind: it is told by its first.
            (unit as u64, bytes[0])
        })
        .collect()
}

/// Opens what a crash has left, and compares. `possible` are the states it may be in; what was written to the disk since the
/// first of them may be there or not, unit by unit.
fn examine(bytes: Vec<u8>, possible: &[State]) {
    let file = Recorder { bytes: Arc::new(Mutex::new(bytes)), ..Recorder::default() };
    let disk = open(&file, OpenFlags::UNMAP).expect("a crash leaves an image that opens");
    let check = block_on(disk.driver().check(Repair::default())).unwrap();
    assert_eq!((check.corruptions, check.check_errors), (0, 0), "{:?}", check.messages);
    let found = block_on(look(&disk));
    for (unit, value) in found {
        let values: Vec<u8> = possible.iter().map(|s| s.disk.get(&unit).copied().unwrap_or(0)).collect();
        assert!(values.contains(&value), "unit {unit} holds {value}, not one of {values:?}");
    }
    let bitmaps = block_on(async {
        let mut found = BTreeMap::new();
        for bitmap in disk.driver().bitmaps().unwrap().list().await.unwrap() {
            assert!(!bitmap.inconsistent);
            let bits = disk.driver().bitmaps().unwrap().load(&bitmap.name).await.unwrap();
            found.insert(bitmap.name, bits.words().to_vec());
        }
        found
    });
    let ids: Vec<String> = block_on(disk.driver().snapshots().unwrap().list())
        .unwrap()
        .into_iter()
        .map(|snapshot| snapshot.id)
        .collect();
    let fits = |state: &&State| state.bitmaps == bitmaps && state.snapshots.keys().eq(ids.iter());
    let state =
        possible.iter().find(fits).unwrap_or_else(|| panic!("bitmaps {bitmaps:?} and snapshots {ids:?}"));
    block_on(disk.close()).unwrap();
    for (id, units) in &state.snapshots {
        let disk = open(&file, OpenFlags::READ_ONLY).unwrap();
        block_on(disk.driver().snapshots().unwrap().load(id)).unwrap();
        for (unit, value) in block_on(look(&disk)) {
            let expected = units.get(&unit).copied().unwrap_or(0);
            // A snapshot holds what was written before it was made, flushed or not.
            assert_eq!(value, expected, "snapshot {id}, unit {unit}");
        }
        block_on(disk.close()).unwrap();
    }
}

/// If the last write is one of the header: what is left if only half of the first sector was written, the one or the other.
fn torn_header(durable: &[u8], pending: &[Step]) -> Vec<Vec<u8>> {
    const HALF: usize = SECTOR / 2;
    let Some((Step::Write(0, header), before)) = pending.split_last() else { return vec![] };
    let first = header[..HALF.min(header.len())].to_vec();
    let second = header[HALF.min(header.len())..SECTOR.min(header.len())].to_vec();
    let mut whole = durable.to_vec();
    before.iter().for_each(|step| apply(&mut whole, step));
    let mut torn = vec![];
    for half in [Step::Write(0, first), Step::Write(HALF as u64, second)] {
        let mut bytes = whole.clone();
        apply(&mut bytes, &half);
        torn.push(bytes);
    }
    torn
}

/// Cuts the record everywhere; `lost` decides which sectors of the writes since the last flush are missing.
fn replay(file: &Recorder, start: &[u8], history: &History, lost: &[u8]) {
    let steps = file.steps.lock().unwrap().clone();
    let mut durable = start.to_vec();
    let mut pending: Vec<Step> = vec![];
    let (mut begun, mut safe) = (None, None);
    let mut dice = lost.iter().cycle();
    for step in &steps {
        match step {
            Step::Begun(number) => begun = Some(*number),
            Step::Safe(number) => safe = Some(*number),
            Step::Flush => {
                pending.drain(..).for_each(|step| apply(&mut durable, &step));
            }
            Step::Write(..) | Step::Length(_) => pending.push(step.clone()),
        }
        let last = [State::default()];
        let possible = match begun {
            None => &last[..],
            // Nothing has begun since what is safe.
            Some(number) if safe == Some(number) => {
                let states = &history[number];
                &states[states.len() - 1..]
            }
            Some(number) => &history[number],
        };
        for torn in torn_header(&durable, &pending) {
            examine(torn, possible);
        }
        // All of it, and a part.
        let mut whole = durable.clone();
        pending.iter().for_each(|step| apply(&mut whole, step));
        examine(whole, possible);
        if pending.is_empty() {
            continue;
        }
        let mut part = durable.clone();
        for step in &pending {
            match step {
                Step::Write(offset, data) => {
                    for (index, sector) in data.chunks(SECTOR).enumerate() {
                        if dice.next().is_none_or(|d| d % 2 == 0) {
                            apply(&mut part, &Step::Write(offset + (index * SECTOR) as u64, sector.to_vec()));
                        }
                    }
                }
                other => apply(&mut part, other),
            }
        }
        examine(part, possible);
    }
}

#[test]
fn changes_of_the_whole_image_happen_or_not() {
    for options in ["cluster_size=512", "cluster_size=4k,refcount_bits=64", "cluster_size=16k,extended_l2=on"]
    {
        let mut runner =
            TestRunner::new(Config { cases: 40, failure_persistence: None, ..Config::default() });
        let strategy = (requests(), proptest::collection::vec(any::<u8>(), 61));
        runner
            .run(&strategy, |(requests, lost)| {
                let file = Recorder::default();
                let mut create = Options::parse(options, None).unwrap();
                create.set("size", &DISK.to_string());
                block_on(registry(&file).create("qcow2", "image", create, &Progress::new())).unwrap();
                let start = file.bytes.lock().unwrap().clone();
                file.steps.lock().unwrap().clear();
                let history = carry_out(&file, &requests);
                replay(&file, &start, &history, &lost);
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{options}: {error}"));
    }
}

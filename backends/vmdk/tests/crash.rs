//! What a crash leaves: a file that records writes, lengths and flushes is cut at every step; between flushes any part
//! of what was written may be missing, sector by sector. Whatever is left opens, checks without corruption, and has what
//! was flushed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use proptest::prelude::*;
use rhea_async_io::{IoVector, IoView, block_on};
use rhea_block::{
    BlockNode, CreateContext, Driver, DriverKind, Limits, MemoryNode, Node, OpenContext, OpenFlags, Progress,
    Registry, Repair, Result, Truncate, WriteFlags,
};
use rhea_options::Options;
use rhea_vmdk::VmdkDriver;

const SECTOR: usize = 512;

#[derive(Debug, Clone)]
enum Step {
    Write(u64, Vec<u8>),
    Length(u64),
    Flush,
    /// The flush that follows has this name.
    Barrier(&'static str),
    /// The image's user has been told that everything before is safe; the number of the user's request.
    Safe(usize),
}

/// A file in memory that keeps a record.
#[derive(Clone, Default)]
struct Recorder {
    bytes: Arc<Mutex<Vec<u8>>>,
    steps: Arc<Mutex<Vec<Step>>>,
}

#[async_trait]
impl Node for Recorder {
    fn limits(&self) -> Limits {
        MemoryNode::default().limits()
    }

    fn length(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        let bytes = self.bytes.lock().unwrap();
        data.write(0, &bytes[offset as usize..][..data.len()]);
        Ok(())
    }

    async fn write(&self, offset: u64, data: IoView<'_>, _: WriteFlags) -> Result<()> {
        let step = Step::Write(offset, data.to_vec());
        apply(&mut self.bytes.lock().unwrap(), &step);
        self.steps.lock().unwrap().push(step);
        Ok(())
    }

    async fn truncate(&self, length: u64, _: Truncate) -> Result<()> {
        let step = Step::Length(length);
        apply(&mut self.bytes.lock().unwrap(), &step);
        self.steps.lock().unwrap().push(step);
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        self.steps.lock().unwrap().push(Step::Flush);
        Ok(())
    }

    fn wants_debug_events(&self) -> bool {
        true
    }

    async fn debug_event(&self, event: &'static str) {
        self.steps.lock().unwrap().push(Step::Barrier(event));
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
        Step::Flush | Step::Safe(_) | Step::Barrier(_) => {}
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
    registry.add(VmdkDriver);
    registry.add(RecorderDriver(file.clone()));
    registry
}

fn open(file: &Recorder, flags: OpenFlags) -> Result<Arc<BlockNode>> {
    block_on(registry(file).open("image", Some("vmdk"), flags))
}

/// A request of the image's user; positions are in units of 4 KiB.
#[derive(Debug, Clone)]
enum Request {
    Write(u64, u64, u8),
    Zero(u64, u64),
    Flush,
    Reopen,
}

const UNIT: u64 = 4096;
const DISK: u64 = 2 << 20;

fn requests() -> impl Strategy<Value = Vec<Request>> {
    let place = || (0..DISK / UNIT, 1..40_u64).prop_map(|(at, len)| (at, len.min(DISK / UNIT - at)));
    let request = prop_oneof![
        6 => (place(), 1..=255_u8).prop_map(|((at, len), fill)| Request::Write(at, len, fill)),
        1 => place().prop_map(|(at, len)| Request::Zero(at, len)),
        3 => Just(Request::Flush),
        1 => Just(Request::Reopen),
    ];
    proptest::collection::vec(request, 1..16)
}

/// What each unit may hold: the fills since the last flush that was acknowledged, that one's included.
type Allowed = BTreeMap<u64, Vec<u8>>;

/// Carries the requests out, and returns for each the values that units may have once it has begun.
fn carry_out(file: &Recorder, requests: &[Request]) -> Vec<Allowed> {
    let mut disk = open(file, OpenFlags::UNMAP).unwrap();
    let mut allowed = Allowed::new();
    let mut history = vec![];
    for (number, request) in requests.iter().enumerate() {
        let (at, len, fill) = match request {
            Request::Write(at, len, fill) => (*at, *len, *fill),
            Request::Zero(at, len) => (*at, *len, 0),
            _ => (0, 0, 0),
        };
        for unit in at..at + len {
            allowed.entry(unit).or_insert_with(|| vec![0]).push(fill);
        }
        history.push(allowed.clone());
        match request {
            Request::Write(..) => {
                block_on(disk.write_bytes(at * UNIT, &vec![fill; (len * UNIT) as usize])).unwrap();
            }
            Request::Zero(..) => {
                block_on(disk.write_zeroes(at * UNIT, len * UNIT, WriteFlags::MAY_UNMAP)).unwrap();
            }
            Request::Flush => block_on(disk.flush()).unwrap(),
            Request::Reopen => {
                block_on(disk.close()).unwrap();
                disk = open(file, OpenFlags::UNMAP).unwrap();
            }
        }
        if matches!(request, Request::Flush | Request::Reopen) {
            file.steps.lock().unwrap().push(Step::Safe(number));
            for values in allowed.values_mut() {
                *values = vec![*values.last().unwrap()];
            }
        }
    }
    block_on(disk.close()).unwrap();
    history
}

/// Opens what a crash has left, and compares. `safe` is the last flush acknowledged, `begun` the last request begun.
fn examine(bytes: Vec<u8>, history: &[Allowed], requests: &[Request], safe: Option<usize>) {
    let file = Recorder { bytes: Arc::new(Mutex::new(bytes)), ..Recorder::default() };
    let disk = open(&file, OpenFlags::UNMAP).expect("a crash leaves an image that opens");
    let check = block_on(disk.driver().check(Repair::default())).unwrap();
    assert_eq!((check.corruptions, check.check_errors), (0, 0), "{:?}", check.messages);
    // Anything written after the last safe point may be there or not.
    let mut allowed = Allowed::new();
    if let Some(safe) = safe {
        for (unit, values) in &history[safe] {
            allowed.insert(*unit, vec![*values.last().unwrap()]);
        }
    }
    for request in &requests[safe.map_or(0, |s| s + 1)..] {
        let (at, len, fill) = match request {
            Request::Write(at, len, fill) => (*at, *len, *fill),
            Request::Zero(at, len) => (*at, *len, 0),
            _ => continue,
        };
        for unit in at..at + len {
            allowed.entry(unit).or_insert_with(|| vec![0]).push(fill);
        }
    }
    let mut data = vec![0; DISK as usize];
    block_on(disk.read_bytes(0, &mut data)).unwrap();
    for (sector, bytes) in data.chunks(SECTOR).enumerate() {
        let unit = (sector * SECTOR) as u64 / UNIT;
        let allowed = allowed.get(&unit).map_or(&[0][..], |v| v);
        assert!(
            bytes.iter().all(|b| *b == bytes[0]) && allowed.contains(&bytes[0]),
            "unit {unit}: {} is not among {allowed:?}",
            bytes[0]
        );
    }
    // And it goes on working.
    block_on(disk.write_bytes(0, &[0x77; 4096])).unwrap();
    block_on(disk.close()).unwrap();
}

/// A small generator for which sectors survive.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Part of the steps since the last flush: some, or torn, in any order that the storage likes.
fn survive(bytes: &mut Vec<u8>, steps: &[Step], dice: &mut Dice) {
    let mut steps: Vec<&Step> = steps.iter().collect();
    for at in (1..steps.len()).rev() {
        steps.swap(at, (dice.roll() % (at as u64 + 1)) as usize);
    }
    for step in steps {
        match (dice.roll() % 4, step) {
            (0, _) => {}
            (1, Step::Write(offset, data)) => {
                for (index, sector) in data.chunks(SECTOR).enumerate() {
                    if dice.roll() & 1 == 0 {
                        apply(bytes, &Step::Write(offset + (index * SECTOR) as u64, sector.to_vec()));
                    }
                }
            }
            // A length that was set earlier than one that is there already must not cut the file.
            (_, Step::Length(length)) if (*length as usize) < bytes.len() => {}
            (_, step) => apply(bytes, step),
        }
    }
}

/// Carries the requests out, crashes everywhere, and looks. `without`: the flushes of this name do nothing.
fn crash_everywhere(requests: &[Request], zeroed: &str, seed: u64, without: &str) {
    let file = Recorder::default();
    let progress = Progress::new();
    let mut options = Options::default();
    options.set("size", &DISK.to_string());
    options.set("zeroed_grain", zeroed);
    block_on(registry(&file).create("vmdk", "image", options, &progress)).unwrap();
    let mut base = file.bytes.lock().unwrap().clone();
    file.steps.lock().unwrap().clear();
    let history = carry_out(&file, requests);
    let steps = file.steps.lock().unwrap().clone();
    let mut dice = Dice(seed | 1);
    let mut safe = None;
    // Steps since the last flush, and where the file stood at it.
    let mut since = 0;
    for (at, step) in steps.iter().enumerate() {
        match step {
            Step::Safe(number) => safe = Some(*number),
            Step::Barrier(_) => {}
            Step::Flush if at > 0 && matches!(steps[at - 1], Step::Barrier(name) if name == without) => {}
            Step::Flush => {
                steps[since..at].iter().for_each(|step| apply(&mut base, step));
                since = at + 1;
                examine(base.clone(), &history, requests, safe);
            }
            _ => {
                let mut whole = base.clone();
                steps[since..=at].iter().for_each(|step| apply(&mut whole, step));
                examine(whole, &history, requests, safe);
                for _ in 0..3 {
                    let mut torn = base.clone();
                    survive(&mut torn, &steps[since..=at], &mut dice);
                    examine(torn, &history, requests, safe);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_crash_leaves_a_whole_image(requests in requests(), zeroed: bool, seed: u64) {
        crash_everywhere(&requests, if zeroed { "on" } else { "off" }, seed, "");
    }
}

/// Writes to every block, with flushes between.
fn workload() -> Vec<Request> {
    let mut requests = vec![];
    for block in 0..6 {
        requests.push(Request::Write(block * 64 + 3, 20, block as u8 + 1));
        requests.push(Request::Flush);
    }
    requests.push(Request::Zero(0, 16));
    requests.push(Request::Write(64 * 2, 1, 9));
    requests.push(Request::Reopen);
    requests.push(Request::Write(64 * 5, 1, 8));
    requests
}

#[test]
fn writes_to_every_block_with_flushes_between() {
    for zeroed in ["on", "off"] {
        crash_everywhere(&workload(), zeroed, 42, "");
    }
}

#[test]
fn without_any_of_the_flushes_a_crash_spoils_an_image() {
    let mut missed = vec![];
    for barrier in ["vmdk_before_tables", "vmdk_after_tables"] {
        let spoils = |seed: u64| {
            let crash = || crash_everywhere(&workload(), "off", seed * 1000 + 7, barrier);
            std::panic::catch_unwind(crash).is_err()
        };
        if !(1..=30).any(spoils) {
            missed.push(barrier);
        }
    }
    assert!(missed.is_empty(), "nobody notices the lack of {missed:?}");
}

//! Requests that fail in the midst of random work, at every point that has a name (QAPI's BlkdebugEvent): the error is
//! reported, nothing that was acknowledged is lost, and the image is sound afterwards.

mod memory;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use memory::{Memory, UNIT, contents, create, open, unit_of};
use rhea_async_io::{IoVector, block_on};
use rhea_block::{BlockNode, MemoryNode, OpenFlags, Repair, Result, SnapshotInfo, Truncate, WriteFlags};

const DISK: u64 = 9 << 18;
/// Bytes that are written beforehand: the refcount table is nearly full then.
const FILLED: u64 = 115 << 14;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// What each unit of the disk may hold: the last acknowledged, then what requests that failed may have left.
struct Model {
    units: Vec<Vec<u32>>,
    snapshots: Vec<(String, Vec<Vec<u32>>)>,
    failures: u32,
    tag: u32,
}

impl Model {
    fn new() -> Self {
        let units = (0..DISK / UNIT)
            .map(|unit| match unit {
                _ if unit < FILLED / UNIT => vec![0x2000_0000],
                _ if unit < memory::BASE / UNIT => vec![0x4000_0000 + unit as u32],
                _ => vec![0],
            })
            .collect();
        Self { units, snapshots: vec![], failures: 0, tag: 0 }
    }

    fn note(&mut self, result: &Result<()>, at: u64, len: u64, tag: u32) {
        self.failures += u32::from(result.is_err());
        for unit in &mut self.units[at as usize..(at + len) as usize] {
            match result {
                Ok(()) => *unit = vec![tag],
                Err(_) => unit.push(tag),
            }
        }
    }

    fn compare(&self, found: &[Option<u32>], what: &str) {
        assert_eq!(found.len(), self.units.len(), "{what}: the length");
        for (number, (found, allowed)) in found.iter().zip(&self.units).enumerate() {
            let fits = match found {
                Some(tag) => allowed.contains(tag),
                None => allowed.len() > 1,
            };
            assert!(fits, "{what}: unit {number} holds {found:x?}, not one of {allowed:x?}");
        }
    }
}

/// One random request; failures are noted.
fn request(node: &BlockNode, random: &mut Random, model: &mut Model) {
    let units = model.units.len() as u64;
    let at = random.below(units);
    let longest = if random.below(4) == 0 { 400 } else { 12 };
    let len = (random.below(longest) + 1).min(units - at);
    model.tag += 1;
    let tag = model.tag;
    let kind = random.below(16);
    // Only whole clusters can be compressed; of others a discard does nothing.
    let (at, len) = match kind {
        7 | 9 => (at / 2 * 2, len.next_multiple_of(2)),
        _ => (at, len),
    };
    let (offset, bytes) = (at * UNIT, len * UNIT);
    match kind {
        0..=6 => {
            let data = IoVector::from_slice(&unit_of(tag).repeat(len as usize));
            let result = block_on(node.write(offset, &data, WriteFlags::empty()));
            model.note(&result, at, len, tag);
        }
        7 => {
            let data = IoVector::from_slice(&unit_of(tag).repeat(len as usize));
            let result = block_on(node.write_compressed(offset, &data));
            model.note(&result, at, len, tag);
        }
        8 => {
            let result = block_on(node.write_zeroes(offset, bytes, WriteFlags::MAY_UNMAP));
            model.note(&result, at, len, 0);
        }
        9 => {
            let result = block_on(node.discard(offset, bytes));
            model.note(&result, at, len, 0);
        }
        10 => model.failures += u32::from(block_on(node.flush()).is_err()),
        11 => {
            let snapshots = node.driver().snapshots().unwrap();
            match block_on(snapshots.create(&SnapshotInfo::default())) {
                Ok(id) => model.snapshots.push((id, model.units.clone())),
                Err(_) => model.failures += 1,
            }
        }
        12 => {
            let Some((id, units)) = model.snapshots.last().cloned() else { return };
            match block_on(node.driver().snapshots().unwrap().apply(&id)) {
                Ok(()) => model.units = units,
                Err(_) => {
                    model.failures += 1;
                    let length = node.length() / UNIT;
                    model.units.resize(length as usize, vec![0]);
                    for (unit, old) in model.units.iter_mut().zip(units) {
                        unit.extend(old);
                    }
                }
            }
        }
        13 => {
            let Some((id, units)) = model.snapshots.pop() else { return };
            if block_on(node.driver().snapshots().unwrap().delete(&id)).is_err() {
                model.failures += 1;
                let there = block_on(node.driver().snapshots().unwrap().list());
                if there.is_ok_and(|list| list.iter().any(|s| s.id == id)) {
                    model.snapshots.push((id, units));
                }
            }
        }
        14 => {
            let grow = random.below(2) == 0;
            let length = if grow { units + 200 } else { units - 300 };
            let result =
                block_on(node.truncate(length * UNIT, Truncate { exact: true, ..Truncate::default() }));
            model.failures += u32::from(result.is_err());
            if result.is_err() && !grow {
                model.units[length as usize..].iter_mut().for_each(|unit| unit.push(0));
            }
            model.units.resize((node.length() / UNIT) as usize, vec![0]);
        }
        _ => {
            let state = IoVector::from_slice(&unit_of(tag).repeat(8));
            let saved = block_on(node.save_vm_state(random.below(64) * 4096, &state));
            model.failures += u32::from(saved.is_err());
            let mut state = IoVector::zeroed(2048);
            model.failures += u32::from(block_on(node.load_vm_state(0, &mut state)).is_err());
            match contents(node) {
                Ok(found) => model.compare(&found, "while working"),
                Err(_) => model.failures += 1,
            }
        }
    }
}

fn fresh() -> Memory {
    static FRESH: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = FRESH.get_or_init(make_fresh).clone();
    Memory { file: Arc::new(MemoryNode::new(bytes)), ..Memory::default() }
}

fn make_fresh() -> Vec<u8> {
    // Few refcounts to a block, so that the table must grow; few entries to an L2 table.
    let file = create(&format!("size={DISK},cluster_size=512,refcount_bits=64"));
    let (_registry, node) = open(&file, None, OpenFlags::UNMAP).unwrap();
    let data = unit_of(0x2000_0000).repeat((FILLED / UNIT) as usize);
    block_on(node.write_bytes(0, &data)).unwrap();
    block_on(node.close()).unwrap();
    file.file.bytes()
}

/// What is on disk, without whatever memory may still have.
fn examine(file: &Memory, model: &Model, what: &str) {
    let left = Memory { file: Arc::new(MemoryNode::new(file.file.bytes())), ..Memory::default() };
    let (_registry, node) =
        open(&left, None, OpenFlags::UNMAP | OpenFlags::CHECK).unwrap_or_else(|e| panic!("{what}: {e}"));
    let check = block_on(node.driver().check(Repair::default())).unwrap();
    assert_eq!((check.corruptions, check.check_errors), (0, 0), "{what}: {:#?}", check.messages);
    model.compare(&contents(&node).unwrap(), what);
}

/// Works, with a request (of a kind, if one is given) failing at the `nth` time that the event happens. How many requests failed.
fn run(event: &str, kind: &str, errno: i32, nth: u32, seed: u64) -> u32 {
    let what = format!("{event} {kind} {errno} time {nth} seed {seed}");
    let file = fresh();
    let mut rules = format!(
        "inject-error.0.event={event},inject-error.0.errno={errno},inject-error.0.once=on,inject-error.0.state={nth}"
    );
    if !kind.is_empty() {
        rules += &format!(",inject-error.0.iotype={kind}");
    }
    for state in 1..nth {
        rules += &format!(
            ",set-state.{state}.event={event},set-state.{state}.state={state},set-state.{state}.new_state={}",
            state + 1
        );
    }
    let (registry, node) = open(&file, Some(&rules), OpenFlags::UNMAP).unwrap();
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut model = Model::new();
    for _ in 0..60 {
        let before = model.failures;
        request(&node, &mut random, &mut model);
        if model.failures != before {
            // What went wrong is over: it goes on, unless the image knows better.
            match block_on(node.flush()) {
                Ok(()) => examine(&file, &model, &format!("{what}, after the failure")),
                Err(error) => {
                    assert_eq!(error.errno(), libc::ENOMEDIUM, "{what}: {error}");
                    examine(&file, &model, &format!("{what}, given up"));
                    return model.failures;
                }
            }
        }
    }
    // The failure may come as late as here, but once.
    let flushed = block_on(node.flush()).or_else(|_| block_on(node.flush()));
    flushed.unwrap_or_else(|e| panic!("{what}: {e}"));
    examine(&file, &model, &format!("{what}, flushed"));
    let found = contents(&node).or_else(|_| contents(&node));
    model.compare(&found.unwrap(), &what);
    let closed = block_on(node.close());
    drop(registry);
    assert!(closed.is_ok() || model.failures == 0, "{what}: {closed:?}");
    examine(&file, &model, &format!("{what}, closed"));
    model.failures
}

/// The events that work on an image raises, in the format or in the block layer.
const EVENTS: [&str; 36] = [
    "l1_update",
    "l1_grow_alloc_table",
    "l1_grow_write_table",
    "l1_grow_activate_table",
    "l2_load",
    "l2_update",
    "l2_update_compressed",
    "l2_alloc_cow_read",
    "l2_alloc_write",
    "read_aio",
    "read_backing_aio",
    "read_compressed",
    "write_aio",
    "write_compressed",
    "vmstate_load",
    "vmstate_save",
    "cow_read",
    "cow_write",
    "reftable_grow",
    "refblock_load",
    "refblock_update_part",
    "refblock_alloc",
    "refblock_alloc_hookup",
    "refblock_alloc_write",
    "refblock_alloc_write_table",
    "refblock_alloc_switch_table",
    "cluster_alloc",
    "cluster_alloc_bytes",
    "cluster_free",
    "flush_to_os",
    "flush_to_disk",
    "pwritev",
    "pwritev_zero",
    "pwritev_done",
    "l1_shrink_write_table",
    "l1_shrink_free_l2_clusters",
];

#[test]
fn every_event_is_raised() {
    let file = fresh();
    let (_registry, node) = open(&file, None, OpenFlags::UNMAP).unwrap();
    let (mut random, mut model) = (Random(0x9e37_79b9_7f4a_7c15), Model::new());
    (0..300).for_each(|_| request(&node, &mut random, &mut model));
    assert_eq!(model.failures, 0);
    block_on(node.close()).unwrap();
    let raised: BTreeSet<&str> = file.events.lock().unwrap().keys().copied().collect();
    let missing: Vec<&&str> = EVENTS.iter().filter(|event| !raised.contains(*event)).collect();
    assert!(missing.is_empty(), "never raised: {missing:?}; raised: {raised:?}");
}

#[test]
fn a_failure_at_any_event_loses_nothing() {
    let seeds = std::env::var("QCOW2_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let mut silent = vec![];
    let cases = [
        ("", 1, libc::EIO),
        ("flush", 1, libc::EIO),
        ("write", 2, libc::ENOSPC),
        ("flush", 3, libc::EIO),
        ("", 9, libc::ENOSPC),
    ];
    for event in EVENTS {
        let mut failures = 0;
        for (kind, nth, errno) in cases {
            for seed in 1..=seeds {
                failures += run(event, kind, errno, nth, seed);
            }
        }
        // Some things happen rarely.
        let mut seed = seeds;
        while failures == 0 && seed < 30 {
            seed += 1;
            failures += run(event, "", libc::EIO, 1, seed);
        }
        if failures == 0 {
            silent.push(event);
        }
    }
    assert!(silent.is_empty(), "no request failed: {silent:?}");
}

/// A failure while an image is emptied (after `commit`): each unit holds what it held, or what the backing file has.
#[test]
fn a_failure_while_emptying_is_told_and_leaves_a_sound_image() {
    for errno in [libc::EIO, libc::ENOSPC] {
        for kind in ["", "write", "flush"] {
            let what = format!("{errno} {kind}");
            let file = fresh();
            let mut rules = format!(
                "inject-error.0.event=empty_image_prepare,inject-error.0.errno={errno},inject-error.0.once=on"
            );
            if !kind.is_empty() {
                rules += &format!(",inject-error.0.iotype={kind}");
            }
            let (registry, node) = open(&file, Some(&rules), OpenFlags::UNMAP).unwrap();
            let emptied = block_on(node.driver().make_empty());
            let failed = emptied.and(block_on(node.flush())).expect_err(&what);
            assert_eq!(failed.errno(), errno, "{what}");
            let mut model = Model::new();
            for (number, unit) in model.units.iter_mut().enumerate() {
                unit.push(if number as u64 * UNIT < memory::BASE { 0x4000_0000 + number as u32 } else { 0 });
            }
            examine(&file, &model, &what);
            // Once more, and it works.
            block_on(node.driver().make_empty()).unwrap();
            block_on(node.flush()).unwrap();
            for unit in &mut model.units {
                unit.remove(0);
            }
            examine(&file, &model, &format!("{what}, then emptied"));
            drop((node, registry));
        }
    }
}

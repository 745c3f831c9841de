//! Requests whose callers give up: each is polled so many times and dropped, for every number of times there is. What comes
//! after goes its way, nothing else on the disk changes, and the image is sound.

mod memory;

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use memory::{BASE, Memory, UNIT, contents, create, open, unit_of};
use rhea_async_io::{IoVector, block_on};
use rhea_block::{BlockNode, DirtyBitmap, MemoryNode, OpenFlags, Repair, SnapshotInfo, Truncate, WriteFlags};

const DISK: u64 = 1 << 20;

/// What is given up.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// Into clusters of its own, with parts of what is behind.
    Write,
    /// Where no L2 table is yet.
    WriteFar,
    /// Over compressed clusters.
    Overwrite,
    Compressed,
    Zero,
    Discard,
    Flush,
    Grow,
    Shrink,
    Snapshot,
    Apply,
    Delete,
    SaveState,
    Store,
    MakeEmpty,
}

const ACTS: [Act; 15] = [
    Act::Write,
    Act::WriteFar,
    Act::Overwrite,
    Act::Compressed,
    Act::Zero,
    Act::Discard,
    Act::Flush,
    Act::Grow,
    Act::Shrink,
    Act::Snapshot,
    Act::Apply,
    Act::Delete,
    Act::SaveState,
    Act::Store,
    Act::MakeEmpty,
];

async fn act(node: Arc<BlockNode>, act: Act) {
    let data = |tag, units: usize| IoVector::from_slice(&unit_of(tag).repeat(units));
    let truncate = |length| node.truncate(length, Truncate { exact: true, ..Truncate::default() });
    // How it ends does not matter.
    let _ = match act {
        Act::Write => node.write(70 * UNIT + 100, &data(1, 99), WriteFlags::empty()).await,
        Act::WriteFar => node.write(DISK - 30_000, &data(2, 60), WriteFlags::empty()).await,
        Act::Overwrite => node.write(UNIT, &data(3, 20), WriteFlags::empty()).await,
        Act::Compressed => node.write_compressed(16 << 10, &data(4, 32)).await,
        Act::Zero => node.write_zeroes(5 << 10, 9 << 10, WriteFlags::MAY_UNMAP).await,
        Act::Discard => node.discard(5 << 10, 9 << 10).await,
        Act::Flush => {
            let _ = node.write_zeroes(5 << 10, 9 << 10, WriteFlags::MAY_UNMAP).await;
            node.flush().await
        }
        Act::Grow => truncate(DISK * 3).await,
        Act::Shrink => truncate(DISK / 2).await,
        Act::Snapshot => node.driver().snapshots().unwrap().create(&SnapshotInfo::default()).await.map(drop),
        Act::Apply => node.driver().snapshots().unwrap().apply("1").await,
        Act::Delete => node.driver().snapshots().unwrap().delete("1").await,
        Act::SaveState => node.save_vm_state(3 << 20, &data(5, 40)).await,
        Act::Store => {
            let bitmap = DirtyBitmap::new("b", 4096, node.length()).unwrap();
            node.driver().bitmaps().unwrap().store(&bitmap).await
        }
        Act::MakeEmpty => node.driver().make_empty().await,
    };
}

/// An image with compressed and other clusters, some of which a snapshot shares.
fn prepared(slow: bool) -> Memory {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let file = create(&format!("size={DISK},cluster_size=512,refcount_bits=64"));
        let (_registry, node) = open(&file, None, OpenFlags::UNMAP).unwrap();
        block_on(async {
            let tags: Vec<u8> = (0..160u32).flat_map(|unit| unit_of(0x100 + unit)).collect();
            node.write_compressed(0, &IoVector::from_slice(&tags[..4096])).await.unwrap();
            node.write_bytes(4096, &tags[4096..]).await.unwrap();
            node.driver().snapshots().unwrap().create(&SnapshotInfo::default()).await.unwrap();
            node.write_bytes(8192, &unit_of(0x200).repeat(16)).await.unwrap();
            node.close().await.unwrap();
        });
        file.file.bytes()
    });
    Memory { file: Arc::new(MemoryNode::new(bytes.clone())), slow, ..Memory::default() }
}

/// Polls a future `times` times; whether it has ended.
fn poll(future: impl Future<Output = ()>, times: usize) -> bool {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    (0..times).any(|_| {
        // Work of other threads goes on meanwhile.
        std::thread::sleep(std::time::Duration::from_micros(20));
        matches!(future.as_mut().poll(&mut context), Poll::Ready(()))
    })
}

/// What each unit may hold after an act that began, whether or not it ended.
fn allowed(before: &[Option<u32>], act: Act) -> Vec<Vec<Option<u32>>> {
    let base = |unit: usize| (unit < (BASE / UNIT) as usize).then_some(0x4000_0000 + unit as u32);
    before
        .iter()
        .enumerate()
        .map(|(unit, old)| {
            let mut allowed = vec![*old];
            let at = unit as u64 * UNIT;
            let within = |from: u64, len: u64| at + UNIT > from && at < from + len;
            match act {
                Act::Write if within(70 * UNIT + 100, 99 * UNIT) => allowed.extend([None, Some(1)]),
                Act::WriteFar if within(DISK - 30_000, 60 * UNIT) => allowed.extend([None, Some(2)]),
                Act::Overwrite if within(UNIT, 20 * UNIT) => allowed.push(Some(3)),
                Act::Compressed if within(16 << 10, 32 * UNIT) => allowed.push(Some(4)),
                Act::Zero | Act::Discard | Act::Flush if within(5 << 10, 9 << 10) => allowed.push(Some(0)),
                Act::Apply if within(8192, 4096) => allowed.push(Some(0x100 + unit as u32)),
                Act::MakeEmpty => allowed.push(base(unit)),
                _ => {}
            }
            allowed
        })
        .collect()
}

fn compare(found: &[Option<u32>], allowed: &[Vec<Option<u32>>], what: &str) {
    for (unit, (found, allowed)) in found.iter().zip(allowed).enumerate() {
        assert!(allowed.contains(found), "{what}: unit {unit} holds {found:x?}, not one of {allowed:x?}");
    }
}

/// Gives up after `times` polls, and goes on with `next`; whether there was anything to give up.
fn give_up(first: Act, times: usize, next: Act) -> bool {
    let what = format!("{first:?} given up after {times} polls, then {next:?}");
    let file = prepared(true);
    let (registry, node) = open(&file, None, OpenFlags::UNMAP).unwrap();
    let before = contents(&node).unwrap();
    let ended = poll(act(node.clone(), first), times);
    block_on(act(node.clone(), next));
    // Whoever comes after is not held up, and what it is told is true.
    block_on(node.write_bytes(70 * UNIT, &unit_of(9).repeat(2))).unwrap();
    block_on(node.flush()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut allowed: Vec<Vec<Option<u32>>> = allowed(&before, first);
    for (unit, more) in allowed.iter_mut().zip(self::allowed(&before, next)) {
        unit.extend(more);
    }
    allowed[70] = vec![Some(9)];
    allowed[71] = vec![Some(9)];
    compare(&contents(&node).unwrap(), &allowed, &what);
    let crashed = Memory { file: Arc::new(MemoryNode::new(file.file.bytes())), ..Memory::default() };
    block_on(node.close()).unwrap_or_else(|error| panic!("{what}: {error}"));
    drop(registry);
    for file in [crashed, Memory { slow: false, ..file }] {
        let (_registry, node) = open(&file, None, OpenFlags::UNMAP | OpenFlags::CHECK).unwrap();
        let check = block_on(node.driver().check(Repair::default())).unwrap();
        assert_eq!((check.corruptions, check.check_errors), (0, 0), "{what}: {:#?}", check.messages);
        compare(&contents(&node).unwrap(), &allowed, &what);
    }
    !ended
}

#[test]
fn requests_given_up_at_any_point_do_no_harm() {
    for first in ACTS {
        let mut times = 1;
        while give_up(first, times, [Act::Flush, Act::Snapshot, Act::Write, Act::Delete][times % 4]) {
            times += 1;
            assert!(times < 5000, "{first:?} does not end");
        }
        // These two are matters of memory alone.
        assert!(times > 2 || matches!(first, Act::Zero | Act::Discard), "{first:?} ends at once");
    }
}

//! Snapshots, made, applied and removed by us and by Debian's tools in turn: whatever the order, every disk and snapshot
//! holds what it held, and the image is sound.

mod side_by_side;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rhea_async_io::block_on;
use rhea_block::{OpenFlags, Repair, SnapshotInfo, Truncate};
use side_by_side::{Folder, check, open, print, with};

const DISK: u64 = 4 << 20;

#[derive(Debug, Clone)]
enum Step {
    /// Writes by Debian's tools, or ours.
    Write {
        ours: bool,
        at: u64,
        len: u64,
        fill: u8,
    },
    Zero {
        ours: bool,
        at: u64,
        len: u64,
    },
    Discard {
        at: u64,
        len: u64,
    },
    Make,
    /// Which one, and by whom.
    Apply {
        ours: bool,
        which: usize,
    },
    Remove {
        ours: bool,
        which: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let range =
        || (0..DISK / 512, 1..600u64).prop_map(|(at, len)| (at * 512, (len * 512).min(DISK - at * 512)));
    prop_oneof![
        3 => (any::<bool>(), range(), 1..=255u8)
            .prop_map(|(ours, (at, len), fill)| Step::Write { ours, at, len, fill }),
        1 => (any::<bool>(), range()).prop_map(|(ours, (at, len))| Step::Zero { ours, at, len }),
        1 => range().prop_map(|(at, len)| Step::Discard { at, len }),
        2 => Just(Step::Make),
        2 => (any::<bool>(), 0..9usize).prop_map(|(ours, which)| Step::Apply { ours, which }),
        1 => (any::<bool>(), 0..9usize).prop_map(|(ours, which)| Step::Remove { ours, which }),
    ]
}

struct Kept {
    id: String,
    name: String,
    contents: Vec<u8>,
}

fn carry_out(folder: &Folder, options: &str, steps: &[Step]) {
    let path = folder.image("disk", options, &DISK.to_string(), &[]);
    let mut disk = vec![0u8; DISK as usize];
    let mut kept: Vec<Kept> = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Write { ours: true, at, len, fill } => with(&path, OpenFlags::UNMAP, async |node| {
                node.write_bytes(*at, &vec![*fill; *len as usize]).await.unwrap();
            }),
            Step::Write { at, len, fill, .. } => folder.io(&path, &[&format!("write -P {fill} {at} {len}")]),
            Step::Zero { ours: true, at, len } => with(&path, OpenFlags::UNMAP, async |node| {
                node.write_zeroes(*at, *len, Default::default()).await.unwrap();
            }),
            Step::Zero { at, len, .. } => folder.io(&path, &[&format!("write -z {at} {len}")]),
            Step::Discard { at, len } => with(&path, OpenFlags::UNMAP, async |node| {
                node.discard(*at, *len).await.unwrap();
            }),
            Step::Make => {
                let name = format!("name{number}");
                let info =
                    SnapshotInfo { name: name.clone(), date: (1_700_000_000, 5), ..Default::default() };
                let id = with(&path, OpenFlags::UNMAP, async |node| {
                    node.driver().snapshots().unwrap().create(&info).await.unwrap()
                });
                kept.push(Kept { id, name, contents: disk.clone() });
            }
            Step::Apply { ours, which } if !kept.is_empty() => {
                let chosen = &kept[which % kept.len()];
                match ours {
                    true => with(&path, OpenFlags::UNMAP, async |node| {
                        node.driver().snapshots().unwrap().apply(&chosen.id).await.unwrap();
                    }),
                    false => drop(folder.theirs("qemu-img", &["snapshot", "-a", &chosen.name, &path])),
                }
                disk.clone_from(&chosen.contents);
            }
            Step::Remove { ours, which } if !kept.is_empty() => {
                let chosen = kept.remove(which % kept.len());
                match ours {
                    true => with(&path, OpenFlags::UNMAP, async |node| {
                        node.driver().snapshots().unwrap().delete(&chosen.id).await.unwrap();
                    }),
                    false => drop(folder.theirs("qemu-img", &["snapshot", "-d", &chosen.name, &path])),
                }
            }
            Step::Apply { .. } | Step::Remove { .. } => {}
        }
        match step {
            Step::Write { at, len, fill, .. } => disk[*at as usize..(at + len) as usize].fill(*fill),
            Step::Zero { at, len, .. } => disk[*at as usize..(at + len) as usize].fill(0),
            // What a discarded range reads as is the format's choice.
            Step::Discard { .. } => disk = folder.contents(&path, None),
            _ => {}
        }
    }
    let (_, out, err) = folder.run("qemu-img", &["check", "-f", "qcow2", &path]);
    assert!(err.is_empty() && out.starts_with("No errors"), "{err}{out}");
    assert_eq!(print(&check(&path, Repair::default()).unwrap()), (err, out));
    assert!(folder.contents(&path, None) == disk, "the disk differs");
    for snapshot in &kept {
        let theirs = folder.contents(&path, Some(&snapshot.id));
        assert!(theirs == snapshot.contents, "snapshot {} differs", snapshot.id);
        let ours = with(&path, OpenFlags::READ_ONLY, async |node| {
            node.driver().snapshots().unwrap().load(&snapshot.id).await.unwrap();
            let mut bytes = vec![0; DISK as usize];
            node.read_bytes(0, &mut bytes).await.unwrap();
            bytes
        });
        assert!(ours == snapshot.contents, "snapshot {} reads differently", snapshot.id);
    }
}

#[test]
fn snapshots_keep_what_they_hold() {
    let Some(folder) = Folder::new() else { return };
    let all = [
        "cluster_size=64k",
        "cluster_size=512,refcount_bits=64",
        "cluster_size=4k,refcount_bits=4",
        "compat=0.10",
        "extended_l2=on,cluster_size=16k",
        "cluster_size=2M",
        "lazy_refcounts=on",
    ];
    for options in all {
        let mut runner = TestRunner::new(Config { cases: 2, failure_persistence: None, ..Config::default() });
        runner
            .run(&proptest::collection::vec(step(), 1..14), |steps| {
                carry_out(&folder, options, &steps);
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{options}: {error}"));
    }
}

#[test]
fn a_snapshot_of_another_length_brings_its_length_back() {
    let Some(folder) = Folder::new() else { return };
    let path = folder.image("disk", "", "4M", &["write -P 1 3M 1M"]);
    folder.theirs("qemu-img", &["snapshot", "-c", "short", &path]);
    folder.theirs("qemu-img", &["resize", &path, "6G"]);
    folder.io(&path, &["write -P 2 5G 64k"]);
    with(&path, OpenFlags::UNMAP, async |node| {
        node.driver().snapshots().unwrap().apply("1").await.unwrap();
        assert_eq!(node.length(), 4 << 20);
    });
    let out = folder.theirs("qemu-img", &["check", "-f", "qcow2", &path]);
    assert!(out.starts_with("No errors"), "{out}");
    let disk = folder.contents(&path, None);
    assert!(disk.len() == 4 << 20 && disk[3 << 20..].iter().all(|&b| b == 1));
}

#[test]
fn tables_longer_than_a_refcount_block_counts_are_moved() {
    let Some(folder) = Folder::new() else { return };
    let path = folder.image("disk", "cluster_size=512", "4M", &["write -P 1 3M 1M"]);
    with(&path, OpenFlags::UNMAP, async |node| {
        // An L1 table of 10 MiB.
        node.truncate(40 << 30, Truncate { exact: true, ..Truncate::default() }).await.unwrap();
        node.write_bytes(39 << 30, &[2; 4096]).await.unwrap();
        node.driver().snapshots().unwrap().create(&SnapshotInfo::default()).await.unwrap();
    });
    let out = folder.theirs("qemu-img", &["check", "-f", "qcow2", &path]);
    assert!(out.starts_with("No errors"), "{out}");
    folder.io(&path, &["read -P 1 3M 1M", "read -P 2 39G 4k", "read -P 0 20G 4k"]);
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let Some(folder) = Folder::new() else { return };
    let path = folder.image("disk", "refcount_bits=1", "4M", &["write -P 1 0 64k"]);
    let before = std::fs::read(&path).unwrap();
    with(&path, OpenFlags::UNMAP, async |node| {
        let snapshots = node.driver().snapshots().unwrap();
        let error = snapshots.create(&SnapshotInfo::default()).await.unwrap_err();
        assert!(error.to_string().contains("would not fit into 1 bits"), "{error}");
        assert_eq!(snapshots.apply("7").await.unwrap_err().errno(), libc::ENOENT);
        assert_eq!(snapshots.delete("7").await.unwrap_err().errno(), libc::ENOENT);
    });
    let out = folder.theirs("qemu-img", &["check", "-f", "qcow2", &path]);
    assert!(out.starts_with("No errors"), "{out}");
    assert!(std::fs::read(&path).unwrap()[..512] == before[..512]);
}

#[test]
fn the_list_is_that_of_qemu_img() {
    let Some(folder) = Folder::new() else { return };
    let path = folder.image("disk", "", "4M", &["write -P 1 0 64k"]);
    for name in ["a", "b", "c"] {
        folder.theirs("qemu-img", &["snapshot", "-c", name, &path]);
    }
    folder.theirs("qemu-img", &["snapshot", "-d", "b", &path]);
    let disk = open(&path, OpenFlags::UNMAP).unwrap();
    let snapshots = disk.driver().snapshots().unwrap();
    let wanted = SnapshotInfo { name: "d".into(), vm_clock_ns: 3_723_004_000_000, ..Default::default() };
    assert_eq!(block_on(snapshots.create(&wanted)).unwrap(), "4");
    let list = block_on(snapshots.list()).unwrap();
    let names: Vec<_> = list.iter().map(|s| (s.id.as_str(), s.name.as_str(), s.disk_size)).collect();
    assert_eq!(names, [("1", "a", 4 << 20), ("3", "c", 4 << 20), ("4", "d", 4 << 20)]);
    block_on(disk.close()).unwrap();
    let out = folder.theirs("qemu-img", &["snapshot", "-l", &path]);
    assert!(out.lines().last().unwrap().contains("01:02:03.004"), "{out}");
}

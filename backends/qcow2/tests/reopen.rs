//! Images that are reopened: options change, writing ends and begins again, and neither data nor bitmaps nor refcounts
//! suffer, as Debian's tools see it.

mod side_by_side;

use rhea_async_io::block_on;
use rhea_block::{BlockNode, OpenFlags, Repair};
use rhea_options::Options;
use side_by_side::{Bytes, Folder, check, open, with};

const MIB: u64 = 1 << 20;
const READ_WRITE: OpenFlags = OpenFlags::UNMAP;

fn read_only() -> OpenFlags {
    READ_WRITE | OpenFlags::READ_ONLY
}

/// A copy of the file, to look at while it is open.
fn snapshot(folder: &Folder, path: &str) -> String {
    let copy = folder.path("looked-at");
    std::fs::copy(path, &copy).unwrap();
    copy
}

fn sound(folder: &Folder, path: &str) {
    let path = &snapshot(folder, path);
    let (_, out, err) = folder.run("qemu-img", &["check", "-f", "qcow2", path]);
    assert!(err.is_empty() && out.starts_with("No errors"), "{err}{out}");
    let ours = check(path, Repair::default()).unwrap();
    assert_eq!((ours.corruptions, ours.leaks, ours.check_errors), (0, 0, 0), "{:?}", ours.messages);
}

async fn reopen(node: &BlockNode, flags: OpenFlags, options: &str) -> rhea_block::Result<()> {
    let options =
        if options.is_empty() { Options::default() } else { Options::parse(options, None).unwrap() };
    node.reopen(flags, options).await
}

/// Whether the dirty bit (refcounts may be out of date) is set on disk.
fn dirty(path: &str) -> bool {
    Bytes::read(path).u64(72) & 1 != 0
}

#[test]
fn writing_ends_and_begins_again() {
    let Some(folder) = Folder::new() else { return };
    for options in ["", "lazy_refcounts=on", "compat=0.10", "cluster_size=512", "extended_l2=on"] {
        let path = folder.image("disk", options, "8M", &["write -P 1 0 1M"]);
        with(&path, READ_WRITE, async |node| {
            for round in 0..5u8 {
                let at = u64::from(round) * MIB + 1000;
                node.write_bytes(at, &[round + 10; 70_000]).await.unwrap();
                reopen(node, read_only(), "").await.unwrap();
                // All is on the disk, for whoever looks.
                sound(&folder, &path);
                assert!(!dirty(&path), "{options} {round}");
                let disk = folder.contents(&snapshot(&folder, &path), None);
                assert!(disk[at as usize..at as usize + 70_000].iter().all(|&b| b == round + 10));
                assert_eq!(node.write_bytes(0, &[1]).await.unwrap_err().errno(), libc::EPERM);
                assert!(
                    node.discard(0, MIB).await.is_err()
                        && node.write_zeroes(0, MIB, Default::default()).await.is_err()
                );
                let mut back = vec![0; 70_000];
                node.read_bytes(at, &mut back).await.unwrap();
                assert!(back.iter().all(|&b| b == round + 10));
                reopen(node, READ_WRITE, "").await.unwrap();
            }
            node.write_bytes(7 * MIB, &[99; 4096]).await.unwrap();
        });
        sound(&folder, &path);
        let disk = folder.contents(&path, None);
        assert!(disk[7 << 20..(7 << 20) + 4096] == [99; 4096], "{options}");
    }
}

#[test]
fn bitmaps_follow_what_is_written_before_and_after() {
    let Some(folder) = Folder::new() else { return };
    for options in ["", "lazy_refcounts=on", "cluster_size=512"] {
        let path = folder.image("disk", options, "16M", &[]);
        folder.theirs("qemu-img", &["bitmap", "--add", "-g", "64k", &path, "on"]);
        folder.theirs("qemu-img", &["bitmap", "--add", "--disable", &path, "off"]);
        let expected = |places: &[u64]| places.iter().map(|at| (at * MIB, 65536)).collect::<Vec<_>>();
        let found = |path: &str, name: &str| {
            let bitmap = with(&snapshot(&folder, path), OpenFlags::READ_ONLY, async |node| {
                node.driver().bitmaps().unwrap().load(name).await.unwrap()
            });
            assert!(!bitmap.inconsistent, "{name} was not stored");
            let mut runs = vec![];
            while let Some((at, len)) = bitmap.next_dirty(runs.last().map_or(0, |(at, len)| at + len)) {
                runs.push((at, len));
            }
            runs
        };
        let disk = open(&path, READ_WRITE).unwrap();
        block_on(async {
            disk.write_bytes(MIB, &[1; 512]).await.unwrap();
            reopen(&disk, read_only(), "").await.unwrap();
        });
        // Stored when writing ended: others may look at the file now.
        assert_eq!(found(&path, "on"), expected(&[1]), "{options}");
        block_on(async {
            reopen(&disk, READ_WRITE, "").await.unwrap();
            // Nothing was written yet: still stored.
            reopen(&disk, read_only(), "").await.unwrap();
            reopen(&disk, READ_WRITE, "").await.unwrap();
            disk.write_bytes(3 * MIB, &[1; 512]).await.unwrap();
            disk.flush().await.unwrap();
        });
        // What a crash would leave now is known to be out of date.
        let copy = snapshot(&folder, &path);
        let info = folder.theirs("qemu-img", &["info", "-f", "qcow2", &copy]);
        assert!(info.contains("in-use"), "{options}: {info}");
        block_on(async {
            // Options that make lazy refcounts end, and begin, leave bitmaps alone.
            reopen(&disk, READ_WRITE, "lazy-refcounts=off").await.unwrap();
            disk.write_bytes(5 * MIB, &[1; 512]).await.unwrap();
            reopen(&disk, READ_WRITE, "lazy-refcounts=on").await.unwrap();
            disk.write_bytes(7 * MIB, &[1; 512]).await.unwrap();
            disk.close().await.unwrap();
        });
        assert_eq!(found(&path, "on"), expected(&[1, 3, 5, 7]), "{options}");
        assert_eq!(found(&path, "off"), [], "{options}");
        sound(&folder, &path);
        // And by their reckoning.
        let copy = folder.path("mapped");
        std::fs::copy(&path, &copy).unwrap();
        folder.theirs("qemu-img", &["bitmap", "--merge", "on", &copy, "off"]);
        assert_eq!(found(&copy, "off"), expected(&[1, 3, 5, 7]), "{options}");
        // Opened for reading only at first.
        with(&path, OpenFlags::READ_ONLY, async |node| {
            reopen(node, READ_WRITE, "").await.unwrap();
            node.write_bytes(9 * MIB, &[1; 512]).await.unwrap();
        });
        assert_eq!(found(&path, "on"), expected(&[1, 3, 5, 7, 9]), "{options}");
    }
}

#[test]
fn lazy_refcounts_come_and_go() {
    let Some(folder) = Folder::new() else { return };
    let path = folder.image("disk", "", "8M", &[]);
    with(&path, READ_WRITE, async |node| {
        node.write_bytes(0, &[1; 65536]).await.unwrap();
        node.flush().await.unwrap();
        assert!(!dirty(&path));
        reopen(node, READ_WRITE, "lazy-refcounts=on").await.unwrap();
        node.write_bytes(MIB, &[2; 65536]).await.unwrap();
        node.flush().await.unwrap();
        assert!(dirty(&path), "refcounts are written late");
        reopen(node, READ_WRITE, "lazy-refcounts=off").await.unwrap();
        assert!(!dirty(&path), "refcounts are up to date");
        sound(&folder, &path);
        node.write_bytes(2 * MIB, &[3; 65536]).await.unwrap();
        node.flush().await.unwrap();
        assert!(!dirty(&path));
        sound(&folder, &path);
        // A refusal changes nothing.
        for (options, says) in [
            ("lazy-refcounts=on,nonsense=1", "nonsense"),
            ("lazy-refcounts=on,overlap-check=foo", "foo"),
            ("lazy-refcounts=on,l2-cache-size=1M", "l2-cache-size"),
            ("lazy-refcounts=maybe", "lazy-refcounts"),
        ] {
            let error = reopen(node, READ_WRITE, options).await.unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            node.write_bytes(3 * MIB, &[4; 100]).await.unwrap();
            node.flush().await.unwrap();
            assert!(!dirty(&path), "{options}");
        }
    });
    sound(&folder, &path);
}

#[test]
fn a_dirty_image_is_repaired_when_writing_begins() {
    let Some(folder) = Folder::new() else { return };
    let path = folder.image("disk", "lazy_refcounts=on", "8M", &[]);
    let copy = folder.path("crashed");
    with(&path, READ_WRITE, async |node| {
        node.write_bytes(0, &[1; 100_000]).await.unwrap();
        node.flush().await.unwrap();
        std::fs::copy(&path, &copy).unwrap();
    });
    assert!(dirty(&copy));
    with(&copy, OpenFlags::READ_ONLY, async |node| {
        assert!(dirty(&copy), "reading changes nothing");
        reopen(node, READ_WRITE, "").await.unwrap();
        assert!(!dirty(&copy), "repaired");
        node.write_bytes(MIB, &[2; 100_000]).await.unwrap();
    });
    sound(&folder, &copy);
    let disk = folder.contents(&copy, None);
    assert!(
        disk[..100_000].iter().all(|&b| b == 1) && disk[1 << 20..(1 << 20) + 100_000].iter().all(|&b| b == 2)
    );
}

#[test]
fn a_corrupt_image_stays_read_only() {
    let Some(folder) = Folder::new() else { return };
    let path = folder.image("disk", "", "8M", &["write -P 1 0 1M"]);
    let mut bytes = Bytes::read(&path);
    bytes.or64(72, 2);
    bytes.write(&path);
    let disk = open(&path, OpenFlags::READ_ONLY).unwrap();
    let error = block_on(reopen(&disk, READ_WRITE, "")).unwrap_err();
    assert!(error.to_string().contains("Image is corrupt; cannot be opened read/write"), "{error}");
    assert!(disk.is_read_only());
    assert_eq!(block_on(disk.write_bytes(0, &[1])).unwrap_err().errno(), libc::EPERM);
    let mut data = [0; 512];
    block_on(disk.read_bytes(0, &mut data)).unwrap();
    assert_eq!(data, [1; 512]);
    block_on(disk.close()).unwrap();
    assert!(Bytes::read(&path).0 == bytes.0, "nothing was written");
}

#[test]
fn discards_follow_the_options() {
    let Some(folder) = Folder::new() else { return };
    let path = folder.image("disk", "", "8M", &["write -P 1 0 8M"]);
    let blocks = |path: &str| std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(path).unwrap());
    with(&path, READ_WRITE, async |node| {
        reopen(node, READ_WRITE, "pass-discard-request=off").await.unwrap();
        let before = blocks(&path);
        node.discard(0, 2 * MIB).await.unwrap();
        node.flush().await.unwrap();
        assert!(blocks(&path) + 1024 > before, "the file keeps its blocks");
        reopen(node, READ_WRITE, "pass-discard-request=on").await.unwrap();
        let before = blocks(&path);
        node.discard(2 * MIB, 2 * MIB).await.unwrap();
        node.flush().await.unwrap();
        assert!(blocks(&path) + 3072 < before, "the file gives blocks back");
        // The cluster keeps its place.
        reopen(node, READ_WRITE, "discard-no-unref=on").await.unwrap();
        node.discard(4 * MIB, MIB).await.unwrap();
    });
    sound(&folder, &path);
    let map = folder.theirs("qemu-img", &["map", "--output=json", "-f", "qcow2", &path]);
    let kept = map.lines().find(|line| line.contains("\"start\": 4194304,")).unwrap_or(&map);
    assert!(kept.contains("\"zero\": true") && kept.contains("offset"), "{map}");
}

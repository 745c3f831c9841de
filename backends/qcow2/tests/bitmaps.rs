//! Persistent bitmaps, written by one program and read by the other.

mod side_by_side;

use rhea_async_io::block_on;
use rhea_block::{DirtyBitmap, OpenFlags, Repair, Truncate};
use side_by_side::{Folder, check, open, with};

const MIB: u64 = 1 << 20;

fn sound(folder: &Folder, path: &str) {
    let (_, out, err) = folder.run("qemu-img", &["check", "-f", "qcow2", path]);
    assert!(err.is_empty() && out.starts_with("No errors"), "{err}{out}");
    let ours = check(path, Repair::default()).unwrap();
    assert_eq!((ours.corruptions, ours.leaks, ours.check_errors), (0, 0, 0), "{:?}", ours.messages);
}

fn load(path: &str, name: &str) -> DirtyBitmap {
    with(path, OpenFlags::READ_ONLY, async |node| node.driver().bitmaps().unwrap().load(name).await.unwrap())
}

#[test]
fn bits_are_the_same_for_both() {
    let Some(folder) = Folder::new() else { return };
    for options in ["cluster_size=64k", "cluster_size=512", "cluster_size=2M,refcount_bits=1"] {
        let path = folder.image("disk", options, "100M", &[]);
        folder.theirs("qemu-img", &["bitmap", "--add", "-g", "512", &path, "theirs"]);
        folder.io(&path, &["write 1M 1M", "write 90M 512"]);
        let theirs = load(&path, "theirs");
        assert_eq!(theirs.next_dirty(0), Some((MIB, MIB)));
        assert_eq!(theirs.next_dirty(2 * MIB), Some((90 * MIB, 512)));
        let mut mine = DirtyBitmap::new("mine", 4096, 100 * MIB).unwrap();
        mine.set(0, 40 * MIB);
        mine.set(99 * MIB, 1);
        mine.enabled = false;
        let mut other = mine.clone();
        other.set_name("other");
        other.enabled = true;
        with(&path, OpenFlags::UNMAP, async |node| {
            let bitmaps = node.driver().bitmaps().unwrap();
            bitmaps.store(&mine).await.unwrap();
            mine.set(50 * MIB, 1);
            bitmaps.store(&mine).await.unwrap();
            bitmaps.store(&other).await.unwrap();
            bitmaps.remove("theirs").await.unwrap();
            assert_eq!(bitmaps.load("mine").await.unwrap().words(), mine.words());
            let list: Vec<_> =
                bitmaps.list().await.unwrap().into_iter().map(|b| (b.name, b.enabled)).collect();
            assert_eq!(list, [("mine".to_owned(), false), ("other".to_owned(), true)]);
        });
        sound(&folder, &path);
        // Debian's copy of our bits, with a write of its own.
        folder.theirs("qemu-img", &["bitmap", "--add", "-g", "4k", &path, "copy"]);
        folder.theirs("qemu-img", &["bitmap", "--merge", "other", &path, "copy"]);
        folder.io(&path, &["write 60M 1"]);
        other.set(60 * MIB, 1);
        assert_eq!(load(&path, "copy").words(), other.words());
        with(&path, OpenFlags::UNMAP, async |node| {
            for name in ["mine", "other", "copy"] {
                node.driver().bitmaps().unwrap().remove(name).await.unwrap();
            }
        });
        sound(&folder, &path);
        assert!(!folder.theirs("qemu-img", &["info", &path]).contains("bitmaps"));
    }
}

#[test]
fn enabled_bitmaps_follow_our_writes() {
    let Some(folder) = Folder::new() else { return };
    let path = folder.image("disk", "", "64M", &[]);
    folder.theirs("qemu-img", &["bitmap", "--add", &path, "on"]);
    folder.theirs("qemu-img", &["bitmap", "--add", "--disable", &path, "off"]);
    with(&path, OpenFlags::UNMAP, async |node| {
        node.write_bytes(MIB, &[1; 100]).await.unwrap();
        node.write_zeroes(5 * MIB, MIB, Default::default()).await.unwrap();
        node.write_compressed(10 * MIB, &rhea_async_io::IoVector::zeroed(65536)).await.unwrap();
        node.discard(20 * MIB, MIB).await.unwrap();
        // What is in memory is what counts.
        let bitmap = node.driver().bitmaps().unwrap().load("on").await.unwrap();
        assert_eq!(bitmap.next_dirty(0), Some((MIB, 65536)));
    });
    let on = load(&path, "on");
    assert!(!on.inconsistent);
    let mut dirty = vec![];
    let mut at = 0;
    while let Some((start, len)) = on.next_dirty(at) {
        dirty.push((start / 65536, len / 65536));
        at = start + len;
    }
    assert_eq!(dirty, [(16, 1), (80, 16), (160, 1), (320, 16)]);
    assert_eq!(load(&path, "off").count(), 0);
    sound(&folder, &path);
    // Debian's tools see the same.
    folder.theirs("qemu-img", &["bitmap", "--add", "--merge", "on", &path, "copy"]);
    assert_eq!(load(&path, "copy").words(), on.words());
}

#[test]
fn a_bitmap_that_was_not_saved_is_inconsistent() {
    let Some(folder) = Folder::new() else { return };
    let path = folder.image("disk", "", "64M", &[]);
    folder.theirs("qemu-img", &["bitmap", "--add", &path, "on"]);
    let disk = open(&path, OpenFlags::UNMAP).unwrap();
    block_on(disk.write_bytes(0, &[1; 512])).unwrap();
    block_on(disk.flush()).unwrap();
    // As a crash would: nothing is closed.
    let copy = folder.path("crashed");
    std::fs::copy(&path, &copy).unwrap();
    block_on(disk.close()).unwrap();
    let info = folder.theirs("qemu-img", &["info", &copy]);
    assert!(info.contains("in-use"), "{info}");
    let list = with(&copy, OpenFlags::READ_ONLY, async |node| {
        node.driver().bitmaps().unwrap().list().await.unwrap()
    });
    assert!(list[0].inconsistent);
    with(&copy, OpenFlags::UNMAP, async |node| node.driver().bitmaps().unwrap().remove("on").await.unwrap());
    sound(&folder, &copy);
    assert!(!load(&path, "on").inconsistent);
}

#[test]
fn bitmaps_follow_the_disks_length() {
    let Some(folder) = Folder::new() else { return };
    let path = folder.image("disk", "cluster_size=512", "4M", &[]);
    folder.theirs("qemu-img", &["bitmap", "--add", "-g", "512", &path, "on"]);
    folder.theirs("qemu-img", &["bitmap", "--add", "--disable", "-g", "512", &path, "off"]);
    folder.io(&path, &["write 3M 1M"]);
    for length in [64 * MIB, 3 * MIB + 512, 5 * MIB] {
        with(&path, OpenFlags::UNMAP, async |node| {
            node.truncate(length, Truncate { exact: true, ..Truncate::default() }).await.unwrap();
        });
        sound(&folder, &path);
        let end = (4 * MIB).min(length).min(3 * MIB + 512 + (MIB - 512) * u64::from(length == 64 * MIB));
        assert_eq!(load(&path, "on").next_dirty(0), Some((3 * MIB, end - 3 * MIB)));
        assert_eq!(load(&path, "off").length(), length);
    }
}

#[test]
fn what_cannot_be_stored_is_refused() {
    let Some(folder) = Folder::new() else { return };
    let old = folder.image("old", "compat=0.10", "4M", &[]);
    with(&old, OpenFlags::UNMAP, async |node| {
        let error = node.driver().bitmaps().unwrap().can_store("b", 65536).unwrap_err();
        assert_eq!(error.to_string(), "Cannot store dirty bitmaps in qcow2 v2 files");
    });
    let path = folder.image("disk", "", "4M", &[]);
    with(&path, OpenFlags::UNMAP, async |node| {
        let bitmaps = node.driver().bitmaps().unwrap();
        for (name, granularity) in [("", 65536), ("b", 256), ("b", 1 << 32), ("b", 1000)] {
            assert!(bitmaps.can_store(name, granularity).is_err(), "{name} {granularity}");
        }
        assert!(bitmaps.can_store(&"x".repeat(1024), 65536).is_err());
        assert_eq!(bitmaps.remove("none").await.unwrap_err().to_string(), "Dirty bitmap 'none' not found");
    });
}

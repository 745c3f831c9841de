//! What becomes of an image that turns out to be corrupt while it is used.

mod side_by_side;

use rhea_async_io::block_on;
use rhea_block::{OpenFlags, Registry, SnapshotInfo};
use rhea_options::Options;
use side_by_side::{Bytes, Folder, open};

/// An image of which an L2 entry names the place of metadata.
fn overlapping(folder: &Folder, place: impl Fn(&Bytes) -> u64) -> String {
    let path = folder.image("overlap.qcow2", "cluster_size=4k", "1M", &["write -P 1 0 8k"]);
    let disk = open(&path, OpenFlags::empty()).unwrap();
    block_on(disk.driver().snapshots().unwrap().create(&SnapshotInfo::default())).unwrap();
    block_on(disk.write_bytes(0, &[2; 8192])).unwrap();
    block_on(disk.close()).unwrap();
    let mut bytes = Bytes::read(&path);
    let entry = bytes.l2(0, 8);
    let place = place(&bytes);
    bytes.set64(entry, place | 1 << 63);
    bytes.write(&path);
    path
}

#[test]
fn after_corruption_there_is_no_medium_as_qemu_has_it() {
    let Some(folder) = Folder::new() else { return };
    let path = overlapping(&folder, Bytes::refcount_table);
    std::fs::copy(&path, folder.path("theirs.qcow2")).unwrap();
    let (_, out, err) = folder.run(
        "qemu-io",
        &[
            "-f",
            "qcow2",
            "-c",
            "write 0 512",
            "-c",
            "write 8k 512",
            "-c",
            "read 4k 512",
            "-c",
            "flush",
            "theirs.qcow2",
        ],
    );
    let said: Vec<&str> = out.lines().chain(err.lines()).filter(|line| line.contains("No medium")).collect();
    // Of a flush that fails, qemu-io says nothing.
    assert_eq!(said.len(), 2, "{out}{err}");
    let disk = open(&path, OpenFlags::empty()).unwrap();
    let errno = |result: rhea_block::Result<()>| result.unwrap_err().errno();
    assert_eq!(errno(block_on(disk.write_bytes(0, &[3; 512]))), libc::EIO);
    assert_eq!(errno(block_on(disk.write_bytes(8192, &[3; 512]))), libc::ENOMEDIUM);
    assert_eq!(errno(block_on(disk.read_bytes(4096, &mut [0; 512]))), libc::ENOMEDIUM);
    assert_eq!(errno(block_on(disk.flush())), libc::ENOMEDIUM);
    block_on(disk.close()).unwrap();
    // And the mark is there: it opens for reading only.
    assert!(open(&path, OpenFlags::empty()).is_err());
    let disk = open(&path, OpenFlags::READ_ONLY).unwrap();
    block_on(disk.read_bytes(4096, &mut [0; 512])).unwrap();
    block_on(disk.close()).unwrap();
}

#[test]
fn each_overlap_check_refuses_its_own_metadata() {
    let Some(folder) = Folder::new() else { return };
    let mask = 0x00ff_ffff_ffff_fe00;
    type Place = fn(&Bytes) -> u64;
    let places: [(&str, Place); 8] = [
        ("main-header", |_| 0),
        ("active-l1", |b| b.l1()),
        ("active-l2", |b| b.u64(b.l1()) & 0x00ff_ffff_ffff_fe00),
        ("refcount-table", |b| b.refcount_table()),
        ("refcount-block", |b| b.u64(b.refcount_table())),
        ("snapshot-table", |b| b.snapshots()),
        ("inactive-l1", |b| b.u64(b.snapshots())),
        ("inactive-l2", |b| b.u64(b.u64(b.snapshots())) & 0x00ff_ffff_ffff_fe00),
    ];
    for (section, place) in places {
        // An entry cannot say "cluster 0": nothing is there, then.
        if section == "main-header" {
            continue;
        }
        let path = overlapping(&folder, place);
        let target = place(&Bytes::read(&path)) & mask;
        for on in [true, false] {
            let copy = folder.path("copy.qcow2");
            std::fs::copy(&path, &copy).unwrap();
            let before = std::fs::read(&copy).unwrap();
            let mut registry = Registry::new();
            registry.add(rhea_qcow2::Qcow2Driver);
            registry.add(rhea_block::FileDriver);
            let mut options = Options::default();
            options.set("driver", "qcow2");
            options.set("file.driver", "file");
            options.set("file.filename", &copy);
            options.set("overlap-check.template", if on { "none" } else { "all" });
            options.set(&format!("overlap-check.{section}"), if on { "on" } else { "off" });
            let disk = block_on(registry.open_node(options, OpenFlags::empty(), false)).unwrap();
            let written = block_on(disk.write_bytes(0, &[0x5a; 512]));
            assert_eq!(written.is_err(), on, "{section} {on}");
            drop(disk);
            let after = std::fs::read(&copy).unwrap();
            let range = target as usize..target as usize + 512;
            assert_eq!(before[range.clone()] == after[range], on, "{section} {on}");
        }
    }
}

//! `check` beside Debian's: the same findings for the same damage, and images that are sound after a repair.

mod side_by_side;

use rhea_block::Repair;
use side_by_side::{Bytes, Folder, check, print};

const COPIED: u64 = 1 << 63;
const FAR: u64 = 1 << 40;
const SETS: [(&str, Repair); 2] =
    [("leaks", Repair { leaks: true, errors: false }), ("all", Repair { leaks: true, errors: true })];

/// How a repair by `-r all` is expected to end.
#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    /// Sound, as by Debian's.
    Sound,
    /// Errors remain, as by Debian's.
    Damaged,
    /// We repair what Debian's does not.
    Better,
    /// We keep what Debian's drops: a bitmap of which a part is gone.
    Keeps,
}

struct Case {
    name: &'static str,
    image: &'static str,
    damage: fn(&mut Bytes),
    end: End,
}

const fn case(name: &'static str, image: &'static str, end: End, damage: fn(&mut Bytes)) -> Case {
    Case { name, image, damage, end }
}

/// The damages that are told alike.
const CASES: &[Case] = &[
    case("nothing", "plain", End::Sound, |_| {}),
    case("nothing, with a snapshot", "snapshot", End::Sound, |_| {}),
    case("nothing, compressed", "compressed", End::Sound, |_| {}),
    case("nothing, subclusters", "extended", End::Sound, |_| {}),
    case("nothing, bitmaps", "bitmaps", End::Sound, |_| {}),
    case("nothing, version 2", "old", End::Sound, |_| {}),
    case("data refcount 0", "plain", End::Sound, |b| b.set16(b.refcount(5), 0)),
    case("data refcount 3", "plain", End::Sound, |b| b.set16(b.refcount(5), 3)),
    case("refcount beyond the end", "plain", End::Sound, |b| b.set16(b.refcount(100), 1)),
    case("data flag wrongly set", "snapshot", End::Sound, |b| b.or64(b.l2(0, 8), COPIED)),
    case("data flag wrongly clear", "plain", End::Sound, |b| {
        b.set64(b.l2(0, 8), b.u64(b.l2(0, 8)) & !COPIED)
    }),
    case("L2 flag wrongly clear", "plain", End::Sound, |b| b.set64(b.l1(), b.u64(b.l1()) & !COPIED)),
    case("unaligned data", "plain", End::Damaged, |b| b.or64(b.l2(0, 8), 512)),
    case("unaligned zero cluster", "plain", End::Sound, |b| b.or64(b.l2(0, 8), 513)),
    case("data beyond the end", "plain", End::Damaged, |b| b.set64(b.l2(0, 8), COPIED | FAR)),
    case("reserved low L2 bit", "plain", End::Damaged, |b| b.or64(b.l2(0, 8), 4)),
    case("reserved high L2 bit", "plain", End::Damaged, |b| b.or64(b.l2(0, 8), 1 << 57)),
    case("reserved bit of an empty entry", "plain", End::Damaged, |b| b.set64(b.l2(7, 8), 2)),
    case("reserved high L1 bit", "plain", End::Damaged, |b| b.or64(b.l1(), 1 << 57)),
    case("reserved low L1 bit", "plain", End::Damaged, |b| b.or64(b.l1(), 4)),
    case("L2 table beyond the end", "plain", End::Damaged, |b| b.set64(b.l1(), COPIED | FAR)),
    case("one cluster, two entries", "plain", End::Sound, |b| b.set64(b.l2(1, 8), b.u64(b.l2(0, 8)))),
    case("data over the L1 table", "plain", End::Sound, |b| b.set64(b.l2(1, 8), COPIED | b.l1())),
    case("data over the refcount table", "plain", End::Sound, |b| {
        b.set64(b.l2(1, 8), COPIED | b.refcount_table())
    }),
    case("refcount block beyond the end", "plain", End::Sound, |b| b.set64(b.refcount_table(), FAR)),
    case("no refcount block", "plain", End::Sound, |b| b.set64(b.refcount_table(), 0)),
    case("one refcount block twice", "plain", End::Sound, |b| b.set64(b.refcount_table() + 8, 0x20000)),
    case("refcount block over data", "plain", End::Sound, |b| b.set64(b.refcount_table() + 8, 0x50000)),
    case("reserved refcount table bit", "plain", End::Better, |b| b.or64(b.refcount_table(), 4)),
    case("refcount block's refcount 0", "plain", End::Sound, |b| b.set16(b.refcount(2), 0)),
    case("header's refcount 0", "plain", End::Sound, |b| b.set16(b.refcount(0), 0)),
    case("header's refcount 2", "plain", End::Sound, |b| b.set16(b.refcount(0), 2)),
    case("refcount table's refcount 0", "plain", End::Sound, |b| b.set16(b.refcount(1), 0)),
    case("L2 table's refcount 0", "plain", End::Sound, |b| b.set16(b.refcount(4), 0)),
    case("L2 table's refcount 2", "plain", End::Sound, |b| b.set16(b.refcount(4), 2)),
    case("dirty", "plain", End::Sound, |b| b.set64(72, 1)),
    case("corrupt", "plain", End::Sound, |b| b.set64(72, 2)),
    case("dirty, refcount 0", "plain", End::Sound, |b| {
        b.set64(72, 1);
        b.set16(b.refcount(5), 0);
    }),
    case("more L1 entries than needed", "plain", End::Sound, |b| b.set32(36, 2)),
    case("refcount table over others", "plain", End::Sound, |b| b.set32(56, 3)),
    case("last cluster cut", "plain", End::Sound, |b| b.0.truncate(0xb_8000)),
    case("last cluster gone", "plain", End::Damaged, |b| b.0.truncate(0xb_0000)),
    case("two clusters gone", "plain", End::Damaged, |b| b.0.truncate(0xa_0000)),
    case("leak behind the end", "plain", End::Sound, |b| {
        b.set16(b.refcount(13), 1);
        b.0.resize(0xf_0000, 0);
    }),
    case("compressed with flag", "compressed", End::Damaged, |b| b.or64(b.l2(16, 8), COPIED)),
    case("compressed beyond the end", "compressed", End::Damaged, |b| b.set64(b.l2(16, 8), 1 << 62 | FAR)),
    case("flag of a zero cluster clear", "zeroes", End::Sound, |b| {
        b.set64(b.l2(1, 8), b.u64(b.l2(1, 8)) & !COPIED);
    }),
    case("data and zeroes at once", "extended", End::Damaged, |b| b.set64(b.l2(0, 16) + 8, u64::MAX)),
    case("no subcluster", "extended", End::Sound, |b| b.set64(b.l2(0, 16) + 8, 0)),
    case("subclusters without a place", "extended", End::Damaged, |b| b.set64(b.l2(0, 16), 0)),
    case("compressed with subclusters", "extended", End::Damaged, |b| b.set64(b.l2(17, 16) + 8, 5)),
    case("unallocated with subclusters", "extended", End::Damaged, |b| b.set64(b.l2(20, 16) + 8, 5)),
    case("too many references", "narrow", End::Damaged, |b| b.set64(b.l2(1, 8), b.u64(b.l2(0, 8)))),
    case("one more snapshot", "snapshot", End::Sound, |b| b.set32(60, 2)),
    case("snapshot table beyond the end", "snapshot", End::Sound, |b| b.set64(64, FAR)),
    case("snapshot without extra data", "snapshot", End::Sound, |b| b.set32(b.snapshots() + 36, 0)),
    case("snapshot with little extra data", "snapshot", End::Sound, |b| b.set32(b.snapshots() + 36, 8)),
    case("snapshot's L1 table unaligned", "snapshot", End::Damaged, |b| b.or64(b.snapshots(), 512)),
    case("snapshot's L1 table beyond the end", "snapshot", End::Damaged, |b| b.set64(b.snapshots(), FAR)),
    case("snapshot's L1 table huge", "snapshot", End::Damaged, |b| b.set32(b.snapshots() + 8, 1 << 30)),
    case("snapshot without L1 entries", "snapshot", End::Sound, |b| b.set32(b.snapshots() + 8, 0)),
    case("bitmap table beyond the end", "bitmaps", End::Keeps, |b| b.set64(b.bitmaps(), FAR)),
    case("bitmap data beyond the end", "bitmaps", End::Keeps, |b| b.set64(b.u64(b.bitmaps()), FAR)),
    case("bitmap in use", "bitmaps", End::Sound, |b| b.set32(b.bitmaps() + 12, 1)),
];

fn make(folder: &Folder) {
    let usual = ["write -P 1 0 300k", "write -P 2 1M 128k"];
    folder.image("plain", "", "4M", &usual);
    folder.image("narrow", "refcount_bits=1", "4M", &usual);
    folder.image("zeroes", "", "4M", &["write -P 1 0 300k", "write -z 64k 64k"]);
    let compressed = ["write -P 1 0 300k", "write -c -P 2 1M 64k", "write -c -P 4 1088k 64k"];
    folder.image("compressed", "", "4M", &compressed);
    let extended = ["write -P 1 0 300k", "write -P 2 1M 8k", "write -z 66k 2k", "write -c 1088k 64k"];
    folder.image("extended", "extended_l2=on", "4M", &extended);
    for (name, options) in [("snapshot", ""), ("old", "compat=0.10")] {
        let path = folder.image(name, options, "4M", &usual);
        folder.theirs("qemu-img", &["snapshot", "-c", "one", &path]);
        folder.io(&path, &["write -P 3 64k 64k"]);
    }
    let bitmaps = folder.image("bitmaps", "", "4M", &usual);
    folder.theirs("qemu-img", &["bitmap", "--add", &bitmaps, "b0"]);
    folder.io(&bitmaps, &["write -P 7 0 128k"]);
}

#[test]
fn findings_are_those_of_qemu_img() {
    let Some(folder) = Folder::new() else { return };
    make(&folder);
    let mut wrong = String::new();
    for case in CASES {
        let mut bytes = Bytes::read(&folder.path(case.image));
        (case.damage)(&mut bytes);
        let path = folder.path("damaged");
        bytes.write(&path);
        let (_, out, err) = folder.run("qemu-img", &["check", "-f", "qcow2", &path]);
        let ours = print(&check(&path, Repair::default()).expect(case.name));
        if ours != (err.clone(), out.clone()) {
            wrong += &format!("--- {}\n{}{}--- theirs\n{err}{out}", case.name, ours.0, ours.1);
        }
        assert!(std::fs::read(&path).unwrap() == bytes.0, "{}: a check wrote to the image", case.name);
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn repaired_images_are_sound_by_both_checks() {
    let Some(folder) = Folder::new() else { return };
    make(&folder);
    for case in CASES {
        for (word, repair) in SETS {
            let mut bytes = Bytes::read(&folder.path(case.image));
            (case.damage)(&mut bytes);
            let (path, other) = (folder.path("ours"), folder.path("theirs"));
            bytes.write(&path);
            bytes.write(&other);
            let result =
                check(&path, repair).unwrap_or_else(|error| panic!("{} -r {word}: {error}", case.name));
            folder.run("qemu-img", &["check", "-f", "qcow2", "-r", word, &other]);
            let (_, our_state, err) = folder.run("qemu-img", &["check", "-f", "qcow2", &path]);
            let (_, their_state, _) = folder.run("qemu-img", &["check", "-f", "qcow2", &other]);
            let sound = |state: &str| state.starts_with("No errors");
            let expected = match case.end {
                End::Better if word == "all" => (true, false),
                End::Keeps => (false, sound(&their_state)),
                _ => (sound(&their_state), sound(&their_state)),
            };
            let got = (sound(&our_state), sound(&their_state));
            assert_eq!(got, expected, "{} -r {word}: {:#?}\n{err}{our_state}", case.name, result.messages);
            let ours_again = print(&check(&path, Repair::default()).unwrap());
            assert_eq!(ours_again, (err, our_state), "{} -r {word}: the checks differ afterwards", case.name);
            if word == "all" {
                assert_eq!(
                    sound(&ours_again.1),
                    matches!(case.end, End::Sound | End::Better),
                    "{}",
                    case.name
                );
            }
            if sound(&ours_again.1) && sound(&their_state) {
                let disks = [&path, &other].map(|path| folder.contents(path, None));
                assert!(disks[0] == disks[1], "{} -r {word}: the contents differ", case.name);
            }
        }
    }
}

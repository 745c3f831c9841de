//! `amend` beside Debian's: the same refusals, the same outcome.

mod side_by_side;

use rhea_block::{OpenFlags, Progress};
use rhea_options::Options;
use side_by_side::{Folder, with};

/// Image and options; what is printed, what `info` says then, and the contents are those of Debian's.
const CASES: &[(&str, &str)] = &[
    ("plain", "compat=0.10"),
    ("snapshot", "compat=0.10"),
    ("zeroes", "compat=0.10"),
    ("backed", "compat=0.10"),
    ("old", "compat=0.10"),
    ("lazy", "compat=0.10"),
    ("extended", "compat=0.10"),
    ("narrow", "compat=0.10"),
    ("wide", "compat=0.10"),
    ("external", "compat=0.10"),
    ("plain", "compat=0.9"),
    ("old", "compat=1.1"),
    ("old", "compat=v3,refcount_bits=8"),
    ("old", "compat=1.1,lazy_refcounts=on"),
    ("old", "lazy_refcounts=on"),
    ("old", "refcount_bits=8"),
    ("plain", "refcount_bits=1"),
    ("snapshot", "refcount_bits=1"),
    ("snapshot", "refcount_bits=64"),
    ("plain", "refcount_bits=3"),
    ("plain", "refcount_bits=128"),
    ("plain", "compat=0.10,refcount_bits=8"),
    ("wide", "compat=0.10,refcount_bits=16"),
    ("plain", "size=8M"),
    ("plain", "size=1M"),
    ("snapshot", "size=8M"),
    ("plain", "refcount_bits=8,size=16M"),
    ("plain", "backing_file=zeroes"),
    ("plain", "backing_fmt=qcow2"),
    ("plain", "data_file=foo"),
    ("external", "data_file=external.data"),
    ("external", "data_file_raw=on"),
    ("external-raw", "data_file_raw=off"),
    ("plain", "lazy_refcounts=on"),
    ("lazy", "lazy_refcounts=off"),
    ("plain", "encrypt.state=active"),
    ("plain", "compat=1.1"),
];

fn make(folder: &Folder) {
    let usual = ["write -P 1 0 300k", "write -P 2 1M 128k"];
    folder.image("plain", "", "4M", &usual);
    folder.image("narrow", "refcount_bits=1", "4M", &usual);
    folder.image("wide", "refcount_bits=64", "4M", &usual);
    folder.image("lazy", "lazy_refcounts=on", "4M", &usual);
    folder.image("extended", "extended_l2=on", "4M", &usual);
    let data = folder.path("external.data");
    folder.image("external", &format!("data_file={data}"), "4M", &usual);
    let data = folder.path("raw.data");
    folder.image("external-raw", &format!("data_file={data},data_file_raw=on"), "4M", &usual);
    folder.image("zeroes", "", "4M", &["write -P 1 0 300k", "write -z 64k 64k", "write -z 1M 64k"]);
    for (name, options) in [("snapshot", ""), ("old", "compat=0.10")] {
        let path = folder.image(name, options, "4M", &usual);
        folder.theirs("qemu-img", &["snapshot", "-c", "one", &path]);
        folder.io(&path, &["write -P 3 64k 64k"]);
    }
    let base = folder.path("base");
    std::fs::write(&base, vec![9; 4 << 20]).unwrap();
    let backed = folder.image("backed", &format!("backing_file={base},backing_fmt=raw"), "4M", &[]);
    folder.io(&backed, &["write -P 1 0 1M", "write -z 64k 128k", "write -z 2M 256k"]);
    folder.theirs("qemu-img", &["snapshot", "-c", "one", &backed]);
    folder.io(&backed, &["write -z 128k 128k", "write -z 3M 64k", "write -P 4 2M 64k"]);
    folder.theirs("qemu-img", &["snapshot", "-c", "two", &backed]);
    folder.io(&backed, &["write -z 512k 64k"]);
}

/// What `info` says of an image, but for what differs by chance.
fn info(folder: &Folder, path: &str) -> String {
    let out = folder.theirs("qemu-img", &["info", path]);
    let same = |line: &&str| !line.contains("disk size") && !line.contains("file length");
    out.lines().filter(same).collect::<Vec<_>>().join("\n")
}

#[test]
fn outcomes_are_those_of_qemu_img() {
    let Some(folder) = Folder::new() else { return };
    make(&folder);
    let path = folder.path("amended");
    for (image, text) in CASES {
        let original = folder.path(image);
        std::fs::copy(&original, &path).unwrap();
        let (_, _, theirs) = folder.run("qemu-img", &["amend", "-f", "qcow2", "-o", text, &path]);
        let their_info = info(&folder, &path);
        std::fs::copy(&original, &path).unwrap();
        let options = Options::parse(text, None).unwrap();
        let amended = with(&path, OpenFlags::UNMAP, async |node| {
            node.driver().amend(options, false, &Progress::new()).await
        });
        let ours = match amended {
            Ok(()) => String::new(),
            Err(error) => {
                let hint = error.hint().map_or(String::new(), |hint| format!("{hint}\n"));
                format!("qemu-img: {error}\n{hint}")
            }
        };
        assert_eq!(ours, theirs, "{image} {text}");
        assert_eq!(info(&folder, &path), their_info, "{image} {text}");
        let out = folder.theirs("qemu-img", &["check", "-f", "qcow2", &path]);
        assert!(out.starts_with("No errors"), "{image} {text}: {out}");
        if text.contains("size=") {
            continue;
        }
        let same = folder.contents(&original, None) == folder.contents(&path, None);
        assert!(same, "{image} {text}: the contents differ");
        for id in ["1", "2"].iter().take(match *image {
            "backed" => 2,
            "snapshot" | "old" => 1,
            _ => 0,
        }) {
            let same = folder.contents(&original, Some(id)) == folder.contents(&path, Some(id));
            assert!(same, "{image} {text}: snapshot {id} differs");
        }
    }
}

#[test]
fn bitmaps_and_zstd_are_not_lost_by_a_downgrade() {
    let Some(folder) = Folder::new() else { return };
    let bitmaps = folder.image("bitmaps", "", "4M", &[]);
    folder.theirs("qemu-img", &["bitmap", "--add", &bitmaps, "b"]);
    let zstd = folder.image("zstd", "compression_type=zstd", "4M", &["write -c -P 1 0 64k"]);
    for path in [bitmaps, zstd] {
        let before = std::fs::read(&path).unwrap();
        let error = with(&path, OpenFlags::UNMAP, async |node| {
            let options = Options::parse("compat=0.10", None).unwrap();
            node.driver().amend(options, false, &Progress::new()).await.unwrap_err()
        });
        assert!(error.to_string().starts_with("Cannot downgrade an image with"), "{error}");
        assert!(std::fs::read(&path).unwrap() == before);
    }
}

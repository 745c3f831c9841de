//! Files that are no images of a format, or only parts of one: both tools say the same of them.

use std::fs;

use rhea_image_tests::{Bench, Whose};

/// Formats, with options to make an image with.
const FORMATS: &[(&str, &str)] = &[
    ("qcow2", ""),
    ("qcow2", "-o compat=0.10"),
    ("vmdk", ""),
    ("vdi", ""),
    ("vpc", ""),
    ("qed", ""),
    ("parallels", ""),
    ("qcow", ""),
];

/// Where images are cut off. (Headers of vmdk that are cut short are refused by what is missing of them; QEMU reads zeroes
/// there, and stumbles over one or the other field.)
const LENGTHS: &[usize] = &[1, 3, 8, 20, 64, 72, 104, 112, 511, 512, 513, 600, 1024, 2048, 4096, 65536];

/// What is tried with each file.
const LINES: &[&str] = &[
    "qemu-img info -f {f} {n}",
    "qemu-img info {n}",
    "qemu-img check -f {f} {n}",
    "qemu-img map -f {f} {n}",
    "qemu-img convert -f {f} -O raw {n} new",
];

/// Formats whose checks find other damage of images cut short within their tables: what is missing, where QEMU takes what
/// happens to be in memory for entries.
const CHECKS_DIFFER: &[&str] = &["vdi", "parallels"];

#[test]
fn images_cut_short() {
    let Some(mut bench) = Bench::new(env!("CARGO_BIN_EXE_qemu-img")) else { return };
    for (format, options) in FORMATS {
        bench.ok(Whose::Theirs, &format!("qemu-img create -f {format} {options} whole 3M"));
        let whole = fs::read(bench.path("whole")).unwrap();
        let least = if *format == "vmdk" { 72 } else { 1 };
        for len in LENGTHS.iter().filter(|len| (least..whole.len()).contains(*len)) {
            let name = format!("{format}-{len}");
            fs::write(bench.path(&name), &whole[..*len]).unwrap();
            let check_differs = CHECKS_DIFFER.contains(format);
            let lines = LINES.iter().filter(|line| !(check_differs && line.starts_with("qemu-img check")));
            lines.for_each(|line| bench.same(&line.replace("{f}", format).replace("{n}", &name)));
        }
    }
    bench.done();
}

#[test]
fn other_files() {
    let Some(mut bench) = Bench::new(env!("CARGO_BIN_EXE_qemu-img")) else { return };
    let text = b"This is no disk image at all, but some text of more than one sector. ".repeat(70);
    fs::write(bench.path("text"), &text).unwrap();
    fs::write(bench.path("zeroes"), vec![0; 4096]).unwrap();
    fs::create_dir(bench.path("folder")).unwrap();
    for format in
        ["qcow2", "vmdk", "vdi", "vpc", "qed", "parallels", "qcow", "luks", "bochs", "cloop", "dmg", "raw"]
    {
        for file in ["text", "zeroes", "folder", "nothing"] {
            bench.same(&format!("qemu-img info -U -f {format} {file}"));
        }
    }
    bench.done();
}

/// Fields of a header, each of which another number makes nonsense of: an offset, and its four bytes.
const FIELDS: &[(&str, &[(usize, [u8; 4])])] = &[
    (
        "qcow2",
        &[
            (0, [0, 0, 0, 1]),
            (4, [0, 0, 0, 1]),
            (4, [0, 0, 0, 9]),
            (8, [0xff; 4]),
            (16, [0xff; 4]),
            (20, [0, 0, 0, 40]),
            (24, [0xff; 4]),
            (36, [0xff; 4]),
            (40, [0xff; 4]),
            (48, [0xff; 4]),
            (56, [0xff; 4]),
            (60, [0xff; 4]),
            (64, [0xff; 4]),
            (72, [0xff; 4]),
            (96, [0xff; 4]),
            (100, [0xff; 4]),
        ],
    ),
    (
        "vdi",
        &[
            (64, [0; 4]),
            (68, [9; 4]),
            (76, [9; 4]),
            (340, [1; 4]),
            (344, [1; 4]),
            (368, [0xff; 4]),
            (376, [7; 4]),
        ],
    ),
    ("vpc", &[(0, [1; 4])]),
    ("qed", &[(0, [1; 4]), (4, [1; 4]), (8, [0xff; 4]), (16, [0xff; 4]), (40, [0xff; 4]), (48, [0xff; 4])]),
    ("parallels", &[(0, [1; 4]), (16, [9; 4]), (28, [0xff; 4]), (32, [0xff; 4])]),
    ("qcow", &[(0, [1; 4]), (4, [9; 4]), (24, [0xff; 4]), (32, [0xff; 4])]),
];

#[test]
fn fields_with_nonsense() {
    let Some(mut bench) = Bench::new(env!("CARGO_BIN_EXE_qemu-img")) else { return };
    for (format, fields) in FIELDS {
        bench.ok(Whose::Theirs, &format!("qemu-img create -f {format} whole 3M"));
        let whole = fs::read(bench.path("whole")).unwrap();
        for (offset, bytes) in *fields {
            let mut damaged = whole.clone();
            damaged[*offset..offset + 4].copy_from_slice(bytes);
            let name = format!("{format}-{offset}-{}", bytes[3]);
            fs::write(bench.path(&name), &damaged).unwrap();
            bench.same(&format!("qemu-img info -f {format} {name}"));
        }
    }
    bench.done();
}

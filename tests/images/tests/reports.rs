//! Images made by Debian's tools: both tools report the same of them.

use rhea_image_tests::{Bench, Whose};

/// A format, and the options an image is made with.
const IMAGES: &[(&str, &str)] = &[
    ("raw", ""),
    ("raw", "preallocation=full"),
    ("qcow2", ""),
    ("qcow2", "compat=0.10"),
    ("qcow2", "cluster_size=512"),
    ("qcow2", "cluster_size=2M"),
    ("qcow2", "cluster_size=4k,refcount_bits=1"),
    ("qcow2", "refcount_bits=64"),
    ("qcow2", "lazy_refcounts=on"),
    ("qcow2", "extended_l2=on"),
    ("qcow2", "compression_type=zstd"),
    ("qcow2", "preallocation=metadata"),
    ("qcow2", "preallocation=falloc"),
    ("qcow2", "preallocation=full"),
    ("qcow2", "data_file=data"),
    ("qcow2", "data_file=data,data_file_raw=on"),
    ("vmdk", ""),
    ("vmdk", "subformat=monolithicFlat"),
    ("vmdk", "subformat=twoGbMaxExtentSparse"),
    ("vmdk", "subformat=twoGbMaxExtentFlat"),
    ("vmdk", "subformat=streamOptimized"),
    ("vmdk", "zeroed_grain=on"),
    ("vdi", ""),
    ("vdi", "static=on"),
    ("vhdx", ""),
    ("vhdx", "subformat=fixed"),
    ("vhdx", "block_size=1M,log_size=2M"),
    ("vpc", ""),
    ("vpc", "subformat=fixed"),
    ("vpc", "force_size=on"),
    ("qed", ""),
    ("qed", "cluster_size=4k,table_size=2"),
    ("parallels", ""),
    ("parallels", "cluster_size=64k"),
    ("qcow", ""),
];

/// What is asked of each image `i`, empty or a copy of the raw file `d`.
const QUESTIONS: &[&str] = &[
    "qemu-img info i",
    "qemu-img info -f {f} i",
    "qemu-img info -U -f {f} --output=json i",
    "qemu-img info -b -f {f} i",
    "qemu-img info -b -f {f} --output=json i",
    "qemu-img map -f {f} i",
    "qemu-img map -f {f} --output=json i",
    "qemu-img map -f {f} --output=json --start-offset=100k --max-length=1M i",
    "qemu-img check -f {f} i",
    "qemu-img check -f {f} --output=json i",
    "qemu-img snapshot -f {f} -l i",
    "qemu-img compare -f raw -F {f} d i",
    "qemu-img compare -s -f raw -F {f} d i",
    "qemu-img measure -f {f} i",
    "qemu-img measure -f {f} --output=json -O qcow2 i",
    "qemu-img measure -f {f} -O qcow2 -o cluster_size=4k,refcount_bits=64 i",
    "qemu-img measure -f {f} -O qcow2 -o extended_l2=on,preallocation=full i",
];

fn option_words(options: &str) -> String {
    if options.is_empty() { String::new() } else { format!("-o {options}") }
}

/// Asks everything of images of the formats, made by `make`.
fn ask(formats: &[&str], make: impl Fn(&Bench, &str, &str)) {
    let mut differences = String::new();
    for (format, options) in IMAGES.iter().filter(|(f, _)| formats.contains(f)) {
        let Some(mut bench) = Bench::new(env!("CARGO_BIN_EXE_qemu-img")) else { return };
        bench.data("d", 3 << 20, 7);
        make(&bench, format, options);
        QUESTIONS.iter().for_each(|question| bench.same(&question.replace("{f}", format)));
        let found = bench.end();
        if !found.is_empty() {
            differences += &format!("== {format} {options}\n{found}");
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

fn empty(bench: &Bench, format: &str, options: &str) {
    bench.ok(Whose::Theirs, &format!("qemu-img create -f {format} {} i 3M", option_words(options)));
}

fn filled(bench: &Bench, format: &str, options: &str) {
    let options = option_words(options);
    bench.ok(Whose::Theirs, &format!("qemu-img convert -f raw -O {format} {options} d i"));
}

#[test]
fn of_empty_raw_and_qcow2_images() {
    ask(&["raw", "qcow2"], empty);
}

#[test]
fn of_filled_raw_and_qcow2_images() {
    ask(&["raw", "qcow2"], filled);
}

#[test]
fn of_empty_images_of_other_formats() {
    ask(&["vmdk", "vdi", "vhdx", "vpc", "qed", "parallels", "qcow"], |bench, format, options| {
        // What can only be written compressed cannot be empty and written to later.
        empty(bench, format, options);
    });
}

#[test]
fn of_filled_images_of_other_formats() {
    ask(&["vmdk", "vdi", "vhdx", "vpc", "qed", "parallels", "qcow"], filled);
}

/// Made step by step, then asked about.
const STORIES: &[(&[&str], &[&str])] = &[
    // Compressed clusters.
    (
        &["qemu-img convert -c -f raw -O qcow2 d i"],
        &[
            "qemu-img info i",
            "qemu-img check i",
            "qemu-img check --output=json i",
            "qemu-img map --output=json i",
            "qemu-img map i",
        ],
    ),
    // Snapshots.
    (
        &[
            "qemu-img convert -f raw -O qcow2 d i",
            "qemu-img snapshot -c one i",
            "qemu-io -c write_-P_7_0_1M i",
            "qemu-img snapshot -c two-with-a-name-that-is-long i",
            "qemu-io -c discard_1M_1M i",
        ],
        &[
            "qemu-img info i",
            "qemu-img info --output=json i",
            "qemu-img snapshot -l i",
            "qemu-img check i",
            "qemu-img map --output=json i",
            "qemu-img measure -O qcow2 -l one i",
            "qemu-img measure -O qcow2 --output=json -l snapshot.name=one i",
        ],
    ),
    // A chain of backing files, of different lengths.
    (
        &[
            "qemu-img convert -f raw -O qcow2 d a",
            "qemu-img create -f qcow2 -F qcow2 -b a b 4M",
            "qemu-io -c write_-P_3_2M_64k -c write_-z_0_128k b",
            "qemu-img create -f qcow2 -F qcow2 -b b i 5M",
            "qemu-io -c write_-P_4_100k_64k i",
        ],
        &[
            "qemu-img info i",
            "qemu-img info -b i",
            "qemu-img info -b --output=json i",
            "qemu-img map i",
            "qemu-img map --output=json i",
            "qemu-img check i",
            "qemu-img compare -f raw -F qcow2 d i",
            "qemu-img compare a b",
            "qemu-img measure -O qcow2 i",
        ],
    ),
    // Bitmaps.
    (
        &[
            "qemu-img create -f qcow2 i 8M",
            "qemu-img bitmap --add i b0",
            "qemu-img bitmap --add -g 4k i b1",
            "qemu-img bitmap --add --disable i b2",
            "qemu-io -c write_-P_3_2M_64k i",
        ],
        &[
            "qemu-img info i",
            "qemu-img info --output=json i",
            "qemu-img check i",
            "qemu-img measure -O qcow2 i",
            "qemu-img measure -O qcow2 --output=json i",
        ],
    ),
    // A folder between.
    (
        &["qemu-img create -f raw sub/base 1M", "qemu-img create -f qcow2 -F raw -b base sub/i"],
        &["qemu-img info sub/i", "qemu-img info --output=json sub/i", "qemu-img info -b sub/i"],
    ),
    // Loops.
    (
        &[
            "qemu-img create -f qcow2 a 1M",
            "qemu-img create -f qcow2 -F qcow2 -b a b",
            "qemu-img rebase -u -F qcow2 -b b a",
        ],
        &["qemu-img info a", "qemu-img info -b a"],
    ),
    // Encryption.
    (
        &["qemu-img create --object secret,id=s,data=x -f luks -o key-secret=s,iter-time=10 i 2M"],
        &[
            "qemu-img info i",
            "qemu-img info --output=json i",
            "qemu-img map --object secret,id=s,data=x --image-opts driver=luks,key-secret=s,file.filename=i",
            "qemu-img map --output=json --object secret,id=s,data=x --image-opts driver=luks,key-secret=s,file.filename=i",
            "qemu-img map --object secret,id=s,data=y --image-opts driver=luks,key-secret=s,file.filename=i",
            "qemu-img map --image-opts driver=luks,key-secret=s,file.filename=i",
        ],
    ),
    (
        &[
            "qemu-img create --object secret,id=s,data=x -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 i 2M",
        ],
        &["qemu-img info i", "qemu-img info --output=json i", "qemu-img check i"],
    ),
    // Damage.
    (
        &["qemu-img convert -f raw -O qcow2 d i", "damage 131072 00000000"],
        &["qemu-img check i", "qemu-img check --output=json i", "qemu-img check -q i"],
    ),
    // Nodes described by options.
    (
        &["qemu-img convert -f raw -O qcow2 d i"],
        &[
            "qemu-img info --image-opts driver=qcow2,file.filename=i",
            "qemu-img info --image-opts driver=raw,offset=512,file.filename=i",
            "qemu-img info --image-opts driver=raw,file.driver=qcow2,file.file.filename=i",
            "qemu-img info --image-opts driver=blkdebug,image.driver=qcow2,image.file.filename=i",
            "qemu-img info --image-opts driver=qcow2,file.driver=blkdebug,file.image.filename=i",
            "qemu-img info --image-opts driver=null-co,size=1M",
            "qemu-img info --output=json --image-opts driver=null-co,size=1M",
            "qemu-img info --image-opts driver=file,filename=i",
            "qemu-img info json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"i\"}}",
        ],
    ),
];

#[test]
fn of_images_with_a_story() {
    let mut differences = String::new();
    for (steps, questions) in STORIES {
        let Some(mut bench) = Bench::new(env!("CARGO_BIN_EXE_qemu-img")) else { return };
        bench.data("d", 3 << 20, 11);
        std::fs::create_dir(bench.path("sub")).unwrap();
        for step in *steps {
            match step.strip_prefix("damage ") {
                Some(damage) => inflict(&bench, damage),
                None => run_step(&bench, step),
            }
        }
        questions.iter().for_each(|question| bench.same(question));
        let found = bench.end();
        if !found.is_empty() {
            differences += &format!("== {}\n{found}", steps.join("; "));
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

/// Runs a step with Debian's tools. An underline stands for a space within an argument of qemu-io.
fn run_step(bench: &Bench, step: &str) {
    let mut words = step.split_whitespace();
    let tool = words.next().unwrap();
    let words = words.map(|word| if tool == "qemu-io" { word.replace('_', " ") } else { word.into() });
    let output = bench.command(Whose::Theirs, tool).args(words).output().unwrap();
    assert!(output.status.success(), "{step}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Overwrites bytes of `i`: an offset, and bytes in hexadecimal.
fn inflict(bench: &Bench, damage: &str) {
    use std::os::unix::fs::FileExt;
    let (offset, bytes) = damage.split_once(' ').unwrap();
    let bytes: Vec<u8> =
        (0..bytes.len() / 2).map(|i| u8::from_str_radix(&bytes[2 * i..2 * i + 2], 16).unwrap()).collect();
    let file = std::fs::OpenOptions::new().write(true).open(bench.path("i")).unwrap();
    file.write_all_at(&bytes, offset.parse().unwrap()).unwrap();
}

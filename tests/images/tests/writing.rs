//! Images written by our tool: Debian's finds them sound, and with the contents that its own have after the same steps.

use rhea_image_tests::{Bench, Random, Whose};

/// A story: steps that both tools take, each in its own folder with the raw files `d` and `e` (3 MiB of data) in it.
/// Afterwards the files named by the last word (`format:name,…`) must be sound, and alike.
const STORIES: &[(&[&str], &str)] = &[
    // raw
    (&["qemu-img create i 1M"], "raw:i"),
    (&["qemu-img create -q i 1000"], "raw:i"),
    (&["qemu-img create -o preallocation=falloc i 64k"], "raw:i"),
    (&["qemu-img create -f raw -o nocow=off,extent_size_hint=1M,preallocation=full i 1M"], "raw:i"),
    (&["qemu-img convert -f raw d i"], "raw:i"),
    (&["qemu-img convert -f raw -O raw -S 0 d i"], "raw:i"),
    (&["qemu-img convert -f raw -S 64k d i"], "raw:i"),
    (&["qemu-img convert -f raw -C d i"], "raw:i"),
    (&["qemu-img convert -f raw -W -m 3 d i"], "raw:i"),
    (&["qemu-img convert -f raw -t none -T none d i"], "raw:i"),
    (&["qemu-img convert -f raw -t writethrough d i"], "raw:i"),
    (&["qemu-img convert -f raw -r 100M d i"], "raw:i"),
    (&["qemu-img convert -f raw d e i"], "raw:i"),
    (&["qemu-img convert -f raw --salvage d i"], "raw:i"),
    (&["qemu-img convert -f raw -n d e"], "raw:e"),
    (&["qemu-img create z 5M", "qemu-img convert -f raw -n d z"], "raw:z"),
    (&["qemu-img create z 5M", "qemu-img convert -f raw -n --target-is-zero d z"], "raw:z"),
    (&["qemu-img dd -f raw if=d of=i"], "raw:i"),
    (&["qemu-img dd -f raw if=d of=i bs=1000 count=77"], "raw:i"),
    (&["qemu-img dd -f raw if=d of=i bs=64k skip=3"], "raw:i"),
    (&["qemu-img dd -f raw if=d of=i bs=1M skip=9"], "raw:i"),
    (
        &[
            "qemu-img resize -f raw d +1M",
            "qemu-img resize -f raw --shrink d -512k",
            "qemu-img resize -q -f raw d 3M",
        ],
        "raw:d",
    ),
    (&["qemu-img resize -f raw --preallocation=falloc d 4M"], "raw:d"),
    (&["qemu-img resize -f raw --preallocation=full d 4M"], "raw:d"),
    // qcow2
    (&["qemu-img create -f qcow2 i 100M"], "qcow2:i"),
    (&["qemu-img create -f qcow2 -o cluster_size=4k,lazy_refcounts=on,compat=v3 i 7M"], "qcow2:i"),
    (&["qemu-img create -f qcow2 -o cluster_size=4k -o size=5M i"], "qcow2:i"),
    (&["qemu-img create -f qcow2 -F raw -b d i"], "qcow2:i"),
    (&["qemu-img create -f qcow2 -u -F raw -b nope i 1M", "qemu-img rebase -u -F raw -b d i"], "qcow2:i"),
    (&["qemu-img create -f qcow2 -b d -o backing_file=e,backing_fmt=raw i"], "qcow2:i"),
    (
        &["qemu-img create -f qcow2 -o preallocation=metadata,extended_l2=on,cluster_size=128k i 20M"],
        "qcow2:i",
    ),
    (
        // The name of the data file is one from where the tool runs. (What `map` says of its holes depends on how much
        // storage the tables take, of which ours take less; interop.rs asks both tools of one image.)
        &[
            "qemu-img create -f qcow2 -o data_file=x,data_file_raw=on,preallocation=metadata i 2M",
            "qemu-img check i",
        ],
        "raw:x",
    ),
    (&["qemu-img create -f qcow2 -o refcount_bits=1,nocow=off i 2M"], "qcow2:i"),
    (&["qemu-img convert -f raw -O qcow2 d i"], "qcow2:i"),
    (&["qemu-img convert -p -f raw -O qcow2 -S 0 d i"], "qcow2:i"),
    (&["qemu-img convert -f raw -O qcow2 -c d i"], "qcow2:i"),
    (&["qemu-img convert -f raw -O qcow2 -c -m 1 -o compression_type=zstd d i"], "qcow2:i"),
    (&["qemu-img convert -f raw -O qcow2 -c -W -o cluster_size=4k d i"], "qcow2:i"),
    (&["qemu-img convert -f raw -O qcow2 -o cluster_size=2M d i"], "qcow2:i"),
    (&["qemu-img convert -f raw -O qcow2 -o extended_l2=on d i"], "qcow2:i"),
    (
        &["qemu-img convert -f raw -O qcow2 -o compat=0.10 d i", "qemu-img convert -O qcow2 i j"],
        "qcow2:i,qcow2:j",
    ),
    (&["qemu-img convert -f raw -O qcow2 d i", "qemu-img convert -n -f raw -O qcow2 e i"], "qcow2:i"),
    (&["qemu-img convert -f raw -O qcow2 -B e -F raw d i"], "qcow2:i"),
    (
        &[
            "qemu-img create -f qcow2 -F raw -b d o",
            "qemu-img convert -n -f raw --target-image-opts e driver=qcow2,file.filename=o",
            "qemu-img convert -O qcow2 -B d -F raw o i",
            "qemu-img convert -O qcow2 -c -B d -F raw o j",
        ],
        "qcow2:o,qcow2:i,qcow2:j",
    ),
    (&["qemu-img convert -f raw -O qcow2 d e i"], "qcow2:i"),
    (&["qemu-img dd -f raw -O qcow2 if=d of=i bs=1M count=2"], "qcow2:i"),
    (
        &[
            "qemu-img create -f qcow2 i 1M",
            "qemu-img resize i 200M",
            "qemu-img resize --shrink i -50M",
            "qemu-img resize --preallocation=metadata i 160M",
        ],
        "qcow2:i",
    ),
    (
        &[
            "qemu-img convert -f raw -O qcow2 d i",
            "qemu-img snapshot -c one i",
            "qemu-img convert -n -f raw -O qcow2 e i",
            "qemu-img snapshot -c two i",
            "qemu-img convert -l one i j",
            "qemu-img convert -O qcow2 -l snapshot.name=two i k",
            "qemu-img snapshot -a one i",
            "qemu-img snapshot -d two i",
            "qemu-img snapshot -d two i",
        ],
        "qcow2:i,raw:j,qcow2:k",
    ),
    (
        &[
            "qemu-img create -f qcow2 i 4M",
            "qemu-img bitmap --add i b0",
            "qemu-img bitmap --add -g 4k i b1",
            "qemu-img bitmap --add --disable i b2",
            "qemu-img convert -n -f raw -O qcow2 d i",
            "qemu-img bitmap --enable i b2",
            "qemu-img bitmap --merge b0 --clear i b2",
            "qemu-img bitmap --merge b0 i b2",
            "qemu-img bitmap --clear i b1",
            "qemu-img bitmap --disable i b0",
            "qemu-img convert --bitmaps -O qcow2 i j",
            "qemu-img bitmap --remove i b0",
            "qemu-img bitmap --merge b2 -b i -F qcow2 j b1",
            "qemu-img measure -O qcow2 j",
        ],
        "qcow2:i,qcow2:j",
    ),
    (
        &[
            "qemu-img create -f qcow2 -F raw -b d i",
            "qemu-img rebase -b e -F raw i",
            "qemu-img rebase -b '' i",
        ],
        "qcow2:i",
    ),
    (&["qemu-img create -f qcow2 -F raw -b d i", "qemu-img rebase -c -b '' i"], "qcow2:i"),
    (&["qemu-img create -f qcow2 -F raw -b d i", "qemu-img rebase -u i"], "qcow2:i"),
    (&["qemu-img convert -f raw -O qcow2 d i", "qemu-img rebase -b e -F raw i"], "qcow2:i"),
    (
        &[
            "qemu-img create -f qcow2 -F raw -b d m",
            "qemu-img create -f qcow2 -F qcow2 -b m i 4M",
            "qemu-img convert -n -f raw --target-image-opts e driver=qcow2,file.filename=i",
            // What an emptied image still takes of the disk, `info` would tell: less of ours, as zeroes are left to holes.
            "qemu-img commit i",
            "qemu-img check i",
            "qemu-img compare i m",
        ],
        "qcow2:i,qcow2:m",
    ),
    (
        &[
            "qemu-img create -f qcow2 -F raw -b d m",
            "qemu-img create -f qcow2 -F qcow2 -b m i",
            "qemu-img convert -n -f raw --target-image-opts e driver=qcow2,file.filename=i",
            "qemu-img commit -q -b d i",
        ],
        "qcow2:i,raw:d",
    ),
    (
        &[
            "qemu-img create -f qcow2 -F raw -b d i",
            "qemu-img convert -n -f raw --target-image-opts e driver=qcow2,file.filename=i",
            "qemu-img commit -d -r 100M i",
        ],
        "qcow2:i,raw:d",
    ),
    (
        &[
            "qemu-img convert -f raw -O qcow2 d i",
            "qemu-img amend -o compat=0.10 i",
            "qemu-img amend -o compat=1.1 i",
            "qemu-img amend -p -o lazy_refcounts=on,refcount_bits=64 i",
            "qemu-img amend -o size=8M i",
        ],
        "qcow2:i",
    ),
    // Others
    (&["qemu-img convert -f raw -O vmdk d i", "qemu-img convert -f vmdk i j"], "vmdk:i,raw:j"),
    (&["qemu-img convert -f raw -O vmdk -o subformat=streamOptimized d i"], "vmdk:i"),
    (&["qemu-img convert -f raw -O vmdk -o subformat=twoGbMaxExtentSparse d i"], "vmdk:i"),
    (&["qemu-img convert -f raw -O vmdk -o subformat=monolithicFlat d i"], "vmdk:i"),
    (&["qemu-img create -f vmdk i 10M"], "vmdk:i"),
    (&["qemu-img convert -f raw -O vdi d i", "qemu-img convert -f vdi i j"], "vdi:i,raw:j"),
    (&["qemu-img convert -f raw -O vdi -o static=on d i"], "vdi:i"),
    (&["qemu-img create -f vdi i 10M"], "vdi:i"),
    (&["qemu-img convert -f raw -O vhdx d i", "qemu-img convert -f vhdx i j"], "vhdx:i,raw:j"),
    (&["qemu-img convert -f raw -O vhdx -o subformat=fixed d i"], "vhdx:i"),
    (&["qemu-img create -f vhdx -o log_size=2M,block_size=1M i 10M"], "vhdx:i"),
    (&["qemu-img convert -f raw -O vpc d i", "qemu-img convert -f vpc i j"], "vpc:i,raw:j"),
    (&["qemu-img convert -f raw -O vpc -o subformat=fixed d i"], "vpc:i"),
    (&["qemu-img create -f vpc i 10M"], "vpc:i"),
    (&["qemu-img convert -f raw -O qed d i", "qemu-img convert -f qed i j"], "qed:i,raw:j"),
    (
        &["qemu-img create -f qed -o cluster_size=4k,table_size=2,backing_file=d,backing_fmt=raw i 10M"],
        "qed:i",
    ),
    (&["qemu-img convert -f raw -O parallels d i", "qemu-img convert -f parallels i j"], "parallels:i,raw:j"),
    (&["qemu-img convert -f raw -O qcow d i", "qemu-img convert -f qcow i j"], "qcow:i,raw:j"),
];

#[test]
fn stories_end_alike() {
    let differences = std::sync::Mutex::new(String::new());
    std::thread::scope(|scope| {
        for part in STORIES.chunks(STORIES.len().div_ceil(4)) {
            let differences = &differences;
            scope.spawn(move || {
                for (steps, files) in part {
                    let found = tell(steps, files);
                    if !found.is_empty() {
                        let all = &mut *differences.lock().unwrap();
                        *all += &format!("== {}\n{found}", steps.join("; "));
                    }
                }
            });
        }
    });
    let differences = differences.into_inner().unwrap();
    assert!(differences.is_empty(), "{differences}");
}

/// Takes the steps, and looks at what they have led to; what differed.
fn tell(steps: &[&str], files: &str) -> String {
    let Some(mut bench) = Bench::new(env!("CARGO_BIN_EXE_qemu-img")) else { return String::new() };
    for folder in ["theirs", "ours"] {
        std::fs::create_dir(bench.path(folder)).unwrap();
        bench.data(&format!("{folder}/d"), 3 << 20, 21);
        bench.data(&format!("{folder}/e"), 3 << 20, 22);
    }
    steps.iter().for_each(|step| bench.pair(step));
    for file in files.split(',') {
        let (format, name) = file.split_once(':').unwrap();
        let compare = format!("qemu-img compare -f {format} -F {format} ours/{name} theirs/{name}");
        let check = format!("qemu-img check -f {format} ours/{name}");
        for (line, well) in [(compare, &[Some(0)][..]), (check, &[Some(0), Some(63)])] {
            let ran = bench.run(Whose::Theirs, &line);
            if !well.contains(&ran.status) {
                bench.note_failure(&format!("Debian's {line}\n{}{}", ran.out, ran.err));
            }
        }
    }
    bench.end()
}

/// What Debian's tools fail at for reasons of their own, ours do; the result is sound.
///
/// * Compressed clusters cannot be written where clusters are already: QEMU's driver gives EIO.
/// * `convert -c` to qcow copies everything, and then ends with status 1 without a word: the request that tells the driver
///   of the end is one that its qcow driver refuses.
#[test]
fn compression_works_where_debian_gives_up() {
    let Some(mut bench) = Bench::new(env!("CARGO_BIN_EXE_qemu-img")) else { return };
    bench.data("d", 3 << 20, 21);
    bench.data("e", 3 << 20, 22);
    bench.ok(Whose::Theirs, "qemu-img convert -f raw -O qcow2 d i");
    bench.ok(Whose::Ours, "qemu-img convert -n -c -f raw -O qcow2 e i");
    bench.ok(Whose::Ours, "qemu-img convert -f raw -O qcow -c e j");
    for line in [
        "qemu-img compare -f raw -F qcow2 e i",
        "qemu-img compare -f raw -F qcow e j",
        "qemu-img check -f qcow2 i",
        "qemu-img map --output=json -f qcow2 i",
        "qemu-img map --output=json -f qcow j",
    ] {
        let theirs = bench.ok(Whose::Theirs, line);
        let ours = bench.ok(Whose::Ours, line);
        bench.note(line, &theirs, &ours);
    }
    bench.done();
}

/// Formats that can be written to at random.
const WRITABLE: &[(&str, &str)] = &[
    ("raw", ""),
    ("qcow2", ""),
    ("qcow2", "-o cluster_size=512"),
    ("qcow2", "-o extended_l2=on"),
    ("qcow2", "-o data_file=data"),
    ("qcow2", "-o lazy_refcounts=on"),
    ("qcow2", "-o refcount_bits=1"),
    ("vmdk", ""),
    ("vmdk", "-o subformat=twoGbMaxExtentSparse"),
    ("vdi", ""),
    ("vhdx", ""),
    ("vpc", "-o force_size=on"),
    ("qed", ""),
    ("parallels", ""),
    ("qcow", ""),
];

/// Writes, zeroes and discards at random, by both qemu-io in turn, are seen alike by both qemu-img.
#[test]
fn random_writes_are_seen_by_both() {
    let mut differences = String::new();
    for (index, (format, options)) in WRITABLE.iter().enumerate() {
        let Some(mut bench) = Bench::new(env!("CARGO_BIN_EXE_qemu-img")) else { return };
        if let Err(told) = write_at_random(&mut bench, index as u64 + 1, format, options) {
            bench.note_failure(&told);
        }
        let found = bench.end();
        if !found.is_empty() {
            differences += &format!("== {format} {options}\n{found}");
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

fn must(bench: &Bench, whose: Whose, line: &str, well: &[i32]) -> Result<(), String> {
    let ran = bench.run(whose, line);
    match ran.status {
        Some(status) if well.contains(&status) => Ok(()),
        _ => Err(format!("{whose:?} {line}\n{}{}", ran.out, ran.err)),
    }
}

fn write_at_random(bench: &mut Bench, seed: u64, format: &str, options: &str) -> Result<(), String> {
    let mut random = Random::new(seed);
    must(bench, Whose::Ours, &format!("qemu-img create -f {format} {options} i 4M"), &[0])?;
    must(bench, Whose::Theirs, "qemu-img create -f raw shadow 4M", &[0])?;
    for round in 0..4 {
        let whose = [Whose::Ours, Whose::Theirs][round % 2];
        let commands: Vec<String> =
            (0..12).flat_map(|_| ["-c".to_owned(), random_write(&mut random)]).collect();
        for (who, format, file) in [(whose, format, "i"), (Whose::Theirs, "raw", "shadow")] {
            let mut command = bench.command(who, "qemu-io");
            let output = command.args(["-f", format]).args(&commands).arg(file).output().unwrap();
            if !output.status.success() {
                let told = String::from_utf8_lossy(&output.stderr);
                return Err(format!("{who:?} {commands:?}\n{told}"));
            }
        }
        for who in [Whose::Theirs, Whose::Ours] {
            must(bench, who, &format!("qemu-img compare -f {format} -F raw i shadow"), &[0])
                .and(must(bench, who, &format!("qemu-img check -f {format} i"), &[0, 63]))
                .map_err(|told| format!("after {whose:?} {commands:?}\n{told}"))?;
        }
        bench.same(&format!("qemu-img map --output=json -f {format} i"));
        bench.same(&format!("qemu-img check -f {format} i"));
    }
    Ok(())
}

/// A command of qemu-io; what is discarded is written as zeroes first, so that both images read the same.
fn random_write(random: &mut Random) -> String {
    let offset = random.below(8000) * 512;
    let len = ((random.below(200) + 1) * 512).min((4 << 20) - offset);
    match random.below(6) {
        0 => format!("write -z {offset} {len}"),
        1 => format!("write -z -u {offset} {len}"),
        _ => format!("write -P {} {offset} {len}", random.below(255) + 1),
    }
}

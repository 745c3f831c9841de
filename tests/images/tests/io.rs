//! `qemu-io`: what commands do and print, side by side with Debian's.

use std::fs;

use rhea_image_tests::{Bench, Whose};

/// Command lines about the files `d` and `e` (1 MiB, with data), which are as they were before each of them. Left out are
/// lines on which Debian's tool waits for ever, tells nonsense (the time of `aio_write -z`), or overlooks a word.
const LINES: &[&[&str]] = &[
    &["-c", "read 0 1k", "d"],
    &["-c", "read -v 1000 40", "d"],
    &["-c", "read -P 0 0 1k", "d"],
    &["-c", "read -P 0xcd 0 1k", "d"],
    &["-c", "read -P 0 -s 512 -l 512 0 1k", "d"],
    &["-c", "read -P 0 -s 1024 -l 512 0 1k", "d"],
    &["-c", "read -P 0 -s 1025 0 1k", "d"],
    &["-c", "read -P 0 -l 2k 0 1k", "d"],
    &["-c", "read -s 1 0 1k", "d"],
    &["-c", "read -l 1 0 1k", "d"],
    &["-c", "read -P 300 0 1k", "d"],
    &["-c", "read -P x 0 1k", "d"],
    &["-c", "read -P -1 0 1k", "d"],
    &["-c", "read -C 0 1k", "d"],
    &["-c", "read -q 0 1k", "d"],
    &["-c", "read -p 0 1k", "d"],
    &["-c", "read -r 0 1k", "d"],
    &["-c", "read -x 0 1k", "d"],
    &["-c", "read 0", "d"],
    &["-c", "read", "d"],
    &["-c", "read 0 1k 2k", "d"],
    &["-c", "read 1 1", "d"],
    &["-c", "read 0 0", "d"],
    &["-c", "read 0 -1", "d"],
    &["-c", "read -1 1k", "d"],
    &["-c", "read foo 1k", "d"],
    &["-c", "read 0 foo", "d"],
    &["-c", "read 0 1X", "d"],
    &["-c", "read 0 3G", "d"],
    &["-c", "read 1M 1k", "d"],
    &["-c", "read 1048000 1k", "d"],
    &["-c", "read 8E 1", "d"],
    &["-c", "read 9999999999999999999999 1", "d"],
    &["-c", "read -b 0 512", "d"],
    &["-c", "read -b 0 511", "d"],
    &["-c", "readv 0 512 1k", "d"],
    &["-c", "readv -v 0 16 16", "d"],
    &["-c", "readv -P 1 0 512 1k", "d"],
    &["-c", "readv 0", "d"],
    &["-c", "readv 0 3G", "d"],
    &["-c", "readv 0 1G 1G", "d"],
    &["-c", "readv 0 x", "d"],
    &["-c", "readv 1M 512", "d"],
    &["-c", "aio_read 0 1k", "-c", "aio_flush", "d"],
    &["-c", "aio_read -v 0 16", "-c", "aio_flush", "d"],
    &["-c", "aio_read -P 1 0 16", "-c", "aio_flush", "d"],
    &["-c", "aio_read -i 0 16", "-c", "aio_flush", "d"],
    &["-c", "aio_read 1M 16", "-c", "aio_flush", "d"],
    &["-c", "aio_read -C 0 1k", "d"],
    &["-c", "aio_read 0", "d"],
    &["-c", "aio_read 0 x", "d"],
    &["-c", "aio_write 0 1k", "-c", "aio_flush", "d"],
    &["-c", "aio_write -u 0 64k", "-c", "aio_flush", "d"],
    &["-c", "aio_write -i 0 1k", "-c", "aio_flush", "d"],
    &["-c", "aio_write -f 0 1k", "-c", "aio_flush", "d"],
    &["-c", "aio_write 1M 1k", "-c", "aio_flush", "d"],
    &["-c", "write 0 1k", "-c", "read -P 0xcd 0 1k", "d"],
    &["-c", "write -P 7 0 1k", "-c", "read -v 0 32", "d"],
    &["-c", "write -P 7 1 1", "-c", "read -v 0 32", "d"],
    &["-c", "write -z 0 1k", "d"],
    &["-c", "write -z -P 1 0 1k", "d"],
    &["-c", "write -b 0 512", "d"],
    &["-c", "write -b -z 0 512", "d"],
    &["-c", "write -c 0 64k", "d"],
    &["-c", "write -c 1 64k", "d"],
    &["-c", "write -c 0 65535", "d"],
    &["-c", "write -f 0 512", "d"],
    &["-c", "write -f -c 0 512", "d"],
    &["-c", "write -f -b 0 512", "d"],
    &["-c", "write -n 0 512", "d"],
    &["-c", "write -n -z 0 512", "d"],
    &["-c", "write -u 0 512", "d"],
    &["-c", "write -zu 0 512", "d"],
    &["-c", "write -zn 0 3G", "d"],
    &["-c", "write -z 0 3G", "d"],
    &["-c", "write -s e 0 512", "d"],
    &["-c", "write -s nope 0 512", "d"],
    &["-c", "write -s /dev/null 0 512", "d"],
    &["-c", "write -s e -P 1 0 512", "d"],
    &["-c", "write -s e -z 0 512", "d"],
    &["-c", "write -q 0 512", "d"],
    &["-c", "write -C 0 512", "d"],
    &["-c", "write 1M 512", "d"],
    &["-c", "write x 512", "d"],
    &["-c", "write 0", "d"],
    &["-r", "-c", "write 0 512", "d"],
    &["-r", "-c", "aio_write 0 512", "d"],
    &["-r", "-c", "writev 0 512", "d"],
    &["-r", "-c", "discard 0 512", "d"],
    &["-r", "-c", "truncate 512k", "d"],
    &["-r", "-c", "flush", "d"],
    &["-c", "writev 0 512 1k", "d"],
    &["-c", "writev -P 9 0 512 1k", "-c", "read -P 9 0 1536", "d"],
    &["-c", "writev -z 0 512", "d"],
    &["-c", "writev 0", "d"],
    &["-c", "writev 1M 512", "d"],
    &["-c", "discard 0 1M", "d"],
    &["-c", "discard -C 0 1M", "d"],
    &["-c", "discard -q 0 1M", "d"],
    &["-c", "discard 1M 1M", "d"],
    &["-c", "discard 0 3G", "d"],
    &["-c", "discard 1 x", "d"],
    &["-c", "flush", "d"],
    &["-c", "truncate 512k", "-c", "length", "d"],
    &["-c", "truncate 5M", "-c", "length", "d"],
    &["-c", "truncate -m full 6M", "-c", "length", "d"],
    &["-c", "truncate -m foo 6M", "-c", "length", "d"],
    &["-c", "truncate -m falloc 1M", "d"],
    &["-c", "truncate", "d"],
    &["-c", "truncate x", "d"],
    &["-c", "length", "d"],
    &["-c", "length 1", "d"],
    &["-c", "map", "d"],
    &["-c", "map 1", "d"],
    &["-c", "alloc 0", "d"],
    &["-c", "alloc 0 1M", "d"],
    &["-c", "alloc 1000 1000", "d"],
    &["-c", "alloc 1M", "d"],
    &["-c", "alloc 0 5M", "d"],
    &["-c", "alloc -1", "d"],
    &["-c", "alloc x", "d"],
    &["-c", "alloc 0 x", "d"],
    &["-c", "info", "d"],
    &["-c", "info 1", "d"],
    &["-c", "close", "d"],
    &["-c", "close", "-c", "read 0 512", "d"],
    &["-c", "close", "-c", "close", "d"],
    &["-c", "close", "-c", "open d", "-c", "length", "d"],
    &["-c", "open d", "d"],
    &["-c", "open", "d"],
    &["-c", "open d e"],
    &["-c", "open d", "-c", "length"],
    &["-c", "open -r d", "-c", "write 0 512"],
    &["-c", "open -n d", "-c", "length"],
    &["-c", "open -t foo d"],
    &["-c", "open -i foo d"],
    &["-c", "open -d foo d"],
    &["-c", "open -t none -d unmap -i threads -o driver=raw d", "-c", "info"],
    &["-c", "open -o driver=raw,file.filename=d", "-c", "info"],
    &["-c", "open -o driver=foo d"],
    &["-c", "open -x d"],
    &["-c", "open nope"],
    &["-c", "open -s d", "-c", "write 0 512", "-c", "read -P 0xcd 0 512"],
    &["-c", "open -C d", "-c", "length"],
    &["-c", "open -U d", "-c", "length"],
    &["-c", "open -k d", "-c", "length"],
    &["-c", "reopen -r", "-c", "write 0 512", "d"],
    &["-c", "reopen -r -w", "d"],
    &["-c", "reopen -c none", "d"],
    &["-c", "reopen -c foo", "d"],
    &["-c", "reopen foo", "d"],
    &["-r", "-c", "reopen -w", "-c", "write 0 512", "d"],
    &["-c", "reopen -x", "d"],
    &["-c", "break write_aio A", "d"],
    &["-c", "resume A", "d"],
    &["-c", "remove_break A", "d"],
    &["-c", "break", "d"],
    &["-c", "resume", "d"],
    &["-c", "sleep 10", "d"],
    &["-c", "sleep x", "d"],
    &["-c", "sleep", "d"],
    &["-c", "quit", "-c", "length", "d"],
    &["-c", "q", "-c", "length", "d"],
    &["-c", "nope", "d"],
    &["-c", "nope", "-c", "length", "d"],
    &["-c", "", "d"],
    &["-c", "help nope", "d"],
    &["-c", "help help", "d"],
    &["-c", "help length", "d"],
    &["-c", "? length", "d"],
    &["-c", "help read write", "d"],
    &["-c", "r 0 512", "d"],
    &["-c", "w 0 512", "d"],
    &["-c", "l", "d"],
    &["-c", "a 0", "d"],
    &["-c", "d 0 512", "d"],
    &["-c", "f", "d"],
    &["-c", "t 2M", "d"],
    &["-c", "i", "d"],
    &["-c", "o e", "d"],
    &["-c", "c", "d"],
    &["-c", "s", "d"],
    &["-c", "zone_report 0 1", "d"],
    &["-c", "zrp 0 1", "d"],
    &["-c", "zrp 0", "d"],
    &["-c", "zone_open 0 1", "d"],
    &["-c", "zo 0 x", "d"],
    &["-c", "zc 0 1", "d"],
    &["-c", "zf 0 1", "d"],
    &["-c", "zrs 0 1", "d"],
    &["-c", "zap 0 512", "d"],
    &["-c", "zap 0 1000", "d"],
    &["-c", "zap -p 0 512 512", "d"],
    &["-c", "zone_append 0", "d"],
    &["-r", "-c", "zrs 0 1", "d"],
    &["-c", "sigraise 0", "d"],
    &["-c", "sigraise x", "d"],
    &["-c", "sigraise 99", "d"],
    &["-c", "sigraise", "d"],
    &["-c", "length"],
    &["-c", "write 0 512"],
    &["-f", "nope", "-c", "length", "d"],
    &["-f", "raw", "-c", "length", "d"],
    &["-f", "qcow2", "-c", "length", "d"],
    &["-c", "length", "nope"],
    &["--image-opts", "-c", "length", "driver=raw,file.filename=d"],
    &["--image-opts", "-f", "raw", "-c", "length", "driver=raw,file.filename=d"],
    &["--image-opts", "-c", "length", "driver=foo,file.filename=d"],
    &["--object", "secret,id=s,data=x", "-c", "length", "d"],
    &["--object", "foo,id=s", "-c", "length", "d"],
    &["--object", "secret,data=x", "-c", "length", "d"],
    &["-t", "foo", "-c", "length", "d"],
    &["-t", "none", "-c", "read 1 1", "d"],
    &["-n", "-c", "read 0 512", "d"],
    &[
        "-n",
        "-m",
        "-c",
        "write -P 3 0 4k",
        "-c",
        "read -P 3 0 4k",
        "-c",
        "aio_write -P 4 0 512 512",
        "-c",
        "aio_flush",
        "-c",
        "readv -P 4 0 512 512",
        "d",
    ],
    &["-m", "-c", "read 0 512", "d"],
    &["-i", "foo", "-c", "length", "d"],
    &["-i", "threads", "-c", "length", "d"],
    &["-i", "io_uring", "-c", "length", "d"],
    &["-k", "-c", "length", "d"],
    &["-d", "foo", "-c", "length", "d"],
    &["-d", "unmap", "-c", "discard 0 512", "d"],
    &["-s", "-c", "write -P 5 0 512", "-c", "read -P 5 0 512", "d"],
    &["-C", "-c", "length", "d"],
    &["-U", "-c", "length", "d"],
    &["-U", "-r", "-c", "length", "d"],
    &["--cm", "length", "d"],
    &["--read-only", "-c", "write 0 512", "d"],
    &["--snapshot", "--nocache", "--copy-on-read", "--force-share", "-c", "length", "d"],
];

/// Lines about a qcow2 image `q` (1 MiB, some of it written, compressed, zero) and its overlay `o`. Compressed writes over
/// clusters that are there already work with ours only, and those of parts of clusters are refused with a reason.
const QCOW2: &[&[&str]] = &[
    &["-c", "info", "q"],
    &["-c", "map", "q"],
    &["-c", "map", "o"],
    &["-c", "alloc 0 1M", "q"],
    &["-c", "alloc 0 1M", "o"],
    &["-c", "length", "-c", "info", "o"],
    &["-c", "write -c -P 5 960k 64k", "-c", "map", "q"],
    &["-c", "write -b 0 1k", "-c", "read -b -P 0xcd 0 1k", "q"],
    &["-c", "read -b 0 512", "q"],
    &["-c", "write -z -u 0 128k", "-c", "map", "q"],
    &["-c", "write -z -n 0 1k", "q"],
    &["-c", "discard 0 128k", "-c", "map", "q"],
    &["-c", "discard 100 200", "-c", "map", "q"],
    &["-c", "truncate 3M", "-c", "map", "-c", "length", "q"],
    &["-c", "truncate -m metadata 3M", "-c", "map", "q"],
    &["-c", "truncate 512k", "-c", "map", "q"],
    &["-c", "reopen -o lazy-refcounts=on", "-c", "write 0 64k", "q"],
    &["-c", "reopen -o nonsense=on", "q"],
    &["-c", "reopen -r", "-c", "discard 0 64k", "q"],
    &["-c", "break l2_load A", "q"],
    &[
        "-c",
        "break write_aio A",
        "-c",
        "aio_write 0 64k",
        "-c",
        "wait_break A",
        "-c",
        "resume A",
        "-c",
        "aio_flush",
        "blkdebug::q",
    ],
    &["-c", "break nonsense A", "-c", "remove_break A", "-c", "resume A", "blkdebug::q"],
    &["-s", "-c", "write -P 9 0 64k", "-c", "read -P 9 0 64k", "q"],
    &["-C", "-c", "read 0 1M", "-c", "map", "o"],
    &["-c", "readv -P 0xcd 0 512 512", "-c", "writev -P 3 64k 1k 2k", "-c", "readv -P 3 64k 3k", "q"],
    &["-c", "aio_read 0 1k", "-c", "aio_flush", "-c", "aio_write -P 4 1M 1k", "-c", "aio_flush", "q"],
    &["--image-opts", "-c", "map", "driver=qcow2,file.filename=q,backing.driver=raw"],
    &[
        "-t",
        "none",
        "-m",
        "-c",
        "write -P 3 1 1000",
        "-c",
        "read -P 3 1 1000",
        "-c",
        "aio_write 4k 512",
        "-c",
        "aio_flush",
        "q",
    ],
];

fn compare(bench: &mut Bench, lines: &[&[&str]], files: &[&str]) {
    for words in lines {
        let mut ran = Vec::new();
        for (folder, whose) in [("theirs", Whose::Theirs), ("ours", Whose::Ours)] {
            for file in files {
                fs::copy(bench.path(file), bench.path(folder).join(file)).unwrap();
            }
            let output =
                bench.command(whose, "qemu-io").current_dir(bench.path(folder)).args(*words).output();
            ran.push(output.unwrap().into());
        }
        bench.note(&format!("qemu-io {words:?}"), &ran[0], &ran[1]);
        let contents = |folder: &str| {
            files.iter().map(|f| fs::read(bench.path(folder).join(f)).unwrap()).collect::<Vec<_>>()
        };
        if files == ["d", "e"] && contents("theirs") != contents("ours") {
            bench.note_failure(&format!("qemu-io {words:?}: the files differ"));
        }
    }
}

fn bench() -> Option<Bench> {
    let bench = Bench::new(env!("CARGO_BIN_EXE_qemu-io"))?;
    bench.data("d", 1 << 20, 41);
    bench.data("e", 1 << 20, 42);
    for folder in ["theirs", "ours"] {
        fs::create_dir(bench.path(folder)).unwrap();
    }
    Some(bench)
}

#[test]
fn commands_on_raw_files() {
    let Some(mut bench) = bench() else { return };
    compare(&mut bench, LINES, &["d", "e"]);
    bench.done();
}

#[test]
fn commands_on_qcow2_images() {
    let Some(mut bench) = bench() else { return };
    bench.ok(Whose::Theirs, "qemu-img create -f qcow2 q 1M");
    for command in ["write 0 128k", "write -c 128k 64k", "write -z 256k 64k", "write -P 7 600k 10k"] {
        let output = bench.command(Whose::Theirs, "qemu-io").args(["-c", command, "q"]).output().unwrap();
        assert!(output.status.success());
    }
    bench.ok(Whose::Theirs, "qemu-img create -f qcow2 -F qcow2 -b q o 2M");
    compare(&mut bench, QCOW2, &["q", "o"]);
    bench.done();
}

/// Commands from standard input, with their prompts.
#[test]
fn commands_from_standard_input() {
    use std::io::Write;
    let Some(mut bench) = bench() else { return };
    let mut ran = Vec::new();
    for whose in [Whose::Theirs, Whose::Ours] {
        let mut command = bench.command(whose, "qemu-io");
        command.args(["-r", "d"]).stdin(std::process::Stdio::piped());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"length\n\nnope\nread 0 1k\nread 9M 1\nq\nlength\n").unwrap();
        ran.push(child.wait_with_output().unwrap().into());
    }
    bench.note("qemu-io -r d", &ran[0], &ran[1]);
    bench.done();
}

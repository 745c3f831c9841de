//! Every command as a user may call it, side by side with Debian's: what it prints, its exit status, what becomes of files.

use std::fs;

use rhea_image_tests::{Bench, Whose};

/// Lines about raw files `d` and `e` (3 MiB, with data), which are as they were before each of them; `x` is new.
const RAW: &[&str] = &[
    "create -f nope x 1M",
    "create x",
    "create -f qcow2 x 1M -q",
    "convert -p -O qcow2 d x",
    "convert -p nope x",
    "convert -p -q d x",
    "convert -O qcow2 -S 64k d x",
    "convert -W -O qcow2 d x",
    "convert -m 4 -O qcow2 d x",
    "convert -r 500M -O qcow2 d x",
    "convert -n --target-is-zero d x",
    "convert --target-is-zero d x",
    "convert -n --target-is-zero -O qcow2 -o x=1 d x",
    "convert --salvage -O qcow2 d x",
    "convert --salvage --image-opts driver=blkdebug,image.filename=d,inject-error.0.event=read_aio,inject-error.0.sector=4 x",
    "convert --salvage -q --image-opts driver=blkdebug,image.filename=d,inject-error.0.event=read_aio,inject-error.0.sector=4 x",
    "convert --image-opts driver=blkdebug,image.filename=d,inject-error.0.event=read_aio,inject-error.0.sector=4 x",
    "convert -n --target-image-opts d driver=blkdebug,image.filename=e,inject-error.0.event=write_aio,inject-error.0.errno=28",
    "convert -O qcow2 -B d -F raw d x",
    "convert -O qcow2 -B d d x",
    "convert -O qcow2 -o backing_file=d,backing_fmt=raw d x",
    "convert -O raw -B d -F raw d x",
    "convert -O qcow2 -F raw d x",
    "convert -O qcow2 -B nope -F raw d x",
    "convert -O nope d x",
    "convert -f nope d x",
    "convert -O bochs d x",
    "convert -O qcow2 -o foo=1 d x",
    "convert -O qcow2 -o preallocation=metadata d x",
    "convert -O qcow2 -o size=5M d x",
    "convert -c d x",
    "convert -c -O vmdk d x",
    "convert -c -O vmdk -o subformat=streamOptimized d x",
    "convert -c -O vdi d x",
    "convert -C -O qcow2 d x",
    "convert d e x",
    "convert -O qcow2 d",
    "convert -l foo d x",
    "convert -s foo d x",
    "convert -U d x",
    "convert -t none -T none d x",
    "convert -6 d x",
    "convert -i d x",
    "convert d nope/x",
    "convert -n d nope",
    "dd if=d of=x",
    "dd if=d of=x bs=1M count=1",
    "dd if=d of=x bs=1M skip=2",
    "dd if=d of=x bs=1M skip=20",
    "dd if=d of=x bs=1M count=0",
    "dd -O qcow2 if=d of=x",
    "dd -n if=d of=x",
    "dd if=d of=e bs=512",
    "dd if=d of=x bs=3G",
    "dd if=d of=x iflag=direct",
    "dd d x",
    "bench d",
    "bench -c 10 d",
    "bench -q -c 10 d",
    "bench -c 10 -d 4 -s 512 -S 1024 -o 4096 d",
    "bench -w -c 10 -f raw --pattern 3 d",
    "bench -w -c 10 -f raw --flush-interval 5 -d 2 d",
    "bench -w -c 10 -f raw --flush-interval 5 -d 2 --no-drain d",
    "bench -w --flush-interval 5 d",
    "bench -c 10 -o 3M d",
    "bench -c 10 -o 4M d",
    "bench -c 10 -s 4M d",
    "bench -c 3 -t none -i threads d",
    "bench -c 3 -i io_uring d",
    "bench -c 3 -n -t none d",
    "bench d e",
    "bench nope",
    "map d",
    "map -U d",
    "map --output=json d",
    "map --output=json -s 1M -l 64k d",
    "map --output=json -s 3M d",
    "map --output=json -s 4M d",
    "map --output=foo d",
    "map -s foo d",
    "map d e",
    "measure --size 1G",
    "measure --size 1G -O qcow2",
    "measure --size 1G -O raw --output=json",
    "measure --size 1G -O luks",
    "measure --size 1G -O vmdk",
    "measure --size 1G -O vdi",
    "measure --size 1G -O vhdx",
    "measure --size 1G -O vpc",
    "measure --size 1G -O qed",
    "measure --size 1G -O parallels",
    "measure --size 1G -O qcow",
    "measure --size 1G -O file",
    "measure -O qcow2 d",
    "measure -O luks d",
    "measure -O qcow2 -o cluster_size=2M d",
    "measure -O qcow2 -o preallocation=full d",
    "measure -O qcow2 -o foo=1 d",
    "measure -O qcow2 -l foo d",
    "measure --size 8E -O qcow2",
    "measure --size 0 -O qcow2",
    "snapshot -l d",
    "snapshot d",
    "snapshot -c a d",
    "snapshot -q -l d",
    "snapshot -l nope",
    "snapshot -l d e",
    "resize -f raw d 4M",
    "resize -f raw --preallocation=falloc d 4M",
    "resize -f raw --preallocation=full d 4M",
    "resize -f raw --preallocation=off d 4M",
    "resize -f raw d 3M",
    "resize -f raw d +0",
    "resize d 4M",
    "resize -q d 4M",
    "resize -f raw d 1M",
    "resize -f raw --shrink d 1M",
    "resize -f raw --shrink d -- -1M",
    "resize -f raw --shrink d -1M",
    "resize -f raw d 8E",
    "resize -f raw d 10P",
    "resize -f raw d",
    "resize -f raw d 4M 5M",
    "rebase -b e -F raw d",
    "rebase -u -b e d",
    "info d",
    "info -f raw --output=json d",
    "info -b d",
    "info --limits d",
    "info /dev/null",
    "info .",
    "info foo:bar",
    "check -f raw d",
    "check -p d",
    "check -r d",
    "check --output=json -f raw d",
    "compare d e",
    "compare -s d e",
    "compare -q d e",
    "compare -f raw -F raw d d",
    "compare -p -f raw -F raw d d",
    "compare d",
    "compare d e x",
    "compare -f nope d e",
    "amend -f raw -o foo=1 d",
    "amend -o lazy_refcounts=on d",
];

/// Lines about a chain `a` ← `b` ← `i` of qcow2 images of different lengths, of which `a` has snapshots `one` and `two`
/// and a bitmap `b0`. Left out is where Debian's tool is wrong: `check -r` of `a` loses the snapshots, `dd` with both
/// `skip` and `count` copies too little, and `amend -o compat=0.10` leaves bitmaps that nobody can read.
const CHAIN: &[&str] = &[
    "map --output=json i",
    "map --output=json -s 100k -l 3M i",
    "map i",
    "map --output=json a",
    "snapshot -l a",
    "info --output=json a",
    "measure -O qcow2 a",
    "measure -O raw a",
    "measure -O luks a",
    "measure -O qcow2 -l one a",
    "measure -O raw -l one a",
    "measure -O qcow2 i",
    "measure -U -O qcow2 i",
    "rebase -p -b a -F qcow2 i",
    "rebase -b a i",
    "rebase -c -p -b a -F qcow2 i",
    "rebase -c -b '' i",
    "rebase -p -b '' i",
    "rebase -u -b e -F raw i",
    "rebase -b e -F raw i",
    "rebase -b nope -F raw i",
    "rebase -z -b a i",
    "rebase -U -b a -F qcow2 i",
    "rebase -q -p -b a -F qcow2 i",
    "rebase -f raw -b a i",
    "rebase -T none -t none -b a -F qcow2 i",
    "rebase -t foo -b a i",
    "rebase -T foo -b a i",
    "rebase -b i -F qcow2 i",
    "convert -l one -O qcow2 a x",
    "convert -l snapshot.id=2 -p a x",
    "convert --bitmaps -O qcow2 a x",
    "convert --bitmaps --skip-broken-bitmaps -O qcow2 a x",
    "convert --bitmaps -O raw a x",
    "convert --bitmaps -O qcow2 a b x",
    "convert --bitmaps -n -O qcow2 a i",
    "convert -B a -F qcow2 -O qcow2 i x",
    "convert -B a -O qcow2 i x",
    "convert -c -B a -F qcow2 -O qcow2 i x",
    "convert -c -O qcow2 i x",
    "convert -U -O qcow2 i x",
    "convert -W -m 16 -p -O qcow2 i x",
    "resize i 6M",
    "resize --preallocation=metadata i 6M",
    "resize --preallocation=falloc i 6M",
    "resize --preallocation=full i 6M",
    "resize --shrink i 1M",
    "resize --preallocation=full a 6M",
    "resize --shrink a 1M",
    "resize a 1M",
    "resize -q --preallocation=falloc b 6M",
    "amend -p -o compat=v2 b",
    "amend -o lazy_refcounts=on b",
    "amend -o backing_file=x b",
    "amend -o backing_file=a b",
    "amend -o backing_file=a,backing_fmt=qcow2 b",
    "amend -o size=9M b",
    "amend -o size=1M b",
    "amend -o cluster_size=4k b",
    "amend -o preallocation=full b",
    "amend -o refcount_bits=1 b",
    "amend -o refcount_bits=3 b",
    "amend -o data_file=x b",
    "amend -o encryption=on b",
    "amend -o extended_l2=on b",
    "amend -o compression_type=zstd b",
    "commit -p i",
    "commit -b a i",
    "commit -d -b a i",
    "commit -b nope i",
    "commit -q i",
    "commit -r 1M -b a i",
    "commit -f raw i",
    "commit -t none -d i",
    "snapshot -c three i",
    "snapshot -c one b",
    "snapshot -a one a",
    "snapshot -a 1 a",
    "snapshot -d 1 a",
    "snapshot -d one a",
    "snapshot -d nope a",
    "snapshot -q -c x a",
    "snapshot -U -l a",
    "bitmap --add a b0",
    "bitmap --add -g 3 a b1",
    "bitmap --add --disable --enable a b1",
    "bitmap --remove a nope",
    "bitmap --merge nope a b0",
    "bitmap --merge b0 a b0",
    "bitmap --clear -b e a b0",
    "bitmap --add --image-opts driver=qcow2,file.filename=a b3",
    "check i",
    "check -q a",
    "check --output=json a",
    "compare i a",
    "compare -p a a",
    "compare -s a b",
    "dd if=i of=x bs=1M skip=1",
    "dd -f qcow2 -O qcow2 if=i of=x bs=1M count=2",
    "bench -c 20 -w i",
    "bench -c 20 -f qcow2 i",
    "info --backing-chain --output=json i",
    "convert -O qcow2 -o preallocation=full,cluster_size=4k i x",
    "convert -O qcow2 -o data_file=x.raw,data_file_raw=on i x",
    "convert -n --target-is-zero -O qcow2 a i",
];

/// Runs each line with both tools, each in a folder with fresh copies of the files.
fn compare(bench: &mut Bench, lines: &[&str], files: &[&str]) {
    for line in lines {
        for folder in ["theirs", "ours"] {
            let _ = fs::remove_dir_all(bench.path(folder));
            fs::create_dir(bench.path(folder)).unwrap();
            for file in files {
                fs::copy(bench.path(file), bench.path(folder).join(file)).unwrap();
            }
        }
        let line = format!("qemu-img {line}");
        bench.pair(&line);
        let mut present: Vec<&str> = files.to_vec();
        present.push("x");
        for file in present {
            let are = ["theirs", "ours"].map(|folder| bench.path(folder).join(file).exists());
            if are == [true, true] {
                same_image(bench, &line, file);
            } else if are[0] != are[1] {
                bench.note_failure(&format!("{line}: {file} is there: theirs {}, ours {}", are[0], are[1]));
            }
        }
    }
}

/// The images of a name have the same contents, and ours is sound.
fn same_image(bench: &mut Bench, line: &str, file: &str) {
    let theirs = bench.run_in("theirs", Whose::Theirs, &format!("qemu-img compare {file} ../ours/{file}"));
    let check = bench.run_in("ours", Whose::Theirs, &format!("qemu-img check -q {file}"));
    // Other statuses tell of images that cannot be opened, such as those whose backing file is not there.
    if theirs.status == Some(1) || matches!(check.status, Some(2 | 3)) {
        let told = [theirs.out, theirs.err, check.out, check.err].concat();
        bench.note_failure(&format!("{line}: {file} differs\n{told}"));
    }
}

/// Lines about an image `k` with a bitmap `b0` that was not saved, and a good one, `b1`, disabled.
const BROKEN_BITMAP: &[&str] = &[
    "info k",
    "info --output=json k",
    "check k",
    "measure -O qcow2 k",
    "convert --bitmaps -O qcow2 k x",
    "convert --bitmaps --skip-broken-bitmaps -O qcow2 k x",
    "convert --bitmaps -p --skip-broken-bitmaps -O qcow2 k x",
    "bitmap --add k b0",
    "bitmap --clear k b0",
    "bitmap --enable k b0",
    "bitmap --disable k b0",
    "bitmap --merge b0 k b1",
    "bitmap --merge b1 k b0",
    "bitmap --remove k b0",
    "amend -o lazy_refcounts=on k",
    "resize k 5M",
    "snapshot -a one k",
];

#[test]
fn on_an_image_with_a_broken_bitmap() {
    let Some(mut bench) = Bench::new(env!("CARGO_BIN_EXE_qemu-img")) else { return };
    bench.ok(Whose::Theirs, "qemu-img create -f qcow2 k 4M");
    bench.ok(Whose::Theirs, "qemu-img snapshot -c one k");
    bench.ok(Whose::Theirs, "qemu-img bitmap --add k b0");
    bench.ok(Whose::Theirs, "qemu-img bitmap --add --disable k b1");
    let words = ["-c", "write 1M 64k", "-c", "abort", "k"];
    let died = bench.command(Whose::Theirs, "qemu-io").args(words).output().unwrap();
    assert!(!died.status.success());
    compare(&mut bench, BROKEN_BITMAP, &["k"]);
    bench.done();
}

#[test]
fn on_raw_files() {
    let Some(mut bench) = Bench::new(env!("CARGO_BIN_EXE_qemu-img")) else { return };
    bench.data("d", 3 << 20, 21);
    bench.data("e", 3 << 20, 22);
    compare(&mut bench, RAW, &["d", "e"]);
    bench.done();
}

#[test]
fn on_a_chain_of_images() {
    let Some(mut bench) = Bench::new(env!("CARGO_BIN_EXE_qemu-img")) else { return };
    bench.data("d", 3 << 20, 21);
    bench.data("e", 3 << 20, 22);
    let theirs = |bench: &Bench, tool: &str, words: &[&str]| {
        let output = bench.command(Whose::Theirs, tool).args(words).output().unwrap();
        assert!(output.status.success(), "{tool} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    theirs(&bench, "qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "d", "a"]);
    theirs(&bench, "qemu-img", &["create", "-f", "qcow2", "-F", "qcow2", "-b", "a", "b", "4M"]);
    theirs(&bench, "qemu-io", &["-c", "write -P 3 2M 64k", "-c", "write -z 0 128k", "b"]);
    theirs(&bench, "qemu-img", &["create", "-f", "qcow2", "-F", "qcow2", "-b", "b", "i", "5M"]);
    theirs(&bench, "qemu-io", &["-c", "write -P 4 100k 64k", "-c", "write -c -P 5 1M 64k", "i"]);
    theirs(&bench, "qemu-img", &["snapshot", "-c", "one", "a"]);
    theirs(&bench, "qemu-img", &["snapshot", "-c", "two", "a"]);
    theirs(&bench, "qemu-img", &["bitmap", "--add", "a", "b0"]);
    compare(&mut bench, CHAIN, &["a", "b", "i", "e"]);
    bench.done();
}

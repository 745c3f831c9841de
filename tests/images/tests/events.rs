//! `blkdebug` in formats other than qcow2: at each event that a format's driver raises, a request fails with EIO or ENOSPC;
//! the error is told, and the image is sound with what was acknowledged. (For qcow2, see `backends/qcow2/tests/faults.rs`.)

use rhea_image_tests::{Bench, Ran, Whose};

const TOOL: &str = env!("CARGO_BIN_EXE_qemu-img");

/// A format, and the events of its driver at which one of `COMMANDS` fails.
const FORMATS: &[(&str, &[&str])] = &[
    (
        "qed",
        &["read_aio", "write_aio", "cluster_alloc", "l2_load", "l2_update", "flush_to_os", "flush_to_disk"],
    ),
    (
        "qcow",
        &["read_aio", "write_aio", "cluster_alloc", "l2_load", "l2_update", "flush_to_os", "flush_to_disk"],
    ),
    ("vdi", &["read_aio", "write_aio", "cluster_alloc", "l2_update", "flush_to_os", "flush_to_disk"]),
    ("parallels", &["read_aio", "write_aio", "cluster_alloc", "flush_to_os", "flush_to_disk"]),
    ("vmdk", &["read_aio", "write_aio", "l2_load", "l2_update"]),
];

/// Before, the first MiB is 1.
const COMMANDS: &[&str] = &[
    "read -P 1 0 64k",
    "write -P 2 64k 64k",
    "write -P 3 2M 3k",
    "read -P 3 2M 3k",
    "write -P 4 3000k 1M",
    "flush",
];

fn ours(bench: &Bench, format: &str, rule: &str) -> Ran {
    let spec = format!("driver={format},file.driver=blkdebug,file.image.filename=i{rule}");
    let mut tool = bench.command(Whose::Ours, "qemu-io");
    for command in COMMANDS {
        tool.args(["-c", command]);
    }
    tool.args(["--image-opts", &spec]).output().unwrap().into()
}

#[test]
fn a_failure_at_each_event_is_told_and_loses_nothing() {
    let Some(mut bench) = Bench::new(TOOL) else { return };
    for (format, events) in FORMATS {
        for event in *events {
            for (errno, words) in
                [(libc_eio(), "Input/output error"), (libc_enospc(), "No space left on device")]
            {
                let what = format!("{format} {event} {errno}");
                bench.ok(Whose::Theirs, &format!("qemu-img create -q -f {format} i 8M"));
                let first = bench
                    .command(Whose::Theirs, "qemu-io")
                    .args(["-f", format, "-c", "write -P 1 0 1M", "i"])
                    .output();
                assert!(first.unwrap().status.success());
                let rule = format!(
                    ",file.inject-error.0.event={event},file.inject-error.0.errno={errno},file.inject-error.0.once=on"
                );
                let ran = ours(&bench, format, &rule);
                let told = format!("{}{}", ran.out, ran.err);
                if !told.contains(words) || ran.status != Some(1) {
                    bench.note_failure(&format!("{what}: nothing failed\n{told}"));
                }
                // Again, without failures: whatever was left behind does no harm.
                let ran = ours(&bench, format, "");
                if ran.status != Some(0) || ran.out.contains("ailed") {
                    bench.note_failure(&format!("{what}: afterwards\n{}{}", ran.out, ran.err));
                }
                let check = bench.run(Whose::Theirs, &format!("qemu-img check -f {format} i"));
                // Leaks are allowed.
                if !matches!(check.status, Some(0 | 3 | 63)) {
                    bench.note_failure(&format!("{what}: {}{}", check.out, check.err));
                }
                let mut tool = bench.command(Whose::Theirs, "qemu-io");
                for command in
                    ["read -P 1 0 64k", "read -P 2 64k 64k", "read -P 1 128k 896k", "read -P 3 2M 3k"]
                {
                    tool.args(["-c", command]);
                }
                let read: Ran =
                    tool.args(["-c", "read -P 4 3000k 1M", "-f", format, "i"]).output().unwrap().into();
                if read.status != Some(0) || read.out.contains("ailed") {
                    bench.note_failure(&format!("{what}: as they read it\n{}{}", read.out, read.err));
                }
            }
        }
    }
    bench.done();
}

/// Parts of blocks are written by reading the blocks first. Where that fails, so does the write, and the block stays as it was.
/// (Debian's goes on, and writes zeroes around the part.)
#[test]
fn a_block_that_cannot_be_read_is_not_written() {
    let Some(bench) = Bench::new(TOOL) else { return };
    let before = vec![7; 64 << 10];
    for (event, command, fails) in [
        ("pwritev_rmw_head", "write 100 100", true),
        ("pwritev_rmw_head", "write -z 5000 9000", true),
        ("pwritev_rmw_tail", "write 4096 100", true),
        ("pwritev_rmw_tail", "write 100 9000", true),
        ("pwritev_rmw_after_head", "write 100 100", true),
        ("pwritev_rmw_after_tail", "write 100 9000", true),
        ("pwritev", "write 0 4k", true),
        ("pwritev_zero", "write -z 0 4k", true),
        ("pwritev_rmw_head", "write 0 4k", false),
        ("pwritev_rmw_tail", "write 100 100", false),
        ("pwritev_zero", "write 0 4k", false),
    ] {
        for (errno, words) in [(libc_eio(), "Input/output error"), (libc_enospc(), "No space left on device")]
        {
            std::fs::write(bench.path("d"), &before).unwrap();
            let spec = format!(
                "driver=raw,file.driver=blkdebug,file.align=4096,file.image.filename=d,\
                 file.inject-error.0.event={event},file.inject-error.0.errno={errno},file.inject-error.0.once=on"
            );
            let mut tool = bench.command(Whose::Ours, "qemu-io");
            let ran: Ran = tool.args(["-c", command, "--image-opts", &spec]).output().unwrap().into();
            let after = std::fs::read(bench.path("d")).unwrap();
            assert_eq!(after == before, fails, "{event} {command}: {ran:?}");
            assert_eq!(
                ran.out.contains(&format!("write failed: {words}")),
                fails,
                "{event} {command}: {ran:?}"
            );
        }
    }
    bench.done();
}

fn libc_eio() -> i32 {
    5
}

fn libc_enospc() -> i32 {
    28
}

//! `-p`: how far a command is, beside Debian's tool, also where it ends before everything was looked at.
//!
//! Each run of marks is compared by its ends ([`rhea_image_tests::Bench::note`]).

use rhea_image_tests::{Bench, Whose};

const TOOL: &str = env!("CARGO_BIN_EXE_qemu-img");

/// Writes into a raw file `name` of some length; `writes`: `(where, how long, byte)`.
fn raw(bench: &Bench, name: &str, len: u64, writes: &[(u64, usize, u8)]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(bench.path(name)).unwrap();
    file.set_len(len).unwrap();
    for &(at, len, byte) in writes {
        file.write_all_at(&vec![byte; len], at).unwrap();
    }
}

#[test]
fn of_comparisons_that_differ() {
    let Some(mut bench) = Bench::new(TOOL) else { return };
    const MIB: u64 = 1 << 20;
    let start = (0, 1 << 20, 1);
    raw(&bench, "a", 3 * MIB, &[start]);
    raw(&bench, "same", 3 * MIB, &[start]);
    raw(&bench, "first", 3 * MIB, &[(0, 1 << 20, 2)]);
    raw(&bench, "later", 3 * MIB, &[start, (2 * MIB, 1, 3)]);
    raw(&bench, "longer", 4 * MIB, &[start]);
    raw(&bench, "other", 4 * MIB, &[start, (3 * MIB + 512 * 1024, 1, 3)]);
    raw(&bench, "worse", 4 * MIB, &[start, (2 * MIB, 1, 3), (3 * MIB, 1, 4)]);
    raw(&bench, "empty", 0, &[]);
    for (a, b) in [
        ("a", "same"),
        ("a", "first"),
        ("a", "later"),
        ("a", "longer"),
        ("a", "other"),
        ("a", "worse"),
        ("a", "empty"),
        ("empty", "empty"),
        ("a", "missing"),
        ("missing", "a"),
    ] {
        for options in ["-p", "-p -s", "-p -q"] {
            bench.same(&format!("qemu-img compare {options} -f raw -F raw {a} {b}"));
            bench.same(&format!("qemu-img compare {options} -f raw -F raw {b} {a}"));
        }
    }
    for name in ["a", "later", "longer"] {
        bench.ok(Whose::Theirs, &format!("qemu-img convert -f raw -O qcow2 {name} {name}.qcow2"));
    }
    for pair in ["a.qcow2 later.qcow2", "a.qcow2 longer.qcow2", "longer.qcow2 later.qcow2", "a.qcow2 a.qcow2"]
    {
        bench.same(&format!("qemu-img compare -p {pair}"));
        bench.same(&format!("qemu-img compare -p -s {pair}"));
    }
    bench.done();
}

#[test]
fn of_amendments() {
    let Some(mut bench) = Bench::new(TOOL) else { return };
    bench.data("d", 3 << 20, 41);
    for folder in ["theirs", "ours"] {
        std::fs::create_dir(bench.path(folder)).unwrap();
    }
    for options in [
        "compat=0.10",
        "compat=1.1",
        "lazy_refcounts=on",
        "refcount_bits=8",
        "refcount_bits=1",
        "refcount_bits=64,size=9M",
        "size=8M",
        "compat=1.1,refcount_bits=16",
    ] {
        bench.ok(Whose::Theirs, "qemu-img convert -f raw -O qcow2 d i");
        for folder in ["theirs", "ours"] {
            std::fs::copy(bench.path("i"), bench.path(folder).join("i")).unwrap();
        }
        bench.pair(&format!("qemu-img amend -p -o {options} i"));
        bench.same("qemu-img compare ours/i theirs/i");
    }
    bench.done();
}

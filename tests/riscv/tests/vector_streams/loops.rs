//! Loops as compilers and libraries write them: how long they take.

use std::time::Instant;

use rhea_engine::Tier;
use rhea_riscv_state::state::mstatus;

use crate::machine::{Machine, RAM};

const CODE: u64 = RAM + 0x1000;

/// A loop over a0 elements at a1 and a2, and how many bytes an element has.
const LOOPS: &[(&str, u64, &[&str])] = &[
    (
        "saxpy e32,m4",
        4096,
        &[
            "1: vsetvli t0, a0, e32, m4, ta, ma",
            "vle32.v v8, (a1)",
            "vle32.v v16, (a2)",
            "vfmacc.vf v16, fa0, v8",
            "sub a0, a0, t0",
            "vse32.v v16, (a2)",
            "slli t0, t0, 2",
            "add a1, a1, t0",
            "add a2, a2, t0",
            "bnez a0, 1b",
        ],
    ),
    (
        "daxpy e64,m2",
        2048,
        &[
            "1: vsetvli t0, a0, e64, m2, ta, ma",
            "vle64.v v8, (a1)",
            "vle64.v v16, (a2)",
            "vfmul.vf v8, v8, fa0",
            "vfadd.vv v16, v16, v8",
            "vse64.v v16, (a2)",
            "sub a0, a0, t0",
            "slli t0, t0, 3",
            "add a1, a1, t0",
            "add a2, a2, t0",
            "bnez a0, 1b",
        ],
    ),
    (
        "bytes e8,m4",
        16384,
        &[
            "1: vsetvli t0, a0, e8, m4, ta, ma",
            "vle8.v v8, (a1)",
            "vle8.v v16, (a2)",
            "vxor.vx v8, v8, a3",
            "vmseq.vx v0, v8, a4",
            "vmaxu.vv v16, v16, v8",
            "vcpop.m t1, v0",
            "vse8.v v16, (a2)",
            "add a5, a5, t1",
            "sub a0, a0, t0",
            "add a1, a1, t0",
            "add a2, a2, t0",
            "bnez a0, 1b",
        ],
    ),
    (
        "dot e16,m4",
        8192,
        &[
            "vsetvli t0, zero, e32, m8, ta, ma",
            "vmv.v.i v8, 0",
            "1: vsetvli t0, a0, e16, m4, tu, ma",
            "vle16.v v0, (a1)",
            "vle16.v v4, (a2)",
            "vwmacc.vv v8, v0, v4",
            "sub a0, a0, t0",
            "slli t0, t0, 1",
            "add a1, a1, t0",
            "add a2, a2, t0",
            "bnez a0, 1b",
            "vsetvli t0, zero, e32, m8, ta, ma",
            "vmv.s.x v16, zero",
            "vredsum.vs v16, v8, v16",
            "vmv.x.s a5, v16",
        ],
    ),
    (
        "copy e8,m8",
        300,
        &[
            "1: vsetvli t0, a0, e8, m8, ta, ma",
            "vle8.v v0, (a1)",
            "vse8.v v0, (a2)",
            "sub a0, a0, t0",
            "add a1, a1, t0",
            "add a2, a2, t0",
            "bnez a0, 1b",
        ],
    ),
    (
        "strlen e8,m2",
        300,
        &[
            "sb zero, 299(a1)",
            "1: vsetvli t0, zero, e8, m2, ta, ma",
            "vle8ff.v v8, (a1)",
            "csrr t0, vl",
            "vmseq.vi v0, v8, 0",
            "vfirst.m t1, v0",
            "add a1, a1, t0",
            "bltz t1, 1b",
        ],
    ),
    (
        "masked e32,m2",
        4096,
        &[
            "1: vsetvli t0, a0, e32, m2, ta, mu",
            "vle32.v v8, (a1)",
            "vmsgt.vx v0, v8, a3",
            "vrsub.vx v8, v8, a3, v0.t",
            "vadd.vx v8, v8, a4",
            "vmslt.vx v0, v8, zero",
            "vmerge.vim v8, v8, 0, v0",
            "vse32.v v8, (a1)",
            "sub a0, a0, t0",
            "slli t0, t0, 2",
            "add a1, a1, t0",
            "bnez a0, 1b",
        ],
    ),
];

/// The loop, called `rounds` times, assembled; nothing if there is no assembler.
fn assemble(lines: &[&str], elements: u64, rounds: u64) -> Option<Vec<u8>> {
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = |name: &str| directory.join(format!("loop-{}-{name}", std::process::id()));
    let mut text = format!(
        "li s0, {rounds}\n0: li a0, {elements}\nli a1, 0x80020000\nli a2, 0x80040000\nli a3, 5\nli a4, 9\n"
    );
    text += &lines.join("\n");
    text += "\naddi s0, s0, -1\nbnez s0, 0b\nlui ra, 1\nsd zero, 0(ra)\nj .\n";
    std::fs::write(path("s"), text).unwrap();
    let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
        std::process::Command::new(program).args(arguments).status().ok().filter(|s| s.success())
    };
    let (source, object, binary) = (path("s"), path("o"), path("bin"));
    run(
        "riscv64-linux-gnu-as",
        &["-march=rv64gcv".as_ref(), "-o".as_ref(), object.as_ref(), source.as_ref()],
    )?;
    run("riscv64-linux-gnu-objcopy", &["-O".as_ref(), "binary".as_ref(), object.as_ref(), binary.as_ref()])?;
    let code = std::fs::read(&binary).ok();
    for path in [source, object, binary] {
        let _ = std::fs::remove_file(path);
    }
    code
}

#[test]
#[ignore = "a measurement"]
fn nanoseconds_of_loops() {
    let only = std::env::var("RHEA_LOOP").unwrap_or_default();
    for cpu in ["max", "max,vlen=256"] {
        for (name, elements, lines) in LOOPS.iter().filter(|l| l.0.contains(&only)) {
            let rounds = 60_000_000 / elements;
            let Some(code) = assemble(lines, *elements, rounds) else { return };
            let mut machine = Machine::new(cpu, Tier::Baseline, false);
            machine.write(CODE, &code);
            let st = machine.state();
            st.m.mstatus |= mstatus::FS | mstatus::VS;
            st.f[10] = u64::from(0.001f32.to_bits()) | u64::MAX << 32;
            machine.write(RAM + 0x2_0000, &[1; 0x4_0000]);
            let start = Instant::now();
            machine.run(CODE);
            let ns = start.elapsed().as_nanos() as f64;
            let each = ns / (rounds * elements) as f64;
            eprintln!("{cpu:14} {name:16} {:8.1} ns a call, {each:6.3} ns an element", ns / rounds as f64);
        }
    }
}

//! Every scalar instruction that does not jump, with random operands: compiled, interpreted, and against `qemu-riscv64` and
//! `qemu-riscv32` (package `qemu-user`): all registers, flags and memory must be the same. Without the package that part is
//! skipped. Then streams of them on both tiers. (Jumps and what is privileged: `tests/guest/riscv`.)
//!
//! `RHEA_SCALAR_CASES` sets how many requests each instruction gets (60 if not set), `RHEA_SCALAR_STREAMS` the streams (150).

mod cases;
#[path = "../vector_streams/machine.rs"]
mod machine;
mod ours;
mod server;
mod streams;

use rhea_engine::Tier;
use rhea_riscv_translate::{ENCODINGS, Encoding, Features, Xlen, decode16, decode32};

use cases::Random;
use ours::Ours;
use server::{Server, State};

const CPU64: &str = "max";
const CPU32: &str = "rv32,zfh=on,zicond=on,zimop=on,zacas=on,zabha=on,zcb=on,zcmop=on,zbkb=on,zbkc=on,zbkx=on,zk=on,zks=on,zawrs=on";

/// What is left out: jumps, what only privileged software does, what has an effect outside, vectors, and extensions that no
/// hart has.
fn is_compared(e: &Encoding, xlen: Xlen) -> bool {
    let name = e.name.trim_end_matches(".rv32");
    const JUMPS: &[&str] = &[
        "jal", "jalr", "beq", "bne", "blt", "bge", "bltu", "bgeu", "c.j", "c.jal", "c.jr", "c.jalr",
        "c.beqz", "c.bnez",
    ];
    const PRIVILEGED: &[&str] = &[
        "ecall",
        "ebreak",
        "c.ebreak",
        "mret",
        "sret",
        "wfi",
        "sfence.vma",
        "sinval.vma",
        "sfence.w.inval",
        "sfence.inval.ir",
        "wrs.nto",
        "wrs.sto",
    ];
    let is_vector = match e.value & 0x7f {
        0x57 | 0x77 => e.width == 32,
        0x07 | 0x27 => matches!(e.value >> 12 & 7, 0 | 5 | 6 | 7),
        _ => false,
    };
    let skipped = JUMPS.contains(&name)
        || PRIVILEGED.contains(&name)
        || is_vector
        || ["csr", "h", "cbo", "sc.", "lr."].iter().any(|start| name.starts_with(start));
    // On RV32 this word is a jump.
    let skipped = skipped || name == "c.addiw" && xlen == Xlen::Rv32;
    let only32 = e.name.ends_with(".rv32") || ["zip", "unzip", "fmvh.x.d", "fmvp.d.x"].contains(&name);
    !(skipped || only32 && xlen == Xlen::Rv64)
}

fn text(word: u64, xlen: Xlen) -> String {
    let features = Features::everything(xlen);
    let decoded = if word & 3 == 3 {
        decode32(word as u32, &features)
    } else {
        decode16(word as u32 & 0xffff, &features)
    };
    decoded.map_or_else(|| "illegal".into(), |i| i.display(0, xlen.bits()).to_string())
}

fn count() -> u64 {
    std::env::var("RHEA_SCALAR_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
}

/// Whether only one of them could make an access: user mode has other memory than the machine, and QEMU's `max` takes
/// misaligned atomic accesses within 16 bytes (Zama16b).
fn is_excused(ours: &State, theirs: &State) -> bool {
    ours.word != theirs.word && ours.word.is_multiple_of(11) && theirs.word.is_multiple_of(11)
}

/// The two tiers of one machine agree in everything.
fn never(_: &State, _: &State) -> bool {
    false
}

fn differences(ours: &State, theirs: &State) -> Vec<String> {
    let mut all = Vec::new();
    let mut note = |what: String, a: u64, b: u64| {
        if a != b {
            all.push(format!("{what}: {a:#x}, not {b:#x}"));
        }
    };
    note("signal".into(), ours.word, theirs.word);
    // After a signal the peer's registers are those of its handler.
    if ours.word != theirs.word || ours.word != 0 && theirs.cause.is_none() {
        return all;
    }
    note("cause".into(), ours.cause.unwrap_or(0), theirs.cause.or(ours.cause).unwrap_or(0));
    note("fcsr".into(), ours.fcsr, theirs.fcsr);
    for i in 0..31 {
        note(format!("x{i}"), ours.x[i], theirs.x[i]);
    }
    for i in 0..32 {
        note(format!("f{i}"), ours.f[i], theirs.f[i]);
    }
    if let Some(at) = ours.page.iter().zip(&theirs.page).position(|(a, b)| a != b) {
        all.push(format!("memory from {at:#x}"));
    }
    all
}

/// Whether two answers may differ.
type Excuse = fn(&State, &State) -> bool;

/// Compares each instruction's answers of two machines.
fn compare(
    xlen: Xlen,
    excused: Excuse,
    mut first: impl FnMut(&State) -> State,
    mut second: impl FnMut(&State) -> State,
) {
    let mut failures = Vec::new();
    let mut compared = 0;
    for (number, e) in (0u64..).zip(ENCODINGS.iter().filter(|e| is_compared(e, xlen))) {
        let mut random = Random::new(number * 7919 + 1);
        let (mut failed, mut legal) = (0, 0);
        for _ in 0..count() {
            let request = cases::request(&mut random, e);
            let shown = text(request.word, xlen);
            // Some words of an encoding are another instruction, which has operands that this one must not have.
            if shown.starts_with("c.j") || shown == "c.ebreak" {
                continue;
            }
            let (a, b) = (first(&request), second(&request));
            compared += 1;
            legal += u32::from(a.word == 0);
            let all = differences(&a, &b);
            if !all.is_empty() && !excused(&a, &b) {
                failed += 1;
                if failed <= 2 {
                    let x: Vec<String> = (1..32).map(|i| format!("x{i}={:x}", request.x[i])).collect();
                    let f: Vec<String> = (0..32).map(|i| format!("f{i}={:x}", request.f[i])).collect();
                    let registers = if shown.contains('f') { f } else { x };
                    failures.push(format!(
                        "{} ({shown}, fcsr {:#x}) {}\n  {}",
                        e.name,
                        request.fcsr,
                        registers.join(" "),
                        all.join("\n  ")
                    ));
                }
            }
        }
        if failed > 2 {
            failures.push(format!("  {}: {failed} of {}", e.name, count()));
        }
        if legal == 0 && count() >= 60 && text(e.value, xlen) != "illegal" {
            failures.push(format!("{}: no request was legal", e.name));
        }
    }
    eprintln!("{compared} requests compared");
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn compiled_code_does_what_the_interpreter_does_with_64_bits() {
    let mut compiled = Ours::new(CPU64, Tier::Baseline, false);
    let mut interpreted = Ours::new(CPU64, Tier::Interpreter, false);
    compare(Xlen::Rv64, never, |s| compiled.ask(s), |s| interpreted.ask(s));
}

#[test]
fn compiled_code_does_what_the_interpreter_does_with_32_bits() {
    let mut compiled = Ours::new(CPU32, Tier::Baseline, false);
    let mut interpreted = Ours::new(CPU32, Tier::Interpreter, false);
    compare(Xlen::Rv32, never, |s| compiled.ask(s), |s| interpreted.ask(s));
}

#[test]
fn instructions_do_what_qemu_does_with_64_bits() {
    against_qemu(Xlen::Rv64, CPU64);
}

#[test]
fn instructions_do_what_qemu_does_with_32_bits() {
    against_qemu(Xlen::Rv32, CPU32);
}

fn against_qemu(xlen: Xlen, cpu: &str) {
    let Some(mut server) = Server::start(xlen) else { return };
    let mut ours = Ours::new(cpu, Tier::Baseline, false);
    // The sum that AUIPC gives depends on where the code is.
    let elsewhere = |s: &State| s.word & 0x7f == 0x17;
    let nothing = |s: &State| State { word: 0, ..s.clone() };
    compare(
        xlen,
        is_excused,
        |s| if elsewhere(s) { nothing(s) } else { ours.ask(s) },
        |s| if elsewhere(s) { nothing(s) } else { server.ask(s) },
    );
}

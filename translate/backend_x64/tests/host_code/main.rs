//! Host code in execution: random units against the interpreter, exits, and what the code looks like.
#![allow(unsafe_code, reason = "executes emitted code")]
#![allow(missing_docs, reason = "a test")]

mod exits;
mod generate;
mod golden;
mod vectors;
mod world;

use generate::{Gen, Rng};
use iced_x86::Formatter;
use rhea_backend_x64::Features;
use rhea_ir::{Inst, Op, Unit, text, verify};
use rhea_softfloat::Env;
use world::{Image, Oracle, World};

fn disassemble(code: &[u8], at: u64) -> String {
    let mut decoder = iced_x86::Decoder::with_ip(64, code, at, 0);
    let mut formatter = iced_x86::IntelFormatter::new();
    let mut out = String::new();
    while decoder.can_decode() {
        let i = decoder.decode();
        let mut line = String::new();
        formatter.format(&i, &mut line);
        out.push_str(&format!("{:x}: {line}\n", i.ip()));
    }
    out
}

fn random_image(rng: &mut Rng) -> Image {
    let mut state: Vec<u8> = Vec::new();
    while state.len() < world::STATE_BYTES {
        state.extend_from_slice(&rng.interesting().to_le_bytes());
    }
    let memory = (0..world::MEMORY_BYTES / 8).flat_map(|_| rng.interesting().to_le_bytes()).collect();
    Image { state, memory }
}

/// What differs between host code and interpreter, run on `unit` from the same image; `None` if there is no host code.
fn compare(world: &mut World, unit: &Unit, image: &Image) -> Option<Vec<String>> {
    world.compile(unit).ok()?;
    let mut oracle = Oracle { image: image.clone(), vector: Env::SSE, x87: Env::X87 };
    let expected = world::interpret(unit, &mut oracle);
    world.load_image(image);
    let end = world.run();
    let got = world.image();
    let want = oracle.image;
    // The interpreter leaves the PC slot to its caller; `End` has it.
    let mut differences: Vec<String> = (0..world::PC_SLOT as usize)
        .step_by(8)
        .filter(|&n| got.state[n..n + 8] != want.state[n..n + 8])
        .map(|n| format!("state+{n:#x}: got {:x?} want {:x?}", &got.state[n..n + 8], &want.state[n..n + 8]))
        .chain(
            (0..got.memory.len())
                .filter(|&n| got.memory[n] != want.memory[n])
                .map(|n| format!("memory+{n:#x}: got {:x} want {:x}", got.memory[n], want.memory[n])),
        )
        .collect();
    let flags = (oracle.vector.flags.bits(), oracle.x87.flags.bits());
    if world.float_flags != flags {
        differences.push(format!("float flags: got {:x?} want {flags:x?}", world.float_flags));
    }
    if end != expected {
        differences.push(format!("got {end:x?} want {expected:x?}"));
    }
    Some(differences)
}

/// Runs `unit` both ways and panics with a small unit that still differs; `None` if there is no host code for it.
fn check(world: &mut World, unit: &Unit, image: &Image, seed: u64) -> Option<()> {
    verify(unit, &world::HELPERS).unwrap_or_else(|e| panic!("{e}\n{}", text::print(unit, &world::HELPERS)));
    if std::env::var("RHEA_TRACE").is_ok() {
        let code = world.compile(unit).ok()?;
        eprintln!(
            "seed {seed}\n{}\n{}",
            text::print(unit, &world::HELPERS),
            disassemble(&code, world.code_base())
        );
    }
    if compare(world, unit, image)?.is_empty() {
        return Some(());
    }
    let mut small = unit.clone();
    for n in (1..small.insts.len() - 1).rev() {
        let mut shorter = small.clone();
        // A dead constant in place of an operation keeps the numbers of the others.
        shorter.insts[n] = match small.insts[n].op {
            Op::ExitIf | Op::PutSlot | Op::Store | Op::PutIndexed | Op::InsnStart | Op::Fence => {
                Inst::new(Op::Const, rhea_ir::Type::I8)
            }
            Op::Call if small.insts[n].ty == rhea_ir::Type::Void => Inst::new(Op::Const, rhea_ir::Type::I8),
            _ => Inst::new(Op::Const, small.insts[n].ty),
        };
        if compare(world, &shorter, image).is_some_and(|d| !d.is_empty()) {
            small = shorter;
        }
    }
    let differences = compare(world, &small, image)?;
    let code = world.compile(&small).ok()?;
    let shown: String = text::print(&small, &world::HELPERS)
        .lines()
        .filter(|l| !l.contains("const") || l.contains("vconst") || !l.ends_with("#0x0"))
        .map(|l| format!("{l}\n"))
        .collect();
    panic!("seed {seed}:\n{}\n{shown}\n{}", differences.join("\n"), disassemble(&code, world.code_base()));
}

fn campaign(features: Features, hot: usize, cases: u64, first: u64, step: impl Fn(&mut Gen<'_>)) {
    let mut world = World::new(features, hot);
    let mut compiled = 0;
    // RHEA_CASES multiplies the number of cases, RHEA_SEED runs one alone.
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let cases = cases * number("RHEA_CASES").unwrap_or(1);
    let seeds = number("RHEA_SEED").map_or(first..first + cases, |s| s..s + 1);
    let cases = seeds.end - seeds.start;
    for seed in seeds {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let image = random_image(&mut rng);
        let mut g = Gen::new(&mut rng);
        g.features = features;
        for _ in 0..1 + g.rng.below(60) {
            step(&mut g);
        }
        g.finish();
        let unit = std::mem::take(&mut g.b.unit);
        compiled += u64::from(check(&mut world, &unit, &image, seed).is_some());
    }
    let enough = if features == Features::detect() && features.sha { cases } else { cases * 9 / 10 };
    assert!(compiled >= enough || cases == 1, "only {compiled} of {cases} units compiled");
}

fn mixed(g: &mut Gen<'_>) {
    if g.rng.chance(55) { g.integer() } else { g.control() }
}

#[test]
fn integers_agree_with_the_interpreter() {
    campaign(Features::detect(), 8, 3000, 1, |g| g.integer());
}

#[test]
fn memory_calls_and_exits_agree_with_the_interpreter() {
    campaign(Features::detect(), 8, 6000, 100_000, mixed);
}

#[test]
fn fewer_pinned_registers_agree_with_the_interpreter() {
    campaign(Features::detect(), 3, 2000, 200_000, mixed);
    campaign(Features::detect(), 0, 2000, 210_000, mixed);
}

#[test]
fn plain_processors_agree_with_the_interpreter() {
    let plain = Features { popcnt: true, sse42: true, ..Features::default() };
    campaign(plain, 8, 3000, 300_000, mixed);
}

fn vectors(g: &mut Gen<'_>) {
    match g.rng.below(10) {
        0..=4 => g.vector(),
        5..=7 => g.vector_control(),
        8 => g.integer(),
        _ => g.control(),
    }
}

fn floats(g: &mut Gen<'_>) {
    match g.rng.below(10) {
        0..=5 => g.float(),
        6..=7 => g.vector_control(),
        8 => g.vector(),
        _ => g.control(),
    }
}

#[test]
fn vectors_agree_with_the_interpreter() {
    campaign(Features::detect(), 8, 4000, 400_000, vectors);
}

#[test]
fn floats_agree_with_the_interpreter() {
    campaign(Features::detect(), 8, 4000, 500_000, floats);
}

#[test]
fn cryptography_agrees_with_the_interpreter() {
    let f = Features::detect();
    if f.aes && f.pclmul && f.sha {
        campaign(f, 8, 1000, 600_000, |g| if g.rng.chance(60) { g.crypto() } else { g.vector_control() });
    }
}

#[test]
fn vectors_without_avx_agree_with_the_interpreter() {
    let f = Features::detect();
    let sse = Features { ssse3: true, sse41: true, sse42: true, popcnt: f.popcnt, ..Features::default() };
    campaign(sse, 8, 3000, 700_000, |g| if g.rng.chance(50) { vectors(g) } else { floats(g) });
}

#[test]
fn x87_agrees_with_the_interpreter() {
    campaign(Features::detect(), 8, 5000, 800_000, |g| match g.rng.below(10) {
        0..=6 => g.x87(),
        7..=8 => g.control(),
        _ => g.integer(),
    });
}

/// Processor time of this thread (its first field is in nanoseconds).
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|v| v.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

/// Prints what compiling costs. `cargo test --release -p rhea-backend-x64 -- --ignored --nocapture cost`.
#[test]
#[ignore = "a measurement"]
fn cost_of_compiling() {
    let mut world = World::new(Features::detect(), 8);
    let base = world.code_base();
    for (name, step) in [("mixed", mixed as fn(&mut Gen<'_>)), ("vectors", vectors), ("floats", floats)] {
        let units: Vec<Unit> = (1..2000u64)
            .map(|seed| {
                let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
                let mut g = Gen::new(&mut rng);
                g.features = Features::detect();
                for _ in 0..40 {
                    step(&mut g);
                }
                g.finish();
                g.b.unit
            })
            .collect();
        let ops: usize = units.iter().map(|u| u.insts.len()).sum();
        let (mut best, mut bytes) = (f64::MAX, 0);
        for _ in 0..5 {
            let start = cpu_seconds();
            bytes = units.iter().map(|u| world.compiler.compile(u, base, 0).unwrap().code.len()).sum();
            best = best.min(cpu_seconds() - start);
        }
        // The same few units over and over: what it costs when the host's branch predictors know the way.
        let few = &units[..5];
        let start = cpu_seconds();
        for u in few.iter().cycle().take(100000) {
            world.compiler.compile(u, base, 0).unwrap();
        }
        let again = (cpu_seconds() - start) * 5e4 / few.iter().map(|u| u.insts.len()).sum::<usize>() as f64;
        println!(
            "{name}: {again:.1} ns repeated, {:.1} ns and {:.1} bytes an operation",
            best * 1e9 / ops as f64,
            bytes as f64 / ops as f64
        );
    }
}

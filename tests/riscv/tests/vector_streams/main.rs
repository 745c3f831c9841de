//! Streams of random vector instructions on a whole hart: compiled code against the interpreter, unit by unit, and the
//! outcome against the instructions one by one.
//!
//! `RHEA_VECTOR_STREAMS` sets how many streams are run (60 if not set).

#[path = "../vector/cases.rs"]
mod cases;
mod loops;
mod machine;
mod reference;
/// What the random requests of `cases` are made of.
#[path = "../vector/server.rs"]
#[allow(dead_code, reason = "only the types are needed here")]
mod server;

use rhea_engine::Tier;
use rhea_riscv_state::RiscvState;
use rhea_riscv_translate::vector::VectorCall;
use rhea_riscv_translate::{ENCODINGS, Encoding, Features, Xlen, decode32};

use cases::Random;
use machine::{Machine, RAM, RAM_LEN, STOP};

const CODE: u64 = RAM + 0x1000;
const HANDLER: u64 = RAM + 0x100;
const DATA: u64 = RAM + 0x2_0000;
/// Instructions of a stream.
const LENGTH: usize = 40;

/// csrr t6, mepc; addi t6, t6, 4; csrw mepc, t6; csrw vstart, zero; lui t6, 2; csrs mstatus, t6 (MPP: machine mode);
/// slli t6, t6, 1 … as little as returns to the instruction behind.
const HANDLER_CODE: [u32; 8] = [
    0x3410_2ff3, // csrr t6, mepc
    0x004f_8f93, // addi t6, t6, 4
    0x341f_9073, // csrw mepc, t6
    0x0080_5073, // csrwi vstart, 0
    0x0000_2fb7, // lui t6, 2
    0x800f_8f93, // addi t6, t6, -2048
    0x300f_a073, // csrs mstatus, t6
    0x3020_0073, // mret
];

fn vector_encodings() -> Vec<&'static Encoding> {
    let is_vector = |e: &&Encoding| match e.value & 0x7f {
        0x57 | 0x77 => true,
        0x07 | 0x27 => matches!(e.value >> 12 & 7, 0 | 5 | 6 | 7),
        _ => false,
    };
    ENCODINGS.iter().filter(is_vector).collect()
}

/// Random instructions; vsetvli comes often, and mostly takes all elements.
fn stream(r: &mut Random, encodings: &[&'static Encoding], vlen: u32) -> Vec<u32> {
    let set = encodings.iter().find(|e| e.name == "vsetvli").unwrap();
    let mut words = Vec::new();
    while words.len() < LENGTH {
        if r.one_in(7) || words.is_empty() {
            let vtype = loop {
                let vtype = r.below(32) | r.below(4) << 6;
                if vtype & 7 != 4 {
                    break vtype as u32;
                }
            };
            // To a2, from zero (VLMAX) or from a1, whose value is small or large.
            let rs1 = r.pick(&[0, 0, 0, 13, 11]);
            words.push(set.value as u32 | vtype << 20 | rs1 << 15 | 12 << 7);
            continue;
        }
        let encoding = encodings[r.below(encodings.len() as u64) as usize];
        if encoding.name.starts_with("vset") {
            continue;
        }
        words.push(cases::request(r, encoding, vlen).word);
    }
    words
}

fn prepare(st: &mut RiscvState, r: &mut Random, vlen: u32) {
    let request = cases::request(r, vector_encodings()[0], vlen);
    let bytes = request.registers.len();
    st.v.0[..bytes].copy_from_slice(&request.registers);
    let base = DATA + r.below(0x2000);
    st.set_x(10, base);
    st.x[11] = r.below(40);
    st.x[13] = if r.one_in(2) { 0x1000 } else { r.below(20) };
    st.f[10] = request.fa0;
    st.frm = r.below(5) as u32;
    st.m.mtvec = HANDLER;
    (st.vxrm, st.vxsat) = (r.below(4) as u32, 0);
}

/// Harts that streams run on, and their VLEN.
const HARTS: &[(&str, u32)] = &[
    ("max", 128),
    ("max,vlen=256", 256),
    ("rv32,v=on,zvfh=on,zvbb=on,zvbc=on,zvkg=on,zvkned=on,zvknha=on,zvknhb=on,zvksed=on,zvksh=on", 128),
];

fn features(cpu: &str) -> Features {
    Features::everything(if cpu.starts_with("rv32") { Xlen::Rv32 } else { Xlen::Rv64 })
}

/// Returns how many of the instructions did not trap.
fn run_stream(seed: u64, encodings: &[&'static Encoding], machines: &mut [(&str, u32, Machine)]) -> usize {
    let mut r = Random::new(seed);
    let which = r.below(machines.len() as u64) as usize;
    let (cpu, vlen, machine) = &mut machines[which];
    let (cpu, vlen) = (*cpu, *vlen);
    let mut words = stream(&mut r, encodings, vlen);
    if let Some(n) = std::env::var("RHEA_VECTOR_LENGTH").ok().and_then(|n| n.parse().ok()) {
        words.truncate(n);
    }
    let store = [0x0000_10b7, 0x0000_a023_u32];
    let mut code: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    // lui ra, 1; sw zero, 0(ra); j .
    code.extend([store[0], store[1], 0x0000_006f].iter().flat_map(|w| w.to_le_bytes()));
    machine.write(CODE, &code);
    machine.write(HANDLER, &HANDLER_CODE.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>());
    let data: Vec<u8> = (0..0x4000).flat_map(|_| r.bits().to_le_bytes()).collect();
    machine.write(DATA - 0x8000, &data);
    machine.gather_flags();
    let st = machine.state();
    *st = {
        let mut fresh = rhea_riscv_state::CpuModel::parse(cpu).unwrap().reset_state(0, CODE);
        fresh.m.mstatus =
            st.m.mstatus | rhea_riscv_state::state::mstatus::VS | rhea_riscv_state::state::mstatus::FS;
        fresh
    };
    prepare(st, &mut r, vlen);
    let mut expected = st.clone();
    let mut ram = machine.read(RAM, RAM_LEN as usize);
    machine.load_rounding();
    let mut completed = 0;
    // Twice: the second time through units that are there already, and where vtype may be another.
    for round in 0..2 {
        machine.run(CODE);
        for word in &words {
            let call = decode32(*word, &features(cpu)).and_then(VectorCall::of);
            let done = call.is_some_and(|call| reference::step(&mut expected, &mut ram, call));
            completed += usize::from(done);
            if !done {
                expected.vstart = 0;
            }
        }
        let fflags = machine.gather_flags();
        let listing = || {
            let text = |w: &u32| decode32(*w, &features(cpu)).map(|i| i.display(0, 64).to_string());
            words.iter().map(|w| text(w).unwrap_or(format!("{w:#x}"))).collect::<Vec<_>>().join("\n")
        };
        let st = machine.state();
        let bytes = vlen as usize / 8;
        for i in 0..32 {
            let range = i * bytes..(i + 1) * bytes;
            let context =
                || format!("seed {seed} round {round} vlen {vlen} frm {}\n{}", expected.frm, listing());
            assert_eq!(st.v.0[range.clone()], expected.v.0[range], "v{i}: {}", context());
        }
        assert_eq!(
            (st.vl, st.vtype, st.vstart),
            (expected.vl, expected.vtype, expected.vstart),
            "{seed}\n{}",
            listing()
        );
        assert_eq!(st.x[12], expected.x[12], "a2, seed {seed}\n{}", listing());
        assert_eq!(st.f[12], expected.f[12], "fa2, seed {seed}\n{}", listing());
        assert_eq!(
            (fflags, st.vxsat),
            (expected.fflags, expected.vxsat),
            "flags, seed {seed}\n{}",
            listing()
        );
        let after = machine.read(DATA - 0x8000, 0x2_0000);
        let at = (DATA - 0x8000 - RAM) as usize;
        assert!(after == ram[at..at + 0x2_0000], "memory, seed {seed}\n{}", listing());
    }
    completed
}

fn streams(tier: Tier, lockstep: bool, seeds: std::ops::Range<u64>) {
    let encodings = vector_encodings();
    let machine = |(cpu, vlen): &(&'static str, u32)| (*cpu, *vlen, Machine::new(cpu, tier, lockstep));
    let mut machines: Vec<_> = HARTS.iter().map(machine).collect();
    let only: Option<u64> = std::env::var("RHEA_VECTOR_SEED").ok().and_then(|n| n.parse().ok());
    let (mut completed, mut all) = (0, 0);
    for seed in seeds.filter(|seed| only.is_none_or(|only| only == *seed)) {
        completed += run_stream(seed, &encodings, &mut machines);
        all += 2 * LENGTH;
    }
    assert!(2 * completed > all || only.is_some(), "{completed} of {all} instructions did not trap");
}

fn count() -> u64 {
    std::env::var("RHEA_VECTOR_STREAMS").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
}

#[test]
fn compiled_streams_do_what_the_interpreter_and_single_instructions_do() {
    streams(Tier::Baseline, true, 0..count());
}

#[test]
fn interpreted_streams_do_what_single_instructions_do() {
    streams(Tier::Interpreter, false, 1000..1000 + count());
}

#[test]
fn the_machine_stops_where_it_is_told_to() {
    let mut machine = Machine::new("max", Tier::Baseline, false);
    machine.write(CODE, &[0xb7, 0x10, 0, 0, 0x23, 0xb0, 0, 0]);
    machine.run(CODE);
    assert_eq!(machine.state().x[1], STOP);
}

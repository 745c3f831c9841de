//! Streams of random scalar instructions, with forward branches and floating-point control registers between them, on both
//! tiers. A handler in the guest notes each exception and goes on with the next instruction, so that units are left in their
//! middle all the time, and what they have done by then is compared too.

use rhea_engine::Tier;
use rhea_riscv_translate::{ENCODINGS, Xlen};

use crate::cases::{self, Random};
use crate::machine::{Machine, RAM, STOP};
use crate::server::{PAGE, PAGE_LEN};
use crate::{CPU32, CPU64, is_compared, text};

/// Where the handler of exceptions is, where it notes them, where the stream is: not near an address that operands have.
const HANDLER: u64 = RAM + 0x1_0000;
const LOG: u64 = RAM + 0x2_0000;
const CODE: u64 = RAM + 0x1000;
/// What the handler writes for each exception: what it uses itself, mcause, mtval, mepc.
const LOG_WORDS: u64 = 4;

const X30: u32 = 30;
const X31: u32 = 31;

const MCAUSE: u32 = 0x342;
const MTVAL: u32 = 0x343;
const MEPC: u32 = 0x341;
const MSCRATCH: u32 = 0x340;

/// Just enough of an assembler for the handler.
struct Assembler(u32);

impl Assembler {
    /// 3 for registers of 64 bits, 2 for 32: the log's words and the width of memory accesses.
    fn log2(&self) -> u32 {
        if self.0 == 64 { 3 } else { 2 }
    }

    fn store(&self, from: u32, base: u32, words: u32) -> u32 {
        let at = words << self.log2();
        at >> 5 << 25 | from << 20 | base << 15 | self.log2() << 12 | (at & 31) << 7 | 0x23
    }

    fn load(&self, to: u32, base: u32, words: u32) -> u32 {
        words << self.log2() << 20 | base << 15 | self.log2() << 12 | to << 7 | 0x03
    }

    fn add_to_memory(&self, x: u32, base: u32) -> u32 {
        x << 20 | base << 15 | self.log2() << 12 | 0x2f
    }
}

fn csr_read(csr: u32, to: u32) -> u32 {
    csr << 20 | 2 << 12 | to << 7 | 0x73
}

fn csr_swap(csr: u32, x: u32) -> u32 {
    csr << 20 | x << 15 | 1 << 12 | x << 7 | 0x73
}

fn add_immediate(to: u32, from: u32, value: i32) -> u32 {
    (value as u32) << 20 | from << 15 | to << 7 | 0x13
}

/// Notes the exception at the log's end, which mscratch holds, and skips the instruction.
fn handler(xlen: u32) -> Vec<u32> {
    let a = Assembler(xlen);
    let word = 1i32 << a.log2();
    let mut code = vec![csr_swap(MSCRATCH, X31), a.store(X30, X31, 0)];
    for (place, csr) in [(1, MCAUSE), (2, MTVAL), (3, MEPC)] {
        code.extend([csr_read(csr, X30), a.store(X30, X31, place)]);
    }
    code.extend([
        // lhu, andi 3, addi -3, seqz, slli 1, addi 2: the instruction's length.
        X30 << 15 | 5 << 12 | X30 << 7 | 0x03,
        3 << 20 | X30 << 15 | 7 << 12 | X30 << 7 | 0x13,
        add_immediate(X30, X30, -3),
        1 << 20 | X30 << 15 | 3 << 12 | X30 << 7 | 0x13,
        1 << 20 | X30 << 15 | 1 << 12 | X30 << 7 | 0x13,
        add_immediate(X30, X30, 2),
        add_immediate(X31, X31, 3 * word),
        a.add_to_memory(X30, X31),
        a.load(X30, X31, 0),
        MEPC << 20 | X30 << 15 | 1 << 12 | 0x73,
        add_immediate(X31, X31, -3 * word),
        a.load(X30, X31, 0),
        add_immediate(X31, X31, LOG_WORDS as i32 * word),
        csr_swap(MSCRATCH, X31),
        0x3020_0073,
    ]);
    code
}

/// What a stream leaves behind.
#[derive(PartialEq, Eq)]
struct Outcome {
    x: [u64; 32],
    f: [u64; 32],
    fcsr: u32,
    exceptions: u64,
    log: Vec<u8>,
    page: Vec<u8>,
}

/// What it starts with.
struct Start {
    x: [u64; 32],
    f: [u64; 32],
    page: Vec<u8>,
}

struct Runner {
    machine: Machine,
    xlen: u32,
}

impl Runner {
    fn new(cpu: &str, xlen: Xlen, tier: Tier) -> Runner {
        let mut machine = Machine::new(cpu, tier, false);
        let code: Vec<u8> = handler(xlen.bits()).into_iter().flat_map(u32::to_le_bytes).collect();
        machine.write(HANDLER, &code);
        machine.state().m.mtvec = HANDLER;
        Runner { machine, xlen: xlen.bits() }
    }

    /// Runs the stream twice, the second time with what the first has left.
    fn run(&mut self, stream: &[Vec<u8>], start: &Start) -> Outcome {
        let mut code = stream.concat();
        // lui x31 ; sw zero, (x31) ; a loop.
        for word in [(STOP as u32) | X31 << 7 | 0x37, X31 << 15 | 2 << 12 | 0x23, 0x6f] {
            code.extend(word.to_le_bytes());
        }
        let m = &mut self.machine;
        m.write(CODE, &code);
        m.write(PAGE, &start.page);
        m.gather_flags();
        let st = m.state();
        for i in 1..32 {
            st.set_x(i, start.x[i]);
        }
        st.f = start.f;
        (st.fflags, st.frm) = (0, 0);
        st.m.mscratch = LOG;
        for _ in 0..2 {
            m.state().reservation = rhea_riscv_state::state::NO_RESERVATION;
            m.load_rounding();
            m.run(CODE);
            m.gather_flags();
        }
        let word = u64::from(self.xlen / 8);
        let (x, f, fcsr, end) = {
            let st = m.state();
            (st.x, st.f, st.frm << 5 | st.fflags, st.m.mscratch)
        };
        let (log, page) = (m.read(LOG, (end - LOG) as usize), m.read(PAGE, PAGE_LEN));
        Outcome { x, f, fcsr, exceptions: (end - LOG) / word / LOG_WORDS, log, page }
    }
}

/// A branch over the next so many bytes, on random registers.
fn branch(r: &mut Random, over: u32) -> u32 {
    let (condition, rs1, rs2) = (r.pick(&[0u32, 1, 4, 5, 6, 7]), r.below(31) as u32, r.below(31) as u32);
    let offset = over + 4;
    (offset >> 5 & 63) << 25
        | rs2 << 20
        | rs1 << 15
        | condition << 12
        | (offset >> 1 & 15) << 8
        | (offset >> 11 & 1) << 7
        | 0x63
}

/// One of fflags, frm and fcsr, read, written or both.
fn float_control(r: &mut Random) -> u32 {
    let (csr, form) = (1 + r.below(3) as u32, 1 + r.below(3) as u32);
    let (rd, rs1) = (r.below(31) as u32, r.below(31) as u32);
    // Immediate forms too; frm has valid values most of the time that way.
    let immediate = if r.below(2) == 0 { 4 } else { 0 };
    csr << 20 | rs1 << 15 | (form | immediate) << 12 | rd << 7 | 0x73
}

fn stream(r: &mut Random, xlen: Xlen) -> (Vec<Vec<u8>>, Start) {
    let encodings: Vec<_> = ENCODINGS.iter().filter(|e| is_compared(e, xlen)).collect();
    let mut all: Vec<Vec<u8>> = Vec::new();
    let mut start = Start { x: [0; 32], f: [0; 32], page: Vec::new() };
    while all.len() < 40 {
        let e = r.pick(&encodings);
        let request = cases::request(r, e);
        let width = e.width as usize / 8;
        let shown = text(request.word, xlen);
        // Some words of an encoding are another instruction, which jumps.
        let jumps = ["c.j", "c.b", "c.ebreak", "ecall"].iter().any(|start| shown.starts_with(start));
        if !jumps {
            all.push(request.word.to_le_bytes()[..width].to_vec());
        }
        (start.x, start.f, start.page) = (request.x, request.f, request.page);
        if r.below(8) == 0 {
            all.push(float_control(r).to_le_bytes().to_vec());
        }
    }
    // Addresses where most of the stream's accesses look for them.
    for i in [2, 8, 9, 10, 11, 12, 13, 14, 15, 20, 25] {
        start.x[i] = PAGE + 1024 + 64 * i as u64;
    }
    // From the end, so that what a branch skips grows no more.
    let mut at = all.len() - 4;
    while at > 3 {
        let over: usize = all[at..at + 1 + r.below(3) as usize].iter().map(Vec::len).sum();
        all.insert(at, branch(r, over as u32).to_le_bytes().to_vec());
        at -= 2 + r.below(5).min(at as u64 - 2) as usize;
    }
    (all, start)
}

fn shown(stream: &[Vec<u8>], xlen: Xlen) -> String {
    let word = |bytes: &Vec<u8>| bytes.iter().rev().fold(0, |all, &b| all << 8 | u64::from(b));
    stream.iter().map(|i| format!("  {}\n", text(word(i), xlen))).collect()
}

fn count() -> u64 {
    std::env::var("RHEA_SCALAR_STREAMS").ok().and_then(|n| n.parse().ok()).unwrap_or(150)
}

fn agree(cpu: &str, xlen: Xlen) {
    let mut compiled = Runner::new(cpu, xlen, Tier::Baseline);
    let mut interpreted = Runner::new(cpu, xlen, Tier::Interpreter);
    let mut exceptions = 0;
    for seed in 0..count() {
        let (stream, start) = stream(&mut Random::new(seed + 1), xlen);
        let outcome = compiled.run(&stream, &start);
        exceptions += outcome.exceptions;
        if outcome == interpreted.run(&stream, &start) {
            continue;
        }
        // The shortest beginning of it that shows the difference.
        let first = (1..=stream.len())
            .find(|&n| compiled.run(&stream[..n], &start) != interpreted.run(&stream[..n], &start));
        let stream = &stream[..first.unwrap_or(stream.len())];
        let (a, b) = (compiled.run(stream, &start), interpreted.run(stream, &start));
        let mut differences = String::new();
        for i in 0..32 {
            if a.x[i] != b.x[i] {
                differences += &format!("  x{i}: {:#x}, not {:#x}\n", a.x[i], b.x[i]);
            }
            if a.f[i] != b.f[i] {
                differences += &format!("  f{i}: {:#x}, not {:#x}\n", a.f[i], b.f[i]);
            }
        }
        panic!(
            "stream {seed}: the tiers differ (fcsr {:#x}, {:#x}; exceptions {}, {}; memory the same: {})\n{differences}{}",
            a.fcsr,
            b.fcsr,
            a.exceptions,
            b.exceptions,
            a.page == b.page && a.log == b.log,
            shown(stream, xlen)
        );
    }
    eprintln!("{} streams, {exceptions} exceptions", count());
    assert!(exceptions > count(), "hardly any unit was left in its middle");
}

#[test]
fn streams_do_the_same_on_both_tiers_with_64_bits() {
    agree(CPU64, Xlen::Rv64);
}

#[test]
fn streams_do_the_same_on_both_tiers_with_32_bits() {
    agree(CPU32, Xlen::Rv32);
}

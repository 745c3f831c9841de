//! What the paths outside translated code cost, in nanoseconds on this host: `cargo bench -p rhea-engine`.
//!
//! The figures of record are in docs/engine-costs.md.

#[path = "../tests/toy/guest.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod guest;
#[path = "../tests/toy/machine.rs"]
#[allow(dead_code, reason = "shared with the tests")]
mod machine;

use guest::{Entry, op};
use machine::{Asm, Machine, TIERS, config, run_from};
use rhea_engine::{EngineConfig, Stats, Tier, VcpuContext};

/// A point in processor time of this thread: what other processes do to the clock on the wall is left out.
struct Instant(libc::timespec);

impl Instant {
    fn now() -> Self {
        let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call fills in the local.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
        Instant(t)
    }

    /// Nanoseconds since then.
    fn elapsed(&self) -> f64 {
        let now = Self::now().0;
        (now.tv_sec - self.0.tv_sec) as f64 * 1e9 + (now.tv_nsec - self.0.tv_nsec) as f64
    }
}

fn report(what: &str, ns: f64) {
    println!("{what:<64} {ns:>9.1} ns");
}

/// Runs from `pc` five times; nanoseconds of the fastest run, divided by `count` of its counters.
fn measure(what: &str, cx: &mut VcpuContext, pc: u64, count: impl Fn(&Stats, &Stats) -> u64) {
    let mut best = f64::MAX;
    for _ in 0..5 {
        let before = *cx.stats();
        let start = Instant::now();
        run_from(cx, pc);
        let ns = start.elapsed();
        let n = count(&before, cx.stats());
        if n != 0 {
            best = best.min(ns / n as f64);
        }
    }
    report(what, best);
}

fn count_loop(times: i32) -> Asm {
    Asm::new().li(1, 0).li(2, times).addi(1, 1, 1).bne(1, 2, 16).exit()
}

fn dispatch() {
    let times = 1_000_000;
    for tier in TIERS {
        let m = Machine::new(EngineConfig { no_chain: true, ..config(tier) });
        m.load(0x1000, &count_loop(times));
        let mut cx = m.vcpu(0, 0);
        let what = format!("{tier:?}: a unit of two instructions, each dispatched");
        measure(&what, &mut cx, 0x1000, |a, b| b.dispatches - a.dispatches);
    }
    let m = Machine::new(config(Tier::Baseline));
    m.load(0x1000, &count_loop(times));
    m.load(0x2010, &Asm::new().addi(1, 1, 1).insn(op::BNE, 0, 1, 2, 0x1000 - 8).exit());
    m.load(0x3010, &Asm::new().j(-0x1000));
    m.load(0x4000, &Asm::new().li(1, 0).li(2, times).call(0x1000 - 16).bne(1, 2, 16).exit());
    m.load(0x5000, &Asm::new().addi(1, 1, 1).ret());
    m.load(0x6fec, &Asm::new().li(2, times).addi(1, 1, 1).insn(op::BNE, 0, 1, 2, -8).exit());
    m.load(0x8000, &Asm::new().li(1, 0).j(0x6fec - 0x8008));
    m.load(0x9000, &Asm::new().li(1, 0).li(2, times).j(0x2010 - 0x9010));
    let mut cx = m.vcpu(0, 0);
    let n = times as u64;
    measure("Baseline: a chained unit of two instructions", &mut cx, 0x1000, |_, _| n);
    measure("Baseline: two jumps between pages", &mut cx, 0x9000, |_, _| n);
    measure("Baseline: a call and its return, to another page", &mut cx, 0x4000, |_, _| n);
    measure("Baseline: an iteration over a page-crossing instruction", &mut cx, 0x8000, |_, _| n);
}

fn soft_tlb() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        let code = Asm::new()
            .li(2, 0x20_0000)
            .li(3, 0xa0_0000)
            .ld(3, 4, 2, 0)
            .addi(2, 2, 0x1000)
            .bne(2, 3, 16)
            .exit();
        m.load(0x1000, &code);
        let mut cx = m.vcpu(0, 0);
        run_from(&mut cx, 0x1000);
        let what = format!("{tier:?}: a load that misses the TLB (toy page walk)");
        measure(&what, &mut cx, 0x1000, |a, b| b.tlb_walks - a.tlb_walks);
    }
    let m = Machine::new(config(Tier::Baseline));
    let mut cx = m.vcpu(0, 0);
    m.load(0x1000, &Asm::new().exit());
    let timed = |what: &str, cx: &mut VcpuContext, n: u32, f: &mut dyn FnMut(&mut VcpuContext, u64)| {
        let start = Instant::now();
        for i in 0..n {
            f(cx, u64::from(i));
        }
        report(what, start.elapsed() / f64::from(n));
    };
    let fill = |cx: &mut VcpuContext, pages: u64| {
        for p in 0..pages {
            cx.load(0x20_0000 + p * 0x1000, 8, 0).unwrap();
        }
    };
    timed("flush of a page without code", &mut cx, 100_000, &mut |cx, i| {
        cx.env().flush_tlb_page(0x30_0000 + i % 100 * 0x1000);
    });
    let mut full = Asm::new();
    for _ in 0..511 {
        full = full.j(8);
    }
    m.load(0x1000, &full.clone().j(0x1000));
    m.load(0x2ff8, &Asm::new().exit());
    m.load(0x2000, &full.j(0xff8));
    let exec = |cx: &mut VcpuContext| {
        for at in 0..512 {
            cx.state::<guest::State>().pc = 0x2000 + at * 8;
            cx.run();
        }
    };
    exec(&mut cx);
    timed("flush of a page with code, 512 units known, none on it", &mut cx, 10_000, &mut |cx, _| {
        cx.env().flush_tlb_page(0x10_2000);
    });
    timed("starting and stopping a vCPU", &mut cx, 10_000, &mut |cx, _| {
        cx.state::<guest::State>().pc = 0x2ff8;
        cx.run();
    });
    timed("flush of what is not global, nothing filled", &mut cx, 100_000, &mut |cx, _| {
        cx.env().flush_tlb_nonglobal();
    });
    timed("flush of what is not global, 500 entries, and filling them", &mut cx, 200, &mut |cx, _| {
        fill(cx, 500);
        cx.env().flush_tlb_nonglobal();
    });
    timed("filling 500 entries alone, twice", &mut cx, 1, &mut |cx, _| {
        fill(cx, 500);
        fill(cx, 500);
    });
    timed("flush of all", &mut cx, 10_000, &mut |cx, _| cx.env().flush_tlb_all());
    m.map(0x4000_0000, Entry { bits: 21, ..Entry::to(0) });
    timed("flush of a page of a large page", &mut cx, 10_000, &mut |cx, _| {
        cx.load(0x4000_5000, 8, 0).unwrap();
        cx.env().flush_tlb_page(0x4000_0000);
    });
}

fn translation() {
    for tier in TIERS {
        let m = Machine::new(EngineConfig { code_bytes: 64 << 20, ..config(tier) });
        let mut code = Asm::new();
        for i in 0..30 {
            code = code.addi((i % 7) as u8, 1, i).ld(3, 2, 6, 8);
        }
        let code = code.exit();
        for page in 0..256u64 {
            for at in [0, 0x400, 0x800, 0xc00] {
                m.load(0x20_0000 + page * 0x1000 + at, &code);
            }
        }
        let mut cx = m.vcpu(0, 0);
        let start = Instant::now();
        for page in 0..256u64 {
            for at in [0, 0x400, 0x800, 0xc00] {
                cx.state::<guest::State>().pc = 0x20_0000 + page * 0x1000 + at;
                cx.data::<guest::Cpu>().end = None;
                cx.run();
            }
        }
        let ns = start.elapsed();
        let s = *cx.stats();
        report(
            &format!("{tier:?}: translating an instruction"),
            s.translate_ns as f64 / s.translated_insns as f64,
        );
        report(
            &format!("{tier:?}: translating a unit of 61, 4 in a new page"),
            s.translate_ns as f64 / s.units as f64,
        );
        report(&format!("{tier:?}: … and running it once"), ns / s.units as f64);
        // Writing each unit away and making it again.
        let start = Instant::now();
        let before = s.units;
        for round in 0..2000u64 {
            m.space.write(0x20_0000, 4, u64::from(op::ADDI) | (round % 7) << 8);
            cx.state::<guest::State>().pc = 0x20_0000;
            cx.run();
        }
        let n = (cx.stats().units - before) as f64;
        report(&format!("{tier:?}: writing to a unit and making it again"), start.elapsed() / n);
    }
}

fn writes() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        let store = |o: u8, address: i32| {
            Asm::new()
                .li(1, 0)
                .li(2, 20_000)
                .li(5, address)
                .insn(o, 3, 5, 3, 0)
                .addi(1, 1, 1)
                .bne(1, 2, 24)
                .exit()
        };
        m.load(0x1000, &store(op::ST, 0x1800));
        m.load(0x2000, &store(op::ST, 0x9ffd));
        m.load(0x3000, &store(op::ATOMIC_ADD, 0x9001));
        let mut cx = m.vcpu(0, 0);
        measure(&format!("{tier:?}: a store beside code"), &mut cx, 0x1000, |_, _| 20_000);
        measure(&format!("{tier:?}: a store across a page"), &mut cx, 0x2000, |_, _| 20_000);
        measure(&format!("{tier:?}: an atomic that stops the world, one vCPU"), &mut cx, 0x3000, |_, _| {
            20_000
        });
    }
}

fn main() {
    dispatch();
    soft_tlb();
    translation();
    writes();
}

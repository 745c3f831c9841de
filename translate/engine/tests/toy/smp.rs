//! Several vCPUs: atomics, cross-modifying code, eviction, exclusive execution.

use crate::guest::{State, op};
use crate::machine::{Asm, Machine, TIERS, config, run_from};
use rhea_engine::{Tier, VcpuContext};

/// Runs `program(index)` on `count` vCPUs at once, from its own page; gives their registers.
fn together(m: &Machine, count: u32, program: impl Fn(u32) -> Asm) -> Vec<[u64; 8]> {
    let contexts: Vec<Box<VcpuContext>> = (0..count)
        .map(|i| {
            m.load(0x10_0000 + u64::from(i) * 0x1_0000, &program(i));
            m.vcpu(i, 0)
        })
        .collect();
    std::thread::scope(|s| {
        let threads: Vec<_> = contexts
            .into_iter()
            .zip(0u64..)
            .map(|(mut cx, i)| s.spawn(move || run_from(&mut cx, 0x10_0000 + i * 0x1_0000)))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

/// Adds 1 to the counter at `address`, `times` times, atomically.
fn adder(address: i32, times: i32) -> Asm {
    Asm::new()
        .li(1, 0)
        .li(2, times)
        .li(3, 1)
        .li(5, address)
        .insn(op::ATOMIC_ADD, 4, 5, 3, 0)
        .addi(1, 1, 1)
        .bne(1, 2, 32)
        .exit()
}

#[test]
fn atomic_adds_are_atomic() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        together(&m, 3, |_| adder(0x9000, 20_000));
        assert_eq!(m.space.read(0x9000, 8), 60_000);
    }
}

#[test]
fn split_atomic_adds_are_atomic_too() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        // Across a cache line, and across a page; half of the vCPUs halt the world, half only run.
        for (address, times) in [(0x903d, 300), (0x9ffd, 300)] {
            together(&m, 3, |_| adder(address, times));
            assert_eq!(m.space.read(address as u64, 8), 3 * times as u64, "{tier:?} {address:#x}");
        }
    }
}

#[test]
fn atomic_adds_beside_code_are_atomic() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        m.load(0x9000, &Asm::new().ret());
        let mut cx = m.vcpu(9, 0);
        cx.state::<State>().r[7] = 0x9100;
        m.load(0x9100, &Asm::new().exit());
        run_from(&mut cx, 0x9000);
        together(&m, 2, |_| adder(0x9800, 5_000));
        assert_eq!(m.space.read(0x9800, 8), 10_000);
    }
}

#[test]
fn code_changed_by_another_vcpu_is_seen_after_the_flag() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        // vCPU 0 writes `li r4, n` at 0x5000 with n = 1.., then sets the flag at 0x9000 to n and waits for the
        // answer at 0x9040. vCPU 1 waits for the flag, calls 0x5000, and answers with what it got.
        let rounds = 400;
        m.load(0x5000, &Asm::new().li(4, 0).ret());
        m.space.write(0x9080, 8, Asm::new().li(4, 0).word());
        let writer = Asm::new()
            .li(5, 0x9000)
            .li(6, 0x5000)
            .li(2, rounds)
            .li(1, 0)
            .addi(1, 1, 1) // 32
            .st(2, 1, 6, 4)
            .st(3, 1, 5, 0)
            .ld(3, 3, 5, 0x40) // 56
            .bne(3, 1, 56)
            .bne(1, 2, 32)
            .exit();
        let reader = Asm::new()
            .li(5, 0x9000)
            .li(2, rounds)
            .li(1, 0)
            .li(3, 0)
            .addi(3, 3, 1) // 32
            .ld(3, 1, 5, 0) // 40
            .bne(1, 3, 40)
            .insn(op::CALL, 7, 0, 0, 0x5000 - (0x11_0000 + 56))
            .st(3, 4, 5, 0x40)
            .bne(4, 3, 88) // an answer of the past: stop at 88
            .bne(3, 2, 32)
            .exit();
        let r = together(&m, 2, |i| if i == 0 { writer.clone() } else { reader.clone() });
        assert_eq!((r[0][1], r[1][3], r[1][4]), (rounds as u64, rounds as u64, rounds as u64), "{tier:?}");
    }
}

#[test]
fn a_small_cache_under_several_vcpus() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        // Each vCPU goes around many pages of code, of which the cache holds a part; two share the pages.
        let pages = 160u64;
        for p in 0..pages {
            let mut code = Asm::new();
            for _ in 0..50 {
                code = code.addi(1, 1, 1).st(3, 1, 6, 0).ld(3, 4, 6, 8);
            }
            let to = if p + 1 == pages { 0xf000 } else { 0x1000 };
            let back = code.here();
            code = if p + 1 == pages { code.insn(op::JR, 0, 5, 0, 0) } else { code.j(to - back) };
            m.load(0x40_0000 + p * 0x1000, &code);
        }
        let rounds = if tier == Tier::Baseline { 30 } else { 3 };
        let program = |i: u32| {
            let base = 0x10_0000 + i as i32 * 0x1_0000;
            Asm::new()
                .li(1, 0)
                .li(2, 0)
                .li(3, rounds)
                .li(5, base + 48)
                .li(6, 0x20_0000 + i as i32 * 0x1000)
                .insn(op::J, 0, 0, 0, 0x40_0000 - (base + 40))
                .addi(2, 2, 1)
                .bne(2, 3, 40)
                .exit()
        };
        let r = together(&m, 4, program);
        for registers in r {
            assert_eq!(registers[1], rounds as u64 * pages * 50);
        }
    }
}

#[test]
fn drops_race_with_lookups() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        // vCPU 0 keeps rewriting a procedure with what it was; vCPU 1 and 2 keep calling it.
        m.load(0x5000, &Asm::new().addi(4, 4, 1).ret());
        let writer = Asm::new()
            .li(6, 0x5000)
            .li(1, 0)
            .li(2, 20_000)
            .ld(3, 4, 6, 0)
            .st(3, 4, 6, 0)
            .addi(1, 1, 1)
            .bne(1, 2, 24);
        let caller = |i: u32| {
            let base = 0x10_0000 + i as i32 * 0x1_0000;
            Asm::new()
                .li(1, 0)
                .li(2, 20_000)
                .insn(op::CALL, 7, 0, 0, 0x5000 - (base + 16))
                .addi(1, 1, 1)
                .bne(1, 2, 16)
                .exit()
        };
        let r = together(&m, 3, |i| if i == 0 { writer.clone().exit() } else { caller(i) });
        assert_eq!((r[1][4], r[2][4]), (20_000, 20_000));
    }
}

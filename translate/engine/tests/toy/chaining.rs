//! Control flow: loops, jumps within and across pages, calls and returns, modes.

use crate::guest::{End, Entry, State, op};
use crate::machine::{Asm, Machine, TIERS, config, run, run_from};

/// r1 = r1 + 1 until r1 = r2.
fn count_loop() -> Asm {
    Asm::new().li(1, 0).li(2, 100_000).addi(1, 1, 1).bne(1, 2, 16).exit()
}

#[test]
fn a_loop_runs_and_chains() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        m.load(0x1000, &count_loop());
        let mut cx = m.vcpu(0, 0);
        assert_eq!(run_from(&mut cx, 0x1000)[1], 100_000);
        if tier == rhea_engine::Tier::Baseline {
            assert_eq!(cx.stats().unsupported, 0);
            assert!(cx.stats().dispatches < 100, "{:?}", cx.stats());
        }
    }
}

#[test]
fn without_chaining_each_unit_is_dispatched() {
    for tier in TIERS {
        let m = Machine::new(rhea_engine::EngineConfig { no_chain: true, ..config(tier) });
        m.load(0x1000, &count_loop());
        let mut cx = m.vcpu(0, 0);
        assert_eq!(run_from(&mut cx, 0x1000)[1], 100_000);
        assert!(cx.stats().dispatches >= 100_000);
    }
}

#[test]
fn jumps_go_back_and_forth_between_pages() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        // A loop half in one page and half in the next.
        m.load(0x1000, &Asm::new().li(1, 0).li(2, 50_000).j(0x1000));
        m.load(0x2010, &Asm::new().addi(1, 1, 1).j(0x1000 - 8));
        m.load(0x3010, &Asm::new().insn(op::BNE, 0, 1, 2, -0x1000).exit());
        let mut cx = m.vcpu(0, 0);
        assert_eq!(run_from(&mut cx, 0x1000)[1], 50_000);
        if tier == rhea_engine::Tier::Baseline {
            assert!(cx.stats().dispatches < 100, "{:?}", cx.stats());
        }
    }
}

#[test]
fn an_instruction_may_cross_a_page() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        m.load(0x1fec, &Asm::new().li(2, 20_000).addi(1, 1, 1).insn(op::BNE, 0, 1, 2, -8).exit());
        let mut cx = m.vcpu(0, 0);
        assert_eq!(run_from(&mut cx, 0x1fec)[1], 20_000);
        if tier == rhea_engine::Tier::Baseline {
            assert!(cx.stats().lookups < 100, "{:?}", cx.stats());
        }
    }
}

#[test]
fn a_crossing_instruction_follows_its_second_page() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        // The immediate of the instruction at 0x1ffc is in the second page, of which there are two versions.
        m.load(0x1ffc, &Asm::new().li(1, 11).exit());
        m.space.write_bytes(0x5000, &Asm::new().li(1, 22).exit().bytes[4..]).unwrap();
        let mut cx = m.vcpu(0, 0);
        assert_eq!(run_from(&mut cx, 0x1ffc)[1], 11);
        m.map(0x2000, Entry::to(0x5000));
        cx.env().flush_tlb_page(0x2000);
        assert_eq!(run_from(&mut cx, 0x1ffc)[1], 22);
        m.map(0x2000, Entry::to(0x2000));
        cx.env().flush_tlb_nonglobal();
        assert_eq!(run_from(&mut cx, 0x1ffc)[1], 11);
    }
}

/// Calls the procedure at 0x4000 twenty thousand times.
fn load_calls(m: &Machine) {
    m.load(0x1000, &Asm::new().li(1, 0).li(2, 20_000).call(0x3000 - 16).bne(1, 2, 16).exit());
    m.load(0x4000, &Asm::new().addi(1, 1, 1).ret());
}

#[test]
fn calls_return_by_the_return_stack() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        load_calls(&m);
        let mut cx = m.vcpu(0, 0);
        assert_eq!(run_from(&mut cx, 0x1000)[1], 20_000);
        if tier == rhea_engine::Tier::Baseline {
            assert!(cx.stats().dispatches < 100, "{:?}", cx.stats());
        }
    }
}

#[test]
fn a_return_to_a_page_that_was_remapped_goes_to_the_new_page() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        // The procedure remaps the page it was called from, then returns.
        let caller = |n| Asm::new().call(0x3000).li(1, n).exit();
        m.load(0x1000, &caller(1));
        m.load(0x8000, &caller(2));
        let callee = Asm::new().li(3, 0x1000).li(4, 0x8000).insn(op::REMAP, 3, 4, 0, 0);
        for flush in [op::FLUSH_PAGE, op::FLUSH, op::FLUSH_NONGLOBAL] {
            m.load(0x4000, &callee.clone().insn(flush, 3, 0, 0, 0).ret());
            m.tables.lock().clear();
            let mut cx = m.vcpu(0, 0);
            // The first run is of new code, the second finds it; the page is then mapped back.
            for _ in 0..2 {
                m.tables.lock().clear();
                cx.env().flush_tlb_all();
                assert_eq!(run_from(&mut cx, 0x1000)[1], 2);
            }
        }
    }
}

#[test]
fn a_jump_after_a_flush_finds_the_new_page() {
    for tier in TIERS {
        for flush in [op::FLUSH_PAGE, op::FLUSH, op::FLUSH_NONGLOBAL] {
            let m = Machine::new(config(tier));
            m.load(0x1000, &Asm::new().li(3, 0x6000).insn(op::JR, 0, 3, 0, 0));
            m.load(0x6000, &Asm::new().li(1, 1).exit());
            m.load(0x7000, &Asm::new().li(1, 2).exit());
            m.load(0x2000, &Asm::new().li(3, 0x6000).insn(flush, 3, 0, 0, 0).j(-0x1010));
            let mut cx = m.vcpu(0, 0);
            for _ in 0..3 {
                assert_eq!(run_from(&mut cx, 0x1000)[1], 1);
            }
            m.map(0x6000, Entry::to(0x7000));
            assert_eq!(run_from(&mut cx, 0x2000)[1], 2);
            assert_eq!(run_from(&mut cx, 0x1000)[1], 2);
        }
    }
}

#[test]
fn modes_have_their_own_translations() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        // r1 += 5 in mode 0, then through the same code in mode 1, where it counts double, and back.
        let code = Asm::new()
            .li(1, 0)
            .call(0x3000 - 8)
            .insn(op::MODE, 0, 0, 0, 1)
            .call(0x3000 - 24)
            .insn(op::MODE, 0, 0, 0, 0)
            .call(0x3000 - 40)
            .exit();
        m.load(0x1000, &code);
        m.load(0x4000, &Asm::new().addi(1, 1, 5).ret());
        let mut cx = m.vcpu(0, 0);
        for _ in 0..3 {
            assert_eq!(run_from(&mut cx, 0x1000)[1], 20);
        }
    }
}

#[test]
fn a_return_under_another_mode_does_not_take_the_old_landing() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        m.load(0x1000, &Asm::new().li(1, 0).call(0x3000 - 8).addi(1, 1, 5).exit());
        m.load(0x4000, &Asm::new().insn(op::MODE, 0, 0, 0, 1).ret());
        let mut cx = m.vcpu(0, 0);
        for _ in 0..3 {
            cx.state::<State>().mode = 0;
            assert_eq!(run_from(&mut cx, 0x1000)[1], 10);
        }
    }
}

#[test]
fn a_deep_recursion_overflows_the_return_stack_and_still_returns() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        // f(n): r1 += 1; if r1 != r2 { push link; f; pop link }; return.
        m.load(0x1000, &Asm::new().li(1, 0).li(2, 200).li(6, 0x9000).call(0x3000 - 24).exit());
        let f = Asm::new()
            .addi(1, 1, 1)
            .bne(1, 2, 24)
            .ret()
            .st(3, 7, 6, 0)
            .addi(6, 6, 8)
            .call(-40)
            .addi(6, 6, -8)
            .ld(3, 7, 6, 0)
            .addi(5, 5, 1)
            .ret();
        m.load(0x4000, &f);
        let mut cx = m.vcpu(0, 0);
        let r = run_from(&mut cx, 0x1000);
        assert_eq!((r[1], r[5], r[6]), (200, 199, 0x9000));
    }
}

#[test]
fn a_fault_shows_the_state_before_the_instruction() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        m.map(0x9000, Entry::ABSENT);
        m.load(0x1000, &Asm::new().li(1, 1).li(2, 0x9008).li(3, 3).ld(3, 3, 2, 0).li(1, 9).exit());
        let mut cx = m.vcpu(0, 0x1000);
        let end = run(&mut cx);
        assert_eq!(end, End::Fault(0x9008, rhea_engine::Access::Read));
        let s = cx.state::<State>().clone();
        assert_eq!((s.r[1], s.r[2], s.r[3], s.pc), (1, 0x9008, 3, 0x1018));
        // Once mapped, the same instruction goes on.
        m.tables.lock().clear();
        m.space.write(0x9008, 8, 77);
        assert_eq!(run(&mut cx), End::Exit);
        assert_eq!(cx.state::<State>().r[3], 77);
    }
}

#[test]
fn sizes_of_memory_accesses() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        m.space.write(0x9000, 8, 0x8877_6655_4433_2211);
        let mut code = Asm::new().li(6, 0x9000);
        for size in 0..4 {
            code = code.ld(size, size, 6, 0);
        }
        // A store and a load across a page, unaligned.
        code = code.li(6, 0x9ffd).st(3, 3, 6, 0).ld(3, 4, 6, 0).ld(2, 5, 6, 1).exit();
        m.load(0x1000, &code);
        let mut cx = m.vcpu(0, 0);
        let r = run_from(&mut cx, 0x1000);
        assert_eq!(r[..4], [0x11, 0x2211, 0x4433_2211, 0x8877_6655_4433_2211]);
        assert_eq!((r[4], r[5]), (0x8877_6655_4433_2211, 0x5544_3322));
    }
}

#[test]
fn a_helper_is_called() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        m.load(0x1000, &Asm::new().li(1, 14).insn(op::TRIPLE, 2, 1, 0, 0).exit());
        let mut cx = m.vcpu(0, 0);
        assert_eq!(run_from(&mut cx, 0x1000)[2], 42);
    }
}

#[test]
fn a_trap_leaves_at_its_instruction() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        m.load(0x1000, &Asm::new().li(1, 14).insn(op::TRAP, 0, 0, 0, 0));
        let mut cx = m.vcpu(0, 0x1000);
        assert_eq!(run(&mut cx), End::Trap);
        assert_eq!(cx.state::<State>().pc, 0x1008);
    }
}

#[test]
fn code_in_a_device_runs() {
    struct Rom(Vec<u8>);
    impl rhea_memory::MmioHandler for Rom {
        fn read(&self, offset: u64, size: usize) -> u64 {
            (0..size)
                .rev()
                .fold(0, |v, i| v << 8 | u64::from(self.0.get(offset as usize + i).copied().unwrap_or(0)))
        }
        fn write(&self, _: u64, _: usize, _: u64) {}
    }
    for tier in TIERS {
        let m = Machine::new(config(tier));
        let device = std::sync::Arc::new(Rom(Asm::new().li(1, 3).addi(1, 1, 4).exit().bytes));
        m.root.add(1 << 32, &rhea_memory::Region::mmio(&m.topology, "rom", 0x1000, device));
        let mut cx = m.vcpu(0, 0);
        assert_eq!(run_from(&mut cx, 1 << 32)[1], 7);
    }
}

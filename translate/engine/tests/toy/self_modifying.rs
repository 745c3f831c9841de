//! Code that changes: by itself, by its neighbour, by a device.

use crate::guest::{Entry, State, op};
use crate::machine::{Asm, Machine, TIERS, config, run_from};
use rhea_engine::Tier;

/// Loads the word at 0x9000 into r4.
fn fetch_word(a: Asm) -> Asm {
    a.li(6, 0x9000).ld(3, 4, 6, 0)
}

#[test]
fn a_store_into_the_running_unit_takes_effect_at_once() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        m.space.write(0x9000, 8, Asm::new().li(1, 2).word());
        // Overwrites the next instruction, `li r1, 1`.
        let code = fetch_word(Asm::new()).li(5, 0x1000).st(3, 4, 5, 32).li(1, 1).exit();
        m.load(0x1000, &code);
        let mut cx = m.vcpu(0, 0);
        assert_eq!(run_from(&mut cx, 0x1000)[1], 2, "{tier:?} {:?}", cx.stats());
        // And again, from code that is known.
        m.load(0x1000, &code);
        assert_eq!(run_from(&mut cx, 0x1000)[1], 2);
        assert!(cx.stats().invalidated > 0);
    }
}

#[test]
fn a_store_into_another_unit_of_the_page_drops_it_alone() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        m.space.write(0x9000, 8, Asm::new().li(1, 2).word());
        m.load(0x1800, &Asm::new().li(1, 1).ret());
        m.load(0x1900, &Asm::new().li(2, 7).ret());
        let code = Asm::new().li(5, 0x1800).call(0x800 - 8).add(3, 1, 0).call(0x900 - 24);
        m.load(0x1000, &fetch_word(code).st(3, 4, 5, 0).call(0x800 - 56).exit());
        let mut cx = m.vcpu(0, 0);
        let r = run_from(&mut cx, 0x1000);
        assert_eq!((r[1], r[2], r[3]), (2, 7, 1));
        assert_eq!(cx.stats().invalidated, 1);
    }
}

#[test]
fn data_beside_code_does_not_drop_it() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        let code =
            Asm::new().li(1, 0).li(2, 5000).li(5, 0x1800).addi(1, 1, 1).st(3, 1, 5, 0).bne(1, 2, 24).exit();
        m.load(0x1000, &code);
        let mut cx = m.vcpu(0, 0);
        run_from(&mut cx, 0x1000);
        assert_eq!(m.space.read(0x1800, 8), 5000);
        assert_eq!(cx.stats().invalidated, 0);
    }
}

#[test]
fn a_page_that_held_code_becomes_fast_data_again() {
    let m = Machine::new(config(Tier::Baseline));
    m.load(0x3000, &Asm::new().li(1, 1).exit());
    // Stores over the page and beyond the code that was there, many times.
    let code = Asm::new().li(1, 0).li(2, 5000).li(5, 0x3000).addi(1, 1, 1).st(3, 1, 5, 0).st(3, 1, 5, 0x800);
    m.load(0x1000, &code.bne(1, 2, 24).exit());
    let mut cx = m.vcpu(0, 0);
    run_from(&mut cx, 0x3000);
    run_from(&mut cx, 0x1000);
    assert!(cx.stats().slow_accesses < 100, "{:?}", cx.stats());
    // And it may hold code once more.
    m.load(0x3000, &Asm::new().li(1, 6).exit());
    assert_eq!(run_from(&mut cx, 0x3000)[1], 6);
    m.space.write(0x9000, 8, Asm::new().li(1, 8).word());
    m.load(0x1000, &fetch_word(Asm::new()).li(5, 0x3000).st(3, 4, 5, 0).j(0x2000 - 32));
    assert_eq!(run_from(&mut cx, 0x1000)[1], 8);
}

#[test]
fn a_write_by_a_device_drops_units() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        m.load(0x1000, &Asm::new().li(1, 1).exit());
        let mut cx = m.vcpu(0, 0);
        for n in 1..20 {
            m.space.write_bytes(0x1000, &Asm::new().li(1, n).bytes).unwrap();
            assert_eq!(run_from(&mut cx, 0x1000)[1], n as u64);
        }
        // A whole page at once.
        let mut page = Asm::new().li(1, 99).exit().bytes;
        page.resize(4096, 0);
        m.space.write_bytes(0x1000, &page).unwrap();
        assert_eq!(run_from(&mut cx, 0x1000)[1], 99);
    }
}

#[test]
fn both_parts_of_a_crossing_instruction_are_watched() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        m.load(0x1ffc, &Asm::new().li(1, 1).exit());
        // Writes the immediate (in the second page), later the register number (in the first).
        m.load(0x5000, &Asm::new().li(5, 0x2000).li(4, 33).st(2, 4, 5, 0).j(0x1ffc - 0x5018));
        m.load(0x6000, &Asm::new().li(5, 0x1ffd).li(4, 2).st(0, 4, 5, 0).j(0x1ffc - 0x6018));
        let mut cx = m.vcpu(0, 0);
        assert_eq!(run_from(&mut cx, 0x1ffc)[1], 1);
        assert_eq!(run_from(&mut cx, 0x5000)[1], 33);
        assert_eq!(run_from(&mut cx, 0x6000)[2], 33);
    }
}

#[test]
fn a_crossing_instruction_over_one_page_twice_runs() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        // Two virtual pages on one physical page: the instruction wraps around.
        m.map(0x20000, Entry::to(0x9000));
        m.map(0x21000, Entry::to(0x9000));
        let bytes = Asm::new().li(1, 5).exit().bytes;
        m.space.write_bytes(0x9ffc, &bytes[..4]).unwrap();
        m.space.write_bytes(0x9000, &bytes[4..]).unwrap();
        let mut cx = m.vcpu(0, 0);
        assert_eq!(run_from(&mut cx, 0x20ffc)[1], 5);
        m.space.write(0x9000, 4, 6);
        assert_eq!(run_from(&mut cx, 0x20ffc)[1], 6);
    }
}

#[test]
fn a_callee_may_change_where_it_returns_to() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        m.space.write(0x9000, 8, Asm::new().li(1, 2).word());
        // The caller calls twice; the callee first drops the unit of the call, then changes what follows the call.
        m.load(0x1000, &Asm::new().li(1, 0).call(0x3000 - 8).li(1, 1).exit());
        let callee = fetch_word(Asm::new()).li(5, 0x1000).ld(3, 3, 5, 0).st(3, 3, 5, 0).st(3, 4, 5, 16).ret();
        m.load(0x4000, &Asm::new().ret());
        let mut cx = m.vcpu(0, 0);
        for _ in 0..3 {
            assert_eq!(run_from(&mut cx, 0x1000)[1], 1);
        }
        m.load(0x4000, &callee);
        for _ in 0..3 {
            m.space.write(0x1010, 8, Asm::new().li(1, 1).word());
            assert_eq!(run_from(&mut cx, 0x1000)[1], 2);
        }
    }
}

#[test]
fn code_generated_over_and_over_stays_within_bounds() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        let mut cx = m.vcpu(0, 0);
        // Each round is new code in every page.
        for round in 0..160 {
            for page in 0..64u64 {
                let mut code = Asm::new();
                for i in 0..60 {
                    code = code.addi(1, 1, i + round);
                }
                m.load(0x10_0000 + page * 0x1000, &code.exit());
                run_from(&mut cx, 0x10_0000 + page * 0x1000);
            }
        }
        assert_eq!(cx.state::<State>().halted, 0);
        if tier == Tier::Baseline {
            assert!(cx.stats().evictions > 2, "{:?}", cx.stats());
        }
    }
}

#[test]
fn indirect_jumps_see_new_code() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        m.load(0x1000, &Asm::new().li(3, 0x4000).insn(op::JR, 0, 3, 0, 0));
        m.load(0x4000, &Asm::new().li(1, 1).exit());
        let mut cx = m.vcpu(0, 0);
        for n in 1..10 {
            m.load(0x4000, &Asm::new().li(1, n).exit());
            assert_eq!(run_from(&mut cx, 0x1000)[1], n as u64);
        }
    }
}

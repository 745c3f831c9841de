//! The soft TLB: permissions, flushes, large pages, changes of the memory map.

use crate::guest::{End, Entry, State};
use crate::machine::{Asm, Machine, TIERS, config, run, run_from};
use rhea_engine::{Access, VcpuContext};
use rhea_memory::Region;

/// A program that loads the word at 0x5_0000 (r2) into r1.
fn reader(m: &Machine) -> Box<VcpuContext> {
    m.load(0x1000, &Asm::new().li(2, 0x5_0000).ld(3, 1, 2, 0).exit());
    m.space.write(0x6_0000, 8, 6);
    m.space.write(0x7_0000, 8, 7);
    m.map(0x5_0000, Entry::to(0x6_0000));
    let mut cx = m.vcpu(0, 0);
    assert_eq!(run_from(&mut cx, 0x1000)[1], 6);
    m.map(0x5_0000, Entry::to(0x7_0000));
    cx
}

#[test]
fn an_entry_stays_until_it_is_flushed() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        let mut cx = reader(&m);
        assert_eq!(run_from(&mut cx, 0x1000)[1], 6);
        cx.env().flush_tlb_page(0x5_1000);
        assert_eq!(run_from(&mut cx, 0x1000)[1], 6);
        cx.env().flush_tlb_page(0x5_0ff8);
        assert_eq!(run_from(&mut cx, 0x1000)[1], 7);
    }
}

#[test]
fn global_entries_survive_the_flush_of_others() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        m.map(0x5_0000, Entry { global: true, ..Entry::to(0x6_0000) });
        m.map(0x5_1000, Entry::to(0x6_1000));
        m.load(0x1000, &Asm::new().li(2, 0x5_0000).ld(3, 1, 2, 0).ld(3, 3, 2, 0x1000).exit());
        let mut cx = m.vcpu(0, 0);
        run_from(&mut cx, 0x1000);
        for (from, to, value) in [(0x5_0000, 0x7_0000, 70), (0x5_1000, 0x7_1000, 71)] {
            m.space.write(to, 8, value);
            m.map(from, Entry { global: true, ..Entry::to(to) });
        }
        cx.env().flush_tlb_nonglobal();
        let r = run_from(&mut cx, 0x1000);
        assert_eq!((r[1], r[3]), (0, 71));
        cx.env().flush_tlb_all();
        assert_eq!(run_from(&mut cx, 0x1000)[1], 70);
    }
}

#[test]
fn one_index_is_flushed_alone() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        let mut cx = reader(&m);
        cx.env().flush_tlb_index(1);
        assert_eq!(run_from(&mut cx, 0x1000)[1], 6);
        cx.env().flush_tlb_index(0);
        assert_eq!(run_from(&mut cx, 0x1000)[1], 7);
    }
}

#[test]
fn any_address_flushes_all_of_a_large_page() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        let large = |phys| Entry { bits: 21, ..Entry::to(phys) };
        m.map(0x4000_0000, large(0x20_0000));
        m.space.write(0x20_3000, 8, 1);
        m.space.write(0x40_3000, 8, 2);
        m.load(0x1000, &Asm::new().li(2, 0x4000_3000).ld(3, 1, 2, 0).exit());
        let mut cx = m.vcpu(0, 0);
        assert_eq!(run_from(&mut cx, 0x1000)[1], 1);
        m.map(0x4000_0000, large(0x40_0000));
        cx.env().flush_tlb_page(0x4020_0000);
        assert_eq!(run_from(&mut cx, 0x1000)[1], 1);
        cx.env().flush_tlb_page(0x401f_f000);
        assert_eq!(run_from(&mut cx, 0x1000)[1], 2);
    }
}

#[test]
fn code_on_a_large_page_follows_its_flush() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        let large = |phys| Entry { bits: 21, ..Entry::to(phys) };
        m.map(0x4000_0000, large(0x20_0000));
        m.load(0x20_5000, &Asm::new().li(1, 1).exit());
        m.load(0x40_5000, &Asm::new().li(1, 2).exit());
        let mut cx = m.vcpu(0, 0);
        for _ in 0..2 {
            assert_eq!(run_from(&mut cx, 0x4000_5000)[1], 1);
        }
        m.map(0x4000_0000, large(0x40_0000));
        cx.env().flush_tlb_page(0x4010_0000);
        assert_eq!(run_from(&mut cx, 0x4000_5000)[1], 2);
    }
}

#[test]
fn a_read_only_page_faults_on_a_write_and_only_then() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        m.map(0x5_0000, Entry { write: false, ..Entry::to(0x6_0000) });
        m.load(0x1000, &Asm::new().li(2, 0x5_0000).ld(3, 1, 2, 0).st(3, 1, 2, 0).exit());
        let mut cx = m.vcpu(0, 0x1000);
        assert_eq!(run(&mut cx), End::Fault(0x5_0000, Access::Write));
        assert_eq!(cx.state::<State>().pc, 0x1010);
        m.map(0x5_0000, Entry::to(0x6_0000));
        assert_eq!(run(&mut cx), End::Exit);
    }
}

#[test]
fn a_store_across_pages_faults_before_it_stores() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        m.map(0x5_1000, Entry::ABSENT);
        m.load(0x1000, &Asm::new().li(1, -1).li(2, 0x5_0ffc).st(3, 1, 2, 0).exit());
        let mut cx = m.vcpu(0, 0x1000);
        assert_eq!(run(&mut cx), End::Fault(0x5_1000, Access::Write));
        assert_eq!(m.space.read(0x5_0ffc, 4), 0);
    }
}

#[test]
fn a_change_of_the_memory_map_is_seen() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        let other = std::sync::Arc::new(rhea_memory::RamBlock::new("other", 0x1000).unwrap());
        other.write(0, 8, 42);
        m.load(0x1000, &Asm::new().li(2, 0x5_0000).ld(3, 1, 2, 0).exit());
        let mut cx = m.vcpu(0, 0);
        assert_eq!(run_from(&mut cx, 0x1000)[1], 0);
        let region = Region::ram(&m.topology, other);
        m.root.add_with_priority(0x5_0000, &region, 1);
        assert_eq!(run_from(&mut cx, 0x1000)[1], 42);
        region.set_enabled(false);
        assert_eq!(run_from(&mut cx, 0x1000)[1], 0);
        // Code too.
        let code = std::sync::Arc::new(rhea_memory::RamBlock::new("code", 0x1000).unwrap());
        code.write_bytes(0, &Asm::new().li(1, 5).exit().bytes);
        m.root.add_with_priority(0x1000, &Region::ram(&m.topology, code), 1);
        assert_eq!(run_from(&mut cx, 0x1000)[1], 5);
    }
}

#[test]
fn many_pages_thrash_the_tables_and_nothing_is_lost() {
    for tier in TIERS {
        let m = Machine::new(config(tier));
        // Adds up one word of each page, twice as many as the tables hold, in pages that share entries.
        let pages = 2048;
        for p in 0..pages {
            m.space.write(0x20_0000 + p * 0x1000, 8, p);
        }
        let code = Asm::new()
            .li(1, 0)
            .li(2, 0x20_0000)
            .li(3, 0x20_0000 + pages as i32 * 0x1000)
            .ld(3, 4, 2, 0)
            .add(1, 1, 4)
            .addi(2, 2, 0x1000)
            .bne(2, 3, 24)
            .exit();
        m.load(0x1000, &code);
        let mut cx = m.vcpu(0, 0);
        for _ in 0..3 {
            assert_eq!(run_from(&mut cx, 0x1000)[1], pages * (pages - 1) / 2);
            cx.env().flush_tlb_nonglobal();
        }
    }
}

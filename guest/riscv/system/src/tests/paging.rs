//! The page walk: a generated matrix of permissions, formats, extensions, A and D, and hostile tables.

use proptest::prelude::*;
use rhea_riscv_state::RiscvState;
use rhea_riscv_state::state::{Privilege, mmu, mstatus};

use crate::exception::{Cause, Exception};
use crate::paging::{ADUE, Access, AccessKind, PBMTE, Translation, pte, translate};
use crate::test_bus::{TestBus, hart, open_pmp};

const KINDS: [AccessKind; 3] = [AccessKind::Read, AccessKind::Write, AccessKind::Execute];
const ROOT: u64 = 0x10_0000;

/// A hart in `mode` of satp with its root table at ROOT.
fn paged(model: &str, mode: u64) -> (RiscvState, TestBus) {
    let (mut st, bus) = hart(model);
    open_pmp(&mut st);
    st.s.satp = if st.config.xlen == 32 { mode << 31 | ROOT >> 12 } else { mode << 60 | ROOT >> 12 };
    (st, bus)
}

/// Maps `vaddr` by tables down to `leaf_level` and puts the leaf there; returns the leaf's address.
fn map(st: &RiscvState, bus: &mut TestBus, vaddr: u64, leaf_level: u64, leaf: u64) -> u64 {
    let (levels, index_bits, size) = match crate::paging::satp_mode(st) {
        1 => (2, 10, 4),
        mode => (u64::from(mode) - 5, 9, 8),
    };
    let mut table = ROOT;
    for level in (leaf_level..levels).rev() {
        let at = table + (vaddr >> (12 + level * index_bits) & ((1 << index_bits) - 1)) * size;
        if level == leaf_level {
            bus.memory.insert(at, leaf);
            return at;
        }
        table += 0x1000;
        bus.memory.insert(at, table >> 12 << 10 | pte::V);
    }
    unreachable!("the loop ends at the leaf's level")
}

fn fault(kind: AccessKind, page: bool) -> Cause {
    match (kind, page) {
        (AccessKind::Read, true) => Cause::LoadPageFault,
        (AccessKind::Write, true) => Cause::StorePageFault,
        (AccessKind::Execute, true) => Cause::InstructionPageFault,
        (AccessKind::Read, false) => Cause::LoadAccess,
        (AccessKind::Write, false) => Cause::StoreAccess,
        (AccessKind::Execute, false) => Cause::InstructionAccess,
    }
}

fn walk(
    st: &RiscvState,
    bus: &mut TestBus,
    vaddr: u64,
    kind: AccessKind,
    index: u8,
) -> Result<Translation, Exception> {
    translate(st, bus, vaddr, 1, Access::new(st, kind, index))
}

/// What the table "Encoding of PTE R/W/X fields" and the paragraphs on U, SUM, MXR, A and D say, one case after the
/// other.
fn may(bits: u64, kind: AccessKind, index: u8, mxr: bool, hardware: bool) -> bool {
    let (r, w, x) = (bits & 2 != 0, bits & 4 != 0, bits & 8 != 0);
    let (u, a, d) = (bits & 16 != 0, bits & 64 != 0, bits & 128 != 0);
    match (r, w, x) {
        (false, true, _) => return false,      // reserved
        (false, false, false) => return false, // a pointer at the last level
        _ => (),
    }
    let reachable = match (index, kind) {
        (mmu::USER, _) => u,
        (_, AccessKind::Execute) => !u,
        (mmu::SUPERVISOR, _) => !u,
        (_, _) => true,
    };
    let permitted = match kind {
        AccessKind::Read => r || (mxr && x),
        AccessKind::Write => w,
        AccessKind::Execute => x,
    };
    let current = a && (d || kind != AccessKind::Write);
    reachable && permitted && (current || hardware)
}

#[test]
fn every_combination_of_permissions_is_as_the_specification_says() {
    let mut cases = 0;
    for (model, mode) in [("rv64", 8), ("rv32", 1)] {
        for bits in (1..256u64).step_by(2) {
            for index in [mmu::USER, mmu::SUPERVISOR, mmu::SUPERVISOR_SUM] {
                for (mxr, hardware) in [(false, false), (true, false), (false, true), (true, true)] {
                    for kind in KINDS {
                        let (mut st, mut bus) = paged(model, mode);
                        st.m.mstatus = if mxr { mstatus::MXR } else { 0 };
                        st.m.menvcfg = if hardware { ADUE } else { 0 };
                        let at = map(&st, &mut bus, 0x1234_5678, 0, 0x54321 << 10 | bits);
                        let got = walk(&st, &mut bus, 0x1234_5678, kind, index);
                        let case =
                            format!("{model} bits {bits:#x} index {index} mxr {mxr} hw {hardware} {kind:?}");
                        if may(bits, kind, index, mxr, hardware) {
                            let t = got.unwrap_or_else(|e| panic!("{case}: {e:?}"));
                            assert_eq!((t.phys, t.page_bits), (0x5432_1678, 12), "{case}");
                            assert_eq!(t.global, bits & 32 != 0, "{case}");
                            // What the entry says it permits, a walk for it permits, and writes need D already.
                            let after = bus.memory[&at];
                            assert_eq!(t.read, may(after, AccessKind::Read, index, mxr, false), "{case}");
                            assert_eq!(t.write, may(after, AccessKind::Write, index, mxr, false), "{case}");
                            assert_eq!(
                                t.execute,
                                may(after, AccessKind::Execute, index, mxr, false),
                                "{case}"
                            );
                            let set = 64 | if kind == AccessKind::Write { 128 } else { 0 };
                            assert_eq!(after, 0x54321 << 10 | bits | set, "{case}");
                        } else {
                            assert_eq!(got, Err(Exception::at(fault(kind, true), 0x1234_5678)), "{case}");
                            assert_eq!(bus.swaps, 0, "{case}: a faulting access changes nothing");
                        }
                        cases += 1;
                    }
                }
            }
        }
    }
    assert_eq!(cases, 2 * 128 * 3 * 4 * 3);
}

const LEAF: u64 = pte::V | pte::R | pte::W | pte::X | pte::A | pte::D;

#[test]
fn each_format_maps_pages_of_every_size() {
    for (model, mode, levels, index_bits) in
        [("rv32", 1, 2, 10), ("rv64", 8, 3, 9), ("rv64", 9, 4, 9), ("rv64", 10, 5, 9)]
    {
        for level in 0..levels {
            let (st, mut bus) = paged(model, mode);
            let bits = 12 + level * index_bits;
            let vaddr = 0x2b5a_5ab8 + if levels == 5 { 1 << 50 } else { 0 };
            let base = 1u64 << if bits < 30 { 30 } else { bits };
            map(&st, &mut bus, vaddr, level, base >> 12 << 10 | LEAF);
            let t = walk(&st, &mut bus, vaddr, AccessKind::Read, mmu::SUPERVISOR).unwrap();
            assert_eq!(t.phys, base | vaddr & ((1 << bits) - 1), "{model} {mode} level {level}");
            assert_eq!(u64::from(t.page_bits), bits);
            if level > 0 {
                // A superpage that is not aligned faults.
                map(&st, &mut bus, vaddr, level, (base >> 12 | 1) << 10 | LEAF);
                let e = walk(&st, &mut bus, vaddr, AccessKind::Read, mmu::SUPERVISOR).unwrap_err();
                assert_eq!(e.cause, Cause::LoadPageFault);
            }
        }
    }
}

#[test]
fn addresses_beyond_the_format_fault() {
    for (mode, width) in [(8, 39), (9, 48), (10, 57)] {
        let (st, mut bus) = paged("rv64", mode);
        for vaddr in [1u64 << width, 1 << (width - 1), !0 << width, 1 << 63] {
            let e = walk(&st, &mut bus, vaddr, AccessKind::Execute, mmu::USER).unwrap_err();
            assert_eq!(e, Exception::at(Cause::InstructionPageFault, vaddr));
        }
        let high = !0u64 << (width - 1) | 0x1000;
        map(&st, &mut bus, high, 0, 0x1 << 10 | LEAF);
        assert!(walk(&st, &mut bus, high, AccessKind::Read, mmu::SUPERVISOR).is_ok());
    }
}

#[test]
fn reserved_bits_fault_and_extensions_free_them() {
    let read = |st: &RiscvState, bus: &mut TestBus, entry: u64| {
        map(st, bus, 0x5000, 0, entry);
        walk(st, bus, 0x5000, AccessKind::Read, mmu::SUPERVISOR)
    };
    let (mut st, mut bus) = paged("max", 8);
    for bit in 54..61 {
        assert!(read(&st, &mut bus, LEAF | 1 << bit).is_err(), "{bit}");
    }
    for memory_type in 1..4u64 {
        st.m.menvcfg = 0;
        assert!(read(&st, &mut bus, LEAF | memory_type << 61).is_err());
        st.m.menvcfg = PBMTE;
        assert_eq!(read(&st, &mut bus, LEAF | memory_type << 61).is_ok(), memory_type != 3);
    }
    // Svnapot: only 64 KiB, and only on the last level.
    let t = read(&st, &mut bus, LEAF | pte::N | 0x128 << 10).unwrap();
    assert_eq!((t.phys, t.page_bits), (0x12_5000, 16));
    for low in [0, 1, 4, 0xc] {
        assert!(read(&st, &mut bus, LEAF | pte::N | (0x120 | low) << 10).is_err(), "{low}");
    }
    let (st, mut bus) = paged("rv64", 8);
    assert!(read(&st, &mut bus, LEAF | pte::N | 0x128 << 10).is_err());
    assert!(read(&st, &mut bus, LEAF | 1 << 61).is_err());
    // A, D and U are reserved in pointers.
    for bit in [pte::A, pte::D, pte::U, pte::N] {
        let (st, mut bus) = paged("max", 8);
        let at = map(&st, &mut bus, 0x5000, 1, (ROOT + 0x2000) >> 12 << 10 | pte::V | bit);
        bus.memory.insert(ROOT + 0x2000 + 5 * 8, LEAF);
        assert!(walk(&st, &mut bus, 0x5000, AccessKind::Read, mmu::SUPERVISOR).is_err(), "{bit:#x}");
        *bus.memory.get_mut(&at).unwrap() &= !bit;
        assert!(walk(&st, &mut bus, 0x5000, AccessKind::Read, mmu::SUPERVISOR).is_ok(), "{bit:#x}");
    }
}

#[test]
fn a_lost_race_is_judged_again() {
    let (mut st, mut bus) = paged("rv64", 8);
    st.m.menvcfg = ADUE;
    let at = map(&st, &mut bus, 0x5000, 0, 7 << 10 | pte::V | pte::R | pte::W);
    // Another hart sets A meanwhile: ours sets D too.
    bus.race = Some(7 << 10 | pte::V | pte::R | pte::W | pte::A);
    assert!(walk(&st, &mut bus, 0x5000, AccessKind::Write, mmu::SUPERVISOR).unwrap().write);
    assert_eq!(bus.memory[&at], 7 << 10 | pte::V | pte::R | pte::W | pte::A | pte::D);
    assert_eq!(bus.swaps, 2);
    // Another hart takes the page away: we fault.
    bus.memory.insert(at, 7 << 10 | pte::V | pte::R);
    bus.race = Some(0);
    let e = walk(&st, &mut bus, 0x5000, AccessKind::Read, mmu::SUPERVISOR).unwrap_err();
    assert_eq!((e.cause, bus.memory[&at]), (Cause::LoadPageFault, 0));
}

#[test]
fn tables_out_of_reach_are_access_faults_of_the_original_access() {
    for kind in KINDS {
        let (mut st, mut bus) = paged("rv64", 8);
        let e = walk(&st, &mut bus, 0x5000, kind, mmu::USER).unwrap_err();
        assert_eq!(e, Exception::at(fault(kind, false), 0x5000), "no memory");
        st.m.menvcfg = ADUE;
        map(&st, &mut bus, 0x5000, 0, 7 << 10 | (LEAF | pte::U) & !(pte::A | pte::D));
        bus.read_only = true;
        let e = walk(&st, &mut bus, 0x5000, kind, mmu::USER).unwrap_err();
        assert_eq!(e.cause, fault(kind, false), "tables in ROM");
        bus.read_only = false;
        // PMP: tables may be read but not written; then not even read.
        for (cfg, swaps) in [(0x1d, 1), (0x18, 1)] {
            (st.pmp.cfg[0], st.pmp.addr[0]) = (cfg, ROOT >> 2 | 0x1fff);
            (st.pmp.cfg[1], st.pmp.addr[1]) = (0x1f, (1 << 54) - 1);
            let e = walk(&st, &mut bus, 0x5000, kind, mmu::USER).unwrap_err();
            assert_eq!((e.cause, bus.swaps), (fault(kind, false), swaps));
        }
    }
}

#[test]
fn pmp_limits_what_a_translation_permits() {
    let (mut st, mut bus) = paged("rv64", 8);
    map(&st, &mut bus, 0x5000, 0, 7 << 10 | LEAF);
    (st.pmp.cfg[0], st.pmp.addr[0]) = (0x19, 0x7000 >> 2 | 0x1ff);
    (st.pmp.cfg[1], st.pmp.addr[1]) = (0x1f, (1 << 54) - 1);
    let t = walk(&st, &mut bus, 0x5000, AccessKind::Read, mmu::SUPERVISOR).unwrap();
    assert_eq!((t.read, t.write, t.execute), (true, false, false));
    let e = walk(&st, &mut bus, 0x5000, AccessKind::Write, mmu::SUPERVISOR).unwrap_err();
    assert_eq!(e, Exception::at(Cause::StoreAccess, 0x5000));
    // Machine mode is not translated, and not bound by an entry without L.
    let t = walk(&st, &mut bus, 0x7000, AccessKind::Write, mmu::MACHINE).unwrap();
    assert_eq!((t.phys, t.write), (0x7000, true));
}

#[test]
fn indices_stand_for_privileges() {
    for (index, privilege, sum) in [
        (mmu::USER, Privilege::User, false),
        (mmu::SUPERVISOR, Privilege::Supervisor, false),
        (mmu::SUPERVISOR_SUM, Privilege::Supervisor, true),
        (mmu::MACHINE, Privilege::Machine, false),
        (200, Privilege::Machine, false),
        (mmu::VIRTUAL_USER, Privilege::User, false),
        (mmu::VIRTUAL_SUPERVISOR, Privilege::Supervisor, false),
        (mmu::VIRTUAL_SUPERVISOR_SUM, Privilege::Supervisor, true),
        (mmu::HYPERVISOR_EXECUTE, Privilege::User, false),
    ] {
        let access = Access::new(&hart("rv64").0, AccessKind::Read, index);
        assert_eq!((access.privilege, access.sum), (privilege, sum));
        assert_eq!(access.is_virtual, (4..8).contains(&index));
        assert_eq!(access.hlvx, index == mmu::HYPERVISOR_EXECUTE);
    }
}

proptest! {
    /// Whatever tables, registers and addresses a guest makes: an answer, and no access outside what it mapped.
    #[test]
    fn hostile_tables_never_panic(
        satp: u64, hgatp: u64, vaddr: u64, menvcfg: u64, status: u64, model in 0usize..3, index in 0u8..8, kind in 0usize..3,
        len in 1u64..9, words in prop::collection::vec((0u64..0x400, any::<u64>()), 64),
        pmp in prop::collection::vec((any::<u8>(), any::<u64>()), 4),
    ) {
        let (mut st, mut bus) = hart(["max", "rv32", "rva23s64"][model]);
        let small = if model == 1 { satp & !0x3f_ffff } else { satp & !0xfff_ffff_ffff };
        (st.s.satp, st.m.menvcfg, st.m.mstatus) = (small, menvcfg, status);
        (st.vs.vsatp, st.h.henvcfg, st.vs.vsstatus) = (small, menvcfg, status);
        st.h.hgatp = if model == 1 { hgatp & !0x3f_ffff } else { hgatp & !0xfff_ffff_ffff };
        for (at, word) in words {
            bus.memory.insert(at * 4, if model == 1 { word & 0xffff_ffff } else { word & !(0x3f_ffff << 18) });
        }
        for (i, (cfg, addr)) in pmp.into_iter().enumerate() {
            (st.pmp.cfg[i], st.pmp.addr[i]) = (cfg, addr & ((1 << 54) - 1));
        }
        if let Ok(t) = translate(&st, &mut bus, vaddr & st.config.mask(), len, Access::new(&st, KINDS[kind], index)) {
            let granted = match KINDS[kind] {
                AccessKind::Read => t.read,
                AccessKind::Write => t.write,
                AccessKind::Execute => t.execute,
            };
            prop_assert!(granted);
        }
    }
}

//! Physical memory protection against a naive oracle.

use proptest::prelude::*;
use rhea_riscv_state::RiscvState;
use rhea_riscv_state::csr as n;
use rhea_riscv_state::state::Privilege;

use crate::pmp;
use crate::test_bus::{hart, read, write};

/// Whether an entry matches one byte, told bit by bit: NAPOT compares the bits above the run of ones.
fn matches(st: &RiscvState, entry: usize, byte: u64) -> bool {
    let word = byte >> 2;
    let addr = st.pmp.addr[entry];
    match st.pmp.cfg[entry] >> 3 & 3 {
        0 => false,
        1 => (entry == 0 || st.pmp.addr[entry - 1] <= word) && word < addr,
        2 => word == addr,
        _ => {
            let mut low = 0;
            while addr >> low & 1 == 1 {
                low += 1;
            }
            word >> (low + 1) == addr >> (low + 1)
        }
    }
}

/// The rules of "Priority and Matching Logic", byte by byte.
fn oracle(st: &RiscvState, mode: Privilege, addr: u64, len: u64) -> (bool, bool, bool) {
    for entry in 0..st.config.pmp_regions as usize {
        let matching = (addr..addr + len).filter(|byte| matches(st, entry, *byte)).count() as u64;
        if matching == 0 {
            continue;
        }
        if matching < len {
            return (false, false, false);
        }
        let byte = st.pmp.cfg[entry];
        if mode == Privilege::Machine && byte >> 7 == 0 {
            return (true, true, true);
        }
        return (byte & 1 != 0, byte & 2 != 0, byte & 4 != 0);
    }
    let machine = mode == Privilege::Machine;
    (machine, machine, machine)
}

fn got(st: &RiscvState, mode: Privilege, addr: u64, len: u64) -> (bool, bool, bool) {
    let p = pmp::permission(st, mode, addr, len);
    (p.read, p.write, p.execute)
}

proptest! {
    #[test]
    fn permissions_are_those_of_the_oracle(
        entries in prop::collection::vec((any::<u8>(), 0u64..64), 16),
        addr in 0u64..300,
        size in 0u32..4,
        mode in 0usize..3,
    ) {
        let (mut st, _) = hart("rv64");
        for (i, (cfg, at)) in entries.iter().enumerate() {
            // Two in three entries are off, so that later ones are reached.
            st.pmp.cfg[i] = if i % 3 == 0 { cfg & 0x9f } else { 0 };
            st.pmp.addr[i] = *at;
        }
        let mode = [Privilege::User, Privilege::Supervisor, Privilege::Machine][mode];
        let len = 1 << size;
        let addr = addr & !(len - 1);
        prop_assert_eq!(got(&st, mode, addr, len), oracle(&st, mode, addr, len));
    }

    #[test]
    fn a_uniform_block_has_one_permission(
        entries in prop::collection::vec((any::<u8>(), 0u64..0x4000), 4),
        page in 0u64..16,
        probe in 0u64..(1 << 14),
        largest in 12u8..15,
    ) {
        let (mut st, _) = hart("rv64");
        for (i, (cfg, at)) in entries.iter().enumerate() {
            // Half of the bounds lie at pages.
            let at = if i % 2 == 0 { at & !0x3ff } else { *at };
            (st.pmp.cfg[i], st.pmp.addr[i]) = (cfg & 0x9f, at);
        }
        let addr = page << 12;
        let bits = pmp::uniform_bits(&st, addr, largest);
        prop_assert!(bits <= largest);
        if bits >= 12 {
            let inside = addr >> bits << bits | probe & ((1 << bits) - 1);
            for mode in [Privilege::User, Privilege::Machine] {
                prop_assert_eq!(got(&st, mode, inside, 1), got(&st, mode, addr, 1));
            }
        }
    }
}

#[test]
fn a_boundary_within_a_page_makes_the_translation_good_once() {
    let (mut st, _) = hart("rv64");
    (st.pmp.cfg[0], st.pmp.addr[0]) = (0x0f, 0x2100 >> 2);
    assert!(pmp::uniform_bits(&st, 0x2000, 12) < 12);
    assert_eq!(pmp::uniform_bits(&st, 0x1000, 12), 12);
    assert_eq!(pmp::uniform_bits(&st, 0, 21), 13);
    assert_eq!(pmp::uniform_bits(&st, 0x40_0000, 21), 21);
}

#[test]
fn locked_entries_and_the_bottom_of_locked_ranges_stay() {
    let (mut st, mut bus) = hart("rv64");
    write(&mut st, &mut bus, n::PMPADDR0, 0x100).unwrap();
    write(&mut st, &mut bus, n::PMPADDR0 + 1, 0x200).unwrap();
    write(&mut st, &mut bus, n::PMPCFG0, 0x8f00).unwrap();
    for (number, value) in [(n::PMPADDR0, 0x100), (n::PMPADDR0 + 1, 0x200), (n::PMPCFG0, 0x8f00)] {
        write(&mut st, &mut bus, number, 0x1f).unwrap();
        let got =
            read(&mut st, &mut bus, number).unwrap() & if number == n::PMPCFG0 { 0xff00 } else { u64::MAX };
        assert_eq!(got, value, "{number:#x}");
    }
    // Machine mode is bound by a locked entry.
    assert_eq!(got(&st, Privilege::Machine, 0x500, 4), (true, true, true));
    st.pmp.cfg[1] = 0x88;
    assert_eq!(got(&st, Privilege::Machine, 0x500, 4), (false, false, false));
}

#[test]
fn the_number_of_entries_decides_which_registers_there_are() {
    for (model, last_addr, last_cfg) in
        [("rv64", 15, 2), ("rv64,num-pmp-regions=64", 63, 14), ("rv32", 15, 3)]
    {
        let (mut st, mut bus) = hart(model);
        assert!(read(&mut st, &mut bus, n::PMPADDR0 + last_addr).is_ok(), "{model}");
        assert!(read(&mut st, &mut bus, n::PMPADDR0 + last_addr + 1).is_err(), "{model}");
        assert!(read(&mut st, &mut bus, n::PMPCFG0 + last_cfg).is_ok(), "{model}");
        assert!(read(&mut st, &mut bus, n::PMPCFG0 + last_cfg + 1).is_err(), "{model}");
    }
    let (mut st, mut bus) = hart("rv64,pmp=off");
    assert!(read(&mut st, &mut bus, n::PMPADDR0).is_err() && read(&mut st, &mut bus, n::PMPCFG0).is_err());
    assert_eq!(got(&st, Privilege::User, 0, 8), (true, true, true));
    let (st, _) = hart("rv64");
    assert_eq!(got(&st, Privilege::User, 0, 8), (false, false, false), "no entry matches");
}

/// The truth table of Smepmp for MML, by L, R, W, X: what machine mode may do, and what the others.
const LOCKDOWN: [(&str, &str, &str); 16] = [
    ("----", "", ""),
    ("---X", "", "x"),
    ("--W-", "rw", "r"),
    ("--WX", "rw", "rw"),
    ("-R--", "", "r"),
    ("-R-X", "", "rx"),
    ("-RW-", "", "rw"),
    ("-RWX", "", "rwx"),
    ("L---", "", ""),
    ("L--X", "x", ""),
    ("L-W-", "x", "x"),
    ("L-WX", "rx", "x"),
    ("LR--", "r", ""),
    ("LR-X", "rx", ""),
    ("LRW-", "rw", ""),
    ("LRWX", "r", "r"),
];

fn rights(p: pmp::Permission) -> String {
    [(p.read, 'r'), (p.write, 'w'), (p.execute, 'x')].iter().filter(|(may, _)| *may).map(|(_, c)| c).collect()
}

#[test]
fn machine_mode_lockdown_is_the_truth_table() {
    let (mut st, _) = hart("rv64,smepmp=on");
    st.m.mseccfg = 1;
    st.pmp.addr[0] = (1 << 54) - 1;
    for (letters, machine, others) in LOCKDOWN {
        let bit = |c, bits| if letters.contains(c) { bits } else { 0 };
        st.pmp.cfg[0] = 0x18 | bit('L', 0x80) | bit('R', 1) | bit('W', 2) | bit('X', 4);
        let of = |mode| rights(pmp::permission(&st, mode, 0x8000_0000, 8));
        assert_eq!(of(Privilege::Machine), machine, "{letters}");
        assert_eq!(of(Privilege::Supervisor), others, "{letters}");
        assert_eq!(of(Privilege::User), others, "{letters}");
    }
    // What nothing matches.
    st.pmp.cfg[0] = 0;
    for (security, machine) in [(0, "rwx"), (1, "rw"), (2, ""), (3, "")] {
        st.m.mseccfg = security;
        assert_eq!(rights(pmp::permission(&st, Privilege::Machine, 0x1000, 4)), machine, "{security}");
        assert_eq!(rights(pmp::permission(&st, Privilege::User, 0x1000, 4)), "", "{security}");
    }
}

#[test]
fn lockdown_stays_and_no_region_that_machine_mode_executes_is_added() {
    let (mut st, mut bus) = hart("rv64,smepmp=on");
    let config = |st: &mut RiscvState, bus: &mut _, value| {
        write(st, bus, n::PMPCFG0, value).unwrap();
        read(st, bus, n::PMPCFG0).unwrap()
    };
    write(&mut st, &mut bus, n::MSECCFG, 3).unwrap();
    write(&mut st, &mut bus, n::MSECCFG, 0).unwrap();
    assert_eq!(read(&mut st, &mut bus, n::MSECCFG), Ok(3), "MML and MMWP are sticky");
    for bits in 0..16u64 {
        let byte = 0x18 | (bits & 8) << 4 | bits & 7;
        // Locked and executable by machine mode: X alone, RX, and the two shared code regions.
        let taken = !matches!(bits, 12 | 13 | 10 | 14);
        let (mut st, mut bus) = hart("rv64,smepmp=on");
        st.m.mseccfg = 1;
        assert_eq!(config(&mut st, &mut bus, byte) == byte, taken, "{byte:#x}");
        // RLB allows them, and their removal.
        st.m.mseccfg = 5;
        st.pmp.cfg[0] = 0;
        assert_eq!(config(&mut st, &mut bus, byte), byte, "{byte:#x}");
        assert_eq!(config(&mut st, &mut bus, 0), 0, "{byte:#x}");
    }
    // RLB can be set only before something is locked.
    let (mut st, mut bus) = hart("rv64,smepmp=on");
    write(&mut st, &mut bus, n::MSECCFG, 4).unwrap();
    config(&mut st, &mut bus, 0x98);
    write(&mut st, &mut bus, n::PMPADDR0, 0x77).unwrap();
    assert_eq!((st.pmp.addr[0], config(&mut st, &mut bus, 0x99)), (0x77, 0x99));
    write(&mut st, &mut bus, n::MSECCFG, 0).unwrap();
    write(&mut st, &mut bus, n::MSECCFG, 4).unwrap();
    write(&mut st, &mut bus, n::PMPADDR0, 0x88).unwrap();
    assert_eq!((read(&mut st, &mut bus, n::MSECCFG), st.pmp.addr[0]), (Ok(0), 0x77));
    assert_eq!(config(&mut st, &mut bus, 0), 0x99);
}

//! CSRs: who may access which, and that what is read back is always legal.

use proptest::prelude::*;
use rhea_riscv_state::RiscvState;
use rhea_riscv_state::csr as n;
use rhea_riscv_state::extension::Extension as X;
use rhea_riscv_state::platform::Lines;
use rhea_riscv_state::state::{Privilege, mstatus, satp};

use crate::bus::TlbScope;
use crate::csr::{self, Operation, Request};
use crate::exception::Exception;
use crate::test_bus::{BITS, TestBus, hart, read, set_privilege, units_on, write};

const MODELS: [&str; 7] =
    ["rv64", "rv32", "max", "rva23s64", "rv64,s=off", "rv64,s=off,u=off", "rv32,f=off,pmp=off"];
const MODES: [Privilege; 3] = [Privilege::User, Privilege::Supervisor, Privilege::Machine];

/// The highest level in bits 9:8 of a number that a mode reaches: supervisor mode has the hypervisor's registers too.
fn reach(mode: Privilege) -> u16 {
    if mode == Privilege::Supervisor { 2 } else { mode as u16 }
}

const ILLEGAL: Exception = Exception::illegal(BITS);

#[test]
fn numbers_that_are_no_registers_are_illegal_and_privilege_is_in_the_number() {
    for model in MODELS {
        let (mut st, mut bus) = hart(model);
        let there: Vec<u16> = csr::list(&st.config).map(|(_, number)| number).collect();
        for number in 0..0x2000 {
            for mode in MODES {
                units_on(&mut st);
                set_privilege(&mut st, mode);
                let got = read(&mut st, &mut bus, number);
                if !there.contains(&number) || reach(mode) < number >> 8 & 3 {
                    assert_eq!(got, Err(ILLEGAL), "{model} {mode:?} {number:#x}");
                } else if mode == Privilege::Machine && number != n::SEED {
                    assert!(got.is_ok(), "{model} {number:#x}");
                    let wrote = write(&mut st, &mut bus, number, 0);
                    assert_eq!(wrote.is_err(), number >> 10 == 3, "{model} {number:#x}");
                }
            }
        }
    }
}

#[test]
fn names_and_numbers_are_unique_and_those_of_the_listing() {
    for model in MODELS {
        let (st, _) = hart(model);
        let list: Vec<_> = csr::list(&st.config).collect();
        let mut names: Vec<_> = list.iter().map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), list.len(), "{model}");
        for (name, number) in list.iter().filter(|(name, _)| name.starts_with(['m', 'p'])) {
            assert_eq!(number >> 8 & 3, 3, "{name} belongs to machine mode");
        }
    }
    let (st, _) = hart("max,num-pmp-regions=64");
    let list: Vec<_> = csr::list(&st.config).collect();
    for (name, number) in [
        ("hpmcounter31", 0xc1f),
        ("mhpmevent3", 0x323),
        ("pmpaddr63", 0x3ef),
        ("sstateen3", 0x10f),
        ("mip", 0x344),
    ] {
        assert!(list.contains(&(name.into(), number)), "{name}");
    }
}

fn fields_are_legal(st: &mut RiscvState, bus: &mut TestBus) -> Result<(), TestCaseError> {
    let c = st.config;
    let mut get = |number| csr::peek(st, bus, number);
    if let Some(v) = get(n::MSTATUS) {
        let mpp = Privilege::from_bits(v >> 11 & 3);
        let exists = match mpp {
            Some(Privilege::User) => c.has(X::U),
            Some(Privilege::Supervisor) => c.has(X::S),
            Some(Privilege::Machine) => true,
            None => false,
        };
        prop_assert!(exists);
        prop_assert_eq!(v & (mstatus::UBE | mstatus::XS), 0);
        prop_assert!(c.has(X::F) || v & mstatus::FS == 0);
        prop_assert!(c.has(X::Zve32x) || v & mstatus::VS == 0);
        let dirty = v & mstatus::FS == mstatus::FS || v & mstatus::VS == mstatus::VS;
        prop_assert_eq!(v >> (c.xlen - 1) & 1 != 0, dirty);
    }
    for vector in [n::MTVEC, n::STVEC, n::VSTVEC] {
        prop_assert_eq!(get(vector).unwrap_or(0) & 2, 0);
    }
    for pc in [n::MEPC, n::SEPC, n::VSEPC] {
        let low = if c.has_compressed() { 1 } else { 3 };
        prop_assert_eq!(get(pc).unwrap_or(0) & low, 0);
    }
    for v in [n::SATP, n::VSATP, n::HGATP].into_iter().filter_map(&mut get) {
        let mode = if c.xlen == 32 { (v >> 31) as u32 } else { (v >> 60) as u32 };
        prop_assert!(mode == satp::BARE || mode <= c.satp_max && (mode == satp::SV32 || mode >= satp::SV39));
    }
    for envcfg in [n::MENVCFG, n::SENVCFG, n::HENVCFG] {
        prop_assert_ne!(get(envcfg).unwrap_or(0) >> 4 & 3, 2);
    }
    let supervisor = if c.has(X::Sscofpmf) { 0x2222 } else { 0x222 };
    let hypervisor = if c.has(X::H) { 0x1444 } else { 0 };
    let delegated = get(n::MIDELEG).unwrap_or(0);
    prop_assert_eq!(delegated & !supervisor, hypervisor);
    let guest = if c.has(X::H) { 0 } else { 0xf << 20 | 1 << 10 };
    prop_assert_eq!(get(n::MEDELEG).unwrap_or(0) & (1 << 11 | 1 << 14 | guest), 0);
    prop_assert_eq!(get(n::MIE).unwrap_or(0) & !(supervisor | hypervisor | 0x888), 0);
    let delegated = delegated & supervisor;
    prop_assert_eq!(get(n::SIE).unwrap_or(0) & !delegated, 0);
    prop_assert_eq!(get(n::SIP).unwrap_or(0) & !delegated, 0);
    for number in n::MHPMEVENT3..n::MHPMEVENT3 + 29 {
        prop_assert_ne!(get(number).unwrap_or(0) & 3, 3);
    }
    prop_assert_eq!(get(n::MCOUNTINHIBIT).unwrap_or(0) & 2, 0);
    for number in n::PMPCFG0..n::PMPCFG0 + 16 {
        for byte in get(number).unwrap_or(0).to_le_bytes() {
            // Write without read is for MML alone.
            prop_assert!(byte & 0x60 == 0 && (byte & 3 != 2 || get(n::MSECCFG).unwrap_or(0) & 1 != 0));
        }
    }
    let handed_on = get(n::HIDELEG).unwrap_or(0);
    prop_assert_eq!(handed_on & !0x444, 0);
    prop_assert_eq!((get(n::VSIE).unwrap_or(0) | get(n::VSIP).unwrap_or(0)) & !(handed_on >> 1), 0);
    prop_assert_eq!(get(n::HEDELEG).unwrap_or(0) & !0xb1ff, 0);
    prop_assert_eq!(get(n::HGATP).unwrap_or(0) & 3, 0);
    prop_assert!(get(n::FCSR).unwrap_or(0) < 256 && get(n::VSTART).unwrap_or(0) < u64::from(c.vlen));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever is written in whatever mode: no panic, XLEN bits, and only legal values come back.
    #[test]
    fn what_is_read_back_is_legal(
        model in 0usize..MODELS.len(),
        writes in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), 0u8..3, any::<bool>()), 1..80),
        mode in 0usize..3,
        virtualized: bool,
    ) {
        let (mut st, mut bus) = hart(MODELS[model]);
        let there: Vec<u16> = csr::list(&st.config).map(|(_, number)| number).collect();
        for (i, (pick, operand, operation, lower)) in writes.into_iter().enumerate() {
            let number = there[pick.index(there.len())];
            let mode = if lower { MODES[mode] } else { Privilege::Machine };
            // In virtual modes anything may be refused in either way.
            st.virtualization = u32::from(virtualized && mode != Privilege::Machine && st.has(X::H));
            set_privilege(&mut st, mode);
            let operation = [Operation::Write, Operation::Set, Operation::Clear][usize::from(operation)];
            let request = Request { operation, number, operand, writes: true, bits: BITS };
            (bus.time, bus.cycles, bus.instructions) = (i as u64 * 7, operand, operand / 2);
            let result = csr::execute(&mut st, &mut bus, request);
            if let Ok((old, _)) = result {
                prop_assert_eq!(old & !st.config.mask(), 0);
                prop_assert!(reach(mode) >= (number >> 8 & 3) && number >> 10 != 3);
            } else if st.is_virtual() {
                let virtual_instruction = Exception::virtual_instruction(BITS);
                prop_assert!(result == Err(ILLEGAL) || result == Err(virtual_instruction));
            } else {
                prop_assert_eq!(result, Err(ILLEGAL));
            }
            prop_assert_eq!(st.mode, st.compute_mode());
        }
        fields_are_legal(&mut st, &mut bus)?;
    }

    /// A register with a mask and nothing else holds exactly what the mask lets through.
    #[test]
    fn plain_registers_hold_what_was_written(value: u64, model in 0usize..MODELS.len()) {
        let (mut st, mut bus) = hart(MODELS[model]);
        for number in [n::MSCRATCH, n::SSCRATCH, n::MEPC, n::MCAUSE, n::MTVAL, n::STVAL, n::MEDELEG, n::MCOUNTEREN, n::PMPADDR0] {
            let Some(legal) = csr::legal_bits(&st, number) else { continue };
            write(&mut st, &mut bus, number, value).unwrap();
            prop_assert_eq!(read(&mut st, &mut bus, number), Ok(value & legal));
        }
    }
}

#[test]
fn floating_point_and_vector_registers_need_their_state_on_and_make_it_dirty() {
    for (numbers, field) in [
        (&[n::FFLAGS, n::FRM, n::FCSR][..], mstatus::FS),
        (&[n::VSTART, n::VXSAT, n::VXRM, n::VCSR][..], mstatus::VS),
    ] {
        for number in numbers {
            let (mut st, mut bus) = hart("max");
            assert_eq!(read(&mut st, &mut bus, *number), Err(ILLEGAL));
            units_on(&mut st);
            set_privilege(&mut st, Privilege::User);
            read(&mut st, &mut bus, *number).unwrap();
            assert_ne!(st.m.mstatus & field, field, "reading does not");
            write(&mut st, &mut bus, *number, 1).unwrap();
            assert_eq!(st.m.mstatus & field, field);
        }
    }
    let (mut st, mut bus) = hart("rv32,v=on");
    units_on(&mut st);
    write(&mut st, &mut bus, n::FCSR, 0xe5).unwrap();
    assert_eq!((st.frm, st.fflags), (7, 5));
    write(&mut st, &mut bus, n::VCSR, 7).unwrap();
    assert_eq!((st.vxrm, st.vxsat), (3, 1));
    assert_eq!(read(&mut st, &mut bus, n::VTYPE), Ok(0x8000_0000), "vill");
    assert_eq!(read(&mut st, &mut bus, n::MSTATUS).unwrap() >> 31, 1, "SD");
}

#[test]
fn counters_open_level_by_level() {
    for (machine, supervisor, expected) in
        [(0, 0, [false; 3]), (7, 0, [false, true, true]), (0, 7, [false; 3]), (7, 7, [true; 3])]
    {
        for number in [n::CYCLE, n::TIME, n::INSTRET] {
            let (mut st, mut bus) = hart("rv64");
            (st.m.mcounteren, st.s.scounteren) = (machine, supervisor);
            for (mode, ok) in MODES.into_iter().zip(expected) {
                set_privilege(&mut st, mode);
                let ok = ok || mode == Privilege::Machine;
                assert_eq!(read(&mut st, &mut bus, number).is_ok(), ok, "{machine} {supervisor} {mode:?}");
            }
        }
    }
}

#[test]
fn counters_count_from_what_was_written_and_stop_when_inhibited() {
    for model in ["rv64", "rv32"] {
        let (mut st, mut bus) = hart(model);
        (bus.cycles, bus.instructions) = (1000, 500);
        write(&mut st, &mut bus, n::MCYCLE, 5).unwrap();
        write(&mut st, &mut bus, n::MHPMEVENT3, 2).unwrap();
        write(&mut st, &mut bus, n::MHPMCOUNTER3, 0).unwrap();
        (bus.cycles, bus.instructions) = (1010, 507);
        assert_eq!(read(&mut st, &mut bus, n::MCYCLE), Ok(15));
        assert_eq!(read(&mut st, &mut bus, n::MHPMCOUNTER3), Ok(7));
        write(&mut st, &mut bus, n::MCOUNTINHIBIT, 1).unwrap();
        bus.cycles = 9999;
        assert_eq!(read(&mut st, &mut bus, n::CYCLE), Ok(15));
        write(&mut st, &mut bus, n::MCOUNTINHIBIT, 0).unwrap();
        bus.cycles += 1;
        assert_eq!(read(&mut st, &mut bus, n::CYCLE), Ok(16));
        write(&mut st, &mut bus, n::MHPMCOUNTER3 + 28, 9).unwrap();
        assert_eq!(read(&mut st, &mut bus, n::MHPMCOUNTER3 + 28), Ok(0), "not in pmu-mask");
    }
    let (mut st, mut bus) = hart("rv32");
    write(&mut st, &mut bus, n::MCYCLE, 0xffff_ffff).unwrap();
    write(&mut st, &mut bus, n::MCYCLEH, 7).unwrap();
    bus.cycles = 1;
    assert_eq!(read(&mut st, &mut bus, n::CYCLEH), Ok(8));
    assert_eq!(read(&mut st, &mut bus, n::CYCLE), Ok(0));
}

#[test]
fn virtual_memory_and_the_supervisor_timer_can_be_trapped() {
    let (mut st, mut bus) = hart("rv64");
    set_privilege(&mut st, Privilege::Supervisor);
    assert!(read(&mut st, &mut bus, n::SATP).is_ok());
    assert_eq!(read(&mut st, &mut bus, n::STIMECMP), Err(ILLEGAL), "STCE is clear");
    st.m.mstatus |= mstatus::TVM;
    assert_eq!(read(&mut st, &mut bus, n::SATP), Err(ILLEGAL));
    st.m.menvcfg |= 1 << 63;
    assert_eq!(read(&mut st, &mut bus, n::STIMECMP), Err(ILLEGAL), "mcounteren.TM is clear");
    st.m.mcounteren = 2;
    let effects = write(&mut st, &mut bus, n::STIMECMP, 100).unwrap();
    assert!(effects.timer && effects.interrupts);
}

#[test]
fn satp_takes_the_modes_that_there_are_and_says_what_to_forget() {
    let (mut st, mut bus) = hart("rv64,sv48=on");
    for mode in [1, 2, 7, 10, 11, 15] {
        assert_eq!(write(&mut st, &mut bus, n::SATP, mode << 60 | 5).unwrap().flush, None);
        assert_eq!(st.s.satp, 0, "no effect at all");
    }
    assert_eq!(write(&mut st, &mut bus, n::SATP, 8 << 60 | 7 << 44 | 5).unwrap().flush, Some(TlbScope::All));
    let same = write(&mut st, &mut bus, n::SATP, 8 << 60 | 7 << 44 | 5).unwrap();
    assert_eq!(same.flush, None);
    let other = write(&mut st, &mut bus, n::SATP, 8 << 60 | 8 << 44 | 6).unwrap();
    assert_eq!(other.flush, Some(TlbScope::AddressSpace(7)));
    assert_eq!(write(&mut st, &mut bus, n::SATP, 9 << 60 | 6).unwrap().flush, Some(TlbScope::All));
}

#[test]
fn what_changes_permissions_asks_for_a_flush() {
    let (mut st, mut bus) = hart("max");
    for (number, value, flush) in [
        (n::MSTATUS, mstatus::MXR | mstatus::MPP, true),
        (n::MSTATUS, mstatus::MXR | mstatus::SUM | mstatus::MPP, false),
        (n::SSTATUS, 0, true),
        (n::MENVCFG, 1 << 61, true),
        (n::MENVCFG, 1 << 61 | 1, false),
        (n::PMPADDR0, 5, true),
        (n::PMPCFG0, 0x1f, true),
        (n::MSCRATCH, 1, false),
    ] {
        assert_eq!(write(&mut st, &mut bus, number, value).unwrap().flush.is_some(), flush, "{number:#x}");
    }
}

#[test]
fn setting_bits_of_mip_does_not_latch_the_external_line() {
    let (mut st, mut bus) = hart("rv64");
    bus.lines.set(Lines::SEIP, true);
    let request =
        |operand| Request { operation: Operation::Set, number: n::MIP, operand, writes: true, bits: BITS };
    let (old, _) = csr::execute(&mut st, &mut bus, request(2)).unwrap();
    assert_eq!(old, 0x200, "the line shows");
    bus.lines.set(Lines::SEIP, false);
    assert_eq!(read(&mut st, &mut bus, n::MIP), Ok(2));
    csr::execute(&mut st, &mut bus, request(0x200)).unwrap();
    assert_eq!(read(&mut st, &mut bus, n::MIP), Ok(0x202), "software's own bit stays");
}

#[test]
fn state_enable_guards_what_lower_modes_see() {
    let (mut st, mut bus) = hart("max");
    set_privilege(&mut st, Privilege::Supervisor);
    assert_eq!(read(&mut st, &mut bus, n::SENVCFG), Err(ILLEGAL));
    assert_eq!(read(&mut st, &mut bus, n::SSTATEEN0), Err(ILLEGAL));
    set_privilege(&mut st, Privilege::Machine);
    for i in 0..4 {
        write(&mut st, &mut bus, n::MSTATEEN0 + i, u64::MAX).unwrap();
        let expected = if i == 0 { 3 << 62 } else { 1 << 63 };
        assert_eq!(read(&mut st, &mut bus, n::MSTATEEN0 + i), Ok(expected));
    }
    set_privilege(&mut st, Privilege::Supervisor);
    assert!(read(&mut st, &mut bus, n::SENVCFG).is_ok());
    assert_eq!(read(&mut st, &mut bus, n::SSTATEEN0), Ok(0));
}

#[test]
fn the_seed_is_given_to_those_allowed_and_only_by_a_write() {
    let (mut st, mut bus) = hart("max");
    assert_eq!(read(&mut st, &mut bus, n::SEED), Err(ILLEGAL));
    let request =
        Request { operation: Operation::Write, number: n::SEED, operand: 0, writes: true, bits: BITS };
    let seed = |st: &mut RiscvState, bus: &mut TestBus| csr::execute(st, bus, request).map(|(v, _)| v);
    assert_eq!(seed(&mut st, &mut bus), Ok(1 << 30), "wait");
    bus.entropy = Some(0xbeef);
    assert_eq!(seed(&mut st, &mut bus), Ok(2 << 30 | 0xbeef));
    for (mode, bit) in [(Privilege::User, 1 << 8), (Privilege::Supervisor, 1 << 9)] {
        st.m.mseccfg = !bit & 0x300;
        set_privilege(&mut st, mode);
        assert_eq!(seed(&mut st, &mut bus), Err(ILLEGAL));
        st.m.mseccfg = bit;
        assert!(seed(&mut st, &mut bus).is_ok());
    }
}

#[test]
fn misa_tells_the_letters() {
    for (model, text) in [
        ("rv64", "abcdfhimsu"),
        ("rv64,v=on,c=off,h=off", "abdfimsuv"),
        ("rv64,s=off,b=off,zba=off", "acdfimu"),
    ] {
        let (mut st, mut bus) = hart(model);
        let misa = read(&mut st, &mut bus, n::MISA).unwrap();
        let letters: String = (0..26u8).filter(|i| misa >> i & 1 != 0).map(|i| (b'a' + i) as char).collect();
        assert_eq!((letters.as_str(), misa >> 62), (text, 2), "{model}");
        write(&mut st, &mut bus, n::MISA, 0).unwrap();
        assert_eq!(read(&mut st, &mut bus, n::MISA), Ok(misa));
    }
}

#[test]
fn pointer_masking_is_configured_where_it_is_there_and_never_by_the_reserved_value() {
    const FIELDS: [(u16, u32); 5] =
        [(n::MSECCFG, 32), (n::MENVCFG, 32), (n::SENVCFG, 32), (n::HENVCFG, 32), (n::HSTATUS, 48)];
    for (model, there) in [
        ("rv64,zkr=on", [false; 5]),
        ("rv64,zkr=on,smmpm=on", [true, false, false, false, false]),
        ("rv64,zkr=on,smnpm=on", [false, true, false, false, false]),
        ("rv64,zkr=on,ssnpm=on", [false, false, true, true, true]),
        ("rv32,zkr=on", [false; 5]),
    ] {
        for ((number, shift), there) in FIELDS.into_iter().zip(there) {
            for (wanted, kept) in [(2, 2), (1, 2), (3, 3), (1, 3), (0, 0), (1, 0)] {
                let (mut st, mut bus) = hart(model);
                write(&mut st, &mut bus, number, kept << shift).unwrap();
                write(&mut st, &mut bus, number, wanted << shift).unwrap();
                let field = read(&mut st, &mut bus, number).unwrap() >> shift & 3;
                let expected = if wanted == 1 { kept } else { wanted };
                assert_eq!(field, if there { expected } else { 0 }, "{model} {number:#x} {wanted}");
            }
        }
    }
    let (mut st, mut bus) = hart("rv64");
    assert_eq!(read(&mut st, &mut bus, n::MSECCFG), Err(ILLEGAL));
}

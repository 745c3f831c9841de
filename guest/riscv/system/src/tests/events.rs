//! Traps, returns, interrupts, fences, WFI and counter overflow.

use rhea_riscv_state::csr as n;
use rhea_riscv_state::platform::Lines;
use rhea_riscv_state::state::{Privilege, mstatus};

use crate::bus::TlbScope;
use crate::exception::{Cause, Exception};
use crate::privileged::{self, CacheBlock};
use crate::test_bus::{BITS, hart, read, set_privilege, write};
use crate::{interrupt, trap};

const MODES: [Privilege; 3] = [Privilege::User, Privilege::Supervisor, Privilege::Machine];
const CAUSES: [Cause; 14] = [
    Cause::InstructionMisaligned,
    Cause::InstructionAccess,
    Cause::IllegalInstruction,
    Cause::Breakpoint,
    Cause::LoadMisaligned,
    Cause::LoadAccess,
    Cause::StoreMisaligned,
    Cause::StoreAccess,
    Cause::EcallUser,
    Cause::EcallSupervisor,
    Cause::EcallMachine,
    Cause::InstructionPageFault,
    Cause::LoadPageFault,
    Cause::StorePageFault,
];
const ILLEGAL: Exception = Exception::illegal(BITS);

#[test]
fn exceptions_go_where_they_are_delegated_and_never_downwards() {
    for model in ["rv64", "rv32"] {
        for cause in CAUSES {
            for delegated in [false, true] {
                for from in MODES {
                    for enabled in [false, true] {
                        let (mut st, mut bus) = hart(model);
                        let deleg = if delegated { u64::MAX } else { 0 };
                        write(&mut st, &mut bus, n::MEDELEG, deleg).unwrap();
                        (st.m.mtvec, st.s.stvec) = (0x1001, 0x2001);
                        st.m.mstatus =
                            if enabled { mstatus::SIE | mstatus::MIE } else { mstatus::SPIE | mstatus::MPIE };
                        set_privilege(&mut st, from);
                        st.pc = 0x4242;
                        trap::raise(&mut st, &mut bus, Exception::at(cause, 0x77));
                        let down = delegated && from != Privilege::Machine && cause != Cause::EcallMachine;
                        let status = st.m.mstatus;
                        let case = format!("{model} {cause:?} {delegated} {from:?} {enabled}");
                        if down {
                            assert_eq!((st.pc, st.privilege()), (0x2000, Privilege::Supervisor), "{case}");
                            assert_eq!(
                                (st.s.sepc, st.s.scause, st.s.stval),
                                (0x4242, cause as u64, 0x77),
                                "{case}"
                            );
                            assert_eq!(status & mstatus::SPP != 0, from == Privilege::Supervisor, "{case}");
                            assert_eq!(
                                (status & mstatus::SPIE != 0, status & mstatus::SIE),
                                (enabled, 0),
                                "{case}"
                            );
                        } else {
                            assert_eq!((st.pc, st.privilege()), (0x1000, Privilege::Machine), "{case}");
                            assert_eq!(
                                (st.m.mepc, st.m.mcause, st.m.mtval),
                                (0x4242, cause as u64, 0x77),
                                "{case}"
                            );
                            assert_eq!(status >> 11 & 3, from as u64, "{case}");
                            assert_eq!(
                                (status & mstatus::MPIE != 0, status & mstatus::MIE),
                                (enabled, 0),
                                "{case}"
                            );
                        }
                        assert_eq!(st.mode, st.compute_mode());
                    }
                }
            }
        }
    }
}

#[test]
fn an_interrupt_is_vectored_and_marked_in_the_highest_bit() {
    for (model, top) in [("rv64", 1 << 63), ("rv32", 1 << 31)] {
        let (mut st, mut bus) = hart(model);
        (st.m.mtvec, st.m.mie, st.m.mstatus) = (0x1001, 0x80, mstatus::MIE);
        bus.lines.set(Lines::MTIP, true);
        assert!(interrupt::poll(&mut st, &mut bus));
        assert_eq!((st.pc, st.m.mcause, st.m.mtval), (0x101c, top | 7, 0));
        assert!(!interrupt::poll(&mut st, &mut bus), "MIE is clear now");
    }
}

#[test]
fn the_first_by_mode_and_then_by_priority_is_taken() {
    let order = [11, 3, 7, 9, 1, 5, 13];
    for (at, first) in order.into_iter().enumerate() {
        let (mut st, mut bus) = hart("max");
        st.m.mie = u64::MAX;
        set_privilege(&mut st, Privilege::User);
        let waiting = order[at..].iter().fold(0, |set, number| set | 1u64 << number);
        bus.lines.set(Lines::from_bits_truncate(waiting & 0x888), true);
        st.m.mip = waiting & 0x2222;
        assert_eq!(interrupt::deliverable(&st, &mut bus), Some(first));
    }
    // One for machine mode beats a delegated one of higher priority.
    let (mut st, mut bus) = hart("max");
    (st.m.mie, st.m.mip, st.m.mideleg) = (u64::MAX, 1 << 9 | 1 << 1, 1 << 9);
    set_privilege(&mut st, Privilege::User);
    assert_eq!(interrupt::deliverable(&st, &mut bus), Some(1));
}

#[test]
fn modes_and_enables_decide_whether_an_interrupt_is_taken() {
    for mode in MODES {
        for delegated in [false, true] {
            for (mie, sie) in [(false, false), (false, true), (true, false), (true, true)] {
                let (mut st, mut bus) = hart("rv64");
                (st.m.mie, st.m.mip) = (2, 2);
                st.m.mideleg = if delegated { 2 } else { 0 };
                st.m.mstatus = if mie { mstatus::MIE } else { 0 } | if sie { mstatus::SIE } else { 0 };
                set_privilege(&mut st, mode);
                let expected = match (mode, delegated) {
                    (Privilege::Machine, false) => mie,
                    (Privilege::Machine, true) => false,
                    (Privilege::Supervisor, true) => sie,
                    _ => true,
                };
                assert_eq!(
                    interrupt::deliverable(&st, &mut bus).is_some(),
                    expected,
                    "{mode:?} {delegated} {mie} {sie}"
                );
                assert!(interrupt::ends_wait(&st, &mut bus));
            }
        }
    }
}

#[test]
fn the_supervisor_timer_compares_only_while_it_is_enabled() {
    let (mut st, mut bus) = hart("rv64");
    (st.s.stimecmp, bus.time, st.m.mip) = (100, 99, 1 << 5);
    assert_eq!(interrupt::pending(&st, &mut bus), 1 << 5, "software's bit");
    write(&mut st, &mut bus, n::MENVCFG, 1 << 63).unwrap();
    assert_eq!(interrupt::pending(&st, &mut bus), 0);
    bus.time = 100;
    assert_eq!(interrupt::pending(&st, &mut bus), 1 << 5);
    write(&mut st, &mut bus, n::MIP, 0).unwrap();
    assert_eq!(read(&mut st, &mut bus, n::MIP), Ok(1 << 5), "not writable now");
}

#[test]
fn returns_restore_what_a_trap_saved() {
    for from in MODES {
        let (mut st, mut bus) = hart("rv64");
        st.m.mstatus = mstatus::MIE;
        set_privilege(&mut st, from);
        st.pc = 0x4242;
        trap::raise(&mut st, &mut bus, Exception::illegal(0));
        st.m.mstatus |= mstatus::MPRV;
        trap::mret(&mut st, &mut bus, BITS).unwrap();
        assert_eq!((st.pc, st.privilege()), (0x4242, from));
        assert_eq!(
            st.m.mstatus & (mstatus::MIE | mstatus::MPIE | mstatus::MPP),
            mstatus::MIE | mstatus::MPIE
        );
        assert_eq!(st.m.mstatus & mstatus::MPRV != 0, from == Privilege::Machine);
    }
    let (mut st, mut bus) = hart("rv64");
    (st.s.sepc, st.m.mstatus) = (0x123, mstatus::SPP | mstatus::SPIE | mstatus::MPRV);
    trap::sret(&mut st, &mut bus, BITS).unwrap();
    assert_eq!((st.pc, st.privilege()), (0x122, Privilege::Supervisor));
    assert_eq!(st.m.mstatus, mstatus::SIE | mstatus::SPIE);
}

#[test]
fn privileged_instructions_are_illegal_below_their_mode_and_where_trapped() {
    for mode in MODES {
        for (trap_bit, supervisor_ok) in [(0, true), (mstatus::TSR, false)] {
            let (mut st, mut bus) = hart("rv64");
            st.m.mstatus = trap_bit;
            set_privilege(&mut st, mode);
            let ok = mode == Privilege::Machine || mode == Privilege::Supervisor && supervisor_ok;
            assert_eq!(trap::sret(&mut st, &mut bus, BITS).is_ok(), ok, "{mode:?}");
            set_privilege(&mut st, mode);
            assert_eq!(trap::mret(&mut st, &mut bus, BITS).is_ok(), mode == Privilege::Machine);
            st.m.mstatus = if trap_bit != 0 { mstatus::TW | mstatus::TVM } else { 0 };
            set_privilege(&mut st, mode);
            assert_eq!(privileged::wfi(&mut st, BITS).is_ok(), ok);
            assert_eq!(st.waiting, u32::from(ok));
            assert_eq!(privileged::sfence_vma(&st, None, None, BITS).is_ok(), ok);
        }
    }
    let (mut st, mut bus) = hart("rv64,s=off");
    assert_eq!(trap::sret(&mut st, &mut bus, BITS), Err(ILLEGAL));
    assert!(privileged::sfence_vma(&st, None, None, BITS).is_err());
    set_privilege(&mut st, Privilege::User);
    assert!(privileged::wfi(&mut st, BITS).is_ok(), "without supervisor mode user mode may wait");
}

#[test]
fn fences_say_what_to_forget() {
    let (st, _) = hart("max");
    let fence = |vaddr, asid| privileged::sinval_vma(&st, vaddr, asid, BITS);
    assert_eq!(fence(None, None), Ok(TlbScope::All));
    assert_eq!(fence(Some(0x1234), None), Ok(TlbScope::Page(0x1234)));
    assert_eq!(fence(None, Some(0x1_0007)), Ok(TlbScope::AddressSpace(7)));
    assert_eq!(fence(Some(5), Some(6)), Ok(TlbScope::PageOf { vaddr: 5, asid: 6 }));
    let (st, _) = hart("rv64");
    assert_eq!(privileged::sinval_vma(&st, None, None, BITS), Err(ILLEGAL), "no Svinval");
    assert_eq!(privileged::sfence_inval(&st, BITS), Err(ILLEGAL));
}

#[test]
fn calls_and_breakpoints_carry_their_values() {
    let (mut st, _) = hart("rv64");
    for (mode, cause) in
        MODES.into_iter().zip([Cause::EcallUser, Cause::EcallSupervisor, Cause::EcallMachine])
    {
        set_privilege(&mut st, mode);
        assert_eq!(privileged::ecall(&st), Exception::new(cause, 0));
    }
    st.pc = 0x1234;
    assert_eq!(privileged::ebreak(&st), Exception::at(Cause::Breakpoint, 0x1234));
}

#[test]
fn cache_block_instructions_are_enabled_level_by_level() {
    for (kind, one) in [(CacheBlock::Clean, 1 << 6), (CacheBlock::Zero, 1 << 7), (CacheBlock::Inval, 3 << 4)]
    {
        for (machine, supervisor, allowed) in [(0, 0, 0), (1, 0, 1), (0, 1, 0), (1, 1, 2)] {
            let (mut st, _) = hart("rv64");
            (st.m.menvcfg, st.s.senvcfg) = (machine * one, supervisor * one);
            for (mode, level) in MODES.into_iter().zip([2, 1, 0]) {
                set_privilege(&mut st, mode);
                assert_eq!(
                    privileged::cache_block(&st, kind, BITS).is_ok(),
                    level <= allowed,
                    "{kind:?} {mode:?}"
                );
            }
        }
    }
    let (mut st, _) = hart("rv64");
    assert_eq!(privileged::cache_block(&st, CacheBlock::Inval, BITS), Ok(false));
    (st.m.menvcfg, st.s.senvcfg) = (3 << 4, 1 << 4);
    set_privilege(&mut st, Privilege::Supervisor);
    assert_eq!(privileged::cache_block(&st, CacheBlock::Inval, BITS), Ok(false));
    set_privilege(&mut st, Privilege::User);
    assert_eq!(privileged::cache_block(&st, CacheBlock::Inval, BITS), Ok(true), "senvcfg asks for a flush");
}

#[test]
fn an_overflow_raises_its_interrupt_once() {
    let (mut st, mut bus) = hart("max");
    st.m.mie = 1 << 13;
    write(&mut st, &mut bus, n::MHPMEVENT3, 1).unwrap();
    write(&mut st, &mut bus, n::MHPMCOUNTER3, u64::MAX - 9).unwrap();
    bus.cycles = 9;
    assert!(!interrupt::poll(&mut st, &mut bus));
    assert_eq!(st.m.mip, 0);
    bus.cycles = 10;
    interrupt::poll(&mut st, &mut bus);
    assert_eq!(st.m.mip, 1 << 13);
    assert_eq!(read(&mut st, &mut bus, n::SCOUNTOVF), Ok(8));
    // OF is set: the next overflow is silent.
    write(&mut st, &mut bus, n::MIP, 0).unwrap();
    write(&mut st, &mut bus, n::MHPMCOUNTER3, u64::MAX).unwrap();
    bus.cycles = 20;
    interrupt::poll(&mut st, &mut bus);
    assert_eq!(st.m.mip, 0);
    set_privilege(&mut st, Privilege::Supervisor);
    assert_eq!(read(&mut st, &mut bus, n::SCOUNTOVF), Ok(0), "mcounteren hides it");
}

#[test]
fn a_filtered_counter_stands_still_in_its_mode() {
    let (mut st, mut bus) = hart("max");
    write(&mut st, &mut bus, n::MHPMEVENT3, 1 | 1 << 62).unwrap();
    bus.cycles = 100;
    (st.m.mepc, st.m.mstatus) = (0x1000, 0);
    trap::mret(&mut st, &mut bus, BITS).unwrap();
    bus.cycles = 130;
    trap::raise(&mut st, &mut bus, Exception::illegal(0));
    bus.cycles = 200;
    assert_eq!(read(&mut st, &mut bus, n::MHPMCOUNTER3), Ok(30));
}

#[test]
fn an_edge_of_the_supervisor_software_interrupt_stays_until_software_clears_it() {
    let (mut st, mut bus) = hart("rv64");
    bus.lines.post_supervisor_software();
    assert!(interrupt::pending(&st, &mut bus) & 2 != 0, "it waits before the hart has taken it over");
    assert_eq!(read(&mut st, &mut bus, n::SIP).map(|sip| sip & 2), Ok(0), "not delegated: not to be seen");
    write(&mut st, &mut bus, n::MIDELEG, 2).unwrap();
    assert_eq!(read(&mut st, &mut bus, n::SIP).map(|sip| sip & 2), Ok(2));
    write(&mut st, &mut bus, n::SIP, 0).unwrap();
    assert_eq!(interrupt::pending(&st, &mut bus) & 2, 0);
}

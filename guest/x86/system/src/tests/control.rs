use rhea_x86_state::control::{cr0, cr4, dr6, dr7, efer};
use rhea_x86_state::flags;
use rhea_x86_state::msr::index;
use rhea_x86_state::platform::Pending;
use rhea_x86_state::state::{attr, gpr, seg};

use crate::bus::TlbScope;
use crate::control::{lmsw, read_cr, write_cr, xgetbv, xsetbv};
use crate::debug::{Watch, check_execute, matching, read_dr, write_dr};
use crate::event::{is_running, service};
use crate::exception::Exception;
use crate::flag_instructions::{cli, popf_value, pushf_value, sti};
use crate::msr::{rdmsr, wrmsr};
use crate::privileged::{hlt, invlpg, invpcid, lgdt, monitor, rdtsc, sgdt};
use crate::syscall::{swapgs, syscall, sysenter, sysexit, sysret};
use crate::test_bus::{PAGE_TABLES, TestBus, long, protected, sel};

const GP: Exception = Exception::gp(0);

#[test]
fn long_mode_is_entered_through_pae_lme_and_pg() {
    let (mut st, mut bus) = protected("max", 0);
    let (st, bus) = (&mut st, &mut bus);
    let pg = st.cr[0] | cr0::PG;
    wrmsr(st, bus, index::EFER, efer::LME).unwrap();
    assert_eq!(write_cr(st, bus, 0, pg), Err(GP), "PAE is clear");
    write_cr(st, bus, 4, cr4::PAE).unwrap();
    write_cr(st, bus, 3, PAGE_TABLES).unwrap();
    write_cr(st, bus, 0, pg).unwrap();
    assert_ne!(st.efer & efer::LMA, 0);
    assert_eq!(write_cr(st, bus, 4, 0), Err(GP), "PAE stays in long mode");
    assert_eq!(wrmsr(st, bus, index::EFER, 0), Err(GP), "LME stays under paging");
    write_cr(st, bus, 0, pg & !cr0::PG).unwrap();
    assert_eq!(st.efer & efer::LMA, 0);
    assert_eq!(st.mode, st.compute_mode());
}

#[test]
fn impossible_control_bits_are_refused() {
    let (mut st, mut bus) = protected("max", 0);
    let (st, bus) = (&mut st, &mut bus);
    assert_eq!(write_cr(st, bus, 0, cr0::PG), Err(GP));
    assert_eq!(write_cr(st, bus, 0, cr0::PE | cr0::NW), Err(GP));
    assert_eq!(write_cr(st, bus, 4, 1 << 14), Err(GP), "VMX is not there");
    assert_eq!(write_cr(st, bus, 4, cr4::PCIDE), Err(GP), "PCIDE needs long mode");
    assert_eq!(write_cr(st, bus, 5, 0), Err(Exception::ud()));
    assert_eq!(wrmsr(st, bus, index::EFER, 1 << 12), Err(GP), "SVME is not there");
    let (mut user, mut bus) = protected("max", 3);
    assert_eq!(write_cr(&mut user, &mut bus, 0, 0), Err(GP));
    assert_eq!(read_cr(&user, &bus, 3), Err(GP));
    let (mut old, mut bus) = protected("pentium3", 0);
    assert_eq!(write_cr(&mut old, &mut bus, 4, cr4::SMEP), Err(GP));
    assert_eq!(wrmsr(&mut old, &mut bus, index::EFER, 0), Err(GP), "there is no EFER");
}

#[test]
fn cr3_selects_the_pcid_and_can_keep_its_translations() {
    let (mut st, mut bus) = long("max", 0);
    let (st, bus) = (&mut st, &mut bus);
    write_cr(st, bus, 4, st.cr[4] | cr4::PCIDE).unwrap();
    write_cr(st, bus, 3, 1 << 63 | PAGE_TABLES | 5).unwrap();
    assert_eq!(st.cr[3], PAGE_TABLES | 5);
    assert_eq!(bus.flushes.last(), Some(&TlbScope::AddressSpace { pcid: 5, preserve: true }));
    assert_eq!(write_cr(st, bus, 3, 1 << 62), Err(GP));
    assert_eq!(write_cr(st, bus, 0, st.cr[0] & !cr0::PG), Err(GP), "not in 64-bit mode");
}

#[test]
fn lmsw_sets_but_never_clears_pe() {
    let (mut st, mut bus) = protected("max", 0);
    lmsw(&mut st, &mut bus, 0).unwrap();
    assert_ne!(st.cr[0] & cr0::PE, 0);
    lmsw(&mut st, &mut bus, 0xa).unwrap();
    assert_eq!(st.cr[0] & 0xf, cr0::PE | cr0::MP | cr0::TS);
}

#[test]
fn cr8_is_the_task_priority() {
    let (mut st, mut bus) = long("max", 0);
    write_cr(&mut st, &mut bus, 8, 9).unwrap();
    assert_eq!(read_cr(&st, &bus, 8), Ok(9));
    assert_eq!(bus.apic.tpr.load(std::sync::atomic::Ordering::Relaxed), 0x90);
    assert_eq!(write_cr(&mut st, &mut bus, 8, 16), Err(GP));
}

#[test]
fn xsetbv_accepts_what_the_model_has() {
    let (mut st, _) = protected("max", 0);
    assert_eq!(xsetbv(&mut st, 0, 7), Err(Exception::ud()));
    st.cr[4] |= cr4::OSXSAVE;
    xsetbv(&mut st, 0, 7).unwrap();
    assert_eq!(xgetbv(&st, 0), Ok(7));
    for bad in [0, 5, 0xf, 6] {
        assert_eq!(xsetbv(&mut st, 0, bad), Err(GP), "{bad:#x}");
    }
    assert_eq!(xsetbv(&mut st, 1, 1), Err(GP));
}

#[test]
fn syscall_and_sysret_swap_flat_segments_and_flags() {
    let (mut st, mut bus) = long("max", 3);
    st.msr.star = 0x0023_0010 << 32;
    st.msr.lstar = 0xffff_8000_0000_1000;
    st.msr.fmask = flags::IF | flags::DF;
    st.set_rflags(flags::IF | flags::DF | flags::CF | 2);
    syscall(&mut st, &bus, 0x5002).unwrap();
    assert_eq!((st.rip, st.cpl(), st.gpr[gpr::RCX]), (0xffff_8000_0000_1000, 0, 0x5002));
    assert_eq!(st.gpr[11], flags::IF | flags::DF | flags::CF | 2);
    assert_eq!(st.rflags(), flags::CF | 2);
    assert_eq!((st.seg[seg::CS].selector, st.seg[seg::SS].selector), (0x10, 0x18));
    assert_eq!(st.seg[seg::CS].attr, 0x00a0_9b00);
    swapgs(&mut st).unwrap();
    sysret(&mut st, &bus, 8).unwrap();
    assert_eq!((st.rip, st.cpl()), (0x5002, 3));
    assert_eq!((st.seg[seg::CS].selector, st.seg[seg::SS].selector), (0x33, 0x2b));
    assert_eq!(st.rflags(), flags::IF | flags::DF | flags::CF | 2);
    assert_eq!(swapgs(&mut st), Err(GP));
    st.efer &= !efer::SCE;
    assert_eq!(syscall(&mut st, &bus, 0), Err(Exception::ud()));
    assert_eq!(bus.shutdowns, 0);
    bus.tsc += 1;
}

#[test]
fn the_vendors_differ_in_compatibility_mode() {
    for (model, syscalls, sysenters) in [("max", true, false), ("Haswell", false, true)] {
        let (mut st, bus) = long(model, 3);
        st.msr.star = 0x0023_0010 << 32;
        st.msr.cstar = 0x1111;
        st.msr.sysenter_cs = 0x10;
        st.msr.sysenter_eip = 0x2222;
        st.seg[seg::CS].attr = st.seg[seg::CS].attr & !attr::L | attr::DB;
        let mut by_syscall = st.clone();
        assert_eq!(syscall(&mut by_syscall, &bus, 0).is_ok(), syscalls, "{model}");
        assert_eq!(sysenter(&mut st, &bus).is_ok(), sysenters, "{model}");
        if sysenters {
            assert_eq!((st.rip, st.cpl()), (0x2222, 0));
            assert_ne!(st.seg[seg::CS].attr & attr::L, 0);
            st.gpr[gpr::RDX] = 0x1_0000_3333;
            sysexit(&mut st, &bus, 4).unwrap();
            assert_eq!((st.rip, st.seg[seg::CS].selector), (0x3333, 0x23));
        } else {
            assert_eq!(by_syscall.rip, 0x1111);
        }
    }
}

#[test]
fn sysret_to_a_non_canonical_address_faults_where_the_vendor_does() {
    let (mut st, bus) = long("Haswell", 0);
    st.gpr[gpr::RCX] = 1 << 47;
    assert_eq!(sysret(&mut st, &bus, 8), Err(GP));
    assert_eq!((st.cpl(), st.rip), (0, 0x5000));
    let (mut st, bus) = long("max", 0);
    st.gpr[gpr::RCX] = 1 << 47;
    assert_eq!(sysret(&mut st, &bus, 8), Err(GP));
    assert_eq!((st.cpl(), st.rip), (3, 1 << 47));
}

#[test]
fn msrs_keep_checked_values() {
    let (mut st, mut bus) = long("max", 0);
    let (st, bus) = (&mut st, &mut bus);
    wrmsr(st, bus, index::GS_BASE, 0xffff_8000_0000_0000).unwrap();
    assert_eq!(st.seg[seg::GS].base, 0xffff_8000_0000_0000);
    assert_eq!(wrmsr(st, bus, index::LSTAR, 1 << 47), Err(GP));
    assert_eq!(wrmsr(st, bus, index::PAT, 2), Err(GP));
    wrmsr(st, bus, index::PAT, 0x0606_0606_0606_0606).unwrap();
    assert_eq!(rdmsr(st, bus, index::PAT), Ok(0x0606_0606_0606_0606));
    assert_eq!(rdmsr(st, bus, index::MTRR_CAP), Ok(0x508));
    assert_eq!(wrmsr(st, bus, index::MTRR_CAP, 0), Err(GP));
    wrmsr(st, bus, index::MTRR_PHYS_BASE0 + 3, 0xff_8000_0800).unwrap();
    assert_eq!(rdmsr(st, bus, index::MTRR_PHYS_BASE0 + 3), Ok(0xff_8000_0800));
    assert_eq!(wrmsr(st, bus, index::MTRR_PHYS_BASE0, 7), Err(GP));
    assert_eq!(wrmsr(st, bus, index::MC0_CTL + 1, 1), Err(GP));
    assert_eq!(rdmsr(st, bus, index::MCG_CAP), Ok(0x10a));
    assert_eq!(rdmsr(st, bus, 0x1234), Err(GP));
    assert_eq!(wrmsr(st, bus, 0xc001_1029, 0), Err(GP));
    let (mut user, mut bus) = long("max", 3);
    assert_eq!(rdmsr(&mut user, &mut bus, index::TSC), Err(GP));
}

#[test]
fn the_tsc_and_its_adjustment_move_together() {
    let (mut st, mut bus) = long("max", 0);
    let (st, bus) = (&mut st, &mut bus);
    wrmsr(st, bus, index::TSC, 500).unwrap();
    assert_eq!(rdtsc(st, bus), Ok(500));
    assert_eq!(rdmsr(st, bus, index::TSC_ADJUST), Ok(500u64.wrapping_sub(1000)));
    wrmsr(st, bus, index::TSC_ADJUST, 0).unwrap();
    assert_eq!(rdtsc(st, bus), Ok(1000));
    wrmsr(st, bus, index::TSC_DEADLINE, 7).unwrap();
    assert_eq!(rdmsr(st, bus, index::TSC_DEADLINE), Ok(7));
    let (mut user, mut bus) = long("max", 3);
    user.cr[4] |= cr4::TSD;
    assert_eq!(rdtsc(&user, &mut bus), Err(GP));
}

#[test]
fn debug_registers_alias_and_detect() {
    let (mut st, _) = protected("max", 0);
    write_dr(&mut st, 5, 0x2).unwrap();
    assert_eq!(read_dr(&st, 7), Ok(0x2 | dr7::FIXED_ONES));
    write_dr(&mut st, 6, 0).unwrap();
    assert_eq!(read_dr(&st, 4), Ok(dr6::FIXED_ONES));
    st.cr[4] |= cr4::DE;
    assert_eq!(read_dr(&st, 4), Err(Exception::ud()));
    assert_eq!(write_dr(&mut st, 7, 1 << 32), Err(GP));
    write_dr(&mut st, 7, dr7::GD).unwrap();
    assert_eq!(read_dr(&st, 0), Err(Exception::debug_fault(dr6::BD)));
}

#[test]
fn breakpoints_match_ranges_and_rf_suppresses_them() {
    let (mut st, _) = protected("max", 0);
    st.dr[0] = 0x5000;
    st.dr[1] = 0x1006;
    st.dr[2] = u64::MAX;
    // DR0 executes; DR1 watches writes of 4 bytes (from 1004h); DR2 watches accesses of one byte.
    st.dr[7] = dr7::FIXED_ONES | 0b01_01_01 | 0xd << 20 | 0x3 << 24;
    assert_eq!(check_execute(&st, 0x5000), Err(Exception::debug_fault(1)));
    assert_eq!(check_execute(&st, 0x5001), Ok(()));
    assert_eq!(matching(&st, Watch::Write, 0x1002, 4), 2);
    assert_eq!(matching(&st, Watch::Write, 0x1000, 4), 0);
    assert_eq!(matching(&st, Watch::Write, 0x1007, 1), 2);
    assert_eq!(matching(&st, Watch::Access, 0x1004, 4), 0);
    assert_eq!(matching(&st, Watch::Access, u64::MAX - 1, 2), 4);
    assert_eq!(matching(&st, Watch::Access, 0, 1), 0);
    st.rflags |= flags::RF;
    assert_eq!(check_execute(&st, 0x5000), Ok(()));
}

#[test]
fn flag_instructions_obey_iopl() {
    let (mut st, _) = protected("max", 3);
    assert_eq!((cli(&mut st), sti(&mut st)), (Err(GP), Err(GP)));
    popf_value(&mut st, flags::IF | flags::IOPL | flags::CF, 4).unwrap();
    assert_eq!(st.rflags(), flags::CF | 2);
    st.cr[4] |= cr4::PVI;
    sti(&mut st).unwrap();
    assert_ne!(st.rflags & flags::VIF, 0);
    st.rflags |= flags::VIP;
    assert_eq!(sti(&mut st), Err(GP));

    let (mut st, _) = protected("max", 0);
    sti(&mut st).unwrap();
    assert_eq!(st.interrupt_shadow, 1);
    popf_value(&mut st, flags::IF | flags::IOPL | flags::AC | flags::VIF, 4).unwrap();
    assert_eq!(st.rflags(), flags::IF | flags::IOPL | flags::AC | 2);
    assert_eq!(pushf_value(&st, 2), Ok(flags::IF | flags::IOPL | 2));
    assert_eq!(sel::CODE0, st.seg[seg::CS].selector);
}

#[test]
fn table_and_tlb_instructions_check_their_operands() {
    let (mut st, mut bus) = long("max", 0);
    assert_eq!(lgdt(&mut st, 0xff, 1 << 47, 8), Err(GP));
    lgdt(&mut st, 0xff, 0x1234_5678, 2).unwrap();
    assert_eq!(sgdt(&st), Ok((0xff, 0x34_5678)));
    invlpg(&st, &mut bus, 0x1234).unwrap();
    assert_eq!(bus.flushes.pop(), Some(TlbScope::Page(0x1234)));
    assert_eq!(invpcid(&st, &mut bus, 1, 5, 0), Err(GP), "PCIDs are off");
    assert_eq!(invpcid(&st, &mut bus, 4, 0, 0), Err(GP));
    invpcid(&st, &mut bus, 3, 0, 0).unwrap();
    assert_eq!(bus.flushes.pop(), Some(TlbScope::NonGlobal));
    assert_eq!(monitor(&st, 0), Err(Exception::ud()), "the model has no MONITOR");
    let (mut user, _) = long("max", 3);
    assert_eq!(hlt(&mut user), Err(GP));
    user.cr[4] |= cr4::UMIP;
    assert_eq!(sgdt(&user), Err(GP));
}

#[test]
fn events_come_in_order_of_priority() {
    let (mut st, mut bus) = protected("max", 0);
    let set = |bus: &TestBus, p: Pending| {
        bus.apic.pending.store(u64::from(p.bits()), std::sync::atomic::Ordering::Relaxed);
    };
    for v in [2u64, 0x40] {
        let gate = crate::test_bus::gate(0x8e, sel::CODE0, 0x100 * v, 0);
        bus.put(crate::test_bus::IDT + 8 * v, 8, gate);
    }
    bus.apic.vector.store(0x40, std::sync::atomic::Ordering::Relaxed);
    hlt(&mut st).unwrap();
    set(&bus, Pending::INTERRUPT);
    assert!(!service(&mut st, &mut bus), "IF is clear");
    set(&bus, Pending::INTERRUPT | Pending::NMI);
    st.rflags |= flags::IF;
    assert!(!is_running(&st));
    assert!(service(&mut st, &mut bus));
    assert_eq!((st.rip, is_running(&st)), (0x200, true));
    assert!(!service(&mut st, &mut bus), "the gate cleared IF");
    st.rflags |= flags::IF;
    assert!(service(&mut st, &mut bus));
    assert_eq!(st.rip, 0x4000);

    set(&bus, Pending::INIT);
    assert!(service(&mut st, &mut bus));
    assert_eq!((st.rip, st.seg[seg::CS].base, st.cr[0] & cr0::PE), (0xfff0, 0xffff_0000, 0));
    st.wait_for_sipi = 1;
    bus.apic.vector.store(0x9a, std::sync::atomic::Ordering::Relaxed);
    set(&bus, Pending::SIPI);
    assert!(service(&mut st, &mut bus));
    assert_eq!((st.rip, st.seg[seg::CS].base, st.seg[seg::CS].selector), (0, 0x9_a000, 0x9a00));
}

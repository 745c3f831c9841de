use rhea_x86_state::X86State;
use rhea_x86_state::control::{cr0, dr6, dr7};
use rhea_x86_state::flags;
use rhea_x86_state::state::{attr, gpr, seg};

use crate::exception::{Exception, vector};
use crate::interrupt::{SoftwareInterrupt, external, nmi, raise, software};
use crate::iret::iret;
use crate::test_bus::{GDT, IDT, TSS, TestBus, gate, long, protected, sel};

fn set_gate32(bus: &mut TestBus, v: u8, access: u64, selector: u16, offset: u64) {
    bus.put(IDT + 8 * u64::from(v), 8, gate(access, selector, offset, 0));
}

fn set_gate64(bus: &mut TestBus, v: u8, access: u64, selector: u16, offset: u64, ist: u64) {
    bus.put(IDT + 16 * u64::from(v), 8, gate(access, selector, offset, ist));
    bus.put(IDT + 16 * u64::from(v) + 8, 8, offset >> 32);
}

fn frame(bus: &TestBus, at: u64, size: u8, count: u64) -> Vec<u64> {
    (0..count).map(|i| bus.get(at + i * u64::from(size), size)).collect()
}

#[test]
fn real_mode_uses_the_vector_table() {
    let mut bus = TestBus::new("max");
    let mut st = bus.model.reset_state(true);
    st.seg[seg::SS].base = 0x8000;
    st.seg[seg::SS].selector = 0x800;
    st.gpr[gpr::RSP] = 0x1_0100;
    st.rip = 0x1234;
    st.set_rflags(flags::IF | flags::CF | 2);
    bus.put(0x21 * 4, 4, 0xf000_1111);
    software(&mut st, &mut bus, SoftwareInterrupt::IntN(0x21), 0x1236).unwrap();
    assert_eq!((st.rip, st.seg[seg::CS].selector, st.seg[seg::CS].base), (0x1111, 0xf000, 0xf_0000));
    assert_eq!(st.gpr[gpr::RSP], 0x1_00fa);
    assert_eq!(frame(&bus, 0x80fa, 2, 3), [0x1236, 0xf000, flags::IF | flags::CF | 2]);
    assert_eq!(st.rflags & flags::IF, 0);
    iret(&mut st, &mut bus, 2, 0).unwrap();
    assert_eq!((st.rip, st.seg[seg::CS].selector, st.gpr[gpr::RSP]), (0x1236, 0xf000, 0x1_0100));
    assert_eq!(st.rflags(), flags::IF | flags::CF | 2);
}

#[test]
fn protected_mode_fault_from_user_switches_the_stack_and_pushes_the_code() {
    let (mut st, mut bus) = protected("max", 3);
    set_gate32(&mut bus, vector::GP, 0x8e, sel::CODE0, 0xc000_1234);
    st.set_rflags(flags::IF | flags::ZF | 2);
    raise(&mut st, &mut bus, Exception::gp(0x50));
    assert_eq!((st.rip, st.seg[seg::CS].selector, st.cpl()), (0xc000_1234, sel::CODE0, 0));
    assert_eq!(st.seg[seg::SS].selector, sel::DATA0);
    assert_eq!(st.gpr[gpr::RSP], 0x9000 - 24);
    let rf = flags::RF | flags::IF | flags::ZF | 2;
    let expected = [0x50, 0x5000, u64::from(sel::CODE3), rf, 0x8000, u64::from(sel::DATA3)];
    assert_eq!(frame(&bus, 0x9000 - 24, 4, 6), expected);
    assert_eq!(st.rflags & (flags::IF | flags::RF), 0);

    st.gpr[gpr::RSP] += 4;
    st.seg[seg::FS].attr &= !attr::DPL_MASK;
    iret(&mut st, &mut bus, 4, 0).unwrap();
    assert_eq!((st.rip, st.cpl(), st.gpr[gpr::RSP]), (0x5000, 3, 0x8000));
    assert_eq!(st.rflags(), rf);
    assert_eq!(st.seg[seg::FS].attr & attr::P, 0, "a kernel segment is not left to the user");
    assert_ne!(st.seg[seg::GS].attr & attr::P, 0);
    assert_eq!(st.mode, st.compute_mode());
}

#[test]
fn int_n_needs_the_gates_dpl() {
    let (mut st, mut bus) = protected("max", 3);
    set_gate32(&mut bus, 0x80, 0x8e, sel::CODE0, 0x100);
    let before = st.clone();
    let int80 = SoftwareInterrupt::IntN(0x80);
    assert_eq!(software(&mut st, &mut bus, int80, 0x5002), Err(Exception::gp(0x80 * 8 + 2)));
    assert_eq!((st.rip, st.gpr), (before.rip, before.gpr));
    set_gate32(&mut bus, 0x80, 0xef, sel::CODE0, 0x100);
    software(&mut st, &mut bus, int80, 0x5002).unwrap();
    assert_eq!(bus.get(0x9000 - 20, 4), 0x5002);
    // External interrupts do not look at the DPL.
    let (mut st, mut bus) = protected("max", 3);
    set_gate32(&mut bus, 0x80, 0x8e, sel::CODE0, 0x100);
    external(&mut st, &mut bus, 0x80);
    assert_eq!(st.rip, 0x100);
}

#[test]
fn a_missing_gate_is_reported_with_the_ext_bit() {
    let (mut st, mut bus) = protected("max", 0);
    set_gate32(&mut bus, vector::GP, 0x8e, sel::CODE0, 0x200);
    set_gate32(&mut bus, vector::NP, 0x8e, sel::CODE0, 0x300);
    external(&mut st, &mut bus, 0x40);
    assert_eq!((st.rip, bus.get(st.gpr[gpr::RSP], 4)), (0x200, 0x40 * 8 + 3));
    set_gate32(&mut bus, 0x41, 0x0e, sel::CODE0, 0x400);
    external(&mut st, &mut bus, 0x41);
    assert_eq!((st.rip, bus.get(st.gpr[gpr::RSP], 4)), (0x300, 0x41 * 8 + 3));
}

/// Raises `first` while only the gates in `present` exist; the vector that was delivered, or `None` for shutdown.
fn delivered(first: Exception, present: &[u8]) -> Option<u8> {
    let (mut st, mut bus) = protected("max", 0);
    for &v in present {
        set_gate32(&mut bus, v, 0x8e, sel::CODE0, 0x1_0000 + u64::from(v));
    }
    raise(&mut st, &mut bus, first);
    if bus.shutdowns > 0 {
        assert_eq!(st.shutdown, 1);
        return None;
    }
    Some((st.rip - 0x1_0000) as u8)
}

#[test]
fn double_faults_follow_the_classes() {
    use vector::*;
    let all = [DF, GP, NP, PF];
    // A benign exception whose gate is missing: the #GP is delivered by itself.
    assert_eq!(delivered(Exception::ud(), &all), Some(GP));
    assert_eq!(delivered(Exception::fault(MF), &all), Some(GP));
    // Contributory then contributory.
    assert_eq!(delivered(Exception::ts(8), &all), Some(DF));
    assert_eq!(delivered(Exception::de(), &all), Some(DF));
    // Page fault then contributory.
    assert_eq!(delivered(Exception::pf(0, 0), &[DF, GP]), Some(DF));
    // No double-fault gate: triple fault.
    assert_eq!(delivered(Exception::ts(8), &[GP]), None);
    assert_eq!(delivered(Exception::ud(), &[]), None);
}

#[test]
fn a_page_fault_sets_cr2_and_a_debug_trap_dr6() {
    let (mut st, mut bus) = protected("max", 0);
    set_gate32(&mut bus, vector::PF, 0x8e, sel::CODE0, 0x100);
    set_gate32(&mut bus, vector::DB, 0x8e, sel::CODE0, 0x200);
    raise(&mut st, &mut bus, Exception::pf(0xdead_b000, 2));
    assert_eq!(st.cr[2], 0xdead_b000);
    st.dr[7] |= dr7::GD;
    st.set_rflags(flags::TF | 2);
    raise(&mut st, &mut bus, Exception::debug_trap(dr6::BS));
    assert_eq!(st.dr[6], dr6::FIXED_ONES | dr6::BS);
    assert_eq!(st.dr[7] & dr7::GD, 0);
    assert_eq!(bus.get(st.gpr[gpr::RSP] + 8, 4), flags::TF | 2, "a trap pushes no RF");
    assert_eq!(st.rflags & flags::TF, 0);
}

#[test]
fn long_mode_from_user_uses_rsp0_and_a_null_ss() {
    let (mut st, mut bus) = long("max", 3);
    set_gate64(&mut bus, vector::PF, 0x8e, sel::CODE64, 0xffff_8000_0000_1000, 0);
    bus.put(TSS + 4, 8, 0x9008);
    st.set_rflags(flags::IF | 2);
    raise(&mut st, &mut bus, Exception::pf(0x1234, 6));
    assert_eq!((st.rip, st.cpl()), (0xffff_8000_0000_1000, 0));
    assert_eq!(st.seg[seg::SS].selector, 0);
    assert_eq!(st.gpr[gpr::RSP], 0x9000 - 48, "the stack was aligned to 16 bytes first");
    let expected =
        [6, 0x5000, u64::from(sel::CODE64_3), flags::RF | flags::IF | 2, 0x8000, u64::from(sel::DATA3)];
    assert_eq!(frame(&bus, 0x9000 - 48, 8, 6), expected);
    st.gpr[gpr::RSP] += 8;
    iret(&mut st, &mut bus, 8, 0).unwrap();
    assert_eq!((st.rip, st.cpl(), st.gpr[gpr::RSP]), (0x5000, 3, 0x8000));
    assert_eq!(st.seg[seg::SS].selector, sel::DATA3);
}

#[test]
fn long_mode_ist_and_same_level_returns() {
    let (mut st, mut bus) = long("max", 0);
    set_gate64(&mut bus, vector::NMI, 0x8e, sel::CODE64, 0x7000, 1);
    let ss = st.seg[seg::SS];
    nmi(&mut st, &mut bus);
    assert_eq!((st.rip, st.gpr[gpr::RSP], st.nmi_blocked), (0x7000, 0xa000 - 40, 1));
    assert_eq!(st.seg[seg::SS], ss, "no change of level: SS stays");
    iret(&mut st, &mut bus, 8, 0).unwrap();
    assert_eq!((st.rip, st.gpr[gpr::RSP], st.nmi_blocked), (0x5000, 0x8000, 0));
}

#[test]
fn long_mode_refuses_gates_to_32_bit_code() {
    let (mut st, mut bus) = long("max", 0);
    set_gate64(&mut bus, vector::GP, 0x8e, sel::CODE64, 0x7000, 0);
    set_gate64(&mut bus, 0x30, 0x8e, sel::CODE0, 0x100, 0);
    external(&mut st, &mut bus, 0x30);
    assert_eq!((st.rip, bus.get(st.gpr[gpr::RSP], 8)), (0x7000, u64::from(sel::CODE0) | 1));
}

#[test]
fn iretq_refuses_a_non_canonical_target_and_leaves_the_state() {
    let (mut st, mut bus) = long("max", 0);
    let values = [0x8000_0000_0000, u64::from(sel::CODE64_3), 2, 0x8000, u64::from(sel::DATA3)];
    for (i, value) in values.into_iter().enumerate() {
        bus.put(0x8000 + 8 * i as u64, 8, value);
    }
    let before = (st.gpr, st.seg, st.rip);
    assert_eq!(iret(&mut st, &mut bus, 8, 0), Err(Exception::gp(0)));
    assert_eq!((st.gpr, st.seg, st.rip), before);
}

#[test]
fn iret_to_a_lower_level_is_refused_by_selector() {
    let (mut st, mut bus) = protected("max", 3);
    for (i, value) in [0x100, u64::from(sel::CODE0), 2].into_iter().enumerate() {
        bus.put(0x8000 + 4 * i as u64, 4, value);
    }
    assert_eq!(iret(&mut st, &mut bus, 4, 0), Err(Exception::gp(u32::from(sel::CODE0))));
}

#[test]
fn iret_at_cpl3_cannot_change_if_and_iopl() {
    let (mut st, mut bus) = protected("max", 3);
    for (i, value) in [0x100, u64::from(sel::CODE3), flags::IOPL | flags::CF].into_iter().enumerate() {
        bus.put(0x8000 + 4 * i as u64, 4, value);
    }
    st.set_rflags(flags::IF | 2);
    iret(&mut st, &mut bus, 4, 0).unwrap();
    assert_eq!(st.rflags(), flags::IF | flags::CF | 2);
}

fn enter_vm86(iopl: u64) -> (X86State, TestBus) {
    let (mut st, mut bus) = protected("max", 0);
    let image = flags::VM | flags::IF | iopl << 12 | 2;
    for (i, value) in [0x10, 0x800, image, 0x200, 0x900, 0xa00, 0xb00, 0xc00, 0xd00].into_iter().enumerate() {
        bus.put(0x8000 + 4 * i as u64, 4, value);
    }
    iret(&mut st, &mut bus, 4, 0).unwrap();
    (st, bus)
}

#[test]
fn iret_enters_virtual_8086_mode_and_interrupts_leave_it() {
    let (mut st, mut bus) = enter_vm86(3);
    assert_eq!(st.cpl(), 3);
    let bases: Vec<u64> = st.seg.iter().map(|s| s.base).collect();
    assert_eq!(bases, [0xa000, 0x8000, 0x9000, 0xb000, 0xc000, 0xd000]);
    assert_eq!((st.rip, st.gpr[gpr::RSP]), (0x10, 0x200));
    set_gate32(&mut bus, 0x21, 0xee, sel::CODE0, 0x4000);
    software(&mut st, &mut bus, SoftwareInterrupt::IntN(0x21), 0x12).unwrap();
    assert_eq!((st.rip, st.cpl(), st.rflags & flags::VM), (0x4000, 0, 0));
    let image = flags::VM | flags::IF | flags::IOPL | 2;
    let expected = [0x12, 0x800, image, 0x200, 0x900, 0xa00, 0xb00, 0xc00, 0xd00];
    assert_eq!(frame(&bus, 0x9000 - 36, 4, 9), expected);
    assert!([seg::DS, seg::ES, seg::FS, seg::GS].iter().all(|&s| st.seg[s].attr & attr::P == 0));
    iret(&mut st, &mut bus, 4, 0).unwrap();
    assert_eq!((st.rip, st.seg[seg::GS].base), (0x12, 0xd000));
}

#[test]
fn int_n_in_virtual_8086_mode_needs_iopl_3() {
    let (mut st, mut bus) = enter_vm86(0);
    set_gate32(&mut bus, 0x21, 0xee, sel::CODE0, 0x4000);
    set_gate32(&mut bus, 3, 0xee, sel::CODE0, 0x4000);
    let int21 = SoftwareInterrupt::IntN(0x21);
    assert_eq!(software(&mut st, &mut bus, int21, 0x12), Err(Exception::gp(0)));
    assert!(software(&mut st, &mut bus, SoftwareInterrupt::Int3, 0x11).is_ok());
}

#[test]
fn vme_redirects_int_n_to_the_programs_own_handler() {
    let (mut st, mut bus) = enter_vm86(0);
    st.cr[4] |= 1;
    st.rflags |= flags::VIF;
    // The redirection bitmap is the 32 bytes below the I/O map.
    bus.put(TSS + 0x66, 2, 0x88);
    bus.put(0x21 * 4, 4, 0x0123_0456);
    software(&mut st, &mut bus, SoftwareInterrupt::IntN(0x21), 0x12).unwrap();
    assert_eq!((st.rip, st.seg[seg::CS].selector), (0x456, 0x123));
    assert_eq!(st.rflags & (flags::VIF | flags::VM), flags::VM);
    let image = flags::IF | flags::IOPL | 2;
    assert_eq!(frame(&bus, 0x9000 + 0x1fa, 2, 3), [0x12, 0x800, image]);
    bus.put(TSS + 0x68 + 4, 1, 2);
    let int21 = SoftwareInterrupt::IntN(0x21);
    assert_eq!(software(&mut st, &mut bus, int21, 0x12), Err(Exception::gp(0)));
}

#[test]
fn a_stack_that_cannot_be_written_is_a_double_fault_on_the_ist() {
    let (mut st, mut bus) = long("max", 3);
    set_gate64(&mut bus, vector::GP, 0x8e, sel::CODE64, 0x7000, 0);
    set_gate64(&mut bus, vector::PF, 0x8e, sel::CODE64, 0x7100, 0);
    set_gate64(&mut bus, vector::DF, 0x8e, sel::CODE64, 0x7200, 1);
    bus.put(TSS + 4, 8, 0x8000_0000);
    // #GP, whose delivery page-faults, is handled as a page fault; that faults too, so #DF.
    raise(&mut st, &mut bus, Exception::gp(0));
    assert_eq!((st.rip, st.gpr[gpr::RSP]), (0x7200, 0xa000 - 48));
    assert_eq!(bus.get(0xa000 - 48, 8), 0);
    assert_eq!(st.cr[2], 0x8000_0000 - 8);
    assert_eq!(st.cr[0] & cr0::PE, 1);
    assert_eq!(bus.get(GDT, 8), 0);
}

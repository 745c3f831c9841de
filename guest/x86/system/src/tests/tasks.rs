use rhea_x86_state::X86State;
use rhea_x86_state::control::{cr0, dr6};
use rhea_x86_state::flags;
use rhea_x86_state::state::{gpr, seg};

use crate::exception::{Exception, vector};
use crate::far;
use crate::interrupt::raise;
use crate::iret::iret;
use crate::task::check_io;
use crate::test_bus::{GDT, IDT, TSS, TestBus, gate, protected, sel, system};

const OTHER: u64 = 0x6000;

/// A second 32-bit task at `OTHER` that starts at 7000h in ring 0.
fn two_tasks(ring: u8) -> (X86State, TestBus) {
    let (st, mut bus) = protected("max", ring);
    bus.put(GDT + u64::from(sel::TSS2), 8, system(0xe9, OTHER, 0x67));
    bus.put(OTHER + 0x20, 4, 0x7000);
    bus.put(OTHER + 0x24, 4, flags::CF | 2);
    for i in 0..8 {
        bus.put(OTHER + 0x28 + 4 * i, 4, 0x100 + i);
    }
    bus.put(OTHER + 0x38, 4, 0xb000);
    for register in 0..6 {
        let selector = if register == seg::CS as u64 { sel::CODE0 } else { sel::DATA0 };
        bus.put(OTHER + 0x48 + 4 * register, 2, u64::from(selector));
    }
    (st, bus)
}

fn busy(bus: &TestBus, selector: u16) -> bool {
    bus.get(GDT + u64::from(selector) + 5, 1) & 2 != 0
}

#[test]
fn a_far_call_nests_a_task_and_iret_returns() {
    let (mut st, mut bus) = two_tasks(3);
    st.gpr[gpr::RBX] = 0xbbbb;
    st.set_rflags(flags::IF | 2);
    far::call(&mut st, &mut bus, sel::TSS2, 0, 4, 0x5007).unwrap();
    assert_eq!((st.rip, st.cpl(), st.gpr[gpr::RSP], st.gpr[gpr::RDI]), (0x7000, 0, 0xb000, 0x107));
    assert_eq!(st.rflags(), flags::CF | flags::NT | 2);
    assert_ne!(st.cr[0] & cr0::TS, 0);
    assert!(busy(&bus, sel::TSS) && busy(&bus, sel::TSS2));
    assert_eq!(bus.get(OTHER, 2), u64::from(sel::TSS));
    assert_eq!((bus.get(TSS + 0x20, 4), bus.get(TSS + 0x34, 4)), (0x5007, 0xbbbb));

    iret(&mut st, &mut bus, 4, 0x7001).unwrap();
    assert_eq!((st.rip, st.cpl(), st.gpr[gpr::RBX]), (0x5007, 3, 0xbbbb));
    assert_eq!(st.rflags(), flags::IF | 2);
    assert!(busy(&bus, sel::TSS) && !busy(&bus, sel::TSS2));
    assert_eq!(bus.get(OTHER + 0x20, 4), 0x7001);
    assert_eq!(bus.get(OTHER + 0x24, 4) & flags::NT, 0);
}

#[test]
fn a_jump_moves_the_busy_bit() {
    let (mut st, mut bus) = two_tasks(0);
    far::jump(&mut st, &mut bus, sel::TSS2, 0, 4, 0x5007).unwrap();
    assert!(!busy(&bus, sel::TSS) && busy(&bus, sel::TSS2));
    assert_eq!(st.rflags & flags::NT, 0);
    let again = far::jump(&mut st, &mut bus, sel::TSS2, 0, 4, 0);
    assert_eq!(again, Err(Exception::gp(u32::from(sel::TSS2))), "busy");
}

#[test]
fn a_short_tss_is_refused_before_anything_changes() {
    let (mut st, mut bus) = two_tasks(0);
    bus.put(GDT + u64::from(sel::TSS2), 8, system(0xe9, OTHER, 0x66));
    let refused = far::jump(&mut st, &mut bus, sel::TSS2, 0, 4, 0);
    assert_eq!(refused, Err(Exception::ts(u32::from(sel::TSS2))));
    assert_eq!((st.rip, st.tr.selector, bus.get(TSS + 0x20, 4)), (0x5000, sel::TSS, 0));
}

#[test]
fn a_bad_segment_faults_inside_the_new_task() {
    let (mut st, mut bus) = two_tasks(0);
    bus.put(OTHER + 0x54, 2, u64::from(sel::TSS));
    let fault = far::jump(&mut st, &mut bus, sel::TSS2, 0, 4, 0x5007);
    assert_eq!(fault, Err(Exception::ts(u32::from(sel::TSS))));
    assert_eq!((st.rip, st.tr.selector), (0x7000, sel::TSS2));
}

#[test]
fn the_trap_flag_of_a_task_is_a_debug_trap() {
    let (mut st, mut bus) = two_tasks(0);
    bus.put(OTHER + 0x64, 2, 1);
    let trap = far::jump(&mut st, &mut bus, sel::TSS2, 0, 4, 0);
    assert_eq!(trap, Err(Exception::debug_trap(dr6::BT)));
    assert_eq!(st.rip, 0x7000);
}

#[test]
fn a_task_gate_in_the_idt_pushes_the_error_code_on_the_new_stack() {
    let (mut st, mut bus) = two_tasks(3);
    bus.put(IDT + 8 * u64::from(vector::DF), 8, gate(0x85, sel::TSS2, 0, 0));
    raise(&mut st, &mut bus, Exception::with_code(vector::DF, 0));
    assert_eq!((st.rip, st.gpr[gpr::RSP]), (0x7000, 0xb000 - 4));
    assert_ne!(st.rflags & flags::NT, 0);
    assert_eq!(bus.get(TSS + 0x20, 4), 0x5000);
}

#[test]
fn sixteen_bit_tasks_switch_too() {
    let (mut st, mut bus) = protected("max", 0);
    bus.put(GDT + u64::from(sel::TSS2), 8, system(0x81, OTHER, 0x2b));
    bus.put(OTHER + 0x0e, 2, 0x7000);
    bus.put(OTHER + 0x10, 2, 2);
    bus.put(OTHER + 0x1a, 2, 0xb000);
    for (i, selector) in [sel::DATA0, sel::CODE0, sel::DATA0, sel::DATA0].into_iter().enumerate() {
        bus.put(OTHER + 0x22 + 2 * i as u64, 2, u64::from(selector));
    }
    far::jump(&mut st, &mut bus, sel::TSS2, 0, 4, 0x5007).unwrap();
    assert_eq!((st.rip, st.gpr[gpr::RSP], st.seg[seg::FS].selector), (0x7000, 0xb000, 0));
}

#[test]
fn the_io_bitmap_decides_outside_iopl() {
    let (mut st, mut bus) = protected("max", 3);
    let denied = Err(Exception::gp(0));
    bus.put(TSS + 0x68 + 0x3f8 / 8, 1, 0b0000_0001);
    assert_eq!(check_io(&mut st, &mut bus, 0x3f8, 1), denied);
    assert_eq!(check_io(&mut st, &mut bus, 0x3f9, 1), Ok(()));
    assert_eq!(check_io(&mut st, &mut bus, 0x3f7, 2), denied);
    assert_eq!(check_io(&mut st, &mut bus, 0x3f4, 4), Ok(()));
    st.tr.limit = 0x68 + 0x7f;
    assert_eq!(check_io(&mut st, &mut bus, 0x3f9, 1), denied, "the map ends one byte later");
    st.rflags |= flags::IOPL;
    assert_eq!(check_io(&mut st, &mut bus, 0x3f8, 1), Ok(()));
}

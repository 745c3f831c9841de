use rhea_x86_state::flags;
use rhea_x86_state::state::{attr, gpr, seg};

use crate::exception::Exception;
use crate::far;
use crate::segment::{arpl, lar, lldt, load, lsl, ltr, verr, verw};
use crate::test_bus::{GDT, LDT, TSS, TestBus, flat, gate, long, protected, sel, system};

fn put(bus: &mut TestBus, selector: u16, descriptor: u64) {
    bus.put(GDT + u64::from(selector & !7), 8, descriptor);
}

fn gp(selector: u16) -> Exception {
    Exception::gp(u32::from(selector & !3))
}

#[test]
fn data_segment_loads_are_checked_in_order() {
    let (mut st, mut bus) = protected("max", 3);
    let mut ds = |selector| load(&mut st, &mut bus, seg::DS, selector);
    assert_eq!(ds(0), Ok(()));
    assert_eq!(ds(sel::DATA3), Ok(()));
    assert_eq!(ds(sel::DATA0), Err(gp(sel::DATA0)));
    assert_eq!(ds(sel::CODE3), Ok(()));
    assert_eq!(ds(sel::CONFORMING), Ok(()), "conforming code has no privilege check");
    assert_eq!(ds(sel::TSS), Err(gp(sel::TSS)));
    assert_eq!(ds(0x90), Err(gp(0x90)), "beyond the limit");
    assert_eq!(ds(sel::DATA3 | 4), Err(gp(sel::DATA3 | 4)), "no LDT");
}

#[test]
fn absent_segments_are_np_and_for_ss_a_stack_fault() {
    let (mut st, mut bus) = protected("max", 0);
    assert_eq!(load(&mut st, &mut bus, seg::ES, sel::ABSENT), Err(Exception::np(u32::from(sel::ABSENT))));
    assert_eq!(load(&mut st, &mut bus, seg::SS, sel::ABSENT), Err(Exception::ss(u32::from(sel::ABSENT))));
    assert_eq!(load(&mut st, &mut bus, seg::SS, sel::READ_ONLY), Err(gp(sel::READ_ONLY)));
    assert_eq!(load(&mut st, &mut bus, seg::SS, 0), Err(Exception::gp(0)));
    assert_eq!(load(&mut st, &mut bus, seg::SS, sel::DATA0 | 3), Err(gp(sel::DATA0)));
}

#[test]
fn a_load_sets_the_accessed_bit_and_the_hidden_part() {
    let (mut st, mut bus) = protected("max", 0);
    put(&mut bus, sel::DATA0, 0x1240_9234_5678_9abc);
    load(&mut st, &mut bus, seg::FS, sel::DATA0).unwrap();
    let fs = st.seg[seg::FS];
    assert_eq!((fs.base, fs.limit, fs.attr), (0x1234_5678, 0x9abc, 0x0040_9300));
    assert_eq!(bus.get(GDT + u64::from(sel::DATA0) + 5, 1), 0x93);
}

#[test]
fn null_ss_is_fine_in_64_bit_mode_below_ring_3() {
    let (mut st, mut bus) = long("max", 0);
    load(&mut st, &mut bus, seg::SS, 0).unwrap();
    assert_eq!(st.cpl(), 0);
    let (mut st, mut bus) = long("max", 3);
    assert_eq!(load(&mut st, &mut bus, seg::SS, 3), Err(Exception::gp(0)));
}

#[test]
fn real_mode_loads_keep_a_large_limit() {
    let mut bus = TestBus::new("max");
    let mut st = bus.model.reset_state(true);
    st.seg[seg::DS].limit = u32::MAX;
    load(&mut st, &mut bus, seg::DS, 0x1234).unwrap();
    assert_eq!((st.seg[seg::DS].base, st.seg[seg::DS].limit), (0x1_2340, u32::MAX));
}

#[test]
fn ltr_marks_the_task_busy_once() {
    let (mut st, mut bus) = protected("max", 0);
    assert_eq!(ltr(&mut st, &mut bus, sel::TSS), Err(gp(sel::TSS)), "already busy");
    put(&mut bus, sel::TSS2, system(0x89, 0x12_3456, 0x67));
    ltr(&mut st, &mut bus, sel::TSS2).unwrap();
    assert_eq!((st.tr.base, st.tr.selector), (0x12_3456, sel::TSS2));
    assert_eq!(bus.get(GDT + u64::from(sel::TSS2) + 5, 1), 0x8b);
    assert_eq!(ltr(&mut st, &mut bus, 0), Err(Exception::gp(0)));
    lldt(&mut st, &mut bus, sel::LDT).unwrap();
    assert_eq!((st.ldtr.base, st.ldtr.limit), (LDT, 0xff));
    let (mut user, mut bus) = protected("max", 3);
    assert_eq!(lldt(&mut user, &mut bus, sel::LDT), Err(Exception::gp(0)));
}

#[test]
fn long_mode_system_descriptors_have_16_bytes() {
    let (mut st, mut bus) = long("max", 0);
    put(&mut bus, sel::TSS2, system(0x89, 0x12_3456, 0x67));
    put(&mut bus, sel::TSS2 + 8, 0xffff_8000);
    ltr(&mut st, &mut bus, sel::TSS2).unwrap();
    assert_eq!(st.tr.base, 0xffff_8000_0012_3456);
    put(&mut bus, sel::TSS2, system(0x89, 0, 0x67));
    put(&mut bus, sel::TSS2 + 8, 0x0000_8000);
    assert_eq!(ltr(&mut st, &mut bus, sel::TSS2), Err(gp(sel::TSS2)), "not canonical");
}

#[test]
fn questions_about_selectors_answer_by_privilege_and_type() {
    let (mut st, mut bus) = protected("max", 3);
    let (st, bus) = (&mut st, &mut bus);
    assert_eq!(lar(st, bus, sel::DATA3), Ok(Some(0x00c0_f300)));
    assert_eq!(lar(st, bus, sel::DATA0), Ok(None));
    assert_eq!(lsl(st, bus, sel::CODE3), Ok(Some(u32::MAX)));
    assert_eq!((verr(st, bus, sel::CODE3), verw(st, bus, sel::CODE3)), (Ok(true), Ok(false)));
    assert_eq!((verr(st, bus, sel::DATA0), verw(st, bus, sel::DATA3)), (Ok(false), Ok(true)));
    assert_eq!(lar(st, bus, 0), Ok(None));
    assert_eq!(arpl(st, 0x10, 3), Ok(Some(0x13)));
    assert_eq!(arpl(st, 0x13, 2), Ok(None));
    put(bus, sel::GATE, gate(0xe6, sel::CODE0, 0, 0));
    assert_eq!(lar(st, bus, sel::GATE), Ok(None), "interrupt gates have no access rights to tell");
    let (mut real, mut bus) = (bus.model.reset_state(true), TestBus::new("max"));
    assert_eq!(lar(&mut real, &mut bus, 8), Err(Exception::ud()));
}

#[test]
fn far_jumps_check_privilege_and_limit() {
    let (mut st, mut bus) = protected("max", 3);
    let mut jump = |selector, offset| far::jump(&mut st, &mut bus, selector, offset, 4, 0);
    assert_eq!(jump(sel::CODE3, 0x1234), Ok(()));
    assert_eq!(jump(sel::CODE0, 0), Err(gp(sel::CODE0)));
    assert_eq!(jump(sel::CONFORMING, 0x10), Ok(()));
    assert_eq!(jump(0, 0), Err(Exception::gp(0)));
    assert_eq!(jump(sel::DATA3, 0), Err(gp(sel::DATA3)));
    assert_eq!((st.cpl(), st.rip, st.seg[seg::CS].selector), (3, 0x10, sel::CONFORMING | 3));
    put(&mut bus, sel::CODE3, flat(0xfb, 0x4) & !(0xf << 48));
    let beyond = far::jump(&mut st, &mut bus, sel::CODE3, 0x1_0000, 4, 0);
    assert_eq!(beyond, Err(Exception::gp(0)));
}

#[test]
fn call_gates_change_the_stack_and_copy_parameters() {
    let (mut st, mut bus) = protected("max", 3);
    put(&mut bus, sel::GATE, gate(0xec, sel::CODE0, 0x1234, 2));
    bus.put(0x8000, 4, 0x1111);
    bus.put(0x8004, 4, 0x2222);
    far::call(&mut st, &mut bus, sel::GATE | 3, 0, 4, 0x5007).unwrap();
    assert_eq!((st.rip, st.cpl(), st.gpr[gpr::RSP]), (0x1234, 0, 0x9000 - 24));
    let pushed: Vec<u64> = (0..6).map(|i| bus.get(0x9000 - 24 + 4 * i, 4)).collect();
    let (cs, ss) = (u64::from(sel::CODE3), u64::from(sel::DATA3));
    assert_eq!(pushed, [0x5007, cs, 0x1111, 0x2222, 0x8000, ss]);
    // RET 8 goes back and releases the parameters on both stacks.
    far::ret(&mut st, &mut bus, 4, 8).unwrap();
    assert_eq!((st.rip, st.cpl(), st.gpr[gpr::RSP]), (0x5007, 3, 0x8008));
}

#[test]
fn a_call_gate_needs_a_valid_inner_stack() {
    let (mut st, mut bus) = protected("max", 3);
    put(&mut bus, sel::GATE, gate(0xec, sel::CODE0, 0x1234, 0));
    bus.put(TSS + 8, 2, u64::from(sel::DATA3));
    let refused = far::call(&mut st, &mut bus, sel::GATE, 0, 4, 0);
    assert_eq!(refused, Err(Exception::ts(u32::from(sel::DATA3 & !3))));
    st.tr.limit = 5;
    let refused = far::call(&mut st, &mut bus, sel::GATE, 0, 4, 0);
    assert_eq!(refused, Err(Exception::ts(u32::from(sel::TSS))));
    put(&mut bus, sel::GATE, gate(0x8c, sel::CODE0, 0x1234, 0));
    assert_eq!(far::call(&mut st, &mut bus, sel::GATE, 0, 4, 0), Err(gp(sel::GATE)));
}

#[test]
fn long_mode_call_gates_push_quadwords() {
    let (mut st, mut bus) = long("max", 3);
    put(&mut bus, sel::GATE, gate(0xec, sel::CODE64, 0x1234, 5));
    put(&mut bus, sel::GATE + 8, 0xffff_8000);
    far::call(&mut st, &mut bus, sel::GATE | 3, 0, 4, 0x5007).unwrap();
    assert_eq!((st.rip, st.gpr[gpr::RSP], st.cpl()), (0xffff_8000_0000_1234, 0x9000 - 32, 0));
    assert_eq!(st.seg[seg::SS].selector, 0);
    far::ret(&mut st, &mut bus, 8, 0).unwrap();
    assert_eq!((st.rip, st.gpr[gpr::RSP], st.cpl()), (0x5007, 0x8000, 3));
}

#[test]
fn compatibility_mode_is_reached_by_far_return() {
    let (mut st, mut bus) = long("max", 0);
    for (i, value) in [0x1_0000_1234, u64::from(sel::CODE0)].into_iter().enumerate() {
        bus.put(0x8000 + 8 * i as u64, 8, value);
    }
    assert_eq!(far::ret(&mut st, &mut bus, 8, 0), Err(Exception::gp(0)), "beyond the limit");
    bus.put(0x8000, 8, 0x1234);
    far::ret(&mut st, &mut bus, 8, 0).unwrap();
    assert_eq!((st.rip, st.seg[seg::CS].attr & attr::L), (0x1234, 0));
}

#[test]
fn a_64_bit_segment_with_d_set_is_refused() {
    let (mut st, mut bus) = long("max", 0);
    put(&mut bus, sel::CODE64, flat(0x9b, 0xe));
    assert_eq!(far::jump(&mut st, &mut bus, sel::CODE64, 0, 4, 0), Err(gp(sel::CODE64)));
}

#[test]
fn real_mode_far_calls_push_words() {
    let mut bus = TestBus::new("max");
    let mut st = bus.model.reset_state(true);
    st.gpr[gpr::RSP] = 0x1000;
    far::call(&mut st, &mut bus, 0x1234, 0x10, 2, 0x205).unwrap();
    assert_eq!((st.rip, st.seg[seg::CS].base, st.gpr[gpr::RSP]), (0x10, 0x1_2340, 0xffc));
    assert_eq!((bus.get(0xffc, 2), bus.get(0xffe, 2)), (0x205, 0xf000));
    far::ret(&mut st, &mut bus, 2, 0).unwrap();
    assert_eq!((st.rip, st.seg[seg::CS].selector), (0x205, 0xf000));
    assert_eq!(st.rflags & flags::VM, 0);
}

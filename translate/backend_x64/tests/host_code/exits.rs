//! How units are left and joined.

use crate::world::{self, World};
use rhea_backend_x64::{Features, ReturnKind};
use rhea_ir::{Builder, Exit, Slot, Target, Type, Unit};

const PC: u64 = 0x40_1000;
const COUNTER: Slot = Slot::new(64, Type::I64);
const HOT: Slot = Slot::new(8, Type::I64);

/// A unit at `pc` that adds `step` to a plain and to a pinned slot and leaves as `exit` says.
fn unit(pc: u64, step: u64, exit: impl FnOnce(&mut Builder) -> Exit) -> Unit {
    let mut b = Builder::new();
    b.start(pc);
    b.insn(pc, 4);
    for slot in [COUNTER, HOT] {
        let v = b.get(slot);
        let v = b.add_imm(v, step);
        b.put(slot, v);
    }
    let exit = exit(&mut b);
    b.exit(exit);
    b.unit.len = 4;
    b.unit
}

fn jump(to: u64) -> impl FnOnce(&mut Builder) -> Exit {
    move |_| Exit::Jump(Target::Static(to))
}

fn fresh(world: &mut World) {
    let image = world::Image { state: vec![0; world::STATE_BYTES], memory: vec![0; world::MEMORY_BYTES] };
    world.load_image(&image);
}

fn counters(world: &mut World) -> (u64, u64) {
    (world.get_u64(COUNTER.offset as i32), world.get_u64(HOT.offset as i32))
}

#[test]
fn an_unpatched_jump_reports_itself() {
    let mut world = World::new(Features::detect(), 8);
    let (a, sites) = world.place(&unit(PC, 1, jump(PC + 0x40)));
    fresh(&mut world);
    assert_eq!(world.enter_at(a), (ReturnKind::Chain, sites[0].exit_id));
    assert_eq!(world.pc(), PC + 0x40);
    assert_eq!(counters(&mut world), (1, 1));
}

#[test]
fn a_patched_jump_goes_on_to_the_next_unit() {
    let mut world = World::new(Features::detect(), 8);
    let (a, sites) = world.place(&unit(PC, 1, jump(PC + 0x40)));
    let (b, _) = world.place(&unit(PC + 0x40, 10, |_| Exit::Leave { reason: 7, pc: Some(PC) }));
    world.link(a, &sites[0], b);
    fresh(&mut world);
    assert_eq!(world.enter_at(a).0, ReturnKind::Leave);
    assert_eq!(world.get_u64(world::LEAVE_REASON) as u32, 8);
    assert_eq!(counters(&mut world), (11, 11));
}

#[test]
fn a_back_edge_polls() {
    let mut world = World::new(Features::detect(), 8);
    let (a, sites) = world.place(&unit(PC, 1, jump(PC)));
    world.link(a, &sites[0], a);
    fresh(&mut world);
    world.set_u32(world::POLL, 1);
    assert_eq!(world.enter_at(a).0, ReturnKind::Poll);
    assert_eq!(world.pc(), PC);
    assert_eq!(counters(&mut world), (1, 1));
}

#[test]
fn a_jump_to_another_page_goes_through_the_jump_cache() {
    let mut world = World::new(Features::detect(), 8);
    let (a, sites) = world.place(&unit(PC, 1, jump(PC + 0x2000)));
    assert!(sites.is_empty());
    let (b, _) = world.place(&unit(PC + 0x2000, 10, jump(PC + 0x2040)));
    fresh(&mut world);
    assert_eq!(world.enter_at(a).0, ReturnKind::Lookup);
    assert_eq!(world.pc(), PC + 0x2000);
    fresh(&mut world);
    world.cache_jump(PC + 0x2000, b);
    assert_eq!(world.enter_at(a).0, ReturnKind::Chain);
    assert_eq!(counters(&mut world), (11, 11));
}

#[test]
fn a_computed_jump_goes_through_the_jump_cache() {
    let mut world = World::new(Features::detect(), 8);
    let dynamic = |b: &mut Builder| Exit::Jump(Target::Dynamic(b.get(Slot::new(72, Type::I64))));
    let (a, _) = world.place(&unit(PC, 1, dynamic));
    let (b, _) = world.place(&unit(PC + 0x123, 10, jump(PC + 0x140)));
    fresh(&mut world);
    world.set_u64(72, PC + 0x123);
    world.cache_jump(PC + 0x123, b);
    assert_eq!(world.enter_at(a).0, ReturnKind::Chain);
    assert_eq!(counters(&mut world), (11, 11));
}

#[test]
fn a_return_finds_its_call() {
    let mut world = World::new(Features::detect(), 8);
    let call = |_: &mut Builder| Exit::Call { target: Target::Static(PC + 0x80), return_pc: PC + 4 };
    let ret = |b: &mut Builder| Exit::Return(b.get(Slot::new(72, Type::I64)));
    let (caller, sites) = world.place(&unit(PC, 1, call));
    let (callee, _) = world.place(&unit(PC + 0x80, 10, ret));
    let to_callee = *sites.iter().find(|s| s.pc == PC + 0x80).unwrap();
    let landing = *sites.iter().find(|s| s.pc == PC + 4).unwrap();
    world.link(caller, &to_callee, callee);
    fresh(&mut world);
    world.set_u64(72, PC + 4);
    // Nothing is in the jump cache, so only the return stack can have led to the landing stub.
    assert_eq!(world.enter_at(caller), (ReturnKind::Chain, landing.exit_id));
    assert_eq!(world.pc(), PC + 4);
    assert_eq!(counters(&mut world), (11, 11));
    // A return elsewhere is looked up.
    fresh(&mut world);
    world.set_u64(72, PC + 0x99);
    assert_eq!(world.enter_at(caller).0, ReturnKind::Lookup);
    assert_eq!(world.pc(), PC + 0x99);
}

#[test]
fn an_exhausted_budget_stops_at_the_entry() {
    let mut layout = world::layout(Features::detect(), 8);
    layout.frame.icount = Some(world::ICOUNT);
    let mut world = World::with_layout(layout);
    let (a, sites) = world.place(&unit(PC, 1, jump(PC)));
    world.link(a, &sites[0], a);
    fresh(&mut world);
    world.set_u64(world::ICOUNT, 5);
    assert_eq!(world.enter_at(a).0, ReturnKind::Poll);
    assert_eq!(world.pc(), PC);
    assert_eq!(counters(&mut world), (5, 5));
    assert_eq!(world.get_u64(world::ICOUNT), 0);
}

#[test]
fn without_chaining_every_exit_returns() {
    let mut layout = world::layout(Features::detect(), 8);
    layout.no_chain = true;
    let mut world = World::with_layout(layout);
    for exit in [Exit::Jump(Target::Static(PC)), Exit::Call { target: Target::Static(PC), return_pc: PC + 4 }]
    {
        let (a, sites) = world.place(&unit(PC, 1, |_| exit));
        assert!(sites.is_empty());
        fresh(&mut world);
        assert_eq!(world.enter_at(a).0, ReturnKind::Lookup);
        assert_eq!(world.pc(), PC);
    }
}

#[test]
fn a_unit_may_be_compiled_after_one_that_has_no_code() {
    let mut world = World::new(Features::default(), 8);
    let mut b = Builder::new();
    b.start(PC);
    b.insn(PC, 1);
    let v = b.get(Slot::new(256, Type::V256));
    b.put(Slot::new(288, Type::V256), v);
    b.jump(PC + 1);
    // Without AVX2 there are no 256-bit registers.
    assert!(world.compile(&b.unit).is_err());
    let (a, _) = world.place(&unit(PC, 1, jump(PC + 0x40)));
    fresh(&mut world);
    assert_eq!(world.enter_at(a).0, ReturnKind::Chain);
}

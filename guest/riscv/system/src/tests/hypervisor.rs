//! The hypervisor extension, where another implementation is no measure: what QEMU does as the specification says is
//! compared by a program in `machines/riscv_virt/tests/hypervisor`.

use rhea_riscv_state::RiscvState;
use rhea_riscv_state::csr as n;
use rhea_riscv_state::state::{Privilege, hstatus, mmu, mstatus};

use crate::exception::{Cause, Exception};
use crate::interrupt::{self, STCE, bit};
use crate::paging::{ADUE, Access, AccessKind, Translation, pte, translate};
use crate::privileged::{self, CacheBlock, HypervisorFence};
use crate::test_bus::{BITS, TestBus, hart, open_pmp, read, set_privilege, units_on, write};
use crate::trap;

const ILLEGAL: Exception = Exception::illegal(BITS);
const VIRTUAL: Exception = Exception::virtual_instruction(BITS);

fn enter(st: &mut RiscvState, privilege: Privilege, is_virtual: bool) {
    st.virtualization = is_virtual.into();
    set_privilege(st, privilege);
}

#[test]
fn a_hart_without_it_has_none_of_its_registers_and_instructions() {
    let (mut st, mut bus) = hart("rv64,h=off");
    for number in [n::HSTATUS, n::HGATP, n::VSSTATUS, n::VSATP, n::MTVAL2, n::MTINST, n::HGEIP] {
        assert_eq!(read(&mut st, &mut bus, number), Err(ILLEGAL), "{number:#x}");
    }
    assert_eq!(privileged::hfence(&st, HypervisorFence::Virtual, None, None, BITS), Err(ILLEGAL));
    assert_eq!(privileged::hypervisor_access(&st, BITS), Err(ILLEGAL));
    write(&mut st, &mut bus, n::MSTATUS, mstatus::MPV).unwrap();
    write(&mut st, &mut bus, n::MIDELEG, u64::MAX).unwrap();
    write(&mut st, &mut bus, n::MIE, u64::MAX).unwrap();
    assert_eq!((st.m.mstatus & mstatus::MPV, st.m.mideleg & 0x1444, st.m.mie & 0x1444), (0, 0, 0));
}

#[test]
fn what_the_hypervisor_could_do_is_a_virtual_instruction_to_its_guest() {
    let (mut st, mut bus) = hart("max");
    st.m.mstateen[0] = u64::MAX;
    units_on(&mut st);
    st.m.mstatus |= mstatus::TVM;
    for number in [n::SSTATUS, n::SATP, n::SCOUNTEREN, n::STVAL, n::SENVCFG, n::HSTATUS, n::HGATP, n::VSATP] {
        enter(&mut st, Privilege::User, true);
        assert_eq!(read(&mut st, &mut bus, number), Err(VIRTUAL), "{number:#x}");
        enter(&mut st, Privilege::User, false);
        assert_eq!(read(&mut st, &mut bus, number), Err(ILLEGAL), "{number:#x}");
    }
    enter(&mut st, Privilege::Supervisor, true);
    assert_eq!(read(&mut st, &mut bus, n::SATP), Ok(0), "TVM is of no concern to a guest");
    assert_eq!(write(&mut st, &mut bus, n::HGEIP, 0), Err(ILLEGAL), "nobody can write it");
    assert_eq!(read(&mut st, &mut bus, n::MSTATUS), Err(ILLEGAL));
    // What machine mode keeps from the hypervisor is illegal to the guest too.
    st.m.mstateen[0] = 0;
    assert_eq!(read(&mut st, &mut bus, n::HENVCFG), Err(ILLEGAL));
    assert_eq!(read(&mut st, &mut bus, n::SENVCFG), Err(ILLEGAL));
    st.m.mstateen[0] = u64::MAX;
    assert_eq!(read(&mut st, &mut bus, n::SENVCFG), Err(VIRTUAL), "hstateen has it closed");
    st.h.hstateen[0] = u64::MAX;
    assert_eq!(read(&mut st, &mut bus, n::SENVCFG), Ok(0));
}

#[test]
fn supervisor_instructions_trap_by_mode_and_control() {
    let (mut st, mut bus) = hart("max");
    let bits = [0, mstatus::TSR | mstatus::TVM | mstatus::TW];
    for (status, control) in
        bits.into_iter().flat_map(|s| [0, hstatus::VTSR | hstatus::VTVM | hstatus::VTW].map(|c| (s, c)))
    {
        for (mode, is_virtual) in [
            (Privilege::User, true),
            (Privilege::Supervisor, true),
            (Privilege::User, false),
            (Privilege::Supervisor, false),
        ] {
            (st.m.mstatus, st.h.hstatus, st.waiting) = (status, control, 0);
            enter(&mut st, mode, is_virtual);
            let user = mode == Privilege::User;
            let case = format!("{mode:?} {is_virtual} {status:#x} {control:#x}");
            let refusal = if is_virtual { VIRTUAL } else { ILLEGAL };
            let trapped = user || (if is_virtual { control } else { status }) != 0;
            let fence = privileged::sfence_vma(&st, None, None, BITS).map(|_| ());
            assert_eq!(fence, if trapped { Err(refusal) } else { Ok(()) }, "sfence {case}");
            let half = privileged::sfence_inval(&st, BITS);
            assert_eq!(half, if user { Err(refusal) } else { Ok(()) }, "sfence.inval.ir {case}");
            let waited = privileged::wfi(&mut st, BITS);
            let expected = match (status != 0, user || is_virtual && control != 0) {
                (true, _) => Err(ILLEGAL),
                (false, true) => Err(refusal),
                _ => Ok(()),
            };
            assert_eq!(waited, expected, "wfi {case}");
            let hypervisor = privileged::hypervisor_access(&st, BITS);
            let expected = if user || is_virtual { Err(refusal) } else { Ok(()) };
            assert_eq!(hypervisor, expected, "hlv {case}");
            let returned = trap::sret(&mut st, &mut bus, BITS);
            assert_eq!(returned, if trapped { Err(refusal) } else { Ok(()) }, "sret {case}");
        }
    }
}

#[test]
fn a_trap_tells_where_it_came_from_and_a_return_goes_back() {
    let (mut st, mut bus) = hart("rv64");
    (st.m.medeleg, st.s.stvec, st.vs.vstvec) = (u64::MAX, 0x2000, 0x3000);
    let fault = Exception::at(Cause::LoadGuestPageFault, 0x1234).of_guest(true);
    let fault = Exception { guest_physical: 0x8000_0007, instruction: 0x3000, ..fault };
    for mode in [Privilege::User, Privilege::Supervisor] {
        enter(&mut st, mode, true);
        st.pc = 0x4444;
        trap::raise(&mut st, &mut bus, fault);
        assert_eq!((st.pc, st.is_virtual(), st.s.sepc, st.s.stval), (0x2000, false, 0x4444, 0x1234));
        assert_eq!((st.h.htval, st.h.htinst), (0x2000_0001, 0x3000));
        let previous = if mode == Privilege::User { 0 } else { hstatus::SPVP };
        assert_eq!(st.h.hstatus, hstatus::SPV | hstatus::GVA | previous);
        // A trap within the hypervisor leaves SPVP alone, and tells no guest's address.
        trap::raise(&mut st, &mut bus, ILLEGAL);
        assert_eq!((st.h.hstatus, st.h.htval, st.h.htinst), (previous, 0, 0));
        st.h.hstatus |= hstatus::SPV;
        st.m.mstatus = if mode == Privilege::User { 0 } else { mstatus::SPP };
        trap::sret(&mut st, &mut bus, BITS).unwrap();
        assert_eq!((st.privilege(), st.is_virtual(), st.h.hstatus & hstatus::SPV), (mode, true, 0));
    }
    // To machine mode and back.
    st.m.medeleg = 0;
    st.m.mtvec = 0x1000;
    trap::raise(&mut st, &mut bus, fault);
    assert_eq!((st.pc, st.m.mtval2, st.m.mtinst), (0x1000, 0x2000_0001, 0x3000));
    assert_eq!(st.m.mstatus & (mstatus::MPV | mstatus::GVA), mstatus::MPV | mstatus::GVA);
    trap::mret(&mut st, &mut bus, BITS).unwrap();
    assert_eq!(
        (st.privilege(), st.is_virtual(), st.m.mstatus & mstatus::MPV),
        (Privilege::Supervisor, true, 0)
    );
    trap::raise(&mut st, &mut bus, VIRTUAL);
    assert_eq!(st.m.mstatus & mstatus::GVA, 0, "the instruction's bits are no address");
    st.m.mstatus |= mstatus::MPP;
    trap::mret(&mut st, &mut bus, BITS).unwrap();
    assert!(!st.is_virtual(), "machine mode is never virtual");
    // What the guest can deal with goes to the guest, without a word to the hypervisor.
    (st.m.medeleg, st.h.hedeleg, st.h.hstatus) = (u64::MAX, 0xb1ff, 0);
    enter(&mut st, Privilege::User, true);
    trap::raise(&mut st, &mut bus, Exception::at(Cause::LoadPageFault, 0x99));
    assert_eq!((st.pc, st.is_virtual(), st.vs.vscause, st.vs.vstval), (0x3000, true, 13, 0x99));
    assert_eq!(st.h.hstatus, 0);
}

// ---- two stages ----

const G_ROOT: u64 = 0x10_0000;
const VS_ROOT: u64 = 0x20_0000;
/// Guest physical addresses of tables are host physical ones plus this.
const GUEST: u64 = 1 << 30;
const RWXAD: u64 = pte::R | pte::W | pte::X | pte::A | pte::D;

/// A hart with Sv39 over Sv39x4: the second stage maps the gigabyte at [`GUEST`] to 0 by one leaf of `leaf` rights, the
/// first maps page 5 to the guest's page 7.
fn two_stages(leaf: u64, first: u64) -> (RiscvState, TestBus) {
    let (mut st, mut bus) = hart("max");
    open_pmp(&mut st);
    st.h.hgatp = 8 << 60 | G_ROOT >> 12;
    st.vs.vsatp = 8 << 60 | (GUEST + VS_ROOT) >> 12;
    bus.memory.insert(G_ROOT + 8, leaf | pte::V);
    let table = |at: u64| (GUEST + at) >> 12 << 10 | pte::V;
    bus.memory.insert(VS_ROOT, table(VS_ROOT + 0x1000));
    bus.memory.insert(VS_ROOT + 0x1000, table(VS_ROOT + 0x2000));
    bus.memory.insert(VS_ROOT + 0x2000 + 5 * 8, (GUEST + 0x7000) >> 12 << 10 | first | pte::V);
    (st, bus)
}

fn walk(st: &RiscvState, bus: &mut TestBus, kind: AccessKind, index: u8) -> Result<Translation, Exception> {
    translate(st, bus, 0x5123, 1, Access::new(st, kind, index))
}

#[test]
fn permissions_are_those_of_both_stages() {
    const KINDS: [AccessKind; 3] = [AccessKind::Read, AccessKind::Write, AccessKind::Execute];
    let has = |bits: u64, kind| match kind {
        AccessKind::Read => bits & pte::R != 0,
        AccessKind::Write => bits & pte::W != 0,
        AccessKind::Execute => bits & pte::X != 0,
    };
    let legal = |bits: &u64| bits & (pte::R | pte::X) != 0 && bits & (pte::R | pte::W) != pte::W;
    let rights = || (0..16u64).map(|b| b & !1).filter(legal);
    for (first, second) in rights().flat_map(|a| rights().map(move |b| (a, b))) {
        let (mut st, mut bus) = two_stages(second | pte::U | pte::A | pte::D, first | pte::A | pte::D);
        // The tables' own pages need read permission.
        let readable = second & pte::R != 0;
        for kind in KINDS {
            let got = walk(&st, &mut bus, kind, mmu::VIRTUAL_SUPERVISOR);
            let case = format!("{first:#x} {second:#x} {kind:?}");
            if readable && has(first, kind) && has(second, kind) {
                let t = got.unwrap_or_else(|e| panic!("{case}: {e:?}"));
                assert_eq!((t.phys, t.page_bits), (0x7123, 12), "{case}");
                assert_eq!(t.write, first & second & pte::W != 0, "{case}");
                continue;
            }
            let fault = got.expect_err(&case);
            let guest = if !readable {
                // The first entry of the first stage.
                assert_eq!((fault.guest_physical, fault.instruction), (GUEST + VS_ROOT, 0x3000), "{case}");
                true
            } else if has(first, kind) {
                assert_eq!((fault.guest_physical, fault.instruction), (GUEST + 0x7123, 0), "{case}");
                true
            } else {
                false
            };
            let expected = match (kind, guest) {
                (AccessKind::Read, true) => Cause::LoadGuestPageFault,
                (AccessKind::Write, true) => Cause::StoreGuestPageFault,
                (AccessKind::Execute, true) => Cause::InstructionGuestPageFault,
                (AccessKind::Read, false) => Cause::LoadPageFault,
                (AccessKind::Write, false) => Cause::StorePageFault,
                (AccessKind::Execute, false) => Cause::InstructionPageFault,
            };
            assert_eq!((fault.cause, fault.value, fault.guest_virtual), (expected, 0x5123, true), "{case}");
        }
        // HLVX wants execute permission where a load wants read permission, and faults as a load.
        st.h.hstatus = hstatus::SPVP;
        let hlvx = walk(&st, &mut bus, AccessKind::Read, mmu::HYPERVISOR_EXECUTE);
        let may = readable && first & second & pte::X != 0;
        assert_eq!(hlvx.is_ok(), may, "{first:#x} {second:#x}");
        match hlvx {
            Ok(t) => assert!(t.page_bits < 12, "it is kept for nobody else"),
            Err(e) => assert!(matches!(e.cause, Cause::LoadPageFault | Cause::LoadGuestPageFault)),
        }
    }
}

#[test]
fn the_second_stage_takes_every_access_for_one_of_user_mode() {
    let (st, mut bus) = two_stages(RWXAD, RWXAD);
    let fault = walk(&st, &mut bus, AccessKind::Read, mmu::VIRTUAL_SUPERVISOR).unwrap_err();
    assert_eq!(fault.cause, Cause::LoadGuestPageFault);
    // U of the first stage is the guest's affair.
    let (st, mut bus) = two_stages(RWXAD | pte::U, RWXAD | pte::U);
    assert!(walk(&st, &mut bus, AccessKind::Read, mmu::VIRTUAL_USER).is_ok());
    assert!(walk(&st, &mut bus, AccessKind::Read, mmu::VIRTUAL_SUPERVISOR_SUM).is_ok());
    let fault = walk(&st, &mut bus, AccessKind::Read, mmu::VIRTUAL_SUPERVISOR).unwrap_err();
    assert_eq!(fault.cause, Cause::LoadPageFault);
}

#[test]
fn each_stage_sets_its_bits_as_its_own_register_says() {
    let fresh = pte::R | pte::W;
    for (machine, guest) in [(false, false), (true, false), (true, true), (false, true)] {
        let (mut st, mut bus) = two_stages(RWXAD | pte::U, fresh);
        (st.m.menvcfg, st.h.henvcfg) = (if machine { ADUE } else { 0 }, if guest { ADUE } else { 0 });
        let got = walk(&st, &mut bus, AccessKind::Write, mmu::VIRTUAL_SUPERVISOR);
        // henvcfg has no say where menvcfg has it clear.
        assert_eq!(got.is_ok(), machine && guest, "{machine} {guest}");
        let entry = bus.memory[&(VS_ROOT + 0x2028)];
        assert_eq!(entry & (pte::A | pte::D) != 0, machine && guest);
        // The second stage: menvcfg alone.
        let (mut st, mut bus) = two_stages(fresh | pte::U, RWXAD);
        (st.m.menvcfg, st.h.henvcfg) = (if machine { ADUE } else { 0 }, 0);
        assert_eq!(walk(&st, &mut bus, AccessKind::Write, mmu::VIRTUAL_SUPERVISOR).is_ok(), machine);
    }
    // An update where the second stage allows no write.
    let (mut st, mut bus) = two_stages(pte::R | pte::A | pte::D | pte::U, fresh);
    (st.m.menvcfg, st.h.henvcfg) = (ADUE, ADUE);
    let fault = walk(&st, &mut bus, AccessKind::Read, mmu::VIRTUAL_SUPERVISOR).unwrap_err();
    assert_eq!((fault.cause, fault.instruction), (Cause::LoadGuestPageFault, 0x3020));
    assert_eq!(fault.guest_physical, GUEST + VS_ROOT + 0x2028);
}

#[test]
fn a_guest_physical_address_has_two_bits_more_and_no_sign() {
    for (mode, width) in [(8, 39), (9, 48), (10, 57)] {
        let (mut st, mut bus) = hart("max");
        open_pmp(&mut st);
        st.h.hgatp = mode << 60 | G_ROOT >> 12;
        // The highest gigapage (or larger) that the widened root names.
        bus.memory.insert(G_ROOT + 2047 * 8, RWXAD | pte::U | pte::V);
        let last = (1u64 << (width + 2)) - 1;
        let access = Access::new(&st, AccessKind::Read, mmu::VIRTUAL_SUPERVISOR);
        let t = translate(&st, &mut bus, last, 1, access).unwrap();
        assert_eq!(t.phys, last & ((1 << (width - 9)) - 1), "{mode}");
        let fault = translate(&st, &mut bus, last + 1, 1, access).unwrap_err();
        assert_eq!((fault.cause, fault.guest_physical), (Cause::LoadGuestPageFault, last + 1), "{mode}");
    }
    // Sv32x4: 34 bits, whose upper ones htval has room for.
    let (mut st, mut bus) = hart("rv32");
    open_pmp(&mut st);
    (st.h.hgatp, st.vs.vsatp) = (1 << 31 | G_ROOT >> 12, 1 << 31 | VS_ROOT >> 12);
    bus.memory.insert(G_ROOT, RWXAD | pte::U | pte::V);
    bus.memory.insert(G_ROOT + 0xfff * 4, 0);
    bus.memory.insert(VS_ROOT, 0xfff << 20 | RWXAD | pte::V);
    let access = Access::new(&st, AccessKind::Read, mmu::VIRTUAL_SUPERVISOR);
    let fault = translate(&st, &mut bus, 0x123, 1, access).unwrap_err();
    assert_eq!(fault.cause, Cause::LoadGuestPageFault);
    trap::raise(&mut st, &mut bus, fault);
    assert_eq!(st.m.mtval2, fault.guest_physical >> 2);
    assert_eq!(fault.guest_physical, 0x3_ffc0_0123);
}

// ---- interrupts ----

/// A guest in `mode` with all of its interrupts enabled and handed on.
fn guest(mode: Privilege) -> (RiscvState, TestBus) {
    let (mut st, bus) = hart("max,ssaia=on");
    (st.m.mie, st.h.hideleg) = (0x444, 0x444);
    enter(&mut st, mode, true);
    (st, bus)
}

#[test]
fn the_virtual_timer_counts_the_guest_s_time() {
    let (mut st, mut bus) = guest(Privilege::User);
    (st.vs.vstimecmp, st.h.htimedelta, bus.time) = (1000, 100u64.wrapping_neg(), 1099);
    assert_eq!(interrupt::pending(&st, &mut bus) & bit::VSTI, 0, "nobody has enabled it");
    (st.m.menvcfg, st.h.henvcfg) = (STCE, STCE);
    assert_eq!(interrupt::pending(&st, &mut bus) & bit::VSTI, 0, "the guest's time is 999");
    assert_eq!(interrupt::virtual_deadline(&st, 1099), 1100);
    bus.time = 1100;
    assert_eq!(interrupt::virtual_deadline(&st, 1100), 1100);
    assert!(interrupt::poll(&mut st, &mut bus));
    assert_eq!(st.vs.vscause, 1 << 63 | 5);
    st.vs.vstimecmp = u64::MAX;
    assert_eq!(interrupt::pending(&st, &mut bus) & bit::VSTI, 0);
    st.m.mip = bit::VSTI;
    assert_ne!(interrupt::pending(&st, &mut bus) & bit::VSTI, 0, "hvip counts too");
}

#[test]
fn hvictl_injects_what_it_names_by_its_priority() {
    const SHOWN: u64 = interrupt::IPRIOM;
    let vti = |number: u64, rest: u64| interrupt::VTI | number << 16 | rest;
    for (hvictl, mip, expected) in [
        (0, 0, 0),
        (0, 0x444, 9 << 16 | 1),
        (0, 0x44, 1 << 16 | 1),
        (SHOWN, 0x40, 5 << 16 | 255),
        (SHOWN, 0x400, 9 << 16 | 255),
        (SHOWN | 9 << 16 | 7, 0x400, 9 << 16 | 7),
        (vti(9, 0), 0, 0),
        (vti(9, 0), 0x44, 0),
        (vti(33, 0), 0, 33 << 16 | 1),
        (vti(33, SHOWN | 4), 0x400, 33 << 16 | 4),
        (vti(33, SHOWN), 0x400, 33 << 16),
        (vti(33, SHOWN | interrupt::DPR), 0x400, 9 << 16 | 255),
        (vti(33, SHOWN | interrupt::DPR), 0, 33 << 16 | 255),
    ] {
        let (mut st, mut bus) = guest(Privilege::Supervisor);
        (st.h.hvictl, st.m.mip) = (hvictl, mip);
        let case = format!("{hvictl:#x} {mip:#x}");
        enter(&mut st, Privilege::Machine, false);
        assert_eq!(read(&mut st, &mut bus, n::VSTOPI), Ok(expected), "{case}");
        enter(&mut st, Privilege::Supervisor, true);
        assert!(!interrupt::poll(&mut st, &mut bus), "{case}: SIE is clear");
        assert_eq!(interrupt::ends_wait(&st, &mut bus), expected != 0 || mip != 0, "{case}");
        st.vs.vsstatus = mstatus::SIE;
        assert_eq!(interrupt::poll(&mut st, &mut bus), expected != 0, "{case}");
        if expected != 0 {
            assert_eq!(st.vs.vscause, 1 << 63 | expected >> 16, "{case}");
        }
    }
    // The guest is kept from what would withdraw the interrupt.
    let (mut st, mut bus) = guest(Privilege::Supervisor);
    (st.h.hvictl, st.m.mstateen[0], st.h.hstateen[0]) = (vti(9, 0), u64::MAX, u64::MAX);
    (st.m.menvcfg, st.h.henvcfg, st.m.mcounteren, st.h.hcounteren) = (STCE, STCE, 2, 2);
    for number in [n::SIP, n::SIE] {
        assert_eq!(read(&mut st, &mut bus, number), Err(VIRTUAL));
    }
    assert!(read(&mut st, &mut bus, n::STIMECMP).is_ok());
    assert_eq!(write(&mut st, &mut bus, n::STIMECMP, 0), Err(VIRTUAL));
}

#[test]
fn cache_blocks_need_the_hypervisor_s_word_too() {
    let (mut st, _) = hart("max");
    (st.m.menvcfg, st.s.senvcfg) = (0xf0, 0xf0);
    enter(&mut st, Privilege::User, true);
    assert_eq!(privileged::cache_block(&st, CacheBlock::Zero, BITS), Err(VIRTUAL));
    st.h.henvcfg = 0xf0;
    assert_eq!(privileged::cache_block(&st, CacheBlock::Inval, BITS), Ok(false));
    st.h.henvcfg = 0xd0;
    assert_eq!(privileged::cache_block(&st, CacheBlock::Inval, BITS), Ok(true), "it flushes");
    st.s.senvcfg = 0;
    assert_eq!(privileged::cache_block(&st, CacheBlock::Zero, BITS), Err(VIRTUAL));
    st.m.menvcfg = 0;
    assert_eq!(privileged::cache_block(&st, CacheBlock::Zero, BITS), Err(ILLEGAL));
}

#[test]
fn registers_of_64_bits_have_two_halves_on_a_narrow_hart() {
    let (mut st, mut bus) = hart("rv32,smstateen=on");
    st.m.mstateen[0] = u64::MAX;
    st.m.menvcfg = STCE | ADUE;
    let halves = [
        (n::HTIMEDELTA, n::HTIMEDELTAH, u64::MAX),
        (n::VSTIMECMP, n::VSTIMECMPH, u64::MAX),
        (n::HENVCFG, n::HENVCFGH, STCE | ADUE | 1),
        (n::HSTATEEN0, n::HSTATEEN0H, u64::MAX),
    ];
    for (low, high, mask) in halves {
        write(&mut st, &mut bus, low, 0x8000_0001).unwrap();
        write(&mut st, &mut bus, high, 0xffff_ffff).unwrap();
        let value = read(&mut st, &mut bus, high).unwrap() << 32 | read(&mut st, &mut bus, low).unwrap();
        assert_eq!(value, 0xffff_ffff_8000_0001 & mask, "{low:#x}");
    }
    // MPV and GVA are in mstatush; a write of mstatus leaves them alone.
    write(&mut st, &mut bus, n::MSTATUSH, 0xffff_ffff).unwrap();
    write(&mut st, &mut bus, n::MSTATUS, 0).unwrap();
    assert_eq!(read(&mut st, &mut bus, n::MSTATUSH), Ok(0xc0));
    assert_eq!(st.m.mstatus & (mstatus::MPV | mstatus::GVA), mstatus::MPV | mstatus::GVA);
    // An unknown mode of hgatp leaves the mode; its root is aligned to 16 KiB, and its VMID has 7 bits.
    write(&mut st, &mut bus, n::HGATP, 0xffff_ffff).unwrap();
    assert_eq!(read(&mut st, &mut bus, n::HGATP), Ok(0x9fff_fffc));
}

#[test]
fn the_guest_s_timer_needs_the_word_of_both_levels() {
    for bits in 0..16u64 {
        let [mtm, mstce, htm, hstce] = [1, 2, 4, 8].map(|bit| bits & bit != 0);
        let (mut st, mut bus) = hart("rv64");
        (st.m.mcounteren, st.m.menvcfg) = (if mtm { 2 } else { 0 }, if mstce { STCE } else { 0 });
        (st.h.hcounteren, st.h.henvcfg) = (if htm { 2 } else { 0 }, if hstce { STCE } else { 0 });
        st.h.htimedelta = 5;
        enter(&mut st, Privilege::Supervisor, true);
        let expected = match (mtm && mstce, htm && hstce) {
            (false, _) => Err(ILLEGAL),
            (_, false) => Err(VIRTUAL),
            _ => Ok(0),
        };
        assert_eq!(read(&mut st, &mut bus, n::STIMECMP), expected, "{bits:#x}");
        let time = match (mtm, htm) {
            (false, _) => Err(ILLEGAL),
            (_, false) => Err(VIRTUAL),
            _ => Ok(5),
        };
        assert_eq!(read(&mut st, &mut bus, n::TIME), time, "{bits:#x}");
        enter(&mut st, Privilege::Supervisor, false);
        let own = if mtm && mstce { Ok(0) } else { Err(ILLEGAL) };
        assert_eq!(read(&mut st, &mut bus, n::VSTIMECMP), own, "{bits:#x}");
    }
}

use rhea_x86_state::X86State;
use rhea_x86_state::control::{cr0, cr4, efer};

use crate::exception::{Exception, pf};
use crate::paging::{Access, AccessKind, Translation, load_pdptes, pte, translate};
use crate::test_bus::{PAGE_TABLES, TestBus};

const L: u64 = 0x1234_5678;
const READ_S: Access = Access { kind: AccessKind::Read, user: false, smap: true };
const WRITE_S: Access = Access { kind: AccessKind::Write, ..READ_S };
const EXEC_S: Access = Access { kind: AccessKind::Execute, ..READ_S };
const READ_U: Access = Access { user: true, ..READ_S };
const WRITE_U: Access = Access { user: true, ..WRITE_S };
const EXEC_U: Access = Access { user: true, ..EXEC_S };

/// 4-level paging with one 4 KiB page at `L` whose leaf is `leaf | 0x20_0000`; upper levels grant everything.
fn four_level(leaf: u64) -> (X86State, TestBus) {
    let mut bus = TestBus::new("max");
    let mut st = bus.model.reset_state(true);
    st.cr[0] = cr0::PE | cr0::PG | cr0::WP;
    st.cr[4] = cr4::PAE | cr4::PGE;
    st.efer = efer::LME | efer::LMA | efer::NXE;
    st.cr[3] = PAGE_TABLES;
    for (level, shift) in [(0u64, 39), (1, 30), (2, 21)] {
        let at = PAGE_TABLES + level * 0x1000 + (L >> shift & 0x1ff) * 8;
        bus.put(at, 8, (PAGE_TABLES + (level + 1) * 0x1000) | 7);
    }
    bus.put(leaf_at(), 8, leaf | 0x20_0000);
    (st, bus)
}

fn leaf_at() -> u64 {
    PAGE_TABLES + 0x3000 + (L >> 12 & 0x1ff) * 8
}

fn walk(st: &X86State, bus: &mut TestBus, access: Access) -> Result<Translation, u32> {
    translate(st, bus, L, access).map_err(|e| {
        assert_eq!(e.address, L);
        e.error_code.unwrap()
    })
}

#[test]
fn error_codes_follow_the_entry_the_access_and_the_control_bits() {
    let smep = cr4::SMEP;
    let smap = cr4::SMAP;
    // leaf, extra CR4 bits, access, error code or none
    let table: &[(u64, u64, Access, Option<u32>)] = &[
        (0, 0, READ_S, Some(0)),
        (0, 0, WRITE_S, Some(pf::W)),
        (0, 0, READ_U, Some(pf::U)),
        (0, 0, EXEC_U, Some(pf::U | pf::ID)),
        (1, 0, READ_S, None),
        (1, 0, READ_U, Some(pf::P | pf::U)),
        (1, 0, WRITE_S, Some(pf::P | pf::W)),
        (3, 0, WRITE_S, None),
        (3, 0, WRITE_U, Some(pf::P | pf::W | pf::U)),
        (5, 0, WRITE_U, Some(pf::P | pf::W | pf::U)),
        (7, 0, WRITE_U, None),
        (7, 0, EXEC_S, None),
        (7, smep, EXEC_S, Some(pf::P | pf::ID)),
        (7, smep, EXEC_U, None),
        (7, smap, READ_S, Some(pf::P)),
        (7, smap, WRITE_S, Some(pf::P | pf::W)),
        (7, smap, EXEC_S, None),
        (7, smap, Access { smap: false, ..WRITE_S }, None),
        (7, smap, WRITE_U, None),
        (3, smap, WRITE_S, None),
        (pte::XD | 7, 0, EXEC_U, Some(pf::P | pf::U | pf::ID)),
        (pte::XD | 7, 0, READ_U, None),
        (1 << 45 | 7, 0, READ_U, Some(pf::P | pf::U | pf::RSVD)),
        (1 << 45, 0, READ_U, Some(pf::U)),
        (1 << 52 | 7, 0, READ_U, None),
    ];
    for (i, &(leaf, extra, access, expected)) in table.iter().enumerate() {
        let (mut st, mut bus) = four_level(leaf);
        st.cr[4] |= extra;
        assert_eq!(walk(&st, &mut bus, access).err(), expected, "row {i}");
    }
}

#[test]
fn a_write_protected_page_is_open_to_the_supervisor_without_wp() {
    let (mut st, mut bus) = four_level(5);
    st.cr[0] &= !cr0::WP;
    assert!(walk(&st, &mut bus, WRITE_S).is_ok());
}

#[test]
fn xd_is_reserved_and_not_reported_without_nxe() {
    let (mut st, mut bus) = four_level(pte::XD | 7);
    st.efer &= !efer::NXE;
    assert_eq!(walk(&st, &mut bus, EXEC_U).err(), Some(pf::P | pf::U | pf::RSVD));
}

#[test]
fn reads_leave_the_page_unwritable_until_it_is_dirty() {
    let (st, mut bus) = four_level(7);
    let t = walk(&st, &mut bus, READ_U).unwrap();
    assert!(!t.writable_now && t.readable && t.user && t.executable);
    assert_eq!(t.phys, 0x20_0000 | L & 0xfff);
    assert_eq!(bus.get(leaf_at(), 8) & (pte::A | pte::D), pte::A);
    let t = walk(&st, &mut bus, WRITE_U).unwrap();
    assert!(t.writable_now);
    assert_eq!(bus.get(leaf_at(), 8) & (pte::A | pte::D), pte::A | pte::D);
    assert!(walk(&st, &mut bus, READ_U).unwrap().writable_now);
}

#[test]
fn a_refused_access_marks_no_leaf() {
    let (st, mut bus) = four_level(5);
    assert!(walk(&st, &mut bus, WRITE_U).is_err());
    assert_eq!(bus.get(leaf_at(), 8) & (pte::A | pte::D), 0);
}

#[test]
fn an_entry_that_changes_under_the_walk_is_judged_again() {
    let (st, mut bus) = four_level(7);
    // Set all upper accessed bits first, so that the race hits the leaf.
    walk(&st, &mut bus, READ_U).unwrap();
    bus.race = Some(0);
    assert_eq!(walk(&st, &mut bus, WRITE_U).err(), Some(pf::W | pf::U));
}

#[test]
fn upper_levels_restrict_the_leaf() {
    let (st, mut bus) = four_level(7);
    let pdpte = PAGE_TABLES + 0x1000 + (L >> 30 & 0x1ff) * 8;
    let entry = bus.get(pdpte, 8);
    bus.put(pdpte, 8, entry & !pte::RW | pte::XD);
    assert_eq!(walk(&st, &mut bus, WRITE_U).err(), Some(pf::P | pf::W | pf::U));
    assert_eq!(walk(&st, &mut bus, EXEC_U).err(), Some(pf::P | pf::U | pf::ID));
}

#[test]
fn large_pages_have_their_sizes_and_reserved_bits() {
    let (st, mut bus) = four_level(7);
    let pde = PAGE_TABLES + 0x2000 + (L >> 21 & 0x1ff) * 8;
    bus.put(pde, 8, 0x4000_0000 | pte::PS | pte::G | 7);
    let t = walk(&st, &mut bus, READ_U).unwrap();
    assert_eq!((t.phys, t.page_size_log2, t.global), (0x4000_0000 | L & 0x1f_ffff, 21, true));
    bus.put(pde, 8, 0x4000_2000 | pte::PS | 7);
    assert_eq!(walk(&st, &mut bus, READ_U).err(), Some(pf::P | pf::U | pf::RSVD));
    // Bit 12 is PAT there.
    bus.put(pde, 8, 0x4000_1000 | pte::PS | 7);
    assert_eq!(walk(&st, &mut bus, READ_U).unwrap().phys, 0x4000_0000 | L & 0x1f_ffff);

    let pdpte = PAGE_TABLES + 0x1000 + (L >> 30 & 0x1ff) * 8;
    bus.put(pdpte, 8, 0x1_4000_0000 | pte::PS | 7);
    let t = walk(&st, &mut bus, READ_U).unwrap();
    assert_eq!((t.phys, t.page_size_log2), (0x1_4000_0000 | L & 0x3fff_ffff, 30));
    let mut without = st.clone();
    without.features = *TestBus::new("max,-pdpe1gb").model.features();
    assert_eq!(walk(&without, &mut bus, READ_U).err(), Some(pf::P | pf::U | pf::RSVD));
}

#[test]
fn thirty_two_bit_paging_walks_two_levels_and_four_mebibyte_pages() {
    let mut bus = TestBus::new("max");
    let mut st = bus.model.reset_state(true);
    st.cr[0] = cr0::PE | cr0::PG;
    st.cr[3] = PAGE_TABLES;
    let pde = PAGE_TABLES + (L >> 22) * 4;
    let pte_at = PAGE_TABLES + 0x1000 + (L >> 12 & 0x3ff) * 4;
    bus.put(pde, 4, (PAGE_TABLES + 0x1000) | 5);
    bus.put(pte_at, 4, 0x20_0007);
    let t = walk(&st, &mut bus, READ_U).unwrap();
    assert_eq!(t.phys, 0x20_0000 | L & 0xfff);
    assert_eq!(walk(&st, &mut bus, WRITE_U).err(), Some(pf::P | pf::W | pf::U));
    assert!(walk(&st, &mut bus, WRITE_S).is_ok(), "WP is clear");
    // PSE-36: bits 20:13 are address bits 39:32, bit 21 is reserved.
    st.cr[4] = cr4::PSE;
    bus.put(pde, 4, 0x0040_2000 | pte::PS | 7);
    let t = walk(&st, &mut bus, WRITE_U).unwrap();
    assert_eq!((t.phys, t.page_size_log2), (0x1_0040_0000 | L & 0x3f_ffff, 22));
    bus.put(pde, 4, 0x0020_0000 | pte::PS | 7);
    assert_eq!(walk(&st, &mut bus, READ_U).err(), Some(pf::P | pf::U | pf::RSVD));
    // Without CR4.PSE the PS bit means nothing.
    st.cr[4] = 0;
    bus.put(pde, 4, (PAGE_TABLES + 0x1000) | pte::PS | 7);
    assert!(walk(&st, &mut bus, READ_U).is_ok());
}

#[test]
fn pae_uses_the_loaded_pdptes_and_checks_their_reserved_bits() {
    let mut bus = TestBus::new("max");
    let mut st = bus.model.reset_state(true);
    st.cr[0] = cr0::PE | cr0::PG;
    st.cr[4] = cr4::PAE;
    let cr3 = PAGE_TABLES + 0x20;
    bus.put(cr3, 8, (PAGE_TABLES + 0x1000) | 1);
    bus.put(cr3 + 8, 8, 0x1e6);
    st.pdpte = load_pdptes(&st, &mut bus, cr3).unwrap();
    bus.put(cr3, 8, 0);
    let pde = PAGE_TABLES + 0x1000 + (L >> 21 & 0x1ff) * 8;
    bus.put(pde, 8, 0x4000_0000 | pte::PS | 7);
    assert_eq!(walk(&st, &mut bus, READ_U).unwrap().phys, 0x4000_0000 | L & 0x1f_ffff);
    bus.put(cr3 + 8, 8, 0x1e6 | 1);
    assert_eq!(load_pdptes(&st, &mut bus, cr3), Err(Exception::gp(0)));
    // Bits 62:52 are reserved with PAE, unlike with 4-level paging.
    bus.put(pde, 8, 1 << 52 | 0x4000_0000 | pte::PS | 7);
    assert_eq!(walk(&st, &mut bus, READ_U).err(), Some(pf::P | pf::U | pf::RSVD));
}

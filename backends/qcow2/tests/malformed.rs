//! Malformed images: whatever the bytes, an error or a disk.

use proptest::prelude::*;
use rhea_qcow2::fuzz_image;

/// A change of a valid image, as [`fuzz_image`] reads them: place, offset in it, four bytes.
fn change(area: u8, offset: u16, value: u32) -> Vec<u8> {
    let mut bytes = vec![area, 1];
    bytes.extend(offset.to_le_bytes());
    bytes.extend(value.to_be_bytes());
    bytes
}

fn with(changes: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![0];
    changes.iter().for_each(|change| bytes.extend(change));
    bytes
}

/// Fields and the values that have broken parsers before.
#[test]
fn every_field_with_every_extreme() {
    let header = [
        4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60, 64, 68, 72, 76, 80, 88, 92, 96, 100, 104,
        112, 116, 120, 124, 128, 132, 136,
    ];
    let fields = header.map(|offset| (0, offset)).into_iter();
    // L1, L2 (both halves of three entries), refcount table and block.
    let tables = (1..=4).flat_map(|area| [0, 4, 8, 12, 16, 20].map(|offset| (area, offset)));
    // A compressed entry and a zero cluster.
    let special = [(2, 128), (2, 132), (2, 2048), (2, 2052)];
    // Snapshot table, bitmap directory, bitmap table.
    let snapshots = [0, 4, 8, 12, 14, 32, 36, 40, 44, 48, 52, 64].map(|offset| (5, offset));
    let bitmaps = [0, 4, 8, 12, 16, 18, 20].map(|offset| (6, offset));
    let bitmap_table = [0, 4].map(|offset| (7, offset));
    let all = fields.chain(tables).chain(special).chain(snapshots).chain(bitmaps).chain(bitmap_table);
    for (area, offset) in all {
        for value in
            [0, 1, 2, 9, 0x200, 0x1000, 0x10_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_fe00, 0xffff_ffff]
        {
            fuzz_image(&with(&[change(area, offset, value)]));
        }
    }
}

/// Tables that name themselves or each other.
#[test]
fn tables_in_circles() {
    for area in 1..=7u8 {
        for offset in [0u16, 8] {
            for cluster in 0..40u32 {
                let (high, low) =
                    (change(area, offset, 0x8000_0000), change(area, offset + 4, cluster * 4096));
                fuzz_image(&with(&[high, low.clone()]));
                fuzz_image(&with(&[low]));
            }
        }
    }
}

#[test]
fn cut_images() {
    for len in (0..600).step_by(7) {
        let mut bytes = vec![1];
        bytes.extend(b"QFI\xfb\0\0\0\x03");
        bytes.resize(len + 1, 0xff);
        fuzz_image(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_changes_of_a_valid_image(mut bytes in proptest::collection::vec(any::<u8>(), 9..100)) {
        bytes[0] &= !1;
        fuzz_image(&bytes);
    }

    #[test]
    fn small_values_in_the_tables(
        changes in proptest::collection::vec((0..8u8, 0..40u16, 0..200u32, 0..13u32), 1..8)
    ) {
        let changes: Vec<_> =
            changes.into_iter().map(|(area, word, value, shift)| change(area, word * 4, value << shift)).collect();
        fuzz_image(&with(&changes));
    }

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        fuzz_image(&bytes);
    }
}

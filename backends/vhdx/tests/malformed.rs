//! Malformed images: whatever the bytes, an error or a disk.

use proptest::prelude::*;
use rhea_vhdx::fuzz_image;

/// A change of a valid image, as [`fuzz_image`] reads them: place, offset in it, four bytes.
fn change(area: u8, offset: u16, value: u32) -> Vec<u8> {
    let mut bytes = vec![area, 0];
    bytes.extend(offset.to_le_bytes());
    bytes.extend(value.to_le_bytes());
    bytes
}

/// Fields and the values that have broken parsers before.
#[test]
fn every_field_with_every_extreme() {
    let fields = [
        // Header: sequence, log GUID, versions, log length and offset.
        (1, 8),
        (1, 12),
        (1, 48),
        (2, 48),
        (1, 64),
        (1, 68),
        (2, 68),
        (1, 72),
        (2, 72),
        (2, 76),
        // Region table: count, offsets and lengths of both regions, required.
        (3, 8),
        (3, 16),
        (3, 32),
        (3, 36),
        (3, 40),
        (3, 44),
        (3, 64),
        (3, 72),
        // Log: length, tail, sequence, descriptors, flushed and last offsets, descriptor.
        (5, 8),
        (5, 12),
        (5, 16),
        (5, 24),
        (5, 48),
        (5, 52),
        (5, 56),
        (5, 60),
        (5, 64),
        (5, 68),
        (5, 72),
        (5, 80),
        (5, 84),
        (5, 88),
        // BAT: the first entry's halves, and others.
        (6, 0),
        (6, 4),
        (6, 24),
        (6, 28),
        (6, 40),
        // Metadata: count, first item's offset and length and flags, next.
        (7, 8),
        (7, 48),
        (7, 52),
        (7, 56),
        (7, 80),
        (7, 84),
        // Items: block size, bits, disk size, sector size.
        (8, 0),
        (8, 4),
        (8, 8),
        (8, 12),
        (8, 32),
    ];
    let values = [
        0,
        1,
        2,
        6,
        7,
        0x10_0000,
        0x10_0006,
        0x7fff_ffff,
        0xffff_ffff,
        0xfff0_0006,
        u32::from_le_bytes(*b"zero"),
    ];
    for first in [0, 2] {
        for (area, offset) in fields {
            for value in values {
                let mut bytes = vec![first];
                bytes.extend(change(area, offset, value));
                // Both copies alike, so that neither saves the image.
                if area == 3 {
                    bytes.extend(change(4, offset, value));
                }
                fuzz_image(&bytes);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_changes(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        fuzz_image(&bytes);
    }
}

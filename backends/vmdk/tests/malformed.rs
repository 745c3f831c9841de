//! Malformed disks: whatever the bytes, an error or a disk.

use proptest::prelude::*;
use rhea_vmdk::fuzz_image;

#[test]
fn every_field_with_every_extreme() {
    // The places are those of the fuzzer's areas: header, descriptor, directories, tables.
    let header = (0..20).map(|field| (0, field * 4));
    let fields = header.chain([
        (0, 73),
        (0, 76),
        (1, 0),
        (1, 30),
        (2, 0),
        (2, 4),
        (3, 0),
        (3, 20),
        (4, 0),
        (5, 0),
        (6, 0),
        (6, 8),
    ]);
    let values = [
        0,
        1,
        2,
        3,
        0x20,
        0x80,
        0x1000,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        u32::from_le_bytes(*b"\nRW "),
    ];
    for (area, offset) in fields {
        for value in values {
            for first in [0, 2, 4] {
                let mut bytes = vec![first, area, 0];
                bytes.extend((offset as u16).to_le_bytes());
                bytes.extend(value.to_le_bytes());
                fuzz_image(&bytes);
            }
        }
    }
}

#[test]
fn descriptors_of_all_sorts() {
    for text in [
        "",
        "version=1",
        "CID=1\ncreateType=\"monolithicFlat\"",
        "CID=zz\ncreateType=\"monolithicFlat\"",
        "CID=1\ncreateType=\"monolithicFlat\"\nRW 18446744073709551615 ZERO\nRW 18446744073709551615 ZERO",
        "CID=1\ncreateType=\"monolithicFlat\"\nRW 18014398507384832 ZERO\nRW 18014398507384832 ZERO",
        "CID=1\ncreateType=\"monolithicFlat\"\nRW 8 ZERO\nRW 4096 FLAT \"x\" 0",
        "CID=1\ncreateType=\"monolithicFlat\"\nRW 8192 ZERO",
        "COWD",
        "KDMV",
    ] {
        let mut bytes = vec![1];
        bytes.extend(text.as_bytes());
        fuzz_image(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_changes(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        fuzz_image(&bytes);
    }
}

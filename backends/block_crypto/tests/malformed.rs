//! LUKS volumes with one field wrong each, and the error that names it; whatever all others are, an error or a disk.

use std::sync::Arc;

use proptest::prelude::*;
use rhea_async_io::block_on;
use rhea_block::{BlockNode, FileDriver, MemoryNode, NodeParts, OpenFlags, Progress, Registry};
use rhea_block_crypto::LuksDriver;
use rhea_block_crypto::fuzzing::fuzz_volume;
use rhea_options::Options;

const SLOTS: usize = 208;

/// A small volume, made by the driver: aes-128 in cbc mode, whose key material is short.
fn volume() -> Vec<u8> {
    let name = std::env::temp_dir().join(format!("rhea-luks-malformed-{}", std::process::id()));
    let mut registry = Registry::new();
    registry.add(FileDriver);
    registry.add(LuksDriver);
    registry.secrets().add("s", b"password".to_vec()).unwrap();
    let options = "size=64k,key-secret=s,iter-time=1,cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv";
    let options = Options::parse(options, None).unwrap();
    block_on(registry.create("luks", name.to_str().unwrap(), options, &Progress::new())).unwrap();
    let bytes = std::fs::read(&name).unwrap();
    let _ = std::fs::remove_file(&name);
    bytes
}

/// What opening says; without a password only the header is looked at.
fn said(volume: &[u8], with_password: bool) -> Result<(), String> {
    let mut registry = Registry::new();
    registry.add(LuksDriver);
    registry.secrets().add("s", b"password".to_vec()).unwrap();
    let file = BlockNode::new(NodeParts {
        name: "file".into(),
        driver_name: "memory",
        filename: String::new(),
        flags: OpenFlags::READ_ONLY,
        node: Box::new(MemoryNode::new(volume.to_vec())),
        backing: Arc::default(),
    });
    registry.remember(&file).unwrap();
    let mut options = Options::parse("driver=luks,file=file", None).unwrap();
    if with_password {
        options.set("key-secret", "s");
    }
    let flags = if with_password { OpenFlags::READ_ONLY } else { OpenFlags::READ_ONLY | OpenFlags::NO_IO };
    let opened = block_on(registry.open_node(options, flags, false));
    opened.map(drop).map_err(|error| error.to_string())
}

#[test]
fn errors_name_the_field() {
    let volume = volume();
    assert_eq!((said(&volume, false), said(&volume, true)), (Ok(()), Ok(())), "as it is, nothing is wrong");
    let second = SLOTS + 48;
    let payload = u32::from_be_bytes(volume[104..108].try_into().unwrap());
    let long = [b'x'; 32];
    // The last slot has 125 sectors, and starts 128 before the data.
    let last_sector = (payload - 4).to_be_bytes();
    let cases: &[(usize, &[u8], &str)] = &[
        (0, b"LUCK", "Volume is not in LUKS format"),
        (5, &[0], "Volume is not in LUKS format"),
        (6, &[0, 0], "LUKS version 0 is not supported"),
        (6, &[0, 2], "LUKS version 2 is not supported"),
        (6, &[1, 0], "LUKS version 256 is not supported"),
        (8, &long, "LUKS header cipher name is not NUL terminated"),
        (8, b"\xff", "LUKS header cipher name is not text"),
        (8, b"a\nb", "LUKS header cipher name is not text"),
        (8, b"\0", "Algorithm '' with key size 16 bytes not supported"),
        (8, b"des\0", "Algorithm 'des' with key size 16 bytes not supported"),
        (40, &long, "LUKS header cipher mode is not NUL terminated"),
        (40, b"\x80", "LUKS header cipher mode is not text"),
        (40, b"\0", "Unexpected cipher mode string format ''"),
        (40, b"cbc\0", "Unexpected cipher mode string format 'cbc'"),
        (40, b"lrw-plain64\0", "Cipher mode 'lrw' not supported"),
        (40, b"cbc-benbi\0", "IV generator 'benbi' not supported"),
        (40, b"cbc-essiv:whirl\0", "Hash algorithm 'whirl' not supported"),
        (40, b"cbc-\0", "IV generator '' not supported"),
        (40, b"xts-plain64\0", "Algorithm 'aes' with key size 8 bytes not supported"),
        (72, &long, "LUKS header hash spec is not NUL terminated"),
        (72, b"\xc3\x28", "LUKS header hash spec is not text"),
        (72, b"sha0\0", "Hash algorithm 'sha0' not supported"),
        (104, &[0, 0, 0, 1], "LUKS payload is overlapping with the header"),
        (104, &[0; 4], "LUKS payload is overlapping with the header"),
        (104, &[0, 0, 0, 9], "Keyslot 0 is overlapping with the encrypted payload"),
        (104, &last_sector, "Keyslot 7 is overlapping with the encrypted payload"),
        (104, &[0xff; 4], "the file ends before LUKS header payload-offset 2199023255040"),
        (108, &[0; 4], "Algorithm 'aes' with key size 0 bytes not supported"),
        (108, &[0, 0, 0, 17], "Algorithm 'aes' with key size 17 bytes not supported"),
        (108, &[0xff; 4], "Algorithm 'aes' with key size 4294967295 bytes not supported"),
        (164, &[0; 4], "LUKS key iteration count is zero"),
        (164, &[0x40, 0, 0, 1], "LUKS key iteration count 1073741825 is too large"),
        (168, &[b'0'; 40], "LUKS header uuid is not NUL terminated"),
        (168, &[7], "LUKS header uuid is not text"),
        (SLOTS, &[0; 4], "Keyslot 0 state (active/disable) is corrupted (0x00000000)"),
        (second, &[0, 0, 0xde, 0xae], "Keyslot 1 state (active/disable) is corrupted (0x0000deae)"),
        (SLOTS + 4, &[0; 4], "Keyslot 0 iteration count is zero"),
        (SLOTS + 4, &[0xff; 4], "Keyslot 0 iteration count 4294967295 is too large"),
        (SLOTS + 40, &[0, 0, 0, 1], "Keyslot 0 is overlapping with the LUKS header"),
        (SLOTS + 40, &[0xff; 4], "Keyslot 0 is overlapping with the encrypted payload"),
        (second + 40, &[0, 0, 0, 9], "Keyslots 0 and 1 are overlapping in the header"),
        (SLOTS + 44, &[0; 4], "Keyslot 0 is corrupted (stripes 0 != 4000)"),
        (SLOTS + 44, &[0, 0, 0x0f, 0xa1], "Keyslot 0 is corrupted (stripes 4001 != 4000)"),
        (second + 44, &[0xff; 4], "Keyslot 1 is corrupted (stripes 4294967295 != 4000)"),
    ];
    for (at, bytes, expected) in cases {
        let mut damaged = volume.clone();
        damaged[*at..at + bytes.len()].copy_from_slice(bytes);
        let said = said(&damaged, false).expect_err(expected);
        assert!(said.ends_with(expected), "at {at}: {said}, instead of {expected}");
    }
}

/// These are no field's fault: nobody can tell them from a wrong password.
#[test]
fn what_the_password_does_not_open_is_refused() {
    let volume = volume();
    let material = u32::from_be_bytes(volume[SLOTS + 40..SLOTS + 44].try_into().unwrap()) as usize * 512;
    let password = "Invalid password, cannot unlock any keyslot";
    for (what, at) in
        [("digest", 112), ("digest salt", 132), ("slot's salt", SLOTS + 8), ("key material", material)]
    {
        let mut damaged = volume.clone();
        damaged[at] ^= 1;
        assert_eq!(said(&damaged, false), Ok(()), "{what}");
        assert!(said(&damaged, true).unwrap_err().ends_with(password), "{what}");
    }
    let mut without = volume.clone();
    without[SLOTS..SLOTS + 4].copy_from_slice(&[0, 0, 0xde, 0xad]);
    assert!(said(&without, true).unwrap_err().ends_with(password));
    for len in [0, 6, 591, 592, 4096, material + 100] {
        assert!(said(&volume[..len], true).is_err(), "cut to {len}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_changes(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        fuzz_volume(&bytes);
    }
}

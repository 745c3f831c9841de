use super::*;
use crate::BlobSource;
use crate::tests::TempFile;
use proptest::prelude::*;
use std::io::Write;

const RAM: u64 = 0x8000_0000;
const MIB: u64 = 1 << 20;

fn placement(mib: u64) -> Placement {
    Placement { base: RAM + 2 * MIB, ram: RAM..RAM + mib * MIB, xlen: 64 }
}

fn load_bytes(bytes: &[u8], mib: u64) -> Result<Image, LoadError> {
    let file = TempFile::new(bytes);
    load("kernel", &file.0, &placement(mib))
}

fn image(image_size: u64) -> Vec<u8> {
    let mut bytes = vec![0x13; 256];
    bytes[..2].copy_from_slice(b"MZ");
    bytes[image::IMAGE_SIZE..][..8].copy_from_slice(&image_size.to_le_bytes());
    bytes[image::MAGIC..][..4].copy_from_slice(image::MAGIC_VALUE);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A 64-bit ELF file with one segment linked at `virt`.
fn elf(machine: u16, phys: u64, virt: u64, memory: u64) -> Vec<u8> {
    let mut bytes = vec![0u8; 0x100];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, b"\x7fELF\x02\x01\x01");
    put(18, &machine.to_le_bytes());
    put(24, &(virt + 0x10).to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &1u16.to_le_bytes());
    put(64, &1u32.to_le_bytes());
    put(72, &0x80u64.to_le_bytes());
    put(80, &virt.to_le_bytes());
    put(88, &phys.to_le_bytes());
    put(96, &0x80u64.to_le_bytes());
    put(104, &memory.to_le_bytes());
    bytes
}

#[test]
fn an_image_takes_what_its_header_says() {
    let loaded = load_bytes(&image(4 * MIB), 16).unwrap();
    assert_eq!((loaded.entry, loaded.end, loaded.format), (RAM + 2 * MIB, RAM + 6 * MIB, "Linux Image"));
    assert!(matches!(load_bytes(&image(15 * MIB), 16), Err(LoadError::TooLittleMemory { .. })));
    assert!(matches!(load_bytes(&image(u64::MAX), 16), Err(LoadError::TooLittleMemory { .. })));
}

#[test]
fn a_compressed_image_is_expanded_no_further_than_ram() {
    let loaded = load_bytes(&gzip(&image(MIB)), 16).unwrap();
    assert_eq!((loaded.end, loaded.format), (RAM + 3 * MIB, "Linux Image"));
    assert!(matches!(&loaded.blobs[0].source, BlobSource::Bytes(bytes) if *bytes == image(MIB)));
    let bomb = gzip(&vec![0; 64 << 20]);
    assert!(
        matches!(load_bytes(&bomb, 16), Err(LoadError::TooLittleMemory { needed, .. }) if needed <= 14 * MIB + 1)
    );
    let cut = gzip(&image(MIB));
    assert!(matches!(load_bytes(&cut[..cut.len() / 2], 16), Err(LoadError::Compressed { .. })));
}

#[test]
fn a_zboot_image_is_unpacked_or_refused_by_its_compression() {
    let payload = gzip(&image(MIB));
    let mut bytes = vec![0u8; 64];
    bytes[..8].copy_from_slice(b"MZ\0\0zimg");
    bytes[8..12].copy_from_slice(&64u32.to_le_bytes());
    bytes[12..16].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes[24..29].copy_from_slice(b"gzip\0");
    bytes.extend_from_slice(&payload);
    assert_eq!(load_bytes(&bytes, 16).unwrap().format, "Linux Image");
    bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(load_bytes(&bytes, 16), Err(LoadError::Malformed { .. })));
    bytes[24..29].copy_from_slice(b"zstd\0");
    assert!(matches!(load_bytes(&bytes, 16), Err(LoadError::Unsupported { .. })));
}

#[test]
fn an_elf_file_goes_to_its_physical_address_and_is_entered_there() {
    let virt = 0xffff_ffff_8000_0000;
    let loaded = load_bytes(&elf(243, RAM + MIB, virt, 0x1000), 16).unwrap();
    assert_eq!((loaded.entry, loaded.low, loaded.end), (RAM + MIB + 0x10, RAM + MIB, RAM + MIB + 0x1000));
    assert!(matches!(loaded.blobs[1].source, BlobSource::Zero(0xf80)));
    assert!(matches!(load_bytes(&elf(62, RAM, virt, 0x1000), 16), Err(LoadError::NotAKernel { .. })));
    assert!(matches!(load_bytes(&elf(243, 0x1000, virt, 0x1000), 16), Err(LoadError::Unsupported { .. })));
    assert!(matches!(load_bytes(&elf(243, RAM, virt, 1 << 63), 16), Err(LoadError::TooLittleMemory { .. })));
    let file = TempFile::new(&elf(243, RAM, RAM, 0x1000));
    let narrow = Placement { xlen: 32, ..placement(16) };
    assert!(matches!(load("kernel", &file.0, &narrow), Err(LoadError::Unsupported { .. })));
}

#[test]
fn anything_else_is_a_flat_binary_but_not_nothing() {
    let loaded = load_bytes(b"\x13\0\0\0", 16).unwrap();
    assert_eq!((loaded.entry, loaded.end, loaded.format), (RAM + 2 * MIB, RAM + 2 * MIB + 4, "flat binary"));
    assert!(matches!(load_bytes(b"", 16), Err(LoadError::Malformed { .. })));
}

/// An ELF file with a symbol table behind its segment.
fn elf_with_symbols(names: &[(&str, u64)]) -> Vec<u8> {
    let mut bytes = elf(243, RAM, RAM, 0x1000);
    let (mut strings, mut symbols) = (vec![0], vec![0; 24]);
    for (name, value) in names {
        symbols.extend((strings.len() as u32).to_le_bytes());
        symbols.extend([0; 4]);
        symbols.extend(value.to_le_bytes());
        symbols.extend([0; 8]);
        strings.extend(name.bytes().chain([0]));
    }
    let section = |kind: u32, offset: usize, size: usize, link: u32| {
        let mut header = vec![0; 64];
        header[4..8].copy_from_slice(&kind.to_le_bytes());
        header[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(size as u64).to_le_bytes());
        header[40..44].copy_from_slice(&link.to_le_bytes());
        header
    };
    let at = bytes.len();
    bytes.extend_from_slice(&symbols);
    bytes.extend_from_slice(&strings);
    let table = bytes.len();
    bytes.extend(section(0, 0, 0, 0));
    bytes.extend(section(2, at, symbols.len(), 2));
    bytes.extend(section(3, at + symbols.len(), strings.len(), 0));
    bytes[40..48].copy_from_slice(&(table as u64).to_le_bytes());
    bytes[58..60].copy_from_slice(&64u16.to_le_bytes());
    bytes[60..62].copy_from_slice(&3u16.to_le_bytes());
    bytes
}

#[test]
fn the_words_of_the_host_target_interface_are_found_by_their_symbols() {
    let both = [("x_tohost", 1), ("tohost", RAM + 0x40), ("fromhost", RAM + 0x80), ("tohost2", 2)];
    assert_eq!(load_bytes(&elf_with_symbols(&both), 16).unwrap().htif, Some((RAM + 0x40, RAM + 0x80)));
    assert_eq!(load_bytes(&elf_with_symbols(&both[..2]), 16).unwrap().htif, None);
    assert_eq!(load_bytes(&elf(243, RAM, RAM, 0x1000), 16).unwrap().htif, None);
}

proptest! {
    #[test]
    fn damaged_symbol_tables_do_no_harm(at in 0usize..800, value in any::<u8>()) {
        let mut bytes = elf_with_symbols(&[("tohost", RAM), ("fromhost", RAM + 8)]);
        let at = at % bytes.len();
        bytes[at] = value;
        let _ = load_bytes(&bytes, 16);
    }

    #[test]
    fn a_damaged_elf_header_is_refused_or_stays_within_ram(at in 4usize..120, value in any::<u8>()) {
        let mut bytes = elf(243, RAM, RAM, 0x1000);
        bytes[at] = value;
        if let Ok(image) = load_bytes(&bytes, 16) {
            for blob in &image.blobs {
                let segment = blob.segment();
                prop_assert!(segment.start >= RAM && segment.start + segment.len <= RAM + 16 * MIB);
            }
        }
    }
}

//! Images of the formats that are only read.
#![allow(dead_code, reason = "each test uses a part")]

use std::io::Write;

pub fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(vec![], flate2::Compression::default());
    encoder.write_all(bytes).expect("compresses");
    encoder.finish().expect("compresses")
}

/// A cloop image of whole blocks.
pub fn cloop_image(model: &[u8], block: usize) -> Vec<u8> {
    let mut image =
        b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n".to_vec();
    image.resize(128, 0);
    image.extend((block as u32).to_be_bytes());
    let blocks: Vec<Vec<u8>> = model.chunks(block).map(zlib).collect();
    image.extend((blocks.len() as u32).to_be_bytes());
    let mut at = 136 + 8 * (blocks.len() as u64 + 1);
    image.extend(at.to_be_bytes());
    for block in &blocks {
        at += block.len() as u64;
        image.extend(at.to_be_bytes());
    }
    image.extend(blocks.concat());
    image
}

/// A bochs image: version, extents of `extent` bytes, each with a bitmap of `bitmap` bytes.
pub fn bochs_image(version: u32, model: &[u8], extent: usize, bitmap: u32) -> Vec<u8> {
    let entries = model.len().div_ceil(extent);
    let mut image = vec![0; 512];
    image[..22].copy_from_slice(b"Bochs Virtual HD Image");
    image[32..39].copy_from_slice(b"Redolog");
    image[48..55].copy_from_slice(b"Growing");
    for (at, value) in [(64, version), (68, 512), (72, entries as u32), (76, bitmap), (80, extent as u32)] {
        image[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    let at = if version == 0x0001_0000 { 84 } else { 88 };
    image[at..at + 8].copy_from_slice(&(model.len() as u64).to_le_bytes());
    let mut extents = vec![];
    // From the last to the first, so that the catalog matters.
    let mut catalog = vec![0xffff_ffff_u32; entries];
    for (index, bytes) in model.chunks(extent).enumerate().rev() {
        if bytes.iter().all(|&b| b == 0) {
            continue;
        }
        catalog[index] = (extents.len() / (512 + extent)) as u32;
        let mut bits = vec![0; 512];
        let mut data = bytes.to_vec();
        data.resize(extent, 0);
        for (sector, bytes) in data.chunks_mut(512).enumerate() {
            match bytes.iter().all(|&b| b == 0) {
                // Must not be seen.
                true => bytes.fill(0xee),
                false => bits[sector / 8] |= 1 << (sector % 8),
            }
        }
        extents.extend(bits);
        extents.extend(data);
    }
    image.extend(catalog.iter().flat_map(|e| e.to_le_bytes()));
    image.extend(extents);
    image
}

/// A block table of the whole disk with the chunk types that are given in turn.
pub fn dmg_image(model: &[u8], kinds: &[u32], as_resources: bool) -> Vec<u8> {
    let mut data = vec![0x55; 100];
    let data_fork = data.len() as u64;
    let mut entries = vec![];
    for (index, bytes) in model.chunks(131_072).enumerate() {
        let kind = match bytes.iter().all(|&b| b == 0) {
            true => 2,
            false => kinds[index % kinds.len()],
        };
        let stored = match kind {
            2 => vec![],
            1 => bytes.to_vec(),
            0x8000_0004 => bytes.chunks(128).flat_map(|c| [&[0x7f + c.len() as u8], c].concat()).collect(),
            0x8000_0005 => zlib(bytes),
            0x8000_0006 => {
                let mut encoder = bzip2::write::BzEncoder::new(vec![], bzip2::Compression::fast());
                encoder.write_all(bytes).expect("compresses");
                encoder.finish().expect("compresses")
            }
            _ => {
                let mut out = vec![];
                lzfse_rust::encode_bytes(bytes, &mut out).expect("compresses");
                out
            }
        };
        entries.extend(kind.to_be_bytes());
        entries.extend(0u32.to_be_bytes());
        entries.extend((index as u64 * 256).to_be_bytes());
        entries.extend((bytes.len() as u64 / 512).to_be_bytes());
        entries.extend((data.len() as u64 - data_fork).to_be_bytes());
        entries.extend((stored.len() as u64).to_be_bytes());
        data.extend(stored);
    }
    entries.extend(0xffff_ffffu32.to_be_bytes());
    entries.resize(entries.len() + 36, 0);
    let mut mish = b"mish\0\0\0\x01".to_vec();
    mish.extend(0u64.to_be_bytes());
    mish.extend((model.len() as u64 / 512).to_be_bytes());
    mish.resize(200, 0);
    mish.extend((entries.len() as u32 / 40).to_be_bytes());
    mish.extend(entries);
    let tables_at = data.len();
    if as_resources {
        let mut fork = vec![0; 256];
        fork[0..4].copy_from_slice(&256u32.to_be_bytes());
        fork[4..8].copy_from_slice(&(256 + 4 + mish.len() as u32).to_be_bytes());
        fork[8..12].copy_from_slice(&(4 + mish.len() as u32).to_be_bytes());
        fork.extend((mish.len() as u32).to_be_bytes());
        fork.extend(&mish);
        fork.resize(fork.len() + 64, 0);
        data.extend(fork);
    } else {
        data.extend(
            b"<?xml version=\"1.0\"?><plist><dict><key>blkx</key><array><dict><key>Data</key><data>\n",
        );
        data.extend(base64(&mish));
        data.extend(b"\n</data></dict></array></dict></plist>\n");
    }
    let tables_len = data.len() - tables_at;
    let mut koly = vec![0; 512];
    koly[..4].copy_from_slice(b"koly");
    let mut put = |at: usize, value: usize| koly[at..at + 8].copy_from_slice(&(value as u64).to_be_bytes());
    put(0x18, data_fork as usize);
    put(0x20, tables_at - data_fork as usize);
    let fields = if as_resources { [0x28, 0x30] } else { [0xd8, 0xe0] };
    put(fields[0], tables_at);
    put(fields[1], tables_len);
    put(0x1ec, model.len() / 512);
    koly[4..12].copy_from_slice(&[0, 0, 0, 4, 0, 0, 2, 0]);
    data.extend(koly);
    data
}

pub fn base64(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = vec![];
    for (index, group) in bytes.chunks(3).enumerate() {
        if index % 19 == 18 {
            out.extend(b"\n\t\t");
        }
        let value = group.iter().fold(0u32, |v, &b| v << 8 | u32::from(b)) << (8 * (3 - group.len()));
        for digit in 0..4 {
            out.push(match digit <= group.len() {
                true => DIGITS[(value >> (18 - 6 * digit) & 63) as usize],
                false => b'=',
            });
        }
    }
    out
}

//! Images with one field wrong each: an error that names the field, or a disk, but never a panic, an endless loop or
//! much memory.

mod support;

use rhea_async_io::{IoVector, block_on};
use rhea_block::{OpenFlags, WriteFlags};
use rhea_image_formats::fuzz;
use support::read_only::*;
use support::*;

/// A small image of a format that can be written, with some data.
fn written(format: &str, set: &str) -> Vec<u8> {
    let folder = Folder::new();
    let file = folder.file("image");
    let registry = registry();
    block_on(async {
        create(&registry, format, &file, set, 5 << 20).await;
        let opened = open(&registry, format, &file, OpenFlags::empty()).await;
        for at in [0, 70_000, 1 << 20, 3 << 20] {
            let data = IoVector::from_slice(&[0x5a; 9000]);
            opened.node.write(at, &data, WriteFlags::empty()).await.expect("written");
        }
        opened.close().await;
    });
    std::fs::read(&file).expect("image")
}

/// Half of it zeroes, half of it not.
fn model(len: usize) -> Vec<u8> {
    (0..len).map(|at| if at / 4096 % 2 == 0 { 0 } else { at as u8 }).collect()
}

/// Each format's image, and where its fields are: offset, bytes.
fn samples() -> Vec<(&'static str, Vec<u8>, Vec<(usize, usize)>)> {
    let words = |from: usize, to: usize, step: usize| {
        (from..to).step_by(step).map(|at| (at, step)).collect::<Vec<_>>()
    };
    let vpc = written("vpc", "");
    let qed = written("qed", "cluster_size=4096,table_size=1");
    let l1 = u64::from_le_bytes(qed[0x28..0x30].try_into().expect("8 bytes")) as usize;
    let l2 = u64::from_le_bytes(qed[l1..l1 + 8].try_into().expect("8 bytes")) as usize;
    let qcow = written("qcow", "");
    let qcow_l1 = u64::from_be_bytes(qcow[40..48].try_into().expect("8 bytes")) as usize;
    let qcow_l2 = u64::from_be_bytes(qcow[qcow_l1..qcow_l1 + 8].try_into().expect("8 bytes")) as usize;
    let dmg = dmg_image(&model(131_072 * 3), &[1, 0x8000_0005], true);
    let trailer = dmg.len() - 512;
    let fork = u64::from_be_bytes(dmg[trailer + 0x28..trailer + 0x30].try_into().expect("8 bytes")) as usize;
    let table = fork + 260;
    let dmg_fields = [
        words(trailer, trailer + 512, 8),
        words(fork, fork + 16, 4),
        vec![(fork + 256, 4), (table, 4), (table + 8, 8), (table + 16, 8), (table + 24, 8), (table + 200, 4)],
        words(table + 204, table + 204 + 3 * 40, 8),
    ];
    vec![
        ("vdi", written("vdi", ""), [words(0x40, 0x1c8, 4), words(512, 512 + 20, 4)].concat()),
        ("vpc", vpc, [words(0, 88, 4), words(512, 512 + 48, 4), words(1536, 1536 + 12, 4)].concat()),
        ("qed", qed, [words(0, 64, 4), words(l1, l1 + 24, 8), words(l2, l2 + 24, 8)].concat()),
        (
            "parallels",
            written("parallels", "cluster_size=4096"),
            [words(0, 64, 4), words(64, 64 + 24, 4)].concat(),
        ),
        (
            "qcow",
            qcow,
            [words(0, 48, 4), words(qcow_l1, qcow_l1 + 16, 8), words(qcow_l2, qcow_l2 + 24, 8)].concat(),
        ),
        (
            "bochs",
            bochs_image(0x0002_0000, &model(16384 * 5), 16384, 4),
            [words(0, 104, 4), words(512, 512 + 20, 4)].concat(),
        ),
        (
            "cloop",
            cloop_image(&model(65536 * 3), 65536),
            [vec![(0, 8), (128, 4), (132, 4)], words(136, 136 + 32, 8)].concat(),
        ),
        ("dmg", dmg, dmg_fields.concat()),
    ]
}

/// Makes the checksums of a vpc image right, so that what lies behind them is reached.
fn reseal(image: &mut [u8]) {
    image[64..68].fill(0);
    let sum = image[..512].iter().map(|&b| u32::from(b)).sum::<u32>();
    image[64..68].copy_from_slice(&(!sum).to_be_bytes());
}

/// What a field of so many bytes is set to, in either order of bytes: nothing, one, the ends of signed and unsigned
/// numbers, and places at the file's end and just beyond it.
fn values(bytes: usize, file: u64) -> Vec<Vec<u8>> {
    let numbers = [
        0,
        1,
        2,
        511,
        513,
        file / 512,
        file - 1,
        file,
        file + 512,
        i32::MAX as u64,
        1 << 31,
        u32::MAX as u64 - 2,
        u32::MAX as u64 - 1,
        u32::MAX as u64,
        1 << 32,
        1 << 55,
        1 << 62,
        i64::MAX as u64 & !511,
        i64::MAX as u64,
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ];
    let fits = |number: &u64| bytes == 8 || *number <= u32::MAX.into();
    let both = |number: u64| {
        let big = number.to_be_bytes()[8 - bytes..].to_vec();
        [number.to_le_bytes()[..bytes].to_vec(), big]
    };
    numbers.into_iter().filter(fits).flat_map(both).collect()
}

#[test]
fn every_field_with_every_extreme() {
    for (format, image, fields) in samples() {
        assert!(fuzz::image(format, &image).0, "{format}: as it is, it can be opened");
        for (at, bytes) in fields {
            for value in values(bytes, image.len() as u64) {
                let mut damaged = image.clone();
                damaged[at..at + bytes].copy_from_slice(&value);
                if format == "vpc" && !(64..68).contains(&at) {
                    reseal(&mut damaged);
                }
                fuzz::image(format, &damaged);
            }
        }
    }
}

/// Neighbouring entries of the tables that count up to, and past, the largest numbers.
#[test]
fn runs_of_entries_end_where_numbers_end() {
    let tables: [(&str, Vec<u8>, usize); 3] = [
        ("vdi", written("vdi", ""), 512),
        ("parallels", written("parallels", "cluster_size=4096"), 64),
        ("bochs", bochs_image(0x0002_0000, &model(16384 * 5), 16384, 4), 512),
    ];
    for (format, image, at) in tables {
        for step in [1u32, 8] {
            for first in [u32::MAX - 3, u32::MAX - 2, u32::MAX - 1, u32::MAX, u32::MAX - 8 * step] {
                let mut damaged = image.clone();
                for i in 0..5 {
                    let entry = first.wrapping_add(i * step);
                    damaged[at + 4 * i as usize..][..4].copy_from_slice(&entry.to_le_bytes());
                }
                fuzz::image(format, &damaged);
            }
        }
    }
}

/// The last number that a block can have, and the special ones behind it, are no run of data.
#[test]
fn special_numbers_are_no_blocks() {
    let mut image = written("vdi", "");
    for (block, entry) in [0xffff_fffd_u32, 0xffff_fffe, 0xffff_ffff].iter().enumerate() {
        image[512 + 4 * block..][..4].copy_from_slice(&entry.to_le_bytes());
    }
    let folder = Folder::new();
    let file = folder.file("image");
    std::fs::write(&file, image).expect("image");
    block_on(async {
        let opened = open(&registry(), "vdi", &file, OpenFlags::READ_ONLY).await;
        let mut data = vec![1; 2 << 20];
        opened.node.read_bytes(1 << 20, &mut data).await.expect("zeroes");
        assert!(data.iter().all(|&b| b == 0));
        let status = opened.node.block_status(0, 5 << 20, true).await.expect("status");
        assert_eq!(status.len, 1 << 20);
        opened.close().await;
    });
}

/// Fields, and what must be said of them, when the image is opened or read at its start.
#[test]
fn errors_name_the_field_of_images_that_are_only_read() {
    let bochs = bochs_image(0x0002_0000, &model(16384 * 5), 16384, 4);
    let cloop = cloop_image(&model(65536 * 3), 65536);
    let dmg = dmg_image(&model(131_072 * 3), &[0x8000_0005], true);
    let trailer = dmg.len() - 512;
    let fork = u64::from_be_bytes(dmg[trailer + 0x28..trailer + 0x30].try_into().expect("8 bytes")) as usize;
    let chunk = fork + 260 + 204;
    let cases: &[(&str, &[u8], usize, &[u8], &str)] = &[
        ("bochs", &bochs, 64, &[9], "Image not in Bochs format"),
        ("bochs", &bochs, 72, &[0xff; 4], "Catalog size is too large"),
        ("bochs", &bochs, 72, &[1, 0, 0, 0], "Catalog size is too small for this disk size"),
        ("bochs", &bochs, 76, &[0; 4], "Bitmap size 0 is too small for the extent size"),
        ("bochs", &bochs, 80, &[0; 4], "Extent size must be at least 512"),
        ("bochs", &bochs, 80, &[1, 0x40], "Extent size 16385 is not a power of two"),
        ("bochs", &bochs, 80, &[0, 0, 0, 1], "Extent size 16777216 is too large"),
        ("bochs", &bochs, 88, &[0xff; 8], "Catalog size is too small for this disk size"),
        ("cloop", &cloop, 128, &[0, 0, 2, 1], "block_size 513 must be a multiple of 512"),
        ("cloop", &cloop, 128, &[0; 4], "block_size cannot be zero"),
        ("cloop", &cloop, 128, &[0x80, 0, 0, 0], "block_size 2147483648 must be 64 MB or less"),
        ("cloop", &cloop, 132, &[0xff; 4], "image requires too many offsets, try increasing block size"),
        (
            "cloop",
            &cloop,
            136,
            &[0xff; 8],
            "offsets not monotonically increasing at index 1, image file is corrupt",
        ),
        ("cloop", &cloop, 144, &[0x7f], "invalid compressed block size at index 1, image file is corrupt"),
        ("dmg", &dmg, trailer, b"x", "Could not locate UDIF trailer in dmg file"),
        ("dmg", &dmg, trailer + 0x28, &[0x80], "the resource fork lies beyond the file's end"),
        ("dmg", &dmg, trailer + 0x28, &[0xff; 8], "the resource fork lies beyond the file's end"),
        (
            "dmg",
            &dmg,
            trailer + 0x30,
            &[0xff; 8],
            "the resource fork of 18446744073709551615 bytes is too long",
        ),
        ("dmg", &dmg, trailer + 0x1ec, &[0x80], "of the trailer is too large"),
        ("dmg", &dmg, fork, &[0xff; 4], "the resource fork's data offset is invalid"),
        ("dmg", &dmg, fork + 256, &[0xff; 4], "the resource fork's resource length is invalid"),
        ("dmg", &dmg, fork + 260 + 200, &[0xff; 4], "a block table of 4294967295 chunks is too short"),
        ("dmg", &dmg, fork + 260 + 8, &[0xff; 8], "sector number of chunk 0 is too large"),
        ("dmg", &dmg, chunk, &[0x12], "are not known"),
        ("dmg", &dmg, chunk + 8, &[0x80], "sector number of chunk 0 is too large"),
        ("dmg", &dmg, chunk + 16, &[0x80], "sector count of chunk 0 is too large"),
        ("dmg", &dmg, chunk + 16, &[0, 0, 1], "for chunk 0 is larger than max (67108864)"),
        ("dmg", &dmg, chunk + 24, &[0xff; 8], "offset of chunk 0 is too large"),
        ("dmg", &dmg, chunk + 24, &[0, 0, 1], "chunk 0 lies beyond the file's end"),
        ("dmg", &dmg, chunk + 32, &[0xff; 8], "for chunk 0 is larger than max (67108864)"),
        ("dmg", &dmg, chunk + 48, &[0; 8], "two chunks hold the sector 0"),
    ];
    for (format, image, at, bytes, message) in cases {
        let folder = Folder::new();
        let file = folder.file("image");
        let mut image = image.to_vec();
        image[*at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&file, image).expect("image");
        let error = block_on(async {
            let node = match registry().open(&file, Some(format), OpenFlags::READ_ONLY).await {
                Ok(node) => node,
                Err(error) => return error,
            };
            node.read_bytes(0, &mut [0; 512]).await.expect_err(message)
        });
        assert!(error.to_string().ends_with(message), "{format} at {at:#x}: {error}");
    }
}

/// A catalog entry that no file is long enough for.
#[test]
fn bochs_catalog_entries_are_bounded() {
    let mut image = bochs_image(0x0002_0000, &model(16384 * 5), 16384, 4);
    image[76..80].copy_from_slice(&[0xff; 4]);
    image[512..516].copy_from_slice(&0xffff_fffe_u32.to_le_bytes());
    let folder = Folder::new();
    let file = folder.file("image");
    std::fs::write(&file, image).expect("image");
    block_on(async {
        let opened = open(&registry(), "bochs", &file, OpenFlags::READ_ONLY).await;
        let error = opened.node.read_bytes(0, &mut [0; 512]).await.expect_err("too large");
        assert!(error.to_string().ends_with("catalog entry 0 (0xfffffffe) is too large"), "{error}");
        opened.close().await;
    });
}

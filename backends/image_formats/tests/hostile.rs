//! Malformed images: errors, never panics, endless loops or much memory.

mod support;

use rhea_async_io::{IoVector, block_on};
use rhea_block::{OpenFlags, WriteFlags};
use rhea_image_formats::fuzz;
use support::*;

/// A small image of a format, with some data.
fn sample(format: &str) -> Vec<u8> {
    let folder = Folder::new();
    let file = folder.file("image");
    let registry = registry();
    let set = match format {
        "qed" => "cluster_size=4096,table_size=1",
        "parallels" => "cluster_size=4096",
        _ => "",
    };
    block_on(async {
        create(&registry, format, &file, set, 5 << 20).await;
        let opened = open(&registry, format, &file, OpenFlags::empty()).await;
        for at in [0, 70_000, 1 << 20] {
            let data = IoVector::from_slice(&[0x5a; 9000]);
            opened.node.write(at, &data, WriteFlags::empty()).await.expect("written");
        }
        opened.close().await;
    });
    std::fs::read(&file).expect("image")
}

/// The seeded twin of the fuzz targets: images with bytes changed where headers and tables are.
#[test]
fn damaged_images_do_no_harm() {
    for format in ["vdi", "vpc", "qed", "parallels", "qcow"] {
        let image = sample(format);
        assert_eq!(fuzz::image(format, &image), (true, true), "{format}");
        let mut random = Random(format.len() as u64);
        for _ in 0..150 {
            let mut damaged = image.clone();
            for _ in 0..=random.below(3) {
                let reach = [64, 512, 2048, 16384][random.below(4) as usize].min(damaged.len() as u64);
                let at = random.below(reach) as usize;
                let value = [0, 1, 0x7f, 0x80, 0xff, random.next() as u8][random.below(6) as usize];
                for byte in damaged.iter_mut().skip(at).take(1 + random.below(8) as usize) {
                    *byte = value;
                }
            }
            if format == "vpc" {
                reseal(&mut damaged);
            }
            if random.below(8) == 0 {
                damaged.truncate(random.below(damaged.len() as u64) as usize);
            }
            fuzz::image(format, &damaged);
        }
    }
}

/// Makes the footer's checksum right, so that what lies behind it is reached.
fn reseal(image: &mut [u8]) {
    image[64..68].fill(0);
    let sum = image[..512].iter().map(|&b| u32::from(b)).sum::<u32>();
    image[64..68].copy_from_slice(&(!sum).to_be_bytes());
}

#[test]
fn bytes_that_are_no_image_are_refused() {
    for format in fuzz::FORMATS {
        for image in [vec![], vec![0; 100], vec![0xff; 4096], b"koly".repeat(400)] {
            fuzz::image(format, &image);
        }
    }
}

/// Headers, and what must be said of them.
#[test]
fn errors_name_the_field() {
    let registry = registry();
    let cases: &[(&str, usize, &[u8], &str)] = &[
        ("vdi", 0x40, b"\0", "Image not in VDI format (bad signature beda1000)"),
        ("vdi", 0x44, &[2, 0, 1, 0], "unsupported VDI image (version 1.2)"),
        ("vdi", 0x154, &[1, 2], "unsupported VDI image (unaligned block map offset 0x201)"),
        ("vdi", 0x158, &[1, 4], "unsupported VDI image (unaligned data offset 0x401)"),
        ("vdi", 0x168, &[0, 16], "unsupported VDI image (sector size 4096 is not 512)"),
        ("vdi", 0x17a, &[8], "unsupported VDI image (block size 524288 is not 1048576)"),
        ("vdi", 0x1a8, &[1], "unsupported VDI image (non-NULL link UUID)"),
        ("vpc", 0x40, &[0], "Incorrect header checksum"),
        ("vpc", 0x200, b"x", "Invalid header magic"),
        ("vpc", 0x21c, &[0, 0, 0, 1], "Page table too small"),
        ("vpc", 0x21c, &[0xff; 4], "Max Table Entries too large (-1)"),
        ("vpc", 0x220, &[0, 0x30, 0, 0], "Invalid block size 3145728"),
        ("qed", 4, &[0xb8, 0xb], "QED cluster size is invalid"),
        ("qed", 8, &[3], "QED table size is invalid"),
        ("qed", 0x10, &[8], "Unsupported QED features: 8"),
        ("qed", 0x28, &[1], "QED table offset is invalid"),
        ("qed", 0x30, &[5], "QED image size is invalid"),
        ("parallels", 28, &[0; 4], "Invalid image: Zero sectors per track"),
        ("parallels", 28, &[0xff, 0xff, 0xff, 0x7f], "Invalid image: Too big cluster"),
        ("parallels", 32, &[0xff, 0xff, 0xff, 0x7f], "Catalog too large"),
        ("qcow", 4, &[0, 0, 0, 2], "qcow (v1) does not support qcow version 2"),
        ("qcow", 0x18, &[0; 8], "Image size is too small (must be at least 2 bytes)"),
        ("qcow", 0x18, &[0x80, 0], "Image too large"),
        ("qcow", 0x20, &[8], "Cluster size must be between 512 and 64k"),
        ("qcow", 0x21, &[5], "L2 table size must be between 512 and 64k"),
        ("qcow", 0x24, &[0, 0, 0, 2], "invalid encryption method in qcow header"),
    ];
    for (format, at, bytes, message) in cases {
        let folder = Folder::new();
        let file = folder.file("image");
        block_on(async {
            create(&registry, format, &file, "", 4 << 20).await;
            let mut image = std::fs::read(&file).expect("image");
            image[*at..at + bytes.len()].copy_from_slice(bytes);
            std::fs::write(&file, image).expect("image");
            let error = registry.open(&file, Some(format), OpenFlags::READ_ONLY).await.expect_err(message);
            assert!(error.to_string().ends_with(message), "{format} at {at:#x}: {error}");
        });
    }
}

//! The formats that are only read: images made here, read by us and by qemu-img.

mod support;

use rhea_async_io::block_on;
use rhea_block::OpenFlags;
use support::read_only::*;
use support::*;

fn disk(len: usize) -> Vec<u8> {
    let mut random = Random(11);
    let mut bytes = vec![0; len];
    for block in bytes.chunks_mut(3000) {
        match random.below(3) {
            0 => {}
            1 => block.fill(random.next() as u8),
            _ => block.iter_mut().for_each(|b| *b = random.next() as u8),
        }
    }
    bytes
}

/// Reads the image whole and in pieces, and compares it with what it was made of, and with what QEMU reads.
fn check(format: &str, name: &str, image: &[u8], model: &[u8], by_qemu: bool) {
    let folder = Folder::new();
    let file = folder.file(name);
    std::fs::write(&file, image).expect("image");
    let registry = registry();
    block_on(async {
        let opened = open(&registry, format, &file, OpenFlags::READ_ONLY).await;
        assert_eq!(opened.node.length(), model.len() as u64);
        let mut data = vec![0; model.len()];
        opened.node.read_bytes(0, &mut data).await.expect("read");
        assert!(
            data == model,
            "{format}: differs at {:x?}",
            data.iter().zip(model).position(|(a, b)| a != b)
        );
        let mut random = Random(5);
        for _ in 0..50 {
            let at = random.below(model.len() as u64) as usize;
            let len = (random.below(70_000) as usize).min(model.len() - at);
            opened.node.read_bytes(at as u64, &mut data[..len]).await.expect("read");
            assert!(data[..len] == model[at..at + len], "{format} at {at}");
        }
        opened.close().await;
        let refused = registry.open(&file, Some(format), OpenFlags::empty()).await.expect_err("read-only");
        assert_eq!(refused.errno(), libc::EACCES);
        let probed = registry.open(&file, None, OpenFlags::READ_ONLY).await.expect("probed");
        assert_eq!(probed.driver_name(), format);
    });
    if by_qemu && have_qemu() {
        let raw = folder.file("raw");
        std::fs::write(&raw, model).expect("raw");
        run("qemu-img", &["compare", "-f", format, "-F", "raw", &file, &raw]);
    }
}

#[test]
fn bochs() {
    for version in [0x0001_0000u32, 0x0002_0000] {
        let (extent, bitmap) = (16384usize, 4u32);
        let model = disk(50 * extent / 2);
        let image = bochs_image(version, &model, extent, bitmap);
        check("bochs", "image", &image, &model, true);
    }
}

#[test]
fn cloop() {
    let block = 65536;
    let model = disk(block * 9);
    let image = cloop_image(&model, block);
    check("cloop", "image", &image, &model, true);
}

#[test]
fn dmg_with_what_qemu_reads() {
    let mut model = disk(131_072 * 6 + 51_200);
    model[131_072..262_144].fill(0);
    check("dmg", "image.dmg", &dmg_image(&model, &[1, 0x8000_0005], false), &model, true);
    check("dmg", "image.dmg", &dmg_image(&model, &[0x8000_0005], true), &model, true);
}

#[test]
fn dmg_with_other_compressions() {
    let model = disk(131_072 * 8);
    let kinds = [0x8000_0004, 0x8000_0006, 0x8000_0007];
    check("dmg", "image.dmg", &dmg_image(&model, &kinds, false), &model, false);
}

//! The dirty bitmaps of Parallels images.

mod support;

use md5::{Digest, Md5};
use rhea_async_io::block_on;
use rhea_block::OpenFlags;
use support::*;

/// Puts a format extension with one bitmap (bits 0, 9 and 255 set) at the image's end.
fn with_bitmap(image: &mut Vec<u8>) {
    const CLUSTER: usize = 4096;
    let bits_at = image.len();
    let mut bits = vec![0; CLUSTER];
    (bits[0], bits[1], bits[31]) = (1, 2, 0x80);
    image.extend(bits);
    let extension_at = image.len();
    let mut features = vec![];
    features.extend(0x2038_5fae_252c_b34a_u64.to_le_bytes());
    features.extend(0u64.to_le_bytes());
    features.extend(40u32.to_le_bytes());
    features.extend(0u32.to_le_bytes());
    features.extend(2048u64.to_le_bytes());
    features.extend((1..=16).collect::<Vec<u8>>());
    features.extend(8u32.to_le_bytes());
    features.extend(1u32.to_le_bytes());
    features.extend((bits_at as u64 / 512).to_le_bytes());
    features.resize(CLUSTER - 24, 0);
    image.extend(0xab23_4cef_23dc_ea87_u64.to_le_bytes());
    image.extend(Md5::digest(&features));
    image.extend(features);
    image[56..64].copy_from_slice(&(extension_at as u64 / 512).to_le_bytes());
}

#[test]
fn bitmaps_are_read_until_the_image_is_written() {
    let folder = Folder::new();
    let file = folder.file("image");
    let registry = registry();
    block_on(async {
        create(&registry, "parallels", &file, "cluster_size=4096", 1 << 20).await;
        let mut image = std::fs::read(&file).expect("image");
        with_bitmap(&mut image);
        std::fs::write(&file, &image).expect("image");
        if have_qemu() {
            // It reads the extension as well, and would refuse a wrong one.
            run("qemu-img", &["info", "-f", "parallels", &file]);
        }

        let opened = open(&registry, "parallels", &file, OpenFlags::READ_ONLY).await;
        let bitmaps = opened.node.driver().bitmaps().expect("bitmaps");
        let list = bitmaps.list().await.expect("list");
        assert_eq!(list.len(), 1);
        assert_eq!(
            (list[0].name.as_str(), list[0].granularity),
            ("01020304-0506-0708-090a-0b0c0d0e0f10", 4096)
        );
        let bitmap = bitmaps.load(&list[0].name).await.expect("loaded");
        let set: Vec<u64> = (0..256).filter(|i| bitmap.get(i * 4096)).collect();
        assert_eq!(set, [0, 9, 255]);
        opened.close().await;

        let opened = open(&registry, "parallels", &file, OpenFlags::empty()).await;
        opened.node.write_bytes(5000, b"x").await.expect("written");
        opened.close().await;
        let opened = open(&registry, "parallels", &file, OpenFlags::READ_ONLY).await;
        let left = opened.node.driver().bitmaps().expect("bitmaps").list().await.expect("list");
        assert!(left.is_empty(), "they are no longer true");
        opened.close().await;

        let at = image.len() - 4096;
        image[at + 100] ^= 1;
        std::fs::write(&file, &image).expect("image");
        let error =
            registry.open(&file, Some("parallels"), OpenFlags::READ_ONLY).await.expect_err("checksum");
        assert!(error.to_string().ends_with("Wrong checksum in Format Extension header"), "{error}");
    });
}

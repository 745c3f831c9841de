//! What clients are told of ranges besides allocation: dirty bitmaps, and the depth in the backing chain.

mod support;

use std::sync::Arc;

use rhea_async_io::block_on;
use rhea_block::{BlockNode, DirtyBitmap, OpenFlags, Progress, StatusFlags};
use rhea_nbd::{Export, ExportOptions, ServerConfig};
use rhea_options::Options;
use support::{Folder, TestServer, open};

const GRANULARITY: u64 = 65536;
const SIZE: u64 = 1 << 20;

/// A qcow2 image with a bitmap of its first part.
fn image(folder: &Folder, enabled: bool) -> String {
    let path = folder.text("image");
    block_on(async {
        let registry = rhea_block_drivers::registry();
        let options = Options::parse(&format!("size={SIZE}"), None).unwrap();
        registry.create("qcow2", &path, options, &Progress::new()).await.unwrap();
        let node = registry.open(&path, Some("qcow2"), OpenFlags::empty()).await.unwrap();
        let mut bitmap = DirtyBitmap::new("b", GRANULARITY, SIZE).unwrap();
        bitmap.set(0, GRANULARITY);
        bitmap.enabled = enabled;
        bitmap.persistent = true;
        node.driver().bitmaps().unwrap().store(&bitmap).await.unwrap();
        node.close().await.unwrap();
    });
    path
}

async fn offer(disk: &Arc<BlockNode>, writable: bool) -> rhea_block::Result<Arc<Export>> {
    let options = ExportOptions { writable, bitmaps: vec!["b".into()], ..ExportOptions::default() };
    Export::new(disk.clone(), options).await
}

/// What a context says of each part of an export, as the bits that in `base:allocation` mean a hole (1) and zeroes (2).
fn told(server: &TestServer, context: &str) -> Vec<u8> {
    let mut options = Options::default();
    for (key, value) in [
        ("driver", "nbd"),
        ("server.type", "unix"),
        ("server.path", &server.socket),
        ("x-dirty-bitmap", context),
    ] {
        options.set(key, value);
    }
    block_on(async {
        let registry = rhea_block_drivers::registry();
        let node = registry.open_node(options, OpenFlags::READ_ONLY, true).await.unwrap();
        let mut parts = Vec::new();
        for part in 0..SIZE / GRANULARITY {
            let flags = node.block_status(part * GRANULARITY, GRANULARITY, true).await.unwrap().flags;
            let (hole, zero) = (!flags.contains(StatusFlags::DATA), flags.contains(StatusFlags::ZERO));
            parts.push(u8::from(hole) | u8::from(zero) << 1);
        }
        node.close().await.unwrap();
        parts
    })
}

/// The parts of an export that its bitmap says are dirty.
fn dirty(server: &TestServer) -> Vec<u64> {
    let told = told(server, "qemu:dirty-bitmap:b");
    (0..).zip(told).filter(|&(_, bits)| bits == 1).map(|(part, _)| part).collect()
}

#[test]
fn a_bitmap_of_a_writable_export_shows_what_is_written_meanwhile() {
    let folder = Folder::new();
    let path = image(&folder, true);
    let disk = block_on(rhea_block_drivers::registry().open(&path, Some("qcow2"), OpenFlags::UNMAP)).unwrap();
    let export = block_on(offer(&disk, true)).unwrap();
    let mut server = TestServer::start(&folder.path("s"), ServerConfig::default(), vec![export]);
    assert_eq!(dirty(&server), [0]);
    let client = open(&server.uri(""), OpenFlags::UNMAP).unwrap();
    block_on(async {
        client.write_bytes(5 * GRANULARITY - 1, &[1; 2]).await.unwrap();
        client.discard(9 * GRANULARITY, GRANULARITY).await.unwrap();
    });
    assert_eq!(dirty(&server), [0, 4, 5, 9]);
    block_on(client.close()).unwrap();
    server.stop();
    drop(server);
    // The image has the same.
    let kept = block_on(disk.driver().bitmaps().unwrap().load("b")).unwrap();
    assert_eq!(kept.count(), 4 * GRANULARITY);
    assert!(disk.find_bitmap("b").is_none(), "nothing is recorded for the export any more");
    block_on(disk.close()).unwrap();
}

#[test]
fn a_bitmap_that_records_fits_no_read_only_export_of_a_writable_disk() {
    let folder = Folder::new();
    let path = image(&folder, true);
    let registry = rhea_block_drivers::registry();
    let disk = block_on(registry.open(&path, Some("qcow2"), OpenFlags::UNMAP)).unwrap();
    let error = block_on(offer(&disk, false)).unwrap_err();
    assert_eq!(error.to_string(), "Enabled bitmap 'b' incompatible with readonly export");
    block_on(disk.close()).unwrap();
    // Nobody writes: it stays as it is.
    let disk = block_on(registry.open(&path, Some("qcow2"), OpenFlags::READ_ONLY)).unwrap();
    let export = block_on(offer(&disk, false)).unwrap();
    let server = TestServer::start(&folder.path("s"), ServerConfig::default(), vec![export]);
    assert_eq!(dirty(&server), [0]);
}

#[test]
fn a_bitmap_that_does_not_record_stays_as_it_is() {
    let folder = Folder::new();
    let path = image(&folder, false);
    let disk = block_on(rhea_block_drivers::registry().open(&path, Some("qcow2"), OpenFlags::UNMAP)).unwrap();
    let export = block_on(offer(&disk, true)).unwrap();
    let server = TestServer::start(&folder.path("s"), ServerConfig::default(), vec![export]);
    let client = open(&server.uri(""), OpenFlags::UNMAP).unwrap();
    block_on(client.write_bytes(5 * GRANULARITY, &[1; 512])).unwrap();
    assert_eq!(dirty(&server), [0]);
    block_on(client.close()).unwrap();
}

#[test]
fn the_depth_of_each_part_in_the_backing_chain_is_told() {
    let folder = Folder::new();
    let base = image(&folder, true);
    let overlay = folder.text("overlay");
    let registry = rhea_block_drivers::registry();
    let disk = block_on(async {
        let node = registry.open(&base, Some("qcow2"), OpenFlags::empty()).await.unwrap();
        node.write_bytes(2 * GRANULARITY, &[1; 2 * GRANULARITY as usize]).await.unwrap();
        node.close().await.unwrap();
        let options = format!("size={SIZE},backing_file={base},backing_fmt=qcow2");
        let options = Options::parse(&options, None).unwrap();
        registry.create("qcow2", &overlay, options, &Progress::new()).await.unwrap();
        let node = registry.open(&overlay, Some("qcow2"), OpenFlags::UNMAP).await.unwrap();
        node.write_bytes(3 * GRANULARITY, &[2; GRANULARITY as usize]).await.unwrap();
        node
    });
    let options = ExportOptions { writable: true, allocation_depth: true, ..ExportOptions::default() };
    let export = block_on(Export::new(disk.clone(), options)).unwrap();
    let server = TestServer::start(&folder.path("s"), ServerConfig::default(), vec![export]);
    // 1: in the image itself; 2: in its backing file; 0: nowhere.
    let mut expected = vec![0; (SIZE / GRANULARITY) as usize];
    expected[2..4].copy_from_slice(&[2, 1]);
    assert_eq!(told(&server, "qemu:allocation-depth"), expected);
}

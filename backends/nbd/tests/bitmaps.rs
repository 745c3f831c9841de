//! Dirty bitmaps of an image as its server's clients see them.

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

/// The parts of an export that its bitmap says are dirty.
fn dirty(server: &TestServer) -> Vec<u64> {
    let mut options = Options::default();
    for (key, value) in [
        ("driver", "nbd"),
        ("server.type", "unix"),
        ("server.path", &server.socket),
        ("x-dirty-bitmap", "qemu:dirty-bitmap:b"),
    ] {
        options.set(key, value);
    }
    block_on(async {
        let registry = rhea_block_drivers::registry();
        let node = registry.open_node(options, OpenFlags::READ_ONLY, true).await.unwrap();
        let mut parts = Vec::new();
        for part in 0..SIZE / GRANULARITY {
            // The bit of a dirty part is, among the bits of `base:allocation`, that of a hole.
            let status = node.block_status(part * GRANULARITY, GRANULARITY, true).await.unwrap();
            parts.extend((!status.flags.contains(StatusFlags::DATA)).then_some(part));
        }
        node.close().await.unwrap();
        parts
    })
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

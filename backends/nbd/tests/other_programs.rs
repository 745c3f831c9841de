//! Other programs' clients at our server, and our client at their servers.

mod support;

use std::sync::Arc;

use rhea_async_io::{IoVector, block_on};
use rhea_block::{BlockNode, OpenFlags, StatusFlags, WriteFlags};
use rhea_nbd::{Address, ServerConfig};
use support::{Folder, OtherServer, TestServer, export, installed, memory, must, noise, open, run};

const SIZE: usize = 6 << 20;

fn server(folder: &Folder, disk: &Arc<BlockNode>) -> TestServer {
    TestServer::start(&folder.path("s"), ServerConfig::default(), vec![export(disk, "disk", true)])
}

fn bytes(node: &Arc<BlockNode>) -> Vec<u8> {
    let mut bytes = vec![0; node.length() as usize];
    block_on(node.read_bytes(0, &mut bytes)).unwrap();
    bytes
}

#[test]
fn nbdinfo_sees_what_the_export_is() {
    if !installed("nbdinfo") {
        return;
    }
    let folder = Folder::new();
    let server = server(&folder, &memory(vec![0; SIZE]));
    let text = must("nbdinfo", &["--json", &server.uri("disk")]);
    let facts: serde_json::Value = serde_json::from_str(&text).unwrap();
    let export = &facts["exports"][0];
    assert_eq!(export["export-size"], SIZE);
    assert_eq!(export["contexts"][0], "base:allocation");
    for key in ["can_cache", "can_df", "can_fast_zero", "can_flush", "can_fua", "can_trim", "can_zero"] {
        assert_eq!(export[key], true, "{key}");
    }
    assert_eq!(export["is_read_only"], false);
    let text = must("nbdinfo", &["--list", &server.uri("")]);
    assert!(text.contains("export=\"disk\""), "{text}");
}

#[test]
fn nbdcopy_copies_both_ways() {
    if !installed("nbdcopy") {
        return;
    }
    let folder = Folder::new();
    let disk = memory(vec![0; SIZE]);
    let server = server(&folder, &disk);
    let contents = noise(SIZE, 5);
    std::fs::write(folder.path("in"), &contents).unwrap();
    must("nbdcopy", &["--flush", &folder.text("in"), &server.uri("disk")]);
    assert_eq!(bytes(&disk), contents);
    must("nbdcopy", &[&server.uri("disk"), &folder.text("out")]);
    assert!(std::fs::read(folder.path("out")).unwrap() == contents);
}

#[test]
fn qemu_writes_and_reads() {
    if !installed("qemu-io") || !installed("qemu-img") {
        return;
    }
    let folder = Folder::new();
    let disk = memory(noise(SIZE, 6));
    let server = server(&folder, &disk);
    let uri = server.uri("disk");
    for cache in ["writeback", "writethrough"] {
        let commands = [
            "write -P 7 64k 3M",
            "read -P 7 64k 3M",
            "write -z 1M 100k",
            "read -P 0 1M 100k",
            "write -z -u 2M 64k",
            "discard 4M 512k",
            "write -f -P 9 511 514",
            "flush",
        ];
        let mut arguments = vec!["-f", "raw", "-t", cache];
        commands.iter().for_each(|c| arguments.extend(["-c", c]));
        arguments.push(&uri);
        let text = must("qemu-io", &arguments);
        assert!(!text.contains("failed"), "{text}");
    }
    let mut expected = noise(SIZE, 6);
    expected[64 << 10..(3 << 20) + (64 << 10)].fill(7);
    expected[1 << 20..(1 << 20) + (100 << 10)].fill(0);
    expected[2 << 20..(2 << 20) + (64 << 10)].fill(0);
    expected[511..1025].fill(9);
    assert!(bytes(&disk) == expected);
    std::fs::write(folder.path("expected"), &expected).unwrap();
    must("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri, &folder.text("expected")]);
    must("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, &folder.text("out")]);
    assert!(std::fs::read(folder.path("out")).unwrap() == expected);
}

#[test]
fn qemu_makes_an_image_in_an_export() {
    if !installed("qemu-img") {
        return;
    }
    let folder = Folder::new();
    let server = server(&folder, &memory(vec![0; SIZE]));
    let uri = server.uri("disk");
    must("qemu-img", &["create", "-q", "-f", "qcow2", &uri, "100M"]);
    must("qemu-io", &["-f", "qcow2", "-c", "write -P 3 50M 1M", &uri]);
    must("qemu-img", &["check", "-f", "qcow2", &uri]);
    let text = must("qemu-io", &["-f", "qcow2", "-c", "read -P 3 50M 1M", &uri]);
    assert!(!text.contains("failed"), "{text}");
}

/// `plain`: only what every server can.
fn exercise(node: &Arc<BlockNode>, plain: bool) {
    let length = node.length() as usize;
    let mut expected = noise(length, 11);
    block_on(async {
        node.write(0, &IoVector::from_slice(&expected), WriteFlags::empty()).await.unwrap();
        let piece = noise(777, 12);
        node.write(1_000_001, &IoVector::from_slice(&piece), WriteFlags::empty()).await.unwrap();
        expected[1_000_001..1_000_778].copy_from_slice(&piece);
        if !plain {
            node.write_zeroes(100_000, 65_536, WriteFlags::MAY_UNMAP | WriteFlags::FUA).await.unwrap();
            expected[100_000..165_536].fill(0);
            node.flush().await.unwrap();
        }
    });
    assert!(bytes(node) == expected);
    let end = block_on(node.write(length as u64, &IoVector::zeroed(512), WriteFlags::empty()));
    assert!(end.is_err());
    let mut at = 0;
    while at < length as u64 {
        let status = block_on(node.block_status(at, length as u64 - at, true)).unwrap();
        if status.flags.contains(StatusFlags::ZERO) {
            let range = at as usize..(at + status.len) as usize;
            assert!(expected[range].iter().all(|&b| b == 0));
        }
        at += status.len;
    }
    block_on(node.clone().close()).unwrap();
}

#[test]
fn our_client_at_debians_qemu_nbd() {
    if !installed("qemu-nbd") || !installed("qemu-img") {
        return;
    }
    for format in ["raw", "qcow2"] {
        let folder = Folder::new();
        must("qemu-img", &["create", "-q", "-f", format, &folder.text("image"), &SIZE.to_string()]);
        let (socket, image) = (folder.text("s"), folder.text("image"));
        let arguments =
            ["-t", "-e", "2", "-f", format, "-x", "disk", "--discard=unmap", "-k", &socket, &image];
        let _server = OtherServer::start("qemu-nbd", &arguments, &folder.path("s"));
        let uri = format!("nbd+unix:///disk?socket={socket}");
        exercise(&open(&uri, OpenFlags::UNMAP).unwrap(), false);
        let listed = block_on(rhea_nbd::list(&Address::Unix { path: socket.clone() }, None)).unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].name, "disk");
        assert_eq!(listed[0].details.as_ref().unwrap().length, SIZE as u64);
    }
}

#[test]
fn our_client_at_nbdkit() {
    if !installed("nbdkit") {
        return;
    }
    // Newstyle with and without structured replies, oldstyle, and a server with odd blocks.
    let kinds: [&[&str]; 4] = [&[], &["--no-sr"], &["-o"], &["--filter=blocksize-policy"]];
    for (index, kind) in kinds.iter().enumerate() {
        let folder = Folder::new();
        let (socket, size) = (folder.text("s"), SIZE.to_string());
        let mut arguments = vec!["-f", "-U", &socket];
        arguments.extend(*kind);
        arguments.extend(["memory", &size]);
        if index == 3 {
            arguments.extend(["blocksize-minimum=512", "blocksize-preferred=4096"]);
            arguments.extend(["blocksize-maximum=65536", "blocksize-error-policy=error"]);
        }
        let _server = OtherServer::start("nbdkit", &arguments, &folder.path("s"));
        // nbdkit announces more to oldstyle clients than it does for them.
        let node = open(&format!("nbd+unix:///?socket={socket}"), OpenFlags::UNMAP).unwrap();
        exercise(&node, index == 2);
    }
}

#[test]
fn other_servers_errors_are_told() {
    if !installed("nbdkit") {
        return;
    }
    let folder = Folder::new();
    let socket = folder.text("s");
    let arguments = [
        "-f",
        "-U",
        &socket,
        "--filter=error",
        "memory",
        "1M",
        "error-pread=ENOSPC",
        "error-pread-rate=100%",
    ];
    let _server = OtherServer::start("nbdkit", &arguments, &folder.path("s"));
    let (ok, _) = run("nbdinfo", &["--size", &format!("nbd+unix:///?socket={socket}")]);
    assert!(ok || !installed("nbdinfo"));
    let node = open(&format!("nbd+unix:///?socket={socket}"), OpenFlags::UNMAP).unwrap();
    let error = block_on(node.read(0, &mut IoVector::zeroed(512))).unwrap_err();
    assert_eq!(error.errno(), libc::ENOSPC);
    block_on(node.write(0, &IoVector::zeroed(512), WriteFlags::empty())).unwrap();
}

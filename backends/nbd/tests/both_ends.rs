//! Our client and our server.

mod support;

use std::sync::Arc;

use rhea_async_io::{IoVector, block_on, spawn};
use rhea_block::{BlockNode, OpenFlags, StatusFlags, WriteFlags};
use rhea_nbd::ServerConfig;
use support::{Folder, TestServer, export, memory, noise, open};

const SIZE: usize = 4 << 20;

fn contents(node: &Arc<BlockNode>) -> Vec<u8> {
    let mut bytes = vec![0; node.length() as usize];
    block_on(node.read_bytes(0, &mut bytes)).unwrap();
    bytes
}

#[test]
fn what_is_written_is_read_and_lands_in_the_disk() {
    let folder = Folder::new();
    let disk = memory(noise(SIZE, 1));
    let server =
        TestServer::start(&folder.path("s"), ServerConfig::default(), vec![export(&disk, "a", true)]);
    let node = open(&server.uri("a"), OpenFlags::UNMAP).unwrap();
    assert_eq!(node.length(), SIZE as u64);
    let mut expected = noise(SIZE, 1);
    assert_eq!(contents(&node), expected);
    block_on(async {
        for (at, len) in [(0, 1), (511, 514), (70_000, 300_000), (SIZE - 1, 1)] {
            let bytes = noise(len, at as u64);
            node.write(at as u64, &IoVector::from_slice(&bytes), WriteFlags::FUA).await.unwrap();
            expected[at..at + len].copy_from_slice(&bytes);
        }
        node.write_zeroes(100_000, 123_456, WriteFlags::MAY_UNMAP).await.unwrap();
        expected[100_000..223_456].fill(0);
        node.discard(3 << 20, 4096).await.unwrap();
        node.flush().await.unwrap();
    });
    // A disk in memory does not discard.
    assert_eq!(contents(&node), expected);
    assert_eq!(contents(&disk), expected);
    let error = block_on(node.write(SIZE as u64, &IoVector::zeroed(512), WriteFlags::empty())).unwrap_err();
    assert_eq!(error.errno(), libc::EIO);
    block_on(node.close()).unwrap();
}

#[test]
fn many_requests_at_once_from_several_threads() {
    let folder = Folder::new();
    let disk = memory(vec![0; SIZE]);
    let server = TestServer::start(&folder.path("s"), ServerConfig::default(), vec![export(&disk, "", true)]);
    let node = open(&server.uri(""), OpenFlags::UNMAP).unwrap();
    let threads: Vec<_> = (0..4_u64)
        .map(|thread| {
            let node = node.clone();
            std::thread::spawn(move || {
                block_on(async {
                    let tasks: Vec<_> = (0..100_u64)
                        .map(|i| {
                            let node = node.clone();
                            spawn(async move {
                                let at = (thread * 100 + i) * 8192;
                                let bytes = noise(8192, at + 1);
                                node.write(at, &IoVector::from_slice(&bytes), WriteFlags::empty())
                                    .await
                                    .unwrap();
                                let mut back = IoVector::zeroed(8192);
                                node.read(at, &mut back).await.unwrap();
                                assert_eq!(back.to_vec(), bytes);
                            })
                        })
                        .collect();
                    for task in tasks {
                        task.await;
                    }
                })
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    let bytes = contents(&disk);
    for at in (0..400).map(|i| i * 8192_usize) {
        assert_eq!(bytes[at..at + 8192], noise(8192, at as u64 + 1));
    }
}

#[test]
fn requests_given_up_halfway_do_no_harm_to_others() {
    let folder = Folder::new();
    let disk = memory(noise(SIZE, 7));
    let server = TestServer::start(&folder.path("s"), ServerConfig::default(), vec![export(&disk, "", true)]);
    let node = open(&server.uri(""), OpenFlags::UNMAP).unwrap();
    let expected = noise(SIZE, 7);
    block_on(async {
        for round in 0..200_u64 {
            let giving_up: Vec<_> = (0..3)
                .map(|i| {
                    let node = node.clone();
                    let same = IoVector::from_slice(&expected[..2 << 20]);
                    spawn(async move {
                        if i == 1 {
                            node.write(0, &same, WriteFlags::empty()).await.unwrap();
                        } else {
                            node.read(0, &mut IoVector::zeroed(1 << 20)).await.unwrap();
                        }
                    })
                })
                .collect();
            let staying = {
                let node = node.clone();
                spawn(async move {
                    let mut data = IoVector::zeroed(5000);
                    node.read(round * 100, &mut data).await.unwrap();
                    data.to_vec()
                })
            };
            for _ in 0..round % 7 {
                futures_lite_yield().await;
            }
            drop(giving_up);
            assert_eq!(staying.await, expected[round as usize * 100..][..5000]);
        }
    });
    assert_eq!(contents(&node), expected);
}

/// Lets others run once.
async fn futures_lite_yield() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if yielded {
            return std::task::Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

#[test]
fn a_read_only_export_refuses_writers() {
    let folder = Folder::new();
    let disk = memory(noise(SIZE, 2));
    let server =
        TestServer::start(&folder.path("s"), ServerConfig::default(), vec![export(&disk, "ro", false)]);
    let error = open(&server.uri("ro"), OpenFlags::empty()).unwrap_err();
    assert_eq!(error.errno(), libc::EACCES);
    let node = open(&server.uri("ro"), OpenFlags::READ_ONLY).unwrap();
    assert_eq!(contents(&node), noise(SIZE, 2));
    let error = open(&server.uri("other"), OpenFlags::READ_ONLY).unwrap_err();
    assert!(error.to_string().contains("Requested export not available"), "{error}");
    assert_eq!(error.hint(), Some("server reported: export 'other' not present"));
}

#[test]
fn holes_of_the_disk_are_known_to_the_client() {
    let folder = Folder::new();
    let path = folder.path("disk");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(8 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &noise(1 << 20, 3), 2 << 20).unwrap();
    let disk = open(path.to_str().unwrap(), OpenFlags::UNMAP).unwrap();
    let server = TestServer::start(&folder.path("s"), ServerConfig::default(), vec![export(&disk, "", true)]);
    let node = open(&server.uri(""), OpenFlags::UNMAP).unwrap();
    let status = |at| block_on(node.block_status(at, 8 << 20, true)).unwrap();
    let first = status(0);
    assert_eq!(first.len, 2 << 20);
    assert!(first.flags.contains(StatusFlags::ZERO) && !first.flags.contains(StatusFlags::DATA));
    let second = status(2 << 20);
    assert_eq!(second.len, 1 << 20);
    assert!(second.flags.contains(StatusFlags::DATA) && !second.flags.contains(StatusFlags::ZERO));
    assert!(status(3 << 20).flags.contains(StatusFlags::EOF));
    assert_eq!(contents(&node), contents(&disk));
}

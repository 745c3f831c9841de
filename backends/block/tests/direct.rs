//! Files opened around the page cache, copies within the file system, and other ways to open.

mod support;

use std::sync::Arc;

use proptest::prelude::*;
use rhea_async_io::{IoVector, block_on};
use rhea_block::{BlockNode, OpenFlags, WriteFlags};
use rhea_options::Options;
use support::{Folder, registry};

fn open(path: &str, flags: OpenFlags) -> rhea_block::Result<Arc<BlockNode>> {
    block_on(registry().open(path, Some("raw"), flags))
}

#[derive(Debug, Clone)]
enum Action {
    Write(u64, Vec<u8>),
    Zero(u64, u64, bool),
    Discard(u64, u64),
    Read(u64, u64),
    Truncate(u64),
}

fn action() -> impl Strategy<Value = Action> {
    let place = 0..60_000_u64;
    prop_oneof![
        (place.clone(), prop::collection::vec(1_u8.., 1..9000))
            .prop_map(|(at, data)| Action::Write(at, data)),
        (place.clone(), 1..9000_u64, any::<bool>()).prop_map(|(at, len, unmap)| Action::Zero(at, len, unmap)),
        (place.clone(), 1..9000_u64).prop_map(|(at, len)| Action::Discard(at, len)),
        (place.clone(), 1..70_000_u64).prop_map(|(at, len)| Action::Read(at, len)),
        (1..70_000_u64).prop_map(Action::Truncate),
    ]
}

/// Does the same to a disk and to bytes in memory. A disk may be longer than what was written, filled up with zeroes.
async fn apply(disk: &BlockNode, model: &mut Vec<u8>, action: &Action) -> Result<(), TestCaseError> {
    let extend = |model: &mut Vec<u8>, end: u64| {
        if model.len() < end as usize {
            model.resize(end as usize, 0);
        }
    };
    match action {
        Action::Write(at, data) => {
            disk.write(*at, &IoVector::from_slice(data), WriteFlags::empty()).await.expect("write");
            extend(model, at + data.len() as u64);
            model[*at as usize..*at as usize + data.len()].copy_from_slice(data);
        }
        Action::Zero(at, len, unmap) => {
            let flags = if *unmap { WriteFlags::MAY_UNMAP } else { WriteFlags::empty() };
            disk.write_zeroes(*at, *len, flags).await.expect("write_zeroes");
            extend(model, at + len);
            model[*at as usize..(at + len) as usize].fill(0);
        }
        Action::Discard(at, len) => {
            disk.discard(*at, *len).await.expect("discard");
            // What was discarded reads as before, or (on files) as zeroes: looked at here, compared later.
            let end = (at + len).min(model.len() as u64);
            if *at < end {
                let mut bytes = vec![0; (end - at) as usize];
                disk.read_bytes(*at, &mut bytes).await.expect("read");
                for (index, byte) in bytes.iter().enumerate() {
                    let old = &mut model[*at as usize + index];
                    prop_assert!(byte == old || *byte == 0);
                    *old = *byte;
                }
            }
        }
        Action::Read(at, len) => {
            let mut bytes = vec![1; *len as usize];
            disk.read_bytes(*at, &mut bytes).await.expect("read");
            let from = (*at as usize).min(model.len());
            let mut expected = model[from..model.len().min((at + len) as usize)].to_vec();
            expected.resize(bytes.len(), 0);
            prop_assert!(bytes == expected);
        }
        Action::Truncate(length) => {
            disk.truncate(*length, rhea_block::Truncate { exact: true, ..Default::default() })
                .await
                .expect("truncate");
            model.resize(*length as usize, 0);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_way_to_open_shows_the_same_disk(actions in prop::collection::vec(action(), 1..24)) {
        let folder = Folder::new("ways");
        for (name, flags) in [
            ("cached", OpenFlags::empty()),
            ("threads", OpenFlags::AIO_THREADS),
            ("direct", OpenFlags::DIRECT),
            ("direct-threads", OpenFlags::DIRECT | OpenFlags::AIO_THREADS),
            ("through", OpenFlags::WRITE_THROUGH),
        ] {
            let path = folder.path(name);
            std::fs::write(&path, b"").expect("a file");
            let disk = match open(&path, flags | OpenFlags::UNMAP) {
                // A file system that has no O_DIRECT.
                Err(error) if error.errno() == libc::EINVAL => continue,
                other => other.expect("opens"),
            };
            let mut model = Vec::new();
            block_on(async {
                for action in &actions {
                    apply(&disk, &mut model, action).await?;
                }
                disk.flush().await.expect("flush");
                Ok::<(), TestCaseError>(())
            })?;
            drop(disk);
            let stored = std::fs::read(&path).expect("the file");
            prop_assert!(stored.len() >= model.len());
            prop_assert!(stored[..model.len()] == model, "{name}");
            prop_assert!(stored[model.len()..].iter().all(|&b| b == 0), "{name}");
        }
    }
}

#[test]
fn parallel_requests_to_the_same_blocks_lose_nothing() {
    let folder = Folder::new("parallel");
    let path = folder.path("a");
    std::fs::write(&path, [0; 4096]).unwrap();
    let Ok(disk) = open(&path, OpenFlags::DIRECT) else {
        println!("skipped: no O_DIRECT here");
        return;
    };
    block_on(async {
        let mut tasks = vec![];
        for i in 0..100_u64 {
            let disk = disk.clone();
            tasks.push(rhea_async_io::spawn(async move { disk.write_bytes(i * 40, &[i as u8; 40]).await }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
    let stored = std::fs::read(&path).unwrap();
    assert!((0..4000).all(|at| stored[at] == (at / 40) as u8));
}

#[test]
fn ranges_are_copied_by_the_file_system() {
    let folder = Folder::new("copy");
    let (from, to) = (folder.path("from"), folder.path("to"));
    let bytes: Vec<u8> = (0..300_000_u32).map(|i| (i / 7) as u8).collect();
    std::fs::write(&from, &bytes).unwrap();
    std::fs::write(&to, []).unwrap();
    let (from, to) = (open(&from, OpenFlags::READ_ONLY).unwrap(), open(&to, OpenFlags::empty()).unwrap());
    let copied = block_on(from.copy_range(1000, &to, 5000, 250_000, WriteFlags::empty()));
    if copied.as_ref().is_err_and(|error| error.is_unsupported()) {
        println!("skipped: the file system cannot copy ranges");
        return;
    }
    copied.unwrap();
    let mut back = vec![0; 255_000];
    block_on(to.read_bytes(0, &mut back)).unwrap();
    assert!(back[..5000].iter().all(|&b| b == 0) && back[5000..] == bytes[1000..251_000]);
    assert_eq!(to.exact_length(), 255_000);
    assert!(block_on(to.copy_range(0, &from, 0, 1, WriteFlags::empty())).is_err(), "read-only");
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    let folder = Folder::new("options");
    let path = folder.path("a");
    std::fs::write(&path, [0; 512]).unwrap();
    let registry = registry();
    let open = |text: &str| {
        let options = Options::parse(&format!("driver=file,filename={path},{text}"), None).unwrap();
        block_on(registry.open_node(options, OpenFlags::empty(), true)).map(drop).map_err(|e| e.to_string())
    };
    let error = open("aio=native").unwrap_err();
    let expected = "aio=native was specified, but it requires cache.direct=on, which was not specified.";
    assert!(error.ends_with(expected), "{error}");
    open("aio=native,cache.direct=on").unwrap();
    open("aio=io_uring,locking=off").unwrap();
    open("aio=threads,locking=on").unwrap();
    assert!(open("locking=maybe").is_err());
    assert!(open("pr-manager=x").unwrap_err().contains("'pr-manager'"));
    std::fs::write(folder.path("b"), []).unwrap();
    let options = Options::parse("driver=file,filename=/dev/null", None).unwrap();
    let error = block_on(registry.open_node(options, OpenFlags::empty(), true)).unwrap_err();
    assert!(
        error.to_string().ends_with("'file' driver requires '/dev/null' to be a regular file"),
        "{error}"
    );
}

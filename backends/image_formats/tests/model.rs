//! Random requests against a flat model of the disk.

mod support;

use futures_util::future::try_join_all;
use proptest::prelude::*;
use rhea_async_io::{IoVector, block_on};
use rhea_block::{OpenFlags, WriteFlags};
use support::*;

#[derive(Debug, Clone)]
enum Step {
    /// At once: pieces of a range, each with its own byte.
    Write {
        at: u64,
        lens: Vec<u64>,
        byte: u8,
    },
    Zero {
        at: u64,
        len: u64,
    },
    Discard {
        at: u64,
        len: u64,
    },
    Flush,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<u64>(), prop::collection::vec(1u64..40_000, 1..5), 1u8..)
            .prop_map(|(at, lens, byte)| Step::Write { at, lens, byte }),
        2 => (any::<u64>(), 1u64..200_000).prop_map(|(at, len)| Step::Zero { at, len }),
        2 => (any::<u64>(), 1u64..400_000).prop_map(|(at, len)| Step::Discard { at, len }),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ]
}

async fn apply(image: &Opened, model: &mut [u8], step: &Step) -> Result<(), TestCaseError> {
    let size = model.len() as u64;
    let cut = |at: u64, len: u64| (at % size, len.min(size - at % size));
    match step {
        Step::Write { at, lens, byte } => {
            let (mut at, _) = cut(*at, 1);
            let mut writes = vec![];
            for (i, &len) in lens.iter().enumerate() {
                let len = len.min(size - at);
                let byte = byte.wrapping_add(i as u8);
                model[at as usize..(at + len) as usize].fill(byte);
                let node = image.node.clone();
                writes.push(async move {
                    let data = IoVector::from_slice(&vec![byte; len as usize]);
                    node.write(at, &data, WriteFlags::empty()).await
                });
                at += len;
            }
            try_join_all(writes).await.map_err(|e| TestCaseError::fail(e.to_string()))?;
        }
        Step::Zero { at, len } => {
            let (at, len) = cut(*at, *len);
            image.node.write_zeroes(at, len, WriteFlags::MAY_UNMAP).await.expect("zeroed");
            model[at as usize..(at + len) as usize].fill(0);
        }
        Step::Discard { at, len } => {
            // What is discarded may read as it did or as zeroes; the model follows.
            let (at, len) = cut(*at, *len);
            image.node.discard(at, len).await.expect("discarded");
            let mut data = vec![0; len as usize];
            image.node.read_bytes(at, &mut data).await.expect("read");
            for (new, old) in data.iter().zip(&mut model[at as usize..]) {
                prop_assert!(*new == 0 || new == old);
                *old = *new;
            }
        }
        Step::Flush => image.node.flush().await.expect("flushed"),
        Step::Reopen => unreachable!("done by the caller"),
    }
    Ok(())
}

async fn run_steps(format: &str, set: &str, steps: &[Step], size: u64) -> Result<(), TestCaseError> {
    let registry = registry();
    let folder = Folder::new();
    let file = folder.file("image");
    create(&registry, format, &file, set, size).await;
    let mut image = open(&registry, format, &file, OpenFlags::empty()).await;
    let mut model = vec![0; image.node.length() as usize];
    for step in steps {
        if matches!(step, Step::Reopen) {
            image.close().await;
            image = open(&registry, format, &file, OpenFlags::empty()).await;
            continue;
        }
        apply(&image, &mut model, step).await?;
    }
    for _ in 0..2 {
        let mut data = vec![0; model.len()];
        image.node.read_bytes(0, &mut data).await.expect("read");
        let first = data.iter().zip(&model).position(|(a, b)| a != b);
        prop_assert!(first.is_none(), "{} {}: differs at {:x?}", format, set, first);
        // Once more as the file has it.
        image.close().await;
        image = open(&registry, format, &file, OpenFlags::READ_ONLY).await;
    }
    if let Ok(result) = image.node.driver().check(Default::default()).await {
        prop_assert_eq!((result.corruptions, result.leaks, result.check_errors), (0, 0, 0), "{:?}", result);
    }
    image.close().await;
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn images_hold_what_was_written(steps in prop::collection::vec(step(), 1..20), size in 1u64..5000) {
        for (format, sets) in WRITABLE {
            for set in *sets {
                block_on(run_steps(format, set, &steps, size * 512))?;
            }
        }
    }
}

#[test]
fn images_opened_for_reading_can_be_written_after_a_reopen() {
    let registry = registry();
    for (format, _) in WRITABLE {
        let folder = Folder::new();
        let file = folder.file("image");
        block_on(async {
            create(&registry, format, &file, "", 4 << 20).await;
            let node = registry.open(&file, Some(format), OpenFlags::READ_ONLY).await.expect("opened");
            node.reopen(OpenFlags::UNMAP, Default::default()).await.expect(format);
            node.write_bytes(1000, &[7; 2000]).await.expect("written");
            node.reopen(OpenFlags::READ_ONLY, Default::default()).await.expect(format);
            node.write_bytes(1000, &[8; 2000]).await.expect_err("read-only again");
            node.close().await.expect("closed");
            let opened = open(&registry, format, &file, OpenFlags::READ_ONLY).await;
            let mut data = [0; 4000];
            opened.node.read_bytes(0, &mut data).await.expect("read");
            assert!(data[1000..3000].iter().all(|&b| b == 7), "{format}");
            opened.close().await;
        });
    }
}

/// Lets whoever else is ready go first.
async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        context.waker().wake_by_ref();
        match std::mem::replace(&mut yielded, true) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
}

/// A file in memory in which data of one byte finds no room, after others had their turn.
struct NoRoomFor(u8, rhea_block::MemoryNode);

#[async_trait::async_trait]
impl rhea_block::Node for NoRoomFor {
    fn length(&self) -> u64 {
        self.1.length()
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> rhea_block::Result<()> {
        self.1.read(offset, data).await
    }

    async fn write(
        &self,
        offset: u64,
        data: rhea_async_io::IoView<'_>,
        flags: WriteFlags,
    ) -> rhea_block::Result<()> {
        let mut first = [0];
        data.slice(0..1).read(0, &mut first);
        if first[0] == self.0 {
            yield_once().await;
            return Err(rhea_block::BlockError::os(libc::ENOSPC));
        }
        self.1.write(offset, data, flags).await
    }

    async fn flush(&self) -> rhea_block::Result<()> {
        Ok(())
    }

    async fn truncate(&self, length: u64, how: rhea_block::Truncate) -> rhea_block::Result<()> {
        self.1.truncate(length, how).await
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// Writes that find no room, alone and beside others that do: the header's count is right in the end.
#[test]
fn vdi_counts_no_block_of_a_write_that_failed() {
    block_on(async {
        let folder = Folder::new();
        let file = folder.file("image");
        let registry = registry();
        create(&registry, "vdi", &file, "", 5 << 20).await;
        let bytes = std::fs::read(&file).expect("image");
        let file = rhea_block::BlockNode::new(rhea_block::NodeParts {
            name: "file".into(),
            driver_name: "memory",
            filename: String::new(),
            flags: OpenFlags::empty(),
            node: Box::new(NoRoomFor(0xfa, rhea_block::MemoryNode::new(bytes))),
            backing: std::sync::Arc::default(),
        });
        registry.remember(&file).expect("the only node");
        let image = Opened::new(
            registry
                .open_node(options("driver=vdi,file=file"), OpenFlags::UNMAP, false)
                .await
                .expect("opened"),
        )
        .await;
        let (node, write) = (image.node.clone(), |at: u64, byte: u8| {
            let node = image.node.clone();
            async move { node.write(at << 20, &IoVector::from_slice(&[byte; 1 << 16]), WriteFlags::empty()).await }
        });
        let counted = async || {
            node.flush().await.expect("flushed");
            let mut count = [0; 4];
            file.read_bytes(0x184, &mut count).await.expect("read");
            u32::from_le_bytes(count)
        };
        write(0, 0xfa).await.expect_err("no room");
        assert_eq!(counted().await, 0);
        // The first of two fails after both have taken storage.
        let (failed, done) = futures_util::future::join(write(1, 0xfa), write(2, 1)).await;
        failed.expect_err("no room");
        done.expect("written");
        assert_eq!(counted().await, 2, "the block in use is the second");
        // What it left free is used before the file grows.
        write(3, 2).await.expect("written");
        assert_eq!(counted().await, 2);
        let check = node.driver().check(Default::default()).await.expect("check");
        assert_eq!((check.corruptions, check.leaks), (0, 0), "{:?}", check.messages);
        let mut data = [0; 2];
        node.read_bytes(2 << 20, &mut data[..1]).await.expect("read");
        node.read_bytes(3 << 20, &mut data[1..]).await.expect("read");
        assert_eq!(data, [1, 2]);
        // Counted by a flush while the write was under way.
        let (failed, flushed) = futures_util::future::join(write(4, 0xfa), async {
            write(2, 3).await?;
            node.flush().await
        })
        .await;
        failed.expect_err("no room");
        flushed.expect("flushed");
        drop(node);
        image.close().await;
        let mut count = [0; 4];
        file.read_bytes(0x184, &mut count).await.expect("read");
        assert_eq!(u32::from_le_bytes(count), 2);
    });
}

//! Jobs on disks in memory, with writers that do not wait for them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView, Timer, block_on, spawn};
use rhea_block::{
    BlockNode, BlockStatus, DirtyBitmap, Edge, Limits, MemoryNode, Node, OpenFlags, Permissions, Result,
    Role, StatusFlags, WriteFlags,
};
use rhea_block_jobs::{Backup, Commit, Control, JobKind, JobStatus, Mirror, Scope, Stream, Sync};

const LENGTH: usize = 4 << 20;

fn disk(byte: u8) -> Arc<BlockNode> {
    BlockNode::anonymous("memory", Box::new(MemoryNode::new(vec![byte; LENGTH])), OpenFlags::UNMAP)
}

fn contents(node: &Arc<BlockNode>) -> Vec<u8> {
    let mut data = vec![0; LENGTH];
    block_on(node.read_bytes(0, &mut data)).unwrap();
    data
}

/// A parent, as a machine's disk would be.
fn user(node: &Arc<BlockNode>) -> Arc<Edge> {
    let edge = Edge::new("user", Role::File, node.clone());
    block_on(edge.set_permissions(Permissions::CONSISTENT_READ | Permissions::WRITE, Permissions::all()))
        .unwrap();
    edge
}

/// Writes at changing places, each time another byte, until told to stop; returns what the disk must hold.
async fn scribble(edge: Arc<Edge>, mut model: Vec<u8>, rounds: u32) -> Vec<u8> {
    let mut seed = 12345u64;
    for round in 0..rounds {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let at = (seed >> 33) as usize % (LENGTH - 5000);
        let len = 1 + (seed >> 20) as usize % 5000;
        edge.node().write_bytes(at as u64, &vec![round as u8 | 1; len]).await.unwrap();
        model[at..at + len].fill(round as u8 | 1);
        if round % 16 == 0 {
            Timer::after(Duration::from_millis(1)).await;
        }
    }
    model
}

#[test]
fn a_mirror_loses_no_write_and_takes_the_sources_place() {
    for round in 0..5 {
        let (source, target) = (disk(7), disk(0));
        let edge = user(&source);
        let control = Control::new("m", JobKind::Mirror);
        let mirror = Mirror {
            source: source.clone(),
            target: target.clone(),
            sync: Sync::Full,
            granularity: 65536,
            replace: true,
        };
        let model = block_on(async {
            let worker = control.clone();
            let job = spawn(async move { mirror.run(&worker).await });
            let writer = spawn(scribble(edge.clone(), vec![7; LENGTH], 400 + round * 50));
            while control.status() != JobStatus::Ready {
                Timer::after(Duration::from_millis(1)).await;
            }
            control.complete().unwrap();
            job.await.unwrap();
            writer.await
        });
        assert!(Arc::ptr_eq(&edge.node(), &target));
        assert!(contents(&target) == model, "round {round}");
    }
}

#[test]
fn a_backup_is_the_disk_as_it_was() {
    let (source, target) = (disk(3), disk(0));
    let edge = user(&source);
    let before = block_on(scribble(edge.clone(), vec![3; LENGTH], 50));
    let control = Control::new("b", JobKind::Backup);
    // After the first piece nothing more is copied, but for the sake of writes, until the limit is lifted.
    control.set_speed(1);
    let backup =
        Backup { source: source.clone(), target: target.clone(), scope: Scope::Full, compress: false };
    let after = block_on(async {
        let worker = control.clone();
        let job = spawn(async move { backup.run(&worker).await });
        // The job's filter stands before the disk as soon as the job has begun.
        while edge.node().driver_name() != "copy-before-write" {
            assert_ne!(control.status(), JobStatus::Concluded, "{:?}", control.error());
            Timer::after(Duration::from_millis(1)).await;
        }
        let after = scribble(edge.clone(), before.clone(), 300).await;
        control.set_speed(0);
        job.await.unwrap();
        after
    });
    assert!(contents(&target) == before);
    assert!(contents(&source) == after);
    assert!(Arc::ptr_eq(&edge.node(), &source));
}

#[test]
fn an_incremental_backup_copies_what_is_marked() {
    let (source, target) = (disk(1), disk(0));
    let bitmap = source.add_bitmap(DirtyBitmap::new("b", 65536, LENGTH as u64).unwrap());
    block_on(source.write_bytes(200_000, &[9; 100])).unwrap();
    let scope = Scope::Incremental(bitmap.clone());
    let backup = Backup { source: source.clone(), target: target.clone(), scope, compress: false };
    block_on(backup.run(&Control::new("b", JobKind::Backup))).unwrap();
    let copy = contents(&target);
    assert_eq!(copy[196_608..200_000], [1; 3392]);
    assert_eq!((copy[200_050], copy[0], copy[262_144]), (9, 0, 0));
    assert_eq!(bitmap.lock().count(), 0);
}

/// A layer: holds what was written to it, and reads the rest from behind.
struct Layer {
    bytes: MemoryNode,
    written: parking_lot::Mutex<DirtyBitmap>,
    backing: Arc<rhea_block::BackingSlot>,
}

#[async_trait]
impl Node for Layer {
    fn limits(&self) -> Limits {
        Limits { request_alignment: 4096, ..Limits::default() }
    }

    fn length(&self) -> u64 {
        LENGTH as u64
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        let mut whole = std::mem::take(data);
        let mut at = offset;
        while !whole.is_empty() {
            let rest = whole.split_off(4096);
            match self.written.lock().get(at) {
                true => futures_util::FutureExt::now_or_never(self.bytes.read(at, &mut whole)).unwrap()?,
                false => whole.fill(0..4096, 0xee),
            }
            if !self.written.lock().get(at) {
                rhea_block::read_behind(&self.backing, at, &mut whole).await?;
            }
            data.append(whole);
            whole = rest;
            at += 4096;
        }
        Ok(())
    }

    async fn write(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
        self.written.lock().set(offset, data.len() as u64);
        self.bytes.write(offset, data, flags).await
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn block_status(&self, offset: u64, len: u64, _: bool) -> Result<BlockStatus> {
        let next = self.written.lock().next_dirty(offset);
        let (len, flags) = match next {
            Some((from, run)) if from == offset => (len.min(run), StatusFlags::DATA | StatusFlags::ALLOCATED),
            Some((from, _)) => (len.min(from - offset), StatusFlags::empty()),
            None => (len, StatusFlags::empty()),
        };
        Ok(BlockStatus { len, flags, map: None })
    }

    async fn change_backing_file(&self, _: Option<rhea_block::BackingFile>) -> Result<()> {
        Ok(())
    }

    async fn make_empty(&self) -> Result<()> {
        self.written.lock().clear();
        Ok(())
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

fn layer(behind: &Arc<BlockNode>) -> Arc<BlockNode> {
    let backing = Arc::<rhea_block::BackingSlot>::default();
    let node = BlockNode::new(rhea_block::NodeParts {
        name: String::new(),
        driver_name: "layer",
        filename: String::new(),
        flags: OpenFlags::UNMAP,
        node: Box::new(Layer {
            bytes: MemoryNode::new(vec![0; LENGTH]),
            written: parking_lot::Mutex::new(DirtyBitmap::new("w", 4096, LENGTH as u64).unwrap()),
            backing: backing.clone(),
        }),
        backing,
    });
    block_on(node.set_backing(Some(behind.clone()))).unwrap();
    node
}

#[test]
fn a_commit_moves_the_layers_down() {
    let base = disk(1);
    let middle = layer(&base);
    block_on(middle.write_bytes(10_000, &[2; 9000])).unwrap();
    let top = layer(&middle);
    block_on(top.write_bytes(12_000, &[3; 100])).unwrap();
    let seen = contents(&top);
    let commit = Commit { top: top.clone(), base: base.clone(), empty_top: true };
    block_on(commit.run(&Control::new("c", JobKind::Commit))).unwrap();
    assert!(contents(&base) == seen);
    let status = block_on(top.block_status(0, LENGTH as u64, false)).unwrap();
    assert!(!status.flags.contains(StatusFlags::ALLOCATED) && status.len == LENGTH as u64);
}

#[test]
fn a_stream_moves_the_layers_up_while_writes_go_on() {
    let base = disk(1);
    let middle = layer(&base);
    block_on(middle.write_bytes(10_000, &[2; 1_000_000])).unwrap();
    let top = layer(&middle);
    let edge = user(&top);
    let before = contents(&top);
    let stream = Stream { node: top.clone(), base: Some(base.clone()), backing_file: None };
    let control = Control::new("s", JobKind::Stream);
    let model = block_on(async {
        let writer = spawn(scribble(edge.clone(), before, 300));
        stream.run(&control).await.unwrap();
        writer.await
    });
    assert!(Arc::ptr_eq(&top.backing().unwrap(), &base));
    assert!(contents(&top) == model);
    assert_eq!(control.progress().fraction(), 1.0);
}

#[test]
fn a_cancelled_job_leaves_the_graph_as_it_was() {
    let (source, target) = (disk(7), disk(0));
    let edge = user(&source);
    let control = Control::new("m", JobKind::Backup);
    control.set_speed(1);
    let backup = Backup { source: source.clone(), target, scope: Scope::Full, compress: false };
    let error = block_on(async {
        let worker = control.clone();
        let job = spawn(async move { backup.run(&worker).await });
        Timer::after(Duration::from_millis(50)).await;
        control.cancel();
        job.await.unwrap_err()
    });
    assert_eq!(error.errno(), libc::ECANCELED);
    assert!(Arc::ptr_eq(&edge.node(), &source));
}

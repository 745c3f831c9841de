//! What formats that map clusters have in common: reads and writes by the map, storage for new clusters, the order in
//! which it all reaches the disk.
//!
//! ## Order
//! A write to a new cluster puts its data (and what the cluster held before, around it) into the file, then changes the
//! map in memory. [`flush`] makes both stable: it takes the changes of the map made so far, lets the format write what
//! must not come later than the map (a header's counter, the file's length), flushes, writes the leaf tables, flushes,
//! writes the tables that refer to them, and flushes. So whatever the file's map refers to is in the file at any moment:
//! a crash leaves at most storage that nothing refers to.
//!
//! ## Concurrency
//! Clusters that get storage are held by [`RangeLocks`] meanwhile. Storage that was given to a request that was dropped is
//! not given to another, as the kernel may still be writing there.

use std::sync::Arc;

use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView};
use rhea_block::{
    BackingSlot, BlockError, BlockNode, BlockStatus, Edge, Result, StatusFlags, WriteFlags, read_behind,
};

use crate::ranges::RangeLocks;
use crate::tables::{Rank, TableCache};

/// What a cluster's entry in the map says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mapping {
    /// Nothing: what lies behind the image is read, or zeroes.
    Unallocated,
    /// It reads as zeroes.
    Zero,
    /// Its data lies here in the file.
    Data(u64),
    /// Its data lies here in the file, compressed to so many bytes.
    Compressed(u64, u32),
}

/// Storage for clusters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Storage {
    /// Where in the file.
    pub(crate) offset: u64,
    /// For how many clusters, one after the other.
    pub(crate) count: u64,
    /// It reads as zeroes already.
    pub(crate) zeroed: bool,
}

/// An image's map, as the format has it.
#[async_trait]
pub(crate) trait ClusterMap: Send + Sync {
    /// The image file.
    fn file(&self) -> &Arc<Edge>;
    /// What lies behind the image.
    fn backing(&self) -> Option<&BackingSlot> {
        None
    }
    /// Bytes in a cluster.
    fn cluster_size(&self) -> u64;
    /// Bytes of the disk.
    fn disk_length(&self) -> u64;
    /// The tables.
    fn tables(&self) -> &TableCache;
    /// Locks of clusters that get storage.
    fn ranges(&self) -> &RangeLocks;
    /// Held while the tables are written back.
    fn writing_back(&self) -> &async_lock::Mutex<()>;
    /// What the map says of a cluster, and for how many of up to `count` clusters it goes on so.
    async fn lookup(&self, cluster: u64, count: u64) -> Result<(Mapping, u64)>;
    /// Storage for (some of) `count` clusters from `cluster` on, which have none.
    async fn allocate(&self, cluster: u64, count: u64) -> Result<Storage>;
    /// The storage is not needed after all, and nobody is writing to it.
    fn release(&self, _cluster: u64, _storage: Storage) {}
    /// Enters storage, filled with data, into the map (in memory).
    async fn map(&self, cluster: u64, storage: Storage) -> Result<()>;
    /// Lets clusters read as zeroes, if the format can say so (in memory).
    async fn map_zero(&self, _cluster: u64, _count: u64) -> Result<bool> {
        Ok(false)
    }
    /// Comes before a cluster's data is changed in place.
    async fn before_overwrite(&self, _cluster: u64, _count: u64) -> Result<()> {
        Ok(())
    }
    /// Reads a whole compressed cluster.
    async fn read_compressed(&self, _offset: u64, _len: u32) -> Result<Vec<u8>> {
        Err(BlockError::malformed("a compressed cluster in a format that has none"))
    }
    /// Encrypts data for the disk's `offset`; `None`: the data goes to the file as it is.
    async fn encrypt(&self, _offset: u64, _data: &IoView<'_>) -> Result<Option<IoVector>> {
        Ok(None)
    }
    /// Decrypts data of the disk's `offset` in place.
    async fn decrypt(&self, _offset: u64, _data: &mut IoVector) -> Result<()> {
        Ok(())
    }
    /// Writes what must be in the file before the map's changes are.
    async fn before_write_back(&self) -> Result<()> {
        Ok(())
    }
}

/// Cuts the request at `at`, of `left` bytes, to what the map describes alike.
async fn run(map: &(impl ClusterMap + ?Sized), at: u64, left: u64) -> Result<(Mapping, u64, u64)> {
    let size = map.cluster_size();
    let within = at % size;
    let (mapping, count) = map.lookup(at / size, (within + left).div_ceil(size)).await?;
    let len = (count.max(1).saturating_mul(size) - within).min(left);
    Ok((mapping, count, len))
}

/// A request for reading.
pub(crate) async fn read(map: &(impl ClusterMap + ?Sized), offset: u64, data: &mut IoVector) -> Result<()> {
    let mut rest = data.take();
    let mut at = offset;
    while !rest.is_empty() {
        let (mapping, _, len) = run(map, at, rest.len() as u64).await?;
        let tail = rest.split_off(len as usize);
        read_as(map, mapping, at, &mut rest).await?;
        data.append(rest);
        rest = tail;
        at += len;
    }
    Ok(())
}

/// Reads bytes that the map describes alike.
async fn read_as(
    map: &(impl ClusterMap + ?Sized),
    mapping: Mapping,
    at: u64,
    data: &mut IoVector,
) -> Result<()> {
    let within = at % map.cluster_size();
    match mapping {
        Mapping::Zero => data.fill(0..data.len(), 0),
        Mapping::Unallocated => match map.backing() {
            Some(backing) => {
                map.file().node().debug_event("read_backing_aio").await;
                read_behind(backing, at, data).await?;
            }
            None => data.fill(0..data.len(), 0),
        },
        Mapping::Data(start) => {
            let file = map.file().node();
            file.debug_event("read_aio").await;
            file.read(start + within, data).await?;
            map.decrypt(at, data).await?;
        }
        Mapping::Compressed(start, len) => {
            map.file().node().debug_event("read_compressed").await;
            let bytes = map.read_compressed(start, len).await?;
            let within = within as usize;
            data.write(0, &bytes[within..within + data.len()]);
        }
    }
    Ok(())
}

/// A request for writing.
pub(crate) async fn write(map: &(impl ClusterMap + ?Sized), offset: u64, data: IoView<'_>) -> Result<()> {
    let mut done = 0;
    while done < data.len() {
        let at = offset + done as u64;
        let (mapping, count, len) = run(map, at, (data.len() - done) as u64).await?;
        let part = data.slice(done..done + len as usize);
        done += match mapping {
            Mapping::Data(start) => {
                map.before_overwrite(at / map.cluster_size(), count).await?;
                write_data(map, start + at % map.cluster_size(), at, part).await?;
                len as usize
            }
            _ => write_new(map, at, part, count).await?,
        };
    }
    Ok(())
}

async fn write_data(map: &(impl ClusterMap + ?Sized), to: u64, at: u64, part: IoView<'_>) -> Result<()> {
    let file = map.file().node();
    let encrypted = map.encrypt(at, &part).await?;
    file.debug_event("write_aio").await;
    match encrypted {
        Some(data) => file.write(to, &data, WriteFlags::empty()).await,
        None => file.write(to, part, WriteFlags::empty()).await,
    }
}

/// Writes to clusters without storage of their own; says how many bytes of the part are written (0: somebody else was
/// quicker, the map has changed).
async fn write_new(map: &(impl ClusterMap + ?Sized), at: u64, part: IoView<'_>, count: u64) -> Result<usize> {
    let size = map.cluster_size();
    let cluster = at / size;
    let storage;
    let len;
    {
        let _held = map.ranges().lock(cluster..cluster + count).await;
        let (mapping, count) = map.lookup(cluster, count).await?;
        if matches!(mapping, Mapping::Data(_)) {
            return Ok(0);
        }
        map.file().node().debug_event("cluster_alloc").await;
        storage = map.allocate(cluster, count).await?;
        len = (storage.count * size - at % size).min(part.len() as u64) as usize;
        if let Err(error) = fill_new(map, mapping, at, part.slice(0..len), storage).await {
            map.release(cluster, storage);
            return Err(error);
        }
        map.map(cluster, storage).await?;
    }
    if map.tables().is_full() {
        write_back(map).await?;
    }
    Ok(len)
}

/// Writes the data to new storage, and around it, up to whole clusters, what was there before.
async fn fill_new(
    map: &(impl ClusterMap + ?Sized),
    mapping: Mapping,
    at: u64,
    part: IoView<'_>,
    storage: Storage,
) -> Result<()> {
    let size = map.cluster_size();
    let within = at % size;
    let start = at - within;
    let end = at + part.len() as u64;
    let whole_end = start + storage.count * size;
    let mut head = old_content(map, mapping, start, at).await?;
    let mut tail = old_content(map, mapping, end, whole_end).await?;
    // With encryption zeroes are stored encrypted like anything else.
    let plain = map.encrypt(at, &IoVector::default().view()).await?.is_none();
    let file = map.file().node();
    for (old, from, to) in [(&mut head, start, at), (&mut tail, end, whole_end)] {
        if from == to || old.is_some() {
            continue;
        }
        if !plain {
            *old = Some(IoVector::zeroed((to - from) as usize));
        } else if !storage.zeroed {
            file.write_zeroes(storage.offset + (from - start), to - from, WriteFlags::empty()).await?;
        }
    }
    if head.is_none() && tail.is_none() {
        return write_data(map, storage.offset + within, at, part).await;
    }
    let head = head.unwrap_or_default();
    let from = at - head.len() as u64;
    let mut all = head;
    let mut middle = IoVector::zeroed(part.len());
    middle.write_view(0, &part);
    all.append(middle);
    all.append(tail.unwrap_or_default());
    write_data(map, storage.offset + (from - start), from, all.view()).await
}

/// What clusters without storage read as in a range; `None`: zeroes.
async fn old_content(
    map: &(impl ClusterMap + ?Sized),
    mapping: Mapping,
    from: u64,
    to: u64,
) -> Result<Option<IoVector>> {
    let zero = match mapping {
        Mapping::Zero => true,
        Mapping::Unallocated => map.backing().is_none_or(|slot| slot.load().is_none()),
        _ => false,
    };
    let inside = to.min(map.disk_length());
    if zero || from >= inside {
        return Ok(None);
    }
    let mut old = IoVector::zeroed((inside - from) as usize);
    map.file().node().debug_event("cow_read").await;
    read_as(map, mapping, from, &mut old).await?;
    if old.view().is_zero() {
        return Ok(None);
    }
    old.append(IoVector::zeroed((to - inside) as usize));
    Ok(Some(old))
}

/// A request for zeroes. `ENOTSUP` where they must be written as data.
pub(crate) async fn write_zeroes(
    map: &(impl ClusterMap + ?Sized),
    offset: u64,
    len: u64,
    flags: WriteFlags,
) -> Result<()> {
    let size = map.cluster_size();
    let end = offset + len;
    let mut at = offset;
    while at < end {
        let (mapping, count, len) = run(map, at, end - at).await?;
        let cluster = at / size;
        match mapping {
            Mapping::Zero => {}
            Mapping::Unallocated if map.backing().is_none_or(|slot| slot.load().is_none()) => {}
            Mapping::Data(start) => {
                if map.encrypt(at, &IoVector::default().view()).await?.is_some() {
                    return Err(BlockError::os(libc::ENOTSUP));
                }
                map.before_overwrite(cluster, count).await?;
                map.file().node().write_zeroes(start + at % size, len, flags).await?;
            }
            _ => {
                let to_end = at + len == map.disk_length();
                let whole = at.is_multiple_of(size) && (len.is_multiple_of(size) || to_end);
                if !whole {
                    return zeroes_as_data(map, at, end).await;
                }
                let Some(count) = zero_new(map, cluster, count, len.div_ceil(size)).await? else {
                    return zeroes_as_data(map, at, end).await;
                };
                at = (at + count * size).min(end);
                continue;
            }
        }
        at += len;
    }
    if map.tables().is_full() {
        write_back(map).await?;
    }
    Ok(())
}

/// Lets clusters without storage read as zeroes; says how many (0: the map has changed meanwhile). `None`: the format
/// has no way to.
async fn zero_new(
    map: &(impl ClusterMap + ?Sized),
    cluster: u64,
    count: u64,
    wanted: u64,
) -> Result<Option<u64>> {
    let _held = map.ranges().lock(cluster..cluster + count).await;
    let (now, count) = map.lookup(cluster, count).await?;
    if matches!(now, Mapping::Data(_)) {
        return Ok(Some(0));
    }
    let count = count.min(wanted);
    Ok(map.map_zero(cluster, count).await?.then_some(count))
}

/// Bytes of zeroes written at once where they are data.
const ZERO_CHUNK: u64 = 1 << 20;

fn zeroes_as_data<'a>(
    map: &'a (impl ClusterMap + ?Sized),
    from: u64,
    to: u64,
) -> futures_util::future::BoxFuture<'a, Result<()>> {
    Box::pin(async move {
        let zeroes = IoVector::zeroed((to - from).min(ZERO_CHUNK) as usize);
        let mut at = from;
        while at < to {
            let len = (to - at).min(ZERO_CHUNK);
            write(map, at, zeroes.view().slice(0..len as usize)).await?;
            at += len;
        }
        Ok(())
    })
}

/// Puts the map's changes into the file, after what they refer to. Not flushed at the end.
pub(crate) async fn write_back(map: &(impl ClusterMap + ?Sized)) -> Result<()> {
    let _writing_back = map.writing_back().lock().await;
    let mut changes = map.tables().snapshot();
    if changes.is_empty() {
        return Ok(());
    }
    map.before_write_back().await?;
    for rank in [Rank::Leaf, Rank::Root] {
        if changes.has(rank) {
            let why = match rank {
                Rank::Leaf => "image_before_leaf_tables",
                Rank::Root => "image_before_root_tables",
            };
            flush_file(&map.file().node(), why).await?;
            changes.write(rank).await?;
        }
    }
    Ok(())
}

/// Makes everything that was acknowledged stable.
pub(crate) async fn flush(map: &(impl ClusterMap + ?Sized)) -> Result<()> {
    let file = map.file().node();
    file.debug_event("flush_to_os").await;
    write_back(map).await?;
    file.debug_event("flush_to_disk").await;
    flush_file(&file, "image_after_tables").await
}

/// Flushes, for a reason that the file is told of as a debug event: so the crash tests can leave out the flushes of one
/// name, and show that each is needed.
pub(crate) async fn flush_file(file: &BlockNode, why: &'static str) -> Result<()> {
    file.debug_event(why).await;
    file.flush().await
}

/// What lies at an offset.
pub(crate) async fn block_status(
    map: &(impl ClusterMap + ?Sized),
    offset: u64,
    len: u64,
    unallocated: StatusFlags,
    data: StatusFlags,
) -> Result<BlockStatus> {
    let (mapping, _, run_len) = run(map, offset, len).await?;
    let (flags, at) = match mapping {
        Mapping::Unallocated => (unallocated, None),
        Mapping::Zero => (StatusFlags::ZERO | StatusFlags::ALLOCATED, None),
        Mapping::Compressed(..) => {
            (StatusFlags::DATA | StatusFlags::ALLOCATED | StatusFlags::COMPRESSED, None)
        }
        Mapping::Data(start) => {
            let encrypted = map.encrypt(offset, &IoVector::default().view()).await?.is_some();
            let flags = StatusFlags::DATA | StatusFlags::ALLOCATED | data;
            match encrypted {
                true => (flags, None),
                false => (flags | StatusFlags::OFFSET_VALID, Some(start + offset % map.cluster_size())),
            }
        }
    };
    Ok(BlockStatus { len: run_len, flags, map: at.map(|at| (map.file().node(), at)) })
}

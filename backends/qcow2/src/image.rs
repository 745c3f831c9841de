//! An open image: what its tables say, in memory and on disk.
//!
//! What I/O, snapshots, bitmaps, check and amend share. The order in which tables reach the disk is argued in the crate's
//! documentation; in short:
//!
//! * Changes of L1 entries, L2 entries and refcounts are made in memory, without waiting, and are written by
//!   [`Image::write_back`]: refcounts first, a flush, then L2 and L1 entries, a flush.
//! * References are added at once, before anything names the cluster. They are taken away only after the table that named
//!   the cluster has been written and flushed ([`Image::release`] queues). A crash leaves leaks, never a used cluster
//!   that counts as free.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Weak};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::{Mutex, RwLock};
use rhea_async_io::IoVector;
use rhea_block::{BackingSlot, BlockError, BlockNode, Edge, Result, ResultExt, Secrets, WriteFlags};

use crate::cache::{DirtySlice, Slices};
use crate::compress::CompressedClusters;
use crate::encryption::Encryption;
use crate::finish::finish;
use crate::geometry::Geometry;
use crate::header::{Header, Incompatible};
use crate::in_flight::InFlight;
use crate::options::Settings;
use crate::overlap::{OverlapChecks, Sections};
use crate::refcount::{RefcountTable, Refcounts};
use crate::release::{Released, Releases};

/// Why clusters are given back; the options `pass-discard-*` say for which of these the file is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Release {
    /// Never tell the file.
    Silent,
    /// The guest discarded them.
    Request,
    /// A snapshot was removed.
    Snapshot,
    /// Anything else: copy-on-write, tables that moved.
    Other,
}

/// Table writes merged into one are no longer than this.
const MAX_TABLE_WRITE: usize = 1 << 20;
/// Table writes under way at a time.
const TABLE_WRITES: usize = 16;

/// The header, and its bytes as they are on disk.
pub(crate) struct StoredHeader {
    pub(crate) header: Header,
    pub(crate) disk: Vec<u8>,
}

/// The active L1 table.
#[derive(Default)]
pub(crate) struct L1Table {
    pub(crate) offset: u64,
    pub(crate) entries: Vec<u64>,
    /// Indices of entries that the disk does not have yet.
    pub(crate) dirty: BTreeSet<usize>,
}

/// An open image.
pub struct Image {
    pub(crate) me: Weak<Image>,
    pub(crate) file: Arc<Edge>,
    pub(crate) data_file: Option<Arc<Edge>>,
    pub(crate) backing: Arc<BackingSlot>,
    pub(crate) geometry: Geometry,
    pub(crate) settings: Mutex<Settings>,
    pub(crate) header: Mutex<StoredHeader>,
    /// Held while the header is written.
    pub(crate) header_io: Arc<async_lock::Mutex<()>>,
    /// Bytes of the disk.
    pub(crate) length: AtomicU64,
    pub(crate) l1: RwLock<L1Table>,
    /// Slices of L2 tables.
    pub(crate) l2: Slices,
    /// Held while an L2 table is made.
    pub(crate) l2_growth: async_lock::Mutex<()>,
    pub(crate) refcounts: Refcounts,
    pub(crate) releases: Releases,
    pub(crate) in_flight: InFlight,
    pub(crate) overlap: OverlapChecks,
    pub(crate) compressed: CompressedClusters,
    pub(crate) encryption: Option<Encryption>,
    /// The user's secrets, for changing key slots.
    pub(crate) secrets: Secrets,
    /// Enabled bitmaps, while the image is written to.
    pub(crate) bitmaps: crate::bitmap::tracking::Tracking,
    /// Requests hold a share; what changes the image as a whole (snapshots, truncation, amend) holds it alone.
    pub(crate) requests: async_lock::RwLock<()>,
    /// Held while tables are written out.
    pub(crate) sync: async_lock::Mutex<()>,
    /// Something that L2 or L1 entries in memory name is not known to be on stable storage.
    pub(crate) barrier: AtomicBool,
    pub(crate) writable: AtomicBool,
    /// Found corrupt while open: no more writes.
    pub(crate) corrupt: AtomicBool,
    /// The dirty bit was set when the image was opened, and nobody has repaired it since.
    pub(crate) dirty_at_open: AtomicBool,
    /// Flushes are left out: the image is being made, and nobody relies on it yet.
    pub(crate) unsafe_flush: AtomicBool,
    pub(crate) preallocation: crate::node::PreallocationGuess,
    /// What lies beyond the file's end reads as zeroes when the file grows.
    pub(crate) grows_with_zeroes: bool,
}

/// Nobody else reads or writes the image while this is held.
pub type Exclusive<'a> = async_lock::RwLockWriteGuard<'a, ()>;

impl Image {
    /// Sizes of tables and clusters.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The file with the metadata.
    pub fn file(&self) -> Arc<BlockNode> {
        self.file.node()
    }

    /// The file with guest data: another one, or the same.
    pub fn data(&self) -> Arc<BlockNode> {
        self.data_file.as_ref().unwrap_or(&self.file).node()
    }

    /// Whether guest data lies in another file.
    pub fn has_data_file(&self) -> bool {
        self.data_file.is_some()
    }

    /// The enabled bitmaps, while the image is written to.
    pub(crate) fn bitmaps(&self) -> &crate::bitmap::tracking::Tracking {
        &self.bitmaps
    }

    /// Shows the contents that a snapshot's L1 table describes instead of the present ones, on an image opened
    /// read-only: `entries` entries at `offset` in the file, for a disk of `size` bytes. Needs [`Image::exclusive`].
    pub(crate) async fn show_snapshot(&self, offset: u64, entries: u32, size: u64) -> Result<()> {
        if self.writable.load(SeqCst) {
            return Err(BlockError::invalid("Device is not readonly"));
        }
        let table = self.read_l1_table(offset, entries).await?;
        self.l2.clear();
        self.compressed.forget();
        *self.l1.write() = table;
        self.length.store(size, SeqCst);
        Ok(())
    }

    pub(crate) async fn read_l1_table(&self, offset: u64, entries: u32) -> Result<L1Table> {
        let entries = read_words(&self.file(), offset, u64::from(entries)).await?;
        Ok(L1Table { offset, entries, dirty: BTreeSet::new() })
    }

    /// Forgets cached L2 tables and refcount blocks and reads the header, refcount table and L1 table again, after
    /// somebody wrote them directly. Needs [`Image::exclusive`], and [`Image::write_back`] before.
    pub async fn reload(&self) -> Result<()> {
        let file = self.file();
        let (header, disk) = read_header(&file).await?;
        let l1 = self.read_l1_table(header.l1_table_offset, header.l1_size).await?;
        let table = read_refcount_table(&file, &header).await?;
        self.l2.forget(0, u64::MAX);
        self.compressed.forget();
        *self.compressed.next.lock().await = 0;
        self.length.store(header.size, SeqCst);
        *self.l1.write() = l1;
        let end = self.geometry.clusters(file.length());
        self.refcounts.replace_table(table, end);
        self.note_header(&header);
        *self.header.lock() = StoredHeader { header, disk };
        self.note_tables();
        self.protect_snapshots_and_bitmaps().await
    }

    /// What follows from the header's marks.
    pub(crate) fn note_header(&self, header: &Header) {
        if !header.incompatible.contains(Incompatible::DIRTY) {
            self.dirty_at_open.store(false, SeqCst);
        }
        if !header.incompatible.contains(Incompatible::CORRUPT) && self.geometry.version >= 3 {
            self.corrupt.store(false, SeqCst);
        }
    }

    pub(crate) fn arc(&self) -> Arc<Self> {
        self.me.upgrade().expect("an image lives in an Arc")
    }

    /// Bytes of the disk.
    pub fn length(&self) -> u64 {
        self.length.load(SeqCst)
    }

    /// Waits until no request is under way, and keeps new ones out. For whoever changes the image as a whole; methods of
    /// `Image` that ask for it are to be called with it held.
    pub async fn exclusive(&self) -> Exclusive<'_> {
        self.requests.write().await
    }

    pub(crate) async fn share(&self) -> async_lock::RwLockReadGuard<'_, ()> {
        match self.requests.try_read() {
            Some(guard) => guard,
            None => self.requests.read().await,
        }
    }

    /// A copy of the header as it is in memory.
    pub fn header(&self) -> Header {
        self.header.lock().header.clone()
    }

    /// Changes the header in memory and on disk, by one write of the sectors that changed, not followed by a flush.
    /// On an error the header in memory is unchanged.
    pub async fn update_header(&self, change: impl FnOnce(&mut Header) + Send) -> Result<()> {
        let serial = self.header_io.lock_arc().await;
        let (new, disk, range) = {
            let stored = self.header.lock();
            let mut new = stored.header.clone();
            change(&mut new);
            if new == stored.header {
                return Ok(());
            }
            let disk = new.bytes_over(&stored.header, &stored.disk)?;
            let range = changed_sectors(&stored.disk, &disk);
            (new, disk, range)
        };
        let this = self.arc();
        finish(async move {
            let _serial = serial;
            let mut bytes = disk[range.start..range.end.min(disk.len())].to_vec();
            bytes.resize(range.len().min(this.geometry.cluster_size as usize - range.start), 0);
            this.file().write_bytes(range.start as u64, &bytes).await?;
            let corrupt_before = this.header.lock().header.incompatible.contains(Incompatible::CORRUPT);
            if corrupt_before || !new.incompatible.contains(Incompatible::DIRTY) {
                this.note_header(&new);
            }
            this.protect_bitmaps(&new);
            *this.header.lock() = StoredHeader { header: new, disk };
            Ok(())
        })
        .await
    }

    /// A copy of the active L1 table, [`COPIED`](crate::geometry::COPIED) bits and all.
    pub fn l1(&self) -> Vec<u64> {
        self.l1.read().entries.clone()
    }

    /// Writes the active L1 table's entries from `first` on, on disk at once (unflushed) and in memory. Cached L2 tables
    /// are kept. Needs [`Image::exclusive`], and [`Image::write_back`] before.
    pub async fn write_l1(&self, first: usize, entries: &[u64]) -> Result<()> {
        let at = {
            let l1 = self.l1.read();
            assert!(first + entries.len() <= l1.entries.len(), "beyond the L1 table");
            l1.offset + 8 * first as u64
        };
        let bytes: Vec<u8> = entries.iter().flat_map(|e| e.to_be_bytes()).collect();
        self.file().write_bytes(at, &bytes).await?;
        self.l1.write().entries[first..first + entries.len()].copy_from_slice(entries);
        Ok(())
    }

    /// Makes the active L1 table have at least so many entries, moving it if it must. Needs [`Image::exclusive`].
    pub async fn grow_l1(&self, entries: u64) -> Result<()> {
        let old = self.l1.read().entries.len() as u64;
        if entries <= old {
            return Ok(());
        }
        if entries > crate::header::MAX_L1_BYTES / 8 {
            return Err(BlockError::new(libc::EFBIG, "Image is too big: the L1 table would exceed 32 MiB"));
        }
        let this = self.arc();
        finish(async move { this.move_l1(entries as usize).await }).await
    }

    async fn move_l1(&self, entries: usize) -> Result<()> {
        self.write_back_now().await?;
        let (old_offset, old_len, mut table) = {
            let l1 = self.l1.read();
            (l1.offset, 8 * l1.entries.len() as u64, l1.entries.clone())
        };
        table.resize(entries, 0);
        let len = 8 * entries as u64;
        // Room in the last cluster costs nothing, but the header's count says what is valid.
        let offset = self.allocate(len).await?;
        let mut bytes = vec![0; self.geometry.cluster_end(len) as usize];
        for (slot, entry) in bytes.chunks_exact_mut(8).zip(&table) {
            slot.copy_from_slice(&entry.to_be_bytes());
        }
        let file = self.file();
        file.write_bytes(offset, &bytes).await?;
        // The table and its refcounts before the header that names it.
        self.write_refcounts().await?;
        self.flush_file().await?;
        self.update_header(|header| {
            header.l1_table_offset = offset;
            header.l1_size = entries as u32;
        })
        .await?;
        self.flush_file().await?;
        *self.l1.write() = L1Table { offset, entries: table, dirty: BTreeSet::new() };
        self.overlap.note(offset >> self.geometry.cluster_bits, self.geometry.clusters(len));
        if old_len > 0 {
            self.release(old_offset, old_len, Release::Other);
        }
        Ok(())
    }

    /// Takes a reference away from each cluster that the range touches, once every table that is now changed in memory
    /// has reached the disk. Does not wait; the next [`Image::write_back`] does the work.
    pub fn release(&self, offset: u64, len: u64, why: Release) {
        if len > 0 {
            self.releases.queue(Released { offset, len, why }, self.geometry.cluster_size);
        }
    }

    /// Reads bytes of the file; beyond its end they are zero.
    pub async fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.file().read_bytes(offset, bytes).await
    }

    /// Writes metadata directly, after checking that the range does not overlap other metadata (the overlap checks of
    /// the options). Not flushed. Must not touch L1, L2 or refcount tables in use.
    pub async fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_section(offset, bytes, Sections::empty()).await
    }

    /// Like [`Image::write_at`], for metadata of a kind, which it may overlap.
    pub(crate) async fn write_section(&self, offset: u64, bytes: &[u8], own: Sections) -> Result<()> {
        if let Some(problem) = self.overlap_of(offset, bytes.len() as u64, own) {
            return Err(self.mark_corrupt(problem).await);
        }
        self.file().write_bytes(offset, bytes).await
    }

    /// Fails if the image may not be written to.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.corrupt.load(SeqCst) {
            return Err(BlockError::os(libc::EIO));
        }
        match self.writable.load(SeqCst) {
            true => Ok(()),
            false => Err(BlockError::os(libc::EPERM)),
        }
    }

    /// Marks the image corrupt (version 3), refuses writes from now on, and tells on standard error, as QEMU does. Returns
    /// the error for the request at hand.
    pub async fn mark_corrupt(&self, what: String) -> BlockError {
        let error = BlockError::os(libc::EIO);
        let first = !self.corrupt.swap(true, SeqCst);
        if !self.writable.load(SeqCst) {
            if first {
                eprintln!(
                    "qcow2: Image is corrupt: {what}; further non-fatal corruption events will be suppressed"
                );
            }
            return error;
        }
        if first {
            eprintln!(
                "qcow2: Marking image as corrupt: {what}; further corruption events will be suppressed"
            );
            if self.geometry.version >= 3 {
                // Whatever becomes of this: no more writes in this process.
                let marked = self.update_header(|h| h.incompatible |= Incompatible::CORRUPT).await;
                if marked.is_ok() {
                    let _ = self.flush_file().await;
                }
            }
        }
        error
    }

    /// Writes every table that changed, in order, flushes, and then takes away the references that were released before
    /// (and writes and flushes those refcounts as well). Afterwards disk and memory agree, and nothing is pending, unless
    /// requests are under way.
    pub async fn write_back(&self) -> Result<()> {
        let this = self.arc();
        finish(async move { this.write_back_now().await }).await
    }

    async fn write_back_now(&self) -> Result<()> {
        loop {
            self.flush_now().await?;
            if !self.refcounts.is_dirty() || self.corrupt.load(SeqCst) {
                return Ok(());
            }
            // Lazy or not: whoever asks wants to read them from the disk.
            self.write_refcounts().await?;
        }
    }

    /// What a flush of the disk asks for: every table that names data acknowledged before is on stable storage, and the
    /// data as well. Refcounts that sank may be written later.
    pub(crate) async fn flush(&self) -> Result<()> {
        let this = self.arc();
        finish(async move { this.flush_now().await }).await
    }

    async fn flush_now(&self) -> Result<()> {
        let _one = self.sync.lock().await;
        if self.corrupt.load(SeqCst) || !self.writable.load(SeqCst) {
            return self.flush_files().await;
        }
        let released = self.releases.take_queued();
        match self.write_tables().await {
            Ok(()) => self.releases.settle(released),
            Err(error) => {
                self.releases.put_back(released);
                return Err(error);
            }
        }
        self.carry_out_releases().await?;
        let interval = self.settings.lock().cache_clean_interval;
        if !interval.is_zero() {
            self.l2.clean(interval);
            self.refcounts.blocks.clean(interval);
        }
        Ok(())
    }

    /// Makes room in the L2 cache.
    pub(crate) async fn make_room(&self) -> Result<()> {
        self.flush().await
    }

    /// Flushes the file with the metadata.
    pub(crate) async fn flush_file(&self) -> Result<()> {
        match self.unsafe_flush.load(SeqCst) {
            true => Ok(()),
            false => self.file().flush().await,
        }
    }

    pub(crate) async fn flush_files(&self) -> Result<()> {
        if self.unsafe_flush.load(SeqCst) {
            return Ok(());
        }
        match &self.data_file {
            None => self.file().flush().await,
            Some(data) => {
                let (data, file) = (data.node(), self.file());
                let (a, b) = futures_util::future::join(data.flush(), file.flush()).await;
                a.and(b)
            }
        }
    }

    pub(crate) fn is_lazy(&self) -> bool {
        self.settings.lock().lazy_refcounts && self.geometry.version >= 3
    }

    /// The steps of the crate's documentation. The caller holds `sync`.
    async fn write_tables(&self) -> Result<()> {
        // Whoever names a cluster does so after its refcount rose, and names an L2 table after it was made. So tables are
        // looked at from the top down, and written from the bottom up: what is written of a table never names what is
        // not written with it.
        let unsettled = self.barrier.swap(false, SeqCst);
        let l1 = std::mem::take(&mut self.l1.write().dirty);
        let l1: Vec<(usize, u64)> = {
            let table = self.l1.read();
            l1.into_iter().map(|index| (index, table.entries[index])).collect()
        };
        let l2 = self.l2.take_dirty();
        let unsettled = unsettled | self.barrier.load(SeqCst);
        let done = self.write_taken(&l1, &l2, unsettled).await;
        for slice in &l2 {
            self.l2.written(slice, done.is_ok());
        }
        if done.is_err() {
            self.barrier.store(true, SeqCst);
            self.l1.write().dirty.extend(l1.iter().map(|(index, _)| *index));
        }
        done
    }

    async fn write_taken(&self, l1: &[(usize, u64)], l2: &[DirtySlice], unsettled: bool) -> Result<()> {
        let names = !l1.is_empty() || !l2.is_empty();
        if self.is_lazy() {
            if names && unsettled {
                self.set_dirty().await?;
            }
        } else {
            self.write_refcounts().await?;
        }
        if names {
            if unsettled {
                self.flush_files().await?;
            }
            for slice in l2 {
                if let Some(problem) = self.table_conflict(slice.offset, Sections::ACTIVE_L2) {
                    return Err(self.mark_corrupt(problem).await);
                }
            }
            self.write_slices(l2).await?;
            self.write_l1_entries(l1).await?;
        }
        self.flush_files().await
    }

    /// Writes slices, neighbours together, several at a time.
    pub(crate) async fn write_slices(&self, slices: &[DirtySlice]) -> Result<()> {
        let mut result = Ok(());
        let mut running = FuturesUnordered::new();
        let mut at = 0;
        while at < slices.len() && result.is_ok() {
            let mut bytes = slices[at].bytes().to_vec();
            let offset = slices[at].offset;
            at += 1;
            while at < slices.len()
                && slices[at].offset == offset + bytes.len() as u64
                && bytes.len() + slices[at].bytes().len() <= MAX_TABLE_WRITE
            {
                bytes.extend_from_slice(slices[at].bytes());
                at += 1;
            }
            let file = self.file();
            running.push(async move {
                file.write(offset, &IoVector::from_slice(&bytes), WriteFlags::empty()).await
            });
            if running.len() >= TABLE_WRITES {
                result = running.next().await.unwrap_or(Ok(()));
            }
        }
        // Those under way must end before anybody writes the same bytes again.
        while let Some(ended) = running.next().await {
            result = result.and(ended);
        }
        result
    }

    async fn write_l1_entries(&self, entries: &[(usize, u64)]) -> Result<()> {
        let table = self.l1.read().offset;
        let mut at = 0;
        while at < entries.len() {
            let first = entries[at].0;
            let mut bytes = Vec::new();
            while at < entries.len() && entries[at].0 == first + bytes.len() / 8 {
                bytes.extend_from_slice(&entries[at].1.to_be_bytes());
                at += 1;
            }
            self.file().write_bytes(table + 8 * first as u64, &bytes).await?;
        }
        Ok(())
    }

    /// Sets the dirty bit, on stable storage, before tables are written whose refcounts are not.
    async fn set_dirty(&self) -> Result<()> {
        if self.header.lock().header.incompatible.contains(Incompatible::DIRTY) {
            return Ok(());
        }
        self.update_header(|header| header.incompatible |= Incompatible::DIRTY).await?;
        self.flush_file().await
    }

    /// Writes everything, refcounts as well, and clears the dirty bit if it is ours to clear.
    pub(crate) async fn settle_all(&self) -> Result<()> {
        let this = self.arc();
        finish(async move {
            this.write_back_now().await?;
            if this.corrupt.load(SeqCst) {
                return Ok(());
            }
            let dirty = this.header.lock().header.incompatible.contains(Incompatible::DIRTY);
            if dirty && !this.dirty_at_open.load(SeqCst) {
                this.update_header(|header| header.incompatible -= Incompatible::DIRTY).await?;
                this.flush_file().await?;
            }
            Ok(())
        })
        .await
    }
}

/// Reads big-endian words of a table; beyond the file's end they are zero.
pub(crate) async fn read_words(file: &BlockNode, offset: u64, count: u64) -> Result<Vec<u64>> {
    /// Bytes read at a time.
    const STEP: u64 = 1 << 20;
    let mut words = vec![0; count as usize];
    let there = file.length().saturating_sub(offset).min(8 * count);
    let mut at = 0;
    while at < there {
        let len = STEP.min((there - at).next_multiple_of(8));
        let mut bytes = vec![0; len as usize];
        file.read_bytes(offset + at, &mut bytes).await?;
        for (word, bytes) in words[(at / 8) as usize..].iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
        }
        at += len;
    }
    Ok(words)
}

/// Reads the header; also returns the bytes it was parsed from.
pub(crate) async fn read_header(file: &BlockNode) -> Result<(Header, Vec<u8>)> {
    /// Enough for all but the largest headers, in one read.
    const LIKELY: u64 = 4096;
    let length = file.length();
    let mut bytes = vec![0; length.min(LIKELY) as usize];
    file.read_bytes(0, &mut bytes).await.context("Could not read qcow2 header")?;
    let cluster = Header::cluster_size_of(&bytes)?;
    let rest = bytes.len()..cluster.min(length) as usize;
    if !rest.is_empty() && Header::needs(&bytes) > bytes.len() {
        let start = bytes.len();
        bytes.resize(rest.end, 0);
        file.read_bytes(start as u64, &mut bytes[start..]).await.context("Could not read qcow2 header")?;
    } else {
        bytes.truncate(cluster as usize);
    }
    let header = Header::parse(&bytes)?;
    Ok((header, bytes))
}

pub(crate) async fn read_refcount_table(file: &BlockNode, header: &Header) -> Result<RefcountTable> {
    let count = u64::from(header.refcount_table_clusters) << (header.cluster_bits - 3);
    let offset = header.refcount_table_offset;
    let entries = read_words(file, offset, count).await.context("Could not read refcount table")?;
    Ok(RefcountTable { offset, entries, dirty: BTreeSet::new() })
}

/// The range, in whole sectors, in which the two differ; a missing end counts as zeroes.
fn changed_sectors(old: &[u8], new: &[u8]) -> std::ops::Range<usize> {
    const SECTOR: usize = 512;
    let len = old.len().max(new.len());
    let byte = |bytes: &[u8], at: usize| bytes.get(at).copied().unwrap_or(0);
    let differs = |at: &usize| byte(old, *at) != byte(new, *at);
    let Some(first) = (0..len).find(differs) else { return 0..0 };
    let last = (0..len).rev().find(differs).unwrap_or(first);
    first / SECTOR * SECTOR..(last + 1).next_multiple_of(SECTOR)
}

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

use parking_lot::{Mutex, RwLock};
use rhea_block::{BackingSlot, BlockError, BlockNode, Edge, Result, ResultExt, Secrets};

use crate::cache::Slices;
use crate::compress::CompressedClusters;
use crate::encryption::Encryption;
use crate::finish::{Orphans, finish_held};
use crate::geometry::Geometry;
use crate::header::{Header, Incompatible};
use crate::in_flight::InFlight;
use crate::options::Settings;
use crate::overlap::{OverlapChecks, Sections};
use crate::refcount::{RefcountTable, Refcounts};
use crate::release::{Released, Releases};
use crate::stored_header::{StoredHeader, read_header};
use crate::write_back::Barrier;

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
    /// Found corrupt: no more writes.
    pub(crate) corrupt: AtomicBool,
    /// Found corrupt while it was being written to, or memory and disk may not agree on where tables are: no more
    /// requests of any kind.
    pub(crate) unusable: AtomicBool,
    /// Work on tables whose callers have given up.
    pub(crate) orphans: Arc<Orphans>,
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
    /// somebody wrote them directly. Needs [`Image::exclusive`], and [`Image::write_back`] before. If that fails, the image
    /// is not used any more: the tables in memory may not be those on disk.
    pub async fn reload(&self) -> Result<()> {
        let reloaded = self.reload_now().await;
        if reloaded.is_err() {
            self.give_up();
        }
        reloaded
    }

    async fn reload_now(&self) -> Result<()> {
        let file = self.file();
        let (header, disk) = read_header(&file).await?;
        // The old tables make room for the new ones.
        *self.l1.write() = L1Table { offset: header.l1_table_offset, ..L1Table::default() };
        self.refcounts.replace_table(RefcountTable::default(), 0);
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
        let guard = self.requests.write().await;
        self.orphans.none().await;
        guard
    }

    /// A share of the requests, on an image that is still good for any.
    pub(crate) async fn share(&self) -> Result<async_lock::RwLockReadGuard<'_, ()>> {
        let guard = match self.requests.try_read() {
            Some(guard) => guard,
            None => self.requests.read().await,
        };
        self.orphans.none().await;
        self.check_usable()?;
        Ok(guard)
    }

    /// Runs work that relies on what the caller holds to its end, even if the caller gives up: nobody gets a share of the
    /// requests, or the image alone, before that.
    pub(crate) fn finish<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = T> + Send {
        finish_held(&self.orphans, work)
    }

    /// Tells the file that its parent has come to a point that has a name, see [`BlockNode::debug_event`].
    pub(crate) async fn event(&self, event: &'static str) {
        self.file().debug_event(event).await;
    }

    /// A copy of the header as it is in memory.
    pub fn header(&self) -> Header {
        self.header.lock().header.clone()
    }

    /// A copy of the active L1 table, [`COPIED`](crate::geometry::COPIED) bits and all.
    pub fn l1(&self) -> Vec<u64> {
        self.l1.read().entries.clone()
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
        self.finish(async move { this.move_l1(entries as usize).await }).await
    }

    async fn move_l1(&self, entries: usize) -> Result<()> {
        self.write_back_now().await?;
        let (old_offset, old_len, mut table) = {
            let l1 = self.l1.read();
            (l1.offset, 8 * l1.entries.len() as u64, l1.entries.clone())
        };
        table.resize(entries, 0);
        let len = 8 * entries as u64;
        self.event("l1_grow_alloc_table").await;
        // Room in the last cluster costs nothing, but the header's count says what is valid.
        let offset = self.allocate(len).await?;
        let mut bytes = vec![0; self.geometry.cluster_end(len) as usize];
        for (slot, entry) in bytes.chunks_exact_mut(8).zip(&table) {
            slot.copy_from_slice(&entry.to_be_bytes());
        }
        let file = self.file();
        self.event("l1_grow_write_table").await;
        if let Err(error) = file.write_bytes(offset, &bytes).await {
            self.release(offset, len, Release::Silent);
            return Err(error);
        }
        // The table and its refcounts before the header that names it.
        self.write_refcounts().await?;
        self.flush_file(Barrier::BeforeL1Switch).await?;
        self.event("l1_grow_activate_table").await;
        self.update_header(|header| {
            header.l1_table_offset = offset;
            header.l1_size = entries as u32;
        })
        .await?;
        // No flush: before anybody relies on the new table there is one anyway, and until then the old one will do. Its
        // place is used again only after a flush.
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

    /// Fails if the image is good for nothing any more: there is no disk, as far as the guest can tell.
    pub(crate) fn check_usable(&self) -> Result<()> {
        match self.unusable.load(SeqCst) {
            true => Err(BlockError::os(libc::ENOMEDIUM)),
            false => Ok(()),
        }
    }

    /// No more requests, and no more writes of tables, until the image is opened again.
    pub(crate) fn give_up(&self) {
        self.corrupt.store(true, SeqCst);
        self.unusable.store(true, SeqCst);
    }

    /// Fails if the image may not be written to.
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_usable()?;
        if self.corrupt.load(SeqCst) {
            return Err(BlockError::os(libc::EIO));
        }
        match self.writable.load(SeqCst) {
            true => Ok(()),
            false => Err(BlockError::os(libc::EPERM)),
        }
    }

    /// Marks the image corrupt (version 3), refuses requests from now on, and tells on standard error, as QEMU does. An
    /// image that is read only goes on. Returns the error for the request at hand.
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
                    let _ = self.flush_file(Barrier::AfterHeader).await;
                }
            }
            self.give_up();
        }
        error
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

pub(crate) async fn read_refcount_table(file: &BlockNode, header: &Header) -> Result<RefcountTable> {
    let count = u64::from(header.refcount_table_clusters) << (header.cluster_bits - 3);
    let offset = header.refcount_table_offset;
    let entries = read_words(file, offset, count).await.context("Could not read refcount table")?;
    Ok(RefcountTable { offset, entries, dirty: BTreeSet::new() })
}

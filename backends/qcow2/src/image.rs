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

use std::sync::Arc;

use rhea_block::{BackingSlot, BlockError, BlockNode, Edge, Result};

use crate::geometry::Geometry;
use crate::header::Header;

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

/// An open image.
pub struct Image {
    pub(crate) file: Arc<Edge>,
    pub(crate) data_file: Option<Arc<Edge>>,
    pub(crate) backing: Arc<BackingSlot>,
    pub(crate) geometry: Geometry,
    header: parking_lot::Mutex<Header>,
    /// Enabled bitmaps, while the image is written to.
    bitmaps: crate::bitmap::tracking::Tracking,
    /// Requests hold a share; what changes the image as a whole (snapshots, truncation, amend) holds it alone.
    requests: async_lock::RwLock<()>,
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

    /// The enabled bitmaps, while the image is written to.
    pub(crate) fn bitmaps(&self) -> &crate::bitmap::tracking::Tracking {
        &self.bitmaps
    }

    /// Shows the contents that a snapshot's L1 table describes instead of the present ones, on an image opened
    /// read-only: `entries` entries at `offset` in the file, for a disk of `size` bytes. Needs [`Image::exclusive`].
    pub(crate) async fn show_snapshot(&self, offset: u64, entries: u32, size: u64) -> Result<()> {
        let _ = (offset, entries, size);
        Err(BlockError::os(libc::ENOTSUP))
    }

    /// Waits until no request is under way, and keeps new ones out. For whoever changes the image as a whole; methods of
    /// `Image` that ask for it are to be called with it held.
    pub async fn exclusive(&self) -> Exclusive<'_> {
        self.requests.write().await
    }

    /// A copy of the header as it is in memory.
    pub fn header(&self) -> Header {
        self.header.lock().clone()
    }

    /// Changes the header in memory and on disk, by one write of the sectors that changed, not followed by a flush.
    /// On an error the header in memory is unchanged.
    pub async fn update_header(&self, change: impl FnOnce(&mut Header) + Send) -> Result<()> {
        let _ = change;
        Err(BlockError::os(libc::ENOTSUP))
    }

    /// Writes every table that changed, in order, flushes, and then takes away the references that were released before
    /// (and writes and flushes those refcounts as well). Afterwards disk and memory agree, and nothing is pending.
    pub async fn write_back(&self) -> Result<()> {
        Err(BlockError::os(libc::ENOTSUP))
    }

    /// Forgets cached L2 tables and refcount blocks and reads the header, refcount table and L1 table again, after
    /// somebody wrote them directly. Needs [`Image::exclusive`], and [`Image::write_back`] before.
    pub async fn reload(&self) -> Result<()> {
        Err(BlockError::os(libc::ENOTSUP))
    }

    /// A copy of the active L1 table, [`COPIED`](crate::geometry::COPIED) bits and all.
    pub fn l1(&self) -> Vec<u64> {
        Vec::new()
    }

    /// Writes the active L1 table's entries from `first` on, on disk at once (unflushed) and in memory. Cached L2 tables
    /// are kept. Needs [`Image::exclusive`].
    pub async fn write_l1(&self, first: usize, entries: &[u64]) -> Result<()> {
        let _ = (first, entries);
        Err(BlockError::os(libc::ENOTSUP))
    }

    /// Makes the active L1 table have at least so many entries, moving it if it must. Needs [`Image::exclusive`].
    pub async fn grow_l1(&self, entries: u64) -> Result<()> {
        let _ = entries;
        Err(BlockError::os(libc::ENOTSUP))
    }

    /// The refcount of the cluster at `offset` as it is in memory (releases still queued count as references).
    pub async fn refcount(&self, offset: u64) -> Result<u64> {
        let _ = offset;
        Err(BlockError::os(libc::ENOTSUP))
    }

    /// Adds a reference to each cluster that the range touches; in memory, to be written by [`Image::write_back`] before
    /// any table that relies on it. Fails, with nothing changed, where a refcount would not fit its width.
    pub async fn add_references(&self, offset: u64, len: u64) -> Result<()> {
        let _ = (offset, len);
        Err(BlockError::os(libc::ENOTSUP))
    }

    /// Takes a reference away from each cluster that the range touches, once every table that is now changed in memory
    /// has reached the disk. Does not wait; the next [`Image::write_back`] does the work.
    pub fn release(&self, offset: u64, len: u64, why: Release) {
        let _ = (offset, len, why);
    }

    /// Allocates contiguous clusters for `len` bytes of metadata (snapshot tables, bitmaps…) with refcount 1 in memory.
    /// Their contents are whatever was there. Returns their offset.
    pub async fn allocate(&self, len: u64) -> Result<u64> {
        let _ = len;
        Err(BlockError::os(libc::ENOTSUP))
    }

    /// Reads bytes of the file; beyond its end they are zero.
    pub async fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.file().read_bytes(offset, bytes).await
    }

    /// Writes metadata directly, after checking that the range does not overlap other metadata (the overlap checks of
    /// the options). Not flushed. Must not touch L1, L2 or refcount tables in use.
    pub async fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file().write_bytes(offset, bytes).await
    }

    /// Marks the image corrupt (version 3), refuses writes from now on, and tells on standard error, as QEMU does. Returns
    /// the error for the request at hand.
    pub async fn mark_corrupt(&self, what: String) -> BlockError {
        BlockError::new(libc::EIO, what)
    }
}

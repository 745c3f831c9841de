//! What a driver implements for an open image: the requests, and what else a format may offer.
//!
//! A [`Driver`](crate::Driver) opens an image and returns a [`Node`]. The block layer wraps it in a
//! [`BlockNode`], which is what everybody else (parents, jobs, exports, tools) talks to. The wrapper checks and
//! shapes each request, so that a `Node` can rely on what is promised here and need not check it again:
//!
//! * `offset + len` lies within the node's length (not so for [`Node::truncate`], nor for writes to nodes whose
//!   [`Limits::growable`] says that they grow), and `len` is not 0;
//! * both are multiples of [`Limits::request_alignment`], and no longer than the limits allow;
//! * nothing that changes an image arrives at a node opened read-only.
//!
//! Requests of one node run concurrently, on any thread: a node has its own locks. Requests that overlap may take effect
//! in any order, byte by byte. A request that is given up (its future dropped) may have happened, or not, or in part,
//! and must leave the image's metadata whole.

use std::sync::Arc;

use async_trait::async_trait;
use bitflags::bitflags;
use rhea_async_io::{IoVector, IoView};
use rhea_options::Options;
use serde_json::Value;

use crate::graph::{BlockNode, Edge};
use crate::permission::Permissions;
use crate::progress::Progress;
use crate::{BlockError, OpenFlags, Result};

bitflags! {
    /// How a write is to be done.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct WriteFlags: u32 {
        /// The data is on stable storage when the request ends ("force unit access"). Nodes whose
        /// [`Limits::native_write`] lacks it get a flush after the write instead, and never see the flag.
        const FUA = 1 << 0;
        /// Zeroes: storage may be given back, as by a discard.
        const MAY_UNMAP = 1 << 1;
        /// Zeroes: fail with `ENOTSUP` rather than write zeroes as data where that is slow.
        const NO_FALLBACK = 1 << 2;
        /// The guest's view does not change (copy-on-read, populating an image from its backing file).
        const WRITE_UNCHANGED = 1 << 3;
    }
}

bitflags! {
    /// What is known of a stretch of an image.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct StatusFlags: u32 {
        /// There is data, which may be zero or not.
        const DATA = 1 << 0;
        /// It reads as zeroes.
        const ZERO = 1 << 1;
        /// [`BlockStatus::map`] says where the bytes lie, as they are.
        const OFFSET_VALID = 1 << 2;
        /// This node, not its backing file, says what is here.
        const ALLOCATED = 1 << 3;
        /// The stretch ends at the end of the image.
        const EOF = 1 << 4;
        /// The data is compressed.
        const COMPRESSED = 1 << 5;
        /// The child in [`BlockStatus::map`] knows better: the block layer asks it whether the bytes are data or zeroes.
        const RECURSE = 1 << 6;
    }
}

/// An answer to [`Node::block_status`].
#[derive(Debug, Clone)]
pub struct BlockStatus {
    /// Bytes from the offset asked for that are alike; at least 1, at most what was asked.
    pub len: u64,
    /// What they are.
    pub flags: StatusFlags,
    /// Where they lie: the node (one of this node's children, or itself), and the offset in it. `None` with
    /// [`StatusFlags::OFFSET_VALID`]: in this node, where they were asked for.
    pub map: Option<(Arc<BlockNode>, u64)>,
}

/// What requests a node takes. Zero means "no limit" for lengths.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Offsets and lengths of reads and writes are multiples of this (a power of two).
    pub request_alignment: u32,
    /// Memory of requests starts at a multiple of this.
    pub memory_alignment: u32,
    /// Bytes of the longest read or write.
    pub max_transfer: u64,
    /// Bytes of the longest write of zeroes.
    pub max_write_zeroes: u64,
    /// Best granularity of a write of zeroes; what does not fit is written apart.
    pub write_zeroes_alignment: u32,
    /// Bytes of the longest discard.
    pub max_discard: u64,
    /// Granularity of a discard; what does not fit is left alone.
    pub discard_alignment: u32,
    /// Bytes a request should best have.
    pub optimal_transfer: u64,
    /// A write beyond the end makes the node longer (files; not the disks that formats show).
    pub growable: bool,
    /// The flags of a write that the node itself heeds.
    pub native_write: WriteFlags,
    /// The flags of a write of zeroes that the node itself heeds.
    pub native_write_zeroes: WriteFlags,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_alignment: 1,
            memory_alignment: 1,
            max_transfer: 0,
            max_write_zeroes: 0,
            write_zeroes_alignment: 1,
            max_discard: 0,
            discard_alignment: 1,
            optimal_transfer: 0,
            growable: false,
            native_write: WriteFlags::empty(),
            native_write_zeroes: WriteFlags::empty(),
        }
    }
}

/// How much storage growing (or creating) an image reserves (`preallocation=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preallocation {
    /// None.
    #[default]
    Off,
    /// The format's tables, but no storage for data.
    Metadata,
    /// Storage, by `fallocate`.
    Falloc,
    /// Storage, by writing zeroes.
    Full,
}

impl Preallocation {
    /// The word on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Metadata => "metadata",
            Self::Falloc => "falloc",
            Self::Full => "full",
        }
    }

    /// From the word on the command line.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Off, Self::Metadata, Self::Falloc, Self::Full].into_iter().find(|p| p.word() == word)
    }
}

/// How the end of an image is to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Truncate {
    /// Exactly this length, or an error; else a longer one will do (a block device's, say).
    pub exact: bool,
    /// What a longer image reserves.
    pub preallocation: Preallocation,
    /// The new part must read as zeroes, whatever is below.
    pub zero: bool,
}

/// What a format knows of an image beyond its contents (for `info` and `convert`).
#[derive(Debug, Clone, Default)]
pub struct FormatInfo {
    /// Bytes in a cluster; 0: the format has none.
    pub cluster_size: u64,
    /// Bytes in a subcluster; 0: as the cluster.
    pub subcluster_size: u64,
    /// Where saved machine state would begin (qcow2).
    pub vm_state_offset: u64,
    /// The image was not closed cleanly.
    pub dirty: bool,
    /// Everything that was never written reads as zeroes.
    pub unallocated_is_zero: bool,
    /// Only compressed clusters may be written (streamOptimized vmdk).
    pub needs_compressed_writes: bool,
    /// The image is encrypted.
    pub encrypted: bool,
    /// The image holds compressed clusters, as far as the format tells.
    pub compressed: bool,
    /// The format's own facts: `{"type": "qcow2", "data": {…}}` with QAPI's names (ImageInfoSpecific).
    pub specific: Option<Value>,
}

/// The backing file an image's header names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingFile {
    /// As the header has it.
    pub filename: String,
    /// The format the header names, if it does.
    pub format: Option<String>,
}

/// What `check` may repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Repair {
    /// Clusters that nothing refers to.
    pub leaks: bool,
    /// Everything else.
    pub errors: bool,
}

/// What `check` found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckResult {
    /// Errors that are still there.
    pub corruptions: u64,
    /// Leaked clusters that are still there.
    pub leaks: u64,
    /// Things that could not be checked.
    pub check_errors: u64,
    /// Errors repaired.
    pub corruptions_fixed: u64,
    /// Leaks repaired.
    pub leaks_fixed: u64,
    /// Where the image file ends, as its metadata has it; 0: unknown.
    pub image_end_offset: u64,
    /// Clusters of the image.
    pub total_clusters: u64,
    /// Clusters with data.
    pub allocated_clusters: u64,
    /// Clusters with data that do not follow their predecessor.
    pub fragmented_clusters: u64,
    /// Clusters with compressed data.
    pub compressed_clusters: u64,
    /// A line for each finding (`ERROR cluster 5 refcount=0 reference=1`), printed to standard error as they come.
    /// At most [`CheckResult::MAX_MESSAGES`]; the counts go on.
    pub messages: Vec<String>,
}

impl CheckResult {
    /// Findings that are told one by one.
    pub const MAX_MESSAGES: usize = 10_000;

    /// Tells of a finding.
    pub fn tell(&mut self, message: String) {
        if self.messages.len() < Self::MAX_MESSAGES {
            self.messages.push(message);
        }
    }
}

/// A snapshot within an image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotInfo {
    /// Unique in the image.
    pub id: String,
    /// What the user calls it.
    pub name: String,
    /// Bytes of saved machine state.
    pub vm_state_size: u64,
    /// Seconds since 1970, and nanoseconds.
    pub date: (u64, u32),
    /// The machine's clock, in nanoseconds.
    pub vm_clock_ns: u64,
    /// Instructions executed, if counted.
    pub icount: Option<u64>,
    /// The disk's length then, in bytes.
    pub disk_size: u64,
}

/// Snapshots within an image (qcow2).
#[async_trait]
pub trait Snapshots: Send + Sync {
    /// All of them, in the image's order.
    async fn list(&self) -> Result<Vec<SnapshotInfo>>;
    /// Makes one of the present state. An empty `id` gets the next free number, which is returned.
    async fn create(&self, snapshot: &SnapshotInfo) -> Result<String>;
    /// Makes a snapshot's state the present one.
    async fn apply(&self, id: &str) -> Result<()>;
    /// Removes one.
    async fn delete(&self, id: &str) -> Result<()>;
    /// Shows a snapshot's contents instead of the present ones, on an image opened read-only.
    async fn load(&self, id: &str) -> Result<()>;
}

/// A dirty bitmap that an image keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitmapInfo {
    /// Its name.
    pub name: String,
    /// Bytes of the disk a bit stands for.
    pub granularity: u64,
    /// Being recorded (`auto`).
    pub enabled: bool,
    /// Was not saved properly, and is good for nothing but removal.
    pub inconsistent: bool,
}

/// Persistent dirty bitmaps (qcow2, Parallels). Contents travel as [`DirtyBitmap`](crate::DirtyBitmap).
#[async_trait]
pub trait PersistentBitmaps: Send + Sync {
    /// All of them, in the image's order.
    async fn list(&self) -> Result<Vec<BitmapInfo>>;
    /// Reads one.
    async fn load(&self, name: &str) -> Result<crate::DirtyBitmap>;
    /// Stores one, replacing that of the same name.
    async fn store(&self, bitmap: &crate::DirtyBitmap) -> Result<()>;
    /// Removes one.
    async fn remove(&self, name: &str) -> Result<()>;
    /// Fails with the reason if a bitmap of this name and granularity could not be stored.
    fn can_store(&self, name: &str, granularity: u64) -> Result<()>;
    /// Whether images such as this one can have bitmaps, if only to be read.
    fn can_be_there(&self) -> bool {
        true
    }
}

/// Refuses what is left of the options of [`Node::reopen`].
pub fn refuse_changes(options: &Options) -> Result<()> {
    match options.entries().first() {
        Some(entry) => Err(BlockError::invalid(format!("Cannot change the option '{}'", entry.key))),
        None => Ok(()),
    }
}

/// An open image, as its driver sees it. See the [module](self) for what the block layer promises.
#[async_trait]
pub trait Node: Send + Sync {
    /// What requests the node takes.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// Bytes of the disk.
    fn length(&self) -> u64;

    /// Whether the driver could open the image for reading only although writing was asked for
    /// ([`OpenFlags::AUTO_READ_ONLY`]).
    fn is_read_only(&self) -> bool {
        false
    }

    /// The nodes below, but for the backing file (which the block layer keeps, see
    /// [`OpenContext::backing`](crate::OpenContext::backing)).
    fn children(&self) -> Vec<Arc<Edge>> {
        Vec::new()
    }

    /// Fills `data` from the disk.
    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()>;

    /// Writes to the disk.
    async fn write(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
        let _ = (offset, data, flags);
        Err(BlockError::os(libc::ENOTSUP))
    }

    /// Makes a range read as zeroes. `ENOTSUP`: the block layer writes zeroes as data.
    async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        let _ = (offset, len, flags);
        Err(BlockError::os(libc::ENOTSUP))
    }

    /// Writes data compressed. Offset and length are those of whole clusters (the last may end with the disk).
    async fn write_compressed(&self, offset: u64, data: IoView<'_>) -> Result<()> {
        let _ = (offset, data);
        Err(BlockError::os(libc::ENOTSUP))
    }

    /// Gives storage back; what the range reads as then is the format's choice. `ENOTSUP` does no harm.
    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let _ = (offset, len);
        Err(BlockError::os(libc::ENOTSUP))
    }

    /// Everything acknowledged before is on stable storage when this ends: the node's own caches first, then its children.
    async fn flush(&self) -> Result<()>;

    /// What lies at `offset`, at most `len` bytes of it. With `want_zero` false, a quick answer that says only what is
    /// allocated will do.
    async fn block_status(&self, offset: u64, len: u64, want_zero: bool) -> Result<BlockStatus> {
        let _ = (offset, want_zero);
        Ok(BlockStatus { len, flags: StatusFlags::DATA | StatusFlags::ALLOCATED, map: None })
    }

    /// Moves the end of the disk.
    async fn truncate(&self, length: u64, how: Truncate) -> Result<()> {
        let _ = (length, how);
        Err(BlockError::os(libc::ENOTSUP))
    }

    /// Copies to another node without passing through our memory: maps the range to a child and hands on with the child's
    /// [`BlockNode::copy_range`]. The bottom (a node without children) is never asked: it is the source itself. `ENOTSUP`: the caller reads and writes.
    async fn copy_range_from(
        &self,
        offset: u64,
        to: &Arc<BlockNode>,
        to_offset: u64,
        len: u64,
        flags: WriteFlags,
    ) -> Result<()> {
        let _ = (offset, to, to_offset, len, flags);
        Err(BlockError::os(libc::ENOTSUP))
    }

    /// The other half: `from` is the bottom node of the source.
    async fn copy_range_to(
        &self,
        from: &Arc<BlockNode>,
        from_offset: u64,
        offset: u64,
        len: u64,
        flags: WriteFlags,
    ) -> Result<()> {
        let _ = (from, from_offset, offset, len, flags);
        Err(BlockError::os(libc::ENOTSUP))
    }

    /// What the format knows of the image.
    async fn format_info(&self) -> Result<FormatInfo> {
        Ok(FormatInfo::default())
    }

    /// Bytes of storage the image takes on its host, if that can be told (protocol nodes; a format's is its file's).
    async fn allocated_size(&self) -> Option<u64> {
        None
    }

    /// The backing file the header names; the block layer opens it after the node.
    fn backing_file(&self) -> Option<BackingFile> {
        None
    }

    /// Writes another backing file's name and format into the header.
    async fn change_backing_file(&self, backing: Option<BackingFile>) -> Result<()> {
        let _ = backing;
        Err(BlockError::os(libc::ENOTSUP))
    }

    /// Checks the metadata, and repairs what is asked for. `ENOTSUP`: the format has no check.
    async fn check(&self, repair: Repair) -> Result<CheckResult> {
        let _ = repair;
        Err(BlockError::os(libc::ENOTSUP))
    }

    /// Changes the image's options (`qemu-img amend`).
    async fn amend(&self, options: Options, force: bool, progress: &Progress) -> Result<()> {
        let _ = (options, force, progress);
        Err(BlockError::os(libc::ENOTSUP))
    }

    /// Drops all data of this layer, so that everything comes from the backing file (after a commit).
    async fn make_empty(&self) -> Result<()> {
        Err(BlockError::os(libc::ENOTSUP))
    }

    /// Snapshots, if the format has them.
    fn snapshots(&self) -> Option<&dyn Snapshots> {
        None
    }

    /// Persistent bitmaps, if the format has them.
    fn bitmaps(&self) -> Option<&dyn PersistentBitmaps> {
        None
    }

    /// Reads saved machine state (beyond the disk's end, in qcow2).
    async fn load_vm_state(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        let _ = (offset, data);
        Err(BlockError::os(libc::ENOTSUP))
    }

    /// Writes machine state to be saved with the next snapshot.
    async fn save_vm_state(&self, offset: u64, data: IoView<'_>) -> Result<()> {
        let _ = (offset, data);
        Err(BlockError::os(libc::ENOTSUP))
    }

    /// What the node needs of a child, given what its own parents need of it and let others do.
    /// `(needed, shared)` of the child. The default is that of a format for its file.
    fn child_permissions(
        &self,
        child: &Edge,
        needed: Permissions,
        shared: Permissions,
    ) -> (Permissions, Permissions) {
        crate::permission::for_child(child.role(), needed, shared)
    }

    /// Protocol nodes take or give back what keeps other processes out. Called before what is needed grows, and after it
    /// has shrunk.
    async fn set_permissions(&self, needed: Permissions, shared: Permissions) -> Result<()> {
        let _ = (needed, shared);
        Ok(())
    }

    /// Whether [`Node::debug_event`] is to be called (`blkdebug`).
    fn wants_debug_events(&self) -> bool {
        false
    }

    /// The parent has come to a point that has a name (`l2_load`, `write_aio`…: QAPI's BlkdebugEvent).
    async fn debug_event(&self, event: &'static str) {
        let _ = event;
    }

    /// Goes on with other flags (read-only or not, cache mode) and options, or fails and stays as it was.
    async fn reopen(&self, flags: OpenFlags, options: Options) -> Result<()> {
        let _ = (flags, options);
        Err(BlockError::unsupported("this driver cannot be reopened with other options"))
    }

    /// No requests are under way: write out what only memory has, leave the image clean. Called once, last.
    async fn close(&self) -> Result<()> {
        Ok(())
    }

    /// The node itself, for drivers that know each other (a job its filter, `blkdebug` commands).
    fn as_any(&self) -> &dyn std::any::Any;
}

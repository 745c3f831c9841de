//! The shape of an image's tables, and what their entries mean.
//!
//! Source: the qcow2 specification, "Cluster mapping", "Extended L2 Entries", "Host cluster management".

use crate::header::Header;

/// Bit 63 of L1 and L2 entries: the refcount is exactly one, so that writing in place is allowed.
pub const COPIED: u64 = 1 << 63;
/// Bit 62 of L2 entries: a compressed cluster.
pub const COMPRESSED: u64 = 1 << 62;
/// Bit 0 of standard L2 entries (version 3, no extended L2): reads as zeroes.
pub const ZERO: u64 = 1;
/// Bits 9 to 55: an offset in the file.
pub const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Bits of an L1 entry that are reserved.
pub const L1_RESERVED: u64 = !(OFFSET_MASK | COPIED);
/// Bits 9 to 63 of refcount table entries.
pub const REFCOUNT_TABLE_MASK: u64 = !0x1ff;
/// The highest offset (exclusive) that L1 and L2 entries can name.
pub const MAX_HOST_OFFSET: u64 = 1 << 56;
/// Subclusters in a cluster with extended L2 entries.
pub const SUBCLUSTERS: u32 = 32;

/// Sizes that follow from the header and never change while an image is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// 9 to 21.
    pub cluster_bits: u32,
    /// `1 << cluster_bits`
    pub cluster_size: u64,
    /// Bytes of a subcluster are `1 << subcluster_bits`; a cluster's if there are none.
    pub subcluster_bits: u32,
    /// 32, or 1 without extended L2 entries.
    pub subclusters: u32,
    /// Bytes of an L2 entry: 8, or 16 with extended L2 entries.
    pub l2_entry_size: u64,
    /// Entries of an L2 table are `1 << l2_bits`.
    pub l2_bits: u32,
    /// Refcounts are `1 << refcount_order` bits wide.
    pub refcount_order: u32,
    /// Refcounts in a refcount block are `1 << refcount_block_bits`.
    pub refcount_block_bits: u32,
    /// 2 or 3; version 2 has no zero clusters.
    pub version: u32,
}

impl Geometry {
    /// From the header.
    pub fn new(header: &Header) -> Self {
        let extended = header.has_extended_l2();
        let cluster_bits = header.cluster_bits;
        Self {
            cluster_bits,
            cluster_size: 1 << cluster_bits,
            subcluster_bits: if extended { cluster_bits - 5 } else { cluster_bits },
            subclusters: if extended { SUBCLUSTERS } else { 1 },
            l2_entry_size: if extended { 16 } else { 8 },
            l2_bits: cluster_bits - if extended { 4 } else { 3 },
            refcount_order: header.refcount_order,
            refcount_block_bits: cluster_bits + 3 - header.refcount_order,
            version: header.version,
        }
    }

    /// Whether L2 entries have subclusters.
    pub fn has_subclusters(&self) -> bool {
        self.subclusters > 1
    }

    /// Bytes of a subcluster.
    pub fn subcluster_size(&self) -> u64 {
        1 << self.subcluster_bits
    }

    /// Where in its cluster a byte lies.
    pub fn in_cluster(&self, offset: u64) -> u64 {
        offset & (self.cluster_size - 1)
    }

    /// The start of a byte's cluster.
    pub fn cluster_start(&self, offset: u64) -> u64 {
        offset & !(self.cluster_size - 1)
    }

    /// The end of the cluster whose last byte lies before `offset`. Saturates.
    pub fn cluster_end(&self, offset: u64) -> u64 {
        offset.checked_next_multiple_of(self.cluster_size).unwrap_or(u64::MAX)
    }

    /// Clusters that so many bytes fill or begin.
    pub fn clusters(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster_size)
    }

    /// The index in the L1 table for an offset of the disk.
    pub fn l1_index(&self, offset: u64) -> u64 {
        offset >> (self.l2_bits + self.cluster_bits)
    }

    /// The index in its L2 table.
    pub fn l2_index(&self, offset: u64) -> u64 {
        (offset >> self.cluster_bits) & ((1 << self.l2_bits) - 1)
    }

    /// Bytes of the disk that an L2 table covers.
    pub fn l2_coverage(&self) -> u64 {
        1 << (self.l2_bits + self.cluster_bits)
    }

    /// Entries of the L1 table for a disk of so many bytes.
    pub fn l1_entries(&self, size: u64) -> u64 {
        size.div_ceil(self.l2_coverage())
    }

    /// The highest refcount.
    pub fn max_refcount(&self) -> u64 {
        match self.refcount_order {
            6 => u64::MAX,
            order => (1 << (1u32 << order)) - 1,
        }
    }

    /// Where a compressed cluster's data lies in the file, and its length in bytes up to the end of its last sector.
    pub fn compressed_range(&self, entry: u64) -> (u64, u64) {
        let shift = 62 - (self.cluster_bits - 8);
        let offset = entry & ((1 << shift) - 1) & (MAX_HOST_OFFSET - 1);
        let sectors = ((entry >> shift) & ((1 << (self.cluster_bits - 8)) - 1)) + 1;
        (offset, sectors * 512 - (offset & 511))
    }

    /// The entry for compressed data; `None` if the offset is beyond what an entry can say.
    pub fn compressed_entry(&self, offset: u64, len: u64) -> Option<u64> {
        let shift = 62 - (self.cluster_bits - 8);
        let end = offset.checked_add(len)?;
        if end > MAX_HOST_OFFSET.min(1 << shift) || len == 0 {
            return None;
        }
        let more = ((end - 1) >> 9) - (offset >> 9);
        Some(COMPRESSED | offset | more << shift)
    }
}

/// What a subcluster (a cluster, without extended L2 entries) is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The backing file's.
    Unallocated,
    /// The backing file's, though the cluster has a place in the file for it (extended L2 entries only).
    UnallocatedReserved,
    /// Zeroes.
    Zero,
    /// Zeroes, with a place in the file that is not read.
    ZeroReserved,
    /// Data in the file.
    Normal,
    /// A whole compressed cluster.
    Compressed,
}

impl Kind {
    /// The L2 entry names a place in the file for it.
    pub fn has_place(self) -> bool {
        matches!(self, Self::UnallocatedReserved | Self::ZeroReserved | Self::Normal)
    }

    /// Reads as zeroes without looking further.
    pub fn is_zero(self) -> bool {
        matches!(self, Self::Zero | Self::ZeroReserved)
    }

    /// What is behind the image is read.
    pub fn is_unallocated(self) -> bool {
        matches!(self, Self::Unallocated | Self::UnallocatedReserved)
    }
}

/// An L2 entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct L2Entry {
    /// The first 64 bits.
    pub descriptor: u64,
    /// The last 64 bits of an extended entry; else 0.
    pub bitmap: u64,
}

/// All 32 subclusters allocated.
pub const ALL_ALLOCATED: u64 = 0xffff_ffff;
/// All 32 subclusters read as zeroes.
pub const ALL_ZERO: u64 = 0xffff_ffff << 32;

impl L2Entry {
    /// Reads the entry at an index of a table's (or slice's) bytes.
    pub fn load(geometry: &Geometry, bytes: &[u8], index: usize) -> Self {
        let at = index * geometry.l2_entry_size as usize;
        let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let bitmap = if geometry.has_subclusters() { word(at + 8) } else { 0 };
        Self { descriptor: word(at), bitmap }
    }

    /// Writes it there.
    pub fn store(self, geometry: &Geometry, bytes: &mut [u8], index: usize) {
        let at = index * geometry.l2_entry_size as usize;
        bytes[at..at + 8].copy_from_slice(&self.descriptor.to_be_bytes());
        if geometry.has_subclusters() {
            bytes[at + 8..at + 16].copy_from_slice(&self.bitmap.to_be_bytes());
        }
    }

    /// Compressed clusters have neither place nor subclusters.
    pub fn is_compressed(self) -> bool {
        self.descriptor & COMPRESSED != 0
    }

    /// Writing in place is allowed.
    pub fn is_copied(self) -> bool {
        self.descriptor & COPIED != 0
    }

    /// The cluster's place in the file, of entries that are not compressed; 0: none (or, with an external data file and
    /// [`COPIED`], that very place).
    pub fn host_offset(self) -> u64 {
        self.descriptor & OFFSET_MASK
    }

    /// Whether the entry names a place in the file. `external`: guest data lies in another file.
    pub fn has_place(self, external: bool) -> bool {
        !self.is_compressed() && (self.host_offset() != 0 || (external && self.is_copied()))
    }

    /// What subcluster `index` is.
    pub fn kind(self, geometry: &Geometry, external: bool, index: u32) -> Kind {
        if self.is_compressed() {
            return Kind::Compressed;
        }
        let place = self.has_place(external);
        let (allocated, zero) = if geometry.has_subclusters() {
            (self.bitmap >> index & 1 == 1, self.bitmap >> (32 + index) & 1 == 1)
        } else {
            (place, self.descriptor & ZERO != 0)
        };
        match (zero, place, allocated) {
            (true, true, _) => Kind::ZeroReserved,
            (true, false, _) => Kind::Zero,
            (false, true, true) => Kind::Normal,
            (false, true, false) => Kind::UnallocatedReserved,
            (false, false, _) => Kind::Unallocated,
        }
    }

    /// Whether an extended entry says what cannot be: data without a place, or both data and zeroes.
    pub fn is_contradictory(self, geometry: &Geometry, external: bool) -> bool {
        if !geometry.has_subclusters() || self.is_compressed() {
            return false;
        }
        let (allocated, zero) = (self.bitmap & ALL_ALLOCATED, self.bitmap >> 32);
        allocated & zero != 0 || (allocated != 0 && !self.has_place(external))
    }
}

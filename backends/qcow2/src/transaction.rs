//! Changes of the image as a whole, that a crash makes happen or not.
//!
//! Snapshots are made, removed and applied by changing tables that depend on each other: the refcounts of most clusters,
//! the flags of the active tables, the snapshot table. In place there is no order of writes in which a crash leaves them
//! agreeing. So nothing is changed in place:
//!
//! 1. [`Transaction::begin`] reads all refcounts into memory. The image is held alone, with nothing pending.
//! 2. New tables are written into clusters whose refcount is 0, and counted in memory only. On disk nothing refers to
//!    them.
//! 3. [`Transaction::commit`] writes the refcount table and blocks anew, into free clusters as well, and flushes. A crash
//!    until here leaves the image as it was: no table in use has been written to, and clusters with refcount 0 may hold
//!    anything.
//! 4. One write of the header, within one sector, puts the new tables (L1, refcounts, snapshots) in the place of the old
//!    ones, and is flushed. Now the new state is there, whole; the clusters of tables that went out of use are free in
//!    the new refcounts.
//!
//! The price is that the refcount structures move, which are 2 bytes for each cluster.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use rhea_block::{BlockError, BlockNode, Result, ResultExt};

use crate::counts::Counts;
use crate::geometry::{COPIED, Geometry, L1_RESERVED, L2Entry, OFFSET_MASK};
use crate::header::Header;
use crate::image::{Exclusive, Image, Release};
use crate::structures::{
    IN_FLIGHT, read_refcount_table, read_refcounts, read_vector, unsound, words, write_refcounts,
};
use crate::write_back::Barrier;

/// Whether references are added or taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Add,
    Remove,
}

/// A change of the image under way. Dropped without [`Transaction::commit`], nothing has happened.
pub(crate) struct Transaction<'a> {
    image: &'a Image,
    file: Arc<BlockNode>,
    pub(crate) header: Header,
    pub(crate) geometry: Geometry,
    /// The refcounts to be.
    counts: Counts,
    /// Clusters that may not be written yet, though they will be free: those of tables still in use.
    old: Counts,
    /// Below this cluster no single one is free.
    cursor: u64,
}

impl<'a> Transaction<'a> {
    /// Begins a change. What is in memory only is written first.
    pub(crate) async fn begin(image: &'a Image, _held: &Exclusive<'_>) -> Result<Self> {
        image.write_back().await?;
        let (file, header, geometry) = (image.file(), image.header(), *image.geometry());
        let counts = read_refcounts(&file, &header, &geometry).await?;
        let old = counts.clone();
        Ok(Self { image, file, header, geometry, counts, old, cursor: 0 })
    }

    /// Changes the references to every cluster that a region touches.
    pub(crate) fn refer(&mut self, change: Change, offset: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let end = offset
            .checked_add(len)
            .ok_or_else(|| unsound(format!("a table names a region beyond any file: offset 0x{offset:x}")))?;
        for cluster in offset >> self.geometry.cluster_bits..=(end - 1) >> self.geometry.cluster_bits {
            let at = cluster << self.geometry.cluster_bits;
            match change {
                // What has no reference yet, but is named, was lost by the refcounts.
                Change::Add if self.counts.get(cluster) == 0 => {
                    return Err(unsound(format!("the cluster at 0x{at:x} is used, but its refcount is 0")));
                }
                Change::Add if self.counts.add(cluster, 1) != 0 => {
                    return Err(BlockError::new(
                        libc::EINVAL,
                        format!(
                            "the refcount of the cluster at 0x{at:x} would not fit into {} bits",
                            1u32 << self.geometry.refcount_order
                        ),
                    )
                    .with_hint("Use qemu-img amend to increase the refcount entry width."));
                }
                Change::Remove if !self.counts.subtract(cluster) => {
                    return Err(unsound(format!("the cluster at 0x{at:x} is used, but its refcount is 0")));
                }
                Change::Add | Change::Remove => {}
            }
        }
        Ok(())
    }

    /// Finds free clusters in a row, for so many bytes, and counts them. Returns their offset.
    pub(crate) fn allocate(&mut self, len: u64) -> u64 {
        let clusters = self.geometry.clusters(len).max(1);
        let first = free_in_both(&self.counts, &self.old, self.cursor, clusters);
        if clusters == 1 {
            self.cursor = first + 1;
        }
        for cluster in first..first + clusters {
            self.counts.set(cluster, 1);
        }
        first << self.geometry.cluster_bits
    }

    /// Writes a new table into free clusters. Returns its offset.
    pub(crate) async fn write_new(&mut self, bytes: &[u8]) -> Result<u64> {
        let offset = self.allocate(bytes.len() as u64);
        // Whole clusters, so that what follows the table is not somebody's old data.
        let mut whole = bytes.to_vec();
        whole.resize(bytes.len().next_multiple_of(self.geometry.cluster_size as usize), 0);
        self.file.write_bytes(offset, &whole).await?;
        Ok(offset)
    }

    /// Reads an L1 table.
    pub(crate) async fn read_l1(&self, offset: u64, entries: u32) -> Result<Vec<u64>> {
        let bytes = read_vector(self.file.clone(), offset, u64::from(entries) * 8)
            .await
            .context("Could not read an L1 table")?;
        let l1: Vec<u64> = words(&bytes.to_vec()).collect();
        for (index, &entry) in l1.iter().enumerate() {
            let table = entry & OFFSET_MASK;
            if entry & L1_RESERVED != 0 || !table.is_multiple_of(self.geometry.cluster_size) {
                return Err(unsound(format!("L1 entry {index} is invalid: {entry:x}")));
            }
        }
        Ok(l1)
    }

    /// Changes the references to the L2 tables of an L1 table, and to all that they name.
    pub(crate) async fn refer_tree(&mut self, change: Change, l1: &[u64]) -> Result<()> {
        let tables: Vec<u64> = l1.iter().map(|e| e & OFFSET_MASK).filter(|&offset| offset != 0).collect();
        let (file, cluster_size) = (self.file.clone(), self.geometry.cluster_size);
        let mut reads = stream::iter(tables)
            .map(move |offset| {
                let file = file.clone();
                async move { (offset, read_vector(file, offset, cluster_size).await) }
            })
            .buffered(IN_FLIGHT);
        while let Some((table, data)) = reads.next().await {
            let data = data.context("Could not read an L2 table")?;
            let bytes = data.as_slice().expect("a fresh vector is one segment");
            self.refer(change, table, cluster_size)?;
            for index in 0..1usize << self.geometry.l2_bits {
                let entry = L2Entry::load(&self.geometry, bytes, index);
                if entry.is_compressed() {
                    let (offset, length) = self.geometry.compressed_range(entry.descriptor);
                    self.refer(change, offset, length)?;
                } else if entry.has_place(false) {
                    let offset = entry.host_offset();
                    if !offset.is_multiple_of(cluster_size) {
                        return Err(unsound(format!(
                            "L2 entry {:x} is not cluster aligned",
                            entry.descriptor
                        )));
                    }
                    self.refer(change, offset, cluster_size)?;
                }
            }
        }
        Ok(())
    }

    /// Gives every entry of an L1 table that is to be the active one, and of its L2 tables, the flag that its cluster's
    /// refcount says. L2 tables whose flags change are copied. To be called when all references are as they will be.
    pub(crate) async fn settle(&mut self, l1: &mut [u64]) -> Result<()> {
        let tables: Vec<(usize, u64)> =
            l1.iter().map(|e| e & OFFSET_MASK).enumerate().filter(|(_, offset)| *offset != 0).collect();
        let (file, cluster_size) = (self.file.clone(), self.geometry.cluster_size);
        let mut reads = stream::iter(tables)
            .map(move |(index, offset)| {
                let file = file.clone();
                async move { (index, offset, read_vector(file, offset, cluster_size).await) }
            })
            .buffered(IN_FLIGHT);
        while let Some((index, offset, data)) = reads.next().await {
            let mut bytes = data.context("Could not read an L2 table")?.to_vec();
            let mut table = offset;
            if self.settle_table(&mut bytes) {
                self.refer(Change::Remove, offset, cluster_size)?;
                table = self.write_new(&bytes).await?;
            }
            let alone = self.count_at(table) == 1;
            l1[index] = table | if alone { COPIED } else { 0 };
        }
        Ok(())
    }

    fn settle_table(&self, bytes: &mut [u8]) -> bool {
        let mut changed = false;
        for index in 0..1usize << self.geometry.l2_bits {
            let entry = L2Entry::load(&self.geometry, bytes, index);
            if !entry.has_place(false) {
                continue;
            }
            let alone = self.count_at(entry.host_offset()) == 1;
            if alone != entry.is_copied() {
                let descriptor = entry.descriptor & !COPIED | if alone { COPIED } else { 0 };
                L2Entry { descriptor, ..entry }.store(&self.geometry, bytes, index);
                changed = true;
            }
        }
        changed
    }

    fn count_at(&self, offset: u64) -> u64 {
        self.counts.get(offset >> self.geometry.cluster_bits)
    }

    /// Makes the change happen: the refcounts, and what `change` does to the header, come into force together.
    pub(crate) async fn commit(mut self, change: impl FnOnce(&mut Header) + Send) -> Result<()> {
        let bits = self.geometry.cluster_bits;
        let (table, clusters) = (self.header.refcount_table_offset, self.header.refcount_table_clusters);
        for entry in read_refcount_table(&self.file, &self.header).await?.into_iter().filter(|&e| e != 0) {
            self.refer(Change::Remove, entry, self.geometry.cluster_size)?;
        }
        self.refer(Change::Remove, table, u64::from(clusters) << bits)?;
        let Self { old, mut counts, .. } = self;
        let order = self.geometry.refcount_order;
        let place = |counts: &Counts, len| free_in_both(counts, &old, 0, len);
        let placed = write_refcounts(&self.file, bits, order, &mut counts, place).await?;
        self.image.flush_file(Barrier::BeforeHeader).await?;
        let (image, file) = (self.image, self.file);
        let result = image
            .update_header(move |header| {
                header.refcount_table_offset = placed.table_offset;
                header.refcount_table_clusters = placed.table_clusters;
                change(header);
            })
            .await;
        let flushed = match result.is_ok() {
            true => image.flush_file(Barrier::AfterHeader).await,
            false => Ok(()),
        };
        let came_into_force = result.is_ok() && flushed.is_ok();
        // Whatever happened, memory follows the disk.
        let reloaded = image.reload().await;
        result.and(flushed).and(reloaded)?;
        if came_into_force && image.settings.lock().passes(Release::Snapshot) {
            discard_freed(&file, bits, &old, &counts).await;
        }
        Ok(())
    }
}

/// Tells the file of clusters that were in use before and are free now. That it cannot give them back does no harm.
async fn discard_freed(file: &BlockNode, cluster_bits: u32, old: &Counts, counts: &Counts) {
    let mut freed: Vec<(u64, u64)> = Vec::new();
    old.each_in(0, u64::MAX, |cluster, _| {
        if counts.get(cluster) == 0 {
            match freed.last_mut() {
                Some((first, len)) if *first + *len == cluster => *len += 1,
                _ => freed.push((cluster, 1)),
            }
        }
        true
    });
    for (first, len) in freed {
        let _ = file.discard(first << cluster_bits, len << cluster_bits).await;
    }
}

/// The first of `len` clusters in a row that are free as the refcounts will be, and are not in use now.
fn free_in_both(counts: &Counts, old: &Counts, from: u64, len: u64) -> u64 {
    let mut first = from;
    loop {
        first = counts.find_free(first, len);
        let used = old.find_free(first, len);
        if used == first {
            return first;
        }
        first = used;
    }
}

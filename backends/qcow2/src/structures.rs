//! The refcount table and blocks as a whole: read into memory, and written anew.
//!
//! Source: the qcow2 specification, "Host cluster management".

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use rhea_async_io::IoVector;
use rhea_block::{BlockError, BlockNode, Result, ResultExt};

use crate::counts::Counts;
use crate::geometry::{Geometry, REFCOUNT_TABLE_MASK};
use crate::header::{Header, MAX_REFCOUNT_TABLE_BYTES};
use crate::image::read_words;
use crate::refcount_bits;

/// Reads of tables under way at once.
pub(crate) const IN_FLIGHT: usize = 8;
/// Bytes of new blocks that are written at once.
const WRITE: usize = 1 << 20;

/// A read of a table.
pub(crate) async fn read_vector(file: Arc<BlockNode>, offset: u64, len: u64) -> Result<IoVector> {
    let mut data = IoVector::zeroed(len as usize);
    file.read(offset, &mut data).await?;
    Ok(data)
}

/// The big-endian words of a table.
pub(crate) fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.chunks_exact(8).map(|b| u64::from_be_bytes(b.try_into().expect("eight bytes")))
}

/// The refcount table's entries that lie within the file.
pub(crate) async fn read_refcount_table(file: &Arc<BlockNode>, header: &Header) -> Result<Vec<u64>> {
    let offset = header.refcount_table_offset;
    let len = u64::from(header.refcount_table_clusters) << header.cluster_bits;
    let there = file.length().saturating_sub(offset).min(len) / 8;
    read_words(file, offset, there).await.context("Could not read the refcount table")
}

/// All refcounts of an image whose table and blocks are sound; an error else.
pub(crate) async fn read_refcounts(
    file: &Arc<BlockNode>,
    header: &Header,
    geometry: &Geometry,
) -> Result<Counts> {
    let table = read_refcount_table(file, header).await?;
    let mut counts = Counts::new(geometry.max_refcount());
    let (cluster_size, file_length) = (geometry.cluster_size, file.length());
    let mut seen = BTreeSet::new();
    for (index, &entry) in table.iter().enumerate().filter(|(_, entry)| **entry != 0) {
        let sound = entry & REFCOUNT_TABLE_MASK == entry
            && entry.is_multiple_of(cluster_size)
            && entry < file_length
            && seen.insert(entry);
        if !sound {
            return Err(unsound(format!("refcount table entry {index} is invalid")));
        }
    }
    let blocks: Vec<(usize, u64)> = table.into_iter().enumerate().filter(|(_, entry)| *entry != 0).collect();
    let file = file.clone();
    let mut reads = stream::iter(blocks)
        .map(move |(index, offset)| {
            let file = file.clone();
            async move { (index, read_vector(file, offset, cluster_size).await) }
        })
        .buffered(IN_FLIGHT);
    while let Some((index, data)) = reads.next().await {
        let data = data.context("Could not read a refcount block")?;
        let bytes = data.as_slice().expect("a fresh vector is one segment");
        let first = (index as u64) << geometry.refcount_block_bits;
        for at in 0..1usize << geometry.refcount_block_bits {
            let count = refcount_bits::get(bytes, geometry.refcount_order, at);
            if count != 0 {
                counts.set(first + at as u64, count);
            }
        }
    }
    Ok(counts)
}

/// The error for an image that `check` should look at first.
pub(crate) fn unsound(what: String) -> BlockError {
    BlockError::new(libc::EIO, what).with_hint("Check the image first, by 'qemu-img check'.")
}

/// Where the refcount structures were put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub table_offset: u64,
    pub table_clusters: u32,
    /// Index in the table and offset of each block.
    pub blocks: Vec<(u64, u64)>,
}

/// Writes a refcount table and blocks for these counts, `1 << order` bits wide, and counts their clusters; `place` finds
/// so many free ones in a row. Nothing refers to them until the header does.
pub(crate) async fn write_refcounts(
    file: &BlockNode,
    cluster_bits: u32,
    order: u32,
    counts: &mut Counts,
    place: impl Fn(&Counts, u64) -> u64,
) -> Result<Placed> {
    let cluster_size = 1u64 << cluster_bits;
    let block_bits = cluster_bits + 3 - order;
    let mut blocks = BTreeSet::new();
    counts.each_in(0, u64::MAX, |cluster, _| {
        blocks.insert(cluster >> block_bits);
        true
    });
    // The new structure refers to itself: go on until it covers its own clusters.
    let (first, table_clusters) = loop {
        let bytes = blocks.last().map_or(0, |last| last + 1) * 8;
        if bytes > MAX_REFCOUNT_TABLE_BYTES {
            return Err(BlockError::new(libc::EFBIG, "the refcount table would be too large"));
        }
        let table_clusters = bytes.div_ceil(cluster_size);
        let before = blocks.len() as u64;
        let first = place(counts, before + table_clusters);
        let end = first + before + table_clusters;
        blocks.extend(first >> block_bits..=(end - 1) >> block_bits);
        if blocks.len() as u64 == before {
            break (first, table_clusters);
        }
    };
    let count = blocks.len() as u64;
    for cluster in first..first + count + table_clusters {
        counts.set(cluster, 1);
    }
    let blocks: Vec<(u64, u64)> =
        (first..).map(|at| at << cluster_bits).zip(blocks).map(|(o, i)| (i, o)).collect();
    let mut batch = Vec::new();
    let mut start = first << cluster_bits;
    for &(index, _) in &blocks {
        let at = batch.len();
        batch.resize(at + cluster_size as usize, 0);
        let lowest = index << block_bits;
        counts.each_in(lowest, lowest + (1 << block_bits), |cluster, count| {
            refcount_bits::set(&mut batch[at..], order, (cluster - lowest) as usize, count);
            true
        });
        if batch.len() >= WRITE {
            file.write_bytes(start, &batch).await.context("ERROR writing refblock")?;
            start += batch.len() as u64;
            batch.clear();
        }
    }
    let table_offset = (first + count) << cluster_bits;
    let table_at = batch.len();
    batch.resize(table_at + (table_clusters << cluster_bits) as usize, 0);
    for &(index, offset) in &blocks {
        let at = table_at + index as usize * 8;
        batch[at..at + 8].copy_from_slice(&offset.to_be_bytes());
    }
    file.write_bytes(start, &batch).await.context("ERROR writing reftable")?;
    Ok(Placed { table_offset, table_clusters: table_clusters as u32, blocks })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhea_async_io::block_on;
    use rhea_block::{MemoryNode, OpenFlags};

    #[test]
    fn a_new_structure_counts_itself() {
        for order in 0..=6 {
            let node = BlockNode::anonymous("memory", Box::<MemoryNode>::default(), OpenFlags::empty());
            let mut counts = Counts::new(1);
            (0..5000).filter(|c| c % 7 != 3).for_each(|c| counts.set(c, 1));
            let placed = block_on(write_refcounts(&node, 9, order, &mut counts, |counts, len| {
                counts.find_free(0, len)
            }))
            .unwrap();
            for &(_, offset) in &placed.blocks {
                assert_eq!(counts.get(offset >> 9), 1);
            }
            let mut expected = Vec::new();
            counts.each_in(0, u64::MAX, |c, n| {
                expected.push((c, n));
                true
            });
            let mut got = Vec::new();
            for &(index, offset) in &placed.blocks {
                let block = block_on(read_vector(node.clone(), offset, 512)).unwrap().to_vec();
                let per_block = 4096usize >> order;
                got.extend(
                    (0..per_block)
                        .map(|i| (index * per_block as u64 + i as u64, refcount_bits::get(&block, order, i))),
                );
            }
            got.retain(|e| e.1 != 0);
            assert_eq!(got, expected, "order {order}");
        }
    }
}

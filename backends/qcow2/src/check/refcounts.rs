//! Comparing the refcounts on disk with the references that were counted, and putting them right.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use rhea_async_io::IoVector;
use rhea_block::{BlockError, Result, ResultExt};

use super::Check;
use crate::geometry::{Geometry, REFCOUNT_TABLE_MASK};
use crate::refcount_bits;
use crate::structures::{IN_FLIGHT, read_refcount_table, read_vector};

/// Bytes of refcount blocks that [`Actual`] keeps.
const CACHE: u64 = 16 << 20;

/// Clusters without refcounts that are told of in one go.
const AT_ONCE: usize = 1 << 18;

/// The lower bit of every count in a word of counts.
const LOW: u64 = 0x5555_5555_5555_5555;

/// 32 refcounts from an index on, two bits each; 3 stands for any that is larger than 2.
fn pack(order: u32, block: &[u8], index: usize) -> u64 {
    let mut word = 0;
    if order == 4 {
        // The width of all images that were not told otherwise.
        for (i, bytes) in block[index * 2..index * 2 + 64].chunks_exact(2).enumerate() {
            word |= u64::from(u16::from_be_bytes([bytes[0], bytes[1]]).min(3)) << (2 * i);
        }
        return word;
    }
    for i in 0..32 {
        word |= refcount_bits::get(block, order, index + i).min(3) << (2 * i);
    }
    word
}

/// What a refcount table entry is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
    /// All refcounts are 0.
    Missing,
    /// Here it is.
    At(u64),
    /// It cannot be read.
    Unusable,
}

/// The blocks, by index in the table: a word each, as there may be a million.
#[derive(Debug, Default)]
pub(super) struct Blocks(Vec<u64>);

impl Blocks {
    /// A block that cannot be read.
    const UNUSABLE: u64 = 1;
    /// Beside a block's offset: the references have been counted.
    const COUNTED: u64 = 2;

    /// So many entries that have no block.
    pub(super) fn missing(entries: u64) -> Self {
        Self(vec![0; entries as usize])
    }

    fn unpack(word: u64) -> Block {
        match word & !Self::COUNTED {
            0 => Block::Missing,
            Self::UNUSABLE => Block::Unusable,
            offset => Block::At(offset),
        }
    }

    pub(super) fn get(&self, index: u64) -> Block {
        self.0.get(index as usize).map_or(Block::Missing, |&word| Self::unpack(word))
    }

    /// Offsets of blocks are multiples of 512.
    pub(super) fn set(&mut self, index: u64, block: Block, counted: bool) {
        let counted = if counted { Self::COUNTED } else { 0 };
        self.0[index as usize] = counted
            | match block {
                Block::Missing => 0,
                Block::Unusable => Self::UNUSABLE,
                Block::At(offset) => offset,
            };
    }

    /// Where the blocks are whose clusters count a reference each.
    pub(super) fn counted(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().filter(|&word| word & Self::COUNTED != 0).map(|word| word & !Self::COUNTED)
    }
}

/// Whether findings are told or repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// Each is told; nothing is written.
    Look,
    /// What was asked for is put right, and the rest told again.
    Repair,
}

/// A refcount block on its way.
struct Loaded {
    index: u64,
    block: Block,
    data: Option<Result<IoVector>>,
}

impl Check<'_> {
    /// Counts the refcount table and blocks, and looks whether each block is where it can be.
    pub(super) async fn count_refcount_structures(&mut self) -> Result<()> {
        let bits = self.geometry.cluster_bits;
        let offset = self.header.refcount_table_offset;
        let len = u64::from(self.header.refcount_table_clusters) << bits;
        self.table_counted = self.count_region(offset, len, 1).then_some((offset, len));
        let mut blocks = Blocks(read_refcount_table(&self.file, &self.header).await?);
        for index in 0..blocks.0.len() as u64 {
            let entry = blocks.0[index as usize];
            if entry != 0 {
                let (block, counted) = self.count_refcount_block(index, entry);
                blocks.set(index, block, counted);
            }
        }
        self.blocks = Arc::new(blocks);
        Ok(())
    }

    /// What an entry of the table is good for, and whether its block's references were counted.
    fn count_refcount_block(&mut self, index: u64, entry: u64) -> (Block, bool) {
        let cluster_size = self.geometry.cluster_size;
        let offset = entry & REFCOUNT_TABLE_MASK;
        if entry != offset {
            self.corrupt(1, format!("ERROR refcount table entry {index} has reserved bits set"));
            self.rebuild = true;
            let there = offset != 0 && offset.is_multiple_of(cluster_size) && offset < self.file_length;
            return (if there { Block::At(offset) } else { Block::Unusable }, false);
        }
        if !offset.is_multiple_of(cluster_size) {
            self.corrupt(
                1,
                format!(
                    "ERROR refcount block {index} is not cluster aligned; refcount table entry corrupted"
                ),
            );
            self.rebuild = true;
            return (Block::Unusable, false);
        }
        if offset >= self.file_length {
            self.found(self.repair.errors, &format!("refcount block {index} is outside image"));
            self.rebuild = true;
            return (Block::Missing, false);
        }
        let counted = self.count_region(offset, cluster_size, 1);
        let count = self.counts.get(offset >> self.geometry.cluster_bits);
        if count != 1 {
            self.corrupt(1, format!("ERROR refcount block {index} refcount={count}"));
            self.rebuild = true;
        }
        (Block::At(offset), counted)
    }

    /// Compares every refcount with the references counted. In the repairing pass, refcounts are put right in their
    /// blocks.
    pub(super) async fn compare_refcounts(&mut self, pass: Pass) -> Result<()> {
        let geometry = self.geometry;
        let blocks = self.blocks.clone();
        let (file, cluster_size) = (self.file.clone(), geometry.cluster_size);
        self.clusters = self.file_length.div_ceil(cluster_size).max(self.counts.end());
        let per_block = 1u64 << geometry.refcount_block_bits;
        let needed = self.clusters.div_ceil(per_block).min(blocks.0.len() as u64);
        let there = (0..needed)
            .map(move |index| (index, blocks.get(index)))
            .filter(|(_, block)| *block != Block::Missing);
        let mut reads = stream::iter(there)
            .map(move |(index, block)| {
                let file = file.clone();
                async move {
                    let data = match block {
                        Block::At(offset) => Some(read_vector(file, offset, cluster_size).await),
                        _ => None,
                    };
                    Loaded { index, block, data }
                }
            })
            .buffered(IN_FLIGHT);
        let mut next = 0;
        self.end_cluster = 0;
        while let Some(loaded) = reads.next().await {
            // Blocks that are not there count nothing.
            self.compare_missing(next * per_block, loaded.index * per_block, pass);
            next = loaded.index + 1;
            self.compare_block(loaded, pass).await?;
        }
        self.compare_missing(next * per_block, self.clusters, pass);
        Ok(())
    }

    fn compare_missing(&mut self, from: u64, to: u64, pass: Pass) {
        let mut from = from;
        loop {
            let mut found = Vec::new();
            self.counts.each_in(from, to.min(self.clusters), |cluster, count| {
                found.push((cluster, count));
                found.len() < AT_ONCE
            });
            for &(cluster, count) in &found {
                self.mismatch(cluster, 0, count, pass);
                self.end_cluster = cluster + 1;
            }
            match found.last() {
                Some((last, _)) if found.len() == AT_ONCE => from = last + 1,
                _ => return,
            }
        }
    }

    async fn compare_block(&mut self, loaded: Loaded, pass: Pass) -> Result<()> {
        let order = self.geometry.refcount_order;
        let first = loaded.index << self.geometry.refcount_block_bits;
        let last = (first + (1 << self.geometry.refcount_block_bits)).min(self.clusters);
        let mut data = match loaded.data {
            Some(Ok(data)) => data,
            Some(Err(error)) => return self.unreadable_refcounts(first, last, &error),
            // Without a repair nobody can tell these; with one they are made anew.
            None if self.repair.errors => {
                self.compare_missing(first, last, pass);
                return Ok(());
            }
            None => return self.unreadable_refcounts(first, last, &BlockError::os(libc::EIO)),
        };
        let bytes = data.as_mut_slice().expect("a fresh vector is one segment");
        let mut changed = false;
        let mut group = first;
        while group < last {
            let end = last.min(group + 32);
            let packed = self.counts.packed(group);
            if end == group + 32
                && packed & packed >> 1 & LOW == 0
                && pack(order, bytes, (group - first) as usize) == packed
            {
                // Nearly always: all alike, and none larger than 2.
                if packed != 0 {
                    self.end_cluster = group + 32 - u64::from(packed.leading_zeros()) / 2;
                }
                group = end;
                continue;
            }
            for cluster in group..end {
                let index = (cluster - first) as usize;
                let actual = refcount_bits::get(bytes, order, index);
                let count = self.counts.get(cluster);
                if actual | count == 0 {
                    continue;
                }
                self.end_cluster = cluster + 1;
                if actual != count && self.mismatch(cluster, actual, count, pass) {
                    refcount_bits::set(bytes, order, index, count);
                    changed = true;
                }
            }
            group = end;
        }
        if changed {
            let Block::At(offset) = loaded.block else {
                unreachable!("only a block that was read can have changed");
            };
            self.wrote = true;
            self.file.write_bytes(offset, bytes).await.context("Could not write a refcount block")?;
        }
        Ok(())
    }

    fn unreadable_refcounts(&mut self, first: u64, last: u64, error: &BlockError) -> Result<()> {
        for cluster in first..last {
            self.tell(format!("Can't get refcount for cluster {cluster}: {error}"));
        }
        self.result.check_errors += last - first;
        Ok(())
    }

    /// A refcount differs from the references. Returns whether it is to be put right.
    fn mismatch(&mut self, cluster: u64, actual: u64, count: u64, pass: Pass) -> bool {
        let leak = actual > count;
        let wanted = if leak { self.repair.leaks && !self.unseen } else { self.repair.errors };
        let repair = pass == Pass::Repair && wanted;
        let what = match (repair, leak) {
            (true, _) => "Repairing",
            (false, true) => "Leaked",
            (false, false) => "ERROR",
        };
        self.tell(format!("{what} cluster {cluster} refcount={actual} reference={count}"));
        // What the repairing pass finds, the first one has counted.
        if pass == Pass::Look {
            match leak {
                true => self.result.leaks += 1,
                false => self.result.corruptions += 1,
            }
            // To raise a refcount from 0 would be to trust a structure that lost it.
            self.rebuild |= actual == 0;
        }
        if repair {
            match leak {
                true => {
                    self.result.leaks -= 1;
                    self.result.leaks_fixed += 1;
                }
                false => {
                    self.result.corruptions -= 1;
                    self.result.corruptions_fixed += 1;
                }
            }
        }
        repair
    }
}

/// Looks up refcounts on disk, in any order.
pub(super) struct Actual {
    blocks: HashMap<u64, Option<Vec<u8>>>,
    last: Option<u64>,
}

impl Actual {
    pub(super) fn new() -> Self {
        Self { blocks: HashMap::new(), last: None }
    }

    /// The refcount of the cluster at `offset`; `None` if its block cannot be read.
    pub(super) async fn get(&mut self, check: &Check<'_>, offset: u64) -> Option<u64> {
        let geometry: &Geometry = &check.geometry;
        let cluster = offset >> geometry.cluster_bits;
        let index = cluster >> geometry.refcount_block_bits;
        if self.last != Some(index) && !self.blocks.contains_key(&index) {
            if (self.blocks.len() as u64 + 1) << geometry.cluster_bits > CACHE {
                self.blocks.clear();
            }
            let block = match check.blocks.get(index) {
                Block::Missing => Some(Vec::new()),
                Block::Unusable => None,
                Block::At(offset) => {
                    let data = read_vector(check.file.clone(), offset, geometry.cluster_size).await;
                    data.ok().map(|data| data.to_vec())
                }
            };
            self.blocks.insert(index, block);
        }
        self.last = Some(index);
        let block = self.blocks.get(&index)?.as_ref()?;
        let in_block = cluster & ((1 << geometry.refcount_block_bits) - 1);
        Some(if block.is_empty() {
            0
        } else {
            refcount_bits::get(block, geometry.refcount_order, in_block as usize)
        })
    }
}

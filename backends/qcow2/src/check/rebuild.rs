//! Making the refcount table and blocks anew.
//!
//! The new blocks and table go where nothing is, are written and flushed, and then one write of the header puts them in
//! the place of the old ones. Until then the image is as it was.

use std::collections::BTreeMap;
use std::sync::Arc;

use rhea_block::{CheckResult, Result, ResultExt};

use super::Check;
use super::refcounts::{Actual, Block, Blocks};
use crate::geometry::Geometry;
use crate::structures::write_refcounts;
use crate::write_back::Barrier;

impl Check<'_> {
    /// Gives the old table and blocks up and writes new ones, with refcounts of `1 << order` bits.
    pub(super) async fn rebuild_refcounts(&mut self, order: u32) -> Result<()> {
        self.keep_unseen().await;
        self.forget_structures(order == self.geometry.refcount_order);
        let bits = self.geometry.cluster_bits;
        // Where a table that was not seen may have its data, nothing is put; nor over the old structure.
        let from = match self.unseen || self.wrong_elsewhere != 0 {
            true => self.counts.end().max(self.file_length.div_ceil(self.geometry.cluster_size)),
            false => self.free_from,
        };
        self.wrote = true;
        let placed = write_refcounts(&self.file, bits, order, &mut self.counts, |counts, len| {
            counts.find_free(from, len)
        })
        .await?;
        self.image.flush_file(Barrier::BeforeHeader).await?;
        let (table_offset, clusters) = (placed.table_offset, placed.table_clusters);
        self.image
            .update_header(move |header| {
                header.refcount_table_offset = table_offset;
                header.refcount_table_clusters = clusters;
                header.refcount_order = order;
            })
            .await
            .context("ERROR setting reftable")?;
        self.image.flush_file(Barrier::AfterHeader).await?;
        self.header = self.image.header();
        self.geometry = Geometry::new(&self.header);
        let entries = placed.blocks.last().map_or(0, |(index, _)| index + 1);
        let mut blocks = Blocks::missing(entries);
        for (index, offset) in placed.blocks {
            blocks.set(index, Block::At(offset), false);
        }
        self.blocks = Arc::new(blocks);
        self.end_cluster = self.counts.end();
        Ok(())
    }

    /// If a table could not be looked into, clusters that count as used may be its own: they stay so.
    async fn keep_unseen(&mut self) {
        if !self.unseen {
            return;
        }
        let mut actual = Actual::new();
        for cluster in 0..self.clusters {
            let on_disk = actual.get(self, cluster << self.geometry.cluster_bits).await.unwrap_or(0);
            if on_disk > self.counts.get(cluster) {
                self.counts.set(cluster, on_disk);
            }
        }
    }

    /// Takes away the references to the old table and blocks. They are not written over before the header leaves them.
    fn forget_structures(&mut self, tell: bool) {
        let bits = self.geometry.cluster_bits;
        let mut freed = BTreeMap::new();
        self.free_from = self.counts.end();
        let blocks = self.blocks.clone();
        let block_len = self.geometry.cluster_size;
        let places = self.table_counted.take().into_iter().chain(blocks.counted().map(|at| (at, block_len)));
        for (offset, len) in places {
            for cluster in offset >> bits..=(offset + len - 1) >> bits {
                if tell {
                    freed.entry(cluster).or_insert_with(|| self.counts.get(cluster));
                }
                // Of the last ones nobody would be told.
                if freed.len() > CheckResult::MAX_MESSAGES {
                    freed.pop_last();
                }
                self.counts.subtract(cluster);
            }
        }
        for (cluster, before) in freed {
            let after = self.counts.get(cluster);
            if after != before {
                self.tell(format!("Repairing cluster {cluster} refcount={before} reference={after}"));
            }
        }
    }
}

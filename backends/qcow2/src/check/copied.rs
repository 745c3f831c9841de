//! The flag that a cluster's refcount is exactly one, in the active L1 and L2 tables.

use futures_util::StreamExt;
use futures_util::stream;
use rhea_block::{Result, ResultExt};

use super::Check;
use super::refcounts::Actual;
use super::references::L1_PIECE;
use crate::geometry::{COPIED, L2Entry, OFFSET_MASK};
use crate::structures::{IN_FLIGHT, read_vector, words};

impl Check<'_> {
    /// Whether, with refcounts that are all as counted, every flag is right.
    pub(super) fn copied_flags_are_right(&self) -> bool {
        !self.copied_suspect
            && self.copied.all_are_one_in(&self.counts)
            && self.not_copied.none_is_one_in(&self.counts)
    }

    /// Looks at every flag, and puts it right if `repair` says so.
    pub(super) async fn check_copied_flags(&mut self, repair: bool) -> Result<()> {
        let (offset, len) = (self.header.l1_table_offset, u64::from(self.header.l1_size) * 8);
        let there = self.file_length.saturating_sub(offset).min(len) / 8 * 8;
        let mut actual = Actual::new();
        // Piece by piece: a table may have 32 MiB.
        let mut at = 0;
        while at < there {
            let piece = L1_PIECE.min(there - at);
            let l1 = read_vector(self.file.clone(), offset + at, piece)
                .await
                .context("Could not read L1 table")?
                .to_vec();
            let first = (at / 8) as usize;
            let entries: Vec<(usize, u64)> =
                (first..).zip(words(&l1)).filter(|(_, entry)| entry & OFFSET_MASK != 0).collect();
            self.check_copied_flags_of(entries, repair, &mut actual).await?;
            at += piece;
        }
        Ok(())
    }

    /// The same for some entries of the L1 table, each with its index.
    async fn check_copied_flags_of(
        &mut self,
        entries: Vec<(usize, u64)>,
        repair: bool,
        actual: &mut Actual,
    ) -> Result<()> {
        let (file, cluster_size, file_length) =
            (self.file.clone(), self.geometry.cluster_size, self.file_length);
        let mut reads = stream::iter(entries)
            .map(move |(index, entry)| {
                let file = file.clone();
                async move {
                    let offset = entry & OFFSET_MASK;
                    let there = offset.is_multiple_of(cluster_size) && offset < file_length;
                    let data = match there {
                        true => Some(read_vector(file, offset, cluster_size).await),
                        false => None,
                    };
                    (index, entry, data)
                }
            })
            .buffered(IN_FLIGHT);
        while let Some((index, entry, data)) = reads.next().await {
            self.check_l1_flag(index, entry, repair, actual).await?;
            match data {
                Some(Ok(data)) => {
                    let mut bytes = data.to_vec();
                    let table = entry & OFFSET_MASK;
                    if self.check_l2_flags(&mut bytes, repair, actual).await {
                        self.wrote = true;
                        self.file.write_bytes(table, &bytes).await.context("Could not write L2 table")?;
                    }
                }
                Some(Err(error)) => self.unreadable("L2 table", entry & OFFSET_MASK, &error),
                None => {}
            }
        }
        Ok(())
    }

    async fn check_l1_flag(
        &mut self,
        index: usize,
        entry: u64,
        repair: bool,
        actual: &mut Actual,
    ) -> Result<()> {
        let Some(refcount) = actual.get(self, entry & OFFSET_MASK).await else {
            self.result.check_errors += 1;
            return Ok(());
        };
        if (refcount == 1) == (entry & COPIED != 0) {
            return Ok(());
        }
        self.found(
            repair,
            &format!("OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={entry:x} refcount={refcount}"),
        );
        if repair {
            let entry = if refcount == 1 { entry | COPIED } else { entry & !COPIED };
            self.wrote = true;
            let at = self.header.l1_table_offset + index as u64 * 8;
            self.file.write_bytes(at, &entry.to_be_bytes()).await.context("Could not write L1 table")?;
        }
        Ok(())
    }

    /// Returns whether the table was changed.
    async fn check_l2_flags(&mut self, bytes: &mut [u8], repair: bool, actual: &mut Actual) -> bool {
        let mut changed = false;
        for index in 0..1usize << self.geometry.l2_bits {
            let entry = L2Entry::load(&self.geometry, bytes, index);
            if entry.descriptor == 0 || !entry.has_place(self.external) {
                continue;
            }
            let refcount = match self.external {
                true => Some(1),
                false => actual.get(self, entry.host_offset()).await,
            };
            let Some(refcount) = refcount else {
                self.result.check_errors += 1;
                continue;
            };
            if (refcount == 1) == entry.is_copied() {
                continue;
            }
            let text =
                format!("OFLAG_COPIED data cluster: l2_entry={:x} refcount={refcount}", entry.descriptor);
            self.found(repair, &text);
            if repair {
                let copied = if refcount == 1 { COPIED } else { 0 };
                L2Entry { descriptor: entry.descriptor & !COPIED | copied, ..entry }.store(
                    &self.geometry,
                    bytes,
                    index,
                );
                changed = true;
            }
        }
        changed
    }
}

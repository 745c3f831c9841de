//! Moving the end of the disk, reserving clusters, and emptying an image.

use std::sync::atomic::Ordering::SeqCst;

use rhea_async_io::IoVector;
use rhea_block::{BlockError, Preallocation, Progress, Result, ResultExt, Truncate, WriteFlags};

use crate::finish::finish;
use crate::geometry::{ALL_ALLOCATED, COPIED, L2Entry, OFFSET_MASK};
use crate::image::{Image, Release};
use crate::mapping::L2Table;
use crate::read::Behind;

/// Zeroes that must be written as data go in pieces of this size.
const ZERO_CHUNK: u64 = 1 << 20;

impl Image {
    /// Moves the end of the disk, even if the caller gives up. Holds the image alone.
    pub(crate) async fn resize(&self, length: u64, how: Truncate) -> Result<()> {
        let this = self.arc();
        finish(async move { this.truncate(length, how, None).await }).await
    }

    /// Moves the end of the disk. Holds the image alone.
    pub(crate) async fn truncate(
        &self,
        length: u64,
        how: Truncate,
        progress: Option<&Progress>,
    ) -> Result<()> {
        let held = self.exclusive().await;
        self.check_writable()?;
        if !length.is_multiple_of(512) {
            return Err(BlockError::invalid("The new size must be a multiple of 512"));
        }
        let old = self.length();
        let header = self.header();
        if header.nb_snapshots > 0 && header.version < 3 && length != old {
            return Err(BlockError::unsupported("Can't resize a v2 image which has snapshots"));
        }
        if length != old {
            crate::bitmap::refuse_inconsistent(self).await?;
        }
        if length < old {
            if how.preallocation != Preallocation::Off {
                return Err(BlockError::invalid("Preallocation can't be used for shrinking an image"));
            }
            self.shrink(old, length).await?;
            return crate::bitmap::tracking::resize(self, length, &held).await;
        }
        crate::bitmap::tracking::resize(self, length, &held).await?;
        self.grow(old, length, how, progress).await
    }

    async fn shrink(&self, old: u64, length: u64) -> Result<()> {
        let g = self.geometry;
        self.unmap(g.cluster_end(length), g.cluster_end(old), Release::Other).await?;
        self.write_back().await?;
        self.drop_l2_tables(g.l1_entries(length) as usize, g.l1_entries(old) as usize).await?;
        self.update_header(|header| header.size = length).await?;
        self.length.store(length, SeqCst);
        self.write_back().await?;
        if let Some(data) = &self.data_file
            && self.header.lock().header.is_data_file_raw()
        {
            data.node().truncate(length, Truncate { exact: true, ..Truncate::default() }).await?;
        }
        self.trim_file().await
    }

    /// Gives up the L2 tables of a range of L1 entries, all of whose clusters are unallocated.
    async fn drop_l2_tables(&self, first: usize, end: usize) -> Result<()> {
        self.write_back().await?;
        let entries = self.l1();
        let end = end.min(entries.len());
        let Some(dropped) = entries.get(first..end).filter(|d| d.iter().any(|e| *e != 0)) else {
            return Ok(());
        };
        self.event("l1_shrink_write_table").await;
        // In memory first: what is on disk may not be ahead of it, should the write fail.
        {
            let mut l1 = self.l1.write();
            l1.entries[first..end].fill(0);
            l1.dirty.extend(first..end);
        }
        self.event("l1_shrink_free_l2_clusters").await;
        for entry in dropped.iter().map(|e| e & OFFSET_MASK).filter(|&e| e != 0) {
            self.l2.forget(entry, self.geometry.cluster_size);
            self.release(entry, self.geometry.cluster_size, Release::Other);
        }
        self.write_back().await
    }

    /// Cuts off what lies behind the last cluster in use. Nothing may be pending.
    async fn trim_file(&self) -> Result<()> {
        let g = self.geometry;
        let file = self.file();
        let length = file.length();
        let mut end = g.clusters(length);
        while end > 0 {
            let cluster = end - 1;
            let index = (cluster >> g.refcount_block_bits) as usize;
            let block = self.refcounts.table.lock().entries.get(index).copied().unwrap_or(0);
            if block == 0 {
                end = cluster >> g.refcount_block_bits << g.refcount_block_bits;
                continue;
            }
            if self.refcount(cluster << g.cluster_bits).await? != 0 {
                break;
            }
            end = cluster;
        }
        let wanted = end << g.cluster_bits;
        if wanted < length && end > 0 {
            // That the file stays longer does no harm.
            if file.truncate(wanted, Truncate { exact: true, ..Truncate::default() }).await.is_ok() {
                self.refcounts.file_was_cut(end);
            }
        }
        Ok(())
    }

    async fn grow(&self, old: u64, length: u64, how: Truncate, progress: Option<&Progress>) -> Result<()> {
        let g = self.geometry;
        self.grow_l1(g.l1_entries(length)).await?;
        let (old_end, end) = (g.cluster_end(old), g.cluster_end(length));
        // The rest of the last cluster may hold what was cut off once.
        let rest = old_end.min(length) - old;
        if rest > 0 && !self.reads_as_zero(old, rest, Behind::Backing).await? {
            let zeroes = IoVector::zeroed(rest as usize);
            self.write_range(old, zeroes.view(), Behind::Backing).await?;
        }
        if old_end < end {
            // Machine state that was left there.
            self.unmap(old_end, end, Release::Other).await?;
        }
        if let Some(data) = &self.data_file {
            let data = data.node();
            if data.length() < length {
                let preallocation = match how.preallocation {
                    Preallocation::Metadata => Preallocation::Off,
                    other => other,
                };
                data.truncate(length, Truncate { exact: false, preallocation, zero: false }).await?;
            }
        }
        if how.preallocation != Preallocation::Off {
            self.preallocate(old_end, end, how.preallocation, progress).await?;
        } else if how.zero && old_end < end {
            self.zero_new_part(old_end, length).await?;
        }
        self.write_back().await?;
        self.update_header(|header| header.size = length).await?;
        self.length.store(length, SeqCst);
        self.write_back().await
    }

    /// Hides a longer backing file behind the new part.
    async fn zero_new_part(&self, from: u64, length: u64) -> Result<()> {
        if self.geometry.version >= 3 {
            return self.set_zero(from, self.geometry.cluster_end(length)).await;
        }
        let zeroes = IoVector::zeroed(ZERO_CHUNK as usize);
        let mut at = from;
        while at < length {
            let len = ZERO_CHUNK.min(length - at);
            self.write_range(at, zeroes.view().slice(0..len as usize), Behind::Backing).await?;
            at += len;
        }
        Ok(())
    }

    /// Gives every cluster of a range a place in the file, which reads as zeroes (with subclusters and a backing file: as
    /// the backing file).
    pub(crate) async fn preallocate(
        &self,
        from: u64,
        to: u64,
        how: Preallocation,
        progress: Option<&Progress>,
    ) -> Result<()> {
        let g = self.geometry;
        // The backing file may not be open yet.
        let backed = self.header.lock().header.backing_file.is_some() || self.backing.load().is_some();
        let reserve_only = g.has_subclusters() && backed;
        let mut at = from;
        let mut file_end = 0;
        while at < to {
            let place = self.writable_l2(at).await?;
            let slice_room = (self.entries_per_slice() - place.index) as u64;
            let wanted = ((to - at) >> g.cluster_bits).clamp(1, slice_room);
            let (host, clusters, zeroed) = if self.has_data_file() {
                (at, wanted, true)
            } else {
                let allocated = self.allocate_some(wanted).await?;
                let zeroed = allocated.untouched && self.grows_with_zeroes;
                (allocated.offset, allocated.clusters, zeroed)
            };
            if !zeroed && !reserve_only {
                let len = clusters << g.cluster_bits;
                self.data().write_zeroes(host, len, WriteFlags::empty()).await?;
            }
            file_end = file_end.max(host + (clusters << g.cluster_bits));
            self.link_preallocated(place.slice, place.index, host, clusters, reserve_only).await?;
            at += clusters << g.cluster_bits;
            if let Some(progress) = progress {
                progress.set_done(at.min(to));
            }
        }
        let file = self.data();
        if !self.has_data_file() && file.length() < file_end {
            let preallocation = match how {
                Preallocation::Metadata => Preallocation::Off,
                other => other,
            };
            let how = Truncate { exact: false, preallocation, zero: false };
            file.truncate(file_end, how).await.context("Failed to resize underlying file")?;
        }
        Ok(())
    }

    async fn link_preallocated(
        &self,
        slice: u64,
        index: usize,
        host: u64,
        clusters: u64,
        reserve_only: bool,
    ) -> Result<()> {
        let g = &self.geometry;
        self.barrier.store(true, SeqCst);
        let bitmap = if g.has_subclusters() && !reserve_only { ALL_ALLOCATED } else { 0 };
        loop {
            let done = self.l2.write(slice, |bytes| {
                for number in 0..clusters as usize {
                    let place = host + ((number as u64) << g.cluster_bits);
                    L2Entry { descriptor: place | COPIED, bitmap }.store(g, bytes, index + number);
                }
                let size = g.l2_entry_size as usize;
                ((), index * size..(index + clusters as usize) * size)
            });
            match done {
                Some(()) => return Ok(()),
                None => self.load_l2(slice).await?,
            }
        }
    }

    /// Makes everything unallocated, and the file as small as that allows, even if the caller gives up.
    pub(crate) async fn make_empty(&self) -> Result<()> {
        let this = self.arc();
        finish(async move { this.make_empty_now().await }).await
    }

    async fn make_empty_now(&self) -> Result<()> {
        let _held = self.exclusive().await;
        self.check_writable()?;
        let g = self.geometry;
        let end = g.cluster_end(self.length());
        self.event("empty_image_prepare").await;
        self.bitmaps.mark(0, self.length());
        self.unmap(0, end, Release::Request).await?;
        self.drop_l2_tables(0, g.l1_entries(self.length()) as usize).await?;
        self.trim_file().await
    }

    /// Where machine state begins.
    pub(crate) fn vm_state_offset(&self) -> u64 {
        self.geometry.l1_entries(self.length()) * self.geometry.l2_coverage()
    }

    /// Makes the L1 table long enough for an offset beyond the disk.
    pub(crate) async fn reach(&self, end: u64) -> Result<()> {
        let entries = self.geometry.l1_entries(end);
        if matches!(self.l2_place(end - 1, 1), L2Table::Missing(_))
            && self.l1.read().entries.len() < entries as usize
        {
            let _held = self.exclusive().await;
            self.grow_l1(entries).await?;
        }
        Ok(())
    }
}

//! Writing tables out, in an order in which a crash between any two writes leaves a sound image.
//!
//! Each flush that keeps such an order has a name ([`Barrier`]), which is told to the file as a debug event. So the crash
//! tests can leave out the flushes of one name, and show that each is needed.

use std::sync::atomic::Ordering::SeqCst;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rhea_async_io::IoVector;
use rhea_block::{Result, WriteFlags};

use crate::cache::DirtySlice;
use crate::header::Incompatible;
use crate::image::Image;
use crate::overlap::Sections;

/// Why a flush must come where it does: what is before it is on stable storage when what is after it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Barrier {
    /// Refcounts and data, before L2 and L1 entries that name clusters.
    BeforeEntries,
    /// L2 and L1 entries, before the user is told, and before references are taken away.
    AfterEntries,
    /// Refcount blocks, before the refcount table names them.
    BeforeRefcountTable,
    /// The L1 table in a new place, and its refcounts, before the header names it.
    BeforeL1Switch,
    /// The refcount table in a new place, before the header names it.
    BeforeRefcountSwitch,
    /// Any other tables in a new place, before the header names them.
    BeforeHeader,
    /// The header, before the places of what it named before are used again, or the user is told.
    AfterHeader,
    /// The mark of a bitmap in use, before the disk changes.
    AfterBitmapMark,
}

impl Barrier {
    /// What the file is told of, before the flush.
    fn event(self) -> &'static str {
        match self {
            Self::BeforeEntries => "qcow2_before_entries",
            Self::AfterEntries => "qcow2_after_entries",
            Self::BeforeRefcountTable => "qcow2_before_refcount_table",
            Self::BeforeL1Switch => "qcow2_before_l1_switch",
            Self::BeforeRefcountSwitch => "qcow2_before_refcount_switch",
            Self::BeforeHeader => "qcow2_before_header",
            Self::AfterHeader => "qcow2_after_header",
            Self::AfterBitmapMark => "qcow2_after_bitmap_mark",
        }
    }
}

/// Table writes merged into one are no longer than this.
const MAX_TABLE_WRITE: usize = 1 << 20;
/// Table writes under way at a time.
const TABLE_WRITES: usize = 16;

impl Image {
    /// Writes every table that changed, in order, flushes, and then takes away the references that were released before
    /// (and writes and flushes those refcounts as well). Afterwards disk and memory agree, and nothing is pending, unless
    /// requests are under way.
    pub async fn write_back(&self) -> Result<()> {
        let this = self.arc();
        self.finish(async move { this.write_back_now().await }).await
    }

    pub(crate) async fn write_back_now(&self) -> Result<()> {
        loop {
            self.flush_now().await?;
            if !self.refcounts.is_dirty() || self.corrupt.load(SeqCst) {
                return Ok(());
            }
            // Lazy or not: whoever asks wants to read them from the disk.
            self.write_refcounts().await?;
        }
    }

    /// What a flush of the disk asks for: every table that names data acknowledged before is on stable storage, and the
    /// data as well. Refcounts that sank may be written later.
    pub(crate) async fn flush(&self) -> Result<()> {
        let this = self.arc();
        self.finish(async move { this.flush_now().await }).await
    }

    async fn flush_now(&self) -> Result<()> {
        let _one = self.sync.lock().await;
        self.event("flush_to_os").await;
        if self.corrupt.load(SeqCst) || !self.writable.load(SeqCst) {
            return self.flush_files(Barrier::AfterEntries).await;
        }
        let released = self.releases.take_queued();
        match self.write_tables().await {
            Ok(()) => self.releases.settle(released),
            Err(error) => {
                self.releases.put_back(released);
                return Err(error);
            }
        }
        self.carry_out_releases().await?;
        let interval = self.settings.lock().cache_clean_interval;
        if !interval.is_zero() {
            self.l2.clean(interval);
            self.refcounts.blocks.clean(interval);
        }
        Ok(())
    }

    /// Makes room in the L2 cache.
    pub(crate) async fn make_room(&self) -> Result<()> {
        self.flush().await
    }

    /// Flushes the file with the metadata.
    pub(crate) async fn flush_file(&self, why: Barrier) -> Result<()> {
        if self.unsafe_flush.load(SeqCst) {
            return Ok(());
        }
        let file = self.file();
        file.debug_event(why.event()).await;
        file.flush().await
    }

    pub(crate) async fn flush_files(&self, why: Barrier) -> Result<()> {
        if self.unsafe_flush.load(SeqCst) {
            return Ok(());
        }
        self.file().debug_event(why.event()).await;
        match &self.data_file {
            None => self.file().flush().await,
            Some(data) => {
                let (data, file) = (data.node(), self.file());
                let (a, b) = futures_util::future::join(data.flush(), file.flush()).await;
                a.and(b)
            }
        }
    }

    pub(crate) fn is_lazy(&self) -> bool {
        self.settings.lock().lazy_refcounts && self.geometry.version >= 3
    }

    /// The steps of the crate's documentation. The caller holds `sync`.
    async fn write_tables(&self) -> Result<()> {
        // Whoever names a cluster does so after its refcount rose, and names an L2 table after it was made. So tables are
        // looked at from the top down, and written from the bottom up: what is written of a table never names what is
        // not written with it.
        let unsettled = self.barrier.swap(false, SeqCst);
        let l1 = std::mem::take(&mut self.l1.write().dirty);
        let l1: Vec<(usize, u64)> = {
            let table = self.l1.read();
            l1.into_iter().map(|index| (index, table.entries[index])).collect()
        };
        let l2 = self.l2.take_dirty();
        let unsettled = unsettled | self.barrier.load(SeqCst);
        let done = self.write_taken(&l1, &l2, unsettled).await;
        for slice in &l2 {
            self.l2.written(slice, done.is_ok());
        }
        if done.is_err() {
            self.barrier.store(true, SeqCst);
            self.l1.write().dirty.extend(l1.iter().map(|(index, _)| *index));
        }
        done
    }

    async fn write_taken(&self, l1: &[(usize, u64)], l2: &[DirtySlice], unsettled: bool) -> Result<()> {
        let names = !l1.is_empty() || !l2.is_empty();
        if self.is_lazy() {
            if names && unsettled {
                self.set_dirty().await?;
            }
        } else {
            self.write_refcounts().await?;
        }
        if names {
            if unsettled {
                self.flush_files(Barrier::BeforeEntries).await?;
            }
            for slice in l2 {
                self.check_table(slice.offset, slice.bytes().len() as u64, Sections::ACTIVE_L2).await?;
            }
            self.write_slices(l2, "l2_update").await?;
            self.write_l1_entries(l1).await?;
        }
        self.event("flush_to_disk").await;
        self.flush_files(Barrier::AfterEntries).await
    }

    /// Writes slices, neighbours together, several at a time.
    pub(crate) async fn write_slices(&self, slices: &[DirtySlice], event: &'static str) -> Result<()> {
        let mut result = Ok(());
        let mut running = FuturesUnordered::new();
        let mut at = 0;
        while at < slices.len() && result.is_ok() {
            let mut bytes = slices[at].bytes().to_vec();
            let offset = slices[at].offset;
            at += 1;
            while at < slices.len()
                && slices[at].offset == offset + bytes.len() as u64
                && bytes.len() + slices[at].bytes().len() <= MAX_TABLE_WRITE
            {
                bytes.extend_from_slice(slices[at].bytes());
                at += 1;
            }
            let file = self.file();
            running.push(async move {
                file.debug_event(event).await;
                file.write(offset, &IoVector::from_slice(&bytes), WriteFlags::empty()).await
            });
            if running.len() >= TABLE_WRITES {
                result = running.next().await.unwrap_or(Ok(()));
            }
        }
        // Those under way must end before anybody writes the same bytes again.
        while let Some(ended) = running.next().await {
            result = result.and(ended);
        }
        result
    }

    async fn write_l1_entries(&self, entries: &[(usize, u64)]) -> Result<()> {
        let table = self.l1.read().offset;
        let mut at = 0;
        while at < entries.len() {
            let first = entries[at].0;
            let mut bytes = Vec::new();
            while at < entries.len() && entries[at].0 == first + bytes.len() / 8 {
                bytes.extend_from_slice(&entries[at].1.to_be_bytes());
                at += 1;
            }
            let offset = table + 8 * first as u64;
            self.check_table(offset, bytes.len() as u64, Sections::ACTIVE_L1).await?;
            self.event("l1_update").await;
            self.file().write_bytes(offset, &bytes).await?;
        }
        Ok(())
    }

    /// Sets the dirty bit, before tables are written whose refcounts are not. The flush that comes before those tables
    /// serves it as well.
    async fn set_dirty(&self) -> Result<()> {
        if self.header.lock().header.incompatible.contains(Incompatible::DIRTY) {
            return Ok(());
        }
        self.update_header(|header| header.incompatible |= Incompatible::DIRTY).await
    }

    /// Writes everything, refcounts as well, and clears the dirty bit if it is ours to clear.
    pub(crate) async fn settle_all(&self) -> Result<()> {
        let this = self.arc();
        self.finish(async move {
            this.write_back_now().await?;
            if this.corrupt.load(SeqCst) {
                return Ok(());
            }
            let dirty = this.header.lock().header.incompatible.contains(Incompatible::DIRTY);
            if dirty && !this.dirty_at_open.load(SeqCst) {
                this.update_header(|header| header.incompatible -= Incompatible::DIRTY).await?;
                this.flush_file(Barrier::AfterHeader).await?;
            }
            Ok(())
        })
        .await
    }
}

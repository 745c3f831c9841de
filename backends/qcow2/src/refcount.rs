//! Refcounts, and the allocation of clusters by them.
//!
//! The refcount table is in memory; refcount blocks are cached in slices. Allocating is done at once where the slice is
//! cached; else the slice is loaded (or a block made, or the table moved to a larger place) and the attempt repeated.
//!
//! Source: the qcow2 specification, "Host cluster management".

use std::collections::BTreeSet;

use parking_lot::Mutex;
use rhea_block::{BlockError, Result, WriteFlags};

use crate::cache::{BeginLoad, Slices};
use crate::geometry::{MAX_HOST_OFFSET, REFCOUNT_TABLE_MASK};
use crate::header::MAX_REFCOUNT_TABLE_BYTES;
use crate::image::{Image, Release};
use crate::overlap::Sections;
use crate::refcount_bits;
use crate::release::Released;
use crate::write_back::Barrier;

/// The refcount table.
#[derive(Default)]
pub(crate) struct RefcountTable {
    pub(crate) offset: u64,
    pub(crate) entries: Vec<u64>,
    /// Indices of entries that the disk does not have yet.
    pub(crate) dirty: BTreeSet<usize>,
}

/// Where to look for free clusters.
#[derive(Default)]
struct Search {
    /// No cluster before this one is free, as far as is known.
    hint: u64,
    /// Clusters from here on were never handed out, and lie beyond the file's end.
    untouched: u64,
}

/// Refcounts of an image.
pub(crate) struct Refcounts {
    pub(crate) table: Mutex<RefcountTable>,
    pub(crate) blocks: Slices,
    search: Mutex<Search>,
    /// Held while a refcount block is made, the table moves, or its entries are written.
    growth: async_lock::Mutex<()>,
    /// Held while slices are written.
    io: async_lock::Mutex<()>,
}

/// Clusters just allocated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allocated {
    pub(crate) offset: u64,
    pub(crate) clusters: u64,
    /// Nothing was ever written there: it reads as zeroes if the file grows so.
    pub(crate) untouched: bool,
}

/// How an attempt ended that could not wait.
enum Attempt<T> {
    Done(T),
    /// A slice must be loaded.
    Load(u64),
    /// There is no refcount block at this index of the table.
    NoBlock(u64),
    Corrupt(String),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Add,
    /// Only if there is a reference already.
    AddToUsed,
    Take,
}

/// What a change did, cluster by cluster up to the end of a slice.
struct Changed {
    clusters: u64,
    /// The refcount did not allow it, at this cluster (those before are changed).
    refused: bool,
    /// Some came to 0.
    freed: bool,
}

/// Where a cluster's refcount is.
struct Place {
    slice: u64,
    index: usize,
    /// Refcounts in a slice.
    per_slice: usize,
}

impl Refcounts {
    /// `untouched`: the first cluster that lies beyond the file's end.
    pub(crate) fn new(table: RefcountTable, blocks: Slices, untouched: u64) -> Self {
        Self {
            table: Mutex::new(table),
            blocks,
            search: Mutex::new(Search { hint: 0, untouched }),
            growth: async_lock::Mutex::new(()),
            io: async_lock::Mutex::new(()),
        }
    }

    /// Whether memory has refcounts, or table entries, that the disk does not.
    pub(crate) fn is_dirty(&self) -> bool {
        self.blocks.is_dirty() || !self.table.lock().dirty.is_empty()
    }

    /// Clusters from this one on are known to hold nothing.
    pub(crate) fn keep_untouched_from(&self, first: u64) {
        let mut search = self.search.lock();
        search.untouched = search.untouched.max(first);
    }

    /// The file ends at a cluster now; from there on it has nothing.
    pub(crate) fn file_was_cut(&self, end: u64) {
        let mut search = self.search.lock();
        search.untouched = search.untouched.min(end);
    }

    /// The refcount table and blocks were written by somebody else.
    pub(crate) fn replace_table(&self, table: RefcountTable, untouched: u64) {
        *self.table.lock() = table;
        self.blocks.forget(0, u64::MAX);
        *self.search.lock() = Search { hint: 0, untouched };
    }
}

impl Image {
    fn place_of(&self, cluster: u64) -> Attempt<Place> {
        let g = &self.geometry;
        let table_index = cluster >> g.refcount_block_bits;
        let entry = match self.refcounts.table.lock().entries.get(table_index as usize) {
            Some(entry) => *entry,
            None => 0,
        };
        if entry == 0 {
            return Attempt::NoBlock(table_index);
        }
        let entry = entry & REFCOUNT_TABLE_MASK;
        if entry == 0 {
            return Attempt::Corrupt(format!("Refcount table entry {table_index:#x} has reserved bits set"));
        }
        if g.in_cluster(entry) != 0 {
            return Attempt::Corrupt(format!(
                "Refblock offset {entry:#x} unaligned (reftable index: {table_index:#x})"
            ));
        }
        let in_block = cluster & ((1 << g.refcount_block_bits) - 1);
        let byte = (in_block << g.refcount_order) / 8;
        let slice = self.refcounts.blocks.slice_of(entry + byte);
        let per_slice = (self.refcounts.blocks.slice_size() * 8) >> g.refcount_order;
        Attempt::Done(Place { slice, index: in_block as usize % per_slice, per_slice })
    }

    pub(crate) async fn load_refcounts(&self, slice: u64) -> Result<()> {
        let blocks = &self.refcounts.blocks;
        loop {
            match blocks.begin_load(slice) {
                BeginLoad::Present => return Ok(()),
                BeginLoad::Wait(other) => drop(other.lock().await),
                BeginLoad::Load(_loading) => {
                    let mut bytes = vec![0; blocks.slice_size()];
                    self.event("refblock_load").await;
                    self.file().read_bytes(slice, &mut bytes).await?;
                    if blocks.insert(slice, bytes, false).is_ok() {
                        return Ok(());
                    }
                    self.write_refcount_blocks().await?;
                }
            }
        }
    }

    /// Writes dirty slices of refcount blocks. This may happen at any time: a refcount rises before anything relies on it,
    /// and sinks after nothing does.
    async fn write_refcount_blocks(&self) -> Result<()> {
        if !self.refcounts.blocks.is_dirty() {
            return Ok(());
        }
        let this = self.arc();
        self.finish(async move {
            let _one = this.refcounts.io.lock().await;
            let slices = this.refcounts.blocks.take_dirty();
            let mut result = Ok(());
            for slice in &slices {
                let len = slice.bytes().len() as u64;
                result = result.and(this.check_table(slice.offset, len, Sections::REFCOUNT_BLOCK).await);
            }
            if result.is_ok() {
                result = this.write_slices(&slices, "refblock_update_part").await;
            }
            for slice in &slices {
                this.refcounts.blocks.written(slice, result.is_ok());
            }
            result
        })
        .await
    }

    /// Writes refcount blocks, then (behind a flush) the table's entries for new ones. No flush at the end.
    pub(crate) async fn write_refcounts(&self) -> Result<()> {
        let dirty = !self.refcounts.table.lock().dirty.is_empty();
        if !dirty {
            return self.write_refcount_blocks().await;
        }
        let _one = self.refcounts.growth.lock().await;
        let (table, taken) = {
            let mut table = self.refcounts.table.lock();
            let dirty = std::mem::take(&mut table.dirty);
            let taken: Vec<_> = dirty.into_iter().map(|i| (i, table.entries[i])).collect();
            (table.offset, taken)
        };
        let result = self.write_table_entries(table, &taken).await;
        if result.is_err() {
            self.refcounts.table.lock().dirty.extend(taken.iter().map(|(index, _)| *index));
        }
        result
    }

    async fn write_table_entries(&self, table: u64, taken: &[(usize, u64)]) -> Result<()> {
        self.write_refcount_blocks().await?;
        self.flush_file(Barrier::BeforeRefcountTable).await?;
        for (index, entry) in taken {
            let offset = table + 8 * *index as u64;
            self.check_table(offset, 8, Sections::REFCOUNT_TABLE).await?;
            self.event("refblock_alloc_hookup").await;
            self.file().write_bytes(offset, &entry.to_be_bytes()).await?;
        }
        Ok(())
    }

    /// Allocates up to `want` clusters that follow each other, at least one.
    pub(crate) async fn allocate_some(&self, want: u64) -> Result<Allocated> {
        self.event("cluster_alloc").await;
        loop {
            let done = match self.try_allocate(want) {
                Attempt::Done(done) => done,
                Attempt::Load(slice) => {
                    self.load_refcounts(slice).await?;
                    continue;
                }
                Attempt::NoBlock(index) => {
                    self.make_block(index).await?;
                    continue;
                }
                Attempt::Corrupt(problem) => return Err(self.mark_corrupt(problem).await),
            };
            if done.offset == 0 {
                let problem = "Preventing invalid allocation of data cluster at offset 0";
                return Err(self.mark_corrupt(problem.into()).await);
            }
            let len = done.clusters << self.geometry.cluster_bits;
            if let Some(problem) = self.overlap_of(done.offset, len, Sections::empty()) {
                return Err(self.mark_corrupt(problem).await);
            }
            return Ok(done);
        }
    }

    fn try_allocate(&self, want: u64) -> Attempt<Allocated> {
        let g = &self.geometry;
        let mut search = self.refcounts.search.lock();
        loop {
            let at = search.hint;
            let place = match self.place_of(at) {
                Attempt::Done(place) => place,
                Attempt::Load(slice) => return Attempt::Load(slice),
                Attempt::NoBlock(index) => return Attempt::NoBlock(index),
                Attempt::Corrupt(problem) => return Attempt::Corrupt(problem),
            };
            let order = g.refcount_order;
            let claimed = self.refcounts.blocks.write(place.slice, |bytes| {
                let Some(first) = refcount_bits::find_free(bytes, order, place.index, place.per_slice) else {
                    return (None, 0..0);
                };
                let mut end = first;
                while end < place.per_slice
                    && ((end - first) as u64) < want
                    && refcount_bits::get(bytes, order, end) == 0
                {
                    refcount_bits::set(bytes, order, end, 1);
                    end += 1;
                }
                (Some((first, end)), refcount_bits::bytes_of(order, first..end))
            });
            let slice_start = at - place.index as u64;
            match claimed {
                None => return Attempt::Load(place.slice),
                Some(None) => search.hint = slice_start + place.per_slice as u64,
                Some(Some((first, end))) => {
                    let (first, end) = (slice_start + first as u64, slice_start + end as u64);
                    search.hint = end;
                    let untouched = first >= search.untouched;
                    search.untouched = search.untouched.max(end);
                    return Attempt::Done(Allocated {
                        offset: first << g.cluster_bits,
                        clusters: end - first,
                        untouched,
                    });
                }
            }
        }
    }

    /// Allocates contiguous clusters for `len` bytes of metadata (snapshot tables, bitmaps…) with refcount 1 in memory.
    /// Their contents are whatever was there. Returns their offset.
    pub async fn allocate(&self, len: u64) -> Result<u64> {
        let want = self.geometry.clusters(len.max(1));
        // A new block lies in the clusters it counts, and so ends every stretch of free ones.
        if want >= 1 << self.geometry.refcount_block_bits {
            let this = self.arc();
            return self.finish(async move { this.allocate_long(want).await }).await;
        }
        let mut too_small = Vec::new();
        let found = self.allocate_row(want, &mut too_small).await;
        // The holes that were too small: kept until now, so that the search went on behind them.
        for hole in too_small {
            self.give_back(hole).await?;
        }
        found
    }

    async fn allocate_row(&self, want: u64, too_small: &mut Vec<Allocated>) -> Result<u64> {
        let mut have = self.allocate_some(want).await?;
        // Mostly the first free place is large enough, or grows to be.
        while have.clusters < want {
            let more = match self.allocate_some(want - have.clusters).await {
                Ok(more) => more,
                Err(error) => {
                    too_small.push(have);
                    return Err(error);
                }
            };
            if more.offset == have.offset + (have.clusters << self.geometry.cluster_bits) {
                have.clusters += more.clusters;
                continue;
            }
            too_small.push(std::mem::replace(&mut have, more));
        }
        Ok(have.offset)
    }

    /// Allocates more clusters in a row than a refcount block counts: behind all that is counted, with the blocks that
    /// count them before them.
    async fn allocate_long(&self, want: u64) -> Result<u64> {
        let g = self.geometry;
        let per_block = 1u64 << g.refcount_block_bits;
        let _one = self.refcounts.growth.lock().await;
        let (index, blocks) = loop {
            let (len, index) = {
                let table = self.refcounts.table.lock();
                let used = table.entries.iter().rposition(|entry| *entry != 0).map_or(0, |last| last + 1);
                (table.entries.len() as u64, used as u64)
            };
            let mut blocks = 1;
            while blocks * per_block < blocks + want {
                blocks += 1;
            }
            if index + blocks <= len {
                break (index, blocks);
            }
            self.grow_table(len, index + blocks - 1).await?;
        };
        let first = index << g.refcount_block_bits;
        let (start, clusters) = (first << g.cluster_bits, blocks + want);
        if first + clusters > MAX_HOST_OFFSET >> g.cluster_bits {
            return Err(BlockError::new(libc::EFBIG, "The image file cannot grow any further"));
        }
        if let Some(problem) = self.overlap_of(start, clusters << g.cluster_bits, Sections::empty()) {
            return Err(self.mark_corrupt(problem).await);
        }
        let mut content = vec![0; (blocks << g.cluster_bits) as usize];
        for (block, bytes) in content.chunks_exact_mut(g.cluster_size as usize).enumerate() {
            let used = (clusters - block as u64 * per_block).min(per_block);
            (0..used as usize).for_each(|i| refcount_bits::set(bytes, g.refcount_order, i, 1));
        }
        self.refcounts.blocks.forget(start, blocks << g.cluster_bits);
        // On disk before the table's entries are, as those are written after a flush.
        self.event("refblock_alloc_write_blocks").await;
        self.file().write_bytes(start, &content).await?;
        self.overlap.note(first, blocks);
        {
            let mut search = self.refcounts.search.lock();
            search.untouched = search.untouched.max(first + clusters);
        }
        let mut table = self.refcounts.table.lock();
        for block in 0..blocks {
            table.entries[(index + block) as usize] = start + (block << g.cluster_bits);
            table.dirty.insert((index + block) as usize);
        }
        Ok(start + (blocks << g.cluster_bits))
    }

    /// Undoes an allocation that nothing relies on yet, and to which nothing was written.
    async fn give_back(&self, allocated: Allocated) -> Result<()> {
        let first = allocated.offset >> self.geometry.cluster_bits;
        self.change_refcounts(first, allocated.clusters, Change::Take).await.map(drop)
    }

    /// The refcount of the cluster at `offset` as it is in memory (releases still queued count as references).
    pub async fn refcount(&self, offset: u64) -> Result<u64> {
        let cluster = offset >> self.geometry.cluster_bits;
        loop {
            let place = match self.place_of(cluster) {
                Attempt::Done(place) => place,
                Attempt::Corrupt(problem) => return Err(self.mark_corrupt(problem).await),
                _ => return Ok(0),
            };
            let order = self.geometry.refcount_order;
            let get = |bytes: &[u8]| refcount_bits::get(bytes, order, place.index);
            match self.refcounts.blocks.read(place.slice, get) {
                Some(count) => return Ok(count),
                None => self.load_refcounts(place.slice).await?,
            }
        }
    }

    /// How many of the clusters `first..end` have references.
    pub(crate) async fn used_clusters(&self, first: u64, end: u64) -> Result<u64> {
        let (order, mut at, mut used) = (self.geometry.refcount_order, first, 0);
        while at < end {
            let place = match self.place_of(at) {
                Attempt::Done(place) => place,
                Attempt::Corrupt(problem) => return Err(self.mark_corrupt(problem).await),
                _ => return Ok(used),
            };
            let stop = place.per_slice.min(place.index + (end - at) as usize);
            let count = |bytes: &[u8]| {
                (place.index..stop).filter(|&i| refcount_bits::get(bytes, order, i) != 0).count() as u64
            };
            match self.refcounts.blocks.read(place.slice, count) {
                Some(count) => {
                    used += count;
                    at += (stop - place.index) as u64;
                }
                None => self.load_refcounts(place.slice).await?,
            }
        }
        Ok(used)
    }

    /// Adds a reference to each cluster that the range touches; in memory, to be written by [`Image::write_back`] before
    /// any table that relies on it. Fails, with nothing changed, where a refcount would not fit its width.
    pub async fn add_references(&self, offset: u64, len: u64) -> Result<()> {
        let (first, count) = self.clusters_of(offset, len);
        let done = self.change_refcounts(first, count, Change::Add).await?;
        if done < count {
            self.change_refcounts(first, done, Change::Take).await?;
            return Err(BlockError::invalid(format!(
                "refcount of the cluster at {:#x} would exceed {}",
                (first + done) << self.geometry.cluster_bits,
                self.geometry.max_refcount()
            )));
        }
        Ok(())
    }

    /// Adds a reference to a cluster that has some already; false if it has none (or no more fit).
    pub(crate) async fn add_reference_to_used(&self, offset: u64) -> Result<bool> {
        let cluster = offset >> self.geometry.cluster_bits;
        Ok(self.change_refcounts(cluster, 1, Change::AddToUsed).await? == 1)
    }

    /// The first cluster that a range touches, and how many.
    pub(crate) fn clusters_of(&self, offset: u64, len: u64) -> (u64, u64) {
        let first = offset >> self.geometry.cluster_bits;
        let end = self.geometry.clusters(offset.saturating_add(len));
        (first, end.saturating_sub(first))
    }

    /// Returns how many clusters were changed: fewer than `count` if a refcount did not allow it.
    async fn change_refcounts(&self, first: u64, count: u64, change: Change) -> Result<u64> {
        let mut done = 0;
        while done < count {
            match self.try_change(first + done, count - done, change) {
                Attempt::Done(changed) => {
                    done += changed.clusters;
                    if changed.freed {
                        let mut search = self.refcounts.search.lock();
                        search.hint = search.hint.min(first);
                        drop(search);
                        self.compressed.forget();
                    }
                    if changed.refused {
                        return Ok(done);
                    }
                }
                Attempt::Load(slice) => self.load_refcounts(slice).await?,
                Attempt::NoBlock(index) if change == Change::Add => self.make_block(index).await?,
                Attempt::NoBlock(_) => return Ok(done),
                Attempt::Corrupt(problem) => return Err(self.mark_corrupt(problem).await),
            }
        }
        Ok(done)
    }

    fn try_change(&self, first: u64, count: u64, change: Change) -> Attempt<Changed> {
        let place = match self.place_of(first) {
            Attempt::Done(place) => place,
            Attempt::Load(slice) => return Attempt::Load(slice),
            Attempt::NoBlock(index) => return Attempt::NoBlock(index),
            Attempt::Corrupt(problem) => return Attempt::Corrupt(problem),
        };
        let (order, max) = (self.geometry.refcount_order, self.geometry.max_refcount());
        let end = place.per_slice.min(place.index.saturating_add(count as usize));
        let result = self.refcounts.blocks.write(place.slice, |bytes| {
            let mut changed = Changed { clusters: 0, refused: false, freed: false };
            for index in place.index..end {
                let old = refcount_bits::get(bytes, order, index);
                let new = match change {
                    Change::Add if old < max => old + 1,
                    Change::AddToUsed if old > 0 && old < max => old + 1,
                    Change::Take if old > 0 => old - 1,
                    _ => {
                        changed.refused = true;
                        break;
                    }
                };
                refcount_bits::set(bytes, order, index, new);
                changed.freed |= new == 0;
                changed.clusters += 1;
            }
            let touched = place.index..place.index + changed.clusters as usize;
            (changed, refcount_bits::bytes_of(order, touched))
        });
        match result {
            Some(changed) => Attempt::Done(changed),
            None => Attempt::Load(place.slice),
        }
    }

    /// Takes away the references whose time has come. The caller holds `sync`.
    pub(crate) async fn carry_out_releases(&self) -> Result<()> {
        let due = self.releases.due();
        for (at, release) in due.iter().enumerate() {
            if let Err(error) = self.carry_out(*release).await {
                // What is left keeps its references: leaks, until the next time.
                self.releases.settle(due[at + 1..].to_vec());
                return Err(error);
            }
        }
        Ok(())
    }

    async fn carry_out(&self, release: Released) -> Result<()> {
        self.event("cluster_free").await;
        let (first, count) = self.clusters_of(release.offset, release.len);
        if self.settings.lock().passes(release.why) {
            self.discard_unused(first, count).await?;
        }
        let done = {
            // No more compressed data goes to a cluster that may be somebody else's from now on.
            let mut next = self.compressed.next.lock().await;
            let tail = *next >> self.geometry.cluster_bits;
            if tail >= first && tail - first < count {
                *next = 0;
            }
            self.change_refcounts(first, count, Change::Take).await?
        };
        if done < count {
            let offset = (first + done) << self.geometry.cluster_bits;
            let problem = format!("cluster at {offset:#x} is in use but its refcount is 0");
            return Err(self.mark_corrupt(problem).await);
        }
        Ok(())
    }

    /// Tells the file of those clusters whose last reference is about to go, while nobody can have them yet.
    async fn discard_unused(&self, first: u64, count: u64) -> Result<()> {
        let bits = self.geometry.cluster_bits;
        let mut start = None;
        for cluster in first..=first + count {
            let last = cluster < first + count && self.refcount(cluster << bits).await? == 1;
            match (last, start) {
                (true, None) => start = Some(cluster),
                (false, Some(from)) => {
                    start = None;
                    // A file that cannot is none the worse for it.
                    let _ = self.file().discard(from << bits, (cluster - from) << bits).await;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes the refcount block at an index of the table, moving the table if it is too short.
    async fn make_block(&self, index: u64) -> Result<()> {
        let this = self.arc();
        self.finish(async move {
            let _one = this.refcounts.growth.lock().await;
            let (len, entry) = {
                let table = this.refcounts.table.lock();
                (table.entries.len() as u64, table.entries.get(index as usize).copied())
            };
            match entry {
                None => this.grow_table(len, index).await,
                Some(0) => this.make_block_at(index).await,
                Some(_) => Ok(()),
            }
        })
        .await
    }

    /// A refcount block lies in the first of the clusters it counts, which is free: none of them was counted before.
    async fn make_block_at(&self, index: u64) -> Result<()> {
        self.event("refblock_alloc").await;
        let g = self.geometry;
        let first = index << g.refcount_block_bits;
        if index == 0 {
            let problem = "Preventing invalid allocation of refcount block at offset 0";
            return Err(self.mark_corrupt(problem.into()).await);
        }
        let offset = first << g.cluster_bits;
        if first >= MAX_HOST_OFFSET >> g.cluster_bits {
            return Err(BlockError::new(libc::EFBIG, "The image file cannot grow any further"));
        }
        if let Some(problem) = self.overlap_of(offset, g.cluster_size, Sections::empty()) {
            return Err(self.mark_corrupt(problem).await);
        }
        let blocks = &self.refcounts.blocks;
        blocks.forget(offset, g.cluster_size);
        self.event("refblock_alloc_write").await;
        self.file().write_zeroes(offset, g.cluster_size, WriteFlags::empty()).await?;
        let mut slice = vec![0; blocks.slice_size()];
        refcount_bits::set(&mut slice, g.refcount_order, 0, 1);
        while blocks.insert(offset, slice.clone(), true).is_err() {
            self.write_refcount_blocks().await?;
        }
        self.overlap.note(first, 1);
        {
            let mut search = self.refcounts.search.lock();
            search.untouched = search.untouched.max(first + 1);
        }
        let mut table = self.refcounts.table.lock();
        table.entries[index as usize] = offset;
        table.dirty.insert(index as usize);
        Ok(())
    }

    /// Moves the refcount table to a larger place: into clusters that the present table cannot count, together with the
    /// refcount blocks for these.
    async fn grow_table(&self, len: u64, index: u64) -> Result<()> {
        self.event("reftable_grow").await;
        let g = self.geometry;
        let (per_cluster, per_block) = (g.cluster_size / 8, 1u64 << g.refcount_block_bits);
        let first = len << g.refcount_block_bits;
        let too_big = || BlockError::new(libc::EFBIG, "The image file cannot grow any further");
        // Room for half as much again, and for the blocks that count the new clusters.
        let mut clusters = (len + len / 2).max(index + 1).div_ceil(per_cluster);
        let mut blocks = 1;
        loop {
            let needed_blocks = (blocks + clusters).div_ceil(per_block);
            let needed_clusters = (len + needed_blocks).max(index + 1).div_ceil(per_cluster).max(clusters);
            if (needed_blocks, needed_clusters) == (blocks, clusters) {
                break;
            }
            (blocks, clusters) = (needed_blocks, needed_clusters);
        }
        if clusters * g.cluster_size > MAX_REFCOUNT_TABLE_BYTES
            || first + blocks + clusters > MAX_HOST_OFFSET >> g.cluster_bits
        {
            return Err(too_big());
        }
        let start = first << g.cluster_bits;
        let bytes = (blocks + clusters) * g.cluster_size;
        if let Some(problem) = self.overlap_of(start, bytes, Sections::empty()) {
            return Err(self.mark_corrupt(problem).await);
        }
        let offset = start + blocks * g.cluster_size;
        let (old_offset, mut entries) = {
            let table = self.refcounts.table.lock();
            (table.offset, table.entries.clone())
        };
        entries.resize((clusters * per_cluster) as usize, 0);
        let mut content = vec![0; bytes as usize];
        for block in 0..blocks {
            entries[(len + block) as usize] = start + block * g.cluster_size;
            let used = (blocks + clusters - block * per_block).min(per_block);
            let at = (block * g.cluster_size) as usize;
            let block = &mut content[at..at + g.cluster_size as usize];
            (0..used as usize).for_each(|i| refcount_bits::set(block, g.refcount_order, i, 1));
        }
        let at = (blocks * g.cluster_size) as usize;
        for (slot, entry) in content[at..].chunks_exact_mut(8).zip(&entries) {
            slot.copy_from_slice(&entry.to_be_bytes());
        }
        self.refcounts.blocks.forget(start, bytes);
        // The new table names blocks that only memory may have.
        self.write_refcount_blocks().await?;
        let file = self.file();
        self.event("refblock_alloc_write_table").await;
        file.write_bytes(start, &content).await?;
        self.flush_file(Barrier::BeforeRefcountSwitch).await?;
        self.event("refblock_alloc_switch_table").await;
        self.update_header(|header| {
            header.refcount_table_offset = offset;
            header.refcount_table_clusters = clusters as u32;
        })
        .await?;
        // No flush: what the old table does not count is named by nothing until there was one. Nor is the old table's place
        // used again before.
        *self.refcounts.table.lock() = RefcountTable { offset, entries, dirty: BTreeSet::new() };
        self.overlap.note(first, blocks + clusters);
        {
            let mut search = self.refcounts.search.lock();
            search.untouched = search.untouched.max(first + blocks + clusters);
        }
        self.release(old_offset, len * 8, Release::Other);
        Ok(())
    }
}

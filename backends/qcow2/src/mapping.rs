//! From an offset of the disk to a place in the file: the L1 table in memory, and cached slices of L2 tables.

use rhea_block::{Result, WriteFlags};

use crate::cache::BeginLoad;
use crate::geometry::{COPIED, Kind, L2Entry, OFFSET_MASK};
use crate::image::{Image, Release};

/// A stretch of the disk that is all of one kind, and whose place in the file (if it has one) is one stretch as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) kind: Kind,
    /// Bytes.
    pub(crate) len: u64,
    /// Where its first byte is, for kinds that have a place.
    pub(crate) host: u64,
    /// The first cluster's entry.
    pub(crate) entry: L2Entry,
}

impl Run {
    /// Whether it may be written where it is.
    pub(crate) fn is_writable(&self) -> bool {
        self.kind == Kind::Normal && self.entry.is_copied()
    }
}

/// What can be said without waiting.
pub(crate) enum Found {
    Run(Run),
    /// The slice must be loaded first.
    Load(u64),
    Corrupt(String),
}

/// Where an L2 entry is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct L2Place {
    /// The slice's offset in the file.
    pub(crate) slice: u64,
    /// The entry's index in the slice.
    pub(crate) index: usize,
}

/// Where the entry of a cluster is, if there is an L2 table.
pub(crate) enum L2Table {
    /// None; nor for this many bytes from the offset on.
    Missing(u64),
    At {
        place: L2Place,
        /// The table is the active one's alone, so that entries may change.
        copied: bool,
    },
    Corrupt(String),
}

impl Image {
    /// L2 entries in a slice.
    pub(crate) fn entries_per_slice(&self) -> usize {
        self.l2.slice_size() / self.geometry.l2_entry_size as usize
    }

    /// Where the entry for an offset of the disk is. `len`: how far a missing table is of interest.
    pub(crate) fn l2_place(&self, offset: u64, len: u64) -> L2Table {
        let g = &self.geometry;
        let index = g.l1_index(offset) as usize;
        let l1 = self.l1.read();
        let entry = l1.entries.get(index).copied().unwrap_or(0);
        let table = entry & OFFSET_MASK;
        if table == 0 {
            // Tables that are not there come in long runs.
            let coverage = g.l2_coverage();
            let mut missing = coverage - (offset & (coverage - 1));
            let mut next = index + 1;
            while missing < len && l1.entries.get(next).is_none_or(|e| e & OFFSET_MASK == 0) {
                missing = missing.saturating_add(coverage);
                next += 1;
                if next >= l1.entries.len() {
                    missing = u64::MAX;
                }
            }
            return L2Table::Missing(missing);
        }
        if g.in_cluster(table) != 0 {
            return L2Table::Corrupt(format!("L2 table offset {table:#x} unaligned (L1 index: {index:#x})"));
        }
        let byte = g.l2_index(offset) * g.l2_entry_size;
        let slice = self.l2.slice_of(table + byte);
        let index = ((table + byte - slice) / g.l2_entry_size) as usize;
        L2Table::At { place: L2Place { slice, index }, copied: entry & COPIED != 0 }
    }

    /// What lies at `offset` of the disk, at most `len` bytes. With `writable`, a run ends where entries cease to be
    /// alike in whether they may be written in place.
    pub(crate) fn find(&self, offset: u64, len: u64, writable: bool) -> Found {
        let place = match self.l2_place(offset, len) {
            L2Table::Missing(missing) => {
                let run = Run {
                    kind: Kind::Unallocated,
                    len: len.min(missing),
                    host: 0,
                    entry: L2Entry::default(),
                };
                return Found::Run(run);
            }
            L2Table::At { place, .. } => place,
            L2Table::Corrupt(problem) => return Found::Corrupt(problem),
        };
        let look = |bytes: &[u8]| match self.geometry.has_subclusters() {
            false => self.run_of_clusters(bytes, place, offset, len, writable),
            true => self.run_of_subclusters(bytes, place, offset, len, writable),
        };
        match self.l2.read(place.slice, look) {
            None => Found::Load(place.slice),
            Some(Ok(run)) => Found::Run(run),
            Some(Err(problem)) => Found::Corrupt(problem),
        }
    }

    /// What is wrong with an entry, if anything is.
    pub(crate) fn entry_problem(&self, entry: L2Entry, place: L2Place, offset: u64) -> Option<String> {
        let g = &self.geometry;
        let external = self.has_data_file();
        let at = || {
            let table = g.cluster_start(place.slice);
            format!("(L2 offset: {table:#x}, L2 index: {:#x})", g.l2_index(offset))
        };
        if entry.is_compressed() {
            return external.then(|| {
                format!("Compressed cluster entry found in image with external data file {}", at())
            });
        }
        let host = entry.host_offset();
        let zero = !g.has_subclusters() && entry.descriptor & crate::geometry::ZERO != 0;
        if zero && g.version < 3 {
            return Some(format!("Zero cluster entry found in pre-v3 image {}", at()));
        }
        if g.in_cluster(host) != 0 {
            let what = if zero { "Preallocated zero cluster" } else { "Cluster allocation" };
            return Some(format!("{what} offset {host:#x} unaligned {}", at()));
        }
        if entry.is_contradictory(g, external) {
            return Some(format!("Invalid cluster entry found {}", at()));
        }
        if external && entry.has_place(true) && host != g.cluster_start(offset) {
            return Some(format!(
                "External data file host cluster offset {host:#x} does not match guest cluster offset: {:#x}, L2 index: {:#x})",
                g.cluster_start(offset),
                g.l2_index(offset)
            ));
        }
        None
    }

    fn run_of_clusters(
        &self,
        bytes: &[u8],
        place: L2Place,
        offset: u64,
        len: u64,
        writable: bool,
    ) -> Result<Run, String> {
        let g = &self.geometry;
        let entry = L2Entry::load(g, bytes, place.index);
        if let Some(problem) = self.entry_problem(entry, place, offset) {
            return Err(problem);
        }
        let kind = entry.kind(g, self.has_data_file(), 0);
        let within = g.in_cluster(offset);
        let mut covered = g.cluster_size - within;
        if covered < len && kind != Kind::Compressed {
            // The next cluster's entry differs by a cluster's size, or, without a place, not at all.
            let step = if kind.has_place() { g.cluster_size } else { 0 };
            let ignored = if writable { 0 } else { COPIED };
            let mut expected = entry.descriptor | ignored;
            let wanted = (len - covered).div_ceil(g.cluster_size) as usize;
            let rest = &bytes[(place.index + 1) * 8..];
            for next in rest.chunks_exact(8).take(wanted) {
                expected = expected.wrapping_add(step);
                let next = u64::from_be_bytes(next.try_into().expect("eight bytes"));
                if next | ignored != expected {
                    break;
                }
                covered += g.cluster_size;
            }
        }
        let host = if kind.has_place() { entry.host_offset() + within } else { 0 };
        Ok(Run { kind, len: len.min(covered), host, entry })
    }

    fn run_of_subclusters(
        &self,
        bytes: &[u8],
        place: L2Place,
        offset: u64,
        len: u64,
        writable: bool,
    ) -> Result<Run, String> {
        let g = &self.geometry;
        let external = self.has_data_file();
        let entry = L2Entry::load(g, bytes, place.index);
        if let Some(problem) = self.entry_problem(entry, place, offset) {
            return Err(problem);
        }
        let within = g.in_cluster(offset);
        let first = (within >> g.subcluster_bits) as u32;
        let kind = entry.kind(g, external, first);
        let host = if kind.has_place() { entry.host_offset() + within } else { 0 };
        let mut run = Run { kind, len, host, entry };
        if kind == Kind::Compressed {
            run.len = len.min(g.cluster_size - within);
            return Ok(run);
        }
        let mut covered = 0;
        let mut sub = first;
        let mut cluster = entry;
        let mut index = place.index;
        let mut start = within;
        loop {
            while sub < g.subclusters && cluster.kind(g, external, sub) == kind {
                sub += 1;
            }
            covered += (u64::from(sub) << g.subcluster_bits).saturating_sub(start);
            index += 1;
            if sub < g.subclusters || covered >= len || index == self.entries_per_slice() {
                break;
            }
            let next = L2Entry::load(g, bytes, index);
            let follows = !kind.has_place()
                || (next.host_offset() == cluster.host_offset() + g.cluster_size
                    && (!writable || next.is_copied() == entry.is_copied()));
            let position = g.cluster_start(offset) + ((index - place.index) as u64) * g.cluster_size;
            if next.is_compressed()
                || !follows
                || self.entry_problem(next, L2Place { index, ..place }, position).is_some()
            {
                break;
            }
            (cluster, sub, start) = (next, 0, 0);
        }
        run.len = len.min(covered);
        Ok(run)
    }

    /// Like [`Image::find`], but loads what it must.
    pub(crate) async fn find_run(&self, offset: u64, len: u64, writable: bool) -> Result<Run> {
        loop {
            match self.find(offset, len, writable) {
                Found::Run(run) => return Ok(run),
                Found::Load(slice) => self.load_l2(slice).await?,
                Found::Corrupt(problem) => return Err(self.mark_corrupt(problem).await),
            }
        }
    }

    /// Brings a slice of an L2 table into the cache.
    pub(crate) async fn load_l2(&self, slice: u64) -> Result<()> {
        loop {
            match self.l2.begin_load(slice) {
                BeginLoad::Present => return Ok(()),
                BeginLoad::Wait(other) => drop(other.lock().await),
                BeginLoad::Load(_loading) => {
                    if !self.l2.has_room() {
                        self.make_room().await?;
                    }
                    let mut bytes = vec![0; self.l2.slice_size()];
                    self.event("l2_load").await;
                    self.file().read_bytes(slice, &mut bytes).await?;
                    if self.l2.insert(slice, bytes, false).is_ok() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Makes sure that the entry for an offset of the disk may be changed: that there is an L2 table, and that it is the
    /// active L1 table's alone. Returns where the entry is.
    pub(crate) async fn writable_l2(&self, offset: u64) -> Result<L2Place> {
        loop {
            match self.l2_place(offset, 1) {
                L2Table::At { place, copied: true } => return Ok(place),
                L2Table::Corrupt(problem) => return Err(self.mark_corrupt(problem).await),
                _ => {
                    let this = self.arc();
                    let index = self.geometry.l1_index(offset) as usize;
                    self.finish(async move { this.make_l2(index).await }).await?;
                }
            }
        }
    }

    /// Makes the L2 table of an L1 entry: a new one, or a copy of one that snapshots share.
    async fn make_l2(&self, index: usize) -> Result<()> {
        let _one = self.l2_growth.lock().await;
        let g = self.geometry;
        let old = {
            let l1 = self.l1.read();
            match l1.entries.get(index) {
                None => return Err(rhea_block::BlockError::os(libc::EIO)),
                Some(entry) if entry & COPIED != 0 && entry & OFFSET_MASK != 0 => return Ok(()),
                Some(entry) => entry & OFFSET_MASK,
            }
        };
        // Before anything is allocated: loading the old table may need room that only a flush can make.
        let content = match old {
            0 => None,
            old => {
                self.event("l2_alloc_cow_read").await;
                Some(self.read_l2_table(old).await?)
            }
        };
        let new = self.allocate_some(1).await?.offset;
        self.l2.forget(new, g.cluster_size);
        let file = self.file();
        self.event("l2_alloc_write").await;
        let written = match &content {
            None => file.write_zeroes(new, g.cluster_size, WriteFlags::empty()).await,
            Some(bytes) => file.write_bytes(new, bytes).await,
        };
        if let Err(error) = written {
            self.release(new, g.cluster_size, Release::Silent);
            return Err(error);
        }
        // What cannot be inserted now is read when it is needed.
        if content.is_none() {
            let _ = self.l2.insert(new, vec![0; self.l2.slice_size()], false);
        }
        self.overlap.note(new >> g.cluster_bits, 1);
        self.barrier.store(true, std::sync::atomic::Ordering::SeqCst);
        {
            let mut l1 = self.l1.write();
            l1.entries[index] = new | COPIED;
            l1.dirty.insert(index);
        }
        if old != 0 {
            self.release(old, g.cluster_size, Release::Other);
        }
        Ok(())
    }

    /// The whole of an L2 table, as memory has it.
    pub(crate) async fn read_l2_table(&self, table: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.geometry.cluster_size as usize];
        self.read_at(table, &mut bytes).await?;
        for (number, part) in bytes.chunks_exact_mut(self.l2.slice_size()).enumerate() {
            let slice = table + (number * self.l2.slice_size()) as u64;
            self.l2.read(slice, |cached| part.copy_from_slice(cached));
        }
        Ok(bytes)
    }
}

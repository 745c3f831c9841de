//! Counting the references to each cluster: from the header down through every table.
//!
//! What is read was written by others. Regions beyond the file's end are told and not counted; a table that several
//! entries name is walked once and counted as often as it is named; tables that overlap are bounded by a budget. So the
//! work and the memory are bounded by the bytes that are really there.

use futures_util::StreamExt;
use futures_util::stream;
use rhea_async_io::IoVector;
use rhea_block::{Result, StatusFlags};

use super::Check;
use crate::bitmap::directory;
use crate::counts::Counts;
use crate::geometry::{ALL_ALLOCATED, COMPRESSED, COPIED, L1_RESERVED, L2Entry, OFFSET_MASK, ZERO};
use crate::header::Autoclear;
use crate::structures::{IN_FLIGHT, read_vector, words};

/// Bytes of neighbouring tables that are read at once.
const EXTENT: u64 = 1 << 20;
/// Bytes between two tables that are read along rather than apart.
const GAP: u64 = 32 << 10;
/// Bytes of an L1 table that are looked at in one go.
pub(super) const L1_PIECE: u64 = 1 << 20;
/// Bytes of snapshots' L1 tables in all; more can only be if they overlap.
const L1_BUDGET: u64 = 64 << 30;

/// Bytes of bitmaps' tables in all; more can only be if they overlap.
const BITMAP_TABLE_BUDGET: u64 = 1 << 30;
/// Tables that were met again and are gone through in one go.
const AT_ONCE: usize = 1 << 16;

/// Bits of a standard L2 entry that are reserved. Bit 0 is told apart where it means something.
const L2_RESERVED: u64 = !(OFFSET_MASK | COPIED | COMPRESSED | ZERO);

/// How often something counts: for the references, and for the statistics of the disk as it is now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Times {
    pub references: u64,
    pub active: u64,
}

impl Times {
    const ACTIVE: Self = Self { references: 1, active: 1 };
    const SNAPSHOT: Self = Self { references: 1, active: 0 };
}

/// Clusters in a row.
#[derive(Debug, Default)]
struct Run {
    first: u64,
    len: u64,
    copied: bool,
}

/// L2 tables that were met, by their clusters: there may be millions.
pub(super) struct Visited {
    /// Those that were walked.
    walked: Counts,
    /// How often each was met after it was walked.
    references: Counts,
    /// The part of that which is the disk's as it is now.
    active: Counts,
}

impl Default for Visited {
    fn default() -> Self {
        let all = || Counts::new(u64::MAX);
        Self { walked: Counts::new(1), references: all(), active: all() }
    }
}

/// An L1 entry, and whether its table is to be read.
struct Item {
    entry: u64,
    read: bool,
}

/// Entries whose tables lie together.
#[derive(Default)]
struct Extent {
    start: u64,
    end: u64,
    items: Vec<Item>,
}

impl Check<'_> {
    /// Counts everything.
    pub(super) async fn count_references(&mut self) -> Result<()> {
        self.count_region(0, self.geometry.cluster_size, 1);
        let mut visited = Visited::default();
        let (offset, entries) = (self.header.l1_table_offset, self.header.l1_size);
        self.count_l1(offset, entries, Times::ACTIVE, &mut visited).await?;
        self.count_snapshots(&mut visited).await?;
        self.count_again(visited).await?;
        self.count_region(self.header.snapshots_offset, self.snapshot_table_length, 1);
        if let Some(encryption) = &self.header.encryption {
            let (offset, length) = (encryption.offset, encryption.length);
            self.count_region(offset, length, 1);
        }
        self.count_bitmaps().await?;
        self.wrong_elsewhere = self.result.corruptions;
        self.count_refcount_structures().await
    }

    /// Counts a reference to each cluster that a region touches. Returns whether the region could be counted.
    pub(super) fn count_region(&mut self, offset: u64, len: u64, times: u64) -> bool {
        if len == 0 {
            return true;
        }
        let cluster_size = self.geometry.cluster_size;
        let end = offset.checked_add(len).filter(|end| end.saturating_sub(self.file_length) < cluster_size);
        let Some(end) = end else {
            self.corrupt(
                times,
                format!(
                    "ERROR: counting reference for region exceeding the end of the file by one cluster or more: \
                     offset 0x{offset:x} size 0x{len:x}"
                ),
            );
            return false;
        };
        for cluster in offset >> self.geometry.cluster_bits..=(end - 1) >> self.geometry.cluster_bits {
            let lost = self.counts.add(cluster, times);
            if lost != 0 {
                self.overflow(cluster, lost);
            }
        }
        true
    }

    async fn count_snapshots(&mut self, visited: &mut Visited) -> Result<()> {
        let mut budget = L1_BUDGET;
        for index in 0..self.snapshots.len() {
            let snapshot = &self.snapshots[index];
            let (offset, entries) = (snapshot.l1_table_offset, snapshot.l1_size);
            let bytes = u64::from(entries) * 8;
            let problem = snapshot
                .l1_problem(self.geometry.cluster_size)
                .or_else(|| (bytes > budget).then(|| format!("l1_offset=0x{offset:x}: L1 tables overlap")));
            if let Some(problem) = problem {
                let (id, name) =
                    (String::from_utf8_lossy(&snapshot.id), String::from_utf8_lossy(&snapshot.name));
                let message =
                    format!("ERROR snapshot {id} ({name}) {problem}; snapshot table entry corrupted");
                self.corrupt(1, message);
                self.unseen = true;
                continue;
            }
            budget -= bytes;
            self.count_l1(offset, entries, Times::SNAPSHOT, visited).await?;
        }
        Ok(())
    }

    /// Counts an L1 table, and the L2 tables it names that were not met before.
    async fn count_l1(
        &mut self,
        offset: u64,
        entries: u32,
        times: Times,
        visited: &mut Visited,
    ) -> Result<()> {
        let len = u64::from(entries) * 8;
        if !self.count_region(offset, len, times.references) {
            self.unseen = true;
        }
        let mut at = 0;
        while at < len && offset + at < self.file_length {
            let piece = L1_PIECE.min(len - at);
            // Large tables are mostly empty, and lie in a hole of the file.
            if len > L1_PIECE
                && let Ok(status) = self.file.block_status(offset + at, piece, true).await
                && status.len >= 8
                && status.flags.contains(StatusFlags::ZERO)
            {
                at += status.len / 8 * 8;
                continue;
            }
            match read_vector(self.file.clone(), offset + at, piece).await {
                Ok(data) => {
                    let bytes = data.to_vec();
                    self.count_l1_piece(&bytes, times, visited).await?;
                }
                Err(error) => self.unreadable("L1 table", offset + at, &error),
            }
            at += piece;
        }
        Ok(())
    }

    async fn count_l1_piece(&mut self, bytes: &[u8], times: Times, visited: &mut Visited) -> Result<()> {
        let cluster_size = self.geometry.cluster_size;
        let mut extents: Vec<Extent> = Vec::new();
        for entry in words(bytes).filter(|&e| e != 0) {
            let offset = entry & OFFSET_MASK;
            let there = offset != 0 && offset.is_multiple_of(cluster_size) && offset < self.file_length;
            let read = there && self.visit(offset, times, visited);
            let fits = |extent: &Extent| {
                !read
                    || extent.end == 0
                    || (offset >= extent.end
                        && offset - extent.end <= GAP
                        && offset + cluster_size - extent.start <= EXTENT.max(cluster_size))
            };
            if !extents.last().is_some_and(fits) {
                extents.push(Extent::default());
            }
            let extent = extents.last_mut().expect("just made sure of");
            if read {
                if extent.end == 0 {
                    extent.start = offset;
                }
                extent.end = offset + cluster_size;
            }
            extent.items.push(Item { entry, read });
        }
        let file = self.file.clone();
        let mut reads = stream::iter(extents)
            .map(move |extent| {
                let file = file.clone();
                async move {
                    let data = read_vector(file, extent.start, extent.end - extent.start).await;
                    (extent, data)
                }
            })
            .buffered(IN_FLIGHT);
        while let Some((extent, data)) = reads.next().await {
            for item in &extent.items {
                self.count_l1_entry(item.entry, times);
                if !item.read {
                    continue;
                }
                let offset = item.entry & OFFSET_MASK;
                match data.as_ref().map(IoVector::as_slice) {
                    Ok(Some(bytes)) => {
                        let at = (offset - extent.start) as usize;
                        self.count_l2(offset, &bytes[at..at + cluster_size as usize], times).await?;
                    }
                    Ok(None) => unreachable!("a fresh vector is one segment"),
                    Err(error) => self.unreadable("L2 table", offset, error),
                }
            }
        }
        Ok(())
    }

    /// Notes that an L2 table is named; whether it is the first time.
    fn visit(&self, offset: u64, times: Times, visited: &mut Visited) -> bool {
        let cluster = offset >> self.geometry.cluster_bits;
        if visited.walked.add(cluster, 1) == 0 {
            return true;
        }
        visited.references.add(cluster, times.references);
        if times.active != 0 {
            visited.active.add(cluster, times.active);
        }
        false
    }

    fn count_l1_entry(&mut self, entry: u64, times: Times) {
        let cluster_size = self.geometry.cluster_size;
        if entry & L1_RESERVED != 0 {
            self.corrupt(times.references, format!("ERROR found L1 entry with reserved bits set: {entry:x}"));
        }
        let offset = entry & OFFSET_MASK;
        if offset == 0 {
            return;
        }
        let counted = self.count_region(offset, cluster_size, times.references);
        if !offset.is_multiple_of(cluster_size) {
            let message =
                format!("ERROR l2_offset={offset:x}: Table is not cluster aligned; L1 entry corrupted");
            self.corrupt(times.references, message);
            self.unseen = true;
        }
        self.unseen |= !counted;
        if times.active != 0 {
            self.note_copied(offset, entry & COPIED != 0, counted);
        }
    }

    /// Remembers what an entry of the active tables says of its cluster's refcount.
    fn note_copied(&mut self, offset: u64, copied: bool, counted: bool) {
        if !counted {
            self.copied_suspect = true;
            return;
        }
        let cluster = offset >> self.geometry.cluster_bits;
        let set = if copied { &mut self.copied } else { &mut self.not_copied };
        set.add(cluster, 1);
    }

    /// Counts the L2 tables that were met more than once, for the other times.
    async fn count_again(&mut self, visited: Visited) -> Result<()> {
        let Visited { references, active, .. } = visited;
        let mut from = 0;
        loop {
            let mut again = Vec::new();
            references.each_in(from, u64::MAX, |cluster, references| {
                from = cluster + 1;
                again.push((cluster, Times { references, active: active.get(cluster) }));
                again.len() < AT_ONCE
            });
            if again.is_empty() {
                return Ok(());
            }
            self.count_some_again(again).await?;
        }
    }

    async fn count_some_again(&mut self, again: Vec<(u64, Times)>) -> Result<()> {
        let (file, cluster_size) = (self.file.clone(), self.geometry.cluster_size);
        let bits = self.geometry.cluster_bits;
        let again = again.into_iter().map(move |(cluster, times)| (cluster << bits, times));
        let mut reads = stream::iter(again)
            .map(move |(offset, times)| {
                let file = file.clone();
                async move { (offset, times, read_vector(file, offset, cluster_size).await) }
            })
            .buffered(IN_FLIGHT);
        while let Some((offset, times, data)) = reads.next().await {
            match data {
                Ok(data) => {
                    let bytes = data.as_slice().expect("a fresh vector is one segment");
                    self.count_l2(offset, bytes, times).await?;
                }
                Err(error) => self.unreadable("L2 table", offset, &error),
            }
        }
        Ok(())
    }

    /// Counts what an L2 table names.
    async fn count_l2(&mut self, table: u64, bytes: &[u8], times: Times) -> Result<()> {
        let mut expected = 0;
        let mut run = Run::default();
        let plain = !self.external && !self.geometry.has_subclusters() && times == Times::ACTIVE;
        for index in 0..1usize << self.geometry.l2_bits {
            let entry = L2Entry::load(&self.geometry, bytes, index);
            if entry == L2Entry::default() {
                continue;
            }
            if plain && self.is_plain_data(entry.descriptor) {
                self.count_plain_data(entry.descriptor, &mut run, &mut expected);
                continue;
            }
            if entry.is_compressed() {
                self.count_compressed(entry, index, times);
            } else {
                self.count_standard(table, entry, index, times, &mut expected).await?;
            }
        }
        self.count_run(run);
        Ok(())
    }

    /// Whether an entry is as nearly all are: an aligned cluster within the file, and nothing else to say of it.
    fn is_plain_data(&self, descriptor: u64) -> bool {
        let offset = descriptor & !COPIED;
        offset & (OFFSET_MASK ^ (self.geometry.cluster_size - 1) & OFFSET_MASK) == offset
            && offset != 0
            && offset + self.geometry.cluster_size <= self.file_length
    }

    /// Clusters that follow each other are counted together.
    fn count_plain_data(&mut self, descriptor: u64, run: &mut Run, expected: &mut u64) {
        let (offset, copied) = (descriptor & !COPIED, descriptor & COPIED != 0);
        let cluster = offset >> self.geometry.cluster_bits;
        if cluster == run.first + run.len && copied == run.copied {
            run.len += 1;
        } else {
            self.count_run(std::mem::replace(run, Run { first: cluster, len: 1, copied }));
        }
        self.result.allocated_clusters += 1;
        if *expected != 0 && offset != *expected {
            self.result.fragmented_clusters += 1;
        }
        *expected = offset + self.geometry.cluster_size;
    }

    fn count_run(&mut self, run: Run) {
        let mut full = Vec::new();
        self.counts.add_run(run.first, run.len, |cluster| full.push(cluster));
        for cluster in full {
            self.overflow(cluster, 1);
        }
        let set = if run.copied { &mut self.copied } else { &mut self.not_copied };
        set.add_run(run.first, run.len, |_| ());
    }

    /// A cluster has more references than its refcount can say.
    fn overflow(&mut self, cluster: u64, times: u64) {
        self.corrupt(
            times,
            format!(
                "ERROR: overflow cluster offset=0x{:x}\nUse qemu-img amend to increase the refcount entry width or \
                 qemu-img convert to create a clean copy if the image cannot be opened for writing",
                cluster << self.geometry.cluster_bits
            ),
        );
    }

    fn count_compressed(&mut self, entry: L2Entry, index: usize, times: Times) {
        let descriptor = entry.descriptor;
        let (offset, length) = self.geometry.compressed_range(descriptor);
        if descriptor & COPIED != 0 {
            self.corrupt(
                times.references,
                format!("ERROR: coffset=0x{offset:x}: copied flag must never be set for compressed clusters"),
            );
        }
        if self.external {
            let message = format!("ERROR compressed cluster {index} with data file, entry=0x{descriptor:x}");
            self.corrupt(times.references, message);
            return;
        }
        if entry.bitmap != 0 {
            self.corrupt(
                times.references,
                format!(
                    "ERROR compressed cluster {index} with non-zero subcluster allocation bitmap, \
                     entry=0x{descriptor:x}"
                ),
            );
            return;
        }
        let start = offset & !511;
        self.count_region(start, offset - start + length, times.references);
        self.result.allocated_clusters += times.active;
        self.result.compressed_clusters += times.active;
        // The data of a compressed cluster never starts where a read of its neighbour ends.
        self.result.fragmented_clusters += times.active;
    }

    async fn count_standard(
        &mut self,
        table: u64,
        entry: L2Entry,
        index: usize,
        times: Times,
        expected: &mut u64,
    ) -> Result<()> {
        let (descriptor, cluster_size) = (entry.descriptor, self.geometry.cluster_size);
        if descriptor & L2_RESERVED != 0 {
            let message = format!("ERROR found l2 entry with reserved bits set: {descriptor:x}");
            self.corrupt(times.references, message);
        }
        let offset = entry.host_offset();
        let place = entry.has_place(self.external);
        if entry.is_contradictory(&self.geometry, self.external) {
            let message = match place {
                true => {
                    format!(
                        "ERROR offset={offset:x}: Allocated cluster has corrupted subcluster allocation bitmap"
                    )
                }
                false => "ERROR: Unallocated cluster has non-zero subcluster allocation map".into(),
            };
            self.corrupt(times.references, message);
        }
        if !place {
            return Ok(());
        }
        if !offset.is_multiple_of(cluster_size) {
            let holds_data = match self.geometry.has_subclusters() {
                true => entry.bitmap & ALL_ALLOCATED != 0,
                false => descriptor & ZERO == 0,
            };
            if !holds_data && self.repair.errors {
                self.tell(format!(
                    "Repairing offset={offset:x}: Preallocated cluster is not properly aligned; L2 entry corrupted."
                ));
                self.result.corruptions_fixed += 1;
                let entry = L2Entry { descriptor: descriptor & ZERO, bitmap: entry.bitmap };
                return self.write_l2_entry(table, index, entry).await;
            }
            let what = if holds_data { "Data" } else { "Preallocated" };
            self.corrupt(
                times.references,
                format!(
                    "ERROR offset={offset:x}: {what} cluster is not properly aligned; L2 entry corrupted."
                ),
            );
        }
        let counted = self.external || self.count_region(offset, cluster_size, times.references);
        if times.active != 0 {
            self.result.allocated_clusters += times.active;
            if *expected != 0 && offset != *expected {
                self.result.fragmented_clusters += times.active;
            }
            *expected = offset.saturating_add(cluster_size);
            match self.external {
                // Clusters of an external data file are always their owner's alone.
                true => self.copied_suspect |= !entry.is_copied(),
                false => self.note_copied(offset, entry.is_copied(), counted),
            }
        }
        Ok(())
    }

    async fn write_l2_entry(&mut self, table: u64, index: usize, entry: L2Entry) -> Result<()> {
        let mut bytes = vec![0; self.geometry.l2_entry_size as usize];
        entry.store(&self.geometry, &mut bytes, 0);
        self.wrote = true;
        self.file.write_bytes(table + index as u64 * self.geometry.l2_entry_size, &bytes).await
    }

    async fn count_bitmaps(&mut self) -> Result<()> {
        let Some(extension) = self.header.bitmaps else { return Ok(()) };
        if !self.header.autoclear.contains(Autoclear::BITMAPS) {
            return Ok(());
        }
        if !self.count_region(extension.directory_offset, extension.directory_size, 1) {
            self.unseen = true;
            return Ok(());
        }
        let read = directory::read(&self.file, &extension, &self.geometry, self.header.size).await;
        let entries = match read {
            Ok(entries) => entries,
            Err(error) => {
                self.corrupt(1, format!("ERROR bitmap directory: {error}"));
                self.unseen = true;
                return Ok(());
            }
        };
        let mut budget = BITMAP_TABLE_BUDGET;
        for entry in entries {
            let (offset, len) = (entry.table_offset, u64::from(entry.table_size) * 8);
            let Some(left) = budget.checked_sub(len) else {
                self.corrupt(1, format!("ERROR bitmap '{}': bitmap tables overlap", entry.name));
                self.unseen = true;
                break;
            };
            budget = left;
            if !self.count_region(offset, len, 1) {
                self.unseen = true;
                continue;
            }
            let table = match directory::read_table(&self.file, &entry, &self.geometry).await {
                Ok(table) => table,
                Err(error) => {
                    self.corrupt(1, format!("ERROR {error}"));
                    self.unseen = true;
                    continue;
                }
            };
            for cluster in table.iter().filter_map(|e| e.offset()) {
                self.count_region(cluster, self.geometry.cluster_size, 1);
            }
        }
        Ok(())
    }
}

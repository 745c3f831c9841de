//! Writing zeroes, and discarding: mostly a matter of L2 entries alone.

use rhea_block::{BlockError, Result, WriteFlags};

use crate::geometry::{ALL_ALLOCATED, ALL_ZERO, Kind, L2Entry, ZERO};
use crate::image::{Image, Release};
use crate::mapping::L2Table;
use crate::read::Behind;
use crate::write::subcluster_mask;

/// What is to become of the entries of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Become {
    /// Zeroes. `unmap`: what they name may be given back.
    Zero { unmap: bool },
    /// Zeroes where that can be said (version 3) or there was data; nothing is kept.
    Discarded,
    /// Unallocated, so that what is behind shines through.
    Unallocated,
}

/// A changed entry, and what follows from it.
struct Change {
    new: L2Entry,
    /// The old entry names something that the new one does not.
    release: bool,
    /// The new entry keeps a place whose contents do not matter any more.
    discard: Option<u64>,
}

impl Image {
    /// Makes a range read as zeroes by changing L2 entries. `ENOTSUP` where that cannot be: the block layer writes zeroes
    /// as data then.
    pub(crate) async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        self.check_writable()?;
        if self.geometry.version < 3 {
            return Err(BlockError::os(libc::ENOTSUP));
        }
        let (from, to) = self.widen(offset, offset + len).await?;
        let raw = self.header.lock().header.is_data_file_raw();
        if raw {
            // The data file must show the zeroes as well.
            let guard = self.releases.host_write(offset..offset + len);
            let done = self.data().write_zeroes(offset, len, flags).await;
            guard.ended();
            done?;
        }
        let unmap = flags.contains(WriteFlags::MAY_UNMAP) && !raw;
        self.change_entries(from, to, Become::Zero { unmap }, Release::Request).await
    }

    /// Widens a range to whole subclusters, if what is added reads as zeroes already.
    async fn widen(&self, offset: u64, end: u64) -> Result<(u64, u64)> {
        let size = self.geometry.subcluster_size();
        let from = offset / size * size;
        let to = if end == self.length() { end } else { end.next_multiple_of(size) };
        let to = to.min(self.length()).max(end);
        for (start, stop) in [(from, offset), (end, to)] {
            if start < stop && !self.reads_as_zero(start, stop - start, Behind::Backing).await? {
                return Err(BlockError::os(libc::ENOTSUP));
            }
        }
        // The last subcluster may reach beyond the disk's end.
        Ok((from, to.next_multiple_of(size)))
    }

    /// Gives storage back. Only whole clusters can be.
    pub(crate) async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.check_writable()?;
        let g = &self.geometry;
        let end = offset + len;
        let from = g.cluster_end(offset);
        let to = if end == self.length() { g.cluster_end(end) } else { g.cluster_start(end) };
        if from >= to {
            return Err(BlockError::os(libc::ENOTSUP));
        }
        self.change_entries(from, to, Become::Discarded, Release::Request).await
    }

    /// Makes a range of whole clusters unallocated. The caller holds the image alone, or means it.
    pub(crate) async fn unmap(&self, from: u64, to: u64, why: Release) -> Result<()> {
        self.change_entries(from, to, Become::Unallocated, why).await
    }

    /// Makes a range of whole clusters read as zeroes. The caller holds the image alone, or means it.
    pub(crate) async fn set_zero(&self, from: u64, to: u64) -> Result<()> {
        self.change_entries(from, to, Become::Zero { unmap: true }, Release::Other).await
    }

    /// Changes the entries of a range of whole subclusters.
    async fn change_entries(&self, from: u64, to: u64, change: Become, why: Release) -> Result<()> {
        let g = &self.geometry;
        let span = (self.entries_per_slice() as u64) << g.cluster_bits;
        let mut at = from;
        while at < to {
            if self.releases.is_pressing() {
                self.flush().await?;
            }
            let _running = self.releases.begin_request();
            // Where there is no L2 table, there may be nothing to do for a long stretch.
            if let L2Table::Missing(missing) = self.l2_place(at, to - at)
                && !self.changes_unallocated(at, change)
            {
                at = at.saturating_add(missing);
                continue;
            }
            let end = to.min((at / span + 1) * span);
            self.change_slice(at, end, change, why).await?;
            at = end;
        }
        Ok(())
    }

    /// Whether a change means anything for clusters that are not allocated.
    fn changes_unallocated(&self, at: u64, change: Become) -> bool {
        match change {
            Become::Zero { .. } => true,
            Become::Discarded => self.geometry.version >= 3 && self.is_backed(at, Behind::Backing),
            Become::Unallocated => false,
        }
    }

    /// Changes entries within one slice of an L2 table.
    async fn change_slice(&self, from: u64, to: u64, change: Become, why: Release) -> Result<()> {
        let g = &self.geometry;
        if !self.is_any_changed(from, to, change).await? {
            return Ok(());
        }
        let place = self.writable_l2(from).await?;
        let (first, stop) = (from >> g.cluster_bits, g.clusters(to));
        let _changing = self.in_flight.enter(first, stop).await;
        let mut released = Vec::new();
        let mut discards = Vec::new();
        loop {
            released.clear();
            discards.clear();
            let done = self.l2.write(place.slice, |bytes| {
                // Nothing yet: the first entry gives the start.
                let mut touched = std::ops::Range { start: usize::MAX, end: 0 };
                for cluster in first..stop {
                    let index = place.index + (cluster - first) as usize;
                    let start = cluster << g.cluster_bits;
                    let old = L2Entry::load(g, bytes, index);
                    let (low, high) = (from.max(start), to.min(start + g.cluster_size));
                    let changed = match self.changed_entry(old, start, low, high, change) {
                        Ok(Some(changed)) => changed,
                        Ok(None) => continue,
                        Err(error) => return (Err(error), touched),
                    };
                    changed.new.store(g, bytes, index);
                    let size = g.l2_entry_size as usize;
                    touched = touched.start.min(index * size)..(index + 1) * size;
                    if changed.release {
                        released.push(old);
                    }
                    discards.extend(changed.discard);
                }
                (Ok(()), touched)
            });
            match done {
                Some(result) => {
                    for entry in &released {
                        self.release_entry(*entry, why);
                    }
                    self.discard_data(&released, &discards).await;
                    return result;
                }
                None => self.load_l2(place.slice).await?,
            }
        }
    }

    /// Whether anything in a range would change: if not, no table shared with snapshots need be copied.
    async fn is_any_changed(&self, from: u64, to: u64, change: Become) -> Result<bool> {
        let mut at = from;
        while at < to {
            let run = self.find_run(at, to - at, false).await?;
            let same = match (change, run.kind) {
                (Become::Unallocated, Kind::Unallocated) => true,
                (Become::Discarded, Kind::Unallocated) => !self.changes_unallocated(at, change),
                (Become::Discarded | Become::Zero { .. }, Kind::Zero) => true,
                (Become::Zero { unmap: false }, Kind::ZeroReserved) => run.entry.is_copied(),
                _ => false,
            };
            if !same {
                return Ok(true);
            }
            at += run.len;
        }
        Ok(false)
    }

    /// What an entry for the cluster at `start` becomes if `low..high` of it changes; `None`: what it is.
    fn changed_entry(
        &self,
        old: L2Entry,
        start: u64,
        low: u64,
        high: u64,
        change: Become,
    ) -> Result<Option<Change>> {
        let g = &self.geometry;
        let external = self.has_data_file();
        let whole = high - low == g.cluster_size;
        let named = old.is_compressed() || old.has_place(external);
        let (zero, keep_wanted) = match change {
            Become::Unallocated => (false, false),
            Become::Discarded => {
                let allocated = named || old.descriptor & ZERO != 0 || old.bitmap != 0;
                if !allocated && !self.changes_unallocated(start, change) {
                    return Ok(None);
                }
                let keep = self.settings.lock().discard_no_unref || self.is_raw_external();
                (g.version >= 3, keep)
            }
            Become::Zero { unmap } => (true, !unmap || self.settings.lock().discard_no_unref),
        };
        // A place that snapshots share is of no use to us any more.
        let keep = keep_wanted && old.has_place(external) && old.is_copied();
        let mut new = L2Entry::default();
        if !whole {
            // Part of a cluster with subclusters, that becomes zeroes.
            if old.is_compressed() {
                return Err(BlockError::os(libc::ENOTSUP));
            }
            let mask = subcluster_mask(
                ((low - start) >> g.subcluster_bits) as u32,
                ((high - start) >> g.subcluster_bits) as u32,
            );
            new = L2Entry {
                descriptor: old.descriptor,
                bitmap: (old.bitmap | mask << 32) & !(mask & ALL_ALLOCATED),
            };
            return Ok((new != old).then_some(Change { new, release: false, discard: None }));
        }
        if keep {
            new.descriptor = old.descriptor;
        }
        if zero && g.has_subclusters() {
            new.bitmap = ALL_ZERO;
        } else if zero {
            new.descriptor |= ZERO;
        }
        if new == old {
            return Ok(None);
        }
        let unmapping = change != Become::Zero { unmap: false };
        let discard = (keep && unmapping).then(|| old.host_offset());
        Ok(Some(Change { new, release: named && !keep, discard }))
    }

    fn is_raw_external(&self) -> bool {
        self.has_data_file() && self.header.lock().header.is_data_file_raw()
    }

    /// Tells the data file of places that are kept but not needed, and of those in an external file, which nobody counts.
    async fn discard_data(&self, released: &[L2Entry], kept: &[u64]) {
        if !self.settings.lock().pass_discard_request {
            return;
        }
        let mut places = kept.to_vec();
        if self.has_data_file() {
            places.extend(released.iter().map(|e| e.host_offset()));
        }
        places.sort_unstable();
        let size = self.geometry.cluster_size;
        let mut at = 0;
        while at < places.len() {
            let start = places[at];
            let mut end = start + size;
            at += 1;
            while places.get(at) == Some(&end) {
                end += size;
                at += 1;
            }
            let guard = self.releases.host_write(start..end);
            // A file that cannot is none the worse for it.
            let _ = self.data().discard(start, end - start).await;
            guard.ended();
        }
    }
}

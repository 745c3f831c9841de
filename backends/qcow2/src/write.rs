//! Writes: in place where that is allowed, else into clusters that are allocated for them.
//!
//! An allocating write goes through these steps; dropped anywhere, it leaves at most clusters that nothing names:
//!
//! 1. It enters its guest clusters ([`crate::in_flight`]), so that their L2 entries stay as they are.
//! 2. It allocates clusters (or finds a place that the entry names already), as many in a row as there are.
//! 3. It reads what the first and last cluster must keep of their old contents.
//! 4. It writes data and old contents in one go.
//! 5. It changes the L2 entries in memory, and releases what they named before.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use rhea_async_io::{IoVector, IoView};
use rhea_block::{BlockNode, Result, WriteFlags};

use crate::geometry::{ALL_ALLOCATED, COPIED, Kind, L2Entry};
use crate::image::{Image, Release};
use crate::mapping::{L2Place, Run};
use crate::overlap::Sections;
use crate::read::Behind;

/// Guest clusters to be written as one, and how.
struct Plan {
    place: L2Place,
    /// The first cluster's offset on the disk.
    start: u64,
    clusters: u64,
    /// Where they go, if the entries name a place that may be written.
    reuse: Option<u64>,
    /// Their entries now.
    old: Vec<L2Entry>,
}

/// What is to be written of a cluster beyond the data itself.
struct Edges {
    /// From here (an offset of the disk) to the data's start.
    from: u64,
    /// From the data's end up to here.
    to: u64,
}

impl Image {
    /// Writes to the disk. The caller holds a share of the requests.
    pub(crate) async fn write(&self, offset: u64, data: IoView<'_>, behind: Behind) -> Result<()> {
        self.check_writable()?;
        if self.releases.is_pressing() {
            self.flush().await?;
        }
        let _running = self.releases.begin_request();
        self.write_range(offset, data, behind).await
    }

    /// The same for requests that have begun already.
    pub(crate) async fn write_range(&self, offset: u64, data: IoView<'_>, behind: Behind) -> Result<()> {
        let len = data.len() as u64;
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let run = self.find_run(at, len - done, true).await?;
            done += if run.is_writable() {
                let part = if run.len == len { data.clone() } else { part_of(&data, done, run.len) };
                self.write_in_place(at, run, part).await?;
                run.len
            } else {
                self.write_allocating(at, part_of(&data, done, len - done), behind).await?
            };
        }
        Ok(())
    }

    async fn write_in_place(&self, offset: u64, run: Run, data: IoView<'_>) -> Result<()> {
        if !self.has_data_file()
            && let Some(problem) = self.overlap_of(run.host, run.len, Sections::empty())
        {
            return Err(self.mark_corrupt(problem).await);
        }
        self.write_data(offset, run.host, data).await
    }

    /// Writes to the file with the guest's data, encrypted if need be.
    pub(crate) async fn write_data(&self, guest: u64, host: u64, data: IoView<'_>) -> Result<()> {
        let guard = self.releases.host_write(host..host + data.len() as u64);
        let result = match &self.encryption {
            None => {
                let file = self.data();
                file.debug_event("write_aio").await;
                file.write(host, data, WriteFlags::empty()).await
            }
            Some(encryption) => {
                let bytes = encryption.encrypt(guest, host, data.to_vec()).await?;
                let file = self.data();
                file.debug_event("write_aio").await;
                file.write(host, &IoVector::from_slice(&bytes), WriteFlags::empty()).await
            }
        };
        guard.ended();
        result
    }

    /// Writes the beginning of `data` (or nothing, if the clusters turn out to be writable in place by now) and returns
    /// how much.
    async fn write_allocating(&self, offset: u64, data: IoView<'_>, behind: Behind) -> Result<u64> {
        let g = &self.geometry;
        self.writable_l2(offset).await?;
        // Not beyond the slice, whose entries change together.
        let span = (self.entries_per_slice() as u64) << g.cluster_bits;
        let end = (offset + data.len() as u64).min((offset / span + 1) * span);
        let (first, stop) = (offset >> g.cluster_bits, g.clusters(end));
        let _changing = self.in_flight.enter(first, stop).await;
        let Some(mut plan) = self.plan(offset, end).await? else { return Ok(0) };
        let (host, untouched) = match plan.reuse {
            Some(host) => (host, false),
            None if self.has_data_file() => (plan.start, false),
            None => {
                let allocated = self.allocate_some(plan.clusters).await?;
                plan.clusters = allocated.clusters;
                plan.old.truncate(allocated.clusters as usize);
                (allocated.offset, allocated.untouched && self.grows_with_zeroes)
            }
        };
        let end = end.min(plan.start + (plan.clusters << g.cluster_bits));
        let edges = self.edges(&plan, offset, end);
        let data = part_of(&data, 0, end - offset);
        let written = self.write_with_edges(&plan, &edges, offset, data, host, untouched, behind).await;
        if let Err(error) = written {
            if plan.reuse.is_none() && !self.has_data_file() {
                self.release(host, plan.clusters << g.cluster_bits, Release::Silent);
            }
            return Err(error);
        }
        self.link(&plan, &edges, host).await?;
        Ok(end - offset)
    }

    /// Copies whole clusters from another node's file into clusters allocated for them. Returns how many bytes: 0 if they
    /// turn out to be writable in place.
    pub(crate) async fn copy_whole(
        &self,
        from: &Arc<BlockNode>,
        source: u64,
        offset: u64,
        len: u64,
        flags: WriteFlags,
    ) -> Result<u64> {
        let g = &self.geometry;
        self.writable_l2(offset).await?;
        let span = (self.entries_per_slice() as u64) << g.cluster_bits;
        let end = (offset + len).min((offset / span + 1) * span);
        let _changing = self.in_flight.enter(offset >> g.cluster_bits, g.clusters(end)).await;
        let Some(mut plan) = self.plan(offset, end).await? else { return Ok(0) };
        let host = match plan.reuse {
            Some(host) => host,
            None if self.has_data_file() => plan.start,
            None => {
                let allocated = self.allocate_some(plan.clusters).await?;
                plan.clusters = allocated.clusters;
                plan.old.truncate(allocated.clusters as usize);
                allocated.offset
            }
        };
        let len = plan.clusters << g.cluster_bits;
        let guard = self.releases.host_write(host..host + len);
        let copied = self.data().copy_range_to(from, source, host, len, flags).await;
        guard.ended();
        if let Err(error) = copied {
            if plan.reuse.is_none() && !self.has_data_file() {
                self.release(host, len, Release::Silent);
            }
            return Err(error);
        }
        self.link(&plan, &Edges { from: offset, to: offset + len }, host).await?;
        Ok(len)
    }

    /// Decides how the clusters from `offset` on are to be written. `None`: in place, after all.
    async fn plan(&self, offset: u64, end: u64) -> Result<Option<Plan>> {
        let g = &self.geometry;
        let external = self.has_data_file();
        let place = self.writable_l2(offset).await?;
        let start = g.cluster_start(offset);
        let wanted = g.clusters(end - start) as usize;
        let reusable = |e: &L2Entry| e.has_place(external) && e.is_copied();
        loop {
            let looked = self.l2.read(place.slice, |bytes| {
                let first = L2Entry::load(g, bytes, place.index);
                let mut old = Vec::with_capacity(wanted.min(64));
                for number in 0..wanted {
                    let entry = L2Entry::load(g, bytes, place.index + number);
                    let position = start + ((number as u64) << g.cluster_bits);
                    let at = L2Place { index: place.index + number, ..place };
                    if let Some(problem) = self.entry_problem(entry, at, position) {
                        if number == 0 {
                            return Err(problem);
                        }
                        break;
                    }
                    let follows = reusable(&entry) == reusable(&first)
                        && (!reusable(&first)
                            || entry.host_offset()
                                == first.host_offset() + ((number as u64) << g.cluster_bits));
                    if !follows {
                        break;
                    }
                    old.push(entry);
                }
                Ok(old)
            });
            let old = match looked {
                None => {
                    self.load_l2(place.slice).await?;
                    continue;
                }
                Some(Err(problem)) => return Err(self.mark_corrupt(problem).await),
                Some(Ok(old)) => old,
            };
            let first = old[0];
            let reuse = reusable(&first).then(|| first.host_offset());
            let sub = (g.in_cluster(offset) >> g.subcluster_bits) as u32;
            if reuse.is_some() && first.kind(g, external, sub) == Kind::Normal {
                let run = self.find_run(offset, end - offset, true).await?;
                if run.is_writable() {
                    // What can be written in place is; the rest comes back here.
                    return Ok(None);
                }
            }
            return Ok(Some(Plan { place, start, clusters: old.len() as u64, reuse, old }));
        }
    }

    /// What must be written around `offset..end`: up to the borders of subclusters, or of whole clusters where old data
    /// has to move.
    fn edges(&self, plan: &Plan, offset: u64, end: u64) -> Edges {
        let g = &self.geometry;
        let external = self.has_data_file();
        let sub_start = |at: u64| at & !(g.subcluster_size() - 1);
        let kind_at =
            |entry: L2Entry, at: u64| entry.kind(g, external, (g.in_cluster(at) >> g.subcluster_bits) as u32);
        let moves = |entry: L2Entry| {
            plan.reuse.is_none()
                && (entry.is_compressed()
                    || (entry.has_place(external)
                        && (0..g.subclusters).any(|s| entry.kind(g, external, s) == Kind::Normal)))
        };
        let (first, last) = (plan.old[0], plan.old[plan.old.len() - 1]);
        let in_place = |entry, at| plan.reuse.is_some() && kind_at(entry, at) == Kind::Normal;
        let from = if moves(first) {
            plan.start
        } else if in_place(first, offset) {
            offset
        } else {
            sub_start(offset)
        };
        let to = if moves(last) {
            g.cluster_end(end)
        } else if in_place(last, end - 1) {
            end
        } else {
            sub_start(end - 1) + g.subcluster_size()
        };
        Edges { from, to }
    }

    /// The old contents of a range; `None` if they are zeroes.
    async fn old_contents(&self, from: u64, to: u64, behind: Behind) -> Result<Option<IoVector>> {
        if from == to || self.reads_as_zero(from, to - from, behind).await? {
            return Ok(None);
        }
        self.event("cow_read").await;
        let mut old = IoVector::zeroed((to - from) as usize);
        self.read_range(from, &mut old, behind).await?;
        Ok((!old.view().is_zero()).then_some(old))
    }

    async fn write_with_edges(
        &self,
        plan: &Plan,
        edges: &Edges,
        offset: u64,
        data: IoView<'_>,
        host: u64,
        untouched: bool,
        behind: Behind,
    ) -> Result<()> {
        let end = offset + data.len() as u64;
        let to_host = |at: u64| host + (at - plan.start);
        let head = self.old_contents(edges.from, offset, behind).await?;
        let tail = self.old_contents(end, edges.to, behind).await?;
        let nothing_to_add = (edges.from, edges.to) == (offset, end);
        let zeroes_are_there = untouched && head.is_none() && tail.is_none() && self.encryption.is_none();
        if nothing_to_add || zeroes_are_there {
            return self.write_data(offset, to_host(offset), data).await;
        }
        let head = head.unwrap_or_else(|| IoVector::zeroed((offset - edges.from) as usize));
        let tail = tail.unwrap_or_else(|| IoVector::zeroed((edges.to - end) as usize));
        self.event("cow_write").await;
        let whole = head.view().followed_by(data).followed_by(tail.view());
        self.write_data(edges.from, to_host(edges.from), whole).await
    }

    /// Makes the L2 entries name the clusters that were written.
    async fn link(&self, plan: &Plan, edges: &Edges, host: u64) -> Result<()> {
        let g = &self.geometry;
        self.barrier.store(true, SeqCst);
        let entry_size = g.l2_entry_size as usize;
        loop {
            let changed = self.l2.write(plan.place.slice, |bytes| {
                for (number, old) in plan.old.iter().enumerate() {
                    let start = plan.start + ((number as u64) << g.cluster_bits);
                    let place = host + ((number as u64) << g.cluster_bits);
                    let new = L2Entry {
                        descriptor: place | COPIED,
                        bitmap: self.written_bitmap(*old, start, edges),
                    };
                    new.store(g, bytes, plan.place.index + number);
                }
                let first = plan.place.index * entry_size;
                ((), first..first + plan.old.len() * entry_size)
            });
            match changed {
                Some(()) => break,
                None => self.load_l2(plan.place.slice).await?,
            }
        }
        if plan.reuse.is_none() {
            for old in &plan.old {
                self.release_entry(*old, Release::Other);
            }
        }
        Ok(())
    }

    /// The bitmap of a cluster at `start` of the disk after all that the edges enclose was written.
    fn written_bitmap(&self, old: L2Entry, start: u64, edges: &Edges) -> u64 {
        let g = &self.geometry;
        if !g.has_subclusters() {
            return 0;
        }
        let from = edges.from.max(start) - start;
        let to = edges.to.min(start + g.cluster_size) - start;
        let mask =
            subcluster_mask((from >> g.subcluster_bits) as u32, to.div_ceil(g.subcluster_size()) as u32);
        let old = if old.is_compressed() { 0 } else { old.bitmap };
        (old | mask) & !(mask << 32)
    }

    /// Releases what an entry names, if it names anything that is counted.
    pub(crate) fn release_entry(&self, entry: L2Entry, why: Release) {
        if entry.is_compressed() {
            let (offset, len) = self.geometry.compressed_range(entry.descriptor);
            self.release(offset, len, why);
        } else if entry.host_offset() != 0 && !self.has_data_file() {
            self.release(entry.host_offset(), self.geometry.cluster_size, why);
        }
    }
}

/// The bits of subclusters `from..to` in the lower half of a bitmap.
pub(crate) fn subcluster_mask(from: u32, to: u32) -> u64 {
    let below = |n: u32| if n >= 32 { ALL_ALLOCATED } else { (1u64 << n) - 1 };
    below(to) & !below(from)
}

pub(crate) fn part_of<'a>(data: &IoView<'a>, from: u64, len: u64) -> IoView<'a> {
    if from == 0 && len == data.len() as u64 {
        return data.clone();
    }
    data.slice(from as usize..(from + len) as usize)
}

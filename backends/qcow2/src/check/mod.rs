//! `check`: whether the refcounts are what the tables say, and repairing them.
//!
//! The check works on the tables as they are on disk, by reads of its own, while nobody else uses the image. It counts
//! the references to every cluster ([`references`](self::references)), compares them with the refcounts
//! ([`refcounts`](self::refcounts)), and then looks at the flags that depend on the refcounts
//! ([`copied`](self::copied)). Messages and counts are those of `qemu-img check` for the same image.
//!
//! # What repairing does, and in which order
//!
//! * A refcount that is too low is raised, one that is too high (a leak) is lowered, in its block. If a used cluster
//!   counts as free, or a block or the table is not sound, both are made anew ([`rebuild`](self::rebuild)) beside the old
//!   ones, and the header is switched over by one write.
//! * The flags follow, after a flush: until then a cluster's refcount may be higher than its flag says, which was so
//!   before.
//! * Snapshot table entries that lack fields are completed in a new table; the header is switched over.
//! * Only when all is right, the dirty and corrupt bits are cleared.
//!
//! Clusters that look leaked are left alone as long as a table could not be read or counted (it lies beyond the file's
//! end, is not aligned, or the storage fails): they may be what that table names. If reading fails, nothing at all is
//! written.

mod copied;
mod rebuild;
mod refcounts;
mod references;

use std::sync::Arc;

use rhea_block::{BlockError, BlockNode, CheckResult, Repair, Result};

use self::refcounts::{Blocks, Pass};
use crate::counts::Counts;
use crate::finish::finish;
use crate::geometry::Geometry;
use crate::header::{Header, Incompatible};
use crate::image::{Exclusive, Image};
use crate::snapshot::table::{self, Leniency, Snapshot, TableLocation};
use crate::structures::unsound;
use crate::write_back::Barrier;

/// A check under way.
struct Check<'a> {
    image: &'a Image,
    file: Arc<BlockNode>,
    file_length: u64,
    header: Header,
    geometry: Geometry,
    repair: Repair,
    result: CheckResult,
    /// Guest data lies in another file, whose clusters are not counted.
    external: bool,
    snapshots: Vec<Snapshot>,
    snapshot_table_length: u64,
    /// The snapshot table is to be written anew.
    snapshots_changed: bool,
    /// References to each cluster.
    counts: Counts,
    /// Clusters that entries of the active tables call theirs alone.
    copied: Counts,
    /// Clusters that they call shared.
    not_copied: Counts,
    /// A flag is known to be wrong.
    copied_suspect: bool,
    /// A table was not looked into, so that there may be references that were not counted.
    unseen: bool,
    /// Clusters that are compared: up to the end of the file or the last reference.
    clusters: u64,
    /// One more than the last cluster with a refcount or a reference.
    end_cluster: u64,
    /// The refcount blocks.
    blocks: Arc<Blocks>,
    /// The refcount table, if its clusters were counted: offset and length.
    table_counted: Option<(u64, u64)>,
    /// Errors that are not the refcounts'.
    wrong_elsewhere: u64,
    /// From this cluster on nothing is used, not even by the old refcount structures.
    free_from: u64,
    /// The refcount structures cannot be repaired in place.
    rebuild: bool,
    /// Something was written.
    wrote: bool,
}

/// Checks the image and repairs what is asked for.
pub(crate) async fn check(image: &Image, repair: Repair) -> Result<CheckResult> {
    let this = image.arc();
    finish(async move {
        let exclusive = this.exclusive().await;
        check_held(&this, repair, &exclusive).await
    })
    .await
}

/// Like [`check`], for who holds the image alone already.
pub(crate) async fn check_held(image: &Image, repair: Repair, held: &Exclusive<'_>) -> Result<CheckResult> {
    if image.file().is_read_only() && (repair.leaks || repair.errors) {
        return Err(BlockError::os(libc::EACCES));
    }
    if !image.file().is_read_only() {
        image.write_back().await?;
    }
    let mut check = Check::new(image, repair);
    let outcome = check.run().await;
    if check.wrote {
        let flushed = image.flush_file(Barrier::AfterEntries).await;
        let reloaded = image.reload().await;
        outcome.and(flushed).and(reloaded)?;
    } else {
        outcome?;
    }
    check.finish(held).await?;
    Ok(check.result)
}

/// Writes all refcounts anew, `1 << order` bits wide, for an image whose tables are sound.
pub(crate) async fn change_refcount_order(image: &Image, order: u32, _held: &Exclusive<'_>) -> Result<()> {
    image.write_back().await?;
    let mut check = Check::new(image, Repair::default());
    check.read_snapshots().await?;
    check.count_references().await?;
    if let Some(message) = check.result.messages.first() {
        return Err(unsound(message.clone()));
    }
    if check.rebuild || check.unseen || check.result.check_errors != 0 {
        return Err(unsound("the image's tables are not sound".into()));
    }
    let max = Geometry { refcount_order: order, ..check.geometry }.max_refcount();
    let mut too_high = None;
    check.counts.each_in(0, u64::MAX, |cluster, count| {
        too_high = (count > max).then_some((cluster, count));
        too_high.is_none()
    });
    if let Some((cluster, count)) = too_high {
        return Err(BlockError::invalid(format!(
            "Cannot decrease refcount entry width to {} bits: Cluster at offset 0x{:x} has a refcount of {count}",
            1 << order,
            cluster << check.geometry.cluster_bits
        )));
    }
    check.counts.set_max(max);
    let rebuilt = check.rebuild_refcounts(order).await;
    let reloaded = image.reload().await;
    rebuilt.and(reloaded)
}

impl<'a> Check<'a> {
    fn new(image: &'a Image, repair: Repair) -> Self {
        let (file, header, geometry) = (image.file(), image.header(), *image.geometry());
        let max = geometry.max_refcount();
        Self {
            image,
            file_length: file.length(),
            file,
            external: header.has_external_data(),
            header,
            geometry,
            repair,
            result: CheckResult::default(),
            snapshots: Vec::new(),
            snapshot_table_length: 0,
            snapshots_changed: false,
            counts: Counts::new(max),
            copied: Counts::new(1),
            not_copied: Counts::new(1),
            copied_suspect: false,
            unseen: false,
            clusters: 0,
            end_cluster: 0,
            blocks: Arc::default(),
            table_counted: None,
            wrong_elsewhere: 0,
            free_from: 0,
            rebuild: false,
            wrote: false,
        }
    }

    fn tell(&mut self, message: String) {
        self.result.tell(message);
    }

    /// Tells of something wrong that will not be repaired.
    fn corrupt(&mut self, times: u64, message: String) {
        self.result.corruptions += times;
        self.tell(message);
    }

    /// Tells of something wrong that is repaired now, or not.
    fn found(&mut self, repairing: bool, what: &str) {
        if repairing {
            self.result.corruptions_fixed += 1;
            self.tell(format!("Repairing {what}"));
        } else {
            self.corrupt(1, format!("ERROR {what}"));
        }
    }

    fn unreadable(&mut self, what: &str, offset: u64, error: &BlockError) {
        self.result.check_errors += 1;
        self.unseen = true;
        self.tell(format!("ERROR: could not read {what} at offset 0x{offset:x}: {error}"));
    }

    async fn run(&mut self) -> Result<()> {
        self.result.total_clusters = self.geometry.clusters(self.header.size);
        self.read_snapshots().await?;
        self.count_references().await?;
        self.compare_refcounts(Pass::Look).await?;
        let fixable = self.result.check_errors == 0;
        if fixable && self.rebuild && self.repair.errors {
            self.tell("Rebuilding refcount structure".into());
            self.rebuild_and_count().await?;
        } else if fixable && self.rebuild && self.repair.leaks {
            self.tell("ERROR need to rebuild refcount structures".into());
            self.result.check_errors += 1;
        } else if fixable && (self.repair.leaks || self.repair.errors) && self.refcounts_differ() {
            if self.unseen && self.result.leaks != 0 {
                self.tell("Leaked clusters are kept: a table that may name them could not be read".into());
            }
            self.compare_refcounts(Pass::Repair).await?;
        }
        self.result.image_end_offset = self.end_cluster.max(1) << self.geometry.cluster_bits;
        if self.result.check_errors != 0 {
            return Ok(());
        }
        if self.wrote {
            // The flags may only say what the refcounts on disk say already.
            self.image.flush_file(Barrier::BeforeEntries).await?;
        }
        let safe = self.result.corruptions == 0 && self.result.leaks == 0;
        let repair = self.repair.errors || (self.repair.leaks && safe);
        let looked_at = !self.wrote && !self.refcounts_differ() && !self.rebuild;
        if !(looked_at && self.copied_flags_are_right()) {
            self.check_copied_flags(repair).await?;
        }
        Ok(())
    }

    fn refcounts_differ(&self) -> bool {
        self.result.leaks != 0 || self.result.corruptions != 0
    }

    /// Makes the refcounts anew. What was wrong with them is then repaired; what is wrong elsewhere stays.
    async fn rebuild_and_count(&mut self) -> Result<()> {
        let elsewhere = self.wrong_elsewhere;
        self.rebuild_refcounts(self.geometry.refcount_order).await?;
        self.rebuild = false;
        self.result.corruptions_fixed += self.result.corruptions - elsewhere;
        self.result.corruptions = elsewhere;
        if !self.unseen {
            self.result.leaks_fixed += std::mem::take(&mut self.result.leaks);
        }
        Ok(())
    }

    async fn read_snapshots(&mut self) -> Result<()> {
        if self.header.nb_snapshots == 0 {
            return Ok(());
        }
        let location = TableLocation {
            offset: self.header.snapshots_offset,
            count: self.header.nb_snapshots,
            version: self.header.version,
            disk_size: self.header.size,
        };
        let leniency = if self.repair.errors { Leniency::Repair } else { Leniency::Strict };
        let read = table::read(&self.file, location, leniency)
            .await
            .map_err(|error| error.context("ERROR failed to read the snapshot table"))?;
        for (index, extra) in read.overlong {
            self.tell(format!(
                "Discarding too much extra metadata in snapshot table entry {index} ({extra} > {})",
                table::MAX_EXTRA
            ));
            self.result.corruptions_fixed += 1;
            self.snapshots_changed = true;
        }
        if read.left_out != 0 {
            self.tell(format!("Discarding {} overhanging snapshots", read.left_out));
            self.result.corruptions_fixed += u64::from(read.left_out);
            self.snapshots_changed = true;
        }
        for index in read.incomplete {
            self.found(self.repair.errors, &format!("snapshot table entry {index} is incomplete"));
            self.snapshots_changed |= self.repair.errors;
        }
        self.snapshots = read.snapshots;
        self.snapshot_table_length = read.length;
        Ok(())
    }

    /// What remains to be done by the image's own means, now that its refcounts are right.
    async fn finish(&mut self, held: &Exclusive<'_>) -> Result<()> {
        if self.result.check_errors != 0 || !(self.repair.leaks || self.repair.errors) {
            return Ok(());
        }
        if self.snapshots_changed {
            // A table that lies beyond the file's end was not counted.
            let end = self.header.snapshots_offset.saturating_add(self.snapshot_table_length);
            let counted = end.saturating_sub(self.file_length) < self.geometry.cluster_size;
            let old = if counted { self.snapshot_table_length } else { 0 };
            crate::snapshot::replace_table(self.image, &self.snapshots, old, held).await?;
            let end = self.file.length().div_ceil(self.geometry.cluster_size);
            self.result.image_end_offset =
                self.result.image_end_offset.max(end << self.geometry.cluster_bits);
        }
        let marks = Incompatible::DIRTY | Incompatible::CORRUPT;
        if self.result.corruptions == 0 && self.image.header().incompatible.intersects(marks) {
            self.image.flush_file(Barrier::BeforeHeader).await?;
            self.image.update_header(move |header| header.incompatible -= marks).await?;
            self.image.flush_file(Barrier::AfterHeader).await?;
            self.image.note_header(&self.image.header());
        }
        Ok(())
    }
}

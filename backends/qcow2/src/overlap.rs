//! Overlap checks: a write that would hit metadata it is not meant for is caught before it happens.
//!
//! They cost little: a filter of bits over the clusters of the file answers "no metadata here" for almost every write;
//! only where it cannot, the tables are gone through.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use bitflags::bitflags;
use parking_lot::Mutex;
use rhea_block::Result;

use crate::geometry::{OFFSET_MASK, REFCOUNT_TABLE_MASK};
use crate::image::Image;

bitflags! {
    /// Kinds of metadata, as the options `overlap-check.*` name them.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Sections: u32 {
        /// `main-header`
        const MAIN_HEADER = 1 << 0;
        /// `active-l1`
        const ACTIVE_L1 = 1 << 1;
        /// `active-l2`
        const ACTIVE_L2 = 1 << 2;
        /// `refcount-table`
        const REFCOUNT_TABLE = 1 << 3;
        /// `refcount-block`
        const REFCOUNT_BLOCK = 1 << 4;
        /// `snapshot-table`
        const SNAPSHOT_TABLE = 1 << 5;
        /// `inactive-l1`
        const INACTIVE_L1 = 1 << 6;
        /// `inactive-l2`
        const INACTIVE_L2 = 1 << 7;
        /// `bitmap-directory`
        const BITMAP_DIRECTORY = 1 << 8;
    }
}

impl Sections {
    /// `overlap-check=constant`
    pub const CONSTANT: Self = Self::MAIN_HEADER
        .union(Self::ACTIVE_L1)
        .union(Self::REFCOUNT_TABLE)
        .union(Self::SNAPSHOT_TABLE)
        .union(Self::BITMAP_DIRECTORY);
    /// `overlap-check=cached`, the default
    pub const CACHED: Self =
        Self::CONSTANT.union(Self::ACTIVE_L2).union(Self::REFCOUNT_BLOCK).union(Self::INACTIVE_L1);

    /// The option of each section, below `overlap-check.`.
    pub const OPTIONS: [(Self, &'static str); 9] = [
        (Self::MAIN_HEADER, "main-header"),
        (Self::ACTIVE_L1, "active-l1"),
        (Self::ACTIVE_L2, "active-l2"),
        (Self::REFCOUNT_TABLE, "refcount-table"),
        (Self::REFCOUNT_BLOCK, "refcount-block"),
        (Self::SNAPSHOT_TABLE, "snapshot-table"),
        (Self::INACTIVE_L1, "inactive-l1"),
        (Self::INACTIVE_L2, "inactive-l2"),
        (Self::BITMAP_DIRECTORY, "bitmap-directory"),
    ];

    /// From `none`, `constant`, `cached` or `all`.
    pub fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "none" => Self::empty(),
            "constant" => Self::CONSTANT,
            "cached" => Self::CACHED,
            "all" => Self::all(),
            _ => return None,
        })
    }

    /// What messages call it.
    fn describe(self) -> &'static str {
        match self {
            Self::MAIN_HEADER => "qcow2_header",
            Self::ACTIVE_L1 => "active L1 table",
            Self::ACTIVE_L2 => "active L2 table",
            Self::REFCOUNT_TABLE => "refcount table",
            Self::REFCOUNT_BLOCK => "refcount block",
            Self::SNAPSHOT_TABLE => "snapshot table",
            Self::INACTIVE_L1 => "inactive L1 table",
            Self::INACTIVE_L2 => "inactive L2 table",
            _ => "bitmap directory",
        }
    }
}

/// Bits of the filter, at most.
const MAX_BITS: u64 = 1 << 23;

/// Conflicts that are listed, at most.
const MAX_CONFLICTS: usize = 1 << 16;

/// Claims on clusters that are sorted at a time: 8 MiB.
const CLAIMS: usize = 1 << 20;

/// A claim is a cluster's number, and in so many low bits the number of the section's bit.
const SECTION_BITS: u32 = 4;
const SECTION_MASK: u64 = (1 << SECTION_BITS) - 1;

/// A range of the file that holds metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protected {
    /// Bytes from the file's start.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

#[derive(Default)]
struct State {
    filter: Vec<u64>,
    /// Sections that others keep the list of: snapshots and bitmaps.
    lists: BTreeMap<u32, Vec<Protected>>,
    conflicts: Conflicts,
}

/// Clusters that two tables claim, found at opening: neither may be written.
enum Conflicts {
    /// These.
    Listed(BTreeMap<u64, (Sections, Sections)>),
    /// More than are listed: who wants to know of a cluster goes through the tables.
    Many,
}

impl Default for Conflicts {
    fn default() -> Self {
        Self::Listed(BTreeMap::new())
    }
}

/// Sorts claims, and keeps the first and the last on each cluster.
fn keep_two_of_each(claims: &mut Vec<u64>) {
    claims.sort_unstable();
    let mut kept = 0;
    for at in 0..claims.len() {
        let claim = claims[at];
        let same = |other: u64| other >> SECTION_BITS == claim >> SECTION_BITS;
        if kept >= 2 && same(claims[kept - 1]) && same(claims[kept - 2]) {
            claims[kept - 1] = claim;
        } else {
            claims[kept] = claim;
            kept += 1;
        }
    }
    claims.truncate(kept);
}

/// What the checks know.
pub(crate) struct OverlapChecks {
    sections: Mutex<Sections>,
    state: Mutex<State>,
    mask: u64,
}

impl OverlapChecks {
    /// For a file of so many clusters.
    pub(crate) fn new(sections: Sections, clusters: u64) -> Self {
        let bits = clusters.saturating_mul(2).clamp(4096, MAX_BITS).next_power_of_two();
        let state = State { filter: vec![0; (bits / 64) as usize], ..State::default() };
        Self { sections: Mutex::new(sections), state: Mutex::new(state), mask: bits - 1 }
    }

    pub(crate) fn set_sections(&self, sections: Sections) {
        *self.sections.lock() = sections;
    }

    /// Notes that clusters hold metadata now.
    pub(crate) fn note(&self, first: u64, count: u64) {
        let mut state = self.state.lock();
        for cluster in first..first.saturating_add(count.min(self.mask + 1)) {
            let bit = cluster & self.mask;
            state.filter[(bit / 64) as usize] |= 1 << (bit % 64);
        }
    }

    fn may_overlap(&self, first: u64, end: u64) -> bool {
        let state = self.state.lock();
        end - first > self.mask
            || (first..end).any(|cluster| {
                let bit = cluster & self.mask;
                state.filter[(bit / 64) as usize] >> (bit % 64) & 1 == 1
            })
    }
}

impl Image {
    /// Sets the ranges of a section that snapshots or bitmaps take up, replacing those set before.
    pub(crate) fn protect(&self, section: Sections, ranges: Vec<Protected>) {
        for range in &ranges {
            let first = range.offset >> self.geometry.cluster_bits;
            self.overlap.note(first, self.geometry.clusters(range.len) + 1);
        }
        self.overlap.state.lock().lists.insert(section.bits(), ranges);
    }

    /// Fills the filter from the tables, and finds clusters that two tables claim.
    pub(crate) fn note_tables(&self) {
        let mut claims = 0_u64;
        let mut filter = vec![0_u64; (self.overlap.mask / 64 + 1) as usize];
        self.each_claim(&mut |cluster, _| {
            let bit = cluster & self.overlap.mask;
            filter[(bit / 64) as usize] |= 1 << (bit % 64);
            claims += 1;
        });
        let conflicts = self.find_conflicts(claims.div_ceil(CLAIMS as u64 / 2).max(1));
        let mut state = self.overlap.state.lock();
        state.filter.iter_mut().zip(filter).for_each(|(word, bits)| *word |= bits);
        state.conflicts = conflicts;
    }

    /// Calls back for every cluster that the header and the active tables claim, with what it would be.
    fn each_claim(&self, found: &mut dyn FnMut(u64, Sections)) {
        let bits = self.geometry.cluster_bits;
        found(0, Sections::MAIN_HEADER);
        {
            let l1 = self.l1.read();
            let first = l1.offset >> bits;
            let clusters = self.geometry.clusters(8 * l1.entries.len() as u64);
            (first..first + clusters).for_each(|c| found(c, Sections::ACTIVE_L1));
            let tables = l1.entries.iter().map(|e| (e & OFFSET_MASK) >> bits);
            tables.filter(|&c| c != 0).for_each(|c| found(c, Sections::ACTIVE_L2));
        }
        let table = self.refcounts.table.lock();
        let first = table.offset >> bits;
        let clusters = self.geometry.clusters(8 * table.entries.len() as u64);
        (first..first + clusters).for_each(|c| found(c, Sections::REFCOUNT_TABLE));
        let blocks = table.entries.iter().map(|e| (e & REFCOUNT_TABLE_MASK) >> bits);
        blocks.filter(|&c| c != 0).for_each(|c| found(c, Sections::REFCOUNT_BLOCK));
    }

    /// Sorts the claims, some of the clusters at a time: there may be millions.
    fn find_conflicts(&self, passes: u64) -> Conflicts {
        let hasher = RandomState::new();
        let mut listed = BTreeMap::new();
        for pass in 0..passes {
            let mut claims = Vec::with_capacity(if passes == 1 { 0 } else { CLAIMS });
            let mut too_many = false;
            self.each_claim(&mut |cluster, section| {
                if passes != 1 && hasher.hash_one(cluster) % passes != pass {
                    return;
                }
                if claims.len() == CLAIMS {
                    keep_two_of_each(&mut claims);
                    too_many |= claims.len() > CLAIMS / 4 * 3;
                    claims.truncate(CLAIMS / 4 * 3);
                }
                claims.push(cluster << SECTION_BITS | u64::from(section.bits().trailing_zeros()));
            });
            keep_two_of_each(&mut claims);
            for pair in claims.windows(2).filter(|p| p[0] >> SECTION_BITS == p[1] >> SECTION_BITS) {
                let section = |claim: u64| Sections::from_bits_retain(1 << (claim & SECTION_MASK));
                listed.insert(pair[0] >> SECTION_BITS, (section(pair[0]), section(pair[1])));
            }
            if too_many || listed.len() > MAX_CONFLICTS {
                return Conflicts::Many;
            }
        }
        Conflicts::Listed(listed)
    }

    /// The sections that claim clusters of a range together with another one.
    fn conflicts_within(&self, clusters: Range<u64>) -> Sections {
        // The tables are not looked at with the state locked.
        if let Conflicts::Listed(listed) = &self.overlap.state.lock().conflicts {
            return listed.range(clusters).fold(Sections::empty(), |all, (_, (a, b))| all | *a | *b);
        }
        let mut all = Sections::empty();
        let mut first_claims: BTreeMap<u64, Sections> = BTreeMap::new();
        self.each_claim(&mut |cluster, section| {
            if clusters.contains(&cluster)
                && let Some(other) = first_claims.insert(cluster, section)
            {
                all |= section | other;
            }
        });
        all
    }

    /// The section that a range of the file overlaps, among those that are checked and not among `ignored`.
    fn overlapping(&self, offset: u64, len: u64, ignored: Sections) -> Option<Sections> {
        let sections = *self.overlap.sections.lock() - ignored;
        let bits = self.geometry.cluster_bits;
        let (first, end) = (offset >> bits, self.geometry.clusters(offset.saturating_add(len)));
        if sections.is_empty() || first >= end || !self.overlap.may_overlap(first, end) {
            return None;
        }
        let hit = |start: u64, clusters: u64| start < end && first < start.saturating_add(clusters);
        let mut found = None;
        let mut test = |section: Sections, start: u64, clusters: u64| {
            if found.is_none() && sections.contains(section) && hit(start, clusters) {
                found = Some(section);
            }
        };
        test(Sections::MAIN_HEADER, 0, 1);
        {
            let l1 = self.l1.read();
            let bytes = 8 * l1.entries.len() as u64;
            test(Sections::ACTIVE_L1, l1.offset >> bits, self.geometry.clusters(bytes));
            for entry in &l1.entries {
                if entry & OFFSET_MASK != 0 {
                    test(Sections::ACTIVE_L2, (entry & OFFSET_MASK) >> bits, 1);
                }
            }
        }
        {
            let table = self.refcounts.table.lock();
            let bytes = 8 * table.entries.len() as u64;
            test(Sections::REFCOUNT_TABLE, table.offset >> bits, self.geometry.clusters(bytes));
            for entry in &table.entries {
                if entry & REFCOUNT_TABLE_MASK != 0 {
                    test(Sections::REFCOUNT_BLOCK, (entry & REFCOUNT_TABLE_MASK) >> bits, 1);
                }
            }
        }
        for (section, ranges) in &self.overlap.state.lock().lists {
            for range in ranges {
                let start = range.offset >> bits;
                let stop = self.geometry.clusters(range.offset.saturating_add(range.len));
                test(Sections::from_bits_retain(*section), start, stop.saturating_sub(start));
            }
        }
        found
    }

    /// What is wrong with a write to a range of the file, other than to the metadata in `own`; for
    /// [`Image::mark_corrupt`].
    pub(crate) fn overlap_of(&self, offset: u64, len: u64, own: Sections) -> Option<String> {
        self.overlapping(offset, len, own).map(problem)
    }

    /// What is wrong with writing a part of a table of the kind `own` in its place: another table was found there at opening,
    /// or one of a snapshot or of the bitmaps is there.
    ///
    /// Tables that are made while the image is open need no look: room for them was allocated, and checked then.
    pub(crate) fn table_conflict(&self, offset: u64, len: u64, own: Sections) -> Option<String> {
        let bits = self.geometry.cluster_bits;
        let (first, end) = (offset >> bits, self.geometry.clusters(offset.saturating_add(len)));
        let checked = *self.overlap.sections.lock() - own;
        let mut hit = self.conflicts_within(first..end) & checked;
        let state = self.overlap.state.lock();
        for (section, ranges) in &state.lists {
            let section = Sections::from_bits_retain(*section);
            let there = |range: &Protected| {
                let stop = self.geometry.clusters(range.offset.saturating_add(range.len));
                range.len > 0 && range.offset >> bits < end && first < stop
            };
            if checked.contains(section) && ranges.iter().any(there) {
                hit |= section;
            }
        }
        hit.iter().next().map(problem)
    }

    /// Fails, and marks the image corrupt, if a table's write would hit something else.
    pub(crate) async fn check_table(&self, offset: u64, len: u64, own: Sections) -> Result<()> {
        match self.table_conflict(offset, len, own) {
            None => Ok(()),
            Some(problem) => Err(self.mark_corrupt(problem).await),
        }
    }
}

fn problem(hit: Sections) -> String {
    format!("Preventing invalid write on metadata (overlaps with {})", hit.describe())
}

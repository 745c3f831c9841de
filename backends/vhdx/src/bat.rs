//! The block allocation table: [MS-VHDX] section 2.5. Entries, and a bounded cache of the table in memory.
//!
//! The cache holds pages of 4 KiB, the unit in which the log takes changes. A page is read from the file only while it
//! is not cached, and changed only while it is; a changed page stays until a commit has written it to its place. So a
//! page that is read is never older than what was cached before.

use std::collections::BTreeMap;

use async_lock::Mutex as AsyncMutex;
use parking_lot::Mutex;
use rhea_block::{BlockError, BlockNode, Result};

use crate::layout::{MIB, Region};
use crate::log::SECTOR;

/// Entries of a page.
pub(crate) const ENTRIES: u64 = SECTOR / 8;
/// Pages in memory: 32 MiB.
const MAX_PAGES: usize = 8192;

/// What a payload block's entry says (section 2.5.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    NotPresent = 0,
    Undefined = 1,
    Zero = 2,
    Unmapped = 3,
    FullyPresent = 6,
    PartiallyPresent = 7,
}

/// An entry of a payload block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry(pub(crate) u64);

impl Entry {
    pub(crate) fn new(state: State, offset: u64) -> Self {
        debug_assert!(offset.is_multiple_of(MIB));
        Self(offset | state as u64)
    }

    /// `None`: a value the specification reserves.
    pub(crate) fn state(self) -> Option<State> {
        Some(match self.0 & 7 {
            0 => State::NotPresent,
            1 => State::Undefined,
            2 => State::Zero,
            3 => State::Unmapped,
            6 => State::FullyPresent,
            7 => State::PartiallyPresent,
            _ => return None,
        })
    }

    /// Where the block lies in the file.
    pub(crate) fn offset(self) -> u64 {
        self.0 & !(MIB - 1)
    }
}

struct Page {
    bytes: Box<[u8; SECTOR as usize]>,
    /// Changed since it was last taken by a commit.
    dirty: bool,
    /// Commits that are writing it to its place.
    pinned: u32,
    used: u64,
}

#[derive(Default)]
struct Pages {
    pages: BTreeMap<u64, Page>,
    dirty: usize,
    clock: u64,
}

/// The table of an open image.
pub(crate) struct Table {
    region: Region,
    state: Mutex<Pages>,
    /// Held while a page is read.
    loading: AsyncMutex<()>,
}

impl Table {
    pub(crate) fn new(region: Region) -> Self {
        Self { region, state: Mutex::default(), loading: AsyncMutex::new(()) }
    }

    /// Entries there is room for.
    pub(crate) fn capacity(&self) -> u64 {
        self.region.len / 8
    }

    /// Where a page lies in the file.
    pub(crate) fn page_offset(&self, page: u64) -> u64 {
        self.region.offset + page * SECTOR
    }

    /// Pages with changes that no commit has taken.
    pub(crate) fn dirty_pages(&self) -> usize {
        self.state.lock().dirty
    }

    /// Calls `visit` with the bytes of the page that has an entry; `None` if it is not cached.
    fn cached<T>(&self, index: u64, visit: impl FnOnce(&mut Page, &mut usize) -> T) -> Option<T> {
        let mut state = self.state.lock();
        state.clock += 1;
        let Pages { pages, dirty, clock } = &mut *state;
        let page = pages.get_mut(&(index / ENTRIES))?;
        page.used = *clock;
        Some(visit(page, dirty))
    }

    async fn with_page<T>(
        &self,
        file: &BlockNode,
        index: u64,
        mut visit: impl FnMut(&mut Page, &mut usize) -> T,
    ) -> Result<T> {
        assert!(index < self.capacity(), "the table's size was checked against its region");
        loop {
            if let Some(value) = self.cached(index, &mut visit) {
                return Ok(value);
            }
            let _loading = self.loading.lock().await;
            let number = index / ENTRIES;
            if self.state.lock().pages.contains_key(&number) {
                continue;
            }
            let mut bytes = Box::new([0; SECTOR as usize]);
            file.read_bytes(self.page_offset(number), &mut bytes[..]).await?;
            let mut state = self.state.lock();
            state.make_room();
            let used = state.clock;
            state.pages.insert(number, Page { bytes, dirty: false, pinned: 0, used });
        }
    }

    /// Reads an entry.
    pub(crate) async fn get(&self, file: &BlockNode, index: u64) -> Result<Entry> {
        let at = (index % ENTRIES) as usize * 8;
        let read = |page: &mut Page, _: &mut usize| {
            u64::from_le_bytes(page.bytes[at..at + 8].try_into().expect("eight bytes"))
        };
        Ok(Entry(self.with_page(file, index, read).await?))
    }

    /// Changes an entry in memory, if it is still as the caller believes; the next commit writes it. Whether it was.
    pub(crate) async fn replace(&self, file: &BlockNode, index: u64, old: Entry, new: Entry) -> Result<bool> {
        let at = (index % ENTRIES) as usize * 8;
        let change = |page: &mut Page, dirty: &mut usize| {
            if page.bytes[at..at + 8] != old.0.to_le_bytes() {
                return false;
            }
            page.bytes[at..at + 8].copy_from_slice(&new.0.to_le_bytes());
            *dirty += usize::from(!page.dirty);
            page.dirty = true;
            true
        };
        self.with_page(file, index, change).await
    }

    /// Takes up to `max` changed pages to be written. Until [`Taken::written`] is called they are not forgotten, and
    /// count as changed again if that never happens.
    pub(crate) fn take_dirty(&self, max: usize) -> Taken<'_> {
        let mut state = self.state.lock();
        let mut pages = vec![];
        let mut left = state.dirty.min(max);
        if left > 0 {
            for (number, page) in &mut state.pages {
                if page.dirty {
                    page.dirty = false;
                    page.pinned += 1;
                    pages.push((*number, page.bytes.clone()));
                    left -= 1;
                    if left == 0 {
                        break;
                    }
                }
            }
            state.dirty -= pages.len();
        }
        Taken { table: self, pages }
    }
}

impl Pages {
    /// Makes place for a page by forgetting those that were not used for the longest time.
    fn make_room(&mut self) {
        if self.pages.len() < MAX_PAGES {
            return;
        }
        let idle = |page: &Page| !page.dirty && page.pinned == 0;
        let mut ages: Vec<u64> = self.pages.values().filter(|p| idle(p)).map(|p| p.used).collect();
        if ages.is_empty() {
            return;
        }
        let middle = ages.len() / 8;
        let (_, age, _) = ages.select_nth_unstable(middle);
        let age = *age;
        self.pages.retain(|_, page| !idle(page) || page.used > age);
    }
}

/// Changed pages on their way to the file.
pub(crate) struct Taken<'a> {
    table: &'a Table,
    pub(crate) pages: Vec<(u64, Box<[u8; SECTOR as usize]>)>,
}

impl Taken<'_> {
    /// All of them are in their places.
    pub(crate) fn written(mut self) {
        let pages = std::mem::take(&mut self.pages);
        let mut state = self.table.state.lock();
        for (number, _) in pages {
            if let Some(page) = state.pages.get_mut(&number) {
                page.pinned -= 1;
            }
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut state = self.table.state.lock();
        let Pages { pages, dirty, .. } = &mut *state;
        for (number, _) in &self.pages {
            if let Some(page) = pages.get_mut(number) {
                page.pinned -= 1;
                *dirty += usize::from(!page.dirty);
                page.dirty = true;
            }
        }
    }
}

/// Checks entries against the file: what `check` tells of, and opening refuses.
pub(crate) struct EntryCheck {
    pub(crate) file_length: u64,
    pub(crate) block_size: u64,
    pub(crate) disk_size: u64,
    /// The log, the table and the metadata.
    pub(crate) regions: [(&'static str, Region); 3],
}

impl EntryCheck {
    /// Bytes of a block that belong to the disk. The file of a fixed image may end with the disk's last byte.
    pub(crate) fn used(&self, block: u64) -> u64 {
        self.disk_size.saturating_sub(block.saturating_mul(self.block_size)).min(self.block_size)
    }

    /// Where the data of payload block `block` lies; `None`: it has none and reads as zeroes.
    pub(crate) fn place(&self, block: u64, entry: Entry) -> Result<Option<u64>> {
        let offset = entry.offset();
        match entry.state() {
            Some(State::NotPresent | State::Undefined | State::Zero | State::Unmapped) => return Ok(None),
            Some(State::FullyPresent) => {}
            Some(State::PartiallyPresent) => {
                return Err(BlockError::malformed(format!(
                    "VHDX BAT entry {block} is partially present in an image without a parent"
                )));
            }
            None => {
                return Err(BlockError::malformed(format!(
                    "VHDX BAT entry {block} has the reserved state {}",
                    entry.0 & 7
                )));
            }
        }
        let beyond = |what, offset| {
            Err(BlockError::malformed(format!(
                "VHDX BAT entry {block} {what} offset {offset} points after end of file ({}). Image has probably been \
                 truncated.",
                self.file_length
            )))
        };
        if offset > self.file_length {
            return beyond("start", offset);
        }
        let end = offset + self.used(block);
        if end > self.file_length {
            return beyond("end", end);
        }
        if offset < MIB {
            return Err(BlockError::malformed(format!("VHDX BAT entry {block} lies in the headers")));
        }
        let place = Region { offset, len: self.block_size };
        match self.regions.iter().find(|(_, region)| region.overlaps(place)) {
            Some((name, _)) => {
                Err(BlockError::malformed(format!("VHDX BAT entry {block} overlaps the {name} region")))
            }
            None => Ok(Some(offset)),
        }
    }
}

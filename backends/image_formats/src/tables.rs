//! The cache of an image's tables: bounded, and written back in order.
//!
//! Tables are read and cached in pages. Changes stay in memory until [`TableCache::snapshot`] takes them all and
//! [`Snapshot::write`] stores them; in between, the caller sees to it that what the changes refer to is on stable storage.
//! Memory is the truth: a page with changes is never dropped, and a write that fails or is given up leaves its pages
//! changed, so that the next one stores them again.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use rhea_block::{Edge, Result, ResultExt};

/// Bytes in a page of a table.
const PAGE: u64 = 32 << 10;

/// Pages in memory: 16 MiB.
const MAX_PAGES: usize = 512;

/// With more changed pages than this (4 MiB), they should be written back.
const MANY_DIRTY: usize = 128;

/// A table in the image file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table {
    /// Where it starts in the file.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) len: u64,
}

/// Which tables are written back first: those that others refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rank {
    /// Refers to data.
    Leaf,
    /// Refers to leaf tables.
    Root,
}

struct Page {
    bytes: Box<[u8]>,
    rank: Rank,
    /// Changed bytes; empty: none.
    dirty: Range<usize>,
    /// A snapshot has changes of it that are not in the file yet.
    pinned: bool,
    used: u64,
}

#[derive(Default)]
struct State {
    pages: HashMap<u64, Page>,
    clock: u64,
}

/// Tables of one image file.
pub(crate) struct TableCache {
    file: Arc<Edge>,
    state: Mutex<State>,
    /// Held while a page is read, so that nobody caches what the file had before a change.
    loading: async_lock::Mutex<()>,
}

impl TableCache {
    pub(crate) fn new(file: Arc<Edge>) -> Self {
        Self { file, state: Mutex::default(), loading: async_lock::Mutex::new(()) }
    }

    fn page_of(table: Table, at: u64) -> (u64, usize, usize) {
        assert!(at < table.len, "entry beyond its table");
        let start = at / PAGE * PAGE;
        let len = PAGE.min(table.len - start);
        (table.offset + start, len as usize, (at - start) as usize)
    }

    /// Calls `read` with the table's bytes from `at` on, as far as one page goes.
    pub(crate) async fn get<R>(
        &self,
        table: Table,
        at: u64,
        read: impl FnOnce(&[u8]) -> R + Send,
    ) -> Result<R> {
        let (key, len, skip) = Self::page_of(table, at);
        loop {
            {
                let mut state = self.state.lock();
                state.clock += 1;
                let clock = state.clock;
                if let Some(page) = state.pages.get_mut(&key) {
                    page.used = clock;
                    // A malformed image may have tables of different kinds overlap.
                    let bytes = page.bytes.get(skip..).unwrap_or_default();
                    return Ok(read(bytes));
                }
            }
            self.load(key, len).await?;
        }
    }

    /// Changes bytes within one page.
    pub(crate) async fn set(&self, table: Table, rank: Rank, at: u64, bytes: &[u8]) -> Result<()> {
        let (key, len, skip) = Self::page_of(table, at);
        loop {
            {
                let mut state = self.state.lock();
                if let Some(page) = state.pages.get_mut(&key) {
                    let range = skip..skip + bytes.len();
                    let Some(target) = page.bytes.get_mut(range.clone()) else {
                        return Err(rhea_block::BlockError::malformed("tables of the image overlap"));
                    };
                    target.copy_from_slice(bytes);
                    page.rank = rank;
                    page.dirty = join(&page.dirty, &range);
                    return Ok(());
                }
            }
            self.load(key, len).await?;
        }
    }

    async fn load(&self, key: u64, len: usize) -> Result<()> {
        let _loading = self.loading.lock().await;
        if self.state.lock().pages.contains_key(&key) {
            return Ok(());
        }
        let mut bytes = vec![0; len].into_boxed_slice();
        self.file.node().debug_event("l2_load").await;
        self.file.node().read_bytes(key, &mut bytes).await.context("Could not read the image's tables")?;
        let mut state = self.state.lock();
        while state.pages.len() >= MAX_PAGES {
            let idle = state.pages.iter().filter(|(_, p)| p.dirty.is_empty() && !p.pinned);
            let Some(oldest) = idle.min_by_key(|(_, p)| p.used).map(|(k, _)| *k) else { break };
            state.pages.remove(&oldest);
        }
        let used = state.clock;
        state.pages.insert(key, Page { bytes, rank: Rank::Leaf, dirty: 0..0, pinned: false, used });
        Ok(())
    }

    /// Forgets unchanged pages, for somebody else has written to the file.
    pub(crate) fn forget(&self) {
        self.state.lock().pages.retain(|_, page| !page.dirty.is_empty() || page.pinned);
    }

    /// Whether so much has changed that it should be written back soon.
    pub(crate) fn is_full(&self) -> bool {
        let state = self.state.lock();
        state.pages.len() > MANY_DIRTY
            && state.pages.values().filter(|p| !p.dirty.is_empty()).count() > MANY_DIRTY
    }

    /// Takes all changes, to write them back. One at a time.
    pub(crate) fn snapshot(&self) -> Snapshot<'_> {
        let mut state = self.state.lock();
        let mut pieces = Vec::new();
        for (&key, page) in &mut state.pages {
            if !page.dirty.is_empty() {
                let range = std::mem::replace(&mut page.dirty, 0..0);
                page.pinned = true;
                pieces.push(Piece { key, rank: page.rank, bytes: page.bytes[range.clone()].into(), range });
            }
        }
        pieces.sort_by_key(|piece| piece.key);
        Snapshot { cache: self, pieces }
    }
}

fn join(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    match a.is_empty() {
        true => b.clone(),
        false => a.start.min(b.start)..a.end.max(b.end),
    }
}

struct Piece {
    key: u64,
    rank: Rank,
    range: Range<usize>,
    bytes: Box<[u8]>,
}

/// Changes on their way to the file. What is not written when this is dropped is a change again.
pub(crate) struct Snapshot<'a> {
    cache: &'a TableCache,
    pieces: Vec<Piece>,
}

impl Snapshot<'_> {
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Whether there are changes of a rank.
    pub(crate) fn has(&self, rank: Rank) -> bool {
        self.pieces.iter().any(|piece| piece.rank == rank)
    }

    /// Stores the changes of a rank.
    pub(crate) async fn write(&mut self, rank: Rank) -> Result<()> {
        while let Some(index) = self.pieces.iter().position(|piece| piece.rank == rank) {
            let piece = &self.pieces[index];
            let at = piece.key + piece.range.start as u64;
            let file = self.cache.file.node();
            file.debug_event(if rank == Rank::Leaf { "l2_update" } else { "l1_update" }).await;
            file.write_bytes(at, &piece.bytes).await?;
            let piece = self.pieces.remove(index);
            if let Some(page) = self.cache.state.lock().pages.get_mut(&piece.key) {
                page.pinned = false;
            }
        }
        Ok(())
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        let mut state = self.cache.state.lock();
        for piece in &self.pieces {
            if let Some(page) = state.pages.get_mut(&piece.key) {
                page.dirty = join(&page.dirty, &piece.range);
                page.pinned = false;
            }
        }
    }
}

//! Grain tables in memory: a bounded cache, and the changes that wait to be written.
//!
//! A table is read from its file only while it is not cached and changed only while it is; a changed one stays until a
//! commit has written it. So a table that is read is never older than what was cached before.

use std::collections::BTreeMap;

use async_lock::Mutex as AsyncMutex;
use parking_lot::Mutex;
use rhea_block::{BlockError, BlockNode, Result};

use crate::sparse::{SECTOR, Sparse};

/// Entries in memory: 16 MiB.
const MAX_ENTRIES: usize = 4 << 20;

/// Which table: the extent's number and the table's in it.
pub(crate) type Key = (usize, usize);

struct Table {
    entries: Vec<u32>,
    dirty: bool,
    pinned: u32,
    used: u64,
}

#[derive(Default)]
struct State {
    tables: BTreeMap<Key, Table>,
    entries: usize,
    dirty: usize,
    clock: u64,
}

impl State {
    /// Makes place by forgetting what was not used for the longest time.
    fn make_room(&mut self, entries: usize) {
        if self.entries + entries <= MAX_ENTRIES {
            return;
        }
        let idle = |t: &Table| !t.dirty && t.pinned == 0;
        let mut ages: Vec<u64> = self.tables.values().filter(|t| idle(t)).map(|t| t.used).collect();
        if ages.is_empty() {
            return;
        }
        let nth = ages.len() / 8;
        let age = *ages.select_nth_unstable(nth).1;
        self.tables.retain(|_, table| !idle(table) || table.used > age);
        self.entries = self.tables.values().map(|t| t.entries.len()).sum();
    }
}

/// The grain tables of all extents of an image.
#[derive(Default)]
pub(crate) struct Tables {
    state: Mutex<State>,
    loading: AsyncMutex<()>,
}

/// Where a table lies; an error unless it is within the file, behind the header.
pub(crate) fn place(file: &BlockNode, extent: &Sparse, directory: &[u32], table: usize) -> Result<u64> {
    let at = u64::from(directory[table]) * SECTOR;
    if at < SECTOR || at + extent.entries_per_table * extent.entry_len() > file.length() {
        return Err(BlockError::malformed(format!(
            "vmdk grain directory: entry {table} is {}",
            directory[table]
        )));
    }
    Ok(at)
}

/// Reads a table as it is in the file.
pub(crate) async fn read(
    file: &BlockNode,
    extent: &Sparse,
    directory: &[u32],
    table: usize,
) -> Result<Vec<u32>> {
    let mut bytes = vec![0; (extent.entries_per_table * extent.entry_len()) as usize];
    file.debug_event("l2_load").await;
    file.read_bytes(place(file, extent, directory, table)?, &mut bytes).await?;
    if extent.grains_at.is_some() {
        return crate::sesparse::table_entries(&bytes);
    }
    Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

impl Tables {
    /// Looks at a table's entries; it must exist.
    pub(crate) async fn with<T>(
        &self,
        file: &BlockNode,
        extent: &Sparse,
        key: Key,
        visit: impl FnOnce(&[u32]) -> T,
    ) -> Result<T> {
        loop {
            {
                let mut state = self.state.lock();
                state.clock += 1;
                let clock = state.clock;
                if let Some(table) = state.tables.get_mut(&key) {
                    table.used = clock;
                    return Ok(visit(&table.entries));
                }
            }
            self.load(file, extent, key).await?;
        }
    }

    async fn load(&self, file: &BlockNode, extent: &Sparse, key: Key) -> Result<()> {
        let _loading = self.loading.lock().await;
        if self.state.lock().tables.contains_key(&key) {
            return Ok(());
        }
        let entries = read(file, extent, &extent.directory, key.1).await?;
        let mut state = self.state.lock();
        state.make_room(entries.len());
        state.entries += entries.len();
        let used = state.clock;
        state.tables.insert(key, Table { entries, dirty: false, pinned: 0, used });
        Ok(())
    }

    /// Changes entries from `first` on.
    pub(crate) async fn set(
        &self,
        file: &BlockNode,
        extent: &Sparse,
        key: Key,
        first: usize,
        values: &[u32],
    ) -> Result<()> {
        loop {
            {
                let mut state = self.state.lock();
                let State { tables, dirty, .. } = &mut *state;
                if let Some(table) = tables.get_mut(&key) {
                    table.entries[first..first + values.len()].copy_from_slice(values);
                    *dirty += usize::from(!table.dirty);
                    table.dirty = true;
                    return Ok(());
                }
            }
            self.load(file, extent, key).await?;
        }
    }

    /// Tables with changes that no commit has taken.
    pub(crate) fn dirty(&self) -> usize {
        self.state.lock().dirty
    }

    /// Takes all changed tables to be written. They count as changed again unless [`Taken::written`] is called.
    pub(crate) fn take_dirty(&self) -> Taken<'_> {
        let mut state = self.state.lock();
        let mut taken = vec![];
        if state.dirty > 0 {
            for (key, table) in state.tables.iter_mut().filter(|(_, t)| t.dirty) {
                table.dirty = false;
                table.pinned += 1;
                taken.push((*key, table.entries.iter().flat_map(|e| e.to_le_bytes()).collect()));
            }
            state.dirty = 0;
        }
        Taken { tables: self, taken }
    }
}

/// Changed tables on their way to the file.
pub(crate) struct Taken<'a> {
    tables: &'a Tables,
    pub(crate) taken: Vec<(Key, Vec<u8>)>,
}

impl Taken<'_> {
    /// All of them are in their places.
    pub(crate) fn written(mut self) {
        let taken = std::mem::take(&mut self.taken);
        let mut state = self.tables.state.lock();
        for (key, _) in taken {
            if let Some(table) = state.tables.get_mut(&key) {
                table.pinned -= 1;
            }
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut state = self.tables.state.lock();
        let State { tables, dirty, .. } = &mut *state;
        for (key, _) in &self.taken {
            if let Some(table) = tables.get_mut(key) {
                table.pinned -= 1;
                *dirty += usize::from(!table.dirty);
                table.dirty = true;
            }
        }
    }
}

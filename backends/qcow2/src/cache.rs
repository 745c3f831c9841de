//! A bounded cache of slices of tables: parts of L2 tables or refcount blocks, as they are on disk.
//!
//! Everything here is done at once, under a lock that is never held while waiting. A slice that is not there is loaded by
//! the caller ([`Slices::begin_load`]), one load of a slice at a time, so that a late answer of the disk can never put an
//! old slice over a newer one.
//!
//! Writing out: [`Slices::take_dirty`] hands out shares of the dirty slices as they are at that moment; whoever changes
//! one meanwhile gets a copy. Until [`Slices::written`] is told how it went, such a slice is not evicted, as the disk
//! does not have it yet.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Instant;

use async_lock::{Mutex as AsyncMutex, MutexGuardArc};
use parking_lot::Mutex;

/// Hashes offsets, whose low bits are all zero.
#[derive(Default)]
pub(crate) struct OffsetHasher(u64);

impl Hasher for OffsetHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.write_u64(u64::from(b)));
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

type OffsetMap<T> = HashMap<u64, T, BuildHasherDefault<OffsetHasher>>;

/// Dirty ranges are widened to this, which no disk writes less of.
const WRITE_UNIT: usize = 4096;

struct Slot {
    offset: u64,
    bytes: Arc<Vec<u8>>,
    /// Which bytes memory has and the disk does not; empty: clean.
    dirty: std::ops::Range<usize>,
    /// Handed out by `take_dirty`.
    writing: bool,
    /// Since the hand last passed.
    used: bool,
    /// Since the last [`Slices::clean`].
    used_lately: bool,
}

#[derive(Default)]
struct Inner {
    index: OffsetMap<usize>,
    slots: Vec<Slot>,
    hand: usize,
    dirty: usize,
    loading: OffsetMap<Arc<AsyncMutex<()>>>,
    cleaned: Option<Instant>,
}

/// The cache. See the [module](self).
pub(crate) struct Slices {
    slice_size: usize,
    capacity: usize,
    inner: Mutex<Inner>,
}

/// A slice to be written out: what and where.
pub(crate) struct DirtySlice {
    /// The slice.
    pub(crate) slice: u64,
    /// Where the bytes that changed are in the file.
    pub(crate) offset: u64,
    bytes: Arc<Vec<u8>>,
    range: std::ops::Range<usize>,
}

impl DirtySlice {
    /// The bytes that changed.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }
}

/// The right to load a slice; others that want it wait until it is dropped.
pub(crate) struct Loading<'a> {
    cache: &'a Slices,
    offset: u64,
    _running: MutexGuardArc<()>,
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        self.cache.inner.lock().loading.remove(&self.offset);
    }
}

/// What [`Slices::begin_load`] found.
pub(crate) enum BeginLoad<'a> {
    /// It is there by now.
    Present,
    /// The caller is to load it and call [`Slices::insert`].
    Load(Loading<'a>),
    /// Somebody else does: wait, then ask again.
    Wait(Arc<AsyncMutex<()>>),
}

/// Every slice is dirty: they must be written out first.
#[derive(Debug)]
pub(crate) struct Full;

impl Slices {
    /// A cache of at most `bytes`, but of two slices at least.
    pub(crate) fn new(slice_size: usize, bytes: u64) -> Self {
        let capacity = (bytes / slice_size as u64).clamp(2, 1 << 22) as usize;
        Self { slice_size, capacity, inner: Mutex::default() }
    }

    pub(crate) fn slice_size(&self) -> usize {
        self.slice_size
    }

    /// The slice that a byte of the file belongs to.
    pub(crate) fn slice_of(&self, offset: u64) -> u64 {
        offset & !(self.slice_size as u64 - 1)
    }

    /// Looks at a slice; `None` if it is not there.
    pub(crate) fn read<R>(&self, slice: u64, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let mut inner = self.inner.lock();
        let at = *inner.index.get(&slice)?;
        let slot = &mut inner.slots[at];
        slot.used = true;
        slot.used_lately = true;
        Some(look(&slot.bytes))
    }

    /// Changes a slice; `change` returns its answer and which bytes it changed (empty: none).
    pub(crate) fn write<R>(
        &self,
        slice: u64,
        change: impl FnOnce(&mut [u8]) -> (R, std::ops::Range<usize>),
    ) -> Option<R> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let at = *inner.index.get(&slice)?;
        let slot = &mut inner.slots[at];
        slot.used = true;
        slot.used_lately = true;
        let (answer, changed) = change(Arc::make_mut(&mut slot.bytes).as_mut_slice());
        if !changed.is_empty() {
            inner.dirty += usize::from(slot.dirty.is_empty());
            slot.dirty = match slot.dirty.is_empty() {
                true => changed,
                false => slot.dirty.start.min(changed.start)..slot.dirty.end.max(changed.end),
            };
        }
        Some(answer)
    }

    /// Asks for the right to load a slice.
    pub(crate) fn begin_load(&self, slice: u64) -> BeginLoad<'_> {
        let mut inner = self.inner.lock();
        if inner.index.contains_key(&slice) {
            return BeginLoad::Present;
        }
        if let Some(other) = inner.loading.get(&slice) {
            return BeginLoad::Wait(other.clone());
        }
        let running = Arc::new(AsyncMutex::new(()));
        let guard = running.try_lock_arc().expect("nobody else has seen it");
        inner.loading.insert(slice, running);
        BeginLoad::Load(Loading { cache: self, offset: slice, _running: guard })
    }

    /// Whether [`Slices::insert`] would find room.
    pub(crate) fn has_room(&self) -> bool {
        let inner = self.inner.lock();
        inner.slots.len() < self.capacity || inner.slots.iter().any(|s| s.dirty.is_empty() && !s.writing)
    }

    /// Puts a slice in, replacing one of the same offset; `dirty` if the disk does not have it.
    pub(crate) fn insert(&self, slice: u64, bytes: Vec<u8>, dirty: bool) -> Result<(), Full> {
        assert_eq!(bytes.len(), self.slice_size);
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let range = if dirty { 0..self.slice_size } else { 0..0 };
        let slot = Slot {
            offset: slice,
            bytes: Arc::new(bytes),
            dirty: range,
            writing: false,
            used: true,
            used_lately: true,
        };
        let at = match inner.index.get(&slice) {
            Some(&at) => at,
            None if inner.slots.len() < self.capacity => {
                inner.index.insert(slice, inner.slots.len());
                inner.dirty += usize::from(dirty);
                inner.slots.push(slot);
                return Ok(());
            }
            None => {
                let at = inner.victim().ok_or(Full)?;
                let old = inner.slots[at].offset;
                inner.index.remove(&old);
                inner.index.insert(slice, at);
                at
            }
        };
        inner.dirty -= usize::from(!inner.slots[at].dirty.is_empty());
        inner.dirty += usize::from(dirty);
        inner.slots[at] = slot;
        Ok(())
    }

    /// Whether any slice is dirty.
    pub(crate) fn is_dirty(&self) -> bool {
        self.inner.lock().dirty > 0
    }

    /// The dirty slices as they are now, in the order of their offsets. Each must be reported by [`Slices::written`].
    pub(crate) fn take_dirty(&self) -> Vec<DirtySlice> {
        let mut inner = self.inner.lock();
        if inner.dirty == 0 {
            return Vec::new();
        }
        inner.dirty = 0;
        let mut taken = Vec::new();
        for slot in inner.slots.iter_mut().filter(|s| !s.dirty.is_empty()) {
            let dirty = std::mem::take(&mut slot.dirty);
            let start = dirty.start / WRITE_UNIT * WRITE_UNIT;
            let end = dirty.end.next_multiple_of(WRITE_UNIT).min(self.slice_size);
            slot.writing = true;
            taken.push(DirtySlice {
                slice: slot.offset,
                offset: slot.offset + start as u64,
                bytes: slot.bytes.clone(),
                range: start..end,
            });
        }
        taken.sort_by_key(|s| s.offset);
        taken
    }

    /// Says whether a slice handed out by [`Slices::take_dirty`] is on disk now.
    pub(crate) fn written(&self, slice: &DirtySlice, success: bool) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let Some(&at) = inner.index.get(&slice.slice) else { return };
        let slot = &mut inner.slots[at];
        slot.writing = false;
        if !success {
            inner.dirty += usize::from(slot.dirty.is_empty());
            slot.dirty = match slot.dirty.is_empty() {
                true => slice.range.clone(),
                false => slot.dirty.start.min(slice.range.start)..slot.dirty.end.max(slice.range.end),
            };
        }
    }

    /// Forgets the slices of a range of the file, dirty or not: what was there is no table any more.
    pub(crate) fn forget(&self, offset: u64, len: u64) {
        let mut inner = self.inner.lock();
        let mut at = 0;
        while at < inner.slots.len() {
            let slot = &inner.slots[at];
            if slot.offset >= offset && slot.offset - offset < len {
                inner.remove(at);
            } else {
                at += 1;
            }
        }
    }

    /// Forgets everything. Nothing may be dirty.
    pub(crate) fn clear(&self) {
        let mut inner = self.inner.lock();
        debug_assert_eq!(inner.dirty, 0, "dirty slices forgotten");
        inner.slots.clear();
        inner.index.clear();
        inner.hand = 0;
    }

    /// Frees clean slices that were not used for the whole of the last interval, if one has passed.
    pub(crate) fn clean(&self, interval: std::time::Duration) {
        let mut inner = self.inner.lock();
        let now = Instant::now();
        match inner.cleaned {
            Some(last) if now.duration_since(last) < interval => return,
            None => {
                inner.cleaned = Some(now);
                return;
            }
            Some(_) => inner.cleaned = Some(now),
        }
        let mut at = 0;
        while at < inner.slots.len() {
            let slot = &mut inner.slots[at];
            if !slot.used_lately && slot.dirty.is_empty() && !slot.writing {
                inner.remove(at);
            } else {
                slot.used_lately = false;
                at += 1;
            }
        }
    }
}

impl Inner {
    /// A slot to reuse: clean, and not used since the hand last came by.
    fn victim(&mut self) -> Option<usize> {
        for _ in 0..2 * self.slots.len() {
            let at = self.hand % self.slots.len();
            self.hand = (at + 1) % self.slots.len();
            let slot = &mut self.slots[at];
            if !slot.dirty.is_empty() || slot.writing {
                continue;
            }
            if !std::mem::take(&mut slot.used) {
                return Some(at);
            }
        }
        None
    }

    fn remove(&mut self, at: usize) {
        let slot = self.slots.swap_remove(at);
        self.dirty -= usize::from(!slot.dirty.is_empty());
        self.index.remove(&slot.offset);
        if let Some(moved) = self.slots.get(at) {
            let offset = moved.offset;
            self.index.insert(offset, at);
        }
        self.hand = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dirty_slices_stay_until_written() {
        let cache = Slices::new(512, 1024);
        cache.insert(0, vec![0; 512], false).unwrap();
        cache.insert(512, vec![0; 512], false).unwrap();
        cache
            .write(0, |b| {
                b[3] = 1;
                ((), 3..4)
            })
            .unwrap();
        cache.insert(1024, vec![0; 512], false).unwrap();
        assert!(cache.read(512, |_| ()).is_none(), "the clean one made room");
        cache
            .write(1024, |b| {
                b[0] = 1;
                ((), 0..1)
            })
            .unwrap();
        assert!(cache.insert(2048, vec![0; 512], false).is_err());
        let dirty = cache.take_dirty();
        assert_eq!(dirty.len(), 2);
        assert!(cache.insert(2048, vec![0; 512], false).is_err(), "not on disk yet");
        cache.written(&dirty[0], false);
        cache.written(&dirty[1], true);
        cache.insert(2048, vec![0; 512], false).unwrap();
        assert!(cache.is_dirty());
        assert_eq!(cache.read(0, |b| b[3]), Some(1));
    }

    #[test]
    fn a_slice_that_is_being_written_can_change() {
        let cache = Slices::new(512, 1024);
        cache.insert(0, vec![0; 512], true).unwrap();
        let dirty = cache.take_dirty();
        cache
            .write(0, |b| {
                b[0] = 7;
                ((), 0..1)
            })
            .unwrap();
        assert_eq!(dirty[0].bytes()[0], 0);
        cache.written(&dirty[0], true);
        assert!(cache.is_dirty());
    }
}

//! Allocations that requests' memory lies in.
//!
//! Small ones come from the allocator. Large ones are mapped, so that they go back to the system whole, whatever sizes
//! come after them; and kept for a while, which saves the kernel from clearing new pages for each request (and us, where
//! their contents do not matter). What is kept makes way for what is newly mapped: a change of sizes does not add up.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use parking_lot::Mutex;

use crate::buffer::{IoVector, MemoryOwner};

/// Regions of at least as many bytes are mapped, and kept for the next request.
const MAPPED: usize = 64 << 10;
/// Bytes kept in all.
const KEPT: usize = 12 << 20;

/// An allocation of our own.
pub(crate) struct Region {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the allocation lives until `Region` is dropped.
unsafe impl MemoryOwner for Region {}
// SAFETY: a region is only an address and a layout; who may touch which bytes is the segments' business.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Drop for Region {
    fn drop(&mut self) {
        if self.layout.size() >= MAPPED {
            keep(&SPARE, Mapping { start: self.start, len: self.layout.size() });
            return;
        }
        // SAFETY: allocated in `Region::new` with the same layout, freed once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

impl Region {
    /// Memory for `len` bytes, and whether it is known to be zeroes; what it holds is initialized in any case.
    pub(crate) fn new(len: usize) -> (Self, bool) {
        // Large requests start on a page, as files opened with O_DIRECT ask; small ones need not waste one.
        let align = if len >= IoVector::ALIGNMENT { IoVector::ALIGNMENT } else { 512 };
        let layout =
            Layout::from_size_align(len.max(1), align).expect("a request's length fits an address space");
        if len >= MAPPED {
            let (mapping, zeroed) = match take_kept(&SPARE, len) {
                Some(kept) => (kept, false),
                None => (Mapping::new(len).unwrap_or_else(|| handle_alloc_error(layout)), true),
            };
            let (start, len) = mapping.into_parts();
            let layout = Layout::from_size_align(len, align).expect("as long as a mapping");
            return (Self { start, layout }, zeroed);
        }
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        (Self { start, layout }, true)
    }

    /// Its first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }
}

/// Pages of our own, readable and writable.
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory belongs to whoever has the mapping.
unsafe impl Send for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `Mapping::new` with this length, and nobody has the memory any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

impl Mapping {
    /// Zeroes; `None` if the system has no memory.
    fn new(len: usize) -> Option<Self> {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: new pages wherever there is room touch nobody else's memory.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, access, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        NonNull::new(start.cast()).map(|start| Self { start, len })
    }

    /// Gives up the ownership.
    fn into_parts(self) -> (NonNull<u8>, usize) {
        let parts = (self.start, self.len);
        std::mem::forget(self);
        parts
    }
}

/// Memory of regions that were dropped, the oldest first.
struct Spare {
    mappings: Vec<Mapping>,
    bytes: usize,
}

static SPARE: Mutex<Spare> = Mutex::new(Spare::new());

impl Spare {
    const fn new() -> Self {
        Self { mappings: Vec::new(), bytes: 0 }
    }

    /// Takes out the oldest ones until no more than `bytes` are left.
    fn shrink_to(&mut self, bytes: usize) -> Vec<Mapping> {
        let mut left = self.bytes;
        let count = self.mappings.iter().take_while(|m| {
            let goes = left > bytes;
            left -= if goes { m.len } else { 0 };
            goes
        });
        let count = count.count();
        self.bytes = left;
        self.mappings.drain(..count).collect()
    }
}

/// Keeps a mapping for later, in place of older ones if there are too many.
fn keep(spare: &Mutex<Spare>, mapping: Mapping) {
    let mut spare = spare.lock();
    spare.bytes += mapping.len;
    spare.mappings.push(mapping);
    let old = spare.shrink_to(KEPT);
    drop(spare);
    // Only now: others need not wait for the system.
    drop(old);
}

/// A mapping of at least `len` bytes that was kept. If there is none, as much of the others goes as will be mapped anew.
fn take_kept(spare: &Mutex<Spare>, len: usize) -> Option<Mapping> {
    let mut spare = spare.lock();
    // The one that was used last is the likeliest to be in the processor's caches.
    let fits = |m: &Mapping| m.len >= len && m.len <= 2 * len;
    if let Some(at) = spare.mappings.iter().rposition(fits) {
        let mapping = spare.mappings.remove(at);
        spare.bytes -= mapping.len;
        return Some(mapping);
    }
    let rest = spare.bytes.saturating_sub(len);
    let old = spare.shrink_to(rest);
    drop(spare);
    drop(old);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recycled_memory_is_zeroed_where_zeroes_are_asked_for() {
        for len in [MAPPED, MAPPED + 5, 3 * MAPPED, 100 << 10] {
            drop(IoVector::from_slice(&vec![0xff; len]));
            assert!(IoVector::zeroed(len).view().is_zero());
            let scratch = IoVector::scratch(len - 1);
            assert!(scratch.is_aligned(IoVector::ALIGNMENT) && scratch.len() == len - 1);
        }
    }

    fn mappings(count: usize, len: usize) -> Vec<Mapping> {
        (0..count).map(|_| Mapping::new(len).expect("memory")).collect()
    }

    #[test]
    fn what_is_kept_makes_way_for_other_sizes() {
        let spare = Mutex::new(Spare::new());
        let bytes = || spare.lock().bytes;
        mappings(KEPT / MAPPED + 3, MAPPED).into_iter().for_each(|mapping| keep(&spare, mapping));
        assert_eq!(bytes(), KEPT);
        for used in 1..=4 {
            assert!(take_kept(&spare, KEPT / 4).is_none());
            assert_eq!(bytes(), KEPT - used * (KEPT / 4), "sizes that nobody asks for go");
        }
        mappings(2, KEPT / 4).into_iter().for_each(|mapping| keep(&spare, mapping));
        assert!(take_kept(&spare, KEPT / 4).is_some_and(|mapping| mapping.len == KEPT / 4));
        assert_eq!(bytes(), KEPT / 4);
        // What is longer than all that is ever kept goes back at once.
        keep(&spare, Mapping::new(KEPT + MAPPED).expect("memory"));
        assert_eq!(bytes(), 0);
    }
}

//! Storage at the image file's end.

use parking_lot::Mutex;
use rhea_block::{BlockError, BlockNode, MAX_LENGTH, Result, ResultExt, Truncate};

/// Gives out storage at the end of the file's used part, and makes the file long enough for it.
pub(crate) struct FileEnd {
    /// Held while the file is made longer: the file is never shorter than what was given out, so it is never cut.
    growing: async_lock::Mutex<()>,
    state: Mutex<State>,
}

struct State {
    /// Where the next storage starts.
    next: u64,
    /// From here on the file has never held anything: it reads as zeroes.
    fresh: u64,
    /// Storage before `next` that was given back: where, and how long.
    holes: Vec<(u64, u64)>,
}

/// Holes that are remembered. Only requests that fail while later ones succeed make any.
const MAX_HOLES: usize = 1024;

impl State {
    /// A hole that is long enough, at a multiple of `align`; what is left of it stays one.
    fn take_hole(&mut self, len: u64, align: u64) -> Option<u64> {
        let fits = |&(start, room): &(u64, u64)| room >= len && start.is_multiple_of(align);
        let index = self.holes.iter().position(fits)?;
        let (start, room) = self.holes.swap_remove(index);
        if room > len {
            self.holes.push((start + len, room - len));
        }
        Some(start)
    }

    /// Moves `next` before the holes that end there.
    fn merge(&mut self) {
        while let Some(index) = self.holes.iter().position(|&(start, len)| start + len == self.next) {
            self.next = self.holes.swap_remove(index).0;
        }
    }
}

impl FileEnd {
    /// Storage starts at `next`; the file is `length` bytes long.
    pub(crate) fn new(next: u64, length: u64) -> Self {
        Self {
            growing: async_lock::Mutex::new(()),
            state: Mutex::new(State { next, fresh: length.max(next), holes: Vec::new() }),
        }
    }

    /// `len` bytes: where, and whether they read as zeroes. `limit` is the end of what the format can address.
    pub(crate) async fn take(&self, file: &BlockNode, len: u64, limit: u64) -> Result<(u64, bool)> {
        self.take_aligned(file, len, 1, limit).await
    }

    /// The same, at a multiple of `align`.
    pub(crate) async fn take_aligned(
        &self,
        file: &BlockNode,
        len: u64,
        align: u64,
        limit: u64,
    ) -> Result<(u64, bool)> {
        let _growing = self.growing.lock().await;
        let (offset, zeroed) = self.reserve(len, align, limit)?;
        if file.length() < offset + len
            && let Err(error) = file.truncate(offset + len, Truncate::default()).await
        {
            self.put_back(offset, len);
            return Err(error).context("Could not make the image file longer");
        }
        Ok((offset, zeroed))
    }

    fn reserve(&self, len: u64, align: u64, limit: u64) -> Result<(u64, bool)> {
        let mut state = self.state.lock();
        if let Some(offset) = state.take_hole(len, align) {
            return Ok((offset, false));
        }
        let offset = state.next.checked_next_multiple_of(align).unwrap_or(u64::MAX);
        let end = offset.checked_add(len).filter(|&end| end <= limit.min(MAX_LENGTH));
        let Some(end) = end else {
            return Err(BlockError::new(libc::EFBIG, "the image file cannot grow any further"));
        };
        let zeroed = offset >= state.fresh;
        state.next = end;
        state.fresh = state.fresh.max(end);
        Ok((offset, zeroed))
    }

    /// Gives storage back that nothing refers to, and that nobody writes to. It is given out again before the file grows.
    pub(crate) fn put_back(&self, offset: u64, len: u64) {
        let mut state = self.state.lock();
        if state.next == offset + len {
            state.next = offset;
            state.merge();
        } else if state.holes.len() < MAX_HOLES {
            state.holes.push((offset, len));
        }
    }

    /// The end of the used part.
    pub(crate) fn position(&self) -> u64 {
        self.state.lock().next
    }

    /// Moves the end of the used part.
    pub(crate) fn set_position(&self, next: u64) {
        let mut state = self.state.lock();
        state.next = next;
        state.fresh = state.fresh.max(next);
        // Whoever moves it knows better what is in use.
        state.holes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::FileEnd;

    #[test]
    fn what_is_given_back_is_given_out_again() {
        let end = FileEnd::new(100, 100);
        let take = |len| end.reserve(len, 1, 1000).unwrap();
        assert_eq!([take(10), take(10), take(10)], [(100, true), (110, true), (120, true)]);
        // Not the last: a hole, and what is left of it.
        end.put_back(100, 10);
        assert_eq!(end.position(), 130);
        assert_eq!(take(4), (100, false));
        assert_eq!(take(6), (104, false));
        assert_eq!(take(1), (130, true));
    }

    #[test]
    fn the_end_moves_before_holes() {
        let end = FileEnd::new(0, 0);
        let offsets = [0, 10, 20].map(|_| end.reserve(10, 1, 1000).unwrap().0);
        assert_eq!(offsets, [0, 10, 20]);
        end.put_back(0, 10);
        end.put_back(10, 10);
        assert_eq!(end.position(), 30);
        end.put_back(20, 10);
        assert_eq!(end.position(), 0);
    }

    #[test]
    fn holes_keep_the_alignment() {
        let end = FileEnd::new(8, 8);
        end.reserve(10, 1, 1000).unwrap();
        end.reserve(10, 1, 1000).unwrap();
        end.put_back(8, 10);
        assert_eq!(end.reserve(4, 16, 1000).unwrap().0, 32);
        assert_eq!(end.reserve(4, 8, 1000).unwrap().0, 8);
    }
}

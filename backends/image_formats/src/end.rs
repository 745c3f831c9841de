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
}

impl FileEnd {
    /// Storage starts at `next`; the file is `length` bytes long.
    pub(crate) fn new(next: u64, length: u64) -> Self {
        Self {
            growing: async_lock::Mutex::new(()),
            state: Mutex::new(State { next, fresh: length.max(next) }),
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

    /// Gives the storage taken last back, if nothing was taken since.
    pub(crate) fn put_back(&self, offset: u64, len: u64) {
        let mut state = self.state.lock();
        if state.next == offset + len {
            state.next = offset;
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
    }
}

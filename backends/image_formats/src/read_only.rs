//! What the formats that are only read have in common.

use std::sync::Arc;

use parking_lot::Mutex;
use rhea_block::{BlockError, OpenContext, OpenFlags, Result};

/// Refuses to open for writing, unless falling back to reading is allowed.
pub(crate) fn check_read_only(context: &OpenContext<'_>) -> Result<()> {
    match context.writable() && !context.flags.contains(OpenFlags::AUTO_READ_ONLY) {
        true => Err(BlockError::new(libc::EACCES, "Block node is read-only")),
        false => Ok(()),
    }
}

/// The error of a write.
pub(crate) fn refuse_write<T>() -> Result<T> {
    Err(BlockError::os(libc::EPERM))
}

/// The part of the disk that was decompressed last.
#[derive(Default)]
pub(crate) struct LastPart {
    part: Mutex<Option<(u64, Arc<Vec<u8>>)>>,
    /// Held while a part is decompressed, so that it is done once.
    pub(crate) working: async_lock::Mutex<()>,
}

impl LastPart {
    pub(crate) fn get(&self, number: u64) -> Option<Arc<Vec<u8>>> {
        self.part.lock().as_ref().filter(|(n, _)| *n == number).map(|(_, part)| part.clone())
    }

    /// Makes room for another part.
    pub(crate) fn forget(&self) {
        *self.part.lock() = None;
    }

    pub(crate) fn put(&self, number: u64, part: Arc<Vec<u8>>) {
        *self.part.lock() = Some((number, part));
    }
}

//! What lies where.

use rhea_block::{BlockStatus, Result, StatusFlags};

use crate::geometry::Kind;
use crate::image::Image;

impl Image {
    /// What lies at `offset`, at most `len` bytes of it.
    pub(crate) async fn block_status(&self, offset: u64, len: u64, want_zero: bool) -> Result<BlockStatus> {
        let run = self.find_run(offset, len, false).await?;
        let mut len_found = run.len;
        // Neighbouring slices that say the same: holes are asked for in long stretches.
        while len_found < len && !run.kind.has_place() && run.kind != Kind::Compressed {
            let next = self.find_run(offset + len_found, len - len_found, false).await?;
            if next.kind != run.kind {
                break;
            }
            len_found += next.len;
        }
        let mut flags = match run.kind {
            Kind::Normal => StatusFlags::DATA | StatusFlags::ALLOCATED,
            Kind::Compressed => StatusFlags::DATA | StatusFlags::ALLOCATED | StatusFlags::COMPRESSED,
            Kind::Zero | Kind::ZeroReserved => StatusFlags::ZERO | StatusFlags::ALLOCATED,
            Kind::Unallocated | Kind::UnallocatedReserved => StatusFlags::empty(),
        };
        let mut map = None;
        if run.kind.has_place() && !self.is_encrypted() {
            flags |= StatusFlags::OFFSET_VALID;
            map = Some((self.data(), run.host));
        }
        if want_zero && run.kind == Kind::Normal && map.is_some() && self.is_preallocated().await? {
            // Only the file knows what was ever written.
            flags |= StatusFlags::RECURSE;
        }
        Ok(BlockStatus { len: len_found, flags, map })
    }

    /// Whether the header says so (the key may be missing).
    pub(crate) fn is_encrypted(&self) -> bool {
        self.header.lock().header.crypt_method != crate::header::CryptMethod::None
    }
}

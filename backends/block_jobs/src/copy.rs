//! Copying a range from one node to another: zeroes as zeroes, data as data.

use std::sync::Arc;

use rhea_async_io::IoVector;
use rhea_block::{BlockNode, Result, StatusFlags, WriteFlags};

/// Bytes of one copy at most.
pub const CHUNK: u64 = 1 << 20;

/// Copies of a job under way at once.
pub const IN_FLIGHT: usize = 16;

/// How data arrives at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// As it is.
    Plain,
    /// Compressed, in whole clusters.
    Compressed,
}

/// Copies a range; what lies beyond the target's end is left out.
pub async fn copy_range(
    from: &Arc<BlockNode>,
    to: &Arc<BlockNode>,
    offset: u64,
    len: u64,
    how: How,
) -> Result<()> {
    let end = offset.saturating_add(len).min(from.length()).min(to.length());
    let mut at = offset;
    while at < end {
        let (status, _) = from.block_status_above(None, at, (end - at).min(CHUNK)).await?;
        if status.len == 0 {
            break;
        }
        let zero = status.flags.contains(StatusFlags::ZERO);
        // Compression wants whole clusters, whatever lies in them.
        let piece = if how == How::Compressed { (end - at).min(CHUNK) } else { status.len };
        if zero && status.len >= piece {
            to.write_zeroes(at, piece, WriteFlags::MAY_UNMAP).await?;
        } else {
            let mut data = IoVector::zeroed(piece as usize);
            from.read(at, &mut data).await?;
            match how {
                How::Plain => to.write(at, &data, WriteFlags::empty()).await?,
                How::Compressed => to.write_compressed(at, &data).await?,
            }
        }
        at += piece;
    }
    Ok(())
}

//! How large an image would be.

use std::sync::Arc;

use rhea_block::{BlockError, BlockNode, Measure, Preallocation, Result, StatusFlags};
use rhea_options::Options;

use crate::create::CreateRequest;
use crate::geometry::Geometry;
use crate::header::MAX_L1_BYTES;

/// Bytes of a bitmap directory entry before its name.
const DIRECTORY_ENTRY: u64 = 24;

pub(crate) async fn measure(mut options: Options, source: Option<&Arc<BlockNode>>) -> Result<Measure> {
    let request = CreateRequest::take(&mut options)?;
    if let Some(entry) = options.entries().first() {
        return Err(BlockError::invalid(format!("Invalid parameter '{}'", entry.key)));
    }
    let g = Geometry::new(&request.header);
    let size = match source {
        Some(source) => source.length(),
        None => request.size.unwrap_or(0),
    };
    if size > rhea_block::MAX_LENGTH - g.cluster_size {
        return Err(BlockError::new(libc::EFBIG, "The image size is too large"));
    }
    let virtual_size = g.cluster_end(size);
    if g.l1_entries(virtual_size) * 8 > MAX_L1_BYTES {
        return Err(BlockError::invalid("The image size is too large (try using a larger cluster size)"));
    }
    let all = matches!(request.preallocation, Preallocation::Falloc | Preallocation::Full);
    let data = match source {
        _ if all => virtual_size,
        Some(source) => data_of(source, g.cluster_size).await?,
        None => 0,
    };
    let full = full_size(&g, virtual_size) + g.cluster_end(request.luks_bytes());
    let bitmaps = match source {
        Some(source) if request.header.version >= 3 => bitmaps_of(&g, source).await?,
        _ => None,
    };
    Ok(Measure { required: full - virtual_size + data, fully_allocated: full, bitmaps })
}

/// Bytes of an image all of whose clusters have data.
fn full_size(g: &Geometry, virtual_size: u64) -> u64 {
    let clusters = virtual_size >> g.cluster_bits;
    let entries = clusters.next_multiple_of(1 << g.l2_bits);
    let l2_tables = entries >> g.l2_bits;
    let l1 = g.cluster_end(l2_tables * 8);
    // The header, the L2 tables, the L1 table and the data; then refcounts for these, and for the refcounts themselves.
    let counted = 1 + l2_tables + (l1 >> g.cluster_bits) + clusters;
    let per_block = 1u64 << g.refcount_block_bits;
    let (mut blocks, mut table) = (0, 0);
    loop {
        let more_blocks = (counted + blocks + table).div_ceil(per_block);
        let more_table = (more_blocks * 8).div_ceil(g.cluster_size);
        if (more_blocks, more_table) == (blocks, table) {
            break;
        }
        (blocks, table) = (more_blocks, more_table);
    }
    (counted + blocks + table) << g.cluster_bits
}

/// Bytes of the clusters of a source that are not zero.
async fn data_of(source: &Arc<BlockNode>, cluster_size: u64) -> Result<u64> {
    let length = source.length();
    let (mut at, mut data) = (0, 0);
    while at < length {
        let (status, _) = source.block_status_above(None, at, length - at).await?;
        let mut len = status.len.max(1);
        let wanted = StatusFlags::DATA | StatusFlags::ALLOCATED;
        if !status.flags.contains(StatusFlags::ZERO) && status.flags.contains(wanted) {
            len = (at + len).next_multiple_of(cluster_size) - at;
            data += at % cluster_size + len;
        }
        at += len;
    }
    Ok(data)
}

/// Bytes that the source's persistent bitmaps would take; `None` if it can have none.
async fn bitmaps_of(g: &Geometry, source: &Arc<BlockNode>) -> Result<Option<u64>> {
    let source = source.skip_filters();
    let Some(bitmaps) = source.driver().bitmaps().filter(|b| b.can_be_there()) else { return Ok(None) };
    let (mut total, mut directory) = (0, 0);
    for bitmap in bitmaps.list().await? {
        let bytes = source.length().div_ceil(bitmap.granularity).div_ceil(8);
        let clusters = bytes.div_ceil(g.cluster_size);
        total += (clusters << g.cluster_bits) + g.cluster_end(clusters * 8);
        directory += (DIRECTORY_ENTRY + bitmap.name.len() as u64).next_multiple_of(8);
    }
    Ok(Some(total + g.cluster_end(directory)))
}

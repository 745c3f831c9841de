//! Creating images.

use rhea_async_io::IoVector;
use rhea_block::{CreateContext, Result, Truncate, WriteFlags};
use rhea_options::Options;

use super::header::{BLOCK, Header, LEN, MAX_DISK, UNALLOCATED, too_large};
use crate::fields::put_le32;
use crate::image::{create_file, finish_file, take_size};
use crate::uuid;

/// Entries of the map written at once.
const CHUNK: u64 = 256 << 10;

pub(super) async fn create(context: &CreateContext<'_>, filename: &str, mut options: Options) -> Result<()> {
    let disk_size = take_size(&mut options)?;
    let is_static = options.take::<bool>("static")?.unwrap_or(false);
    if disk_size > MAX_DISK {
        return Err(too_large(disk_size));
    }
    let blocks = disk_size.div_ceil(BLOCK);
    let map_len = (blocks * 4).next_multiple_of(512);
    let offset_bmap = LEN as u64;
    let header = Header {
        is_static,
        offset_bmap: offset_bmap as u32,
        offset_data: (offset_bmap + map_len) as u32,
        disk_size,
        blocks_in_image: blocks as u32,
        blocks_allocated: if is_static { blocks as u32 } else { 0 },
    };
    let file = create_file(context, filename).await?;
    // The header last: a file without it is no image.
    let mut first = 0;
    while first < map_len / 4 {
        let count = (map_len / 4 - first).min(CHUNK);
        let mut bytes = vec![0; count as usize * 4];
        for (i, entry) in (first..).zip(bytes.chunks_exact_mut(4)) {
            let value = match (i < blocks, is_static) {
                (false, _) => 0,
                (true, true) => i as u32,
                (true, false) => UNALLOCATED,
            };
            put_le32(entry, 0, value);
        }
        file.write(offset_bmap + first * 4, &IoVector::from_slice(&bytes), WriteFlags::empty()).await?;
        first += count;
    }
    if is_static {
        let end = u64::from(header.offset_data) + blocks * BLOCK;
        file.truncate(end, Truncate { exact: true, ..Truncate::default() }).await?;
    }
    file.write_bytes(0, &header.build([uuid::random_mixed()?, uuid::random_mixed()?])).await?;
    finish_file(file).await
}

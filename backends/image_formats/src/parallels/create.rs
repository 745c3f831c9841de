//! Creating images.

use rhea_block::{BlockError, CreateContext, Result, Truncate, WriteFlags};
use rhea_options::{Options, Size};

use super::header::{LEN, build};
use crate::image::{create_file, finish_file, take_size};

/// What the format can hold at most, in QEMU's judgement as well.
const MAX_CLUSTER: u64 = i32::MAX as u64 / 513 * 512;

pub(super) async fn create(context: &CreateContext<'_>, filename: &str, mut options: Options) -> Result<()> {
    let length = take_size(&mut options)?;
    let cluster = options.take::<Size>("cluster_size")?.map_or(1 << 20, |size| size.0);
    let cluster = cluster.checked_next_multiple_of(512).unwrap_or(u64::MAX).max(512);
    if cluster > MAX_CLUSTER {
        return Err(BlockError::invalid("Cluster size is too large"));
    }
    let entries = length.div_ceil(cluster);
    if entries > i32::MAX as u64 / 4 {
        return Err(BlockError::new(libc::E2BIG, "Image size is too large for this cluster size"));
    }
    let data_off = (LEN as u64 + entries * 4).next_multiple_of(cluster);
    if data_off / 512 > u64::from(u32::MAX) {
        return Err(BlockError::new(libc::E2BIG, "Image size is too large for this cluster size"));
    }
    let file = create_file(context, filename).await?;
    file.truncate(data_off, Truncate::default()).await?;
    file.write_zeroes(0, data_off, WriteFlags::empty()).await?;
    file.write_bytes(0, &build(length, cluster, entries as u32, data_off)).await?;
    finish_file(file).await
}

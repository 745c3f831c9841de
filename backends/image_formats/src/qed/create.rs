//! Creating images.

use rhea_block::{BlockError, CreateContext, Result, Truncate, WriteFlags};
use rhea_options::{Options, Size};

use super::header::{
    BACKING_FILE, BACKING_RAW, Header, LEN, MAX_CLUSTER, MAX_TABLE, MIN_CLUSTER, MIN_TABLE, is_cluster_size,
    is_table_size, max_image_size,
};
use crate::image::{create_file, finish_file, take_size};

pub(super) async fn create(context: &CreateContext<'_>, filename: &str, mut options: Options) -> Result<()> {
    let image_size = take_size(&mut options)?;
    let cluster_size = options.take::<Size>("cluster_size")?.map_or(64 << 10, |size| size.0);
    let table_size = options.take::<Size>("table_size")?.map_or(4, |size| size.0);
    let backing_file: Option<String> = options.take("backing_file")?;
    let backing_fmt: Option<String> = options.take("backing_fmt")?;
    let narrow = |value: u64| u32::try_from(value).unwrap_or(0);
    let (cluster_size, table_size) = (narrow(cluster_size), narrow(table_size));
    if !is_cluster_size(cluster_size) {
        return Err(BlockError::invalid(format!(
            "QED cluster size must be within range [{MIN_CLUSTER}, {MAX_CLUSTER}] and power of 2"
        )));
    }
    if !is_table_size(table_size) {
        return Err(BlockError::invalid(format!(
            "QED table size must be within range [{MIN_TABLE}, {MAX_TABLE}] and power of 2"
        )));
    }
    let max = max_image_size(cluster_size, table_size);
    if image_size > max {
        return Err(BlockError::invalid(format!(
            "QED image size must be a non-zero multiple of cluster size and less than {max} bytes"
        )));
    }
    let mut header = Header {
        cluster_size,
        table_size,
        header_size: 1,
        features: 0,
        compat_features: 0,
        autoclear_features: 0,
        l1_table_offset: cluster_size.into(),
        image_size,
        backing_filename_offset: 0,
        backing_filename_size: 0,
    };
    let mut start = vec![];
    if let Some(name) = backing_file.filter(|name| !name.is_empty()) {
        set_backing(&mut header, &name, backing_fmt.as_deref())?;
        start.extend_from_slice(name.as_bytes());
    }
    let file = create_file(context, filename).await?;
    let l1 = u64::from(cluster_size);
    let end = l1 + header.table_len();
    file.truncate(end, Truncate { exact: false, ..Truncate::default() }).await?;
    file.write_zeroes(l1, header.table_len(), WriteFlags::empty()).await?;
    let mut bytes = header.build().to_vec();
    bytes.extend_from_slice(&start);
    file.write_bytes(0, &bytes).await?;
    finish_file(file).await
}

/// Enters a backing file; its name goes right behind the header's fields.
pub(super) fn set_backing(header: &mut Header, name: &str, format: Option<&str>) -> Result<()> {
    let room = u64::from(header.header_size) * u64::from(header.cluster_size) - LEN as u64;
    if name.len() as u64 > room.min(1023) {
        return Err(BlockError::invalid("the backing file's name is too long"));
    }
    header.features |= BACKING_FILE;
    header.features &= !BACKING_RAW;
    if format == Some("raw") {
        header.features |= BACKING_RAW;
    }
    header.backing_filename_offset = LEN as u32;
    header.backing_filename_size = name.len() as u32;
    Ok(())
}

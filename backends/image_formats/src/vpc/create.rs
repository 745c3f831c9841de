//! Creating images.

use rhea_async_io::IoVector;
use rhea_block::{BlockError, CreateContext, Result, Truncate, WriteFlags};
use rhea_options::Options;

use super::footer::{DYNAMIC_LEN, DynamicHeader, LEN, MAX_SECTORS, NewFooter, TYPE_DYNAMIC, TYPE_FIXED};
use super::geometry::Geometry;
use crate::image::{create_file, finish_file, take_size};

/// Bytes in a new image's blocks.
const BLOCK: u32 = 2 << 20;

pub(super) async fn create(context: &CreateContext<'_>, filename: &str, mut options: Options) -> Result<()> {
    let wanted = take_size(&mut options)? / 512;
    let force_size = options.take::<bool>("force_size")?.unwrap_or(false);
    let kind = match options.take::<String>("subformat")?.as_deref() {
        None | Some("dynamic") => TYPE_DYNAMIC,
        Some("fixed") => TYPE_FIXED,
        Some(other) => {
            return Err(BlockError::invalid(format!(
                "Parameter 'subformat' does not accept value '{other}'"
            )));
        }
    };
    let geometry = if force_size { Geometry::MAX } else { Geometry::for_sectors(wanted) };
    let sectors = if geometry == Geometry::MAX { wanted } else { geometry.total() };
    if sectors > MAX_SECTORS {
        return Err(BlockError::new(libc::EFBIG, "The image size is too large for file format 'vpc'"));
    }
    let length = sectors * 512;
    let footer = NewFooter { length, geometry, force_size, kind }.build()?;
    let file = create_file(context, filename).await?;
    if kind == TYPE_FIXED {
        file.truncate(length + LEN as u64, Truncate { exact: true, ..Truncate::default() }).await?;
        file.write_bytes(length, &footer).await?;
        return finish_file(file).await;
    }
    let header = DynamicHeader {
        table_offset: (LEN + DYNAMIC_LEN) as u64,
        max_table_entries: length.div_ceil(BLOCK.into()) as u32,
        block_size: BLOCK,
    };
    // The table ends with a whole sector. 4 MiB at most.
    let table = vec![0xff; (header.max_table_entries as usize * 4).next_multiple_of(512)];
    let end = header.table_offset + table.len() as u64;
    file.write(header.table_offset, &IoVector::from_slice(&table), WriteFlags::empty()).await?;
    file.write_bytes(end, &footer).await?;
    file.write_bytes(LEN as u64, &header.build()).await?;
    // What the image is known by comes last.
    file.write_bytes(0, &footer).await?;
    finish_file(file).await
}

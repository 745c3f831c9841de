//! Creating images.

use rhea_block::{BlockError, CreateContext, Result, WriteFlags};
use rhea_options::Options;

use super::cipher;
use super::header::{Header, LEN};
use crate::image::{create_file, finish_file, take_size};

pub(super) async fn create(context: &CreateContext<'_>, filename: &str, mut options: Options) -> Result<()> {
    let length = take_size(&mut options)?;
    let backing_file: Option<String> = options.take("backing_file")?;
    // The format has no place for it.
    options.take::<String>("backing_fmt")?;
    let encrypted = take_encryption(context, &mut options)?;
    if length == 0 {
        return Err(BlockError::invalid("Image size is too small, cannot be zero length"));
    }
    let backing_file = backing_file.filter(|name| !name.is_empty());
    if backing_file.as_ref().is_some_and(|name| name.len() > 1023) {
        return Err(BlockError::invalid("Backing file name too long"));
    }
    // Small clusters where the backing file has the rest, as less must be copied.
    let (cluster_bits, l2_bits) = if backing_file.is_some() { (9, 12) } else { (12, 9) };
    let name_len = backing_file.as_ref().map_or(0, String::len);
    let header = Header {
        length,
        cluster_bits,
        l2_bits,
        encrypted,
        l1_offset: (LEN + name_len).next_multiple_of(8) as u64,
        backing_file,
    };
    if header.l1_entries() > i32::MAX as u64 / 8 {
        return Err(BlockError::new(libc::EFBIG, "The image size is too large for file format 'qcow'"));
    }
    let file = create_file(context, filename).await?;
    // The table has room for whole sectors, and the file is whole sectors: readers may ask for those.
    let end = (header.l1_offset + (header.l1_entries() * 8).next_multiple_of(512)).next_multiple_of(512);
    file.write_zeroes(0, end, WriteFlags::empty()).await?;
    file.write_bytes(0, &header.build()).await?;
    finish_file(file).await
}

fn take_encryption(context: &CreateContext<'_>, options: &mut Options) -> Result<bool> {
    let format: Option<String> = options.take("encrypt.format")?;
    let old = options.take::<bool>("encryption")?.unwrap_or(false);
    let secret: Option<String> = options.take("encrypt.key-secret")?;
    match format.as_deref() {
        None if !old => return Ok(false),
        Some(_) if old => {
            return Err(BlockError::invalid("Options encryption and encrypt.format are mutually exclusive"));
        }
        None | Some("aes") => {}
        Some(other) => {
            return Err(BlockError::invalid(format!("Only 'aes' encryption is supported, not '{other}'")));
        }
    }
    let id = secret.ok_or_else(cipher::key_missing)?;
    // The header says nothing of the key, but it must be there.
    context.registry.secrets().get(&id)?;
    Ok(true)
}

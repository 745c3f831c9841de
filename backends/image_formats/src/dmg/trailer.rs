//! The trailer, and how the block tables are found.

use rhea_block::{BlockError, BlockNode, Result, ResultExt};

use super::chunks::Chunks;
use crate::fields::{be32, be64};

const LEN: u64 = 512;
const MAGIC: &[u8; 4] = b"koly";
/// The longest property list or resource fork that is read. With it, what is decoded of it, and the chunks, opening an
/// image takes at most four times as much memory.
const MAX_TABLES: u64 = 16 << 20;

mod at {
    pub(super) const DATA_FORK_OFFSET: usize = 0x18;
    pub(super) const RSRC_FORK_OFFSET: usize = 0x28;
    pub(super) const RSRC_FORK_LENGTH: usize = 0x30;
    pub(super) const XML_OFFSET: usize = 0xd8;
    pub(super) const XML_LENGTH: usize = 0xe0;
    pub(super) const SECTOR_COUNT: usize = 0x1ec;
}

/// The disk's length in bytes, and its chunks.
pub(super) async fn read(file: &BlockNode) -> Result<(u64, Chunks)> {
    let trailer = find(file).await?;
    let sectors = be64(&trailer, at::SECTOR_COUNT);
    let length =
        sectors.checked_mul(512).filter(|&length| length <= rhea_block::MAX_LENGTH).ok_or_else(|| {
            BlockError::malformed(format!("sector count {sectors} of the trailer is too large"))
        })?;
    let mut chunks = Chunks::new(be64(&trailer, at::DATA_FORK_OFFSET));
    let resources = (be64(&trailer, at::RSRC_FORK_OFFSET), be64(&trailer, at::RSRC_FORK_LENGTH));
    let xml = (be64(&trailer, at::XML_OFFSET), be64(&trailer, at::XML_LENGTH));
    if resources.1 != 0 {
        let bytes = read_part(file, resources, "resource fork").await?;
        resource_fork(&bytes, &mut chunks)?;
    } else if xml.1 != 0 {
        let bytes = read_part(file, xml, "property list").await?;
        property_list(&bytes, &mut chunks)?;
    } else {
        return Err(BlockError::malformed("the trailer names neither a property list nor a resource fork"));
    }
    chunks.finish()?;
    Ok((length, chunks))
}

/// The trailer is the file's last 512 bytes, or nearly so.
async fn find(file: &BlockNode) -> Result<[u8; LEN as usize]> {
    let length = file.length();
    let start = length.saturating_sub(2 * LEN - 1);
    let mut end = vec![0; (length - start) as usize];
    file.read_bytes(start, &mut end).await.context("Could not read the trailer")?;
    let found = end.windows(LEN as usize).rev().find(|window| window.starts_with(MAGIC));
    let mut trailer = [0; LEN as usize];
    let found = found.ok_or_else(|| BlockError::malformed("Could not locate UDIF trailer in dmg file"))?;
    trailer.copy_from_slice(found);
    Ok(trailer)
}

async fn read_part(file: &BlockNode, (offset, len): (u64, u64), what: &str) -> Result<Vec<u8>> {
    if len > MAX_TABLES {
        return Err(BlockError::malformed(format!("the {what} of {len} bytes is too long")));
    }
    if offset.checked_add(len).is_none_or(|end| end > file.length()) {
        return Err(BlockError::malformed(format!("the {what} lies beyond the file's end")));
    }
    let mut bytes = vec![0; len as usize];
    file.read_bytes(offset, &mut bytes).await.context(format!("Could not read the {what}"))?;
    Ok(bytes)
}

/// A resource fork: the data's and the map's place, then each resource with its length before it.
fn resource_fork(bytes: &[u8], chunks: &mut Chunks) -> Result<()> {
    let bad = |what: &str| BlockError::malformed(format!("the resource fork's {what} is invalid"));
    if bytes.len() < 16 {
        return Err(bad("length"));
    }
    let (start, len) = (be32(bytes, 0) as usize, be32(bytes, 8) as usize);
    let mut rest =
        start.checked_add(len).and_then(|end| bytes.get(start..end)).ok_or_else(|| bad("data offset"))?;
    while rest.len() >= 4 {
        let len = be32(rest, 0) as usize;
        let resource =
            len.checked_add(4).and_then(|end| rest.get(4..end)).ok_or_else(|| bad("resource length"))?;
        chunks.add_table(resource)?;
        rest = &rest[4 + len..];
    }
    Ok(())
}

/// A property list: every `<data>` that is a block table, in base64.
fn property_list(bytes: &[u8], chunks: &mut Chunks) -> Result<()> {
    let mut rest = bytes;
    while let Some(start) = find_text(rest, b"<data>") {
        rest = &rest[start + 6..];
        let end = find_text(rest, b"</data>")
            .ok_or_else(|| BlockError::malformed("a <data> of the property list does not end"))?;
        chunks.add_table(&decode_base64(&rest[..end])?)?;
        rest = &rest[end..];
    }
    Ok(())
}

fn find_text(bytes: &[u8], text: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + bytes[from..].iter().position(|&b| b == text[0])?;
        if bytes[at..].starts_with(text) {
            return Some(at);
        }
        from = at + 1;
    }
}

/// RFC 4648, with white space between.
fn decode_base64(text: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for &c in text {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => break,
            c if c.is_ascii_whitespace() => continue,
            _ => return Err(BlockError::malformed("a <data> of the property list is not base64")),
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_with_line_breaks() {
        assert_eq!(decode_base64(b"bWlz\n\taAA=").unwrap(), b"mish\0");
        assert!(decode_base64(b"bW!z").is_err());
    }
}

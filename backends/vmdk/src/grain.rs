//! Compressed grains: a marker with the grain's sector on the disk and the bytes that follow, then zlib's format
//! ("Virtual Disk Format 5.0", Stream-Optimized Compressed).

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use rhea_async_io::unblock;
use rhea_block::{BlockError, BlockNode, Result};

use crate::sparse::{SECTOR, Sparse};

/// Bytes of a marker before the data.
const MARKER: usize = 12;

/// Reads the grain whose marker (or data, in extents without markers) lies at `at`: a whole grain, zeroes after what the
/// data has.
pub(crate) async fn read(file: &BlockNode, sparse: &Sparse, at: u64, grain_number: u64) -> Result<Vec<u8>> {
    let malformed = |what: &str| {
        BlockError::new(libc::EIO, format!("vmdk: compressed grain {grain_number} at {at:#x}: {what}"))
    };
    let length = file.length();
    if at >= length {
        return Err(malformed("beyond the file's end"));
    }
    let mut start = at;
    let mut len = 2 * sparse.grain;
    if sparse.markers {
        let mut marker = [0; MARKER];
        file.read_bytes(at, &mut marker).await?;
        let sector = u64::from_le_bytes(marker[..8].try_into().expect("eight bytes"));
        let size = u64::from(u32::from_le_bytes(marker[8..].try_into().expect("four bytes")));
        if Some(sector) != grain_number.checked_mul(sparse.grain / SECTOR) {
            return Err(malformed("its marker is that of another grain"));
        }
        if size == 0 || size > len {
            return Err(malformed("its marker's size is out of range"));
        }
        start += MARKER as u64;
        len = size;
    }
    let mut packed = vec![0; len.min(length.saturating_sub(start)) as usize];
    file.read_bytes(start, &mut packed).await?;
    let grain = sparse.grain as usize;
    let unpacked = unblock(move || {
        let mut bytes = vec![0; grain];
        let mut decoder = ZlibDecoder::new(&packed[..]);
        let mut filled = 0;
        while filled < grain {
            match decoder.read(&mut bytes[filled..]) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(_) => return None,
            }
        }
        (filled > 0).then_some(bytes)
    });
    unpacked.await.ok_or_else(|| malformed("its data cannot be decompressed"))
}

/// A marker and compressed data, filled up to whole sectors. The data is that of the disk's sector `sector`; the end of
/// the disk's last grain is zeroes.
pub(crate) async fn compress(mut data: Vec<u8>, sparse: &Sparse, sector: u64) -> Result<Vec<u8>> {
    data.resize(sparse.grain as usize, 0);
    let markers = sparse.markers;
    unblock(move || {
        let mut bytes = if markers { vec![0; MARKER] } else { vec![] };
        let start = bytes.len();
        let mut encoder = ZlibEncoder::new(bytes, Compression::default());
        encoder.write_all(&data)?;
        bytes = encoder.finish()?;
        if markers {
            let len = (bytes.len() - start) as u32;
            bytes[..8].copy_from_slice(&sector.to_le_bytes());
            bytes[8..12].copy_from_slice(&len.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(SECTOR as usize), 0);
        Ok::<_, std::io::Error>(bytes)
    })
    .await
    .map_err(BlockError::from)
}

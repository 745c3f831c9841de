//! Block tables.

use rhea_block::{BlockError, Result};

use crate::fields::{be32, be64};

const HEADER_LEN: usize = 204;
const ENTRY_LEN: usize = 40;
/// The most bytes of a chunk, stored or not.
pub(super) const MAX_CHUNK: u64 = 64 << 20;

/// How a chunk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Zero,
    Raw,
    Adc,
    Zlib,
    Bzip2,
    Lzfse,
    Lzma,
}

impl Kind {
    /// `None`: not a chunk (a comment, the end).
    fn of(number: u32) -> Result<Option<Self>> {
        Ok(Some(match number {
            0 | 2 => Self::Zero,
            1 => Self::Raw,
            0x8000_0004 => Self::Adc,
            0x8000_0005 => Self::Zlib,
            0x8000_0006 => Self::Bzip2,
            0x8000_0007 => Self::Lzfse,
            0x8000_0008 => Self::Lzma,
            0x7fff_fffe | 0xffff_ffff => return Ok(None),
            other => return Err(BlockError::unsupported(format!("chunks of type {other:#x} are not known"))),
        }))
    }
}

/// Sectors of the disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk {
    pub(super) kind: Kind,
    /// Bytes, on the disk.
    pub(super) start: u64,
    pub(super) len: u64,
    /// In the file.
    pub(super) offset: u64,
    pub(super) stored: u64,
}

/// All chunks, in the disk's order.
pub(super) struct Chunks {
    data_fork: u64,
    chunks: Vec<Chunk>,
}

impl Chunks {
    pub(super) fn new(data_fork: u64) -> Self {
        Self { data_fork, chunks: vec![] }
    }

    /// Adds a block table; does nothing if the data is something else.
    pub(super) fn add_table(&mut self, bytes: &[u8]) -> Result<()> {
        if !bytes.starts_with(b"mish") || bytes.len() < HEADER_LEN {
            return Ok(());
        }
        let (first_sector, data_offset) = (be64(bytes, 8), be64(bytes, 0x18));
        let count = be32(bytes, 200) as usize;
        let entries = bytes[HEADER_LEN..].chunks_exact(ENTRY_LEN);
        if entries.len() < count {
            return Err(BlockError::malformed(format!("a block table of {count} chunks is too short")));
        }
        for entry in entries.take(count) {
            let Some(kind) = Kind::of(be32(entry, 0))? else { continue };
            let number = self.chunks.len();
            let too_large =
                |what: &str| BlockError::malformed(format!("{what} of chunk {number} is too large"));
            let bytes_of = |sectors: u64| sectors.checked_mul(512).filter(|&b| b <= rhea_block::MAX_LENGTH);
            let start = first_sector
                .checked_add(be64(entry, 8))
                .and_then(bytes_of)
                .ok_or_else(|| too_large("sector number"))?;
            let len = bytes_of(be64(entry, 16)).ok_or_else(|| too_large("sector count"))?;
            let stored = be64(entry, 32);
            let compressed = !matches!(kind, Kind::Zero | Kind::Raw);
            if compressed && len.max(stored) > MAX_CHUNK {
                return Err(BlockError::malformed(format!(
                    "length {} for chunk {number} is larger than max ({MAX_CHUNK})",
                    len.max(stored)
                )));
            }
            let offset = self
                .data_fork
                .checked_add(data_offset)
                .and_then(|at| at.checked_add(be64(entry, 24)))
                .filter(|&at| at <= rhea_block::MAX_LENGTH)
                .ok_or_else(|| too_large("offset"))?;
            if len != 0 {
                self.chunks.push(Chunk { kind, start, len, offset, stored });
            }
        }
        Ok(())
    }

    /// Puts the chunks in order.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.chunks.shrink_to_fit();
        self.chunks.sort_unstable_by_key(|chunk| chunk.start);
        for pair in self.chunks.windows(2) {
            let overlap = pair[0].start.checked_add(pair[0].len).is_none_or(|end| end > pair[1].start);
            if overlap {
                return Err(BlockError::malformed(format!(
                    "two chunks hold the sector {}",
                    pair[1].start / 512
                )));
            }
        }
        Ok(())
    }

    /// The chunk that holds a byte of the disk, and its number.
    pub(super) fn find(&self, at: u64) -> Option<(u64, &Chunk)> {
        let index = self.chunks.partition_point(|chunk| chunk.start <= at).checked_sub(1)?;
        let chunk = &self.chunks[index];
        (at - chunk.start < chunk.len).then_some((index as u64, chunk))
    }
}

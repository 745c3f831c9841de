//! The log as it lies in the file, and its replay: [MS-VHDX] section 2.3.
//!
//! The log is a ring of entries. Each entry holds 4 KiB pieces of metadata and where in the file they belong. The entries
//! that count are the newest sequence of valid entries with rising sequence numbers whose last one says (by its tail)
//! where the sequence starts. Replay copies the pieces to their places; doing so twice does no harm.
//!
//! What a hostile log can make us do is bounded: an entry is read whole but has at most [`MAX_ENTRY`] bytes, all
//! checksums together cover at most a few times the log's length, and pieces go neither to the headers nor into the log
//! nor beyond the length that the entry itself gives the file.

use std::collections::BTreeMap;

use rhea_block::{BlockError, BlockNode, Result, ResultExt, Truncate, WriteFlags};

use crate::crc32c::checksum_without;
use crate::layout::{Guid, Region, le32, le64};

/// Entries and pieces are multiples of this.
pub(crate) const SECTOR: u64 = 4096;
const ENTRY_HEADER_LEN: usize = 64;
const DESCRIPTOR_LEN: usize = 32;
/// The longest entry that is read.
const MAX_ENTRY: u64 = 32 << 20;
/// The longest log that is replayed; writers use one MiB.
const MAX_LOG: u64 = 1 << 30;
/// Nothing in a vhdx file lies beyond this: 64 TiB of blocks and their tables, with room to spare.
const MAX_FILE: u64 = 128 << 40;
/// Pieces are never written below this: the file identifier and the headers have their own way of being updated.
const HEADERS_END: u64 = 192 << 10;

/// Bytes of an entry with this many pieces.
pub(crate) const fn entry_len(pieces: usize) -> u64 {
    let descriptors = (ENTRY_HEADER_LEN + pieces * DESCRIPTOR_LEN) as u64;
    (descriptors.div_ceil(SECTOR) + pieces as u64) * SECTOR
}

/// What an entry's header says besides its pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryHeader {
    pub(crate) sequence: u64,
    /// Where in the log the sequence starts that this entry ends.
    pub(crate) tail: u64,
    /// The file was at least so long on stable storage when the entry was written.
    pub(crate) flushed_file_offset: u64,
    /// The file has at least this length once the entry is replayed.
    pub(crate) last_file_offset: u64,
}

/// Builds an entry of 4 KiB pieces: where each goes, and its bytes.
pub(crate) fn encode_entry(header: EntryHeader, guid: Guid, pieces: &[(u64, &[u8])]) -> Vec<u8> {
    let len = entry_len(pieces.len()) as usize;
    let mut bytes = vec![0; len];
    bytes[..4].copy_from_slice(b"loge");
    bytes[8..12].copy_from_slice(&(len as u32).to_le_bytes());
    bytes[12..16].copy_from_slice(&(header.tail as u32).to_le_bytes());
    bytes[16..24].copy_from_slice(&header.sequence.to_le_bytes());
    bytes[24..28].copy_from_slice(&(pieces.len() as u32).to_le_bytes());
    bytes[32..48].copy_from_slice(&guid.0);
    bytes[48..56].copy_from_slice(&header.flushed_file_offset.to_le_bytes());
    bytes[56..64].copy_from_slice(&header.last_file_offset.to_le_bytes());
    let data = len - pieces.len() * SECTOR as usize;
    for (index, (offset, piece)) in pieces.iter().enumerate() {
        assert_eq!(piece.len() as u64, SECTOR);
        let descriptor = &mut bytes[ENTRY_HEADER_LEN + index * DESCRIPTOR_LEN..][..DESCRIPTOR_LEN];
        descriptor[..4].copy_from_slice(b"desc");
        descriptor[4..8].copy_from_slice(&piece[4092..]);
        descriptor[8..16].copy_from_slice(&piece[..8]);
        descriptor[16..24].copy_from_slice(&offset.to_le_bytes());
        descriptor[24..32].copy_from_slice(&header.sequence.to_le_bytes());
        let sector = &mut bytes[data + index * SECTOR as usize..][..SECTOR as usize];
        sector[..4].copy_from_slice(b"data");
        sector[4..8].copy_from_slice(&((header.sequence >> 32) as u32).to_le_bytes());
        sector[8..4092].copy_from_slice(&piece[8..4092]);
        sector[4092..].copy_from_slice(&(header.sequence as u32).to_le_bytes());
    }
    let checksum = checksum_without(&bytes, 4);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// What a descriptor does.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Data { offset: u64, leading: &'a [u8], middle: &'a [u8], trailing: &'a [u8] },
    Zero { offset: u64, len: u64 },
}

/// The pieces of an entry whose checksum is right; `None` if they are not as they should be.
fn parse_pieces(bytes: &[u8], sequence: u64) -> Option<Vec<Piece<'_>>> {
    let count = le32(bytes, 24) as usize;
    let descriptors = bytes.get(ENTRY_HEADER_LEN..)?.get(..count.checked_mul(DESCRIPTOR_LEN)?)?;
    let mut data = (ENTRY_HEADER_LEN + descriptors.len()).next_multiple_of(SECTOR as usize);
    let mut pieces = Vec::with_capacity(count);
    for descriptor in descriptors.chunks_exact(DESCRIPTOR_LEN) {
        let offset = le64(descriptor, 16);
        if le64(descriptor, 24) != sequence || !offset.is_multiple_of(SECTOR) {
            return None;
        }
        match &descriptor[..4] {
            b"desc" => {
                let sector = bytes.get(data..data + SECTOR as usize)?;
                let stamp = u64::from(le32(sector, 4)) << 32 | u64::from(le32(sector, 4092));
                if &sector[..4] != b"data" || stamp != sequence {
                    return None;
                }
                pieces.push(Piece::Data {
                    offset,
                    leading: &descriptor[8..16],
                    middle: &sector[8..4092],
                    trailing: &descriptor[4..8],
                });
                data += SECTOR as usize;
            }
            b"zero" => {
                let len = le64(descriptor, 8);
                if !len.is_multiple_of(SECTOR) {
                    return None;
                }
                pieces.push(Piece::Zero { offset, len });
            }
            _ => return None,
        }
    }
    Some(pieces)
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    header: EntryHeader,
    len: u64,
}

/// The log of a file whose header names it.
pub(crate) struct Log<'a> {
    file: &'a BlockNode,
    region: Region,
    guid: Guid,
    /// Valid entries, by their place in the log.
    entries: BTreeMap<u64, Option<Entry>>,
    /// Bytes that checksums may still cover.
    budget: u64,
}

/// A run of entries that belong together: their places, from the first to the last.
type Sequence = Vec<u64>;

impl<'a> Log<'a> {
    pub(crate) fn new(file: &'a BlockNode, region: Region, guid: Guid) -> Result<Self> {
        if region.len > MAX_LOG {
            return Err(BlockError::unsupported(format!(
                "vhdx log: {} bytes are too many to replay",
                region.len
            )));
        }
        let budget = 4 * region.len + (64 << 20);
        Ok(Self { file, region, guid, entries: BTreeMap::new(), budget })
    }

    /// Reads from the ring.
    async fn read(&self, at: u64, bytes: &mut [u8]) -> Result<()> {
        let first = (self.region.len - at).min(bytes.len() as u64) as usize;
        let (head, rest) = bytes.split_at_mut(first);
        self.file.read_bytes(self.region.offset + at, head).await?;
        match rest.is_empty() {
            true => Ok(()),
            false => self.file.read_bytes(self.region.offset, rest).await,
        }
    }

    /// The valid entry at a place, if there is one. Each place is looked at once.
    async fn entry(&mut self, at: u64) -> Result<Option<Entry>> {
        if let Some(known) = self.entries.get(&at) {
            return Ok(*known);
        }
        let entry = self.read_entry(at).await.context("vhdx log")?.map(|(entry, _)| entry);
        if entry.is_some() {
            self.entries.insert(at, entry);
        }
        Ok(entry)
    }

    async fn read_entry(&mut self, at: u64) -> Result<Option<(Entry, Vec<u8>)>> {
        let mut start = [0; ENTRY_HEADER_LEN];
        self.read(at, &mut start).await?;
        let len = u64::from(le32(&start, 8));
        let tail = u64::from(le32(&start, 12));
        let sequence = le64(&start, 16);
        let plausible = &start[..4] == b"loge"
            && start[32..48] == self.guid.0
            && sequence != 0
            && len >= SECTOR
            && len.is_multiple_of(SECTOR)
            && len <= self.region.len
            && tail.is_multiple_of(SECTOR)
            && tail < self.region.len;
        if !plausible {
            return Ok(None);
        }
        if len > MAX_ENTRY {
            return Err(BlockError::unsupported(format!(
                "the entry at {at:#x} has {len} bytes, more than are supported"
            )));
        }
        self.budget = self.budget.checked_sub(len).ok_or_else(|| {
            BlockError::malformed("entries overlap each other over and over; nothing was replayed")
        })?;
        let mut bytes = vec![0; len as usize];
        self.read(at, &mut bytes).await?;
        if le32(&bytes, 4) != checksum_without(&bytes, 4) || parse_pieces(&bytes, sequence).is_none() {
            return Ok(None);
        }
        let header = EntryHeader {
            sequence,
            tail,
            flushed_file_offset: le64(&bytes, 48),
            last_file_offset: le64(&bytes, 56),
        };
        Ok(Some((Entry { header, len }, bytes)))
    }

    /// The longest run of entries from a place on, and where it ends (not wrapped at the ring's end).
    async fn run_from(&mut self, start: u64) -> Result<(Sequence, u64)> {
        let mut run = Sequence::new();
        let mut end = start;
        let mut next = None;
        while let Some(entry) = self.entry(end % self.region.len).await? {
            // A run is no longer than the ring.
            if next.is_some_and(|n| n != entry.header.sequence) || end + entry.len - start > self.region.len {
                break;
            }
            run.push(end % self.region.len);
            end += entry.len;
            next = entry.header.sequence.checked_add(1);
            if next.is_none() {
                break;
            }
        }
        Ok((run, end))
    }

    /// The sequence to replay, from its tail on; empty if there is none.
    async fn active(&mut self) -> Result<Sequence> {
        let mut best: (u64, Sequence) = (0, Sequence::new());
        let mut at = 0;
        while let Some(start) = self.next_signature(at).await? {
            let (run, end) = self.run_from(start).await?;
            at = start + SECTOR;
            let Some(last) = run.last() else { continue };
            let header = self.entry(*last).await?.expect("part of a run").header;
            // The sequence is whole if the last entry's tail is one of its entries.
            if let Some(tail) = run.iter().position(|place| *place == header.tail) {
                if header.sequence > best.0 {
                    best = (header.sequence, run[tail..].to_vec());
                }
                at = end;
            }
        }
        Ok(best.1)
    }

    /// The first place at or after `at` that may start an entry.
    async fn next_signature(&self, mut at: u64) -> Result<Option<u64>> {
        let mut bytes = vec![0; 256 * SECTOR as usize];
        while at < self.region.len {
            let len = (self.region.len - at).min(bytes.len() as u64);
            let bytes = &mut bytes[..len as usize];
            self.read(at, bytes).await?;
            let found = bytes.chunks_exact(SECTOR as usize).position(|sector| &sector[..4] == b"loge");
            if let Some(index) = found {
                return Ok(Some(at + index as u64 * SECTOR));
            }
            at += len;
        }
        Ok(None)
    }

    /// Copies what the log holds to its places, and waits until it is there for good. The header still names the log
    /// afterwards. Whether there was anything.
    pub(crate) async fn replay(&mut self) -> Result<bool> {
        let sequence = self.active().await?;
        let Some(last) = sequence.last() else { return Ok(false) };
        let head = self.entry(*last).await?.expect("part of the sequence").header;
        let length = self.file.length();
        if head.flushed_file_offset > length {
            return Err(BlockError::malformed(format!(
                "vhdx log: the file has {length} bytes and had {} when the log was written: it has been truncated",
                head.flushed_file_offset
            )));
        }
        let end = head.last_file_offset;
        if end > MAX_FILE {
            return Err(BlockError::malformed(format!("vhdx log: last file offset {end:#x}")));
        }
        if end > length {
            self.file.truncate(end, Truncate::default()).await?;
        }
        let mut zero_budget = 4 * length;
        for place in sequence {
            let Some((entry, bytes)) = self.read_entry(place).await? else {
                return Err(BlockError::new(libc::EIO, "vhdx log: changed while it was read"));
            };
            let pieces = parse_pieces(&bytes, entry.header.sequence).unwrap_or_default();
            for piece in &pieces {
                self.apply(piece, length, end.max(length), &mut zero_budget).await?;
            }
        }
        self.file.flush().await?;
        Ok(true)
    }

    async fn apply(&self, piece: &Piece<'_>, old_end: u64, end: u64, zero_budget: &mut u64) -> Result<()> {
        let (offset, len) = match piece {
            Piece::Data { offset, .. } => (*offset, SECTOR),
            Piece::Zero { offset, len } => (*offset, *len),
        };
        let stop = offset.checked_add(len).filter(|stop| *stop <= end);
        let place = stop.map(|stop| Region { offset, len: stop - offset });
        if place.is_none_or(|place| offset < HEADERS_END || place.overlaps(self.region)) {
            return Err(BlockError::malformed(format!(
                "vhdx log: descriptor for {len} bytes at {offset:#x}"
            )));
        }
        match piece {
            Piece::Data { leading, middle, trailing, .. } => {
                self.file.write_bytes(offset, &[*leading, *middle, *trailing].concat()).await
            }
            Piece::Zero { .. } => {
                // What the file has just grown by is zero already.
                let len = offset.saturating_add(len).min(old_end).saturating_sub(offset);
                *zero_budget = zero_budget
                    .checked_sub(len)
                    .ok_or_else(|| BlockError::malformed("vhdx log: zeroes the file over and over"))?;
                self.file.write_zeroes(offset, len, WriteFlags::empty()).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rhea_async_io::block_on;
    use rhea_block::{MemoryNode, OpenFlags};

    use super::*;
    use crate::layout::MIB;

    const LOG: Region = Region { offset: MIB, len: MIB };
    const GUID: Guid = Guid([7; 16]);

    fn file(len: usize) -> Arc<BlockNode> {
        BlockNode::anonymous("memory", Box::new(MemoryNode::new(vec![0; len])), OpenFlags::empty())
    }

    fn put(file: &BlockNode, at: u64, sequence: u64, tail: u64, target: u64, fill: u8) -> u64 {
        let header = EntryHeader { sequence, tail, flushed_file_offset: 4 << 20, last_file_offset: 5 << 20 };
        let bytes = encode_entry(header, GUID, &[(target, &[fill; 4096])]);
        let first = bytes.len().min((LOG.len - at) as usize);
        block_on(file.write_bytes(LOG.offset + at, &bytes[..first])).unwrap();
        if first < bytes.len() {
            block_on(file.write_bytes(LOG.offset, &bytes[first..])).unwrap();
        }
        (at + bytes.len() as u64) % LOG.len
    }

    fn byte(file: &BlockNode, at: u64) -> u8 {
        let mut byte = [0];
        block_on(file.read_bytes(at, &mut byte)).unwrap();
        byte[0]
    }

    #[test]
    fn the_newest_whole_sequence_is_replayed_from_its_tail() {
        let file = file(4 << 20);
        // An old sequence, and a newer one that wraps around the ring's end.
        put(&file, 64 << 10, 3, 64 << 10, 3 << 20, 0xaa);
        let start = LOG.len - 12 * 1024;
        let next = put(&file, start, 10, start, (3 << 20) + 4096, 1);
        let next = put(&file, next, 11, start, (3 << 20) + 8192, 2);
        put(&file, next, 12, start, (3 << 20) + 8192, 3);
        assert!(block_on(Log::new(&file, LOG, GUID).unwrap().replay()).unwrap());
        assert_eq!(byte(&file, 3 << 20), 0);
        assert_eq!(byte(&file, (3 << 20) + 4096), 1);
        assert_eq!(byte(&file, (3 << 20) + 8192), 3);
        assert_eq!(file.length(), 5 << 20);
    }

    #[test]
    fn a_torn_entry_ends_the_sequence_before() {
        let file = file(4 << 20);
        let next = put(&file, 0, 1, 0, 3 << 20, 1);
        put(&file, next, 2, next, 3 << 20, 2);
        block_on(file.write_bytes(LOG.offset + next + 5000, &[0x55])).unwrap();
        assert!(block_on(Log::new(&file, LOG, GUID).unwrap().replay()).unwrap());
        assert_eq!(byte(&file, 3 << 20), 1);
    }

    #[test]
    fn pieces_stay_out_of_the_headers_and_the_log() {
        for target in [0, 128 << 10, MIB, 2 * MIB - 4096, 5 << 20] {
            let file = file(4 << 20);
            put(&file, 0, 1, 0, target, 1);
            let error = block_on(Log::new(&file, LOG, GUID).unwrap().replay()).unwrap_err();
            assert!(error.to_string().contains("descriptor"), "{target:#x}: {error}");
        }
    }

    #[test]
    fn a_file_cut_short_is_not_replayed() {
        let file = file(3 << 20);
        put(&file, 0, 1, 0, 2 << 20, 1);
        let error = block_on(Log::new(&file, LOG, GUID).unwrap().replay()).unwrap_err();
        assert!(error.to_string().contains("truncated"), "{error}");
    }
}

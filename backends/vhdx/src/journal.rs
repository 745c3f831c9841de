//! Changing metadata so that a crash at any moment leaves the image whole.
//!
//! Changes of the BAT gather in memory ([`crate::bat`]); a commit brings them to the file:
//!
//! 1. flush the file: the payload and the file's new length are on stable storage, and so is whatever the last commit
//!    wrote to its place;
//! 2. write an entry with the changed pages to the log, and flush;
//! 3. if the header does not name the log yet, write the other copy of the header with the log's GUID, and flush;
//! 4. write the pages to their places.
//!
//! Invariants, for every prefix and every reordering between flushes:
//!
//! * A page in its place only ever changes when the log has, on stable storage, an entry with the whole new page, and the
//!   header names the log. So a torn page is repaired by replay.
//! * Every entry is a sequence of its own (its tail is itself). It may be that, as step 1 made the places of all earlier
//!   entries durable. A torn newest entry leaves the one before as the newest sequence, and replaying that changes
//!   nothing that came later, as nothing later has been written to its place.
//! * An entry has at most a third of the log's length, so that it never overwrites the one before it.
//! * The header names the log only while there is a valid entry in it: the entry is there before the header, and the
//!   header is changed back (when the image is closed) after the places are durable.
//! * A block that the BAT names for the first time is new space at the file's end, which reads as zeroes like the entry
//!   before did; so it does not matter which part of its payload was written. Space is never used again, so a crash
//!   leaves leaks at most.

use rhea_block::{BlockError, BlockNode, Result};

use crate::bat::Table;
use crate::layout::{Guid, HEADER_OFFSETS, Header};
use crate::log::{EntryHeader, SECTOR, encode_entry, entry_len};

/// Flushes, for a reason that the file is told of as a debug event: so the crash tests can leave out the flushes of one
/// name, and show that each is needed.
async fn flush(file: &BlockNode, why: &'static str) -> Result<()> {
    file.debug_event(why).await;
    file.flush().await
}

/// The writing side of header and log.
pub(crate) struct Journal {
    header: Header,
    /// Which copy of the header is the current one.
    copy: usize,
    /// The header's GUIDs say that this session changes the file.
    announced: bool,
    /// The GUID of the entries this session writes.
    guid: Option<Guid>,
    sequence: u64,
    /// Where in the log the next entry goes.
    at: u64,
}

impl Journal {
    pub(crate) fn new(header: Header, copy: usize) -> Self {
        Self { header, copy, announced: false, guid: None, sequence: 1, at: 0 }
    }

    /// Whether the header names a log.
    pub(crate) fn is_active(&self) -> bool {
        self.header.log_guid != Guid::ZERO
    }

    /// Writes a changed header over the older copy and waits until it is there.
    async fn update_header(&mut self, file: &BlockNode, change: impl FnOnce(&mut Header)) -> Result<()> {
        let mut header = self.header.clone();
        header.sequence = header
            .sequence
            .checked_add(1)
            .ok_or_else(|| BlockError::malformed("vhdx header: the sequence number cannot rise"))?;
        change(&mut header);
        let copy = 1 - self.copy;
        file.write_bytes(HEADER_OFFSETS[copy], &header.encode()).await?;
        flush(file, "vhdx_after_header").await?;
        self.header = header;
        self.copy = copy;
        Ok(())
    }

    /// Gives the file new GUIDs before it is changed for the first time since it was opened (section 2.2.2).
    pub(crate) async fn announce(&mut self, file: &BlockNode) -> Result<()> {
        if self.announced {
            return Ok(());
        }
        let (file_write, data_write) = (Guid::random()?, Guid::random()?);
        self.update_header(file, |header| {
            header.file_write_guid = file_write;
            header.data_write_guid = data_write;
        })
        .await?;
        self.announced = true;
        Ok(())
    }

    /// Pieces of 4 KiB that fit into an entry.
    pub(crate) fn capacity(&self) -> usize {
        let mut pieces = (self.header.log.len / 3 / SECTOR) as usize - 1;
        while entry_len(pieces) > self.header.log.len / 3 {
            pieces -= 1;
        }
        pieces.min(1024)
    }

    /// Steps 1 to 4 for pieces of metadata that are not in the BAT's cache.
    pub(crate) async fn commit_pieces(&mut self, file: &BlockNode, pieces: &[(u64, &[u8])]) -> Result<()> {
        flush(file, "vhdx_before_log").await?;
        self.log(file, pieces).await?;
        for (offset, bytes) in pieces {
            file.write_bytes(*offset, bytes).await?;
        }
        Ok(())
    }

    /// Steps 1 to 4 until no page of the table is changed. Everything written before is on stable storage then.
    pub(crate) async fn commit(&mut self, file: &BlockNode, table: &Table) -> Result<()> {
        let capacity = self.capacity();
        loop {
            let taken = table.take_dirty(capacity);
            if taken.pages.is_empty() {
                return flush(file, "vhdx_payload").await;
            }
            self.announce(file).await?;
            let pieces: Vec<(u64, &[u8])> =
                taken.pages.iter().map(|(page, bytes)| (table.page_offset(*page), &bytes[..])).collect();
            self.commit_pieces(file, &pieces).await?;
            let last = taken.pages.len() < capacity;
            taken.written();
            if last {
                return Ok(());
            }
        }
    }

    /// Steps 2 and 3.
    async fn log(&mut self, file: &BlockNode, pieces: &[(u64, &[u8])]) -> Result<()> {
        let guid = match self.guid {
            Some(guid) => guid,
            None => *self.guid.insert(Guid::random()?),
        };
        let len = entry_len(pieces.len());
        if self.at + len > self.header.log.len {
            self.at = 0;
        }
        let length = file.length();
        let entry = EntryHeader {
            sequence: self.sequence,
            tail: self.at,
            flushed_file_offset: length,
            last_file_offset: length,
        };
        let bytes = encode_entry(entry, guid, pieces);
        file.write_bytes(self.header.log.offset + self.at, &bytes).await?;
        flush(file, "vhdx_after_log").await?;
        // From here on the entry may be the newest one in the log; the next must not take its place.
        self.at += len;
        self.sequence += 1;
        if self.header.log_guid != guid {
            self.update_header(file, |header| header.log_guid = guid).await?;
        }
        Ok(())
    }

    /// Makes the places durable and takes the log out of the header.
    pub(crate) async fn clear(&mut self, file: &BlockNode) -> Result<()> {
        if self.is_active() {
            flush(file, "vhdx_before_clear").await?;
            self.update_header(file, |header| header.log_guid = Guid::ZERO).await?;
            self.guid = None;
            self.at = 0;
        }
        Ok(())
    }
}

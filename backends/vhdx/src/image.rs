//! An open image.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use async_lock::Mutex as AsyncMutex;
use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView};
use rhea_block::{
    BlockError, BlockNode, CheckResult, Edge, FormatInfo, Limits, Node, OpenContext, OpenFlags, Repair,
    Result, Role, Truncate, WriteFlags,
};
use rhea_options::Options;

use crate::bat::{Entry, EntryCheck, State, Table};
use crate::journal::Journal;
use crate::layout::{
    FILE_SIGNATURE, Guid, HEADER_LEN, HEADER_OFFSETS, Header, MAX_DISK_SIZE, METADATA_TABLE_LEN, MIB,
    MetadataTable, Parameters, REGION_TABLE_LEN, REGION_TABLE_OFFSETS, Region, RegionTable, le32, le64,
};
use crate::log::{Log, SECTOR};

/// A vhdx image.
pub(crate) struct Image {
    pub(crate) file: Arc<Edge>,
    pub(crate) parameters: Parameters,
    pub(crate) disk_size: AtomicU64,
    header: Header,
    regions: RegionTable,
    /// Where in the file the disk's size is.
    size_at: u64,
    pub(crate) table: Table,
    /// The log had to be replayed to open the image.
    pub(crate) replayed: bool,
    journal: AsyncMutex<Journal>,
    /// The header tells that the file is being changed.
    announced: AtomicBool,
    /// Where the next block goes: behind the file's end and all blocks, a multiple of one MiB.
    end: AsyncMutex<u64>,
}

async fn read(file: &BlockNode, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    file.read_bytes(offset, &mut bytes).await?;
    Ok(bytes)
}

async fn read_header(file: &BlockNode) -> Result<(Header, usize)> {
    let first = read(file, HEADER_OFFSETS[0], HEADER_LEN).await?;
    let second = read(file, HEADER_OFFSETS[1], HEADER_LEN).await?;
    Header::current([&first, &second])
}

impl Image {
    pub(crate) async fn open(context: &OpenContext<'_>, options: &mut Options) -> Result<Self> {
        let edge = context.open_child(options, "file", Role::File).await?;
        let file = edge.node();
        if read(&file, 0, FILE_SIGNATURE.len()).await? != FILE_SIGNATURE {
            return Err(BlockError::malformed("image is not in VHDX format"));
        }
        let (header, copy) = read_header(&file).await?;
        let mut journal = Journal::new(header.clone(), copy);
        let replayed = replay(context, &file, &header, &mut journal).await?;
        // Not before the replay: the log may have changed these.
        let first = read(&file, REGION_TABLE_OFFSETS[0], REGION_TABLE_LEN).await?;
        let second = read(&file, REGION_TABLE_OFFSETS[1], REGION_TABLE_LEN).await?;
        let regions = RegionTable::current([&first, &second], header.log)?;
        let (parameters, size_at) = read_metadata(&file, regions.metadata).await?;
        let needed = parameters.bat_entries(parameters.disk_size) * 8;
        if needed > regions.bat.len {
            return Err(BlockError::malformed(format!(
                "vhdx region table: the BAT region has {} bytes, the disk needs {needed}",
                regions.bat.len
            )));
        }
        let image = Self {
            end: AsyncMutex::new(0),
            file: edge,
            parameters,
            disk_size: AtomicU64::new(parameters.disk_size),
            header,
            table: Table::new(regions.bat),
            regions,
            size_at,
            replayed,
            journal: AsyncMutex::new(journal),
            announced: AtomicBool::new(false),
        };
        let (end, bad) = image.scan_table().await?;
        if let Some(error) = bad
            && !context.flags.contains(OpenFlags::CHECK)
        {
            return Err(error);
        }
        *image.end.lock().await = end;
        Ok(image)
    }

    /// Reads the whole table from the file: where the last block ends (or the file, if later), and what is wrong with
    /// the first entry that cannot be as it is.
    async fn scan_table(&self) -> Result<(u64, Option<BlockError>)> {
        let check = self.entry_check();
        let mut end = check.file_length;
        let mut bad = None;
        let ratio = self.parameters.chunk_ratio();
        let entries = self.parameters.bat_entries(self.length());
        let mut at = 0;
        let mut bytes = vec![0; MIB as usize];
        while at < entries {
            let count = (entries - at).min(MIB / 8);
            let bytes = &mut bytes[..count as usize * 8];
            self.file.node().read_bytes(self.regions.bat.offset + at * 8, bytes).await?;
            for (index, entry) in (at..).zip(bytes.chunks_exact(8)) {
                // Every entry behind a whole chunk is that of a sector bitmap.
                if index % (ratio + 1) == ratio {
                    continue;
                }
                let block = index - index / (ratio + 1);
                match check.place(block, Entry(le64(entry, 0))) {
                    Ok(None) => {}
                    Ok(Some(place)) => end = end.max(place + check.block_size),
                    Err(error) => bad = bad.or(Some(error)),
                }
            }
            at += count;
        }
        Ok((end.next_multiple_of(MIB), bad))
    }

    pub(crate) fn entry_check(&self) -> EntryCheck {
        EntryCheck {
            file_length: self.file.node().length(),
            block_size: self.parameters.block_size,
            disk_size: self.length(),
            regions: [
                ("log", self.header.log),
                ("BAT", self.regions.bat),
                ("metadata", self.regions.metadata),
            ],
        }
    }

    /// The index in the table of a block's entry.
    pub(crate) fn index(&self, block: u64) -> u64 {
        block + block / self.parameters.chunk_ratio()
    }

    /// The block at an offset of the disk, the offset within it, and how many of `len` bytes it has.
    fn locate(&self, offset: u64, len: u64) -> (u64, u64, u64) {
        let size = self.parameters.block_size;
        let within = offset % size;
        (offset / size, within, len.min(size - within))
    }

    /// The entry of a block and where its data lies, if it has any.
    async fn look_up(&self, block: u64) -> Result<(Entry, Option<u64>)> {
        let entry = self.table.get(&self.file.node(), self.index(block)).await?;
        Ok((entry, self.entry_check().place(block, entry)?))
    }

    /// Called before anything of the file changes.
    async fn announce(&self) -> Result<()> {
        if !self.announced.load(Relaxed) {
            let mut journal = self.journal.lock().await;
            journal.announce(&self.file.node()).await?;
            self.announced.store(true, Relaxed);
        }
        Ok(())
    }

    /// The place of a block's data; new space at the file's end if it has none yet.
    async fn allocate(&self, block: u64) -> Result<u64> {
        let place = {
            let mut end = self.end.lock().await;
            let (entry, place) = self.look_up(block).await?;
            if let Some(place) = place {
                return Ok(place);
            }
            let file = self.file.node();
            let start = (*end).max(file.length().next_multiple_of(MIB));
            let stop = start + self.parameters.block_size;
            if stop > rhea_block::MAX_LENGTH {
                return Err(BlockError::os(libc::EFBIG));
            }
            // The file's new part reads as zeroes, which is what the block was.
            file.truncate(stop, Truncate { exact: true, ..Truncate::default() }).await.map_err(|error| {
                match error.is_unsupported() {
                    true => BlockError::os(libc::ENOSPC),
                    false => error,
                }
            })?;
            *end = stop;
            let new = Entry::new(State::FullyPresent, start);
            if !self.table.replace(&file, self.index(block), entry, new).await? {
                // A write of zeroes may have changed it to another state without data.
                let (entry, place) = self.look_up(block).await?;
                assert!(place.is_none(), "blocks get a place only here");
                assert!(self.table.replace(&file, self.index(block), entry, new).await?, "changed twice");
            }
            start
        };
        self.commit_if_many().await?;
        Ok(place)
    }

    /// Keeps the number of pages that only memory has within what one log entry takes.
    async fn commit_if_many(&self) -> Result<()> {
        let mut journal = match self.table.dirty_pages() {
            0..64 => return Ok(()),
            _ => self.journal.lock().await,
        };
        if self.table.dirty_pages() >= 64 {
            journal.commit(&self.file.node(), &self.table).await?;
        }
        Ok(())
    }

    /// Makes a block that has no data read as zeroes for every reader of the format.
    async fn mark_zero(&self, block: u64, entry: Entry) -> Result<()> {
        if entry.state() != Some(State::Zero) {
            let index = self.index(block);
            // If it has changed meanwhile, then to data by a write that may just as well come after this one.
            self.table.replace(&self.file.node(), index, entry, Entry::new(State::Zero, 0)).await?;
            self.commit_if_many().await?;
        }
        Ok(())
    }

    async fn grow(&self, length: u64) -> Result<()> {
        let old = self.length();
        let sector = u64::from(self.parameters.logical_sector_size);
        if !length.is_multiple_of(sector) {
            return Err(BlockError::invalid(format!("A VHDX disk's size must be a multiple of {sector}")));
        }
        if length > MAX_DISK_SIZE {
            return Err(BlockError::invalid("Image size too large; max of 64TB"));
        }
        if self.parameters.bat_entries(length) > self.table.capacity() {
            return Err(BlockError::unsupported(format!(
                "the image's block allocation table has no room for more than {} entries",
                self.table.capacity()
            )));
        }
        self.announce().await?;
        let file = self.file.node();
        if !old.is_multiple_of(self.parameters.block_size)
            && let (_, Some(place)) = self.look_up(old / self.parameters.block_size).await?
        {
            let (_, within, len) = self.locate(old, length - old);
            file.write_zeroes(place + within, len, WriteFlags::empty()).await?;
        }
        // Entries behind the old end may hold anything.
        for index in self.parameters.bat_entries(old)..self.parameters.bat_entries(length) {
            let entry = self.table.get(&file, index).await?;
            let ratio = self.parameters.chunk_ratio();
            let new = match index % (ratio + 1) == ratio {
                true => Entry(0),
                false => Entry::new(State::Zero, 0),
            };
            if entry != new {
                self.table.replace(&file, index, entry, new).await?;
                self.commit_if_many().await?;
            }
        }
        let mut journal = self.journal.lock().await;
        journal.commit(&file, &self.table).await?;
        let sector = self.size_at / SECTOR * SECTOR;
        // The item may straddle two sectors, as nothing says that it is aligned.
        let mut bytes = read(&file, sector, 2 * SECTOR as usize).await?;
        let within = (self.size_at - sector) as usize;
        bytes[within..within + 8].copy_from_slice(&length.to_le_bytes());
        let (first, second) = bytes.split_at(SECTOR as usize);
        let mut pieces = vec![(sector, first)];
        if within + 8 > SECTOR as usize {
            pieces.push((sector + SECTOR, second));
        }
        journal.commit_pieces(&file, &pieces).await?;
        self.disk_size.store(length, Relaxed);
        Ok(())
    }

    /// Brings everything to its place and leaves the log empty.
    async fn finish(&self) -> Result<()> {
        let file = self.file.node();
        if file.is_read_only() {
            return Ok(());
        }
        let mut journal = self.journal.lock().await;
        journal.commit(&file, &self.table).await?;
        journal.clear(&file).await
    }
}

/// Replays the log if the header names one.
async fn replay(
    context: &OpenContext<'_>,
    file: &BlockNode,
    header: &Header,
    journal: &mut Journal,
) -> Result<bool> {
    if header.log_guid == Guid::ZERO {
        return Ok(false);
    }
    if !context.writable() || file.is_read_only() {
        let name = context.filename;
        return Err(BlockError::new(
            libc::EPERM,
            format!(
                "VHDX image file '{name}' opened read-only, but contains a log that needs to be replayed"
            ),
        )
        .with_hint(format!("To replay the log, run:\nqemu-img check -r all '{name}'")));
    }
    let found = Log::new(file, header.log, header.log_guid)?.replay().await?;
    // A header that names a log without a valid entry was written before its first entry: nothing was changed yet.
    journal.clear(file).await?;
    Ok(found)
}

async fn read_metadata(file: &BlockNode, region: Region) -> Result<(Parameters, u64)> {
    let bytes = read(file, region.offset, METADATA_TABLE_LEN).await?;
    let table = MetadataTable::parse(&bytes, region)?;
    let at = |item: crate::layout::MetadataItem| region.offset + u64::from(item.offset);
    let mut parameters = [0; 8];
    file.read_bytes(at(table.file_parameters), &mut parameters).await?;
    let size_at = at(table.virtual_disk_size);
    let disk_size = le64(&read(file, size_at, 8).await?, 0);
    let sector_size = le32(&read(file, at(table.logical_sector_size), 4).await?, 0);
    Ok((Parameters::from_items(parameters, disk_size, sector_size)?, size_at))
}

#[async_trait]
impl Node for Image {
    fn limits(&self) -> Limits {
        Limits { native_write_zeroes: WriteFlags::MAY_UNMAP | WriteFlags::NO_FALLBACK, ..Limits::default() }
    }

    fn length(&self) -> u64 {
        self.disk_size.load(Relaxed)
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        vec![self.file.clone()]
    }

    async fn read(&self, mut offset: u64, data: &mut IoVector) -> Result<()> {
        let mut rest = data.take();
        while !rest.is_empty() {
            let (block, within, len) = self.locate(offset, rest.len() as u64);
            let mut part = rest;
            rest = part.split_off(len as usize);
            match self.look_up(block).await?.1 {
                Some(place) => self.file.node().read(place + within, &mut part).await?,
                None => part.fill(0..part.len(), 0),
            }
            data.append(part);
            offset += len;
        }
        Ok(())
    }

    async fn write(&self, offset: u64, data: IoView<'_>, _: WriteFlags) -> Result<()> {
        self.announce().await?;
        let mut done = 0;
        while done < data.len() {
            let (block, within, len) = self.locate(offset + done as u64, (data.len() - done) as u64);
            let place = match self.look_up(block).await?.1 {
                Some(place) => place,
                None => self.allocate(block).await?,
            };
            let part = data.slice(done..done + len as usize);
            self.file.node().write(place + within, part, WriteFlags::empty()).await?;
            done += len as usize;
        }
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, len: u64, mut flags: WriteFlags) -> Result<()> {
        self.announce().await?;
        if self.parameters.leave_blocks_allocated {
            flags -= WriteFlags::MAY_UNMAP;
        }
        let mut done = 0;
        while done < len {
            let (block, within, part) = self.locate(offset + done, len - done);
            match self.look_up(block).await? {
                (_, Some(place)) => self.file.node().write_zeroes(place + within, part, flags).await?,
                (entry, None) => self.mark_zero(block, entry).await?,
            }
            done += part;
        }
        Ok(())
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        // A fixed image keeps its storage, and blocks without data have none.
        if self.parameters.leave_blocks_allocated {
            return Ok(());
        }
        self.announce().await?;
        let mut done = 0;
        while done < len {
            let (block, within, part) = self.locate(offset + done, len - done);
            if let (_, Some(place)) = self.look_up(block).await? {
                self.file.node().discard(place + within, part).await?;
            }
            done += part;
        }
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        let mut journal = self.journal.lock().await;
        journal.commit(&self.file.node(), &self.table).await
    }

    async fn truncate(&self, length: u64, how: Truncate) -> Result<()> {
        if how.preallocation != rhea_block::Preallocation::Off {
            return Err(BlockError::unsupported(format!(
                "Unsupported preallocation mode '{}'",
                how.preallocation.word()
            )));
        }
        match length.cmp(&self.length()) {
            std::cmp::Ordering::Less => Err(BlockError::unsupported("VHDX images cannot be shrunk")),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => self.grow(length).await,
        }
    }

    async fn format_info(&self) -> Result<FormatInfo> {
        // Readers may return anything for blocks that are "not present"; only images whose blocks are "zero" promise more.
        let unallocated_is_zero = match self.length() {
            0 => true,
            _ => self.look_up(0).await?.0.state() != Some(State::NotPresent),
        };
        Ok(FormatInfo {
            cluster_size: self.parameters.block_size,
            unallocated_is_zero,
            ..FormatInfo::default()
        })
    }

    async fn check(&self, _: Repair) -> Result<CheckResult> {
        crate::check::check(self).await
    }

    async fn reopen(&self, flags: OpenFlags, options: Options) -> Result<()> {
        rhea_block::refuse_changes(&options)?;
        match flags.contains(OpenFlags::READ_ONLY) {
            true => self.finish().await,
            false => Ok(()),
        }
    }

    async fn close(&self) -> Result<()> {
        self.finish().await
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

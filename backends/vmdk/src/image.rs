//! An open disk: its extents, and requests to them.
//!
//! # Crash safety
//! A grain that is written for the first time gets new space behind the file's end, and is written there whole (with
//! what is around the request from the backing file). Its grain table entry changes in memory only. A commit (by a flush,
//! or when many tables have changed) flushes the files, so that the grains are on stable storage, then writes the tables,
//! the redundant ones first, and flushes again. Entries are four bytes and never cross a sector, so after a crash each
//! is the old one or the new one, and the new ones refer to grains that are there. Space is never used twice; what is
//! lost by a crash is leaked space, and possibly a redundant table that is a step ahead, which `check -r leaks` repairs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use async_lock::Mutex as AsyncMutex;
use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView};
use rhea_block::{
    BackingFile, BackingSlot, BlockError, BlockNode, BlockStatus, CheckResult, Edge, FormatInfo, Limits,
    Node, OpenFlags, Repair, Result, StatusFlags, WriteFlags, read_behind,
};
use rhea_options::Options;
use serde_json::{Value, json};

use crate::descriptor::{Access, ExtentType, NO_PARENT, cid_digits};
use crate::grain;
use crate::sparse::{SECTOR, Sparse};
use crate::tables::{Tables, place};

/// How an extent keeps its part of the disk.
pub(crate) enum Storage {
    /// As it is, from an offset of the file on.
    Flat(u64),
    Zero,
    Sparse(Sparse),
}

/// A part of the disk.
pub(crate) struct Extent {
    /// Where on the disk it starts, and its bytes.
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) access: Access,
    /// `None`: the extent of a monolithic disk, which no line of a descriptor describes.
    pub(crate) kind: Option<ExtentType>,
    pub(crate) storage: Storage,
    pub(crate) file: Option<Arc<Edge>>,
    /// Held while space is taken at the file's end, which is never before this.
    pub(crate) end: AsyncMutex<u64>,
}

impl Extent {
    pub(crate) fn node(&self) -> Result<Arc<BlockNode>> {
        match &self.file {
            Some(edge) => Ok(edge.node()),
            None => Err(BlockError::new(libc::EIO, "vmdk: a ZERO extent has no file")),
        }
    }

    pub(crate) fn sparse(&self) -> Option<&Sparse> {
        match &self.storage {
            Storage::Sparse(sparse) => Some(sparse),
            _ => None,
        }
    }
}

/// Where the descriptor lies in its file.
pub(crate) struct DescriptorPlace {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// An open disk.
pub(crate) struct Image {
    /// The file that was opened: a descriptor, or the one extent of a monolithic disk.
    pub(crate) file: Arc<Edge>,
    pub(crate) extents: Vec<Extent>,
    pub(crate) tables: Tables,
    pub(crate) backing: Arc<BackingSlot>,
    pub(crate) cid: AtomicU32,
    pub(crate) parent_cid: u32,
    pub(crate) parent: Option<String>,
    pub(crate) create_type: String,
    pub(crate) descriptor: DescriptorPlace,
    /// The content ID has changed since the disk was opened.
    pub(crate) announced: AsyncMutex<bool>,
    pub(crate) announced_hint: AtomicBool,
    pub(crate) parent_is_valid: AtomicBool,
    pub(crate) committing: AsyncMutex<()>,
}

/// What a stretch of an extent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// In the file, at this offset, as it is.
    Data(u64),
    /// A compressed grain at this offset.
    Compressed(u64),
    Zero,
    Unallocated,
}

impl Image {
    /// The extent that has a byte of the disk, its number, and the byte's offset in it.
    fn extent(&self, offset: u64) -> Result<(usize, &Extent, u64)> {
        let number = self.extents.partition_point(|e| e.start <= offset);
        let number = number.checked_sub(1).ok_or_else(|| BlockError::os(libc::EIO))?;
        let extent = &self.extents[number];
        match offset - extent.start {
            within if within < extent.length => Ok((number, extent, within)),
            _ => Err(BlockError::os(libc::EIO)),
        }
    }

    /// What lies at an offset of an extent, and how many of `len` bytes (all within the extent) are like that.
    async fn run(&self, number: usize, offset: u64, len: u64) -> Result<(Kind, u64)> {
        let extent = &self.extents[number];
        let len = len.min(extent.length - offset);
        let sparse = match &extent.storage {
            Storage::Flat(start) => return Ok((Kind::Data(start + offset), len)),
            Storage::Zero => return Ok((Kind::Zero, len)),
            Storage::Sparse(sparse) => sparse,
        };
        let span = sparse.table_span();
        let table = (offset / span) as usize;
        let len = len.min(span - offset % span);
        if sparse.directory.get(table).is_none_or(|at| *at == 0) {
            return Ok((Kind::Unallocated, len));
        }
        let first = (offset % span / sparse.grain) as usize;
        let within = offset % sparse.grain;
        let file = extent.node()?;
        self.tables
            .with(&file, sparse, (number, table), |entries| {
                let kind = kind_of(sparse, entries[first]);
                let step = u64::from(sparse.step());
                let mut end = sparse.grain - within;
                let mut next = first + 1;
                while end < len && next < entries.len() {
                    let follows = match kind {
                        Kind::Data(_) => {
                            let expected = u64::from(entries[first]) + (next - first) as u64 * step;
                            u64::from(entries[next]) == expected
                        }
                        Kind::Compressed(_) => false,
                        other => kind_of(sparse, entries[next]) == other,
                    };
                    if !follows {
                        break;
                    }
                    end += sparse.grain;
                    next += 1;
                }
                let kind = match kind {
                    Kind::Data(at) => Kind::Data(at + within),
                    other => other,
                };
                (kind, end.min(len))
            })
            .await
    }

    async fn read_part(&self, offset: u64, mut data: IoVector) -> Result<(IoVector, Option<IoVector>)> {
        let (number, extent, within) = self.extent(offset)?;
        let (kind, len) = self.run(number, within, data.len() as u64).await?;
        let rest = (len < data.len() as u64).then(|| data.split_off(len as usize));
        match kind {
            Kind::Data(at) => {
                let file = extent.node()?;
                file.debug_event("read_aio").await;
                file.read(at, &mut data).await?;
            }
            Kind::Zero => data.fill(0..data.len(), 0),
            Kind::Unallocated => self.read_parent(offset, &mut data).await?,
            Kind::Compressed(at) => {
                let sparse = extent.sparse().ok_or_else(|| BlockError::os(libc::EIO))?;
                extent.node()?.debug_event("read_compressed").await;
                let bytes = grain::read(&*extent.node()?, sparse, at, within / sparse.grain).await?;
                let from = (within % sparse.grain) as usize;
                data.write(0, &bytes[from..from + len as usize]);
            }
        }
        Ok((data, rest))
    }

    /// Fills data from the parent, which must have the content this disk was made for.
    async fn read_parent(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        if let Some(edge) = self.backing.load_full()
            && !self.parent_is_valid.load(Relaxed)
            && self.parent_cid != NO_PARENT
        {
            let node = edge.node().skip_filters();
            let cid = node.downcast::<Image>().map(|parent| parent.cid.load(Relaxed));
            if cid != Some(self.parent_cid) {
                return Err(BlockError::invalid(
                    "vmdk: the parent's content ID (CID) is not the one this disk was made for: it has been changed",
                ));
            }
            self.parent_is_valid.store(true, Relaxed);
        }
        read_behind(&self.backing, offset, data).await
    }

    /// Gives the disk a new content ID before it is written for the first time since it was opened.
    async fn announce(&self) -> Result<()> {
        if self.announced_hint.load(Relaxed) {
            return Ok(());
        }
        let mut announced = self.announced.lock().await;
        if !*announced {
            self.write_cid(random_cid()?).await?;
            *announced = true;
            self.announced_hint.store(true, Relaxed);
        }
        Ok(())
    }

    async fn write_cid(&self, cid: u32) -> Result<()> {
        let file = self.file.node();
        let mut text = vec![0; self.descriptor.len as usize];
        file.read_bytes(self.descriptor.offset, &mut text).await?;
        let digits = cid_digits(&text).ok_or_else(|| BlockError::malformed("vmdk descriptor: no CID"))?;
        let at = self.descriptor.offset + digits.start as u64;
        let new = format!("{cid:08x}");
        if digits.len() == new.len() {
            // A few bytes in a sector: a crash leaves the old number, or the new one.
            file.write_bytes(at, new.as_bytes()).await?;
        } else {
            let mut whole = text[..digits.start].to_vec();
            whole.extend_from_slice(new.as_bytes());
            let end = text.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
            whole.extend_from_slice(&text[digits.end..end.max(digits.end)]);
            let embedded = self.descriptor.offset != 0;
            if embedded && whole.len() as u64 > self.descriptor.len {
                return Err(BlockError::malformed("vmdk descriptor: no room for a new CID"));
            }
            file.write_bytes(self.descriptor.offset, &whole).await?;
        }
        self.cid.store(cid, Relaxed);
        Ok(())
    }

    /// The extent at an offset, if it may be written.
    fn writable(&self, offset: u64) -> Result<(usize, &Extent, u64)> {
        let (number, extent, within) = self.extent(offset)?;
        let read_only = extent.access == Access::ReadOnly || extent.sparse().is_some_and(|s| s.read_only);
        match read_only {
            true => Err(BlockError::os(libc::EPERM)),
            false => Ok((number, extent, within)),
        }
    }

    /// Writes grains that have no place yet: `len` bytes at an extent's offset, within one grain table.
    async fn allocate(&self, number: usize, offset: u64, data: IoView<'_>) -> Result<u64> {
        let extent = &self.extents[number];
        let sparse = extent.sparse().ok_or_else(|| BlockError::os(libc::EIO))?;
        let file = extent.node()?;
        let grain = sparse.grain;
        let table = (offset / sparse.table_span()) as usize;
        // Both must be there before anything is written.
        place(&file, sparse, &sparse.directory, table)?;
        if !sparse.redundant.is_empty() {
            place(&file, sparse, &sparse.redundant, table)?;
        }
        let mut end = extent.end.lock().await;
        let (kind, run) = self.run(number, offset, data.len() as u64).await?;
        if !matches!(kind, Kind::Unallocated | Kind::Zero) {
            // Another write was first; the caller looks again.
            return Ok(0);
        }
        let stop = offset + run;
        let (from, to) = (offset / grain * grain, stop.next_multiple_of(grain));
        let mut bytes = IoVector::zeroed((to - from) as usize);
        if kind == Kind::Unallocated && self.backing.load().is_some() {
            // What lies before the request in its first grain, and behind it in the last.
            for (part, stop) in [(from, offset), (stop, to.min(extent.length))] {
                if part < stop {
                    let mut old = IoVector::zeroed((stop - part) as usize);
                    file.debug_event("cow_read").await;
                    self.read_parent(extent.start + part, &mut old).await?;
                    bytes.write_view((part - from) as usize, &old.view());
                }
            }
        }
        bytes.write_view((offset - from) as usize, &data.slice(0..run as usize));
        let at = (*end).max(file.length()).next_multiple_of(grain);
        let first = sector_number(at)?;
        sector_number(at + (to - from))?;
        file.debug_event("write_aio").await;
        file.write(at, &bytes, WriteFlags::empty()).await?;
        *end = at + (to - from);
        let count = ((to - from) / grain) as u32;
        let step = sparse.step();
        let entries: Vec<u32> = (0..count).map(|i| first + i * step).collect();
        let index = (from % sparse.table_span() / grain) as usize;
        self.tables.set(&file, sparse, (number, table), index, &entries).await?;
        drop(end);
        self.commit_if_many().await?;
        Ok(run)
    }

    /// Writes a whole grain compressed.
    async fn write_grain(&self, number: usize, offset: u64, data: IoView<'_>) -> Result<()> {
        let extent = &self.extents[number];
        let sparse = extent.sparse().ok_or_else(|| BlockError::os(libc::EIO))?;
        let file = extent.node()?;
        let expected = sparse.grain.min(extent.length - offset);
        if !offset.is_multiple_of(sparse.grain) || data.len() as u64 != expected {
            return Err(BlockError::os(libc::EINVAL));
        }
        let span = sparse.table_span();
        let (table, index) = ((offset / span) as usize, (offset % span / sparse.grain) as usize);
        place(&file, sparse, &sparse.directory, table)?;
        if !sparse.redundant.is_empty() {
            place(&file, sparse, &sparse.redundant, table)?;
        }
        let bytes = grain::compress(data.to_vec(), sparse, offset / SECTOR).await?;
        let mut end = extent.end.lock().await;
        if self.run(number, offset, 1).await?.0 != Kind::Unallocated {
            return Err(BlockError::new(
                libc::EIO,
                "Could not write to allocated cluster for streamOptimized",
            ));
        }
        let at = (*end).max(file.length()).next_multiple_of(SECTOR);
        let sector = sector_number(at)?;
        file.debug_event("write_compressed").await;
        file.write_bytes(at, &bytes).await?;
        *end = at + bytes.len() as u64;
        self.tables.set(&file, sparse, (number, table), index, &[sector]).await?;
        drop(end);
        self.commit_if_many().await
    }

    async fn commit_if_many(&self) -> Result<()> {
        match self.tables.dirty() {
            0..1024 => Ok(()),
            _ => self.commit().await,
        }
    }

    /// Flushes, for a reason that the file is told of as a debug event: so the crash tests can leave out the flushes of one
    /// name, and show that each is needed.
    async fn flush_files(&self, why: &'static str) -> Result<()> {
        self.file.node().debug_event(why).await;
        for extent in &self.extents {
            if let Some(edge) = &extent.file
                && !Arc::ptr_eq(edge, &self.file)
            {
                edge.node().flush().await?;
            }
        }
        self.file.node().flush().await
    }

    /// Brings everything that only memory has to stable storage.
    pub(crate) async fn commit(&self) -> Result<()> {
        let _committing = self.committing.lock().await;
        let taken = self.tables.take_dirty();
        self.flush_files("vmdk_before_tables").await?;
        if taken.taken.is_empty() {
            return Ok(());
        }
        for redundant in [true, false] {
            for ((number, table), bytes) in &taken.taken {
                let extent = &self.extents[*number];
                let Some(sparse) = extent.sparse() else { continue };
                let directory = if redundant { &sparse.redundant } else { &sparse.directory };
                if directory.is_empty() {
                    continue;
                }
                let file = extent.node()?;
                file.debug_event("l2_update").await;
                file.write_bytes(place(&file, sparse, directory, *table)?, bytes).await?;
            }
        }
        self.flush_files("vmdk_after_tables").await?;
        taken.written();
        Ok(())
    }

    async fn write_part(&self, offset: u64, data: IoView<'_>) -> Result<u64> {
        let (number, extent, within) = self.writable(offset)?;
        let len = data.len() as u64;
        if let Some(sparse) = extent.sparse()
            && sparse.compressed
        {
            let len = len.min(sparse.grain - within % sparse.grain).min(extent.length - within);
            self.write_grain(number, within, data.slice(0..len as usize)).await?;
            return Ok(len);
        }
        let (kind, run) = self.run(number, within, len).await?;
        let part = data.slice(0..run as usize);
        match kind {
            Kind::Data(at) => {
                let file = extent.node()?;
                if let Some(sparse) = extent.sparse()
                    && at + run > file.length().next_multiple_of(sparse.grain)
                {
                    return Err(BlockError::new(
                        libc::EIO,
                        format!(
                            "vmdk: the grain of disk offset {offset:#x} is at {at:#x}, beyond the file's end"
                        ),
                    ));
                }
                file.debug_event("write_aio").await;
                file.write(at, part, WriteFlags::empty()).await?;
                Ok(run)
            }
            Kind::Unallocated | Kind::Zero => match &extent.storage {
                Storage::Sparse(_) => self.allocate(number, within, part).await,
                _ => Err(BlockError::os(libc::EPERM)),
            },
            Kind::Compressed(_) => Err(BlockError::os(libc::EIO)),
        }
    }

    async fn zero_part(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<u64> {
        let (number, extent, within) = self.writable(offset)?;
        let (kind, run) = self.run(number, within, len).await?;
        let behind = self.backing.load().is_some();
        if kind == Kind::Zero || kind == Kind::Unallocated && !behind {
            return Ok(run);
        }
        let sparse = match (&extent.storage, kind) {
            (Storage::Sparse(sparse), _) if !sparse.compressed => sparse,
            (Storage::Flat(_), Kind::Data(at)) => {
                extent.node()?.write_zeroes(at, run, flags).await?;
                return Ok(run);
            }
            _ => return Err(BlockError::os(libc::ENOTSUP)),
        };
        let whole = sparse.grain.min(extent.length - within);
        if sparse.zeroed_grain && within.is_multiple_of(sparse.grain) && run >= whole {
            let file = extent.node()?;
            let span = sparse.table_span();
            let (table, index) = ((within / span) as usize, (within % span / sparse.grain) as usize);
            let ends_disk = within + run == extent.length;
            let count = if ends_disk { run.div_ceil(sparse.grain) } else { run / sparse.grain };
            let _end = extent.end.lock().await;
            self.tables.set(&file, sparse, (number, table), index, &vec![1; count as usize]).await?;
            drop(_end);
            self.commit_if_many().await?;
            return Ok(run.min(count * sparse.grain));
        }
        match kind {
            Kind::Data(at) => {
                // Up to where whole grains start that need not keep their storage.
                let run = match within % sparse.grain {
                    odd if sparse.zeroed_grain && odd != 0 => run.min(sparse.grain - odd),
                    _ => run,
                };
                extent.node()?.write_zeroes(at, run, flags).await?;
                Ok(run)
            }
            _ if flags.contains(WriteFlags::NO_FALLBACK) => Err(BlockError::os(libc::ENOTSUP)),
            _ => {
                let run = run.min(sparse.grain - within % sparse.grain);
                self.allocate(number, within, IoVector::zeroed(run as usize).view()).await
            }
        }
    }

    fn specific(&self) -> Value {
        let extents: Vec<Value> = self
            .extents
            .iter()
            .map(|extent| {
                let name = extent.file.as_ref().map(|edge| edge.node().filename().to_owned());
                let mut value = json!({
                    "virtual-size": extent.length,
                    "filename": name.unwrap_or_default(),
                    "format": extent.kind.map_or("", ExtentType::word),
                });
                if let Some(sparse) = extent.sparse() {
                    value["cluster-size"] = sparse.grain.into();
                    if sparse.compressed {
                        value["compressed"] = true.into();
                    }
                }
                value
            })
            .collect();
        json!({
            "type": "vmdk",
            "data": {
                "cid": self.cid.load(Relaxed),
                "parent-cid": self.parent_cid,
                "create-type": self.create_type,
                "extents": extents,
            }
        })
    }
}

pub(crate) fn kind_of(sparse: &Sparse, entry: u32) -> Kind {
    if let Some(start) = sparse.grains_at {
        return match crate::sesparse::grain_index(entry) {
            Some(index) => Kind::Data(start + index * sparse.grain),
            None if entry == 0 => Kind::Unallocated,
            None => Kind::Zero,
        };
    }
    match entry {
        0 => Kind::Unallocated,
        1 if sparse.zeroed_grain => Kind::Zero,
        at if sparse.compressed => Kind::Compressed(u64::from(at) * SECTOR),
        at => Kind::Data(u64::from(at) * SECTOR),
    }
}

/// A place as a grain table has it: extents' files end where 32 bits of sectors do.
fn sector_number(at: u64) -> Result<u32> {
    u32::try_from(at / SECTOR)
        .map_err(|_| BlockError::new(libc::EFBIG, "vmdk: the extent's file would be too long"))
}

/// A content ID that is not that of "no parent".
pub(crate) fn random_cid() -> Result<u32> {
    let value = getrandom::u32().map_err(|error| {
        BlockError::new(libc::EIO, format!("no random numbers for a content ID: {error}"))
    })?;
    Ok(value & 0xffff_fffe)
}

#[async_trait]
impl Node for Image {
    fn limits(&self) -> Limits {
        Limits {
            request_alignment: SECTOR as u32,
            native_write_zeroes: WriteFlags::MAY_UNMAP | WriteFlags::NO_FALLBACK,
            ..Limits::default()
        }
    }

    fn length(&self) -> u64 {
        self.extents.last().map_or(0, |e| e.start + e.length)
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        let mut children: Vec<_> = self.extents.iter().rev().filter_map(|e| e.file.clone()).collect();
        children.retain(|edge| !Arc::ptr_eq(edge, &self.file));
        children.push(self.file.clone());
        children
    }

    async fn read(&self, mut offset: u64, data: &mut IoVector) -> Result<()> {
        let mut left = Some(data.take());
        while let Some(part) = left {
            let (part, rest) = self.read_part(offset, part).await?;
            offset += part.len() as u64;
            data.append(part);
            left = rest;
        }
        Ok(())
    }

    async fn write(&self, offset: u64, data: IoView<'_>, _: WriteFlags) -> Result<()> {
        self.announce().await?;
        let mut done = 0;
        while done < data.len() {
            let part = data.slice(done..data.len());
            done += self.write_part(offset + done as u64, part).await? as usize;
        }
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        if self.extents.iter().any(|e| e.sparse().is_some_and(|s| s.compressed)) {
            return Err(BlockError::os(libc::ENOTSUP));
        }
        self.announce().await?;
        let mut done = 0;
        while done < len {
            done += self.zero_part(offset + done, len - done, flags).await?;
        }
        Ok(())
    }

    async fn write_compressed(&self, offset: u64, data: IoView<'_>) -> Result<()> {
        // Only streamOptimized images keep grains compressed; others take the data as it is, as QEMU's driver does. A part of the last grain is written as such; the rest of it does not exist.
        self.write(offset, data, WriteFlags::empty()).await
    }

    async fn flush(&self) -> Result<()> {
        self.commit().await
    }

    async fn block_status(&self, offset: u64, len: u64, _: bool) -> Result<BlockStatus> {
        let (number, extent, within) = self.extent(offset)?;
        let (kind, len) = self.run(number, within, len).await?;
        let data = StatusFlags::DATA | StatusFlags::ALLOCATED;
        let (flags, map) = match kind {
            Kind::Data(at) => {
                let recurse = match extent.storage {
                    Storage::Flat(_) => StatusFlags::RECURSE,
                    _ => StatusFlags::empty(),
                };
                (data | StatusFlags::OFFSET_VALID | recurse, Some((extent.node()?, at)))
            }
            Kind::Compressed(_) => (data | StatusFlags::COMPRESSED, None),
            Kind::Zero => (StatusFlags::ZERO | StatusFlags::ALLOCATED, None),
            Kind::Unallocated => (StatusFlags::empty(), None),
        };
        Ok(BlockStatus { len, flags, map })
    }

    async fn format_info(&self) -> Result<FormatInfo> {
        let compressed = |e: &Extent| e.sparse().is_some_and(|s| s.compressed);
        Ok(FormatInfo {
            cluster_size: self.extents.first().and_then(Extent::sparse).map_or(0, |s| s.grain),
            unallocated_is_zero: true,
            needs_compressed_writes: self.extents.iter().all(compressed) && !self.extents.is_empty(),
            specific: Some(self.specific()),
            ..FormatInfo::default()
        })
    }

    fn backing_file(&self) -> Option<BackingFile> {
        let filename = self.parent.clone().filter(|name| !name.is_empty() && self.parent_cid != NO_PARENT)?;
        Some(BackingFile { filename, format: Some("vmdk".into()) })
    }

    async fn check(&self, repair: Repair) -> Result<CheckResult> {
        crate::check::check(self, repair).await
    }

    async fn reopen(&self, flags: OpenFlags, options: Options) -> Result<()> {
        rhea_block::refuse_changes(&options)?;
        match flags.contains(OpenFlags::READ_ONLY) && !self.file.node().is_read_only() {
            true => self.commit().await,
            false => Ok(()),
        }
    }

    async fn close(&self) -> Result<()> {
        match self.file.node().is_read_only() {
            true => Ok(()),
            false => self.commit().await,
        }
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

//! Requests to a node: what the block layer does for every driver before the driver sees them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use futures_util::future::BoxFuture;
use rhea_async_io::{IoVector, IoView};

use crate::graph::{BackingSlot, BlockNode};
use crate::node::{BlockStatus, Limits, StatusFlags, Truncate, WriteFlags};
use crate::options::OpenFlags;
use crate::{BlockError, Result};

/// The longest disk, as in QEMU: offsets and lengths stay clear of a signed 64-bit number's end.
pub const MAX_LENGTH: u64 = (i64::MAX as u64) & !((1 << 30) - 1);

/// Zeroes written as data go in pieces of this size.
const ZERO_CHUNK: u64 = 1 << 20;

/// A change of the disk's contents under way.
struct Dirtying<'a> {
    node: Option<&'a BlockNode>,
    offset: u64,
    len: u64,
}

impl Drop for Dirtying<'_> {
    fn drop(&mut self) {
        if let Some(node) = self.node {
            node.mark_dirty(self.offset, self.len);
        }
    }
}

fn end_of(offset: u64, len: u64) -> Result<u64> {
    match offset.checked_add(len) {
        Some(end) if end <= MAX_LENGTH => Ok(end),
        _ => Err(BlockError::os(libc::EIO)),
    }
}

fn align_down(value: u64, alignment: u64) -> u64 {
    value / alignment * alignment
}

fn align_up(value: u64, alignment: u64) -> u64 {
    value.div_ceil(alignment) * alignment
}

impl BlockNode {
    /// Bytes of the disk, in whole sectors of 512 bytes: of a file that ends within one, the rest reads as zeroes.
    pub fn length(&self) -> u64 {
        align_up(self.exact_length().min(MAX_LENGTH), 512)
    }

    /// Bytes of the disk as its driver has them.
    pub fn exact_length(&self) -> u64 {
        self.driver().length()
    }

    /// What the driver takes; other requests are shaped to it.
    pub fn limits(&self) -> Limits {
        self.driver().limits()
    }

    /// Fills `data` from the disk; what lies beyond its end reads as zeroes.
    pub async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        end_of(offset, data.len() as u64)?;
        let _passage = match self.gate.enter().await {
            Ok(passage) => passage,
            Err(other) => return elsewhere(&other, Waiting::Read(offset, data)).await,
        };
        let length = self.exact_length();
        let available = length.saturating_sub(offset).min(data.len() as u64) as usize;
        if available == data.len() {
            return self.read_within(offset, data).await;
        }
        let mut beyond = data.split_off(available);
        beyond.fill(0..beyond.len(), 0);
        let result = match available {
            0 => Ok(()),
            _ => self.read_within(offset, data).await,
        };
        data.append(beyond);
        result
    }

    /// Reads from a node whose gate the caller holds (see [`BlockNode::drain`]).
    pub async fn read_while_drained(
        &self,
        _: &crate::Drained,
        offset: u64,
        data: &mut IoVector,
    ) -> Result<()> {
        match offset.checked_add(data.len() as u64) {
            Some(end) if end <= self.exact_length() => self.read_within(offset, data).await,
            _ => Err(BlockError::os(libc::EIO)),
        }
    }

    /// A read within the disk, aligned and cut to the driver's taste.
    async fn read_within(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        let limits = self.limits();
        let align = u64::from(limits.request_alignment);
        let len = data.len() as u64;
        let aligned = offset.is_multiple_of(align) && len.is_multiple_of(align);
        if aligned && (limits.memory_alignment <= 1 || data.is_aligned(limits.memory_alignment as usize)) {
            return self.read_pieces(&limits, offset, data).await;
        }
        Box::pin(self.read_around(&limits, offset, data)).await
    }

    /// Reads bytes that do not fill whole blocks, or memory that the driver cannot read into, by way of other memory.
    async fn read_around(&self, limits: &Limits, offset: u64, data: &mut IoVector) -> Result<()> {
        let (align, len) = (u64::from(limits.request_alignment), data.len() as u64);
        let start = align_down(offset, align);
        let end = align_up(offset + len, align);
        let mut bounce = IoVector::scratch((end - start) as usize);
        self.read_pieces(limits, start, &mut bounce).await?;
        let from = (offset - start) as usize;
        data.write_view(0, &bounce.view().slice(from..from + len as usize));
        Ok(())
    }

    async fn read_pieces(&self, limits: &Limits, offset: u64, data: &mut IoVector) -> Result<()> {
        let max = match limits.max_transfer {
            0 => data.len(),
            max => (max as usize).max(1),
        };
        if data.len() <= max {
            return self.driver().read(offset, data).await;
        }
        let mut whole = data.take();
        let mut at = offset;
        while !whole.is_empty() {
            let rest = whole.split_off(max.min(whole.len()));
            let len = whole.len() as u64;
            self.driver().read(at, &mut whole).await?;
            at += len;
            data.append(whole);
            whole = rest;
        }
        Ok(())
    }

    fn check_writable(&self) -> Result<()> {
        match self.is_read_only() {
            true => Err(BlockError::os(libc::EPERM)),
            false => Ok(()),
        }
    }

    /// Whether writes may reach to `end`.
    fn check_end(&self, limits: &Limits, end: u64) -> Result<()> {
        match end <= self.exact_length() || limits.growable {
            true => Ok(()),
            false => Err(BlockError::os(libc::EIO)),
        }
    }

    /// Writes to the disk.
    pub async fn write(&self, offset: u64, data: impl Into<IoView<'_>>, flags: WriteFlags) -> Result<()> {
        self.write_view(offset, data.into(), flags).await
    }

    async fn write_view(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        end_of(offset, data.len() as u64)?;
        self.check_writable()?;
        let _passage = match self.gate.enter().await {
            Ok(passage) => passage,
            Err(other) => return elsewhere(&other, Waiting::Write(offset, data, flags)).await,
        };
        self.write_admitted(offset, data, flags).await
    }

    /// Writes to a node whose gate the caller holds (see [`BlockNode::drain`]).
    pub async fn write_while_drained(
        &self,
        _: &crate::Drained,
        offset: u64,
        data: impl Into<IoView<'_>>,
        flags: WriteFlags,
    ) -> Result<()> {
        let data = data.into();
        end_of(offset, data.len() as u64)?;
        self.check_writable()?;
        self.write_admitted(offset, data, flags).await
    }

    async fn write_admitted(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
        let end = end_of(offset, data.len() as u64)?;
        let limits = self.limits();
        self.check_end(&limits, end)?;
        let open = self.flags();
        if open.intersects(OpenFlags::DETECT_ZEROES | OpenFlags::DETECT_ZEROES_UNMAP) && data.is_zero() {
            let unmap = open.contains(OpenFlags::DETECT_ZEROES_UNMAP) && open.contains(OpenFlags::UNMAP);
            let flags = if unmap { flags | WriteFlags::MAY_UNMAP } else { flags };
            return Box::pin(self.zero_range(&limits, offset, end, flags)).await;
        }
        let align = u64::from(limits.request_alignment);
        if offset.is_multiple_of(align) && end.is_multiple_of(align) {
            let _tracked = self.tracked.begin(offset, end, false).await;
            let _dirtying = self.dirtying(offset, end - offset, flags);
            self.write_aligned(&limits, offset, data, flags).await?;
        } else {
            let (start, stop) = (align_down(offset, align), align_up(end, align));
            let _tracked = self.tracked.begin(start, stop, true).await;
            let _dirtying = self.dirtying(offset, end - offset, flags);
            // What is rare goes to the heap: every request's future would be so much larger.
            Box::pin(self.write_around(&limits, offset, end, Some(&data), flags)).await?;
        }
        self.after_write(flags, limits.native_write).await
    }

    /// Writes bytes (or zeroes) that do not fill whole blocks, by reading and writing the blocks around them.
    async fn write_around(
        &self,
        limits: &Limits,
        offset: u64,
        end: u64,
        data: Option<&IoView<'_>>,
        flags: WriteFlags,
    ) -> Result<()> {
        let align = u64::from(limits.request_alignment);
        let (start, stop) = (align_down(offset, align), align_up(end, align));
        let mut bounce = IoVector::zeroed((stop - start) as usize);
        let length = self.exact_length();
        let mut blocks = vec![];
        if start < offset {
            blocks.push((start, ["pwritev_rmw_head", "pwritev_rmw_after_head"]));
        }
        if end < stop && (blocks.is_empty() || stop - align != start) {
            blocks.push((stop - align, ["pwritev_rmw_tail", "pwritev_rmw_after_tail"]));
        }
        for (block, [before, after]) in blocks {
            let available = length.saturating_sub(block).min(align);
            if available == 0 {
                continue;
            }
            let mut old = IoVector::zeroed(align as usize);
            // Only a file's last block may be cut short; its driver reads zeroes beyond the end.
            self.debug_event(before).await;
            self.driver().read(block, &mut old).await?;
            self.debug_event(after).await;
            bounce.write_view((block - start) as usize, &old.view());
        }
        let from = (offset - start) as usize;
        match data {
            Some(data) => bounce.write_view(from, data),
            None => bounce.fill(from..from + (end - offset) as usize, 0),
        }
        self.write_aligned(limits, start, bounce.view(), flags).await
    }

    async fn write_aligned(
        &self,
        limits: &Limits,
        offset: u64,
        data: IoView<'_>,
        flags: WriteFlags,
    ) -> Result<()> {
        let flags = flags & limits.native_write;
        if self.driver().wants_debug_events() {
            return Box::pin(self.write_told(limits, offset, data, flags)).await;
        }
        self.write_in_memory_that_fits(limits, offset, data, flags).await
    }

    /// A write on a node that wants to be told of its stages.
    async fn write_told(
        &self,
        limits: &Limits,
        offset: u64,
        data: IoView<'_>,
        flags: WriteFlags,
    ) -> Result<()> {
        self.debug_event("pwritev").await;
        let result = self.write_in_memory_that_fits(limits, offset, data, flags).await;
        self.debug_event("pwritev_done").await;
        result
    }

    async fn write_in_memory_that_fits(
        &self,
        limits: &Limits,
        offset: u64,
        data: IoView<'_>,
        flags: WriteFlags,
    ) -> Result<()> {
        if limits.memory_alignment > 1 && !data.is_aligned(limits.memory_alignment as usize) {
            let mut bounce = IoVector::zeroed(data.len());
            bounce.write_view(0, &data);
            return self.write_pieces(limits, offset, bounce.view(), flags).await;
        }
        self.write_pieces(limits, offset, data, flags).await
    }

    async fn write_pieces(
        &self,
        limits: &Limits,
        offset: u64,
        data: IoView<'_>,
        flags: WriteFlags,
    ) -> Result<()> {
        let max = match limits.max_transfer {
            0 => data.len(),
            max => (max as usize).max(1),
        };
        if data.len() <= max {
            return self.driver().write(offset, data, flags).await;
        }
        let mut at = 0;
        while at < data.len() {
            let end = (at + max).min(data.len());
            self.driver().write(offset + at as u64, data.slice(at..end), flags).await?;
            at = end;
        }
        Ok(())
    }

    /// What follows every change of the disk's contents.
    async fn after_write(&self, flags: WriteFlags, native: WriteFlags) -> Result<()> {
        let through = self.flags().contains(OpenFlags::WRITE_THROUGH);
        if through || (flags - native).contains(WriteFlags::FUA) {
            self.driver().flush().await?;
        }
        Ok(())
    }

    /// Marks a range dirty when the answer is dropped: a write that failed or was given up may have changed it as well.
    fn dirtying(&self, offset: u64, len: u64, flags: WriteFlags) -> Dirtying<'_> {
        let node = (!flags.contains(WriteFlags::WRITE_UNCHANGED)).then_some(self);
        Dirtying { node, offset, len }
    }

    pub(crate) fn mark_dirty(&self, offset: u64, len: u64) {
        if self.has_bitmaps.load(Relaxed) {
            for bitmap in self.bitmaps.lock().iter() {
                let mut bitmap = bitmap.lock();
                if bitmap.enabled {
                    bitmap.set(offset, len);
                }
            }
        }
    }

    /// Makes a range read as zeroes, in the way that is quickest for the driver.
    pub async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let end = end_of(offset, len)?;
        self.check_writable()?;
        let _passage = match self.gate.enter().await {
            Ok(passage) => passage,
            Err(other) => return elsewhere(&other, Waiting::WriteZeroes(offset, len, flags)).await,
        };
        let limits = self.limits();
        self.check_end(&limits, end)?;
        let unmap = self.flags().contains(OpenFlags::UNMAP);
        let flags = if unmap { flags } else { flags - WriteFlags::MAY_UNMAP };
        self.zero_range(&limits, offset, end, flags).await
    }

    async fn zero_range(&self, limits: &Limits, offset: u64, end: u64, flags: WriteFlags) -> Result<()> {
        let align = u64::from(limits.request_alignment);
        let (start, stop) = (align_down(offset, align), align_up(end, align));
        let ragged = start != offset || stop != end;
        let _tracked = self.tracked.begin(start, stop, ragged).await;
        let _dirtying = self.dirtying(offset, end - offset, flags);
        let (mut from, mut to) = (offset, end);
        // The ragged ends first, then whole blocks.
        if ragged {
            let head_end = align_up(offset, align).min(end);
            if head_end > offset && start != offset {
                self.write_around(limits, offset, head_end, None, flags).await?;
                from = head_end;
            }
            let tail = align_down(end, align).max(from);
            if tail < end {
                self.write_around(limits, tail, end, None, flags).await?;
                to = tail;
            }
        }
        self.zero_aligned(limits, from, to, flags).await?;
        self.after_write(flags, limits.native_write_zeroes & limits.native_write).await
    }

    async fn zero_aligned(&self, limits: &Limits, mut from: u64, to: u64, flags: WriteFlags) -> Result<()> {
        let granule = u64::from(limits.write_zeroes_alignment.max(limits.request_alignment).max(1));
        let max = match limits.max_write_zeroes {
            0 => u64::MAX,
            max => align_down(max, granule).max(granule),
        };
        while from < to {
            // Up to the next granule's start, then whole granules, then the rest.
            let piece = if !from.is_multiple_of(granule) {
                (align_up(from, granule).min(to)) - from
            } else if to - from >= granule {
                align_down(to - from, granule).min(max)
            } else {
                to - from
            };
            self.debug_event("pwritev_zero").await;
            match self.driver().write_zeroes(from, piece, flags & limits.native_write_zeroes).await {
                Err(error) if error.is_unsupported() => {
                    if flags.contains(WriteFlags::NO_FALLBACK) {
                        return Err(error);
                    }
                    self.zero_as_data(limits, from, piece, flags).await?;
                }
                other => other?,
            }
            from += piece;
        }
        Ok(())
    }

    async fn zero_as_data(&self, limits: &Limits, from: u64, len: u64, flags: WriteFlags) -> Result<()> {
        let zeroes = IoVector::zeroed(len.min(ZERO_CHUNK) as usize);
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(ZERO_CHUNK);
            self.write_aligned(limits, from + done, zeroes.view().slice(0..piece as usize), flags).await?;
            done += piece;
        }
        Ok(())
    }

    /// Writes data compressed; the range is whole clusters, or ends with the disk.
    pub async fn write_compressed(&self, offset: u64, data: impl Into<IoView<'_>>) -> Result<()> {
        let data = data.into();
        let end = end_of(offset, data.len() as u64)?;
        self.check_writable()?;
        let _passage = match self.gate.enter().await {
            Ok(passage) => passage,
            Err(other) => return elsewhere(&other, Waiting::WriteCompressed(offset, data)).await,
        };
        self.check_end(&self.limits(), end)?;
        let _tracked = self.tracked.begin(offset, end, false).await;
        let _dirtying = self.dirtying(offset, end - offset, WriteFlags::empty());
        self.driver().write_compressed(offset, data).await?;
        self.after_write(WriteFlags::empty(), WriteFlags::empty()).await
    }

    /// Gives storage back, if the node is opened so (`discard=unmap`) and the driver can; else does nothing.
    pub async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let end = end_of(offset, len)?;
        self.check_writable()?;
        let end = end.min(self.exact_length());
        if offset >= end || !self.flags().contains(OpenFlags::UNMAP) {
            return Ok(());
        }
        let _passage = match self.gate.enter().await {
            Ok(passage) => passage,
            Err(other) => return elsewhere(&other, Waiting::Discard(offset, len)).await,
        };
        let limits = self.limits();
        let granule = u64::from(limits.request_alignment.max(1));
        // The last block of a disk may be cut short.
        let from = align_up(offset, granule);
        let to = if end == self.exact_length() { end } else { align_down(end, granule) };
        if from >= to {
            return Ok(());
        }
        let _tracked = self.tracked.begin(from, to, false).await;
        let _dirtying = self.dirtying(from, to - from, WriteFlags::empty());
        let max = match limits.max_discard {
            0 => u64::MAX,
            max => align_down(max, granule).max(granule),
        };
        let unit = u64::from(limits.discard_alignment.max(1));
        let mut at = from;
        while at < to {
            // A piece ends where the driver's granule does, so that no granule is cut in two.
            let piece = match at % unit {
                0 => (to - at).min(max),
                odd => (unit - odd).min(to - at),
            };
            match self.driver().discard(at, piece).await {
                Err(error) if error.is_unsupported() => {}
                other => other?,
            }
            at += piece;
        }
        self.after_write(WriteFlags::empty(), WriteFlags::empty()).await
    }

    /// Everything acknowledged before is on stable storage when this ends.
    pub async fn flush(&self) -> Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        let _passage = match self.gate.enter().await {
            Ok(passage) => passage,
            Err(other) => return elsewhere(&other, Waiting::Flush).await,
        };
        self.driver().flush().await
    }

    /// Moves the end of the disk. Bytes that become part of it read as zeroes where the driver says so
    /// ([`FormatInfo::unallocated_is_zero`](crate::FormatInfo)), or where `how.zero` asks for it.
    pub async fn truncate(&self, length: u64, mut how: Truncate) -> Result<()> {
        if length > MAX_LENGTH {
            return Err(BlockError::new(
                libc::EFBIG,
                format!("Required size must not exceed {MAX_LENGTH} bytes"),
            ));
        }
        self.check_writable()?;
        let _passage = match self.gate.enter().await {
            Ok(passage) => passage,
            Err(other) => return elsewhere(&other, Waiting::Truncate(length, how)).await,
        };
        let old = self.exact_length();
        let (start, end) = (old.min(length), old.max(length));
        let _tracked = self.tracked.begin(start, end.max(start + 1), true).await;
        // A longer backing file must not shine through the new part.
        if length > old && self.backing().is_some_and(|backing| backing.length() > old) {
            how.zero = true;
        }
        self.driver().truncate(length, how).await?;
        for bitmap in self.bitmaps.lock().iter() {
            bitmap.lock().resize(length);
        }
        Ok(())
    }

    /// Copies to another node without passing through our memory; `ENOTSUP` where that cannot be.
    pub async fn copy_range(
        self: &Arc<Self>,
        offset: u64,
        to: &Arc<BlockNode>,
        to_offset: u64,
        len: u64,
        flags: WriteFlags,
    ) -> Result<()> {
        if end_of(offset, len)? > self.length() {
            return Err(BlockError::os(libc::EIO));
        }
        let _passage = match self.gate.enter().await {
            Ok(passage) => passage,
            Err(other) => {
                return elsewhere(&other, Waiting::CopyFrom(offset, to, to_offset, len, flags)).await;
            }
        };
        if self.driver().children().is_empty() {
            return to.copy_range_to(self, offset, to_offset, len, flags).await;
        }
        self.driver().copy_range_from(offset, to, to_offset, len, flags).await
    }

    /// The other half of [`BlockNode::copy_range`], called by the source's bottom node.
    pub async fn copy_range_to(
        &self,
        from: &Arc<BlockNode>,
        from_offset: u64,
        offset: u64,
        len: u64,
        flags: WriteFlags,
    ) -> Result<()> {
        let end = end_of(offset, len)?;
        self.check_writable()?;
        let _passage = match self.gate.enter().await {
            Ok(passage) => passage,
            Err(other) => {
                return elsewhere(&other, Waiting::CopyTo(from, from_offset, offset, len, flags)).await;
            }
        };
        let limits = self.limits();
        self.check_end(&limits, end)?;
        let _tracked = self.tracked.begin(offset, end, false).await;
        let _dirtying = self.dirtying(offset, len, flags);
        self.driver().copy_range_to(from, from_offset, offset, len, flags & limits.native_write).await?;
        self.after_write(flags, limits.native_write).await
    }

    /// What lies at `offset`, at most `len` bytes of it, as this node and (for the bytes) what is below say. Without
    /// [`StatusFlags::ALLOCATED`] the backing file says what is read there; with `want_zero`,
    /// [`StatusFlags::ZERO`] tells all the same where there is no backing file or it is too short.
    pub fn block_status(&self, offset: u64, len: u64, want_zero: bool) -> BoxFuture<'_, Result<BlockStatus>> {
        Box::pin(async move {
            let length = self.length();
            if offset >= length || len == 0 {
                return Ok(BlockStatus { len: 0, flags: StatusFlags::EOF, map: None });
            }
            let end = offset.saturating_add(len).min(length);
            let align = u64::from(self.limits().request_alignment);
            let start = align_down(offset, align);
            let exact = self.exact_length();
            let stop = align_up(end, align).min(exact).max(start + 1);
            let mut status = match start < exact {
                true => self.driver().block_status(start, stop - start, want_zero).await?,
                false => BlockStatus {
                    len: stop - start,
                    flags: StatusFlags::ZERO | StatusFlags::ALLOCATED,
                    map: None,
                },
            };
            if start + status.len >= exact {
                // The rest of the last sector goes with what is before it.
                status.len = length - start;
            }
            let skipped = offset - start;
            if status.len <= skipped {
                return Err(BlockError::new(
                    libc::EIO,
                    format!("driver '{}' made no progress", self.driver_name()),
                ));
            }
            status.len = (status.len - skipped).min(end - offset);
            if let Some((_, at)) = &mut status.map {
                *at += skipped;
            }
            if status.map.is_none() && status.flags.contains(StatusFlags::OFFSET_VALID) {
                // A node at the bottom: its bytes lie where they are asked for.
                status.map = self.this.upgrade().map(|this| (this, offset));
            }
            if status.flags.contains(StatusFlags::RECURSE) {
                self.recurse(&mut status, want_zero).await?;
            }
            if want_zero && !status.flags.contains(StatusFlags::ALLOCATED) {
                match self.backing() {
                    None => {
                        if !status.flags.contains(StatusFlags::DATA) {
                            status.flags |= StatusFlags::ZERO;
                        }
                    }
                    Some(backing) if offset >= backing.length() => status.flags |= StatusFlags::ZERO,
                    Some(backing) => status.len = status.len.min(backing.length() - offset),
                }
            }
            if offset + status.len == length {
                status.flags |= StatusFlags::EOF;
            } else {
                status.flags -= StatusFlags::EOF;
            }
            Ok(status)
        })
    }

    async fn recurse(&self, status: &mut BlockStatus, want_zero: bool) -> Result<()> {
        status.flags -= StatusFlags::RECURSE;
        let Some((node, at)) = status.map.clone() else { return Ok(()) };
        if !want_zero || status.flags.contains(StatusFlags::ZERO) || std::ptr::eq(&*node, self) {
            return Ok(());
        }
        let below = node.block_status(at, status.len, true).await?;
        if below.len == 0 {
            // Beyond the file's end: reads as zeroes.
            status.flags |= StatusFlags::ZERO;
            return Ok(());
        }
        status.len = status.len.min(below.len);
        status.flags |= below.flags & StatusFlags::ZERO;
        Ok(())
    }

    /// Like [`BlockNode::block_status`] for what is read through the whole chain down to (not including) `base`. Also
    /// says how deep the layer lies that decided: 0 for this one; `None`: no layer has it.
    pub async fn block_status_above(
        self: &Arc<Self>,
        base: Option<&Arc<BlockNode>>,
        offset: u64,
        len: u64,
    ) -> Result<(BlockStatus, Option<usize>)> {
        let length = self.length();
        let mut node = self.skip_filters();
        let mut len = len;
        let mut depth = 0;
        let (mut status, decided) = loop {
            if base.is_some_and(|base| Arc::ptr_eq(base, &node)) {
                break (BlockStatus { len, flags: StatusFlags::empty(), map: None }, None);
            }
            let mut status = node.block_status(offset, len, true).await?;
            if status.len == 0 {
                if depth == 0 {
                    return Ok((status, None));
                }
                // A backing file that ends before: it is what says that zeroes are read here.
                status = BlockStatus { len, flags: StatusFlags::ZERO | StatusFlags::ALLOCATED, map: None };
            }
            len = status.len;
            if status.flags.contains(StatusFlags::ALLOCATED) {
                break (status, Some(depth));
            }
            let Some(backing) = node.backing() else { break (status, None) };
            node = backing.skip_filters();
            depth += 1;
        };
        status.flags.set(StatusFlags::EOF, offset + status.len == length);
        Ok((status, decided))
    }

    /// Tells the driver that its parent has come to a point that has a name (QAPI's BlkdebugEvent), for tests of what
    /// happens if the next request fails. Costs next to nothing unless the driver is `blkdebug`.
    pub async fn debug_event(&self, event: &'static str) {
        if self.driver().wants_debug_events() {
            self.driver().debug_event(event).await;
        }
    }

    /// Reads saved machine state, which some formats keep beside the disk.
    pub async fn load_vm_state(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        end_of(offset, data.len() as u64)?;
        let _passage = match self.gate.enter().await {
            Ok(passage) => passage,
            Err(other) => return elsewhere(&other, Waiting::LoadVmState(offset, data)).await,
        };
        self.driver().load_vm_state(offset, data).await
    }

    /// Writes machine state, to be saved with the next snapshot.
    pub async fn save_vm_state(&self, offset: u64, data: impl Into<IoView<'_>>) -> Result<()> {
        let data = data.into();
        end_of(offset, data.len() as u64)?;
        self.check_writable()?;
        let _passage = match self.gate.enter().await {
            Ok(passage) => passage,
            Err(other) => return elsewhere(&other, Waiting::SaveVmState(offset, data)).await,
        };
        self.driver().save_vm_state(offset, data).await
    }

    /// Reads bytes into a slice.
    pub async fn read_bytes(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let mut data = IoVector::zeroed(bytes.len());
        self.read(offset, &mut data).await?;
        data.read(0, bytes);
        Ok(())
    }

    /// Writes bytes from a slice.
    pub async fn write_bytes(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write(offset, &IoVector::from_slice(bytes), WriteFlags::empty()).await
    }
}

/// A request that waited at a gate, and found that another node had taken its node's place.
enum Waiting<'a> {
    Read(u64, &'a mut IoVector),
    Write(u64, IoView<'a>, WriteFlags),
    WriteZeroes(u64, u64, WriteFlags),
    WriteCompressed(u64, IoView<'a>),
    Discard(u64, u64),
    Flush,
    Truncate(u64, Truncate),
    CopyFrom(u64, &'a Arc<BlockNode>, u64, u64, WriteFlags),
    CopyTo(&'a Arc<BlockNode>, u64, u64, u64, WriteFlags),
    LoadVmState(u64, &'a mut IoVector),
    SaveVmState(u64, IoView<'a>),
}

/// Does a request on the node that has taken the place of the one it was meant for.
fn elsewhere<'a>(node: &'a Arc<BlockNode>, request: Waiting<'a>) -> BoxFuture<'a, Result<()>> {
    match request {
        Waiting::Read(offset, data) => Box::pin(node.read(offset, data)),
        Waiting::Write(offset, data, flags) => Box::pin(node.write_view(offset, data, flags)),
        Waiting::WriteZeroes(offset, len, flags) => Box::pin(node.write_zeroes(offset, len, flags)),
        Waiting::WriteCompressed(offset, data) => Box::pin(node.write_compressed(offset, data)),
        Waiting::Discard(offset, len) => Box::pin(node.discard(offset, len)),
        Waiting::Flush => Box::pin(node.flush()),
        Waiting::Truncate(length, how) => Box::pin(node.truncate(length, how)),
        Waiting::CopyFrom(offset, to, at, len, flags) => {
            Box::pin(node.copy_range(offset, to, at, len, flags))
        }
        Waiting::CopyTo(from, at, offset, len, flags) => {
            Box::pin(node.copy_range_to(from, at, offset, len, flags))
        }
        Waiting::LoadVmState(offset, data) => Box::pin(node.load_vm_state(offset, data)),
        Waiting::SaveVmState(offset, data) => Box::pin(node.save_vm_state(offset, data)),
    }
}

/// Fills `data` from what lies behind an image: its backing file, zeroes beyond that file's end or if there is none.
pub async fn read_behind(backing: &BackingSlot, offset: u64, data: &mut IoVector) -> Result<()> {
    match backing.load_full() {
        Some(edge) => edge.node().read(offset, data).await,
        None => {
            data.fill(0..data.len(), 0);
            Ok(())
        }
    }
}

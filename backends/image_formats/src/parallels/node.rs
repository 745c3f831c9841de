//! An open image.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use async_trait::async_trait;
use parking_lot::Mutex;
use rhea_block::{
    BackingSlot, BlockError, BlockNode, CheckResult, Edge, FormatInfo, MAX_LENGTH, PersistentBitmaps, Repair,
    Result, ResultExt,
};

use super::bitmap::Extension;
use super::header::{Header, IN_USE, LEN, at};
use crate::clusters::{self, ClusterMap, Mapping, Storage};
use crate::end::FileEnd;
use crate::fields::le32;
use crate::image::ImageFormat;
use crate::ranges::RangeLocks;
use crate::scan::{Part, Scan};
use crate::tables::{Rank, Table, TableCache};

/// Clusters of the file that are remembered as free.
const MAX_FREE: usize = 1 << 16;

pub(crate) struct ParallelsImage {
    pub(super) file: Arc<Edge>,
    backing: Arc<BackingSlot>,
    pub(super) header: Header,
    pub(super) bat: Table,
    tables: TableCache,
    ranges: RangeLocks,
    writing_back: async_lock::Mutex<()>,
    users: async_lock::RwLock<()>,
    pub(super) end: FileEnd,
    /// Clusters of the file that were given back, and that nothing in the file refers to any more.
    free: Mutex<Vec<u64>>,
    /// The header in the file says that the image is in use.
    marked: AtomicBool,
    /// It said so when the image was opened: somebody died with it.
    pub(super) left_in_use: AtomicBool,
    /// The header's `data_off` is wrong.
    pub(super) data_off_wrong: AtomicBool,
    /// Clusters were given back since the image was opened.
    discarded: AtomicBool,
    /// The BAT refers to clusters beyond the file's end.
    outside: bool,
    extension: Extension,
    no_extension: Extension,
}

impl ParallelsImage {
    pub(super) async fn open(file: Arc<Edge>, backing: Arc<BackingSlot>, with_bitmaps: bool) -> Result<Self> {
        let node = file.node();
        let mut bytes = [0; LEN];
        node.read_bytes(0, &mut bytes).await.context("Could not read the Parallels header")?;
        let header = Header::parse(&bytes)?;
        let bat = Table { offset: LEN as u64, len: u64::from(header.bat_entries) * 4 };
        let (end, outside) = data_end(&node, &header, bat).await?;
        let extension = match header.ext_off != 0 && with_bitmaps {
            true => Extension::read(&node, &header).await?,
            false => Extension::none(&node, &header),
        };
        let no_extension = Extension::none(&node, &header);
        Ok(Self {
            tables: TableCache::new(file.clone()),
            end: FileEnd::new(end, node.length()),
            marked: AtomicBool::new(header.in_use),
            outside,
            discarded: AtomicBool::new(false),
            left_in_use: AtomicBool::new(header.in_use),
            data_off_wrong: AtomicBool::new(!header.data_off_is_right()),
            file,
            backing,
            header,
            bat,
            ranges: RangeLocks::default(),
            writing_back: async_lock::Mutex::new(()),
            users: async_lock::RwLock::new(()),
            free: Mutex::default(),
            no_extension,
            extension,
        })
    }

    /// Whether somebody died with the image open, or the header is wrong.
    pub(super) fn needs_check(&self) -> bool {
        self.left_in_use.load(Relaxed) || self.data_off_wrong.load(Relaxed)
    }

    /// Says in the header that the image is in use. What was recorded of it in the format extension holds no longer.
    async fn mark(&self) -> Result<()> {
        if self.marked.load(Relaxed) {
            return Ok(());
        }
        let file = self.file.node();
        if self.header.ext_off != 0 {
            file.write_bytes(at::EXT_OFF as u64, &[0; 8]).await?;
        }
        file.write_bytes(at::IN_USE as u64, &IN_USE.to_le_bytes()).await?;
        file.flush().await?;
        self.marked.store(true, Relaxed);
        Ok(())
    }

    /// Takes the mark off.
    pub(super) async fn unmark(&self) -> Result<()> {
        self.file.node().write_bytes(at::IN_USE as u64, &[0; 4]).await?;
        self.marked.store(false, Relaxed);
        self.left_in_use.store(false, Relaxed);
        Ok(())
    }

    /// Cuts the file behind the last cluster in use. The BAT is in the file, and nobody writes.
    async fn cut_tail(&self) -> Result<()> {
        let file = self.file.node();
        let (end, outside) = data_end(&file, &self.header, self.bat).await?;
        if !outside && file.length() > end {
            self.free.lock().clear();
            file.truncate(end, rhea_block::Truncate::default()).await?;
            self.end.set_position(end);
        }
        Ok(())
    }

    fn is_marked(&self) -> bool {
        self.marked.load(Relaxed)
    }
}

/// The end of the last cluster in the file, and whether the BAT refers to some beyond the file.
async fn data_end(file: &Arc<BlockNode>, header: &Header, bat: Table) -> Result<(u64, bool)> {
    let mut outside = false;
    let mut end = header.data_start();
    // A BAT beyond the file's end has nothing in it.
    let len = bat.len.min(file.length().saturating_sub(bat.offset)) / 4 * 4;
    let mut scan = Scan::new(file.clone(), Table { len, ..bat });
    while let Some((_, part)) = scan.next().await.context("Could not read the BAT")? {
        // Zero stands for clusters without data.
        let Part::Bytes(bytes) = part else { continue };
        let last = bytes.chunks_exact(4).map(|e| le32(e, 0)).max().unwrap_or(0);
        let last_end = header.offset_of(last) + header.cluster_size;
        // What refers to nowhere in the file is for `check` to find; new storage need not go behind it.
        if last != 0 && last_end <= file.length().next_multiple_of(header.cluster_size) {
            end = end.max(last_end);
        } else if last != 0 {
            end = end.max(file.length().next_multiple_of(header.cluster_size));
            outside = true;
        }
    }
    Ok((end, outside))
}

#[async_trait]
impl ClusterMap for ParallelsImage {
    fn file(&self) -> &Arc<Edge> {
        &self.file
    }

    fn backing(&self) -> Option<&BackingSlot> {
        Some(&self.backing)
    }

    fn cluster_size(&self) -> u64 {
        self.header.cluster_size
    }

    fn disk_length(&self) -> u64 {
        self.header.length
    }

    fn tables(&self) -> &TableCache {
        &self.tables
    }

    fn ranges(&self) -> &RangeLocks {
        &self.ranges
    }

    fn writing_back(&self) -> &async_lock::Mutex<()> {
        &self.writing_back
    }

    async fn lookup(&self, cluster: u64, count: u64) -> Result<(Mapping, u64)> {
        // A BAT may be too short for the disk.
        let entries = u64::from(self.header.bat_entries);
        if cluster >= entries {
            return Ok((Mapping::Unallocated, count));
        }
        let count = count.min(entries - cluster);
        let step = (self.header.cluster_size / (self.header.entry_unit * 512)) as u32;
        let (entry, run) = self
            .tables
            .get(self.bat, cluster * 4, |bytes| {
                let mut entries = bytes.chunks_exact(4).map(|e| le32(e, 0)).take(count as usize);
                let first = entries.next().unwrap_or(0);
                let mut expected = first;
                let run = 1 + entries
                    .take_while(|&entry| {
                        if first != 0 {
                            expected = expected.wrapping_add(step);
                        }
                        entry == expected && (first == 0 || entry > first)
                    })
                    .count();
                (first, run as u64)
            })
            .await?;
        match entry {
            0 => Ok((Mapping::Unallocated, run)),
            entry => {
                let offset = self.header.offset_of(entry);
                if offset < self.header.bat_end() {
                    return Err(BlockError::malformed(format!(
                        "BAT entry {cluster} ({entry:#x}) refers to the header"
                    )));
                }
                Ok((Mapping::Data(offset), run))
            }
        }
    }

    async fn allocate(&self, cluster: u64, count: u64) -> Result<Storage> {
        if cluster >= self.header.bat_entries.into() {
            return Err(BlockError::malformed("the BAT has no entry for this part of the disk"));
        }
        if let Some(offset) = self.free.lock().pop() {
            return Ok(Storage { offset, count: 1, zeroed: false });
        }
        let limit = (u64::from(u32::MAX) * self.header.entry_unit * 512).min(MAX_LENGTH);
        let len = count * self.header.cluster_size;
        let (offset, zeroed) = self.end.take(&self.file.node(), len, limit).await?;
        Ok(Storage { offset, count, zeroed })
    }

    fn release(&self, _: u64, storage: Storage) {
        self.end.put_back(storage.offset, storage.count * self.header.cluster_size);
    }

    async fn map(&self, cluster: u64, storage: Storage) -> Result<()> {
        for i in 0..storage.count {
            let entry = self
                .header
                .entry_of(storage.offset + i * self.header.cluster_size)
                .ok_or_else(|| BlockError::new(libc::EFBIG, "the cluster does not fit the BAT"))?;
            self.tables.set(self.bat, Rank::Leaf, (cluster + i) * 4, &entry.to_le_bytes()).await?;
        }
        Ok(())
    }

    async fn before_overwrite(&self, _: u64, _: u64) -> Result<()> {
        self.mark().await
    }

    async fn before_write_back(&self) -> Result<()> {
        self.mark().await
    }
}

#[async_trait]
impl ImageFormat for ParallelsImage {
    fn info(&self) -> FormatInfo {
        FormatInfo {
            dirty: self.left_in_use.load(Relaxed),
            unallocated_is_zero: true,
            ..FormatInfo::default()
        }
    }

    async fn check(&self, repair: Repair) -> Result<CheckResult> {
        super::check::check(self, repair).await
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let size = self.header.cluster_size;
        let end = offset + len;
        let whole_end = end == self.header.length || end.is_multiple_of(size);
        let has_backing = self.backing.load().is_some();
        // A cluster without data would show what lies behind the image.
        if !offset.is_multiple_of(size) || !whole_end || has_backing {
            return Err(BlockError::os(libc::ENOTSUP));
        }
        // Nobody must be writing to clusters that are given back.
        let _alone = self.users.write().await;
        let file = self.file.node();
        let mut given_back = vec![];
        for cluster in offset / size..end.div_ceil(size) {
            if let (Mapping::Data(at), _) = self.lookup(cluster, 1).await? {
                self.tables.set(self.bat, Rank::Leaf, cluster * 4, &[0; 4]).await?;
                given_back.push(at);
            }
        }
        if given_back.is_empty() {
            return Ok(());
        }
        self.discarded.store(true, Relaxed);
        // Only when nothing in the file refers to them any more can others have them.
        clusters::write_back(self).await?;
        file.flush().await?;
        for &at in &given_back {
            file.discard(at, size).await?;
        }
        let room = MAX_FREE.saturating_sub(self.free.lock().len());
        self.free.lock().extend(given_back.into_iter().take(room));
        Ok(())
    }

    fn bitmaps(&self) -> Option<&dyn PersistentBitmaps> {
        // Whoever writes, or died writing, has not kept them.
        Some(if self.is_marked() { &self.no_extension } else { &self.extension })
    }

    async fn prepare_writing(&self) -> Result<()> {
        if self.outside && !self.left_in_use.load(Relaxed) {
            return Err(BlockError::malformed("the BAT refers to clusters beyond the file's end")
                .with_hint("The image may be cut short. 'qemu-img check -r all' gives up what is missing."));
        }
        if self.needs_check() {
            self.check(Repair { leaks: true, errors: true }).await?;
            self.tables.forget();
        }
        Ok(())
    }

    fn users(&self) -> &async_lock::RwLock<()> {
        &self.users
    }

    async fn leave_clean(&self) -> Result<()> {
        if self.discarded.swap(false, Relaxed) {
            self.cut_tail().await?;
        }
        // Who only checked an image that was left in use has not made it clean.
        if self.is_marked() && !self.left_in_use.load(Relaxed) {
            self.file.node().flush().await?;
            self.unmark().await?;
            self.file.node().flush().await?;
        }
        Ok(())
    }
}

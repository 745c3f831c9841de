//! An open image.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rhea_block::{
    BackingFile, BackingSlot, BlockError, CheckResult, Edge, FormatInfo, MAX_LENGTH, Preallocation, Repair,
    Result, ResultExt, Truncate, WriteFlags,
};

use super::header::{BACKING_FILE, BACKING_RAW, Header, LEN, NEED_CHECK, max_image_size};
use crate::clusters::{ClusterMap, Mapping, Storage};
use crate::end::FileEnd;
use crate::fields::le64;
use crate::image::ImageFormat;
use crate::ranges::RangeLocks;
use crate::tables::{Rank, Table, TableCache};

/// An L2 entry: the cluster reads as zeroes.
const ZERO: u64 = 1;

pub(crate) struct QedImage {
    pub(super) file: Arc<Edge>,
    backing: Arc<BackingSlot>,
    pub(super) header: Mutex<Header>,
    backing_name: Mutex<Option<String>>,
    tables: TableCache,
    ranges: RangeLocks,
    writing_back: async_lock::Mutex<()>,
    users: async_lock::RwLock<()>,
    end: FileEnd,
    /// Held while an L2 table is made.
    new_table: async_lock::Mutex<()>,
    /// Held while the header is written.
    header_lock: async_lock::Mutex<()>,
    // Never changed:
    cluster_size: u64,
    table_len: u64,
    l1: Table,
}

impl QedImage {
    pub(super) async fn open(file: Arc<Edge>, backing: Arc<BackingSlot>) -> Result<Self> {
        let node = file.node();
        let mut bytes = [0; LEN];
        node.read_bytes(0, &mut bytes).await.context("Could not read the QED header")?;
        let header = Header::parse(&bytes, node.length())?;
        let mut backing_name = None;
        if header.features & BACKING_FILE != 0 {
            if header.backing_filename_size > 1023 {
                return Err(BlockError::malformed(format!(
                    "QED backing filename size {} is too long",
                    header.backing_filename_size
                )));
            }
            let mut name = vec![0; header.backing_filename_size as usize];
            node.read_bytes(header.backing_filename_offset.into(), &mut name).await?;
            let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
            name.truncate(end);
            let name = String::from_utf8(name)
                .map_err(|_| BlockError::malformed("QED backing filename is not UTF-8"))?;
            backing_name = Some(name).filter(|name| !name.is_empty());
        }
        let cluster_size = u64::from(header.cluster_size);
        let length = node.length();
        let end = length
            .checked_next_multiple_of(cluster_size)
            .ok_or_else(|| BlockError::malformed("the image file is too long"))?;
        Ok(Self {
            tables: TableCache::new(file.clone()),
            backing,
            backing_name: Mutex::new(backing_name),
            ranges: RangeLocks::default(),
            writing_back: async_lock::Mutex::new(()),
            users: async_lock::RwLock::new(()),
            end: FileEnd::new(end, length),
            new_table: async_lock::Mutex::new(()),
            header_lock: async_lock::Mutex::new(()),
            cluster_size,
            table_len: header.table_len(),
            l1: Table { offset: header.l1_table_offset, len: header.table_len() },
            header: Mutex::new(header),
            file,
        })
    }

    pub(super) fn needs_check(&self) -> bool {
        self.header.lock().features & NEED_CHECK != 0
    }

    fn per_table(&self) -> u64 {
        self.table_len / 8
    }

    /// The L2 table that describes a cluster, if there is one.
    async fn l2_table(&self, cluster: u64) -> Result<Option<Table>> {
        let index = cluster / self.per_table();
        if index >= self.per_table() {
            return Err(BlockError::os(libc::EIO));
        }
        let offset = self.tables.get(self.l1, index * 8, |bytes| le64(bytes, 0)).await?;
        if offset == 0 {
            return Ok(None);
        }
        let known_end = self.file.node().length().max(self.end.position());
        if !self.header.lock().is_table_offset(offset, known_end) {
            return Err(BlockError::malformed(format!("QED L2 table offset {offset:#x} is invalid")));
        }
        Ok(Some(Table { offset, len: self.table_len }))
    }

    /// The same; makes one where there is none.
    async fn make_l2_table(&self, cluster: u64) -> Result<Table> {
        if let Some(table) = self.l2_table(cluster).await? {
            return Ok(table);
        }
        let _new_table = self.new_table.lock().await;
        if let Some(table) = self.l2_table(cluster).await? {
            return Ok(table);
        }
        let file = self.file.node();
        let (offset, zeroed) = self.end.take(&file, self.table_len, MAX_LENGTH).await?;
        if !zeroed {
            file.write_zeroes(offset, self.table_len, WriteFlags::empty()).await?;
        }
        let index = cluster / self.per_table();
        self.tables.set(self.l1, Rank::Root, index * 8, &offset.to_le_bytes()).await?;
        Ok(Table { offset, len: self.table_len })
    }

    async fn set_entries(&self, cluster: u64, count: u64, value: impl Fn(u64) -> u64) -> Result<()> {
        for i in 0..count {
            let table = self.make_l2_table(cluster + i).await?;
            let at = (cluster + i) % self.per_table() * 8;
            self.tables.set(table, Rank::Leaf, at, &value(i).to_le_bytes()).await?;
        }
        Ok(())
    }

    /// Changes the header, in the file and here.
    pub(super) async fn update_header(
        &self,
        change: impl FnOnce(&mut Header) -> Result<()> + Send,
    ) -> Result<()> {
        let _held = self.header_lock.lock().await;
        let mut header = self.header.lock().clone();
        change(&mut header)?;
        self.file.node().write_bytes(0, &header.build()).await?;
        *self.header.lock() = header;
        Ok(())
    }
}

#[async_trait]
impl ClusterMap for QedImage {
    fn file(&self) -> &Arc<Edge> {
        &self.file
    }

    fn backing(&self) -> Option<&BackingSlot> {
        Some(&self.backing)
    }

    fn cluster_size(&self) -> u64 {
        self.cluster_size
    }

    fn disk_length(&self) -> u64 {
        self.header.lock().image_size
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
        let index = cluster % self.per_table();
        let Some(table) = self.l2_table(cluster).await? else {
            return Ok((Mapping::Unallocated, count.min(self.per_table() - index)));
        };
        let size = self.cluster_size;
        let (first, run) = self
            .tables
            .get(table, index * 8, |bytes| {
                let mut entries = bytes.chunks_exact(8).map(|e| le64(e, 0)).take(count as usize);
                let first = entries.next().unwrap_or(0);
                let mut expected = first;
                let run = 1 + entries
                    .take_while(|&entry| {
                        if first > ZERO {
                            expected = expected.wrapping_add(size);
                        }
                        entry == expected
                    })
                    .count();
                (first, run as u64)
            })
            .await?;
        let mapping = match first {
            0 => Mapping::Unallocated,
            ZERO => Mapping::Zero,
            offset => {
                let known_end = self.file.node().length().max(self.end.position());
                let last = offset.saturating_add((run - 1) * size);
                let header = self.header.lock();
                if !header.is_cluster_offset(offset, known_end) || !header.is_cluster_offset(last, known_end)
                {
                    return Err(BlockError::malformed(format!("QED cluster offset {offset:#x} is invalid")));
                }
                if offset < self.l1.offset + self.l1.len && last + size > self.l1.offset {
                    return Err(BlockError::malformed(format!(
                        "QED cluster offset {offset:#x} is in the L1 table"
                    )));
                }
                Mapping::Data(offset)
            }
        };
        Ok((mapping, run))
    }

    async fn allocate(&self, _: u64, count: u64) -> Result<Storage> {
        let (offset, zeroed) =
            self.end.take(&self.file.node(), count * self.cluster_size, MAX_LENGTH).await?;
        Ok(Storage { offset, count, zeroed })
    }

    fn release(&self, _: u64, storage: Storage) {
        self.end.put_back(storage.offset, storage.count * self.cluster_size);
    }

    async fn map(&self, cluster: u64, storage: Storage) -> Result<()> {
        self.set_entries(cluster, storage.count, |i| storage.offset + i * self.cluster_size).await
    }

    async fn map_zero(&self, cluster: u64, count: u64) -> Result<bool> {
        self.set_entries(cluster, count, |_| ZERO).await?;
        Ok(true)
    }
}

#[async_trait]
impl ImageFormat for QedImage {
    fn info(&self) -> FormatInfo {
        FormatInfo {
            cluster_size: self.cluster_size,
            dirty: self.needs_check(),
            unallocated_is_zero: true,
            ..FormatInfo::default()
        }
    }

    fn backing_file(&self) -> Option<BackingFile> {
        let filename = self.backing_name.lock().clone()?;
        let raw = self.header.lock().features & BACKING_RAW != 0;
        Some(BackingFile { filename, format: raw.then(|| "raw".to_owned()) })
    }

    async fn change_backing_file(&self, backing: Option<BackingFile>) -> Result<()> {
        let backing = backing.filter(|backing| !backing.filename.is_empty());
        let file = self.file.node();
        let _held = self.header_lock.lock().await;
        let mut header = self.header.lock().clone();
        header.features &= !(BACKING_FILE | BACKING_RAW);
        (header.backing_filename_offset, header.backing_filename_size) = (0, 0);
        let mut bytes;
        match &backing {
            Some(backing) => {
                super::create::set_backing(&mut header, &backing.filename, backing.format.as_deref())?;
                bytes = header.build().to_vec();
                bytes.extend_from_slice(backing.filename.as_bytes());
            }
            None => bytes = header.build().to_vec(),
        }
        file.write_bytes(0, &bytes).await?;
        file.flush().await?;
        *self.header.lock() = header;
        *self.backing_name.lock() = backing.map(|backing| backing.filename);
        Ok(())
    }

    async fn check(&self, repair: Repair) -> Result<CheckResult> {
        super::check::check(self, repair).await
    }

    async fn truncate(&self, length: u64, how: Truncate) -> Result<()> {
        if how.preallocation != Preallocation::Off {
            return Err(BlockError::unsupported(format!(
                "Unsupported preallocation mode '{}'",
                how.preallocation.word()
            )));
        }
        let (old, cluster_size, table_size) = {
            let header = self.header.lock();
            (header.image_size, header.cluster_size, header.table_size)
        };
        if !length.is_multiple_of(512) || length > max_image_size(cluster_size, table_size) {
            return Err(BlockError::invalid("Invalid image size specified"));
        }
        if length < old {
            return Err(BlockError::unsupported("Shrinking images is currently not supported"));
        }
        if how.zero && length > old {
            // Clusters wholly beyond the old end become zeroes; in the one that it cuts, only the rest.
            self.zero_tail(old, length).await?;
        }
        self.update_header(|header| {
            header.image_size = length;
            Ok(())
        })
        .await
    }

    async fn prepare_writing(&self) -> Result<()> {
        if self.needs_check() {
            self.check(Repair { leaks: true, errors: true }).await?;
            self.tables.forget();
        }
        Ok(())
    }

    fn users(&self) -> &async_lock::RwLock<()> {
        &self.users
    }
}

impl QedImage {
    /// Lets what lies between two lengths read as zeroes, before the disk has it.
    async fn zero_tail(&self, old: u64, new: u64) -> Result<()> {
        let size = self.cluster_size;
        let first = old.div_ceil(size);
        if !old.is_multiple_of(size) {
            let cluster = old / size;
            match self.lookup(cluster, 1).await?.0 {
                Mapping::Data(start) => {
                    let within = old % size;
                    let file = self.file.node();
                    file.write_zeroes(start + within, size - within, WriteFlags::empty()).await?;
                }
                Mapping::Zero => {}
                _ => {
                    // A copy of what the cluster holds up to the old end; new storage has zeroes behind that.
                    let len = (old % size) as usize;
                    let mut data = rhea_async_io::IoVector::zeroed(len);
                    crate::clusters::read(self, old - old % size, &mut data).await?;
                    crate::clusters::write(self, old - old % size, data.view()).await?;
                }
            }
        }
        let last = new.div_ceil(size);
        let mut cluster = first;
        while cluster < last {
            let (mapping, run) = self.lookup(cluster, last - cluster).await?;
            if !matches!(mapping, Mapping::Zero) {
                self.set_entries(cluster, run, |_| ZERO).await?;
            }
            cluster += run;
        }
        crate::clusters::write_back(self).await
    }
}

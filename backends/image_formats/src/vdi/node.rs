//! An open image.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use async_trait::async_trait;
use rhea_block::{
    BlockError, CheckResult, Edge, FormatInfo, MAX_LENGTH, Repair, Result, ResultExt, StatusFlags,
};

use super::header::{BLOCK, BLOCKS_ALLOCATED_AT, DISCARDED, Header, LEN, UNALLOCATED};
use crate::clusters::{ClusterMap, Mapping, Storage};
use crate::end::FileEnd;
use crate::fields::le32;
use crate::image::ImageFormat;
use crate::ranges::RangeLocks;
use crate::scan::{Part, Scan};
use crate::tables::{Rank, Table, TableCache};

pub(crate) struct VdiImage {
    pub(super) file: Arc<Edge>,
    pub(super) header: Header,
    pub(super) map: Table,
    tables: TableCache,
    ranges: RangeLocks,
    writing_back: async_lock::Mutex<()>,
    users: async_lock::RwLock<()>,
    /// Where new blocks go; unknown until the map was looked through.
    end: async_lock::OnceCell<FileEnd>,
    /// `blocks_allocated`, as it is in the file.
    pub(super) written_count: AtomicU32,
}

impl VdiImage {
    pub(super) async fn open(file: Arc<Edge>) -> Result<Self> {
        let mut bytes = [0; LEN];
        file.node().read_bytes(0, &mut bytes).await.context("Could not read the VDI header")?;
        let header = Header::parse(&bytes)?;
        let map = Table { offset: header.offset_bmap.into(), len: u64::from(header.blocks_in_image) * 4 };
        Ok(Self {
            tables: TableCache::new(file.clone()),
            written_count: AtomicU32::new(header.blocks_allocated),
            file,
            header,
            map,
            ranges: RangeLocks::default(),
            writing_back: async_lock::Mutex::new(()),
            users: async_lock::RwLock::new(()),
            end: async_lock::OnceCell::new(),
        })
    }

    fn data_at(&self, block: u64) -> u64 {
        u64::from(self.header.offset_data) + block * BLOCK
    }

    /// The file's end for new blocks: behind all that the header counts, and all that the map refers to.
    async fn end(&self) -> Result<&FileEnd> {
        self.end
            .get_or_try_init(|| async {
                let mut next = u64::from(self.header.blocks_allocated);
                let file = self.file.node();
                // What lies beyond the file's end reads as zeroes: block 0.
                let len = self.map.len.min(file.length().saturating_sub(self.map.offset));
                let mut scan = Scan::new(file.clone(), Table { len, ..self.map });
                while let Some((_, part)) = scan.next().await? {
                    let last = match part {
                        Part::Zeroes(_) => Some(0),
                        Part::Bytes(bytes) => {
                            bytes.chunks_exact(4).map(|e| le32(e, 0)).filter(|&e| e < DISCARDED).max()
                        }
                    };
                    next = next.max(last.map_or(0, |last| u64::from(last) + 1));
                }
                if len < self.map.len {
                    next = next.max(1);
                }
                Ok(FileEnd::new(self.data_at(next), file.length()))
            })
            .await
    }

    /// Sets the header's count, after a check has found it wrong.
    pub(super) async fn write_count(&self, count: u32) -> Result<()> {
        self.file.node().write_bytes(BLOCKS_ALLOCATED_AT, &count.to_le_bytes()).await?;
        self.written_count.store(count, Relaxed);
        Ok(())
    }
}

#[async_trait]
impl ClusterMap for VdiImage {
    fn file(&self) -> &Arc<Edge> {
        &self.file
    }

    fn cluster_size(&self) -> u64 {
        BLOCK
    }

    fn disk_length(&self) -> u64 {
        self.header.disk_size
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
        let (entry, run) = self
            .tables
            .get(self.map, cluster * 4, |bytes| {
                let mut entries = bytes.chunks_exact(4).map(|e| le32(e, 0)).take(count as usize);
                let first = entries.next().unwrap_or(UNALLOCATED);
                let mut expected = first;
                let run = 1 + entries
                    .take_while(|&entry| {
                        if first < DISCARDED {
                            // What lies behind the last number that a block can have is none.
                            expected = expected.saturating_add(1);
                        }
                        entry == expected && (first >= DISCARDED || entry < DISCARDED)
                    })
                    .count();
                (first, run as u64)
            })
            .await?;
        let mapping = match entry {
            UNALLOCATED => Mapping::Unallocated,
            DISCARDED => Mapping::Zero,
            block => Mapping::Data(self.data_at(block.into())),
        };
        Ok((mapping, run))
    }

    async fn allocate(&self, _: u64, count: u64) -> Result<Storage> {
        // A block of the file has a number below the special ones.
        let limit = self.data_at(DISCARDED.into()).min(MAX_LENGTH);
        let (offset, zeroed) = self.end().await?.take(&self.file.node(), count * BLOCK, limit).await?;
        Ok(Storage { offset, count, zeroed })
    }

    fn release(&self, _: u64, storage: Storage) {
        if let Some(end) = self.end.get() {
            end.put_back(storage.offset, storage.count * BLOCK);
        }
    }

    async fn map(&self, cluster: u64, storage: Storage) -> Result<()> {
        let first = (storage.offset - u64::from(self.header.offset_data)) / BLOCK;
        for i in 0..storage.count {
            let entry = u32::try_from(first + i)
                .map_err(|_| BlockError::new(libc::EFBIG, "the block's number does not fit the map"))?;
            self.tables.set(self.map, Rank::Leaf, (cluster + i) * 4, &entry.to_le_bytes()).await?;
        }
        Ok(())
    }

    async fn before_write_back(&self) -> Result<()> {
        let Some(end) = self.end.get() else { return Ok(()) };
        let position = end.position();
        let count = ((position - u64::from(self.header.offset_data)) / BLOCK) as u32;
        if self.written_count.load(Relaxed) != count {
            self.write_count(count).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl ImageFormat for VdiImage {
    const UNALLOCATED: StatusFlags = StatusFlags::ZERO.union(StatusFlags::ALLOCATED);
    const DATA_BY_CLUSTER: bool = true;

    fn info(&self) -> FormatInfo {
        FormatInfo {
            cluster_size: BLOCK,
            unallocated_is_zero: !self.header.is_static,
            ..FormatInfo::default()
        }
    }

    fn data_status(&self) -> StatusFlags {
        // Blocks of a static image may never have been written: the file knows.
        if self.header.is_static { StatusFlags::RECURSE } else { StatusFlags::empty() }
    }

    async fn check(&self, repair: Repair) -> Result<CheckResult> {
        super::check::check(self, repair).await
    }

    async fn prepare_writing(&self) -> Result<()> {
        if u64::from(self.header.offset_data) < self.map.offset + self.map.len {
            return Err(BlockError::malformed(format!(
                "offset_data 0x{:x} lies within the block map",
                self.header.offset_data
            )));
        }
        Ok(())
    }

    fn users(&self) -> &async_lock::RwLock<()> {
        &self.users
    }

    async fn leave_clean(&self) -> Result<()> {
        // A write that failed while the map was written back has been counted.
        self.before_write_back().await?;
        self.file.node().flush().await
    }
}

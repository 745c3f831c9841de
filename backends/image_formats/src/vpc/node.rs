//! An open dynamic image.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rhea_block::{BlockError, Edge, FormatInfo, MAX_LENGTH, Result, ResultExt, StatusFlags};

use super::footer::{DYNAMIC_LEN, DynamicHeader, Footer, LEN};
use crate::clusters::{ClusterMap, Mapping, Storage};
use crate::end::FileEnd;
use crate::fields::be32;
use crate::image::ImageFormat;
use crate::ranges::RangeLocks;
use crate::scan::{Part, Scan};
use crate::tables::{Rank, Table, TableCache};

/// The table's entry for a block without data.
const UNALLOCATED: u32 = 0xffff_ffff;

/// Blocks whose bitmaps are remembered to be full.
const MAX_KNOWN_FULL: usize = 1 << 16;

pub(crate) struct DynamicImage {
    file: Arc<Edge>,
    footer: Footer,
    header: DynamicHeader,
    table: Table,
    tables: TableCache,
    ranges: RangeLocks,
    writing_back: async_lock::Mutex<()>,
    users: async_lock::RwLock<()>,
    /// Where the footer is, and the next block will be.
    end: FileEnd,
    /// Where the footer is in the file, if it is anywhere. Held while the end moves.
    footer_at: async_lock::Mutex<Option<u64>>,
    /// Blocks whose bitmap says that every sector has data.
    full: Mutex<HashSet<u64>>,
}

impl DynamicImage {
    pub(super) async fn open(file: Arc<Edge>, footer: Footer) -> Result<Self> {
        let node = file.node();
        let mut bytes = [0; DYNAMIC_LEN];
        let at = footer.data_offset();
        if at >= node.length() {
            return Err(BlockError::malformed("Invalid header magic"));
        }
        node.read_bytes(at, &mut bytes).await.context("Could not read the dynamic disk header")?;
        let header = DynamicHeader::parse(&bytes, footer.length)?;
        let table = Table { offset: header.table_offset, len: u64::from(header.max_table_entries) * 4 };
        let end = find_end(&node, &header, table).await?;
        Ok(Self {
            tables: TableCache::new(file.clone()),
            // Behind the footer, which a bitmap will cover, a file that ends there has nothing.
            end: FileEnd::new(end, node.length().saturating_sub(LEN as u64)),
            file,
            footer,
            header,
            table,
            ranges: RangeLocks::default(),
            writing_back: async_lock::Mutex::new(()),
            users: async_lock::RwLock::new(()),
            footer_at: async_lock::Mutex::new(Some(end)),
            full: Mutex::default(),
        })
    }

    fn block_len(&self) -> u64 {
        self.header.bitmap_len() + u64::from(self.header.block_size)
    }

    /// Says in a block's bitmap that every sector has data.
    async fn fill_bitmap(&self, at: u64) -> Result<()> {
        let bitmap = vec![0xff; self.header.bitmap_len() as usize];
        self.file.node().write_bytes(at, &bitmap).await
    }

    fn remember_full(&self, block: u64) {
        let mut full = self.full.lock();
        if full.len() >= MAX_KNOWN_FULL {
            full.clear();
        }
        full.insert(block);
    }
}

/// The end of the last block, where the footer is. Refuses an image whose blocks reach beyond the file.
async fn find_end(file: &Arc<rhea_block::BlockNode>, header: &DynamicHeader, table: Table) -> Result<u64> {
    let truncated = || {
        BlockError::malformed(
            "block-vpc: free_data_block_offset points after the end of file. The image has been truncated.",
        )
    };
    let table_end = table.offset.checked_add(table.len.next_multiple_of(512)).ok_or_else(truncated)?;
    if table_end > file.length() {
        return Err(truncated());
    }
    let block_len = header.bitmap_len() + u64::from(header.block_size);
    let mut end = table_end;
    let mut scan = Scan::new(file.clone(), table);
    while let Some((_, part)) = scan.next().await.context("Could not read the block allocation table")? {
        let last = match part {
            Part::Zeroes(_) => Some(0),
            Part::Bytes(bytes) => {
                bytes.chunks_exact(4).map(|e| be32(e, 0)).filter(|&e| e != UNALLOCATED).max()
            }
        };
        end = end.max(last.map_or(0, |last| u64::from(last) * 512 + block_len));
    }
    if end > file.length() { Err(truncated()) } else { Ok(end) }
}

#[async_trait]
impl ClusterMap for DynamicImage {
    fn file(&self) -> &Arc<Edge> {
        &self.file
    }

    fn cluster_size(&self) -> u64 {
        self.header.block_size.into()
    }

    fn disk_length(&self) -> u64 {
        self.footer.length
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
        let (mapping, run) = self
            .tables
            .get(self.table, cluster * 4, |bytes| {
                let mut entries = bytes.chunks_exact(4).map(|e| be32(e, 0)).take(count as usize);
                match entries.next().unwrap_or(UNALLOCATED) {
                    UNALLOCATED => {
                        let more = entries.take_while(|&entry| entry == UNALLOCATED).count();
                        (Mapping::Unallocated, 1 + more as u64)
                    }
                    // Bitmaps lie between the blocks.
                    sector => (Mapping::Data(u64::from(sector) * 512 + self.header.bitmap_len()), 1),
                }
            })
            .await?;
        match mapping {
            Mapping::Data(data) if data - self.header.bitmap_len() < self.table.offset + self.table.len => {
                Err(BlockError::malformed(format!(
                    "entry {cluster} of the block allocation table refers to the header"
                )))
            }
            _ => Ok((mapping, run)),
        }
    }

    async fn allocate(&self, cluster: u64, _: u64) -> Result<Storage> {
        let limit = (u64::from(UNALLOCATED) * 512).min(MAX_LENGTH);
        let mut footer_at = self.footer_at.lock().await;
        let (at, zeroed) = self.end.take(&self.file.node(), self.block_len(), limit).await?;
        // The new block's bitmap goes where the footer was (and is never shorter).
        *footer_at = None;
        if let Err(error) = self.fill_bitmap(at).await {
            self.end.put_back(at, self.block_len());
            return Err(error);
        }
        self.remember_full(cluster);
        Ok(Storage { offset: at + self.header.bitmap_len(), count: 1, zeroed })
    }

    fn release(&self, _: u64, storage: Storage) {
        self.end.put_back(storage.offset - self.header.bitmap_len(), self.block_len());
    }

    async fn map(&self, cluster: u64, storage: Storage) -> Result<()> {
        let sector = u32::try_from((storage.offset - self.header.bitmap_len()) / 512)
            .map_err(|_| BlockError::new(libc::EFBIG, "the block's sector does not fit the table"))?;
        self.tables.set(self.table, Rank::Leaf, cluster * 4, &sector.to_be_bytes()).await
    }

    async fn before_overwrite(&self, cluster: u64, count: u64) -> Result<()> {
        for block in cluster..cluster + count {
            if self.full.lock().contains(&block) {
                continue;
            }
            if let (Mapping::Data(data), _) = self.lookup(block, 1).await? {
                self.fill_bitmap(data - self.header.bitmap_len()).await?;
                self.remember_full(block);
            }
        }
        Ok(())
    }

    async fn before_write_back(&self) -> Result<()> {
        let mut footer_at = self.footer_at.lock().await;
        let position = self.end.position();
        if *footer_at == Some(position) {
            return Ok(());
        }
        // Also makes the file as long as its blocks say.
        self.file.node().write_bytes(position, &self.footer.bytes).await?;
        *footer_at = Some(position);
        Ok(())
    }
}

#[async_trait]
impl ImageFormat for DynamicImage {
    const UNALLOCATED: StatusFlags = StatusFlags::ZERO.union(StatusFlags::ALLOCATED);

    fn info(&self) -> FormatInfo {
        FormatInfo { cluster_size: self.cluster_size(), unallocated_is_zero: true, ..FormatInfo::default() }
    }

    fn users(&self) -> &async_lock::RwLock<()> {
        &self.users
    }

    async fn leave_clean(&self) -> Result<()> {
        // A write that failed may have covered the footer without a change of the table.
        self.before_write_back().await?;
        self.file.node().flush().await
    }
}

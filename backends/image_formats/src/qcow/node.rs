//! An open image.

use std::sync::Arc;

use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView, unblock};
use rhea_block::{
    BackingFile, BackingSlot, BlockError, Edge, FormatInfo, MAX_LENGTH, Result, Truncate, WriteFlags,
};

use super::cipher::{Cipher, key_missing};
use super::compression;
use super::header::{Header, LEN};
use crate::clusters::{self, ClusterMap, Mapping, Storage};
use crate::end::FileEnd;
use crate::fields::be64;
use crate::image::ImageFormat;
use crate::ranges::RangeLocks;
use crate::tables::{Rank, Table, TableCache};

/// An L2 entry's flag: the cluster is compressed.
const COMPRESSED: u64 = 1 << 63;

pub(crate) struct QcowImage {
    file: Arc<Edge>,
    backing: Arc<BackingSlot>,
    header: Header,
    cipher: Option<Cipher>,
    l1: Table,
    tables: TableCache,
    ranges: RangeLocks,
    writing_back: async_lock::Mutex<()>,
    users: async_lock::RwLock<()>,
    end: FileEnd,
    new_table: async_lock::Mutex<()>,
}

impl QcowImage {
    pub(super) async fn open(
        file: Arc<Edge>,
        backing: Arc<BackingSlot>,
        header: Header,
        cipher: Option<Cipher>,
    ) -> Result<Self> {
        let l1 = Table { offset: header.l1_offset, len: header.l1_entries() * 8 };
        let length = file.node().length();
        let end = length.max(l1.offset + l1.len).next_multiple_of(1 << header.cluster_bits);
        Ok(Self {
            tables: TableCache::new(file.clone()),
            end: FileEnd::new(end, length),
            file,
            backing,
            header,
            cipher,
            l1,
            ranges: RangeLocks::default(),
            writing_back: async_lock::Mutex::new(()),
            users: async_lock::RwLock::new(()),
            new_table: async_lock::Mutex::new(()),
        })
    }

    fn per_table(&self) -> u64 {
        1 << self.header.l2_bits
    }

    async fn l2_table(&self, cluster: u64) -> Result<Option<Table>> {
        let index = cluster >> self.header.l2_bits;
        let offset = self.tables.get(self.l1, index * 8, |bytes| be64(bytes, 0)).await?;
        let len = self.per_table() * 8;
        match offset {
            0 => Ok(None),
            _ if offset > MAX_LENGTH - len => {
                Err(BlockError::malformed(format!("L1 entry {index} ({offset:#x}) is too large")))
            }
            _ => Ok(Some(Table { offset, len })),
        }
    }

    async fn make_l2_table(&self, cluster: u64) -> Result<Table> {
        let _new_table = self.new_table.lock().await;
        if let Some(table) = self.l2_table(cluster).await? {
            return Ok(table);
        }
        let file = self.file.node();
        let len = self.per_table() * 8;
        let (offset, zeroed) = self.take(len).await?;
        if !zeroed {
            file.write_zeroes(offset, len, WriteFlags::empty()).await?;
        }
        let index = cluster >> self.header.l2_bits;
        self.tables.set(self.l1, Rank::Root, index * 8, &offset.to_be_bytes()).await?;
        Ok(Table { offset, len })
    }

    /// Storage in whole clusters. An offset must leave room for the flag and the length of compressed clusters.
    async fn take(&self, len: u64) -> Result<(u64, bool)> {
        let limit = 1 << (63 - self.header.cluster_bits);
        let size = self.cluster_size();
        self.end.take_aligned(&self.file.node(), len.next_multiple_of(size), size, limit).await
    }

    async fn set_entry(&self, cluster: u64, entry: u64) -> Result<()> {
        let table = match self.l2_table(cluster).await? {
            Some(table) => table,
            None => self.make_l2_table(cluster).await?,
        };
        let at = cluster % self.per_table() * 8;
        self.tables.set(table, Rank::Leaf, at, &entry.to_be_bytes()).await
    }

    fn mapping(&self, entry: u64) -> Result<Mapping> {
        if entry == 0 {
            return Ok(Mapping::Unallocated);
        }
        if entry & COMPRESSED == 0 {
            if entry > MAX_LENGTH - self.cluster_size() {
                return Err(BlockError::malformed(format!("L2 entry {entry:#x} is too large")));
            }
            let in_l1 = entry < self.l1.offset + self.l1.len && entry + self.cluster_size() > self.l1.offset;
            if in_l1 || entry < LEN as u64 {
                return Err(BlockError::malformed(format!("L2 entry {entry:#x} refers to metadata")));
            }
            return Ok(Mapping::Data(entry));
        }
        let shift = 63 - self.header.cluster_bits;
        let offset = entry & ((1 << shift) - 1);
        let len = entry >> shift & (self.cluster_size() - 1);
        Ok(Mapping::Compressed(offset, len as u32))
    }
}

#[async_trait]
impl ClusterMap for QcowImage {
    fn file(&self) -> &Arc<Edge> {
        &self.file
    }

    fn backing(&self) -> Option<&BackingSlot> {
        Some(&self.backing)
    }

    fn cluster_size(&self) -> u64 {
        1 << self.header.cluster_bits
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
        let index = cluster % self.per_table();
        let Some(table) = self.l2_table(cluster).await? else {
            // There may be millions of tables that are not there.
            let first = cluster >> self.header.l2_bits;
            let tables = self
                .tables
                .get(self.l1, first * 8, |bytes| {
                    bytes.chunks_exact(8).take_while(|entry| **entry == [0; 8]).count() as u64
                })
                .await?;
            let run = (tables.max(1) * self.per_table()).saturating_sub(index);
            return Ok((Mapping::Unallocated, count.min(run)));
        };
        let size = self.cluster_size();
        let (first, run) = self
            .tables
            .get(table, index * 8, |bytes| {
                let mut entries = bytes.chunks_exact(8).map(|e| be64(e, 0)).take(count as usize);
                let first = entries.next().unwrap_or(0);
                if first & COMPRESSED != 0 {
                    return (first, 1);
                }
                let mut expected = first;
                let run = 1 + entries
                    .take_while(|&entry| {
                        if first != 0 {
                            expected = expected.wrapping_add(size);
                        }
                        entry == expected && entry & COMPRESSED == 0
                    })
                    .count();
                (first, run as u64)
            })
            .await?;
        Ok((self.mapping(first)?, run))
    }

    async fn allocate(&self, _: u64, count: u64) -> Result<Storage> {
        let (offset, zeroed) = self.take(count * self.cluster_size()).await?;
        Ok(Storage { offset, count, zeroed })
    }

    fn release(&self, _: u64, storage: Storage) {
        self.end.put_back(storage.offset, storage.count * self.cluster_size());
    }

    async fn map(&self, cluster: u64, storage: Storage) -> Result<()> {
        for i in 0..storage.count {
            self.set_entry(cluster + i, storage.offset + i * self.cluster_size()).await?;
        }
        Ok(())
    }

    async fn read_compressed(&self, offset: u64, len: u32) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        self.file.node().read_bytes(offset, &mut bytes).await?;
        let size = self.cluster_size() as usize;
        unblock(move || compression::decompress(&bytes, size)).await
    }

    async fn encrypt(&self, offset: u64, data: &IoView<'_>) -> Result<Option<IoVector>> {
        let Some(cipher) = &self.cipher else {
            return if self.header.encrypted { Err(key_missing()) } else { Ok(None) };
        };
        let mut copy = IoVector::zeroed(data.len());
        copy.write_view(0, data);
        if !data.is_empty() {
            cipher.apply(true, offset, &mut copy).await;
        }
        Ok(Some(copy))
    }

    async fn decrypt(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        match &self.cipher {
            Some(cipher) => {
                cipher.apply(false, offset, data).await;
                Ok(())
            }
            None if self.header.encrypted => Err(key_missing()),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl ImageFormat for QcowImage {
    fn info(&self) -> FormatInfo {
        FormatInfo {
            cluster_size: self.cluster_size(),
            encrypted: self.header.encrypted,
            unallocated_is_zero: true,
            ..FormatInfo::default()
        }
    }

    fn request_alignment(&self) -> u32 {
        if self.header.encrypted { 512 } else { 1 }
    }

    fn max_transfer(&self) -> u64 {
        // Encrypted data is a copy.
        if self.header.encrypted { 4 << 20 } else { 0 }
    }

    fn backing_file(&self) -> Option<BackingFile> {
        let filename = self.header.backing_file.clone()?;
        Some(BackingFile { filename, format: None })
    }

    async fn write_compressed(&self, cluster: u64, data: Vec<u8>) -> Result<()> {
        if self.header.encrypted {
            return Err(BlockError::unsupported("compressed clusters in an encrypted qcow image"));
        }
        let _using = self.users.read().await;
        let (compressed, data) = unblock(move || (compression::compress(&data), data)).await;
        let at = cluster * self.cluster_size();
        let len = (self.header.length - at).min(self.cluster_size()) as usize;
        let Some(bytes) = compressed else {
            return clusters::write(self, at, IoVector::from_slice(&data[..len]).view()).await;
        };
        {
            let _held = self.ranges.lock(cluster..cluster + 1).await;
            let (mapping, _) = self.lookup(cluster, 1).await?;
            if mapping != Mapping::Unallocated {
                return Err(BlockError::new(libc::EIO, "a compressed write to a cluster that has data"));
            }
            // In whole sectors, several to a cluster.
            let limit = 1 << (63 - self.header.cluster_bits);
            let room = (bytes.len() as u64).next_multiple_of(512);
            let (offset, _) = self.end.take_aligned(&self.file.node(), room, 512, limit).await?;
            if let Err(error) = self.file.node().write_bytes(offset, &bytes).await {
                self.end.put_back(offset, room);
                return Err(error);
            }
            let entry = COMPRESSED | (bytes.len() as u64) << (63 - self.header.cluster_bits) | offset;
            self.set_entry(cluster, entry).await?;
        }
        if self.tables.is_full() {
            clusters::write_back(self).await?;
        }
        Ok(())
    }

    async fn make_empty(&self) -> Result<()> {
        let _alone = self.users.write().await;
        clusters::write_back(self).await?;
        let file = self.file.node();
        file.write_zeroes(self.l1.offset, self.l1.len, WriteFlags::empty()).await?;
        file.flush().await?;
        self.tables.forget();
        let end = (self.l1.offset + self.l1.len).next_multiple_of(self.cluster_size());
        file.truncate(end, Truncate::default()).await?;
        self.end.set_position(end);
        Ok(())
    }

    fn users(&self) -> &async_lock::RwLock<()> {
        &self.users
    }
}

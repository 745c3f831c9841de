//! Persistent dirty bitmaps.
//!
//! A bitmap is stored by new clusters for its bits, its table and the directory; then the header names the new
//! directory, by one write; then the old clusters are given back. A crash leaves the old bitmaps or the new ones, and
//! leaks at most.
//!
//! While an image is written to, its enabled bitmaps are kept in memory ([`tracking`](self::tracking)).

pub(crate) mod directory;
pub(crate) mod tracking;

use std::sync::Arc;

use async_trait::async_trait;
use rhea_block::{BitmapInfo, BlockError, BlockNode, DirtyBitmap, PersistentBitmaps, Result, ResultExt};

use self::directory::{BitmapFlags, DirectoryEntry, GRANULARITY_BITS, MAX_BITMAPS, MAX_NAME, TableEntry};
use crate::finish::finish;
use crate::geometry::Geometry;
use crate::header::{Autoclear, BitmapsExtension, Header};
use crate::image::{Exclusive, Image, Release};
use crate::structures::read_vector;
use crate::write_back::Barrier;

/// The directory that counts: the header's, unless somebody wrote to the image who did not know of bitmaps.
fn extension(header: &Header) -> Option<BitmapsExtension> {
    header.bitmaps.filter(|_| header.autoclear.contains(Autoclear::BITMAPS))
}

/// Reads the directory; empty if there is none.
pub(crate) async fn read_directory(image: &Image) -> Result<Vec<DirectoryEntry>> {
    let header = image.header();
    match extension(&header) {
        Some(extension) => directory::read(&image.file(), &extension, image.geometry(), header.size).await,
        None => Ok(Vec::new()),
    }
}

/// Reads a bitmap's bits. What the table has beyond the disk's end is left out.
async fn read_bits(
    file: &Arc<BlockNode>,
    geometry: &Geometry,
    entry: &DirectoryEntry,
    disk_size: u64,
) -> Result<DirtyBitmap> {
    let table = directory::read_table(file, entry, geometry).await?;
    let mut bitmap = DirtyBitmap::new(&entry.name, 1 << entry.granularity_bits, disk_size)?;
    bitmap.enabled = entry.flags.contains(BitmapFlags::AUTO);
    bitmap.persistent = true;
    let cluster_words = geometry.cluster_size as usize / 8;
    for (words, entry) in bitmap.words_mut().chunks_mut(cluster_words).zip(&table) {
        match entry.offset() {
            Some(offset) => {
                let data = read_vector(file.clone(), offset, words.len() as u64 * 8)
                    .await
                    .context("Could not read a bitmap's data")?
                    .to_vec();
                let read =
                    data.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes")));
                words.iter_mut().zip(read).for_each(|(word, bits)| *word = bits);
            }
            None if *entry == TableEntry::ONES => words.fill(u64::MAX),
            None => {}
        }
    }
    // Clears what a sloppy writer left behind the last bit.
    bitmap.resize(disk_size);
    Ok(bitmap)
}

/// Clusters that a bitmap takes: its bits and its table.
async fn clusters_of(image: &Image, entry: &DirectoryEntry) -> Result<Vec<(u64, u64)>> {
    let table = directory::read_table(&image.file(), entry, image.geometry()).await?;
    let cluster_size = image.geometry().cluster_size;
    let mut ranges: Vec<(u64, u64)> =
        table.iter().filter_map(|e| e.offset()).map(|o| (o, cluster_size)).collect();
    ranges.push((entry.table_offset, u64::from(entry.table_size) * 8));
    Ok(ranges)
}

/// Writes a bitmap's bits and table into new clusters. Returns its entry.
async fn write_bits(image: &Image, bitmap: &DirtyBitmap, extra_data: Vec<u8>) -> Result<DirectoryEntry> {
    let geometry = *image.geometry();
    let granularity_bits = bitmap.granularity().trailing_zeros() as u8;
    let cluster_words = geometry.cluster_size as usize / 8;
    let mut table = Vec::new();
    for words in bitmap.words().chunks(cluster_words) {
        let entry = if words.iter().all(|&w| w == 0) {
            TableEntry::ZEROES
        } else if words.len() == cluster_words && words.iter().all(|&w| w == u64::MAX) {
            TableEntry::ONES
        } else {
            let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            bytes.resize(geometry.cluster_size as usize, 0);
            TableEntry(write_new(image, &bytes).await?)
        };
        table.push(entry);
    }
    // A disk without bytes has a bitmap without bits, but every bitmap has a table.
    table.resize(table.len().max(1), TableEntry::ZEROES);
    let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.0.to_be_bytes()).collect();
    let mut flags = if bitmap.enabled { BitmapFlags::AUTO } else { BitmapFlags::empty() };
    flags.set(BitmapFlags::IN_USE, bitmap.inconsistent);
    flags.set(BitmapFlags::EXTRA_DATA_COMPATIBLE, !extra_data.is_empty());
    Ok(DirectoryEntry {
        table_offset: write_new(image, &bytes).await?,
        table_size: table.len() as u32,
        flags,
        granularity_bits,
        extra_data,
        name: bitmap.name().to_owned(),
    })
}

/// Writes bytes into new clusters, the rest of the last filled with zeroes.
async fn write_new(image: &Image, bytes: &[u8]) -> Result<u64> {
    let mut whole = bytes.to_vec();
    whole.resize(bytes.len().next_multiple_of(image.geometry().cluster_size as usize), 0);
    let offset = image.allocate(whole.len() as u64).await?;
    match image.write_at(offset, &whole).await {
        Ok(()) => Ok(offset),
        Err(error) => {
            image.release(offset, whole.len() as u64, Release::Other);
            Err(error)
        }
    }
}

/// Changes some bitmaps and puts the new directory in the place of the old one: `replace` are bitmaps to be stored
/// (over those of the same name), `remove` is the name of one to be dropped.
pub(crate) async fn change(
    image: &Image,
    replace: &[DirtyBitmap],
    remove: Option<&str>,
    _held: &Exclusive<'_>,
) -> Result<()> {
    image.check_writable()?;
    let header = image.header();
    let mut entries = read_directory(image).await?;
    let mut gone = Vec::new();
    if let Some(old) = extension(&header) {
        gone.push((old.directory_offset, old.directory_size));
    }
    if let Some(name) = remove {
        let at = position(&entries, name)?;
        let entry = entries.remove(at);
        gone.extend(clusters_of(image, &entry).await?);
    }
    let mut written: Vec<DirectoryEntry> = Vec::new();
    let result: Result<Option<BitmapsExtension>> = async {
        for bitmap in replace {
            let old = entries.iter().position(|e| e.name == bitmap.name());
            let extra = old.map_or_else(Vec::new, |at| entries[at].extra_data.clone());
            let entry = write_bits(image, bitmap, extra).await?;
            written.push(entry.clone());
            match old {
                Some(at) => {
                    gone.extend(clusters_of(image, &entries[at]).await?);
                    entries[at] = entry;
                }
                None => entries.push(entry),
            }
        }
        if entries.is_empty() {
            return Ok(None);
        }
        let bytes = directory::serialize(&entries);
        Ok(Some(BitmapsExtension {
            nb_bitmaps: entries.len() as u32,
            directory_size: bytes.len() as u64,
            directory_offset: write_new(image, &bytes).await?,
        }))
    }
    .await;
    let new = match result {
        Ok(new) => new,
        Err(error) => {
            // What was written is given back; if even that fails, it is a leak.
            for entry in &written {
                for (offset, len) in clusters_of(image, entry).await.unwrap_or_default() {
                    image.release(offset, len, Release::Other);
                }
            }
            return Err(error);
        }
    };
    // The new clusters' refcounts are on disk before the header names them.
    image.write_back().await?;
    image
        .update_header(move |header| {
            header.autoclear.set(Autoclear::BITMAPS, new.is_some());
            header.bitmaps = new;
        })
        .await?;
    image.flush_file(Barrier::AfterHeader).await?;
    image.protect_snapshots_and_bitmaps().await?;
    for (offset, len) in gone {
        image.release(offset, len, Release::Other);
    }
    image.write_back().await
}

fn position(entries: &[DirectoryEntry], name: &str) -> Result<usize> {
    entries
        .iter()
        .position(|e| e.name == name)
        .ok_or_else(|| BlockError::new(libc::ENOENT, format!("Dirty bitmap '{name}' not found")))
}

fn info(entry: &DirectoryEntry, in_memory: bool) -> BitmapInfo {
    BitmapInfo {
        name: entry.name.clone(),
        granularity: 1 << entry.granularity_bits,
        enabled: entry.flags.contains(BitmapFlags::AUTO),
        inconsistent: !entry.is_usable() && !in_memory,
    }
}

/// Fails if there is a bitmap that was not saved, which nobody can bring to another length.
pub(crate) async fn refuse_inconsistent(image: &Image) -> Result<()> {
    let broken = image.list().await?.into_iter().find(|bitmap| bitmap.inconsistent);
    match broken {
        None => Ok(()),
        Some(bitmap) => {
            Err(BlockError::invalid(format!("Bitmap '{}' is inconsistent and cannot be used", bitmap.name))
                .with_hint("Try block-dirty-bitmap-remove to delete this bitmap from disk"))
        }
    }
}

#[async_trait]
impl PersistentBitmaps for Image {
    async fn list(&self) -> Result<Vec<BitmapInfo>> {
        let entries = read_directory(self).await?;
        Ok(entries.iter().map(|entry| info(entry, self.bitmaps().is_tracked(&entry.name))).collect())
    }

    async fn load(&self, name: &str) -> Result<DirtyBitmap> {
        let _held = self.exclusive().await;
        if let Some(bitmap) = self.bitmaps().tracked(name) {
            return Ok(bitmap);
        }
        let entries = read_directory(self).await?;
        let entry = &entries[position(&entries, name)?];
        if !entry.is_usable() {
            let mut bitmap = DirtyBitmap::new(name, 1 << entry.granularity_bits, self.header().size)?;
            bitmap.enabled = entry.flags.contains(BitmapFlags::AUTO);
            (bitmap.persistent, bitmap.inconsistent) = (true, true);
            return Ok(bitmap);
        }
        read_bits(&self.file(), self.geometry(), entry, self.header().size).await
    }

    async fn store(&self, bitmap: &DirtyBitmap) -> Result<()> {
        self.can_store(bitmap.name(), bitmap.granularity())?;
        let (this, mut bitmap) = (self.arc(), bitmap.clone());
        finish(async move {
            let held = this.exclusive().await;
            bitmap.resize(this.header().size);
            let entries = read_directory(&this).await?;
            if entries.len() >= MAX_BITMAPS as usize && position(&entries, bitmap.name()).is_err() {
                return Err(BlockError::invalid("Maximum number of persistent bitmaps is already reached"));
            }
            tracking::store(&this, bitmap, &held).await
        })
        .await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let (this, name) = (self.arc(), name.to_owned());
        finish(async move {
            let held = this.exclusive().await;
            change(&this, &[], Some(&name), &held).await?;
            this.bitmaps().forget(&name);
            Ok(())
        })
        .await
    }

    fn can_be_there(&self) -> bool {
        self.header().version >= 3
    }

    fn can_store(&self, name: &str, granularity: u64) -> Result<()> {
        let header = self.header();
        if header.version < 3 {
            return Err(BlockError::unsupported("Cannot store dirty bitmaps in qcow2 v2 files"));
        }
        if name.is_empty() {
            return Err(BlockError::invalid("Bitmap name cannot be empty"));
        }
        if name.len() > MAX_NAME {
            return Err(BlockError::invalid(format!("Name length exceeds maximum ({MAX_NAME} characters)")));
        }
        if !granularity.is_power_of_two() || !GRANULARITY_BITS.contains(&(granularity.trailing_zeros() as u8))
        {
            return Err(BlockError::invalid("Granularity must be a power of two from 512 bytes to 2 GiB"));
        }
        let bits = granularity.trailing_zeros() as u8;
        let entries = directory::table_entries(self.geometry(), bits, header.size);
        let too_large = entries * 8 > (8 << 20) || header.size.div_ceil(granularity) > DirtyBitmap::MAX_BITS;
        match too_large {
            true => Err(BlockError::invalid(
                "Too much space will be occupied by the bitmap. Use larger granularity",
            )),
            false => Ok(()),
        }
    }
}

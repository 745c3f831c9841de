//! The bitmap directory and the bitmaps' tables on disk.
//!
//! Source: the qcow2 specification, "Bitmaps extension", "Bitmap directory", "Bitmap table".

use std::sync::Arc;

use bitflags::bitflags;
use rhea_block::{BlockError, BlockNode, Result, ResultExt};

use crate::geometry::{Geometry, OFFSET_MASK};
use crate::header::BitmapsExtension;
use crate::structures::{read_vector, words};

/// Bytes of an entry's fixed part.
const FIXED: usize = 24;
/// Where the flags are in an entry.
pub(crate) const FLAGS_OFFSET: u64 = 12;
/// The most bitmaps.
pub(crate) const MAX_BITMAPS: u32 = 16384;
/// The longest name, in bytes, as in QEMU.
pub(crate) const MAX_NAME: usize = 1023;
/// Granularities go from 512 bytes to 2 GiB, as in QEMU.
pub(crate) const GRANULARITY_BITS: std::ops::RangeInclusive<u8> = 9..=31;
/// The longest directory, in bytes: half a KiB for each of as many bitmaps as there can be. It is in memory several times
/// while it is told of.
const MAX_DIRECTORY: u64 = 512 * MAX_BITMAPS as u64;
/// The longest table, in bytes.
const MAX_TABLE: u64 = 8 << 20;
/// `type` of a dirty tracking bitmap.
const DIRTY_TRACKING: u8 = 1;

bitflags! {
    /// Flags of a bitmap.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct BitmapFlags: u32 {
        /// Was not saved properly.
        const IN_USE = 1 << 0;
        /// Enabled: has to reflect every write.
        const AUTO = 1 << 1;
        /// May be used by who does not know the extra data.
        const EXTRA_DATA_COMPATIBLE = 1 << 2;
    }
}

/// An entry of the bitmap directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Where the bitmap's table is in the file.
    pub table_offset: u64,
    /// Entries of the table.
    pub table_size: u32,
    /// Flags.
    pub flags: BitmapFlags,
    /// The granularity is `1 << granularity_bits` bytes.
    pub granularity_bits: u8,
    /// Data that no version defines yet; kept.
    pub extra_data: Vec<u8>,
    /// The name, unique in the image.
    pub name: String,
}

impl DirectoryEntry {
    /// Bytes of the entry on disk, with padding.
    fn length(&self) -> usize {
        (FIXED + self.extra_data.len() + self.name.len()).next_multiple_of(8)
    }

    /// Its bits mean something, and may be used by us.
    pub fn is_usable(&self) -> bool {
        !self.flags.contains(BitmapFlags::IN_USE)
            && (self.extra_data.is_empty() || self.flags.contains(BitmapFlags::EXTRA_DATA_COMPATIBLE))
    }

    fn serialize(&self, to: &mut Vec<u8>) {
        to.extend(self.table_offset.to_be_bytes());
        to.extend(self.table_size.to_be_bytes());
        to.extend(self.flags.bits().to_be_bytes());
        to.extend([DIRTY_TRACKING, self.granularity_bits]);
        to.extend((self.name.len() as u16).to_be_bytes());
        to.extend((self.extra_data.len() as u32).to_be_bytes());
        to.extend(&self.extra_data);
        to.extend(self.name.as_bytes());
        to.resize(to.len().next_multiple_of(8), 0);
    }
}

/// Entries of the table of a bitmap for a disk of so many bytes.
pub(crate) fn table_entries(geometry: &Geometry, granularity_bits: u8, disk_size: u64) -> u64 {
    let bits = disk_size.div_ceil(1 << granularity_bits);
    bits.div_ceil(8).div_ceil(geometry.cluster_size)
}

/// The directory's bytes.
pub(crate) fn serialize(entries: &[DirectoryEntry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.iter().map(DirectoryEntry::length).sum());
    entries.iter().for_each(|entry| entry.serialize(&mut bytes));
    bytes
}

/// Where each entry begins in the directory.
pub(crate) fn positions(entries: &[DirectoryEntry]) -> Vec<u64> {
    let mut at = 0;
    entries
        .iter()
        .map(|entry| {
            let start = at;
            at += entry.length() as u64;
            start
        })
        .collect()
}

/// Parses the directory of `count` bitmaps.
pub(crate) fn parse(
    bytes: &[u8],
    count: u32,
    geometry: &Geometry,
    disk_size: u64,
) -> Result<Vec<DirectoryEntry>> {
    let broken = || BlockError::malformed("Broken bitmap directory");
    let mut entries = Vec::new();
    let mut names = std::collections::HashSet::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        if entries.len() == count as usize {
            return Err(BlockError::malformed("More bitmaps found than specified in header extension"));
        }
        let fixed = rest.get(..FIXED).ok_or_else(broken)?;
        let name_size = usize::from(u16::from_be_bytes([fixed[18], fixed[19]]));
        let extra_size = u32::from_be_bytes(fixed[20..24].try_into().expect("four bytes")) as usize;
        let used = FIXED.checked_add(extra_size).and_then(|n| n.checked_add(name_size)).ok_or_else(broken)?;
        let length = used.checked_next_multiple_of(8).filter(|&n| n <= rest.len()).ok_or_else(broken)?;
        if name_size == 0 || name_size > MAX_NAME {
            return Err(broken());
        }
        let name = std::str::from_utf8(&rest[FIXED + extra_size..used])
            .map_err(|_| BlockError::malformed("bitmap directory: a name is not UTF-8"))?;
        let fails = || BlockError::malformed(format!("Bitmap '{name}' doesn't satisfy the constraints"));
        let flags = u32::from_be_bytes(fixed[12..16].try_into().expect("four bytes"));
        let entry = DirectoryEntry {
            table_offset: u64::from_be_bytes(fixed[..8].try_into().expect("eight bytes")),
            table_size: u32::from_be_bytes(fixed[8..12].try_into().expect("four bytes")),
            flags: BitmapFlags::from_bits(flags).ok_or_else(fails)?,
            granularity_bits: fixed[17],
            extra_data: rest[FIXED..FIXED + extra_size].to_vec(),
            name: name.to_owned(),
        };
        if fixed[16] != DIRTY_TRACKING || !satisfies(&entry, geometry, disk_size) {
            return Err(fails());
        }
        if !names.insert(name) {
            return Err(BlockError::malformed(format!("bitmap directory: two bitmaps are called '{name}'")));
        }
        entries.push(entry);
        rest = &rest[length..];
    }
    match entries.len() == count as usize {
        true => Ok(entries),
        false => Err(BlockError::malformed("Less bitmaps found than specified in header extension")),
    }
}

fn satisfies(entry: &DirectoryEntry, geometry: &Geometry, disk_size: u64) -> bool {
    GRANULARITY_BITS.contains(&entry.granularity_bits)
        && entry.table_offset != 0
        && entry.table_offset.is_multiple_of(geometry.cluster_size)
        && entry.table_size != 0
        && u64::from(entry.table_size) * 8 <= MAX_TABLE
        // A bitmap that was not saved may have another size than the disk.
        && (entry.flags.contains(BitmapFlags::IN_USE)
            || u64::from(entry.table_size) >= table_entries(geometry, entry.granularity_bits, disk_size))
}

/// Reads the directory.
pub(crate) async fn read(
    file: &Arc<BlockNode>,
    extension: &BitmapsExtension,
    geometry: &Geometry,
    disk_size: u64,
) -> Result<Vec<DirectoryEntry>> {
    let (offset, size) = (extension.directory_offset, extension.directory_size);
    let end =
        offset.checked_add(size).filter(|&end| end <= file.length().next_multiple_of(geometry.cluster_size));
    if extension.nb_bitmaps > MAX_BITMAPS || size > MAX_DIRECTORY || end.is_none() {
        return Err(BlockError::malformed("bitmaps_ext: invalid bitmap directory size"));
    }
    let bytes = read_vector(file.clone(), offset, size).await.context("Failed to read bitmap directory")?;
    let bytes = bytes.as_slice().expect("a fresh vector is one segment");
    parse(bytes, extension.nb_bitmaps, geometry, disk_size)
}

/// An entry of a bitmap's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TableEntry(pub u64);

impl TableEntry {
    /// A cluster of zeroes.
    pub(crate) const ZEROES: Self = Self(0);
    /// A cluster of ones.
    pub(crate) const ONES: Self = Self(1);

    /// Where the data is in the file; `None`: all bits are alike.
    pub(crate) fn offset(self) -> Option<u64> {
        (self.0 & OFFSET_MASK != 0).then_some(self.0 & OFFSET_MASK)
    }

    fn is_valid(self, geometry: &Geometry) -> bool {
        match self.offset() {
            Some(offset) => self.0 == offset && offset.is_multiple_of(geometry.cluster_size),
            None => self == Self::ZEROES || self == Self::ONES,
        }
    }
}

/// Reads a bitmap's table.
pub(crate) async fn read_table(
    file: &Arc<BlockNode>,
    entry: &DirectoryEntry,
    geometry: &Geometry,
) -> Result<Vec<TableEntry>> {
    let describe = || format!("Could not read bitmap_table table from image for bitmap '{}'", entry.name);
    let bytes = read_vector(file.clone(), entry.table_offset, u64::from(entry.table_size) * 8)
        .await
        .context(describe())?;
    let table: Vec<TableEntry> = words(&bytes.to_vec()).map(TableEntry).collect();
    match table.iter().all(|e| e.is_valid(geometry)) {
        true => Ok(table),
        false => Err(BlockError::os(libc::EINVAL).context(describe())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn geometry() -> Geometry {
        Geometry {
            cluster_bits: 16,
            cluster_size: 1 << 16,
            subcluster_bits: 16,
            subclusters: 1,
            l2_entry_size: 8,
            l2_bits: 13,
            refcount_order: 4,
            refcount_block_bits: 15,
            version: 3,
        }
    }

    fn entry(name: &str) -> DirectoryEntry {
        DirectoryEntry {
            table_offset: 0x70000,
            table_size: 2,
            flags: BitmapFlags::AUTO,
            granularity_bits: 16,
            extra_data: vec![],
            name: name.into(),
        }
    }

    #[test]
    fn what_was_stored_is_parsed() {
        let mut entries = vec![entry("a"), entry("some-name"), entry("n\u{e4}me")];
        entries[1].extra_data = vec![1, 2, 3];
        entries[1].flags = BitmapFlags::EXTRA_DATA_COMPATIBLE | BitmapFlags::IN_USE;
        let bytes = serialize(&entries);
        assert_eq!(positions(&entries)[1], 32);
        assert_eq!(parse(&bytes, 3, &geometry(), 1 << 35).unwrap(), entries);
        assert!(parse(&bytes, 2, &geometry(), 0).unwrap_err().to_string().starts_with("More"));
        assert!(parse(&bytes, 4, &geometry(), 0).unwrap_err().to_string().starts_with("Less"));
        // 2 clusters of bits are enough for 64 GiB.
        assert!(parse(&bytes, 3, &geometry(), (1 << 36) + 1).is_err());
    }

    #[test]
    fn constraints_are_those_of_the_specification() {
        let refuse = |change: fn(&mut DirectoryEntry)| {
            let mut e = entry("b");
            change(&mut e);
            assert!(parse(&serialize(&[e]), 1, &geometry(), 1 << 20).is_err());
        };
        refuse(|e| e.table_offset += 512);
        refuse(|e| e.table_offset = 0);
        refuse(|e| e.table_size = 0);
        refuse(|e| e.table_size = 1 << 30);
        refuse(|e| e.granularity_bits = 8);
        refuse(|e| e.granularity_bits = 32);
        refuse(|e| e.name = "x".repeat(1024));
        refuse(|e| e.name.clear());
        let twice = serialize(&[entry("b"), entry("b")]);
        assert!(parse(&twice, 2, &geometry(), 1 << 20).is_err());
        assert!(TableEntry(1).is_valid(&geometry()) && TableEntry(0x10000).is_valid(&geometry()));
        for bad in [2, 0x10001, 0x200, 1 << 56, 1 << 63] {
            assert!(!TableEntry(bad).is_valid(&geometry()), "{bad:x}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), count in 0u32..4) {
            let _ = parse(&bytes, count, &geometry(), 1 << 30);
        }
    }
}

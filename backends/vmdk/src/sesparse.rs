//! Space-efficient sparse extents (`SESPARSE`) of ESXi, which VMware has not described; the layout is as read by others
//! and was checked against QEMU. Read-only.
//!
//! The constant header has places and sizes of everything, in sectors, as 64-bit numbers. Directory entries are the number
//! of a grain table, table entries a type in the upper four bits and the number of a grain in the others, whose lowest
//! twelve bits come first.

use rhea_block::{BlockError, BlockNode, Result};

use crate::sparse::{SECTOR, Sparse, directory_entries, le64};

const CONSTANT_MAGIC: u64 = 0xcafe_babe;
const VOLATILE_MAGIC: u64 = 0xcafe_cafe;
const VERSION: u64 = 0x2_0000_0001;
/// Sectors of a grain, and of a grain table.
const GRAIN: u64 = 8;
const TABLE: u64 = 64;
const ENTRIES_PER_TABLE: u64 = TABLE * SECTOR / 8;

/// The fields of the constant header that are needed, by their number.
const FIELDS: [(usize, &str, u64); 4] = [
    (0, "magic", CONSTANT_MAGIC),
    (1, "version", VERSION),
    (3, "grain size", GRAIN),
    (4, "grain table size", TABLE),
];

pub(crate) async fn open(file: &BlockNode, budget: &mut u64) -> Result<Sparse> {
    let mut header = [0; 512];
    file.read_bytes(0, &mut header).await?;
    let field = |number: usize| le64(&header, number * 8);
    for (number, name, wanted) in FIELDS {
        if field(number) != wanted {
            return Err(BlockError::unsupported(format!("seSparse header: {name} {:#x}", field(number))));
        }
    }
    let capacity = field(2);
    if capacity > rhea_block::MAX_LENGTH / SECTOR {
        return Err(BlockError::malformed(format!("seSparse header: capacity {capacity}")));
    }
    if field(5) != 0 {
        return Err(BlockError::unsupported(format!("seSparse header: flags {:#x}", field(5))));
    }
    let place = |number: usize, name: &str, len: u64| match field(number).checked_mul(SECTOR) {
        Some(at) if at >= SECTOR && at.saturating_add(len) <= file.length() => Ok(at),
        _ => Err(BlockError::malformed(format!("seSparse header: {name} at sector {}", field(number)))),
    };
    let mut volatile = [0; 512];
    file.read_bytes(place(10, "volatile header", SECTOR)?, &mut volatile).await?;
    if le64(&volatile, 0) != VOLATILE_MAGIC {
        return Err(BlockError::malformed("seSparse volatile header: wrong magic"));
    }
    if volatile[24] != 0 {
        return Err(BlockError::unsupported(
            "seSparse: the journal needs to be replayed, which is not supported",
        ));
    }
    let (length, grain) = (capacity * SECTOR, GRAIN * SECTOR);
    let entries = directory_entries(length, grain * ENTRIES_PER_TABLE, budget)?;
    if field(17).saturating_mul(SECTOR) < entries * 8 {
        return Err(BlockError::malformed(format!("seSparse header: grain directory size {}", field(17))));
    }
    let mut bytes = vec![0; entries as usize * 8];
    file.read_bytes(place(16, "grain directory", entries * 8)?, &mut bytes).await?;
    let tables = field(18);
    let directory = bytes.chunks_exact(8).map(|b| table_sector(le64(b, 0), tables)).collect::<Result<_>>()?;
    Ok(Sparse {
        length,
        grain,
        entries_per_table: ENTRIES_PER_TABLE,
        directory,
        redundant: vec![],
        compressed: false,
        markers: false,
        zeroed_grain: false,
        read_only: true,
        grains_at: Some(place(24, "grains", 0)?),
    })
}

/// The sector of the grain table that a directory entry names; 0: none.
fn table_sector(entry: u64, tables: u64) -> Result<u32> {
    let malformed = || BlockError::malformed(format!("seSparse grain directory: entry {entry:#x}"));
    match entry >> 32 {
        0 if entry == 0 => Ok(0),
        0x1000_0000 => {
            let sector = (entry & 0xffff_ffff) * TABLE;
            tables.checked_add(sector).and_then(|s| u32::try_from(s).ok()).ok_or_else(malformed)
        }
        _ => Err(malformed()),
    }
}

/// A table's entries as they are kept in memory: 0 for nothing, 1 for zeroes, else two more than the grain's number.
pub(crate) fn table_entries(bytes: &[u8]) -> Result<Vec<u32>> {
    let entry = |bytes: &[u8]| {
        let entry = le64(bytes, 0);
        let malformed = || BlockError::malformed(format!("seSparse grain table: entry {entry:#x}"));
        match entry >> 60 {
            0 if entry == 0 => Ok(0),
            1 | 2 => Ok(1),
            3 => {
                let number = entry >> 48 & 0xfff | (entry & 0xffff_ffff_ffff) << 12;
                number.checked_add(2).and_then(|n| u32::try_from(n).ok()).ok_or_else(malformed)
            }
            _ => Err(malformed()),
        }
    };
    bytes.chunks_exact(8).map(entry).collect()
}

/// The number of the grain that an entry in memory names.
pub(crate) fn grain_index(entry: u32) -> Option<u64> {
    entry.checked_sub(2).map(u64::from)
}

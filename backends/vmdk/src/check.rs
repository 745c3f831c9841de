//! Checking a disk: where tables and grains lie, and that the redundant tables are as the others.

use std::ops::Range;

use rhea_block::{BlockNode, CheckResult, Repair, Result};

use crate::image::{Image, Kind, kind_of};
use crate::sparse::{SECTOR, Sparse};
use crate::tables::{place, read};

/// Units of a file, at most: half a billion.
const MAX_UNITS: u64 = 1 << 29;
/// Units that are looked at in one pass over the tables: 16 MiB of memory.
const WINDOW: u64 = 1 << 27;

/// Which places of a part of the file are taken.
struct Used {
    /// The part, in units.
    window: Range<u64>,
    words: Vec<u64>,
}

impl Used {
    /// Whether the unit's place belongs to this part and was taken before; it is taken from now on.
    fn is_taken(&mut self, unit: u64) -> bool {
        if !self.window.contains(&unit) {
            return false;
        }
        let unit = unit - self.window.start;
        let (word, bit) = (&mut self.words[(unit / 64) as usize], 1 << (unit % 64));
        let taken = *word & bit != 0;
        *word |= bit;
        taken
    }
}

pub(crate) async fn check(image: &Image, repair: Repair) -> Result<CheckResult> {
    let mut result = CheckResult::default();
    let writable = !image.file.node().is_read_only();
    if writable {
        image.commit().await?;
    }
    for (number, extent) in image.extents.iter().enumerate() {
        if let Some(sparse) = extent.sparse() {
            let file = extent.node()?;
            check_extent(number, &file, sparse, repair.leaks && writable && !sparse.read_only, &mut result)
                .await?;
        }
    }
    if result.leaks_fixed > 0 {
        image.commit().await?;
    }
    Ok(result)
}

async fn check_extent(
    number: usize,
    file: &BlockNode,
    sparse: &Sparse,
    repair: bool,
    result: &mut CheckResult,
) -> Result<()> {
    let length = file.length();
    // Grains are as long as the units, so two that start in one unit overlap.
    let units = length.div_ceil(sparse.grain);
    if units > MAX_UNITS {
        result.check_errors += 1;
        result.tell(format!("ERROR: extent {number}: a file of {length} bytes is too long to be checked"));
        return Ok(());
    }
    let mut start = 0;
    while start < units {
        let window = start..units.min(start + WINDOW);
        start = window.end;
        let words = vec![0; (window.end - window.start).div_ceil(64) as usize];
        check_places(number, file, sparse, &mut Used { window, words }, result).await?;
    }
    for table in 0..sparse.directory.len() {
        if sparse.directory[table] == 0 || place(file, sparse, &sparse.directory, table).is_err() {
            continue;
        }
        if sparse.redundant.is_empty() || sparse.redundant[table] == sparse.directory[table] {
            continue;
        }
        let entries = read(file, sparse, &sparse.directory, table).await?;
        check_redundant(number, table, file, sparse, &entries, repair, result).await?;
    }
    Ok(())
}

/// Looks where tables and grains lie. What does not lie in the file is told in the first pass, and places that are
/// shared in the pass that they belong to.
async fn check_places(
    number: usize,
    file: &BlockNode,
    sparse: &Sparse,
    used: &mut Used,
    result: &mut CheckResult,
) -> Result<()> {
    let length = file.length();
    let first = used.window.start == 0;
    for table in 0..sparse.directory.len() {
        if sparse.directory[table] == 0 {
            continue;
        }
        if let Err(error) = place(file, sparse, &sparse.directory, table) {
            if first {
                result.corruptions += 1;
                result.tell(format!("ERROR: extent {number}: {error}"));
            }
            continue;
        }
        let entries = read(file, sparse, &sparse.directory, table).await?;
        for (index, entry) in entries.iter().enumerate() {
            let offset = table as u64 * sparse.table_span() + index as u64 * sparse.grain;
            if offset >= sparse.length {
                break;
            }
            let (at, len) = match kind_of(sparse, *entry) {
                Kind::Data(at) => (at, sparse.grain.min(sparse.length - offset)),
                Kind::Compressed(at) => (at, 1),
                Kind::Zero | Kind::Unallocated => continue,
            };
            if at + len > length {
                if first {
                    result.corruptions += 1;
                    result.tell(format!(
                        "ERROR: extent {number}: the grain of disk offset {offset:#x} is at {at:#x}, beyond the file's end"
                    ));
                }
                continue;
            }
            if !sparse.compressed && used.is_taken(at / sparse.grain) {
                result.corruptions += 1;
                result.tell(format!(
                    "ERROR: extent {number}: the grain of disk offset {offset:#x} shares its place {at:#x} with another"
                ));
            }
        }
    }
    Ok(())
}

/// A crash may leave a redundant table that knows grains the other does not: space that is lost.
async fn check_redundant(
    number: usize,
    table: usize,
    file: &BlockNode,
    sparse: &Sparse,
    entries: &[u32],
    repair: bool,
    result: &mut CheckResult,
) -> Result<()> {
    let at = match place(file, sparse, &sparse.redundant, table) {
        Ok(at) => at,
        Err(error) => {
            result.corruptions += 1;
            result.tell(format!("ERROR: extent {number}: redundant {error}"));
            return Ok(());
        }
    };
    if read(file, sparse, &sparse.redundant, table).await? == entries {
        return Ok(());
    }
    if repair {
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        file.write_bytes(at, &bytes).await?;
        result.leaks_fixed += 1;
        return Ok(());
    }
    result.leaks += 1;
    result.tell(format!(
        "Leaked: extent {number}: redundant grain table {table} at sector {} differs",
        at / SECTOR
    ));
    Ok(())
}

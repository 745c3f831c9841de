//! Checking a disk: where tables and grains lie, and that the redundant tables are as the others.

use rhea_block::{BlockNode, CheckResult, Repair, Result};

use crate::image::{Image, Kind, kind_of};
use crate::sparse::{SECTOR, Sparse};
use crate::tables::{place, read};

/// Bytes of the map of used space.
const MAX_MAP: u64 = 64 << 20;

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
    // Grains are as long as the map's units, so two that start in one unit overlap.
    let words = length.div_ceil(sparse.grain).div_ceil(64);
    if words * 8 > MAX_MAP {
        result.check_errors += 1;
        result.tell(format!("ERROR: extent {number}: a file of {length} bytes is too long to be checked"));
        return Ok(());
    }
    let mut used = vec![0_u64; words as usize];
    for table in 0..sparse.directory.len() {
        if sparse.directory[table] == 0 {
            continue;
        }
        if let Err(error) = place(file, sparse, &sparse.directory, table) {
            result.corruptions += 1;
            result.tell(format!("ERROR: extent {number}: {error}"));
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
                result.corruptions += 1;
                result.tell(format!(
                    "ERROR: extent {number}: the grain of disk offset {offset:#x} is at {at:#x}, beyond the file's end"
                ));
                continue;
            }
            if !sparse.compressed {
                let unit = at / sparse.grain;
                let (word, bit) = (&mut used[(unit / 64) as usize], 1 << (unit % 64));
                if *word & bit != 0 {
                    result.corruptions += 1;
                    result.tell(format!(
                        "ERROR: extent {number}: the grain of disk offset {offset:#x} shares its place {at:#x} with another"
                    ));
                }
                *word |= bit;
            }
        }
        check_redundant(number, table, file, sparse, &entries, repair, result).await?;
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
    if sparse.redundant.is_empty() || sparse.redundant[table] == sparse.directory[table] {
        return Ok(());
    }
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

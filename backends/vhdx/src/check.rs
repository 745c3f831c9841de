//! Checking an image: every entry of the block allocation table, and that no two blocks share a place.

use rhea_block::{CheckResult, Node, Result};

use crate::image::Image;
use crate::layout::MIB;

/// Bytes of the map of used space, a bit for each MiB of the file: 512 TiB.
const MAX_MAP: u64 = 64 << 20;

/// Checks what the file holds. Opening has replayed the log if there was need, which counts as a repair.
pub(crate) async fn check(image: &Image) -> Result<CheckResult> {
    let mut result = CheckResult { corruptions_fixed: u64::from(image.replayed), ..CheckResult::default() };
    let file = image.file.node();
    let check = image.entry_check();
    let words = check.file_length.div_ceil(MIB).div_ceil(64);
    if words * 8 > MAX_MAP {
        result.check_errors += 1;
        result.tell(format!("ERROR: a file of {} bytes is too long to be checked", check.file_length));
        return Ok(result);
    }
    let mut used = vec![0_u64; words as usize];
    for block in 0..image.length().div_ceil(check.block_size) {
        let entry = image.table.get(&file, image.index(block)).await?;
        let place = match check.place(block, entry) {
            Ok(None) => continue,
            Ok(Some(place)) => place,
            Err(error) => {
                result.corruptions += 1;
                result.tell(format!("ERROR: {error}"));
                continue;
            }
        };
        let mut shared = false;
        for unit in place / MIB..(place + check.used(block)).div_ceil(MIB) {
            let (word, bit) = (&mut used[(unit / 64) as usize], 1 << (unit % 64));
            shared |= *word & bit != 0;
            *word |= bit;
        }
        if shared {
            result.corruptions += 1;
            result.tell(format!("ERROR: VHDX BAT entry {block} shares its place {place:#x} with another"));
        }
    }
    Ok(result)
}

//! Checking images.

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use rhea_block::{CheckResult, Repair, Result};

use super::header::DISCARDED;
use super::node::VdiImage;
use crate::fields::le32;
use crate::scan::{Part, Scan};
use crate::tables::Table;
use crate::used::UsedSet;

/// Blocks of the file that are looked at in one pass over the map: 32 MiB of memory. Only disks of more than 256 TiB need
/// another pass.
const WINDOW: u64 = 1 << 28;

struct Check<'a> {
    image: &'a VdiImage,
    result: CheckResult,
    /// Bytes of the map that the file has.
    map_len: u64,
    allocated: u32,
    /// The lowest block of the file that nothing refers to, as far as the passes went.
    first_free: u64,
}

pub(super) async fn check(image: &VdiImage, repair: Repair) -> Result<CheckResult> {
    let file = image.file.node();
    let blocks = u64::from(image.header.blocks_in_image);
    // What lies beyond the file's end was never written.
    let map_len = image.map.len.min(file.length().saturating_sub(image.map.offset)) / 4 * 4;
    let mut check = Check { image, result: CheckResult::default(), map_len, allocated: 0, first_free: 0 };
    let mut window = 0..blocks.min(WINDOW);
    loop {
        check.pass(window.clone()).await?;
        if window.end == blocks {
            break;
        }
        window = window.end..blocks.min(window.end + WINDOW);
    }
    let Check { mut result, allocated, first_free, .. } = check;
    if map_len < image.map.len {
        result.check_errors += 1;
        result.tell("ERROR: the block map ends beyond the file's end".into());
    }
    let counted = image.written_count.load(Relaxed);
    if allocated != counted {
        // With other errors, nobody knows which blocks of the file are free.
        let behind = result.corruptions == 0 && result.check_errors == 0;
        if repair.errors && behind && first_free == u64::from(allocated) {
            image.write_count(allocated).await?;
            file.flush().await?;
            result.corruptions_fixed += 1;
            result.tell(format!("Repairing: allocated blocks mismatch, is {allocated}, should be {counted}"));
        } else {
            result.corruptions += 1;
            result.tell(format!("ERROR: allocated blocks mismatch, is {allocated}, should be {counted}"));
        }
    }
    Ok(result)
}

impl Check<'_> {
    /// Looks at the entries that refer to some of the file's blocks; those that refer to none belong to the first pass.
    async fn pass(&mut self, window: Range<u64>) -> Result<()> {
        let mut used = UsedSet::new(window.end - window.start);
        let table = Table { len: self.map_len, ..self.image.map };
        let mut scan = Scan::new(self.image.file.node(), table);
        while let Some((at, part)) = scan.next().await? {
            match part {
                Part::Zeroes(len) => self.first_block(at / 4, len / 4, &window, &mut used),
                Part::Bytes(bytes) => {
                    for (block, entry) in (at / 4..).zip(bytes.chunks_exact(4).map(|e| le32(e, 0))) {
                        if entry < DISCARDED {
                            self.entry(block, entry, &window, &mut used);
                        }
                    }
                }
            }
        }
        if self.first_free == window.start {
            self.first_free += used.first_free();
        }
        Ok(())
    }

    /// Entries in a row that refer to the file's first block: all but one of them are wrong.
    fn first_block(&mut self, block: u64, count: u64, window: &Range<u64>, used: &mut UsedSet) {
        let told = count.min(CheckResult::MAX_MESSAGES as u64 + 1);
        (block..block + told).for_each(|block| self.entry(block, 0, window, used));
        if window.start == 0 {
            self.allocated += (count - told) as u32;
            self.result.corruptions += count - told;
        }
    }

    fn entry(&mut self, block: u64, entry: u32, window: &Range<u64>, used: &mut UsedSet) {
        if u64::from(entry) >= self.image.header.blocks_in_image.into() {
            if window.start == 0 {
                self.result.corruptions += 1;
                self.result.tell(format!("ERROR: block index {block} too large, is {entry}"));
            }
        } else if window.contains(&entry.into()) {
            self.allocated += 1;
            if !used.insert(u64::from(entry) - window.start) {
                self.result.corruptions += 1;
                // There can be half a billion of them.
                if self.result.messages.len() < CheckResult::MAX_MESSAGES {
                    self.result.tell(format!("ERROR: block index {block} also used by {entry}"));
                }
            }
        }
    }
}

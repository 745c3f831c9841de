//! Checking images.

use rhea_block::{CheckResult, Repair, Result};
use std::sync::atomic::Ordering::Relaxed;

use super::header::DISCARDED;
use super::node::VdiImage;
use crate::fields::le32;
use crate::used::UsedSet;

pub(super) async fn check(image: &VdiImage, repair: Repair) -> Result<CheckResult> {
    let mut result = CheckResult::default();
    let blocks = u64::from(image.header.blocks_in_image);
    let mut used = UsedSet::new(blocks);
    let mut allocated = 0u32;
    let file = image.file.node();
    let mut chunk = vec![0; 1 << 20];
    let mut at = 0;
    // What lies beyond the file's end was never written.
    let len = image.map.len.min(file.length().saturating_sub(image.map.offset)) / 4 * 4;
    while at < len {
        let part = &mut chunk[..(len - at).min(1 << 20) as usize];
        file.read_bytes(image.map.offset + at, part).await?;
        for (block, entry) in (at / 4..).zip(part.chunks_exact(4).map(|e| le32(e, 0))) {
            if entry >= DISCARDED {
                continue;
            }
            if u64::from(entry) >= blocks {
                result.corruptions += 1;
                result.tell(format!("ERROR: block index {block} too large, is {entry}"));
                continue;
            }
            allocated += 1;
            if !used.insert(entry.into()) {
                result.corruptions += 1;
                result.tell(format!("ERROR: block index {block} also used by {entry}"));
            }
        }
        at += part.len() as u64;
    }
    if len < image.map.len {
        result.check_errors += 1;
        result.tell("ERROR: the block map ends beyond the file's end".into());
    }
    let counted = image.written_count.load(Relaxed);
    if allocated != counted {
        // With other errors, nobody knows which blocks of the file are free.
        let behind = result.corruptions == 0 && result.check_errors == 0;
        if repair.errors && behind && used.first_free() == u64::from(allocated) {
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

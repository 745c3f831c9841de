//! Checking and repairing images.

use rhea_block::{BlockError, CheckResult, Repair, Result};

use super::header::{Header, NEED_CHECK};
use super::node::QedImage;
use crate::fields::le64;
use crate::scan::{Part, Scan};
use crate::tables::Table;
use crate::used::UsedSet;

struct Check<'a> {
    image: &'a QedImage,
    header: Header,
    file_length: u64,
    repair: bool,
    used: UsedSet,
    result: CheckResult,
}

pub(super) async fn check(image: &QedImage, repair: Repair) -> Result<CheckResult> {
    let header = image.header.lock().clone();
    let file_length = image.file.node().length();
    let clusters = file_length.div_ceil(header.cluster_size.into());
    if clusters > UsedSet::MAX {
        return Err(BlockError::new(libc::EFBIG, "the image file has too many clusters to check"));
    }
    let total_clusters = header.image_size.div_ceil(header.cluster_size.into());
    let mut check = Check {
        image,
        header,
        file_length,
        repair: repair.errors || repair.leaks,
        used: UsedSet::new(clusters),
        result: CheckResult { total_clusters, ..CheckResult::default() },
    };
    check.run().await?;
    let Check { used, mut result, header, .. } = check;
    let header_clusters = u64::from(header.header_size).min(clusters);
    result.leaks = clusters - header_clusters - used.count();
    let clean = result.corruptions == 0 && result.check_errors == 0;
    if (repair.errors || repair.leaks) && clean && header.features & NEED_CHECK != 0 {
        // What was repaired must be in the file before the image counts as clean.
        image.file.node().flush().await?;
        image
            .update_header(|header| {
                header.features &= !NEED_CHECK;
                Ok(())
            })
            .await?;
        image.file.node().flush().await?;
    }
    Ok(result)
}

impl Check<'_> {
    async fn run(&mut self) -> Result<()> {
        let l1 = self.header.l1_table_offset;
        self.claim(l1, self.header.table_size.into());
        let mut scan = self.scan(l1);
        while let Some((at, part)) = scan.next().await? {
            let Part::Bytes(bytes) = part else { continue };
            for (index, offset) in (0..).zip(bytes.chunks_exact(8).map(|e| le64(e, 0))) {
                if offset == 0 {
                    continue;
                }
                let entry_at = l1 + at + index * 8;
                if !self.header.is_table_offset(offset, self.file_length) {
                    self.bad_entry(entry_at).await?;
                    continue;
                }
                // A table that another entry refers to as well is not gone through again.
                if self.claim(offset, self.header.table_size.into()) {
                    self.check_l2(offset).await?;
                }
            }
        }
        Ok(())
    }

    async fn check_l2(&mut self, table: u64) -> Result<()> {
        let mut last = 0u64;
        let mut scan = self.scan(table);
        while let Some((at, part)) = scan.next().await? {
            let Part::Bytes(bytes) = part else { continue };
            for (index, offset) in (0..).zip(bytes.chunks_exact(8).map(|e| le64(e, 0))) {
                if offset <= 1 {
                    continue;
                }
                let entry_at = table + at + index * 8;
                let valid = self.header.is_cluster_offset(offset, self.file_length);
                if !valid {
                    self.bad_entry(entry_at).await?;
                }
                if valid || !self.repair {
                    self.result.allocated_clusters += 1;
                    if last != 0 && last.wrapping_add(self.header.cluster_size.into()) != offset {
                        self.result.fragmented_clusters += 1;
                    }
                    last = offset;
                }
                if !valid {
                    continue;
                }
                self.claim(offset, 1);
            }
        }
        Ok(())
    }

    fn scan(&self, offset: u64) -> Scan {
        Scan::new(self.image.file.node(), Table { offset, len: self.header.table_len() })
    }

    /// Marks clusters as used; false, and corruptions, if some are already.
    fn claim(&mut self, offset: u64, count: u64) -> bool {
        let first = offset / u64::from(self.header.cluster_size);
        let mut fresh = true;
        for cluster in first..first + count {
            if !self.used.insert(cluster) {
                fresh = false;
                self.result.corruptions += 1;
            }
        }
        fresh
    }

    /// An entry that refers to nothing there could be.
    async fn bad_entry(&mut self, entry_at: u64) -> Result<()> {
        if !self.repair {
            self.result.corruptions += 1;
            return Ok(());
        }
        self.image.file.node().write_bytes(entry_at, &[0; 8]).await?;
        self.result.corruptions_fixed += 1;
        Ok(())
    }
}

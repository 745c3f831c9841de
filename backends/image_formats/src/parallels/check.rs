//! Checking and repairing images.

use std::sync::atomic::Ordering::Relaxed;

use rhea_async_io::IoVector;
use rhea_block::{BlockError, BlockNode, CheckResult, Repair, Result, Truncate, WriteFlags};

use super::header::{LEN, at};
use super::node::ParallelsImage;
use crate::fields::le32;
use crate::scan::{Part, Scan};
use crate::tables::Table;
use crate::used::UsedSet;

struct Check<'a> {
    image: &'a ParallelsImage,
    repair: Repair,
    used: UsedSet,
    result: CheckResult,
    /// The end of the last cluster in use.
    end: u64,
    last: Option<u64>,
}

fn verb(fix: bool) -> &'static str {
    if fix { "Repairing" } else { "ERROR" }
}

pub(super) async fn check(image: &ParallelsImage, repair: Repair) -> Result<CheckResult> {
    let header = &image.header;
    let clusters = image.file.node().length().div_ceil(header.cluster_size);
    // Entries of older images count sectors, and their clusters start at any.
    let slots = (clusters + 1).min(UsedSet::MAX);
    if clusters >= UsedSet::MAX {
        return Err(BlockError::new(libc::EFBIG, "the image file has too many clusters to check"));
    }
    let total_clusters = u64::from(header.bat_entries);
    let mut check = Check {
        image,
        repair,
        used: UsedSet::new(slots),
        result: CheckResult { total_clusters, ..CheckResult::default() },
        end: header.data_start(),
        last: None,
    };
    check.header().await?;
    check.bat().await?;
    check.tail().await?;
    image.file.node().flush().await?;
    let Check { mut result, end, .. } = check;
    result.image_end_offset = end;
    if image.left_in_use.load(Relaxed) && repair.errors && result.corruptions == 0 {
        image.unmark().await?;
        image.file.node().flush().await?;
    }
    Ok(result)
}

impl Check<'_> {
    fn file(&self) -> std::sync::Arc<BlockNode> {
        self.image.file.node()
    }

    fn corruption(&mut self, what: String) {
        let fix = self.repair.errors;
        self.result.tell(format!("{} {what}", verb(fix)));
        match fix {
            true => self.result.corruptions_fixed += 1,
            false => self.result.corruptions += 1,
        }
    }

    async fn header(&mut self) -> Result<()> {
        let image = self.image;
        if self.file().length() < image.bat.offset + image.bat.len {
            self.result.tell("ERROR the BAT ends beyond the file's end".into());
            self.result.check_errors += 1;
        }
        if image.left_in_use.load(Relaxed) {
            self.corruption("image was not closed correctly".into());
        }
        if image.data_off_wrong.load(Relaxed) {
            self.corruption("data_off field has incorrect value".into());
            if self.repair.errors {
                let sectors = u32::try_from(image.header.least_data_start() / 512).unwrap_or(0);
                self.file().write_bytes(at::DATA_OFF as u64, &sectors.to_le_bytes()).await?;
                image.data_off_wrong.store(false, Relaxed);
            }
        }
        Ok(())
    }

    async fn bat(&mut self) -> Result<()> {
        let entries = u64::from(self.image.header.bat_entries);
        let known = (self.file().length().saturating_sub(LEN as u64) / 4).min(entries);
        if known < entries {
            self.result.check_errors += 1;
            self.result.tell("ERROR the BAT ends beyond the file's end".into());
        }
        let mut scan = Scan::new(self.file(), Table { len: known * 4, ..self.image.bat });
        while let Some((at, part)) = scan.next().await? {
            let Part::Bytes(bytes) = part else {
                self.last = None;
                continue;
            };
            for (index, entry) in (at / 4..).zip(bytes.chunks_exact(4).map(|e| le32(e, 0))) {
                match entry {
                    // A gap of the disk may be one of the file.
                    0 => self.last = None,
                    _ => self.entry(index, entry).await?,
                }
            }
        }
        Ok(())
    }

    async fn set_entry(&self, index: u64, entry: u32) -> Result<()> {
        self.file().write_bytes(LEN as u64 + index * 4, &entry.to_le_bytes()).await
    }

    async fn entry(&mut self, index: u64, entry: u32) -> Result<()> {
        let size = self.image.header.cluster_size;
        let start = self.image.header.data_start();
        let mut offset = self.image.header.offset_of(entry);
        let end = offset + size;
        let file_end = self.file().length().next_multiple_of(size);
        let outside = offset < start || offset >= self.file().length() || end > file_end;
        if outside {
            self.corruption(format!("cluster {index} is outside image"));
            if self.repair.errors {
                self.set_entry(index, 0).await?;
            }
            return Ok(());
        }
        if !self.used.insert((offset - start) / size) {
            self.corruption(format!("duplicate offset in BAT entry {index}"));
            if self.repair.errors {
                offset = self.copy(index, offset).await?;
            }
        }
        self.end = self.end.max(offset + size);
        self.result.allocated_clusters += 1;
        if self.last.is_some_and(|last| last + size != offset) {
            self.result.fragmented_clusters += 1;
        }
        self.last = Some(offset);
        Ok(())
    }

    /// Gives an entry a copy of a cluster that another has as well.
    async fn copy(&mut self, index: u64, offset: u64) -> Result<u64> {
        let size = self.image.header.cluster_size;
        let file = self.file();
        let (to, _) = self.image.end.take(&file, size, rhea_block::MAX_LENGTH).await?;
        let mut done = 0;
        while done < size {
            let mut data = IoVector::zeroed((size - done).min(1 << 20) as usize);
            file.read(offset + done, &mut data).await?;
            file.write(to + done, &data, WriteFlags::empty()).await?;
            done += data.len() as u64;
        }
        file.flush().await?;
        let entry = self
            .image
            .header
            .entry_of(to)
            .ok_or_else(|| BlockError::new(libc::EFBIG, "the copy of a cluster does not fit the BAT"))?;
        self.set_entry(index, entry).await?;
        Ok(to)
    }

    /// What the file has behind the last cluster.
    async fn tail(&mut self) -> Result<()> {
        let file = self.file();
        let length = file.length();
        if length <= self.end {
            return Ok(());
        }
        let leaked = length - self.end;
        let count = leaked.div_ceil(self.image.header.cluster_size);
        let fix = self.repair.leaks;
        self.result.tell(format!("{} space leaked at the end of the image {leaked}", verb(fix)));
        if !fix {
            self.result.leaks += count;
            return Ok(());
        }
        // Entries that refer there must be gone first.
        file.flush().await?;
        file.truncate(self.end, Truncate { exact: true, ..Truncate::default() }).await?;
        self.image.end.set_position(self.end);
        self.result.leaks_fixed += count;
        Ok(())
    }
}

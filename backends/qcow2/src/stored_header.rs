//! The header as it is on disk, and changing it.

use rhea_block::{BlockNode, Result, ResultExt};

use crate::header::{Header, Incompatible};
use crate::image::Image;

/// The header, and its bytes as they are on disk.
pub(crate) struct StoredHeader {
    pub(crate) header: Header,
    pub(crate) disk: Vec<u8>,
}

impl Image {
    /// Changes the header in memory and on disk, by one write of the sectors that changed, not followed by a flush.
    /// On an error the header in memory is unchanged, and so is that on disk (or the image is not used any more).
    pub async fn update_header(&self, change: impl FnOnce(&mut Header) + Send) -> Result<()> {
        let serial = self.header_io.lock_arc().await;
        let (new, disk, range) = {
            let stored = self.header.lock();
            let mut new = stored.header.clone();
            change(&mut new);
            if new == stored.header {
                return Ok(());
            }
            let disk = new.bytes_over(&stored.header, &stored.disk)?;
            let range = changed_sectors(&stored.disk, &disk);
            (new, disk, range)
        };
        let this = self.arc();
        self.finish(async move {
            let _serial = serial;
            let mut bytes = disk[range.start..range.end.min(disk.len())].to_vec();
            bytes.resize(range.len().min(this.geometry.cluster_size as usize - range.start), 0);
            let old = this.header.lock().disk.clone();
            this.write_header(range.start, &old, &bytes).await?;
            let corrupt_before = this.header.lock().header.incompatible.contains(Incompatible::CORRUPT);
            if corrupt_before || !new.incompatible.contains(Incompatible::DIRTY) {
                this.note_header(&new);
            }
            this.protect_bitmaps(&new);
            *this.header.lock() = StoredHeader { header: new, disk };
            Ok(())
        })
        .await
    }

    /// Writes a part of the header. Should the write fail, only the disk knows whether it took place: memory must not
    /// name tables that the header does not, nor the other way round.
    async fn write_header(&self, start: usize, old: &[u8], new: &[u8]) -> Result<()> {
        let file = self.file();
        let Err(error) = file.write_bytes(start as u64, new).await else { return Ok(()) };
        let mut old = old.get(start..).unwrap_or_default().to_vec();
        old.resize(new.len(), 0);
        let mut there = vec![0; new.len()];
        let read = file.read_bytes(start as u64, &mut there).await;
        if read.is_ok() && there == new {
            return Ok(());
        }
        if read.is_err() || there != old {
            self.give_up();
        }
        Err(error)
    }
}

/// Reads the header; also returns the bytes it was parsed from.
pub(crate) async fn read_header(file: &BlockNode) -> Result<(Header, Vec<u8>)> {
    /// Enough for all but the largest headers, in one read.
    const LIKELY: u64 = 4096;
    let length = file.length();
    let mut bytes = vec![0; length.min(LIKELY) as usize];
    file.read_bytes(0, &mut bytes).await.context("Could not read qcow2 header")?;
    let cluster = Header::cluster_size_of(&bytes)?;
    let rest = bytes.len()..cluster.min(length) as usize;
    if !rest.is_empty() && Header::needs(&bytes) > bytes.len() {
        let start = bytes.len();
        bytes.resize(rest.end, 0);
        file.read_bytes(start as u64, &mut bytes[start..]).await.context("Could not read qcow2 header")?;
    } else {
        bytes.truncate(cluster as usize);
    }
    let header = Header::parse(&bytes)?;
    Ok((header, bytes))
}
/// The range, in whole sectors, in which the two differ; a missing end counts as zeroes.
fn changed_sectors(old: &[u8], new: &[u8]) -> std::ops::Range<usize> {
    const SECTOR: usize = 512;
    let len = old.len().max(new.len());
    let byte = |bytes: &[u8], at: usize| bytes.get(at).copied().unwrap_or(0);
    let differs = |at: &usize| byte(old, *at) != byte(new, *at);
    let Some(first) = (0..len).find(differs) else { return 0..0 };
    let last = (0..len).rev().find(differs).unwrap_or(first);
    first / SECTOR * SECTOR..(last + 1).next_multiple_of(SECTOR)
}

//! Taking data from another node's file without passing it through our memory.

use std::sync::Arc;

use rhea_async_io::IoVector;
use rhea_block::{BlockNode, Result, WriteFlags};

use crate::image::Image;
use crate::overlap::Sections;
use crate::read::Behind;

/// Where clusters have to be allocated, data goes through memory in pieces of this size.
const CHUNK: u64 = 1 << 20;

impl Image {
    /// Copies `len` bytes at `from_offset` of a bottom node to `offset` of the disk.
    pub(crate) async fn copy_in(
        &self,
        from: &Arc<BlockNode>,
        from_offset: u64,
        offset: u64,
        len: u64,
        flags: WriteFlags,
    ) -> Result<()> {
        self.check_writable()?;
        let _running = self.releases.begin_request();
        let mut done = 0;
        while done < len {
            let (at, source) = (offset + done, from_offset + done);
            let run = self.find_run(at, len - done, true).await?;
            if !run.is_writable() {
                if done == 0 && !self.can_place_whole(at, run.len) {
                    // Part of a cluster: what is around it must be merged in memory.
                    return Err(rhea_block::BlockError::os(libc::ENOTSUP));
                }
                done += self.copy_allocating(from, source, at, run.len.min(len - done), flags).await?;
                continue;
            }
            if !self.has_data_file()
                && let Some(problem) = self.overlap_of(run.host, run.len, Sections::empty())
            {
                return Err(self.mark_corrupt(problem).await);
            }
            let guard = self.releases.host_write(run.host..run.host + run.len);
            let copied = self.data().copy_range_to(from, source, run.host, run.len, flags).await;
            guard.ended();
            copied?;
            done += run.len;
        }
        Ok(())
    }

    fn can_place_whole(&self, offset: u64, len: u64) -> bool {
        self.geometry.in_cluster(offset) == 0 && len >= self.geometry.cluster_size
    }

    /// Whole clusters are allocated and copied to; other parts go through memory.
    async fn copy_allocating(
        &self,
        from: &Arc<BlockNode>,
        source: u64,
        offset: u64,
        len: u64,
        flags: WriteFlags,
    ) -> Result<u64> {
        if self.can_place_whole(offset, len) {
            let whole = self.geometry.cluster_start(len);
            let copied = self.copy_whole(from, source, offset, whole, flags).await?;
            if copied > 0 {
                return Ok(copied);
            }
        }
        let piece = CHUNK.min(len);
        let mut data = IoVector::zeroed(piece as usize);
        from.read(source, &mut data).await?;
        self.write_range(offset, data.view(), Behind::Backing).await?;
        Ok(piece)
    }
}

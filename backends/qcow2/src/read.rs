//! Reads.

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use rhea_async_io::IoVector;
use rhea_block::{Result, read_behind};

use crate::geometry::Kind;
use crate::image::Image;
use crate::mapping::Run;

/// Stretches of a request that are read at a time.
const AT_ONCE: usize = 16;

/// What is seen where nothing is allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behind {
    /// The backing file.
    Backing,
    /// Zeroes: machine state lies beyond the disk's end, and so not in the backing file.
    Nothing,
}

impl Image {
    /// Fills `data` from the disk. The caller holds a share of the requests.
    pub(crate) async fn read(&self, offset: u64, data: &mut IoVector, behind: Behind) -> Result<()> {
        let _running = self.releases.begin_request();
        self.read_range(offset, data, behind).await
    }

    /// The same for requests that have begun already.
    pub(crate) async fn read_range(&self, offset: u64, data: &mut IoVector, behind: Behind) -> Result<()> {
        let run = self.find_run(offset, data.len() as u64, false).await?;
        if run.len == data.len() as u64 {
            return self.read_run(offset, run, data, behind).await;
        }
        self.read_runs(offset, run, data, behind).await
    }

    /// Several runs, in parallel.
    async fn read_runs(&self, offset: u64, first: Run, data: &mut IoVector, behind: Behind) -> Result<()> {
        let mut rest = data.take();
        let mut at = offset;
        let mut run = first;
        let mut running = FuturesOrdered::new();
        let mut result = Ok(());
        loop {
            let tail = rest.split_off(run.len as usize);
            let mut part = std::mem::replace(&mut rest, tail);
            let (start, this_run) = (at, run);
            running.push_back(async move {
                let result = self.read_run(start, this_run, &mut part, behind).await;
                (part, result)
            });
            at += run.len;
            if rest.is_empty() || result.is_err() {
                break;
            }
            if running.len() >= AT_ONCE
                && let Some((part, ended)) = running.next().await
            {
                data.append(part);
                result = result.and(ended);
            }
            run = match self.find_run(at, rest.len() as u64, false).await {
                Ok(run) => run,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            };
        }
        while let Some((part, ended)) = running.next().await {
            data.append(part);
            result = result.and(ended);
        }
        data.append(rest);
        result
    }

    pub(crate) async fn read_run(
        &self,
        offset: u64,
        run: Run,
        data: &mut IoVector,
        behind: Behind,
    ) -> Result<()> {
        match run.kind {
            Kind::Unallocated | Kind::UnallocatedReserved if behind == Behind::Backing => {
                if self.backing.load().is_some() {
                    self.event("read_backing_aio").await;
                }
                read_behind(&self.backing, offset, data).await
            }
            Kind::Unallocated | Kind::UnallocatedReserved | Kind::Zero | Kind::ZeroReserved => {
                data.fill(0..data.len(), 0);
                Ok(())
            }
            Kind::Normal => {
                let file = self.data();
                file.debug_event("read_aio").await;
                file.read(run.host, data).await?;
                match &self.encryption {
                    Some(encryption) => encryption.decrypt(offset, run.host, data).await,
                    None => Ok(()),
                }
            }
            Kind::Compressed => self.read_compressed(offset, run.entry.descriptor, data).await,
        }
    }

    /// Whether nothing but zeroes is read from a range, as far as the tables tell (and the backing file's absence).
    pub(crate) async fn reads_as_zero(&self, offset: u64, len: u64, behind: Behind) -> Result<bool> {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let run = self.find_run(at, end - at, false).await?;
            let zero = run.kind.is_zero() || (run.kind.is_unallocated() && !self.is_backed(at, behind));
            if !zero {
                return Ok(false);
            }
            at += run.len;
        }
        Ok(true)
    }

    /// Whether what is not allocated at an offset (or behind it) is read from a backing file.
    pub(crate) fn is_backed(&self, offset: u64, behind: Behind) -> bool {
        behind == Behind::Backing
            && self.backing.load().as_ref().is_some_and(|edge| edge.node().length() > offset)
    }
}

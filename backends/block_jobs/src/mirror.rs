//! `mirror`: a copy that follows its source until it takes its place.
//!
//! A bitmap records what is written to the source. A part's mark is taken away before the part is read, so a write that
//! comes while it is copied marks it again: nothing is lost, at worst a part is copied twice. Once all marks are gone the
//! job is ready; completing it drains the source, copies the last marks, and hands over.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use rhea_async_io::IoVector;
use rhea_block::{BlockError, BlockNode, DirtyBitmap, Drained, Result, StatusFlags, WriteFlags};

use crate::copy::{How, IN_FLIGHT, copy_range};
use crate::job::{Control, run};

/// What is copied to begin with, named as in QAPI's MirrorSyncMode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sync {
    /// Everything that is read.
    Full,
    /// What the topmost layer holds.
    Top,
    /// Nothing: only what is written from now on.
    None,
}

/// What to mirror, and where to.
pub struct Mirror {
    /// The disk that is copied.
    pub source: Arc<BlockNode>,
    /// Where it is copied to; of the same length.
    pub target: Arc<BlockNode>,
    /// What is copied to begin with.
    pub sync: Sync,
    /// Bytes a mark of the bitmap stands for: a power of two, 512 to 64 MiB.
    pub granularity: u64,
    /// On completion, whoever uses the source uses the target instead.
    pub replace: bool,
}

impl Mirror {
    /// Runs the job until it is completed or cancelled.
    pub async fn run(self, control: &Arc<Control>) -> Result<()> {
        run(control, self.work(control)).await
    }

    async fn work(&self, control: &Arc<Control>) -> Result<()> {
        let length = self.source.length();
        if self.target.length() < length {
            return Err(BlockError::invalid("the target of a mirror must not be shorter than its source"));
        }
        if !(512..=64 << 20).contains(&self.granularity) {
            return Err(BlockError::invalid("Parameter 'granularity' expects a value in range [512B, 64MB]"));
        }
        let bitmap = self.source.add_bitmap(DirtyBitmap::new("#mirror", self.granularity, length)?);
        let result = self.follow(control, &bitmap).await;
        self.source.remove_bitmap(&bitmap);
        result
    }

    async fn follow(&self, control: &Arc<Control>, bitmap: &Arc<Mutex<DirtyBitmap>>) -> Result<()> {
        self.mark_all(bitmap).await?;
        let mut at = 0;
        loop {
            self.copy_marked(control, bitmap, &mut at).await?;
            control.set_ready();
            if control.is_completing() {
                break;
            }
            control.wait_change(Duration::from_millis(100)).await;
            control.pause_point().await?;
        }
        // Nobody writes any more: the last marks, then the target is what the source was, and takes its place.
        let drained = self.source.drain().await;
        while let Some((offset, len)) = next_marked(bitmap, 0) {
            self.copy_drained(&drained, offset, len).await?;
            bitmap.lock().reset(offset, len);
        }
        self.target.flush().await?;
        match self.replace {
            true => self.source.replace_with(&drained, &self.target).await,
            false => Ok(()),
        }
    }

    async fn copy_drained(&self, drained: &Drained, offset: u64, len: u64) -> Result<()> {
        let mut data = IoVector::zeroed(len as usize);
        self.source.read_while_drained(drained, offset, &mut data).await?;
        self.target.write(offset, &data, WriteFlags::empty()).await
    }

    async fn mark_all(&self, bitmap: &Arc<Mutex<DirtyBitmap>>) -> Result<()> {
        let length = self.source.length();
        let base = match self.sync {
            Sync::None => return Ok(()),
            Sync::Full => {
                bitmap.lock().set(0, length);
                return Ok(());
            }
            Sync::Top => self.source.skip_filters().backing(),
        };
        let mut at = 0;
        while at < length {
            let (status, decided) = self.source.block_status_above(base.as_ref(), at, length - at).await?;
            if status.len == 0 {
                break;
            }
            if decided.is_some() || status.flags.contains(StatusFlags::ALLOCATED) {
                bitmap.lock().set(at, status.len);
            }
            at += status.len;
        }
        Ok(())
    }

    /// Copies until no mark is left.
    async fn copy_marked(
        &self,
        control: &Control,
        bitmap: &Arc<Mutex<DirtyBitmap>>,
        at: &mut u64,
    ) -> Result<()> {
        let mut going = FuturesUnordered::new();
        loop {
            let marked = bitmap.lock().count();
            let progress = control.progress();
            progress.set_total(progress.done() + marked);
            match next_marked(bitmap, *at) {
                Some((offset, len)) if going.len() < IN_FLIGHT => {
                    control.before_copying(len).await?;
                    bitmap.lock().reset(offset, len);
                    *at = offset + len;
                    going.push(async move {
                        let copied = copy_range(&self.source, &self.target, offset, len, How::Plain).await;
                        if copied.is_err() {
                            bitmap.lock().set(offset, len);
                        }
                        copied.map(|()| len)
                    });
                }
                Some(_) => progress.advance(going.next().await.transpose()?.unwrap_or(0)),
                None if *at != 0 => *at = 0,
                None => match going.next().await.transpose()? {
                    Some(len) => progress.advance(len),
                    None => return Ok(()),
                },
            }
        }
    }
}

fn next_marked(bitmap: &Mutex<DirtyBitmap>, at: u64) -> Option<(u64, u64)> {
    let (offset, len) = bitmap.lock().next_dirty(at)?;
    Some((offset, len.min(crate::copy::CHUNK)))
}

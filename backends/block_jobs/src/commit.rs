//! `commit`: what the layers above a backing file hold moves down into it.
//!
//! Data reaches the base before anything is dropped above, and a flush lies between, so that a crash at any time leaves
//! every byte in at least one of the layers.

use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt};
use rhea_block::{BlockError, BlockNode, Result, Truncate};

use crate::copy::{CHUNK, How, IN_FLIGHT, copy_range};
use crate::job::{Control, run};

/// What to commit. Nobody writes to the layers meanwhile (for a running machine's topmost layer, `mirror` is the way).
pub struct Commit {
    /// The topmost layer whose data moves.
    pub top: Arc<BlockNode>,
    /// A layer below, open for writing.
    pub base: Arc<BlockNode>,
    /// Empty the topmost layer at the end.
    pub empty_top: bool,
}

impl Commit {
    /// Runs the job.
    pub async fn run(self, control: &Arc<Control>) -> Result<()> {
        run(control, self.work(control)).await
    }

    async fn work(&self, control: &Arc<Control>) -> Result<()> {
        if Arc::ptr_eq(&self.top, &self.base) || !self.top.reaches(&self.base) {
            return Err(BlockError::invalid(format!(
                "'{}' is not a backing file of '{}'",
                self.base.name(),
                self.top.name()
            )));
        }
        let length = self.top.length();
        if self.base.length() < length {
            self.base.truncate(length, Truncate::default()).await?;
        }
        control.progress().set_total(length);
        let mut going = FuturesUnordered::new();
        let mut at = 0;
        while at < length {
            control.pause_point().await?;
            let (status, decided) =
                self.top.block_status_above(Some(&self.base), at, (length - at).min(CHUNK)).await?;
            if status.len == 0 {
                break;
            }
            let (offset, len) = (at, status.len);
            at += len;
            if decided.is_none() {
                control.progress().advance(len);
                continue;
            }
            control.before_copying(len).await?;
            if going.len() >= IN_FLIGHT {
                control.progress().advance(going.next().await.transpose()?.unwrap_or(0));
            }
            going.push(async move {
                copy_range(&self.top, &self.base, offset, len, How::Plain).await.map(|()| len)
            });
        }
        while let Some(len) = going.next().await.transpose()? {
            control.progress().advance(len);
        }
        self.base.flush().await?;
        if self.empty_top {
            match self.top.driver().make_empty().await {
                // Keeping the data does no harm.
                Err(error) if error.is_unsupported() => {}
                Err(error) => return Err(error.context(format!("Could not empty {}", self.top.filename()))),
                Ok(()) => self.top.flush().await?,
            }
        }
        Ok(())
    }
}

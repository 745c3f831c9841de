//! `stream`: what an image reads from the layers behind it moves up into it, until it needs them no more.

use std::sync::Arc;

use rhea_async_io::IoVector;
use rhea_block::{BackingFile, BlockError, BlockNode, Result, WriteFlags};

use crate::copy::CHUNK;
use crate::job::{Control, run};

/// What to stream.
pub struct Stream {
    /// The image that is filled, open for writing.
    pub node: Arc<BlockNode>,
    /// The layer that stays behind it; `None`: none does.
    pub base: Option<Arc<BlockNode>>,
    /// What the image's header is to say of its backing file afterwards.
    pub backing_file: Option<BackingFile>,
}

impl Stream {
    /// Runs the job.
    pub async fn run(self, control: &Arc<Control>) -> Result<()> {
        run(control, self.work(control)).await
    }

    async fn work(&self, control: &Arc<Control>) -> Result<()> {
        if let Some(base) = &self.base
            && (Arc::ptr_eq(base, &self.node) || !self.node.reaches(base))
        {
            return Err(BlockError::invalid(format!(
                "'{}' is not behind '{}'",
                base.name(),
                self.node.name()
            )));
        }
        let length = self.node.length();
        control.progress().set_total(length);
        let mut at = 0;
        while at < length {
            control.pause_point().await?;
            let (status, decided) =
                self.node.block_status_above(self.base.as_ref(), at, (length - at).min(CHUNK)).await?;
            if status.len == 0 {
                break;
            }
            // Below the first layer, above the base: this is what moves.
            if decided.is_some_and(|depth| depth > 0) {
                control.before_copying(status.len).await?;
                self.populate(at, status.len).await?;
            }
            at += status.len;
            control.progress().set_done(at);
        }
        self.node.flush().await?;
        // Only now, with all data in place and on disk, may the header forget the layers behind.
        self.node.driver().change_backing_file(self.backing_file.clone()).await?;
        self.node.set_backing(self.base.clone()).await
    }

    /// Copies a range up, with writers held off so that no newer data is overwritten.
    async fn populate(&self, offset: u64, len: u64) -> Result<()> {
        let drained = self.node.drain().await;
        let mut data = IoVector::zeroed(len as usize);
        self.node.read_while_drained(&drained, offset, &mut data).await?;
        self.node.write_while_drained(&drained, offset, &data, WriteFlags::WRITE_UNCHANGED).await
    }
}

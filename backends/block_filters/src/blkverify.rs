//! `blkverify`: every request goes to two images, and reads must agree.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::join;
use rhea_async_io::{IoVector, IoView};
use rhea_block::{
    BlockError, BlockStatus, Driver, DriverKind, Edge, Node, OpenContext, Result, Role, StatusFlags,
    Truncate, WriteFlags,
};
use rhea_options::Options;

use crate::filter::{Filter, FilterNode};

/// The driver `blkverify`: options `test` (the image that is shown) and `raw` (what it must agree with), or the file name
/// `blkverify:RAW:TEST`.
pub struct BlkverifyDriver;

struct Blkverify {
    test: Arc<Edge>,
    raw: Arc<Edge>,
}

#[async_trait]
impl Driver for BlkverifyDriver {
    fn name(&self) -> &'static str {
        "blkverify"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Protocol
    }

    fn protocol_prefixes(&self) -> &'static [&'static str] {
        &["blkverify"]
    }

    fn parse_filename(&self, filename: &str) -> Result<Options> {
        let rest = filename.strip_prefix("blkverify:").unwrap_or(filename);
        let Some((raw, image)) = rest.split_once(':') else {
            return Err(BlockError::invalid("blkverify requires raw copy and original image path"));
        };
        let mut options = Options::default();
        options.set("x-raw", raw);
        options.set("x-image", image);
        Ok(options)
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        for (key, child) in [("x-raw", "raw"), ("x-image", "test")] {
            let Some(name) = options.take::<String>(key)? else { continue };
            let format = child == "test";
            let prefix = if format { "test.file" } else { "raw" };
            for entry in context.registry.protocol_options(&name)?.entries() {
                options.set(&format!("{prefix}.{}", entry.key), entry.value.as_deref().unwrap_or("on"));
            }
        }
        let raw = context.open_child(options, "raw", Role::Data).await?;
        let test = context.open_child(options, "test", Role::Filtered).await?;
        Ok(Box::new(FilterNode(Blkverify { test, raw })))
    }
}

fn disagree(what: &str, offset: u64, len: u64, detail: &str) -> BlockError {
    BlockError::new(libc::EIO, format!("blkverify: {what} offset={offset} bytes={len} {detail}"))
}

/// Both must have ended alike.
fn same(what: &str, offset: u64, len: u64, test: Result<()>, raw: Result<()>) -> Result<()> {
    let errno = |result: &Result<()>| result.as_ref().err().map_or(0, BlockError::errno);
    match errno(&test) == errno(&raw) {
        true => test,
        false => {
            let detail = format!("return value mismatch {} != {}", errno(&test), errno(&raw));
            Err(disagree(what, offset, len, &detail))
        }
    }
}

#[async_trait]
impl Filter for Blkverify {
    fn child(&self) -> &Arc<Edge> {
        &self.test
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        vec![self.test.clone(), self.raw.clone()]
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        let len = data.len();
        let mut expected = IoVector::zeroed(len);
        let (test, raw) = (self.test.node(), self.raw.node());
        let (test, raw) = join(test.read(offset, data), raw.read(offset, &mut expected)).await;
        same("read", offset, len as u64, test, raw)?;
        let (found, expected) = (data.to_vec(), expected.to_vec());
        match found.iter().zip(&expected).position(|(a, b)| a != b) {
            None => Ok(()),
            Some(at) => {
                let detail = format!("contents mismatch at offset {}", offset + at as u64);
                Err(disagree("read", offset, len as u64, &detail))
            }
        }
    }

    async fn write(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
        let len = data.len() as u64;
        let (test, raw) = (self.test.node(), self.raw.node());
        let (test, raw) = join(test.write(offset, data.clone(), flags), raw.write(offset, data, flags)).await;
        same("write", offset, len, test, raw)
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        let (test, raw) = (self.test.node(), self.raw.node());
        let (test, raw) =
            join(test.write_zeroes(offset, len, flags), raw.write_zeroes(offset, len, flags)).await;
        same("write_zeroes", offset, len, test, raw)
    }

    async fn write_compressed(&self, offset: u64, data: IoView<'_>) -> Result<()> {
        let len = data.len() as u64;
        let (test, raw) = (self.test.node(), self.raw.node());
        let writes =
            join(test.write_compressed(offset, data.clone()), raw.write(offset, data, WriteFlags::empty()));
        let (test, raw) = writes.await;
        same("write_compressed", offset, len, test, raw)
    }

    async fn discard(&self, _: u64, _: u64) -> Result<()> {
        // What a discarded range reads as is each format's choice: the two could not agree afterwards.
        Err(BlockError::os(libc::ENOTSUP))
    }

    async fn flush(&self) -> Result<()> {
        // The copy is for comparison only; the image is what must last.
        self.test.node().flush().await
    }

    async fn block_status(&self, _: u64, len: u64, _: bool) -> Result<BlockStatus> {
        Ok(BlockStatus { len, flags: StatusFlags::DATA | StatusFlags::ALLOCATED, map: None })
    }

    async fn truncate(&self, _: u64, _: Truncate) -> Result<()> {
        Err(BlockError::os(libc::ENOTSUP))
    }
}

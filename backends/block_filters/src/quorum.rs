//! `quorum`: several copies of one disk, and a vote on what was read.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::join_all;
use rhea_async_io::{IoVector, IoView};
use rhea_block::{
    BlockError, BlockStatus, Driver, DriverKind, Edge, Limits, Node, OpenContext, Permissions, Result, Role,
    StatusFlags, Truncate, WriteFlags,
};
use rhea_options::Options;

use crate::filter::{Filter, FilterNode};

/// The driver `quorum`: options `children.N`, `vote-threshold`, `blkverify`, `rewrite-corrupted`, `read-pattern`
/// (`quorum` or `fifo`).
pub struct QuorumDriver;

/// Children at most.
const MAX_CHILDREN: usize = 256;

struct Quorum {
    children: Vec<Arc<Edge>>,
    threshold: usize,
    /// Any difference is an error.
    verify: bool,
    /// Losers of a vote get the winner's bytes.
    rewrite: bool,
    /// Read the first child that can be read, without a vote.
    fifo: bool,
}

#[async_trait]
impl Driver for QuorumDriver {
    fn name(&self) -> &'static str {
        "quorum"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Filter
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        let verify = options.take::<bool>("blkverify")?.unwrap_or(false);
        let rewrite = options.take::<bool>("rewrite-corrupted")?.unwrap_or(false);
        let pattern: String = options.take("read-pattern")?.unwrap_or_else(|| "quorum".into());
        let fifo = match pattern.as_str() {
            "quorum" => false,
            "fifo" => true,
            _ => return Err(BlockError::invalid("Please set read-pattern as fifo or quorum")),
        };
        let mut children = Vec::new();
        while children.len() < MAX_CHILDREN {
            let name = format!("children.{}", children.len());
            // Each child is a disk of its own to its driver; to us it is what is shown.
            match context.open_optional_child(options, &name, Role::Filtered).await? {
                Some(child) => children.push(child),
                None => break,
            }
        }
        if children.is_empty() {
            return Err(BlockError::invalid("Number of provided children must be 1 or more"));
        }
        let threshold = match options.take::<u32>("vote-threshold")? {
            Some(threshold) => threshold as usize,
            None if fifo => 0,
            None => return Err(BlockError::invalid("vote-threshold must be specified")),
        };
        if !fifo && threshold == 0 {
            return Err(BlockError::invalid("vote-threshold expects a value >= 1"));
        }
        if threshold > children.len() {
            return Err(BlockError::invalid("threshold may not exceed children count"));
        }
        if verify && (threshold != 2 || children.len() != 2) {
            return Err(BlockError::invalid(
                "blkverify=on can only be set if there are exactly two files and vote-threshold is 2",
            ));
        }
        if verify && rewrite {
            return Err(BlockError::invalid("rewrite-corrupted=on cannot be used with blkverify=on"));
        }
        let length = children[0].node().length();
        if children.iter().any(|c| c.node().length() != length) {
            return Err(BlockError::invalid("all children must have the same length"));
        }
        Ok(Box::new(FilterNode(Quorum { children, threshold, verify, rewrite, fifo })))
    }
}

impl Quorum {
    /// Enough children must have done it.
    fn judge(&self, results: &[Result<()>]) -> Result<()> {
        let good = results.iter().filter(|r| r.is_ok()).count();
        let enough = if self.fifo { results.len() } else { self.threshold };
        if good >= enough {
            return Ok(());
        }
        // The error most of them had.
        let errors: Vec<&BlockError> = results.iter().filter_map(|r| r.as_ref().err()).collect();
        let count = |errno: i32| errors.iter().filter(|e| e.errno() == errno).count();
        let most = errors.iter().max_by_key(|e| count(e.errno()));
        Err(most.map_or_else(|| BlockError::os(libc::EIO), |e| (*e).clone()))
    }

    async fn read_first(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        let len = data.len();
        let mut last = BlockError::os(libc::EIO);
        for child in &self.children {
            match child.node().read(offset, data).await {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
            // A failed read may have kept the memory.
            if data.len() != len {
                *data = IoVector::zeroed(len);
            }
        }
        Err(last)
    }

    async fn read_vote(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        let len = data.len();
        let copies = join_all(self.children.iter().map(|child| async move {
            let mut copy = IoVector::zeroed(len);
            child.node().read(offset, &mut copy).await.map(|()| copy.to_vec())
        }))
        .await;
        let good: Vec<&Vec<u8>> = copies.iter().filter_map(|c| c.as_ref().ok()).collect();
        let votes = |bytes: &Vec<u8>| good.iter().filter(|other| **other == bytes).count();
        let Some(winner) = good.iter().copied().max_by_key(|bytes| votes(bytes)) else {
            return self.judge(&copies.into_iter().map(|c| c.map(drop)).collect::<Vec<_>>());
        };
        if self.verify && votes(winner) != self.children.len() {
            return Err(BlockError::new(
                libc::EIO,
                format!("quorum: offset={offset} bytes={len} contents mismatch"),
            ));
        }
        if votes(winner) < self.threshold {
            return Err(BlockError::new(
                libc::EIO,
                format!("quorum: offset={offset} bytes={len} no majority"),
            ));
        }
        data.write(0, winner);
        if self.rewrite {
            let right = IoVector::from_slice(winner);
            for (child, copy) in self.children.iter().zip(&copies) {
                if copy.as_ref().is_ok_and(|bytes| bytes != winner) {
                    // The vote is won already; a child that cannot be mended stays as it is.
                    let _ = child.node().write(offset, &right, WriteFlags::WRITE_UNCHANGED).await;
                }
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Filter for Quorum {
    fn child(&self) -> &Arc<Edge> {
        &self.children[0]
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        self.children.clone()
    }

    fn limits(&self) -> Limits {
        let all = self.children.iter().map(|c| c.node().limits().request_alignment);
        Limits { request_alignment: all.max().unwrap_or(1), ..Limits::default() }
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        match self.fifo {
            true => self.read_first(offset, data).await,
            false => self.read_vote(offset, data).await,
        }
    }

    async fn write(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
        let writes = self.children.iter().map(|c| {
            let data = data.clone();
            async move { c.node().write(offset, data, flags).await }
        });
        self.judge(&join_all(writes).await)
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        let writes =
            self.children.iter().map(|c| async move { c.node().write_zeroes(offset, len, flags).await });
        self.judge(&join_all(writes).await)
    }

    async fn write_compressed(&self, _: u64, _: IoView<'_>) -> Result<()> {
        Err(BlockError::os(libc::ENOTSUP))
    }

    async fn discard(&self, _: u64, _: u64) -> Result<()> {
        // Copies may read differently after a discard, and lose each other's votes.
        Err(BlockError::os(libc::ENOTSUP))
    }

    async fn flush(&self) -> Result<()> {
        self.judge(&join_all(self.children.iter().map(|c| async move { c.node().flush().await })).await)
    }

    async fn block_status(&self, offset: u64, mut len: u64, _: bool) -> Result<BlockStatus> {
        let mut zero = true;
        for child in &self.children {
            let status = child.node().block_status_above(None, offset, len).await?.0;
            len = len.min(status.len.max(1));
            zero &= status.flags.contains(StatusFlags::ZERO);
        }
        let flags = if zero { StatusFlags::ZERO } else { StatusFlags::DATA };
        Ok(BlockStatus { len, flags: flags | StatusFlags::ALLOCATED, map: None })
    }

    async fn truncate(&self, length: u64, how: Truncate) -> Result<()> {
        for child in &self.children {
            child.node().truncate(length, how).await?;
        }
        Ok(())
    }

    fn child_permissions(
        &self,
        _: &Edge,
        needed: Permissions,
        shared: Permissions,
    ) -> (Permissions, Permissions) {
        let needed = if self.rewrite { needed | Permissions::WRITE_UNCHANGED } else { needed };
        // The copies must stay alike.
        (needed, shared & (Permissions::CONSISTENT_READ | Permissions::WRITE_UNCHANGED))
    }
}

//! `throttle`: limits on the rate of requests, shared within a group.

use std::sync::Arc;

use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView};
use rhea_block::{
    BlockError, Driver, DriverKind, Edge, Node, OpenContext, Result, Role, ThrottleGroup, WriteFlags,
};
use rhea_options::Options;

use crate::filter::{Filter, FilterNode};

/// The driver `throttle`: options `throttle-group` (the id of an object) and `file`.
pub struct ThrottleDriver;

struct Throttle {
    child: Arc<Edge>,
    group: Arc<ThrottleGroup>,
}

#[async_trait]
impl Driver for ThrottleDriver {
    fn name(&self) -> &'static str {
        "throttle"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Filter
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        let Some(name) = options.take::<String>("throttle-group")? else {
            return Err(BlockError::invalid("Please specify a throttle group"));
        };
        let group = context
            .secrets()
            .object(&name, "throttle-group")
            .map_err(|_| BlockError::invalid(format!("Throttle group '{name}' does not exist")))?;
        let child = context.open_child(options, "file", Role::Filtered).await?;
        Ok(Box::new(FilterNode(Throttle { child, group })))
    }
}

#[async_trait]
impl Filter for Throttle {
    fn child(&self) -> &Arc<Edge> {
        &self.child
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        self.group.wait(data.len() as u64, false).await;
        self.child.node().read(offset, data).await
    }

    async fn write(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
        self.group.wait(data.len() as u64, true).await;
        self.child.node().write(offset, data, flags).await
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: WriteFlags) -> Result<()> {
        self.group.wait(len, true).await;
        self.child.node().write_zeroes(offset, len, flags).await
    }

    async fn write_compressed(&self, offset: u64, data: IoView<'_>) -> Result<()> {
        self.group.wait(data.len() as u64, true).await;
        self.child.node().write_compressed(offset, data).await
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.group.wait(len, true).await;
        self.child.node().discard(offset, len).await
    }
}

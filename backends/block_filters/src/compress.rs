//! `compress`: every write becomes a compressed one.

use std::sync::Arc;

use async_trait::async_trait;
use rhea_async_io::IoView;
use rhea_block::{BlockError, Driver, DriverKind, Edge, Limits, Node, OpenContext, Result, Role, WriteFlags};
use rhea_options::Options;

use crate::filter::{Filter, FilterNode};

/// The driver `compress`: option `file`, a format that can compress.
pub struct CompressDriver;

struct Compress {
    child: Arc<Edge>,
    cluster_size: u32,
}

#[async_trait]
impl Driver for CompressDriver {
    fn name(&self) -> &'static str {
        "compress"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Filter
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        let child = context.open_child(options, "file", Role::Filtered).await?;
        let node = child.node();
        let cluster_size = node.driver().format_info().await?.cluster_size;
        let compresses = matches!(node.driver_name(), "qcow2" | "qcow" | "vmdk");
        match u32::try_from(cluster_size) {
            Ok(cluster_size) if compresses && cluster_size.is_power_of_two() => {
                Ok(Box::new(FilterNode(Compress { child, cluster_size })))
            }
            _ => Err(BlockError::unsupported(format!(
                "Compression is not supported for underlying format: {}",
                node.driver_name()
            ))),
        }
    }
}

#[async_trait]
impl Filter for Compress {
    fn child(&self) -> &Arc<Edge> {
        &self.child
    }

    /// Whole clusters, one at a time: the block layer reads and writes around smaller requests.
    fn limits(&self) -> Limits {
        Limits { request_alignment: self.cluster_size, max_transfer: 0, ..self.child.node().limits() }
    }

    async fn write(&self, offset: u64, data: IoView<'_>, flags: WriteFlags) -> Result<()> {
        let node = self.child.node();
        let end = node.length();
        let mut at = 0;
        while at < data.len() {
            let stop = (at + self.cluster_size as usize).min(data.len());
            // The disk may end within its last cluster.
            let stop = stop.min(end.saturating_sub(offset) as usize);
            if stop <= at {
                break;
            }
            node.write_compressed(offset + at as u64, data.slice(at..stop)).await?;
            at = stop;
        }
        match flags.contains(WriteFlags::FUA) {
            true => node.flush().await,
            false => Ok(()),
        }
    }
}

//! The protocols `null-co` and `null-aio`: a disk that swallows writes, to measure everything else by.

use std::time::Duration;

use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView, Timer};
use rhea_options::{Options, Size};

use crate::driver::{Driver, DriverKind, OpenContext};
use crate::node::{BlockStatus, Limits, Node, StatusFlags, WriteFlags};
use crate::{BlockError, Result};

/// Either of the two: they differ in name only.
#[derive(Debug, Clone, Copy)]
pub struct NullDriver {
    name: &'static str,
    filename: &'static str,
    prefixes: &'static [&'static str],
}

impl NullDriver {
    /// `null-co`
    pub const CO: Self = Self { name: "null-co", filename: "null-co://", prefixes: &["null-co"] };
    /// `null-aio`
    pub const AIO: Self = Self { name: "null-aio", filename: "null-aio://", prefixes: &["null-aio"] };
}

#[async_trait]
impl Driver for NullDriver {
    fn name(&self) -> &'static str {
        self.name
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Protocol
    }

    fn protocol_prefixes(&self) -> &'static [&'static str] {
        self.prefixes
    }

    fn parse_filename(&self, filename: &str) -> Result<Options> {
        match filename == self.filename {
            true => Ok(Options::default()),
            false => Err(BlockError::invalid(format!(
                "The only allowed filename for this driver is '{}'",
                self.filename
            ))),
        }
    }

    async fn open(&self, _: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        let length = options.take::<Size>("size")?.map_or(1 << 30, |size| size.0);
        if length > crate::MAX_LENGTH {
            return Err(BlockError::invalid("size is invalid"));
        }
        let latency = match options.take::<String>("latency-ns")? {
            None => 0,
            Some(text) => rhea_options::parse_integer(&text)
                .filter(|ns| *ns <= i64::MAX as u64)
                .ok_or_else(|| BlockError::invalid("latency-ns is invalid"))?,
        };
        let zeroes = options.take::<bool>("read-zeroes")?.unwrap_or(false);
        Ok(Box::new(NullNode { length, latency: Duration::from_nanos(latency), zeroes }))
    }
}

struct NullNode {
    length: u64,
    latency: Duration,
    /// Reads give zeroes; else they leave the memory as it is.
    zeroes: bool,
}

impl NullNode {
    async fn take_time(&self) -> Result<()> {
        if !self.latency.is_zero() {
            Timer::after(self.latency).await;
        }
        Ok(())
    }
}

#[async_trait]
impl Node for NullNode {
    fn limits(&self) -> Limits {
        Limits { native_write: WriteFlags::FUA, native_write_zeroes: WriteFlags::all(), ..Limits::default() }
    }

    fn length(&self) -> u64 {
        self.length
    }

    async fn read(&self, _: u64, data: &mut IoVector) -> Result<()> {
        if self.zeroes {
            data.fill(0..data.len(), 0);
        }
        self.take_time().await
    }

    async fn write(&self, _: u64, _: IoView<'_>, _: WriteFlags) -> Result<()> {
        self.take_time().await
    }

    async fn write_zeroes(&self, _: u64, _: u64, _: WriteFlags) -> Result<()> {
        self.take_time().await
    }

    async fn flush(&self) -> Result<()> {
        self.take_time().await
    }

    async fn block_status(&self, _: u64, len: u64, _: bool) -> Result<BlockStatus> {
        let zero = StatusFlags::ZERO | StatusFlags::ALLOCATED;
        let flags = StatusFlags::OFFSET_VALID | if self.zeroes { zero } else { StatusFlags::empty() };
        Ok(BlockStatus { len, flags, map: None })
    }

    async fn allocated_size(&self) -> Option<u64> {
        Some(0)
    }

    async fn reopen(&self, _: crate::OpenFlags, options: Options) -> Result<()> {
        crate::refuse_changes(&options)
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

//! The protocols `file` and `host_device`: bytes in a file or on a device of the host.

pub(crate) mod create;
mod node;

use std::path::Path;

use async_trait::async_trait;
use rhea_async_io::{File, OpenOptions};
use rhea_options::Options;

use crate::driver::{CreateContext, CreateOption, Driver, DriverKind, OpenContext};
use crate::node::Node;
use crate::options::OpenFlags;
use crate::{BlockError, Result, ResultExt};
use node::FileNode;

/// Regular files.
#[derive(Debug, Clone, Copy)]
pub struct FileDriver;

/// Block and character devices.
#[derive(Debug, Clone, Copy)]
pub struct HostDeviceDriver;

/// What is at a path: what the two drivers differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Regular,
    Device,
}

impl Kind {
    fn driver(self) -> &'static str {
        match self {
            Self::Regular => "file",
            Self::Device => "host_device",
        }
    }
}

fn parse_filename(prefix: &str, filename: &str) -> Options {
    let mut options = Options::default();
    options.set("filename", filename.strip_prefix(prefix).unwrap_or(filename));
    options
}

async fn open(kind: Kind, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
    let filename: String = options.take("filename")?.unwrap_or_default();
    if filename.is_empty() {
        return Err(BlockError::invalid(format!(
            "The '{}' block driver requires a file name",
            kind.driver()
        )));
    }
    let mut flags = context.flags;
    take_aio(options, &mut flags)?;
    let open = OpenOptions {
        write: !flags.contains(OpenFlags::READ_ONLY),
        create: false,
        direct: flags.contains(OpenFlags::DIRECT),
        nonblocking: kind == Kind::Device,
        only_threads: flags.contains(OpenFlags::AIO_THREADS),
    };
    let file = File::open(Path::new(&filename), open).context(format!("Could not open '{filename}'"))?;
    let status = file.status().context("Could not stat file")?;
    if status.is_directory() {
        return Err(BlockError::os(libc::EISDIR).context(format!("Could not open '{filename}'")));
    }
    match kind {
        Kind::Regular if !status.is_regular() => {
            Err(BlockError::invalid(format!("'file' driver requires '{filename}' to be a regular file")))
        }
        Kind::Device if !status.is_block_device() && !status.is_char_device() => Err(BlockError::invalid(
            format!("'host_device' driver requires '{filename}' to be either a character or block device"),
        )),
        _ => Ok(Box::new(FileNode::new(kind, file, flags)?)),
    }
}

fn take_aio(options: &mut Options, flags: &mut OpenFlags) -> Result<()> {
    if let Some(aio) = options.take::<String>("aio")? {
        *flags -= OpenFlags::AIO_THREADS | OpenFlags::AIO_NATIVE | OpenFlags::AIO_IO_URING;
        *flags |= match aio.as_str() {
            "threads" => OpenFlags::AIO_THREADS,
            "native" => OpenFlags::AIO_NATIVE,
            "io_uring" => OpenFlags::AIO_IO_URING,
            other => return Err(BlockError::invalid(format!("invalid parameter value: {other}"))),
        };
    }
    if flags.contains(OpenFlags::AIO_NATIVE) && !flags.contains(OpenFlags::DIRECT) {
        return Err(BlockError::invalid(
            "aio=native was specified, but it requires cache.direct=on, which was not specified.",
        ));
    }
    Ok(())
}

#[async_trait]
impl Driver for FileDriver {
    fn name(&self) -> &'static str {
        "file"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Protocol
    }

    fn protocol_prefixes(&self) -> &'static [&'static str] {
        &["file"]
    }

    fn parse_filename(&self, filename: &str) -> Result<Options> {
        Ok(parse_filename("file:", filename))
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        open(Kind::Regular, context, options).await
    }

    fn create_options(&self) -> &'static [CreateOption] {
        create::OPTIONS
    }

    async fn create(&self, context: &CreateContext<'_>, filename: &str, options: Options) -> Result<()> {
        create::create(context, filename.strip_prefix("file:").unwrap_or(filename), options).await
    }
}

#[async_trait]
impl Driver for HostDeviceDriver {
    fn name(&self) -> &'static str {
        "host_device"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Protocol
    }

    fn protocol_prefixes(&self) -> &'static [&'static str] {
        &["host_device"]
    }

    fn parse_filename(&self, filename: &str) -> Result<Options> {
        Ok(parse_filename("host_device:", filename))
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        open(Kind::Device, context, options).await
    }

    fn create_options(&self) -> &'static [CreateOption] {
        create::DEVICE_OPTIONS
    }

    async fn create(&self, _: &CreateContext<'_>, filename: &str, options: Options) -> Result<()> {
        create::use_device(filename.strip_prefix("host_device:").unwrap_or(filename), options)
    }
}

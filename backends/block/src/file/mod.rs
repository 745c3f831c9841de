//! The protocols `file` and `host_device`: bytes in a file or on a device of the host.

pub(crate) mod create;
mod lock;
mod node;

use std::path::Path;

use async_trait::async_trait;
use rhea_async_io::File;
use rhea_options::{OnOffAuto, Options};

use crate::driver::{CreateContext, CreateOption, Driver, DriverKind, OpenContext};
use crate::node::Node;
use crate::options::OpenFlags;
use crate::{BlockError, Result, ResultExt};
use node::{FileNode, Opened, open_options};

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
    let locking = match options.take::<String>("locking")?.as_deref() {
        None | Some("auto") => OnOffAuto::Auto,
        Some("on") => OnOffAuto::On,
        Some("off") => OnOffAuto::Off,
        Some(other) => return Err(BlockError::invalid(format!("invalid parameter value: {other}"))),
    };
    let (file, flags) = open_file(kind, &filename, flags)?;
    let status = file.status().context("Could not stat file")?;
    match kind {
        Kind::Regular if !status.is_regular() => {
            return Err(BlockError::invalid(format!(
                "'file' driver requires '{filename}' to be a regular file"
            )));
        }
        Kind::Device if !status.is_block_device() && !status.is_char_device() => {
            return Err(BlockError::invalid(format!(
                "'host_device' driver requires '{filename}' to be either a character or block device"
            )));
        }
        _ => {}
    }
    let locking = match locking {
        OnOffAuto::Off => false,
        OnOffAuto::Auto => !flags.contains(OpenFlags::NO_LOCKING) && file.has_locks(),
        OnOffAuto::On if file.has_locks() => true,
        OnOffAuto::On => {
            return Err(BlockError::unsupported(format!(
                "locking=on: the file system of '{filename}' has no locks"
            )));
        }
    };
    Ok(Box::new(FileNode::new(kind, filename, Opened::new(file, flags), locking)?))
}

/// Opens a file as the flags say, or for reading only if they allow that and it must be.
fn open_file(kind: Kind, filename: &str, flags: OpenFlags) -> Result<(File, OpenFlags)> {
    let path = Path::new(filename);
    let opened = File::open(path, open_options(kind, flags));
    let errno = opened.as_ref().err().and_then(std::io::Error::raw_os_error);
    let opened = match errno {
        Some(libc::EACCES | libc::EROFS | libc::EPERM)
            if flags.contains(OpenFlags::AUTO_READ_ONLY) && !flags.contains(OpenFlags::READ_ONLY) =>
        {
            let flags = flags | OpenFlags::READ_ONLY;
            File::open(path, open_options(kind, flags)).map(|file| (file, flags))
        }
        _ => opened.map(|file| (file, flags)),
    };
    opened.map_err(|error| {
        let error = BlockError::from(error).context(format!("Could not open '{filename}'"));
        match errno == Some(libc::EINVAL) && flags.contains(OpenFlags::DIRECT) {
            true => error.with_hint("The file system may not support O_DIRECT."),
            false => error,
        }
    })
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

//! The driver `nbd`: a disk that another server has.

mod connection;
mod filename;
mod handshake;
mod journal;
mod list;
mod node;

use std::time::{Duration, Instant};

use async_trait::async_trait;
use rhea_async_io::Timer;
use rhea_block::{
    BlockError, CreateContext, CreateOption, CreateOptionType, Driver, DriverKind, Node, OpenContext,
    OpenFlags, Result, WriteFlags,
};
use rhea_options::{Options, Size};

pub use handshake::{ClientTls, connect_simple};
pub use list::{ExportDetails, ListedExport, list};

use crate::address::Address;
pub(crate) use handshake::{Wanted, connect};
pub(crate) use node::NodeForTests;

use crate::client::node::{NbdNode, Target};
use crate::protocol::{DEFAULT_PORT, MAX_STRING, TransmissionFlags};

/// The pause between attempts to connect within `open-timeout`.
const RETRY: Duration = Duration::from_millis(250);

/// The driver `nbd`.
#[derive(Debug, Default)]
pub struct NbdDriver;

#[async_trait]
impl Driver for NbdDriver {
    fn name(&self) -> &'static str {
        "nbd"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Protocol
    }

    fn protocol_prefixes(&self) -> &'static [&'static str] {
        &["nbd", "nbd+tcp", "nbd+unix"]
    }

    fn parse_filename(&self, filename: &str) -> Result<Options> {
        filename::parse(filename)
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        // A name that came as an option, such as `file.filename=nbd://…`.
        if let Some(name) = options.take::<String>("filename")? {
            let given = std::mem::replace(options, filename::parse(&name)?);
            options.merge(given);
        }
        let address = take_address(options)?;
        let export: String = options.take("export")?.unwrap_or_default();
        let context_name: Option<String> = options.take("x-dirty-bitmap")?;
        for (what, text) in [("export name", Some(&export)), ("x-dirty-bitmap query", context_name.as_ref())]
        {
            if text.is_some_and(|text| text.len() > MAX_STRING) {
                return Err(BlockError::invalid(format!("{what} too long to send to server")));
            }
        }
        let delay: u32 = options.take("reconnect-delay")?.unwrap_or(0);
        let timeout: u32 = options.take("open-timeout")?.unwrap_or(0);
        let credentials: Option<String> = options.take("tls-creds")?;
        let hostname: Option<String> = options.take("tls-hostname")?;
        let tls = match credentials {
            Some(id) => {
                Some(crate::credentials::client_tls(context.registry.objects(), &id, hostname, &address)?)
            }
            None => None,
        };
        let given_context = context_name.is_some();
        let context_name = context_name.unwrap_or_else(|| "base:allocation".into());
        let target = Target { address, wanted: Wanted { export, context: context_name, tls } };
        let deadline = Instant::now() + Duration::from_secs(timeout.into());
        let connection = loop {
            match target.connect().await {
                Ok(connection) => break connection,
                Err(error) if Instant::now() + RETRY >= deadline => return Err(error),
                Err(_) => Timer::after(RETRY).await,
            };
        };
        if given_context && !connection.has_context() {
            connection.disconnect().await;
            return Err(BlockError::invalid(format!(
                "requested x-dirty-bitmap {} not found",
                target.wanted.context
            )));
        }
        let mut read_only = context.flags.contains(OpenFlags::READ_ONLY);
        if connection.info().flags.contains(TransmissionFlags::READ_ONLY) && !read_only {
            if !context.flags.contains(OpenFlags::AUTO_READ_ONLY) {
                connection.disconnect().await;
                return Err(BlockError::new(
                    libc::EACCES,
                    "request on write denied without write permission",
                ));
            }
            read_only = true;
        }
        Ok(Box::new(NbdNode::new(target, connection, Duration::from_secs(delay.into()), read_only)))
    }

    fn create_options(&self) -> &'static [CreateOption] {
        &[CreateOption {
            name: "size",
            kind: CreateOptionType::Size,
            help: "Virtual disk size",
            default: "",
            amendable: false,
        }]
    }

    /// There is nothing to create: the export must exist and be long enough. Its first sector is cleared, so that what
    /// was there is not taken for an image.
    async fn create(&self, context: &CreateContext<'_>, filename: &str, mut options: Options) -> Result<()> {
        let size = options.take::<Size>("size")?.map_or(0, |size| size.0);
        let mut open = filename::parse(filename)?;
        open.set("driver", self.name());
        let node = context.registry.open_node(open, OpenFlags::empty(), true).await?;
        let length = node.length();
        let result = if length < size {
            Err(BlockError::unsupported("Cannot grow NBD nodes"))
        } else {
            node.write_zeroes(0, length.min(512), WriteFlags::MAY_UNMAP).await
        };
        node.close().await.and(result)
    }
}

fn take_address(options: &mut Options) -> Result<Address> {
    let mut members = options.take_object("server");
    if !members.is_empty() {
        let address = Address::take("server", &mut members)?;
        return match members.entries().first() {
            Some(entry) => {
                Err(BlockError::invalid(format!("Parameter 'server.{}' is unexpected", entry.key)))
            }
            None => Ok(address),
        };
    }
    // The old way.
    let (path, host) = (options.take::<String>("path")?, options.take::<String>("host")?);
    let port: Option<String> = options.take("port")?;
    match (path, host) {
        (Some(_), Some(_)) => Err(BlockError::invalid("path and host may not be used at the same time")),
        (Some(path), None) => match port {
            Some(_) => Err(BlockError::invalid("port may not be used without host")),
            None => Ok(Address::Unix { path }),
        },
        (None, Some(host)) => Address::inet(&host, &port.unwrap_or_else(|| DEFAULT_PORT.to_string())),
        (None, None) => Err(BlockError::invalid("NBD server address missing")),
    }
}

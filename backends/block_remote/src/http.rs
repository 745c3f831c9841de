//! The protocols `http` and `https`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rhea_async_io::{IoVector, unblock};
use rhea_block::{
    BlockError, BlockStatus, Driver, DriverKind, Limits, Node, OpenContext, OpenFlags, Result, ResultExt,
    Secrets, StatusFlags,
};
use rhea_options::{Options, Size};
use zeroize::Zeroizing;

use crate::http_client::{Client, Settings};
use crate::readahead::Readahead;
use crate::url::Url;

/// The default of `readahead`.
const READAHEAD: u64 = 256 << 10;

/// More is a mistake: eight pieces of it are kept.
const MAX_READAHEAD: u64 = 64 << 20;

/// Bytes of the longest single request, to bound memory and time.
const MAX_TRANSFER: u64 = 2 << 20;

/// The default of `timeout`, and its limit, in seconds.
const TIMEOUT: u64 = 5;
const MAX_TIMEOUT: u64 = 10_000;

/// Files on web servers.
#[derive(Debug, Clone, Copy)]
pub struct HttpDriver {
    scheme: &'static str,
}

impl HttpDriver {
    /// `http`
    pub const HTTP: Self = Self { scheme: "http" };
    /// `https`
    pub const HTTPS: Self = Self { scheme: "https" };
}

fn secret_text(secrets: &Secrets, id: &str) -> Result<Zeroizing<String>> {
    match String::from_utf8(secrets.get(id)?) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(_) => Err(BlockError::invalid(format!("Data from secret {id} is not valid UTF-8"))),
    }
}

/// A user's name and the password a secret holds.
fn take_user(
    options: &mut Options,
    secrets: &Secrets,
    name: &str,
    password: &str,
) -> Result<Option<(String, Zeroizing<String>)>> {
    let user = options.take::<String>(name)?;
    let id = options.take::<String>(password)?;
    match (user, id) {
        (Some(user), Some(id)) => Ok(Some((user, secret_text(secrets, &id)?))),
        (Some(user), None) => Ok(Some((user, Zeroizing::default()))),
        (None, Some(_)) => Err(BlockError::invalid(format!("'{password}' needs '{name}'"))),
        (None, None) => Ok(None),
    }
}

fn take_cookie(options: &mut Options, secrets: &Secrets) -> Result<Option<String>> {
    let cookie = options.take::<String>("cookie")?;
    let id = options.take::<String>("cookie-secret")?;
    let cookie = match (cookie, id) {
        (Some(_), Some(_)) => {
            return Err(BlockError::invalid("curl driver cannot handle both cookie and cookie secret"));
        }
        (None, Some(id)) => Some(secret_text(secrets, &id)?.to_string()),
        (cookie, None) => cookie,
    };
    // A line's end would begin another header.
    match cookie {
        Some(text) if text.chars().any(|c| c.is_control()) => {
            Err(BlockError::invalid("a cookie cannot contain control characters"))
        }
        cookie => Ok(cookie),
    }
}

#[async_trait]
impl Driver for HttpDriver {
    fn name(&self) -> &'static str {
        self.scheme
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Protocol
    }

    fn protocol_prefixes(&self) -> &'static [&'static str] {
        match self.scheme {
            "https" => &["https"],
            _ => &["http"],
        }
    }

    fn parse_filename(&self, filename: &str) -> Result<Options> {
        let mut options = Options::default();
        options.set("url", filename);
        Ok(options)
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        if context.writable() && !context.flags.contains(OpenFlags::AUTO_READ_ONLY) {
            return Err(BlockError::new(libc::EROFS, "curl block device does not support writes"));
        }
        let url = match options.take::<String>("url")? {
            Some(url) => url,
            None => options
                .take::<String>("filename")?
                .ok_or_else(|| BlockError::invalid("curl block driver requires an 'url' option"))?,
        };
        let parsed = Url::parse(&url)?;
        if parsed.scheme != self.scheme {
            return Err(BlockError::invalid(format!(
                "{0} curl driver cannot handle the URL '{url}' (does not start with '{0}://')",
                self.scheme
            )));
        }
        let readahead = options.take::<Size>("readahead")?.map_or(READAHEAD, |size| size.0);
        if !readahead.is_multiple_of(512) || readahead > MAX_READAHEAD {
            return Err(BlockError::invalid(format!(
                "HTTP_READAHEAD_SIZE {readahead} is not a multiple of 512, or beyond {MAX_READAHEAD}"
            )));
        }
        let timeout = options.take::<u64>("timeout")?.unwrap_or(TIMEOUT);
        if !(1..=MAX_TIMEOUT).contains(&timeout) {
            return Err(BlockError::invalid(format!("timeout parameter must be 1 to {MAX_TIMEOUT} seconds")));
        }
        let force_range = options.take::<bool>("force-range")?.unwrap_or(false);
        let verify = options.take::<bool>("sslverify")?.unwrap_or(true);
        let secrets = context.secrets();
        let settings = Settings {
            verify: verify && self.scheme == "https",
            timeout: Duration::from_secs(timeout),
            cookie: take_cookie(options, secrets)?,
            user: take_user(options, secrets, "username", "password-secret")?,
            proxy_user: take_user(options, secrets, "proxy-username", "proxy-password-secret")?,
        };
        let (client, about) = unblock(move || {
            let client = Client::new(parsed, &settings)?;
            let about = client.about()?;
            Ok::<_, BlockError>((client, about))
        })
        .await
        .context("CURL: Error opening file")?;
        let length =
            about.length.ok_or_else(|| BlockError::new(libc::EINVAL, "Server didn't report file size."))?;
        if length > 0 && !about.ranges && !force_range {
            return Err(BlockError::new(libc::EINVAL, "Server does not support 'range' (byte ranges)."));
        }
        Ok(Box::new(HttpNode {
            client: Arc::new(client),
            length,
            readahead: Readahead::new(readahead as usize),
        }))
    }
}

struct HttpNode {
    client: Arc<Client>,
    length: u64,
    readahead: Readahead,
}

#[async_trait]
impl Node for HttpNode {
    fn limits(&self) -> Limits {
        Limits { max_transfer: MAX_TRANSFER, ..Limits::default() }
    }

    fn length(&self) -> u64 {
        self.length
    }

    fn is_read_only(&self) -> bool {
        true
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        let fetch = |offset, len| {
            let (client, length) = (self.client.clone(), self.length);
            unblock(move || client.read(offset, len, length))
        };
        self.readahead.read(offset, data, self.length, fetch).await
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn block_status(&self, _: u64, len: u64, _: bool) -> Result<BlockStatus> {
        let flags = StatusFlags::DATA | StatusFlags::ALLOCATED | StatusFlags::OFFSET_VALID;
        Ok(BlockStatus { len, flags, map: None })
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// `ftp` and `ftps`, which QEMU has by way of curl: refused by name.
#[derive(Debug, Clone, Copy)]
pub struct FtpDriver {
    scheme: &'static str,
}

impl FtpDriver {
    /// `ftp`
    pub const FTP: Self = Self { scheme: "ftp" };
    /// `ftps`
    pub const FTPS: Self = Self { scheme: "ftps" };
}

#[async_trait]
impl Driver for FtpDriver {
    fn name(&self) -> &'static str {
        self.scheme
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Protocol
    }

    fn protocol_prefixes(&self) -> &'static [&'static str] {
        match self.scheme {
            "ftps" => &["ftps"],
            _ => &["ftp"],
        }
    }

    async fn open(&self, _: &OpenContext<'_>, _: &mut Options) -> Result<Box<dyn Node>> {
        Err(BlockError::unsupported(format!("protocol '{}' is not supported", self.scheme))
            .with_hint("Copy the file, or have it served by http, https, nbd or ssh."))
    }
}

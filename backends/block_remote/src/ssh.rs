//! The protocol `ssh`: files by SFTP.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use async_trait::async_trait;
use rhea_async_io::{IoVector, IoView};
use rhea_block::{
    BlockError, BlockStatus, CreateContext, CreateOption, CreateOptionType, Driver, DriverKind, Limits, Node,
    OpenContext, OpenFlags, Preallocation, Result, StatusFlags, Truncate, WriteFlags,
};
use rhea_options::{Options, Size};

use crate::ssh_host_key::HostKeyCheck;
use crate::ssh_session::{Access, RemoteFile, SshPlaces, Target};
use crate::url::percent_decode;

/// Bytes of the longest single request, to bound memory.
const MAX_TRANSFER: u64 = 2 << 20;

/// Files on ssh servers.
#[derive(Debug, Clone, Default)]
pub struct SshDriver {
    places: Option<SshPlaces>,
}

impl SshDriver {
    /// A driver that looks for keys elsewhere than the user's ssh does.
    pub fn with_places(places: SshPlaces) -> Self {
        Self { places: Some(places) }
    }

    /// The options that say which file is meant.
    fn take_target(&self, options: &mut Options) -> Result<Target> {
        let mut server = options.take_object("server");
        let missing = |key: &str| BlockError::invalid(format!("No {key} was specified"));
        let host = match server.take::<String>("host")? {
            Some(host) => host,
            None => options.take::<String>("host")?.ok_or_else(|| missing("hostname"))?,
        };
        let port = match server.take::<u16>("port")? {
            Some(port) => port,
            None => options.take::<u16>("port")?.unwrap_or(22),
        };
        if let Some(entry) = server.entries().first() {
            return Err(BlockError::invalid(format!("Parameter 'server.{}' is unexpected", entry.key)));
        }
        let path = options.take::<String>("path")?.ok_or_else(|| missing("path"))?;
        let user = match options.take::<String>("user")? {
            Some(user) => user,
            None => std::env::var("USER")
                .or_else(|_| std::env::var("LOGNAME"))
                .map_err(|_| BlockError::invalid("Can't get user name"))?,
        };
        let check = HostKeyCheck::take(options)?;
        let places = self.places.clone().unwrap_or_else(SshPlaces::of_user);
        Ok(Target { host, port, user, path, check, places })
    }
}

/// `ssh://[user@]host[:port]/path[?host_key_check=…]`
fn parse_url(url: &str) -> Result<Options> {
    let invalid = || BlockError::invalid(format!("'{url}' is not a valid ssh URL"));
    let rest = url.strip_prefix("ssh://").ok_or_else(|| BlockError::invalid("URI scheme must be 'ssh'"))?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let at = rest.find('/').ok_or_else(|| BlockError::invalid("missing path in URI"))?;
    let (authority, path) = rest.split_at(at);
    let (user, server) = match authority.rsplit_once('@') {
        Some((user, server)) => (Some(user), server),
        None => (None, authority),
    };
    // A colon within brackets belongs to an IPv6 address.
    let (host, port) = match server.rfind(':').filter(|&at| !server[at..].contains(']')) {
        Some(at) => (&server[..at], Some(&server[at + 1..])),
        None => (server, None),
    };
    if host.is_empty() {
        return Err(BlockError::invalid("missing hostname in URI"));
    }
    let mut options = Options::default();
    options.set("server.host", host);
    match port {
        Some(port) if port.parse::<u16>().is_err() => return Err(invalid()),
        port => options.set("server.port", port.unwrap_or("22")),
    }
    options.set("path", &percent_decode(path));
    if let Some(user) = user.filter(|user| !user.is_empty()) {
        options.set("user", &percent_decode(user));
    }
    for part in query.split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("host_key_check", value)) => options.set("host_key_check", &percent_decode(value)),
            _ => return Err(BlockError::invalid(format!("'{part}' is not known in an ssh URL"))),
        }
    }
    Ok(options)
}

const CREATE_OPTIONS: [CreateOption; 1] = [CreateOption {
    name: "size",
    kind: CreateOptionType::Size,
    help: "Virtual disk size",
    default: "",
    amendable: false,
}];

#[async_trait]
impl Driver for SshDriver {
    fn name(&self) -> &'static str {
        "ssh"
    }

    fn kind(&self) -> DriverKind {
        DriverKind::Protocol
    }

    fn protocol_prefixes(&self) -> &'static [&'static str] {
        &["ssh"]
    }

    fn parse_filename(&self, filename: &str) -> Result<Options> {
        parse_url(filename)
    }

    async fn open(&self, context: &OpenContext<'_>, options: &mut Options) -> Result<Box<dyn Node>> {
        if let Some(filename) = options.take::<String>("filename")? {
            options.merge(parse_url(&filename)?);
        }
        let target = self.take_target(options)?;
        let access = if context.writable() { Access::Write } else { Access::Read };
        let file = RemoteFile::open(target, access).await?;
        let no_flush = context.flags.contains(OpenFlags::NO_FLUSH);
        if context.writable() && !file.has_fsync && !no_flush {
            return Err(BlockError::unsupported(
                "the ssh server cannot put data on stable storage (no fsync@openssh.com)",
            )
            .with_hint("With cache=unsafe, data that the server loses in a crash is not missed."));
        }
        Ok(Box::new(SshNode { length: AtomicU64::new(file.length), file, no_flush }))
    }

    fn create_options(&self) -> &'static [CreateOption] {
        &CREATE_OPTIONS
    }

    async fn create(&self, _: &CreateContext<'_>, filename: &str, mut options: Options) -> Result<()> {
        let size = options.take::<Size>("size")?.map_or(0, |size| size.0);
        let target = self.take_target(&mut parse_url(filename)?)?;
        let file = RemoteFile::open(target, Access::Create).await?;
        match size {
            0 => Ok(()),
            size => file.set_length(size).await,
        }
    }
}

struct SshNode {
    file: RemoteFile,
    length: AtomicU64,
    no_flush: bool,
}

#[async_trait]
impl Node for SshNode {
    fn limits(&self) -> Limits {
        Limits { max_transfer: MAX_TRANSFER, growable: true, ..Limits::default() }
    }

    fn length(&self) -> u64 {
        self.length.load(SeqCst)
    }

    async fn read(&self, offset: u64, data: &mut IoVector) -> Result<()> {
        let bytes = self.file.read(offset, data.len()).await?;
        data.write(0, &bytes);
        Ok(())
    }

    async fn write(&self, offset: u64, data: IoView<'_>, _: WriteFlags) -> Result<()> {
        self.file.write(offset, data.to_vec()).await?;
        self.length.fetch_max(offset + data.len() as u64, SeqCst);
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        match self.no_flush {
            true => Ok(()),
            false => self.file.fsync().await,
        }
    }

    async fn block_status(&self, _: u64, len: u64, _: bool) -> Result<BlockStatus> {
        let flags = StatusFlags::DATA | StatusFlags::ALLOCATED | StatusFlags::OFFSET_VALID;
        Ok(BlockStatus { len, flags, map: None })
    }

    async fn truncate(&self, length: u64, how: Truncate) -> Result<()> {
        if how.preallocation != Preallocation::Off {
            return Err(BlockError::unsupported(format!(
                "Unsupported preallocation mode '{}'",
                how.preallocation.word()
            )));
        }
        self.file.set_length(length).await?;
        self.length.store(length, SeqCst);
        Ok(())
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_become_options() {
        let options = parse_url("ssh://me@host:2222/a%20b/c?host_key_check=no").unwrap();
        let get = |key: &str| options.get(key);
        assert_eq!(
            (get("user"), get("server.host"), get("server.port")),
            (Some("me"), Some("host"), Some("2222"))
        );
        assert_eq!((get("path"), get("host_key_check")), (Some("/a b/c"), Some("no")));
        let options = parse_url("ssh://[::1]/x").unwrap();
        assert_eq!((options.get("server.host"), options.get("server.port")), (Some("[::1]"), Some("22")));
        for bad in ["ssh://host", "ssh:///x", "ssh://h:x/y", "ssh://h/x?y=z", "http://h/x"] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }
}

//! Where servers listen and clients connect: TCP, Unix and vsock sockets, and inherited descriptors.

use std::fmt;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rhea_async_io::{Async, unblock};
use rhea_block::{BlockError, Result, ResultExt};
use rhea_options::Options;
use vsock::{VsockAddr, VsockListener, VsockStream};

use crate::stream::{Socket, Stream};

/// A socket's address, as the options `server.…` and `addr.…` give it (QAPI's `SocketAddress`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Inet {
        /// A name, or an address without brackets; empty: any address.
        host: String,
        /// The port.
        port: u16,
        /// Use IPv4; `None`: as it comes.
        ipv4: Option<bool>,
        /// Use IPv6; `None`: as it comes.
        ipv6: Option<bool>,
    },
    /// A socket in the file system.
    Unix {
        /// Its path.
        path: String,
    },
    /// A socket between a machine and its host.
    Vsock {
        /// The context id.
        cid: u32,
        /// The port.
        port: u32,
    },
    /// A descriptor that the process was started with.
    Fd {
        /// Its number.
        number: i32,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Inet { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix { path } => f.write_str(path),
            Self::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
            Self::Fd { number } => write!(f, "fd:{number}"),
        }
    }
}

fn parse_port(text: &str) -> Result<u16> {
    text.parse().map_err(|_| BlockError::invalid(format!("port '{text}' is not a number from 0 to 65535")))
}

impl Address {
    /// TCP, to whatever addresses the name has.
    pub fn inet(host: &str, port: &str) -> Result<Self> {
        Ok(Self::Inet { host: host.into(), port: parse_port(port)?, ipv4: None, ipv6: None })
    }

    /// Takes the members of a socket address out of options (`type`, `host`, `port`, `path`, `cid`, `str`). What is left
    /// over is for the caller to refuse. Messages name the members with `parent`, whose members they are.
    pub fn take(parent: &str, options: &mut Options) -> Result<Self> {
        let required = |options: &mut Options, key: &str| -> Result<String> {
            options
                .take::<String>(key)?
                .ok_or_else(|| BlockError::invalid(format!("Parameter '{parent}.{key}' is missing")))
        };
        let kind = required(options, "type")?;
        let number = |key: &str, text: String| -> Result<u32> {
            match text.as_str() {
                // VMADDR_CID_ANY, VMADDR_PORT_ANY
                "any" | "-1" => Ok(u32::MAX),
                text => text
                    .parse()
                    .map_err(|_| BlockError::invalid(format!("Parameter '{parent}.{key}' expects a number"))),
            }
        };
        match kind.as_str() {
            "inet" => {
                let host = required(options, "host")?;
                let port = parse_port(&required(options, "port")?)?;
                let (ipv4, ipv6) = (options.take("ipv4")?, options.take("ipv6")?);
                // We always take numbers.
                options.take::<bool>("numeric")?;
                Ok(Self::Inet { host, port, ipv4, ipv6 })
            }
            "unix" => Ok(Self::Unix { path: required(options, "path")? }),
            "vsock" => Ok(Self::Vsock {
                cid: number("cid", required(options, "cid")?)?,
                port: number("port", required(options, "port")?)?,
            }),
            "fd" => {
                let text = required(options, "str")?;
                let number = text.parse().map_err(|_| {
                    BlockError::invalid(format!(
                        "file descriptor '{text}' is not a number (named descriptors need a monitor)"
                    ))
                })?;
                Ok(Self::Fd { number })
            }
            other => Err(BlockError::invalid(format!("Parameter 'type' does not accept value '{other}'"))),
        }
    }

    /// The host's name, for the check of a server's certificate.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Inet { host, .. } => Some(host),
            _ => None,
        }
    }

    fn resolve(host: &str, port: u16, ipv4: Option<bool>, ipv6: Option<bool>) -> Result<Vec<SocketAddr>> {
        let any = host.is_empty();
        let found: std::io::Result<Vec<SocketAddr>> = match any {
            true => Ok(vec![([0; 8], port).into(), ([0, 0, 0, 0], port).into()]),
            false => (host, port).to_socket_addrs().map(Iterator::collect),
        };
        let mut found = found.map_err(|error| {
            let error = error.to_string();
            let reason = error.strip_prefix("failed to lookup address information: ").unwrap_or(&error);
            BlockError::new(libc::EINVAL, format!("address resolution failed for {host}:{port}: {reason}"))
        })?;
        // `ipv4=on` alone means "not IPv6", and the other way round.
        let wanted = |on: Option<bool>, other: Option<bool>| on.unwrap_or(other != Some(true));
        found.retain(|a| if a.is_ipv4() { wanted(ipv4, ipv6) } else { wanted(ipv6, ipv4) });
        if found.is_empty() {
            return Err(BlockError::invalid(format!(
                "no address of {host}:{port} is of the family asked for"
            )));
        }
        Ok(found)
    }

    /// Connects.
    pub async fn connect(&self) -> Result<Stream> {
        let failed = || format!("Failed to connect to '{self}'");
        let socket = match self {
            Self::Inet { host, port, ipv4, ipv6 } => {
                let (host, port, ipv4, ipv6) = (host.clone(), *port, *ipv4, *ipv6);
                let addresses = unblock(move || Self::resolve(&host, port, ipv4, ipv6)).await?;
                let mut last = BlockError::os(libc::EHOSTUNREACH);
                let mut connected = None;
                for address in addresses {
                    match Async::<TcpStream>::connect(address).await {
                        Ok(socket) => {
                            connected = Some(socket);
                            break;
                        }
                        Err(error) => last = error.into(),
                    }
                }
                let socket = connected.ok_or(last).context(failed())?;
                set_up_tcp(socket.get_ref());
                Socket::Tcp(socket)
            }
            Self::Unix { path } => {
                let socket = Async::<UnixStream>::connect(path).await.context(failed())?;
                set_up_unix(socket.get_ref());
                Socket::Unix(socket)
            }
            Self::Vsock { cid, port } => {
                let address = VsockAddr::new(*cid, *port);
                let stream = unblock(move || VsockStream::connect(&address)).await.context(failed())?;
                Socket::Vsock(Async::new(stream).context(failed())?)
            }
            Self::Fd { number } => {
                let fd = rhea_host::descriptors::take_inherited(*number).context(failed())?;
                Socket::from_fd(fd).context(failed())?
            }
        };
        Ok(socket.into())
    }
}

/// Messages are sent whole: nothing is gained by waiting for more. A peer that is gone without a word is noticed in the end.
fn set_up_tcp(stream: &TcpStream) {
    // Either is an improvement only.
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(stream).set_keepalive(true);
}

/// Bytes that a Unix socket should hold for its reader (no socket holds more than the system allows): long payloads then
/// take fewer turns between the two.
const UNIX_BUFFER: usize = 256 << 10;

fn set_up_unix(stream: &UnixStream) {
    // An improvement only.
    let _ = socket2::SockRef::from(stream).set_send_buffer_size(UNIX_BUFFER);
}

/// A socket that takes connections. A path in the file system goes away with it.
#[derive(Debug)]
pub struct Listener {
    socket: ListeningSocket,
    path: Option<PathBuf>,
}

#[derive(Debug)]
enum ListeningSocket {
    Tcp(Async<TcpListener>),
    Unix(Async<UnixListener>),
    Vsock(Async<VsockListener>),
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Somebody may have cleaned up already.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Listener {
    /// Listens at an address; a name may stand for several.
    pub fn bind(address: &Address) -> Result<Vec<Self>> {
        let one = |socket, path| vec![Self { socket, path }];
        match address {
            Address::Inet { host, port, ipv4, ipv6 } => Self::bind_inet(host, *port, *ipv4, *ipv6),
            Address::Unix { path } => {
                let failed = || format!("Failed to bind socket to {path}");
                remove_old_socket(Path::new(path));
                let socket = UnixListener::bind(path).context(failed())?;
                let socket = ListeningSocket::Unix(Async::new(socket).context(failed())?);
                Ok(one(socket, Some(path.into())))
            }
            Address::Vsock { cid, port } => {
                let failed = || format!("Failed to bind socket to {address}");
                let socket = VsockListener::bind(&VsockAddr::new(*cid, *port)).context(failed())?;
                Ok(one(ListeningSocket::Vsock(Async::new(socket).context(failed())?), None))
            }
            Address::Fd { number } => {
                let failed = || format!("Failed to listen on {address}");
                let fd = rhea_host::descriptors::take_inherited(*number).context(failed())?;
                Ok(vec![Self::from_fd(fd).context(failed())?])
            }
        }
    }

    fn bind_inet(host: &str, port: u16, ipv4: Option<bool>, ipv6: Option<bool>) -> Result<Vec<Self>> {
        let mut listeners = Vec::new();
        let mut last = None;
        for address in Address::resolve(host, port, ipv4, ipv6)? {
            let socket = TcpListener::bind(address).and_then(Async::new);
            match socket {
                Ok(socket) => {
                    listeners.push(Self { socket: ListeningSocket::Tcp(socket), path: None });
                    // An IPv6 socket bound to any address takes IPv4 connections as well.
                    if host.is_empty() {
                        break;
                    }
                }
                Err(error) => last = Some(error),
            }
        }
        match (listeners.is_empty(), last) {
            (true, Some(error)) => Err(BlockError::from(error).context("Failed to bind socket")),
            _ => Ok(listeners),
        }
    }

    /// A socket that somebody else has bound and listens on.
    pub fn from_fd(fd: OwnedFd) -> std::io::Result<Self> {
        let unix = UnixListener::from(fd);
        if unix.local_addr().is_ok() {
            return Ok(Self { socket: ListeningSocket::Unix(Async::new(unix)?), path: None });
        }
        let tcp = TcpListener::from(OwnedFd::from(unix));
        if tcp.local_addr().is_ok() {
            return Ok(Self { socket: ListeningSocket::Tcp(Async::new(tcp)?), path: None });
        }
        let vsock = VsockListener::from(OwnedFd::from(tcp));
        vsock.local_addr()?;
        Ok(Self { socket: ListeningSocket::Vsock(Async::new(vsock)?), path: None })
    }

    /// The port a TCP socket got, where 0 was asked for.
    pub fn port(&self) -> Option<u16> {
        match &self.socket {
            ListeningSocket::Tcp(socket) => socket.get_ref().local_addr().ok().map(|a| a.port()),
            _ => None,
        }
    }

    /// Waits for a client.
    pub async fn accept(&self) -> std::io::Result<Stream> {
        let socket = match &self.socket {
            ListeningSocket::Tcp(socket) => {
                let (stream, _) = socket.accept().await?;
                set_up_tcp(stream.get_ref());
                Socket::Tcp(stream)
            }
            ListeningSocket::Unix(socket) => {
                let (stream, _) = socket.accept().await?;
                set_up_unix(stream.get_ref());
                Socket::Unix(stream)
            }
            ListeningSocket::Vsock(socket) => {
                let (stream, _) = socket.read_with(|s| s.accept()).await?;
                Socket::Vsock(Async::new(stream)?)
            }
        };
        Ok(socket.into())
    }
}

/// A socket left behind by a server that is gone is in the way; any other kind of file is not ours to remove.
fn remove_old_socket(path: &Path) {
    if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        let _ = std::fs::remove_file(path);
    }
}

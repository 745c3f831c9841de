//! Connections: sockets of several families, with or without TLS, seen as one kind of byte stream.
//!
//! Both directions may be used at once, by one task each; neither method loses bytes when its future is dropped before it
//! is ready.

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rhea_async_io::Async;
use vsock::VsockStream;

use crate::tls::TlsSession;

/// A connected socket.
pub(crate) enum Socket {
    Tcp(Async<TcpStream>),
    Unix(Async<UnixStream>),
    Vsock(Async<VsockStream>),
}

impl Socket {
    /// A socket that is connected already, of whatever family.
    pub(crate) fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let unix = UnixStream::from(fd);
        if unix.local_addr().is_ok() {
            return Ok(Self::Unix(Async::new(unix)?));
        }
        let tcp = TcpStream::from(OwnedFd::from(unix));
        if tcp.local_addr().is_ok() {
            let _ = tcp.set_nodelay(true);
            return Ok(Self::Tcp(Async::new(tcp)?));
        }
        let vsock = VsockStream::from(OwnedFd::from(tcp));
        vsock.local_addr()?;
        Ok(Self::Vsock(Async::new(vsock)?))
    }

    /// Reads what is there; `WouldBlock` if nothing is.
    pub(crate) fn try_recv(&self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = match self {
                Self::Tcp(socket) => socket.get_ref().read(bytes),
                Self::Unix(socket) => socket.get_ref().read(bytes),
                Self::Vsock(socket) => socket.get_ref().read(bytes),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Writes what the kernel takes; `WouldBlock` if that is nothing.
    pub(crate) fn try_send(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            let result = match self {
                Self::Tcp(socket) => socket.get_ref().write_vectored(bytes),
                Self::Unix(socket) => socket.get_ref().write_vectored(bytes),
                Self::Vsock(socket) => {
                    let first = bytes.iter().find(|b| !b.is_empty());
                    socket.get_ref().write(first.map_or(&[], |b| &**b))
                }
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.readable().await,
            Self::Unix(socket) => socket.readable().await,
            Self::Vsock(socket) => socket.readable().await,
        }
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.writable().await,
            Self::Unix(socket) => socket.writable().await,
            Self::Vsock(socket) => socket.writable().await,
        }
    }

    fn shutdown(&self) {
        // What fails here is closed already.
        let _ = match self {
            Self::Tcp(socket) => socket.get_ref().shutdown(std::net::Shutdown::Both),
            Self::Unix(socket) => socket.get_ref().shutdown(std::net::Shutdown::Both),
            Self::Vsock(socket) => socket.get_ref().shutdown(std::net::Shutdown::Both),
        };
    }

    fn peer(&self) -> String {
        match self {
            Self::Tcp(socket) => {
                socket.get_ref().peer_addr().map_or_else(|_| "a TCP client".into(), |a| a.to_string())
            }
            Self::Unix(_) => "a local client".into(),
            Self::Vsock(socket) => {
                socket.get_ref().peer_addr().map_or_else(|_| "a vsock client".into(), |a| a.to_string())
            }
        }
    }
}

/// A connection to the other party.
pub struct Stream(Inner);

enum Inner {
    Plain(Socket),
    Tls(Box<TlsSession>),
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tls = if self.is_encrypted() { " over TLS" } else { "" };
        write!(f, "Stream({}{tls})", self.peer())
    }
}

impl From<Socket> for Stream {
    fn from(socket: Socket) -> Self {
        Self(Inner::Plain(socket))
    }
}

impl From<TlsSession> for Stream {
    fn from(session: TlsSession) -> Self {
        Self(Inner::Tls(Box::new(session)))
    }
}

impl Stream {
    /// A socket that somebody else has connected.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Socket::from_fd(fd).map(Self::from)
    }

    /// The socket itself, in blocking mode, for somebody else; the stream if TLS is on it.
    pub(crate) fn into_fd(self) -> Result<OwnedFd, Self> {
        let fd: OwnedFd = match self.0 {
            Inner::Plain(Socket::Tcp(socket)) => socket.into_inner().into(),
            Inner::Plain(Socket::Unix(socket)) => socket.into_inner().into(),
            Inner::Plain(Socket::Vsock(socket)) => OwnedFd::from(socket.into_inner()),
            tls => return Err(Self(tls)),
        };
        // What cannot be set to blocking is no socket any more, as its next user will find.
        let socket = UnixStream::from(fd);
        let _ = socket.set_nonblocking(false);
        Ok(socket.into())
    }

    /// The bare socket, to put TLS on it; the stream itself if that is done already.
    pub(crate) fn into_socket(self) -> Result<Socket, Self> {
        match self.0 {
            Inner::Plain(socket) => Ok(socket),
            tls => Err(Self(tls)),
        }
    }

    fn socket(&self) -> &Socket {
        match &self.0 {
            Inner::Plain(socket) => socket,
            Inner::Tls(session) => session.socket(),
        }
    }

    /// Whether TLS protects the connection.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.0, Inner::Tls(_))
    }

    /// Who is at the other end, for messages.
    pub fn peer(&self) -> String {
        self.socket().peer()
    }

    /// Waits until [`Stream::recv`] has something to do; where TLS may hold bytes already, not at all.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match &self.0 {
            Inner::Plain(socket) => socket.readable().await,
            Inner::Tls(_) => Ok(()),
        }
    }

    /// Receives some bytes; 0 at the end of the stream.
    pub(crate) async fn recv(&self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = match &self.0 {
                Inner::Plain(socket) => socket.try_recv(bytes),
                Inner::Tls(session) => session.try_recv(bytes),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.socket().readable().await?,
                other => return other,
            }
        }
    }

    /// Sends some bytes, as many as can be had without waiting; `WouldBlock` if that is none.
    pub(crate) fn try_send(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.0 {
            Inner::Plain(socket) => socket.try_send(bytes),
            Inner::Tls(session) => session.try_send(bytes),
        }
    }

    /// Waits until [`Stream::try_send`] is worth another try.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.socket().writable().await
    }

    /// Pushes out what TLS holds back; true when nothing is left.
    pub(crate) fn try_flush(&self) -> io::Result<bool> {
        match &self.0 {
            Inner::Plain(_) => Ok(true),
            Inner::Tls(session) => session.try_flush(),
        }
    }

    /// Fills the bytes, or fails with `UnexpectedEof`.
    pub(crate) async fn recv_exact(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            match self.recv(&mut bytes[done..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => done += count,
            }
        }
        Ok(())
    }

    /// Sends all the bytes.
    pub(crate) async fn send_all(&self, bytes: &[u8]) -> io::Result<()> {
        self.send_vectored(&mut [IoSlice::new(bytes)]).await
    }

    /// Sends all the bytes of several slices.
    pub(crate) async fn send_vectored(&self, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match self.try_send(slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => IoSlice::advance_slices(&mut slices, count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        while !self.try_flush()? {
            self.writable().await?;
        }
        Ok(())
    }

    /// Ends both directions; whoever waits on the stream sees its end.
    pub fn shutdown(&self) {
        if let Inner::Tls(session) = &self.0 {
            session.close();
        }
        self.socket().shutdown();
    }
}

//! Sockets, pipes, and other descriptors that can be waited for.

use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_lite::{AsyncRead, AsyncWrite};
use parking_lot::Mutex;

use crate::operation::{Request, Submission};

const READABLE: i16 = libc::POLLIN | libc::POLLRDHUP;
const WRITABLE: i16 = libc::POLLOUT;

/// A descriptor in non-blocking mode, with ways to wait until it can be read or written.
///
/// One task may wait to read while another waits to write. The descriptor stays in non-blocking mode when it is taken out
/// again.
pub struct Async<T> {
    // Before `io`: what is waited for is called off before the descriptor is closed.
    reading: Mutex<Option<Submission>>,
    writing: Mutex<Option<Submission>>,
    io: T,
    fd: RawFd,
}

impl<T: std::fmt::Debug> std::fmt::Debug for Async<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Async").field(&self.io).finish()
    }
}

impl<T: AsFd> AsFd for Async<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.io.as_fd()
    }
}

impl<T> AsRawFd for Async<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: no memory is involved.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::O_NONBLOCK != 0 {
        return Ok(());
    }
    // SAFETY: as above.
    match unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) } {
        ..0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn readiness(fd: RawFd, events: i16) -> Submission {
    Submission::new(Request::Readiness { fd, events })
}

fn to_result(result: i32) -> io::Result<()> {
    match result {
        ..0 => Err(io::Error::from_raw_os_error(-result)),
        _ => Ok(()),
    }
}

fn would_block<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl<T: AsFd> Async<T> {
    /// Puts a descriptor into non-blocking mode.
    pub fn new(io: T) -> io::Result<Self> {
        let fd = io.as_fd().as_raw_fd();
        set_nonblocking(fd)?;
        Ok(Self { reading: Mutex::new(None), writing: Mutex::new(None), io, fd })
    }
}

impl<T> Async<T> {
    /// What was given to [`Async::new`].
    pub fn get_ref(&self) -> &T {
        &self.io
    }

    /// What was given to [`Async::new`].
    pub fn into_inner(self) -> T {
        self.io
    }

    /// Waits until there is something to read, the other side has closed, or there is an error to be read.
    pub fn readable(&self) -> impl Future<Output = io::Result<()>> + Send + use<T> {
        let submission = readiness(self.fd, READABLE);
        async move { to_result(submission.await.0) }
    }

    /// Waits until something can be written (or fails to be).
    pub fn writable(&self) -> impl Future<Output = io::Result<()>> + Send + use<T> {
        let submission = readiness(self.fd, WRITABLE);
        async move { to_result(submission.await.0) }
    }

    /// Calls `act` until it does something else than fail with `WouldBlock`, waiting to be readable before it is called
    /// again.
    pub async fn read_with<R>(&self, mut act: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        loop {
            let result = act(&self.io);
            if !would_block(&result) {
                return result;
            }
            self.readable().await?;
        }
    }

    /// Calls `act` until it does something else than fail with `WouldBlock`, waiting to be writable before it is called
    /// again.
    pub async fn write_with<R>(&self, mut act: impl FnMut(&T) -> io::Result<R>) -> io::Result<R> {
        loop {
            let result = act(&self.io);
            if !would_block(&result) {
                return result;
            }
            self.writable().await?;
        }
    }

    /// As [`Async::read_with`] or [`Async::write_with`], for a task that polls.
    fn poll_with<R>(
        &self,
        slot: &Mutex<Option<Submission>>,
        events: i16,
        cx: &mut Context<'_>,
        mut act: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        loop {
            let result = act(&self.io);
            if !would_block(&result) {
                if !matches!(&result, Err(error) if error.kind() == io::ErrorKind::Interrupted) {
                    return Poll::Ready(result);
                }
                continue;
            }
            let mut slot = slot.lock();
            let waiting = slot.get_or_insert_with(|| readiness(self.fd, events));
            let (result, _) = ready!(Pin::new(waiting).poll(cx));
            *slot = None;
            to_result(result)?;
        }
    }
}

impl<T> AsyncRead for &Async<T>
where
    for<'a> &'a T: Read,
{
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_with(&self.reading, READABLE, cx, |mut io| io.read(bytes))
    }

    fn poll_read_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_with(&self.reading, READABLE, cx, |mut io| io.read_vectored(bytes))
    }
}

impl<T> AsyncWrite for &Async<T>
where
    for<'a> &'a T: Write,
    T: AsFd,
{
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_with(&self.writing, WRITABLE, cx, |mut io| io.write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_with(&self.writing, WRITABLE, cx, |mut io| io.write_vectored(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_with(&self.writing, WRITABLE, cx, |mut io| io.flush())
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_ref().get_ref().poll_with(&self.writing, WRITABLE, cx, |mut io| io.flush()))?;
        // The other side is to see the end; for what is no socket, closing does that.
        // SAFETY: no memory is involved, and the descriptor is open.
        if unsafe { libc::shutdown(self.fd, libc::SHUT_WR) } < 0 {
            let error = io::Error::last_os_error();
            if !matches!(error.raw_os_error(), Some(libc::ENOTSOCK | libc::ENOTCONN)) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T> AsyncRead for Async<T>
where
    for<'a> &'a T: Read,
    T: Unpin,
{
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_read(cx, bytes)
    }

    fn poll_read_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_read_vectored(cx, bytes)
    }
}

impl<T> AsyncWrite for Async<T>
where
    for<'a> &'a T: Write,
    T: AsFd + Unpin,
{
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_write_vectored(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_close(cx)
    }
}

/// Connects without waiting in the kernel.
async fn connect(domain: socket2::Domain, address: &socket2::SockAddr) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    let socket = Async::new(socket)?;
    loop {
        match socket.get_ref().connect(address) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                socket.writable().await?;
                return match socket.get_ref().take_error()? {
                    Some(error) => Err(error),
                    None => Ok(socket.into_inner()),
                };
            }
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            // A Unix socket's queue is full, and cannot be waited for.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                crate::Timer::after(std::time::Duration::from_millis(10)).await;
            }
            result => return result.map(|()| socket.into_inner()),
        }
    }
}

impl Async<TcpStream> {
    /// Connects to a TCP server.
    pub async fn connect(address: impl Into<SocketAddr>) -> io::Result<Self> {
        let address = address.into();
        let socket = connect(socket2::Domain::for_address(address), &address.into()).await?;
        Self::new(socket.into())
    }

    /// Reads without taking the bytes away.
    pub async fn peek(&self, bytes: &mut [u8]) -> io::Result<usize> {
        self.read_with(|io| io.peek(bytes)).await
    }
}

impl Async<UnixStream> {
    /// Connects to a Unix socket.
    pub async fn connect(path: impl AsRef<Path>) -> io::Result<Self> {
        let socket = connect(socket2::Domain::UNIX, &socket2::SockAddr::unix(path)?).await?;
        Self::new(std::os::fd::OwnedFd::from(socket).into())
    }

    /// Two sockets connected to each other.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = UnixStream::pair()?;
        Ok((Self::new(one)?, Self::new(other)?))
    }
}

impl Async<TcpListener> {
    /// Listens at an address.
    pub fn bind(address: impl Into<SocketAddr>) -> io::Result<Self> {
        Self::new(TcpListener::bind(address.into())?)
    }

    /// Waits for a client.
    pub async fn accept(&self) -> io::Result<(Async<TcpStream>, SocketAddr)> {
        let (stream, address) = self.read_with(TcpListener::accept).await?;
        Ok((Async::new(stream)?, address))
    }
}

impl Async<UnixListener> {
    /// Listens at a path, which must not exist.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::new(UnixListener::bind(path)?)
    }

    /// Waits for a client.
    pub async fn accept(&self) -> io::Result<(Async<UnixStream>, std::os::unix::net::SocketAddr)> {
        let (stream, address) = self.read_with(UnixListener::accept).await?;
        Ok((Async::new(stream)?, address))
    }
}

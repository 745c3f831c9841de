//! TLS on a socket.

use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::Connection;

use crate::stream::Socket;

/// Ciphertext that waits for the socket is at most so many bytes (and what one write adds).
const MAX_PENDING: usize = 64 << 10;

/// A socket with TLS on it, after the handshake.
pub(crate) struct TlsSession {
    socket: Socket,
    connection: Mutex<Connection>,
}

/// The socket as rustls wants it.
struct Blocking<'a>(&'a Socket);

impl Read for Blocking<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.try_recv(bytes)
    }
}

impl Write for Blocking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_send(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_send(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn tls_error(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl TlsSession {
    /// Does the handshake of a server.
    pub(crate) async fn accept(socket: Socket, config: Arc<rustls::ServerConfig>) -> io::Result<Self> {
        let connection = rustls::ServerConnection::new(config).map_err(tls_error)?;
        Self::handshake(socket, connection.into()).await
    }

    /// Does the handshake of a client that expects a server of this name.
    pub(crate) async fn connect(
        socket: Socket,
        config: Arc<rustls::ClientConfig>,
        name: &str,
    ) -> io::Result<Self> {
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("invalid host name '{name}'"))
        })?;
        let connection = rustls::ClientConnection::new(config, name).map_err(tls_error)?;
        Self::handshake(socket, connection.into()).await
    }

    async fn handshake(socket: Socket, mut connection: Connection) -> io::Result<Self> {
        connection.set_buffer_limit(Some(MAX_PENDING));
        while connection.is_handshaking() || connection.wants_write() {
            if connection.wants_write() {
                match connection.write_tls(&mut Blocking(&socket)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.writable().await?,
                    other => {
                        other?;
                    }
                }
                continue;
            }
            match connection.read_tls(&mut Blocking(&socket)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {
                    if let Err(error) = connection.process_new_packets() {
                        // Tell the peer why, if it listens.
                        let _ = connection.write_tls(&mut Blocking(&socket));
                        return Err(tls_error(error));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.readable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(Self { socket, connection: Mutex::new(connection) })
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The subject of the peer's certificate, if it has shown one.
    pub(crate) fn peer_name(&self) -> Option<String> {
        let connection = self.connection.lock();
        let certificate = connection.peer_certificates()?.first()?;
        rhea_block_objects::distinguished_name(certificate).ok()
    }

    pub(crate) fn try_recv(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut connection = self.connection.lock();
        loop {
            match connection.reader().read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            if connection.read_tls(&mut Blocking(&self.socket))? == 0 {
                // Without the peer's goodbye this is not the end, but somebody cutting the line.
                let _ = connection.process_new_packets().map_err(tls_error)?;
                return match connection.reader().read(bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        Err(io::ErrorKind::UnexpectedEof.into())
                    }
                    other => other,
                };
            }
            if let Err(error) = connection.process_new_packets() {
                let _ = connection.write_tls(&mut Blocking(&self.socket));
                return Err(tls_error(error));
            }
        }
    }

    pub(crate) fn try_send(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut connection = self.connection.lock();
        if !Self::push(&mut connection, &self.socket)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = connection.writer().write_vectored(bytes)?;
        Self::push(&mut connection, &self.socket)?;
        Ok(count)
    }

    pub(crate) fn try_flush(&self) -> io::Result<bool> {
        Self::push(&mut self.connection.lock(), &self.socket)
    }

    /// Sends ciphertext until the socket is full or nothing is left, which it answers with true.
    fn push(connection: &mut Connection, socket: &Socket) -> io::Result<bool> {
        while connection.wants_write() {
            match connection.write_tls(&mut Blocking(socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Says goodbye, as far as the socket takes it at once.
    pub(crate) fn close(&self) {
        let mut connection = self.connection.lock();
        connection.send_close_notify();
        let _ = Self::push(&mut connection, &self.socket);
    }
}

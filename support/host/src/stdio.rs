//! Standard input and output without a buffer between: what is not asked for stays with the system.

use std::io::{self, Read};

/// Unbuffered standard input.
#[derive(Debug, Default)]
pub struct Stdin(());

impl Read for Stdin {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: `buffer` is writable for its length.
        let count = unsafe { libc::read(libc::STDIN_FILENO, buffer.as_mut_ptr().cast(), buffer.len()) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }
}

/// Unbuffered standard output.
#[derive(Debug, Default)]
pub struct Stdout(());

impl io::Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // SAFETY: `bytes` is readable for its length.
        let count = unsafe { libc::write(libc::STDOUT_FILENO, bytes.as_ptr().cast(), bytes.len()) };
        if count < 0 && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock {
            wait_writable();
            return Err(io::ErrorKind::Interrupted.into());
        }
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until standard output takes bytes again: whoever gave it to us may have made it non-blocking.
fn wait_writable() {
    let mut poll = libc::pollfd { fd: libc::STDOUT_FILENO, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one valid pollfd structure.
    unsafe { libc::poll(&mut poll, 1, 1000) };
}

//! The kernel's NBD client: block devices `/dev/nbdN` whose requests go to a socket (`linux/nbd.h`).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// The type of all the driver's requests to a device.
const TYPE: u64 = 0xab;

/// A request without argument structure: `_IO(0xab, number)`.
const fn io_request(number: u64) -> libc::Ioctl {
    (TYPE << 8 | number) as libc::Ioctl
}

const SET_SOCK: libc::Ioctl = io_request(0);
const SET_BLKSIZE: libc::Ioctl = io_request(1);
const DO_IT: libc::Ioctl = io_request(3);
const CLEAR_SOCK: libc::Ioctl = io_request(4);
const CLEAR_QUE: libc::Ioctl = io_request(5);
const SET_SIZE_BLOCKS: libc::Ioctl = io_request(7);
const DISCONNECT: libc::Ioctl = io_request(8);
const SET_FLAGS: libc::Ioctl = io_request(10);

/// A device of the kernel's client.
#[derive(Debug)]
pub struct NbdDevice(File);

impl NbdDevice {
    /// Opens a device node such as `/dev/nbd0`.
    pub fn open(path: &Path) -> io::Result<Self> {
        File::options().read(true).write(true).open(path).map(Self)
    }

    fn call(&self, request: libc::Ioctl, argument: libc::c_ulong) -> io::Result<()> {
        // SAFETY: these requests take a number, no address.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument) } {
            ..0 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// Gives the device a connection in its transmission phase with simple replies: a disk of `length` bytes in blocks
    /// of `block` bytes, with the transmission flags of the handshake. On an error it has none.
    pub fn attach(&self, socket: &OwnedFd, length: u64, block: u32, flags: u16) -> io::Result<()> {
        // What an earlier user left.
        self.call(CLEAR_SOCK, 0)?;
        self.call(SET_SOCK, socket.as_raw_fd() as libc::c_ulong)?;
        let configured = self
            .call(SET_BLKSIZE, block.into())
            .and_then(|()| self.call(SET_SIZE_BLOCKS, length / u64::from(block)))
            .and_then(|()| match self.call(SET_FLAGS, flags.into()) {
                // Kernels before 2.6.32 or so.
                Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => Ok(()),
                result => result,
            });
        if configured.is_err() {
            let _ = self.call(CLEAR_SOCK, 0);
        }
        configured
    }

    /// Serves the device's users from the connection until [`NbdDevice::disconnect`], or until it breaks.
    pub fn run(&self) -> io::Result<()> {
        let result = self.call(DO_IT, 0);
        let _ = self.call(CLEAR_QUE, 0);
        let _ = self.call(CLEAR_SOCK, 0);
        match result {
            // The connection was ended on purpose.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => Ok(()),
            result => result,
        }
    }

    /// Ends the device's connection, whoever serves it.
    pub fn disconnect(&self) -> io::Result<()> {
        self.call(CLEAR_QUE, 0)?;
        self.call(DISCONNECT, 0)?;
        self.call(CLEAR_SOCK, 0)
    }
}

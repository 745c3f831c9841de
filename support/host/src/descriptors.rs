//! File descriptors that the process was started with.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// The first descriptor of a service manager that starts its services with open sockets (`sd_listen_fds(3)`).
pub const LISTEN_FDS_START: RawFd = 3;

/// Takes a descriptor that the process inherited. From now on it is closed on exec, and when it is dropped.
///
/// Everything this process opens is closed on exec; a descriptor that is not came from the parent, and nobody here owns
/// it yet. `EBADF`: there is no such descriptor, it is one of the standard three, or it was taken already.
pub fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    // Two threads must not both see the flag unset.
    static TAKING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_at_a_time = TAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if number < LISTEN_FDS_START {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: only reads a flag of a descriptor, which may be any number.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: sets a flag of a descriptor that exists.
    if unsafe { libc::fcntl(number, libc::F_SETFD, flags | libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: open, and (see above) owned by nobody in this process; the flag just set keeps it from being taken twice.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn what_the_process_opened_itself_is_not_taken() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(take_inherited(file.as_raw_fd()).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert_eq!(take_inherited(0).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert!(take_inherited(1_000_000).is_err());
    }
}

//! Locks on single bytes of a file, by which processes tell each other what they do with it.
//!
//! The locks belong to the open file description ("OFD locks"): closing some other descriptor of the same file does not
//! lose them, and two opens within one process exclude each other like two processes.

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use super::{File, check, offset_of, retry};

impl File {
    fn lock_call(
        &self,
        command: libc::c_int,
        kind: libc::c_int,
        bytes: Range<u64>,
    ) -> io::Result<libc::flock> {
        // SAFETY: `flock` is plain numbers, for which zeroes are good (`l_pid` must be 0).
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = kind as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
        lock.l_start = offset_of(bytes.start)?;
        lock.l_len = offset_of(bytes.end.saturating_sub(bytes.start))?;
        // SAFETY: our descriptor, and a structure that lives through the call.
        retry(|| check(unsafe { libc::fcntl(self.as_raw_fd(), command, &mut lock) }))?;
        Ok(lock)
    }

    /// Takes shared locks, or fails with `EAGAIN` if another has one of the bytes for itself.
    pub fn lock_shared(&self, bytes: Range<u64>) -> io::Result<()> {
        self.lock_call(libc::F_OFD_SETLK, libc::F_RDLCK, bytes).map(drop)
    }

    /// Gives locks back.
    pub fn unlock(&self, bytes: Range<u64>) -> io::Result<()> {
        self.lock_call(libc::F_OFD_SETLK, libc::F_UNLCK, bytes).map(drop)
    }

    /// Whether another open of the file has a lock, of any kind, on one of the bytes.
    pub fn is_locked_by_others(&self, bytes: Range<u64>) -> io::Result<bool> {
        let lock = self.lock_call(libc::F_OFD_GETLK, libc::F_WRLCK, bytes)?;
        Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
    }

    /// Whether the system and the file system know such locks.
    pub fn has_locks(&self) -> bool {
        self.is_locked_by_others(0..1).is_ok()
    }
}

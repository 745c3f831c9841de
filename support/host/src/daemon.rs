//! Processes that go on in the background, and the file that tells their number.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Which of the two processes this is after [`fork`].
#[derive(Debug)]
pub enum Forked {
    /// The one that was started; the other has said that it is ready, or has ended with this status.
    Parent(u8),
    /// The one that goes on.
    Child(Readiness),
}

/// The background process's way to tell its parent that it is ready.
#[derive(Debug)]
pub struct Readiness(File);

/// Splits the process in two. The parent waits until the child is ready ([`Readiness::tell`]) or has ended.
///
/// Must be called before other threads are started: they would not exist in the child. An error if there are any.
pub fn fork() -> io::Result<Forked> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("cannot go to the background: other threads run already"));
    }
    let mut ends = [0; 2];
    // SAFETY: two descriptors are written into an array of two.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and ours alone.
    let [mut reading, writing] = ends.map(|fd| File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
    // SAFETY: this is the only thread (see above), so that the child finds everything in order.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // A session of its own: the terminal's signals stay away. Cannot fail, as a child leads no group.
            // SAFETY: no memory is involved.
            unsafe { libc::setsid() };
            Ok(Forked::Child(Readiness(writing)))
        }
        child => {
            drop(writing);
            let mut ready = [0];
            if reading.read_exact(&mut ready).is_ok() {
                return Ok(Forked::Parent(0));
            }
            let mut status = 0;
            // SAFETY: the status is writable.
            while unsafe { libc::waitpid(child, &mut status, 0) } < 0 {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            // An end before being ready is a failure, whatever the child says.
            let code = if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) as u8 } else { 1 };
            Ok(Forked::Parent(code.max(1)))
        }
    }
}

impl Readiness {
    /// Lets the parent end, and the terminal go: the standard streams lead nowhere from now on.
    pub fn tell(mut self) -> io::Result<()> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        for stream in [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO] {
            // SAFETY: both are descriptors; the standard ones are nobody's property.
            if unsafe { libc::dup2(null.as_raw_fd(), stream) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        self.0.write_all(&[0])
    }
}

/// A file with the process's number, locked for as long as the process goes on, and removed in the end.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    _file: File,
}

impl PidFile {
    /// Writes the file. The error's text says what could not be done.
    pub fn create(path: &Path) -> Result<Self, String> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let reason = |error: io::Error| {
            let text = error.to_string();
            text.rfind(" (os error ").map_or(text.clone(), |at| text[..at].to_owned())
        };
        let mut file =
            file.map_err(|error| format!("Could not create '{}': {}", path.display(), reason(error)))?;
        lock_whole(&file).map_err(|error| format!("Cannot lock pid file: {}", reason(error)))?;
        file.set_len(0)
            .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()))
            .map_err(|error| format!("Failed to write pid file: {}", reason(error)))?;
        // A relative path means something else when the folder is changed.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Ok(Self { path, _file: file })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Takes a lock for writing on all of a file; `EAGAIN`: another process has it.
fn lock_whole(file: &File) -> io::Result<()> {
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the lock's description is complete and only read.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &lock) } {
        ..0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pid_file_has_our_number_and_goes_away() {
        let path = std::env::temp_dir().join(format!("rhea-pid-{}", std::process::id()));
        let file = PidFile::create(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());
        let text = PidFile::create(Path::new("/nonexistent/pid")).unwrap_err();
        assert_eq!(text, "Could not create '/nonexistent/pid': No such file or directory");
    }

    #[test]
    fn a_process_with_threads_does_not_fork() {
        // The test harness runs each test on a thread of its own.
        assert!(fork().is_err());
    }
}

//! What can go wrong with a disk image: an error number for the guest or the exit status, and a line for a person.

use std::fmt;

/// The result of block layer operations.
pub type Result<T, E = BlockError> = std::result::Result<T, E>;

/// An error of the block layer.
///
/// Its text reads like QEMU's: what was tried, then (where the system said so) the system's reason, as in
/// `Could not open 'a.img': No such file or directory`.
#[derive(Clone, PartialEq, Eq)]
pub struct BlockError {
    errno: i32,
    /// Empty: the system's text for `errno` says it all.
    message: String,
    hint: Option<String>,
}

impl BlockError {
    /// An error that explains itself; `errno` is one of libc's numbers (positive).
    pub fn new(errno: i32, message: impl Into<String>) -> Self {
        Self { errno, message: message.into(), hint: None }
    }

    /// An error of the system, with the system's text.
    pub fn os(errno: i32) -> Self {
        Self { errno, message: String::new(), hint: None }
    }

    /// A mistake in what was asked for (`EINVAL`).
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(libc::EINVAL, message)
    }

    /// An image that is not as its format says (`EINVAL`); the message names the field.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(libc::EINVAL, message)
    }

    /// Something the node, or Rhea, cannot do (`ENOTSUP`).
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(libc::ENOTSUP, message)
    }

    /// The system's error number.
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// Whether this is `ENOTSUP`, upon which callers take another way.
    pub fn is_unsupported(&self) -> bool {
        self.errno == libc::ENOTSUP
    }

    /// Puts what was tried before the reason: `what: reason`.
    #[must_use]
    pub fn context(self, what: impl fmt::Display) -> Self {
        Self { message: format!("{what}: {self}"), ..self }
    }

    /// Adds a line that helps the user on; printed below the error.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What may help.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

/// The system's text for an error number, without the number.
pub fn errno_text(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    match text.rfind(" (os error ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => f.write_str(&errno_text(self.errno)),
            message => f.write_str(message),
        }
    }
}

impl fmt::Debug for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} (errno {})", self.errno)
    }
}

impl std::error::Error for BlockError {}

impl From<std::io::Error> for BlockError {
    fn from(error: std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::os(errno),
            None => Self::new(libc::EIO, error.to_string()),
        }
    }
}

impl From<rhea_options::OptionError> for BlockError {
    fn from(error: rhea_options::OptionError) -> Self {
        Self::invalid(error.to_string())
    }
}

/// Adds context to results.
pub trait ResultExt<T> {
    /// Puts what was tried before the reason of an error: `what: reason`.
    fn context(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<BlockError>> ResultExt<T> for Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.into().context(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_was_tried_and_why_it_failed() {
        let error = BlockError::os(libc::ENOENT).context("Could not open 'a'");
        assert_eq!(error.to_string(), "Could not open 'a': No such file or directory");
        assert_eq!(error.errno(), libc::ENOENT);
        assert_eq!(BlockError::invalid("bad").context("x").to_string(), "x: bad");
    }
}

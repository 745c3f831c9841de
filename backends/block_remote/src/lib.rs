//! Disks on other machines that are reached by a file transfer protocol.
//!
//! * [`HttpDriver`]: `http` and `https`, to read, by requests for ranges of bytes.
//! * [`FtpDriver`]: `ftp` and `ftps`, refused by name.

mod http;
mod http_client;
mod readahead;
mod url;

pub use http::{FtpDriver, HttpDriver};

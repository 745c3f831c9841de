//! Disks on other machines that are reached by a file transfer protocol.
//!
//! * [`HttpDriver`]: `http` and `https`, to read, by requests for ranges of bytes.
//! * [`SshDriver`]: `ssh`, to read and write, by SFTP.
//! * [`FtpDriver`]: `ftp` and `ftps`, refused by name.

mod http;
mod http_client;
mod readahead;
mod ssh;
mod ssh_host_key;
mod ssh_session;
mod url;

pub use http::{FtpDriver, HttpDriver};
pub use ssh::SshDriver;
pub use ssh_session::SshPlaces;

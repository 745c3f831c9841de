//! The NBD protocol: a server for disks, and a driver for disks of other servers.
//!
//! * [`Server`] offers [`Export`]s to clients at [`Listener`]s.
//! * [`NbdDriver`] (`driver=nbd`) opens an export of a server as a node.
//!
//! Source: the NBD project's `doc/proto.md`, and its branch `extension-ext-header`.

mod address;
mod client;
mod credentials;
pub mod protocol;
mod receive;
pub mod robustness;
mod server;
mod stream;
mod tls;

pub use address::{Address, Listener};
pub use client::{ClientTls, ExportDetails, ListedExport, NbdDriver, connect_simple, list};
pub use credentials::{client_tls, server_tls};
pub use server::{Export, ExportOptions, Server, ServerConfig};
pub use stream::Stream;

//! The NBD protocol: client and server.

//! Asynchronous I/O for what serves a machine's disks and connections.
//!
//! * [`IoVector`] and [`IoView`]: memory that the kernel reads from or writes into, scattered or not.
//! * [`block_on`] and [`spawn`]: an executor on each thread that needs one.
//! * [`File`]: reads, writes and flushes of files.
//! * [`unblock`]: work that would hold up the executor (compression, key derivation, file systems without an asynchronous
//!   way in) goes to a pool of threads.
//! * [`Timer`] and [`Async`]: deadlines, and readiness of sockets.

mod buffer;
mod executor;
mod file;

pub use async_io::{Async, Timer};
pub use buffer::{IoVector, IoView, MemoryOwner};
pub use executor::{Task, block_on, spawn, unblock};
pub use file::{Extent, File, FileStatus, OpenOptions};

//! Asynchronous I/O for what serves a machine's disks and connections.
//!
//! * [`IoVector`] and [`IoView`]: memory that the kernel reads from or writes into, scattered or not.
//! * [`block_on`] and [`spawn`]: an executor on each thread that needs one. It waits in an io_uring, through which file
//!   operations go as well; where the kernel has none (or `RHEA_IO_URING=off`), it waits by `poll`, and threads do them.
//! * [`Executor`]: an executor with a thread of its own.
//! * [`File`]: reads, writes and flushes of files.
//! * [`unblock`]: work that would hold up the executor (compression, key derivation, file systems without an asynchronous
//!   way in) goes to a pool of threads.
//! * [`Timer`] and [`Async`]: deadlines, and readiness of sockets.

mod buffer;
mod executor;
mod file;
mod operation;
mod pool;
mod reactor;
mod region;
mod ring;
mod socket;
mod timer;

pub use buffer::{IoVector, IoView, MemoryOwner};
pub use executor::{DedicatedThread, Executor, Task, block_on, spawn, take_turns};
pub use file::{DirectAlignment, Extent, File, FileStatus, OpenOptions};
pub use pool::{unblock, unblock_io};
pub use socket::Async;
pub use timer::Timer;

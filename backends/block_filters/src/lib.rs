//! Filter nodes: `throttle`, `copy-on-read`, `compress`, `preallocate`, `quorum`, and, for tests, `blkdebug` and
//! `blkverify`.

mod blkdebug;
mod blkverify;
mod compress;
mod copy_on_read;
mod filter;
mod preallocate;
mod quorum;
mod throttle;

pub use blkdebug::{Blkdebug, BlkdebugDriver, EVENTS};
pub use blkverify::BlkverifyDriver;
pub use compress::CompressDriver;
pub use copy_on_read::{CopyOnReadDriver, copy_on_read};
pub use filter::{Filter, FilterNode};
pub use preallocate::PreallocateDriver;
pub use quorum::QuorumDriver;
pub use throttle::ThrottleDriver;

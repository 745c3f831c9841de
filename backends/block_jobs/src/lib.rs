//! Jobs on the block graph: `mirror`, `commit`, `stream`, `backup`, `create`, `amend`.
//!
//! A job is a future; its [`Control`] is what others hold of it: progress, rate limit, pause, cancel, complete.

mod backup;
mod commit;
mod copy;
mod image;
mod job;
mod mirror;
mod stream;

pub use backup::{Backup, Scope};
pub use commit::Commit;
pub use copy::{How, copy_range};
pub use image::{amend, create};
pub use job::{Control, JobKind, JobStatus};
pub use mirror::{Mirror, Sync};
pub use stream::Stream;

//! Exports of disks to others on the same host: as a regular file ([`FuseExport`]), and as a disk of a virtual machine
//! ([`VhostUserBlkExport`]).

mod fuse;
mod hold;
mod vhost_user_blk;

pub use fuse::{AllowOther, FuseExport, FuseOptions};
pub use vhost_user_blk::{VhostUserBlkExport, VhostUserBlkOptions, VhostUserSocket};

//! Exports of disks: fuse and vhost-user-blk.

//! `qemu-io`: requests to a disk image by hand.

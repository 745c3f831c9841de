//! `qemu-nbd`: serve a disk image.

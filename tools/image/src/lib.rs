//! `qemu-img`: what people do with disk images.

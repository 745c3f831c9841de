//! Changing the options of an image that is there (`qemu-img amend`).

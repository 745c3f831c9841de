//! The operating system as the rest of Rhea sees it: memory mappings, signals, terminals, threads.
//!
//! Nothing here knows of virtual machines. Every other crate reaches the kernel through this one, so that
//! `unsafe` system calls stand in one place.

pub mod daemon;
pub mod descriptors;
pub mod mapping;
pub mod nbd_device;
pub mod signals;
pub mod stdio;
pub mod terminal;
pub mod time;

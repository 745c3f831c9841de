//! Unit tests over a flat memory.

mod control;
mod delivery;
mod paging;
mod segmentation;
mod smm;
mod tasks;

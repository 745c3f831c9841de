//! Unit tests over a flat memory.

mod control;
mod delivery;
mod hostile;
mod paging;
mod segmentation;
mod smm;
mod tasks;

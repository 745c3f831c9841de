//! Unit tests over a flat memory.

mod delivery;
mod paging;

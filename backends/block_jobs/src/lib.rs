//! Jobs on the block graph.

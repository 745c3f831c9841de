//! Filter nodes.

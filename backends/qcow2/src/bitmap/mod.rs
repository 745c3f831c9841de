//! Persistent dirty bitmaps.

//! Snapshots within an image: the snapshot table.

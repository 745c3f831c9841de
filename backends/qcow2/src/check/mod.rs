//! Checking and repairing an image.

//! The qcow2 image format, versions 2 and 3.

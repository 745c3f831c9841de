//! The qcow2 image format, versions 2 and 3.

mod amend;
mod bitmap;
mod check;
mod geometry;
mod header;
mod image;
mod snapshot;

pub use geometry::{Geometry, Kind, L2Entry};
pub use header::{
    Autoclear, BitmapsExtension, Compatible, CompressionType, CryptMethod, EncryptionHeader, Header,
    Incompatible,
};

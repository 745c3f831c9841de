//! The qcow2 image format, versions 2 and 3.

mod amend;
mod bitmap;
mod check;
mod counts;
mod geometry;
mod header;
mod image;
mod snapshot;
mod structures;
mod transaction;

pub use geometry::{Geometry, Kind, L2Entry};
pub use header::{
    Autoclear, BitmapsExtension, Compatible, CompressionType, CryptMethod, EncryptionHeader, Header,
    Incompatible,
};

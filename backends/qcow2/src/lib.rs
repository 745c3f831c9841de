//! The qcow2 image format, versions 2 and 3.

mod amend;
mod bitmap;
mod cache;
mod check;
mod compress;
mod copy_in;
mod counts;
mod create;
mod downgrade;
mod driver;
mod encryption;
mod finish;
mod fuzz;
mod geometry;
mod header;
mod image;
mod in_flight;
mod mapping;
mod measure;
mod node;
mod options;
mod overlap;
mod read;
mod refcount;
mod refcount_bits;
mod release;
mod snapshot;
mod status;
mod stored_header;
mod structures;
mod transaction;
mod truncate;
mod write;
mod write_back;
mod zero;

pub use driver::Qcow2Driver;
pub use fuzz::fuzz_image;
pub use geometry::{Geometry, Kind, L2Entry};
pub use header::{
    Autoclear, BitmapsExtension, Compatible, CompressionType, CryptMethod, EncryptionHeader, Header,
    Incompatible,
};

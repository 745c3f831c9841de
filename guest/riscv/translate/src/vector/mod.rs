//! Vector instructions.

mod call;
mod table;

pub use call::{Destination, Source, VectorCall};

//! Vector instructions.

mod call;
mod fallback;
mod table;

pub use call::{Destination, Source, VectorCall};

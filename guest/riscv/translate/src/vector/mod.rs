//! Vector instructions.

mod call;
mod dispatch;
mod emit;
mod floats;
mod inline;
mod masks;
mod reasons;
mod runtime;
mod table;
#[cfg(test)]
mod tests;
mod widths;

pub use call::{Destination, Source, VectorCall};

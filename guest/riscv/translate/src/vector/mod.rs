//! Vector instructions.

mod call;
mod dispatch;
mod emit;
mod floats;
mod inline;
mod masks;
pub(crate) mod runtime;
mod table;
#[cfg(test)]
mod tests;
mod translate;
mod widths;

pub use call::{Destination, Source, VectorCall};
pub(crate) use emit::Known;

#![doc = include_str!("../README.md")]

mod build;
mod check;
mod condition;
mod cube;
mod cursor;
mod declaration;
mod emit;
mod error;
#[cfg(test)]
mod naive;
mod parse;
mod resolve;
mod resolve_field;
mod table;
mod token;
mod tree;

#[cfg(test)]
mod tests;

pub use build::{Source, build, generate};
pub use error::{Error, Errors};

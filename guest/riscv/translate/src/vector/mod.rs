//! Vector instructions.
//!
//! - `table`: each instruction, by the format of its operands; `call`: what it is to `rhea-riscv-vector`.
//! - `translate`: what mstatus says of an instruction, and the traits' methods.
//! - `emit`: what a unit knows of vtype and vl, and how it comes to know it.
//! - `dispatch`: vsetvli and its kin, loads and stores, and which instructions call a helper (`runtime`).
//! - `segments`: segment loads and stores of whole vectors; `scattered`: loads and stores of a few elements that do not lie
//!   one after the other.
//! - `inline`, `masks`, `permutes`, `widths`, `shifts`, `bits`, `saturation`, `reductions`, `floats`: operations on whole registers.

mod bits;
mod call;
mod dispatch;
mod emit;
mod floats;
mod inline;
mod masks;
mod permutes;
mod reductions;
pub(crate) mod runtime;
mod saturation;
mod scattered;
mod segments;
mod shifts;
mod table;
#[cfg(test)]
mod tests;
mod translate;
mod widths;

pub use call::{Destination, Source, VectorCall};
pub(crate) use emit::Known;

//! IEEE 754 arithmetic in integers only, exact to the last bit and the last flag.
//!
//! A guest's floating point must not depend on the host's: results, NaN payloads, exception flags and rounding are
//! the guest's. This crate computes them for the binary interchange formats [`F16`], [`Bf16`], [`F32`], [`F64`] and
//! for the x87 double extended format [`F80`], under an [`Env`] that says which architecture's rules apply.
//!
//! # Shape
//! Every operation is three steps: *unpack* the operands into a sign, an exponent and a 64-bit normalized
//! significand; compute an exact or sticky 128-bit significand; *round and pack* once. Rounding, overflow, underflow
//! and flush-to-zero live in one function (`round.rs`), NaN selection in another (`nan.rs`), so that an
//! architecture's peculiarity is written once for all operations and formats.
//!
//! # Invariants
//! - No operation panics or loops without bound, whatever the bit pattern.
//! - [`Env::flags`] is sticky: operations only ever add to it.
//! - A 128-bit significand handed to rounding has its top bit set, and its lowest bit is the OR of everything that
//!   was shifted out below it. The widest precision is 64 bits, so at least two exact bits stand between the last
//!   kept bit and the sticky one.
//!
//! # Limits
//! Binary128 and the decimal formats are not here. The transcendental functions of [`x87`] are within 0.501 units in the
//! last place, not bit-exact to one processor.

mod arithmetic;
mod compare;
mod convert;
mod env;
mod format;
mod integer;
mod nan;
mod remainder;
mod round;
pub mod x87;

pub use arithmetic::{Negate, add, div, fma, mul, sqrt, sub};
pub use compare::{MinMaxRule, Relation, compare_quiet, compare_signaling, max, min};
pub use convert::{convert, round_to_integral, scale};
pub use env::{Env, Flags, NanRule, OutOfRange, Precision, Rounding, Tininess};
pub use format::{Bf16, F16, F32, F64, F80, Float};
pub use integer::{from_i64, from_u64, to_signed, to_unsigned};
pub use remainder::{remainder, truncated_remainder};

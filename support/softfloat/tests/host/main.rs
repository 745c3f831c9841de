//! Every operation against the x86-64 processor the tests run on: results and exception flags, bit for bit, over all
//! pairs of edge values and many random ones, in all rounding modes.
#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code, reason = "the reference is the processor itself, reached by inline assembly")]

mod fma;
mod sse;
mod values;
mod x87;

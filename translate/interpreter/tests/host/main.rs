//! Vector, floating-point and cryptographic operations against the instructions of the x86-64 processor the tests run
//! on, each through a whole unit: slots in, operation, slot out, sticky flags.
#![cfg(target_arch = "x86_64")]
#![allow(unsafe_code, reason = "the reference is the processor itself, reached by intrinsics")]

mod bench;
mod crypto;
mod float;
mod lanes;
mod shuffle;

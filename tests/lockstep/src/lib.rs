//! Oracles of the translator: x86 instructions executed by the host processor and by Rhea from the same state, and
//! units of the IR executed by the interpreter and by compiled code, compared bit for bit.
//!
//! - [`state`]: the register state both sides start from and end in.
//! - [`place`]: the addresses that code and data have on both sides, so that pointers compare.
//! - [`host`]: execution by the processor that runs the tests.
//! - [`rhea`]: execution by Rhea.
//! - [`random`]: deterministic random numbers, and values worth trying.
//! - [`catalogue`]: which instructions are tested.
//! - [`encode`]: instructions with random operands.
//! - [`generate`]: a start state in which an instruction does something worth comparing.
//! - [`stream`]: several instructions, and loops.
//! - [`undefined`]: what the manuals leave open.
//! - [`gaps`]: defects that are known.
//! - [`properties`]: what holds for any input: the bodies of the fuzz targets.
//! - [`compare`]: all of it together.

pub mod catalogue;
pub mod compare;
pub mod encode;
pub mod gaps;
pub mod generate;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub mod host;
pub mod place;
pub mod properties;
pub mod random;
pub mod rhea;
pub mod state;
pub mod stream;
pub mod undefined;

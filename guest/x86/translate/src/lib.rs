//! The x86 guest of the translator: instructions decoded to IR, and the glue between the engine and the privileged
//! semantics of `rhea-x86-system`.
//!
//! How a unit comes to be: [`unit::translate`] decodes one instruction after another into a [`Translator`], which
//! dispatches on the mnemonic to a function of the module for its family. Operands, effective addresses and memory
//! are in `operand`, condition flags in `cc`, helpers (Rust functions that translated code calls) in [`helpers`].

mod bits;
mod branch;
pub mod cc;
pub mod cpu;
pub mod disassembly;
pub mod features;
mod flag_insns;
pub mod guest;
pub mod helpers;
mod integer;
pub mod operand;
mod product;
pub mod reasons;
mod runtime;
pub mod save;
mod shift;
pub mod slots;
mod stack;
mod string;
mod system;
mod trace;
pub mod translator;
pub mod unit;
mod vector;
pub mod vector_calls;
pub mod vector_helpers;
mod x87;

pub use cpu::{Board, X86Cpu, X86CpuConfig};
pub use guest::X86Guest;
pub use translator::Translator;

#[cfg(test)]
mod tests;

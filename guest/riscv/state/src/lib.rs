//! The RISC-V hart as data: registers, CPU models and their extensions, the ISA string, the debugger's view.
//!
//! This crate knows nothing of translation or of a board. What CSRs and traps *do* is in `rhea-riscv-system`.
//!
//! What stands: the register file at fixed offsets ([`state`]), the models `rv64`, `rv32`, `max`, `rva22s64` and
//! `rva23s64` with their extension switches ([`model`], [`extension`]), the device tree's ISA strings ([`isa`]), the
//! description for GDB ([`gdb`]), and the interrupt lines that a board drives from its own threads ([`platform`]).
//!
//! What does not: which instructions a translator has is its own
//! knowledge; it asks [`CpuModel::require_within`] before it takes a model. [`CpuModel::profile_gaps`] says by
//! what a hart falls short of the profile that it is named for. SXLEN and UXLEN are always MXLEN, and memory is little-endian.

pub mod csr;
pub mod extension;
pub mod gdb;
pub mod isa;
pub mod masking;
pub mod model;
mod models;
pub mod platform;
mod rules;
pub mod state;

pub use extension::{Extension, ExtensionSet};
pub use model::CpuModel;
pub use platform::InterruptLines;
pub use state::RiscvState;

#[cfg(test)]
mod model_tests;

//! The x86 processor as data: registers, mode word, condition-flag encoding, CPU models.
//!
//! This crate knows nothing of translation. What KVM, migration and the debugger need of a vCPU is here;
//! what instructions *do* is in `rhea-x86-system` (privileged semantics) and `rhea-x86-translate` (decode to IR).

pub mod control;
pub mod cpuid;
pub mod features;
pub mod flags;
pub mod gdb;
pub mod mode;
pub mod model;
mod models;
pub mod msr;
pub mod platform;
pub mod state;
pub mod topology;

pub use model::CpuModel;
pub use state::X86State;
pub use topology::CpuTopology;

#[cfg(test)]
mod model_tests;

//! The translating accelerator: one thread per vCPU, each running the engine's dispatcher.
//!
//! [`create`] makes the vCPUs of any guest; each guest's module says what its vCPUs are wired to.

mod create;
mod group;
pub mod riscv;
pub mod x86;

pub use create::{CreateError, Seed, Settings, Vcpus, create};
pub use group::{Reset, TranslatedVcpus};

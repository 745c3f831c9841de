//! The translating accelerator: one thread per vCPU, each running the engine's dispatcher.

mod group;
pub mod x86;

pub use group::TranslatedVcpus;

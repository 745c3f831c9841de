//! The engine on a toy processor: proves that it knows no guest, and tests it by itself on every tier.

mod chaining;
mod counting;
mod events;
mod guest;
mod machine;
mod self_modifying;
mod smp;
mod tlb;
mod tracing;

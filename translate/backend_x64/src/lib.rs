//! Tier 1: IR to x86-64 host code, in one linear pass.

pub mod asm;
pub mod layout;

pub use layout::{
    Features, Frame, HelperTarget, Layout, MAX_HOT, MemoryModel, PatchSite, ReturnKind, ThunkAddresses,
    jump_cache_index,
};

//! (placeholder until the compiler lands)
use crate::layout::{Layout, ThunkAddresses};
/// Emitted thunks.
pub struct Thunks {
    /// Code.
    pub code: Vec<u8>,
    /// Addresses.
    pub addresses: ThunkAddresses,
}
/// Emits the thunks.
pub fn emit_thunks(_: &Layout, _: u64) -> Thunks {
    Thunks { code: Vec::new(), addresses: ThunkAddresses::default() }
}

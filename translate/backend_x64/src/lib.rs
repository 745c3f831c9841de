//! Tier 1: IR to x86-64 host code, in one linear pass.

pub mod asm;
pub mod layout;

pub use layout::{
    Features, Frame, HelperTarget, Layout, MAX_HOT, MemoryModel, PatchSite, ReturnKind, ThunkAddresses,
    jump_cache_index,
};
pub mod thunks;
/// Not supported.
pub struct Unsupported;
/// Result.
pub struct Compiled<'a> {
    /// Code.
    pub code: &'a [u8],
    /// Sites.
    pub sites: &'a [PatchSite],
}
/// Compiler.
pub struct Compiler;
impl Compiler {
    /// New.
    pub fn new(_: Layout, _: Vec<HelperTarget>) -> Self {
        Compiler
    }
    /// Compile.
    pub fn compile(&mut self, _: &rhea_ir::Unit, _: u64, _: u32) -> Result<Compiled<'_>, Unsupported> {
        Err(Unsupported)
    }
}

//! Tier 1: IR to x86-64 host code, in one linear pass.
//!
//! A [`Compiler`] turns a [`Unit`](rhea_ir::Unit) into bytes; placing them in executable memory, patching
//! [`PatchSite`]s and running them is the engine's business. The pipeline of one unit:
//!
//! 1. [`prepass`]: aliases, dead code and dead stores, reference counts, hints (two passes over the operations);
//! 2. [`emitter`]: one pass forward that allocates registers ([`alloc`], [`slots`]) and emits the straight path
//!    (`emit_*`), noting what belongs out of line;
//! 3. [`cold`]: TLB misses, faults, side exits and stubs, after the straight path.
//!
//! Hot guest slots are pinned to host registers across units; other slots are loaded when first needed and stored
//! only where the unit can be left. What translated code and the engine agree on is in [`layout`]; the shared entry
//! and exit code in [`thunks`].

mod alloc;
pub mod asm;
mod cold;
mod emit_call;
mod emit_compare;
mod emit_exit;
mod emit_float;
mod emit_int;
mod emit_mem;
mod emit_muldiv;
mod emit_slot;
mod emit_vec;
mod emit_x87;
mod emitter;
pub mod layout;
mod prepass;
mod slots;
pub mod thunks;
mod vector_opcodes;

pub use emitter::Unsupported;
pub use layout::{
    Features, Frame, HelperTarget, Layout, MAX_HOT, MemoryModel, PatchSite, ReturnKind, ThunkAddresses,
    jump_cache_index,
};
pub use thunks::emit_thunks;

use emitter::{Buffers, Emitter};
use rhea_ir::Unit;

/// Compiles units, one after another, in the same buffers.
pub struct Compiler {
    layout: Layout,
    helpers: Vec<HelperTarget>,
    buffers: Buffers,
}

/// Host code of one unit; valid until the next one is compiled.
#[derive(Debug)]
pub struct Compiled<'a> {
    /// The code; its entry is the first byte. Correct only at the address it was compiled for.
    pub code: &'a [u8],
    /// Direct jumps that can be patched.
    pub sites: &'a [PatchSite],
}

impl Compiler {
    /// A compiler for units that call `helpers` (by index) and run under `layout`.
    ///
    /// # Panics
    /// If `layout` names more than [`MAX_HOT`] hot slots.
    pub fn new(layout: Layout, helpers: Vec<HelperTarget>) -> Self {
        assert!(layout.hot.len() <= MAX_HOT, "too many hot slots");
        Compiler { layout, helpers, buffers: Buffers::default() }
    }

    /// What was given to [`Compiler::new`].
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Chooses whether exits return to the dispatcher every time ([`Layout::no_chain`]).
    pub fn set_no_chain(&mut self, no_chain: bool) {
        self.layout.no_chain = no_chain;
    }

    /// Compiles `unit`, verified, to run at address `base`. Patchable exits report identifiers from `first_exit_id`
    /// up, in the order of [`Compiled::sites`].
    ///
    /// # Errors
    /// [`Unsupported`] if an operation has no host code; the unit has to be interpreted.
    pub fn compile(
        &mut self,
        unit: &Unit,
        base: u64,
        first_exit_id: u32,
    ) -> Result<Compiled<'_>, Unsupported> {
        let buffers = std::mem::take(&mut self.buffers);
        let mut emitter = Emitter::new(unit, &self.layout, &self.helpers, base, first_exit_id, buffers);
        let result = emitter.run();
        self.buffers = emitter.into_buffers();
        result?;
        Ok(Compiled { code: &self.buffers.asm.code, sites: &self.buffers.sites })
    }
}

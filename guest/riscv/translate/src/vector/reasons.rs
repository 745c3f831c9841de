//! (to be merged)
pub(crate) const RESUME: u32 = 0;
pub(crate) const VECTOR_STEP: u32 = 0x200;

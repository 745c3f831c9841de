//! x87, MMX, SSE and AVX: the entry from the dispatcher.

use crate::translator::Translator;

impl Translator<'_> {
    /// Translates the instruction at hand if it is one of these; false if it is not known here.
    pub(crate) fn vector(&mut self) -> bool {
        false
    }
}

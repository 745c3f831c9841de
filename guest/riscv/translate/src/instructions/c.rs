//! `tables/c.isa`: the only compressed instruction that stands for no other.

use crate::translator::UnitTranslator;
use crate::{CMop, TranslateC};

impl TranslateC for UnitTranslator<'_> {
    /// Writes nothing until an extension says what (Zcmop).
    fn c_mop(&mut self, _: CMop) {}
}

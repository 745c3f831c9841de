//! What vector instructions are until they are translated: illegal.

use crate::translator::UnitTranslator;
use crate::*;

macro_rules! illegal {
    ($($format:ident { $($method:ident $variant:ident $($operation:ident)? $(($($more:tt)*))?;)* })*) => {
        $($(
            fn $method(&mut self, _: $format) {
                self.illegal();
            }
        )*)*
    };
}

impl TranslateV for UnitTranslator<'_> {
    crate::vector::table::instructions_of_v!(illegal);
}

impl TranslateZvk for UnitTranslator<'_> {
    crate::vector::table::instructions_of_zvk!(illegal);
}

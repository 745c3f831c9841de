//! Integer instructions: the dispatcher.

use iced_x86::Mnemonic;

use crate::translator::Translator;

impl Translator<'_> {
    /// Translates the instruction at hand if it is one of these; false if it is not known here.
    pub(crate) fn integer(&mut self) -> bool {
        match self.insn.mnemonic() {
            Mnemonic::Nop => {}
            Mnemonic::Mov => {
                let v = self.read_operand(1);
                self.write_operand(0, v);
            }
            _ => return false,
        }
        true
    }
}

//! Vectors.
use crate::asm::{Cc, Map, Pp, VOpcode, Xmm};
use crate::emitter::{Emitter, Unsupported};
use rhea_ir::{Inst, Type};

impl Emitter<'_> {
    pub fn emit_vector(&mut self, i: &Inst) -> Result<(), Unsupported> {
        Err(self.unsupported(i))
    }
    pub fn emit_vector_select(&mut self, i: &Inst) -> Result<(), Unsupported> {
        Err(self.unsupported(i))
    }
    pub fn emit_float_test(&mut self, _: &Inst) -> Cc {
        Cc::E
    }
    pub fn load_vector_const(&mut self, _ty: Type, _imm: u64, x: Xmm) {
        self.vmov(VOpcode::new(Pp::None, Map::M0F, 0x57), false, x, x);
    }
}

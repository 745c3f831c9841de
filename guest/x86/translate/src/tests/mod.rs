//! Tests of the front end as a whole.

mod arbitrary;
mod golden;
mod machine;

use crate::features::InstructionSet;
use crate::{helpers, unit};
use rhea_ir::{Builder, verify};

/// Translates `code` at `pc` under `mode` and verifies the unit; its text.
pub(crate) fn translate(code: &[u8], pc: u64, mode: u64, max_insns: u32) -> String {
    let mut b = Builder::new();
    b.start(pc);
    unit::translate(&InstructionSet::all(), &mut b, code, pc, mode, max_insns).expect("enough bytes");
    let infos = helpers::infos();
    if let Err(e) = verify(&b.unit, &infos) {
        panic!("{e} in {code:02x?} under {mode:#x}:\n{}", rhea_ir::text::print(&b.unit, &infos));
    }
    rhea_ir::text::print(&b.unit, &infos)
}

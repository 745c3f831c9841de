//! `tables/v.isa` and `tables/zvk.isa`: what mstatus says first, then the instruction itself.

use rhea_ir::Exit;
use rhea_riscv_state::csr as number;
use rhea_riscv_state::masking::Masking;
use rhea_riscv_state::state::{mode, mstatus};
use rhea_riscv_vector::memory::Addressing::{
    FaultOnlyFirst, Indexed, Mask as MaskBits, Strided, UnitStride, Whole,
};
use rhea_riscv_vector::{Numbers, Op::*};

use crate::translator::UnitTranslator;
use crate::vector::call::{Operands, Registers, SetVl, VectorCall};
use crate::vector::dispatch::Outcome;
use crate::vector::emit::{Emitter, Length, Rounding, VL, VTYPE};
use crate::vector::table::{instructions_of_v, instructions_of_zvk};
use crate::{
    AccVf, AccVv, AccVx, CarryVf, CarryVi, CarryVv, CarryVx, Count, Csr, ExtractF, ExtractX, Index, MaskVf,
    MaskVi, MaskVv, MaskVx, PlainV2, PlainVi, PlainVu, PlainVv, PlainVx, R, SplatF, SplatI, SplatV, SplatX,
    TranslateV, TranslateZvk, V2, VIndexed, VIndexedStore, VLoad, VStore, VStrided, VStridedStore,
    VWholeLoad, VWholeStore, Vf, Vi, Vsetivli, Vsetvli, Vu, Vu6, Vv, Vx, Xreg, reasons,
};

impl UnitTranslator<'_> {
    fn vector_call(&mut self, call: VectorCall) {
        let floats = matches!(call, VectorCall::Compute { operation, .. } if operation.op.numbers() != Numbers::Integer);
        let frm = (self.mode & mode::FRM) >> mode::FRM_SHIFT;
        let allowed = self.mode & mode::VECTOR != 0 && (!floats || (self.mode & mode::FP != 0 && frm < 5));
        if !allowed {
            return self.illegal();
        }
        if !self.is_dirty(floats) {
            return;
        }
        let outcome = Emitter {
            b: self.b,
            config: self.config,
            mem: self.mem,
            masking: Masking::of_mode(self.mode),
            pc: self.pc,
            next_pc: self.next_pc,
            bits: self.bits,
            rounding: if frm < 4 { Rounding::Host } else { Rounding::Software },
            known: &mut self.vector,
        }
        .call(call);
        if outcome == Outcome::Illegal {
            self.illegal();
        }
    }

    /// csrr of vl, vtype and vlenb, which are fields or constants; false if it is another.
    pub(crate) fn read_vector_csr(&mut self, rd: Xreg, csr: Csr) -> bool {
        if self.mode & mode::VECTOR == 0 || self.is_rv32() {
            return false;
        }
        let value = match (csr.0, self.vector.length) {
            (number::VL, Length::Elements(n)) => self.c64(n),
            (number::VL, _) => self.b.get(VL),
            (number::VTYPE, _) => self.b.get(VTYPE),
            (number::VLENB, _) => self.c64(u64::from(self.config.vlen / 8)),
            _ => return false,
        };
        self.set_x(rd, value);
        true
    }

    /// Vector state, and the floating-point state if `floats`, counts as changed by every instruction. Where it is not
    /// marked yet, it is now, and the instruction is begun anew under another mode.
    fn is_dirty(&mut self, floats: bool) -> bool {
        let (bits, fields) = if floats {
            (mode::VECTOR_DIRTY | mode::FP_DIRTY, mstatus::VS | mstatus::FS)
        } else {
            (mode::VECTOR_DIRTY, mstatus::VS)
        };
        if self.mode & bits == bits {
            return true;
        }
        self.mark_dirty(fields, bits);
        self.b.exit(Exit::Leave { reason: reasons::RESUME, pc: Some(self.pc) });
        false
    }
}

macro_rules! methods {
    ($($format:ident { $($method:ident $variant:ident $kind:expr;)* })*) => {$($(
        fn $method(&mut self, a: $format) {
            self.vector_call(a.with($kind));
        }
    )*)*};
}

impl TranslateV for UnitTranslator<'_> {
    instructions_of_v!(methods);
}

impl TranslateZvk for UnitTranslator<'_> {
    instructions_of_zvk!(methods);
}

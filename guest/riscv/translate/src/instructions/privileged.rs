//! `tables/privileged.isa`. What H adds never comes here: no hart has it.

use rhea_ir::{Type, Val};

use crate::translator::UnitTranslator;
use crate::{Hlv, Hsv, TranslatePrivileged, TwoSources, Xreg, helpers, reasons};

impl UnitTranslator<'_> {
    /// SFENCE.VMA and SINVAL.VMA.
    fn fence_translations(&mut self, a: TwoSources, invalidate: bool) {
        let (vaddr, asid) = (self.x64(a.rs1), self.x64(a.rs2));
        let given = |r: Xreg| u64::from(r.0 != 0);
        let which = given(a.rs1) | given(a.rs2) << 1 | u64::from(invalidate) << 2;
        let request = self.c64(which | u64::from(self.bits) << 32);
        self.helper(helpers::SFENCE, &[vaddr, asid, request]);
        self.leave_after();
    }

    fn order_invalidations(&mut self) {
        let bits = self.bits();
        self.helper(helpers::SFENCE_INVAL, &[bits]);
    }

    fn bits(&mut self) -> Val {
        self.b.iconst(Type::I64, self.bits.into())
    }
}

impl TranslatePrivileged for UnitTranslator<'_> {
    fn mret(&mut self) {
        self.leave(reasons::MRET);
    }

    fn wfi(&mut self) {
        self.leave(reasons::WFI);
    }

    fn sret(&mut self) {
        self.leave(reasons::SRET);
    }

    fn sfence_vma(&mut self, a: TwoSources) {
        self.fence_translations(a, false);
    }

    fn sinval_vma(&mut self, a: TwoSources) {
        self.fence_translations(a, true);
    }

    fn sfence_w_inval(&mut self) {
        self.order_invalidations();
    }

    fn sfence_inval_ir(&mut self) {
        self.order_invalidations();
    }

    fn hinval_vvma(&mut self, _: TwoSources) {
        self.illegal();
    }
    fn hinval_gvma(&mut self, _: TwoSources) {
        self.illegal();
    }
    fn hfence_vvma(&mut self, _: TwoSources) {
        self.illegal();
    }
    fn hfence_gvma(&mut self, _: TwoSources) {
        self.illegal();
    }
    fn hlv_b(&mut self, _: Hlv) {
        self.illegal();
    }
    fn hlv_bu(&mut self, _: Hlv) {
        self.illegal();
    }
    fn hlv_h(&mut self, _: Hlv) {
        self.illegal();
    }
    fn hlv_hu(&mut self, _: Hlv) {
        self.illegal();
    }
    fn hlv_w(&mut self, _: Hlv) {
        self.illegal();
    }
    fn hlv_wu(&mut self, _: Hlv) {
        self.illegal();
    }
    fn hlv_d(&mut self, _: Hlv) {
        self.illegal();
    }
    fn hlvx_hu(&mut self, _: Hlv) {
        self.illegal();
    }
    fn hlvx_wu(&mut self, _: Hlv) {
        self.illegal();
    }
    fn hsv_b(&mut self, _: Hsv) {
        self.illegal();
    }
    fn hsv_h(&mut self, _: Hsv) {
        self.illegal();
    }
    fn hsv_w(&mut self, _: Hsv) {
        self.illegal();
    }
    fn hsv_d(&mut self, _: Hsv) {
        self.illegal();
    }
}

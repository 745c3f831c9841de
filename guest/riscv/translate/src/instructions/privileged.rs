//! `tables/privileged.isa`.

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

    /// HFENCE and HINVAL.
    fn hypervisor_fence(&mut self, a: TwoSources, physical: bool) {
        let (address, space) = (self.x64(a.rs1), self.x64(a.rs2));
        let given = |r: Xreg| u64::from(r.0 != 0);
        let which = given(a.rs1) | given(a.rs2) << 1 | u64::from(physical) << 2;
        let request = self.c64(which | u64::from(self.bits) << 32);
        self.helper(helpers::HFENCE, &[address, space, request]);
        self.leave_after();
    }

    fn hypervisor_load(&mut self, a: Hlv, what: u64) {
        let address = self.target(a.rs1, 0);
        let request = self.c64(what | u64::from(self.bits) << 32);
        let rd = self.c64(a.rd.0.into());
        self.helper(helpers::HYPERVISOR_LOAD, &[address, request, rd]);
    }

    fn hypervisor_store(&mut self, a: Hsv, bytes: u64) {
        let (address, value) = (self.target(a.rs1, 0), self.x64(a.rs2));
        let request = self.c64(bytes | u64::from(self.bits) << 32);
        self.helper(helpers::HYPERVISOR_STORE, &[address, value, request]);
    }

    fn order_invalidations(&mut self) {
        let bits = self.bits();
        self.helper(helpers::SFENCE_INVAL, &[bits]);
    }

    fn bits(&mut self) -> Val {
        self.b.iconst(Type::I64, self.bits.into())
    }
}

macro_rules! loads {
    ($($name:ident = $what:expr;)*) => {$(
        fn $name(&mut self, a: Hlv) {
            self.hypervisor_load(a, $what);
        }
    )*};
}

macro_rules! stores {
    ($($name:ident = $bytes:expr;)*) => {$(
        fn $name(&mut self, a: Hsv) {
            self.hypervisor_store(a, $bytes);
        }
    )*};
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

    fn hinval_vvma(&mut self, a: TwoSources) {
        self.hypervisor_fence(a, false);
    }

    fn hinval_gvma(&mut self, a: TwoSources) {
        self.hypervisor_fence(a, true);
    }

    fn hfence_vvma(&mut self, a: TwoSources) {
        self.hypervisor_fence(a, false);
    }

    fn hfence_gvma(&mut self, a: TwoSources) {
        self.hypervisor_fence(a, true);
    }

    loads! {
        hlv_b = 1 | helpers::LOAD_SIGNED;
        hlv_bu = 1;
        hlv_h = 2 | helpers::LOAD_SIGNED;
        hlv_hu = 2;
        hlv_w = 4 | helpers::LOAD_SIGNED;
        hlv_wu = 4;
        hlv_d = 8;
        hlvx_hu = 2 | helpers::LOAD_EXECUTABLE;
        hlvx_wu = 4 | helpers::LOAD_EXECUTABLE;
    }

    stores! {
        hsv_b = 1;
        hsv_h = 2;
        hsv_w = 4;
        hsv_d = 8;
    }
}

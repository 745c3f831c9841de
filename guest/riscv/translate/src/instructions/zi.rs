//! `tables/zi.isa`: conditional zeroing, cache blocks, operations that may become others.

use rhea_ir::Type;

use crate::translator::UnitTranslator;
use crate::{Address, MopR, MopRr, Prefetch, R, TranslateZi, helpers};

impl UnitTranslator<'_> {
    fn cache_block(&mut self, a: Address, operation: u64) {
        let address = self.address(a.rs1, 0);
        let request = self.c64(operation | u64::from(self.bits) << 32);
        self.helper(helpers::CACHE_BLOCK, &[address, request]);
    }
}

impl TranslateZi for UnitTranslator<'_> {
    fn czero_eqz(&mut self, a: R) {
        let (x, y, zero) = (self.x64(a.rs1), self.x64(a.rs2), self.c64(0));
        let is_zero = self.is_zero(y);
        let value = self.choose(is_zero, zero, x);
        self.set_x(a.rd, value);
    }

    fn czero_nez(&mut self, a: R) {
        let (x, y, zero) = (self.x64(a.rs1), self.x64(a.rs2), self.c64(0));
        let is_zero = self.is_zero(y);
        let value = self.choose(is_zero, x, zero);
        self.set_x(a.rd, value);
    }

    fn cbo_inval(&mut self, a: Address) {
        self.cache_block(a, helpers::BLOCK_INVAL);
    }

    fn cbo_clean(&mut self, a: Address) {
        self.cache_block(a, helpers::BLOCK_CLEAN);
    }

    fn cbo_flush(&mut self, a: Address) {
        self.cache_block(a, helpers::BLOCK_CLEAN);
    }

    fn cbo_zero(&mut self, a: Address) {
        self.cache_block(a, helpers::BLOCK_ZERO);
    }

    fn prefetch_i(&mut self, _: Prefetch) {}
    fn prefetch_r(&mut self, _: Prefetch) {}
    fn prefetch_w(&mut self, _: Prefetch) {}

    fn mop_r(&mut self, a: MopR) {
        let zero = self.b.iconst(Type::I64, 0);
        self.set_x(a.rd, zero);
    }

    fn mop_rr(&mut self, a: MopRr) {
        let zero = self.b.iconst(Type::I64, 0);
        self.set_x(a.rd, zero);
    }
}

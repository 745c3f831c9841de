//! `tables/crypto.isa`: AES, SHA-2, SM4 and SM3. SHA and SM3 are rotations and shifts; the block ciphers are helpers.

use rhea_ir::{Op, Type, Val};

use crate::translator::UnitTranslator;
use crate::{ByteSelect, R, Round, TranslateCrypto, Unary, Xreg, helpers};

impl UnitTranslator<'_> {
    fn rotated(&mut self, x: Val, count: u64) -> Val {
        let count = self.b.iconst(Type::I8, count);
        self.op(Op::Rotr, x, count)
    }

    /// The exclusive or of two rotations and of a third, or of a shift to the right.
    fn sigma(&mut self, x: Val, (first, second, third): (u64, u64, u64), shifts: bool) -> Val {
        let (a, b) = (self.rotated(x, first), self.rotated(x, second));
        let c = if shifts { self.b.bin_imm(Op::Shr, x, third) } else { self.rotated(x, third) };
        let sum = self.op(Op::Xor, a, b);
        self.op(Op::Xor, sum, c)
    }

    fn sigma32(&mut self, a: Unary, counts: (u64, u64, u64), shifts: bool) {
        let x = self.x32(a.rs1);
        let value = self.sigma(x, counts, shifts);
        self.set_x(a.rd, value);
    }

    fn sigma64(&mut self, a: Unary, counts: (u64, u64, u64), shifts: bool) {
        let x = self.x64(a.rs1);
        let value = self.sigma(x, counts, shifts);
        self.set_x(a.rd, value);
    }

    /// SHA-512 on a hart of 32 bits: rs1 holds the half that is written, rs2 the other; `low` if it is the low one.
    fn sigma_pair(&mut self, a: R, counts: (u64, u64, u64), shifts: bool, low: bool) {
        let (own, other) = (self.x64(a.rs1), self.x64(a.rs2));
        let (low_half, high_half) = if low { (own, other) } else { (other, own) };
        let x = self.b.deposit(low_half, high_half, 32, 32);
        let value = self.sigma(x, counts, shifts);
        let value = if low { value } else { self.b.bin_imm(Op::Shr, value, 32) };
        let value = self.b.zext(Type::I32, value);
        self.set_x(a.rd, value);
    }

    fn cipher(&mut self, id: u32, a: R) {
        let (x, y) = (self.x64(a.rs1), self.x64(a.rs2));
        let value = self.helper(id, &[x, y]);
        self.set_x(a.rd, value);
    }

    fn one(&mut self, id: u32, rd: Xreg, rs1: Xreg, extra: u64) {
        let x = self.x64(rs1);
        let extra = self.c64(extra);
        let value = self.helper(id, &[x, extra]);
        self.set_x(rd, value);
    }

    fn selected(&mut self, id: u32, a: ByteSelect) {
        let (x, y) = (self.x64(a.rs1), self.x64(a.rs2));
        let select = self.c64(a.bs.into());
        let value = self.helper(id, &[x, y, select]);
        self.set_x(a.rd, value);
    }
}

const SUM0_256: (u64, u64, u64) = (2, 13, 22);
const SUM1_256: (u64, u64, u64) = (6, 11, 25);
const SIG0_256: (u64, u64, u64) = (7, 18, 3);
const SIG1_256: (u64, u64, u64) = (17, 19, 10);
const SUM0_512: (u64, u64, u64) = (28, 34, 39);
const SUM1_512: (u64, u64, u64) = (14, 18, 41);
const SIG0_512: (u64, u64, u64) = (1, 8, 7);
const SIG1_512: (u64, u64, u64) = (19, 61, 6);

macro_rules! each {
    ($($name:ident($args:ident) = $method:ident($($extra:expr),*);)*) => {$(
        fn $name(&mut self, a: $args) {
            self.$method(a, $($extra),*);
        }
    )*};
}

macro_rules! by_helper {
    ($($name:ident($args:ident) = $method:ident($id:ident);)*) => {$(
        fn $name(&mut self, a: $args) {
            self.$method(helpers::$id, a);
        }
    )*};
}

impl TranslateCrypto for UnitTranslator<'_> {
    each! {
        sha256sum0(Unary) = sigma32(SUM0_256, false);
        sha256sum1(Unary) = sigma32(SUM1_256, false);
        sha256sig0(Unary) = sigma32(SIG0_256, true);
        sha256sig1(Unary) = sigma32(SIG1_256, true);
        sha512sum0(Unary) = sigma64(SUM0_512, false);
        sha512sum1(Unary) = sigma64(SUM1_512, false);
        sha512sig0(Unary) = sigma64(SIG0_512, true);
        sha512sig1(Unary) = sigma64(SIG1_512, true);
    }

    /// The scheme of the 32-bit instructions: rs1 low for `sum…r` and `…l`, high for `…h`; which half the other operand
    /// is follows from it.
    fn sha512sum0r(&mut self, a: R) {
        self.sigma_pair(a, SUM0_512, false, true);
    }
    fn sha512sum1r(&mut self, a: R) {
        self.sigma_pair(a, SUM1_512, false, true);
    }
    fn sha512sig0l(&mut self, a: R) {
        self.sigma_pair(a, SIG0_512, true, true);
    }
    fn sha512sig0h(&mut self, a: R) {
        self.sigma_pair(a, SIG0_512, true, false);
    }
    fn sha512sig1l(&mut self, a: R) {
        self.sigma_pair(a, SIG1_512, true, true);
    }
    fn sha512sig1h(&mut self, a: R) {
        self.sigma_pair(a, SIG1_512, true, false);
    }

    by_helper! {
        aes32dsi(ByteSelect) = selected(AES32DSI);
        aes32dsmi(ByteSelect) = selected(AES32DSMI);
        aes32esi(ByteSelect) = selected(AES32ESI);
        aes32esmi(ByteSelect) = selected(AES32ESMI);
        sm4ed(ByteSelect) = selected(SM4ED);
        sm4ks(ByteSelect) = selected(SM4KS);
        aes64ds(R) = cipher(AES64DS);
        aes64dsm(R) = cipher(AES64DSM);
        aes64es(R) = cipher(AES64ES);
        aes64esm(R) = cipher(AES64ESM);
        aes64ks2(R) = cipher(AES64KS2);
    }

    fn aes64im(&mut self, a: Unary) {
        self.one(helpers::AES64IM, a.rd, a.rs1, 0);
    }

    fn aes64ks1i(&mut self, a: Round) {
        self.one(helpers::AES64KS1I, a.rd, a.rs1, a.rnum.into());
    }

    /// P0(x) = x ^ x<<<9 ^ x<<<17 (GB/T 32905-2016).
    fn sm3p0(&mut self, a: Unary) {
        let x = self.x32(a.rs1);
        let (nine, seventeen) = (self.rotated(x, 32 - 9), self.rotated(x, 32 - 17));
        let sum = self.op(Op::Xor, x, nine);
        let value = self.op(Op::Xor, sum, seventeen);
        self.set_x(a.rd, value);
    }

    /// P1(x) = x ^ x<<<15 ^ x<<<23.
    fn sm3p1(&mut self, a: Unary) {
        let x = self.x32(a.rs1);
        let (fifteen, twenty_three) = (self.rotated(x, 32 - 15), self.rotated(x, 32 - 23));
        let sum = self.op(Op::Xor, x, fifteen);
        let value = self.op(Op::Xor, sum, twenty_three);
        self.set_x(a.rd, value);
    }
}

//! Vector operations. Most are one host instruction, found in [`crate::vector_opcodes`]; with AVX they
//! take three operands and unaligned memory, without it a copy comes first.

use crate::asm::{Cc, Map, Pp, Rm, VOpcode, Xmm};
use crate::emitter::{Emitter, NO_REG, SCRATCH, Unsupported, XMM0};
use crate::vector_opcodes::{
    EXTRACT_HALF, INSERT_HALF, MOVAPS, MOVQ, PSHUFD, PSHUFLW, XORPS, binary_imm_opcode, binary_opcode,
    by_lane, p66, p66_3a, p66_38, sha_opcode, shift_imm_opcode, unary_opcode,
};
use rhea_ir::{Inst, Lane, Op, Type, Val};

impl Emitter<'_> {
    pub fn emit_vector(&mut self, i: &Inst) -> Result<(), Unsupported> {
        if i.op as u8 >= Op::FAdd as u8 && i.op as u8 <= Op::VConvert as u8 {
            return self.emit_float(i);
        }
        self.check_features(i)?;
        if let Some(op) = binary_opcode(i.op, i.lane) {
            // Shifts by a common count take it from 128 bits whatever the width of the lanes.
            let bits = if matches!(i.op, Op::VShl | Op::VShr | Op::VSar) { 128 } else { i.ty.bytes() * 8 };
            return self.vector_binary(i, op, i.a, i.b, None, bits);
        }
        if let Some(op) = binary_imm_opcode(i.op, i.lane) {
            return self.vector_binary(i, op, i.a, i.b, Some(i.imm as u8), i.ty.bytes() * 8);
        }
        if let Some((op, imm)) = unary_opcode(i.op, i.lane) {
            return self.vector_unary(i, op, i.a, imm.then_some(i.imm as u8), i.ty.bytes() * 8);
        }
        if let Some((op, digit)) = shift_imm_opcode(i.op, i.lane) {
            return self.vector_shift_imm(i, op, digit);
        }
        if let Some(op) = sha_opcode(i.op) {
            return self.emit_sha(i, op);
        }
        match i.op {
            // PANDN complements its first operand.
            Op::VAndNot => self.vector_binary(i, p66(0xdf), i.b, i.a, None, i.ty.bytes() * 8),
            // VPERMD takes the indices first.
            Op::VPermute32 => self.vector_binary(i, p66_38(0x36), i.b, i.a, None, 256),
            Op::VBlendVar => self.emit_blend_var(i),
            Op::VSplat => self.emit_splat(i),
            Op::VExtract => self.emit_vextract(i),
            Op::VInsert => self.emit_vinsert(i),
            Op::VFromInt => self.emit_from_int_bits(i),
            Op::VResize => self.emit_resize(i),
            Op::VExtractHalf => self.emit_extract_half(i),
            Op::VInsertHalf => self.vector_binary(i, INSERT_HALF, i.a, i.b, Some(i.imm as u8), 128),
            Op::VMoveMask => self.emit_move_mask(i),
            Op::VExtendS | Op::VExtendU => self.emit_extend(i),
            Op::VTestZero | Op::VTestCarry => self.emit_vtest(i),
            _ => Err(self.unsupported(i)),
        }
    }

    /// Features an operation needs beyond what its encoding tells.
    fn check_features(&self, i: &Inst) -> Result<(), Unsupported> {
        let f = &self.layout.features;
        let ok = match i.op {
            Op::AesEnc | Op::AesEncLast | Op::AesDec | Op::AesDecLast | Op::AesImc | Op::AesKeygen => {
                f.aes && i.ty == Type::V128
            }
            Op::Clmul => f.pclmul && i.ty == Type::V128,
            op if sha_opcode(op).is_some() => f.sha && f.ssse3,
            Op::VShlVar | Op::VShrVar | Op::VSarVar | Op::VPermute32 | Op::VPermute64 => f.avx2,
            Op::VPermuteIn => f.avx,
            _ => true,
        };
        if ok { Ok(()) } else { Err(self.unsupported(i)) }
    }

    /// Whether the host has the instruction without AVX.
    fn has_legacy(&self, op: VOpcode) -> bool {
        let f = &self.layout.features;
        match op.map {
            Map::M0F => true,
            Map::M0F38 if op.op < 0x20 && !(0x10..=0x17).contains(&op.op) => f.ssse3,
            Map::M0F38 if op.op == 0x37 => f.sse42,
            Map::M0F3A if op.op == 0x0f => f.ssse3,
            _ => f.sse41,
        }
    }

    /// dst = a OP b; `bits` is what the instruction reads of b.
    pub fn vector_binary(
        &mut self,
        i: &Inst,
        op: VOpcode,
        a: Val,
        b: Val,
        imm: Option<u8>,
        bits: u32,
    ) -> Result<(), Unsupported> {
        let (root_a, root_b) = (self.root(a), self.root(b));
        if !self.layout.features.avx {
            if !self.has_legacy(op) {
                return Err(self.unsupported(i));
            }
            let rb = self.use_xmm(b);
            let dst = self.vector_in_place(i, a);
            self.asm.sse(op, dst.0, rb);
            if let Some(imm) = imm {
                self.asm.byte(imm);
            }
            self.done(b);
            self.bind(dst.0 + XMM0);
            return Ok(());
        }
        self.prepare(b, bits);
        let ra = self.use_xmm(a);
        self.done(a);
        let rb = self.v[root_b as usize].reg;
        let dst = if rb == NO_REG {
            self.dst_xmm(&[(root_a, ra)])
        } else {
            self.done(b);
            self.dst_xmm(&[(root_a, ra), (root_b, Xmm(rb - XMM0))])
        };
        let src = if rb == NO_REG { self.rm(b) } else { Rm::Reg(rb & 15) };
        self.asm.vex(op, i.ty == Type::V256, dst.0, ra.0, src);
        if let Some(imm) = imm {
            self.asm.byte(imm);
        }
        if rb == NO_REG {
            self.done(b);
        }
        self.bind(dst.0 + XMM0);
        Ok(())
    }

    /// A destination that holds `a`, to be overwritten by a two-operand instruction.
    pub fn vector_in_place(&mut self, i: &Inst, a: Val) -> Xmm {
        let root = self.root(a);
        let ra = self.use_xmm(a);
        self.done(a);
        let dst = self.dst_xmm(&[(root, ra)]);
        self.move_xmm(i.ty, dst, ra);
        dst
    }

    /// dst = OP a; `bits` is what the instruction reads.
    pub fn vector_unary(
        &mut self,
        i: &Inst,
        op: VOpcode,
        a: Val,
        imm: Option<u8>,
        bits: u32,
    ) -> Result<(), Unsupported> {
        self.vector_unary_wide(i, op, a, imm, bits, i.ty == Type::V256)
    }

    /// As [`Emitter::vector_unary`] with the vector length given.
    pub fn vector_unary_wide(
        &mut self,
        i: &Inst,
        op: VOpcode,
        a: Val,
        imm: Option<u8>,
        bits: u32,
        wide: bool,
    ) -> Result<(), Unsupported> {
        let avx = self.layout.features.avx;
        if !avx && !self.has_legacy(op) {
            return Err(self.unsupported(i));
        }
        if avx {
            self.prepare(a, bits);
        } else {
            self.use_xmm(a);
        }
        let root = self.root(a);
        let reg = self.v[root as usize].reg;
        let (dst, src) = if reg == NO_REG {
            let dst = self.alloc_xmm();
            (dst, self.rm(a))
        } else {
            self.done(a);
            (self.dst_xmm(&[(root, Xmm(reg - XMM0))]), Rm::Reg(reg & 15))
        };
        if avx {
            self.asm.vex(op, wide, dst.0, 0, src);
        } else {
            self.asm.sse(op, dst.0, src);
        }
        if let Some(imm) = imm {
            self.asm.byte(imm);
        }
        if reg == NO_REG {
            self.done(a);
        }
        self.bind(dst.0 + XMM0);
        Ok(())
    }

    fn vector_shift_imm(&mut self, i: &Inst, op: VOpcode, digit: u8) -> Result<(), Unsupported> {
        let count = i.imm.min(255) as u8;
        if self.layout.features.avx {
            let root = self.root(i.a);
            let ra = self.use_xmm(i.a);
            self.done(i.a);
            let dst = self.dst_xmm(&[(root, ra)]);
            self.asm.vex_imm(op, i.ty == Type::V256, digit, dst.0, ra, count);
            self.bind(dst.0 + XMM0);
        } else {
            let dst = self.vector_in_place(i, i.a);
            self.asm.sse(op, digit, dst);
            self.asm.byte(count);
            self.bind(dst.0 + XMM0);
        }
        Ok(())
    }

    fn emit_sha(&mut self, i: &Inst, op: VOpcode) -> Result<(), Unsupported> {
        if i.op == Op::Sha256Rounds {
            // The third operand is XMM0 by nature.
            self.claim(XMM0);
            let c = self.root(i.c);
            self.load_root(c, XMM0);
        }
        let rb = self.use_xmm(i.b);
        let dst = self.vector_in_place(i, i.a);
        self.asm.sse(op, dst.0, rb);
        if i.op == Op::Sha1Rounds {
            self.asm.byte(i.imm as u8);
        }
        self.done(i.b);
        if i.op == Op::Sha256Rounds {
            self.done(i.c);
        }
        self.bind(dst.0 + XMM0);
        Ok(())
    }

    fn emit_blend_var(&mut self, i: &Inst) -> Result<(), Unsupported> {
        let index = match i.lane {
            Lane::I8 => 0,
            Lane::I32 => 1,
            Lane::I64 => 2,
            _ => return Err(self.unsupported(i)),
        };
        if self.layout.features.avx {
            let op = [p66_3a(0x4c), p66_3a(0x4a), p66_3a(0x4b)][index];
            let (ra, rb, rc) = (self.use_xmm(i.a), self.use_xmm(i.b), self.use_xmm(i.c));
            let roots = [(self.root(i.a), ra), (self.root(i.b), rb), (self.root(i.c), rc)];
            for v in [i.a, i.b, i.c] {
                self.done(v);
            }
            let dst = self.dst_xmm(&roots);
            self.asm.vex_imm(op, i.ty == Type::V256, dst.0, ra.0, rb, rc.0 << 4);
            self.bind(dst.0 + XMM0);
            return Ok(());
        }
        let op = [p66_38(0x10), p66_38(0x14), p66_38(0x15)][index];
        if !self.has_legacy(op) {
            return Err(self.unsupported(i));
        }
        self.claim(XMM0);
        let c = self.root(i.c);
        self.load_root(c, XMM0);
        let rb = self.use_xmm(i.b);
        let dst = self.vector_in_place(i, i.a);
        self.asm.sse(op, dst.0, rb);
        self.done(i.b);
        self.done(i.c);
        self.bind(dst.0 + XMM0);
        Ok(())
    }

    fn emit_splat(&mut self, i: &Inst) -> Result<(), Unsupported> {
        let bits = i.lane.bytes() * 8;
        if self.layout.features.avx2 {
            let op = match by_lane(i.lane, [0x78, 0x79, 0x58, 0x59].map(|o| Some(p66_38(o)))) {
                Some(op) => op,
                None => return Err(self.unsupported(i)),
            };
            return self.vector_unary(i, op, i.a, None, bits);
        }
        match i.lane {
            Lane::I32 => self.vector_unary(i, PSHUFD, i.a, Some(0), 128),
            Lane::I64 => self.vector_unary(i, PSHUFD, i.a, Some(0x44), 128),
            Lane::I16 => {
                self.vector_unary(i, PSHUFLW, i.a, Some(0), 128)?;
                self.again_in_place(PSHUFD, 0);
                Ok(())
            }
            Lane::I8 => {
                let dst = self.vector_in_place(i, i.a);
                // Byte 0 twice in word 0, then word 0 everywhere.
                self.vector_self(p66(0x60), dst);
                self.bind(dst.0 + XMM0);
                self.again_in_place(PSHUFLW, 0);
                self.again_in_place(PSHUFD, 0);
                Ok(())
            }
            _ => Err(self.unsupported(i)),
        }
    }

    /// dst = dst OP dst.
    fn vector_self(&mut self, op: VOpcode, dst: Xmm) {
        if self.layout.features.avx {
            self.asm.vex(op, false, dst.0, dst.0, dst);
        } else {
            self.asm.sse(op, dst.0, dst);
        }
    }

    /// Another shuffle on the result just bound.
    fn again_in_place(&mut self, op: VOpcode, imm: u8) {
        let reg = self.v[self.at].reg;
        if reg == NO_REG {
            return;
        }
        let x = Xmm(reg - XMM0);
        self.vmov(op, false, x, x);
        self.asm.byte(imm);
    }

    // ---- between general and vector registers ----

    /// A vector instruction with a general register: `reg` field, `rm` field, both by number.
    fn mixed(&mut self, op: VOpcode, reg: u8, vvvv: u8, rm: Rm) {
        if self.layout.features.avx {
            self.asm.vex(op, false, reg, vvvv, rm);
        } else {
            self.asm.sse(op, reg, rm);
        }
    }

    fn emit_vextract(&mut self, i: &Inst) -> Result<(), Unsupported> {
        let per_half = 16 / i.lane.bytes().max(1) as u64;
        let index = i.imm % per_half;
        let high = i.imm / per_half != 0;
        if index != 0 && i.lane != Lane::I16 && !self.layout.features.sse41 && !self.layout.features.avx
            || i.lane == Lane::I8 && !self.layout.features.sse41
        {
            return Err(self.unsupported(i));
        }
        let mut src = self.use_xmm(i.a);
        let dst = self.dst_gpr(None);
        if high {
            self.asm.vex_imm(EXTRACT_HALF, true, src.0, 0, SCRATCH, 1);
            src = SCRATCH;
        }
        match i.lane {
            Lane::I32 | Lane::I64 if index == 0 => {
                let op = if i.lane == Lane::I64 { p66(0x7e).w() } else { p66(0x7e) };
                self.mixed(op, src.0, 0, Rm::from(dst));
            }
            Lane::I16 => {
                self.mixed(p66(0xc5), dst.0, 0, Rm::from(src));
                self.asm.byte(index as u8);
            }
            Lane::I8 | Lane::I32 | Lane::I64 => {
                let op = match i.lane {
                    Lane::I8 => p66_3a(0x14),
                    Lane::I32 => p66_3a(0x16),
                    _ => p66_3a(0x16).w(),
                };
                self.mixed(op, src.0, 0, Rm::from(dst));
                self.asm.byte(index as u8);
            }
            _ => return Err(self.unsupported(i)),
        }
        self.done(i.a);
        self.bind(dst.0);
        Ok(())
    }

    fn emit_vinsert(&mut self, i: &Inst) -> Result<(), Unsupported> {
        let per_half = 16 / i.lane.bytes().max(1) as u64;
        let index = (i.imm % per_half) as u8;
        let high = i.imm / per_half != 0;
        let op = match i.lane {
            Lane::I8 => p66_3a(0x20),
            Lane::I16 => p66(0xc4),
            Lane::I32 => p66_3a(0x22),
            Lane::I64 => p66_3a(0x22).w(),
            _ => return Err(self.unsupported(i)),
        };
        if !self.layout.features.avx && !self.has_legacy(op) {
            return Err(self.unsupported(i));
        }
        let value = self.use_gpr(i.b);
        if i.ty == Type::V256 {
            let root = self.root(i.a);
            let ra = self.use_xmm(i.a);
            self.done(i.a);
            let dst = self.dst_xmm(&[(root, ra)]);
            self.asm.vex_imm(EXTRACT_HALF, true, ra.0, 0, SCRATCH, u8::from(high));
            self.asm.vex_imm(op, false, SCRATCH.0, SCRATCH.0, value, index);
            self.asm.vex_imm(INSERT_HALF, true, dst.0, ra.0, SCRATCH, u8::from(high));
            self.done(i.b);
            self.bind(dst.0 + XMM0);
            return Ok(());
        }
        let root = self.root(i.a);
        let ra = self.use_xmm(i.a);
        self.done(i.a);
        let dst = self.dst_xmm(&[(root, ra)]);
        if self.layout.features.avx {
            self.asm.vex_imm(op, false, dst.0, ra.0, value, index);
        } else {
            self.move_xmm(i.ty, dst, ra);
            self.asm.sse(op, dst.0, value);
            self.asm.byte(index);
        }
        self.done(i.b);
        self.bind(dst.0 + XMM0);
        Ok(())
    }

    fn emit_from_int_bits(&mut self, i: &Inst) -> Result<(), Unsupported> {
        let bits = self.ty(i.a).bits();
        if bits < 32 {
            return Err(self.unsupported(i));
        }
        let dst = self.alloc_xmm();
        self.prepare(i.a, bits);
        let src = self.rm(i.a);
        let op = if bits == 64 { p66(0x6e).w() } else { p66(0x6e) };
        self.mixed(op, dst.0, 0, src);
        self.done(i.a);
        self.bind(dst.0 + XMM0);
        Ok(())
    }

    fn emit_resize(&mut self, i: &Inst) -> Result<(), Unsupported> {
        match (self.ty(i.a), i.ty) {
            (Type::F64, Type::V128 | Type::V256) => self.vector_unary_wide(i, MOVQ, i.a, None, 64, false),
            (Type::F32, Type::V128 | Type::V256) => {
                // INSERTPS with all but lane 0 zeroed; the copied lane is lane 0 itself.
                let root = self.root(i.a);
                let ra = self.use_xmm(i.a);
                self.done(i.a);
                let dst = self.dst_xmm(&[(root, ra)]);
                if self.layout.features.avx {
                    self.asm.vex_imm(p66_3a(0x21), false, dst.0, ra.0, ra, 0x0e);
                } else if self.layout.features.sse41 {
                    self.asm.sse(p66_3a(0x21), dst.0, ra);
                    self.asm.byte(0x0e);
                } else {
                    return Err(self.unsupported(i));
                }
                self.bind(dst.0 + XMM0);
                Ok(())
            }
            // A 128-bit move zeroes what is above.
            _ => {
                let root = self.root(i.a);
                let ra = self.use_xmm(i.a);
                self.done(i.a);
                let dst = self.dst_xmm(&[(root, ra)]);
                if dst != ra || i.ty == Type::V256 {
                    self.vmov(MOVAPS, false, dst, ra);
                }
                self.bind(dst.0 + XMM0);
                Ok(())
            }
        }
    }

    fn emit_extract_half(&mut self, i: &Inst) -> Result<(), Unsupported> {
        if !self.layout.features.avx2 {
            return Err(self.unsupported(i));
        }
        let root = self.root(i.a);
        let ra = self.use_xmm(i.a);
        self.done(i.a);
        let dst = self.dst_xmm(&[(root, ra)]);
        if i.imm & 1 == 0 {
            self.vmov(MOVAPS, false, dst, ra);
        } else {
            self.asm.vex_imm(EXTRACT_HALF, true, ra.0, 0, dst, 1);
        }
        self.bind(dst.0 + XMM0);
        Ok(())
    }

    fn emit_move_mask(&mut self, i: &Inst) -> Result<(), Unsupported> {
        let op = match i.lane {
            Lane::I8 => p66(0xd7),
            Lane::I32 => VOpcode::new(Pp::None, Map::M0F, 0x50),
            Lane::I64 => p66(0x50),
            _ => return Err(self.unsupported(i)),
        };
        let wide = self.ty(i.a) == Type::V256;
        if wide && !self.layout.features.avx2 {
            return Err(self.unsupported(i));
        }
        let src = self.use_xmm(i.a);
        let dst = self.dst_gpr(None);
        if wide {
            self.asm.vex(op, true, dst.0, 0, src);
        } else {
            self.mixed(op, dst.0, 0, Rm::from(src));
        }
        self.done(i.a);
        self.bind(dst.0);
        Ok(())
    }

    fn emit_extend(&mut self, i: &Inst) -> Result<(), Unsupported> {
        let step = match (i.lane, i.aux) {
            (Lane::I8, 2) => 0,
            (Lane::I8, 4) => 1,
            (Lane::I8, 8) => 2,
            (Lane::I16, 4) => 3,
            (Lane::I16, 8) => 4,
            (Lane::I32, 8) => 5,
            _ => return Err(self.unsupported(i)),
        };
        let op = p66_38(if i.op == Op::VExtendS { 0x20 } else { 0x30 } + step);
        self.vector_unary(i, op, i.a, None, 128)
    }

    fn emit_vtest(&mut self, i: &Inst) -> Result<(), Unsupported> {
        let op = match i.lane {
            Lane::None => p66_38(0x17),
            Lane::I32 | Lane::F32 => p66_38(0x0e),
            Lane::I64 | Lane::F64 => p66_38(0x0f),
            _ => return Err(self.unsupported(i)),
        };
        let wide = self.ty(i.a) == Type::V256;
        let f = &self.layout.features;
        if wide && !f.avx2 || !f.avx && (op.op != 0x17 || !f.sse41) {
            return Err(self.unsupported(i));
        }
        let (ra, rb) = (self.use_xmm(i.a), self.use_xmm(i.b));
        if wide {
            self.asm.vex(op, true, ra.0, 0, rb);
        } else {
            self.mixed(op, ra.0, 0, Rm::from(rb));
        }
        self.done(i.a);
        self.done(i.b);
        self.materialize(if i.op == Op::VTestZero { Cc::E } else { Cc::B });
        Ok(())
    }

    // ---- constants and selection ----

    /// Loads a constant repeated in 64-bit lanes. Needs no other register.
    pub fn load_vector_const(&mut self, ty: Type, imm: u64, x: Xmm) {
        let wide = ty == Type::V256;
        match imm {
            0 if self.layout.features.avx => self.asm.vex(XORPS, false, x.0, x.0, x),
            0 => self.asm.sse(XORPS, x.0, x),
            _ => {
                let movups = VOpcode::new(Pp::None, Map::M0F, 0x10);
                let at = if self.layout.features.avx {
                    self.asm.vex_rip(movups, wide, x.0)
                } else {
                    self.asm.sse_rip(movups, x.0)
                };
                self.constants.push((at, imm));
            }
        }
    }

    /// Places the constants of the unit after its code.
    pub fn emit_constants(&mut self) {
        for n in 0..self.constants.len() {
            let (at, imm) = self.constants[n];
            let here = self.asm.here();
            self.asm.patch(at, here);
            for _ in 0..4 {
                self.asm.code.extend_from_slice(&imm.to_le_bytes());
            }
        }
    }

    pub fn emit_vector_select(&mut self, i: &Inst) -> Result<(), Unsupported> {
        let rb = self.use_xmm(i.b);
        let dst = self.alloc_xmm();
        let c = self.root(i.c);
        self.load_root(c, dst.0 + XMM0);
        let cc = self.emit_condition(i.a);
        let skip = self.asm.jcc_short(cc.invert());
        self.move_xmm(i.ty, dst, rb);
        self.asm.patch_short(skip);
        self.done(i.b);
        self.done(i.c);
        self.bind(dst.0 + XMM0);
        Ok(())
    }
}

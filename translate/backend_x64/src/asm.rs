//! Encoding x86-64 instructions (Intel SDM vol. 2, chapter 2 and appendix B).
//!
//! A thin encoder: each method emits one instruction into a byte buffer. Operands are a register and a register or
//! memory operand ([`Rm`]). Labels are plain offsets patched by the caller.

/// A general register by number (0 RAX … 15 R15).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gpr(pub u8);

/// A vector register by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Xmm(pub u8);

/// General registers by name.
pub mod reg {
    #![allow(missing_docs, reason = "register names")]
    use super::Gpr;
    pub const RAX: Gpr = Gpr(0);
    pub const RCX: Gpr = Gpr(1);
    pub const RDX: Gpr = Gpr(2);
    pub const RBX: Gpr = Gpr(3);
    pub const RSP: Gpr = Gpr(4);
    pub const RBP: Gpr = Gpr(5);
    pub const RSI: Gpr = Gpr(6);
    pub const RDI: Gpr = Gpr(7);
    pub const R8: Gpr = Gpr(8);
    pub const R9: Gpr = Gpr(9);
    pub const R10: Gpr = Gpr(10);
    pub const R11: Gpr = Gpr(11);
    pub const R12: Gpr = Gpr(12);
    pub const R13: Gpr = Gpr(13);
    pub const R14: Gpr = Gpr(14);
    pub const R15: Gpr = Gpr(15);
}

/// A memory operand: base + (index << scale) + disp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mem {
    /// Base register; without one there is an index.
    pub base: Option<Gpr>,
    /// Index register (not RSP) and log2 of its scale.
    pub index: Option<(Gpr, u8)>,
    /// Displacement.
    pub disp: i32,
}

impl Mem {
    /// base + disp.
    pub const fn new(base: Gpr, disp: i32) -> Self {
        Mem { base: Some(base), index: None, disp }
    }

    /// base + index + disp.
    pub const fn indexed(base: Gpr, index: Gpr, scale: u8, disp: i32) -> Self {
        Mem { base: Some(base), index: Some((index, scale)), disp }
    }

    /// index + disp, the index scaled.
    pub const fn unbased(index: Gpr, scale: u8, disp: i32) -> Self {
        Mem { base: None, index: Some((index, scale)), disp }
    }
}

/// A register (general or vector, by number) or memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rm {
    /// Register number.
    Reg(u8),
    /// Memory.
    Mem(Mem),
}

impl From<Gpr> for Rm {
    fn from(r: Gpr) -> Self {
        Rm::Reg(r.0)
    }
}

impl From<Xmm> for Rm {
    fn from(r: Xmm) -> Self {
        Rm::Reg(r.0)
    }
}

impl From<Mem> for Rm {
    fn from(m: Mem) -> Self {
        Rm::Mem(m)
    }
}

/// The eight classic ALU operations, by their encoding number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "instruction names")]
pub enum Alu {
    Add = 0,
    Or = 1,
    Adc = 2,
    Sbb = 3,
    And = 4,
    Sub = 5,
    Xor = 6,
    Cmp = 7,
}

/// Shift and rotate operations, by their encoding number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "instruction names")]
pub enum Shift {
    Rol = 0,
    Ror = 1,
    Shl = 4,
    Shr = 5,
    Sar = 7,
}

/// Condition codes (SDM vol. 1, appendix B).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "condition names")]
pub enum Cc {
    O = 0,
    No = 1,
    B = 2,
    Ae = 3,
    E = 4,
    Ne = 5,
    Be = 6,
    A = 7,
    S = 8,
    Ns = 9,
    P = 10,
    Np = 11,
    L = 12,
    Ge = 13,
    Le = 14,
    G = 15,
}

impl Cc {
    /// The opposite condition.
    pub const fn invert(self) -> Cc {
        use Cc::{A, Ae, B, Be, E, G, Ge, L, Le, Ne, No, Np, Ns, O, P, S};
        match self {
            O => No,
            No => O,
            B => Ae,
            Ae => B,
            E => Ne,
            Ne => E,
            Be => A,
            A => Be,
            S => Ns,
            Ns => S,
            P => Np,
            Np => P,
            L => Ge,
            Ge => L,
            Le => G,
            G => Le,
        }
    }
}

/// Mandatory prefix of a vector instruction, as VEX.pp encodes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "prefix bytes")]
pub enum Pp {
    None = 0,
    P66 = 1,
    F3 = 2,
    F2 = 3,
}

/// Opcode map, as VEX.mmmmm encodes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "map names")]
pub enum Map {
    M0F = 1,
    M0F38 = 2,
    M0F3A = 3,
}

/// A vector instruction's opcode: prefix, map, opcode byte and VEX.W.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VOpcode {
    /// Mandatory prefix.
    pub pp: Pp,
    /// Opcode map.
    pub map: Map,
    /// Opcode byte.
    pub op: u8,
    /// VEX.W.
    pub w: bool,
}

impl VOpcode {
    /// An opcode with W clear.
    pub const fn new(pp: Pp, map: Map, op: u8) -> Self {
        VOpcode { pp, map, op, w: false }
    }
    /// The same with W set.
    pub const fn w(self) -> Self {
        VOpcode { w: true, ..self }
    }
}

/// The bytes of one instruction up to its immediate, put together before they go out.
#[derive(Default)]
struct Instruction {
    bytes: [u8; 16],
    len: usize,
}

impl Instruction {
    fn byte(&mut self, b: u8) {
        self.bytes[self.len & 15] = b;
        self.len += 1;
    }

    fn modrm(&mut self, reg: u8, rm: Rm) {
        let reg = (reg & 7) << 3;
        match rm {
            Rm::Reg(b) => self.byte(0xc0 | reg | (b & 7)),
            Rm::Mem(m) => self.modrm_mem(reg, m),
        }
    }

    fn modrm_mem(&mut self, reg: u8, m: Mem) {
        // SIB base 5 with mod 00 is a 32-bit displacement without a base.
        let base = m.base.map_or(5, |b| b.0 & 7);
        // Base RBP/R13 with mod 00 means something else, so it always takes a displacement.
        let (mode, size) = if m.base.is_none() {
            (0u8, 4)
        } else if m.disp == 0 && base != 5 {
            (0, 0)
        } else if i8::try_from(m.disp).is_ok() {
            (0x40, 1)
        } else {
            (0x80, 4)
        };
        match m.index {
            Some((index, scale)) => {
                debug_assert_ne!(index.0, 4, "RSP cannot be an index");
                self.byte(mode | reg | 4);
                self.byte(scale << 6 | (index.0 & 7) << 3 | base);
            }
            None if base == 4 => {
                self.byte(mode | reg | 4);
                self.byte(0x24);
            }
            None => self.byte(mode | reg | base),
        }
        if size != 0 {
            self.byte(m.disp as u8);
        }
        if size == 4 {
            self.byte((m.disp >> 8) as u8);
            self.byte((m.disp >> 16) as u8);
            self.byte((m.disp >> 24) as u8);
        }
    }
}

/// The encoder.
#[derive(Default, Debug)]
pub struct Asm {
    /// Bytes emitted so far.
    pub code: Vec<u8>,
}

impl Asm {
    /// Offset of the next byte.
    pub fn here(&self) -> usize {
        self.code.len()
    }

    /// One raw byte.
    pub fn byte(&mut self, b: u8) {
        self.code.push(b);
    }

    /// A little-endian doubleword.
    pub fn dword(&mut self, v: u32) {
        self.code.extend_from_slice(&v.to_le_bytes());
    }

    fn rex_bits(reg: u8, rm: Rm) -> u8 {
        let r = (reg >> 3 & 1) << 2;
        match rm {
            Rm::Reg(b) => r | (b >> 3 & 1),
            Rm::Mem(m) => {
                let x = m.index.map_or(0, |(i, _)| i.0 >> 3 & 1);
                r | x << 1 | m.base.map_or(0, |b| b.0 >> 3 & 1)
            }
        }
    }

    /// Emits [66] [REX] opcode bytes and ModRM. `bits` chooses 66/REX.W; for 8-bit operations a REX prefix makes
    /// SPL..DIL reachable.
    fn op_rm(&mut self, bits: u32, opcode: &[u8], reg: u8, rm: Rm, byte_regs: bool) {
        let mut i = Instruction::default();
        if bits == 16 {
            i.byte(0x66);
        }
        self.encode(i, bits == 64, opcode, reg, rm, byte_regs);
    }

    fn op_rm_noprefix(&mut self, w: bool, opcode: &[u8], reg: u8, rm: Rm, byte_regs: bool) {
        self.encode(Instruction::default(), w, opcode, reg, rm, byte_regs);
    }

    fn encode(&mut self, mut i: Instruction, w: bool, opcode: &[u8], reg: u8, rm: Rm, byte_regs: bool) {
        let mut rex = Self::rex_bits(reg, rm) | if w { 8 } else { 0 };
        let low_byte = |n: u8| (4..8).contains(&n);
        if byte_regs && (low_byte(reg) || matches!(rm, Rm::Reg(b) if low_byte(b))) {
            rex |= 0x40;
        }
        if rex != 0 {
            i.byte(0x40 | rex);
        }
        for &b in opcode {
            i.byte(b);
        }
        i.modrm(reg, rm);
        self.put(&i);
    }

    /// Appends an instruction (without its immediate).
    fn put(&mut self, i: &Instruction) {
        let end = self.code.len() + i.len;
        // All sixteen bytes at once, of which those past the end are taken back.
        self.code.extend_from_slice(&i.bytes);
        self.code.truncate(end);
    }

    /// reg OP= rm.
    pub fn alu(&mut self, bits: u32, op: Alu, dst: Gpr, src: impl Into<Rm>) {
        let opcode = (op as u8) << 3 | if bits == 8 { 2 } else { 3 };
        self.op_rm(bits, &[opcode], dst.0, src.into(), bits == 8);
    }

    /// mem OP= reg.
    pub fn alu_mem(&mut self, bits: u32, op: Alu, dst: Mem, src: Gpr) {
        let opcode = (op as u8) << 3 | u8::from(bits != 8);
        self.op_rm(bits, &[opcode], src.0, dst.into(), bits == 8);
    }

    /// rm OP= imm (sign-extended to the width).
    pub fn alu_imm(&mut self, bits: u32, op: Alu, dst: impl Into<Rm>, imm: i32) {
        let dst = dst.into();
        if bits == 8 {
            self.op_rm(8, &[0x80], op as u8, dst, true);
            self.byte(imm as u8);
        } else if i8::try_from(imm).is_ok() {
            self.op_rm(bits, &[0x83], op as u8, dst, false);
            self.byte(imm as u8);
        } else {
            self.op_rm(bits, &[0x81], op as u8, dst, false);
            if bits == 16 {
                self.code.extend_from_slice(&(imm as u16).to_le_bytes());
            } else {
                self.dword(imm as u32);
            }
        }
    }

    /// Sets flags from rm & reg.
    pub fn test(&mut self, bits: u32, a: impl Into<Rm>, b: Gpr) {
        let opcode = if bits == 8 { 0x84 } else { 0x85 };
        self.op_rm(bits, &[opcode], b.0, a.into(), bits == 8);
    }

    /// Sets flags from rm & imm.
    pub fn test_imm(&mut self, bits: u32, a: impl Into<Rm>, imm: i32) {
        let a = a.into();
        if bits == 8 {
            self.op_rm(8, &[0xf6], 0, a, true);
            self.byte(imm as u8);
        } else {
            self.op_rm(bits, &[0xf7], 0, a, false);
            if bits == 16 {
                self.code.extend_from_slice(&(imm as u16).to_le_bytes());
            } else {
                self.dword(imm as u32);
            }
        }
    }

    /// 64-bit (or 32-bit) register move.
    pub fn mov(&mut self, bits: u32, dst: Gpr, src: impl Into<Rm>) {
        self.op_rm(bits.max(32), &[0x8b], dst.0, src.into(), false);
    }

    /// Loads an immediate in the shortest form, leaving flags alone.
    pub fn mov_imm(&mut self, dst: Gpr, imm: u64) {
        if imm <= u64::from(u32::MAX) {
            if dst.0 >= 8 {
                self.byte(0x41);
            }
            self.byte(0xb8 | (dst.0 & 7));
            self.dword(imm as u32);
        } else if imm as i64 >= i64::from(i32::MIN) && (imm as i64) < 0 {
            self.op_rm(64, &[0xc7], 0, dst.into(), false);
            self.dword(imm as u32);
        } else {
            self.byte(0x48 | dst.0 >> 3);
            self.byte(0xb8 | (dst.0 & 7));
            self.code.extend_from_slice(&imm.to_le_bytes());
        }
    }

    /// Stores the low `bits` of a register.
    pub fn store(&mut self, bits: u32, dst: Mem, src: Gpr) {
        let opcode = if bits == 8 { 0x88 } else { 0x89 };
        self.op_rm(bits, &[opcode], src.0, dst.into(), bits == 8);
    }

    /// Stores an immediate (sign-extended for 64 bits).
    pub fn store_imm(&mut self, bits: u32, dst: Mem, imm: i32) {
        let opcode = if bits == 8 { 0xc6 } else { 0xc7 };
        self.op_rm(bits, &[opcode], 0, dst.into(), false);
        match bits {
            8 => self.byte(imm as u8),
            16 => self.code.extend_from_slice(&(imm as u16).to_le_bytes()),
            _ => self.dword(imm as u32),
        }
    }

    /// Zero-extending load or move from 8, 16 or 32 bits to 64.
    pub fn movzx(&mut self, from: u32, dst: Gpr, src: impl Into<Rm>) {
        let src = src.into();
        match from {
            8 => self.op_rm(32, &[0x0f, 0xb6], dst.0, src, matches!(src, Rm::Reg(_))),
            16 => self.op_rm(32, &[0x0f, 0xb7], dst.0, src, false),
            32 => self.op_rm(32, &[0x8b], dst.0, src, false),
            _ => self.op_rm(64, &[0x8b], dst.0, src, false),
        }
    }

    /// Sign-extending load or move from `from` bits to `to` bits (32 or 64).
    pub fn movsx(&mut self, from: u32, to: u32, dst: Gpr, src: impl Into<Rm>) {
        let src = src.into();
        match from {
            8 => self.op_rm(to, &[0x0f, 0xbe], dst.0, src, matches!(src, Rm::Reg(_))),
            16 => self.op_rm(to, &[0x0f, 0xbf], dst.0, src, false),
            32 if to == 64 => self.op_rm(64, &[0x63], dst.0, src, false),
            _ => self.op_rm(to, &[0x8b], dst.0, src, false),
        }
    }

    /// Effective address.
    pub fn lea(&mut self, bits: u32, dst: Gpr, src: Mem) {
        self.op_rm(bits, &[0x8d], dst.0, src.into(), false);
    }

    /// Shift or rotate by an immediate.
    pub fn shift_imm(&mut self, bits: u32, op: Shift, dst: impl Into<Rm>, count: u8) {
        let opcode = if bits == 8 { 0xc0 } else { 0xc1 };
        self.op_rm(bits, &[opcode], op as u8, dst.into(), bits == 8);
        self.byte(count);
    }

    /// Shift or rotate by CL.
    pub fn shift_cl(&mut self, bits: u32, op: Shift, dst: impl Into<Rm>) {
        let opcode = if bits == 8 { 0xd2 } else { 0xd3 };
        self.op_rm(bits, &[opcode], op as u8, dst.into(), bits == 8);
    }

    /// NOT (2), NEG (3), MUL (4), IMUL (5), DIV (6), IDIV (7) on rm.
    pub fn group3(&mut self, bits: u32, digit: u8, rm: impl Into<Rm>) {
        let opcode = if bits == 8 { 0xf6 } else { 0xf7 };
        self.op_rm(bits, &[opcode], digit, rm.into(), bits == 8);
    }

    /// dst *= src (16, 32, 64 bits).
    pub fn imul(&mut self, bits: u32, dst: Gpr, src: impl Into<Rm>) {
        self.op_rm(bits, &[0x0f, 0xaf], dst.0, src.into(), false);
    }

    /// dst = src * imm.
    pub fn imul_imm(&mut self, bits: u32, dst: Gpr, src: impl Into<Rm>, imm: i32) {
        self.op_rm(bits, &[0x69], dst.0, src.into(), false);
        self.dword(imm as u32);
    }

    /// Byte swap of 32 or 64 bits.
    pub fn bswap(&mut self, bits: u32, dst: Gpr) {
        let rex = if bits == 64 { 0x48 } else { 0x40 } | dst.0 >> 3;
        if rex != 0x40 {
            self.byte(rex);
        }
        self.byte(0x0f);
        self.byte(0xc8 | (dst.0 & 7));
    }

    /// F3-prefixed 0F op: POPCNT (B8), TZCNT (BC), LZCNT (BD).
    pub fn bit_count(&mut self, bits: u32, op: u8, dst: Gpr, src: impl Into<Rm>) {
        self.byte(0xf3);
        self.op_rm_noprefix(bits == 64, &[0x0f, op], dst.0, src.into(), false);
    }

    /// 0F op reg, rm: BSF (BC), BSR (BD).
    pub fn bit_scan(&mut self, bits: u32, op: u8, dst: Gpr, src: impl Into<Rm>) {
        self.op_rm(bits, &[0x0f, op], dst.0, src.into(), false);
    }

    /// CRC32 of `bits` of src into the 32-bit dst.
    pub fn crc32(&mut self, bits: u32, dst: Gpr, src: impl Into<Rm>) {
        if bits == 16 {
            self.byte(0x66);
        }
        self.byte(0xf2);
        let op = if bits == 8 { 0xf0 } else { 0xf1 };
        self.op_rm_noprefix(bits == 64, &[0x0f, 0x38, op], dst.0, src.into(), bits == 8);
    }

    /// SETcc on the low byte of a register.
    pub fn setcc(&mut self, cc: Cc, dst: Gpr) {
        self.op_rm(8, &[0x0f, 0x90 | cc as u8], 0, dst.into(), true);
    }

    /// CMOVcc.
    pub fn cmov(&mut self, bits: u32, cc: Cc, dst: Gpr, src: impl Into<Rm>) {
        self.op_rm(bits.max(32), &[0x0f, 0x40 | cc as u8], dst.0, src.into(), false);
    }

    /// XCHG of memory and register (locked).
    pub fn xchg_mem(&mut self, bits: u32, mem: Mem, r: Gpr) {
        let opcode = if bits == 8 { 0x86 } else { 0x87 };
        self.op_rm(bits, &[opcode], r.0, mem.into(), bits == 8);
    }

    /// One instruction of 1 to 3 bytes that does nothing (SDM vol. 2, NOP).
    pub fn nop(&mut self, bytes: usize) {
        let code: &[u8] = match bytes {
            1 => &[0x90],
            2 => &[0x66, 0x90],
            _ => &[0x0f, 0x1f, 0x00],
        };
        self.code.extend_from_slice(code);
    }

    /// XCHG of two 64-bit registers.
    pub fn xchg(&mut self, a: Gpr, b: Gpr) {
        self.op_rm(64, &[0x87], a.0, b.into(), false);
    }

    /// Moves the low 8 or 16 bits of a register, leaving the rest of `dst` alone.
    pub fn mov_low(&mut self, bits: u32, dst: Gpr, src: Gpr) {
        let opcode = if bits == 8 { 0x8a } else { 0x8b };
        self.op_rm(bits, &[opcode], dst.0, src.into(), bits == 8);
    }

    /// Short JMP to be patched with [`Asm::patch_short`].
    pub fn jmp_short(&mut self) -> usize {
        self.byte(0xeb);
        self.byte(0);
        self.here() - 1
    }

    /// LOCK XADD.
    pub fn lock_xadd(&mut self, bits: u32, mem: Mem, r: Gpr) {
        self.byte(0xf0);
        let op = if bits == 8 { 0xc0 } else { 0xc1 };
        self.op_rm(bits, &[0x0f, op], r.0, mem.into(), bits == 8);
    }

    /// LOCK CMPXCHG (RAX compared).
    pub fn lock_cmpxchg(&mut self, bits: u32, mem: Mem, r: Gpr) {
        self.byte(0xf0);
        let op = if bits == 8 { 0xb0 } else { 0xb1 };
        self.op_rm(bits, &[0x0f, op], r.0, mem.into(), bits == 8);
    }

    /// CDQ / CQO.
    pub fn sign_extend_rax(&mut self, bits: u32) {
        if bits == 64 {
            self.byte(0x48);
        }
        self.byte(0x99);
    }

    /// A full fence for ordinary memory: LOCK OR DWORD PTR [RSP], 0, which is cheaper than MFENCE.
    pub fn full_fence(&mut self) {
        self.code.extend_from_slice(&[0xf0, 0x83, 0x0c, 0x24, 0x00]);
    }

    /// Jcc rel32 with a displacement to be patched; returns the offset of the displacement.
    pub fn jcc(&mut self, cc: Cc) -> usize {
        self.byte(0x0f);
        self.byte(0x80 | cc as u8);
        self.dword(0);
        self.here() - 4
    }

    /// Short jcc to be patched with [`Asm::patch_short`].
    pub fn jcc_short(&mut self, cc: Cc) -> usize {
        self.byte(0x70 | cc as u8);
        self.byte(0);
        self.here() - 1
    }

    /// Makes the short jump whose displacement is at `at` land here.
    pub fn patch_short(&mut self, at: usize) {
        let d = self.here() - (at + 1);
        debug_assert!(d < 128);
        self.code[at] = d as u8;
    }

    /// JMP rel32 to be patched; returns the offset of the displacement.
    pub fn jmp(&mut self) -> usize {
        self.byte(0xe9);
        self.dword(0);
        self.here() - 4
    }

    /// CALL rel32 to be patched; returns the offset of the displacement.
    pub fn call(&mut self) -> usize {
        self.byte(0xe8);
        self.dword(0);
        self.here() - 4
    }

    /// Makes the rel32 at `at` refer to offset `target` of this buffer.
    pub fn patch(&mut self, at: usize, target: usize) {
        let d = target as i64 - (at as i64 + 4);
        self.code[at..at + 4].copy_from_slice(&(d as i32).to_le_bytes());
    }

    /// JMP through a register or memory.
    pub fn jmp_rm(&mut self, rm: impl Into<Rm>) {
        self.op_rm(32, &[0xff], 4, rm.into(), false);
    }

    /// CALL through a register or memory.
    pub fn call_rm(&mut self, rm: impl Into<Rm>) {
        self.op_rm(32, &[0xff], 2, rm.into(), false);
    }

    /// LEA dst, [RIP + rel32] to be patched; returns the offset of the displacement.
    pub fn lea_rip(&mut self, dst: Gpr) -> usize {
        self.byte(0x48 | (dst.0 >> 3) << 2);
        self.byte(0x8d);
        self.byte(0x05 | (dst.0 & 7) << 3);
        self.dword(0);
        self.here() - 4
    }

    /// PUSH.
    pub fn push(&mut self, r: Gpr) {
        if r.0 >= 8 {
            self.byte(0x41);
        }
        self.byte(0x50 | (r.0 & 7));
    }

    /// POP.
    pub fn pop(&mut self, r: Gpr) {
        if r.0 >= 8 {
            self.byte(0x41);
        }
        self.byte(0x58 | (r.0 & 7));
    }

    /// VZEROUPPER.
    pub fn vzeroupper(&mut self) {
        self.code.extend_from_slice(&[0xc5, 0xf8, 0x77]);
    }

    /// RET.
    pub fn ret(&mut self) {
        self.byte(0xc3);
    }

    /// x87 instruction with a memory operand: opcode D8+`esc`, /`digit`.
    pub fn x87_mem(&mut self, esc: u8, digit: u8, mem: Mem) {
        self.op_rm(32, &[0xd8 + esc], digit, mem.into(), false);
    }

    /// A VEX-encoded instruction: reg, vvvv, rm. `l` is 256-bit.
    pub fn vex(&mut self, o: VOpcode, l: bool, reg: u8, vvvv: u8, rm: impl Into<Rm>) {
        let rm = rm.into();
        let bits = Self::rex_bits(reg, rm);
        let (r, x, b) = (bits >> 2 & 1, bits >> 1 & 1, bits & 1);
        let tail = (!vvvv & 15) << 3 | u8::from(l) << 2 | o.pp as u8;
        let mut i = Instruction::default();
        if x == 0 && b == 0 && !o.w && o.map == Map::M0F {
            i.byte(0xc5);
            i.byte((r ^ 1) << 7 | tail);
        } else {
            i.byte(0xc4);
            i.byte((r ^ 1) << 7 | (x ^ 1) << 6 | (b ^ 1) << 5 | o.map as u8);
            i.byte(u8::from(o.w) << 7 | tail);
        }
        i.byte(o.op);
        i.modrm(reg, rm);
        self.put(&i);
    }

    /// The same with an immediate byte.
    pub fn vex_imm(&mut self, o: VOpcode, l: bool, reg: u8, vvvv: u8, rm: impl Into<Rm>, imm: u8) {
        self.vex(o, l, reg, vvvv, rm);
        self.byte(imm);
    }

    /// A VEX-encoded instruction that reads memory at RIP + rel32, to be patched; returns the displacement's offset.
    pub fn vex_rip(&mut self, o: VOpcode, l: bool, reg: u8) -> usize {
        self.byte(0xc4);
        self.byte((reg >> 3 & 1 ^ 1) << 7 | 0x60 | o.map as u8);
        self.byte(u8::from(o.w) << 7 | 0x78 | u8::from(l) << 2 | o.pp as u8);
        self.byte(o.op);
        self.byte(0x05 | (reg & 7) << 3);
        self.dword(0);
        self.here() - 4
    }

    /// A legacy instruction of map 0F without prefix that reads memory at RIP + rel32, to be patched; returns the
    /// displacement's offset.
    pub fn sse_rip(&mut self, o: VOpcode, reg: u8) -> usize {
        if reg >= 8 {
            self.byte(0x44);
        }
        self.byte(0x0f);
        self.byte(o.op);
        self.byte(0x05 | (reg & 7) << 3);
        self.dword(0);
        self.here() - 4
    }

    /// A legacy-encoded SSE instruction: reg, rm.
    pub fn sse(&mut self, o: VOpcode, reg: u8, rm: impl Into<Rm>) {
        let mut i = Instruction::default();
        match o.pp {
            Pp::None => {}
            Pp::P66 => i.byte(0x66),
            Pp::F3 => i.byte(0xf3),
            Pp::F2 => i.byte(0xf2),
        }
        let opcode: &[u8] = match o.map {
            Map::M0F => &[0x0f, o.op],
            Map::M0F38 => &[0x0f, 0x38, o.op],
            Map::M0F3A => &[0x0f, 0x3a, o.op],
        };
        self.encode(i, o.w, opcode, reg, rm.into(), false);
    }
}

#[cfg(test)]
mod tests {
    use super::reg::*;
    use super::*;

    fn bytes(f: impl FnOnce(&mut Asm)) -> Vec<u8> {
        let mut a = Asm::default();
        f(&mut a);
        a.code
    }

    #[test]
    fn encodings_match_the_manual() {
        assert_eq!(bytes(|a| a.alu(64, Alu::Add, RAX, R8)), [0x49, 0x03, 0xc0]);
        assert_eq!(bytes(|a| a.mov(64, RCX, Mem::new(RBP, -8))), [0x48, 0x8b, 0x4d, 0xf8]);
        assert_eq!(bytes(|a| a.mov(64, RCX, Mem::new(RSP, 16))), [0x48, 0x8b, 0x4c, 0x24, 0x10]);
        assert_eq!(bytes(|a| a.lea(64, RSI, Mem::indexed(R13, R12, 3, 0))), [0x4b, 0x8d, 0x74, 0xe5, 0x00]);
        assert_eq!(
            bytes(|a| a.lea(64, RSI, Mem::unbased(R12, 2, 16))),
            [0x4a, 0x8d, 0x34, 0xa5, 0x10, 0x00, 0x00, 0x00]
        );
        assert_eq!(bytes(|a| a.store(8, Mem::new(RAX, 0), RSI)), [0x40, 0x88, 0x30]);
        assert_eq!(bytes(|a| a.setcc(Cc::E, RDI)), [0x40, 0x0f, 0x94, 0xc7]);
        assert_eq!(
            bytes(|a| a.vex(VOpcode::new(Pp::F2, Map::M0F, 0x58), false, 1, 2, Xmm(3))),
            [0xc5, 0xeb, 0x58, 0xcb]
        );
    }
}

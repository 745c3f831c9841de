//! What the translation of vector instructions works on, and what a unit knows of vtype and vl.
//!
//! Where vtype is known, vl is its VLMAX and vstart is 0, instructions become operations on whole registers. vtype and
//! vl are not in the mode word. A unit knows them after a vsetvli of its own, and at its start by a comparison with what
//! they were when it was translated. Where a comparison fails (vl is what was left for the last round of a loop, say),
//! the unit is left for another translation of the same instructions, which assumes nothing and calls
//! `rhea-riscv-vector`, until the next vsetvli. The two are told apart by bit 0 of the PC, which no instruction's address
//! has: an even PC is the one that compares, and the only one that other units go to. Between units the PC may be odd;
//! whoever looks at it takes the bit off.

use rhea_ir::{Builder, Cond, Exit, Inst, Lane, MemFlags, Op, Slot, Target, Type, Val};
use rhea_riscv_state::RiscvState;
use rhea_riscv_state::masking::Masking;
use rhea_riscv_state::state::HartConfig;
use rhea_riscv_vector::Vtype;
use std::mem::offset_of;

use crate::slots;

/// vl.
pub(crate) const VL: Slot = Slot::new(offset_of!(RiscvState, vl), Type::I64);
/// vtype.
pub(crate) const VTYPE: Slot = Slot::new(offset_of!(RiscvState, vtype), Type::I64);
/// vstart.
pub(crate) const VSTART: Slot = Slot::new(offset_of!(RiscvState, vstart), Type::I64);

/// vxsat.
pub(crate) const VXSAT: Slot = Slot::new(offset_of!(RiscvState, vxsat), Type::I32);

/// What is known of vl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// Nothing.
    Unknown,
    /// It has this value, and vstart is 0.
    Elements(u64),
}

/// What a unit knows, and the choices that hold for all of it.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The value of the vtype register, where it is known and legal.
    pub vtype: Option<(u64, Vtype)>,
    /// What is known of vl and vstart.
    pub length: Length,
    /// vtype when the unit was translated; nothing if nothing is to be assumed.
    pub hint: Option<u64>,
    /// Whole-register operations are worth it: the host has vectors of 256 bits and multiply-adds.
    pub inline: bool,
}

impl Known {
    /// At the start of a unit that may assume that vtype is `hint`.
    pub fn at_start(hint: Option<u64>) -> Known {
        Known { vtype: None, length: Length::Unknown, hint, inline: host_has_wide_vectors() }
    }
}

#[cfg(target_arch = "x86_64")]
fn host_has_wide_vectors() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
}

#[cfg(not(target_arch = "x86_64"))]
fn host_has_wide_vectors() -> bool {
    false
}

/// Who rounds as frm says, which is legal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// The host does.
    Host,
    /// The host has no such mode.
    Software,
}

/// Emits the operations of one vector instruction.
pub struct Emitter<'a> {
    /// Receives the operations.
    pub b: &'a mut Builder,
    /// What the hart is fixed to.
    pub config: &'a HartConfig,
    /// Attributes of data accesses.
    pub mem: MemFlags,
    /// Pointer masking of data accesses.
    pub masking: Masking,
    /// Address of the instruction.
    pub pc: u64,
    /// Address of the next one.
    pub next_pc: u64,
    /// The instruction's bits.
    pub bits: u32,
    /// Who rounds as frm says.
    pub rounding: Rounding,
    /// What the unit knows.
    pub known: &'a mut Known,
}

/// Elements of one register group as they are worked on: runs of `bytes` each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pieces {
    /// Bytes of a piece: 32, 16, 8 or 4. Pieces below 16 are the low end of a V128, zeros above.
    pub bytes: u32,
    /// Their number.
    pub count: u32,
}

impl Pieces {
    /// A group's `total` bytes in pieces; nothing if they do not come out even.
    pub fn of(total: u64) -> Option<Pieces> {
        let total = u32::try_from(total).ok()?;
        let bytes = [32, 16].into_iter().find(|bytes| total != 0 && total.is_multiple_of(*bytes));
        match bytes {
            Some(bytes) => Some(Pieces { bytes, count: total / bytes }),
            None if total == 8 || total == 4 => Some(Pieces { bytes: total, count: 1 }),
            None => None,
        }
    }

    /// The type a piece is computed in.
    pub fn ty(self) -> Type {
        if self.bytes == 32 { Type::V256 } else { Type::V128 }
    }
}

/// The lane of integers of `8 << sew` bits.
pub(crate) const fn lane(sew: u8) -> Lane {
    match sew {
        0 => Lane::I8,
        1 => Lane::I16,
        2 => Lane::I32,
        _ => Lane::I64,
    }
}

/// The low `8 << sew` bits of `value` in each lane, as a constant of 64 bits that is repeated.
pub(crate) const fn repeated(sew: u8, value: u64) -> u64 {
    match sew {
        0 => (value & 0xff) * 0x0101_0101_0101_0101,
        1 => (value & 0xffff) * 0x0001_0001_0001_0001,
        2 => (value & 0xffff_ffff) * 0x0000_0001_0000_0001,
        _ => value,
    }
}

impl Emitter<'_> {
    /// Byte offset of a vector register in the state.
    pub(crate) fn register(&self, number: u8) -> u32 {
        offset_of!(RiscvState, v) as u32 + u32::from(number & 31) * (self.config.vlen / 8)
    }

    /// Makes vtype and vl known, by a comparison if need be; false if nothing may be assumed.
    pub(crate) fn know(&mut self) -> bool {
        if self.known.length != Length::Unknown {
            return true;
        }
        let Some(hint) = self.known.hint else { return false };
        let Some(parsed) = Vtype::parse(self.config, hint) else { return false };
        let max = parsed.vlmax(self.config);
        let (vl, vtype, vstart) = (self.b.get(VL), self.b.get(VTYPE), self.b.get(VSTART));
        let other_vl = self.b.bin_imm(Op::Xor, vl, max);
        let other_vtype = self.b.bin_imm(Op::Xor, vtype, hint);
        let other = self.b.bin(Op::Or, other_vl, other_vtype);
        let other = self.b.bin(Op::Or, other, vstart);
        let other = self.b.icmp_imm(Cond::Ne, other, 0);
        self.unassume_if(other);
        self.assume(hint, parsed, max);
        true
    }

    /// Notes what vtype and vl are from here on.
    pub(crate) fn assume(&mut self, raw: u64, vtype: Vtype, vl: u64) {
        self.known.vtype = Some((raw, vtype));
        self.known.length = Length::Elements(vl);
    }

    /// Number of elements, if known.
    pub(crate) fn elements(&self) -> Option<u64> {
        match self.known.length {
            Length::Elements(n) => Some(n),
            Length::Unknown => None,
        }
    }

    /// Puts the instruction's bits where an illegal-instruction exception looks for them.
    pub(crate) fn note_bits(&mut self) {
        let bits = self.b.iconst(Type::I64, self.bits.into());
        self.b.put(slots::scratch(0), bits);
    }

    /// Goes on at this instruction without assumptions if `cond` (I8) is 1.
    pub(crate) fn unassume_if(&mut self, cond: Val) {
        self.b.exit_if(cond, Exit::Jump(Target::Static(self.pc | 1)));
    }

    // ---- pieces of groups ----

    /// The piece at a byte offset of the state.
    fn piece_slot(&self, register: u8, pieces: Pieces, i: u32) -> Slot {
        let at = self.register(register) + i * pieces.bytes;
        let ty = match pieces.bytes {
            32 => Type::V256,
            16 => Type::V128,
            8 => Type::I64,
            _ => Type::I32,
        };
        Slot { offset: at, ty }
    }

    /// Piece `i` of the group that begins with `register`.
    pub(crate) fn piece(&mut self, register: u8, pieces: Pieces, i: u32) -> Val {
        let value = self.b.get(self.piece_slot(register, pieces, i));
        if pieces.bytes >= 16 {
            value
        } else {
            self.b.convert(Op::VFromInt, Type::V128, Lane::None, 0, value)
        }
    }

    /// Writes piece `i`; bytes of `value` above the piece are dropped.
    pub(crate) fn put_piece(&mut self, register: u8, pieces: Pieces, i: u32, value: Val) {
        let slot = self.piece_slot(register, pieces, i);
        let value = match pieces.bytes {
            8 => self.b.vextract(Lane::I64, value, 0),
            4 => self.b.vextract(Lane::I32, value, 0),
            _ => value,
        };
        self.b.put(slot, value);
    }

    /// Writes all pieces.
    pub(crate) fn put_pieces(&mut self, register: u8, pieces: Pieces, values: &[Val]) {
        for (i, value) in values.iter().enumerate() {
            self.put_piece(register, pieces, i as u32, *value);
        }
    }

    /// The 128 bits at 16 × `i` bytes of a group of `total` bytes, by way of the pieces it is otherwise worked on in.
    pub(crate) fn half_piece(&mut self, register: u8, pieces: Pieces, i: u32) -> Val {
        if pieces.bytes != 32 {
            return self.piece(register, pieces, i);
        }
        let whole = self.piece(register, pieces, i / 2);
        self.half(whole, i % 2)
    }

    /// Half `i` of a V256.
    pub(crate) fn half(&mut self, value: Val, i: u32) -> Val {
        self.b.push(Inst { a: value, imm: i.into(), ..Inst::new(Op::VExtractHalf, Type::V128) })
    }

    /// A V256 of two V128.
    pub(crate) fn joined(&mut self, low: Val, high: Val) -> Val {
        let wide = self.b.convert(Op::VResize, Type::V256, Lane::None, 0, low);
        self.b.vbin_imm(Op::VInsertHalf, Lane::None, wide, high, 1)
    }

    /// A constant in each lane.
    pub(crate) fn constant(&mut self, ty: Type, sew: u8, value: u64) -> Val {
        self.b.iconst(ty, repeated(sew, value))
    }

    /// The low `8 << sew` bits of an I64 in each lane.
    pub(crate) fn splat(&mut self, ty: Type, sew: u8, value: Val) -> Val {
        if let Some(value) = self.b.as_const(value) {
            return self.constant(ty, sew, value);
        }
        let vector = self.b.convert(Op::VFromInt, Type::V128, Lane::None, 0, value);
        self.b.convert(Op::VSplat, ty, lane(sew), 0, vector)
    }
}

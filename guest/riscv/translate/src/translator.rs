//! The state of a translation in progress: what every instruction's function works on.

use rhea_ir::{Builder, Cond, Exit, MemFlags, Op, Slot, Target, Type, Val};
use rhea_riscv_state::extension::Extension;
use rhea_riscv_state::masking::Masking;
use rhea_riscv_state::state::{HartConfig, mode};

use crate::{Translator, Xreg, helpers, reasons, slots};

/// Translates instructions into a [`Builder`].
///
/// Rules for the functions of an instruction: read operands, do everything that may fault (loads, stores, exits,
/// helpers that may exit), then write registers. After something ended the unit (`illegal`, `jump`, `leave`…) nothing
/// more may be emitted: return at once.
pub struct UnitTranslator<'a> {
    /// Receives the operations.
    pub b: &'a mut Builder,
    /// What the hart is fixed to.
    pub config: &'a HartConfig,
    /// Mode word of the unit (see [`mode`]).
    pub mode: u64,
    /// Address of the instruction at hand.
    pub pc: u64,
    /// Address of the next one.
    pub next_pc: u64,
    /// The instruction at hand, as a trap value shows it.
    pub bits: u32,
    /// Attributes of data accesses.
    pub mem: MemFlags,
    /// What is known of vtype and vl.
    pub(crate) vector: crate::vector::Known,
}

impl Translator for UnitTranslator<'_> {
    type Output = ();
}

impl<'a> UnitTranslator<'a> {
    /// A translator for a unit that starts under `mode_word`; `b` has been started.
    pub fn new(b: &'a mut Builder, config: &'a HartConfig, mode_word: u64, vtype: Option<u64>) -> Self {
        let index = (mode_word & mode::DATA) >> mode::DATA_SHIFT;
        UnitTranslator {
            b,
            config,
            mode: mode_word,
            pc: 0,
            next_pc: 0,
            bits: 0,
            mem: MemFlags::new(index as u8),
            vector: crate::vector::Known::at_start(vtype),
        }
    }

    /// Starts the instruction of `len` bytes at `pc`.
    pub fn start(&mut self, pc: u64, len: u32, bits: u32) {
        self.pc = pc;
        self.next_pc = pc.wrapping_add(len.into()) & self.config.mask();
        self.bits = bits;
        self.b.insn(pc, len);
    }

    /// On a hart of 32 bits.
    pub fn is_rv32(&self) -> bool {
        self.config.xlen == 32
    }

    /// The type of an integer register's value.
    pub fn xlen(&self) -> Type {
        if self.is_rv32() { Type::I32 } else { Type::I64 }
    }

    // ---- leaving ----

    /// Whether the unit has been ended.
    pub fn is_ended(&self) -> bool {
        self.b.is_ended()
    }

    /// Ends the unit with an illegal-instruction exception.
    pub fn illegal(&mut self) {
        let bits = self.b.iconst(Type::I64, self.bits.into());
        self.b.put(slots::scratch(0), bits);
        self.leave(reasons::ILLEGAL);
    }

    /// Ends the unit at this instruction for `reason`.
    pub fn leave(&mut self, reason: u32) {
        self.b.exit(Exit::Leave { reason, pc: Some(self.pc) });
    }

    /// Ends the unit after this instruction; the dispatcher looks at the mode word and at interrupts.
    pub fn leave_after(&mut self) {
        self.b.exit(Exit::Leave { reason: reasons::RESUME, pc: Some(self.next_pc) });
    }

    /// Ends the unit with a jump to a known address.
    pub fn jump(&mut self, pc: u64) {
        self.b.exit(Exit::Jump(Target::Static(pc & self.config.mask())));
    }

    /// Whether an instruction may stand at `pc`.
    pub fn is_aligned(&self, pc: u64) -> bool {
        pc & 3 == 0 || self.config.has(Extension::Zca)
    }

    /// The exit to a known target; an exception of the jump itself if no instruction may stand there.
    pub fn exit_to(&mut self, target: u64) -> Exit {
        let target = target & self.config.mask();
        if self.is_aligned(target) {
            return Exit::Jump(Target::Static(target));
        }
        let value = self.b.iconst(Type::I64, target);
        self.b.put(slots::scratch(0), value);
        Exit::Leave { reason: reasons::MISALIGNED_TARGET, pc: Some(self.pc) }
    }

    /// Calls helper `id`.
    pub fn helper(&mut self, id: u32, args: &[Val]) -> Val {
        let info = helpers::info(id);
        self.b.call(id, info, args)
    }

    /// Marks units as changed: `fields` of the status registers, `bits` of the mode word.
    pub(crate) fn mark_dirty(&mut self, fields: u64, bits: u64) {
        let registers: &[Slot] = if self.mode & mode::VIRTUAL != 0 {
            &[slots::MSTATUS, slots::VSSTATUS]
        } else {
            &[slots::MSTATUS]
        };
        for register in registers {
            let status = self.b.get(*register);
            let status = self.b.bin_imm(Op::Or, status, fields);
            self.b.put(*register, status);
        }
        let word = self.c64(self.mode | bits);
        self.b.put(slots::MODE, word);
    }

    // ---- values ----

    /// A constant of 64 bits.
    pub fn c64(&mut self, value: u64) -> Val {
        self.b.iconst(Type::I64, value)
    }

    /// All 64 bits that integer register `r` is kept in.
    pub fn x64(&mut self, r: Xreg) -> Val {
        if r.0 == 0 { self.c64(0) } else { self.b.get(slots::x(usize::from(r.0 & 31))) }
    }

    /// The low 32 bits of integer register `r`.
    pub fn x32(&mut self, r: Xreg) -> Val {
        let value = self.x64(r);
        self.b.zext(Type::I32, value)
    }

    /// Integer register `r` as a value of XLEN bits.
    pub fn x(&mut self, r: Xreg) -> Val {
        if self.is_rv32() { self.x32(r) } else { self.x64(r) }
    }

    /// Writes integer register `r`: narrower values are sign-extended, which is how those of 32 bits are kept, and
    /// what the W instructions ask for.
    pub fn set_x(&mut self, r: Xreg, value: Val) {
        if r.0 != 0 {
            let value = self.b.sext(Type::I64, value);
            self.b.put(slots::x(usize::from(r.0 & 31)), value);
        }
    }

    /// Writes an I8 truth value.
    pub fn set_x_truth(&mut self, r: Xreg, truth: Val) {
        let value = self.b.zext(Type::I64, truth);
        self.set_x(r, value);
    }

    /// An immediate as a value of XLEN bits.
    pub fn imm(&mut self, value: i32) -> Val {
        let ty = self.xlen();
        self.b.iconst(ty, i64::from(value) as u64)
    }

    /// Address `rs1 + offset` of a load or store, as pointer masking leaves it.
    pub fn address(&mut self, rs1: Xreg, offset: i32) -> Val {
        let address = self.target(rs1, offset);
        masked(self.b, Masking::of_mode(self.mode), address)
    }

    /// Address `rs1 + offset`.
    pub fn target(&mut self, rs1: Xreg, offset: i32) -> Val {
        let base = self.x64(rs1);
        let sum = self.b.lea(base, Val::NONE, 0, i64::from(offset) as u64);
        self.wrap(sum)
    }

    /// An address cut to XLEN bits.
    pub fn wrap(&mut self, address: Val) -> Val {
        if !self.is_rv32() {
            return address;
        }
        let low = self.b.zext(Type::I32, address);
        self.b.zext(Type::I64, low)
    }

    /// `if_true` where `truth` (I8) is 1, else `if_false`.
    pub fn choose(&mut self, truth: Val, if_true: Val, if_false: Val) -> Val {
        self.b.select(truth, if_true, if_false)
    }

    /// Whether an integer is zero.
    pub fn is_zero(&mut self, value: Val) -> Val {
        self.b.icmp_imm(Cond::Eq, value, 0)
    }

    /// a OP b.
    pub fn op(&mut self, op: Op, a: Val, b: Val) -> Val {
        self.b.bin(op, a, b)
    }
}

/// An address after pointer masking.
pub(crate) fn masked(b: &mut Builder, masking: Masking, address: Val) -> Val {
    if masking.length() == 0 {
        return address;
    }
    if !masking.is_virtual() {
        return b.and_imm(address, masking.apply(u64::MAX));
    }
    let shifted = b.bin_imm(Op::Shl, address, masking.length().into());
    b.bin_imm(Op::Sar, shifted, masking.length().into())
}

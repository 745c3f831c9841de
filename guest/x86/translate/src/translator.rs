//! The state of a translation in progress: what every instruction's function works on.

use iced_x86::{Instruction, OpKind, Register};
use rhea_ir::{Builder, Cond, Exit, MemFlags, Target, Type, Val};
use rhea_x86_state::mode;
use rhea_x86_state::state::seg;

use crate::cc::Flags;
use crate::helpers;
use crate::reasons;

/// Translates instructions into a [`Builder`].
///
/// Rules for the functions of an instruction: read operands, do everything that may fault (loads, stores,
/// `raise_if`, helpers that may exit), then write registers and flags. After something ended the unit
/// (`raise`, `jump`, `leave`…) nothing more may be emitted: return at once.
pub struct Translator<'a> {
    /// Receives the operations.
    pub b: &'a mut Builder,
    /// Mode word of the unit (see [`mode`]).
    pub mode: u64,
    /// The instruction at hand.
    pub insn: Instruction,
    /// Its address (RIP, EIP or IP: an offset in CS).
    pub pc: u64,
    /// Address of the next instruction, wrapped at the width of the instruction pointer.
    pub next_pc: u64,
    /// Attributes of data accesses at the current privilege.
    pub mem: MemFlags,
    /// What is known of the condition flags.
    pub flags: Flags,
    /// What is known of the operation before the INC or DEC that `flags` names: CF comes from it.
    pub(crate) carry_source: Flags,
    /// Mode word the unit started under. CLAC and STAC change `mode` within a unit.
    pub start_mode: u64,
    /// STI was the last instruction: the next one ends the unit, and then interrupts are looked at.
    pub shadow_next: bool,
    /// The instruction at hand is the one after STI.
    pub in_shadow: bool,
    /// What is known of vector registers.
    pub(crate) vector: crate::vector::VectorState,
    /// What is known of the x87 stack.
    pub(crate) stack: crate::x87::Stack,
    /// A value and its zero extension to I64, to widen each result once.
    widened: (Val, Val),
}

/// MMU index of user accesses.
pub const MMU_USER: u8 = 0;
/// MMU index of supervisor accesses.
pub const MMU_SUPERVISOR: u8 = 1;
/// MMU index of supervisor accesses with SMAP in force.
pub const MMU_SMAP: u8 = 2;
/// MMU index of implicit supervisor accesses (descriptor tables, TSS).
pub const MMU_SYSTEM: u8 = 3;

/// MMU index of explicit data accesses under `mode_word`.
pub const fn data_index(mode_word: u64) -> u8 {
    if mode_word & mode::CPL == 3 {
        MMU_USER
    } else if mode_word & mode::SMAP != 0 {
        MMU_SMAP
    } else {
        MMU_SUPERVISOR
    }
}

impl<'a> Translator<'a> {
    /// A translator for a unit that starts under `mode_word`; `b` has been started.
    pub fn new(b: &'a mut Builder, mode_word: u64) -> Self {
        let mut mem = MemFlags::new(data_index(mode_word));
        if mode_word & mode::ALIGNMENT_CHECK != 0 {
            mem = mem.with(MemFlags::ALIGNED);
        }
        Translator {
            b,
            mode: mode_word,
            insn: Instruction::default(),
            pc: 0,
            next_pc: 0,
            mem,
            flags: Flags::unknown(),
            carry_source: Flags::unknown(),
            start_mode: mode_word,
            shadow_next: false,
            in_shadow: false,
            vector: Default::default(),
            stack: Default::default(),
            widened: (Val::NONE, Val::NONE),
        }
    }

    // ---- mode ----

    /// In 64-bit mode.
    pub fn is64(&self) -> bool {
        self.mode & mode::CS64 != 0
    }

    /// Current privilege level, 0..=3.
    pub fn cpl(&self) -> u64 {
        self.mode & mode::CPL
    }

    /// In protected mode and not virtual-8086 mode.
    pub fn is_protected(&self) -> bool {
        self.mode & (mode::PE | mode::VM86) == mode::PE
    }

    /// In real or virtual-8086 mode.
    pub fn is_real_like(&self) -> bool {
        !self.is_protected()
    }

    /// Whether the unit may hold only this instruction, and each ends in the dispatcher.
    pub fn single(&self) -> bool {
        self.mode & (mode::TF | mode::SHADOW | mode::DATA_BREAKPOINTS | mode::CODE_BREAKPOINTS) != 0
    }

    /// Mask of the instruction pointer by the code segment's default size.
    pub fn ip_mask(&self) -> u64 {
        if self.is64() {
            u64::MAX
        } else if self.mode & mode::CS32 != 0 {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    // ---- leaving ----

    /// Whether the unit has been ended.
    pub fn is_ended(&self) -> bool {
        self.b.is_ended()
    }

    /// Ends the unit by exception `vector` (error code 0 where it has one) at this instruction.
    pub fn raise(&mut self, vector: u8) {
        self.b.exit(Exit::Leave { reason: reasons::fault(vector), pc: Some(self.pc) });
    }

    /// Raises exception `vector` if `cond` (I8) is 1.
    pub fn raise_if(&mut self, cond: Val, vector: u8) {
        self.b.exit_if(cond, Exit::Leave { reason: reasons::fault(vector), pc: Some(self.pc) });
    }

    /// Ends the unit with #UD.
    pub fn undefined(&mut self) {
        self.raise(reasons::vector::UD);
    }

    /// Ends the unit with #GP(0).
    pub fn general_protection(&mut self) {
        self.raise(reasons::vector::GP);
    }

    /// Reason for leaving after a complete instruction.
    fn resume_reason(&self) -> u32 {
        if !self.single() {
            reasons::RESUME
        } else if self.mode & mode::TF != 0 {
            reasons::TRAP
        } else {
            reasons::STEP
        }
    }

    /// The exit to `target`: a chained jump, unless the dispatcher has something to look at first.
    pub fn exit_to(&mut self, target: Target) -> Exit {
        if !self.single() && !self.in_shadow && self.mode == self.start_mode {
            return Exit::Jump(target);
        }
        let reason = self.resume_reason();
        match target {
            Target::Static(pc) => Exit::Leave { reason, pc: Some(pc) },
            Target::Dynamic(v) => {
                self.b.put(crate::slots::RIP, v);
                Exit::Leave { reason, pc: None }
            }
        }
    }

    /// Ends the unit with a jump to `target`.
    pub fn jump(&mut self, target: Target) {
        let exit = self.exit_to(target);
        self.b.exit(exit);
    }

    /// Ends the unit after this instruction, with the mode word unchanged.
    pub fn end_after(&mut self) {
        let next = self.next_pc;
        if !self.is64() && self.mode & mode::CHECK_SEGMENTS != 0 {
            // Execution may run past the segment's end: that fault is the next instruction's.
            let limit = self.b.get(crate::slots::segment_limit(seg::CS));
            let pc = self.b.iconst(Type::I32, next);
            let out = self.b.icmp(Cond::GtU, pc, limit);
            let exit = Exit::Leave { reason: reasons::fault(reasons::vector::GP), pc: Some(next) };
            self.b.exit_if(out, exit);
        }
        self.jump(Target::Static(next));
    }

    /// Ends the unit after this instruction; the dispatcher looks at the mode word and at interrupts.
    pub fn leave_after(&mut self) {
        let reason = self.resume_reason();
        self.b.exit(Exit::Leave { reason, pc: Some(self.next_pc) });
    }

    /// Ends the unit after a helper that set the PC slot itself.
    pub fn leave_at_slot(&mut self) {
        let reason = self.resume_reason();
        self.b.exit(Exit::Leave { reason, pc: None });
    }

    // ---- helpers ----

    /// Calls helper `id`.
    pub fn helper(&mut self, id: u32, args: &[Val]) -> Val {
        let info = helpers::info(id);
        if info.writes.touches(crate::slots::CC_OP.offset, 4) {
            self.flags = Flags::unknown();
        }
        if info.writes.touches(crate::slots::X87_TOP.offset, 8) {
            self.forget_x87();
        }
        self.b.call(id, info, args)
    }

    // ---- values ----

    /// An I64 constant.
    pub fn c64(&mut self, value: u64) -> Val {
        self.b.iconst(Type::I64, value)
    }

    /// Integer `v` zero-extended to I64; remembers the last answer.
    pub fn widen(&mut self, v: Val) -> Val {
        if self.b.ty(v) == Type::I64 {
            return v;
        }
        if self.widened.0 != v {
            self.widened = (v, self.b.zext(Type::I64, v));
        }
        self.widened.1
    }

    /// Some I64 whose low bits are `v`: for places that ignore what is above.
    pub fn any64(&mut self, v: Val) -> Val {
        let inst = *self.b.unit.inst(v);
        if inst.op == rhea_ir::Op::Trunc && self.b.ty(inst.a) == Type::I64 {
            return inst.a;
        }
        self.widen(v)
    }

    /// Starts the translation of `insn`.
    pub fn start_insn(&mut self, insn: Instruction) {
        self.in_shadow = self.shadow_next;
        self.shadow_next = false;
        self.pc = insn.ip();
        self.next_pc = insn.next_ip() & self.ip_mask();
        self.insn = insn;
        self.b.insn(self.pc, insn.len() as u32);
        if self.mode & mode::CODE_BREAKPOINTS != 0 {
            let linear = if self.is64() {
                self.pc
            } else {
                (self.mode >> mode::CS_BASE_SHIFT).wrapping_add(self.pc) & 0xffff_ffff
            };
            let linear = self.c64(linear);
            self.helper(helpers::CHECK_BREAKPOINT, &[linear]);
        }
        if self.mode & mode::SHADOW != 0 {
            // This is the instruction in the shadow; should it fault, the shadow is over all the same.
            let zero = self.b.iconst(Type::I32, 0);
            self.b.put(crate::slots::INTERRUPT_SHADOW, zero);
        }
    }

    /// Whether operand `i` is in memory.
    pub fn is_memory(&self, i: u32) -> bool {
        self.insn.op_kind(i) == OpKind::Memory
    }

    /// Register operand `i`.
    pub fn register(&self, i: u32) -> Register {
        self.insn.op_register(i)
    }
}

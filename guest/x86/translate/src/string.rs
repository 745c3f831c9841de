//! String instructions, with and without repetition.
//!
//! A repeated instruction does one iteration and jumps to itself, so that every iteration is complete before an
//! interrupt or fault can come. REP MOVS and REP STOS hand as much as lies within a page to a helper.

use iced_x86::{Mnemonic, OpKind};
use rhea_ir::{Cond, Exit, Op, Target, Type, Val};
use rhea_x86_state::mode;
use rhea_x86_state::state::{gpr, seg};

use crate::helpers;
use crate::operand::{Place, segment_index};
use crate::slots;
use crate::translator::Translator;

/// How an instruction repeats.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// Not at all.
    No,
    /// RCX times.
    Count,
    /// RCX times at most, while ZF is this.
    While(bool),
}

impl Translator<'_> {
    /// String instructions; false if the instruction is none.
    pub(crate) fn strings(&mut self) -> bool {
        use Mnemonic as M;
        if !self.insn.is_string_instruction() {
            return false;
        }
        let ty = match self.insn.mnemonic() {
            M::Movsb | M::Cmpsb | M::Stosb | M::Lodsb | M::Scasb | M::Insb | M::Outsb => Type::I8,
            M::Movsw | M::Cmpsw | M::Stosw | M::Lodsw | M::Scasw | M::Insw | M::Outsw => Type::I16,
            M::Movsd | M::Cmpsd | M::Stosd | M::Lodsd | M::Scasd | M::Insd | M::Outsd => Type::I32,
            _ => Type::I64,
        };
        match self.insn.mnemonic() {
            M::Movsb | M::Movsw | M::Movsd | M::Movsq => self.movs(ty),
            M::Stosb | M::Stosw | M::Stosd | M::Stosq => self.stos(ty),
            M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => self.lods(ty),
            M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq => self.cmps(ty),
            M::Scasb | M::Scasw | M::Scasd | M::Scasq => self.scas(ty),
            M::Insb | M::Insw | M::Insd => self.ins(ty),
            M::Outsb | M::Outsw | M::Outsd => self.outs(ty),
            _ => return false,
        }
        true
    }

    fn repeat(&self, compares: bool) -> Repeat {
        let (rep, repne) = (self.insn.has_rep_prefix(), self.insn.has_repne_prefix());
        match (compares, rep, repne) {
            (_, false, false) => Repeat::No,
            (true, _, true) => Repeat::While(false),
            (true, _, false) => Repeat::While(true),
            (false, ..) => Repeat::Count,
        }
    }

    /// Address width of the string operands.
    fn string_bits(&self) -> u32 {
        for i in 0..self.insn.op_count() {
            match self.insn.op_kind(i) {
                OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => return 16,
                OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => return 32,
                OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => return 64,
                _ => {}
            }
        }
        if self.is64() { 64 } else { 32 }
    }

    /// Begins a repeated instruction: nothing happens when the counter is zero.
    fn begin(&mut self, repeat: Repeat, bits: u32) {
        if repeat == Repeat::No {
            return;
        }
        let n = self.counter(bits);
        let zero = self.b.icmp_imm(Cond::Eq, n, 0);
        let next = self.next_pc;
        let done = self.exit_to(Target::Static(next));
        self.b.exit_if(zero, done);
    }

    /// Ends an iteration; registers have moved and flags are set.
    fn finish(&mut self, repeat: Repeat, bits: u32) {
        if repeat == Repeat::No {
            return;
        }
        let n = self.counter(bits);
        let less = self.b.add_imm(n, u64::MAX);
        let less = self.wrap(less, bits);
        self.set_counter(bits, less);
        let mut stop = self.b.icmp_imm(Cond::Eq, less, 0);
        if let Repeat::While(zf) = repeat {
            let cc = if zf { iced_x86::ConditionCode::ne } else { iced_x86::ConditionCode::e };
            let differs = self.condition(cc);
            stop = self.b.or(stop, differs);
        }
        let next = self.next_pc;
        let done = self.exit_to(Target::Static(next));
        self.b.exit_if(stop, done);
        let again = self.pc;
        self.jump(Target::Static(again));
    }

    /// Element size or its negation by DF, I64.
    fn step(&mut self, ty: Type) -> Val {
        let df = self.b.get(slots::DF);
        let df = self.b.zext(Type::I64, df);
        let twice = self.b.bin_imm(Op::Shl, df, u64::from(ty.bytes().trailing_zeros() + 1));
        let size = self.c64(u64::from(ty.bytes()));
        self.b.sub(size, twice)
    }

    fn source(&mut self, ty: Type, bits: u32) -> Val {
        let segment = segment_index(self.insn.memory_segment()).unwrap_or(seg::DS);
        let offset = self.index_register(gpr::RSI, bits);
        self.linear(Place { segment, offset }, ty.bytes(), false)
    }

    fn destination(&mut self, ty: Type, bits: u32, write: bool) -> Val {
        let offset = self.index_register(gpr::RDI, bits);
        self.linear(Place { segment: seg::ES, offset }, ty.bytes(), write)
    }

    fn advance(&mut self, index: usize, bits: u32, step: Val) {
        let v = self.gpr(index);
        let v = self.b.add(v, step);
        self.set_index_register(index, bits, v);
    }

    /// Whether the addresses are offsets from zero, so that a helper can work on linear addresses.
    fn is_flat(&self, segment: usize) -> bool {
        let plain = segment != seg::FS && segment != seg::GS;
        let modes = mode::CHECK_SEGMENTS | mode::ADD_SEGMENT;
        plain && !self.single() && (self.is64() || self.mode & modes == 0 && segment != seg::CS)
    }

    /// REP MOVS or REP STOS by a helper, which does some iterations, at least one, or raises.
    fn bulk(&mut self, helper: u32, ty: Type, bits: u32) {
        self.begin(Repeat::Count, bits);
        let what = u64::from(ty.bytes()) | u64::from(bits) << 8 | u64::from(self.mem.index()) << 16;
        let what = self.b.iconst(Type::I32, what);
        self.helper(helper, &[what]);
        let n = self.counter(bits);
        let more = self.b.icmp_imm(Cond::Ne, n, 0);
        let again = Exit::Jump(Target::Static(self.pc));
        self.b.exit_if(more, again);
        self.end_after();
    }

    fn movs(&mut self, ty: Type) {
        let bits = self.string_bits();
        let repeat = self.repeat(false);
        let segment = segment_index(self.insn.memory_segment()).unwrap_or(seg::DS);
        if repeat == Repeat::Count && self.is_flat(segment) && self.mode & mode::ALIGNMENT_CHECK == 0 {
            return self.bulk(helpers::REP_MOVS, ty, bits);
        }
        self.begin(repeat, bits);
        let from = self.source(ty, bits);
        let v = self.load(ty, from);
        let to = self.destination(ty, bits, true);
        self.store(to, v);
        let step = self.step(ty);
        self.advance(gpr::RSI, bits, step);
        self.advance(gpr::RDI, bits, step);
        self.finish(repeat, bits);
    }

    fn stos(&mut self, ty: Type) {
        let bits = self.string_bits();
        let repeat = self.repeat(false);
        if repeat == Repeat::Count && self.is_flat(seg::ES) && self.mode & mode::ALIGNMENT_CHECK == 0 {
            return self.bulk(helpers::REP_STOS, ty, bits);
        }
        self.begin(repeat, bits);
        let to = self.destination(ty, bits, true);
        let v = self.gpr_low(gpr::RAX, ty);
        self.store(to, v);
        let step = self.step(ty);
        self.advance(gpr::RDI, bits, step);
        self.finish(repeat, bits);
    }

    fn lods(&mut self, ty: Type) {
        let bits = self.string_bits();
        let repeat = self.repeat(false);
        self.begin(repeat, bits);
        let from = self.source(ty, bits);
        let v = self.load(ty, from);
        self.set_gpr(gpr::RAX, v);
        let step = self.step(ty);
        self.advance(gpr::RSI, bits, step);
        self.finish(repeat, bits);
    }

    fn cmps(&mut self, ty: Type) {
        let bits = self.string_bits();
        let repeat = self.repeat(true);
        self.begin(repeat, bits);
        let from = self.source(ty, bits);
        let a = self.load(ty, from);
        let with = self.destination(ty, bits, false);
        let b = self.load(ty, with);
        let step = self.step(ty);
        self.advance(gpr::RSI, bits, step);
        self.advance(gpr::RDI, bits, step);
        let r = self.b.sub(a, b);
        self.set_flags_sub(a, b, r);
        self.finish(repeat, bits);
    }

    fn scas(&mut self, ty: Type) {
        let bits = self.string_bits();
        let repeat = self.repeat(true);
        self.begin(repeat, bits);
        let with = self.destination(ty, bits, false);
        let b = self.load(ty, with);
        let a = self.gpr_low(gpr::RAX, ty);
        let step = self.step(ty);
        self.advance(gpr::RDI, bits, step);
        let r = self.b.sub(a, b);
        self.set_flags_sub(a, b, r);
        self.finish(repeat, bits);
    }

    fn ins(&mut self, ty: Type) {
        let bits = self.string_bits();
        let repeat = self.repeat(false);
        self.begin(repeat, bits);
        let to = self.destination(ty, bits, true);
        let port = self.gpr_low(gpr::RDX, Type::I32);
        let size = self.b.iconst(Type::I32, u64::from(ty.bytes()));
        self.helper(helpers::CHECK_IO, &[port, size]);
        // The store must not fail once the port has been read.
        self.load_for_write(ty, to);
        let v = self.helper(helpers::PORT_IN, &[port, size]);
        let v = self.b.zext(ty, v);
        self.store(to, v);
        let step = self.step(ty);
        self.advance(gpr::RDI, bits, step);
        self.finish(repeat, bits);
    }

    fn outs(&mut self, ty: Type) {
        let bits = self.string_bits();
        let repeat = self.repeat(false);
        self.begin(repeat, bits);
        let port = self.gpr_low(gpr::RDX, Type::I32);
        let size = self.b.iconst(Type::I32, u64::from(ty.bytes()));
        self.helper(helpers::CHECK_IO, &[port, size]);
        let from = self.source(ty, bits);
        let v = self.load(ty, from);
        let v = self.b.zext(Type::I32, v);
        self.helper(helpers::PORT_OUT, &[port, size, v]);
        let step = self.step(ty);
        self.advance(gpr::RSI, bits, step);
        self.finish(repeat, bits);
    }
}

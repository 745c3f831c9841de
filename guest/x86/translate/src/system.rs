//! System instructions: inline where they only move state that translated code can name, otherwise a helper over
//! `rhea-x86-system`.

use iced_x86::{Code, Mnemonic, OpKind, Register};
use rhea_ir::{Cond, Exit, Op, Type, Val};
use rhea_x86_state::state::{gpr, seg};
use rhea_x86_state::{flags, mode};

use crate::helpers;
use crate::operand::segment_index;
use crate::reasons::{self, vector};
use crate::slots;
use crate::translator::{Translator, data_index};

impl Translator<'_> {
    /// System instructions; false if the instruction is none.
    pub(crate) fn system(&mut self) -> bool {
        use Mnemonic as M;
        match self.insn.mnemonic() {
            M::Cli => self.cli(),
            M::Sti => self.sti(),
            M::Hlt => self.hlt(),
            M::Int => self.software_interrupt(0x100 | self.insn.immediate(0) & 0xff),
            M::Int3 => self.software_interrupt(3),
            M::Int1 => self.software_interrupt(1),
            M::Into => self.overflow_interrupt(),
            M::Iret => self.transfer_sized(helpers::IRET, 2),
            M::Iretd => self.transfer_sized(helpers::IRET, 4),
            M::Iretq => self.transfer_sized(helpers::IRET, 8),
            M::Retf => self.far_return(),
            M::Syscall => self.transfer_sized(helpers::SYSCALL, 0),
            M::Sysret => self.transfer_sized(helpers::SYSRET, 4),
            M::Sysretq => self.transfer_sized(helpers::SYSRET, 8),
            M::Sysenter => self.transfer_sized(helpers::SYSENTER, 0),
            M::Sysexit => self.transfer_sized(helpers::SYSEXIT, 4),
            M::Sysexitq => self.transfer_sized(helpers::SYSEXIT, 8),
            M::Rsm => self.transfer_sized(helpers::RSM, 0),
            M::Lgdt => self.load_table(helpers::LGDT),
            M::Lidt => self.load_table(helpers::LIDT),
            M::Sgdt => self.store_table(helpers::SGDT),
            M::Sidt => self.store_table(helpers::SIDT),
            M::Lldt => self.load_selector(helpers::LLDT),
            M::Ltr => self.load_selector(helpers::LTR),
            M::Sldt => self.store_word(helpers::SLDT),
            M::Str => self.store_word(helpers::STR),
            M::Smsw => self.store_word(helpers::SMSW),
            M::Lmsw => self.lmsw(),
            M::Clts => self.simple(helpers::CLTS),
            M::Invd | M::Wbinvd | M::Wbnoinvd => self.check_only(helpers::WBINVD),
            M::Invlpg => self.invlpg(),
            M::Invpcid => self.invpcid(),
            M::Lar => self.access_rights(helpers::LAR),
            M::Lsl => self.access_rights(helpers::LSL),
            M::Verr => self.verify_segment(helpers::VERR),
            M::Verw => self.verify_segment(helpers::VERW),
            M::Arpl => self.arpl(),
            M::Lds => self.load_far(seg::DS),
            M::Les => self.load_far(seg::ES),
            M::Lfs => self.load_far(seg::FS),
            M::Lgs => self.load_far(seg::GS),
            M::Lss => self.load_far(seg::SS),
            M::In => self.port_in(),
            M::Out => self.port_out(),
            M::Ud0 | M::Ud1 | M::Ud2 => self.undefined(),
            _ => return self.processor(),
        }
        true
    }

    /// Instructions about the processor itself.
    fn processor(&mut self) -> bool {
        use Mnemonic as M;
        match self.insn.mnemonic() {
            M::Cpuid => {
                self.helper(helpers::CPUID, &[]);
            }
            M::Rdtsc => {
                let v = self.helper(helpers::RDTSC, &[]);
                self.set_edx_eax(v);
            }
            M::Rdtscp => {
                let v = self.helper(helpers::RDTSC, &[]);
                self.set_edx_eax(v);
                let aux = self.b.get(slots::TSC_AUX);
                let aux = self.wrap(aux, 32);
                self.set_gpr(gpr::RCX, aux);
            }
            M::Rdpid => {
                let aux = self.b.get(slots::TSC_AUX);
                let aux = self.wrap(aux, 32);
                let aux = self.b.zext(self.operand_type(0), aux);
                self.write_operand(0, aux);
            }
            M::Rdpmc => self.read_to_edx_eax(helpers::RDPMC),
            M::Rdmsr => self.read_to_edx_eax(helpers::RDMSR),
            M::Xgetbv => self.read_to_edx_eax(helpers::XGETBV),
            M::Wrmsr => {
                let (index, v) = (self.gpr_low(gpr::RCX, Type::I32), self.edx_eax());
                let changed = self.helper(helpers::WRMSR, &[index, v]);
                self.leave_if_changed(changed);
            }
            M::Xsetbv => {
                let (index, v) = (self.gpr_low(gpr::RCX, Type::I32), self.edx_eax());
                self.helper(helpers::XSETBV, &[index, v]);
                self.leave_after();
            }
            M::Swapgs => self.swapgs(),
            M::Rdfsbase => self.read_base(seg::FS),
            M::Rdgsbase => self.read_base(seg::GS),
            M::Wrfsbase => self.write_base(seg::FS),
            M::Wrgsbase => self.write_base(seg::GS),
            M::Clac => self.set_ac(false),
            M::Stac => self.set_ac(true),
            M::Rdrand | M::Rdseed => self.random(),
            M::Monitor => self.monitor(),
            M::Mwait => {
                let ecx = self.gpr_low(gpr::RCX, Type::I32);
                self.helper(helpers::MWAIT, &[ecx]);
                self.leave_after();
            }
            M::Clflush | M::Clflushopt | M::Clwb => {
                // Checked as a load of a byte; caches are coherent.
                let addr = self.effective_address(1, false);
                self.load(Type::I8, addr);
            }
            _ => return false,
        }
        true
    }

    /// Raises #GP(0) unless CPL is 0; true if it did.
    fn privileged(&mut self) -> bool {
        let denied = self.cpl() != 0;
        if denied {
            self.general_protection();
        }
        denied
    }

    // ---- interrupts ----

    fn cli(&mut self) {
        if self.mode & mode::IOPL_OK == 0 {
            // VME and PVI may virtualize IF.
            self.helper(helpers::CLI, &[]);
            return self.leave_after();
        }
        let f = self.b.get(slots::RFLAGS);
        let f = self.b.and_imm(f, !flags::IF);
        self.b.put(slots::RFLAGS, f);
    }

    fn sti(&mut self) {
        if self.mode & mode::IOPL_OK == 0 {
            self.helper(helpers::STI, &[]);
            return self.leave_after();
        }
        let f = self.b.get(slots::RFLAGS);
        let set = self.c64(flags::IF);
        let f = self.b.or(f, set);
        self.b.put(slots::RFLAGS, f);
        // The next instruction runs before interrupts are looked at: the unit loop sees to it.
        self.shadow_next = true;
    }

    fn hlt(&mut self) {
        if self.privileged() {
            return;
        }
        if self.mode & mode::TF != 0 {
            // The debug trap ends the halt at once.
            return self.leave_after();
        }
        self.b.exit(Exit::Leave { reason: reasons::HALT, pc: Some(self.next_pc) });
    }

    /// `kind`: 100h + n for INT n, 3, 4 or 1 for INT3, INTO, INT1.
    fn software_interrupt(&mut self, kind: u64) {
        let kind = self.b.iconst(Type::I32, kind);
        let next = self.c64(self.next_pc);
        self.helper(helpers::SOFTWARE_INTERRUPT, &[kind, next]);
        self.leave_without_trap();
    }

    fn overflow_interrupt(&mut self) {
        let no = self.condition(iced_x86::ConditionCode::no);
        let next = self.next_pc;
        let on = self.exit_to(rhea_ir::Target::Static(next));
        self.b.exit_if(no, on);
        self.software_interrupt(4);
    }

    /// A control transfer by a helper that takes an operand size and the next PC and sets the PC slot.
    fn transfer_sized(&mut self, helper: u32, size: u64) {
        let size = self.b.iconst(Type::I32, size);
        let next = self.c64(self.next_pc);
        self.helper(helper, &[size, next]);
        if matches!(helper, helpers::SYSCALL | helpers::SYSENTER) {
            return self.leave_without_trap();
        }
        if self.single() && helper == helpers::IRET {
            let trap = self.mode & mode::TF != 0;
            let reason = if trap { reasons::TRAP_RF } else { reasons::STEP_RF };
            return self.b.exit(Exit::Leave { reason, pc: None });
        }
        self.leave_at_slot();
    }

    /// Ends the unit at the PC slot after an instruction that clears TF before a single-step trap could come.
    fn leave_without_trap(&mut self) {
        let reason = if self.single() { reasons::STEP } else { reasons::RESUME };
        self.b.exit(Exit::Leave { reason, pc: None });
    }

    fn far_return(&mut self) {
        let size = match self.insn.code() {
            Code::Retfw | Code::Retfw_imm16 => 2,
            Code::Retfq | Code::Retfq_imm16 => 8,
            _ => 4,
        };
        let release = if self.insn.op_count() > 0 { self.insn.immediate(0) & 0xffff } else { 0 };
        let size = self.b.iconst(Type::I32, size);
        let release = self.c64(release);
        self.helper(helpers::FAR_RETURN, &[size, release]);
        self.leave_at_slot();
    }

    /// A helper without operands after which the mode word may be another.
    fn simple(&mut self, helper: u32) {
        self.helper(helper, &[]);
        self.leave_after();
    }

    /// A helper that only checks.
    fn check_only(&mut self, helper: u32) {
        self.helper(helper, &[]);
    }

    // ---- descriptor tables ----

    fn load_table(&mut self, helper: u32) {
        if self.privileged() {
            return;
        }
        let wide = self.is64();
        let place = self.place();
        let addr = self.linear(place, if wide { 10 } else { 6 }, false);
        let limit = self.load(Type::I16, addr);
        let above = self.b.lea(addr, Val::NONE, 0, 2);
        let above = if wide { above } else { self.wrap(above, 32) };
        let base = self.load(if wide { Type::I64 } else { Type::I32 }, above);
        let base = self.widen(base);
        let limit = self.b.zext(Type::I32, limit);
        let size = match self.insn.code() {
            Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 => 2,
            Code::Lgdt_m1664 | Code::Lidt_m1664 => 8,
            _ => 4,
        };
        let size = self.b.iconst(Type::I32, size);
        self.helper(helper, &[limit, base, size]);
    }

    fn store_table(&mut self, helper: u32) {
        let wide = self.is64();
        // The helper answers the limit and leaves the base in a scratch word.
        let limit = self.helper(helper, &[]);
        let base = self.b.get(slots::scratch(0));
        let base = self.b.zext(if wide { Type::I64 } else { Type::I32 }, base);
        let place = self.place();
        let addr = self.linear(place, if wide { 10 } else { 6 }, true);
        let limit = self.b.zext(Type::I16, limit);
        let above = self.b.lea(addr, Val::NONE, 0, 2);
        let above = if wide { above } else { self.wrap(above, 32) };
        // Should the two parts lie on two pages, the second is made sure of before the first is written.
        self.load_for_write(self.b.ty(base), above);
        self.store(addr, limit);
        self.store(above, base);
    }

    /// Value of a 16-bit selector operand, register or memory, as I32.
    fn selector_operand(&mut self, i: u32) -> Val {
        let v = if self.is_memory(i) {
            let addr = self.effective_address(2, false);
            self.load(Type::I16, addr)
        } else {
            let r = self.insn.op_register(i);
            self.read_reg(r)
        };
        let v = self.b.zext(Type::I32, v);
        self.b.and_imm(v, 0xffff)
    }

    fn load_selector(&mut self, helper: u32) {
        if !self.is_protected() {
            return self.undefined();
        }
        if self.privileged() {
            return;
        }
        let v = self.selector_operand(0);
        self.helper(helper, &[v]);
    }

    /// SLDT, STR, SMSW: 16 bits to memory, the operand size to a register.
    fn store_word(&mut self, helper: u32) {
        let v = self.helper(helper, &[]);
        if self.is_memory(0) {
            let v = self.b.zext(Type::I16, v);
            let addr = self.effective_address(2, true);
            return self.store(addr, v);
        }
        let v = self.b.zext(self.operand_type(0), v);
        self.write_operand(0, v);
    }

    fn lmsw(&mut self) {
        if self.privileged() {
            return;
        }
        let v = self.selector_operand(0);
        self.helper(helpers::LMSW, &[v]);
        self.leave_after();
    }

    fn access_rights(&mut self, helper: u32) {
        if !self.is_protected() {
            return self.undefined();
        }
        let v = self.selector_operand(1);
        // Bit 32: found, with the value below.
        let r = self.helper(helper, &[v]);
        let found = self.b.extract(r, 32, 1);
        let found = self.b.zext(Type::I8, found);
        let ty = self.operand_type(0);
        let new = self.b.zext(Type::I32, r);
        let Some(part) = crate::operand::gpr_part(self.register(0)) else { return };
        let before = self.gpr(part.index);
        let after = match ty {
            Type::I16 => {
                let w = self.any64(new);
                self.b.deposit(before, w, 0, 16)
            }
            _ => self.widen(new),
        };
        let v = self.b.select(found, after, before);
        self.set_gpr(part.index, v);
        self.set_zero_flag(found);
    }

    fn verify_segment(&mut self, helper: u32) {
        if !self.is_protected() {
            return self.undefined();
        }
        let v = self.selector_operand(0);
        let z = self.helper(helper, &[v]);
        let z = self.b.zext(Type::I8, z);
        self.set_zero_flag(z);
    }

    fn arpl(&mut self) {
        if !self.is_protected() {
            return self.undefined();
        }
        let source = self.read_operand_as(1, Type::I16);
        let (v, addr) = self.read_destination();
        let v = self.b.zext(Type::I16, v);
        let wanted = self.b.and_imm(source, 3);
        let has = self.b.and_imm(v, 3);
        let raise = self.b.icmp(Cond::LtU, has, wanted);
        let raised = self.b.deposit(v, wanted, 0, 2);
        let r = self.b.select(raise, raised, v);
        self.write_destination(addr, r);
        self.set_zero_flag(raise);
    }

    /// LDS, LES, LFS, LGS, LSS.
    fn load_far(&mut self, index: usize) {
        let ty = self.operand_type(0);
        let (offset, selector) = self.load_far_pointer(ty.bytes());
        let changed = self.load_segment(index, selector);
        let offset = self.b.zext(ty, offset);
        self.write_operand(0, offset);
        self.after_segment_load(index, changed);
    }

    // ---- special registers ----

    /// MOV with a segment, control or debug register.
    pub(crate) fn mov_special(&mut self) {
        let (to, from) = (self.insn.op0_register(), self.insn.op1_register());
        if self.insn.op1_kind() == OpKind::Register && Self::is_segment(from) {
            let Some(index) = segment_index(from) else { return self.undefined() };
            let v = self.b.get(slots::segment_selector(index));
            if self.is_memory(0) {
                let v = self.b.zext(Type::I16, v);
                let addr = self.effective_address(2, true);
                return self.store(addr, v);
            }
            let v = self.b.zext(self.operand_type(0), v);
            return self.write_operand(0, v);
        }
        if Self::is_segment(to) {
            let index = segment_index(to).unwrap_or(seg::CS);
            if index == seg::CS {
                return self.undefined();
            }
            let v = self.selector_operand(1);
            let changed = self.load_segment(index, v);
            return self.after_segment_load(index, changed);
        }
        if self.privileged() {
            return;
        }
        if from.is_cr() {
            self.read_control(from);
        } else if to.is_cr() {
            let v = self.read_operand(1);
            let v = self.widen(v);
            let n = self.b.iconst(Type::I32, to.number() as u64);
            self.helper(helpers::WRITE_CR, &[n, v]);
            self.leave_after();
        } else if from.is_dr() {
            let n = self.b.iconst(Type::I32, from.number() as u64);
            let v = self.helper(helpers::READ_DR, &[n]);
            let v = self.b.zext(self.operand_type(0), v);
            self.write_operand(0, v);
        } else if to.is_dr() {
            let v = self.read_operand(1);
            let v = self.widen(v);
            let n = self.b.iconst(Type::I32, to.number() as u64);
            self.helper(helpers::WRITE_DR, &[n, v]);
            self.leave_after();
        } else {
            self.undefined();
        }
    }

    fn read_control(&mut self, from: Register) {
        let number = from.number();
        let v = match number {
            0 | 2 | 3 | 4 => self.b.get(slots::cr(number)),
            8 => self.helper(helpers::READ_CR8, &[]),
            _ => return self.undefined(),
        };
        let v = self.b.zext(self.operand_type(0), v);
        self.write_operand(0, v);
    }

    fn edx_eax(&mut self) -> Val {
        let high = self.gpr(gpr::RDX);
        let low = self.gpr(gpr::RAX);
        self.b.deposit(low, high, 32, 32)
    }

    fn set_edx_eax(&mut self, v: Val) {
        let low = self.b.extract(v, 0, 32);
        let high = self.b.bin_imm(Op::Shr, v, 32);
        self.set_gpr(gpr::RAX, low);
        self.set_gpr(gpr::RDX, high);
    }

    /// RDMSR and relatives: a helper takes ECX.
    fn read_to_edx_eax(&mut self, helper: u32) {
        let index = self.gpr_low(gpr::RCX, Type::I32);
        let v = self.helper(helper, &[index]);
        self.set_edx_eax(v);
    }

    fn swapgs(&mut self) {
        if !self.is64() {
            return self.undefined();
        }
        if self.privileged() {
            return;
        }
        let base = slots::segment_base(seg::GS);
        let a = self.b.get(base);
        let b = self.b.get(slots::KERNEL_GS_BASE);
        self.b.put(base, b);
        self.b.put(slots::KERNEL_GS_BASE, a);
    }

    fn base_allowed(&mut self) -> bool {
        let allowed = self.is64() && self.mode & mode::FSGSBASE != 0;
        if !allowed {
            self.undefined();
        }
        allowed
    }

    fn read_base(&mut self, index: usize) {
        if self.base_allowed() {
            let v = self.b.get(slots::segment_base(index));
            let v = self.b.zext(self.operand_type(0), v);
            self.write_operand(0, v);
        }
    }

    fn write_base(&mut self, index: usize) {
        if !self.base_allowed() {
            return;
        }
        let v = self.read_operand(0);
        let v = self.widen(v);
        if self.operand_type(0) == Type::I64 {
            let s = self.b.bin_imm(Op::Shl, v, 16);
            let s = self.b.bin_imm(Op::Sar, s, 16);
            let bad = self.b.icmp(Cond::Ne, s, v);
            self.raise_if(bad, vector::GP);
        }
        self.b.put(slots::segment_base(index), v);
    }

    /// CLAC and STAC. AC only matters to SMAP at CPL 0, and SMAP only to the MMU index of what follows: the unit goes
    /// on under the other index, and its exits leave if the mode word is not what it started with.
    fn set_ac(&mut self, on: bool) {
        if self.cpl() != 0 || self.mode & mode::VM86 != 0 {
            return self.undefined();
        }
        let f = self.b.get(slots::RFLAGS);
        let ac = self.c64(flags::AC);
        let f = if on { self.b.or(f, ac) } else { self.b.bin(Op::AndNot, f, ac) };
        self.b.put(slots::RFLAGS, f);
        if on {
            self.mode &= !mode::SMAP;
        } else if self.start_mode & mode::SMAP != 0 {
            self.mode |= mode::SMAP;
        } else if self.mode & mode::SMAP == 0 {
            // Whether CR4.SMAP is set is not known here.
            return self.leave_after();
        }
        self.mem = rhea_ir::MemFlags::new(data_index(self.mode));
    }

    fn random(&mut self) {
        let ty = self.operand_type(0);
        let size = self.b.iconst(Type::I32, u64::from(ty.bytes()));
        let v = self.helper(helpers::RANDOM, &[size]);
        let v = self.b.zext(ty, v);
        self.write_operand(0, v);
        self.set_flags_const(flags::CF);
    }

    fn monitor(&mut self) {
        let bits = match self.insn.code() {
            Code::Monitorw => 16,
            Code::Monitord => 32,
            _ => 64,
        };
        let offset = self.index_register(gpr::RAX, bits);
        let segment = segment_index(self.insn.segment_prefix()).unwrap_or(seg::DS);
        let ecx = self.gpr_low(gpr::RCX, Type::I32);
        self.helper(helpers::MONITOR, &[ecx]);
        let addr = self.linear(crate::operand::Place { segment, offset }, 1, false);
        self.load(Type::I8, addr);
    }

    // ---- TLB ----

    fn invlpg(&mut self) {
        if self.privileged() {
            return;
        }
        // Only the address matters: no segment checks.
        let place = self.place();
        let base = if self.is64() && place.segment != seg::FS && place.segment != seg::GS {
            self.c64(0)
        } else {
            self.b.get(slots::segment_base(place.segment))
        };
        let linear = self.b.add(base, place.offset);
        let linear = if self.is64() { linear } else { self.wrap(linear, 32) };
        self.helper(helpers::INVLPG, &[linear]);
        self.leave_after();
    }

    fn invpcid(&mut self) {
        if self.privileged() {
            return;
        }
        let kind = self.read_operand(0);
        let kind = self.widen(kind);
        let addr = self.effective_address(16, false);
        let low = self.load(Type::I64, addr);
        let above = self.b.lea(addr, Val::NONE, 0, 8);
        let above = if self.is64() { above } else { self.wrap(above, 32) };
        let linear = self.load(Type::I64, above);
        self.helper(helpers::INVPCID, &[kind, low, linear]);
        self.leave_after();
    }

    // ---- ports ----

    fn port_operand(&mut self, i: u32) -> Val {
        if self.insn.op_kind(i) == OpKind::Register {
            let v = self.gpr_low(gpr::RDX, Type::I32);
            self.b.and_imm(v, 0xffff)
        } else {
            let v = self.insn.immediate(i) & 0xff;
            self.b.iconst(Type::I32, v)
        }
    }

    fn port_in(&mut self) {
        let ty = self.operand_type(0);
        let port = self.port_operand(1);
        let size = self.b.iconst(Type::I32, u64::from(ty.bytes()));
        let v = self.helper(helpers::PORT_IN, &[port, size]);
        let v = self.b.zext(ty, v);
        self.write_operand(0, v);
    }

    fn port_out(&mut self) {
        let ty = self.operand_type(1);
        let port = self.port_operand(0);
        let size = self.b.iconst(Type::I32, u64::from(ty.bytes()));
        let v = self.gpr_low(gpr::RAX, ty);
        let v = self.b.zext(Type::I32, v);
        self.helper(helpers::PORT_OUT, &[port, size, v]);
    }
}

//! The x86 guest as the engine sees it: translation, TLB fills, exceptions, interrupts.

use iced_x86::{Decoder, DecoderOptions, OpKind, Register};
use rhea_engine::{Access, Guest, GuestLayout, Helper, Leave, Next, Translation, VcpuContext};
use rhea_ir::{Builder, Slot};
use rhea_x86_state::X86State;
use rhea_x86_state::mode;
use rhea_x86_state::model::CpuModel;
use rhea_x86_state::platform::Pending;
use rhea_x86_state::state::gpr;
use rhea_x86_system::exception::Exception;
use rhea_x86_system::{debug, event, interrupt};
use std::fmt::Write;

use crate::cpu::{Bus, WalkError, X86Cpu};
use crate::disassembly;
use crate::features::InstructionSet;
use crate::reasons::{self, vector};
use crate::slots;
use crate::unit::{self, NeedMoreBytes};

/// Bytes of code looked at for one unit.
const WINDOW: usize = 512;

/// General registers and flag operands in order of use by compiled code.
static HOT: [Slot; 18] = [
    slots::gpr(gpr::RSP),
    slots::gpr(gpr::RAX),
    slots::gpr(gpr::RDX),
    slots::gpr(gpr::RCX),
    slots::gpr(gpr::RDI),
    slots::gpr(gpr::RSI),
    slots::gpr(gpr::RBX),
    slots::gpr(gpr::RBP),
    slots::gpr(8),
    slots::gpr(9),
    slots::gpr(12),
    slots::gpr(13),
    slots::gpr(14),
    slots::gpr(15),
    slots::gpr(10),
    slots::gpr(11),
    slots::CC_DST,
    slots::CC_SRC,
];

/// The x86 architecture for the engine; serves all processors of a machine, which are of one model.
pub struct X86Guest {
    layout: GuestLayout,
    set: InstructionSet,
}

impl X86Guest {
    /// A guest whose processors are of `model`; `name` is `x86_64` or `i386`.
    pub fn new(name: &'static str, model: &CpuModel) -> Self {
        X86Guest {
            layout: GuestLayout { name, pc: slots::RIP, hot: &HOT, longest_insn: 15, mmu_indices: 4 },
            set: InstructionSet::of(model.features()),
        }
    }

    /// Puts the processor into its state after RESET.
    pub fn reset(cx: &mut VcpuContext) {
        let (st, cpu, env) = cx.parts::<X86State, X86Cpu>();
        *st = cpu.model().reset_state(cpu.apic().is_bsp());
        cpu.pending = None;
        cpu.data_hits = 0;
        cpu.wake = Pending::all();
        env.flush_tlb_all();
        env.take_x87_flags();
        env.take_float_flags();
        crate::vector_calls::load_float_environment(cx);
    }

    fn raise(cx: &mut VcpuContext, e: Exception) {
        let (st, cpu, env) = cx.parts::<X86State, X86Cpu>();
        // What breakpoints an instruction met does not count when it did not complete.
        cpu.data_hits = 0;
        interrupt::raise(st, &mut Bus { env, cpu }, e);
    }

    /// What a processor that does not run waits for.
    fn wait(cx: &mut VcpuContext) -> Next {
        let (st, cpu, _) = cx.parts::<X86State, X86Cpu>();
        cpu.wake = [Pending::INIT, Pending::SIPI, Pending::SMI, Pending::NMI, Pending::INTERRUPT]
            .into_iter()
            .filter(|&p| event::is_deliverable(st, p))
            .collect();
        Next::Wait
    }

    fn go_on(cx: &mut VcpuContext) -> Next {
        let (st, cpu, _) = cx.parts::<X86State, X86Cpu>();
        st.mode = st.compute_mode();
        st.events_wait = u32::from(!cpu.apic().pending().is_empty());
        if event::is_running(st) {
            cpu.wake = Pending::all();
            Next::Run
        } else {
            Self::wait(cx)
        }
    }

    /// Debug traps after an instruction.
    fn after_instruction(cx: &mut VcpuContext, stepped: bool, loaded_rf: bool) {
        let (st, cpu, _) = cx.parts::<X86State, X86Cpu>();
        if st.interrupt_shadow == 1 {
            // MOV SS (not STI): traps wait until the next instruction has completed.
            return;
        }
        let hits = std::mem::take(&mut cpu.data_hits);
        st.mode = st.compute_mode();
        if let Some(e) = debug::after_instruction(st, hits, stepped, loaded_rf) {
            Self::raise(cx, e);
        }
    }

    /// The exception for an address that is not canonical: #SS when the instruction at hand used SS.
    fn canonical_fault(cx: &mut VcpuContext) -> Exception {
        let st = cx.state::<X86State>();
        let (pc, word) = (st.rip, st.mode);
        let mut code = [0; unit::MAX_LENGTH];
        let len = cx.fetch_bytes(pc, fetch_index(word), &mut code).unwrap_or(0);
        let insn = Decoder::with_ip(64, &code[..len], pc, DecoderOptions::NONE).decode();
        let explicit = (0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Memory);
        // In 64-bit mode only FS and GS override the segment; the base register chooses between the others.
        let overridden = matches!(insn.segment_prefix(), Register::FS | Register::GS);
        let stack_base =
            matches!(insn.memory_base(), Register::RSP | Register::RBP | Register::ESP | Register::EBP);
        let by_stack = if explicit { stack_base && !overridden } else { insn.is_stack_instruction() };
        if by_stack { Exception::ss(0) } else { Exception::gp(0) }
    }
}

/// MMU index of instruction fetches.
fn fetch_index(word: u64) -> u8 {
    if word & mode::CPL == 3 { crate::translator::MMU_USER } else { crate::translator::MMU_SUPERVISOR }
}

/// The exception that a reason number means.
fn fault(number: u8) -> Exception {
    match number {
        8 | 10..=14 | vector::AC => Exception::with_code(number, 0),
        _ => Exception::fault(number),
    }
}

impl Guest for X86Guest {
    fn layout(&self) -> &GuestLayout {
        &self.layout
    }

    fn helpers(&self) -> &[Helper] {
        crate::helpers::table()
    }

    fn pc(&self, cx: &mut VcpuContext) -> u64 {
        cx.state::<X86State>().rip
    }

    fn mode(&self, cx: &mut VcpuContext) -> u64 {
        cx.state::<X86State>().mode
    }

    fn fetch_address(&self, pc: u64, word: u64) -> u64 {
        if word & mode::CS64 != 0 { pc } else { (word >> mode::CS_BASE_SHIFT).wrapping_add(pc) & 0xffff_ffff }
    }

    fn fetch_index(&self, word: u64) -> u8 {
        fetch_index(word)
    }

    fn translate(
        &self,
        cx: &mut VcpuContext,
        builder: &mut Builder,
        pc: u64,
        word: u64,
        max_insns: u32,
    ) -> Result<(), Leave> {
        let mut code = [0u8; WINDOW + unit::MAX_LENGTH];
        let linear = self.fetch_address(pc, word);
        let index = fetch_index(word);
        let n = cx.fetch_bytes(linear, index, &mut code[..WINDOW])?;
        match unit::translate(&self.set, builder, &code[..n], pc, word, max_insns) {
            Ok(()) => return Ok(()),
            Err(NeedMoreBytes) if n >= unit::MAX_LENGTH => return Err(Leave(reasons::fault(vector::UD))),
            Err(NeedMoreBytes) => {}
        }
        // The first instruction goes on in the next page.
        let next = self.fetch_address(pc.wrapping_add(n as u64), word);
        let more = cx.fetch_bytes(next, index, &mut code[n..n + unit::MAX_LENGTH])?;
        builder.start(pc);
        unit::translate(&self.set, builder, &code[..n + more], pc, word, 1)
            .map_err(|NeedMoreBytes| Leave(reasons::fault(vector::UD)))
    }

    fn tlb_fill(
        &self,
        cx: &mut VcpuContext,
        vaddr: u64,
        len: u32,
        access: Access,
        mmu_index: u8,
    ) -> Result<Translation, Leave> {
        let (st, cpu, env) = cx.parts::<X86State, X86Cpu>();
        let mut bus = Bus { env, cpu };
        match bus.walk(st, (vaddr, len), access, mmu_index) {
            Ok(t) => Ok(t),
            Err(WalkError::Fault(e)) => {
                cpu.pending = Some(e);
                Err(Leave(reasons::EXCEPTION))
            }
            Err(WalkError::NotCanonical) if access == Access::Fetch => Err(Leave(reasons::fault(vector::GP))),
            Err(WalkError::NotCanonical) => Err(Leave(reasons::NOT_CANONICAL)),
        }
    }

    fn unaligned(&self, cx: &mut VcpuContext, _: u64, _: Access, _: u8) -> Leave {
        // With alignment checking on every access is marked; otherwise only SSE operands are.
        let checks = cx.state::<X86State>().mode & mode::ALIGNMENT_CHECK != 0;
        Leave(reasons::fault(if checks { vector::AC } else { vector::GP }))
    }

    fn handle_leave(&self, cx: &mut VcpuContext, reason: u32) -> Next {
        match reason {
            reasons::RESUME => {}
            reasons::HALT => cx.state::<X86State>().halted = 1,
            reasons::EXCEPTION => {
                let pending = cx.data::<X86Cpu>().pending.take();
                debug_assert!(pending.is_some(), "an exception was announced");
                if let Some(e) = pending {
                    Self::raise(cx, e);
                }
            }
            reasons::STEP => Self::after_instruction(cx, false, false),
            reasons::TRAP => Self::after_instruction(cx, true, false),
            reasons::STEP_RF => Self::after_instruction(cx, false, true),
            reasons::TRAP_RF => Self::after_instruction(cx, true, true),
            reasons::X87_FAULT => {
                cx.state::<X86State>().mode |= mode::X87_UNMASKED;
                return Next::RunOne;
            }
            reasons::FERR => {
                let index = cx.env().index();
                cx.data::<X86Cpu>().signal_ferr(index);
            }
            reasons::NOT_CANONICAL => {
                let e = Self::canonical_fault(cx);
                Self::raise(cx, e);
            }
            _ => match reasons::fault_vector(reason) {
                Some(number) => Self::raise(cx, fault(number)),
                None => debug_assert!(false, "unknown reason {reason}"),
            },
        }
        Self::go_on(cx)
    }

    fn poll_events(&self, cx: &mut VcpuContext) -> Next {
        let (st, cpu, env) = cx.parts::<X86State, X86Cpu>();
        let mut bus = Bus { env, cpu };
        // Each round takes one event; an event that keeps coming back is not worth starving the guest.
        for _ in 0..8 {
            if !event::service(st, &mut bus) {
                break;
            }
        }
        Self::go_on(cx)
    }

    fn disassemble(&self, pc: u64, word: u64, code: &[u8]) -> String {
        disassembly::disassemble(disassembly::code_bits(word), pc, code)
    }

    fn dump(&self, cx: &mut VcpuContext) -> String {
        const NAMES: [&str; 16] = [
            "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8 ", "R9 ", "R10", "R11", "R12", "R13",
            "R14", "R15",
        ];
        let st = cx.state::<X86State>();
        let mut out = String::new();
        for (i, name) in NAMES.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(out, "{name}={:016x}{}", st.gpr[i], if i % 4 == 3 { '\n' } else { ' ' });
        }
        let _ =
            writeln!(out, "RIP={:016x} RFL={:08x} CPL={} MODE={:x}", st.rip, st.rflags(), st.cpl(), st.mode);
        for (name, s) in ["ES", "CS", "SS", "DS", "FS", "GS"].iter().zip(&st.seg) {
            let _ = writeln!(out, "{name}={:04x} {:016x} {:08x} {:08x}", s.selector, s.base, s.limit, s.attr);
        }
        for (name, s) in [("LDT", &st.ldtr), ("TR ", &st.tr)] {
            let _ = writeln!(out, "{name}={:04x} {:016x} {:08x} {:08x}", s.selector, s.base, s.limit, s.attr);
        }
        for (name, t) in [("GDT", &st.gdtr), ("IDT", &st.idtr)] {
            let _ = writeln!(out, "{name}=     {:016x} {:08x}", t.base, t.limit);
        }
        let _ = writeln!(
            out,
            "CR0={:08x} CR2={:016x} CR3={:016x} CR4={:08x} EFER={:x}",
            st.cr[0], st.cr[2], st.cr[3], st.cr[4], st.efer
        );
        out
    }

    fn has_events(&self, cx: &VcpuContext) -> bool {
        cx.data_ref::<X86Cpu>().is_some_and(|cpu| cpu.apic().pending().intersects(cpu.wake))
    }
}

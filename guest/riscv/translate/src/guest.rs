//! The RISC-V guest as the engine sees it: translation, TLB fills, exceptions, interrupts.

use std::fmt::Write;

use rhea_engine::{Access, Guest, GuestLayout, Helper, Leave, Next, Translation, VcpuContext};
use rhea_ir::{Builder, Slot};
use rhea_riscv_state::CpuModel;
use rhea_riscv_state::RiscvState;
use rhea_riscv_state::extension::Extension;
use rhea_riscv_state::state::{HartConfig, NO_RESERVATION, mmu, mode};
use rhea_riscv_system::exception::Cause;
use rhea_riscv_system::paging::{self, AccessKind};
use rhea_riscv_system::{Exception, interrupt, privileged, trap};

use crate::cpu::{Bus, RiscvCpu};
use crate::unit::{self, NeedMoreBytes};
use crate::{Features, decode16, decode32, features, float, reasons, slots, transformed};

/// Bytes of code looked at for one unit.
const WINDOW: usize = 256;

/// Integer registers in order of use by compiled code.
static HOT: [Slot; 18] = [
    slots::x(15), // a5
    slots::x(14), // a4
    slots::x(2),  // sp
    slots::x(10), // a0
    slots::x(8),  // s0
    slots::x(13), // a3
    slots::x(11), // a1
    slots::x(12), // a2
    slots::x(9),  // s1
    slots::x(16), // a6
    slots::x(17), // a7
    slots::x(1),  // ra
    slots::x(18), // s2
    slots::x(19), // s3
    slots::x(20), // s4
    slots::x(5),  // t0
    slots::x(6),  // t1
    slots::x(28), // t3
];

/// The RISC-V architecture for the engine; serves all harts of a machine, which are of one model.
pub struct RiscvGuest {
    layout: GuestLayout,
    config: HartConfig,
    features: Features,
}

impl RiscvGuest {
    /// A guest whose harts are of `model`; `name` is `riscv64` or `riscv32`.
    pub fn new(name: &'static str, model: &CpuModel) -> Self {
        let config = model.reset_state(0, 0).config;
        let longest_insn = unit::MAX_LENGTH as u32;
        let mmu_indices = if config.has(Extension::H) { mmu::COUNT_VIRTUAL } else { mmu::COUNT };
        RiscvGuest {
            layout: GuestLayout { name, pc: slots::PC, hot: &HOT, longest_insn, mmu_indices },
            config,
            features: features::of(&config),
        }
    }

    /// Puts the hart into its state after a reset. Whether the board has it started stays.
    pub fn reset(cx: &mut VcpuContext) {
        let (st, cpu, env) = cx.parts::<RiscvState, RiscvCpu>();
        let config = cpu.config();
        *st = config.model.reset_state(config.hart_id, config.reset_vector);
        cpu.pending = None;
        env.flush_tlb_all();
        env.take_float_flags();
        float::load_rounding(st, env);
        cpu.arm_timer(st);
        cpu.watch(st);
    }

    fn raise(&self, cx: &mut VcpuContext, mut exception: Exception) {
        if exception.guest_virtual && exception.instruction == 0 && exception.cause.is_data_access() {
            exception.instruction = self.transformed(cx, exception.value);
        }
        let (st, cpu, env) = cx.parts::<RiscvState, RiscvCpu>();
        st.pc &= !1;
        trap::raise(st, &mut Bus { env, cpu }, exception);
    }

    /// What is told of the load or store at hand, which was fetched before: if its bytes are out of reach, nothing is.
    fn transformed(&self, cx: &mut VcpuContext, address: u64) -> u64 {
        let st = cx.state::<RiscvState>();
        let (pc, index) = (st.pc & !1, st.fetch_index());
        let mut code = [0u8; unit::MAX_LENGTH];
        let Ok(n) = cx.fetch_bytes(pc, index, &mut code) else { return 0 };
        if n < unit::MAX_LENGTH && unit::fetch(&code[..n]).is_none() {
            let next = pc.wrapping_add(n as u64) & self.config.mask();
            if cx.fetch_bytes(next, index, &mut code[n..]).is_err() {
                return 0;
            }
        }
        let Some((bits, _)) = unit::fetch(&code) else { return 0 };
        transformed::transformed(cx.state::<RiscvState>(), &self.features, bits, address)
    }

    /// Carries out what ended a unit; an error is an exception at the instruction at hand.
    fn act(cx: &mut VcpuContext, reason: u32) -> Result<(), Exception> {
        let (st, cpu, env) = cx.parts::<RiscvState, RiscvCpu>();
        let bits = st.scratch[0] as u32;
        match reason {
            reasons::RESUME => {}
            reasons::EXCEPTION => {
                debug_assert!(cpu.pending.is_some(), "an exception was announced");
                if let Some(exception) = cpu.pending.take() {
                    return Err(exception);
                }
            }
            reasons::ILLEGAL => return Err(Exception::illegal(bits)),
            reasons::ECALL => return Err(privileged::ecall(st)),
            reasons::EBREAK => return Err(privileged::ebreak(st)),
            reasons::MISALIGNED_TARGET => {
                let fault = Exception::at(Cause::InstructionMisaligned, st.scratch[0]);
                return Err(fault.of_guest(st.is_virtual()));
            }
            reasons::WFI => {
                privileged::wfi(st, WFI)?;
                advance(st, 4);
            }
            reasons::MRET => trap::mret(st, &mut Bus { env, cpu }, MRET)?,
            reasons::SRET => trap::sret(st, &mut Bus { env, cpu }, SRET)?,
            reasons::WAIT_RESERVATION => {
                if bits == WRS_NTO {
                    privileged::wrs_nto(st, bits)?;
                }
                // Another hart may be about to store what this one waits for.
                std::thread::yield_now();
                advance(st, 4);
            }
            reasons::FLOAT => {
                float::execute(st, bits);
                advance(st, if bits & 3 == 3 { 4 } else { 2 });
            }
            _ if (reasons::SC_FAILED..reasons::SC_FAILED + 32).contains(&reason) => {
                st.set_x((reason - reasons::SC_FAILED) as usize, 1);
                st.reservation = NO_RESERVATION;
                advance(st, 4);
            }
            _ => debug_assert!(false, "unknown reason {reason}"),
        }
        Ok(())
    }

    /// Takes the interrupts that can be taken, and says how it goes on.
    fn go_on(cx: &mut VcpuContext) -> Next {
        let (st, cpu, env) = cx.parts::<RiscvState, RiscvCpu>();
        let mut bus = Bus { env, cpu };
        // Which translation it was on its way to does not matter: the one that compares is right in any state.
        st.pc &= !1;
        if st.stopped != 0 {
            bus.cpu.ignore();
            return Next::Wait;
        }
        if st.waiting != 0 && interrupt::ends_wait(st, &mut bus) {
            st.waiting = 0;
        }
        interrupt::poll(st, &mut bus);
        let waits = st.waiting != 0;
        cpu.watch(st);
        if waits { Next::Wait } else { Next::Run }
    }
}

/// Virtual supervisor mode in the mode word.
const VIRTUAL_SUPERVISOR: u64 = mode::VIRTUAL | 1;

/// The privileged instructions' own bits.
const MRET: u32 = 0x3020_0073;
const SRET: u32 = 0x1020_0073;
const WFI: u32 = 0x1050_0073;
const WRS_NTO: u32 = 0x00d0_0073;

fn advance(st: &mut RiscvState, by: u64) {
    st.pc = st.pc.wrapping_add(by) & st.config.mask();
}

impl Guest for RiscvGuest {
    fn layout(&self) -> &GuestLayout {
        &self.layout
    }

    fn helpers(&self) -> &[Helper] {
        crate::helpers::table()
    }

    fn pc(&self, cx: &mut VcpuContext) -> u64 {
        cx.state::<RiscvState>().pc
    }

    fn mode(&self, cx: &mut VcpuContext) -> u64 {
        cx.state::<RiscvState>().mode
    }

    /// No instruction has an odd address: bit 0 chooses between two translations; see [`crate::vector`].
    fn fetch_address(&self, pc: u64, _: u64) -> u64 {
        pc & !1
    }

    fn fetch_index(&self, word: u64) -> u8 {
        match word & (mode::PRIVILEGE | mode::VIRTUAL) {
            0 => mmu::USER,
            1 => mmu::SUPERVISOR,
            mode::VIRTUAL => mmu::VIRTUAL_USER,
            VIRTUAL_SUPERVISOR => mmu::VIRTUAL_SUPERVISOR,
            _ => mmu::MACHINE,
        }
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
        let index = self.fetch_index(word);
        let at = self.fetch_address(pc, word);
        let n = cx.fetch_bytes(at, index, &mut code[..WINDOW])?;
        let hart = (&self.config, &self.features);
        let vtype = cx.state::<RiscvState>().vtype;
        if unit::translate(hart, builder, &code[..n], pc, (word, vtype), max_insns).is_ok() {
            return Ok(());
        }
        // The first instruction goes on in the next page.
        let next = at.wrapping_add(n as u64) & self.config.mask();
        let more = cx.fetch_bytes(next, index, &mut code[n..n + unit::MAX_LENGTH])?;
        builder.start(pc);
        unit::translate(hart, builder, &code[..n + more], pc, (word, vtype), 1).map_err(|NeedMoreBytes| {
            // Device memory gives no more: nothing can be executed there.
            let guest = word & mode::VIRTUAL != 0;
            let fault = Exception::at(Cause::InstructionAccess, next).of_guest(guest);
            cx.data::<RiscvCpu>().pending = Some(fault);
            Leave(reasons::EXCEPTION)
        })
    }

    fn tlb_fill(
        &self,
        cx: &mut VcpuContext,
        vaddr: u64,
        len: u32,
        access: Access,
        mmu_index: u8,
    ) -> Result<Translation, Leave> {
        let kind = match access {
            Access::Read => AccessKind::Read,
            Access::Write => AccessKind::Write,
            Access::Fetch => AccessKind::Execute,
        };
        let (st, cpu, env) = cx.parts::<RiscvState, RiscvCpu>();
        let mut bus = Bus { env, cpu };
        let access = paging::Access::new(st, kind, mmu_index);
        let walk = paging::translate(st, &mut bus, vaddr, len.into(), access);
        let walk =
            walk.and_then(|t| if bus.answers(t.phys) { Ok(t) } else { Err(access.access_fault(vaddr)) });
        match walk {
            Ok(t) => Ok(Translation {
                phys: t.phys,
                read: t.read,
                write: t.write,
                fetch: t.execute,
                global: t.global,
                page_bits: t.page_bits,
            }),
            Err(exception) => {
                cpu.pending = Some(exception);
                Err(Leave(reasons::EXCEPTION))
            }
        }
    }

    fn unaligned(&self, cx: &mut VcpuContext, vaddr: u64, access: Access, mmu_index: u8) -> Leave {
        let cause = if access == Access::Read { Cause::LoadMisaligned } else { Cause::StoreMisaligned };
        let guest = mmu_index >= mmu::VIRTUAL_USER;
        cx.data::<RiscvCpu>().pending = Some(Exception::at(cause, vaddr).of_guest(guest));
        Leave(reasons::EXCEPTION)
    }

    fn handle_leave(&self, cx: &mut VcpuContext, reason: u32) -> Next {
        if let Err(exception) = Self::act(cx, reason) {
            self.raise(cx, exception);
        }
        Self::go_on(cx)
    }

    fn poll_events(&self, cx: &mut VcpuContext) -> Next {
        Self::go_on(cx)
    }

    fn disassemble(&self, pc: u64, _: u64, code: &[u8]) -> String {
        let mut text = String::new();
        let mut at = 0;
        while let Some((bits, len)) = unit::fetch(&code[at..]) {
            let address = (pc & !1).wrapping_add(at as u64) & self.config.mask();
            let instruction =
                if len == 2 { decode16(bits, &self.features) } else { decode32(bits, &self.features) };
            let width = 2 * len;
            // Writing to a string cannot fail.
            let _ = match instruction {
                Some(i) => writeln!(
                    text,
                    "{address:#018x}:  {bits:0width$x}{:pad$}  {}",
                    "",
                    i.display(address, self.config.xlen),
                    pad = 8 - width
                ),
                None => {
                    writeln!(text, "{address:#018x}:  {bits:0width$x}{:pad$}  illegal", "", pad = 8 - width)
                }
            };
            at += len;
        }
        text
    }

    fn dump(&self, cx: &mut VcpuContext) -> String {
        let (st, _, env) = cx.parts::<RiscvState, RiscvCpu>();
        float::gather_flags(st, env);
        dump(st)
    }

    fn has_events(&self, cx: &VcpuContext) -> bool {
        cx.data_ref::<RiscvCpu>().is_some_and(RiscvCpu::has_events)
    }
}

/// The registers as text.
fn dump(st: &RiscvState) -> String {
    let digits = st.config.xlen as usize / 4;
    let mask = st.config.mask();
    let mut text = format!(" pc       {:0digits$x}\n", st.pc & !1);
    let virtual_registers: &[(&str, u64)] = &[
        ("hstatus", st.h.hstatus),
        ("hideleg", st.h.hideleg),
        ("hedeleg", st.h.hedeleg),
        ("htval", st.h.htval),
        ("htinst", st.h.htinst),
        ("hgatp", st.h.hgatp),
        ("vsstatus", st.vs.vsstatus),
        ("vstvec", st.vs.vstvec),
        ("vsepc", st.vs.vsepc),
        ("vscause", st.vs.vscause),
        ("vstval", st.vs.vstval),
        ("vsatp", st.vs.vsatp),
    ];
    let virtual_registers = if st.has(Extension::H) { virtual_registers } else { &[] };
    let registers = [
        ("mhartid", st.config.hart_id),
        ("mstatus", st.m.mstatus),
        ("mip", st.m.mip),
        ("mie", st.m.mie),
        ("mideleg", st.m.mideleg),
        ("medeleg", st.m.medeleg),
        ("mtvec", st.m.mtvec),
        ("stvec", st.s.stvec),
        ("mepc", st.m.mepc),
        ("sepc", st.s.sepc),
        ("mcause", st.m.mcause),
        ("scause", st.s.scause),
        ("mtval", st.m.mtval),
        ("stval", st.s.stval),
        ("mscratch", st.m.mscratch),
        ("sscratch", st.s.sscratch),
        ("satp", st.s.satp),
    ];
    for (name, value) in registers.iter().chain(virtual_registers) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, " {name:<8} {:0digits$x}", value & mask);
    }
    let _ = writeln!(text, " mode     {:?}{}", st.privilege(), if st.is_virtual() { " (V)" } else { "" });
    for (i, value) in st.x.iter().enumerate() {
        let name = format!("x{i}/{}", crate::Xreg::NAMES.get(i).copied().unwrap_or_default());
        let end = if i % 4 == 3 { "\n" } else { "" };
        let _ = write!(text, " {name:<8} {:0digits$x}{end}", value & mask);
    }
    for (i, value) in st.f.iter().enumerate() {
        let name = format!("f{i}/{}", crate::Freg::NAMES.get(i).copied().unwrap_or_default());
        let end = if i % 4 == 3 { "\n" } else { "" };
        let _ = write!(text, " {name:<8} {value:016x}{end}");
    }
    let _ = writeln!(text, " fcsr     {:08x}", st.frm << 5 | st.fflags);
    text
}

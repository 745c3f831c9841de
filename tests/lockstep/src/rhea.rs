//! Execution by Rhea: a vCPU in user mode over page tables that map code and data where the host has them.
//!
//! Exceptions are delivered the way a kernel gets them, through an IDT and a TSS, so the vector, the error code and
//! the saved registers are read where a handler would find them: on the ring-0 stack. No handler ever runs: the vCPU
//! is stopped when an exception brought it to ring 0.

use std::sync::Arc;

use rhea_engine::context::VcpuParts;
use rhea_engine::{
    Access, Engine, EngineConfig, FloatEnv, Guest, GuestLayout, Helper, Leave, Next, Tier, Translation,
    VcpuContext, request,
};
use rhea_ir::Builder;
use rhea_memory::{AddressSpace, RamBlock, Region, Topology};
use rhea_x86_state::X86State;
use rhea_x86_state::control::{cr0, cr4, efer};
use rhea_x86_state::model::CpuModel;
use rhea_x86_state::platform::{ApicFault, LocalApicPort, Pending};
use rhea_x86_state::state::{Segment, attr, seg};
use rhea_x86_translate::cpu::{Board, X86Cpu, X86CpuConfig};
use rhea_x86_translate::guest::X86Guest;

use crate::place;
use crate::state::{Ended, FLAGS, Mode, State, Trap};

/// Physical addresses of the page tables.
const PML4: u64 = 0x1000;
const PDPT_LOW: u64 = 0x2000;
const PD_LOW: u64 = 0x3000;
const PT_LOW: u64 = 0x4000;
const PDPT_HIGH: u64 = 0x5000;
const PD_HIGH: u64 = 0x6000;
const PT_HIGH: u64 = 0x7000;
/// Physical address of the kernel's pages, and their number.
const KERNEL_PHYS: u64 = 0x1_0000;
const KERNEL_PAGES: u64 = 8;
/// Virtual addresses of the kernel's tables.
const KERNEL: u64 = 0xffff_8000_0000_0000;
const IDT: u64 = KERNEL;
const TSS: u64 = KERNEL + 0x1000;
const GDT: u64 = KERNEL + 0x2000;
const STACK_TOP: u64 = KERNEL + 0x5000;
/// Handler of vector v is at `HANDLERS + 16 * v`.
const HANDLERS: u64 = KERNEL + 0x6000;
const LOW_BYTES: u64 = 0x2_0000;
const USER_PHYS: u64 = place::CODE;
const USER_BYTES: u64 = 0x2_0000;
const KERNEL_CS: u16 = 0x10;

/// x86, except that it stops when an exception has been delivered.
struct StoppingGuest {
    x86: X86Guest,
    helpers: Vec<Helper>,
}

impl Guest for StoppingGuest {
    fn layout(&self) -> &GuestLayout {
        self.x86.layout()
    }
    fn helpers(&self) -> &[Helper] {
        &self.helpers
    }
    fn pc(&self, cx: &mut VcpuContext) -> u64 {
        self.x86.pc(cx)
    }
    fn mode(&self, cx: &mut VcpuContext) -> u64 {
        self.x86.mode(cx)
    }
    fn fetch_address(&self, pc: u64, mode: u64) -> u64 {
        self.x86.fetch_address(pc, mode)
    }
    fn fetch_index(&self, mode: u64) -> u8 {
        self.x86.fetch_index(mode)
    }
    fn translate(
        &self,
        cx: &mut VcpuContext,
        builder: &mut Builder,
        pc: u64,
        mode: u64,
        max_insns: u32,
    ) -> Result<(), Leave> {
        self.x86.translate(cx, builder, pc, mode, max_insns)
    }
    fn tlb_fill(
        &self,
        cx: &mut VcpuContext,
        vaddr: u64,
        len: u32,
        access: Access,
        mmu_index: u8,
    ) -> Result<Translation, Leave> {
        self.x86.tlb_fill(cx, vaddr, len, access, mmu_index)
    }
    fn unaligned(&self, cx: &mut VcpuContext, vaddr: u64, access: Access, mmu_index: u8) -> Leave {
        self.x86.unaligned(cx, vaddr, access, mmu_index)
    }
    fn handle_leave(&self, cx: &mut VcpuContext, reason: u32) -> Next {
        let next = self.x86.handle_leave(cx, reason);
        let st = cx.state::<X86State>();
        if st.cpl() == 0 || st.shutdown != 0 {
            cx.handle().request(request::STOP);
            return Next::Run;
        }
        next
    }
    fn poll_events(&self, cx: &mut VcpuContext) -> Next {
        self.x86.poll_events(cx)
    }
    fn disassemble(&self, pc: u64, mode: u64, code: &[u8]) -> String {
        self.x86.disassemble(pc, mode, code)
    }
    fn dump(&self, cx: &mut VcpuContext) -> String {
        self.x86.dump(cx)
    }
    fn has_events(&self, cx: &VcpuContext) -> bool {
        self.x86.has_events(cx)
    }
}

/// A local APIC with nothing pending.
struct QuietApic;

impl LocalApicPort for QuietApic {
    fn pending(&self) -> Pending {
        Pending::empty()
    }
    fn acknowledge_interrupt(&self) -> Option<u8> {
        None
    }
    fn take_nmi(&self) -> bool {
        false
    }
    fn take_smi(&self) -> bool {
        false
    }
    fn take_init(&self) -> bool {
        false
    }
    fn take_sipi(&self) -> Option<u8> {
        None
    }
    fn tpr(&self) -> u8 {
        0
    }
    fn set_tpr(&self, _: u8) {}
    fn apic_base(&self) -> u64 {
        0xfee0_0900
    }
    fn set_apic_base(&self, _: u64) -> Result<(), ApicFault> {
        Err(ApicFault)
    }
    fn read_x2apic(&self, _: u32) -> Result<u64, ApicFault> {
        Err(ApicFault)
    }
    fn write_x2apic(&self, _: u32, _: u64) -> Result<(), ApicFault> {
        Err(ApicFault)
    }
    fn tsc_deadline(&self) -> u64 {
        0
    }
    fn set_tsc_deadline(&self, _: u64, _: u64, _: u64) {}
    fn init_reset(&self) {}
    fn apic_id(&self) -> u32 {
        0
    }
    fn is_bsp(&self) -> bool {
        true
    }
}

struct QuietBoard;

impl Board for QuietBoard {
    fn triple_fault(&self, _: u32) {}
    fn smm_changed(&self, _: u32, _: bool) {}
    fn signal_ferr(&self, _: u32) {}
}

/// A machine of one vCPU in user mode.
pub struct Rhea {
    cx: Box<VcpuContext>,
    engine: Arc<Engine>,
    low: Arc<RamBlock>,
    user: Arc<RamBlock>,
    memory: Arc<AddressSpace>,
    /// The code page as it stands.
    code: Vec<u8>,
}

impl Rhea {
    /// A machine whose code is run by `tier`.
    ///
    /// # Panics
    /// If the host has no memory for it.
    pub fn new(tier: Tier) -> Self {
        Self::with_config(EngineConfig { code_bytes: 16 << 20, tier, ..EngineConfig::default() })
    }

    /// A machine with the engine set up as `config` says.
    ///
    /// # Panics
    /// If the host has no memory for it.
    pub fn with_config(config: EngineConfig) -> Self {
        Self::with_helpers(config, |_| ())
    }

    /// As [`Rhea::with_config`], with some functions that translated code calls replaced.
    ///
    /// # Panics
    /// If the host has no memory for it.
    pub fn with_helpers(config: EngineConfig, change: impl FnOnce(&mut [Helper])) -> Self {
        let model = Arc::new(CpuModel::named("max").expect("the model of every feature"));
        let x86 = X86Guest::new("x86_64", &model);
        let mut helpers = x86.helpers().to_vec();
        change(&mut helpers);
        let guest: &'static StoppingGuest = Box::leak(Box::new(StoppingGuest { x86, helpers }));
        let topology = Topology::new();
        let root = Region::container(&topology, "memory", 1 << 32);
        let low = Arc::new(RamBlock::new("low", LOW_BYTES).expect("memory"));
        let user = Arc::new(RamBlock::new("user", USER_BYTES).expect("memory"));
        root.add(0, &Region::ram(&topology, low.clone()));
        root.add(USER_PHYS, &Region::ram(&topology, user.clone()));
        let memory = AddressSpace::new("memory", root);
        let io = AddressSpace::new("io", Region::container(&topology, "io", 0x1_0000));
        let engine = Engine::new(guest, config).expect("an engine");
        memory.set_write_observer(engine.clone());
        let cpu = X86Cpu::new(X86CpuConfig {
            model: model.clone(),
            apic: Arc::new(QuietApic),
            board: Arc::new(QuietBoard),
            tsc_hz: 1_000_000_000,
            random_seed: 1,
        });
        let parts =
            VcpuParts { index: 0, memory: memory.clone(), io, clock: Arc::new(|| 0), data: Box::new(cpu) };
        let state = model.reset_state(true);
        let cx = VcpuContext::new(&engine, parts, state).expect("a vCPU");
        let rhea = Rhea { cx, engine, low, user, memory, code: vec![0; place::CODE_LEN] };
        rhea.write_tables();
        rhea
    }

    /// Page tables, IDT and TSS.
    fn write_tables(&self) {
        const P: u64 = 1;
        const W: u64 = 2;
        const U: u64 = 4;
        const NX: u64 = 1 << 63;
        let put = |at: u64, v: u64| self.low.write(at, 8, v);
        put(PML4, PDPT_LOW | P | W | U);
        put(PML4 + 8 * 256, PDPT_HIGH | P | W);
        put(PDPT_LOW, PD_LOW | P | W | U);
        put(PD_LOW + 8 * (place::CODE >> 21), PT_LOW | P | W | U);
        let page = |address: u64, bits: u64| put(PT_LOW + 8 * (address >> 12 & 511), address | bits);
        page(place::CODE, P | U);
        for i in 0..place::DATA_LEN as u64 / 4096 {
            page(place::DATA + 4096 * i, P | W | U | NX);
        }
        page(place::READ_ONLY, P | U | NX);
        put(PDPT_HIGH, PD_HIGH | P | W);
        put(PD_HIGH, PT_HIGH | P | W);
        for i in 0..KERNEL_PAGES {
            put(PT_HIGH + 8 * i, (KERNEL_PHYS + 4096 * i) | P | W);
        }
        let kernel = |virt: u64| virt - KERNEL + KERNEL_PHYS;
        for vector in 0..256 {
            let handler = HANDLERS + 16 * vector;
            // #BP and #OF come from instructions of user code.
            let dpl = if vector == 3 || vector == 4 { 3 } else { 0 };
            let low = handler & 0xffff
                | u64::from(KERNEL_CS) << 16
                | (0x8e00 | dpl << 13) << 32
                | (handler >> 16 & 0xffff) << 48;
            put(kernel(IDT) + 16 * vector, low);
            put(kernel(IDT) + 16 * vector + 8, handler >> 32);
        }
        // A 64-bit code segment of ring 0, present, accessed.
        put(kernel(GDT) + u64::from(KERNEL_CS), 0x00af_9b00_0000_ffff);
        self.low.write(kernel(TSS) + 4, 8, STACK_TOP);
        // No I/O permission bitmap: its offset is the segment's length.
        self.low.write(kernel(TSS) + 102, 2, 0x68);
        for i in 0..place::READ_ONLY_LEN {
            self.user.write(place::READ_ONLY - USER_PHYS + i as u64, 1, u64::from(place::read_only_byte(i)));
        }
    }

    /// Executes `code` from `state`, as [`crate::host::Host::run`] does.
    ///
    /// # Panics
    /// If `data` has another length than [`place::DATA_LEN`] or `code` does not fit its page.
    pub fn run(&mut self, mode: Mode, code: &[u8], state: &State, data: &[u8]) -> Ended {
        let page = place::code_page(code);
        assert_eq!(data.len(), place::DATA_LEN);
        // Only what changes is written, so that units elsewhere in the page stand.
        let first = page.iter().zip(&self.code).position(|(a, b)| a != b);
        let last = page.iter().zip(&self.code).rposition(|(a, b)| a != b);
        if let (Some(first), Some(last)) = (first, last) {
            self.memory
                .write_bytes(place::CODE + first as u64, &page[first..=last])
                .expect("the code page is RAM");
            self.code = page;
        }
        self.user.write_bytes(place::DATA - USER_PHYS, data);
        self.load(mode, state);
        self.cx.run();
        self.save(state)
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Counters of the vCPU.
    pub fn stats(&self) -> &rhea_engine::stats::Stats {
        self.cx.stats()
    }

    fn load(&mut self, mode: Mode, state: &State) {
        let st = self.cx.state::<X86State>();
        let flat = |selector: u16, bits: u32| Segment {
            base: 0,
            limit: u32::MAX,
            attr: bits | attr::P | attr::S | attr::RW | attr::A | attr::G | 3 << attr::DPL_SHIFT,
            selector,
            reserved: [0; 3],
        };
        st.seg = [flat(0x2b, attr::DB); 6];
        st.seg[seg::CS] = match mode {
            Mode::Long => flat(0x33, attr::CODE | attr::L),
            Mode::Compat => flat(0x23, attr::CODE | attr::DB),
        };
        st.cr = [
            cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG,
            0,
            0,
            PML4,
            cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE,
        ];
        st.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
        st.xcr0 = 7;
        st.idtr = rhea_x86_state::state::DescriptorTable { base: IDT, limit: 0xfff, reserved: 0 };
        st.gdtr = rhea_x86_state::state::DescriptorTable { base: GDT, limit: 0xfff, reserved: 0 };
        st.tr = Segment {
            base: TSS,
            limit: 0x67,
            attr: attr::P | 0xb << attr::TYPE_SHIFT,
            selector: 0x40,
            reserved: [0; 3],
        };
        st.gpr = state.gpr;
        st.rip = state.rip;
        // IF is set in every user process.
        st.set_rflags(state.rflags & (FLAGS | crate::state::AC) | 0x202);
        st.vec = state.vec;
        st.mxcsr = state.mxcsr;
        let x = &state.x87;
        let top = u32::from(x.status >> 11 & 7);
        st.x87_top = top;
        st.x87_empty = u32::from(!x.in_use);
        st.x87_cw = u32::from(x.control);
        st.x87_sw = u32::from(x.status & !0x3800);
        for (i, &(significand, sign_exponent)) in x.st.iter().enumerate() {
            let r = &mut st.x87[(top as usize + i) & 7];
            r.significand = significand;
            r.sign_exponent = sign_exponent;
        }
        st.interrupt_shadow = 0;
        st.halted = 0;
        st.shutdown = 0;
        st.mode = st.compute_mode();
        let env = self.cx.env();
        env.set_float_env(FloatEnv {
            rounding: (state.mxcsr >> 13 & 3) as u8,
            flush_to_zero: state.mxcsr & 0x8000 != 0,
            denormals_are_zero: state.mxcsr & 0x40 != 0,
        });
        env.take_float_flags();
        env.set_x87_env(u32::from(x.control));
        env.take_x87_flags();
    }

    fn save(&mut self, start: &State) -> Ended {
        let float = self.cx.env().take_float_flags();
        let x87_float = self.cx.env().take_x87_flags();
        let st = self.cx.state::<X86State>();
        assert_eq!(st.cpl(), 0, "every run ends in an exception (shutdown {})", st.shutdown);
        let vector = (st.rip.wrapping_sub(HANDLERS) / 16) as u8;
        let frame = st.gpr[4];
        let has_code = matches!(vector, 8 | 10..=14 | 17 | 21);
        let cr2 = st.cr[2];
        let mut state =
            State { gpr: st.gpr, rip: 0, rflags: 0, vec: st.vec, mxcsr: st.mxcsr | float, x87: start.x87 };
        let x = &mut state.x87;
        let mut status = st.x87_sw | x87_float;
        if status & !st.x87_cw & 0x3f != 0 {
            status |= 0x8080;
        }
        x.status = (status & !0x3800 | st.x87_top << 11) as u16;
        x.control = st.x87_cw as u16;
        x.in_use = !st.x87_empty as u8;
        for (i, to) in x.st.iter_mut().enumerate() {
            let r = st.x87[(st.x87_top as usize + i) & 7];
            *to = (r.significand, r.sign_exponent);
        }
        let word = |at: u64| self.low.read(at - KERNEL + KERNEL_PHYS, 8);
        let code = if has_code { word(frame) as u32 } else { 0 };
        let frame = if has_code { frame + 8 } else { frame };
        state.rip = word(frame);
        state.rflags = word(frame + 16) & FLAGS;
        state.gpr[4] = word(frame + 24);
        let mut data = vec![0; place::DATA_LEN];
        self.user.read_bytes(place::DATA - USER_PHYS, &mut data);
        let address = if vector == 14 { cr2 } else { 0 };
        Ended { state, data, trap: Trap { vector, error_code: code, address } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_runs_and_the_end_is_seen() {
        let mut rhea = Rhea::new(Tier::Interpreter);
        let mut s = State::default();
        s.gpr[0] = u64::MAX;
        s.gpr[3] = 1;
        let data = vec![0; place::DATA_LEN];
        let e = rhea.run(Mode::Long, &[0x48, 0x01, 0xd8], &s, &data);
        assert_eq!(e.trap.vector, 6);
        assert_eq!(e.state.rip, place::START + 3);
        assert_eq!(e.state.gpr[0], 0);
        assert_eq!(e.state.rflags & FLAGS, 0x55);
        let e = rhea.run(Mode::Compat, &[0x40], &s, &data);
        assert_eq!(e.state.gpr[0], 0);
        assert_eq!(e.state.rip, place::START + 1);
    }
}

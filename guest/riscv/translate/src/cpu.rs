//! A hart's own data, and the bus that the privileged semantics see.

use std::sync::Arc;

use rhea_engine::Env;
use rhea_memory::Target;
use rhea_riscv_state::platform::HartTimer;
use rhea_riscv_state::{CpuModel, InterruptLines, RiscvState};
use rhea_riscv_system::interrupt::{self, bit};
use rhea_riscv_system::{Exception, SystemBus, TlbScope};

/// What a hart is made of besides memory.
#[derive(Clone)]
pub struct RiscvCpuConfig {
    /// The model.
    pub model: Arc<CpuModel>,
    /// mhartid.
    pub hart_id: u64,
    /// Where it starts after a reset.
    pub reset_vector: u64,
    /// The lines that come into it.
    pub lines: Arc<InterruptLines>,
    /// mtime, and its supervisor timer.
    pub timer: Arc<dyn HartTimer>,
    /// Seed of the numbers that the entropy source gives.
    pub random_seed: u64,
}

/// A hart's own data: what is not architectural state.
pub struct RiscvCpu {
    /// An exception that a helper or memory access raised, to be delivered when the unit has been left.
    pub pending: Option<Exception>,
    config: RiscvCpuConfig,
    /// Lines that would do something if they rose: end a wait, or be taken as an interrupt.
    watched: u64,
    /// mtime at which a timer of the hart would do something.
    deadline: u64,
    /// What the alarm was set to last.
    armed: Option<u64>,
    random: u64,
}

impl RiscvCpu {
    /// Data of a new hart.
    pub fn new(config: RiscvCpuConfig) -> Self {
        let random = config.random_seed;
        Self { pending: None, config, watched: u64::MAX, deadline: 0, armed: None, random }
    }

    /// What the hart is made of.
    pub fn config(&self) -> &RiscvCpuConfig {
        &self.config
    }

    /// Whether a line or the timer asks for something since [`RiscvCpu::watch`].
    pub fn has_events(&self) -> bool {
        (self.config.lines.levels().bits() | self.config.lines.edges()) & self.watched != 0
            || self.deadline != u64::MAX && self.config.timer.time() >= self.deadline
    }

    /// Notes what the hart, which has taken every interrupt that it can take now, looks out for.
    pub fn watch(&mut self, st: &RiscvState) {
        let enabled = if st.waiting != 0 { st.m.mie } else { interrupt::enabled(st).all() };
        self.watched = enabled;
        let timed = interrupt::timer_compare(st) && enabled & bit::STI != 0;
        self.deadline = if timed { st.s.stimecmp } else { u64::MAX };
        if interrupt::virtual_timer_compare(st) {
            let now = self.config.timer.time();
            if enabled & bit::VSTI != 0 {
                self.deadline = self.deadline.min(interrupt::virtual_deadline(st, now));
            }
            // The alarm is one for both timers: after the first of them it is set to the other.
            if self.armed.is_some_and(|at| at <= now) {
                self.arm_timer(st);
            }
        }
    }

    /// Looks out for nothing: the board has not started the hart.
    pub fn ignore(&mut self) {
        (self.watched, self.deadline) = (0, u64::MAX);
    }

    /// Has the hart woken when stimecmp comes due, if it is in force, or vstimecmp, if that comes first.
    pub fn arm_timer(&mut self, st: &RiscvState) {
        let supervisor = interrupt::timer_compare(st).then_some(st.s.stimecmp);
        let mut at = supervisor;
        if interrupt::virtual_timer_compare(st) {
            let now = self.config.timer.time();
            let guest = interrupt::virtual_deadline(st, now);
            // One that has come due already was seen; never comes at the end of time.
            let ahead = |at: &u64| *at > now && *at != u64::MAX;
            at = [supervisor, Some(guest)].into_iter().flatten().filter(ahead).min();
        }
        self.armed = at;
        self.config.timer.arm(at);
    }
}

/// The bus of one hart: its surroundings and its data, borrowed from the context.
pub struct Bus<'a> {
    /// Memory and time.
    pub env: &'a mut Env,
    /// The hart's data.
    pub cpu: &'a mut RiscvCpu,
}

impl Bus<'_> {
    /// Forgets translations.
    pub fn flush(&mut self, scope: TlbScope) {
        match scope {
            TlbScope::All => self.env.flush_tlb_all(),
            // Entries are those of the present address space and global ones.
            TlbScope::AddressSpace(_) => self.env.flush_tlb_nonglobal(),
            TlbScope::Page(vaddr) | TlbScope::PageOf { vaddr, .. } => self.env.flush_tlb_page(vaddr),
        }
    }

    /// Whether anything answers at a physical address.
    pub fn answers(&self, addr: u64) -> bool {
        self.env.memory().view().lookup(addr).is_some()
    }

    /// Whether RAM is at a physical address, and whether it takes writes.
    fn ram(&self, addr: u64) -> Option<bool> {
        let view = self.env.memory().view();
        match view.lookup(addr)?.target {
            Target::Ram { writable, .. } => Some(writable),
            Target::Mmio(_) => None,
        }
    }
}

impl SystemBus for Bus<'_> {
    fn read_phys(&mut self, addr: u64, size: u8) -> Option<u64> {
        self.ram(addr)?;
        Some(self.env.read_phys(addr, size.into()))
    }

    fn cas_phys(&mut self, addr: u64, size: u8, old: u64, new: u64) -> Option<bool> {
        self.ram(addr)?.then(|| self.env.cas_phys(addr, size.into(), old, new))
    }

    fn lines(&self) -> &InterruptLines {
        &self.cpu.config.lines
    }

    fn time(&mut self) -> u64 {
        if self.env.counter().is_some() {
            // Brings virtual time up to the instruction at hand.
            self.env.clock_ns();
        }
        self.cpu.config.timer.time()
    }

    /// One cycle each nanosecond.
    fn cycles(&mut self) -> u64 {
        self.env.clock_ns()
    }

    /// What was executed if instructions are counted, else one each cycle.
    fn instructions(&mut self) -> u64 {
        match self.env.counter() {
            Some(counter) => counter.executed(),
            None => self.env.clock_ns(),
        }
    }

    fn entropy(&mut self) -> Option<u16> {
        // SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
        self.cpu.random = self.cpu.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.cpu.random;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some((z ^ z >> 31) as u16)
    }
}

//! The local APIC: xAPIC and x2APIC.
//!
//! Source: Intel SDM vol. 3, chapter 11.
//!
//! The vCPU asks "does anything wait?" very often: [`LocalApic::pending`] is one atomic load. Every change of
//! state ends in [`State::sync`], which computes that word under the lock; when a bit of it appears, the wake
//! callback is called after the lock is released. It is not called again for a bit that is already set: the
//! vCPU looks at `pending` after each acknowledge and whenever its own masking changes.
//!
//! Limits: directed EOI (SVR bit 12) and CMCI are not offered; delivery is immediate, so the delivery status bits
//! read 0; TPR arbitration (APR) reads as PPR.

mod registers;
mod saved;
mod spec;
mod timer;

use crate::bus::{ApicBus, DeliveryMode, InterruptMessage};
use parking_lot::Mutex;
use rhea_device::{IrqLine, IrqSink, Reset, ResetKind, Timer, VirtualClock};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// Bits of [`LocalApic::pending`].
pub mod pending {
    /// A maskable interrupt that the priorities let through, or an ExtINT.
    pub const INTERRUPT: u32 = 1 << 0;
    /// NMI.
    pub const NMI: u32 = 1 << 1;
    /// SMI.
    pub const SMI: u32 = 1 << 2;
    /// INIT.
    pub const INIT: u32 = 1 << 3;
    /// Start-up IPI.
    pub const SIPI: u32 = 1 << 4;
}

/// Gives the vector of an ExtINT: the 8259 pair.
pub trait ExtIntSource: Send + Sync {
    /// The INTA cycle.
    fn acknowledge(&self) -> u8;
}

/// A register access that the processor answers with #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterFault;

/// What is fixed about one local APIC.
#[derive(Clone, Debug)]
pub struct LocalApicConfig {
    /// Initial APIC ID.
    pub id: u32,
    /// The bootstrap processor's. Its LINT0 comes out of reset as an unmasked ExtINT, as firmware would set it
    /// (virtual wire mode), so that programs that only know the 8259 get their interrupts.
    pub bsp: bool,
    /// x2APIC mode can be entered.
    pub x2apic: bool,
    /// Highest physical address bit plus one, for the check of IA32_APIC_BASE.
    pub physical_address_bits: u32,
}

type BaseHook = Box<dyn Fn(Option<u64>) + Send + Sync>;

/// Interrupt vectors as a set of 256 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VectorSet(pub(crate) [u32; 8]);

impl VectorSet {
    fn set(&mut self, vector: u8, on: bool) {
        let (word, bit) = (usize::from(vector / 32), 1 << (vector % 32));
        if on { self.0[word] |= bit } else { self.0[word] &= !bit }
    }

    fn has(&self, vector: u8) -> bool {
        self.0[usize::from(vector / 32)] & 1 << (vector % 32) != 0
    }

    fn highest(&self) -> Option<u8> {
        let word = (0..8).rev().find(|&i| self.0[i] != 0)?;
        Some((word * 32) as u8 + (31 - self.0[word].leading_zeros()) as u8)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct State {
    /// IA32_APIC_BASE.
    base: u64,
    /// xAPIC ID register (bits 31:24); x2APIC mode uses the configured ID.
    xapic_id: u8,
    tpr: u8,
    ldr: u32,
    dfr: u32,
    svr: u32,
    isr: VectorSet,
    tmr: VectorSet,
    irr: VectorSet,
    /// Errors since the last write of ESR, and ESR as that write latched it.
    errors: u32,
    esr: u32,
    icr: u64,
    lvt: [u32; spec::LVT_COUNT],
    divide: u32,
    initial_count: u32,
    /// Virtual time at which the counter was loaded.
    count_start: u64,
    tsc_deadline: u64,
    /// Levels of LINT0 and LINT1.
    lint: [bool; 2],
    /// An ExtINT came as a message and was not yet acknowledged.
    extint_message: bool,
    sipi_vector: u8,
}

impl State {
    /// State after power-up (SDM 11.4.7.1).
    fn power_up(config: &LocalApicConfig, lint: [bool; 2]) -> Self {
        let mut state = Self {
            base: spec::BASE_DEFAULT | spec::BASE_ENABLE | if config.bsp { spec::BASE_BSP } else { 0 },
            xapic_id: config.id as u8,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            isr: VectorSet::default(),
            tmr: VectorSet::default(),
            irr: VectorSet::default(),
            errors: 0,
            esr: 0,
            icr: 0,
            lvt: [spec::LVT_MASKED; spec::LVT_COUNT],
            divide: 0,
            initial_count: 0,
            count_start: 0,
            tsc_deadline: 0,
            lint,
            extint_message: false,
            sipi_vector: 0,
        };
        if config.bsp {
            state.lvt[spec::LINT0] = 7 << 8;
        }
        state
    }

    fn globally_enabled(&self) -> bool {
        self.base & spec::BASE_ENABLE != 0
    }

    fn x2apic(&self) -> bool {
        self.base & (spec::BASE_ENABLE | spec::BASE_X2APIC) == spec::BASE_ENABLE | spec::BASE_X2APIC
    }

    fn software_enabled(&self) -> bool {
        self.globally_enabled() && self.svr & spec::SVR_ENABLE != 0
    }

    /// Processor priority: the higher of task priority and the class in service (SDM 11.8.3.1).
    fn ppr(&self) -> u8 {
        let serving = self.isr.highest().unwrap_or(0);
        if self.tpr >> 4 >= serving >> 4 { self.tpr } else { serving & 0xf0 }
    }

    /// The vector the processor would be given now.
    fn deliverable(&self) -> Option<u8> {
        self.irr.highest().filter(|vector| vector >> 4 > self.ppr() >> 4)
    }

    /// The 8259's INTR reaches the processor: through LINT0 as ExtINT, or directly while the APIC is off.
    fn extint(&self) -> bool {
        let lvt = self.lvt[spec::LINT0];
        let wired = !self.globally_enabled() || lvt & spec::LVT_MASKED == 0 && lvt >> 8 & 7 == 7;
        self.extint_message || self.lint[0] && wired
    }

    /// Takes in a fixed interrupt.
    fn request(&mut self, vector: u8, level: bool) {
        if vector < 16 {
            self.error(spec::ESR_RECEIVE_ILLEGAL);
            return;
        }
        self.irr.set(vector, true);
        self.tmr.set(vector, level);
    }

    /// Notes an error and raises the error interrupt.
    fn error(&mut self, bit: u32) {
        let known = self.errors & bit != 0;
        self.errors |= bit;
        let lvt = self.lvt[spec::ERROR];
        if !known && lvt & spec::LVT_MASKED == 0 && lvt & 0xff >= 16 {
            self.irr.set(lvt as u8, true);
            self.tmr.set(lvt as u8, false);
        }
    }
}

/// One processor's local APIC.
pub struct LocalApic {
    config: LocalApicConfig,
    bus: Weak<ApicBus>,
    clock: Arc<VirtualClock>,
    timer: Timer,
    ext_int: OnceLock<Weak<dyn ExtIntSource>>,
    wake: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
    base_hook: OnceLock<BaseHook>,
    pending: AtomicU32,
    /// What destination matching needs, readable without the lock: APIC ID low, LDR high.
    route_id: AtomicU32,
    route_ldr: AtomicU32,
    route_dfr: AtomicU32,
    /// Bit 0: globally enabled; bit 1: x2APIC; bit 2: software enabled.
    route_mode: AtomicU32,
    tsc_deadline: AtomicU64,
    state: Mutex<State>,
}

impl std::fmt::Debug for LocalApic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LocalApic({})", self.config.id)
    }
}

impl LocalApic {
    /// An APIC in its power-up state. It is put on `bus` by [`ApicBus::connect`].
    pub fn new(config: LocalApicConfig, bus: &Arc<ApicBus>, clock: &Arc<VirtualClock>) -> Arc<Self> {
        let apic = Arc::new_cyclic(|weak: &Weak<Self>| {
            let weak = weak.clone();
            let timer = clock.timer("local APIC", move || {
                if let Some(apic) = weak.upgrade() {
                    apic.timer_fired();
                }
            });
            Self {
                state: Mutex::new(State::power_up(&config, [false; 2])),
                config,
                bus: Arc::downgrade(bus),
                clock: clock.clone(),
                timer,
                ext_int: OnceLock::new(),
                wake: Mutex::new(None),
                base_hook: OnceLock::new(),
                pending: AtomicU32::new(0),
                route_id: AtomicU32::new(0),
                route_ldr: AtomicU32::new(0),
                route_dfr: AtomicU32::new(0),
                route_mode: AtomicU32::new(0),
                tsc_deadline: AtomicU64::new(0),
            }
        });
        apic.update(|_| ());
        apic
    }

    /// Initial APIC ID.
    pub fn id(&self) -> u32 {
        self.config.id
    }

    /// True for the bootstrap processor's APIC.
    pub fn is_bsp(&self) -> bool {
        self.config.bsp
    }

    /// Connects the source of ExtINT vectors, once.
    pub fn set_ext_int_source(&self, source: Weak<dyn ExtIntSource>) {
        let _ = self.ext_int.set(source);
    }

    /// Sets what is called when something becomes pending: it must make the vCPU look at
    /// [`LocalApic::pending`] soon. It may be called with device locks held, so it takes none.
    pub fn set_wake(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        *self.wake.lock() = Some(wake);
    }

    /// Sets what is called when the register page moves: its new base, or `None` while it is not decoded.
    pub fn on_base_change(&self, hook: BaseHook) {
        let _ = self.base_hook.set(hook);
    }

    /// The line into LINT0 (the 8259's INTR) or LINT1 (NMI).
    pub fn lint(self: &Arc<Self>, pin: u32) -> IrqLine {
        IrqLine::new(self.clone(), pin)
    }

    /// What waits for the processor: bits of [`pending`]. One atomic load.
    pub fn pending(&self) -> u32 {
        self.pending.load(Ordering::Acquire)
    }

    /// Changes the state, recomputes what is pending, and wakes the vCPU if something appeared.
    fn update<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        let result = change(&mut state);
        let appeared = self.sync(&state);
        drop(state);
        if appeared {
            self.call_wake();
        }
        result
    }

    /// Recomputes the words others read without the lock; true if an interrupt became deliverable.
    fn sync(&self, state: &State) -> bool {
        let id = if state.x2apic() { self.config.id } else { u32::from(state.xapic_id) };
        let ldr = if state.x2apic() { x2apic_ldr(id) } else { state.ldr };
        let mode = u32::from(state.globally_enabled())
            | u32::from(state.x2apic()) << 1
            | u32::from(state.software_enabled()) << 2;
        self.route_id.store(id, Ordering::Relaxed);
        self.route_ldr.store(ldr, Ordering::Relaxed);
        self.route_dfr.store(state.dfr, Ordering::Relaxed);
        self.route_mode.store(mode, Ordering::Release);
        self.tsc_deadline.store(state.tsc_deadline, Ordering::Relaxed);
        if state.deliverable().is_some() || state.extint() {
            self.pending.fetch_or(pending::INTERRUPT, Ordering::AcqRel) & pending::INTERRUPT == 0
        } else {
            self.pending.fetch_and(!pending::INTERRUPT, Ordering::AcqRel);
            false
        }
    }

    /// Sets pending bits other than the interrupt's, and wakes the vCPU.
    fn post(&self, bits: u32) {
        if self.pending.fetch_or(bits, Ordering::AcqRel) & bits != bits {
            self.call_wake();
        }
    }

    fn call_wake(&self) {
        let wake = self.wake.lock().clone();
        if let Some(wake) = wake {
            wake();
        }
    }

    /// True if `message` addresses this APIC (SDM 11.6.2, 11.12.9).
    pub(crate) fn matches(&self, message: &InterruptMessage) -> bool {
        let mode = self.route_mode.load(Ordering::Acquire);
        let x2apic = mode & 2 != 0;
        let broadcast = if message.wide { u32::MAX } else { 0xff };
        let destination = message.destination;
        if mode & 1 == 0 {
            // A disabled APIC passes INIT, NMI, SMI and start-up on physical match only.
            return !message.logical && (destination == broadcast || destination == self.config.id);
        }
        if destination == broadcast {
            return true;
        }
        if !message.logical {
            return destination == self.route_id.load(Ordering::Relaxed);
        }
        let ldr = self.route_ldr.load(Ordering::Relaxed);
        if x2apic {
            return destination >> 16 == ldr >> 16 && destination & ldr & 0xffff != 0;
        }
        let (ldr, destination) = (ldr >> 24, destination & 0xff);
        if self.route_dfr.load(Ordering::Relaxed) >> 28 == 0xf {
            return ldr & destination != 0;
        }
        let cluster = destination >> 4;
        (cluster == 0xf || cluster == ldr >> 4) && ldr & destination & 0xf != 0
    }

    /// True if fixed interrupts are taken.
    pub(crate) fn accepts_fixed(&self) -> bool {
        self.route_mode.load(Ordering::Acquire) & 4 != 0
    }

    /// What lowest-priority delivery compares.
    pub(crate) fn arbitration_priority(&self) -> u8 {
        self.state.lock().ppr()
    }

    /// Takes `message`, which addresses this APIC; true if accepted.
    pub(crate) fn accept(&self, message: &InterruptMessage) -> bool {
        match message.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                if !self.accepts_fixed() {
                    return false;
                }
                self.update(|state| state.request(message.vector, message.level));
            }
            DeliveryMode::Smi => self.post(pending::SMI),
            DeliveryMode::Nmi => self.post(pending::NMI),
            DeliveryMode::Init => {
                // A start-up IPI that was not taken belongs to the life before INIT.
                self.pending.fetch_and(!pending::SIPI, Ordering::AcqRel);
                self.post(pending::INIT);
            }
            DeliveryMode::StartUp => {
                self.state.lock().sipi_vector = message.vector;
                self.post(pending::SIPI);
            }
            DeliveryMode::ExtInt => self.update(|state| state.extint_message = true),
            DeliveryMode::Reserved => return false,
        }
        true
    }

    /// Raises an NMI at this processor.
    pub fn nmi(&self) {
        self.post(pending::NMI);
    }

    /// Raises an SMI at this processor.
    pub fn smi(&self) {
        self.post(pending::SMI);
    }

    /// INTA: takes the highest-priority deliverable interrupt and puts it in service, or fetches the 8259's
    /// vector. `None` if nothing is deliverable any more.
    pub fn acknowledge_interrupt(&self) -> Option<u8> {
        let (vector, ext) = self.update(|state| {
            if let Some(vector) = state.deliverable() {
                state.irr.set(vector, false);
                state.isr.set(vector, true);
                return (Some(vector), false);
            }
            let ext = state.extint();
            state.extint_message = false;
            (None, ext)
        });
        if !ext {
            return vector;
        }
        // The 8259's lock comes before ours: ours is released.
        Some(self.ext_int.get()?.upgrade()?.acknowledge())
    }

    fn take(&self, bit: u32) -> bool {
        self.pending.fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }

    /// Takes a pending NMI.
    pub fn take_nmi(&self) -> bool {
        self.take(pending::NMI)
    }

    /// Takes a pending SMI.
    pub fn take_smi(&self) -> bool {
        self.take(pending::SMI)
    }

    /// Takes a pending INIT.
    pub fn take_init(&self) -> bool {
        self.take(pending::INIT)
    }

    /// Takes a pending start-up IPI: its vector.
    pub fn take_sipi(&self) -> Option<u8> {
        self.take(pending::SIPI).then(|| self.state.lock().sipi_vector)
    }

    /// Task priority register.
    pub fn tpr(&self) -> u8 {
        self.state.lock().tpr
    }

    /// Sets the task priority register.
    pub fn set_tpr(&self, value: u8) {
        self.update(|state| state.tpr = value);
    }

    /// End of interrupt.
    pub fn eoi(&self) {
        let broadcast = self.update(|state| {
            let vector = state.isr.highest()?;
            state.isr.set(vector, false);
            for (lint, pin) in [(spec::LINT0, 0), (spec::LINT1, 1)] {
                if state.lvt[lint] & spec::LVT_REMOTE_IRR != 0 && state.lvt[lint] as u8 == vector {
                    state.lvt[lint] &= !spec::LVT_REMOTE_IRR;
                    if state.lint[pin] {
                        lint_asserted(state, lint);
                    }
                }
            }
            state.tmr.has(vector).then_some(vector)
        });
        if let (Some(vector), Some(bus)) = (broadcast, self.bus.upgrade()) {
            bus.broadcast_eoi(vector);
        }
    }

    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.state.lock().base
    }

    /// Writes IA32_APIC_BASE (SDM 11.4.4, 11.12.5).
    ///
    /// # Errors
    /// Reserved bits, or a transition the architecture forbids.
    pub fn set_base(&self, value: u64) -> Result<(), RegisterFault> {
        let allowed = ((1u64 << self.config.physical_address_bits.min(52)) - 0x1000)
            | spec::BASE_BSP
            | spec::BASE_ENABLE
            | if self.config.x2apic { spec::BASE_X2APIC } else { 0 };
        if value & !allowed != 0 {
            return Err(RegisterFault);
        }
        let mode = |base: u64| (base & spec::BASE_ENABLE != 0, base & spec::BASE_X2APIC != 0);
        self.update(|state| {
            match (mode(state.base), mode(value)) {
                (_, (false, true)) | ((true, true), (true, false)) | ((false, _), (true, true)) => {
                    return Err(RegisterFault);
                }
                ((true, _), (false, _)) => {
                    let lint = state.lint;
                    *state = State::power_up(&self.config, lint);
                    self.timer.cancel();
                }
                _ => {}
            }
            state.base = value;
            Ok(())
        })?;
        self.report_base();
        Ok(())
    }

    /// Tells the board where the register page is now.
    fn report_base(&self) {
        let (base, shown) = {
            let state = self.state.lock();
            (state.base & !0xfff, state.globally_enabled() && !state.x2apic())
        };
        if let Some(hook) = self.base_hook.get() {
            hook(shown.then_some(base));
        }
    }

    /// The processor took INIT: the registers return to their power-up values, APIC ID and base stay
    /// (SDM 11.4.7.3). A start-up IPI that follows the INIT may have arrived already: its vector stays too.
    pub fn init_reset(&self) {
        self.timer.cancel();
        self.update(|state| {
            let State { base, xapic_id, sipi_vector, lint, .. } = *state;
            *state = State { base, xapic_id, sipi_vector, ..State::power_up(&self.config, lint) };
        });
    }
}

impl Reset for LocalApic {
    fn reset(&self, _: ResetKind) {
        self.timer.cancel();
        self.pending.store(0, Ordering::Release);
        self.update(|state| *state = State::power_up(&self.config, state.lint));
        self.report_base();
    }
}

/// Logical x2APIC ID: cluster in the high half, one bit of sixteen in the low half (SDM 11.12.10.2).
fn x2apic_ldr(id: u32) -> u32 {
    (id & 0xf_fff0) << 12 | 1 << (id & 0xf)
}

/// LINT0 or LINT1 is asserted as a fixed interrupt of its LVT entry.
fn lint_asserted(state: &mut State, lint: usize) {
    let lvt = state.lvt[lint];
    if lvt & (spec::LVT_MASKED | spec::LVT_REMOTE_IRR) != 0 || lvt >> 8 & 7 != 0 {
        return;
    }
    let level = lvt & spec::LVT_LEVEL != 0;
    state.request(lvt as u8, false);
    if level {
        state.lvt[lint] |= spec::LVT_REMOTE_IRR;
    }
}

impl IrqSink for LocalApic {
    fn set_level(&self, pin: u32, level: bool) {
        let lint = if pin == 0 { spec::LINT0 } else { spec::LINT1 };
        let (mode, masked) = self.update(|state| {
            state.lint[(pin & 1) as usize] = level;
            if level && state.globally_enabled() {
                lint_asserted(state, lint);
            }
            let direct = !state.globally_enabled();
            let lvt = state.lvt[lint];
            // With the APIC off, the pins are INTR and NMI themselves.
            if direct {
                (if pin == 0 { 7 } else { 4 }, false)
            } else {
                (lvt >> 8 & 7, lvt & spec::LVT_MASKED != 0)
            }
        });
        if level && !masked {
            match DeliveryMode::from_bits(mode) {
                DeliveryMode::Nmi => self.post(pending::NMI),
                DeliveryMode::Smi => self.post(pending::SMI),
                DeliveryMode::Init => self.post(pending::INIT),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;

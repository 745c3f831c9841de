//! What a processor takes between instructions: INIT, start-up, SMI, NMI, interrupts (SDM vol. 3, table 7-2).

use rhea_x86_state::X86State;
use rhea_x86_state::flags;
use rhea_x86_state::platform::Pending;
use rhea_x86_state::state::{attr, seg};

use crate::bus::{SystemBus, TlbScope};
use crate::segment::load_real;
use crate::{interrupt, smm};

/// Whether an event could be taken now: what a loop that polls `LocalApicPort::pending` needs to know. Cheap.
#[inline]
pub fn is_deliverable(st: &X86State, pending: Pending) -> bool {
    if pending.is_empty() {
        return false;
    }
    if st.wait_for_sipi != 0 {
        return pending.intersects(Pending::SIPI | Pending::INIT);
    }
    if pending.contains(Pending::INIT) && st.smm == 0 {
        return true;
    }
    if st.interrupt_shadow != 0 {
        return false;
    }
    pending.contains(Pending::SMI) && st.smm == 0
        || pending.contains(Pending::NMI) && st.nmi_blocked == 0
        || pending.contains(Pending::INTERRUPT) && st.rflags & flags::IF != 0 && st.shutdown == 0
}

/// Whether the processor executes instructions: not halted, not waiting for a start-up IPI, not shut down.
#[inline]
pub fn is_running(st: &X86State) -> bool {
    st.halted | st.wait_for_sipi | st.shutdown == 0
}

/// Takes the one pending event of highest priority that can be taken. True if the state changed: call it again until it
/// answers false, then run if [`is_running`].
pub fn service(st: &mut X86State, bus: &mut dyn SystemBus) -> bool {
    let pending = bus.apic().pending();
    if !is_deliverable(st, pending) {
        return false;
    }
    if pending.contains(Pending::INIT) && st.smm == 0 && bus.apic().take_init() {
        init(st, bus);
        return true;
    }
    if st.wait_for_sipi != 0 {
        if let Some(vector) = bus.apic().take_sipi() {
            start_up(st, vector);
            return true;
        }
        return false;
    }
    if st.interrupt_shadow != 0 {
        return false;
    }
    if pending.contains(Pending::SMI) && st.smm == 0 && bus.apic().take_smi() {
        st.shutdown = 0;
        smm::enter(st, bus);
        return true;
    }
    if pending.contains(Pending::NMI) && st.nmi_blocked == 0 && bus.apic().take_nmi() {
        st.shutdown = 0;
        interrupt::nmi(st, bus);
        return true;
    }
    let interruptible = st.rflags & flags::IF != 0 && st.shutdown == 0;
    if pending.contains(Pending::INTERRUPT)
        && interruptible
        && let Some(vector) = bus.apic().acknowledge_interrupt()
    {
        interrupt::external(st, bus, vector);
        return true;
    }
    false
}

/// INIT (SDM vol. 3, table 10-1): like RESET, but the TSC, MSRs, MTRRs, caches, x87 and vector state stay.
pub fn init(st: &mut X86State, bus: &mut dyn SystemBus) {
    let bootstrap = bus.apic().is_bsp();
    let mut fresh = bus.cpu_model().reset_state(bootstrap);
    // INIT keeps CD and NW.
    let cache_bits = 3 << 29;
    fresh.cr[0] = fresh.cr[0] & !cache_bits | st.cr[0] & cache_bits;
    fresh.xcr0 = st.xcr0;
    fresh.msr = st.msr.clone();
    fresh.tsc_offset = st.tsc_offset;
    fresh.smbase = st.smbase;
    fresh.x87_top = st.x87_top;
    fresh.x87_empty = st.x87_empty;
    fresh.x87_cw = st.x87_cw;
    fresh.x87_sw = st.x87_sw;
    fresh.mxcsr = st.mxcsr;
    fresh.x87 = st.x87;
    fresh.vec = st.vec;
    fresh.x87_ip = st.x87_ip;
    fresh.x87_dp = st.x87_dp;
    fresh.x87_cs_ds_op = st.x87_cs_ds_op;
    *st = fresh;
    st.mode = st.compute_mode();
    bus.apic().init_reset();
    bus.flush_tlb(TlbScope::All);
}

/// A start-up IPI: real mode at `vector << 12` (SDM vol. 3, 10.4.4).
pub fn start_up(st: &mut X86State, vector: u8) {
    st.wait_for_sipi = 0;
    st.halted = 0;
    load_real(&mut st.seg[seg::CS], u16::from(vector) << 8, attr::CODE);
    st.rip = 0;
    st.mode = st.compute_mode();
}

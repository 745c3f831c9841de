//! The local APIC as the processor model sees it.

use rhea_interrupt::{LocalApic, pending};
use rhea_x86_state::platform::{ApicFault, LocalApicPort, Pending};
use std::sync::Arc;

/// [`LocalApicPort`] over a [`LocalApic`].
#[derive(Clone, Debug)]
pub struct ApicPort(pub Arc<LocalApic>);

// The two words have the same bits, so that the fast path is one load.
const _: () = {
    assert!(Pending::INTERRUPT.bits() == pending::INTERRUPT);
    assert!(Pending::NMI.bits() == pending::NMI);
    assert!(Pending::SMI.bits() == pending::SMI);
    assert!(Pending::INIT.bits() == pending::INIT);
    assert!(Pending::SIPI.bits() == pending::SIPI);
};

impl LocalApicPort for ApicPort {
    fn pending(&self) -> Pending {
        Pending::from_bits_truncate(self.0.pending())
    }
    fn acknowledge_interrupt(&self) -> Option<u8> {
        self.0.acknowledge_interrupt()
    }
    fn take_nmi(&self) -> bool {
        self.0.take_nmi()
    }
    fn take_smi(&self) -> bool {
        self.0.take_smi()
    }
    fn take_init(&self) -> bool {
        self.0.take_init()
    }
    fn take_sipi(&self) -> Option<u8> {
        self.0.take_sipi()
    }
    fn tpr(&self) -> u8 {
        self.0.tpr()
    }
    fn set_tpr(&self, value: u8) {
        self.0.set_tpr(value);
    }
    fn apic_base(&self) -> u64 {
        self.0.base()
    }
    fn set_apic_base(&self, value: u64) -> Result<(), ApicFault> {
        self.0.set_base(value).map_err(|_| ApicFault)
    }
    fn read_x2apic(&self, index: u32) -> Result<u64, ApicFault> {
        self.0.read_x2apic(index).map_err(|_| ApicFault)
    }
    fn write_x2apic(&self, index: u32, value: u64) -> Result<(), ApicFault> {
        self.0.write_x2apic(index, value).map_err(|_| ApicFault)
    }
    fn tsc_deadline(&self) -> u64 {
        self.0.tsc_deadline()
    }
    fn set_tsc_deadline(&self, deadline: u64, tsc_now: u64, tsc_hz: u64) {
        self.0.set_tsc_deadline(deadline, tsc_now, tsc_hz);
    }
    fn init_reset(&self) {
        self.0.init_reset();
    }
    fn apic_id(&self) -> u32 {
        self.0.id()
    }
    fn is_bsp(&self) -> bool {
        self.0.is_bsp()
    }
}

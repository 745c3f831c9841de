//! Interrupt controllers. Of a PC: the 8259A pair, the I/O APIC and the local APICs with the bus between them. Of a
//! RISC-V board: the PLIC, and the software interrupts of the ACLINT.
//!
//! Lock order (each may be held while the next is taken, never the other way): 8259 pair, I/O APIC, local
//! APIC. A local APIC calls out (to the 8259 for INTA, to the I/O APIC for EOI, to the vCPU's wake) with its own
//! lock released. See `devices/README.md` for the whole order.

pub mod aclint;
pub mod aplic;
pub mod bus;
pub mod ioapic;
pub mod lapic;
pub mod pic;
pub mod plic;

pub use aclint::{Mswi, Sswi};
pub use aplic::Aplic;
pub use bus::{ApicBus, DeliveryMode, EoiSink, InterruptMessage};
pub use ioapic::IoApic;
pub use lapic::{ExtIntSource, LocalApic, LocalApicConfig, RegisterFault, pending};
pub use pic::PicPair;
pub use plic::Plic;

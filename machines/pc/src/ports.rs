//! Wiring: interrupt inputs shared by several devices, and addresses nobody claims.

use rhea_device::{IrqLine, SharedLine};
use rhea_interrupt::{IoApic, PicPair};
use rhea_memory::{AccessSizes, MmioHandler};
use std::sync::Arc;

/// The board's interrupt inputs. Several devices may drive one.
pub struct IrqInputs {
    /// I/O APIC inputs 0 to 23.
    gsi: Vec<Arc<SharedLine>>,
    /// ISA IRQs 0 to 15: the 8259 input and the I/O APIC input of the same number, except that IRQ 0 goes to
    /// input 2.
    isa: Vec<Arc<SharedLine>>,
}

impl IrqInputs {
    /// Inputs of `ioapic` and, where there is one, of `pic`.
    pub fn new(pic: Option<&Arc<PicPair>>, ioapic: &Arc<IoApic>) -> Self {
        let gsi: Vec<_> = (0..24).map(|pin| SharedLine::new(ioapic.line(pin))).collect();
        let isa = (0..16usize)
            .map(|irq| {
                let mut ends = vec![match irq {
                    0 => gsi[2].input(),
                    2 => IrqLine::unconnected(),
                    _ => gsi[irq].input(),
                }];
                ends.extend(pic.map(|pic| pic.line(irq as u32)));
                SharedLine::new(IrqLine::fan_out(ends))
            })
            .collect();
        Self { gsi, isa }
    }

    /// A driver of ISA IRQ `irq`.
    pub fn isa(&self, irq: usize) -> IrqLine {
        self.isa[irq].input()
    }

    /// A driver of I/O APIC input `gsi`.
    pub fn gsi(&self, gsi: usize) -> IrqLine {
        self.gsi[gsi].input()
    }
}

/// An address range that nobody decodes: it hides what lies under it.
pub struct OpenBus;

impl MmioHandler for OpenBus {
    fn read(&self, _: u64, _: usize) -> u64 {
        u64::MAX
    }
    fn write(&self, _: u64, _: usize, _: u64) {}
    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::ANY
    }
}

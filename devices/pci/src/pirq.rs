//! Routing of PCI interrupts: pins to PIRQs, PIRQs to I/O APIC inputs and, in 8259 mode, to ISA IRQs.
//!
//! Source: ICH9 data sheet, sections 5.8.6 and 13.1.16 (PIRQ[n]_ROUT).

use crate::bus::IntxRouter;
use parking_lot::Mutex;
use rhea_device::{IrqLine, IrqSink, SharedLine};
use std::sync::Arc;

/// PIRQ (0 to 7 for A to H) of INTA to INTD for each device of bus 0.
pub const ROUTES: [[u8; 4]; 32] = routes();

/// Devices 25 to 31 belong to the chipset and use PIRQ A to D; the slots use E to H, rotated by device number so
/// that INTA of neighbours differs.
const fn routes() -> [[u8; 4]; 32] {
    let mut routes = [[0; 4]; 32];
    let mut device = 0;
    while device < 32 {
        let mut pin = 0;
        while pin < 4 {
            routes[device][pin] = if device >= 25 { pin as u8 } else { 4 + ((device + pin) % 4) as u8 };
            pin += 1;
        }
        device += 1;
    }
    routes
}

/// PIRQ[n]_ROUT: not routed to an ISA IRQ.
const NOT_ROUTED: u8 = 0x80;
/// ISA IRQs that a PIRQ can be routed to: 3 to 7, 9 to 12, 14, 15.
pub const ROUTABLE: u16 = 0xdef8;

struct State {
    levels: u8,
    rout: [u8; 8],
}

/// The eight PIRQs.
pub struct PirqRouter {
    /// I/O APIC inputs, one for each PIRQ.
    gsi: [IrqLine; 8],
    /// ISA IRQs by number.
    isa: Vec<IrqLine>,
    inputs: Mutex<Vec<Arc<SharedLine>>>,
    state: Mutex<State>,
}

impl PirqRouter {
    /// A router into eight I/O APIC inputs and sixteen ISA IRQs.
    pub fn new(gsi: [IrqLine; 8], isa: Vec<IrqLine>) -> Arc<Self> {
        let state = Mutex::new(State { levels: 0, rout: [NOT_ROUTED; 8] });
        let router = Arc::new(Self { gsi, isa, inputs: Mutex::default(), state });
        let inputs = (0..8).map(|pirq| SharedLine::new(IrqLine::new(router.clone(), pirq))).collect();
        *router.inputs.lock() = inputs;
        router
    }

    /// PIRQ[n]_ROUT.
    pub fn rout(&self, pirq: usize) -> u8 {
        self.state.lock().rout[pirq & 7]
    }

    /// Writes PIRQ[n]_ROUT.
    pub fn set_rout(&self, pirq: usize, value: u8) {
        let mut state = self.state.lock();
        state.rout[pirq & 7] = value & 0x8f;
        self.drive(&state);
    }

    /// Drives all outputs from the PIRQs' levels.
    fn drive(&self, state: &State) {
        let high = |pirq: usize| state.levels & 1 << pirq != 0;
        for (pirq, line) in self.gsi.iter().enumerate() {
            line.set(high(pirq));
        }
        for (irq, line) in self.isa.iter().enumerate().filter(|(irq, _)| ROUTABLE & 1 << irq != 0) {
            line.set((0..8).any(|pirq| high(pirq) && usize::from(state.rout[pirq]) == irq));
        }
    }

    /// Forgets the routing.
    pub fn reset(&self) {
        let mut state = self.state.lock();
        state.rout = [NOT_ROUTED; 8];
        self.drive(&state);
    }
}

impl IntxRouter for PirqRouter {
    fn line(&self, device: u8, pin: u8) -> IrqLine {
        match (ROUTES.get(usize::from(device)), pin) {
            (Some(pins), 1..=4) => self.inputs.lock()[usize::from(pins[usize::from(pin) - 1])].input(),
            _ => IrqLine::unconnected(),
        }
    }
}

impl IrqSink for PirqRouter {
    fn set_level(&self, pirq: u32, level: bool) {
        let mut state = self.state.lock();
        let bit = 1 << (pirq & 7);
        state.levels = if level { state.levels | bit } else { state.levels & !bit };
        self.drive(&state);
    }
}

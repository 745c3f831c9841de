//! The interrupt controller that devices' lines go to.

use crate::config::Aia;
use crate::memory_map as map;
use crate::pci::NoMsi;
use rhea_device::{IrqLine, MsiSink};
use rhea_interrupt::{Aplic, ImsicRows, InterruptFile, Plic};
use rhea_riscv_state::InterruptLines;
use std::sync::Arc;

/// A PLIC or an APLIC.
pub(crate) enum Controller {
    Plic(Arc<Plic>),
    Aplic(Arc<Aplic>),
}

impl Controller {
    /// The input of an interrupt.
    pub fn input(&self, irq: u32) -> IrqLine {
        match self {
            Self::Plic(plic) => plic.input(irq),
            Self::Aplic(aplic) => aplic.input(irq),
        }
    }
}

/// Interrupt files by hart, and who takes messages to them.
pub(crate) struct Imsics {
    pub machine: Vec<Arc<InterruptFile>>,
    pub supervisor: Vec<Arc<InterruptFile>>,
    pub messages: Arc<dyn MsiSink>,
}

/// A file as a hart's CSRs reach it.
struct HartFile(Arc<InterruptFile>);

impl rhea_riscv_state::platform::InterruptFile for HartFile {
    fn top(&self) -> u32 {
        self.0.top()
    }
    fn claim(&self, identity: u32) {
        self.0.claim(identity);
    }
    fn read(&self, select: u32) -> u32 {
        self.0.read(select)
    }
    fn write(&self, select: u32, old: u32, new: u32) {
        self.0.write(select, old, new);
    }
}

impl Imsics {
    /// Files that drive the external interrupts `machine` and `supervisor` of the harts with `lines`.
    pub fn new(lines: &[Arc<InterruptLines>], machine: Vec<IrqLine>, supervisor: Vec<IrqLine>) -> Self {
        let files = |lines: Vec<IrqLine>| lines.into_iter().map(InterruptFile::new).collect::<Vec<_>>();
        let (machine, supervisor) = (files(machine), files(supervisor));
        for ((lines, m), s) in lines.iter().zip(&machine).zip(&supervisor) {
            let connected = lines.connect_files(Arc::new(HartFile(m.clone())), Arc::new(HartFile(s.clone())));
            debug_assert!(connected, "the lines of a new hart have no files");
        }
        let rows = vec![(map::IMSIC_M, machine.clone()), (map::IMSIC_S, supervisor.clone())];
        Self { machine, supervisor, messages: ImsicRows::new(rows) }
    }
}

/// The controller for `aia`, which delivers to the lines given, or through `imsics`.
pub(crate) fn controller(
    aia: Aia,
    imsics: Option<&Imsics>,
    machine: Vec<IrqLine>,
    supervisor: Vec<IrqLine>,
) -> Controller {
    match (aia, imsics) {
        (Aia::None, _) => {
            // A context for machine mode and one for supervisor mode of each hart.
            let outputs = machine.into_iter().zip(supervisor).flat_map(<[IrqLine; 2]>::from).collect();
            Controller::Plic(Plic::new(map::IRQS as usize, outputs))
        }
        (_, None) => {
            let sources = map::APLIC_SOURCES as usize;
            Controller::Aplic(Aplic::new(sources, machine, supervisor, Arc::new(NoMsi)))
        }
        (_, Some(imsics)) => {
            // Messages only: the lines are the IMSICs'.
            let none = || vec![IrqLine::unconnected(); machine.len()];
            let sources = map::APLIC_SOURCES as usize;
            Controller::Aplic(Aplic::new(sources, none(), none(), imsics.messages.clone()))
        }
    }
}

//! Interrupt controllers in the device tree, and how other nodes refer to them.

use super::device;
use crate::config::{Aia, VirtConfig};
use crate::memory_map as map;
use rhea_device_tree::Node;
use rhea_interrupt::imsic::{IMSIC_IDENTITIES, IMSIC_PAGE};

/// Interrupts of a hart, by their cause numbers.
mod cause {
    pub const SUPERVISOR_SOFTWARE: u32 = 1;
    pub const MACHINE_SOFTWARE: u32 = 3;
    pub const MACHINE_TIMER: u32 = 7;
    pub const SUPERVISOR_EXTERNAL: u32 = 9;
    pub const MACHINE_EXTERNAL: u32 = 11;
}

/// An APLIC's interrupt specifier: level-sensitive, active high.
const LEVEL_HIGH: u32 = 4;

/// Phandles: two for each hart, then the devices that others refer to.
pub(super) struct Phandles {
    harts: u32,
    aia: Aia,
}

impl Phandles {
    pub fn new(config: &VirtConfig) -> Self {
        Self { harts: config.topology.harts, aia: config.aia }
    }

    pub fn cpu(&self, hart: u32) -> u32 {
        2 * hart + 1
    }

    pub fn intc(&self, hart: u32) -> u32 {
        2 * hart + 2
    }

    /// The test finisher.
    pub fn test(&self) -> u32 {
        2 * self.harts + 1
    }

    /// The controller that devices' interrupts go to: the PLIC, or the supervisor-level APLIC domain.
    pub fn controller(&self) -> u32 {
        2 * self.harts + 2
    }

    fn machine_controller(&self) -> u32 {
        2 * self.harts + 3
    }

    /// The controller that messages of devices go to.
    pub fn messages(&self) -> Option<u32> {
        (self.aia == Aia::AplicImsic).then_some(2 * self.harts + 4)
    }

    fn machine_messages(&self) -> u32 {
        2 * self.harts + 5
    }

    /// How an interrupt is written.
    pub fn specifier(&self, irq: u32) -> Vec<u32> {
        if self.aia == Aia::None { vec![irq] } else { vec![irq, LEVEL_HIGH] }
    }

    /// A node with its interrupt.
    pub fn with_irq(&self, mut node: Node, irq: u32) -> Node {
        node.cell("interrupt-parent", self.controller()).cells("interrupts", self.specifier(irq));
        node
    }

    /// `interrupts-extended` over all harts with the causes given.
    fn to_harts(&self, node: &mut Node, causes: &[u32]) {
        let cells = (0..self.harts)
            .flat_map(|hart| causes.iter().flat_map(move |cause| [self.intc(hart), *cause]))
            .collect::<Vec<_>>();
        node.cells("interrupts-extended", cells);
    }
}

/// The CLINT, or the devices of the ACLINT that there are.
pub(super) fn add_local(soc: &mut Node, config: &VirtConfig, phandles: &Phandles) {
    if !config.aclint {
        let mut clint = device("clint", map::CLINT, map::CLINT_SIZE, &["sifive,clint0", "riscv,clint0"]);
        phandles.to_harts(&mut clint, &[cause::MACHINE_SOFTWARE, cause::MACHINE_TIMER]);
        soc.push(clint);
        return;
    }
    let messages = config.aia == Aia::AplicImsic;
    if !messages {
        let swi = |name: &str, address: u64, compatible: &str, cause: u32| {
            let mut node = device(name, address, rhea_interrupt::aclint::SWI_SIZE, &[compatible]);
            node.flag("interrupt-controller").cell("#interrupt-cells", 0);
            phandles.to_harts(&mut node, &[cause]);
            node
        };
        soc.push(swi("mswi", map::CLINT, "riscv,aclint-mswi", cause::MACHINE_SOFTWARE));
        soc.push(swi("sswi", map::SSWI, "riscv,aclint-sswi", cause::SUPERVISOR_SOFTWARE));
    }
    let base = map::mtimer(config);
    let time = base + rhea_timer::mtimer::MTIME;
    // Behind software interrupts, mtime has the rest of the window.
    let size = if messages { 8 } else { map::CLINT + map::CLINT_SIZE - time };
    let mut timer = Node::new(format!("mtimer@{base:x}"));
    timer.text("compatible", "riscv,aclint-mtimer");
    timer.reg([(time, size), (base, rhea_timer::mtimer::MTIME)]);
    phandles.to_harts(&mut timer, &[cause::MACHINE_TIMER]);
    soc.push(timer);
}

/// The PLIC, or the APLIC's domains and the IMSICs.
pub(super) fn add_controllers(soc: &mut Node, phandles: &Phandles) {
    if phandles.aia == Aia::None {
        soc.push(plic(phandles));
        return;
    }
    if let Some(messages) = phandles.messages() {
        soc.push(imsic(phandles, map::IMSIC_S, messages, cause::SUPERVISOR_EXTERNAL));
        let machine = phandles.machine_messages();
        soc.push(imsic(phandles, map::IMSIC_M, machine, cause::MACHINE_EXTERNAL));
    }
    let mut supervisor = aplic(phandles, map::APLIC_S, phandles.messages(), cause::SUPERVISOR_EXTERNAL);
    supervisor.cell("phandle", phandles.controller());
    let messages = phandles.messages().map(|_| phandles.machine_messages());
    let mut machine = aplic(phandles, map::APLIC_M, messages, cause::MACHINE_EXTERNAL);
    let child = phandles.controller();
    machine.cell("phandle", phandles.machine_controller()).cell("riscv,children", child);
    // The binding's name, and the one that software of before it looks for.
    for name in ["riscv,delegation", "riscv,delegate"] {
        machine.cells(name, [child, 1, map::APLIC_SOURCES]);
    }
    soc.push(supervisor).push(machine);
}

fn plic(phandles: &Phandles) -> Node {
    let mut plic = device("plic", map::PLIC, map::PLIC_SIZE, &["sifive,plic-1.0.0", "riscv,plic0"]);
    plic.cell("phandle", phandles.controller()).flag("interrupt-controller");
    plic.cell("#interrupt-cells", 1).cell("#address-cells", 0).cell("riscv,ndev", map::IRQS);
    phandles.to_harts(&mut plic, &[cause::MACHINE_EXTERNAL, cause::SUPERVISOR_EXTERNAL]);
    plic
}

fn aplic(phandles: &Phandles, address: u64, messages: Option<u32>, cause: u32) -> Node {
    let size = rhea_interrupt::aplic::aplic_size(phandles.harts.into());
    let mut node = device("interrupt-controller", address, size, &["qemu,aplic", "riscv,aplic"]);
    node.flag("interrupt-controller").cell("#interrupt-cells", 2).cell("#address-cells", 0);
    node.cell("riscv,num-sources", map::APLIC_SOURCES);
    match messages {
        Some(controller) => {
            node.cell("msi-parent", controller);
        }
        None => phandles.to_harts(&mut node, &[cause]),
    }
    node
}

fn imsic(phandles: &Phandles, address: u64, phandle: u32, cause: u32) -> Node {
    let size = u64::from(phandles.harts) * IMSIC_PAGE;
    let mut node = device("interrupt-controller", address, size, &["qemu,imsics", "riscv,imsics"]);
    node.cell("phandle", phandle).flag("interrupt-controller").flag("msi-controller");
    node.cell("#interrupt-cells", 0).cell("riscv,num-ids", IMSIC_IDENTITIES);
    phandles.to_harts(&mut node, &[cause]);
    node
}

//! The PCI host: configuration space, windows, and the lines its interrupt pins are spread over.

use crate::memory_map as map;
use rhea_device::{IrqLine, MsiSink};
use rhea_memory::{Region, Topology};
use rhea_pci::{EcamBridge, IntxRouter, PciAddress, PciBus, SwizzledIntx, ecam};
use std::sync::Arc;

/// Takes the messages where there is no controller for them: nobody hears.
pub(crate) struct NoMsi;

impl MsiSink for NoMsi {
    fn send(&self, _: u64, _: u32) {}
}

/// A host that is mapped into `system`, with its bridge.
pub(crate) fn host(
    topology: &Arc<Topology>,
    system: &Arc<Region>,
    lines: [IrqLine; 4],
    msi: Arc<dyn MsiSink>,
    high_window: (u64, u64),
) -> (Arc<PciBus>, Arc<EcamBridge>) {
    let memory = Region::container(topology, "pci-memory", 1 << 56);
    let io = Region::container(topology, "pci-io", map::PCI_IO_SIZE);
    let intx: Arc<dyn IntxRouter> = SwizzledIntx::new(lines);
    let bus = PciBus::new(memory.clone(), io.clone(), intx, msi);
    let bridge = EcamBridge::new();
    let plugged = bus.plug(PciAddress { device: 0, function: 0 }, bridge.clone());
    debug_assert!(plugged.is_ok(), "an empty bus has room");
    let space = Region::mmio(topology, "ecam", map::PCI_ECAM_SIZE, ecam(&bus));
    system.add(map::PCI_ECAM, &space);
    system.add(map::PCI_IO, &Region::alias(topology, "pci-io-window", &io, 0, map::PCI_IO_SIZE));
    for (name, (start, size)) in
        [("pci-window", (map::PCI_MEMORY, map::PCI_MEMORY_SIZE)), ("pci-high-window", high_window)]
    {
        system.add(start, &Region::alias(topology, name, &memory, start, size));
    }
    (bus, bridge)
}

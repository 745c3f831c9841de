//! A PCI Express host as processors without ports have it: the memory-mapped configuration space, fixed windows, and
//! four interrupt lines.
//!
//! Source: PCI Express base specification 5.0, section 7.2.2 (ECAM); PCI-to-PCI bridge architecture specification 1.2,
//! section 9.1 (how pins are spread over lines).

use crate::bus::{IntxRouter, PciBus, PciFunction};
use crate::config::{Attachment, FunctionConfig, FunctionIdentity};
use rhea_device::{
    IrqLine, LoadError, Reset, ResetKind, SavedRecord, SharedLine, StateUnit, load_record, save_record,
};
use rhea_memory::{AccessSizes, MmioHandler};
use std::sync::Arc;

/// Bytes of configuration space for each bus.
pub const ECAM_BUS_SIZE: u64 = 1 << 20;

/// The memory-mapped configuration space of `bus`, [`ECAM_BUS_SIZE`] for each bus number.
pub fn ecam(bus: &Arc<PciBus>) -> Arc<dyn MmioHandler> {
    Arc::new(Ecam(bus.clone()))
}

struct Ecam(Arc<PciBus>);

impl MmioHandler for Ecam {
    fn read(&self, offset: u64, size: usize) -> u64 {
        let (bus, devfn, register) = ((offset >> 20) as u8, (offset >> 12) as u8, (offset & 0xfff) as usize);
        u64::from(self.0.config_read(bus, devfn, register, size))
    }

    fn write(&self, offset: u64, size: usize, value: u64) {
        let (bus, devfn, register) = ((offset >> 20) as u8, (offset >> 12) as u8, (offset & 0xfff) as usize);
        self.0.config_write(bus, devfn, register, size, value as u32);
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 4 }
    }
}

/// Spreads interrupt pins over four lines by device number, as the slots of a backplane are wired.
pub struct SwizzledIntx([Arc<SharedLine>; 4]);

impl SwizzledIntx {
    /// A router onto four lines.
    pub fn new(lines: [IrqLine; 4]) -> Arc<Self> {
        Arc::new(Self(lines.map(SharedLine::new)))
    }

    /// Which of the four lines a pin (1 to 4) of a device drives.
    pub fn index(device: u8, pin: u8) -> usize {
        (usize::from(device) + usize::from(pin.wrapping_sub(1))) % 4
    }
}

impl IntxRouter for SwizzledIntx {
    fn line(&self, device: u8, pin: u8) -> IrqLine {
        let shared = self.0.get(Self::index(device, pin));
        shared.filter(|_| (1..=4).contains(&pin)).map_or_else(IrqLine::unconnected, SharedLine::input)
    }
}

/// Function 00.0 of such a host: a bridge with nothing to set.
pub struct EcamBridge {
    config: FunctionConfig,
}

impl EcamBridge {
    /// A bridge that says who it is.
    pub fn new() -> Arc<Self> {
        // The generic host bridge of QEMU's vendor ID (docs/specs/pci-ids.rst).
        let identity = FunctionIdentity {
            vendor: 0x1b36,
            device: 0x0008,
            revision: 0,
            class: [0x06, 0x00, 0x00],
            subsystem: (0x1af4, 0x1100),
            interrupt_pin: 0,
        };
        Arc::new(Self { config: FunctionConfig::new(identity) })
    }
}

impl PciFunction for EcamBridge {
    fn config_read(&self, offset: usize, size: usize) -> u32 {
        self.config.read(offset, size)
    }

    fn config_write(&self, offset: usize, size: usize, value: u32) {
        self.config.write(offset, size, value);
    }

    fn interrupt_pin(&self) -> u8 {
        0
    }

    fn attach(&self, attachment: Attachment) {
        self.config.attach(attachment);
    }
}

impl Reset for EcamBridge {
    fn reset(&self, _: ResetKind) {
        self.config.reset();
    }
}

rhea_device::saved_record! { "ecam-bridge", 1,
    /// Saved state of the bridge.
    pub struct EcamBridgeSavedV1 {
        /// Configuration space.
        config: Vec<u8>,
    }
}

impl StateUnit for EcamBridge {
    fn save(&self) -> SavedRecord {
        save_record(&EcamBridgeSavedV1 { config: self.config.saved_bytes() })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let saved: EcamBridgeSavedV1 = load_record(record)?;
        self.config.restore_bytes("ecam-bridge", &saved.config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::PciAddress;
    use crate::msi::tests::Messages;
    use rhea_memory::{AddressSpace, Region, Topology};

    #[test]
    fn pins_are_spread_and_shared() {
        let lines: [IrqLine; 4] = std::array::from_fn(|_| IrqLine::unconnected());
        let router = SwizzledIntx::new(lines.clone());
        let (a, b) = (router.line(1, 1), router.line(4, 2));
        a.raise();
        b.raise();
        a.lower();
        assert_eq!(lines.each_ref().map(IrqLine::level), [false, true, false, false]);
        b.lower();
        assert!(!lines[1].level());
        router.line(2, 0).raise();
        router.line(2, 5).raise();
        assert!(lines.iter().all(|line| !line.level()));
    }

    #[test]
    fn the_bridge_is_found_in_the_configuration_space() {
        let topology = Topology::new();
        let container = |name: &str| Region::container(&topology, name, 1 << 32);
        let lines = std::array::from_fn(|_| IrqLine::unconnected());
        let intx = SwizzledIntx::new(lines);
        let bus =
            PciBus::new(container("pci-memory"), container("pci-io"), intx, Arc::new(Messages::default()));
        let bridge = EcamBridge::new();
        bus.plug(PciAddress { device: 0, function: 0 }, bridge.clone()).unwrap();
        let system = container("system");
        system.add(0, &Region::mmio(&topology, "ecam", 256 * ECAM_BUS_SIZE, ecam(&bus)));
        let space = AddressSpace::new("test", system);
        assert_eq!(space.read(0, 4), 0x0008_1b36);
        assert_eq!(space.read(1 << 15, 4), 0xffff_ffff, "no device 1");
        assert_eq!(space.read(ECAM_BUS_SIZE, 4), 0xffff_ffff, "no bus 1");
        space.write(4, 2, 0xffff);
        let record = bridge.save();
        bridge.reset(ResetKind::Warm);
        assert_eq!(space.read(4, 2), 0);
        bridge.load(&record).unwrap();
        assert_ne!(space.read(4, 2), 0);
    }
}

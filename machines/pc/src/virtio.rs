//! Virtio devices on the boards: on the PCI bus, or in slots in memory where there is none.

use crate::board::{Board, Interrupts};
use crate::config::{BuildError, PcConfig, PcKind, VirtioConfig, VirtioPlace};
use crate::memory_map as map;
use rhea_pci::{PciAddress, SlotError};
use rhea_virtio::{MMIO_SIZE, MmioVersion, VirtioMmio, VirtioPci};

/// I/O APIC input of the first slot; the others follow. No ISA device reaches it.
const FIRST_GSI: usize = 16;

/// Devices that go into slots, each with its version.
fn in_slots(config: &PcConfig) -> impl Iterator<Item = (&VirtioConfig, MmioVersion)> {
    config.virtio.iter().filter_map(|entry| match entry.place {
        VirtioPlace::Mmio(version) => Some((entry, version)),
        VirtioPlace::Pci(_) => None,
    })
}

/// Address, size and GSI of each slot with a device.
pub(crate) fn occupied_slots(config: &PcConfig) -> Vec<(u32, u32, u32)> {
    let slot = |index: usize| {
        let address = map::VIRTIO_MMIO + index as u64 * MMIO_SIZE;
        (address as u32, MMIO_SIZE as u32, (FIRST_GSI + index) as u32)
    };
    (0..in_slots(config).count().min(map::VIRTIO_MMIO_SLOTS)).map(slot).collect()
}

impl Board<'_> {
    /// Plugs the virtio devices in.
    pub(crate) fn add_virtio(&mut self, interrupts: &Interrupts) -> Result<(), BuildError> {
        self.add_virtio_pci(interrupts)?;
        let no_bus = |entry: &VirtioConfig, bus| BuildError::NoBus { device: entry.name.clone(), bus };
        let config = self.config;
        if config.kind != PcKind::Microvm {
            let first = in_slots(config).next();
            return match first {
                Some((entry, _)) => Err(no_bus(entry, "virtio-mmio slots; use the device's -pci form")),
                None => Ok(()),
            };
        }
        let mut devices = in_slots(config);
        for index in 0..map::VIRTIO_MMIO_SLOTS {
            let slot = match devices.next() {
                Some((entry, version)) => {
                    let irq = interrupts.inputs.gsi(FIRST_GSI + index);
                    VirtioMmio::new(entry.device.clone(), version, self.memory.clone(), irq)
                }
                None => VirtioMmio::empty(MmioVersion::Legacy),
            };
            let base = map::VIRTIO_MMIO + index as u64 * MMIO_SIZE;
            self.map_memory("virtio-mmio", base, MMIO_SIZE, slot.clone());
            self.register(format!("virtio-mmio/{index}"), &slot);
        }
        match devices.next() {
            Some((entry, _)) => {
                let reason = "all virtio-mmio slots are taken";
                Err(BuildError::NoRoom { device: entry.name.clone(), reason })
            }
            None => Ok(()),
        }
    }

    fn add_virtio_pci(&mut self, interrupts: &Interrupts) -> Result<(), BuildError> {
        let config = self.config;
        for entry in &config.virtio {
            let VirtioPlace::Pci(wanted) = entry.place else { continue };
            let device = || entry.name.clone();
            let Some(bus) = self.pci.clone() else {
                let bus = "PCI bus; use the device's form for virtio-mmio (virtio-blk-device for a disk)";
                return Err(BuildError::NoBus { device: device(), bus });
            };
            let function = VirtioPci::new(
                entry.device.clone(),
                &self.topology,
                self.memory.clone(),
                interrupts.bus.clone(),
            );
            let plugged = match wanted {
                Some(address) => bus.plug(address, function.clone()).map(|()| address),
                None => bus.plug_anywhere(function.clone()),
            };
            let PciAddress { device: slot, function: number } = plugged.map_err(|error| {
                let reason = match error {
                    SlotError::OutOfRange => "there is no such PCI address",
                    SlotError::Taken => "the PCI address is taken",
                    SlotError::Full => "the PCI bus is full",
                };
                BuildError::NoRoom { device: device(), reason }
            })?;
            self.register(format!("pci/{slot:02x}.{number}"), &function);
        }
        Ok(())
    }
}

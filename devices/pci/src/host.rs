//! The Q35 host: configuration mechanisms and the host bridge.
//!
//! Source: PCI 3.0 section 3.2.2.3.2 (ports CF8h and CFCh); Intel 3 Series chipset data sheet, section 5.1 (PCIEXBAR).

use crate::bus::{PciBus, PciFunction};
use crate::config::{Attachment, FunctionConfig, FunctionIdentity};
use crate::ecam::ecam;
use crate::spec;
use parking_lot::Mutex;
use rhea_device::{LoadError, Reset, ResetKind, SavedRecord, StateUnit, load_record, save_record};
use rhea_memory::{AccessSizes, MmioHandler, Region};
use std::sync::Arc;

/// PCIEXBAR: base of the memory-mapped configuration space.
const PCIEXBAR: usize = 0x60;
/// PCIEXBAR: enabled.
const PCIEXBAR_ENABLE: u64 = 1;
/// PCIEXBAR: length field (0: 256 buses, 1: 128, 2: 64).
const PCIEXBAR_LENGTH: u64 = 3 << 1;
/// CONFIG_ADDRESS: enabled.
const ADDRESS_ENABLE: u32 = 1 << 31;

/// Ports CF8h to CFFh and the memory-mapped configuration space.
pub struct Q35Host {
    bus: Arc<PciBus>,
    address: Mutex<u32>,
}

impl Q35Host {
    /// Configuration mechanisms for `bus`.
    pub fn new(bus: Arc<PciBus>) -> Arc<Self> {
        Arc::new(Self { bus, address: Mutex::new(0) })
    }

    /// CONFIG_ADDRESS (CF8h) and CONFIG_DATA (CFCh), eight ports.
    pub fn ports(self: &Arc<Self>) -> Arc<dyn MmioHandler> {
        Arc::new(ConfigPorts(self.clone()))
    }

    /// The memory-mapped configuration space, 1 MiB for each bus.
    pub fn ecam(self: &Arc<Self>) -> Arc<dyn MmioHandler> {
        ecam(&self.bus)
    }
}

struct ConfigPorts(Arc<Q35Host>);

impl ConfigPorts {
    /// Bus, device and function, and register that CONFIG_ADDRESS selects, with the byte within CONFIG_DATA.
    fn target(&self, offset: u64) -> Option<(u8, u8, usize)> {
        let address = *self.0.address.lock();
        let register = (address & 0xfc) as usize | (offset & 3) as usize;
        (address & ADDRESS_ENABLE != 0).then_some(((address >> 16) as u8, (address >> 8) as u8, register))
    }
}

impl MmioHandler for ConfigPorts {
    fn read(&self, offset: u64, size: usize) -> u64 {
        if offset < 4 {
            // Only 32-bit accesses reach CONFIG_ADDRESS.
            return if size == 4 { u64::from(*self.0.address.lock()) } else { u64::MAX };
        }
        match self.target(offset) {
            Some((bus, devfn, register)) => u64::from(self.0.bus.config_read(bus, devfn, register, size)),
            None => u64::MAX,
        }
    }

    fn write(&self, offset: u64, size: usize, value: u64) {
        if offset < 4 {
            if size == 4 {
                *self.0.address.lock() = value as u32 & 0x80ff_fffc;
            }
        } else if let Some((bus, devfn, register)) = self.target(offset) {
            self.0.bus.config_write(bus, devfn, register, size, value as u32);
        }
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 4 }
    }
}

/// Function 00.0: the memory controller hub.
pub struct HostBridge {
    config: FunctionConfig,
    /// Container and region of the memory-mapped configuration space.
    system: Arc<Region>,
    ecam: Arc<Region>,
    mapped: Mutex<Option<u64>>,
}

impl HostBridge {
    /// A host bridge that shows `ecam` in `system` where PCIEXBAR says. `base` is what PCIEXBAR holds after reset:
    /// `Some` address as firmware would have set it, or `None` for the hardware's own (disabled).
    pub fn new(system: Arc<Region>, ecam: Arc<Region>, base: Option<u64>) -> Arc<Self> {
        let identity = FunctionIdentity {
            vendor: 0x8086,
            device: 0x29c0,
            revision: 2,
            class: [0x06, 0x00, 0x00],
            subsystem: (0x8086, 0x29c0),
            interrupt_pin: 0,
        };
        let value = base.map_or(0xe000_0000, |base| base | PCIEXBAR_ENABLE);
        let writable: u64 = 0x0000_000f_f000_0000 | PCIEXBAR_LENGTH | PCIEXBAR_ENABLE;
        let config = FunctionConfig::new(identity).with_register(
            PCIEXBAR,
            &value.to_le_bytes(),
            &writable.to_le_bytes(),
        );
        Arc::new(Self { config, system, ecam, mapped: Mutex::new(None) })
    }

    /// Maps the configuration space where PCIEXBAR says.
    fn sync(&self) {
        let low = u64::from(self.config.read(PCIEXBAR, 4));
        let value = low | u64::from(self.config.read(PCIEXBAR + 4, 4)) << 32;
        let length = match (value & PCIEXBAR_LENGTH) >> 1 {
            0 => 256u64 << 20,
            1 => 128 << 20,
            _ => 64 << 20,
        };
        let base = value & 0x0000_000f_f000_0000 & !(length - 1);
        let wanted = (value & PCIEXBAR_ENABLE != 0).then_some(base);
        let mut mapped = self.mapped.lock();
        self.system.topology().transaction(|| {
            if *mapped != wanted {
                self.system.remove(&self.ecam);
                if let Some(base) = wanted {
                    self.system.add_with_priority(base, &self.ecam, 2);
                }
            }
            if self.ecam.size() != length {
                self.ecam.set_size(length);
            }
        });
        *mapped = wanted;
    }
}

impl PciFunction for HostBridge {
    fn config_read(&self, offset: usize, size: usize) -> u32 {
        self.config.read(offset, size)
    }

    fn config_write(&self, offset: usize, size: usize, value: u32) {
        self.config.write(offset, size, value);
        if offset < PCIEXBAR + 8 && offset + size > PCIEXBAR {
            self.sync();
        }
    }

    fn interrupt_pin(&self) -> u8 {
        0
    }

    fn attach(&self, attachment: Attachment) {
        self.config.attach(attachment);
        self.sync();
    }
}

impl Reset for HostBridge {
    fn reset(&self, _: ResetKind) {
        self.config.reset();
        self.sync();
    }
}

rhea_device::saved_record! { "q35-host-bridge", 1,
    /// Saved state of the host bridge.
    pub struct HostBridgeSavedV1 {
        /// Configuration space.
        config: Vec<u8>,
    }
}

impl StateUnit for HostBridge {
    fn save(&self) -> SavedRecord {
        save_record(&HostBridgeSavedV1 { config: self.config.saved_bytes() })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let saved: HostBridgeSavedV1 = load_record(record)?;
        self.config.restore_bytes("q35-host-bridge", &saved.config)?;
        self.sync();
        Ok(())
    }
}

rhea_device::saved_record! { "pci-config-address", 1,
    /// Saved state of the configuration ports.
    pub struct ConfigAddressSavedV1 {
        /// CONFIG_ADDRESS.
        address: u32,
    }
}

impl Reset for Q35Host {
    fn reset(&self, _: ResetKind) {
        *self.address.lock() = 0;
    }
}

impl StateUnit for Q35Host {
    fn save(&self) -> SavedRecord {
        save_record(&ConfigAddressSavedV1 { address: *self.address.lock() })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let saved: ConfigAddressSavedV1 = load_record(record)?;
        *self.address.lock() = saved.address & 0x80ff_fffc;
        Ok(())
    }
}

const _: () = assert!(PCIEXBAR >= spec::INTERRUPT_PIN);

#[cfg(test)]
mod tests;

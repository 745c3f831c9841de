//! Function 1F.0: the ICH9's LPC bridge, as far as it routes interrupts and places the power management block.
//!
//! Source: ICH9 data sheet, section 13.1. The root complex registers (RCBA), GPIO and LPC decode ranges are kept as
//! registers without effect.

use crate::bus::PciFunction;
use crate::config::{Attachment, FunctionConfig, FunctionIdentity};
use crate::pirq::PirqRouter;
use parking_lot::Mutex;
use rhea_device::{LoadError, Reset, ResetKind, SavedRecord, StateUnit, load_record, save_record};
use rhea_memory::Region;
use std::sync::Arc;

/// ACPI base address and control.
const PMBASE: usize = 0x40;
const ACPI_CNTL: usize = 0x44;
const ACPI_ENABLE: u32 = 1 << 7;
/// PIRQ A to D, and E to H.
const PIRQ_ROUT: [usize; 8] = [0x60, 0x61, 0x62, 0x63, 0x68, 0x69, 0x6a, 0x6b];
/// GPIO base, LPC decode ranges, root complex base.
const GPIOBASE: usize = 0x48;
const LPC_IO_DEC: usize = 0x80;
const RCBA: usize = 0xf0;

/// The LPC bridge.
pub struct LpcBridge {
    config: FunctionConfig,
    pirq: Arc<PirqRouter>,
    ports: Arc<Region>,
    pm: Arc<Region>,
    mapped: Mutex<Option<u64>>,
}

impl LpcBridge {
    /// A bridge that routes with `pirq` and shows the power management block `pm` in `ports` where PMBASE says.
    /// `pm_base` is what firmware would have set; `None` for the hardware's own reset state (disabled).
    pub fn new(
        pirq: Arc<PirqRouter>,
        ports: Arc<Region>,
        pm: Arc<Region>,
        pm_base: Option<u16>,
    ) -> Arc<Self> {
        let identity = FunctionIdentity {
            vendor: 0x8086,
            device: 0x2918,
            revision: 2,
            class: [0x06, 0x01, 0x00],
            subsystem: (0x8086, 0x2918),
            interrupt_pin: 0,
        };
        let base = u32::from(pm_base.unwrap_or(0)) | 1;
        let control = if pm_base.is_some() { ACPI_ENABLE } else { 0 };
        let mut config = FunctionConfig::new(identity)
            .multifunction()
            .with_register(PMBASE, &base.to_le_bytes(), &0xff80u32.to_le_bytes())
            .with_register(ACPI_CNTL, &control.to_le_bytes(), &0x87u32.to_le_bytes())
            .with_register(GPIOBASE, &1u32.to_le_bytes(), &0xffc0u32.to_le_bytes())
            .with_register(LPC_IO_DEC, &[0; 4], &[0x77, 0x13, 0x0f, 0x3f])
            .with_register(RCBA, &[0; 4], &0xffff_c001u32.to_le_bytes());
        for offset in PIRQ_ROUT {
            config = config.with_register(offset, &[0x80], &[0x8f]);
        }
        Arc::new(Self { config, pirq, ports, pm, mapped: Mutex::new(None) })
    }

    fn sync(&self) {
        for (pirq, offset) in PIRQ_ROUT.into_iter().enumerate() {
            self.pirq.set_rout(pirq, self.config.read(offset, 1) as u8);
        }
        let base = u64::from(self.config.read(PMBASE, 4) & 0xff80);
        let enabled = self.config.read(ACPI_CNTL, 4) & ACPI_ENABLE != 0 && base != 0;
        let wanted = enabled.then_some(base);
        let mut mapped = self.mapped.lock();
        if *mapped != wanted {
            self.ports.topology().transaction(|| {
                self.ports.remove(&self.pm);
                if let Some(base) = wanted {
                    self.ports.add(base, &self.pm);
                }
            });
            *mapped = wanted;
        }
    }
}

impl PciFunction for LpcBridge {
    fn config_read(&self, offset: usize, size: usize) -> u32 {
        self.config.read(offset, size)
    }

    fn config_write(&self, offset: usize, size: usize, value: u32) {
        self.config.write(offset, size, value);
        self.sync();
    }

    fn interrupt_pin(&self) -> u8 {
        0
    }

    fn attach(&self, attachment: Attachment) {
        self.config.attach(attachment);
        self.sync();
    }
}

impl Reset for LpcBridge {
    fn reset(&self, _: ResetKind) {
        self.config.reset();
        self.sync();
    }
}

rhea_device::saved_record! { "ich9-lpc", 1,
    /// Saved state of the LPC bridge.
    pub struct LpcSavedV1 {
        /// Configuration space.
        config: Vec<u8>,
    }
}

impl StateUnit for LpcBridge {
    fn save(&self) -> SavedRecord {
        save_record(&LpcSavedV1 { config: self.config.saved_bytes() })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let saved: LpcSavedV1 = load_record(record)?;
        self.config.restore_bytes("ich9-lpc", &saved.config)?;
        self.sync();
        Ok(())
    }
}

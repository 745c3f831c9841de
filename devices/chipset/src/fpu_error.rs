//! The external way of reporting x87 errors on a PC: FERR# raises IRQ 13, port F0h clears it and asserts IGNNE#.
//!
//! Source: Intel SDM vol. 1, section 8.7.2 (MS-DOS compatibility sub-mode) and appendix D; ICH9 data sheet, section 5.13.
//! IGNNE# is not carried back to the processor: with CR0.NE = 0 an unmasked x87 error stays pending until the
//! handler clears it.

use parking_lot::Mutex;
use rhea_device::{IrqLine, LoadError, Reset, ResetKind, SavedRecord, StateUnit, load_record, save_record};
use rhea_memory::{AccessSizes, MmioHandler};
use std::sync::Arc;

/// The flip-flop between FERR# and IRQ 13.
pub struct FpuError {
    irq13: IrqLine,
    latched: Mutex<bool>,
}

impl FpuError {
    /// A flip-flop that drives `irq13`.
    pub fn new(irq13: IrqLine) -> Arc<Self> {
        Arc::new(Self { irq13, latched: Mutex::new(false) })
    }

    fn set(&self, value: bool) {
        let mut latched = self.latched.lock();
        *latched = value;
        self.irq13.set(value);
    }

    /// A processor asserted FERR#.
    pub fn assert_ferr(&self) {
        self.set(true);
    }
}

impl MmioHandler for FpuError {
    fn read(&self, _: u64, _: usize) -> u64 {
        0xff
    }
    fn write(&self, _: u64, _: usize, _: u64) {
        self.set(false);
    }
    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::BYTE
    }
}

impl Reset for FpuError {
    fn reset(&self, _: ResetKind) {
        self.set(false);
    }
}

rhea_device::saved_record! { "fpu-error", 1,
    /// Saved state of the flip-flop.
    pub struct FpuErrorSavedV1 {
        /// IRQ 13 is asserted.
        latched: bool,
    }
}

impl StateUnit for FpuError {
    fn save(&self) -> SavedRecord {
        save_record(&FpuErrorSavedV1 { latched: *self.latched.lock() })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let saved: FpuErrorSavedV1 = load_record(record)?;
        self.set(saved.latched);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_f0_takes_the_interrupt_back() {
        let line = IrqLine::unconnected();
        let error = FpuError::new(line.clone());
        error.assert_ferr();
        assert!(line.level());
        error.write(0, 1, 0);
        assert!(!line.level());
    }
}

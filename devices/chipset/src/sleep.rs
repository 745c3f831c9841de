//! Power management of a board without fixed ACPI hardware: sleep control and status registers, and a power button
//! on an interrupt of its own.
//!
//! Source: ACPI specification 6.5, section 4.8.3.7 (sleep control and status registers). Only S5 is offered.

use parking_lot::Mutex;
use rhea_device::{
    IrqLine, LoadError, PowerControl, PowerRequest, Reset, ResetKind, SavedRecord, StateUnit, load_record,
    save_record,
};
use rhea_memory::{AccessSizes, MmioHandler};
use std::sync::Arc;

/// Sleep control: enter the state.
const SLP_EN: u8 = 1 << 5;
/// Sleep control: sleep type field.
const SLP_TYP: u8 = 7 << 2;
/// Sleep type of S5, for the DSDT.
pub const S5_SLEEP_TYPE: u8 = 5;

/// Sleep control (first port) and status (second port).
pub struct SleepControl {
    power: Arc<PowerControl>,
    button: IrqLine,
    control: Mutex<u8>,
}

impl SleepControl {
    /// Registers that report to `power`; the power button pulses `button`.
    pub fn new(power: Arc<PowerControl>, button: IrqLine) -> Arc<Self> {
        Arc::new(Self { power, button, control: Mutex::new(0) })
    }

    /// The power button was pressed.
    pub fn power_button(&self) {
        self.button.pulse();
    }
}

impl MmioHandler for SleepControl {
    fn read(&self, offset: u64, _: usize) -> u64 {
        // Status: never woken. SLP_EN reads 0.
        if offset == 0 { u64::from(*self.control.lock()) } else { 0 }
    }

    fn write(&self, offset: u64, _: usize, value: u64) {
        if offset != 0 {
            return;
        }
        let value = value as u8;
        *self.control.lock() = value & SLP_TYP;
        if value & SLP_EN != 0 && (value & SLP_TYP) >> 2 == S5_SLEEP_TYPE {
            self.power.request(PowerRequest::Shutdown);
        }
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::BYTE
    }
}

impl Reset for SleepControl {
    fn reset(&self, _: ResetKind) {
        *self.control.lock() = 0;
    }
}

rhea_device::saved_record! { "acpi-sleep", 1,
    /// Saved state of the sleep control register.
    pub struct SleepSavedV1 {
        /// Sleep control.
        control: u8,
    }
}

impl StateUnit for SleepControl {
    fn save(&self) -> SavedRecord {
        save_record(&SleepSavedV1 { control: *self.control.lock() })
    }

    fn load(&self, record: &SavedRecord) -> Result<(), LoadError> {
        let saved: SleepSavedV1 = load_record(record)?;
        *self.control.lock() = saved.control & SLP_TYP;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_s5_powers_off() {
        let power = Arc::new(PowerControl::new());
        let sleep = SleepControl::new(power.clone(), IrqLine::unconnected());
        sleep.write(0, 1, 0x20 | 3 << 2);
        assert_eq!(power.take(), None);
        sleep.write(0, 1, 0x20 | 5 << 2);
        assert_eq!(power.take(), Some(PowerRequest::Shutdown));
    }
}

//! The ways a program resets a PC: the reset control register CF9h, port 92h, and the keyboard controller's
//! command FEh.
//!
//! Source: ICH9 data sheet, sections 13.7.5 (RST_CNT) and 13.7.3 (PORT92); IBM PC/AT technical reference for the
//! keyboard controller. A20 masking is not modelled: address line 20 always works, and the bits that control it
//! are only kept.

use parking_lot::Mutex;
use rhea_device::{PowerControl, PowerRequest, Reset, ResetKind};
use rhea_memory::{AccessSizes, MmioHandler};
use std::sync::Arc;

/// Reset control register, port CF9h.
pub struct ResetControl {
    power: Arc<PowerControl>,
    value: Mutex<u8>,
}

impl ResetControl {
    /// A register that reports to `power`.
    pub fn new(power: Arc<PowerControl>) -> Arc<Self> {
        Arc::new(Self { power, value: Mutex::new(0) })
    }
}

impl MmioHandler for ResetControl {
    fn read(&self, _: u64, _: usize) -> u64 {
        u64::from(*self.value.lock())
    }

    fn write(&self, _: u64, _: usize, value: u64) {
        let mut current = self.value.lock();
        // RST_CPU going from 0 to 1 resets, hard or soft by SYS_RST: both reset the whole machine here.
        if value & 4 != 0 && *current & 4 == 0 {
            self.power.request(PowerRequest::Reset);
        }
        *current = value as u8 & 0x0e;
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::BYTE
    }
}

impl Reset for ResetControl {
    fn reset(&self, _: ResetKind) {
        *self.value.lock() = 0;
    }
}

/// Port 92h: fast reset and the A20 bit.
pub struct FastReset {
    power: Arc<PowerControl>,
    value: Mutex<u8>,
}

impl FastReset {
    /// A port that reports to `power`.
    pub fn new(power: Arc<PowerControl>) -> Arc<Self> {
        Arc::new(Self { power, value: Mutex::new(2) })
    }
}

impl MmioHandler for FastReset {
    fn read(&self, _: u64, _: usize) -> u64 {
        u64::from(*self.value.lock())
    }

    fn write(&self, _: u64, _: usize, value: u64) {
        let mut current = self.value.lock();
        if value & 1 != 0 && *current & 1 == 0 {
            self.power.request(PowerRequest::Reset);
        }
        *current = value as u8 & 3;
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::BYTE
    }
}

impl Reset for FastReset {
    fn reset(&self, _: ResetKind) {
        *self.value.lock() = 2;
    }
}

/// The keyboard controller's status and command port, 64h, as far as the reset line goes: there is no keyboard
/// behind it. Its status reads "nothing there, ready"; commands other than "pulse output port" do nothing.
pub struct KeyboardReset {
    power: Arc<PowerControl>,
}

impl KeyboardReset {
    /// A port that reports to `power`.
    pub fn new(power: Arc<PowerControl>) -> Arc<Self> {
        Arc::new(Self { power })
    }
}

impl MmioHandler for KeyboardReset {
    fn read(&self, _: u64, _: usize) -> u64 {
        0
    }

    fn write(&self, _: u64, _: usize, value: u64) {
        // F0h to FFh pulse the output port lines whose bits are 0; bit 0 is the reset line.
        if value & 0xf1 == 0xf0 {
            self.power.request(PowerRequest::Reset);
        }
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::BYTE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_resets() {
        let power = Arc::new(PowerControl::new());
        let cf9 = ResetControl::new(power.clone());
        cf9.write(0, 1, 2);
        assert_eq!(power.take(), None);
        cf9.write(0, 1, 6);
        assert_eq!(power.take(), Some(PowerRequest::Reset));
        FastReset::new(power.clone()).write(0, 1, 3);
        assert_eq!(power.take(), Some(PowerRequest::Reset));
        let keyboard = KeyboardReset::new(power.clone());
        keyboard.write(0, 1, 0xd1);
        assert_eq!(power.take(), None);
        keyboard.write(0, 1, 0xfe);
        assert_eq!(power.take(), Some(PowerRequest::Reset));
    }
}

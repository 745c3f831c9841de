//! SiFive's test finisher: a program ends the run with a result, or resets the machine.
//!
//! Source: SiFive test finisher as its Linux binding ("sifive,test0", "sifive,test1") and the syscon nodes of device trees
//! describe it: one 32-bit register, result in bits 15:0, exit status in bits 31:16.

use rhea_device::{PowerControl, PowerRequest};
use rhea_memory::{AccessSizes, MmioHandler};
use std::sync::Arc;

/// Result: failed, with an exit status.
pub const FINISHER_FAIL: u32 = 0x3333;
/// Result: passed; powers off.
pub const FINISHER_PASS: u32 = 0x5555;
/// Resets the machine.
pub const FINISHER_RESET: u32 = 0x7777;

/// The finisher. It has no state.
pub struct SifiveTest {
    power: Arc<PowerControl>,
}

impl SifiveTest {
    /// A finisher that reports to `power`.
    pub fn new(power: Arc<PowerControl>) -> Arc<Self> {
        Arc::new(Self { power })
    }
}

impl MmioHandler for SifiveTest {
    fn read(&self, _: u64, _: usize) -> u64 {
        0
    }

    fn write(&self, offset: u64, _: usize, value: u64) {
        let value = value as u32;
        let request = match value & 0xffff {
            FINISHER_FAIL => PowerRequest::DebugExit(value >> 16),
            FINISHER_PASS => PowerRequest::Shutdown,
            FINISHER_RESET => PowerRequest::Reset,
            _ => return,
        };
        if offset == 0 {
            self.power.request(request);
        }
    }

    fn access_sizes(&self) -> AccessSizes {
        AccessSizes { min: 2, max: 4 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_become_requests_and_other_values_nothing() {
        let power = Arc::new(PowerControl::new());
        let test = SifiveTest::new(power.clone());
        for (offset, value, request) in [
            (0, 0x002a_3333, Some(PowerRequest::DebugExit(42))),
            (0, 0x5555, Some(PowerRequest::Shutdown)),
            (0, 0x7777, Some(PowerRequest::Reset)),
            (0, 0x5554, None),
            (4, 0x5555, None),
        ] {
            test.write(offset, 4, value);
            assert_eq!(power.take(), request, "{value:#x} at {offset}");
        }
    }
}

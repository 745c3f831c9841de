//! Debug ports for bare-metal programs: leave with a status, print a character.

use rhea_chardev::{CharReceiver, Chardev};
use rhea_device::{PowerControl, PowerRequest};
use rhea_memory::{AccessSizes, MmioHandler};
use std::sync::Arc;

rhea_device::properties! {
    /// Properties of `isa-debug-exit`.
    pub struct DebugExitProperties ("isa-debug-exit", "ISA", "ends the emulator with a status the guest writes") {
        iobase: u64 = ("iobase", Unsigned(16), "first port", "0x501"),
        iosize: u64 = ("iosize", Unsigned(16), "number of ports", "0x2"),
    }
}

rhea_device::properties! {
    /// Properties of `isa-debugcon`.
    pub struct DebugConsoleProperties ("isa-debugcon", "ISA", "prints the characters the guest writes") {
        iobase: u64 = ("iobase", Unsigned(16), "port", "0xe9"),
        readback: u64 = ("readback", Unsigned(8), "value the port reads as", "0xe9"),
        chardev: String = ("chardev", Chardev, "id of the character device", ""),
    }
}

/// Ends the run with exit status `(value << 1) | 1` when written.
pub struct DebugExit {
    power: Arc<PowerControl>,
}

impl DebugExit {
    /// A port that reports to `power`.
    pub fn new(power: Arc<PowerControl>) -> Arc<Self> {
        Arc::new(Self { power })
    }
}

impl MmioHandler for DebugExit {
    fn read(&self, _: u64, _: usize) -> u64 {
        0
    }
    fn write(&self, _: u64, _: usize, value: u64) {
        self.power.request(PowerRequest::DebugExit((value as u32) << 1 | 1));
    }
    fn access_sizes(&self) -> AccessSizes {
        AccessSizes { min: 1, max: 4 }
    }
}

/// Sends each byte written to a character back end.
pub struct DebugConsole {
    backend: Arc<dyn Chardev>,
    readback: u8,
}

/// The console has no input: it takes what comes and drops it.
struct NoInput;

impl CharReceiver for NoInput {
    fn can_receive(&self) -> usize {
        0
    }
    fn receive(&self, _: &[u8]) {}
}

impl DebugConsole {
    /// A console on `backend`; reads give `readback`, by which a program finds that the port is there.
    pub fn new(backend: Arc<dyn Chardev>, readback: u8) -> Arc<Self> {
        backend.attach(Arc::new(NoInput));
        Arc::new(Self { backend, readback })
    }
}

impl MmioHandler for DebugConsole {
    fn read(&self, _: u64, _: usize) -> u64 {
        u64::from(self.readback)
    }
    fn write(&self, _: u64, _: usize, value: u64) {
        // The port has no "busy": what a stuck back end does not take is lost.
        let _ = self.backend.write(&[value as u8]);
    }
    fn access_sizes(&self) -> AccessSizes {
        AccessSizes::BYTE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_exit_gives_an_odd_status() {
        let power = Arc::new(PowerControl::new());
        DebugExit::new(power.clone()).write(0, 4, 0x10);
        assert_eq!(power.take(), Some(PowerRequest::DebugExit(0x21)));
    }

    #[test]
    fn properties_have_qemu_s_names_and_defaults() {
        let exit = DebugExitProperties::parse([]).unwrap();
        assert_eq!((exit.iobase, exit.iosize), (0x501, 2));
        assert!(DebugConsoleProperties::parse([]).is_err(), "chardev is needed");
    }
}

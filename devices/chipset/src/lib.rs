//! Small parts of chipsets. Of a PC: ACPI power management, the ways to reset, debug ports. Of a RISC-V board: the
//! test finisher and the host-target interface.

pub mod debug;
pub mod fpu_error;
pub mod htif;
pub mod pm;
pub mod reset_ports;
pub mod sifive_test;

pub use debug::{DebugConsole, DebugConsoleProperties, DebugExit, DebugExitProperties};
pub use fpu_error::FpuError;
pub use htif::Htif;
pub use pm::{PowerManagement, SmiSink};
pub use reset_ports::{FastReset, KeyboardReset, ResetControl};
pub use sifive_test::SifiveTest;

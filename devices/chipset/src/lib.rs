//! Small parts of a PC's chipset: ACPI power management, the ways to reset, debug ports.

pub mod debug;
pub mod fpu_error;
pub mod pm;
pub mod reset_ports;

pub use debug::{DebugConsole, DebugConsoleProperties, DebugExit, DebugExitProperties};
pub use fpu_error::FpuError;
pub use pm::{PowerManagement, SmiSink};
pub use reset_ports::{FastReset, KeyboardReset, ResetControl};

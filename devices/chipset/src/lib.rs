//! Small parts of a PC's chipset: ACPI power management, the ways to reset, debug ports.

pub mod debug;
pub mod pm;
pub mod reset_ports;
pub mod sleep;

pub use debug::{DebugConsole, DebugConsoleProperties, DebugExit, DebugExitProperties};
pub use pm::{PowerManagement, SmiSink};
pub use reset_ports::{FastReset, KeyboardReset, ResetControl};
pub use sleep::SleepControl;

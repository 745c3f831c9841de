//! What every device model is made of: interrupt lines, virtual time and timers, reset, power requests, saved
//! state, and properties.
//!
//! A device receives resolved handles (an [`IrqLine`], a [`Timer`], a back end), never numbers or globals.

mod clock;
mod line;
mod power;
mod property;
mod reset;
mod saved;

pub use clock::{ClockSource, Timer, VirtualClock};
pub use line::{IrqLine, IrqSink, MsiSink, SharedLine};
pub use power::{PowerControl, PowerRequest};
pub use property::parse_number;
pub use property::{DeviceDescription, PropertyError, PropertyKind, PropertySpec, PropertyValue};
pub use reset::{Reset, ResetKind};
pub use saved::{Decoder, Encoder, LoadError, SavedField, SavedRecord, SavedState, StateUnit};
pub use saved::{load_record, save_record};

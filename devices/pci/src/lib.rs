//! PCI: configuration space, functions, interrupts, the Q35 host with its LPC bridge, and a host for boards without
//! ports.
//!
//! Source: PCI Local Bus specification 3.0 (configuration space, MSI, MSI-X), PCI Express base specification
//! (extended configuration space), Intel 3 Series chipset data sheet (host bridge 8086:29C0), ICH9 data sheet
//! (LPC bridge 8086:2918).
//!
//! A function is anything with a [`PciFunction`]; most embed a [`FunctionConfig`], which keeps the configuration
//! space, maps the base address registers into the host's regions, and sends MSI, MSI-X or INTx.
//!
//! Lock order: a function's own lock, then its configuration, then the PIRQ router, then interrupt controllers.
//! Mapping changes take the memory topology's lock under the configuration's.

pub mod bus;
pub mod config;
pub mod ecam;
pub mod host;
pub mod lpc;
pub mod msi;
pub mod pirq;
pub mod spec;

pub use bus::{IntxRouter, PciAddress, PciBus, PciFunction, SlotError};
pub use config::{Attachment, Bar, BarKind, FunctionConfig, FunctionIdentity};
pub use ecam::{EcamBridge, SwizzledIntx, ecam};
pub use host::{HostBridge, Q35Host};
pub use lpc::LpcBridge;
pub use pirq::PirqRouter;

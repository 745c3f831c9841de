//! The PC boards: `q35` and `microvm`.
//!
//! [`build`] wires a machine from a [`PcConfig`]: memory, interrupt controllers, timers, serial ports, chipset, and
//! what is to be booted. It knows nothing of how the processors run: a [`PcCpu`] is what one of them needs
//! (its address spaces and its local APIC), and [`PcMachine::power`] is where the guest's requests come out.
//!
//! A kernel given directly is booted without firmware: a ROM of our own at the top of 4 GiB takes the bootstrap
//! processor from its architectural reset state to the kernel's entry (see `rhea_loader`).

mod apic_port;
mod board;
mod boot;
mod config;
mod firmware;
mod memory_map;
mod ports;
mod topology;
mod virtio;

pub use apic_port::ApicPort;
pub use board::{PcCpu, PcMachine, SavedUnit, build};
pub use config::{
    BuildError, DebugConsoleConfig, LoaderRequest, PcConfig, PcKind, VirtioConfig, VirtioPlace,
};
pub use rhea_chipset::{DebugConsoleProperties, DebugExitProperties};
pub use rhea_device::{PowerControl, PowerRequest, VirtualClock};
pub use rhea_timer::{RtcBase, RtcClock, RtcConfig};
pub use topology::{CpuTopology, TopologyError};

#[cfg(test)]
mod tests;

//! The board `virt` for RISC-V harts: the memory map, interrupt numbers and device tree that firmware and kernels for
//! QEMU's board of that name expect.
//!
//! [`build`] wires a machine from a [`VirtConfig`]: memory, interrupt controllers, timers, the serial port, the clock, and
//! what is to be booted. It knows nothing of how the harts run: a [`VirtHart`] is what one of them is connected to, and
//! [`VirtMachine::power`] is where the guest's requests come out. `README.md` tells how it is used.

mod board;
mod boot;
mod config;
mod device_tree;
mod empty_slot;
mod firmware_config;
mod hart;
mod memory_map;
mod pci;
mod reset_vector;
mod topology;

pub use board::{SavedUnit, VirtMachine, VirtioSlot, build};
pub use config::{BuildError, Firmware, FlashConfig, LoaderRequest, NumaConfig, NumaNode, VirtConfig};
pub use hart::VirtHart;
pub use memory_map::{DRAM, RESET_VECTOR, VIRTIO_SLOTS};
pub use rhea_device::{PowerControl, PowerRequest, VirtualClock};
pub use rhea_firmware_devices::{FlashStore, FwCfgItem};
pub use rhea_timer::{RtcBase, RtcClock, RtcConfig};
pub use topology::{HartTopology, TopologyError};

/// Frequency of mtime and of the harts' `time` in Hz.
pub const TIMEBASE: u64 = 10_000_000;

#[cfg(test)]
mod tests;

//! Virtio: devices, their queues, and the transports that a machine reaches them by.
//!
//! Source: Virtual I/O Device (VIRTIO) version 1.2, OASIS; section numbers in this crate are its.
//!
//! ```text
//!   VirtioMmio, VirtioPci          registers, interrupts
//!        │ Registers               status, features, queue setup
//!        ▼
//!   dyn VirtioDevice               VirtioBlk, …
//!        │ Queue                   chains out, chains back
//!        ▼
//!   guest memory
//! ```
//!
//! A device does its work on a thread of its own; a vCPU that notifies a queue only wakes it. Lock order: the transport,
//! then the device, then a queue; interrupts of a transport have a lock of their own, behind all of these.
//!
//! Only a reset makes a vCPU wait: section 2.4 wants the device to touch no memory of the guest any more when the reset has
//! been seen to be done, and an MMIO driver does not look again.

mod blk;
mod console;
mod device;
#[doc(hidden)]
pub mod fuzz;
mod mmio;
mod pci;
pub mod queue;
mod registers;
mod rng;
mod server;
pub mod spec;

pub use blk::{BlkConfig, VirtioBlk};
pub use console::VirtioConsole;
pub use device::{Activation, VirtioDevice};
pub use mmio::{MMIO_SIZE, MmioVersion, VirtioMmio};
pub use pci::VirtioPci;
pub use rng::VirtioRng;

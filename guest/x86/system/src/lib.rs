//! Privileged semantics of x86: paging, segmentation, interrupts, tasks, control registers, MSRs.
//!
//! Everything here is plain Rust over [`rhea_x86_state::X86State`] and a [`bus::SystemBus`]; no translator type
//! appears. Conventions:
//! - An instruction's function returns `Err(Exception)` with the state as it was before the instruction (RIP at
//!   the instruction), unless the architecture says otherwise; the caller then calls [`interrupt::raise`].
//! - On success RIP is the target for control transfers; other instructions leave RIP to the caller.
//! - Functions that can change what a translation depends on store the new mode word in `X86State::mode`.

pub mod bus;
pub mod control;
pub mod debug;
pub mod descriptor;
pub mod event;
pub mod exception;
pub mod far;
pub mod flag_instructions;
pub mod interrupt;
pub mod iret;
pub mod msr;
pub mod paging;
pub mod privileged;
pub mod segment;
pub mod smm;
pub mod stack;
pub mod syscall;
pub mod task;
mod vme;

pub use bus::{Privilege, SystemBus, TlbScope};
pub use exception::Exception;

#[cfg(test)]
mod test_bus;
#[cfg(test)]
mod tests;

//! Privileged semantics of x86: paging, segmentation, interrupts, tasks, control registers, MSRs.
//!
//! Everything here is plain Rust over [`rhea_x86_state::X86State`] and a [`bus::SystemBus`]; no translator type
//! appears. Conventions:
//! - An instruction's function returns `Err(Exception)` with the state as it was before the instruction (RIP at
//!   the instruction), unless the architecture says otherwise; the caller then calls `interrupt::raise`.
//! - Functions that can change what a translation depends on store the new mode word in `X86State::mode`.

pub mod bus;
pub mod exception;

pub use bus::{Privilege, SystemBus, TlbScope};
pub use exception::Exception;

//! Privileged semantics of RISC-V: CSRs, traps, interrupts, page walks, physical memory protection.
//!
//! Everything here is plain Rust over [`rhea_riscv_state::RiscvState`] and a [`bus::SystemBus`]; no translator type
//! appears. Conventions:
//! - An instruction's function returns `Err(Exception)` with the state as it was before the instruction (`pc` at the
//!   instruction); the caller then calls [`trap::raise`].
//! - On success `pc` is the target for control transfers (xRET); other instructions leave `pc` to the caller.
//! - What must be forgotten or armed because of an instruction is returned ([`Effects`], [`TlbScope`]), not done.
//! - Functions that can change what a translation depends on store the new mode word in `RiscvState::mode`.
//!
//! What stands: machine, supervisor and user mode with every CSR of the privileged specification that these modes
//! have ([`csr`]), the hypervisor extension with its virtual modes, Smstateen, Sstc, Sscofpmf, Zkr, the advanced interrupt
//! architecture's registers, counters ([`counters`]), PMP with Smepmp ([`pmp`]), Sv32 to Sv57 and the second stages Sv32x4 to Sv57x4
//! with Svnapot, Svpbmt and Svadu ([`paging`]), traps and their returns ([`trap`]), interrupts ([`interrupt`]), fences, WFI
//! and the permission checks of cache-block instructions ([`privileged`]).
//!
//! What does not: there are no guest external interrupts (GEILEN is 0), no debug triggers. SXL, VSXL and UXL
//! are fixed to MXL, misa cannot be written, memory is little-endian, and memory types of Svpbmt have no effect, since
//! all memory here is coherent. Programmable counters count cycles or instructions only.

pub mod bus;
pub mod counters;
pub mod csr;
mod csr_aia;
mod csr_hypervisor;
mod csr_machine;
mod csr_table;
mod csr_user;
pub mod exception;
pub mod interrupt;
pub mod paging;
pub mod pmp;
pub mod privileged;
pub mod trap;

pub use bus::{SystemBus, TlbScope};
pub use csr::Effects;
pub use exception::Exception;

#[cfg(test)]
mod test_bus;
#[cfg(test)]
mod tests;

//! What every vector instruction does, on a [`RiscvState`], element by element: V 1.0, Zvbb, Zvkb, Zvbc, Zvkg, Zvkned,
//! Zvknha, Zvknhb, Zvksed, Zvksh, Zvfh and Zvfhmin.
//!
//! This is the meaning that translations are measured by, and what they fall back on. It knows vl, vstart, masks and
//! every SEW and LMUL; elements that a policy lets be anything (tail- and mask-agnostic) keep their values.
//!
//! - [`set_vl`] is vsetvli and its kin.
//! - [`execute`] is everything between registers. [`is_legal`] says whether vtype allows an instruction at all.
//! - [`memory`] has loads and stores, over a [`memory::Memory`] that may fault at each element.
//!
//! Whether mstatus.VS allows vector instructions, and which extensions a word belongs to, is the caller's business; so
//! is making VS and FS dirty. Floating-point flags are added to `fflags`.
//!
//! Any state is handled: a vl, vstart or register number out of range leads to an error or to no effect.

mod aes;
mod convert;
mod elements;
mod estimate;
mod execute;
mod fixed;
mod float;
mod hash;
mod integer;
pub mod legality;
mod mask;
pub mod memory;
mod operation;
mod permute;
pub mod shangmi;
#[cfg(test)]
mod tests;
mod vtype;

pub use execute::{Illegal, execute, execute_legal};
pub use legality::is_legal;
pub use operation::{Group, Numbers, Op, Operation, Shape};
pub use rhea_riscv_state::RiscvState;
pub use vtype::{Avl, Vtype, set_vl};

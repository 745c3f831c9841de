//! The RISC-V guest's instructions: decoding, disassembly,  translation to the engine's IR.
//!
//! `tables/` has one file for each part of the instruction set, in the syntax that `rhea-decoder` teaches; at build time
//! they become [`Instruction`], [`decode16`], [`decode32`] and [`Translate`].
//!
//! ```
//! use rhea_riscv_translate::{Features, Xlen, decode16, decode32};
//!
//! let features = Features::everything(Xlen::Rv64);
//! let text = |i: Option<rhea_riscv_translate::Instruction>| i.map(|i| i.display(0x1000, 64).to_string());
//! assert_eq!(text(decode32(0xfe52_9ee3, &features)).as_deref(), Some("bne t0,t0,0xffc"));
//! assert_eq!(text(decode16(0x8082, &features)).as_deref(), Some("c.jr ra"));
//! let ret = decode16(0x8082, &features).map(|i| i.expanded());
//! assert_eq!(text(ret).as_deref(), Some("jalr zero,0(ra)"));
//! ```

mod ciphers;
pub mod cpu;
mod csr;
mod features;
mod float;
mod generated;
pub mod guest;
mod helpers;
mod instructions;
mod operands;
mod processor;
mod reasons;
mod runtime;
mod slots;
mod transformed;
mod translator;
mod unit;
pub mod vector;

pub use cpu::{RiscvCpu, RiscvCpuConfig};
pub use generated::*;
pub use guest::RiscvGuest;
pub use processor::Xlen;

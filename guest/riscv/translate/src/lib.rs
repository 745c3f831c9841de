//! The RISC-V guest's instructions: decoding and disassembly, for RV32 and RV64. There is no translation yet.
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

mod csr;
mod generated;
mod operands;
mod processor;
pub mod vector;

pub use generated::*;
pub use processor::Xlen;

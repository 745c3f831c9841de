//! Running translated code: the soft TLB, the code cache, chaining, and the dispatcher of one vCPU.
//!
//! The engine is guest-neutral. A guest architecture implements [`Guest`]; the engine turns its IR into host code (or
//! interprets it), keeps it until the guest modifies the code it came from, and runs vCPUs.
//!
//! - [`frame`]: the memory block translated code works on.
//! - [`env`]: what a vCPU sees outside itself: soft TLB, physical memory, I/O, floating-point environment.
//! - [`context`]: one vCPU as helpers and the guest see it; full memory accesses.
//! - [`code`]: the shared cache of units: lookup, chaining, invalidation, eviction.
//! - [`dispatch`]: the loop.
//! - `lockstep`: compiled units against the interpreter, while they run.
//! - [`icount`]: virtual time by counting instructions.
//!
//! # Why a unit that is found may run
//! A unit is keyed by (host page of its code, PC, mode word). It is found either under the code lock by that key, or
//! through the vCPU's jump cache or return stack, whose keys change with the mode word and whose entries are dropped by
//! every TLB flush that covers their page, or through a direct jump from a unit of the same page and mode. So the
//! mapping of its page was valid at the last TLB flush, as the architecture demands of instruction fetches. Stores to
//! its bytes take the slow path (its page has no entry in any write table) and remove it.

pub mod code;
pub mod context;
pub mod dispatch;
mod elements;
pub mod env;
pub mod float;
pub mod frame;
pub mod guest;
mod host_access;
pub mod icount;
mod interpret;
mod lockstep;
mod pages;
pub mod stats;
mod tlb;
pub mod trace;
pub mod vcpu;
mod world;

pub use code::{Engine, EngineConfig, EngineError, Tier};
pub use context::VcpuContext;
pub use dispatch::Stop;
pub use env::{Env, Miss};
pub use float::FloatEnv;
pub use guest::{Access, Guest, GuestLayout, Helper, HelperFn, Leave, Next, Translation};
pub use icount::InstructionCounter;
pub use stats::Stats;
pub use vcpu::{VcpuHandle, request};

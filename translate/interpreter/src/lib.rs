//! Tier 0: executes units of the IR one operation at a time, in portable Rust.
//!
//! The interpreter is the oracle: front ends and back ends are tested against it, so it favours the evident over the
//! fast. What an operation means is said in [`rhea_ir::op`]; each group has a module here that follows it. Floating
//! point goes through [`rhea_softfloat`], never through the host's.
//!
//! # Shape
//! [`Interpreter::run`] walks a unit from its first operation to the exit it takes, keeping a value for each
//! operation. Everything outside the unit is behind the [`Machine`] trait: guest state as bytes, memory, helpers, the
//! floating-point environments. The interpreter neither chains units nor counts instructions.
//!
//! # Invariants
//! - Only units that [`rhea_ir::verify`] accepts are run; others may panic.
//! - A value has no bit set above its type's width ([`Value`]), so operations may use whole words.
//! - State is touched only in program order: at a fault or a call every earlier put is visible and no later one.

mod crypto;
mod float;
mod integer;
mod lanes;
mod run;
mod shuffle;
mod value;
mod x87;

use rhea_ir::MemFlags;
use rhea_softfloat::{Env, Flags};

pub use run::Interpreter;
pub use value::Value;

/// Which of the two floating-point environments an operation runs under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FloatUnit {
    /// That of vectors and scalars.
    Vector,
    /// That of the x87 extended format.
    X87,
}

/// What a unit runs on: one vCPU with its memory and helpers.
pub trait Machine {
    /// Why execution left a unit other than by an exit.
    type Stop;

    /// The guest state that slots are offsets into, little-endian.
    fn state(&mut self) -> &mut [u8];

    /// Stores the PC of the instruction at hand in the PC slot. Called before a memory access and before a helper that
    /// may look at the PC or leave the unit.
    fn set_pc(&mut self, pc: u64);

    /// Reads `buffer.len()` (1 to 32) bytes of guest memory at `address`, lowest address first. `flags` gives the MMU
    /// index and asks for alignment and write checks; byte order is the interpreter's business.
    fn load(&mut self, address: u64, flags: MemFlags, buffer: &mut [u8]) -> Result<(), Self::Stop>;

    /// Writes `bytes` to guest memory at `address`.
    fn store(&mut self, address: u64, flags: MemFlags, bytes: &[u8]) -> Result<(), Self::Stop>;

    /// Atomically replaces the integer of `size` (1, 2, 4 or 8) bytes at `address`, read little-endian, by what
    /// `update` makes of it, or leaves it if `update` gives `None`; returns the old value. The access is checked as a
    /// store in either case. `update` may be called more than once.
    fn atomic_update(
        &mut self,
        address: u64,
        size: u32,
        flags: MemFlags,
        update: &mut dyn FnMut(u64) -> Option<u64>,
    ) -> Result<u64, Self::Stop>;

    /// A full memory fence.
    fn fence(&mut self);

    /// Calls helper `id`. Arguments are zero-extended; bits of the result above its type are ignored. A request of the
    /// helper to leave the unit comes back as `Err`.
    fn call(&mut self, id: u32, arguments: [u64; 4]) -> Result<u64, Self::Stop>;

    /// The floating-point environment as it is now. Its flags are ignored.
    fn float_environment(&mut self, unit: FloatUnit) -> Env;

    /// Adds sticky floating-point flags.
    fn raise(&mut self, unit: FloatUnit, flags: Flags);
}

/// How a run of a unit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<S> {
    /// Through one of the unit's exits. The PC slot has not been set for it.
    Exit {
        /// Index in [`Unit::exits`](rhea_ir::Unit::exits).
        number: u32,
        /// Where execution continues, for exits that say so.
        pc: Option<u64>,
    },
    /// By a fault of a memory access or at a helper's request, in the instruction at `pc`.
    Stop {
        /// PC of the instruction, also in the PC slot.
        pc: u64,
        /// The machine's reason.
        stop: S,
    },
}

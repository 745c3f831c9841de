//! The intermediate representation between guests and hosts: typed, linear, SSA within a unit.
//!
//! A front end builds a [`Unit`] from guest instructions with a [`Builder`]; the interpreter executes it, a back end
//! compiles it. What each operation means is in [`op`]; how units hang together in [`unit`]. Nothing here knows a
//! guest or a host.
//!
//! [`text`] prints units and [`parser`] reads them back; [`verify`] checks them.

pub mod builder;
pub mod op;
pub mod parser;
pub mod text;
pub mod types;
pub mod unit;
pub mod verify;

pub use builder::{Builder, Slot};
pub use op::{Convert, Op, Shape};
pub use types::{Cond, FloatCond, Lane, MemFlags, Rmw, Rounding, Type};
pub use unit::{Exit, HelperInfo, Inst, SlotAccess, Target, Unit, Val};
pub use verify::{VerifyError, verify};

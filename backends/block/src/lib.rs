//! The block layer.
//!
//! A disk is a graph of nodes: at the bottom protocol nodes (a file, a device, a server), above them format nodes (qcow2
//! in a file), and filters anywhere between. Each [`Driver`] opens one kind of node and returns a [`Node`]; the block
//! layer wraps it in a [`BlockNode`], which checks and shapes requests, tracks those that must not overlap, records
//! dirty bitmaps, and knows the parents and what they need ([`Permissions`]).
//!
//! ```text
//!   tool, export, job, guest device
//!        │ Edge (needed and shared permissions)
//!        ▼
//!   BlockNode qcow2 ──backing──▶ BlockNode raw ──file──▶ BlockNode file
//!        │ file
//!        ▼
//!   BlockNode file
//! ```
//!
//! Requests are futures and may be polled on any thread; nodes have locks of their own. [`Registry`] turns file names and
//! options into nodes.

mod bitmap;
mod drain;
mod driver;
mod error;
mod file;
mod graph;
mod memory;
mod node;
mod null;
mod open;
mod options;
mod permission;
mod progress;
mod raw;
mod request;
mod secret;
mod throttle;
mod tracked;
mod user;

pub use bitmap::DirtyBitmap;
pub use drain::Drained;
pub use driver::{
    CreateContext, CreateOption, CreateOptionType, Driver, DriverKind, Measure, OpenContext, PROBE_LENGTH,
    Registry, option_text,
};
pub use error::{BlockError, Result, ResultExt, errno_text};
pub use file::{FileDriver, HostDeviceDriver};
pub use graph::{BackingSlot, BlockNode, Edge, NodeParts, Role};
pub use memory::MemoryNode;
pub use node::{
    BackingFile, BitmapInfo, BlockStatus, CheckResult, FormatInfo, Limits, Node, PersistentBitmaps,
    Preallocation, Repair, SnapshotInfo, Snapshots, StatusFlags, Truncate, WriteFlags, refuse_changes,
};
pub use null::NullDriver;
pub use open::full_backing_filename;
pub use options::OpenFlags;
pub use permission::{Permissions, for_child};
pub use progress::Progress;
pub use raw::RawDriver;
pub use request::{MAX_LENGTH, read_behind};
pub use secret::{Objects, Secrets};
pub use throttle::{Limit, ThrottleGroup, ThrottleLimits};
pub use user::{TemporaryFile, warn_of_guess};

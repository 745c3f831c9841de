//! Guest physical memory: RAM, the tree of regions that places it and devices in an address space, and the
//! flat view that accesses are dispatched through.
//!
//! - [`RamBlock`] is host memory that backs guest RAM or ROM, with one flag byte per 4 KiB page.
//! - [`Region`]s form a graph of containers, RAM, ROM, ROM devices, MMIO and aliases that overlap by priority.
//! - [`AddressSpace`] is one master's sight of a root region. It holds an immutable [`FlatView`] that is
//!   replaced as a whole when the graph changes; a lookup takes no lock.
//!
//! The same types serve memory and x86 port I/O (a 64 KiB space). Each vCPU has its own address space: the
//! shared system container with that vCPU's local APIC page laid over it.
//!
//! Invariants
//! - A flat view's ranges are sorted, do not overlap and are not empty.
//! - A RAM range lies wholly inside its block: it is clipped when the view is built, so that an access that
//!   fits the range fits the block.
//! - [`AddressSpace::generation`] grows before change listeners run and after the new view can be seen.

mod block;
mod bus;
mod dma;
mod region;
mod space;
mod view;

pub use block::{PAGE_HAS_CODE, PAGE_SIZE, RamBlock};
pub use bus::{AccessSizes, MmioHandler};
pub use dma::{DmaAccess, DmaBuffer};
pub use region::{Region, Topology};
pub use space::{AccessError, AddressSpace, WriteObserver};
pub use view::{FlatRange, FlatView, MmioTarget, Target};

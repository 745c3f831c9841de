//! The smaller image formats: vdi, vpc, qed, parallels, qcow (version 1), and read-only bochs, cloop and dmg.
//!
//! The formats that map clusters and can be written share an engine:
//!
//! * [`clusters`]: requests by the map, storage for new clusters, the order in which it all reaches the disk;
//! * [`tables`]: the bounded cache of the map, written back in order;
//! * [`image`]: the node that a format with a map becomes.

mod bochs;
mod cloop;
mod clusters;
mod dmg;
mod end;
mod fields;
pub mod fuzz;
mod image;
mod inflate;
mod parallels;
mod qcow;
mod qed;
mod ranges;
mod read_only;
mod scan;
mod tables;
mod used;
mod uuid;
mod vdi;
mod vpc;

pub use bochs::Bochs;
pub use cloop::Cloop;
pub use dmg::Dmg;
pub use parallels::Parallels;
pub use qcow::Qcow;
pub use qed::Qed;
pub use vdi::Vdi;
pub use vpc::Vpc;

/// Adds the drivers of all formats to a registry.
pub fn register(registry: &mut rhea_block::Registry) {
    registry.add(Bochs);
    registry.add(Cloop);
    registry.add(Dmg);
    registry.add(Parallels);
    registry.add(Qcow);
    registry.add(Qed);
    registry.add(Vdi);
    registry.add(Vpc);
}

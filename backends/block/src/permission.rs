//! Who may do what with a node while others use it.
//!
//! Each edge of the graph says what its parent needs of the child, and what it lets other parents do meanwhile. A new
//! edge whose needs conflict with what the others allow is refused. At the bottom, file nodes turn the same two sets into
//! byte locks, so that other processes are kept out as well.

use bitflags::bitflags;

use crate::graph::Role;

bitflags! {
    /// What a parent does with a node. The bit numbers are those of the byte locks in image files.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
    pub struct Permissions: u32 {
        /// Reads, and expects a consistent disk.
        const CONSISTENT_READ = 1 << 0;
        /// Writes.
        const WRITE = 1 << 1;
        /// Writes what is there already (copy-on-read).
        const WRITE_UNCHANGED = 1 << 2;
        /// Changes the length.
        const RESIZE = 1 << 3;
    }
}

impl Permissions {
    /// The names in messages.
    pub fn names(self) -> String {
        let names = [
            (Self::CONSISTENT_READ, "consistent read"),
            (Self::WRITE, "write"),
            (Self::WRITE_UNCHANGED, "write unchanged"),
            (Self::RESIZE, "resize"),
        ];
        let of: Vec<&str> = names.iter().filter(|(p, _)| self.contains(*p)).map(|(_, n)| *n).collect();
        of.join(", ")
    }
}

/// What a node needs of a child in a role, and lets others do with it, given the same of its own parents.
pub fn for_child(role: Role, needed: Permissions, shared: Permissions) -> (Permissions, Permissions) {
    match role {
        // What is seen through a filter is what the filter's parents see.
        Role::Filtered => (needed, shared | Permissions::WRITE_UNCHANGED),
        // An overlay cannot cope with its backing file changing below it.
        Role::Backing => {
            let reads = needed & Permissions::CONSISTENT_READ;
            let may_change = shared & (Permissions::WRITE | Permissions::RESIZE);
            (reads, Permissions::CONSISTENT_READ | Permissions::WRITE_UNCHANGED | may_change)
        }
        Role::File | Role::Data | Role::Metadata => {
            let mut file = needed;
            // Writing to the disk may change any byte of the file, and its length.
            if needed.intersects(Permissions::WRITE | Permissions::WRITE_UNCHANGED) {
                file |= Permissions::WRITE | Permissions::RESIZE;
            }
            if role != Role::Data && !needed.is_empty() {
                file |= Permissions::CONSISTENT_READ;
            }
            // Others must not change metadata that the node has read.
            let shared = (shared | Permissions::WRITE_UNCHANGED) - (Permissions::WRITE | Permissions::RESIZE);
            (file, shared)
        }
    }
}

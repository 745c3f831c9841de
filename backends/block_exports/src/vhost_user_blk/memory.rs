//! A machine's memory as memory of block requests.

use std::ptr::NonNull;
use std::sync::Arc;

use rhea_async_io::{IoVector, MemoryOwner};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// The mappings of a machine's memory, kept for as long as a request uses them.
pub(super) struct MappedMemory(pub(super) Arc<GuestMemoryMmap>);

// SAFETY: segments are only made (below) of ranges that the mappings cover, and the mappings stay until the last share of
// them is gone. The machine may change the bytes at any time, which is why they are `foreign`: never borrowed, only copied
// or handed to the kernel.
unsafe impl MemoryOwner for MappedMemory {}

impl MappedMemory {
    /// A range of the machine's memory; `None` if some of it is not there.
    pub(super) fn range(self: &Arc<Self>, address: GuestAddress, length: usize) -> Option<IoVector> {
        let mut vector = IoVector::default();
        for slice in self.0.get_slices(address, length) {
            let slice = slice.ok()?;
            let guard = slice.ptr_guard_mut();
            let start = NonNull::new(guard.as_ptr())?;
            let owner: Arc<dyn MemoryOwner> = self.clone();
            // SAFETY: the slice lies in the mappings, which `owner` keeps; nobody makes references to this memory.
            vector.append(unsafe { IoVector::foreign(owner, start, slice.len()) });
        }
        (vector.len() == length).then_some(vector)
    }
}

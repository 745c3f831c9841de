//! A virtqueue, seen from the device.
//!
//! The rings lie in guest memory and are not trusted: an index, a flag or a length that no driver may write makes the
//! queue *broken*. It then gives no more chains, and the device says that it needs a reset.
//!
//! Bounds, whatever the guest writes: a chain has at most [`MAX_CHAIN`] descriptors, which are read once; its buffers come
//! to at most 4 GiB; and at most as many chains are out as the queue has descriptors.
//!
//! Why not rust-vmm's `virtio-queue`: it wants guest memory by the traits of `vm-memory`, whose slices would have to be
//! made of our RAM by unsafe code, and it has no packed rings. What it would save is less than that glue.

mod chain;
mod packed;
mod split;
#[cfg(test)]
pub(crate) mod tests;

pub use chain::{Chain, ChainId, Range};

use crate::spec::feature;
use packed::PackedRing;
use parking_lot::Mutex;
use rhea_memory::{AccessError, AddressSpace};
use split::SplitRing;
use std::sync::Arc;

/// Descriptors of a chain at most.
pub const MAX_CHAIN: usize = 1024;
/// Bytes of a chain's buffers at most (section 2.7.4).
const MAX_CHAIN_BYTES: u64 = 1 << 32;

/// What a driver did wrong with a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// Rings or tables that are not in RAM.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The driver's index is further ahead than the queue is long.
    #[error("the available index is {0} ahead")]
    Index(u16),
    /// A descriptor's number beyond the table.
    #[error("there is no descriptor {0}")]
    Descriptor(u16),
    /// A chain that is longer than any queue, or loops.
    #[error("a chain has no end")]
    Endless,
    /// A table of descriptors where none may be, or of a wrong size.
    #[error("a table of descriptors where none may be")]
    Indirect,
    /// Something to read behind something to write.
    #[error("a readable buffer behind a writable one")]
    Order,
    /// Buffers of more than 4 GiB in all.
    #[error("buffers of more than 4 GiB")]
    TooLong,
    /// More chains than the queue has descriptors.
    #[error("more chains than descriptors")]
    TooMany,
}

/// Where a queue lies and how long it is, as the driver configured it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingAddresses {
    /// Descriptor table (split) or descriptor ring (packed).
    pub descriptors: u64,
    /// Driver area: the available ring (split) or driver event suppression (packed).
    pub driver: u64,
    /// Device area: the used ring (split) or device event suppression (packed).
    pub device: u64,
}

/// How far a queue has come: what saved state keeps of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Split: the next available index. Packed: the next descriptor, with the wrap counter in bit 15.
    pub available: u16,
    /// Split: the next used index. Packed: as above.
    pub used: u16,
}

/// Takes what queues have to tell.
pub trait QueueEvents: Send + Sync {
    /// The driver wants to know that queue `index` has used buffers.
    fn used(&self, index: u16);
    /// A queue is broken: the device needs a reset.
    fn broken(&self, index: u16, error: QueueError);
}

enum Ring {
    Split(SplitRing),
    Packed(PackedRing),
}

struct State {
    ring: Ring,
    /// Chains that the device has.
    taken: u16,
    broken: bool,
}

/// A queue that is in use. Shared by who takes chains and who gives them back.
pub struct Queue {
    index: u16,
    size: u16,
    memory: Arc<AddressSpace>,
    events: Arc<dyn QueueEvents>,
    state: Mutex<State>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Queue({} of {})", self.index, self.size)
    }
}

/// What a queue is made of.
pub struct QueueConfig {
    /// Its number in the device.
    pub index: u16,
    /// Descriptors: 1 to 32768; of a split ring a power of two.
    pub size: u16,
    /// Where it lies.
    pub addresses: RingAddresses,
    /// Features that the driver accepted.
    pub features: u64,
    /// How far it has come; `None` for a new one.
    pub progress: Option<Progress>,
}

impl Queue {
    /// A queue in `memory`.
    pub fn new(config: &QueueConfig, memory: Arc<AddressSpace>, events: Arc<dyn QueueEvents>) -> Arc<Self> {
        let ring = if config.features & feature::RING_PACKED != 0 {
            Ring::Packed(PackedRing::new(config))
        } else {
            Ring::Split(SplitRing::new(config))
        };
        let state = Mutex::new(State { ring, taken: 0, broken: false });
        Arc::new(Self { index: config.index, size: config.size, memory, events, state })
    }

    /// Its number in the device.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// The memory that its buffers lie in.
    pub fn memory(&self) -> &Arc<AddressSpace> {
        &self.memory
    }

    /// Takes the next chain; `None` if there is none, or the queue is broken.
    pub fn take(&self) -> Option<Chain> {
        let mut state = self.state.lock();
        if state.broken {
            return None;
        }
        let taken = match &mut state.ring {
            Ring::Split(ring) => ring.take(&self.memory),
            Ring::Packed(ring) => ring.take(&self.memory),
        };
        match taken {
            Ok(Some(_)) if state.taken >= self.size => self.break_down(state, QueueError::TooMany),
            Ok(Some(chain)) => {
                state.taken += 1;
                return Some(chain);
            }
            Ok(None) => {}
            Err(error) => self.break_down(state, error),
        }
        None
    }

    /// Gives a chain back, with `written` bytes in its writable buffers, and tells the driver if it wants to know.
    pub fn give_back(&self, chain: ChainId, written: u32) {
        let mut state = self.state.lock();
        state.taken = state.taken.saturating_sub(1);
        if state.broken {
            return;
        }
        let told = match &mut state.ring {
            Ring::Split(ring) => ring.give_back(&self.memory, chain, written),
            Ring::Packed(ring) => ring.give_back(&self.memory, chain, written),
        };
        match told {
            Ok(true) => {
                drop(state);
                self.events.used(self.index);
            }
            Ok(false) => {}
            Err(error) => self.break_down(state, error),
        }
    }

    /// Asks the driver not to notify, for as long as the queue is looked at anyway.
    pub fn disable_notifications(&self) {
        let mut state = self.state.lock();
        if state.broken {
            return;
        }
        let result = match &mut state.ring {
            Ring::Split(ring) => ring.disable_notifications(&self.memory),
            Ring::Packed(ring) => ring.disable_notifications(&self.memory),
        };
        if let Err(error) = result {
            self.break_down(state, error);
        }
    }

    /// Asks the driver to notify again. True if there is a chain already, for which no notification will come.
    pub fn enable_notifications(&self) -> bool {
        let mut state = self.state.lock();
        if state.broken {
            return false;
        }
        let result = match &mut state.ring {
            Ring::Split(ring) => ring.enable_notifications(&self.memory),
            Ring::Packed(ring) => ring.enable_notifications(&self.memory),
        };
        match result {
            Ok(more) => more,
            Err(error) => {
                self.break_down(state, error);
                false
            }
        }
    }

    /// How far it has come. Chains that are out are not counted as used.
    pub fn progress(&self) -> Progress {
        match &self.state.lock().ring {
            Ring::Split(ring) => ring.progress(),
            Ring::Packed(ring) => ring.progress(),
        }
    }

    fn break_down(&self, mut state: parking_lot::MutexGuard<'_, State>, error: QueueError) {
        state.broken = true;
        drop(state);
        self.events.broken(self.index, error);
    }
}

//! What a virtio device is, to its transport.

use crate::queue::Queue;
use rhea_device::{LoadError, SavedRecord};
use std::sync::Arc;

/// A device that the driver has made live.
pub struct Activation {
    /// Features that the driver accepted.
    pub features: u64,
    /// The queues that the driver set up, each where its number says; `None` for those it did not.
    pub queues: Vec<Option<Arc<Queue>>>,
    /// Tells the driver that the configuration space has changed.
    pub config_changed: Arc<dyn Fn() + Send + Sync>,
}

/// A virtio device: configuration and queues. It knows nothing of the transport it is reached through.
///
/// The transport calls with its own lock held, so a device does not call the transport from within these functions;
/// queues may be used (their events go past that lock).
pub trait VirtioDevice: Send + Sync {
    /// Device ID (section 5).
    fn device_id(&self) -> u32;

    /// PCI class code: base class, subclass, programming interface.
    fn pci_class(&self) -> [u8; 3];

    /// Features of the device, without those of queues and transports.
    fn features(&self) -> u64;

    /// The most descriptors each of its queues may have.
    fn queue_sizes(&self) -> &[u16];

    /// Reads the configuration space. Beyond its end, zeroes.
    fn read_config(&self, offset: u64, out: &mut [u8]);

    /// Writes the configuration space. What cannot be written keeps its value.
    fn write_config(&self, offset: u64, data: &[u8]);

    /// The driver is done setting up.
    fn activate(&self, activation: Activation);

    /// The driver has put something into queue `index`. May come for a queue that is not in use.
    fn notify(&self, index: u16);

    /// Lets go of the queues and returns to the state before `activate`. When it returns, the device touches the
    /// guest's memory no more.
    fn reset(&self);

    /// Takes no further chains, and waits until none is out.
    fn pause(&self);

    /// Ends a pause.
    fn resume(&self);

    /// State that queues and transport do not have; the device is paused.
    fn save(&self) -> Option<SavedRecord> {
        None
    }

    /// Takes on what [`VirtioDevice::save`] gave; it comes before `activate`.
    ///
    /// # Errors
    /// The record is not one of this device's.
    fn load(&self, record: Option<&SavedRecord>) -> Result<(), LoadError> {
        match record {
            None => Ok(()),
            Some(record) => {
                let (expected, found) = ("a virtio device without state".into(), record.name.clone());
                Err(LoadError::WrongDevice { expected, found })
            }
        }
    }
}

/// Reads a configuration space that is held as bytes.
pub(crate) fn read_bytes(config: &[u8], offset: u64, out: &mut [u8]) {
    for (at, byte) in (offset..).zip(out) {
        *byte = usize::try_from(at).ok().and_then(|at| config.get(at)).copied().unwrap_or(0);
    }
}
